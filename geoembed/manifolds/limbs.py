"""Integers of any size in floating-point limbs, for many numbers at once.

    k = sum_l k_l B^l,   -B/2 <= k_l < B/2,   B = 2^40 in float64, 2^20 in float32

The limbs are the first dimension, the least significant first. The digits are balanced, so that a small number of
either sign has few of them, and products with powers of two are exact, so that shifting, carrying and subtracting
need no integer type: every digit below stays under 2^42 (2^22) and is exact.
"""

from collections.abc import Iterable

import torch
from torch import Tensor

__all__ = ["BITS", "carried", "difference", "digits_of_integer", "integer_of", "rescaled", "summed", "used"]

BITS = {torch.float64: 40, torch.float32: 20}
_ROOM = {torch.float64: 8, torch.float32: 2}  # so many limbs are summed without a look at the size of the sum
_FULL = {torch.float64: 2.0**80, torch.float32: 2.0**28}  # what follows such a sum is below its rounding
_WIDEST = {torch.float64: 1000, torch.float32: 120}  # powers of two up to here are safe from overflow


def summed(digits: Tensor) -> tuple[Tensor, Tensor | None]:
    """sum_l digits_l B^l to the rounding of the result, however much of it cancels. digits: (L, *E) of any sign.

    Returns (s, e), the sum being s B^e; e is None for zero. Horner's rule from the top: while the sum is small it is
    exact, and once it is rounded the digits that follow cannot cancel it.
    """
    dtype = digits.dtype
    base = 2.0 ** BITS[dtype]
    total, exponent = digits[-1], None
    for step, digit in enumerate(digits[:-1].flip(0).unbind(0)):
        more = torch.add(digit, total, alpha=base)
        if step + 2 <= _ROOM[dtype]:
            total = more
            continue
        full = total.abs() > _FULL[dtype]
        total = torch.where(full, total, more)
        exponent = full.to(dtype) if exponent is None else exponent + full
    return total, exponent


def _move_words(digits: Tensor, words: Tensor) -> tuple[Tensor, Tensor]:
    """floor(k B^-w) by dropping or adding whole limbs, and the part of the fraction that comes from dropped ones.

    digits: (L, c, *E), words: (*E) integers of any sign -> (L, c, *E), (c, *E).
    """
    size, base = digits.shape[0], 2.0 ** BITS[digits.dtype]
    row = torch.arange(-2, size, device=digits.device).view(-1, *[1] * words.dim())
    row = row + words.nan_to_num(0.0).clamp(-size, size + 2).long()
    row = torch.where((row >= 0) & (row < size), row, size)
    padded = torch.cat([digits, torch.zeros_like(digits[:1])])
    moved = padded.gather(0, row.unsqueeze(1).expand(-1, *digits.shape[1:]))
    return moved[2:], (moved[0] / base + moved[1]) / base


def difference(x: Tensor, k: Tensor, y: Tensor, m: Tensor, a: Tensor, b: Tensor) -> tuple[Tensor, Tensor | None]:
    """2^-a (k + x) - 2^-b (m + y), where a, b >= 0 are integers one of which is zero.

    x, y: (c, *E) fractions; k, m: (L, c, *E) limbs; a, b: (*E); shapes broadcast in *E. Returns (s, e) as `summed`,
    of shape (c, *E). The result has the rounding of its own size if a + b < 2, else of the larger of it and 1.
    """
    bits = BITS[k.dtype]
    base = 2.0**bits
    low_x, low_y = x * (-a).exp2(), y * (-b).exp2()
    if bool((a + b >= bits).any()):
        (k, a, under_x), (m, b, under_y) = (_whole_words(digits, s, bits) for digits, s in ((k, a), (m, b)))
        low_x, low_y = low_x + under_x, low_y + under_y
    k, m = k * (-a).exp2(), m * (-b).exp2()
    lead_k, lead_m = k.floor(), m.floor()
    rest = k.sub_(lead_k).sub_(m.sub_(lead_m))  # below 1, and exact because one of the two is zero
    digits = lead_k.sub_(lead_m)
    digits[:-1].add_(rest[1:], alpha=base)
    total, exponent = summed(digits)
    total = total + rest[0]
    positive = total.clamp(min=0)  # 1 + x - y is (1 - y) + x, and -1 + x - y is (x - 1) - y, for x, y in [0, 1)
    return (positive - low_y) + (total - positive + low_x), exponent


