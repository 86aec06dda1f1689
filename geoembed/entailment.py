"""Entailment cones: training, so that each node lies in the cones of its ancestors, and telling pairs by them.

Training starts from an embedding by ranking, drawn in towards the origin, where cones are wide: radii now go from
asinh(2 K), where cones begin, to 0.8 beyond. A cone is a half-space at most, and the root's has to hold all: in more
than two dimensions, where there is room, the angles from the mean direction become 0.4 of themselves.

    v above u  <=>  e(u, v) <= threshold

    cones       e = E(v, u), how far u lies outside the cone of v (`EntailmentCone`)
    distances   e = d(u, v) + w (r_v - r_u), r the distance from the origin: small for near nodes, and with w > 0 for
                those farther in; at w = 1 it is 0 for what lies on the way from the origin to u

As in the papers on cones, every pair has ten corrupted ones. Half of the pairs choose w and the threshold, those of the
highest F1, the smallest of equals; the other half is classified.

    precision = TP / (TP + FP)      recall = TP / (TP + FN)      F1 = 2 TP / (2 TP + FP + FN)

References: Ganea, Becigneul, Hofmann, "Hyperbolic entailment cones for learning hierarchical embeddings", ICML 2018,
arXiv:1804.01882, section 5; Nickel, Kiela, NeurIPS 2017, arXiv:1705.08039, for a score of distance and norm.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor

from geoembed.classification import average_precision
from geoembed.config import HierarchyConfig
from geoembed.data import Closure
from geoembed.data.draws import below, distinct
from geoembed.distances.cones import EntailmentCone
from geoembed.errors import DataError, DomainError
from geoembed.hierarchy import Hierarchy, HierarchyTask, check_and_shorten
from geoembed.losses.hierarchy import cones
from geoembed.manifolds import Hyperbolic
from geoembed.numerics import norm
from geoembed.optim import RiemannianAdam
from geoembed.reconstruction import check_points
from geoembed.schedules import schedule
from geoembed.training import fit

__all__ = ["ConeTask", "Entailment", "classify_pairs", "corrupt_pairs", "train_cones"]

WEIGHTS = (0.0, 0.25, 0.5, 0.75, 0.9, 1.0)  # w is one of them
_DEPTH = 0.8  # from the innermost to the outermost point that cones start from
_NARROWED = 0.4  # of the angles from an axis
_STEEPEST = 20.0  # length of the gradient at a point: an apex near its pair has a far steeper one
_BLOCK = 1 << 16  # pairs compared at a time


class ConeTask(HierarchyTask):
    """As `HierarchyTask`, where the cone of a node is to hold what lies below it and nothing else.

    width, margin: of the cones and of their loss, see `EntailmentCone` and `geoembed.losses.hierarchy.cones`.
    """

    def __init__(
        self,
        closure: Closure,
        manifold: Hyperbolic,
        points: Tensor,
        *,
        width: float = 0.1,
        margin: float = 0.01,
        negatives: int = 200,
        generator: torch.Generator | None = None,
    ):
        super().__init__(closure, manifold, points, negatives=negatives, generator=generator)
        self.cone, self.margin = EntailmentCone(manifold, width), margin

    def losses(self, u: Tensor, above: Tensor, others: Tensor, rows: Tensor, left_out: Tensor) -> Tensor:
        positive = self.cone.angle(above, u[rows]) - self.psi(above)
        negative = (self.cone.angles(others, u) - self.psi(others).unsqueeze(1)).mT
        return cones(positive, negative, rows, left_out, margin=self.margin)

    def psi(self, x: Tensor) -> Tensor:
        """Half the aperture of the cone of each point. (b, k) -> (b,)."""
        return self.cone.aperture(self.cone.radius(x))


def train_cones(
    start: Hierarchy,
    config: HierarchyConfig | None = None,
    folder: Path | None = None,
    *,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> Hierarchy:
    """Go on from an embedding by ranking with entailment cones, on its manifold.

    Args:
        start: what `train_hierarchy` gives, of this or of other settings; left as it is.
        config: the settings; of those of the ranking, `batch_size`, `negatives` and `seed` count.
        folder, progress, on_epoch: as in `train_hierarchy`; the folder is one of its own.

    Raises DomainError if the manifold is not a hyperbolic one, and what `fit` raises.
    """
    config = HierarchyConfig() if config is None else config
    manifold = start.manifold
    if not isinstance(manifold, Hyperbolic) or getattr(manifold, "planes", 1) > 1:
        raise DomainError(f"train_cones: cones are of a hyperbolic space, no product of planes, got {manifold!r}")
    streams = [torch.Generator().manual_seed((1000 * config.seed + i) % 2**63) for i in (4, 5)]  # 0 to 3 are in use
    c = manifold.c.sqrt()
    points = manifold.from_tangent(_drawn_in(c * manifold.to_tangent(start.points), config.cone_width) / c)
    task = ConeTask(
        start.closure,
        manifold,
        points,
        width=config.cone_width,
        margin=config.margin,
        negatives=config.negatives,
        generator=streams[1],
    )
    optimizer = RiemannianAdam([task.points], lr=config.cone_lr)
    optimizer.register_step_pre_hook(lambda *_: check_and_shorten(task.points, 1.0, _STEEPEST))
    fitted = fit(
        task.step,
        task.n,
        task,
        optimizer,
        epochs=config.cone_epochs,
        batch_size=config.batch_size,
        generator=streams[0],
        generators={"negatives": streams[1]},
        schedule=schedule("linear", final=0.1),
        checkpoint=folder,
        progress=progress,
        on_epoch=on_epoch,
    )
    return Hierarchy(start.closure, manifold, task.points.detach(), fitted)


def _drawn_in(u: Tensor, width: float) -> Tensor:
    """The tangent vectors at the origin that cones start from. u: (n, d) -> (n, d), at c = 1."""
    r = norm(u, keepdim=True)
    depth = (r - r.min()) / (r.max() - r.min()).clamp(min=torch.finfo(r.dtype).tiny)
    direction = u / r.clamp(min=torch.finfo(r.dtype).tiny)
    if u.shape[1] > 2:
        axis = F.normalize(direction.mean(0), dim=0)
        along = direction @ axis
        across = direction - along.unsqueeze(1) * axis
        angle = _NARROWED * torch.atan2(norm(across), along).unsqueeze(1)
        direction = angle.cos() * axis + angle.sin() * F.normalize(across, dim=1)
    return (math.asinh(2 * width) + _DEPTH * depth) * direction


@dataclass
class Entailment:
    """How pairs were told apart.

    Attributes:
        energies: float64 (m,), e of each pair. labels: bool (m,), which of them are true.
        threshold: pairs up to it are held for true. weight: w; None for cones.
        protocol: the evaluation in words.
    """

    energies: Tensor
    labels: Tensor
    threshold: float
    weight: float | None
    protocol: str

    def counts(self) -> dict[str, int]:
        """Number of pairs, and of the true ones."""
        return {"pairs": len(self.labels), "true": int(self.labels.sum())}

    def metrics(self) -> dict[str, float]:
        """precision, recall and f1 of the true pairs, and average_precision, which needs no threshold.

        The precision is NaN where no pair is held for true.
        """
        guess = self.energies <= self.threshold
        hit, guessed, true = (x.sum().item() for x in (guess & self.labels, guess, self.labels))
        found = {"f1": 2 * hit / (guessed + true), "precision": hit / guessed if guessed else math.nan}
        area = average_precision(-self.energies, self.labels)
        return found | {"recall": hit / true, "average_precision": area}


def classify_pairs(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    pairs: Tensor,
    *,
    width: float | None = None,
    negatives: int = 10,
    generator: torch.Generator | None = None,
) -> Entailment:
    """Tell pairs of a hierarchy from corrupted ones.

    Args:
        points: (n_nodes, k) on the manifold.
        closure: all that is true, the pairs held out from training too.
        pairs: int64 (m, 2), child, ancestor, at least two of the closure: the ones to tell.
        width: of the cones; None takes distances and radii.
        negatives: corrupted pairs for each, see `corrupt_pairs`.
        generator: divides the pairs into halves and corrupts them.

    Raises ShapeError or DomainError for points that do not fit the closure or hold a NaN, DataError for fewer than two
    pairs.
    """
    check_points(points, closure)
    if len(pairs) < 2:
        raise DataError(
            f"{closure!r}: one half of the pairs chooses the threshold of the other; got {len(pairs)} pairs"
        )
    points = points.detach()
    origin = manifold.origin(1, points.shape[1], dtype=points.dtype, device=points.device)
    radius = manifold.dist(origin, points)
    cone = None if width is None else EntailmentCone(manifold, width)

    def parts(rows: Tensor) -> Tensor:
        """E and 0, or the distance and r_v - r_u. (b, 2) -> float64 (2, b)."""
        u, v = points[rows].unbind(1)
        if cone is not None:
            return torch.stack([cone(v, u), torch.zeros_like(radius[:1]).expand(len(rows))]).double().cpu()
        return torch.stack([manifold.dist(u, v), radius[rows[:, 1]] - radius[rows[:, 0]]]).double().cpu()

    found, labels = [], []
    for half in pairs[torch.randperm(len(pairs), generator=generator)].tensor_split(2):
        rows = torch.cat([half, corrupt_pairs(closure, half, negatives, generator)])
        found.append(torch.cat([parts(block) for block in rows.split(_BLOCK)], 1))
        labels.append(torch.arange(len(rows)) < len(half))
    weights = WEIGHTS if cone is None else (0.0,)
    choices = [(*_best(found[0][0] + w * found[0][1], labels[0]), w) for w in weights]
    _, threshold, weight = max(choices, key=lambda best: best[0])
    what = f"cones of width {width:g}" if cone is not None else f"distance + {weight:g} x (how much farther out it is)"
    return Entailment(
        found[1][0] + weight * found[1][1],
        labels[1],
        threshold,
        weight if cone is None else None,
        f"is v above u? Told by {what}, {len(labels[1])} pairs, {int(labels[1].sum())} of them true, each with up to "
        f"{negatives} corrupted ones; threshold of the best F1 on as many others",
    )


def corrupt_pairs(closure: Closure, pairs: Tensor, each: int = 10, generator: torch.Generator | None = None) -> Tensor:
    """Pairs that are not in the closure, `each` for every one given: its ancestor and its child replaced in turn.

    closure: all that is true. pairs: int64 (m, 2), child, ancestor -> (m each, 2). The other node is drawn uniformly
    from those that make no true pair, without rejection. Where there is none, as under a root, the other side is
    replaced; a pair with none on either side is left out.
    """
    n = closure.n_nodes
    true = torch.cat([closure.pairs, torch.arange(n).unsqueeze(1).expand(n, 2)])  # a node is not above itself either
    # Key u stands for "above u", key n + v for "below v": what is taken there, sorted
    key, taken = distinct(torch.cat([true, true.flip(1) + torch.tensor([n, 0])])).unbind(1)
    count = key.bincount(minlength=2 * n)
    first, free = count.cumsum(0) - count, n - count
    kept = pairs.repeat_interleave(each, 0)
    place = torch.arange(len(kept))
    keys = kept + torch.tensor([0, n])
    side = place % 2
    side = torch.where(free[keys[place, side]] > 0, side, 1 - side)
    wanted = keys[place, side]
    possible = free[wanted] > 0
    wanted, side = wanted[possible], side[possible]
    index = below(free[wanted], generator)
    before = taken - (torch.arange(len(taken)) - first[key])  # free nodes before each taken one
    drawn = index + torch.searchsorted(key * n + before, wanted * n + index, right=True) - first[wanted]
    stays = wanted - n * side
    return torch.stack([torch.where(side == 0, stays, drawn), torch.where(side == 0, drawn, stays)], 1)


def _best(energies: Tensor, labels: Tensor) -> tuple[float, float]:
    """The highest F1 that a threshold gives, and that threshold: halfway between two neighbouring energies."""
    values, place = energies.unique(return_inverse=True)
    true, every = (place[mask].bincount(minlength=len(values)).cumsum(0) for mask in (labels, slice(None)))
    f1 = 2 * true.double() / (every + true[-1])
    at = int(f1.argmax())
    low, high = values[at], values[min(at + 1, len(values) - 1)]
    return f1[at].item(), (low + (high - low) / 2).item()
