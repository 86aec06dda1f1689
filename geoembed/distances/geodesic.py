"""The geodesic distance of a manifold, as a `Distance`."""

import geoopt
from torch import Tensor

from geoembed.distance import Distance

__all__ = ["Geodesic"]


class Geodesic(Distance):
    """d(x, y) = length of the shortest curve from x to y on `manifold`.

    x, y: (*B, k) points in the coordinates of the manifold (k = d + 1 for `Lorentz(d)`).

    Args:
        manifold: any manifold of `geoembed.manifolds`, or another `geoopt.Manifold` with `dist`; one with `cdist`
            has a fast `pairwise`. Its curvature is trained with the distance if it is learnable.
    """

    def __init__(self, manifold: geoopt.Manifold):
        super().__init__()
        self.manifold = manifold
        self.event_dim = manifold.ndim

    @property
    def space(self) -> geoopt.Manifold:
        return self.manifold

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        return self.manifold.dist(x, y)

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        if hasattr(self.manifold, "cdist"):
            return self.manifold.cdist(x, y)
        return super()._pairwise(x, y)
