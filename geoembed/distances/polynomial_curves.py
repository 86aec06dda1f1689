"""Polynomial curves through the origin: the parameter of the nearest point, and arc length.

    theta(t) = a_1 t + a_2 t^2 + ... + a_c t^c in R^d

Nearest point. f(t) = |theta(t) - x|^2 is a polynomial of degree 2c, and only its coefficients a_k . x depend on x. The
roots of a polynomial lie between those of its derivative, one at most between two neighbours, where it is monotone. So
all real roots of f' follow from the constant f^(2c) upwards, each by Newton's method kept inside of its bracket, within
Fujiwara's bound on the roots. No minimum is missed, and a curve of lower degree, its last a_k zero, is no special case.

Gradient. At the nearest point g(T; a, x) = f'(T) / 2 = 0, so by the implicit function theorem dT = -dg / h with
h = f''(T) / 2: one Newton step with h held constant, whose value is T and whose derivative is that of T.

Arc length. L(t) = t sum_q w_q |theta'(t u_q)|, by Gauss-Legendre quadrature with nodes u_q and weights w_q on [0, 1].
|theta'(t)|^2 is a polynomial in t too, so its values at all nodes are one matrix product.

References: Chen, Luo, Yang, Gong, Li and Huang, Curvilinear Distance Metric Learning, NeurIPS 2019 (nearest points and
arc lengths on polynomial curves); Fujiwara, Über die obere Schranke des absoluten Betrages der Wurzeln einer
algebraischen Gleichung, Tôhoku Mathematical Journal 10, 1916.
"""

import math

import numpy as np
import torch
from torch import Tensor

__all__ = ["arc_length", "curve_features", "nearest_parameter"]

# Relative errors of random lengths: 1e-15 in the median; in R^8 below 1e-9; in the plane, where a curve may all but
# stand still and turn back, 99 % are below 2e-5 and the worst of 4,000 is 4e-4.
NODES = 64
ITERATIONS = 1200  # at most: halving alone goes through all exponents and digits of a double within them
SEPARATION = 1e-8  # relative precision of roots that only tell brackets apart
TINY = 1e-300  # absolute precision, for roots at 0
LARGEST = 1000  # exponent of the largest parameter that is looked at
FEATURES = 1 << 16  # features computed at a time; each takes some hundred bytes
BLOCK = 1 << 16  # roots sought at a time, so that they stay in cache


def nearest_parameter(curves: Tensor, points: Tensor) -> Tensor:
    """T = the smallest t whose theta_i(t) is nearest to x_j, differentiable once in curves and points.

    Where two points of a curve are equally near, T jumps as x passes; there it has no derivative, and the one of the
    smaller t is taken. A curve of zeros is a single point, with T = 0.

    curves: (m, d, c), points: (n, d), float64 -> (n, m).
    """
    slope = _slope(curves, points)
    t = _smallest_minimiser(slope.detach())
    powers = _powers(t, slope.shape[-1])
    g = (slope * powers).sum(-1)
    k = torch.arange(1, slope.shape[-1], dtype=t.dtype, device=t.device)
    h = (slope.detach()[..., 1:] * k * powers[..., :-1]).sum(-1)
    return t - (g - g.detach()) / torch.where(h > 0, h, math.inf)


