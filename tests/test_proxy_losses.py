"""Losses against proxies: values by loops and by pytorch-metric-learning, proxies on the space of the distance."""

import math

import geoopt
import pytest
import torch

from geoembed import Power, ProductDistance, Scaled
from geoembed.distances import Cosine, Euclidean, Geodesic, Mahalanobis, NegativeInner, SlicedWasserstein
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.losses.proxies import (
    CentroidTripletBound,
    NormalizedSoftmax,
    ProxyAnchor,
    ProxyNCA,
    RepMet,
    SoftTriple,
    place_proxies,
)
from geoembed.losses.terms import pair_masks, reduced
from geoembed.losses.triplets import triplet
from geoembed.manifolds import Lorentz, PoincareBall, Product
from geoembed.optim import RiemannianAdam

ALL = [ProxyNCA, NormalizedSoftmax, ProxyAnchor, SoftTriple, RepMet, CentroidTripletBound]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(cls, distance=None, **options):
    """(loss, items, labels, matrix) of 10 items of 4 classes in 3 dimensions, float64."""
    distance = Euclidean() if distance is None else distance
    loss = cls(distance, 4, 3, generator=seeded(), **options).double()
    x = torch.randn(10, 3, generator=seeded(1), dtype=torch.float64)
    labels = torch.tensor([0, 1, 2, 3, 0, 1, 2, 0, 0, 1])
    return loss, x, labels, distance.pairwise(x, loss.proxies).detach()


def test_proxy_nca_is_its_formula():
    loss, x, labels, D = problem(ProxyNCA, scale=3.0)
    want = [
        3 * D[i, y] + math.log(sum(math.exp(-3 * D[i, z]) for z in range(4) if z != y)) for i, y in enumerate(labels)
    ]
    assert loss(x, labels).item() == pytest.approx(float(sum(want)) / 10, rel=1e-12)


def test_normalized_softmax_is_a_cross_entropy():
    loss, x, labels, D = problem(NormalizedSoftmax, temperature=0.2)
    want = torch.nn.functional.cross_entropy(-D / 0.2, labels)
    torch.testing.assert_close(loss(x, labels).detach(), want)


def test_proxy_anchor_is_its_formula():
    loss, x, labels, D = problem(ProxyAnchor, margin=0.3, alpha=4.0, base=0.9, reduction="mean")
    labels = labels.clamp(max=2)  # the last proxy has no item of its own
    pull = [
        math.log(1 + sum(math.exp(4 * (D[i, c] - 0.9 + 0.3)) for i in range(10) if labels[i] == c)) for c in range(3)
    ]
    push = [
        math.log(1 + sum(math.exp(-4 * (D[i, c] - 0.9 - 0.3)) for i in range(10) if labels[i] != c)) for c in range(4)
    ]
    assert loss(x, labels).item() == pytest.approx(sum(pull) / 3 + sum(push) / 4, rel=1e-12)


def test_soft_triple_is_its_formula():
    loss, x, labels, D = problem(SoftTriple, per_class=2, scale=5.0, gamma=0.3, margin=0.1, merge=0.7)
    total = 0.0
    for i, y in enumerate(labels.tolist()):
        soft = []
        for c in range(4):
            d = D[i, 2 * c : 2 * c + 2]
            w = [math.exp(-v / 0.3) for v in d]
            soft.append(sum(a * b for a, b in zip(w, d.tolist(), strict=True)) / sum(w))
        logits = [-5 * (s + 0.1 * (c == y)) for c, s in enumerate(soft)]
        total += math.log(sum(math.exp(v) for v in logits)) - logits[y]
    p = loss.proxies.detach()
    spread = sum(float((p[2 * c] - p[2 * c + 1]).norm()) for c in range(4)) / 4
    assert loss(x, labels).item() == pytest.approx(total / 10 + 0.7 * spread, rel=1e-12)


