"""Negative samplers, masks and weights, shared embeddings, K-vs-all batches: against loops, sets and distributions."""

import doctest
import itertools
from collections import Counter, defaultdict

import pytest
import torch
import torch.nn.functional as F
from scipy.stats import binomtest, chisquare

from geoembed.data import (
    Frequency,
    GraphSharedEmbeddings,
    OwnNegatives,
    QueryGroups,
    SharedEmbeddings,
    SharedNegatives,
    Triples,
    TypedNegatives,
    Uniform,
    bernoulli_weights,
    hardest,
    known_mask,
    queries,
    sampling,
)
from geoembed.errors import DataError, DomainError, ShapeError

INF, NAN = float("inf"), float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def graph(n_entities=12, n_relations=3, n=40, seed=0):
    """A random graph without duplicates; the last entity and the last relation are in no triple, self-loops occur."""
    every = torch.cartesian_prod(
        torch.arange(n_entities - 1), torch.arange(n_relations - 1), torch.arange(n_entities - 1)
    )  # fmt: skip
    rows = every[torch.randperm(len(every), generator=generator(seed))[:n]]
    return make(n_entities, n_relations, rows)


def make(n_entities, n_relations, train):
    none = torch.zeros(0, 3, dtype=torch.int64)
    names = [f"e{i:04}" for i in range(n_entities)], [f"r{i}" for i in range(n_relations)]
    return Triples(*names, torch.as_tensor(train, dtype=torch.int64).reshape(-1, 3), none, none)


def empty():
    return torch.zeros(0, dtype=torch.int64)


def batch(triples, size, seed=1):
    directed = triples.with_inverses()
    return directed[torch.randint(len(directed), (size,), generator=generator(seed))].unbind(1)


def assert_distributed(ids, probabilities):
    """ids follow the probabilities: nothing where they are 0, no evidence against them (p > 0.001) elsewhere."""
    p = torch.as_tensor(probabilities, dtype=torch.float64)
    counts = ids.flatten().bincount(minlength=len(p)).double()
    assert len(counts) == len(p)
    assert counts[p == 0].sum() == 0
    if (p > 0).sum() > 1:
        assert chisquare(counts[p > 0], p[p > 0] / p.sum() * counts.sum()).pvalue > 0.001


def test_the_distribution_check_can_fail():
    ids = torch.randint(3, (3000,), generator=generator())
    assert_distributed(ids, [1 / 3] * 3)
    for wrong in ([0.3, 0.3, 0.4], [0.5, 0.5, 0.0]):
        with pytest.raises(AssertionError):
            assert_distributed(ids, wrong)


# ------------------------------------------------------------------------------------------------------------ samplers


def test_uniform():
    h, r, t = batch(graph(), 50)
    shared = SharedNegatives(Uniform(12), 20_000).draw(h, r, t, generator())
    own = OwnNegatives(Uniform(12), 400).draw(h, r, t, generator())
    assert shared.shape == (20_000,)
    assert own.shape == (50, 400)
    assert shared.dtype == own.dtype == torch.int64
    assert_distributed(shared, [1 / 12] * 12)
    assert_distributed(own, [1 / 12] * 12)
    assert not torch.equal(own[0], own[1])


@pytest.mark.parametrize("alpha", [0, 0.75, 1, 3])
def test_frequency(alpha):
    triples = graph()
    counts = Counter(e for h, _, t in triples.train.tolist() for e in (h, t))
    weights = [counts[e] ** alpha if counts[e] else 0 for e in range(12)]
    assert weights[-1] == 0
    h, r, t = batch(triples, 40)
    assert_distributed(SharedNegatives(Frequency(triples, alpha), 30_000).draw(h, r, t, generator()), weights)
    own = OwnNegatives(Frequency(triples, alpha), 700).draw(h, r, t, generator(1))
    assert own.shape == (40, 700)
    assert_distributed(own, weights)


