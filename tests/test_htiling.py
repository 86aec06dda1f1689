"""The tiled half-space against references of 700 digits, from the origin to radius 700 and beyond."""

import copy
import math

import geoopt
import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch.func import grad, vmap

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import Euclidean, HalfSpace, HTiling, Lorentz, PoincareBall, Product, convert
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD

F64, F32 = torch.float64, torch.float32
BITS = {F64: 40, F32: 20}
DIMS = [1, 2, 3, 5, 10]
RADII = [0.0, 0.5, 10.0, 37.0, 150.0, 400.0, 700.0]


@pytest.fixture(autouse=True)
def digits():
    """Enough of them to subtract the coordinates of points at radius 700 and keep 60."""
    with mp.workdps(700):
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def directions(n, d, generator):
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=F64, generator=generator), dim=-1)


# ------------------------------------------------------------------------------ the oracle, points (h, y) of mpf


def decoded(row, n):
    """The point a row stands for, as exact numbers."""
    bits, values = BITS[row.dtype], row.detach().double().tolist()
    cell, m, j, limbs = values[: n - 1], values[n - 1], int(values[n]), values[n + 1 :]
    k = [sum(int(v) << (bits * i) for i, v in enumerate(limbs[axis :: n - 1])) for axis in range(n - 1)]
    return [mpmath.ldexp(mpf(a) + b, j) for a, b in zip([*cell, m], [*k, 0], strict=True)]


def encoded(point, limbs, dtype=F64):
    """The row nearest to a point, its cell coordinates rounded down."""
    bits, y = BITS[dtype], point[-1]
    j = int(mpmath.floor(mpmath.log(y, 2)))
    scaled = [mpmath.ldexp(value, -j) for value in point]
    k = [int(mpmath.floor(value)) for value in scaled[:-1]]
    steps = 53 if dtype == F64 else 24
    fractions = [
        float(mpmath.ldexp(mpmath.floor(mpmath.ldexp(v - i, steps)), -steps))
        for v, i in zip(scaled[:-1], k, strict=True)
    ]
    rows = []
    for _ in range(limbs):
        low = [(value + (1 << bits - 1)) % (1 << bits) - (1 << bits - 1) for value in k]
        k = [(value - digit) >> bits for value, digit in zip(k, low, strict=True)]
        rows += low
    assert not any(k)
    return torch.tensor([*fractions, float(scaled[-1]), j, *rows], dtype=dtype)


def moved(point, v):
    """exp_point(v), v of n floats in the frame y d/dx_i."""
    v = [mpf(float(value)) for value in v]
    r = mpmath.sqrt(mpmath.fsum(value**2 for value in v))
    ratio = mpmath.sinh(r) / r if r else mpf(1)
    q = mpmath.cosh(r) - v[-1] * ratio
    return [h + point[-1] * value * ratio / q for h, value in zip(point[:-1], v[:-1], strict=True)] + [point[-1] / q]


def cosh_less_one(a, b):
    return mpmath.fsum((p - q) ** 2 for p, q in zip(a, b, strict=True)) / (2 * a[-1] * b[-1])


def distance(a, b):
    q = cosh_less_one(a, b)
    return mpmath.log1p(q + mpmath.sqrt(q * (q + 2)))


def slope(a, b):
    """Gradient of the distance at a, of length 1, in the frame y d/dx_i."""
    q = cosh_less_one(a, b)
    sinh = mpmath.sqrt(q * (q + 2))
    components = [(p - r) / b[-1] / sinh for p, r in zip(a, b, strict=True)]
    components[-1] -= q / sinh
    return torch.tensor([float(value) for value in components], dtype=F64)


def at(radius, direction):
    n = len(direction)
    return moved([mpf(0)] * (n - 1) + [mpf(1)], radius * direction.double())


def rgrad(manifold, x, y):
    """Gradient in the invariant frame, and that of integers, which is zero."""
    x = x.detach().clone().requires_grad_()
    (egrad,) = torch.autograd.grad(manifold.dist(x, y).sum(), x)
    assert (egrad[..., manifold.dim :] == 0).all()
    return manifold.egrad2rgrad(x.detach(), egrad)[..., : manifold.dim]


def compare(manifold, x, y, tolerance=1e-14, slopes=1e-12):
    """Distances and gradients of pairs of rows against the oracle."""
    n = manifold.dim
    points = [[decoded(row, n) for row in rows] for rows in (x, y)]
    true = [distance(a, b) for a, b in zip(*points, strict=True)]
    for got in (manifold.dist(x, y), manifold.dist(y, x), manifold.cdist(x, y).diagonal()):
        assert got.dtype == x.dtype
        for computed, known in zip(got.tolist(), true, strict=True):
            assert abs(computed - known) <= tolerance * known
    for one, other, a, b in ((x, y, *points), (y, x, *points[::-1])):
        known = torch.stack([slope(p, q) for p, q in zip(a, b, strict=True)])
        assert (rgrad(manifold, one, other) - known).norm(dim=-1).max() <= slopes