def test_repmet_is_its_formula():
    loss, x, labels, D = problem(RepMet, per_class=2, sigma=0.6, margin=0.5)
    entropy, hinge = 0.0, 0.0
    for i, y in enumerate(labels.tolist()):
        near = [float(D[i, 2 * c : 2 * c + 2].min()) for c in range(4)]
        likely = [math.exp(-(float(v) ** 2) / 0.72) for v in D[i]]
        entropy -= math.log(math.exp(-(near[y] ** 2) / 0.72) / sum(likely))
        hinge += max(0.0, near[y] - min(n for c, n in enumerate(near) if c != y) + 0.5)
    assert loss(x, labels).item() == pytest.approx((entropy + hinge) / 10, rel=1e-12)
    p = loss.probabilities(x)
    assert p.shape == (10, 5)
    torch.testing.assert_close(p[:, 4], 1 - p[:, :4].amax(1))
    torch.testing.assert_close(p[3, 1], (-(D[3, 2:4].min() ** 2) / 0.72).exp())


@pytest.mark.parametrize("distance", [Euclidean(), Geodesic(PoincareBall())], ids=str)
def test_the_centroid_bound_holds(distance):
    """With as many items of each class the loss is no less than the mean of d_ap - d_an + m over all triplets."""
    for seed in range(20):
        x = torch.randn(12, 3, generator=seeded(seed), dtype=torch.float64) / 8
        loss = CentroidTripletBound(distance, 3, 3, margin=0.1, generator=seeded(seed)).double()
        labels = torch.arange(12) % 3
        D = distance.pairwise(x)
        mean = reduced(triplet(D, *pair_masks(labels), margin=1e3), "mean") - 1e3 + 0.1  # the hinge never bites
        assert loss(x, labels) >= mean
    assert not loss.proxies.requires_grad


def test_the_centroid_bound_refuses_what_is_no_metric():
    with pytest.raises(DomainError, match="triangle inequality"):
        CentroidTripletBound(Cosine(), 3, 3)


def test_equal_to_pytorch_metric_learning():
    pml = pytest.importorskip(
        "pytorch_metric_learning.losses", reason='needs the extra: pip install "geoembed[interop]"'
    )
    from pytorch_metric_learning.distances import LpDistance

    x = torch.randn(16, 6, generator=seeded(2), dtype=torch.float64)
    labels = torch.arange(16) % 5
    flat = LpDistance(normalize_embeddings=False)
    cases = [
        (
            pml.ProxyNCALoss(5, 6, softmax_scale=3, distance=flat),
            NormalizedSoftmax(Euclidean(), 5, 6, temperature=1 / 3),
        ),
        (pml.ProxyAnchorLoss(5, 6, margin=0.1, alpha=32), ProxyAnchor(Cosine(), 5, 6)),
        (pml.SoftTripleLoss(5, 6, centers_per_class=3), SoftTriple(Cosine(), 5, 6, per_class=3, merge=0)),
    ]
    for theirs, ours in cases:
        theirs, ours = theirs.double(), ours.double()
        with torch.no_grad():
            if hasattr(theirs, "proxies"):
                ours.proxies.copy_(theirs.proxies)
            else:  # (features, classes * centres)
                ours.proxies.copy_(theirs.fc.T)
        a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
        want, have = theirs(a, labels), ours(b, labels)
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-12)
        want.backward()
        have.backward()
        torch.testing.assert_close(b.grad, a.grad, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("cls", ALL)
def test_gradients(cls):
    loss, x, labels, _ = problem(cls, Power(Euclidean(), 1.0) if cls is not CentroidTripletBound else None)
    parameters = [x.requires_grad_()] + ([loss.proxies] if loss.proxies.requires_grad else [])

    def value(x, *proxies):
        return loss(x, labels)

    assert torch.autograd.gradcheck(value, parameters)


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(), PoincareBall(0.5)], ids=str)
@pytest.mark.parametrize("cls", ALL)
def test_proxies_live_on_the_manifold_and_move_on_it(cls, manifold):
    k = manifold.point_dim(3)
    x = manifold.random(8, k, std=0.5, generator=seeded())
    labels = torch.arange(8) % 4
    loss = cls(Geodesic(manifold), 4, k, generator=seeded(), **({"learn": True} if cls is CentroidTripletBound else {}))
    assert isinstance(loss.proxies, geoopt.ManifoldParameter)
    before = loss.proxies.detach().clone()
    optimizer = RiemannianAdam(loss.parameters(), lr=0.1)
    for _ in range(20):
        optimizer.zero_grad()
        loss(x, labels).backward()
        optimizer.step()
    manifold.check(loss.proxies.detach())
    assert (loss.proxies.detach() - before).abs().amax(1).min() > 1e-3


