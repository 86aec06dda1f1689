"""Class-disjoint splits: no class of the held-out part was seen in training.

    class_halves(labels)        the first half of the classes trains, the second half tests
    class_folds(labels, k)      k-fold cross-validation over the classes

Both may go by a coarse label, of which each class has one (alphabet > character): then no alphabet is on both sides,
which is the harder question. Indices come in rising order, as (train, held out) pairs of int64 tensors. The protocol of
the field tests on the second half once, and chooses everything by cross-validation within the first:

    train, test = class_halves(labels)
    for fit, held_out in class_folds(labels[train], 4, generator=generator):
        x[train[fit]], x[train[held_out]] ...

References: Oh Song, Xiang, Jegelka, Savarese, "Deep metric learning via lifted structured feature embedding", CVPR
2016, arXiv:1511.06452 (halves); Musgrave, Belongie, Lim, "A metric learning reality check", ECCV 2020, arXiv:2003.08505
(folds of the first half).
"""

import torch
from torch import Tensor

from geoembed.data.classes import check_labels, check_nested
from geoembed.data.draws import rand
from geoembed.errors import DomainError, ShapeError

__all__ = ["class_folds", "class_halves"]


def class_folds(
    labels: Tensor, k: int, *, coarse: Tensor | None = None, generator: torch.Generator | None = None
) -> list[tuple[Tensor, Tensor]]:
    """k splits (train, held out), each class held out in one of them; the classes are dealt out at random.

    The numbers of classes (with `coarse`: of coarse labels) of two folds differ by at most one.

    Args:
        labels: whole numbers (n,). coarse: their coarse labels, whole numbers (n,).
        k: number of folds, from 2 to the number of classes.

    Raises:
        ShapeError: labels of another kind or shape, of different lengths.
        DomainError: k out of its range, a class with two coarse labels.
    """
    group, count = _groups(labels, coarse)
    if not 2 <= k <= count:
        raise DomainError(f"k must lie between 2 and the number of classes to hold out, {count}; got {k}")
    order = rand((count,), group.device, generator).argsort()
    fold = torch.empty_like(order)
    fold[order] = torch.arange(count, device=group.device) % k
    fold = fold[group]
    return [((fold != i).nonzero().flatten(), (fold == i).nonzero().flatten()) for i in range(k)]


def class_halves(
    labels: Tensor, *, coarse: Tensor | None = None, generator: torch.Generator | None = None
) -> tuple[Tensor, Tensor]:
    """(train, test): the classes of the lower half of the labels, and those of the upper half.

    Of an odd number of classes the middle one trains. With `coarse` the halves are of the coarse labels. With a
    generator the classes are in a random order instead.

    Raises:
        ShapeError: labels of another kind or shape, of different lengths.
        DomainError: one class only, a class with two coarse labels.
    """
    group, count = _groups(labels, coarse)
    if count < 2:
        raise DomainError("class_halves: at least two classes are needed, one to train on and one to test on; got one")
    rank = torch.arange(count, device=group.device)
    if generator is not None:
        rank = rand((count,), group.device, generator).argsort()
    upper = rank[group] >= (count + 1) // 2
    return (~upper).nonzero().flatten(), upper.nonzero().flatten()


def _groups(labels: Tensor, coarse: Tensor | None) -> tuple[Tensor, int]:
    """The group of each item, (n,) from 0: what must stay on one side; and the number of groups."""
    check_labels(labels)
    if coarse is None:
        values, group = labels.unique(return_inverse=True)
        return group, len(values)
    check_labels(coarse)
    if coarse.shape != labels.shape:
        raise ShapeError(f"there are {len(labels)} labels and {len(coarse)} coarse labels; each item needs one of both")
    check_nested(labels, coarse)
    values, group = coarse.unique(return_inverse=True)
    return group, len(values)
