"""The squared distance d(q, v ⊕ r)^2 between queries q and translated points v ⊕ r, for all pairs.

MuRP compares a query with tails moved by a relation, w = v ⊕ r. The move is a right translation, no isometry, so w
differs for every (relation, tail) pair; yet its coordinates never have to be formed. On the unit hyperboloid, points
(v0, v) with time coordinate v0, v ⊕ r = L_v r with the boost L_v that takes the origin to v:

    L_v r = (v0 r0 + <r, v>,  r + (r0 + <r, v> / (1 + v0)) v)
    cosh d(q, v ⊕ r) = q0 (v0 r0 + <r, v>) - <q, r> - <q, v> (r0 + <r, v> / (1 + v0))
                     = <(q0 r0, q0 r - r0 q), (v0, v)> - <q, r> - <q, v> <r, v> / (1 + v0)

so all pairs of B queries and N points cost three B x N matrix products and no Mobius sum. Tangent coordinates u at the
origin enter as (cosh |u|, sinh |u| u / |u|), other models through their isometry to the hyperboloid.

In flat space v ⊕ r = v + r and the distance is |q - (v + r)|.

References: Balazevic, Allen, Hospedales, "Multi-relational Poincare graph embeddings", NeurIPS 2019,
arXiv:1905.09791, eq. 2-4; the boost form of Mobius addition: Ungar, "Analytic hyperbolic geometry", 2005.
"""

from typing import Any, NamedTuple

import geoopt
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product
from geoembed.numerics import norm, sinhc

__all__ = [
    "EuclideanTranslated",
    "HyperbolicTranslated",
    "ManifoldTranslated",
    "Points",
    "ProductTranslated",
    "squared_arcosh1p",
    "translated",
    "unit_point",
]


class _SquaredArcosh1p(torch.autograd.Function):
    """arcosh(1 + z)^2, smooth at z = 0 with slope 2 there; what rounding left below zero counts as zero."""

    @staticmethod
    def forward(ctx, z):
        z = z.clamp(min=1e-30)  # keeps d / root = 1 in the limit
        root = (z + 2).mul_(z).sqrt_()
        d = z.add_(root).log1p_()
        ctx.save_for_backward(torch.div(d, root, out=root))
        return d.square_()

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        (half_slope,) = ctx.saved_tensors
        return (grad * half_slope).mul_(2)


def squared_arcosh1p(z: Tensor) -> Tensor:
    """arcosh(1 + z)^2 for z >= 0, smooth at 0."""
    return _SquaredArcosh1p.apply(z)


class Points(NamedTuple):
    """Points of the unit hyperboloid. time: (*B, 1), space: (*B, d)."""

    time: Tensor
    space: Tensor


def unit_point(u: Tensor) -> Points:
    """exp_0(u) on the unit hyperboloid. u: (*B, d)."""
    length = norm(u, keepdim=True)
    return Points(length.cosh(), sinhc(length) * u)


class HyperbolicTranslated:
    """For the models of hyperbolic space; distances are those of curvature -c."""

    def __init__(self, manifold: geoopt.Manifold):
        self.manifold = manifold
        self.c = manifold.c
        self.unit = not manifold.learnable and float(self.c) == 1  # spares the passes that scale by c

    def lift(self, u: Tensor) -> Points:
        """Orthonormal tangent coordinates at the origin, u: (*B, d)."""
        return unit_point(u if self.unit else u * self.c.sqrt())

    def lift_points(self, x: Tensor) -> Points:
        """Points of the manifold, x: (*B, k)."""
        x = self.manifold.to_lorentz(x) * self.c.sqrt()
        return Points(x[..., :1], x[..., 1:])

    def take(self, p: Points, index: Tensor) -> Points:
        """Rows of p."""
        return Points(p.time.index_select(0, index), p.space.index_select(0, index))

    def sqdist(self, q: Points, v: Points, r: Points) -> Tensor:
        """d(q, v ⊕ r)^2 row by row. Points (*B) -> (*B)."""
        along, across = self._query(q, r)
        z = along[0] * v.time + (along[1] * v.space).sum(-1, keepdim=True)
        qv, rv = ((p.space * v.space).sum(-1, keepdim=True) for p in (q, r))
        return self._squared(z - across - qv * rv / (1 + v.time)).squeeze(-1)

    def sqdist_matrix(self, q: Points, v: Points, r: Points) -> Tensor:
        """d(q_i, v_j ⊕ r_i)^2. q, r: B points, v: N points -> (B, N)."""
        (time, space), offset = self._query(q, r)
        ones = torch.ones_like(v.time)
        z = torch.cat([time, space, -offset], dim=-1) @ torch.cat([v.time, v.space, ones], dim=-1).mT
        return self._squared(torch.addcmul(z, q.space @ v.space.mT, r.space @ (v.space / (1 + v.time)).mT, value=-1))

    def translate(self, v: Points, r: Points) -> Points:
        """v_j ⊕ r for one r. v: N points, r: 1 point -> N points."""
        rv = v.space @ r.space.mT
        return Points(v.time * r.time + rv, r.space + (r.time + rv / (1 + v.time)) * v.space)

    def sqdist_moved(self, q: Points, w: Points) -> Tensor:
        """d(q_i, w_j)^2, without a graph. q: B points, w: N points -> (B, N)."""
        z = torch.cat([q.time, -q.space], dim=-1) @ torch.cat([w.time, w.space], dim=-1).mT
        z.sub_(1).clamp_(min=0)
        d2 = (z + 2).mul_(z).sqrt_().add_(z).log1p_().square_()
        return d2 if self.unit else torch.div(d2, self.c, out=d2)

    def sq_radius(self, p: Points) -> Tensor:
        """d(0, p)^2. p: B points -> (B)."""
        return self._squared(p.time.squeeze(-1) - 1)

    @staticmethod
    def _query(q: Points, r: Points) -> tuple[Points, Tensor]:
        """The first factor of the formula, and <q, r> + 1."""
        factor = Points(q.time * r.time, q.time * r.space - r.time * q.space)
        return factor, (q.space * r.space).sum(-1, keepdim=True) + 1

    def _squared(self, z: Tensor) -> Tensor:
        d2 = squared_arcosh1p(z)
        return d2 if self.unit else d2 / self.c


