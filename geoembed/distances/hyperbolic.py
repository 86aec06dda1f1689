"""Sliced Wasserstein distances between point sets in hyperbolic space, by geodesic or horospherical coordinates.

A direction v at the origin, a unit vector, gives a point x two coordinates on the line. On the hyperboloid of curvature
-1, x = (x_0, xs), and in the other models by isometry,

    horospherical   B_v(x) = log(x_0 - <xs, v>)         the Busemann function; log(|v - x|^2 / (1 - |x|^2)) on the ball
    geodesic        t_v(x) = artanh(<xs, v> / x_0)      the foot of x on the geodesic through the origin along v
                           = (B_{-v}(x) - B_v(x)) / 2

At curvature -c, x is multiplied by sqrt(c) first and the coordinate divided by it in the end. Both are 1-Lipschitz, so

    (mean_v W_p^p(v # mu, v # nu))^(1/p)  <=  W_p(mu, nu) for the hyperbolic distance.

Rotations about the origin keep the distances if the directions rotate too; other isometries keep B_v up to a constant
when v moves as a point of the boundary.

Far from the origin, x_0 - <xs, v> loses its digits near the direction v. Here B_v comes from the angle between v and x,
at distance rho = asinh |xs| from the origin,

    B_v(x) = log1p(e^rho sinh(rho) |v - xs / |xs||^2 / 2) - rho

References: Bonet, Chapel, Drumetz and Courty, Hyperbolic Sliced-Wasserstein via Geodesic and Horospherical Projections,
TAG-ML 2023 (arXiv 2211.10066); Bonet, Drumetz and Courty, Sliced-Wasserstein Distances and Flows on Cartan-Hadamard
Manifolds, JMLR 26, 2025 (arXiv 2403.06560).
"""

import geoopt
import torch
from torch import Tensor
from torch.nn.functional import normalize

from geoembed.distances.directions import Directions, best
from geoembed.distances.generalized import DefiningFunction, GeneralizedSlicedWasserstein, signed
from geoembed.errors import DomainError
from geoembed.numerics import asinh, norm, sqdist

__all__ = [
    "GeodesicSlicedWasserstein",
    "Geodesics",
    "Horospheres",
    "HorosphericalSlicedWasserstein",
    "HyperbolicSlicedWasserstein",
]


class _HyperbolicSlices(DefiningFunction):
    """Slices along directions at the origin of `manifold`, orthonormal coordinates (count, dim).

    The manifold is known by what it can do: one of the methods `needs`.
    """

    needs: tuple[str, ...] = ("to_lorentz",)

    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        count: int,
        directions: Directions | Tensor,
        generator: torch.Generator | None = None,
    ):
        if not any(hasattr(manifold, name) for name in self.needs):
            raise DomainError(
                f"{type(self).__name__}: the manifold must be PoincareBall, Lorentz or HalfSpace, or have a method "
                f"{' or '.join(self.needs)}, got {manifold!r}"
            )
        coordinates = manifold.point_dim(dim) if hasattr(manifold, "point_dim") else dim
        super().__init__(coordinates, dim, count, directions, generator)
        self.manifold = manifold


class Horospheres(_HyperbolicSlices):
    """g(x, v) = B_v(x), whose level sets are the horospheres about the boundary point v.

    Args:
        manifold: `PoincareBall`, `Lorentz` or `HalfSpace`; or a manifold with a method `busemann(v, x)` that takes unit
            vectors v: (*B, k, dim) and points x: (*B, n, coordinates) to (*B, k, n). Points of such a manifold have
            `manifold.point_dim(dim)` coordinates, or `dim` if it has no such method.
        dim: d, dimension of the space; the points on `Lorentz` have d + 1 coordinates.
        count: number of directions.
        directions: how they are drawn, or the (count, dim) directions. B_v and B_{-v} differ, so they should cover the
            whole sphere, not the half of it.
    """

    needs = ("busemann", "to_lorentz")

    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        count: int = 50,
        directions: Directions | Tensor = signed,
        generator: torch.Generator | None = None,
    ):
        super().__init__(manifold, dim, count, directions, generator)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        v = normalize(theta, dim=-1)
        if hasattr(self.manifold, "busemann"):
            return self.manifold.busemann(v, points)
        return _busemann(self.manifold, v, points)


