"""Losses of link prediction: against scalar formulas, gradients, left-out negatives, K-vs-all against 1-vs-all."""

import functools
import math

import pytest
import torch

from geoembed.losses import LINK_LOSSES
from geoembed.losses.links import LEFT_OUT, bce, bce_k_vs_all, margin, self_adversarial, softmax, softmax_k_vs_all

# ------------------------------------------------------------------------------- the formulas, one triple at a time


def softplus(x):
    return max(x, 0.0) + math.log1p(math.exp(-abs(x)))


def cross_entropy(score, target):
    return target * softplus(-score) + (1 - target) * softplus(score)


def kept(negatives):
    return [x for x in negatives if x != LEFT_OUT]


def bce_oracle(s, negatives, weight=1.0, smoothing=0.0):
    known = cross_entropy(s, 1 - smoothing / 2)
    return known + weight * sum(cross_entropy(x, smoothing / 2) for x in kept(negatives)) / len(negatives)


def softmax_oracle(s, negatives, weight=1.0, smoothing=0.0):
    scores = [s, *kept(negatives)]
    top = max(scores)
    share = weight / len(negatives)
    total = top + math.log(math.exp(s - top) + share * sum(math.exp(x - top) for x in scores[1:]))
    return (1 - smoothing) * (total - s) + smoothing * sum(total - x for x in scores) / len(scores)


def margin_oracle(s, negatives, weight=1.0, margin=1.0):
    return weight * sum(max(0.0, margin - s + x) for x in kept(negatives)) / len(negatives)


def self_adversarial_oracle(s, negatives, weight=1.0, margin=1.0, temperature=1.0):
    scores = kept(negatives)
    top = max(scores, default=0.0)
    p = [math.exp(temperature * (x - top)) for x in scores]
    mean = sum(a * softplus(margin + x) for a, x in zip(p, scores, strict=True)) / sum(p) if p else 0.0
    return softplus(-margin - s) + weight * mean


ORACLES = {
    "bce": bce_oracle,
    "softmax": softmax_oracle,
    "margin": margin_oracle,
    "self-adversarial": self_adversarial_oracle,
}
OPTIONS = {
    "bce": [{}, {"weight": 7.0}, {"smoothing": 0.3}, {"weight": 0.25, "smoothing": 1.0}],
    "softmax": [{}, {"weight": 7.0}, {"smoothing": 0.3}, {"weight": 0.25, "smoothing": 1.0}],
    "margin": [{}, {"weight": 7.0, "margin": 0.3}, {"margin": 0.0}],
    "self-adversarial": [{}, {"weight": 7.0, "margin": 3.0}, {"temperature": 2.5}, {"temperature": 0.0}],
}
CASES = [(name, options) for name in OPTIONS for options in OPTIONS[name]]
every_case = pytest.mark.parametrize(("name", "options"), CASES, ids=str)


def scores(b=5, n=7, scale=3.0, dtype=torch.float64, seed=0):
    g = torch.Generator().manual_seed(seed)
    return (
        (scale * torch.randn(b, generator=g, dtype=dtype)).requires_grad_(),
        (scale * torch.randn(b, n, generator=g, dtype=dtype)).requires_grad_(),
    )


def slow(name, positive, negative, options):
    return torch.tensor(
        [ORACLES[name](s, row, **options) for s, row in zip(positive.tolist(), negative.tolist(), strict=True)],
        dtype=torch.float64,
    )


def some_left_out(negative):
    """Every second negative of the first rows, all of the last row."""
    gone = torch.arange(negative.shape[1]) % 2 == 0
    mask = gone.repeat(len(negative), 1)
    mask[-1] = True
    return mask


# ---------------------------------------------------------------------------------------------------------- values


def test_every_loss_has_a_formula_here():
    assert set(LINK_LOSSES) == set(ORACLES)


@every_case
@pytest.mark.parametrize("n", [1, 7])
def test_values_are_those_of_the_formula(name, options, n):
    positive, negative = scores(n=n)
    loss = LINK_LOSSES[name](positive, negative, **options)
    assert loss.shape == positive.shape
    torch.testing.assert_close(loss.detach(), slow(name, positive, negative, options))


