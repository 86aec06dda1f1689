"""The Poincare ball of curvature -c: c |x|^2 < 1, metric lambda_x^2 |dx|^2 with lambda_x = 2 / (1 - c |x|^2).

With s = sqrt(c), a = 1 - c |x|^2, b = 1 - c |y|^2, every formula is in the difference D of the points, so close pairs
near the boundary keep their digits:

    d(x, y)      = 2/s asinh( s |D| / sqrt(a b) ),  D = x - y
    x ⊕ y        = (a D + c |D|^2 x) / (a b + c |D|^2),  D = x + y                             Mobius addition
    exp_x(v)     = x ⊕ tanh(s lambda_x |v| / 2) v / (s |v|)
    log_x(y)     = a asinhc(s |D| / sqrt(a b)) (a D - c |D|^2 x) / sqrt(a b (a b + c |D|^2)),  D = y - x
    PT_{x->y}(v) = b/a (v + 2 (m W v + W W v) / (a b + c |D|^2)),  W v = c (x <D, v> - D <x, v>),  2 m = a + b + c |D|^2

The last is the rotation gyr[y, -x] in the plane of x and y by its half-angle. asinhc(t) = asinh(t) / t.

Nothing is clipped before the dtype's own limit: points reach radius 35 in float64 and 15 in float32.

References: Ungar, "Analytic hyperbolic geometry", 2005; Ganea, Becigneul, Hofmann, NeurIPS 2018, arXiv:1805.09112.
"""

import torch
from torch import Tensor

from geoembed.manifolds.convert import lorentz_to_poincare, poincare_to_lorentz
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.numerics import arcosh1p, artanhc, asinh, asinhc, less_square, norm, sqdist, tanhc

__all__ = ["PoincareBall"]


class PoincareBall(Hyperbolic):
    """The ball of radius 1 / sqrt(c). Points and tangent vectors are (*B, d)."""

    name = "PoincareBall"
    _meaning = "c |x|^2 < 1"

    def _gap(self, x: Tensor) -> Tensor:
        """1 - c |x|^2, held positive. x: (*B, d) -> (*B, 1)."""
        return (self.c * less_square(1 / self.c, x)).clamp(min=torch.finfo(x.dtype).eps)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance. x, y: (*B, d) -> (*B)."""
        s = self.c.sqrt()
        d = 2 / s * asinh(s * norm(x - y, keepdim=True) / (self._gap(x) * self._gap(y)).sqrt())
        return d if keepdim else d.squeeze(-1)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances. x: (*B, n, d), y: (*B, m, d) -> (*B, n, m)."""
        scale_x, scale_y = 2 * self.c / self._gap(x), 1 / self._gap(y)
        return arcosh1p(sqdist(x, y) * scale_x * scale_y.mT) / self.c.sqrt()

    def mobius_add(self, x: Tensor, y: Tensor) -> Tensor:
        """x ⊕ y. x, y: (*B, d) -> (*B, d)."""
        return self._add(x, y, self._gap(y))

    add = mobius_add

    def _add(self, x: Tensor, y: Tensor, b: Tensor) -> Tensor:
        a, D = self._gap(x), x + y
        D2 = self.c * D.square().sum(-1, keepdim=True)
        return self.projx((a * D + D2 * x) / (a * b + D2).clamp(min=torch.finfo(x.dtype).tiny))

    def mobius_scalar_mul(self, t: Tensor | float, x: Tensor) -> Tensor:
        """t ⊗ x = exp_0(t log_0 x). t: scalar or (*B, 1), x: (*B, d) -> (*B, d)."""
        return self.from_tangent(t * self.to_tangent(x))

    def mobius_matvec(self, M: Tensor, x: Tensor) -> Tensor:
        """M ⊗ x = exp_0(M log_0 x). M: (k, d), x: (*B, d) -> (*B, k)."""
        return self.from_tangent(self.to_tangent(x) @ M.mT)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u). x, u: (*B, d) -> (*B, d)."""
        half = u / self._gap(x)  # lambda_x u / 2
        t = self.c.sqrt() * norm(half, keepdim=True)
        return self._add(x, tanhc(t) * half, t.cosh().reciprocal().square())

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """log_x(y). x, y: (*B, d) -> (*B, d)."""
        a, b, D = self._gap(x), self._gap(y), y - x
        ab, D2 = a * b, self.c * D.square().sum(-1, keepdim=True)
        sinh_half = self.c.sqrt() * norm(D, keepdim=True) / ab.sqrt()
        return a * asinhc(sinh_half) / ab.sqrt() / (ab + D2).sqrt() * (a * D - D2 * x)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y along the geodesic. x, y, v: (*B, d) -> (*B, d)."""
        a, b, D = self._gap(x), self._gap(y), y - x
        D2 = self.c * D.square().sum(-1, keepdim=True)

        def turn(w: Tensor) -> Tensor:
            return self.c * (x * (D * w).sum(-1, keepdim=True) - D * (x * w).sum(-1, keepdim=True))

        once = turn(v)
        return b / a * (v + ((a + b + D2) * once + 2 * turn(once)) / (a * b + D2))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """lambda_x^2 <u, v>. x, u, v: (*B, d) -> (*B)."""
        product = 4 * (u * (u if v is None else v)).sum(-1, keepdim=True) / self._gap(x).square()
        return product if keepdim else product.squeeze(-1)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """lambda_x |u|. x, u: (*B, d) -> (*B)."""
        length = 2 * norm(u, keepdim=True) / self._gap(x)
        return length if keepdim else length.squeeze(-1)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient u / lambda_x^2 of a Euclidean gradient u. x, u: (*B, d) -> (*B, d)."""
        return u * (self._gap(x).square() / 4)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return u

    def projx(self, x: Tensor) -> Tensor:
        """The nearest point with s |x| <= 1 - 4 eps. x: (*B, d) -> (*B, d)."""
        length = norm(x, keepdim=True)
        limit = (1 - 4 * torch.finfo(x.dtype).eps) / self.c.sqrt()
        outside = length > limit
        return torch.where(outside, x * (limit / torch.where(outside, length, 1.0)), x)

    def from_tangent(self, u: Tensor) -> Tensor:
        """tanh(s |u| / 2) u / (s |u|). u: (*B, d) -> (*B, d)."""
        return self.projx(u / 2 * tanhc(self.c.sqrt() / 2 * norm(u, keepdim=True)))

    def to_tangent(self, x: Tensor) -> Tensor:
        """2 artanh(s |x|) x / (s |x|). x: (*B, d) -> (*B, d)."""
        return 2 * x * artanhc(self.c.sqrt() * norm(x, keepdim=True))

    def to_lorentz(self, x: Tensor) -> Tensor:
        return poincare_to_lorentz(x, self.c)

    def from_lorentz(self, x: Tensor) -> Tensor:
        return lorentz_to_poincare(x, self.c)

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        return self.c * x.square().sum(-1) < 1  # also False for NaN
