"""Losses of pairs, triplets and relations: against loops over pairs and triplets, and pytorch-metric-learning."""

import itertools
import math

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from geoembed.distances import Cosine, Euclidean
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.losses.lifted import GeneralisedLifted, Lifted, generalised_lifted, lifted
from geoembed.losses.pairs import (
    BinomialDeviance,
    Contrastive,
    Margin,
    RankedList,
    binomial_deviance,
    contrastive,
    margin_pairs,
    ranked_list,
)
from geoembed.losses.relations import (
    EdgeContrast,
    LogRatio,
    cross_partition_weights,
    edge_contrast,
    log_ratio,
)
from geoembed.losses.terms import Terms, pair_masks
from geoembed.losses.triplets import (
    HardTriplet,
    NPair,
    OddOneOut,
    SemiHardTriplet,
    SoftMarginTriplet,
    Triplet,
    hard_triplet,
    n_pair,
    odd_one_out,
    semi_hard_triplet,
    soft_margin_triplet,
    triplet,
)

# --------------------------------------------------------- the formulas: for each anchor i, the list of its terms
# d: list of lists of scalars; P[i], N[i]: the columns of the positives and negatives of i.


def soft(x):
    return torch.logaddexp(x, torch.zeros_like(x))


def contrastive_oracle(d, P, N, positive_margin=0.0, margin=1.0):
    near = [[(row[p] - positive_margin).relu() for p in P[i]] for i, row in enumerate(d)]
    far = [[(margin - row[n]).relu() for n in N[i]] for i, row in enumerate(d)]
    return near, far


def binomial_oracle(d, P, N, alpha=2.0, beta=0.5, cost=25.0):
    near = [[soft(alpha * (row[p] - beta)) for p in P[i]] for i, row in enumerate(d)]
    far = [[soft(-alpha * cost * (row[n] - beta)) for n in N[i]] for i, row in enumerate(d)]
    return near, far


def margin_oracle(d, P, N, beta=1.2, margin=0.2):
    return [
        [
            term
            for p, n in itertools.product(P[i], N[i])
            for term in ((row[p] - beta + margin).relu(), (beta - row[n] + margin).relu())
        ]
        for i, row in enumerate(d)
    ]


def ranked_oracle(d, P, N, alpha=1.2, margin=0.4, temperature=10.0, balance=0.5, slack=0.0):
    rows = []
    for i, row in enumerate(d):
        pulls = [row[p] - (alpha - margin) for p in P[i] if row[p] > alpha - margin]
        pushes = [alpha - row[n] for n in N[i] if row[n] < alpha]
        weights = [torch.exp(temperature * x) for x in pushes]
        pull = sum(pulls) / (len(pulls) + slack) if pulls else row[0] * 0
        push = sum(w * x for w, x in zip(weights, pushes, strict=True)) / (sum(weights) + slack) if pushes else 0.0
        rows.append([(1 - balance) * pull + balance * push] if P[i] or N[i] else [])
    return rows


def triplet_oracle(d, P, N, margin=0.2):
    return [[(row[p] - row[n] + margin).relu() for p, n in itertools.product(P[i], N[i])] for i, row in enumerate(d)]


def hard_oracle(d, P, N, margin=0.2):
    return [
        [
            (torch.stack([row[p] for p in P[i]]).amax() - torch.stack([row[n] for n in N[i]]).amin() + margin).relu()
        ] * bool(P[i] and N[i]) if P[i] and N[i] else []
        for i, row in enumerate(d)
    ]  # fmt: skip


def semi_hard_oracle(d, P, N, margin=0.2):
    rows = []
    for i, row in enumerate(d):
        terms = []
        for p in P[i] if N[i] else ():
            farther = [n for n in N[i] if row[n] > row[p]]
            n = min(farther, key=lambda n: row[n].item()) if farther else max(N[i], key=lambda n: row[n].item())
            terms.append((row[p] - row[n] + margin).relu())
        rows.append(terms)
    return rows


