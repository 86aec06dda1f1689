"""One contract for all manifolds: geometry, derivatives, PyTorch transformations, optimizers, errors."""

import copy
import itertools

import geoopt
import pytest
import torch
from torch.func import grad, jvp, vmap

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import MANIFOLDS, Euclidean, HalfSpace, Lorentz, PoincareBall, Product, convert

SPACES = {
    "euclidean": (Euclidean, 3),
    "poincare": (PoincareBall, 3),
    "poincare(0.3)": (lambda: PoincareBall(0.3), 2),
    "lorentz": (Lorentz, 3),
    "lorentz(0.3)": (lambda: Lorentz(0.3), 2),
    "halfspace": (HalfSpace, 3),
    "halfspace(0.3)": (lambda: HalfSpace(0.3), 2),
    "product": (lambda: Product([(PoincareBall(0.7), 2), (Euclidean(), 1), (Lorentz(2.0), 2), (HalfSpace(), 2)]), 7),
}
MODELS = [PoincareBall, HalfSpace, Lorentz]


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(1)


def near(computed, expected, rtol=1e-11, atol=1e-12):
    torch.testing.assert_close(computed, expected, rtol=rtol, atol=atol)


@pytest.mark.parametrize("space", SPACES)
class TestManifold:
    @pytest.fixture
    def manifold(self, space):
        return SPACES[space][0]()

    @pytest.fixture
    def d(self, space):
        return SPACES[space][1]

    @pytest.fixture
    def points(self, manifold, d, generator):
        return lambda *n, std=1.0: manifold.random(
            *n, manifold.point_dim(d), std=std, generator=generator, dtype=torch.float64
        )

    @pytest.fixture
    def tangents(self, manifold, d, generator):
        """Tangent vectors at x, normal in orthonormal coordinates."""

        def draw(x, std=1.0):
            u = std * torch.randn(*x.shape[:-1], d, generator=generator, dtype=torch.float64)
            origin = manifold.origin(*x.shape, dtype=x.dtype)
            return manifold.transp(origin, x, manifold.logmap(origin, manifold.from_tangent(u)))

        return draw

    # ------------------------------------------------------------------------------ geometry

    def test_logmap_inverts_expmap(self, manifold, points, tangents):
        x, y = points(50), points(50)
        v = tangents(x)
        near(manifold.logmap(x, manifold.expmap(x, v)), v, rtol=1e-9, atol=1e-11)
        near(manifold.expmap(x, manifold.logmap(x, y)), y, rtol=1e-9, atol=1e-11)
        near(manifold.retr(x, v), manifold.expmap(x, v))

    def test_geodesics_have_unit_speed(self, manifold, points, tangents):
        x = points(50)
        v = tangents(x)
        near(manifold.dist(x, manifold.expmap(x, v)), manifold.norm(x, v), rtol=1e-10)
        near(manifold.norm(x, v).square(), manifold.inner(x, v))
        half = manifold.expmap(x, v / 2)
        near(manifold.dist(half, manifold.expmap(x, v)), manifold.norm(x, v) / 2, rtol=1e-10)

    def test_metric(self, manifold, points):
        x, y, z = points(3, 100, std=2.0)
        near(manifold.dist(x, y), manifold.dist(y, x))
        near(manifold.dist2(x, y), manifold.dist(x, y).square())
        assert (manifold.dist(x, z) <= (manifold.dist(x, y) + manifold.dist(y, z)) * (1 + 1e-12)).all()
        assert (manifold.dist(x, y) > 0).all()
        assert (manifold.dist(x, x.clone()) == 0).all()
        assert manifold.dist(x, y, keepdim=True).shape == (100, 1)
        assert manifold.dist2(x, y, keepdim=True).shape == (100, 1)

    def test_inner_product(self, manifold, points, tangents):
        x = points(20)
        u, v = tangents(x), tangents(x)
        polarised = (manifold.norm(x, u + v).square() - manifold.norm(x, u - v).square()) / 4
        near(manifold.inner(x, u, v), polarised, rtol=1e-9, atol=1e-10)
        assert manifold.inner(x, u, v, keepdim=True).shape == manifold.norm(x, u, keepdim=True).shape == (20, 1)

    def test_parallel_transport(self, manifold, points, tangents):
        x, y = points(50), points(50)
        u, v = tangents(x), tangents(x)
        moved = manifold.transp(x, y, u)
        near(manifold.inner(y, moved, manifold.transp(x, y, v)), manifold.inner(x, u, v), rtol=1e-9, atol=1e-10)
        near(manifold.transp(x, y, manifold.logmap(x, y)), -manifold.logmap(y, x), rtol=1e-9, atol=1e-10)
        near(manifold.transp(y, x, moved), u, rtol=1e-9, atol=1e-10)
        near(manifold.transp(x, x, u), u)
        near(manifold.proju(y, moved), moved, rtol=1e-10, atol=1e-10)

    def test_orthonormal_coordinates_at_the_origin(self, manifold, d, generator):
        u = torch.randn(50, d, generator=generator, dtype=torch.float64)
        x = manifold.from_tangent(u)
        near(manifold.to_tangent(x), u)
        near(manifold.dist(manifold.origin(*x.shape, dtype=x.dtype), x), u.norm(dim=-1))
        near(manifold.expmap0(manifold.logmap0(x)), x)
        near(manifold.projx(x), x)

    def test_addition(self, manifold, points):
        x, y = points(50), points(50)
        origin = manifold.origin(*x.shape, dtype=x.dtype)
        moved = manifold.transp(origin, x, manifold.logmap(origin, y))
        near(manifold.add(x, y), manifold.expmap(x, moved), rtol=1e-10)
        near(manifold.add(origin, y), y)
        near(manifold.add(x, origin), x)
        z = points(50)
        near(manifold.dist(manifold.add(x, y), manifold.add(x, z)), manifold.dist(y, z), rtol=1e-10)

    def test_matrix_of_distances(self, manifold, points):
        x, y = points(2, 7), points(2, 5)
        near(manifold.cdist(x, y), manifold.dist(x.unsqueeze(-2), y.unsqueeze(-3)), rtol=1e-10)
        assert manifold.cdist(x[:1], y).shape == (2, 7, 5)
        assert manifold.cdist(x[0, :0], y[0]).shape == (0, 5)
        assert (manifold.cdist(x, x.clone()).diagonal(dim1=-2, dim2=-1) == 0).all()

    # ------------------------------------------------------------------------------ derivatives

    def test_gradcheck(self, manifold, points, tangents):
        x, y = points(4, std=0.7).requires_grad_(), points(4, std=0.7).requires_grad_()
        v = tangents(x.detach(), std=0.7).requires_grad_()
        for function, other in [
            (manifold.dist, y),
            (manifold.cdist, y),
            (manifold.logmap, y),
            (manifold.add, y),
            (manifold.expmap, v),
        ]:
            assert torch.autograd.gradcheck(function, (x, other))

    def test_gradient_at_coincidence_is_zero(self, manifold, points):
        for x in (points(6), manifold.origin(*points(6).shape, dtype=torch.float64)):
            x, y = x.clone().requires_grad_(), x.clone().requires_grad_()
            for value in (manifold.dist(x, y), manifold.dist2(x, y), manifold.cdist(x, y).diagonal()):
                for gradient in torch.autograd.grad(value.sum(), (x, y)):
                    assert (gradient == 0).all()

    def test_jacobian_of_logmap_at_coincidence(self, manifold, points, tangents):
        for x in (points(1)[0], manifold.origin(*points(1)[0].shape, dtype=torch.float64)):
            jacobian = torch.autograd.functional.jacobian(lambda y, x=x: manifold.logmap(x, y), x)
            v = tangents(x.expand(10, -1))
            near(v @ jacobian.mT, v, rtol=1e-10, atol=1e-10)

    def test_riemannian_gradient(self, manifold, points, tangents):
        """<rgrad f, v>_x = df(v), and the input is left alone."""
        x, y = points(20).requires_grad_(), points(20)
        (egrad,) = torch.autograd.grad(manifold.dist(x, y).sum(), x)
        x, kept = x.detach(), egrad.clone()
        rgrad = manifold.egrad2rgrad(x, egrad)
        assert torch.equal(egrad, kept)
        v = tangents(x)
        near(manifold.inner(x, rgrad, v), (egrad * v).sum(-1), rtol=1e-9, atol=1e-10)
        near(rgrad, -manifold.logmap(x, y) / manifold.dist(x, y).unsqueeze(-1), rtol=1e-9, atol=1e-10)

    def test_component_inner(self, manifold, points, tangents):
        x = points(5)
        u = tangents(x)
        assert torch.broadcast_shapes(manifold.component_inner(x, u).shape, x.shape) == x.shape

    # ------------------------------------------------------------------------------ PyTorch

    def test_float32_is_kept(self, manifold, d, points, tangents):
        x, y = points(5), points(5)
        v = tangents(x)
        x, y, v = x.float(), y.float(), v.float()
        values = [
            manifold.dist(x, y),
            manifold.cdist(x, y),
            manifold.expmap(x, v),
            manifold.logmap(x, y),
            manifold.transp(x, y, v),
            manifold.add(x, y),
            manifold.inner(x, v),
            manifold.norm(x, v),
            manifold.egrad2rgrad(x, v),
            manifold.projx(x),
            manifold.proju(x, v),
            manifold.to_tangent(x),
            manifold.from_tangent(manifold.to_tangent(x)),
            manifold.barycentre(x),
            manifold.origin(*x.shape),
            manifold.random(*x.shape),
        ]
        assert {value.dtype for value in values} == {torch.float32}
        near(values[0].double(), manifold.dist(x.double(), y.double()), rtol=1e-5, atol=1e-5)

    def test_vmap(self, manifold, points):
        x, y = points(6), points(6)
        near(vmap(manifold.dist)(x, y), manifold.dist(x, y))
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        expected = torch.autograd.grad(manifold.dist(a, b).sum(), (a, b))
        for computed, known in zip(vmap(grad(manifold.dist, argnums=(0, 1)))(x, y), expected, strict=True):
            near(computed, known, rtol=1e-9, atol=1e-10)

    def test_vmap_of_the_matrix(self, manifold, points):
        x, y = points(3, 4), points(3, 5)
        near(vmap(manifold.cdist)(x, y), manifold.cdist(x, y))
        near(vmap(manifold.cdist, (0, None))(x, y[0]), manifold.cdist(x, y[0]))
        a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
        expected = torch.autograd.grad(manifold.cdist(a, b).sum(), (a, b))
        computed = vmap(grad(lambda x, y: manifold.cdist(x, y).sum(), argnums=(0, 1)))(x, y)
        for value, known in zip(computed, expected, strict=True):
            near(value, known, rtol=1e-9, atol=1e-10)

    @pytest.mark.parametrize("method", ["dist", "cdist"])
    def test_compile(self, manifold, points, method):
        function = getattr(manifold, method)
        compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
        x, y = points(4).requires_grad_(), points(4).requires_grad_()
        near(compiled(x, y), function(x, y))
        expected = torch.autograd.grad(function(x, y).sum(), (x, y))
        for computed, known in zip(torch.autograd.grad(compiled(x, y).sum(), (x, y)), expected, strict=True):
            near(computed, known, rtol=1e-9, atol=1e-10)

    def test_copy_and_state(self, manifold, space, points):
        x, y = points(5), points(5)
        d = manifold.dist(x, y)
        assert torch.equal(copy.deepcopy(manifold).dist(x, y), d)
        other = SPACES[space][0]()
        for module in other.modules():
            if hasattr(module, "c_buffer"):
                module.c_buffer.fill_(5.0)
        other.load_state_dict(manifold.state_dict())
        assert torch.equal(other.dist(x, y), d)

    @pytest.mark.parametrize("move", [lambda m: m.float(), lambda m: m.to(torch.float16), lambda m: m.half().double()])
    def test_curvature_stays_in_float64(self, manifold, points, move):
        x, y = points(5), points(5)
        d = manifold.dist(x, y)
        assert torch.equal(move(manifold).dist(x, y), d)
        assert all(tensor.dtype == torch.float64 for tensor in manifold.state_dict().values())

    # ------------------------------------------------------------------------------ sampling and optimizers

    def test_random(self, manifold, d):
        shape = (2000, manifold.point_dim(d))
        first, second = (
            manifold.random(*shape, std=0.5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)
            for _ in range(2)
        )
        assert torch.equal(first, second)
        manifold.check(first)
        near(manifold.to_tangent(first).std(), torch.tensor(0.5, dtype=torch.float64), rtol=0.05)

    def test_origin(self, manifold, d):
        origin = manifold.origin(2, 3, manifold.point_dim(d), dtype=torch.float64)
        assert origin.shape == (2, 3, manifold.point_dim(d))
        assert (manifold.to_tangent(origin) == 0).all()
        manifold.check(origin)
        assert manifold.dim_of(manifold.point_dim(d)) == d

    @pytest.mark.parametrize(
        ("optimizer", "options"),
        [(geoopt.optim.RiemannianSGD, {"lr": 0.2, "momentum": 0.3}), (geoopt.optim.RiemannianAdam, {"lr": 0.3})],
    )
    def test_geoopt_optimizers_converge(self, manifold, points, optimizer, options):
        target = points(4)
        x = geoopt.ManifoldParameter(points(4, std=0.3), manifold=manifold)
        steps = optimizer([x], stabilize=10, **options)
        schedule = torch.optim.lr_scheduler.ExponentialLR(steps, 0.98)
        for _ in range(250):
            steps.zero_grad()
            manifold.dist2(x, target).sum().backward()
            steps.step()
            schedule.step()
        manifold.check(x.detach())
        assert manifold.dist(x.detach(), target).max() < 1e-2

    def test_geoopt_accepts_the_points(self, manifold, points, tangents):
        x = points(5)
        manifold.assert_check_point_on_manifold(x)
        manifold.assert_check_vector_on_tangent(x, tangents(x))

    # ------------------------------------------------------------------------------ barycentre

    @pytest.mark.parametrize("std", [1.0, 6.0])
    def test_barycentre_has_zero_gradient(self, manifold, points, generator, std):
        x = points(3, 7, std=std)
        weights = torch.rand(3, 7, generator=generator, dtype=torch.float64)
        y = manifold.barycentre(x, weights)
        manifold.check(y)
        logs = manifold.logmap(y.unsqueeze(-2).expand_as(x), x)
        mean = (weights.unsqueeze(-1) * logs).sum(-2) / weights.sum(-1, keepdim=True)
        assert manifold.norm(y, mean).max() < 1e-10 * (1 + std)

    def test_barycentre_is_equivariant(self, manifold, points, generator):
        x, z = points(3, 6), points(3, std=2.0)
        weights = torch.rand(3, 6, generator=generator, dtype=torch.float64)
        moved = manifold.barycentre(manifold.add(z.unsqueeze(-2).expand_as(x), x), weights)
        assert manifold.dist(moved, manifold.add(z, manifold.barycentre(x, weights))).max() < 1e-10
        order = torch.randperm(6, generator=generator)
        assert manifold.dist(manifold.barycentre(x[:, order]), manifold.barycentre(x)).max() < 1e-10

    def test_barycentre_of_special_points(self, manifold, points):
        x = points(4)
        near(manifold.barycentre(x.unsqueeze(-2)), x, rtol=1e-10)
        near(manifold.barycentre(x.unsqueeze(-2).expand(-1, 5, -1)), x, rtol=1e-10)
        a, b = x[:2].clone(), points(2)
        middle = manifold.expmap(a, manifold.logmap(a, b) / 2)
        assert manifold.dist(manifold.barycentre(torch.stack([a, b], -2)), middle).max() < 1e-12
        one = torch.tensor([0.0, 1.0, 0.0, 0.0], dtype=torch.float64)
        assert manifold.dist(manifold.barycentre(x, one), x[1]) < 1e-12

    def test_repr(self, manifold):
        names = {name: globals()[name] for name in ("Euclidean", "PoincareBall", "Lorentz", "HalfSpace", "Product")}
        assert repr(eval(repr(manifold), names)) == repr(manifold)

    def test_check_rejects_nan(self, manifold, points):
        x = points(2, 5)
        manifold.check(x)
        x[1, 2, 0] = x[1, 3, 0] = float("nan")
        with pytest.raises(DomainError, match=r"^2 (of 10 )?rows .* row 7"):
            manifold.check(x)


