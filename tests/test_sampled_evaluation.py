"""Samples of queries and of candidates: against the definition, and whether the error bars hold on a trained model."""

import math
from itertools import combinations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from geoembed.data import Triples
from geoembed.errors import DataError, DomainError, NumericalWarning
from geoembed.evaluation import RankingResult, evaluate
from geoembed.models import MuRE, MuRP
from geoembed.sampled_evaluation import absent, evaluate_sampled, score_triples

MEANS = ("mrr", "hits@1", "hits@3", "hits@10", "mr")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def random_triples(n=30, n_relations=2, sizes=(80, 20, 40), seed=0):
    every = torch.cartesian_prod(torch.arange(n), torch.arange(n_relations), torch.arange(n))
    rows = every[torch.randperm(len(every), generator=generator(seed))[: sum(sizes)]]
    return Triples([f"e{i:03}" for i in range(n)], [f"r{i}" for i in range(n_relations)], *rows.split(list(sizes)))


class Table(nn.Module):
    """scores[relation, head, tail], inverse relations included."""

    def __init__(self, scores):
        super().__init__()
        self.scores = nn.Parameter(scores.double(), requires_grad=False)
        self.n_entities = scores.shape[1]
        self.asked = []

    def tail_scorer(self, relation):
        return lambda heads: self.scores[relation][heads]

    def forward(self, h, r, t):
        self.asked.append(torch.stack([h, r, t], 1))
        return self.scores[r, h, t]


def tied(triples, levels, seed=0):
    shape = 2 * triples.n_relations, triples.n_entities, triples.n_entities
    return Table(torch.randint(levels, shape, generator=generator(seed)))


def result(ranks, candidates, population=None):
    ranks = torch.tensor(ranks, dtype=torch.float64)
    zeros = torch.zeros(len(ranks), dtype=torch.int64)
    return RankingResult(
        ranks, ranks, torch.tensor(candidates), zeros, zeros.bool(), zeros.bool(), ["r"], "", population
    )


@pytest.fixture(scope="module")
def trained():
    """(model, triples, full ranking): a ring of 300 entities with chords, 1,200 queries, ranks from 1 to 200."""
    n = 300
    ends = torch.arange(n)
    rows = torch.cat([torch.stack([ends, torch.full_like(ends, k % 2), (ends + k) % n], 1) for k in range(1, 7)])
    rows = rows[torch.randperm(len(rows), generator=generator())]
    triples = Triples([f"e{i:03}" for i in range(n)], ["even", "odd"], rows[:1100], rows[1100:1200], rows[1200:])
    model = MuRE(n, 4, 6, generator=generator(1), scale=0.5, sparse=False)
    optimizer, directed, draw = torch.optim.Adam(model.parameters(), lr=0.05), triples.with_inverses(), generator(2)
    for _ in range(150):
        h, r, t = directed.unbind(1)
        scored = model.score_batch(h, r, t, torch.randint(n, (64,), generator=draw))
        loss = nn.functional.softplus(-scored.positive).mean() + nn.functional.softplus(scored.negative).mean() * 20
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    return model, triples, evaluate(model, triples)


# ----------------------------------------------------------------------------------------------- a sample of queries


def test_a_sample_has_the_exact_ranks_of_distinct_queries():
    triples = random_triples()
    model = tied(triples, 5)
    whole = evaluate(model, triples)
    found = evaluate(model, triples, sample=30, generator=generator(3))
    queries = triples.with_inverses("test")
    # the sample is that of the generator, in the order of the split
    rows = torch.randperm(len(queries), generator=generator(3))[:30].sort()[0]
    for name in ("optimistic", "pessimistic", "candidates", "relation", "head_side", "unseen"):
        assert torch.equal(getattr(found, name), getattr(whole, name)[rows]), name
    assert found.protocol == whole.protocol + ", a sample of 30 of 80 queries"
    assert found.population == 80
    assert whole.population is None
    other = evaluate(model, triples, sample=30, generator=generator(4))
    assert not torch.equal(other.ranks, found.ranks)


