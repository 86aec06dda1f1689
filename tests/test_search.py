"""Search: the space and its mistakes, seeds, pruning against the rule by hand, kills, the files of the folder."""

import json
import math
import os
import signal
import statistics
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geoembed import graph_training
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import (
    CheckpointError,
    DataError,
    DomainError,
    GeoEmbedError,
    MissingDependencyError,
    UnknownNameError,
)
from geoembed.graph_training import train_model
from geoembed.runs import load_triples
from geoembed.search import SearchResult, Space, search

optuna = pytest.importorskip("optuna", reason='needs the extra: pip install "geoembed[hpo]"')

SPACE = {
    "settings": {"dim": 4, "batch_size": 64, "epochs": 6, "validate_every": 1, "penalty": 0.0},
    "search": {
        "lr": {"low": 1e-4, "high": 0.3, "log": True},
        "negatives": {"low": 4, "high": 12, "step": 4},
        "hardest": [0, 8],  # with 4 negatives TrainConfig refuses 8
        "model": ["murp", "mure"],
    },
}


def tree(held_out: float = 0.1) -> Triples:
    edges = [(f"n{i:03}", "parent", f"n{(i - 1) // 2:03}") for i in range(1, 60)]
    edges += [(f"n{i:03}", "next", f"n{i + 1:03}") for i in range(1, 59)]
    triples = Triples.from_triples(edges, name="tree")
    return triples.split(held_out, held_out, torch.Generator().manual_seed(0)) if held_out else triples


def run(folder: Path, trials: int, **options) -> SearchResult:
    options = {"triples": tree(), "progress": False, "say": lambda line: None} | options
    return search(options.pop("space", SPACE), folder, trials=trials, **options)


def timeless(result: SearchResult) -> list:
    """All that a trial is but its seconds and the folder of the graph."""
    return [(t.number, t.state, t.scores, t.reason, t.settings | {"data": ""}) for t in result.trials]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> tuple[SearchResult, list[str]]:
    lines: list[str] = []
    return run(tmp_path_factory.mktemp("search") / "whole", 18, say=lines.append), lines


# ------------------------------------------------------------------------------------------------------- the search


def test_trials_keep_to_the_space_and_their_reasons_are_kept(whole):
    result, _ = whole
    assert [t.number for t in result.trials] == list(range(18))
    assert {t.state for t in result.trials} == {"finished", "pruned", "failed"}
    for t in result.trials:
        assert 1e-4 <= t.settings["lr"] <= 0.3
        assert t.settings["negatives"] in (4, 8, 12)
        assert (t.settings["hardest"], t.settings["model"]) in [(a, b) for a in (0, 8) for b in ("murp", "mure")]
        impossible = t.settings["hardest"] > t.settings["negatives"]
        assert (t.state == "failed") == impossible
        assert ("hardest is at most negatives" in t.reason) == impossible
        assert t.score == (max(score for _, score in t.scores) if t.scores else None)
    finished = [t for t in result.trials if t.state == "finished"]
    assert all([epoch for epoch, _ in t.scores] == [1, 2, 3, 4, 5, 6] for t in finished)
    assert result.best.score == max(t.score for t in finished)


def test_pruning_is_the_median_rule(whole):
    """At each validation of each trial, the rule by hand says what happened: on or stop."""
    trials, decisions = whole[0].trials, []
    for i, t in enumerate(trials):
        others = [dict(o.scores) for o in trials[:i] if o.state == "finished"]
        for k, (epoch, _) in enumerate(t.scores):
            best = max(score for _, score in t.scores[: k + 1])
            bad = len(others) >= 5 and best < statistics.median(o[epoch] for o in others)
            stopped = t.state == "pruned" and k == len(t.scores) - 1
            assert stopped == (bad and 3 <= epoch < 6), (t.number, epoch)
            decisions.append(stopped)
    assert 3 <= sum(decisions) < len(decisions)
    assert all(t.reason.endswith(f"at epoch {t.scores[-1][0]}") for t in trials if t.state == "pruned")


def test_settings_give_the_same_scores_again(whole):
    result, _ = whole
    seeds = {t.settings["seed"] for t in result.trials}
    assert len(seeds) == 18
    for t in [result.best, next(t for t in result.trials if t.state == "finished" and t is not result.best)]:
        _, fitted = train_model(TrainConfig.from_mapping(t.settings), tree(), progress=False)
        assert [(int(r["epoch"]), r["score"]) for r in fitted.history] == t.scores


def test_a_fixed_seed_is_every_trials_seed(tmp_path):
    space = {"settings": SPACE["settings"] | {"seed": 5, "epochs": 1}, "search": {"dim": [2, 3]}}
    space["settings"].pop("dim")
    assert {t.settings["seed"] for t in run(tmp_path, 3, space=space).trials} == {5}


