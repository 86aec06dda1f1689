"""`Neighbors` against loops in float64 and scikit-learn."""

import math
import sys

import numpy as np
import pytest
import torch
from sklearn.neighbors import NearestNeighbors

from geoembed import manifolds
from geoembed.blocks import distance_blocks, order_blocks, reduced
from geoembed.distance import Distance
from geoembed.distances import (
    Cosine,
    Euclidean,
    Geodesic,
    Lp,
    Mahalanobis,
    NegativeInner,
    SlicedWasserstein,
    TreeSlicedWasserstein,
)
from geoembed.distances.setwise import Chamfer, Hausdorff
from geoembed.errors import DomainError, MissingDependencyError, ShapeError, UnknownNameError
from geoembed.pointsets import PointSets
from geoembed.retrieval import Neighbors

NAN = float("nan")


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Signal(Distance):
    """|x - y|^2 / |x|^2: not symmetric."""

    symmetric = is_metric = False

    def _forward(self, x, y):
        return (x - y).square().sum(-1) / x.square().sum(-1)


class Counted(Euclidean):
    """Counts the items it embeds."""

    embedded = 0

    def embed(self, x):
        self.embedded += len(x)
        return x


def by_hand(d, k, skip=False):
    """Distances and indices from a matrix: ascending, ties by index."""
    rows = []
    for i, row in enumerate(d.tolist()):
        order = sorted((j for j in range(len(row)) if not (skip and i == j)), key=lambda j: (row[j], j))[:k]
        rows.append(([row[j] for j in order], order))
    return torch.tensor([r[0] for r in rows]), torch.tensor([r[1] for r in rows])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("offset", "scale"), [(0, 1), (100, 1), (100, 0.01), (-3, 1e-6), (0, 1e6)])
def test_against_scikit_learn(dtype, offset, scale):
    g = rng(0)
    x = (offset + scale * torch.randn(300, 16, generator=g, dtype=torch.float64)).to(dtype)
    q = (offset + scale * torch.randn(41, 16, generator=g, dtype=torch.float64)).to(dtype)
    theirs = NearestNeighbors(n_neighbors=9, algorithm="kd_tree").fit(x.double().numpy())  # from differences
    across = torch.linalg.vector_norm(q.double()[:, None] - x.double(), dim=-1)
    within = torch.linalg.vector_norm(x.double()[:, None] - x.double(), dim=-1)
    for budget in (1, 100_000, 1 << 26):
        ours = Neighbors(Euclidean(), budget=budget).fit(x)
        for own, other, exact in (
            (ours.kneighbors(q, 9), theirs.kneighbors(q.double().numpy()), by_hand(across, 9)),
            (ours.kneighbors(k=9), theirs.kneighbors(), by_hand(within, 9, skip=True)),
        ):
            assert own[0].dtype == dtype
            np.testing.assert_allclose(own[0], other[0], rtol=2 * torch.finfo(dtype).eps, atol=0)
            assert torch.equal(own[1], exact[1])  # scikit-learn leaves the order of ties open
            assert bool((own[1] == torch.from_numpy(other[1])).all()) or exact[0].diff().min() == 0
        assert ours.recall_ == 1


@pytest.mark.parametrize("k", [1, 3, 8])
def test_ties_come_in_the_order_of_their_index(k):
    x = torch.randint(0, 3, (30, 2), generator=rng(1)).float() + 0.1
    q = torch.randint(0, 3, (11, 2), generator=rng(2)).float() + 0.1
    for distance, p in ((Euclidean(), 2), (Lp(1), 1), (Lp(math.inf), math.inf)):
        d = torch.linalg.vector_norm((q.double()[:, None] - x.double()), ord=p, dim=-1).float()
        assert torch.equal(Neighbors(distance, budget=1).fit(x).kneighbors(q, k)[1], by_hand(d, k)[1])
        d = torch.linalg.vector_norm((x.double()[:, None] - x.double()), ord=p, dim=-1).float()
        assert torch.equal(Neighbors(distance).fit(x).kneighbors(k=k)[1], by_hand(d, k, skip=True)[1])


def test_all_distances_alike():
    x = torch.ones(500, 3)
    d, j = Neighbors(Euclidean(), budget=5000).fit(x).kneighbors(k=499)
    assert not d.any()
    assert all(row.tolist() == [i for i in range(500) if i != n] for n, row in enumerate(j))


