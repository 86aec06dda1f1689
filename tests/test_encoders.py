"""Encoders: shapes, seeds, invariance to order and padding, clipped radii, gradients, and bad input."""

import math

import pytest
import torch

from geoembed.distances.pointwise import Euclidean
from geoembed.distances.setwise import Chamfer
from geoembed.distances.sliced import SlicedWasserstein
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import HalfSpace, Lorentz, PoincareBall
from geoembed.models.encoders import MLP, ConvNet, HyperbolicHead, PointEncoder, SetEncoder
from geoembed.pointsets import PointSets

NAN = float("nan")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


ENCODERS = {
    "mlp": (lambda g: MLP(5, 3, (7, 6), generator=g), (4, 5)),
    "linear": (lambda g: MLP(5, 3, (), generator=g), (4, 5)),
    "conv": (lambda g: ConvNet(6, generator=g), (3, 28, 28)),
    "set": (lambda g: SetEncoder(2, 3, 8, generator=g), (4, 6, 2)),
    "point": (lambda g: PointEncoder(2, 3, 8, generator=g), (4, 6, 2)),
}
SETS = [torch.randn(n, 2, generator=generator(n)) for n in (1, 4, 7, 3)]


@pytest.mark.parametrize("name", ENCODERS)
def test_the_generator_alone_makes_the_weights(name):
    build, shape = ENCODERS[name]
    state = torch.get_rng_state()
    a, b, c = build(generator(1)), build(generator(1)), build(generator(2))
    assert torch.equal(state, torch.get_rng_state())
    assert all(torch.equal(p, q) for p, q in zip(a.parameters(), b.parameters(), strict=True))
    assert any(not torch.equal(p, q) for p, q in zip(a.parameters(), c.parameters(), strict=True))
    torch.manual_seed(0)
    d = build(None)
    torch.manual_seed(0)
    assert all(torch.equal(p, q) for p, q in zip(d.parameters(), build(None).parameters(), strict=True))
    assert all(p.device.type == "cpu" and p.requires_grad for p in a.parameters())
    x = torch.rand(shape, generator=generator())
    a.load_state_dict(c.state_dict())
    torch.testing.assert_close(a(x), c(x))


@pytest.mark.parametrize("name", ENCODERS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_gradients_and_modes(name, dtype):
    build, shape = ENCODERS[name]
    model, x = build(generator()).to(dtype), torch.rand(shape, generator=generator()).to(dtype)
    out = model(x)
    assert out.dtype == dtype
    assert out.isfinite().all()
    out.square().sum().backward()
    assert all(p.grad.isfinite().all() and (p.grad != 0).any() for p in model.parameters())
    torch.testing.assert_close(model.eval()(x), out)  # training and evaluation agree


@pytest.mark.parametrize("name", ENCODERS)
def test_an_item_does_not_see_the_others(name):
    build, shape = ENCODERS[name]
    model, x = build(generator()).double(), torch.rand(shape, generator=generator(), dtype=torch.float64)
    spoiled = x.clone()
    spoiled[1] = NAN
    keep = [i for i in range(len(x)) if i != 1]
    torch.testing.assert_close(model(spoiled)[keep], model(x)[keep])
    assert model(spoiled)[1].isnan().all()
    torch.testing.assert_close(model(x[2:3])[0], model(x)[2])


def test_mlp_against_a_loop():
    model = MLP(5, 3, (7, 6), generator=generator())
    x = torch.randn(2, 3, 5, generator=generator())
    weights = list(model.parameters())
    assert [tuple(w.shape) for w in weights] == [(7, 5), (7,), (6, 7), (6,), (3, 6), (3,)]
    expected = x
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        expected = (expected.relu() if expected is not x else x) @ weight.mT + bias
    torch.testing.assert_close(model(x), expected)
    bound = [w.abs().max().item() * math.sqrt(inputs) for w, inputs in zip(weights[::2], (5, 7, 6), strict=True)]
    assert all(0.8 < b <= 1 for b in bound)


def test_conv_net():
    model = ConvNet(10, generator=generator())
    assert sum(p.numel() for p in model.parameters()) == 56_064 + 577 * 10
    assert 90_000 < sum(p.numel() for p in ConvNet(generator=generator()).parameters()) < 110_000
    x = torch.rand(2, 28, 28, generator=generator())
    assert model(x).shape == (2, 10)
    torch.testing.assert_close(model(x), model(x.unsqueeze(1)))
    assert model(x[:0]).shape == (0, 10)
    # torch's own layers, drawn from torch's own generator, have the same spread of weights
    theirs = torch.nn.Conv2d(32, 64, 3)
    ours = model.layers[4]
    assert ours.weight.std().item() == pytest.approx(theirs.weight.std().item(), rel=0.05)


def test_conv_net_learns_digits():
    from sklearn.datasets import load_digits

    x, y = (torch.from_numpy(a) for a in load_digits(return_X_y=True))
    x = torch.nn.functional.interpolate(x.float().reshape(-1, 1, 8, 8) / 16, size=(28, 28))
    model = ConvNet(10, (8, 16, 16), generator=generator())
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for batch in torch.randperm(1200, generator=generator()).repeat(2).split(50):
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    with torch.no_grad():
        assert (model(x[1200:]).argmax(1) == y[1200:]).float().mean() > 0.9


def out_of(encoded):
    """Vectors (n, k) of a SetEncoder, or a list of points (n_i, k) of a PointEncoder."""
    return encoded.unpad() if isinstance(encoded, PointSets) else list(encoded)


@pytest.mark.parametrize("kind", [SetEncoder, PointEncoder])
def test_order_and_padding_count_for_nothing(kind):
    model = kind(2, 3, 8, generator=generator())
    expected = [model(points.unsqueeze(0))[0] for points in SETS]  # each alone, without padding
    lengths = torch.tensor([len(points) for points in SETS])
    for filler in (0.0, 1e30, NAN, math.inf):
        padded = torch.full((4, 9, 2), filler)
        for i, points in enumerate(SETS):
            padded[i, : len(points)] = points
        padded.requires_grad_()
        sets = PointSets(padded, lengths=lengths)
        found = out_of(model(sets))
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b)
        model.zero_grad()
        sum(a.square().sum() for a in found).backward()
        assert all(p.grad.isfinite().all() for p in model.parameters())
        assert (padded.grad[~sets.mask] == 0).all()
    for points, before in zip(SETS, expected, strict=True):
        order = torch.randperm(len(points), generator=generator())
        after = model(points[order].unsqueeze(0))[0]
        torch.testing.assert_close(after, before[order] if kind is PointEncoder else before)


