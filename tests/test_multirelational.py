"""MuRP and MuRE in depth: the paper's formulas far out, one parameterisation against another, and their gradients.

What every model must satisfy is in `test_models`.
"""

import math

import mpmath
import pytest
import torch
from torch.autograd import gradcheck

from geoembed.errors import DomainError
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product
from geoembed.models import MultiRelational, MuRE, MuRP, MuRPFull
from geoembed.models.translated import (
    HyperbolicTranslated,
    ManifoldTranslated,
    Points,
    ProductTranslated,
    _SquaredArcosh1p,
    translated,
)
from geoembed.optim import RiemannianSGD

F64 = torch.float64
N_ENTITIES, N_RELATIONS = 30, 6
HYPERBOLIC = [PoincareBall, Lorentz, HalfSpace]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def coordinates(n, d, radius, g):
    """Tangent coordinates at the origin of n points at most `radius` away, half of them exactly so far."""
    u = torch.randn(n, d, generator=g, dtype=F64)
    length = torch.rand(n, 1, generator=g, dtype=F64)
    length[::2] = 1
    return u / u.norm(dim=-1, keepdim=True) * length * radius


def model(d=5, radius=1.0, manifold=None, seed=0, **options):
    """A model whose entities and translations lie up to `radius` from the origin, whose heads stay there too."""
    g = generator(seed)
    out = MultiRelational(N_ENTITIES, N_RELATIONS, d, manifold, **({"dtype": F64} | options))
    with torch.no_grad():
        for table, n in ((out.entity, N_ENTITIES), (out.translation, N_RELATIONS)):
            u = coordinates(n, d, radius, g)
            table.copy_(u if out.tangent else out.manifold.from_tangent(u))
        out.diagonal.uniform_(-1, 1, generator=g)
        out.diagonal[::2] = 1  # so that a query is as far out as its entity
        out.bias.normal_(generator=g)
    return out


def batch(n=40, negatives=None, seed=1):
    g = generator(seed)
    h, t = (torch.randint(N_ENTITIES, (n,), generator=g) for _ in range(2))
    r = torch.randint(N_RELATIONS, (n,), generator=g)
    if negatives is None:
        return h, r, t
    return h, r, t, torch.randint(N_ENTITIES, negatives, generator=g)


# ------------------------------------------------------------------------------------------ the formula of the paper


