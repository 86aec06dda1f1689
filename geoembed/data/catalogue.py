"""Data sets by name: those shipped with the library, the user's own, and plain files; nothing is ever downloaded.

`load(name)` looks for the name among

1. the shipped sets, one folder each, listed by `available()`;
2. `$GEOEMBED_DATA/<name>`, `$GEOEMBED_DATA/kg/<name>` (folders) and `$GEOEMBED_DATA/wordnet/<name>.tsv.gz`;
3. paths: a folder with train, valid and test, or a file of three columns (triples), two (a closure) or RDF.

A set with a manifest.toml is checked against it: size and SHA-256 of each file, then the counts.
"""

import hashlib
import os
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from geoembed.data.closures import Closure
from geoembed.data.formats import StrPath, default_separator, first_line, listing
from geoembed.data.splits import RDF_SUFFIXES, TABLE_SUFFIXES, is_rdf, split_files
from geoembed.data.triples import Triples
from geoembed.errors import DataError, UnknownNameError

__all__ = ["Manifest", "available", "load"]

MANIFEST = "manifest.toml"
TASKS = {"triples": ("entities", "relations", "train", "valid", "test"), "closure": ("nodes", "pairs")}
PAIRS = "pairs.tsv"  # the file of a closure with a manifest


@dataclass(frozen=True)
class Manifest:
    """What manifest.toml says of a data set.

    task: "triples" or "closure". counts: as `Triples.counts` or `Closure.counts`. licence: (its name, its file).
    files: name -> (size in bytes, SHA-256).
    """

    folder: Path
    name: str
    title: str
    description: str
    task: str
    source: str
    counts: dict[str, int]
    licence: tuple[str, str]
    files: dict[str, tuple[int, str]]

    @classmethod
    def read(cls, folder: StrPath) -> "Manifest":
        """Reads folder/manifest.toml; a missing or odd entry, or a file outside the folder, raises `DataError`."""
        folder = Path(folder)
        path = folder / MANIFEST
        try:
            table = tomllib.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise DataError(f"{path}: no such file; {listing(folder)}") from None
        except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
            raise DataError(f"{path}: {error}") from error
        texts = {key: _get(table, key, str, path) for key in ("name", "title", "description", "task", "source")}
        if texts["task"] not in TASKS:
            raise DataError(f"{path}: task must be one of {', '.join(TASKS)}; got {texts['task']!r}")
        counts = {key: _get(_get(table, "counts", dict, path), key, int, path) for key in TASKS[texts["task"]]}
        files = {}
        for name, entry in _get(table, "files", dict, path).items():
            if not re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name):
                raise DataError(f"{path}: {name!r} is not the plain name of a file in this folder")
            if not isinstance(entry, dict):
                raise DataError(f"{path}: files.{name!r} must be a table with size and sha256")
            files[name] = _get(entry, "size", int, path), _get(entry, "sha256", str, path)
        licence = _get(table, "licence", dict, path)
        licence_file = _get(licence, "file", str, path)
        if licence_file not in files:
            raise DataError(f"{path}: the licence file {licence_file!r} is not among the files")
        return cls(
            folder, **texts, counts=counts, licence=(_get(licence, "name", str, path), licence_file), files=files
        )

    def verify(self) -> None:
        """Compares every file with its size and SHA-256; raises `DataError` that names the first that differs."""
        for name, (size, sha256) in self.files.items():
            path = self.folder / name
            try:
                found = path.stat().st_size
                if found == size:  # the size first: no file of any length is read in vain
                    with open(path, "rb") as file:
                        digest = hashlib.file_digest(file, "sha256").hexdigest()
            except OSError as error:
                raise DataError(f"{path}: cannot be read ({error.strerror}); {listing(self.folder)}") from None
            if found != size:
                raise DataError(f"{path}: has {found:,} bytes, its manifest says {size:,}; restore the file")
            if digest != sha256.lower():
                raise DataError(f"{path}: its SHA-256 is {digest}, its manifest says {sha256}; restore the file")

    def load(self) -> Triples | Closure:
        """Verifies, reads, and compares the counts."""
        self.verify()
        data: Triples | Closure
        if self.task == "triples":
            files = split_files(self.folder)
            listed = {split: path for split, path in files.items() if path.name in self.files}
            if "train" not in listed or listed != files:
                raise DataError(f"{self.folder / MANIFEST}: must list the files of all splits; {listing(self.folder)}")
            data = Triples.from_folder(self.folder, name=self.name)
        elif PAIRS not in self.files:
            raise DataError(f"{self.folder / MANIFEST}: a closure must list the file {PAIRS}")
        else:
            data = Closure.from_file(self.folder / PAIRS, name=self.name)
        if data.counts() != self.counts:
            raise DataError(f"{self.folder}: counts are {data.counts()}, its manifest says {self.counts}")
        return data


