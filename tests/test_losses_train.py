"""Every loss trains under every kind of distance.

A linear encoder finds the classes in inputs of which most features are noise: under the Euclidean distance, Poincare
(a head puts the features into the ball), SNR and sliced Wasserstein (features cut into points). And points of the ball
themselves, as `ManifoldParameter`s, of classes that overlap at first, come to lie class by class. Proxies, where a loss
has them, learn on the same space.
"""

import geoopt
import pytest
import torch
from torch import nn

from geoembed.distances import Euclidean, Geodesic, SlicedWasserstein
from geoembed.distances.snr import SNR
from geoembed.losses import contrast, lifted, manifold_similarity, pairs, proxies, ranks, triplets
from geoembed.losses.affinity import ExpNeg
from geoembed.manifolds import PoincareBall
from geoembed.models.encoders import MLP, HyperbolicHead
from geoembed.optim import RiemannianAdam
from geoembed.quality.ranks import retrieval_metrics

CLASSES, EACH, DIM = 6, 6, 12
LABELS = torch.arange(CLASSES * EACH) // EACH

LOSSES = {
    "Contrastive": pairs.Contrastive,
    "Margin": pairs.Margin,
    "BinomialDeviance": pairs.BinomialDeviance,
    "RankedList": pairs.RankedList,
    "Triplet": triplets.Triplet,
    "HardTriplet": triplets.HardTriplet,
    "SemiHardTriplet": triplets.SemiHardTriplet,
    "SoftMarginTriplet": triplets.SoftMarginTriplet,
    "NPair": triplets.NPair,
    "OddOneOut": triplets.OddOneOut,
    "Lifted": lifted.Lifted,
    "GeneralisedLifted": lifted.GeneralisedLifted,
    "NCA": contrast.NCA,
    "NTXent": contrast.NTXent,
    "SupCon": contrast.SupCon,
    "MultiSimilarity": contrast.MultiSimilarity,
    "InstanceSpreading": contrast.InstanceSpreading,
    "PrecisionAtK": ranks.PrecisionAtK,
    "Circle": lambda distance, **common: ranks.Circle(distance, affinity=ExpNeg(1.0), **common),
    "FastAP": ranks.FastAP,
    "ManifoldSimilarity": lambda distance, **common: manifold_similarity.ManifoldSimilarity(distance, **common),
}
PROXIES = {
    "ProxyNCA": (proxies.ProxyNCA, {"scale": 2.0}),
    "NormalizedSoftmax": (proxies.NormalizedSoftmax, {}),
    "ProxyAnchor": (proxies.ProxyAnchor, {}),
    "SoftTriple": (proxies.SoftTriple, {"per_class": 1, "scale": 4.0}),  # with several a class is several groups
    "RepMet": (proxies.RepMet, {"per_class": 1}),
    "CentroidTripletBound": (proxies.CentroidTripletBound, {}),
}


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


class Encoder(nn.Module):
    """Items from one-hot classes beside noise, through a linear map."""

    def __init__(self, head=None):
        super().__init__()
        noise = torch.randn(len(LABELS), 8, generator=seeded())
        self.inputs = torch.cat([nn.functional.one_hot(LABELS).float(), noise], 1)
        self.head = head
        self.linear = MLP(self.inputs.shape[1], DIM, (), generator=seeded(1))

    def forward(self):
        x = self.linear(self.inputs)
        return x if self.head is None else self.head(x)


class Points(nn.Module):
    """Points of the ball."""

    def __init__(self, manifold):
        super().__init__()
        means = 0.35 * torch.randn(CLASSES, DIM, generator=seeded())
        points = manifold.from_tangent(means[LABELS] + 0.3 * torch.randn(len(LABELS), DIM, generator=seeded(1)))
        self.points = geoopt.ManifoldParameter(points, manifold=manifold)

    def forward(self):
        return self.points


def euclidean():
    return Euclidean(), Encoder(), (DIM,)


def poincare():
    manifold = PoincareBall()
    return Geodesic(manifold), Encoder(HyperbolicHead(manifold)), (DIM,)


def ball():
    manifold = PoincareBall()
    return Geodesic(manifold), Points(manifold), (DIM,)


def snr():
    return SNR(), Encoder(), (DIM,)


def sets():
    return SlicedWasserstein(3, 16, generator=seeded()), Encoder(nn.Unflatten(1, (4, 3))), (4, 3)


SPACES = [euclidean, poincare, ball, snr, sets]


def trained(build, space) -> tuple[float, float]:
    """MAP@R before and after."""
    distance, items, shape = space()
    loss = build(distance, shape)
    parameters = [p for p in (*items.parameters(), *loss.parameters()) if p.requires_grad]
    optimizer = RiemannianAdam(parameters, lr=0.03)
    before = retrieval_metrics(distance, items().detach(), LABELS).map_at_r
    for _ in range(120):
        optimizer.zero_grad()
        loss(items(), LABELS).backward()
        optimizer.step()
    return before, retrieval_metrics(distance, items().detach(), LABELS).map_at_r


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", LOSSES)
def test_losses(name, space):
    before, after = trained(lambda distance, shape: LOSSES[name](distance, unit="auto"), space)
    assert before < 0.7
    assert after > 0.9


@pytest.mark.parametrize("space", SPACES)
@pytest.mark.parametrize("name", PROXIES)
def test_proxies(name, space):
    cls, options = PROXIES[name]
    if cls.needs_metric and space is snr:
        pytest.skip("the bound is of metrics, and refuses SNR (test_proxy_losses)")
    before, after = trained(
        lambda distance, shape: cls(distance, CLASSES, shape, unit="auto", generator=seeded(1), **options), space
    )
    assert before < 0.7
    assert after > 0.9