def soft_margin_oracle(d, P, N):
    return [[soft(row[p] - row[n]) for p, n in itertools.product(P[i], N[i])] for i, row in enumerate(d)]


def n_pair_oracle(d, P, N):
    return [
        [soft(torch.stack([row[p] - row[n] for n in N[i]]).logsumexp(0)) for p in P[i] if N[i]]
        for i, row in enumerate(d)
    ]


def odd_oracle(d, P, N, margin=0.2):
    rows = [[] for _ in d]
    for i, j in [(i, j) for i, columns in enumerate(P) for j in columns]:
        rows[i] += [(d[i][j] - d[i][n] + margin).relu() for n in N[i]]
        rows[j] += [(d[i][j] - d[j][n] + margin).relu() for n in N[j]]
    return rows


def lifted_oracle(d, P, N, margin=1.0):
    rows = []
    for i, row in enumerate(d):
        terms = []
        for j in P[i]:
            pushes = [margin - row[n] for n in N[i]] + [margin - d[j][n] for n in N[j]]
            if pushes:
                terms.append((torch.stack(pushes).logsumexp(0) + row[j]).relu() ** 2 / 2)
        rows.append(terms)
    return rows


def generalised_oracle(d, P, N, margin=1.0):
    rows = []
    for i, row in enumerate(d):
        if P[i] and N[i]:
            pull = torch.stack([row[p] for p in P[i]]).logsumexp(0)
            push = torch.stack([margin - row[n] for n in N[i]]).logsumexp(0)
            rows.append([(pull + push).relu()])
        else:
            rows.append([])
    return rows


FUNCTIONS = {
    "contrastive": (contrastive, contrastive_oracle, [{}, {"positive_margin": 0.25, "margin": 1.5}]),
    "binomial": (binomial_deviance, binomial_oracle, [{}, {"alpha": 5.0, "beta": 1.0, "cost": 1.0}]),
    "margin": (margin_pairs, margin_oracle, [{}, {"beta": 0.75, "margin": 0.25}]),
    "ranked list": (ranked_list, ranked_oracle, [{}, {"alpha": 1.0, "margin": 0.25, "temperature": 0, "balance": 0.3}]),
    "triplet": (triplet, triplet_oracle, [{}, {"margin": 0.25}, {"margin": -0.25}, {"margin": 3.0}]),
    "hard": (hard_triplet, hard_oracle, [{}, {"margin": 1.5}]),
    "semi-hard": (semi_hard_triplet, semi_hard_oracle, [{}, {"margin": 1.5}]),
    "soft margin": (soft_margin_triplet, soft_margin_oracle, [{}]),
    "n-pair": (n_pair, n_pair_oracle, [{}]),
    "odd one out": (odd_one_out, odd_oracle, [{}, {"margin": 1.0}]),
    "lifted": (lifted, lifted_oracle, [{}, {"margin": 0.3}]),
    "generalised lifted": (generalised_lifted, generalised_oracle, [{}, {"margin": -1.0}]),
}  # fmt: skip
SQUARE = ("odd one out", "lifted")
CASES = [(name, options) for name, (_, _, many) in FUNCTIONS.items() for options in many]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)
every_function = pytest.mark.parametrize("name", FUNCTIONS)


