"""Rows of the tiled half-space: differences of points, distances, and the carry to the fundamental cell.

A row of dimension n is [x_1 .. x_(n-1), m, j, limbs] and stands for the point 2^j (x + k, m). Inside, channels come
first and points last, so that every operation runs over contiguous numbers, a cacheful at a time on a CPU. What
depends on the values of integers is in custom operators, so that `torch.compile` and `torch.vmap` see no branch.
"""

import math

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds.limbs import BITS, difference, rescaled, summed, used
from geoembed.numerics import asinh

__all__ = ["LOG2", "SIGN", "bits_of", "carry", "distance", "offset", "sinh_half"]

LOG2 = math.log(2)
SIGN = 1.00001  # bits that the sign takes, digits being balanced
_CAP = {torch.float64: 40, torch.float32: 12}  # 2^cap squared is within the range, and 2^(-2 cap) below the rounding


def offset(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, ...]:
    """The difference of two points in units of the larger cell, and how it depends on their cell coordinates.

    x, y: (*B, k) -> D: (n, *B), m1, m2, level, 2^-a, 2^-b: (*B) or such as broadcast. dD / dx = 2^-a, dD / dy = -2^-b
    in cell coordinates, and sinh(d / 2) = 2^level |D| / (2 sqrt(m1 m2)).
    """
    dims = max(x.dim(), y.dim())
    x, y = (point[(None,) * (dims - point.dim())] for point in (x, y))
    return _Offset.apply(x, y, n)


def distance(difference: Tensor, m1: Tensor, m2: Tensor, level: Tensor) -> Tensor:
    """The distance, of gradient zero where it is zero, from what `offset` returns. (n, *B), (*B), .. -> (*B)."""
    return _Distance.apply(difference, m1, m2, level)


def carry(x: Tensor, n: int) -> Tensor:
    """The points with cell coordinates in the fundamental cell. (*B, k) -> (*B, k). Raises DomainError."""
    return _Carry.apply(x, n)[0]


def bits_of(dtype: torch.dtype) -> int:
    if dtype not in BITS:
        raise ShapeError(f"HTiling: points must be float64 or float32, got {dtype}")
    return BITS[dtype]


