"""What samplers and splits share: checks of labels, and the items of each class in a random order.

Within an epoch the items of a class come m at a time, from the first again after the last: no item twice in a draw
unless its class has less than m; then its items are repeated, so that there are always m.
"""

import math

import torch
from torch import Tensor

from geoembed.data.draws import rand
from geoembed.errors import DomainError, ShapeError

__all__ = ["Classes", "check_labels", "check_nested"]


def check_labels(labels: Tensor, n: int | None = None) -> None:
    """Raises ShapeError unless labels are whole numbers (n,), at least one."""
    whole = not (labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool)
    if not whole or labels.dim() != 1 or not len(labels):
        raise ShapeError(
            f"labels must be whole numbers of shape (n,), n at least 1; got {labels.dtype} of shape "
            f"{tuple(labels.shape)}"
        )
    if n is not None and len(labels) != n:
        raise ShapeError(f"there are {n} items and {len(labels)} labels; each item needs one")


def check_nested(labels: Tensor, coarse: Tensor) -> None:
    """Raises DomainError unless each class has one coarse label: else a class would be on both sides of a split."""
    pairs = torch.stack([labels, coarse]).unique(dim=1)
    again = (pairs[0, 1:] == pairs[0, :-1]).nonzero().flatten()
    if len(again):
        i = int(again[0])
        raise DomainError(
            f"class {int(pairs[0, i])} has the coarse labels {int(pairs[1, i])} and {int(pairs[1, i + 1])}, expected "
            f"one ({len(again)} such cases); give the class a label of its own under each"
        )


class Classes:
    """Items by class, each with its items in turn, m at a time.

    Args:
        labels: whole numbers (n,). m: items of a class that are drawn at once.
        index: which of all items these are, (n,); None for 0 .. n - 1.

    Attributes:
        values: the labels that occur, rising (C,). sizes: numbers of their items.
        chunks: draws of m items until each item of a class was drawn.
    """

    def __init__(self, labels: Tensor, m: int, index: Tensor | None = None):
        self.m = m
        self.index = torch.arange(len(labels), device=labels.device) if index is None else index
        self.values, self.places, self.sizes = labels.unique(return_inverse=True, return_counts=True)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.chunks = (self.sizes + m - 1) // m

    def __len__(self) -> int:
        return len(self.sizes)

    def batches_for_all(self, width: int) -> int:
        """The least number of batches of `width` classes that holds every item."""
        return max(math.ceil(int(self.chunks.sum()) / width), int(self.chunks.max()))

    def shuffled(self, generator: torch.Generator | None) -> Tensor:
        """The items class by class, each class in a random order."""
        order = rand(self.places.shape, self.places.device, generator).argsort()
        return self.index[order[self.places[order].argsort(stable=True)]]

    def take(self, shuffled: Tensor, classes: Tensor, turn: Tensor) -> Tensor:
        """m items of each of the classes, where it is the turn-th time that they are taken: (P m,)."""
        within = (turn.unsqueeze(1) * self.m + torch.arange(self.m, device=turn.device)) % self.sizes[classes, None]
        return shuffled[self.starts[classes, None] + within].flatten()

    def draw(self, width: int, count: int, generator: torch.Generator | None) -> list[Tensor]:
        """`count` batches of `width` different classes, which hold every item where count >= batches_for_all(width).

        A class with c draws left is taken with odds c; it must be taken where only c batches are left, and one with
        none left is taken again only where there are no others.
        """
        shuffled, left, turn = self.shuffled(generator), self.chunks.clone(), torch.zeros_like(self.chunks)
        batches = []
        for i in range(count):
            wait = -torch.log1p(-rand(left.shape, left.device, generator))  # exponential, below 40
            key = torch.where(left > 0, wait / left.clamp(min=1), 1e3 + wait) - 1e3 * (left >= count - i)
            classes = key.topk(width, largest=False).indices
            batches.append(self.take(shuffled, classes, turn[classes]))
            turn[classes] += 1
            left[classes] = (left[classes] - 1).clamp(min=0)
        return batches
