"""The cheap distances between point sets, through the contract and against brute force and SciPy."""

import math

import numpy as np
import pytest
import scipy.spatial.distance
import scipy.stats
import torch

import geoembed.distances.setwise as setwise
from distance_contract import Case, DistanceContract
from geoembed import manifolds
from geoembed.distance import Distance, Power, Scaled, pairwise_blocks
from geoembed.distances import Cosine, Euclidean, Geodesic, Lp, Mahalanobis, NegativeInner
from geoembed.distances.setwise import MMD, Chamfer, EnergyDistance, Hausdorff, SetMin
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

# Oracles: loops over the points. x: (n, d), y: (m, d), weights a, b that sum to one.


def euclid(u, v):
    return math.dist(u, v)


def cityblock(u, v):
    return sum(abs(s - t) for s, t in zip(u, v, strict=True))


def lorentz(u, v):
    return 0.0 if np.array_equal(u, v) else math.acosh(u[0] * v[0] - float(u[1:] @ v[1:]))


def set_min(x, y, a=None, b=None, d=euclid):
    return min(d(u, v) for u in x for v in y)


def nearest(x, y, d):
    return [min(d(u, v) for v in y) for u in x]


def chamfer(x, y, a=None, b=None, d=euclid):
    return float(np.average(nearest(x, y, d), weights=a) + np.average(nearest(y, x, d), weights=b))


def hausdorff(x, y, a=None, b=None, d=euclid):
    return max(nearest(x, y, d) + nearest(y, x, d))


def mean(cost, x, y, a, b):
    a = np.full(len(x), 1 / len(x)) if a is None else a
    b = np.full(len(y), 1 / len(y)) if b is None else b
    return math.fsum(a[i] * b[j] * cost(x[i], y[j]) for i in range(len(x)) for j in range(len(y)))


def energy(x, y, a=None, b=None, d=euclid):
    return math.sqrt(max(0.0, 2 * mean(d, x, y, a, b) - mean(d, x, x, a, a) - mean(d, y, y, b, b)))


def mmd(x, y, a=None, b=None, d=euclid, bandwidths=(0.5, 2.0)):
    def k(u, v):
        return sum(math.exp(-(d(u, v) ** 2) / (2 * s * s)) for s in bandwidths) / len(bandwidths)

    return math.sqrt(max(0.0, mean(k, x, x, a, a) + mean(k, y, y, b, b) - 2 * mean(k, x, y, a, b)))


FAMILY = [
    (SetMin, set_min),
    (Chamfer, chamfer),
    (Hausdorff, hausdorff),
    (EnergyDistance, energy),
    (lambda ground: MMD(ground, 0.5, 2.0), mmd),
]
NAMES = ["SetMin", "Chamfer", "Hausdorff", "EnergyDistance", "MMD"]
each = pytest.mark.parametrize(("build", "oracle"), FAMILY, ids=NAMES)


def on_lorentz(*shape, generator):
    u = torch.randn(*shape[:-1], shape[-1] - 1, generator=generator, dtype=torch.float64)
    return manifolds.Lorentz().from_tangent(u)


class Broadcasting(Distance):
    """|x - y|_1 without a matrix form."""

    def _forward(self, x, y):
        return (x - y).abs().sum(-1)


def case(name, build, oracle, ground, d, **more):
    return Case(name, lambda: build(ground()), lambda x, y: oracle(x, y, d=d), **more)