class Geodesics(_HyperbolicSlices):
    """g(x, v) = t_v(x), the signed place of the foot of x on the geodesic through the origin along v.

    Args:
        manifold: `PoincareBall`, `Lorentz` or `HalfSpace`.
        dim: d, dimension of the space.
        count: number of directions.
        directions: how they are drawn, or the (count, dim) directions.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        count: int = 50,
        directions: Directions | Tensor = best,
        generator: torch.Generator | None = None,
    ):
        super().__init__(manifold, dim, count, directions, generator)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        v = normalize(theta, dim=-1)
        return (_busemann(self.manifold, -v, points) - _busemann(self.manifold, v, points)) / 2


def _busemann(manifold: geoopt.Manifold, v: Tensor, points: Tensor) -> Tensor:
    """B_v(x), zero at the origin. v: (*B, k, d) unit, points: (*B, n, coordinates) -> (*B, k, n)."""
    s = manifold.c.sqrt()
    space = s * manifold.to_lorentz(points)[..., 1:]
    r = norm(space).clamp(min=1e-30)  # at the origin itself x / r keeps its derivative, and so B_v
    gap = sqdist(v, space / r.unsqueeze(-1))
    bend = r / 2 * (r + (1 + r.square()).sqrt())
    return ((bend.unsqueeze(-2) * gap).log1p() - asinh(r).unsqueeze(-2)) / s


class HorosphericalSlicedWasserstein(GeneralizedSlicedWasserstein):
    """HHSW_p, the mean over directions of W_p^p between Busemann coordinates, to the power 1 / p.

    A pseudo-metric: symmetric, with the triangle inequality, zero for equal sets. Whether only for those, over all
    directions, is not known.

    x, y: (*B, n, k) and (*B, m, k) points in the coordinates of the manifold, or `PointSets` -> (*B). Gradients are
    ambient, those of the coordinates; `manifold.egrad2rgrad` makes them Riemannian.

    Args:
        manifold: `PoincareBall`, `Lorentz`, `HalfSpace`, or another with a method `busemann`, see `Horospheres`. Its
            curvature is trained with the distance if it is learnable.
        dim: d, dimension of the space (`Lorentz` points have d + 1 coordinates).
        projections: number of directions.
        p: order, at least 1.
        directions: how they are drawn on the unit sphere; or the (count, dim) directions.

    Raises:
        DomainError: p < 1, no directions, a manifold without Busemann function.
        ShapeError: points with another number of coordinates.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        projections: int = 50,
        p: float = 2.0,
        directions: Directions | Tensor = signed,
        generator: torch.Generator | None = None,
    ):
        super().__init__(Horospheres(manifold, dim, projections, directions, generator), p)


class GeodesicSlicedWasserstein(GeneralizedSlicedWasserstein):
    """GHSW_p, the mean of W_p^p between coordinates on geodesics through the origin, to the power 1 / p.

    A pseudo-metric, as `HorosphericalSlicedWasserstein`; shapes and arguments are those, on the models of hyperbolic
    space only.
    """

    def __init__(
        self,
        manifold: geoopt.Manifold,
        dim: int,
        projections: int = 50,
        p: float = 2.0,
        directions: Directions | Tensor = best,
        generator: torch.Generator | None = None,
    ):
        super().__init__(Geodesics(manifold, dim, projections, directions, generator), p)


HyperbolicSlicedWasserstein = HorosphericalSlicedWasserstein  # the one that any manifold with Busemann functions has