# ------------------------------------------------------------------------------ distances


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("radius", RADII)
def test_distances_and_gradients(d, radius, generator):
    """Pairs 1e-12 to 30 apart in any direction, pairs far apart, and the origin."""
    manifold = HTiling(d, HTiling.limbs_for(radius + 30))
    points = [at(radius, u) for u in directions(7, d, generator)]
    gaps = [1e-12, 1e-6, 8.7e-4, 0.3, 2.0, 30.0]
    others = [moved(p, gap * w) for p, gap, w in zip(points[:6], gaps, directions(6, d, generator), strict=True)]
    others.append(at(0.9 * radius + 0.1, directions(1, d, generator)[0]))
    x, y = (torch.stack([encoded(p, manifold.limbs) for p in row]) for row in (points, others))
    manifold.check(x)
    origin = manifold.origin(1, manifold.width, dtype=F64)
    compare(manifold, torch.cat([x, origin]), torch.cat([y, y[3:4]]))


def test_example_at_radius_700():
    manifold = HTiling(2, 27)
    u = torch.tensor([[0.6, 0.8], [0.6, 0.8], [-0.6, 0.8], [0.0, -1.0]], dtype=F64)
    x = manifold.from_tangent(700 * u)
    near = manifold.expmap(x[:1], manifold.proju(x[:1], 8.7e-4 * torch.eye(1, manifold.width, dtype=F64)))
    pairs = torch.cat([x[:1], x[:1], x[:1]]), torch.cat([near, x[2:]])
    compare(manifold, *pairs)
    d = manifold.dist(*pairs)
    assert d[0].item() == pytest.approx(8.7e-4, rel=1e-12)
    assert d[1].item() == pytest.approx(1400 + 2 * math.log(0.6), rel=1e-14)  # sine of half the angle between them


@pytest.mark.parametrize("d", [1, 2, 4])
@pytest.mark.parametrize("radius", [1.0, 350.0, 700.0])
def test_straight_up_and_down(d, radius):
    """Along the last axis, or all but."""
    manifold = HTiling(d, 27)
    u = torch.zeros(6, d, dtype=F64)
    u[:, -1] = radius * torch.tensor([1.0, -1.0, 1.0, -1.0, 0.5, -0.5]).double()
    u[2:4, 0] += torch.tensor([1e-200, 1e-3]).double()
    x = manifold.from_tangent(u)
    manifold.check(x)
    ends = [0, 1, 4, 5]
    known = [at(1.0, row) for row in u[ends]]
    assert all(distance(decoded(row, d), p) <= 1e-12 for row, p in zip(x[ends], known, strict=True))
    torch.testing.assert_close(manifold.to_tangent(x), u, rtol=1e-12, atol=1e-12)
    compare(manifold, x[[0, 1, 2, 3, 0, 1]], x[[1, 4, 1, 5, 5, 3]])


@pytest.mark.parametrize("gap", [1e-12, 1e-9, 1e-3])
def test_pairs_on_either_side_of_a_border(gap):
    """Of a cell, of a level, of a limb, and of all of these."""
    manifold, one = HTiling(2, 4), mpf(1)
    k = [0, 1, -1, 2**39 - 1, 2**39, -(2**39), 2**79 + 2**39, -(2**79) - 2**39, 2**118 + 2**79 + 2**39]
    pairs = []
    for level in (0, -3):
        for whole in k:
            below, above = (mpmath.ldexp(whole + side * mpf(gap), level) for side in (-1, 1))
            low, high = mpmath.ldexp(one - mpf(gap) / 3, level), mpmath.ldexp(one + mpf(gap) / 2, level)
            pairs += [([below, high], [above, high]), ([below, low], [below, high]), ([below, low], [above, high])]
            pairs += [([above, low], [below, high])]
    x, y = (torch.stack([encoded(p, 4) for p in side]) for side in zip(*pairs, strict=True))
    compare(manifold, x, y)


@pytest.mark.parametrize("levels", [1, 2, 39, 40, 41, 79, 80, 81, 119, 200, 1500])
def test_pairs_of_any_difference_in_height(levels, generator):
    manifold = HTiling(3, 3)
    fine = [torch.randint(-(2**39), 2**39, (5, 6), generator=generator).double() for _ in range(2)]
    cells = torch.rand(10, 2, dtype=F64, generator=generator)
    m, j = 1 + torch.rand(10, 1, dtype=F64, generator=generator), torch.zeros(10, 1, dtype=F64)
    x = torch.cat([cells, m, j, torch.cat(fine)], -1)
    y = x.roll(1, 0) + torch.tensor([0.0] * 3 + [levels] + [0.0] * 6, dtype=F64)
    above = [[*decoded(row, 3)[:2], decoded(other, 3)[2]] for row, other in zip(x, y, strict=True)]  # straight above
    y[5:] = torch.stack([encoded(p, 3) for p in above[5:]])
    manifold.check(x)
    compare(manifold, x, y)


