"""Hierarchies as the (child, ancestor) pairs of their transitive closure."""

import graphlib
import hashlib
import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.data.formats import MAX_BYTES, StrPath, Vocabulary, check_names, read_columns, stem, write_rows
from geoembed.data.queries import QueryGroups
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError

__all__ = ["Closure"]


@dataclass(frozen=True, eq=False, repr=False)
class Closure:
    """A hierarchy: which node lies below which, over all generations.

    nodes: names, sorted by code point; the position is the id. pairs: int64 (n, 2), columns child, ancestor, each
    pair once, no node its own ancestor. That the pairs are transitive is taken on trust; `depths` finds a cycle.
    """

    nodes: list[str]
    pairs: Tensor
    name: str = "closure"

    def __post_init__(self) -> None:
        for i, (a, b) in enumerate(itertools.pairwise(self.nodes)):
            if a >= b:
                raise DataError(f"node names must be sorted and differ: {a!r} comes before {b!r} at {i}")
        if self.pairs.dim() != 2 or self.pairs.shape[1] != 2 or self.pairs.dtype != torch.int64:
            raise ShapeError(f"pairs: expected int64 (n, 2), got {self.pairs.dtype} {tuple(self.pairs.shape)}")
        if len(self.pairs) and not 0 <= int(self.pairs.min()) <= int(self.pairs.max()) < len(self.nodes):
            raise DataError(f"pairs: ids must lie in [0, {len(self.nodes)})")
        own = self.pairs[:, 0] == self.pairs[:, 1]
        if own.any():
            node = self.nodes[int(self.pairs[own][0, 0])]
            raise DataError(f"{int(own.sum())} pairs make a node its own ancestor, the first: {node!r}")

    @classmethod
    def from_file(
        cls,
        path: StrPath,
        separator: str | None = None,
        *,
        header: bool = False,
        max_bytes: int = MAX_BYTES,
        name: str | None = None,
    ) -> "Closure":
        """Reads a table of two columns child, ancestor; the options are those of `Triples.from_files`."""
        ids = Vocabulary()
        blocks = [
            np.stack([ids.numbers(children), ids.numbers(ancestors)], 1)
            for children, ancestors in read_columns(
                path, ("child", "ancestor"), separator=separator, header=header, max_bytes=max_bytes
            )
        ]
        return cls._build(np.concatenate(blocks), ids, name or stem(path))

    @classmethod
    def from_pairs(cls, pairs: Iterable[Sequence[str]], *, name: str = "closure") -> "Closure":
        """From (child, ancestor) names.

        >>> Closure.from_pairs([("dog", "canine"), ("dog", "animal"), ("canine", "animal")])
        Closure('closure': 3 nodes, 3 pairs)
        """
        rows = []
        for i, row in enumerate(pairs):
            if isinstance(row, str) or len(row) != 2 or not all(isinstance(field, str) for field in row):
                raise DataError(f"pair {i}: expected two strings (child, ancestor), got {row!r}")
            rows.append(tuple(row))
        if not rows:
            raise DataError("a closure needs at least one pair")
        ids = Vocabulary()
        children, ancestors = zip(*rows, strict=True)
        numbers = np.stack([ids.numbers(children), ids.numbers(ancestors)], 1)
        check_names(ids, "node")
        return cls._build(numbers, ids, name)

    @classmethod
    def from_networkx(cls, graph: Any, *, name: str = "closure") -> "Closure":
        """The transitive closure of an acyclic graph whose edges go child -> parent; the nodes' names are their str().

        It may have several roots and parts; nodes without an edge are left out with a DataWarning. Raises DataError for
        a cycle or a self-loop, naming its nodes, an undirected graph, nodes with the same name, and no edge at all.

        >>> import networkx
        >>> Closure.from_networkx(networkx.DiGraph([("dog", "canine"), ("canine", "animal")]))
        Closure('closure': 3 nodes, 3 pairs)
        """
        if not graph.is_directed():
            raise DataError(
                "an undirected graph does not say who is above; build a networkx.DiGraph of child -> parent"
            )
        loop = next((node for node in graph if graph.has_edge(node, node)), None)
        if loop is not None:
            raise DataError(f"{loop!r} is its own parent; remove self-loops (networkx.selfloop_edges lists them)")
        if not graph.number_of_edges():
            raise DataError(f"a hierarchy needs at least one edge child -> parent, got {len(graph)} nodes without any")
        parents = {node: list(graph.successors(node)) for node in graph if graph.degree(node)}
        if len(parents) < len(graph):
            message = f"{len(graph) - len(parents):,} nodes without an edge were left out"
            warnings.warn(message, DataWarning, stacklevel=2)
        try:
            order = list(graphlib.TopologicalSorter(parents).static_order())  # ancestors first
        except graphlib.CycleError as error:
            cycle = " -> ".join(map(repr, reversed(error.args[1])))
            raise DataError(f"a hierarchy has no cycles, this one has {cycle} (child -> parent)") from None
        names = {node: str(node) for node in parents}
        if len(set(names.values())) < len(names):
            raise DataError("two nodes have the same str(), such as 1 and '1'; rename them with networkx.relabel_nodes")
        check_names(names.values(), "node")
        nodes = sorted(names.values())
        place = {node: i for i, node in enumerate(nodes)}
        above: dict[Any, np.ndarray] = {}
        blocks = []
        for node in order:
            direct = np.array([place[names[p]] for p in parents[node]], dtype=np.int64)
            above[node] = np.unique(np.concatenate([direct, *(above[p] for p in parents[node])]))
            blocks.append(np.stack([np.full_like(above[node], place[names[node]]), above[node]], 1))
        pairs = np.concatenate(blocks)
        pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
        return cls(nodes, torch.from_numpy(pairs), name)

    @classmethod
    def _build(cls, numbers: np.ndarray, ids: Vocabulary, name: str) -> "Closure":
        nodes, rank = ids.ranked()
        pairs = rank[numbers]
        first = np.sort(np.unique(pairs[:, 0] * len(nodes) + pairs[:, 1], return_index=True)[1])
        if len(first) < len(pairs):
            message = f"{len(pairs) - len(first):,} of {len(pairs):,} pairs are duplicates and were dropped"
            warnings.warn(message, DataWarning, stacklevel=3)
        return cls(nodes, torch.from_numpy(pairs[first]), name)

    @property
    def n_nodes(self) -> int:
        return len(self.nodes)

    def ancestors(self) -> QueryGroups:
        """The ancestors of the nodes that have any: those of node heads[i] are tails[offsets[i] : offsets[i + 1]].

        >>> closure = Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b")])
        >>> groups = closure.ancestors()
        >>> groups.heads.tolist(), groups.offsets.tolist(), groups.tails.tolist()
        ([1, 2], [0, 1, 3], [0, 0, 1])
        """
        child, ancestor = self.pairs.unbind(1)
        return QueryGroups.from_triples(torch.stack([child, torch.zeros_like(child), ancestor], 1))

    def depths(self) -> Tensor:
        """Length of the longest chain from each node up to a root, 0 for a root: int64 (n,).

        In a tree the number of edges to the root. Raises DataError for a cycle, naming one of its nodes.
        """
        depth = torch.full((self.n_nodes,), -1)
        child, ancestor = self.pairs.unbind(1)
        waits = child.bincount(minlength=self.n_nodes)  # for so many ancestors
        level = 0
        ready = waits == 0
        while ready.any():
            depth[ready] = level
            waits -= child[ready[ancestor]].bincount(minlength=self.n_nodes)
            level, ready = level + 1, (waits == 0) & (depth < 0)
        if (depth < 0).any():
            raise DataError(f"a hierarchy has no cycles, here {self._in_cycle(depth < 0)!r} is above itself")
        return depth

    def _in_cycle(self, stuck: Tensor) -> str:
        """A node of a cycle, given the nodes on cycles or below them: a walk up among them comes round."""
        inside = self.pairs[stuck[self.pairs].all(1)]
        up = dict(inside.tolist())
        node, seen = next(iter(up)), set()
        while node not in seen:
            seen.add(node)
            node = up[node]
        return self.nodes[node]

    def parents(self) -> Tensor:
        """The pairs with nothing between them, the edges of the hierarchy: int64 (m, 2), child, parent, sorted."""
        return self._divided()[0]

    def hold_out(self, share: float, generator: torch.Generator | None = None) -> tuple["Closure", Tensor]:
        """(closure without some pairs, those pairs (m, 2)), m = share of all pairs, rounded, drawn at random.

        Only pairs that follow from others, child - between - ancestor, are held out, so what is left still says all
        (O.-E. Ganea, G. Becigneul, T. Hofmann, "Hyperbolic Entailment Cones for Learning Hierarchical Embeddings", ICML
        2018, arXiv 1804.01882, section 5). Raises DomainError for more pairs than follow.
        """
        direct, follow = self._divided()
        m = round(share * len(self.pairs))
        if not 0 < m <= len(follow):
            raise DomainError(
                f"share must leave 1 to {len(follow)} of {len(self.pairs)} pairs out, those that follow from others; "
                f"got {share}, which is {m} pairs"
            )
        order = torch.randperm(len(follow), generator=generator)
        kept = torch.cat([direct, follow[order[m:].sort()[0]]])
        return Closure(self.nodes, kept, self.name), follow[order[:m].sort()[0]]

    def _divided(self) -> tuple[Tensor, Tensor]:
        """(pairs with nothing between them, the others), each sorted."""
        from scipy.sparse import csr_array  # only here: loading data needs no scipy

        if not len(self.pairs):
            return self.pairs, self.pairs
        child, ancestor = self.pairs.numpy().T
        shape = (self.n_nodes, self.n_nodes)
        above = csr_array((np.ones(len(child), dtype=np.int32), (child, ancestor)), shape=shape)
        between = (above @ above)[child, ancestor]  # how many nodes lie between
        between = torch.from_numpy(np.asarray(between).ravel())
        order = (self.pairs[:, 0] * self.n_nodes + self.pairs[:, 1]).argsort()
        pairs, follows = self.pairs[order], (between > 0)[order]
        return pairs[~follows], pairs[follows]

    def counts(self) -> dict[str, int]:
        return {"nodes": len(self.nodes), "pairs": len(self.pairs)}

    def fingerprint(self) -> str:
        """SHA-256 over nodes and pairs, in their order."""
        digest = hashlib.sha256(b"geoembed closure 1\n%d\n" % len(self.nodes))
        digest.update("".join(f"{name}\n" for name in self.nodes).encode())
        digest.update(np.ascontiguousarray(self.pairs.cpu().numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()

    def write(self, path: StrPath) -> None:
        """Writes "child<TAB>ancestor" lines (CSV for .csv), gzip where the name ends in .gz, atomically."""
        check_names(self.nodes, "node")
        write_rows(path, ((self.nodes[child], self.nodes[ancestor]) for child, ancestor in self.pairs.tolist()))

    def __repr__(self) -> str:
        return f"Closure({self.name!r}: {len(self.nodes):,} nodes, {len(self.pairs):,} pairs)"