# ------------------------------------------------------------------------------ the hyperbolic models


@pytest.fixture(params=[(model, c) for model in MODELS for c in (1.0, 0.3)], ids=lambda p: f"{p[0].__name__}({p[1]})")
def model(request):
    return request.param[0](request.param[1])


@pytest.mark.parametrize("source", MODELS)
@pytest.mark.parametrize("target", MODELS)
@pytest.mark.parametrize("c", [1.0, 0.3])
def test_conversions(source, target, c, generator):
    a, b = source(c), target(c)
    u = 3 * torch.randn(2, 60, 4, generator=generator, dtype=torch.float64)
    x, y = a.from_tangent(u)
    p, q = convert(x, a, b), convert(y, a, b)
    b.check(p)
    near(b.dist(p, q), a.dist(x, y), rtol=1e-10)
    near(p, b.from_tangent(u[0]), rtol=1e-9, atol=1e-11)
    back = convert(p, b, a)
    scale = torch.maximum(x.norm(dim=-1), torch.ones(60, dtype=x.dtype))
    radius = u.norm(dim=-1)[0]
    moderate = radius < 8  # beyond, the ball cannot hold more digits
    assert ((back - x).norm(dim=-1) <= 1e-12 * scale)[moderate].all()
    near(convert(b.origin(1, b.point_dim(4), dtype=x.dtype), b, a), a.origin(1, a.point_dim(4), dtype=x.dtype))
    v = u[0, :5]
    step = jvp(lambda u: b.to_tangent(convert(a.from_tangent(u), a, b)), (torch.zeros_like(v),), (v,))[1]
    near(step, v)  # orthonormal coordinates at the origin go to themselves


