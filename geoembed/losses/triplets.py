"""Losses of triplets: an anchor a, a positive p of its label and a negative n of another.

    Triplet            [d_ap - d_an + m]_+                mean over all triplets of the batch
    HardTriplet        the same for the farthest positive and the nearest negative of each anchor
    SemiHardTriplet    for each positive the nearest negative farther than it, or else the farthest negative
    SoftMarginTriplet  log(1 + e^{d_ap - d_an})           mean over all triplets
    NPair              log(1 + sum_n e^{d_ap - d_an})     mean over positive pairs
    OddOneOut          [d_ap - d_an + m]_+ + [d_ap - d_pn + m]_+

The hinge is linear in D with whole-number coefficients: d_ap counts once for each negative nearer than d_ap + m, and
d_an is subtracted once for each positive that puts it within the margin. Sorting the positives of each row gives the
counts, so all n^3 triplets cost O(n^2 log n) time and O(n^2) memory. The soft margin has no such form: it takes a pass
over D for each positive of an anchor, and adds up the slopes as it goes, so its memory is O(n^2) too.

References: Weinberger, Saul, JMLR 2009 (the hinge); Schroff, Kalenichenko, Philbin, CVPR 2015, arXiv:1503.03832
(semi-hard); Hermans, Beyer, Leibe, arXiv:1703.07737 (batch hard, soft margin); Sohn, NeurIPS 2016 (N-pair);
Vemulapalli, Agarwala, CVPR 2019, arXiv:1811.11283 (odd one out).
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from geoembed.distance import Distance
from geoembed.losses.logsums import log1pexp, masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row, pair_terms

__all__ = [
    "HardTriplet",
    "NPair",
    "OddOneOut",
    "SemiHardTriplet",
    "SoftMarginTriplet",
    "Triplet",
    "hard_triplet",
    "n_pair",
    "odd_one_out",
    "semi_hard_triplet",
    "soft_margin_triplet",
    "triplet",
]


def triplet(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.2) -> Terms:
    """[d_ap - d_an + margin]_+ over all triplets."""
    with torch.no_grad():
        reach, _, places = _listed(D + margin, positive)
        # How many positives each entry of the row leaves within the margin, how many negatives each positive has there.
        first = torch.searchsorted(reach, D.contiguous(), right=True)  # positives before it do not reach the entry
        per_negative = positive.sum(1, keepdim=True) - first
        per_negative = torch.where(negative, per_negative.clamp_(min=0), 0)
        reached = torch.zeros(len(D), reach.shape[1] + 1, dtype=D.dtype, device=D.device)
        reached.scatter_add_(1, first, negative.to(D.dtype))
        per_positive = reached.cumsum(1)[:, :-1]
        weight = -per_negative.to(D.dtype)
        weight.scatter_add_(1, places, per_positive * (reach < math.inf))
        nonzero = per_negative.sum(1)
    total = (weight * D).sum(1) + margin * nonzero.to(D.dtype)
    return Terms(total, positive.sum(1) * negative.sum(1), nonzero)


def hard_triplet(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.2) -> Terms:
    """[max_p d_ap - min_n d_an + margin]_+, one term an anchor that has both."""
    farthest = _largest(torch.where(positive, D, -math.inf))
    nearest = -_largest(torch.where(negative, -D, -math.inf))
    return one_a_row((farthest - nearest + margin).relu(), positive.any(1) & negative.any(1))


def semi_hard_triplet(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.2) -> Terms:
    """[d_ap - d_an + margin]_+, n the nearest negative with d_an > d_ap, or if there is none the farthest negative."""
    near, _, columns = _listed(D.detach(), positive)
    far, number, places = _listed(D.detach(), negative)
    chosen = torch.minimum(torch.searchsorted(far, near, right=True), (number - 1).clamp(min=0).unsqueeze(1))
    hinge = D.gather(1, columns) - D.gather(1, places.gather(1, chosen)) + margin
    return pair_terms(hinge.relu(), (near < math.inf) & (number > 0).unsqueeze(1))


def soft_margin_triplet(D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
    """log(1 + e^{d_ap - d_an}) over all triplets."""
    count = positive.sum(1) * negative.sum(1)
    return Terms(_SoftTriplets.apply(D, positive, negative), count, count)


class _SoftTriplets(torch.autograd.Function):
    """Sum of log(1 + e^{d_ap - d_an}) over the triplets of each anchor, (n,)."""

    @staticmethod
    def forward(ctx: Any, D: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        near, _, columns = _listed(D, positive)
        total, slope, pulls = D.new_zeros(len(D)), torch.zeros_like(D), torch.zeros_like(near)
        for rank in range(near.shape[1]):
            d_ap = near[:, rank : rank + 1]
            excess = torch.where(negative & (d_ap < math.inf), d_ap - D, -math.inf)
            total += log1pexp(excess).sum(1)
            share = excess.sigmoid_()
            pulls[:, rank] = share.sum(1)
            slope -= share
        ctx.save_for_backward(slope.scatter_add_(1, columns, pulls))
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        (slope,) = ctx.saved_tensors
        return grad.unsqueeze(1) * slope, None, None


def n_pair(D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
    """log(1 + sum_n e^{d_ap - d_an}) over positive pairs (a, p) whose anchor has a negative."""
    rest = masked_logsumexp(-D, negative).unsqueeze(1)
    return pair_terms(log1pexp(D + rest), positive & negative.any(1, keepdim=True))


def odd_one_out(D: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.2) -> Terms:
    """[d_ap - d_an + margin]_+ over the negatives of a, [d_ap - d_pn + margin]_+ over those of p. D, masks: (n, n)."""
    one = triplet(D, positive, negative, margin=margin)
    two = triplet(torch.where(positive.mT, D.mT, D), positive.mT, negative, margin=margin)  # p in the place of a
    return Terms(*(a + b for a, b in zip(one, two, strict=True)))


def _listed(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Entries of each row where mask, ascending, filled up with inf (n, P); their number (n,); their columns (n, P)."""
    number = mask.sum(1)
    width = max(1, int(number.max())) if len(number) else 1
    held = torch.where(mask, values, math.inf)
    found, places = held.topk(min(width, held.shape[1]), dim=1, largest=False, sorted=True)
    return found, number, places