def test_a_sample_of_given_queries():
    triples = random_triples()
    found = evaluate(
        tied(triples, 5), triples, queries=triples.with_inverses("test")[:7], sample=5, generator=generator()
    )
    assert len(found.ranks) == 5
    assert found.protocol.endswith("a sample of 5 of 7 queries")


def test_a_sample_of_everything_has_no_error():
    triples = random_triples()
    model = tied(triples, 5)
    found = evaluate(model, triples, sample=1000, generator=generator())
    assert found.metrics() == evaluate(model, triples).metrics()
    assert found.standard_errors() == dict.fromkeys(MEANS, 0.0)
    assert found.protocol.endswith("a sample of 80 of 80 queries")


@pytest.mark.parametrize("sample", [0, -1])
def test_a_sample_without_queries(sample):
    with pytest.raises(DomainError, match=f"sample must be at least 1 query, got {sample}"):
        evaluate(tied(random_triples(), 5), random_triples(), sample=sample)


def test_standard_errors_by_hand():
    # 1/rank: 1, 1/2, 1/4, 1/4: mean 1/2, squares 1/4 + 0 + 1/16 + 1/16 = 3/8, s^2 = 1/8
    ranks, n = [1.0, 2.0, 4.0, 4.0], [10] * 4
    errors = result(ranks, n).standard_errors()
    assert errors == pytest.approx(
        {
            "mrr": math.sqrt(1 / 8 / 4),
            "hits@1": math.sqrt(0.25 / 4),  # s^2 = (9/16 + 3/16) / 3
            "hits@3": math.sqrt(1 / 3 / 4),
            "hits@10": 0.0,
            "mr": math.sqrt(2.25 / 4),  # mean 2.75, squares 3.0625 + 0.5625 + 2 * 1.5625 = 6.75
        },
        abs=1e-15,
    )
    sampled = result(ranks, n, population=16).standard_errors()
    assert sampled == pytest.approx({name: error * math.sqrt(0.75) for name, error in errors.items()}, abs=1e-15)
    first = torch.tensor([True, True, False, False])
    assert result(ranks, n).standard_errors(first)["mrr"] == pytest.approx(math.sqrt(1 / 8 / 2))
    assert all(math.isnan(error) for error in result([3.0], [5]).standard_errors().values())
    with pytest.raises(DataError, match="no queries"):
        result([], []).standard_errors()


def test_standard_errors_are_those_of_all_samples():
    """Over every sample of 3 of 7 queries the mean of the squared error bars is the variance of the mean."""
    ranks = torch.tensor([1.0, 1.0, 2.0, 3.5, 7.0, 12.0, 90.0], dtype=torch.float64)
    samples = [result(ranks[list(rows)].tolist(), [100] * 3, population=7) for rows in combinations(range(7), 3)]
    truth = result(ranks.tolist(), [100] * 7).metrics()
    for name in MEANS:
        variance = sum((sample.metrics()[name] - truth[name]) ** 2 for sample in samples) / len(samples)
        errors = sum(sample.standard_errors()[name] ** 2 for sample in samples) / len(samples)
        assert errors == pytest.approx(variance, rel=1e-12), name


def test_error_bars_of_a_sample_of_queries_cover_the_split(trained):
    _, _, full = trained
    truth, values = full.metrics(), full.values()
    covered = dict.fromkeys(MEANS, 0)
    draw = generator(7)
    for _ in range(400):
        rows = torch.randperm(len(full.ranks), generator=draw)[:300]
        part = result(full.ranks[rows].tolist(), [300] * 300, population=len(full.ranks))
        errors = part.standard_errors()
        for name in MEANS:
            covered[name] += abs(values[name][rows].mean() - truth[name]) <= 1.96 * errors[name]
    assert all(0.885 <= count / 400 <= 0.985 for count in covered.values()), covered


