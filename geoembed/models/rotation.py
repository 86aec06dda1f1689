"""RotatE: a relation turns each complex coordinate by an angle.

    score(h, r, t) = -sum_k |x_hk e^{i theta_rk} - x_tk|,   x complex, dim / 2 coordinates

Reference: Sun, Deng, Nie, Tang, "RotatE: knowledge graph embedding by relational rotation in complex space", ICLR 2019,
arXiv:1902.10197. The margin of the paper belongs to the loss.
"""

import math
from typing import Any, ClassVar

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.models.base import GraphModel

__all__ = ["RotatE", "SumOfModuli", "check_even", "moduli", "multiply", "turn"]


def multiply(x: Tensor, y: Tensor) -> Tensor:
    """Products of complex numbers held as all real parts, then all imaginary parts. x, y: (*B, 2 k) -> (*B, 2 k)."""
    (a, b), (c, d) = x.chunk(2, dim=-1), y.chunk(2, dim=-1)
    return torch.cat([a * c - b * d, a * d + b * c], dim=-1)


def turn(x: Tensor, angle: Tensor) -> Tensor:
    """Complex numbers times e^{i angle}. x: (*B, 2 k), angle: (*B, k) -> (*B, 2 k)."""
    return multiply(x, torch.cat([angle.cos(), angle.sin()], dim=-1))


def moduli(x: Tensor) -> Tensor:
    """Absolute values of complex numbers, with gradient 0 at 0, unlike hypot. x: (*B, 2 k) -> (*B, k)."""
    return torch.linalg.vector_norm(torch.stack(x.chunk(2, dim=-1)), dim=0)


def check_even(dim: int, name: str) -> None:
    if dim % 2:
        raise DomainError(f"{name} pairs coordinates, so dim must be even, got {dim}")


class _SumOfModuli(torch.autograd.Function):
    """Keeps no (n, m, k) tensor: each coordinate is gone through by itself, and again for the gradient."""

    @staticmethod
    def forward(ctx, x, y):  # (n, 2 k), (m, 2 k) -> (n, m)
        ctx.save_for_backward(x, y)
        out = x.new_zeros(len(x), len(y))
        for real, imaginary in _differences(x, y):
            out += torch.hypot(real, imaginary)
        return out

    @staticmethod
    def backward(ctx, grad):
        x, y = ctx.saved_tensors
        k = x.shape[-1] // 2
        grad_x, grad_y = torch.empty_like(x), torch.empty_like(y)
        for i, (real, imaginary) in enumerate(_differences(x, y)):
            length = torch.hypot(real, imaginary)
            if not grad.numel() or not length.amin() > 0:  # seldom: finding the zeros takes longer than the rest
                length.masked_fill_(length == 0, torch.inf)
            slope = grad / length
            for column, part in ((i, real), (i + k, imaginary)):
                part *= slope
                grad_x[:, column], grad_y[:, column] = part.sum(1), -part.sum(0)
        return grad_x, grad_y


def _differences(x: Tensor, y: Tensor):
    (a, b), (c, d) = (z.mT.contiguous().chunk(2) for z in (x, y))  # rows in one piece
    for i in range(len(a)):
        yield a[i, :, None] - c[i], b[i, :, None] - d[i]


class SumOfModuli(Distance):
    """sum_k |x_k - y_k| over complex coordinates, held as all real parts, then all imaginary parts. x, y: (*B, 2 k)."""

    def _checked(self, x: Tensor, y: Tensor, item_dims: int) -> tuple[Tensor, Tensor]:
        x, y = super()._checked(x, y, item_dims)
        check_even(x.shape[-1], "SumOfModuli")
        return x, y

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        return moduli(x - y).sum(-1)

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        if x.dim() == 2 and y.dim() == 2:
            return _SumOfModuli.apply(x, y)
        return super()._pairwise(x, y)


class RotatE(GraphModel):
    """-sum_k |x_hk e^{i theta_rk} - x_tk|. dim is even: dim / 2 complex coordinates."""

    has_biases: ClassVar[bool] = False
    default_scale: ClassVar[float] = 0.1

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        check_even(dim, "RotatE")
        self.distance = SumOfModuli()
        self.entity = self._normal(n_entities, dim)
        self.angle = self._uniform(-math.pi, math.pi, n_relations, dim // 2)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return turn(rows, self._take(self.angle, r))
