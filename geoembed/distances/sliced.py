"""Sliced Wasserstein distances along straight directions, and what is built from their slices.

    SW_p^p(mu, nu)     = E_theta W_p^p(theta # mu, theta # nu),   theta uniform on the sphere, theta # x = <theta, x>
    EBSW_p^p(mu, nu)   = sum_l s_l W_l,   s = softmax(W),  W_l = W_p^p along theta_l

SW_p <= W_p, and SW_2^2 <= W_2^2 / d. A translation by t:
SW_p(X, X + t) = |t| c with c^p = Gamma(d/2) Gamma((p+1)/2) / (sqrt(pi) Gamma((d+p)/2)).

References: Bonneel, Rabin, Peyre and Pfister, Sliced and Radon Wasserstein Barycenters of Measures, JMIV 2015; Nguyen
and Ho, Energy-Based Sliced Wasserstein Distance, NeurIPS 2023 (arXiv 2304.13586); Nguyen and Ho, Sliced Wasserstein
Estimation with Control Variates, ICLR 2024 (arXiv 2305.00402).
"""

import torch
from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.distances.directions import Directions, best, iid
from geoembed.distances.generalized import DefiningFunction
from geoembed.distances.slicing import CACHED, Sliced, moments
from geoembed.pointsets import PointSets

__all__ = [
    "ControlVariateSlicedWasserstein",
    "EnergySlicedWasserstein",
    "Linear",
    "SlicedWasserstein",
]


class Linear(DefiningFunction):
    """g(x, theta) = <x, theta>.

    Args:
        dim: d, number of features.
        count: number of directions.
        directions: how they are drawn, a function of `geoembed.distances.directions`; or the (count, d) directions.
    """

    held = CACHED

    def __init__(
        self,
        dim: int,
        count: int = 50,
        directions: Directions | Tensor = best,
        generator: torch.Generator | None = None,
    ):
        super().__init__(dim, dim, count, directions, generator)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        return theta @ points.mT


class SlicedWasserstein(Sliced):
    """SW_p, averaged over fixed directions.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B).

    Args:
        dim: d, number of features.
        projections: number of directions.
        p: order, at least 1.
        directions: how they are drawn; by default equispaced in the plane, a Fibonacci spiral in R^3, orthogonal
            elsewhere. Or the directions themselves, (count, d).

    Raises:
        DomainError: p < 1, no directions.
        ShapeError: sets whose points are not in R^d.
    """

    def __init__(
        self,
        dim: int,
        projections: int = 50,
        p: float = 2.0,
        directions: Directions | Tensor = best,
        generator: torch.Generator | None = None,
    ):
        super().__init__(Linear(dim, projections, directions, generator), p)

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        """Moved together near the origin, where the projections round least."""
        x, y = x.widened(), y.widened()
        if not x.points.numel():
            return x, y
        centre = x.points.detach().flatten(0, -2).mean(0)
        centre.nan_to_num_(0.0, 0.0, 0.0)  # one bad set must not spoil the others
        return x.map(lambda points: points - centre), y.map(lambda points: points - centre)


class _Reweighted(SlicedWasserstein):
    """A mean over the slices whose weights depend on both sets, so there is nothing to embed."""

    is_metric = False
    reduced = Distance.reduced
    _pairwise = Distance._pairwise

    def __init__(
        self,
        dim: int,
        projections: int = 50,
        p: float = 2.0,
        directions: Directions | Tensor = best,
        generator: torch.Generator | None = None,
    ):
        super().__init__(dim, projections, p, directions, generator)
        self.embed_p = None

    def embed(self, x: Items) -> Tensor:
        return Distance.embed(self, x)


class EnergySlicedWasserstein(_Reweighted):
    """EBSW_p: directions count by their cost, through softmax weights; at least SW_p, and no metric.

    Arguments as for `SlicedWasserstein`.
    """

    def _mean(self, x: PointSets, y: PointSets) -> Tensor:
        costs = self._costs(x, y)
        return (costs.softmax(-1) * costs).sum(-1)


class ControlVariateSlicedWasserstein(_Reweighted):
    """SW_p with less variance at the same number of independent directions.

    The costs are regressed on three quadratic forms of theta whose means over the sphere are known: the squared
    difference of the projected means, (theta . delta)^2 with mean |delta|^2 / d, and the variances of both projected
    sets, with means tr(Sigma) / d. What the regression explains is replaced by its mean. Orthogonal directions
    integrate such forms exactly already, so the directions here are independent by default.

    Arguments as for `SlicedWasserstein`.
    """

    def __init__(
        self,
        dim: int,
        projections: int = 50,
        p: float = 2.0,
        directions: Directions | Tensor = iid,
        generator: torch.Generator | None = None,
    ):
        super().__init__(dim, projections, p, directions, generator)

    def _mean(self, x: PointSets, y: PointSets) -> Tensor:
        costs = self._costs(x, y)  # (*B, L)
        (mean_x, spread_x), (mean_y, spread_y) = moments(x), moments(y)
        delta, theta = mean_x - mean_y, self.slices.get_buffer("theta").to(costs)
        forms = torch.stack(  # (*B, L, 3)
            [
                (delta @ theta.mT).square(),
                *((theta @ spread * theta).sum(-1) for spread in (spread_x, spread_y)),
            ],
            dim=-1,
        )
        expected = torch.stack([delta.square().sum(-1), *map(_trace, (spread_x, spread_y))], dim=-1) / theta.shape[-1]
        centred = forms - forms.mean(-2, keepdim=True)
        gram = centred.mT @ centred
        ridge = 1e-6 * gram.diagonal(dim1=-2, dim2=-1).sum(-1)[..., None, None] + torch.finfo(gram.dtype).tiny
        right = centred.mT @ (costs - costs.mean(-1, keepdim=True)).unsqueeze(-1)
        slope = torch.linalg.solve(gram + ridge * torch.eye(3).to(gram), right).squeeze(-1)
        return (costs.mean(-1) - (slope * (forms.mean(-2) - expected)).sum(-1)).clamp(min=0)


def _trace(matrix: Tensor) -> Tensor:
    return matrix.diagonal(dim1=-2, dim2=-1).sum(-1)
