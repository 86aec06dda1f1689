"""Hierarchies on the command line, end to end on small trees: run folders, resuming, queries, pictures, bad input."""

import json
import math
import re
import signal
import tomllib

import networkx as nx
import numpy as np
import pytest
import torch

from geoembed import hierarchy
from geoembed.cli import main
from geoembed.config import SPACES
from geoembed.data import Closure
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError
from geoembed.hierarchy_picture import plot_hierarchy
from geoembed.hierarchy_runs import HierarchyRun, closed, open_run
from geoembed.manifolds import Euclidean, HTiling, Lorentz, Product
from geoembed.reconstruction import predict_pairs, reconstruct
from geoembed.runs import Run
from geoembed.tilings import TILINGS, half_plane_cells, quadrilaterals

N = 40
FAST = ["--epochs", "12", "--burn-in", "2", "--dim", "3", "--batch-size", "8", "--negatives", "12"]
FAST += ["--lr", "0.1", "--validate-every", "4"]


def write_edges(path, n=N):
    """A tree of direct edges: the closure is to be computed."""
    path.write_text("".join(f"n{i:02}\tn{(i - 1) // 3:02}\n" for i in range(1, n)), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return str(write_edges(tmp_path_factory.mktemp("data") / "tree.tsv"))


@pytest.fixture(scope="module")
def folder(data, tmp_path_factory):
    """A finished run."""
    path = tmp_path_factory.mktemp("runs") / "run"
    assert main(["train", data, "-o", str(path), *FAST]) == 0
    return path


def fails(capsys, *argv):
    assert main(list(argv)) == 1
    message = capsys.readouterr().err
    assert "geoembed: error: " in message
    assert "Traceback" not in message
    return message


def stops(capsys, *argv):
    """The message of a command whose words do not make sense."""
    with pytest.raises(SystemExit) as stopped:
        main(list(argv))
    assert stopped.value.code == 2
    return capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ a whole run


def test_train_leaves_a_whole_run(folder):
    names = {path.name for path in folder.iterdir()}
    assert names == {
        "run.json", "config.toml", "nodes.tsv", "points.safetensors", "metrics.jsonl", "results.json", "disk.png",
        "radius-depth.png", "checkpoints",
    }  # fmt: skip
    config = tomllib.loads((folder / "config.toml").read_text())
    assert (config["task"], config["dim"], config["epochs"]) == ("hierarchy", 3, 12)
    run = HierarchyRun.open(folder)
    assert run.nodes == [f"n{i:02}" for i in range(N)]
    run.manifold.check(run.points)
    records = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 13))
    assert all(record.keys() >= {"loss", "lr", "seconds"} for record in records)
    assert [record["epoch"] for record in records if {"mr", "map"} <= record.keys()] == [4, 8, 12]
    expected = reconstruct(run.points, run.manifold, run.closure)
    results = json.loads((folder / "results.json").read_text())["reconstruction"]
    assert (results["mr"], results["map"]) == tuple(expected.metrics().values())
    assert results["protocol"] == expected.protocol
    assert max(record.get("map", 0) for record in records) == results["map"]  # the best points are kept
    for picture in ("disk.png", "radius-depth.png"):
        assert (folder / picture).read_bytes().startswith(b"\x89PNG")


def test_the_closure_is_computed(folder):
    graph = nx.DiGraph([(f"n{i:02}", f"n{(i - 1) // 3:02}") for i in range(1, N)])
    closure = HierarchyRun.open(folder).closure
    expected = {(u, v) for u in graph for v in nx.descendants(graph, u)}
    assert {(closure.nodes[u], closure.nodes[v]) for u, v in closure.pairs.tolist()} == expected


def test_a_nested_start_needs_no_training(data, tmp_path, capsys):
    path = tmp_path / "run"
    words = ["train", data, "-o", str(path), "--dim", "2", "--start", "nested", "--epochs", "0"]
    assert main(words) == 0
    assert re.search(r"reconstruction +1\.000 +1\.0000", capsys.readouterr().out)
    assert not (path / "metrics.jsonl").exists()
    assert (path / "disk.png").exists()
    assert main(["query", str(path), "n20"]) == 0


