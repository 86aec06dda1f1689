"""What every graph model must satisfy, against its paper's formula, one triple at a time at 50 digits.

The hyperbolic formulas are written with Mobius addition in the ball, the library computes on the hyperboloid.
"""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass

import mpmath
import pytest
import torch
import torch.nn.functional as F
from mpmath import mpc, mpf
from torch import nn
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode

from distance_contract import Case, DistanceContract
from geoembed.errors import DomainError
from geoembed.manifolds import Euclidean, Lorentz, PoincareBall, Product
from geoembed.models import (
    MODELS,
    PENALTIES,
    RESCAL,
    AttE,
    AttH,
    BothDirections,
    ComplEx,
    DistMult,
    HyboNet,
    MuRE,
    MuRP,
    MuRPFull,
    RefE,
    RefH,
    RotatE,
    RotE,
    RotH,
    TransE,
    TuckER,
)
from geoembed.models.rotation import SumOfModuli

F64 = torch.float64
N_ENTITIES, N_RELATIONS, DIM = 9, 4, 8
ALL = torch.arange(N_ENTITIES)


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


# ----------------------------------------------------------------------------------------------- formulas of the papers
# Each takes the parameters of one triple and gives (D(query, answer), d(0, query)^2); a score is b_h + b'_t - D.


def dot(x, y):
    return mpmath.fsum(a * b for a, b in zip(x, y, strict=True))


def square(x):
    return dot(x, x)


def minus(x, y):
    return [a - b for a, b in zip(x, y, strict=True)]


def plus(x, y):
    return [a + b for a, b in zip(x, y, strict=True)]


def times(x, y):
    return [a * b for a, b in zip(x, y, strict=True)]


def complexes(x):
    """All real parts, then all imaginary parts."""
    half = len(x) // 2
    return [mpc(a, b) for a, b in zip(x[:half], x[half:], strict=True)]


def reals(z):
    return [a.real for a in z] + [a.imag for a in z]


def mobius(x, y, c):
    """x ⊕ y in the ball of curvature -c."""
    xy, x2, y2 = c * dot(x, y), c * square(x), c * square(y)
    below = 1 + 2 * xy + x2 * y2
    return [((1 + 2 * xy + y2) * a + (1 - x2) * b) / below for a, b in zip(x, y, strict=True)]


def exp0(u, c):
    """The point of the ball at distance |u| from the origin in the direction u."""
    length = mpmath.sqrt(square(u))
    return [mpmath.tanh(mpmath.sqrt(c) * length / 2) * a / (mpmath.sqrt(c) * length) for a in u] if length else u


def ball_distance(x, y, c):
    return 2 / mpmath.sqrt(c) * mpmath.atanh(mpmath.sqrt(c * square(mobius([-a for a in x], y, c))))


def transe(p):
    def formula(m, head, tail, r):
        query = plus(head, r["relation"])
        return mpmath.fsum(abs(a) ** p for a in minus(query, tail)) ** (mpf(1) / p), square(query)

    return formula


def rotate(m, head, tail, r):
    turned = [a * mpmath.expj(angle) for a, angle in zip(complexes(head), r["angle"], strict=True)]
    return mpmath.fsum(abs(a - b) for a, b in zip(turned, complexes(tail), strict=True)), square(head)


def distmult(m, head, tail, r):
    return -mpmath.fsum(map(mpmath.fprod, zip(head, r["relation"], tail, strict=True))), square(
        times(head, r["relation"])
    )


def complex_(m, head, tail, r):
    query = times(complexes(head), complexes(r["relation"]))
    score = mpmath.fsum(a * mpmath.conj(b) for a, b in zip(query, complexes(tail), strict=True)).real
    return -score, mpmath.fsum(abs(a) ** 2 for a in query)


def bilinear(head, matrix, tail):
    d = range(len(head))
    score = mpmath.fsum(head[i] * matrix[i][j] * tail[j] for i in d for j in d)
    return -score, mpmath.fsum(mpmath.fsum(head[i] * matrix[i][j] for i in d) ** 2 for j in d)


def rescal(m, head, tail, r):
    return bilinear(head, r["matrix"], tail)


def tucker(m, head, tail, r):
    core, d = exact(m.core), range(len(head))
    matrix = [[mpmath.fsum(y * core[k][i][j] for k, y in enumerate(r["relation"])) for j in d] for i in d]
    return bilinear(head, matrix, tail)


def rotation(m, u, r):
    return reals([a * mpmath.expj(t) for a, t in zip(complexes(u), r["angles.rotation"], strict=True)])


def reflection(m, u, r):
    """(cos, sin; sin, -cos) in each pair."""
    return reals([mpmath.conj(a) * mpmath.expj(t) for a, t in zip(complexes(u), r["angles.reflection"], strict=True)])


