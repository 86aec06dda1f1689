"""Miners, memory, regularisers and harder negatives, each against loops or another library."""

import math

import networkx as nx
import pytest
import torch

from geoembed.distances import Cosine, Euclidean, Geodesic, SlicedWasserstein
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.losses.augment import HardnessInterpolation
from geoembed.losses.contrast import NCA
from geoembed.losses.memory import CrossBatchMemory
from geoembed.losses.miners import DistanceWeighted, Hard, MultiSimilarity, Rho, SemiHard, SpanningTree, TopKOfSampled
from geoembed.losses.pairs import Contrastive
from geoembed.losses.proxies import ProxyNCA
from geoembed.losses.regularisers import Decorrelation, diversity, glas, mmd, sparse_centres, zero_mean
from geoembed.losses.terms import pair_masks
from geoembed.losses.triplets import Triplet
from geoembed.manifolds import PoincareBall
from geoembed.pointsets import PointSets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def problem(n: int = 24, classes: int = 5, seed: int = 0, ties: bool = False):
    """(D, positive, negative); with ties distances are small whole numbers. One class has a single item."""
    x = torch.randn(n, 3, generator=seeded(seed), dtype=torch.float64)
    D = torch.cdist(x, x)
    labels = torch.randint(classes, (n,), generator=seeded(seed))
    labels[0] = classes
    return (D.round() if ties else D), *pair_masks(labels)


def rows(mask):
    return [set(row.nonzero().squeeze(1).tolist()) for row in mask]


@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("seed", range(3))
class TestMasks:
    def test_hard(self, seed, ties):
        D, positive, negative = problem(seed=seed, ties=ties)
        p, n = Hard()(D, positive, negative)
        for i, (ps, ns) in enumerate(zip(rows(positive), rows(negative), strict=True)):
            assert rows(p)[i] == {j for j in ps if D[i, j] == max(D[i, k] for k in ps)}
            assert rows(n)[i] == {j for j in ns if D[i, j] == min(D[i, k] for k in ns)}

    def test_semi_hard(self, seed, ties):
        D, positive, negative = problem(seed=seed, ties=ties)
        p, n = SemiHard(0.7)(D, positive, negative)
        for i, (ps, ns) in enumerate(zip(rows(positive), rows(negative), strict=True)):
            pairs = [(j, k) for j in ps for k in ns if D[i, j] < D[i, k] < D[i, j] + 0.7]
            assert rows(p)[i] == {j for j, _ in pairs}
            assert rows(n)[i] == {k for _, k in pairs}

    def test_multi_similarity(self, seed, ties):
        D, positive, negative = problem(seed=seed, ties=ties)
        p, n = MultiSimilarity(0.3)(D, positive, negative)
        for i, (ps, ns) in enumerate(zip(rows(positive), rows(negative), strict=True)):
            assert rows(p)[i] == {j for j in ps if D[i, j] + 0.3 > min(D[i, k] for k in ns)}
            assert rows(n)[i] == {k for k in ns if ps and D[i, k] - 0.3 < max(D[i, j] for j in ps)}

    def test_spanning_tree(self, seed, ties):
        D, positive, negative = problem(seed=seed, ties=ties)
        p, n = SpanningTree()(D, positive, negative)
        assert torch.equal(p, p.mT)
        assert torch.equal(n, negative)
        assert not bool((p & ~positive).any())
        graph = nx.Graph()
        graph.add_weighted_edges_from((i, j, float(D[i, j])) for i, j in positive.nonzero().tolist())
        want = nx.minimum_spanning_tree(graph)
        assert (D[p.triu()].sum() - want.size("weight")).abs() < 1e-9
        assert int(p.sum()) == 2 * want.number_of_edges()


def test_the_spanning_tree_keeps_edges_of_length_zero():
    labels = torch.tensor([0, 0, 0, 1, 1])
    positive, negative = pair_masks(labels)
    p, _ = SpanningTree()(torch.zeros(5, 5), positive, negative)
    assert int(p.sum()) == 2 * (2 + 1)


def test_multi_similarity_equals_pytorch_metric_learning():
    miners = pytest.importorskip(
        "pytorch_metric_learning.miners", reason='needs the extra: pip install "geoembed[interop]"'
    )
    x = torch.randn(32, 6, generator=seeded())
    labels = torch.arange(32) % 7
    a, p, b, n = miners.MultiSimilarityMiner(epsilon=0.1)(x, labels)
    positive, negative = MultiSimilarity(0.1)(Cosine().pairwise(x), *pair_masks(labels))
    assert set(zip(a.tolist(), p.tolist(), strict=True)) == set(map(tuple, positive.nonzero().tolist()))
    assert set(zip(b.tolist(), n.tolist(), strict=True)) == set(map(tuple, negative.nonzero().tolist()))


