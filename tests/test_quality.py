"""Evaluation against loops over all orders of ties, scikit-learn, pytorch-metric-learning and closed forms."""

import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score

from geoembed import manifolds
from geoembed.distance import Distance, Scaled
from geoembed.distances import Cosine, Euclidean, Geodesic, Lp, Mahalanobis, NegativeInner, SlicedWasserstein
from geoembed.distances.setwise import Chamfer, Hausdorff
from geoembed.distances.snr import SNR
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets
from geoembed.quality import (
    FusedDiffusion,
    cluster_agreement,
    compare,
    compare_all,
    holm,
    interval,
    k_means,
    odd_one_out_accuracy,
    pi_ratio,
    retrieval_metrics,
    retrieval_metrics_of,
    spectral_complexity,
    spectral_decay,
    triplet_accuracy,
)

NAN = float("nan")


def rng(seed):
    return torch.Generator().manual_seed(seed)


class Signal(Distance):
    """|x - y|^2 / |x|^2: not symmetric."""

    symmetric = is_metric = False

    def _forward(self, x, y):
        return (x - y).square().sum(-1) / x.square().sum(-1)


# ----------------------------------------------------------------------------------------------------------- oracle


def figures(relevant, ks):
    """relevant: list of bools in the order of growing distance."""
    r = sum(relevant)
    hits = [sum(relevant[:i]) / i for i in range(1, r + 1) if relevant[i - 1]]
    return [sum(hits) / r, len(hits) / r, float(relevant[0]), *(float(any(relevant[:k])) for k in ks)]


def orders_of(group):
    """All different orders of a list of bools."""
    places = itertools.combinations(range(len(group)), sum(group))
    return [[i in chosen for i in range(len(group))] for chosen in map(set, places)]


def by_hand(d, labels, ref_labels, out, ks=(1, 2, 4, 8)):
    """Mean of the best and worst value over ALL orders of each tie, a row at a time. out: pairs to leave out."""
    rows = []
    for i, label in enumerate(labels):
        left = [(float(d[i][j]), label == ref_labels[j]) for j in range(len(ref_labels)) if not out(i, j)]
        if not any(r for _, r in left):
            rows.append([NAN] * (3 + len(ks)))
            continue
        groups = [[r for e, r in left if e == value] for value in sorted({e for e, _ in left})]
        orders = itertools.product(*map(orders_of, groups))
        every = np.array(sorted({tuple(figures([r for g in order for r in g], ks)) for order in orders}))
        rows.append(list((every.max(0) + every.min(0)) / 2))
    return np.array(rows)


def as_rows(result):
    return torch.stack(list(result.per_query.values()), 1).numpy()


# ------------------------------------------------------------------------------------------------------------- ranks


@pytest.mark.parametrize("seed", range(8))
def test_ranks_with_every_order_of_ties(seed):
    """Coordinates on a grid of few values: nearly everything ties."""
    g = rng(seed)
    x = torch.randint(0, 3, (9, 2), generator=g).double()
    y = torch.randint(0, 3, (7, 2), generator=g).double()
    a, b = torch.randint(0, 3, (9,), generator=g), torch.randint(0, 4, (7,), generator=g)
    for p in (2, 1, math.inf):
        distance = Euclidean() if p == 2 else Lp(p)
        d = torch.linalg.vector_norm(x[:, None] - y, ord=p, dim=-1)
        for budget in (1, 1 << 20):
            result = retrieval_metrics(distance, x, a, y, b, budget=budget)
            np.testing.assert_allclose(as_rows(result), by_hand(d, a, b, lambda i, j: False), atol=1e-12)
        own = retrieval_metrics(distance, x, a)
        d = torch.linalg.vector_norm(x[:, None] - x, ord=p, dim=-1)
        expected = by_hand(d, a, a, lambda i, j: i == j)
        np.testing.assert_allclose(as_rows(own), expected, atol=1e-12)
        skipped = int(np.isnan(expected[:, 0]).sum())
        assert own.n_skipped == skipped
        assert own.map_at_r == pytest.approx(np.nanmean(expected[:, 0]) if skipped < 9 else NAN, nan_ok=True)


