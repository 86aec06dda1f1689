"""Surrogate labels: clusters of what is left of the features once their classes are taken out (MIC).

    z_i = (x_i - mean of the class) / (deviation of the class), feature by feature;   surrogate label = k-means(z)

The clusters share a property that runs through the classes (a pose, a stroke, a lighting), and a second embedding that
learns them keeps it out of the first one. They are made again every few epochs, as the features change.

Reference: Roth, Brattoli, Ommer, "MIC: Mining interclass characteristics for improved metric learning", ICCV 2019,
arXiv:1909.11574. There k is 30 (CUB), 200 (Cars) and 50 (SOP), and the labels are renewed every 3 epochs; their code
standardises the features before the first round and clusters the second embedding as it is in later ones.
"""

import torch
from torch import Tensor

from geoembed.data.classes import check_labels
from geoembed.data.draws import check_sizes
from geoembed.data.kmeans import kmeans
from geoembed.errors import DomainError, ShapeError

__all__ = ["SurrogateClusters", "class_standardised"]


def class_standardised(x: Tensor, labels: Tensor) -> Tensor:
    """Each class moved to mean 0 and scaled to deviation 1 in each feature. x: (n, d), labels: (n,) -> (n, d).

    A feature that is constant in a class, and the one item of a class, become 0. The deviation is the one with 1 / n.
    Half precision is computed in float32.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ShapeError(f"x must be floating point (n, d), got {x.dtype} of shape {tuple(x.shape)}")
    check_labels(labels, len(x))
    _, place, counts = labels.to(x.device).unique(return_inverse=True, return_counts=True)
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    counts = counts.to(wide).unsqueeze(1)

    def mean(values: Tensor) -> Tensor:
        return values.new_zeros(len(counts), values.shape[1]).index_add(0, place, values) / counts

    centred = wide - mean(wide)[place]
    deviation = mean(centred.square()).sqrt()
    # of equal values the mean is rounded, and what is left of them must not be scaled up to size 1
    flat = deviation <= 8 * torch.finfo(wide.dtype).eps * mean(wide.abs())
    return torch.where(flat[place], 0.0, centred / torch.where(flat, 1.0, deviation)[place]).to(x.dtype)


class SurrogateClusters:
    """Surrogate labels of n items, (n,) int64 from 0 to k - 1, in `clusters` after `refresh`.

        surrogates = SurrogateClusters(labels, k=30, every=3, generator=generator)
        for epoch in range(epochs):
            if surrogates.due(epoch):
                surrogates.refresh(features())
            ...  loss(auxiliary(x[batch]), surrogates.clusters[batch])

    Args:
        labels: the true labels, whole numbers (n,).
        k: number of clusters, at most n.
        every: epochs between two refreshes, for `due`.
        generator: draws the starts of the k-means.
    """

    def __init__(self, labels: Tensor, k: int, every: int = 3, generator: torch.Generator | None = None):
        check_labels(labels)
        check_sizes(k=k, every=every)
        if k > len(labels):
            raise DomainError(f"{len(labels)} items cannot make k = {k} clusters; ask for at most {len(labels)}")
        self.labels, self.k, self.every, self.generator = labels, k, every, generator
        self.clusters: Tensor | None = None

    def due(self, epoch: int) -> bool:
        """Whether the epoch, counted from 0, begins with a refresh: there are no clusters yet, or `every` are over."""
        return self.clusters is None or epoch % self.every == 0

    def refresh(self, features: Tensor) -> Tensor:
        """Cluster the features (n, d) of all items anew; gives `clusters`.

        Raises ShapeError for another number of features than labels, DomainError for values that are not finite.
        """
        standardised = class_standardised(features.detach(), self.labels)
        self.clusters = kmeans(standardised, self.k, self.generator).labels.to(self.labels.device)
        return self.clusters