def test_frequency_with_a_power_that_overflows():
    """The most frequent entity alone is left."""
    triples = make(3, 1, [[0, 0, 1], [1, 0, 0], [1, 0, 1]])
    assert SharedNegatives(Frequency(triples, 1e4), 50).draw(*batch(triples, 2), generator()).unique().tolist() == [1]


def test_frequency_at_the_ends_of_the_random_numbers(monkeypatch):
    """The smallest and the largest number that rand can give meet seen entities, though the first and last are not."""
    triples = make(5, 1, [[1, 0, 2], [1, 0, 3], [2, 0, 3]])
    ends = torch.tensor([0.0, 1 - 2**-53], dtype=torch.float64)
    monkeypatch.setattr(sampling, "rand", lambda *_: ends)
    assert Frequency(triples).ids((2,), triples.train.device).tolist() == [1, 3]


@pytest.mark.parametrize("uniform", [0, 0.25, 1])
def test_typed(uniform):
    triples = graph()
    tails = defaultdict(set)
    for _, r, t in triples.with_inverses().tolist():
        tails[r].add(t)
    sampler = TypedNegatives(triples, 6000, uniform)
    for r in tails:
        assert 1 < len(tails[r]) < 12
        drawn = sampler.draw(*torch.tensor([[0], [r], [1]]), generator(r))
        assert drawn.shape == (1, 6000)
        assert_distributed(drawn, [uniform / 12 + (1 - uniform) * (e in tails[r]) / len(tails[r]) for e in range(12)])


def test_typed_rows_keep_to_their_relations():
    triples = graph(60, 9, 100)
    h, r, t = batch(triples, 300)
    drawn = TypedNegatives(triples, 7, uniform=0).draw(h, r, t, generator())
    tails = defaultdict(set)
    for _, relation, tail in triples.with_inverses().tolist():
        tails[relation].add(tail)
    assert min(map(len, tails.values())) > 1
    assert all(set(row) <= tails[relation] for row, relation in zip(drawn.tolist(), r.tolist(), strict=True))
    assert drawn.shape == (300, 7)


def test_typed_with_one_tail_or_none_is_uniform():
    """Relation 0 has one tail, its inverse three; relation 1 and its inverse, the last, are in no triple."""
    triples = make(5, 2, [[0, 0, 4], [1, 0, 4], [2, 0, 4], [2, 0, 4]])
    sampler = TypedNegatives(triples, 5000, uniform=0)
    h = torch.zeros(4, dtype=torch.int64)
    drawn = sampler.draw(h, torch.arange(4), h, generator())
    for r, p in enumerate([[0.2] * 5, [0.2] * 5, [1 / 3] * 3 + [0, 0], [0.2] * 5]):
        assert_distributed(drawn[r], p)


def samplers(triples, n=3):
    uniform, frequency = Uniform(triples.n_entities), Frequency(triples)
    kinds = itertools.product((SharedNegatives, OwnNegatives), (uniform, frequency))
    return [kind(entities, n) for kind, entities in kinds] + [TypedNegatives(triples, n)]


def test_same_generator_same_negatives_and_nothing_global():
    triples = graph()
    rows = batch(triples, 4)
    state = torch.get_rng_state()
    for sampler in samplers(triples):
        assert torch.equal(sampler.draw(*rows, generator(3)), sampler.draw(*rows, generator(3)))
        assert not torch.equal(sampler.draw(*rows, generator(3)), sampler.draw(*rows, generator(4)))
    assert torch.equal(state, torch.get_rng_state())
    assert all(sampler.draw(*rows).shape[-1] == 3 for sampler in samplers(triples))


def test_one_entity_and_an_empty_batch():
    alone = make(1, 1, [[0, 0, 0]])
    for sampler in samplers(alone):
        assert (sampler.draw(*batch(alone, 2), generator()) == 0).all()
        drawn = sampler.draw(empty(), empty(), empty(), generator())
        assert drawn.shape == ((3,) if isinstance(sampler, SharedNegatives) else (0, 3))


