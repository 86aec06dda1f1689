"""Entailment cones, against the formulas of the paper in the ball and at high precision."""

import math

import mpmath
import numpy as np
import pytest
import torch

from distance_contract import Case, DistanceContract
from geoembed.distances import Euclidean
from geoembed.distances.cones import EntailmentCone
from geoembed.errors import DomainError
from geoembed.manifolds import Euclidean as Flat
from geoembed.manifolds import HalfSpace, HTiling, Lorentz, LTiling, PoincareBall, convert


def paper(x, y, K=0.1):
    """Equations 26 and 28 of Ganea et al. in the ball, in 50 digits; psi is pi / 2 near the origin."""
    with mpmath.workdps(50):
        x, y = ([mpmath.mpf(float(v)) for v in p] for p in (x, y))
        xx, yy = mpmath.fsum(v * v for v in x), mpmath.fsum(v * v for v in y)
        xy = mpmath.fsum(a * b for a, b in zip(x, y, strict=True))
        gap = mpmath.sqrt(mpmath.fsum((a - b) ** 2 for a, b in zip(x, y, strict=True)))
        if gap == 0:
            return 0.0
        cos = (xy * (1 + xx) - xx * (1 + yy)) / (mpmath.sqrt(xx) * gap * mpmath.sqrt(1 + xx * yy - 2 * xy))
        psi = mpmath.asin(min(mpmath.mpf(1), K * (1 - xx) / mpmath.sqrt(xx)))
        return float(max(0, mpmath.acos(max(-1, min(1, cos))) - psi))


def ball(*shape, generator):
    return PoincareBall().from_tangent(torch.randn(*shape, generator=generator, dtype=torch.float64))


def lorentz(*shape, generator):
    return Lorentz().from_tangent(torch.randn(*shape[:-1], shape[-1] - 1, generator=generator, dtype=torch.float64))


def lorentz_oracle(x, y):
    return paper(x[1:] / (1 + x[0]), y[1:] / (1 + y[0]))


CASES = [
    Case("ball", lambda: EntailmentCone(PoincareBall()), paper, sample=ball),
    Case("narrow", lambda: EntailmentCone(PoincareBall(), K=0.01), lambda x, y: paper(x, y, 0.01), sample=ball),
    Case("lorentz", lambda: EntailmentCone(Lorentz()), lorentz_oracle, sample=lorentz),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestEntailmentCone(DistanceContract):
    pass


@pytest.mark.parametrize("target", [Lorentz(), HalfSpace(), HTiling(3), PoincareBall(2.0)], ids=str)
def test_every_model_has_the_same_cones(target):
    x = ball(10, 3, generator=torch.Generator().manual_seed(0))
    y = convert(x, PoincareBall(), target) if target.c == 1 else x / math.sqrt(2)
    want = EntailmentCone(PoincareBall()).pairwise(x)
    torch.testing.assert_close(EntailmentCone(target).pairwise(y), want, rtol=1e-9, atol=1e-9)


def test_cones_of_points_in_a_cone_lie_in_it():
    """Entailment is transitive: E(x, y) = E(y, z) = 0 gives E(x, z) = 0."""
    generator = torch.Generator().manual_seed(1)
    u = torch.randn(60, 2, generator=generator, dtype=torch.float64)
    x = PoincareBall().from_tangent(u / u.norm(dim=1, keepdim=True) * torch.rand(60, 1, generator=generator) * 3)
    E = EntailmentCone(PoincareBall(), K=0.3).pairwise(x)
    inside = E == 0
    chained = (inside.double() @ inside.double()) > 0
    far = torch.cdist(x, torch.zeros(1, 2, dtype=torch.float64)).squeeze(1) > 0.5  # beyond where cones are half-spaces
    assert int((inside & ~torch.eye(60, dtype=torch.bool)).sum()) > 60
    assert bool(E[chained & far.unsqueeze(1)].max() < 1e-7)


def test_a_point_straight_behind_is_inside_and_one_before_is_outside():
    cone = EntailmentCone(PoincareBall())
    x = torch.tensor([0.6, 0.0], dtype=torch.float64)
    assert cone(x, torch.tensor([0.9, 0.0], dtype=torch.float64)) == 0
    psi = float(cone.aperture(cone.radius(x)))
    assert cone(x, torch.tensor([0.3, 0.0], dtype=torch.float64)).item() == pytest.approx(math.pi - psi)
    assert cone(x, torch.zeros(2, dtype=torch.float64)).item() == pytest.approx(math.pi - psi)


def test_far_points_have_finite_values_and_gradients():
    manifold = HTiling(2, limbs=26)
    u = torch.tensor([[600.0, 1.0], [-3.0, 650.0], [620.0, 1.0]], dtype=torch.float64)
    x = manifold.from_tangent(u).requires_grad_()
    E = EntailmentCone(manifold).pairwise(x)
    E.sum().backward()
    assert bool(E.isfinite().all() & x.grad.isfinite().all())
    assert bool((E[~torch.eye(3, dtype=torch.bool)] > 0).all())


def test_refusals():
    for other in (Flat(), LTiling(2)):
        with pytest.raises(DomainError, match="hyperbolic"):
            EntailmentCone(other)
    with pytest.raises(DomainError, match="K must be positive"):
        EntailmentCone(PoincareBall(), K=0)
    assert EntailmentCone(Lorentz()).space is not None
    assert Euclidean().space is None
    assert np.isclose(EntailmentCone(PoincareBall()).upper_bound, math.pi)
