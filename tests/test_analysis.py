"""Paths and hierarchy against networkx and published numbers, delta against brute force and known graphs, depths."""

import itertools
import math
import os

import networkx as nx
import numpy as np
import pytest
import torch

from geoembed.analysis import (
    PathLengths,
    delta_hyperbolicity,
    depths,
    graph_delta,
    krackhardt,
    path_lengths,
    radius_by_depth,
    relation_table,
)
from geoembed.analysis import paths as paths_module
from geoembed.data import Triples, load
from geoembed.data.synthetic import grid, tree
from geoembed.errors import DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product

NONE = torch.empty(0, dtype=torch.int64)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def random_edges(n, m, seed):
    """With self-loops, repeated edges and nodes without edges."""
    return torch.randint(n, (2, m), generator=seeded(seed))


def lengths_of(source, target):
    graph = nx.DiGraph(zip(source.tolist(), target.tolist(), strict=True))
    return {
        (i, j): length
        for i, reached in nx.all_pairs_shortest_path_length(graph)
        for j, length in reached.items()
        if i != j
    }


# ---------------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("budget", [1, 1 << 14, paths_module.BUDGET])  # blocks of 64 starts, of some hundreds, of all
@pytest.mark.parametrize(("n", "m"), [(5, 4), (12, 14), (90, 70), (300, 320), (70, 400)])
def test_paths_against_networkx(monkeypatch, n, m, budget):
    monkeypatch.setattr(paths_module, "BUDGET", budget)
    source, target = random_edges(n, m, seed=n + m)
    lengths = lengths_of(source, target)
    one_way = sum((j, i) not in lengths for i, j in lengths)
    assert krackhardt(source, target, n) == one_way / len(lengths)
    longest, mean, pairs = path_lengths(source, target, n)
    assert (longest, pairs) == (max(lengths.values()), len(lengths))
    assert mean == pytest.approx(sum(lengths.values()) / len(lengths), rel=1e-14)


def test_hand_computed_scores():
    assert krackhardt(torch.arange(1, 40), torch.arange(39), 40) == 1
    ring = torch.arange(200)
    assert krackhardt(ring, (ring + 1) % 200, 200) == 0
    assert path_lengths(ring, (ring + 1) % 200, 200) == PathLengths(199, 100, 200 * 199)
    # a ring of three below one node: 6 pairs within the ring, 3 out of it
    assert krackhardt(torch.tensor([0, 1, 2, 0]), torch.tensor([1, 2, 0, 3]), 4) == pytest.approx(3 / 9)


def test_a_long_cycle_costs_nothing():
    n = 200_000  # the closure would have 4e10 pairs
    ids = torch.arange(n)
    assert krackhardt(torch.cat([ids, ids[:1]]), torch.cat([(ids + 1) % n, ids[:1] + n]), n + 1) == pytest.approx(1 / n)


def test_nothing_to_count():
    for source, target in ((NONE, NONE), (torch.tensor([2, 2]), torch.tensor([2, 2]))):
        assert krackhardt(source, target, 3) == 0
        assert path_lengths(source, target, 3) == PathLengths(0, 0.0, 0)
        assert krackhardt(source, target, 3, sources=2) == 0
    assert krackhardt(NONE, NONE, 0) == 0


def test_other_integers_and_what_is_given_stays_as_it_is():
    source, target = random_edges(30, 60, 1)
    expected = krackhardt(source, target, 30), path_lengths(source, target, 30)
    table = torch.stack([source, target], 1)
    before = table.clone()
    for ends in (table.unbind(1), table.int().unbind(1), table.numpy().T, table.numpy().astype(np.uint8).T):
        assert (krackhardt(*ends, 30), path_lengths(*ends, 30)) == expected
    assert torch.equal(table, before)
    frozen = table.numpy().copy()
    frozen.flags.writeable = False
    assert krackhardt(*frozen.T, 30) == expected[0]


