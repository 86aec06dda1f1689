"""Batches for metric learning: m items of each class, batches from one cluster, batches of classes that are confused.

    MPerClass          P classes, m items of each                   what losses over pairs and triplets need
    ClusterBatches     the same within one cluster of the items     divide and conquer: each cluster trains its slice
    HardClassBatches   a class and the k classes nearest to it      SCHEM: the hard negatives are in the batch

A sampler is iterated over for an epoch: each batch is an int64 tensor of indices, its items class by class. `len` is
the number of batches of every epoch. `draw(generator)` gives an epoch's batches as a list and depends on nothing else
than the generator and what `refresh` was given last, so that the state of the generator brings an epoch back.

        for batch in MPerClass(labels, m=4, batch_size=64, generator=generator):
            loss(model(x[batch]), labels[batch])

Within an epoch the items of a class come in a random order, m at a time, from the first again after the last: no item
twice in a batch unless its class has less than m; then its items are repeated, so that there are always m.

References: Sanakoyeu, Tschernezki, Buechler, Ommer, "Divide and conquer the embedding space for metric learning", CVPR
2019, arXiv:1906.05990; Suh, Han, Kim, Lee, "Stochastic class-based hard example mining for deep metric learning", CVPR
2019.
"""

import math
import warnings
from collections.abc import Iterator

import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from geoembed.data.classes import Classes, check_labels
from geoembed.data.draws import check_sizes, rand
from geoembed.data.kmeans import cluster
from geoembed.distance import Distance, Items, pairwise_blocks
from geoembed.errors import DataWarning, DomainError, ShapeError

__all__ = ["Batches", "ClusterBatches", "HardClassBatches", "MPerClass"]


class Batches:
    """Base of the samplers: `len` batches an epoch, drawn by `draw`."""

    generator: torch.Generator | None

    def __len__(self) -> int:
        raise NotImplementedError

    def draw(self, generator: torch.Generator | None = None) -> list[Tensor]:
        """The batches of an epoch, drawn from this generator and not from the sampler's own."""
        raise NotImplementedError

    def __iter__(self) -> Iterator[Tensor]:
        yield from self.draw(self.generator)


class MPerClass(Batches):
    """Batches of batch_size / m classes, m items of each; every item is in at least one batch of an epoch.

    Where the classes are of one size, a multiple of m, every item is in exactly one batch. Else small classes are
    repeated while large ones are not through: an epoch has as many batches as the largest class has draws of m.
    `small` is the number of classes with less than m items, whose items are repeated within a batch.

    Args:
        labels: whole numbers (n,).
        m: items of a class in a batch, at least 1.
        batch_size: a multiple of m, at least 2 m and at most m times the number of classes.
        generator: for iteration; None for torch's own.

    Raises:
        ShapeError: labels of another kind or shape.
        DomainError: a batch size that cannot be kept, labels of one class.
    """

    def __init__(self, labels: Tensor, m: int, batch_size: int, generator: torch.Generator | None = None):
        check_labels(labels)
        self.width, self.generator = _width(m, batch_size), generator
        self.classes = Classes(labels, m)
        _check_classes(len(self.classes))
        if self.width > len(self.classes):
            raise DomainError(
                f"a batch of {batch_size} with m = {m} needs {self.width} classes, the labels have "
                f"{len(self.classes)}; lower batch_size to {m * len(self.classes)} or raise m"
            )
        self.small = int((self.classes.sizes < m).sum())

    def __len__(self) -> int:
        return self.classes.batches_for_all(self.width)

    def draw(self, generator: torch.Generator | None = None) -> list[Tensor]:
        return self.classes.draw(self.width, len(self), generator)


