"""Triple classification: is (h, r, t) true? Predicted true where the score reaches the threshold of its relation.

    true  <=>  score(h, r, t) >= threshold_r

The thresholds are those of the highest accuracy on validation triples and corrupted ones, for each relation; a relation
without validation triples takes the threshold of all of them together. Data sets with labelled negatives (WN11, FB13)
bring their own, others get one for each triple from `corrupt`.

    accuracy = (TP + TN) / n      balanced accuracy = (TP / P + TN / N) / 2      precision = TP / (TP + FP)
    recall = TP / P               F1 = 2 TP / (2 TP + FP + FN)
    ROC-AUC = P(score of a positive > score of a negative) + P(they are equal) / 2
    average precision = sum (recall_i - recall_(i-1)) precision_i, over the distinct scores from high to low

The last two need no threshold. Over several relations they compare scores across relations, as no threshold here does.

Reference: Socher, Chen, Manning, Ng, "Reasoning with neural tensor networks for knowledge base completion", NeurIPS
2013.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from geoembed.data import Filter, Split, Triples
from geoembed.data.filters import check_ids
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DataError, NumericalWarning, ShapeError
from geoembed.sampled_evaluation import Scorer, absent, score_triples

__all__ = [
    "ClassificationResult",
    "Thresholds",
    "average_precision",
    "classify",
    "corrupt",
    "fit_thresholds",
    "roc_auc",
]


# ---------------------------------------------------------------------------------------------------------- negatives


def corrupt(triples: Triples, split: Split, *, typed: bool = True, generator: torch.Generator | None = None) -> Tensor:
    """One negative for each triple of a split, in their order: head or tail replaced, never a known triple: (n, 3).

    The side is drawn at random, the entity uniformly from those that make no triple of any split. typed: only from
    those that stand at that place of the relation in some triple, as in Socher et al.; where one side has none left
    the other is taken, and where neither has, any entity will do.

    Drawn without rejection: the known answers of a query are among the entities of the place, and the others are free.

    Raises `DataError` for a triple that stays known whatever entity replaces its head or its tail.
    """
    queries = triples.with_inverses(split).view(2, -1, 3)  # which tail?, and which head? as tails of the inverses
    known, n = triples.known(), triples.n_entities
    seen, start, size = _places(known, n)
    answers = known.tails(*queries.flatten(0, 1)[:, :2].unbind(1))[0].bincount(minlength=queries[..., 0].numel())
    answers = answers.view(2, -1)
    free = size[queries[..., 1]] - answers
    narrow = (free > 0).any(0) & typed
    free = torch.where(narrow, free, n - answers)
    stuck = (free == 0).all(0)
    if stuck.any():
        raise DataError(
            f"{int(stuck.sum())} of {len(stuck)} {split} triples of {triples.name} have no negative: every entity "
            f"makes a known triple on both sides of {triples.names(queries[0][stuck][:1])[0]}; give your own"
        )
    rows = torch.arange(len(stuck))
    coin = torch.rand(len(rows), generator=generator) < 0.5
    side = torch.where((free > 0).all(0), coin, free[0] == 0).long()  # 1: the head is replaced
    keep, relation, _ = queries[side, rows].unbind(1)
    index = (torch.rand(len(rows), dtype=torch.float64, generator=generator) * free[side, rows]).long()

    row, answer = known.tails(keep, relation)
    number = torch.searchsorted(seen, relation[row] * n + answer) - start[relation[row]]  # in the list of the place
    drawn = absent(index.unsqueeze(1), row, torch.where(narrow[row], number, answer)).squeeze(1)
    listed = seen[(start[relation] + drawn).clamp(max=len(seen) - 1)] % n
    drawn = torch.where(narrow, listed, drawn)
    relation = relation % triples.n_relations
    return torch.where(
        side.unsqueeze(1) == 1, torch.stack([drawn, relation, keep], 1), torch.stack([keep, relation, drawn], 1)
    )


def _places(known: Filter, n_entities: int) -> tuple[Tensor, Tensor, Tensor]:
    """The entities seen as tails of each relation, inverses included: sorted keys relation * n_entities + entity (k,),

    and where each relation's start and how many they are: (2 n_relations,).
    """
    relation = (known.keys % (2 * known.n_relations)).repeat_interleave(known.offsets.diff())
    seen = (relation * n_entities + known.answers).unique()
    size = (seen // n_entities).bincount(minlength=2 * known.n_relations)
    return seen, size.cumsum(0) - size, size


# --------------------------------------------------------------------------------------------------------- thresholds


@dataclass(frozen=True)
class Thresholds:
    """by_relation: float64 (n_relations,), `overall` where a relation had no triples. +-inf: all false, all true."""

    by_relation: Tensor
    overall: float

    def predict(self, scores: Tensor, relation: Tensor) -> Tensor:
        """Which triples are predicted true. scores, relation: (n,) -> bool (n,). A NaN counts as -inf."""
        return _ordered(scores) >= self.by_relation[relation]


def fit_thresholds(scores: Tensor, labels: Tensor, relation: Tensor, n_relations: int) -> Thresholds:
    """The thresholds of the highest accuracy, for each relation and for all triples together; exact.

    A threshold is the midpoint between two neighbouring distinct scores, or -inf (all true) or inf (all false). Of
    equally good ones the lowest is taken. A NaN score counts as -inf, with a `NumericalWarning`.

    Args:
        scores: (n,). labels: bool (n,). relation: int64 (n,), in [0, n_relations).
    """
    _check(scores, labels, relation)
    check_ids(relation, n_relations, "relation")
    if len(scores) == 0:
        raise DataError("there are no triples to fit thresholds on")
    scores = _ordered(scores)
    overall = _best_threshold(scores, labels)
    table = torch.full((n_relations,), overall, dtype=torch.float64)
    order = relation.argsort(stable=True)
    found, counts = relation[order].unique_consecutive(return_counts=True)
    groups = zip(
        found.tolist(), scores[order].split(counts.tolist()), labels[order].split(counts.tolist()), strict=True
    )
    for index, values, truth in groups:
        table[index] = _best_threshold(values, truth)
    return Thresholds(table, overall)


def _best_threshold(scores: Tensor, labels: Tensor) -> float:
    values, true, false = _counts(scores, labels)
    correct = torch.cat([true.sum().view(1), true.sum() + (false - true).cumsum(0)])  # cut c: values[c:] are true
    cut = int(correct.argmax())  # the first of the highest
    if cut == 0 or cut == len(values):
        return -torch.inf if cut == 0 else torch.inf
    low, high = values[cut - 1].item(), values[cut].item()
    middle = low / 2 + high / 2
    return middle if low < middle <= high else high  # between neighbouring floats, or -inf and a number, is nothing


def _counts(scores: Tensor, labels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(distinct scores in rising order, positives that have each, negatives that have each)."""
    values, place = scores.unique(return_inverse=True)
    true, false = (place[mask].bincount(minlength=len(values)) for mask in (labels, ~labels))
    return values, true, false


