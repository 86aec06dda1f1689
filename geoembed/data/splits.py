"""The three splits of a graph: their names, their files, and how random rows of train become valid and test."""

import math
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from geoembed.data.formats import StrPath
from geoembed.errors import DataError, DomainError

__all__ = ["RDF_SUFFIXES", "SPLITS", "TABLE_SUFFIXES", "Split", "hold_out", "is_rdf", "split_files"]

Split = Literal["train", "valid", "test"]
SPLITS: tuple[Split, ...] = ("train", "valid", "test")
TABLE_SUFFIXES = (".tsv", ".txt", ".csv", ".tsv.gz", ".txt.gz", ".csv.gz")
RDF_SUFFIXES = (".nt", ".nq", ".ttl", ".trig", ".rdf", ".nt.gz", ".nq.gz", ".ttl.gz", ".trig.gz", ".rdf.gz")


def is_rdf(path: StrPath) -> bool:
    """Whether the name of a file ends as those of RDF do."""
    return Path(path).name.endswith(RDF_SUFFIXES)


def split_files(folder: Path) -> dict[Split, Path]:
    """The files of a folder that are named after a split; two for one split are an error."""
    found: dict[Split, Path] = {}
    for split in SPLITS:
        paths = [folder / (split + suffix) for suffix in TABLE_SUFFIXES + RDF_SUFFIXES]
        paths = [path for path in paths if path.is_file()]
        if len(paths) > 1:
            raise DataError(f"{folder}: {' and '.join(path.name for path in paths)} both claim to be {split}; keep one")
        if paths:
            found[split] = paths[0]
    return found


def hold_out(
    train: Tensor, valid: float | int, test: float | int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor, Tensor]:
    """Parts random rows (n, 3) into train, valid and test, each in the old order; `Triples.split` has the rules."""
    total = len(train)
    sizes = {"valid": _share(valid, total, "valid"), "test": _share(test, total, "test")}
    wanted = sum(sizes.values())
    left = torch.bincount(train[:, [0, 2]].flatten()).tolist()
    uses = torch.bincount(train[:, 1]).tolist()
    order = torch.randperm(total, generator=generator)
    chosen: list[int] = []
    for row, (head, relation, tail) in zip(order.tolist(), train[order].tolist(), strict=True):
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
    return train[keep], train[parts[0].sort()[0]], train[parts[1].sort()[0]]


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
