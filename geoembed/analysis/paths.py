"""The directed paths of a graph, counted exactly: Krackhardt's hierarchy and the lengths of shortest paths.

    Khs = #{i -> j without j -> i} / #{i -> j}      over ordered pairs i != j, where i -> j: a path leads from i to j

Khs is 1 for a graph without cycles, 0 for a symmetric one. Self-loops and repeated edges change nothing.

Breadth-first search from 64 nodes at a time: a node keeps one bit for each start, and a step takes the "or" of the
words of the nodes before it. Krackhardt's score asks only what is reached, so there each strongly connected component
is one node, and long cycles cost nothing.

References: Krackhardt, "Graph theoretical dimensions of informal organizations", 1994; Balazevic, Allen, Hospedales,
"Multi-relational Poincare graph embeddings", NeurIPS 2019, arXiv:1905.09791 (both numbers, of the relations of WN18RR).
"""

import itertools
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geoembed.data.filters import check_ids
from geoembed.errors import DomainError, ShapeError

__all__ = ["Ids", "Ints", "PathLengths", "adjacency", "krackhardt", "path_lengths", "simple_edges", "waves"]

Ints = NDArray[np.int64]
Ids = Tensor | NDArray[np.integer]

BUDGET = 1 << 23  # bytes of the words that `waves` works on at a time: larger is slower, they leave the cache


class PathLengths(NamedTuple):
    """longest, mean: of the shortest paths between `pairs` ordered pairs of nodes; all zero without a path."""

    longest: int
    mean: float
    pairs: int


def krackhardt(
    source: Ids, target: Ids, n: int, *, sources: int | None = None, generator: torch.Generator | None = None
) -> float:
    """Krackhardt's hierarchy of a directed graph: of the pairs with a path i -> j, the share without a path j -> i.

    source, target: integers (m,), the ends of the edges, below n. 0 for a graph without a path.
    sources: estimate from the paths that start at so many nodes, drawn from those with an edge out; None = exact.

    Raises `ShapeError` for ends that are not two equally long lists of integers, `DomainError` for ids not below n.

    >>> krackhardt(torch.tensor([0, 1, 1]), torch.tensor([1, 0, 2]), 3)  # of 0-1, 1-0, 0-2, 1-2 two are one way
    0.5
    """
    source, target, nodes = simple_edges(source, target, n)
    part = connected_components(adjacency(source, target, len(nodes)), connection="strong")[1].astype(np.int64)
    size = np.bincount(part)
    starts = part[_starts(source, sources, generator)]
    between = part[source] != part[target]
    mutual = int((size[starts] - 1).sum())
    one_way = 0
    for _, _, reached, words in waves(part[source[between]], part[target[between]], len(size), starts):
        one_way += int(size[reached] @ _ones(words))
    return one_way / (mutual + one_way) if mutual + one_way else 0.0


def path_lengths(
    source: Ids, target: Ids, n: int, *, sources: int | None = None, generator: torch.Generator | None = None
) -> PathLengths:
    """The longest and the mean of the directed shortest path lengths, over all pairs i != j with a path i -> j.

    Arguments and errors are those of `krackhardt`. From a sample of sources, `longest` is a lower bound.

    >>> path_lengths(torch.tensor([0, 1, 2]), torch.tensor([1, 2, 3]), 4)
    PathLengths(longest=3, mean=1.6666666666666667, pairs=6)
    """
    source, target, nodes = simple_edges(source, target, n)
    longest = total = pairs = 0
    for _, distance, _, words in waves(source, target, len(nodes), _starts(source, sources, generator)):
        count = int(_ones(words).sum())
        longest, total, pairs = max(longest, distance), total + distance * count, pairs + count
    return PathLengths(longest, total / pairs if pairs else 0.0, pairs)


def simple_edges(source: Ids, target: Ids, n: int) -> tuple[Ints, Ints, Ints]:
    """The edges without self-loops and repetitions, their ends numbered anew by their place in the third: nodes (k,).

    source, target: integers (m,) below n. The nodes are sorted; those without an edge are left out.
    """
    ends = [np.asarray(ids.cpu() if isinstance(ids, Tensor) else ids) for ids in (source, target)]
    if any(ids.ndim != 1 or not np.issubdtype(ids.dtype, np.integer) for ids in ends) or len(ends[0]) != len(ends[1]):
        came = " and ".join(f"{ids.dtype} {ids.shape}" for ids in ends)
        raise ShapeError(f"expected source and target as integers (m,), the two ends of each edge; got {came}")
    start, end = (ids.astype(np.int64) for ids in ends)
    check_ids(torch.from_numpy(start), n, "source")
    check_ids(torch.from_numpy(end), n, "target")
    keys = np.unique((start * n + end)[start != end])
    nodes, places = np.unique(np.stack([keys // n, keys % n]), return_inverse=True)
    start, end = places.reshape(2, -1)
    return start, end, nodes


def adjacency(source: Ints, target: Ints, n: int) -> Any:
    """The sparse matrix with a one at (source, target): (n, n)."""
    return coo_array((np.ones(len(source), np.int8), (source, target)), (n, n)).tocsr()


def waves(source: Ints, target: Ints, n: int, starts: Ints) -> Iterator[tuple[slice, int, Ints, NDArray[np.uint64]]]:
    """Breadth-first search from each of the starts (k,), which may repeat: (block, distance, nodes, words) at a time.

    block: the starts that this is about. nodes (j,): those that some of them reach first at this distance >= 1.
    words (j, w): bit i of row b tells whether start i of the block does (bit i % 64 of word i // 64).
    """
    order = np.argsort(target, kind="stable")
    source, target = source[order], target[order]
    width = 64 * max(1, BUDGET // (8 * (2 * n + len(source) + 1)))
    for first in range(0, len(starts), width):
        block = slice(first, first + width)
        bit = np.arange(len(starts[block]))
        new: NDArray[np.uint64] = np.zeros((n, -(-len(bit) // 64)), "<u8")
        np.bitwise_or.at(new, (starts[block], bit // 64), np.uint64(1) << (bit % 64).astype(np.uint64))
        seen, active = new.copy(), np.isin(np.arange(n), starts[block])
        for distance in itertools.count(1):
            live = active[source]
            if not live.any():
                break
            before, after = source[live], target[live]
            heads = np.flatnonzero(np.diff(after, prepend=-1))  # the edges are sorted by their target
            nodes = after[heads]
            words = np.bitwise_or.reduceat(new[before], heads) & ~seen[nodes]
            fresh = np.any(words, axis=1)
            if not fresh.any():
                break
            nodes, words = nodes[fresh], words[fresh]
            active[:] = False
            active[nodes] = True
            new[nodes] = words  # rows of nodes that are not active are never read
            seen[nodes] |= words
            yield block, distance, nodes, words


def _ones(words: NDArray[np.uint64]) -> Ints:
    """The number of ones in each row. (j, w) -> (j,)."""
    return np.bitwise_count(words).sum(1, dtype=np.int64)


def _starts(source: Ints, sources: int | None, generator: torch.Generator | None) -> Ints:
    """All nodes with an edge out, or so many of them at random."""
    starts = np.unique(source)
    if sources is None:
        return starts
    if sources < 1:
        raise DomainError(f"sources: expected a number of nodes to start from, at least 1, or None; got {sources}")
    return starts[torch.randperm(len(starts), generator=generator)[:sources].numpy()]
