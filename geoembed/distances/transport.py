"""Exact optimal transport between weighted point sets, on any distance between vectors.

    W_p(X, Y) = ( min_P sum_ij P_ij d(x_i, y_j)^p )^(1/p),    P >= 0,  P 1 = a,  P^T 1 = b

with a and b the weights of the points. The linear programme is solved on the CPU, pair by pair on the true sizes of the
sets: small sets of equal size and weights as an assignment, all others by POT's network simplex. An optimal plan has at
most n + m - 1 entries and only those are kept, so memory is a block of ground distances and a few points a pair.

Gradients hold the optimal P and the dual potentials f_i + g_j <= d(x_i, y_j)^p fixed (envelope theorem):

    points and parameters of d    those of sum_ij P_ij d(x_i, y_j)^p
    weights                       f for a and g for b, each up to a constant, which vanishes in `PointSets(points, w)`
                                  since w is divided by its sum there

They are subgradients where the optimal plan is not unique, and zero at W = 0.

References: Villani, "Optimal transport: old and new", Springer 2009, chapters 5 and 6; Bonneel, van de Panne, Paris,
Heidrich, "Displacement interpolation using Lagrangian mass transport", ACM TOG 2011 (the network simplex); Crouse, "On
implementing 2D rectangular assignment algorithms", IEEE TAES 2016 (the assignment).
"""

import warnings
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.distances.transport1d import check_order, root
from geoembed.errors import ConvergenceWarning, DomainError, ShapeError
from geoembed.pointsets import PointSets

__all__ = ["Wasserstein", "check_ground", "check_sign", "pairs"]

# Measured: an assignment of 10 points takes 0.002 ms and the network simplex 0.05 ms; they are level at 100 points, and
# at 1000 points of the plane the assignment is 4 times slower.
_ASSIGNED = 100
_LOST = 1e-15  # of the mass is below the rounding of weights that sum to one; it would set equal sets apart
_BUDGET = 64 << 20  # bytes of ground distances, and of what they are made from, held at a time

Array = NDArray[np.float64]


