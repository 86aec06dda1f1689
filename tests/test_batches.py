"""Samplers, folds, k-means and surrogate labels: exact properties, brute force, scikit-learn, and bad input."""

import itertools
import warnings
from collections import Counter

import numpy as np
import pytest
import torch
from sklearn.cluster import KMeans
from sklearn.metrics import adjusted_rand_score

from distance_contract import Case, DistanceContract
from geoembed.data.batches import ClusterBatches, HardClassBatches, MPerClass
from geoembed.data.folds import class_folds, class_halves
from geoembed.data.kmeans import cluster, kmeans, kmedoids
from geoembed.data.surrogates import SurrogateClusters, class_standardised
from geoembed.distance import Distance
from geoembed.distances.geodesic import Geodesic
from geoembed.distances.pointwise import Cosine, Euclidean, Lp, NegativeInner
from geoembed.distances.setwise import Chamfer
from geoembed.distances.sliced import SlicedWasserstein
from geoembed.distances.slices import SlicedEmbedding
from geoembed.errors import DataWarning, DomainError, ShapeError
from geoembed.manifolds import PoincareBall
from geoembed.pointsets import PointSets

NAN, INF = float("nan"), float("inf")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def labels_of(*sizes, seed=0):
    """Shuffled labels, sizes[i] of them 3 i - 1: neither from 0 nor without gaps."""
    labels = (3 * torch.arange(len(sizes)) - 1).repeat_interleave(torch.tensor(sizes))
    return labels[torch.randperm(len(labels), generator=generator(seed))]


def blobs(k, each, d=3, spread=0.1, seed=0):
    g = generator(seed)
    centres = 10 * torch.eye(k, d if d >= k else k, dtype=torch.float64)
    place = torch.arange(k).repeat_interleave(each)
    return centres[place] + spread * torch.randn(k * each, centres.shape[1], generator=g, dtype=torch.float64), place


# m items of each class.


