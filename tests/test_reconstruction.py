"""Ranking of hierarchies against loops over single pairs, scikit-learn's average precision, networkx' paths."""

import math

import networkx as nx
import pytest
import torch
from sklearn.metrics import average_precision_score

from geoembed.data import Closure
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.manifolds import MANIFOLDS, Euclidean, Lorentz
from geoembed.reconstruction import HierarchyResult, distortion, predict_pairs, reconstruct


def tree(n=40, seed=0, extra=6):
    """A closure of a random tree with some more edges; node i lies above nodes after it."""
    g = torch.Generator().manual_seed(seed)
    graph = nx.DiGraph()
    for child in range(1, n):
        graph.add_edge(f"{child:02}", f"{int(torch.randint(child, (1,), generator=g)):02}")
    for _ in range(extra):
        parent, child = sorted(torch.randperm(n, generator=g)[:2].tolist())
        graph.add_edge(f"{child:02}", f"{parent:02}")
    return Closure.from_networkx(graph)


def points_of(manifold, n, dim=3, seed=1, std=1.0):
    g = torch.Generator().manual_seed(seed)
    return manifold.random(n, manifold.point_dim(dim), std=std, generator=g, dtype=torch.float64)


def brute(points, manifold, closure, targets=None, known=None):
    """{node: (sum of ranks, pairs, average precision)}, one pair of nodes at a time."""
    targets = closure.pairs.tolist() if targets is None else targets
    known = {tuple(pair) for pair in (closure.pairs.tolist() if known is None else known)}
    result = {}
    for u in sorted({child for child, _ in targets}):
        d = [manifold.dist(points[u], points[v]).item() for v in range(closure.n_nodes)]
        wanted = [v for child, v in targets if child == u]
        others = [v for v in range(closure.n_nodes) if v != u and (u, v) not in known]
        ranks = [1 + sum(d[o] < d[v] for o in others) + sum(d[o] == d[v] for o in others) / 2 for v in wanted]
        labels = [1] * len(wanted) + [0] * len(others)
        precision = average_precision_score(labels, [-d[v] for v in wanted + others])
        result[u] = sum(ranks), len(wanted), precision
    return result


def agrees(result: HierarchyResult, expected) -> None:
    assert result.sources.tolist() == list(expected)
    for column, got in enumerate((result.rank_sums, result.pairs, result.precisions)):
        assert got.tolist() == pytest.approx([row[column] for row in expected.values()], rel=1e-12)


@pytest.mark.parametrize("name", MANIFOLDS)
def test_reconstruction(name):
    closure, manifold = tree(), MANIFOLDS[name]()
    points = points_of(manifold, closure.n_nodes)
    expected = brute(points, manifold, closure)
    agrees(reconstruct(points, manifold, closure), expected)
    agrees(reconstruct(points, manifold, closure, budget=1), expected)  # a node at a time
    sums, pairs, precisions = zip(*expected.values(), strict=True)
    metrics = reconstruct(points, manifold, closure).metrics()
    assert metrics["mr"] == pytest.approx(sum(sums) / sum(pairs))
    assert metrics["map"] == pytest.approx(sum(precisions) / len(precisions))


def test_reconstruction_with_ties():
    """Points on a grid: many distances are equal, many points coincide."""
    closure, manifold = tree(60), Euclidean()
    points = torch.randint(3, (60, 2), generator=torch.Generator().manual_seed(3)).double()
    agrees(reconstruct(points, manifold, closure), brute(points, manifold, closure))


@pytest.mark.parametrize("name", MANIFOLDS)
def test_coincident_points_tie_exactly(name):
    """Seen from anywhere, copies of a point are equally far: half of them rank before."""
    manifold = MANIFOLDS[name]()
    closure = Closure.from_pairs([("u", "v"), *((f"x{i:03}", "v") for i in range(500))])
    u, v = points_of(manifold, 2, std=3.0)
    points = v.repeat(closure.n_nodes, 1)
    points[closure.nodes.index("u")] = u
    result = reconstruct(points, manifold, closure)
    place = result.sources.tolist().index(closure.nodes.index("u"))
    assert result.rank_sums[place] == 1 + 500 / 2
    assert result.precisions[place] == 1 / 501


def test_all_points_equal():
    closure, manifold = tree(), Lorentz()
    points = manifold.origin(closure.n_nodes, 4, dtype=torch.float64)
    agrees(reconstruct(points, manifold, closure), brute(points, manifold, closure))


