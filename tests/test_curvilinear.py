"""The curvilinear distance: contract, nearest points against a fine grid and SciPy, lengths against quadrature."""

import itertools

import numpy as np
import pytest
import torch
from scipy.integrate import quad

from distance_contract import Case, DistanceContract
from geoembed.distances import Mahalanobis, polynomial_curves
from geoembed.distances.curvilinear import Curvilinear
from geoembed.distances.polynomial_curves import arc_length, curve_features, nearest_parameter
from geoembed.errors import DomainError, ShapeError


def normal(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def oracle(curves: np.ndarray, x: np.ndarray, y: np.ndarray) -> float:
    """NumPy's roots of f' and SciPy's adaptive quadrature."""
    total = 0.0
    for a in curves:  # (d, c)
        theta = [np.polynomial.Polynomial([0, *row]) for row in a]
        speed = sum((p.deriv() ** 2 for p in theta), np.polynomial.Polynomial([0]))

        def length(t, speed=speed):
            return quad(lambda s: np.sqrt(max(speed(s), 0)), 0, t, epsabs=1e-13, epsrel=1e-13)[0]

        def nearest(point, theta=theta):
            f = sum(((p - v) ** 2 for p, v in zip(theta, point, strict=True)), np.polynomial.Polynomial([0]))
            roots = f.deriv().roots()
            real = np.sort(roots[abs(roots.imag) < 1e-7].real)
            return real[np.argmin(f(real))]

        total += (length(1) * (length(nearest(x)) - length(nearest(y)))) ** 2
    return np.sqrt(total)


def case(m: int, d: int, c: int) -> Case:
    curves = normal(m, d, c, seed=m + 10 * d + 100 * c) / torch.arange(1, c + 1)
    return Case(
        f"Curvilinear({m}, {d}, {c})",
        lambda: Curvilinear(curves),
        lambda x, y: oracle(curves.numpy(), x, y),
        item=(d,),
    )


@pytest.mark.parametrize("case", [case(5, 5, 1), case(4, 4, 2), case(3, 5, 3), case(2, 3, 4)], ids=str)
class TestCurvilinear(DistanceContract):
    pass


# Nearest points.


def distances_to(curves: torch.Tensor, t: torch.Tensor, points: torch.Tensor) -> torch.Tensor:
    """|theta_i(t_ji) - x_j|. curves: (m, d, c), t: (n, m), points: (n, d) -> (n, m)."""
    k = torch.arange(1, curves.shape[-1] + 1)
    on_curve = torch.einsum("mdc,nmc->nmd", curves, t.unsqueeze(-1) ** k)
    return (on_curve - points.unsqueeze(1)).norm(dim=-1)


@pytest.mark.parametrize(("m", "d", "c"), [(3, 2, 2), (3, 2, 3), (5, 4, 5), (2, 3, 10), (2, 20, 7)])
@pytest.mark.parametrize("higher", [1.0, 1e-2, 1e-8, 1e-40])
def test_nearest_point_beats_a_grid(m, d, c, higher):
    curves, points = normal(m, d, c), 2 * normal(30, d, seed=1)
    curves[..., 1:] *= higher
    t = nearest_parameter(curves, points)
    reach = 2 * float(t.abs().max()) + 2
    grid = torch.linspace(-reach, reach, 100_001, dtype=torch.float64)
    on_grid = [torch.cdist(points, theta).amin(1) for theta in Curvilinear(curves).curve(grid).detach()]
    assert (distances_to(curves, t, points) <= torch.stack(on_grid, 1) + 1e-9).all()


@pytest.mark.parametrize("c", [2, 3, 6])
def test_lower_degree_with_zeros_is_the_lower_degree(c):
    curves, points = normal(4, 3, c), normal(20, 3, seed=1)
    padded = torch.cat([curves, torch.zeros(4, 3, 2, dtype=torch.float64)], -1)
    torch.testing.assert_close(nearest_parameter(padded, points), nearest_parameter(curves, points))
    torch.testing.assert_close(Curvilinear(padded).embed(points), Curvilinear(curves).embed(points))


def test_ties_go_to_the_smallest_parameter():
    parabola = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]], dtype=torch.float64)  # (t, t^2)
    points = torch.tensor([[0.0, 2.0], [0.0, 0.4], [1e-6, 2.0]], dtype=torch.float64)
    expected = torch.tensor([[-(1.5**0.5)], [0.0], [1.5**0.5]], dtype=torch.float64)
    torch.testing.assert_close(nearest_parameter(parabola, points), expected, rtol=1e-5, atol=1e-12)


