"""Gromov-Wasserstein distances, sliced and whole, against double sums and all permutations."""

import itertools
import math

import numpy as np
import ot
import pytest
import torch

from distance_contract import Case, DistanceContract, normal
from geoembed.distance import pairwise_blocks
from geoembed.distances import Cosine, Euclidean, Geodesic, NegativeInner
from geoembed.distances.gromov import GromovWasserstein, RotationInvariantSlicedGromovWasserstein
from geoembed.distances.sliced_gromov import (
    CyclicSlicedGromovWasserstein,
    InnerSlicedGromovWasserstein,
    SlicedGromovWasserstein,
)
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import PoincareBall
from geoembed.pointsets import PointSets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def weights(*shape: int, generator: torch.Generator) -> torch.Tensor:
    w = torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.05
    return w / w.sum(-1, keepdim=True)


def rotation(d: int, generator: torch.Generator) -> torch.Tensor:
    return torch.linalg.qr(normal(d, d, generator=generator)).Q


# Oracles.


def squared(x):
    return np.subtract.outer(x, x) ** 2


def inner(x):
    return np.outer(x, x)


def euclidean(x):
    return ot.dist(x, x, metric="euclidean")


def of_all_permutations(c, e):
    """GW_2^2 between sets of one size and of equal weights, where a permutation is optimal."""
    p = np.array(list(itertools.permutations(range(len(c)))))
    return ((c - e[p[:, :, None], p[:, None, :]]) ** 2).mean((1, 2)).min()


def double_sum(c, e, plan):
    return np.einsum("ijkl,ij,kl", (c[:, None, :, None] - e[None, :, None, :]) ** 2, plan, plan)


def in_order(x, y, a, b, cost):
    """The cheaper of the two couplings in order, by the double sum."""
    up, down = ot.emd_1d(x, y, a, b), ot.emd_1d(x, -y, a, b)
    return min(double_sum(cost(x), cost(y), plan) for plan in (up, down))


def sliced_oracle(distance, cost):
    theta = distance.slices.theta.numpy()

    def oracle(x, y):
        return math.sqrt(np.mean([of_all_permutations(cost(x @ t), cost(y @ t)) for t in theta]))

    return oracle


def case(name, kind, cost):
    def build():
        return kind(3, 4, generator=seeded())

    return Case(name, build, sliced_oracle(build(), cost), item=(6, 3))


def turned(generator, **options):
    """RISGW of few starts, fast enough for many calls."""
    options = {"starts": 2, "followed": 1, "steps": 8} | options
    return RotationInvariantSlicedGromovWasserstein(2, 12, generator=generator, **options)


def slope_matches(f, *tensors, **tolerance):
    """The gradient against a difference along one random line, for functions that are slow to evaluate."""
    g = seeded(99)
    leaves = [t.detach().clone().requires_grad_() for t in tensors]
    along = [normal(*t.shape, generator=g) for t in tensors]
    gradients = torch.autograd.grad(f(*leaves).sum(), leaves)
    slope = sum((t * u).sum() for t, u in zip(gradients, along, strict=True))
    ends = [f(*(t.detach() + h * u for t, u in zip(tensors, along, strict=True))).sum() for h in (1e-6, -1e-6)]
    torch.testing.assert_close((ends[0] - ends[1]) / 2e-6, slope, **tolerance)


class GromovContract(DistanceContract):
    def test_bad_input(self, case, distance, items):
        """The contract's, except that sets of different dimension are welcome."""
        x = items(3)
        with pytest.raises(ShapeError, match="dimension"):
            distance(torch.zeros((), dtype=torch.float64), x)
        with pytest.raises(ShapeError, match="floating point"):
            distance(torch.ones(3, *case.item, dtype=torch.int64), x)
        with pytest.raises(ShapeError, match="share dtype"):
            distance(x.float(), x)
        with pytest.raises(ShapeError, match="pairwise"):
            distance(x, x[:2])
        with pytest.raises(ShapeError, match="set of items"):
            distance.pairwise(x[0], x)
        with pytest.raises(ShapeError, match="do not broadcast"):
            distance.pairwise(items(2, 3), items(3, 3))
        assert distance(x[..., :1], x).shape == (3,)
        assert distance.pairwise(x, x[..., :1]).shape == (3, 3)