def cases():
    g = rng(3)
    lorentz = manifolds.Lorentz()
    points = lorentz.random(25, 4, generator=g, dtype=torch.float64)
    vectors = torch.randn(25, 3, generator=g, dtype=torch.float64)
    sets = PointSets.from_list([torch.randn(1 + i % 5, 2, generator=g) for i in range(25)])
    equal = PointSets(torch.randn(25, 6, 2, generator=g), weights=torch.rand(25, 6, generator=g))
    tree = TreeSlicedWasserstein.fit(torch.randn(60, 2, generator=g), trees=3, depth=4, generator=g)
    return {
        "lorentz": (Geodesic(lorentz), points),
        "asymmetric": (Signal(), vectors),
        "cosine": (Cosine(), vectors),
        "inner": (NegativeInner(), vectors),
        "mahalanobis": (Mahalanobis(torch.randn(2, 3, generator=g, dtype=torch.float64)), vectors),
        "sliced": (SlicedWasserstein(dim=2, projections=7, generator=g), sets),
        "sliced weighted": (SlicedWasserstein(dim=2, projections=7, p=1.0, generator=g), equal),
        "tree": (tree, sets),
        "chamfer": (Chamfer(Euclidean()), sets),
        "hausdorff": (Hausdorff(Lp(1)), equal),
    }


@pytest.mark.parametrize("name", list(cases()))
@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_any_distance(name, budget):
    distance, x = cases()[name]
    found = Neighbors(distance, budget=budget).fit(x[5:])
    with torch.no_grad():
        across, own = distance.pairwise(x[:5], x[5:]), distance.pairwise(x[5:])
    for (d, j), (expected, order) in (
        (found.kneighbors(x[:5], 4), by_hand(across, 4)),
        (found.kneighbors(k=4), by_hand(own, 4, skip=True)),
    ):
        np.testing.assert_allclose(d.double(), expected, atol=2e-5 if d.dtype == torch.float32 else 1e-9)
        if d.dtype == torch.float64:
            assert torch.equal(j, order)
    near, which = found.radius_neighbors(x[:5], radius=float(across.median()))
    for i in range(5):
        assert set(which[i].tolist()) == set((across[i] <= across.median()).nonzero().flatten().tolist())
        assert (near[i].diff() >= 0).all()


def test_radius_neighbors():
    x = torch.randint(0, 4, (60, 2), generator=rng(4)).double()
    q = torch.randint(0, 4, (7, 2), generator=rng(5)).double()
    theirs = NearestNeighbors(radius=1.0).fit(x.numpy())
    ours = Neighbors(Euclidean(), budget=3000).fit(x)
    for own, other in (
        (ours.radius_neighbors(q, radius=1.0), theirs.radius_neighbors(q.numpy())),
        (ours.radius_neighbors(radius=1.0), theirs.radius_neighbors()),
    ):
        assert len(own[1]) == len(other[1])
        for a, b, c, d in zip(*own, *other, strict=True):
            assert sorted(b.tolist()) == sorted(d.tolist())
            np.testing.assert_array_equal(a, np.sort(c))
    assert all(len(r) == 0 for r in ours.radius_neighbors(q + 100, radius=0.5)[1])


def test_infinite_distances_are_found_last():
    class Cut(Distance):
        def _forward(self, x, y):
            d = (x - y).abs().sum(-1)
            return torch.where(d > 1.5, torch.inf, d)

    d, j = Neighbors(Cut()).fit(torch.tensor([[0.0], [1.0], [2.0], [9.0]])).kneighbors(k=3)
    assert j[0].tolist() == [1, 2, 3]
    assert d[0].tolist() == [1, math.inf, math.inf]
    assert j[3].tolist() == [0, 1, 2]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_widened(dtype):
    x = torch.randn(40, 8, generator=rng(6)).to(dtype)
    d, j = Neighbors(Euclidean()).fit(x).kneighbors(k=3)
    assert d.dtype == dtype
    assert torch.equal(j, Neighbors(Euclidean()).fit(x.double()).kneighbors(k=3)[1])
    distance = Mahalanobis(torch.eye(8).to(dtype))  # parameters of half precision too
    assert torch.equal(j, Neighbors(distance).fit(x).kneighbors(k=3)[1])


