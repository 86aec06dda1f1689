"""Lifted structure: a positive pair, or an anchor, against all its negatives at once.

The hardest negative is softened to a log-sum-exp, so that every negative near enough takes part:

    Lifted             1/2 [log(sum_n e^{m - d_in} + sum_n e^{m - d_jn}) + d_ij]_+^2        each positive pair (i, j)
    GeneralisedLifted  [log sum_p e^{d_ap} + log sum_n e^{m - d_an}]_+                      each anchor a

The sums over the negatives of i and of j are two numbers an item, computed once, so all pairs cost O(n^2).

References: Oh Song, Xiang, Jegelka, Savarese, CVPR 2016, arXiv:1511.06452 (lifted); Hermans, Beyer, Leibe,
arXiv:1703.07737 (generalised).
"""

from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.losses.logsums import masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row, pair_terms

__all__ = ["GeneralisedLifted", "Lifted", "generalised_lifted", "lifted"]


def lifted(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Terms:
    """1/2 [log(sum_n e^{margin - d_in} + sum_n e^{margin - d_jn}) + d_ij]_+^2 over positive pairs. D, masks: (n, n)."""
    push = masked_logsumexp(margin - D, negative)
    both = torch.logaddexp(push.unsqueeze(1), push)
    some = negative.any(1)
    return pair_terms((both + D).relu().square() / 2, positive & (some.unsqueeze(1) | some))


def generalised_lifted(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 1.0) -> Terms:
    """[log sum_p e^{d_ap} + log sum_n e^{margin - d_an}]_+, one term an anchor that has both."""
    pull, push = masked_logsumexp(D, positive), masked_logsumexp(margin - D, negative)
    return one_a_row((pull + push).relu(), positive.any(1) & negative.any(1))


class Lifted(MetricLoss):
    """Each positive pair against the negatives of both its items: `lifted`.

    Args:
        margin: in units of the distance; "auto" is 1: the median distance of the first negatives.
    """

    square = True

    def __init__(self, distance: Distance, *, margin: float | str = 1.0, **common: Any):
        super().__init__(distance, **common)
        self.margin = self._margin(margin, default=1.0)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return lifted(D, positive, negative, margin=self.margin)


class GeneralisedLifted(MetricLoss):
    """All positives of an anchor against all its negatives: `generalised_lifted`.

    Args:
        margin: in units of the distance; "auto" is 1: the median distance of the first negatives.
    """

    def __init__(self, distance: Distance, *, margin: float | str = 1.0, **common: Any):
        super().__init__(distance, **common)
        self.margin = self._margin(margin, default=1.0)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return generalised_lifted(D, positive, negative, margin=self.margin)
