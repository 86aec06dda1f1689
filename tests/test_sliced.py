"""Transport on the line and the sliced Wasserstein distances along straight directions."""

import math

import numpy as np
import ot
import pytest
import torch
from scipy.optimize import linprog

import plane_oracle
from distance_contract import Case, DistanceContract, normal
from geoembed.distance import Power, ProductDistance, Scaled, pairwise_blocks
from geoembed.distances import directions
from geoembed.distances.max_sliced import MaxSlicedWasserstein
from geoembed.distances.sliced import (
    ControlVariateSlicedWasserstein,
    EnergySlicedWasserstein,
    Linear,
    SlicedWasserstein,
)
from geoembed.distances.slicing import Sliced, Slices
from geoembed.distances.transport1d import argsort_rows, common_grid, root, sort_rows, transport_1d
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*shape: int, generator: torch.Generator) -> torch.Tensor:
    w = torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.05
    return w / w.sum(-1, keepdim=True)


# Transport on the line.


def lp(x, y, a, b, p):
    """The transport problem as a linear program."""
    n, m = len(x), len(y)
    cost = np.abs(np.subtract.outer(x, y)) ** p
    sums = np.zeros((n + m, n * m))
    for i in range(n):
        sums[i, i * m : (i + 1) * m] = 1
    for j in range(m):
        sums[n + j, j::m] = 1
    return linprog(cost.ravel(), A_eq=sums, b_eq=np.concatenate([a, b]), bounds=(0, None), method="highs").fun


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
@pytest.mark.parametrize(("n", "m"), [(6, 6), (6, 9), (1, 5), (7, 1), (8, 4)])
@pytest.mark.parametrize("weighted", [False, True])
def test_line_against_linear_programming(p, n, m, weighted):
    g = seeded(n * 100 + m)
    x, y = normal(n, generator=g), normal(m, generator=g)
    x[0] = y[0]
    x[-1] = x[0]  # ties
    a, b = (weights(n, generator=g), weights(m, generator=g)) if weighted else (None, None)
    full = [t.numpy() if t is not None else np.full(k, 1 / k) for t, k in ((a, n), (b, m))]
    expected = lp(x.numpy(), y.numpy(), *full, p)
    assert transport_1d(x, y, a, b, p=p).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)
    x.requires_grad_()  # the way with gradients
    assert transport_1d(x, y, a, b, p=p).item() == pytest.approx(expected, rel=1e-9, abs=1e-12)


@pytest.mark.parametrize("p", [1, 1.5, 2, 3])
def test_line_gradients(p):
    g = seeded(3)
    x, y = normal(2, 5, generator=g).requires_grad_(), normal(2, 7, generator=g).requires_grad_()
    a, b = weights(2, 5, generator=g).requires_grad_(), weights(2, 7, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, y: transport_1d(x, y, p=p), (x, y))
    assert torch.autograd.gradcheck(lambda x, y: transport_1d(x, y[:, :5], p=p), (x, y))

    def normalised(x, y, a, b):  # weights are free up to their sum
        return transport_1d(x, y, a / a.sum(-1, keepdim=True), b / b.sum(-1, keepdim=True), p=p)

    assert torch.autograd.gradcheck(normalised, (x, y, a, b))


def test_line_of_many_points_keeps_its_digits_in_float32():
    g = seeded(4)
    x, y = torch.randn(9000, generator=g), torch.randn(10000, generator=g) * 1.2
    exact = transport_1d(x.double(), y.double()).item()
    assert transport_1d(x, y).item() == pytest.approx(exact, rel=2e-6)
    a, b = weights(9000, generator=g), weights(10000, generator=g)
    exact = transport_1d(x.double(), y.double(), a, b).item()
    assert transport_1d(x, y, a.float(), b.float()).item() == pytest.approx(exact, rel=2e-5)