def test_samples_of_sources():
    source, target = random_edges(200, 260, 3)
    out = len(source.unique())
    exact = krackhardt(source, target, 200), path_lengths(source, target, 200)
    assert krackhardt(source, target, 200, sources=out, generator=seeded()) == exact[0]
    assert path_lengths(source, target, 200, sources=10 * out) == exact[1]
    one = path_lengths(source, target, 200, sources=20, generator=seeded(1))
    assert one == path_lengths(source, target, 200, sources=20, generator=seeded(1))
    assert one.longest <= exact[1].longest
    assert 0 < one.pairs < exact[1].pairs
    # over all samples of one source, the pairs add up to those of all sources
    lengths = lengths_of(source, target)
    seen = {path_lengths(source, target, 200, sources=1, generator=seeded(s)).pairs for s in range(40)}
    assert seen <= {sum(i == k for i, _ in lengths) for k in source.tolist()}
    assert len(seen) > 3
    many = [krackhardt(source, target, 200, sources=60, generator=seeded(s)) for s in range(60)]
    assert np.mean(many) == pytest.approx(exact[0], abs=0.05)


@pytest.mark.parametrize("measure", [krackhardt, path_lengths, depths])
@pytest.mark.parametrize(
    ("source", "target", "error", "message"),
    [
        (
            torch.tensor([0.0]),
            torch.tensor([1]),
            ShapeError,
            r"as integers \(m,\).*got float32 \(1,\) and int64 \(1,\)",
        ),
        (torch.tensor([0]), torch.tensor([True]), ShapeError, "got int64 .* and bool"),
        (torch.tensor([0, 1]), torch.tensor([1]), ShapeError, r"\(2,\) and int64 \(1,\)"),
        (torch.tensor([[0]]), torch.tensor([[1]]), ShapeError, r"\(1, 1\)"),
        (torch.tensor([0, 3]), torch.tensor([1, 1]), DomainError, r"source ids must lie in \[0, 3\).* 3 at 1"),
        (torch.tensor([0, 1]), torch.tensor([-1, 1]), DomainError, "target ids"),
    ],
)
def test_bad_edges(measure, source, target, error, message):
    with pytest.raises(error, match=message):
        measure(source, target, 3)


@pytest.mark.parametrize("measure", [krackhardt, path_lengths])
def test_bad_number_of_sources(measure):
    with pytest.raises(DomainError, match="at least 1, or None; got 0"):
        measure(torch.tensor([0]), torch.tensor([1]), 3, sources=0)


# ------------------------------------------------------------------------------------------------------------ relations


def test_relation_table_by_hand():
    with pytest.warns(DataWarning, match="also stand in an earlier split"):
        graph = Triples.from_triples(
            [("a", "up", "b"), ("c", "up", "b"), ("b", "up", "d"), ("a", "self", "a"), ("a", "like", "b")],
            valid=[("b", "like", "a"), ("c", "like", "d")],
            test=[("c", "like", "d"), ("c", "like", "c"), ("d", "late", "a")],
        )
    late, like, alone, up = relation_table(graph)
    assert [row.relation for row in (late, like, alone, up)] == graph.relations == ["late", "like", "self", "up"]
    assert (up.triples, up.krackhardt, up.paths) == (3, 1.0, PathLengths(2, 7 / 5, 5))
    assert (up.heads_per_tail, up.tails_per_head, up.symmetric) == (3 / 2, 1.0, 0.0)
    assert (like.triples, like.symmetric, like.krackhardt) == (4, 2 / 3, 1 / 3)
    assert (like.heads_per_tail, like.tails_per_head) == (4 / 4, 4 / 3)
    assert (alone.triples, alone.krackhardt, alone.paths.pairs, alone.symmetric) == (1, 0.0, 0, 0.0)
    assert (alone.heads_per_tail, alone.tails_per_head) == (1.0, 1.0)
    late, like, *_ = relation_table(graph, "train")
    assert (late.triples, late.heads_per_tail, late.paths.pairs, late.symmetric) == (0, 0.0, 0, 0.0)
    assert (like.triples, like.symmetric, like.krackhardt) == (1, 0.0, 1.0)
    with pytest.raises(UnknownNameError, match="unknown split 'dev'"):
        relation_table(graph, "dev")


