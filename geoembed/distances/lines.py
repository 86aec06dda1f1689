"""Tree-sliced Wasserstein distances on systems of lines, with gradients for the points.

A system is k lines through one root r, with unit directions theta_1, ..., theta_k. Each point x is projected on every
line, at t_i = <x - r, theta_i>, and splits its mass among them by a map alpha(x) in the simplex. The lines, joined at
the root, form a star, a tree with the metric |s - t| on one line and |s| + |t| across two; W_1 on it is closed:

    W_1 = sum_i ( int_0^inf |D_i(t > s)| ds + int_-inf^0 |D_i(t < s)| ds ),   D_i: mass of mu minus mass of nu on line i

that is, edge by edge the mass beyond the edge as seen from the root. What a line holds too much of one set goes to the
root, so with that balance put at t = 0 each line is a plain W_1 on the line: one sort of all its points. The distance
is the mean over the systems. Gradients of gradients are not defined.

    TreeSlicedLines              alpha(x) = softmax(A x + b), learnable, the same for all systems
    DbTreeSlicedWasserstein      alpha(x) = softmax_i(-delta dist(x, line i))

The first depends on where a point is and not on the lines; if its A is zero, every line holds as much of either set
and the distance is SW_1 with weighted directions. The second turns and moves with its lines. A nonlinear variant (Tran
et al., ICML 2025, arXiv 2505.00968) is the same distance of mapped points, `distance(x.map(h), y.map(h))`.

References: Tran et al., Tree-Sliced Wasserstein Distance: A Geometric Perspective, ICML 2025 (arXiv 2406.13725); Tran
et al., Distance-Based Tree-Sliced Wasserstein Distance, ICLR 2025 (arXiv 2503.11050).
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from geoembed.distance import Distance
from geoembed.distances.directions import Directions, orthogonal
from geoembed.distances.transport1d import argsort_rows
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import safe_sqrt, sqdist
from geoembed.pointsets import PointSets

__all__ = ["DbTreeSlicedWasserstein", "LineSystems", "TreeSlicedLines"]

BLOCK = 1 << 20  # sorted values held at a time by `pairwise`


class LineSystems(Distance):
    """Mean over systems of concurrent lines of W_1 on the star; a subclass gives the split of the masses.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B). Memory and time grow as systems * lines * (n + m).

    Args:
        dim: d, number of features.
        systems: number of systems.
        lines: k, lines in each.
        centre: (d,), the roots are drawn around it; the origin if left out. Best near the mean of the data.
        spread: standard deviation of the roots' coordinates about the centre.
        directions: how the lines of a system are drawn, a function of `geoembed.distances.directions`: by default
            orthonormal, in blocks of `dim` where there are more lines than dimensions.

    Raises:
        DomainError: a number below one, a spread that is negative.
        ShapeError: a centre, or points, of another dimension.
    """

    event_dim = 2
    theta: Tensor
    roots: Tensor
    centre: Tensor

    def __init__(
        self,
        dim: int,
        systems: int = 100,
        lines: int = 4,
        centre: Tensor | None = None,
        spread: float = 0.1,
        directions: Directions = orthogonal,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        name = type(self).__name__
        if min(dim, systems, lines) < 1:
            raise DomainError(f"{name}: dim, systems and lines must be at least 1, got {dim}, {systems} and {lines}")
        if not 0 <= spread < math.inf:
            raise DomainError(f"{name}: spread must be finite and not negative, got {spread}")
        if centre is not None and centre.shape != (dim,):
            raise ShapeError(f"{name}: centre must have shape ({dim},), got {tuple(centre.shape)}")
        self.dim, self.systems, self.lines, self.spread = dim, systems, lines, spread
        self._draw = directions
        self.register_buffer("centre", torch.zeros(dim, dtype=torch.float64) if centre is None else centre.clone())
        self.register_buffer("theta", torch.empty(systems, lines, dim, dtype=torch.float64))
        self.register_buffer("roots", torch.empty(systems, dim, dtype=torch.float64))  # relative to the centre
        self.resample(generator)

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw new roots and lines, as stochastic training does before each step."""
        theta = torch.stack([self._draw(self.lines, self.dim, generator) for _ in range(self.systems)])
        roots = torch.randn(self.systems, self.dim, generator=generator, dtype=torch.float64)
        self.theta, self.roots = theta.to(self.theta), (self.spread * roots).to(self.roots)

    def split(self, points: Tensor, coordinates: Tensor, roots: Tensor) -> Tensor:
        """Parts of each point's mass that go to the lines, summing to one over the lines of each system.

        points: (*B, n, d) and roots: (systems, d) relative to the centre, coordinates: (*B, n, systems, lines) on the
        lines -> (*B, n, systems, lines), or what broadcasts to it.
        """
        raise NotImplementedError

    def _projected(self, x: PointSets) -> tuple[Tensor, Tensor]:
        """Coordinates and masses on the lines. x: (*B, n, d) -> twice (*B, systems, lines, n)."""
        if x.shape[-1] != self.dim:
            raise ShapeError(f"{type(self).__name__}: the lines are in R^{self.dim}, the points in R^{x.shape[-1]}")
        x = x.widened()
        points = x.points - self.centre.to(x.points)
        theta, roots = self.theta.to(points), self.roots.to(points)
        along = (points @ theta.flatten(0, 1).mT).unflatten(-1, theta.shape[:2])
        coordinates = along - (theta @ roots.unsqueeze(-1)).squeeze(-1)
        masses = self.split(points, coordinates, roots) * x.weights[..., None, None]
        return coordinates.movedim(-3, -1), masses.expand_as(coordinates).movedim(-3, -1)

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        return _on_star(*self._projected(x), *self._projected(y)).to(x.dtype)

    def _pairwise(self, x: PointSets, y: PointSets) -> Tensor:
        """Each set is projected once; rows of the matrix are gone through in blocks."""
        (t, a), (s, b) = (tuple(p.unsqueeze(i) for p in self._projected(z)) for z, i in ((x, -4), (y, -5)))
        row = s[..., 0].numel() * (t.shape[-1] + s.shape[-1])
        rows = max(1, BLOCK // max(1, row))
        parts = [_on_star(u, c, s, b) for u, c in zip(t.split(rows, dim=-5), a.split(rows, dim=-5), strict=True)]
        return torch.cat(parts, dim=-2).to(x.dtype)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, systems={self.systems}, lines={self.lines}"


def _on_star(t: Tensor, a: Tensor, s: Tensor, b: Tensor) -> Tensor:
    """W_1 on stars of lines, averaged over the systems.

    t, a: (*B, systems, lines, n) coordinates and masses of one set, s, b: (*B, systems, lines, m) of the other -> (*B).
    """
    batch = torch.broadcast_shapes(t.shape[:-1], s.shape[:-1])
    balance = (b.sum(-1, keepdim=True) - a.sum(-1, keepdim=True)).expand(*batch, 1)
    values = torch.cat([t.expand(*batch, -1), s.expand(*batch, -1), torch.zeros_like(balance)], dim=-1)
    masses = torch.cat([a.expand(*batch, -1), -b.expand(*batch, -1), balance], dim=-1)
    return _Balanced.apply(values, masses).sum(-1).mean(-1)


class _Balanced(torch.autograd.Function):
    """sum_i |F_i| (v_(i+1) - v_(i)) of rows of values v with signed masses that sum to zero, F their running sum.

    A value at which others lie may have two slopes, to the left and to the right. Their mean is taken, which is zero
    where the two sets coincide.
    """

    @staticmethod
    def forward(ctx, values, masses):
        order = argsort_rows(values)
        v, m = values.gather(-1, order), masses.gather(-1, order)
        running = m.cumsum(-1)
        rounding = 8 * torch.finfo(m.dtype).eps  # of masses that sum to one
        running = torch.where(running.abs() <= rounding, 0.0, running)
        ctx.save_for_backward(order, v, m, running)
        return (running[..., :-1].abs() * v.diff(dim=-1)).sum(-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        order, v, m, running = ctx.saved_tensors
        padded = F.pad(running, (1, 0))
        before = padded.gather(-1, torch.searchsorted(v, v))  # sums before and after all that lie at the same value
        after = padded.gather(-1, torch.searchsorted(v, v, right=True))
        slope = ((after - m).abs() - after.abs() + before.abs() - (before + m).abs()) / 2
        steps = F.pad(running[..., :-1].sign() * v.diff(dim=-1), (0, 1))
        ahead = steps.flip(-1).cumsum(-1).flip(-1)
        return tuple(torch.zeros_like(t).scatter(-1, order, t * grad.unsqueeze(-1)) for t in (slope, ahead))


class TreeSlicedLines(LineSystems):
    """TSW-SL: the mass of a point is split by where it is, alpha(x) = softmax(A x + b).

    The paper allows any continuous map to the simplex; this one is the simplest that depends on the point. x is taken
    relative to the centre. A: (lines, d) starts as normal entries of variance 1 / d, b: (lines,) as zero; both are
    parameters. Arguments as for `LineSystems`.
    """

    def __init__(
        self,
        dim: int,
        systems: int = 100,
        lines: int = 4,
        centre: Tensor | None = None,
        spread: float = 0.1,
        directions: Directions = orthogonal,
        generator: torch.Generator | None = None,
    ):
        super().__init__(dim, systems, lines, centre, spread, directions, generator)
        normal = torch.randn(lines, dim, generator=generator, dtype=torch.float64)
        self.weight = nn.Parameter(normal / math.sqrt(dim))
        self.bias = nn.Parameter(torch.zeros(lines, dtype=torch.float64))

    def split(self, points: Tensor, coordinates: Tensor, roots: Tensor) -> Tensor:
        logits = points @ self.weight.to(points).mT + self.bias.to(points)
        return logits.softmax(-1).unsqueeze(-2)


class DbTreeSlicedWasserstein(LineSystems):
    """Db-TSW: the mass of a point goes mostly to the lines near it, alpha_i(x) = softmax_i(-delta dist(x, line i)).

    Invariant to rigid motions of both sets together with the lines, and so in law to those of the sets about the
    centre. At delta = 0 every line gets the same part and the distance is SW_1.

    Args:
        delta: finite; the larger, the more of the mass goes to the nearest line. In units of 1 / distance.

    Other arguments as for `LineSystems`.
    """

    def __init__(
        self,
        dim: int,
        systems: int = 100,
        lines: int = 4,
        delta: float = 2.0,
        centre: Tensor | None = None,
        spread: float = 0.1,
        directions: Directions = orthogonal,
        generator: torch.Generator | None = None,
    ):
        super().__init__(dim, systems, lines, centre, spread, directions, generator)
        if not math.isfinite(delta):
            raise DomainError(f"DbTreeSlicedWasserstein: delta must be finite, got {delta}")
        self.delta = delta

    def split(self, points: Tensor, coordinates: Tensor, roots: Tensor) -> Tensor:
        square = sqdist(points, roots).unsqueeze(-1)
        off = square - coordinates.square()
        rounding = 16 * torch.finfo(off.dtype).eps * square  # a point so near a line counts as on it, without slope
        return (-self.delta * safe_sqrt(torch.where(off <= rounding, 0.0, off))).softmax(-1)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, delta={self.delta:g}"
