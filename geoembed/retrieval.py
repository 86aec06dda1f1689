"""Nearest neighbours under any distance: `Neighbors(distance).fit(X).kneighbors(Q, k)`.

Distances come first, as in scikit-learn, and are true distances in ascending order (not squares, not similarities);
items at the same distance come in the order of their index. The search is exact: every distance is computed, a block
of rows at a time within a budget of bytes. Of an asymmetric distance the queries are the first argument.

Where the distance is a Euclidean norm of `embed` (or of what `reduced` leaves of sets), a block is one matrix product.
Products in float32 err by up to 1e-5 of a distance, so what they select is a little more than k items, which are then
measured and ordered by their differences in float64. Other distances are computed in the dtype of the items: points
far out in hyperbolic space want float64. Half precision is widened to float32.

`index="usearch"` searches the vectors of `embed` by an HNSW graph instead, measures the candidates exactly and orders
them; `recall_` says which share of the true neighbours it found. Reference: Malkov, Yashunin, "Efficient and robust
approximate nearest neighbor search using Hierarchical Navigable Small World graphs", TPAMI 2018, arXiv:1603.09320.
"""

from collections.abc import Iterator
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from geoembed.blocks import BUDGET, check_items, distance_blocks, is_euclidean, pair_distances, reduced
from geoembed.distance import Distance, Items, Norm
from geoembed.errors import DomainError, MissingDependencyError, UnknownNameError

__all__ = ["Neighbors"]

SLACK = {torch.float32: 1e-3, torch.float64: 1e-9}  # tens of times what a matrix product errs by
OVERSAMPLE = 4  # candidates an index gives for each neighbour
PROBES, PROBED = 256, 10  # queries and neighbours by which recall is measured

_Problem = tuple[Distance, Any, Any]


