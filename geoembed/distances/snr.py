"""SNR distance: the variance of the noise that turns the anchor into another vector, over the variance of the anchor.

    d(x, y) = var(y - x) / var(x),    the variance over the features of a vector

The anchor x is the signal, y = x + noise; the signal-to-noise ratio of y is 1 / d(x, y). The distance is not
symmetric: d(x, y) / d(y, x) = var(y) / var(x), and there is no triangle inequality. It does not change when both
vectors are scaled alike, or when a constant is added to all features of one; for vectors of mean zero it is
|x - y|^2 / |x|^2. The neighbours of one anchor come in the order of the Euclidean distances between centred vectors;
with the others as anchors the order is a different one, so queries are rows.

Reference: Yuan, Deng, Tang, Tang and Chen, Signal-to-Noise Ratio: A Robust Distance Metric for Deep Metric Learning,
CVPR 2019 (arXiv 1904.02616).
"""

import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError
from geoembed.numerics import sqdist

__all__ = ["SNR"]


class SNR(Distance):
    """var(y - x) / var(x) with x, the first argument or the rows, as anchors.

    x, y: (*B, d) -> (*B). `pairwise` is one matrix product of centred vectors, in which close pairs keep their digits.
    Half precision is computed in float32.

    Raises:
        DomainError: an anchor whose features are all equal, to rounding; it has no signal to compare noise with.
    """

    symmetric = is_metric = False

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        (u, signal), (v, _) = _centred(x), _centred(y)
        _check(x, signal)
        return ((v - u).square().sum(-1) / signal).to(x.dtype)

    def _pairwise(self, x: Tensor, y: Tensor) -> Tensor:
        u, signal = _centred(x)
        v = u if y is x else _centred(y)[0]
        _check(x, signal)
        return (sqdist(u, v) / signal.unsqueeze(-1)).to(x.dtype)


def _centred(x: Tensor) -> tuple[Tensor, Tensor]:
    """x less the mean of its features, and the sum of the squares of that. x: (*B, d) -> (*B, d), (*B)."""
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    centred = wide - wide.mean(-1, keepdim=True)
    return centred, centred.square().sum(-1)


def _check(x: Tensor, signal: Tensor) -> None:
    """Raise DomainError for a constant anchor. What is left of one after centring is rounding of its mean."""
    rounding = torch.finfo(signal.dtype).eps * x.detach().to(signal.dtype).abs().sum(-1)
    constant = signal <= rounding.square()
    if bool(constant.any()):
        first = tuple(constant.nonzero()[0].tolist())
        raise DomainError(
            f"SNR: the features of an anchor must not all be equal: its variance is 0 and the ratio to it undefined. "
            f"{int(constant.sum())} of {constant.numel()} anchors are constant, the first at index {first}. Leave them "
            f"out, or look for the layer that puts out constant vectors."
        )
