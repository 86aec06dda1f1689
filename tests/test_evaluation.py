"""Filtered ranking against a slow oracle of dictionaries and loops, and what must hold whatever the scores are."""

import math
import warnings

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import nn

from geoembed.data import Triples
from geoembed.errors import DataError, DomainError, NumericalWarning, UnknownNameError
from geoembed.evaluation import evaluate, rank_block
from geoembed.models import MuRE, MuRP

SPLITS = ("train", "valid", "test")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def graph(n_entities=7, n_relations=2, seed=0, sizes=(12, 5, 6)):
    """A random graph without duplicates; the last entity is in no triple, self-loops occur."""
    every = torch.cartesian_prod(
        torch.arange(n_entities - 1), torch.arange(n_relations), torch.arange(n_entities - 1)
    )  # fmt: skip
    rows = every[torch.randperm(len(every), generator=generator(seed))[: sum(sizes)]]
    return Triples(
        [f"e{i:02}" for i in range(n_entities)], [f"r{i}" for i in range(n_relations)], *rows.split(list(sizes))
    )


class Table(nn.Module):
    """A model whose scores are given: scores[relation, head, tail], inverse relations included. Notes what is asked."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores.float() if scores.dtype == torch.int64 else scores, requires_grad=False)
        self.n_entities = scores.shape[1]
        self.asked = []

    def tail_scorer(self, relation):
        def score(heads):
            self.asked.append((relation, len(heads)))
            return self.scores[relation][heads]

        return score


def tied(triples, seed=0, levels=3):
    shape = (2 * triples.n_relations, triples.n_entities, triples.n_entities)
    return Table(torch.randint(levels, shape, generator=generator(seed)))


def slow(scores, triples, split="test", exclude=False):
    """[(optimistic, pessimistic, candidates)] of the tail queries, then of the head queries, by the definition."""
    known = {tuple(row) for name in SPLITS for row in triples[name].tolist()}
    found = []
    for side in ("tail", "head"):
        for h, r, t in triples[split].tolist():
            if side == "tail":
                own, target, row = h, t, scores[r, h]
                taken = {e for e in range(triples.n_entities) if (h, r, e) in known}
            else:
                own, target, row = t, h, scores[r + triples.n_relations, t]
                taken = {e for e in range(triples.n_entities) if (e, r, t) in known}
            if exclude:
                taken = taken | {own}
            taken = taken - {target}
            value = float(row[target])
            others = [float(row[e]) for e in range(triples.n_entities) if e != target and e not in taken]
            n = len(others) + 1
            if not math.isfinite(value):
                found.append((n, n, n))
                continue
            better = sum(other > value for other in others)  # a NaN is never better, nor equal
            equal = sum(other == value for other in others)
            found.append((better + 1, better + 1 + equal, n))
    return found


def check(result, expected):
    found = zip(result.optimistic.tolist(), result.pessimistic.tolist(), result.candidates.tolist(), strict=True)
    assert [tuple(map(int, row)) for row in found] == expected


def slow_metrics(expected):
    ranks = [(a + b) / 2 for a, b, _ in expected]
    n = [c for *_, c in expected]
    spread = sum((c - 1) / 2 for c in n)
    return {
        "mrr": sum(1 / rank for rank in ranks) / len(ranks),
        **{f"hits@{k}": sum(rank <= k for rank in ranks) / len(ranks) for k in (1, 3, 10)},
        "mr": sum(ranks) / len(ranks),
        "amr": sum(ranks) / sum((c + 1) / 2 for c in n),
        "amri": 1 - sum(rank - 1 for rank in ranks) / spread if spread else math.nan,
    }


# ---------------------------------------------------------------------------------------------- against the oracle


@settings(deadline=None, max_examples=60)
@given(
    seed=st.integers(0, 10**6),
    n_entities=st.integers(3, 9),
    n_relations=st.integers(1, 3),
    levels=st.sampled_from([1, 2, 3, 50]),
    split=st.sampled_from(SPLITS),
    exclude=st.booleans(),
    budget=st.sampled_from([1, 200, 2**20]),
)
def test_evaluate_equals_the_definition(seed, n_entities, n_relations, levels, split, exclude, budget):
    triples = graph(n_entities, n_relations, seed, (2, 1, 1) if n_entities == 3 else (5, 2, 2))
    model = tied(triples, seed, levels)
    result = evaluate(model, triples, split, exclude_query_entity=exclude, budget=budget)
    expected = slow(model.scores, triples, split, exclude)
    check(result, expected)
    assert result.metrics() == pytest.approx(slow_metrics(expected), abs=1e-12, nan_ok=True)


@settings(deadline=None, max_examples=100)
@given(data=st.data(), n=st.integers(1, 8), rows=st.integers(1, 4))
@example(data=None, n=1, rows=1)
def test_rank_block_equals_the_definition(data, n, rows):
    values = st.sampled_from([0.0, 1.0, 2.0, -1.0, math.nan, math.inf, -math.inf])
    if data is None:
        scores, target, known = [[0.0]], [0], set()
    else:
        scores = data.draw(st.lists(st.lists(values, min_size=n, max_size=n), min_size=rows, max_size=rows))
        target = data.draw(st.lists(st.integers(0, n - 1), min_size=rows, max_size=rows))
        known = data.draw(st.sets(st.tuples(st.integers(0, rows - 1), st.integers(0, n - 1))))
    r, c = torch.tensor(sorted(known), dtype=torch.int64).reshape(-1, 2).unbind(1)
    found = rank_block(torch.tensor(scores), torch.tensor(target), r, c)
    for i, row in enumerate(scores):
        value = row[target[i]]
        others = [row[e] for e in range(n) if e != target[i] and (i, e) not in known]
        size = len(others) + 1
        if math.isfinite(value):
            better, equal = sum(o > value for o in others), sum(o == value for o in others)
            expected = (better + 1, better + 1 + equal, size)
        else:
            expected = (size, size, size)
        assert tuple(int(part[i]) for part in found) == expected


def test_a_known_answer_listed_twice_is_filtered_once():
    scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    rows, known = torch.tensor([0, 0, 0]), torch.tensor([0, 0, 2])
    assert [int(part) for part in rank_block(scores, torch.tensor([1]), rows, known)] == [1, 1, 2]


def test_a_real_model_equals_the_definition():
    triples = graph(25, 3, seed=4, sizes=(60, 20, 30))
    for build in (MuRP, MuRE):
        model = build(25, 6, 4, generator=generator(), scale=0.5, dtype=torch.float64)
        heads = torch.arange(25)
        scores = torch.stack([model.tail_scorer(r)(heads) for r in range(6)])
        check(evaluate(model, triples), slow(scores, triples))


# ------------------------------------------------------------------------------------------- scores that say nothing


def test_constant_scores_are_as_good_as_chance():
    triples = graph()
    result = evaluate(Table(torch.zeros(4, 7, 7)), triples)
    assert torch.equal(result.ranks, (result.candidates + 1).double() / 2)
    assert torch.equal(result.optimistic, torch.ones(12, dtype=torch.float64))
    assert torch.equal(result.pessimistic, result.candidates.double())
    metrics = result.metrics()
    assert metrics["amri"] == pytest.approx(0, abs=1e-15)
    assert metrics["amr"] == pytest.approx(1, abs=1e-15)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_model_that_scores_all_the_same_nonsense_is_last(value):
    triples = graph()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NumericalWarning)
        result = evaluate(Table(torch.full((4, 7, 7), value)), triples)
    assert torch.equal(result.optimistic, result.candidates.double())
    assert torch.equal(result.pessimistic, result.candidates.double())
    assert result.metrics()["amri"] == -1


def test_nan_is_worst_and_counted():
    triples = graph()
    model = tied(triples)
    h, r, t = triples.test[0].tolist()
    model.scores[r, h, t] = math.nan  # the target itself
    h, r, t = triples.test[1].tolist()
    other = next(e for e in range(7) if e != t)
    model.scores[r + 2, t, other] = math.nan  # another candidate, or one that is filtered out
    asked = {(row[1], row[0]) for row in triples.with_inverses("test").tolist()}
    broken = sum(
        bool(model.scores[row[1], row[0]].isnan().any()) for row in triples.with_inverses("test").tolist()
    )  # fmt: skip
    assert asked
    with pytest.warns(NumericalWarning, match=rf"{broken} of 12 queries have NaN scores; NaN counts as the worst"):
        result = evaluate(model, triples)
    check(result, slow(model.scores, triples))
    assert result.optimistic[0] == result.pessimistic[0] == result.candidates[0]


def test_no_warning_without_nan():
    triples = graph()
    scores = tied(triples).scores.clone()
    scores[0, 0, :3] = math.inf
    scores[1, :, 2] = -math.inf
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        result = evaluate(Table(scores), triples)
    check(result, slow(scores, triples))


# ------------------------------------------------------------------------------------------------- what is a candidate

#   h -r-> a, b (train), c (valid), d (test);  h -r-> h (test)
STAR = Triples(
    list("abcdhz"),
    ["r"],
    torch.tensor([[4, 0, 0], [4, 0, 1]]),
    torch.tensor([[4, 0, 2]]),
    torch.tensor([[4, 0, 3], [4, 0, 4]]),
    "star",
)


def test_filtering_takes_all_splits_and_both_sides():
    scores = torch.zeros(2, 6, 6)
    scores[0, 4] = torch.tensor([9, 8, 7, 1, 0.5, 2])  # only z beats d: a, b, c, h are known answers
    scores[1, 3] = torch.tensor([5, 4, 3, 2, 1, 0])  # for d, heads: a, b, c, d beat h, no other head is known
    result = evaluate(Table(scores), STAR)
    assert result.optimistic.tolist() == [2, 2, 5, 1]
    assert result.candidates.tolist() == [2, 2, 6, 6]
    check(result, slow(scores, STAR))
    assert result.head_side.tolist() == [False, False, True, True]
    assert (
        result.protocol
        == "filtered by train+valid+test, both sides, realistic ranks, all 6 entities, query entity kept"
    )


def test_query_entity_excluded():
    scores = torch.zeros(2, 6, 6)
    scores[0, 4, 4] = 9.0
    scores[1, 3, 3] = 9.0
    kept, excluded = (evaluate(Table(scores), STAR, exclude_query_entity=flag) for flag in (False, True))
    # d: h is a known answer already, so leaving it out as the query's entity does not count twice
    # h -r-> h: the self-loop is the target, and stays
    assert kept.candidates.tolist() == [2, 2, 6, 6]
    assert excluded.candidates.tolist() == [2, 2, 5, 6]
    assert kept.optimistic[2] == 2
    assert excluded.optimistic[2] == 1
    assert excluded.optimistic[1] == 1
    check(excluded, slow(scores, STAR, exclude=True))
    assert "query entity excluded" in excluded.protocol
    assert "query entity kept" in kept.protocol


def test_protocol_names_the_splits_there_are():
    empty = torch.empty(0, 3, dtype=torch.int64)
    bare = Triples(STAR.entities, STAR.relations, STAR.train, empty, STAR.test)
    result = evaluate(Table(torch.zeros(2, 6, 6)), bare)
    assert result.protocol.startswith("filtered by train+test, ")
    assert result.candidates.tolist() == [3, 3, 6, 6]  # the valid triple is not known here


def test_given_queries_are_ranked_instead_of_the_split():
    triples = graph()
    model = tied(triples)
    whole, queries = evaluate(model, triples), triples.with_inverses("test")
    order = torch.randperm(len(queries), generator=generator())[:7]
    part = evaluate(model, triples, queries=queries[order])
    for name in ("optimistic", "pessimistic", "candidates", "relation", "head_side", "unseen"):
        assert torch.equal(getattr(part, name), getattr(whole, name)[order]), name


def test_duplicate_test_triples_are_queries_of_their_own():
    twice = Triples(STAR.entities, STAR.relations, STAR.train, STAR.valid, STAR.test[[0, 0]])
    scores = tied(twice, 3).scores
    result = evaluate(Table(scores), twice)
    check(result, slow(scores, twice))
    assert result.optimistic[0] == result.optimistic[1]


def test_unseen_entities_are_ranked_and_flagged():
    triples = Triples(
        list("abcd"),
        ["r"],
        torch.tensor([[0, 0, 1]]),
        torch.tensor([[2, 0, 0]]),
        torch.tensor([[0, 0, 1], [1, 0, 2], [3, 0, 0]]),
    )
    scores = tied(triples).scores
    result = evaluate(Table(scores), triples)
    assert result.unseen.tolist() == [False, True, True] * 2
    assert len(result.ranks) == 6
    assert result.candidates.max() == 4
    check(result, slow(scores, triples))


# ------------------------------------------------------------------------------------------------------------- metrics


def test_metrics_by_side_and_by_relation():
    triples = graph(9, 3, seed=2, sizes=(20, 5, 15))
    model = tied(triples, 1, 4)
    result = evaluate(model, triples)
    rows = slow(model.scores, triples)
    names = [triples.relations[r] for r in triples.test[:, 1].tolist()] * 2
    sides = ["tail"] * 15 + ["head"] * 15
    by_side, by_relation = result.by_side(), result.by_relation()
    assert by_side["both"] == result.metrics()
    for side in ("tail", "head"):
        expected = slow_metrics([row for row, s in zip(rows, sides, strict=True) if s == side])
        assert by_side[side] == pytest.approx(expected, abs=1e-12)
    assert set(by_relation) == set(names)
    for name, metrics in by_relation.items():
        chosen = [row for row, n in zip(rows, names, strict=True) if n == name]
        assert metrics.pop("queries") == len(chosen)
        assert metrics == pytest.approx(slow_metrics(chosen), abs=1e-12)


def test_metrics_of_ranks_known_by_hand():
    result = evaluate(Table(torch.zeros(2, 6, 6)), STAR)
    result.optimistic = torch.tensor([1.0, 2.0, 10.0, 3.0], dtype=torch.float64)
    result.pessimistic = torch.tensor([1.0, 3.0, 11.0, 3.0], dtype=torch.float64)
    result.candidates = torch.tensor([11, 11, 21, 5])
    assert result.metrics() == pytest.approx(
        {
            "mrr": (1 + 1 / 2.5 + 1 / 10.5 + 1 / 3) / 4,
            "hits@1": 0.25,
            "hits@3": 0.75,
            "hits@10": 0.75,
            "mr": 17 / 4,
            "amr": 17 / (6 + 6 + 11 + 3),
            "amri": 1 - 13 / (5 + 5 + 10 + 2),
        },
        abs=1e-15,
    )
    assert result.metrics(torch.tensor([True, False, False, False]))["amri"] == 1


def test_one_candidate_leaves_nothing_to_adjust():
    alone = Triples(["a"], ["r"], *(torch.tensor([[0, 0, 0]]) for _ in range(3)))
    metrics = evaluate(Table(torch.zeros(2, 1, 1)), alone).metrics()
    assert metrics["mrr"] == metrics["amr"] == 1
    assert math.isnan(metrics["amri"])


# --------------------------------------------------------------------------------------------------- blocks and errors


def test_budget_changes_blocks_and_nothing_else():
    triples = graph(40, 2, seed=5, sizes=(200, 50, 120))
    whole, single, some = tied(triples), tied(triples), tied(triples)
    expected = evaluate(whole, triples, budget=2**40)
    check(expected, slow(whole.scores, triples))
    for model, budget in ((single, 1), (some, 40 * 16 * 7)):
        result = evaluate(model, triples, budget=budget)
        assert torch.equal(result.optimistic, expected.optimistic)
        assert torch.equal(result.pessimistic, expected.pessimistic)
        assert torch.equal(result.candidates, expected.candidates)
    assert {rows for _, rows in single.asked} == {1}
    assert max(rows for _, rows in some.asked) == 7
    assert len(whole.asked) == 4  # one block a relation and side
    for model in (whole, single, some):
        assert sum(rows for _, rows in model.asked) == 240


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_blocks_and_their_temporaries_fit_the_budget(dtype):
    """Scores, two temporaries of their size for the model, or masks and counts for the ranks."""
    triples = graph(40, 1, seed=5, sizes=(200, 50, 120))
    scores = tied(triples).scores.to(dtype)
    for budget in (10_000, 50_000):
        model = Table(scores)
        evaluate(model, triples, budget=budget)
        rows = max(rows for _, rows in model.asked)
        assert 3 * rows * 40 * scores.element_size() <= budget
        assert 5 * rows * 40 * scores.element_size() > budget  # and are not needlessly small


def test_moves_of_the_table_happen_once_a_relation():
    """`tail_scorer` is called once for each relation and side, however small the blocks."""
    triples, calls = graph(), []

    class Counting(Table):
        def tail_scorer(self, relation):
            calls.append(relation)
            return super().tail_scorer(relation)

    evaluate(Counting(tied(triples).scores), triples, budget=1)
    assert sorted(calls) == sorted(triples.with_inverses("test")[:, 1].unique().tolist())


def test_no_graph_is_kept_and_the_model_is_left_alone():
    triples = graph()
    model = MuRP(7, 4, 3, generator=generator(), scale=0.3)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = evaluate(model, triples)
    assert not result.ranks.requires_grad
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None for p in model.parameters())


def test_scores_that_the_model_keeps_are_not_written_to():
    """A scorer may hand out its own memory."""
    triples = graph()

    class Own(Table):
        def tail_scorer(self, relation):
            return lambda heads: self.scores[relation]

    table = tied(triples).scores
    heads = torch.arange(7)
    queries = torch.stack([heads, torch.zeros(7, dtype=torch.int64), heads.flip(0)], 1)
    before = table.clone()
    evaluate(Own(table), triples, queries=queries)
    assert torch.equal(table, before)


def test_empty_split():
    bare = Triples(STAR.entities, STAR.relations, STAR.train, STAR.valid, torch.empty(0, 3, dtype=torch.int64), "star")
    with pytest.raises(DataError, match="the test split of star is empty"):
        evaluate(Table(torch.zeros(2, 6, 6)), bare)
    with pytest.raises(DataError, match="is empty"):
        evaluate(Table(torch.zeros(2, 6, 6)), STAR, queries=torch.empty(0, 3, dtype=torch.int64))
    with pytest.raises(DataError, match="no queries to average over"):
        evaluate(Table(torch.zeros(2, 6, 6)), STAR).metrics(torch.zeros(4, dtype=torch.bool))


def test_wrong_number_of_entities():
    with pytest.raises(DomainError, match="the model has 5 entities, the data 6"):
        evaluate(Table(torch.zeros(2, 5, 5)), STAR)


def test_unknown_split():
    with pytest.raises(UnknownNameError, match="Did you mean 'test'"):
        evaluate(Table(torch.zeros(2, 6, 6)), STAR, "tset")
