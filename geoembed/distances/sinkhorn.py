"""Entropic optimal transport between weighted point sets, debiased, on any distance between vectors.

With costs C_ij = d(x_i, y_j)^p / p, weights a and b, temperature eps = blur^p and reach rho = reach^p:

    OT(X, Y) = min_P <P, C> + eps KL(P | a b^T) + rho KL(P 1 | a) + rho KL(P^T 1 | b)
    S(X, Y)  = OT(X, Y) - OT(X, X) / 2 - OT(Y, Y) / 2

where KL(p | q) = sum p log(p / q) - p + q. `SinkhornDivergence` has rho = infinity: P has the margins a and b. No root
is taken: S tends to W_p^p / p as blur goes to 0, and to half the squared MMD of the kernel -d^p / p as it grows. blur
and reach are lengths, in the unit of d. These are the conventions of GeomLoss.

S is zero at coincident sets and S >= 0 where exp(-C / eps) is a positive definite kernel: |x - y|^p for 0 < p <= 2, the
hyperbolic distance for p = 1. It is no metric.

Solver. With phi(f) = rho (1 - exp(-f / rho)), which is f for rho = infinity, the dual is solved by

    f <- (f + T_Y g) / 2,   g <- (g + T_X f) / 2,   T_Y g = -eps / (1 + eps / rho) log sum_j b_j exp((g_j - C_ij) / eps)

in the log domain, with momentum: f and g are first moved on by k / (k + 3), at most 0.95, of their k-th step. eps falls
from the largest cost to blur^p, by halves, each time the plan misplaces less than 0.01 of the mass. X and Y are treated
alike, and every pair stops on its own, so that a value does not depend on the pairs beside it. The value

    OT = <a, phi(f) + s phi(T_Y g)> / 2 + <b, phi(g) + s phi(T_X f)> / 2,   s = 1 + eps / rho

has an error of second order in that of f and g. Its gradient holds f and g fixed (envelope theorem) and goes through
C, that is through P; the weights have the gradient s phi(T_Y g), for balanced transport up to a constant.

References: Feydy, Sejourne, Vialard, Amari, Trouve, Peyre, AISTATS 2019, arXiv:1810.08278 (the divergence, symmetric
updates); Sejourne, Feydy, Vialard, Trouve, Peyre, 2019, arXiv:1910.12958 (unbalanced); Feydy, "Geometric data analysis,
beyond convolutions", PhD thesis 2020 (annealing); Nesterov, Soviet Math. Doklady 27 (1983) (momentum).
"""

import math
import warnings

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.distances.transport import check_ground, check_sign, pairs
from geoembed.distances.transport1d import check_order
from geoembed.errors import ConvergenceWarning, DomainError
from geoembed.pointsets import PointSets

__all__ = ["SinkhornDivergence", "UnbalancedSinkhornDivergence"]

# Found by trial on Gaussian, clustered and unevenly weighted sets of 30 to 100 points in R^2 and R^16, with blur 0.05
# and 0.2: 120 to 500 iterations in most. Without momentum it is ten times as many; where eps falls while 0.3 of the
# mass is still misplaced, clusters of unequal mass stall.
_MOMENTUM = 0.95
_ROUGH = 0.01
# exp(-60) is lost beside exp(0) in every dtype. An exp that comes out subnormal takes 30 times longer.
_NOTHING = -60.0
_BUDGET = 64 << 20  # bytes of the costs of the pairs solved together, and of what they are made from


