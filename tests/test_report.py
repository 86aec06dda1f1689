"""The report of a run: its numbers against evaluation and analysis, each part that may be missing, names, reruns."""

import json
import math
import re

import networkx as nx
import numpy as np
import pytest
import torch
from PIL import Image
from scipy.stats import spearmanr

import geoembed.report as module
from geoembed.analysis import graph_delta, relation_table
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import CheckpointError
from geoembed.evaluation import evaluate
from geoembed.jobs import train
from geoembed.report import report
from geoembed.runs import Run

FAST = TrainConfig(data="graph", dim=4, epochs=4, batch_size=32, negatives=8, validate_every=2)
TREE = [(f"n{i:02}", "parent", f"n{(i - 1) // 3:02}") for i in range(1, 60)]
RING = [(f"n{i:02}", "next", f"n{(i + 1) % 60:02}") for i in range(60)]
CELL = re.compile(r"\| ((?:[^|\\]|\\.)*) (?=\|)")
NASTY = [
    "a|b",
    "back\\slash|",
    "line\u2028end\x85\x0b",
    "_emphasis_",
    "plain_name",
    "<b>`*[x](y)",
    "$x$",
    "two  blanks",
]


def graph(split=True, edges=(*TREE, *RING)):
    triples = Triples.from_triples(edges, name="graph")
    return triples.split(valid=8, test=14, generator=torch.Generator().manual_seed(0)) if split else triples


def trained(folder, triples, **settings):
    return train(
        FAST.replace(**settings), folder, triples=triples, baseline=False, picture=False, progress=False, say=str
    )


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return trained(tmp_path_factory.mktemp("report") / "run", graph())


@pytest.fixture
def no_disk(monkeypatch):
    """The disk has tests of its own."""
    monkeypatch.setattr(module, "plot_embedding", lambda model, triples, path: path.write_bytes(b"disk"))


def written(run, folder):
    """The report as text, after a check that the pictures it shows are the pictures that are there."""
    text = report(run, folder, progress=False).read_text(encoding="utf-8")
    shown = re.findall(r"!\[.*\]\((.*)\)", text)
    assert sorted(shown) == sorted(p.name for p in folder.iterdir() if p.name != "report.md")
    return text


def tables(text):
    """The Markdown tables: each a list of rows, a row a list of cells without escapes."""
    found = []
    for block in text.split("\n\n"):
        if block.startswith("|"):
            rows = [CELL.findall(line) for line in block.split("\n")]
            assert {len(row) for row in rows} == {len(rows[0])}, block
            found.append([[re.sub(r"\\(.)", r"\1", cell) for cell in row] for row in rows if row[0] != "---"])
    return found


def table_of(text, first):
    """Rows of the tables with this head of the first column, as dictionaries."""
    return [[dict(zip(t[0], row, strict=True)) for row in t[1:]] for t in tables(text) if t[0][0] == first]


def near(cell, value, digits=4):
    assert float(cell.replace(",", "")) == pytest.approx(value, abs=0.5001 * 10**-digits)


def number_after(text, words):
    return float(re.search(re.escape(words) + r"\s*(-?[\d.]*\d)", text)[1])


# ---------------------------------------------------------------------------------------------------------- the numbers


def test_results_are_those_of_evaluate(run, tmp_path, no_disk):
    text = written(run, tmp_path)
    standard, papers = table_of(text, "asked for")
    for rows, exclude in ((standard, False), (papers, True)):
        result = evaluate(run.ranker, run.triples, exclude_query_entity=exclude)
        assert result.protocol + "." in text
        head = result.head_side.numpy()
        assert [row["asked for"] for row in rows] == ["both", "tail", "head"]
        for row, where in zip(rows, (head | True, ~head, head), strict=True):
            ranks = result.ranks.numpy()[where]
            assert row["queries"] == str(len(ranks))
            values = {"MRR": 1 / ranks, "MR": ranks} | {f"H@{k}": (ranks <= k) * 1.0 for k in (1, 3, 10)}
            for column, x in values.items():
                mean, error = row[column].split(" ± ")
                near(mean, x.mean(), 1 if column == "MR" else 4)
                near(error, x.std(ddof=1) / math.sqrt(len(x)), 1 if column == "MR" else 4)
            candidates = result.candidates.numpy()[where]
            near(row["AMRI"], 1 - (ranks - 1).sum() / ((candidates - 1) / 2).sum())
    assert standard != papers


