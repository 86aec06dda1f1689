"""Gradient flows and barycentres of point sets."""

import math

import ot
import pytest
import torch

from distance_contract import normal
from geoembed.distances import (
    Circular,
    EnergyDistance,
    Euclidean,
    GeneralizedSlicedWasserstein,
    GeodesicSlicedWasserstein,
    HorosphericalSlicedWasserstein,
    Linear,
    SlicedWasserstein,
)
from geoembed.distances.directions import iid
from geoembed.errors import DomainError, ShapeError
from geoembed.flows import barycentre, flow
from geoembed.manifolds import Lorentz, PoincareBall
from geoembed.optim import RiemannianSGD
from geoembed.pointsets import PointSets


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def line(p: float = 2.0) -> SlicedWasserstein:
    """W_p on the line itself."""
    return SlicedWasserstein(1, p=p, directions=torch.ones(1, 1, dtype=torch.float64))


# Flows.


def swiss_roll(n: int, generator: torch.Generator) -> torch.Tensor:
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    x = torch.stack([t * t.cos(), t * t.sin()], dim=-1)
    x = x - x.mean(0)
    return x / x.abs().max()


@pytest.mark.parametrize("slices", ["linear", "independent", "circular"])
def test_flow_to_the_swiss_roll(slices):
    """The papers' flow with fewer points; tests/benchmarks/flow.py has all 1,000, and more seeds."""
    g = seeded(1)
    distance = {
        "linear": lambda: SlicedWasserstein(2, 50, generator=g),
        "independent": lambda: SlicedWasserstein(2, 50, directions=iid, generator=g),
        "circular": lambda: GeneralizedSlicedWasserstein(Circular(2, 50, generator=g)),
    }[slices]()
    target, start = swiss_roll(200, g), 0.25 * torch.randn(200, 2, generator=g)
    end = flow(distance, start, target, steps=250, lr=1e-2, generator=g).points[-1]
    costs = ot.dist(end.double().numpy(), target.double().numpy())
    assert ot.emd2([], [], costs) < 1e-5


def test_the_steps_are_those_of_adam():
    start, target = normal(6, 3, generator=seeded(1)), normal(9, 3, generator=seeded(2))
    distance = SlicedWasserstein(3, 20, generator=seeded(3))
    moved = flow(distance, start, target, steps=4, lr=0.1, power=2, resample=False, keep=range(5))

    points = start.clone().requires_grad_()
    adam = torch.optim.Adam([points], lr=0.1)
    for step in range(5):
        torch.testing.assert_close(moved.points[step], points.detach())
        value = distance(points, target) ** 2
        torch.testing.assert_close(moved.values[step], value.detach())
        adam.zero_grad()
        value.backward()
        adam.step()
    assert moved.steps == [0, 1, 2, 3, 4]


def test_slices_are_drawn_before_each_step():
    start, target = normal(6, 4, generator=seeded(1)), normal(6, 4, generator=seeded(2))
    distance, same = (SlicedWasserstein(4, 8, generator=seeded(3)) for _ in range(2))
    moved = flow(distance, start, target, steps=2, lr=0.1, keep=[1], generator=seeded(4))
    g = seeded(4)
    for step in range(3):
        same.resample(g)
        torch.testing.assert_close(moved.values[step], same(moved.points[step], target))
    torch.testing.assert_close(distance.slices.theta, same.slices.theta, rtol=0, atol=0)


def test_the_generator_fixes_the_course():
    start, target = normal(6, 4, generator=seeded(1)), normal(6, 4, generator=seeded(2))
    first, second, other = (
        flow(SlicedWasserstein(4, 8, generator=seeded(3)), start, target, steps=3, lr=0.1, generator=seeded(seed))
        for seed in (4, 4, 5)
    )
    assert torch.equal(first.points, second.points)
    assert not torch.equal(first.points, other.points)


def test_on_the_line_points_go_straight_to_their_match():
    """The gradient of W_2^2 at a point is 2 / n times its way to go: descent with lr = n / 4 goes half of it."""
    start, target = normal(8, 1, generator=seeded(1)), normal(8, 1, generator=seeded(2))
    match = target.sort(dim=0).values[start[:, 0].argsort().argsort()]
    moved = flow(
        line(), start, target, steps=3, lr=2.0, power=2, resample=False, optimizer=torch.optim.SGD, keep=range(4)
    )
    for step in range(4):
        torch.testing.assert_close(moved.points[step], match + 0.5**step * (start - match))
        torch.testing.assert_close(moved.values[step], 0.25**step * (start - match).square().mean())


def test_a_batch_is_a_loop():
    start, sizes = normal(3, 5, 2, generator=seeded(1)), (4, 9, 5)
    targets = [normal(n, 2, generator=seeded(n)) for n in sizes]
    padded = torch.full((3, 9, 2), torch.nan, dtype=torch.float64)
    for row, target in zip(padded, targets, strict=True):
        row[: len(target)] = target
    sets = PointSets(padded, lengths=torch.tensor(sizes))
    distance = SlicedWasserstein(2, 20, generator=seeded(2))
    together = flow(distance, start, sets, steps=5, lr=0.1, resample=False)
    for i, target in enumerate(targets):
        alone = flow(distance, start[i], target, steps=5, lr=0.1, resample=False)
        torch.testing.assert_close(together.points[:, i], alone.points)
        torch.testing.assert_close(together.values[:, i], alone.values)


