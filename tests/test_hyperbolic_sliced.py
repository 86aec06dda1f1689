"""Geodesic and horospherical sliced Wasserstein distances in hyperbolic space."""

import functools
import math

import geoopt
import numpy as np
import pytest
import torch
from mpmath import mp, mpf
from scipy.optimize import linear_sum_assignment

from distance_contract import Case, DistanceContract, normal
from geoembed.distances import directions
from geoembed.distances.generalized import signed
from geoembed.distances.hyperbolic import (
    Geodesics,
    GeodesicSlicedWasserstein,
    Horospheres,
    HorosphericalSlicedWasserstein,
    HyperbolicSlicedWasserstein,
)
from geoembed.distances.max_generalized import MaxGeneralizedSlicedWasserstein
from geoembed.distances.sliced import SlicedWasserstein
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall
from geoembed.pointsets import PointSets
from hyperbolic_oracle import exact, square

KINDS = [GeodesicSlicedWasserstein, HorosphericalSlicedWasserstein]
MODELS = [PoincareBall, Lorentz, HalfSpace]


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def points(manifold, *shape, seed, scale=1.0):
    return manifold.from_tangent(scale * normal(*shape, generator=seeded(seed)))


# Coordinates at 60 digits, by the textbook formulas: t_v and B_v of a point x and a direction v.


def lorentz_formula(kind, v, x, c):
    v, space = [a / mp.sqrt(square(v)) for a in v], [mp.sqrt(c) * a for a in x[1:]]
    time, along = mp.sqrt(1 + square(space)), mp.fsum(a * b for a, b in zip(v, space, strict=True))
    value = mp.atanh(along / time) if kind is Geodesics else mp.log(time - along)
    return value / mp.sqrt(c)


def ball_formula(kind, v, x, c):
    v, x = [a / mp.sqrt(square(v)) for a in v], [mp.sqrt(c) * a for a in x]
    if kind is Geodesics:
        value = mp.atanh(2 * mp.fsum(a * b for a, b in zip(v, x, strict=True)) / (1 + square(x)))
    else:
        value = mp.log(square([a - b for a, b in zip(v, x, strict=True)]) / (1 - square(x)))
    return value / mp.sqrt(c)


def halfspace_formula(kind, v, x, c):
    """By the boundary point q of v, B_v(x) = log((|h - q|^2 + y^2) / y) up to its value at the origin (0, 1)."""
    v = [a / mp.sqrt(square(v)) for a in v]
    if kind is Geodesics:
        return (halfspace_formula(None, [-a for a in v], x, c) - halfspace_formula(None, v, x, c)) / 2
    q = [a / (1 - v[-1]) for a in v[:-1]]
    below = square([a - b for a, b in zip(x[:-1], q, strict=True)]) + x[-1] ** 2
    return mp.log(below / x[-1] / (square(q) + 1)) / mp.sqrt(c)


FORMULAS = {PoincareBall: ball_formula, Lorentz: lorentz_formula, HalfSpace: halfspace_formula}


def coordinates(slices, x):
    """(count, n) by the formulas above."""
    formula, c = FORMULAS[type(slices.manifold)], mpf(float(slices.manifold.c))
    values = [[float(formula(type(slices), exact(v), exact(point), c)) for point in x] for v in slices.theta]
    return torch.tensor(values, dtype=torch.float64)


def oracle(distance, x, y):
    u, v = (coordinates(distance.slices, torch.from_numpy(items)).sort(-1).values for items in (x, y))
    return (u - v).abs().pow(distance.p).mean().item() ** (1 / distance.p)


def case(kind, manifold, p):
    distance = kind(manifold, 3, 5, p, generator=seeded(1))

    def sample(*shape, generator):
        return manifold.from_tangent(normal(*shape[:-1], 3, generator=generator))

    return Case(
        f"{kind.__name__}({manifold!r}, p={p})",
        lambda: distance,
        functools.partial(oracle, distance),
        item=(4, manifold.point_dim(3)),
        sample=sample,
    )