def test_points_on_the_curve_are_found():
    curves = normal(1, 3, 4)
    t = torch.linspace(-1.5, 1.5, 41, dtype=torch.float64)
    points = Curvilinear(curves).curve(t).detach()[0]
    torch.testing.assert_close(nearest_parameter(curves, points).squeeze(1), t, rtol=1e-6, atol=1e-6)


def test_cusp():
    """(t^2, t^3) stands still at t = 0, and no point with x < 0 is nearer to another of its points."""
    cusp = torch.tensor([[[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]], dtype=torch.float64)
    points = torch.tensor([[-1.0, 0.0], [-2.0, 0.1], [1.0, 1.0], [1.0, -1.0]], dtype=torch.float64).requires_grad_()
    t = nearest_parameter(cusp, points)
    torch.testing.assert_close(t[2:], torch.tensor([[1.0], [-1.0]], dtype=torch.float64))
    assert (distances_to(cusp, t, points) <= points.norm(dim=1, keepdim=True) + 1e-12).all()
    length = (13**1.5 - 8) / 27
    torch.testing.assert_close(arc_length(cusp, t)[2:], t.new_tensor([[length], [-length]]), rtol=1e-10, atol=0)
    (gradient,) = torch.autograd.grad(arc_length(cusp, t).sum(), points)
    assert gradient.isfinite().all()


# Lengths.


@pytest.mark.parametrize("c", [2, 5, 10])
def test_arc_length(c):
    curves, t = normal(20, 16, c), 1.5 * normal(20, seed=1)
    found = arc_length(curves, t)
    k = np.arange(1, c + 1)
    for a, end, value in zip(curves.numpy(), t.tolist(), found.tolist(), strict=True):
        exact = quad(lambda s, a=a: np.linalg.norm(a @ (k * s ** (k - 1.0))), 0, end, epsabs=1e-13, epsrel=1e-12)[0]
        assert value == pytest.approx(exact, rel=1e-5)


# The distance.


def test_degree_one_is_mahalanobis():
    factor, x = normal(4, 6), normal(50, 6, seed=1)
    linear, bent = Curvilinear(factor.unsqueeze(-1)), Curvilinear(torch.nn.functional.pad(factor.unsqueeze(-1), (0, 3)))
    expected = Mahalanobis(factor).pairwise(x)
    torch.testing.assert_close(linear.pairwise(x), expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(bent.pairwise(x), expected, rtol=1e-6, atol=1e-9)  # degree 4, higher coefficients 0


def test_triangle_inequality_at_high_degree():
    d = Curvilinear(normal(2, 3, 7)).pairwise(2 * normal(15, 3, seed=1)).detach()
    for i, j, k in itertools.permutations(range(15), 3):
        assert d[i, j] <= d[i, k] + d[k, j] + 1e-9


def test_n_solves_for_a_matrix(monkeypatch):
    """n points, m curves: n m polynomials to minimise, not one or two a pair."""
    solved = []
    minimise = polynomial_curves._minimise
    monkeypatch.setattr(polynomial_curves, "_minimise", lambda p: solved.append(p.shape[1]) or minimise(p))
    distance, x, y = Curvilinear(normal(4, 3, 3)), normal(30, 3), normal(20, 3, seed=1)
    distance.pairwise(x, y)
    assert sum(solved) == (30 + 20) * 4
    solved.clear()
    distance.pairwise(x)
    assert sum(solved) <= 2 * 30 * 4


@pytest.mark.parametrize(("m", "d", "c"), [(3, 2, 3), (5, 4, 5), (4, 4, 10)])
def test_gradient_of_coefficients_and_points(m, d, c):
    """Against central differences in a random direction."""
    curves, points, weights = normal(m, d, c), normal(10, d, seed=1), normal(10, m, seed=2)
    directions = normal(m, d, c, seed=3), normal(10, d, seed=4)

    def value(step, curves=curves, points=points):
        return (curve_features(curves + step * directions[0], points + step * directions[1]) * weights).sum()

    a, x = curves.clone().requires_grad_(), points.clone().requires_grad_()
    gradients = torch.autograd.grad(value(0, a, x), (a, x))
    slope = sum((g * v).sum() for g, v in zip(gradients, directions, strict=True))
    torch.testing.assert_close(slope, (value(1e-6) - value(-1e-6)) / 2e-6, rtol=1e-6, atol=1e-6)


def test_blocks_do_not_matter(monkeypatch):
    distance, x = Curvilinear(normal(3, 2, 4)), normal(57, 2)
    whole = distance.embed(x)
    monkeypatch.setattr(polynomial_curves, "FEATURES", 30)
    monkeypatch.setattr(polynomial_curves, "BLOCK", 100)
    torch.testing.assert_close(distance.embed(x), whole, rtol=1e-13, atol=1e-13)


# Nasty input.


def test_zero_vector():
    """The nearest point to the origin is theta(0), unless the curve comes back to it at a smaller t."""
    distance = Curvilinear(normal(4, 3, 3))
    assert (distance.parameter(torch.zeros(1, 3, dtype=torch.float64)).abs() < 1e-12).all()
    loop = torch.tensor([[[1.0, 1.0], [1.0, 1.0]]], dtype=torch.float64)  # (t + t^2) (1, 1), 0 at -1 too
    torch.testing.assert_close(nearest_parameter(loop, torch.zeros(1, 2).double()).item(), -1.0)


def test_zero_coefficients():
    distance = Curvilinear(torch.zeros(2, 3, 4, dtype=torch.float64))
    x = normal(5, 3).requires_grad_()
    d = distance.pairwise(x)
    assert (d == 0).all()
    gradients = torch.autograd.grad(d.sum(), (x, distance.coefficients))
    assert all((g == 0).all() for g in gradients)
    mixed = Curvilinear(torch.cat([normal(2, 3, 4), torch.zeros(1, 3, 4, dtype=torch.float64)]))
    torch.testing.assert_close(mixed.pairwise(x), Curvilinear(mixed.coefficients[:2]).pairwise(x))


@pytest.mark.parametrize("scale", [1e-30, 1e-8, 1e8, 1e30])
@pytest.mark.parametrize("c", [2, 3, 5])
def test_huge_and_tiny(scale, c):
    """The nearest point is nearer than the origin and its neighbours on the curve."""
    curves, points = normal(3, 4, c), scale * normal(10, 4, seed=1)
    for a in (curves, curves / scale, curves * scale):
        t = nearest_parameter(a, points)
        assert t.isfinite().all()
        found = distances_to(a, t, points)
        for other in (torch.zeros_like(t), 0.99 * t, 1.01 * t):
            assert (found <= distances_to(a, other, points) * (1 + 1e-12)).all()
        assert Curvilinear(a).embed(points).isfinite().all()


def test_huge_and_tiny_float32():
    distance = Curvilinear(normal(3, 4, 3).float())
    for scale in (1e-38, 1e30):
        x = (scale * normal(6, 4)).float().requires_grad_()
        features = distance.embed(x)
        assert features.dtype == torch.float32
        assert features.isfinite().all()
        assert torch.autograd.grad(features.sum(), x)[0].isfinite().all()


def test_half_precision():
    distance, x = Curvilinear(normal(3, 4, 3).half()), normal(6, 4).half()
    exact = Curvilinear(distance.coefficients.double()).embed(x.double())
    torch.testing.assert_close(distance.embed(x).double(), exact, rtol=1e-3, atol=1e-6)


def test_infinite_item_spoils_itself_only():
    distance, x = Curvilinear(normal(3, 4, 3)), normal(6, 4)
    clean = distance.embed(x)
    x[2, 1] = float("inf")
    features = distance.embed(x)
    assert features[2].isnan().any()
    torch.testing.assert_close(features[[0, 1, 3, 4, 5]], clean[[0, 1, 3, 4, 5]])


def test_bad_coefficients():
    with pytest.raises(ShapeError, match="curves, features, degree"):
        Curvilinear(normal(3, 4))
    with pytest.raises(ShapeError, match="curves, features, degree"):
        Curvilinear(normal(3, 4, 0))
    with pytest.raises(ShapeError, match="int64"):
        Curvilinear(torch.ones(2, 2, 2, dtype=torch.int64))
    with pytest.raises(DomainError, match="NaN"):
        Curvilinear(torch.full((2, 2, 2), float("nan")))
    with pytest.raises(ShapeError, match="expected 4 features, got 3"):
        Curvilinear(normal(2, 4, 3)).embed(normal(5, 3))


def test_state_dict_round_trip():
    distance = Curvilinear(normal(2, 3, 4))
    other = Curvilinear(torch.zeros(2, 3, 4, dtype=torch.float64))
    other.load_state_dict(distance.state_dict())
    torch.testing.assert_close(other.embed(normal(3, 3)), distance.embed(normal(3, 3)))
