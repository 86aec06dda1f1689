"""Losses of pairs that are given one by one, and of labels that are near or far rather than equal or not.

    EdgeContrast  delta (sqrt(1 + d^2 / delta^2) - 1) on pairs of one kind, mu [m - d]_+ on pairs across
    LogRatio      (log d_ai / d_aj - log y_ai / y_aj)^2: distances in the ratio of the distances y of the labels

`EdgeContrast` is for the edges of a graph, such as neighbouring points of a scene: neither all pairs nor labels are
needed, only whether the ends of an edge belong together. With r_i = log d_ai - log y_ai the log-ratio loss of an anchor
is sum_{i<j} (r_i - r_j)^2 = k sum_i (r_i - mean r)^2 over its k items: all n^3 triplets in O(n^2).

References: Landrieu, Boussaha, CVPR 2019, arXiv:1904.02113 (edges); Kim, Seo, Laptev, Cho, Kwak, "Deep metric learning
beyond binary supervision", CVPR 2019, arXiv:1904.09626 (log-ratio).
"""

import math
import warnings

import torch
from torch import Tensor, nn

from geoembed.distance import Distance, Items
from geoembed.errors import DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.losses.terms import REDUCTIONS, Terms, one_a_row, reduced

__all__ = ["EdgeContrast", "LogRatio", "cross_partition_weights", "edge_contrast", "log_ratio"]


def edge_contrast(
    d: Tensor, same: Tensor, weight: Tensor | float = 1.0, *, delta: float = 0.3, margin: float = 1.0
) -> Tensor:
    """delta (sqrt(1 + d^2 / delta^2) - 1) where `same`, else weight [margin - d]_+. d, same, weight: (E,) -> (E,)."""
    z = (d / delta).square()
    return torch.where(same, delta * z / (1 + (1 + z).sqrt()), weight * (margin - d).relu())  # no cancellation at d = 0


