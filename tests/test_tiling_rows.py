"""Rows of tilings narrower than their manifold allows: the same numbers as with all limbs, and growth in training."""

import copy
import itertools
import math

import geoopt
import pytest
import torch
from torch.func import grad, vmap

from geoembed import codec
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import HTiling, convert
from geoembed.manifolds.ltiling import LTiling
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD

F64, F32 = torch.float64, torch.float32
TILINGS = [HTiling(1, 4), HTiling(2, 6), HTiling(5, 6), LTiling(1, 5), LTiling(3, 5), LTiling(2, 4, metric="l1", c=0.5)]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(11)


def directions(n, d, generator):
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=F64, generator=generator), dim=-1)


def points(manifold, n, radius, generator, dtype=F64):
    """Points up to a radius, that of the last."""
    u = torch.linspace(0.1, 1, n).unsqueeze(-1) * radius * directions(n, manifold.dim, generator)
    return manifold.from_tangent(u.to(dtype))


def far(manifold, n, radius, generator, dtype=F64):
    """Points where every plane, and a half-space, needs large integers."""
    u = 0.1 * torch.randn(n, manifold.dim, dtype=F64, generator=generator) + 1
    u[:, -1] -= 2
    return manifold.from_tangent((radius * torch.nn.functional.normalize(u, dim=-1)).to(dtype))


def same(manifold, narrow, wide):
    """Bit by bit, the narrow rows filled with zeros."""
    assert narrow.shape[-1] < wide.shape[-1]
    assert torch.equal(manifold.resized(narrow), wide)


# ------------------------------------------------------------------------------ rows


@pytest.mark.parametrize("m", TILINGS[1:], ids=repr)
@pytest.mark.parametrize("radius", [5.0, 35.0])
def test_every_method_takes_rows_of_any_width(m, radius, generator):
    x, y, z = (points(m, 8, radius, generator) for _ in range(3))
    u, v = 0.1 * m.logmap(x, y), m.logmap(x, z)
    a, b = m.narrow(x), m.narrow(y)
    s, t = (m.resized(vector, m.limbs_of(a.shape[-1])) for vector in (u, v))
    for first, second, vector, other in itertools.product((a, x), (b, y), (s, u), (t, v)):
        widest = max(row.shape[-1] for row in (first, second, vector, other))

        def filled(row, *operands):
            assert row.shape[-1] == max(operand.shape[-1] for operand in operands)
            return m.resized(row)

        assert torch.equal(m.dist(first, second), m.dist(x, y))
        assert torch.equal(m.cdist(first, second), m.cdist(x, y))
        assert torch.equal(m.inner(first, vector, other), m.inner(x, u, v))
        assert torch.equal(m.norm(first, vector), m.norm(x, u))
        assert torch.equal(filled(m.logmap(first, second), first, second), m.logmap(x, y))
        assert torch.equal(filled(m.transp(first, second, other), first, second, other), m.transp(x, y, v))
        assert torch.equal(filled(m.expmap(first, vector), first, vector), m.expmap(x, u))
        assert torch.equal(filled(m.retr(first, vector), first, vector), m.retr(x, u))
        assert torch.equal(filled(m.geodesic_step(first, vector), first, vector), m.geodesic_step(x, u))
        assert torch.equal(filled(m.egrad2rgrad(first, vector), first, vector), m.egrad2rgrad(x, u))
        for got, known in zip(m.retr_transp(first, vector, other), m.retr_transp(x, u, v), strict=True):
            assert got.shape[-1] <= widest
            assert torch.equal(m.resized(got), known)
    same(m, m.projx(m.geodesic_step(a, s)), m.expmap(x, u))
    same(m, m.proju(a, s), u)
    assert torch.equal(m.widened(m.component_inner(a, s), m.limbs), m.component_inner(x, u))
    same(m, m.expmap0(0.1 * m.logmap0(a)), m.expmap0(0.1 * m.logmap0(x)))
    m.check(a)
    assert torch.equal(m.to_tangent(a), m.to_tangent(x))
    for way in ("to_halfspace", "to_lorentz", "to_poincare"):
        assert torch.equal(getattr(m, way)(a), getattr(m, way)(x))
    if radius < 10:
        assert torch.equal(m.resized(m.add(a, b)), m.add(x, y))
        torch.testing.assert_close(m.barycentre(a[:3]), m.barycentre(x[:3]), rtol=0, atol=1e-13)