CASES = [
    case(HorosphericalSlicedWasserstein, PoincareBall(), 2),
    case(HorosphericalSlicedWasserstein, Lorentz(0.4), 1),
    case(HorosphericalSlicedWasserstein, HalfSpace(2.0), 2),
    case(GeodesicSlicedWasserstein, PoincareBall(0.4), 1),
    case(GeodesicSlicedWasserstein, Lorentz(), 3),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestHyperbolicSliced(DistanceContract):
    pass


# Coordinates.


@pytest.mark.parametrize("kind", [Geodesics, Horospheres])
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_far_points_keep_their_digits(kind, c):
    """Lorentz to x_0 about e^15, ball to radius 12; also on, near, across and against the directions."""
    g = seeded(2)
    theta = directions.iid(4, 3, g)
    for manifold, reach in ((Lorentz(c), 15.0), (PoincareBall(c), 12.0)):
        slices = kind(manifold, 3, directions=theta)
        for radius in (1e-8, 0.1, 0.88137, 1.0, 4.0, reach):
            tilt = torch.cat([torch.zeros(1, 3), 1e-7 * torch.randn(3, 3, generator=g), torch.randn(2, 3, generator=g)])
            way = torch.nn.functional.normalize(theta[0] + tilt.double(), dim=-1)
            x = manifold.from_tangent(torch.cat([way, -way]) * (radius / math.sqrt(c)))
            got, expected = slices(x), coordinates(slices, x)
            # a coordinate is as exact as the points: the ball rounds 1 - |x|, known to 2^-53 / (1 - |x|) of itself
            rounding = 1e-11 if isinstance(manifold, Lorentz) else 1e-10
            torch.testing.assert_close(got, expected, rtol=rounding, atol=rounding * min(1, radius))


@pytest.mark.parametrize("kind", [Geodesics, Horospheres])
def test_huge_coordinates_do_not_overflow(kind):
    """Lorentz at radius 300: B_v is the radius against v, minus the radius along it, where rounding of v is felt."""
    manifold = Lorentz()
    theta = torch.eye(2, dtype=torch.float64)
    x = manifold.from_tangent(torch.tensor([[300.0, 0.0], [-300.0, 0.0]], dtype=torch.float64))
    expected = torch.tensor([300.0, -300.0], dtype=torch.float64) * (1 if kind is Geodesics else -1)
    torch.testing.assert_close(kind(manifold, 2, directions=theta)(x)[0], expected, rtol=1e-13, atol=0)
    small = Lorentz().from_tangent(torch.tensor([[40.0, 0.0]]))
    assert kind(manifold, 2, directions=theta)(small)[0].abs().item() == pytest.approx(40, rel=1e-6)


def test_gradient_at_the_origin():
    """The gradient of B_v is -v there, in the coordinates of the hyperboloid; a distance of 2 x on the ball."""
    theta = directions.iid(1, 3, seeded(3))
    for manifold, factor in ((Lorentz(), 1.0), (PoincareBall(), 2.0)):
        x = manifold.origin(1, manifold.point_dim(3), dtype=torch.float64).requires_grad_()
        for kind, sign in ((Horospheres, -1), (Geodesics, 1)):
            (slope,) = torch.autograd.grad(kind(manifold, 3, directions=theta)(x).sum(), x)
            torch.testing.assert_close(slope[:, -3:], sign * factor * theta)


@pytest.mark.parametrize("manifold", [PoincareBall(0.7), Lorentz(0.7), HalfSpace(0.7)])
def test_unit_gradients(manifold):
    """|grad B_v| = 1 everywhere, |grad t_v| <= 1: both are 1-Lipschitz."""
    theta = directions.iid(1, 3, seeded(4))
    x = points(manifold, 40, 3, seed=5, scale=2.0).requires_grad_()
    for kind in (Horospheres, Geodesics):
        (slope,) = torch.autograd.grad(kind(manifold, 3, directions=theta)(x).sum(), x)
        length = manifold.norm(x, manifold.egrad2rgrad(x, slope)).detach()
        if kind is Horospheres:
            torch.testing.assert_close(length, torch.ones_like(length), rtol=1e-9, atol=0)
        else:
            assert (length < 1 + 1e-9).all()
            assert length.min() < 0.5


def test_mean_over_all_directions():
    """The mean of B_v over the circle is 2 log cosh(rho / 2) in the plane."""
    angle = torch.arange(400, dtype=torch.float64) * (2 * math.pi / 400)
    slices = Horospheres(PoincareBall(), 2, directions=torch.stack([angle.cos(), angle.sin()], -1))
    rho = torch.tensor([0.0, 0.5, 2.0, 3.0], dtype=torch.float64)
    x = slices.manifold.from_tangent(torch.stack([0.6 * rho, 0.8 * rho], -1))
    torch.testing.assert_close(slices(x).mean(0), 2 * (rho / 2).cosh().log(), rtol=1e-12, atol=1e-13)


# The distances.


@pytest.mark.parametrize("kind", KINDS)
def test_the_models_agree(kind):
    for c in (1.0, 0.3):
        u, v = 1.5 * normal(3, 20, 3, generator=seeded(6)), normal(3, 15, 3, generator=seeded(7))
        theta = signed(30, 3, seeded(8))
        values = []
        for model in MODELS:
            manifold = model(c)
            distance = kind(manifold, 3, p=2, directions=theta)
            values.append(distance(manifold.from_tangent(u), manifold.from_tangent(v)))
        torch.testing.assert_close(values[0], values[1], rtol=1e-12, atol=0)
        torch.testing.assert_close(values[0], values[2], rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_curvature_scales(kind, model):
    """The space of curvature -c is that of curvature -1 with lengths divided by sqrt(c)."""
    u, v = normal(20, 3, generator=seeded(9)), normal(20, 3, generator=seeded(10))
    theta, c = signed(30, 3, seeded(11)), 0.3
    unit, scaled = model(), model(c)
    one = kind(unit, 3, directions=theta)(unit.from_tangent(u), unit.from_tangent(v))
    other = kind(scaled, 3, directions=theta)(*(scaled.from_tangent(t / math.sqrt(c)) for t in (u, v)))
    torch.testing.assert_close(other, one / math.sqrt(c), rtol=1e-12, atol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_rotations_turn_the_directions(kind):
    ball = PoincareBall(0.5)
    x, y = points(ball, 20, 4, seed=12), points(ball, 20, 4, seed=13)
    theta = signed(30, 4, seeded(14))
    turn = directions.orthogonal(4, 4, seeded(15))
    value = kind(ball, 4, directions=theta)(x, y)
    torch.testing.assert_close(kind(ball, 4, directions=theta @ turn)(x @ turn, y @ turn), value, rtol=1e-12, atol=0)
    assert abs(kind(ball, 4, directions=theta)(x @ turn, y @ turn) / value - 1) > 1e-4


def translate(a, x):
    """Mobius addition of a, on the ball and on its boundary."""
    inner, a2, x2 = x @ a, a @ a, x.square().sum(-1)
    top = (1 + 2 * inner + x2).unsqueeze(-1) * a + (1 - a2) * x
    return top / (1 + 2 * inner + a2 * x2).unsqueeze(-1)


@pytest.mark.parametrize("p", [1, 2])
def test_isometries_move_the_directions_on_the_boundary(p):
    """W_p between Busemann coordinates along v is that along the image of v; B_v changes by a constant."""
    ball = PoincareBall()
    x, y = points(ball, 30, 3, seed=16), points(ball, 25, 3, seed=17)
    a = 0.4 * torch.tensor([0.6, -0.8, 1.0], dtype=torch.float64)
    theta = directions.iid(20, 3, seeded(18))
    there = HorosphericalSlicedWasserstein(ball, 3, p=p, directions=translate(a, theta))
    here = HorosphericalSlicedWasserstein(ball, 3, p=p, directions=theta)
    moved = there.costs(translate(a, x), translate(a, y))
    torch.testing.assert_close(moved, here.costs(x, y), rtol=1e-11, atol=0)
    shift = there.slices(translate(a, x)) - here.slices(x)
    torch.testing.assert_close(shift, shift[:, :1].expand_as(shift), rtol=1e-11, atol=1e-11)


@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize("p", [1, 2])
def test_never_above_the_exact_distance(model, p):
    """Each slice is 1-Lipschitz; for sets of one point on an axis through the origin that bound is reached."""
    manifold = model(0.8)
    for seed in range(5):
        x = points(manifold, 15, 3, seed=20 + seed)
        y = points(manifold, 15, 3, seed=30 + seed, scale=0.3)
        cost = manifold.cdist(x, y).pow(p).numpy()
        exact_distance = cost[linear_sum_assignment(cost)].mean() ** (1 / p)
        for kind in KINDS:
            slices = kind(manifold, 3, 40, p, generator=seeded(seed))
            assert slices.costs(x, y).max().item() ** (1 / p) < exact_distance
    v = torch.tensor([[0.0, 0.6, 0.8]], dtype=torch.float64)
    x, y = manifold.from_tangent(0.7 * v), manifold.from_tangent(-1.1 * v)
    for kind in KINDS:
        assert kind(manifold, 3, p=p, directions=v)(x, y).item() == pytest.approx(1.8, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_near_the_origin_space_is_flat(kind, dtype):
    ball = PoincareBall()
    u, v = 1e-6 * normal(2, 20, 3, generator=seeded(40))
    theta = signed(30, 3, seeded(41))
    flat = SlicedWasserstein(3, directions=theta)(u, v)
    curved = kind(ball, 3, directions=theta)(ball.from_tangent(u.to(dtype)), ball.from_tangent(v.to(dtype)))
    assert curved.item() == pytest.approx(flat.item(), rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", MODELS)
def test_list_padded_and_weighted_are_the_loop(kind, model):
    """Zero, where padding stands, is no point of the half-space."""
    manifold = model(1.2)
    distance = kind(manifold, 3, 9, generator=seeded(42))
    sets = [points(manifold, n, 3, seed=n, scale=2.0) for n in (4, 7, 1)]
    masses = [torch.rand(len(s), generator=seeded(43), dtype=torch.float64) + 0.1 for s in sets]
    y = points(manifold, 5, 3, seed=44)
    for weights in (None, masses):
        single = [PointSets(s, None if weights is None else weights[i]) for i, s in enumerate(sets)]
        expected = torch.stack([distance(s, y) for s in single])
        ragged = PointSets.from_list(sets, weights)
        torch.testing.assert_close(distance(ragged, y), expected, rtol=1e-11, atol=0)
        torch.testing.assert_close(distance.pairwise(ragged, y.unsqueeze(0))[:, 0], expected, rtol=1e-11, atol=0)
    padded = torch.full((3, 7, manifold.point_dim(3)), math.nan, dtype=torch.float64)
    for row, s in zip(padded, sets, strict=True):
        row[: len(s)] = s
    padded.requires_grad_()
    value = distance(PointSets(padded, lengths=torch.tensor([4, 7, 1])), y)
    torch.testing.assert_close(value, distance(PointSets.from_list(sets), y), rtol=1e-12, atol=0)
    value.sum().backward()
    alone = sets[0].clone().requires_grad_()
    distance(alone, y).backward()
    torch.testing.assert_close(padded.grad[0, :4], alone.grad, rtol=1e-9, atol=1e-12)
    assert (padded.grad[0, 4:] == 0).all()
    assert (padded.grad[2, 1:] == 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_curvature_is_trained(kind):
    manifold = PoincareBall(0.6, learnable=True)
    distance = kind(manifold, 2, 8, generator=seeded(45))
    x, y = points(PoincareBall(0.6), 6, 2, seed=46), points(PoincareBall(0.6), 5, 2, seed=47)

    def value(log_c):
        with torch.no_grad():
            manifold.log_c.copy_(log_c)
        return distance(x, y)

    start, h = manifold.log_c.detach().clone(), 1e-5
    (slope,) = torch.autograd.grad(value(start), manifold.log_c)
    numeric = (value(start + h) - value(start - h)) / (2 * h)
    assert slope.item() == pytest.approx(numeric.item(), rel=1e-6)


def test_resample_and_default():
    assert HyperbolicSlicedWasserstein is HorosphericalSlicedWasserstein
    ball = PoincareBall()
    x, y = points(ball, 9, 3, seed=48), points(ball, 9, 3, seed=49)
    distance = HyperbolicSlicedWasserstein(ball, 3, generator=seeded(0))
    first = distance(x, y)
    distance.resample(seeded(1))
    assert distance(x, y) != first
    distance.resample(seeded(0))
    assert distance(x, y) == first


def test_max_over_horospheres():
    ball = PoincareBall()
    x, y = points(ball, 9, 2, seed=50), points(ball, 9, 2, seed=51, scale=0.5)
    angle = torch.arange(20000, dtype=torch.float64) * (2 * math.pi / 20000)
    fine = HorosphericalSlicedWasserstein(ball, 2, directions=torch.stack([angle.cos(), angle.sin()], -1))
    top = MaxGeneralizedSlicedWasserstein(Horospheres(ball, 2, 8, generator=seeded(52)))
    assert top(x, y).item() == pytest.approx(fine.costs(x, y).max().sqrt().item(), rel=1e-6)


# Another manifold, and bad input.


class Flat(geoopt.Euclidean):
    """R^d, whose Busemann functions are -<x, v>."""

    def busemann(self, v, x):
        return -(v @ x.mT)


def test_a_manifold_with_busemann_functions():
    x, y = normal(4, 9, 3, generator=seeded(53)), normal(4, 7, 3, generator=seeded(54))
    theta = signed(12, 3, seeded(55))
    flat = HorosphericalSlicedWasserstein(Flat(ndim=1), 3, directions=theta)
    torch.testing.assert_close(flat(x, y), SlicedWasserstein(3, directions=theta)(x, y))


@pytest.mark.parametrize("kind", KINDS)
def test_nasty_sets(kind):
    ball = PoincareBall()
    distance = kind(ball, 2, generator=seeded(56))
    same = torch.full((4, 2), 0.3, dtype=torch.float64)
    assert distance(same[:1], same).item() == pytest.approx(0, abs=1e-15)
    origin = torch.zeros(3, 2, dtype=torch.float64)
    assert distance(origin, same).item() == pytest.approx(distance(origin[:1], same[:1]).item(), rel=1e-12)
    edge = torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 0.0]], dtype=torch.float64, requires_grad=True)
    value = distance(edge, same)  # outside of the ball, held at its edge
    value.backward()
    assert value.isfinite()
    assert edge.grad.isfinite().all()


@pytest.mark.parametrize("kind", KINDS)
def test_bad_input(kind):
    with pytest.raises(DomainError, match="at least 1"):
        kind(PoincareBall(), 3, p=0.5)
    with pytest.raises(DomainError, match="at least one direction"):
        kind(PoincareBall(), 3, 0)
    with pytest.raises(DomainError, match="PoincareBall, Lorentz or HalfSpace"):
        kind(Euclidean(), 3)
    with pytest.raises(ShapeError, match=r"\(count, 3\)"):
        kind(PoincareBall(), 3, directions=torch.eye(2))
    x = Lorentz().from_tangent(torch.zeros(5, 3))
    with pytest.raises(ShapeError, match="4 coordinates, got 3"):
        kind(Lorentz(), 3)(x[:, 1:], x[:, 1:])
    assert "count=50" in repr(kind(Lorentz(), 3))
    assert np.isfinite(kind(Lorentz(), 3)(x, x).item())