def test_what_is_given_stays_as_it_is():
    start, target = normal(5, 2, generator=seeded(1)), normal(5, 2, generator=seeded(2))
    before = start.clone()
    slices = Linear(2, 8, generator=seeded(3))
    slices.theta = torch.nn.Parameter(slices.theta)
    with torch.no_grad():
        moved = flow(GeneralizedSlicedWasserstein(slices), start, target, steps=2, lr=0.1, resample=False)
    assert torch.equal(start, before)
    assert torch.equal(moved.points[0], before)
    assert slices.theta.grad is None
    assert not moved.points.requires_grad
    assert not moved.values.requires_grad


def test_equal_sets_do_not_move():
    start = normal(5, 2, generator=seeded(1))
    moved = flow(SlicedWasserstein(2), start, start.flip(0), steps=3, lr=0.1, generator=seeded(2))
    assert torch.equal(moved.points[-1], start)
    assert torch.equal(moved.values, torch.zeros(4, dtype=torch.float64))


def test_distances_without_slices():
    start, target = normal(20, 2, generator=seeded(1)), normal(20, 2, generator=seeded(2)) + 3
    moved = flow(EnergyDistance(Euclidean()), start, target, steps=100, lr=0.1, power=2)
    assert moved.values[-1] < 0.01 * moved.values[0]
    assert moved.points.dtype == torch.float64


@pytest.mark.parametrize(
    ("manifold", "sliced"),
    [(PoincareBall(0.5), HorosphericalSlicedWasserstein), (Lorentz(2.0), GeodesicSlicedWasserstein)],
)
@pytest.mark.parametrize("optimizer", ["adam", "sgd"])
def test_flow_on_a_manifold(manifold, sliced, optimizer):
    g = seeded(1)
    start, target = (
        manifold.random(30, manifold.point_dim(2), std=std, generator=g, dtype=torch.float64) for std in (0.3, 1.5)
    )
    settings = {"lr": 0.1} if optimizer == "adam" else {"lr": 10.0, "power": 2, "optimizer": RiemannianSGD}
    moved = flow(
        sliced(manifold, 2, 20, generator=g),
        *(start, target),
        steps=100,
        manifold=manifold,
        generator=g,
        keep=[20],
        **settings,
    )
    manifold.check(moved.points.flatten(0, 1))
    assert moved.values[-1] < 0.05 * moved.values[0]


def test_a_manifold_says_how_long_a_step_is():
    """Adam's first step is lr long, in the metric of the manifold: the learning rate means the same everywhere."""
    ball = PoincareBall()
    start = ball.random(10, 2, std=2.0, generator=seeded(1), dtype=torch.float64)
    target = ball.random(10, 2, std=2.0, generator=seeded(2), dtype=torch.float64)
    distance = HorosphericalSlicedWasserstein(ball, 2, 50, generator=seeded(3))
    moved = flow(distance, start, target, steps=1, lr=0.01, manifold=ball)
    length = ball.dist(moved.points[0], moved.points[1])
    torch.testing.assert_close(length, torch.full_like(length, 0.01), rtol=1e-3, atol=0)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"start": torch.ones(5, 2, dtype=torch.int64)}, ShapeError, "int64"),
        ({"start": PointSets(torch.ones(5, 2))}, ShapeError, "PointSets"),
        ({"start": torch.ones(5, 3)}, ShapeError, "same number of features"),
        ({"start": torch.full((5, 2), torch.nan)}, DomainError, "after 0 steps the distance is not finite"),
        ({"target": torch.full((5, 2), torch.inf)}, DomainError, "not finite"),
        ({"lr": 1e38}, DomainError, "after 1 steps.*lr=1e\\+38"),
        ({"lr": -1.0}, DomainError, "lr"),
        ({"power": 0}, DomainError, "positive"),
        ({"steps": 0}, DomainError, "at least 1"),
        ({"keep": [3]}, DomainError, "from 0 to steps"),
        ({"keep": [-1]}, DomainError, "from 0 to steps"),
        ({"manifold": PoincareBall()}, DomainError, "not points of PoincareBall"),
        ({"distance": SlicedWasserstein(2, directions=torch.eye(2))}, DomainError, "nothing to draw"),
    ],
)  # fmt: skip
def test_bad_input_of_a_flow(change, error, message):
    given = {"distance": SlicedWasserstein(2), "start": torch.ones(5, 2), "target": torch.zeros(4, 2)}
    given |= {"steps": 2, "lr": 0.1, **change}
    with pytest.raises(error, match=message):
        flow(**given)


# Barycentres.


