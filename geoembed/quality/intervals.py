"""What a few seeds say: means with intervals, and whether one method is better than another.

    mean +- t_{n-1, (1 + confidence) / 2} s / sqrt(n)        s = standard deviation over the n seeds (n - 1 in it)

Two methods are compared on the same seeds and folds by the interval of their paired differences, which is narrower than
the two intervals where a hard fold is hard for both. Of many comparisons some come out by chance: Holm's step-down
procedure multiplies the i-th smallest of m p-values by m - i + 1, so that the probability of a single wrong "better"
stays below 1 - confidence.

References: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, arXiv:2003.08505 (why); Holm, "A
simple sequentially rejective multiple test procedure", Scandinavian Journal of Statistics 6, 1979.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from geoembed.errors import DomainError, ShapeError

__all__ = ["Comparison", "Interval", "compare", "compare_all", "holm", "interval"]


@dataclass(frozen=True)
class Interval:
    """A mean and the half-width of its interval, infinite for one value; n values at this confidence."""

    mean: float
    half_width: float
    n: int
    confidence: float = 0.95

    @property
    def low(self) -> float:
        return self.mean - self.half_width

    @property
    def high(self) -> float:
        return self.mean + self.half_width

    def __contains__(self, value: float) -> bool:
        return self.low <= value <= self.high

    def __str__(self) -> str:
        return f"{self.mean:.4f} ± {self.half_width:.4f}" if self.n > 1 else f"{self.mean:.4f} (one value)"


@dataclass(frozen=True)
class Comparison:
    """difference: interval of a - b over pairs; p: of no difference, two-sided; larger values are better.

    verdict: "a better" or "b better" where p < 1 - confidence, else "no difference".
    """

    a: str
    b: str
    difference: Interval
    p: float

    @property
    def verdict(self) -> str:
        if not self.p < 1 - self.difference.confidence:
            return "no difference"
        return f"{self.a if self.difference.mean > 0 else self.b} better"

    def __str__(self) -> str:
        return f"{self.a} - {self.b}: {self.difference}, p = {self.p:.3g}: {self.verdict}"


def interval(values: Any, confidence: float = 0.95) -> Interval:
    """Mean and t-interval of one value a seed. values: (n,), n >= 1.

    Raises ShapeError for something else than a list of numbers, DomainError for none, or one that is not finite.

    >>> print(interval([0.71, 0.74, 0.73, 0.70, 0.72]))
    0.7200 ± 0.0196
    """
    x = _numbers(values, "values")
    if not 0 < confidence < 1:
        raise DomainError(f"confidence must be between 0 and 1, got {confidence}")
    n = len(x)
    if n == 1:
        return Interval(float(x[0]), math.inf, 1, confidence)
    from scipy.special import stdtrit

    error = float(x.std(ddof=1)) / math.sqrt(n)
    return Interval(float(x.mean()), float(stdtrit(n - 1, (1 + confidence) / 2)) * error, n, confidence)


def compare(a: Any, b: Any, *, confidence: float = 0.95, names: tuple[str, str] = ("a", "b")) -> Comparison:
    """Paired t-test of two methods on the same seeds and folds, larger values being better. a, b: (n,), in one order.

    With one pair there is no verdict but "no difference". Raises ShapeError for lists of different lengths.

    >>> compare([0.71, 0.74, 0.73], [0.61, 0.66, 0.64]).verdict
    'a better'
    """
    x, y = _numbers(a, names[0]), _numbers(b, names[1])
    if len(x) != len(y):
        raise ShapeError(f"pairs are compared: {names[0]} has {len(x)} values and {names[1]} {len(y)}")
    difference = interval(x - y, confidence)
    return Comparison(*names, difference, _p(x - y))


def compare_all(methods: Mapping[str, Any], *, confidence: float = 0.95) -> list[Comparison]:
    """`compare` each pair of methods; the p-values, and so the verdicts, are corrected by Holm's procedure.

    methods: name -> (n,) values, the same seeds and folds in one order.
    """
    pairs = itertools.combinations(methods, 2)
    found = [compare(methods[a], methods[b], confidence=confidence, names=(a, b)) for a, b in pairs]
    return [replace(c, p=p) for c, p in zip(found, holm([c.p for c in found]), strict=True)]


def holm(p: Sequence[float]) -> list[float]:
    """Holm's corrected p-values, in the order given.

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    adjusted, largest = [0.0] * len(p), 0.0
    for rank, i in enumerate(sorted(range(len(p)), key=p.__getitem__)):
        largest = max(largest, min(1.0, (len(p) - rank) * p[i]))
        adjusted[i] = largest
    return adjusted


def _p(difference: np.ndarray) -> float:
    """Two-sided p-value of a mean of zero."""
    n = len(difference)
    if n == 1:
        return 1.0
    from scipy.special import stdtr

    mean, error = abs(float(difference.mean())), float(difference.std(ddof=1)) / math.sqrt(n)
    if error <= np.finfo(float).eps * mean:  # all differences alike
        return 0.0 if mean else 1.0
    return 2 * float(stdtr(n - 1, -mean / error))


def _numbers(values: Any, name: str) -> np.ndarray:
    x = np.asarray(values, dtype=np.float64)
    if x.ndim != 1:
        raise ShapeError(f"{name} must be one number a seed, (n,), got shape {x.shape}")
    bad = np.flatnonzero(~np.isfinite(x))
    if not len(x) or len(bad):
        what = f"value {bad[0]} is {x[bad[0]]}" if len(bad) else "there are none"
        raise DomainError(f"{name} must be one or more finite numbers: {what}")
    return x