CASES = [
    *(
        case(f"{name}(Euclidean)", build, oracle, Euclidean, euclid, item=(4, 3))
        for name, (build, oracle) in zip(NAMES, FAMILY, strict=True)
    ),
    *(
        case(
            f"{name}(Lorentz)", build, oracle, lambda: Geodesic(manifolds.Lorentz()), lorentz, item=(3, 4),
            sample=on_lorentz, float32_tolerance=2e-3,
        )
        for name, (build, oracle) in zip(NAMES[1:4], FAMILY[1:4], strict=True)
    ),
    case("EnergyDistance(Lp(1.5))", EnergyDistance, energy, lambda: Lp(1.5),
         lambda u, v: float(np.sum(np.abs(u - v) ** 1.5) ** (1 / 1.5)), item=(3, 2)),
    case("Chamfer(squares)", Chamfer, chamfer, lambda: Power(Euclidean(), 2), lambda u, v: euclid(u, v) ** 2,
         item=(3, 2)),
    case("Hausdorff(no matrix form)", Hausdorff, hausdorff, Broadcasting, cityblock, item=(3, 2)),
    case("SetMin(one point)", SetMin, set_min, Euclidean, euclid, item=(1, 2)),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSetDistances(DistanceContract):
    pass


def random_sets(count, generator, d=3, largest=6, zero=True):
    """Sets of 1 to `largest` points, with weights of which some are zero."""
    sizes = torch.randint(1, largest + 1, (count,), generator=generator).tolist()
    sets = [torch.randn(n, d, generator=generator, dtype=torch.float64) for n in sizes]
    weights = [torch.rand(n, generator=generator, dtype=torch.float64) + 0.1 for n in sizes]
    for w in weights:
        if zero and len(w) > 1:
            w[0] = 0.0
    return sets, [w / w.sum() for w in weights]


@each
def test_weighted_sets_of_any_size(build, oracle):
    generator = torch.Generator().manual_seed(0)
    (xs, a), (ys, b) = random_sets(7, generator), random_sets(7, generator, largest=4)
    distance, x, y = build(Euclidean()), PointSets.from_list(xs, a), PointSets.from_list(ys, b)
    expected = torch.tensor(
        [[oracle(xs[i].numpy(), ys[j].numpy(), a[i].numpy(), b[j].numpy()) for j in range(7)] for i in range(7)],
        dtype=torch.float64,
    )
    matrix = distance.pairwise(x, y)
    torch.testing.assert_close(matrix, expected, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(distance(x, y), expected.diagonal(), rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(distance.pairwise(x, y), distance.pairwise(y, x).mT, rtol=1e-12, atol=1e-12)
    one = distance(PointSets(xs[2], a[2]), PointSets(ys[5], b[5]))
    torch.testing.assert_close(one, expected[2, 5], rtol=1e-10, atol=1e-12)
    blocks = torch.cat([block for _, block in pairwise_blocks(distance, x, y, budget=300)])
    torch.testing.assert_close(blocks, expected, rtol=1e-10, atol=1e-12)


@each
def test_uniform_sets_of_unequal_sizes(build, oracle):
    generator = torch.Generator().manual_seed(1)
    x, y = (torch.randn(3, n, 2, generator=generator, dtype=torch.float64) for n in (5, 2))
    expected = torch.tensor([oracle(u.numpy(), v.numpy()) for u, v in zip(x, y, strict=True)], dtype=torch.float64)
    torch.testing.assert_close(build(Euclidean())(x, y), expected, rtol=1e-10, atol=1e-12)


@each
@pytest.mark.parametrize("manifold", [manifolds.HalfSpace(), manifolds.Lorentz()], ids=["half-space", "lorentz"])
def test_padding_touches_neither_value_nor_gradient(build, oracle, manifold):
    """Padding is no point of the manifold; and a set with a tie between its points keeps its gradient."""
    generator = torch.Generator().manual_seed(2)
    points = manifold.from_tangent(torch.randn(4, 3, 2, generator=generator, dtype=torch.float64))
    points[1, 1] = points[1, 0]
    distance = build(Geodesic(manifold))
    junk = torch.full_like(points[:, :2], math.nan)
    found = []
    for all_points in (points, torch.cat([points, junk], 1)):
        all_points.requires_grad_()
        sets = PointSets(all_points, lengths=torch.full((4,), 3))
        values = distance(sets[:2], sets[2:]), distance.pairwise(sets[:2], sets[2:]), distance.pairwise(sets)
        found.append([*values, *(torch.autograd.grad(v.sum(), all_points, retain_graph=True)[0] for v in values)])
    for bare, padded in zip(*found, strict=True):
        if bare.dim() == 3:
            assert (padded[:, 3:] == 0).all()
            padded = padded[:, :3]
        torch.testing.assert_close(padded, bare, rtol=1e-9, atol=1e-12)


@each
def test_small_blocks_change_nothing(build, oracle, monkeypatch):
    """Values and gradients for points and weights, with blocks of a few cells, and no block larger than asked."""
    generator = torch.Generator().manual_seed(3)
    xs, a = random_sets(5, generator, zero=False)
    ys, b = random_sets(6, generator, zero=False)
    inputs = [t.requires_grad_() for t in (*xs, *ys, *a, *b)]
    distance = build(Euclidean())
    sizes = []
    whole = distance.ground.pairwise

    def spied(u, v):
        sizes.append(u.shape[-2] * v.shape[-2])
        return whole(u, v)

    monkeypatch.setattr(distance.ground, "pairwise", spied)

    def results():
        sizes.clear()
        x, y = PointSets.from_list(xs, a), PointSets.from_list(ys, b)
        matrix, paired = distance.pairwise(x, y), distance(x, y[:5])
        loss = matrix.square().sum() + paired.sum()
        return matrix.detach(), paired.detach(), *torch.autograd.grad(loss, inputs, allow_unused=True)

    expected = results()
    assert max(sizes) > 500
    for cells in (1, 20, 200):
        monkeypatch.setattr(setwise, "_BLOCK", cells * 32)
        for kept in (0, 1 << 20):
            monkeypatch.setattr(setwise, "_KEPT", kept)
            for found, right in zip(results(), expected, strict=True):
                torch.testing.assert_close(found, right, rtol=1e-9, atol=1e-12)
            assert max(sizes) <= max(cells, 6)  # one point against a set is the least


def test_memory_of_a_large_matrix_is_bounded(monkeypatch):
    """Kept for the backward pass are distances to the nearest point, never all ground distances."""
    monkeypatch.setattr(setwise, "_KEPT", 0)
    x = torch.randn(20, 40, 2, requires_grad=True)
    saved = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t.numel()) or t, lambda t: t):
        Chamfer(Euclidean()).pairwise(x)
    assert max(saved) <= 20 * 40 * 20


@each
def test_nan_and_inf_stay_in_their_set(build, oracle):
    generator = torch.Generator().manual_seed(4)
    x, y = (torch.randn(k, 4, 3, generator=generator, dtype=torch.float64) for k in (5, 4))
    distance = build(Euclidean())
    clean = distance.pairwise(x, y)
    x[1, 2, 0], x[3, 0, 1], y[0, 3, 2] = math.nan, math.inf, math.nan
    x.requires_grad_()
    matrix = distance.pairwise(x, y)
    bad = torch.zeros(5, 4, dtype=torch.bool)
    bad[[1, 3]] = True
    bad[:, 0] = True
    assert matrix[bad].isnan().all()
    torch.testing.assert_close(matrix[~bad], clean[~bad])
    assert matrix[~bad].sum().backward() is None
    assert x.grad.isfinite().all()
    assert x.grad[[0, 2, 4]].any()
    assert distance(x, y[:1]).isnan().all()
    assert distance.pairwise(torch.full((2, 3, 3), math.nan)).isnan().all()


@each
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_is_computed_in_float32(build, oracle, dtype):
    x, y = (torch.randn(3, 5, 2, generator=torch.Generator().manual_seed(s)).to(dtype) for s in (5, 6))
    distance = build(Euclidean())
    found = distance.pairwise(x, y)
    assert found.dtype == dtype
    torch.testing.assert_close(found, distance.pairwise(x.float(), y.float()).to(dtype), rtol=0, atol=0)
    assert distance(x, y).dtype == dtype


@each
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_coincident_sets(build, oracle, dtype, offset):
    """Exactly zero, value and gradient: copies, points in another order, a point split in two, far from the origin and
    among sets far apart."""
    generator = torch.Generator().manual_seed(8)
    x = torch.randn(6, 5, 3, generator=generator, dtype=torch.float64)
    x = (x + offset + 100 * torch.randn(6, 1, 3, generator=generator, dtype=torch.float64)).to(dtype)
    shuffled = x[:, torch.randperm(5, generator=generator)]
    split = PointSets(
        torch.cat([x, x[:, :2]], 1), torch.tensor([0.5, 0.5, 1, 1, 1, 0.5, 0.5], dtype=dtype).expand(6, 7)
    )
    distance = build(Euclidean())
    for y in (x.clone(), shuffled, split):
        u = x.clone().requires_grad_()
        for d in (distance(u, y), distance.pairwise(u, y).diagonal()):
            assert (d == 0).all()
            (gradient,) = torch.autograd.grad(d.sum(), u)
            assert (gradient == 0).all()


def test_close_sets_among_far_ones():
    """The digits of a small discrepancy are those of its own pair, not of the extent of all sets."""
    generator = torch.Generator().manual_seed(9)
    x = torch.randn(20, 2, 2, generator=generator, dtype=torch.float64)
    x += 20 * torch.randn(20, 1, 2, generator=generator, dtype=torch.float64)
    y = x + 1e-7 * torch.randn(20, 2, 2, generator=generator, dtype=torch.float64)
    exact = torch.tensor([energy(a, b) for a, b in zip(x.numpy(), y.numpy(), strict=True)], dtype=torch.float64)
    found = EnergyDistance(Euclidean()).pairwise(x, y).diagonal()
    terms = torch.tensor([mean(euclid, a, b, None, None) for a, b in zip(x.numpy(), y.numpy(), strict=True)])
    error = (found.square() - exact.square()).abs() / (4 * terms * torch.finfo(torch.float64).eps)
    assert error.max() < 4


def test_energy_distance_is_that_of_scipy():
    rng = np.random.default_rng(0)
    x, y, a, b = rng.normal(size=9), rng.normal(size=6) + 1, rng.random(9), rng.random(6)
    expected = scipy.stats.energy_distance(x, y, a, b)
    tensors = [torch.from_numpy(t) for t in (x, y, a, b)]
    for ground in (Euclidean(), Lp(1)):
        found = EnergyDistance(ground)(
            PointSets(tensors[0][:, None], tensors[2]), PointSets(tensors[1][:, None], tensors[3])
        )
        assert found.item() == pytest.approx(expected, rel=1e-12)


def test_hausdorff_is_that_of_scipy():
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(30, 3))
    expected = max(scipy.spatial.distance.directed_hausdorff(u, v)[0] for u, v in ((x, y), (y, x)))
    assert Hausdorff(Euclidean())(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(expected, rel=1e-12)


def test_energy_distance_of_the_inner_product_compares_means():
    """-<x, y> is of negative type, and the energy distance it gives is |mean x - mean y|."""
    x, y = torch.randn(2, 7, 3, generator=torch.Generator().manual_seed(10), dtype=torch.float64)
    expected = (x.mean(0) - y.mean(0)).norm().item()
    assert EnergyDistance(NegativeInner())(x, y).item() == pytest.approx(expected, rel=1e-12)


def test_ground_not_of_negative_type_counts_as_zero():
    """Two sets in the plane that are closer to each other than to themselves under the fourth power of the distance."""
    x = torch.tensor([[1.0, 0.0], [-1.0, 0.0]])
    y = torch.tensor([[0.0, 1.0], [0.0, -1.0]], requires_grad=True)
    d = EnergyDistance(Power(Euclidean(), 4))(x, y)
    (gradient,) = torch.autograd.grad(d, y)
    assert d == 0
    assert (gradient == 0).all()


@each
def test_gradients_for_points_and_weights(build, oracle):
    generator = torch.Generator().manual_seed(11)
    points = [torch.randn(2, n, 2, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 3)]
    weights = [torch.rand(2, n, generator=generator, dtype=torch.float64, requires_grad=True) for n in (4, 3)]
    lengths = [torch.tensor([4, 2]), torch.tensor([1, 3])]
    distance = build(Euclidean())

    def both(x, y, a, b):
        u, v = PointSets(x, a, lengths[0]), PointSets(y, b, lengths[1])
        return distance(u, v), distance.pairwise(u, v)

    assert torch.autograd.gradcheck(both, (*points, *weights))


@each
def test_a_learned_ground_is_trained(build, oracle):
    ground = Mahalanobis(torch.eye(2, dtype=torch.float64))
    distance = build(ground)
    x, y = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(12), dtype=torch.float64)
    distance(x, y).backward()
    assert ground.factor.grad.abs().sum() > 0
    assert list(distance.parameters()) == [ground.factor]


