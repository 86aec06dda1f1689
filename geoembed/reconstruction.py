"""How well points tell a hierarchy: reconstruction, prediction of held-out pairs, distortion.

Reconstruction takes each node that has ancestors and ranks every one of them among all nodes by distance, nearest
first, the node itself and its other ancestors removed. Prediction ranks its held-out ancestors in the same way, with
all known and held-out ones removed. With the nodes that are not removed at distances d', and a pair at distance d,

    rank        1 + #{d' < d} + #{d' = d} / 2                     its mean over the pairs is MR
    precision   p / (p + #{d' <= d}),  p = the ranked pairs of the node with a distance <= d
                its mean over the node's pairs is the average precision AP, whose mean over the nodes is MAP

so ties count half in a rank, and in full in a precision: what is tied is retrieved together, as in scikit-learn. The
papers average ranks over pairs and precisions over nodes, as here; the larger a node's number of ancestors, the more
it weighs in MR.

Of a random sample of q of Q nodes, MAP has the standard error sqrt((1 - q/Q) s^2 / q) with the sample variance s^2 of
the AP, and MR, the ratio of the sum of ranks r_i to the number of pairs k_i of a node, the same with s^2 the mean of
(r_i - MR k_i)^2 times q / (q - 1) and k^2, the square of the mean number of pairs, below.

Distortion compares distances of the embedding with numbers of steps along the edges child - parent.

References: Nickel, Kiela, NeurIPS 2017, arXiv:1705.08039, section 4.1 (MR and MAP); Cochran, "Sampling techniques", 3rd
ed., 1977, sections 2.6 and 6.3 (standard errors, of ratios too); Sala, De Sa, Gu, Re, "Representation tradeoffs for
hyperbolic embeddings", ICML 2018, arXiv:1804.03329 (distortion).
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import geoopt
import torch
from torch import Tensor
from tqdm import tqdm

from geoembed.data import Closure, QueryGroups
from geoembed.distance import DEFAULT_BUDGET
from geoembed.distances.geodesic import Geodesic
from geoembed.errors import DataError, DomainError, ShapeError

__all__ = ["Distortion", "HierarchyResult", "check_points", "distortion", "predict_pairs", "reconstruct"]


@dataclass
class HierarchyResult:
    """Ranks of the ancestors of q nodes.

    Attributes:
        sources: int64 (q,), the nodes.
        pairs: int64 (q,), how many ancestors of each were ranked.
        rank_sums: float64 (q,), the sum of their ranks.
        precisions: float64 (q,), the average precision of each node.
        population: number of nodes that have ancestors to rank, of which these are a sample or all.
        protocol: the evaluation in words.
    """

    sources: Tensor
    pairs: Tensor
    rank_sums: Tensor
    precisions: Tensor
    population: int
    protocol: str

    def metrics(self) -> dict[str, float]:
        """MR (1 is best) and MAP (1 is best)."""
        return {"mr": (self.rank_sums.sum() / self.pairs.sum()).item(), "map": self.precisions.mean().item()}

    def counts(self) -> dict[str, int]:
        """Number of nodes, and of the pairs that were ranked."""
        return {"nodes": len(self.sources), "pairs": int(self.pairs.sum())}

    def standard_errors(self) -> dict[str, float]:
        """Errors of MR and MAP as estimates of those of all nodes: 0 when all were ranked, NaN for a sample of one."""
        q = len(self.sources)
        if q == self.population:
            return {"mr": 0.0, "map": 0.0}
        if q == 1:
            return {"mr": math.nan, "map": math.nan}
        k = self.pairs.double()
        residual = (self.rank_sums - self.metrics()["mr"] * k) / k.mean()
        left = (1 - q / self.population) / q
        variances = {"mr": residual.square().sum() / (q - 1), "map": self.precisions.var()}
        return {name: math.sqrt(left * value.item()) for name, value in variances.items()}


def reconstruct(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    *,
    sample: int | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> HierarchyResult:
    """Rank all ancestors of every node, or of `sample` nodes drawn at random without replacement.

    points: (n_nodes, k) on the manifold, which has `dist`, better `cdist`. budget: bytes that the blocks of distances
    may take. Raises ShapeError or DomainError for points that do not fit the closure or hold a NaN, DataError for a
    closure without pairs.
    """
    groups = closure.ancestors()
    return _ranked(points, manifold, closure, groups, groups, "reconstruction", sample, generator, budget, progress)


def predict_pairs(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    held_out: Tensor,
    *,
    sample: int | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> HierarchyResult:
    """Rank the ancestors in `held_out`: int64 (m, 2), as `Closure.hold_out` gives them with the rest of the closure.

    The ancestors in `closure` and the other held-out ones are removed. Everything else as in `reconstruct`.
    """
    targets = Closure(closure.nodes, held_out, closure.name).ancestors()
    known = Closure(closure.nodes, torch.cat([closure.pairs, held_out]), closure.name).ancestors()
    return _ranked(points, manifold, closure, targets, known, "prediction", sample, generator, budget, progress)


def _ranked(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    targets: QueryGroups,
    known: QueryGroups,
    what: str,
    sample: int | None,
    generator: torch.Generator | None,
    budget: int,
    progress: bool,
) -> HierarchyResult:
    check_points(points, closure)
    if not len(targets):
        raise DataError(f"{closure!r}: there are no pairs to rank")
    queries = _sampled(len(targets), sample, generator)
    order = queries[(targets.offsets[queries + 1] - targets.offsets[queries]).argsort()]  # blocks of like counts
    place = torch.searchsorted(known.heads.contiguous(), targets.heads.contiguous())  # every target is known
    points, n = points.detach(), closure.n_nodes
    rank_sums, precisions = (torch.empty(len(targets), dtype=torch.float64) for _ in range(2))
    counts = torch.empty(len(targets), dtype=torch.int64)
    with torch.no_grad(), tqdm(total=len(order), desc=what, leave=False, disable=None if progress else True) as bar:
        for block, distances in _blocks(points, manifold, targets.heads, order, budget):
            rows, columns = targets.positions(block)
            wanted = distances[rows, columns]
            distances[known.positions(place[block])] = math.inf
            distances[torch.arange(len(block)), targets.heads[block]] = math.inf
            count = rows.bincount(minlength=len(block))
            slot = torch.arange(len(rows)) - (count.cumsum(0) - count)[rows]
            # Row by row: its thresholds, as many columns as the largest count, -inf where there is none
            bars = distances.new_full((len(block), int(count.max())), -math.inf)
            bars[rows, slot] = wanted
            closer, tied = (
                torch.stack([count_in_rows(distances, column) for column in bars.mT.unsqueeze(-1)], 1)[rows, slot]
                for count_in_rows in (_below, _level)
            )
            own = (bars[rows] <= wanted.unsqueeze(1)).sum(1) - (bars.shape[1] - count)[rows]
            ranks = 1 + closer + tied.double() / 2
            precision = own / (own + closer + tied).double()
            counts[block] = count
            rank_sums[block] = torch.zeros(len(block), dtype=torch.float64).index_add_(0, rows, ranks)
            precisions[block] = torch.zeros(len(block), dtype=torch.float64).index_add_(0, rows, precision) / count
            bar.update(len(block))
    words = f"{what}, ancestors among all {n} nodes, the node itself and other known ancestors removed, ties half"
    if len(queries) < len(targets):
        words += f", a sample of {len(queries)} of {len(targets)} nodes"
    return HierarchyResult(
        targets.heads[queries], counts[queries], rank_sums[queries], precisions[queries], len(targets), words
    )


def _below(distances: Tensor, bar: Tensor) -> Tensor:
    return (distances < bar).sum(1, dtype=torch.int32)  # an int32 sum of a mask is ten times faster than the default


def _level(distances: Tensor, bar: Tensor) -> Tensor:
    return (distances == bar).sum(1, dtype=torch.int32)


def _blocks(
    points: Tensor, manifold: geoopt.Manifold, nodes: Tensor, order: Tensor, budget: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """(places of some nodes, their distances to all points on the CPU: (b, n)), within the budget of bytes.

    Points that coincide are compared once: a matrix product may round equal columns differently, and untie them.
    """
    distance = Geodesic(manifold)
    distinct, place = points.unique(dim=0, return_inverse=True)
    rows = max(1, budget // (6 * points.element_size() * len(points)))  # distances, temporaries, masks
    for block in order.split(rows):
        found = distance.pairwise(points[nodes[block]], distinct).cpu()
        yield block, found[:, place.cpu()]


@dataclass
class Distortion:
    """mean: of |d / (t g) - 1|; worst: the largest d / g over the smallest; scale: t. d: distances, g: steps."""

    mean: float
    worst: float
    scale: float


def distortion(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    *,
    scale: float | None = None,
    sample: int | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
) -> Distortion:
    """Distances d of the embedding against steps g along the edges child - parent, over pairs in the same part.

    scale: t, how far a step should be; None takes sum (d / g)^2 / sum d / g, which minimises the mean square of
    d / (t g) - 1. sample: so many nodes, drawn at random, are compared with all others; None takes all. The rest, and
    what raises, as in `reconstruct`.
    """
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    check_points(points, closure)
    if not len(closure.pairs):
        raise DataError(f"{closure!r}: there are no edges to measure along")
    child, parent = closure.parents().numpy().T
    n = closure.n_nodes
    edges = csr_array((torch.ones(len(child)).numpy(), (child, parent)), shape=(n, n))
    nodes = torch.arange(n)
    ratios = []
    with torch.no_grad():
        for block, distances in _blocks(points.detach(), manifold, nodes, _sampled(n, sample, generator), budget // 2):
            steps = torch.from_numpy(dijkstra(edges, directed=False, indices=block.numpy(), unweighted=True))
            ratios.append((distances / steps)[(steps > 0) & steps.isfinite()].double())
    ratio = torch.cat(ratios)
    t = (ratio.square().sum() / ratio.sum()).item() if scale is None else scale
    return Distortion((ratio / t - 1).abs().mean().item(), (ratio.max() / ratio.min()).item(), t)


def check_points(points: Tensor, closure: Closure) -> None:
    """ShapeError or DomainError unless there is a finite point for each node."""
    if points.dim() != 2 or len(points) != closure.n_nodes:
        raise ShapeError(f"points: expected ({closure.n_nodes}, k), one a node, got {tuple(points.shape)}")
    bad = (~points.isfinite().all(1)).nonzero()
    if len(bad):
        raise DomainError(f"{len(bad)} of {len(points)} points are NaN or infinite, the first is row {int(bad[0])}")


def _sampled(n: int, sample: int | None, generator: torch.Generator | None) -> Tensor:
    """All of 0 .. n - 1, or a sorted sample of them."""
    if sample is None:
        return torch.arange(n)
    if sample < 1:
        raise DomainError(f"sample must be at least 1 node, got {sample}; leave it out to take them all")
    return torch.randperm(n, generator=generator)[:sample].sort()[0]
