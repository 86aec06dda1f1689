"""Hierarchies: points on a manifold such that each node is nearer to its ancestors than to any other node.

A step takes a batch of nodes u with all their ancestors v, draws negatives v' for the whole batch, and sums

    -log( e^{-s d(u, v)} / (e^{-s d(u, v)} + sum_{v'} e^{-s d(u, v')}) )        over the pairs (u, v) of the batch.

Sharing the draw makes the distances of negatives one matrix, of which every ancestor of a node takes the same row. As
in the papers, negatives are distinct, and those that are ancestors of u do not count for it; nor does u itself, which
the papers leave in, where it adds a constant 1 without a gradient. None is drawn in their place.

Points start near the origin and must find their order there: once far out they no longer pass each other. So the way
out is slow. In the burn-in of the first epochs the learning rate is smaller, and negatives are drawn by how often a
node is an ancestor, to the power 3/4; after that uniformly. Then the learning rate rises over a good part of the
training. A node with many descendants in a batch, such as a root, has the sum of their gradients: its step
lr |gradient| is held at `max_step`. The papers' learning rates are of the mean over a batch: 0.3 at 10 pairs is 0.03 of
ours.

A nested start is the points of `geoembed.nested`, which are in order already as far as the hierarchy is a tree. From
there training takes smaller steps (a learning rate of 0.005, say) and keeps the start unless it finds something better.

References: Nickel, Kiela, NeurIPS 2017, arXiv:1705.08039 (loss, burn-in); Nickel, Kiela, "Learning continuous
hierarchies in the Lorentz model of hyperbolic geometry", ICML 2018, arXiv:1806.03417.
"""

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoembed.config import HierarchyConfig
from geoembed.data import Closure
from geoembed.distances.geodesic import Geodesic
from geoembed.errors import DataError, DomainError, NumericalWarning, ShapeError
from geoembed.losses.hierarchy import ranking
from geoembed.manifolds import Euclidean, HalfSpace, HTiling, Lorentz, PoincareBall
from geoembed.manifolds.ltiling import LTiling
from geoembed.manifolds.tiling import Tiling
from geoembed.nested import embed_closure
from geoembed.optim import OPTIMIZERS
from geoembed.optim.rows import widen
from geoembed.schedules import schedule
from geoembed.training import Fitted, fit

__all__ = ["SPACES", "Hierarchy", "HierarchyConfig", "HierarchyTask", "check_and_shorten", "train_hierarchy"]


