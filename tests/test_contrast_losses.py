"""Softmax-like and ranking losses: against formulas in 50 digits, brute force and pytorch-metric-learning."""

import itertools
import math

import mpmath
import numpy as np
import pytest
import torch
from pytorch_metric_learning import losses as pml
from pytorch_metric_learning.distances import CosineSimilarity, LpDistance

from geoembed.distance import Power
from geoembed.distances import Cosine, Euclidean, Geodesic, NegativeInner
from geoembed.errors import DataWarning, DomainError, ShapeError
from geoembed.losses.affinity import ExpNeg, Heat, OneMinus, affinity_for
from geoembed.losses.contrast import (
    NCA,
    InstanceSpreading,
    MultiSimilarity,
    NTXent,
    SupCon,
    instance_spreading,
    multi_similarity,
    nca,
    nt_xent,
    sup_con,
)
from geoembed.losses.logsums import log1pexp, masked_logsumexp
from geoembed.losses.manifold_similarity import ManifoldSimilarity, manifold_similarity, walk
from geoembed.losses.ranks import Circle, FastAP, PrecisionAtK, circle, fast_ap, precision_at_k
from geoembed.losses.terms import pair_masks, reduced
from geoembed.manifolds import PoincareBall

exp, log = mpmath.exp, mpmath.log


@pytest.fixture(autouse=True)
def _digits():
    with mpmath.workdps(50):
        yield


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


# ------------------------------------------ the formulas, one anchor at a time: lists of the terms of distances p and n


def soft(d, temperature):
    return exp(-mpmath.mpf(d) / mpmath.mpf(temperature))


def nca_terms(p, n, temperature):
    near, far = (mpmath.fsum(soft(d, temperature) for d in ds) for ds in (p, n))
    return [-log(near / (near + far))] if p else []


def nt_xent_terms(p, n, temperature):
    far = mpmath.fsum(soft(d, temperature) for d in n)
    return [-log(soft(d, temperature) / (soft(d, temperature) + far)) for d in p]


def sup_con_terms(p, n, temperature):
    whole = mpmath.fsum(soft(d, temperature) for d in [*p, *n])
    return [mpmath.fsum(-log(soft(d, temperature) / whole) for d in p) / len(p)] if p else []


def spreading_terms(p, n, temperature):
    weights = [soft(d, temperature) for d in [*n, *p]]
    whole = mpmath.fsum(weights)
    spread = [-log(mpmath.fsum(weights[:j] + weights[j + 1 :]) / whole) for j in range(len(n))] if p else []
    return [sup_con_terms(p, n, temperature)[0] + mpmath.fsum(spread)] if p else []


def multi_similarity_terms(p, n, alpha=2.0, beta=50.0, base=0.5):
    pull = log(1 + mpmath.fsum(exp(alpha * (mpmath.mpf(d) - base)) for d in p)) / alpha
    push = log(1 + mpmath.fsum(exp(beta * (base - mpmath.mpf(d))) for d in n)) / beta
    return [pull + push] if p or n else []


def circle_terms(p, n, margin=0.4, gamma=80.0):
    pull = mpmath.fsum(exp(-gamma * max(0, 1 + margin - s) * (mpmath.mpf(s) - 1 + margin)) for s in p)
    push = mpmath.fsum(exp(gamma * max(0, s + margin) * (mpmath.mpf(s) - margin)) for s in n)
    return [log(1 + pull * push)] if p and n else []


SOFTMAX = {
    nca: nca_terms,
    nt_xent: nt_xent_terms,
    sup_con: sup_con_terms,
    instance_spreading: spreading_terms,
}
TEMPERATURES = [0.001, 0.1, 1.0]
ROWS = [
    *((f, oracle, {"temperature": t}) for (f, oracle), t in itertools.product(SOFTMAX.items(), TEMPERATURES)),
    (multi_similarity, multi_similarity_terms, {}),
    (multi_similarity, multi_similarity_terms, {"alpha": 9.0, "beta": 40.0, "base": -1.5}),
    (circle, circle_terms, {}),
    (circle, circle_terms, {"margin": 0.25, "gamma": 256.0}),
]


