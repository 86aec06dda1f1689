"""Tree-Wasserstein distances: optimal transport for a tree metric, in closed form.

    TW(mu, nu)  = sum_e w_e |mu(T_e) - nu(T_e)|      w_e: length of edge e, T_e: the subtree under it
    TSW(mu, nu) = mean_t TW_t(mu, nu)                over random trees t built on the data

TW is W_1 for the tree's path metric, exactly. Both are L1 distances of vectors, w_e mu(T_e), so exp(-t TW) and
exp(-t TSW) are positive definite kernels. On a tree that is a chain, TW is W_1 on the line.

A set of n points touches at most n * depth edges of a tree, so its vector is sparse. All pairs of many sets then cost
|a - b|_1 = |a|_1 + |b|_1 - 2 sum_e min(a_e, b_e), where only the edges that two sets share enter the sum.

Reference: Le, Yamada, Fukumizu and Cuturi, Tree-Sliced Variants of Wasserstein Distances, NeurIPS 2019 (arXiv
1902.00342).
"""

from collections.abc import Callable, Sequence

import numpy as np
import scipy.sparse
import torch
from torch import Tensor

from geoembed.distance import Distance, Items
from geoembed.distances.cloud_trees import clustering_tree
from geoembed.distances.trees import Tree
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

__all__ = ["TreeSlicedWasserstein", "TreeWasserstein"]

PAIRS = 1 << 17  # pairs of sparse entries worked on at a time, few enough for the cache
DENSE = 1 / 40  # a column is compared as a dense one where more than this part of all pairs shares it


class TreeWasserstein(Distance):
    """W_1 between distributions over the nodes of one tree.

    x, y: (*B, k) masses of the k nodes, not negative and not all zero; each vector is divided by its sum -> (*B).
    `Tree.masses` makes them from lists of nodes.

    Args:
        tree: the tree; edges of length zero make it a pseudo-metric.

    Raises:
        ShapeError: vectors that are not as long as the tree has nodes.
        DomainError: masses that are negative, or all zero.

    >>> tree = Tree.from_parents([-1, 0, 0], [0, 1.0, 2.0])
    >>> TreeWasserstein(tree)(tree.masses([[1]])[0], tree.masses([[2]])[0]).item()
    3.0
    """

    embed_p = 1.0

    def __init__(self, tree: Tree):
        super().__init__()
        self.tree = tree
        self.is_metric = int(tree.lengths.count_nonzero()) == len(tree) - 1

    def embed(self, x: Tensor) -> Tensor:
        if x.shape[-1] != len(self.tree):
            raise ShapeError(f"TreeWasserstein: expected the masses of {len(self.tree)} nodes, got {tuple(x.shape)}")
        wide = x.to(torch.promote_types(x.dtype, torch.float32))
        total = wide.sum(-1, keepdim=True)
        bad = (x < 0).any(-1) | (total.squeeze(-1) <= 0)
        if bool(bad.any()):
            raise DomainError(
                f"TreeWasserstein: masses must not be negative and not be all zero; those of item "
                f"{bad.nonzero()[0].tolist()} are ({int(bad.sum())} such items)"
            )
        self.tree = self.tree.to(x.device)
        return _edge_masses(self.tree, wide / total).to(x.dtype)

    def extra_repr(self) -> str:
        return repr(self.tree)


