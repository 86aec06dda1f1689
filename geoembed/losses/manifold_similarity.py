"""The N-pair loss on manifold similarities: how a random walk over the batch gets from one item to another.

    S_ij = e^{-d_ij / scale}, S_ii = 0        the walk's weights
    W    = R^{-1/2} S R^{-1/2}                R the row sums of S
    F    = (1 - a) (I - a W)^{-1}             where the walk ends that goes on with probability a at each step
    loss_i = log(1 + sum_n e^{[F_in - min_p F_ip + margin]_+})      p the positives and n the negatives of i

An item is near another if there is a way of short steps between them, though they be far apart: the batch tells what
the manifold is. A constant factor of S changes neither W nor F, so with `Cosine` and scale 0.5 this is the paper's
S_ij = e^{s_ij / 0.5} of cosines s. W is made from logarithms: at any scale of the distances every item has steps to its
nearest neighbours. Of an asymmetric distance both directions are averaged.

The paper also learns K proxies, points that join the walk, one for each random group of classes, "hard" in that they
are as near to one another as their groups allow, and trains an ensemble of networks on different groupings. Here the
items themselves stand for their classes, which needs no points in the space of the distance: the positive that the walk
reaches least for the anchor's own, each negative for another. Learned proxies, the ensemble and the loss of context
(cosines between rows of F) are left out.

Reference: Aziere, Todorovic, "Ensemble deep manifold similarity learning using hard proxies", CVPR 2019.
"""

import math
from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.losses.logsums import masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.terms import Terms, one_a_row

__all__ = ["ManifoldSimilarity", "manifold_similarity", "walk"]


def walk(D: Tensor, *, scale: float = 0.5, alpha: float = 0.8) -> Tensor:
    """The matrix F of manifold similarities. D: (n, n) -> (n, n). Costs O(n^3) time and O(n^2) memory."""
    own = torch.eye(len(D), dtype=torch.bool, device=D.device)
    logs = torch.where(own, -math.inf, (D + D.mT) / (-2 * scale))
    half = masked_logsumexp(logs, ~own) / 2
    steps = (logs - half.unsqueeze(1) - half).exp()
    return (1 - alpha) * torch.linalg.inv(own.to(D.dtype) - alpha * steps)


def manifold_similarity(
    D: Tensor, positive: Tensor, negative: Tensor, *, scale: float = 0.5, alpha: float = 0.8, margin: float = 5e-4
) -> Terms:
    """One term an anchor that has both kinds of pairs. D, positive, negative: (n, n)."""
    F = walk(D, scale=scale, alpha=alpha)
    hardest = torch.where(positive, F, math.inf).amin(1, keepdim=True)
    excess = torch.where(negative, F - hardest + margin, 0.0).relu()
    values = torch.where(negative, excess.exp(), 0.0).sum(1).log1p()
    return one_a_row(values, positive.any(1) & negative.any(1))


class ManifoldSimilarity(MetricLoss):
    """A walk over the batch shall get from an anchor to each of its positives more often than to any negative.

    It takes no `ref`: the walk goes over the columns as well. The least value is log(1 + number of negatives), not 0.

    Args:
        scale: length of a step, in units of the distance.
        alpha: probability in (0, 1) that the walk goes on.
        margin: of the similarities F, whose mean is about 1 / n.
    """

    square = True

    def __init__(
        self, distance: Distance, *, scale: float = 0.5, alpha: float = 0.8, margin: float = 5e-4, **common: Any
    ):
        super().__init__(distance, **common)
        if not (scale > 0 and 0 < alpha < 1):
            raise DomainError(
                "ManifoldSimilarity: scale must be positive and alpha between 0 and 1, got "
                f"scale={scale}, alpha={alpha}"
            )
        self.scale, self.alpha, self.margin = scale, alpha, margin

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        return manifold_similarity(D, positive, negative, scale=self.scale, alpha=self.alpha, margin=self.margin)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}, alpha={self.alpha:g}, margin={self.margin:g}, {super().extra_repr()}"
