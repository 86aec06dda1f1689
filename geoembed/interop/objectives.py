"""What the metric estimators minimise: losses of the squared Euclidean distances D_ij between features, full batch.

    NCA           -mean_i sum_{j of the class of i} p_ij,    p_i = softmax of -D_ij over j other than i
    Contrastive   (mean of [D - u]_+^2 over pairs that belong together + mean of [v - D]_+^2 over others) / v^2

NCA is minus the expected accuracy of a neighbour drawn at random. The bounds u < v of the contrastive loss are, unless
given, the 5 % and the 95 % quantile of the squared distances in the data.

References: Goldberger, Roweis, Hinton and Salakhutdinov, Neighbourhood Components Analysis, NeurIPS 2004; Davis, Kulis,
Jain, Sra and Dhillon, Information-Theoretic Metric Learning, ICML 2007 (the bounds); Chen et al., Curvilinear Distance
Metric Learning, NeurIPS 2019 (the squared hinges).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.numerics import sqdist

__all__ = ["NCA", "Contrastive", "ContrastivePairs", "Objective", "bounds_of"]

BLOCK = 1 << 21  # elements of the matrix of distances held at a time

Objective = Callable[[Tensor], tuple[float, Tensor]]  # features (n, m) -> value, gradient (n, m)


def bounds_of(squares: Tensor, bounds: tuple[float, float] | None) -> tuple[float, float]:
    """(u, v): as given, or the 5 % and the 95 % quantile of squared distances."""
    u, v = torch.quantile(squares, squares.new_tensor([0.05, 0.95])).tolist() if bounds is None else bounds
    if not 0 <= u <= v or not 0 < v < float("inf"):
        raise DomainError(
            f"bounds must be 0 <= u <= v with v > 0, got ({u:g}, {v:g})"
            + (": all items coincide" if bounds is None and not v else "")
        )
    return u, v


class NCA:
    """labels: (n,) integers."""

    def __init__(self, labels: Tensor):
        self.labels = labels

    def __call__(self, features: Tensor) -> tuple[float, Tensor]:
        return _in_blocks(features, self._rows)

    def _rows(self, features: Tensor, rows: slice) -> Tensor:
        d = sqdist(features[rows], features)
        own = torch.zeros_like(d, dtype=torch.bool)
        own.diagonal(rows.start).fill_(True)
        p = (-d.masked_fill(own, float("inf"))).softmax(1)
        return -(p * (self.labels[rows].unsqueeze(1) == self.labels)).sum() / len(features)


class Contrastive:
    """Over all pairs of points. labels: (n,) integers."""

    def __init__(self, labels: Tensor, bounds: tuple[float, float]):
        self.labels, self.bounds = labels, bounds
        sizes = labels.unique(return_counts=True)[1].double()
        self.together = max(1.0, (sizes * (sizes - 1)).sum().item())
        self.apart = len(labels) ** 2 - sizes.square().sum().item()

    def __call__(self, features: Tensor) -> tuple[float, Tensor]:
        return _in_blocks(features, self._rows)

    def _rows(self, features: Tensor, rows: slice) -> Tensor:
        u, v = self.bounds
        d = sqdist(features[rows], features)
        same = self.labels[rows].unsqueeze(1) == self.labels
        hinge = torch.where(same, (d - u).relu(), (v - d).relu())
        squares = (hinge / v).square()
        together = torch.where(same, squares, 0.0).sum()
        return together / self.together + (squares.sum() - together) / self.apart


class ContrastivePairs:
    """Over given pairs. together: (n,) booleans, for features of 2n points: the first ones of all pairs, the others."""

    def __init__(self, together: Tensor, bounds: tuple[float, float]):
        self.together, self.bounds = together, bounds

    def __call__(self, features: Tensor) -> tuple[float, Tensor]:
        features = features.detach().requires_grad_()
        u, v = self.bounds
        d = (features[: len(self.together)] - features[len(self.together) :]).square().sum(1)
        close, far = d[self.together], d[~self.together]
        loss = ((close - u).relu() / v).square().mean() + ((v - far).relu() / v).square().mean()
        return loss.item(), torch.autograd.grad(loss, features)[0]


def _in_blocks(features: Tensor, rows_of: Callable[[Tensor, slice], Tensor]) -> tuple[float, Tensor]:
    """Sum of `rows_of(features, rows)` over blocks of rows, and its gradient; one block in memory at a time."""
    features = features.detach().requires_grad_()
    size, total, gradient = max(1, BLOCK // len(features)), 0.0, torch.zeros_like(features)
    for start in range(0, len(features), size):
        part = rows_of(features, slice(start, min(start + size, len(features))))
        gradient += torch.autograd.grad(part, features)[0]
        total += part.item()
    return total, gradient
