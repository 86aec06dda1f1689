"""Optimal transport on the line, the kernel of all sliced distances.

    W_p^p(mu, nu) = int_0^1 |F^-1(q) - G^-1(q)|^p dq,    p >= 1, F and G the distribution functions

so the points are sorted and matched in order. Three cases, from fast to general:

    n = m, equal weights    mean_k |x_(k) - y_(k)|^p
    n != m, equal weights   the breaks {i/n} and {j/m} do not depend on the points: pairs and masses come from whole
                            numbers, once for all rows
    any weights             both cumulative weights merged, at most n + m pieces; without gradient and for p = 1,
                            W_1 = int |F - G| from one sort of all points

On a CPU, rows are sorted by NumPy, whose sort uses the processor's vector instructions, 10 to 20 times faster than
`torch.sort`; on other devices by `torch.sort`.

References: Villani, Topics in Optimal Transportation, 2003, section 2.2; Peyre and Cuturi, Computational Optimal
Transport, 2019, section 2.6.
"""

import functools

import numpy as np
import torch
from torch import Tensor

from geoembed.errors import DomainError, ShapeError

__all__ = [
    "argsort_rows",
    "check_order",
    "common_grid",
    "matched_in_order",
    "root",
    "sort_rows",
    "transport_1d",
    "transport_sorted",
]


def check_order(p: float, name: str) -> float:
    """p as a float; DomainError unless 1 <= p < inf."""
    if not 1 <= p < float("inf"):
        raise DomainError(f"{name}: p must be a finite number of at least 1, got {p}")
    return float(p)


def root(cost: Tensor, p: float) -> Tensor:
    """cost^(1/p) for cost >= 0, with gradient zero, not infinite, at zero. cost: any shape."""
    if p == 1:
        return cost
    positive = cost > 0
    power = torch.where(positive, cost, 1.0)
    power = power.sqrt() if p == 2 else power ** (1 / p)
    return torch.where(positive, power, cost * 0.0)  # NaN stays NaN, and its slope stays with it


def argsort_rows(values: Tensor, stable: bool = False) -> Tensor:
    """Order that sorts the last dimension, as whole numbers. values: (*B, n) -> (*B, n)."""
    values = values.detach()
    if _by_numpy(values):
        return torch.from_numpy(np.argsort(values.numpy(), axis=-1, kind="stable" if stable else None))
    return values.argsort(dim=-1, stable=stable)


def sort_rows(values: Tensor) -> Tensor:
    """The last dimension sorted, NaN last; differentiable. values: (*B, n) -> (*B, n)."""
    if not (torch.is_grad_enabled() and values.requires_grad) and _by_numpy(values):
        return torch.from_numpy(np.sort(values.detach().numpy(), axis=-1))
    return values.gather(-1, argsort_rows(values))


def _by_numpy(values: Tensor) -> bool:
    return values.device.type == "cpu" and values.dtype in (torch.float32, torch.float64)


def transport_1d(x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: float = 2.0) -> Tensor:
    """Cost W_p^p of optimal transport between points of the line, row by row; no root is taken.

    x: (*B, n), y: (*B, m), their weights a: (*B, n), b: (*B, m) summing to one, None for equal weights; batch
    dimensions broadcast -> (*B). Gradients reach points and weights (weights up to a constant a row); at coincident
    sets they are zero.

    >>> transport_1d(torch.tensor([0.0, 1.0]), torch.tensor([3.0, 1.0]), p=1)
    tensor(1.5000)
    """
    check_order(p, "transport_1d")
    for name, t, like in (("a", a, x), ("b", b, y)):
        if t is not None and t.shape[-1] != like.shape[-1]:
            raise ShapeError(f"transport_1d: {name} must hold {like.shape[-1]} weights, got shape {tuple(t.shape)}")
    if a is None and b is None:
        return _uniform(sort_rows(x), sort_rows(y), p)
    a = torch.full_like(x[..., :1], 1 / x.shape[-1]).expand_as(x) if a is None else a.expand_as(x)
    b = torch.full_like(y[..., :1], 1 / y.shape[-1]).expand_as(y) if b is None else b.expand_as(y)
    if p == 1 and not (torch.is_grad_enabled() and any(t.requires_grad for t in (x, y, a, b))):
        return _pooled(x, y, a, b)
    i, j = argsort_rows(x), argsort_rows(y)
    return transport_sorted(
        x.gather(-1, i), a.gather(-1, i).cumsum(-1), y.gather(-1, j), b.gather(-1, j).cumsum(-1), p
    )  # fmt: skip