class ClusterBatches(Batches):
    """Batches of m items a class from one cluster of the embeddings, the clusters in turn (divide and conquer).

    `refresh(embeddings)` clusters all items; call it before the first epoch and every few epochs (the paper: 2).
    Cluster c keeps its number as far as it can, so that slice c of the embedding goes on with the same region:

        batches.refresh(model(x))
        for batch in batches:
            slices[batches.cluster_of(batch)] ...      # see `geoembed.distances.slices`

    Each cluster gives the same number of batches, so that each slice trains alike: of a large cluster an epoch shows a
    random part. A class with one item in a cluster has no pair there and is left out until the next refresh; so are
    clusters with less than two other classes, which have no negatives. `left_out` counts these items, in `clusters`
    (n,) they are at -1. A batch is smaller where its cluster has less than batch_size / m classes.

    Args:
        labels, m, batch_size, generator: as in `MPerClass`; m at least 2.
        k: number of clusters; the paper has 4 (CUB, Cars) or 8 (SOP).
        distance: k-means of its `embed` where that is Euclidean, else k-medoids under it.

    Raises:
        ShapeError: labels of another kind or shape, another number of embeddings than labels.
        DomainError: a batch size that cannot be kept, labels of one class, more clusters than items, embeddings that
            are not finite, no cluster with pairs of two classes.
    """

    def __init__(
        self,
        labels: Tensor,
        m: int,
        batch_size: int,
        k: int,
        distance: Distance,
        generator: torch.Generator | None = None,
    ):
        check_labels(labels)
        check_sizes(k=k)
        self.width = _width(m, batch_size)
        if m < 2:
            raise DomainError(f"ClusterBatches: m must be at least 2, so that there are pairs of a class; got {m}")
        _check_classes(len(labels.unique()))
        self.labels, self.m, self.k, self.distance, self.generator = labels, m, k, distance, generator
        self.count = math.ceil(len(labels) / batch_size)
        self.clusters: Tensor | None = None
        self.left_out = 0

    def __len__(self) -> int:
        return self.count

    def refresh(self, embeddings: Items) -> None:
        """Cluster the embeddings of all items, (n, *E)."""
        if len(embeddings) != len(self.labels):
            raise ShapeError(f"there are {len(self.labels)} labels and {len(embeddings)} embeddings")
        found = cluster(embeddings, self.k, self.distance, self.generator).to(self.labels.device)
        if self.clusters is not None:
            found = _matched(self.clusters, found, self.k)
        _, group, sizes = torch.stack([found, self.labels]).unique(dim=1, return_inverse=True, return_counts=True)
        alone = sizes[group] < 2
        found = torch.where(alone, -1, found)
        thin = [c for c in range(self.k) if len(self.labels[found == c].unique()) < 2]
        if len(thin) == self.k:
            raise DomainError(f"ClusterBatches: none of {self.k} clusters has pairs of two classes; use fewer clusters")
        if thin:
            warnings.warn(
                f"clusters {', '.join(map(str, thin))} of {self.k} have pairs of less than two classes and give no "
                f"batches; use fewer clusters",
                DataWarning,
                stacklevel=2,
            )
        self.clusters = torch.where(torch.isin(found, found.new_tensor(thin)), -1, found)
        self.left_out = int((self.clusters < 0).sum())

    def cluster_of(self, batch: Tensor) -> int:
        """The cluster that a batch comes from."""
        return int(self._clusters()[batch[0]])

    def draw(self, generator: torch.Generator | None = None) -> list[Tensor]:
        clusters = self._clusters()
        used = clusters[clusters >= 0].unique().tolist()
        parts = []
        for c in used:
            index = (clusters == c).nonzero().flatten()
            classes = Classes(self.labels[index], self.m, index)
            parts.append(classes.draw(min(self.width, len(classes)), math.ceil(self.count / len(used)), generator))
        return [batch for turn in zip(*parts, strict=True) for batch in turn][: self.count]

    def _clusters(self) -> Tensor:
        if self.clusters is None:
            raise DomainError("ClusterBatches: there are no clusters yet; call refresh(embeddings) first")
        return self.clusters