@pytest.mark.parametrize("manifold", TILINGS[1:], ids=repr)
def test_gradients_of_narrow_rows(manifold, generator):
    x, y = (points(manifold, 6, 12.0, generator) for _ in range(2))
    a, b = manifold.narrow(x), manifold.narrow(y)

    def slopes(x, y):
        x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
        step = manifold.expmap(x, 0.1 * manifold.logmap(x, y))
        value = manifold.dist(x, y).sum() + manifold.dist2(step, y).sum() + manifold.cdist(x, y).square().sum()
        return torch.autograd.grad(value, (x, y))

    known = slopes(x, y)
    for pair in ((a, b), (a, y), (x, b)):
        for point, slope, wide in zip(pair, slopes(*pair), known, strict=True):
            assert slope.shape == point.shape
            assert torch.equal(manifold._fitted(slope, manifold.limbs), wide)
    by_row = vmap(grad(manifold.dist))
    assert torch.equal(manifold._fitted(by_row(a, y), manifold.limbs), by_row(x, y))


@pytest.mark.parametrize("manifold", [TILINGS[1], TILINGS[3]], ids=repr)
def test_compile(manifold, generator):
    x, y = (points(manifold, 6, 12.0, generator) for _ in range(2))

    def function(x, y):
        return manifold.dist(manifold.expmap(x, manifold.logmap(x, y) / 2), y)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(manifold.narrow(x), y), function(x, y))


@pytest.mark.parametrize("manifold", TILINGS, ids=repr)
@pytest.mark.parametrize("dtype", [F64, F32])
def test_narrow_rows_have_room_for_a_step(manifold, dtype, generator):
    for radius in (0.1, 8.0, 13.0, 20.0, 30.0, 45.0):
        if manifold.c.sqrt() * radius > (60 if dtype == F64 else 25):
            continue
        x = points(manifold, 30, radius, generator, dtype)
        narrow = manifold.narrow(x)
        assert narrow.dtype == dtype
        assert torch.equal(manifold.resized(narrow), x)
        assert manifold.narrow(narrow).shape == narrow.shape
        assert manifold.dim == 1 or manifold.limbs_of(narrow.shape[-1]) - manifold.limbs_used(x) in (0, 1)
        step = manifold.from_tangent(
            13 / manifold.c.sqrt().to(dtype) * directions(30, manifold.dim, generator).to(dtype)
        )
        u = manifold.logmap(manifold._origin_like(step), step)
        assert torch.equal(manifold.resized(manifold.expmap(narrow, manifold.resized(u, 1))), manifold.expmap(x, u))


def test_limbs_used_and_resized(generator):
    h, square = HTiling(3, 5), LTiling(2, 4)
    assert [h.limbs_used(h.from_tangent(r * directions(1, 3, generator))) for r in (0.0, 25.0, 50.0, 80.0)] == [
        1,
        1,
        2,
        3,
    ]
    assert square.limbs_used(square.from_tangent(20 * directions(1, 4, generator))) == 1
    assert h.limbs_used(h.origin(0, h.width)) == 1
    assert h.limbs_used(HTiling(3, 9).origin(2, 22)) == 1
    for manifold, wider in ((h, HTiling(3, 8)), (square, LTiling(2, 8))):
        far = points(wider, 4, 70.0, generator)
        rows = manifold.resized(far)
        manifold.check(rows)
        assert torch.equal(wider.resized(rows), far)
        assert torch.equal(manifold.dist(rows[:1], rows), wider.dist(far[:1], far))
        needed = wider.limbs_used(far)
        with pytest.raises(DomainError, match=rf"beyond what {needed - 1} limb.* need limbs={needed}"):
            manifold.resized(far, needed - 1)
        with pytest.raises(DomainError, match=r"beyond what . limb.* need limbs=[68]"):
            manifold.resized(points(wider, 2, 200.0, generator))
        for limbs in (0, manifold.limbs + 1, 1.0, True):
            with pytest.raises(ShapeError, match="limb"):
                manifold.resized(rows, limbs)
        with pytest.raises(ShapeError, match="expected points"):
            manifold.resized(rows[:, :-1])
        with pytest.raises(ShapeError, match=r"have \d+ \.\. \d+ coordinates"):
            manifold.dist(far, far)
        assert convert(manifold.narrow(rows[:1]), manifold, manifold).shape[-1] < manifold.width
    nan = h.origin(2, h.width, dtype=F64)
    nan[1, -1] = float("nan")
    assert h.limbs_used(nan) == 5


