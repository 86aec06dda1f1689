"""Generalized sliced Wasserstein distances: nonlinear slices, and the maximum over them."""

import functools
import itertools
import math

import numpy as np
import pytest
import scipy.stats
import torch
from scipy.optimize import minimize_scalar

from distance_contract import Case, DistanceContract, normal
from geoembed.distance import pairwise_blocks
from geoembed.distances import directions
from geoembed.distances.generalized import (
    Circular,
    DefiningFunction,
    GeneralizedSlicedWasserstein,
    Network,
    signed,
)
from geoembed.distances.max_generalized import MaxGeneralizedSlicedWasserstein
from geoembed.distances.max_sliced import MaxSlicedWasserstein
from geoembed.distances.polynomial import Polynomial
from geoembed.distances.sliced import Linear, SlicedWasserstein
from geoembed.distances.slicing import Slices
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


CIRCULAR = Circular(2, 7, radius=1.3, generator=seeded(1))
CUBIC = Polynomial(3, 6, generator=seeded(2))
QUINTIC = Polynomial(2, 6, degree=5, generator=seeded(3))
NETWORK = Network(3, 5, hidden=(8, 6), generator=seeded(4))


# The slices, by loops over points and slices.


def circular(x):
    return np.array([[np.linalg.norm(point - 1.3 * theta) for point in x] for theta in CIRCULAR.theta.numpy()])


def polynomial(slices, x):
    values = []
    for theta in slices.theta.numpy():
        terms = zip(theta, slices.monomials, strict=True)
        values.append(sum(coefficient * np.prod(x[:, variables], axis=1) for coefficient, variables in terms))
    return np.array(values)


def network(x):
    values = []
    for theta in NETWORK.theta.numpy():
        out, start = x, 0
        for inputs, outputs in ((3, 8), (8, 6), (6, 1)):
            layer = theta[start : start + inputs * outputs + outputs]
            layer = layer / np.linalg.norm(layer) * math.sqrt(2 * inputs * outputs / (inputs + outputs))
            out = out @ layer[: inputs * outputs].reshape(outputs, inputs).T + layer[inputs * outputs :]
            out = np.where((out > 0) | (outputs == 1), out, 0.01 * out)
            start += len(layer)
        values.append(out[:, 0])
    return np.array(values)


def by_loop(project, p, x, y):
    costs = [np.mean(np.abs(np.sort(u) - np.sort(v)) ** p) for u, v in zip(project(x), project(y), strict=True)]
    return np.mean(costs) ** (1 / p)


def ascent(kind):
    """The maximum over the circle by a fine grid and golden sections."""

    def oracle(x, y):
        def cost(angle):
            theta = np.array([math.cos(angle), math.sin(angle)])
            u, v = (np.linalg.norm(points - 1.3 * theta, axis=1) if kind == "circular" else points @ theta
                    for points in (x, y))  # fmt: skip
            return np.mean((np.sort(u) - np.sort(v)) ** 2)

        grid = np.linspace(0, 2 * math.pi, 721)
        tops = sorted(grid, key=cost)[-8:]
        best = max(-minimize_scalar(lambda a: -cost(a), bounds=(t - 0.01, t + 0.01), method="bounded",
                                    options={"xatol": 1e-12}).fun for t in tops)  # fmt: skip
        return math.sqrt(best)

    return oracle


def case(name, slices, project, p, item):
    return Case(
        name, lambda: GeneralizedSlicedWasserstein(slices, p), functools.partial(by_loop, project, p), item=item
    )


CASES = [
    case("circular", CIRCULAR, circular, 2, (6, 2)),
    case("circular, p=1", CIRCULAR, circular, 1, (6, 2)),
    case("cubic, p=1.5", CUBIC, functools.partial(polynomial, CUBIC), 1.5, (5, 3)),
    case("quintic", QUINTIC, functools.partial(polynomial, QUINTIC), 2, (5, 2)),
    case("network", NETWORK, network, 2, (5, 3)),
]

