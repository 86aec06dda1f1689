"""The upper half-space of curvature -c: points (h, y), y > 0 last, metric (|dh|^2 + dy^2) / (c y^2).

With v = u / y, the components of a tangent vector u in the frame y d/dx_i, and r = |v|,

    d(x, z)  = 2/sqrt(c) asinh( |x - z| / (2 sqrt(y_x y_z)) )
    exp_x(u) = (h + y v_h sinhc(r) / q, y / q),   q = cosh r - v_y sinhc(r) = exp(-r) + sinhc(r) (r - v_y)
    log_x(z) = y_x r / sinh(r) ( (h_z - h_x) / y_z, (y_z - y_x) / y_z + 2 sinh^2(r / 2) ),   r = sqrt(c) d(x, z)
    PT_{x->z}: v_h + 2 (v_y - <t, v_h>) t / (1 + |t|^2),  (v_y (1 - |t|^2) - 2 <t, v_h>) / (1 + |t|^2)

where t = (h_z - h_x) / (y_x + y_z) is the tangent of half the angle by which the geodesic, a circle, turns. Points of
any depth keep their digits here, as long as they stay near the vertical through the origin.

Reference: Cannon, Floyd, Kenyon, Parry, "Hyperbolic geometry", MSRI 31, 1997.
"""

import torch
from torch import Tensor

from geoembed.manifolds.convert import halfspace_to_lorentz, lorentz_to_halfspace
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.numerics import arcosh1p, asinh, asinhc, norm, sinhc, sqdist

__all__ = ["HalfSpace"]


class HalfSpace(Hyperbolic):
    """Points and tangent vectors are (*B, d), the height y last. The origin is (0, .., 0, 1)."""

    name = "HalfSpace"
    _meaning = "a last coordinate y > 0"

    def _sinh_half(self, x: Tensor, y: Tensor) -> Tensor:
        """sinh(sqrt(c) d / 2). x, y: (*B, d) -> (*B, 1)."""
        return norm(x - y, keepdim=True) / (2 * (_height(x) * _height(y)).sqrt())

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance. x, y: (*B, d) -> (*B)."""
        d = 2 / self.c.sqrt() * asinh(self._sinh_half(x, y))
        return d if keepdim else d.squeeze(-1)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances. x: (*B, n, d), y: (*B, m, d) -> (*B, n, m)."""
        return arcosh1p(sqdist(x, y) / (2 * _height(x)) / _height(y).mT) / self.c.sqrt()

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u). x, u: (*B, d) -> (*B, d)."""
        y = _height(x)
        v = u / y
        across, up = v[..., :-1], v[..., -1:]
        r = norm(v, keepdim=True)
        rising = up > 0  # r - up = |across|^2 / (r + up) there
        gap = torch.where(
            rising, across.square().sum(-1, keepdim=True) / torch.where(rising, r + up, 1.0), r - up.clamp(max=0)
        )
        q = (-r).exp() + sinhc(r) * gap
        return self.projx(torch.cat([x[..., :-1] + y * across * (sinhc(r) / q), y / q], dim=-1))

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """log_x(y). x, y: (*B, d) -> (*B, d)."""
        y1, y2 = _height(x), _height(y)
        sinh_half = self._sinh_half(x, y)
        ratio = asinhc(sinh_half) / (1 + sinh_half.square()).sqrt()  # r / sinh r
        up = (y2 - y1) / y2 + 2 * sinh_half.square()
        return y1 * ratio * torch.cat([(y[..., :-1] - x[..., :-1]) / y2, up], dim=-1)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y along the geodesic. x, y, v: (*B, d) -> (*B, d)."""
        y1, y2 = _height(x), _height(y)
        v = v / y1
        across, up = v[..., :-1], v[..., -1:]
        t = (y[..., :-1] - x[..., :-1]) / (y1 + y2)
        t2, tv = t.square().sum(-1, keepdim=True), (t * across).sum(-1, keepdim=True)
        across = across + 2 * (up - tv) / (1 + t2) * t
        return y2 * torch.cat([across, (up * (1 - t2) - 2 * tv) / (1 + t2)], dim=-1)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """<u, v> / (c y^2). x, u, v: (*B, d) -> (*B)."""
        y = _height(x)
        product = (u / y * ((u if v is None else v) / y)).sum(-1, keepdim=True) / self.c
        return product if keepdim else product.squeeze(-1)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """|u| / (sqrt(c) y). x, u: (*B, d) -> (*B)."""
        return norm(u / _height(x), keepdim=keepdim) / self.c.sqrt()

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient c y^2 u of a Euclidean gradient u. x, u: (*B, d) -> (*B, d)."""
        return self.c * _height(x).square() * u

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def projx(self, x: Tensor) -> Tensor:
        """Hold the height at the square root of the smallest normal number or above. x: (*B, d) -> (*B, d)."""
        return torch.cat([x[..., :-1], _height(x)], dim=-1)

    def from_tangent(self, u: Tensor) -> Tensor:
        """exp at the origin (0, .., 0, 1). u: (*B, d) orthonormal -> (*B, d)."""
        return self.expmap(self._base(u), self.c.sqrt() * u)

    def to_tangent(self, x: Tensor) -> Tensor:
        """Inverse of `from_tangent`. x: (*B, d) -> (*B, d)."""
        return self.logmap(self._base(x), x) / self.c.sqrt()

    def to_lorentz(self, x: Tensor) -> Tensor:
        return halfspace_to_lorentz(x, self.c)

    def from_lorentz(self, x: Tensor) -> Tensor:
        return lorentz_to_halfspace(x, self.c)

    @staticmethod
    def _base(x: Tensor) -> Tensor:
        return torch.cat([torch.zeros_like(x[..., :-1]), torch.ones_like(x[..., -1:])], dim=-1)

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        return (x[..., -1] > 0) & x.isfinite().all(-1)


def _height(x: Tensor) -> Tensor:
    return x[..., -1:].clamp(min=torch.finfo(x.dtype).tiny ** 0.5)
