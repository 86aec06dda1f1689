"""Learning-rate schedules against torch's, against the line `fit` has always used, and their ends."""

import doctest
import subprocess
import sys

import pytest
import torch

from geoembed import schedules
from geoembed.errors import DomainError, UnknownNameError
from geoembed.schedules import SCHEDULES, schedule


def values(factor, total):
    return [factor(step, total) for step in range(total + 1)]


def torchs(kind, total, warmup_steps, final):
    """The rates of torch.optim.lr_scheduler."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rest, lr = total - warmup_steps, torch.optim.lr_scheduler
    if kind == "cosine":
        decay = lr.CosineAnnealingLR(optimizer, rest, eta_min=final)
    else:
        decay = lr.LinearLR(optimizer, 1.0, final if kind == "linear" else 1.0, rest)
    rates = []
    for step in range(total + 1):
        rates.append(step / warmup_steps if step < warmup_steps else optimizer.param_groups[0]["lr"])
        if step >= warmup_steps:
            optimizer.step()
            decay.step()
    return rates


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("warmup", "final"), [(0.0, 0.0), (0.0, 0.3), (0.25, 0.1), (0.75, 1.0)])
def test_rates_are_torchs(name, warmup, final):
    total = 40
    expected = torchs(name, total, round(warmup * total), final)
    assert values(schedule(name, warmup=warmup, final=final), total) == pytest.approx(expected, abs=1e-12)


def test_the_line_is_exact():
    """To the bit: earlier runs and their checkpoints had this expression."""
    for final in (0.0, 0.05, 0.1, 0.3, 1.0):
        factor = schedule("linear", final=final)
        for total in (1, 7, 120, 1997):
            assert values(factor, total) == [1 - (1 - final) * step / total for step in range(total + 1)]


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("total", [1, 2, 3, 17, 1000])
@pytest.mark.parametrize("warmup", [0.0, 1e-9, 0.05, 1 / 3, 0.999])
def test_rises_once_and_then_falls_to_the_end(name, total, warmup):
    rates = values(schedule(name, warmup=warmup, final=0.2), total)
    assert rates[0] == (1.0 if warmup == 0 else 0.0)
    assert rates[-1] == pytest.approx(1.0 if name == "constant" else 0.2)
    top = next((step for step in range(total + 1) if step >= warmup * total), total)
    assert rates[:top] == sorted(rates[:top])
    assert rates[top:] == sorted(rates[top:], reverse=True)
    assert all(0 <= rate <= 1 for rate in rates)


@pytest.mark.parametrize(
    "options",
    [
        {"warmup": -0.1},
        {"warmup": 1.0},
        {"warmup": float("nan")},
        {"final": -0.1},
        {"final": 1.1},
        {"final": float("nan")},
    ],
)
def test_numbers_out_of_range(options):
    with pytest.raises(DomainError, match=rf"^{next(iter(options))} must be"):
        schedule("cosine", **options)


def test_names():
    with pytest.raises(UnknownNameError, match=r"unknown schedule 'cosin'\. Did you mean 'cosine'"):
        schedule("cosin")
    result = doctest.testmod(schedules)
    assert result.attempted > 0
    assert result.failed == 0
    code = "import sys, geoembed.schedules; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"