@pytest.mark.parametrize("radius", [0.0, 1.0, 100.0, 700.0])
@pytest.mark.parametrize("dtype", [F64, F32])
def test_coincident(radius, dtype, generator):
    manifold = HTiling(4, 60)
    x = manifold.from_tangent((radius * directions(5, 4, generator)).to(dtype) * (1 if dtype == F64 else 0.1))
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    for d in (manifold.dist(x, y), manifold.dist2(x, y), manifold.cdist(x, y).diagonal()):
        assert (d == 0).all()
        for gradient in torch.autograd.grad(d.sum(), (x, y)):
            assert (gradient == 0).all()
    assert (manifold.logmap(x, y) == 0).all()


def test_points_of_one_cell_have_a_gradient():
    manifold = HTiling(2, 2)
    x = manifold.pack(torch.tensor([[0.25, 1.5], [0.5, 1.5]], dtype=F64))
    compare(manifold, x[:1], x[1:])
    assert rgrad(manifold, x[0], x[1]).norm().item() == pytest.approx(1, rel=1e-12)


def test_nan_stays_in_its_row(generator):
    manifold = HTiling(3, 2)
    x, y = manifold.random(2, 6, manifold.width, generator=generator, dtype=F64)
    clean = manifold.dist(x, y), manifold.cdist(x, y), manifold.expmap(x, manifold.logmap(x, y))
    for channel in range(manifold.width):
        z = x.clone()
        z[2, channel] = float("nan")
        for value, known in zip((manifold.dist(z, y), manifold.cdist(z, y)), clean, strict=False):
            assert value[2].isnan().all()
            assert torch.equal(torch.cat([value[:2], value[3:]]), torch.cat([known[:2], known[3:]]))
        assert manifold.projx(z)[2].isnan().any()
        assert torch.equal(manifold.projx(z)[3:], x[3:])
        with pytest.raises(DomainError, match=r"1 of 6 rows .* row 2"):
            manifold.check(z)
    u = manifold.logmap(x, y)
    u[1, 0] = float("nan")
    z = manifold.expmap(x, u)
    assert z[1].isnan().any()
    assert torch.equal(z[2:], clean[2][2:])


def test_group_elements_change_no_distance(generator):
    """Both points moved by 2^p and by integer translations, exactly: the same float comes out."""
    manifold = HTiling(3, 27)
    x, y = (torch.stack([encoded(at(5.0, u), 27) for u in directions(6, 3, generator)]) for _ in range(2))
    for power, shift in [(300, 0), (-400, 0), (0, 12345), (-100, 3**300), (-7, -(2**399))]:
        rows = []
        for row in torch.cat([x, y]):
            h1, h2, height = decoded(row, 3)
            rows.append(encoded([mpmath.ldexp(v, power) for v in (h1 + shift, h2 - 5 * shift, height)], 27))
        torch.testing.assert_close(torch.stack(rows)[:, 2], torch.cat([x, y])[:, 2], rtol=0, atol=0)
        assert torch.equal(manifold.dist(*torch.stack(rows).view(2, 6, -1)), manifold.dist(x, y))


# ------------------------------------------------------------------------------ moving


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("radius", RADII)
def test_expmap_and_logmap(d, radius, generator):
    manifold = HTiling(d, HTiling.limbs_for(radius + 31))
    for length in (0.0, 1e-9, 0.1, 1.0, 5.0, 30.0):
        points = [at(radius, u) for u in directions(3, d, generator)]
        x = torch.stack([encoded(p, manifold.limbs) for p in points])
        v = manifold._packed(length * directions(3, d, generator))
        y = manifold.expmap(x, v)
        manifold.check(y)
        known = [moved(decoded(row, d), u[:d].tolist()) for row, u in zip(x, v, strict=True)]
        far = 1e-15 * (1 + length) * math.exp(length)  # a rounding of the direction of v
        assert all(distance(decoded(row, d), p) <= 8 * far for row, p in zip(y, known, strict=True))
        if length <= 5:
            torch.testing.assert_close(manifold.logmap(x, y), v, rtol=1e-12, atol=8 * far)
        torch.testing.assert_close(manifold.norm(x, manifold.logmap(x, y)), manifold.dist(x, y), rtol=1e-13, atol=0)
        assert torch.equal(manifold.retr(x, v), y)
        if length == 0:
            assert torch.equal(y, x)


