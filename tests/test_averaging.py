"""Moving averages of weights against sums written out, on every manifold, saved and loaded, and inside `fit`."""

import copy
import doctest
import io

import geoopt
import pytest
import torch

from geoembed import averaging
from geoembed.averaging import Averaged
from geoembed.errors import CheckpointError, DomainError
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product

F64 = torch.float64
MANIFOLDS = {
    "euclidean": Euclidean(),
    "ball": PoincareBall(2.0),
    "lorentz": Lorentz(0.5),
    "half-space": HalfSpace(1.5),
    "product": Product([(PoincareBall(), 2), (Lorentz(2.0), 1), (Euclidean(), 1)]),
}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


class Tables(torch.nn.Module):
    """Weights of two types, one of them shared, a scalar, a frozen one and a buffer."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3, 2, dtype=F64))
        self.again = self.w
        self.scalar = torch.nn.Parameter(torch.tensor(5.0))
        self.frozen = torch.nn.Parameter(torch.ones(2), requires_grad=False)
        self.register_buffer("seen", torch.zeros((), dtype=torch.int64))


class Points(torch.nn.Module):
    def __init__(self, manifold, points):
        super().__init__()
        self.manifold = manifold
        self.x = geoopt.ManifoldParameter(points.clone(), manifold=manifold)


def paths(steps, shape=(3, 2), dtype=F64):
    return torch.randn(steps, *shape, dtype=dtype, generator=generator(1))


def weights_of(steps, decay, every):
    """The weight of the first value and of that after each call, by the definition."""
    weights = [1.0] + [0.0] * steps
    for t in range(1, steps + 1):
        if t % every == 0:
            d = min(decay, (1 + t) / (10 + t)) ** every
            weights = [d * w for w in weights]
            weights[t] += 1 - d
    return torch.tensor(weights, dtype=F64)


@pytest.mark.parametrize("decay", [0.0, 0.15, 0.5, 0.999])
@pytest.mark.parametrize("every", [1, 3, 40])
def test_the_average_is_the_weighted_sum(decay, every):
    model, values = Tables(), paths(25)
    averaged = Averaged(model, decay, every)
    for i, value in enumerate(values):
        model.w.data.copy_(value)
        model.scalar.data.fill_(float(i))
        model.seen += 1
        averaged.update()
    weights = weights_of(25, decay, every)
    assert abs(weights.sum() - 1) < 1e-12
    with averaged.applied():
        expected = torch.einsum("t,tij->ij", weights, torch.cat([torch.zeros(1, 3, 2, dtype=F64), values]))
        torch.testing.assert_close(model.w.data, expected, rtol=1e-12, atol=1e-12)
        assert model.again is model.w
        numbers = torch.tensor([5.0, *range(25)], dtype=F64)
        torch.testing.assert_close(model.scalar.double(), weights @ numbers, rtol=1e-5, atol=1e-5, check_dtype=True)
        assert model.frozen.tolist() == [1, 1]
        assert model.seen == 25


def test_applied_puts_everything_back_to_the_bit():
    model = Tables()
    averaged = Averaged(model, 0.9)
    model.w.data.copy_(paths(1)[0])
    averaged.update()
    optimizer = torch.optim.SGD([model.w], lr=0.1, momentum=0.9)
    model.w.grad = torch.ones_like(model.w)
    before, storage = copy.deepcopy(model.state_dict()), model.w.data_ptr()

    def validate():
        with averaged.applied():
            assert not torch.equal(model.w, before["w"])
            with averaged.applied():  # once more changes nothing
                assert not torch.equal(model.w, before["w"])
            assert not torch.equal(model.w, before["w"])
            raise KeyError

    with pytest.raises(KeyError):
        validate()
    assert model.w.data_ptr() == storage
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name])
    optimizer.step()
    assert torch.equal(model.w, before["w"] - 0.1)


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize("dtype", [torch.float32, F64])
def test_points_stay_on_their_manifold(name, dtype):
    manifold = MANIFOLDS[name]
    u = 0.5 * torch.randn(20, 6, 4, dtype=dtype, generator=generator())
    model = Points(manifold, manifold.from_tangent(u[0]))
    averaged = Averaged(model, 0.9)
    for step in u:
        model.x.data.copy_(manifold.from_tangent(step))
        averaged.update()
    with averaged.applied():
        manifold.check(model.x.detach(), 1e-6)
        average = model.x.detach().clone()
    limits = manifold.dist(average.unsqueeze(0), manifold.from_tangent(u)).amin(0)
    assert (manifold.dist(average, model.x.detach()) > 0.01).all()  # not the last ones
    assert (limits < 1.5).all()  # but among them


@pytest.mark.parametrize("name", MANIFOLDS)
@pytest.mark.parametrize(("dtype", "radius"), [(torch.float32, 12.0), (F64, 25.0)])
def test_points_that_keep_still_are_their_own_average(name, dtype, radius):
    """Also far out, where a centroid of hyperboloid points would have no digit left."""
    manifold = MANIFOLDS[name]
    u = torch.nn.functional.normalize(torch.randn(50, 4, dtype=dtype, generator=generator()), dim=-1)
    points = manifold.projx(manifold.from_tangent(radius * u))
    model = Points(manifold, points)
    averaged = Averaged(model, 0.9)
    for _ in range(30):
        averaged.update()
    with averaged.applied():
        assert torch.equal(model.x.detach(), points)


def test_on_the_hyperboloid_it_is_the_centroid_up_to_the_square_of_the_spread():
    manifold = Lorentz(0.5)
    middle = manifold.from_tangent(torch.randn(40, 3, dtype=F64, generator=generator()))
    errors = []
    for spread in (0.1, 0.01):
        ends = [
            manifold.expmap(middle, spread * v / manifold.norm(middle, v, keepdim=True))
            for v in manifold.proju(middle, torch.randn(2, 40, 4, dtype=F64, generator=generator(1)))
        ]
        model = Points(manifold, ends[0])
        averaged = Averaged(model, 0.5)
        model.x.data.copy_(ends[1])
        averaged.update()
        d = min(0.5, 2 / 11)
        mean = d * ends[0] + (1 - d) * ends[1]  # Law et al., ICML 2019: scaled to <m, m> = -1/c
        length = (mean[:, :1].square() - mean[:, 1:].square().sum(-1, keepdim=True)).sqrt()
        with averaged.applied():
            errors.append(manifold.dist(model.x.detach(), mean / length / 0.5**0.5).max().item())
    assert errors[0] < 0.1**2
    assert errors[1] < 1.5e-2 * errors[0]


def test_a_learnt_curvature_is_averaged_and_points_fit_it():
    manifold = Lorentz(1.0, learnable=True)
    model = Points(manifold, manifold.from_tangent(torch.randn(5, 3, dtype=F64, generator=generator())).detach())
    averaged = Averaged(model, 0.5)
    with torch.no_grad():
        manifold.log_c += 1.0
        model.x.copy_(manifold.projx(model.x))
    averaged.update()
    with averaged.applied():
        assert manifold.c.item() == pytest.approx(torch.tensor(9 / 11).exp().item())
        manifold.check(model.x.detach(), 1e-12)
    manifold.check(model.x.detach(), 1e-12)
    assert manifold.c.item() == pytest.approx(torch.tensor(1.0).exp().item())


@pytest.mark.parametrize("every", [1, 4])
@pytest.mark.parametrize("stop", [0, 1, 5, 8])
def test_a_saved_state_continues_to_the_bit(every, stop):
    model, values = Tables(), paths(12)
    averaged = Averaged(model, 0.8, every)
    for t, value in enumerate(values):
        if t == stop:
            file = io.BytesIO()
            torch.save(averaged.state_dict(), file)
        model.w.data.copy_(value)
        averaged.update()
    file.seek(0)
    other = Tables()
    other.w.data.fill_(7.0)
    again = Averaged(other, 0.8, every)
    again.load_state_dict(torch.load(file, weights_only=True))
    for value in values[stop:]:
        other.w.data.copy_(value)
        again.update()
    assert again.calls == averaged.calls == 12
    for name, average in averaged.averages.items():
        assert torch.equal(average, again.averages[name])


def test_a_state_of_another_model_is_refused():
    averaged = Averaged(Tables())
    state = averaged.state_dict()
    for averages in ({}, state["averages"] | {"w": torch.zeros(2, 2)}, state["averages"] | {"more": torch.zeros(1)}):
        with pytest.raises(CheckpointError, match="expected averages of the shapes"):
            averaged.load_state_dict({"calls": 3, "averages": averages})
    assert averaged.calls == 0


@pytest.mark.parametrize("options", [{"decay": 1.0}, {"decay": -0.1}, {"decay": float("nan")}, {"every": 0}])
def test_numbers_out_of_range(options):
    with pytest.raises(DomainError, match=rf"^{next(iter(options))} must be"):
        Averaged(Tables(), **options)


def test_example():
    result = doctest.testmod(averaging)
    assert result.attempted > 0
    assert result.failed == 0
