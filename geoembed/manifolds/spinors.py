"""Two points of the tiled hyperbolic plane: how they lie to each other, to the last digit at any radius.

Motions of the plane are (alpha, beta) = [[alpha, beta], [conj(beta), conj(alpha)]] in SU(1, 1). For points (q, u) and
(r, v), q and r elements of `frames`, u and v points of the square, all there is to know is

    (alpha, beta) = b_u^-1 q^-1 r b_v,    |beta| = sinh(d / 2),   |alpha| = cosh(d / 2),
    alpha beta    the direction from the first point to the second, in the frame at u
    alpha^2       the turn between the frames at u and v, parallel transport undone

q^-1 r is an element of the group too, computed exactly while it is small, whatever q and r are. What cancels after that
is the difference of two points that are close: it is taken from v - u in a common square, else in twice the digits.
For changes du and dv, given in the frames, which turn by `spin_of` meanwhile,

    2 d(alpha, beta) = (alpha, beta) (i spin_v, dv) - (i spin_u, du) (alpha, beta)
"""

import math
from functools import reduce

import torch
from torch import Tensor

from geoembed.manifolds.frames import BASE, BITS, norms
from geoembed.manifolds.squares import (
    SQRT3,
    cells_of,
    channels,
    dot,
    frame_digits,
    half,
    raised,
    rows_of,
    spin_of,
    time_of,
)
from geoembed.numerics import asinh

__all__ = ["distance", "relative", "spinors"]

_ROOM = 20  # so many limbs of a product need no exponent: 2^483, whose square does not overflow
_FULL = 2.0**80  # of a sum; what follows is below its rounding
_NEAR = 1 / 16  # of sinh^2(d / 2): closer pairs are taken from their differences
_SQRT3_REST = 1.0035084221806903e-16  # sqrt(3) less the nearest float


def spinors(x: Tensor, planes: int) -> tuple[Tensor, Tensor]:
    """(alpha, beta) of the motion q b_u from the centre to each point (q, u). x: (*B, k) -> (planes, *B) each."""
    digits = frame_digits(x.detach(), planes)
    total = digits[-1]
    for digit in digits[:-1].flip(0):
        total = digit + BASE * total
    a, b = total * norms(digits).rsqrt()
    p, s = half(cells_of(x, planes).to(a.dtype))
    return a * p + SQRT3 * b * s.conj(), a * s + SQRT3 * b * p


def relative(x: Tensor, y: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor]:
    """(alpha, beta) and the power of two they are to be multiplied by. x, y: (*B, k) -> (planes, *B) each."""
    dims = max(x.dim(), y.dim())
    x, y = (point[(None,) * (dims - point.dim())] for point in (x, y))
    return _Relative.apply(x, y, planes)


def distance(alpha: Tensor, beta: Tensor, level: Tensor) -> Tensor:
    """The distance, of gradient zero where it is zero, from what `relative` returns."""
    return _Distance.apply(alpha, beta, level)


class _Distance(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(alpha, beta, level):
        return asinh(dot(beta, beta).sqrt()).add_(level, alpha=math.log(2)).mul_(2)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs[:2])

    @staticmethod
    def backward(ctx, grad):
        alpha, beta = ctx.saved_tensors
        square = dot(beta, beta)
        together = square == 0
        slope = 2 * grad / (torch.where(together, 1.0, square).sqrt() * dot(alpha, alpha).sqrt())
        return None, torch.where(together, 0.0, slope) * beta, None


class _Relative(torch.autograd.Function):
    """`relative` for points of as many dimensions. x, y: (*B, k)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, planes):
        return _relative_op(x, y, planes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.planes = inputs
        ctx.mark_non_differentiable(output[2])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, *output[:2])

    @staticmethod
    def backward(ctx, grad_alpha, grad_beta, _):
        x, y, alpha, beta = ctx.saved_tensors
        terms = []  # by twice du, dv, and the turns of the frames at u and v
        if grad_alpha is not None:
            turn = _cross(grad_alpha, alpha)
            terms.append((-grad_alpha * beta, grad_alpha.conj() * beta, turn, -turn))
        if grad_beta is not None:
            turn = _cross(grad_beta, beta)
            terms.append((-grad_beta * alpha, grad_beta * alpha.conj(), turn, turn))
        if not terms:
            return None, None, None
        by_u, by_v, turn_u, turn_v = (reduce(torch.add, column) for column in zip(*terms, strict=True))

        def packed(point: Tensor, slope: Tensor, turn: Tensor) -> Tensor:
            cell = cells_of(point, ctx.planes).to(alpha.dtype)
            slope, turn = _summed_to(slope, cell), _summed_to(turn, cell)
            return rows_of((raised(cell, slope) + turn * spin_of(cell)) / 2, point)

        first, second = ctx.needs_input_grad[:2]
        return packed(x, by_u, turn_u) if first else None, packed(y, by_v, turn_v) if second else None, None


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Im(conj(a) b)."""
    return a.real * b.imag - a.imag * b.real