def test_values_by_hand():
    zero, row = torch.zeros(1, dtype=torch.float64), torch.zeros(1, 4, dtype=torch.float64)
    log2 = math.log(2)
    assert bce(zero, row, weight=3.0).item() == pytest.approx(4 * log2)
    assert softmax(zero, row, weight=4.0).item() == pytest.approx(math.log(5))
    assert margin(zero, row - 0.25, weight=2.0, margin=1.0).item() == pytest.approx(1.5)
    assert self_adversarial(zero, row, margin=0.0, weight=3.0).item() == pytest.approx(4 * log2)


def test_softmax_of_all_entities_is_cross_entropy():
    table = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    target = torch.tensor([0, 3, 8, 3])
    negative = table.scatter(1, target.unsqueeze(1), LEFT_OUT)
    for smoothing in (0.0, 0.2):
        loss = softmax(table.gather(1, target.unsqueeze(1)).squeeze(1), negative, weight=9, smoothing=smoothing)
        expected = torch.nn.functional.cross_entropy(table, target, reduction="none", label_smoothing=smoothing)
        torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize(("name", "options"), [case for case in CASES if case[0] != "self-adversarial"], ids=str)
def test_gradients(name, options):
    positive, negative = scores(b=3, n=4)
    assert torch.autograd.gradcheck(functools.partial(LINK_LOSSES[name], **options), (positive, negative))


@pytest.mark.parametrize("options", OPTIONS["self-adversarial"], ids=str)
def test_gradient_of_self_adversarial(options):
    """-sigmoid(-margin - s) and w p_j sigmoid(margin + s_j); p is a constant, so finite differences say another."""
    positive, negative = scores(b=3, n=4)
    self_adversarial(positive, negative, **options).sum().backward()
    weight, gamma, temperature = (options.get(name, 1.0) for name in ("weight", "margin", "temperature"))
    p = torch.exp(temperature * negative.detach())
    p = p / p.sum(-1, keepdim=True)
    torch.testing.assert_close(positive.grad, -torch.sigmoid(-gamma - positive.detach()))
    torch.testing.assert_close(negative.grad, weight * p * torch.sigmoid(gamma + negative.detach()))


# ------------------------------------------------------------------------------------------------------- left out


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_left_out_negatives_count_for_nothing(name, options, dtype):
    positive, negative = scores(dtype=dtype)
    mask = some_left_out(negative)
    masked = negative.masked_fill(mask, LEFT_OUT)
    masked.retain_grad()
    loss = LINK_LOSSES[name](positive, masked, **options)
    assert loss.isfinite().all()
    # float32 does not hold LEFT_OUT exactly, so the oracle takes it from the mask
    rows = negative.detach().double().masked_fill(mask, LEFT_OUT)
    expected = slow(name, positive.detach().double(), rows, options).to(dtype)
    torch.testing.assert_close(loss.detach(), expected)
    loss.sum().backward()
    assert (masked.grad[mask] == 0).all()
    assert (negative.grad[mask] == 0).all()
    assert positive.grad.isfinite().all()
    assert negative.grad.isfinite().all()


@every_case
def test_left_out_negatives_have_no_say_in_the_gradient_of_the_others(name, options):
    positive, negative = scores(b=3, n=6)
    mask = some_left_out(negative)[:1].expand(3, -1)
    LINK_LOSSES[name](positive, negative.masked_fill(mask, LEFT_OUT), **options).sum().backward()
    few = negative.detach()[:, ~mask[0]].requires_grad_()
    alone = positive.detach().clone().requires_grad_()
    # a mean runs over left-out negatives too; the weights of self-adversarial negatives add up to 1
    share = 1.0 if name == "self-adversarial" else 0.5
    options = options | {"weight": share * options.get("weight", 1.0)}
    LINK_LOSSES[name](alone, few, **options).sum().backward()
    torch.testing.assert_close(negative.grad[:, ~mask[0]], few.grad)
    torch.testing.assert_close(positive.grad, alone.grad)


@every_case
def test_all_left_out(name, options):
    positive, negative = scores(b=2, n=3, dtype=torch.float32)
    loss = LINK_LOSSES[name](positive, negative.masked_fill(torch.ones(2, 3, dtype=torch.bool), LEFT_OUT), **options)
    loss.sum().backward()
    for s, value in zip(positive.tolist(), loss.tolist(), strict=True):
        smoothed = options.get("smoothing", 0.0)
        alone = {
            "bce": cross_entropy(s, 1 - smoothed / 2),
            "softmax": 0.0,
            "margin": 0.0,
            "self-adversarial": softplus(-options.get("margin", 1.0) - s),
        }
        assert value == pytest.approx(alone[name], rel=1e-5, abs=1e-6)
    assert (negative.grad == 0).all()
    assert positive.grad.isfinite().all()


