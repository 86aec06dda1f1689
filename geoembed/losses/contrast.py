"""Losses of an anchor's positives against its negatives, all weighed at once by a softmax of their distances.

With s = -d / T for a temperature T, p the positives of an anchor, n its negatives and Z(.) the sum of e^s over them:

    NCA                -log( Z(p) / (Z(p) + Z(n)) )
    NTXent             -log( e^{s_ap} / (e^{s_ap} + Z(n)) )                      a term a positive pair; InfoNCE
    SupCon             -mean_p log( e^{s_ap} / (Z(p) + Z(n)) )
    InstanceSpreading  that of SupCon - sum_n log(1 - e^{s_an} / (Z(p) + Z(n)))
    MultiSimilarity    log(1 + sum_p e^{alpha (d_ap - base)}) / alpha + log(1 + sum_n e^{beta (base - d_an)}) / beta

Where nothing else is said there is a term an anchor. All of them are sums over a row of the matrix, so they cost O(n m)
time and memory; there is no tensor of pairs against negatives. No share is divided out before its logarithm is taken,
so one that rounds to 0 or 1 spoils neither value nor gradient, not even at distances of 1e4 and temperature 0.001.

The papers write e^{<u, v> / T} for unit vectors: with `Cosine`, d = 1 - <u, v>, that is the same loss, as the constant
cancels. Where a paper squares the distance, as the first does, so does `Power(distance, 2)`.

References: Goldberger, Roweis, Hinton, Salakhutdinov, "Neighbourhood components analysis", NeurIPS 2004; Sohn, NeurIPS
2016, van den Oord, Li, Vinyals, arXiv:1807.03748, and Chen, Kornblith, Norouzi, Hinton, ICML 2020, arXiv:2002.05709
(NT-Xent); Khosla et al., NeurIPS 2020, arXiv:2004.11362 (SupCon, its L_out); Ye, Zhang, Yuen, Chang, CVPR 2019,
arXiv:1904.03436 (instance spreading); Wang, Han, Huang, Dong, Scott, CVPR 2019, arXiv:1904.06627 (multi-similarity).
"""

import math
from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.losses.logsums import log1pexp, masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row, pair_terms

__all__ = [
    "NCA",
    "InstanceSpreading",
    "MultiSimilarity",
    "NTXent",
    "SupCon",
    "instance_spreading",
    "multi_similarity",
    "nca",
    "nt_xent",
    "sup_con",
]


def nca(D: Tensor, positive: Tensor, negative: Tensor, *, temperature: float = 1.0) -> Terms:
    """-log of the share of the positives in sum e^{-d / temperature}."""
    s = D / -temperature
    return one_a_row(log1pexp(masked_logsumexp(s, negative) - masked_logsumexp(s, positive)), positive.any(1))


def nt_xent(D: Tensor, positive: Tensor, negative: Tensor, *, temperature: float = 0.07) -> Terms:
    """-log of the share of each positive among itself and the negatives of its anchor."""
    s = D / -temperature
    return pair_terms(log1pexp(masked_logsumexp(s, negative).unsqueeze(1) - s), positive)


def sup_con(D: Tensor, positive: Tensor, negative: Tensor, *, temperature: float = 0.1) -> Terms:
    """-log of the share of each positive among all positives and negatives, their mean for each anchor."""
    s = D / -temperature
    return one_a_row(masked_logsumexp(s, positive | negative) - _mean(s, positive), positive.any(1))


def instance_spreading(D: Tensor, positive: Tensor, negative: Tensor, *, temperature: float = 0.1) -> Terms:
    """`sup_con` over views, and beside it -log(1 - P) for each negative, P its share among positives and negatives."""
    s = D / -temperature
    others = positive | negative
    shares = torch.where(others, s, torch.finfo(s.dtype).min).softmax(1)
    # Only the largest share can round to 1. Its rest is summed anew; the others, at most 1/2, leave digits in 1 - P.
    top = shares.argmax(1, keepdim=True)
    largest = log1pexp(s.gather(1, top).squeeze(1) - masked_logsumexp(s, others.scatter(1, top, False)))
    spread = torch.where(negative, -torch.log1p(-shares.scatter(1, top, 0.0)), 0.0).sum(1)
    spread = spread + torch.where(negative.gather(1, top).squeeze(1), largest, 0.0)
    return one_a_row(masked_logsumexp(s, others) - _mean(s, positive) + spread, positive.any(1))