def test_distance_weighted_draws_by_the_inverse_of_the_density():
    """Three negatives at distances of a density that is known: their shares of many draws."""
    d = torch.tensor([[0.0, 0.5, 0.9, 1.2, 1.4]], dtype=torch.float64)
    positive = torch.tensor([[False, True, False, False, False]])
    negative = torch.tensor([[False, False, True, True, True]])
    dim, draws = 5, 20_000
    q = [r ** (dim - 2) * (1 - r * r / 4) ** ((dim - 3) / 2) for r in (0.9, 1.2, 1.4)]
    want = torch.tensor([1 / v for v in q]) / sum(1 / v for v in q)
    miner = DistanceWeighted(dim, generator=seeded())
    _, n = miner(d.expand(draws, 5), positive.expand(draws, 5), negative.expand(draws, 5))
    assert torch.equal(n.sum(1), torch.ones(draws, dtype=torch.int64))
    share = n[:, 2:].double().mean(0)
    assert bool(((share - want).abs() < 4 * (want * (1 - want) / draws).sqrt()).all())


def test_distance_weighted_measures_the_density_of_any_distance():
    """90 of 100 negatives lie at distance 1, 10 at distance 5: near and far are drawn alike."""
    D = torch.cat([torch.zeros(1), torch.ones(90), 5 * torch.ones(10)]).expand(4000, 101)
    positive = torch.zeros(4000, 101, dtype=torch.bool)
    positive[:, 0] = True
    _, n = DistanceWeighted(generator=seeded())(D, positive, ~positive)
    far = n[:, 91:].any(1).double().mean()
    assert abs(far - 0.5) < 4 * 0.5 / math.sqrt(4000)


def test_distance_weighted_refuses_a_sphere_where_there_is_none():
    D, positive, negative = problem()
    with pytest.raises(DomainError, match="unit vectors"):
        DistanceWeighted(8)(3 * D, positive, negative)
    p, n = DistanceWeighted()(D, positive & False, negative)
    assert not bool(p.any() | n.any())


def test_rho_swaps_the_share_asked_for():
    D, positive, negative = problem(1000, 50)
    p, n = Rho(Hard(), p=0.3, generator=seeded())(D, positive, negative)
    swapped = p.diagonal()
    can = positive.any(1)
    assert abs(swapped[can].double().mean() - 0.3) < 4 * math.sqrt(0.21 / int(can.sum()))
    assert torch.equal(n[swapped], positive[swapped])
    hard = Hard()(D, positive, negative)
    unswapped = can & ~swapped
    assert torch.equal(p[unswapped], hard[0][unswapped])
    assert torch.equal(n[unswapped], hard[1][unswapped])
    with pytest.raises(ShapeError, match="within a batch"):
        Rho()(D[:5], positive[:5], negative[:5])


def test_top_k_of_sampled():
    D, positive, negative = problem()
    _, n = TopKOfSampled(6, 2, generator=seeded())(D, positive, negative)
    assert torch.equal(n.sum(1), negative.sum(1).clamp(max=2))
    everything = TopKOfSampled(1000, 3)(D, positive, negative)[1]
    for i, ns in enumerate(rows(negative)):
        assert rows(everything)[i] == set(sorted(ns, key=lambda j: float(D[i, j]))[:3])
    with pytest.raises(DomainError, match="1 <= k <= sample"):
        TopKOfSampled(2, 3)


@pytest.mark.parametrize(
    "miner",
    [Hard(), SemiHard(), MultiSimilarity(), DistanceWeighted(), Rho(), SpanningTree(), TopKOfSampled(4, 2)],
    ids=str,
)
@pytest.mark.parametrize("n", [1, 6])
def test_batches_with_nothing_to_mine(miner, n):
    """One item, or one label only."""
    D = torch.rand(n, n)
    positive, negative = pair_masks(torch.zeros(n, dtype=torch.int64))
    p, q = miner(D, positive, negative)
    assert p.shape == q.shape == D.shape
    assert p.dtype == q.dtype == torch.bool


# ---------------------------------------------------------------------------------------------- memory


