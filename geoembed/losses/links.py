"""Losses of link prediction: functions of the scores of triples and of their negatives; higher scores are likelier.

With s the score of a triple, s_1 .. s_N those of its negatives and w the weight of the negatives:

    bce                softplus(-s) + w mean_j softplus(s_j)
    softmax            log( e^s + w mean_j e^{s_j} ) - s            w = n_entities estimates the softmax over all
    margin             w mean_j max(0, margin - s + s_j)
    self_adversarial   softplus(-margin - s) + w sum_j p_j softplus(margin + s_j)
                       with p = softmax(temperature s_j) held constant

Label smoothing by e: in bce each target t becomes (1 - e) t + e / 2; in softmax a share e of the target is spread
evenly over the triple and its negatives. A negative with the score `LEFT_OUT` counts for nothing.

`bce_k_vs_all` and `softmax_k_vs_all` are bce and softmax with all entities as negatives, for all the tails of a query
at once: what each (head, relation) costs is scored once. In them known tails are no negatives (bce), or compete as in
1-vs-all (softmax).

References: Sun, Deng, Nie, Tang, ICLR 2019, arXiv:1902.10197 (self-adversarial); Lacroix, Usunier, Obozinski, ICML
2018, arXiv:1806.07297 (softmax, 1-vs-all); Dettmers, Minervini, Stenetorp, Riedel, AAAI 2018, arXiv:1707.01476
(K-vs-all); Ruffinelli, Broscheit, Gemulla, "You CAN teach an old dog new tricks!", ICLR 2020 (comparison).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

__all__ = [
    "LEFT_OUT",
    "LINK_LOSSES",
    "bce",
    "bce_k_vs_all",
    "margin",
    "self_adversarial",
    "softmax",
    "softmax_k_vs_all",
]

LEFT_OUT = -1e30  # finite: a softmax over nothing but such scores is no NaN


def bce(positive: Tensor, negative: Tensor, *, weight: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Binary cross-entropy. positive: (B,), negative: (B, N) -> (B,)."""
    negatives = F.softplus(negative)
    if smoothing:
        negatives = negatives - smoothing / 2 * _kept(negative)
    return F.softplus(-positive) + smoothing / 2 * positive + weight * negatives.mean(-1)


def softmax(positive: Tensor, negative: Tensor, *, weight: float = 1.0, smoothing: float = 0.0) -> Tensor:
    """Cross-entropy of a softmax over the triple and its negatives. positive: (B,), negative: (B, N) -> (B,)."""
    shifted = negative + math.log(weight / negative.shape[-1])
    total = torch.logaddexp(positive, shifted.logsumexp(-1))
    if not smoothing:
        return total - positive
    kept = (negative > LEFT_OUT / 2).sum(-1)
    mean = (positive + _kept(negative).sum(-1)) / (1 + kept)
    return total - (1 - smoothing) * positive - smoothing * mean


def margin(positive: Tensor, negative: Tensor, *, weight: float = 1.0, margin: float = 1.0) -> Tensor:
    """Hinge on the difference of the scores. positive: (B,), negative: (B, N) -> (B,)."""
    return weight * (margin - positive.unsqueeze(-1) + negative).relu().mean(-1)


def self_adversarial(
    positive: Tensor, negative: Tensor, *, weight: float = 1.0, margin: float = 1.0, temperature: float = 1.0
) -> Tensor:
    """Negatives weigh by how likely the model thinks them. positive: (B,), negative: (B, N) -> (B,)."""
    score = negative.detach()
    p = torch.where(score > LEFT_OUT / 2, temperature * score, LEFT_OUT).softmax(-1)  # at temperature 0 too
    return F.softplus(-margin - positive) + weight * (p * F.softplus(margin + negative)).sum(-1)


def bce_k_vs_all(
    scores: Tensor, rows: Tensor, columns: Tensor, *, weight: float = 1.0, smoothing: float = 0.0
) -> Tensor:
    """Sum of `bce` over the tails of each query. scores: (B, n); its tails are scores[rows, columns]: (k,) -> (B,)."""
    true = scores[rows, columns]
    negatives = F.softplus(scores)
    if smoothing:
        negatives = negatives - smoothing / 2 * scores
    negatives.index_put_((rows, columns), scores.new_zeros(()))  # subtracted from the sum, they would drown the rest
    counts = rows.bincount(minlength=len(scores))
    positives = F.softplus(-true) + smoothing / 2 * true
    return _sum_rows(positives, rows, len(scores)) + weight / scores.shape[-1] * counts * negatives.sum(-1)


def softmax_k_vs_all(
    scores: Tensor, rows: Tensor, columns: Tensor, *, weight: float = 1.0, smoothing: float = 0.0
) -> Tensor:
    """Sum of `softmax` over the tails of each query. scores: (B, n); its tails are scores[rows, columns]: (k,) -> (B,).

    `weight` is taken as n: the sum over all entities needs no estimate.
    """
    counts = rows.bincount(minlength=len(scores))
    total, true = _LogSumExp.apply(scores, rows, columns)
    loss = counts * total - (1 - smoothing) * _sum_rows(true, rows, len(scores))
    return loss - smoothing * counts * scores.mean(-1) if smoothing else loss


class _LogSumExp(torch.autograd.Function):
    """scores.logsumexp(-1): (B,) and scores[rows, columns]: (k,), with one pass over the scores for both gradients."""

    @staticmethod
    def forward(ctx: Any, scores: Tensor, rows: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
        top = scores.amax(-1, keepdim=True)
        exps = (scores - top).exp_()
        total = exps.sum(-1)
        ctx.save_for_backward(exps, total, rows, columns)
        return total.log() + top.squeeze(-1), scores[rows, columns]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Tensor, of_true: Tensor) -> tuple[Tensor, None, None]:
        exps, total, rows, columns = ctx.saved_tensors
        gradient = exps * (of_total / total).unsqueeze(-1)
        return gradient.index_put_((rows, columns), of_true, accumulate=True), None, None


def _sum_rows(values: Tensor, rows: Tensor, n: int) -> Tensor:
    return values.new_zeros(n).index_add(0, rows, values)


def _kept(negative: Tensor) -> Tensor:
    """The scores, 0 where they are left out."""
    return torch.where(negative > LEFT_OUT / 2, negative, 0.0)


LINK_LOSSES: dict[str, Callable[..., Tensor]] = {
    "bce": bce,
    "margin": margin,
    "self-adversarial": self_adversarial,
    "softmax": softmax,
}