@pytest.mark.parametrize("seed", range(6))
def test_ids_leave_pairs_out(seed):
    g = rng(100 + seed)
    x, y = torch.randint(0, 4, (8, 2), generator=g).float(), torch.randint(0, 4, (9, 2), generator=g).float()
    a, b = torch.randint(0, 2, (8,), generator=g), torch.randint(0, 2, (9,), generator=g)
    s, t = torch.randint(0, 4, (8,), generator=g), torch.randint(0, 4, (9,), generator=g)
    result = retrieval_metrics(Euclidean(), x, a, y, b, ids=s, ref_ids=t)
    d = torch.linalg.vector_norm(x[:, None] - y, dim=-1)
    expected = by_hand(d, a, b, lambda i, j: bool(s[i] == t[j]))
    np.testing.assert_allclose(as_rows(result), expected, atol=1e-12)
    own = retrieval_metrics(Euclidean(), x, a, ids=s)
    d = torch.linalg.vector_norm(x[:, None] - x, dim=-1)
    expected = by_hand(d, a, a, lambda i, j: bool(s[i] == s[j]))
    np.testing.assert_allclose(as_rows(own), expected, atol=1e-12)


def test_examples_of_the_protocol():
    """R = 10: only rank 1 right; ranks 1 to 10 right; ranks 6 to 10 right."""
    far = torch.arange(1.0, 31).unsqueeze(1)
    for right, expected in (([1], (0.1, 0.1, 1)), (range(1, 11), (1, 1, 1)), (range(6, 11), (0.5, 0.1772, 0))):
        labels = [1 if rank in right else 0 for rank in range(1, 31)]
        for rank in range(30 - 10 + len(right), 30):  # the others of the ten, beyond rank 10
            labels[rank] = 1
        result = retrieval_metrics(Euclidean(), torch.zeros(1, 1), [1], far, labels)
        assert (result.r_precision, result.map_at_r, result.precision_at_1) == pytest.approx(expected, abs=1e-4)


@pytest.mark.parametrize("value", [2.0, math.inf])
def test_ties_at_the_edge_of_what_is_looked_at(value):
    """All items beyond the second at one distance, infinite too: the counts must not be cut short."""
    n = 60
    d = torch.full((1, n), value)
    d[0, :2] = torch.tensor([0.5, 1.0])
    labels = torch.zeros(n, dtype=torch.long)
    labels[[1, 20, 40]] = 1
    result = retrieval_metrics_of(d, [1], labels, ks=(1, 2, 3))
    best = figures([False, True, True, True] + [False] * 56, (1, 2, 3))
    worst = figures([False, True] + [False] * 56 + [True, True], (1, 2, 3))
    np.testing.assert_allclose(as_rows(result)[0], (np.array(best) + worst) / 2, atol=1e-12)
    assert result.n_tied == 1


def test_an_infinite_distance_is_no_pair_left_out():
    d = torch.tensor([[0.0, math.inf, 1.0, math.inf], [1.0, 0.0, 2.0, 3.0], [1.0, 2.0, 0.0, 3.0], [1.0, 2.0, 3.0, 0.0]])
    expected = by_hand(d, [0, 0, 1, 1], [0, 0, 1, 1], lambda i, j: i == j)
    np.testing.assert_allclose(as_rows(retrieval_metrics_of(d, [0, 0, 1, 1])), expected, atol=1e-12)


def test_against_pytorch_metric_learning():
    pytest.importorskip("pytorch_metric_learning", reason='needs the extra: pip install "geoembed[interop]"')
    from pytorch_metric_learning.distances import LpDistance
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    calculator = AccuracyCalculator(
        include=("precision_at_1", "r_precision", "mean_average_precision_at_r"),
        k="max_bin_count",
        knn_func=CustomKNN(LpDistance(normalize_embeddings=False)),
        device=torch.device("cpu"),
    )
    g = rng(0)
    labels = torch.cat([torch.zeros(40), torch.arange(160) % 13]).long()  # classes of very different size
    x = torch.randn(13, 5, generator=g, dtype=torch.float64)[labels] + torch.randn(200, 5, generator=g).double()
    theirs = calculator.get_accuracy(x, labels)
    ours = retrieval_metrics(Euclidean(), x, labels, budget=1 << 14)
    assert ours.n_tied == 0
    assert ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-12)
    assert ours.r_precision == pytest.approx(theirs["r_precision"], abs=1e-12)
    assert ours.precision_at_1 == pytest.approx(theirs["precision_at_1"], abs=1e-12)
    q = x[::7] + 0.1
    theirs = calculator.get_accuracy(q, labels[::7], x, labels, ref_includes_query=False)
    ours = retrieval_metrics(Euclidean(), q, labels[::7], x, labels)
    assert ours.map_at_r == pytest.approx(theirs["mean_average_precision_at_r"], abs=1e-12)