def matrix(n, m, seed=0, scale=1.5):
    return scale * torch.rand(n, m, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def thin(n, m, seed=0):
    """Masks of a miner: at random, with empty rows of either kind and of both."""
    kind = torch.randint(4, (n, m), generator=torch.Generator().manual_seed(seed))
    positive, negative = kind == 0, kind == 1
    positive[0], negative[1] = False, False
    positive[2], negative[2] = False, False
    return (positive & ~negative.mT, negative) if n == m else (positive, negative)


LABELS = torch.tensor([3, 1, 0, 1, 3, 3, 2, 1, 3])  # 0 and 2 have one item
PROBLEMS = {
    "labels": lambda: (matrix(9, 9), *pair_masks(LABELS)),
    "another set": lambda: (matrix(5, 9, 1), *pair_masks(torch.tensor([3, 1, 7, 0, 1]), LABELS)),
    "more rows than columns": lambda: (matrix(9, 4, 2), *pair_masks(LABELS, torch.tensor([3, 1, 1, 0]))),
    "a miner's masks": lambda: (matrix(8, 8, 3), *thin(8, 8)),
    "one label": lambda: (matrix(4, 4, 4), *pair_masks(torch.zeros(4, dtype=torch.long))),
    "all singletons": lambda: (matrix(4, 4, 5), *pair_masks(torch.arange(4))),
    "far apart": lambda: (matrix(9, 9, 6, scale=3000.0), *pair_masks(LABELS)),
    "ties": lambda: ((matrix(9, 9, 7) * 8).round() / 8, *pair_masks(LABELS)),
    "all at zero": lambda: (torch.zeros(9, 9, dtype=torch.float64), *pair_masks(LABELS)),
}
every_problem = pytest.mark.parametrize("problem", PROBLEMS)


def as_tuple(found):
    return (found,) if isinstance(found, Terms) else found


def slow(oracle, D, positive, negative, options):
    d = [list(row.unbind()) for row in D.unbind()]
    found = oracle(d, [m.nonzero().flatten().tolist() for m in positive],
                   [m.nonzero().flatten().tolist() for m in negative], **options)  # fmt: skip
    parts = found if isinstance(found, tuple) else (found,)
    nothing = D.sum() * 0
    return tuple(
        Terms(
            torch.stack([sum(terms, nothing) for terms in rows]),
            torch.tensor([len(terms) for terms in rows]),
            torch.tensor([sum(bool(term > 0) for term in terms) for terms in rows]),
        )
        for rows in parts
    )


@every_case
@every_problem
def test_terms_against_the_loop(name, options, problem):
    function, oracle, _ = FUNCTIONS[name]
    D, positive, negative = PROBLEMS[problem]()
    if name in SQUARE and D.shape[0] != D.shape[1]:
        pytest.skip(f"{name} takes square matrices only")
    if name == "ranked list" and problem == "far apart":
        D = D / 1000  # e^{10 (alpha - d)} of the plain formula
    D.requires_grad_()
    ours, theirs = as_tuple(function(D, positive, negative, **options)), slow(oracle, D, positive, negative, options)
    assert len(ours) == len(theirs)
    weights = torch.linspace(1, 2, len(D), dtype=torch.float64)  # so that the gradient tells the anchors apart
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a.total, b.total, rtol=1e-12, atol=1e-12)
        assert a.count.tolist() == b.count.tolist()
        assert a.nonzero.tolist() == b.nonzero.tolist() or name in ("soft margin", "n-pair")  # underflow to zero
    weighted = [sum((part.total * weights).sum() for part in parts) for parts in (ours, theirs)]
    slopes = [torch.autograd.grad(value, D)[0] for value in weighted]
    if name == "semi-hard" and problem in ("ties", "all at zero"):  # either of two negatives may be the nearest
        slopes = [slope.sum(1) for slope in slopes]
    torch.testing.assert_close(*slopes, rtol=1e-12, atol=1e-12)


@every_function
def test_gradcheck(name):
    function = FUNCTIONS[name][0]
    positive, negative = pair_masks(torch.tensor([0, 1, 0, 1, 0, 2]))
    D = matrix(6, 6, 11).requires_grad_()
    assert torch.autograd.gradcheck(lambda D: [part.total for part in as_tuple(function(D, positive, negative))], D)


@every_function
@pytest.mark.parametrize("shape", [(0, 0), (0, 5), (5, 0)])
def test_no_rows_and_no_columns(name, shape):
    if name in SQUARE and shape[0] != shape[1]:
        return
    D = torch.zeros(shape, requires_grad=True)
    none = torch.zeros(shape, dtype=torch.bool)
    for part in as_tuple(FUNCTIONS[name][0](D, none, none)):
        assert part.total.shape == part.count.shape == part.nonzero.shape == (shape[0],)
        assert part.total.sum() == part.count.sum() == part.nonzero.sum() == 0