CASES = [
    case("SlicedGromovWasserstein", SlicedGromovWasserstein, squared),
    case("InnerSlicedGromovWasserstein", InnerSlicedGromovWasserstein, inner),
    case("CyclicSlicedGromovWasserstein", CyclicSlicedGromovWasserstein, squared),
    Case(
        "GromovWasserstein",
        lambda: GromovWasserstein(Euclidean(), restarts=2, generator=seeded()),
        lambda x, y: math.sqrt(of_all_permutations(euclidean(x), euclidean(y))),
        item=(4, 2),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestGromovDistances(GromovContract):
    def test_gradcheck(self, case, distance, items):
        if case.name != "GromovWasserstein":
            return super().test_gradcheck(case, distance, items)
        for f in (distance, distance.pairwise):
            slope_matches(f, items(2), items(2), rtol=1e-6, atol=1e-8)
        return None


def grid_minimum(distance, x, y, count=180):
    """Least SGW over rotations and reflections of the plane, one degree apart."""
    angle = torch.arange(count, dtype=torch.float64) * (math.pi / count)
    turn = torch.stack([angle.cos(), -angle.sin(), angle.sin(), angle.cos()], -1).reshape(-1, 2, 2)
    flip = torch.diag(torch.tensor([1.0, -1.0], dtype=torch.float64))
    return distance.sliced(x @ torch.cat([turn, turn @ flip]).mT, y.expand(2 * count, *y.shape)).min()


@pytest.mark.parametrize(
    "case", [Case("RISGW", lambda: turned(seeded()), lambda x, y: 0.0, item=(6, 2), float32_tolerance=1e-3)], ids=str
)
class TestRotationInvariant(GromovContract):
    def test_oracle(self, case, distance, items):
        """At most what a search by degrees finds, and no less than its step allows."""
        x, y = items(12), items(12)
        distance = RotationInvariantSlicedGromovWasserstein(2, directions=distance.sliced.slices.theta)
        grid = torch.stack([grid_minimum(distance, a, b) for a, b in zip(x, y, strict=True)])
        ratio = distance(x, y) / grid
        assert (ratio <= 1 + 1e-6).all()
        assert (ratio > 0.999).all()

    def test_gradcheck(self, case, distance, items):
        """Differences of values whose minimiser moves, against the gradient where it is held fixed."""
        distance = RotationInvariantSlicedGromovWasserstein(2, 12, starts=8, followed=1, steps=300, generator=seeded())
        slope_matches(distance, items(2), items(2), rtol=1e-5, atol=1e-7)


# Sliced: other sizes and weights.

SLICED = [
    SlicedGromovWasserstein(3, 6, generator=seeded()),
    InnerSlicedGromovWasserstein(3, 6, generator=seeded()),
    CyclicSlicedGromovWasserstein(3, 6, generator=seeded()),
]
BY_NAME = {"ids": lambda d: type(d).__name__}


@pytest.mark.parametrize(("distance", "cost"), [(SLICED[0], squared), (SLICED[1], inner)], ids=["squared", "inner"])
@pytest.mark.parametrize(("n", "m"), [(7, 7), (6, 9), (1, 4), (5, 1)])
@pytest.mark.parametrize("weighted", [False, True])
def test_any_sizes_and_weights(distance, cost, n, m, weighted):
    """The moments of the couplings in order against the double sum, on the way with gradients and without."""
    g = seeded(n * 10 + m)
    x, y = normal(n, 3, generator=g), normal(m, 3, generator=g)
    a, b = (weights(n, generator=g), weights(m, generator=g)) if weighted else (None, None)
    full = [np.full(k, 1 / k) if w is None else w.numpy() for w, k in ((a, n), (b, m))]
    expected = [in_order((x @ t).numpy(), (y @ t).numpy(), *full, cost) for t in distance.slices.theta]
    for points in (x, x.clone().requires_grad_()):
        left, right = PointSets(points, a), PointSets(y, b)
        torch.testing.assert_close(distance.costs(left, right).detach().numpy(), np.array(expected))
        value = pytest.approx(math.sqrt(np.mean(expected)), rel=1e-10)
        assert distance(left, right).item() == value
        assert distance.pairwise(left.unsqueeze(0), right.unsqueeze(0)).item() == value


def test_inner_product_is_optimal():
    """No coupling that POT finds is cheaper, whatever the sizes and weights; nor is any permutation."""
    g = seeded(21)
    distance = InnerSlicedGromovWasserstein(1, directions=torch.ones(1, 1, dtype=torch.float64))
    for _ in range(20):
        x, y = normal(6, 1, generator=g) + 0.3, normal(8, 1, generator=g)
        a, b = weights(6, generator=g), weights(8, generator=g)
        found = [
            ot.gromov.gromov_wasserstein2(
                *(inner(t[:, 0].numpy()) for t in (x, y)),
                a.numpy(),
                b.numpy(),
                "square_loss",
                G0=ot.emd(a.numpy(), b.numpy(), torch.rand(6, 8, generator=g).double().numpy()),
            )
            for _ in range(5)
        ]
        assert distance(PointSets(x, a), PointSets(y, b)).item() ** 2 <= min(found) + 1e-12


# Sliced: the theorem and where it fails.


def line(distance, *sets):
    return distance(*(torch.tensor(s, dtype=torch.float64).unsqueeze(-1) for s in sets)).item() ** 2


def test_the_theorem_fails_and_shifts_help():
    """Seven points for which both matchings in order miss the optimum by a seventh; a cyclic shift attains it."""
    x, y = [-5, -5, 2, 2, 2, 2, 2], [-5, 0, 0, 0, 0, 0, 5]
    optimum = of_all_permutations(squared(np.array(x)), squared(np.array(y)))
    direction = torch.ones(1, 1, dtype=torch.float64)
    plain = line(SlicedGromovWasserstein(1, directions=direction), x, y)
    uniform = np.full(7, 1 / 7)
    assert plain == pytest.approx(in_order(np.array(x, float), np.array(y), uniform, uniform, squared), rel=1e-12)
    assert plain > 1.15 * optimum
    assert line(CyclicSlicedGromovWasserstein(1, directions=direction), x, y) == pytest.approx(optimum, rel=1e-12)


@pytest.mark.parametrize("n", [2, 7, 16, 31])
def test_cyclic_shifts_against_all_of_them(n):
    g = seeded(n)
    x = normal(n, generator=g).pow(3)
    y = torch.where(torch.rand(n, generator=g) < 0.3, 4.0, 0.1) * normal(n, generator=g)
    u, v = np.sort(x.numpy()), np.sort(y.numpy())
    order = np.arange(n)
    shifts = [np.roll(way, k) for k in range(n) for way in (order, order[::-1])]
    costs = [((squared(u) - squared(v[p])) ** 2).mean() for p in shifts]
    direction = torch.ones(1, 1, dtype=torch.float64)
    cyclic = CyclicSlicedGromovWasserstein(1, directions=direction)
    assert line(cyclic, u, v) == pytest.approx(min(costs), rel=1e-10)
    assert line(cyclic, v, u) == pytest.approx(min(costs), rel=1e-10)
    assert line(cyclic, u, v) <= line(SlicedGromovWasserstein(1, directions=direction), u, v)


def test_pseudo_metric():
    """Symmetric, and the triangle inequality holds, also between sets of other sizes and weights."""
    g = seeded(22)
    sizes = [3, 3, 5, 8, 8, 2, 6]
    sets = PointSets.from_list(
        [normal(n, 3, generator=g).pow(3) for n in sizes], [weights(n, generator=g) for n in sizes]
    )
    for distance in SLICED[:2]:
        d = distance.pairwise(sets)
        torch.testing.assert_close(d, d.mT)
        assert (d.unsqueeze(1) <= d.unsqueeze(-1) + d + 1e-12).all()


# Sliced: invariances, dimensions.


@pytest.mark.parametrize("distance", SLICED, **BY_NAME)
def test_what_leaves_it_unchanged(distance):
    g = seeded(23)
    x, y = normal(8, 3, generator=g), normal(8, 3, generator=g)
    value = distance(x, y).item()
    moved = distance(x + 7, y - normal(3, generator=g)).item()
    assert (moved == pytest.approx(value, rel=1e-10)) == (distance is not SLICED[1])
    assert distance(-x, y).item() == pytest.approx(value, rel=1e-12)
    assert distance(x.flip(0), y).item() == pytest.approx(value, rel=1e-12)
    assert distance(3 * x, 3 * y).item() == pytest.approx(9 * value, rel=1e-12)
    assert distance(x @ rotation(3, g).mT, y).item() != pytest.approx(value, rel=1e-3)
    assert distance(x, x @ rotation(3, g).mT).item() > 0.1


@pytest.mark.parametrize("distance", SLICED, **BY_NAME)
def test_sets_of_different_dimension(distance):
    g = seeded(24)
    x, y = normal(4, 6, 2, generator=g), normal(4, 6, 3, generator=g)
    padded = torch.nn.functional.pad(x, (0, 1))
    torch.testing.assert_close(distance(x, y), distance(padded, y))
    torch.testing.assert_close(distance(y, x), distance(padded, y))
    torch.testing.assert_close(distance.pairwise(x, y), distance.pairwise(padded, y))
    delta = rotation(3, g)[:, :2]
    given = type(distance)(3, directions=distance.slices.theta, delta=delta)
    torch.testing.assert_close(given(x, y), distance(x @ delta.mT, y))
    torch.testing.assert_close(given.pairwise(x, y), distance.pairwise(x @ delta.mT, y))
    torch.testing.assert_close(given.costs(x, y), distance.costs(x @ delta.mT, y))
    assert distance.symmetric
    assert not given.symmetric


# Sliced: precision, batches, padding.


@pytest.mark.parametrize("offset", [1e3, 1e6])
@pytest.mark.parametrize("kind", [SlicedGromovWasserstein, CyclicSlicedGromovWasserstein])
def test_float32_far_from_the_origin(kind, offset):
    g = seeded(25)
    x, y = (torch.randn(2, 3000, 4, generator=g) * s + offset for s in (1.0, 1.2))
    distance = kind(4, 20, generator=g)
    exact = distance(x.double(), y.double())
    for value in (distance(x, y), distance(x.clone().requires_grad_(), y).detach(), distance.pairwise(x, y).diagonal()):
        torch.testing.assert_close(value.double(), exact, rtol=1e-5, atol=0)
    weighted = SlicedGromovWasserstein(4, directions=distance.slices.theta)
    sets = PointSets(x, torch.ones(2, 3000)), PointSets(y[:, :2000])
    exact = weighted(*(s.to(torch.float64) for s in sets))
    torch.testing.assert_close(weighted(*sets).double(), exact, rtol=1e-5, atol=0)


def test_float32_of_many_points():
    g = seeded(26)
    x, y = torch.randn(200_000, 2, generator=g) + 1000, torch.randn(200_000, 2, generator=g) * 1.1
    distance = SlicedGromovWasserstein(2, 3, generator=g)
    assert distance(x, y).item() == pytest.approx(distance(x.double(), y.double()).item(), rel=1e-5)


def test_close_sets_keep_their_digits():
    """Sets that differ by 1e-9: their moments differ by less than a rounding."""
    g = seeded(27)
    x, shift = normal(9, 3, generator=g), normal(9, 3, generator=g)
    for distance in SLICED:
        values = [distance(x, x + step * shift).item() / step for step in (1e-6, 1e-9)]
        assert values[1] == pytest.approx(values[0], rel=1e-4)
        assert values[0] > 0.1


@pytest.mark.parametrize("distance", SLICED, **BY_NAME)
def test_pieces_do_not_change_the_result(distance, monkeypatch):
    g = seeded(28)
    x, y = normal(3, 25, 3, generator=g).requires_grad_(), normal(3, 25, 3, generator=g)
    value = distance(x, y)
    (gradient,) = torch.autograd.grad(value.sum(), x)
    monkeypatch.setattr("geoembed.distances.slicing.BLOCK", 100)
    for piece in (7, 60):
        monkeypatch.setattr("geoembed.distances.sliced_gromov.PIECE", piece)
        torch.testing.assert_close(distance(x, y), value)
        torch.testing.assert_close(distance(x.detach(), y), value.detach())
        torch.testing.assert_close(torch.autograd.grad(distance(x, y).sum(), x)[0], gradient)


ALL = [
    *SLICED[:2],
    GromovWasserstein(Euclidean(), restarts=2, generator=seeded()),
    RotationInvariantSlicedGromovWasserstein(3, 6, starts=2, followed=1, steps=8, generator=seeded()),
]


@pytest.mark.parametrize("distance", ALL, **BY_NAME)
@pytest.mark.parametrize("weighted", [False, True])
def test_batch_equals_loop(distance, weighted):
    g, sizes = seeded(29), (4, 7, 1, 7)
    sets = [normal(n, 3, generator=g) for n in sizes]
    w = [weights(n, generator=g) for n in sizes] if weighted else None
    single = [PointSets(s, None if w is None else w[i]) for i, s in enumerate(sets)]
    expected = torch.stack([torch.stack([distance(a, b) for b in single]) for a in single])
    batch = PointSets.from_list(sets, w)
    flat = PointSets.from_flat(
        torch.cat(sets), torch.tensor([0, 4, 11, 12, 19]), None if w is None else torch.cat(w)
    )  # fmt: skip
    poisoned = batch.points.masked_fill(~batch.mask.unsqueeze(-1), math.nan)
    masked = PointSets.from_mask(poisoned, batch.mask, None if w is None else batch.weights)
    tolerance = {"rtol": 1e-7, "atol": 1e-8}
    for form in (batch, flat, masked):
        torch.testing.assert_close(distance.pairwise(form), expected, **tolerance)
        torch.testing.assert_close(distance(form, form[[1, 2, 3, 0]]), expected[range(4), [1, 2, 3, 0]], **tolerance)
    blocks = torch.cat([block for _, block in pairwise_blocks(distance, batch, budget=4000)])
    torch.testing.assert_close(blocks, expected, **tolerance)


@pytest.mark.parametrize("distance", ALL, **BY_NAME)
def test_padding_gets_no_gradient(distance):
    g = seeded(30)
    batch = PointSets.from_list([normal(n, 3, generator=g) for n in (4, 6)], [weights(n, generator=g) for n in (4, 6)])
    points = batch.points.masked_fill(~batch.mask.unsqueeze(-1), math.nan).requires_grad_()
    given = batch.weights.clone().masked_fill(~batch.mask, math.nan).requires_grad_()
    other = normal(5, 3, generator=g)
    for call, y in ((distance, other), (distance.pairwise, other.unsqueeze(0))):
        value = call(PointSets(points, given, batch.lengths), y)
        gp, gw = torch.autograd.grad(value.sum(), (points, given))
        assert gp.isfinite().all()
        assert gw.isfinite().all()
        assert (gp[~batch.mask] == 0).all()
        assert (gw[~batch.mask] == 0).all()
        assert (gp[batch.mask] != 0).any(-1).all()
        assert (gw[batch.mask] != 0).all()


@pytest.mark.parametrize("distance", ALL[:3], **BY_NAME)
def test_gradients_of_weighted_sets(distance):
    g = seeded(31)
    x, y = normal(2, 4, 2, generator=g).requires_grad_(), normal(2, 5, 3, generator=g).requires_grad_()
    a, b = weights(2, 4, generator=g).requires_grad_(), weights(2, 5, generator=g).requires_grad_()
    if distance is ALL[2]:
        slope_matches(lambda x, a, y, b: distance(PointSets(x, a), PointSets(y, b)), x, a, y, b, rtol=1e-6, atol=1e-8)
        return
    assert torch.autograd.gradcheck(lambda x, a, y, b: distance(PointSets(x, a), PointSets(y, b)), (x, a, y, b))
    assert torch.autograd.gradcheck(
        lambda x, a, y, b: distance.pairwise(PointSets(x, a), PointSets(y, b)), (x, a, y, b)
    )  # fmt: skip
    assert torch.autograd.gradcheck(distance, (x, y))
    assert torch.autograd.gradcheck(distance.pairwise, (x, y))


@pytest.mark.parametrize("distance", [*SLICED, *ALL[2:]], **BY_NAME)
def test_degenerate_sets(distance):
    g = seeded(32)
    same, double = torch.ones(5, 3, dtype=torch.float64).requires_grad_(), normal(1, 3, generator=g).repeat(5, 1)
    centred = 0 if distance is not SLICED[1] else None
    for other in (torch.ones(5, 3, dtype=torch.float64), double):
        value = distance(same, other)
        if centred == 0 or other is not double:
            assert value.item() == pytest.approx(0, abs=1e-12)
        (gradient,) = torch.autograd.grad(value, same)
        assert gradient.isfinite().all()
    x = normal(5, 3, generator=g)
    assert distance(x, same).item() > 0.1
    x = torch.cat([x[:3], x[:2]])  # duplicates
    assert distance(x, x.clone()).item() == 0
    assert distance(x, x.flip(0)).item() == pytest.approx(0, abs=1e-7)
    if distance in ALL:
        w = torch.tensor([1.0, 0, 1, 1, 0], dtype=torch.float64)
        kept = distance(x[w > 0], same).item()
        assert distance(PointSets(x, w), PointSets(same)).item() == pytest.approx(kept, rel=1e-6)
        assert distance(x[:1], same).item() == pytest.approx(distance(x[:1], same[:1]).item(), abs=1e-12)


@pytest.mark.parametrize("distance", [*SLICED, *ALL[2:]], **BY_NAME)
def test_half_precision(distance):
    g = seeded(33)
    x, y = torch.randn(2, 5, 3, generator=g), torch.randn(2, 5, 3, generator=g)
    for dtype in (torch.float16, torch.bfloat16):
        a, b = x.to(dtype), y.to(dtype)
        assert distance(a, b).dtype == distance.pairwise(a, b).dtype == dtype
        torch.testing.assert_close(distance(a, b), distance(a.float(), b.float()).to(dtype))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("distance", [*SLICED, *ALL[2:]], **BY_NAME)
def test_one_bad_coordinate_spoils_one_set(distance, bad):
    g = seeded(34)
    x, y = normal(3, 5, 3, generator=g), normal(3, 5, 3, generator=g).requires_grad_()
    clean = distance(x, y)
    x[1, 2, 0] = bad
    value = distance(x, y)
    if distance is not SLICED[1] or math.isnan(bad):  # inner products with infinity may be infinite
        assert value.isnan().tolist() == [False, True, False]
    torch.testing.assert_close(value[::2], clean[::2], rtol=1e-6, atol=0)
    (gradient,) = torch.autograd.grad(value[::2].sum(), y, retain_graph=True)
    assert gradient[::2].isfinite().all()
    value[1].backward()  # no gradient to speak of, but no crash
    assert y.grad[::2].isfinite().all()


# The rotation-invariant one.


def test_rotation_invariance():
    g = seeded(35)
    for p, q in ((2, 2), (2, 3), (1, 2)):
        distance = RotationInvariantSlicedGromovWasserstein(q, 12, generator=seeded())
        x, y = normal(2, 8, p, generator=g), normal(2, 8, q, generator=g)
        value = distance(x, y)
        turned_x = x @ rotation(p, g).mT + 5
        torch.testing.assert_close(distance(turned_x, y - 3), value, rtol=1e-4, atol=0)
        assert (value <= distance.sliced(x, y) + 1e-12).all()
        if p < q:  # the set of fewer features is turned, whichever comes first
            torch.testing.assert_close(distance(y, x), value)
        else:
            assert (distance(x, turned_x) < 1e-3).all()
            assert (distance.sliced(x, turned_x) > 0.1).all()
        delta = distance.alignments(x, y)
        assert delta.shape == (2, q, p)
        torch.testing.assert_close(delta.mT @ delta, torch.eye(p, dtype=torch.float64).expand(2, p, p))
        torch.testing.assert_close(distance.sliced(x @ delta.mT, y), value)


def test_rotation_of_the_other_set_is_averaged_out():
    g = seeded(36)
    x, y = normal(30, 2, generator=g), normal(30, 2, generator=g) * 1.3
    distance = RotationInvariantSlicedGromovWasserstein(2, 300, starts=8, followed=2, steps=60, generator=g)
    assert distance(x, y @ rotation(2, g).mT).item() == pytest.approx(distance(x, y).item(), rel=1e-4)


def test_scale_does_not_matter_to_the_optimiser():
    g = seeded(37)
    x, y = normal(8, 2, generator=g), normal(8, 2, generator=g)
    distance = turned(seeded())
    assert distance(1e-4 * x, 1e-4 * y).item() == pytest.approx(1e-8 * distance(x, y).item(), rel=1e-6)
    torch.testing.assert_close(distance(x, y), turned(seeded())(x, y), rtol=0, atol=0)  # the same starts
    assert turned(seeded(), starts=0, steps=0)(x, y) >= distance(x, y)


# The whole Gromov-Wasserstein distance.


def test_optimum_of_random_problems():
    """Six points of the plane against six of space: never above POT, at the least permutation in 90 of 100."""
    g = seeded(38)
    distance = GromovWasserstein(Euclidean(), generator=g)
    hits, never = 0, True
    for _ in range(100):
        x, y = normal(6, 2, generator=g), normal(6, 3, generator=g)
        c, e = euclidean(x.numpy()), euclidean(y.numpy())
        value = distance(x, y).item() ** 2
        never &= value <= ot.gromov.gromov_wasserstein2(c, e, loss_fun="square_loss") * (1 + 1e-10)
        hits += value <= of_all_permutations(c, e) * (1 + 1e-10)
    assert never
    assert hits >= 90


@pytest.mark.parametrize(("n", "m"), [(7, 7), (5, 9)])
def test_value_of_the_plan(n, m):
    g = seeded(39)
    x, y, a, b = normal(n, 2, generator=g), normal(m, 3, generator=g), weights(n, generator=g), weights(m, generator=g)
    distance = GromovWasserstein(Euclidean(), Cosine(), generator=g)
    left, right = PointSets(x, a), PointSets(y, b)
    plan = distance.plan(left, right)
    torch.testing.assert_close(plan.sum(1), a)
    torch.testing.assert_close(plan.sum(0), b)
    c, e = Euclidean().pairwise(x).numpy(), Cosine().pairwise(y).numpy()
    value = distance(left, right).item() ** 2
    assert value == pytest.approx(double_sum(c, e, plan.numpy()), rel=1e-10)
    assert value <= ot.gromov.gromov_wasserstein2(c, e, a.numpy(), b.numpy(), "square_loss") * (1 + 1e-10)


def test_dense_plans(monkeypatch):
    """Grounds of no negative type may end in a plan of many entries, whose objective is summed another way."""
    g = seeded(40)
    x, y = normal(8, 2, generator=g).requires_grad_(), normal(9, 2, generator=g)
    distance = GromovWasserstein(Euclidean())
    monkeypatch.setattr(distance, "_plan", lambda c, e, a, b: np.outer(a, b))
    expected = double_sum(euclidean(x.detach().numpy()), euclidean(y.numpy()), np.full((8, 9), 1 / 72))
    assert distance(x, y).item() ** 2 == pytest.approx(expected, rel=1e-12)
    assert torch.autograd.gradcheck(distance, (x, y))


def test_isometric_copies():
    g = seeded(41)
    x = normal(3, 12, 2, generator=g)
    copy = torch.nn.functional.pad(x[:, torch.randperm(12, generator=g)], (0, 1)) @ rotation(3, g).mT + 4
    assert (GromovWasserstein(Euclidean(), generator=g)(x, copy) < 1e-12).all()


def test_hyperbolic_and_unbounded_grounds():
    """The inner product has no zero diagonal, which the swaps of assignments have to mind."""
    g = seeded(42)
    ball = Geodesic(PoincareBall())
    x, y = (torch.tanh(normal(4, 6, 2, generator=g)) * 0.6 for _ in range(2))
    for ground in (ball, NegativeInner()):
        expected = [
            math.sqrt(of_all_permutations(ground.pairwise(a).numpy(), ground.pairwise(b).numpy()))
            for a, b in zip(x, y, strict=True)
        ]
        torch.testing.assert_close(GromovWasserstein(ground, generator=g)(x, y), torch.tensor(expected).double())


# What is refused.


def test_what_is_refused():
    x = torch.zeros(2, 4, 3)
    with pytest.raises(ShapeError, match=r"2 .*3"):
        SlicedGromovWasserstein(2)(x, x)
    with pytest.raises(ShapeError, match=r"of R\^4, the points of R\^3"):
        RotationInvariantSlicedGromovWasserstein(4)(x, x)
    with pytest.raises(NotImplementedError, match="no embedding"):
        SlicedGromovWasserstein(3).embed(x)
    for other in (x[:, :3], PointSets(x, torch.ones(2, 4)), PointSets.from_list([x[0], x[1, :2]])):
        for call in (SLICED[2].forward, SLICED[2].pairwise, SLICED[2].costs):
            with pytest.raises(ShapeError, match="one size and of equal weights"):
                call(x, other)
    with pytest.raises(DomainError, match="orthonormal"):
        SlicedGromovWasserstein(3, delta=torch.ones(3, 2))
    with pytest.raises(ShapeError, match=r"\(3, features of x\)"):
        SlicedGromovWasserstein(3, delta=torch.eye(2))
    with pytest.raises(ShapeError, match=r"delta takes points of R\^2"):
        SlicedGromovWasserstein(3, delta=torch.eye(3)[:, :2])(x, x)
    with pytest.raises(DomainError, match="followed >= 1"):
        RotationInvariantSlicedGromovWasserstein(3, followed=0)
    with pytest.raises(ShapeError, match="symmetric distance between vectors"):
        GromovWasserstein(SlicedGromovWasserstein(3))
    with pytest.raises(DomainError, match="restarts"):
        GromovWasserstein(Euclidean(), restarts=-1)
    with pytest.raises(ShapeError, match="two single sets"):
        GromovWasserstein(Euclidean()).plan(x, x)


def test_resample_and_repr():
    g = seeded(43)
    x, y = normal(5, 3, generator=g), normal(5, 3, generator=g)
    distance = SlicedGromovWasserstein(3, 10, generator=g)
    first = distance(x, y)
    distance.resample(g)
    assert distance(x, y) != first
    assert "dim=3, count=10" in repr(distance)
    assert "restarts=10" in repr(GromovWasserstein(Euclidean()))
    assert "steps=100" in repr(RotationInvariantSlicedGromovWasserstein(3))