def test_items_are_embedded_once():
    distance = Counted()
    found = Neighbors(distance, budget=1).fit(torch.randn(30, 2))
    assert distance.embedded == 30
    found.kneighbors(torch.randn(7, 2), 2)
    found.kneighbors(k=2)
    assert distance.embedded == 37


def test_memory_is_bounded():
    """No block is larger than the budget, and none is the matrix."""
    x = torch.randn(2000, 4, generator=rng(7))
    sizes = [block.numel() for _, block in order_blocks(*reduced(Euclidean(), x, x), budget=1 << 20)]
    assert max(sizes) * 4 <= 1 << 20
    assert sum(sizes) == 2000 * 2000


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_keep_the_digits_of_close_pairs(dtype):
    """Clusters far from the origin and from each other, tight inside: all pairs of a cluster cancel."""
    g = rng(8)
    middle = 1e3 * torch.randn(5, 6, generator=g, dtype=torch.float64)
    x = (middle.repeat(20, 1) + 1e-2 * torch.randn(100, 6, generator=g, dtype=torch.float64)).to(dtype)
    exact = torch.linalg.vector_norm(x.double()[:, None] - x.double(), dim=-1)
    found = torch.cat([block.clone() for _, block in distance_blocks(*reduced(Euclidean(), x, x), budget=30_000)])
    np.testing.assert_allclose(found, exact, rtol={torch.float32: 2e-5, torch.float64: 1e-11}[dtype], atol=0)


def test_grids_keep_their_ties():
    """Squares of whole numbers are exact, about any mean."""
    x = torch.randint(-3, 9, (200, 7), generator=rng(9)).float()
    found = torch.cat([block.clone() for _, block in order_blocks(*reduced(Euclidean(), x, x), budget=1 << 16)])
    assert torch.equal(found, (x[:, None] - x).square().sum(-1))


def test_edges():
    x = torch.randn(4, 2)
    found = Neighbors(Euclidean()).fit(x)
    d, j = found.kneighbors(x[:0], 3)
    assert (d.shape, j.shape, j.dtype) == ((0, 3), (0, 3), torch.int64)
    assert found.radius_neighbors(x[:0], radius=1) == ([], [])
    assert found.kneighbors(x, 4)[1].shape == (4, 4)
    for queries, k, most in ((x, 5, 4), (None, 4, 3), (x, 0, 4)):
        with pytest.raises(DomainError, match=f"from 1 to {most}"):
            found.kneighbors(queries, k)
    with pytest.raises(DomainError, match="from 1 to 0"):
        Neighbors(Euclidean()).fit(x[:1]).kneighbors(k=1)
    assert Neighbors(Euclidean()).fit(torch.zeros(3, 0)).kneighbors(k=1)[0].tolist() == [[0]] * 3
    with pytest.raises(DomainError, match="not fitted"):
        Neighbors(Euclidean()).kneighbors(x)
    with pytest.raises(DomainError, match="no items"):
        Neighbors(Euclidean()).fit(x[:0])
    with pytest.raises(DomainError, match="radius"):
        found.radius_neighbors(x, radius=-1)
    with pytest.raises(DomainError, match="radius"):
        found.radius_neighbors(x, radius=NAN)
    with pytest.raises(DomainError, match="budget"):
        Neighbors(Euclidean(), budget=0)


@pytest.mark.parametrize(
    ("items", "error", "words"),
    [
        (torch.tensor([[0.0], [1.0], [NAN]]), DomainError, "X: 1 of 3 items .* first is row 2"),
        (torch.zeros(3, 2, dtype=torch.int32), ShapeError, "floating point"),
        (torch.zeros(3), ShapeError, "dimension"),
        (torch.zeros(1, 3, 2), ShapeError, "one batch dimension"),
        ([[0.0, 1.0]], ShapeError, "tensor"),
    ],
)
def test_bad_items(items, error, words):
    with pytest.raises(error, match=words):
        Neighbors(Euclidean()).fit(items)


