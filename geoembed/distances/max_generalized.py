"""The max-generalized sliced Wasserstein distance: the one slice of a family along which two point sets differ most.

    max-GSW_p(mu, nu) = max_theta W_p(g_theta # mu, g_theta # nu),   GSW_p <= max-GSW_p

The ascent of `MaxSlicedWasserstein`, on the sphere of theta, from the theta of the slices.

Reference: Kolouri, Nadjahi, Simsekli, Badeau and Rohde, Generalized Sliced Wasserstein Distances, NeurIPS 2019
(arXiv 1902.00434).
"""

import torch
from torch import Tensor

from geoembed.distances.generalized import DefiningFunction
from geoembed.distances.max_sliced import MaxSlicedWasserstein
from geoembed.distances.slicing import Slices
from geoembed.errors import DomainError
from geoembed.pointsets import PointSets

__all__ = ["MaxGeneralizedSlicedWasserstein"]


class MaxGeneralizedSlicedWasserstein(MaxSlicedWasserstein):
    """max-GSW_p, the largest W_p over all theta of a defining function, for each pair of sets by itself.

    Every theta of `slices` is a start of the ascent and the best end counts, so the value is at least that of
    `GeneralizedSlicedWasserstein` along the same slices. It is a lower bound of the maximum; the maximum is a metric
    if GSW_p is, the bound need not satisfy the triangle inequality. `directions` gives the maximal theta;
    `slices.resample` draws other starts.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B).

    Args:
        slices: a `DefiningFunction`: `Circular`, `Polynomial`, `Network`, ...; about ten are enough.
        p: order, at least 1.
        steps: most steps of the ascent.
    """

    is_metric = False

    def __init__(self, slices: Slices, p: float = 2.0, steps: int = 200):
        if not isinstance(slices, DefiningFunction):
            raise DomainError(
                f"MaxGeneralizedSlicedWasserstein: slices must be a DefiningFunction, whose theta can be varied, got "
                f"{type(slices).__name__}. A subclass of it gives `evaluate`."
            )
        super().__init__(p, restarts=0, steps=steps)
        self.slices: DefiningFunction = slices

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw other starts."""
        self.slices.resample(generator)

    def _starts(self, x: PointSets, y: PointSets) -> Tensor:
        theta = self.slices.theta.to(x.points)
        return torch.nn.functional.normalize(theta, dim=-1).expand(*x.batch_shape, *theta.shape)

    def _values(self, theta: Tensor, x: PointSets) -> Tensor:
        return self.slices.evaluate(theta, self.slices._checked(x.filled()))

    def extra_repr(self) -> str:
        return f"p={self.p:g}, steps={self.steps}"