def test_any_distance():
    g = rng(1)
    ball = manifolds.PoincareBall()
    points = ball.random(40, 3, generator=g, dtype=torch.float64)
    labels = torch.randint(0, 4, (40,), generator=g)
    sets = PointSets.from_list([torch.randn(int(n), 2, generator=g) for n in torch.randint(1, 6, (40,), generator=g)])
    cases = [
        (Geodesic(ball), points),
        (Signal(), points),
        (SNR(), points + 0.3),
        (Cosine(), points),
        (NegativeInner(), points),
        (Mahalanobis(torch.randn(2, 3, generator=g, dtype=torch.float64)), points),
        (Chamfer(Euclidean()), sets),
        (SlicedWasserstein(dim=2, projections=8, generator=g), sets),
        (Scaled(Lp(math.inf), 2.0), points),
    ]
    for distance, x in cases:
        with torch.no_grad():
            d = distance.pairwise(x)
        whole = retrieval_metrics_of(d, labels)
        blocks = retrieval_metrics(distance, x, labels, budget=3000)
        assert blocks.as_dict() == pytest.approx(whole.as_dict(), abs=1e-9), distance
    zeros = torch.tensor([[1.0, 0], [2, 0], [0, 0], [0, 0], [-1, 0]])  # at 0 from each other, at 1 from the others
    assert retrieval_metrics(Cosine(), zeros, [0, 0, 1, 1, 2]).map_at_r == 1
    d = Signal().pairwise(points)
    assert retrieval_metrics_of(d, labels) != retrieval_metrics_of(d.mT.contiguous(), labels)  # queries are the rows


def test_matrices_of_other_kinds(tmp_path):
    import scipy.sparse

    g = rng(2)
    d = torch.rand(30, 30, generator=g)
    labels = torch.randint(0, 3, (30,), generator=g)
    expected = retrieval_metrics_of(d, labels)
    np.save(tmp_path / "d.npy", d.numpy())
    assert retrieval_metrics_of(np.load(tmp_path / "d.npy", mmap_mode="r"), labels, budget=500) == expected
    assert retrieval_metrics_of(scipy.sparse.csr_array(d.numpy()), labels, budget=500) == expected
    kept = d.clone()
    retrieval_metrics_of(d, labels)
    assert torch.equal(d, kept)  # it is read, not written
    array = d.numpy().copy()
    retrieval_metrics_of(array, labels)
    assert np.array_equal(array, kept.numpy())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_dtypes_and_gradients(dtype):
    x = torch.randn(20, 4, generator=rng(3)).to(dtype).requires_grad_()
    kept = x.detach().clone()
    result = retrieval_metrics(Euclidean(), x, torch.arange(20) % 4)
    assert 0 <= result.map_at_r <= result.r_precision <= 1
    assert torch.equal(x, kept)


def test_close_pairs_far_from_the_origin():
    """One product would give their distances no digit."""
    x = 1e4 + torch.randn(50, 3, generator=rng(4)).double() * 1e-3
    labels = torch.arange(50) % 5
    exact = retrieval_metrics(Euclidean(), x - 1e4, labels)
    assert retrieval_metrics(Euclidean(), x, labels).as_dict() == pytest.approx(exact.as_dict(), abs=1e-9)


def test_copies_tie():
    """Ten copies of one point with two labels: each order is as good as the other."""
    x = torch.randn(1, 64, generator=rng(5)).expand(10, 64) * 1e3
    result = retrieval_metrics(Euclidean(), x, torch.arange(10) % 2)
    assert result.precision_at_1 == 0.5
    assert result.n_tied == 10