@pytest.mark.parametrize("seed", range(3))
def test_closed(seed):
    g = torch.Generator().manual_seed(seed)
    pairs = {tuple(sorted(torch.randperm(50, generator=g)[:2].tolist(), reverse=True)) for _ in range(70)}
    graph = nx.DiGraph([(f"{a:02}", f"{b:02}") for a, b in sorted(pairs)])
    closure = closed(Closure.from_pairs(list(graph.edges)))
    expected = Closure.from_networkx(graph)
    assert closure.nodes == expected.nodes
    assert closure.pairs.tolist() == expected.pairs.tolist()
    assert closed(closure) is closure
    chain = closed(Closure.from_pairs([(f"{i + 1:02}", f"{i:02}") for i in range(33)]))
    assert len(chain.pairs) == 33 * 34 / 2
    with pytest.raises(DataError, match="no cycles"):
        closed(Closure.from_pairs([("a", "b"), ("b", "c"), ("c", "a")]))


def test_report_in_plain_words(data, tmp_path, capsys):
    words = ["--hold-out", "0.2", "--no-picture", "--manifold", "poincare"]
    assert main(["train", data, "-o", str(tmp_path / "run"), *FAST, *words]) == 0
    out = capsys.readouterr().out
    assert "tree: 40 nodes, 102 pairs (node, ancestor), 1 root (n00)" in out
    assert "82 pairs, 20 held out" in out
    table = {line.split()[0]: line.split()[1:] for line in out.splitlines() if line[:6] in ("recons", "predic")}
    assert table["prediction"][-1] == "20"
    assert "1 is best" in out
    assert not (tmp_path / "run" / "disk.png").exists()
    run = HierarchyRun.open(tmp_path / "run")
    rest, held_out = run.divided()
    assert (len(rest.pairs), len(held_out)) == (82, 20)
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    expected = predict_pairs(run.points, run.manifold, rest, held_out).metrics()
    assert (results["prediction"]["mr"], results["prediction"]["map"]) == tuple(expected.values())
    assert "prediction" in results["prediction"]["protocol"]


@pytest.mark.parametrize("name", SPACES)
def test_every_manifold(name, data, tmp_path, capsys):
    run = tmp_path / "run"
    words = ["--manifold", name, "--dim", "2", "--curvature", "0.5", "--limbs", "3", "--no-picture"]
    assert main(["train", data, "-o", str(run), *FAST, *words]) == 0
    assert main(["query", str(run), "n05", "-k", "3"]) == 0
    found = HierarchyRun.open(run)
    assert (len(found.points), found.manifold.dim_of(found.points.shape[1])) == (N, 2)
    if name in (tilings := {"htiling": "HTiling(2, 3, c=0.5)", "ltiling": "LTiling(1, 3, c=0.5)"}):
        assert repr(found.manifold) == tilings[name]
    names = np.load(_exported(run, tmp_path / "points.npz"))
    space = Lorentz(0.5) if name in tilings else found.manifold
    x = torch.from_numpy(names["points"])
    torch.testing.assert_close(space.dist(x[:1], x), found.manifold.dist(found.points[:1], found.points))


def test_export_of_planes(data, tmp_path):
    run = tmp_path / "run"
    words = ["--manifold", "ltiling", "--dim", "4", "--no-picture"]
    assert main(["train", data, "-o", str(run), *FAST, *words]) == 0
    found = HierarchyRun.open(run)
    x = torch.from_numpy(np.load(_exported(run, tmp_path / "points.npz"))["points"])
    space = Product([(Lorentz(), 2), (Lorentz(), 2)])
    assert x.shape == (N, 6)
    torch.testing.assert_close(space.dist(x[:1], x), found.manifold.dist(found.points[:1], found.points))


def _exported(run, path):
    assert main(["export", str(run), "-o", str(path)]) == 0
    return path


