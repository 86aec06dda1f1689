"""Checkpoints that are whole or absent: a killed run leaves the previous one readable.

    checkpoints/
        latest                name of the newest checkpoint, moved last
        000001200/            one checkpoint, written elsewhere and renamed into place
            model.safetensors     the weights
            best.safetensors      the weights with the best validation score so far, if there are any
            state.pt              optimizer, generators and counters: plain dicts, read with weights_only=True
            manifest.json         format version, step, SHA-256 of each file

A folder appears under its name only when all of its files have reached the disk, and `latest` names it only then.
Older checkpoints are removed after that.
"""

import contextlib
import hashlib
import json
import os
import pickle
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from geoembed.errors import CheckpointError
from geoembed.files import atomic_write

__all__ = ["Checkpoint", "load_latest", "load_weights", "save", "save_weights", "writing"]

FORMAT = 1


@dataclass
class Checkpoint:
    """Everything needed to go on: weights by name, the best weights so far, and the rest of the state."""

    step: int
    weights: dict[str, Tensor]
    state: dict[str, Any] = field(default_factory=dict)
    best: dict[str, Tensor] | None = None


def save(folder: Path, checkpoint: Checkpoint) -> None:
    """Write a checkpoint into `folder` and make it the latest; CheckpointError leaves the previous one in force."""
    name = f"{checkpoint.step:09d}"
    temporary = folder / f".{name}.tmp"
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        try:
            save_file(_plain(checkpoint.weights), temporary / "model.safetensors")
            if checkpoint.best is not None:
                save_file(_plain(checkpoint.best), temporary / "best.safetensors")
            torch.save(checkpoint.state, temporary / "state.pt")
            files = {path.name: _sha256(path) for path in sorted(temporary.iterdir())}
            manifest = {"format": FORMAT, "step": checkpoint.step, "sha256": files}
            (temporary / "manifest.json").write_text(json.dumps(manifest, indent=1), encoding="utf-8")
            for path in temporary.iterdir():
                _fsync(path)
            target = folder / name
            if target.exists():  # the same step saved twice: the old copy goes first, `latest` is rewritten below
                shutil.rmtree(target)
            os.replace(temporary, target)
            _fsync(folder)
            with atomic_write(folder / "latest") as file:
                file.write(name)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in folder.iterdir():
            if old.is_dir() and old.name != name:
                shutil.rmtree(old, ignore_errors=True)


def load_latest(folder: Path) -> Checkpoint | None:
    """The latest checkpoint of `folder`, or None where none was ever finished.

    Raises:
        CheckpointError: a file is missing or its content is not what was written, or the format is unknown.
    """
    pointer = folder / "latest"
    if not pointer.exists():
        return None
    name = pointer.read_text(encoding="utf-8").strip()
    path = folder / name
    if not name.isdecimal() or not path.is_dir():
        raise CheckpointError(f"{pointer} names {name!r}, which is not there. Delete {folder} to restart.")
    try:
        manifest = json.loads((path / "manifest.json").read_text(encoding="utf-8"))
        version, step, digests = manifest["format"], manifest["step"], manifest["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(f"the manifest of {path} cannot be read: {error}. Delete {folder} to restart.") from error
    if version != FORMAT:
        raise CheckpointError(f"{path} has format {version}, this version of geoembed reads format {FORMAT}.")
    for file, digest in digests.items():
        if not (path / file).is_file() or _sha256(path / file) != digest:
            raise CheckpointError(
                f"{path / file} is damaged (missing or not the content that was written). Delete {folder} to restart."
            )
    best = path / "best.safetensors"
    return Checkpoint(
        step=step,
        weights=load_weights(path / "model.safetensors"),
        state=_load_state(path / "state.pt"),
        best=load_weights(best) if "best.safetensors" in digests else None,
    )


def save_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Write tensors to a safetensors file, whole or not at all."""
    with writing(path), atomic_write(path, "wb") as file:
        file.write(safetensors.torch.save(_plain(weights), metadata={"format": str(FORMAT)}))


def load_weights(path: Path) -> dict[str, Tensor]:
    """Read a safetensors file; CheckpointError names the file when it is missing, truncated, or holds NaN."""
    try:
        weights = load_file(path)
    except (OSError, safetensors.SafetensorError) as error:
        raise CheckpointError(f"{path} cannot be read as safetensors: {error}") from error
    for name, tensor in weights.items():
        if tensor.is_floating_point() and not bool(tensor.isfinite().all()):
            bad = int((~tensor.isfinite()).sum())
            raise CheckpointError(f"{path}: {bad} of {tensor.numel()} values of {name!r} are NaN or infinite")
    return weights


@contextlib.contextmanager
def writing(target: Path) -> Iterator[None]:
    """Turn a failed write (full disk, read-only folder) into a CheckpointError that names the target."""
    try:
        yield
    except OSError as error:
        raise CheckpointError(
            f"cannot write {target}: {error.strerror or error}. What was there before is unchanged; free some space or "
            f"choose another folder."
        ) from error
    except safetensors.SafetensorError as error:  # how safetensors reports a full disk
        raise CheckpointError(f"cannot write {target}: {error}. What was there before is unchanged.") from error


def _load_state(path: Path) -> dict[str, Any]:
    try:
        return torch.load(path, weights_only=True)
    except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Contiguous copies without subclass, since safetensors takes neither views nor manifold parameters."""
    return {name: t.detach().as_subclass(Tensor).cpu().contiguous().clone() for name, t in tensors.items()}


def _sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _fsync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
