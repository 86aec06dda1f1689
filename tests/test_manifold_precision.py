"""How many digits the hyperbolic models keep, against 60-digit oracles, and that nothing overflows on the way."""

import pytest
import torch

import hyperbolic_oracle as oracle
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


def near_pairs(manifold, d, radius, generator, n=40, dtype=torch.float64, gap=1.0):
    """Pairs sqrt(c) d(x, y) = gap apart in any direction, computed in float64 and rounded to dtype."""
    x = sphere(manifold, n, d, radius, generator)
    return x.to(dtype), manifold.add(x, sphere(manifold, n, d, gap, generator)).to(dtype)


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
@pytest.mark.parametrize("second", [-1.0, -0.3, 0.0, 1e-9, 0.05, 0.3])
@pytest.mark.parametrize("radius", [1.0, 5.0, 10.0])
def test_far_on_a_line_through_the_origin(manifold, d, second, radius):
    """Antipodal points, the origin, and points on the same ray."""
    u = directions(20, d, torch.Generator().manual_seed(d)) * radius / float(manifold.c) ** 0.5
    assert worst(manifold, (manifold.from_tangent(u), manifold.from_tangent(second * u))) <= 1e-13


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


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("at", [0.0, 1.0])
def test_tiny_distances(manifold, d, at):
    generator = torch.Generator().manual_seed(d)
    x = manifold.projx(sphere(manifold, 40, d, at, generator))
    y = manifold.projx(x + 1e-12 * torch.randn(x.shape, generator=generator, dtype=torch.float64))
    assert worst(manifold, (x, y)) <= 1e-10
    if manifold.name != "Lorentz":
        assert worst(manifold, (x, y), diagonal(manifold, (x, y))) <= 1e-10


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("radius", [0.0, 1.0, 10.0, 18.0, 29.0])
def test_coincident(manifold, d, radius):
    x = sphere(manifold, 20, d, radius, torch.Generator().manual_seed(d)).requires_grad_()
    y = x.detach().clone().requires_grad_()
    distances = manifold.dist(x, y)
    assert (distances == 0).all()
    for gradient in torch.autograd.grad(distances.sum(), (x, y)):
        assert (gradient == 0).all()


@pytest.mark.parametrize("radius", [1.0, 10.0, 29.0])
def test_coincident_in_the_matrix(manifold, radius):
    x = sphere(manifold, 20, 3, radius, torch.Generator().manual_seed(0)).requires_grad_()
    diagonal = manifold.cdist(x, x.detach()).diagonal()
    assert (diagonal == 0).all()
    assert (torch.autograd.grad(diagonal.sum(), x)[0] == 0).all()


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize(
    ("pairs", "radius", "tolerance"),
    [(far_pairs, 1.0, 1e-13), (far_pairs, 10.0, 1e-13), (near_pairs, 12.0, 1e-10), (near_pairs, 18.0, 1e-7)],
)
def test_matrix(manifold, d, pairs, radius, tolerance):
    pairs = pairs(manifold, d, radius, torch.Generator().manual_seed(d))
    assert worst(manifold, pairs, diagonal(manifold, pairs)) <= tolerance


@pytest.mark.parametrize("d", DIMS)
def test_matrix_float32(manifold, d):
    pairs = near_pairs(manifold, d, 6.0, torch.Generator().manual_seed(d), dtype=torch.float32)
    assert worst(manifold, pairs, diagonal(manifold, pairs)) <= 1e-4


@pytest.mark.parametrize("d", DIMS)
@pytest.mark.parametrize("radius", [1.0, 5.0, 10.0, 15.0])
@pytest.mark.parametrize("gap", [1e-10, 1e-6, 1e-2])
def test_lorentz_matrix_is_right_to_the_rounding_of_the_coordinates(d, radius, gap):
    """An absolute error of a few roundings of sinh r, however close the pair."""
    manifold, generator = Lorentz(), torch.Generator().manual_seed(d)
    x, y = near_pairs(manifold, d, radius, generator, gap=gap)
    computed = diagonal(manifold, (x, y)).tolist()
    error = max(abs(a - float(oracle.distance(manifold, *pair))) for a, *pair in zip(computed, x, y, strict=True))
    assert error <= 4 * torch.finfo(torch.float64).eps * (1 + torch.tensor(radius).sinh().item())