@each
def test_points_all_equal(build, oracle):
    x = torch.ones(3, 4, 2, dtype=torch.float64)
    x[1] += 1
    distance = build(Euclidean())
    expected = oracle(x[0].numpy(), x[1].numpy())
    matrix = distance.pairwise(x)
    torch.testing.assert_close(matrix[0, 1].item(), expected)
    assert (matrix.diagonal() == 0).all()
    assert matrix[0, 2] == 0


@each
def test_bad_ground(build, oracle):
    for ground in (Chamfer(Euclidean()), manifolds.Euclidean(), Euclidean):
        with pytest.raises(ShapeError, match="ground must be a distance between vectors"):
            build(ground)


def test_bad_bandwidths():
    for bandwidths in ((), (0.0,), (1.0, -1.0), (math.nan,), (math.inf,)):
        with pytest.raises(DomainError, match="positive bandwidth"):
            MMD(Euclidean(), *bandwidths)


def test_facts():
    assert Hausdorff(Euclidean()).is_metric
    assert not Hausdorff(Cosine()).is_metric
    assert EnergyDistance(Euclidean()).is_metric
    assert not EnergyDistance(Lp(1)).is_metric
    assert not MMD(Lp(1.5), 1).is_metric
    assert Chamfer(Cosine()).upper_bound == 4
    assert EnergyDistance(Cosine()).upper_bound == 2
    assert repr(MMD(Euclidean(), 0.5, 2)) == "MMD(Euclidean(), bandwidths=0.5, 2)"
    x, y = torch.randn(2, 4, 3, generator=torch.Generator().manual_seed(13), dtype=torch.float64)
    torch.testing.assert_close(Scaled(Chamfer(Euclidean()), 0.5)(x, y), Chamfer(Euclidean())(x, y) / 2)
