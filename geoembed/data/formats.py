"""Strict readers and writers of tables of names: one row a line, a fixed number of columns, UTF-8, perhaps gzip.

A reader either returns what the file says or raises `DataError` with file and line: a wrong number of columns, an
empty field, a NUL, a byte that is not UTF-8, a truncated gzip. What it forgives: a byte order mark, Windows line
ends, blank lines at the end. Files are read in blocks, so memory grows with the vocabulary and three ids a row,
not with the text, and an archive that unpacks to more than `max_bytes` is refused.

A separator of "," reads CSV: a field may be quoted, within one line. Any other separator is literal, and a quotation
mark is a character like any other.
"""

import contextlib
import csv
import gzip
import io
import itertools
import os
import re
import zlib
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import IO, Any, cast

import numpy as np

from geoembed.errors import DataError
from geoembed.files import atomic_write

__all__ = ["MAX_BYTES", "Vocabulary", "check_names", "opened", "read_columns", "write_rows"]

MAX_BYTES = 4 * 2**30
BLOCK_BYTES = 8 * 2**20
MAX_LINE_BYTES = 2**20  # a longer line is a file of another kind, not a name

StrPath = str | os.PathLike[str]


class Vocabulary(dict[str, int]):
    """Names numbered as they are first met; `ranked` renumbers them by code point at the end."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number

    def numbers(self, names: Sequence[str]) -> np.ndarray:
        """The numbers of `names` as int64, new ones added."""
        return np.fromiter(map(self.__getitem__, names), dtype=np.int64, count=len(names))

    def ranked(self) -> tuple[list[str], np.ndarray]:
        """(names sorted by code point, the new number of each old one): file order never changes an id."""
        names = list(self)
        order = sorted(range(len(names)), key=names.__getitem__)
        rank = np.empty(len(names), dtype=np.int64)
        rank[order] = np.arange(len(names))
        return [names[i] for i in order], rank


def check_names(names: Iterable[str], what: str) -> None:
    """Raises `DataError` for a name that no file could hold: blank, or with a tab, a line end, a NUL, a surrogate."""
    for name in names:
        if not isinstance(name, str):
            raise DataError(f"{what} {name!r}: expected a string, got {type(name).__name__}")
        if not name.strip():
            raise DataError(f"{what} {name!r}: a name cannot be blank")
        if re.search("[\0\t\n\r\ud800-\udfff]", name):
            raise DataError(f"{what} {name!r}: a name cannot hold a tab, a line end, a NUL or a lone surrogate")


def default_separator(path: StrPath) -> str:
    """A comma for .csv and .csv.gz, a tab for anything else."""
    return "," if os.fspath(path).lower().removesuffix(".gz").endswith(".csv") else "\t"


def stem(path: StrPath) -> str:
    """A name for what a file holds: graph.tsv.gz -> graph."""
    return Path(Path(path).name.removesuffix(".gz")).stem


def check_separator(separator: str) -> str:
    if not isinstance(separator, str) or len(separator) != 1 or separator in '\n\r\0"':
        raise DataError(f"separator must be one character other than a line end or a quotation mark, got {separator!r}")
    return separator


def listing(folder: Path) -> str:
    """What a folder holds, for an error message."""
    try:
        names = sorted(entry.name + ("/" if entry.is_dir() else "") for entry in folder.iterdir())
    except OSError:
        return f"there is no folder {folder}"
    shown = ", ".join(names[:12]) + (f", ... ({len(names)} in all)" if len(names) > 12 else "")
    return f"{folder} holds: {shown or 'nothing'}"


def first_line(path: StrPath) -> str:
    """The first line of a text or gzip file, as well as it can be read."""
    block = next(_blocks(Path(path), MAX_BYTES), b"")
    return block.split(b"\n", 1)[0].decode("utf-8", "replace")


def read_columns(
    path: StrPath,
    columns: Sequence[str],
    *,
    separator: str | None = None,
    header: bool = False,
    max_bytes: int = MAX_BYTES,
) -> Iterator[list[list[str]]]:
    """Yields a table block by block, each block as one list of fields a column.

    path: plain text, or gzip where the name ends in .gz.
    columns: what each column holds, for the messages; their number is the number expected on every line.
    separator: None = by the name (`default_separator`). header: whether to skip the first line.
    max_bytes: the most the file may hold, after unpacking.
    """
    separator = default_separator(path) if separator is None else check_separator(separator)
    line, empty = 1, True
    for block in _blocks(Path(path), max_bytes):
        for fields in _parse(block, path, line, columns, separator, skip_first=header and line == 1):
            empty = False
            yield fields
        line += block.count(b"\n")
    if empty:
        what = "empty file" if line == 1 else "nothing but a header"
        raise DataError(f"{path}: {what}, expected lines of {_shape(columns, separator)}")


def write_rows(path: StrPath, rows: Iterable[Sequence[str]], *, separator: str | None = None) -> None:
    """Writes one row a line, atomically; gzip, without a time stamp, where the name ends in .gz."""
    separator = default_separator(path) if separator is None else check_separator(separator)
    with atomic_write(path, "wb") as raw:
        if os.fspath(path).endswith(".gz"):
            with gzip.GzipFile(filename="", mode="wb", fileobj=raw, mtime=0) as packed:
                _write_text(packed, rows, separator)
        else:
            _write_text(raw, rows, separator)


# ------------------------------------------------------------------------------------------------------------------


def _write_text(raw: Any, rows: Iterable[Sequence[str]], separator: str) -> None:
    text = io.TextIOWrapper(raw, encoding="utf-8", newline="")
    writer = csv.writer(text, lineterminator="\n") if separator == "," else None
    for number, row in enumerate(rows):
        if number == 0 and row[0].startswith("\ufeff"):
            text.write("\ufeff")  # else the reader would take the name's own mark for the file's
        if writer is not None:
            writer.writerow(row)
            continue
        for name in row:
            if separator in name:
                raise DataError(f"cannot write {name!r}: it holds the separator {_show(separator)}")
        text.write(separator.join(row) + "\n")
    text.flush()
    text.detach()


def _show(separator: str) -> str:
    return {"\t": "<TAB>", " ": "<SPACE>"}.get(separator, separator)


def _shape(columns: Sequence[str], separator: str) -> str:
    return f"{len(columns)} columns {_show(separator).join(columns)}"


class _Source:
    """The bytes of a file, without a byte order mark, never more than `max_bytes`; `lines` counts the line ends."""

    def __init__(self, file: IO[bytes], path: Path, max_bytes: int) -> None:
        self.file, self.path, self.max_bytes = file, path, max_bytes
        self.total = self.lines = 0

    def read(self, size: int) -> bytes:
        chunk = self.file.read(size)
        first = self.total == 0
        self.total += len(chunk)
        self.lines += chunk.count(b"\n")
        if self.total > self.max_bytes:
            packed = " unpacks to" if self.path.suffix == ".gz" else " holds"
            raise DataError(f"{self.path}:{packed} more than {self.max_bytes:,} bytes; raise max_bytes if you trust it")
        return chunk.removeprefix(b"\xef\xbb\xbf") if first else chunk


@contextlib.contextmanager
def opened(path: Path, max_bytes: int) -> Iterator[_Source]:
    """Opens a plain or gzip file; whatever keeps it from being read becomes a `DataError` that names it."""
    try:
        with _open(path) as file:
            yield _Source(file, path, max_bytes)
    except FileNotFoundError:
        raise DataError(f"{path}: no such file; {listing(path.parent)}") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: damaged or truncated gzip file ({error})") from error
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from error


def _blocks(path: Path, max_bytes: int) -> Iterator[bytes]:
    """Whole lines, some megabytes at a time: without the mark at the start, without blank lines at the end."""
    rest = b""
    with opened(path, max_bytes) as file:
        while chunk := file.read(BLOCK_BYTES):
            rest += chunk
            # the last line that says something waits for the next chunk: it, or the blanks after it, may go on
            cut = rest.rstrip(b"\r\n").rfind(b"\n") + 1
            if len(rest) - cut > MAX_LINE_BYTES:
                raise DataError(f"{path}: a line, or a run of blank lines, is longer than {MAX_LINE_BYTES:,} bytes")
            if cut:
                yield rest[:cut]
                rest = rest[cut:]
    if rest := rest.rstrip(b"\r\n"):
        yield rest + b"\n"


def _open(path: Path) -> IO[bytes]:
    if path.is_dir():
        raise DataError(f"{path}: a folder, expected a file; {listing(path)}")
    if path.suffix != ".gz":
        return open(path, "rb")
    return cast(IO[bytes], gzip.open(path, "rb"))


def _parse(
    block: bytes, path: StrPath, line: int, columns: Sequence[str], separator: str, skip_first: bool
) -> Iterator[list[list[str]]]:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        bad = line + block.count(b"\n", 0, error.start)
        raise DataError(
            f"{path}:{bad}: byte 0x{block[error.start]:02x} is not UTF-8; convert the file, e.g. iconv -t UTF-8"
        ) from error
    if "\0" in text:
        bad = line + text.count("\n", 0, text.index("\0"))
        raise DataError(f"{path}:{bad}: a NUL character; is this a binary file?")
    if "\r" in text:
        text = text.replace("\r\n", "\n")
        if "\r" in text:
            bad = line + text.count("\n", 0, text.index("\r"))
            raise DataError(f"{path}:{bad}: a carriage return inside a line; end lines with LF or CR LF")
    if skip_first:
        line += 1
        text = text.partition("\n")[2]
        if not text:
            return
    lines = text[:-1].split("\n")
    if separator == "," and '"' in text:
        rows = [_csv(row, path, line + i) for i, row in enumerate(lines)]
        widths = list(map(len, rows))
        flat = list(itertools.chain.from_iterable(rows))
    else:  # one split of the whole block: a list a line would cost five times as much
        widths = [row.count(separator) + 1 for row in lines]
        flat = text[:-1].replace("\n", separator).split(separator)
    if set(widths) != {len(columns)}:
        i = next(i for i, width in enumerate(widths) if width != len(columns))
        raise DataError(f"{path}:{line + i}: {_wrong_columns(lines[i], widths[i], columns, separator)}")
    if separator != "\t" and "\t" in text:
        i = next(i for i, row in enumerate(lines) if "\t" in row)
        raise DataError(f"{path}:{line + i}: a tab inside a field of {_quote(lines[i])}")
    fields = [flat[i :: len(columns)] for i in range(len(columns))]
    for name, column in zip(columns, fields, strict=True):
        blank = {field for field in set(column) if not field.strip()}
        if blank:
            i = next(i for i, field in enumerate(column) if field in blank)
            raise DataError(f"{path}:{line + i}: empty {name} in {_quote(lines[i])}")
    yield fields


def _csv(text: str, path: StrPath, line: int) -> list[str]:
    try:
        return next(csv.reader([text], strict=True), [""])
    except csv.Error as error:
        raise DataError(f"{path}:{line}: {error} in {_quote(text)}; a quoted field must end on its line") from None


def _wrong_columns(text: str, found: int, columns: Sequence[str], separator: str) -> str:
    message = f"expected {_shape(columns, separator)}, got {found} in {_quote(text)}"
    if not text.strip():
        return f"blank line, expected {_shape(columns, separator)}"
    others = [other for other in "\t, ;|" if other != separator and text.count(other) == len(columns) - 1]
    if found == 1 and others:
        message += f"; the columns may be separated by {_show(others[0])}: pass separator={others[0]!r}"
    return message


def _quote(text: str, most: int = 60) -> str:
    return repr(text if len(text) <= most else text[:most] + "...")
