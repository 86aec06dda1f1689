"""Negatives, thresholds and metrics of triple classification, against enumeration and values computed by hand."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geoembed.classification import (
    Thresholds,
    average_precision,
    classify,
    corrupt,
    fit_thresholds,
    roc_auc,
)
from geoembed.data import Triples
from geoembed.errors import DataError, DomainError, NumericalWarning, ShapeError, UnknownNameError
from geoembed.models import MuRP

SPLITS = ("train", "valid", "test")
VALUES = st.sampled_from([0.0, -0.0, 1.0, 1.5, 2.0, -1.0, math.inf, -math.inf])
LABELLED = st.lists(st.tuples(VALUES, st.booleans(), st.integers(0, 2)), min_size=1, max_size=12)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_triples(n=12, n_relations=3, sizes=(60, 15, 25), seed=0):
    every = torch.cartesian_prod(torch.arange(n), torch.arange(n_relations), torch.arange(n))
    rows = every[torch.randperm(len(every), generator=generator(seed))[: sum(sizes)]]
    return Triples([f"e{i:03}" for i in range(n)], [f"r{i}" for i in range(n_relations)], *rows.split(list(sizes)))


def graph(*splits, n=6, n_relations=1):
    """Triples of lists of (h, r, t), missing splits empty."""
    parts = [torch.tensor(rows, dtype=torch.int64).reshape(-1, 3) for rows in (*splits, [], [])[:3]]
    return Triples([f"e{i}" for i in range(n)], [f"r{i}" for i in range(n_relations)], *parts)


class Table(nn.Module):
    """scores[relation, head, tail]."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores.double(), requires_grad=False)

    def forward(self, h, r, t):
        return self.scores[r, h, t]


def columns(rows):
    scores, labels, relation = zip(*rows, strict=True)
    return torch.tensor(scores), torch.tensor(labels), torch.tensor(relation)


# ---------------------------------------------------------------------------------------------------------- negatives


def options(triples, h, r, t, typed):
    """The negatives that may be drawn, by enumeration: (those that replace the tail, those that replace the head)."""
    known = {tuple(row) for split in SPLITS for row in triples[split].tolist()}
    heads, tails = ({row[side] for row in known if row[1] == r} for side in (0, 2))
    every = set(range(triples.n_entities))

    def free(heads, tails):
        return {(h, r, e) for e in tails} - known, {(e, r, t) for e in heads} - known

    narrow = free(heads, tails)
    return narrow if typed and any(narrow) else free(every, every)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.sampled_from(SPLITS), st.booleans(), st.sampled_from([0.1, 0.5, 1.0]))
def test_negatives_are_those_of_the_definition(seed, split, typed, density):
    sizes = (int(density * 60), int(density * 20), int(density * 10))
    triples = random_triples(7, 2, sizes, seed)
    allowed = [options(triples, *row, typed) for row in triples[split].tolist()]
    stuck = sum(not any(sides) for sides in allowed)
    if stuck:
        with pytest.raises(DataError, match=f"^{stuck} of {len(allowed)} {split} triples of triples have no negative"):
            corrupt(triples, split, typed=typed, generator=generator(seed))
        return
    found = corrupt(triples, split, typed=typed, generator=generator(seed))
    assert found.shape == triples[split].shape
    assert found.dtype == torch.int64
    for sides, negative in zip(allowed, found.tolist(), strict=True):
        assert any(tuple(negative) in side for side in sides)


@pytest.mark.parametrize("typed", [True, False])
def test_sides_and_entities_are_uniform(typed):
    """20,000 copies of one triple: half replace each side, and there each entity is as frequent."""
    base = random_triples(10, 1, (25, 5, 0))
    h, r, t = base.train[0].tolist()
    copies = base.train[:1].expand(20_000, 3)
    triples = Triples(base.entities, base.relations, base.train, base.valid, copies)
    counts = {}
    for row in corrupt(triples, "test", typed=typed, generator=generator()).tolist():
        counts[tuple(row)] = counts.get(tuple(row), 0) + 1
    for side in options(triples, h, r, t, typed):
        assert len(side) > 2
        expected = 10_000 / len(side)
        assert sum(counts[row] for row in side) == pytest.approx(10_000, abs=4.5 * math.sqrt(5000))
        assert all(counts[row] == pytest.approx(expected, abs=4.5 * math.sqrt(expected)) for row in side)