def test_nasty_retrieval():
    x = torch.randn(6, 2, generator=rng(6))
    assert retrieval_metrics(Euclidean(), x, [3] * 6).map_at_r == 1  # one class
    alone = retrieval_metrics(Euclidean(), x, range(6))
    assert (alone.n_queries, alone.n_skipped) == (6, 6)
    assert math.isnan(alone.map_at_r)
    assert math.isnan(alone.recall[1])
    assert retrieval_metrics(Euclidean(), x[:1], [0]).n_skipped == 1
    assert retrieval_metrics(Euclidean(), x, [0, 0, 1, 1, 2, 3], ks=(100,)).recall[100] == 1  # k beyond the items
    none = retrieval_metrics(Euclidean(), x[:0], [], x, range(6))
    assert (none.n_queries, none.n_skipped) == (0, 0)
    assert math.isnan(none.map_at_r)
    assert retrieval_metrics(Euclidean(), x, range(6), x[:0], []).n_skipped == 6
    assert retrieval_metrics(Euclidean(), x, range(6), x, [7] * 6).n_skipped == 6  # labels that ref does not have
    assert "map@r" in str(alone)


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ((torch.zeros(3, 2), [0, 0]), ShapeError, "3 items, 2 labels"),
        ((torch.tensor([[0.0], [NAN], [1.0]]), [0, 0, 1]), DomainError, "first is row 1"),
        ((torch.tensor([[0.0], [2.0], [math.inf]]), [0, 0, 1]), DomainError, "first is row 2"),
        ((torch.zeros(3, 2, dtype=torch.long), [0, 0, 1]), ShapeError, "floating point"),
        ((torch.zeros(3, 2), torch.zeros(3)), ShapeError, "whole numbers"),
        ((torch.zeros(3), [0, 0, 1]), ShapeError, "dimension"),
        ((torch.zeros(2, 3, 2), [0, 0]), ShapeError, "one batch dimension"),
        ((np.zeros((3, 2)), [0, 0, 1]), ShapeError, "tensor"),
        ((torch.zeros(3, 2), [0, 0, 1], torch.zeros(4, 3), [0] * 4), ShapeError, "features"),
        ((torch.zeros(3, 2), [0, 0, 1], torch.zeros(4, 2)), ShapeError, "ref_labels"),
        ((torch.zeros(3, 2), [0, 0, 1], None, [0]), ShapeError, "no ref"),
        ((torch.zeros(3, 2), [0, 0, 1], torch.zeros(2, 2), [0]), ShapeError, "2 items, 1 ref_labels"),
    ],
)
def test_bad_retrieval(arguments, error, words):
    with pytest.raises(error, match=words):
        retrieval_metrics(Euclidean(), *arguments)


def test_more_bad_retrieval():
    x = torch.zeros(3, 2)
    with pytest.raises(DomainError, match="k >= 1"):
        retrieval_metrics(Euclidean(), x, [0, 0, 1], ks=(0,))
    with pytest.raises(DomainError, match="budget"):
        retrieval_metrics(Euclidean(), x, [0, 0, 1], budget=0)
    with pytest.raises(ShapeError, match="ref_ids"):
        retrieval_metrics(Euclidean(), x, [0, 0, 1], x, [0, 0, 1], ids=[1, 2, 3])
    with pytest.raises(ShapeError, match="without ids"):
        retrieval_metrics(Euclidean(), x, [0, 0, 1], x, [0, 0, 1], ref_ids=[1, 2, 3])
    with pytest.raises(DomainError, match="item 0 of the rows to item 0 is NaN"):
        retrieval_metrics(Signal(), x, [0, 0, 1])
    with pytest.raises(DomainError):
        retrieval_metrics(SNR(), torch.tensor([[1.0, 2], [3, 3], [0, 5]]), [0, 0, 1])  # an anchor without a signal
    with pytest.raises(DomainError, match="NaN in row 1"):
        retrieval_metrics_of(torch.tensor([[0.0, 1.0], [NAN, 0.0]]), [0, 0])
    with pytest.raises(ShapeError, match="square"):
        retrieval_metrics_of(torch.zeros(2, 3), [0, 0])
    sets = PointSets.from_list([torch.zeros(2, 2), torch.tensor([[NAN, 0.0]])])
    with pytest.raises(DomainError, match="first is row 1"):
        retrieval_metrics(Chamfer(Euclidean()), sets, [0, 0])


# ---------------------------------------------------------------------------------------------------------- clusters


def blobs(seed, n=120, k=4, d=3, spread=6.0, dtype=torch.float64):
    g = rng(seed)
    labels = torch.arange(n) % k
    return spread * torch.randn(k, d, generator=g, dtype=dtype)[labels] + torch.randn(
        n, d, generator=g, dtype=dtype
    ), labels


def test_k_means_is_lloyd():
    x, _ = blobs(0, spread=1.5)
    ours = k_means(Euclidean(), x, 4, restarts=8, generator=rng(0))
    theirs = KMeans(4, n_init=20, random_state=0).fit(x.numpy())
    middle = torch.stack([x[ours == c].mean(0) for c in range(4)])
    inertia = float((x - middle[ours]).square().sum())
    assert inertia <= theirs.inertia_ * 1.02
    nearest = Euclidean().pairwise(x, middle).argmin(1)
    assert torch.equal(nearest, ours)  # a fixed point of Lloyd's rounds