class Largest(TorchDispatchMode):
    """Remembers the most numbers any tensor held."""

    numbers = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, tuple | list) else (out,):
            if isinstance(tensor, torch.Tensor):
                self.numbers = max(self.numbers, tensor.numel())
        return out


@every_function
def test_no_tensor_is_larger_than_the_matrix(name):
    labels = torch.arange(64) % 4
    D = matrix(64, 64).requires_grad_()
    with Largest() as largest:
        parts = as_tuple(FUNCTIONS[name][0](D, *pair_masks(labels)))
        sum(part.total.sum() for part in parts).backward()
    assert largest.numbers <= 64 * 65


def test_soft_margin_and_n_pair_far_from_zero():
    D = torch.tensor([[0.0, 1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    positive, negative = torch.tensor([[False, True, False]]), torch.tensor([[False, False, True]])
    for function in (soft_margin_triplet, n_pair):
        (slope,) = torch.autograd.grad(function(D, positive, negative).total.sum(), D)
        assert function(D, positive, negative).total.item() == 1e4
        assert slope.tolist() == [[0, 1, -1]]


def test_soft_margin_refuses_a_second_derivative():
    D = matrix(9, 9).requires_grad_()
    value = soft_margin_triplet(D, *pair_masks(LABELS)).total.square().sum()
    (slope,) = torch.autograd.grad(value, D, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        slope.sum().backward()


# ------------------------------------------------------------------------------------ against pytorch-metric-learning


def pml(name, *args, **kwargs):
    from pytorch_metric_learning import distances, losses

    return getattr(losses, name)(*args, distance=distances.LpDistance(normalize_embeddings=False), **kwargs)


PEERS = {
    "contrastive": (lambda: Contrastive(Euclidean(), margin=3.0), lambda: pml("ContrastiveLoss", neg_margin=3.0)),
    "triplet": (lambda: Triplet(Euclidean(), margin=0.7), lambda: pml("TripletMarginLoss", margin=0.7)),
    "soft margin": (
        lambda: SoftMarginTriplet(Euclidean()),
        lambda: pml("TripletMarginLoss", margin=0.0, smooth_loss=True),
    ),
    "margin": (lambda: Margin(Euclidean(), beta=2.5), lambda: pml("MarginLoss", beta=2.5)),
    "margin by class": (
        lambda: Margin(Euclidean(), beta=2.5, num_classes=4),
        lambda: pml("MarginLoss", beta=2.5, num_classes=4),
    ),
    "margin, nu": (
        lambda: Margin(Euclidean(), beta=2.5, nu=0.3),
        lambda: pml("MarginLoss", beta=2.5, nu=0.3, learn_beta=True),
    ),
    "lifted": (lambda: Lifted(Euclidean()), lambda: pml("LiftedStructureLoss")),
    "generalised lifted": (lambda: GeneralisedLifted(Euclidean()), lambda: pml("GeneralizedLiftedStructureLoss")),
}
BALANCED = torch.arange(12) % 4


def items(n=12, d=3, seed=0, dtype=torch.float64):
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=dtype).requires_grad_()


def agree(ours, theirs, *leaves, tolerance=1e-12):
    torch.testing.assert_close(ours, theirs, rtol=tolerance, atol=tolerance)
    slopes = [torch.autograd.grad(value, leaves, retain_graph=True) for value in (ours, theirs)]
    torch.testing.assert_close(*slopes, rtol=tolerance, atol=tolerance)
    assert ours > 0.01  # a case that shows something


@pytest.mark.parametrize("name", PEERS)
def test_value_and_gradient_of_pml(name):
    ours, theirs = (make() for make in PEERS[name])
    x = items()
    agree(ours(x, BALANCED), theirs(x, BALANCED), x)


@pytest.mark.parametrize("name", [name for name in PEERS if name != "lifted"])
def test_value_and_gradient_of_pml_with_another_set(name):
    ours, theirs = (make() for make in PEERS[name])
    x, ref = items(), items(8, seed=1)
    labels = torch.arange(8) % 4
    agree(ours(x, BALANCED, ref, labels), theirs(x, BALANCED, ref_emb=ref, ref_labels=labels), x, ref)


@pytest.mark.parametrize("classes", [None, 4])
def test_the_boundary_learns_as_in_pml(classes):
    ours = Margin(Euclidean(), beta=2.5, num_classes=classes)
    theirs = pml("MarginLoss", beta=2.5, num_classes=classes, learn_beta=True)
    x = items()
    ours(x, BALANCED).backward()
    theirs(x, BALANCED).backward()
    torch.testing.assert_close(ours.beta.grad, theirs.beta.grad)
    assert ours.beta.grad.abs().max() > 0.01


def test_batch_hard_is_pmls_miner():
    from pytorch_metric_learning import distances, miners

    x = items()
    mined = miners.BatchHardMiner(distance=distances.LpDistance(normalize_embeddings=False))(x, BALANCED)
    theirs = pml("TripletMarginLoss", margin=0.7)(x, BALANCED, mined)
    agree(HardTriplet(Euclidean(), margin=0.7)(x, BALANCED), theirs, x)


def test_n_pair_is_pmls_with_one_pair_a_label():
    x = items(8)
    labels = torch.arange(4).repeat_interleave(2)
    agree(NPair(Euclidean())(x[::2], labels[::2], x[1::2], labels[1::2]), pml("NPairsLoss")(x, labels), x)


def test_ranked_list_is_pmls_but_for_what_it_adds_to_the_denominators():
    x = items()
    theirs = pml("RankedListLoss", margin=0.8, Tn=4.0, alpha=2.4, imbalance=0.4)(x, BALANCED)
    D, masks = Euclidean().pairwise(x), pair_masks(BALANCED)
    options = {"alpha": 2.4, "margin": 0.8, "temperature": 4.0, "balance": 0.4}
    (patched,) = slow(ranked_oracle, D, *masks, {**options, "slack": 1e-5 * len(x)})
    agree(patched.total.mean(), theirs, x)
    agree(RankedList(Euclidean(), **options)(x, BALANCED), theirs, x, tolerance=1e-3)


# ------------------------------------------------------------------------------------------------------- the modules

MODULES = {
    "contrastive": lambda d, **o: Contrastive(d, **o),
    "margin": lambda d, **o: Margin(d, **o),
    "ranked list": lambda d, **o: RankedList(d, **o),
    "triplet": lambda d, **o: Triplet(d, **o),
    "hard": lambda d, **o: HardTriplet(d, **o),
    "semi-hard": lambda d, **o: SemiHardTriplet(d, **o),
    "odd one out": lambda d, **o: OddOneOut(d, **o),
    "lifted": lambda d, **o: Lifted(d, **o),
    "generalised lifted": lambda d, **o: GeneralisedLifted(d, **o),
    "binomial": lambda d, **o: BinomialDeviance(d, **o),
    "soft margin": lambda d, **o: SoftMarginTriplet(d, **o),
    "n-pair": lambda d, **o: NPair(d, **o),
}
every_module = pytest.mark.parametrize("name", MODULES)
NO_MARGIN = ("binomial", "soft margin", "n-pair")


@every_module
def test_module_is_the_mean_of_its_function(name):
    x = items()
    terms = as_tuple(FUNCTIONS[name][0](Euclidean().pairwise(x), *pair_masks(LABELS.repeat(2)[:12])))
    mean = sum(part.total.sum() / part.count.sum() for part in terms)
    torch.testing.assert_close(MODULES[name](Euclidean(), reduction="mean")(x, LABELS.repeat(2)[:12]), mean)


@every_module
def test_measured_margins_do_not_care_for_the_scale(name):
    auto = {"unit": "auto"} if name in NO_MARGIN else {"margin": "auto"}
    x = items()
    small, large = (MODULES[name](Euclidean(), **auto)(s * x, BALANCED) for s in (1.0, 1000.0))
    torch.testing.assert_close(small, large)
    assert small > 0


@every_module
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(name, dtype):
    loss = MODULES[name](Euclidean())
    x = items(d=64, dtype=torch.float32).detach().to(dtype).requires_grad_()
    value = loss(x, BALANCED)
    value.backward()
    assert value.dtype == torch.float32
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()
    torch.testing.assert_close(value, loss(x.detach().float(), BALANCED), rtol=0.02, atol=0.02)


@every_module
def test_items_that_coincide_have_a_finite_gradient(name):
    x = items().detach()
    x[4:] = x[0]
    x.requires_grad_()
    MODULES[name](Euclidean())(x, BALANCED).backward()
    assert x.grad.isfinite().all()


@every_module
def test_nothing_to_learn_from_warns_and_keeps_the_graph(name):
    x = items(4)
    loss = MODULES[name](Euclidean(), reduction="mean")
    labels = torch.arange(4)
    if name in ("contrastive", "binomial", "ranked list"):  # negatives alone are terms
        labels, x = labels[:1], items(1)
    with pytest.warns(DataWarning, match=r"none of the \d anchors"):
        value = loss(x, labels)
    value.backward()
    assert value == 0
    assert x.grad.count_nonzero() == 0
    assert loss.skipped == len(x)


def test_anchors_without_terms_are_counted():
    loss = Triplet(Euclidean())
    loss(items(9), LABELS)
    assert loss.skipped == 2


def test_margin_by_class_refuses_labels_without_a_boundary():
    loss = Margin(Euclidean(), num_classes=3)
    with pytest.raises(DataError, match=r"0 \.\. 2 for num_classes=3, but 3 do not, the first is 3"):
        loss(items(), BALANCED)
    with pytest.raises(ShapeError, match="labels must be a vector of integers"):
        loss(items(), BALANCED.double())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Margin(Euclidean(), beta=-1.0), "beta must be positive"),
        (lambda: Margin(Euclidean(), nu=-1.0), "nu at least 0"),
        (lambda: Margin(Euclidean(), num_classes=0), "num_classes must be at least 1"),
        (lambda: RankedList(Euclidean(), balance=1.5), r"balance in \[0, 1\]"),
        (lambda: RankedList(Euclidean(), temperature=-1.0), "temperature must be at least 0"),
        (lambda: BinomialDeviance(Euclidean(), cost=0.0), "alpha and cost must be positive"),
        (lambda: Triplet(Euclidean(), margin="large"), "margin must be a finite number"),
        (lambda: Lifted(Euclidean(), margin=math.nan), "margin must be a finite number"),
        (lambda: EdgeContrast(Euclidean(), delta=0.0), "delta and margin must be positive"),
        (lambda: LogRatio(Euclidean(), eps=0.0), "eps must be positive"),
    ],
)
def test_numbers_out_of_range(make, message):
    with pytest.raises(DomainError, match=message):
        make()