def test_set_encoder_against_a_loop_and_weights():
    model = SetEncoder(2, 3, 8, generator=generator())
    points = torch.randn(5, 2, generator=generator(1))
    weights = torch.tensor([1.0, 2.0, 3.0, 0.0, 2.0])
    pooled = sum(w * model.point(p) for w, p in zip(weights / 8, points, strict=True))
    torch.testing.assert_close(model(PointSets(points.unsqueeze(0), weights.unsqueeze(0)))[0], model.set(pooled))
    twice = points.repeat_interleave(torch.tensor([1, 2, 3, 0, 2]), 0)  # whole weights are copies
    torch.testing.assert_close(model(twice.unsqueeze(0))[0], model.set(pooled))
    assert model(points).shape == (3,)
    assert model(points.expand(2, 3, 5, 2)).shape == (2, 3, 3)


def test_point_encoder_against_a_loop_and_keeps_the_kind():
    model = PointEncoder(2, 3, 8, generator=generator())
    points = torch.randn(5, 2, generator=generator(1))
    mean = torch.stack([model.point(p) for p in points]).mean(0)
    expected = torch.stack([model.joint(torch.cat([model.point(p), mean])) for p in points])
    out = model(points.unsqueeze(0))
    assert isinstance(out, torch.Tensor)
    torch.testing.assert_close(out[0], expected)
    weights = torch.rand(1, 5, generator=generator())
    sets = model(PointSets(points.unsqueeze(0), weights))
    assert isinstance(sets, PointSets)
    torch.testing.assert_close(sets.weights, weights / weights.sum())
    assert model(PointSets.from_list(SETS)).lengths.tolist() == [1, 4, 7, 3]


@pytest.mark.parametrize(
    "distance", [SlicedWasserstein(2, generator=generator()), Chamfer(Euclidean())], ids=["sliced", "chamfer"]
)
def test_a_set_distance_trains_the_point_encoder(distance):
    g = generator(5)
    shapes = [torch.randn(12, 2, generator=g) * torch.tensor([1.0, 1.0 + 2 * (i % 2)]) for i in range(16)]
    sets, same = PointSets.from_list(shapes), (torch.arange(16)[:, None] - torch.arange(16)) % 2 == 0
    model = PointEncoder(2, 2, 16, generator=generator())
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.01), []
    for _ in range(30):
        d = distance.pairwise(model(sets))
        loss = d[same].mean() + (1 - d[~same]).relu().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


# Hyperbolic heads.

MANIFOLDS = [PoincareBall(), PoincareBall(2.5), Lorentz(), Lorentz(0.3), HalfSpace(), HalfSpace(0.5)]


@pytest.mark.parametrize("manifold", MANIFOLDS, ids=str)
@pytest.mark.parametrize("clip", [0.5, 2.0])
def test_clipped_radius(manifold, clip):
    u = torch.randn(50, 3, generator=generator(), dtype=torch.float64) * torch.logspace(-3, 3, 50).unsqueeze(1).double()
    point = HyperbolicHead(manifold, clip)(u)
    manifold.check(point)
    assert point.shape == (50, manifold.point_dim(3))
    origin = manifold.origin(50, manifold.point_dim(3), dtype=torch.float64)
    radius = u.norm(dim=-1)
    assert (radius > clip).any()
    assert (radius < clip).any()
    torch.testing.assert_close(manifold.dist(origin, point), radius.clamp(max=clip))
    tangent = manifold.to_tangent(point)  # the direction is kept
    torch.testing.assert_close(tangent / tangent.norm(dim=-1, keepdim=True), u / radius.unsqueeze(1))
    plain = HyperbolicHead(manifold, math.inf)(u[radius < clip])
    torch.testing.assert_close(point[radius < clip], plain)


