"""Distances between vectors of R^d. In all of them x, y: (*B, d) -> (*B), and `pairwise` is one matrix product.

Euclidean      |x - y|                           Lp           (sum_i |x_i - y_i|^p)^(1/p)
Cosine         1 - <x, y> / (|x| |y|)            Mahalanobis  |A (x - y)|,  M = A^T A
NegativeInner  -<x, y>
"""

import torch
from torch import Tensor, nn

from geoembed.distance import Distance
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import norm, sqdist

__all__ = ["Cosine", "Euclidean", "Lp", "Mahalanobis", "NegativeInner"]


class Euclidean(Distance):
    """|x - y|. `pairwise` keeps the digits of close pairs, unlike |x|^2 + |y|^2 - 2<x, y>."""

    embed_p = 2.0

    def embed(self, x: Tensor) -> Tensor:
        return x


class Lp(Distance):
    """(sum_i |x_i - y_i|^p)^(1/p) for p >= 1; `p=inf` is the largest difference."""

    def __init__(self, p: float):
        super().__init__()
        if not p >= 1:
            raise DomainError(f"Lp: p must be at least 1 (below it the triangle inequality fails), got {p}")
        self.p = self.embed_p = float(p)

    def embed(self, x: Tensor) -> Tensor:
        return x

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Cosine(Distance):
    """1 - <x, y> / (|x| |y|), as |x/|x| - y/|y||^2 / 2, which is exactly 0 at x = y and keeps small angles.

    A zero vector counts as orthogonal: it is at distance 1 of every other vector, and at 0 of itself.
    """

    is_metric = False
    upper_bound = 2.0

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        return (_unit(x) - _unit(y)).square().sum(-1) / 2

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        u = _unit(x)
        return sqdist(u, u if y is x else _unit(y)) / 2


def _unit(x: Tensor) -> Tensor:
    """x / |x|, and in a further coordinate 1 where x = 0, which is at a right angle to all others. -> (*B, d + 1)."""
    length = norm(x, keepdim=True)
    zero = length == 0
    return torch.cat([x / torch.where(zero, 1.0, length), zero.to(x.dtype)], dim=-1)


class NegativeInner(Distance):
    """-<x, y>, the inner product as a distance: smaller is closer, but it is no metric and may be negative."""

    is_metric = False

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        return -(x * y).sum(-1)

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        return -x @ y.mT  # to negate the product would be a pass over all pairs


class Mahalanobis(Distance):
    """|A (x - y)| with a learnable A: (k, d); the metric matrix is M = A^T A.

    Args:
        factor: A, a (k, d) tensor; k < d gives a low-rank pseudo-metric. For a given positive semi-definite M
            use `Mahalanobis.from_matrix(M)`; the identity `torch.eye(d)` starts as the Euclidean distance.
    """

    embed_p = 2.0

    def __init__(self, factor: Tensor):
        super().__init__()
        if factor.dim() != 2 or not factor.is_floating_point():
            raise ShapeError(
                f"Mahalanobis: factor must be a floating point matrix (k, d), got {factor.dtype} of shape "
                f"{tuple(factor.shape)}"
            )
        if not bool(factor.isfinite().all()):
            raise DomainError("Mahalanobis: factor holds NaN or infinite values")
        self.factor = nn.Parameter(factor.detach().clone())
        self.is_metric = factor.shape[0] >= factor.shape[1]

    @classmethod
    def from_matrix(cls, matrix: Tensor) -> "Mahalanobis":
        """The distance sqrt((x - y)^T M (x - y)) of a symmetric positive semi-definite M: (d, d)."""
        if matrix.dim() != 2 or matrix.shape[0] != matrix.shape[1]:
            raise ShapeError(f"Mahalanobis: matrix must be square (d, d), got shape {tuple(matrix.shape)}")
        if not bool(matrix.isfinite().all()) or not torch.allclose(matrix, matrix.mT, rtol=1e-5, atol=1e-8):
            raise DomainError("Mahalanobis: matrix must be finite and symmetric. Symmetrise it with (M + M.T) / 2.")
        values, vectors = torch.linalg.eigh(matrix)
        if values[0] < -1e-6 * values.abs().max():
            raise DomainError(
                f"Mahalanobis: matrix must be positive semi-definite, its smallest eigenvalue is {values[0].item():.3g}"
            )
        return cls((vectors * values.clamp(min=0).sqrt()).mT)

    def embed(self, x: Tensor) -> Tensor:
        if x.shape[-1] != self.factor.shape[1]:
            raise ShapeError(
                f"Mahalanobis: expected {self.factor.shape[1]} features, got {x.shape[-1]} (shape {tuple(x.shape)})"
            )
        return x @ self.factor.mT

    def extra_repr(self) -> str:
        return f"factor={tuple(self.factor.shape)}"