def test_k_means_of_other_spaces():
    x, labels = blobs(1)
    ball = manifolds.PoincareBall()
    points = ball.from_tangent(x / x.norm(dim=1).max() * 3)
    sets = PointSets.from_list([x[i] + torch.randn(1 + i % 4, 3, generator=rng(i)).double() for i in range(len(x))])
    for distance, items in (
        (Euclidean(), x),
        (Cosine(), x),
        (Geodesic(ball), points),
        (SlicedWasserstein(dim=3, projections=6, generator=rng(0)), sets),
        (Hausdorff(Euclidean()), sets),
    ):
        found = cluster_agreement(distance, items, labels, restarts=4, generator=rng(2))
        assert found.ami > 0.5, distance
    x, labels = blobs(1, spread=60)
    assert cluster_agreement(Euclidean(), x, labels, restarts=4, generator=rng(2)) == pytest.approx((1, 1))


def test_k_means_edges():
    same = torch.ones(7, 2)
    assert k_means(Euclidean(), same, 7, generator=rng(0)).sort().values.tolist() == list(range(7))
    assert k_means(Euclidean(), same, 1).tolist() == [0] * 7
    assert sorted(k_means(Euclidean(), same, 3, generator=rng(0)).unique().tolist()) == [0, 1, 2]
    for k in (0, 8):
        with pytest.raises(DomainError, match="n_clusters"):
            k_means(Euclidean(), same, k)
    x, _ = blobs(3)
    a, b = (k_means(Euclidean(), x, 5, generator=rng(9)) for _ in range(2))
    assert torch.equal(a, b)


def test_agreement_is_that_of_scikit_learn():
    x, labels = blobs(2, spread=1.0)
    found = k_means(Euclidean(), x, 6, generator=rng(3)).numpy()
    ours = cluster_agreement(Euclidean(), x, labels, n_clusters=6, generator=rng(3))
    assert ours.ami == adjusted_mutual_info_score(labels, found)
    assert ours.nmi == normalized_mutual_info_score(labels, found)


def pi_by_hand(d, mean, x, labels):
    intra = [float(d(x[i], x[j])) for i in range(len(x)) for j in range(len(x)) if i != j and labels[i] == labels[j]]
    mu = [mean(x[labels == c]) for c in labels.unique()]
    inter = [float(d(a, b)) for a, b in itertools.permutations(mu, 2)]
    return np.mean(intra) / np.mean(inter)


def test_pi_ratio_against_loops():
    x, labels = blobs(4, n=26)
    labels[:5] = 7
    ball = manifolds.PoincareBall()
    points = ball.from_tangent(x / 5)
    unit = torch.nn.functional.normalize
    for distance, items, mean in (
        (Euclidean(), x, lambda a: a.mean(0)),
        (Signal(), x, lambda a: a.mean(0)),
        (Cosine(), x, lambda a: unit(a, dim=1).mean(0)),
        (Geodesic(ball), points, ball.barycentre),
    ):
        expected = pi_by_hand(distance, mean, items, labels)
        for budget in (1, 1 << 20):
            assert pi_ratio(distance, items, labels, budget=budget).ratio == pytest.approx(expected, rel=1e-9), distance
    sets = PointSets.from_list([x[i] + torch.randn(1 + i % 3, 3, generator=rng(i)).double() for i in range(len(x))])
    chamfer = Chamfer(Euclidean())

    def medoid(members):
        return members[int(chamfer.pairwise(members).sum(0).argmin())]

    assert pi_ratio(chamfer, sets, labels).ratio == pytest.approx(pi_by_hand(chamfer, medoid, sets, labels), rel=1e-9)


def test_bad_pi_ratio():
    for labels in ([1] * 4, range(4)):
        with pytest.raises(DomainError, match="two classes and a class of two"):
            pi_ratio(Euclidean(), torch.randn(4, 2), labels)
    assert pi_ratio(Euclidean(), torch.tensor([[0.0], [2.0], [1.0], [1.0]]), [0, 0, 1, 1]).ratio == math.inf