@pytest.mark.parametrize("sizes", [(8,) * 6, (4, 8, 12, 16, 4, 40), (1, 2, 3, 5, 7, 11, 30), (100, 1, 1, 1)])
@pytest.mark.parametrize(("m", "width"), [(1, 2), (4, 2), (4, 4), (3, 3)])
def test_m_of_each_class_and_every_item(sizes, m, width):
    labels = labels_of(*sizes)
    sampler = MPerClass(labels, m, m * width, generator())
    for _ in range(3):
        batches = list(sampler)
        assert len(batches) == len(sampler)
        for batch in batches:
            assert batch.dtype == torch.int64
            counts = Counter(labels[batch].tolist())
            assert len(counts) == width
            assert set(counts.values()) == {m}
            for label in counts:  # repeated only where the class has less than m, and then evenly
                times = Counter(batch[labels[batch] == label].tolist())
                size = int((labels == label).sum())
                assert len(times) == min(m, size)
                assert max(times.values()) == -(-m // size)
        assert set(torch.cat(batches).tolist()) == set(range(len(labels)))
    assert sampler.small == sum(size < m for size in sizes)


def test_length_is_the_least_that_holds_every_item():
    draws = [-(-size // 4) for size in (4, 8, 12, 16, 5, 41)]
    assert len(MPerClass(labels_of(4, 8, 12, 16, 5, 41), 4, 8)) == max(-(-sum(draws) // 2), max(draws))
    assert len(MPerClass(labels_of(*[8] * 6), 4, 8)) == 6


def test_equal_classes_have_each_item_once():
    labels = labels_of(*[12] * 10)
    drawn = torch.cat(list(MPerClass(labels, 4, 20, generator())))
    assert sorted(drawn.tolist()) == list(range(120))


def test_classes_meet_evenly():
    labels = torch.arange(10).repeat_interleave(8)
    sampler, met = MPerClass(labels, 2, 8, generator()), torch.zeros(10, 10)
    for _ in range(60):
        for batch in sampler:
            classes = labels[batch].unique()
            met[classes[:, None], classes] += 1
    pairs = met[~torch.eye(10, dtype=torch.bool)]
    assert pairs.min() > 0.7 * pairs.mean()  # 60 epochs, 80 meetings on average
    assert pairs.max() < 1.3 * pairs.mean()


def test_draws_follow_the_generator_and_nothing_else():
    labels = labels_of(3, 8, 20, 5)
    sampler = MPerClass(labels, 2, 6, generator(1))
    first, second = list(sampler), list(sampler)
    again = MPerClass(labels, 2, 6).draw(generator(1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert any(not torch.equal(a, b) for a, b in zip(first, second, strict=True))
    state = torch.get_rng_state()
    sampler.draw(generator(2))
    assert torch.equal(state, torch.get_rng_state())
    assert len(sampler.draw()) == len(sampler)  # from torch's own generator


@pytest.mark.parametrize("dtype", [torch.int32, torch.uint8, torch.int64])
def test_labels_of_any_whole_type(dtype):
    labels = torch.tensor([0, 0, 1, 1, 2, 2], dtype=dtype)
    assert len(list(MPerClass(labels, 2, 4, generator()))) == 2


@pytest.mark.parametrize(
    ("labels", "m", "batch_size", "error", "message"),
    [
        (torch.tensor([4, 4, 4, 4]), 2, 4, DomainError, "one class"),
        (torch.arange(6), 4, 10, DomainError, "multiple of m = 4 .* got 10"),
        (torch.arange(6), 4, 4, DomainError, "at least two classes, 8; got 4"),
        (torch.arange(3).repeat(4), 2, 8, DomainError, "needs 4 classes, the labels have 3; lower batch_size to 6"),
        (torch.arange(6), 0, 4, DomainError, "m must be at least 1"),
        (torch.arange(6), 2, 0, DomainError, "batch_size must be at least 1"),
        (torch.arange(6.0), 2, 4, ShapeError, "whole numbers .*float32"),
        (torch.tensor([True, False]), 1, 2, ShapeError, "torch.bool"),
        (torch.zeros(3, 2, dtype=torch.int64), 2, 4, ShapeError, r"\(3, 2\)"),
        (torch.empty(0, dtype=torch.int64), 2, 4, ShapeError, "at least 1"),
    ],
)
def test_bad_batches(labels, m, batch_size, error, message):
    with pytest.raises(error, match=message):
        MPerClass(labels, m, batch_size)


# Clusters.


def crossed(k=3, classes=4, each=6, seed=0):
    """Embeddings in k far regions, each with items of all classes; the region of each."""
    x, region = blobs(k, classes * each, seed=seed)
    return x, torch.arange(classes).repeat(k * each), region


@pytest.mark.parametrize("distance", [Euclidean(), Lp(1), Cosine()], ids=["kmeans", "kmedoids", "cosine"])
def test_a_batch_comes_from_one_cluster(distance):
    x, labels, region = crossed()
    sampler = ClusterBatches(labels, 2, 8, 3, distance, generator())
    sampler.refresh(x)
    assert adjusted_rand_score(region, sampler.clusters) == 1
    assert sampler.left_out == 0
    batches = list(sampler)
    assert len(batches) == len(sampler) == 9
    for batch in batches:
        assert len(region[batch].unique()) == 1
        assert sampler.cluster_of(batch) == sampler.clusters[batch[0]]
        assert set(Counter(labels[batch].tolist()).values()) == {2}
        assert len(batch) == len(set(batch.tolist())) == 8
    assert sorted(torch.cat(batches).tolist()) == list(range(72))  # regions of one size: each item once
    assert Counter(map(sampler.cluster_of, batches)) == {0: 3, 1: 3, 2: 3}


def test_clusters_keep_their_numbers():
    x, labels, _ = crossed(k=5, classes=3, each=4)
    sampler = ClusterBatches(labels, 2, 6, 5, Euclidean(), generator())
    sampler.refresh(x)
    before = sampler.clusters
    for _ in range(4):
        moved = x.clone()
        moved[:3] = x[-3:]  # a few items change their region
        sampler.refresh(moved)
        assert torch.equal(sampler.clusters[3:], before[3:])
        sampler.refresh(x)
        assert torch.equal(sampler.clusters, before)


def test_items_without_a_pair_are_left_out_and_counted():
    x, labels, region = crossed(k=2, classes=3, each=4)
    labels[0] = 77  # alone in its region, and everywhere
    sampler = ClusterBatches(labels, 4, 12, 2, Euclidean(), generator())
    sampler.refresh(x)
    assert sampler.left_out == 1
    assert sampler.clusters[0] == -1
    for batch in sampler:
        assert 0 not in batch
        assert len(batch) == 12
    # one of two clusters holds one class only: it has no negatives
    labels = torch.where(region == 0, 5, torch.arange(24) % 2)
    sampler = ClusterBatches(labels, 2, 4, 2, Euclidean(), generator())
    with pytest.warns(DataWarning, match="less than two classes"):
        sampler.refresh(x)
    assert sampler.left_out == 12
    assert all((region[batch] == 1).all() for batch in sampler)
    assert len(list(sampler)) == len(sampler) == 6


def test_clusters_of_point_sets():
    g = generator(3)
    sets = PointSets.from_list([torch.randn(3 + i % 4, 2, generator=g) + 20 * (i % 2) for i in range(24)])
    labels = torch.arange(24) // 2 % 3
    for distance in (SlicedWasserstein(2, generator=g), Chamfer(Euclidean())):
        sampler = ClusterBatches(labels, 2, 6, 2, distance, generator())
        sampler.refresh(sets)
        assert adjusted_rand_score(torch.arange(24) % 2, sampler.clusters) == 1
        assert len(list(sampler)) == 4


def test_bad_clusters():
    x, labels, _ = crossed()
    sampler = ClusterBatches(labels, 2, 8, 3, Euclidean(), generator())
    with pytest.raises(DomainError, match="refresh"):
        list(sampler)
    with pytest.raises(ShapeError, match="72 labels and 71 embeddings"):
        sampler.refresh(x[1:])
    with pytest.raises(DomainError, match="1 of 72 rows are not finite, the first is 5"):
        sampler.refresh(x.index_fill(0, torch.tensor([5]), NAN))
    with pytest.raises(DomainError, match="72 items cannot make k = 73 clusters"):
        ClusterBatches(labels, 2, 8, 73, Euclidean()).refresh(x)
    with pytest.raises(DomainError, match="m must be at least 2"):
        ClusterBatches(labels, 1, 8, 3, Euclidean())
    with pytest.raises(DomainError, match="one class"):
        ClusterBatches(torch.zeros(8, dtype=torch.int64), 2, 4, 2, Euclidean())
    with pytest.raises(DomainError, match="none of 2 clusters"):
        ClusterBatches(torch.arange(72), 2, 8, 2, Euclidean()).refresh(x)
    with pytest.raises(ShapeError, match="floating point"):
        sampler.refresh(torch.ones(72, 3, dtype=torch.int64))


# Hard classes.


@pytest.mark.parametrize("distance", [Euclidean(), Geodesic(PoincareBall()), NegativeInner()], ids=str)
def test_an_anchor_and_its_nearest_classes(distance):
    g = generator(1)
    labels = torch.tensor([0, 1, 2, 4, 5, 6, 7])[torch.randint(7, (60,), generator=g)]  # 3 has no items
    signatures = torch.rand(8, 2, generator=g, dtype=torch.float64) - 0.5
    sampler = HardClassBatches(labels, 3, 2, signatures, distance, generator())
    batches = list(sampler)
    assert len(batches) == len(sampler) == -(-60 // 9)
    for batch in batches:
        classes = labels[batch].reshape(3, 3)
        assert (classes == classes[:, :1]).all()
        anchor, *others = classes[:, 0].tolist()
        d = [(float(distance(signatures[anchor], signatures[c])), c) for c in labels.unique().tolist() if c != anchor]
        assert others == [c for _, c in sorted(d)[:2]]
    assert sorted(int(labels[batch[0]]) for batch in batches) == [0, 1, 2, 4, 5, 6, 7]  # each is anchor once


def test_signatures_that_move_change_the_batches():
    labels = torch.arange(4).repeat_interleave(5)
    line = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
    sampler = HardClassBatches(labels, 2, 1, line, Euclidean(), generator())
    assert {tuple(labels[b].unique().tolist()) for b in sampler} == {(0, 1), (2, 3)}
    sampler.refresh(line[[0, 2, 1, 3]])
    assert {tuple(labels[b].unique().tolist()) for b in sampler} == {(0, 2), (1, 3)}
    sampler.refresh(torch.nn.Parameter(line[[3, 2, 1, 0]]))  # 11, 10, 1, 0
    assert {tuple(labels[b].unique().tolist()) for b in sampler} == {(0, 1), (2, 3)}
    assert all(not t.requires_grad for t in sampler)


def test_bad_hard_classes():
    labels, line = torch.arange(4).repeat(3), torch.arange(4.0).unsqueeze(1)
    with pytest.raises(DomainError, match="k = 4 hard classes need 5 classes, the labels have 4"):
        HardClassBatches(labels, 2, 4, line, Euclidean())
    with pytest.raises(DomainError, match="from 0 to 3, there are 3 signatures"):
        HardClassBatches(labels, 2, 1, line[:3], Euclidean())
    with pytest.raises(DomainError, match="from -1 to 2"):
        HardClassBatches(labels - 1, 2, 1, line, Euclidean())
    with pytest.raises(DomainError, match="one class"):
        HardClassBatches(torch.zeros(4, dtype=torch.int64), 2, 1, line, Euclidean())
    with pytest.raises(DomainError, match=r"signature of class 2 gives .* not finite \(1 such"):
        HardClassBatches(labels, 2, 1, torch.tensor([[0.0], [1.0], [NAN], [3.0]]), Euclidean())
    with pytest.raises(ShapeError, match="whole numbers"):
        HardClassBatches(labels.float(), 2, 1, line, Euclidean())


# Folds.


@pytest.mark.parametrize("k", [2, 3, 5, 7])
def test_no_class_on_both_sides(k):
    labels = labels_of(3, 1, 4, 1, 5, 9, 2)
    folds = class_folds(labels, k, generator=generator())
    assert len(folds) == k
    assert sorted(torch.cat([held for _, held in folds]).tolist()) == list(range(len(labels)))
    for train, held in folds:
        assert not set(labels[train].tolist()) & set(labels[held].tolist())
        assert sorted([*train.tolist(), *held.tolist()]) == list(range(len(labels)))
        assert train.tolist() == sorted(train.tolist())
    counts = [len(labels[held].unique()) for _, held in folds]
    assert max(counts) - min(counts) <= 1


def test_folds_by_coarse_labels():
    labels = torch.arange(24).repeat(2)
    coarse = torch.tensor([0, 0, 0, 1, 1, 2, 3, 3]).repeat_interleave(3)[labels]
    plain = class_folds(labels, 3, generator=generator())
    assert any(set(coarse[a].tolist()) & set(coarse[b].tolist()) for a, b in plain)  # else the next line shows nothing
    for train, held in class_folds(labels, 3, coarse=coarse, generator=generator()):
        assert not set(coarse[train].tolist()) & set(coarse[held].tolist())
        assert not set(labels[train].tolist()) & set(labels[held].tolist())
    train, test = class_halves(labels, coarse=coarse)
    assert set(coarse[train].tolist()) == {0, 1}
    assert set(coarse[test].tolist()) == {2, 3}


def test_folds_are_seeded():
    labels = torch.arange(30).repeat(2)
    a, b, c = (class_folds(labels, 4, generator=generator(seed)) for seed in (0, 0, 1))
    assert all(torch.equal(x[1], y[1]) for x, y in zip(a, b, strict=True))
    assert any(not torch.equal(x[1], y[1]) for x, y in zip(a, c, strict=True))


def test_halves():
    labels = torch.tensor([9, 2, 2, 5, 7, 9, 5])
    train, test = class_halves(labels)
    assert (train.tolist(), test.tolist()) == ([1, 2, 3, 6], [0, 4, 5])
    train, test = class_halves(torch.tensor([1, 2, 3]))  # of an odd number, the middle one trains
    assert (train.tolist(), test.tolist()) == ([0, 1], [2])
    seen = {tuple(class_halves(torch.arange(4), generator=generator(s))[0].tolist()) for s in range(60)}
    assert seen == set(itertools.combinations(range(4), 2))


def test_bad_folds():
    labels = torch.tensor([0, 0, 1, 1, 2])
    for k in (1, 4):
        with pytest.raises(DomainError, match=f"between 2 and .* 3; got {k}"):
            class_folds(labels, k)
    with pytest.raises(DomainError, match="at least two classes"):
        class_halves(torch.zeros(5, dtype=torch.int64))
    with pytest.raises(ShapeError, match="5 labels and 4 coarse"):
        class_folds(labels, 2, coarse=labels[:4])
    with pytest.raises(DomainError, match="class 1 has the coarse labels 0 and 1"):
        class_folds(labels, 2, coarse=torch.tensor([0, 0, 0, 1, 1]))
    with pytest.raises(ShapeError, match="float32"):
        class_folds(labels.float(), 2)


# k-means.


def partitions(n, k):
    for labels in itertools.product(range(k), repeat=n):
        if len(set(labels)) == k:
            yield torch.tensor(labels)


def inertia_of(x, labels):
    return sum(float((x[labels == c] - x[labels == c].mean(0)).square().sum()) for c in labels.unique())


@pytest.mark.parametrize(("n", "k"), [(6, 2), (6, 3), (5, 5), (5, 4), (6, 1)])
def test_kmeans_is_the_best_partition(n, k):
    for seed in range(4):
        x = torch.randn(n, 2, generator=generator(seed), dtype=torch.float64)
        best = min(inertia_of(x, labels) for labels in partitions(n, k))
        found = kmeans(x, k, generator(), restarts=40)
        assert found.inertia == pytest.approx(best, rel=1e-9, abs=1e-12)
        assert found.inertia == pytest.approx(inertia_of(x, found.labels), rel=1e-9, abs=1e-12)
        assert len(found.labels.unique()) == k
        for c in range(k):
            torch.testing.assert_close(found.centres[c], x[found.labels == c].mean(0))


def test_kmeans_is_as_good_as_scikit_learn():
    from sklearn.datasets import load_digits

    x = torch.from_numpy(load_digits().data)
    for k in (10, 40):
        ours = kmeans(x, k, generator(), restarts=3).inertia
        theirs = KMeans(k, n_init=3, random_state=0).fit(x.numpy()).inertia_
        assert ours < 1.01 * theirs


def test_kmeans_finds_far_blobs_and_half_precision():
    x, place = blobs(6, 20)
    for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16):
        found = kmeans(x.to(dtype), 6, generator())
        assert found.centres.dtype == dtype
        assert adjusted_rand_score(place, found.labels) == 1


def test_kmeans_of_equal_points_leaves_no_cluster_empty():
    x = torch.ones(7, 3)
    found = kmeans(x, 5, generator())
    assert sorted(found.labels.unique().tolist()) == [0, 1, 2, 3, 4]
    assert found.inertia == 0
    x[0] = 2
    found = kmeans(x, 3, generator())
    assert len(found.labels.unique()) == 3
    assert found.inertia == 0
    assert kmeans(torch.ones(1, 2), 1).labels.tolist() == [0]


def test_an_empty_cluster_takes_the_farthest_item():
    from geoembed.data.kmeans import fill_empty

    labels, d = torch.tensor([0, 0, 0, 2]), torch.tensor([1.0, 5.0, 2.0, 9.0])
    fill_empty(labels, d, 4)  # the item of cluster 2 is alone there, and stays
    assert labels.tolist() == [0, 1, 3, 2]


def test_kmeans_is_seeded():
    x = torch.randn(200, 4, generator=generator())
    a, b = (kmeans(x, 9, generator(5)) for _ in range(2))
    assert torch.equal(a.labels, b.labels)
    assert torch.equal(a.centres, b.centres)


@pytest.mark.parametrize(
    ("x", "k", "error", "message"),
    [
        (torch.ones(3, 2), 4, DomainError, "3 items cannot make k = 4"),
        (torch.ones(3, 2), 0, DomainError, "k must be at least 1"),
        (torch.ones(3, 2, dtype=torch.int64), 2, ShapeError, "floating point"),
        (torch.ones(3), 2, ShapeError, r"\(3,\)"),
        (torch.tensor([[0.0], [INF], [NAN]]), 2, DomainError, "2 of 3 rows are not finite, the first is 1"),
        (torch.empty(0, 2), 1, DomainError, "0 items"),
    ],
)
def test_bad_kmeans(x, k, error, message):
    with pytest.raises(error, match=message):
        kmeans(x, k)


@pytest.mark.parametrize("distance", [Lp(1), Cosine(), Euclidean()], ids=["l1", "cosine", "l2"])
def test_kmedoids_is_the_best_choice_of_items(distance):
    for seed in range(4):
        x = torch.randn(8, 2, generator=generator(seed), dtype=torch.float64)
        d = distance.pairwise(x)
        best = min(float(d[:, list(c)].min(1).values.sum()) for c in itertools.combinations(range(8), 2))
        found = min((kmedoids(x, 2, distance, generator(s)) for s in range(40)), key=lambda f: f.cost)
        assert found.cost == pytest.approx(best, rel=1e-9)
        assert torch.equal(found.labels, d[:, found.medoids].argmin(1))


def test_kmedoids_with_few_candidates_and_equal_items():
    x, place = blobs(4, 50)
    found = kmedoids(x, 4, Lp(1), generator(), candidates=5)
    assert adjusted_rand_score(place, found.labels) == 1
    found = kmedoids(torch.ones(6, 2), 4, Lp(1), generator())
    assert len(found.labels.unique()) == 4
    assert len(found.medoids.unique()) == 4


def test_bad_kmedoids():
    for seed in range(8):  # whichever item it starts from
        with pytest.raises(DomainError, match="NaN or infinity for 1 of 4 items, the first is 2"):
            kmedoids(torch.tensor([[0.0], [1.0], [NAN], [3.0]]), 2, Lp(1), generator(seed))
    with pytest.raises(DomainError, match="cannot make k = 5"):
        kmedoids(torch.ones(4, 1), 5, Lp(1))
    with pytest.raises(ShapeError, match="floating point"):
        kmedoids(torch.ones(4, 1, dtype=torch.int64), 2, Lp(1))


def test_cluster_of_hyperbolic_points():
    ball, g = PoincareBall(), generator(2)
    directions = torch.tensor([[1.0, 0], [-1, 0], [0, 1]], dtype=torch.float64).repeat_interleave(10, 0)
    x = ball.from_tangent(4 * directions + 0.3 * torch.randn(30, 2, generator=g, dtype=torch.float64))
    assert adjusted_rand_score(torch.arange(30) // 10, cluster(x, 3, Geodesic(ball), generator())) == 1


# Surrogate labels.


def test_class_standardised_against_a_loop():
    x = torch.randn(40, 5, generator=generator(), dtype=torch.float64)
    labels = labels_of(10, 1, 20, 9)
    x[:, 2] = labels.double() / 7  # constant in each class
    expected = torch.zeros_like(x)
    for c in labels.unique():
        rows = x[labels == c]
        if len(rows) > 1:
            expected[labels == c] = (rows - rows.mean(0)) / rows.std(0, correction=0)
    expected[:, 2] = 0
    torch.testing.assert_close(class_standardised(x, labels), expected)
    half = class_standardised(x.half(), labels)
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.double(), expected, rtol=0.02, atol=0.02)


def test_surrogates_find_what_runs_through_the_classes():
    g = generator(4)
    labels, style = torch.arange(10).repeat_interleave(30), torch.arange(300) % 3
    x = (
        20 * torch.randn(10, 6, generator=g)[labels]
        + 3 * torch.eye(3, 6)[style]
        + 0.1 * torch.randn(300, 6, generator=g)
    )
    assert adjusted_rand_score(style, kmeans(x, 3, generator()).labels) < 0.2  # the classes drown it
    surrogates = SurrogateClusters(labels, 3, every=2, generator=generator())
    assert [surrogates.due(epoch) for epoch in range(5)] == [True] * 5
    assert adjusted_rand_score(style, surrogates.refresh(x.requires_grad_())) == 1
    assert [surrogates.due(epoch) for epoch in range(5)] == [True, False, True, False, True]
    assert surrogates.clusters.dtype == torch.int64


def test_bad_surrogates():
    labels = torch.arange(3).repeat(4)
    with pytest.raises(DomainError, match="k = 13"):
        SurrogateClusters(labels, 13)
    with pytest.raises(DomainError, match="every must be at least 1"):
        SurrogateClusters(labels, 2, every=0)
    with pytest.raises(ShapeError, match="11 items and 12 labels"):
        SurrogateClusters(labels, 2).refresh(torch.ones(11, 2))
    with pytest.raises(DomainError, match="not finite"):
        SurrogateClusters(labels, 2).refresh(torch.full((12, 2), NAN))
    with pytest.raises(ShapeError, match="floating point"):
        SurrogateClusters(labels, 2).refresh(torch.ones(12, 2, dtype=torch.int64))


# A distance on a slice.

SLICES = [
    Case("euclidean", lambda: SlicedEmbedding(Euclidean(), 1, 4), lambda x, y: np.linalg.norm(x[1:4] - y[1:4])),
    Case("to the end", lambda: SlicedEmbedding(Lp(1), 3, 5), lambda x, y: np.abs(x[3:] - y[3:]).sum()),
    Case("inner", lambda: SlicedEmbedding(NegativeInner(), 0, 2), lambda x, y: -x[:2] @ y[:2], coincident_zero=False),
]


@pytest.mark.parametrize("case", SLICES, ids=str)
class TestSlices(DistanceContract):
    pass


def test_a_slice_of_point_sets():
    g = generator()
    sets = PointSets.from_list([torch.randn(n, 4, generator=g) for n in (2, 5, 3)])
    cut = PointSets.from_list([points[:, 1:3].clone() for points in sets.unpad()])
    torch.testing.assert_close(
        SlicedEmbedding(Chamfer(Euclidean()), 1, 3).pairwise(sets), Chamfer(Euclidean()).pairwise(cut)
    )


def test_gradient_reaches_the_slice_alone():
    x = torch.randn(4, 6, requires_grad=True, generator=generator())
    SlicedEmbedding(Euclidean(), 2, 4).pairwise(x).sum().backward()
    assert (x.grad[:, [0, 1, 4, 5]] == 0).all()
    assert (x.grad[:, 2:4] != 0).any()


def test_bad_slices():
    for start, stop in ((2, 2), (-1, 3), (4, 2)):
        with pytest.raises(DomainError, match="start"):
            SlicedEmbedding(Euclidean(), start, stop)
    with pytest.raises(ShapeError, match="at least 4 features, got 3"):
        SlicedEmbedding(Euclidean(), 1, 4)(torch.ones(3), torch.ones(3))


def test_divide_and_conquer_in_a_loop():
    """The parts together: each cluster trains its slice, and the whole of the embedding trains."""
    x, labels, _ = crossed(k=2, classes=8, each=8)
    x = torch.cat([x, torch.eye(8)[labels].double()], 1).float()
    model = torch.nn.Linear(x.shape[1], 8)
    torch.nn.init.normal_(model.weight, generator=generator())
    batches = ClusterBatches(labels, 4, 16, 2, Euclidean(), generator())
    slices: list[Distance] = [SlicedEmbedding(Euclidean(), 0, 4), SlicedEmbedding(Euclidean(), 4, 8)]
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
    for epoch in range(25):
        if epoch % 5 == 0:
            batches.refresh(model(x))
        total = 0.0
        for batch in batches:
            d = slices[batches.cluster_of(batch)].pairwise(model(x[batch]))
            same = labels[batch][:, None] == labels[batch]
            loss = d[same].mean() + (4 - d[~same]).relu().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            total += loss.item()
        losses.append(total)
    assert losses[-1] < 0.6 * losses[0]


def test_no_warnings_on_plain_input():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sampler = ClusterBatches(crossed()[1], 2, 8, 3, Euclidean(), generator())
        sampler.refresh(crossed()[0])
        list(sampler)