class HardClassBatches(Batches):
    """Batches of an anchor class and the k classes whose signatures are nearest to its own, m items of each (SCHEM).

    A class's signature is a point that stands for it: a proxy that is trained beside the embedding, or the mean of its
    items. `refresh(signatures)` finds the nearest classes again. Anchors are taken in random order, each class once
    before any is taken again; the nearest classes come in order of distance. A class without items is never drawn.

    Args:
        labels: whole numbers (n,) from 0 to C - 1.
        m: items of a class in a batch. k: hard classes beside the anchor. A batch has m (k + 1) items.
        signatures: (C, *E), row c for label c. distance: from the anchor's signature (rows) to the others'.

    Raises:
        ShapeError: labels of another kind or shape.
        DomainError: a label without a signature, less than k other classes, a distance that is not finite.
    """

    def __init__(
        self,
        labels: Tensor,
        m: int,
        k: int,
        signatures: Items,
        distance: Distance,
        generator: torch.Generator | None = None,
    ):
        check_labels(labels)
        check_sizes(m=m, k=k)
        self.classes, self.k, self.distance, self.generator = Classes(labels, m), k, distance, generator
        _check_classes(len(self.classes))
        if k >= len(self.classes):
            raise DomainError(f"k = {k} hard classes need {k + 1} classes, the labels have {len(self.classes)}")
        self.count = math.ceil(len(labels) / (m * (k + 1)))
        self.refresh(signatures)

    def __len__(self) -> int:
        return self.count

    @torch.no_grad()
    def refresh(self, signatures: Items) -> None:
        """Find the k nearest classes of each class."""
        values = self.classes.values
        if int(values.min()) < 0 or int(values.max()) >= len(signatures):
            raise DomainError(
                f"HardClassBatches: labels go from {int(values.min())} to {int(values.max())}, there are "
                f"{len(signatures)} signatures; row c must be that of label c"
            )
        signatures = signatures[values.to(signatures.device)]
        self._check_finite(self.distance(signatures, signatures))  # names the class; below it spoils all the others
        nearest = []
        for rows, block in pairwise_blocks(self.distance, signatures):
            self._check_finite(block.sum(1), rows.start)
            own = torch.arange(rows.start, rows.stop, device=block.device).unsqueeze(1)
            nearest.append(block.scatter(1, own, torch.inf).topk(self.k, largest=False).indices)
        self.nearest = torch.cat(nearest).to(values.device)  # by place among the classes that have items

    def draw(self, generator: torch.Generator | None = None) -> list[Tensor]:
        shuffled, turn = self.classes.shuffled(generator), torch.zeros_like(self.classes.sizes)
        rounds = math.ceil(self.count / len(turn))
        anchors = rand((rounds, len(turn)), turn.device, generator).argsort(1).flatten()[: self.count]
        batches = []
        for classes in torch.cat([anchors.unsqueeze(1), self.nearest[anchors]], 1):
            batches.append(self.classes.take(shuffled, classes, turn[classes]))
            turn[classes] += 1
        return batches

    def _check_finite(self, values: Tensor, start: int = 0) -> None:
        bad = (~values.isfinite()).nonzero().flatten()
        if len(bad):
            raise DomainError(
                f"HardClassBatches: the signature of class {int(self.classes.values[start + bad[0]])} gives distances "
                f"that are not finite ({len(bad)} such classes)"
            )


def _width(m: int, batch_size: int) -> int:
    """Number of classes in a batch."""
    check_sizes(m=m, batch_size=batch_size)
    if batch_size % m or batch_size < 2 * m:
        raise DomainError(
            f"batch_size must be a multiple of m = {m} with at least two classes, {2 * m}; got {batch_size}"
        )
    return batch_size // m


def _check_classes(count: int) -> None:
    if count < 2:
        raise DomainError("all labels are of one class; batches need at least two, or there are no negatives")


def _matched(old: Tensor, new: Tensor, k: int) -> Tensor:
    """The new clusters, renumbered so that as many items as possible keep their old number."""
    both = old >= 0
    shared = (old[both] * k + new[both]).bincount(minlength=k * k).reshape(k, k)
    rows, columns = linear_sum_assignment(shared.cpu().numpy(), maximize=True)
    number = torch.empty(k, dtype=new.dtype, device=new.device)
    number[torch.from_numpy(columns).to(new.device)] = torch.from_numpy(rows).to(new)
    return number[new]
