"""Learning-rate schedules: the factor of the learning rate at step number `step` of `total`, counted from 0.

With the share w of the steps for warm-up, f left at the end, and p = (step - w total) / (total - w total):

    step < w total       step / (w total)                      P. Goyal et al., 2017, arXiv 1706.02677, section 2.2
    constant             1
    linear               1 - (1 - f) p
    cosine               f + (1 - f) (1 + cos(pi p)) / 2       I. Loshchilov and F. Hutter, "SGDR: Stochastic Gradient
                                                               Descent with Warm Restarts", ICLR 2017, arXiv 1608.03983

Any other function of the two counts is a schedule too. Imports no torch.
"""

import math
from collections.abc import Callable

from geoembed.errors import DomainError, UnknownNameError

__all__ = ["SCHEDULES", "Schedule", "constant", "cosine", "linear", "schedule"]

Schedule = Callable[[int, int], float]


def constant(step: float, total: float, final: float) -> float:
    """1 throughout; `final` plays no part."""
    return 1.0


def linear(step: float, total: float, final: float) -> float:
    """A straight line from 1 to `final`."""
    return 1 - (1 - final) * step / total


def cosine(step: float, total: float, final: float) -> float:
    """Half a wave from 1 to `final`, level at both ends."""
    return final + (1 - final) * (1 + math.cos(math.pi * step / total)) / 2


SCHEDULES: dict[str, Callable[[float, float, float], float]] = {
    "constant": constant,
    "cosine": cosine,
    "linear": linear,
}


def schedule(name: str, *, warmup: float = 0.0, final: float = 0.0) -> Schedule:
    """The schedule of this name, for `fit`: (step, total) -> factor of the learning rate.

    warmup: share of the steps, in [0, 1), in which the factor rises linearly from 0 to 1; final: factor left at the
    end, in [0, 1]. Raises UnknownNameError, and DomainError for a number out of range.

    >>> factor = schedule("linear", warmup=0.2, final=0.5)
    >>> [factor(step, 10) for step in (0, 1, 2, 6, 10)]
    [0.0, 0.5, 1.0, 0.75, 0.5]
    """
    if name not in SCHEDULES:
        raise UnknownNameError("schedule", name, SCHEDULES)
    if not 0 <= warmup < 1:
        raise DomainError(f"warmup must be a share of the steps in [0, 1), got {warmup}")
    if not 0 <= final <= 1:
        raise DomainError(f"final must be a fraction of the learning rate in [0, 1], got {final}")
    decay = SCHEDULES[name]

    def factor(step: int, total: int) -> float:
        start = warmup * total
        return step / start if step < start else decay(step - start, total - start, final)

    return factor