def test_a_perfect_embedding():
    """Each node on a line just beyond its parent: MR and MAP are 1."""
    closure = Closure.from_pairs([("b", "a"), ("d", "c")])
    points = torch.tensor([[0.0], [1.0], [5.0], [6.0]], dtype=torch.float64)
    result = reconstruct(points, Euclidean(), closure)
    assert result.metrics() == {"mr": 1.0, "map": 1.0}
    assert result.standard_errors() == {"mr": 0.0, "map": 0.0}
    assert result.protocol.startswith("reconstruction, ancestors among all 4 nodes, the node itself and other")


def test_prediction():
    closure, manifold = tree(), Lorentz()
    points = points_of(manifold, closure.n_nodes)
    rest, held = closure.hold_out(0.2, torch.Generator().manual_seed(5))
    expected = brute(points, manifold, closure, held.tolist(), closure.pairs.tolist())
    result = predict_pairs(points, manifold, rest, held)
    agrees(result, expected)
    assert int(result.pairs.sum()) == len(held)


def test_sample():
    closure, manifold = tree(), Lorentz()
    points = points_of(manifold, closure.n_nodes)
    expected = brute(points, manifold, closure)
    g = torch.Generator().manual_seed(2)
    result = reconstruct(points, manifold, closure, sample=10, generator=g)
    agrees(result, {u: expected[u] for u in result.sources.tolist()})
    assert result.protocol.endswith("a sample of 10 of 39 nodes")
    assert len(reconstruct(points, manifold, closure, sample=1000).sources) == 39
    lone = reconstruct(points, manifold, closure, sample=1).standard_errors()
    assert all(math.isnan(error) for error in lone.values())


def test_standard_errors():
    """Of many samples, the spread of the estimates is their mean standard error."""
    closure, manifold = tree(120), Lorentz()
    points = points_of(manifold, closure.n_nodes)
    whole, g = reconstruct(points, manifold, closure), torch.Generator().manual_seed(0)
    found, errors = {"mr": [], "map": []}, {"mr": [], "map": []}
    for _ in range(400):
        rows = torch.randperm(119, generator=g)[:40]
        sample = HierarchyResult(
            whole.sources[rows], whole.pairs[rows], whole.rank_sums[rows], whole.precisions[rows], 119, ""
        )
        for name, value in sample.metrics().items():
            found[name].append(value)
            errors[name].append(sample.standard_errors()[name])
    for name in found:
        spread = torch.tensor(found[name]).std().item()
        assert spread == pytest.approx(sum(errors[name]) / 400, rel=0.12)  # 400 samples: 3.5 % each


def test_distortion():
    closure, manifold = tree(), Lorentz()
    points = points_of(manifold, closure.n_nodes)
    graph = nx.Graph(nx.transitive_reduction(nx.DiGraph(closure.pairs.tolist())))
    ratios = [
        manifold.dist(points[u], points[v]).item() / steps
        for u, found in nx.all_pairs_shortest_path_length(graph)
        for v, steps in found.items()
        if u != v
    ]
    t = sum(r * r for r in ratios) / sum(ratios)
    result = distortion(points, manifold, closure)
    assert result.scale == pytest.approx(t)
    assert result.mean == pytest.approx(sum(abs(r / t - 1) for r in ratios) / len(ratios))
    assert result.worst == pytest.approx(max(ratios) / min(ratios))
    assert distortion(points, manifold, closure, scale=2.0).mean == pytest.approx(
        sum(abs(r / 2 - 1) for r in ratios) / len(ratios)
    )
    assert distortion(points, manifold, closure, sample=5).worst <= result.worst


def test_distortion_of_parts():
    """Pairs in different parts have no number of steps; a path on a line has no distortion."""
    closure = Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b"), ("e", "d")])
    points = torch.tensor([[0.0], [2.0], [4.0], [70.0], [72.0]], dtype=torch.float64)
    result = distortion(points, Euclidean(), closure)
    assert (result.mean, result.worst, result.scale) == (0.0, 1.0, 2.0)


def test_bad_input():
    closure, manifold = tree(), Lorentz()
    points = points_of(manifold, closure.n_nodes)
    with pytest.raises(ShapeError, match=r"points: expected \(40, k\), one a node, got \(39, 4\)"):
        reconstruct(points[1:], manifold, closure)
    points[7, 1] = math.nan
    for function in (reconstruct, distortion):
        with pytest.raises(DomainError, match="1 of 40 points are NaN or infinite, the first is row 7"):
            function(points, manifold, closure)
    empty = Closure(["a"], torch.zeros(0, 2, dtype=torch.int64))
    for function, message in ((reconstruct, "no pairs to rank"), (distortion, "no edges to measure along")):
        with pytest.raises(DataError, match=message):
            function(points[:1].nan_to_num(), manifold, empty)
    with pytest.raises(DomainError, match="sample must be at least 1 node, got 0"):
        reconstruct(points.nan_to_num(), manifold, closure, sample=0)