def test_samplers_refuse():
    triples, nothing = graph(), make(3, 1, [])
    for build in (
        lambda: Uniform(0),
        lambda: SharedNegatives(Uniform(3), 0),
        lambda: OwnNegatives(Uniform(3), 0),
        lambda: TypedNegatives(triples, 0),
        *(lambda p=p: TypedNegatives(triples, 1, p) for p in (-0.1, 1.1, NAN)),
        *(lambda a=a: Frequency(triples, a) for a in (-1, INF, NAN)),
    ):
        with pytest.raises(DomainError, match="must be"):
            build()
    with pytest.raises(DataError, match="no training triples"):
        Frequency(nothing)
    for r in (-1, 6):
        with pytest.raises(DomainError, match="relation ids"):
            TypedNegatives(triples, 1).draw(*torch.tensor([[0], [r], [0]]))
    assert TypedNegatives(nothing, 4).draw(*torch.tensor([[0], [1], [0]]), generator()).max() < 3


def test_tables_move_in_a_copy():
    sampler = SharedNegatives(Frequency(graph()), 2)
    moved = sampler.to("meta")
    assert moved.entities.cumulative.device.type == "meta"
    assert sampler.entities.cumulative.device.type == "cpu"
    assert moved.n == 2
    assert {x.device.type for x in vars(TypedNegatives(graph(), 2).to("meta")).values() if hasattr(x, "device")} == {
        "meta"
    }


# ---------------------------------------------------------------------------------------------------------- known_mask


def slow_mask(triples, h, r, negatives, t):
    known = set(map(tuple, triples.with_inverses().tolist()))
    own = negatives.expand(len(h), -1).tolist()
    rows = zip(h.tolist(), r.tolist(), own, t.tolist(), strict=True)
    mask = [[(a, b, x) in known or x == c for x in row] for a, b, row, c in rows]
    return torch.tensor(mask, dtype=torch.bool).reshape(len(h), negatives.shape[-1])


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("size", [1, 2, 30])
def test_known_mask(seed, size):
    """More negatives than entities, so many stand twice; half of the tails are not known ones."""
    triples = graph(9, 3, 60, seed)
    known = triples.known("train")
    h, r, t = batch(triples, size, seed)
    t = torch.where(torch.rand(size, generator=generator(seed)) < 0.5, t, 8)
    for kind in (SharedNegatives, OwnNegatives):
        negatives = kind(Uniform(9), 25).draw(h, r, t, generator(seed))
        mask = known_mask(known, h, r, negatives, t)
        assert mask.dtype == torch.bool
        assert torch.equal(mask, slow_mask(triples, h, r, negatives, t))
        assert 0 < mask.sum() < mask.numel()


def test_known_mask_of_all_pairs():
    """Every entity with every row: pairs that share a place in the hash table are told apart."""
    triples = graph(2000, 2, 300)
    h, r, t = batch(triples, 200)
    every = torch.arange(2000)
    expected = torch.zeros(200, 2000, dtype=torch.bool)
    for i, (a, b) in enumerate(zip(h.tolist(), r.tolist(), strict=True)):
        expected[i, [z for x, y, z in triples.with_inverses().tolist() if (x, y) == (a, b)]] = True
    known = triples.known("train")
    assert torch.equal(known_mask(known, h, r, every, t), expected)
    order = torch.stack([torch.randperm(2000, generator=generator(i)) for i in range(200)])
    assert torch.equal(known_mask(known, h, r, order, t), expected.gather(1, order))


