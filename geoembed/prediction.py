"""Questions to a trained model of a graph, with names in and names out.

    tails (h, r, ?)    heads (?, r, t)    relations (h, ?, t)    all missing triples of a relation (?, r, ?)

A value is the probability sigmoid(score(h, r, t)); answers come by falling score, NaN last. Those that the data states
already name their split, or are left out. An entity is no answer to a question about itself, unless the data says so.
"""

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoembed.data import Triples
from geoembed.data.formats import check_names
from geoembed.data.splits import SPLITS
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError
from geoembed.evaluation import rank_block
from geoembed.models import BothDirections, GraphModel
from geoembed.placement import extended, place
from geoembed.sampled_evaluation import score_triples

__all__ = ["Answer", "Prediction", "Predictor"]


@dataclass(frozen=True)
class Answer:
    """One line of a query's answer. `known` is the split that states the triple, or None."""

    name: str
    value: float
    known: str | None = None


class Prediction(NamedTuple):
    """A triple with the probability that it is true, and the rank of its tail where it was asked for."""

    head: str
    relation: str
    tail: str
    probability: float
    rank: float | None = None


class Predictor:
    """A model with the names of its rows.

    Args:
        ranker: a graph model, or its mean over both directions. It has the inverse of each relation.
        entities, relations: names in the order of the model's tables, relations without the inverses.
        triples: what is known, with the same entities and relations; None where the data is not at hand.

    Every method raises `UnknownNameError` for a name that is not there, and those that leave known triples out raise
    `DataError` without the data.

    >>> from geoembed.models import MuRP
    >>> graph = Triples.from_triples([("oslo", "capital_of", "norway"), ("norway", "borders", "sweden")])
    >>> model = MuRP(3, 4, dim=2, generator=torch.Generator().manual_seed(0))
    >>> [answer.name for answer in Predictor(model, graph.entities, graph.relations, graph).tails("norway", "borders")]
    ['sweden', 'oslo']
    """

    def __init__(
        self,
        ranker: GraphModel | BothDirections,
        entities: Sequence[str],
        relations: Sequence[str],
        triples: Triples | None = None,
    ):
        if (ranker.n_entities, ranker.n_relations) != (len(entities), 2 * len(relations)):
            raise ShapeError(
                f"expected names of {ranker.n_entities} entities and {ranker.n_relations} / 2 relations, as the model "
                f"has them, got {len(entities)} and {len(relations)}"
            )
        if triples is not None and (triples.entities, triples.relations) != (list(entities), list(relations)):
            raise DataError(f"the names of {triples.name} are not those of the model")
        self.ranker, self.entities, self.relations = ranker, list(entities), list(relations)
        self.model: GraphModel = ranker.model if isinstance(ranker, BothDirections) else ranker
        self.triples = triples
        self._entity_ids = {name: i for i, name in enumerate(self.entities)}
        self._relation_ids = {name: i for i, name in enumerate(self.relations)}

    def entity(self, name: str) -> int:
        """Row of an entity; UnknownNameError lists the closest names."""
        return _lookup("entity", name, self._entity_ids)

    def relation(self, name: str, inverse: bool = False) -> int:
        """Row of a relation or of its inverse; UnknownNameError lists the closest names."""
        return _lookup("relation", name, self._relation_ids) + inverse * len(self.relations)

    # ------------------------------------------------------------------------------------------------ one place open

    def neighbours(self, name: str, k: int = 10) -> list[Answer]:
        """The k entities nearest to an entity; the value is the distance on the manifold."""
        _check_k(k)
        points = self.model.points().double()
        row = self.entity(name)
        distances = self.model.manifold.cdist(points[row : row + 1], points)[0].detach()
        distances[row] = torch.inf
        values, rows = distances.topk(min(k, len(points) - 1), largest=False)
        return [Answer(self.entities[i], d) for i, d in zip(rows.tolist(), values.tolist(), strict=True)]

    def tails(self, head: str, relation: str, k: int = 10, *, exclude_known: bool = False) -> list[Answer]:
        """The k likeliest answers to (head, relation, ?)."""
        h, r = self.entity(head), self.relation(relation)
        return self._answers(self._scores(h, r), self.entities, (h, r, None), k, exclude_known)

    def heads(self, relation: str, tail: str, k: int = 10, *, exclude_known: bool = False) -> list[Answer]:
        """The k likeliest answers to (?, relation, tail), scored as tails of the inverse relation."""
        r, t = self.relation(relation), self.entity(tail)
        scores = self._scores(t, self.relation(relation, inverse=True))
        return self._answers(scores, self.entities, (None, r, t), k, exclude_known)

    def relations_between(self, head: str, tail: str, k: int = 10, *, exclude_known: bool = False) -> list[Answer]:
        """The k likeliest answers to (head, ?, tail)."""
        h, t = self.entity(head), self.entity(tail)
        rows = torch.tensor([[h, r, t] for r in range(len(self.relations))])
        scores = score_triples(self.ranker, rows)
        return self._answers(scores, self.relations, (h, None, t), k, exclude_known)

    def _scores(self, row: int, relation: int) -> Tensor:
        return self.ranker.tail_scorer(relation)(torch.tensor([row], device=self._device))[0].cpu()

    def _answers(
        self, scores: Tensor, names: list[str], question: tuple[int | None, ...], k: int, exclude_known: bool
    ) -> list[Answer]:
        _check_k(k)
        if exclude_known:
            self._data()
        known = self._known(question)
        h, r, t = question
        itself = {h, t} - {None} if r is not None else set()
        wanted = torch.ones(len(scores), dtype=torch.bool)
        wanted[list(itself | set(known) if exclude_known else itself - set(known))] = False
        rows = wanted.nonzero().squeeze(1)
        rows = rows[_nan_last(scores[rows]).topk(min(k, len(rows))).indices]
        pairs = zip(rows.tolist(), scores[rows].double().sigmoid().tolist(), strict=True)
        return [Answer(names[i], p, known.get(i)) for i, p in pairs]

    def _known(self, question: tuple[int | None, ...]) -> dict[int, str]:
        """What the data states at the open place of a triple, and the first split that does."""
        found: dict[int, str] = {}
        if self.triples is not None:
            for split in reversed(SPLITS):
                rows = self.triples[split]
                for column, given in enumerate(question):
                    if given is not None:
                        rows = rows[rows[:, column] == given]
                found |= dict.fromkeys(rows[:, question.index(None)].tolist(), split)
        return found

    # ------------------------------------------------------------------------------------------------- whole triples

    def score(self, triples: Iterable[Sequence[str]], *, rank: bool = False) -> list[Prediction]:
        """Probabilities of (head, relation, tail) names, in their order.

        rank: also the place of the tail among all entities as answers to (head, relation, ?), known ones not removed,
        ties at their mean.
        """
        named = [tuple(triple) for triple in triples]
        rows = self._ids(named)
        if not named:
            return []
        probabilities = score_triples(self.ranker, rows).double().sigmoid().tolist()
        ranks = self._ranks(rows).tolist() if rank else [None] * len(named)
        return [Prediction(h, r, t, *more) for (h, r, t), *more in zip(named, probabilities, ranks, strict=True)]

    def _ranks(self, rows: Tensor) -> Tensor:
        ranks = torch.empty(len(rows), dtype=torch.float64)
        none = torch.empty(0, dtype=torch.int64)
        for relation in rows[:, 1].unique().tolist():
            score = self.ranker.tail_scorer(relation)
            for block in (rows[:, 1] == relation).nonzero().squeeze(1).split(self._block()):
                scores = score(rows[block, 0].to(self._device)).cpu()
                best, worst, _ = rank_block(scores, rows[block, 2], none, none)
                ranks[block] = (best + worst).double() / 2
        return ranks

    def best_new(self, relation: str, k: int = 10) -> list[Prediction]:
        """The k likeliest triples of a relation that the data does not state, of all heads and tails.

        Time grows with the square of the number of entities, memory does not. A triple of an entity with itself is
        none of them.
        """
        _check_k(k)
        known, r = self._data().known(), self.relation(relation)
        score, n = self.ranker.tail_scorer(r), len(self.entities)
        best, where = torch.empty(0, dtype=torch.float64), torch.empty(0, dtype=torch.int64)
        for heads in torch.arange(n).split(self._block()):
            scores = _nan_last(score(heads.to(self._device)).cpu())
            scores[known.tails(heads, torch.full_like(heads, r))] = -torch.inf
            scores[torch.arange(len(heads)), heads] = -torch.inf
            values, place = scores.flatten().topk(min(k, scores.numel()))
            best, order = torch.cat([best, values.double()]).sort(descending=True, stable=True)
            where = torch.cat([where, place + heads[0] * n])[order]
            best, where = best[:k], where[:k]
        kept = best > -torch.inf
        pairs = zip(where[kept].tolist(), best[kept].sigmoid().tolist(), strict=True)
        return [Prediction(self.entities[i // n], relation, self.entities[i % n], p) for i, p in pairs]

    # ------------------------------------------------------------------------------------------------- a new entity

    def with_entity(self, name: str, triples: Iterable[Sequence[str]], **options: Any) -> "Predictor":
        """A predictor that knows one entity more, placed by triples about it; nothing else of the model changes.

        triples: (head, relation, tail) names, each with the new name as head or tail. They count as known, in train.
        options: those of `geoembed.placement.place`, such as `generator`.

        Raises `DataError` for a name that is there already, no triples, or a triple that is not about the new entity.
        """
        check_names([name], "entity")
        if name in self._entity_ids:
            raise DataError(f"{name!r} is an entity of the model already; give the new one another name")
        given = [tuple(triple) for triple in triples]
        foreign = [triple for triple in given if name not in (triple[0], triple[-1])]
        if foreign or not given:
            what = f"{foreign[0]} has it neither as head nor as tail" if foreign else "there are none"
            raise DataError(f"{name!r} is placed by triples about it, but {what}")
        n = len(self.entities)
        rows = self._ids(given, {name: n}).unique(dim=0)
        position = bisect_left(self.entities, name)  # names stay sorted
        model = extended(self.model, place(self.model, rows, **options), position)
        entities = [*self.entities[:position], name, *self.entities[position:]]

        def moved(rows: Tensor) -> Tensor:
            ids = rows[:, [0, 2]]
            ids = torch.where(ids == n, position, ids + (ids >= position))
            return torch.stack([ids[:, 0], rows[:, 1], ids[:, 1]], 1)

        data = self.triples
        if data is not None:
            train = moved(torch.cat([data.train, rows]))
            data = replace(data, entities=entities, train=train, valid=moved(data.valid), test=moved(data.test))
        ranker = BothDirections(model) if isinstance(self.ranker, BothDirections) else model
        return Predictor(ranker, entities, self.relations, data)

    # ------------------------------------------------------------------------------------------------------ helpers

    @property
    def _device(self) -> torch.device:
        return self.model.entity.device

    def _block(self) -> int:
        """Rows of scores that keep to the budget: the scores and a few temporaries."""
        return max(1, DEFAULT_BUDGET // (4 * self.model.entity.element_size() * len(self.entities)))

    def _data(self) -> Triples:
        if self.triples is None:
            raise DataError("known triples cannot be left out without the data; give it as triples=")
        return self.triples

    def _ids(self, triples: list[tuple[str, ...]], more: dict[str, int] | None = None) -> Tensor:
        """Names as int64 (n, 3); `more` are entities besides those of the model."""
        entities, rows = self._entity_ids | (more or {}), []
        for triple in triples:
            if len(triple) != 3:
                raise DataError(f"expected triples (head, relation, tail), got {triple}")
            h, r, t = triple
            rows.append((_lookup("entity", h, entities), self.relation(r), _lookup("entity", t, entities)))
        return torch.tensor(rows, dtype=torch.int64).view(-1, 3)


def _nan_last(scores: Tensor) -> Tensor:
    return scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)


def _check_k(k: int) -> None:
    if k < 1:
        raise DomainError(f"k must be at least 1, got {k}")


def _lookup(kind: str, name: str, ids: dict[str, int]) -> int:
    if name not in ids:
        raise UnknownNameError(kind, name, ids, [known for known in ids if known.startswith(f"{name}.")])
    return ids[name]
