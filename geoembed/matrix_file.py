"""A matrix that is written to a .npy file block by block, so that a killed run can go on.

    D.npy.partial        the matrix, as far as it has come
    D.npy.partial.json   what it is a matrix of, and which blocks are finished

A block counts as finished once its numbers have reached the disk, which is every few seconds. D.npy is there whole or
not at all.
"""

import errno
import hashlib
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from geoembed.checkpoint import writing
from geoembed.errors import CheckpointError, DataError
from geoembed.files import atomic_write

__all__ = ["MatrixFile", "digest"]

FORMAT = 1
SAVE_EVERY = 5.0  # seconds; saving takes tens of milliseconds on a disk


class MatrixFile:
    """A matrix on its way to a file.

    Args:
        out: the file, D.npy.
        identity: what it is a matrix of, a flat dict that JSON holds.
        resume: go on with what stands beside `out`, if it has this identity; False starts anew.

    Attributes:
        matrix: memory-mapped, to be written to.
        finished: first rows of the blocks that are there.

    Raises:
        DataError: a name without .npy.
        CheckpointError: a file that cannot be written, is damaged, or was begun with another identity.
    """

    def __init__(self, out: Path, shape: tuple[int, int], dtype: np.dtype, identity: dict[str, Any], resume: bool):
        if out.suffix != ".npy":
            raise DataError(f"{out}: expected a file name that ends in .npy")
        self.out, self.identity = out, identity
        self.partial, self.record = (out.with_name(out.name + ending) for ending in (".partial", ".partial.json"))
        self.finished: set[int] = set()
        self._saved = time.monotonic()
        with writing(out):
            if resume and self.record.exists() and self.partial.exists():
                self._resume(shape, dtype)
                return
            self.record.unlink(missing_ok=True)  # it must never describe the new file
            self.matrix: NDArray[Any] = np.lib.format.open_memmap(self.partial, "w+", dtype, shape)
            _reserve(self.partial)
            self._write()

    def _resume(self, shape: tuple[int, int], dtype: np.dtype) -> None:
        try:
            record = json.loads(self.record.read_text(encoding="utf-8"))
            then, finished, version = dict(record["identity"]), set(map(int, record["finished"])), record["format"]
            if (size := os.path.getsize(self.partial)) != record["bytes"]:  # memory-mapping would fill it up
                raise ValueError(f"{self.partial} has {size} bytes, expected {record['bytes']}")
            self.matrix = np.lib.format.open_memmap(self.partial, "r+")
        except (ValueError, KeyError, TypeError) as error:
            raise CheckpointError(f"{self.record} or its .partial is damaged: {error}. Delete both.") from error
        if version != FORMAT:
            raise CheckpointError(f"{self.record} has format {version}, this version of geoembed reads {FORMAT}")
        if then != self.identity or (self.matrix.shape, self.matrix.dtype) != (shape, dtype):
            changed = [key for key, value in self.identity.items() if then.get(key) != value] or ["the matrix"]
            was = [f"{key} (then {_show(then.get(key))}, now {_show(self.identity.get(key))})" for key in changed]
            raise CheckpointError(
                f"{self.partial} was begun with another problem. What differs: {'; '.join(was)}. Drop resume to start "
                f"anew, or name another file."
            )
        self.finished = finished

    def finish(self, rows: slice) -> None:
        """Note a block as finished."""
        self.finished.add(rows.start)
        if time.monotonic() > self._saved + SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Bring the finished blocks to the disk, and then the record of them."""
        with writing(self.out):
            self.matrix.flush()  # type: ignore[attr-defined]
            self._write()

    def _write(self) -> None:
        size = os.path.getsize(self.partial)
        record = {"format": FORMAT, "identity": self.identity, "bytes": size, "finished": sorted(self.finished)}
        with atomic_write(self.record) as file:
            json.dump(record, file, indent=1)
        self._saved = time.monotonic()

    def close(self) -> NDArray[Any]:
        """Move the whole matrix into place; it comes back memory-mapped, read-only."""
        with writing(self.out):
            self.matrix.flush()  # type: ignore[attr-defined]
            os.replace(self.partial, self.out)
            self.record.unlink()
        return np.load(self.out, mmap_mode="r")


def _show(value: Any) -> str:
    text = str(value)
    return text[:15] if text.startswith("sha256:") else text


def _reserve(path: Path) -> None:
    """Take the disk space now: a disk that fills up later would end the process without a word."""
    if not hasattr(os, "posix_fallocate"):
        return
    with open(path, "r+b") as file:
        try:
            os.posix_fallocate(file.fileno(), 0, os.path.getsize(path))
        except OSError as error:
            if error.errno not in (errno.EOPNOTSUPP, errno.EINVAL):  # a file system that cannot
                raise


def digest(*things: Any) -> str:
    """SHA-256 of what decides numbers: tensors, arrays, plain values, and those that a module or an object holds."""
    found = hashlib.sha256()
    for thing in things:
        if isinstance(thing, nn.Module):
            settings = [
                f"{name}.{key}={value!r}"
                for name, module in thing.named_modules()
                for key, value in sorted(vars(module).items())
                if key != "training" and isinstance(value, int | float | str | None)
            ]
            found.update(digest(settings, *thing.parameters(), *thing.buffers()).encode())
        elif isinstance(thing, Tensor):
            found.update(f"{thing.dtype} {tuple(thing.shape)}".encode())
            found.update(thing.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
        elif isinstance(thing, np.ndarray):
            found.update(digest(torch.from_numpy(thing)).encode())
        elif scipy.sparse.issparse(thing):
            found.update(digest(thing.shape, thing.indptr, thing.indices, thing.data).encode())
        elif hasattr(thing, "__dict__"):
            found.update(digest(*vars(thing).values()).encode())
        else:
            found.update(repr(thing).encode())
    return f"sha256:{found.hexdigest()}"