def test_common_grid_is_exact():
    for n, m in ((1, 1), (4, 6), (7, 5), (1000, 999)):
        i, j, mass = common_grid(n, m)
        assert len(mass) == n + m - math.gcd(n, m)
        assert mass.sum().item() == pytest.approx(1, abs=1e-14)
        np.testing.assert_allclose(np.bincount(i.numpy(), mass.numpy()), np.full(n, 1 / n), rtol=1e-12)
        np.testing.assert_allclose(np.bincount(j.numpy(), mass.numpy()), np.full(m, 1 / m), rtol=1e-12)


def test_sorting():
    x = torch.tensor([[2.0, math.nan, -1.0], [math.inf, 0.0, -math.inf]])
    torch.testing.assert_close(sort_rows(x), x.sort(-1).values, equal_nan=True)
    torch.testing.assert_close(argsort_rows(x), x.argsort(-1))
    half = torch.tensor([3.0, 1.0, 2.0], dtype=torch.bfloat16)  # not NumPy's
    assert sort_rows(half).tolist() == [1, 2, 3]
    ties = torch.tensor([1.0, 0.0, 1.0, 0.0])
    assert argsort_rows(ties, stable=True).tolist() == [1, 3, 0, 2]
    source = torch.randn(4, 6, generator=seeded(), dtype=torch.float64).requires_grad_()
    assert torch.autograd.gradcheck(sort_rows, source)


def test_line_checks():
    x = torch.zeros(3)
    with pytest.raises(DomainError, match="at least 1"):
        transport_1d(x, x, p=0.5)
    with pytest.raises(ShapeError, match="3 weights"):
        transport_1d(x, x, torch.ones(2) / 2)
    with pytest.raises(DomainError, match="at least 1"):
        SlicedWasserstein(3, p=math.nan)


def test_root_at_zero():
    cost = torch.tensor([0.0, 8.0], dtype=torch.float64, requires_grad=True)
    for p in (1.5, 2, 3):
        (gradient,) = torch.autograd.grad(root(cost, p).sum(), cost)
        assert gradient.tolist() == pytest.approx([0, 8 ** (1 / p - 1) / p])


# The contract.


def sliced_oracle(distance):
    theta = distance.slices.theta.numpy()

    def oracle(x, y):
        costs = [ot.emd2_1d(x @ t, y @ t, metric="minkowski", p=distance.p) for t in theta]
        return np.mean(costs) ** (1 / distance.p)

    return oracle


def energy_oracle(distance):
    theta = distance.slices.theta.numpy()

    def oracle(x, y):
        costs = np.array([ot.emd2_1d(x @ t, y @ t, metric="minkowski", p=distance.p) for t in theta])
        share = np.exp(costs) / np.exp(costs).sum()
        return (share @ costs) ** (1 / distance.p)

    return oracle


def variate_oracle(distance):
    theta = distance.slices.theta.numpy()

    def oracle(x, y):
        costs = np.array([ot.emd2_1d(x @ t, y @ t, metric="minkowski", p=distance.p) for t in theta])
        forms = np.stack(
            [((x - 0).mean(0) @ theta.T - y.mean(0) @ theta.T) ** 2, (x @ theta.T).var(0), (y @ theta.T).var(0)]
        )
        means = [((x.mean(0) - y.mean(0)) ** 2).sum(), x.var(0).sum(), y.var(0).sum()]
        centred = forms - forms.mean(1, keepdims=True)
        gram = centred @ centred.T
        slope = np.linalg.solve(gram + 1e-6 * np.trace(gram) * np.eye(3), centred @ (costs - costs.mean()))
        estimate = costs.mean() - slope @ (forms.mean(1) - np.array(means) / x.shape[1])
        return max(estimate, 0) ** (1 / distance.p)

    return oracle


def case(name, build, oracle, **kwargs):
    built = build()
    return Case(name, build, oracle(built), item=(6, 3), **kwargs)


