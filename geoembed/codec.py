"""Compact files of points on a tiling, for keeping and sending embeddings.

A point is a cell, which whole numbers name, and a place in it. Places are rounded to `bits` binary digits a coordinate,
which is the only loss: the error in the plane or space is about 2^-bits everywhere, at any radius, and what comes back
from a file is coded to the same file again. Of the cells nothing is lost.

    HTiling   the digits of 2^j (x + k): one number k 2^bits + (x 2^bits) a coordinate, and j
    LTiling   the word of the frame, a^k1 b^k2 a^k3 .., as exponents; a place (x1, x2) of the square

Rows are coded against the row before: numbers as differences, words without the letters that both begin with. Children
lie near their parents, so rows are taken in the order of their numbers or words where that makes the file smaller by
more than the order costs. Lengths and letters then go through LZMA; digits of differences and places are as good as
random and are stored as they are.

Before all that, a word has the length of the paper's variable-length code: a bit for the first letter, then 10 for an
exponent 1, 11 for 5, 001, 010, 011 for 2, 3, 4, and 000 at the end.

Reference: T. Yu, C. De Sa, "Numerically accurate hyperbolic embeddings using tiling-based models", NeurIPS 2019.
"""

import hashlib
import json
import lzma
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoembed.codec_cells import BoxCells, SquareCells, packed, unpacked
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.files import atomic_write
from geoembed.manifolds import HTiling
from geoembed.manifolds.ltiling import LTiling

__all__ = ["CodecReport", "Decoded", "decode", "encode", "load_points", "report", "save_points"]

MAGIC = b"geoembed points 1\n"
MODELS: dict[str, Any] = {"HTiling": BoxCells, "LTiling": SquareCells}
MOST_BITS = {torch.float64: 48, torch.float32: 20}
DTYPES = {"float64": torch.float64, "float32": torch.float32}


class Decoded(NamedTuple):
    """What a file holds: points (n, k), their manifold, and a name a row if the file has names."""

    points: Tensor
    manifold: HTiling | LTiling
    names: list[str] | None


def encode(points: Tensor, manifold: HTiling | LTiling, bits: int = 16, names: Sequence[str] | None = None) -> bytes:
    """Points in a file's worth of bytes.

    points: (n, k) of `manifold`, float64 or float32. bits: digits of a coordinate within the cell, at most 48 in
    float64 and 20 in float32. names: one a row, kept with the points.

    Raises ShapeError for other shapes and manifolds, DomainError for points off the manifold and for other `bits`.
    """
    if type(manifold).__name__ not in MODELS:
        raise ShapeError(f"encode: expected points of HTiling or LTiling, got {manifold!r}; convert them first")
    if points.dim() != 2 or points.dtype not in MOST_BITS:
        raise ShapeError(
            f"encode: expected (n, k) float64 or float32, got {points.dtype} of shape {tuple(points.shape)}"
        )
    if not 1 <= bits <= MOST_BITS[points.dtype]:
        raise DomainError(f"encode: bits must lie in 1 .. {MOST_BITS[points.dtype]} for {points.dtype}, got {bits}")
    if names is not None and len(names) != len(points):
        raise ShapeError(f"encode: {len(points)} points need as many names, got {len(names)}")
    points = points.detach().cpu()
    manifold.check(points)
    cells = MODELS[type(manifold).__name__](manifold, bits)
    rows = cells.rows(points)
    kept = cells.streams(rows)
    order = sorted(range(len(rows)), key=cells.keys(rows).__getitem__)
    ordered = cells.streams([rows[i] for i in order])
    width = max(1, (len(rows) - 1).bit_length())
    if _size(ordered) + len(rows) * width / 8 < _size(kept):
        kept = ordered | {"order": (packed([(i, width) for i in order]), False)}
    if names is not None:
        kept = kept | {"names": (json.dumps(list(names), ensure_ascii=False).encode(), True)}
    return _file(_header(manifold, points, bits), kept)


def decode(data: bytes) -> Decoded:
    """Inverse of `encode`. Raises DataError for bytes that are not a whole file of this kind."""
    header, streams = _read(data)
    cells = MODELS[header["model"]]
    manifold = cells.manifold(header)
    rows = cells(manifold, header["bits"]).read(streams, header["rows"])
    if "order" in streams:
        width = max(1, (header["rows"] - 1).bit_length())
        reader = unpacked(streams["order"])
        place = [int(reader[i * width : (i + 1) * width], 2) for i in range(header["rows"])]
        rows = [row for _, row in sorted(zip(place, rows, strict=True), key=lambda pair: pair[0])]
    points = cells(manifold, header["bits"]).points(rows, DTYPES[header["dtype"]])
    return Decoded(points, manifold, json.loads(streams["names"]) if "names" in streams else None)


def save_points(
    path: str | os.PathLike[str],
    points: Tensor,
    manifold: HTiling | LTiling,
    bits: int = 16,
    names: Sequence[str] | None = None,
) -> None:
    """`encode` to a file, which is there whole or not at all."""
    data = encode(points, manifold, bits, names)
    with atomic_write(path, "wb") as file:
        file.write(data)


def load_points(path: str | os.PathLike[str]) -> Decoded:
    """`decode` of a file. Raises DataError, which names the file."""
    try:
        return decode(Path(path).read_bytes())
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except DataError as error:
        raise DataError(f"{path}: {error}") from error