# ------------------------------------------------------------------------------------------------------------ drawing


@settings(deadline=None, max_examples=100)
@given(st.lists(st.sets(st.integers(0, 12)), max_size=5), st.integers(1, 20))
def test_absent_equals_the_definition(taken, m):
    rows = torch.tensor([i for i, row in enumerate(taken) for _ in row], dtype=torch.int64)
    columns = torch.tensor([e for row in taken for e in sorted(row)], dtype=torch.int64)
    index = torch.randint(15, (len(taken), m), generator=generator(m))
    found = absent(index, rows, columns)
    for i, row in enumerate(taken):
        free = [e for e in range(40) if e not in row]
        assert found[i].tolist() == [free[j] for j in index[i].tolist()]


def test_candidates_are_uniform_over_the_unknown_ones():
    triples = random_triples(12, 1, (30, 5, 5))
    model = tied(triples, 4)
    draws = 6000
    evaluate_sampled(model, triples, candidates=draws, exact=2, generator=generator())
    asked = torch.cat(model.asked).view(10, draws + 1, 3)
    known = triples.known()
    for query, rows in zip(triples.with_inverses("test"), asked, strict=True):
        assert torch.equal(rows[0], query)
        assert (rows[:, :2] == query[:2]).all()
        answers = known.tails(query[:1], query[1:2])[1]
        counts = rows[1:, 2].bincount(minlength=12)
        assert counts[answers].sum() == 0
        free = 12 - len(answers)
        chi2 = ((counts.double() - draws / free).square() / (draws / free)).sum() - len(answers) * draws / free
        assert chi2 < 40  # at most 10 degrees of freedom: probability below 2e-5


# ------------------------------------------------------------------------------------------------ sampled candidates


def test_sampled_ranks_equal_the_definition():
    triples = random_triples()
    model = tied(triples, 6)
    found = evaluate_sampled(model, triples, candidates=25, exact=10, generator=generator(1))
    scores = model.scores
    for i, rows in enumerate(torch.cat(model.asked).view(80, 26, 3)):
        h, r, t = rows.unbind(1)
        values = scores[r, h, t]
        above, ties = int((values[1:] > values[0]).sum()), int((values[1:] == values[0]).sum())
        assert found.sampled.optimistic[i] == 1 + above
        assert found.sampled.pessimistic[i] == 1 + above + ties
        assert found.stratum[i] == sum(above + ties / 2 >= k for k in (1, 3, 10))
    full = evaluate(model, triples)
    assert torch.equal(found.candidates, full.candidates)
    assert torch.equal(found.exact.ranks, full.ranks[found.rows])
    assert (found.sampled.candidates == 26).all()
    assert "SAMPLED: 25 of 30 entities, drawn for each query with replacement" in found.sampled.protocol
    assert found.exact.protocol.endswith(f"{len(found.rows)} of 80 queries, stratified by sampled rank")


