"""Gromov's delta: how far a metric is from that of a tree. 0 = it is one, and c > 0 scales it as it scales distances.

Of the three sums d(x, y) + d(u, v), d(x, u) + d(y, v), d(x, v) + d(y, u) of four points the two largest are equal in a
tree. In general

    delta   = max over x, y, u, v of (largest - second largest) / 2                          four-point condition
    delta_x = max over y, u, v of min((y|u)_x, (u|v)_x) - (y|v)_x,   (y|u)_x = (d(x, y) + d(x, u) - d(y, u)) / 2

and delta_x <= delta = max_x delta_x <= 2 delta_x: one base point x gives delta up to a factor of two, from a (max, min)
matrix product. 2 delta / diameter lies in [0, 1] and lets metrics of different scale be compared. The hyperbolic plane
of curvature -c has delta = log(2) / sqrt(c).

References: Gromov, "Hyperbolic groups", 1987; Fournier, Ismail, Vigneron, "Computing the Gromov hyperbolicity of a
discrete metric space", 2015, arXiv:1210.3323 (the product); Khrulkov et al., "Hyperbolic image embeddings", CVPR 2020,
arXiv:1904.02239 (2 delta_x / diameter of features).
"""

from typing import NamedTuple

import numpy as np
import torch
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geoembed.analysis.paths import adjacency, simple_edges, waves
from geoembed.data import Triples
from geoembed.data.splits import SPLITS
from geoembed.errors import DomainError, ShapeError

__all__ = ["Hyperbolicity", "delta_hyperbolicity", "graph_delta"]

CACHED = 1 << 18  # elements worked on at a time, so that they stay in cache
ROUNDING = 1e-3  # of the diameter: by how much the matrix may miss symmetry, as distances in single precision do


class Hyperbolicity(NamedTuple):
    """delta and the diameter (largest distance) of the same points, in the unit of the distances."""

    delta: float
    diameter: float

    @property
    def relative(self) -> float:
        """2 delta / diameter: 0 = a tree, at most 1; 0 for a single point."""
        return 2 * self.delta / self.diameter if self.diameter else 0.0


