"""The Wasserstein dependency measure against linear programs and closed forms, and critics trained towards it."""

import itertools
import math

import numpy as np
import pytest
import scipy.optimize
import torch
from torch import nn

from geoembed.errors import DomainError, ShapeError
from geoembed.losses.dependency import (
    cpc,
    gradient_penalty,
    one_sided_gradient_penalty,
    pair_scores,
    spectral_normalised,
    wasserstein_dependency,
    wasserstein_dual,
    wpc,
)

DISCRETE = 1 - torch.eye(3, dtype=torch.float64)
X, Y = torch.tensor([0.0, 1.0, 2.5]), torch.tensor([0.0, 1.5, 2.0])
JOINT = torch.tensor([[6.0, 1.0, 0.0], [1.0, 3.0, 2.0], [0.0, 2.0, 5.0]]) / 20


def line(points):
    return (points[:, None] - points).abs()


def linear_program(joint, cost):
    """W_1 from the joint table to the product of its margins: all k x k couplings, cost (k, k)."""
    p = np.asarray(joint, dtype=float)
    p, q = p.ravel(), np.outer(p.sum(1), p.sum(0)).ravel()
    k = len(p)
    margins = np.vstack([np.kron(np.eye(k), np.ones(k)), np.kron(np.ones(k), np.eye(k))])
    return scipy.optimize.linprog(np.asarray(cost).ravel(), A_eq=margins, b_eq=np.r_[p, q], method="highs").fun


def sum_metric(d_x, d_y):
    cells = list(itertools.product(range(len(d_x)), range(len(d_y))))
    return np.array([[float(d_x[a][c] + d_y[b][d]) for c, d in cells] for a, b in cells])


@pytest.mark.parametrize("seed", range(6))
def test_is_the_linear_program(seed):
    rng = np.random.default_rng(seed)
    joint = rng.dirichlet(np.full(9, 0.5)).reshape(3, 3)
    joint[seed % 3, 1] = 0.0
    joint /= joint.sum()
    d_x, d_y = (np.linalg.norm(u[:, None] - u, axis=-1) for u in rng.normal(size=(2, 3, 2)))
    found = wasserstein_dependency(*map(torch.from_numpy, (7 * joint, d_x, d_y)))  # any positive total
    assert found == pytest.approx(linear_program(joint, sum_metric(d_x, d_y)), rel=1e-9, abs=1e-12)


def test_tables_that_are_not_square_and_counts():
    rng = np.random.default_rng(0)
    counts = rng.integers(0, 9, size=(2, 4))
    d_x, d_y = line(torch.arange(2.0)), line(torch.arange(4.0))
    expected = linear_program(counts / counts.sum(), sum_metric(d_x, d_y))
    assert wasserstein_dependency(torch.from_numpy(counts), d_x, d_y) == pytest.approx(expected, rel=1e-9)


def test_closed_forms():
    p, q = torch.tensor([[0.2, 0.5, 0.3], [0.6, 0.3, 0.1]], dtype=torch.float64)
    assert wasserstein_dependency(p[:, None] * q, DISCRETE, DISCRETE) == pytest.approx(0, abs=1e-12)  # independent
    assert wasserstein_dependency(torch.ones(1, 3), torch.zeros(1, 1), DISCRETE) == pytest.approx(0, abs=1e-12)
    for k in (2, 3, 10):  # x = y: all but 1/k of the product leaves the diagonal, by one change each
        discrete = 1 - torch.eye(k)
        assert wasserstein_dependency(torch.eye(k), discrete, discrete) == pytest.approx(1 - 1 / k)
    for a, b in ((1.0, 3.0), (2.0, 0.5)):  # two values each, excess e: e moves twice, the shorter way
        d_x, d_y = line(torch.tensor([0.0, a])), line(torch.tensor([0.0, b]))
        joint = torch.tensor([[0.4, 0.1], [0.2, 0.3]], dtype=torch.float64)
        assert wasserstein_dependency(joint, d_x, d_y) == pytest.approx(2 * (0.4 - 0.5 * 0.6) * min(a, b))


