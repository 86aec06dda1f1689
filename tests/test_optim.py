"""The optimizers against torch's on Euclidean parameters, against geoopt's, and sparse against dense."""

import copy
import doctest
import io
import itertools

import geoopt
import pytest
import torch

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product, convert
from geoembed.optim import OPTIMIZERS, RiemannianAdagrad, RiemannianAdam, RiemannianSGD, adagrad, adam, sgd

N, D = 12, 4
F64 = torch.float64


def _k(value):
    return torch.tensor(value, dtype=F64)


# name -> (manifold, vector in D coordinates -> point)
BALL, HYPERBOLOID = geoopt.PoincareBall(c=_k(1.0)), geoopt.Lorentz(k=_k(1.0))
SPHERES = geoopt.ProductManifold((geoopt.Sphere(), 2), (BALL, D - 2))
OURS = {
    "our ball": PoincareBall(0.5),
    "our lorentz": Lorentz(2.0),
    "our half-space": HalfSpace(1.5),
    "our product": Product([(PoincareBall(2.0), 1), (Lorentz(), 1), (Euclidean(), 1)]),
}
MANIFOLDS = {
    "euclidean": (Euclidean(), lambda v: v),
    "ball": (BALL, BALL.expmap0),
    "lorentz": (HYPERBOLOID, lambda v: HYPERBOLOID.expmap0(v * (torch.arange(D) > 0))),
    "sphere": (geoopt.Sphere(), geoopt.Sphere().projx),
    "product": (SPHERES, SPHERES.projx),
    **{name: (m, lambda v, m=m: m.from_tangent(v[..., : m.dim_of(D)])) for name, m in OURS.items()},
}
CURVED = [name for name in MANIFOLDS if name != "euclidean"]
SGDS = [
    {"lr": 0.1},
    {"lr": 0.1, "momentum": 0.9},
    {"lr": 0.1, "momentum": 0.9, "dampening": 0.3},
    {"lr": 0.1, "momentum": 0.9, "nesterov": True},
    {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.1, "maximize": True},
]
ADAMS = [
    {"lr": 0.05},
    {"lr": 0.05, "betas": (0.0, 0.9), "eps": 1e-4},
    {"lr": 0.05, "amsgrad": True, "betas": (0.9, 0.5)},
    {"lr": 0.05, "weight_decay": 0.1, "maximize": True},
]
ADAGRADS = [
    {"lr": 0.1},
    {"lr": 0.1, "initial_accumulator_value": 0.2, "eps": 1e-4},
    {"lr": 0.1, "weight_decay": 0.1, "maximize": True},
]
CLASSES = [RiemannianSGD, RiemannianAdam, RiemannianAdagrad]
EVERY = [(cls, o) for cls, options in zip(CLASSES, (SGDS, ADAMS, ADAGRADS), strict=True) for o in options]
DECOUPLED = {"lr": 0.05, "weight_decay": 0.1, "decoupled_weight_decay": True}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def point(name, shape=(N, D), seed=0):
    return MANIFOLDS[name][1](0.5 * torch.randn(*shape, dtype=F64, generator=generator(seed)))


def parameter(name, shape=(N, D), seed=0):
    data = point(name, shape, seed)
    if name == "euclidean":
        return torch.nn.Parameter(data)
    return geoopt.ManifoldParameter(data, manifold=MANIFOLDS[name][0])


def gradients(count, shape=(N, D), seed=1, dtype=F64):
    g = generator(seed)
    return [0.1 * torch.randn(*shape, dtype=dtype, generator=g) for _ in range(count)]


def sparse(ids, rows, n=N):
    return torch.sparse_coo_tensor(ids[None], rows, (n, *rows.shape[1:]), check_invariants=True)


def as_sparse(grad, seed=0):
    """The same gradient with every row named, in a random order, some of them in two halves."""
    ids = torch.randperm(len(grad), generator=generator(seed))
    return sparse(torch.cat([ids, ids[:3]]), torch.cat([0.5 * grad[ids[:3]], grad[ids[3:]], 0.5 * grad[ids[:3]]]))


def run(optimizer, params, grads):
    """One step for each list of gradients, one gradient (or None) for each parameter."""
    for step in grads:
        for param, grad in zip(params, step, strict=True):
            param.grad = grad
        optimizer.step()


def close(x, y, rtol=1e-12):
    assert (x - y).abs().max() <= rtol * max(1.0, y.abs().max()), (x - y).abs().max()