def attention(m, u, r):
    both = [rotation(m, u, r), reflection(m, u, r)]
    weights = [mpmath.exp(dot(r["context"], image) / mpmath.sqrt(len(u))) for image in both]
    return [mpmath.fsum(times(weights, pair)) / sum(weights) for pair in zip(*both, strict=True)]


def flat(move):
    def formula(m, head, tail, r):
        query = plus(move(m, head, r), r["translation"])
        return square(minus(query, tail)), square(query)

    return formula


def hyperbolic(move):
    def formula(m, head, tail, r):
        c = mpmath.log(1 + mpmath.exp(r["kappa"]))
        query = mobius(exp0(move(m, head, r), c), exp0(r["translation"], c), c)
        origin = [mpf(0)] * len(query)
        return ball_distance(query, exp0(tail, c), c) ** 2, ball_distance(origin, query, c) ** 2

    return formula


def mur(m, head, tail, r):
    """MuRE, MuRP, MuRPFull and products: sums over the factors, of curvature 0 for a flat one."""
    moved = times(r["diagonal"], head)
    if "matrix" in r:
        moved = plus(moved, [dot(row, head) for row in r["matrix"]])
    space = m.manifold if isinstance(m.manifold, Product) else Product([(m.manifold, m.dim)])
    total, radius, start = mpf(0), mpf(0), 0
    for factor, size in zip(space.factors, space.dims, strict=True):
        q, v, y = (x[start : start + size] for x in (moved, tail, r["translation"]))
        if isinstance(factor, Euclidean):
            total += square(minus(q, plus(v, y)))
            radius += square(q)
        else:
            c = mpf(factor.c.item())
            point = exp0(q, c)
            total += ball_distance(point, mobius(exp0(v, c), exp0(y, c), c), c) ** 2
            radius += ball_distance([mpf(0)] * size, point, c) ** 2
        start += size
    return total, radius


def on_hyperboloid(u):
    length = mpmath.sqrt(square(u))
    return [mpmath.cosh(length)] + [mpmath.sinh(length) * a / length if length else a for a in u]


def lorentz_inner(x, y):
    return -x[0] * y[0] + dot(x[1:], y[1:])


def hybonet_query(m, head, r):
    x = on_hyperboloid(head)
    gate = 1 / (1 + mpmath.exp(-(dot(r["direction"], x) + r["offset"])))
    time = mpmath.exp(r["log_reach"]) * gate + mpf(1.1)
    image = [dot(row, x) for row in r["matrix"]]
    stretch = mpmath.sqrt((time**2 - 1) / square(image))
    return [time] + [stretch * a for a in image]


def hybonet(m, head, tail, r):
    query = hybonet_query(m, head, r)
    return -2 - 2 * lorentz_inner(query, on_hyperboloid(tail)), mpmath.acosh(query[0]) ** 2


# -------------------------------------------------------------------------------------------------------------- cases


@dataclass
class Model:
    """A model under test: how it is built, its formula, and what it is."""

    build: Callable
    formula: Callable
    paired: bool = False
    hyperbolic: bool = False

    def __call__(self, n_entities=N_ENTITIES, n_relations=N_RELATIONS, dim=DIM, **options):
        return self.build(n_entities, n_relations, dim, **({"dtype": F64, "generator": generator()} | options))


def mixed(n_entities, n_relations, dim, **options):
    space = Product([(PoincareBall(1.0), dim - 4), (Euclidean(), 2), (Lorentz(0.5, learnable=True), 2)])
    return MuRP(n_entities, n_relations, dim, manifold=space, **options)


CASES = {
    "atte": Model(AttE, flat(attention), paired=True),
    "atth": Model(AttH, hyperbolic(attention), paired=True, hyperbolic=True),
    "complex": Model(ComplEx, complex_, paired=True),
    "distmult": Model(DistMult, distmult),
    "hybonet": Model(HyboNet, hybonet, hyperbolic=True),
    "mure": Model(MuRE, mur),
    "murp": Model(MuRP, mur, hyperbolic=True),
    "murp-full": Model(MuRPFull, mur, hyperbolic=True),
    "refe": Model(RefE, flat(reflection), paired=True),
    "refh": Model(RefH, hyperbolic(reflection), paired=True, hyperbolic=True),
    "rescal": Model(RESCAL, rescal),
    "rotate": Model(RotatE, rotate, paired=True),
    "rote": Model(RotE, flat(rotation), paired=True),
    "roth": Model(RotH, hyperbolic(rotation), paired=True, hyperbolic=True),
    "transe": Model(TransE, transe(2)),
    "tucker": Model(TuckER, tucker),
}
VARIANTS = {
    "murp on a product": Model(mixed, mur, hyperbolic=True),
    "murp, learnable": Model(
        lambda *sizes, **options: MuRP(*sizes, manifold=PoincareBall(0.6, learnable=True), **options), mur
    ),
    "transe, p=1": Model(lambda *sizes, **options: TransE(*sizes, p=1, **options), transe(1)),
    "tucker, k=3": Model(lambda *sizes, **options: TuckER(*sizes, relation_dim=3, **options), tucker),
}
every_model = pytest.mark.parametrize("case", [pytest.param(c, id=name) for name, c in (CASES | VARIANTS).items()])