def test_relations_are_those_of_the_table_and_of_evaluate(run, tmp_path, no_disk):
    (rows,) = table_of(written(run, tmp_path), "relation")
    result = evaluate(run.ranker, run.triples)
    assert [row["relation"] for row in rows] == ["next", "parent"]
    for i, (row, summary) in enumerate(zip(rows, relation_table(run.triples), strict=True)):
        assert int(row["triples"]) == summary.triples
        assert int(row["longest path"]) == summary.paths.longest
        near(row["Krackhardt"], summary.krackhardt)
        near(row["mean path"], summary.paths.mean, 3)
        near(row["heads per tail"], summary.heads_per_tail, 3)
        near(row["tails per head"], summary.tails_per_head, 3)
        near(row["symmetric"], summary.symmetric)
        for side, head in (("tail", False), ("head", True)):
            ranks = result.ranks[(result.relation == i) & (result.head_side == head)]
            near(row[f"MRR {side}"], (1 / ranks).mean().item())
            near(row[f"H@10 {side}"], (ranks <= 10).double().mean().item())
        assert int(row["queries"]) == 2 * len(ranks)
    near(rows[1]["Krackhardt"], 1)  # a tree
    near(rows[0]["Krackhardt"], 0)  # a ring
    assert rows[0]["longest path"] == "59"
    near(rows[1]["heads per tail"], 59 / 20, 3)


def test_run_and_settings(run, tmp_path, no_disk):
    text = written(run, tmp_path)
    records = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    facts = dict(tables(text)[0][1:])
    assert facts["model"] == run.model.describe()
    assert facts["triples"] == "97 train, 8 valid, 14 test"
    assert facts["entities"] == "60"
    assert facts["parameters"] == str(sum(t.numel() for t in run.model.state_dict().values() if t.dim()))
    assert facts["epochs"] == "4 of at most 4"
    near(facts["loss at the end"], records[-1]["loss"])
    best = max((r for r in records if "score" in r), key=lambda r: r["score"])
    assert facts["best validation MRR"].startswith(f"{best['score']:.4f}, in epoch {best['epoch']}")
    assert f"torch {torch.__version__}" in facts["report made with"]
    (rows,) = table_of(text, "setting")
    assert {row["setting"]: row["value"] for row in rows} == {
        "data": "graph", "dim": "4", "epochs": "4", "batch_size": "32", "negatives": "8", "validate_every": "2",
    }  # fmt: skip


def test_geometry_against_networkx_and_scipy(run, tmp_path, no_disk):
    text = written(run, tmp_path)
    tree = nx.DiGraph((tail, head) for head, _, tail in TREE)
    steps = nx.single_source_shortest_path_length(tree, "n00")
    depth = np.array([steps[name] for name in run.triples.entities])
    radius = 2 * np.arctanh(run.model.points().double().norm(dim=1).numpy())  # on the ball of curvature -1
    assert "main hierarchy is parent" in text
    assert number_after(text, "and the depth is") == pytest.approx(spearmanr(depth, radius).statistic, abs=6e-5)
    (rows,) = table_of(text, "depth")
    assert [int(row["depth"]) for row in rows] == sorted(set(depth))
    for row in rows:
        here = depth == int(row["depth"])
        assert int(row["entities"]) == here.sum()
        near(row["mean distance"], radius[here].mean())
    delta = graph_delta(run.triples)  # fewer nodes than are drawn, so exact
    both_ways = nx.Graph((head, tail) for head, _, tail in (*TREE, *RING))
    assert number_after(text, "with diameter") == nx.diameter(both_ways) == delta.diameter
    assert number_after(text, "taken both ways, is") == delta.delta
    assert number_after(text, "2 delta / diameter =") == pytest.approx(delta.relative, abs=6e-5)