def case(kind: str, scale: float = 1.0, dtype: torch.dtype = torch.float64):
    """A matrix and two masks: what batches, references, miners and unlucky batches give."""
    n, m = (7, 7) if kind in ("batch", "ties") else (5, 9)
    D = scale * torch.rand(n, m, generator=generator(), dtype=torch.float64)
    if kind == "ties":
        D = (4 * D / scale).round() * scale / 4
    labels, columns = torch.arange(n) % 2, torch.arange(m) % 3
    positive, negative = pair_masks(labels, None if n == m else columns)
    if kind == "bare":  # anchors without positives, without negatives, without either, with one pair of all
        positive[0], negative[1], positive[2], negative[2] = False, False, False, False
        positive[3], negative[3, 1:] = False, False
    if kind == "mined":
        keep = torch.rand(n, m, generator=generator(1)) < 0.6
        positive, negative = positive & keep, negative & keep
    return D.to(dtype), positive, negative


CASES = ["batch", "ties", "ref", "bare", "mined"]


def rows_of(D, positive, negative):
    for d, p, n in zip(D, positive, negative, strict=True):
        yield d[p].tolist(), d[n].tolist()


def close(value, want, rel=1e-12, floor=1e-14):
    assert abs(mpmath.mpf(value) - want) <= rel * abs(want) + floor, (value, want)


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize(("f", "oracle", "options"), ROWS)
def test_value_is_that_of_the_formula(f, oracle, options, kind):
    D, positive, negative = case(kind)
    terms = f(D, positive, negative, **options)
    want = [oracle(p, n, **options) for p, n in rows_of(D, positive, negative)]
    assert terms.count.tolist() == [len(row) for row in want]
    for value, row in zip(terms.total.tolist(), want, strict=True):
        close(value, mpmath.fsum(row))
    assert all(a <= b for a, b in zip(terms.nonzero.tolist(), terms.count.tolist(), strict=True))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("f", SOFTMAX)
def test_far_items_and_low_temperatures_keep_value_and_gradient(f, kind, dtype):
    D, positive, negative = case(kind, scale=1e4, dtype=dtype)
    D.requires_grad_()
    terms = f(D, positive, negative, temperature=0.001)
    terms.total.sum().backward()
    rel = 1e-6 if dtype == torch.float32 else 1e-14
    for value, (p, n) in zip(terms.total.tolist(), rows_of(D.detach(), positive, negative), strict=True):
        close(value, mpmath.fsum(SOFTMAX[f](p, n, 0.001)), rel=rel, floor=1e7 * rel)  # digits of d / T
    assert bool(D.grad.isfinite().all())
    # A constant added to a row changes no share; the nearest negatives, if no positive is nearer, have all of the push.
    assert D.grad.sum(1).abs().max() < 1e-3 * D.grad.abs().max()
    for d, g, p, n in zip(D.detach(), D.grad, positive, negative, strict=True):
        if p.any() and n.any() and d[n].min() < d[p].min() - 1:
            assert g[n].sum() < -900


def test_the_largest_share_is_spread_without_rounding_to_infinity():
    D = torch.tensor([[1.0, 0.0, 2.0]], dtype=torch.float64, requires_grad=True)
    positive = torch.tensor([[True, False, False]])
    terms = instance_spreading(D, positive, ~positive, temperature=0.01)
    close(terms.total.item(), spreading_terms([1.0], [0.0, 2.0], 0.01)[0])
    terms.total.sum().backward()
    torch.testing.assert_close(D.grad, torch.tensor([[200.0, -200.0, 0.0]], dtype=torch.float64))


def test_log1pexp_has_all_digits():
    x = torch.tensor([-800.0, -40.0, -1.0, 0.0, 19.0, 21.0, 39.0, 41.0, 1e5], dtype=torch.float64)
    for value, v in zip(log1pexp(x).tolist(), x.tolist(), strict=True):
        close(value, log(1 + exp(v)), rel=4e-16, floor=0 if v > -700 else 1e-300)


@pytest.mark.parametrize("f", [*SOFTMAX, multi_similarity, precision_at_k, fast_ap])
@pytest.mark.parametrize("kind", ["batch", "ref", "bare", "mined"])
def test_gradient_is_that_of_finite_differences(f, kind):
    D, positive, negative = case(kind)
    D.requires_grad_()
    options = {"upper": 1.37} if f is fast_ap else {}
    assert torch.autograd.gradcheck(lambda d: f(d, positive, negative, **options).total, (D,))


