"""Is the space made of classes? Clusters against labels, spread within against between classes, spectral decay.

    pi_ratio = pi_intra / pi_inter     pi_intra = mean of d(x, y) over ordered pairs of one class, x not y
                                       pi_inter = mean of d(mu, mu') over ordered pairs of class centres
    rho = KL(U || S) = -log D - (1 / D) sum_i log s_i     s = singular values of the vectors / their sum,
                                                          U = uniform on the D of them

A small pi_ratio means classes that are tight for their distances; a small rho that all directions are used alike. Roth
et al. find that a smaller rho goes with better retrieval of classes not seen in training, where a very small pi_ratio
does not. NMI and AMI compare a k-means partition with the labels.

References: Roth, Milbich, Sinha, Gupta, Ommer, Cohen, "Revisiting Training Strategies and Generalization Performance in
Deep Metric Learning", ICML 2020, arXiv:2002.08473; Vinh, Epps, Bailey, "Information Theoretic Measures for Clusterings
Comparison", JMLR 2010.
"""

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from geoembed.blocks import BUDGET, check_items, distance_blocks, reduced
from geoembed.data.kmeans import far_apart, fill_empty
from geoembed.distance import Distance, Items
from geoembed.errors import DomainError, MissingDependencyError
from geoembed.quality.features import centres, features, simplified
from geoembed.quality.ranks import whole_numbers

__all__ = ["ClusterAgreement", "PiRatio", "cluster_agreement", "k_means", "pi_ratio", "spectral_decay"]

MAX_ROUNDS = 100


class ClusterAgreement(NamedTuple):
    """ami: adjusted for chance, 0 for a random partition, at most 1; nmi: not adjusted, in [0, 1]."""

    ami: float
    nmi: float


class PiRatio(NamedTuple):
    ratio: float
    intra: float
    inter: float


def cluster_agreement(
    distance: Distance,
    x: Items,
    labels: Any,
    *,
    n_clusters: int | None = None,
    restarts: int = 1,
    budget: int = BUDGET,
    generator: torch.Generator | None = None,
) -> ClusterAgreement:
    """Adjusted and normalised mutual information of the labels and a k-means partition under the distance.

    Read with care. Both depend on the seed of k-means and on the number of clusters, and k-means wants round clusters
    of equal size. NMI is high for many small classes even where the partition is bad: compare it only between
    embeddings of the same items with the same number of clusters. AMI has no such floor. To choose a model use
    `retrieval_metrics`, whose MAP@R needs no clustering.

    Args:
        x: (n, *E) or `PointSets`; labels: (n,) whole numbers.
        n_clusters: None for the number of labels.
        restarts, generator: of `k_means`.

    Raises:
        ShapeError, DomainError: items or labels that do not fit, NaN, no items, more clusters than items.
        MissingDependencyError: without scikit-learn (extra `interop`).
    """
    try:
        from sklearn.metrics import adjusted_mutual_info_score, normalized_mutual_info_score
    except ImportError as error:
        raise MissingDependencyError(
            "cluster_agreement needs scikit-learn. Install it with: pip install 'geoembed[interop]'"
        ) from error
    check_items(distance, x)
    classes, count = _classes(labels, len(x), x.device)
    found = k_means(distance, x, n_clusters or count, restarts=restarts, budget=budget, generator=generator)
    pair = classes.cpu().numpy(), found.cpu().numpy()
    return ClusterAgreement(float(adjusted_mutual_info_score(*pair)), float(normalized_mutual_info_score(*pair)))


