"""Exact and entropic transport: linear programmes, permutations, closed forms and a dense Sinkhorn as oracles."""

import itertools
import math

import mpmath
import numpy as np
import ot
import pytest
import scipy.optimize
import scipy.stats
import torch

from distance_contract import Case, DistanceContract, normal
from geoembed.distance import Distance
from geoembed.distances import Euclidean, Geodesic, Lp, Mahalanobis, NegativeInner, sinkhorn, transport
from geoembed.distances.sinkhorn import SinkhornDivergence, UnbalancedSinkhornDivergence
from geoembed.distances.transport import Wasserstein
from geoembed.errors import ConvergenceWarning, DomainError, ShapeError
from geoembed.manifolds import HalfSpace, PoincareBall
from geoembed.pointsets import PointSets

BALL = PoincareBall()


def in_ball(*shape, generator):
    return BALL.from_tangent(normal(*shape, generator=generator))


def euclidean(x, y):
    return np.linalg.norm(x[:, None] - y, axis=-1)


def hyperbolic(x, y):
    square = euclidean(x, y) ** 2
    return np.arccosh(1 + 2 * square / np.outer(1 - (x**2).sum(-1), 1 - (y**2).sum(-1)))


def programme(cost, a, b):
    """The least cost, from the linear programme."""
    n, m = cost.shape
    margins = np.concatenate([np.kron(np.eye(n), np.ones(m)), np.kron(np.ones(n), np.eye(m))])
    # Of n + m equations one follows from the others; HiGHS takes rounded ones for a contradiction.
    options = {"dual_feasibility_tolerance": 1e-10, "primal_feasibility_tolerance": 1e-10}
    found = scipy.optimize.linprog(
        cost.ravel(), A_eq=margins[:-1], b_eq=np.concatenate([a, b])[:-1], method="highs-ds", options=options
    )
    return found.fun


def exact(ground, p):
    def oracle(x, y, a=None, b=None):
        a = np.full(len(x), 1 / len(x)) if a is None else a
        b = np.full(len(y), 1 / len(y)) if b is None else b
        return programme(ground(x, y) ** p, a, b) ** (1 / p)

    return oracle


def dense(cost, a, b, eps, rho=math.inf):
    """The entropic problem's value, from its primal formula and the plain iteration of scalings."""
    kernel, u, v = np.exp(-cost / eps), np.ones(len(a)), np.ones(len(b))
    power = 1 if rho == math.inf else rho / (rho + eps)
    for _ in range(100_000):
        u = (1 / (kernel @ (b * v))) ** power
        old, v = v, (1 / (kernel.T @ (a * u))) ** power
        if np.abs(v / old - 1).max() < 1e-15:
            break
    return primal(np.outer(a * u, b * v) * kernel, cost, a, b, eps, rho)


def primal(plan, cost, a, b, eps, rho=math.inf):
    def kl(p, q):
        p, q = p[q > 0], q[q > 0]
        return np.sum(p * np.log(p / q) - p + q)

    value = np.sum(plan * cost) + eps * kl(plan, np.outer(a, b))
    return value if rho == math.inf else value + rho * (kl(plan.sum(1), a) + kl(plan.sum(0), b))


def divergence(ground, p, blur, reach=math.inf):
    def oracle(x, y, a=None, b=None):
        a = np.full(len(x), 1 / len(x)) if a is None else a
        b = np.full(len(y), 1 / len(y)) if b is None else b

        def value(x, y, a, b):
            return dense(ground(x, y) ** p / p, a, b, blur**p, reach**p)

        return value(x, y, a, b) - value(x, x, a, a) / 2 - value(y, y, b, b) / 2

    return oracle


def tight(ground, *args, kind=SinkhornDivergence, tolerance=1e-6):
    return kind(ground, *args, tolerance=tolerance)