def test_barycentre_of_copies_is_a_copy():
    """SW_2^2 is that of the centred sets plus half the squared gap of the means: so it is a copy in the middle."""
    shape = normal(40, 2, generator=seeded(1))
    shifts = torch.tensor([[0.0, 0.0], [3.0, 0.0], [0.0, 5.0]], dtype=torch.float64)
    w = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    middle = w @ shifts
    distance = SlicedWasserstein(2, 30, generator=seeded(2))
    sets = shape + shifts.unsqueeze(1)
    moved = barycentre(distance, sets, 4 * w, size=40, steps=400, lr=0.05, keep=[200], generator=seeded(3))
    least = (w * (shifts - middle).square().sum(-1)).sum() / 2
    torch.testing.assert_close(moved.values[-1], least, rtol=1e-3, atol=0)
    assert (moved.values > least * (1 - 1e-9)).all()
    assert ot.emd2([], [], ot.dist(moved.points[-1].numpy(), (shape + middle).numpy())) < 1e-3
    assert moved.steps == [0, 200, 400]


@pytest.mark.parametrize("as_list", [True, False])
def test_barycentre_on_the_line(as_list):
    """Its quantile function is the mean one: each of the n points is the mean of it over 1 / n."""
    sets = [normal(n, 1, generator=seeded(n)) for n in (3, 4, 6)]
    w, size = torch.tensor([0.2, 0.5, 0.3], dtype=torch.float64), 5
    finest = sum(
        weight * points[:, 0].sort().values.repeat_interleave(60 // len(points))
        for weight, points in zip(w, sets, strict=True)
    )
    best = finest.reshape(size, 60 // size).mean(-1)
    given = sets if as_list else PointSets.from_list(sets)
    descent = {"steps": 1, "lr": size / 2, "optimizer": torch.optim.SGD}  # all the way, as of a flow on the line
    moved = barycentre(line(), given, w.tolist(), size=size, resample=False, generator=seeded(1), **descent)
    torch.testing.assert_close(moved.points[-1].squeeze(-1).sort().values, best)


def test_a_set_without_weight_does_not_count():
    sets = normal(3, 6, 2, generator=seeded(1))
    sets[1] = torch.nan
    distance = SlicedWasserstein(2, 10, generator=seeded(2))
    one, two = (
        barycentre(distance, some, w, size=6, steps=20, lr=0.1, resample=False, generator=seeded(3))
        for some, w in ((sets, [1.0, 0.0, 2.0]), (sets[[0, 2]], [1.0, 2.0]))
    )
    torch.testing.assert_close(one.points, two.points, rtol=0, atol=0)


def test_more_points_than_the_sets_have():
    sets = [torch.zeros(1, 2), torch.ones(2, 2)]
    moved = barycentre(SlicedWasserstein(2, 10), sets, size=8, steps=30, lr=0.1, generator=seeded(1))
    assert moved.points.shape == (2, 8, 2)
    torch.testing.assert_close(moved.points[-1], torch.full((8, 2), 0.5), rtol=0, atol=0.05)


def test_barycentre_on_the_ball():
    """One point for two others of unequal weight, against all points of a fine grid."""
    ball, w = PoincareBall(), torch.tensor([0.8, 0.2], dtype=torch.float64)
    sets = ball.from_tangent(torch.tensor([[[2.0, 0.0]], [[0.0, -2.0]]], dtype=torch.float64))
    distance = HorosphericalSlicedWasserstein(ball, 2, 20, generator=seeded(1))
    descent = {"steps": 60, "lr": 0.3, "optimizer": RiemannianSGD, "resample": False}
    moved = barycentre(distance, sets, w, size=1, manifold=ball, generator=seeded(2), **descent)
    ticks = torch.linspace(-3, 3, 61, dtype=torch.float64)
    grid = ball.from_tangent(torch.cartesian_prod(ticks, ticks)).unsqueeze(1)
    values = distance.pairwise(grid, sets).square() @ w
    assert 0.98 * values.min() < moved.values[-1] < values.min() * (1 + 1e-9)
    assert ball.dist(moved.points[-1, 0], grid[values.argmin(), 0]) < 0.2  # the grid's step is 0.1 to 0.3


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"sets": torch.ones(4, 2)}, ShapeError, "one batch dimension"),
        ({"sets": []}, ShapeError, "at least one set"),
        ({"sets": [torch.ones(3, 2), torch.ones(3, 1)]}, ShapeError, "set 1"),
        ({"sets": torch.full((2, 3, 2), torch.nan)}, DomainError, "not finite"),
        ({"weights": [1.0]}, ShapeError, "2 sets need as many weights"),
        ({"weights": [1.0, -1.0]}, DomainError, "negative"),
        ({"weights": [0.0, 0.0]}, DomainError, "all zero"),
        ({"weights": [1.0, math.nan]}, DomainError, "nan"),
        ({"size": 0}, DomainError, "at least 1"),
    ],
)
def test_bad_input_of_a_barycentre(change, error, message):
    given = {"sets": torch.ones(2, 3, 2), "size": 3, "steps": 2, "lr": 0.1, **change}
    with pytest.raises(error, match=message):
        barycentre(SlicedWasserstein(2), **given)
