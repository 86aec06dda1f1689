"""Directions on the unit sphere for sliced distances: functions (count, dim, generator) -> (count, dim), float64.

All are random and unbiased: the mean of f(theta) over them has the expectation of a uniform direction. They differ in
the variance of that mean for an even f, such as the cost of a slice:

    iid           independent; error falls as 1 / sqrt(count)
    orthogonal    blocks of `dim` orthonormal directions (Haar): every quadratic form is integrated exactly
    equispaced    dim = 2, angles pi (k + u) / count: the trapezoidal rule, error about 1 / count^2
    fibonacci     dim = 3, a spiral on the half sphere, randomly rotated
    sobol         dim = 3, a scrambled Sobol sequence on the sphere, randomly rotated

`best` picks equispaced, fibonacci or orthogonal by the dimension.

References: Rowland et al., Orthogonal Estimation of Wasserstein Distances, AISTATS 2019; Nguyen, Bariletto and Ho,
Quasi-Monte Carlo for 3D Sliced Wasserstein, ICLR 2024 (arXiv 2309.11713).
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from geoembed.errors import DomainError, ShapeError

__all__ = ["Directions", "best", "equispaced", "fibonacci", "iid", "orthogonal", "sobol"]

Directions = Callable[[int, int, torch.Generator | None], Tensor]


def iid(count: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Independent uniform directions."""
    _check(count, dim)
    return torch.nn.functional.normalize(_normal(count, dim, generator=generator), dim=-1)


def orthogonal(count: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """Blocks of `dim` orthonormal directions, each block a uniform rotation; the last may be cut short."""
    _check(count, dim)
    blocks = math.ceil(count / dim)
    return _rotations(blocks, dim, generator).reshape(-1, dim)[:count]


def equispaced(count: int, dim: int = 2, generator: torch.Generator | None = None) -> Tensor:
    """Directions of the plane at equal angles over a half turn, from a random start."""
    _check(count, dim, 2)
    start = torch.rand((), generator=generator, dtype=torch.float64)
    angle = (torch.arange(count, dtype=torch.float64) + start) * (math.pi / count)
    return torch.stack([angle.cos(), angle.sin()], dim=-1)


def fibonacci(count: int, dim: int = 3, generator: torch.Generator | None = None) -> Tensor:
    """A Fibonacci spiral on the half sphere of R^3, heights (k + 1/2) / count, randomly rotated."""
    _check(count, dim, 3)
    k = torch.arange(count, dtype=torch.float64)
    return _on_sphere((k + 0.5) / count, k * (math.pi * (3 - math.sqrt(5)))) @ _rotations(1, 3, generator)[0]


def sobol(count: int, dim: int = 3, generator: torch.Generator | None = None) -> Tensor:
    """A scrambled Sobol sequence of the square, mapped to the sphere of R^3 with equal areas, randomly rotated."""
    _check(count, dim, 3)
    seed = int(torch.randint(2**31 - 1, (), generator=generator))
    square = torch.quasirandom.SobolEngine(2, scramble=True, seed=seed).draw(count, dtype=torch.float64)
    return _on_sphere(2 * square[:, 0] - 1, 2 * math.pi * square[:, 1]) @ _rotations(1, 3, generator)[0]


def best(count: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """equispaced in the plane, fibonacci in space, orthogonal elsewhere."""
    return {2: equispaced, 3: fibonacci}.get(dim, orthogonal)(count, dim, generator)


def _on_sphere(height: Tensor, angle: Tensor) -> Tensor:
    radius = (1 - height.square()).clamp(min=0).sqrt()
    return torch.stack([radius * angle.cos(), radius * angle.sin(), height], dim=-1)


def _rotations(count: int, dim: int, generator: torch.Generator | None) -> Tensor:
    """Uniform (Haar) orthogonal matrices: QR of normal matrices with the signs of R's diagonal moved into Q."""
    q, r = torch.linalg.qr(_normal(count, dim, dim, generator=generator))
    return q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)


def _normal(*shape: int, generator: torch.Generator | None) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _check(count: int, dim: int, expected: int | None = None) -> None:
    if count < 1 or dim < 1:
        raise DomainError(f"at least one direction of at least one dimension is needed, got {count} in R^{dim}")
    if expected is not None and dim != expected:
        raise ShapeError(f"these directions exist in R^{expected} only, got dim = {dim}; `best` picks by dimension")
