"""Hierarchies as the (child, ancestor) pairs of their transitive closure."""

import hashlib
import itertools
import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from geoembed.data.formats import MAX_BYTES, StrPath, Vocabulary, check_names, read_columns, stem, write_rows
from geoembed.errors import DataError, DataWarning, ShapeError

__all__ = ["Closure"]


@dataclass(frozen=True, eq=False, repr=False)
class Closure:
    """A hierarchy: which node lies below which, over all generations.

    nodes: names, sorted by code point; the position is the id. pairs: int64 (n, 2), columns child, ancestor, each
    pair once, no node its own ancestor. That the pairs are transitive is taken on trust.
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
