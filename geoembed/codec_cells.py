"""How the codec names the cells of each tiling, see `codec`: rows of whole numbers, and streams of bytes."""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from geoembed.manifolds import HTiling
from geoembed.manifolds.limbs import BITS, digits_of_integer, integer_of
from geoembed.manifolds.ltiling import LTiling

__all__ = ["BoxCells", "SquareCells", "packed", "unpacked"]

Streams = dict[str, tuple[bytes, bool]]


class BoxCells:
    """Cells of `HTiling`: a row is (j, numbers k 2^bits + x 2^bits, the digits of the height)."""

    def __init__(self, manifold: HTiling, bits: int):
        self.tiling, self.bits = manifold, bits

    @staticmethod
    def settings(manifold: HTiling) -> dict[str, int]:
        return {"dim": manifold.dim}

    @staticmethod
    def manifold(header: dict[str, Any]) -> HTiling:
        return HTiling(header["dim"], header["limbs"], header["c"])

    def rows(self, points: Tensor) -> list[tuple[int, list[int], int]]:
        """points: (n, k) -> n rows."""
        n, grid = self.tiling.dim, 2.0**self.bits
        base, limbs = BITS[points.dtype], self.tiling.limbs_of(points.shape[-1])
        cells = points.double()
        places = (cells[:, : n - 1] * grid).floor().long().tolist()
        heights = ((cells[:, n - 1] - 1) * grid).floor().long().tolist()
        levels = cells[:, n].long().tolist()
        digits = cells[:, n + 1 :].view(len(points), limbs, n - 1).long().transpose(1, 2).tolist()
        numbers = [
            [(integer_of(ds, base) << self.bits) + q for ds, q in zip(row, place, strict=True)]
            for row, place in zip(digits, places, strict=True)
        ]
        return list(zip(levels, numbers, heights, strict=True))

    def points(self, rows: list[tuple[int, list[int], int]], dtype: torch.dtype) -> Tensor:
        """Inverse of `rows`: the middle of each box of the grid."""
        n, limbs, base = self.tiling.dim, self.tiling.limbs, BITS[dtype]
        mask = (1 << self.bits) - 1
        out = torch.zeros(len(rows), self.tiling.width, dtype=torch.float64)
        if not rows:
            return out.to(dtype)
        grid = 2.0**self.bits
        out[:, : n - 1] = (_whole([[v & mask for v in row[1]] for row in rows]) + 0.5) / grid
        out[:, n - 1] = 1 + (_whole([row[2] for row in rows]) + 0.5) / grid
        out[:, n] = _whole([row[0] for row in rows])
        digits = [[digits_of_integer(v >> self.bits, base) for v in row[1]] for row in rows]
        filled = _whole([[ds + [0] * (limbs - len(ds)) for ds in row] for row in digits])
        out[:, n + 1 :] = filled.view(len(rows), n - 1, limbs).mT.flatten(1)
        return out.to(dtype)

    def keys(self, rows: list[tuple[int, list[int], int]]) -> list[int]:
        """Numbers that sort the rows along the boundary, digits of several coordinates interleaved."""
        deepest = min((level for level, _, _ in rows), default=0)
        aligned = [[v << (level - deepest) for v in numbers] for level, numbers, _ in rows]
        if self.tiling.dim <= 2:
            return [row[0] if row else 0 for row in aligned]
        least = min(map(min, aligned), default=0)
        width = max((max(row) - least).bit_length() for row in aligned) if aligned else 0
        texts = [[format(v - least, f"0{width}b") for v in row] for row in aligned]
        return [int("".join(map("".join, zip(*row, strict=True))) or "0", 2) for row in texts]

    def name_bits(self, row: tuple[int, list[int], int]) -> int:
        """Digits of k with its sign, and of j, each after a 4-bit count of the digits of their number."""
        numbers = [row[0], *(v >> self.bits for v in row[1])]
        return sum(abs(v).bit_length() + 1 + abs(v).bit_length().bit_length() + 4 for v in numbers)

    def streams(self, rows: list[tuple[int, list[int], int]]) -> Streams:
        heads, digits = bytearray(), []
        level, numbers = 0, [0] * (self.tiling.dim - 1)
        for row in rows:
            heads += varint(zigzag(row[0] - level))
            shift = level - row[0]
            for before, value in zip(numbers, row[1], strict=True):
                delta = value - (before << shift if shift >= 0 else before >> -shift)
                size = abs(delta).bit_length()
                heads += varint(2 * size + (delta < 0))
                if size > 1:
                    digits.append((abs(delta) - (1 << (size - 1)), size - 1))  # the first digit is a one
            digits.append((row[2], self.bits))
            level, numbers = row[0], row[1]
        return {"heads": (bytes(heads), True), "digits": (packed(digits), False)}

    def read(self, streams: dict[str, bytes], count: int) -> list[tuple[int, list[int], int]]:
        heads, text, at = varints(streams["heads"]), unpacked(streams["digits"]), 0
        level, numbers, rows = 0, [0] * (self.tiling.dim - 1), []
        for _ in range(count):
            step = next(heads)
            new = level + ((step >> 1) ^ -(step & 1))
            shift, values = level - new, []
            for before in numbers:
                size, negative = divmod(next(heads), 2)
                delta = 0
                if size:
                    delta = (1 << (size - 1)) + (int(text[at : at + size - 1], 2) if size > 1 else 0)
                    at += size - 1
                values.append((before << shift if shift >= 0 else before >> -shift) + (-delta if negative else delta))
            rows.append((new, values, int(text[at : at + self.bits], 2)))
            at += self.bits
            level, numbers = new, values
        return rows


