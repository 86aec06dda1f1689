"""Link prediction: where a graph, a model and a loss meet.

A training step scores a batch of directed triples and as many corrupted tails as its sampler draws, and sums

    weight_r loss(score of the triple, scores of its negatives) + penalty regularizer(head, relation, tail).

Inverse relations make corrupted tails cover both sides. MuRP's code takes the mean of binary cross-entropies over
B (1 + N) terms with N = 50, here `bce` with w = 50 summed over the batch: its learning rate 50 at B = 128 is
50 / (128 * 51) = 0.00766 of ours with SGD.
"""

from collections.abc import Callable
from typing import Any, Protocol

import torch
from torch import Tensor

from geoembed.data import QueryGroups, Triples, hardest, known_mask
from geoembed.distillation import Teacher
from geoembed.errors import DataError, UnknownNameError
from geoembed.losses.links import LEFT_OUT, bce, softmax_k_vs_all
from geoembed.models import PENALTIES, GraphModel

__all__ = ["AllEntities", "LinkPrediction", "QueryPrediction", "Replacing", "Sampler"]


class Replacing(Protocol):
    def to(self, device: torch.device | str) -> "Replacing": ...

    def replace(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


class Sampler(Protocol):
    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


class AllEntities:
    """Every entity is a negative of every triple: 1-vs-all."""

    def __init__(self, n_entities: int):
        self.n_entities = n_entities

    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.arange(self.n_entities, device=h.device)


class _Task:
    """What both tasks share: the directed training triples, the penalty, shared embeddings, the mode of the model."""

    n: int

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        *,
        penalty: float = 0.0,
        regularizer: str = "radius",
        sse: Replacing | None = None,
        sse_generator: torch.Generator | None = None,
    ):
        if len(triples.train) == 0:
            raise DataError(f"{triples.name} has no training triples")
        model.check_fits(triples)
        if regularizer not in PENALTIES:
            raise UnknownNameError("regularizer", regularizer, PENALTIES)
        if regularizer == "n3":
            model.relation_rows(torch.zeros(0, dtype=torch.int64, device=model.entity.device))  # raises if it has none
        self.model, self.triples, self.device = model, triples, model.entity.device
        self.penalty, self.regularizer = penalty, PENALTIES[regularizer]
        self.sse, self.sse_generator = sse, sse_generator

    def compile(self) -> None:
        """Run the scores through torch.compile from now on; reading rows stays outside, for its sparse gradients."""
        self.model.score_rows = torch.compile(self.model.score_rows, dynamic=True)  # type: ignore[method-assign]

    def step(self, batch: Tensor) -> Tensor:
        """Summed loss of the items with indices batch: (B,). Dropout is on within the step only."""
        self.model.train()
        try:
            return self._loss(batch.to(self.device))
        finally:
            self.model.eval()

    def _loss(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def _replaced(self, ids: Tensor) -> Tensor:
        return ids if self.sse is None else self.sse.replace(ids, self.sse_generator)


class LinkPrediction(_Task):
    """Training of a graph model on triples and negatives: `step(batch) -> loss`, for `fit`.

    Args:
        model: has 2 * triples.n_relations relations, the second half inverse.
        triples: its training split, both directions of it, is what is learnt; n = 2 * len(triples.train).
        sampler: draws the negatives; see `geoembed.data.sampling`.
        loss: of (positive (B,), negative (B, N)), see `geoembed.losses.links`.
        top: only so many of the likeliest negatives of a triple count; 0 is all.
        filtered: leave out negatives that make a training triple; of `AllEntities` the triple's own tail always is.
        weights: of the losses by directed relation, (2 n_relations,).
        teacher: gives the loss in place of `loss`; all negatives count.
        penalty, regularizer: weight and name of a regulariser in `PENALTIES`.
        generator: draws the negatives. sse, sse_generator: stochastic shared embeddings of heads and tails.
    """

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        sampler: Sampler,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = bce,
        top: int = 0,
        filtered: bool = False,
        weights: Tensor | None = None,
        teacher: Teacher | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(model, triples, **options)
        self.directed = triples.with_inverses("train").to(self.device)
        self.n = len(self.directed)
        self.sampler, self.loss, self.top, self.generator = sampler, loss, top, generator
        self.known = triples.known("train").to(self.device) if filtered else None
        self.weights = None if weights is None else weights.to(model.entity)
        self.teacher = teacher

    def _loss(self, batch: Tensor) -> Tensor:
        h, r, t = self.directed[batch].unbind(1)
        negatives = self.sampler.draw(h, r, t, self.generator)
        scored = self.model.score_batch(self._replaced(h), r, self._replaced(t), negatives, self.regularizer)
        if self.teacher is None:
            losses = self.loss(scored.positive, self._counted(scored.negative, h, r, t, negatives))
        else:
            losses = self.teacher.loss(self.model, scored, h, r, t, negatives)
        if self.weights is not None:
            losses = losses * self.weights[r]
        total = losses.sum()
        return total + self.penalty * scored.penalty.sum() if self.penalty else total

    def _counted(self, negative: Tensor, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor) -> Tensor:
        """The scores of the negatives that count: (B, N) -> (B, N'), those that do not at LEFT_OUT or away."""
        if self.known is not None:
            negative = negative.masked_fill(known_mask(self.known, h, r, negatives, t), LEFT_OUT)
        elif isinstance(self.sampler, AllEntities):
            negative = negative.scatter(1, t.unsqueeze(1), LEFT_OUT)
        return hardest(negative, self.top) if self.top else negative


class QueryPrediction(_Task):
    """K-vs-all training: all tails of a (head, relation) query at once, against all entities. n = number of queries.

    loss: of (scores (B, n_entities), rows, columns), see `geoembed.losses.links`. generator: draws for each query the
    tail whose penalty, times the number of tails, stands for those of all. The rest as in `LinkPrediction`.
    """

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        *,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor] = softmax_k_vs_all,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(model, triples, **options)
        self.groups = QueryGroups.from_triples(triples.with_inverses("train")).to(self.device)
        self.n = len(self.groups)
        self.loss, self.generator = loss, generator
        self.entities = torch.arange(model.n_entities, device=self.device)

    def _loss(self, batch: Tensor) -> Tensor:
        groups, start = self.groups, self.groups.offsets[batch]
        counts = groups.offsets[batch + 1] - start
        uniform = torch.rand(len(batch), generator=self.generator, dtype=torch.float64).to(counts.device)
        h, r, t = groups.heads[batch], groups.relations[batch], groups.tails[start + (uniform * counts).long()]
        scored = self.model.score_batch(self._replaced(h), r, self._replaced(t), self.entities, self.regularizer)
        total = self.loss(scored.negative, *groups.positions(batch)).sum()
        return total + self.penalty * (counts * scored.penalty).sum() if self.penalty else total
