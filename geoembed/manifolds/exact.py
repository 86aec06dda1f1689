"""From one tiling of the plane to the other in integers of any size: the same point at any radius.

A motion of the disk [[alpha, beta], [conj(beta), conj(alpha)]], up to a real factor, takes the centre to the point

    z = (beta + i conj(alpha)) / (conj(alpha) + i beta)

of the half-plane, and conj(alpha) = 1 - i z, beta = z - i is one that does so. In units small enough, integers hold

    z = 2^j (k + x + i m)                                        of `HTiling`,
    alpha = A + sqrt3 B conj(w), beta = A w + sqrt3 B            of `LTiling`, frame (A, B), cell w in the disk,

but for sqrt3, of which they take as many digits as cancel, r / log 2 bits at radius r, and 72 more. To `HTiling`, the
quotient z is rounded to m and x at the end. To `LTiling`, (alpha, beta / sqrt3) is a quaternion of `frames` with too
many digits: floats say to which square some 27 units ahead it points, the inverse of that frame takes it nearer, until
it is in the square around the centre.
"""

import math
from typing import Any

import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.manifolds.cells import bits_of
from geoembed.manifolds.frames import IDENTITY, Frame, compose, inverse
from geoembed.manifolds.limbs import digits_of_integer, integer_of
from geoembed.manifolds.squares import SQRT3, time_of

__all__ = ["between_tilings"]

_PLACE = 60  # binary digits of a place in a cell
_SPARE = 72  # of sqrt3, beyond those that cancel
_BELOW = 5  # units of radius: points farther out by that take the limbs that `limbs_for` says
_AHEAD = 1 - 2.0**-38  # in the disk, 27 units from the centre


def between_tilings(x: Tensor, source: Any, target: Any) -> Tensor:
    """The point of one of `HTiling(2)` and `LTiling(1)` that is the point x of the other, to a rounding in its cell.

    x: (*B, k) of any width -> (*B, k') with all limbs of the target. Rows that are not finite become NaN. A loop over
    rows in Python: some thousands a second at radius 200. Raises DomainError for rows that are no points, for points
    beyond what the limbs of the target hold, and if x requires a gradient: there is none.
    """
    if x.requires_grad and torch.is_grad_enabled():
        raise DomainError(f"no gradient flows from {source!r} to {target!r}; convert x.detach()")
    with torch.no_grad():
        rows = source.resized(x).reshape(-1, source.width)
        finite = rows.isfinite().all(-1)
        points = target.origin(len(rows), target.width, dtype=x.dtype, device=x.device)
        points[~finite, : target.dim] = math.nan
        if bool(finite.any()):
            rows = source.projx(rows[finite])
            source.check(rows)
            convert = _to_half_plane if target.name == "HTiling" else _to_squares
            points[finite] = convert(rows, source, target).to(points)
        return points.view(*x.shape[:-1], target.width)


def _to_half_plane(rows: Tensor, source: Any, target: Any) -> Tensor:
    cells = source.cells(rows).double()
    disk = cells / (1 + time_of(torch.view_as_complex(cells)).unsqueeze(-1))
    frames = [frame for (frame,) in source.frames(rows)]
    digits = 2 * max(number.bit_length() for frame in frames for number in frame) + _SPARE
    root, unit, bits = _root3(digits), 1 << _PLACE, bits_of(rows.dtype)
    found = []
    for (w, x, y, z), place in zip(frames, disk.tolist(), strict=True):
        u, v = (int(value * unit) for value in place)
        a, b = ((w * unit) << digits) + root * (y * u + z * v), ((x * unit) << digits) + root * (z * u - y * v)
        c, d = ((w * u - x * v) << digits) + root * y * unit, ((w * v + x * u) << digits) + root * z * unit
        # alpha = a + i b, beta = c + i d, z = (n + i m) / (p + i q)
        n, m, p, q = c + b, a + d, a - d, c - b
        across, height, below = n * p + m * q, m * p - n * q, p * p + q * q
        j = height.bit_length() - below.bit_length()
        across, height, below = across << max(0, -j), height << max(0, -j), below << max(0, j)
        if height < below:
            j, across, height = j - 1, 2 * across, 2 * height
        k, rest = divmod(across, below)
        found.append([rest / below, height / below, j, *digits_of_integer(k, bits)])
    width = max(map(len, found))
    points = torch.tensor([row + [0] * (width - len(row)) for row in found], dtype=torch.float64)
    return target.projx(target.resized(points.to(rows.dtype)))  # x may have been rounded to 1 and m to 2


def _to_squares(rows: Tensor, source: Any, target: Any) -> Tensor:
    radius = float((source.dist(source.origin(1, rows.shape[-1]).to(rows), rows) * source.c.sqrt()).max())
    if (needed := target.limbs_for(radius - _BELOW)) > target.limbs:
        raise DomainError(f"points at radius {radius:.0f} need limbs={needed} or more, {target!r} has {target.limbs}")
    bits, unit = bits_of(rows.dtype), 1 << _PLACE
    places, digits = [], 0
    for x, m, j, *limbs in rows[:, : 3 + source.limbs_used(rows)].tolist():
        k = integer_of(limbs, bits)
        up, down = max(0, int(j)), max(0, -int(j))
        h, y, one = ((k << _PLACE) + int(x * unit)) << up, int(m * unit) << up, unit << down
        long = 2 * max((one + y).bit_length(), h.bit_length())
        digits = max(digits, long - y.bit_length() - one.bit_length() + _SPARE)
        places.append((h, y, one))
    root = _root3(digits)
    motions = [((one + y) << digits, h << digits, h * root // 3, (y - one) * root // 3) for h, y, one in places]
    frames, cells = [IDENTITY] * len(motions), torch.empty(len(motions), 2, dtype=torch.float64)
    left = list(range(len(motions)))
    while left:
        disk = torch.tensor([_in_disk(motions[i]) for i in left], dtype=torch.complex128)
        disk = disk * (_AHEAD / disk.abs()).clamp(max=1)
        cells[left] = torch.view_as_real(2 * disk / (1 - disk.abs().square()))
        steps = target.frames(target.pack(cells[left]))
        moved = [(i, step) for i, (step,) in zip(left, steps, strict=True) if step != IDENTITY]
        for i, step in moved:  # a motion has units to spare: halves of them are dropped
            frames[i], motions[i] = compose(frames[i], step), compose(inverse(step), motions[i])
        left = [i for i, _ in moved]
    return target.pack(cells.to(rows.dtype), [[frame] for frame in frames])


def _in_disk(q: Frame) -> complex:
    """Where the motion takes the centre."""
    w, x, y, z = q
    shift = max(0, max(w.bit_length(), x.bit_length()) - 64)
    return SQRT3 * complex(y >> shift, z >> shift) / complex(w >> shift, -x >> shift)


def _root3(digits: int) -> int:
    """sqrt3 2^digits."""
    return math.isqrt(3 << (2 * digits))