def sinh_half(rho: Tensor, m1: Tensor, m2: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """sinh(d / 2) = 2^level rho / (2 sqrt(m1 m2)), the level capped, and what is left of the level."""
    capped = level.clamp(max=_CAP[rho.dtype])
    return rho * capped.exp2() / (2 * (m1 * m2).sqrt()), level - capped


class _Distance(torch.autograd.Function):
    """2 asinh(2^level |offset| / (2 sqrt(m1 m2))), of gradient zero where it is zero."""

    generate_vmap_rule = True

    @staticmethod
    def forward(offset, m1, m2, level):
        s, left = sinh_half(offset.square().sum(0).sqrt_(), m1, m2, level)
        return 2 * (asinh(s) + left * LOG2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        offset, m1, m2, level = ctx.saved_tensors
        square = offset.square().sum(0)
        together = square == 0
        rho = torch.where(together, 1.0, square).sqrt()
        s, _ = sinh_half(rho, m1, m2, level)
        slope = torch.where(together, 0.0, grad * s / (1 + s * s).sqrt())  # grad tanh(d / 2)
        along = 2 * slope / rho / rho
        return along * offset, _summed_to(-slope / m1, m1), _summed_to(-slope / m2, m2), None


def _summed_to(grad: Tensor, like: Tensor) -> Tensor:
    dims = [i for i, (a, b) in enumerate(zip(grad.shape, like.shape, strict=True)) if a != b]
    return grad.sum(dims, keepdim=True) if dims else grad


class _Offset(torch.autograd.Function):
    """`offset` for points of as many dimensions. x, y: (*B, k)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, n):
        return _offset_op(x, y, n)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, _, ctx.n = inputs
        ctx.width = x.shape[-1]
        ctx.mark_non_differentiable(*output[3:])
        ctx.save_for_backward(*output[4:])

    @staticmethod
    def backward(ctx, grad, grad_m1, grad_m2, *_):
        scale1, scale2 = ctx.saved_tensors

        def packed(scale: Tensor, more: Tensor) -> Tensor:
            cells = _summed_to(grad * scale, more.expand(ctx.n, *more.shape))
            cells = torch.cat([cells[:-1], cells[-1:] + more])
            return pad(cells.movedim(0, -1), (0, ctx.width - ctx.n))

        first, second = ctx.needs_input_grad[:2]
        return packed(scale1, grad_m1) if first else None, packed(-scale2, grad_m2) if second else None, None


@torch.library.custom_op("geoembed::htiling_offset", mutates_args=())
def _offset_op(x: Tensor, y: Tensor, n: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    columns = n + 1 + (n - 1) * max(_used(point[..., n + 1 :], n - 1) for point in (x, y))
    first, second = (point[..., :columns].movedim(-1, 0).contiguous() for point in (x, y))
    shape = torch.broadcast_shapes(first.shape[1:], second.shape[1:])
    out, *each = x.new_empty(n, *shape), *(x.new_empty(shape) for _ in range(3))
    results = [out, *(t.unsqueeze(0) for t in each)]
    longest = max(range(len(shape)), key=shape.__getitem__, default=0)
    size = shape[longest] if shape else 1
    length = max(1, _cached(x) * size // max(1, out[0].numel() * max(1, columns - n - 1)))
    for start in range(0, size, length):

        def block(t: Tensor, start: int = start) -> Tensor:
            whole = not shape or t.shape[longest + 1] == 1
            return t if whole else t.narrow(longest + 1, start, min(length, size - start))

        _offset(block(first), block(second), n, [block(t) for t in results])
    level, scale1, scale2 = each
    return out, first[n - 1].clone(), second[n - 1].clone(), level, scale1, scale2


def _offset(first: Tensor, second: Tensor, n: int, results: list[Tensor]) -> None:
    """`_offset_op` for points (columns, *B), written to D (n, *B), the level and the two scales (1, *B)."""
    out, level, scale1, scale2 = results
    jump = second[n : n + 1] - first[n : n + 1]
    a, b = jump.clamp(min=0), (-jump).clamp_(min=0)
    torch.exp2(-a, out=scale1)
    torch.exp2(-b, out=scale2)
    torch.sub(first[n - 1 : n] * scale1, second[n - 1 : n] * scale2, out=out[-1:])
    torch.mul(jump.abs(), 0.5, out=level)
    if n == 1:
        return
    k1, k2 = (point[n + 1 :].unflatten(0, (-1, n - 1)) for point in (first, second))
    total, exponent = difference(first[: n - 1], k1, second[: n - 1], k2, a[0], b[0])
    if exponent is not None:
        bits = BITS[out.dtype]
        top = exponent.amax(0, keepdim=True)
        total = total * (bits * (exponent - top)).exp2()
        shrink = (-bits * top).exp2()
        for value in (out[-1:], scale1, scale2):
            value.mul_(shrink)
        level.add_(top, alpha=bits)
    out[:-1] = total


def _cached(x: Tensor) -> int:
    """Numbers to work on at a time, few enough on a CPU for the temporaries to stay in cache."""
    return 1 << 16 if x.device.type == "cpu" else 1 << 26


@_offset_op.register_fake
def _(x, y, n):
    shape = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    one = x.new_empty(shape)
    points = x.new_empty(x.shape[:-1]), y.new_empty(y.shape[:-1])
    return x.new_empty(n, *shape), *points, one, torch.empty_like(one), torch.empty_like(one)


@_offset_op.register_vmap
def _(info, in_dims, x, y, n):
    x, y = (t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in zip((x, y), in_dims[:2], strict=True))
    x, y = (t.expand(info.batch_size, *t.shape[1:]) for t in (x, y))
    return _offset_op(x, y, n), (1, 0, 0, 0, 0, 0)


def _used(k: Tensor, n: int) -> int:
    """How many limbs to work on for the integers k: (*B, n L)."""
    if k.shape[-1] <= 2 * n or not k.numel():  # too few for a look at them to pay
        return k.shape[-1] // max(n, 1)
    return used(k, n)


class _Carry(torch.autograd.Function):
    """Rows carried to the fundamental cell, and the factor 2^-a by which cell coordinates grew. x: (*B, k)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, n):
        return _carry_op(x, n)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.n = inputs[1]
        ctx.mark_non_differentiable(output[1])
        ctx.save_for_backward(output[1])

    @staticmethod
    def backward(ctx, grad, _):
        (scale,) = ctx.saved_tensors
        return pad(grad[..., : ctx.n] * scale.unsqueeze(-1), (0, grad.shape[-1] - ctx.n)), None


@torch.library.custom_op("geoembed::htiling_carry", mutates_args=())
def _carry_op(x: Tensor, n: int) -> tuple[Tensor, Tensor]:
    out, scale = torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[:-1])
    points, rows, scales = x.reshape(-1, x.shape[-1]), out.view(-1, x.shape[-1]), scale.view(-1)
    length = max(1, _cached(x) // max(1, x.shape[-1] - n - 1))
    blocks = zip(points.split(length), rows.split(length), scales.split(length), strict=True)
    if not all([_carry(*block, n) for block in blocks]):
        raise DomainError(_refused(points, n))
    return out, scale


def _carry(x: Tensor, out: Tensor, scale: Tensor, n: int) -> bool:
    """`_carry_op` for points (m, k), written to `out` and `scale`; False if there is a point it cannot carry."""
    if not len(x):
        return True
    limbs, base = (x.shape[-1] - n - 1) // max(n - 1, 1), 2.0 ** BITS[x.dtype]
    if limbs > 3 and bool((x[:, :n].abs() < base).all() & (x[:, n - 1] > 1 / base).all()):
        limbs = min(limbs, max(2, _used(x[:, n + 1 :], n - 1)) + 1)  # a carry takes no more
    columns = n + 1 + (n - 1) * limbs
    rows = x[:, :columns].T.clone(memory_format=torch.contiguous_format)  # written to below
    height = rows[n - 1]
    mantissa, power = torch.frexp(height)
    shift = torch.where(height.isfinite(), power - 1, 0).to(x.dtype)
    torch.exp2(-shift, out=scale)
    good = bool((height <= 0).logical_or_(height.isinf()).logical_not_().all())
    if n > 1:
        cells, digits, over = rescaled(rows[: n - 1], rows[n + 1 :].unflatten(0, (-1, n - 1)), shift)
        rows[: n - 1], rows[n + 1 :] = cells, digits.flatten(0, 1)
        good = good and not bool(over.any() and ((over != 0) & ~over.isnan()).any())
    torch.mul(mantissa, 2, out=rows[n - 1])
    rows[n] += shift
    out[:, :columns], out[:, columns:] = rows.T, 0
    return good


def _refused(x: Tensor, n: int) -> str:
    """What to say when some of the points (m, k) cannot be carried."""
    rows = x.T
    height = rows[n - 1]
    bad = (height <= 0) | height.isinf() | rows[: n - 1].isinf().any(0)
    if bool(bad.any()):
        return (
            f"HTiling: {int(bad.sum())} of {len(x)} points left the half-space, the height of the first is "
            f"{height[bad][0]:g}. A height is positive and finite, and no step longer than "
            f"{math.log(torch.finfo(x.dtype).max) - 3:.0f}: lower the learning rate, or take the step in parts"
        )
    shift = torch.frexp(height)[1].to(x.dtype) - 1
    return _beyond(rows[: n - 1], rows[n + 1 :].unflatten(0, (-1, n - 1)), shift)


def _beyond(x: Tensor, k: Tensor, shift: Tensor) -> str:
    """What to say when 2^-shift (k + x) does not fit the limbs."""
    bits, limbs = BITS[k.dtype], len(k)
    total, exponent = summed(k)
    size = (total + x).abs().log2() - shift + (0 if exponent is None else bits * exponent)
    size = torch.where(size.isfinite(), size, 0.0).amax(0)
    needed = math.ceil((float(size.max()) + SIGN) / bits)
    beyond = int((size > bits * limbs - SIGN).sum())
    return (
        f"HTiling: {beyond} of {size.numel()} points lie beyond radius {(bits * limbs - SIGN) * LOG2:.0f}, where "
        f"rows of {limbs} limb(s) of {bits} bits end; the farthest needs limbs={max(needed, limbs + 1)} (narrow rows: "
        "see `resized`) or a smaller scale"
    )


@_carry_op.register_fake
def _(x, n):
    return torch.empty_like(x, memory_format=torch.contiguous_format), x.new_empty(x.shape[:-1])


@_carry_op.register_vmap
def _(info, in_dims, x, n):
    return _carry_op(x.movedim(in_dims[0], 0), n), (0, 0)
