"""Readers of point sets: a folder with a file a set, or one file with one or many sets.

    folder/*.npy                 an array (n, d)
    folder/*.npz                 `points` (n, d), and perhaps `weights` (n,); or one array of any name
    folder/*.csv, *.tsv          a row a point, perhaps under a header, where a column `weight` holds the weights
    sets.npz                     an array (n, d) a set, by name; or `points` (N, d), `ptr` (k + 1,) where set i is
                                 points[ptr[i]:ptr[i + 1]], and perhaps `weights` (N,) and `names` (k,)
    sets.safetensors             what `PointSets.save` wrote
    set.npy, set.csv, ...        one set

Numbers are float32 where every set holds float32 or less, else float64. Whole numbers become floats; above 2^53 they
lose digits. What cannot be a set (an unreadable file, NaN or infinite numbers, no points, another number of features
than most) is left out, with a `DataWarning` that names it and says why; the rest is not lost.
"""

import contextlib
import csv
import os
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from numpy.lib.npyio import NpzFile

from geoembed.data.formats import default_separator, listing
from geoembed.errors import DataError, DataWarning
from geoembed.pointsets import PointSets

__all__ = ["NamedSets", "read_point_sets"]

_Cloud = tuple[np.ndarray, np.ndarray | None]  # points (n, d), weights (n,)
_Source = tuple[str, str, Callable[[], _Cloud]]  # name of the set, where it stands, what reads it


@dataclass(frozen=True)
class NamedSets:
    """Point sets with one batch dimension, and a name for each."""

    names: list[str]
    sets: PointSets

    def __len__(self) -> int:
        return len(self.names)


def read_point_sets(path: str | os.PathLike[str]) -> NamedSets:
    """The point sets of a folder or file, in the layouts above: sorted by name, those after `ptr` as they stand.

    A set is named by its file without the ending (with it, where two files would share a name), by its array, or by
    its number. `warnings.simplefilter("error", DataWarning)` refuses what would else be left out.

    Raises:
        DataError: nothing there, or nothing that can be read as a point set.
    """
    clouds: dict[str, _Cloud] = {}
    where: dict[str, str] = {}
    failed: dict[str, str] = {}
    for name, place, read in _sources(Path(path)):
        try:
            clouds[name], where[name] = _checked(*read()), place
        except Exception as error:  # whatever a decoder makes of a damaged file
            failed[place] = str(error) or type(error).__name__
    if clouds:
        d = Counter(points.shape[1] for points, _ in clouds.values()).most_common(1)[0][0]
        for name in [name for name, (points, _) in clouds.items() if points.shape[1] != d]:
            failed[where[name]] = f"points of {clouds.pop(name)[0].shape[1]} features, expected {d} as in most sets"
    if not clouds:
        reasons = "; ".join(f"{place}: {why}" for place, why in list(failed.items())[:3])
        raise DataError(f"{path} holds no readable point set ({len(failed)} tried). {reasons}")
    for place, why in failed.items():
        warnings.warn(f"{place} is left out: {why}", DataWarning, stacklevel=2)
    return NamedSets(list(clouds), _joined(list(clouds.values())))


def _joined(clouds: list[_Cloud]) -> PointSets:
    dtype = np.result_type(*(points for points, _ in clouds))
    points = [torch.from_numpy(cloud.astype(dtype)) for cloud, _ in clouds]
    if all(w is None for _, w in clouds):
        return PointSets.from_list(points)
    weights = [np.full(len(cloud), 1 / len(cloud)) if w is None else w for cloud, w in clouds]
    return PointSets.from_list(points, [torch.from_numpy(w.astype(dtype)) for w in weights])


# Where the sets stand.


def _sources(path: Path) -> Iterator[_Source]:
    ending = path.suffix.lower()
    if path.is_dir():
        yield from _in_folder(path)
    elif not path.exists():
        raise DataError(f"{path}: no such file or folder; {listing(path.parent)}")
    elif ending == ".npz":
        yield from _in_npz(path)
    elif ending == ".safetensors":
        sets = PointSets.load(path)
        for i, points in enumerate(sets.unpad()):
            yield str(i), f"{path}, set {i}", partial(_from_torch, sets, i, points)
    elif ending in _READERS:
        yield path.stem, str(path), partial(_READERS[ending], path)
    else:
        known = ", ".join([*_READERS, ".safetensors"])
        raise DataError(f"{path}: expected a folder or a file that ends in {known}")