def test_points_from_nothing():
    """They have all limbs, unless narrower rows are asked for."""
    for manifold in TILINGS[1:]:
        least = manifold._width(1)
        assert manifold.from_tangent(torch.zeros(3, manifold.dim)).shape == (3, manifold.width)
        assert manifold.random(3, manifold.width).shape == manifold.origin((3, manifold.width)).shape
        assert manifold.origin(3, least).shape == manifold.random(torch.Size((3, least))).shape == (3, least)
        assert torch.equal(manifold.resized(manifold.origin(3, least)), manifold.origin(3, manifold.width))
        with pytest.raises(DomainError, match="need limbs="):
            manifold.random(50, least, std=20.0, generator=torch.Generator().manual_seed(0), dtype=F64)


@pytest.mark.parametrize("manifold", [TILINGS[0], TILINGS[2], TILINGS[4]], ids=repr)
def test_codec_and_words(manifold, generator):
    x = points(manifold, 20, 20.0, generator)
    narrow = manifold.narrow(x)
    data = codec.encode(narrow, manifold)
    assert data == codec.encode(x, manifold)
    assert codec.report(narrow, manifold, data=data).error == codec.report(x, manifold, data=data).error
    if isinstance(manifold, LTiling):
        assert manifold.frames(narrow) == manifold.frames(x)
        assert torch.equal(manifold.cells(narrow), manifold.cells(x))
        same(manifold, manifold.act([("a", 2)], narrow), manifold.act([("a", 2)], x))
        assert torch.equal(manifold.from_words(manifold.words(narrow), manifold.cells(narrow)), x)


# ------------------------------------------------------------------------------ growth

STEPS = [
    (RiemannianSGD, {"lr": 2.0, "momentum": 0.2, "dampening": 0.1}),
    (RiemannianSGD, {"lr": 1.5, "momentum": 0.4, "nesterov": True, "stabilize": 3}),
    (RiemannianAdam, {"lr": 3.0, "betas": (0.2, 0.9), "stabilize": 4}),
    (RiemannianAdam, {"lr": 3.0, "betas": (0.2, 0.9), "amsgrad": True, "eps": 0.0}),
    (RiemannianAdam, {"lr": 3.0, "betas": (0.2, 0.9), "weight_decay": 1e-4, "decoupled_weight_decay": True}),
    (RiemannianAdagrad, {"lr": 12.0, "initial_accumulator_value": 0.1}),
]
GROWING = [
    (HTiling(2, 8), F64, True),
    (HTiling(4, 8), F64, False),
    (HTiling(3, 9), F32, True),
    (LTiling(1, 9), F64, False),
    (LTiling(2, 7), F32, True),
]


def walk(param, manifold, optimizer, target, sparse, steps, generator):
    """Towards far targets, some of the rows each time; the points and widths on the way."""
    for _ in range(steps):
        optimizer.zero_grad()
        ids = torch.randint(len(param), (8,), generator=generator)
        rows = torch.nn.functional.embedding(ids, param, sparse=sparse)
        loss = manifold.dist(rows, target[ids]).sum() + 0.1 * manifold.dist(rows[:4], rows[4:]).sum()
        loss.backward()
        optimizer.step()
        yield manifold.resized(param.detach())


