"""MuRP and MuRE: multi-relational embedding in a hyperbolic space or in the flat one, as one class.

    score(h, r, t) = b_h + b'_t - d( exp_0(R_r ⊙ log_0 x_h),  x_t ⊕ y_r )^2

x: points of the entities, R: a diagonal for each relation, y: a point for each relation, b, b': biases of an entity as
head and as tail; P(true) = sigmoid(score). On Euclidean space this is |R_r ⊙ x_h - (x_t + y_r)|^2, that is MuRE.

A table of points is held in one of two ways, convertible both ways:
  tangent   orthonormal tangent coordinates at the origin, x = exp_0(u): Euclidean steps;
  manifold  the points themselves: Riemannian steps.

Reference: Balazevic, Allen, Hospedales, "Multi-relational Poincare graph embeddings", NeurIPS 2019, arXiv:1905.09791.
Here |u| is the distance from the origin; in the paper's ball coordinates tangent vectors are half as long.
"""

import copy
from collections.abc import Callable
from typing import NamedTuple

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoembed.errors import DomainError
from geoembed.manifolds import Euclidean, PoincareBall
from geoembed.models.translated import translated

__all__ = ["MuRE", "MuRP", "MultiRelational", "Scored"]


class Scored(NamedTuple):
    """Scores of a batch. positive: (B,); negative: (B, N); sq_radius: (B,) = d(0, x_h)^2 + d(0, x_t)^2."""

    positive: Tensor
    negative: Tensor
    sq_radius: Tensor


