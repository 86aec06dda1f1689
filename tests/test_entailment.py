"""Entailment cones in training and in telling pairs: against loops over pairs, the paper's formulas, scikit-learn."""

import dataclasses
import json
import math

import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score, f1_score, precision_score, recall_score

from geoembed import entailment
from geoembed.cli import main
from geoembed.data import Closure
from geoembed.distances.cones import EntailmentCone
from geoembed.entailment import WEIGHTS, ConeTask, classify_pairs, corrupt_pairs, train_cones
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.hierarchy import SPACES, HierarchyConfig, train_hierarchy
from geoembed.hierarchy_runs import HierarchyRun
from geoembed.losses.hierarchy import cones
from geoembed.manifolds import HYPERBOLIC, Lorentz, PoincareBall

QUICK = HierarchyConfig(dim=2, epochs=12, batch_size=10, negatives=20, lr=0.1, burn_in=2, cone_epochs=20)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def tree(levels=5):
    """The closure of a binary tree, nodes "1", "10", "11", ..."""
    names = [f"{i:b}" for i in range(1, 1 << levels)]
    return Closure.from_networkx(nx.DiGraph([(name, name[:-1]) for name in names if len(name) > 1]))


def dag(n=40, edges=60):
    pairs = {
        tuple(sorted(torch.randperm(n, generator=g)[:2].tolist(), reverse=True))
        for g in [seeded()]
        for _ in range(edges)
    }
    return Closure.from_networkx(nx.DiGraph([(f"{child:02}", f"{parent:02}") for child, parent in sorted(pairs)]))


def points_of(manifold, closure, dim=3):
    size = manifold.point_dim(dim)
    return manifold.random(closure.n_nodes, size, std=0.7, generator=seeded(3), dtype=torch.float64)


# ------------------------------------------------------------------------------------------------------ corrupted pairs


def test_corrupted_pairs_are_none_of_the_closure():
    closure = dag()
    known = set(map(tuple, closure.pairs.tolist()))
    false = corrupt_pairs(closure, closure.pairs, 10, seeded())
    assert false.shape == (10 * len(closure.pairs), 2)
    for (u, v), (a, b), k in zip(
        closure.pairs.repeat_interleave(10, 0).tolist(), false.tolist(), range(len(false)), strict=True
    ):
        assert (a, b) not in known
        assert a != b
        assert a == u if k % 2 == 0 else b == v  # the ancestor and the child are replaced in turn


def test_corrupted_pairs_are_uniform():
    closure = dag()
    known = set(map(tuple, closure.pairs.tolist()))
    pair = closure.pairs[20:21]
    u, v = pair[0].tolist()
    false = corrupt_pairs(closure, pair, 20000, seeded())
    for side, kept, allowed in (
        (0, u, [w for w in range(closure.n_nodes) if w != u and (u, w) not in known]),
        (1, v, [w for w in range(closure.n_nodes) if w != v and (w, v) not in known]),
    ):
        rows = false[side::2]
        assert (rows[:, side] == kept).all()
        counts = rows[:, 1 - side].bincount(minlength=closure.n_nodes)
        assert counts.nonzero().squeeze(1).tolist() == allowed
        expected = 10000 / len(allowed)
        assert (counts[allowed] - expected).abs().max() < 4.5 * expected**0.5


def test_corrupted_pairs_under_a_root_and_in_a_chain():
    star = Closure.from_pairs([("b", "a"), ("c", "a")])
    assert set(map(tuple, corrupt_pairs(star, torch.tensor([[1, 0]]), 10, seeded()).tolist())) == {(1, 2)}
    chain = Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b")])
    assert corrupt_pairs(chain, torch.tensor([[2, 0]]), 10, seeded()).shape == (0, 2)
    assert corrupt_pairs(chain, torch.tensor([[1, 0]]), 2, seeded()).tolist() == [[1, 2], [1, 2]]
    assert torch.equal(corrupt_pairs(dag(), dag().pairs, 3, seeded(5)), corrupt_pairs(dag(), dag().pairs, 3, seeded(5)))


# ----------------------------------------------------------------------------------------------------------- telling