def test_square_losses_take_no_other_set():
    for loss in (Lifted(Euclidean()), OddOneOut(Euclidean())):
        with pytest.raises(ShapeError, match="takes no ref"):
            loss(items(), BALANCED, items(), BALANCED)


def test_odd_one_out_of_judged_triplets():
    x = items(9)
    positive, negative = torch.zeros(2, 9, 9, dtype=torch.bool)
    expected = 0.0
    for a in (0, 3, 6):
        positive[a, a + 1] = negative[a, a + 2] = negative[a + 1, a + 2] = True
        near = (x[a] - x[a + 1]).norm()
        expected += (near - (x[a] - x[a + 2]).norm() + 0.5).relu() + (near - (x[a + 1] - x[a + 2]).norm() + 0.5).relu()
    loss = OddOneOut(Euclidean(), margin=0.5, reduction="sum")
    agree(loss(x, torch.arange(9), mask=(positive, negative)), expected, x)


def test_odd_one_out_of_labels_is_the_triplet_loss():
    x = items()
    agree(OddOneOut(Euclidean())(x, BALANCED), Triplet(Euclidean())(x, BALANCED), x)


def test_binomial_deviance_of_the_cosine_is_the_papers():
    x = items()
    s = torch.nn.functional.cosine_similarity(x.unsqueeze(1), x, dim=2)
    positive, negative = pair_masks(BALANCED)
    paper = torch.log1p(torch.exp(-2 * (s[positive] - 0.3))).mean()
    paper = paper + torch.log1p(torch.exp(-2 * (s[negative] - 0.3) * -10)).mean()
    agree(BinomialDeviance(Cosine(), alpha=2.0, beta=0.7, cost=10.0)(x, BALANCED), paper, x)