def test_known_mask_of_nothing():
    triples = graph()
    known, blank = triples.known("train"), make(12, 3, []).known("train")
    h, r, t = torch.tensor([[0, 11], [2, 2], [3, 4]])  # relation 2 is in no triple
    for negatives in (torch.tensor([4, 3, 4]), torch.tensor([[4, 3, 4], [4, 3, 4]])):
        for filter in (known, blank):
            expected = [[False, True, False], [True, False, True]]  # the positive's own tail alone
            assert known_mask(filter, h, r, negatives, t).tolist() == expected
            assert known_mask(filter, h, r, negatives[..., :0], t).shape == (2, 0)
    for filter in (known, blank):
        assert known_mask(filter, empty(), empty(), torch.tensor([4, 3]), empty()).shape == (0, 2)
        assert known_mask(filter, empty(), empty(), torch.zeros(0, 5, dtype=torch.int64), empty()).shape == (0, 5)


def test_known_mask_refuses():
    triples = graph()
    h, r, t = batch(triples, 4)
    known = triples.known("train")
    for negatives, tail in ((torch.zeros(3, 5), t), (torch.zeros(()), t), (torch.zeros(5), t[:3])):
        with pytest.raises(ShapeError, match="negatives"):
            known_mask(known, h, r, negatives.long(), tail)


def test_masked_negatives_count_for_nothing():
    scores = torch.randn(3, 6, generator=generator(), dtype=torch.float64, requires_grad=True)
    mask = torch.tensor([[1, 0, 1, 0, 0, 0], [1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 0, 0]], dtype=torch.bool)
    left = scores.masked_fill(mask, -INF)
    F.softplus(hardest(left, 5)).sum().backward()
    assert scores.grad[mask].eq(0).all()
    assert (scores.grad[0][~mask[0]] > 0).all()
    assert torch.isfinite(scores.grad).all()


# -------------------------------------------------------------------------------------------------- weights and mining


def choice(triples):
    """TransH's probability to corrupt the head, by its definition, for each relation."""
    known = set(map(tuple, triples.train.tolist()))
    found = {}
    for relation in range(triples.n_relations):
        tails, heads = defaultdict(set), defaultdict(set)
        for h, r, t in known:
            if r == relation:
                tails[h].add(t)
                heads[t].add(h)
        if tails:
            tph = sum(map(len, tails.values())) / len(tails)
            hpt = sum(map(len, heads.values())) / len(heads)
            found[relation] = tph / (tph + hpt)
    return found


@pytest.mark.parametrize("seed", range(4))
def test_bernoulli_loss_is_twice_the_expected_one_of_the_choice(seed):
    triples = graph(30, 4, 60, seed)
    n, relations = len(triples.train), triples.train[:, 1].tolist()
    losses = torch.rand(2 * n, generator=generator(seed), dtype=torch.float64)  # tails corrupted, then heads
    p = choice(triples)
    expected = sum(p[r] * losses[n + i] + (1 - p[r]) * losses[i] for i, r in enumerate(relations))
    weights = bernoulli_weights(triples)
    assert weights.shape == (8,)
    assert weights.is_floating_point()
    weighted = (weights[triples.with_inverses()[:, 1]] * losses).sum()
    assert float(weighted) == pytest.approx(2 * float(expected), rel=1e-6)
    assert torch.allclose(weights[:4] + weights[4:], torch.full((4,), 2.0))


def test_bernoulli_by_hand():
    """One head, three tails: tph = 3, hpt = 1, so the head is corrupted 3/4 of the time. Duplicates change nothing."""
    rows = [[0, 0, 1], [0, 0, 2], [0, 0, 3]]
    for train in (rows, rows * 2 + rows[:1]):
        assert bernoulli_weights(make(4, 2, train)).tolist() == [0.5, 1.0, 1.5, 1.0]
    assert bernoulli_weights(make(4, 2, [])).tolist() == [1.0] * 4


def test_hardest():
    scores = torch.randn(5, 9, generator=generator(), requires_grad=True)
    for k in (1, 4, 9):
        found = hardest(scores, k)
        expected = [sorted(row, reverse=True)[:k] for row in scores.tolist()]
        assert found.tolist() == expected
        (gradient,) = torch.autograd.grad(found.sum(), scores)
        assert torch.equal(gradient, (scores >= found[:, -1:]).float())
    assert hardest(torch.zeros(0, 4), 2).shape == (0, 2)