class Neighbors:
    """Nearest neighbours among fitted items.

    Args:
        distance: any distance.
        index: None for exact search; "usearch" for an approximate one, where the distance has an `embed` with
            `embed_p` 2. It needs the extra `ann`.
        budget: bytes of the blocks of the distance matrix.
        generator: draws the queries by which an index is probed.

    Attributes:
        n_items_: number of fitted items.
        recall_: share of the 10 nearest other items found for up to 256 fitted ones; 1.0 without an index.

    >>> from geoembed.distances import Euclidean
    >>> found = Neighbors(Euclidean()).fit(torch.tensor([[0.0], [1.0], [3.0]]))
    >>> distances, indices = found.kneighbors(torch.tensor([[2.5]]), k=2)
    >>> distances.tolist(), indices.tolist()
    ([[0.5, 1.5]], [[2, 1]])
    """

    def __init__(
        self,
        distance: Distance,
        *,
        index: str | None = None,
        budget: int = BUDGET,
        generator: torch.Generator | None = None,
    ):
        if index not in (None, "usearch"):
            raise UnknownNameError("index", index, ["usearch"])
        if index is not None and distance.embed_p != 2:
            raise DomainError(
                f"index={index!r} searches Euclidean vectors: the distance needs an `embed` with embed_p = 2, that of "
                f"{type(distance).__name__} is {distance.embed_p}. Leave the index out."
            )
        if budget <= 0:
            raise DomainError(f"budget must be a positive number of bytes, got {budget}")
        self.distance, self.index, self.budget, self.generator = distance, index, budget, generator

    @torch.no_grad()
    def fit(self, X: Items) -> "Neighbors":
        """Keep the items to search, embedded where the distance embeds vectors. X: (n, *E) or `PointSets`.

        Raises ShapeError or DomainError (naming the first bad row) for items that do not fit or are not finite.
        """
        check_items(self.distance, X, "X")
        if not len(X):
            raise DomainError("X holds no items: there is nothing to search")
        self.n_items_, self.items_ = len(X), X
        # sets are embedded in pairs of collections, for their sizes decide how; an index needs vectors now
        self._vectors = self.distance.embed_p is not None and (self.distance.event_dim == 1 or self.index is not None)
        self._items = self._prepared(X)
        self.recall_, self._graph = 1.0, cast(Any, None)
        if self.index is not None:
            self._graph = _graph(self._items)
            self.recall_ = self._probed()
        return self

    def kneighbors(self, Q: Items | None = None, k: int = 5) -> tuple[Tensor, Tensor]:
        """Distances (q, k), ascending, in the dtype of the items, and indices (q, k) of the k nearest fitted items.

        Q: (q, *E); None for the fitted items, each without itself. Raises DomainError if there are not k of them.
        """
        if not 1 <= k <= self._fitted() - (Q is None):
            most = self.n_items_ - (Q is None)
            raise DomainError(f"k must be from 1 to {most}, the number of items that can be found, got {k}")
        if self._graph is None:
            problem, skip = self._problem(Q)
            blocks = self._blocks(problem, skip)
            parts = [_nearest(*problem, rows, block, skip, k, self.budget) for rows, block in blocks]
        else:
            parts = [self._searched(Q, k)]
        empty = torch.zeros(0, k, dtype=self.items_.dtype, device=self.items_.device)
        distances, indices = zip((empty, empty.long()), *parts, strict=True)
        return torch.cat(distances).to(self.items_.dtype), torch.cat(indices)

    def radius_neighbors(self, Q: Items | None = None, *, radius: float) -> tuple[list[Tensor], list[Tensor]]:
        """For each query the distances, ascending, and the indices of all items at distance <= radius; always exact.

        Q: as in `kneighbors`.
        """
        if not radius >= 0:
            raise DomainError(f"radius must not be negative, got {radius}")
        self._fitted()
        problem, skip = self._problem(Q)
        distances: list[Tensor] = []
        indices: list[Tensor] = []
        for rows, block in self._blocks(problem, skip):
            i, j, d = _candidates(*problem, rows, block, skip, block.new_full((len(block), 1), radius), self.budget)
            inside = d <= radius
            counts = i[inside].bincount(minlength=len(block)).tolist()
            distances += d[inside].to(self.items_.dtype).split(counts)
            indices += j[inside].split(counts)
        return distances, indices

    # ------------------------------------------------------------------------------ parts

    def _fitted(self) -> int:
        if not hasattr(self, "n_items_"):
            raise DomainError("this Neighbors is not fitted yet: call fit(X) first")
        return self.n_items_

    def _prepared(self, x: Items) -> Any:
        return self.distance.embed(x).to(torch.promote_types(x.dtype, torch.float32)) if self._vectors else x

    @torch.no_grad()
    def _queries(self, Q: Items | None) -> Any:
        if Q is None:
            return self._items
        check_items(self.distance, Q, "Q")
        self.distance._checked(Q, self.items_, self.distance.event_dim + 1)
        return self._prepared(Q)

    def _problem(self, Q: Items | None) -> tuple[_Problem, Tensor | None]:
        """What `reduced` leaves of the search, and which item each query must not find: itself."""
        queries = self._queries(Q)
        distance = Norm(float(self.distance.embed_p or 0)) if self._vectors else self.distance
        skip = torch.arange(self.n_items_, device=queries.device) if Q is None else None
        return reduced(distance, queries, self._items), skip

    def _blocks(self, problem: _Problem, skip: Tensor | None) -> Iterator[tuple[slice, Tensor]]:
        return distance_blocks(*problem, skip=skip, budget=self.budget)

    def _searched(self, Q: Items | None, k: int, rows: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """k neighbours by the graph: its candidates, measured and ordered. rows: only these of the fitted items."""
        queries = self._queries(Q) if rows is None else self._items[rows]
        device = queries.device
        count = min(self.n_items_, OVERSAMPLE * k + (Q is None))
        if not len(queries):
            return queries.new_zeros(0, k), torch.zeros(0, k, dtype=torch.long, device=device)
        found = self._graph.search(_float32(queries), count)
        keys = torch.from_numpy(np.atleast_2d(found.keys).astype(np.int64)).to(device)
        # one query gives a list without counts; the graph may return fewer than asked for
        counts = torch.as_tensor(np.asarray(getattr(found, "counts", [keys.shape[1]])).astype(np.int64), device=device)
        real = torch.arange(keys.shape[1], device=device) < counts.unsqueeze(1)
        if Q is None:
            real &= keys != (torch.arange(self.n_items_, device=device) if rows is None else rows).unsqueeze(1)
        keys = keys.masked_fill(~real, -1).sort(1).values
        i, j = (keys >= 0).nonzero()[:, 0], keys[keys >= 0]
        i, j, d = _ordered(i, j, pair_distances(Norm(2.0), queries, self._items, i, j, self.budget))
        if int(real.sum(1).min()) < k:
            raise DomainError(f"the index found fewer than k={k} neighbours of some query. Use index=None.")
        return _first(i, j, d, k)

    def _probed(self) -> float:
        """Recall of the graph for some of the fitted items."""
        k = min(PROBED, self.n_items_ - 1)
        if not k:
            return 1.0
        rows = torch.randperm(self.n_items_, generator=self.generator)[:PROBES].to(self._items.device)
        found = self._searched(None, k, rows)[1]
        problem = reduced(Norm(2.0), self._items[rows], self._items)
        blocks = self._blocks(problem, rows)
        exact = torch.cat([_nearest(*problem, part, block, rows, k, self.budget)[1] for part, block in blocks])
        return float((found.unsqueeze(2) == exact.unsqueeze(1)).any(2).double().mean())


# ---------------------------------------------------------------------------------------------------------- selection


def _nearest(
    distance: Distance, u: Any, v: Any, rows: slice, block: Tensor, skip: Tensor | None, k: int, budget: int
) -> tuple[Tensor, Tensor]:
    """Distances and indices of the k nearest to each row of a block, (b, k)."""
    if block.device.type == "cpu":  # NumPy selects several times faster
        kth = torch.from_numpy(np.partition(block.numpy(), k - 1, axis=1)[:, k - 1 : k])
    else:
        kth = block.kthvalue(k, dim=1, keepdim=True).values
    return _first(*_candidates(distance, u, v, rows, block, skip, kth, budget), k)


def _candidates(
    distance: Distance, u: Any, v: Any, rows: slice, block: Tensor, skip: Tensor | None, limit: Tensor, budget: int
) -> tuple[Tensor, Tensor, Tensor]:
    """(i, j, distance) of the pairs of a block up to limit: (b, 1), ordered by row, then distance, then index.

    Where a matrix product made the block, a few pairs beyond the limit too.
    """
    euclidean = is_euclidean(distance)
    i, j = (block <= limit * (1 + SLACK[block.dtype] if euclidean else 1)).nonzero().unbind(1)
    if skip is not None:  # an infinite limit lets it in
        other = skip[rows][i] != j
        i, j = i[other], j[other]
    d = pair_distances(distance, u[rows], v, i, j, budget) if euclidean else block[i, j]
    return _ordered(i, j, d)


def _ordered(i: Tensor, j: Tensor, d: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Pairs given by row and index, ordered by row, then distance, then index."""
    order = d.argsort(stable=True)
    order = order[i[order].argsort(stable=True)]
    return i[order], j[order], d[order]


def _first(i: Tensor, j: Tensor, d: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """The first k of each row of ordered pairs, (b, k) distances and indices; every row has k or more."""
    place = torch.arange(len(i), device=i.device) - torch.searchsorted(i, i)
    return d[place < k].view(-1, k), j[place < k].view(-1, k)


# -------------------------------------------------------------------------------------------------------------- index


def _float32(x: Tensor) -> Any:
    return np.ascontiguousarray(x.detach().cpu().float().numpy())


def _graph(vectors: Tensor) -> Any:
    """An HNSW graph of the vectors."""
    try:
        from usearch.index import Index
    except ImportError as error:
        raise MissingDependencyError(
            "index='usearch' needs usearch. Install it with: pip install 'geoembed[ann]', or use index=None."
        ) from error
    graph = Index(ndim=vectors.shape[-1], metric="l2sq", dtype="f32")
    graph.add(np.arange(len(vectors), dtype=np.uint64), _float32(vectors), threads=torch.get_num_threads())
    return graph