def test_riemannian_gradient_points_away(generator):
    manifold = HTiling(3, 4, c=0.5)
    x, y = manifold.random(2, 20, manifold.width, std=20.0, generator=generator, dtype=F64)
    gradient = rgrad(manifold, x, y)
    expected = -manifold.logmap(x, y) / manifold.dist(x, y).unsqueeze(-1)
    torch.testing.assert_close(gradient, expected[..., :3], rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(manifold.norm(x, expected), torch.ones(20, dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("radius", [0.0, 300.0])
def test_derivatives(radius, generator):
    """In cell coordinates; those of expmap include the carry."""
    manifold = HTiling(3, 12)
    n = manifold.dim
    x = manifold.from_tangent(radius * directions(4, n, generator))
    y = manifold.expmap(x, manifold._packed(1.3 * directions(4, n, generator)))
    x, y = manifold.expmap(x, manifold._packed(0.1 * directions(4, n, generator))), y
    v = 0.7 * directions(4, n, generator)

    def joined(cells, point):
        return torch.cat([cells, point[..., n:]], -1)

    def inputs(*tensors):
        return tuple(t.detach().clone().requires_grad_() for t in tensors)

    for method in (manifold.dist, manifold.cdist, manifold.logmap):
        run = lambda a, b, f=method: f(joined(a, x), joined(b, y))  # noqa: E731
        assert torch.autograd.gradcheck(run, inputs(x[..., :n], y[..., :n]))
    assert torch.autograd.gradgradcheck(lambda a: manifold.dist(joined(a, x), y), inputs(x[..., :n]))
    run = lambda a, u: manifold.expmap(joined(a, x), manifold._packed(u))[..., :n]  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs(x[..., :n], v))
    # the derivative of log_x at x takes cell coordinates to the frame: 1 / m
    jacobian = torch.autograd.functional.jacobian(lambda a: manifold.logmap(x[0], joined(a, x[0]))[:n], x[0, :n])
    torch.testing.assert_close(jacobian, torch.eye(n, dtype=F64) / x[0, n - 1], rtol=1e-12, atol=1e-12)


def test_transport_and_inner_product(generator):
    manifold = HTiling(3, 2, c=0.3)
    x, y = manifold.random(2, 5, manifold.width, generator=generator, dtype=F64)
    u, v = manifold.logmap(x, y), manifold._packed(directions(5, 3, generator))
    assert torch.equal(manifold.transp(x, y, u), u)
    torch.testing.assert_close(manifold.inner(x, u, v), manifold.inner(y, manifold.transp(x, y, u), v))
    torch.testing.assert_close(manifold.inner(x, v), torch.full((5,), 1 / 0.3, dtype=F64))
    assert torch.equal(manifold.proju(x, u + 1)[..., 3:], torch.zeros(5, manifold.width - 3, dtype=F64))
    z = manifold.random(5, manifold.width, generator=generator, dtype=F64)
    moved_distance = manifold.dist(manifold.add(z, x), manifold.add(z, y))
    torch.testing.assert_close(moved_distance, manifold.dist(x, y), rtol=1e-12, atol=0)


def test_carrying_is_exact_and_idempotent(generator):
    """Points spread far out of their cell, raised and lowered over limbs, stand for the same numbers."""
    manifold = HTiling(3, 4)
    x = manifold.random(12, manifold.width, std=5.0, generator=generator, dtype=F64)
    x[:, :2] += torch.tensor([0, 1, -7, 2.0**45, -(2.0**60), 1e-20, -1e-20, 2**39, 0.5, 0, 3, 0]).double().unsqueeze(-1)
    x[:, 2] *= torch.tensor([1, 1, 1, 1, 1, 1, 1, 1, 2.0**-30, 2.0**-41, 2.0**-85, 2.0**-1]).double()
    y = manifold.projx(x)
    manifold.check(y)
    assert torch.equal(manifold.projx(y), y)
    for before, after in zip(x, y, strict=True):
        a, b = decoded(before, 3), decoded(after, 3)
        error = max(abs(p - q) for p, q in zip(a, b, strict=True))
        assert error <= a[-1] * 2**-53
    assert (manifold.dist(x, y)[:8] < 1e-15).all()


def test_one_point_alone(generator):
    """A single row, with and without a batch dimension, is carried as in a batch and left as it is."""
    manifold = HTiling(3, 4)
    x = manifold.random(6, manifold.width, std=5.0, generator=generator, dtype=F64)
    x[:, :2] += 3.7
    x[:, 2] *= 2.0**-3
    y = manifold.projx(x)
    for row, carried in zip(x, y, strict=True):
        for point in (row.clone(), row.unsqueeze(0)):
            kept = point.clone()
            assert torch.equal(manifold.projx(point).view(-1), carried)
            assert torch.equal(point, kept)
        assert manifold.dist(row, carried).shape == ()
    y[0, 4:] = torch.tensor([3, 0, -3, 0, 2, 0, -1, 0.0])  # limbs whose sum falls
    d = manifold.dist(y[:3], y[3:])
    assert torch.equal(torch.stack([manifold.dist(a, b) for a, b in zip(y[:3], y[3:], strict=True)]), d)


def test_carrying_up_over_limbs(generator):
    manifold = HTiling(2, 5)
    rows = torch.cat([torch.rand(8, 1), torch.ones(8, 1), torch.zeros(8, 1)], -1).double()
    k = torch.randint(-(2**39), 2**39, (8, 5), generator=generator).double()
    x = torch.cat([rows, k], -1)
    x[:, 1] = 2.0 ** torch.tensor([0, 1, 39, 40, 41, 80, 133, 260]).double()
    y = manifold.projx(x)
    manifold.check(y)
    for before, after in zip(x, y, strict=True):
        a, b = decoded(before, 2), decoded(after, 2)
        assert abs(a[0] - b[0]) <= a[1] * 2**-53
        assert a[1] == b[1]


# ------------------------------------------------------------------------------ trajectories and optimizers


def test_when_to_carry_does_not_matter(generator):
    """Small steps towards a drifting target, carried after each or after 50."""
    manifold = HTiling(3, 10)
    start = manifold.from_tangent(200 * directions(4, 3, generator))
    drift = 0.05 * directions(400, 3, generator).view(100, 4, 3)
    often = rarely = start
    for step, v in enumerate(drift, 1):
        often = manifold.expmap(often, manifold._packed(v))
        rarely = manifold.geodesic_step(rarely, manifold._packed(v))
        if step % 50 == 0:
            rarely = manifold.projx(rarely)
    assert manifold.dist(often, start).min() > 0.1
    assert manifold.dist(often, rarely).max() < 1e-10


@pytest.mark.parametrize("optimizer", [geoopt.optim.RiemannianSGD, RiemannianSGD])
@pytest.mark.parametrize(("dtype", "tolerance"), [(F64, 1e-9), (F32, 1e-3)])
def test_walk_to_radius_699(optimizer, dtype, tolerance, generator):
    """Steps of 5: the distance falls by 5 at each."""
    manifold = HTiling(5, HTiling.limbs_for(700, dtype))
    target = torch.stack([encoded(at(699.0, u), manifold.limbs, dtype) for u in directions(3, 5, generator)])
    x = geoopt.ManifoldParameter(manifold.origin(3, manifold.width, dtype=dtype), manifold=manifold)
    steps = optimizer([x], lr=5.0)
    for step in range(139):
        steps.zero_grad()
        d = manifold.dist(x, target)
        assert (d - (699 - 5 * step)).abs().max() < tolerance
        d.sum().backward()
        steps.step()
    manifold.check(x.detach())
    assert (manifold.dist(x, target) - 4).abs().max() < tolerance


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_unchanged_by_a_carry(nesterov, generator):
    """Against the same steps in plain half-space coordinates, where nothing is carried."""
    manifold, plain = HTiling(3, 2), HalfSpace()
    p, goal = plain.random(2, 4, 3, generator=generator, dtype=F64)
    target = manifold.pack(goal)
    x = geoopt.ManifoldParameter(manifold.pack(p), manifold=manifold)
    start = x.detach().clone()
    steps = RiemannianSGD([x], lr=0.2, momentum=0.8, nesterov=nesterov)
    b = torch.zeros_like(p)
    for _ in range(25):
        steps.zero_grad()
        manifold.dist2(x, target).sum().backward()
        steps.step()
        p = p.detach().requires_grad_()
        (egrad,) = torch.autograd.grad(plain.dist2(p, goal).sum(), p)
        g = egrad * p.detach()[:, -1:]
        b = 0.8 * b + g
        p = plain.expmap(p.detach(), -0.2 * (g + 0.8 * b if nesterov else b) * p.detach()[:, -1:])
        assert manifold.dist(x.detach(), manifold.pack(p)).max() < 1e-10
        torch.testing.assert_close(steps.state[x]["momentum_buffer"], manifold._packed(b), rtol=1e-9, atol=1e-9)
    assert (x.detach()[:, 3:] != start[:, 3:]).any(-1).all()  # all were carried


CASES = [
    (RiemannianSGD, {"lr": 0.2, "momentum": 0.5}),
    (RiemannianSGD, {"lr": 0.2, "momentum": 0.5, "nesterov": True}),
    (RiemannianAdam, {"lr": 0.3}),
    (RiemannianAdam, {"lr": 0.3, "amsgrad": True, "weight_decay": 1e-4, "decoupled_weight_decay": True}),
    (RiemannianAdagrad, {"lr": 1.0}),
    (geoopt.optim.RiemannianSGD, {"lr": 0.2, "momentum": 0.3}),
    (geoopt.optim.RiemannianAdam, {"lr": 0.3}),
]


@pytest.mark.parametrize(("optimizer", "options"), CASES)
def test_optimizers_converge(optimizer, options, generator):
    manifold = HTiling(3, 3)
    target = manifold.random(4, manifold.width, std=1.5, generator=generator, dtype=F64)
    x = geoopt.ManifoldParameter(manifold.origin(4, manifold.width, dtype=F64), manifold=manifold)
    steps = optimizer([x], stabilize=10, **options)
    schedule = torch.optim.lr_scheduler.ExponentialLR(steps, 0.98)
    for _ in range(250):
        steps.zero_grad()
        manifold.dist2(x, target).sum().backward()
        steps.step()
        schedule.step()
    manifold.check(x.detach())
    assert manifold.dist(x.detach(), target).max() < 1e-2


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        *CASES[:5],
        (geoopt.optim.SparseRiemannianSGD, {"lr": 0.2}),
        (geoopt.optim.SparseRiemannianAdam, {"lr": 0.1}),
    ],
)
def test_sparse_rows_step_as_a_table_of_their_own(optimizer, options, generator):
    manifold, ids = HTiling(3, 2), torch.tensor([7, 2, 5])
    points, target = manifold.random(2, 10, manifold.width, std=3.0, generator=generator, dtype=F64)
    table = torch.nn.Embedding(10, manifold.width, sparse=True, dtype=F64)
    table.weight = geoopt.ManifoldParameter(points.clone(), manifold=manifold)
    own = geoopt.ManifoldParameter(points[ids].clone(), manifold=manifold)
    dense = {"SparseRiemannianSGD": "RiemannianSGD", "SparseRiemannianAdam": "RiemannianAdam"}
    other = getattr(geoopt.optim, dense[optimizer.__name__]) if optimizer.__name__ in dense else optimizer
    steps = optimizer(table.parameters(), **options), other([own], **options)
    for _ in range(5):
        for optimiser, rows in zip(steps, (lambda: table(ids), lambda: own), strict=True):
            optimiser.zero_grad()
            manifold.dist2(rows(), target[ids]).sum().backward()
            optimiser.step()
    torch.testing.assert_close(table.weight[ids].detach(), own.detach(), rtol=1e-12, atol=1e-12)
    rest = torch.ones(10, dtype=torch.bool).index_fill_(0, ids, False)
    assert torch.equal(table.weight[rest].detach(), points[rest])
    assert (table.weight[ids].detach() != points[ids]).any()