class TreeSlicedWasserstein(Distance):
    """TW averaged over trees built on a cloud of points: `TreeSlicedWasserstein.fit(points)`.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B). Each point counts at the node its tree assigns it to. So
    sets that no tree tells apart are at distance zero, and the distance is piecewise constant in the points: gradients
    reach the weights; those of the points are zero. For gradients that move points see `geoembed.distances.lines`.

    Args:
        trees: trees that assign points to nodes: of `partition_tree`, `clustering_tree`, or with positions.

    Raises:
        DomainError: no trees.
        ShapeError: points of another dimension than the trees'.
    """

    event_dim = 2
    is_metric = False
    embed_p = 1.0

    def __init__(self, trees: Sequence[Tree]):
        super().__init__()
        if not trees:
            raise DomainError("TreeSlicedWasserstein: at least one tree is needed, got none. Build them with `fit`.")
        self.trees = list(trees)

    @classmethod
    def fit(
        cls,
        points: Tensor | PointSets,
        trees: int = 10,
        build: Callable[..., Tree] = clustering_tree,
        depth: int = 6,
        generator: torch.Generator | None = None,
    ) -> "TreeSlicedWasserstein":
        """Build the trees on the points of all sets together.

        The papers' settings: 10 trees of depth 6 and branching 4; partition trees in the plane, clustering trees for
        word vectors.

        Args:
            points: (*S, d) or `PointSets`.
            trees: how many; 1 or more.
            build: `clustering_tree`, `partition_tree`, or any function (points, depth, generator=) that gives a tree;
                `functools.partial(clustering_tree, branching=8)` sets what is left.
        """
        return cls([build(points, depth, generator=generator) for _ in range(trees)])

    def embed(self, x: Items) -> Tensor:
        x = PointSets.of(x)
        self.trees = [tree.to(x.device) for tree in self.trees]
        wide = x.widened()
        weights = wide.weights + (wide.points * 0).sum(-1)  # a set with NaN is NaN everywhere, not at some node
        vectors = []
        for tree in self.trees:
            masses = weights.new_zeros(*x.batch_shape, len(tree)).scatter_add(-1, tree.assign(x.points), weights)
            vectors.append(_edge_masses(tree, masses))
        return (torch.cat(vectors, dim=-1) / len(self.trees)).to(x.dtype)

    def sparse_embed(self, x: Items) -> scipy.sparse.csr_array:
        """`embed` of B sets as a sparse float64 matrix. x: (B, n, d) -> (B, k)."""
        x = PointSets.of(x)
        if len(x.batch_shape) != 1:
            raise ShapeError(f"TreeSlicedWasserstein.sparse_embed: expected sets (B, n, d), got {tuple(x.shape)}")
        mask = x.mask
        points = x.points.detach()[mask]
        weights = (x.weights.detach()[mask].double() + (points.double() * 0).sum(-1)) / len(self.trees)
        ends = np.append(0, x.lengths.cumsum(0).cpu().numpy())
        parts = []
        for tree in self.trees:
            nodes = tree.to(points.device).assign(points).cpu().numpy()
            masses = scipy.sparse.csr_array((weights.cpu().numpy(), nodes, ends), shape=(len(x), len(tree)))
            parts.append(masses @ _paths(tree))
        matrix = scipy.sparse.csr_array(scipy.sparse.hstack(parts, format="csr"))
        matrix.sort_indices()  # one order of the edges in all sums, so that equal sets are at distance exactly zero
        return matrix

    def reduced(self, x: PointSets, y: PointSets) -> tuple[Distance, Items, Items]:
        same = y is x or (y.points is x.points and not any(sets.ragged or not sets.uniform for sets in (x, y)))
        x, y = x.widened(), y.widened()
        if not _sparse_way(x, y):
            return super().reduced(x, x if same else y)
        u = _Rows(self.sparse_embed(x), x.dtype)
        return _SparseL1(), u, u if same else _Rows(self.sparse_embed(y), y.dtype)

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        return super()._forward(x.widened(), y.widened()).to(x.dtype)

    def _pairwise(self, x: PointSets, y: PointSets) -> Tensor:
        distance, u, v = self.reduced(x, y)
        return distance.pairwise(u, v).to(x.dtype)

    def kernel(self, x: Items, y: Items | None = None, t: float = 1.0) -> Tensor:
        """exp(-t TSW), positive semi-definite for t > 0. x: (*B, n, N, d), y: (*B, m, M, d) -> (*B, n, m)."""
        if not t > 0:
            raise DomainError(f"TreeSlicedWasserstein.kernel: t must be positive, got {t}")
        return (-t * self.pairwise(x, y)).exp()

    def extra_repr(self) -> str:
        return f"trees={len(self.trees)}, edges={sum(map(len, self.trees)) - len(self.trees)}"


def _edge_masses(tree: Tree, masses: Tensor) -> Tensor:
    """w_e mu(T_e) of each edge, and 0 for the root. masses: (*B, k) -> (*B, k)."""
    return tree.subtree_masses(masses) * tree.lengths.to(masses)


def _paths(tree: Tree) -> scipy.sparse.csr_array:
    """(k, k) sparse: in row i the lengths of the edges from node i to the root, and 0 at the root to carry NaN."""
    parents, lengths = tree.parents.cpu().numpy(), tree.lengths.detach().cpu().numpy()
    start = edge = np.arange(len(tree))
    starts, edges = [], []
    while len(edge):
        starts.append(start)
        edges.append(edge)
        start, edge = start[parents[edge] >= 0], parents[edge][parents[edge] >= 0]
    rows, columns = np.concatenate(starts), np.concatenate(edges)
    return scipy.sparse.csr_array((lengths[columns], (rows, columns)), shape=(len(tree), len(tree)))


