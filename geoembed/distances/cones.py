"""Entailment cones: how far y lies outside the cone of x, which opens away from the origin and holds what x entails.

    E(x, y) = [Xi(x, y) - psi(x)]_+        psi(x) = arcsin( 2 K / sinh r_x )      half the aperture of x's cone
    Xi(x, y) = pi - angle at x of the triangle 0 x y,    r_x = d(0, x)

The farther out x, the narrower its cone, and the cones of points in a cone lie in it: entailment is transitive. From
the sides of the triangle a = r_y, b = r_x, c = d(x, y), half their sum s,

    tan^2(Xi / 2) = sinh(s) sinh(s - a) / ( sinh(s - b) sinh(s - c) )

so that only distances are asked for, of whatever model of hyperbolic space, and a matrix needs no n x m x d tensor.

Reference: Ganea, Becigneul, Hofmann, "Hyperbolic entailment cones for learning hierarchical embeddings", ICML 2018,
arXiv:1804.01882, equations 26 and 28; there psi(x) = arcsin(K (1 - |x|^2) / |x|) in the ball, which is the same.
"""

import math

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.manifolds.hyperbolic import Hyperbolic

__all__ = ["EntailmentCone"]


class EntailmentCone(Distance):
    """The angle by which y lies outside the cone of x, 0 inside it, in radians; not symmetric and no metric.

    x, y: (*B, k) points of `manifold`. Where sinh r_x <= 2 K, near the origin, the cone is a half-space, psi = pi / 2.

    Args:
        manifold: any model of hyperbolic space of `geoembed.manifolds`.
        K: width of the cones, above 0.
    """

    symmetric = False
    is_metric = False
    upper_bound = math.pi

    def __init__(self, manifold: Hyperbolic, K: float = 0.1):
        super().__init__()
        if not isinstance(manifold, Hyperbolic) or getattr(manifold, "planes", 1) > 1:
            raise DomainError(f"EntailmentCone: cones are of a hyperbolic space, got {manifold!r}")
        if not 0 < K < math.inf:
            raise DomainError(f"EntailmentCone: K must be positive and finite, got {K}")
        self.manifold, self.K = manifold, float(K)

    @property
    def space(self) -> Hyperbolic:
        return self.manifold

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.angle(x, y) - self.aperture(self.radius(x))).relu()

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        return (self.angles(x, y) - self.aperture(self.radius(x)).unsqueeze(-1)).relu()

    def angle(self, x: Tensor, y: Tensor) -> Tensor:
        """Xi(x, y) in [0, pi], 0 where x = y. x, y: (*B, k) -> (*B)."""
        return self._angle(self.radius(x), self.radius(y), self.manifold.dist(x, y))

    def angles(self, x: Tensor, y: Tensor) -> Tensor:
        """The matrix of `angle`. x: (*B, n, k), y: (*B, m, k) -> (*B, n, m)."""
        return self._angle(self.radius(x).unsqueeze(-1), self.radius(y).unsqueeze(-2), self.manifold.cdist(x, y))

    def radius(self, x: Tensor) -> Tensor:
        """d(0, x). x: (*B, k) -> (*B)."""
        return self.manifold.dist(self.manifold.origin(x.shape[-1], dtype=x.dtype, device=x.device), x)

    def aperture(self, r: Tensor) -> Tensor:
        """psi of points at distance r from the origin, in (0, pi / 2]. (*B) -> (*B)."""
        r = (r * self.manifold.c.sqrt().to(r.dtype)).clamp(min=math.asinh(2 * self.K))
        sine = 4 * self.K * torch.exp(-r) / -torch.expm1(-2 * r)  # 2 K / sinh r
        return torch.asin(sine.clamp(max=1 - torch.finfo(r.dtype).eps))  # its slope at 1 is infinite

    def _angle(self, b: Tensor, a: Tensor, c: Tensor) -> Tensor:
        unit = self.manifold.c.sqrt().to(c.dtype)
        a, b, c = a * unit, b * unit, c * unit
        s = (a + b + c) / 2
        up, down = _log_sinh(s) + _log_sinh(s - a), _log_sinh(s - b) + _log_sinh(s - c)
        return torch.where(c == 0, 0.0, 2 * torch.atan(((up - down) / 2).exp()))

    def extra_repr(self) -> str:
        return f"K={self.K:g}"


def _log_sinh(x: Tensor) -> Tensor:
    """log sinh x, x >= 0 held above the smallest normal number."""
    x = x.clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
    return x + torch.log(-torch.expm1(-2 * x)) - math.log(2)