def expected_of(points, manifold, closure, pairs, width, negatives, seed):
    """F1, precision, recall, average precision and w by loops over thresholds, and scikit-learn."""
    g, halves = seeded(seed), []
    for half in pairs[torch.randperm(len(pairs), generator=g)].tensor_split(2):
        rows = torch.cat([half, corrupt_pairs(closure, half, negatives, g)]).tolist()
        halves.append((rows, np.arange(len(rows)) < len(half)))
    origin = manifold.origin(points.shape[1], dtype=points.dtype)
    n = range(len(points))
    radius = [manifold.dist(origin, points[v]).item() for v in n]
    cone = None if width is None else EntailmentCone(manifold, width).pairwise(points).tolist()
    distance = [manifold.dist(points[u], points).tolist() for u in n]

    def energy(u, v, w):
        return cone[v][u] if cone else distance[u][v] + w * (radius[v] - radius[u])

    best = (-1.0, 0.0, 0.0)
    for w in WEIGHTS if width is None else (0.0,):
        e = np.array([energy(*row, w) for row in halves[0][0]])
        for threshold in np.unique(e):
            score = f1_score(halves[0][1], e <= threshold)
            above = e[e > threshold].min(initial=np.inf)
            middle = (threshold + above) / 2 if np.isfinite(above) else threshold
            if score > best[0] + 1e-12:  # the first of equals: the smallest w, then the lowest threshold
                best = (score, middle, w)
    e = np.array([energy(*row, best[2]) for row in halves[1][0]])
    truth, guess = halves[1][1], e <= best[1]
    metrics = [f1_score(truth, guess), precision_score(truth, guess), recall_score(truth, guess)]
    return [*metrics, average_precision_score(truth, -e)], best[2]