def test_spectral_decay():
    d = 4
    assert spectral_decay(Euclidean(), torch.eye(d).repeat(5, 1)) == pytest.approx(0, abs=1e-6)
    stretched = torch.diag(torch.tensor([1.0, 2.0, 3.0, 4.0], dtype=torch.float64))
    expected = scipy.stats.entropy(np.full(d, 1 / d), np.array([1, 2, 3, 4]) / 10)
    assert spectral_decay(Euclidean(), stretched) == pytest.approx(expected, rel=1e-12)
    assert spectral_decay(Mahalanobis(stretched), torch.eye(d).double()) == pytest.approx(expected, rel=1e-12)
    x = torch.randn(30, 4, generator=rng(0), dtype=torch.float64) + 5
    flat = x.clone()
    flat[:, 3] = flat[:, 0] - flat[:, 1]
    assert spectral_decay(Euclidean(), flat) == math.inf
    assert spectral_decay(Euclidean(), x, centred=True) == pytest.approx(spectral_decay(Euclidean(), x - x.mean(0)))
    for manifold in (manifolds.PoincareBall(0.7), manifolds.Lorentz(1.3), manifolds.HalfSpace()):
        geodesic = Geodesic(manifold)
        u = torch.randn(30, 4, generator=rng(1), dtype=torch.float64)
        points = manifold.from_tangent(u)
        assert spectral_decay(geodesic, points) == pytest.approx(spectral_decay(Euclidean(), u), rel=1e-9)
        # at the mean it does not change when all points are moved
        move = manifold.from_tangent(torch.tensor([0.5, -1.0, 0.3, 0.2], dtype=torch.float64))
        moved = manifold.add(move.expand_as(points), points)
        assert spectral_decay(geodesic, moved, centred=True) == pytest.approx(
            spectral_decay(geodesic, points, centred=True), rel=1e-5
        )
        assert abs(spectral_decay(geodesic, moved) - spectral_decay(geodesic, points)) > 1e-3
    with pytest.raises(DomainError, match="no vectors"):
        spectral_decay(Chamfer(Euclidean()), torch.randn(3, 2, 2))
    for bad in (torch.zeros(3, 2), torch.zeros(0, 2)):
        with pytest.raises(DomainError, match="at the origin"):
            spectral_decay(Euclidean(), bad)


# -------------------------------------------------------------------------------------------------------- complexity


def csg_by_hand(d, classes, k):
    n, count = len(d), int(classes.max()) + 1
    s = np.zeros((count, count))
    for i in range(n):
        near = sorted((j for j in range(n) if j != i), key=lambda j: (float(d[i, j]), j))[:k]
        for j in near:
            s[classes[i], classes[j]] += 1 / float(d[i, near[-1]])
    s /= s.sum(1, keepdims=True)
    w = np.array([[1 - np.abs(a - b).sum() / (a + b).sum() for b in s] for a in s])
    values = np.sort(np.linalg.eigvalsh(np.diag(w.sum(1)) - w))
    gaps = [(values[i + 1] - values[i]) / (count - i) for i in range(count - 1)]
    return np.maximum.accumulate(gaps).sum()


def test_spectral_complexity_against_a_loop():
    x, labels = blobs(5, n=60, k=5, spread=1.0)
    for distance in (Euclidean(), Signal(), Lp(1)):
        expected = csg_by_hand(distance.pairwise(x), labels, 4)
        assert float(spectral_complexity(distance, x, labels, k=4)) == pytest.approx(expected, rel=1e-9)
    scaled = spectral_complexity(Scaled(Euclidean(), 100.0), x, labels)
    assert float(scaled) == pytest.approx(float(spectral_complexity(Euclidean(), x, labels)), rel=1e-9)


def test_spectral_complexity_at_its_ends():
    apart, labels = blobs(6, n=60, k=3, spread=100.0)
    result = spectral_complexity(Euclidean(), apart, labels)
    assert result.csg == pytest.approx(0, abs=1e-9)
    np.testing.assert_allclose(result.similarity, np.eye(3), atol=1e-12)
    # copies of one point: each of three classes sees the same neighbours if k takes all of them, but itself
    mixed = spectral_complexity(Euclidean(), torch.randn(600, 2, generator=rng(7)), torch.arange(600) % 3, samples=50)
    assert 1.2 < mixed.csg <= 2
    copies = spectral_complexity(Euclidean(), torch.ones(90, 2), torch.arange(90) % 3, k=80)
    assert copies.csg == pytest.approx(2, abs=0.2)
    near, _ = blobs(6, n=60, k=3, spread=1.0)
    assert result.csg < float(spectral_complexity(Euclidean(), near, labels)) < 2
    a, b = (spectral_complexity(Euclidean(), near, labels, samples=5, generator=rng(1)).csg for _ in range(2))
    assert a == b


def test_bad_complexity():
    x = torch.randn(5, 2)
    with pytest.raises(DomainError, match="at least two"):
        spectral_complexity(Euclidean(), x, [0] * 5)
    with pytest.raises(DomainError, match="k must"):
        spectral_complexity(Euclidean(), x, range(5), k=5)
    with pytest.raises(DomainError, match="negative"):
        spectral_complexity(NegativeInner(), x + 9, range(5))


# ---------------------------------------------------------------------------------------------------------- triplets