class Wasserstein(Distance):
    """W_p, the least cost of moving one point set onto another. x: (*B, n, d), y: (*B, m, d) -> (*B).

    A metric where the ground is one. A set with NaN or infinite points is at distance NaN.

    Args:
        ground: a distance between vectors. Its parameters get gradients. One with negative values needs p = 1.
        p: power of the ground distance, finite and at least 1.
        iterations: limit on the pivots of the network simplex.

    Raises:
        ShapeError: a ground whose items are not vectors.
        DomainError: p < 1, or a negative ground distance where p > 1.

    Warns:
        ConvergenceWarning: a pair was not solved within `iterations`; it is at distance NaN.
    """

    event_dim = 2

    def __init__(self, ground: Distance, p: float = 1.0, *, iterations: int = 10_000_000):
        super().__init__()
        self.ground, self.p = check_ground(ground, "Wasserstein"), check_order(p, "Wasserstein")
        if iterations < 1:
            raise DomainError(f"Wasserstein: iterations must be at least 1, got {iterations}")
        self.iterations = int(iterations)
        self.symmetric, self.is_metric = ground.symmetric, ground.is_metric
        self.upper_bound, self.same_features = ground.upper_bound, ground.same_features

    def plan(self, x: Items, y: Items) -> Tensor:
        """Optimal plans P, without gradient. x: (*B, n, d), y: (*B, m, d) -> (*B, n, m), zero in the padding."""
        x, y = self._checked(x, y, 2)
        shape, dtype = (x.shape[-2], y.shape[-2]), x.dtype
        batch, x, y, ix, iy = pairs(x, y)
        solved = self._solve(x, y, ix, iy)
        plans = x.points.new_zeros(len(ix), *shape, dtype=dtype)
        plans[solved.pair, solved.i, solved.j] = solved.mass.to(dtype)
        plans[solved.scale.isnan()] = torch.nan
        return plans.reshape(*batch, *shape)

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        dtype = x.dtype
        batch, x, y, ix, iy = pairs(x, y)
        solved = self._solve(x, y, ix, iy)
        u, v = (
            sets.points.flatten(0, 1).index_select(0, index[solved.pair] * sets.shape[-2] + point)
            for sets, index, point in ((x, ix, solved.i), (y, iy, solved.j))
        )
        none = solved.scale.isnan()
        scale = torch.where(none, 1.0, solved.scale)
        costs = solved.mass * (self.ground(u, v) / scale[solved.pair]) ** self.p
        total = torch.zeros_like(scale).index_add(0, solved.pair, costs)
        for potential, sets, index in ((solved.f, x, ix), (solved.g, y, iy)):
            if sets.weights.requires_grad:  # adds nothing but a gradient
                total = total + (potential * (sets.weights - sets.weights.detach())[index]).sum(-1)
        return torch.where(none, torch.nan, scale * root(total, self.p)).reshape(batch).to(dtype)

    @torch.no_grad()
    def _solve(self, x: PointSets, y: PointSets, ix: Tensor, iy: Tensor) -> "_Plans":
        """Optimal plans of the pairs (x[ix], y[iy])."""
        dual = x.weights.requires_grad or y.weights.requires_grad
        f, g = (np.zeros((len(ix) if dual else 0, sets.shape[-2])) for sets in (x, y))
        scale = np.full(len(ix), np.nan)
        entries, masses = [np.zeros((3, 0), np.int64)], [np.zeros(0)]
        failed = 0
        for k, (d, a, b) in enumerate(self._problems(x, y, ix, iy)):
            size = np.abs(d).max()
            if not np.isfinite(size):
                continue
            size = size if size > 0 else 1.0
            cost = (d / size) ** self.p  # of order one: POT stops early at costs below 1e-12, without a warning
            n, m = cost.shape
            if x.uniform and y.uniform and n == m <= _ASSIGNED:
                i, j = linear_sum_assignment(cost)
                mass = np.full(n, 1 / n)
            else:
                found = _network_simplex(cost, a, b, self.iterations)
                if found is None:
                    failed += 1
                    continue
                plan = found[0]
                if dual:
                    f[k, :n], g[k, :m] = found[1:]
                i, j = (plan > _LOST).nonzero()
                mass = plan[i, j]
            scale[k] = size
            entries.append(np.stack([np.full(len(i), k), i, j]))
            masses.append(mass)
        if failed:
            warnings.warn(
                f"Wasserstein: the network simplex did not solve {failed} of {len(ix)} pairs within {self.iterations} "
                f"iterations; they are at distance NaN. Raise `iterations`.",
                ConvergenceWarning,
                stacklevel=2,
            )
        pair, i, j = torch.from_numpy(np.concatenate(entries, axis=1)).to(x.device)
        numbers = (torch.from_numpy(t).to(x.points) for t in (np.concatenate(masses), scale, f, g))
        return _Plans(pair, i, j, *numbers)

    def _problems(self, x: PointSets, y: PointSets, ix: Tensor, iy: Tensor) -> Iterator[tuple[Array, Array, Array]]:
        """(ground distances, weights, weights) of each pair, without padding, in float64."""
        (n, d), m = x.shape[-2:], y.shape[-2]
        a, b = _weights(x), _weights(y)
        step = max(1, _BUDGET // max(1, n * m * d * x.dtype.itemsize))
        for at_x, at_y in zip(ix.split(step), iy.split(step), strict=True):
            distances = self.ground.pairwise(x[at_x].filled(), y[at_y].filled())
            check_sign(distances, self)
            matrices = distances.double().cpu().numpy()
            for matrix, i, j in zip(matrices, at_x.tolist(), at_y.tolist(), strict=True):
                yield matrix[: len(a[i]), : len(b[j])], a[i], b[j]

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class _Plans(NamedTuple):
    """P[pair, i, j] = mass for the costs (d / scale)^p, scale NaN where a pair has no plan.

    Potentials f: (pairs, n), g: (pairs, m), or (0, n), (0, m) where no weight needs a gradient.
    """

    pair: Tensor
    i: Tensor
    j: Tensor
    mass: Tensor
    scale: Tensor
    f: Tensor
    g: Tensor


def _network_simplex(cost: Array, a: Array, b: Array, iterations: int) -> tuple[Array, Array, Array] | None:
    """An optimal plan and its potentials, or None. cost: (n, m), a: (n,), b: (m,) -> (n, m), (n,), (m,)."""
    from ot.lp import emd

    rows, columns = a > 0, b > 0
    plan = np.zeros_like(cost)
    block = np.ix_(rows, columns)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # what it says stands in the log
        plan[block], log = emd(a[rows], b[columns], cost[block], numItermax=iterations, log=True)
    if log["warning"] is not None:
        return None
    # The largest potentials the others allow: the same where there is weight, the one-sided derivative where there is
    # none.
    g = (cost[rows] - log["u"][:, None]).min(0)
    f = (cost[:, columns] - g[columns]).min(1)
    return plan, f, g


def _weights(x: PointSets) -> list[Array]:
    """Weights of each set without padding, that sum to one in float64."""
    lengths = x.lengths.tolist()
    if x.uniform:
        return [np.full(n, 1 / n) for n in lengths]
    return [w[:n] / w[:n].sum() for w, n in zip(x.weights.double().cpu().numpy(), lengths, strict=True)]


def check_ground(ground: Distance, name: str) -> Distance:
    """`ground`; ShapeError unless it is a distance between vectors."""
    if not isinstance(ground, Distance) or ground.event_dim != 1:
        raise ShapeError(
            f"{name}: ground must be a distance between vectors, such as Euclidean() or Geodesic(manifold), got "
            f"{ground!r}"
        )
    return ground


def check_sign(distances: Tensor, distance: Any) -> None:
    """DomainError if `distance` raises negative ground distances to a power p > 1."""
    if distance.p > 1 and bool((distances < 0).any()):
        raise DomainError(
            f"{type(distance).__name__}: with p = {distance.p:g} the ground distance must not be negative, but "
            f"{type(distance.ground).__name__} took the value {float(distances.min()):.3g}. Use p=1 or another ground."
        )


def pairs(x: PointSets, y: PointSets) -> tuple[torch.Size, PointSets, PointSets, Tensor, Tensor]:
    """(batch, x, y, i, j): the pairs of two broadcast batches are (x[i], y[j]), x and y with one batch dimension.

    Half precision becomes float32.
    """
    batch = torch.broadcast_shapes(x.batch_shape, y.batch_shape)

    def flat(sets: PointSets) -> tuple[PointSets, Tensor]:
        every = torch.ones(1, *sets.batch_shape, dtype=torch.bool, device=sets.device)
        number = torch.arange(sets.batch_shape.numel(), device=sets.device).reshape(sets.batch_shape)
        return sets.widened().unsqueeze(0)[every], number.expand(batch).reshape(-1)

    (x, i), (y, j) = flat(x), flat(y)
    return batch, x, y, i, j