def test_bad_queries():
    found = Neighbors(Euclidean()).fit(torch.randn(5, 2))
    with pytest.raises(ShapeError, match="number of features"):
        found.kneighbors(torch.randn(2, 3), 1)
    with pytest.raises(ShapeError, match="share dtype"):
        found.kneighbors(torch.randn(2, 2).double(), 1)
    with pytest.raises(DomainError, match=r"Q: 1 of 2 items .* first is row 1"):
        found.kneighbors(torch.tensor([[0.0, 0], [NAN, 0]]), 1)
    with pytest.raises(DomainError, match="item 1 of the rows to item 0 is NaN"):
        Neighbors(Signal()).fit(torch.zeros(2, 2)).kneighbors(torch.tensor([[1.0, 0], [0, 0]]), 1)


# -------------------------------------------------------------------------------------------------------------- index


def test_index_finds_most_neighbours():
    pytest.importorskip("usearch", reason="the index needs usearch (extra ann)")
    g = rng(10)
    x, q = torch.randn(900, 24, generator=g), torch.randn(50, 24, generator=g)
    distance = Mahalanobis(torch.randn(12, 24, generator=g))
    exact = Neighbors(distance).fit(x)
    for budget in (1000, 1 << 25):
        found = Neighbors(distance, index="usearch", budget=budget, generator=rng(0)).fit(x)
        assert 0.9 < found.recall_ <= 1
        for queries in (q, None):
            (d, j), (true, order) = found.kneighbors(queries, 10), exact.kneighbors(queries, 10)
            measured = float((j.unsqueeze(2) == order.unsqueeze(1)).any(2).double().mean())
            assert measured > found.recall_ - 0.05
            assert (d.diff(dim=1) >= 0).all()
            assert (d >= true - 1e-5).all()
            items = x if queries is None else q
            rows = torch.arange(len(items)).unsqueeze(1).expand_as(j)
            np.testing.assert_allclose(d, distance(items[rows], x[j]).detach(), rtol=1e-5)
    assert torch.equal(found.radius_neighbors(q, radius=5.0)[1][0], exact.radius_neighbors(q, radius=5.0)[1][0])


def test_a_bad_graph_has_a_bad_recall(monkeypatch):
    """recall_ is measured: a graph that gives any items is found out."""
    pytest.importorskip("usearch", reason="the index needs usearch (extra ann)")
    import geoembed.retrieval as retrieval

    real = retrieval._graph
    monkeypatch.setattr(retrieval, "_graph", lambda vectors: real(vectors[torch.randperm(len(vectors))]))
    assert Neighbors(Euclidean(), index="usearch").fit(torch.randn(500, 4)).recall_ < 0.5


def test_index_of_small_sets_is_exact():
    pytest.importorskip("usearch", reason="the index needs usearch (extra ann)")
    x = torch.randn(6, 3, generator=rng(11))
    found = Neighbors(Euclidean(), index="usearch").fit(x)
    assert torch.equal(found.kneighbors(k=5)[1], Neighbors(Euclidean()).fit(x).kneighbors(k=5)[1])
    assert found.kneighbors(x[:0], 2)[1].shape == (0, 2)
    assert found.kneighbors(x[3:4], 2)[1][0, 0] == 3
    assert Neighbors(Euclidean(), index="usearch").fit(x[:1]).kneighbors(x, 1)[1].tolist() == [[0]] * 6
    sets = PointSets.from_list([torch.randn(4, 2, generator=rng(i)) for i in range(30)])
    sliced = SlicedWasserstein(dim=2, projections=5, generator=rng(0))
    found = Neighbors(sliced, index="usearch").fit(sets)
    np.testing.assert_allclose(found.kneighbors(k=3)[0], Neighbors(sliced).fit(sets).kneighbors(k=3)[0], rtol=1e-4)


def test_bad_index(monkeypatch):
    with pytest.raises(UnknownNameError, match="usearch"):
        Neighbors(Euclidean(), index="faiss")
    for distance in (Cosine(), Lp(1)):
        with pytest.raises(DomainError, match="embed_p = 2"):
            Neighbors(distance, index="usearch")
    monkeypatch.setitem(sys.modules, "usearch.index", None)
    with pytest.raises(MissingDependencyError, match=r"geoembed\[ann\]"):
        Neighbors(Euclidean(), index="usearch").fit(torch.randn(5, 2))