# ------------------------------------------------------------------------------ conversions, storage, errors


@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize("d", [1, 2, 5])
def test_conversions(c, d, generator):
    manifold = HTiling(d, 3, c=c)
    u = directions(30, d, generator) * torch.linspace(0, 10, 30).double().unsqueeze(-1) / c**0.5
    x, y = manifold.from_tangent(u), manifold.from_tangent(u.roll(7, 0))
    torch.testing.assert_close(manifold.to_tangent(x), u, rtol=1e-12, atol=1e-13)
    d_xy = manifold.dist(x, y)
    for other, to, back in [
        (HalfSpace(c), manifold.to_halfspace, manifold.from_halfspace),
        (Lorentz(c), manifold.to_lorentz, manifold.from_lorentz),
        (PoincareBall(c), manifold.to_poincare, manifold.from_poincare),
    ]:
        p = to(x)
        other.check(p)
        torch.testing.assert_close(p, other.from_tangent(u), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(other.dist(p, to(y)), d_xy, rtol=1e-10, atol=1e-10)
        assert (manifold.dist(back(p), x) < 1e-15 * (10 * c**0.5 * u.norm(dim=-1)).exp().clamp(max=1e4) + 1e-8).all()
    h = manifold.to_halfspace(x)
    assert torch.equal(manifold.to_halfspace(manifold.pack(h)), h)


def test_half_space_coordinates_are_kept_exactly(generator):
    """Floats with any exponents: what goes in comes out, bit by bit."""
    manifold = HTiling(3, 27)
    p = torch.randn(50, 3, dtype=F64, generator=generator)
    p[:, 2] = p[:, 2].abs() * 2.0 ** -torch.arange(50).double()
    x = manifold.pack(p)
    manifold.check(x)
    exactly = [[mpf(value) for value in row.tolist()] for row in p]
    for row, known in zip(x, exactly, strict=True):
        assert all(abs(a - b) <= known[-1] * 2**-53 for a, b in zip(decoded(row, 3), known, strict=True))
    assert torch.equal(manifold.to_halfspace(x[20:]), p[20:])  # the cells are smaller than the roundings there


def test_far_coordinates_of_the_hyperboloid(generator):
    manifold = HTiling(3, 27)
    points = [at(700.0, u) for u in directions(8, 3, generator)]
    x = torch.stack([encoded(p, 27) for p in points])
    for row, got in zip(x, manifold.to_lorentz(x), strict=True):
        *h, y = decoded(row, 3)
        square = mpmath.fsum(v**2 for v in h)
        known = [(square + y**2 + 1) / (2 * y), *[v / y for v in h], (square + y**2 - 1) / (2 * y)]
        assert all(abs(a - b) <= 1e-15 * known[0] for a, b in zip(got.tolist(), known, strict=True))


def test_state_survives(tmp_path, generator):
    manifold = HTiling(3, 27)
    table = torch.nn.Embedding(5, manifold.width, dtype=F64)
    table.weight = geoopt.ManifoldParameter(manifold.from_tangent(700 * directions(5, 3, generator)), manifold=manifold)
    torch.save(table.state_dict(), tmp_path / "state.pt")
    other = torch.nn.Embedding(5, manifold.width, dtype=F64)
    other.weight = geoopt.ManifoldParameter(manifold.origin(5, manifold.width, dtype=F64), manifold=HTiling(3, 27))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.weight.data, table.weight.data)
    assert (manifold.dist(other.weight, table.weight) == 0).all()
    copied = copy.deepcopy(manifold)
    assert torch.equal(copied.dist(table.weight[:1], table.weight), manifold.dist(table.weight[:1], table.weight))
    assert repr(eval(repr(HTiling(3, 2, c=0.5)))) == repr(HTiling(3, 2, c=0.5)) == "HTiling(3, 2, c=0.5)"
    assert repr(HTiling(3, 2, learnable=True)) == "HTiling(3, 2, learnable=True)"


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("limbs", [1, 2, 5])
def test_radius_beyond_the_limbs(dtype, limbs, generator):
    manifold = HTiling(3, limbs)
    end = (limbs * BITS[dtype] - 1) * math.log(2)
    u = torch.cat([directions(200, 3, generator), torch.tensor([[1.0, 0, 0], [-1.0, 0, 0]])]).to(dtype)
    manifold.check(manifold.from_tangent((end - 0.01) * u if end < 80 or dtype == F64 else u))
    longest = math.log(torch.finfo(dtype).max) - 4
    if end + 30 > longest:
        return
    side = torch.tensor([0.8, 0.0, -0.6], dtype=dtype)
    y = side / side.norm() * (end + 25)
    with pytest.raises(DomainError, match=r"1 of 2 points lie beyond radius .* needs limbs=\d+") as caught:
        manifold.from_tangent(torch.stack([y, u[0]]))
    needed = int(str(caught.value).split("limbs=")[1].split()[0])
    enough, few = HTiling(3, needed), HTiling(3, needed - 1)
    enough.check(enough.from_tangent(y))
    with pytest.raises(DomainError, match="beyond"):
        few.from_tangent(y)


