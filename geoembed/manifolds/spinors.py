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
from collections.abc import Sequence
from functools import reduce
from typing import Any

import torch
from torch import Tensor

from geoembed.manifolds.compensated import compensated_dot, twofold_product
from geoembed.manifolds.frames import BASE, BITS, norms
from geoembed.manifolds.squares import (
    SQRT3,
    cells_of,
    columns,
    dot,
    frame_digits,
    half,
    raised,
    rows_of,
    spin_of,
    time_of,
)
from geoembed.numerics import asinh

__all__ = ["relative", "spinors"]

_ROOM = 20  # so many limbs of a product need no exponent: 2^483, whose square does not overflow
_FULL = 2.0**80  # of a sum; what follows is below its rounding
_NEAR = 0.5  # closer pairs are taken from their differences
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
    """(alpha, beta), if huge both times the same power of two, and the distance, of gradient zero where it is zero.

    x, y: (*B, k) -> (planes, *B) each.
    """
    dims = max(x.dim(), y.dim())
    x, y = (point[(None,) * (dims - point.dim())] for point in (x, y))
    return _Relative.apply(x, y, planes)


class _Relative(torch.autograd.Function):
    """`relative` for points of as many dimensions. x, y: (*B, k)."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x, y, planes):
        return _relative_op(x, y, planes)

    @staticmethod
    def setup_context(ctx, inputs, output):
        x, y, ctx.planes = inputs
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, y, *output[:2])

    @staticmethod
    def backward(ctx, *grads):
        x, y, *results = ctx.saved_tensors
        if all(grad is None for grad in grads):
            return None, None, None
        dim, blocks = _blocks([x, y], [*results, *grads])
        slopes = zip(*[_slopes(ctx.planes, *block) for block in blocks], strict=True)

        def packed(point: Tensor, parts: tuple[Tensor, ...]) -> Tensor:
            whole = len(parts) == 1 or point.shape[dim - 1] == 1
            return rows_of(reduce(torch.add, parts) if whole else torch.cat(parts, dim), point)

        wanted = zip(ctx.needs_input_grad, (x, y), slopes, strict=False)
        return *(packed(point, parts) if needed else None for needed, point, parts in wanted), None


def _slopes(planes: int, x, y, alpha, beta, grad_alpha, grad_beta, grad_d) -> list[Tensor]:
    """The gradients by the cells of x and y. x, y: (*B, k), the rest, None or (planes, *B) -> (planes, *B) each."""
    terms, turns = [], []  # by -du, dv, and the turns of the frames at u and v
    if grad_alpha is not None:
        grad = grad_alpha / 2
        terms.append((grad * beta, grad.conj() * beta))
        turn = _cross(grad, alpha)
        turns.append((turn, -turn))
    if grad_beta is not None:
        grad = grad_beta / 2
        terms.append((grad * alpha, grad * alpha.conj()))
        turn = _cross(grad, beta)
        turns.append((turn, turn))
    if grad_d is not None:  # that of beta over |alpha beta|, beta / |beta| being that of sinh(d / 2)
        square = dot(beta, beta)
        rest = torch.where(square == 0, math.inf, square).reciprocal()
        grad = rest * (1 + rest).rsqrt() * grad_d * beta
        terms.append((grad * alpha, grad * alpha.conj()))
    out = []
    for i, point in enumerate((x, y)):
        cell = cells_of(point, planes).to(alpha.dtype)
        slope = _summed_to(reduce(torch.add, [term[i] for term in terms]), cell)
        slope = raised(cell, slope if i else -slope)
        if turns:
            slope = slope + _summed_to(reduce(torch.add, [turn[i] for turn in turns]), cell) * spin_of(cell)
        out.append(slope)
    return out


def _cross(a: Tensor, b: Tensor) -> Tensor:
    """Im(conj(a) b)."""
    return a.real * b.imag - a.imag * b.real


def _summed_to(grad: Tensor, like: Tensor) -> Tensor:
    dims = [i for i, (a, b) in enumerate(zip(grad.shape, like.shape, strict=True)) if a != b]
    return grad.sum(dims, keepdim=True) if dims else grad


def _blocks(rows: list[Tensor], results: list[Any]) -> tuple[int, list[tuple[Any, ...]]]:
    """Rows (*B, k) and results (planes, *B), or None, cut along a dimension of (planes, *B). Returns which, and how.

    On a CPU the pairs are few enough for what is made of a block to stay in cache.
    """
    shape, size = results[0].shape, _cached(results[0])
    if len(shape) == 1 or shape.numel() <= size:
        return 0, [(*rows, *results)]
    dim = max(range(1 - len(shape), 0), key=shape.__getitem__)
    length = max(1, size * shape[dim] // shape.numel())
    count = -(-shape[dim] // length)

    def cut(t: Any, dim: int) -> Sequence[Any]:
        return [t] * count if t is None or t.shape[dim] == 1 else t.split(length, dim)

    return dim, list(zip(*[cut(t, dim - 1) for t in rows], *[cut(t, dim) for t in results], strict=True))


def _cached(x: Tensor) -> int:
    return 1 << 14 if x.device.type == "cpu" else 1 << 24


# conj_physical, here and in `frames`: under torch.compile a lazy conj() is lost inside a custom operator
@torch.library.custom_op("geoembed::ltiling_relative", mutates_args=())
def _relative_op(x: Tensor, y: Tensor, planes: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (planes, *torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]))
    alpha, beta = (torch.empty(shape, dtype=torch.complex128, device=x.device) for _ in range(2))
    d = torch.empty(shape, dtype=torch.float64, device=x.device)
    before = None
    for one, other, *out in _blocks([x, y], [alpha, beta, d])[1]:
        if one is not before:
            before, moves = one, _moves(columns(one, planes))
        _relative(*moves, columns(other, planes), *out)
    for where in (d < _NEAR).nonzero().split(_cached(x)):
        if len(where):
            plane, *items = where = where.unbind(-1)
            one, other = (z.unflatten(-1, (planes, -1)).expand(*shape[1:], planes, -1)[*items, plane] for z in (x, y))
            alpha[where], beta[where] = _close(columns(one, 1)[:, 0], columns(other, 1)[:, 0], alpha[where])
            d[where] = 2 * asinh(dot(beta[where], beta[where]).sqrt())
    return alpha, beta, d


def _moves(points: Tensor) -> tuple[Tensor, Tensor]:
    """The matrices of q^-1 for each limb of q, and of b_u^-1. (2 + 4 L, *E) -> (L, *E, 4, 4), (*E, 4, 4).

    The last dimension of E goes if it is 1: points that are met with many others make matrices times many columns.
    """
    if points.shape[-1] == 1:
        points = points[..., 0]
    q = _limbs(points)
    p, s, t = _half(points[0], points[1], _norm(q))
    return _inverse(q), _left(p, torch.zeros_like(p), -s, -t, SQRT3, SQRT3)


def _inverse(q: Tensor) -> Tensor:
    """The matrices of q^-1 for each limb of q. (L, 4, *E) -> (L, *E, 4, 4)."""
    w, x, y, z = q.unbind(1)
    return _left(w, -x, -y, -z, 3, 1)


def _relative(left: Tensor, turn: Tensor, second: Tensor, alpha: Tensor, beta: Tensor, d: Tensor) -> None:
    """`_relative_op` for `_moves` and columns, written to the last three; inexact where points are close."""
    if turn.dim() - 2 == d.dim():  # each point has its matrix, and one other point
        second, alpha, beta, d = (z.unsqueeze(-1) for z in (second, alpha, beta, d))
    r = _limbs(second)
    product, level = _quotient(left, r)
    parts = (turn @ product).unbind(-2)
    a, b = torch.complex(parts[0], parts[1]), torch.complex(parts[2], parts[3])  # b times sqrt3
    p, x, y = _half(second[0], second[1], _norm(r))
    t, w = p.to(a.dtype), torch.complex(x, y)
    torch.addcmul(a * t, b, w.conj_physical(), out=alpha)
    torch.addcmul(a * w, b, t, out=beta)
    square = dot(beta, beta)
    far = square.sqrt().add_(square.add_(1).sqrt_()).log_()  # asinh of what is not small
    torch.add(far.mul_(2), level.squeeze(-2), alpha=2 * math.log(2), out=d)


def _limbs(points: Tensor) -> Tensor:
    """(2 + 4 L, *E) -> (L, 4, *E)."""
    return points[2:].unflatten(0, (-1, 4))


def _norm(limbs: Tensor) -> Tensor:
    """4 or 12. (L, 4, *E) -> (*E)."""
    w, x, y, z = limbs[0]
    value = (w * w).addcmul_(x, x).sub_((y * y).addcmul_(z, z), alpha=3)
    return value if len(limbs) == 1 else value - BASE * (value / BASE).round_()


def _half(x: Tensor, y: Tensor, n: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """b_(x + i y) over the root of n: p and the parts of s. (*E) each."""
    time = (x * x).addcmul_(y, y).add_(1).sqrt_()
    p = time.add_(1).div_(2 * n).sqrt_()
    rest = 0.5 / (n * p)
    return p, x * rest, y * rest


def _left(w: Tensor, x: Tensor, y: Tensor, z: Tensor, k: float, m: float) -> Tensor:
    """The real matrix of (C, D) -> (A C + k B conj(D), m A D + B conj(C)), A = w + i x, B = y + i z. -> (*E, 4, 4)."""
    rows = [w, -x, k * y, k * z, x, w, k * z, -k * y, y, z, m * w, -m * x, z, -y, m * x, m * w]
    return torch.stack(rows, dim=-1).unflatten(-1, (4, 4))


def _quotient(left: Tensor, r: Tensor) -> tuple[Tensor, Tensor]:
    """2 q^-1 r, exactly while below 2^53, times 2^-level. left: (K, *E, 4, 4), r: (L, 4, *E, m) -> (*E, 4, m), level.

    Horner's rule from the top: a small sum is exact, and once it is rounded what follows cannot cancel it.
    """
    r = r.movedim(1, -2)
    total = level = torch.zeros(1, 1, dtype=r.dtype, device=r.device)
    frozen = None
    places = len(left) + len(r) - 1
    for place in range(places - 1, -1, -1):  # the sum of all products of limbs i of q and place - i of r
        first, last = max(0, place - len(r) + 1), min(place + 1, len(left))
        for start in range(first, last, 16):  # 16 products of 49 bits each are exact
            limbs = range(start, min(start + 16, last))
            new = _joined([left[i] for i in limbs], -1) @ _joined([r[place - i] for i in limbs], -2)
            if place < places - 1:
                new.add_(total, alpha=BASE if start == first else 1.0)
            total = new if frozen is None else torch.where(frozen, total, new)
        if places > _ROOM and place:
            size = total[..., :2, :].abs().sum(-2, keepdim=True)
            frozen = size > _FULL
            level = level + BITS * frozen
            if bool((frozen | size.isnan()).all()):
                level = level + BITS * (place - 1)
                break
    return total, level


def _joined(parts: list[Tensor], dim: int) -> Tensor:
    return parts[0] if len(parts) == 1 else torch.cat(parts, dim)


def _close(first: Tensor, second: Tensor, alpha: Tensor) -> tuple[Tensor, Tensor]:
    """(alpha, beta) of pairs that are close, from their difference in the square of the first. (2 + 4 L, m), (m)."""
    u, v = (torch.complex(z[0], z[1]) for z in (first, second))
    q, r = _limbs(first), _limbs(second)
    product, _ = _quotient(_inverse(q), r.unsqueeze(-1))
    a, b = torch.view_as_complex(product.view(-1, 2, 2)).unbind(-1)
    difference, apart = v - u, (b != 0).nonzero().squeeze(-1)
    if len(apart):
        difference[apart] = _difference(*[z[apart] for z in (u, v, a, b, _norm(q) * _norm(r))])
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
    rest = compensated_dot([*squares, (-time, time)]) / (2 * time)  # of v0
    time, slip = twofold_product(time, SQRT3)
    slip = slip + SQRT3 * rest + _SQRT3_REST * time / SQRT3
    mixed, across, along, u = (torch.view_as_real(z).mT for z in (mixed, even + odd, 1j * (even - odd), u))
    real, imag = compensated_dot([(mixed, time), (across, v.real), (along, v.imag), (-n, u)]) + mixed * slip
    return torch.complex(real, imag) / n


@_relative_op.register_fake
def _(x, y, planes):
    shape = (planes, *torch.broadcast_shapes(x.shape[:-1], y.shape[:-1]))
    alpha = x.new_empty(shape, dtype=torch.complex128)
    return alpha, torch.empty_like(alpha), alpha.new_empty(shape, dtype=torch.float64)


@_relative_op.register_vmap
def _(info, in_dims, x, y, planes):
    x, y = (t.unsqueeze(0) if dim is None else t.movedim(dim, 0) for t, dim in zip((x, y), in_dims[:2], strict=True))
    x, y = (t.expand(info.batch_size, *t.shape[1:]) for t in (x, y))
    return _relative_op(x, y, planes), (1, 1, 1)
