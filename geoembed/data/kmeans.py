"""Clusters of vectors by k-means, and of any items by k-medoids under any distance.

    k-means     min over centres c and labels z of  sum_i |x_i - c_{z_i}|^2          vectors, centres are means
    k-medoids   min over items c and labels z of    sum_i d(x_i, c_{z_i})            any `Distance`, centres are items

Both start from far apart items (k-means++, drawn in proportion to the squared distance, or the distance, from those
there already) and alternate between the labels and the centres. No cluster is ever empty: one that runs out of items
takes the item farthest from its centre. Memory is n k distances at most, in blocks.

References: Arthur, Vassilvitskii, "k-means++: the advantages of careful seeding", SODA 2007 (with the greedy choice
among a few draws of their last section); Park, Jun, "A simple and fast algorithm for k-medoids clustering", Expert
Systems with Applications 36, 2009.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from geoembed.data.draws import check_sizes
from geoembed.distance import Distance, Items, pairwise_blocks
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import sqdist

__all__ = ["Clusters", "Medoids", "cluster", "far_apart", "fill_empty", "kmeans", "kmedoids"]

_BLOCK = 1 << 22  # elements of a block of distances


class Clusters(NamedTuple):
    """What `kmeans` gives: centres (k, d), the cluster of each vector (n,) int64, and the sum of squared distances."""

    centres: Tensor
    labels: Tensor
    inertia: float


class Medoids(NamedTuple):
    """What `kmedoids` gives: indices of the medoids (k,), the cluster of each item (n,), the sum of distances."""

    medoids: Tensor
    labels: Tensor
    cost: float


@torch.no_grad()
def kmeans(
    x: Tensor, k: int, generator: torch.Generator | None = None, *, iterations: int = 100, restarts: int = 1
) -> Clusters:
    """k-means of the rows of x: (n, d) by Lloyd's iterations; the best of `restarts` runs.

    Half precision is computed in float32. Raises ShapeError unless x is a floating point matrix, DomainError for values
    that are not finite or unless 1 <= k <= n.
    """
    if x.dim() != 2 or not x.is_floating_point():
        raise ShapeError(f"kmeans: x must be floating point (n, d), got {x.dtype} of shape {tuple(x.shape)}")
    _check_count(k, len(x), iterations=iterations, restarts=restarts)
    bad = ~x.isfinite().all(1)
    if bool(bad.any()):
        raise DomainError(
            f"kmeans: {int(bad.sum())} of {len(x)} rows are not finite, the first is {int(bad.nonzero()[0])}"
        )
    wide = x.to(torch.promote_types(x.dtype, torch.float32))
    best = min((_lloyd(wide, k, generator, iterations) for _ in range(restarts)), key=lambda found: found.inertia)
    return best._replace(centres=best.centres.to(x.dtype))


def _lloyd(x: Tensor, k: int, generator: torch.Generator | None, iterations: int) -> Clusters:
    centres = x[far_apart(len(x), k, lambda index: sqdist(x, x[index]), generator)]
    labels = torch.full((len(x),), -1, device=x.device)
    for _ in range(iterations):
        previous, (labels, squared) = labels, _nearest(x, centres)
        fill_empty(labels, squared, k)
        if torch.equal(labels, previous):
            break
        centres = x.new_zeros(k, x.shape[1]).index_add_(0, labels, x) / labels.bincount(minlength=k).unsqueeze(1)
    inertia = (x - centres[labels]).square().sum().item()
    return Clusters(centres, labels, inertia)


def far_apart(n: int, k: int, costs: Callable[[Tensor], Tensor], generator: torch.Generator | None) -> Tensor:
    """Indices of k different items: each is the best of a few drawn in proportion to their cost.

    costs: indices (c,) -> what each item costs with each of them as its centre, (n, c).
    """
    tries = 2 + int(math.log(k))
    device = None if generator is None else generator.device
    first = torch.randint(n, (1,), generator=generator, device=device)
    cost = costs(first).squeeze(1)
    chosen = first.to(cost.device)
    while len(chosen) < k:
        weights = cost.clamp(min=0).index_fill(0, chosen, 0.0)
        if not bool(weights.any()):  # all others lie on a chosen one
            weights = torch.ones_like(cost).index_fill(0, chosen, 0.0)
        drawn = _drawn(weights, tries, generator)
        after = torch.minimum(cost.unsqueeze(1), costs(drawn))
        best = after.sum(0).argmin()
        chosen, cost = torch.cat([chosen, drawn[best : best + 1]]), after[:, best]
    return chosen


def _drawn(weights: Tensor, count: int, generator: torch.Generator | None) -> Tensor:
    """Indices drawn in proportion to the weights, with replacement. By hand: multinomial stops at 2^24 rows."""
    device = weights.device if generator is None else generator.device
    total = weights.double().cumsum(0)
    u = torch.rand(count, dtype=torch.float64, generator=generator, device=device).to(weights.device) * total[-1]
    return torch.searchsorted(total, u, right=True)  # the first place above u is one of positive weight


def _nearest(x: Tensor, centres: Tensor) -> tuple[Tensor, Tensor]:
    """The nearest centre of each row, and the squared distance to it."""
    found = [sqdist(block, centres).min(1) for block in x.split(max(1, _BLOCK // len(centres)))]
    return torch.cat([f.indices for f in found]), torch.cat([f.values for f in found])


def fill_empty(labels: Tensor, distances: Tensor, k: int) -> None:
    """Give each empty cluster the item farthest from its centre that is not alone in its cluster."""
    counts = labels.bincount(minlength=k)
    for empty in (counts == 0).nonzero().flatten().tolist():
        item = int(torch.where(counts[labels] > 1, distances, -torch.inf).argmax())
        counts[labels[item]] -= 1
        counts[empty] += 1
        labels[item], distances[item] = empty, 0.0


@torch.no_grad()
def kmedoids(
    x: Items,
    k: int,
    distance: Distance,
    generator: torch.Generator | None = None,
    *,
    iterations: int = 20,
    candidates: int = 64,
) -> Medoids:
    """k-medoids of the items of x: (n, *E), tensor or `PointSets`, under any distance.

    A new medoid is the best of a cluster's items, or of `candidates` random ones where it has more: n x candidates
    distances an iteration in place of n^2. A distance that is not symmetric is taken from the item to the medoid.

    Raises DomainError unless 1 <= k <= n, or for a distance that is not finite.
    """
    n = len(x)
    _check_count(k, n, iterations=iterations, candidates=candidates)

    def columns(items: Items, of: Tensor) -> Tensor:
        return _finite(torch.cat([block for _, block in pairwise_blocks(distance, items, x[of])]), distance)

    _finite(distance(x, x).unsqueeze(1), distance)  # names the bad item, where its column would show all
    medoids = far_apart(n, k, lambda index: columns(x, index), generator)
    for _ in range(iterations):
        labels, _ = _assigned(x, medoids, columns)
        better = medoids.clone()
        for c in range(k):
            members = (labels == c).nonzero().flatten()
            few = members if len(members) <= candidates else _shuffled(members, generator)[:candidates]
            few = torch.cat([medoids[c : c + 1], few])  # of equal ones, the old medoid
            better[c] = few[columns(x[members], few).sum(0, dtype=torch.float64).argmin()]
        if torch.equal(better, medoids):
            break
        medoids = better
    labels, cost = _assigned(x, medoids, columns)
    return Medoids(medoids, labels, cost)


def _assigned(x: Items, medoids: Tensor, columns: Callable[[Items, Tensor], Tensor]) -> tuple[Tensor, float]:
    """The cluster of each item, a medoid's being its own, and the sum of the distances to the medoids."""
    d, labels = columns(x, medoids).min(1)
    labels[medoids] = torch.arange(len(medoids), device=labels.device)
    return labels, d.sum(dtype=torch.float64).item()


