"""Multi-relational graphs: triples (head, relation, tail), their vocabulary, and the filter that ranking needs.

Ids are positions in vocabularies sorted by code point, so neither the order of a file nor that of its splits changes
them. The vocabulary covers all splits: an entity that occurs only in valid or test is kept and scored, and counted
(`unseen`), never dropped. Rows keep the order of their file.

Reciprocal relations: the inverse of relation r is r + n_relations, so "which head?" is "which tail?" of the inverse,
and a query is always a (head, relation) pair with 0 <= relation < 2 n_relations.
"""

import hashlib
import itertools
import math
import warnings
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from geoembed.data.filters import Filter, check_ids
from geoembed.data.formats import (
    MAX_BYTES,
    StrPath,
    Vocabulary,
    check_names,
    listing,
    read_columns,
    stem,
    write_rows,
)
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError

__all__ = ["SPLITS", "Triples"]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
COLUMNS = {"h": "head", "r": "relation", "t": "tail"}
SUFFIXES = (".tsv", ".txt", ".csv", ".tsv.gz", ".txt.gz", ".csv.gz")


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
        if sorted(columns) != ["h", "r", "t"]:
            raise DataError(f"columns must be the letters h, r and t in the order of the file, got {columns!r}")
        ids = Vocabulary(), Vocabulary()
        splits = {}
        for split, path in zip(SPLITS, (train, valid, test), strict=True):
            if path is None:
                continue
            blocks = []
            for fields in read_columns(
                path, [COLUMNS[c] for c in columns], separator=separator, header=header, max_bytes=max_bytes
            ):
                block = dict(zip(columns, fields, strict=True))
                blocks.append(_number(block["h"], block["r"], block["t"], *ids))
            splits[split] = np.concatenate(blocks)
        return _build(splits, *ids, name=name or stem(train))

    @classmethod
    def from_folder(cls, path: StrPath, *, name: str | None = None, **options: Any) -> "Triples":
        """Reads train, valid and test from a folder: .txt, .tsv or .csv, perhaps .gz; only train must be there.

        options: `columns`, `separator`, `header` and `max_bytes` of `from_files`.
        """
        folder = Path(path)
        files = split_files(folder)
        if "train" not in files:
            raise DataError(f"{folder}: expected a file train.tsv (or .txt, .csv, .gz); {listing(folder)}")
        return cls.from_files(
            files["train"], files.get("valid"), files.get("test"), name=name or folder.resolve().name, **options
        )

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
        ids = Vocabulary(), Vocabulary()
        splits = {}
        for split, rows in zip(SPLITS, (train, valid, test), strict=True):
            fields: tuple[list[str], list[str], list[str]] = ([], [], [])
            for i, row in enumerate(rows):
                if isinstance(row, str) or len(row) != 3 or not all(isinstance(field, str) for field in row):
                    raise DataError(f"{split} triple {i}: expected three strings (head, relation, tail), got {row!r}")
                for column, field in zip(fields, row, strict=True):
                    column.append(field)
            splits[split] = _number(*fields, *ids)
        check_names(ids[0], "entity")
        check_names(ids[1], "relation")
        if not len(splits["train"]):
            raise DataError("train has no triples")
        return _build(splits, *ids, name=name)

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
        if not graph.is_directed():
            raise DataError(
                "the edges of an undirected graph have no head and tail; pass graph.to_directed() to have each edge "
                "in both directions, or build a networkx.DiGraph or MultiDiGraph"
            )
        names = {node: str(node) for node in graph}
        if len(set(names.values())) < len(names):
            raise DataError("two nodes have the same str(), such as 1 and '1'; rename them with networkx.relabel_nodes")
        rows: dict[str, list[tuple[str, str, str]]] = {key: [] for key in SPLITS}
        edges = graph.edges(keys=True, data=True) if graph.is_multigraph() else graph.edges(data=True)
        for head, tail, *key, data in edges:
            label = data.get(relation, key[0] if key and isinstance(key[0], str) else default)
            if not isinstance(label, str):
                raise DataError(
                    f"edge {head!r} -> {tail!r}: expected a string in the attribute {relation!r}, got {label!r}; set "
                    "it, name another attribute with relation=, or give all such edges one relation with default="
                )
            part = "train" if split is None else data.get(split)
            if part not in rows:
                raise DataError(
                    f"edge {head!r} -> {tail!r}: {split!r} must be one of {', '.join(SPLITS)}; got {part!r}"
                )
            rows[part].append((names[head], label, names[tail]))
        lone = sum(1 for _, degree in graph.degree() if degree == 0)
        if lone:
            warnings.warn(f"{lone:,} nodes without an edge were left out", DataWarning, stacklevel=2)
        return cls.from_triples(**rows, name=name or str(graph.name or "triples"))

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
        rows = torch.cat([self[split] for split in splits or SPLITS])
        return Filter.from_triples(rows, self.n_relations)

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
        total = len(self.train)
        sizes = {"valid": _share(valid, total, "valid"), "test": _share(test, total, "test")}
        wanted = sum(sizes.values())
        left = torch.bincount(self.train[:, [0, 2]].flatten(), minlength=self.n_entities).tolist()
        uses = torch.bincount(self.train[:, 1], minlength=self.n_relations).tolist()
        order = torch.randperm(total, generator=generator)
        chosen: list[int] = []
        for row, (head, relation, tail) in zip(order.tolist(), self.train[order].tolist(), strict=True):
            if len(chosen) == wanted:
                break
            left[head] -= 1
            left[tail] -= 1
            uses[relation] -= 1
            if left[head] and left[tail] and uses[relation]:
                chosen.append(row)
            else:
                left[head] += 1
                left[tail] += 1
                uses[relation] += 1
        if len(chosen) < wanted:
            raise DataError(
                f"asked for {sizes['valid']:,} valid and {sizes['test']:,} test triples, but only {len(chosen):,} of "
                f"{total:,} can be held out while train keeps every entity and relation; ask for fewer"
            )
        held_out = torch.tensor(chosen, dtype=torch.int64)
        keep = torch.ones(total, dtype=torch.bool)
        keep[held_out] = False
        parts = held_out.split([sizes["valid"], sizes["test"]])
        return replace(
            self, train=self.train[keep], valid=self.train[parts[0].sort()[0]], test=self.train[parts[1].sort()[0]]
        )

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
        if suffix not in SUFFIXES:
            raise DataError(f"suffix must be one of {', '.join(SUFFIXES)}; got {suffix!r}")
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