def test_walking_beyond_the_limbs():
    manifold = HTiling(2, 1)
    x = manifold.origin(1, manifold.width, dtype=F64)
    down = manifold._packed(torch.tensor([[0.5, -0.5]], dtype=F64))
    with pytest.raises(DomainError, match="needs limbs=2"):
        [x := manifold.expmap(x, down) for _ in range(200)]
    assert 26 < manifold.to_tangent(x).norm() < 45


def test_errors():
    for bad in ((0, 1), (2, 0), (2.0, 1), (2, True)):
        with pytest.raises(ShapeError, match="must be an integer >= 1"):
            HTiling(*bad)
    manifold = HTiling(3, 2)
    x = manifold.origin(2, manifold.width, dtype=F64)
    for wrong in (
        lambda: manifold.dist(x[:, :5], x[:, :5]),
        lambda: manifold.dist(x, x.float()),
        lambda: manifold.dist(x.half(), x.half()),
        lambda: manifold.projx(x[:, :3]),
        lambda: manifold.pack(x),
        lambda: manifold.point_dim(4),
        lambda: manifold.origin(2, 3),
        lambda: manifold.projx(x.long()),
    ):
        with pytest.raises(ShapeError):
            wrong()
    for value in (0.0, -1.0, float("inf")):
        z = x.clone()
        z[1, 2] = value
        with pytest.raises(DomainError, match="1 of 2 points left the half-space"):
            manifold.projx(z)
    with pytest.raises(DomainError, match="no step longer than 707"):
        HTiling(3, 60).from_tangent(torch.tensor([900.0, 0.0, 0.0], dtype=F64))
    for channel, value in [(0, 1.0), (2, 2.0), (2, 0.5), (3, 0.5), (4, 2.0**40), (5, 0.5)]:
        z = x.clone()
        z[0, channel] = value
        with pytest.raises(DomainError, match="1 of 2 rows"):
            manifold.check(z)


