"""Re-ranking by fused diffusion: similarities that follow the neighbourhoods of several distances at once.

Each distance v gives a symmetric k-nearest-neighbour graph with Gaussian weights and its normalised matrix S_v. The
similarity A: (n, n) and the weights beta of the distances minimise

    J(A, beta) = (sum_v beta_v H_v(A) + mu |A - I|^2) / n + (lam / 2) (mu / (1 + mu))^2 |beta|^2,  beta >= 0, sum = 1
    H_v(A) = |A|^2 - <A, S_v A S_v>        small where A changes little along the edges of graph v

in turns: for fixed beta A is the fixed point of the diffusion

    A <- sum_v alpha_v S_v A S_v + (1 - sum_v alpha_v) I,     alpha_v = beta_v / (1 + mu),

and for fixed A beta is the projection of -H / (n lam (mu / (1 + mu))^2) onto the simplex: a distance whose graph
contradicts the others loses weight. The entries of A shrink with mu / (1 + mu), so lam means the same for every mu.
Each step and each turn lowers J. A is sparse: each row keeps its `keep` largest entries, and rows are made in blocks,
so the n x n matrix is never held. `keep` >= n is exact, and holds it.

Reference: Bai, Tang, Torr, Latecki, "Re-ranking via Metric Fusion for Object Retrieval and Person Re-identification",
CVPR 2019; the objective is that of Bai, Zhou, Wang, Bai, Latecki, Tian, "Ensemble Diffusion for Retrieval", ICCV 2017.
Gaussian widths of each item: Zelnik-Manor, Perona, "Self-Tuning Spectral Clustering", NeurIPS 2004.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.blocks import BUDGET
from geoembed.distance import Distance, Items
from geoembed.errors import DomainError, ShapeError
from geoembed.retrieval import Neighbors

__all__ = ["FusedDiffusion"]


class FusedDiffusion:
    """Similarities of a set of items, queries and gallery together, diffused over the graphs of several distances.

    Args:
        distances: one or more; one alone is plain diffusion.
        k: neighbours of an item in each graph.
        mu: pull towards the items themselves, > 0; the diffusion forgets by 1 / (1 + mu) a step.
        lam: pull towards equal weights, > 0: about 1 leaves them nearly equal, below 0.1 the best distance takes all.
        keep: entries of a row of A that are kept.
        steps: of the diffusion in each turn; turns: of similarity and weights.
        budget: bytes of a block of rows.

    Attributes:
        weights_: (v,) beta. objective_: J after each turn. affinity_: A, a SciPy sparse array (n, n); its negative is a
            matrix of distances for `retrieval_metrics_of`.
    """

    def __init__(
        self,
        distances: Distance | Sequence[Distance],
        *,
        k: int = 10,
        mu: float = 0.1,
        lam: float = 0.3,
        keep: int = 200,
        steps: int = 20,
        turns: int = 3,
        budget: int = BUDGET,
    ):
        self.distances = [distances] if isinstance(distances, Distance) else list(distances)
        if not self.distances:
            raise DomainError("FusedDiffusion: at least one distance is needed, got none")
        if not (mu > 0 and lam > 0) or min(k, keep, steps, turns, budget) < 1:
            raise DomainError(
                "FusedDiffusion: mu and lam must be positive, k, keep, steps, turns and budget at least 1, got "
                f"mu={mu}, lam={lam}, k={k}, keep={keep}, steps={steps}, turns={turns}, budget={budget}"
            )
        self.k, self.mu, self.lam, self.keep = k, mu, lam, keep
        self.steps, self.turns, self.budget = steps, turns, budget

    def fit(self, items: Items | Sequence[Items]) -> "FusedDiffusion":
        """Diffuse. items: (n, *E) for all distances, or a list with what each of them compares, in one order.

        Raises ShapeError for lists that do not fit together, DomainError for NaN, n <= k, or negative distances.
        """
        import scipy.sparse

        each = list(items) if isinstance(items, list | tuple) else [items] * len(self.distances)
        if len(each) != len(self.distances) or len({len(x) for x in each}) > 1:
            raise ShapeError(
                f"fit needs the same items for each of {len(self.distances)} distances, got {len(each)} collections of "
                f"{[len(x) for x in each]} items"
            )
        graphs = [self._graph(d, x) for d, x in zip(self.distances, each, strict=True)]
        n = len(each[0])
        beta = np.full(len(graphs), 1 / len(graphs))
        lam = self.lam * (self.mu / (1 + self.mu)) ** 2
        a = scipy.sparse.eye_array(n, format="csr")
        self.objective_: list[float] = []
        for _ in range(self.turns):
            for _ in range(self.steps):
                a = self._step(graphs, a, beta / (1 + self.mu))
            rough = self._roughness(graphs, a) / n
            beta = _on_simplex(-rough / lam)
            away = (a - scipy.sparse.eye_array(n)).power(2).sum() / n
            self.objective_.append(float(beta @ rough + self.mu * away + lam / 2 * beta @ beta))
        self.weights_, self.affinity_ = torch.from_numpy(beta), a
        return self

    def kneighbors(self, k: int = 5) -> tuple[Tensor, Tensor]:
        """Similarities (n, k), descending, and indices (n, k) of the items most similar to each, itself left out.

        Items that the diffusion did not reach have similarity 0 and come in the order of their index.
        """
        if not hasattr(self, "affinity_"):
            raise DomainError("this FusedDiffusion is not fitted yet: call fit(items) first")
        n = self.affinity_.shape[0]
        if not 1 <= k < n:
            raise DomainError(f"k must be from 1 to {n - 1}, got {k}")
        values, indices = [], []
        for rows in self._blocks(n):
            block = torch.from_numpy(self.affinity_[rows].toarray())
            block.diagonal(rows.start).fill_(-1)
            top = block.sort(dim=1, descending=True, stable=True)
            values.append(top.values[:, :k].clone())
            indices.append(top.indices[:, :k].clone())
        return torch.cat(values), torch.cat(indices)

    def _blocks(self, n: int) -> list[slice]:
        rows = max(1, self.budget // (32 * n))
        return [slice(start, min(start + rows, n)) for start in range(0, n, rows)]

    def _graph(self, distance: Distance, x: Items) -> Any:
        """D^(-1/2) W D^(-1/2) of the neighbour graph with self-loops, W_ij = exp(-d_ij^2 / (s_i s_j))."""
        import scipy.sparse

        found = Neighbors(distance, budget=self.budget).fit(x).kneighbors(None, self.k)
        d, j = (t.cpu().numpy() for t in (found[0].double(), found[1]))
        if (d < 0).any():
            raise DomainError(f"{type(distance).__name__} has negative values: a graph needs distances that are not")
        n, scale = len(d), d[:, -1]
        widths = scale[:, None] * scale[j]
        weight = np.exp(-np.divide(d * d, widths, out=np.where(d > 0, np.inf, 0.0), where=widths > 0))
        w = scipy.sparse.csr_array((weight.ravel(), (np.repeat(np.arange(n), self.k), j.ravel())), shape=(n, n))
        w = w.maximum(w.T) + scipy.sparse.eye_array(n, format="csr")
        root = scipy.sparse.diags_array(1 / np.sqrt(w.sum(1)))
        return (root @ w @ root).tocsr()

    def _step(self, graphs: list[Any], a: Any, alpha: np.ndarray) -> Any:
        import scipy.sparse

        parts = []
        for rows in self._blocks(a.shape[0]):
            block = sum(w * ((s[rows] @ a) @ s) for s, w in zip(graphs, alpha, strict=True) if w > 0).toarray()
            i = np.arange(len(block))
            block[i, i + rows.start] += 1 - alpha.sum()
            if self.keep < block.shape[1]:
                least = np.partition(block, -self.keep, axis=1)[:, -self.keep, None]
                block[block < least] = 0
            parts.append(scipy.sparse.csr_array(block))
        return scipy.sparse.vstack(parts, format="csr")

    def _roughness(self, graphs: list[Any], a: Any) -> np.ndarray:
        """H_v of each graph."""
        total = np.zeros(len(graphs))
        for rows in self._blocks(a.shape[0]):
            part = a[rows]
            for v, s in enumerate(graphs):
                total[v] += (part * (part - (s[rows] @ a) @ s)).sum()
        return total


def _on_simplex(point: np.ndarray) -> np.ndarray:
    """The nearest point with entries >= 0 that sum to one."""
    sorted_ = np.sort(point)[::-1]
    excess = (np.cumsum(sorted_) - 1) / np.arange(1, len(point) + 1)
    return np.maximum(point - excess[np.flatnonzero(sorted_ > excess)[-1]], 0)
