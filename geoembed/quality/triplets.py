"""Share of triplets that a distance orders as people did; a tie counts half.

    triplet_accuracy           d(anchor, positive) < d(anchor, negative)
    odd_one_out_accuracy       d(a, b) < d(a, odd)  and  d(a, b) < d(b, odd)

The second is the measure of Vemulapalli and Agarwala, "A Compact Embedding for Facial Expression Similarity", CVPR
2019, arXiv:1811.11283: of three items a and b are the most similar pair.
"""

from typing import Any

import torch
from torch import Tensor

from geoembed.blocks import BUDGET, check_items, pair_distances
from geoembed.distance import Distance, Items
from geoembed.errors import DomainError, ShapeError
from geoembed.quality.features import simplified

__all__ = ["odd_one_out_accuracy", "triplet_accuracy"]


def triplet_accuracy(distance: Distance, x: Items, triplets: Any, *, budget: int = BUDGET) -> float:
    """Share of triplets whose positive is nearer to the anchor than the negative; an anchor is the first argument.

    x: (n, *E) or `PointSets`; triplets: (t, 3) whole numbers, the rows of x that are anchor, positive and negative.
    NaN for t = 0. Raises ShapeError, or DomainError for rows that x does not have and for NaN.
    """
    distance, x, (a, p, n) = _checked(distance, x, triplets)
    near, far = (pair_distances(distance, x, x, a, other, budget) for other in (p, n))
    return _share(near < far, near <= far)


def odd_one_out_accuracy(distance: Distance, x: Items, triplets: Any, *, budget: int = BUDGET) -> float:
    """Share of triplets (a, b, odd) in which a and b are the closest pair. Arguments as for `triplet_accuracy`."""
    distance, x, (a, b, odd) = _checked(distance, x, triplets)
    near, left, right = (pair_distances(distance, x, x, i, j, budget) for i, j in ((a, b), (a, odd), (b, odd)))
    far = left.minimum(right)
    return _share(near < far, near <= far)


def _share(strict: Tensor, loose: Tensor) -> float:
    """Mean of the share without ties and the share with them."""
    return float((strict.double() + loose.double()).mean() / 2)


def _checked(distance: Distance, x: Items, triplets: Any) -> tuple[Distance, Any, tuple[Tensor, ...]]:
    check_items(distance, x)
    t = torch.as_tensor(triplets, device=x.device)
    if t.dim() != 2 or t.shape[1] != 3 or t.is_floating_point() or t.dtype == torch.bool:
        raise ShapeError(f"triplets must be whole numbers of shape (t, 3), got {t.dtype} of shape {tuple(t.shape)}")
    bad = ((t < 0) | (t >= len(x))).any(1).nonzero()
    if len(bad):
        first = int(bad[0, 0])
        raise DomainError(f"triplet {first} is {t[first].tolist()}, but x has the rows 0 to {len(x) - 1}")
    return *simplified(distance, x), t.long().unbind(1)
