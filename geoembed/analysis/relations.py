"""The relations of a graph side by side: how many triples, how much of a hierarchy, how deep, how many to how many.

Reference: Balazevic, Allen, Hospedales, "Multi-relational Poincare graph embeddings", NeurIPS 2019, arXiv:1905.09791,
who report triples, Krackhardt's score and the longest and mean path of each relation of WN18RR.
"""

from dataclasses import dataclass

import numpy as np
import torch

from geoembed.analysis.paths import PathLengths, krackhardt, path_lengths, simple_edges
from geoembed.data import Split, Triples
from geoembed.data.splits import SPLITS

__all__ = ["RelationSummary", "relation_table"]


@dataclass(frozen=True)
class RelationSummary:
    """One relation. triples: how many, each once. krackhardt: 1 = a hierarchy, 0 = symmetric. paths: of its graph.

    heads_per_tail: mean number of heads of a tail that occurs; tails_per_head likewise.
    symmetric: of the triples (h, r, t) with h != t, the share with (t, r, h) there too.
    All are 0 where there is nothing to take them of.
    """

    relation: str
    triples: int
    krackhardt: float
    paths: PathLengths
    heads_per_tail: float
    tails_per_head: float
    symmetric: float


def relation_table(
    triples: Triples, *splits: Split, sources: int | None = None, generator: torch.Generator | None = None
) -> list[RelationSummary]:
    """A summary of each relation, in the order of their ids, over the given splits (default: all three together).

    sources: estimate scores and paths from so many nodes of each relation, see `krackhardt`; None = exact.
    """
    rows = torch.cat([triples[split] for split in splits or SPLITS]).unique(dim=0)
    table = []
    for i, name in enumerate(triples.relations):
        head, _, tail = rows[rows[:, 1] == i].unbind(1)
        n_heads, n_tails = len(head.unique()), len(tail.unique())
        start, end, nodes = simple_edges(head, tail, triples.n_entities)
        n = len(nodes)
        table.append(
            RelationSummary(
                relation=name,
                triples=len(head),
                krackhardt=krackhardt(start, end, n, sources=sources, generator=generator),
                paths=path_lengths(start, end, n, sources=sources, generator=generator),
                heads_per_tail=len(head) / max(n_tails, 1),
                tails_per_head=len(head) / max(n_heads, 1),
                symmetric=float(np.isin(end * n + start, start * n + end).mean()) if n else 0.0,
            )
        )
    return table
