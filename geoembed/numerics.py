"""Scalar functions and matrices that keep their digits, with gradients that stay finite.

Conventions: everything follows the dtype and device of its input, has no data-dependent Python branch and
works under `torch.compile(fullgraph=True)` and `torch.vmap`.

* `arcosh1p(z) = arcosh(1 + z) = log1p(z + sqrt(z (z + 2)))`. Hyperbolic distances come as
  z = cosh d - 1 = 2 sinh^2(d / 2), which has no cancellation at d = 0; `torch.acosh(1 + z)` loses half of the
  digits there and costs about twenty times a `log1p` on CPU.
* `sqdist` is the matrix of squared Euclidean distances from one matrix product, with the pairs that cancel
  in |x|^2 + |y|^2 - 2<x, y> computed again from their differences.
* `less_square(r2, x) = r2 - |x|^2` squares the leading halves of the coordinates without rounding: near the sphere
  the roundings of a plain sum of squares are what limits a distance in the Poincare ball.
"""

import torch
from torch import Tensor

__all__ = [
    "arcosh1p",
    "artanh",
    "artanhc",
    "asinh",
    "asinhc",
    "less_square",
    "norm",
    "safe_sqrt",
    "sinhc",
    "sqdist",
    "tanhc",
]


def norm(x: Tensor, keepdim: bool = False) -> Tensor:
    """Euclidean norm of the last dimension; its gradient at zero is zero. x: (*B, d) -> (*B)."""
    return torch.linalg.vector_norm(x, dim=-1, keepdim=keepdim)


class _SafeSqrt(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.clamp(min=0).sqrt_()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx, grad):
        (root,) = ctx.saved_tensors
        return torch.where(root > 0, grad / (2 * root), 0.0)


def safe_sqrt(x: Tensor) -> Tensor:
    """sqrt(x), 0 for x <= 0, with gradient zero, not infinity, at x = 0. x: any shape."""
    return _SafeSqrt.apply(x)


# Multiples of 1 / _GRID below 1 have squares that fit the mantissa exactly.
_GRID = {torch.float64: 2.0**26, torch.float32: 2.0**11, torch.float16: 2.0**5, torch.bfloat16: 2.0**3}


def less_square(r2: Tensor, x: Tensor) -> Tensor:
    """r2 - |x|^2, nearly exact where |x|^2 comes close to r2 <= 1. r2: scalar, x: (*B, d) -> (*B, 1)."""
    plain = r2 - x.square().sum(-1, keepdim=True)  # for the derivatives
    grid, point = _GRID[x.dtype], x.detach()
    lead = (point * grid).round_().mul_(1 / grid)
    rest = (point - lead).mul_(point + lead).sum(-1, keepdim=True)
    exact = r2.detach() - lead.square().sum(-1, keepdim=True) - rest
    return plain + (exact - plain.detach())


