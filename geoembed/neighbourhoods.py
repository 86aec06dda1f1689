"""How well points tell the neighbours in a graph: mean average precision over nodes.

For a node a with neighbours N(a), and R(b) the nodes no farther from a than its neighbour b, a itself left out,

    AP(a) = 1 / |N(a)| sum over b in N(a) of |N(a) ∩ R(b)| / |R(b)|,        MAP = its mean over nodes with neighbours

1 if all are nearer to all of their neighbours than to anything else. Nodes at the same distance are retrieved together.

Reference: F. Sala, C. De Sa, A. Gu, C. Re, "Representation tradeoffs for hyperbolic embeddings", ICML 2018, arXiv
1804.03329, section 2.
"""

import dataclasses

import geoopt
import torch
from torch import Tensor

from geoembed.data import Closure
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DataError, ShapeError
from geoembed.reconstruction import HierarchyResult, reconstruct

__all__ = ["rank_neighbours"]


def rank_neighbours(
    points: Tensor,
    manifold: geoopt.Manifold,
    edges: Tensor,
    *,
    sources: Tensor | None = None,
    sample: int | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> HierarchyResult:
    """Rank the neighbours of nodes among all nodes.

    points: (n, k) on the manifold, which has `dist`, better `cdist`. edges: int64 (m, 2), rows of points, undirected;
    an edge may come twice. sources: int64 (q,), the nodes whose neighbours are ranked; None takes all. sample: so many
    of these, drawn at random. budget: bytes that the blocks of distances may take. Raises ShapeError, DataError or
    DomainError for edges and points that do not fit together, for self-loops, NaN, or no neighbours at all.
    """
    if edges.dim() != 2 or edges.shape[1] != 2 or edges.dtype != torch.int64:
        raise ShapeError(f"edges: expected int64 (m, 2), got {edges.dtype} {tuple(edges.shape)}")
    both = torch.cat([edges, edges.flip(1)]).unique(dim=0)
    if sources is not None:
        both = both[torch.isin(both[:, 0], sources)]
    if not len(both):
        raise DataError("no edges at these nodes, so there are no neighbours to rank")
    width = len(str(len(points)))
    neighbours = Closure([f"{i:0{width}}" for i in range(len(points))], both)  # in form: it lists whom to rank
    result = reconstruct(
        points, manifold, neighbours, sample=sample, generator=generator, budget=budget, progress=progress
    )
    protocol = result.protocol.replace("reconstruction, ancestors", "neighbours").replace(
        "known ancestors", "neighbours"
    )
    return dataclasses.replace(result, protocol=protocol)
