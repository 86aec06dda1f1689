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

References: Nickel, Kiela, NeurIPS 2017, arXiv:1705.08039 (loss, burn-in); Nickel, Kiela, "Learning continuous
hierarchies in the Lorentz model of hyperbolic geometry", ICML 2018, arXiv:1806.03417.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoembed.data import Closure
from geoembed.distances.geodesic import Geodesic
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError
from geoembed.losses.hierarchy import ranking
from geoembed.manifolds import HYPERBOLIC, MANIFOLDS, Euclidean
from geoembed.optim import OPTIMIZERS
from geoembed.schedules import SCHEDULES, schedule
from geoembed.training import Fitted, fit

__all__ = ["Hierarchy", "HierarchyConfig", "HierarchyTask", "train_hierarchy"]


def _setting(default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "low": low})


@dataclass(frozen=True)
class HierarchyConfig:
    """All settings of `train_hierarchy`; the defaults suit `wordnet-mammals` in five dimensions."""

    manifold: str = _setting("lorentz", "where the points live", tuple(MANIFOLDS))
    dim: int = _setting(5, "dimension of the space", low=1)
    curvature: float = _setting(1.0, "c > 0, for the sectional curvature -c", low=0)
    scale: float = _setting(1.0, "s of the loss, above 0: a factor of the distances", low=0)
    optimizer: str = _setting("sgd", "Riemannian SGD, Adam or Adagrad", tuple(OPTIMIZERS))
    lr: float = _setting(0.04, "highest learning rate, of the loss summed over pairs", low=0)
    max_step: float = _setting(
        1.0, "a point's gradient counts as max_step / learning rate at most; 0 is no limit", low=0
    )
    burn_in: int = _setting(5, "epochs of the burn-in", low=0)
    burn_in_factor: float = _setting(0.02, "of the learning rate in the burn-in", low=0)
    warmup: float = _setting(0.7, "share of the steps after the burn-in in which the learning rate rises", low=0)
    schedule: str = _setting("linear", "how the learning rate falls in the end", tuple(SCHEDULES))
    lr_final: float = _setting(0.2, "fraction of the learning rate left at the end", low=0)
    epochs: int = _setting(350, "passes over the nodes that have ancestors, the burn-in included", low=1)
    batch_size: int = _setting(64, "nodes a step, each with all its ancestors", low=1)
    negatives: int = _setting(200, "nodes drawn a step, for all nodes of the batch", low=1)
    init_scale: float = _setting(1e-3, "standard deviation of the initial points about the origin, above 0", low=0)
    seed: int = _setting(0, "of everything random", low=0)

    def __post_init__(self) -> None:
        for f in fields(self):
            value, choices, low = getattr(self, f.name), f.metadata["choices"], f.metadata["low"]
            kind: Any = type(f.default)
            if kind is float and type(value) is int:
                object.__setattr__(self, f.name, value := float(value))
            if type(value) is not kind:
                raise DomainError(f"{f.name} must be {kind.__name__}, got {value!r}")
            if choices and value not in choices:
                raise UnknownNameError(f.name, value, choices)
            if low is not None and not (value >= low and math.isfinite(value)):
                raise DomainError(f"{f.name} must be a finite number of at least {low:g}, got {value}")
        for name in ("curvature", "scale", "init_scale"):
            if getattr(self, name) == 0:
                raise DomainError(f"{name} must be above 0")
        schedule(self.schedule, warmup=self.warmup, final=self.lr_final)  # raises for shares that are none
        if self.burn_in >= self.epochs:
            raise DomainError(f"burn_in must leave some of the {self.epochs} epochs, got {self.burn_in}")


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

    def step(self, batch: Tensor) -> Tensor:
        """Summed loss of the pairs of the sources with indices batch: (B,)."""
        nodes, negatives = self.sources[batch], self.draw()
        rows, ancestors = self.groups.positions(batch)
        drawn = F.embedding(torch.cat([nodes, ancestors, negatives]), self.points, sparse=True)
        u, above, others = drawn.split([len(nodes), len(ancestors), len(negatives)])
        left_out = _marked(rows, ancestors, negatives, len(nodes)) | (nodes.unsqueeze(1) == negatives)
        positive, negative = self.distance(u[rows], above), self.distance.pairwise(u, others)
        return ranking(positive, negative, rows, left_out, scale=self.scale).sum()

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
def _shorten(points: geoopt.ManifoldParameter, lr: float, max_step: float) -> None:
    """Hold lr times the length of each row's Riemannian gradient at max_step."""
    points.grad = gradient = points.grad.coalesce()
    x, manifold = points.detach()[gradient._indices()[0]], points.manifold
    length = manifold.norm(x, manifold.egrad2rgrad(x, gradient._values().clone()), keepdim=True)
    gradient._values().mul_(max_step / (lr * length).clamp(min=max_step))


@dataclass(frozen=True, eq=False)
class Hierarchy:
    """A trained hierarchy: points (n_nodes, k) on the manifold, row i for closure.nodes[i], and how training went."""

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
    validate_every: int = 10,
    patience: int | None = None,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> Hierarchy:
    """Embed a hierarchy.

    Args:
        closure: transitive and without cycles.
        config: the settings; None is `HierarchyConfig()`.
        folder: of the checkpoints; a run that was stopped goes on from there to the same points. None saves nothing.
        manifold: used instead of the one of the configuration: any geoopt manifold with `dist`, and with
            `random(n, k, std=, generator=, dtype=)`; k is its `point_dim(config.dim)` if it has that, else config.dim.
        validate: (points, manifold) -> score, higher is better; the points with the best score are kept.
        validate_every, patience, progress, on_epoch: as in `fit`.

    Raises what `HierarchyTask` and `fit` raise.
    """
    config = HierarchyConfig() if config is None else config
    space = _manifold(config) if manifold is None else manifold
    streams = [torch.Generator().manual_seed((1000 * config.seed + i) % 2**63) for i in range(3)]
    size = space.point_dim(config.dim) if hasattr(space, "point_dim") else config.dim
    points = space.random(closure.n_nodes, size, std=config.init_scale, generator=streams[0], dtype=torch.float64)
    task = HierarchyTask(closure, space, points, scale=config.scale, negatives=config.negatives, generator=streams[2])
    later = schedule(config.schedule, warmup=config.warmup, final=config.lr_final)

    def factor(step: int, total: int) -> float:
        """Of the learning rate; `fit` asks for it before each step, so the task learns here whether it burns in."""
        first = total * config.burn_in // config.epochs
        task.burning = step < first
        return config.burn_in_factor if task.burning else later(step - first, total - first)

    optimizer = OPTIMIZERS[config.optimizer]([task.points], lr=config.lr)
    if config.max_step:
        optimizer.register_step_pre_hook(
            lambda *_: _shorten(task.points, optimizer.param_groups[0]["lr"], config.max_step)
        )
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
        validate_every=validate_every,
        patience=patience,
        checkpoint=folder,
        progress=progress,
        on_epoch=on_epoch,
    )
    return Hierarchy(closure, space, task.points.detach(), fitted)


def _manifold(config: HierarchyConfig) -> geoopt.Manifold:
    return Euclidean() if config.manifold == "euclidean" else HYPERBOLIC[config.manifold](config.curvature)
