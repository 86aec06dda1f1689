"""Which answers of a query are known already: what filtered ranking leaves out of the candidates."""

import torch
from torch import Tensor

from geoembed.errors import DomainError, ShapeError

__all__ = ["Filter"]


class Filter:
    """The known tails of every (head, relation) query, inverse relations included, as sorted keys and one flat list.

    keys: (q,) sorted, head * 2 n_relations + relation. offsets: (q + 1,). answers: (m,) the tails of query i are
    answers[offsets[i] : offsets[i + 1]], sorted and each once.
    """

    def __init__(self, keys: Tensor, offsets: Tensor, answers: Tensor, n_relations: int):
        self.keys, self.offsets, self.answers, self.n_relations = keys, offsets, answers, n_relations

    @classmethod
    def from_triples(cls, triples: Tensor, n_relations: int) -> "Filter":
        """From (n, 3) triples, without their inverses and with or without duplicates."""
        head, relation, tail = triples.unbind(1)
        check_ids(relation, n_relations, "relation")
        keys = torch.cat([head, tail]) * (2 * n_relations) + torch.cat([relation, relation + n_relations])
        answers = torch.cat([tail, head])
        answers, order = answers.sort(stable=True)
        keys, again = keys[order].sort(stable=True)
        answers = answers[again]
        fresh = torch.ones_like(keys, dtype=torch.bool)
        fresh[1:] = (keys[1:] != keys[:-1]) | (answers[1:] != answers[:-1])
        keys, counts = keys[fresh].unique_consecutive(return_counts=True)
        return cls(keys, torch.cat([counts.new_zeros(1), counts.cumsum(0)]), answers[fresh], n_relations)

    def tails(self, heads: Tensor, relations: Tensor) -> tuple[Tensor, Tensor]:
        """All known tails of each query, flat: (row (k,), entity (k,)), sorted by row, then by entity.

        heads, relations: int64 (b,); a relation >= n_relations asks for the inverse. A query without a known answer
        has no rows.

        >>> from geoembed.data import Triples
        >>> graph = Triples.from_triples([("a", "r", "b"), ("a", "r", "c"), ("b", "r", "c")])
        >>> rows, entities = graph.known().tails(torch.tensor([0, 2]), torch.tensor([0, 1]))
        >>> rows.tolist(), entities.tolist()  # a r -> b, c;  c inverse(r) -> a, b
        ([0, 0, 1, 1], [1, 2, 0, 1])
        """
        if heads.shape != relations.shape or heads.dim() != 1:
            raise ShapeError(f"expected heads and relations (b,), got {tuple(heads.shape)}, {tuple(relations.shape)}")
        check_ids(relations, 2 * self.n_relations, "relation")
        rows = torch.arange(len(heads), dtype=torch.int64, device=heads.device)
        if not len(self.keys):
            return rows[:0], rows[:0]
        queries = heads * (2 * self.n_relations) + relations
        place = torch.searchsorted(self.keys, queries).clamp_(max=len(self.keys) - 1)
        start = self.offsets[place]
        count = torch.where(self.keys[place] == queries, self.offsets[place + 1] - start, 0)
        rows = rows.repeat_interleave(count)
        # position k belongs to answers[start + (k - first position of its row)]
        shift = start - (count.cumsum(0) - count)
        return rows, self.answers[shift[rows] + torch.arange(len(rows), device=rows.device)]

    def to(self, device: torch.device | str) -> "Filter":
        return Filter(self.keys.to(device), self.offsets.to(device), self.answers.to(device), self.n_relations)

    def __repr__(self) -> str:
        return f"Filter({len(self.keys):,} queries, {len(self.answers):,} answers)"


def check_ids(ids: Tensor, size: int, what: str) -> None:
    """Raises `DomainError` for an id outside [0, size)."""
    bad = (ids < 0) | (ids >= size)
    if bad.any():
        i = int(bad.nonzero()[0])
        raise DomainError(
            f"{what} ids must lie in [0, {size}); {int(bad.sum())} do not, the first is {int(ids[i])} at {i}"
        )