def test_triplets():
    x = torch.randint(0, 4, (12, 2), generator=rng(8)).double() + 1
    t = torch.randint(0, 12, (200, 3), generator=rng(9))
    for distance in (Euclidean(), Signal(), Lp(1)):
        d = distance(x.unsqueeze(1), x)
        plain, odd = [], []
        for a, p, n in t.tolist():
            near, far = float(d[a, p]), float(d[a, n])
            plain.append((near < far) + (near == far) / 2)
            other = min(far, float(d[p, n]))
            odd.append((near < other) + (near == other) / 2)
        assert triplet_accuracy(distance, x, t, budget=1) == pytest.approx(np.mean(plain), abs=1e-12)
        assert odd_one_out_accuracy(distance, x, t) == pytest.approx(np.mean(odd), abs=1e-12)
    sets = PointSets.from_list([x[: 1 + i % 3] + i for i in range(6)])
    assert triplet_accuracy(Chamfer(Euclidean()), sets, [[0, 1, 5], [5, 0, 4]]) == 0.5
    with pytest.raises(DomainError, match="triplet 1 is"):
        triplet_accuracy(Euclidean(), x, [[0, 1, 2], [0, 1, 12]])
    with pytest.raises(ShapeError, match=r"\(t, 3\)"):
        triplet_accuracy(Euclidean(), x, [[0, 1]])
    assert math.isnan(triplet_accuracy(Euclidean(), x, torch.zeros(0, 3, dtype=torch.long)))


# --------------------------------------------------------------------------------------------------------- re-ranking


def dense_graph(d, k):
    n = len(d)
    w = np.zeros((n, n))
    order = [sorted((j for j in range(n) if j != i), key=lambda j: (d[i, j], j))[:k] for i in range(n)]
    scale = [d[i, near[-1]] for i, near in enumerate(order)]
    for i, near in enumerate(order):
        for j in near:
            w[i, j] = math.exp(-(d[i, j] ** 2) / (scale[i] * scale[j]))
    w = np.maximum(w, w.T) + np.eye(n)
    return w / np.sqrt(np.outer(w.sum(1), w.sum(1)))


def test_diffusion_solves_its_equation():
    """Against the linear system (1 + mu) A - sum beta S A S = mu I in Kronecker form."""
    x = torch.randn(14, 3, generator=rng(10), dtype=torch.float64)
    distances = [Euclidean(), Lp(1)]
    found = FusedDiffusion(distances, k=3, mu=0.5, lam=2.0, steps=200, turns=1, keep=14, budget=2000).fit(x)
    graphs = [dense_graph(d.pairwise(x).numpy(), 3) for d in distances]
    system = 1.5 * np.eye(196) - sum(np.kron(s, s) for s in graphs) / 2
    expected = np.linalg.solve(system, 0.5 * np.eye(14).ravel()).reshape(14, 14)
    np.testing.assert_allclose(found.affinity_.toarray(), expected, atol=1e-10)
    roughness = np.array([(expected**2).sum() - (expected * (s @ expected @ s)).sum() for s in graphs]) / 14
    lam = 2 / 9  # (0.5 / 1.5)^2 times the 2 below
    best = min(
        (float(b * roughness[0] + (1 - b) * roughness[1] + lam * (b * b + (1 - b) ** 2) / 2), b)
        for b in np.linspace(0, 1, 20001)
    )
    assert float(found.weights_[0]) == pytest.approx(best[1], abs=1e-4)


def test_diffusion_lowers_its_objective():
    x, _ = blobs(7, n=40)
    noise = torch.randn(40, 3, generator=rng(3), dtype=torch.float64)
    found = FusedDiffusion([Euclidean(), Euclidean()], k=5, steps=1, turns=12, keep=40, lam=0.5).fit([x, noise])
    assert all(b <= a + 1e-12 for a, b in itertools.pairwise(found.objective_))
    assert float(found.weights_.sum()) == pytest.approx(1)