# ------------------------------------------------------------------------------ float32 and PyTorch


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("radius", [0.5, 30.0, 80.0])
def test_float32_cells(d, radius, generator):
    manifold = HTiling(d, HTiling.limbs_for(radius + 30, F32))
    gaps = [1e-4, 0.1, 1.0, 5.0, 30.0]
    points = [at(radius, u) for u in directions(6, d, generator)]
    others = [moved(p, gap * w) for p, gap, w in zip(points[:5], gaps, directions(5, d, generator), strict=True)]
    others.append(at(radius, directions(1, d, generator)[0]))
    x, y = (torch.stack([encoded(p, manifold.limbs, F32) for p in row]) for row in (points, others))
    manifold.check(x)
    compare(manifold, x, y, tolerance=1e-6, slopes=1e-5)
    v = manifold._packed(directions(6, d, generator).float())
    moved_points = manifold.expmap(x, v)
    manifold.check(moved_points)
    torch.testing.assert_close(manifold.dist(x, moved_points), torch.ones(6), rtol=1e-5, atol=0)
    assert manifold.random(2, manifold.width).dtype == F32


def test_broadcasting_vmap_and_products(generator):
    manifold = HTiling(3, 2)
    x = manifold.random(4, 1, manifold.width, generator=generator, dtype=F64)
    y = manifold.random(6, manifold.width, generator=generator, dtype=F64)
    d = manifold.dist(x, y)
    assert d.shape == (4, 6)
    torch.testing.assert_close(manifold.cdist(x[:, 0], y), d, rtol=0, atol=0)
    assert manifold.dist(x[:0], y).shape == (0, 6)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    wide = x.expand(4, 6, -1).clone().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(manifold.dist(a, b).sum(), a)[0],
        torch.autograd.grad(manifold.dist(wide, y).sum(), wide)[0].sum(1, keepdim=True),
    )
    computed = vmap(vmap(grad(manifold.dist), (None, 0)), (0, None))(x[:, 0], y).sum(1)
    torch.testing.assert_close(computed, torch.autograd.grad(manifold.dist(a, b).sum(), a)[0][:, 0])
    product = Product([(manifold, 3), (Lorentz(), 2)])
    p, q = product.random(2, 5, product.point_dim(5), generator=generator, dtype=F64)
    parts = manifold.dist(p[:, :8], q[:, :8]).square() + Lorentz().dist(p[:, 8:], q[:, 8:]).square()
    torch.testing.assert_close(product.dist2(p, q), parts)


