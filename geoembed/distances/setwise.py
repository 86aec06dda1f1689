"""Cheap distances between point sets, from the matrix of the ground distances d(x_i, y_j) of their points.

With weights a_i of the x_i and b_j of the y_j that sum to one:

    SetMin          min_ij d(x_i, y_j)
    Chamfer         sum_i a_i min_j d(x_i, y_j) + sum_j b_j min_i d(x_i, y_j)
    Hausdorff       max( max_i min_j d(x_i, y_j), max_j min_i d(x_i, y_j) )
    EnergyDistance  sqrt( 2 E d(X, Y) - E d(X, X') - E d(Y, Y') )
    MMD             sqrt( E k(X, X') + E k(Y, Y') - 2 E k(X, Y) ),  k(x, y) = mean_s exp(-d(x, y)^2 / (2 s^2))

X, X' and Y, Y' are independent draws from the weighted points; a point may be drawn twice. SetMin and Hausdorff look at
the points alone: a point of weight zero counts like any other, padding does not.

The ground distance is any `Distance` between vectors. It is computed in blocks of bounded size; where the blocks of a
call exceed `distance.DEFAULT_BUDGET` together, the backward pass computes them again instead of keeping them. A set
with a NaN or infinite coordinate is at distance NaN of every set.

References: Fan, Su, Guibas, CVPR 2017, arXiv:1612.00603 (Chamfer); Szekely, Rizzo, J. Statist. Plann. Inference 143
(2013) (energy); Gretton, Borgwardt, Rasch, Schoelkopf, Smola, JMLR 13 (2012) (MMD); Sejdinovic, Sriperumbudur, Gretton,
Fukumizu, Ann. Statist. 41 (2013), arXiv:1207.6076 (the energy distance as an MMD).
"""

import math
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from geoembed.distance import DEFAULT_BUDGET, Distance
from geoembed.distances.transport import check_ground
from geoembed.errors import DomainError
from geoembed.numerics import safe_sqrt
from geoembed.pointsets import PointSets

__all__ = ["MMD", "Chamfer", "EnergyDistance", "Hausdorff", "SetMin"]

_BLOCK = 16 << 20  # bytes of a block of ground distances with its temporaries: larger ones fall out of the cache
_KEPT = DEFAULT_BUDGET  # bytes that may be kept for the backward pass
# Of the discrepancies: what should be 0 came out at up to 3.3 eps of its terms. A square below this share of E d(X, Y)
# is computed again, as a ground distance in a block of many sets may be wrong by 1e-5 and 5e-12 of it (see `sqdist`).
_NOISE = 16
_NEAR = 1e-3