class EdgeContrast(nn.Module):
    """Mean of `edge_contrast` over given pairs: within an object smooth, across a border a margin apart.

    Args:
        delta: in units of the distance, below it the pull is quadratic and above it linear; 0.3 in the paper.
        margin: how far apart the ends of a pair across shall be; 1 in the paper.
        reduction: "mean" over all pairs, "mean_nonzero", "sum" or "none": (E,).
    """

    def __init__(self, distance: Distance, *, delta: float = 0.3, margin: float = 1.0, reduction: str = "mean"):
        super().__init__()
        if not (0 < delta < math.inf and 0 < margin < math.inf):
            raise DomainError(f"EdgeContrast: delta and margin must be positive, got delta={delta}, margin={margin}")
        if reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", reduction, REDUCTIONS)
        self.distance, self.delta, self.margin, self.reduction = distance, delta, margin, reduction

    def forward(self, x: Items, y: Items, same: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss of the pairs (x_e, y_e), as of edges i, j of a graph: loss(x[i], x[j], labels[i] == labels[j]).

        Args:
            x, y: (E, *F). same: bool (E,), whether the ends belong together. weight: (E,) mu of each pair across, or 1.

        Raises DomainError if a distance is not finite or a weight is negative; warns (DataWarning) without any pair.
        """
        d = self.distance(x, y)
        d = d.to(torch.promote_types(d.dtype, torch.float32))
        if d.dim() != 1 or same.shape != d.shape or same.dtype != torch.bool:
            raise ShapeError(
                f"EdgeContrast: x and y must be (E, *F) and same bool (E,), got {tuple(d.shape)} distances and "
                f"{same.dtype} {tuple(same.shape)}"
            )
        if weight is not None:
            if weight.shape != d.shape:
                raise ShapeError(f"EdgeContrast: weight must be {tuple(d.shape)}, got {tuple(weight.shape)}")
            if not bool((weight >= 0).all()):
                raise DomainError("EdgeContrast: weights must be at least 0, got a negative one or NaN")
        _check_distances("EdgeContrast", d, self.distance)
        if not len(d):
            warnings.warn("EdgeContrast: no pairs, so the loss is zero", DataWarning, stacklevel=2)
        values = edge_contrast(d, same, 1.0 if weight is None else weight.to(d), delta=self.delta, margin=self.margin)
        return reduced(one_a_row(values, torch.ones_like(same)), self.reduction)

    def extra_repr(self) -> str:
        return f"delta={self.delta:g}, margin={self.margin:g}, reduction={self.reduction!r}"


def cross_partition_weights(i: Tensor, j: Tensor, parts: Tensor, *, mu: float = 1.0) -> Tensor:
    """Weights of edges for `EdgeContrast`: a missed edge counts for as many nodes as it would put in a wrong part.

    mu min(|U|, |V|) / (number of edges between U and V) for an edge between two parts, 1 within a part: float32 (E,).

    Args:
        i, j: int64 (E,), the ends of each edge. parts: int64 (n,), 0 or above, the part of each node: what hangs
            together when the edges across objects and those cut by the present segmentation are gone.
    """
    size = parts.bincount()
    ends = torch.stack([parts[i], parts[j]]).sort(0).values
    border, between = (ends[0] * len(size) + ends[1]).unique(return_inverse=True)
    share = size[ends].amin(0) / between.bincount(minlength=len(border))[between]
    return torch.where(ends[0] != ends[1], mu * share, 1.0)


def log_ratio(D: Tensor, Y: Tensor, valid: Tensor, *, eps: float = 1e-6) -> Terms:
    """(log d_ai / d_aj - log y_ai / y_aj)^2 over all i < j of a row where `valid`. D, Y >= 0, valid: bool (n, m).

    eps is added to every distance. Terms equal to zero are not told from others: all of a row that has any count.
    """
    number = valid.sum(1)
    r = torch.where(valid, (D + eps).log() - (Y + eps).log(), 0.0)
    centre = r.sum(1, keepdim=True) / number.clamp(min=1).unsqueeze(1)
    total = number * torch.where(valid, r - centre, 0.0).square().sum(1)  # centred first: no digits cancel
    count = number * (number - 1) // 2
    return Terms(total, count, torch.where(total > 0, count, 0))


class LogRatio(nn.Module):
    """Distances in the ratio of the distances between labels: poses, captions, places, or a graph to be embedded.

    (log d_ai / d_aj - log y_ai / y_aj)^2, the mean over all triples (a, i, j) of the batch. The scale of neither
    distance matters. The paper has Power(Euclidean(), 2) for d.

    Args:
        label_distance: what y is taken from; None if the labels are given as the matrix of their distances.
        eps: added to every distance, so that equal labels ask for items that are close, not for the same point.
        reduction: of `losses.terms.reduced`.
    """

    def __init__(
        self, distance: Distance, label_distance: Distance | None = None, *, eps: float = 1e-6, reduction: str = "mean"
    ):
        super().__init__()
        if not 0 < eps < math.inf:
            raise DomainError(f"LogRatio: eps must be positive, got {eps}")
        if reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", reduction, REDUCTIONS)
        self.distance, self.label_distance, self.eps, self.reduction = distance, label_distance, eps, reduction

    def forward(
        self,
        x: Items | None,
        labels: Items,
        ref: Items | None = None,
        ref_labels: Items | None = None,
        *,
        dist: Tensor | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar, or (n,) with reduction "none".

        Args:
            x: (n, *E) the anchors. labels: (n, *F) items of `label_distance`, or without one y itself: (n, m).
            ref, ref_labels: (m, *E), (m, *F) what the anchors are compared with; None for the batch itself.
            dist: (n, m) distances of the items, x and ref are then not read.
            mask: bool (n, m), which pairs count; by default all but an item with itself.

        Raises ShapeError if the two matrices differ in shape, DomainError if a distance is not finite or below zero;
        warns (DataWarning) if no anchor has two items to compare.
        """
        if (x is None) == (dist is None):
            raise ShapeError(f"LogRatio: give items x or a matrix dist=, not {'neither' if x is None else 'both'}")
        D = self.distance.pairwise(x, ref) if dist is None else dist
        D = D.to(torch.promote_types(D.dtype, torch.float32))
        Y = labels if self.label_distance is None else self.label_distance.pairwise(labels, ref_labels)
        if Y.shape != D.shape:
            raise ShapeError(
                f"LogRatio: the distances of labels must be {tuple(D.shape)} like those of the items, got "
                f"{tuple(Y.shape)}. Without a label_distance the labels are that matrix."
            )
        if mask is None:
            mask = torch.ones_like(D, dtype=torch.bool)
            if ref is None and ref_labels is None and len(D) == D.shape[1]:
                mask.fill_diagonal_(False)
        elif mask.shape != D.shape or mask.dtype != torch.bool:
            raise ShapeError(f"LogRatio: mask must be bool {tuple(D.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        _check_distances("LogRatio", D, self.distance, least=0.0)
        _check_distances("LogRatio", Y, self.label_distance or "the matrix of the labels", least=0.0)
        terms = log_ratio(D, Y.to(D), mask, eps=self.eps)
        if not bool(terms.count.any()):
            warnings.warn(
                f"LogRatio: none of the {len(D)} anchors has two items to compare, so the loss is zero",
                DataWarning,
                stacklevel=2,
            )
        return reduced(terms, self.reduction)

    def extra_repr(self) -> str:
        return f"eps={self.eps:g}, reduction={self.reduction!r}"


def _check_distances(name: str, values: Tensor, source: Distance | str, least: float = -math.inf) -> None:
    """Raise DomainError unless all distances are finite and at least `least`."""
    bad = (~(values.detach().isfinite() & (values.detach() >= least))).nonzero()
    if len(bad):
        where = tuple(bad[0].tolist())
        wanted = "finite" if least == -math.inf else f"finite and at least {least:g}"
        raise DomainError(
            f"{name}: {len(bad)} of {values.numel()} distances are not {wanted}, the first is {values[where].item()} "
            f"at {where} under {source}. Look for NaN in the items; a similarity must be turned into a distance."
        )