class EuclideanTranslated:
    """The same functions in flat space. Points are tensors (*B, d)."""

    def lift(self, u: Tensor) -> Tensor:
        return u

    def lift_points(self, x: Tensor) -> Tensor:
        return x

    def take(self, p: Tensor, index: Tensor) -> Tensor:
        return p.index_select(0, index)

    def sqdist(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        return (q - (v + r)).square().sum(-1)

    def sqdist_matrix(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        p = q - r
        squares = p.square().sum(-1, keepdim=True) + v.square().sum(-1)
        return torch.addmm(squares, p, v.mT, alpha=-2).clamp(min=0)

    def translate(self, v: Tensor, r: Tensor) -> Tensor:
        return v + r

    def sqdist_moved(self, q: Tensor, w: Tensor) -> Tensor:
        squares = q.square().sum(-1, keepdim=True)
        return (q @ w.mT).mul_(-2).add_(squares).add_(w.square().sum(-1)).clamp_(min=0)

    def sq_radius(self, p: Tensor) -> Tensor:
        return p.square().sum(-1)


class ManifoldTranslated:
    """The same functions on any manifold, from its own operations: the definition, pair by pair."""

    def __init__(self, manifold: geoopt.Manifold):
        self.manifold = manifold

    def lift(self, u: Tensor) -> Tensor:
        return self.manifold.from_tangent(u)

    def lift_points(self, x: Tensor) -> Tensor:
        return x

    def take(self, p: Tensor, index: Tensor) -> Tensor:
        return p.index_select(0, index)

    def sqdist(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        return self.manifold.dist(q, self.manifold.add(*torch.broadcast_tensors(v, r))).square()

    def sqdist_matrix(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        return self.sqdist(q.unsqueeze(1), v.unsqueeze(0), r.unsqueeze(1))

    def translate(self, v: Tensor, r: Tensor) -> Tensor:
        return self.manifold.add(v, r.expand_as(v))

    def sqdist_moved(self, q: Tensor, w: Tensor) -> Tensor:
        return self.manifold.cdist(q, w).square_()

    def sq_radius(self, p: Tensor) -> Tensor:
        return self.manifold.to_tangent(p).square().sum(-1)


class Parts(tuple):
    """Points of the factors of a product, one entry a factor."""

    def __new__(cls, *parts: Any) -> "Parts":
        return super().__new__(cls, parts)


class ProductTranslated:
    """On a product of spaces every function is that of the factors; squared distances add up."""

    def __init__(self, manifold: Product):
        self.manifold = manifold
        self.spaces = [translated(factor) for factor in manifold.factors]

    def lift(self, u: Tensor) -> Parts:
        return self._map("lift", u.split(self.manifold.dims, dim=-1))

    def lift_points(self, x: Tensor) -> Parts:
        return self._map("lift_points", self.manifold.split(x))

    def take(self, p: Parts, index: Tensor) -> Parts:
        return Parts(*(space.take(part, index) for space, part in zip(self.spaces, p, strict=True)))

    def sqdist(self, q: Parts, v: Parts, r: Parts) -> Tensor:
        return self._sum("sqdist", q, v, r)

    def sqdist_matrix(self, q: Parts, v: Parts, r: Parts) -> Tensor:
        return self._sum("sqdist_matrix", q, v, r)

    def translate(self, v: Parts, r: Parts) -> Parts:
        return self._map("translate", v, r)

    def sqdist_moved(self, q: Parts, w: Parts) -> Tensor:
        return self._sum("sqdist_moved", q, w)

    def sq_radius(self, p: Parts) -> Tensor:
        return self._sum("sq_radius", p)

    def _map(self, method: str, *points: Any) -> Parts:
        return Parts(*(getattr(space, method)(*part) for space, *part in zip(self.spaces, *points, strict=True)))

    def _sum(self, method: str, *points: Parts) -> Tensor:
        first, *rest = self._map(method, *points)
        return sum(rest, start=first)


def translated(manifold: geoopt.Manifold) -> Any:
    """The fastest of the four that is exact for `manifold`."""
    if isinstance(manifold, PoincareBall | Lorentz | HalfSpace):
        return HyperbolicTranslated(manifold)
    if isinstance(manifold, Euclidean):
        return EuclideanTranslated()
    if isinstance(manifold, Product):
        return ProductTranslated(manifold)
    return ManifoldTranslated(manifold)