def mobius_add(x, y):
    xy, x2, y2 = (x * y).sum(-1, keepdim=True), (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
    return ((1 + 2 * xy + y2) * x + (1 - x2) * y) / (1 + 2 * xy + x2 * y2)


def exp0(v):
    length = v.norm(dim=-1, keepdim=True)
    return length.tanh() * v / length


def log0(x):
    length = x.norm(dim=-1, keepdim=True)
    return length.atanh() * x / length


def paper_score(murp, h, r, t):
    """b_h + b_t - d(q, w)^2 with q = exp0(R * log0 x_h), w = x_t + y_r (Mobius), d = 2 artanh |(-q) + w|."""
    murp = murp.parameterised(tangent=False, dtype=F64)
    x, y, R, b = (p.detach() for p in (murp.entity, murp.translation, murp.diagonal, murp.bias))
    q, w = exp0(R[r] * log0(x[h])), mobius_add(x[t], y[r])
    distance = 2 * mobius_add(-q, w).norm(dim=-1).atanh()
    return b[h, 0] + b[t, 1] - distance**2


def exact_score(murp, h, r, t):
    """The same at 50 digits, from the tangent coordinates: float64 loses five digits of artanh at radius 8."""
    with mpmath.workdps(50):

        def dot(x, y):
            return mpmath.fsum(a * b for a, b in zip(x, y, strict=True))

        def add(x, y):
            xy, x2, y2 = dot(x, y), dot(x, x), dot(y, y)
            return [((1 + 2 * xy + y2) * a + (1 - x2) * b) / (1 + 2 * xy + x2 * y2) for a, b in zip(x, y, strict=True)]

        def point(u):
            length = mpmath.sqrt(dot(u, u))
            return [mpmath.tanh(length / 2) * a / length for a in u] if length else u

        def row(table, i):
            return [mpmath.mpf(value) for value in table[i].tolist()]

        scores = []
        for i, j, k in zip(h.tolist(), r.tolist(), t.tolist(), strict=True):
            q = point([a * b for a, b in zip(row(murp.diagonal, j), row(murp.entity, i), strict=True)])
            w = add(point(row(murp.entity, k)), point(row(murp.translation, j)))
            difference = add([-a for a in q], w)
            distance = 2 * mpmath.atanh(mpmath.sqrt(dot(difference, difference)))
            scores.append(float(row(murp.bias, i)[0] + row(murp.bias, k)[1] - distance**2))
        return torch.tensor(scores, dtype=F64)


def scores_of_all_kinds(m, h, r, t):
    """The scores of triples by each of the ways there are to get them, (4, B)."""
    shared = m.score_batch(h, r, t, t)
    own = m.score_batch(h, r, t, torch.stack([t, h], 1))
    tails = torch.stack([m.tail_scorer(int(k))(i.view(1))[0, j] for i, k, j in zip(h, r, t, strict=True)])
    rows = [m(h, r, t), shared.positive, shared.negative.diagonal(), own.negative[:, 0], tails]
    return torch.stack([row.detach() for row in rows])


def squared_distance(m, h, t, score):
    return (m.bias[h, 0] + m.bias[t, 1] - score).detach()


@pytest.mark.parametrize("d", [5, 10, 40])
@pytest.mark.parametrize("radius", [0.1, 1.0, 2.0, 4.0])
def test_murp_is_the_formula_of_the_paper(d, radius):
    """The error is at most 1e-12 of d^2, and 1e-12 itself where d < 1."""
    for seed in range(3):
        m, triples = model(d, radius, seed=seed), batch(seed=seed)
        expected = exact_score(m, *triples)
        allowed = 1e-12 * squared_distance(m, triples[0], triples[2], expected).clamp(min=1)
        assert ((scores_of_all_kinds(m, *triples) - expected).abs() <= allowed).all()
        for tangent in (True, False):
            assert ((m.parameterised(tangent, F64)(*triples) - expected).abs() <= allowed).all()


@pytest.mark.parametrize("radius", [0.1, 1.0, 2.0, 4.0])
def test_murp_is_the_formula_of_the_paper_in_float64(radius):
    m = model(40, radius)
    h, r, t = batch()
    expected = paper_score(m, h, r, t)
    allowed = 1e-12 * squared_distance(m, h, t, expected).clamp(min=1)
    far = (m.query(h, r) - m.answer(t, r)).norm(dim=-1) > 0.1
    assert far.sum() > 30 or radius < 0.2
    assert ((m(h, r, t) - expected).abs() <= allowed).all()


def test_pairs_that_cancel_far_out():
    """w = q on one line through the origin, both up to radius 4: d^2 is twice the rounding error of cosh d - 1."""
    m, n = model(2, 4.0), 10
    h, r = torch.arange(n), torch.zeros(n, dtype=torch.int64)
    with torch.no_grad():
        line = torch.tensor([0.6, 0.8], dtype=F64)
        m.diagonal.fill_(1)
        m.translation.copy_((2 * line).expand_as(m.translation))
        m.entity[:n] = torch.linspace(-2, 4, n, dtype=F64).unsqueeze(-1) * line
        m.entity[n : 2 * n] = m.entity[:n] - m.translation[0]
    expected = exact_score(m, h, r, h + n)
    assert squared_distance(m, h, h + n, expected).abs().max() < 1e-14
    assert (scores_of_all_kinds(m, h, r, h + n) - expected).abs().max() <= 1e-12


@pytest.mark.parametrize("d", [2, 5, 40])
def test_mure_is_its_formula(d):
    m, (h, r, t) = model(d, 4.0, Euclidean()), batch()
    e, b = m.entity, m.bias
    expected = b[h, 0] + b[t, 1] - (m.diagonal[r] * e[h] - (e[t] + m.translation[r])).square().sum(-1)
    assert (scores_of_all_kinds(m, h, r, t) - expected).abs().max() <= 1e-12


def test_the_radius_penalty_is_the_squared_distance_from_the_origin():
    for manifold in (PoincareBall(0.5), Lorentz(), HalfSpace(2.0), Euclidean()):
        for tangent in (True, False):
            m, (h, r, t) = model(3, 2.0, manifold, tangent=tangent), batch()
            x = m.points()
            o = manifold.from_tangent(x.new_zeros(1, 3))
            expected = manifold.dist(o, x[h]).square() + manifold.dist(o, x[t]).square()
            assert torch.allclose(m.score_batch(h, r, t, t).penalty, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("manifold", [*(space(0.7) for space in HYPERBOLIC), Euclidean()], ids=repr)
def test_query_and_answer_are_the_points_compared(manifold):
    for tangent in (True, False):
        m, (h, r, t) = model(4, 2.0, manifold, tangent=tangent), batch()
        q, w = m.query(h, r), m.answer(t, r)
        manifold.check(q)
        manifold.check(w)
        expected = m.bias[h, 0] + m.bias[t, 1] - manifold.dist(q, w).square()
        assert torch.allclose(m(h, r, t), expected, rtol=0, atol=1e-10)
        for name in ("entity", "translation", "diagonal", "bias"):
            table = m.get_parameter(name)
            found, wanted = (torch.autograd.grad(x.sum(), table, retain_graph=True)[0] for x in (m(h, r, t), expected))
            found = found.to_dense()
            if not tangent and name in ("entity", "translation"):
                found, wanted = (manifold.egrad2rgrad(table.detach(), x) for x in (found, wanted))
            assert torch.allclose(found, wanted, rtol=0, atol=1e-9), name


# ---------------------------------------------------------------------------------- all ways to the same scores agree


@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize(
    "manifold", [*(space(c) for space in HYPERBOLIC for c in (1.0, 0.3)), Euclidean()], ids=repr
)  # fmt: skip
def test_shared_own_forward_and_tail_scorer_agree(manifold, tangent):
    m, (h, r, t) = model(5, 2.0, manifold, tangent=tangent), batch()
    scores = scores_of_all_kinds(m, h, r, t)
    assert (scores - scores[0]).abs().max() <= 1e-12


def test_negatives_shared_and_own_have_the_documented_shapes():
    m, (h, r, t, shared) = model(), batch(7, (11,))
    own = shared.expand(7, 11)
    a, b = m.score_batch(h, r, t, shared), m.score_batch(h, r, t, own)
    assert a.positive.shape == (7,)
    assert a.negative.shape == b.negative.shape == (7, 11)
    assert a.penalty.shape == (7,)
    assert torch.allclose(a.negative, b.negative, rtol=0, atol=1e-13)
    assert torch.equal(a.positive, b.positive)
    assert m.tail_scorer(3)(h).shape == (7, N_ENTITIES)
    assert not m.tail_scorer(3)(h).requires_grad
    assert m(h[:0], r[:0], t[:0]).shape == (0,)


@pytest.mark.parametrize("c", [1.0, 0.25, 3.0])
@pytest.mark.parametrize("radius", [1.0, 3.0])
def test_models_and_parameterisations_give_equal_scores(c, radius):
    reference = model(6, radius, PoincareBall(c))
    h, r, t, negatives = batch(30, (20,))
    expected = reference.score_batch(h, r, t, negatives)
    for space in HYPERBOLIC:
        for tangent in (True, False):
            m = model(6, radius, space(c), tangent=tangent)  # the same tangent coordinates
            scored = m.score_batch(h, r, t, negatives)
            for a, b in zip(scored, expected, strict=True):
                assert (a - b).abs().max() <= 1e-10
            for relation in (0, 1):
                difference = m.tail_scorer(relation)(h) - reference.tail_scorer(relation)(h)
                assert difference.abs().max() <= 1e-10


@pytest.mark.parametrize("manifold", [*(space(0.5) for space in HYPERBOLIC), Euclidean()], ids=repr)
@pytest.mark.parametrize("tangent", [True, False])
def test_parameterised_converts_both_ways(manifold, tangent):
    m, (h, r, t) = model(4, 2.0, manifold, tangent=tangent), batch()
    other = m.parameterised(not tangent, F64)
    again = other.parameterised(tangent, F64)
    assert other.tangent is not tangent
    assert again.tangent is tangent
    assert hasattr(other.entity, "manifold") is tangent
    for twin in (other, again):
        assert (twin(h, r, t) - m(h, r, t)).abs().max() <= 1e-10
    assert (again.entity - m.entity).abs().max() <= 1e-13
    assert (again.translation - m.translation).abs().max() <= 1e-13
    assert all(p.requires_grad for p in other.parameters())


def test_parameterised_keeps_the_class_and_its_options():
    m = MuRPFull(N_ENTITIES, N_RELATIONS, 4, dtype=F64, generator=generator(), scale=0.5, dropout=0.3, sparse=False)
    for tangent in (True, False):
        other = m.parameterised(tangent, F64)
        assert type(other) is type(m)
        assert (other.dropout, other.sparse) == (0.3, False)
        assert torch.equal(other.matrix, m.matrix)
        assert (other.eval()(*batch()) - m.eval()(*batch())).abs().max() <= 1e-10


def test_parameterised_is_independent_of_its_source():
    m = model(4, manifold=PoincareBall(0.5, learnable=True))
    before = m(*batch()).detach().clone()
    other = m.parameterised(tangent=False)
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.mul_(0.5)
    assert torch.equal(m(*batch()), before)


def test_default_dtypes_and_manifold():
    assert MuRP(3, 2, 4).entity.dtype == torch.float32
    points = MuRP(3, 2, 4, tangent=False)
    assert points.entity.dtype == F64
    assert isinstance(points.manifold, PoincareBall)
    assert isinstance(MuRE(3, 2, 4).manifold, Euclidean)
    assert MuRP(3, 2, 4, tangent=False, manifold=Lorentz()).entity.shape == (3, 5)
    assert "n_entities=3, n_relations=2, dim=4, tangent=True" in repr(MuRP(3, 2, 4))


def test_initial_values_come_from_the_generator():
    a, b, other = (MuRP(200, 4, 20, generator=generator(seed)) for seed in (0, 0, 1))
    assert torch.equal(a.entity, b.entity)
    assert torch.equal(a.diagonal, b.diagonal)
    assert not torch.equal(a.entity, other.entity)
    assert 0.9e-3 < a.entity.std() < 1.1e-3
    assert a.diagonal.abs().max() <= 1
    assert not a.bias.any()


@pytest.mark.parametrize("name", ["n_entities", "n_relations", "dim"])
@pytest.mark.parametrize("value", [0, -3])
def test_bad_sizes(name, value):
    sizes = {"n_entities": 3, "n_relations": 2, "dim": 4} | {name: value}
    with pytest.raises(DomainError, match=f"{name} must be at least 1, got {value}"):
        MuRP(**sizes)


# ----------------------------------------------------------------------------------------------- other forms and spaces


MIXED = Product([(PoincareBall(0.5), 3), (Lorentz(), 2), (Euclidean(), 2)])


@pytest.mark.parametrize(
    ("manifold", "kind"),
    [*((space(c), HyperbolicTranslated) for space in HYPERBOLIC for c in (1.0, 0.5)), (MIXED, ProductTranslated)],
    ids=repr,
)
def test_closed_form_equals_the_definition(manifold, kind):
    """HyperbolicTranslated and ProductTranslated against ManifoldTranslated, every function of them."""
    g = generator()
    closed, definition = translated(manifold), ManifoldTranslated(manifold)
    assert type(closed) is kind
    d = sum(manifold.dims) if kind is ProductTranslated else 4
    tables = [coordinates(n, d, 2.0, g) for n in (8, 8, 8)]
    q, v, r = (closed.lift(u) for u in tables)
    Q, V, R = (definition.lift(u) for u in tables)
    assert torch.allclose(closed.sqdist(q, v, r), definition.sqdist(Q, V, R), rtol=0, atol=1e-11)
    assert torch.allclose(closed.sqdist_matrix(q, v, r), definition.sqdist_matrix(Q, V, R), rtol=0, atol=1e-11)
    one = torch.tensor([3])
    w, W = closed.translate(v, closed.take(r, one)), definition.translate(V, definition.take(R, one))
    assert torch.allclose(closed.sqdist_moved(q, w), definition.sqdist_moved(Q, W), rtol=0, atol=1e-11)
    assert torch.allclose(closed.sq_radius(q), definition.sq_radius(Q), rtol=1e-12, atol=0)
    lifted = closed.lift_points(V)
    for a, b in zip(lifted, v, strict=True) if kind is ProductTranslated else [(lifted, v)]:
        if isinstance(b, Points):
            assert torch.allclose(a.time, b.time, rtol=1e-12, atol=0)
            assert torch.allclose(a.space, b.space, rtol=0, atol=1e-12 * float(b.space.abs().max()))
        else:
            assert torch.equal(a, b)


@pytest.mark.parametrize("tangent", [True, False])
def test_models_go_by_the_definition_on_other_manifolds(tangent, monkeypatch):
    m, (h, r, t) = model(7, 1.5, MIXED, tangent=tangent), batch()
    expected = m(h, r, t)
    monkeypatch.setattr("geoembed.models.multirelational.translated", ManifoldTranslated)
    assert (scores_of_all_kinds(m, h, r, t) - expected).abs().max() <= 1e-10


@pytest.mark.parametrize("tangent", [True, False])
def test_a_product_adds_up_its_factors(tangent):
    m, (h, r, t) = model(7, 1.5, MIXED, tangent=tangent), batch()
    scores = scores_of_all_kinds(m, h, r, t)
    assert (scores - scores[0]).abs().max() <= 1e-10
    # the squared distance of a product is the sum of those of the factors, each a model of its own
    tangents = m.parameterised(True, F64)
    total, first = torch.zeros(len(h), dtype=F64), 0
    for manifold, size in zip(MIXED.factors, MIXED.dims, strict=True):
        part = MultiRelational(N_ENTITIES, N_RELATIONS, size, manifold, dtype=F64)
        with torch.no_grad():
            for name in ("entity", "translation", "diagonal"):
                getattr(part, name).copy_(getattr(tangents, name)[:, first : first + size])
        total, first = total + part(h, r, t), first + size
    expected = total + m.bias[h, 0] + m.bias[t, 1]
    assert (m(h, r, t) - expected).abs().max() <= 1e-10
    scored = m.score_batch(*batch(10, (5,)))
    (scored.positive.sum() + scored.negative.sum()).backward()
    assert all(p.grad is not None and p.grad.to_dense().isfinite().all() for p in m.parameters())


@pytest.mark.parametrize(("radius", "tolerance"), [(1.0, 7e-6), (2.0, 1e-4), (4.0, 1e-2)])
def test_float32_against_float64(radius, tolerance):
    """The error of cosh d - 1 is a few roundings of cosh^3(radius), that of d^2 is at most twice it."""
    assert tolerance <= 16 * math.cosh(radius) ** 3 * torch.finfo(torch.float32).eps
    for seed in range(3):
        m = model(40, radius, seed=seed)
        low = m.parameterised(True, torch.float32)
        triples = batch(40, (30,))
        a, b = m.score_batch(*triples), low.score_batch(*triples)
        assert b.negative.dtype == torch.float32
        assert (a.positive - b.positive).abs().max() <= tolerance
        assert (a.negative - b.negative).abs().max() <= tolerance
        assert (m.tail_scorer(1)(triples[0]) - low.tail_scorer(1)(triples[0])).abs().max() <= tolerance


# --------------------------------------------------------------------------------------------------------- gradients


def total(scored, weights):
    return sum((part * w).sum() for part, w in zip(scored, weights, strict=True))


@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(0.6), HalfSpace(2.0), Euclidean()], ids=repr)
@pytest.mark.parametrize("shape", [(4,), (3, 2)], ids=["shared", "own"])
def test_gradcheck(manifold, tangent, shape):
    m = model(3, 1.5, manifold, tangent=tangent, sparse=False)
    h, r, t, negatives = batch(3, shape)
    names = [name for name, p in m.named_parameters() if p.requires_grad]

    def scores(*values):
        kept = {name: getattr(m, name) for name in names}
        try:
            for name in names:
                del m._parameters[name]
            for name, value in zip(names, values, strict=True):
                setattr(m, name, value)
            return tuple(m.score_batch(h, r, t, negatives))
        finally:
            for name in names:
                m.__dict__.pop(name, None)
            m._parameters.update(kept)

    values = [getattr(m, name).detach().clone().requires_grad_() for name in names]
    assert gradcheck(scores, values)