def test_the_default_is_the_clip_of_the_paper():
    """Guo et al. clip x at r = 1 and map tanh(sqrt(c) |x|) x / (sqrt(c) |x|), at c = 1."""
    x = torch.tensor([[3.0, 4.0], [0.3, 0.4]], dtype=torch.float64)
    clipped = x * (1 / x.norm(dim=-1, keepdim=True)).clamp(max=1)
    expected = clipped.norm(dim=-1, keepdim=True).tanh() * clipped / clipped.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(HyperbolicHead(PoincareBall())(2 * x), expected)


@pytest.mark.parametrize("manifold", MANIFOLDS[::2], ids=str)
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_heads_in_low_precision(manifold, dtype):
    u = torch.tensor([[0.0, 0.0], [1e-3, 0.0], [1.0, -1.0], [6e4, 6e4], [NAN, 0.0]]).to(dtype)
    point = HyperbolicHead(manifold)(u)
    assert point.dtype == dtype
    assert point[:-1].isfinite().all()
    exact = HyperbolicHead(manifold)(u.double())
    tolerance = 4 * torch.finfo(dtype).eps
    torch.testing.assert_close(point[:-1].double(), exact[:-1], rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("manifold", MANIFOLDS[::2], ids=str)
def test_gradients_of_heads(manifold):
    head = HyperbolicHead(manifold)
    u = torch.tensor([[0.0, 0.0, 0.0], [0.3, 0.1, -0.2], [30.0, 1.0, 2.0]], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(head, u[1:].detach().requires_grad_())
    head(u).square().sum().backward()
    assert u.grad.isfinite().all()
    (grad,) = torch.autograd.grad((head(u[2]) * torch.arange(manifold.point_dim(3))).sum(), u)
    assert abs(float(grad[2] @ u[2].detach())) < 1e-12  # clipped: none along u
    assert grad[2].norm() > 1e-4


def test_a_head_after_an_encoder_trains_the_curvature_too():
    manifold = PoincareBall(learnable=True)
    model = torch.nn.Sequential(MLP(4, 2, generator=generator()), HyperbolicHead(manifold))
    x = torch.randn(10, 4, generator=generator())
    manifold.dist(model(x)[:5], model(x)[5:]).sum().backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    assert manifold.log_c.grad != 0
    assert "clip=2" in repr(model)


# Bad input.


@pytest.mark.parametrize(
    ("call", "error", "message"),
    [
        (lambda: MLP(5, 3)(torch.ones(2, 4)), ShapeError, r"\(\*B, 5\), got torch.float32 of shape \(2, 4\)"),
        (lambda: MLP(5, 3)(torch.ones(2, 5, dtype=torch.int64)), ShapeError, r"int64 .*\.float\(\)"),
        (lambda: MLP(5, 3)(torch.tensor(1.0)), ShapeError, r"shape \(\)"),
        (lambda: MLP(0, 3), DomainError, "at least 1"),
        (lambda: MLP(3, 3, (4, 0)), DomainError, r"\(3, 4, 0, 3\)"),
        (lambda: ConvNet()(torch.ones(2, 3, 28, 28)), ShapeError, r"\(2, 3, 28, 28\)"),
        (lambda: ConvNet()(torch.ones(28, 28)), ShapeError, r"\(28, 28\)"),
        (lambda: ConvNet()(torch.ones(2, 28, 28, dtype=torch.uint8)), ShapeError, "uint8 .*/ 255"),
        (lambda: ConvNet(3, (8, 8)), DomainError, "three multiples of 8"),
        (lambda: ConvNet(3, (8, 8, 12)), DomainError, "three multiples of 8"),
        (lambda: SetEncoder(2, 3)(torch.ones(4, 5, 3)), ShapeError, r"\(\*B, 2\)"),
        (lambda: SetEncoder(2, 3)(torch.ones(2)), ShapeError, r"\(\*B, n, d\)"),
        (lambda: SetEncoder(2, 3)(torch.ones(4, 5, 2, dtype=torch.int32)), ShapeError, "floating point"),
        (lambda: SetEncoder(2, 3)(torch.ones(4, 0, 2)), DomainError, "at least one point"),
        (lambda: PointEncoder(2, 3)(torch.ones(4, 5, 3)), ShapeError, r"\(\*B, 2\)"),
        (lambda: HyperbolicHead(torch.nn.Linear(2, 2)), DomainError, "PoincareBall, Lorentz or HalfSpace"),
        (lambda: HyperbolicHead(PoincareBall(), 0.0), DomainError, "clip must be positive, got 0.0"),
        (lambda: HyperbolicHead(PoincareBall(), NAN), DomainError, "clip must be positive, got nan"),
        (lambda: HyperbolicHead(PoincareBall())(torch.ones(2, 3, dtype=torch.int64)), ShapeError, "int64"),
    ],
)
def test_bad_input(call, error, message):
    with pytest.raises(error, match=message):
        call()