def k_means(
    distance: Distance,
    x: Items,
    n_clusters: int,
    *,
    restarts: int = 1,
    budget: int = BUDGET,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Clusters of k-means under any distance, numbers (n,) from 0 to n_clusters - 1; none is empty.

    Lloyd's rounds from k-means++ seeds, the best of `restarts` by the sum of squared distances to the centres. Centres
    are barycentres of the distance: means, Frechet means on a manifold, medoids of sets that have no embedding.
    """
    check_items(distance, x)
    if not 1 <= n_clusters <= len(x):
        raise DomainError(f"n_clusters must be from 1 to the number of items, {len(x)}, got {n_clusters}")
    distance, x = simplified(distance, x)
    runs = [_lloyd(distance, x, n_clusters, budget, generator) for _ in range(max(1, restarts))]
    return min(runs, key=lambda run: run[1])[0]


def _lloyd(
    distance: Distance, x: Any, n_clusters: int, budget: int, generator: torch.Generator | None
) -> tuple[Tensor, float]:
    """Clusters and the sum of squared distances to their centres."""

    def squares_to(index: Tensor) -> Tensor:
        return torch.cat([block for _, block in distance_blocks(*reduced(distance, x, x[index]))]).double().square()

    middle = x[far_apart(len(x), n_clusters, squares_to, generator)]
    clusters, squares = _assigned(distance, x, middle, budget)
    for _ in range(MAX_ROUNDS):
        middle = centres(distance, x, clusters, n_clusters, budget=budget)
        previous, (clusters, squares) = clusters, _assigned(distance, x, middle, budget)
        if torch.equal(clusters, previous):
            break
    return clusters, float(squares.sum())


def _assigned(distance: Distance, x: Any, middle: Any, budget: int) -> tuple[Tensor, Tensor]:
    """The nearest centre of each item and the squared distance to it; an empty cluster takes the farthest item."""
    parts = [block.min(1) for _, block in distance_blocks(*reduced(distance, x, middle), budget=budget)]
    near, clusters = torch.cat([p.values for p in parts]).double(), torch.cat([p.indices for p in parts])
    fill_empty(clusters, near, len(middle))
    return clusters, near.square()


def pi_ratio(distance: Distance, x: Items, labels: Any, *, budget: int = BUDGET) -> PiRatio:
    """Mean distance within classes over the mean distance of their centres, with both means.

    Centres are barycentres of the distance: means (of unit vectors under Cosine), Frechet means on a manifold, medoids
    of sets that have no embedding. x: (n, *E) or `PointSets`, labels: (n,).

    Raises DomainError for NaN, for fewer than two classes, and where no class has two items.
    """
    check_items(distance, x)
    classes, count = _classes(labels, len(x), x.device)
    sizes = classes.bincount(minlength=count)
    if count < 2 or int(sizes.max()) < 2:
        raise DomainError(
            f"pi_ratio needs two classes and a class of two items, got {count} class(es), the largest of "
            f"{int(sizes.max()) if count else 0}"
        )
    distance, x = simplified(distance, x)
    total = torch.zeros((), dtype=torch.float64, device=classes.device)
    for c in range(count):
        members = x[classes == c]
        total += _off_diagonal(distance, members, budget)
    intra = float(total / (sizes * (sizes - 1)).sum())
    between = _off_diagonal(distance, centres(distance, x, classes, count, budget=budget), budget)
    inter = float(between / (count * (count - 1)))
    return PiRatio(intra / inter if inter else math.inf, intra, inter)


def _off_diagonal(distance: Distance, x: Any, budget: int) -> Tensor:
    """Sum of the distances of ordered pairs of different items."""
    total = torch.zeros((), dtype=torch.float64, device=x.device)
    for rows, block in distance_blocks(*reduced(distance, x, x), budget=budget):
        total += block.double().sum() - block.diagonal(rows.start).double().sum()
    return total


def spectral_decay(distance: Distance, x: Items, *, centred: bool = False) -> float:
    """rho = KL(U || S) of the singular values of the items' vectors: 0 if all directions are used alike.

    Infinite where the vectors span fewer directions than they have coordinates. Points of a manifold are taken in
    tangent coordinates at the origin, with `centred` at their Frechet mean; centred vectors are those less their mean.

    x: (n, *E), n >= 1. Raises DomainError for NaN, no items, items at one point, and sets without an embedding.
    """
    check_items(distance, x)
    values = torch.linalg.svdvals(features(distance, x, centred=centred).double()) if len(x) else torch.zeros(0)
    if not len(values) or not values[0] > 0:
        raise DomainError(f"spectral_decay needs items that are not all at the origin, got {len(x)} item(s)")
    rounding = max(len(x), len(values)) * torch.finfo(x.dtype).eps * values[0]
    share = torch.where(values > rounding, values, 0.0) / values.sum()
    return float(-math.log(len(values)) - share.log().mean())


def _classes(labels: Any, n: int, device: torch.device) -> tuple[Tensor, int]:
    """Labels numbered from 0, and how many there are."""
    known, classes = whole_numbers(labels, n, "labels", device).unique(return_inverse=True)
    return classes, len(known)
