"""One square of the tiled hyperbolic plane: rows, the geometry around its centre, and the carry to it.

A point is a frame, an element of the group of `frames`, that moves a point x = x_1 + i x_2 of the square F, the
space-like coordinates on the hyperboloid, to where it is; x_0 = sqrt(1 + |x|^2), and

    F = {sqrt3 |x_1| <= x_0, sqrt3 |x_2| <= x_0},    the regular square of angles 60 degrees, six around each corner.

In the notation of `spinors`, b_x = (p, x / 2p), p = sqrt((1 + x_0) / 2), moves the centre to x along their geodesic.
It takes an orthonormal frame along, in which tangent vectors are given as complex numbers. A point outside F is moved
by a, b or an inverse, a turn about an end of the side it lies beyond, until it is inside; that turns tangent vectors
against the frame there.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.errors import DomainError
from geoembed.manifolds.frames import BITS, GENERATORS, inverse, signed, times, trimmed
from geoembed.manifolds.limbs import used

__all__ = [
    "SQRT3",
    "carry",
    "cells_of",
    "columns",
    "dot",
    "frame_digits",
    "half",
    "limbs_for",
    "lower",
    "outside",
    "raised",
    "rows_of",
    "spin_of",
    "time_of",
    "with_cells",
    "with_frames",
]

LOG2, SQRT3 = math.log(2), math.sqrt(3)
_WITHIN = 0.7  # coordinates below sqrt(1/2) are in the square
_LETTERS = 20  # of a carry between products of integers: below 2^20, and 2^23 times 8 times that below 2^53
_APART = 1.1463  # arcosh(sqrt3), from the centre of the square to a corner


# ------------------------------------------------------------------------------ rows


def columns(x: Tensor, planes: int) -> Tensor:
    """Rows (*B, planes (2 + 4 L)) as (2 + 4 L, planes, *B) in float64, limbs that are zero in all left out."""
    numbers = x.unflatten(-1, (planes, -1))
    if numbers.shape[-1] > 6:
        numbers = numbers[..., : 2 + 4 * used(numbers[..., 2:], 4)]
    return numbers.movedim((-1, -2), (0, 1)).to(torch.float64, memory_format=torch.contiguous_format)


def cells_of(x: Tensor, planes: int) -> Tensor:
    """The points of the square, or components of tangent vectors. (*B, k) -> (planes, *B) complex."""
    cells = x.unflatten(-1, (planes, -1))[..., :2].movedim(-2, 0)
    return torch.complex(cells[..., 0], cells[..., 1])


def rows_of(cells: Tensor, like: Tensor) -> Tensor:
    """Rows with these cells and zeros. (planes, *B) -> (*B, k)."""
    planes = len(cells)
    pairs = torch.view_as_real(cells).movedim(0, -2).to(like.dtype)
    return pad(pairs, (0, like.shape[-1] // planes - 2)).flatten(-2)


def with_cells(x: Tensor, cells: Tensor) -> Tensor:
    """The rows with other cells. x: (*B, k), cells: (planes, *B) -> (*B, k)."""
    pairs = torch.view_as_real(cells).movedim(0, -2).to(x.dtype)
    return torch.slice_scatter(x.unflatten(-1, (len(cells), -1)), pairs, -1, 0, 2).flatten(-2)


def with_frames(x: Tensor, digits: Tensor) -> Tensor:
    """The rows with other frames, of either sign. x: (*B, k), digits: (L, 2, planes, *B). Raises DomainError."""
    digits = trimmed(digits)
    planes, limbs = digits.shape[2], (x.shape[-1] // digits.shape[2] - 2) // 4
    if len(digits) > limbs:
        raise DomainError(_beyond(digits, limbs))
    pairs = torch.view_as_real(digits * signed(digits)).movedim((0, 1, 2), (-3, -2, -4))
    numbers = pad(pairs.flatten(-3).to(x.dtype), (0, 4 * (limbs - len(digits))))
    return torch.cat([x.unflatten(-1, (planes, -1))[..., :2], numbers], dim=-1).flatten(-2)


def frame_digits(x: Tensor, planes: int) -> Tensor:
    """The limbs of the frames. (*B, k) -> (L, 2, planes, *B) complex128."""
    numbers = columns(x, planes)[2:].unflatten(0, (-1, 2, 2)).movedim(2, -1)
    numbers = numbers.clone(memory_format=torch.contiguous_format)  # memory from a file need not be aligned for them
    return torch.view_as_complex(numbers)


def limbs_for(radius: float) -> int:
    """Limbs that hold the frames of all points at most so far from the centre."""
    half_way = (radius + _APART) / 2  # numbers are at most 2 sqrt3 cosh(half_way)
    bits = (half_way + math.log1p(math.exp(-2 * half_way)) + math.log(SQRT3)) / LOG2
    return max(1, math.ceil((bits + 1.00001) / BITS))


# ------------------------------------------------------------------------------ around the centre


def time_of(x: Tensor) -> Tensor:
    """x_0, for coordinates whose squares do not overflow."""
    return (1 + dot(x, x)).sqrt()


def _far_time(x: Tensor) -> Tensor:
    """x_0, for coordinates up to the largest float; slower."""
    return torch.hypot(torch.hypot(x.real, torch.ones_like(x.real)), x.imag)


def half(x: Tensor, time: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """b_x = (p, s), p real. x: complex, any shape; time: x_0 if known."""
    p = ((1 + (time_of(x) if time is None else time)) / 2).sqrt()
    return p, x / (2 * p)


def dot(a: Tensor, b: Tensor) -> Tensor:
    """Re(conj(a) b)."""
    return a.real * b.real + a.imag * b.imag


def lower(x: Tensor, gradient: Tensor) -> Tensor:
    """From derivatives by the coordinates to those in the frame; from components in it to changes of coordinates."""
    return gradient + x * (dot(x, gradient) / (1 + time_of(x)))


def raised(x: Tensor, slope: Tensor) -> Tensor:
    """Inverse of `lower`."""
    time = time_of(x)
    return slope - x * (dot(x, slope) / (time * (1 + time)))


def spin_of(x: Tensor) -> Tensor:
    """How fast the frame turns as x changes: by Re(conj(spin_of(x)) dx)."""
    return 1j * x / (1 + time_of(x))


def outside(x: Tensor, tolerance: float) -> Tensor:
    """Which points are outside the square. x: complex, any shape."""
    time = _far_time(x)
    return SQRT3 * torch.maximum(x.real.abs(), x.imag.abs()) - time > tolerance * time


# ------------------------------------------------------------------------------ the carry


def carry(x: Tensor, planes: int) -> tuple[Tensor, Tensor]:
    """The rows with their cells in the square, and what tangent vectors are to be multiplied by. Raises DomainError.

    x: (*B, k) -> (*B, k), (planes, *B) complex of length 1.
    """
    return _Carry.apply(x, planes)


class _Carry(torch.autograd.Function):
    """`carry`, with the derivative of a motion: in the frames it is the turn."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, planes):
        return _carry_op(x, planes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.planes = inputs[1]
        ctx.save_for_backward(inputs[0], *output)

    @staticmethod
    def backward(ctx, grad, grad_turn):
        x, y, turn = ctx.saved_tensors
        before, after, slope = (cells_of(row, ctx.planes).to(turn.dtype) for row in (x, y, grad))
        by_turn = dot(grad_turn, 1j * turn)
        slope = turn.conj() * lower(after, slope - by_turn * spin_of(after))
        return rows_of(raised(before, slope) + by_turn * spin_of(before), x), None


@torch.library.custom_op("geoembed::ltiling_carry", mutates_args=())
def _carry_op(x: Tensor, planes: int) -> tuple[Tensor, Tensor]:
    out = x.clone(memory_format=torch.contiguous_format)
    rows = out.view(-1, out.shape[-1] // planes)  # one plane of one point each
    cells = torch.view_as_complex(rows[:, :2].double())
    turn = torch.ones_like(cells)
    picked = (rows[:, :2].abs() > _WITHIN).any(-1).nonzero().squeeze(-1)
    if bool(torch.isinf(rows[picked, :2]).any()):
        raise DomainError(_infinite(rows))
    picked = picked[outside(cells[picked], 64 * torch.finfo(x.dtype).eps)]
    if len(picked):
        digits = frame_digits(rows[picked], 1).squeeze(2)
        cells, digits, turns = _carried(cells[picked], digits)
        moved = with_cells(rows[picked], cells.unsqueeze(0))
        rows[picked] = with_frames(moved, digits.unsqueeze(2))
        turn[picked] = turns
    return out, turn.view(*x.shape[:-1], planes).movedim(-1, 0).contiguous()


def _carried(x: Tensor, digits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Points brought into the square, their frames in as many limbs as those take, and the turns of tangent vectors.

    x: (m), digits: (L, 2, m) -> (m), (L', 2, m), (m).
    """
    letters = [GENERATORS["a"], GENERATORS["b"], inverse(GENERATORS["a"]), inverse(GENERATORS["b"])]
    table = torch.tensor(letters, dtype=torch.float64, device=x.device)
    a, b = torch.view_as_complex(table.view(4, 2, 2)).unbind(1)
    turn, tolerance, left = torch.ones_like(x), 64 * torch.finfo(torch.float64).eps, True
    while left:
        e, f = torch.full_like(x, 2), torch.zeros_like(x)  # the way back, to multiply the frames by
        for letter in range(_LETTERS):
            out = outside(x, tolerance)
            left = bool(out.any())
            if not left:
                break
            east, north, time = x.real, x.imag, _far_time(x)
            across = east.abs() >= north.abs()
            near = torch.where(across, east, north)
            new = 2 * near - SQRT3 * time.copysign(near)
            y = torch.where(across, torch.complex(-north, new), torch.complex(new, -east))
            which = torch.where(across, (east > 0).long(), 2 + (north < 0).long())
            (p, s), c, d = half(x, time), a[which], b[which]
            alpha = c * p + SQRT3 * d * s.conj_physical()
            x, turn = torch.where(out, y, x), torch.where(out, turn * (alpha / alpha.abs()).square(), turn)
            # (e, f) times (conj(c), -d)
            divisor = 6 if letter % 2 else 2
            back = e * c.conj_physical() - 3 * f * d.conj_physical(), f * c - e * d
            e, f = (torch.where(out, new / divisor, old) for new, old in zip(back, (e, f), strict=True))
        digits = trimmed(times(digits, torch.stack([e, f]).unsqueeze(0)))
    return x, digits, turn


def _infinite(rows: Tensor) -> str:
    """What to say of cells that are not finite. rows: (m, k)."""
    bad = torch.isinf(rows[:, :2]).any(-1)
    return (
        f"LTiling: {int(bad.sum())} of {len(rows)} points left the plane, with infinite coordinates. No step is longer "
        f"than {math.log(torch.finfo(rows.dtype).max) - 1:.0f}: lower the learning rate, or take the step in parts"
    )


def _beyond(digits: Tensor, limbs: int) -> str:
    """What to say of frames that need more limbs. digits: (L, 2, *E)."""
    high = digits[limbs:]
    beyond = int(((high != 0) & (high == high)).any(0).any(0).sum())
    radius = 2 * ((BITS * limbs - 1) * LOG2 - math.log(SQRT3)) - _APART
    return (
        f"LTiling: {beyond} point(s) lie beyond radius {radius:.0f}, where rows of {limbs} limb(s) of {BITS} bits "
        f"end; the farthest needs limbs={len(digits)} (narrow rows: see `resized`) or a smaller scale"
    )


@_carry_op.register_fake
def _(x, planes):
    turn = x.new_empty(planes, *x.shape[:-1], dtype=torch.complex128)
    return torch.empty_like(x, memory_format=torch.contiguous_format), turn


@_carry_op.register_vmap
def _(info, in_dims, x, planes):
    return _carry_op(x.movedim(in_dims[0], 0), planes), (0, 1)