def test_a_hierarchy_whose_heads_are_the_parents(tmp_path, no_disk):
    downward = Triples.from_triples([(tail, "child", head) for head, _, tail in TREE])
    (rows,) = table_of(written(trained(tmp_path / "run", downward), tmp_path / "report"), "depth")
    assert [(row["depth"], row["entities"]) for row in rows] == [
        ("0", "1"), ("1", "3"), ("2", "9"), ("3", "27"), ("4", "20"),
    ]  # fmt: skip


def test_unseen_entities_are_counted(tmp_path, no_disk):
    triples = Triples.from_triples(TREE, test=[("n01", "parent", "new"), ("n02", "parent", "n01")], name="graph")
    text = written(trained(tmp_path / "run", triples), tmp_path / "report")
    assert "2 of 4 queries are about an entity that occurs in no training triple" in text
    assert "There was no validation" in text


# -------------------------------------------------------------------------------------------------- what may be missing


def test_no_test_split(tmp_path, no_disk):
    text = written(trained(tmp_path / "run", graph(split=False)), tmp_path / "report")
    assert "nothing is evaluated" in text
    assert table_of(text, "asked for") == []
    (rows,) = table_of(text, "relation")
    assert "Krackhardt" in rows[0]
    assert "MRR tail" not in rows[0]


def test_no_hierarchy(tmp_path, no_disk):
    text = written(trained(tmp_path / "run", graph(edges=RING, split=False)), tmp_path / "report")
    assert "No relation is most of a hierarchy" in text
    assert table_of(text, "depth") == []


def test_a_hierarchy_without_a_root(tmp_path, no_disk):
    edges = [("a", "in", "b"), ("b", "in", "a"), *((f"c{i}", "in", "a") for i in range(9))]
    text = written(trained(tmp_path / "run", Triples.from_triples(edges)), tmp_path / "report")
    assert "No relation is most of a hierarchy with a root" in text


def test_flat_model(tmp_path, no_disk):
    text = written(trained(tmp_path / "run", graph(), model="transe"), tmp_path / "report")
    assert "The model is flat, so it has no curvature." in text
    assert "curvature tail" not in text


def test_metrics_missing_empty_and_damaged(run, tmp_path, no_disk):
    path, folder = run.folder / "metrics.jsonl", tmp_path / "report"
    whole = path.read_text()
    assert "learning.png" in written(run, folder)
    try:
        for text in ("not json\n", '{"epoch": 1}\n', "[1]\n", '{"epoch": "x", "loss": 1, "seconds": 1}\n'):
            path.write_text(text)
            with pytest.raises(CheckpointError, match=r"metrics\.jsonl is damaged"):
                report(run, folder, progress=False)
        path.write_text("")
        assert "No epoch is recorded" in written(run, folder)
        path.unlink()
        text = written(run, folder)  # also checks that the old learning.png is gone
        assert "the time of the training are not known" in text
        assert "training time" not in dict(tables(text)[0])
    finally:
        path.write_text(whole)


def test_a_run_that_is_not_trained(tmp_path):
    run = Run.create(tmp_path / "run", FAST, graph())
    with pytest.raises(CheckpointError, match="not trained to its end"):
        report(run)
    assert not (tmp_path / "run" / "report").exists()


def test_a_folder_that_cannot_be(run, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match="cannot write"):
        report(run, tmp_path / "file", progress=False)


# ----------------------------------------------------------------------------------------------------------- other runs


def test_curvature_of_each_relation(tmp_path, no_disk):
    run = trained(tmp_path / "run", graph(), model="roth")
    text = written(run, tmp_path / "report")
    curvatures = run.model.curvatures().tolist()
    assert len(set(curvatures)) == 4
    (rows,) = table_of(text, "relation")
    for i, row in enumerate(rows):
        near(row["curvature tail"], curvatures[i])
        near(row["curvature head"], curvatures[i + 2])
    assert f"from {min(curvatures):.4f} to {max(curvatures):.4f}" in text