def test_typed_falls_back_to_the_other_side_and_then_to_any_entity():
    # r0 was seen with heads 0, 5 and tails 1, 2; of (5, 0, 1) the tail can be replaced, its head can not. r1 has one
    # triple, so nothing that was seen is left
    triples = graph([(0, 0, 1), (0, 0, 2), (5, 0, 1), (3, 1, 4)], n_relations=2)
    found = torch.stack([corrupt(triples, "train", generator=generator(seed)) for seed in range(200)])
    assert (found[:, 2] == torch.tensor([5, 0, 2])).all()
    drawn = set(map(tuple, found[:, 3].tolist()))
    assert drawn == {(3, 1, e) for e in range(6) if e != 4} | {(e, 1, 4) for e in range(6) if e != 3}


def test_a_negative_of_the_only_side_that_has_one():
    # e0 is tied to every tail, so the head of (0, r, 1) has to go; to e1 or e2
    triples = graph([(0, 0, 0), (0, 0, 1), (0, 0, 2)], n=3)
    for seed in range(10):
        found = corrupt(triples, "train", typed=False, generator=generator(seed))
        assert found[:, 2].tolist() == [0, 1, 2]
        assert (found[:, 0] > 0).all()


def test_a_graph_without_negatives():
    triples = graph([(0, 0, 0), (0, 0, 1), (1, 0, 0)], [(1, 0, 1)], n=2)
    with pytest.raises(DataError, match=r"3 of 3 train triples of triples have no negative.*\('e0', 'r0', 'e0'\)"):
        corrupt(triples, "train")


def test_empty_and_unknown_splits():
    assert corrupt(graph([(0, 0, 1)]), "test").shape == (0, 3)
    assert corrupt(graph([]), "train").shape == (0, 3)
    with pytest.raises(UnknownNameError, match="Did you mean 'test'"):
        corrupt(graph([(0, 0, 1)]), "tset")