@dataclass(frozen=True)
class CodecReport:
    """How small and how exact a file of points is. Sizes in bytes, distances in units of curvature -1.

    Attributes:
        rows, size, bits_per_point: of the file, without the names in it.
        error: root mean square of the distances between points and what comes back.
        cell_bits_per_unit: bits of the cells' names before differences and entropy coding, for each unit of radius.
        radius: of the farthest point.
        raw: the float tensor in memory. packed, text: the same points in the Poincare ball at the precision that the
            farthest needs for the same error, in binary and in decimal digits.
    """

    rows: int
    size: int
    bits_per_point: float
    error: float
    cell_bits_per_unit: float
    radius: float
    raw: int
    packed: int
    text: int

    def __str__(self) -> str:
        share = [f"{self.size / other:.2%} of {name}" for other, name in self._others() if other]
        return (
            f"{self.rows} points in {self.size:,} bytes, {self.bits_per_point:.1f} bits a point: {', '.join(share)}.\n"
            f"Error {self.error:.2e} (root mean square distance); radius up to {self.radius:.1f}; names of the cells "
            f"{self.cell_bits_per_unit:.2f} bits a unit of radius before coding."
        )

    def _others(self) -> list[tuple[int, str]]:
        return [
            (self.raw, f"the tensor ({self.raw:,})"),
            (self.packed, f"a Poincare ball of the same precision in binary ({self.packed:,})"),
            (self.text, f"the same as text ({self.text:,})"),
        ]


def report(points: Tensor, manifold: HTiling | LTiling, bits: int = 16, data: bytes | None = None) -> CodecReport:
    """What `encode` makes of points: (n, k); `data` is its result, where it is there already.

    A ball coordinate of a point at radius r needs r / log 2 binary digits to be as exact as one at the origin.
    """
    data = encode(points, manifold, bits) if data is None else data
    size = len(data) - len(_parts(data)[1].get("names", b""))
    again = decode(data).points
    points = points.detach().cpu()
    error = manifold.dist(points, again).double().square().mean().sqrt().item() if len(points) else 0.0
    unit = manifold.c.detach().double().sqrt().item()
    radii = manifold.dist(manifold.origin(points.shape[-1], dtype=points.dtype), points).double() * unit
    radius = radii.max().item() if len(points) else 0.0
    cells = MODELS[type(manifold).__name__](manifold, bits)
    named = sum(cells.name_bits(row) for row in cells.rows(points))
    binary = radius / math.log(2) + bits
    return CodecReport(
        rows=len(points),
        size=size,
        bits_per_point=8 * size / max(1, len(points)),
        error=error * unit,
        cell_bits_per_unit=named / max(radii.sum().item(), 1e-300),
        radius=radius,
        raw=points.numel() * points.element_size(),
        packed=math.ceil(len(points) * manifold.dim * binary / 8),
        text=math.ceil(len(points) * manifold.dim * (binary * math.log10(2) + 3)),  # "0." and a separator
    )


# ------------------------------------------------------------------------------------------------ the file

Streams = dict[str, tuple[bytes, bool]]  # name -> (bytes, whether LZMA makes them smaller)
_LZMA: Any = {"format": lzma.FORMAT_RAW, "filters": [{"id": lzma.FILTER_LZMA2, "preset": 9 | lzma.PRESET_EXTREME}]}


def _squeezed(streams: Streams) -> dict[str, bytes]:
    return {name: lzma.compress(data, **_LZMA) if coded else data for name, (data, coded) in streams.items()}


def _size(streams: Streams) -> int:
    return sum(map(len, _squeezed(streams).values()))


def _header(manifold: HTiling | LTiling, points: Tensor, bits: int) -> dict[str, Any]:
    c = manifold.c.detach().double().item()
    common = {"model": type(manifold).__name__, "limbs": manifold.limbs, "c": c, "bits": bits, "rows": len(points)}
    return common | MODELS[type(manifold).__name__].settings(manifold) | {"dtype": str(points.dtype).split(".")[1]}


def _file(header: dict[str, Any], streams: Streams) -> bytes:
    parts = _squeezed(streams)
    coded = sorted(name for name, (_, coded) in streams.items() if coded)
    header = header | {"streams": {name: len(part) for name, part in parts.items()}, "coded": coded}
    body = MAGIC + json.dumps(header).encode() + b"\n" + b"".join(parts.values())
    return body + hashlib.sha256(body).digest()


def _read(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    header, parts = _parts(data)
    return header, {n: lzma.decompress(p, **_LZMA) if n in header["coded"] else p for n, p in parts.items()}


def _parts(data: bytes) -> tuple[dict[str, Any], dict[str, bytes]]:
    """The header and the streams as they are in the file."""
    if not data.startswith(MAGIC):
        raise DataError("not a file of points, or one of a later version; `geoembed.codec.encode` makes such files")
    body, digest = data[:-32], data[-32:]
    if hashlib.sha256(body).digest() != digest:
        raise DataError("the file is damaged or cut short: its check sum does not agree. Copy or make it again.")
    end = body.index(b"\n", len(MAGIC))
    header = json.loads(body[len(MAGIC) : end])
    start, parts = end + 1, {}
    for name, length in header["streams"].items():
        parts[name] = body[start : start + length]
        start += length
    return header, parts