def _whole(numbers: list) -> Tensor:
    """Whole numbers below 2^53."""
    return torch.tensor(numbers, dtype=torch.float64)


Words = list[list[tuple[str, int]]]

CODE = {1: 2, 5: 2, 2: 3, 3: 3, 4: 3}  # exponent -> length of its code among 10, 11, 001, 010, 011


class SquareCells:
    """Cells of `LTiling`: a row is (words, one a plane, places in the squares as whole numbers, two a plane)."""

    def __init__(self, manifold: LTiling, bits: int):
        self.tiling, self.bits = manifold, bits

    @staticmethod
    def settings(manifold: LTiling) -> dict[str, Any]:
        return {"planes": manifold.planes, "metric": manifold.metric}

    @staticmethod
    def manifold(header: dict[str, Any]) -> LTiling:
        return LTiling(header["planes"], header["limbs"], metric=header["metric"], c=header["c"])

    def rows(self, points: Tensor) -> list[tuple[Words, list[int]]]:
        """points: (n, k) -> n rows."""
        grid = 1 << (self.bits - 1)
        places = (self.tiling.cells(points).double() * grid).round().long().tolist()
        for place in places:
            for i in range(0, len(place), 2):
                place[i], place[i + 1] = _inside(place[i], place[i + 1], grid)
        return list(zip(self.tiling.words(points), places, strict=True))

    def points(self, rows: list[tuple[Words, list[int]]], dtype: torch.dtype) -> Tensor:
        """Inverse of `rows`."""
        if not rows:
            return torch.zeros(0, self.tiling.width, dtype=dtype)
        places = torch.tensor([place for _, place in rows], dtype=torch.float64) / (1 << (self.bits - 1))
        return self.tiling.from_words([words for words, _ in rows], places.to(dtype))

    def keys(self, rows: list[tuple[Words, list[int]]]) -> list[Words]:
        return [words for words, _ in rows]

    def name_bits(self, row: tuple[Words, list[int]]) -> int:
        """The variable-length code of the paper."""
        return sum(1 + sum(CODE[k] for _, k in word) + 3 for word in row[0])

    def streams(self, rows: list[tuple[Words, list[int]]]) -> Streams:
        heads, letters, places = bytearray(), bytearray(), []
        before: Words = [[] for _ in range(self.tiling.planes)]
        offset = 1 << (self.bits - 1)
        for words, place in rows:
            for last, word in zip(before, words, strict=True):
                same = _common(last, word)
                heads += varint(same) + varint(len(word) - same)
                if same == 0 and word:
                    heads.append(word[0][0] == "b")
                letters += bytes(k for _, k in word[same:])
            places += [(value + offset, self.bits + 1) for value in place]
            before = words
        return {"heads": (bytes(heads), True), "letters": (bytes(letters), True), "places": (packed(places), False)}

    def read(self, streams: dict[str, bytes], count: int) -> list[tuple[Words, list[int]]]:
        heads, letters = varints(streams["heads"]), iter(streams["letters"])
        text, at, width = unpacked(streams["places"]), 0, self.bits + 1
        before: Words = [[] for _ in range(self.tiling.planes)]
        offset, rows = 1 << (self.bits - 1), []
        for _ in range(count):
            words = []
            for last in before:
                same, more = next(heads), next(heads)
                first = "b" if same == 0 and more and next(heads) else "a"
                first = last[0][0] if same else first
                names = "ab" if first == "a" else "ba"
                word = [*last[:same], *((names[(same + i) % 2], next(letters)) for i in range(more))]
                words.append(word)
            place = [int(text[at + i * width : at + (i + 1) * width], 2) - offset for i in range(self.tiling.dim)]
            at += width * self.tiling.dim
            rows.append((words, place))
            before = words
        return rows


def _inside(u: int, v: int, grid: int) -> tuple[int, int]:
    """The nearest point of the grid in the square 2 x1^2 - x2^2 <= 1, 2 x2^2 - x1^2 <= 1, from one just outside."""
    while 2 * u * u - v * v > grid * grid:
        u -= 1 if u > 0 else -1
    while 2 * v * v - u * u > grid * grid:
        v -= 1 if v > 0 else -1
    return (u, v) if 2 * u * u - v * v <= grid * grid else _inside(u, v, grid)


def _common(x: list, y: list) -> int:
    """How many letters two words begin with alike."""
    count = 0
    for a, b in zip(x, y, strict=False):
        if a != b:
            break
        count += 1
    return count


# ------------------------------------------------------------------------------------------------ bits and bytes


def packed(values: list[tuple[int, int]]) -> bytes:
    """Numbers >= 0 one after another, (value, how many bits) each; zeros fill the last byte."""
    text = "".join(format(value, f"0{width}b") for value, width in values if width)
    text += "0" * (-len(text) % 8)
    return int(text, 2).to_bytes(len(text) // 8, "big") if text else b""


def unpacked(data: bytes) -> str:
    """The bits of `packed`, as text of zeros and ones."""
    return format(int.from_bytes(data, "big"), f"0{8 * len(data)}b") if data else ""


def zigzag(value: int) -> int:
    """0, -1, 1, -2, .. as 0, 1, 2, 3, .."""
    return 2 * value if value >= 0 else -2 * value - 1


def varint(value: int) -> bytes:
    """A number >= 0 in as many groups of 7 bits as it needs."""
    out = bytearray()
    while value > 127:
        out.append(value & 127 | 128)
        value >>= 7
    out.append(value)
    return bytes(out)


def varints(data: bytes) -> Iterator[int]:
    """Inverse of `varint`, one after another."""
    value = shift = 0
    for byte in data:
        value |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            yield value
            value = shift = 0