@pytest.mark.parametrize("f", [*SOFTMAX, multi_similarity])
def test_second_derivatives_are_those_of_finite_differences(f):
    D, positive, negative = case("bare")
    assert torch.autograd.gradgradcheck(lambda d: f(d, positive, negative).total, (D.requires_grad_(),))


def test_masked_logsumexp_of_an_empty_row_is_constant():
    D = case("batch")[0].requires_grad_()
    mask = D.detach() > 0.5
    mask[2] = False
    value = masked_logsumexp(D, mask)
    value.sum().backward()
    assert value[2] == torch.finfo(torch.float64).min
    assert not bool(D.grad[~mask].any())
    kept = torch.tensor([0, 1, 3, 4, 5, 6])
    torch.testing.assert_close(value[kept], D.masked_fill(~mask, -math.inf).logsumexp(1)[kept])


def test_circle_holds_its_weights_constant():
    S, positive, negative = case("ref")
    S.requires_grad_()
    circle(S, positive, negative).total.sum().backward()
    fixed = S.detach()
    T = fixed.clone().requires_grad_()
    pull = (-80 * (1.4 - fixed).relu() * (T - 0.6)).exp()
    push = (80 * (fixed + 0.4).relu() * (T - 0.4)).exp()
    total = (1 + (pull * positive).sum(1) * (push * negative).sum(1)).log()
    total[positive.any(1) & negative.any(1)].sum().backward()
    torch.testing.assert_close(S.grad, T.grad, rtol=1e-11, atol=1e-11)


# ------------------------------------------------------------------------------------------------------- ranking losses


def fast_ap_loops(D, positive, negative, bins, low, high):
    width = (high - low) / bins
    values = []
    for row, near, far in zip(D.tolist(), positive.tolist(), negative.tolist(), strict=True):
        h, a = [0.0] * (bins + 1), [0.0] * (bins + 1)
        for d, p, n in zip(row, near, far, strict=True):
            for z in range(bins + 1):
                pulse = max(0.0, 1 - abs(d - low - z * width) / width)
                h[z] += pulse * p
                a[z] += pulse * (p or n)
        ap = sum(h[z] * sum(h[: z + 1]) / sum(a[: z + 1]) for z in range(bins + 1) if h[z] > 0)
        values.append(1 - ap / sum(near) if any(near) else 0.0)
    return values


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("bins", [1, 10, 27])
@pytest.mark.parametrize("upper", [None, 1.0, 4.0])
def test_fast_ap_is_that_of_the_loops(kind, bins, upper):
    D, positive, negative = case(kind)
    terms = fast_ap(D, positive, negative, bins=bins, upper=upper)
    want = fast_ap_loops(D, positive, negative, bins, 0.0, upper or D.max().item())
    assert terms.total.tolist() == pytest.approx(want, rel=1e-12, abs=1e-13)
    assert terms.count.tolist() == positive.any(1).tolist()


def test_fast_ap_has_room_for_negative_distances():
    D, positive, negative = case("ref")
    D = D - 0.7
    terms = fast_ap(D, positive, negative)
    want = fast_ap_loops(D, positive, negative, 10, D.min().item(), D.max().item())
    assert terms.total.tolist() == pytest.approx(want, rel=1e-12, abs=1e-13)


def test_fast_ap_of_distances_on_the_bin_centres_is_the_average_precision():
    D, positive, negative = case("ref")
    D = D.argsort(1).double()  # 0 ... 8 in some order
    precise = []
    for d, p in zip(D, positive, strict=True):
        hits = p[d.argsort()].double()
        precise.append(((hits.cumsum(0) / torch.arange(1, 10)) * hits).sum() / hits.sum())
    torch.testing.assert_close(1 - fast_ap(D, positive, negative, bins=8).total, torch.stack(precise))


def test_fast_ap_of_coincident_items_is_finite():
    D = torch.zeros(4, 4, dtype=torch.float64, requires_grad=True)
    terms = fast_ap(D, *pair_masks(torch.tensor([0, 0, 1, 1])))
    assert terms.total.tolist() == pytest.approx([2 / 3] * 4)
    terms.total.sum().backward()
    assert bool(D.grad.isfinite().all())


def hinge(p, n, k, margin):
    """Largest margin * negatives - distances over all sets of k, plus the k nearest positives."""
    k = min(k or len(p), len(p))
    items = [(d, 0) for d in p] + [(d, margin) for d in n]
    best = max((sum(m - d for d, m in chosen) for chosen in itertools.combinations(items, k)), default=0.0)
    return best + sum(sorted(p)[:k])