def test_transport_is_the_textbook_one(model, generator):
    """v + <y, v> / (1/c - <x, y>) (x + y) on the hyperboloid, carried over by the derivative of the conversion."""
    lorentz, c = Lorentz(model.c), model.c

    def to(z):
        return convert(z, model, lorentz)

    def inner(a, b):
        return (a * b).sum(-1, keepdim=True) - 2 * a[..., :1] * b[..., :1]

    x, y = model.random(2, 30, model.point_dim(5), generator=generator, dtype=torch.float64)
    v = model.proju(x, torch.randn(x.shape, generator=generator, dtype=torch.float64))
    (X, V), (Y, moved) = jvp(to, (x,), (v,)), jvp(to, (y,), (model.transp(x, y, v),))
    if isinstance(model, Lorentz):
        V, moved = v, model.transp(x, y, v)
    near(moved, V + inner(Y, V) / (1 / c - inner(X, Y)) * (X + Y), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("c", [1.0, 0.3])
def test_mobius_addition_is_the_textbook_one(c, generator):
    ball = PoincareBall(c)
    x, y = ball.random(2, 50, 3, generator=generator, dtype=torch.float64)
    xy, x2, y2 = (x * y).sum(-1, keepdim=True), (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
    expected = ((1 + 2 * c * xy + c * y2) * x + (1 - c * x2) * y) / (1 + 2 * c * xy + c**2 * x2 * y2)
    near(ball.mobius_add(x, y), expected, rtol=1e-10)
    near(ball.add(x, y), expected, rtol=1e-10)
    near(ball.mobius_add(-x, x), torch.zeros_like(x))
    near(ball.mobius_scalar_mul(2.0, x), ball.mobius_add(x, x), rtol=1e-10)
    near(ball.mobius_matvec(3 * torch.eye(3, dtype=x.dtype), x), ball.mobius_scalar_mul(3, x), rtol=1e-10)
    assert ball.mobius_matvec(torch.ones(2, 3, dtype=x.dtype), x).shape == (50, 2)


@pytest.mark.parametrize("c", [1.0, 0.3])
def test_geoopt_agrees(c, generator):
    """At moderate radius; geoopt keeps its curvature in float32 unless told otherwise."""
    k = torch.tensor(1 / c, dtype=torch.float64)
    theirs = {PoincareBall: geoopt.PoincareBall(torch.tensor(c, dtype=torch.float64)), Lorentz: geoopt.Lorentz(k)}
    for kind, other in theirs.items():
        ours = kind(c)
        x, y = ours.random(2, 50, ours.point_dim(3), generator=generator, dtype=torch.float64)
        v = ours.logmap(x, y)
        near(ours.dist(x, y), other.dist(x, y), rtol=1e-7)
        near(v, other.logmap(x, y), rtol=1e-6, atol=1e-7)
        near(ours.expmap(x, v / 2), other.expmap(x, v / 2), rtol=1e-7, atol=1e-8)
        near(ours.inner(x, v, keepdim=True), other.inner(x, v, keepdim=True), rtol=1e-7)
        near(ours.egrad2rgrad(x, v), other.egrad2rgrad(x, v.clone()), rtol=1e-7, atol=1e-8)
    ball, other = PoincareBall(c), theirs[PoincareBall]
    x, y, v = ball.random(3, 50, 3, generator=generator, dtype=torch.float64)
    near(ball.transp(x, y, v), other.transp(x, y, v), rtol=1e-7, atol=1e-8)
    near(ball.mobius_add(x, y), other.mobius_add(x, y), rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize("method", ["dist", "cdist", "expmap", "logmap", "to_tangent"])
def test_gradient_of_the_curvature(kind, method, generator):
    manifold = kind(0.6, learnable=True)
    assert [name for name, _ in manifold.named_parameters()] == ["log_c"]
    x, y = (kind(0.6).random(5, manifold.point_dim(3), generator=generator, dtype=torch.float64) for _ in range(2))
    other = kind(0.6).logmap(x, y) if method == "expmap" else y
    inputs = (x,) if method == "to_tangent" else (x, other)
    weight = torch.randn(getattr(manifold, method)(*inputs).shape, generator=generator, dtype=torch.float64)

    def value():
        # exp and log of the half-space do not depend on c, in coordinates
        return (weight * getattr(manifold, method)(*inputs)).sum() + 0 * manifold.log_c

    (computed,) = torch.autograd.grad(value(), manifold.log_c)
    h = 1e-5
    with torch.no_grad():
        manifold.log_c += h
        up = value()
        manifold.log_c -= 2 * h
        down = value()
    near(computed, (up - down) / (2 * h), rtol=1e-7, atol=1e-8)


def test_learnable_curvature(model):
    c = float(model.c)
    learnable = type(model)(c, learnable=True)
    near(learnable.c.detach(), model.c)
    assert learnable.c.requires_grad
    assert repr(learnable) == f"{model.name}({c:g}, learnable=True)"
    learnable.float()
    assert learnable.log_c.dtype == torch.float64
    assert copy.deepcopy(learnable).log_c.requires_grad
    other = type(model)(2.0, learnable=True)
    other.load_state_dict(learnable.state_dict())
    assert torch.equal(other.c, learnable.c)


@pytest.mark.parametrize("kind", MODELS)
@pytest.mark.parametrize(
    "c", [0.0, -1.0, float("nan"), float("inf"), torch.ones(2), torch.ones(1)], ids=lambda c: str(c).replace(" ", "")
)
def test_bad_curvature(kind, c):
    with pytest.raises(DomainError, match=r"c must be one positive finite number"):
        kind(c)


@pytest.mark.parametrize(
    ("manifold", "bad"),
    [(PoincareBall(), [1.0, 0.0, 0.0]), (HalfSpace(), [0.0, 0.0, -1.0]), (Lorentz(), [1.0, 1.0, 0.0])],
)
def test_check_names_the_row_and_the_count(manifold, bad):
    x = manifold.origin(2, 4, 3)
    x[0, 3], x[1, 1] = torch.tensor(bad), torch.tensor(bad)
    with pytest.raises(DomainError, match=r"2 of 8 rows are not points of .*the first is row 3.*projx"):
        manifold.check(x)
    assert not manifold.check_point_on_manifold(x)
    if not isinstance(manifold, HalfSpace):
        manifold.check(manifold.projx(x))


def test_lorentz_checks_tangent_vectors():
    manifold = Lorentz()
    x = manifold.random(4, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with pytest.raises(ValueError, match="tangent"):
        manifold.assert_check_vector_on_tangent(x, torch.ones_like(x))


def test_points_with_negative_time_are_rejected():
    with pytest.raises(DomainError):
        Lorentz().check(torch.tensor([-1.0, 0.0, 0.0]))


def test_conversion_errors():
    x = torch.zeros(3)
    with pytest.raises(DomainError, match="curvature"):
        convert(x, PoincareBall(1.0), Lorentz(2.0))
    with pytest.raises(DomainError, match="no isometry"):
        convert(x, PoincareBall(), Euclidean())
    assert convert(x, Euclidean(), Euclidean()) is x


def test_barycentre_errors():
    ball, x = PoincareBall(), torch.zeros(2, 3, 4)
    with pytest.raises(ShapeError, match="barycentre"):
        ball.barycentre(x[:, :0])
    with pytest.raises(ShapeError, match="barycentre"):
        ball.barycentre(x, torch.ones(3))
    with pytest.raises(DomainError, match="weights"):
        ball.barycentre(x, torch.zeros(2, 3))
    with pytest.raises(DomainError, match="weights"):
        ball.barycentre(x, -torch.ones(2, 3))


@pytest.mark.parametrize("radius", [12.0, 25.0])
def test_barycentre_of_far_points(model, radius):
    """Points at equal angles on a circle about the origin: the mean is the origin."""
    angle = torch.arange(5, dtype=torch.float64) * 2 * torch.pi / 5
    u = radius * torch.stack([angle.cos(), angle.sin()], -1) / float(model.c) ** 0.5
    mean = model.barycentre(model.from_tangent(u))
    rounding = torch.finfo(torch.float64).eps * torch.tensor(radius).exp()  # of the points themselves
    assert model.to_tangent(mean).norm() < rounding


def test_product_shapes():
    product = Product([(PoincareBall(), 2), (Lorentz(), 3)])
    assert (product.point_dim(5), product.dim_of(6)) == (6, 5)
    x = product.origin(4, 6)
    assert [part.shape[-1] for part in product.split(x)] == [2, 4]
    for wrong in (
        lambda: product.point_dim(4),
        lambda: product.dim_of(5),
        lambda: product.dist(x[:, :5], x[:, :5]),
        lambda: product.origin(4, 5),
        lambda: product.random(4, 7),
        lambda: Product([]),
    ):
        with pytest.raises(ShapeError):
            wrong()


def test_product_distance_is_pythagorean(generator):
    factors = [(PoincareBall(0.5), 2), (Lorentz(), 3), (Euclidean(), 2)]
    product = Product(factors)
    x, y = product.random(2, 9, 8, generator=generator, dtype=torch.float64)
    parts = [m.dist(a, b) for (m, _), a, b in zip(factors, product.split(x), product.split(y), strict=True)]
    near(product.dist(x, y), torch.stack(parts).square().sum(0).sqrt())


def test_projection_reaches_the_manifold():
    x = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.1, 0.2]])
    for manifold, c in itertools.product((PoincareBall, HalfSpace), (1.0, 0.3)):
        manifold(c).check(manifold(c).projx(x * 10))
    near(PoincareBall().projx(x[2]), x[2])
    Lorentz().check(Lorentz().projx(torch.cat([-torch.ones(3, 1), x], -1)))


def test_registry():
    assert {name: build().name for name, build in MANIFOLDS.items()} == {
        "euclidean": "Euclidean",
        "halfspace": "HalfSpace",
        "lorentz": "Lorentz",
        "poincare": "PoincareBall",
    }


def test_inductor():
    ball = PoincareBall()
    compiled = torch.compile(ball.dist, fullgraph=True)
    x, y = ball.random(2, 50, 3, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    near(compiled(x, y), ball.dist(x, y))
    near(compiled(x, x), torch.zeros(50, dtype=torch.float64))