class MultiRelational(nn.Module):
    """MuRP on `PoincareBall`, `Lorentz` or `HalfSpace`; MuRE on `Euclidean`; the definition on any other manifold.

    Args:
        n_entities, n_relations: rows of the tables; reciprocal relations are relations of their own.
        dim: dimension of the space.
        manifold: where the points live; its curvature is trained if it is learnable.
        tangent: hold tangent coordinates at the origin (True) or the points themselves (False).
        dtype: of the tables; by default float32 for tangent coordinates and float64 for points.
        generator: of the initial values: points and translations N(0, scale^2) about the origin, R uniform(-1, 1).
        scale: standard deviation of the initial points.
        sparse: entity tables get row-sparse gradients, as `geoembed.optim` takes them.
    """

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        dim: int,
        manifold: geoopt.Manifold | None = None,
        *,
        tangent: bool = True,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        scale: float = 1e-3,
        sparse: bool = True,
    ):
        super().__init__()
        for name, value in (("n_entities", n_entities), ("n_relations", n_relations), ("dim", dim)):
            if value < 1:
                raise DomainError(f"{name} must be at least 1, got {value}")
        self.n_entities, self.n_relations, self.dim = n_entities, n_relations, dim
        self.manifold = PoincareBall() if manifold is None else manifold
        self.tangent, self.sparse = tangent, sparse
        dtype = dtype or (torch.float32 if tangent else torch.float64)

        def normal(n: int) -> Tensor:
            return scale * torch.randn(n, dim, dtype=dtype, generator=generator)

        self.entity = self._table(normal(n_entities))
        self.translation = self._table(normal(n_relations))
        self.diagonal = nn.Parameter(torch.empty(n_relations, dim, dtype=dtype).uniform_(-1, 1, generator=generator))
        self.bias = nn.Parameter(torch.zeros(n_entities, 2, dtype=dtype))

    def _table(self, u: Tensor) -> nn.Parameter:
        if self.tangent:
            return nn.Parameter(u)
        return geoopt.ManifoldParameter(self.manifold.from_tangent(u), manifold=self.manifold)

    def score_batch(self, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor) -> Scored:
        """Scores of triples and of the same triples with corrupted tails. Each row of a table is read once.

        h, r, t: (B,) int64; negatives: (N,) shared by the batch, or (B, N) of each triple's own.
        """
        ids = torch.cat([h, t, negatives.reshape(-1)])
        rows = F.embedding(ids, self.entity, sparse=self.sparse)
        return self.score_rows(rows, F.embedding(ids, self.bias, sparse=self.sparse), r, negatives.shape)

    def score_rows(self, rows: Tensor, bias: Tensor, r: Tensor, shape: torch.Size) -> Scored:
        """`score_batch` of rows already read: heads, tails, then the negatives, which have this shape."""
        space, n = translated(self.manifold), len(r)
        sizes = [n, n, len(rows) - 2 * n]
        row_h, row_t, row_n = rows.split(sizes)
        bias_h, bias_t, bias_n = bias.split(sizes)
        bias_h, bias_t, bias_n = bias_h[:, 0], bias_t[:, 1], bias_n[:, 1]
        if not self.tangent:
            row_h = self.manifold.to_tangent(row_h)
        q = space.lift(self.diagonal.index_select(0, r) * row_h)
        y = space.take(self._lift(space, self.translation), r)
        v_t, v_n = self._lift(space, row_t), self._lift(space, row_n)
        positive = space.sqdist(q, v_t, y)
        if len(shape) == 1:
            negative = space.sqdist_matrix(q, v_n, y)
        else:
            q, y = (_each(p, lambda x: x.unsqueeze(1)) for p in (q, y))
            negative = space.sqdist(q, _each(v_n, lambda x: x.unflatten(0, shape)), y)
            bias_n = bias_n.view(shape)
        u_t = row_t if self.tangent else self.manifold.to_tangent(row_t)
        return Scored(
            positive=bias_h + bias_t - positive,
            negative=bias_h.unsqueeze(-1) + bias_n - negative,
            sq_radius=row_h.square().sum(-1) + u_t.square().sum(-1),
        )

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples. h, r, t: (B,) int64 -> (B,)."""
        return self.score_batch(h, r, t, h.new_empty(0)).positive

    def query(self, h: Tensor, r: Tensor) -> Tensor:
        """exp_0(R_r ⊙ log_0 x_h), points of the manifold. h, r: (B,) -> (B, k)."""
        return self.manifold.from_tangent(self.diagonal[r] * self.tangent_coordinates()[h])

    def answer(self, t: Tensor, r: Tensor) -> Tensor:
        """x_t ⊕ y_r, points of the manifold. t, r: (B,) -> (B, k)."""
        y = self.manifold.from_tangent(self.translation) if self.tangent else self.translation
        return self.manifold.add(self.points()[t], y[r])

    def tail_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """A function from heads (B,) to the scores of all entities as tails (B, n_entities), without a graph.

        The entity table is moved by the relation once; then each call is one matrix product.
        """
        with torch.no_grad():
            space = translated(self.manifold)
            y = self._lift(space, self.translation[relation : relation + 1])
            moved = space.translate(self._lift(space, self.entity), y)
            diagonal, bias, u = self.diagonal[relation], self.bias, self.tangent_coordinates()

        def score(heads: Tensor) -> Tensor:
            with torch.no_grad():
                out = bias.new_empty(len(heads), self.n_entities)
                distances = space.sqdist_to(space.lift(diagonal * u[heads]), moved, out)
                return distances.neg_().add_(bias[:, 1]).add_(bias[heads, :1])

        return score

    @torch.no_grad()
    def points(self) -> Tensor:
        """The entities as points of the manifold, (n_entities, k)."""
        return self.manifold.from_tangent(self.entity) if self.tangent else self.entity.detach().clone()

    @torch.no_grad()
    def tangent_coordinates(self) -> Tensor:
        """The entities in orthonormal tangent coordinates at the origin, (n_entities, dim)."""
        return self.entity.detach().clone() if self.tangent else self.manifold.to_tangent(self.entity)

    @torch.no_grad()
    def parameterised(self, tangent: bool, dtype: torch.dtype | None = None) -> "MultiRelational":
        """A copy of the model with its points held the given way; scores agree to rounding."""
        space, sizes = copy.deepcopy(self.manifold), (self.n_entities, self.n_relations, self.dim)
        other = MultiRelational(*sizes, space, tangent=tangent, dtype=dtype, sparse=self.sparse).to(self.entity.device)
        for table in ("entity", "translation"):
            source, target = getattr(self, table), getattr(other, table)
            u = (source if self.tangent else self.manifold.to_tangent(source)).to(target.dtype)
            target.copy_(u if tangent else self.manifold.from_tangent(u))
        other.diagonal.copy_(self.diagonal)
        other.bias.copy_(self.bias)
        return other

    def _lift(self, space, rows: Tensor):
        """Rows of a table as points of `space`."""
        return space.lift(rows) if self.tangent else space.lift_points(rows)

    def extra_repr(self) -> str:
        return f"n_entities={self.n_entities}, n_relations={self.n_relations}, dim={self.dim}, tangent={self.tangent}"


def _each(points, f: Callable[[Tensor], Tensor]):
    """f of a tensor, or of each tensor of a tuple of them."""
    return f(points) if isinstance(points, Tensor) else type(points)(*map(f, points))


def MuRP(n_entities: int, n_relations: int, dim: int, **options) -> MultiRelational:
    """`MultiRelational` on the Poincare ball of curvature -1, or on the hyperbolic `manifold=` given."""
    return MultiRelational(n_entities, n_relations, dim, **({"manifold": PoincareBall()} | options))


def MuRE(n_entities: int, n_relations: int, dim: int, **options) -> MultiRelational:
    """`MultiRelational` on Euclidean space."""
    return MultiRelational(n_entities, n_relations, dim, Euclidean(), **options)