def test_curvature(generator):
    manifold, unit = HTiling(3, 3, c=0.25, learnable=True), HTiling(3, 3)
    u = 4 * directions(5, 3, generator)
    x, y = unit.from_tangent(u), unit.from_tangent(u.roll(1, 0))
    torch.testing.assert_close(manifold.dist(x, y), 2 * unit.dist(x, y))
    torch.testing.assert_close(manifold.from_tangent(2 * u).detach(), x, rtol=1e-9, atol=1e-9)
    (slope_of_c,) = torch.autograd.grad(manifold.dist(x, y).sum(), manifold.log_c)
    torch.testing.assert_close(slope_of_c, -manifold.dist(x, y).sum().detach() / 2)


def test_compile(generator):
    manifold = HTiling(3, 3)
    x, y = manifold.random(2, 4, manifold.width, generator=generator, dtype=F64)
    x = x.requires_grad_()
    for function in (manifold.dist, lambda x, y: manifold.expmap(x, manifold.logmap(x, y) / 2)):
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        torch.testing.assert_close(compiled(x, y), function(x, y))
        expected = torch.autograd.grad(function(x, y).square().sum(), x)
        torch.testing.assert_close(torch.autograd.grad(compiled(x, y).square().sum(), x), expected)


@pytest.mark.parametrize("model", [HalfSpace, Lorentz, PoincareBall])
def test_convert_knows_the_tiling(model):
    other, tiling = model(0.7), HTiling(3, 2, c=0.7)
    x = other.random(20, other.point_dim(3), std=1.5, generator=torch.Generator().manual_seed(5), dtype=torch.float64)
    rows = convert(x, other, tiling)
    tiling.check(rows)
    torch.testing.assert_close(convert(rows, tiling, other), x, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tiling.cdist(rows, rows), other.cdist(x, x), rtol=1e-7, atol=1e-7)
    assert convert(rows, tiling, tiling) is rows
    with pytest.raises(DomainError, match="curvature"):
        convert(x, other, HTiling(3, 2))
    with pytest.raises(DomainError, match="no isometry"):
        convert(rows, tiling, Euclidean())


def test_limbs_are_added_and_taken_away():
    wide, narrow = HTiling(3, 5), HTiling(3, 2)
    u = torch.randn(8, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64) * 10
    x = narrow.from_tangent(u)
    y = convert(x, narrow, wide)
    assert y.shape == (8, wide.width)
    assert torch.equal(wide.dist(y[:4], y[4:]), narrow.dist(x[:4], x[4:]))
    assert torch.equal(convert(y, wide, narrow), x)
    far = wide.from_tangent(torch.tensor([[90.0, 10.0, 20.0]], dtype=torch.float64))
    with pytest.raises(DomainError, match=r"they need limbs=[34]"):
        convert(far, wide, narrow)