def test_estimates_by_hand():
    triples = random_triples(sizes=(80, 20, 4))
    found = evaluate_sampled(tied(triples, 6), triples, candidates=4, exact=8, generator=generator())
    found.sampled = result([1.0, 1.0, 1.0, 3.0, 1.5, 5.0, 5.0, 5.0], [5] * 8)  # 1 + K of m = 4
    found.sampled.pessimistic = found.sampled.pessimistic.clone()
    found.sampled.optimistic[4], found.sampled.pessimistic[4] = 1.0, 2.0
    found.candidates = torch.tensor([21] * 8)
    found.stratum = torch.tensor([0, 0, 0, 1, 0, 2, 2, 2])
    found.rows = torch.tensor([0, 2, 3, 5, 6])
    found.exact = result([1.0, 2.0, 4.0, 16.0, 20.0], [21] * 5)
    estimates, errors = found.estimates(), found.standard_errors()
    assert estimates["mrr"] == pytest.approx(4 / 8 * 0.75 + 1 / 8 * 0.25 + 3 / 8 * (1 / 16 + 1 / 20) / 2)
    assert estimates["hits@1"] == pytest.approx(4 / 8 * 0.5)
    assert estimates["hits@10"] == pytest.approx(5 / 8)
    variance = (4 / 8) ** 2 * (1 - 2 / 4) * 0.125 / 2 + (3 / 8) ** 2 * (1 - 2 / 3) * (1 / 80) ** 2 / 2 / 2
    assert errors["mrr"] == pytest.approx(math.sqrt(variance))
    assert errors["hits@10"] == 0
    # N = 20: ranks 1, 1, 1, 1 + 20 / 2, 1 + 20 / 8, and three of 21
    total = 3 + 11 + 3.5 + 63
    assert estimates["mr"] == pytest.approx(total / 8)
    assert estimates["amr"] == pytest.approx(total / (8 * 11))
    assert estimates["amri"] == pytest.approx(1 - (total - 8) / (8 * 10))
    # variance of two of four above: 1/3; of one half of four: 1/16
    error = math.sqrt(400 * (1 / 3 + 1 / 16) / 4)
    assert errors["mr"] == pytest.approx(error / 8)
    assert errors["amr"] == pytest.approx(error / 88)
    assert errors["amri"] == pytest.approx(error / 80)


@pytest.mark.parametrize("exact", [80, 1000])
def test_all_queries_exact_is_the_full_ranking(exact):
    triples = random_triples()
    model = tied(triples, 50)
    found = evaluate_sampled(model, triples, candidates=10, exact=exact, generator=generator())
    full = evaluate(model, triples).metrics()
    assert torch.equal(found.rows, torch.arange(80))
    for name in MEANS[:4]:
        assert found.estimates()[name] == pytest.approx(full[name], abs=1e-12)
        assert found.standard_errors()[name] == 0


@pytest.mark.parametrize("exact", [2, 5, 17, 40, 79])
def test_the_number_of_exact_queries(exact):
    triples = random_triples()
    found = evaluate_sampled(tied(triples, 50), triples, candidates=15, exact=exact, generator=generator())
    sizes, drawn = found.stratum.bincount(minlength=4), found.stratum[found.rows].bincount(minlength=4)
    assert len(found.rows.unique()) == len(found.rows)
    assert (drawn >= sizes.clamp(max=2)).all()
    assert exact <= len(found.rows) <= exact + 6


def test_estimates_are_unbiased_and_their_error_bars_honest(trained):
    """Over 300 seeds: mean, variance and 95 % intervals against the full ranking's values."""
    model, triples, full = trained
    truth, seeds = full.metrics(), 300
    assert 0.2 < truth["hits@3"] < 0.9  # there is something to estimate
    names = (*MEANS, "amr", "amri")
    values, errors = (torch.empty(seeds, len(names), dtype=torch.float64) for _ in range(2))
    for seed in range(seeds):
        found = evaluate_sampled(model, triples, candidates=20, exact=300, generator=generator(seed))
        for table, numbers in ((values, found.estimates()), (errors, found.standard_errors())):
            table[seed] = torch.tensor([numbers[name] for name in names], dtype=torch.float64)
    off = values - torch.tensor([truth[name] for name in names], dtype=torch.float64)
    assert (off.mean(0).abs() < 3.5 * off.std(0) / math.sqrt(seeds)).all()
    ratio = errors.square().mean(0) / off.square().mean(0)
    assert ((ratio > 0.75) & (ratio < 1.35)).all(), ratio
    covered = (off.abs() <= 1.96 * errors).double().mean(0)
    assert ((covered >= 0.885) & (covered <= 0.985)).all(), covered
    # the sampled protocol is no estimate of it
    assert found.sampled.metrics()["mrr"] > truth["mrr"] + 5 * errors[:, 0].max()


