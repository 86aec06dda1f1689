"""Cross-batch memory: anchors of a batch against the items of many batches.

Embeddings drift slowly, so those of the last batches still serve as references for a loss. The memory is a queue of
detached items of any rank, vectors, points of a manifold or point sets, with their labels and identities:

    loss(x, labels) -> loss of the anchors x against [x, memory], then x joins the memory and the oldest leave it

The batch itself takes part with its gradient. An item is no pair of itself, nor of the older copy of it that a memory
holds from the last epoch, if `ids` say which item is which.

Reference: Wang, Zhang, Huang, Scott, "Cross-batch memory for embedding learning", CVPR 2020, arXiv:1912.06798.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import pad

from geoembed.distance import Items
from geoembed.errors import DataError, DomainError
from geoembed.losses.metric import MetricLoss
from geoembed.losses.proxies import ProxyLoss
from geoembed.pointsets import PointSets

__all__ = ["CrossBatchMemory"]


class CrossBatchMemory(nn.Module):
    """A loss over the last `size` items.

    Args:
        loss: any `MetricLoss` that takes references.
        size: items held; 8192 in the paper, up to the whole training set.
        start: calls during which the memory fills but is not read, for embeddings drift fast at first.

    Raises DomainError for a loss that takes no references. The memory is part of `state_dict`.
    """

    def __init__(self, loss: MetricLoss, size: int = 8192, *, start: int = 0):
        super().__init__()
        if loss.square or isinstance(loss, ProxyLoss):
            raise DomainError(f"CrossBatchMemory: {type(loss).__name__} takes no reference items besides its batch")
        if size < 1 or start < 0:
            raise DomainError(f"CrossBatchMemory: expected size >= 1 and start >= 0, got {size} and {start}")
        self.loss, self.size, self.start = loss, size, start
        self.calls = 0
        self.clear()

    def clear(self) -> None:
        """Forget all items, as after the network was replaced."""
        self.items: Items | None = None
        self.labels = self.ids = torch.zeros(0, dtype=torch.int64)

    def __len__(self) -> int:
        return len(self.labels)

    def forward(self, x: Items, labels: Tensor, ids: Tensor | None = None) -> Tensor:
        """The loss of anchors x: (n, *E), labels: int64 (n,). ids: int64 (n,), >= 0, which item each is."""
        if ids is None:
            ids = -1 - torch.arange(len(labels), device=labels.device)  # of this batch only
        elif len(ids) != len(labels) or bool((ids < 0).any()):
            raise DataError(f"CrossBatchMemory: ids must be {len(labels)} numbers >= 0, one an item")
        ref, ref_labels, ref_ids = x, labels, ids
        if self.items is not None and self.calls >= self.start:
            ref = _joined(x, self.items)
            ref_labels, ref_ids = torch.cat([labels, self.labels]), torch.cat([ids, self.ids])
        value = self.loss(x, labels, ref, ref_labels, ids=ids, ref_ids=ref_ids)
        self._store(x.detach(), labels, torch.where(ids < 0, torch.iinfo(torch.int64).min, ids))
        self.calls += 1
        return value

    def _store(self, x: Items, labels: Tensor, ids: Tensor) -> None:
        self.items = (x if self.items is None else _joined(self.items, x))[-self.size :]
        self.labels = torch.cat([self.labels.to(labels.device), labels])[-self.size :]
        self.ids = torch.cat([self.ids.to(labels.device), ids])[-self.size :]

    def get_extra_state(self) -> dict[str, Any]:
        state: dict[str, Any] = {"calls": self.calls, "labels": self.labels, "ids": self.ids}
        if isinstance(self.items, PointSets):
            return state | {"items": self.items.points, "weights": self.items.weights, "lengths": self.items.lengths}
        return state | ({} if self.items is None else {"items": self.items})

    def set_extra_state(self, state: dict[str, Any]) -> None:
        self.calls, self.labels, self.ids = state["calls"], state["labels"], state["ids"]
        self.items = state.get("items")
        if "lengths" in state:
            self.items = PointSets(state["items"], state["weights"], state["lengths"])


def _joined(x: Items, y: Items) -> Items:
    """The items of x and then those of y; point sets may differ in their number of points."""
    if isinstance(x, Tensor) and isinstance(y, Tensor) and x.shape[1:] == y.shape[1:]:
        return torch.cat([x, y])
    a, b = PointSets.of(x), PointSets.of(y)
    n = max(a.points.shape[1], b.points.shape[1])
    points = torch.cat([pad(s.points, (0, 0, 0, n - s.points.shape[1])) for s in (a, b)])
    lengths = torch.cat([a.lengths, b.lengths])
    if a.uniform and b.uniform:
        return PointSets(points, None, lengths)
    weights = torch.cat([pad(s.weights, (0, n - s.points.shape[1])) for s in (a, b)])
    return PointSets(points, weights, lengths)