def test_relation_table_samples():
    graph = tree(3, 4)
    exact, sample = relation_table(graph), relation_table(graph, sources=5, generator=seeded())
    assert all(row.paths.pairs < whole.paths.pairs for row, whole in zip(sample, exact, strict=True))
    assert [row.krackhardt for row in sample] == [row.krackhardt for row in exact] == [1, 0, 1]


# triples, Krackhardt's score, longest and mean path over all splits; those of derivationally_related_form are scipy's
WN18RR = {
    "also_see": (1396, 0.2355, 44, 15.162),
    "derivationally_related_form": (31867, 0.0, 95, 28.468),
    "has_part": (5142, 1.0, 13, 2.224),
    "hypernym": (37221, 0.99999, 18, 4.514),
    "instance_hypernym": (3150, 1.0, 3, 1.004),
    "member_meronym": (7928, 1.0, 10, 3.938),
    "member_of_domain_region": (983, 1.0, 2, 1.001),
    "member_of_domain_usage": (675, 1.0, 2, 1.001),
    "similar_to": (86, 0.0, 2, 1.104),
    "synset_domain_topic_of": (3335, 0.9995, 3, 1.134),
    "verb_group": (1220, 0.0, 6, 1.614),
}


@pytest.fixture(scope="module")
def wn18rr():
    if not os.environ.get("GEOEMBED_DATA"):
        pytest.skip("GEOEMBED_DATA names no folder with WN18RR")
    return load("WN18RR")


def test_wn18rr(wn18rr):
    table = {row.relation.strip("_"): row for row in relation_table(wn18rr)}
    assert sorted(table) == sorted(WN18RR)
    for name, (triples, score, longest, mean) in WN18RR.items():
        row = table[name]
        assert (row.triples, row.paths.longest) == (triples, longest), name
        assert row.krackhardt == pytest.approx(score, abs=5e-5 if score < 0.9999 else 5e-6), name
        assert row.paths.mean == pytest.approx(mean, abs=5e-4), name


def test_wn18rr_train(wn18rr):
    scores = {}
    for i, name in enumerate(wn18rr.relations):
        source, _, target = wn18rr.train[wn18rr.train[:, 1] == i].unbind(1)
        scores[name.strip("_")] = round(krackhardt(source, target, wn18rr.n_entities), 4)
    assert (scores["also_see"], scores["derivationally_related_form"], scores["hypernym"]) == (0.3621, 0.3616, 1.0)


# -------------------------------------------------------------------------------------------------------- hyperbolicity


def metric(graph):
    return torch.tensor(nx.floyd_warshall_numpy(graph))


def brute_force(distances):
    best = 0.0
    for x, y, u, v in itertools.combinations(range(len(distances)), 4):
        d = distances
        sums = sorted([float(d[x, y] + d[u, v]), float(d[x, u] + d[y, v]), float(d[x, v] + d[y, u])])
        best = max(best, (sums[2] - sums[1]) / 2)
    return best


def random_metrics():
    x = torch.randn(14, 3, dtype=torch.float64, generator=seeded())
    yield "points", torch.cdist(x, x)
    yield "doubled points", torch.cdist(x, x)[:, [0, 1, 2, 3, 3, 5, 5, 7]][[0, 1, 2, 3, 3, 5, 5, 7]]
    for seed in range(4):
        graph = nx.connected_watts_strogatz_graph(15, 4, 0.3, seed=seed)
        yield f"graph {seed}", metric(graph)
    ball = PoincareBall()
    x = ball.random(14, 2, std=3.0, generator=seeded(1), dtype=torch.float64)
    yield "hyperbolic", ball.cdist(x, x)