def delta_hyperbolicity(
    distances: Tensor,
    *,
    basepoint: int | None = None,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Hyperbolicity:
    """Gromov's delta of a finite metric, exact unless `basepoint` or `samples` asks for less.

    distances: (n, n), the matrix. That it obeys the triangle inequality is taken on trust.
    Neither: delta, in time n^4 / 4: about 0.5 s for n = 200, 20 s for 500.
    basepoint: delta_x of this point, with delta_x <= delta <= 2 delta_x, in time n^3.
    samples: the largest over so many random quadruples, a lower bound of delta.

    Raises `ShapeError` for what is not a square matrix, `DomainError` for one that is no finite metric.

    >>> cycle = torch.tensor([[0, 1, 2, 1], [1, 0, 1, 2], [2, 1, 0, 1], [1, 2, 1, 0]])
    >>> delta_hyperbolicity(cycle)
    Hyperbolicity(delta=1.0, diameter=2.0)
    """
    distances = _metric(distances)
    n, diameter = len(distances), float(distances.max())
    if basepoint is not None and samples is not None:
        raise DomainError("give basepoint or samples, not both: delta at one point is exact")
    if samples is not None:
        if samples < 1:
            raise DomainError(f"samples: expected a number of quadruples, at least 1; got {samples}")
        return Hyperbolicity(_delta_of_samples(distances, samples, generator), diameter)
    if basepoint is not None:
        if not 0 <= basepoint < n:
            raise DomainError(f"basepoint: expected a row in [0, {n}), got {basepoint}")
        return Hyperbolicity(_delta_at(distances, basepoint), diameter)
    # the four points of a quadruple play the same part, so the first of them may be the base point
    return Hyperbolicity(max(_delta_at(distances[x:, x:], 0) for x in range(n)), diameter)


def graph_delta(
    graph: Triples | Tensor,
    nodes: int = 200,
    *,
    samples: int | None = None,
    generator: torch.Generator | None = None,
) -> Hyperbolicity:
    """Gromov's delta of shortest path lengths in the largest component of a graph, edges taken both ways.

    graph: all splits and relations of a `Triples`, or edges, integers (m, 2).
    nodes: how many to draw from the component: delta and diameter are those of the drawn nodes, so lower bounds,
        and exact where the component has no more. samples: see `delta_hyperbolicity`.

    0 for a graph without edges. Raises `ShapeError` for what is neither Triples nor edges, `DomainError` for nodes < 1.
    """
    if isinstance(graph, Triples):
        graph = torch.cat([graph[split] for split in SPLITS])[:, [0, 2]]
    if graph.dim() != 2 or graph.shape[1] != 2 or graph.is_floating_point():
        raise ShapeError(f"expected Triples or edges, integers (m, 2); got {graph.dtype} {tuple(graph.shape)}")
    if nodes < 1:
        raise DomainError(f"nodes: expected a number of nodes to draw, at least 1; got {nodes}")
    source, target, ids = simple_edges(graph[:, 0], graph[:, 1], int(graph.max()) + 1 if len(graph) else 0)
    if not len(ids):
        return Hyperbolicity(0.0, 0.0)
    n = len(ids)
    part = connected_components(adjacency(source, target, n), directed=False)[1]
    members = np.flatnonzero(part == np.bincount(part).argmax())
    drawn = members[torch.randperm(len(members), generator=generator)[:nodes].numpy()]
    both = np.concatenate([source, target]), np.concatenate([target, source])
    place = np.full(n, -1)
    place[drawn] = np.arange(len(drawn))
    distances = np.zeros((len(drawn), len(drawn)))
    for block, distance, reached, words in waves(*both, n, drawn):
        hit = place[reached] >= 0
        bits = np.unpackbits(words[hit].view(np.uint8), axis=1, bitorder="little").astype(bool)
        row, bit = bits.nonzero()
        distances[place[reached[hit]][row], block.start + bit] = distance
    return delta_hyperbolicity(torch.from_numpy(distances), samples=samples, generator=generator)


def _metric(distances: Tensor) -> Tensor:
    if distances.dim() != 2 or distances.shape[0] != distances.shape[1] or not len(distances):
        raise ShapeError(f"expected a matrix of distances (n, n) with n > 0, got {tuple(distances.shape)}")
    distances = distances.detach().double()
    if not bool(distances.isfinite().all()) or bool((distances < 0).any()):
        bad = (~distances.isfinite() | (distances < 0)).nonzero()
        raise DomainError(
            f"{len(bad)} distances are negative or not finite, the first at {tuple(bad[0].tolist())}; "
            "infinite ones join different components: take one component"
        )
    slack = ROUNDING * float(distances.max())
    if float(distances.diagonal().max()) > slack or float((distances - distances.mT).abs().max()) > slack:
        raise DomainError("distances must be symmetric and zero on the diagonal, up to rounding")
    return ((distances + distances.mT) / 2).fill_diagonal_(0)


def _delta_at(distances: Tensor, x: int) -> float:
    """delta_x: the (max, min) product of the Gromov products at x with themselves, minus these."""
    to = distances[x]
    gromov = (to.unsqueeze(1) + to - distances) / 2
    delta = 0.0
    for rows in gromov.split(max(1, CACHED // len(gromov) ** 2)):
        product = torch.minimum(rows.unsqueeze(1), gromov).amax(-1)  # gromov is symmetric
        delta = max(delta, float((product - rows).max()))
    return delta


def _delta_of_samples(distances: Tensor, samples: int, generator: torch.Generator | None) -> float:
    delta = 0.0
    for start in range(0, samples, CACHED):
        size = (4, min(CACHED, samples - start))
        x, y, u, v = torch.randint(len(distances), size, generator=generator).to(distances.device)
        sums = torch.stack(
            [
                distances[x, y] + distances[u, v],
                distances[x, u] + distances[y, v],
                distances[x, v] + distances[y, u],
            ]
        )
        largest, second, _ = sums.sort(0, descending=True)[0]
        delta = max(delta, float((largest - second).max()) / 2)
    return delta