def available() -> dict[str, Manifest]:
    """The data sets with a manifest, by name: the shipped ones, then those of $GEOEMBED_DATA."""
    found: dict[str, Manifest] = {}
    for root in (_shipped(), own_folder()):
        for folder in sorted(root.iterdir()) if root is not None and root.is_dir() else ():
            if (folder / MANIFEST).is_file():
                found.setdefault(folder.name, Manifest.read(folder))
    return found


def load(name: StrPath) -> Triples | Closure:
    """Loads a data set by name, or a graph from a folder or file (see the module's first lines for the search).

    >>> load("wordnet-mammals")
    Closure('wordnet-mammals': 1,180 nodes, 6,540 pairs)

    Raises `UnknownNameError` for an unknown name, `DataError` for a file that is missing, damaged or not as its
    manifest says.
    """
    text = os.fspath(name)
    plain = isinstance(name, str) and re.fullmatch(r"\w[\w.+-]*", text) is not None  # no separator, no "..": a name
    candidates = list(_candidates(text)) if plain else []
    for path in (*candidates, Path(text)):
        if path.is_dir():
            return Manifest.read(path).load() if (path / MANIFEST).is_file() else Triples.from_folder(path)
        if path.is_file():
            return _from_file(path)
    if not plain or text.endswith((*TABLE_SUFFIXES, *RDF_SUFFIXES, ".gz")):
        raise DataError(f"{text}: no such file or folder; {listing(Path(text).parent)}")
    raise UnknownNameError("data set", text, _known())


def _candidates(name: str) -> Iterator[Path]:
    if (root := _shipped()) is not None and (root / name / MANIFEST).is_file():
        yield root / name
    if (root := own_folder()) is not None:
        yield from (root / name, root / "kg" / name, root / "wordnet" / f"{name}.tsv.gz")


def _known() -> set[str]:
    names: set[str] = set()
    if (root := _shipped()) is not None:
        names.update(path.parent.name for path in root.glob(f"*/{MANIFEST}"))
    if (root := own_folder()) is not None:
        for pattern in ("*", "kg/*"):
            names.update(p.name for p in root.glob(pattern) if (p / MANIFEST).is_file() or any(p.glob("train.*")))
        names.update(path.name.removesuffix(".tsv.gz") for path in root.glob("wordnet/*.tsv.gz"))
    return names


def _shipped() -> Path | None:
    """The folder of shipped sets: geoembed/_datasets in an installation, datasets/ beside the package in a checkout."""
    package = Path(__file__).resolve().parent.parent
    if (package / "_datasets").is_dir():
        return package / "_datasets"
    checkout = package.parent  # of an installation, this is a folder of other packages, one of them perhaps `datasets`
    return checkout / "datasets" if (checkout / "pyproject.toml").is_file() else None


def own_folder() -> Path | None:
    """The folder that GEOEMBED_DATA names."""
    folder = os.environ.get("GEOEMBED_DATA")
    return Path(folder).expanduser() if folder else None


def _from_file(path: Path) -> Triples | Closure:
    if is_rdf(path):
        return Triples.from_rdf(path)
    columns = first_line(path).count(default_separator(path)) + 1
    return Closure.from_file(path) if columns == 2 else Triples.from_files(path)


def _get(table: dict[str, Any], key: str, kind: type, path: Path) -> Any:
    value = table.get(key)
    if not isinstance(value, kind) or isinstance(value, bool):
        found = "nothing" if value is None else repr(value)
        raise DataError(f"{path}: expected {key} = {kind.__name__}, got {found}")
    return value
