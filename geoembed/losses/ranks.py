"""Losses of how an anchor ranks the other items.

    Circle        log(1 + sum_n e^{gamma [s_n + m]_+ (s_n - m)} * sum_p e^{-gamma [1 + m - s_p]_+ (s_p - 1 + m)})
    FastAP        1 - AP, AP = 1/N sum_z h_z H_z / A_z from a soft histogram of the distances
    PrecisionAtK  sum [d_p - d_n + margin] over misplaced items: negatives among the k nearest, positives beyond them

Circle reads an `Affinity` s: its factors [.]_+ are weights, held constant in the gradient, that vanish where a pair is
beyond its target, s_p = 1 + m and s_n = -m. In FastAP h_z and H_z count the N positives in bin z and up to it, A_z all
items up to it. A distance between two bin centres counts for both by its nearness, so the counts have a gradient; two
scattered numbers a pair, no tensor of pairs and bins.

PrecisionAtK takes as many positives as negatives, those next to the k-boundary. It is the structured hinge: the largest
margin #negatives in A - sum_A d over sets A of k items, plus the sum of d over the k nearest positives. So it is at
least margin times the number of the k nearest that are negatives.

References: Sun et al., CVPR 2020, arXiv:2002.10857 (circle); Cakir, He, Xia, Kulis, Sclaroff, "Deep metric learning to
rank", CVPR 2019 (FastAP); Lu, Xu, Zhang, Duan, Mei, "Sampling wisely", ICCV 2019 (precision at k).
"""

import math
from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.losses.affinity import Affinity, affinity_for
from geoembed.losses.logsums import log1pexp, masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row

__all__ = ["Circle", "FastAP", "PrecisionAtK", "circle", "fast_ap", "precision_at_k"]


def circle(
    similarity: Tensor, positive: Tensor, negative: Tensor, *, margin: float = 0.4, gamma: float = 80.0
) -> Terms:
    """One term an anchor that has both kinds of pairs. similarity: (n, m), of coincident items 1."""
    s, fixed = similarity, similarity.detach()
    pull = -gamma * (1 + margin - fixed).relu_() * (s - (1 - margin))
    push = gamma * (fixed + margin).relu_() * (s - margin)
    values = log1pexp(masked_logsumexp(pull, positive) + masked_logsumexp(push, negative))
    return one_a_row(values, positive.any(1) & negative.any(1))


class Circle(MetricLoss):
    """Circle loss: each pair weighs by how far its affinity is from its target, 1 for positives and 0 for negatives.

    Args:
        affinity: of `losses.affinity`; None where the distance has an upper bound. Under `Cosine` it is the cosine.
        margin: relaxation; the decision boundary is a circle of radius sqrt(2) margin about s_p = 1, s_n = 0.
        gamma: scale. The paper has margin 0.4 and gamma 80 for retrieval, 0.25 and 256 for faces, 0.25 and 128 for
            persons.

    Raises DomainError for a distance without upper bound and no affinity.
    """

    def __init__(
        self, distance: Distance, *, affinity: Affinity | None = None, margin: float = 0.4, gamma: float = 80.0,
        **common: Any,
    ):  # fmt: skip
        super().__init__(distance, **common)
        if not gamma > 0:
            raise DomainError(f"Circle: gamma must be positive, got {gamma}")
        self.affinity, self.margin, self.gamma = affinity_for(distance, affinity), margin, gamma

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return circle(self.affinity(D, self.unit), positive, negative, margin=self.margin, gamma=self.gamma)

    def extra_repr(self) -> str:
        return f"margin={self.margin:g}, gamma={self.gamma:g}, {super().extra_repr()}"


