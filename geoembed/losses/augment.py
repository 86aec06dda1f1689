"""Harder negatives than the batch has: negatives moved along geodesics towards their anchor.

    n' = exp_a( t log_a(n) ),   t = [d_ap + (d_an - d_ap) e^{-alpha / J}] / d_an   where d_an > d_ap, else t = 1

with J the mean loss of the last batches. While the loss is high, e^{-alpha / J} is near 1 and negatives stay; as it
falls they come as near as the positives, but no nearer. In a flat space the geodesic is the segment.

Reference: Zheng, Chen, Lu, Zhou, "Hardness-aware deep metric learning", CVPR 2019, arXiv:1903.05503, equations 4-6,
without its generator, which maps the points back to features.
"""

from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError, ShapeError

__all__ = ["HardnessInterpolation"]


class HardnessInterpolation:
    """Moves negatives towards their anchors as training goes on.

    Args:
        distance: between vectors; on a manifold the geodesic distance of that manifold.
        alpha: pulling strength, above 0; negatives come close when the mean loss is below it. 90 in the paper.

    Raises ShapeError for a distance between sets, which have no geodesics here.
    """

    def __init__(self, distance: Distance, alpha: float = 90.0):
        if distance.event_dim != 1:
            raise ShapeError(
                f"HardnessInterpolation: {distance} is between sets, and there is no line from one to another"
            )
        if not alpha > 0:
            raise DomainError(f"HardnessInterpolation: alpha must be positive, got {alpha}")
        self.distance, self.alpha = distance, alpha

    def __call__(self, anchor: Tensor, positive: Tensor, negative: Tensor, loss: float) -> Tensor:
        """The moved negatives. anchor, positive, negative: (n, k) triplets; loss: the mean loss J >= 0 -> (n, k)."""
        near, far = self.distance(anchor, positive).detach(), self.distance(anchor, negative).detach()
        keep = torch.tensor(-self.alpha / max(loss, 1e-12)).exp().to(far.dtype)
        t = (near + (far - near) * keep) / torch.where(far > 0, far, 1.0)
        t = torch.where(far > near, t, 1.0).unsqueeze(-1)
        space: Any = self.distance.space
        if space is None:
            return anchor + t * (negative - anchor)
        return space.expmap(anchor, t * space.logmap(anchor, negative))
