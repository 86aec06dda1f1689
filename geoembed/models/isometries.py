"""RotE, RefE, AttE and RotH, RefH, AttH: relations that rotate and reflect, flat or in spaces of learnt curvature.

    score(h, r, t) = b_h + b'_t - d_r( exp_0(O_r u_h) ⊕ exp_0(y_r),  exp_0(u_t) )^2

u: tangent coordinates of the entities, y a translation. d_r and exp_0 belong to the space of curvature -c_r that the
relation compares in, c_r = softplus(kappa_r); in the flat models this is |O_r u_h + y_r - u_t|^2. O_r is

    Rot   a rotation by an angle in each pair of coordinates
    Ref   a reflection in each pair of coordinates
    Att   sum_i alpha_i O_i u,  alpha = softmax_i <a_r, O_i u> / sqrt(dim),  of a rotation and a reflection O_i

Rotations and reflections commute with exp_0, so in all of them the query starts as one tangent vector. On the unit
hyperboloid, with s = sqrt(c_r) and L_x the boost that takes the origin to x (see `translated`),

    q = L_x exp_0(s y_r),  x = exp_0(s O_r u_h),      cosh(s d) = q_0 cosh(s |u_t|) - <q, u_t> sinh(s |u_t|) / |u_t|

so all pairs cost one matrix product and elementwise functions even though every relation has a space of its own.

Reference: Chami, Wolf, Juan, Sala, Ravi, Re, "Low-dimensional hyperbolic knowledge graph embeddings", ACL 2020,
arXiv:2005.00545. Here |u| is the distance from the origin; in the paper's ball coordinates u, y are half as long.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from geoembed.manifolds import PoincareBall
from geoembed.models.base import GraphModel
from geoembed.models.rotation import check_even, turn
from geoembed.models.translated import HyperbolicTranslated, Points, squared_arcosh1p, unit_point
from geoembed.numerics import norm, sqdist

__all__ = ["AttE", "AttH", "FlatIsometric", "HyperbolicIsometric", "RefE", "RefH", "RotE", "RotH"]


class Isometric(GraphModel):
    """Base: entities u, translations y, angles of the rotation or the reflection of each relation."""

    kinds: tuple[str, ...]

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        check_even(dim, type(self).__name__)
        self.entity = self._normal(n_entities, dim)
        self.translation = self._normal(n_relations, dim)
        self.angles = nn.ParameterDict({k: self._uniform(-math.pi, math.pi, n_relations, dim // 2) for k in self.kinds})
        if len(self.kinds) > 1:
            self.context = self._normal(n_relations, dim)

    def _moved(self, u: Tensor, r: Tensor) -> Tensor:
        """O_r u. u: (B, dim) -> (B, dim)."""
        a, b = u.chunk(2, dim=-1)  # coordinate k is paired with k + dim / 2, as in a complex number
        sources = {"rotation": u, "reflection": torch.cat([a, -b], dim=-1)}
        images = []
        for kind, table in self.angles.items():
            images.append(turn(sources[kind], self._take(table, r)))
        if len(images) == 1:
            return images[0]
        both = torch.stack(images, dim=1)
        weight = (both @ self.context.index_select(0, r).unsqueeze(-1) / math.sqrt(self.dim)).softmax(dim=1)
        return (weight * both).sum(1)


class FlatIsometric(Isometric):
    """b_h + b'_t - |O_r u_h + y_r - u_t|^2."""

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return self._moved(rows, r) + self._take(self.translation, r)

    def _compare(self, query: Tensor, answer: Tensor) -> Tensor:
        return (query - answer).square().sum(-1)

    def _compare_matrix(self, query: Tensor, answer: Tensor) -> Tensor:
        return sqdist(query, answer)


class Query(NamedTuple):
    """A point of the unit hyperboloid and the root of its c. time: (*B, 1), space: (*B, d), root: (*B, 1)."""

    time: Tensor
    space: Tensor
    root: Tensor


