"""How many digits the hyperbolic models keep, against 60-digit oracles, and that nothing overflows on the way."""

import hyperbolic_oracle as oracle
import pytest
import torch

from geoembed.manifolds import HalfSpace, Lorentz, PoincareBall, convert

MODELS = [PoincareBall, HalfSpace, Lorentz]
DIMS = [2, 3, 5, 10]


@pytest.fixture(params=[(model, c) for model in MODELS for c in (1.0, 0.5)], ids=lambda p: f"{p[0].__name__}({p[1]})")
def manifold(request):
    model, c = request.param
    return model(c)


def directions(n, d, generator, dtype=torch.float64):
    u = torch.randn(n, d, generator=generator, dtype=torch.float64)
    return (u / u.norm(dim=-1, keepdim=True)).to(dtype)


def sphere(manifold, n, d, radius, generator, dtype=torch.float64):
    """n points of sqrt(c) d(0, x) = radius."""
    return manifold.from_tangent(radius / float(manifold.c) ** 0.5 * directions(n, d, generator, dtype))


def far_pairs(manifold, d, radius, generator, n=40, dtype=torch.float64):
    return [sphere(manifold, n, d, radius, generator, dtype) for _ in range(2)]


def near_pairs(manifold, d, radius, generator, n=40, dtype=torch.float64):
    """Pairs about 1 apart: y = exp_x(v) in float64, rounded to dtype."""
    x = sphere(manifold, n, d, radius, generator)
    v = manifold.proju(x, torch.randn(x.shape, generator=generator, dtype=torch.float64))
    y = manifold.expmap(x, v / manifold.norm(x, v, keepdim=True))
    return x.to(dtype), y.to(dtype)


def worst(manifold, pairs, computed=None):
    x, y = pairs
    return oracle.relative_errors(manifold, x, y, manifold.dist(x, y) if computed is None else computed).max().item()


def diagonal(manifold, pairs):
    return manifold.cdist(*pairs).diagonal()


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("radius", [0.1, 1.0, 5.0, 10.0])
def test_far(manifold, d, radius):
    pairs = far_pairs(manifold, d, radius, torch.Generator().manual_seed(d))
    assert worst(manifold, pairs) <= 1e-13


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize(("radius", "tolerance"), [(1.0, 1e-13), (12.0, 1e-10), (18.0, 1e-7)])
def test_near(manifold, d, radius, tolerance):
    pairs = near_pairs(manifold, d, radius, torch.Generator().manual_seed(d))
    assert worst(manifold, pairs) <= tolerance


@pytest.mark.parametrize("d", DIMS)
def test_near_float32(manifold, d):
    pairs = near_pairs(manifold, d, 6.0, torch.Generator().manual_seed(d), dtype=torch.float32)
    assert manifold.dist(*pairs).dtype == torch.float32
    assert worst(manifold, pairs) <= 1e-4