@pytest.mark.parametrize(("manifold", "dtype", "sparse"), GROWING)
@pytest.mark.parametrize(("optimizer", "options"), STEPS)
def test_the_trajectory_is_that_of_full_rows(manifold, dtype, sparse, optimizer, options):
    """Bit by bit, points and state, over several growths."""
    g = torch.Generator().manual_seed(5)
    start = points(manifold, 5, 2.0, g, dtype)
    target = far(manifold, 5, 200.0 if dtype == F64 else 80.0, g, dtype)
    params = [geoopt.ManifoldParameter(x, manifold=manifold) for x in (manifold.narrow(start), start.clone())]
    optimizers = [optimizer([param], **options) for param in params]
    decay, widths = "weight_decay" in options, []
    walks = [
        walk(param, manifold, steps, target, sparse, 16 if decay else 30, torch.Generator().manual_seed(6))
        for param, steps in zip(params, optimizers, strict=True)
    ]
    for narrow, wide in zip(*walks, strict=True):
        widths.append(params[0].shape[-1])
        assert torch.equal(narrow, wide)
    grown = sorted(set(widths))
    assert len(grown) >= 3 - decay
    assert grown[0] == manifold._width(1 if isinstance(manifold, LTiling) or dtype == F64 else 2)
    assert params[0].shape < params[1].shape
    states = [steps.state[param] for steps, param in zip(optimizers, params, strict=True)]
    assert list(states[0]) == list(states[1])
    for name, value in states[0].items():
        row_wise = value.shape == params[0].shape
        assert torch.equal(manifold.widened(value, manifold.limbs) if row_wise else value, states[1][name])
    assert params[0].grad.shape == params[0].shape
    full = params[1].grad.to_dense()
    assert torch.equal(manifold.widened(params[0].grad.to_dense(), manifold.limbs), full)


@pytest.mark.parametrize("manifold", [HTiling(3, 20), LTiling(2, 20)], ids=repr)
@pytest.mark.parametrize("cls", [RiemannianSGD, geoopt.optim.RiemannianSGD])
def test_a_step_beyond_the_room(manifold, cls, generator):
    """It raises and moves nothing; so do geoopt's optimizers, which know no growth, at the end of the rows."""
    x = points(manifold, 4, 5.0, generator)
    param = geoopt.ManifoldParameter(manifold.narrow(x), manifold=manifold)
    optimizer = cls([param], lr=90.0)
    target = points(manifold, 4, 300.0, generator)
    manifold.dist(param, target).sum().backward()
    with pytest.raises(DomainError, match=r"beyond radius .*needs limbs=[2-9] .*resized"):
        optimizer.step()
    assert torch.equal(manifold.resized(param.detach()), x)
    assert param.shape[-1] == manifold._width(1)
    for group in optimizer.param_groups:
        group["lr"] = 5.0

    def steps():
        for _ in range(10):
            optimizer.zero_grad()
            manifold.dist(param, target).sum().backward()
            optimizer.step()

    if cls is RiemannianSGD:
        steps()
        assert param.shape[-1] > manifold._width(1)
    else:
        with pytest.raises(DomainError, match=r"beyond radius .*needs limbs=2"):
            steps()
        manifold.check(param.detach())
        assert param.shape[-1] == manifold._width(1)


@pytest.mark.parametrize("manifold", [HTiling(3, 2), LTiling(1, 2)], ids=repr)
def test_rows_end_where_the_manifold_does(manifold, generator):
    wider = HTiling(3, 9) if isinstance(manifold, HTiling) else LTiling(1, 9)
    side = torch.tensor([1.0, 0.0, 0.2], dtype=F64)[: manifold.dim]
    target = wider.from_tangent(200 * side)
    param = geoopt.ManifoldParameter(manifold.origin(1, manifold._width(1), dtype=F64), manifold=manifold)
    optimizer = RiemannianSGD([param], lr=4.0)

    def steps():
        for _ in range(30):
            optimizer.zero_grad()
            wider.dist(param, target).sum().backward()
            optimizer.step()

    with pytest.raises(DomainError, match=r"rows of 2 limb.*needs limbs=3"):
        steps()
    assert param.shape == (1, manifold.width)
    assert 40 < manifold.to_tangent(param.detach()).norm() < 66


def test_nan_is_no_reason_to_grow():
    manifold = HTiling(3, 5)
    x = manifold.origin(2, manifold._width(1), dtype=F64)
    x[1] = float("nan")
    assert manifold.limbs_wanted(x) == 1
    x[0, -1] = 2.0**30
    assert manifold.limbs_wanted(x) == 2
    assert manifold.limbs_wanted(x, torch.tensor([1])) == 1