@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize("space", HYPERBOLIC)
def test_gradient_of_a_learnable_curvature(space, tangent):
    m = model(4, 1.0, space(0.7, learnable=True), tangent=tangent)
    triples = batch(10, (6,))
    weights = [torch.randn(s.shape, generator=generator(), dtype=F64) for s in m.score_batch(*triples)]
    total(m.score_batch(*triples), weights).backward()
    step, values = 1e-5, []
    for sign in (1, -1):
        with torch.no_grad():
            m.manifold.log_c.add_(sign * step)
            values.append(total(m.score_batch(*triples), weights).item())
            m.manifold.log_c.sub_(sign * step)
    slope = (values[0] - values[1]) / (2 * step)
    assert m.manifold.log_c.grad.item() == pytest.approx(slope, rel=1e-7)
    assert abs(slope) > 1e-3


def test_scores_of_curvature_c_are_those_of_scaled_coordinates():
    """Distances of curvature -c are those of curvature -1 between points sqrt(c) as far out, over sqrt(c)."""
    c, (h, r, t) = 2.5, batch()
    m, unit = model(5, 1.5, PoincareBall(c)), model(5, 1.5, PoincareBall())
    with torch.no_grad():
        for table in (unit.entity, unit.translation):
            table.mul_(c**0.5)
        for each in (m, unit):
            each.bias.zero_()
    assert torch.allclose(m(h, r, t), unit(h, r, t) / c, rtol=1e-12, atol=1e-12)


