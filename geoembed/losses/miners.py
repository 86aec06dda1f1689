"""Miners: which pairs of a batch a loss should see. A miner maps (D, positive, negative) to thinner masks.

    Hard                the farthest positive and the nearest negative of each anchor
    SemiHard            negatives a little farther than some positive, and those positives
    MultiSimilarity     negatives nearer than the farthest positive, positives farther than the nearest negative
    DistanceWeighted    a negative a positive, drawn so that all distances are as likely
    Rho                 now and then an anchor's own class is pushed away, so that classes keep an extent
    SpanningTree        positives along the minimum spanning tree of each class only
    TopKOfSampled       the k nearest of B negatives drawn at random

D: (n, m) distances, n and m at least 1, rows the anchors; masks: bool (n, m). A pair is kept or not, so thinning costs
O(n m) memory where lists of triplets are cubic.

References: Hermans et al., arXiv:1703.07737 (hard); Schroff et al., CVPR 2015, arXiv:1503.03832 (semi-hard); Wang et
al., CVPR 2019, arXiv:1904.06627 (multi-similarity); Wu et al., ICCV 2017, arXiv:1706.07567 (distance-weighted); Roth et
al., ICML 2020, arXiv:2002.08473 (rho); Xu et al., "Deep asymmetric metric learning via rich relationship mining", CVPR
2019 (spanning tree); Reddi et al., AISTATS 2019 (top k of a sample).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import minimum_spanning_tree
from torch import Tensor

from geoembed.errors import DomainError, ShapeError
from geoembed.losses.metric import Miner

__all__ = ["DistanceWeighted", "Hard", "MultiSimilarity", "Rho", "SemiHard", "SpanningTree", "TopKOfSampled"]

Masks = tuple[Tensor, Tensor]


def _farthest(D: Tensor, mask: Tensor) -> Tensor:
    """Largest entry of each row where mask, -inf where there is none. (n, 1)"""
    return D.masked_fill(~mask, -math.inf).amax(1, keepdim=True)


def _nearest(D: Tensor, mask: Tensor) -> Tensor:
    """Smallest entry of each row where mask, inf where there is none. (n, 1)"""
    return D.masked_fill(~mask, math.inf).amin(1, keepdim=True)


@dataclass
class Hard:
    """The farthest positive and the nearest negative of each anchor; all of them where several are as far."""

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        return positive & (_farthest(D, positive) <= D), negative & (_nearest(D, negative) >= D)


@dataclass
class SemiHard:
    """Negatives n with d_ap < d_an < d_ap + margin for some positive p of the anchor, and the p that have such an n."""

    margin: float = 0.2

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        return (
            positive & self._near(D, negative, D, D + self.margin),
            negative & self._near(D, positive, D - self.margin, D),
        )

    @staticmethod
    def _near(D: Tensor, mask: Tensor, low: Tensor, high: Tensor) -> Tensor:
        """Whether some entry of the same row, where mask, lies in the open interval (low, high). All (n, m)."""
        width = max(1, int(mask.sum(1).max()))
        listed = D.masked_fill(~mask, math.inf).topk(min(width, D.shape[1]), dim=1, largest=False)[0].contiguous()
        first = torch.searchsorted(listed, low.contiguous(), right=True)
        return listed.gather(1, first.clamp_(max=listed.shape[1] - 1)).gt(low) & (listed.gather(1, first) < high)


@dataclass
class MultiSimilarity:
    """Negatives nearer than the farthest positive + epsilon; positives farther than the nearest negative - epsilon."""

    epsilon: float = 0.1

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        return (
            positive & (D + self.epsilon > _nearest(D, negative)),
            negative & (D - self.epsilon < _farthest(D, positive)),
        )


@dataclass
class DistanceWeighted:
    """For each positive of an anchor a negative, drawn with a chance inverse to how common its distance is.

    Args:
        dim: of the unit sphere that items lie on, under the Euclidean distance: there the density of distances is
            q(d) = d^(dim - 2) (1 - d^2 / 4)^((dim - 3) / 2). None measures it on the batch, for any distance, as the
            share of negatives in each of `bins` equal intervals.
        cutoff: distances below it count as it, for they are noise. In units of the distance.
        generator: draws the negatives.
    """

    dim: int | None = None
    cutoff: float = 0.0
    bins: int = 32
    generator: torch.Generator | None = None

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        kept = torch.zeros_like(negative)
        rows = (positive.any(1) & negative.any(1)).nonzero().squeeze(1)
        if not len(rows):
            return positive & False, kept
        d = D.clamp(min=self.cutoff)
        weight = self._on_a_sphere(d) if self.dim is not None else self._measured(d, negative)
        weight = torch.where(negative, weight, 0.0)[rows]
        draws = max(1, int(positive.sum(1).max()))
        drawn = torch.multinomial(weight, draws, replacement=True, generator=self.generator)
        wanted = torch.arange(draws, device=D.device) < positive[rows].sum(1, keepdim=True)
        kept[rows.unsqueeze(1).expand_as(drawn)[wanted], drawn[wanted]] = True
        return positive & kept.any(1, keepdim=True), kept

    def _on_a_sphere(self, d: Tensor) -> Tensor:
        if bool((d > 2 + 1e-4).any()):
            raise DomainError(
                f"DistanceWeighted: dim={self.dim} is for unit vectors under the Euclidean distance, at most 2, and "
                f"the largest distance is {d.max().item():g}. Without dim the density is measured on the batch."
            )
        log_q = (self.dim - 2) * d.clamp(min=1e-6).log()  # type: ignore[operator]
        log_q = log_q + (self.dim - 3) / 2 * (1 - d.square() / 4).clamp(min=1e-6).log()  # type: ignore[operator]
        return (-log_q + log_q.amin(1, keepdim=True)).exp().clamp(min=1e-30)

    def _measured(self, d: Tensor, negative: Tensor) -> Tensor:
        low, high = d[negative].aminmax()
        place = ((d - low) / (high - low).clamp(min=torch.finfo(d.dtype).tiny) * self.bins).long()
        place = place.clamp_(0, self.bins - 1)
        count = place[negative].bincount(minlength=self.bins).to(d.dtype)
        return 1 / count.clamp(min=1)[place]


@dataclass
class Rho:
    """With chance p an anchor sees itself as its positive and its own class as negatives; else what `miner` leaves.

    The class is pushed apart a little, which keeps directions that classes unseen in training need.
    """

    miner: Miner | None = None
    p: float = 0.2
    generator: torch.Generator | None = None

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        if D.shape[0] != D.shape[1]:
            raise ShapeError(
                f"Rho needs distances within a batch, where the diagonal is the item itself; got {D.shape}"
            )
        swap = torch.rand(len(D), 1, generator=self.generator).to(D.device) < self.p
        own = torch.eye(len(D), dtype=torch.bool, device=D.device)
        mined = (positive, negative) if self.miner is None else self.miner(D, positive, negative)
        return torch.where(swap, own & positive.any(1, keepdim=True), mined[0]), torch.where(swap, positive, mined[1])


@dataclass
class SpanningTree:
    """Positives only along the minimum spanning tree of each class: a class may be a chain and need not be a ball."""

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        if D.shape[0] != D.shape[1]:
            raise ShapeError(f"SpanningTree needs distances within a batch, got {tuple(D.shape)}")
        i, j = (t.numpy() for t in positive.triu(1).cpu().nonzero(as_tuple=True))
        if not len(i):
            return positive, negative
        length = ((D + D.mT) / 2).detach().cpu().numpy()[i, j]
        order = np.argsort(np.argsort(length, kind="stable")) + 1.0  # a tree knows the order only; none is zero
        tree = minimum_spanning_tree(csr_array((order, (i, j)), shape=D.shape)).tocoo()
        kept = torch.zeros_like(positive)
        kept[torch.from_numpy(tree.row.astype(np.int64)), torch.from_numpy(tree.col.astype(np.int64))] = True
        return kept | kept.mT, negative


@dataclass
class TopKOfSampled:
    """Of `sample` negatives drawn uniformly for each anchor the k nearest. With proxies as columns, of classes."""

    sample: int
    k: int
    generator: torch.Generator | None = None

    def __post_init__(self) -> None:
        if not 1 <= self.k <= self.sample:
            raise DomainError(f"TopKOfSampled: expected 1 <= k <= sample, got k={self.k} and sample={self.sample}")

    def __call__(self, D: Tensor, positive: Tensor, negative: Tensor) -> Masks:
        key = torch.rand(D.shape, generator=self.generator).to(D.device).masked_fill(~negative, 2.0)
        drawn = key.topk(min(self.sample, D.shape[1]), dim=1, largest=False)[1]
        valid = negative.gather(1, drawn)
        nearest = (
            D.gather(1, drawn).masked_fill(~valid, math.inf).topk(min(self.k, drawn.shape[1]), 1, largest=False)[1]
        )
        kept = torch.zeros_like(negative).scatter_(1, drawn.gather(1, nearest), True)
        return positive, negative & kept