CASES = [
    Case("Wasserstein(Euclidean, 1)", lambda: Wasserstein(Euclidean()), exact(euclidean, 1), (5, 2)),
    Case("Wasserstein(Euclidean, 2)", lambda: Wasserstein(Euclidean(), 2), exact(euclidean, 2), (4, 3)),
    Case(
        "Wasserstein(PoincareBall, 1.5)",
        lambda: Wasserstein(Geodesic(PoincareBall()), 1.5),
        exact(hyperbolic, 1.5),
        (4, 2),
        in_ball,
    ),
    Case(
        "SinkhornDivergence(Euclidean, 2)", lambda: tight(Euclidean(), 2.0, 1.5), divergence(euclidean, 2, 1.5), (2, 3)
    ),
    Case(
        "UnbalancedSinkhornDivergence(Euclidean, 2)",
        lambda: tight(Euclidean(), 2.0, 1.5, 1.2, kind=UnbalancedSinkhornDivergence),
        divergence(euclidean, 2, 1.5, 1.2),
        (2, 2),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestTransport(DistanceContract):
    pass


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def some_sets(count=5, d=2, seed=0, sample=normal, largest=7):
    """Sets of 1 to `largest` points with uneven weights, as lists of points and weights."""
    g = generator(seed)
    sizes = [1, largest, *torch.randint(1, largest + 1, (count,), generator=g).tolist()][:count]
    points = [sample(n, d, generator=g) for n in sizes]
    return points, [torch.rand(n, generator=g, dtype=torch.float64) ** 2 + 0.01 for n in sizes]


def value_of(oracle, x, y, a, b):
    return oracle(x.numpy(), y.numpy(), (a / a.sum()).numpy(), (b / b.sum()).numpy())


# Exact transport.


class Drift(Distance):
    symmetric = is_metric = False

    def _forward(self, x, y):
        return (x - y).abs().sum(-1) + torch.relu((x - y).sum(-1))


def drift(x, y):
    return np.abs(x[:, None] - y).sum(-1) + np.maximum((x[:, None] - y).sum(-1), 0)


@pytest.mark.parametrize(
    ("ground", "oracle", "p", "sample"),
    [
        (Euclidean(), euclidean, 1, normal),
        (Euclidean(), euclidean, 3, normal),
        (Geodesic(BALL), hyperbolic, 2, in_ball),
        (NegativeInner(), lambda x, y: -x @ y.T, 1, normal),
        (Drift(), drift, 1, normal),
        (Drift(), drift, 2, normal),
    ],
    ids=["euclidean-1", "euclidean-3", "ball-2", "inner-1", "asymmetric-1", "asymmetric-2"],
)
def test_weighted_ragged_sets_against_the_linear_programme(ground, oracle, p, sample):
    (xs, a), (ys, b) = some_sets(5, 2, 1, sample), some_sets(4, 2, 2, sample)
    got = Wasserstein(ground, p).pairwise(PointSets.from_list(xs, a), PointSets.from_list(ys, b))
    expected = [
        [value_of(exact(oracle, p), *pair) for pair in zip([x] * 4, ys, [w] * 4, b, strict=True)]
        for x, w in zip(xs, a, strict=True)
    ]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("n", [1, 2, 6])
def test_equal_sets_against_all_permutations(n):
    x, y = normal(3, n, 2, generator=generator(n)), normal(3, n, 2, generator=generator(n + 10))
    cost = torch.cdist(x, y) ** 2
    best = torch.stack([cost[:, range(n), list(order)].mean(-1) for order in itertools.permutations(range(n))]).amin(0)
    torch.testing.assert_close(Wasserstein(Euclidean(), 2)(x, y), best.sqrt())


def test_line_against_sorting():
    x, y = normal(130, 1, generator=generator(1)), normal(130, 1, generator=generator(2))
    z = normal(57, 1, generator=generator(3))
    gap = (x.sort(0).values - y.sort(0).values).abs()
    for p in (1, 2, 4):
        assert Wasserstein(Euclidean(), p)(x, y).item() == pytest.approx((gap**p).mean().item() ** (1 / p), rel=1e-12)
    expected = scipy.stats.wasserstein_distance(x[:, 0].numpy(), z[:, 0].numpy())
    assert Wasserstein(Euclidean())(x, z).item() == pytest.approx(expected, rel=1e-10)


def test_assignment_and_network_simplex_agree(monkeypatch):
    x, y = normal(4, 30, 3, generator=generator(1)), normal(4, 30, 3, generator=generator(2))
    assigned = Wasserstein(Euclidean(), 2)(x, y)
    torch.testing.assert_close(Wasserstein(Euclidean(), 2)(PointSets(x, torch.ones(4, 30).double()), y), assigned)
    monkeypatch.setattr(transport, "_ASSIGNED", 0)
    torch.testing.assert_close(Wasserstein(Euclidean(), 2)(x, y), assigned)


def test_plan():
    (xs, a), (ys, b) = some_sets(4, 2, 3), some_sets(4, 2, 4)
    xs[2][0] = torch.nan
    x, y = PointSets.from_list(xs, a), PointSets.from_list(ys, b)
    distance = Wasserstein(Euclidean(), 2)
    plan = distance.plan(x, y)
    assert plan.shape == (4, x.shape[1], y.shape[1])
    assert plan[2].isnan().all()
    kept = [0, 1, 3]
    torch.testing.assert_close(plan.sum(2)[kept], x.weights[kept])
    torch.testing.assert_close(plan.sum(1)[kept], y.weights[kept])
    assert (plan[kept] >= 0).all()
    value = (plan * torch.cdist(x.points, y.points) ** 2).sum((1, 2)).sqrt()
    torch.testing.assert_close(value[kept], distance(x, y)[kept])
    assert distance.plan(xs[0], ys[1]).shape == (len(xs[0]), len(ys[1]))
    assert distance.plan(x.unsqueeze(1), y).shape == (4, 4, x.shape[1], y.shape[1])


def test_zero_weights_count_for_nothing_but_their_own_gradient():
    x, y = normal(5, 2, generator=generator(1)), normal(4, 2, generator=generator(2))
    w = torch.tensor([0.0, 0.21, 0.33, 0.0, 0.46], dtype=torch.float64, requires_grad=True)
    distance = Wasserstein(Euclidean())
    value = distance(PointSets(x, w), y)
    kept = w.detach() > 0
    torch.testing.assert_close(value.detach(), distance(PointSets(x[kept], w.detach()[kept]), y))
    (gradient,) = torch.autograd.grad(value, w)
    step = 1e-7
    for i in range(5):  # to the right, where alone there are weights
        moved = distance(PointSets(x, w.detach() + step * torch.eye(5, dtype=torch.float64)[i]), y)
        assert gradient[i].item() == pytest.approx((moved - value).item() / step, abs=1e-5)


def test_points_may_be_split():
    """Equal measures, with their mass spread over other points: the rounding of the weights makes no distance."""
    g = generator(1)
    for n in range(2, 30):
        x, w = normal(n, 2, generator=g).requires_grad_(), torch.rand(n, generator=g).double() ** 2
        value = Wasserstein(Euclidean(), 2)(PointSets(x, w), PointSets(x.repeat(2, 1), torch.cat([0.3 * w, 0.7 * w])))
        assert value == 0
        assert (torch.autograd.grad(value, x)[0] == 0).all()


def test_small_and_large_costs_are_solved_alike():
    """POT's own stopping rule is absolute, and wrong by 4 % for costs of 1e-12."""
    (xs, a), (ys, b) = some_sets(4, 2, 5, largest=40), some_sets(4, 2, 6, largest=40)
    x, y = PointSets.from_list(xs, a), PointSets.from_list(ys, b)
    distance = Wasserstein(Euclidean(), 2)
    for scale in (1e-60, 1e-9, 1e9, 1e60):
        scaled = distance(x.map(lambda t, s=scale: t * s), y.map(lambda t, s=scale: t * s))
        torch.testing.assert_close(scaled / scale, distance(x, y), rtol=1e-11, atol=0)


def test_unsolved_pairs_are_named():
    x, y = normal(2, 30, 2, generator=generator(1)), normal(2, 31, 2, generator=generator(2))
    with pytest.warns(ConvergenceWarning, match="did not solve 2 of 2 pairs within 5 iterations") as caught:
        assert Wasserstein(Euclidean(), iterations=5)(x, y).isnan().all()
    assert len(caught) == 1


# Entropic transport.


@pytest.mark.parametrize("reach", [math.inf, 0.7])
@pytest.mark.parametrize(
    ("ground", "oracle", "p", "sample"), [(Euclidean(), euclidean, 2, normal), (Geodesic(BALL), hyperbolic, 1, in_ball)]
)
def test_weighted_ragged_sets_against_the_dense_iteration(ground, oracle, p, sample, reach):
    (xs, a), (ys, b) = some_sets(4, 2, 1, sample), some_sets(4, 2, 2, sample)
    a[1][:2] = 0
    distance = tight(ground, p, 1.2, tolerance=1e-10)
    if reach < math.inf:
        distance = tight(ground, p, 1.2, reach, kind=UnbalancedSinkhornDivergence, tolerance=1e-10)
    got = distance(PointSets.from_list(xs, a), PointSets.from_list(ys, b))
    expected = [value_of(divergence(oracle, p, 1.2, reach), *four) for four in zip(xs, ys, a, b, strict=True)]
    torch.testing.assert_close(got, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-11)


def test_potentials_against_fifty_digits():
    x, y = normal(3, 2, generator=generator(1)), normal(3, 2, generator=generator(2))
    eps = 0.3**2

    def value(x, y):
        """The dual at its maximum, which Newton's method finds from where the plain iteration got."""
        cost = [[mpmath.mpf(float((u - v).square().sum())) / 2 for v in y] for u in x]
        kernel, scale = np.array([[math.exp(-c / eps) for c in row] for row in cost]), np.ones(3)
        for _ in range(2000):
            scale = 3 / (kernel.T @ (3 / (kernel @ scale)))

        def rows(g):
            return [
                -eps * mpmath.log(sum(mpmath.exp((h - c) / eps) for h, c in zip([0, *g], r, strict=True)) / 3)
                for r in cost
            ]

        def excess(*g):
            f = rows(g)
            return [sum(mpmath.exp((f[i] + g[j] - cost[i][j + 1]) / eps) for i in range(3)) - 3 for j in range(2)]

        with mpmath.workdps(50):
            g = list(mpmath.findroot(excess, [eps * math.log(t / scale[0]) for t in scale[1:]], maxsteps=100))
            return float((sum(rows(g)) + sum(g)) / 3)

    expected = value(x, y) - value(x, x) / 2 - value(y, y) / 2
    got = SinkhornDivergence(Euclidean(), 2, 0.3, tolerance=1e-9, iterations=100_000)(x, y)
    assert got.item() == pytest.approx(expected, rel=1e-10)


@pytest.mark.parametrize("reach", [math.inf, 0.8])
def test_plans_of_pot_give_the_same_value(reach):
    x, y = normal(20, 2, generator=generator(1)), normal(25, 2, generator=generator(2))
    eps, rho = 0.8**2, reach**2

    def value(x, y):
        a, b = np.full(len(x), 1 / len(x)), np.full(len(y), 1 / len(y))
        cost = euclidean(x.numpy(), y.numpy()) ** 2 / 2
        if rho == math.inf:
            plan = ot.sinkhorn(a, b, cost, eps, method="sinkhorn_log", numItermax=10_000, stopThr=1e-10)
        else:
            plan = ot.unbalanced.sinkhorn_unbalanced(a, b, cost, eps, rho, numItermax=10_000, stopThr=1e-12)
        return primal(plan, cost, a, b, eps, rho)

    expected = value(x, y) - value(x, x) / 2 - value(y, y) / 2
    distance = tight(Euclidean(), 2, 0.8)
    if reach < math.inf:
        distance = tight(Euclidean(), 2, 0.8, reach, kind=UnbalancedSinkhornDivergence)
    assert distance(x, y).item() == pytest.approx(expected, rel=1e-7)


def test_little_blur_is_exact_transport_and_much_blur_a_kernel():
    """OT exceeds the cost of transport by at most eps times the entropy of the weights, here log 12."""
    x, y = normal(3, 12, 2, generator=generator(1)), normal(3, 9, 2, generator=generator(2))
    for p in (1.0, 2.0):
        limit = Wasserstein(Euclidean(), p)(x, y) ** p / p
        blurs = (0.4, 0.1, 0.025)
        errors = [(SinkhornDivergence(Euclidean(), p, b)(x, y) - limit).abs().max().item() for b in blurs]
        assert errors[0] > errors[1] > errors[2]
        assert all(error < blur**p * math.log(12) for error, blur in zip(errors, blurs, strict=True))

        def mean(u, v, p=p):
            return (torch.cdist(u, v) ** p / p).mean((-2, -1))

        kernel = mean(x, y) - mean(x, x) / 2 - mean(y, y) / 2
        torch.testing.assert_close(SinkhornDivergence(Euclidean(), p, 3e3)(x, y), kernel, rtol=2e-3, atol=0)


def test_divergence_of_a_translation():
    """S(X, X + t) = |t|^2 / 2 for p = 2, whatever the blur."""
    x, t = normal(20, 3, generator=generator(1)), torch.tensor([1.0, -2.0, 0.5], dtype=torch.float64)
    for blur in (0.2, 2.0):
        got = SinkhornDivergence(Euclidean(), 2, blur, tolerance=1e-6)(x, x + t)
        assert got.item() == pytest.approx(t.square().sum().item() / 2, rel=1e-8)


def test_divergence_of_single_points():
    x, y = torch.zeros(1, 2).double(), torch.tensor([[3.0, 4.0]]).double()
    assert SinkhornDivergence(Euclidean(), 2)(x, y).item() == pytest.approx(12.5, rel=1e-12)
    # The mass that is moved is t = exp(-C / (eps + 2 rho)), at a price of (eps + 2 rho) (1 - t) in all.
    price = 0.3**2 + 2 * 2.0**2
    got = UnbalancedSinkhornDivergence(Euclidean(), 2, 0.3, 2.0, tolerance=1e-9)(x, y)
    assert got.item() == pytest.approx(price * (1 - math.exp(-12.5 / price)), rel=1e-12)


def test_reach_limits_the_price_of_an_outlier():
    x = normal(20, 2, generator=generator(1))
    y = x.clone()
    y[0] = 1e3
    balanced, robust = SinkhornDivergence(Euclidean(), 2, 0.2), UnbalancedSinkhornDivergence(Euclidean(), 2, 0.2, 1.0)
    assert balanced(x, y) > 2e4
    assert 0 < robust(x, y) < 2 / 20 + 0.01
    far = UnbalancedSinkhornDivergence(Euclidean(), 2, 0.3, 1e4, tolerance=1e-6)
    z = normal(9, 2, generator=generator(2))
    same = SinkhornDivergence(Euclidean(), 2, 0.3, tolerance=1e-6)(x, z)
    torch.testing.assert_close(far(x, z), same, rtol=1e-6, atol=0)


def test_default_settings_converge_on_unequal_clusters():
    """The hard case of a small blur: mass has to pass between far clusters. A warning would fail the test."""
    g = generator(5)
    x, y = (0.05 * normal(4, 40, 2, generator=g) + torch.randint(0, 3, (4, 40, 1), generator=g) for _ in range(2))
    w = Wasserstein(Euclidean(), 2)(x, y) ** 2 / 2
    for t in (torch.float64, torch.float32):
        torch.testing.assert_close(SinkhornDivergence(Euclidean())(x.to(t), y.to(t)).double(), w, rtol=0.01, atol=2e-3)


def test_unfinished_pairs_are_named():
    x, y = normal(3, 8, 2, generator=generator(1)), normal(3, 8, 2, generator=generator(2))
    y[1] = x[1]
    with pytest.warns(ConvergenceWarning, match=r"of 3 pairs still misplace up to .* after 12 iterations"):
        value = SinkhornDivergence(Euclidean(), iterations=12)(x, y)
    assert value.isfinite().all()
    assert value[1] == 0


# Both.

FAMILY = [
    lambda ground: Wasserstein(ground, 2),
    lambda ground: tight(ground, 2.0, 1.2),
    lambda ground: tight(ground, 2.0, 1.2, 1.0, kind=UnbalancedSinkhornDivergence),
]
family = pytest.mark.parametrize("build", FAMILY, ids=["exact", "entropic", "unbalanced"])


@family
def test_ways_to_hold_the_sets(build, monkeypatch):
    """Batch, loop, list, flat, NaN as padding, and a batch cut in blocks: the same values and gradients."""
    manifold = HalfSpace()  # where zero, the padding, is not a point
    distance = build(Geodesic(manifold))

    def sample(*shape, generator):
        return manifold.from_tangent(normal(*shape, generator=generator))

    (xs, a), (ys, b) = some_sets(4, 2, 1, sample), some_sets(4, 2, 2, sample)
    xs = [x.requires_grad_() for x in xs]
    y = PointSets.from_list(ys, b)

    def result(x):
        value = distance(x, y)
        return value.detach(), torch.autograd.grad(value.square().sum(), xs)

    alone = torch.stack([distance(PointSets(u, w), PointSets(v, r)) for u, w, v, r in zip(xs, a, ys, b, strict=True)])
    expected = alone.detach(), torch.autograd.grad(alone.square().sum(), xs)
    assert expected[0].min() > 1e-3
    ptr = torch.tensor([0, *itertools.accumulate(len(x) for x in xs)])
    longest = max(map(len, xs)) + 2

    def padded(rows, fill):
        return torch.stack([torch.cat([r, torch.full((longest - len(r), *r.shape[1:]), fill).double()]) for r in rows])

    lengths = torch.tensor([len(x) for x in xs])
    ways = [
        lambda: PointSets.from_list(xs, a),
        lambda: PointSets.from_flat(torch.cat(xs), ptr, torch.cat(a)),
        lambda: PointSets(padded(xs, math.nan), padded(a, math.nan), lengths),
    ]
    for way in ways:
        torch.testing.assert_close(result(way()), expected, rtol=1e-9, atol=1e-11)
    matrix = distance.pairwise(ways[0](), y)
    torch.testing.assert_close(matrix.diagonal().detach(), expected[0], rtol=1e-9, atol=1e-11)
    monkeypatch.setattr(transport, "_BUDGET", 1)
    monkeypatch.setattr(sinkhorn, "_BUDGET", 1)
    torch.testing.assert_close(result(ways[0]()), expected, rtol=1e-9, atol=1e-11)


@family
def test_gradients_of_weights_and_of_the_ground(build):
    g = generator(3)
    x, y = normal(2, 3, 2, generator=g), normal(2, 4, 2, generator=g)
    a, b = torch.rand(2, 3, generator=g).double() + 0.1, torch.rand(2, 4, generator=g).double() + 0.1
    lengths = torch.tensor([3, 2])
    factor = normal(2, 2, generator=g)
    distance = build(Mahalanobis(factor))

    def of(x, a, b, factor):
        sets = PointSets(x, a, lengths), PointSets(y, b)
        return torch.func.functional_call(distance, {"ground.factor": factor}, sets)

    assert torch.autograd.gradcheck(of, tuple(t.requires_grad_() for t in (x, a, b, factor)))
    curved = build(Geodesic(PoincareBall(0.7, learnable=True)))
    u, v = 0.3 * x.detach().tanh(), 0.3 * y.tanh()
    ((name, curvature),) = curved.named_parameters()
    assert torch.autograd.gradcheck(
        lambda c: torch.func.functional_call(curved, {name: c}, (u, v)),
        curvature.detach().clone().requires_grad_(),
    )


@family
def test_coincident_sets(build):
    """Zero with zero gradient: duplicates, one point only, weights, another padding; in the middle of a batch too."""
    distance = build(Euclidean())
    (points, weights) = some_sets(4, 2, 1)
    points[2] = points[2][:1].expand(5, 2).clone()
    weights[2] = torch.arange(1.0, 6).double()
    x = PointSets.from_list(points, weights)
    u = x.points.clone().requires_grad_()
    v = torch.cat([x.points, torch.ones(4, 3, 2)], 1).requires_grad_()
    wider = torch.cat([x.weights, torch.ones(4, 3)], 1)
    for compare in (distance, lambda a, b: distance.pairwise(a, b).diagonal()):
        value = compare(PointSets(u, x.weights, x.lengths), PointSets(v, wider, x.lengths))
        assert (value == 0).all()
        for gradient in torch.autograd.grad(value.sum(), (u, v)):
            assert (gradient == 0).all()
    same_point = torch.ones(1, 4, 2).double().requires_grad_()
    value = distance(same_point, torch.ones(3, 7, 2).double())
    assert (value.abs() < 1e-14).all()
    assert torch.autograd.grad(value.sum(), same_point)[0].abs().max() < 1e-12


@family
def test_broken_sets_stay_alone(build):
    distance = build(Mahalanobis(torch.eye(2).double()))
    x, y = normal(4, 3, 2, generator=generator(1)), normal(4, 5, 2, generator=generator(2))
    expected = distance(x, y)
    x[1, 2, 0], y[2, 0, 1] = math.nan, math.inf
    x.requires_grad_()
    w = torch.rand(4, 5, generator=generator(3)).double().requires_grad_()
    distance(x, PointSets(y, w))[[0, 3]].sum().backward()
    assert w.grad.isfinite().all()
    assert (w.grad[[0, 3]] != 0).all()
    value = distance(x, y)
    assert value.isnan().tolist() == [False, True, True, False]
    torch.testing.assert_close(value[[0, 3]], expected[[0, 3]], rtol=1e-9, atol=1e-12)
    value[[0, 3]].sum().backward()
    assert x.grad.isfinite().all()
    assert distance.ground.factor.grad.isfinite().all()
    assert distance(x[1:2], y[:1]).isnan().all()


@family
def test_offset(build):
    """Far from the origin the rounding of the points is all that is lost."""
    distance = build(Euclidean())
    x, y = normal(3, 6, 2, generator=generator(1)), normal(3, 6, 2, generator=generator(2))
    moved_x, moved_y = x + 1e6, y + 1e6
    torch.testing.assert_close(distance(moved_x, moved_y), distance(x, y), rtol=1e-8, atol=1e-8)
    exact_x, exact_y = (moved_x.float() - 1e6).double(), (moved_y.float() - 1e6).double()
    single = distance(moved_x.float(), moved_y.float()).double()
    torch.testing.assert_close(single, distance(exact_x, exact_y), rtol=1e-5, atol=1e-5)


@family
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_single(build, dtype):
    x = normal(3, 4, 2, generator=generator(1)).to(dtype).requires_grad_()
    y = PointSets(normal(3, 5, 2, generator=generator(2)).to(dtype), torch.rand(3, 5, generator=generator(3)).to(dtype))
    value = build(Euclidean())(x, y)
    assert value.dtype == dtype
    whole = build(Euclidean())(x.detach().float(), y.to(torch.float32))
    torch.testing.assert_close(value, whole.to(dtype), rtol=2 * torch.finfo(dtype).eps, atol=0)
    value.sum().backward()
    assert x.grad.dtype == dtype
    assert x.grad.isfinite().all()


@family
def test_facts_follow_the_ground(build):
    distance = build(Drift())
    assert not distance.symmetric
    assert not distance.is_metric
    assert distance.event_dim == 2
    x, y = normal(3, 2, generator=generator(1)), normal(3, 2, generator=generator(2))
    assert abs(distance(x, y) - distance(y, x)) > 1e-3
    assert build(Lp(1)).is_metric == (build is FAMILY[0])
    assert "p=2" in repr(distance)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Wasserstein(Euclidean(), 0.5), DomainError, "at least 1"),
        (lambda: Wasserstein(Euclidean(), math.inf), DomainError, "finite"),
        (lambda: Wasserstein(Euclidean(), iterations=0), DomainError, "iterations"),
        (lambda: Wasserstein(Wasserstein(Euclidean())), ShapeError, "between vectors"),
        (lambda: SinkhornDivergence(Wasserstein(Euclidean())), ShapeError, "between vectors"),
        (lambda: SinkhornDivergence(Euclidean(), 0.9), DomainError, "at least 1"),
        (lambda: SinkhornDivergence(Euclidean(), blur=0), DomainError, "blur must be positive"),
        (lambda: SinkhornDivergence(Euclidean(), tolerance=math.nan), DomainError, "tolerance must be positive"),
        (lambda: SinkhornDivergence(Euclidean(), iterations=0), DomainError, "iterations"),
        (lambda: UnbalancedSinkhornDivergence(Euclidean(), reach=-1), DomainError, "reach must be positive"),
        (lambda: Wasserstein(NegativeInner(), 2)(torch.eye(3), torch.eye(3)), DomainError, "took the value -1"),
        (lambda: SinkhornDivergence(NegativeInner())(torch.eye(3), torch.eye(3)), DomainError, "took the value -1"),
        (lambda: Wasserstein(Euclidean())(torch.zeros(0, 2), torch.zeros(1, 2)), DomainError, "at least one point"),
        (lambda: Wasserstein(Euclidean()).plan(torch.zeros(2), torch.zeros(1, 2)), ShapeError, "at least 2"),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()
