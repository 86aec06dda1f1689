"""Readers of labelled items: what `geoembed.data.labelled` makes its `Labelled` of, as its fields by name.

Each checks what it reads and raises `DataError` with the file and the first bad place. No array of Python objects is
read, which would run code from the file.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.lib.npyio import NpzFile
from torch import Tensor
from torch.nn.functional import normalize

from geoembed.data.formats import BLOCK_BYTES, MAX_BYTES, listing, opened
from geoembed.data.pointclouds import read_point_sets
from geoembed.errors import DataError, GeoEmbedError, MissingDependencyError
from geoembed.pointsets import PointSets

__all__ = ["read_clinc150", "read_folder", "read_npz", "read_omniglot"]

FEATURES = 256  # of a question of CLINC150


def read_npz(path: Path) -> dict[str, Any]:
    """`x`, `y`, and perhaps `coarse`; point sets of different sizes as `x`, `ptr`, and perhaps `weights`."""
    if path.suffix.lower() != ".npz":
        raise DataError(f"{path}: expected a file .npz with arrays x and y, or a folder with a folder for each label")
    arrays = _arrays(path, ("x", "y"), ("coarse", "ptr", "weights"))
    x = _floats(arrays["x"], path)
    items: Tensor | PointSets = x
    if "ptr" in arrays:
        try:
            weights = torch.from_numpy(arrays["weights"]).to(x) if "weights" in arrays else None
            items = PointSets.from_flat(x, torch.from_numpy(arrays["ptr"]), weights)
        except (GeoEmbedError, TypeError) as error:
            raise DataError(f"{path}: x, ptr and weights do not make point sets: {error}") from error
    return {"items": items, **_label_fields(arrays["y"], arrays.get("coarse"), path)}


def read_omniglot(path: Path) -> dict[str, Any]:
    """`X` (n, 1, 28, 28) bytes, `y` the character and `alphabet` its alphabet, (n,)."""
    arrays = _arrays(path, ("X", "y", "alphabet"))
    x, y, alphabet = arrays["X"], arrays["y"], arrays["alphabet"]
    if x.shape[1:] != (1, 28, 28) or x.dtype != np.uint8:
        raise DataError(f"{path}: expected X of bytes (n, 1, 28, 28), got {x.dtype} {x.shape}")
    fields = _label_fields(y, alphabet, path)
    _, first = np.unique(y, return_index=True)
    names = [f"{alphabet[i]}/{y[i]:03d}" for i in first]
    return {"items": torch.from_numpy(x).float() / 255, **fields, "label_names": names}


def read_clinc150(questions: Path, domains: Path) -> dict[str, Any]:
    """The questions in scope of train, val and test, in this order.

    Features are of unit length, or zero for a question without a known word. TF-IDF of the words and its SVD see the
    questions of `train` alone, but those of all classes: a class-disjoint split still shares the words of its held-out
    classes, never their labels.
    """
    try:
        from sklearn.decomposition import TruncatedSVD
        from sklearn.feature_extraction.text import TfidfVectorizer
    except ImportError as error:
        raise MissingDependencyError("clinc150 needs scikit-learn: pip install 'geoembed[interop]'") from error

    table, by_domain = _json(questions), _json(domains)
    try:
        domain = {intent: name for name, intents in by_domain.items() for intent in intents}
        rows = [(text, intent, i) for i, part in enumerate(("train", "val", "test")) for text, intent in table[part]]
        texts, intents, parts = zip(*rows, strict=True)
        left_out = sum(len(table[part]) for part in table if part.startswith("oos"))
        tfidf = TfidfVectorizer(sublinear_tf=True)
        train = tfidf.fit_transform([text for text, _, i in rows if i == 0])
        svd = TruncatedSVD(FEATURES, random_state=0).fit(train)
        items = normalize(torch.from_numpy(svd.transform(tfidf.transform(texts))), dim=-1).float()
        above = np.array([domain[intent] for intent in intents])
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise DataError(f"{questions}, {domains}: not as published: {type(error).__name__} {error}") from error
    fields = _label_fields(np.array(intents), above, questions)
    return {"items": items, **fields, "parts": torch.tensor(parts), "left_out": left_out}


def read_folder(folder: Path) -> dict[str, Any]:
    """folder/<label>/<files>, or folder/<coarse>/<label>/<files>; a label is named by the folders that lead to it."""
    below = {path: _folders(path) for path in _folders(folder)}
    if not below:
        raise DataError(f"{folder}: expected a folder for each label, with files of point sets; {listing(folder)}")
    deep = any(below.values())
    if deep and not all(below.values()):
        flat = next(path for path, inner in below.items() if not inner)
        raise DataError(f"{flat}: expected folders in it, as in others of {folder}: <coarse label>/<label>/<files>")
    classes = [path for inner in below.values() for path in inner] if deep else list(below)
    read = [read_point_sets(path).sets for path in classes]
    for path, sets in zip(classes, read, strict=True):
        if sets.shape[-1] != read[0].shape[-1]:
            raise DataError(f"{path}: points of {sets.shape[-1]} features, expected {read[0].shape[-1]}")
    sizes = torch.tensor([len(sets) for sets in read])
    labels = torch.arange(len(classes)).repeat_interleave(sizes)
    fields = {
        "items": _joined(read),
        "labels": labels,
        "label_names": ["/".join(path.relative_to(folder).parts) for path in classes],
    }
    if deep:
        parents = list(below)
        parent = torch.tensor([parents.index(path.parent) for path in classes])
        fields |= {"coarse": parent[labels], "coarse_names": [path.name for path in parents]}
    return fields


def _folders(folder: Path) -> list[Path]:
    try:
        return sorted(path for path in folder.iterdir() if path.is_dir() and not path.name.startswith("."))
    except OSError as error:
        raise DataError(f"{folder} cannot be read: {error.strerror}") from error


def _joined(parts: list[PointSets]) -> PointSets:
    dtype = torch.float64 if any(sets.dtype == torch.float64 for sets in parts) else torch.float32
    parts = [sets.to(dtype) for sets in parts]
    points = [points for sets in parts for points in sets.unpad()]
    if all(sets.uniform for sets in parts):
        return PointSets.from_list(points)
    weights = [w[mask] for sets in parts for w, mask in zip(sets.weights, sets.mask, strict=True)]
    return PointSets.from_list(points, weights)


def _arrays(path: Path, needed: tuple[str, ...], optional: tuple[str, ...] = ()) -> dict[str, np.ndarray]:
    try:
        with open(path, "rb") as stream, NpzFile(stream, allow_pickle=False) as file:
            held = list(file.files)
            arrays = {key: file[key] for key in (*needed, *optional) if key in held}
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {listing(path.parent)}") from None
    except Exception as error:  # whatever a decoder makes of a damaged file
        advice = ". Save point sets of different sizes as flat x (N, d) and ptr (n + 1,)" * ("pickle" in str(error))
        raise DataError(f"{path} cannot be read as arrays of numbers or names: {error}{advice}") from error
    for key in needed:
        if key not in arrays:
            raise DataError(f"{path}: expected an array {key!r}, the file holds {', '.join(held) or 'nothing'}")
    return arrays


def _floats(x: np.ndarray, path: Path) -> Tensor:
    """Finite numbers (n, ...), float64 where they are, else float32."""
    if x.dtype.kind not in "fiub" or x.ndim < 2 or not x.size:
        raise DataError(f"{path}: expected x of numbers (n, ...), a row for each item, got {x.dtype} {x.shape}")
    x = x.astype(np.float64 if x.dtype == np.float64 else np.float32)
    bad = ~np.isfinite(x).reshape(len(x), -1).all(axis=1)
    if bad.any():
        raise DataError(
            f"{path}: NaN or infinite numbers in {bad.sum()} of {len(x)} rows of x, the first is row {bad.argmax()}"
        )
    return torch.from_numpy(x)


def _label_fields(y: np.ndarray, coarse: np.ndarray | None, path: Path) -> dict[str, Any]:
    labels, names = _numbered(y, "y", path)
    if coarse is None:
        return {"labels": labels, "label_names": names}
    above, above_names = _numbered(coarse, "coarse", path)
    return {"labels": labels, "label_names": names, "coarse": above, "coarse_names": above_names}


def _numbered(values: np.ndarray, key: str, path: Path) -> tuple[Tensor, list[str]]:
    """Labels from 0 in the order of their values, and what they were."""
    if values.ndim != 1 or values.dtype.kind not in "iubU" or not len(values):
        raise DataError(f"{path}: expected {key} of whole numbers or names (n,), got {values.dtype} {values.shape}")
    names, labels = np.unique(values, return_inverse=True)
    return torch.from_numpy(labels.astype(np.int64)), [str(name) for name in names]


def _json(path: Path) -> Any:
    with opened(path, MAX_BYTES) as file:
        try:
            return json.loads(b"".join(iter(lambda: file.read(BLOCK_BYTES), b"")))
        except ValueError as error:  # UnicodeDecodeError is one
            raise DataError(f"{path}: not JSON: {error}") from error