CASES = [
    case("SlicedWasserstein", lambda: SlicedWasserstein(3, 12, generator=seeded()), sliced_oracle),
    case("SlicedWasserstein(p=1)", lambda: SlicedWasserstein(3, 12, 1, generator=seeded()), sliced_oracle),
    case("SlicedWasserstein(p=3)", lambda: SlicedWasserstein(3, 12, 3, generator=seeded()), sliced_oracle),
    case("EnergySlicedWasserstein", lambda: EnergySlicedWasserstein(3, 12, generator=seeded()), energy_oracle),
    case("ControlVariate", lambda: ControlVariateSlicedWasserstein(3, 20, generator=seeded()), variate_oracle),
    Case(
        "Scaled(SlicedWasserstein)",
        lambda: Scaled(SlicedWasserstein(3, 4, generator=seeded()), 2),
        lambda x, y: 2 * sliced_oracle(SlicedWasserstein(3, 4, generator=seeded()))(x, y),
        item=(6, 3),
    ),
    Case(
        "ProductDistance",
        lambda: ProductDistance([(SlicedWasserstein(2, 4, generator=seeded()), 2), (SlicedWasserstein(1, 1), 1)]),
        lambda x, y: math.hypot(
            sliced_oracle(SlicedWasserstein(2, 4, generator=seeded()))(x[:, :2], y[:, :2]),
            np.sqrt(((np.sort(x[:, 2]) - np.sort(y[:, 2])) ** 2).mean()),
        ),
        item=(6, 3),
    ),
    Case(
        "Power(SlicedWasserstein)",
        lambda: Power(SlicedWasserstein(3, 4, generator=seeded()), 2),
        lambda x, y: sliced_oracle(SlicedWasserstein(3, 4, generator=seeded()))(x, y) ** 2,
        item=(6, 3),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSlicedDistances(DistanceContract):
    pass


@pytest.mark.parametrize(
    "case",
    [Case("MaxSlicedWasserstein", lambda: MaxSlicedWasserstein(generator=seeded()), lambda x, y: 0.0, item=(6, 2))],
    ids=str,
)
class TestMaxSliced(DistanceContract):
    def test_oracle(self, case, distance, items):
        """Exact in the plane."""
        x, y = items(12), items(12)
        expected = [plane_oracle.max_sliced_wasserstein(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)]
        torch.testing.assert_close(distance(x, y), torch.tensor(expected, dtype=torch.float64), rtol=1e-4, atol=0)

    def test_gradcheck(self, case, distance, items):
        """Away from the kinks, where the best direction ties two matchings: far sets."""
        x, y = items(3).requires_grad_(), (items(3) + 9).requires_grad_()
        assert torch.autograd.gradcheck(distance, (x, y), rtol=1e-3, atol=1e-4)


# Values known in closed form.


def test_plane_is_exact():
    g = seeded(5)
    x, y = normal(9, 2, generator=g), normal(9, 2, generator=g) + 0.3
    exact = plane_oracle.sliced_wasserstein(x.numpy(), y.numpy())
    errors = [SlicedWasserstein(2, count, generator=g)(x, y).item() / exact - 1 for count in (8, 64, 2048)]
    assert abs(errors[0]) < 3e-2
    assert abs(errors[1]) < 1e-3
    assert abs(errors[2]) < 2e-6


@pytest.mark.parametrize(("d", "p"), [(2, 1), (2, 2), (3, 1), (3, 2), (16, 2), (16, 3)])
def test_translation_law(d, p):
    """SW_p(X, X + t) = |t| c(d, p)."""
    g = seeded(6)
    x, t = normal(5, d, generator=g), normal(d, generator=g)
    c = (math.gamma(d / 2) * math.gamma((p + 1) / 2) / (math.sqrt(math.pi) * math.gamma((d + p) / 2))) ** (1 / p)
    got = SlicedWasserstein(d, 16000, p, generator=g)(x, x + t).item() / t.norm().item()
    exact = d in (2, 3) or p == 2  # orthogonal blocks integrate quadratic forms exactly
    assert got == pytest.approx(c, rel=1e-4 if exact else 5e-3)
    assert MaxSlicedWasserstein(p)(x, x + t).item() == pytest.approx(t.norm().item(), rel=1e-6)


def test_bounds():
    g = seeded(7)
    x, y = normal(40, 5, generator=g), normal(40, 5, generator=g) * 1.4
    w = math.sqrt(ot.emd2([], [], ot.dist(x.numpy(), y.numpy())))
    sw, top = SlicedWasserstein(5, 1000, generator=g)(x, y).item(), MaxSlicedWasserstein()(x, y).item()
    assert sw * math.sqrt(5) < w
    assert sw < top < w
    assert sw < EnergySlicedWasserstein(5, 1000, generator=g)(x, y).item() < top


def test_max_finds_the_direction_that_matters():
    g = seeded(8)
    x, y = normal(500, 128, generator=g), normal(500, 128, generator=g)
    y[:, 5] *= 4
    distance = MaxSlicedWasserstein(generator=g)
    theta = distance.directions(x, y)
    assert theta[5].abs() > 0.9
    along = transport_1d(x[:, 5], y[:, 5]).sqrt().item()
    assert distance(x, y).item() >= along


# Batches, padding, weights.


def ragged(g, d=3, sizes=(4, 7, 1, 7)):
    return [normal(n, d, generator=g) for n in sizes], [weights(n, generator=g) for n in sizes]


DISTANCES = [
    SlicedWasserstein(3, 10, generator=seeded()),
    SlicedWasserstein(3, 10, 1, generator=seeded()),
    EnergySlicedWasserstein(3, 10, generator=seeded()),
    ControlVariateSlicedWasserstein(3, 10, generator=seeded()),
    MaxSlicedWasserstein(generator=seeded()),
]


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: f"{type(d).__name__}{d.p}")
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(distance, weighted):
    sets, w = ragged(seeded(9))
    w = w if weighted else None
    single = [PointSets(s, None if w is None else w[i]) for i, s in enumerate(sets)]
    expected = torch.stack([torch.stack([distance(a, b) for b in single]) for a in single])
    batch = PointSets.from_list(sets, w)
    flat = PointSets.from_flat(
        torch.cat(sets), torch.tensor([0, 4, 11, 12, 19]), None if w is None else torch.cat(w)
    )  # fmt: skip
    poisoned = batch.points.masked_fill(~batch.mask.unsqueeze(-1), math.nan)
    masked = PointSets.from_mask(poisoned, batch.mask, None if w is None else batch.weights)
    tolerance = {"rtol": 1e-10, "atol": 1e-10} if distance is not DISTANCES[-1] else {"rtol": 1e-4, "atol": 1e-7}
    for form in (batch, flat, masked):
        torch.testing.assert_close(distance.pairwise(form), expected, **tolerance)
        torch.testing.assert_close(
            distance(form, form[[1, 2, 3, 0]]), expected[[0, 1, 2, 3], [1, 2, 3, 0]], **tolerance
        )
        blocks = torch.cat([block for _, block in pairwise_blocks(distance, form, budget=4000)])
        torch.testing.assert_close(blocks, expected, **tolerance)


@pytest.mark.parametrize("distance", DISTANCES[:4], ids=lambda d: f"{type(d).__name__}{d.p}")
def test_padding_gets_no_gradient(distance):
    sets, w = ragged(seeded(10))
    batch = PointSets.from_list(sets, w)
    points = batch.points.masked_fill(~batch.mask.unsqueeze(-1), math.nan).requires_grad_()
    given = batch.weights.clone().masked_fill(~batch.mask, math.nan).requires_grad_()
    other = normal(5, 3, generator=seeded(11))
    for value in (
        distance(PointSets(points, given, batch.lengths), other),
        distance.pairwise(PointSets(points, given, batch.lengths), other.unsqueeze(0)),
    ):
        gp, gw = torch.autograd.grad(value.sum(), (points, given))
        assert gp.isfinite().all()
        assert gw.isfinite().all()
        assert (gp[~batch.mask] == 0).all()
        assert (gp[batch.mask] != 0).any(-1).all()


@pytest.mark.parametrize("distance", DISTANCES[:4], ids=lambda d: f"{type(d).__name__}{d.p}")
def test_gradients_of_weighted_sets(distance):
    g = seeded(12)
    x, y = normal(2, 4, 3, generator=g).requires_grad_(), normal(2, 6, 3, generator=g).requires_grad_()
    a, b = weights(2, 4, generator=g).requires_grad_(), weights(2, 6, generator=g).requires_grad_()
    assert torch.autograd.gradcheck(lambda x, a, y, b: distance(PointSets(x, a), PointSets(y, b)), (x, a, y, b))
    assert torch.autograd.gradcheck(
        lambda x, a, y, b: distance.pairwise(PointSets(x, a), PointSets(y, b)), (x, a, y, b)
    )  # fmt: skip
    assert torch.autograd.gradcheck(distance, (x, y))
    assert torch.autograd.gradcheck(distance.pairwise, (x, y))


def test_coincident_weighted_sets_in_another_order():
    g = seeded(13)
    x, a = normal(7, 3, generator=g), weights(7, generator=g)
    order = torch.randperm(7, generator=g)
    points = x.clone().requires_grad_()
    for p in (1, 2):
        d = SlicedWasserstein(3, 10, p, generator=g)(PointSets(points, a), PointSets(x[order], a[order]))
        assert d.item() < (1e-15 if p == 1 else 1e-7)  # a rounding, and the root of one
        (gradient,) = torch.autograd.grad(d, points)
        assert gradient.isfinite().all()


def test_blocks_of_slices_do_not_change_the_result(monkeypatch):
    g = seeded(14)
    x, y = normal(3, 20, 4, generator=g).requires_grad_(), normal(3, 20, 4, generator=g)
    distance = SlicedWasserstein(4, 30, generator=g)
    value = distance(x, y)
    (whole,) = torch.autograd.grad(value.sum(), x)
    monkeypatch.setattr("geoembed.distances.slicing.BLOCK", 100)
    monkeypatch.setattr("geoembed.distances.slicing.CACHED", 30)
    monkeypatch.setattr(Linear, "held", 700)
    torch.testing.assert_close(distance(x, y), value)
    torch.testing.assert_close(distance(x.detach(), y), value.detach())
    (parts,) = torch.autograd.grad(distance(x, y).sum(), x)
    torch.testing.assert_close(parts, whole)
    torch.testing.assert_close(EnergySlicedWasserstein(4, 5, generator=seeded())(x, y).shape, value.shape)


def test_ragged_sets_by_common_quantiles_and_pair_by_pair(monkeypatch):
    """Uniform sets of many sizes: embedded on the common breaks, or compared pair by pair where those are too many."""
    sets, _ = ragged(seeded(24), sizes=(3, 8, 1, 6, 8, 5))
    x = PointSets.from_list(sets)
    points = x.points.clone().requires_grad_()
    for p in (1, 2, 3):
        distance = SlicedWasserstein(3, 7, p, generator=seeded(p))

        def u():
            return PointSets(points, None, x.lengths)

        assert type(distance.reduced(u(), u())[0]).__name__ == "Norm"
        quantiles = distance.pairwise(u())
        (slope,) = torch.autograd.grad(quantiles.square().sum(), points)
        with monkeypatch.context() as patch:
            patch.setattr("geoembed.distances.slicing.GRID", 0)
            assert type(distance.reduced(u(), u())[0]).__name__ == "_Presorted"
            pairs = distance.pairwise(u())
            torch.testing.assert_close(quantiles, pairs, rtol=1e-9, atol=1e-9)
            torch.testing.assert_close(
                slope, torch.autograd.grad(pairs.square().sum(), points)[0], rtol=1e-7, atol=1e-7
            )
    poisoned = x.points.clone()
    poisoned[3, 2] = math.nan
    d = distance.pairwise(PointSets(poisoned, None, x.lengths))
    assert d[3].isnan().all()
    kept = [0, 1, 2, 4, 5]
    torch.testing.assert_close(d[kept][:, kept], quantiles[kept][:, kept].detach())


def test_second_derivatives_are_refused():
    x = normal(4, 3, generator=seeded()).requires_grad_()
    value = SlicedWasserstein(3, 5)(x, x.detach() + 1)
    (gradient,) = torch.autograd.grad(value, x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        gradient.sum().backward()


def test_slices_that_are_views_of_the_points_leave_them_as_they_are():
    class Coordinates(Slices):
        count = 3

        def project(self, points, block):
            return points.mT[..., block, :]

    x, y = normal(4, 6, 3, generator=seeded(1)), normal(4, 6, 3, generator=seeded(2))
    kept = x.clone(), y.clone()
    for p in (1, 2, 3):
        expected = (x.sort(-2).values - y.sort(-2).values).abs().pow(p).mean((-2, -1)) ** (1 / p)
        torch.testing.assert_close(Sliced(Coordinates(), p)(x, y), expected)
        torch.testing.assert_close(Sliced(Coordinates(), p)(x[:1], y)[0], expected[0])
    assert torch.equal(x, kept[0])
    assert torch.equal(y, kept[1])


def test_given_directions_get_a_gradient():
    x, y = normal(6, 3, generator=seeded(1)), normal(6, 3, generator=seeded(2))
    theta = torch.nn.functional.normalize(normal(5, 3, generator=seeded(3)), dim=-1).requires_grad_()
    value = SlicedWasserstein(3, directions=theta)(x, y)
    (slope,) = torch.autograd.grad(value, theta)
    assert (slope * theta).sum().item() == pytest.approx(value.item())  # homogeneous of degree one
    with torch.no_grad():
        torch.testing.assert_close(SlicedWasserstein(3, directions=theta)(x, y), value.detach())


# Nasty points.


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_bad_set_spoils_only_its_own_value(bad):
    """Although the sets are centred together; also on the way with gradients."""
    x, y = (torch.randn(4, 50, 4, generator=seeded(i)) for i in (1, 2))
    distance = SlicedWasserstein(4, 20, generator=seeded())
    exact = distance(x.double(), y.double()).float()
    x[2, 7, 1] = bad
    for points in (x, x.clone().requires_grad_()):
        value = distance(points, y).detach()
        assert not value[2].isfinite()
        torch.testing.assert_close(value[[0, 1, 3]], exact[[0, 1, 3]], rtol=1e-5, atol=0)


def test_far_from_the_origin():
    """An offset of 1e6 common to both sets costs only the digits that float32 points have lost themselves."""
    g = seeded(15)
    x, y = (torch.randn(200, 4, generator=g) + 1e6 for _ in range(2))
    distance = SlicedWasserstein(4, 50, generator=g)
    exact = distance(x.double(), y.double()).item()
    assert distance(x, y).item() == pytest.approx(exact, rel=1e-5)
    assert distance.pairwise(x[None], y[None]).item() == pytest.approx(exact, rel=1e-5)


@pytest.mark.parametrize("distance", DISTANCES, ids=lambda d: f"{type(d).__name__}{d.p}")
def test_degenerate_sets(distance):
    point, same = torch.ones(1, 3, dtype=torch.float64), torch.ones(5, 3, dtype=torch.float64)
    assert distance(point, same).item() == pytest.approx(0, abs=1e-12)
    assert distance(same, same * 2).item() == pytest.approx(distance(point, point * 2).item(), rel=1e-6)
    x = normal(6, 3, generator=seeded(16))
    w = torch.tensor([1.0, 0, 1, 1, 0, 1], dtype=torch.float64)
    kept = distance(x[w > 0], same).item()
    assert distance(PointSets(x, w), PointSets(same)).item() == pytest.approx(
        kept, rel=1e-4 if distance is DISTANCES[-1] else 1e-10
    )


def test_nan_pair_that_does_not_count_leaves_no_gradient():
    x, y = normal(2, 4, 3, generator=seeded(25)), normal(4, 3, generator=seeded(26)).requires_grad_()
    x[1, 0] = math.nan
    distance = SlicedWasserstein(3, 8, generator=seeded())
    d = distance(x, y)
    (slope,) = torch.autograd.grad(d[0], y)
    torch.testing.assert_close(slope, torch.autograd.grad(distance(x[0], y), y)[0])


def test_half_precision():
    g = seeded(17)
    x, y = torch.randn(3, 8, 3, generator=g), torch.randn(3, 8, 3, generator=g)
    distance = SlicedWasserstein(3, 20, generator=g)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = x.to(dtype), y.to(dtype)
        assert distance(a, b).dtype == distance.pairwise(a, b).dtype == distance.embed(a).dtype == dtype
        torch.testing.assert_close(distance(a, b), distance(a.float(), b.float()).to(dtype))


def test_what_is_refused():
    distance = SlicedWasserstein(3, 4, generator=seeded())
    with pytest.raises(ShapeError, match="points of 3 coordinates, got 2"):
        distance(torch.zeros(4, 2), torch.zeros(4, 2))
    with pytest.raises(DomainError, match="at least one point"):
        distance(torch.zeros(1, 0, 3), torch.zeros(1, 2, 3))
    with pytest.raises(ShapeError, match="one size"):
        distance.embed(PointSets.from_list([torch.zeros(2, 3), torch.zeros(3, 3)]))
    with pytest.raises(NotImplementedError, match="no embedding"):
        EnergySlicedWasserstein(3).embed(torch.zeros(2, 4, 3))
    with pytest.raises(ShapeError, match=r"\(count, 3\)"):
        SlicedWasserstein(3, directions=torch.zeros(4, 2))
    with pytest.raises(DomainError, match="at least one direction"):
        SlicedWasserstein(3, 0)
    with pytest.raises(DomainError, match="restarts"):
        MaxSlicedWasserstein(restarts=-1)


# Directions.


@pytest.mark.parametrize(
    ("draw", "dim"),
    [
        (directions.iid, 4),
        (directions.orthogonal, 4),
        (directions.equispaced, 2),
        (directions.fibonacci, 3),
        (directions.sobol, 3),
        (directions.best, 5),
        (directions.orthogonal, 1),
    ],
)
def test_directions(draw, dim):
    theta = draw(30, dim, seeded())
    assert theta.shape == (30, dim)
    torch.testing.assert_close(theta.norm(dim=-1), torch.ones(30, dtype=torch.float64))
    assert torch.equal(theta, draw(30, dim, seeded()))
    assert dim == 1 or not torch.equal(theta, draw(30, dim, seeded(1)))
    # unbiased for even functions: the mean of <theta, e>^4 is 3 / (d (d + 2))
    e = torch.nn.functional.normalize(torch.arange(1.0, dim + 1, dtype=torch.float64), dim=0)
    g = seeded(2)
    means = torch.stack([(draw(30, dim, g) @ e).pow(4).mean() for _ in range(400)])
    assert abs(means.mean().item() - 3 / (dim * (dim + 2))) < 4 * means.std().item() / 20 + 1e-12


def test_variance_falls():
    """What the designs are for: errors against independent directions."""
    g = seeded(18)
    designs = (
        (2, directions.equispaced, 20),
        (3, directions.fibonacci, 4),
        (3, directions.sobol, 1.2),
        (16, directions.orthogonal, 2),
    )
    for d, draw, gain in designs:
        x, y = normal(64, d, generator=g), normal(64, d, generator=g) * torch.linspace(0.5, 2, d, dtype=torch.float64)
        truth = SlicedWasserstein(d, 20000, generator=g)(x, y)

        def rmse(build, x=x, y=y, truth=truth):
            return torch.stack([build()(x, y) - truth for _ in range(40)]).square().mean().sqrt()

        plain = rmse(lambda d=d: SlicedWasserstein(d, 48, directions=directions.iid, generator=g))
        assert rmse(lambda d=d, draw=draw: SlicedWasserstein(d, 48, directions=draw, generator=g)) * gain < plain
        assert rmse(lambda d=d: ControlVariateSlicedWasserstein(d, 48, generator=g)) * 1.5 < plain


def test_directions_check():
    with pytest.raises(ShapeError, match=r"R\^2 only"):
        directions.equispaced(4, 3)
    with pytest.raises(ShapeError, match=r"R\^3 only"):
        directions.fibonacci(4, 2)


def test_resample_and_given_directions():
    g = seeded(19)
    x, y = normal(5, 3, generator=g), normal(5, 3, generator=g)
    distance = SlicedWasserstein(3, 10, generator=g)
    first = distance(x, y)
    distance.resample(g)
    assert distance(x, y) != first
    theta = directions.iid(7, 3, g)
    given = SlicedWasserstein(3, directions=theta)
    assert given.slices.count == 7
    assert torch.equal(given.slices.theta, theta)
    with pytest.raises(DomainError, match="nothing to draw"):
        given.resample()
    reloaded = SlicedWasserstein(3, 10)
    reloaded.load_state_dict(distance.state_dict())
    assert reloaded(x, y) == distance(x, y)


def test_learnable_slices():
    """Slices whose parameters are trained: gradients reach them."""

    class Learnt(Linear):
        def __init__(self):
            super().__init__(3, 4, generator=seeded())
            self.scale = torch.nn.Parameter(torch.ones((), dtype=torch.float64))

        def project(self, points, block):
            return super().project(points, block) * self.scale

    distance, g = Sliced(Learnt()), seeded(20)
    x, y = normal(2, 5, 3, generator=g).requires_grad_(), normal(2, 5, 3, generator=g)
    value = distance(x, y)
    gx, gs = torch.autograd.grad(value.sum(), (x, distance.slices.scale))
    assert gs.item() == pytest.approx(value.sum().item())  # homogeneous of degree one
    fixed = SlicedWasserstein(3, 4, generator=seeded())
    torch.testing.assert_close(gx, torch.autograd.grad(fixed(x, y).sum(), x)[0])


def test_triplets_of_sets_train():
    """A triplet loss on batches of point sets, through the same `pairwise` as for vectors.

    The label shifts the first feature, a louder nuisance the second, which the encoder has to silence.
    """
    g = seeded(21)
    labels = torch.arange(3).repeat_interleave(4)
    sets = 0.3 * torch.randn(12, 10, 2, generator=g)
    sets += torch.stack([labels.float(), 3 * torch.randn(12, generator=g)], -1).unsqueeze(1)
    encoder = torch.nn.Linear(2, 2)
    encoder.weight.data = torch.eye(2)
    distance = SlicedWasserstein(2, 16, generator=g)
    optimizer = torch.optim.Adam(encoder.parameters(), 0.05)
    same = labels[:, None] == labels

    def loss():
        d = distance.pairwise(encoder(sets))
        hardest = d.masked_fill(~same, 0).amax(1) - d.masked_fill(same, math.inf).amin(1)
        return (hardest + 1).clamp(min=0).mean()

    first = loss().item()
    for _ in range(60):
        optimizer.zero_grad()
        loss().backward()
        optimizer.step()
    assert loss().item() < 0.05 * first