def tangency(x, vector, lorentz=True):
    """Largest |<x, v>| / (|x| |v|)."""
    product = x * vector
    inner = product.sum(-1) - (2 * product[:, 0] if lorentz else 0)
    return (inner.abs() / (x.norm(dim=-1) * vector.norm(dim=-1))).max()


# ---------------------------------------------------------------- against torch and geoopt


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("options", SGDS)
def test_euclidean_sgd_is_torchs(options, dtype):
    x = torch.nn.Parameter(gradients(1, dtype=dtype)[0])
    y = torch.nn.Parameter(x.detach().clone())
    grads = gradients(8, dtype=dtype)
    run(RiemannianSGD([x], **options), [x], [[g.clone()] for g in grads])
    run(torch.optim.SGD([y], **options), [y], [[g.clone()] for g in grads])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(x, y, rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex128, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("options", [*ADAMS, DECOUPLED, {**DECOUPLED, "amsgrad": True, "maximize": True}])
def test_euclidean_adam_is_torchs(options, dtype):
    options = {"eps": 1e-3, **options} if dtype == torch.float16 else options  # 1e-8 is zero in float16
    x = torch.nn.Parameter(gradients(1, dtype=dtype)[0])
    y = torch.nn.Parameter(x.detach().clone())
    grads = gradients(8, dtype=dtype)
    run(RiemannianAdam([x], **options), [x], [[g.clone()] for g in grads])
    run(torch.optim.Adam([y], foreach=False, **options), [y], [[g.clone()] for g in grads])
    eps = max(torch.finfo(dtype).eps, 1e-14)
    torch.testing.assert_close(x, y, rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize("dtype", [torch.float32, F64, torch.complex128, torch.bfloat16])
@pytest.mark.parametrize("options", [*ADAGRADS, {"lr": 0.1, "lr_decay": 0.3}])
def test_euclidean_adagrad_is_torchs(options, dtype):
    x = torch.nn.Parameter(gradients(1, dtype=dtype)[0])
    y = torch.nn.Parameter(x.detach().clone())
    grads = gradients(8, dtype=dtype)
    run(RiemannianAdagrad([x], **options), [x], [[g.clone()] for g in grads])
    run(torch.optim.Adagrad([y], foreach=False, **options), [y], [[g.clone()] for g in grads])
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(x, y, rtol=20 * eps, atol=20 * eps)


@pytest.mark.parametrize("options", [*ADAGRADS[:2], {"lr": 0.1, "lr_decay": 0.3, "maximize": True}])
def test_euclidean_sparse_adagrad_is_torchs(options):
    """Rows that come and go, some named twice, a dense gradient in between: torch counts its steps by table."""
    x, y = parameter("euclidean"), parameter("euclidean")
    ids = [torch.tensor(rows) for rows in ([7, 2, 4, 2], [], [2], [0, 7, 7, 11])]
    grads = [sparse(rows, g[: len(rows)]) for rows, g in zip(2 * ids, gradients(8), strict=True)]
    grads.insert(5, gradients(1, seed=8)[0])
    run(RiemannianAdagrad([x], **options), [x], [[g] for g in grads])
    with torch.sparse.check_sparse_tensor_invariants():  # torch warns where nobody has said whether to check
        run(torch.optim.Adagrad([y], **options), [y], [[g] for g in grads])
    close(x, y, 1e-14)


def test_euclidean_sparse_adam_is_torchs_where_every_step_touches_the_row():
    x, y = parameter("euclidean"), parameter("euclidean")
    ids = torch.tensor([7, 2, 4])
    grads = [sparse(ids, g) for g in gradients(10, (3, D))]
    run(RiemannianAdam([x], lr=0.1, eps=0.0), [x], [[g] for g in grads])
    run(torch.optim.SparseAdam([y], lr=0.1, eps=1e-30), [y], [[g] for g in grads])
    close(x, y)  # with hardly any eps, which torch adds to the root before its bias is corrected


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("weight_decay", [0.0, 0.1])
def test_sgd_without_momentum_is_geoopts(name, weight_decay):
    x, y = parameter(name), parameter(name)
    grads = gradients(10)
    run(RiemannianSGD([x], 0.1, weight_decay=weight_decay), [x], [[g.clone()] for g in grads])
    run(geoopt.optim.RiemannianSGD([y], 0.1, weight_decay=weight_decay), [y], [[g.clone()] for g in grads])
    close(x, y)


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("options", [{}, {"amsgrad": True}, {"weight_decay": 0.1}])
def test_adam_is_geoopts(name, options):
    x, y = parameter(name), parameter(name)
    grads = gradients(10)
    run(RiemannianAdam([x], lr=0.1, **options), [x], [[g.clone()] for g in grads])
    run(geoopt.optim.RiemannianAdam([y], lr=0.1, **options), [y], [[g.clone()] for g in grads])
    close(x, y)
    if not options:
        y = parameter(name)
        run(geoopt.optim.SparseRiemannianAdam([y], lr=0.1), [y], [[as_sparse(g)] for g in grads])
        close(x, y)


PRODUCTS = {  # name -> manifold and columns of each factor
    "product": [(geoopt.Sphere(), slice(0, 2)), (BALL, slice(2, 4))],
    "our product": [(PoincareBall(2.0), slice(0, 1)), (Lorentz(), slice(1, 3)), (Euclidean(), slice(3, 4))],
}


@pytest.mark.parametrize("name", CURVED)
def test_adagrad_by_hand(name):
    """Point by point, and a product factor by factor, with the length of the gradient in the metric of the manifold."""
    x, expected, grads = parameter(name), point(name), gradients(6)
    run(RiemannianAdagrad([x], lr=0.2, lr_decay=0.5, initial_accumulator_value=0.3), [x], [[g.clone()] for g in grads])
    for manifold, columns in PRODUCTS.get(name, [(x.manifold, slice(0, D))]):
        for p, *directions in zip(expected, *grads, strict=True):
            y, total = p[columns].clone(), 0.3
            for t, direction in enumerate(directions):
                g = manifold.egrad2rgrad(y, direction[columns].clone())
                total += manifold.inner(y, g).item()
                y = manifold.retr(y, -0.2 / (1 + 0.5 * t) / total**0.5 * g)
            p[columns] = y
    close(x, expected, 1e-9)


@pytest.mark.parametrize(("cls", "lr"), [(RiemannianSGD, 0.05), (RiemannianAdam, 0.1), (RiemannianAdagrad, 0.3)])
def test_paths_do_not_depend_on_the_model_of_hyperbolic_space(cls, lr):
    """The same loss from the same points, in the coordinates of three models."""
    u, target = 0.5 * torch.randn(2, N, 3, dtype=F64, generator=generator())
    ends = []
    for manifold in (PoincareBall(0.7), Lorentz(0.7), HalfSpace(0.7)):
        x = geoopt.ManifoldParameter(manifold.from_tangent(u), manifold=manifold)
        optimizer = cls([x], lr=lr)
        for _ in range(10):
            optimizer.zero_grad()
            (torch.arange(1, N + 1) * manifold.dist(x, manifold.from_tangent(target)).square()).sum().backward()
            optimizer.step()
        ends.append(convert(x.detach(), manifold, PoincareBall(0.7)))
    close(ends[1], ends[0], 1e-10)
    close(ends[2], ends[0], 1e-10)
    assert (ends[0] - PoincareBall(0.7).from_tangent(u)).norm(dim=-1).min() > 0.05


@pytest.mark.parametrize(
    ("manifold", "data"),
    [
        (geoopt.Stiefel(), torch.linalg.qr(10 * gradients(1, (3, 5, 2))[0])[0]),
        (geoopt.EuclideanStiefelExact(), torch.linalg.qr(10 * gradients(1, (3, 5, 2))[0])[0]),
        (geoopt.SymmetricPositiveDefinite(), torch.eye(3, dtype=F64).repeat(4, 1, 1)),
        (geoopt.Scaled(geoopt.PoincareBall(c=_k(1.0)), 2.0), point("ball")),
        (geoopt.UpperHalf(), torch.complex(torch.zeros(4, 2, 2, dtype=F64), torch.eye(2, dtype=F64).repeat(4, 1, 1))),
    ],
    ids=lambda value: getattr(value, "name", None),
)
@pytest.mark.parametrize("sparsely", [False, True])
def test_other_manifolds(manifold, data, sparsely):
    for cls, theirs, options in (
        (RiemannianSGD, geoopt.optim.RiemannianSGD, {"lr": 0.01}),
        (RiemannianAdam, geoopt.optim.RiemannianAdam, {"lr": 0.01}),
    ):
        if data.is_complex() and cls is RiemannianAdam:
            continue  # geoopt's component_inner of a batch of complex matrices has the wrong shape
        x, y = (geoopt.ManifoldParameter(data.clone(), manifold=manifold) for _ in range(2))
        grads = gradients(4, data.shape, dtype=data.dtype)
        grads = [g + g.mT for g in grads] if data.shape[-1] == data.shape[-2] else grads
        ids = torch.arange(len(data))
        mine = [sparse(ids, g, len(data)) if sparsely else g.clone() for g in grads]
        run(cls([x], **options), [x], [[g] for g in mine])
        run(theirs([y], **options), [y], [[g.clone()] for g in grads])
        close(x, y, 1e-11)
        assert not torch.equal(x, data)


# ---------------------------------------------------------------- rows


@pytest.mark.parametrize(
    ("name", "cls", "options"),
    [(name, *case) for name in MANIFOLDS for case in EVERY]
    + [(name, RiemannianAdam, DECOUPLED) for name in MANIFOLDS if name not in ("sphere", "product")],
)
def test_sparse_is_dense_when_every_row_is_touched(name, cls, options):
    x, y, z = (parameter(name) for _ in range(3))
    grads = gradients(8)
    a, b, c = (cls([p], **options) for p in (x, y, z))
    run(a, [x], [[g] for g in grads])
    run(b, [y], [[as_sparse(g, i)] for i, g in enumerate(grads)])
    run(c, [z], [[g if i % 4 < 2 else as_sparse(g, i)] for i, g in enumerate(grads)])  # dense, sparse, dense, ...
    close(x, y)
    close(x, z)
    if a.state[x]:
        assert a.state[x]["step"].shape == ()
        steps = 8.0 if cls is RiemannianAdagrad else [[8.0]] * N  # which counts the steps of the table
        assert b.state[y]["step"].tolist() == c.state[z]["step"].tolist() == steps
        for key in a.state[x]:
            close(a.state[x][key].expand_as(b.state[y][key]), b.state[y][key])


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_rows_step_as_if_alone(name, cls, options):
    """Each row moves as a parameter of its own that steps only when it is touched; others keep their bits."""
    x = parameter(name)
    alone = [type(x)(x.detach()[i : i + 1].clone(), **vars_of(x)) for i in range(N)]
    whole, single = cls([x], **options), [cls([p], **options) for p in alone]
    for t, grad in enumerate(gradients(6)):
        ids = torch.randperm(N - 2, generator=generator(t))[:4]  # the last two rows are never touched
        before, state = x.detach().clone(), copy.deepcopy(whole.state[x])
        run(whole, [x], [[sparse(ids, grad[ids])]])
        for i in ids.tolist():
            run(single[i], [alone[i]], [[grad[i : i + 1]]])
        rest = torch.ones(N, dtype=torch.bool).index_fill(0, ids, False)
        assert torch.equal(x[rest], before[rest])
        for key, value in state.items():
            if value.dim():
                assert torch.equal(value[rest], whole.state[x][key][rest])
    close(x, torch.cat([p.detach() for p in alone]))


def vars_of(param):
    return {"manifold": param.manifold} if hasattr(param, "manifold") else {}


@pytest.mark.parametrize("name", MANIFOLDS)
def test_adam_corrects_the_bias_row_by_row(name):
    late, fresh = parameter(name), parameter(name)
    a, b = RiemannianAdam([late], lr=0.1), RiemannianAdam([fresh], lr=0.1)
    run(a, [late], [[sparse(torch.tensor([0]), 1e-3 * g)] for g in gradients(49, (1, D))])
    grad = sparse(torch.tensor([5]), gradients(1, (1, D), seed=9)[0])
    run(a, [late], [[grad]])
    run(b, [fresh], [[grad]])
    assert torch.equal(late[5], fresh[5])
    assert a.state[late]["step"].flatten().tolist() == [49.0] + [0.0] * 4 + [1.0] + [0.0] * 6


@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_step_rows_needs_no_optimizer(cls, options):
    x = parameter("ball")
    table, state = x.detach().clone(), {}
    optimizer = cls([x], **options)
    for t, grad in enumerate(gradients(5)):
        ids = torch.randperm(N, generator=generator(t))[:5]
        run(optimizer, [x], [[sparse(ids, grad[ids])]])
        cls.step_rows(table, state, ids, grad[ids], manifold=x.manifold, **options)
    close(table, x)
    assert state.keys() == optimizer.state[x].keys()
    for ids, grad in (
        (torch.tensor([1, 2]), torch.ones(1, D, dtype=F64)),
        (torch.tensor([[1]]), torch.ones(1, 1, D, dtype=F64)),
        (None, torch.ones(N, 1, dtype=F64)),
    ):
        with pytest.raises(ShapeError, match=r"grad \(k, \*E\)"):
            cls.step_rows(table, state, ids, grad, **options)


def test_embedding_gradients():
    table = parameter("lorentz")
    optimizer = RiemannianAdam([table], lr=0.1)
    words = torch.tensor([[1, 1], [3, 4]])
    before = table.detach().clone()
    torch.nn.functional.embedding(words, table, sparse=True).square().sum().backward()
    optimizer.step()
    assert (table != before).any(-1).nonzero().flatten().tolist() == [1, 3, 4]
    assert MANIFOLDS["lorentz"][0].check_point_on_manifold(table)
    run(optimizer, [table], [[sparse(torch.zeros(0, dtype=torch.int64), torch.zeros(0, D, dtype=F64))]])


@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_shapes(cls, options):
    """A single point, points with two batch dimensions (dense and sparse), a scalar and a sparse vector."""
    rows = point("ball", (6, 3, D))
    grads = gradients(5, (6, 3, D))
    flat, deep, thin = (
        geoopt.ManifoldParameter(rows.reshape(shape).clone(), manifold=MANIFOLDS["ball"][0])
        for shape in ((18, D), (6, 3, D), (6, 3, D))
    )
    one = geoopt.ManifoldParameter(rows[0, 0].clone(), manifold=MANIFOLDS["ball"][0])
    optimizer = cls([flat, deep, thin, one], **options)
    ids = torch.arange(6)
    run(optimizer, [flat, deep, thin, one], [[g.reshape(18, D), g, sparse(ids, g, 6), g[0, 0]] for g in grads])
    close(flat.reshape(6, 3, D), deep)
    close(deep, thin)
    close(one, deep[0, 0])
    vector, scalar = (torch.nn.Parameter(rows[:, 0, 0].clone()), torch.nn.Parameter(rows[0, 0, 0].clone()))
    run(cls([vector, scalar], **options), [vector, scalar], [[sparse(ids, g[:, 0, 0], 6), g[0, 0, 0]] for g in grads])
    close(vector[0], scalar)


def test_sparse_gradients_that_are_not_rows_of_points():
    single = parameter("ball", (D,))
    single.grad = sparse(torch.tensor([1]), torch.ones(1, dtype=F64), D)
    with pytest.raises(ShapeError, match="whole points"):
        RiemannianSGD([single], 0.1).step()
    table = parameter("euclidean")
    table.grad = torch.ones(N, D, dtype=F64).to_sparse()  # two sparse dimensions
    with pytest.raises(ShapeError, match="2 sparse dimension"):
        RiemannianAdam([table]).step()


# ---------------------------------------------------------------- what a step means


@pytest.mark.parametrize("name", CURVED)
@pytest.mark.parametrize("sparsely", [False, True])
def test_momentum_begins_with_the_riemannian_gradient(name, sparsely):
    x = parameter(name)
    manifold, before, (grad,) = x.manifold, x.detach().clone(), gradients(1)
    optimizer = RiemannianSGD([x], lr=0.1, momentum=0.9, dampening=0.5)
    run(optimizer, [x], [[as_sparse(grad) if sparsely else grad]])
    rgrad = manifold.egrad2rgrad(before, grad.clone())
    after, carried = manifold.retr_transp(before, -0.1 * rgrad, rgrad)
    close(x, after)
    close(optimizer.state[x]["momentum_buffer"], carried)


@pytest.mark.parametrize("name", ["lorentz", "our lorentz", "sphere"])
@pytest.mark.parametrize(
    ("cls", "options"), [(RiemannianSGD, o) for o in SGDS[1:]] + [(RiemannianAdam, o) for o in ADAMS]
)
@pytest.mark.parametrize("sparsely", [False, True])
def test_state_stays_tangent(name, cls, options, sparsely):
    x = parameter(name)
    optimizer = cls([x], **options)
    for t, grad in enumerate(gradients(20)):
        run(optimizer, [x], [[as_sparse(grad, t) if sparsely else grad]])
        vector = optimizer.state[x][cls.tangent[0]]
        assert tangency(x.detach(), vector, lorentz="lorentz" in name) < 1e-12


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize(("cls", "options"), EVERY)
def test_maximize_and_untouched_gradients(name, cls, options):
    x, y = parameter(name), parameter(name)
    options = {**options, "weight_decay": 0.0, "maximize": False}
    a, b = cls([x], **options), cls([y], **{**options, "maximize": True})
    for t, grad in enumerate(gradients(2)):
        kept = grad.clone()
        run(a, [x], [[grad]])
        run(b, [y], [[-grad]])
        assert torch.equal(grad, kept)
        for rows in (as_sparse(grad, t), as_sparse(grad, t).coalesce()):
            values = rows._values().clone()
            run(a, [x], [[rows]])
            assert torch.equal(rows._values(), values)
            run(b, [y], [[-rows.coalesce()]])
    close(x, y)


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("cls", CLASSES)
@pytest.mark.parametrize("sparsely", [False, True])
def test_a_zero_gradient_moves_nothing(name, cls, sparsely):
    x = parameter(name)
    x.data.add_(1e-8 * gradients(1)[0])  # just off the manifold, so that any projection would show
    before = x.detach().clone()
    (grad,) = gradients(1)
    grad[1::2] = 0
    run(cls([x], lr=0.1), [x], [[as_sparse(grad) if sparsely else grad]])
    assert torch.equal(x[1::2], before[1::2])
    assert (x[::2] != before[::2]).any(-1).all()


@pytest.mark.parametrize("name", ["euclidean", "sphere", "our lorentz", "our product"])
@pytest.mark.parametrize(("cls", "options"), EVERY)
@pytest.mark.parametrize("sparsely", [False, True])
def test_nan_stays_in_its_row(name, cls, options, sparsely):
    x, y = parameter(name), parameter(name)
    a, b = cls([x], **options), cls([y], **options)
    for grad in gradients(3):
        broken = grad.clone()
        broken[4, 1] = torch.nan
        run(a, [x], [[as_sparse(broken) if sparsely else broken]])
        run(b, [y], [[as_sparse(grad) if sparsely else grad]])
    others = torch.arange(N) != 4
    assert torch.equal(x[others], y[others])
    assert x[4].isnan().any()


@pytest.mark.parametrize("name", ["ball", "lorentz", *OURS])
@pytest.mark.parametrize("sparsely", [False, True])
def test_decoupled_decay_shortens_the_geodesic_to_the_origin(name, sparsely):
    x = parameter(name)
    manifold, before = x.manifold, x.detach().clone()
    optimizer = RiemannianAdam([x], lr=0.5, weight_decay=0.2, decoupled_weight_decay=True)
    zero = torch.zeros(N, D, dtype=F64)
    run(optimizer, [x], [[as_sparse(zero) if sparsely else zero]])
    close(manifold.logmap0(x.detach()), 0.9 * manifold.logmap0(before), 1e-7 if name == "lorentz" else 1e-12)
    grads = gradients(5)
    run(optimizer, [x], [[as_sparse(g) if sparsely else g] for g in grads])
    assert manifold.check_point_on_manifold(x)
    if "lorentz" in name:
        assert tangency(x.detach(), optimizer.state[x]["exp_avg"]) < 1e-12
    # the rest of the step is the plain one from the shrunk point, with the moments of the old one
    x = parameter(name)
    run(RiemannianAdam([x], lr=0.5, weight_decay=0.2, decoupled_weight_decay=True), [x], [[grads[0].clone()]])
    g = manifold.egrad2rgrad(before, grads[0].clone())
    start = manifold.expmap0(0.9 * manifold.logmap0(before))
    g = g / (manifold.component_inner(before, g).sqrt() + 1e-8)
    close(x, manifold.retr(start, -0.5 * manifold.transp(before, start, g)), 1e-7 if name == "lorentz" else 1e-12)


def test_decoupled_decay_needs_an_origin():
    x = parameter("sphere")
    with pytest.raises(DomainError, match="expmap0 and logmap0"):
        RiemannianAdam([x], **DECOUPLED)
    RiemannianAdam([x], decoupled_weight_decay=True)
    with pytest.raises(DomainError, match="expmap0 and logmap0"):
        RiemannianAdam.step_rows(x, {}, None, x.detach(), manifold=x.manifold, **DECOUPLED)


@pytest.mark.parametrize("name", ["ball", "sphere", "our lorentz", "our product"])
@pytest.mark.parametrize(("cls", "options"), [*EVERY[:2], EVERY[3], EVERY[5], EVERY[7], *EVERY[9:11]])
def test_comes_close_to_its_target(name, cls, options):
    x, target = parameter(name), point(name, seed=5)
    optimizer, losses = cls([x], **{**options, "lr": 0.3 if cls is RiemannianAdagrad else 0.05}), []
    for _ in range(60):
        optimizer.zero_grad()
        loss = x.manifold.dist(x, target).square().sum()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.2 * losses[0]
    assert x.manifold.check_point_on_manifold(x)


# ---------------------------------------------------------------- an optimizer among torch's


@pytest.mark.parametrize("name", ["euclidean", "lorentz", "our product"])
@pytest.mark.parametrize(("cls", "options"), EVERY)
@pytest.mark.parametrize("kind", ["dense", "sparse", "mixed"])
def test_saved_state_continues_to_the_bit(name, cls, options, kind):
    def grads(start, stop):
        for t, grad in list(enumerate(gradients(12)))[start:stop]:
            ids = torch.randperm(N, generator=generator(t))[:5]
            yield [grad if kind == "dense" or (kind == "mixed" and t % 3 == 0) else sparse(ids, grad[ids])]

    options = {**options, "stabilize": 5, "burn_in": 8}
    x = parameter(name)
    optimizer = cls([x], **options)
    run(optimizer, [x], grads(0, 6))
    y = copy.deepcopy(x)
    file = io.BytesIO()
    torch.save(optimizer.state_dict(), file)
    file.seek(0)
    again = cls([y], lr=7.0)
    again.load_state_dict(torch.load(file, weights_only=True))
    run(optimizer, [x], grads(6, 12))
    run(again, [y], grads(6, 12))
    assert torch.equal(x, y)
    for key, value in optimizer.state[x].items():
        assert torch.equal(value, again.state[y][key])


@pytest.mark.parametrize("sparsely", [False, True])
def test_the_step_count_is_not_rounded_to_the_type_of_the_parameter(sparsely):
    x = torch.nn.Parameter(torch.ones(3, 2, dtype=torch.bfloat16))
    optimizer = RiemannianAdam([x])
    grad = torch.ones(3, 2, dtype=torch.bfloat16)
    run(optimizer, [x], [[sparse(torch.arange(3), grad, 3) if sparsely else grad]])
    optimizer.state[x]["step"].fill_(1001.0)  # 1000 in bfloat16
    again = RiemannianAdam([x])
    again.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert again.state[x]["step"].dtype == torch.float32
    assert (again.state[x]["step"] == 1001).all()
    assert again.state[x]["exp_avg"].dtype == torch.bfloat16


def test_goes_on_from_torchs_and_geoopts_state():
    grads = [[g] for g in gradients(6)]
    for theirs, cls, options in (
        (torch.optim.Adam, RiemannianAdam, {"lr": 0.1, "amsgrad": True}),
        (torch.optim.SGD, RiemannianSGD, {"lr": 0.1, "momentum": 0.9, "dampening": 0.5}),
        (torch.optim.Adagrad, RiemannianAdagrad, {"lr": 0.1, "lr_decay": 0.2, "initial_accumulator_value": 0.3}),
        (geoopt.optim.RiemannianAdam, RiemannianAdam, {"lr": 0.1}),
    ):
        x = parameter("euclidean")
        first = theirs([x], **options)
        run(first, [x], grads[:3])
        y = torch.nn.Parameter(x.detach().clone())
        second = cls([y], lr=1.0)
        second.load_state_dict(copy.deepcopy(first.state_dict()))
        run(first, [x], grads[3:])
        run(second, [y], grads[3:])
        close(x, y)


@pytest.mark.parametrize("cls", CLASSES)
def test_groups_closures_schedules_and_copies(cls):
    a, b, c, idle = parameter("ball"), parameter("ball"), parameter("euclidean"), parameter("ball", seed=3)
    optimizer = cls([{"params": [a]}, {"params": [b, idle], "lr": 0.2}], lr=0.1)
    optimizer.add_param_group({"params": [c], "lr": 0.3})
    assert [g["lr"] for g in optimizer.param_groups] == [0.1, 0.2, 0.3]
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=1, gamma=0.5)
    kept = idle.detach().clone()

    def closure():
        optimizer.zero_grad()
        loss = sum(p.square().sum() for p in (a, b, c))
        loss.backward()
        return loss

    first = optimizer.step(closure)
    assert optimizer.step(closure) < first
    assert torch.equal(idle, kept)
    lone = parameter("ball")
    other = cls([lone], lr=torch.tensor(0.2))
    for _ in range(2):
        other.zero_grad()
        lone.square().sum().backward()
        other.step()
    close(b, lone, 1e-6)  # a float32 learning rate
    schedule.step()
    assert [g["lr"] for g in optimizer.param_groups] == [0.05, 0.1, 0.15]
    x, clone = copy.deepcopy((c, optimizer))
    x.grad = torch.ones_like(x)
    c.grad = torch.ones_like(c)
    clone.step(), optimizer.step()
    assert torch.equal(x, c)


@pytest.mark.parametrize("cls", CLASSES)
def test_burn_in_slows_the_first_calls(cls):
    x, y = parameter("ball"), parameter("ball")
    a, b = cls([x], lr=0.1, burn_in=3, burn_in_factor=0.25), cls([y], lr=0.025)
    grads = gradients(6)
    for t, grad in enumerate(grads):
        b.param_groups[0]["lr"] = 0.025 if t < 3 else 0.1
        run(a, [x], [[grad]])
        run(b, [y], [[grad]])
        assert a.param_groups[0]["lr"] == 0.1
        close(x, y)


@pytest.mark.parametrize(
    ("cls", "options"),
    [(RiemannianSGD, SGDS[0]), (RiemannianSGD, SGDS[1]), (RiemannianAdam, ADAMS[0]), (RiemannianAdagrad, ADAGRADS[0])],
)
def test_stabilize(cls, options):
    x, free = parameter("sphere"), parameter("euclidean")
    optimizer = cls([x, free], **options, stabilize=3)
    x.data.mul_(1.5)
    values = free.detach().clone()
    for t in range(1, 7):
        run(optimizer, [x, free], [[torch.zeros(N, D, dtype=F64)] * 2])  # no step, so only projections show
        assert x.manifold.check_point_on_manifold(x) == (t >= 3)
    assert torch.equal(free, values)
    x.data.mul_(1.5)
    if optimizer.state[x] and cls.tangent:
        optimizer.state[x][cls.tangent[0]].copy_(x.detach())
    optimizer.stabilize()
    assert x.manifold.check_point_on_manifold(x)
    assert all(value.abs().max() < 1e-12 for key, value in optimizer.state[x].items() if key in cls.tangent)


BAD = {
    "lr": [-1.0, float("nan"), float("inf"), "0.1", None],
    "weight_decay": [-1.0, float("nan")],
    "stabilize": [0, -1, 1.5, True],
    "maximize": [1, "no"],
    "burn_in": [-1, 2.0, None],
    "burn_in_factor": [-0.1, float("nan")],
}
BAD_SGD = {**BAD, "momentum": [-0.1, float("nan")], "dampening": [float("nan"), "x"], "nesterov": [True, None]}
BAD_ADAM = {
    **BAD,
    "betas": [(0.9, 1.0), (-0.1, 0.9), 0.9, (0.9,), (0.9, float("nan"))],
    "eps": [-1e-8, float("nan")],
    "amsgrad": [1],
    "decoupled_weight_decay": ["yes"],
}
BAD_ADAGRAD = {
    **BAD,
    "lr_decay": [-0.1, float("nan")],
    "initial_accumulator_value": [-1.0, float("inf")],
    "eps": [-1e-8, float("nan")],
}
CASES = [
    *((RiemannianSGD, name, value) for name, values in BAD_SGD.items() for value in values),
    *((RiemannianAdam, name, value) for name, values in BAD_ADAM.items() for value in values),
    *((RiemannianAdagrad, name, value) for name, values in BAD_ADAGRAD.items() for value in values),
]


@pytest.mark.parametrize(("cls", "name", "value"), CASES)
def test_values_out_of_range(cls, name, value):
    x = parameter("euclidean")
    with pytest.raises(DomainError, match=rf"^{name} must be"):
        cls([x], **{"lr": 0.1, name: value})
    optimizer = cls([x], lr=0.1)
    with pytest.raises(DomainError, match=rf"^{name} must be"):
        optimizer.add_param_group({"params": [parameter("ball")], name: value})


def test_unknown_arguments_are_refused():
    for cls, name in itertools.product(CLASSES, ("foreach", "fused", "capturable")):
        with pytest.raises(TypeError):
            cls([parameter("ball")], lr=0.1, **{name: True})


def test_names_and_examples():
    assert {"adagrad": RiemannianAdagrad, "adam": RiemannianAdam, "sgd": RiemannianSGD} == OPTIMIZERS
    for module in (adagrad, adam, sgd):
        result = doctest.testmod(module)
        assert result.attempted > 0
        assert result.failed == 0