# ------------------------------------------------------------------------------------------------------- extremes


@every_case
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_extreme_scores(name, options, dtype):
    values = torch.tensor([-1e4, 0.0, 1e4], dtype=dtype)
    positive = values.repeat_interleave(3).requires_grad_()
    negative = torch.stack([values.repeat(3), torch.full((9,), -1.0, dtype=dtype)], dim=1).requires_grad_()
    loss = LINK_LOSSES[name](positive, negative, **options)
    torch.testing.assert_close(loss.detach().double(), slow(name, positive, negative, options), rtol=1e-6, atol=1e-3)
    loss.sum().backward()
    assert positive.grad.isfinite().all()
    assert negative.grad.isfinite().all()


@every_case
def test_empty_batch(name, options):
    positive, negative = scores(b=0, n=3)
    loss = LINK_LOSSES[name](positive, negative, **options)
    assert loss.shape == (0,)
    loss.sum().backward()
    assert negative.grad.shape == (0, 3)


# ------------------------------------------------------------------------------------------------------- k-vs-all

ROWS = torch.tensor([0, 0, 0, 1, 3])
COLUMNS = torch.tensor([1, 4, 5, 0, 5])  # query 2 has no tail
K_VS_ALL = {"bce": bce_k_vs_all, "softmax": softmax_k_vs_all}


@pytest.mark.parametrize("name", K_VS_ALL)
@pytest.mark.parametrize(
    "options", [{}, {"weight": 50.0}, {"smoothing": 0.3}, {"weight": 2.0, "smoothing": 1.0}], ids=str
)
def test_k_vs_all_is_the_sum_of_1_vs_all(name, options):
    table = scores(b=4, n=6)[1]
    loss = K_VS_ALL[name](table, ROWS, COLUMNS, **options)
    (gradient,) = torch.autograd.grad(loss.sum(), table)
    positive, negative = table[ROWS, COLUMNS], table[ROWS]
    own = torch.zeros(len(ROWS), 6, dtype=torch.bool)
    for i, row in enumerate(ROWS.tolist()):
        own[i, COLUMNS[row == ROWS] if name == "bce" else COLUMNS[i]] = True
    one = options if name == "bce" else options | {"weight": 6.0}
    losses = LINK_LOSSES[name](positive, negative.masked_fill(own, LEFT_OUT), **one)
    expected = [sum(losses[row == ROWS].tolist()) for row in range(4)]
    assert loss.tolist() == pytest.approx(expected)
    assert loss[2] == 0
    torch.testing.assert_close(gradient, torch.autograd.grad(losses.sum(), table)[0])


@pytest.mark.parametrize("name", K_VS_ALL)
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_k_vs_all_gradients_and_extremes(name, smoothing):
    loss = functools.partial(K_VS_ALL[name], rows=ROWS, columns=COLUMNS, weight=3.0, smoothing=smoothing)
    assert torch.autograd.gradcheck(loss, (scores(b=4, n=6)[1],))
    table = torch.tensor([[-1e4, 1e4, 0.0, -1.0, 1e4, -1e4]]).repeat(4, 1).requires_grad_()
    value = loss(table)
    value.sum().backward()
    assert value.isfinite().all()
    assert table.grad.isfinite().all()


@pytest.mark.parametrize("name", K_VS_ALL)
def test_k_vs_all_of_nothing(name):
    none = torch.zeros(0, dtype=torch.int64)
    assert K_VS_ALL[name](torch.zeros(0, 6), none, none).shape == (0,)


def test_a_sure_known_tail_does_not_drown_the_negatives():
    """Its softplus is 1e4, of which float32 holds three decimals."""
    table = torch.full((1, 10), -1.0)
    table[0, 0] = 1e4
    loss = bce_k_vs_all(table, torch.tensor([0]), torch.tensor([0]), weight=10.0)
    assert loss.item() == pytest.approx(9 * softplus(-1.0), rel=1e-6)