MAX_CASES = [
    Case(
        "max, circular",
        lambda: MaxGeneralizedSlicedWasserstein(Circular(2, 6, radius=1.3, generator=seeded(5))),
        ascent("circular"),
        item=(4, 2),
    ),
    Case(
        "max, degree 1",
        lambda: MaxGeneralizedSlicedWasserstein(Polynomial(2, 6, degree=1, generator=seeded(6))),
        ascent("linear"),
        item=(4, 2),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestGeneralizedDistances(DistanceContract):
    pass


@pytest.mark.parametrize("case", MAX_CASES, ids=str)
class TestMaxGeneralizedDistances(DistanceContract):
    def test_oracle(self, case, distance, items):
        x, y = items(12), items(12)
        expected = [case.oracle(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
        torch.testing.assert_close(distance(x, y), torch.tensor(expected, dtype=torch.float64), rtol=1e-6, atol=0)

    def test_pairwise_equals_forward(self, case, distance, items):
        """As far as the ascent goes: the last digits depend on what else is in the batch."""
        x, y = items(3), items(2)
        expected = torch.stack([torch.stack([distance(a, b) for b in y]) for a in x])
        torch.testing.assert_close(distance.pairwise(x, y), expected, rtol=1e-7, atol=0)

    def test_blocks_equal_the_matrix(self, case, distance, items):
        x, y = items(3), items(2)
        blocks = torch.cat([block for _, block in pairwise_blocks(distance, x, y, budget=1)])
        torch.testing.assert_close(blocks, distance.pairwise(x, y), rtol=1e-7, atol=0)

    def test_gradcheck(self, case, distance, items):
        """Away from the kinks, where two matchings tie at the best theta: against one point."""
        x, y = items(1).requires_grad_(), items(1)[:, :1].clone().requires_grad_()
        assert torch.autograd.gradcheck(distance, (x, y), rtol=1e-4, atol=1e-5)


# Slices.


@pytest.mark.parametrize(("dim", "degree"), [(1, 3), (2, 1), (2, 5), (4, 3), (10, 5)])
def test_polynomials_by_monomials(dim, degree, monkeypatch):
    """Also over several blocks of points, with their gradients."""
    slices = Polynomial(dim, 4, degree, generator=seeded(7))
    x = normal(2, 9, dim, generator=seeded(8))
    assert slices.theta.shape == (4, math.comb(dim + degree - 1, degree))
    torch.testing.assert_close(slices.theta.square().sum(-1), torch.ones(4, dtype=torch.float64))
    expected = torch.from_numpy(np.stack([polynomial(slices, points) for points in x.numpy()]))
    torch.testing.assert_close(slices(x), expected, rtol=1e-10, atol=1e-10)
    monkeypatch.setattr("geoembed.distances.polynomial.BLOCK", 4 * slices.theta.shape[1])
    torch.testing.assert_close(slices(x), expected, rtol=1e-10, atol=1e-10)
    if dim < 3:
        theta = slices.theta.clone().requires_grad_()
        assert torch.autograd.gradcheck(slices.evaluate, (theta, x.requires_grad_()))
        each = torch.stack([theta, 2 * theta]).detach().requires_grad_()  # its own theta for each set
        assert torch.autograd.gradcheck(slices.evaluate, (each, x))


def test_polynomials_of_given_coefficients():
    """x_0^2 x_2 alone."""
    variables = Polynomial(3, 1).monomials
    assert variables == list(itertools.combinations_with_replacement(range(3), 3))
    theta = torch.tensor([[float(v == (0, 0, 2)) for v in variables]])
    x = torch.randn(5, 3, generator=seeded(9))
    slices = Polynomial(3, directions=theta)
    assert slices.count == 1
    torch.testing.assert_close(slices(x)[0], x[:, 0] ** 2 * x[:, 2])


@pytest.mark.parametrize("slices", [CIRCULAR, CUBIC, QUINTIC, NETWORK], ids=lambda s: type(s).__name__)
def test_one_theta_for_all_sets_or_one_for_each(slices):
    x = normal(3, 6, slices.dim, generator=seeded(10))
    torch.testing.assert_close(slices.evaluate(slices.theta.expand(3, -1, -1), x), slices(x))
    torch.testing.assert_close(slices.project(x[1], slice(2, 4)), slices(x)[1, 2:4])


def test_network_has_xavier_norms_and_no_scale():
    slices = Network(2, 3, hidden=(16,), generator=seeded(11))
    x = normal(5, 2, generator=seeded(12))
    torch.testing.assert_close(slices.evaluate(7 * slices.theta, x), slices(x))
    (hidden, bias), (head, _) = slices._split(slices.theta)
    assert (bias == 0).all()
    torch.testing.assert_close(hidden.square().sum((-1, -2)), torch.full((3,), 64 / 18, dtype=torch.float64))
    torch.testing.assert_close(head.square().sum((-1, -2)), torch.full((3,), 32 / 17, dtype=torch.float64))
    assert (hidden[0] == hidden[1]).all()
    assert not (head[0] == head[1]).any()


@pytest.mark.parametrize("dim", [2, 3, 5])
def test_signed_directions_cover_the_sphere(dim):
    drawn = torch.stack([signed(4, dim, seeded(seed)) for seed in range(2000)])
    torch.testing.assert_close(drawn.square().sum(-1), torch.ones(2000, 4, dtype=torch.float64))
    law = scipy.stats.beta((dim - 1) / 2, (dim - 1) / 2, loc=-1, scale=2)  # of a coordinate of a uniform direction
    pick = torch.arange(2000) % 4
    one = drawn[torch.arange(2000), pick]
    for axis in range(dim):
        assert scipy.stats.kstest(one[:, axis].numpy(), law.cdf).pvalue > 1e-3
    assert signed(400, dim, seeded(1)).mean(0).abs().max() < 0.1


def test_resample():
    for slices in (Circular(3, 4), Polynomial(3, 4), Network(3, 4)):
        distance = GeneralizedSlicedWasserstein(slices)
        x, y = normal(2, 6, 3, generator=seeded(13))
        distance.resample(seeded(0))
        first = distance(x, y)
        distance.resample(seeded(1))
        assert distance(x, y) != first
        distance.resample(seeded(0))
        assert distance(x, y) == first
    with pytest.raises(DomainError, match="nothing to draw"):
        Circular(2, directions=torch.eye(2)).resample()


# The distance.


def test_linear_slices_give_the_sliced_distance():
    x, y = normal(4, 9, 3, generator=seeded(14)), normal(5, 7, 3, generator=seeded(15))
    theta = directions.iid(20, 3, seeded(16))
    for p in (1, 2, 3):
        expected = SlicedWasserstein(3, p=p, directions=theta).pairwise(x, y)
        for slices in (Linear(3, directions=theta), Polynomial(3, degree=1, directions=theta)):
            torch.testing.assert_close(GeneralizedSlicedWasserstein(slices, p).pairwise(x, y), expected)


def test_far_centres_give_the_sliced_distance():
    """|x - r theta| = r - <x, theta> + O(|x|^2 / r)."""
    x, y = normal(2, 30, 2, generator=seeded(17))
    theta = directions.iid(40, 2, seeded(18))
    far = GeneralizedSlicedWasserstein(Circular(2, radius=1e7, directions=theta))(x, y)
    assert far.item() == pytest.approx(SlicedWasserstein(2, directions=theta)(x, y).item(), rel=1e-5)


def test_polynomials_scale_with_their_degree_and_see_mirror_images():
    for slices in (CUBIC, QUINTIC):
        distance = GeneralizedSlicedWasserstein(slices)
        a, b = (normal(20, slices.dim, generator=seeded(s)) for s in (20, 21))
        assert distance(2 * a, 2 * b).item() == pytest.approx(2**slices.degree * distance(a, b).item(), rel=1e-12)
        assert distance(a, -a) > 0.1


SMALL_NETWORK = Network(2, 5, hidden=(8,), generator=seeded(22))


@pytest.mark.parametrize(
    ("distance", "tolerance"),
    [
        (GeneralizedSlicedWasserstein(CIRCULAR), 1e-11),
        (GeneralizedSlicedWasserstein(QUINTIC), 1e-11),
        (GeneralizedSlicedWasserstein(SMALL_NETWORK), 1e-11),
        (MaxGeneralizedSlicedWasserstein(CIRCULAR), 1e-6),
        (MaxGeneralizedSlicedWasserstein(SMALL_NETWORK, steps=50), 1e-6),
    ],
)
def test_list_padded_and_weighted_are_the_loop(distance, tolerance):
    g = seeded(23)
    sets = [normal(n, 2, generator=g) + 5 for n in (4, 7, 1)]  # far from zero, where padding stands
    masses = [torch.rand(len(points), generator=g, dtype=torch.float64) + 0.1 for points in sets]
    y = normal(5, 2, generator=g) + 5
    for weights in (None, masses):
        single = [PointSets(points, None if weights is None else weights[i]) for i, points in enumerate(sets)]
        expected = torch.stack([distance(points, y) for points in single])
        ragged = PointSets.from_list(sets, weights)
        torch.testing.assert_close(distance(ragged, y), expected, rtol=tolerance, atol=1e-12)
        torch.testing.assert_close(
            distance.pairwise(ragged, y.unsqueeze(0))[:, 0], expected, rtol=tolerance, atol=1e-12
        )
    padded = torch.full((3, 7, 2), math.nan, dtype=torch.float64)
    for row, points in zip(padded, sets, strict=True):
        row[: len(points)] = points
    padded.requires_grad_()
    value = distance(PointSets(padded, lengths=torch.tensor([4, 7, 1])), y)
    torch.testing.assert_close(value, distance(PointSets.from_list(sets), y), rtol=1e-12, atol=0)
    value.sum().backward()
    assert (padded.grad[0, 4:] == 0).all()
    assert padded.grad.isfinite().all()
    if tolerance < 1e-6:
        alone = sets[0].clone().requires_grad_()
        distance(alone, y).backward()
        torch.testing.assert_close(padded.grad[0, :4], alone.grad, rtol=1e-8, atol=1e-10)


def test_gradients_of_weights():
    g = seeded(24)
    x, y, a = normal(5, 2, generator=g), normal(4, 2, generator=g), torch.rand(5, generator=g, dtype=torch.float64)
    distance = GeneralizedSlicedWasserstein(CIRCULAR)
    assert torch.autograd.gradcheck(lambda x, a: distance(PointSets(x, a), y), (x.requires_grad_(), a.requires_grad_()))


def test_half_precision():
    x, y = torch.randn(2, 20, 2, generator=seeded(25))
    for distance in (GeneralizedSlicedWasserstein(CIRCULAR), MaxGeneralizedSlicedWasserstein(CIRCULAR)):
        d = distance(x.half(), y.half())
        assert d.dtype == torch.float16
        assert d.item() == pytest.approx(distance(x, y).item(), rel=5e-3)


@pytest.mark.parametrize("slices", [CIRCULAR, QUINTIC, SMALL_NETWORK], ids=lambda s: type(s).__name__)
def test_nasty_sets(slices):
    for distance in (GeneralizedSlicedWasserstein(slices), MaxGeneralizedSlicedWasserstein(slices)):
        same = torch.full((4, 2), 0.3, dtype=torch.float64)
        point = same[:1].clone().requires_grad_()
        assert distance(point, same).item() == pytest.approx(0, abs=1e-15)
        d = distance(same, same + 1)
        lone = distance(same[:1], same[:1] + 1)
        assert d.item() == pytest.approx(lone.item(), rel=1e-9)
        far = distance(same + 1e6, same[:3] + 1e6 + 1)
        assert far.isfinite()
        assert far > 0
        x = torch.stack([same, same])
        x[0, 2, 1] = math.inf
        assert not distance(x, same + 1)[0].isfinite()
        assert distance(x, same + 1)[1].item() == pytest.approx(d.item(), rel=1e-9)


# Your own slices.


class Annuli(Slices):
    """g_l(x) = log |x|^l, undefined at zero."""

    count = 3

    def project(self, points, block):
        power = torch.arange(1, 4).to(points)[block]
        return power.unsqueeze(-1) * points.square().sum(-1).log().unsqueeze(-2) / 2


class Waves(DefiningFunction):
    """g(x, theta) = sin <x, theta>."""

    def evaluate(self, theta, points):
        return (theta @ points.mT).sin()


def test_your_own_slices():
    g = seeded(27)
    x, y = normal(6, 2, generator=g), normal(6, 2, generator=g)
    radii = [points.norm(dim=-1).log().sort().values for points in (x, y)]
    expected = math.sqrt(14 / 3) * (radii[0] - radii[1]).square().mean().sqrt().item()
    distance = GeneralizedSlicedWasserstein(Annuli())
    assert distance(x, y).item() == pytest.approx(expected, rel=1e-12)
    ragged = PointSets.from_list([x, x[:4]])
    ragged.points.requires_grad_()
    d = distance(ragged, y)  # padding is not where log is undefined
    assert d[0].item() == pytest.approx(expected, rel=1e-12)
    assert d[1].item() == pytest.approx(distance(x[:4], y).item(), rel=1e-12)
    d.sum().backward()
    assert ragged.points.grad.isfinite().all()

    waves = Waves(2, 2, count=8, generator=g)
    top = MaxGeneralizedSlicedWasserstein(waves)
    angles = torch.linspace(0, math.pi, 20001, dtype=torch.float64)
    grid = torch.stack([angles.cos(), angles.sin()], -1)
    costs = GeneralizedSlicedWasserstein(Waves(2, 2, directions=grid)).costs(x, y)
    assert top(x, y).item() == pytest.approx(costs.max().sqrt().item(), rel=1e-6)


# The maximum.


@pytest.mark.parametrize("degree", [1, 3, 5])
def test_max_on_the_line(degree):
    """On the line there is one polynomial."""
    x, y = normal(2, 8, 1, generator=seeded(28))
    distance = MaxGeneralizedSlicedWasserstein(Polynomial(1, 2, degree))
    gap = (x**degree).sort(0).values - (y**degree).sort(0).values
    assert distance(x, y).item() == pytest.approx(gap.square().mean().sqrt().item(), rel=1e-12)


def test_max_of_degree_one_is_max_sliced():
    """Both from the starts of the latter."""
    x, y = normal(20, 6, generator=seeded(29)), normal(15, 6, generator=seeded(30)) * 1.5
    linear = MaxSlicedWasserstein(restarts=4, generator=seeded(32))
    starts = linear._starts(PointSets.of(x), PointSets.of(y))
    distance = MaxGeneralizedSlicedWasserstein(Polynomial(6, degree=1, directions=starts))
    torch.testing.assert_close(distance(x, y), linear(x, y), rtol=1e-9, atol=0)
    along = MaxGeneralizedSlicedWasserstein(Linear(6, directions=starts))
    torch.testing.assert_close(along(x, y), linear(x, y), rtol=1e-9, atol=0)


@pytest.mark.parametrize("slices", [CIRCULAR, QUINTIC, SMALL_NETWORK], ids=lambda s: type(s).__name__)
@pytest.mark.parametrize("p", [1, 2])
def test_max_is_above_the_mean_and_above_adam(slices, p):
    x, y = normal(3, 30, 2, generator=seeded(34)), 1.5 * normal(3, 25, 2, generator=seeded(35))
    distance = MaxGeneralizedSlicedWasserstein(slices, p)
    top = distance(x, y)
    assert (top > GeneralizedSlicedWasserstein(slices, p)(x, y)).all()
    theta = torch.nn.functional.normalize(slices.theta, dim=-1).expand(3, -1, -1).clone().requires_grad_()
    adam = torch.optim.Adam([theta], lr=1e-2)
    for _ in range(100):
        adam.zero_grad()
        costs = distance._costs(torch.nn.functional.normalize(theta, dim=-1), PointSets(x), PointSets(y))
        (-costs.sum()).backward()
        adam.step()
    assert (top >= costs.amax(-1) ** (1 / p) * 0.99).all()


def test_max_circular_keeps_its_radius():
    """At the maximal theta the value is W_p of the distances from a centre at distance r."""
    x, y = normal(20, 2, generator=seeded(36)), normal(20, 2, generator=seeded(37)) + 1
    distance = MaxGeneralizedSlicedWasserstein(Circular(2, 8, radius=3.0, generator=seeded(38)))
    theta = distance.directions(x, y)
    assert theta.norm().item() == pytest.approx(1, rel=1e-12)
    u, v = ((points - 3 * theta).norm(dim=-1).sort().values for points in (x, y))
    assert distance(x, y).item() == pytest.approx((u - v).square().mean().sqrt().item(), rel=1e-12)


# Bad input.


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Polynomial(2, degree=2), "odd"),
        (lambda: Polynomial(2, degree=0), "odd"),
        (lambda: Polynomial(2, degree=-1), "odd"),
        (lambda: Circular(2, radius=0), "positive and finite"),
        (lambda: Circular(2, radius=math.inf), "positive and finite"),
        (lambda: Circular(2, count=0), "at least one direction"),
        (lambda: Circular(2, directions=torch.zeros(0, 2)), "shape"),
        (lambda: Circular(2, directions=torch.zeros(4, 3)), r"\(count, 2\)"),
        (lambda: Circular(2, directions=torch.ones(4, 2, dtype=torch.int64)), "floating point"),
        (lambda: Network(2, hidden=()), "hidden layer"),
        (lambda: Network(2, hidden=(4, 0)), "hidden layer"),
        (lambda: GeneralizedSlicedWasserstein(CIRCULAR, p=0.5), "at least 1"),
        (lambda: MaxGeneralizedSlicedWasserstein(CIRCULAR, p=math.nan), "at least 1"),
        (lambda: MaxGeneralizedSlicedWasserstein(Slices()), "must be a DefiningFunction"),
        (lambda: MaxGeneralizedSlicedWasserstein(CIRCULAR, steps=0), "steps"),
    ],
)
def test_bad_parameters(build, message):
    with pytest.raises((DomainError, ShapeError), match=message):
        build()


def test_points_of_another_dimension():
    x = torch.zeros(4, 5)
    for slices in (CIRCULAR, CUBIC, NETWORK):
        for distance in (GeneralizedSlicedWasserstein(slices), MaxGeneralizedSlicedWasserstein(slices)):
            with pytest.raises(ShapeError, match="coordinates, got 5"):
                distance(x, x)


def test_repr_reads_like_the_constructor():
    assert repr(Polynomial(3, 6, degree=5)) == "Polynomial(dim=3, count=6, degree=5)"
    assert "radius=1.3" in repr(GeneralizedSlicedWasserstein(CIRCULAR))
    assert "hidden=(8, 6)" in repr(NETWORK)
    assert "steps=200" in repr(MaxGeneralizedSlicedWasserstein(CIRCULAR))