def named(*names):
    return pytest.mark.parametrize("case", [pytest.param((CASES | VARIANTS)[name], id=name) for name in names])


def filled(case, seed=0, **options):
    """A model with every parameter random: entities and translations a radius of about 1.4 from the origin."""
    m, g = case(**options), generator(seed)
    with torch.no_grad():
        for name, parameter in m.named_parameters():
            if not name.endswith("log_c"):
                parameter.copy_(0.5 * torch.randn(parameter.shape, generator=g, dtype=F64))
    return m


def batch(n=12, seed=1):
    g = generator(seed)
    h, t = (torch.randint(N_ENTITIES, (n,), generator=g) for _ in range(2))
    return h, torch.randint(N_RELATIONS, (n,), generator=g), t


def exact(x):
    """Nested lists of the numbers of a tensor."""
    return [exact(part) for part in x] if x.dim() else mpf(x.item())


def oracle(case, m, h, r, t):
    """(scores, squared radii of the queries) of triples by the formula of the paper, float64."""
    tables = {
        name: table
        for name, table in m.named_parameters()
        if name not in ("entity", "bias", "core") and not name.startswith("manifold.")
    }
    scores, radii = [], []
    with mpmath.workdps(50):
        for i, j, k in zip(h.tolist(), r.tolist(), t.tolist(), strict=True):
            relation = {name: exact(table[j]) for name, table in tables.items()}
            distance, radius = case.formula(m, exact(m.entity[i]), exact(m.entity[k]), relation)
            bias = exact(m.bias[i, 0]) + exact(m.bias[k, 1]) if m.bias is not None else 0
            scores.append(float(bias - distance))
            radii.append(float(radius))
    return torch.tensor(scores, dtype=F64), torch.tensor(radii, dtype=F64)


WAYS = ("forward", "positive", "shared", "own", "tail_scorer", "head_scorer")


def scores_of_all_kinds(m, h, r, t):
    """The scores of triples by each of the ways there are to get them, (6, B)."""
    shared = m.score_batch(h, r, t, t)
    own = m.score_batch(h, r, t, torch.stack([h, t], 1))
    tails = [m.tail_scorer(int(k))(i.view(1))[0, j] for i, k, j in zip(h, r, t, strict=True)]
    heads = [m.head_scorer(int(k))(j.view(1))[0, i] for i, k, j in zip(h, r, t, strict=True)]
    rows = [m(h, r, t), shared.positive, shared.negative.diagonal(), own.negative[:, 1]]
    return torch.stack([row.detach() for row in (*rows, torch.stack(tails), torch.stack(heads))])