def test_a_real_model_and_blocks():
    """forward and tail_scorer agree, and the budget changes nothing but the blocks."""
    triples = random_triples()
    model = MuRP(30, 4, 5, generator=generator(), scale=0.5, dtype=torch.float64)
    many, one = (
        evaluate_sampled(model, triples, candidates=5000, exact=80, generator=generator(), budget=budget)
        for budget in (2**27, 1 << 20)
    )
    assert torch.equal(many.sampled.ranks, one.sampled.ranks)
    share = (many.sampled.ranks - 1) / 5000
    expected = (many.exact.ranks - 1) / (many.candidates - 1)
    assert (share - expected).abs().max() < 4.5 * 0.5 / math.sqrt(5000)
    rows = triples.test
    assert torch.equal(
        score_triples(model, rows, budget=1), torch.cat([model(*row.unsqueeze(1)).detach() for row in rows])
    )


def test_nan_and_infinite_scores():
    triples = random_triples(12, 1, (20, 5, 5))
    assert len(triples.test[:3, 0].unique()) == 3  # rows of scores of their own
    model = tied(triples, 4)
    h, r, t = triples.test[0].tolist()
    model.scores[r, h, t] = math.nan
    h, r, t = triples.test[1].tolist()
    model.scores[r, h, :t] = math.nan
    model.scores[r, h, t + 1 :] = math.nan
    h, r, t = triples.test[2].tolist()
    model.scores[r, h, t] = math.inf
    model.scores[1] = torch.arange(12)
    with pytest.warns(NumericalWarning, match="of 10 queries have NaN scores; NaN counts as the worst score"):
        found = evaluate_sampled(model, triples, candidates=50, exact=10, generator=generator())
    assert found.sampled.ranks[:3].tolist() == [51, 1, 51]


def test_a_query_without_other_candidates_has_rank_one():
    alone = Triples(["a", "b"], ["r"], *torch.tensor([[[0, 0, 0]], [[0, 0, 1]], [[1, 0, 1]]]))
    found = evaluate_sampled(Table(torch.zeros(2, 2, 2)), alone, candidates=10, exact=2, generator=generator())
    full = evaluate(Table(torch.zeros(2, 2, 2)), alone)
    assert full.candidates.tolist() == [2, 1]
    assert found.candidates.tolist() == [2, 1]
    assert found.sampled.pessimistic.tolist() == [11, 1]
    single = Triples(["a"], ["r"], *(torch.tensor([[0, 0, 0]]) for _ in range(3)))
    found = evaluate_sampled(Table(torch.full((2, 1, 1), math.inf)), single, candidates=3, generator=generator())
    assert found.estimates()["mrr"] == found.estimates()["mr"] == 1
    assert math.isnan(found.estimates()["amri"])
    assert found.standard_errors()["mr"] == 0


def test_bad_arguments():
    triples = random_triples()
    with pytest.raises(DomainError, match="candidates must be at least 2, got 1"):
        evaluate_sampled(tied(triples, 5), triples, candidates=1)
    with pytest.raises(DomainError, match="exact must be at least 2, got 0"):
        evaluate_sampled(tied(triples, 5), triples, exact=0)
    with pytest.raises(DomainError, match="the model has 5 entities, the data 30"):
        evaluate_sampled(Table(torch.zeros(4, 5, 5)), triples)
    bare = random_triples(sizes=(80, 20, 0))
    with pytest.raises(DataError, match="the test split of triples is empty"):
        evaluate_sampled(tied(bare, 5), bare)


def test_the_filter_of_all_splits_is_made_once():
    triples = random_triples()
    assert triples.known() is triples.known()
    assert triples.known().answers.tolist() == triples.known("train", "valid", "test").answers.tolist()
    other = Triples(triples.entities, triples.relations, triples.train, triples.valid, triples.test[:1])
    assert len(other.known().answers) < len(triples.known().answers)
