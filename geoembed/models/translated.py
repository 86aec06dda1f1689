"""The squared distance d(q, v ⊕ r)^2 between queries q and translated points v ⊕ r, for all pairs.

MuRP compares a query with tails moved by a relation, w = v ⊕ r. The move is a right translation, no isometry, so w
differs for every (relation, tail) pair; yet its coordinates never have to be formed. On the unit hyperboloid
(time coordinate first) v ⊕ r = L_v r with the boost L_v that takes the origin to v, hence

    cosh d(q, v ⊕ r) = -<q, L_v r> = q0 (v0 r0 + b) - e - a (r0 + b / (1 + v0)),
    a = <q, v>,  b = <r, v>,  e = <q, r>     (inner products of the space-like parts).

Only a is a B x N product; b has one row for each distinct relation. The ball enters through the isometry
b -> (1 + |b|^2, 2 b) / (1 - |b|^2), tangent coordinates u at the origin through (cosh |u|, sinh |u| u / |u|).

    Euclidean: |q - (v + r)|^2.

References: Balazevic, Allen, Hospedales, "Multi-relational Poincare graph embeddings", NeurIPS 2019,
arXiv:1905.09791, eq. 2-4; the boost form of Mobius addition: Ungar, "Analytic hyperbolic geometry", 2005.
"""

import geoopt
import torch
from torch import Tensor

from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, convert
from geoembed.numerics import sinhc

__all__ = ["EuclideanTranslated", "HyperbolicTranslated", "ManifoldTranslated", "translated"]


class _SquaredArcosh1p(torch.autograd.Function):
    """arcosh(1 + z)^2, smooth through z = 0 with slope 2 there; rounding below zero counts as zero."""

    @staticmethod
    def forward(ctx, z):
        z = z.clamp(min=0)
        root = (z + 2).mul_(z).sqrt_()
        d = z.add_(root).log1p_()
        ctx.save_for_backward(root, d)
        return d * d

    @staticmethod
    def backward(ctx, grad):
        root, d = ctx.saved_tensors
        return grad * (d / root).mul_(2).masked_fill_(root == 0, 2.0)