def test_export(folder, tmp_path):
    run = HierarchyRun.open(folder)
    rows = [line.split("\t") for line in _exported(folder, tmp_path / "points.tsv").read_text().splitlines()]
    assert [row[0] for row in rows] == run.nodes
    assert torch.equal(torch.tensor([[float(x) for x in row[1:]] for row in rows], dtype=torch.float64), run.points)
    graph = nx.read_graphml(_exported(folder, tmp_path / "tree.graphml"))
    assert set(graph.edges) == {(f"n{i:02}", f"n{(i - 1) // 3:02}") for i in range(1, N)}
    assert graph.nodes["n07"]["radius"] == pytest.approx(run.radius[7].item())


def test_query(folder, capsys):
    assert main(["query", str(folder), "n05", "-k", "6"]) == 0
    nearest, above = capsys.readouterr().out.split("\n\n")
    run = HierarchyRun.open(folder)
    distances = run.manifold.dist(run.points[5], run.points)
    order = [i for i in distances.argsort().tolist() if i != 5][:6]
    assert [line.split()[1] for line in nearest.splitlines()[1:]] == [run.nodes[i] for i in order]
    marks = {line.split()[1]: line.rsplit("(")[-1] for line in nearest.splitlines()[1:] if line.endswith(")")}
    relatives = {"n01": "above)", "n00": "above)", "n16": "below)", "n17": "below)", "n18": "below)"}
    assert marks == {name: relatives[name] for i in order if (name := run.nodes[i]) in relatives}
    closer = [i for i in distances.argsort().tolist() if run.radius[i] < run.radius[5]][:6]
    assert [line.split()[1] for line in above.splitlines()[1:]] == [run.nodes[i] for i in closer]
    assert run.neighbours("n05", 99)[-1].value == pytest.approx(distances.max().item())
    with pytest.raises(DomainError, match="k must be at least 1"):
        run.neighbours("n05", 0)


def test_evaluate(folder, capsys):
    before = (folder / "results.json").read_bytes()
    assert main(["evaluate", str(folder)]) == 0
    whole = capsys.readouterr().out
    assert (folder / "results.json").read_bytes() == before
    assert "reconstruction, ancestors among all 40 nodes" in whole
    assert main(["evaluate", str(folder), "--sample", "10"]) == 0
    out = capsys.readouterr().out
    assert "+-" in out
    assert "a sample of 10 of 39 nodes" in out
    assert (folder / "results.json").read_bytes() == before