def _ordered(scores: Tensor) -> Tensor:
    """float64 with NaN as -inf and inf as the largest number, so that inf is a threshold that nothing reaches."""
    broken = int(scores.isnan().sum())
    if broken:
        warnings.warn(f"{broken} of {len(scores)} scores are NaN; NaN counts as the lowest", NumericalWarning, 3)
    return scores.double().nan_to_num(nan=-torch.inf, neginf=-torch.inf)


def _check(scores: Tensor, labels: Tensor, relation: Tensor | None = None) -> None:
    others = [labels] if relation is None else [labels, relation]
    if scores.dim() != 1 or any(x.shape != scores.shape for x in others) or labels.dtype != torch.bool:
        raise ShapeError(
            f"expected scores (n,), bool labels and relation ids of the same shape; got {tuple(scores.shape)}, "
            f"{labels.dtype} and {', '.join(str(tuple(x.shape)) for x in others)}"
        )


# ------------------------------------------------------------------------------------------------------------ metrics


def roc_auc(scores: Tensor, labels: Tensor) -> float:
    """Area under the ROC curve, ties counted half; NaN without positives or negatives. scores: (n,), labels: bool (n,).

    >>> roc_auc(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    0.75
    """
    _check(scores, labels)
    _, true, false = (x.double() for x in _counts(_ordered(scores), labels))
    wins = (true * (false.cumsum(0) - false / 2)).sum()
    return (wins / (true.sum() * false.sum())).item()


def average_precision(scores: Tensor, labels: Tensor) -> float:
    """Area under the precision-recall curve, as steps; NaN without positives. scores: (n,), labels: bool (n,).

    >>> average_precision(torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True]))
    0.8333333333333333
    """
    _check(scores, labels)
    _, true, false = (x.double().flip(0) for x in _counts(_ordered(scores), labels))
    precision = true.cumsum(0) / (true + false).cumsum(0)
    return ((true * precision).sum() / true.sum()).item()


