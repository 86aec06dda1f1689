"""Distances inside pytorch-metric-learning, scikit-learn and vector indices."""

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist as scipy_cdist

from geoembed import PointSets, Power
from geoembed.distances import Cosine, Euclidean, Geodesic, Lp, Mahalanobis, NegativeInner, SlicedWasserstein
from geoembed.errors import DomainError
from geoembed.interop.arrays import cdist, index_vectors, metric_function
from geoembed.interop.pml import as_pml
from geoembed.losses.triplets import Triplet
from geoembed.manifolds import PoincareBall


class Relative(Euclidean):
    """|x - y| / (1 + |x|), not symmetric."""

    symmetric = is_metric = False
    embed_p = None

    def _forward(self, x, y):
        return (x - y).norm(dim=-1) / (1 + x.norm(dim=-1))


def points(n: int = 20, d: int = 3, scale: float = 0.2) -> torch.Tensor:
    return scale * torch.randn(n, d, generator=torch.Generator().manual_seed(n), dtype=torch.float64)


@pytest.mark.parametrize(
    "distance", [Geodesic(PoincareBall()), Euclidean(), Relative(), SlicedWasserstein(2, 8)], ids=str
)
def test_losses_of_pytorch_metric_learning_take_our_distances(distance):
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason='needs the extra: pip install "geoembed[interop]"'
    )
    x = points(16, 3) if distance.event_dim == 1 else points(160, 2).view(16, 10, 2)
    labels = torch.arange(16) % 4
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    want = losses.TripletMarginLoss(margin=0.3, distance=as_pml(distance))(a, labels)
    have = Triplet(distance, margin=0.3)(b, labels)
    torch.testing.assert_close(have, want)
    want.backward()
    have.backward()
    torch.testing.assert_close(b.grad, a.grad)


def test_miners_and_matched_rows():
    miners = pytest.importorskip(
        "pytorch_metric_learning.miners", reason='needs the extra: pip install "geoembed[interop]"'
    )
    x, labels = points(16), torch.arange(16) % 4
    found = miners.MultiSimilarityMiner(distance=as_pml(Geodesic(PoincareBall())))(x, labels)
    assert len(found) == 4
    adapter = as_pml(Relative())
    torch.testing.assert_close(adapter.pairwise_distance(x[:8], x[8:]), Relative()(x[:8], x[8:]))
    assert not adapter.is_inverted


def test_proxies_off_the_manifold_are_refused():
    losses = pytest.importorskip(
        "pytorch_metric_learning.losses", reason='needs the extra: pip install "geoembed[interop]"'
    )
    torch.manual_seed(0)
    loss = losses.ProxyNCALoss(4, 8, distance=as_pml(Geodesic(PoincareBall())))
    loss.proxies.data.mul_(9)
    with pytest.raises(DomainError, match=r"geoembed.losses.proxies"):
        loss(points(16, 8).float(), torch.arange(16) % 4)


def test_cdist_is_scipys():
    x, y = points(20).numpy(), points(7).numpy()
    np.testing.assert_allclose(cdist(Euclidean(), x, y), scipy_cdist(x, y), rtol=1e-12)
    np.testing.assert_allclose(cdist(Lp(1), x), scipy_cdist(x, x, "cityblock"), rtol=1e-12)
    assert cdist(Euclidean(), x.astype(np.float32)).dtype == np.float32
    assert cdist(Euclidean(), [[0, 0], [3, 4]]).tolist() == [[0, 5], [5, 0]]
    assert cdist(Euclidean(), x[:0]).shape == (0, 0)
    rows = cdist(Relative(), x, y)
    assert rows[2, 3] == pytest.approx(float(Relative()(torch.from_numpy(x[2]), torch.from_numpy(y[3]))))


def test_cdist_of_point_sets():
    sets = PointSets.from_list([points(n, 2) for n in (3, 5, 4)])
    distance = SlicedWasserstein(2, 8)
    np.testing.assert_allclose(cdist(distance, sets), distance.pairwise(sets).numpy(), rtol=1e-12)


def test_scikit_learn_takes_matrices_and_functions():
    neighbors = pytest.importorskip("sklearn.neighbors", reason='needs the extra: pip install "geoembed[interop]"')
    x, labels = points(40).numpy(), np.arange(40) % 3
    distance = Geodesic(PoincareBall())
    brute = neighbors.KNeighborsClassifier(3, metric="precomputed").fit(cdist(distance, x), labels)
    slow = neighbors.KNeighborsClassifier(3, metric=metric_function(distance), algorithm="brute").fit(x, labels)
    probe = points(9).numpy()
    np.testing.assert_array_equal(brute.predict(cdist(distance, probe, x)), slow.predict(probe))


def test_a_function_must_be_symmetric():
    with pytest.raises(DomainError, match="precomputed"):
        metric_function(Relative())


@pytest.mark.parametrize(
    "distance", [Mahalanobis(torch.rand(2, 3, dtype=torch.float64)), SlicedWasserstein(3, 8)], ids=str
)
def test_vectors_for_an_index(distance):
    x = points(12) if distance.event_dim == 1 else points(60).view(12, 5, 3)
    v = index_vectors(distance, x.numpy())
    assert v.dtype == np.float32
    assert v.flags.c_contiguous
    np.testing.assert_allclose(scipy_cdist(v, v), cdist(distance, x.numpy()), atol=1e-6)


@pytest.mark.parametrize("distance", [Cosine(), NegativeInner(), Lp(1), Power(Euclidean(), 2)], ids=str)
def test_other_distances_have_no_vectors(distance):
    with pytest.raises(DomainError, match="Neighbors"):
        index_vectors(distance, points().numpy())