@pytest.mark.parametrize(("name", "distances"), list(random_metrics()))
def test_delta_against_brute_force(name, distances):
    expected = brute_force(distances)
    assert expected > 0
    result = delta_hyperbolicity(distances)
    assert result.delta == pytest.approx(expected, rel=1e-12)
    assert result.diameter == float(distances.max())
    assert result.relative == pytest.approx(2 * expected / float(distances.max()))
    assert 0 < result.relative <= 1
    at = [delta_hyperbolicity(distances, basepoint=x).delta for x in range(len(distances))]
    assert max(at) == pytest.approx(expected, rel=1e-12)
    assert 2 * min(at) >= expected - 1e-12
    sampled = delta_hyperbolicity(distances, samples=300, generator=seeded()).delta
    assert 0 < sampled <= expected + 1e-12
    assert delta_hyperbolicity(distances, samples=200_000, generator=seeded()).delta == pytest.approx(expected)
    assert delta_hyperbolicity(7 * distances).delta == pytest.approx(7 * expected)
    order = torch.randperm(len(distances), generator=seeded())
    assert delta_hyperbolicity(distances[order][:, order]).delta == pytest.approx(expected, rel=1e-12)


def test_trees_and_complete_graphs_are_0_hyperbolic():
    for seed in range(3):
        graph = nx.random_labeled_tree(30, seed=seed)
        weighted = nx.Graph()
        weighted.add_weighted_edges_from((a, b, 1 + (a * b) % 7) for a, b in graph.edges)
        for distances in (metric(graph), metric(weighted), metric(nx.complete_graph(10))):
            assert delta_hyperbolicity(distances).delta == 0
            assert delta_hyperbolicity(distances, basepoint=3).delta == 0
            assert delta_hyperbolicity(distances, samples=1000, generator=seeded()).delta == 0


@pytest.mark.parametrize("n", range(3, 25))
def test_cycles(n):
    """delta(C_n) = floor(n / 4), less 1/2 where n = 4k + 1."""
    assert delta_hyperbolicity(metric(nx.cycle_graph(n))).delta == n // 4 - (0.5 if n % 4 == 1 else 0)


@pytest.mark.parametrize(("width", "height"), [(1, 5), (2, 2), (2, 7), (3, 5), (5, 5)])
def test_grids(width, height):
    """delta of a grid is its smaller side less one."""
    result = delta_hyperbolicity(metric(nx.grid_2d_graph(width, height)))
    assert result == (min(width, height) - 1, width + height - 2)


@pytest.mark.parametrize("c", [1.0, 0.25])
def test_hyperbolic_plane(c):
    """The supremum log(2) / sqrt(c) comes with the far corners of a square."""
    ball = PoincareBall(c)
    corners = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]], dtype=torch.float64)
    x = ball.from_tangent(12 * corners)
    assert delta_hyperbolicity(ball.cdist(x, x)).delta == pytest.approx(math.log(2) / math.sqrt(c), rel=1e-4)
    x = ball.random(40, 2, std=3.0, generator=seeded(), dtype=torch.float64)
    assert 0 < delta_hyperbolicity(ball.cdist(x, x)).delta < math.log(2) / math.sqrt(c)


def test_distances_in_single_precision():
    """A matrix product leaves them slightly asymmetric, with a diagonal that is not quite zero."""
    x = torch.randn(60, 20, generator=seeded())
    rounded = torch.cdist(x, x, compute_mode="use_mm_for_euclid_dist")
    assert not torch.equal(rounded, rounded.mT) or bool(rounded.diagonal().any())
    exact = torch.cdist(x.double(), x.double())
    assert delta_hyperbolicity(rounded).delta == pytest.approx(delta_hyperbolicity(exact).delta, rel=1e-3)


def test_few_points():
    assert delta_hyperbolicity(torch.zeros(1, 1)) == (0, 0)
    assert delta_hyperbolicity(torch.zeros(1, 1)).relative == 0
    assert delta_hyperbolicity(torch.zeros(5, 5), samples=3).relative == 0
    assert delta_hyperbolicity(torch.tensor([[0, 2, 3], [2, 0, 4], [3, 4, 0]])) == (0, 4)


