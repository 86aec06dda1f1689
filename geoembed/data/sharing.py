"""Stochastic shared embeddings: now and then an id stands in for another, which smooths an embedding table.

Reference: Wu, Li, Hsieh, Sharpnack, "Stochastic shared embeddings: data-driven regularization of embedding layers",
NeurIPS 2019, arXiv:1905.10630.
"""

import torch
from torch import Tensor

from geoembed.data.draws import Tables, below, check_probability, check_sizes, distinct, rand
from geoembed.data.filters import check_ids
from geoembed.data.sampling import Uniform
from geoembed.errors import ShapeError

__all__ = ["GraphSharedEmbeddings", "SharedEmbeddings"]


class SharedEmbeddings(Tables):
    """SSE-SE: each id becomes with probability p another one, all equally likely.

    In a training step, `replace` the ids before their rows are read: rows of the table then now and then stand in for
    each other and learn from each other's triples.
    """

    def __init__(self, n_entities: int, p: float):
        check_sizes(n_entities=n_entities)
        check_probability("p", p)
        self.n_entities, self.p = n_entities, p

    def replace(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """int64 ids of any shape -> the same shape. With p = 0 it draws nothing."""
        if self.p == 0 or self.n_entities == 1:
            return ids
        moved = rand(ids.shape, ids.device, generator) < self.p
        step = 1 + Uniform(self.n_entities - 1).ids(ids.shape, ids.device, generator)  # never back to the id itself
        return torch.where(moved, (ids + step) % self.n_entities, ids)


class GraphSharedEmbeddings(Tables):
    """SSE-Graph: each id becomes with probability p one of its neighbours in a graph, all equally likely.

    The paper lets the user give any graph over the ids, and makes neighbours rho times as likely as other ids; this is
    its limit of large rho. For a knowledge graph, triples.train[:, [0, 2]] makes neighbours of what a triple joins.

    Args:
        edges: int64 (m, 2), of either direction; duplicates and loops count for nothing. An id without an edge to
            another one is never replaced.
    """

    def __init__(self, edges: Tensor, n_entities: int, p: float):
        check_sizes(n_entities=n_entities)
        check_probability("p", p)
        if edges.dim() != 2 or edges.shape[1] != 2 or edges.dtype != torch.int64:
            raise ShapeError(f"expected edges int64 (m, 2), got {edges.dtype} {tuple(edges.shape)}")
        check_ids(edges.flatten(), n_entities, "entity")
        edges = edges[edges[:, 0] != edges[:, 1]]
        alone = torch.ones(n_entities, dtype=torch.bool, device=edges.device)
        alone[edges.flatten()] = False
        alone = alone.nonzero().expand(-1, 2)  # the only neighbour of these is the id itself
        source, self.neighbours = distinct(torch.cat([edges, edges.flip(1), alone])).unbind(1)
        self.sizes = source.bincount(minlength=n_entities)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.p = p

    def replace(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """int64 ids of any shape -> the same shape. With p = 0 it draws nothing."""
        if self.p == 0:
            return ids
        moved = rand(ids.shape, ids.device, generator) < self.p
        return torch.where(moved, self.neighbours[self.starts[ids] + below(self.sizes[ids], generator)], ids)
