"""The queries of K-vs-all training: each (head, relation) with all of its tails.

Reference: Dettmers, Minervini, Stenetorp, Riedel, "Convolutional 2D knowledge graph embeddings", AAAI 2018,
arXiv:1707.01476.
"""

import torch
from torch import Tensor

from geoembed.data.draws import Tables, distinct, fresh
from geoembed.data.filters import check_ids
from geoembed.errors import ShapeError

__all__ = ["QueryGroups"]


class QueryGroups(Tables):
    """The distinct (head, relation) queries of a set of triples with all their tails: what a K-vs-all batch is cut of.

    heads, relations: (q,) sorted. tails: (m,), those of query i are tails[offsets[i] : offsets[i + 1]], sorted and each
    once. offsets: (q + 1,).
    """

    def __init__(self, heads: Tensor, relations: Tensor, offsets: Tensor, tails: Tensor):
        self.heads, self.relations, self.offsets, self.tails = heads, relations, offsets, tails

    @classmethod
    def from_triples(cls, directed: Tensor) -> "QueryGroups":
        """From int64 (n, 3) triples, such as `triples.with_inverses()`: their inverses are not added.

        >>> groups = QueryGroups.from_triples(torch.tensor([[0, 0, 2], [1, 0, 2], [0, 0, 1]]))
        >>> groups.heads.tolist(), groups.offsets.tolist(), groups.tails.tolist()
        ([0, 1], [0, 2, 3], [1, 2, 2])
        >>> groups.targets(torch.tensor([0]), n_entities=4)
        tensor([[0., 1., 1., 0.]])
        """
        if directed.dim() != 2 or directed.shape[1] != 3 or directed.dtype != torch.int64:
            raise ShapeError(f"expected int64 (n, 3), got {directed.dtype} {tuple(directed.shape)}")
        rows = distinct(directed)
        starts = fresh(rows[:, :2]).nonzero().squeeze(1)
        heads, relations = rows[starts, :2].unbind(1)
        return cls(heads, relations, torch.cat([starts, starts.new_tensor([len(rows)])]), rows[:, 2])

    def __len__(self) -> int:
        return len(self.heads)

    def positions(self, rows: Tensor) -> tuple[Tensor, Tensor]:
        """The ones of `targets`, sorted: (row (k,), tail (k,)).

        rows: int64 (B,), the queries of the batch, as places in `heads`. Many losses need no more: the sum of
        softplus(s) over all entities, less the sum of s over these.
        """
        check_ids(rows, len(self), "query")
        start = self.offsets[rows]
        count = self.offsets[rows + 1] - start
        row = torch.arange(len(rows), device=rows.device).repeat_interleave(count)
        # place k belongs to tails[start + (k - first place of its row)]
        shift = start - (count.cumsum(0) - count)
        return row, self.tails[shift[row] + torch.arange(len(row), device=rows.device)]

    def targets(self, rows: Tensor, n_entities: int, dtype: torch.dtype = torch.float32) -> Tensor:
        """(B, n_entities): 1 where the entity is a tail of the query, else 0. rows: as for `positions`."""
        row, tail = self.positions(rows)
        check_ids(tail, n_entities, "tail")
        targets = torch.zeros(len(rows), n_entities, dtype=dtype, device=rows.device)
        targets[row, tail] = 1
        return targets

    def __repr__(self) -> str:
        return f"QueryGroups({len(self):,} queries, {len(self.tails):,} tails)"