class LargestTensor(TorchDispatchMode):
    """Numbers in the largest tensor that an operation makes."""

    size = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        out = func(*args, **(kwargs or {}))
        for x in out if isinstance(out, tuple | list) else (out,):
            if isinstance(x, torch.Tensor) and not x.is_sparse:
                self.size = max(self.size, x.untyped_storage().nbytes() // x.element_size())
        return out


def test_the_cases_are_the_models():
    assert set(CASES) == set(MODELS)
    assert all(MODELS[name] is case.build for name, case in CASES.items())


# ------------------------------------------------------------------------------------------------------------- scores


@every_model
def test_scores_are_the_formula_of_the_paper(case):
    for seed in range(2):
        m, triples = filled(case, seed), batch(seed=seed)
        expected, _ = oracle(case, m, *triples)
        error = (scores_of_all_kinds(m, *triples) - expected).abs() / expected.abs().clamp(min=1)
        assert error.amax() <= 1e-12, dict(zip(WAYS, error.amax(1).tolist(), strict=True))


@every_model
def test_all_pairs(case):
    """Every entry of the matrices, not only the pairs of a batch."""
    m = filled(case)
    for relation in range(N_RELATIONS):
        h, t = torch.cartesian_prod(ALL, ALL).unbind(1)
        r = torch.full_like(h, relation)
        expected = m(h, r, t).detach().view(N_ENTITIES, N_ENTITIES)
        scored = m.score_batch(ALL, r[:N_ENTITIES], ALL, ALL)
        for found in (m.tail_scorer(relation)(ALL), m.head_scorer(relation)(ALL).mT, scored.negative):
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
        assert not m.tail_scorer(relation)(ALL).requires_grad
        assert not m.head_scorer(relation)(ALL).requires_grad


@every_model
def test_head_scorer_goes_through_a_long_table_in_blocks(case):
    m = case(n_entities=3000)
    heads, r, t = torch.tensor([0, 1023, 1024, 2048, 2999]), torch.full((5,), 2), torch.full((5,), 7)
    with LargestTensor() as largest:
        found = m.head_scorer(2)(t[:1])
    assert found.shape == (1, 3000)
    assert largest.size <= 1024 * DIM * (DIM + 1)  # at most a matrix for each head of a block
    torch.testing.assert_close(found[0, heads], m(heads, r, t).detach(), rtol=1e-12, atol=1e-12)


@every_model
def test_float32_is_close_to_float64(case):
    m, (h, r, t) = filled(case), batch()
    low = copy.deepcopy(m).float()
    assert all(p.dtype == torch.float32 for name, p in low.named_parameters() if not name.endswith("log_c"))
    found, exact_scores = scores_of_all_kinds(low, h, r, t), m(h, r, t).detach()
    assert found.dtype == torch.float32
    error = (found - exact_scores).abs() / exact_scores.abs().clamp(min=1)
    assert 1e-9 < error.max() < 2e-4


@every_model
@pytest.mark.parametrize(("dtype", "radius"), [(F64, 12.0), (torch.float32, 6.0)])
def test_far_out(case, dtype, radius):
    """Points, translations and queries `radius` from the origin: finite scores, penalties and gradients."""
    m = filled(case, dtype=dtype, sparse=False)
    with torch.no_grad():
        for name, table in m.named_parameters():
            if name in ("entity", "translation"):
                table.mul_(radius / table.norm(dim=-1, keepdim=True))
            if name == "diagonal":
                table.fill_(1)
    h, r, t = batch(40)
    assert scores_of_all_kinds(m, h, r, t).isfinite().all()
    for penalty in (PENALTIES["radius"], PENALTIES["dura"]):
        for negatives in (ALL, ALL.expand(40, -1)):
            m.zero_grad()
            parts = m.score_batch(h, r, t, negatives, penalty)
            assert all(part.isfinite().all() for part in parts)
            sum(part.sum() for part in parts).backward()
            assert all(p.grad.isfinite().all() for p in m.parameters())


@every_model
def test_shapes(case):
    m, (h, r, t) = filled(case), batch(5)
    one = m.score_batch(h[:1], r[:1], t[:1], ALL[:3])
    assert [part.shape for part in one] == [(1,), (1, 3), (1,)]
    assert torch.allclose(one.positive, m(h, r, t)[:1], rtol=1e-12, atol=1e-12)
    for negatives, shape in ((h.new_empty(0), (5, 0)), (h.new_empty(5, 0), (5, 0)), (ALL.expand(5, -1), (5, 9))):
        scored = m.score_batch(h, r, t, negatives)
        assert scored.negative.shape == shape
        assert torch.allclose(scored.positive, m(h, r, t), rtol=1e-12, atol=1e-12)
    none = m.score_batch(h[:0], r[:0], t[:0], ALL)
    assert [part.shape for part in none] == [(0,), (0, 9), (0,)]
    assert m(h[:0], r[:0], t[:0]).shape == (0,)
    assert m.tail_scorer(0)(h[:0]).shape == m.head_scorer(0)(h[:0]).shape == (0, N_ENTITIES)


# ---------------------------------------------------------------------------------------------------------- gradients


class Batch(nn.Module):
    """`score_batch` with shared and with own negatives, as the forward of a module."""

    def __init__(self, model, *triples):
        super().__init__()
        self.model, self.triples = model, triples

    def forward(self):
        h, r, t = self.triples
        shared = self.model.score_batch(h, r, t, torch.tensor([0, 3, 1]), PENALTIES["dura"])
        own = self.model.score_batch(h, r, t, torch.stack([t, h], 1))
        return (*shared, *own[1:])


@every_model
def test_gradcheck(case):
    m = filled(case, n_entities=4, n_relations=2, dim=6, sparse=False)
    module = Batch(m, torch.tensor([0, 1, 1]), torch.tensor([0, 1, 1]), torch.tensor([1, 3, 2]))
    names, values = zip(
        *((name, p.detach().clone().requires_grad_()) for name, p in module.named_parameters()), strict=True
    )

    def scores(*values):
        return torch.func.functional_call(module, dict(zip(names, values, strict=True)), ())

    assert gradcheck(scores, values)


def gradients(m, *triples, parts=("positive", "negative")):
    m.zero_grad()
    scored = m.score_batch(*triples)
    sum(getattr(scored, part).sum() for part in parts).backward()
    return {n: torch.zeros_like(p) if p.grad is None else p.grad.to_dense() for n, p in m.named_parameters()}


@every_model
def test_sparse_and_dense_gradients_are_equal(case):
    sparse, dense = filled(case), filled(case, sparse=False)
    h, r, t = batch(6)
    for negatives in (torch.tensor([0, 3, 3]), torch.stack([t, h, h], 1)):
        parts = ("positive", "negative", "penalty")
        a, b = (gradients(m, h, r, t, negatives, parts=parts) for m in (sparse, dense))
        assert all(p.grad.is_sparse == (name in ("entity", "bias")) for name, p in sparse.named_parameters())
        assert not any(p.grad.is_sparse for p in dense.parameters())
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-12, atol=1e-12)


