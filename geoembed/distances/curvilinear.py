"""Curvilinear distance: a Mahalanobis distance whose axes are curves.

|A (x - y)| measures along each row p_i of A: |p_i| times the length of the line t p_i between the feet of x and y, the
points of the line nearest to them. Here the lines are polynomial curves through the origin,

    theta_i(t) = sum_{k=1..c} a_ik t^k,     T_i(x) = the smallest t at which |theta_i(t) - x| is least,
    d(x, y)^2 = sum_i L_i(1)^2 (L_i(T_i(x)) - L_i(T_i(y)))^2,     L_i(t) = signed arc length of theta_i from 0 to t

so d is the Euclidean distance of the features phi_i(x) = L_i(1) L_i(T_i(x)): n points cost n nearest points a curve,
not one a pair. It satisfies the triangle inequality. For c = 1 it is the Mahalanobis distance.

Reference: Chen, Luo, Yang, Gong, Li and Huang, Curvilinear Distance Metric Learning, NeurIPS 2019.
"""

import torch
from torch import Tensor, nn

from geoembed.distance import Distance
from geoembed.distances.polynomial_curves import curve_features, nearest_parameter
from geoembed.errors import DomainError, ShapeError

__all__ = ["Curvilinear"]


class Curvilinear(Distance):
    """sqrt(sum_i (phi_i(x) - phi_i(y))^2) with phi_i(x) = L_i(1) L_i(T_i(x)) and learnable curves.

    x, y: (*B, d) -> (*B). Computed in float64 whatever the dtype, which is kept. phi jumps where two points of a curve
    are equally near to x; elsewhere it is differentiable once. Points and coefficients beyond 1e100 may overflow.

    Args:
        coefficients: a, an (m, d, c) tensor: m curves of degree c.
            `torch.cat([A.unsqueeze(-1), torch.zeros(m, d, c - 1)], -1)` starts as `Mahalanobis(A)`. A curve of zeros
            counts for nothing and, for c > 1, stays as it is: its gradient is zero.
    """

    embed_p = 2.0

    def __init__(self, coefficients: Tensor):
        super().__init__()
        if coefficients.dim() != 3 or 0 in coefficients.shape or not coefficients.is_floating_point():
            raise ShapeError(
                f"Curvilinear: coefficients must be floating point of shape (curves, features, degree), none of them "
                f"0, got {coefficients.dtype} of shape {tuple(coefficients.shape)}"
            )
        if not bool(coefficients.isfinite().all()):
            raise DomainError("Curvilinear: coefficients hold NaN or infinite values")
        self.coefficients = nn.Parameter(coefficients.detach().clone())
        self.is_metric = coefficients.shape[0] >= coefficients.shape[1]

    @property
    def degree(self) -> int:
        return self.coefficients.shape[-1]

    def parameter(self, x: Tensor) -> Tensor:
        """T_i(x), where on each curve the point nearest to x lies. x: (*B, d) -> (*B, m)."""
        t = nearest_parameter(self.coefficients.double(), self._points(x))
        return t.reshape(*x.shape[:-1], len(self.coefficients)).to(x.dtype)

    def curve(self, t: Tensor) -> Tensor:
        """theta_i(t_j). t: (n,) -> (m, n, d)."""
        k = torch.arange(1, self.degree + 1, dtype=t.dtype, device=t.device)
        return (self.coefficients.to(t.dtype) @ t ** k.unsqueeze(-1)).mT

    def embed(self, x: Tensor) -> Tensor:
        features = curve_features(self.coefficients.double(), self._points(x))
        return features.reshape(*x.shape[:-1], len(self.coefficients)).to(x.dtype)

    def _points(self, x: Tensor) -> Tensor:
        """x: (*B, d) -> (n, d)."""
        if x.shape[-1] != self.coefficients.shape[1]:
            raise ShapeError(
                f"Curvilinear: expected {self.coefficients.shape[1]} features, got {x.shape[-1]} (shape "
                f"{tuple(x.shape)})"
            )
        return x.reshape(-1, x.shape[-1]).double()

    def extra_repr(self) -> str:
        m, d, c = self.coefficients.shape
        return f"curves={m}, features={d}, degree={c}"