def test_small_curvature_tends_to_mure():
    m, flat, triples = model(5, 1.0, PoincareBall(1e-8)), model(5, 1.0, Euclidean()), batch()
    assert (m(*triples) - flat(*triples)).abs().max() <= 1e-6


def gradients(m, *triples):
    m.zero_grad()
    scored = m.score_batch(*triples)
    scored.positive.sum().add(scored.negative.sum()).backward()
    return {name: p.grad.to_dense() for name, p in m.named_parameters()}


def riemannian_gradients(m, *triples):
    """What moves the points: the part of the gradient along the manifold."""
    found = gradients(m, *triples)
    if not m.tangent:
        for name in ("entity", "translation"):
            found[name] = m.manifold.egrad2rgrad(getattr(m, name).detach(), found[name])
    return found


@pytest.mark.parametrize("dtype", [torch.float32, F64])
@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize("manifold", [*(space() for space in HYPERBOLIC), Euclidean()], ids=repr)
def test_gradients_of_all_zero_tables(manifold, tangent, dtype):
    """Everything at the origin: distances and their gradients are zero, only the biases move."""
    m = MultiRelational(N_ENTITIES, N_RELATIONS, 4, manifold, tangent=tangent, dtype=dtype, scale=0.0)
    for triples in (batch(10, (6,)), batch(10, (10, 3))):
        found = riemannian_gradients(m, *triples)
        for name in ("entity", "translation", "diagonal"):
            assert not found[name].any(), name
        assert found["bias"].abs().sum() > 0