def split_files(folder: Path) -> dict[str, Path]:
    """The files of a folder that are named after a split; two for one split are an error."""
    found: dict[str, Path] = {}
    for split in SPLITS:
        paths = [folder / (split + suffix) for suffix in SUFFIXES if (folder / (split + suffix)).is_file()]
        if len(paths) > 1:
            raise DataError(f"{folder}: {' and '.join(path.name for path in paths)} both claim to be {split}; keep one")
        if paths:
            found[split] = paths[0]
    return found


def _number(
    heads: Sequence[str], relations: Sequence[str], tails: Sequence[str], entity: Vocabulary, relation: Vocabulary
) -> np.ndarray:
    return np.stack([entity.numbers(heads), relation.numbers(relations), entity.numbers(tails)], 1)


def _build(splits: Mapping[Split, np.ndarray], entity: Vocabulary, relation: Vocabulary, name: str) -> Triples:
    """Renumbers, drops duplicates, counts what is worth knowing."""
    entities, entity_rank = entity.ranked()
    relations, relation_rank = relation.ranked()
    parts = {}
    for split in SPLITS:
        rows = splits.get(split, np.empty((0, 3), np.int64))
        rows = np.stack([entity_rank[rows[:, 0]], relation_rank[rows[:, 1]], entity_rank[rows[:, 2]]], 1)
        parts[split] = torch.from_numpy(rows)
    keys = _triple_keys(torch.cat(list(parts.values())), len(entities), len(relations))
    seen = keys[:0]
    for split, own in zip(SPLITS, keys.split([len(part) for part in parts.values()]), strict=True):
        first = _first_occurrence(own)
        if not first.all():
            _warn(parts[split], ~first, split, "duplicate triples dropped", entities, relations)
        parts[split], own = parts[split][first], own[first]
        leaked = torch.isin(own, seen)
        if leaked.any():
            _warn(parts[split], leaked, split, "triples also stand in an earlier split (kept)", entities, relations)
        seen = torch.cat([seen, own])
    return Triples(entities, relations, **parts, name=name)


def _warn(rows: Tensor, mask: Tensor, split: str, what: str, entities: list[str], relations: list[str]) -> None:
    head, relation, tail = rows[mask][0].tolist()
    example = (entities[head], relations[relation], entities[tail])
    message = f"{split}: {int(mask.sum()):,} of {len(rows):,} {what}, such as {example}"
    warnings.warn(message, DataWarning, stacklevel=4)  # the caller of a constructor


def _triple_keys(rows: Tensor, n_entities: int, n_relations: int) -> Tensor:
    """One int64 a triple, equal where the triples are."""
    pair = rows[:, 0] * n_relations + rows[:, 1]
    if n_entities * n_relations * n_entities >= 2**63:
        pair = pair.unique(return_inverse=True)[1]
    return pair * n_entities + rows[:, 2]


def _first_occurrence(keys: Tensor) -> Tensor:
    """Which elements are not equal to an earlier one: bool (n,)."""
    ordered, order = keys.sort(stable=True)
    fresh = torch.ones_like(keys, dtype=torch.bool)
    fresh[order[1:]] = ordered[1:] != ordered[:-1]
    return fresh


def _share(value: float | int, total: int, what: str) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, (int, float))
        or math.isnan(value)
        or value < 0
        or (isinstance(value, float) and value >= 1)
    ):
        raise DomainError(f"{what} must be a share in [0, 1) or a number of triples, got {value!r}")
    return value if isinstance(value, int) else round(value * total)