class HyperbolicTranslated:
    """Points are rows of the unit hyperboloid, (..., d + 1), time coordinate first; distances are of curvature -c."""

    def __init__(self, manifold: geoopt.Manifold):
        self.manifold, self.c = manifold, manifold.c

    def lift_points(self, x: Tensor) -> Tensor:
        """Points of the manifold, x: (*B, k), to points (*B, d + 1)."""
        return convert(x, self.manifold, Lorentz(self.c)) * self.c.sqrt()

    def lift(self, u: Tensor) -> Tensor:
        """Orthonormal tangent coordinates at the origin, u: (*B, d), to points (*B, d + 1)."""
        u = u * self.c.sqrt()
        length = torch.linalg.vector_norm(u, dim=-1, keepdim=True)
        return torch.cat([length.cosh(), sinhc(length) * u], dim=-1)

    def sqdist(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        """d(q, v ⊕ r)^2 row by row. q, v, r: (*B, d + 1) -> (*B)."""
        (q0, qs), (v0, vs), (r0, rs) = _split(q), _split(v), _split(r)
        a, b, e = (qs * vs).sum(-1), (rs * vs).sum(-1), (qs * rs).sum(-1)
        return self._squared(q0 * (v0 * r0 + b) - e - a * (r0 + b / (1 + v0)) - 1)

    def sqdist_matrix(self, q: Tensor, v: Tensor, r: Tensor, which: Tensor) -> Tensor:
        """d(q_i, v_j ⊕ r_which[i])^2. q: (B, d + 1), v: (N, d + 1), r: (R, d + 1), which: (B,) -> (B, N)."""
        (q0, qs), (v0, vs), (r0, rs) = _split(q), _split(v), _split(r)
        b = rs @ vs.mT
        along = v0 * r0.unsqueeze(-1) + b
        across = r0.unsqueeze(-1) + b / (1 + v0)
        e = (qs * rs[which]).sum(-1) + 1
        z = q0.unsqueeze(-1) * along[which] - (qs @ vs.mT) * across[which] - e.unsqueeze(-1)
        return self._squared(z)

    def translate(self, v: Tensor, r: Tensor) -> Tensor:
        """v ⊕ r = L_v r for one r. v: (N, d + 1), r: (d + 1,) -> (N, d + 1)."""
        (v0, vs), (r0, rs) = _split(v), _split(r)
        b = vs @ rs
        return torch.cat([(v0 * r0 + b).unsqueeze(-1), rs + (r0 + b / (1 + v0)).unsqueeze(-1) * vs], dim=-1)

    def sqdist_to(self, q: Tensor, w: Tensor, out: Tensor) -> Tensor:
        """d(q_i, w_j)^2 written into out, without a graph. q: (B, d + 1), w: (N, d + 1), out: (B, N)."""
        flipped = torch.cat([q[:, :1], -q[:, 1:]], dim=-1)
        z = torch.matmul(flipped, w.mT, out=out).sub_(1).clamp_(min=0)
        d = (z + 2).mul_(z).sqrt_()
        return out.copy_(d.add_(z).log1p_().square_().div_(self.c))

    def _squared(self, z: Tensor) -> Tensor:
        return _SquaredArcosh1p.apply(z) / self.c


class EuclideanTranslated:
    """The same functions in flat space, where v ⊕ r = v + r. Points are (..., d)."""

    def lift_points(self, x: Tensor) -> Tensor:
        return x

    def lift(self, u: Tensor) -> Tensor:
        return u

    def sqdist(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        return (q - (v + r)).square().sum(-1)

    def sqdist_matrix(self, q: Tensor, v: Tensor, r: Tensor, which: Tensor) -> Tensor:
        p = q - r[which]
        squares = p.square().sum(-1, keepdim=True) + v.square().sum(-1)
        return torch.addmm(squares, p, v.mT, alpha=-2).clamp(min=0)

    def translate(self, v: Tensor, r: Tensor) -> Tensor:
        return v + r

    def sqdist_to(self, q: Tensor, w: Tensor, out: Tensor) -> Tensor:
        torch.matmul(q, w.mT, out=out).mul_(-2).add_(q.square().sum(-1, keepdim=True))
        return out.add_(w.square().sum(-1)).clamp_(min=0)


class ManifoldTranslated:
    """The same functions on any manifold, from its own operations: the definition, pair by pair."""

    def __init__(self, manifold: geoopt.Manifold):
        self.manifold = manifold

    def lift_points(self, x: Tensor) -> Tensor:
        return x

    def lift(self, u: Tensor) -> Tensor:
        return self.manifold.from_tangent(u)

    def sqdist(self, q: Tensor, v: Tensor, r: Tensor) -> Tensor:
        return self.manifold.dist(q, self.manifold.add(v, r)).square()

    def sqdist_matrix(self, q: Tensor, v: Tensor, r: Tensor, which: Tensor) -> Tensor:
        return self.sqdist(q.unsqueeze(1), v.unsqueeze(0), r[which].unsqueeze(1))

    def translate(self, v: Tensor, r: Tensor) -> Tensor:
        return self.manifold.add(v, r.expand_as(v))

    def sqdist_to(self, q: Tensor, w: Tensor, out: Tensor) -> Tensor:
        return out.copy_(self.manifold.cdist(q, w).square_())


Translated = HyperbolicTranslated | EuclideanTranslated | ManifoldTranslated


def translated(manifold: geoopt.Manifold) -> Translated:
    """The fastest of the three that is exact for `manifold`."""
    if isinstance(manifold, PoincareBall | Lorentz | HalfSpace):
        return HyperbolicTranslated(manifold)
    if isinstance(manifold, Euclidean):
        return EuclideanTranslated()
    return ManifoldTranslated(manifold)


def _split(x: Tensor) -> tuple[Tensor, Tensor]:
    return x[..., 0], x[..., 1:]