@pytest.mark.parametrize("manifold", [HTiling(3, 6), LTiling(2, 6)], ids=repr)
@pytest.mark.parametrize(("optimizer", "options"), [STEPS[0], STEPS[3]])
def test_a_state_is_loaded_whatever_the_width(manifold, optimizer, options):
    """Saved after growth, loaded by an optimizer of a table that has not grown, and the other way."""
    target = far(manifold, 5, 120.0, torch.Generator().manual_seed(1))
    start = manifold.narrow(points(manifold, 5, 2.0, torch.Generator().manual_seed(2)))

    def fresh(rows):
        param = geoopt.ManifoldParameter(rows.clone(), manifold=manifold)
        return param, optimizer([param], **options)

    param, steps = fresh(start)
    *_, middle = walk(param, manifold, steps, target, True, 16, torch.Generator().manual_seed(3))
    saved, state = param.detach().clone(), copy.deepcopy(steps.state_dict())
    assert start.shape < saved.shape
    *_, known = walk(param, manifold, steps, target, True, 8, torch.Generator().manual_seed(4))
    for rows in (start, manifold.resized(start)):
        other, later = fresh(rows)
        later.load_state_dict(copy.deepcopy(state))
        assert other.shape[-1] == max(rows.shape[-1], saved.shape[-1])
        assert torch.equal(manifold.resized(other.detach()), manifold.resized(start))
        other.data.copy_(manifold.resized(saved, manifold.limbs_of(other.shape[-1])))
        assert torch.equal(manifold.resized(other.detach()), middle)
        *_, got = walk(other, manifold, later, target, True, 8, torch.Generator().manual_seed(4))
        assert torch.equal(got, known)


@pytest.mark.parametrize(
    ("cls", "options"),
    [
        (geoopt.optim.RiemannianSGD, {"lr": 0.2, "momentum": 0.3}),
        (geoopt.optim.RiemannianAdam, {"lr": 0.3, "amsgrad": True}),
        (geoopt.optim.SparseRiemannianSGD, {"lr": 0.2}),
        (geoopt.optim.SparseRiemannianAdam, {"lr": 0.1}),
    ],
)
@pytest.mark.parametrize("manifold", [HTiling(3, 6), LTiling(2, 6)], ids=repr)
def test_geoopts_optimizers_step_narrow_rows(manifold, cls, options, generator):
    start, target = points(manifold, 6, 4.0, generator), points(manifold, 6, 4.0, generator)
    params = [geoopt.ManifoldParameter(x, manifold=manifold) for x in (manifold.narrow(start), start.clone())]
    for param in params:
        optimizer = cls([param], **options)
        for _ in range(10):
            optimizer.zero_grad()
            rows = torch.nn.functional.embedding(torch.arange(5), param, sparse="Sparse" in cls.__name__)
            manifold.dist2(rows, target[:5]).sum().backward()
            optimizer.step()
    assert params[0].shape[-1] == manifold._width(1)
    assert torch.equal(manifold.resized(params[0].detach()), params[1].detach())
    assert (params[1].detach() != start).any()


def test_gradients_go_on_after_growth():
    """Through a graph that is still alive, into a gradient that is kept, and for hooks on the parameter."""
    manifold = HTiling(3, 6)
    target = manifold.from_tangent(torch.tensor([[90.0, 10.0, 0.0]], dtype=F64))
    param = geoopt.ManifoldParameter(manifold.origin(1, manifold._width(1), dtype=F64), manifold=manifold)
    seen, alive = [], []
    param.register_hook(lambda slope: seen.append(slope.shape))
    optimizer = RiemannianSGD([param], lr=5.0)
    for _ in range(10):
        optimizer.zero_grad(set_to_none=False)
        loss = manifold.dist(param, target).sum()
        alive.append(loss)
        loss.backward()
        optimizer.step()
    assert param.shape[-1] == manifold._width(3)
    assert sorted(set(seen)) == [(1, manifold._width(limbs)) for limbs in (1, 2, 3)]
    assert math.isclose(alive[0].item() - manifold.dist(param, target).item(), 50, rel_tol=1e-12)