def _whole_words(digits: Tensor, shift: Tensor, bits: int) -> tuple[Tensor, Tensor, Tensor]:
    """Shift right by the whole limbs of `shift` bits: the digits, the bits left to shift, the fraction shifted out."""
    words = (shift / bits).trunc()
    shape = torch.broadcast_shapes(digits.shape[2:], shift.shape)
    moved, under = _move_words(digits.expand(*digits.shape[:2], *shape), words.expand(shape))
    left = shift - bits * words
    return moved, left, under * (-left).exp2()


def rescaled(x: Tensor, k: Tensor, shift: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """2^-shift (k + x) as a fraction in [0, 1), an integer and what of it the limbs cannot hold.

    x: (c, *E) of any size, k: (L, c, *E), shift: (*E) integers of any sign -> (c, *E), (L, c, *E), (c, *E); the last is
    zero unless the integer overflows, a digit left over at B^L.
    """
    bits = BITS[k.dtype]
    base = 2.0**bits
    x = x * (-shift).exp2()
    if bool((shift.abs() >= bits).any()):
        k, shift, under = _whole_words(k, shift, bits)
        x = x + under
    k = k * (-shift).exp2()
    above = (k / base + 0.5).floor()  # of a digit times a power of two, what belongs to the next limb
    k -= above * base
    digits = k.floor()
    k -= digits  # and what belongs to the one below
    digits[1:] += above[:-1]
    digits[:-1].add_(k[1:], alpha=base)
    x = x + k[0]
    whole = x.floor()
    x = x - whole
    rounded = x >= 1  # -1e-20 - floor(-1e-20)
    x, whole = torch.where(rounded, 0.0, x), whole + rounded
    top = above[-1]
    low, high = whole.aminmax()
    if not bool((low > -base) & (high < base)):
        highest = min(len(digits), _WIDEST[k.dtype] // bits)
        for place in range(highest, 0, -1):
            part = (whole / base**place).round()
            whole = whole - part * base**place
            if place < len(digits):
                digits[place] += part
            else:
                top = top + part
    digits[0] += whole
    digits, over = carried(digits)
    return x, digits, over + top


def carried(digits: Tensor) -> tuple[Tensor, Tensor]:
    """The balanced digits of the same number, and the carry out of the last. digits: (L, *E) integers."""
    base = 2.0 ** BITS[digits.dtype]
    out, carry = [], torch.zeros_like(digits[0])
    for digit in digits.unbind(0):
        digit = digit + carry
        carry = (digit / base + 0.5).floor_()
        out.append(torch.add(digit, carry, alpha=-base))
    return torch.stack(out), carry


def used(k: Tensor, n: int) -> int:
    """How many limbs it takes to hold the integers k: (*B, n L), n digits a limb; at least 1."""
    if not k.numel():
        return 1
    columns = k
    while columns.dim() > 1:  # faster one by one; NaN counts as a number
        columns = columns.any(0)
    return int((columns != 0).cumsum(0).argmax()) // n + 1  # the last that is not zero


def digits_of_integer(k: int, bits: int) -> list[int]:
    """The balanced digits of an integer of Python in the base 2^bits, the least significant first, one at least."""
    half, base, found = 1 << (bits - 1), 1 << bits, list[int]()
    while k or not found:
        found.append((k + half) % base - half)
        k = (k - found[-1]) >> bits
    return found


def integer_of(digits: Iterable[float], bits: int) -> int:
    """Inverse of `digits_of_integer`; the digits may be floats."""
    return sum(int(digit) << (bits * place) for place, digit in enumerate(digits))