def test_diffusion_helps():
    """Two rings: neighbours chain around each ring, straight distances cut across. A noise distance loses weight."""
    g = rng(11)
    angle = 2 * math.pi * torch.rand(200, generator=g)
    labels = torch.arange(200) % 2
    radius = 1 + 0.5 * labels
    ring = torch.stack([radius * angle.cos(), radius * angle.sin()], 1) + 0.03 * torch.randn(200, 2, generator=g)
    before = retrieval_metrics(Euclidean(), ring, labels).map_at_r
    plain = FusedDiffusion(Euclidean(), k=6, mu=0.01, steps=40).fit(ring)
    after = retrieval_metrics_of(-plain.affinity_, labels).map_at_r
    assert after > before + 0.1
    noise = torch.randn(200, 2, generator=g)
    fused = FusedDiffusion([Euclidean(), Euclidean()], k=6, keep=50).fit([ring, noise])
    assert fused.weights_[0] > fused.weights_[1] + 0.1
    values, indices = fused.kneighbors(4)
    a = fused.affinity_.toarray()
    np.fill_diagonal(a, -1)
    np.testing.assert_array_equal(indices, np.argsort(-a, axis=1, kind="stable")[:, :4])
    np.testing.assert_allclose(values, np.take_along_axis(a, indices.numpy(), 1))
    assert np.diff(fused.affinity_.indptr).max() <= 50


def test_bad_diffusion():
    x = torch.randn(8, 2)
    with pytest.raises(ShapeError, match="2 distances"):
        FusedDiffusion([Euclidean(), Lp(1)], k=2).fit([x])
    with pytest.raises(ShapeError, match="same items"):
        FusedDiffusion([Euclidean(), Lp(1)], k=2).fit([x, x[:5]])
    with pytest.raises(DomainError, match="k must"):
        FusedDiffusion(Euclidean(), k=8).fit(x)
    with pytest.raises(DomainError, match="negative"):
        FusedDiffusion(NegativeInner(), k=2).fit(x + 9)
    with pytest.raises(DomainError, match="mu"):
        FusedDiffusion(Euclidean(), mu=0)
    with pytest.raises(DomainError, match="at least one"):
        FusedDiffusion([])
    with pytest.raises(DomainError, match="not fitted"):
        FusedDiffusion(Euclidean()).kneighbors()
    same = FusedDiffusion(Euclidean(), k=3).fit(torch.ones(6, 2))
    assert np.isfinite(same.affinity_.toarray()).all()


# --------------------------------------------------------------------------------------------------------- intervals


def test_interval_is_the_t_interval():
    x = np.random.default_rng(0).normal(size=7)
    for level in (0.9, 0.95, 0.99):
        ours = interval(x, level)
        low, high = scipy.stats.t.interval(level, 6, loc=x.mean(), scale=scipy.stats.sem(x))
        assert (ours.low, ours.high) == pytest.approx((low, high))
        assert ours.mean in ours
    assert interval([3.0]).half_width == math.inf
    assert interval([2.0, 2.0]).half_width == 0


def test_comparison_is_the_paired_t_test():
    g = np.random.default_rng(1)
    verdicts = set()
    for shift in (0.0, 0.8, -0.8, 3):
        a, b = g.normal(size=8) + shift, g.normal(size=8)
        ours = compare(a, b)
        assert ours.p == pytest.approx(scipy.stats.ttest_rel(a, b).pvalue)
        assert (ours.verdict == "no difference") == (0 in ours.difference)
        verdicts.add(ours.verdict)
    assert {"no difference", "a better"} <= verdicts
    assert compare([1, 2, 3], [2, 3, 4]).verdict == "b better"  # always by one: no spread at all
    assert compare([1, 2, 3], [1, 2, 3]).verdict == "no difference"
    assert compare([5], [1]).verdict == "no difference"
    assert compare([0.5] * 3 + [0.6], [0.5] * 4).verdict == "no difference"


def test_holm():
    assert holm([]) == []
    assert holm([0.2, 0.01, 0.02, 0.5]) == pytest.approx([0.4, 0.04, 0.06, 0.5])
    g = np.random.default_rng(2)
    methods = {name: g.normal(size=5) for name in "abcdef"}
    single = [compare(methods[a], methods[b]) for a, b in itertools.combinations("abcdef", 2)]
    corrected = compare_all(methods)
    assert [c.p for c in corrected] == pytest.approx(holm([c.p for c in single]))
    assert all(c.p >= s.p for c, s in zip(corrected, single, strict=True))
    strong = compare_all({"x": np.arange(6) + 10.0, "y": np.arange(6) + g.normal(size=6) * 0.1})
    assert strong[0].verdict == "x better"


@pytest.mark.parametrize(("values", "error"), [([], DomainError), ([1, NAN], DomainError), ([[1.0]], ShapeError)])
def test_bad_intervals(values, error):
    with pytest.raises(error):
        interval(values)
    with pytest.raises(error):
        compare(values, [1.0, 2.0])


def test_bad_comparisons():
    with pytest.raises(ShapeError, match="3 values and b 2"):
        compare([1, 2, 3], [1, 2])
    with pytest.raises(DomainError, match="confidence"):
        interval([1, 2], 95)