def test_hardest_refuses():
    for k in (0, -1, 4):
        with pytest.raises(DomainError, match="number of negatives, 3"):
            hardest(torch.zeros(2, 3), k)
    with pytest.raises(DomainError):
        hardest(torch.zeros(2, 0), 1)
    with pytest.raises(ShapeError):
        hardest(torch.zeros(3), 1)


# --------------------------------------------------------------------------------------------------- shared embeddings


EDGES = torch.tensor([[0, 1], [1, 0], [0, 2], [0, 2], [3, 0], [2, 2], [4, 4], [1, 3]])
NEIGHBOURS = {0: {1, 2, 3}, 1: {0, 3}, 2: {0}, 3: {0, 1}, 4: set(), 5: set()}


@pytest.mark.parametrize("p", [0.1, 0.7, 1])
def test_shared_embeddings(p):
    for start in (0, 2, 5):
        ids = torch.full((100, 200), start)
        found = SharedEmbeddings(6, p).replace(ids, generator(start))
        assert found.shape == ids.shape
        assert_distributed(found, [1 - p if e == start else p / 5 for e in range(6)])


@pytest.mark.parametrize("p", [0.1, 0.7, 1])
def test_graph_shared_embeddings(p):
    replacement = GraphSharedEmbeddings(EDGES, 6, p)
    for start, neighbours in NEIGHBOURS.items():
        found = replacement.replace(torch.full((100, 200), start), generator(start))
        share = p / len(neighbours) if neighbours else 0
        expected = [share * (e in neighbours) for e in range(6)]
        expected[start] = 1 - sum(expected) if share * len(neighbours) < 1 else 0
        assert_distributed(found, expected)


def test_graph_shared_embeddings_of_mixed_ids():
    triples = graph(40, 3, 60)
    joined = defaultdict(set)
    for h, _, t in triples.train.tolist():
        joined[h].add(t)
        joined[t].add(h)
    ids = torch.randint(40, (5000,), generator=generator())
    found = GraphSharedEmbeddings(triples.train[:, [0, 2]], 40, 1).replace(ids, generator())
    for a, b in zip(ids.tolist(), found.tolist(), strict=True):
        assert b in (joined[a] - {a} or {a})


def replacements(p, n=6):
    return SharedEmbeddings(n, p), GraphSharedEmbeddings(EDGES[:0] if n < 6 else EDGES, n, p)


def test_each_id_is_replaced_on_its_own():
    """Of two ids beside each other both are replaced with probability p^2."""
    ids = torch.zeros(20_000, 2, dtype=torch.int64)
    for replacement in replacements(0.3):
        both = (replacement.replace(ids, generator(1)) != ids).all(1)
        assert binomtest(int(both.sum()), len(ids), 0.09).pvalue > 0.001


def test_p_zero_draws_nothing():
    ids = torch.arange(6)
    for replacement in replacements(0):
        rng = generator(5)
        assert replacement.replace(ids, rng) is ids
        assert torch.equal(rng.get_state(), generator(5).get_state())


def test_replacement_leaves_its_input_alone_and_nothing_global():
    ids = torch.arange(6)
    state = torch.get_rng_state()
    for replacement in replacements(1):
        assert torch.equal(replacement.replace(ids, generator(2)), replacement.replace(ids, generator(2)))
        assert ids.tolist() == list(range(6))
        assert replacement.replace(empty(), generator()).shape == (0,)
    assert torch.equal(state, torch.get_rng_state())
    assert all(replacement.replace(torch.tensor([0, 0])).tolist() == [0, 0] for replacement in replacements(1, n=1))