def test_the_data_decides_on_the_task(data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    triples = tmp_path / "graph.tsv"
    triples.write_text("".join(f"a{i}\tr\ta{i + 1}\n" for i in range(9)))
    graph = ["--epochs", "2", "--dim", "2", "--negatives", "4", "--no-picture"]
    assert main(["train", "graph.tsv", *graph, "--no-baseline"]) == 0
    assert main(["train", data, *FAST, "--scale", "0.5", "--no-picture"]) == 0
    found = {path.name: type(open_run(path)) for path in (tmp_path / "runs").iterdir()}
    assert found == {"graph-murp-2": Run, "tree-lorentz-3": HierarchyRun}
    assert HierarchyRun.open(tmp_path / "runs" / "tree-lorentz-3").config.scale == 0.5
    assert "holds pairs, not triples" in fails(capsys, "train", data, "--task", "graph")
    assert "--task hierarchy" in fails(capsys, "train", data, "--model", "mure", "--task", "graph")
    message = fails(capsys, "train", "graph.tsv", "--task", "hierarchy")
    assert "holds triples (head, relation, tail), not pairs child<TAB>parent" in message
    message = fails(capsys, "train", data, *FAST, "--model", "mure")
    assert "unknown option of the task hierarchy '--model'" in message
    assert "unknown option of the task graph '--burn-in'" in fails(capsys, "train", "graph.tsv", "--burn-in", "3")


def test_recipes_and_files_say_their_task(data, tmp_path, capsys):
    assert main(["recipes"]) == 0
    assert {"mammals", "mammals-2d"} <= set(capsys.readouterr().out.split())
    words = [data, "-o", str(tmp_path / "run"), "--recipe", "mammals-2d", "--epochs", "6", "--no-picture"]
    assert main(["train", *words]) == 0
    config = HierarchyRun.open(tmp_path / "run").config
    assert (config.dim, config.scale, config.lr, config.epochs) == (2, 0.5, 0.08, 6)
    message = fails(capsys, "train", "--recipe", "mammals", "--task", "graph")
    assert "--task graph and settings of the task hierarchy do not go together" in message
    (tmp_path / "odd.toml").write_text("task = 'hierarchie'\n")
    assert "Did you mean 'hierarchy'" in fails(capsys, "train", "--config", str(tmp_path / "odd.toml"))


def test_help_shows_the_flags_of_the_task(capsys):
    with pytest.raises(SystemExit):
        main(["plot", "--help"])
    assert f"--tiling {{{','.join(TILINGS)}}}" in capsys.readouterr().out
    texts = {}
    for task in ([], ["--task", "graph"], ["--task", "hierarchy"]):
        for words in (["train", *task, "--help"], ["train", "--help", *task]):
            with pytest.raises(SystemExit):
                main(words)
            texts[" ".join(task)] = capsys.readouterr().out
    assert ("--model" in texts[""], "--burn-in" in texts[""]) == (True, False)
    assert "--task hierarchy --help" in texts[""]
    graph, hierarchies = texts["--task graph"], texts["--task hierarchy"]
    assert ("--model" in graph, "--burn-in" in graph) == (True, False)
    assert ("--model" in hierarchies, "--burn-in" in hierarchies) == (False, True)
    assert "--no-baseline" not in hierarchies


# ------------------------------------------------------------------------------------------------------- going on


def test_interrupted_train_is_resumed_to_the_same_points(folder, data, tmp_path, monkeypatch, capsys):
    original, calls = hierarchy.HierarchyTask.step, []

    def step(self, batch):
        calls.append(1)
        if len(calls) == 33:  # in epoch 7
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    run = str(tmp_path / "run")
    with monkeypatch.context() as patch:
        patch.setattr(hierarchy.HierarchyTask, "step", step)
        assert main(["train", data, "-o", run, *FAST]) == 130
    assert f"geoembed train --resume {run}" in capsys.readouterr().err
    for command in ("query", "plot", "evaluate", "export"):
        words = {"query": ["n01"], "export": ["-o", "x.tsv"]}.get(command, [])
        assert "is not trained to its end" in fails(capsys, command, run, *words)
    assert main(["train", "--resume", run, "--no-picture"]) == 0
    whole, resumed = HierarchyRun.open(folder), HierarchyRun.open(run)
    assert torch.equal(whole.points, resumed.points)
    assert (folder / "results.json").read_bytes() == (tmp_path / "run" / "results.json").read_bytes()
    lines = [(path / "metrics.jsonl").read_text().splitlines() for path in (folder, tmp_path / "run")]
    for a, b in zip(*(map(json.loads, each) for each in lines), strict=True):
        assert {**a, "seconds": 0} == {**b, "seconds": 0}
    before = (tmp_path / "run" / "points.safetensors").read_bytes()
    assert main(["train", "--resume", run, "--no-picture"]) == 0  # a finished run is left as it is
    assert (tmp_path / "run" / "points.safetensors").read_bytes() == before


def test_resume_compares_the_settings(folder, data, capsys):
    assert main(["train", data, "--resume", str(folder), "--dim", "3", "--task", "hierarchy", "--no-picture"]) == 0
    capsys.readouterr()
    message = stops(capsys, "train", "--resume", str(folder), "--dim", "4", "--lr", "0.1")
    assert "--resume takes its settings from the run, where dim = 3; drop --dim" in message
    assert "--lr" not in message.split("drop")[-1]
    assert "where task = 'hierarchy'; drop --task" in stops(capsys, "train", "--resume", str(folder), "--task", "graph")
    assert "drop --model" in stops(capsys, "train", "--resume", str(folder), "--model", "mure")
    assert "drop DATA" in stops(capsys, "train", "other.tsv", "--resume", str(folder))


def test_a_folder_of_another_run_is_not_overwritten(folder, data, tmp_path, capsys):
    before = (folder / "points.safetensors").read_bytes()
    message = fails(capsys, "train", data, "-o", str(folder), *FAST, "--scale", "2")
    assert "holds a run with other settings (scale)" in message
    triples = tmp_path / "graph.tsv"
    triples.write_text("a\tr\tb\n")
    message = fails(capsys, "train", str(triples), "-o", str(folder))
    assert "holds a run of the task hierarchy; this is for runs of the task graph" in message
    assert (folder / "points.safetensors").read_bytes() == before


def test_damaged_runs(data, tmp_path, capsys):
    run, path = tmp_path / "run", write_edges(tmp_path / "tree.tsv")
    assert main(["train", str(path), "-o", str(run), *FAST, "--no-picture"]) == 0
    write_edges(path, 30)
    assert "tree.tsv is not the data that" in fails(capsys, "evaluate", str(run))
    assert main(["query", str(run), "n01"]) == 0  # without marks
    assert "(above)" not in capsys.readouterr().out
    text = (run / "config.toml").read_text()
    (run / "config.toml").write_text(text.replace("dim = 3", "dim = 4"))
    assert "do not fit its config.toml" in fails(capsys, "query", str(run), "n01")
    (run / "config.toml").write_text(text.replace('"hierarchy"', '"forest"'))
    assert "a run of the task 'forest'; this version knows" in fails(capsys, "query", str(run), "n01")
    (run / "config.toml").write_text(text)
    (run / "points.safetensors").write_bytes((run / "points.safetensors").read_bytes()[:50])
    assert "cannot be read as safetensors" in fails(capsys, "query", str(run), "n01")


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\nb\tc\nc\ta\n", "a hierarchy has no cycles, here '[abc]' is above itself"),
        ("a\tb\nb\tb\n", "1 pairs make a node its own ancestor, the first: 'b'"),
        ("a\ta\n", "1 pairs make a node its own ancestor, the first: 'a'"),
        ("", "empty"),
        ("a\tb\nc\n", "tree.tsv:2"),
    ],
)
def test_bad_data(tmp_path, capsys, content, message):
    path = tmp_path / "tree.tsv"
    path.write_text(content)
    words = ["train", str(path), "--task", "hierarchy", "-o", str(tmp_path / "run"), *FAST]
    assert re.search(message, fails(capsys, *words))
    assert not (tmp_path / "run").exists()


