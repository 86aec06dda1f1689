"""What the losses of labelled items are made of: masks of pairs, terms of anchors, and how the terms are reduced.

A loss is a pure function f(D, positive, negative) of a matrix of distances D: (n, m), whose rows are the anchors, and
of two masks of its entries, `positive` (same label) and `negative` (another label). It returns `Terms`: for each anchor
the sum of its terms, be they pairs, triplets or one a row, how many they are, and how many are above zero. So a mean
over all n^3 triplets needs no tensor of triplets. A loss of two kinds of terms, such as pairs that attract and pairs
that repel, returns two `Terms`; each is reduced by itself, and they are added.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from geoembed.errors import UnknownNameError

__all__ = ["REDUCTIONS", "Terms", "one_a_row", "pair_masks", "pair_terms", "reduced"]

REDUCTIONS = ("mean", "mean_nonzero", "sum", "none")


class Terms(NamedTuple):
    """Terms of a loss by anchor, each (n,): their sum, their number, and how many of them are above zero."""

    total: Tensor
    count: Tensor  # type: ignore[assignment]  # a tuple has a method of that name
    nonzero: Tensor


def pair_terms(values: Tensor, mask: Tensor) -> Terms:
    """A term a pair. values: (n, m), mask: bool (n, m), the pairs that count."""
    values = torch.where(mask, values, 0.0)
    whole = torch.int32  # twice as fast to count in as int64
    return Terms(values.sum(1), mask.sum(1, dtype=whole), (values > 0).sum(1, dtype=whole))


def one_a_row(values: Tensor, valid: Tensor) -> Terms:
    """A term an anchor. values: (n,), valid: bool (n,): the anchors that have one, others may hold any finite value."""
    values = torch.where(valid, values, 0.0)
    return Terms(values, valid.long(), (values > 0).long())


def reduced(terms: Terms, reduction: str) -> Tensor:
    """`mean` over all terms, `mean_nonzero` over those above zero, `sum`, or `none`: the mean of each anchor, (n,).

    No terms give zero, with a gradient of zero.
    """
    total, count, nonzero = terms
    if reduction == "none":
        return total / count.clamp(min=1)
    if reduction == "sum":
        return total.sum()
    if reduction not in REDUCTIONS:
        raise UnknownNameError("reduction", reduction, REDUCTIONS)
    return total.sum() / (count if reduction == "mean" else nonzero).sum().clamp(min=1)


def pair_masks(
    labels: Tensor, ref_labels: Tensor | None = None, ids: Tensor | None = None, ref_ids: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Pairs of one label and pairs of two: (positive, negative), each bool (n, m).

    labels: (n,), ref_labels: (m,), or None for pairs within `labels`, where an item is no pair of itself. ids, ref_ids:
    (n,) and (m,): where they are equal the pair is one item twice, as in a batch and its copy in a memory: in no mask.
    """
    columns = labels if ref_labels is None else ref_labels
    same = labels.unsqueeze(1) == columns
    negative = ~same
    if ref_labels is None:
        same = same.fill_diagonal_(False)
    if ids is not None and ref_ids is not None:
        other = ids.unsqueeze(1) != ref_ids
        same, negative = same & other, negative & other
    return same, negative