SPACES: dict[str, Callable[[HierarchyConfig], geoopt.Manifold]] = {
    "euclidean": lambda config: Euclidean(),
    "halfspace": lambda config: HalfSpace(config.curvature),
    "htiling": lambda config: HTiling(config.dim, config.limbs, config.curvature),
    "ltiling": lambda config: LTiling(config.dim // 2, config.limbs, c=config.curvature),
    "lorentz": lambda config: Lorentz(config.curvature),
    "poincare": lambda config: PoincareBall(config.curvature),
}


class HierarchyTask(nn.Module):
    """Training of points on a closure: `step(batch) -> loss` for `fit`, where item i is the node `sources[i]`.

    Args:
        closure: transitive and without cycles. n: number of its nodes that have ancestors.
        manifold: of the points, a geoopt manifold with `dist`; with `cdist` it is faster.
        points: (closure.n_nodes, k) the initial points, float64 for anything but a test.
        scale, negatives: s, and how many nodes are drawn a step.
        generator: draws the negatives.
    """

    def __init__(
        self,
        closure: Closure,
        manifold: geoopt.Manifold,
        points: Tensor,
        *,
        scale: float = 1.0,
        negatives: int = 200,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        if len(closure.pairs) == 0:
            raise DataError(f"{closure!r} has no pairs (child, ancestor): there is nothing to learn")
        closure.depths()  # raises for a cycle
        if points.dim() != 2 or len(points) != closure.n_nodes:
            raise ShapeError(f"points: expected ({closure.n_nodes}, k), one a node, got {tuple(points.shape)}")
        self.points = geoopt.ManifoldParameter(points, manifold=manifold)
        self.distance = Geodesic(manifold)
        self.groups = closure.ancestors()
        self.sources, self.n = self.groups.heads, len(self.groups)
        self.scale, self.negatives, self.generator = scale, negatives, generator
        self.burning = False  # in the burn-in negatives are drawn by frequency
        weights = self.groups.tails.bincount(minlength=closure.n_nodes).double().pow(0.75)
        self._cumulative = weights.cumsum(0) / weights.sum()

    def _load_from_state_dict(self, state: dict[str, Any], prefix: str, *args: Any) -> None:
        """Rows of a tiling may have grown, or not yet, when they were saved."""
        saved, manifold = state.get(f"{prefix}points"), self.points.manifold
        if saved is not None and isinstance(manifold, Tiling):
            widen(self.points, {}, manifold, manifold.limbs_of(saved.shape[-1]))
            state[f"{prefix}points"] = manifold.resized(saved, manifold.limbs_of(self.points.shape[-1]))
        super()._load_from_state_dict(state, prefix, *args)

    def step(self, batch: Tensor) -> Tensor:
        """Summed loss of the pairs of the sources with indices batch: (B,)."""
        nodes, negatives = self.sources[batch], self.draw()
        rows, ancestors = self.groups.positions(batch)
        drawn = F.embedding(torch.cat([nodes, ancestors, negatives]), self.points, sparse=True)
        u, above, others = drawn.split([len(nodes), len(ancestors), len(negatives)])
        left_out = _marked(rows, ancestors, negatives, len(nodes)) | (nodes.unsqueeze(1) == negatives)
        return self.losses(u, above, others, rows, left_out).sum()

    def losses(self, u: Tensor, above: Tensor, others: Tensor, rows: Tensor, left_out: Tensor) -> Tensor:
        """Of the pairs u[rows], above: (k,). Points u: (B, d), above: (k, d), others: (N, d); the rest as `ranking`."""
        positive, negative = self.distance(u[rows], above), self.distance.pairwise(u, others)
        return ranking(positive, negative, rows, left_out, scale=self.scale)

    def draw(self) -> Tensor:
        """Distinct nodes, sorted: at most `negatives`, all of them where that is as many as there are."""
        n = len(self.points)
        if not self.burning:
            return torch.randperm(n, generator=self.generator)[: self.negatives].sort()[0]
        u = torch.rand(self.negatives, generator=self.generator, dtype=torch.float64)
        return torch.searchsorted(self._cumulative, u, right=True).clamp_(max=n - 1).unique()


def _marked(rows: Tensor, ancestors: Tensor, negatives: Tensor, size: int) -> Tensor:
    """Which negatives, sorted and distinct, are ancestors of which row: bool (size, N)."""
    mask = torch.zeros(size, len(negatives), dtype=torch.bool)
    place = torch.searchsorted(negatives, ancestors).clamp_(max=len(negatives) - 1)
    hit = negatives[place] == ancestors
    mask[rows[hit], place[hit]] = True
    return mask


@torch.no_grad()
def check_and_shorten(points: geoopt.ManifoldParameter, lr: float, max_step: float) -> None:
    """Hold lr times the length of each row's Riemannian gradient at max_step, which may be infinite."""
    points.grad = gradient = points.grad.coalesce()
    rows, values = gradient._indices()[0], gradient._values()
    bad = rows[~values.isfinite().all(1)]
    if len(bad):
        raise DomainError(
            f"the gradient of {len(bad)} of {len(rows)} points is NaN or infinite, the first is that of row "
            f"{int(bad[0])}. Lower the learning rate; the points are those before the step."
        )
    if max_step < math.inf:
        x, manifold = points.detach()[rows], points.manifold
        length = manifold.norm(x, manifold.egrad2rgrad(x, values.clone()), keepdim=True)
        values.mul_(max_step / (lr * length).clamp(min=max_step))


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A trained hierarchy: points (n_nodes, k) on the manifold, row i for closure.nodes[i], and how training went.

    Rows on a tiling have the limbs that they need, at most those of the manifold.
    """

    closure: Closure
    manifold: geoopt.Manifold
    points: Tensor
    fitted: Fitted


def train_hierarchy(
    closure: Closure,
    config: HierarchyConfig | None = None,
    folder: Path | None = None,
    *,
    manifold: geoopt.Manifold | None = None,
    validate: Callable[[Tensor, geoopt.Manifold], float] | None = None,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> Hierarchy:
    """Embed a hierarchy by the ranking loss, with which entailment cones start too: see `geoembed.entailment`.

    Args:
        closure: transitive and without cycles.
        config: the settings; None is `HierarchyConfig()`.
        folder: of the checkpoints; a run that was stopped goes on from there to the same points. None saves nothing.
        manifold: used instead of the one of the configuration: any geoopt manifold with `dist`, and with
            `random(n, k, std=, generator=, dtype=)`; k is its `point_dim(config.dim)` if it has that, else config.dim.
        validate: (points, manifold) -> score, higher is better, every `config.validate_every` epochs; the points with
            the best score are kept.
        progress, on_epoch: as in `fit`; a record also has the learning rate `lr`.

    Points beyond what floats hold bring a NumericalWarning. Raises what `HierarchyTask` and `fit` raise.
    """
    config = HierarchyConfig() if config is None else config
    space = SPACES[config.manifold](config) if manifold is None else manifold
    streams = [torch.Generator().manual_seed((1000 * config.seed + i) % 2**63) for i in range(3)]
    size = space.point_dim(config.dim) if hasattr(space, "point_dim") else config.dim
    nested = config.start == "nested"
    if nested:
        points = _shaken(embed_closure(closure, space, dim=config.dim), space, config.init_scale, streams[0])
    else:
        points = space.random(closure.n_nodes, size, std=config.init_scale, generator=streams[0], dtype=torch.float64)
    if isinstance(space, Tiling):
        points = space.narrow(points)  # they grow as they need it
    score = None if validate is None or not nested else validate(points, space)
    if config.epochs == 0:
        return Hierarchy(closure, space, points, Fitted(0, score, 0))
    start = points.clone()
    task = HierarchyTask(closure, space, points, scale=config.scale, negatives=config.negatives, generator=streams[2])
    later = schedule(config.schedule, warmup=config.warmup, final=config.lr_final)

    def factor(step: int, total: int) -> float:
        """Of the learning rate; `fit` asks for it before each step, so the task learns here whether it burns in."""
        first = 0 if nested else total * config.burn_in // config.epochs
        task.burning = step < first
        return config.burn_in_factor if task.burning else later(step - first, total - first)

    optimizer = OPTIMIZERS[config.optimizer]([task.points], lr=config.lr)
    longest = config.max_step or math.inf
    optimizer.register_step_pre_hook(
        lambda *_: check_and_shorten(task.points, optimizer.param_groups[0]["lr"], longest)
    )

    def finished(history: list[dict[str, float]]) -> None:
        history[-1]["lr"] = optimizer.param_groups[0]["lr"]
        if on_epoch is not None:
            on_epoch(history)

    fitted = fit(
        task.step,
        task.n,
        task,
        optimizer,
        epochs=config.epochs,
        batch_size=config.batch_size,
        generator=streams[1],
        generators={"negatives": streams[2]},
        schedule=factor,
        validate=None if validate is None else lambda: validate(task.points.detach(), space),
        validate_every=config.validate_every,
        patience=config.patience or None,
        checkpoint=folder,
        progress=progress,
        on_epoch=finished,
    )
    _warn_if_lost(task.points.detach(), space)
    if score is not None and fitted.best_score is not None and score >= fitted.best_score:
        return Hierarchy(closure, space, start, replace(fitted, best_score=score, best_epoch=0))
    return Hierarchy(closure, space, task.points.detach(), fitted)


def _warn_if_lost(points: Tensor, space: geoopt.Manifold) -> None:
    """Where coordinates are floats, e^-r/2, what tells the directions of points at radius r apart, is to be one."""
    if not isinstance(space, Lorentz | HalfSpace):  # a ball ends before
        return
    r = space.c.sqrt() * space.dist(points, space.origin(*points.shape[1:], dtype=points.dtype))
    longest = -2 * math.log(torch.finfo(points.dtype).eps)
    lost = int((r > longest).sum())
    if lost:
        warnings.warn(
            f"{lost:,} of {len(points):,} points lie beyond radius {longest:.0f}, up to {float(r.max()):.0f}. "
            f"{points.dtype} tells no directions apart there, so their distances mean nothing. Lower the learning "
            "rate, or train on htiling",
            NumericalWarning,
            stacklevel=3,
        )


def _shaken(points: Tensor, space: geoopt.Manifold, length: float, generator: torch.Generator) -> Tensor:
    """Each point moved in a random direction: gradients are to leave the plane that all points lie in."""
    v = space.proju(points, torch.randn(points.shape, generator=generator, dtype=points.dtype))
    return space.expmap(points, length * v / space.norm(points, v, keepdim=True))