def test_learnt_curvature_in_both_directions(tmp_path, no_disk):
    run = trained(tmp_path / "run", graph(), learn_curvature=True, both_directions=True)
    text = written(run, tmp_path / "report")
    c = run.model.manifold.c.item()
    assert c != 1
    assert f"The space has the curvature {-c:.4f}, learnt." in text
    near(table_of(text, "asked for")[0][0]["MRR"].split()[0], evaluate(run.ranker, run.triples).metrics()["mrr"])


def test_product_manifold(tmp_path, no_disk):
    run = trained(tmp_path / "run", graph(), manifold="poincare:2,euclidean:2", regularizer="radius")
    text = written(run, tmp_path / "report")
    assert "The space is Product" in text.replace("\\", "")


def test_samples_of_a_large_graph(run, tmp_path, no_disk, monkeypatch):
    whole = written(run, tmp_path)
    for name, value in (("MOST_SCORES", 1), ("FEWEST_QUERIES", 20), ("MOST_ENTITIES", 10), ("SOURCES", 5)):
        monkeypatch.setattr(module, name, value)
    text = written(run, tmp_path)
    for rows in table_of(text, "asked for"):
        assert rows[0]["queries"] == "20"
    assert text.count("a sample of 20 of 28 queries") == 2
    assert "estimated from 5 entities" in text
    assert "estimated" not in whole


def test_many_relations_and_depths(tmp_path, no_disk):
    edges = [(f"n{i:02}", f"r{j:02}", f"n{i + 1:02}") for i in range(45) for j in range(40)]
    triples = Triples.from_triples(edges).split(valid=0, test=200, generator=torch.Generator().manual_seed(0))
    text = written(trained(tmp_path / "run", triples, epochs=1), tmp_path / "report")
    assert len(table_of(text, "relation")[0]) == 40
    assert f"The picture shows the {module.BARS} relations with most queries" in text
    assert len(table_of(text, "depth")[0]) == module.LEVELS
    assert f"{46 - module.LEVELS} further depths, up to 45, are left out" in text
    with Image.open(tmp_path / "report" / "relations.png") as image:
        assert image.height < 200 * (2 + 0.42 * module.BARS)


# ------------------------------------------------------------------------------------------------------- names, writing


def test_names_are_escaped(tmp_path, no_disk):
    edges = [(f"n{i:02}", name, f"n{(i - 1) // 3:02}") for name in NASTY for i in range(1, 30)]
    triples = Triples.from_triples(edges, name="a|b\u2028c").split(0, 40, generator=torch.Generator().manual_seed(0))
    text = written(trained(tmp_path / "run", triples), tmp_path / "report")
    (rows,) = table_of(text, "relation")
    expected = ["".join(c if c.isprintable() else ascii(c)[1:-1] for c in name) for name in triples.relations]
    assert [row["relation"] for row in rows] == expected
    assert len(text.splitlines()) == text.count("\n")  # no character that some reader takes for a line end
    assert r"| \_emphasis\_ |" in text
    assert "| plain_name |" in text
    assert text.startswith("# a\\|b\\\\u2028c: MuRP")


def test_pictures_and_reruns(run):
    path = report(run, progress=False)
    assert path == run.folder / "report" / "report.md"
    first = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    assert set(first) == {"report.md", "learning.png", "relations.png", "radius.png", "disk.png"}
    for name in set(first) - {"report.md"}:
        with Image.open(path.parent / name) as image:
            assert image.info["dpi"] == pytest.approx((200, 200), abs=0.1)
            assert len(image.convert("RGB").getcolors(1 << 24)) > 10
    path.write_text("an older one")
    (path.parent / "notes.txt").write_text("mine")
    report(run, progress=False)
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == first | {"notes.txt": b"mine"}