def test_bad_tables():
    with pytest.raises(ShapeError, match=r"needs ground distances \(n, n\) and \(m, m\), got \(2, 3\)"):
        wasserstein_dependency(torch.ones(2, 3), DISCRETE, DISCRETE)
    with pytest.raises(ShapeError, match="joint"):
        wasserstein_dependency(torch.ones(3), DISCRETE, DISCRETE)
    for bad in (-1.0, math.nan, math.inf):
        table = torch.ones(3, 3)
        table[1, 2] = bad
        for arguments, name in (((table, DISCRETE, DISCRETE), "joint"), ((JOINT, DISCRETE, table), "ground_y")):
            with pytest.raises(DomainError, match=rf"{name} must be finite and not negative.*\(1, 2\)"):
                wasserstein_dependency(*arguments)
    with pytest.raises(DomainError, match="all are zero"):
        wasserstein_dependency(torch.zeros(3, 3), DISCRETE, DISCRETE)


# The objectives.


def test_objectives_are_their_sums():
    scores = torch.randn(2, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for s, bound, dual in zip(scores, cpc(scores), wasserstein_dual(scores), strict=True):
        rows = [math.log(5) + float(s[i, i]) - math.log(sum(math.exp(t) for t in s[i])) for i in range(5)]
        assert bound.item() == pytest.approx(sum(rows) / 5)
        apart = [float(s[i, j]) for i in range(5) for j in range(5) if i != j]
        assert dual.item() == pytest.approx(float(s.diagonal().mean()) - sum(apart) / 20)
    assert cpc(torch.zeros(1, 1)) == 0
    for wrong in (torch.zeros(3), torch.zeros(2, 3), torch.zeros(0, 0)):
        for objective in (cpc, wasserstein_dual):
            with pytest.raises(ShapeError, match="must be square"):
                objective(wrong)
    with pytest.raises(ShapeError, match="B >= 2"):
        wasserstein_dual(torch.zeros(1, 1))


def test_cpc_saturates_below_the_mutual_information():
    """Correlated Gaussians and the optimal critic, the logarithm of p(x, y) / p(x) p(y)."""
    generator = torch.Generator().manual_seed(0)

    def mean_bound(correlation, features, size, batches=200):
        x, noise = torch.randn(2, batches, size, features, generator=generator, dtype=torch.float64)
        rest = 1 - correlation**2
        y = correlation * x + math.sqrt(rest) * noise
        away = (y.unsqueeze(-3) - correlation * x.unsqueeze(-2)).square() / rest
        scores = (y.square().unsqueeze(-3) - away).sum(-1) / 2
        bound = cpc(scores)
        return bound.mean().item(), bound.max().item(), -0.5 * features * math.log(rest)

    for size in (4, 16, 64):
        mean, largest, information = mean_bound(0.95, 10, size)
        assert largest <= math.log(size) + 1e-12
        assert 0.95 * math.log(size) < mean < information / 2
    mean, _, information = mean_bound(0.5, 2, 128)
    assert 0.9 * information < mean < 1.02 * information


def test_dual_is_unbiased():
    """Its mean over draws of batches of two is E_joint f - E_product f."""
    generator = torch.Generator().manual_seed(1)
    f = torch.randn(3, 3, generator=generator, dtype=torch.float64)
    expected, cells = 0.0, list(itertools.product(range(3), range(3)))
    for (a, b), (c, d) in itertools.product(cells, cells):
        scores = torch.stack([f[a, [b, d]], f[c, [b, d]]])
        expected += float(JOINT[a, b] * JOINT[c, d]) * wasserstein_dual(scores).item()
    product = JOINT.sum(1, keepdim=True) * JOINT.sum(0)
    assert expected == pytest.approx(((JOINT - product) * f).sum().item(), rel=1e-5)


def test_pair_scores():
    generator = torch.Generator().manual_seed(2)
    x, y = torch.randn(3, 2, 4, generator=generator), torch.randn(5, 4, generator=generator)
    scores = pair_scores(lambda u, v: (u.sum(1) * v).sum(-1), x, y)
    torch.testing.assert_close(scores, x.sum(1) @ y.T)
    with pytest.raises(ShapeError, match=r"one score for each of the 15 pairs.*squeeze"):
        pair_scores(lambda u, v: (u.sum(1) * v).sum(-1, keepdim=True), x, y)


# Lipschitz critics.


def test_penalties_of_a_linear_critic():
    """f = <a, x> + <b, y> has the same slopes everywhere."""
    x, y = torch.randn(2, 8, 3, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for a, b in ((0.5, 0.2), (0.3, 1.5), (2.0, 0.0)):
        slope = math.sqrt(3) * max(a, b)

        def critic(u, v, a=a, b=b):
            return a * u.sum(-1) + b * v.sum(-1)

        assert gradient_penalty(critic, x, y).item() == pytest.approx((slope - 1) ** 2)
        assert one_sided_gradient_penalty(critic, x, y).item() == pytest.approx(max(0.0, slope - 1) ** 2, abs=1e-12)


def test_penalty_is_taken_between_samples_and_trains_the_critic():
    generator = torch.Generator().manual_seed(4)
    x = torch.rand(64, 1, 2, generator=generator)
    y = 10 + torch.rand(64, 3, generator=generator)
    x.requires_grad_()
    seen = []

    def critic(u, v):
        seen.append((u, v))
        return (scale * u).flatten(1).square().sum(-1) + v.sum(-1)

    scale = torch.ones((), requires_grad=True)
    with torch.no_grad():
        value = gradient_penalty(critic, x, y, torch.Generator().manual_seed(5))
    again = gradient_penalty(critic, x, y, torch.Generator().manual_seed(5))
    assert value == again
    assert gradient_penalty(critic, x, y, torch.Generator().manual_seed(6)) != again
    (u, v), *_ = seen
    assert u.shape == x.shape
    assert 0 <= u.min() <= u.max() <= 1
    assert 10 <= v.min() <= v.max() <= 11
    assert (torch.cdist(v, y).min(-1).values > 1e-4).float().mean() > 0.9  # between the samples, not at them
    again.backward()
    assert scale.grad != 0
    assert x.grad is None
    with pytest.raises(ShapeError, match="floating point batches of the same size"):
        gradient_penalty(critic, x, y[:5])
    with pytest.raises(ShapeError, match="floating point batches of the same size"):
        gradient_penalty(critic, x.detach().long(), y)


def test_flat_critic_has_a_finite_gradient():
    weight = torch.zeros(2, requires_grad=True)
    x, y = torch.ones(2, 4, 2)
    gradient_penalty(lambda u, v: (u * weight).sum(-1), x, y).backward()
    assert weight.grad.isfinite().all()


def operator_norm(layer, shape):
    """The largest singular value of the linear map of a layer."""
    eye = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    return torch.linalg.matrix_norm((layer(eye) - layer(0 * eye)).flatten(1), ord=2).item()


@pytest.mark.parametrize(
    ("build", "shape", "least"),
    [
        (lambda: nn.Linear(6, 4), (6,), 0.999),
        (lambda: nn.Conv1d(3, 4, 3, padding=1), (3, 9), 0.5),
        (lambda: nn.Conv1d(1, 1, 5), (1, 40), 0.3),
        (lambda: nn.Conv2d(2, 3, 3, stride=2, padding=1), (2, 7, 7), 0.4),
        (lambda: nn.Conv2d(2, 3, 2, stride=2), (2, 6, 6), 0.999),
        (lambda: nn.Conv2d(2, 2, 3, dilation=2, stride=2, groups=2), (2, 9, 9), 0.2),
    ],
)
def test_normalised_layers_have_norm_one_at_most(build, shape, least):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        layer = build().double()
        with torch.no_grad():
            layer.weight *= 5
        spectral_normalised(layer, n_power_iterations=30)
        layer(torch.zeros(1, *shape, dtype=torch.float64))
    layer.eval()
    assert least < operator_norm(layer, shape) <= 1 + 1e-4


def test_convolution_of_ones_attains_its_bound_nearly():
    """A kernel of ones on a long row of ones: the reshaped kernel alone, of norm sqrt(5) times less, is no bound."""
    layer = nn.Conv1d(1, 1, 5, bias=False).double()
    nn.init.ones_(layer.weight)
    spectral_normalised(layer).eval()
    assert 0.98 < operator_norm(layer, (1, 80)) <= 1


def test_layers_that_cannot_be_normalised():
    for layer in (nn.BatchNorm1d(3), nn.LSTM(3, 3), nn.Conv1d(1, 1, 3, padding=1, padding_mode="reflect")):
        module = nn.Sequential(nn.Linear(3, 3), layer)
        with pytest.raises(DomainError, match="layer '1' is"):
            spectral_normalised(module)
        assert not nn.utils.parametrize.is_parametrized(module[0])  # nothing is half done
    with pytest.raises(DomainError, match="not parametrised yet"):
        spectral_normalised(spectral_normalised(nn.Linear(2, 2)))


# Trained critics, on a table whose dependency is known.


class PairMLP(nn.Module):
    def __init__(self, activation, width=32):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Linear(2, width), activation, nn.Linear(width, width), activation, nn.Linear(width, 1)
        )

    def forward(self, x, y):
        return self.layers(torch.stack([x, y], -1)).squeeze(-1)


class Sorted(nn.Module):
    """Pairs of neurons in order: 1-Lipschitz and, unlike ReLU, shrinks no gradient (Anil, Lucas, Grosse, ICML 2019)."""

    def forward(self, x):
        return x.unflatten(-1, (-1, 2)).sort(-1).values.flatten(-2)


def trained(critic, objective, steps=300, lr=0.01):
    """The critic's scores of all cells and E_joint f - E_product f. The batch holds each cell as often as its share."""
    cells = torch.repeat_interleave(torch.arange(9), (20 * JOINT).round().long().flatten())
    generator = torch.Generator().manual_seed(0)
    optimiser = torch.optim.Adam(critic.parameters(), lr=lr)
    slower = torch.optim.lr_scheduler.LinearLR(optimiser, 1.0, 0.0, steps)
    for _ in range(steps):
        optimiser.zero_grad()
        (-objective(critic, X[cells // 3], Y[cells % 3], generator)).backward()
        optimiser.step()
        slower.step()
    critic.eval()
    with torch.no_grad():
        f = pair_scores(critic, X, Y)
    product = JOINT.sum(1, keepdim=True) * JOINT.sum(0)
    return f, ((JOINT - product) * f).sum().item()


def with_seed(build):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return build()


def test_penalised_critic_approaches_the_measure_from_below():
    exact = wasserstein_dependency(JOINT, line(X), line(Y))

    def objective(critic, x, y, generator):
        return wasserstein_dual(pair_scores(critic, x, y)) - 30 * one_sided_gradient_penalty(critic, x, y, generator)

    f, value = trained(with_seed(lambda: PairMLP(nn.Softplus())), objective)
    slopes = (f.flatten()[:, None] - f.flatten()).abs() / torch.from_numpy(sum_metric(line(X), line(Y)) + np.eye(9))
    assert 0.85 * exact <= value <= 1.05 * exact
    assert 0.85 * exact <= value / slopes.max().item() <= exact  # of the critic scaled to the constraint


def test_normalised_critic_approaches_the_measure_from_below():
    """1-Lipschitz in the Euclidean norm of (x, y), whose W_1 is its limit, below that of the sum of the distances."""
    cells = torch.cartesian_prod(X, Y)
    limit = linear_program(JOINT, torch.cdist(cells, cells))
    critic = with_seed(lambda: spectral_normalised(PairMLP(Sorted())))
    _, value = trained(critic, lambda f, x, y, _: wasserstein_dual(pair_scores(f, x, y)))
    assert 0.85 * limit <= value <= limit * 1.001
    assert limit < wasserstein_dependency(JOINT, line(X), line(Y))


def test_wpc_holds_the_slope_that_cpc_lets_grow():
    free, _ = trained(
        with_seed(lambda: PairMLP(nn.Softplus())), lambda f, x, y, _: cpc(pair_scores(f, x, y)), 300, 5e-3
    )
    held, _ = trained(
        with_seed(lambda: PairMLP(nn.Softplus())),
        lambda f, x, y, generator: wpc(f, x, y, generator=generator),
    )
    steepest = [
        max(((f[1:] - f[:-1]).abs() / X.diff()[:, None]).max(), ((f[:, 1:] - f[:, :-1]).abs() / Y.diff()).max())
        for f in (free, held)
    ]
    assert steepest[0] > 2
    assert steepest[1] < 1.2
