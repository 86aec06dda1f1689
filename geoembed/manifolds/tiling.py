"""What the tilings share: rows of cells and limbs, as wide as their points need.

    row = for each plane, some numbers of the cell, then the limbs of its integers, the least significant first

A manifold says how many limbs a row has at most. A row may have fewer, from one on: limbs that are not there are zero,
so rows of different widths go together, and what comes out is as wide as the widest that went in. Points near the
centre take one limb out of the 27 that radius 700 takes, and every number of a row is gathered, summed and stepped over
in training. So a table starts with `narrow(points)`, and the optimizers of `geoembed.optim` widen it, with their state,
when a row that moved has come near the end of its last limb. A row always has room for a step of 13 units of distance
(of curvature -1); a step that takes more raises DomainError.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.manifolds.limbs import used

__all__ = ["Tiling"]


class Tiling(Hyperbolic):
    """Base of `HTiling` and `LTiling`.

    Args:
        planes: parts of a row.
        cell: numbers of a part before its limbs.
        digits: numbers of a limb.
        limbs: the most limbs of a row.
        c, learnable: as in `Hyperbolic`.
    """

    dim: int
    _room: int  # bits of the last limb that a table keeps free

    def __init__(self, planes: int, cell: int, digits: int, limbs: int, c: float | Tensor, learnable: bool):
        super().__init__(c, learnable)
        self.planes, self.limbs, self._cell, self._digits = planes, limbs, cell, digits
        self.width = self._width(limbs)

    def _whole(self, **sizes: int) -> None:
        for name, value in sizes.items():
            if not isinstance(value, int) or isinstance(value, bool) or value < 1:
                raise ShapeError(f"{self.name}: {name} must be an integer >= 1, got {value!r}")

    def _width(self, limbs: int) -> int:
        return self.planes * (self._cell + self._digits * limbs)

    def point_dim(self, d: int) -> int:
        """Number of coordinates of a point with all limbs; d must be the dimension."""
        if d != self.dim:
            raise ShapeError(f"{self!r} has dimension {self.dim}, not {d}")
        return self.width

    def dim_of(self, coordinates: int) -> int:
        """The dimension; rows must be able to have so many coordinates."""
        self.limbs_of(coordinates)
        return self.dim

    def limbs_of(self, coordinates: int) -> int:
        """How many limbs rows of so many coordinates have. ShapeError if there are no such rows."""
        digits = coordinates // self.planes - self._cell
        limbs = digits // self._digits if self._digits else self.limbs
        if self._width(limbs) != coordinates or not 1 <= limbs <= self.limbs:
            least = f"{self._width(1)} .. " if self.width > self._width(1) else ""
            raise ShapeError(f"points of {self!r} have {least}{self.width} coordinates, not {coordinates}")
        return limbs

    def _aligned(self, *rows: Tensor) -> tuple[Tensor, ...]:
        """The rows, all as wide as the widest of them."""
        widest = max(self.limbs_of(row.shape[-1]) for row in rows)
        return tuple(row if row.shape[-1] == self._width(widest) else self._fitted(row, widest) for row in rows)

    def _points(self, *points: Tensor) -> tuple[Tensor, ...]:
        """`_aligned`, once their types are checked."""
        for point in points:
            if point.dtype not in (torch.float64, torch.float32):
                raise ShapeError(f"{self.name}: points must be float64 or float32, got {point.dtype}")
        if len({point.dtype for point in points}) > 1:
            raise ShapeError(f"points must be of one dtype, got {' and '.join(str(point.dtype) for point in points)}")
        return self._aligned(*points)

    def _fitted(self, rows: Tensor, limbs: int) -> Tensor:
        """Rows with so many limbs, new ones zero."""
        parts = rows.unflatten(-1, (self.planes, -1))
        return pad(parts, (0, self._cell + self._digits * limbs - parts.shape[-1])).flatten(-2)

    # ------------------------------------------------------------------------------ as wide as needed

    def limbs_used(self, x: Tensor) -> int:
        """How many limbs it takes to hold all of the points, at least 1. x: (*B, k)."""
        return used(x.detach().unflatten(-1, (self.planes, -1))[..., self._cell :], self._digits)

    def resized(self, x: Tensor, limbs: int | None = None) -> Tensor:
        """The points with so many limbs, those of the manifold if None. x: (*B, k') -> (*B, k).

        x may come from a manifold with more limbs. Raises DomainError for points beyond what the limbs hold, and
        ShapeError for limbs that are not from 1 to those of the manifold.
        """
        limbs = self.limbs if limbs is None else limbs
        self._whole(limbs=limbs)
        if limbs > self.limbs:
            raise ShapeError(f"resized: {self!r} has rows of at most {self.limbs} limb(s), got limbs={limbs}")
        digits = x.shape[-1] // self.planes - self._cell - self._digits
        if x.shape[-1] % self.planes or digits < 0 or (digits % self._digits if self._digits else digits):
            raise ShapeError(f"resized: expected points of {self!r} or of one with other limbs, got {tuple(x.shape)}")
        if digits > self._digits * (limbs - 1) and (needed := self.limbs_used(x)) > limbs:
            raise DomainError(f"points beyond what {limbs} limb(s) of {self!r} hold; they need limbs={needed}")
        return self._fitted(x, limbs)

    def narrow(self, x: Tensor) -> Tensor:
        """The points in the narrowest rows that have room for a step. x: (*B, k) -> (*B, k')."""
        x = self.resized(x, self.limbs_used(x))
        return self.resized(x, self.limbs_wanted(x))

    def limbs_wanted(self, table: Tensor, ids: Tensor | None = None) -> int:
        """How many limbs a table is to have whose rows `ids`, all if None, have moved: one more if one is near its end.

        table: (n, *B, k), ids: (m). What the optimizers of `geoembed.optim` ask for after each step.
        """
        limbs = self.limbs_of(table.shape[-1])
        if limbs == self.limbs:
            return limbs
        rows = table if ids is None else table.index_select(0, ids)
        top = rows.unflatten(-1, (self.planes, -1))[..., -self._digits :]
        end = 2.0 ** max(0, self._bits(table.dtype) - 1 - self._room)
        return limbs + bool((top.abs() >= end).any())  # NaN is no reason to grow

    def _bits(self, dtype: torch.dtype) -> int:
        raise NotImplementedError

    def widened(self, values: Tensor, limbs: int) -> Tensor:
        """Numbers that belong to rows but are no points, as moments do, for rows of more limbs. (*B, k) -> (*B, k').

        What they are at integers, zero or the same at all of them, they are at the new ones.
        """
        more = limbs - self.limbs_of(values.shape[-1])
        if more <= 0:
            return values
        parts = values.unflatten(-1, (self.planes, -1))
        return torch.cat([parts, *[parts[..., -self._digits :]] * more], dim=-1).flatten(-2)

    # ------------------------------------------------------------------------------ shared

    def origin(self, *size, **options) -> Tensor:
        """The origin, repeated, in rows of any width. size: (*B, k)."""
        return self._fitted(super().origin(*size, **options), self._limbs_in(size))

    def random(self, *size, **options) -> Tensor:
        """Points of the wrapped normal, see `Hyperbolic`, in rows of any width that holds them. size: (*B, k)."""
        return self.resized(super().random(*size, **options), self._limbs_in(size))

    def _limbs_in(self, size: tuple) -> int:
        return self.limbs_of(size[-1] if isinstance(size[-1], int) else size[-1][-1])

    def barycentre(self, x: Tensor, weights: Tensor | None = None, **options) -> Tensor:
        """The Frechet mean, with all limbs. x: (*B, n, k'), weights: (*B, n) -> (*B, k); options as in `Hyperbolic`."""
        return super().barycentre(self.resized(x), weights, **options)
