"""MuRP and MuRE: multi-relational embedding in a hyperbolic space or in the flat one, as one class.

    score(h, r, t) = b_h + b'_t - d( exp_0(R_r log_0 x_h),  x_t ⊕ y_r )^2

x: points of the entities, R: a diagonal matrix for each relation, y: a point for each relation, b, b': biases of an
entity as head and as tail; P(true) = sigmoid(score). On Euclidean space this is |R_r x_h - (x_t + y_r)|^2, that is
MuRE; on a product of spaces, each of its own curvature, it is the mixed-curvature form.

`MuRPFull` has a full matrix R_r in place of the diagonal one, as HyboNet's relations do, in MuRP's distance. With few
relations that adds few parameters.

A table of points is held in one of two ways, convertible both ways:
  tangent   orthonormal tangent coordinates at the origin, x = exp_0(u): Euclidean steps;
  manifold  the points themselves: Riemannian steps.

References: Balazevic, Allen, Hospedales, "Multi-relational Poincare graph embeddings", NeurIPS 2019, arXiv:1905.09791;
products: Gu, Sala, Gunel, Re, "Learning mixed-curvature representations in product spaces", ICLR 2019.
Here |u| is the distance from the origin; in the paper's ball coordinates tangent vectors are half as long.
"""

import copy
from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import geoopt
import torch
from torch import Tensor, nn

from geoembed.manifolds import Euclidean, Hyperbolic, PoincareBall
from geoembed.models.base import GraphModel
from geoembed.models.translated import translated

__all__ = ["MuRE", "MuRP", "MuRPFull", "MultiRelational", "MultiRelationalFull"]


class Query(NamedTuple):
    """The moved head and the relation's translation, points of the space that `translated` gives."""

    head: Any
    translation: Any


