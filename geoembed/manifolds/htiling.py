"""The half-space tiled by a group of isometries: points of any radius keep all their digits.

    point = 2^j (x + k, m),   x in [0, 1)^(n-1) and m in [1, 2) floats, j an integer, k integers of several limbs

Dilations by 2 and integer translations move the cell [0, 1)^(n-1) x [1, 2) over the whole half-space. The error of a
point is a rounding within its cell, whatever its radius; a float coordinate of ball or hyperboloid has lost all its
digits at radius 37. For points 1 and 2, j = max(j1, j2), s = |j1 - j2|, and D = 2^-j (point 1 - point 2), the integers
subtracted exactly,

    sinh^2(d / 2) = 2^s |D|^2 / (4 m1 m2),      no cancellation; in logarithms where it overflows
    x' = x + m v_h sinhc(r) / q,  m' = m / q,  q = exp(-r) + sinhc(r) (r - v_n),  r = |v|       exp_x(v)

Tangent vectors are given by their components in the frame e_i = y d/dx_i, y the height. The group leaves this frame
alone, so a vector, a momentum say, is the same before and after its point is carried to the fundamental cell.

References: T. Yu, C. De Sa, "Numerically accurate hyperbolic embeddings using tiling-based models", NeurIPS 2019; the
distance and its gradient are rearranged here, so that pairs within a cell and pairs far apart are right alike.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.errors import ShapeError
from geoembed.manifolds.cells import LOG2, SIGN, bits_of, carry, distance, offset, sinh_half
from geoembed.manifolds.convert import lorentz_to_halfspace, poincare_to_halfspace
from geoembed.manifolds.limbs import summed
from geoembed.manifolds.tiling import Tiling
from geoembed.numerics import asinhc, norm, sinhc

__all__ = ["HTiling"]

_PAIRS = 1 << 18  # of a matrix worked on at a time: their limbs take several times the memory of the distances


class HTiling(Tiling):
    """Points are rows (*B, k), k = dim + 1 + (dim - 1) limbs or less, of float64 or float32: see `pack`.

    Rows are [x_1 .. x_(n-1), m, j, limbs of k: for each limb, the least significant first, its n - 1 digits]. Integers
    are floats; a limb has 40 bits in float64 and 20 in float32, so points of either type are not cast but converted
    anew. Tangent vectors are (*B, k) too: the components in the invariant frame first, then zeros. Gradients of
    integers are zero. The optimizers of geoopt and of `geoembed.optim` work on such rows; their Euclidean weight
    decay has no meaning here, decoupled weight decay has. Rows may have fewer limbs than `limbs`, see `tiling`.

    `transp` keeps the components in the invariant frame. It is an isometry of tangent spaces and what momentum uses;
    it is not the Levi-Civita transport along the geodesic. `add(x, y)` is hence the image of y under the dilation and
    translation that take the origin to x.

    Args:
        dim: dimension n >= 1 of the space.
        limbs: of each integer at most, 2 for points up to sqrt(c) r = 54, 26 up to 720, in float32 twice as many;
            `limbs_for`.
        c, learnable: the curvature is -c.

    Raises ShapeError for a dim or limbs that is not a positive integer, and DomainError from any method that makes a
    point, if it lies beyond what the limbs hold; the message says how many it needs.
    """

    name = "HTiling"
    _room, _bits = 20, staticmethod(bits_of)
    _meaning = "x in [0, 1), a height in [1, 2), an integer j and balanced integer limbs"

    def __init__(self, dim: int, limbs: int = 2, c: float | Tensor = 1.0, learnable: bool = False):
        self._whole(dim=dim, limbs=limbs)
        super().__init__(1, dim + 1, dim - 1, limbs, c, learnable)
        self.dim = dim

    @staticmethod
    def limbs_for(radius: float, dtype: torch.dtype = torch.float64) -> int:
        """Limbs that hold all points with sqrt(c) d(0, x) <= radius."""
        return max(1, math.ceil((radius / LOG2 + SIGN) / bits_of(dtype)))  # |k| <= 2 sinh(radius)

    # ------------------------------------------------------------------------------ distance

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance. x, y: (*B, k) -> (*B)."""
        x, y = self._points(x, y)
        difference, m1, m2, level, _, _ = offset(x, y, self.dim)
        d = distance(difference, m1, m2, level) / self.c.sqrt()
        return d.unsqueeze(-1) if keepdim else d

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances, the same as those of `dist`. x: (*B, n, k), y: (*B, m, k) -> (*B, n, m)."""
        parts = x.unsqueeze(-2).split(max(1, _PAIRS // max(1, y.shape[-2])), dim=-3)
        return torch.cat([self.dist(part, y.unsqueeze(-3)) for part in parts], dim=-2)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """log_x(y) in the invariant frame. x, y: (*B, k) -> (*B, k)."""
        x, y = self._points(x, y)
        difference, m1, m2, level, scale, _ = offset(x, y, self.dim)
        rho = norm(difference.movedim(0, -1))
        s, left = sinh_half(rho, m1, m2, level)
        cosh = (1 + s * s).sqrt()
        tanh_d = distance(difference, m1, m2, level) * (s / cosh)
        far = s > 1
        factor = torch.where(
            far,
            2 * tanh_d / torch.where(far, rho, 1.0).square(),
            asinhc(s) / cosh * (2 * (level - left)).exp2() / (m1 * m2),
        )
        v = -(m1 * scale * factor) * difference
        v = torch.cat([v[:-1], (v[-1] + tanh_d).unsqueeze(0)])
        return self._packed(v.movedim(0, -1), x)

    # ------------------------------------------------------------------------------ moving

    def geodesic_step(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u) in the cell of x, not carried to the fundamental one. x, u: (*B, k) -> (*B, k).

        Every function takes such points, but their digits are lost as they leave the cell; `projx` carries them.
        """
        n = self.dim
        x, u = torch.broadcast_tensors(*self._aligned(x, u))
        v, m = u[..., :n], x[..., n - 1 : n]
        across, up = v[..., :-1], v[..., -1:]
        r = norm(v, keepdim=True)
        rising = up > 0  # r - up = |across|^2 / (r + up) there
        gap = torch.where(
            rising, across.square().sum(-1, keepdim=True) / torch.where(rising, r + up, 1.0), r - up.clamp(max=0)
        )
        ratio = sinhc(r)
        q = (-r).exp() + ratio * gap
        longest = math.log(torch.finfo(x.dtype).max) - 3
        height = torch.where(r > longest, 0.0, m / q)  # `projx` refuses it
        return torch.cat([x[..., : n - 1] + m * (across * ratio / q), height, x[..., n:]], dim=-1)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u), carried. x, u: (*B, k) -> (*B, k)."""
        return self.projx(self.geodesic_step(x, u))

    def projx(self, x: Tensor) -> Tensor:
        """The same point with its cell coordinates carried to the fundamental cell. x: (*B, k) -> (*B, k).

        Raises DomainError if a height is not positive and finite, or if the limbs cannot hold the point.
        """
        (x,) = self._points(x)
        return carry(x, self.dim)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """The vector at y with the components of v in the invariant frame. x, y, v: (*B, k) -> (*B, k)."""
        x, y, v = self._aligned(x, y, v)
        return v.expand(torch.broadcast_shapes(x.shape, y.shape, v.shape))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """<u, v> / c. x, u, v: (*B, k) -> (*B)."""
        u = u[..., : self.dim]
        return (u * (u if v is None else v[..., : self.dim])).sum(-1, keepdim=keepdim) / self.c

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """The inner product at all coordinates, for adaptive optimizers. x, u, v: (*B, k) -> (*B, k).

        Not one column that broadcasts: sums with it round differently, as may be, in rows of another width.
        """
        return self.inner(x, u, v, keepdim=True).expand(u.shape).contiguous()

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """|u| / sqrt(c). x, u: (*B, k) -> (*B)."""
        return norm(u[..., : self.dim], keepdim=keepdim) / self.c.sqrt()

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian gradient, c m times that of the cell coordinates. x, u: (*B, k) -> (*B, k)."""
        n, (x, u) = self.dim, self._aligned(x, u)
        return self._packed(self.c * x[..., n - 1 : n] * u[..., :n], u)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Zero the components of u that stand for integers. x, u: (*B, k) -> (*B, k)."""
        return self._packed(u[..., : self.dim], u)

    # ------------------------------------------------------------------------------ coordinates

    def pack(self, x: Tensor) -> Tensor:
        """Points from half-space coordinates (h, y), y > 0 last, exactly but for roundings in the cell.

        x: (*B, dim) -> (*B, k). Raises DomainError as `projx`.
        """
        if x.shape[-1] != self.dim:
            raise ShapeError(f"pack: expected half-space coordinates (*B, {self.dim}), got {tuple(x.shape)}")
        return self.projx(self._packed(x))

    def _packed(self, cells: Tensor, like: Tensor | None = None) -> Tensor:
        return pad(cells, (0, (self.width if like is None else like.shape[-1]) - self.dim))

    from_halfspace = pack

    def _ratio(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The integers plus fractions x + k as s B^e, with m and j: (*B, n - 1) and (*B, 1) each."""
        n = self.dim
        k = x[..., n + 1 :].detach().unflatten(-1, (self.limbs_of(x.shape[-1]), n - 1)).movedim(-2, 0)
        total, exponent = summed(k)
        exponent = torch.zeros_like(total) if exponent is None else exponent * bits_of(x.dtype)
        return total + x[..., : n - 1], exponent, x[..., n - 1 : n], x[..., n : n + 1].detach()

    def to_halfspace(self, x: Tensor) -> Tensor:
        """Half-space coordinates (h, y), rounded; infinite or zero beyond the range of the floats.

        x: (*B, k) -> (*B, dim).
        """
        s, e, m, j = self._ratio(x)
        return torch.cat([_ldexp(s, e + j), _ldexp(m, j)], dim=-1)

    def to_lorentz(self, x: Tensor) -> Tensor:
        """Coordinates in `Lorentz(c)`, up to radius 700 in float64. x: (*B, k) -> (*B, dim + 1)."""
        s, e, m, j = self._ratio(x)
        across, h, y = _ldexp(s / m, e), _ldexp(s, e + j), _ldexp(m, j)
        bulk = (across * h).sum(-1, keepdim=True) / 2
        deep = _ldexp(1 / m, -j)
        time, along = bulk + (y + deep) / 2, bulk + (y - 1) * (1 + deep) / 2
        return torch.cat([time, across, along], dim=-1) / self.c.sqrt()

    def from_lorentz(self, x: Tensor) -> Tensor:
        """x: (*B, dim + 1) -> (*B, k)."""
        return self.pack(lorentz_to_halfspace(x, self.c))

    def to_poincare(self, x: Tensor) -> Tensor:
        """Coordinates in `PoincareBall(c)`; on its boundary beyond radius 37 in float64. x: (*B, k) -> (*B, dim)."""
        u = self.to_tangent(x) * self.c.sqrt()
        r = norm(u, keepdim=True)
        apart = r > 0
        return torch.where(apart, (r / 2).tanh() / torch.where(apart, r, 1.0), 0.5) * u / self.c.sqrt()

    def from_poincare(self, x: Tensor) -> Tensor:
        """x: (*B, dim) -> (*B, k)."""
        return self.pack(poincare_to_halfspace(x, self.c))

    def from_tangent(self, u: Tensor) -> Tensor:
        """exp at the origin (0, .., 0, 1). u: (*B, dim) orthonormal -> (*B, k)."""
        u = self._packed(self.c.sqrt() * u)
        return self.expmap(self._base(u), u)

    def to_tangent(self, x: Tensor) -> Tensor:
        """Inverse of `from_tangent`. x: (*B, k) -> (*B, dim)."""
        return self.logmap(self._base(x), x)[..., : self.dim] / self.c.sqrt()

    def _base(self, x: Tensor) -> Tensor:
        return pad(torch.ones_like(x[..., :1]), (self.dim - 1, x.shape[-1] - self.dim)).detach()

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        n, half = self.dim_of(x.shape[-1]), 2.0 ** (bits_of(x.dtype) - 1)
        cell, m, whole = x[..., : n - 1], x[..., n - 1], x[..., n:]
        inside = ((cell >= 0) & (cell < 1)).all(-1) & (m >= 1) & (m < 2)
        return inside & (whole == whole.floor()).all(-1) & (whole[..., 1:].abs() <= half).all(-1) & x.isfinite().all(-1)

    def __repr__(self) -> str:
        rest = "".join([f", c={float(self.c.detach()):g}" if self.c != 1 else "", ", learnable=True" * self.learnable])
        return f"{self.name}({self.dim}, {self.limbs}{rest})"


def _ldexp(x: Tensor, exponent: Tensor) -> Tensor:
    """x 2^exponent without overflow on the way."""
    half = (exponent / 2).floor()
    return x * half.exp2() * (exponent - half).exp2()