class SinkhornDivergence(Distance):
    """S of the module's page with the margins kept: W_p^p / p, smoothed. x: (*B, n, d), y: (*B, m, d) -> (*B).

    A set with NaN or infinite points is at NaN. A gradient keeps a few matrices (n, m) for each pair.

    Args:
        ground: a distance between vectors. Its parameters get gradients. One with negative values needs p = 1.
        p: power of the ground distance, finite and at least 1.
        blur: the length below which points are not told apart, in the unit of the ground distance. The smaller it is
            beside the size of the sets, the more iterations are needed.
        tolerance: the share of the mass that may be misplaced when a pair stops, or what the rounding of the dtype
            allows. The gradient then errs by about as much, and the value by much less.
        iterations: limit on the updates.

    Raises:
        ShapeError: a ground whose items are not vectors.
        DomainError: p < 1; a negative ground distance where p > 1; blur, tolerance or iterations that are not positive.

    Warns:
        ConvergenceWarning: some pairs did not reach `tolerance`; their last values are given.
    """

    event_dim = 2
    is_metric = False
    reach = math.inf

    def __init__(
        self, ground: Distance, p: float = 2.0, blur: float = 0.05, *, tolerance: float = 1e-3, iterations: int = 5000
    ):
        super().__init__()
        name = type(self).__name__
        self.ground = check_ground(ground, name)
        self.p, self.blur = check_order(p, name), _positive(blur, "blur", name)
        self.tolerance, self.iterations = _positive(tolerance, "tolerance", name), int(iterations)
        if self.iterations < 1:
            raise DomainError(f"{name}: iterations must be at least 1, got {iterations}")
        self.symmetric, self.same_features = ground.symmetric, ground.same_features
        self.upper_bound = ground.upper_bound**self.p / self.p

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        dtype = x.dtype
        batch, x, y, i, j = pairs(x, y)
        sound_x, sound_y = (s.points.isfinite().all(-1).all(-1) for s in (x, y))
        (sound,) = (sound_x[i] & sound_y[j]).nonzero(as_tuple=True)
        i, j = i[sound], j[sound]
        value = self._transport(x, y, i, j) - (self._own(x, sound_x)[i] + self._own(y, sound_y)[j]) / 2
        value = torch.where(_coincide(x, y, i, j), 0.0, value)
        return value.new_full((batch.numel(),), torch.nan).index_put((sound,), value).reshape(batch).to(dtype)

    def _own(self, x: PointSets, sound: Tensor) -> Tensor:
        """OT of each set with itself."""
        (i,) = sound.nonzero(as_tuple=True)
        return x.points.new_zeros(len(x)).index_put((i,), self._transport(x, x, i, i))

    def _transport(self, x: PointSets, y: PointSets, i: Tensor, j: Tensor) -> Tensor:
        """OT of the pairs (x[i], y[j])."""
        step = max(1, _BUDGET // max(1, x.shape[-2] * y.shape[-2] * x.shape[-1] * x.dtype.itemsize))
        parts = [self._block(x[at_x], y[at_y]) for at_x, at_y in zip(i.split(step), j.split(step), strict=True)]
        return torch.cat(parts)

    def _block(self, x: PointSets, y: PointSets) -> Tensor:
        """OT of the pairs (x[k], y[k])."""
        distances = self.ground.pairwise(x.filled(), y.filled())
        check_sign(distances, self)
        cost = distances**self.p / self.p
        # Once in half precision the weights may sum to one only roughly.
        a, b = (s.weights / s.weights.sum(-1, keepdim=True) for s in (x, y))
        log_a, log_b = a.detach().log(), b.detach().log()
        eps, rho = self.blur**self.p, self.reach**self.p
        f, g, error = _potentials(cost.detach(), log_a, log_b, eps, rho, self.tolerance, self.iterations)
        missed = int((error > 0).sum())
        if missed:
            warnings.warn(
                f"{type(self).__name__}: {missed} of {len(cost)} pairs still misplace up to {float(error.max()):.2g} "
                f"of the mass after {self.iterations} iterations, more than the tolerance {self.tolerance:g}. Raise "
                f"blur, tolerance or iterations.",
                ConvergenceWarning,
                stacklevel=2,
            )

        def phi(f: Tensor) -> Tensor:
            return f if rho == math.inf else -rho * torch.expm1(-f / rho)

        def half(weights: Tensor, f: Tensor, new: Tensor) -> Tensor:
            new = (1 + eps / rho) * phi(new)
            kept = weights.detach()
            return (kept * (phi(f) + new) / 2 + (weights - kept) * new.detach()).sum(-1)

        temperature = cost.new_full((len(cost), 1), eps)
        return half(a, f, _softmin(cost, g, log_b, temperature, rho)) + half(
            b, g, _softmin(cost, f, log_a, temperature, rho, -2)
        )

    def extra_repr(self) -> str:
        return f"p={self.p:g}, blur={self.blur:g}"


class UnbalancedSinkhornDivergence(SinkhornDivergence):
    """S of the module's page: mass may be left or created at a price. x: (*B, n, d), y: (*B, m, d) -> (*B).

    Moving a unit of mass by more than about `reach` costs more than to give it up on one side and make it on the other.
    The weights of `PointSets` sum to one, so this is not for comparing sets of unequal mass: it is for sets with
    outliers, whose price is limited.

    Args:
        reach: the length beyond which mass is not moved, in the unit of the ground distance. `SinkhornDivergence` is
            the limit of a large one.
        ground, p, blur, tolerance, iterations: as in `SinkhornDivergence`.
    """

    def __init__(
        self,
        ground: Distance,
        p: float = 2.0,
        blur: float = 0.05,
        reach: float = 1.0,
        *,
        tolerance: float = 1e-3,
        iterations: int = 5000,
    ):
        super().__init__(ground, p, blur, tolerance=tolerance, iterations=iterations)
        self.reach = _positive(reach, "reach", type(self).__name__)
        # P = 0 is a plan: OT <= 2 rho + eps.
        self.upper_bound = min(self.upper_bound, 2 * self.reach**self.p + self.blur**self.p)

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, reach={self.reach:g}"


def _softmin(cost: Tensor, g: Tensor, log_b: Tensor, eps: Tensor, rho: float, dim: int = -1) -> Tensor:
    """T g of the module's page, with the minimum over dimension `dim` of the costs, -1 or -2.

    cost: (k, n, m), g, log_b: (k, m), eps: (k, 1) -> (k, n); for dim = -2 n and m change places.
    """
    exponent = (g / eps + log_b).unsqueeze(-3 - dim) - cost / eps.unsqueeze(-1)
    top = exponent.detach().amax(dim, keepdim=True)
    total = exponent.sub_(top).clamp_(min=_NOTHING).exp_().sum(dim)
    return -eps / (1 + eps / rho) * (total.log() + top.squeeze(dim))


def _potentials(
    cost: Tensor, log_a: Tensor, log_b: Tensor, eps: float, rho: float, tolerance: float, iterations: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Optimal f: (k, n) and g: (k, m), and the mass misplaced where it is more than allowed, else 0: (k,).

    cost: (k, n, m), log_a: (k, n), log_b: (k, m), -inf where there is no weight.
    """
    f, g = torch.zeros_like(log_a), torch.zeros_like(log_b)
    final_f, final_g, missed = f.clone(), g.clone(), f.new_zeros(len(f))
    if not cost.numel():
        return final_f, final_g, missed
    old_f, old_g = f, g
    running = torch.arange(len(f), device=f.device)
    level = cost.amax((-2, -1)).clamp(min=eps).unsqueeze(-1)
    allowed = (8 * torch.finfo(f.dtype).eps / eps * level.squeeze(-1)).clamp(min=tolerance)
    for iteration in range(iterations):
        momentum = min(iteration / (iteration + 3), _MOMENTUM)
        u, v = f + momentum * (f - old_f), g + momentum * (g - old_g)
        new_u, new_v = _softmin(cost, v, log_b, level, rho), _softmin(cost, u, log_a, level, rho, -2)
        error = torch.maximum(_misplaced(u, new_u, log_a, level), _misplaced(v, new_v, log_b, level))
        f, g, old_f, old_g = (u + new_u) / 2, (v + new_v) / 2, f, g
        stop = (level.squeeze(-1) <= eps) & (error <= allowed) | error.isnan()
        last = iteration == iterations - 1
        if last:
            missed[running] = torch.where(stop, 0.0, error)
        if last or bool(stop.any()):
            final_f[running], final_g[running] = f, g
            keep = ~stop
            if last or not bool(keep.any()):
                break
            cost, log_a, log_b, f, g, old_f, old_g, running, level, allowed, error = (
                t[keep] for t in (cost, log_a, log_b, f, g, old_f, old_g, running, level, allowed, error)
            )
        level = torch.where((error < allowed.clamp(min=_ROUGH)).unsqueeze(-1), (level / 2).clamp(min=eps), level)
    return final_f, final_g, missed


def _misplaced(f: Tensor, new: Tensor, log_a: Tensor, eps: Tensor) -> Tensor:
    """L1 distance between the margin of the plan and the weights; f, new, log_a: (k, n), eps: (k, 1) -> (k,)."""
    return (log_a.exp() * torch.expm1(((f - new) / eps).clamp(max=20)).abs()).sum(-1)  # exp(20): no overflow


def _coincide(x: PointSets, y: PointSets, i: Tensor, j: Tensor) -> Tensor:
    """Which pairs (x[i], y[j]) are of two equal sets, where S would be a rounding error."""
    same = torch.zeros_like(i, dtype=torch.bool)
    n = min(x.shape[-2], y.shape[-2])
    if x.shape[-1] == y.shape[-1]:
        # Few pairs agree in their first point, and only those are compared in full.
        (near,) = ((x.lengths[i] == y.lengths[j]) & (x.points[i, 0] == y.points[j, 0]).all(-1)).nonzero(as_tuple=True)
        i, j = i[near], j[near]
        a, b = x.weights[i, :n], y.weights[j, :n]
        alike = (a - b).abs() <= 8 * torch.finfo(a.dtype).eps * a  # other padding may round their sum otherwise
        same[near] = (x.points[i, :n] == y.points[j, :n]).all(-1).all(-1) & alike.all(-1)
    return same


def _positive(value: float, what: str, name: str) -> float:
    if not 0 < value < math.inf:
        raise DomainError(f"{name}: {what} must be positive and finite, got {value}")
    return float(value)