@pytest.mark.parametrize("tangent", [True, False])
@pytest.mark.parametrize("manifold", [*(space() for space in HYPERBOLIC), Euclidean()], ids=repr)
def test_gradients_at_identical_points(manifold, tangent):
    """q = w: R = 1 and no translation move no head, so a triple (h, r, h) is at distance zero, a minimum."""
    m = model(4, 1.5, manifold, tangent=tangent)
    with torch.no_grad():
        m.diagonal.fill_(1.0)
        zero = torch.zeros(N_RELATIONS, 4, dtype=F64)
        m.translation.copy_(zero if tangent else manifold.from_tangent(zero))
    h, r, _ = batch(12)
    for negatives in (h[:1], h[:, None].expand(12, 2)):
        scored = m.score_batch(h[:1], r[:1], h[:1], negatives[:1])
        bias = m.bias[h[0]].sum()
        assert (scored.positive - bias).abs() <= 1e-13
        assert (scored.negative - bias).abs().max() <= 1e-13
        found = riemannian_gradients(m, h[:1], r[:1], h[:1], negatives[:1])
        for name in ("entity", "translation", "diagonal"):
            assert found[name].isfinite().all()
            assert found[name].abs().max() <= 1e-11, name


@pytest.mark.parametrize("space", HYPERBOLIC)
def test_gradient_of_a_head_at_the_origin(space):
    """The gradient of -d(exp_0 a, w)^2 at a = 0 is 2 log_0 w, so that of the head's coordinates is 2 R log_0 w."""
    m = model(4, 1.5, space())
    with torch.no_grad():
        m.entity[0] = 0
    h, r, t = torch.tensor([0]), torch.tensor([1]), torch.tensor([7])
    w = m.manifold.to_tangent(m.answer(t, r))
    for negatives in (t, t[None]):
        found = gradients(m, h, r, t, negatives)["entity"][0]
        assert (found - 4 * (m.diagonal[1] * w)[0]).abs().max() <= 1e-12  # the triple and the negative


