"""A distance on a slice of the features, as in divide and conquer, where each part of the data trains a part of them.

    d(x, y) = ground(x[a:b], y[a:b])

    slices = [SlicedEmbedding(Euclidean(), a, a + 16) for a in range(0, 128, 16)]       training, one for each cluster
    ProductDistance([(Euclidean(), 16)] * 8)                                            afterwards, the whole

Reference: Sanakoyeu, Tschernezki, Buechler, Ommer, "Divide and conquer the embedding space for metric learning", CVPR
2019, arXiv:1906.05990.
"""

from typing import Any

from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.errors import DomainError, ShapeError

__all__ = ["SlicedEmbedding"]


class SlicedEmbedding(Distance):
    """ground(x[..., start:stop], y[..., start:stop]); of point sets, the features of their points.

    It is no metric: items that agree on the slice are at distance 0. The slice of an item must be one of the ground
    distance; that holds in R^d and in the Poincare ball, not on the hyperboloid.

    Args:
        ground: the distance of the slices.
        start, stop: the features start .. stop - 1, 0 <= start < stop.
    """

    is_metric = False

    def __init__(self, ground: Distance, start: int, stop: int):
        super().__init__()
        if not 0 <= start < stop:
            raise DomainError(f"SlicedEmbedding: expected 0 <= start < stop, got start={start} and stop={stop}")
        self.ground, self.start, self.stop = ground, start, stop
        self.event_dim, self.symmetric, self.same_features = ground.event_dim, ground.symmetric, ground.same_features
        self.upper_bound, self.embed_p = ground.upper_bound, ground.embed_p

    def _cut(self, x: Items) -> Any:
        d = x.shape[-1]
        if d < self.stop:
            raise ShapeError(
                f"SlicedEmbedding: expected at least {self.stop} features, got {d} (shape {tuple(x.shape)})"
            )
        return x.split([self.start, self.stop - self.start, d - self.stop], dim=-1)[1]

    def embed(self, x: Items) -> Tensor:
        return self.ground.embed(self._cut(x))

    def _forward(self, x: Items, y: Items) -> Tensor:
        return self.ground._forward(self._cut(x), self._cut(y))

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        return self.ground._pairwise(self._cut(x), self._cut(y))

    def extra_repr(self) -> str:
        return f"start={self.start}, stop={self.stop}"