@torch.no_grad()
def cluster(x: Items, k: int, distance: Distance, generator: torch.Generator | None = None) -> Tensor:
    """The cluster of each item of x: (n, *E), (n,) int64 from 0 to k - 1.

    k-means where the distance is the Euclidean one of vectors it gives (`Distance.reduced`), else k-medoids.
    """
    _check_count(k, len(x))
    items, _ = distance._checked(x, x, distance.event_dim + 1)
    reduced, vectors, _ = distance.reduced(items, items)
    if reduced.embed_p == 2 and isinstance(vectors, Tensor):
        return kmeans(reduced.embed(vectors), k, generator).labels
    return kmedoids(items, k, distance, generator).labels


def _shuffled(index: Tensor, generator: torch.Generator | None) -> Tensor:
    device = index.device if generator is None else generator.device
    return index[torch.randperm(len(index), generator=generator, device=device).to(index.device)]


def _finite(distances: Tensor, distance: Distance) -> Tensor:
    bad = ~distances.isfinite().all(1)
    if bool(bad.any()):
        raise DomainError(
            f"kmedoids: {type(distance).__name__} gives NaN or infinity for {int(bad.sum())} of {len(bad)} items, the "
            f"first is {int(bad.nonzero()[0])}"
        )
    return distances


def _check_count(k: int, n: int, **sizes: int) -> None:
    check_sizes(k=k, **sizes)
    if k > n:
        raise DomainError(f"{n} items cannot make k = {k} clusters; ask for at most {n}")