class _Setwise(Distance):
    """A distance made of blocks of ground distances.

    A subclass gives `_part`, what it takes from a block, `_whole`, which joins the parts, and maybe `_value`.
    """

    event_dim = 2
    is_metric = False

    def __init__(self, ground: Distance):
        super().__init__()
        self.ground = check_ground(ground, type(self).__name__)
        self.symmetric, self.same_features = ground.symmetric, ground.same_features
        self.upper_bound = ground.upper_bound

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        return self._pairwise(x.unsqueeze(-1), y.unsqueeze(-1)).squeeze((-2, -1))

    def _pairwise(self, x: PointSets, y: PointSets) -> Tensor:
        batch = torch.broadcast_shapes(x.batch_shape[:-1], y.batch_shape[:-1])
        shape = (*batch, x.batch_shape[-1], y.batch_shape[-1])
        if 0 in shape:
            return x.points.new_zeros(shape)
        dtype = x.dtype
        (x, finite_x), (y, finite_y) = _sound(x.widened()), _sound(y.widened())
        finite = finite_x.unsqueeze(-1) & finite_y.unsqueeze(-2)
        return torch.where(finite, self._value(x, y), torch.nan).to(dtype)

    def _value(self, x: PointSets, y: PointSets) -> Tensor:
        return self._blockwise(x, y)

    def _part(self, d: Tensor, x: PointSets, y: PointSets, rows: slice) -> Any:
        """From d: (B, N, c, M, m), the ground distances of the points `rows` of x: (B, N) to all those of y: (B, M)."""
        raise NotImplementedError

    def _whole(self, parts: list[Any], x: PointSets, y: PointSets) -> Tensor:
        """(B, N, M), from the parts that hold all the points of x."""
        raise NotImplementedError

    def _blockwise(self, x: PointSets, y: PointSets) -> Tensor:
        """`_whole` of all pairs of sets. x: (*B, N), y: (*B, M) -> (*B, N, M)."""
        batch = torch.broadcast_shapes(x.batch_shape[:-1], y.batch_shape[:-1])
        if not batch:
            return self._blockwise(x.unsqueeze(0), y.unsqueeze(0)).squeeze(0)
        while len(x.batch_shape) <= len(batch):
            x = x.unsqueeze(0)
        while len(y.batch_shape) <= len(batch):
            y = y.unsqueeze(0)
        (*_, sets_x, n, d), (*_, sets_y, m, _) = x.shape, y.shape
        cell = 4 * x.dtype.itemsize * (d if self.ground.broadcasts else 1)  # four temporaries
        keep = math.prod(batch) * sets_x * n * sets_y * m * cell <= _KEPT
        # Blocks nearly square in points, of several batch items, several sets, or some points of one set.
        cells = max(1, _BLOCK // cell)
        columns = min(sets_y, max(1, math.isqrt(cells) // m))
        points = max(1, cells // (columns * m))
        rows = min(sets_x, max(1, points // n))
        items = max(1, cells // (sets_x * n * sets_y * m))

        def part(x: PointSets, y: PointSets, rows: slice) -> Any:
            u, v = x.filled()[..., rows, :], y.filled()
            ground = self.ground.pairwise(u.flatten(-3, -2), v.flatten(-3, -2))
            return self._part(ground.reshape(*u.shape[:-1], *v.shape[-3:-1]), x, y, rows)

        def block(x: PointSets, y: PointSets) -> Tensor:
            call = part if keep else partial(checkpoint, part, use_reentrant=False, preserve_rng_state=False)
            starts = range(0, x.shape[-2], points)
            return self._whole([call(x, y, slice(i, i + points)) for i in starts], x, y)

        def strip(x: PointSets, y: PointSets) -> Tensor:
            return torch.cat([block(x, y[:, i : i + columns]) for i in range(0, sets_y, columns)], -1)

        out = []
        for at_x, at_y in zip(_places(x, batch).split(items), _places(y, batch).split(items), strict=True):
            u, v = x[at_x.unbind(-1)], y[at_y.unbind(-1)]
            out.append(torch.cat([strip(u[:, i : i + rows], v) for i in range(0, sets_x, rows)], -2))
        return torch.cat(out).reshape(*batch, sets_x, sets_y)


def _places(x: PointSets, batch: torch.Size) -> Tensor:
    """Where in x, (*B, N), each item of the broadcast `batch` stands, (items, len(B)); nothing is copied for it."""
    own = x.batch_shape[:-1]
    flat = torch.arange(own.numel(), device=x.device).reshape(own).expand(batch).reshape(-1)
    return torch.stack(torch.unravel_index(flat, own), -1)


def _sound(x: PointSets) -> tuple[PointSets, Tensor]:
    """x with the points of a set that holds NaN or inf replaced by one of another set, and which sets held none.

    The ground distance sees all sets of a block at once, and one NaN could reach all of them.
    """
    finite = x.points.isfinite().all(-1).all(-1)
    spare = x.points.detach().flatten(0, -3)[finite.flatten().to(torch.uint8).argmax(), 0]
    return x.map(lambda points: torch.where(finite[..., None, None], points, spare)), finite


def _only(values: Tensor, mask: Tensor, x: PointSets, fill: float) -> Tensor:
    """values, and `fill` in the padding of x."""
    return torch.where(mask, values, fill) if x.ragged else values


class _Nearest(_Setwise):
    """A function `_joined` of the distances from each point to the nearest of the other set."""

    def _part(self, d: Tensor, x: PointSets, y: PointSets, rows: slice) -> tuple[Tensor, Tensor]:
        there = _only(d, y.mask[:, None, None], y, math.inf).amin(-1)
        back = _only(d, x.mask[..., rows, None, None], x, math.inf).amin(-3)
        return there, back

    def _whole(self, parts: list[tuple[Tensor, Tensor]], x: PointSets, y: PointSets) -> Tensor:
        there, back = zip(*parts, strict=True)
        return self._joined(torch.cat(there, -2), torch.stack(back).amin(0), x, y)

    def _joined(self, there: Tensor, back: Tensor, x: PointSets, y: PointSets) -> Tensor:
        """there: (B, N, n, M) of the points of x, back: (B, N, M, m) of those of y, padding included -> (B, N, M)."""
        raise NotImplementedError


class SetMin(_Nearest):
    """min_ij d(x_i, y_j), the gap between two sets; zero as soon as they share a point, and no metric.

    Args:
        ground: d, a distance between vectors.
    """

    def _joined(self, there: Tensor, back: Tensor, x: PointSets, y: PointSets) -> Tensor:
        return _only(there, x.mask.unsqueeze(-1), x, math.inf).amin(-2)


class Chamfer(_Nearest):
    """sum_i a_i min_j d(x_i, y_j) + sum_j b_j min_i d(x_i, y_j): the mean distance to the nearest point, both ways.

    The two means are summed; `Scaled(Chamfer(ground), 0.5)` is their average, and `Chamfer(Power(Euclidean(), 2))` the
    Chamfer distance of squared distances. No metric: the triangle inequality fails.

    Args:
        ground: d, a distance between vectors.
    """

    def __init__(self, ground: Distance):
        super().__init__(ground)
        self.upper_bound = 2 * ground.upper_bound

    def _joined(self, there: Tensor, back: Tensor, x: PointSets, y: PointSets) -> Tensor:
        back = _only(back, y.mask.unsqueeze(1), y, 0.0)
        return (there * x.weights.unsqueeze(-1)).sum(-2) + (back * y.weights.unsqueeze(1)).sum(-1)


class Hausdorff(_Nearest):
    """max( max_i min_j d(x_i, y_j), max_j min_i d(x_i, y_j) ): the farthest that a point is from the other set.

    A metric between sets of points where the ground distance is one.

    Args:
        ground: d, a distance between vectors.
    """

    def __init__(self, ground: Distance):
        super().__init__(ground)
        self.is_metric = ground.is_metric

    def _joined(self, there: Tensor, back: Tensor, x: PointSets, y: PointSets) -> Tensor:
        there = _only(there, x.mask.unsqueeze(-1), x, -math.inf).amax(-2)
        return torch.maximum(there, _only(back, y.mask.unsqueeze(1), y, -math.inf).amax(-1))


class _Discrepancy(_Setwise):
    """sqrt( 2 E c(X, Y) - E c(X, X') - E c(Y, Y') ) of a cost c = `_cost(d)` with c(x, x) = 0."""

    def _cost(self, d: Tensor) -> Tensor:
        raise NotImplementedError

    def _part(self, d: Tensor, x: PointSets, y: PointSets, rows: slice) -> Tensor:
        to_y = (self._cost(d) * y.weights[:, None, None]).sum(-1)
        return (to_y * x.weights[..., rows, None]).sum(-2)

    def _whole(self, parts: list[Tensor], x: PointSets, y: PointSets) -> Tensor:
        return torch.stack(parts).sum(0)

    def _value(self, x: PointSets, y: PointSets) -> Tensor:
        own_x, own_y = (self._blockwise(z.unsqueeze(-1), z.unsqueeze(-1)).squeeze(-1) for z in (x, y))
        own = own_x + own_y.mT
        between = self._blockwise(x, y)
        if between.shape[-2:] != (1, 1):
            between = self._again(between, own, x, y)
        noise = _NOISE * torch.finfo(x.dtype).eps * (2 * between.abs() + own.abs())
        square = 2 * between - own
        return safe_sqrt(torch.where(square.abs() <= noise, 0.0, square))

    def _again(self, between: Tensor, own: Tensor, x: PointSets, y: PointSets) -> Tensor:
        """`between`, where it nearly cancels with `own` computed again from one pair of sets at a time.

        The ground distances of a whole block of sets round like the extent of the block, not of the sets.
        """
        *batch, i, j = ((2 * between - own).abs() <= _NEAR * between.abs()).nonzero(as_tuple=True)
        if len(i) == 0:
            return between
        u, v = x.expand(*own.shape[:-1])[*batch, i], y.expand(*own.shape[:-2], own.shape[-1])[*batch, j]
        again = self._blockwise(u.unsqueeze(-1), v.unsqueeze(-1)).squeeze((-2, -1))
        return between.index_put((*batch, i, j), again)


class EnergyDistance(_Discrepancy):
    """sqrt( 2 E d(X, Y) - E d(X, X') - E d(Y, Y') ), the square root of the energy statistic.

    A metric between measures where d is of strictly negative type, such as the Euclidean and the hyperbolic distance
    or Lp(p) with 1 < p <= 2; `is_metric` is set where that is known. Where d is not even of negative type, a negative
    value under the root counts as zero.

    The root of a difference has half of the digits: what lies below rounding, so distances below about 3e-3 (float32)
    or 1e-7 (float64) times sqrt(E d(X, Y)), counts as zero and has the gradient zero.

    Args:
        ground: d, a distance between vectors with d(x, x) = 0.
    """

    def __init__(self, ground: Distance):
        super().__init__(ground)
        self.is_metric = ground.is_metric and ground.embed_p is not None and 1 < ground.embed_p <= 2
        self.upper_bound = math.sqrt(2 * ground.upper_bound)

    def _cost(self, d: Tensor) -> Tensor:
        return d


class MMD(_Discrepancy):
    """sqrt( E k(X, X') + E k(Y, Y') - 2 E k(X, Y) ), the maximum mean discrepancy of a mean of Gaussian kernels.

    k(x, y) = mean_s exp(-d(x, y)^2 / (2 s^2)) over the bandwidths s, in the unit of d. A metric between measures for
    the Euclidean d. On other grounds k need not be positive definite, and a negative value under the root counts as
    zero. What lies below rounding counts as zero as in `EnergyDistance`.

    Args:
        ground: d, a distance between vectors with d(x, x) = 0.
        bandwidths: one s or more, positive.
    """

    def __init__(self, ground: Distance, *bandwidths: float):
        super().__init__(ground)
        if not bandwidths or not all(0 < s < math.inf for s in bandwidths):
            raise DomainError(f"MMD: one positive bandwidth or more is needed, got {list(bandwidths)}")
        self.bandwidths = tuple(map(float, bandwidths))
        self.is_metric = ground.is_metric and ground.embed_p == 2
        self.upper_bound = math.sqrt(2)

    def _cost(self, d: Tensor) -> Tensor:
        squared = d * d
        costs = [
            -torch.expm1(squared * (-0.5 / s**2)) for s in self.bandwidths
        ]  # 1 - k keeps the digits of close points
        return torch.stack(costs).mean(0) if len(costs) > 1 else costs[0]

    def extra_repr(self) -> str:
        return "bandwidths=" + ", ".join(f"{s:g}" for s in self.bandwidths)
