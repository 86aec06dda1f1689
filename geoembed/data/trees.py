"""Trees from graphs, from lists of parents and from hierarchies, rooted and checked.

A tree is held as the row of each node's parent, -1 for the root, and the length of the edge up to it. The roots of a
forest are joined below an added one, the last row, which is no node.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.data.closures import Closure
from geoembed.errors import DataError, DataWarning, ShapeError

__all__ = ["RootedTree", "chain_tree", "root_tree", "spanning_tree"]


@dataclass
class RootedTree:
    """m rows: those of the n nodes, and one more if a root was added.

    Attributes:
        nodes: n of them.
        parents: int64 (m,), rows, -1 for the root.
        depths: int64 (m,), numbers of edges to the root.
        lengths: float64 (m,), of the edge to the parent, 0 for the root.
        paths: float64 (m,), lengths of the paths to the root.
    """

    nodes: list[Any]
    parents: Tensor
    depths: Tensor
    lengths: Tensor
    paths: Tensor


def spanning_tree(closure: Closure) -> Tensor:
    """One of the direct parents of each node, -1 for a root: int64 (n,).

    Of several, the one with the fewest direct neighbours: an edge left out costs a parent with g of them a share 1 / g
    of the precision of its neighbourhood, and the child the same in any case. Raises DataError for a cycle.

    >>> spanning_tree(Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b")])).tolist()
    [-1, 0, 1]
    """
    closure.depths()  # finds cycles
    edges = closure.parents().numpy()
    degree = np.bincount(edges.ravel(), minlength=closure.n_nodes)
    return _first_parents(edges, closure.n_nodes, edges[:, 1], degree[edges[:, 1]])


def chain_tree(closure: Closure) -> Tensor:
    """The direct parent of each node that has the longest chain above it, -1 for a root: int64 (n,).

    A node has as many ancestors in this tree as its longest chain is long, which is the most that any tree can give it,
    for each node at once. Raises DataError for a cycle.

    >>> chain_tree(Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b")])).tolist()
    [-1, 0, 1]
    """
    depths = closure.depths().numpy()
    edges = closure.parents().numpy()
    return _first_parents(edges, closure.n_nodes, -edges[:, 1], -depths[edges[:, 1]])


def _first_parents(edges: np.ndarray, n: int, *keys: np.ndarray) -> Tensor:
    """Of the edges (child, parent) of each child the first by these keys, the last key counting most: int64 (n,)."""
    child, parent = edges[np.lexsort((*keys, edges[:, 0]))].T
    children, first = np.unique(child, return_index=True)
    parents = np.full(n, -1)
    parents[children] = parent[first]
    return torch.from_numpy(parents)


def root_tree(tree: Any, root: Any = None) -> RootedTree:
    """Reads a tree.

    Args:
        tree: a networkx graph, whose edges have the length `weight`, 1 if they have none, and whose directions are
            ignored; or a `Closure`, for its `spanning_tree`; or the parent of each node, -1 for a root: int64 (n,).
            Several roots are joined below an added one, with a DataWarning.
        root: a node; None takes the root there is, or in a graph the middle of a longest path.

    Raises DataError for what is no tree: empty, a self-loop, a cycle, several parts, weights that are not positive and
    finite, a root that is no node, parents that are no rows; ShapeError for parents of another shape or dtype.
    """
    if hasattr(tree, "adj"):
        nodes = list(tree)
        place = {node: i for i, node in enumerate(nodes)}
        edges = np.array([(place[a], place[b]) for a, b in tree.edges()], dtype=np.int64).reshape(-1, 2)
        weights = np.array([w for *_, w in tree.edges(data="weight", default=1.0)], dtype=np.float64)
        size, start = len(nodes), None
    else:
        parents = np.asarray(spanning_tree(tree) if isinstance(tree, Closure) else tree)
        nodes = list(tree.nodes) if isinstance(tree, Closure) else list(range(len(parents)))
        edges, size, start = _edges_up(parents)
        weights = np.ones(len(edges))
    if not nodes:
        raise DataError("a tree needs at least one node, got none")
    if root is not None:
        if root not in nodes:
            raise DataError(f"root: {root!r} is not among the {len(nodes)} nodes of the tree")
        start = nodes.index(root)
    _check(nodes, size, edges, weights)
    return _rooted(nodes, size, edges, weights, start)


def _edges_up(parents: np.ndarray) -> tuple[np.ndarray, int, int]:
    """Edges child - parent, number of rows, and the row of the root, which is an added one if there are several."""
    n = len(parents)
    if parents.ndim != 1 or (n and parents.dtype.kind not in "iu"):
        raise ShapeError(f"parents: expected int64 (n,), got {parents.dtype} {parents.shape}")
    if n and not -1 <= parents.min() <= parents.max() < n:
        raise DataError(
            f"parents: expected rows 0 to {n - 1}, or -1 for a root, got {parents.min()} to {parents.max()}"
        )
    roots = np.flatnonzero(parents < 0)
    several = len(roots) > 1
    if several:
        warnings.warn(
            f"{len(roots):,} roots were joined below an added one", DataWarning, stacklevel=5
        )  # the caller of `embed_tree`
        parents = np.where(parents < 0, n, parents)
    child = np.flatnonzero(parents >= 0)
    return np.stack([child, parents[child]], 1), n + several, n if several else int(roots[0]) if len(roots) else 0


def _check(nodes: list[Any], size: int, edges: np.ndarray, weights: np.ndarray) -> None:
    import networkx as nx
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import connected_components

    loops = edges[edges[:, 0] == edges[:, 1]]
    if len(loops):
        raise DataError(f"a tree has no self-loops, here {nodes[loops[0, 0]]!r} is joined to itself")
    bad = np.flatnonzero(~(np.isfinite(weights) & (weights > 0)))
    if len(bad):
        a, b = (nodes[i] for i in edges[bad[0]])
        raise DataError(
            f"weights must be positive and finite; {len(bad)} are not, the first is {weights[bad[0]]}, {a!r} - {b!r}"
        )
    parts, part = connected_components(csr_array((np.ones(len(edges)), edges.T), shape=(size, size)), directed=False)
    if len(edges) > size - parts:
        cycle = [nodes[a] for a, *_ in nx.find_cycle(nx.MultiGraph(edges.tolist()))]
        raise DataError(
            f"a tree has no cycles, here {' - '.join(map(repr, [*cycle, cycle[0]]))} is one; take a spanning tree "
            f"(networkx.minimum_spanning_tree), or the Closure of a hierarchy"
        )
    if parts > 1:
        inside, outside = nodes[0], nodes[int((part != part[0]).argmax())]
        raise DataError(
            f"a tree is connected, this one has {parts} parts: nothing joins {inside!r} and {outside!r}; embed each "
            f"part, or join them by edges to an added node"
        )


def _rooted(nodes: list[Any], size: int, edges: np.ndarray, weights: np.ndarray, start: int | None) -> RootedTree:
    from scipy.sparse import csr_array
    from scipy.sparse.csgraph import dijkstra

    graph = csr_array((weights, edges.T), shape=(size, size))
    if start is None:
        end = int(dijkstra(graph, directed=False, indices=0).argmax())
        path, back = dijkstra(graph, directed=False, indices=end, return_predecessors=True)
        start = int(path.argmax())
        half = path[start] / 2
        while path[start] > half:
            start = int(back[start])
    depth = dijkstra(graph, directed=False, indices=start, unweighted=True)
    path, parents = dijkstra(graph, directed=False, indices=start, return_predecessors=True)
    parents = np.where(depth > 0, parents, -1).astype(np.int64)
    lengths = np.where(depth > 0, path - path[parents], 0.0)
    columns = (torch.from_numpy(t) for t in (parents, depth.astype(np.int64), lengths, path))
    return RootedTree(nodes, *columns)