@pytest.mark.parametrize("kind", CASES)
@pytest.mark.parametrize("k", [None, 1, 2, 5])
@pytest.mark.parametrize("margin", [0.0, 0.1, 1.0])
def test_precision_at_k_is_the_structured_hinge_over_all_sets(kind, k, margin):
    D, positive, negative = case(kind)
    terms = precision_at_k(D, positive, negative, k=k, margin=margin)
    rows = list(rows_of(D, positive, negative))
    assert terms.total.tolist() == pytest.approx([hinge(p, n, k, margin) for p, n in rows], rel=1e-12, abs=1e-12)
    places = [min(k or len(p), len(p)) for p, _ in rows]
    assert terms.count.tolist() == places


def test_precision_at_k_bounds_the_precision():
    D, positive, negative = case("ref")
    k = 2
    misses = [1 - p[d.argsort()[:k]].double().mean() for d, p in zip(D, positive, strict=True)]
    assert reduced(precision_at_k(D, positive, negative, k=k, margin=1.0), "mean") >= sum(misses) / len(misses)
    assert reduced(precision_at_k(D, positive, negative, k=k, margin=0.3), "mean") >= 0.3 * sum(misses) / len(misses)


# -------------------------------------------------------------------------------------------------- manifold similarity


def test_walk_is_the_sum_over_all_its_lengths():
    D = torch.rand(6, 6, generator=generator(), dtype=torch.float64)  # asymmetric
    S = np.exp(-(D + D.T).numpy() / 0.6)
    np.fill_diagonal(S, 0)
    root = 1 / np.sqrt(S.sum(1))
    W = root[:, None] * S * root
    want, power = np.zeros((6, 6)), np.eye(6)
    for _ in range(400):
        want, power = want + 0.3 * power, 0.7 * power @ W
    np.testing.assert_allclose(walk(D, scale=0.3, alpha=0.7).numpy(), want, rtol=1e-11)


def test_walk_under_cosine_is_that_of_the_paper():
    x = torch.rand(8, 5, generator=generator(), dtype=torch.float64)  # cosines of at least 0, which the paper clamps
    u = torch.nn.functional.normalize(x)
    S = (u @ u.T / 0.5).exp().fill_diagonal_(0)
    root = S.sum(1).rsqrt()
    want = 0.2 * torch.linalg.inv(torch.eye(8) - 0.8 * root.unsqueeze(1) * S * root)
    torch.testing.assert_close(walk(Cosine().pairwise(x)), want, rtol=1e-11, atol=1e-13)


@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_manifold_similarity_is_that_of_the_loops(scale):
    D, positive, negative = case("batch", scale=scale)
    positive[0], negative[1] = False, False
    F = walk(D).tolist()
    terms = manifold_similarity(D, positive, negative, margin=0.01)
    for i, (p, n) in enumerate(zip(positive, negative, strict=True)):
        near, far = p.nonzero().flatten().tolist(), n.nonzero().flatten().tolist()
        if not (near and far):
            assert (terms.total[i], terms.count[i]) == (0, 0)
            continue
        own = min(F[i][j] for j in near)
        want = math.log(1 + sum(math.exp(max(0.0, F[i][j] - own + 0.01)) for j in far))
        assert terms.total[i].item() == pytest.approx(want, rel=1e-12)


def test_manifold_similarity_has_the_gradient_of_finite_differences():
    D, positive, negative = case("batch")
    assert torch.autograd.gradcheck(lambda d: manifold_similarity(d, positive, negative).total, (D.requires_grad_(),))


def test_walk_reaches_neighbours_at_any_scale():
    """At distances of 1e4, where every e^{-d / scale} is 0, each item still has steps to its nearest neighbour."""
    D = torch.tensor([[0.0, 1e4, 3e4], [1e4, 0.0, 2e4], [3e4, 2e4, 0.0]])
    F = walk(D)
    assert F[0, 1] > 0.4
    assert bool(F.isfinite().all())
    assert walk(torch.zeros(1, 1)).item() == pytest.approx(0.2)  # one item stays where it is


# ---------------------------------------------------------------------------------------------- pytorch-metric-learning

