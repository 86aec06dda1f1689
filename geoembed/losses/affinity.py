"""Affinities: a distance turned into a bounded similarity, for losses that need one.

    OneMinus(bound)  1 - 2 d / bound      from 1 down to -1 at the bound; for `Cosine`, bound 2, the cosine itself
    ExpNeg(scale)    e^{-d / scale}       from 1 down to 0
    Heat(t)          e^{-d^2 / (4 t)}     from 1 down to 0: the heat kernel of R^d after time t, less its constant

1 is the affinity of coincident items under each of them. A loss takes one as an argument and finds it by
`affinity_for`: a distance with an upper bound has `OneMinus`, any other has to be given one, for no scale is right for
all. Scale and time are in units of the loss, so that with `unit="auto"` they mean the same under every distance; a
bound is a property of the distance, and `OneMinus` gives the same values whatever the unit.
"""

import math

from torch import Tensor, nn

from geoembed.distance import Distance
from geoembed.errors import DomainError

__all__ = ["Affinity", "ExpNeg", "Heat", "OneMinus", "affinity_for"]


class Affinity(nn.Module):
    """Base: `forward(d, unit)` maps distances d: (*B), in units of `unit`, to similarities (*B) of at most 1."""

    def forward(self, d: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        raise NotImplementedError


class OneMinus(Affinity):
    """1 - 2 d / bound, for distances that never exceed `bound`."""

    def __init__(self, bound: float):
        super().__init__()
        self.bound = _positive("OneMinus: bound", bound)

    def forward(self, d: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        return 1 - d * (2 / self.bound * unit)

    def extra_repr(self) -> str:
        return f"bound={self.bound:g}"


class ExpNeg(Affinity):
    """e^{-d / scale}; scale in units of the distance."""

    def __init__(self, scale: float = 1.0):
        super().__init__()
        self.scale = _positive("ExpNeg: scale", scale)

    def forward(self, d: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        return (d / -self.scale).exp()

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class Heat(Affinity):
    """e^{-d^2 / (4 t)}; t in squared units of the distance."""

    def __init__(self, t: float = 0.25):
        super().__init__()
        self.t = _positive("Heat: t", t)

    def forward(self, d: Tensor, unit: Tensor | float = 1.0) -> Tensor:
        return (d * d / (-4 * self.t)).exp()

    def extra_repr(self) -> str:
        return f"t={self.t:g}"


def _positive(what: str, value: float) -> float:
    if not 0 < value < math.inf:
        raise DomainError(f"{what} must be positive and finite, got {value}")
    return float(value)


def affinity_for(distance: Distance, affinity: Affinity | None = None) -> Affinity:
    """`affinity`, or where it is None `OneMinus` of the distance's upper bound. Raises DomainError if it has none."""
    if affinity is not None:
        return affinity
    if not distance.upper_bound < math.inf:
        raise DomainError(
            f"a bounded similarity is needed and {distance} has no upper bound. Give affinity=ExpNeg(scale), with the "
            "distance at which items stop to be alike, affinity=Heat(t), or affinity=OneMinus(bound) if you know that "
            "no distance exceeds bound."
        )
    return OneMinus(distance.upper_bound)
