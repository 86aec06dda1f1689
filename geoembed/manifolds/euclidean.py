"""Flat space, with the same methods as the hyperbolic models."""

import geoopt
import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.numerics import norm, safe_sqrt, sqdist

__all__ = ["Euclidean"]


class Euclidean(geoopt.Euclidean):
    """R^d. Points and tangent vectors are (*B, d)."""

    name = "Euclidean"

    def __init__(self) -> None:
        super().__init__(ndim=1)

    def point_dim(self, d: int) -> int:
        """Number of coordinates of a point of the d-dimensional space."""
        return d

    def dim_of(self, coordinates: int) -> int:
        """Dimension of the space whose points have so many coordinates."""
        return coordinates

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """|x - y|. x, y: (*B, d) -> (*B)."""
        return norm(x - y, keepdim=keepdim)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances. x: (*B, n, d), y: (*B, m, d) -> (*B, n, m)."""
        return safe_sqrt(sqdist(x, y))

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """x + y."""
        return x + y

    def expmap0(self, u: Tensor) -> Tensor:
        return u

    def logmap0(self, x: Tensor) -> Tensor:
        return x

    def from_tangent(self, u: Tensor) -> Tensor:
        return u

    def to_tangent(self, x: Tensor) -> Tensor:
        return x

    def random(self, *size, std: float = 1.0, generator=None, dtype=None, device=None) -> Tensor:
        """Normal points. size: (*B, d)."""
        return std * torch.randn(*size, generator=generator, dtype=dtype, device=device)

    def barycentre(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Weighted mean. x: (*B, n, d), weights: (*B, n) -> (*B, d)."""
        if weights is None:
            return x.mean(-2)
        return (weights.unsqueeze(-1) * x).sum(-2) / weights.sum(-1, keepdim=True)

    def check(self, x: Tensor, atol: float = 1e-5) -> None:
        """Raise DomainError unless every row of x: (*B, d) is finite."""
        bad = (~x.isfinite().all(-1)).reshape(-1).nonzero().squeeze(-1)
        if len(bad):
            raise DomainError(f"{len(bad)} rows hold NaN or infinite values, the first is row {bad[0].item()}")

    def __repr__(self) -> str:
        return "Euclidean()"
