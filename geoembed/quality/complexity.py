"""How entangled the classes are, before anything is trained: the cumulative spectral gradient of their overlap.

With N_j(x) the number of items of class j among the k nearest to x and h(x) the distance to the k-th (the Parzen cell),

    S_ij = E_{x of class i} N_j(x) / h(x), rows divided by their sum
    W_ij = 1 - sum_l |S_il - S_jl| / sum_l (S_il + S_jl)            (1 - Bray-Curtis)
    0 = lambda_0 <= ... <= lambda_{K-1}: eigenvalues of the Laplacian diag(W 1) - W of the K classes
    CSG = sum_i max_{j <= i} g_j,     g_i = (lambda_{i+1} - lambda_i) / (K - i)

CSG is 0 where neighbours are always of the same class, and K - 1 where all classes have the same neighbours. It does
not change when all distances are multiplied by a number.

Reference: Branchaud-Charron, Achkar, Jodoin, "Spectral Metric for Dataset Complexity Assessment", CVPR 2019,
arXiv:1905.07299.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from geoembed.blocks import BUDGET, check_items
from geoembed.distance import Distance, Items
from geoembed.errors import DomainError
from geoembed.quality.ranks import whole_numbers
from geoembed.retrieval import Neighbors

__all__ = ["SpectralComplexity", "spectral_complexity"]

SMALLEST_CELL = 1e-5  # of the mean cell: what coincident items count for


@dataclass(frozen=True)
class SpectralComplexity:
    """csg; labels: (K,) in the order of the rows; similarity: S, (K, K); eigenvalues: (K,), ascending."""

    csg: float
    labels: Tensor
    similarity: Tensor
    eigenvalues: Tensor

    def __float__(self) -> float:
        return self.csg


@torch.no_grad()
def spectral_complexity(
    distance: Distance,
    x: Items,
    labels: Any,
    *,
    k: int = 3,
    samples: int = 250,
    budget: int = BUDGET,
    generator: torch.Generator | None = None,
) -> SpectralComplexity:
    """Cumulative spectral gradient of the classes under any distance; only nearest neighbours are asked for.

    Args:
        x: (n, *E) or `PointSets`; labels: (n,) whole numbers.
        k: neighbours, among all items but the item itself.
        samples: items drawn from each class to take their neighbours; all of a smaller class.

    Raises ShapeError or DomainError for items or labels that do not fit, NaN, one class, k not in 1 .. n - 1, and
    negative distances.
    """
    check_items(distance, x)
    known, classes = whole_numbers(labels, len(x), "labels", x.device).unique(return_inverse=True)
    count = len(known)
    if count < 2:
        raise DomainError(f"spectral_complexity compares classes: at least two are needed, got {count}")
    if not 1 <= k < len(x) or samples < 1:
        raise DomainError(f"k must be from 1 to {len(x) - 1} and samples positive, got k={k}, samples={samples}")
    drawn = _drawn(classes, count, samples, generator)
    d, j = Neighbors(distance, budget=budget).fit(x).kneighbors(x[drawn], k + 1)
    other = j != drawn.unsqueeze(1)
    other &= other.cumsum(1) <= k  # where there are more than k copies the item itself may not be among them
    d, j = d[other].view(-1, k), j[other].view(-1, k)
    if bool((d < 0).any()):
        raise DomainError(f"{type(distance).__name__} has negative values, which are the radius of no cell")

    cell = d[:, -1].double()
    cell = torch.where(cell.mean() > 0, cell.clamp(min=SMALLEST_CELL * cell.mean()), 1.0)
    place = classes[drawn].unsqueeze(1) * count + classes[j]
    weight = (1 / cell).unsqueeze(1).expand(-1, k)
    sums = weight.new_zeros(count * count).index_add_(0, place.flatten(), weight.flatten()).view(count, count)
    similarity = sums / sums.sum(1, keepdim=True)
    w = 1 - torch.cdist(similarity, similarity, p=1) / 2  # the rows sum to one
    values = torch.linalg.eigvalsh(w.sum(1).diag() - w)
    gaps = values.diff() / torch.arange(count, 1, -1, device=values.device)
    return SpectralComplexity(float(gaps.cummax(0).values.sum()), known, similarity, values)


def _drawn(classes: Tensor, count: int, samples: int, generator: torch.Generator | None) -> Tensor:
    """Up to `samples` items of each class, drawn without replacement."""
    order = torch.randperm(len(classes), generator=generator).to(classes.device)
    order = order[classes[order].argsort(stable=True)]
    sizes = classes.bincount(minlength=count)
    place = torch.arange(len(order), device=order.device) - (sizes.cumsum(0) - sizes)[classes[order]]
    return order[place < samples]