PAIRS = {
    "NCA": (pml.NCALoss(distance=LpDistance()), NCA(Euclidean())),
    "NCA squared": (pml.NCALoss(softmax_scale=3), NCA(Power(Euclidean(), 2), temperature=1 / 3)),
    "NCA cosine": (pml.NCALoss(), NCA(Cosine(), temperature=0.5)),
    "NTXent": (pml.NTXentLoss(), NTXent(Cosine())),
    "NTXent L2": (pml.NTXentLoss(0.2, distance=LpDistance()), NTXent(Euclidean(), temperature=0.2)),
    "SupCon": (pml.SupConLoss(), SupCon(Cosine())),
    "SupCon L2": (pml.SupConLoss(1.0, distance=LpDistance()), SupCon(Euclidean(), temperature=1.0)),
    "MultiSimilarity": (pml.MultiSimilarityLoss(), MultiSimilarity(Cosine())),
    "MultiSimilarity L2": (
        pml.MultiSimilarityLoss(3, 40, 0.7, distance=LpDistance()),
        MultiSimilarity(Euclidean(), alpha=3, beta=40, base=0.7),
    ),
    "MultiSimilarity base": (pml.MultiSimilarityLoss(base=0.8), MultiSimilarity(Cosine(), base=1 - 0.8)),
    "Circle": (pml.CircleLoss(), Circle(Cosine())),
    "Circle faces": (pml.CircleLoss(m=0.25, gamma=256), Circle(Cosine(), margin=0.25, gamma=256)),
    "FastAP": (pml.FastAPLoss(), FastAP(Cosine())),
    "FastAP squared": (pml.FastAPLoss(num_bins=17), FastAP(Power(Euclidean(), 2), bins=17, upper=4.0)),
    "FastAP L2": (pml.FastAPLoss(distance=LpDistance()), FastAP(Euclidean(), upper=2.0)),
}