# --------------------------------------------------------------------------------------------------------- relations


def test_edge_contrast_against_the_formula():
    x, y = items(6), items(6, seed=1).detach() * 0.1
    same, weight = torch.tensor([1, 0, 1, 0, 0, 1]).bool(), torch.tensor([9.0, 1, 9, 2, 3, 9])
    terms = []
    for i in range(6):
        d = ((x[i] - y[i]) ** 2).sum().sqrt()
        pull = 0.3 * ((1 + d**2 / 0.3**2).sqrt() - 1)
        terms.append(pull if same[i] else weight[i] * (2.0 - d).relu())
    for reduction, expected in {"mean": sum(terms) / 6, "sum": sum(terms)}.items():
        agree(EdgeContrast(Euclidean(), margin=2.0, reduction=reduction)(x, y, same, weight), expected, x)
    plain = EdgeContrast(Euclidean(), margin=2.0, reduction="none")(x, y, same)
    torch.testing.assert_close(plain[same], torch.stack(terms)[same])


def test_edge_contrast_keeps_the_digits_of_close_pairs():
    d = torch.tensor([0.0, 1e-9], dtype=torch.float64, requires_grad=True)
    value = edge_contrast(d, torch.tensor([True, True]))
    torch.testing.assert_close(value, d.detach() ** 2 / 0.6, rtol=1e-12, atol=0.0)
    value.sum().backward()
    torch.testing.assert_close(d.grad, d.detach() / 0.3, rtol=1e-12, atol=0.0)