def curve_features(curves: Tensor, points: Tensor) -> Tensor:
    """phi_i(x_j) = L_i(1) L_i(T_i(x_j)). curves: (m, d, c), points: (n, d), float64 -> (n, m)."""
    if curves.shape[-1] == 1:  # |a| |a| (a . x) / |a|^2
        return points @ curves.squeeze(-1).mT
    unit = arc_length(curves, curves.new_ones(len(curves)))
    blocks = points.split(max(1, FEATURES // len(curves)))
    return unit * torch.cat([arc_length(curves, nearest_parameter(curves, block)) for block in blocks])


def arc_length(curves: Tensor, t: Tensor) -> Tensor:
    """Signed length of theta_i from 0 to t. curves: (m, d, c), t: (*B, m), float64 -> (*B, m)."""
    k = torch.arange(1, curves.shape[-1] + 1, dtype=t.dtype, device=t.device)
    speed = _squared(curves * k)  # |theta'|^2
    nodes, weights = (torch.from_numpy(a).to(t) for a in np.polynomial.legendre.leggauss(NODES))
    squares = (speed * _powers(t, speed.shape[-1])) @ _powers((nodes + 1) / 2, speed.shape[-1]).mT
    positive = squares > 0  # at a cusp rounding may leave less than nothing
    return t * (torch.where(positive, torch.where(positive, squares, 1.0).sqrt(), 0.0) @ (weights / 2))


def _powers(t: Tensor, count: int) -> Tensor:
    """t^0, t^1, ..., t^(count - 1). t: (*B) -> (*B, count)."""
    powers = [torch.ones_like(t)]
    while len(powers) < count:
        powers.append(powers[-1] * t)
    return torch.stack(powers, -1)


def _squared(vectors: Tensor) -> Tensor:
    """Coefficients of |sum_k v_k t^k|^2 from t^0 on. vectors: (m, d, c), k from 0 -> (m, 2c - 1)."""
    m, _, c = vectors.shape
    k = torch.arange(c, device=vectors.device)
    powers = (k + k.unsqueeze(-1)).flatten()
    return vectors.new_zeros(m, 2 * c - 1).index_add(1, powers, (vectors.mT @ vectors).flatten(1))


def _slope(curves: Tensor, points: Tensor) -> Tensor:
    """Coefficients of (theta(t) - x) . theta'(t) from t^0 on. -> (n, m, 2c)."""
    m, d, c = curves.shape
    k = torch.arange(1, 2 * c + 1, dtype=points.dtype, device=points.device)
    own = torch.nn.functional.pad(_squared(curves) * k[1:] / 2, (1, 0))
    inner = (points @ curves.transpose(0, 1).reshape(d, m * c)).unflatten(-1, (m, c))
    return own - torch.nn.functional.pad(inner * k[:c], (0, c))


def _smallest_minimiser(slope: Tensor) -> Tensor:
    """The smallest t that minimises a polynomial, from its derivative of odd degree. slope: (*B, D + 1) -> (*B)."""
    polynomials = slope.reshape(-1, slope.shape[-1])
    t = polynomials.new_zeros(len(polynomials))
    rows = max(1, BLOCK // slope.shape[-1])
    for start in range(0, len(t), rows):
        scaled, radius = _scaled(polynomials[start : start + rows].T)
        t[start : start + rows] = _minimise(scaled) * radius
    return t.reshape(slope.shape[:-1])


def _scaled(p: Tensor) -> tuple[Tensor, Tensor]:
    """(q, R), q(u) = p(R u) up to a factor, whose roots lie in |u| <= 1. p: (D + 1, P) -> (D + 1, P), (P).

    R and the factor are powers of two, so nothing is rounded.
    """
    k = torch.arange(len(p), device=p.device).unsqueeze(-1)
    mantissa, exponent = torch.frexp(p)
    lead = torch.where(p != 0, k, 0).amax(0)
    size = p.abs().log2()
    bound = 1 + torch.where(k < lead, (size - size.gather(0, lead.unsqueeze(0))) / (lead - k).clamp(min=1), -math.inf)
    radius = torch.where(bound.amax(0).isfinite(), bound.amax(0), 0.0).ceil().clamp(max=LARGEST)
    exponent = torch.where(p != 0, exponent + k * radius, -math.inf)
    largest = exponent.amax(0)
    return mantissa * torch.exp2(exponent - torch.where(largest.isfinite(), largest, 0.0)), torch.exp2(radius)


def _minimise(slope: Tensor) -> Tensor:
    """The smallest of the t in [-1, 1] at which the integral of `slope` is least. slope: (D + 1, P) -> (P)."""
    k = torch.arange(1, len(slope) + 1, dtype=slope.dtype, device=slope.device).unsqueeze(-1)
    derivatives = [slope]
    while len(derivatives[-1]) > 2:
        derivatives.append(derivatives[-1][1:] * k[: len(derivatives[-1]) - 1])
    ends = slope.new_ones(1, slope.shape[1])
    edges = torch.cat([-ends, ends])
    for p in reversed(derivatives[1:]):
        roots, _ = _roots(p, edges, SEPARATION)
        edges = torch.cat([-ends, roots, ends])
    roots, count = _roots(slope, edges, torch.finfo(slope.dtype).eps, minima=True)
    integral = torch.cat([torch.zeros_like(ends), slope / k])
    present = torch.arange(len(roots), device=slope.device).unsqueeze(-1) < count
    values = torch.where(present, _value(integral, roots), math.inf)
    rounding = 4 * torch.finfo(slope.dtype).eps * _value(integral.abs(), roots.abs())
    tied = values - rounding <= (values + rounding).amin(0)
    first = tied.to(torch.uint8).argmax(0, keepdim=True)
    return torch.where(count > 0, roots.gather(0, first).squeeze(0), 0.0)


def _roots(p: Tensor, edges: Tensor, precision: float, minima: bool = False) -> tuple[Tensor, Tensor]:
    """Roots of p between neighbouring edges, between which it is monotone, in rising order, and how many they are.

    minima: only those at which p rises. What is left of the first tensor is filled with 1.
    p: (D + 1, P), edges: (b + 1, P) -> (at least 1, P), (P).
    """
    positive = _value(p, edges) > 0
    found = ~positive[:-1] & positive[1:] if minima else positive[:-1] != positive[1:]
    bracket, polynomial = found.nonzero(as_tuple=True)
    t = _bracketed(
        p[:, polynomial],
        edges[bracket, polynomial],
        edges[bracket + 1, polynomial],
        torch.where(positive[bracket, polynomial], -1.0, 1.0).to(p.dtype),
        precision,
    )
    place = found.cumsum(0)
    count = place[-1]
    roots = p.new_ones(max(1, int(count.max())), p.shape[1])
    roots[place[bracket, polynomial] - 1, polynomial] = t
    return roots, count


def _bracketed(p: Tensor, low: Tensor, high: Tensor, sign: Tensor, precision: float) -> Tensor:
    """The root of each polynomial in its bracket, where sign * p rises. p: (D + 1, K), the others (K) -> (K).

    Newton steps that leave the bracket or do not halve the last step are replaced by halving the bracket.
    """
    roots, index = torch.empty_like(low), torch.arange(len(low), device=low.device)
    t, step = (low + high) / 2, high - low
    for iteration in range(ITERATIONS):
        value, slope = _value_and_slope(p, t)
        below = value * sign <= 0
        low, high = torch.where(below, t, low), torch.where(below, high, t)
        newton = t - value / slope
        good = (newton >= low) & (newton <= high) & ((newton - t).abs() <= step / 2)
        following = torch.where(good, newton, (low + high) / 2)
        step = (following - t).abs()
        t = following
        if iteration % 3 == 2:
            roots[index] = t
            left = (step > precision * t.abs() + TINY).nonzero().squeeze(-1)
            if not len(left):
                break
            index, t, step, low, high, sign = (a[left] for a in (index, t, step, low, high, sign))
            p = p[:, left]
    return roots


def _value(p: Tensor, t: Tensor) -> Tensor:
    """p(t) by Horner's rule. p: (D + 1, P), t: (b, P) -> (b, P)."""
    value = p[-1].expand_as(t)
    for coefficient in reversed(p[:-1].unbind()):
        value = torch.addcmul(coefficient, value, t)
    return value


def _value_and_slope(p: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:
    """p(t) and p'(t)."""
    value, slope = p[-1].expand_as(t), torch.zeros_like(t)
    for coefficient in reversed(p[:-1].unbind()):
        slope = torch.addcmul(value, slope, t)
        value = torch.addcmul(coefficient, value, t)
    return value, slope