@pytest.mark.parametrize(
    ("distances", "options", "error", "message"),
    [
        (torch.zeros(2, 3), {}, ShapeError, r"\(n, n\) with n > 0, got \(2, 3\)"),
        (torch.zeros(0, 0), {}, ShapeError, r"got \(0, 0\)"),
        (torch.tensor([[0, math.nan], [1, 0]]), {}, DomainError, r"1 distances are negative or not finite.*\(0, 1\)"),
        (torch.tensor([[0, math.inf], [math.inf, 0]]), {}, DomainError, "take one component"),
        (torch.tensor([[0, -1], [-1, 0]]), {}, DomainError, "2 distances are negative"),
        (torch.tensor([[0, 1], [2, 0]]), {}, DomainError, "symmetric"),
        (torch.tensor([[1, 2], [2, 1]]), {}, DomainError, "zero on the diagonal"),
        (torch.zeros(3, 3), {"basepoint": 3}, DomainError, r"a row in \[0, 3\), got 3"),
        (torch.zeros(3, 3), {"samples": 0}, DomainError, "at least 1; got 0"),
        (torch.zeros(3, 3), {"samples": 9, "basepoint": 0}, DomainError, "not both"),
    ],
)
def test_bad_distances(distances, options, error, message):
    with pytest.raises(error, match=message):
        delta_hyperbolicity(distances, **options)


def test_graph_delta():
    graph = nx.disjoint_union_all([nx.grid_2d_graph(4, 6), nx.cycle_graph(20), nx.path_graph(3)])
    edges = torch.tensor(list(graph.edges))
    assert graph_delta(edges) == (3, 8)  # the grid is the largest component, its delta the smaller side less one
    assert graph_delta(edges.flip(1) * 5 + 2) == (3, 8)  # the direction of edges and gaps in the ids do not count
    sample = graph_delta(edges, 12, generator=seeded())
    assert sample == graph_delta(edges, 12, generator=seeded())
    assert 0 < sample.delta <= 3
    assert sample.diameter <= 8
    assert graph_delta(edges, samples=20_000, generator=seeded()).delta == 3
    for nothing in (torch.empty(0, 2, dtype=torch.int64), torch.tensor([[3, 3]])):
        assert graph_delta(nothing) == (0, 0)


def test_graph_delta_of_drawn_nodes_takes_the_paths_of_the_whole_graph():
    graph = nx.connected_watts_strogatz_graph(150, 4, 0.1, seed=0)
    drawn = torch.randperm(150, generator=seeded())[:70]
    expected = delta_hyperbolicity(metric(graph)[drawn][:, drawn])  # more than a word of starts
    assert graph_delta(torch.tensor(list(graph.edges)), 70, generator=seeded()) == expected


def test_graph_delta_of_triples():
    assert graph_delta(tree(3, 3, ["parent_of"])) == (0, 6)
    # a king's graph: two steps along a side and two along the diagonal
    flat = grid(5, 5)
    king = nx.Graph(flat.train[:, [0, 2]].tolist())
    assert graph_delta(flat) == delta_hyperbolicity(metric(king))
    held_out = grid(4, 4, ["above", "right_of"]).split(0.1, 0.1, seeded())
    assert graph_delta(held_out) == (3, 6)  # all splits


def test_bad_graphs():
    with pytest.raises(ShapeError, match=r"integers \(m, 2\); got torch.int64 \(2, 3\)"):
        graph_delta(torch.zeros(2, 3, dtype=torch.int64))
    with pytest.raises(ShapeError, match="integers"):
        graph_delta(torch.full((2, 2), math.nan))
    with pytest.raises(DomainError, match="source ids"):
        graph_delta(torch.tensor([[-1, 2]]))
    with pytest.raises(DomainError, match="nodes to draw"):
        graph_delta(torch.tensor([[0, 1]]), 0)


# --------------------------------------------------------------------------------------------------------------- depths


def test_depths_of_a_tree():
    graph = tree(3, 4, ["parent_of"])
    parent, _, child = graph.train.unbind(1)
    expected = [level for level in range(5) for _ in range(3**level)]
    assert depths(child, parent, graph.n_entities).tolist() == expected


