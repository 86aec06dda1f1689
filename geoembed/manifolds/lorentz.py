"""The hyperboloid of curvature -c: <x, x> = -1/c, x0 > 0, with <x, y> = -x0 y0 + sum_i x_i y_i; time coordinate first.

-<x, y> loses all digits of a close pair at half the range of the coordinates. Here every function starts from the
space-like coordinates xs and their differences; x0 is recomputed. At c = 1, with D = xs - ys, S = xs + ys, T = x0 + y0,
p = <D, S> / |S| and q = 2 |xs| |z| / |S|, z the part of ys, or of D, across xs (xs the longer of the two),

    sinh^2(d / 2) = (p^2 + T^2 q^2 / 4) / (2 + 2 x0 y0 + 2 <xs, ys> + q^2)                  if the points are close
                  = ((|xs|^2 + |ys|^2 + |xs|^2 |ys|^2) / (1 + x0 y0) - <xs, ys>) / 2        if they are not
    exp_x(u) = cosh(|u|) x + sinh(|u|) / |u| u
    log_x(y) = d / sinh(d) (y - x - 2 sinh^2(d / 2) x)
    PT_{x->y}(v) = v + <y - x, v> / (1 - <x, y>) (x + y),   |u|^2 = |us_perp|^2 + (us_par / x0)^2
    matrix: sinh^2(d / 2) = sinh^2((r1 - r2) / 2) + sinh r1 sinh r2 |u1 - u2|^2 / 4,  u = xs / |xs|, r = asinh |xs|

References: Nickel, Kiela, ICML 2018, arXiv:1806.03417; the first and the last formula are identities of hyperbolic
trigonometry, arranged so that nothing cancels.
"""

import torch
from torch import Tensor

from geoembed.manifolds.convert import with_time
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.numerics import arcosh1p, asinh, asinhc, norm, sinhc, sqdist

__all__ = ["Lorentz"]


