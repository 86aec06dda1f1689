"""Multi-relational graphs: triples (head, relation, tail), their vocabulary, and the filter that ranking needs.

Ids are positions in vocabularies sorted by code point, so neither the order of a file nor that of its splits changes
them. The vocabulary covers all splits: an entity that occurs only in valid or test is kept and scored, and counted
(`unseen`), never dropped. Rows keep the order of their file.

Reciprocal relations: the inverse of relation r is r + n_relations, so "which head?" is "which tail?" of the inverse,
and a query is always a (head, relation) pair with 0 <= relation < 2 n_relations.
"""

import hashlib
import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.data.builders import collect, edges, read_files
from geoembed.data.filters import Filter, check_ids
from geoembed.data.formats import MAX_BYTES, StrPath, check_names, listing, stem, write_rows
from geoembed.data.rdf import Literals, read_rdf
from geoembed.data.splits import SPLITS, TABLE_SUFFIXES, Split, hold_out, is_rdf, split_files
from geoembed.errors import DataError, ShapeError, UnknownNameError

__all__ = ["SPLITS", "Split", "Triples"]


@dataclass(frozen=True, eq=False, repr=False)
class Triples:
    """A graph as integer triples with a vocabulary, in up to three splits.

    entities, relations: names, sorted by code point; the position is the id.
    train, valid, test: int64 (n, 3), columns head, relation, tail; valid and test may have no rows.
    """

    entities: list[str]
    relations: list[str]
    train: Tensor
    valid: Tensor
    test: Tensor
    name: str = "triples"

    def __post_init__(self) -> None:
        for what, names in (("entity", self.entities), ("relation", self.relations)):
            for i, (a, b) in enumerate(itertools.pairwise(names)):
                if a >= b:
                    raise DataError(f"{what} names must be sorted and differ: {a!r} comes before {b!r} at {i}")
        for split in SPLITS:
            rows = self[split]
            if rows.dim() != 2 or rows.shape[1] != 3 or rows.dtype != torch.int64:
                raise ShapeError(f"{split}: expected int64 (n, 3), got {rows.dtype} {tuple(rows.shape)}")
            check_ids(rows[:, 0], self.n_entities, f"{split} head")
            check_ids(rows[:, 1], self.n_relations, f"{split} relation")
            check_ids(rows[:, 2], self.n_entities, f"{split} tail")

    # -------------------------------------------------------------------------------------------------- constructors

    @classmethod
    def from_files(
        cls,
        train: StrPath,
        valid: StrPath | None = None,
        test: StrPath | None = None,
        columns: str = "hrt",
        separator: str | None = None,
        *,
        header: bool = False,
        max_bytes: int = MAX_BYTES,
        name: str | None = None,
    ) -> "Triples":
        """Reads text files of three columns, gzip where the name ends in .gz.

        columns: the order of the columns, such as "htr". separator: None = a comma for .csv, else a tab.
        header: whether to skip the first line. max_bytes: the most a file may hold after unpacking.

        Raises `DataError` with file and line for a file that is not such a table. Duplicate triples of a split are
        dropped, triples of valid or test that also stand in an earlier split are kept; a `DataWarning` counts each.
        """
        builder = read_files((train, valid, test), columns, separator=separator, header=header, max_bytes=max_bytes)
        return cls(*builder.tables(), name=name or stem(train))

    @classmethod
    def from_rdf(
        cls,
        train: StrPath,
        valid: StrPath | None = None,
        test: StrPath | None = None,
        *,
        format: str | None = None,
        prefixes: Mapping[str, str] | None = None,
        literals: Literals = "skip",
        graph: str | None = None,
        base: str | None = None,
        max_bytes: int = MAX_BYTES,
        name: str | None = None,
    ) -> "Triples":
        """Reads RDF: N-Triples, N-Quads, Turtle, TriG or RDF/XML, gzip where the name ends in .gz.

        format: "nt", "nq", "ttl", "trig" or "rdf" (RDF/XML); None = by the name of each file.
        prefixes: prefix -> namespace; an IRI of a namespace, the longest that fits, is named prefix:rest, any other
            in full. Prefixes that a file declares do not count: names are the same whatever the file is written in.
        literals: "skip" leaves triples with a literal as object out, and a `DataWarning` counts them; "keep" makes
            entities of the literals, named in N-Triples form, such as "Oslo"@no.
        graph: the IRI of the only named graph to read; None = all graphs, as one.
        base: the IRI that relative ones start from. max_bytes: the most a file may hold after unpacking.

        A blank node is named by its label, _:label, the same node in all files; one without, by its place: _:[0].

        Raises `DataError` with file and line for a file that is not RDF, or without a triple of this kind;
        `MissingDependencyError` without the package pyoxigraph. Duplicates are treated as by `from_files`.
        """
        builder = read_rdf((train, valid, test), format, prefixes, literals, graph, base, max_bytes)
        return cls(*builder.tables(), name=name or stem(train))

    @classmethod
    def from_folder(cls, path: StrPath, *, name: str | None = None, **options: Any) -> "Triples":
        """Reads train, valid and test from a folder: .tsv, .txt, .csv or RDF, perhaps .gz; only train must be there.

        options: those of `from_files`, or of `from_rdf` where train is RDF.
        """
        folder = Path(path)
        files = split_files(folder)
        if "train" not in files:
            raise DataError(f"{folder}: expected a file train.tsv (or .txt, .csv, .nt, .ttl, .gz); {listing(folder)}")
        read: Callable[..., Triples] = cls.from_rdf if is_rdf(files["train"]) else cls.from_files
        return read(*map(files.get, SPLITS), name=name or folder.resolve().name, **options)

    @classmethod
    def from_triples(
        cls,
        train: Iterable[Sequence[str]],
        valid: Iterable[Sequence[str]] = (),
        test: Iterable[Sequence[str]] = (),
        *,
        name: str = "triples",
    ) -> "Triples":
        """From (head, relation, tail) names.

        >>> Triples.from_triples([("oslo", "capital_of", "norway"), ("norway", "borders", "sweden")])
        Triples('triples': 3 entities, 2 relations, train 2, valid 0, test 0)
        """
        return cls(*collect((train, valid, test)).tables(), name=name)

    @classmethod
    def from_networkx(
        cls,
        graph: Any,
        relation: str = "relation",
        *,
        default: str | None = None,
        split: str | None = None,
        name: str | None = None,
    ) -> "Triples":
        """From a directed networkx graph; nodes become entities, under the name str(node).

        relation: the edge attribute that names the relation; an edge of a multigraph without it uses its key, if
        that is a string. default: the relation of an edge that has neither. split: the edge attribute that says
        "train", "valid" or "test"; None = all edges are train (see `split`).
        """
        return cls.from_triples(**edges(graph, relation, default, split), name=name or str(graph.name or "triples"))

    # ------------------------------------------------------------------------------------------------------ contents

    def __getitem__(self, split: Split) -> Tensor:
        """The triples of a split, by its name: (n, 3)."""
        if split not in SPLITS:
            raise UnknownNameError("split", split, SPLITS)
        return getattr(self, split)

    @property
    def n_entities(self) -> int:
        return len(self.entities)

    @property
    def n_relations(self) -> int:
        """Without the inverses: relation ids of queries go up to 2 n_relations."""
        return len(self.relations)

    @cached_property
    def entity_ids(self) -> Mapping[str, int]:
        """name -> id; raises `UnknownNameError` for a name that is not there."""
        return _Ids("entity", self.entities)

    @cached_property
    def relation_ids(self) -> Mapping[str, int]:
        """name -> id; raises `UnknownNameError` for a name that is not there."""
        return _Ids("relation", self.relations)

    def counts(self) -> dict[str, int]:
        """Entities, relations, and triples of each split."""
        sizes = {"entities": self.n_entities, "relations": self.n_relations}
        return sizes | {split: len(self[split]) for split in SPLITS}

    def with_inverses(self, split: Split = "train") -> Tensor:
        """The triples of a split, then their reversals (t, r + n_relations, h): (2n, 3)."""
        rows = self[split]
        head, relation, tail = rows.unbind(1)
        return torch.cat([rows, torch.stack([tail, relation + self.n_relations, head], 1)])

    def known(self, *splits: Split) -> "Filter":
        """The known answers to every query, from the given splits (default: all three), in both directions."""
        if not splits:
            return self._known
        return Filter.from_triples(torch.cat([self[split] for split in splits]), self.n_relations)

    @cached_property
    def _known(self) -> "Filter":
        """Of all three splits, kept: every evaluation asks for it."""
        return self.known(*SPLITS)

    def unseen(self, split: Split) -> Tensor:
        """The sorted ids of the entities of a split that occur in no training triple: (k,)."""
        ids = self[split][:, [0, 2]].unique()
        return ids[~torch.isin(ids, self.train[:, [0, 2]])]

    def has_unseen(self, split: Split) -> Tensor:
        """Which triples of a split have an end that occurs in no training triple: bool (n,)."""
        return torch.isin(self[split][:, [0, 2]], self.unseen(split)).any(1)

    def fingerprint(self) -> str:
        """SHA-256 over vocabulary and splits, in their order: the same where ids and training batches are the same."""
        digest = hashlib.sha256(b"geoembed triples 1\n")
        for names in (self.entities, self.relations):
            digest.update(b"%d\n" % len(names))
            digest.update("".join(f"{name}\n" for name in names).encode())
        for split in SPLITS:
            digest.update(b"%d\n" % len(self[split]))
            digest.update(np.ascontiguousarray(self[split].cpu().numpy(), dtype="<i8").tobytes())
        return digest.hexdigest()

    def __repr__(self) -> str:
        sizes = self.counts()
        splits = ", ".join(f"{split} {sizes[split]:,}" for split in SPLITS)
        return f"Triples({self.name!r}: {self.n_entities:,} entities, {self.n_relations:,} relations, {splits})"

    # ----------------------------------------------------------------------------------------------- transformations

    def split(
        self, valid: float | int = 0.1, test: float | int = 0.1, generator: torch.Generator | None = None
    ) -> "Triples":
        """Moves random training triples to valid and test; train keeps every entity and every relation.

        valid, test: shares of all triples (float below 1) or numbers of triples (int).

        A triple whose head, tail or relation would lose its last training triple stays in train, so the triples held
        out are those of better connected entities. Raises `DataError` where fewer can leave than asked for. A graph
        that lists an edge in both directions, or under two relations, leaks its test answers: this cannot know.
        """
        if len(self.valid) or len(self.test):
            raise DataError(f"{self!r} is split already")
        parts = hold_out(self.train, valid, test, generator)
        return replace(self, train=parts[0], valid=parts[1], test=parts[2])

    def names(self, triples: Tensor) -> list[tuple[str, str, str]]:
        """The names of integer triples (n, 3), without inverse relations."""
        return [(self.entities[h], self.relations[r], self.entities[t]) for h, r, t in triples.tolist()]

    def to_networkx(self) -> Any:
        """A networkx.MultiDiGraph: the relation is key and attribute `relation` of an edge, its split is `split`.

        A triple that stands in two splits is one edge and has the first of them. `from_networkx(graph, split="split")`
        leads back.
        """
        import networkx as nx

        graph = nx.MultiDiGraph(name=self.name)
        graph.add_nodes_from(self.entities)
        for split in reversed(SPLITS):
            for head, relation, tail in self.names(self[split]):
                graph.add_edge(head, tail, key=relation, relation=relation, split=split)
        return graph

    def write(self, folder: StrPath, suffix: str = ".tsv") -> None:
        """Writes train, valid and test (where they have rows) into a folder, each file atomically.

        suffix: .tsv, .txt or .csv, perhaps with .gz. `from_folder` reads the same triples back.
        """
        if suffix not in TABLE_SUFFIXES:
            raise DataError(f"suffix must be one of {', '.join(TABLE_SUFFIXES)}; got {suffix!r}")
        check_names(self.entities, "entity")
        check_names(self.relations, "relation")
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        paths = {split: folder / (split + suffix) for split in SPLITS if len(self[split])}
        foreign = set(split_files(folder).values()) - set(paths.values())
        if foreign:
            raise DataError(f"{folder} holds splits of another graph: {', '.join(sorted(p.name for p in foreign))}")
        for split, path in paths.items():
            write_rows(path, self.names(self[split]))


class _Ids(dict[str, int]):
    def __init__(self, kind: str, names: list[str]):
        super().__init__(zip(names, range(len(names)), strict=True))
        self.kind = kind

    def __missing__(self, name: str) -> int:
        raise UnknownNameError(self.kind, name, self)
