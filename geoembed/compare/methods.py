"""The distances and losses that `geoembed compare` knows by name, and the encoders that go with them.

Every loss measures its unit, the median distance of negatives, on the first batch (`unit="auto"`), so that its margins
and temperatures mean the same under every distance; `Circle` sees e^-d where distances have no bound. Embeddings of a
hyperbolic distance go through `HyperbolicHead`; under a distance between sets the embedding of a vector or image is cut
into points, and that of a point set is a point set again. `clipped-euclidean` is the control of a hyperbolic distance:
what a bound of the radius does without curvature.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from geoembed.compare.settings import CompareConfig
from geoembed.data.labelled import Labelled
from geoembed.distance import Distance, Items
from geoembed.distances import (
    Cosine,
    EnergySlicedWasserstein,
    Euclidean,
    Geodesic,
    Lp,
    SlicedWasserstein,
    TreeSlicedLines,
)
from geoembed.distances.curvilinear import Curvilinear
from geoembed.distances.snr import SNR
from geoembed.errors import DataError
from geoembed.losses import LOSSES, Circle, ExpNeg, MetricLoss, ProxyLoss
from geoembed.manifolds import HYPERBOLIC
from geoembed.models.encoders import MLP, ConvNet, HyperbolicHead, PointEncoder, SetEncoder
from geoembed.numerics import norm
from geoembed.pointsets import PointSets

__all__ = ["Method", "build"]

BETWEEN_SETS = ("sliced-wasserstein", "energy-sliced-wasserstein", "tree-sliced-lines")


@dataclass(frozen=True)
class Method:
    """An encoder and a loss; `loss.distance` compares what the encoder gives."""

    encoder: nn.Module
    loss: MetricLoss


class _Clip(nn.Module):
    """Vectors no longer than `length`. (B, d) -> (B, d)."""

    def __init__(self, length: float):
        super().__init__()
        self.length = length

    def forward(self, x: Tensor) -> Tensor:
        return x * (self.length / norm(x, keepdim=True).clamp(min=self.length))


class _Points(nn.Module):
    """A vector cut into points. (B, n d) -> (B, n, d)."""

    def __init__(self, n: int):
        super().__init__()
        self.n = n

    def forward(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.n, -1))


def build(
    loss: str, distance: str, data: Labelled, n_classes: int, config: CompareConfig, generator: torch.Generator
) -> Method:
    """The method of a loss and a distance, by name, for items such as those of `data` in `n_classes` classes.

    Raises DataError for a distance between vectors and items that are neither vectors, 28x28 images nor point sets.
    """
    encoder, item = _encoder(distance in BETWEEN_SETS, data.items, config, generator)
    metric = _distance(distance, item, config, generator)
    if isinstance(metric, Geodesic):
        encoder = nn.Sequential(encoder, HyperbolicHead(metric.manifold, config.clip))
        item = (metric.manifold.point_dim(config.dim),)
    if distance == "clipped-euclidean":
        encoder = nn.Sequential(encoder, _Clip(config.clip))
    common: dict[str, Any] = {"unit": "auto"}
    cls: Any = LOSSES[loss]
    if cls is Circle and not metric.upper_bound < math.inf:
        common["affinity"] = ExpNeg()
    if issubclass(cls, ProxyLoss):
        return Method(encoder, cls(metric, n_classes, item, generator=generator, **common))
    return Method(encoder, cls(metric, **common))


def _encoder(
    sets: bool, items: Items, config: CompareConfig, generator: torch.Generator
) -> tuple[nn.Module, tuple[int, ...]]:
    """The encoder, and the shape of what it makes of an item."""
    shape = tuple(items.shape[1:])
    cut = (config.set_size, config.dim // config.set_size)
    if isinstance(items, PointSets) or (len(shape) == 2 and shape != (28, 28)):
        if sets:
            return PointEncoder(shape[-1], cut[1], config.hidden, generator=generator), (shape[0], cut[1])
        return SetEncoder(shape[-1], config.dim, config.hidden, generator=generator), (config.dim,)
    if len(shape) == 1:
        encoder: nn.Module = MLP(shape[0], config.dim, (config.hidden,), generator=generator)
    elif shape in ((28, 28), (1, 28, 28)):
        encoder = ConvNet(config.dim, generator=generator)
    else:
        raise DataError(f"items of shape {shape}: expected vectors (d,), images (28, 28) or point sets (n, d)")
    return (nn.Sequential(encoder, _Points(cut[0])), cut) if sets else (encoder, (config.dim,))


def _distance(name: str, item: tuple[int, ...], config: CompareConfig, generator: torch.Generator) -> Distance:
    if name in HYPERBOLIC:
        return Geodesic(HYPERBOLIC[name]())
    if name == "curvilinear":  # starts as the Euclidean distance
        curves = torch.zeros(config.dim, config.dim, 3)
        curves[:, :, 0] = torch.eye(config.dim)
        return Curvilinear(curves)
    d = item[-1]
    plain: dict[str, Callable[[], Distance]] = {
        "euclidean": Euclidean,
        "clipped-euclidean": Euclidean,
        "manhattan": lambda: Lp(1),
        "cosine": Cosine,
        "snr": SNR,
        "sliced-wasserstein": lambda: SlicedWasserstein(d, 32, generator=generator),
        "energy-sliced-wasserstein": lambda: EnergySlicedWasserstein(d, 32, generator=generator),
        "tree-sliced-lines": lambda: TreeSlicedLines(d, generator=generator),
    }
    return plain[name]()