def test_negatives_depend_on_the_generator_alone():
    triples = random_triples()
    first, again, other = (corrupt(triples, "test", generator=generator(seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


# --------------------------------------------------------------------------------------------------------- thresholds


def accuracies(scores, labels):
    """Number right for every subset of true predictions that a threshold can make: by the distinct scores."""
    cuts = [-math.inf, *sorted(set(scores)), math.inf]
    found = []
    for low in cuts[1:-1]:  # low and above are true
        found.append(sum((s >= low) == y for s, y in zip(scores, labels, strict=True)))
    found.append(sum(not y for y in labels))
    return found


@settings(deadline=None, max_examples=300)
@given(LABELLED)
def test_no_threshold_is_better(rows):
    scores, labels, relation = columns(rows)
    found = fit_thresholds(scores, labels, relation, 4)
    right = found.predict(scores, relation) == labels
    for r in range(3):
        mine = [(s, y) for s, y, q in rows if q == r]
        if mine:
            assert right[relation == r].sum() == max(accuracies(*zip(*mine, strict=True)))
        else:
            assert found.by_relation[r] == found.overall
    assert found.by_relation[3] == found.overall
    everywhere = Thresholds(torch.full((4,), found.overall, dtype=torch.float64), found.overall)
    best = max(accuracies(scores.tolist(), labels.tolist()))
    assert (everywhere.predict(scores, relation) == labels).sum() == best


@pytest.mark.parametrize(
    ("scores", "labels", "expected"),
    [
        ([1, 2, 4, 5], [0, 0, 1, 1], 3),
        ([5, 1, 4, 2], [1, 0, 1, 0], 3),  # in any order
        ([1, 2], [1, 0], -math.inf),  # all true, all false and neither are as good: the lowest
        ([1, 2, 3, 4], [0, 1, 0, 1], 1.5),  # 1.5 and 3.5 are: the lowest
        ([1, 2], [1, 1], -math.inf),
        ([1, 2], [0, 0], math.inf),
        ([2, 2, 2, 3], [0, 0, 1, 1], 2.5),  # ties stand or fall together
        ([math.inf, 1], [0, 0], math.inf),
        ([-math.inf, 1], [0, 1], 1),  # there is no midpoint
        ([1, math.nextafter(1, 2)], [0, 1], math.nextafter(1, 2)),
        ([-1.7e308, 1.7e308], [0, 1], 0),  # their sum would overflow
    ],
)
def test_thresholds_by_hand(scores, labels, expected):
    scores, labels = torch.tensor(scores, dtype=torch.float64), torch.tensor(labels).bool()
    found = fit_thresholds(scores, labels, torch.zeros(len(scores), dtype=torch.int64), 2)
    assert found.by_relation.tolist() == [expected, expected]
    assert found.overall == expected


def test_nan_is_the_lowest_score():
    scores, labels = torch.tensor([math.nan, 1.0, 2.0]), torch.tensor([False, True, True])
    relation = torch.zeros(3, dtype=torch.int64)
    for call in (lambda: fit_thresholds(scores, labels, relation, 1), lambda: roc_auc(scores, labels)):
        with pytest.warns(NumericalWarning, match="1 of 3 scores are NaN; NaN counts as the lowest"):
            call()
    with pytest.warns(NumericalWarning):
        found = fit_thresholds(scores, labels, relation, 1)
    with pytest.warns(NumericalWarning):
        assert found.predict(scores, relation).tolist() == [False, True, True]
    with pytest.warns(NumericalWarning):
        assert roc_auc(scores, labels) == 1
    with pytest.warns(NumericalWarning):
        assert average_precision(scores, ~labels) == pytest.approx(1 / 3)


def test_thresholds_of_nothing_or_of_the_wrong_shape():
    none = torch.zeros(0)
    with pytest.raises(DataError, match="no triples to fit"):
        fit_thresholds(none, none.bool(), none.long(), 2)
    one, ids = torch.zeros(2), torch.tensor([0, 2])
    with pytest.raises(DomainError, match=r"relation ids must lie in \[0, 2\)"):
        fit_thresholds(one, one.bool(), ids, 2)
    for labels, relation in ((one, ids), (one.bool()[:1], ids), (one.bool(), ids[:1])):
        with pytest.raises(ShapeError, match="expected scores"):
            fit_thresholds(one, labels, relation, 3)


# -------------------------------------------------------------------------------------------------------------- areas


def slow_auc(scores, labels):
    pairs = [
        (p, q) for p, y in zip(scores, labels, strict=True) if y for q, z in zip(scores, labels, strict=True) if not z
    ]
    return sum((p > q) + (p == q) / 2 for p, q in pairs) / len(pairs) if pairs else math.nan


def slow_average_precision(scores, labels):
    """Over thresholds from high to low: the gain in recall times the precision."""
    total, area, last = sum(labels), 0.0, 0.0
    if not total:
        return math.nan
    for bar in sorted(set(scores), reverse=True):
        taken = [y for s, y in zip(scores, labels, strict=True) if s >= bar]
        recall = sum(taken) / total
        area, last = area + (recall - last) * sum(taken) / len(taken), recall
    return area


@settings(deadline=None, max_examples=200)
@given(LABELLED)
def test_areas_equal_the_definition(rows):
    scores, labels, _ = columns(rows)
    pair = scores.tolist(), labels.tolist()
    assert roc_auc(scores, labels) == pytest.approx(slow_auc(*pair), abs=1e-12, nan_ok=True)
    assert average_precision(scores, labels) == pytest.approx(slow_average_precision(*pair), abs=1e-12, nan_ok=True)


def test_areas_of_many_scores():
    scores = torch.randn(400, generator=generator()).mul(4).round()  # ties
    labels = torch.rand(400, generator=generator(1)) < 0.3
    pair = scores.tolist(), labels.tolist()
    assert roc_auc(scores, labels) == pytest.approx(slow_auc(*pair), abs=1e-12)
    assert average_precision(scores, labels) == pytest.approx(slow_average_precision(*pair), abs=1e-12)


def test_areas_by_hand():
    """The example in scikit-learn's documentation of both functions: 3/4 and 5/6. All ties: 1/2 and the base rate."""
    scores, labels = torch.tensor([0.1, 0.4, 0.35, 0.8]), torch.tensor([False, False, True, True])
    assert roc_auc(scores, labels) == 0.75
    assert average_precision(scores, labels) == pytest.approx(5 / 6, abs=1e-15)
    same = torch.zeros(4)
    assert roc_auc(same, labels) == average_precision(same, labels) == 0.5
    assert math.isnan(roc_auc(same, labels | True))
    assert average_precision(same, labels | True) == 1
    assert math.isnan(average_precision(same, labels & False))
    assert math.isnan(roc_auc(same[:0], labels[:0]))
    with pytest.raises(ShapeError):
        roc_auc(scores, labels.long())


# ------------------------------------------------------------------------------------------------------- the evaluation


#   validation of r0: 2 and 3 true, 0 and 1 false: 1.5. r1 has none: over all the best is 1.5 too
LABELS = graph(
    [(0, 0, 0)],
    [(0, 0, 1), (0, 0, 2)],
    [(1, 0, 0), (1, 0, 1), (1, 1, 2), (1, 1, 3)],
    n_relations=2,
)
NEGATIVES = {
    "valid": torch.tensor([[0, 0, 3], [0, 0, 4]]),
    "test": torch.tensor([[2, 0, 0], [2, 0, 1], [2, 1, 2]]),
}


def labelled_model():
    scores = torch.zeros(2, 6, 6)
    scores[0, 0, 1:5] = torch.tensor([2.0, 3.0, 0.0, 1.0])
    scores[0, 1, :2], scores[1, 1, 2:4] = torch.tensor([4.0, 1.0]), torch.tensor([2.0, 5.0])
    scores[0, 2, :2], scores[1, 2, 2] = torch.tensor([1.0, 3.0]), 0.0
    return Table(scores)


def test_given_negatives_by_hand():
    found = classify(labelled_model(), LABELS, negatives=NEGATIVES)
    assert found.scores.tolist() == [4, 1, 2, 5, 1, 3, 0]
    assert found.labels.tolist() == [True] * 4 + [False] * 3
    assert found.predicted.tolist() == [True, False, True, True, False, True, False]
    assert found.thresholds.by_relation.tolist() == [1.5, 1.5]
    # 4 against 1, 3, 0: 3; 1 against 1, 3, 0: 1.5; 2: 2; 5: 3
    # from high: 5 +, 4 +, 3 -, 2 +, then 1 + and 1 - together
    assert found.metrics() == pytest.approx(
        {
            "accuracy": 5 / 7,
            "balanced_accuracy": (3 / 4 + 2 / 3) / 2,
            "precision": 3 / 4,
            "recall": 3 / 4,
            "f1": 3 / 4,
            "roc_auc": 9.5 / 12,
            "average_precision": (1 + 1 + 3 / 4 + 4 / 6) / 4,
        },
        abs=1e-15,
    )
    table = found.by_relation()
    assert list(table) == ["r0", "r1"]
    assert table["r0"]["triples"] == 4
    assert table["r0"]["accuracy"] == 0.5
    assert table["r0"]["threshold"] == 1.5
    assert table["r1"]["accuracy"] == table["r1"]["f1"] == table["r1"]["roc_auc"] == 1
    assert (
        found.protocol
        == "test triples and negatives, thresholds of the best accuracy on valid, for each relation; negatives: 3 given"
    )


def test_metrics_that_are_undefined():
    found = classify(labelled_model(), LABELS, negatives=NEGATIVES)
    positives = found.metrics(found.labels)
    assert positives["recall"] == 0.75
    assert math.isnan(positives["balanced_accuracy"])
    assert math.isnan(positives["roc_auc"])
    rejected = found.metrics(~found.predicted & ~found.labels)
    assert rejected["accuracy"] == 1
    assert all(math.isnan(rejected[name]) for name in ("precision", "recall", "f1", "average_precision"))
    with pytest.raises(DataError, match="the selection is empty"):
        found.metrics(torch.zeros(7, dtype=torch.bool))


def test_negatives_made():
    triples = random_triples()
    model = MuRP(12, 6, 4, generator=generator(), scale=0.5)
    found, again = (classify(model, triples, generator=generator(3)) for _ in range(2))
    draw = generator(3)
    valid, test = corrupt(triples, "valid", generator=draw), corrupt(triples, "test", generator=draw)
    given = classify(model, triples, negatives={"valid": valid, "test": test}, budget=1)
    assert torch.equal(found.triples, torch.cat([triples.test, test]))
    assert found.labels.sum() == (~found.labels).sum() == len(triples.test)
    assert found.metrics() == again.metrics() == pytest.approx(given.metrics(), abs=1e-12)
    assert found.protocol.endswith(
        "one a triple, head or tail replaced by a random entity seen at that place of its relation, none known"
    )


def test_a_perfect_model_is_right():
    triples = random_triples()
    scores = torch.zeros(3, 12, 12)
    for split in SPLITS:
        h, r, t = triples[split].unbind(1)
        scores[r, h, t] = 1.0 + r
    found = classify(Table(scores), triples, generator=generator()).metrics()
    assert found == dict.fromkeys(found, 1.0)


def test_classifying_the_validation_split_says_so():
    found = classify(labelled_model(), LABELS, split="valid", negatives={"valid": NEGATIVES["valid"]})
    assert found.metrics()["accuracy"] == 1
    assert "on valid, the triples classified" in found.protocol


def test_scores_that_are_nan():
    model = labelled_model()
    model.scores[0, 1, 0] = math.nan  # the first test triple
    with pytest.warns(NumericalWarning, match="1 of 7 scores are NaN; NaN counts as the lowest") as caught:
        found = classify(model, LABELS, negatives=NEGATIVES)
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert found.metrics()["recall"] == 0.5
    assert not found.predicted[0]
    assert found.scores[0] == -math.inf


def test_what_is_missing_or_wrong():
    bare = graph([(0, 0, 1)], [], [(0, 0, 2)], n_relations=2)
    with pytest.raises(
        DataError, match="the valid split of triples is empty; needed are valid, for thresholds, and test"
    ):
        classify(labelled_model(), bare)
    with pytest.raises(DataError, match="the test split of triples is empty"):
        classify(labelled_model(), graph([(0, 0, 1)], [(0, 0, 2)]))
    with pytest.raises(DataError, match="negatives must have 'test', got 'valid'"):
        classify(labelled_model(), LABELS, negatives={"valid": NEGATIVES["valid"]})
    with pytest.raises(DataError, match="negatives must have 'valid', got none"):
        classify(labelled_model(), LABELS, negatives={})
    for rows in (torch.zeros(2, 2, dtype=torch.int64), torch.zeros(2, 3), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ShapeError, match="negatives of test: expected int64"):
            classify(labelled_model(), LABELS, negatives={**NEGATIVES, "test": rows})
    for row, what in (([6, 0, 0], "head"), ([0, 2, 0], "relation"), ([0, 0, -1], "tail")):
        with pytest.raises(DomainError, match=f"negative test {what} ids must lie in"):
            classify(labelled_model(), LABELS, negatives={**NEGATIVES, "test": torch.tensor([row])})