class Lorentz(Hyperbolic):
    """Points and tangent vectors are (*B, d + 1), time coordinate first. geoopt's k is 1 / c."""

    name = "Lorentz"
    _meaning = "<x, x> = -1/c and x0 > 0"

    def point_dim(self, d: int) -> int:
        return d + 1

    def dim_of(self, coordinates: int) -> int:
        return coordinates - 1

    def _sinh_half(self, x: Tensor, y: Tensor) -> Tensor:
        """sinh(sqrt(c) d / 2). x, y: (*B, d + 1) -> (*B, 1)."""
        s = self.c.sqrt()
        x, y, D = s * x[..., 1:], s * y[..., 1:], s * (x[..., 1:] - y[..., 1:])  # exact for close points
        x2, y2, xy = (_inner(x, x), _inner(y, y), _inner(x, y))
        x0, y0 = (1 + x2).sqrt(), (1 + y2).sqrt()
        outer = (x2 + y2 + x2 * y2) / (1 + x0 * y0)  # x0 y0 - 1
        far = xy < 0.9 * outer

        large, small = torch.where(x2 > y2, x, y), torch.where(x2 > y2, y, x)
        short = torch.where(_inner(D, D) < torch.minimum(x2, y2), D, small)  # both have the same part across `large`
        h, length = _unit(large), norm(large, keepdim=True)
        total = torch.maximum(norm(x + y, keepdim=True), length)  # |S|, the larger in all pairs that are not far
        total = torch.where(total > 0, total, 1.0)
        across = 2 * length / total * (short - _inner(short, h) * h)
        p = _inner(D, x + y) / total
        below = 2 * (1 + x0 * y0 + xy.clamp(min=0)) + _inner(across, across)
        near = norm(torch.cat([(x0 + y0) / 2 * across, p], dim=-1), keepdim=True) / below.sqrt()
        return torch.where(far, torch.where(far, (outer - xy) / 2, 1.0).sqrt(), near)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance. x, y: (*B, d + 1) -> (*B)."""
        d = 2 / self.c.sqrt() * asinh(self._sinh_half(x, y))
        return d if keepdim else d.squeeze(-1)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances. x: (*B, n, d + 1), y: (*B, m, d + 1) -> (*B, n, m).

        The matrix form compares directions, so its absolute error is a few roundings of sinh r at radius r, the size of
        the rounding of the coordinates themselves. `dist` is also relatively exact for pairs closer than that.
        """
        s, same = self.c.sqrt(), y is x
        x = s * x[..., 1:]
        y = x if same else s * y[..., 1:]
        sinh_x, sinh_y = norm(x, keepdim=True), norm(y, keepdim=True)
        radial = asinh(sinh_x) - asinh(sinh_y).mT
        u = _unit(x)
        angular = sqdist(u, u if same else _unit(y)) * (sinh_x / 2) * sinh_y.mT
        return arcosh1p(2 * (radial / 2).sinh().square() + angular) / s

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u). x, u: (*B, d + 1) -> (*B, d + 1)."""
        t = self.c.sqrt() * self.norm(x, u, keepdim=True)
        return with_time(t.cosh() * x[..., 1:] + sinhc(t) * u[..., 1:], self.c)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """log_x(y). x, y: (*B, d + 1) -> (*B, d + 1)."""
        sinh_half = self._sinh_half(x, y)
        ratio = asinhc(sinh_half) / (1 + sinh_half.square()).sqrt()  # d / sinh d
        space = y[..., 1:] - x[..., 1:] - 2 * sinh_half.square() * x[..., 1:]
        return self._tangent(x, ratio * space)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y along the geodesic. x, y, v: (*B, d + 1) -> (*B, d + 1)."""
        xs, ys, vs = x[..., 1:], y[..., 1:], v[..., 1:]
        D, S = ys - xs, xs + ys
        x0, y0 = self._time(xs), self._time(ys)
        step = (D * S).sum(-1, keepdim=True) / (x0 + y0)  # y0 - x0
        v0 = (xs * vs).sum(-1, keepdim=True) / x0
        along = (D * vs).sum(-1, keepdim=True) - step * v0
        cosh_half = 1 + self._sinh_half(x, y).square()  # (1 - c <x, y>) / 2
        return self._tangent(y, vs + self.c * along / (2 * cosh_half) * S)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """<u, v> for tangent vectors at x, without cancellation. x, u, v: (*B, d + 1) -> (*B)."""
        v = u if v is None else v
        xs, us, vs = x[..., 1:], u[..., 1:], v[..., 1:]
        h = _unit(xs)
        p, q = (us * h).sum(-1, keepdim=True), (vs * h).sum(-1, keepdim=True)
        across = ((us - p * h) * (vs - q * h)).sum(-1, keepdim=True)
        product = across + p * q / (1 + self.c * xs.square().sum(-1, keepdim=True))
        return product if keepdim else product.squeeze(-1)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Length of the tangent vector u at x; gradient zero at u = 0. x, u: (*B, d + 1) -> (*B)."""
        xs, us = x[..., 1:], u[..., 1:]
        h = _unit(xs)
        p = (us * h).sum(-1, keepdim=True)
        length = norm(torch.cat([us - p * h, p / (self.c.sqrt() * self._time(xs))], dim=-1), keepdim=keepdim)
        return length

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """Riemannian gradient of a Euclidean gradient u. x, u: (*B, d + 1) -> (*B, d + 1)."""
        return self.proju(x, torch.cat([-u[..., :1], u[..., 1:]], dim=-1))

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Orthogonal projection u + c <x, u> x on the tangent space at x. x, u: (*B, d + 1) -> (*B, d + 1)."""
        xs, us = x[..., 1:], u[..., 1:]
        inner = (xs * us).sum(-1, keepdim=True) - self._time(xs) * u[..., :1]
        return self._tangent(x, us + self.c * inner * xs)

    def projx(self, x: Tensor) -> Tensor:
        """The point with the same space-like coordinates. x: (*B, d + 1) -> (*B, d + 1)."""
        return with_time(x[..., 1:], self.c)

    def from_tangent(self, u: Tensor) -> Tensor:
        """(cosh(s |u|) / s, sinh(s |u|) u / (s |u|)). u: (*B, d) -> (*B, d + 1)."""
        return with_time(u * sinhc(self.c.sqrt() * norm(u, keepdim=True)), self.c)

    def to_tangent(self, x: Tensor) -> Tensor:
        """asinh(s |xs|) xs / (s |xs|). x: (*B, d + 1) -> (*B, d)."""
        space = x[..., 1:]
        return space * asinhc(self.c.sqrt() * norm(space, keepdim=True))

    def to_lorentz(self, x: Tensor) -> Tensor:
        return x

    def from_lorentz(self, x: Tensor) -> Tensor:
        return x

    def _time(self, space: Tensor) -> Tensor:
        return (1 / self.c + space.square().sum(-1, keepdim=True)).sqrt()

    def _tangent(self, x: Tensor, space: Tensor) -> Tensor:
        """The tangent vector at x with these space-like coordinates: its time coordinate is <xs, us> / x0."""
        xs = x[..., 1:]
        return torch.cat([(xs * space).sum(-1, keepdim=True) / self._time(xs), space], dim=-1)

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        time = self._time(x[..., 1:]).squeeze(-1)
        return (x[..., 0] - time).abs() <= atol * time  # also False for NaN

    def _check_vector_on_tangent(self, x, u, *, atol=1e-5, rtol=1e-5):
        off = (u[..., 0] - self._tangent(x, u[..., 1:])[..., 0]).abs() > atol + rtol * norm(u)
        return (False, "expected <x, u> = 0") if bool(off.any()) else (True, None)


def _inner(x: Tensor, y: Tensor) -> Tensor:
    return (x * y).sum(-1, keepdim=True)


def _unit(x: Tensor) -> Tensor:
    length = norm(x, keepdim=True)
    return x / torch.where(length > 0, length, 1.0)