def _in_folder(folder: Path) -> Iterator[_Source]:
    try:
        files = sorted(f for f in folder.iterdir() if f.suffix.lower() in _READERS and not f.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error
    if not files:
        raise DataError(f"{folder}: no files that end in {', '.join(_READERS)}; {listing(folder)}")
    counts = Counter(file.stem for file in files)
    names = {file: file.stem if counts[file.stem] == 1 else file.name for file in files}
    for file in sorted(files, key=names.__getitem__):
        yield names[file], str(file), partial(_READERS[file.suffix.lower()], file)


def _in_npz(path: Path) -> Iterator[_Source]:
    with contextlib.ExitStack() as stack:
        try:
            arrays = NpzFile(stack.enter_context(open(path, "rb")), allow_pickle=False)
            keys = set(arrays.files)
            flat = keys & {"points", "ptr", "weights", "names"} if {"points", "ptr"} <= keys else set()
            parts = {key: arrays[key] for key in flat}
        except Exception as error:
            raise DataError(f"{path} cannot be read as .npz: {error}") from error
        if parts:
            yield from _flat(path, **parts)
        elif keys <= {"points", "weights"}:
            yield path.stem, str(path), partial(_read_npz, path)
        else:
            for key in sorted(keys):
                yield key, f"{path}, array {key!r}", partial(_read_array, arrays, key)


def _flat(
    path: Path, points: np.ndarray, ptr: np.ndarray, weights: np.ndarray | None = None, names: np.ndarray | None = None
) -> Iterator[_Source]:
    if ptr.ndim != 1 or ptr.dtype.kind not in "iu" or len(ptr) < 2 or ptr[0] or (ptr[1:] < ptr[:-1]).any():
        raise DataError(f"{path}: ptr must be two or more whole numbers that rise from 0, got {ptr.dtype} {ptr.shape}")
    for key, array in (("points", points), ("weights", weights)):
        if array is not None and (not array.ndim or len(array) != ptr[-1]):
            raise DataError(f"{path}: ptr ends at {ptr[-1]}, {key} has shape {array.shape}")
    titles = [str(i) for i in range(len(ptr) - 1)] if names is None else list(map(str, np.atleast_1d(names)))
    if len(titles) != len(ptr) - 1 or len(set(titles)) < len(titles):
        raise DataError(f"{path}: names must be {len(ptr) - 1} different ones, got {len(set(titles))}")
    for i, title in enumerate(titles):
        part = slice(int(ptr[i]), int(ptr[i + 1]))
        yield title, f"{path}, set {title}", partial(_read_part, points, weights, part)


# How one is read.


def _from_torch(sets: PointSets, i: int, points: torch.Tensor) -> _Cloud:
    weights = None if sets.uniform else sets.weights[i, : len(points)].double().numpy()
    return points.to(torch.promote_types(points.dtype, torch.float32)).numpy(), weights


def _read_part(points: np.ndarray, weights: np.ndarray | None, part: slice) -> _Cloud:
    return points[part], None if weights is None else weights[part]


def _read_array(arrays: Mapping[str, np.ndarray], key: str) -> _Cloud:
    return arrays[key], None


def _read_npy(path: Path) -> _Cloud:
    with open(path, "rb") as file:
        return np.lib.format.read_array(file, allow_pickle=False), None


def _read_npz(path: Path) -> _Cloud:
    with open(path, "rb") as file, NpzFile(file, allow_pickle=False) as arrays:
        if "points" in arrays.files:
            return arrays["points"], arrays["weights"] if "weights" in arrays.files else None
        if len(arrays.files) != 1:
            raise DataError(f"expected an array `points`, got {', '.join(arrays.files[:5]) or 'nothing'}")
        return arrays[arrays.files[0]], None


def _read_text(path: Path) -> _Cloud:
    separator, lines = default_separator(path), path.read_text(encoding="utf-8-sig").splitlines()
    first = next(csv.reader(lines[:1], delimiter=separator), [])
    header = bool(first) and not any(map(_is_number, first))
    rows = lines[header:]
    if not any(map(str.strip, rows)):
        raise DataError("no points")
    try:
        table = np.loadtxt(rows, delimiter=separator, ndmin=2, comments=None, quotechar='"')
    except ValueError as error:
        raise DataError(_complaint(rows, 1 + header, separator) or str(error)) from error
    if not header:
        return table, None
    if len(first) != table.shape[1]:
        raise DataError(f"the header names {len(first)} columns, the rows have {table.shape[1]}")
    is_weight = np.array([name.strip().lower() in ("weight", "weights") for name in first])
    if is_weight.sum() > 1:
        raise DataError("two columns of weights")
    return table[:, ~is_weight], table[:, is_weight].ravel() if is_weight.any() else None


def _complaint(rows: list[str], number: int, separator: str) -> str | None:
    """What is wrong with the first line that is not as many numbers as the first one."""
    parsed = list(csv.reader(rows, delimiter=separator))
    for i, fields in enumerate(parsed, number):
        if fields and len(fields) != len(parsed[0]):
            return f"line {i}: expected {len(parsed[0])} columns as before, got {len(fields)}"
        if bad := [field for field in fields if not _is_number(field)]:
            return f"line {i}: {bad[0]!r} is not a number"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


_READERS: dict[str, Callable[[Path], _Cloud]] = {
    ".npy": _read_npy,
    ".npz": _read_npz,
    ".csv": _read_text,
    ".tsv": _read_text,
}


def _checked(points: np.ndarray, weights: np.ndarray | None) -> _Cloud:
    """Finite points (n, d) as float32 or float64, and weights that fit them."""
    if points.ndim != 2 or points.dtype.kind not in "fiu":
        raise DataError(f"expected numbers (n, d), a row for each point, got {points.dtype} of shape {points.shape}")
    if not points.size:
        raise DataError(f"no points (shape {points.shape})")
    single = np.result_type(points, np.float32) == np.float32
    points = points.astype(np.float32 if single else np.float64)
    if (bad := ~np.isfinite(points).all(axis=1)).any():
        raise DataError(f"NaN or infinite numbers in {bad.sum()} of {len(points)} points, first in row {bad.argmax()}")
    if weights is None:
        return points, None
    if weights.shape != points.shape[:1] or weights.dtype.kind not in "fiu":
        raise DataError(f"expected {len(points)} weights, got {weights.dtype} of shape {weights.shape}")
    weights = weights.astype(np.float64)
    if not np.isfinite(weights).all() or (weights < 0).any() or not weights.any():
        raise DataError("weights must be finite, not negative, and not all zero")
    return points, weights / weights.max()  # so that float32 holds them