def test_edge_contrast_bad_input():
    loss, x, same = EdgeContrast(Euclidean()), items(3), torch.tensor([True, False, True])
    with pytest.raises(ShapeError, match=r"same bool \(E,\)"):
        loss(x, x, same[:2])
    with pytest.raises(ShapeError, match=r"same bool \(E,\)"):
        loss(x, x, same.long())
    with pytest.raises(ShapeError, match=r"weight must be \(3,\)"):
        loss(x, x, same, torch.ones(2))
    with pytest.raises(DomainError, match="weights must be at least 0"):
        loss(x, x, same, torch.tensor([1.0, -1.0, 1.0]))
    with pytest.raises(DomainError, match=r"1 of 3 distances are not finite, the first is nan at \(1,\)"):
        loss(x, torch.tensor([[0.0], [math.nan], [0.0]], dtype=torch.float64).expand(3, 3), same)
    with pytest.warns(DataWarning, match="no pairs"):
        assert loss(x[:0], x[:0], same[:0]) == 0
    with pytest.raises(UnknownNameError, match="reduction"):
        EdgeContrast(Euclidean(), reduction="avg")


def test_cross_partition_weights_against_the_loop():
    parts = torch.tensor([0, 0, 0, 1, 1, 4, 4, 4, 4])
    edges = list(itertools.combinations(range(9), 2))[::2]
    i, j = torch.tensor(edges).T
    between = [{parts[a].item(), parts[b].item()} for a, b in edges]
    for weight, ends in zip(cross_partition_weights(i, j, parts, mu=5.0), between, strict=True):
        size = min(int((parts == end).sum()) for end in ends)
        assert weight.item() == pytest.approx(5.0 * size / between.count(ends) if len(ends) == 2 else 1.0)
    torch.testing.assert_close(cross_partition_weights(j, i, parts), cross_partition_weights(i, j, parts))


