"""Gradient flows and barycentres of point sets: the points themselves are moved, downhill on a distance.

    flow          min_x d(x, target)^power
    barycentre    min_x sum_i w_i d(x, set_i)^2,  w_i >= 0, sum_i w_i = 1

Any distance with gradients for the points serves. A sliced one gets new random slices before each step, so that over
the steps all directions count and not only a few. Points of a manifold stay on it: the step is Riemannian.

References: Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein Barycenters of Measures, JMIV 2015; Kolouri
et al., Generalized Sliced Wasserstein Distances, NeurIPS 2019 (arXiv 1902.00434); Bonet, Chapel, Drumetz and Courty,
Hyperbolic Sliced-Wasserstein via Geodesic and Horospherical Projections, 2023 (arXiv 2211.10066).
"""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import geoopt
import torch
from torch import Tensor

from geoembed.distance import Distance, Power
from geoembed.errors import DomainError, ShapeError
from geoembed.optim import RiemannianAdam
from geoembed.pointsets import PointSets

__all__ = ["Trajectory", "barycentre", "flow"]

MakeOptimizer = Callable[..., torch.optim.Optimizer]


class Trajectory(NamedTuple):
    """The course of moving points: `points[k]` are those after `steps[k]` steps, `points[-1]` the last ones.

    Attributes:
        points: (T, *B, n, d).
        steps: T of them, from 0 to the last step.
        values: what was minimised, before the first step and after each; one more than there were steps. For sliced
            distances each is measured along the slices of its own step.
    """

    points: Tensor
    steps: list[int]
    values: Tensor


def flow(
    distance: Distance,
    start: Tensor,
    target: Tensor | PointSets,
    *,
    steps: int,
    lr: float,
    power: float = 1.0,
    manifold: geoopt.Manifold | None = None,
    optimizer: MakeOptimizer = RiemannianAdam,
    resample: bool = True,
    keep: Iterable[int] = (),
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Move points downhill on distance(points, target)^power.

    Args:
        distance: one with gradients for the points, such as `SlicedWasserstein` or `Wasserstein`.
        start: (*B, n, d), left as it is. The sets of a batch move independently.
        target: (*B, m, d), or `PointSets`.
        lr: learning rate. Adam moves a point by about that much a step, in the metric of the manifold if there is one.
        power: of the distance. 1 suits Adam, which remembers how steep the start was and takes ever smaller steps as
            the gradient of a square fades; 2 suits gradient descent.
        manifold: of the points; it needs an optimizer that knows it, as those of `geoembed.optim` do. None is R^d,
            where the default is plain Adam.
        optimizer: called as optimizer([points], lr=lr).
        resample: draw new slices by `distance.resample(generator)` before each step, where the distance has that;
            it is left with the last ones. False for slices that were given and not drawn.
        keep: steps after which to keep the points, besides the start and the end.

    Raises:
        ShapeError: a start that is no floating point tensor, or does not fit the target.
        DomainError: a start off the manifold, a distance that is not finite, a step to keep that there is not.
    """
    objective = Power(distance, power)
    redraw = _redraw(distance, resample, generator)
    return _descend(lambda x: objective(x, target), start, steps, lr, manifold, optimizer, redraw, keep)


def barycentre(
    distance: Distance,
    sets: Tensor | PointSets | Sequence[Tensor],
    weights: Tensor | Sequence[float] | None = None,
    *,
    size: int,
    steps: int,
    lr: float,
    manifold: geoopt.Manifold | None = None,
    optimizer: MakeOptimizer = RiemannianAdam,
    resample: bool = True,
    keep: Iterable[int] = (),
    generator: torch.Generator | None = None,
) -> Trajectory:
    """Points of equal weight that minimise sum_i w_i distance(points, set_i)^2.

    They start as a random choice from the points of all sets, by weight, and end in `points[-1]` of the trajectory.
    The minimum is a local one for distances that are not convex in the points, sliced ones included.

    Args:
        sets: k sets of any sizes: (k, m, d), `PointSets` with one batch dimension, or a list of (m_i, d).
        weights: w, k numbers that are not negative, divided by their sum; equal ones if left out.
        size: number of points of the barycentre.
        lr, manifold, optimizer, resample, keep: as in `flow`.

    Raises:
        ShapeError: sets, or weights, of the wrong shape.
        DomainError: negative or all zero weights; else as in `flow`.
    """
    sets = PointSets.of(sets) if isinstance(sets, Tensor | PointSets) else PointSets.from_list(sets)
    if len(sets.batch_shape) != 1:
        raise ShapeError(f"barycentre: expected k sets in one batch dimension, got shape {tuple(sets.shape)}")
    w = torch.as_tensor([1.0] * len(sets) if weights is None else weights).to(sets.points)
    if w.shape != sets.batch_shape:
        raise ShapeError(f"barycentre: {len(sets)} sets need as many weights, got shape {tuple(w.shape)}")
    if not bool(((w >= 0) & w.isfinite()).all()) or not w.sum() > 0 or size < 1:
        raise DomainError(
            f"barycentre: weights must not be negative nor all zero, and size at least 1; got weights {w.tolist()[:5]} "
            f"and size {size}"
        )
    sets, w = sets[w > 0], w[w > 0] / w.sum()
    mass = (w.unsqueeze(-1) * sets.weights).flatten().double().cpu()
    repeat = size > int(mass.count_nonzero())  # equal points part again: slices break ties by order
    start = sets.points.detach().flatten(0, 1)[torch.multinomial(mass, size, repeat, generator=generator)]
    redraw = _redraw(distance, resample, generator)

    def objective(x: Tensor) -> Tensor:
        return (w * distance(x.unsqueeze(0), sets).square()).sum()

    return _descend(objective, start, steps, lr, manifold, optimizer, redraw, keep)


def _redraw(distance: Distance, resample: bool, generator: torch.Generator | None) -> Callable[[], None]:
    draw = getattr(distance, "resample", None)
    return lambda: draw(generator) if resample and draw is not None else None


def _descend(
    objective: Callable[[Tensor], Tensor],
    start: Tensor,
    steps: int,
    lr: float,
    manifold: geoopt.Manifold | None,
    optimizer: MakeOptimizer,
    redraw: Callable[[], None],
    keep: Iterable[int],
) -> Trajectory:
    if not isinstance(start, Tensor) or not start.is_floating_point():
        what = f"{start.dtype}" if isinstance(start, Tensor) else type(start).__name__
        raise ShapeError(f"start must be a floating point tensor (*B, n, d), got {what}")
    kept = sorted({0, *keep, steps})
    if steps < 1 or kept[0] < 0 or kept[-1] > steps:
        raise DomainError(f"steps must be at least 1, and those to keep from 0 to steps; got {steps} and keep={kept}")
    points = torch.nn.Parameter(start.detach().clone())
    if manifold is not None:
        manifold.check(points)
        points = geoopt.ManifoldParameter(points, manifold=manifold)
    moves, history, values = optimizer([points], lr=lr), list[Tensor](), list[Tensor]()
    for step in range(steps + 1):
        redraw()
        with torch.enable_grad():
            value = objective(points)
            total = value.sum()
        if not bool(value.isfinite().all()):
            raise DomainError(
                f"after {step} steps the distance is not finite. Look for NaN or infinite points, or lower lr={lr:g}."
            )
        values.append(value.detach())
        if step in kept:
            history.append(points.detach().clone())
        if step < steps:
            (points.grad,) = torch.autograd.grad(total, points)  # and none for parameters of the distance
            moves.step()
    return Trajectory(torch.stack(history), kept, torch.stack(values))