def _largest(values: Tensor) -> Tensor:
    """Maximum of each row, -inf of a row of none. values: (n, m) -> (n,)."""
    return values.amax(1) if values.shape[1] else values.new_full((len(values),), -math.inf)


class _Hinge(MetricLoss):
    """Base of the losses with a margin that is 0.2 by default."""

    def __init__(
        self, distance: Distance, *, margin: float | str = 0.2, reduction: str = "mean_nonzero", **common: Any
    ):
        super().__init__(distance, reduction=reduction, **common)
        self.margin = self._margin(margin, default=0.2)


class Triplet(_Hinge):
    """[d_ap - d_an + margin]_+ over all triplets of the batch.

    Args:
        margin: in units of the distance; "auto" is 0.2 of the median distance of the first negatives.
    """

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return triplet(D, positive, negative, margin=self.margin)


class HardTriplet(_Hinge):
    """Batch hard: the farthest positive against the nearest negative of each anchor. Arguments of `Triplet`."""

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return hard_triplet(D, positive, negative, margin=self.margin)


class SemiHardTriplet(_Hinge):
    """Each positive against one negative: the nearest that is farther, else the farthest. Arguments of `Triplet`."""

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return semi_hard_triplet(D, positive, negative, margin=self.margin)


class SoftMarginTriplet(MetricLoss):
    """log(1 + e^{d_ap - d_an}) over all triplets of the batch, d in units: `unit` is its temperature.

    Time grows with the largest number of positives of an anchor, O(n^2) for each. It has first derivatives only.
    """

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return soft_margin_triplet(D, positive, negative)


class NPair(MetricLoss):
    """log(1 + sum_n e^{d_ap - d_an}) over positive pairs, each against all negatives of its anchor; d in units.

    The paper has -<x, y> for d (`NegativeInner`) and one negative of each other label: give one item of each label as x
    and its partner as ref.
    """

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return n_pair(D, positive, negative)


class OddOneOut(_Hinge):
    """[d_ap - d_an + margin]_+ + [d_ap - d_pn + margin]_+: of three items n is the odd one. Arguments of `Triplet`.

    For triplets that people judged: their items, each three once in the batch, and `mask`, positive at (a, p) and
    negative at (a, n) and (p, n). From labels and a symmetric distance both hinges run over the same triplets, and the
    mean is that of `Triplet`; an asymmetric distance is read in both directions, d_pn from p.
    """

    square = True

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return odd_one_out(D, positive, negative, margin=self.margin)
