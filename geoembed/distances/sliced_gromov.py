"""Sliced Gromov-Wasserstein distances: compare point sets by the distances within them, on many lines.

    GW_2^2(mu, nu) = min_pi sum_ijkl ( c(x_i, x_k) - c(y_j, y_l) )^2 pi_ij pi_kl
    SGW_2^2(mu, nu) = mean_l GW_2^2(theta_l # Delta mu, theta_l # nu)

Delta takes the set of fewer features into the space of the other: by appending zeros, or by a given matrix of
orthonormal columns. The value is the root, as for all distances; its square, the mean of `costs`, is what the papers
report. With x and y centred and matched in order, d = x - y and s = x + y, the cost of a matching is a sum of terms
that do not cancel:

    c = (x - x')^2    2 E[d^2 s^2] + 2 E[d^2] E[s^2] + 4 E[d s]^2
    c = x x'          ( E[d^2] E[s^2] + E[d s]^2 ) / 2,   of x and y that need not be centred

On a line, x in order is matched with y in order or with y reversed, that is, with -y in order, whichever is cheaper; a
slice costs one sort a set.

* For c = x x' that is the optimal coupling, for any sizes and weights.
* For c = (x - x')^2 it was claimed to be, for equal sizes and weights (Vayer et al.), but is not in general from 7
  points on (Beinert et al.). So here the cheaper of the two matchings DEFINES the cost of a slice: an upper bound of
  GW_2^2, tight for nearly all sets one meets, and defined for any sizes and weights. It is a pseudo-metric all the
  same: an L2 distance of the functions (F^-1(q) - F^-1(r))^2 of q and r, up to reversal.
  `CyclicSlicedGromovWasserstein` tightens the bound.

References: Vayer, Flamary, Tavenard, Chapel and Courty, Sliced Gromov-Wasserstein, NeurIPS 2019 (arXiv 1905.10124);
Beinert, Heiss and Steidl, On Assignment Problems Related to Gromov-Wasserstein Distances on the Real Line, 2022
(arXiv 2205.09006).
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.distances.directions import Directions, best
from geoembed.distances.sliced import Linear
from geoembed.distances.slicing import Sliced
from geoembed.distances.transport1d import argsort_rows, common_grid, matched_in_order, root, sort_rows
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

__all__ = ["CyclicSlicedGromovWasserstein", "InnerSlicedGromovWasserstein", "SlicedGromovWasserstein"]

PIECE = 1 << 16  # values sorted and compared at a time, small enough for the cache


class _SlicedGromov(Sliced):
    """A subclass gives `_cost`, the cost of a matching from its moments."""

    is_metric = False
    same_features = False
    delta: Tensor | None

    def __init__(
        self,
        dim: int,
        projections: int = 50,
        directions: Directions | Tensor = best,
        delta: Tensor | None = None,
        generator: torch.Generator | None = None,
    ):
        super().__init__(Linear(dim, projections, directions, generator), 2.0)
        self.dim, self.embed_p = dim, None
        if delta is not None:
            _check_delta(delta, dim)
        self.register_buffer("delta", delta)
        self.symmetric = delta is None

    def _cost(self, ddss: Any, dd: Any, ss: Any, ds: Any) -> Any:
        """Cost of a matching from E[d^2 s^2], E[d^2], E[s^2] and E[d s]."""
        raise NotImplementedError

    def embed(self, x: Items) -> Tensor:
        return Distance.embed(self, x)

    def reduced(self, x: PointSets, y: PointSets) -> tuple[Distance, Tensor, Tensor]:
        """Sorted projections of each set, (count, 1, n), or with their weights, (count, 2, n)."""
        same = y is x
        x, y = self._prepared(x, y)
        equal = x.uniform and y.uniform and not (x.ragged or y.ragged)

        def items(sets: PointSets) -> Tensor:
            values, weights = _sorted(self.slices(sets.points), None if equal else sets.weights)
            return values.unsqueeze(-2) if weights is None else torch.stack([values, weights], -2)

        u = items(x)
        return _Presorted(self), u, u if same and self.delta is None else items(y)

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        x, y = super()._prepared(x, y)
        delta = self.delta
        if delta is not None:
            if x.shape[-1] != delta.shape[1]:
                raise ShapeError(f"delta takes points of R^{delta.shape[1]}, those of x are of R^{x.shape[-1]}")
            x = x.map(lambda points: points @ delta.to(points).mT)
        return _appended(x, self.dim), _appended(y, self.dim)

    def _block_costs(self, x: Tensor, a: Tensor | None, y: Tensor, b: Tensor | None, block: slice) -> Tensor:
        u, v = self.slices.project(x, block), self.slices.project(y, block)
        if a is None and b is None and u.shape == v.shape and u.numel():
            if u.device.type == "cpu" and not (u.requires_grad or v.requires_grad):
                return self._matched(u, v)
        elif a is None or b is None:
            a, b = (_equal(t) if weights is None else weights for weights, t in ((a, x), (b, y)))
        return self._sorted_costs(*_sorted(u, a), *_sorted(v, b))

    def _sorted_costs(self, u: Tensor, a: Tensor | None, v: Tensor, b: Tensor | None) -> Tensor:
        """The cheaper matching of sorted rows. u, a: (*B, n), v, b: (*B, m), broadcasting -> (*B)."""
        backward = v.flip(-1).neg(), None if b is None else b.flip(-1)
        return torch.minimum(*(self._cost(*_moments(u, a, *other)) for other in ((v, b), backward)))

    def _matched(self, u: Tensor, v: Tensor) -> Tensor:
        """`_sorted_costs` of rows of one length and equal weights, sorted in place, piece by piece in the cache."""
        n = u.shape[-1]
        left, right = u.reshape(-1, n).numpy(), v.reshape(-1, n).numpy()
        means = np.zeros((2, 4, len(left)))
        rows = max(1, PIECE // n)
        for start in range(0, len(left), rows):
            piece = slice(start, start + rows)
            x, y = left[piece], right[piece]
            x.sort(axis=-1)
            y.sort(axis=-1)
            for column in range(0, n, PIECE):
                stop = min(column + PIECE, n)
                _add_moments(x[:, column:stop], y[:, column:stop], means[0, :, piece])
                reversed_y = np.ascontiguousarray(y[:, n - stop : n - column][:, ::-1])
                _add_moments(x[:, column:stop], reversed_y, means[1, :, piece])
        means /= n
        costs = np.minimum(self._cost(*means[0]), self._cost(*means[1]))  # d and s may be exchanged
        return torch.from_numpy(costs).to(u.dtype).reshape(u.shape[:-1])

    def extra_repr(self) -> str:
        return "" if self.delta is None else f"delta={tuple(self.delta.shape)}"


class SlicedGromovWasserstein(_SlicedGromov):
    """SGW_2 with the squared distance as the cost, c(x, x') = (x - x')^2, in the unit of squared distances.

    Invariant under a translation of either set, and under a reflection of both; not under a rotation of one, for which
    see `RotationInvariantSlicedGromovWasserstein`. Values are those of the cheaper of two matchings on each line, an
    upper bound of the optimum as the module says.

    x, y: (*B, n, p) and (*B, m, q), or `PointSets`; p and q may differ -> (*B). Gradients reach points and weights;
    they are zero at coincident sets.

    Args:
        dim: features of the larger space, the one that is sliced.
        projections: number of directions.
        directions: how they are drawn, or the directions themselves, (count, dim).
        delta: (dim, p) of orthonormal columns, takes the points of x to R^dim. None appends zeros to smaller points.

    Raises:
        DomainError: no directions, columns of delta that are not orthonormal.
        ShapeError: points of more than dim features, delta of another shape.
    """

    def _cost(self, ddss: Any, dd: Any, ss: Any, ds: Any) -> Any:
        return 2 * ddss + 2 * dd * ss + 4 * ds * ds

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        x, y = super()._prepared(x, y)
        return centred(x), centred(y)


class InnerSlicedGromovWasserstein(_SlicedGromov):
    """SGW_2 with the inner product as the cost, c(x, x') = x x' on each line: exact for any sizes and weights.

    The products are about the origin: invariant under a reflection of a set at the origin, not under translations;
    for those, centre the sets first. Everything else as for `SlicedGromovWasserstein`.
    """

    def _cost(self, ddss: Any, dd: Any, ss: Any, ds: Any) -> Any:
        return (dd * ss + ds * ds) / 2


class CyclicSlicedGromovWasserstein(SlicedGromovWasserstein):
    """`SlicedGromovWasserstein` with all cyclic shifts of both matchings tried on each line, the cheapest taken.

    x_i is matched with y_(i + k), indices modulo n, in order and reversed: for every k at once by two correlations,
    E[x y] and E[x^2 y^2], through the fast Fourier transform. Never above `SlicedGromovWasserstein`, and below it where
    its theorem fails; still an upper bound, and symmetric. Sets of one size and of equal weights only.

    Raises:
        ShapeError: sets that differ in size, are padded or weighted.
    """

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        if not (x.uniform and y.uniform) or x.ragged or y.ragged or x.shape[-2] != y.shape[-2]:
            raise ShapeError(
                f"CyclicSlicedGromovWasserstein: only sets of one size and of equal weights can be shifted, got {x} "
                f"and {y}. SlicedGromovWasserstein takes all sets."
            )
        return super()._prepared(x, y)

    def _matched(self, u: Tensor, v: Tensor) -> Tensor:
        n = u.shape[-1]
        left, right = u.reshape(-1, n), v.reshape(-1, n)
        rows = max(1, PIECE // n)
        pieces = zip(left.split(rows), right.split(rows), strict=True)
        return torch.cat([self._sorted_costs(sort_rows(s), None, sort_rows(t), None) for s, t in pieces]).reshape(
            u.shape[:-1]
        )

    def _sorted_costs(self, u: Tensor, a: Tensor | None, v: Tensor, b: Tensor | None) -> Tensor:
        u, v = torch.broadcast_tensors(u, v)
        candidates = [super()._sorted_costs(u, a, v, b)]
        for other in (v, v.flip(-1).neg()) if u.numel() else ():
            index = _best_shift(u.detach(), other.detach()).unsqueeze(-1) + torch.arange(u.shape[-1], device=u.device)
            candidates.append(self._cost(*_moments(u, None, other.gather(-1, index % u.shape[-1]), None)))
        return torch.stack(candidates).amin(0)


def _best_shift(u: Tensor, v: Tensor) -> Tensor:
    """k that maximises E[u^2 w^2] + 2 E[u w]^2 with w_i = v_(i + k). u, v: (*B, n), centred -> (*B)."""
    n = u.shape[-1]

    def correlation(s: Tensor, t: Tensor) -> Tensor:
        return torch.fft.irfft(torch.fft.rfft(s).conj() * torch.fft.rfft(t), n) / n

    return (correlation(u * u, v * v) + 2 * correlation(u, v).square()).argmax(-1)


class _Presorted(Distance):
    """Distance of items (count, 1, n), the sorted values of each slice, or (count, 2, n) with their weights."""

    event_dim = 3
    same_features = False

    def __init__(self, sliced: _SlicedGromov):
        super().__init__()
        self.sliced = sliced

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        (u, a), (v, b) = (items.unbind(-2) if items.shape[-2] == 2 else (items[..., 0, :], None) for items in (x, y))
        return root(self.sliced._sorted_costs(u, a, v, b).mean(-1), 2)


def _sorted(values: Tensor, weights: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Sorted rows and the weights in their order. values: (*B, k, n), weights: (*B, n)."""
    if weights is None:
        return sort_rows(values), None
    order = argsort_rows(values)
    return values.gather(-1, order), weights.unsqueeze(-2).expand_as(values).gather(-1, order)


def _moments(u: Tensor, a: Tensor | None, v: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """E[d^2 s^2], E[d^2], E[s^2], E[d s] of sorted rows matched in order. u, a: (*B, n), v, b: (*B, m) -> (*B)."""
    u, v, mass = _in_order(u, a, v, b)
    d, s = u - v, u + v
    ds = d * s
    powers = ds * ds, d * d, s * s, ds
    means = (t.mean(-1) if mass is None else (t * mass).sum(-1) for t in powers)
    return next(means), next(means), next(means), next(means)


def _in_order(u: Tensor, a: Tensor | None, v: Tensor, b: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """The pieces of the coupling in order: a value of u, a value of v, and the mass, None where all are equal."""
    n, m = u.shape[-1], v.shape[-1]
    if a is None or b is None:
        if n == m:
            return u, v, None
        i, j, mass = (t.to(u.device) for t in common_grid(n, m))
        return u[..., i], v[..., j], mass.to(u.dtype)
    return matched_in_order(u, a.cumsum(-1), v, b.cumsum(-1))


def _add_moments(x: np.ndarray, y: np.ndarray, sums: np.ndarray) -> None:
    """Add the sums of d^2 s^2, d^2, s^2 and d s over the rows to `sums`, (4, rows)."""
    d, s = x - y, x + y
    sums[1] += np.vecdot(d, d)
    sums[2] += np.vecdot(s, s)
    sums[3] += np.vecdot(d, s)
    d *= s
    sums[0] += np.vecdot(d, d)


def _equal(points: Tensor) -> Tensor:
    """Equal weights of points (*B, n, d), (*B, n)."""
    return torch.full_like(points[..., 0], 1 / points.shape[-2])


def _appended(x: PointSets, dim: int) -> PointSets:
    """Zeros appended up to `dim` features."""
    missing = dim - x.shape[-1]
    return x.map(lambda points: torch.nn.functional.pad(points, (0, missing))) if missing > 0 else x


def centred(x: PointSets) -> PointSets:
    """The mean of each set moved to the origin; the second time takes away what the first has rounded."""
    weights = (x.weights if x.ragged or not x.uniform else _equal(x.points)).unsqueeze(-2)
    for _ in range(2):
        x = x.map(lambda points: points - weights @ points)
    return x


def _check_delta(delta: Tensor, dim: int) -> None:
    if delta.dim() != 2 or delta.shape[0] != dim or not delta.is_floating_point():
        raise ShapeError(
            f"delta must be floating point of shape ({dim}, features of x), got {delta.dtype} {tuple(delta.shape)}"
        )
    error = (delta.mT @ delta - torch.eye(delta.shape[1]).to(delta)).abs().max().item()
    if not error < 1e-4:
        raise DomainError(
            f"delta must have orthonormal columns, delta^T delta differs from the identity by {error:.2g}. "
            f"torch.linalg.qr(delta).Q has such columns."
        )
