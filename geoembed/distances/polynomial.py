"""Polynomial slices of the generalized sliced Wasserstein distances.

    g(x, theta) = sum_{|alpha| = m} theta_alpha x^alpha,   m odd, theta uniform on the unit sphere of R^C(d + m - 1, m)

Monomials are built degree by degree, one multiplication each, for a block of points at a time.

Reference: Kolouri, Nadjahi, Simsekli, Badeau and Rohde, Generalized Sliced Wasserstein Distances, NeurIPS 2019
(arXiv 1902.00434).
"""

import itertools
import math

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geoembed.distances.directions import Directions, iid
from geoembed.distances.generalized import DefiningFunction
from geoembed.errors import DomainError

__all__ = ["Polynomial"]

BLOCK = 1 << 20  # monomials held at a time


class Polynomial(DefiningFunction):
    """g(x, theta) = sum_{|alpha| = m} theta_alpha x^alpha, the homogeneous polynomials of odd degree m.

    The C(d + m - 1, m) coefficients stand in the order of `monomials`. Values grow as |x|^m: bring the points to unit
    size first.

    Args:
        degree: m, odd: of even degree g(-x) = g(x), and a set is not told from its mirror image.
    """

    def __init__(
        self,
        dim: int,
        count: int = 50,
        degree: int = 3,
        directions: Directions | Tensor = iid,
        generator: torch.Generator | None = None,
    ):
        if degree < 1 or degree % 2 == 0:
            raise DomainError(
                f"Polynomial: degree must be a positive odd number, got {degree}: with an even one the mirror image "
                f"of a set would be at distance zero"
            )
        super().__init__(dim, math.comb(dim + degree - 1, degree), count, directions, generator)
        self.degree = degree

    @property
    def monomials(self) -> list[tuple[int, ...]]:
        """The variables of each monomial: (0, 0, 2) is x_0^2 x_2."""
        return list(itertools.combinations_with_replacement(range(self.dim), self.degree))

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        if theta.dim() == 2:  # one product for the points of all sets
            values = _Polynomials.apply(theta.unsqueeze(0), points.reshape(1, -1, self.dim), self.degree)
            return values.reshape(len(theta), *points.shape[:-1]).movedim(0, -2)
        batch = torch.broadcast_shapes(theta.shape[:-2], points.shape[:-2])
        theta, points = (t.expand(*batch, *t.shape[-2:]).flatten(0, -3) for t in (theta, points))
        return _Polynomials.apply(theta, points, self.degree).unflatten(0, batch)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, degree={self.degree}"


class _Polynomials(torch.autograd.Function):
    """Homogeneous polynomials at points, a block of points at a time. theta: (b, k, c), points: (b, n, d) -> (b, k, n).

    The monomials of degree k are those of degree k - 1 times a variable, so that each costs one multiplication: x_i
    times those without x_0, ..., x_{i-1}, which in lexicographic order come last. The gradient goes back the same way,
    from monomials computed anew.
    """

    @staticmethod
    def forward(ctx, theta, points, degree):
        ctx.save_for_backward(theta, points)
        ctx.degree = degree
        values = points.new_empty(*theta.shape[:-1], points.shape[1])
        for block in _point_blocks(theta, points):
            x = points[:, block].mT.contiguous()
            values[..., block] = theta @ _monomials(x, degree)[-1]
        return values

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        theta, points = ctx.saved_tensors
        for_theta = torch.zeros_like(theta) if ctx.needs_input_grad[0] else None
        for_points = torch.zeros_like(points) if ctx.needs_input_grad[1] else None
        for block in _point_blocks(theta, points):
            x, slope = points[:, block].mT.contiguous(), grad[..., block]
            *lower, highest = _monomials(x, ctx.degree)
            if for_theta is not None:
                for_theta += slope @ highest.mT
            if for_points is not None:
                for_points[:, block] = _monomials_backward(x, lower, theta.mT @ slope).mT
        return for_theta, for_points, None


def _point_blocks(theta: Tensor, points: Tensor) -> list[slice]:
    size = max(1, BLOCK // max(1, len(theta) * theta.shape[-1]))
    return [slice(start, start + size) for start in range(0, points.shape[1], size)]


def _tails(dim: int, degree: int) -> list[int]:
    """How many monomials of `degree` have no variable before x_i, for each i."""
    return [math.comb(dim - i + degree - 1, degree) for i in range(dim)]


def _monomials(x: Tensor, degree: int) -> list[Tensor]:
    """All monomials of degree 1, ..., `degree`. x: (b, d, n) -> (b, c, n) each."""
    levels = [x]
    for k in range(1, degree):
        tails = _tails(x.shape[1], k)
        level = x.new_empty(len(x), sum(tails), x.shape[2])
        for i, part in enumerate(level.split(tails, dim=1)):
            torch.mul(x[:, i : i + 1], levels[-1][:, -tails[i] :], out=part)
        levels.append(level)
    return levels


def _monomials_backward(x: Tensor, lower: list[Tensor], slope: Tensor) -> Tensor:
    """The gradient in x from that in the highest monomials. lower: all others; slope: (b, c, n) -> (b, d, n)."""
    total = torch.zeros_like(x)
    for k, level in zip(range(len(lower), 0, -1), reversed(lower), strict=True):
        tails, below = _tails(x.shape[1], k), torch.zeros_like(level)
        for i, part in enumerate(slope.split(tails, dim=1)):
            total[:, i] += (level[:, -tails[i] :] * part).sum(1)
            below[:, -tails[i] :].addcmul_(x[:, i : i + 1], part)
        slope = below
    return total + slope