class HyperbolicIsometric(Isometric):
    """The same in the space of curvature -c_r of each relation; `kappa` starts at c = 1."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.manifold = PoincareBall()  # where `points` shows the entities
        self.kappa = nn.Parameter(torch.full((n_relations,), math.log(math.expm1(1)), dtype=self.dtype))

    def _query(self, rows: Tensor, r: Tensor) -> Query:
        root = F.softplus(self.kappa.index_select(0, r)).sqrt().unsqueeze(-1)
        x, y = (unit_point(root * u) for u in (self._moved(rows, r), self._take(self.translation, r)))
        xy = (x.space * y.space).sum(-1, keepdim=True)
        return Query(x.time * y.time + xy, y.space + (y.time + xy / (1 + x.time)) * x.space, root)

    def _compare(self, query: Query, answer: Tensor) -> Tensor:
        target = unit_point(query.root * answer)
        z = query.time * target.time - (query.space * target.space).sum(-1, keepdim=True) - 1
        return (squared_arcosh1p(z) / query.root.square()).squeeze(-1)

    def _compare_matrix(self, query: Query, answer: Tensor) -> Tensor:
        length = norm(answer)
        length = torch.where(length > 0, length, torch.finfo(length.dtype).eps ** 0.5)  # the origin has a gradient too
        direction = answer / length.unsqueeze(-1)
        z = _MinusInner.apply(query.time, query.root * length, query.space @ direction.mT)
        return squared_arcosh1p(z) / query.root.square()

    def _ranking(self, relation: int) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        """One relation has one curvature, so tails become points once and a comparison is a matrix product."""
        r = torch.tensor([relation], device=self.kappa.device)
        root = F.softplus(self.kappa[r]).sqrt().unsqueeze(-1)
        space = HyperbolicTranslated(self.manifold)  # the unit one; what it gives is scaled below

        def query(rows: Tensor) -> Points:
            time, points, _ = self._query(rows, r.expand(len(rows)))
            return Points(time, points)

        def compare(q: Points, w: Points) -> Tensor:
            return space.sqdist_moved(q, w).div_(root.square())

        return query, lambda rows: unit_point(root * rows), compare

    def query_sq_radius(self, query: Query) -> Tensor:
        return (squared_arcosh1p(query.time - 1) / query.root.square()).squeeze(-1)

    def tangent_tables(self) -> list[nn.Parameter]:
        return [self.entity, self.translation]

    @torch.no_grad()
    def points(self) -> Tensor:
        """The entities in the ball of curvature -1, where tangent coordinates have their true length."""
        return self.manifold.from_tangent(self.entity)

    @torch.no_grad()
    def curvatures(self) -> Tensor:
        return -F.softplus(self.kappa.detach())


class _MinusInner(torch.autograd.Function):
    """time cosh(angle) - inner sinh(angle) - 1 for matrices angle and inner, time a column: one exp, two kept."""

    @staticmethod
    def forward(ctx, time, angle, inner):
        grown = angle.exp()
        cosh = grown.reciprocal()
        sinh = (grown - cosh).mul_(0.5)
        cosh.add_(grown).mul_(0.5)
        ctx.save_for_backward(time, inner, cosh, sinh)
        return torch.addcmul((cosh * time).sub_(1), inner, sinh, value=-1)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        time, inner, cosh, sinh = ctx.saved_tensors
        slope = torch.addcmul(sinh * time, inner, cosh, value=-1).mul_(grad)
        return (grad * cosh).sum(-1, keepdim=True), slope, (grad * sinh).neg_()


class RotE(FlatIsometric):
    """Rotations and translations of flat space."""

    kinds = ("rotation",)


class RefE(FlatIsometric):
    """Reflections and translations of flat space."""

    kinds = ("reflection",)


class AttE(FlatIsometric):
    """A weighted mean of a rotation and a reflection, and translations, of flat space."""

    kinds = ("rotation", "reflection")


class RotH(HyperbolicIsometric):
    """Rotations and translations of hyperbolic spaces."""

    kinds = ("rotation",)


class RefH(HyperbolicIsometric):
    """Reflections and translations of hyperbolic spaces."""

    kinds = ("reflection",)


class AttH(HyperbolicIsometric):
    """A weighted mean of a rotation and a reflection, and translations, of hyperbolic spaces."""

    kinds = ("rotation", "reflection")