def _sparse_way(x: PointSets, y: PointSets) -> bool:
    """Open for one matrix on the CPU without gradients."""
    parts = [part for sets in (x, y) for part in (sets.points, sets.weights)]
    wanted = torch.is_grad_enabled() and any(part.requires_grad for part in parts)
    return x.device.type == "cpu" and len(x.batch_shape) == len(y.batch_shape) == 1 and not wanted


class _Rows:
    """Rows of a sparse matrix in the guise of a tensor, for `Distance.pairwise` and `pairwise_blocks`."""

    device = torch.device("cpu")

    def __init__(self, matrix: scipy.sparse.csr_array, dtype: torch.dtype):
        self.matrix, self.dtype, self.shape = matrix, dtype, torch.Size(matrix.shape)

    def dim(self) -> int:
        return 2

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, rows: slice) -> "_Rows":
        return _Rows(self.matrix[rows], self.dtype)


class _SparseL1(Distance):
    """|a - b|_1 of the rows of two sparse matrices."""

    def _pairwise(self, x: _Rows, y: _Rows) -> Tensor:
        a, b = x.matrix, y.matrix
        shared = _per_column(a) * _per_column(b)
        dense = shared > DENSE * a.shape[0] * b.shape[0]
        left, right = (torch.from_numpy(m[:, dense].toarray()) for m in (a, b))
        matrix = _cdist1(left, right, x is y).numpy()
        a, b = a[:, ~dense], b[:, ~dense]
        rest = _size(a)[:, None] + _size(b) - 2 * _sum_of_minima(a, b, x is y)
        return torch.from_numpy(matrix + np.maximum(rest, 0)).to(x.dtype)


def _cdist1(a: Tensor, b: Tensor, same: bool) -> Tensor:
    if not same:
        return torch.cdist(a, b, p=1)
    matrix = a.new_zeros(len(a), len(a))
    above = torch.ones(len(a), len(a), dtype=torch.bool).triu(1)
    matrix[above] = torch.pdist(a, p=1)  # half the pairs, and each faster
    return matrix + matrix.mT + torch.diag(a.sum(-1) * 0)  # NaN on the diagonal too


def _per_column(a: scipy.sparse.csr_array) -> np.ndarray:
    return np.bincount(a.indices, minlength=a.shape[1])


def _row_of(a: scipy.sparse.csr_array) -> np.ndarray:
    return np.repeat(np.arange(a.shape[0]), np.diff(a.indptr))


def _size(a: scipy.sparse.csr_array) -> np.ndarray:
    return np.bincount(_row_of(a), weights=a.data, minlength=a.shape[0])


def _sum_of_minima(a: scipy.sparse.csr_array, b: scipy.sparse.csr_array, same: bool) -> np.ndarray:
    """sum_e min(a_ie, b_je) for all i and j, from the pairs of entries that share a column. (n, k), (m, k) -> (n, m).

    Each sum runs through the columns in the order of `_size`, so it is exactly that size where two rows are equal.
    """
    n, m = a.shape[0], b.shape[0]
    order = np.argsort(b.indices, kind="stable")  # entries of b column by column, within one in the order of the rows
    ends = np.append(0, np.cumsum(_per_column(b)))
    columns, values = _row_of(b)[order], b.data[order]
    first, last = ends[a.indices], ends[a.indices + 1]
    if same:  # only the rows below; the others by symmetry
        first = np.empty_like(order)
        first[order] = np.arange(1, len(order) + 1)
    counts = last - first
    rows, total = _row_of(a), np.append(0, np.cumsum(counts))
    out = np.zeros((n, m))
    start = 0
    while start < n:
        begin = a.indptr[start]
        stop = np.searchsorted(total[a.indptr], total[begin] + PAIRS, side="right") - 1
        stop = min(max(stop, start + 1), n)
        part = slice(begin, a.indptr[stop])
        entry = np.repeat(np.arange(part.start, part.stop), counts[part])
        partner = np.arange(len(entry)) + (first - total[:-1] + total[begin])[entry]
        pair = (rows[entry] - start) * m + columns[partner]
        minima = np.minimum(a.data[entry], values[partner])
        out[start:stop] = np.bincount(pair, weights=minima, minlength=(stop - start) * m).reshape(stop - start, m)
        start = stop
    return out + out.T + np.diag(_size(a)) if same else out
