"""Losses of labelled items under any distance: the one way from items and labels to a number.

    loss = Triplet(Geodesic(PoincareBall()), margin="auto")
    loss(x, labels)                          # pairs within the batch
    loss(x, labels, memory, memory_labels)   # anchors x against another set
    loss(None, labels, dist=D)               # a matrix computed elsewhere

A `MetricLoss` asks its distance for one matrix, rows the anchors; makes the masks of positive and negative pairs; lets
a miner thin them out; and reduces the `Terms` of a pure function. It never looks at what was compared, so it serves
vectors, points of a manifold and point sets alike.

Margins and temperatures are in units of the distance. A distance of another scale wants others: with `unit="auto"` (for
losses with a margin also `margin="auto"`) the unit is the median distance between items of different labels in the
first batch, and every number keeps its meaning under every distance. The unit is a buffer, saved with the loss.
"""

import math
import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from geoembed.distance import Distance, Items
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.losses.terms import REDUCTIONS, Terms, pair_masks, pair_terms, reduced

__all__ = ["MetricLoss", "Miner"]

Miner = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


class MetricLoss(nn.Module):
    """Base of the losses over a distance. A subclass gives `terms`.

    Args:
        distance: any `Distance`; smaller is closer.
        unit: what distances are divided by, or "auto": their median over negative pairs of the first batch.
        reduction: of `losses.terms.reduced`.
        miner: (D, positive, negative) -> thinner (positive, negative); D is detached.

    Attributes:
        square: the loss reads distances between its columns, so it takes no `ref`.
        needs_metric: the loss is a bound by the triangle inequality, so the distance must be a metric.
        skipped: how many anchors of the last batch had no term, int64.

    `forward` raises DomainError if a distance is NaN or infinite, ShapeError or DataError for items and labels that do
    not belong together; it warns (DataWarning) if no anchor has a term, as with one label only, where the loss is zero.
    """

    square = False
    needs_metric = False

    unit: Tensor
    skipped: Tensor

    def __init__(
        self, distance: Distance, *, unit: float | str = 1.0, reduction: str = "mean", miner: Miner | None = None
    ):
        super().__init__()
        name = type(self).__name__
        if not isinstance(distance, Distance):
            raise ShapeError(
                f"{name}: distance must be a geoembed Distance, got {type(distance).__name__}. A similarity enters as "
                "a distance, such as Cosine() or NegativeInner()."
            )
        if self.needs_metric and not distance.is_metric:
            raise DomainError(f"{name} rests on the triangle inequality, and {distance} is no metric")
        if reduction not in REDUCTIONS:
            raise UnknownNameError("reduction", reduction, REDUCTIONS)
        if unit != "auto" and not (isinstance(unit, int | float) and 0 < unit < math.inf):
            raise DomainError(f'{name}: unit must be a positive number or "auto", got {unit!r}')
        self.distance, self.reduction, self.miner = distance, reduction, miner
        auto = unit == "auto"
        self.register_buffer("unit", torch.tensor(math.nan if auto else float(unit), dtype=torch.float64))
        self.register_buffer("skipped", torch.zeros((), dtype=torch.int64), persistent=False)

    def _margin(self, margin: float | str, default: float) -> float:
        """A margin given as a number, or "auto": `default` in units measured on the first batch."""
        if margin == "auto":
            self.unit.fill_(math.nan)
            return default
        if not (isinstance(margin, int | float) and math.isfinite(margin)):
            raise DomainError(f'{type(self).__name__}: margin must be a finite number or "auto", got {margin!r}')
        return float(margin)

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms | tuple[Terms, ...]:
        """The terms of each anchor. D: (n, m) in units, positive, negative: bool (n, m)."""
        raise NotImplementedError

    def forward(
        self,
        x: Items | None,
        labels: Tensor,
        ref: Items | None = None,
        ref_labels: Tensor | None = None,
        *,
        dist: Tensor | None = None,
        mask: tuple[Tensor, Tensor] | None = None,
        ids: Tensor | None = None,
        ref_ids: Tensor | None = None,
    ) -> Tensor:
        """The loss, a scalar, or (n,) with reduction "none".

        Args:
            x: (n, *E) the anchors. labels: int64 (n,).
            ref, ref_labels: (m, *E), (m,) what the anchors are compared with; None for the batch itself.
            dist: (n, m) the matrix of distances, x and ref are then not read.
            mask: (positive, negative), bool (n, m), in place of those of the labels.
            ids, ref_ids: (n,), (m,) which item each is: an item and its own copy are no pair.
        """
        self._check(x, labels, ref, ref_labels, dist)
        D = self.distance.pairwise(x, ref) if dist is None else dist
        D = D.to(torch.promote_types(D.dtype, torch.float32))
        positive, negative = pair_masks(labels, ref_labels, ids, ref_ids) if mask is None else mask
        self._check_matrix(D, positive, negative, dist is not None and ref_labels is None)
        parts = self._parts(D, positive, negative) if D.numel() else (pair_terms(D, positive),)
        has_term = torch.stack([part.count for part in parts]).sum(0) > 0
        self.skipped = (~has_term).sum()
        if not bool(has_term.any()):
            warnings.warn(self._nothing(labels, ref_labels), DataWarning, stacklevel=2)
        return sum((reduced(part, self.reduction) for part in parts[1:]), reduced(parts[0], self.reduction))

    def _parts(self, D: Tensor, positive: Tensor, negative: Tensor) -> tuple[Terms, ...]:
        if self.miner is not None:
            positive, negative = self.miner(D.detach(), positive, negative)
        if bool(self.unit.isnan()):
            self.calibrate(D, negative)
        unit = self.unit.item()
        parts: Any = self.terms(D if unit == 1 else D / unit, positive, negative)
        return parts if isinstance(parts[0], tuple) else (parts,)

    @torch.no_grad()
    def calibrate(self, D: Tensor, negative: Tensor) -> None:
        """Set the unit: the median of the distances D: (n, m) where `negative`, or of all if there is no such pair."""
        unit = (D[negative] if bool(negative.any()) else D).double().median()
        if not unit > 0:
            raise DomainError(
                f'{type(self).__name__}: unit="auto" needs distances above zero, but the median distance between items '
                f"of different labels is {unit.item():g}. Give a number, or a first batch that is not collapsed."
            )
        self.unit.copy_(unit)

    def _check(
        self, x: Items | None, labels: Tensor, ref: Items | None, ref_labels: Tensor | None, dist: Tensor | None
    ) -> None:
        name = type(self).__name__
        if (x is None) == (dist is None):
            raise ShapeError(
                f"{name}: give either items x or a matrix dist=, not {'both' if dist is not None else 'neither'}"
            )
        if dist is None and (ref is None) != (ref_labels is None):
            raise ShapeError(
                f"{name}: ref and ref_labels belong together, got only {'ref' if ref_labels is None else 'ref_labels'}"
            )
        if self.square and ref_labels is not None:
            raise ShapeError(
                f"{name} reads distances between all its items and takes no ref; join the two sets instead"
            )
        columns = labels if ref_labels is None else ref_labels
        for what, have in (("labels", labels), ("ref_labels", columns)):
            if have.dim() != 1 or have.is_floating_point():
                raise ShapeError(
                    f"{name}: {what} must be a vector of integers, got {have.dtype} of shape {tuple(have.shape)}"
                )
        sizes: list[tuple[str, Any, int]] = [("x", x, len(labels))]
        if ref is not None:
            sizes.append(("ref", ref, len(columns)))
        for what, items, n in sizes:
            if items is not None and len(items) != n:
                raise DataError(f"{name}: {what} holds {len(items)} items and its labels are {n}")
        if dist is not None and tuple(dist.shape) != (len(labels), len(columns)):
            raise ShapeError(f"{name}: dist must be ({len(labels)}, {len(columns)}), got {tuple(dist.shape)}")

    def _check_matrix(self, D: Tensor, positive: Tensor, negative: Tensor, given: bool) -> None:
        name = type(self).__name__
        for mask in (positive, negative):
            if mask.shape != D.shape or mask.dtype != torch.bool:
                raise ShapeError(f"{name}: masks must be bool {tuple(D.shape)}, got {mask.dtype} {tuple(mask.shape)}")
        if not bool(D.detach().sum().isfinite()):  # a sum is the fastest look at every entry
            bad = (~D.isfinite()).nonzero()
            if len(bad):
                i, j = bad[0].tolist()
                raise DomainError(
                    f"{name}: {len(bad)} of {D.numel()} distances are not finite, the first is {D[i, j].item()} "
                    f"between items {i} and {j} under {self.distance}. Look for NaN in the items or lower the learning "
                    "rate."
                )
        if given and len(D) > 1:
            own = D.detach().diagonal()
            if bool((own > D.detach().amin(1)).all() & (own == D.detach().amax(1)).all()):
                raise DomainError(
                    f"{name}: in dist each item is farther from itself than from any other, so it looks like a "
                    "similarity. Smaller must be closer: give 1 - dist, or -dist."
                )

    def _nothing(self, labels: Tensor, ref_labels: Tensor | None) -> str:
        found = len(torch.unique(labels if ref_labels is None else torch.cat([labels, ref_labels])))
        return (
            f"{type(self).__name__}: none of the {len(labels)} anchors has the pairs it needs ({found} label(s) in the "
            "batch), so the loss is zero. Draw batches with several items of several labels, as `MPerClass` does."
        )

    def extra_repr(self) -> str:
        return f"unit={self.unit.item():g}, reduction={self.reduction!r}"