def _summed_to(grad: Tensor, like: Tensor) -> Tensor:
    dims = [i for i, (a, b) in enumerate(zip(grad.shape, like.shape, strict=True)) if a != b]
    return grad.sum(dims, keepdim=True) if dims else grad


# conj_physical, here and in `frames`: under torch.compile a lazy conj() is lost inside a custom operator
@torch.library.custom_op("geoembed::ltiling_relative", mutates_args=())
def _relative_op(x: Tensor, y: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor]:
    first, second = channels(x, planes), channels(y, planes)
    shape = torch.broadcast_shapes(first.shape[1:], second.shape[1:])
    alpha, beta = (first.new_empty(shape) for _ in range(2))
    level = torch.zeros(shape, dtype=torch.float64, device=x.device)
    longest = max(range(1, len(shape)), key=shape.__getitem__, default=0)
    cached = max(1, _cached(x) * 2 // min(len(first), len(second)))
    length = max(1, cached * shape[longest] // max(1, alpha.numel()))
    for start in range(0, shape[longest], length):

        def block(t: Tensor, start: int = start) -> Tensor:
            dim = t.dim() - len(shape) + longest
            return t if t.shape[dim] == 1 else t.narrow(dim, start, min(length, shape[longest] - start))

        _relative(block(first), block(second), block(alpha), block(beta), block(level))
    for picked in (dot(beta, beta) < _NEAR).nonzero().split(cached):
        if len(picked):
            where = picked.unbind(-1)
            one, other = (z.expand(len(z), *shape)[:, *where] for z in (first, second))
            alpha[where], beta[where] = _close(one, other, alpha[where])
    return alpha, beta, level


def _cached(x: Tensor) -> int:
    """Pairs to work on at a time, few enough on a CPU for the temporaries to stay in cache."""
    return 1 << 14 if x.device.type == "cpu" else 1 << 24


def _relative(first: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, level: Tensor) -> None:
    """`_relative_op` for channels (1 + 2 L, planes, *B), written to the last three; inexact where points are close."""
    (u, q), (v, r) = (_parts(z) for z in (first, second))
    a, b = _quotient(q, r, level)
    (p, s), (t, w) = half(u), half(v)
    for part, size in zip((p, s, t, w), [norms(q).rsqrt()] * 2 + [norms(r).rsqrt()] * 2, strict=True):
        part.mul_(size)
    t = t.to(a.dtype)
    left = torch.addcmul(a * t, b, SQRT3 * w.conj_physical())
    right = torch.addcmul(a * w, b, SQRT3 * t)
    torch.addcmul(p * left, -s, right.conj_physical(), out=alpha)
    torch.addcmul(p * right, -s, left.conj_physical(), out=beta)


def _parts(z: Tensor) -> tuple[Tensor, Tensor]:
    """Cells (*E) and limbs (L, 2, *E) of channels (1 + 2 L, *E)."""
    return z[0], z[1:].unflatten(0, (-1, 2))


def _quotient(q: Tensor, r: Tensor, level: Tensor) -> tuple[Tensor, Tensor]:
    """conj(q) r, exactly while below 2^53, times 2^-level. q: (K, 2, *E), r: (L, 2, *E) -> (*E) each.

    Horner's rule from the top: a small sum is exact, and once it is rounded what follows cannot cancel it.
    """
    a, b = q[:, 0].conj_physical(), -q[:, 1]
    c, d = r.flip(0).unbind(1)
    b3, c_conj, d_conj = 3 * b, c.conj_physical(), d.conj_physical()
    total_a = total_b = torch.zeros((), dtype=q.dtype, device=q.device)
    frozen = None
    places = len(q) + len(r) - 1
    for place in range(places - 1, -1, -1):  # the sum of all products of limbs i of q and place - i of r
        first, last = max(0, place - len(r) + 1), min(place + 1, len(q))
        for start in range(first, last, 16):  # 16 products of 49 bits each are exact
            i = slice(start, min(start + 16, last))
            j = slice(i.start + len(r) - 1 - place, i.stop + len(r) - 1 - place)
            new_a = _sum(torch.addcmul(a[i] * c[j], b3[i], d_conj[j]))
            new_b = _sum(torch.addcmul(a[i] * d[j], b[i], c_conj[j]))
            if place < places - 1:
                scale = BASE if start == first else 1.0
                new_a, new_b = new_a.add_(total_a, alpha=scale), new_b.add_(total_b, alpha=scale)
            if frozen is not None:
                new_a, new_b = torch.where(frozen, total_a, new_a), torch.where(frozen, total_b, new_b)
            total_a, total_b = new_a, new_b
        if places > _ROOM and place:
            frozen = total_a.real.abs() + total_a.imag.abs() > _FULL
            level.add_(frozen, alpha=BITS)
            if bool((frozen | total_a.real.isnan()).all()):
                level.add_(BITS * (place - 1))
                break
    return total_a, total_b


def _sum(x: Tensor) -> Tensor:
    return x[0] if len(x) == 1 else x.sum(0)


def _close(first: Tensor, second: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, beta) of pairs that are close, from their difference in the square of the first. (1 + 2 L, m), (m)."""
    (u, q), (v, r) = (_parts(z) for z in (first, second))
    a, b = _quotient(q, r, torch.zeros_like(u.real))
    difference, apart = v - u, (b != 0).nonzero().squeeze(-1)
    if len(apart):
        difference[apart] = _difference(*[z[apart] for z in (u, v, a, b, norms(q) * norms(r))])
    w = u + difference
    u0, w0 = time_of(u), time_of(w)
    step = dot(difference, u + w) / (u0 + w0)  # w0 - u0
    (p, s), (t, r) = half(u, u0), half(w, w0)
    around = p * t - s * r.conj_physical()
    across = (difference * (1 + u0) - u * step) / (4 * p * t)
    turn = alpha / around  # of the frame at v against that at w
    turn = turn / turn.abs()
    return around * turn, across * turn.conj_physical()


def _difference(u, v, a, b, n) -> Tensor:
    """(a, b) v - u = (2 sqrt3 a b v0 + a^2 v + 3 b^2 conj(v)) / n - u in twice the digits; n: the norm of (a, b)."""
    mixed, even, odd = 2 * a * b, a * a, 3 * b * b
    one = torch.ones_like(n)
    time = time_of(v)
    squares = [(one, one), (v.real, v.real), (v.imag, v.imag)]
    rest = _compensated([*squares, (-time, time)]) / (2 * time)  # of v0
    time, slip = _product(time, SQRT3)
    slip = slip + SQRT3 * rest + _SQRT3_REST * time / SQRT3
    real = [(mixed.real, time), (even.real + odd.real, v.real), (odd.imag - even.imag, v.imag), (-n, u.real)]
    imag = [(mixed.imag, time), (even.imag + odd.imag, v.real), (even.real - odd.real, v.imag), (-n, u.imag)]
    parts = [_compensated(terms) + part * slip for terms, part in ((real, mixed.real), (imag, mixed.imag))]
    return torch.complex(*parts) / n


_SQRT3_REST = 1.0035084221806903e-16  # sqrt(3) less the nearest float


def _product(a, b) -> tuple[Tensor, Tensor]:
    """a b rounded and what was rounded off (T. Dekker, 1971)."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a):
    shifted = 134217729.0 * a
    high = shifted - (shifted - a)
    return high, a - high


def _compensated(terms) -> Tensor:
    """sum of a b as if in twice the digits (T. Ogita, S. Rump, S. Oishi, "Accurate sum and dot product", 2005)."""
    total, rest = _product(*terms[0])
    for a, b in terms[1:]:
        product, more = _product(a, b)
        new = total + product
        back = new - total
        rest = rest + (more + ((total - (new - back)) + (product - back)))
        total = new
    return total + rest


@_relative_op.register_fake
def _(x, y, planes):
    shape = (planes, *torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]))
    alpha = x.new_empty(shape, dtype=torch.complex128)
    return alpha, torch.empty_like(alpha), x.new_empty(shape, dtype=torch.float64)


@_relative_op.register_vmap
def _(info, in_dims, x, y, planes):
    x, y = (t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in zip((x, y), in_dims[:2], strict=True))
    x, y = (t.expand(info.batch_size, *t.shape[1:]) for t in (x, y))
    return _relative_op(x, y, planes), (1, 1, 1)