def test_memory_equals_the_loss_of_the_joined_batch():
    """Anchors x against [x, memory], in value and gradient; no item is a pair of itself."""
    x = torch.randn(12, 4, generator=seeded(), dtype=torch.float64)
    labels = torch.arange(12) % 3
    memory = CrossBatchMemory(Triplet(Euclidean(), margin=1.0, reduction="sum"), size=100)
    memory(x[:5], labels[:5])
    last = x[5:].clone().requires_grad_()
    memory(last, labels[5:]).backward()
    again = x[5:].clone().requires_grad_()
    joined = torch.cat([again, x[:5]])
    every = Triplet(Euclidean(), margin=1.0, reduction="none")(joined, torch.cat([labels[5:], labels[:5]]))
    D = torch.cdist(joined, joined)
    total = sum(
        (D[a, p] - D[a, n] + 1).relu()
        for a in range(7)
        for p in range(12)
        for n in range(12)
        if p != a and (lab := torch.cat([labels[5:], labels[:5]]))[p] == lab[a] != lab[n]
    )
    assert every.shape == (12,)
    total.backward()
    torch.testing.assert_close(last.grad, again.grad, rtol=1e-10, atol=1e-12)


def test_memory_with_nca_equals_nca_of_the_joined_batch():
    """pytorch-metric-learning 2.9 counts each anchor's own copy here."""
    x = torch.randn(12, 4, generator=seeded(), dtype=torch.float64)
    labels = torch.arange(12) % 3
    memory = CrossBatchMemory(NCA(Euclidean(), reduction="none"))
    memory(x[:5], labels[:5])
    have = memory(x[5:], labels[5:])
    order = torch.cat([torch.arange(5, 12), torch.arange(5)])
    torch.testing.assert_close(have, NCA(Euclidean(), reduction="none")(x[order], labels[order])[:7])


def test_memory_leaves_out_older_copies_of_an_item():
    x = torch.randn(6, 4, generator=seeded())
    labels = torch.arange(6) % 2
    ids = torch.arange(6)
    memory = CrossBatchMemory(Contrastive(Euclidean(), margin=9.0, reduction="mean"))
    first = memory(x, labels, ids)
    assert torch.allclose(memory(x, labels, ids), first)  # the same pairs, each twice


def test_memory_is_a_queue():
    memory = CrossBatchMemory(Contrastive(Euclidean()), size=7)
    for step in range(4):
        memory((step + torch.eye(3, 2)).requires_grad_(), torch.arange(3))
    assert len(memory) == 7
    assert memory.items.tolist() == [[1.0, 1.0], [3.0, 2.0], [2.0, 3.0], [2.0, 2.0], [4.0, 3.0], [3.0, 4.0], [3.0, 3.0]]
    assert memory.labels.tolist() == [2, 0, 1, 2, 0, 1, 2]
    assert not memory.items.requires_grad


def test_memory_waits():
    x, labels = torch.randn(6, 4, generator=seeded()), torch.arange(6) % 2
    loss = Contrastive(Euclidean(), margin=9.0)
    memory = CrossBatchMemory(loss, start=2)
    memory(x, labels)
    assert torch.equal(memory(2 * x, labels), loss(2 * x, labels))
    assert not torch.equal(memory(2 * x, labels), loss(2 * x, labels))


@pytest.mark.parametrize("ragged", [False, True])
def test_memory_of_point_sets(ragged):
    distance = SlicedWasserstein(2, 8)
    memory = CrossBatchMemory(Contrastive(distance, margin=9.0))
    batches = [
        [torch.randn(4 + ragged * (i + 2 * b), 2, generator=seeded(9 * b + i)) for i in range(4)] for b in (0, 1)
    ]
    labels = torch.arange(4) % 2
    for sets in batches:
        value = memory(PointSets.from_list(sets) if ragged else torch.stack(sets), labels)
    both = PointSets.from_list([*batches[1], *batches[0]])
    rest = Contrastive(distance, margin=9.0)(
        both[:4], labels, both, labels.repeat(2), ids=torch.arange(4), ref_ids=torch.arange(8)
    )
    torch.testing.assert_close(value, rest)
    again = CrossBatchMemory(Contrastive(distance, margin=9.0))
    again.load_state_dict(memory.state_dict())
    probe = torch.randn(4, 3, 2, generator=seeded(77))
    assert torch.equal(again(probe, labels), memory(probe, labels))


def test_memory_refusals():
    with pytest.raises(DomainError, match="takes no reference"):
        CrossBatchMemory(ProxyNCA(Euclidean(), 3, 2))
    with pytest.raises(DomainError, match="size >= 1"):
        CrossBatchMemory(Contrastive(Euclidean()), size=0)
    with pytest.raises(DataError, match="ids must be 4 numbers"):
        CrossBatchMemory(Contrastive(Euclidean()))(torch.rand(4, 2), torch.arange(4), torch.arange(3))