def test_depths_against_networkx():
    for seed in range(6):
        source, target = random_edges(60, 55, seed)
        graph = nx.DiGraph((c, p) for c, p in zip(source.tolist(), target.tolist(), strict=True) if c != p)
        roots = {node for node in graph if graph.out_degree(node) == 0}
        expected = []
        for node in range(60):
            above = nx.single_source_shortest_path_length(graph, node) if node in graph else {}
            expected.append(min((above[root] for root in roots & above.keys()), default=-1))
        assert depths(source, target, 60).tolist() == expected


def test_depths_without_roots():
    assert depths(NONE, NONE, 3).tolist() == [-1, -1, -1]
    assert depths(NONE, NONE, 0).tolist() == []
    assert depths(torch.tensor([0, 1, 2]), torch.tensor([1, 0, 2]), 4).tolist() == [-1] * 4  # cycles only
    assert depths(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2]), 3).tolist() == [2, 1, 0]  # a way out of a cycle


MANIFOLDS = [Euclidean(), PoincareBall(), PoincareBall(0.3), Lorentz(2.0), HalfSpace()]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=repr)
def test_radius_by_depth(manifold):
    direction = torch.nn.functional.normalize(torch.randn(7, 3, dtype=torch.float64, generator=seeded()), dim=1)
    radius = torch.tensor([0.5, 1.0, 2.0, 4.0, 3.0, 9.0, 7.0], dtype=torch.float64)
    points = manifold.from_tangent(radius.unsqueeze(1) * direction)
    result = radius_by_depth(points, manifold, torch.tensor([0, 1, 3, 3, 1, -1, 4]))
    assert result.depth.tolist() == [0, 1, 3, 4]
    assert result.count.tolist() == [1, 2, 2, 1]
    torch.testing.assert_close(result.radius, torch.tensor([0.5, 2.0, 3.0, 7.0], dtype=torch.float64))
    # ranks of the depths 1, 2.5, 4.5, 4.5, 2.5, 6 and of the radii 1, 2, 3, 5, 4, 6
    assert result.spearman == pytest.approx(np.corrcoef([1, 2.5, 4.5, 4.5, 2.5, 6], [1, 2, 3, 5, 4, 6])[0, 1])
    assert radius_by_depth(points, manifold, torch.tensor([9, 8, 7, 5, 6, 0, 4])).spearman < 0


def test_radius_by_depth_in_a_product():
    manifold = Product([(PoincareBall(), 2), (Euclidean(), 2)])
    points = manifold.random(20, 4, generator=seeded(), dtype=torch.float64).requires_grad_()
    result = radius_by_depth(points, manifold, torch.arange(20) % 2)
    radius = manifold.dist(points, torch.zeros(4, dtype=torch.float64)).detach()
    torch.testing.assert_close(result.radius, torch.stack([radius[::2].mean(), radius[1::2].mean()]))


def test_radius_without_correlation():
    ball, points = PoincareBall(), torch.full((4, 2), 0.3, dtype=torch.float64)
    assert math.isnan(radius_by_depth(points, ball, torch.arange(4)).spearman)  # all radii equal
    assert math.isnan(radius_by_depth(points, ball, torch.zeros(4, dtype=torch.int64)).spearman)  # all depths equal
    nothing = radius_by_depth(points, ball, torch.full((4,), -1))
    assert math.isnan(nothing.spearman)
    assert (len(nothing.depth), len(nothing.radius), len(nothing.count)) == (0, 0, 0)


def test_bad_points_and_depths():
    ball, points = PoincareBall(), torch.zeros(3, 2)
    with pytest.raises(ShapeError, match=r"got \(3, 2\) and torch.int64 \(2,\)"):
        radius_by_depth(points, ball, torch.arange(2))
    with pytest.raises(ShapeError, match="integer depths"):
        radius_by_depth(points, ball, torch.zeros(3))
    points[2] = math.nan
    with pytest.raises(DomainError, match=r"1 of 2 points.* row 2"):
        radius_by_depth(points, ball, torch.tensor([-1, 0, 1]))
    assert radius_by_depth(points, ball, torch.tensor([1, 0, -1])).count.tolist() == [1, 1]  # not asked about
