"""Losses of pairs: each kind of pair is pulled or pushed by itself.

    Contrastive         mean of [d - m_p]_+ over positives + mean of [m - d]_+ over negatives
    Margin              [d - beta + m]_+ over positives, [beta - d + m]_+ over negatives, beta learnable
    BinomialDeviance    log(1 + e^{alpha (d - beta)}) over positives, log(1 + e^{alpha c (beta - d)}) over negatives
    RankedList          positives within alpha - m of their anchor, negatives beyond alpha, near ones weighing more

References: Hadsell, Chopra, LeCun, CVPR 2006 (contrastive); Wu, Manmatha, Smola, Kraehenbuehl, ICCV 2017,
arXiv:1706.07567 (margin); Yi, Lei, Liao, Li, ICPR 2014, arXiv:1407.4979 (binomial deviance); Wang, Hua, Kodirov, Hu,
Garnier, Robertson, CVPR 2019, arXiv:1903.03238 (ranked list).
"""

from typing import Any

import torch
from torch import Tensor, nn

from geoembed.distance import Distance, Items
from geoembed.errors import DataError, DomainError
from geoembed.losses.logsums import log1pexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row, pair_terms

__all__ = [
    "BinomialDeviance",
    "Contrastive",
    "Margin",
    "RankedList",
    "binomial_deviance",
    "contrastive",
    "margin_pairs",
    "ranked_list",
]

_NEVER = -1e30  # finite: a softmax over nothing but such values has a gradient


def contrastive(
    D: Tensor, positive: Tensor, negative: Tensor, *, positive_margin: float = 0.0, margin: float = 1.0
) -> tuple[Terms, Terms]:
    """Positive pairs at most `positive_margin` apart, negative ones at least `margin`: (terms, terms)."""
    return (
        pair_terms((D - positive_margin).relu(), positive),
        pair_terms((margin - D).relu(), negative),
    )


class Contrastive(MetricLoss):
    """[d - positive_margin]_+ over positive pairs plus [margin - d]_+ over negative ones.

    Args:
        margin: in units of the distance; "auto" is 1 with `unit="auto"`: the median distance of the first negatives.
    """

    def __init__(
        self, distance: Distance, *, positive_margin: float = 0.0, margin: float | str = 1.0,
        reduction: str = "mean_nonzero", **common: Any,
    ):  # fmt: skip
        super().__init__(distance, reduction=reduction, **common)
        self.positive_margin, self.margin = positive_margin, self._margin(margin, default=1.0)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> tuple[Terms, Terms]:
        return contrastive(D, positive, negative, positive_margin=self.positive_margin, margin=self.margin)


def margin_pairs(
    D: Tensor, positive: Tensor, negative: Tensor, *, beta: Tensor | float = 1.2, margin: float = 0.2
) -> Terms:
    """[d_ap - beta + margin]_+ and [beta - d_an + margin]_+, two terms a triplet. beta: a number or (n,), by anchor.

    Each positive pair counts once for each negative of its anchor, and each negative pair once for each positive: in
    the paper a positive pair comes with one sampled negative. Otherwise the many negatives would drown the positives.
    """
    edge = beta.unsqueeze(1) if isinstance(beta, Tensor) and beta.dim() else beta
    near = pair_terms((D - edge + margin).relu(), positive)
    far = pair_terms((edge - D + margin).relu(), negative)
    positives, negatives = near.count.long(), far.count.long()
    return Terms(
        near.total * negatives + far.total * positives,
        2 * positives * negatives,
        near.nonzero * negatives + far.nonzero * positives,
    )