class _Arcosh1p(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(z):
        return (z + 2).mul_(z).sqrt_().add_(z).log1p_()

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        positive = z > 0
        slope = torch.where(positive, z * (z + 2), 1.0).rsqrt()
        return grad * torch.where(positive, slope, 0.0)


def arcosh1p(z: Tensor) -> Tensor:
    """arcosh(1 + z) for z >= 0; the gradient at z = 0 is set to zero, where the true one is infinite."""
    return _Arcosh1p.apply(z)


def asinh(s: Tensor) -> Tensor:
    """Inverse hyperbolic sine of s >= 0, as log1p(s + s^2 / (1 + sqrt(1 + s^2)))."""
    return torch.log1p(s + s * s / (1 + (1 + s * s).sqrt()))


def asinhc(s: Tensor) -> Tensor:
    """asinh(s) / s for s >= 0, equal to 1 at zero."""
    positive = s > 0
    safe = torch.where(positive, s, 1.0)
    return torch.where(positive, asinh(safe) / safe, 1.0 + 0.0 * s)


def artanh(r: Tensor) -> Tensor:
    """Inverse hyperbolic tangent of 0 <= r < 1; r is held one rounding step below 1."""
    r = r.clamp(max=1 - torch.finfo(r.dtype).eps)
    return 0.5 * torch.log1p(2 * r / (1 - r))


def artanhc(r: Tensor) -> Tensor:
    """artanh(r) / r for 0 <= r < 1, equal to 1 at zero."""
    positive = r > 0
    safe = torch.where(positive, r, 0.5)
    return torch.where(positive, artanh(safe) / safe, 1.0 + 0.0 * r)


def tanhc(r: Tensor) -> Tensor:
    """tanh(r) / r for r >= 0, equal to 1 at zero."""
    positive = r > 0
    safe = torch.where(positive, r, 1.0)
    return torch.where(positive, safe.tanh() / safe, 1.0 + 0.0 * r)


def sinhc(r: Tensor) -> Tensor:
    """sinh(r) / r for r >= 0, equal to 1 at zero."""
    positive = r > 0
    safe = torch.where(positive, r, 1.0)
    return torch.where(positive, safe.sinh() / safe, 1.0 + 0.0 * r)


# A pair is computed again from its difference when |x - y|^2 < NEAR * (|x|^2 + |y|^2). The product form errs by
# a few roundings of |x|^2 + |y|^2, so what is kept is right to about 4 u / NEAR: 2e-5 and 9e-12 of |x - y|^2.
_NEAR = {torch.float64: 1e-4, torch.float32: 1e-2, torch.float16: 0.25, torch.bfloat16: 0.25}
_CACHED = 1 << 18  # elements of the result worked on at a time, so that they stay in cache


@torch.library.custom_op("geoembed::sqdist", mutates_args=())
def _sqdist_op(x: Tensor, y: Tensor, same: bool) -> Tensor:
    out = x.new_empty(*x.shape[:-1], y.shape[-2])
    if out.numel() == 0 or x.shape[-1] == 0:
        return out.zero_()
    centre = _centre(y)
    xc = x - centre
    yc = xc if same else y - centre
    x2 = xc.square().sum(-1, keepdim=True)
    y2 = x2 if same else yc.square().sum(-1, keepdim=True)
    left = torch.cat([-2 * xc, x2, torch.ones_like(x2)], -1)
    right = torch.cat([yc, torch.ones_like(y2), y2], -1).mT
    near_x, near_y = _NEAR[x.dtype] * x2, _NEAR[x.dtype] * y2.mT
    nearest = near_x.amax() + near_y.amax()
    rows = max(16, _CACHED * x.shape[-2] // out.numel())
    for start in range(0, x.shape[-2], rows):
        block = slice(start, start + rows)
        part = left[..., block, :] @ right
        if same:
            part.diagonal(start, -2, -1)[..., : part.shape[-2]] = torch.inf
        if not part.amin() > nearest:  # one look at the block, where none may be near; NaN looks closer
            near = part - near_y < near_x[..., block, :]
            if near.any():
                _recompute(part, near, x[..., block, :], y)
        if same:
            part.diagonal(start, -2, -1)[..., : part.shape[-2]] = x2[..., block, 0] * 0  # NaN stays
        out[..., block, :] = part
    return out


def _centre(y: Tensor) -> Tensor:
    """Mean of the points, (*B, 1, d); the origin where one is not finite, so that it does not spoil the others."""
    centre = y.mean(dim=-2, keepdim=True)
    return torch.where(centre.isfinite(), centre, 0.0)


def _recompute(part: Tensor, near: Tensor, x: Tensor, y: Tensor) -> None:
    """Overwrite the entries of `part` marked `near` by |x_i - y_j|^2 taken from the differences."""
    where = near.nonzero()
    if where.shape[0] * 8 > part.numel():  # mostly near: the plain loop is faster than gathering
        wide = torch.promote_types(x.dtype, torch.float32)  # cdist has no half precision
        part.copy_(torch.cdist(x.to(wide), y.to(wide), compute_mode="donot_use_mm_for_euclid_dist").square_())
        return
    for pairs in where.split(max(1, 4 * _CACHED // x.shape[-1])):
        *batch, i, j = pairs.unbind(-1)
        part[*batch, i, j] = (x[*batch, i] - y[*batch, j]).square_().sum(-1)


@_sqdist_op.register_fake
def _(x, y, same):
    return x.new_empty(*x.shape[:-1], y.shape[-2])


@_sqdist_op.register_vmap
def _(info, in_dims, x, y, same):
    x, y = (
        t.expand(info.batch_size, *t.shape) if dim is None else t.movedim(dim, 0)
        for t, dim in zip((x, y), in_dims[:2], strict=True)
    )
    return _sqdist_op(x, y, same), 0


class _Sqdist(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x, y):
        return _sqdist_op(x, y, False)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):  # grad_x_i = 2 sum_j g_ij (x_i - y_j), as a product about a common centre
        x, y = ctx.saved_tensors
        centre = _centre(y)
        xc, yc = x - centre, y - centre
        grad_x = 2 * (grad.sum(-1).unsqueeze(-1) * xc - grad @ yc)
        grad_y = 2 * (grad.sum(-2).unsqueeze(-1) * yc - grad.mT @ xc)
        return grad_x, grad_y


class _SelfSqdist(torch.autograd.Function):
    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return _sqdist_op(x, x, True)

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, grad):
        (x,) = ctx.saved_tensors
        xc = x - _centre(x)
        total = (grad.sum(-1) + grad.sum(-2)).unsqueeze(-1)
        return 2 * (total * xc - grad @ xc - grad.mT @ xc)  # a transposed sum would cost more than two products


def sqdist(x: Tensor, y: Tensor) -> Tensor:
    """Matrix of squared Euclidean distances |x_i - y_j|^2, exactly zero where x_i = y_j.

    x: (*B, n, d), y: (*B, m, d), batch dimensions broadcast -> (*B, n, m).
    """
    if y is x:
        return _SelfSqdist.apply(x)
    batch = torch.broadcast_shapes(x.shape[:-2], y.shape[:-2])
    return _Sqdist.apply(x.expand(*batch, *x.shape[-2:]), y.expand(*batch, *y.shape[-2:]))