def test_two_nodes_and_parts(tmp_path, capsys):
    path = tmp_path / "two.tsv"
    path.write_text("b\ta\n")
    assert main(["train", str(path), "-o", str(tmp_path / "two"), *FAST]) == 0
    assert main(["query", str(tmp_path / "two"), "b"]) == 0
    capsys.readouterr()
    path.write_text("b\ta\nd\tc\nf\te\n")
    assert main(["train", str(path), "-o", str(tmp_path / "parts"), *FAST, "--no-picture"]) == 0
    out = capsys.readouterr().out
    assert "3 roots (a, c, e)" in out
    assert "3 parts with nothing in common" in out


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--epochs", "0"], 'without epochs there is only a nested start; set start = "nested", or epochs'),
        (["--epochs", "-1"], "epochs must be a finite number of at least 0, got -1"),
        (["--epochs", "2", "--burn-in", "2"], "burn_in must leave some of the 2 epochs, got 2; lower it or raise"),
        (["--hold-out", "1"], "hold_out is a share of the pairs, below 1"),
        (["--hold-out", "0.99"], "share must leave 1 to 63 of 102 pairs out"),
        (["--lr", "1e200", "--max-step", "0"], "Lower the learning rate"),
        (
            ["--manifold", "htiling", "--limbs", "1", "--init-scale", "40"],
            "40 bits end; the farthest needs limbs=",
        ),
        (["--scal-e", "2"], "unknown option '--scal-e'. Did you mean '--scale'"),
        (["--model", "murp"], "unknown option '--model'. Did you mean '--"),
        (["--no-baseline"], "unknown option '--no-baseline'"),
    ],
)
def test_bad_settings(data, tmp_path, capsys, flags, message):
    words = ["train", data, "--task", "hierarchy", "-o", str(tmp_path / "run"), "--no-picture", *FAST]
    assert message in fails(capsys, *words, *flags)