def test_gradient_at_the_origin_for_shared_zero_points_is_finite_in_float32():
    m = MuRP(N_ENTITIES, N_RELATIONS, 4, scale=0.0)
    with torch.no_grad():
        m.translation.normal_(generator=generator())
    assert all(grad.isfinite().all() for grad in gradients(m, *batch(10, (6,))).values())


def test_squared_distance_is_smooth_at_zero():
    z = torch.tensor([0.0, 1e-30, 1e-20, 1e-12, 1e-6, -1e-17], dtype=F64, requires_grad=True)
    d2 = _SquaredArcosh1p.apply(z)
    d2.sum().backward()
    assert (z.grad - 2).abs().max() <= 1e-6  # the slope at z is 2 - 2 z / 3 + ...
    assert (z.grad[:4] - 2).abs().max() <= 1e-11
    assert torch.allclose(d2[1:5], 2 * z[1:5] - z[1:5] ** 2 / 3, rtol=1e-12, atol=0)
    assert 0 <= d2[0] <= 1e-29
    assert 0 <= d2[5] <= 1e-29
    big = torch.logspace(-8, 8, 50, dtype=F64, requires_grad=True)
    assert torch.allclose(_SquaredArcosh1p.apply(big).sqrt().cosh() - 1, big, rtol=1e-6, atol=0)
    assert gradcheck(_SquaredArcosh1p.apply, (torch.logspace(-2, 3, 8, dtype=F64, requires_grad=True),))
    assert _SquaredArcosh1p.apply(torch.tensor(float("nan"))).isnan()


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(0.5), HalfSpace(), Euclidean()], ids=repr)
@pytest.mark.parametrize("tangent", [True, False])
def test_sparse_and_dense_gradients_are_equal(manifold, tangent):
    sparse, dense = (model(4, 1.5, manifold, tangent=tangent, sparse=flag) for flag in (True, False))
    for triples in (batch(10, (6,)), batch(10, (10, 3))):
        a, b = gradients(sparse, *triples), gradients(dense, *triples)
        assert sparse.entity.grad.is_sparse
        assert sparse.bias.grad.is_sparse
        assert not dense.entity.grad.is_sparse
        for name in a:
            assert (a[name] - b[name]).abs().max() <= 1e-12 * max(1.0, float(b[name].abs().max())), name


@pytest.mark.parametrize("manifold", [PoincareBall(), Lorentz(), HalfSpace(), Euclidean()], ids=repr)
@pytest.mark.parametrize("tangent", [True, False])
def test_a_few_steps_learn_a_triple(manifold, tangent):
    m = MultiRelational(N_ENTITIES, N_RELATIONS, 4, manifold, tangent=tangent, generator=generator(), scale=0.1)
    optimizer = RiemannianSGD(m.parameters(), lr=0.05)
    h, r, t, negatives = batch(20, (8,))
    losses = []
    for _ in range(30):
        optimizer.zero_grad()
        scored = m.score_batch(h, r, t, negatives)
        loss = torch.nn.functional.softplus(-scored.positive).sum()
        loss = loss + torch.nn.functional.softplus(scored.negative).mean(1).sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.9 * losses[0]
    m.manifold.check(m.points())