def test_the_seed_of_the_search_decides_everything(tmp_path, whole):
    again, other = run(tmp_path / "again", 3), run(tmp_path / "other", 1, seed=1)
    assert timeless(again) == timeless(whole[0])[:3]
    assert timeless(other)[0] != timeless(again)[0]


def test_only_the_validation_split_is_ranked(tmp_path, monkeypatch):
    splits, evaluate = [], graph_training.evaluate
    monkeypatch.setattr(
        graph_training, "evaluate", lambda m, t, split, **o: splits.append(split) or evaluate(m, t, split, **o)
    )
    lines: list[str] = []
    run(tmp_path, 2, say=lines.append)
    assert set(splits) == {"valid"}
    assert "the test split was not ranked" in lines[-1]


def test_a_loss_that_is_not_finite_fails_the_trial(tmp_path):
    space = {"settings": SPACE["settings"] | {"model": "mure", "optimizer": "sgd"}, "search": {"lr": [1e30, 0.01]}}
    result = run(tmp_path, 8, space=space)
    assert {t.settings["lr"]: t.state for t in result.trials} == {1e30: "failed", 0.01: "finished"}
    assert all("Lower the learning rate" in t.reason for t in result.trials if t.state == "failed")
    assert result.config.lr == 0.01


def test_nothing_finishes(tmp_path):
    lines: list[str] = []
    space = {"settings": {"negatives": 4}, "search": {"hardest": [5, 6]}}
    result = run(tmp_path, 3, space=space, say=lines.append)
    assert result.best is None
    assert "no trial finished" in lines[-1]
    assert not (tmp_path / "best.toml").exists()
    assert (tmp_path / "search.png").exists()
    with pytest.raises(DomainError, match=r"no trial in .* finished"):
        _ = result.config


def test_time_ends_the_search(tmp_path):
    assert 1 <= len(run(tmp_path, 100_000, minutes=1 / 120).trials) < 1000


# ------------------------------------------------------------------------------------------------- stop and go on


def test_a_search_in_parts_is_the_search_in_one(tmp_path, whole):
    for trials in (3, 9, 18):
        result = run(tmp_path, trials, resume=True)
        assert len(result.trials) == trials
    assert timeless(result) == timeless(whole[0])
    assert len(run(tmp_path, 5, resume=True).trials) == 18  # never fewer than there are


KILLED = """
import test_search
from pathlib import Path
import sys
test_search.run(Path(sys.argv[1]), 10_000, say=lambda line: print(line, flush=True))
"""


def test_a_kill_loses_only_the_trial_under_way(tmp_path, whole):
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
    )
    for line in process.stdout:
        if line.startswith("trial 7"):
            process.send_signal(signal.SIGKILL)
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    kept = len((tmp_path / "trials.jsonl").read_text().splitlines())
    assert kept >= 8
    TrainConfig.load(tmp_path / "best.toml")
    assert timeless(run(tmp_path, max(18, kept + 1), resume=True))[:18] == timeless(whole[0])


def test_ctrl_c_keeps_the_finished_trials_and_reports(tmp_path, whole):
    def press(line: str) -> None:
        if line.startswith("trial 4"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, 24, say=press)
    assert len((tmp_path / "trials.jsonl").read_text().splitlines()) == 5
    assert (tmp_path / "search.png").exists()
    assert timeless(run(tmp_path, 6, resume=True)) == timeless(whole[0])[:6]


def test_nothing_is_left_behind(tmp_path):
    """Handlers, log level, warning filters and working files, after pruned and failed trials too."""
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    level = optuna.logging.get_verbosity()
    assert {t.state for t in run(tmp_path, 14).trials} == {"finished", "pruned", "failed"}
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers
    assert optuna.logging.get_verbosity() == level
    names = {"best.toml", "data", "importance.tsv", "search.json", "search.png", "trials.jsonl"}
    assert {path.name for path in tmp_path.iterdir()} == names


# --------------------------------------------------------------------------------------------------------- the files


def test_the_folder_says_everything(whole):
    result, lines = whole
    records = [json.loads(line) for line in (result.folder / "trials.jsonl").read_text().splitlines()]
    assert [(r["number"], r["state"], r["score"], r["reason"]) for r in records] == [
        (t.number, t.state, t.score, t.reason) for t in result.trials
    ]
    assert all(r["seconds"] >= 0 and r["settings"]["lr"] for r in records)
    assert len([line for line in lines if line.startswith("trial ")]) == 18
    assert f"best: trial {result.best.number}, validation MRR {result.best.score:.4f}" in lines[-1]
    assert result.importance == {}  # too few trials
    assert (result.folder / "search.png").read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"