@pytest.mark.parametrize("width", [None, 0.1])
@pytest.mark.parametrize("name", HYPERBOLIC)
def test_telling(name, width):
    closure, manifold = dag(), HYPERBOLIC[name]()
    points = points_of(manifold, closure)
    pairs = closure.pairs[::9]
    got = classify_pairs(points, manifold, closure, pairs, width=width, negatives=3, generator=seeded(7))
    metrics, weight = expected_of(points, manifold, closure, pairs, width, 3, 7)
    assert list(got.metrics().values()) == pytest.approx(metrics, rel=1e-12)
    assert list(got.metrics()) == ["f1", "precision", "recall", "average_precision"]
    assert got.weight == (weight if width is None else None)
    assert got.counts() == {"pairs": len(got.energies), "true": len(pairs) // 2}
    assert ("cones of width 0.1" if width else f"distance + {weight:g} x") in got.protocol


def test_a_perfect_embedding_is_told_perfectly():
    """A chain of cones along a ray, and another one on the other side."""
    closure = Closure.from_pairs([(f"{side}{i}", f"{side}{j}") for side in "ab" for i in range(6) for j in range(i)])
    r = torch.arange(1.0, 7, dtype=torch.float64)
    points = Lorentz().from_tangent(torch.stack([torch.cat([r, -r]), torch.zeros(12, dtype=torch.float64)], 1))
    for width in (0.1, None):
        metrics = classify_pairs(points, Lorentz(), closure, closure.pairs, width=width, generator=seeded()).metrics()
        assert metrics == {"f1": 1.0, "precision": 1.0, "recall": 1.0, "average_precision": 1.0}


def test_nothing_held_for_true():
    nothing = entailment.Entailment(torch.tensor([2.0, 3.0]), torch.tensor([True, False]), 1.0, None, "")
    assert nothing.metrics() == pytest.approx(
        {"f1": 0.0, "precision": math.nan, "recall": 0.0, "average_precision": 1.0}, nan_ok=True
    )


# ---------------------------------------------------------------------------------------------------------- training


def excess(x, y, K):
    """Xi - psi by equations 26 and 28 of Ganea et al., x and y in the ball."""
    xx, yy, xy, gap = x @ x, y @ y, x @ y, np.linalg.norm(x - y)
    cos = (xy * (1 + xx) - xx * (1 + yy)) / (np.sqrt(xx) * gap * np.sqrt(1 + xx * yy - 2 * xy))
    return np.arccos(np.clip(cos, -1, 1)) - np.arcsin(min(1, K * (1 - xx) / np.sqrt(xx)))


def test_loss():
    positive, negative = torch.tensor([0.5, -0.2]), torch.tensor([[0.1, -0.3, 0.0], [0.9, 0.04, -1.0]])
    left_out = torch.tensor([[False, False, False], [False, False, True]])
    got = cones(positive, negative, torch.tensor([0, 1]), left_out, margin=0.05)
    assert got.tolist() == pytest.approx([0.5 + 10 * (0.35 + 0.05) / 3, 10 * 0.01 / 2], rel=1e-5)
    assert cones(positive, negative, torch.tensor([0, 1]), torch.ones(2, 3, dtype=torch.bool)).tolist() == [0.5, 0.0]


def test_step():
    """The loss of a batch, one pair at a time by the paper's formulas."""
    closure, manifold = dag(), PoincareBall()
    points = points_of(manifold, closure)
    task = ConeTask(closure, manifold, points, width=0.2, margin=0.3, negatives=9, generator=seeded(4))
    batch = torch.tensor([0, 5, 11])
    state = task.generator.get_state()
    loss = task.step(batch)
    task.generator.set_state(state)
    drawn, x = task.draw().tolist(), points.numpy()
    known, expected = set(map(tuple, closure.pairs.tolist())), 0.0
    for u in task.sources[batch].tolist():
        others = [w for w in drawn if w != u and (u, w) not in known]
        inside = sum(max(0.3 - excess(x[w], x[u], 0.2), 0) for w in others) / len(others)
        expected += sum(max(excess(x[v], x[u], 0.2), 0) + 10 * inside for child, v in known if child == u)
    assert loss.item() == pytest.approx(expected, rel=1e-9)
    loss.backward()
    assert task.points.grad.coalesce().values().isfinite().all()


def test_a_negative_deep_inside_a_cone_is_pushed_out():
    closure = Closure.from_pairs([("b", "a"), ("c", "a"), ("e", "d")])
    points = Lorentz().from_tangent(
        torch.tensor([[0.2, 0.0], [0.9, 0.1], [0.8, 0.3], [0.3, 0.0], [0.9, -0.1]]).double()
    )
    task = ConeTask(closure, Lorentz(), points, negatives=50, generator=seeded())
    task.step(torch.tensor([0])).backward()  # b lies in the cone of d, where [Xi - psi]_+ is flat
    assert EntailmentCone(Lorentz())(points[3], points[1]) == 0
    assert task.points.grad.coalesce().to_dense()[1].norm() > 0.1


@pytest.mark.parametrize("name", [name for name in SPACES if name != "euclidean"])
def test_every_manifold_learns(name):
    closure, config = tree(), dataclasses.replace(QUICK, manifold=name)
    start = train_hierarchy(closure, config, progress=False)
    before = start.points.clone()
    result = train_cones(start, config, progress=False)
    result.manifold.check(result.points)
    assert torch.equal(start.points, before)
    losses = [record["loss"] for record in result.fitted.history]
    assert losses[-1] < 0.7 * losses[0]
    found = classify_pairs(result.points, result.manifold, closure, closure.pairs, width=0.1, generator=seeded())
    assert found.metrics()["f1"] > 0.75


def test_the_seed_decides_and_a_stopped_run_goes_on(tmp_path):
    closure, config = tree(4), dataclasses.replace(QUICK, epochs=5, cone_epochs=6)
    start = train_hierarchy(closure, config, progress=False)
    whole = train_cones(start, config, progress=False).points
    assert torch.equal(whole, train_cones(start, config, progress=False).points)
    assert not torch.equal(whole, train_cones(start, dataclasses.replace(config, seed=1), progress=False).points)

    def stop(history):
        if len(history) == 3:
            raise InterruptedError

    fit = entailment.fit
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(entailment, "fit", lambda *a, **k: fit(*a, **k, checkpoint_seconds=0.0))
        with pytest.raises(InterruptedError):
            train_cones(start, config, tmp_path, progress=False, on_epoch=stop)
        assert torch.equal(train_cones(start, config, tmp_path, progress=False).points, whole)


# ------------------------------------------------------------------------------------------------------ command line

FAST = ["--epochs", "12", "--burn-in", "2", "--dim", "3", "--batch-size", "8", "--negatives", "12", "--lr", "0.1"]
FAST += ["--validate-every", "6", "--task", "hierarchy", "--no-picture"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "tree.tsv"
    path.write_text("".join(f"n{i:02}\tn{(i - 1) // 3:02}\n" for i in range(1, 40)), encoding="utf-8")
    return str(path)


@pytest.mark.parametrize("hold_out", ["0", "0.4"])
def test_a_run_with_cones(data, tmp_path, capsys, hold_out):
    run = tmp_path / "run"
    words = ["--loss", "cones", "--cone-epochs", "4", "--cone-width", "0.2", "--hold-out", hold_out]
    assert main(["train", data, "-o", str(run), *FAST, *words]) == 0
    out = capsys.readouterr().out
    assert "4 epochs of cones in" in out
    found = HierarchyRun.open(run)
    assert not torch.equal(found.points, found.ranked)
    rest, held_out = found.divided()
    pairs = rest.pairs if held_out is None else held_out
    results = json.loads((run / "results.json").read_text())
    for name, points, width in (("cones", found.points, 0.2), ("distances", found.ranked, None)):
        expected = classify_pairs(points, found.manifold, found.closure, pairs, width=width, generator=seeded())
        assert {key: results[name][key] for key in expected.metrics()} == expected.metrics()
        row = next(line.split() for line in out.splitlines() if line.startswith(name))
        assert row[1] == f"{expected.metrics()['f1']:.4f}"
        assert results[name]["protocol"].endswith("trained on" if held_out is None else "held out")
    records = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [record["epoch"] for record in records] == list(range(1, 17))
    assert main(["evaluate", str(run), "--sample", "5"]) == 0
    assert "F1" in capsys.readouterr().out


def test_a_ranking_with_pairs_held_out_is_told_too(data, tmp_path, capsys):
    assert main(["train", data, "-o", str(tmp_path / "run"), *FAST, "--hold-out", "0.4"]) == 0
    assert {"reconstruction", "prediction", "distances"} == set(
        json.loads((tmp_path / "run" / "results.json").read_text())
    )
    assert "told by" in capsys.readouterr().out
    found = HierarchyRun.open(tmp_path / "run")
    assert torch.equal(found.ranked, found.points)


def test_a_run_stopped_in_the_cones_goes_on(data, tmp_path, monkeypatch):
    words = [*FAST, "--loss", "cones", "--cone-epochs", "4"]
    assert main(["train", data, "-o", str(tmp_path / "whole"), *words]) == 0
    step, calls = ConeTask.step, []

    def stop(self, batch):
        calls.append(1)
        if len(calls) == 7:
            raise KeyboardInterrupt
        return step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(ConeTask, "step", stop)
        assert main(["train", data, "-o", str(tmp_path / "run"), *words]) == 130
    assert main(["train", "--resume", str(tmp_path / "run"), "--no-picture"]) == 0
    whole, resumed = (HierarchyRun.open(tmp_path / name) for name in ("whole", "run"))
    assert torch.equal(whole.points, resumed.points)
    assert torch.equal(whole.ranked, resumed.ranked)


# --------------------------------------------------------------------------------------------------------- bad input


def test_bad_input():
    closure, config = tree(3), dataclasses.replace(QUICK, epochs=3)
    flat = train_hierarchy(closure, dataclasses.replace(config, manifold="euclidean"), progress=False)
    with pytest.raises(DomainError, match="cones are of a hyperbolic space, no product of planes, got Euclidean"):
        train_cones(flat, config)
    points = points_of(Lorentz(), closure)
    with pytest.raises(ShapeError, match=r"points: expected \(7, k\), one a node"):
        classify_pairs(points[1:], Lorentz(), closure, closure.pairs)
    with pytest.raises(DataError, match="got 1 pairs"):
        classify_pairs(points, Lorentz(), closure, closure.pairs[:1])
    points[2, 1] = math.nan
    with pytest.raises(DomainError, match="1 of 7 points are NaN or infinite, the first is row 2"):
        classify_pairs(points, Lorentz(), closure, closure.pairs)
