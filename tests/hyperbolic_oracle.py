"""Distances of the three models of hyperbolic space at 60 digits, by the textbook formulas.

Points are taken as the exact real numbers their floats stand for, so what is compared with these is the error of the
computation alone. c is the float c of the manifold; hyperboloid points have their time coordinate recomputed.
"""

import mpmath
import torch
from mpmath import mp, mpf
from torch import Tensor

mp.dps = 60


def exact(x: Tensor) -> list:
    """The coordinates of one point x: (k,) as 60-digit numbers."""
    return [mpf(value) for value in x.detach().double().tolist()]


def square(x) -> mpf:
    return mpmath.fsum(a * a for a in x)


def ball(x, y, c):
    """arcosh(1 + 2 c |x - y|^2 / ((1 - c |x|^2) (1 - c |y|^2))) / sqrt(c)"""
    difference = square([a - b for a, b in zip(x, y, strict=True)])
    return mpmath.acosh(1 + 2 * c * difference / ((1 - c * square(x)) * (1 - c * square(y)))) / mpmath.sqrt(c)


def halfspace(x, y, c):
    """arcosh(1 + |x - y|^2 / (2 x_n y_n)) / sqrt(c)"""
    difference = square([a - b for a, b in zip(x, y, strict=True)])
    return mpmath.acosh(1 + difference / (2 * x[-1] * y[-1])) / mpmath.sqrt(c)


def lorentz(x, y, c):
    """arcosh(c (x_0 y_0 - <x, y>)) / sqrt(c), x_0 = sqrt(1 / c + |x|^2)"""
    x, y = x[1:], y[1:]
    time = mpmath.sqrt(1 / c + square(x)) * mpmath.sqrt(1 / c + square(y))
    inner = mpmath.fsum(a * b for a, b in zip(x, y, strict=True))
    return mpmath.acosh(c * (time - inner)) / mpmath.sqrt(c)


FORMULAS = {"PoincareBall": ball, "HalfSpace": halfspace, "Lorentz": lorentz}


def distance(manifold, x: Tensor, y: Tensor) -> mpf:
    """Distance of one pair of points. x, y: (k,)."""
    return FORMULAS[manifold.name](exact(x), exact(y), mpf(float(manifold.c)))


def relative_errors(manifold, x: Tensor, y: Tensor, computed: Tensor) -> Tensor:
    """|computed - d| / d for every row. x, y: (n, k), computed: (n,) -> (n,) in float64."""
    errors = []
    for a, b, value in zip(x, y, computed.detach().double().tolist(), strict=True):
        true = distance(manifold, a, b)
        errors.append(float(abs(mpf(value) - true) / true))
    return torch.tensor(errors, dtype=torch.float64)


def gradient(manifold, x: Tensor, y: Tensor) -> Tensor:
    """Derivatives of the distance in the coordinates of x, by central differences of step 1e-25. x, y: (k,) -> (k,)."""
    formula, c, h = FORMULAS[manifold.name], mpf(float(manifold.c)), mpf("1e-25")
    a, b = exact(x), exact(y)
    slopes = []
    for i in range(len(a)):
        up, down = list(a), list(a)
        up[i], down[i] = a[i] + h, a[i] - h
        slopes.append(float((formula(up, b, c) - formula(down, b, c)) / (2 * h)))
    return torch.tensor(slopes, dtype=torch.float64)
