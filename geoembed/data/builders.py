"""From names to ids: what the constructors of `Triples` have in common, and how each comes by its rows."""

import warnings
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.data.formats import StrPath, Vocabulary, check_names, read_columns
from geoembed.data.splits import SPLITS, Split
from geoembed.errors import DataError, DataWarning

__all__ = ["Builder", "collect", "edges", "read_files", "triple_keys"]

COLUMNS = {"h": "head", "r": "relation", "t": "tail"}


class Builder:
    """Numbers the names of each split as they come; memory grows with the vocabulary and three ids a row."""

    def __init__(self) -> None:
        self.entity, self.relation = Vocabulary(), Vocabulary()
        self.blocks: dict[Split, list[np.ndarray]] = {split: [] for split in SPLITS}

    def add(self, split: Split, heads: Sequence[str], relations: Sequence[str], tails: Sequence[str]) -> None:
        ids = self.entity.numbers(heads), self.relation.numbers(relations), self.entity.numbers(tails)
        self.blocks[split].append(np.stack(ids, 1))

    def tables(self) -> tuple[list[str], list[str], Tensor, Tensor, Tensor]:
        """The fields of `Triples`: ids by code point, duplicates dropped, what is worth knowing counted in warnings."""
        entities, entity_rank = self.entity.ranked()
        relations, relation_rank = self.relation.ranked()
        parts = []
        for blocks in self.blocks.values():
            rows = np.concatenate([np.empty((0, 3), np.int64), *blocks])
            rows = np.stack([entity_rank[rows[:, 0]], relation_rank[rows[:, 1]], entity_rank[rows[:, 2]]], 1)
            parts.append(torch.from_numpy(rows))
        keys = triple_keys(torch.cat(parts), len(entities), len(relations)).split([len(part) for part in parts])
        seen = keys[0][:0]
        for i, (split, own) in enumerate(zip(SPLITS, keys, strict=True)):
            first = _first_occurrence(own)
            if not first.all():
                _warn(parts[i], ~first, split, "duplicate triples dropped", entities, relations)
            parts[i], own = parts[i][first], own[first]
            leaked = torch.isin(own, seen)
            if leaked.any():
                _warn(parts[i], leaked, split, "triples also stand in an earlier split (kept)", entities, relations)
            seen = torch.cat([seen, own])
        train, valid, test = parts
        return entities, relations, train, valid, test


def read_files(paths: Sequence[StrPath | None], columns: str, **options: Any) -> Builder:
    """For `Triples.from_files`. paths: of train, valid and test. options: of `read_columns`."""
    if sorted(columns) != ["h", "r", "t"]:
        raise DataError(f"columns must be the letters h, r and t in the order of the file, got {columns!r}")
    builder = Builder()
    for split, path in zip(SPLITS, paths, strict=True):
        for fields in read_columns(path, [COLUMNS[c] for c in columns], **options) if path is not None else ():
            block = dict(zip(columns, fields, strict=True))
            builder.add(split, block["h"], block["r"], block["t"])
    return builder


def collect(splits: Sequence[Iterable[Sequence[str]]]) -> Builder:
    """For `Triples.from_triples`. splits: the (head, relation, tail) names of train, valid and test."""
    builder = Builder()
    for split, rows in zip(SPLITS, splits, strict=True):
        fields: tuple[list[str], list[str], list[str]] = ([], [], [])
        for i, row in enumerate(rows):
            if isinstance(row, str) or len(row) != 3 or not all(isinstance(field, str) for field in row):
                raise DataError(f"{split} triple {i}: expected three strings (head, relation, tail), got {row!r}")
            for column, field in zip(fields, row, strict=True):
                column.append(field)
        builder.add(split, *fields)
    check_names(builder.entity, "entity")
    check_names(builder.relation, "relation")
    if not len(builder.blocks["train"][0]):
        raise DataError("train has no triples")
    return builder


def edges(graph: Any, relation: str, default: str | None, split: str | None) -> dict[Split, list[tuple[str, str, str]]]:
    """For `Triples.from_networkx`: the edges of each split, as names."""
    if not graph.is_directed():
        raise DataError(
            "the edges of an undirected graph have no head and tail; pass graph.to_directed() to have each edge "
            "in both directions, or build a networkx.DiGraph or MultiDiGraph"
        )
    names = {node: str(node) for node in graph}
    if len(set(names.values())) < len(names):
        raise DataError("two nodes have the same str(), such as 1 and '1'; rename them with networkx.relabel_nodes")
    rows: dict[Split, list[tuple[str, str, str]]] = {key: [] for key in SPLITS}
    found = graph.edges(keys=True, data=True) if graph.is_multigraph() else graph.edges(data=True)
    for head, tail, *key, data in found:
        label = data.get(relation, key[0] if key and isinstance(key[0], str) else default)
        if not isinstance(label, str):
            raise DataError(
                f"edge {head!r} -> {tail!r}: expected a string in the attribute {relation!r}, got {label!r}; set "
                "it, name another attribute with relation=, or give all such edges one relation with default="
            )
        part = "train" if split is None else data.get(split)
        if part not in rows:
            raise DataError(f"edge {head!r} -> {tail!r}: {split!r} must be one of {', '.join(SPLITS)}; got {part!r}")
        rows[part].append((names[head], label, names[tail]))
    lone = sum(1 for _, degree in graph.degree() if degree == 0)
    if lone:
        warnings.warn(f"{lone:,} nodes without an edge were left out", DataWarning, stacklevel=3)
    return rows


def triple_keys(rows: Tensor, n_entities: int, n_relations: int) -> Tensor:
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


def _warn(rows: Tensor, mask: Tensor, split: str, what: str, entities: list[str], relations: list[str]) -> None:
    head, relation, tail = rows[mask][0].tolist()
    example = (entities[head], relations[relation], entities[tail])
    message = f"{split}: {int(mask.sum()):,} of {len(rows):,} {what}, such as {example}"
    warnings.warn(message, DataWarning, stacklevel=4)  # the caller of a constructor