# ---------------------------------------------------------------------------------------------- regularisers


def test_regularisers_are_their_formulas():
    x = torch.randn(6, 4, generator=seeded(), dtype=torch.float64)
    assert zero_mean(x).item() == pytest.approx(float(sum(abs(row.sum()) for row in x)) / 6)
    want = sum(float((x[2 * c] - x[2 * c + 1]).norm()) for c in range(3)) / 3
    assert sparse_centres(Euclidean(), x, 2).item() == pytest.approx(want)
    y = torch.randn(5, 4, generator=seeded(1), dtype=torch.float64)

    def kernel(a, b):
        return math.exp(-0.5 * float((a - b).square().sum()))

    want = (
        sum(kernel(a, b) for a in x for b in x) / 36
        + sum(kernel(a, b) for a in y for b in y) / 25
        - 2 * sum(kernel(a, b) for a in x for b in y) / 30
    )
    assert mmd(x, y).item() == pytest.approx(want)
    assert mmd(x, x).item() == pytest.approx(0, abs=1e-15)
    sets = torch.nn.functional.normalize(torch.randn(3, 4, 5, generator=seeded(2), dtype=torch.float64), dim=-1)
    want = sum(math.sqrt(sum(float(s[i] @ s[j]) ** 2 for i in range(4) for j in range(4) if i != j)) / 16 for s in sets)
    assert diversity(sets).item() == pytest.approx(want / 3)


def test_glas_is_its_formula_and_zero_where_inner_products_are_the_chances():
    counts = torch.tensor([[4.0, 2.0, 0.0], [2.0, 8.0, 0.0], [0.0, 0.0, 3.0]], dtype=torch.float64)
    target = torch.tensor([[1.0, 0.375, 0.0], [0.375, 1.0, 0.0], [0.0, 0.0, 1.0]], dtype=torch.float64)
    v = torch.linalg.cholesky(target)
    assert glas(v, counts).item() == pytest.approx(0, abs=1e-15)
    u = torch.eye(3, dtype=torch.float64)
    assert glas(u, counts).item() == pytest.approx(2 * 0.375**2 / 9)
    assert glas(u, torch.eye(3)).item() == 0
    with pytest.raises(ShapeError, match=r"\(3, 3\)"):
        glas(u, torch.eye(2))
    with pytest.raises(DomainError, match="must occur"):
        glas(u, torch.zeros(3, 3))


def test_decorrelation_reverses_gradients_into_the_embeddings_only():
    torch.manual_seed(0)
    term = Decorrelation(4, 5, hidden=8).double()
    x = torch.randn(6, 4, generator=seeded(), dtype=torch.float64, requires_grad=True)
    y = torch.randn(6, 5, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    value = term(x, y)
    a, b = x.detach().requires_grad_(), y.detach().requires_grad_()
    plain = -(torch.nn.functional.normalize(a, dim=1) * torch.nn.functional.normalize(term.f(b), dim=1)).square().mean()
    assert value.item() == plain.item()
    got = torch.autograd.grad(value, [x, y, *term.parameters()])
    want = torch.autograd.grad(plain, [a, b, *term.parameters()])
    for i, (g, w) in enumerate(zip(got, want, strict=True)):
        torch.testing.assert_close(g, -w if i < 2 else w)


# ---------------------------------------------------------------------------------------------- augmenter


@pytest.mark.parametrize("distance", [Euclidean(), Geodesic(PoincareBall())], ids=str)
def test_negatives_come_as_near_as_their_formula_says(distance):
    a, p, n = (0.3 * torch.randn(20, 3, generator=seeded(i), dtype=torch.float64).tanh() for i in range(3))
    near, far = distance(a, p), distance(a, n)
    for loss in (1e-9, 0.7, 1e6):
        moved = HardnessInterpolation(distance, alpha=1.0)(a, p, n, loss)
        want = torch.where(far > near, near + (far - near) * math.exp(-1 / loss), far)
        torch.testing.assert_close(distance(a, moved), want)
        torch.testing.assert_close(distance(a, moved) + distance(moved, n), far.maximum(want))  # on the geodesic


def test_the_augmenter_refuses_sets():
    with pytest.raises(ShapeError, match="between sets"):
        HardnessInterpolation(SlicedWasserstein(2))
    with pytest.raises(DomainError, match="alpha"):
        HardnessInterpolation(Euclidean(), alpha=0)
    same = torch.ones(2, 3)
    assert torch.equal(HardnessInterpolation(Euclidean())(same, same, same, 1.0), same)