@pytest.mark.parametrize("d", [2, 5])
@pytest.mark.parametrize("radius", [0.5, 5.0, 10.0])
@pytest.mark.parametrize("pairs", [near_pairs, far_pairs])
def test_gradient(manifold, d, radius, pairs):
    """Compared as Riemannian gradients, whose length is 1: every direction counts alike."""
    x, y = pairs(manifold, d, radius, torch.Generator().manual_seed(d), n=8)
    expected = torch.stack([oracle.gradient(manifold, a, b) for a, b in zip(x, y, strict=True)])
    length = manifold.norm(x, manifold.egrad2rgrad(x, expected))
    torch.testing.assert_close(length, torch.ones_like(length))
    for function in (manifold.dist, lambda x, y: manifold.cdist(x, y).diagonal()):
        x = x.detach().requires_grad_()
        (computed,) = torch.autograd.grad(function(x, y).sum(), x)
        x = x.detach()
        assert manifold.norm(x, manifold.egrad2rgrad(x, computed - expected)).max() <= 1e-8


def extremes(manifold, d, radius, dtype, generator):
    """Points anywhere up to the radius; the origin, antipodal points and those along the last axis among them."""
    u = directions(40, d, generator) * radius * torch.rand(40, 1, generator=generator, dtype=torch.float64)
    axis = torch.zeros(2, d, dtype=torch.float64)
    axis[0, -1], axis[1, -1] = radius, -radius
    edge = radius * directions(8, d, generator)
    u = torch.cat([u, edge, -edge, axis, axis / 2, torch.zeros(2, d, dtype=torch.float64)])
    return manifold.from_tangent((u / float(manifold.c) ** 0.5).to(dtype))


@pytest.mark.parametrize("d", [1, 2, 6])
@pytest.mark.parametrize(("dtype", "radius"), [(torch.float64, 29.9), (torch.float32, 11.9)])
def test_finite_everywhere(manifold, dtype, radius, d):
    generator = torch.Generator().manual_seed(d)
    points = extremes(manifold, d, radius, dtype, generator)
    assert points.isfinite().all()
    i, j = torch.cartesian_prod(torch.arange(len(points)), torch.arange(len(points))).unbind(-1)
    x, y = points[i].requires_grad_(), points[j].requires_grad_()
    v = manifold.proju(x, torch.randn(x.shape, generator=generator, dtype=torch.float64).to(dtype))
    v = (v / manifold.norm(x, v, keepdim=True)).detach().requires_grad_()
    w = torch.randn(len(x), d, generator=generator, dtype=torch.float64).to(dtype).requires_grad_()
    results = {
        "dist": (manifold.dist(x, y), (x, y)),
        "cdist": (manifold.cdist(x[: len(points)], y[:: len(points)]), (x, y)),
        "expmap": (manifold.expmap(x, v), (x, v)),
        "expmap of zero": (manifold.expmap(x, 0 * v), (x, v)),
        "logmap": (manifold.logmap(x, y), (x, y)),
        "transp": (manifold.transp(x, y, v), (x, y, v)),
        "to_tangent": (manifold.to_tangent(x), (x,)),
        "from_tangent": (manifold.from_tangent(w), (w,)),
        "from_tangent of zero": (manifold.from_tangent(0 * w), (w,)),
    }
    for target in MODELS:
        results[f"to {target.__name__}"] = (convert(x, manifold, target(manifold.c)), (x,))
    for name, (value, inputs) in results.items():
        assert value.dtype == dtype, name
        assert value.isfinite().all(), name
        for gradient in torch.autograd.grad(value.sum(), inputs):
            assert gradient.isfinite().all(), f"gradient of {name}"
