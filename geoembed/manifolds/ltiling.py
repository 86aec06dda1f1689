"""The hyperbolic plane tiled by squares, six around each corner: points of any radius keep all their digits.

    point = L g L^-1 x,   g in G = <a, b | a^6 = b^6 = (ab)^3 = 1> exactly,  x a point of the square F around the centre

G moves F over the whole plane, so the error of a point is a rounding within its square, whatever its radius; a float
coordinate of ball or hyperboloid has lost all its digits at radius 37. Several planes make a product, whose distance is
the Riemannian one, sqrt(sum_i d_i^2), or the sum over the planes, sum_i d_i, as in the paper. All else is done plane by
plane: `frames` holds the group, `squares` the carry to F, `spinors` the geometry of two points.

Tangent vectors are given by two components a plane, in the orthonormal frame that parallel transport takes along from
the centre of F to x. When a point is carried to another square they are turned by an angle; `retr_transp` does that, so
momentum is transported along.

References: T. Yu, C. De Sa, "Numerically accurate hyperbolic embeddings using tiling-based models", NeurIPS 2019, the
L-tiling; distances come from integer quaternions here, not from products of integer matrices.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from geoembed.errors import ShapeError, UnknownNameError
from geoembed.manifolds.convert import halfspace_to_lorentz, lorentz_to_halfspace, poincare_to_lorentz
from geoembed.manifolds.frames import (
    BITS,
    IDENTITY,
    Frame,
    Word,
    are_frames,
    check_frame,
    digits_of,
    frame_to_word,
    integers_of,
    signed,
    times,
    word_to_frame,
)
from geoembed.manifolds.spinors import relative, spinors
from geoembed.manifolds.squares import (
    carry,
    cells_of,
    frame_digits,
    half,
    limbs_for,
    lower,
    outside,
    rows_of,
    with_cells,
    with_frames,
)
from geoembed.manifolds.tiling import Tiling
from geoembed.numerics import asinhc, norm, sinhc, tanhc

__all__ = ["LTiling"]

_PAIRS = 1 << 18  # of a matrix worked on at a time
_METRICS = ("riemannian", "l1")


class LTiling(Tiling):
    """Points are rows (*B, k), k = planes (2 + 4 limbs) or less, of float64 or float32: see `pack`.

    A plane has [x_1, x_2, limbs: for each, the least significant first, its digits of w, x, y, z], x_1 and x_2 the
    space-like coordinates on the unit hyperboloid, (w, x, y, z) the frame, an element of `frames`. A limb has 24 bits
    in either dtype, so rows can be cast; only cells are rounded. Computations are in float64. Tangent vectors are
    (*B, k) too: two components a plane where x_1 and x_2 are, then zeros. Gradients of integers are zero. The
    optimizers of geoopt and of `geoembed.optim` work on such rows; their Euclidean weight decay has no meaning here,
    decoupled weight decay has. Rows may have fewer limbs than `limbs`, see `tiling`.

    `transp` is parallel transport along geodesics and `add` is gyroaddition, in each plane. In both metrics geodesics,
    `inner` and `norm` are those of the Riemannian product.

    Args:
        planes: how many; the dimension is 2 planes.
        limbs: of each integer at most, 1 for points up to sqrt(c) r = 29 in each plane, 2 up to 62, 22 up to 728;
            `limbs_for`.
        metric: of distances, "riemannian" or "l1".
        c, learnable: the curvature of each plane is -c.

    Raises ShapeError for planes or limbs that are not positive integers, UnknownNameError for another metric, and
    DomainError from any method that makes a point, if it lies beyond what the limbs hold; the message says how many it
    needs.
    """

    name = "LTiling"
    limbs_for = staticmethod(limbs_for)  # that hold all points with sqrt(c) d(0, x) <= radius in each plane
    _room, _bits = 11, staticmethod(lambda dtype: BITS)
    _meaning = "x in the square F of each plane and balanced integer limbs of an element of the group"

    def __init__(
        self,
        planes: int = 1,
        limbs: int = 1,
        metric: str = "riemannian",
        c: float | Tensor = 1.0,
        learnable: bool = False,
    ):
        self._whole(planes=planes, limbs=limbs)
        if metric not in _METRICS:
            raise UnknownNameError("metric", metric, _METRICS)
        super().__init__(planes, 2, 4, limbs, c, learnable)
        self.dim, self.metric = 2 * planes, metric

    # ------------------------------------------------------------------------------ distance

    def distances(self, x: Tensor, y: Tensor) -> Tensor:
        """The distances in each plane. x, y: (*B, k) -> (*B, planes)."""
        x, y = self._points(x, y)
        d = relative(x, y, self.planes)[2].movedim(0, -1)
        return d.to(x.dtype) / self.c.sqrt()

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """Distance. x, y: (*B, k) -> (*B)."""
        d = self.distances(x, y)
        if self.planes == 1:
            return d if keepdim else d.squeeze(-1)
        return d.sum(-1, keepdim=keepdim) if self.metric == "l1" else norm(d, keepdim=keepdim)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances, the same as those of `dist`. x: (*B, n, k), y: (*B, m, k) -> (*B, n, m)."""
        parts = x.unsqueeze(-2).split(max(1, _PAIRS // max(1, self.planes * y.shape[-2])), dim=-3)
        return torch.cat([self.dist(part, y.unsqueeze(-3)) for part in parts], dim=-2)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        """log_x(y) in the frame at x. x, y: (*B, k) -> (*B, k)."""
        x, y = self._points(x, y)
        alpha, beta, d = relative(x, y, self.planes)
        sinh, cosh = beta.abs(), alpha.abs()
        far = sinh > 1
        ratio = d / torch.where(far, sinh, 1.0)
        ratio = torch.where(far, ratio, 2 * asinhc(torch.where(far, 1.0, sinh)))
        return rows_of(alpha / cosh * beta * ratio, x)

    # ------------------------------------------------------------------------------ moving

    def _step(self, x: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """exp_x(u) in the squares of x, and alpha: vectors taken along turn by the square of its direction."""
        x, u = torch.broadcast_tensors(*self._points(x, u))
        cell, step = (cells_of(row, self.planes).to(torch.complex128) for row in (x, u))
        length = norm(torch.view_as_real(step)) / 2
        (p, s), cosh, ahead = half(cell), length.cosh(), sinhc(length) * step / 2
        alpha, beta = p * cosh + s * ahead.conj(), p * ahead + s * cosh
        moved = 2 * alpha * beta
        moved = moved + torch.where(step == 0, cell - moved, 0.0).detach()  # where nothing moves not even by a rounding
        return with_cells(x, moved), alpha

    def geodesic_step(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u) in the squares of x, not carried to F. x, u: (*B, k) -> (*B, k).

        Every function takes such points, but their digits are lost as they leave F; `projx` carries them.
        """
        return self._step(x, u)[0]

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        """exp_x(u), carried. x, u: (*B, k) -> (*B, k)."""
        return self.projx(self.geodesic_step(x, u))

    def expmap_transp(self, x: Tensor, u: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """exp_x(u), carried, and v transported along. x, u, v: (*B, k) -> (*B, k), (*B, k)."""
        x, u, v = self._points(x, u, v)
        moved, alpha = self._step(x, u)
        turn = (alpha / alpha.abs()).square()
        y, more = carry(moved, self.planes)
        return y, rows_of(cells_of(v.expand_as(y), self.planes) * turn * more, y)

    retr_transp = expmap_transp  # what optimizers move a point and its momentum by

    def projx(self, x: Tensor) -> Tensor:
        """The same point with its cells carried to the square F. x: (*B, k) -> (*B, k).

        Raises DomainError if a cell is infinite, or if the limbs cannot hold the point.
        """
        (x,) = self._points(x)
        return carry(x, self.planes)[0]

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        """Parallel transport of v from x to y along the geodesic. x, y, v: (*B, k) -> (*B, k)."""
        x, y, v = self._points(x, y, v)
        alpha, _, _ = relative(x, y, self.planes)
        shape = torch.broadcast_shapes(alpha.shape[1:], v.shape[:-1])
        turn = (alpha / alpha.abs()).conj().square()
        return rows_of(cells_of(v.expand(*shape, v.shape[-1]), self.planes) * turn, y)

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """<u, v> / c. x, u, v: (*B, k) -> (*B)."""
        return self._inners(u, u if v is None else v).sum(-1, keepdim=keepdim)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """The inner product in each plane, at all of its coordinates, for adaptive optimizers. (*B, k) -> (*B, k)."""
        products = self._inners(u, u if v is None else v)
        return products.unsqueeze(-1).expand(*products.shape, u.shape[-1] // self.planes).flatten(-2).contiguous()

    def _inners(self, u: Tensor, v: Tensor) -> Tensor:
        first, second = (row.unflatten(-1, (self.planes, -1))[..., :2] for row in (u, v))
        return (first * second).sum(-1) / self.c

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """|u| / sqrt(c). x, u: (*B, k) -> (*B)."""
        return norm(self.cells(u), keepdim=keepdim) / self.c.sqrt()

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        """The Riemannian gradient from that of the cells. x, u: (*B, k) -> (*B, k)."""
        x, u = self._aligned(x, u)
        return rows_of(self.c * lower(*(cells_of(row, self.planes) for row in (x, u))), x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        """Zero the components of u that stand for integers. x, u: (*B, k) -> (*B, k)."""
        return rows_of(cells_of(u, self.planes), u)

    # ------------------------------------------------------------------------------ frames and words

    def pack(self, cells: Tensor, frames: Sequence[Sequence[Frame]] | None = None) -> Tensor:
        """Points from coordinates on the unit hyperboloid, moved by frames.

        cells: (*B, 2 planes) space-like, anywhere in the planes; frames: for each of the prod(B) rows one (w, x, y, z)
        for each plane, the identity if None -> (*B, k). Raises DomainError as `projx`, and for what is no frame.
        """
        if cells.shape[-1] != self.dim:
            raise ShapeError(f"pack: expected coordinates (*B, {self.dim}), got {tuple(cells.shape)}")
        count = cells.shape[:-1].numel()
        if frames is not None and (len(frames) != count or any(len(row) != self.planes for row in frames)):
            raise ShapeError(f"pack: expected {count} rows of {self.planes} frames, for points {tuple(cells.shape)}")
        wanted = [IDENTITY] if frames is None else [frame for row in frames for frame in row]
        for frame in wanted:
            check_frame(frame)
        digits = digits_of(wanted, self.limbs)
        limbs = torch.view_as_real(digits * signed(digits)).movedim(2, 0).flatten(1)  # n, 4 limbs
        limbs = limbs.to(cells).expand(count * self.planes, -1).view(*cells.shape[:-1], self.planes, 4 * self.limbs)
        return self.projx(torch.cat([cells.unflatten(-1, (self.planes, 2)), limbs], dim=-1).flatten(-2))

    def frames(self, x: Tensor) -> list[list[Frame]]:
        """The frames (w, x, y, z) of all rows, for each plane. x: (*B, k) -> prod(B) lists."""
        (x,) = self._points(x)
        digits = frame_digits(x.detach().reshape(-1, 1, x.shape[-1] // self.planes), 1)
        flat = integers_of(digits.flatten(2).cpu())
        return [flat[start : start + self.planes] for start in range(0, len(flat), self.planes)]

    def words(self, x: Tensor) -> list[list[Word]]:
        """The frames of all rows as words, for each plane: see `frames.frame_to_word`. x: (*B, k) -> prod(B) lists."""
        return [[frame_to_word(frame) for frame in row] for row in self.frames(x)]

    def from_words(self, words: Sequence[Sequence[Word]], cells: Tensor) -> Tensor:
        """Inverse of `words`, together with `cells`. cells: (*B, 2 planes) -> (*B, k). Raises as `pack`."""
        return self.pack(cells, [[word_to_frame(word) for word in row] for row in words])

    def cells(self, x: Tensor) -> Tensor:
        """The points of the squares, space-like coordinates on the unit hyperboloid. x: (*B, k) -> (*B, 2 planes)."""
        (x,) = self._points(x)
        return x.unflatten(-1, (self.planes, -1))[..., :2].flatten(-2)

    def act(self, word: Word, x: Tensor) -> Tensor:
        """The isometry of the word, in every plane; cells stay as they are. x: (*B, k) -> (*B, k).

        Raises DomainError if the limbs cannot hold the point, or for a letter that is neither "a" nor "b".
        """
        (x,) = self._points(x)
        digits = frame_digits(x.detach(), self.planes)
        mover = digits_of([word_to_frame(word)]).to(digits.device)
        return with_frames(x, times(mover.view(*mover.shape[:2], *[1] * (digits.dim() - 2)), digits))

    # ------------------------------------------------------------------------------ coordinates

    def to_lorentz(self, x: Tensor) -> Tensor:
        """Coordinates in `Lorentz(c)` of each plane, up to radius 700 in float64. x: (*B, k) -> (*B, 3 planes)."""
        (x,) = self._points(x)
        alpha, beta = spinors(x, self.planes)
        time = alpha.abs().square() + beta.abs().square()
        points = torch.cat([time.unsqueeze(-1), torch.view_as_real(2 * alpha * beta)], dim=-1)
        return points.movedim(0, -2).flatten(-2).to(x.dtype) / self.c.sqrt()

    def from_lorentz(self, x: Tensor) -> Tensor:
        """x: (*B, 3 planes) -> (*B, k). Right to the roundings of the coordinates, which coarsen with the radius."""
        return self.pack(self._each(lambda point: point[..., 1:] * self.c.sqrt(), x, 3))

    def to_halfspace(self, x: Tensor) -> Tensor:
        """Coordinates in `HalfSpace(c)` of each plane. x: (*B, k) -> (*B, 2 planes)."""
        return self._each(lambda point: lorentz_to_halfspace(point, self.c), self.to_lorentz(x), 3)

    def from_halfspace(self, x: Tensor) -> Tensor:
        """x: (*B, 2 planes) -> (*B, k)."""
        return self.from_lorentz(self._each(lambda point: halfspace_to_lorentz(point, self.c), x, 2))

    def to_poincare(self, x: Tensor) -> Tensor:
        """Coordinates in `PoincareBall(c)` of each plane, beyond radius 37 on its edge. (*B, k) -> (*B, 2 planes)."""

        def disk(u: Tensor) -> Tensor:
            return u * tanhc(self.c.sqrt() / 2 * norm(u, keepdim=True)) / 2

        return self._each(disk, self.to_tangent(x), 2)

    def from_poincare(self, x: Tensor) -> Tensor:
        """x: (*B, 2 planes) -> (*B, k)."""
        return self.from_lorentz(self._each(lambda point: poincare_to_lorentz(point, self.c), x, 2))

    def _each(self, function: Callable[[Tensor], Tensor], x: Tensor, size: int) -> Tensor:
        """A function of the point of each plane."""
        if x.shape[-1] != size * self.planes:
            raise ShapeError(f"{self!r}: expected {size} coordinates a plane, got {tuple(x.shape)}")
        return function(x.unflatten(-1, (self.planes, size))).flatten(-2)

    def from_tangent(self, u: Tensor) -> Tensor:
        """exp at the centre. u: (*B, dim) orthonormal -> (*B, k)."""
        u = self.c.sqrt() * u
        return self.pack(self._each(lambda step: step * sinhc(norm(step, keepdim=True)), u, 2))

    def to_tangent(self, x: Tensor) -> Tensor:
        """Inverse of `from_tangent`. x: (*B, k) -> (*B, dim)."""
        origin = self.pack(torch.zeros(self.dim, dtype=x.dtype, device=x.device))
        return self.cells(self.logmap(origin, x)) / self.c.sqrt()

    def barycentre(self, x: Tensor, weights: Tensor | None = None, **options) -> Tensor:
        """The Frechet mean in each plane. x: (*B, n, k), weights: (*B, n) -> (*B, k); options as in `Hyperbolic`."""
        if self.planes == 1:
            return super().barycentre(x, weights, **options)
        plane = LTiling(1, self.limbs, c=self.c)
        points = x.unflatten(-1, (self.planes, -1)).movedim(-2, 0)
        spread = None if weights is None else weights.expand(self.planes, *weights.shape)
        return plane.barycentre(points, spread, **options).movedim(0, -2).flatten(-2)

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        (x,) = self._points(x)
        cells = cells_of(x, self.planes)
        inside = (~outside(cells, atol) & cells.real.isfinite() & cells.imag.isfinite()).all(0)
        return inside & are_frames(frame_digits(x, self.planes)).all(0)

    def __repr__(self) -> str:
        parts = [
            f", metric={self.metric!r}" * (self.metric != "riemannian"),
            f", c={float(self.c.detach()):g}" if self.c != 1 else "",
            ", learnable=True" * self.learnable,
        ]
        return f"{self.name}({self.planes}, {self.limbs}{''.join(parts)})"
