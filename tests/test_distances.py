"""Distances between vectors and the combinators, through the contract and against NumPy/SciPy oracles."""

import math

import numpy as np
import pytest
import scipy.spatial.distance as scipy_distance
import torch

from distance_contract import Case, DistanceContract, normal
from geoembed.distance import Distance, Power, ProductDistance, Scaled, Symmetrised, pairwise_blocks
from geoembed.distances import Cosine, Euclidean, Geodesic, Lp, Mahalanobis, NegativeInner
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import HalfSpace, Lorentz, PoincareBall
from geoembed.numerics import sqdist

FACTOR = torch.randn(4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
SQUARE = torch.randn(5, 5, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


class Drift(Distance):
    """|x - y| + softplus(mean(x) - mean(y)), an asymmetric distance for the combinators; not 0 at coincidence."""

    symmetric = is_metric = False

    def _forward(self, x, y):
        return torch.linalg.vector_norm(x - y, dim=-1) + torch.nn.functional.softplus((x - y).mean(-1))


def drift(x, y):
    return np.linalg.norm(x - y) + np.log1p(np.exp((x - y).mean()))


def on(manifold):
    def sample(*shape, generator):
        u = torch.randn(*shape[:-1], 5, generator=generator, dtype=torch.float64)
        return manifold.from_tangent(u)

    return sample


def poincare(c):
    def oracle(x, y):
        inner = np.arccosh(1 + 2 * c * np.sum((x - y) ** 2) / ((1 - c * np.sum(x**2)) * (1 - c * np.sum(y**2))))
        return inner / math.sqrt(c)

    return oracle


def lorentz(x, y):
    return math.acosh(max(1.0, x[0] * y[0] - x[1:] @ y[1:]))


def halfspace(x, y):
    return math.acosh(1 + np.sum((x - y) ** 2) / (2 * x[-1] * y[-1]))


CASES = [
    Case("Euclidean", Euclidean, scipy_distance.euclidean),
    Case("Lp(1)", lambda: Lp(1), scipy_distance.cityblock),
    Case("Lp(3)", lambda: Lp(3), lambda x, y: scipy_distance.minkowski(x, y, 3)),
    Case("Lp(inf)", lambda: Lp(math.inf), scipy_distance.chebyshev),
    Case("Cosine", Cosine, scipy_distance.cosine),
    Case("NegativeInner", NegativeInner, lambda x, y: -float(x @ y), coincident_zero=False),
    Case(
        "Mahalanobis(square)",
        lambda: Mahalanobis(SQUARE),
        lambda x, y: scipy_distance.mahalanobis(x, y, (SQUARE.mT @ SQUARE).numpy()),
    ),
    Case(
        "Mahalanobis(low rank)",
        lambda: Mahalanobis(FACTOR),
        lambda x, y: scipy_distance.mahalanobis(x, y, (FACTOR.mT @ FACTOR).numpy()),
    ),
    Case("Geodesic(PoincareBall)", lambda: Geodesic(PoincareBall()), poincare(1.0), sample=on(PoincareBall())),
    Case(
        "Geodesic(PoincareBall(0.4))", lambda: Geodesic(PoincareBall(0.4)), poincare(0.4), sample=on(PoincareBall(0.4))
    ),
    Case("Geodesic(Lorentz)", lambda: Geodesic(Lorentz()), lorentz, (6,), sample=on(Lorentz())),
    Case("Geodesic(HalfSpace)", lambda: Geodesic(HalfSpace()), halfspace, sample=on(HalfSpace())),
    Case("Power(Euclidean, 2)", lambda: Power(Euclidean(), 2), scipy_distance.sqeuclidean),
    Case("Power(Euclidean, 0.5)", lambda: Power(Euclidean(), 0.5), lambda x, y: scipy_distance.euclidean(x, y) ** 0.5),
    Case("Power(Lp(1), 1.5)", lambda: Power(Lp(1), 1.5), lambda x, y: scipy_distance.cityblock(x, y) ** 1.5),
    Case("Scaled(Euclidean, 3)", lambda: Scaled(Euclidean(), 3), lambda x, y: 3 * scipy_distance.euclidean(x, y)),
    Case("asymmetric", Drift, drift, coincident_zero=False),
    Case(
        "Symmetrised(asymmetric)",
        lambda: Symmetrised(Drift()),
        lambda x, y: (drift(x, y) + drift(y, x)) / 2,
        coincident_zero=False,
    ),
    Case(
        "ProductDistance",
        lambda: ProductDistance([(Euclidean(), 2), (Lp(1), 3)]),
        lambda x, y: math.hypot(scipy_distance.euclidean(x[:2], y[:2]), scipy_distance.cityblock(x[2:], y[2:])),
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestVectorDistances(DistanceContract):
    pass


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("offset", [0.0, 1e3])
def test_sqdist_keeps_close_pairs(dtype, offset):
    """Pairs 1e-9 .. 1 apart, also far from the origin: the digits are those of the difference."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(40, 8, generator=generator, dtype=dtype) + offset
    gaps = torch.logspace(-9 if dtype == torch.float64 else -4, 0, 40, dtype=dtype).unsqueeze(-1)
    y = torch.cat([x + gaps * torch.randn(40, 8, generator=generator, dtype=dtype), x[:3]])
    exact = (x.double().unsqueeze(1) - y.double()).square().sum(-1)
    error = (sqdist(x, y).double() - exact).abs() / exact.where(exact > 0, 1.0)
    assert error.max() < (5e-5 if dtype == torch.float32 else 1e-10)
    assert (sqdist(x, x).diagonal() == 0).all()


def test_sqdist_of_many_close_pairs_takes_the_plain_loop():
    x = 1e6 + 1e-3 * torch.randn(50, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    exact = (x.unsqueeze(1) - x).square().sum(-1)
    y = torch.cat([x, -x])  # the centre is far from every point, so all pairs within x cancel
    torch.testing.assert_close(sqdist(x, y)[:, :50], exact, rtol=1e-12, atol=0)


def test_sqdist_transforms():
    x = torch.randn(6, 3, 2, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    y = x[0]
    batched = torch.vmap(sqdist, in_dims=(0, None))(x, y)
    torch.testing.assert_close(batched, torch.stack([sqdist(a, y) for a in x]))
    gradient = torch.func.grad(lambda a: sqdist(a, y).sum())
    torch.testing.assert_close(torch.vmap(gradient)(x), torch.stack([gradient(a) for a in x]))
    compiled = torch.compile(sqdist, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x[1], y), sqdist(x[1], y))
    pair = (x[1].clone().requires_grad_(), x[2].clone().requires_grad_())
    assert torch.autograd.gradgradcheck(sqdist, pair)


def test_blocks_respect_their_budget():
    x, y = torch.zeros(100, 8), torch.zeros(1000, 8)
    for distance in (Euclidean(), Drift()):
        for budget in (10_000, 100_000, 1_000_000):
            for _, block in pairwise_blocks(distance, x, y, budget=budget):
                assert block.shape[0] == 1 or block.numel() * block.element_size() <= budget
    with pytest.raises(DomainError, match="positive number of bytes"):
        next(pairwise_blocks(Euclidean(), x, y, budget=0))


def test_cosine_of_zero_vectors():
    zero, x = torch.zeros(1, 3, requires_grad=True), torch.tensor([[0.0, 2.0, 0.0]])
    assert Cosine()(zero, x).item() == 1
    assert Cosine()(zero, zero).item() == 0
    Cosine()(zero, x).backward()
    assert torch.isfinite(zero.grad).all()


def test_mahalanobis_from_matrix():
    matrix = SQUARE.mT @ SQUARE
    x, y = normal(2, 4, 5, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(Mahalanobis.from_matrix(matrix)(x, y), Mahalanobis(SQUARE)(x, y))
    with pytest.raises(DomainError, match="positive semi-definite"):
        Mahalanobis.from_matrix(-matrix)
    with pytest.raises(DomainError, match="symmetric"):
        Mahalanobis.from_matrix(SQUARE)
    with pytest.raises(ShapeError, match="square"):
        Mahalanobis.from_matrix(FACTOR)
    with pytest.raises(ShapeError, match="expected 5 features"):
        Mahalanobis(SQUARE)(x[:, :3], y[:, :3])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Lp(0.5), "at least 1"),
        (lambda: Lp(math.nan), "at least 1"),
        (lambda: Power(Euclidean(), 0), "positive"),
        (lambda: Scaled(Euclidean(), -1), "positive"),
        (lambda: Scaled(Euclidean(), math.inf), "finite"),
        (lambda: ProductDistance([]), "at least one"),
        (lambda: Mahalanobis(torch.zeros(3)), "matrix"),
        (lambda: Mahalanobis(torch.full((2, 2), math.nan)), "NaN"),
    ],
)
def test_bad_parameters(build, message):
    with pytest.raises((DomainError, ShapeError), match=message):
        build()


def test_product_distance_checks_its_sizes():
    with pytest.raises(ShapeError, match=r"2 \+ 3 = 5 features"):
        ProductDistance([(Euclidean(), 2), (Lp(1), 3)])(torch.zeros(4), torch.zeros(4))


def test_repr_reads_like_the_constructor():
    assert repr(Lp(3)) == "Lp(p=3)"
    assert "scale=2" in repr(Scaled(Euclidean(), 2))