def make_identity(m):
    """Relations that move nothing: the entities' second half is zero, so that a reflection by the angle 0 is none."""
    with torch.no_grad():
        for name, table in m.named_parameters():
            if name == "diagonal":
                table.fill_(1)
            elif name == "entity":
                table[:, table.shape[1] // 2 :] = 0
            elif name in ("translation", "angle", "matrix") or name.startswith("angles."):
                table.zero_()
            elif name == "relation":
                table.zero_()  # TransE


COINCIDENT = [
    *("atte", "atth", "mure", "murp", "murp-full", "refe", "refh", "rotate", "rote", "roth", "transe", "transe, p=1"),
    *("murp on a product", "murp, learnable"),
]


@named(*COINCIDENT)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_coincident_query_and_answer(case, dtype):
    """At distance zero the score is the biases and nothing but them has a gradient: the distance is least there."""
    m = filled(case, sparse=False, dtype=dtype)
    make_identity(m)
    h, r, _ = batch(1)
    limit = 50 * torch.finfo(dtype).eps
    for negatives in (h, h.view(1, 1)):
        scored = m.score_batch(h, r, h, negatives)
        expected = 0 if m.bias is None else m.bias[h].sum().detach()
        for part in scored[:2]:
            assert (part.detach() - expected).abs().max() <= limit
        for name, grad in gradients(m, h, r, h, negatives).items():
            assert grad.isfinite().all()
            assert name == "bias" or grad.abs().max() <= limit, name


@named(*COINCIDENT)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_everything_at_the_origin(case, dtype):
    m = case(dtype=dtype, scale=0.0, sparse=False)
    make_identity(m)
    for triples in ((*batch(6), ALL), (*batch(6), ALL.expand(6, -1))):
        for name, grad in gradients(m, *triples).items():
            limit = 50 * torch.finfo(dtype).eps if name == "kappa" or name.endswith("log_c") else 0
            assert name == "bias" or grad.abs().max() <= limit, name


def test_hybonet_at_its_answer():
    m, (h, r, _) = filled(CASES["hybonet"], sparse=False), batch(1)
    other = (h + 1) % N_ENTITIES
    with mpmath.workdps(50):
        relation = {name: exact(getattr(m, name)[r[0]]) for name in ("matrix", "direction", "offset", "log_reach")}
        query = hybonet_query(m, exact(m.entity[h[0]]), relation)
        length = mpmath.acosh(query[0]) / mpmath.sqrt(square(query[1:]))
        answer = [float(length * a) for a in query[1:]]
    with torch.no_grad():
        m.entity[other] = torch.tensor(answer, dtype=F64)
        m.bias.zero_()
    for negatives in (other, other.view(1, 1)):
        scored = m.score_batch(h, r, other, negatives)
        assert max(part.abs().max() for part in scored[:2]) <= 1e-13
        for name, grad in gradients(m, h, r, other, negatives).items():
            assert name == "bias" or grad.abs().max() <= 1e-12


@named("atth", "refh", "roth", "murp", "hybonet", "murp on a product")
def test_a_negative_at_the_origin_has_its_gradient(case):
    """Tangent coordinates have no singularity there: shared and own negatives give one gradient, and not zero."""
    m = filled(case, sparse=False)
    with torch.no_grad():
        m.entity[0] = 0
    h, r, t = torch.tensor([1, 2]), torch.tensor([0, 1]), torch.tensor([3, 4])
    negatives = torch.tensor([0, 5])
    shared = gradients(m, h, r, t, negatives, parts=("negative",))
    own = gradients(m, h, r, t, negatives.expand(2, 2), parts=("negative",))
    assert shared["entity"][0].norm() > 0.1
    for name in own:
        torch.testing.assert_close(shared[name], own[name], rtol=1e-6, atol=1e-7)


@named("atth", "murp", "murp-full", "refh", "roth", "rotate")
def test_gradients_of_gradients_are_refused(case):
    """The hand-written derivatives are of first order: an error, not a wrong number."""
    m = filled(case, sparse=False)
    loss = F.softplus(-m.score_batch(*batch(4), ALL).negative).sum()
    slopes = torch.autograd.grad(loss, [m.entity], create_graph=True)
    with pytest.raises(RuntimeError, match=r"differentiate twice|inplace operation"):
        slopes[0].square().sum().backward()


def test_curvatures_are_trained():
    for name in ("atth", "refh", "roth"):
        m = filled(CASES[name], sparse=False)
        h, _, t = batch(6)
        r = torch.tensor([0, 0, 2, 2, 2, 0])
        for negatives in (ALL, ALL.expand(6, -1)):
            slope = gradients(m, h, r, t, negatives)["kappa"]
            assert (slope[[0, 2]].abs() > 1e-3).all()
            assert not slope[[1, 3]].any()
    m = filled(VARIANTS["murp on a product"], sparse=False)
    assert gradients(m, *batch(), ALL)["manifold.factors.2.log_c"].abs() > 1e-3


@every_model
def test_no_tensor_of_every_pair_and_coordinate(case):
    """Scores of B queries and N shared negatives or all entities take B x N numbers, their gradients too."""
    m, b = case(n_entities=400, dim=16), 50
    h = torch.arange(b)
    with LargestTensor() as largest:
        m.score_batch(h, h % N_RELATIONS, h + 1, torch.arange(400)).negative.sum().backward()
        m.tail_scorer(1)(h)
    assert b * 400 <= largest.size <= 2 * b * 400


# ---------------------------------------------------------------------------------------------------------- penalties


@every_model
def test_penalties(case):
    m, (h, r, t) = filled(case), batch()
    _, query = oracle(case, m, h, r, t)
    head, tail = m.entity[h].detach(), m.entity[t].detach()
    sq_head, sq_tail = head.square().sum(-1), tail.square().sum(-1)
    expected = {"radius": sq_head + sq_tail, "dura": query + sq_tail}
    if case.build in (DistMult, ComplEx):
        expected["n3"] = torch.zeros(len(h), dtype=F64)
        for x in (head, tail, m.relation[r].detach()):
            if case.build is ComplEx:
                x = torch.complex(x[:, : DIM // 2], x[:, DIM // 2 :])
            expected["n3"] += x.abs().pow(3).sum(-1)
    else:
        with pytest.raises(DomainError, match=f"DistMult and ComplEx, not for {type(m).__name__}"):
            m.score_batch(h, r, t, t, PENALTIES["n3"])
    for name, values in expected.items():
        found = m.score_batch(h, r, t, t, PENALTIES[name])
        torch.testing.assert_close(found.penalty.detach(), values, rtol=1e-11, atol=1e-12)
    assert torch.equal(m.score_batch(h, r, t, t).penalty, m.score_batch(h, r, t, t, PENALTIES["radius"]).penalty)
    assert set(PENALTIES) == {"radius", "dura", "n3"}


# ------------------------------------------------------------------------------------------------------------ dropout


@every_model
def test_dropout(case):
    dropping, plain, triples = filled(case, dropout=0.5), filled(case), batch()
    dropping.generator = generator(3)
    assert torch.equal(dropping.eval()(*triples), plain.eval()(*triples))
    assert torch.equal(dropping.tail_scorer(0)(ALL), plain.tail_scorer(0)(ALL))
    assert torch.equal(dropping.generator.get_state(), generator(3).get_state())
    dropping.train()
    first = dropping(*triples)
    assert not torch.allclose(first, plain(*triples))
    assert not torch.allclose(first, dropping(*triples))
    dropping.generator = generator(3)
    assert torch.equal(first, dropping(*triples))
    plain.train()
    plain.generator = generator(3)
    assert torch.equal(plain(*triples), plain.eval()(*triples))
    assert torch.equal(plain.generator.get_state(), generator(3).get_state())


def test_dropout_draws_from_the_default_generator_without_one():
    m = filled(CASES["distmult"], dropout=0.5)
    state = torch.get_rng_state()
    try:
        first = m(*batch())
        assert not torch.equal(torch.get_rng_state(), state)
        torch.set_rng_state(state)
        assert torch.equal(m(*batch()), first)
    finally:
        torch.set_rng_state(state)


@named("distmult", "complex", "rescal", "tucker", "tucker, k=3")
@pytest.mark.parametrize("dropout", [0.2, 0.7])
def test_dropout_keeps_the_mean(case, dropout):
    """These scores are linear in the relation; each of n equal relations draws its own mask."""
    n = 20_000
    m = filled(case, n_relations=n, dropout=dropout)
    with torch.no_grad():
        for name, table in m.named_parameters():
            if name in ("relation", "matrix"):
                table.copy_(table[:1].expand_as(table).clone())
    m.generator = generator(4)
    h, t = torch.full((n,), 1), torch.full((n,), 2)
    scores = m(h, torch.arange(n), t).detach()
    expected = m.eval()(h[:1], h[:1], t[:1]).item()
    assert scores.std() > 0.01
    assert abs(scores.mean().item() - expected) <= 4 * scores.std().item() / math.sqrt(n)


def test_dropped_coordinates():
    m, n = filled(CASES["murp"], dropout=0.25), 5000
    m.generator = generator(4)
    h = torch.zeros(n, dtype=torch.int64)
    kept = (m.manifold.to_tangent(m.query(h, h)) / (m.diagonal[0] * m.entity[0])).detach()
    assert torch.allclose(kept, (kept > 0.5).double() * (4 / 3), rtol=1e-9, atol=1e-9)
    assert abs((kept > 0.5).double().mean() - 0.75) <= 4 * math.sqrt(0.75 * 0.25 / (n * DIM))


# ----------------------------------------------------------------------------------------- what a model tells of itself


@every_model
def test_points_and_tangent_coordinates(case):
    m = filled(case)
    x, u = m.points(), m.tangent_coordinates()
    m.manifold.check(x)
    assert x.shape == (N_ENTITIES, m.manifold.point_dim(DIM))
    assert u.shape == (N_ENTITIES, DIM)
    origin = m.manifold.from_tangent(torch.zeros(1, DIM, dtype=F64))
    torch.testing.assert_close(m.manifold.dist(origin, x).detach(), u.norm(dim=-1), rtol=1e-10, atol=1e-12)
    assert not x.requires_grad
    assert not u.requires_grad
    before = m.entity.detach().clone()
    x.zero_()
    u.zero_()
    assert torch.equal(m.entity, before)


def test_curvatures():
    for name, case in CASES.items():
        m, found = filled(case), filled(case).curvatures()
        if not case.hyperbolic:
            assert found is None, name
            continue
        assert found.shape == (N_RELATIONS,)
        assert not found.requires_grad
        kappa = m.kappa.tolist() if hasattr(m, "kappa") else [math.log(math.e - 1)] * N_RELATIONS
        assert found.tolist() == pytest.approx([-math.log1p(math.exp(k)) for k in kappa], rel=1e-14)
        start = case(dtype=torch.float32).curvatures()
        assert start.tolist() == pytest.approx([-1] * N_RELATIONS, rel=1e-6), "kappa starts at c = 1"
    assert HyboNet(3, 2, 4).double().curvatures().dtype == F64
    learnable = filled(VARIANTS["murp, learnable"]).curvatures()
    assert learnable.tolist() == pytest.approx([-0.6] * N_RELATIONS, rel=1e-14)
    assert filled(VARIANTS["murp on a product"]).curvatures() is None


@every_model
def test_tangent_tables_are_parameters_of_hyperbolic_models(case):
    m = filled(case)
    tables = m.tangent_tables()
    assert {id(p) for p in tables} <= {id(p) for p in m.parameters()}
    if case.hyperbolic and not isinstance(m.manifold, Product):
        assert tables[0] is m.entity
    if m.curvatures() is None:
        assert tables == []


@every_model
def test_state_dict_round_trip(case):
    m, other = filled(case), filled(case, seed=5)
    assert not torch.equal(m(*batch()), other(*batch()))
    state = {name: value.clone() for name, value in m.state_dict().items()}
    other.load_state_dict(state)
    for a, b in zip(m.score_batch(*batch(), ALL), other.score_batch(*batch(), ALL), strict=True):
        assert torch.equal(a, b)
    assert {name for name, _ in m.named_parameters()} <= set(state)


@every_model
def test_initial_values_come_from_the_generator(case):
    a, b, c = (case(generator=generator(seed)) for seed in (0, 0, 1))
    for (name, p), q, other in zip(a.named_parameters(), b.parameters(), c.parameters(), strict=True):
        assert torch.equal(p, q), name
        if name in ("bias", "kappa", "offset", "log_reach") or name.endswith("log_c"):
            assert torch.equal(p, other), name
        else:
            assert not torch.equal(p, other), name
    assert case(n_entities=2000, scale=0.3).entity.std().item() == pytest.approx(0.3, rel=0.05)


@pytest.mark.parametrize("name", MODELS)
def test_defaults(name):
    m = MODELS[name](3, 2, 4, generator=generator())
    assert all(p.dtype == torch.float32 for p in m.parameters())
    assert (m.n_entities, m.n_relations, m.dim, m.sparse, m.dropout, m.generator) == (3, 2, 4, True, 0.0, None)
    assert f"{type(m).__name__}(" in repr(m)
    assert "n_entities=3, n_relations=2, dim=4" in repr(m)


@pytest.mark.parametrize("build", MODELS.values(), ids=MODELS)
def test_bad_options(build):
    for name in ("n_entities", "n_relations", "dim"):
        for value in (0, -3):
            with pytest.raises(DomainError, match=f"{name} must be at least 1, got {value}"):
                build(**({"n_entities": 3, "n_relations": 2, "dim": 4} | {name: value}))
    for dropout in (-0.1, 1.0, 2.0, math.nan):
        with pytest.raises(DomainError, match=r"dropout must be a probability in \[0, 1\), got"):
            build(3, 2, 4, dropout=dropout)


@every_model
def test_odd_dimensions(case):
    if not case.paired:
        assert case(dim=7).points().shape[0] == N_ENTITIES
        return
    for dim in (1, 7):
        with pytest.raises(DomainError, match=f"pairs coordinates, so dim must be even, got {dim}"):
            case(dim=dim)


def test_bad_relation_dim():
    for relation_dim in (0, -1):
        with pytest.raises(DomainError, match=f"relation_dim must be at least 1, got {relation_dim}"):
            TuckER(3, 2, 4, relation_dim=relation_dim)
    with pytest.raises(DomainError, match="at least 1"):
        TransE(3, 2, 4, p=0.5)


# ---------------------------------------------------------------------------------------------------- both directions


@every_model
def test_both_directions(case):
    m = filled(case)
    both, (h, r, t) = BothDirections(m), batch()
    back = torch.tensor([2, 3, 0, 1])[r]  # the inverse of r is r + n_relations / 2
    expected = (m(h, r, t) + m(t, back, h)) / 2
    torch.testing.assert_close(both(h, r, t), expected, rtol=1e-14, atol=1e-14)
    assert (both(h, r, t) - m(h, r, t)).abs().max() > 1e-3
    assert (both.n_entities, both.n_relations, both.dim) == (m.n_entities, m.n_relations, m.dim)
    for relation in range(N_RELATIONS):
        score = both.tail_scorer(relation)
        for _ in range(2):  # a second call is not changed by the first
            found = score(ALL)
            h, t = torch.cartesian_prod(ALL, ALL).unbind(1)
            expected = both(h, torch.full_like(h, relation), t).detach().view(N_ENTITIES, N_ENTITIES)
            torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)
            assert not found.requires_grad


def test_both_directions_of_an_odd_number_of_relations():
    with pytest.raises(DomainError, match="n_relations is odd: 3"):
        BothDirections(DistMult(3, 3, 4))


# ---------------------------------------------------------------------------------------------------- RotatE's distance


def sum_of_moduli(x, y):
    half = len(x) // 2
    return float(sum(abs(complex(*a) - complex(*b)) for a, b in zip(_pairs(x, half), _pairs(y, half), strict=True)))


def _pairs(x, half):
    return zip(x[:half], x[half:], strict=True)


@pytest.mark.parametrize("case", [Case("SumOfModuli", SumOfModuli, sum_of_moduli, (6,))], ids=str)
class TestSumOfModuli(DistanceContract):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_sum_of_moduli_where_single_coordinates_coincide(dtype):
    """The derivative of |z| at z = 0 counts as zero, coordinate by coordinate; torch's complex abs does the same."""
    g = generator()
    x, y = (torch.randn(n, 10, generator=g, dtype=dtype) for n in (7, 5))
    x[2, [0, 5, 3, 8]] = y[1, [0, 5, 3, 8]]  # two of the five complex coordinates
    x[4] = y[3]
    x[0, :5] = y[0, :5]  # all real parts, no imaginary part
    weight = torch.randn(7, 5, generator=g, dtype=dtype)
    found, expected = [], []
    for values, pairwise in ((found, SumOfModuli().pairwise), (expected, complex_pairs)):
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        d = pairwise(a, b)
        values += [d.detach(), *torch.autograd.grad((weight * d).sum(), (a, b))]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    assert found[0][4, 3] == 0


def complex_pairs(x, y):
    u, v = (torch.complex(*z.chunk(2, dim=-1)) for z in (x, y))
    return (u.unsqueeze(1) - v).abs().sum(-1)


def test_sum_of_moduli_needs_pairs():
    x = torch.zeros(2, 5)
    for distance in (SumOfModuli(), SumOfModuli().pairwise):
        with pytest.raises(DomainError, match="even, got 5"):
            distance(x, x)
