"""The command line end to end on a small graph, and its answers to bad input."""

import json
import shutil
import signal
import subprocess
import sys
import tomllib

import pytest
import torch

from geoembed import config as settings
from geoembed.cli import main
from geoembed.config import TrainConfig
from geoembed.runs import Run

FAST = ["--dim", "4", "--epochs", "4", "--batch-size", "32", "--negatives", "8", "--validate-every", "2"]


def write_tree(path, n=80):
    lines = [f"node{i:03}\tparent\tnode{(i - 1) // 3:03}" for i in range(1, n)]
    lines += [f"node{i:03}\tnext\tnode{i + 1:03}" for i in range(1, n - 1)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def run_folder(tmp_path_factory):
    """A finished run with baseline and picture."""
    folder = tmp_path_factory.mktemp("cli")
    data = write_tree(folder / "tree.tsv")
    assert main(["train", str(data), "-o", str(folder / "run"), *FAST]) == 0
    return folder / "run"


def fails(capsys, *argv: str) -> str:
    """The message of a command that must end with exit status 1."""
    assert main(list(argv)) == 1
    message = capsys.readouterr().err
    assert "geoembed: error: " in message
    assert "Traceback" not in message
    return message


def test_train_leaves_a_whole_run(run_folder):
    names = {path.name for path in run_folder.iterdir()}
    assert names >= {
        "run.json", "config.toml", "entities.tsv", "relations.tsv", "model.safetensors", "embedding.tsv",
        "metrics.jsonl", "results.json", "disk.png", "checkpoints", "baseline",
    }  # fmt: skip
    config = TrainConfig.load(run_folder / "config.toml")
    assert (config.dim, config.epochs, config.negatives) == (4, 4, 8)
    records = [json.loads(line) for line in (run_folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == [1, 2, 3, 4]
    assert "score" in records[1]
    assert (run_folder / "disk.png").read_bytes().startswith(b"\x89PNG")
    results = json.loads((run_folder / "results.json").read_text())
    assert results["protocol"].endswith("query entity kept")
    assert set(results["sides"]) == {"tail", "head", "both"}
    rows = [line.split("\t") for line in (run_folder / "embedding.tsv").read_text().splitlines()]
    points = torch.tensor([[float(x) for x in row[1:]] for row in rows])
    assert [row[0] for row in rows] == Run.open(run_folder).entities
    assert (points.norm(dim=-1) < 1).all()


def test_report_has_both_models(tmp_path, capsys):
    data = write_tree(tmp_path / "tree.tsv")
    assert main(["train", str(data), "-o", str(tmp_path / "run"), *FAST, "--no-picture"]) == 0
    out = capsys.readouterr().out
    assert "80 entities, 2 relations" in out
    table = [line for line in out.splitlines() if "d=4" in line][-2:]
    assert [line.split()[0] for line in table] == ["MuRP", "MuRE"]
    assert "MRR" in out
    assert "realistic ranks" in out
    assert not (tmp_path / "run" / "disk.png").exists()


def test_query_neighbours_answers_and_probability(run_folder, capsys):
    assert main(["query", str(run_folder), "node001", "-k", "3"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 4
    distances = [float(line.split()[0]) for line in lines[1:]]
    assert distances == sorted(distances)
    assert "node001" not in [line.split()[1] for line in lines[1:]]

    assert main(["query", str(run_folder), "node005", "parent", "-k", "80"]) == 0
    answers = capsys.readouterr().out.splitlines()[1:]
    assert len(answers) == 79  # all but node005 itself
    known = [line.split() for line in answers if line.endswith(")")]
    assert [(words[1], words[2] in ("(train)", "(valid)", "(test)")) for words in known] == [("node001", True)]

    assert main(["query", str(run_folder), "node001", "parent", "--inverse", "-k", "80"]) == 0
    known = [line.split()[1] for line in capsys.readouterr().out.splitlines() if line.endswith(")")]
    assert sorted(known) == ["node004", "node005", "node006"] or sorted(known) == ["node003", "node004", "node005"]

    assert main(["query", str(run_folder), "node005", "parent", "node001"]) == 0
    assert capsys.readouterr().out.startswith("P(node005 parent node001) = ")


def known_marks(out):
    return [line.rsplit("  (", 1)[1] for line in out.splitlines() if line.endswith(")")]


def test_query_leaves_known_answers_out(run_folder, capsys):
    assert main(["query", str(run_folder), "node001", "parent", "--inverse", "-k", "80"]) == 0
    before = capsys.readouterr().out
    assert main(["query", str(run_folder), "node001", "parent", "--inverse", "-k", "80", "--new"]) == 0
    after = capsys.readouterr().out
    assert len(known_marks(before)) == 3
    assert known_marks(after) == []
    assert after.splitlines() == [line for line in before.splitlines() if not line.endswith(")")]


def test_query_relations(run_folder, capsys):
    assert main(["query", str(run_folder), "node002", "--to", "node003"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["P(true)", "node002", "?", "node003"]
    assert {line.split()[1] for line in lines[1:]} == {"parent", "next"}
    assert [line.split()[1] for line in lines[1:] if line.endswith(")")] == ["next"]
    assert main(["query", str(run_folder), "node002", "--to", "node003", "--new"]) == 0
    assert [line.split()[1] for line in capsys.readouterr().out.splitlines()[1:]] == ["parent"]


@pytest.mark.parametrize(
    "words",
    [["node001", "--new"], ["node001", "next", "node002", "--new"], ["a", "next", "--to", "b"], ["a", "-k", "0"]],
)
def test_query_that_makes_no_sense(run_folder, capsys, words):
    with pytest.raises(SystemExit) as stopped:
        main(["query", str(run_folder), *words])
    assert stopped.value.code == 2
    assert "error:" in capsys.readouterr().err


def test_score_a_file(run_folder, tmp_path, capsys):
    rows = [("node005", "parent", "node001"), ("node001", "next", "node001"), ("node005", "parent", "node001")]
    table = tmp_path / "asked.tsv"
    table.write_text("".join("\t".join(row) + "\n" for row in rows))
    assert main(["score", str(run_folder), str(table)]) == 0
    printed = capsys.readouterr().out
    found = [line.split("\t") for line in printed.splitlines()]
    assert [tuple(row[:3]) for row in found] == rows
    for row, values in zip(rows, found, strict=True):
        probability, rank = Run.open(run_folder).probability(*row)
        assert float(values[3]) == pytest.approx(probability, rel=1e-6)
        assert float(values[4]) == rank
    assert main(["score", str(run_folder), str(table), "-o", str(tmp_path / "out.tsv")]) == 0
    assert capsys.readouterr().out == ""
    assert (tmp_path / "out.tsv").read_text() == printed
    table.write_text("node005\tparent\tnode1\n")
    assert "unknown entity 'node1'" in fails(capsys, "score", str(run_folder), str(table))
    table.write_text("node005\tparent\n")
    assert "asked.tsv:1" in fails(capsys, "score", str(run_folder), str(table))
    assert "no such file" in fails(capsys, "score", str(run_folder), str(tmp_path / "none.tsv"))


def test_export(run_folder, tmp_path, capsys):
    path = tmp_path / "points.vec"
    assert main(["export", str(run_folder), "-o", str(path)]) == 0
    assert capsys.readouterr().out.strip() == str(path)
    assert path.read_text().splitlines()[0] == "80 4"
    assert main(["export", str(run_folder), "-o", str(tmp_path / "points"), "--format", "tsv"]) == 0
    assert (tmp_path / "points").read_text() == (run_folder / "embedding.tsv").read_text()
    assert "unknown suffix" in fails(capsys, "export", str(run_folder), "-o", str(tmp_path / "points.doc"))
    assert "unknown format" in fails(capsys, "export", str(run_folder), "-o", str(path), "--format", "doc")


def test_evaluate_a_sample(run_folder, capsys):
    before = (run_folder / "results.json").read_bytes()
    texts = []
    for seed in ("0", "0", "1"):
        assert main(["evaluate", str(run_folder), "--split", "train", "--sample", "20", "--seed", seed]) == 0
        texts.append(capsys.readouterr().out)
    lines = [line.split() for line in texts[0].splitlines()[:5]]
    assert [line[0] for line in lines] == ["MRR", "H@1", "H@3", "H@10", "MR"]
    assert all(line[2] == "+-" and float(line[3]) > 0 for line in lines if float(line[1]) > 0)
    assert "a sample of 20 of" in texts[0]
    assert texts[0] == texts[1] != texts[2]
    assert (run_folder / "results.json").read_bytes() == before
    assert "sample must be at least 1" in fails(capsys, "evaluate", str(run_folder), "--sample", "0")


def test_classify(run_folder, capsys):
    assert main(["classify", str(run_folder), "--per-relation"]) == 0
    out = capsys.readouterr().out
    values = {line[:17].strip(): float(line[17:]) for line in out.splitlines()[:7]}
    assert set(values) >= {"accuracy", "roc auc", "f1"}
    assert 0 <= values["accuracy"] <= 1
    assert "threshold" in out
    assert "test triples and negatives" in out


def test_query_agrees_with_the_model(run_folder):
    run = Run.open(run_folder)
    run.model.double()
    answers = run.tails("node005", "parent", 5)
    h, r = run.entity("node005"), run.relation("parent")
    tails = torch.tensor([run.entity(answer.name) for answer in answers])
    with torch.no_grad():
        scores = run.model(torch.full_like(tails, h), torch.full_like(tails, r), tails)
    assert [answer.value for answer in answers] == pytest.approx(scores.sigmoid().tolist(), rel=1e-6)
    inverse = run.tails("node001", "parent", 1, inverse=True)[0]
    expected = run.model(
        torch.tensor([run.entity("node001")]), torch.tensor([r + 2]), torch.tensor([run.entity(inverse.name)])
    )
    assert inverse.value == pytest.approx(expected.sigmoid().item(), rel=1e-6)


def test_evaluate_and_plot(run_folder, tmp_path, capsys):
    assert main(["evaluate", str(run_folder), "--per-relation", "--exclude-query-entity"]) == 0
    out = capsys.readouterr().out
    assert "tail" in out
    assert "parent" in out
    assert "query entity excluded (papers' protocol)" in out
    assert main(["evaluate", str(run_folder), "--split", "valid"]) == 0
    assert main(["plot", str(run_folder), "-o", str(tmp_path / "disk.svg"), "--labels", "5"]) == 0
    assert "<svg" in (tmp_path / "disk.svg").read_text()


def test_settings_from_toml_and_flags(tmp_path):
    data = write_tree(tmp_path / "tree.tsv")
    (tmp_path / "my.toml").write_text(f'data = "{data}"\ndim = 3\nepochs = 2\nlr = 1\nlearn_curvature = true\n')
    arguments = ["--config", str(tmp_path / "my.toml"), "--dim", "5", "--manifold", "lorentz", "--no-baseline"]
    assert main(["train", "-o", str(tmp_path / "run"), "--no-picture", *arguments]) == 0
    config = Run.open(tmp_path / "run").config
    assert (config.dim, config.epochs, config.lr, config.manifold) == (5, 2, 1.0, "lorentz")
    assert Run.open(tmp_path / "run").model.manifold.c.item() != 1.0
    assert tomllib.loads(config.to_toml()) == {"task": "graph"} | vars(config)


def test_recipes(tmp_path, monkeypatch, capsys):
    data = write_tree(tmp_path / "tree.tsv")
    fast, other = tmp_path / "fast.toml", tmp_path / "other.toml"
    fast.write_text("# Quick, for a test.\nmodel = 'mure'\ndim = 3\nepochs = 1\nnegatives = 8\ndata = 'nowhere'\n")
    other.write_text("dim = 3\n")
    monkeypatch.setattr(settings, "recipes", lambda: {"fast": fast, "other": other})
    assert main(["recipes"]) == 0
    assert capsys.readouterr().out.splitlines()[:2] == ["fast", "    Quick, for a test."]
    words = ["--recipe", "fast", "--dim", "5", "-o", str(tmp_path / "run"), "--no-picture"]
    assert main(["train", str(data), *words]) == 0
    found = Run.open(tmp_path / "run").config
    assert (found.model, found.dim, found.epochs, found.negatives, found.data) == ("mure", 5, 1, 8, str(data))
    capsys.readouterr()
    assert "nowhere" in fails(capsys, "train", *words[:2])
    assert "unknown recipe 'fats'. Did you mean 'fast'" in fails(capsys, "train", "--recipe", "fats")
    for flags in (["--config", str(other)], ["--resume", str(tmp_path / "run")]):
        with pytest.raises(SystemExit):
            main(["train", "--recipe", "fast", *flags])


def test_resume_takes_no_settings(run_folder, capsys):
    for flags in (["--dim", "3"], ["-o", "x"], ["other.tsv"]):
        with pytest.raises(SystemExit):
            main(["train", "--resume", str(run_folder), *flags])
        assert "--resume takes its settings from the run" in capsys.readouterr().err


def test_packaged_recipes_are_settings():
    for name, path in settings.recipes().items():
        assert path.read_text(encoding="utf-8").startswith("# "), name
        task = tomllib.loads(path.read_text(encoding="utf-8")).get("task", "graph")
        settings.TASKS[task].load(path)


def test_interrupted_train_is_resumed_to_the_same_weights(tmp_path, monkeypatch, capsys):
    from geoembed.tasks import LinkPrediction

    data = write_tree(tmp_path / "tree.tsv")
    arguments = [*FAST, "--no-baseline", "--no-picture"]
    assert main(["train", str(data), "-o", str(tmp_path / "whole"), *arguments]) == 0
    original, calls = LinkPrediction.step, []

    def step(self, batch):
        calls.append(1)
        if len(calls) == 9:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(LinkPrediction, "step", step)
        assert main(["train", str(data), "-o", str(tmp_path / "run"), *arguments]) == 130
    err = capsys.readouterr().err
    assert f"--resume {tmp_path / 'run'}" in err
    assert "is not trained to its end" in fails(capsys, "query", str(tmp_path / "run"), "node001")
    assert main(["train", "--resume", str(tmp_path / "run"), "--no-baseline", "--no-picture"]) == 0
    whole, run = Run.open(tmp_path / "whole").model, Run.open(tmp_path / "run").model
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), run.state_dict().values(), strict=True))


def test_next_free_run_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_tree(tmp_path / "tree.tsv")
    for _ in range(2):
        assert main(["train", "tree.tsv", *FAST, "--epochs", "1", "--no-baseline", "--no-picture"]) == 0
    assert sorted(path.name for path in (tmp_path / "runs").iterdir()) == ["tree-murp-4", "tree-murp-4-2"]


# ------------------------------------------------------------------------------------------------------- bad input


def test_unknown_names_list_the_closest(run_folder, capsys, tmp_path):
    assert "Did you mean 'node001'" in fails(capsys, "query", str(run_folder), "nod001")
    assert "Did you mean 'parent'" in fails(capsys, "query", str(run_folder), "node001", "parents")
    assert "Did you mean 'wordnet-animals'" in fails(capsys, "train", "wordnet-animal")
    message = fails(capsys, "train", "--epoch-s", "3")
    assert "unknown option '--epoch-s'. Did you mean '--epochs'" in message
    (tmp_path / "bad.toml").write_text("epocs = 3\n")
    assert "unknown setting 'epocs'. Did you mean 'epochs'" in fails(
        capsys, "train", "--config", str(tmp_path / "bad.toml")
    )


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--dim", "0"], "dim must be a finite number of at least 1, got 0"),
        (["--lr", "nan"], "lr must be a finite number"),
        (["--curvature", "0"], "use --model mure"),
        (["--lr-final", "2"], "at most 1"),
    ],
)
def test_bad_settings(capsys, flags, message):
    assert message in fails(capsys, "train", *flags)


def test_bad_toml(tmp_path, capsys):
    path = tmp_path / "bad.toml"
    path.write_text("dim = \n")
    assert "not valid TOML" in fails(capsys, "train", "--config", str(path))
    path.write_text('dim = "forty"\n')
    assert "dim must be int, got 'forty'" in fails(capsys, "train", "--config", str(path))
    assert "cannot be read" in fails(capsys, "train", "--config", str(tmp_path / "none.toml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "empty"),
        (b"a\n", "tree.tsv:1"),
        (b"a\tr\tb\na\tr\n", "tree.tsv:2"),
        (b"a\tr\tb\n\xff\tr\tb\n", "tree.tsv:2"),
    ],
)
def test_bad_data_files(tmp_path, capsys, content, message):
    import re

    path = tmp_path / "tree.tsv"
    path.write_bytes(content)
    assert re.search(message, fails(capsys, "train", str(path), "-o", str(tmp_path / "run")))
    assert not (tmp_path / "run").exists()


def test_one_relation_and_one_triple(tmp_path, capsys):
    path = tmp_path / "one.tsv"
    path.write_text("a\tr\ta\n")
    assert main(["train", str(path), "-o", str(tmp_path / "run"), *FAST]) == 0
    assert "nothing is evaluated" in capsys.readouterr().out
    assert main(["query", str(tmp_path / "run"), "a"]) == 0
    assert main(["query", str(tmp_path / "run"), "a", "r"]) == 0
    assert "empty" in fails(capsys, "evaluate", str(tmp_path / "run"))


def test_a_tree_is_trained_whole(tmp_path, capsys):
    path = tmp_path / "star.tsv"
    path.write_text("".join(f"leaf{i}\tof\thub\n" for i in range(40)))
    assert main(["train", str(path), "-o", str(tmp_path / "run"), *FAST, "--no-picture"]) == 0
    out = capsys.readouterr().out
    assert "40 + 0 + 0 triples" in out
    assert "nothing is evaluated" in out


def test_damaged_runs(run_folder, tmp_path, capsys):
    assert "is not a run folder" in fails(capsys, "query", str(tmp_path), "a")
    copy = tmp_path / "copy"

    def damaged(name, change):
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run_folder, copy)
        change(copy / name)
        return fails(capsys, "query", str(copy), "node001")

    assert "model.safetensors cannot be read" in damaged(
        "model.safetensors", lambda path: path.write_bytes(path.read_bytes()[:100])
    )
    assert "has format 99" in damaged(
        "run.json", lambda path: path.write_text(json.dumps(json.loads(path.read_text()) | {"format": 99}))
    )
    assert "entities.tsv has 1 lines" in damaged("entities.tsv", lambda path: path.write_text("node001\n"))
    assert "do not fit its config.toml" in damaged(
        "config.toml", lambda path: path.write_text(path.read_text().replace("dim = 4", "dim = 5"))
    )
    assert "run.json cannot be read" in damaged("run.json", lambda path: path.write_text("{"))


def test_run_folder_of_another_run_is_not_overwritten(run_folder, capsys):
    before = (run_folder / "model.safetensors").read_bytes()
    data = str(run_folder.parent / "tree.tsv")
    message = fails(capsys, "train", data, "-o", str(run_folder), *FAST, "--dim", "5")
    assert "holds a run with other settings (dim)" in message
    assert (run_folder / "model.safetensors").read_bytes() == before


def test_changed_data_is_noticed(tmp_path, capsys):
    data = write_tree(tmp_path / "tree.tsv")
    assert main(["train", str(data), "-o", str(tmp_path / "run"), *FAST, "--no-baseline", "--no-picture"]) == 0
    write_tree(data, 70)
    assert "is not the data that" in fails(capsys, "evaluate", str(tmp_path / "run"))
    assert main(["query", str(tmp_path / "run"), "node001", "parent"]) == 0  # answers without marks


def test_output_that_cannot_be_written(tmp_path, capsys):
    data = write_tree(tmp_path / "tree.tsv")
    (tmp_path / "file").write_text("in the way")
    assert "cannot write" in fails(capsys, "train", str(data), "-o", str(tmp_path / "file" / "run"), *FAST)


def test_data_lists_the_shipped_sets(capsys):
    assert main(["data"]) == 0
    out = capsys.readouterr().out
    assert "wordnet-animals" in out
    assert "7,410 entities" in out


def test_module_and_script_run():
    for command in (
        [sys.executable, "-m", "geoembed", "--help"],
        [sys.executable, "-m", "geoembed", "train", "--help"],
    ):
        out = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        assert "train" in out