def test_shared_embeddings_refuse():
    for p in (-0.1, 1.01, NAN):
        with pytest.raises(DomainError, match="probability"):
            SharedEmbeddings(3, p)
        with pytest.raises(DomainError, match="probability"):
            GraphSharedEmbeddings(EDGES, 6, p)
    for n in (0, 4):
        with pytest.raises(DomainError):
            GraphSharedEmbeddings(EDGES, n, 0.5)
    with pytest.raises(DomainError):
        SharedEmbeddings(0, 0.5)
    for edges in (EDGES.float(), EDGES[:, :1], EDGES[0]):
        with pytest.raises(ShapeError, match=r"\(m, 2\)"):
            GraphSharedEmbeddings(edges, 6, 0.5)


# ------------------------------------------------------------------------------------------------------------ K-vs-all


@pytest.mark.parametrize("seed", range(3))
def test_query_groups(seed):
    triples = graph(15, 3, 70, seed)
    directed = triples.with_inverses()
    shuffled = torch.cat([directed, directed[::3]])[torch.randperm(164, generator=generator(seed))]
    groups = QueryGroups.from_triples(shuffled)
    tails = defaultdict(set)
    for h, r, t in directed.tolist():
        tails[h, r].add(t)
    assert list(zip(groups.heads.tolist(), groups.relations.tolist(), strict=True)) == sorted(tails)
    assert len(groups) == len(tails)
    parts = [groups.tails[a:b].tolist() for a, b in itertools.pairwise(groups.offsets.tolist())]
    assert parts == [sorted(tails[query]) for query in sorted(tails)]

    rows = torch.randint(len(groups), (40,), generator=generator(seed))  # some queries twice
    expected = torch.zeros(40, 15)
    for i, row in enumerate(rows.tolist()):
        for t in tails[sorted(tails)[row]]:
            expected[i, t] = 1
    assert torch.equal(groups.targets(rows, 15), expected)
    assert torch.equal(torch.stack(groups.positions(rows), 1), expected.nonzero())
    for dtype in (torch.float64, torch.bool):
        assert torch.equal(groups.targets(rows, 15, dtype), expected.to(dtype))

    known = triples.known("train")
    assert torch.equal(groups.positions(rows)[1], known.tails(groups.heads[rows], groups.relations[rows])[1])


def test_the_sparse_form_gives_the_same_loss():
    triples = graph()
    groups = QueryGroups.from_triples(triples.with_inverses())
    rows = torch.arange(len(groups))
    scores = torch.randn(len(groups), 12, generator=generator(), dtype=torch.float64)
    dense = F.binary_cross_entropy_with_logits(scores, groups.targets(rows, 12, torch.float64), reduction="sum")
    sparse = F.softplus(scores).sum() - scores[groups.positions(rows)].sum()
    assert float(sparse) == pytest.approx(float(dense), rel=1e-12)


def test_query_groups_of_nothing_and_of_bad_input():
    none = QueryGroups.from_triples(torch.zeros(0, 3, dtype=torch.int64))
    assert len(none) == 0
    assert none.offsets.tolist() == [0]
    assert none.targets(empty(), 4).shape == (0, 4)
    groups = QueryGroups.from_triples(torch.tensor([[0, 0, 3]]))
    assert groups.targets(empty(), 4).shape == (0, 4)
    assert "1 queries, 1 tails" in repr(groups)
    for rows in ([1], [-1]):
        with pytest.raises(DomainError, match="query ids"):
            groups.targets(torch.tensor(rows), 4)
    with pytest.raises(DomainError, match="tail ids"):
        groups.targets(torch.tensor([0]), 3)
    for directed in (torch.zeros(2, 3), torch.zeros(2, 2, dtype=torch.int64), torch.zeros(3, dtype=torch.int64)):
        with pytest.raises(ShapeError, match=r"\(n, 3\)"):
            QueryGroups.from_triples(directed)


def test_doctests():
    result = doctest.testmod(queries)
    assert result.attempted
    assert not result.failed