def _uniform(x: Tensor, y: Tensor, p: float) -> Tensor:
    """W_p^p of sorted rows of equal weights."""
    n, m = x.shape[-1], y.shape[-1]
    if n == m:
        return _power(x - y, p).mean(-1)
    i, j, mass = (t.to(x.device) for t in common_grid(n, m))
    return _power(x[..., i] - y[..., j], p) @ mass.to(x.dtype)


@functools.lru_cache(maxsize=64)
def common_grid(n: int, m: int) -> tuple[Tensor, Tensor, Tensor]:
    """The pieces on which both quantile functions are constant: point of x, point of y, mass (float64).

    In units of 1 / (n m) the breaks are the multiples of m and of n: exact.
    """
    ends = np.union1d(np.arange(1, n + 1) * m, np.arange(1, m + 1) * n)
    starts = np.concatenate([[0], ends[:-1]])
    mass = (ends - starts) / (n * m)
    return torch.from_numpy(starts // m), torch.from_numpy(starts // n), torch.from_numpy(mass)


def transport_sorted(x: Tensor, cum_a: Tensor, y: Tensor, cum_b: Tensor, p: float) -> Tensor:
    """W_p^p of sorted rows with cumulative weights. x, cum_a: (*B, n), y, cum_b: (*B, m), broadcasting -> (*B)."""
    x, y, mass = matched_in_order(x, cum_a, y, cum_b)
    return (mass * _power(x - y, p)).sum(-1)


def matched_in_order(x: Tensor, cum_a: Tensor, y: Tensor, cum_b: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The monotone coupling of sorted rows: for each piece a value of x, one of y, and the mass, (*B, n + m) each.

    x, y: (*B, n), (*B, m) with cumulative weights cum_a, cum_b of these shapes; batch dimensions broadcast.
    """
    batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    x, cum_a, y, cum_b = (t.expand(*batch, t.shape[-1]) for t in (x, cum_a, y, cum_b))
    n, m = x.shape[-1], y.shape[-1]
    ends = torch.cat([cum_a, cum_b], dim=-1)
    order = argsort_rows(ends, stable=True)  # stable: two sorted runs are merged in linear time
    of_x = order < n
    i = of_x.cumsum(-1) - of_x.long()  # points of x whose mass is spent before the piece starts
    j = torch.arange(n + m, device=x.device) - i
    mass = ends.gather(-1, order).diff(dim=-1, prepend=torch.zeros_like(ends[..., :1]))
    return x.gather(-1, i.clamp_(max=n - 1)), y.gather(-1, j.clamp_(max=m - 1)), mass


def _pooled(x: Tensor, y: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """W_1 = int |F - G| from the sort of all points."""
    batch = torch.broadcast_shapes(x.shape[:-1], y.shape[:-1])
    points = torch.cat([x.expand(*batch, -1), y.expand(*batch, -1)], dim=-1)
    weights = torch.cat([a.expand(*batch, -1), -b.expand(*batch, -1)], dim=-1)
    order = argsort_rows(points)
    gaps = points.gather(-1, order).diff(dim=-1)
    return (weights.gather(-1, order).cumsum(-1)[..., :-1].abs() * gaps).sum(-1)


def _power(gap: Tensor, p: float) -> Tensor:
    if p == 2:
        return gap * gap
    return gap.abs() if p == 1 else gap.abs() ** p