def test_proposals_gather_where_scores_are_high_and_importance_says_why(tmp_path, monkeypatch):
    """A training with a known outcome: the score is a bump around lr = 0.01, and temperature is ignored."""

    def trained(config, triples, teachers, progress, on_epoch):
        score = math.exp(-((math.log10(config.lr) + 2) ** 2))
        on_epoch([{"epoch": config.epochs, "loss": 0.0, "score": score}])

    monkeypatch.setattr("geoembed.search.train_model", trained)
    space = {
        "settings": {"epochs": 10},
        "search": {"lr": {"low": 1e-9, "high": 10.0, "log": True}, "temperature": {"low": 0.1, "high": 9.0}},
    }
    result = run(tmp_path, 40, space=space)
    useful = [1e-3 < t.settings["lr"] < 1e-1 for t in result.trials]  # two of ten decades
    assert sum(useful[20:]) >= 10  # 4 by chance
    assert 5e-3 < result.config.lr < 2e-2
    importance = result.importance
    assert set(importance) == {"lr", "temperature"}
    assert sum(importance.values()) == pytest.approx(1)
    assert importance["lr"] > 2 * importance["temperature"]
    table = dict(line.split("\t") for line in (tmp_path / "importance.tsv").read_text().splitlines())
    assert {name: float(share) for name, share in table.items()} == pytest.approx(importance, abs=1e-4)


def test_best_toml_alone_gives_the_score_again(whole):
    """Settings and graph: no triples are handed over."""
    result, _ = whole
    config = TrainConfig.load(result.folder / "best.toml")
    assert config == result.config
    assert load_triples(config).fingerprint() == tree().fingerprint()
    assert train_model(config, load_triples(config), progress=False)[1].best_score == result.best.score


def test_a_graph_without_splits_is_split_once_for_all_trials(tmp_path):
    tree(0).write(tmp_path / "graph")
    space = {"settings": SPACE["settings"] | {"data": str(tmp_path / "graph")}, "search": {"lr": [0.01, 0.1]}}
    result = run(tmp_path / "out", 4, space=space, triples=None)
    assert len({t.settings["seed"] for t in result.trials}) == 4
    assert {t.settings["data"] for t in result.trials} == {str(tmp_path / "out" / "data")}
    config = TrainConfig.load(tmp_path / "out" / "best.toml")
    assert train_model(config, load_triples(config), progress=False)[1].best_score == result.best.score
    assert len(run(tmp_path / "out", 5, space=space, triples=None, resume=True).trials) == 5


def test_a_graph_with_splits_stays_where_it_is(tmp_path, monkeypatch):
    tree().write(tmp_path / "graph")
    monkeypatch.chdir(tmp_path)
    space = {"settings": SPACE["settings"] | {"data": f".{os.sep}graph", "epochs": 1}, "search": {"lr": [0.1]}}
    result = run(tmp_path / "out", 1, space=space, triples=None)
    assert result.config.data == str(tmp_path / "graph")
    assert not (tmp_path / "out" / "data").exists()


def test_a_space_from_a_file(tmp_path):
    path = tmp_path / "space.toml"
    path.write_text("[settings]\ndim = 2\nepochs = 1\n[search]\nlr = {low = 1, high = 2}\nfiltered = [true, false]\n")
    result = run(tmp_path / "out", 2, space=path)
    assert all(1.0 <= t.settings["lr"] <= 2.0 and t.settings["dim"] == 2 for t in result.trials)
    with pytest.raises(DataError, match="cannot be read"):
        run(tmp_path / "out", 2, space=tmp_path / "none.toml")
    path.write_text("[search\n")
    with pytest.raises(DataError, match="not valid TOML"):
        run(tmp_path / "out", 2, space=path)


def test_nothing_is_printed_beside_the_report(tmp_path, capfd):
    run(tmp_path, 2, progress=True, say=print)
    out, err = capfd.readouterr()
    assert err == ""
    assert "study" not in out


