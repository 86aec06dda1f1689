"""Closures placed by nested arcs: brute force over all pairs, mpmath for the bisector, networkx for chains."""

import itertools
import math

import mpmath
import networkx as nx
import pytest
import torch

from geoembed.data import Closure
from geoembed.data.trees import chain_tree
from geoembed.errors import DataError, DomainError, NumericalWarning
from geoembed.manifolds import Euclidean, HalfSpace, HTiling, Lorentz, LTiling, PoincareBall
from geoembed.nested import embed_closure, nested_arcs
from geoembed.reconstruction import reconstruct

MODELS = [
    (PoincareBall(), 2),
    (Lorentz(0.5), 4),
    (HalfSpace(2.0), 3),
    (HTiling(2, 2), 2),
    (LTiling(1, 2), 2),
    (LTiling(2, 2), 4),
]


def random_tree(n, seed, roots=1):
    g = torch.Generator().manual_seed(seed)
    return [-1] * roots + [int(torch.randint(max(roots, i // 3), (1,), generator=g)) for i in range(roots, n)]


TREES = {
    "random": random_tree(150, 0),
    "forest": random_tree(150, 1, roots=7),
    "star": [-1] + [0] * 200,
    "path": list(range(-1, 15)),
    "broom": [*range(-1, 9), *[9] * 60],
    "skewed": [-1, 0, 0, *[1] * 100, 2],
}


def closure_of(parents):
    graph = nx.DiGraph([(f"{i:04}", f"{p:04}") for i, p in enumerate(parents) if p >= 0])
    return Closure.from_networkx(graph)


def above(parents):
    found = [set() for _ in parents]
    for i in range(len(parents)):
        p = parents[i]
        while p >= 0:
            found[i].add(p)
            p = parents[p]
    return found


@pytest.mark.parametrize(("manifold", "dim"), MODELS, ids=repr)
@pytest.mark.parametrize("name", TREES)
def test_all_ancestors_are_nearer_than_any_other_node(name, manifold, dim):
    parents = TREES[name]
    points = embed_closure(closure_of(parents), manifold, dim=dim)
    manifold.assert_check_point_on_manifold(points)
    d = manifold.dist(points[:, None], points[None])
    for u, ancestors in enumerate(above(parents)):
        others = [v for v in range(len(parents)) if v != u and v not in ancestors]
        if ancestors and others:
            assert d[u, list(ancestors)].max() < d[u, others].min()


@pytest.mark.parametrize("name", TREES)
def test_arcs_nest_and_the_radius_is_bounded(name):
    parents = TREES[name]
    theta, phi = nested_arcs(torch.tensor(parents))
    single = parents.count(-1) == 1
    low, high = theta - phi, theta + phi
    for i, p in enumerate(parents):
        if p > 0 or (p == 0 and not single):
            assert low[p] <= low[i]
            assert high[i] <= high[p]
            assert not low[i] <= theta[p] <= high[i]  # the middle is the parent's own
    for i, j in itertools.combinations(range(len(parents)), 2):
        if parents[i] == parents[j]:
            assert high[i] < low[j] or high[j] < low[i]
    depth = torch.tensor([len(a) for a in above(parents)])
    assert (-2 * (phi / 2).tan().log() <= 2 * math.log(len(parents)) + 1.7 * depth + 1e-9).all()


def test_the_bisector_with_the_origin_ends_at_the_ends_of_the_arc():
    mpmath.mp.dps = 40
    theta, phi = mpmath.mpf("0.7"), mpmath.mpf("0.3")
    x = mpmath.cos(phi) * mpmath.expj(theta)
    r = -2 * mpmath.log(mpmath.tan(phi / 2))
    assert abs(2 * mpmath.atanh(abs(x)) - r) < 1e-30
    centre, radius = mpmath.expj(theta) / mpmath.cos(phi), mpmath.tan(phi)  # the geodesic between the ends
    for part in ("-0.9", "0", "0.5"):
        toward = mpmath.expj(theta + mpmath.pi + mpmath.mpf(part) * (mpmath.pi / 2 - phi))
        z = centre + radius * toward
        to_x = mpmath.atanh(abs((z - x) / (1 - mpmath.conj(x) * z)))
        assert abs(to_x - mpmath.atanh(abs(z))) < 1e-30


@pytest.mark.parametrize("seed", range(5))
def test_hierarchies_that_are_no_trees(seed):
    g = torch.Generator().manual_seed(seed)
    edges = {(i, int(p)) for i in range(1, 60) for p in torch.randint(i, (1 + i % 3,), generator=g)}
    graph = nx.DiGraph([(f"{i:04}", f"{p:04}") for i, p in edges])
    closure = Closure.from_networkx(graph)
    parents = chain_tree(closure)
    names = closure.nodes
    chains = {}
    for name in reversed(list(nx.topological_sort(graph))):
        chains[name] = max((1 + chains[p] for p in graph.successors(name)), default=0)
    shares = []
    for i, name in enumerate(names):
        p, length = int(parents[i]), 0
        assert p < 0 or graph.has_edge(name, names[p])
        while p >= 0:
            p, length = int(parents[p]), length + 1
        assert length == chains[name]
        if length:
            shares.append(length / len(nx.descendants(graph, name)))
    points = embed_closure(closure)
    found = reconstruct(points, Lorentz(), closure, progress=False).metrics()
    assert found["map"] >= sum(shares) / len(shares)


def test_float32_and_dimensions():
    closure = closure_of(TREES["random"])
    flat, wide = (embed_closure(closure, dim=dim, dtype=torch.float32) for dim in (2, 6))
    assert flat.dtype == torch.float32
    torch.testing.assert_close(wide[:, :3], flat)
    assert (wide[:, 3:] == 0).all()
    assert reconstruct(flat.double(), Lorentz(), closure, progress=False).metrics()["map"] == 1


def test_a_single_node_and_an_empty_tree():
    assert embed_closure(Closure(["a"], torch.empty(0, 2, dtype=torch.int64))).tolist() == [[1, 0, 0]]
    assert [len(t) for t in nested_arcs(torch.empty(0, dtype=torch.int64))] == [0, 0]


def test_a_hierarchy_deeper_than_floats_warns():
    with pytest.warns(NumericalWarning, match="deeper than"):
        points = embed_closure(closure_of(range(-1, 120)), HTiling(2, 9))
    assert points.isfinite().all()


def test_bad_input():
    closure = closure_of(TREES["random"])
    with pytest.raises(DomainError, match="hyperbolic space"):
        embed_closure(closure, Euclidean())
    with pytest.raises(DomainError, match="two dimensions or more, got 1"):
        embed_closure(closure, dim=1)
    with pytest.raises(DomainError, match="needs limbs="):
        embed_closure(closure_of(range(-1, 40)), HTiling(2, 1))
    with pytest.raises(DataError, match="no cycles"):
        embed_closure(Closure.from_pairs([("a", "b"), ("b", "a")]))