@dataclass
class ClassificationResult:
    """One row for each triple: the positives, then the negatives.

    Attributes:
        triples: int64 (n, 3).
        scores: float64 (n,), NaN as -inf.
        labels, predicted: bool (n,).
        thresholds: what `predicted` is made with.
        relations: names of the relations.
        protocol: the evaluation in words.
    """

    triples: Tensor
    scores: Tensor
    labels: Tensor
    predicted: Tensor
    thresholds: Thresholds
    relations: list[str]
    protocol: str

    def metrics(self, where: Tensor | None = None) -> dict[str, float]:
        """accuracy, balanced_accuracy, precision, recall, f1, roc_auc and average_precision of all or of a mask (n,).

        NaN where a metric is undefined: precision where nothing is predicted true, recall and F1 without positives, the
        other two-class ones without both classes.
        """
        scores, truth, guess = self.scores, self.labels, self.predicted
        if where is not None:
            scores, truth, guess = scores[where], truth[where], guess[where]
        if len(truth) == 0:
            raise DataError("no triples to average over: the selection is empty")
        hit, positives, guessed = (x.sum().double() for x in (truth & guess, truth, guess))
        negatives = len(truth) - positives
        recall, rejected = hit / positives, (negatives - guessed + hit) / negatives
        found = {
            "accuracy": (truth == guess).double().mean(),
            "balanced_accuracy": (recall + rejected) / 2,
            "precision": hit / guessed,
            "recall": recall,
            "f1": 2 * hit / (positives + guessed),
        }
        areas = {"roc_auc": roc_auc(scores, truth), "average_precision": average_precision(scores, truth)}
        return {name: value.item() for name, value in found.items()} | areas

    def by_relation(self) -> dict[str, dict[str, float]]:
        """Metrics of each relation that occurs, with its number of triples and its threshold."""
        table = {}
        for index in self.triples[:, 1].unique().tolist():
            where = self.triples[:, 1] == index
            about = {"triples": int(where.sum()), "threshold": self.thresholds.by_relation[index].item()}
            table[self.relations[index]] = about | self.metrics(where)
        return table


# ----------------------------------------------------------------------------------------------------- the evaluation


def classify(
    model: Scorer,
    triples: Triples,
    *,
    split: Split = "test",
    negatives: Mapping[Split, Tensor] | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
) -> ClassificationResult:
    """Classifies the triples of a split and negatives, with thresholds from the validation split and its negatives.

    Args:
        model: scores (h, r, t); `triples.n_relations` relations or more.
        negatives: labelled negatives, int64 (m, 3), for "valid" and for `split`; by default `corrupt` makes them.
        generator: draws them.
        budget: bytes that the blocks of scores may take.

    Raises:
        DataError: if the split or the validation split is empty, or one of their negatives is not given.
    """
    given: Mapping[Split, Tensor] = {} if negatives is None else negatives
    parts: dict[Split, tuple[Tensor, Tensor, Tensor]] = {}  # triples, scores, labels
    for name in dict.fromkeys(("valid", split)):
        true = triples[name]
        if len(true) == 0:
            raise DataError(
                f"the {name} split of {triples.name} is empty; needed are valid, for thresholds, and {split}"
            )
        if negatives is None:
            false = corrupt(triples, name, generator=generator)
        elif name in given:
            false = _checked(given[name], triples, name)
        else:
            raise DataError(f"negatives must have {name!r}, got {', '.join(map(repr, given)) or 'none'}")
        rows = torch.cat([true, false])
        parts[name] = rows, _ordered(score_triples(model, rows, budget=budget)), torch.arange(len(rows)) < len(true)
    rows, scores, labels = parts["valid"]
    thresholds = fit_thresholds(scores, labels, rows[:, 1], triples.n_relations)
    rows, scores, labels = parts[split]
    how = f"{int((~labels).sum())} given"
    if negatives is None:
        how = "one a triple, head or tail replaced by a random entity seen at that place of its relation, none known"
    same = ", the triples classified" if split == "valid" else ""
    return ClassificationResult(
        triples=rows,
        scores=scores,
        labels=labels,
        predicted=thresholds.predict(scores, rows[:, 1]),
        thresholds=thresholds,
        relations=triples.relations,
        protocol=f"{split} triples and negatives, thresholds of the best accuracy on valid{same}, for each relation; "
        f"negatives: {how}",
    )


def _checked(rows: Tensor, triples: Triples, split: Split) -> Tensor:
    if rows.dim() != 2 or rows.shape[1] != 3 or rows.dtype != torch.int64:
        raise ShapeError(f"negatives of {split}: expected int64 (n, 3), got {rows.dtype} {tuple(rows.shape)}")
    sizes = triples.n_entities, triples.n_relations, triples.n_entities
    for what, column, size in zip(("head", "relation", "tail"), rows.unbind(1), sizes, strict=True):
        check_ids(column, size, f"negative {split} {what}")
    return rows