@pytest.mark.parametrize("name", PAIRS)
@pytest.mark.parametrize("with_ref", [False, True])
def test_value_and_gradient_are_those_of_pytorch_metric_learning(name, with_ref):
    theirs, ours = PAIRS[name]
    if with_ref and name.startswith("FastAP"):
        pytest.skip("its FastAP takes no reference")
    results = []
    for loss in (theirs, ours):
        x = torch.randn(20, 6, generator=generator(), dtype=torch.float64)
        x = torch.nn.functional.normalize(x).requires_grad_()  # Euclidean does not normalise by itself
        labels = torch.arange(20) % 6  # classes of 4 and of 3
        if loss is theirs and with_ref:
            value = loss(x[:8], labels[:8], ref_emb=x[8:], ref_labels=labels[8:])
        elif with_ref:
            value = loss(x[:8], labels[:8], x[8:], labels[8:])
        else:
            value = loss(x, labels)
        value.backward()
        along = (x.grad * x.detach()).sum(1, keepdim=True)
        tangent = x.grad - along * x.detach()  # what moves the direction of x: theirs normalises, ours need not
        results.append((value.detach(), tangent))
    torch.testing.assert_close(results[0][0], results[1][0], rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(results[0][1], results[1][1], rtol=1e-10, atol=1e-12)


def test_miner_output_of_pytorch_metric_learning_is_a_mask():
    """Their pairs of indices and our masks thin the same terms; anchors that lose every pair are the difference."""
    x = torch.randn(12, 4, generator=generator(), dtype=torch.float64)
    labels = torch.arange(12) % 3
    positive, negative = pair_masks(labels)
    keep = torch.rand(12, 12, generator=generator(1)) < 0.7
    positive, negative = positive & keep, negative & keep
    indices = (*positive.nonzero(as_tuple=True), *negative.nonzero(as_tuple=True))
    for theirs, ours in (
        (pml.NTXentLoss(), NTXent(Cosine())),
        (pml.SupConLoss(), SupCon(Cosine(), reduction="mean_nonzero")),
        (pml.CircleLoss(), Circle(Cosine())),
    ):
        torch.testing.assert_close(
            ours(x, labels, mask=(positive, negative)), theirs(x, labels, indices), rtol=1e-12, atol=0
        )


def test_their_cosine_is_one_minus_ours():
    x = torch.randn(9, 4, generator=generator(), dtype=torch.float64)
    torch.testing.assert_close(affinity_for(Cosine())(Cosine().pairwise(x)), CosineSimilarity()(x), rtol=0, atol=1e-15)


# -------------------------------------------------------------------------------------------------------------- modules

MODULES = {
    "NCA": NCA,
    "NTXent": NTXent,
    "SupCon": SupCon,
    "InstanceSpreading": InstanceSpreading,
    "MultiSimilarity": MultiSimilarity,
    "Circle": lambda distance, **kw: Circle(distance, affinity=ExpNeg(), **kw),
    "FastAP": FastAP,
    "PrecisionAtK": PrecisionAtK,
    "ManifoldSimilarity": ManifoldSimilarity,
}


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("distance", [Euclidean(), Geodesic(PoincareBall()), NegativeInner()])
def test_training_brings_classes_together(name, distance):
    if name == "ManifoldSimilarity" and isinstance(distance, NegativeInner):
        pytest.skip("a walk over inner products that grow without bound has no shape")
    labels = torch.arange(24) % 4
    x = 0.2 * torch.randn(24, 4, generator=generator()) + 0.3 * torch.eye(4)[labels]
    x.requires_grad_()
    loss = MODULES[name](distance)
    optimiser = torch.optim.Adam([x], lr=0.02)

    def share():  # of the five nearest others of each item that have its label, as five do
        D = distance.pairwise(x.detach()).fill_diagonal_(math.inf)
        return (labels[D.topk(5, largest=False).indices] == labels.unsqueeze(1)).double().mean()

    assert share() < 0.3
    for _ in range(60):
        optimiser.zero_grad()
        loss(x, labels).backward()
        optimiser.step()
        if not isinstance(distance, Euclidean):  # both wander off to infinity otherwise
            with torch.no_grad():
                x.mul_((0.9 / x.norm(dim=1, keepdim=True)).clamp(max=1))
    assert share() > 0.9


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_items(name, dtype):
    x = torch.randn(12, 4, generator=generator()).to(dtype).requires_grad_()
    labels = torch.arange(12) % 3
    loss = MODULES[name](Euclidean())
    value = loss(x, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert x.grad.dtype == dtype
    assert x.grad.abs().sum() > 0
    exact = loss(None, labels, dist=Euclidean().pairwise(x.detach().double()))
    assert value.item() == pytest.approx(exact.item(), rel=0.05)


@pytest.mark.parametrize("name", MODULES)
@pytest.mark.parametrize(
    "labels", [torch.zeros(5, dtype=torch.int64), torch.arange(5), torch.zeros(1, dtype=torch.int64)]
)
def test_batches_without_pairs_give_no_nan(name, labels, recwarn):
    x = torch.randn(len(labels), 3, generator=generator(), dtype=torch.float64).requires_grad_()
    loss = MODULES[name](Euclidean())
    value = loss(x, labels)
    value.backward()
    assert bool(value.isfinite())
    assert bool(x.grad.isfinite().all())
    needs_both = name in ("Circle", "ManifoldSimilarity")
    terms = (
        len(labels) if len(labels) > 1 and (name == "MultiSimilarity" or (labels[-1] == 0 and not needs_both)) else 0
    )
    assert loss.skipped == len(labels) - terms
    assert [w.category for w in recwarn] == ([] if terms else [DataWarning])
    if not terms:
        assert value == 0
        assert x.grad.abs().sum() == 0


@pytest.mark.parametrize("name", MODULES)
def test_coincident_items_have_finite_gradients(name):
    x = torch.ones(6, 3, dtype=torch.float64, requires_grad=True)
    MODULES[name](Euclidean())(x, torch.arange(6) % 2).backward()
    assert bool(x.grad.isfinite().all())


@pytest.mark.parametrize("name", [n for n in MODULES if n != "ManifoldSimilarity"])
def test_an_item_is_no_pair_of_its_copy_in_a_memory(name):
    x = torch.randn(9, 3, generator=generator(), dtype=torch.float64)
    labels, ids = torch.arange(9) % 3, torch.arange(9)
    loss = MODULES[name](Euclidean())
    torch.testing.assert_close(loss(x, labels, x, labels, ids=ids, ref_ids=ids), loss(x, labels), rtol=1e-12, atol=0)


def test_a_unit_scales_what_is_given_in_units_and_no_bound():
    x = torch.randn(12, 4, generator=generator(), dtype=torch.float64)
    labels = torch.arange(12) % 3
    for make in (Circle, FastAP):
        torch.testing.assert_close(make(Cosine(), unit=0.3)(x, labels), make(Cosine())(x, labels))
    for short, long in ((ExpNeg(1.0), ExpNeg(3.0)), (Heat(0.25), Heat(2.25))):
        one = Circle(Euclidean(), affinity=short, unit=3.0)(x, labels)
        torch.testing.assert_close(one, Circle(Euclidean(), affinity=long)(x, labels))
    torch.testing.assert_close(
        FastAP(Euclidean(), upper=2.0, unit=3.0)(x, labels), FastAP(Euclidean(), upper=6.0)(x, labels)
    )
    assert PrecisionAtK(Euclidean(), margin="auto").unit.isnan()


def test_instance_spreading_with_items_as_references_attracts_as_the_paper_does():
    x, views = torch.randn(2, 5, 3, generator=generator(), dtype=torch.float64)
    ids = torch.arange(5)
    D = Euclidean().pairwise(views, x)
    got = instance_spreading(D, *pair_masks(ids, ids), temperature=0.5)
    P = (-D / 0.5).softmax(1)  # P[i, k]: the view of i taken for k
    want = -P.diagonal().log() - sum((1 - P[:, k]).log() * (ids != k) for k in range(5))
    torch.testing.assert_close(got.total, want)


# ----------------------------------------------------------------------------------------------------------- affinities


def test_affinities():
    d = torch.tensor([0.0, 0.5, 2.0], dtype=torch.float64)
    torch.testing.assert_close(OneMinus(4.0)(d), torch.tensor([1.0, 0.75, 0.0], dtype=torch.float64))
    torch.testing.assert_close(OneMinus(4.0)(d / 5, 5.0), OneMinus(4.0)(d))
    torch.testing.assert_close(ExpNeg(2.0)(d), (-d / 2).exp())
    torch.testing.assert_close(Heat(2.0)(d), (-d * d / 8).exp())
    assert affinity_for(Euclidean(), Heat()).t == 0.25
    assert repr(affinity_for(Cosine())) == "OneMinus(bound=2)"
    with pytest.raises(DomainError, match=r"Euclidean\(\) has no upper bound.*ExpNeg.*Heat.*OneMinus"):
        affinity_for(Euclidean())
    with pytest.raises(DomainError, match="ExpNeg"):
        Circle(Euclidean())


@pytest.mark.parametrize("make", [OneMinus, ExpNeg, Heat])
@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_affinities_refuse_scales_that_are_none(make, value):
    with pytest.raises(DomainError, match=make.__name__):
        make(value)


@pytest.mark.parametrize(
    "make",
    [
        lambda: NCA(Euclidean(), temperature=0),
        lambda: NTXent(Cosine(), temperature=-1),
        lambda: SupCon(Cosine(), temperature=math.nan),
        lambda: MultiSimilarity(Cosine(), alpha=0),
        lambda: MultiSimilarity(Cosine(), beta=-2),
        lambda: Circle(Cosine(), gamma=0),
        lambda: FastAP(Cosine(), bins=0),
        lambda: FastAP(Cosine(), upper=0.0),
        lambda: PrecisionAtK(Cosine(), k=0),
        lambda: PrecisionAtK(Cosine(), margin=math.nan),
        lambda: ManifoldSimilarity(Cosine(), scale=0),
        lambda: ManifoldSimilarity(Cosine(), alpha=1.0),
    ],
)
def test_hyperparameters_without_meaning_are_refused(make):
    with pytest.raises(DomainError):
        make()


def test_a_walk_takes_no_reference():
    x = torch.randn(4, 2, generator=generator())
    labels = torch.tensor([0, 0, 1, 1])
    with pytest.raises(ShapeError, match="takes no ref"):
        ManifoldSimilarity(Euclidean())(x, labels, x, labels)


def test_representations_name_the_hyperparameters():
    assert "temperature=0.07, unit=1" in repr(NTXent(Cosine()))
    assert "alpha=2, beta=50, base=0.5" in repr(MultiSimilarity(Cosine()))
    assert "margin=0.4, gamma=80" in repr(Circle(Cosine()))
    assert "bins=10, upper=None" in repr(FastAP(Cosine()))
    assert "k=3, margin=0.1" in repr(PrecisionAtK(Cosine(), k=3))
    assert "scale=0.5, alpha=0.8, margin=0.0005" in repr(ManifoldSimilarity(Cosine()))