def log_ratio_oracle(D, Y, valid, eps=1e-6):
    total, count = D.sum() * 0, 0
    for a in range(len(D)):
        for i, j in itertools.combinations(valid[a].nonzero().flatten().tolist(), 2):
            ratio = torch.log((D[a, i] + eps) / (D[a, j] + eps)) - torch.log((Y[a, i] + eps) / (Y[a, j] + eps))
            total, count = total + ratio**2, count + 1
    return total / max(count, 1)


def test_log_ratio_against_the_loop():
    x, y, ref, ref_y = items(6), items(6, 2, seed=1).detach(), items(4, seed=2), items(4, 2, seed=3).detach()
    loss = LogRatio(Euclidean(), Euclidean())
    D, Y, valid = Euclidean().pairwise(x), Euclidean().pairwise(y), ~torch.eye(6).bool()
    agree(loss(x, y), log_ratio_oracle(D, Y, valid), x)
    agree(LogRatio(Euclidean())(x, Y), loss(x, y), x)
    agree(LogRatio(Euclidean())(None, Y, dist=D), loss(x, y), x)
    thinner = valid & (torch.arange(36).view(6, 6) % 4 > 0)
    agree(loss(x, y, mask=thinner), log_ratio_oracle(D, Y, thinner), x)
    D, Y = Euclidean().pairwise(x, ref), Euclidean().pairwise(y, ref_y)
    agree(loss(x, y, ref, ref_y), log_ratio_oracle(D, Y, torch.ones(6, 4).bool()), x, ref)


def test_log_ratio_of_distances_in_proportion_is_zero():
    x = items(8).detach()
    assert LogRatio(Euclidean(), Euclidean())(x, 5 * x) < 1e-10


def test_log_ratio_keeps_its_digits_at_any_scale():
    D, Y, valid = matrix(7, 7), matrix(7, 7, 1), ~torch.eye(7).bool()
    plain, far = (log_ratio(D * s, Y, valid, eps=1e-300).total for s in (1.0, 1e150))
    torch.testing.assert_close(plain, far, rtol=1e-11, atol=0.0)


def test_log_ratio_gradcheck_and_coinciding_items():
    valid = ~torch.eye(5).bool()
    D = (matrix(5, 5) + 0.1).requires_grad_()
    assert torch.autograd.gradcheck(lambda D: log_ratio(D, matrix(5, 5, 1), valid).total, D)
    x = items(5).detach()
    x[1] = x[0]
    x.requires_grad_()
    LogRatio(Euclidean(), Euclidean())(x, items(5, 1, seed=1).detach()).backward()
    assert x.grad.isfinite().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_relations_in_half_precision(dtype):
    x = items(12, 64, dtype=torch.float32).detach().to(dtype).requires_grad_()
    y = items(12, 2, seed=1, dtype=torch.float32).detach()
    value = LogRatio(Euclidean(), Euclidean())(x, y)
    value = value + EdgeContrast(Euclidean())(x[1:], x[:-1], torch.arange(11) < 2)
    value.backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


def test_log_ratio_bad_input():
    loss, x = LogRatio(Euclidean(), Euclidean()), items(4).detach()
    with pytest.raises(ShapeError, match="items x or a matrix dist"):
        loss(None, x)
    with pytest.raises(ShapeError, match=r"must be \(4, 4\) like those of the items, got \(3, 3\)"):
        loss(x, x[:3])
    with pytest.raises(ShapeError, match="mask must be bool"):
        loss(x, x, mask=torch.ones(4, 4))
    with pytest.raises(DomainError, match="not finite and at least 0, the first is -"):
        loss(None, x, dist=-matrix(4, 4))
    with pytest.raises(DomainError, match="under the matrix of the labels"):
        LogRatio(Euclidean())(x, -matrix(4, 4))
    with pytest.warns(DataWarning, match="none of the 2 anchors"):
        assert loss(x[:2], x[:2]) == 0
    with pytest.raises(UnknownNameError, match="reduction"):
        LogRatio(Euclidean(), reduction="avg")