class MultiRelational(GraphModel):
    """MuRP on `PoincareBall`, `Lorentz` or `HalfSpace`, MuRE on `Euclidean`, a mixture of them on their `Product`.

    Any other manifold with the operations of `geoembed.manifolds` takes the definition, pair by pair.

    Args:
        n_entities, n_relations: rows of the tables; inverse relations are relations of their own.
        dim: dimension of the space.
        manifold: where the points live; its curvature is trained if it is learnable.
        tangent: hold tangent coordinates at the origin (True) or the points themselves (False).
        dtype: of the tables; by default float32 for tangent coordinates and float64 for points.
        options: those of `GraphModel`. Initial points and translations are N(0, scale^2) about the origin, R is
            uniform(-1, 1); dropout acts on R.
    """

    suffix: ClassVar[str] = ""

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        dim: int,
        manifold: geoopt.Manifold | None = None,
        *,
        tangent: bool = True,
        dtype: torch.dtype | None = None,
        **options: Any,
    ):
        dtype = dtype or (torch.float32 if tangent else torch.float64)
        super().__init__(n_entities, n_relations, dim, dtype=dtype, **options)
        self.manifold = PoincareBall() if manifold is None else manifold
        self.tangent = tangent
        self.entity = self._table(self._normal(n_entities, dim))
        self.translation = self._table(self._normal(n_relations, dim))
        self.diagonal = self._uniform(-1, 1, n_relations, dim)

    def _table(self, u: nn.Parameter) -> nn.Parameter:
        if self.tangent:
            return u
        return geoopt.ManifoldParameter(self.manifold.from_tangent(u.detach()), manifold=self.manifold)

    def _lift(self, space: Any, rows: Tensor) -> Any:
        """Rows of a table as points of `space`."""
        return space.lift(rows) if self.tangent else space.lift_points(rows)

    def _linear(self, u: Tensor, r: Tensor) -> Tensor:
        """R_r u. u: (B, d), r: (B,)."""
        return self._take(self.diagonal, r) * u

    def _query(self, rows: Tensor, r: Tensor) -> Query:
        space = translated(self.manifold)
        head = space.lift(self._linear(self.coordinates(rows), r))
        return Query(head, space.take(self._lift(space, self.translation), r))

    def _answer(self, rows: Tensor) -> Any:
        return self._lift(translated(self.manifold), rows)

    def _compare(self, query: Query, answer: Any) -> Tensor:
        return translated(self.manifold).sqdist(query.head, answer, query.translation)

    def _compare_matrix(self, query: Query, answer: Any) -> Tensor:
        return translated(self.manifold).sqdist_matrix(query.head, answer, query.translation)

    def _ranking(self, relation: int) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        """The answers are moved by the relation once; then each comparison is one matrix product."""
        space = translated(self.manifold)
        y = self._lift(space, self.translation[relation : relation + 1])

        def query(rows: Tensor) -> Any:
            r = torch.full((len(rows),), relation, dtype=torch.int64, device=rows.device)
            return space.lift(self._linear(self.coordinates(rows), r))

        return query, lambda rows: space.translate(self._lift(space, rows), y), space.sqdist_moved

    def coordinates(self, rows: Tensor) -> Tensor:
        return rows if self.tangent else self.manifold.to_tangent(rows)

    def query_sq_radius(self, query: Query) -> Tensor:
        return translated(self.manifold).sq_radius(query.head)

    def tangent_tables(self) -> list[nn.Parameter]:
        return [self.entity, self.translation] if self.tangent and isinstance(self.manifold, Hyperbolic) else []

    def query(self, h: Tensor, r: Tensor) -> Tensor:
        """exp_0(R_r log_0 x_h), points of the manifold. h, r: (B,) -> (B, k)."""
        return self.manifold.from_tangent(self._linear(self.coordinates(self.entity[h]), r))

    def answer(self, t: Tensor, r: Tensor) -> Tensor:
        """x_t ⊕ y_r, points of the manifold. t, r: (B,) -> (B, k)."""
        x, y = self.entity[t], self.translation[r]
        if self.tangent:
            x, y = self.manifold.from_tangent(x), self.manifold.from_tangent(y)
        return self.manifold.add(x, y)

    @torch.no_grad()
    def points(self) -> Tensor:
        return (self.manifold.from_tangent(self.entity) if self.tangent else self.entity).detach().clone()

    @torch.no_grad()
    def curvatures(self) -> Tensor | None:
        if not isinstance(self.manifold, Hyperbolic):
            return None
        return -self.manifold.c.detach().expand(self.n_relations)

    def describe(self) -> str:
        name = "MuRE" if isinstance(self.manifold, Euclidean) else "MuRP"
        if isinstance(self.manifold, Euclidean | Hyperbolic):
            return super().describe().replace(type(self).__name__, name + type(self).suffix)
        return f"{name}{self.suffix}, {self.dim} dimensions, {self.manifold!r}"

    @torch.no_grad()
    def parameterised(self, tangent: bool, dtype: torch.dtype | None = None) -> "MultiRelational":
        """A copy of the model with its points held the given way; scores agree to rounding."""
        space, sizes = copy.deepcopy(self.manifold), (self.n_entities, self.n_relations, self.dim)
        options: dict[str, Any] = {"tangent": tangent, "dtype": dtype, "sparse": self.sparse, "dropout": self.dropout}
        other = type(self)(*sizes, space, **options).to(self.entity.device)
        points = ("entity", "translation")
        for name, target in other.named_parameters():
            source: Tensor = self.get_parameter(name)
            if name in points:
                u = self.coordinates(source).to(target.dtype)
                source = u if tangent else self.manifold.from_tangent(u)
            target.copy_(source)
        return other

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, tangent={self.tangent}"


class MultiRelationalFull(MultiRelational):
    """`MultiRelational` with a full matrix for each relation: R_r = diag(diagonal_r) + matrix_r.

    The diagonal starts as MuRP's, the rest as N(0, 0.05^2). Dropout acts on the diagonal.
    """

    suffix: ClassVar[str] = " with full matrices"

    def __init__(self, *args: Any, **options: Any):
        super().__init__(*args, **options)
        noise = torch.randn(self.n_relations, self.dim, self.dim, dtype=self.dtype, generator=self.initial)
        self.matrix = nn.Parameter(0.05 * noise)

    def _linear(self, u: Tensor, r: Tensor) -> Tensor:
        return super()._linear(u, r) + torch.bmm(self.matrix.index_select(0, r), u.unsqueeze(-1)).squeeze(-1)


def MuRP(n_entities: int, n_relations: int, dim: int, **options: Any) -> MultiRelational:
    """`MultiRelational` on the Poincare ball of curvature -1, or on the `manifold=` given."""
    return MultiRelational(n_entities, n_relations, dim, **({"manifold": PoincareBall()} | options))


def MuRE(n_entities: int, n_relations: int, dim: int, **options: Any) -> MultiRelational:
    """`MultiRelational` on Euclidean space."""
    return MultiRelational(n_entities, n_relations, dim, Euclidean(), **options)


def MuRPFull(n_entities: int, n_relations: int, dim: int, **options: Any) -> MultiRelationalFull:
    """`MultiRelationalFull` on the Poincare ball of curvature -1, or on the `manifold=` given."""
    return MultiRelationalFull(n_entities, n_relations, dim, **({"manifold": PoincareBall()} | options))