# -------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("search_table", "error", "message"),
    [
        ({}, DomainError, "nothing to search"),
        ({"lrr": [0.1]}, UnknownNameError, "unknown setting 'lrr'. Did you mean 'lr'"),
        ({"lr": []}, DomainError, "list of different values"),
        ({"lr": [1, 1.0]}, DomainError, "list of different values"),
        ({"lr": 0.1}, DomainError, "expected a list of values or {low"),
        ({"lr": {"low": 0.1}}, DomainError, "has low and high"),
        ({"lr": {"low": 0.1, "high": 1, "log": "yes"}}, DomainError, "log = true"),
        ({"lr": {"low": 0.1, "high": 1, "logg": True}}, UnknownNameError, "unknown key of lr 'logg'"),
        ({"lr": {"low": 0, "high": 1, "log": True}}, DomainError, "lr: "),
        ({"lr": {"low": 1, "high": 0.1}}, DomainError, "lr: "),
        ({"lr": {"low": 0.1, "high": float("inf")}}, DomainError, "finite number"),
        ({"lr": [float("nan")]}, DomainError, "finite number"),
        ({"lr": ["fast"]}, DomainError, "lr must be float, got 'fast'"),
        ({"epochs": {"low": 1.5, "high": 3}}, DomainError, "epochs must be int, got 1.5"),
        ({"epochs": {"low": 0, "high": 3}}, DomainError, "at least 1, got 0"),
        ({"epochs": {"low": 20, "high": 205, "step": 20}}, DomainError, "epochs: .*step"),
        ({"epochs": {"low": 20, "high": 200, "step": 0}}, DomainError, "epochs: .*step"),
        ({"epochs": {"low": 20, "high": 200, "step": "x"}}, DomainError, "epochs must be int, got 'x'"),
        ({"epochs": [True]}, DomainError, "epochs must be int, got True"),
        ({"filtered": {"low": False, "high": True}}, DomainError, "filtered has no range"),
        ({"model": {"low": "murp", "high": "mure"}}, DomainError, "model has no range"),
        ({"model": ["murp", "murq"]}, UnknownNameError, "unknown model 'murq'. Did you mean"),
        ({"data": ["a", "b"]}, DomainError, "all trials have the same graph"),
        ({"dim": [2, 3]}, DomainError, "fixed in"),
    ],
)
def test_a_bad_space_stops_before_anything_runs(tmp_path, search_table, error, message):
    space = {"settings": {"dim": 2}, "search": search_table}
    with pytest.raises(error, match=message):
        run(tmp_path / "out", 1, space=space)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("tables", "error", "message"),
    [
        ({"setings": {}}, UnknownNameError, "unknown table 'setings'. Did you mean 'settings'"),
        ({"search": [1]}, DomainError, "search must be a table"),
        ({"search": {"lr": [1]}, "settings": {"dimm": 2}}, UnknownNameError, "Did you mean 'dim'"),
        ({"search": {"lr": [1]}, "settings": {"dim": 0}}, DomainError, "at least 1"),
    ],
)
def test_bad_tables(tables, error, message):
    with pytest.raises(error, match=message):
        Space.from_tables(tables)


def test_values_that_are_wrong_only_together_are_no_mistake_of_the_space():
    tables = {"settings": {"manifold": "poincare:2,euclidean:2"}, "search": {"dim": [4, 8], "hardest": [500]}}
    assert Space.from_tables(tables).search == tables["search"]


@pytest.mark.parametrize("options", [{"trials": 0}, {"seed": -1}, {"minutes": 0}, {"minutes": float("nan")}])
def test_bad_limits(tmp_path, options):
    with pytest.raises(DomainError, match="expected trials >= 1"):
        search(SPACE, tmp_path, tree(), **{"trials": 1} | options)


def test_a_graph_needs_validation_triples(tmp_path):
    with pytest.raises(DataError, match="no validation triples"):
        run(tmp_path / "out", 1, triples=tree(0))
    assert not (tmp_path / "out").exists()


def test_a_folder_holds_one_search(tmp_path):
    space = {"settings": SPACE["settings"] | {"epochs": 1}, "search": {"lr": [0.1, 0.2]}}
    run(tmp_path, 1, space=space)
    with pytest.raises(CheckpointError, match="holds this search already"):
        run(tmp_path, 2, space=space)
    with pytest.raises(CheckpointError, match="another search"):
        run(tmp_path, 2, space=space | {"search": {"lr": [0.1, 0.3]}}, resume=True)
    with pytest.raises(CheckpointError, match="another seed, settings"):
        run(tmp_path, 2, space=space | {"settings": {}}, seed=1, resume=True)
    with pytest.raises(CheckpointError, match="another fingerprint"):
        run(tmp_path, 2, space=space, triples=tree(0.2), resume=True)
    assert len(run(tmp_path, 2, space=space, resume=True).trials) == 2


@pytest.mark.parametrize("line", ["{", "[]", '{"number": 1}', '{"number":1,"state":"finished"}', "null"])
def test_damaged_trials_are_named(tmp_path, line):
    space = {"settings": SPACE["settings"] | {"epochs": 1}, "search": {"lr": [0.1, 0.2]}}
    run(tmp_path, 1, space=space)
    with open(tmp_path / "trials.jsonl", "a") as file:
        file.write(line + "\n")
    with pytest.raises(CheckpointError, match=r"trials\.jsonl:2 is not a trial"):
        run(tmp_path, 2, space=space, resume=True)
    (tmp_path / "search.json").write_text("{")
    with pytest.raises(CheckpointError, match=r"search\.json cannot be read"):
        run(tmp_path, 2, space=space, resume=True)


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        run(tmp_path / "file" / "out", 1)


def test_without_optuna_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(MissingDependencyError, match=r"geoembed\[hpo\]") as error:
        run(tmp_path, 1)
    assert isinstance(error.value, GeoEmbedError)