class Margin(MetricLoss):
    """Positive pairs a margin below a learnable boundary beta, negative ones above it: `margin_pairs`, plus nu * beta.

    Args:
        margin: in units of the distance. "auto" is 0.14 with beta 0.85: the paper's 0.2 and 1.2 in units of sqrt(2),
            the distance of unit vectors that have nothing in common.
        beta: where the boundary starts, in units; None is 1.2, or 0.85 with margin="auto".
        num_classes: a boundary for each label 0 .. num_classes - 1 of an anchor instead of one for all.
        nu: weight of the boundary itself, which keeps it from growing.

    The parameter `beta`, (1,) or (num_classes,), needs an optimizer: pass it the parameters of the loss.
    """

    def __init__(
        self, distance: Distance, *, margin: float | str = 0.2, beta: float | None = None,
        num_classes: int | None = None, nu: float = 0.0, reduction: str = "mean_nonzero", **common: Any,
    ):  # fmt: skip
        super().__init__(distance, reduction=reduction, **common)
        start = (0.85 if margin == "auto" else 1.2) if beta is None else beta
        if not (start > 0 and nu >= 0):
            raise DomainError(f"Margin: beta must be positive and nu at least 0, got beta={start}, nu={nu}")
        if num_classes is not None and num_classes < 1:
            raise DomainError(f"Margin: num_classes must be at least 1, got {num_classes}")
        self.margin, self.nu = self._margin(margin, default=0.14), nu
        self.beta = nn.Parameter(torch.full((num_classes or 1,), float(start)))

    def forward(self, x: Items | None, labels: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        self._labels = labels  # of the anchors: which boundary each has
        try:
            return super().forward(x, labels, *args, **kwargs)
        finally:
            del self._labels

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms | tuple[Terms, Terms]:
        beta = self._boundaries().to(D.dtype)
        found = margin_pairs(D, positive, negative, beta=beta, margin=self.margin)
        return (found, one_a_row(self.nu * beta, found.count > 0)) if self.nu else found

    def _boundaries(self) -> Tensor:
        """beta of each anchor, (n,)."""
        labels, classes = self._labels, len(self.beta)
        if classes == 1:
            return self.beta.expand(len(labels))
        outside = (labels < 0) | (labels >= classes)
        if bool(outside.any()):
            raise DataError(
                f"Margin: labels must lie in 0 .. {classes - 1} for num_classes={classes}, but {int(outside.sum())} do "
                f"not, the first is {labels[outside][0].item()}. Number the classes from 0, or leave num_classes out."
            )
        return self.beta[labels]


def binomial_deviance(
    D: Tensor, positive: Tensor, negative: Tensor, *, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0
) -> tuple[Terms, Terms]:
    """log(1 + e^{alpha (d - beta)}) over positives, log(1 + e^{alpha cost (beta - d)}) over negatives: two `Terms`."""
    return (
        pair_terms(log1pexp(alpha * (D - beta)), positive),
        pair_terms(log1pexp(alpha * cost * (beta - D)), negative),
    )


class BinomialDeviance(MetricLoss):
    """A soft boundary beta: `binomial_deviance`, the mean over positive pairs plus the mean over negative ones.

    The paper has a similarity s, log(1 + e^{-alpha (s - b) M}) with M = 1 for positives and -cost for negatives: it is
    this with d = 1 - s, as in `Cosine`, and beta = 1 - b. Only s - b enters, so any distance will do.

    Args:
        alpha: steepness, per unit of the distance. beta: the boundary, in units.
        cost: how much steeper the negatives are; 25 is from Ustinova, Lempitsky, NeurIPS 2016, arXiv:1611.00822.
    """

    def __init__(self, distance: Distance, *, alpha: float = 2.0, beta: float = 0.5, cost: float = 25.0, **common: Any):
        super().__init__(distance, **common)
        if not (alpha > 0 and cost > 0):
            raise DomainError(f"BinomialDeviance: alpha and cost must be positive, got alpha={alpha}, cost={cost}")
        self.alpha, self.beta, self.cost = alpha, beta, cost

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> tuple[Terms, Terms]:
        return binomial_deviance(D, positive, negative, alpha=self.alpha, beta=self.beta, cost=self.cost)


def ranked_list(
    D: Tensor, positive: Tensor, negative: Tensor, *, alpha: float = 1.2, margin: float = 0.4,
    temperature: float = 10.0, balance: float = 0.5,
) -> Terms:  # fmt: skip
    """(1 - balance) L_P + balance L_N, one term an anchor.

    L_P is the mean of d - (alpha - margin) over the positives beyond alpha - margin; L_N that of alpha - d over the
    negatives within alpha, weighted by w = e^{temperature (alpha - d)}. The gradient goes through the weights too.
    """
    above, below = D - (alpha - margin), alpha - D
    near = pair_terms(above.relu(), positive)
    pull = near.total / near.nonzero.clamp(min=1)
    inside = negative & (below > 0)
    weights = torch.where(inside, temperature * below, _NEVER).softmax(1)
    push = torch.where(inside, weights * below, 0.0).sum(1)
    return one_a_row((1 - balance) * pull + balance * push, (positive | negative).any(1))


class RankedList(MetricLoss):
    """Each anchor's positives within alpha - margin of it, its negatives beyond alpha: `ranked_list`.

    Args:
        alpha: how far negatives shall be, in units of the distance; None is 1.2, or 0.85 with margin="auto".
        margin: how much nearer positives shall be. "auto" is 0.28 with alpha 0.85: the paper's 0.4 and 1.2 in units of
            sqrt(2), the distance of unit vectors that have nothing in common.
        temperature: per unit; 0 weighs all negatives alike.
        balance: weight of the negatives, from 0 to 1; the positives have the rest.
    """

    def __init__(
        self, distance: Distance, *, alpha: float | None = None, margin: float | str = 0.4,
        temperature: float = 10.0, balance: float = 0.5, **common: Any,
    ):  # fmt: skip
        super().__init__(distance, **common)
        if not (temperature >= 0 and 0 <= balance <= 1):
            raise DomainError(
                "RankedList: temperature must be at least 0 and balance in [0, 1], got "
                f"temperature={temperature}, balance={balance}"
            )
        self.alpha = (0.85 if margin == "auto" else 1.2) if alpha is None else alpha
        self.margin = self._margin(margin, default=0.28)
        self.temperature, self.balance = temperature, balance

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return ranked_list(
            D, positive, negative,
            alpha=self.alpha, margin=self.margin, temperature=self.temperature, balance=self.balance,
        )  # fmt: skip