def test_what_only_graphs_have(folder, capsys):
    run = str(folder)
    for command in (["classify", run], ["report", run], ["score", run, "x.tsv"]):
        assert "holds a run of the task hierarchy; this is for runs of the task graph" in fails(capsys, *command)
    assert "RELATION is for runs of a graph" in stops(capsys, "query", run, "n01", "parent")
    assert "--to is for runs of a graph" in stops(capsys, "query", run, "n01", "--to", "n02")
    assert "--split is for runs of a graph" in stops(capsys, "evaluate", run, "--split", "train")
    assert "--per-relation is for runs of a graph" in stops(capsys, "evaluate", run, "--per-relation")
    assert "unknown node 'n01x'. Did you mean 'n01'" in fails(capsys, "query", run, "n01x")
    assert "sample must be at least 1" in fails(capsys, "evaluate", run, "--sample", "0")


# -------------------------------------------------------------------------------------------------------- pictures


def hierarchy_of(manifold, n=60, dim=2):
    closure = Closure.from_networkx(nx.DiGraph([(f"{i:02}", f"{(i - 1) // 3:02}") for i in range(1, n)]))
    g = torch.Generator().manual_seed(0)
    return closure, manifold.random(n, manifold.point_dim(dim), std=1.5, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("build", [lambda dim: Lorentz(2.0), HTiling, lambda dim: Euclidean()])
def test_every_hierarchy_gets_a_picture(tmp_path, build, dim):
    manifold = build(dim)
    closure, points = hierarchy_of(manifold, dim=dim)
    plot_hierarchy(points, manifold, closure, tmp_path / "disk.png", labels=8)
    first = (tmp_path / "disk.png").read_bytes()
    plot_hierarchy(points, manifold, closure, tmp_path / "again.png", labels=8)
    assert first.startswith(b"\x89PNG")
    assert (tmp_path / "again.png").read_bytes() == first


def test_points_of_the_plane_are_drawn_where_they_are(tmp_path, monkeypatch):
    """With a tiling under them at true distances; without one in their directions, scaled."""
    drawn = []
    monkeypatch.setattr("geoembed.hierarchy_picture.draw", lambda picture, path, labels: drawn.append(picture))
    manifold = Lorentz(4.0)
    closure, points = hierarchy_of(manifold)
    plot_hierarchy(points, manifold, closure, tmp_path / "disk.png", tiling="ltiling")
    plot_hierarchy(points, manifold, closure, tmp_path / "disk.png")
    x = 2 * points[:, 1:]
    expected = torch.view_as_complex((x / (1 + (1 + x.square().sum(1, keepdim=True)).sqrt())).contiguous()).numpy()
    place = {name: i for i, name in enumerate(drawn[0].names)}
    order = [place[name] for name in closure.nodes]
    np.testing.assert_allclose(drawn[0].z[order], expected, rtol=1e-12)
    np.testing.assert_allclose(np.angle(drawn[1].z[order]), np.angle(expected), rtol=1e-12)
    assert len(drawn[0].under) > 100
    assert drawn[1].under == []
    edges = {(drawn[0].names[b], drawn[0].names[a]) for a, b in drawn[0].edges.tolist()}
    assert edges == {(closure.nodes[a], closure.nodes[b]) for a, b in closure.parents().tolist()}


def test_maps_keep_distances_from_the_origin_in_proportion(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr("geoembed.hierarchy_picture.draw", lambda picture, path, labels: drawn.append(picture))
    closure, points = hierarchy_of(manifold := Lorentz(), dim=5)
    plot_hierarchy(points, manifold, closure, tmp_path / "disk.png")
    place = {name: i for i, name in enumerate(drawn[0].names)}
    radius = 2 * np.arctanh(np.abs(drawn[0].z[[place[name] for name in closure.nodes]]))
    ratio = radius / manifold.dist(points, manifold.origin(6, dtype=torch.float64)).numpy()
    np.testing.assert_allclose(ratio, ratio[0], rtol=1e-9)
    assert f"drawn {ratio[0]:.2g} times as long" in drawn[0].caption


def test_quadrilaterals():
    """Sides of one length, six around a corner, at angles of 60 degrees."""
    sides = quadrilaterals(5.0)
    ends = np.array([(side[0], side[-1]) for side in sides])
    gap = np.abs((ends[:, 1] - ends[:, 0]) / (1 - ends[:, 0].conj() * ends[:, 1]))
    np.testing.assert_allclose(2 * np.arctanh(gap), 2 * math.acosh(math.sqrt(2)), rtol=1e-9)
    corners = {}
    for side in sides:
        for corner, nxt in ((side[0], side[1]), (side[-1], side[-2])):
            leaves = (nxt - corner) / (1 - corner.conjugate() * nxt)  # seen from the corner, sides are straight
            corners.setdefault((round(corner.real, 6), round(corner.imag, 6)), []).append(np.angle(leaves))
    inner = [sorted(angles) for (x, y), angles in corners.items() if 2 * math.atanh(math.hypot(x, y)) < 3]
    assert len(inner) >= 16
    for angles in inner:
        np.testing.assert_allclose(np.diff([*angles, angles[0] + 2 * np.pi]), np.pi / 3, atol=1e-5)


def test_half_plane_cells_are_those_of_the_tiling():
    """The corners of the cells of HTiling lie on the curves, and what is inside a cell lies on none."""
    manifold = HTiling(2)
    k, j = torch.meshgrid(torch.arange(-2.0, 3), torch.arange(-1.0, 2), indexing="ij")
    y = j.flatten().exp2()

    def on_disk(x, y):
        return torch.view_as_complex(manifold.to_poincare(manifold.pack(torch.stack([x, y], 1))).contiguous()).numpy()

    curves = np.concatenate(half_plane_cells())
    corners = on_disk((k.flatten() * y).double(), y.double())
    assert np.abs(corners[:, None] - curves).min(1).max() < 1e-9
    inside = on_disk(((k.flatten() + 0.5) * y).double(), 1.5 * y.double())
    assert np.abs(inside[:, None] - curves).min(1).min() > 0.01


def test_bad_pictures(folder, tmp_path, capsys):
    closure, points = hierarchy_of(manifold := Lorentz())
    picture = tmp_path / "disk.png"
    with pytest.raises(ShapeError, match=r"points: expected \(60, k\), one a node"):
        plot_hierarchy(points[1:], manifold, closure, picture)
    with pytest.raises(UnknownNameError, match="Did you mean 'ltiling' or 'htiling'"):
        plot_hierarchy(points, manifold, closure, picture, tiling="tiling")
    points[3, 1] = math.nan
    with pytest.raises(DomainError, match="1 of 60 points are NaN or infinite, the first is row 3"):
        plot_hierarchy(points, manifold, closure, picture)
    with pytest.raises(DataError, match="there is no hierarchy to draw"):
        plot_hierarchy(points[:1], manifold, Closure(["a"], torch.zeros(0, 2, dtype=torch.int64)), picture)
    message = fails(capsys, "plot", str(folder), "--tiling", "htiling", "-o", str(picture))
    assert "a tiling is drawn under points of the hyperbolic plane" in message
    with pytest.raises(DataError, match="ends in one of"):
        plot_hierarchy(points, manifold, closure, tmp_path / "disk.xyz")
    assert list(tmp_path.iterdir()) == []