def fast_ap(
    D: Tensor, positive: Tensor, negative: Tensor, *, bins: int = 10, upper: Tensor | float | None = None
) -> Terms:
    """1 - average precision, one term an anchor with positives.

    bins: the centres are k * upper / bins for k = 0 ... bins. upper: no distance exceeds it; None: the largest of D.
    """
    low = D.detach().amin().clamp(max=0)  # below zero for a distance such as NegativeInner only
    high = D.detach().amax() if upper is None else upper
    width = (high - low) / bins
    place = (D - low) / torch.where(width > 0, width, 1.0)
    left = place.detach().long().clamp_(0, bins - 1)
    right_share = (place - left).clamp(max=1)
    # Positives are counted in the first bins + 1 columns, negatives in the rest; what is neither weighs nothing.
    left = left + (bins + 1) * negative
    counted = positive | negative
    counts = D.new_zeros(len(D), 2 * (bins + 1))
    counts = counts.scatter_add(1, left, torch.where(counted, 1 - right_share, 0.0))
    counts = counts.scatter_add(1, left + 1, torch.where(counted, right_share, 0.0))
    near, far = counts.split(bins + 1, dim=1)
    near_so_far = near.cumsum(1)
    so_far = near_so_far + far.cumsum(1)
    precision = near_so_far / torch.where(so_far > 0, so_far, 1.0)
    number = positive.sum(1)
    return one_a_row(1 - (near * precision).sum(1) / number.clamp(min=1), number > 0)


class FastAP(MetricLoss):
    """Average precision of each anchor's ranking, made smooth by sorting the distances into overlapping bins.

    Args:
        bins: number of bins; the authors' default is 10, tuned ones lie about 20.
        upper: the largest distance that the bins hold, in units of the distance. None: its upper bound where it has
            one, so that `Cosine` gives the paper's histogram of |x - y|^2 in [0, 4], else the largest of the batch.
    """

    def __init__(self, distance: Distance, *, bins: int = 10, upper: float | None = None, **common: Any):
        super().__init__(distance, **common)
        if bins < 1 or (upper is not None and not 0 < upper < math.inf):
            raise DomainError(f"FastAP: bins and upper must be positive, got bins={bins}, upper={upper}")
        self.bins, self.upper = bins, upper

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        upper: Tensor | float | None = self.upper
        if upper is None and self.distance.upper_bound < math.inf:
            upper = self.distance.upper_bound / self.unit.to(D.dtype)
        return fast_ap(D, positive, negative, bins=self.bins, upper=upper)

    def extra_repr(self) -> str:
        return f"bins={self.bins}, upper={self.upper}, {super().extra_repr()}"


def precision_at_k(
    D: Tensor, positive: Tensor, negative: Tensor, *, k: int | None = None, margin: float = 0.1
) -> Terms:
    """A term a place among the k nearest of each anchor, zero where an item of its label holds it.

    k is at most the number of the anchor's positives, and that number where it is None. Negatives are ranked as if
    nearer by `margin`.
    """
    number = positive.sum(1)
    places = number if k is None else number.clamp(max=k)
    width = int(places.max()) if len(D) else 0
    ranked = torch.where(positive, D, torch.where(negative, D - margin, math.inf))
    nearest, columns = ranked.topk(width, dim=1, largest=False)
    rank = torch.arange(width, device=D.device)
    wrong = negative.gather(1, columns) & (rank < places.unsqueeze(1))
    # As many positives as negatives came before them are beyond the k nearest: the farthest of the k nearest positives.
    wanted = torch.where(positive, D, math.inf).topk(width, dim=1, largest=False).values
    first = (places - wrong.sum(1)).unsqueeze(1)
    missed = (rank >= first) & (rank < places.unsqueeze(1))
    total = torch.where(missed, wanted, 0.0).sum(1) - torch.where(wrong, nearest, 0.0).sum(1)
    return Terms(total, places, wrong.sum(1))


class PrecisionAtK(MetricLoss):
    """Misplaced items next to the k-boundary trade places: negatives leave the k nearest, as many positives enter.

    Its mean is at least margin * (1 - precision at k) for anchors with k positives.

    Args:
        k: how many of the nearest count; None: as many as the anchor has positives, which is R-precision.
        margin: how much farther than the positives the negatives shall be, in units of the distance; "auto" is 0.1 of
            the median distance of the first negatives.
    """

    def __init__(self, distance: Distance, *, k: int | None = None, margin: float | str = 0.1, **common: Any):
        super().__init__(distance, **common)
        if k is not None and k < 1:
            raise DomainError(f"PrecisionAtK: k must be at least 1, got {k}")
        self.k, self.margin = k, self._margin(margin, default=0.1)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return precision_at_k(D, positive, negative, k=self.k, margin=self.margin)

    def extra_repr(self) -> str:
        return f"k={self.k}, margin={self.margin:g}, {super().extra_repr()}"