def multi_similarity(
    D: Tensor, positive: Tensor, negative: Tensor, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5
) -> Terms:
    """Soft maxima of d - base over the positives and of base - d over the negatives, added for each anchor."""
    pull = log1pexp(masked_logsumexp(alpha * (D - base), positive)) / alpha
    push = log1pexp(masked_logsumexp(beta * (base - D), negative)) / beta
    return one_a_row(pull + push, (positive | negative).any(1))


def _mean(s: Tensor, mask: Tensor) -> Tensor:
    """Mean over the entries of each row where mask, or 0. (n, m) -> (n,)."""
    return torch.where(mask, s, 0.0).sum(1) / mask.sum(1).clamp(min=1)


class _Softmax(MetricLoss):
    """A loss of the shares of e^{-d / temperature}; `temperature` is in units of the distance."""

    def __init__(self, distance: Distance, *, temperature: float, **common: Any):
        super().__init__(distance, **common)
        if not 0 < temperature < math.inf:
            raise DomainError(f"{type(self).__name__}: temperature must be positive and finite, got {temperature}")
        self.temperature = temperature

    def extra_repr(self) -> str:
        return f"temperature={self.temperature:g}, {super().extra_repr()}"


class NCA(_Softmax):
    """Neighbourhood components analysis: an anchor that picks another item, likelier the nearer, picks a positive.

    The loss is the -log of that probability; the paper maximises the probability itself or its logarithm. With
    `Power(Euclidean(), 2)` and temperature 1 the weights are the paper's e^{-|x - y|^2}.
    """

    def __init__(self, distance: Distance, *, temperature: float = 1.0, **common: Any):
        super().__init__(distance, temperature=temperature, **common)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return nca(D, positive, negative, temperature=self.temperature)


class NTXent(_Softmax):
    """Normalised temperature-scaled cross entropy, InfoNCE: each positive against the negatives of its anchor.

    Other positives of the anchor are not in the denominator. For two views of a batch of unlabelled items join the
    views and give the items' numbers as labels.
    """

    def __init__(self, distance: Distance, *, temperature: float = 0.07, **common: Any):
        super().__init__(distance, temperature=temperature, **common)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return nt_xent(D, positive, negative, temperature=self.temperature)


class SupCon(_Softmax):
    """Supervised contrastive: each positive against all other items, its fellow positives too."""

    def __init__(self, distance: Distance, *, temperature: float = 0.1, **common: Any):
        super().__init__(distance, temperature=temperature, **common)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return sup_con(D, positive, negative, temperature=self.temperature)


class InstanceSpreading(_Softmax):
    """Invariant and spreading instance features: views of an item attract, and no other item may pass for it.

    Labels are the numbers of the items. As in the authors' code all views of a batch, joined, are anchors, and an
    anchor is no candidate of its own; with the items as `ref` of their views the first sum is exactly the paper's.
    """

    def __init__(self, distance: Distance, *, temperature: float = 0.1, **common: Any):
        super().__init__(distance, temperature=temperature, **common)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return instance_spreading(D, positive, negative, temperature=self.temperature)


class MultiSimilarity(MetricLoss):
    """Positives farther than `base` and negatives nearer weigh the more the farther they are on the wrong side.

    An anchor without positives, or without negatives, has the other half of its term. The paper's similarity s and its
    base lambda are s = c - d and lambda = c - base for any c: under `Cosine` c = 1, so its lambda = 0.5 is base = 0.5.

    Args:
        alpha, beta: sharpness for positives and for negatives, per unit of distance. The authors' code has beta = 40.
        base: a distance that positives stay below and negatives above, in units.
    """

    def __init__(self, distance: Distance, *, alpha: float = 2.0, beta: float = 50.0, base: float = 0.5, **common: Any):
        super().__init__(distance, **common)
        if not (alpha > 0 and beta > 0):
            raise DomainError(f"MultiSimilarity: alpha and beta must be positive, got alpha={alpha}, beta={beta}")
        self.alpha, self.beta, self.base = alpha, beta, base

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return multi_similarity(D, positive, negative, alpha=self.alpha, beta=self.beta, base=self.base)

    def extra_repr(self) -> str:
        return f"alpha={self.alpha:g}, beta={self.beta:g}, base={self.base:g}, {super().extra_repr()}"