def test_proxies_of_wrapped_distances_and_of_point_sets():
    ball = Geodesic(PoincareBall())
    assert isinstance(place_proxies(Scaled(Power(ball, 2), 3.0), (4, 3)), geoopt.ManifoldParameter)
    flat = place_proxies(Mahalanobis(torch.eye(3)), (4, 3), generator=seeded())
    assert not isinstance(flat, geoopt.ManifoldParameter)
    assert torch.equal(flat, place_proxies(Euclidean(), (4, 3), generator=seeded()))
    sets = NormalizedSoftmax(SlicedWasserstein(2, 8), 4, (5, 2), generator=seeded())
    assert sets.proxies.shape == (4, 5, 2)
    assert sets(torch.randn(6, 7, 2, generator=seeded()), torch.tensor([0, 1, 2, 3, 0, 1])).isfinite()
    with pytest.raises(DomainError, match=r"Geodesic\(Product"):
        place_proxies(ProductDistance([(ball, 2), (Euclidean(), 1)]), (4, 3))
    product = Product([(PoincareBall(), 2), (Lorentz(), 2)])
    assert place_proxies(Geodesic(product), (4, 5)).manifold is product


def test_given_proxies_are_checked():
    given = torch.full((4, 3), 0.9)
    with pytest.raises(DomainError, match=r"proxies must lie on PoincareBall.*projx"):
        ProxyNCA(Geodesic(PoincareBall()), 4, 3, initial=given)
    with pytest.raises(DomainError, match="NaN"):
        ProxyNCA(Euclidean(), 4, 3, initial=given * float("nan"))
    with pytest.raises(ShapeError, match=r"expected \(4, 3\), got \(3, 3\)"):
        ProxyNCA(Euclidean(), 4, 3, initial=given[:3])
    assert torch.equal(ProxyNCA(Euclidean(), 4, 3, initial=given).proxies.detach(), given)


@pytest.mark.parametrize(("n_classes", "shape", "per_class"), [(1, 3, 1), (4, 0, 1), (4, 3, 0), (4, (2, 3), 1)])
def test_sizes_are_checked(n_classes, shape, per_class):
    with pytest.raises(ShapeError, match="expected n_classes >= 2"):
        SoftTriple(Euclidean(), n_classes, shape, per_class=per_class)


def test_labels_are_checked():
    loss, x, labels, _ = problem(ProxyNCA)
    with pytest.raises(DataError, match=r"labels must lie in 0 .. 3, got 4"):
        loss(x, labels + 1)
    with pytest.raises(DataError, match="got -1"):
        loss(x, labels - 1)


def test_half_precision_and_a_distance_that_may_be_negative():
    loss = NormalizedSoftmax(NegativeInner(), 4, 3, generator=seeded())
    x = torch.randn(6, 3, generator=seeded()).half().requires_grad_()
    loss(x, torch.tensor([0, 1, 2, 3, 0, 1])).backward()
    assert x.grad.dtype == torch.float16
    assert bool(x.grad.isfinite().all())


def test_far_items_stay_finite():
    loss, x, labels, _ = problem(NormalizedSoftmax, temperature=1e-3)
    x = (1e4 * x).requires_grad_()
    loss(x, labels).backward()
    assert bool(x.grad.isfinite().all())
