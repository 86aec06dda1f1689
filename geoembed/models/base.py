"""What every graph model is: a query made of head and relation, compared with an answer made of the tail.

    score(h, r, t) = b_h + b'_t - D( query(x_h, r), answer(x_t) )

x: rows of the entity table, b, b': biases of an entity as head and as tail (some models have none), D: any comparison
in which smaller is closer. A subclass says what a query is (`_query`) and what compares it: a `distance`, or how it
compares with one answer each (`_compare`) and with all answers (`_compare_matrix`); training, ranking and regularisers
need no more. `loops` adds a bias where h = t (see `geoembed.models.loops`), in ranking, not in training.

Relations come in 2 n directions, the inverse of r being r + n, so that every question is one for a tail.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NamedTuple

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoembed.data import Triples
from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.manifolds import Euclidean
from geoembed.models.penalties import Penalty, radius

__all__ = ["GraphModel", "Scored", "each", "stack_rows"]


class Scored(NamedTuple):
    """Scores of a batch. positive: (B,); negative: (B, N); penalty: (B,), of a regulariser in `PENALTIES`."""

    positive: Tensor
    negative: Tensor
    penalty: Tensor


class GraphModel(nn.Module):
    """Base of the graph models; a subclass makes `entity` and the tables of the relations.

    Args:
        n_entities, n_relations: rows of the tables; inverse relations are relations of their own.
        dim: dimension of the space, the number of reals an entity has.
        dtype: of the tables; float32 by default.
        generator: of the initial values.
        scale: standard deviation of the initial entities and relations.
        sparse: entity tables get row-sparse gradients, as `geoembed.optim` takes them.
        dropout: probability that a coordinate of a relation is dropped in training (the rest is scaled up).
    """

    has_biases: ClassVar[bool] = True
    default_scale: ClassVar[float] = 1e-3
    entity: nn.Parameter
    distance: Distance
    bias: nn.Parameter | None
    loops: Tensor | None

    def __init__(
        self,
        n_entities: int,
        n_relations: int,
        dim: int,
        *,
        dtype: torch.dtype | None = None,
        generator: torch.Generator | None = None,
        scale: float | None = None,
        sparse: bool = True,
        dropout: float = 0.0,
    ):
        super().__init__()
        for name, value in (("n_entities", n_entities), ("n_relations", n_relations), ("dim", dim)):
            if value < 1:
                raise DomainError(f"{name} must be at least 1, got {value}")
        if not 0 <= dropout < 1:
            raise DomainError(f"dropout must be a probability in [0, 1), got {dropout}")
        self.n_entities, self.n_relations, self.dim = n_entities, n_relations, dim
        self.sparse, self.dropout = sparse, dropout
        self.generator: torch.Generator | None = None  # draws the dropout in training
        self.dtype = dtype or torch.float32
        self.initial, self.scale = generator, self.default_scale if scale is None else scale
        self.manifold: geoopt.Manifold = Euclidean()
        self.bias = nn.Parameter(torch.zeros(n_entities, 2, dtype=self.dtype)) if self.has_biases else None
        self.register_buffer("loops", None)  # (n_relations,) once calibrated

    def check_fits(self, triples: Triples) -> None:
        """DomainError if the graph has other numbers of entities and relations; the model has the inverses too."""
        found, expected = (self.n_entities, self.n_relations), (triples.n_entities, 2 * triples.n_relations)
        if found != expected:
            raise DomainError(f"the model has (entities, directed relations) {found}, {triples.name} has {expected}")

    # ------------------------------------------------------------------------------------------ given by each model

    def _query(self, rows: Tensor, r: Tensor) -> Any:
        """Queries of heads with the given rows of the table: (B, width), (B,) -> a tensor or tuple of them (B, ...)."""
        raise NotImplementedError

    def _answer(self, rows: Tensor) -> Any:
        """What queries are compared with, of tails with the given rows."""
        return rows

    def _compare(self, query: Any, answer: Any) -> Tensor:
        """D of queries and answers, row by row; leading dimensions broadcast."""
        return self.distance(query, answer)

    def _compare_matrix(self, query: Any, answer: Any) -> Tensor:
        """D of B queries and N answers: (B, N)."""
        return self.distance.pairwise(query, answer)

    def _ranking(self, relation: int) -> tuple[Callable[[Tensor], Any], Callable[[Tensor], Any], Any]:
        """(query of rows, answer of rows, comparison) for one relation, without a graph; overridden where it pays."""

        def query(rows: Tensor) -> Any:
            return self._query(rows, torch.full((len(rows),), relation, dtype=torch.int64, device=rows.device))

        return query, self._answer, self._compare_matrix

    def coordinates(self, rows: Tensor) -> Tensor:
        """Tangent coordinates at the origin of rows of the entity table; the rows themselves in flat models."""
        return rows

    def query_sq_radius(self, query: Any) -> Tensor:
        """Squared distance of queries from the origin, (B,)."""
        return query.square().sum(-1)

    def relation_rows(self, r: Tensor) -> Tensor:
        """The coordinates that the N3 regulariser cubes. r: (B,) -> (B, k)."""
        raise DomainError(f"the n3 penalty is defined for DistMult and ComplEx, not for {type(self).__name__}")

    def moduli(self, rows: Tensor) -> Tensor:
        """Absolute values of coordinates, one a complex number where they are complex."""
        return rows.abs()

    def tangent_tables(self) -> list[nn.Parameter]:
        """Parameters that are tangent vectors of a hyperbolic space, for the optimizer."""
        return []

    # ------------------------------------------------------------------------------------------------------ scores

    def score_batch(self, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor, penalty: Penalty = radius) -> Scored:
        """Scores of triples and of the same triples with corrupted tails. Each row of a table is read once.

        h, r, t: (B,) int64; negatives: (N,) shared by the batch, or (B, N) of each triple's own.
        """
        ids = torch.cat([h, t, negatives.reshape(-1)])
        rows = F.embedding(ids, self.entity, sparse=self.sparse)
        bias = None if self.bias is None else F.embedding(ids, self.bias, sparse=self.sparse)
        return self.score_rows(rows, bias, r, negatives.shape, penalty)

    def score_rows(
        self, rows: Tensor, bias: Tensor | None, r: Tensor, shape: torch.Size, penalty: Penalty = radius
    ) -> Scored:
        """`score_batch` of rows already read: heads, tails, then the negatives, which have this shape."""
        sizes = [len(r), len(r), len(rows) - 2 * len(r)]
        row_h, row_t, row_n = rows.split(sizes)
        query = self._query(row_h, r)
        positive = -self._compare(query, self._answer(row_t))
        answers = self._answer(row_n)
        if len(shape) == 1:
            negative = -self._compare_matrix(query, answers)
        else:
            own = each(answers, lambda x: x.unflatten(0, shape))
            negative = -self._compare(each(query, lambda x: x.unsqueeze(1)), own)
        if bias is not None:
            bias_h, bias_t, bias_n = bias.split(sizes)
            positive = positive + (bias_h[:, 0] + bias_t[:, 1])
            negative = negative + bias_h[:, :1] + (bias_n[:, 1] if len(shape) == 1 else bias_n[:, 1].view(shape))
        return Scored(positive, negative, penalty(self, row_h, r, query, row_t))

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples. h, r, t: (B,) int64 -> (B,)."""
        scores = self.score_batch(h, r, t, h.new_empty(0)).positive
        return scores if self.loops is None else scores + (h == t) * self.loops[r]

    def tail_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """A function from heads (B,) to the scores of all entities as tails (B, n_entities), without a graph."""
        with torch.no_grad():
            query, answer, compare = self._ranking(relation)
            answers, rows = answer(self.entity), self.entity

        @torch.no_grad()
        def score(heads: Tensor) -> Tensor:
            out = compare(query(rows[heads]), answers).neg_()
            if self.bias is not None:
                out.add_(self.bias[:, 1]).add_(self.bias[heads, :1])
            return self._with_loops(out, relation, heads)

        return score

    def head_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """A function from tails (B,) to the scores of all entities as heads (B, n_entities), without a graph.

        Of the relation itself: `tail_scorer` of its inverse asks the same question of other parameters.
        """
        with torch.no_grad():
            query, answer, compare = self._ranking(relation)
            queries = stack_rows([query(block) for block in self.entity.split(1024)])
            rows = self.entity

        @torch.no_grad()
        def score(tails: Tensor) -> Tensor:
            out = compare(queries, answer(rows[tails])).mT.neg()
            if self.bias is not None:
                out.add_(self.bias[:, 0]).add_(self.bias[tails, 1:])
            return self._with_loops(out, relation, tails)

        return score

    def _with_loops(self, scores: Tensor, relation: int, own: Tensor) -> Tensor:
        """Scores (B, n_entities) of a relation, with its bias of loops added in place in the columns own: (B,)."""
        if self.loops is not None:
            scores[torch.arange(len(own), device=own.device), own] += self.loops[relation]
        return scores

    # ------------------------------------------------------------------------------------------------------ points

    @torch.no_grad()
    def points(self) -> Tensor:
        """The entities as points of `manifold`, (n_entities, k)."""
        return self.entity.detach().clone()

    @torch.no_grad()
    def tangent_coordinates(self) -> Tensor:
        """The entities in orthonormal tangent coordinates at the origin, (n_entities, dim)."""
        return self.coordinates(self.entity).detach().clone()

    @torch.no_grad()
    def curvatures(self) -> Tensor | None:
        """Curvatures -c of the spaces that the relations compare in, (n_relations,); None: flat, or a product."""
        return None

    def describe(self) -> str:
        """Name, dimension and space, as for the title of a picture."""
        c = self.curvatures()
        if c is None:
            space = "flat"
        else:
            low, high = float(c.min()), float(c.max())
            space = f"curvature {low:.3g}" if low == high else f"curvatures {low:.3g} to {high:.3g}"
        return f"{type(self).__name__}, {self.dim} dimensions, {space}"

    # ----------------------------------------------------------------------------------------------------- helpers

    def _normal(self, *size: int) -> nn.Parameter:
        """A table of initial values N(0, scale^2)."""
        return nn.Parameter(self.scale * torch.randn(*size, dtype=self.dtype, generator=self.initial))

    def _uniform(self, low: float, high: float, *size: int) -> nn.Parameter:
        values = torch.empty(*size, dtype=self.dtype)
        return nn.Parameter(values.uniform_(low, high, generator=self.initial))

    def _take(self, table: Tensor, r: Tensor) -> Tensor:
        """Rows of a relation's table, with dropout in training."""
        rows = table.index_select(0, r)
        if not (self.training and self.dropout):
            return rows
        keep = torch.rand(rows.shape, generator=self.generator, dtype=torch.float32) >= self.dropout
        return rows * keep.to(rows).div_(1 - self.dropout)

    def extra_repr(self) -> str:
        return f"n_entities={self.n_entities}, n_relations={self.n_relations}, dim={self.dim}"


def each(points: Any, f: Callable[[Tensor], Tensor]) -> Any:
    """f of a tensor, or of every tensor in nested named tuples of them."""
    return f(points) if isinstance(points, Tensor) else type(points)(*(each(p, f) for p in points))


def stack_rows(parts: list[Any]) -> Any:
    """The rows of tensors, or of nested named tuples of tensors, one after the other."""
    first = parts[0]
    if isinstance(first, Tensor):
        return torch.cat(parts)
    return type(first)(*(stack_rows([part[i] for part in parts]) for i in range(len(first))))
