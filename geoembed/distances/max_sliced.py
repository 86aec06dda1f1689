"""The max-sliced Wasserstein distance: the direction along which two point sets differ most.

    max-SW_p(mu, nu) = max_theta W_p(theta # mu, theta # nu),   SW_p <= max-SW_p <= W_p

From a direction theta the ascent goes to the gradient of W_p^p, normalised: for p = 2 a power iteration with the matrix
of the current matching. A step that does not increase the cost is halved.

Reference: Deshpande et al., Max-Sliced Wasserstein Distance and its Use for GANs, CVPR 2019 (arXiv 1904.05877).
"""

import torch
from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.distances.directions import iid
from geoembed.distances.slicing import moments
from geoembed.distances.transport1d import check_order, root, transport_1d
from geoembed.errors import DomainError
from geoembed.pointsets import PointSets

__all__ = ["MaxSlicedWasserstein"]

SMALLEST = 1e-9  # step at which a climb stops: at a kink, where two matchings tie, only ever smaller ones go up


class MaxSlicedWasserstein(Distance):
    """max-SW_p, the largest W_p over all directions, by ascent on the sphere.

    The starts are the difference of the means, the leading axis of the difference of the covariances, and random
    directions; the best end counts. It is a lower bound of the maximum, which it reaches unless every start ends in a
    lesser one.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B).

    Args:
        p: order, at least 1.
        restarts: random starts beside the two fixed ones.
        steps: most steps of the ascent.
        generator: of the random starts. They are drawn from its state at construction and are the same in every call.
    """

    event_dim = 2

    def __init__(self, p: float = 2.0, restarts: int = 14, steps: int = 200, generator: torch.Generator | None = None):
        super().__init__()
        self.p = check_order(p, type(self).__name__)
        if restarts < 0 or steps < 1:
            raise DomainError(f"MaxSlicedWasserstein: restarts >= 0 and steps >= 1 are needed, got {restarts}, {steps}")
        self.restarts, self.steps = restarts, steps
        self._seed = int(torch.randint(2**31 - 1, (), generator=generator)) if restarts else 0

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        batch, dtype = torch.broadcast_shapes(x.batch_shape, y.batch_shape), x.dtype
        x, y = (sets.widened().expand(*batch) for sets in (x, y))
        if not batch.numel():
            return x.points.new_zeros(batch).to(dtype)
        theta = self.directions(x, y)
        return root(self._costs(theta.unsqueeze(-2), x, y).squeeze(-1), self.p).to(dtype)

    def directions(self, x: Items, y: Items) -> Tensor:
        """The maximal directions. x, y: sets of the same batch dimensions (*B) -> (*B, d)."""
        x, y = PointSets.of(x).detach(), PointSets.of(y).detach()
        theta = self._starts(x, y)
        cost, slope = self._ascent(theta, x, y)
        step, tolerance = torch.ones_like(cost), 4 * torch.finfo(cost.dtype).eps
        live = torch.ones_like(cost, dtype=torch.bool)  # a climb that has stopped stays, whatever its batch does
        for _ in range(self.steps):
            trial = torch.nn.functional.normalize((1 - step.unsqueeze(-1)) * theta + step.unsqueeze(-1) * slope, dim=-1)
            trial_cost, trial_slope = self._ascent(trial, x, y)
            better = live & (trial_cost > cost)
            live &= torch.where(better, trial_cost - cost > tolerance * cost, step > SMALLEST)
            theta = torch.where(better.unsqueeze(-1), trial, theta)
            slope = torch.where(better.unsqueeze(-1), trial_slope, slope)
            cost = torch.where(better, trial_cost, cost)
            step = torch.where(better, (2 * step).clamp(max=1), step / 2)
            if not bool(live.any()):
                break
        best = cost.nan_to_num(-1).argmax(-1)[..., None, None].expand(*cost.shape[:-1], 1, theta.shape[-1])
        return theta.gather(-2, best).squeeze(-2)

    def _starts(self, x: PointSets, y: PointSets) -> Tensor:
        """(*B, restarts + 2, d)."""
        (mean_x, spread_x), (mean_y, spread_y) = moments(x), moments(y)
        generator = torch.Generator().manual_seed(self._seed)
        d = x.shape[-1]
        drawn = iid(max(self.restarts, 1), d, generator).to(x.points)[: self.restarts]
        spread = torch.nan_to_num(spread_x - spread_y, posinf=0, neginf=0)
        values, axes = torch.linalg.eigh(spread)
        widest = values.abs().argmax(-1)[..., None, None].expand(*values.shape[:-1], d, 1)
        axis = axes.gather(-1, widest).mT
        delta = torch.nn.functional.normalize(mean_x - mean_y, dim=-1).unsqueeze(-2)
        delta = torch.where(delta == 0, axis, delta)  # equal means
        return torch.cat([delta, axis, drawn.expand(*x.batch_shape, -1, -1)], dim=-2)

    def _ascent(self, theta: Tensor, x: PointSets, y: PointSets) -> tuple[Tensor, Tensor]:
        """Cost along each direction and its normalised gradient. theta: (*B, k, d) -> (*B, k), (*B, k, d)."""
        with torch.enable_grad():
            leaf = theta.detach().requires_grad_()
            cost = self._costs(leaf, x, y)
            (slope,) = torch.autograd.grad(cost.sum(), leaf)
        slope = torch.where((slope == 0).all(-1, keepdim=True), theta, slope)
        return cost.detach(), torch.nn.functional.normalize(slope, dim=-1)

    def _costs(self, theta: Tensor, x: PointSets, y: PointSets) -> Tensor:
        """W_p^p along each direction. theta: (*B, k, d) -> (*B, k)."""
        equal = x.uniform and y.uniform and not (x.ragged or y.ragged)
        a, b = (None, None) if equal else (x.weights.unsqueeze(-2), y.weights.unsqueeze(-2))
        return transport_1d(self._values(theta, x), self._values(theta, y), a, b, p=self.p)

    def _values(self, theta: Tensor, x: PointSets) -> Tensor:
        """The projected points. theta: (*B, k, d), x: (*B, n, d) -> (*B, k, n)."""
        return theta @ x.points.mT

    def extra_repr(self) -> str:
        return f"p={self.p:g}, restarts={self.restarts}, steps={self.steps}"
