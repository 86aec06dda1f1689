"""Hierarchies in the hyperbolic plane: find one in a graph, make a forest of it, lay the forest out on the disk.

The hyperbolic plane has room for trees: a circle of radius r is 2 pi sinh r long, so a wedge of w radians is as wide at
r = log(1 / w) as the whole circle is near the centre. `lay_out` gives every node a wedge within its parent's and moves
it outward by a constant for each step down the tree and by log(wedge of the parent / wedge of the node).

Points of the disk are complex numbers here, as Mobius transformations are shortest in them.

Siblings are ordered so that those with like coordinates are neighbours.

References: Lamping, Rao, Pirolli, "A focus + context technique based on hyperbolic geometry", CHI 1995 (wedges);
Bar-Joseph, Gifford, Jaakkola, "Fast optimal leaf ordering for hierarchical clustering", 2001 (order of siblings).
"""

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.cluster.hierarchy import leaves_list, linkage

from geoembed.analysis import krackhardt

__all__ = ["Forest", "arcs", "hierarchy", "is_a_tree_of", "lay_out", "main_branches", "main_hierarchy"]

Ints = NDArray[np.int64]
Floats = NDArray[np.float64]
Points = NDArray[np.complex128]

# Chosen by eye, on trees of 2 to 7,000 nodes.
STEP = 0.2  # outward for each step down the tree
WIDEN = 0.6  # outward for each e-fold by which the wedge narrows
PACK = 0.6  # how much wide stars are packed: 0 = a star is as wide as one leaf, 1 = every leaf has the same wedge
OUTERMOST = 0.96  # distance from the centre that 98 % of the nodes stay below
TURN = 0.25  # the first wedge begins at the top
MANY_SIBLINGS = 300  # more are sorted along their first principal axis: optimal leaf ordering takes cubic time


def arcs(start: Points, end: Points, steps: int = 24) -> Points:
    """Points at equal hyperbolic distances on the geodesics from start to end. (m), (m) -> (m, steps).

    z(s) = (start + s e) / (1 + conj(start) s e), where e is the direction of (-start) ⊕ end and s = tanh of half the
    distance: the arc of the circle through both ends that meets the rim at right angles, or a diameter.
    """
    gap = (end - start) / (1 - start.conj() * end)
    length = np.minimum(np.abs(gap), 1 - 1e-15)
    direction = gap / np.where(length > 0, length, 1)
    s = np.tanh(np.linspace(0, 1, steps) * np.arctanh(length)[:, None]) * direction[:, None]
    return (start[:, None] + s) / (1 + start.conj()[:, None] * s)


def hierarchy(source: Ints, target: Ints, n: int, sources: int = 200) -> float:
    """`krackhardt` from at most `sources` nodes, the same ones each time: exact would be slow on a large graph."""
    return krackhardt(source, target, n, sources=sources, generator=torch.Generator().manual_seed(0))


def main_hierarchy(triples: Ints, n: int) -> int | None:
    """The relation that is most of a hierarchy, or None where the best is less than half of one.

    Among relations with a quarter of the edges of the most frequent one; the tie goes to the one with most edges.
    """
    counts = np.bincount(triples[:, 1])
    scores = {}
    for relation in np.flatnonzero(counts >= max(1, counts.max() / 4)):
        head, _, tail = triples[triples[:, 1] == relation].T
        scores[int(relation)] = round(hierarchy(head, tail, n), 2)
    best = max(scores, key=lambda r: (scores[r], counts[r], -r))
    return best if scores[best] >= 0.5 else None


def is_a_tree_of(head: Ints, tail: Ints) -> bool:
    """Whether the tails are the parents, as for "is a": a parent has many children, so parents are fewer."""
    return len(np.unique(tail)) <= len(np.unique(head))


class Forest:
    """One parent a node, -1 for roots. Nodes without an edge are not part of it.

    parent: (n,); order: the nodes of the forest, parents first; size: (n,) nodes below and including a node;
    roots: largest tree first; present: (n,) bool.
    """

    def __init__(self, child: Ints, parent: Ints, score: Floats, n: int):
        """Of the edges (m,), each child keeps the one with the highest score; the lowest of each cycle goes too."""
        self.n = n
        edge = np.lexsort((parent, -score, child))
        edge = edge[child[edge] != parent[edge]]
        edge = edge[np.unique(child[edge], return_index=True)[1]]
        self.parent = np.full(n, -1)
        self.parent[child[edge]] = parent[edge]
        best = np.full(n, -np.inf)
        best[child[edge]] = score[edge]
        self._cut_cycles(best)
        self.present = self.parent >= 0
        self.present[self.parent[self.present]] = True
        by_parent = np.flatnonzero(self.parent >= 0)
        by_parent = by_parent[np.argsort(self.parent[by_parent], kind="stable")]
        first, last = (np.searchsorted(self.parent[by_parent], np.arange(n), side) for side in ("left", "right"))
        self.children = [by_parent[a:b] for a, b in zip(first, last, strict=True)]
        queue = np.flatnonzero(self.present & (self.parent < 0)).tolist()
        n_roots = len(queue)
        for node in queue:  # grows while it is walked
            queue.extend(self.children[node].tolist())
        self.order = np.array(queue, np.int64)
        self.size = self.present.astype(np.int64)
        for node in self.order[: n_roots - 1 : -1] if n_roots else ():
            self.size[self.parent[node]] += self.size[node]
        roots = self.order[:n_roots]
        self.roots = roots[np.argsort(-self.size[roots], kind="stable")]

    def _cut_cycles(self, score: Floats) -> None:
        walk = np.full(self.n, -1)  # the walk that first came by
        for start in range(self.n):
            node = start
            while node >= 0 and walk[node] < 0:
                walk[node] = start
                node = self.parent[node]
            if node >= 0 and walk[node] == start:
                cycle = [node]
                while (node := self.parent[node]) != cycle[0]:
                    cycle.append(node)
                self.parent[min(cycle, key=lambda i: (score[i], i))] = -1

    def edges(self) -> tuple[Ints, Ints]:
        """Children and their parents."""
        child = self.order[self.parent[self.order] >= 0]
        return child, self.parent[child]


def lay_out(forest: Forest, x: Floats, stretch: Floats | None = None) -> Points:
    """Points of the disk for a forest, (n,), NaN for nodes outside it.

    x: (n, d) coordinates; siblings whose subtrees have near means are put near each other.
    stretch: (n,) factors of the step from the parent to a node, 1 by default.
    """
    weight, mean = _weights(forest), _subtree_means(forest, x)
    left, width, radius = np.zeros(forest.n), np.ones(forest.n), np.zeros(forest.n)

    def divide(nodes: Ints, start: float, span: float) -> None:
        nodes = nodes[seriate(mean[nodes])]
        share = weight[nodes] / weight[nodes].sum()
        width[nodes] = share * span
        left[nodes] = start + (np.cumsum(share) - share) * span

    divide(forest.roots, 0.0, 1.0)
    if len(forest.roots) > 1:
        radius[forest.roots] = STEP + WIDEN * np.log(1 / width[forest.roots])
    for node in forest.order:
        if len(children := forest.children[node]):
            divide(children, left[node], width[node])
            out = STEP + WIDEN * np.log(width[node] / width[children])
            radius[children] = radius[node] + out * (1.0 if stretch is None else stretch[children])
    outermost = np.quantile(radius[forest.present], 0.98) if forest.present.any() else 1.0
    radius *= 2 * np.arctanh(OUTERMOST) / max(outermost, STEP)
    points = np.tanh(radius / 2) * np.exp(2j * np.pi * (left + width / 2 + TURN))
    points[~forest.present] = np.nan
    return points


def _weights(forest: Forest) -> Floats:
    """What each node asks for of its parent's wedge: k leaves of one parent count as k^PACK, all else adds up."""
    leaf = forest.size == 1
    weight = np.zeros(forest.n)
    for node in forest.order[::-1]:
        leaves = forest.children[node][leaf[forest.children[node]]]
        if len(leaves):
            weight[leaves] = len(leaves) ** (PACK - 1)
            weight[node] += len(leaves) ** PACK
        weight[node] = max(weight[node], 1.0)
        if forest.parent[node] >= 0 and not leaf[node]:
            weight[forest.parent[node]] += weight[node]
    return weight


def _subtree_means(forest: Forest, x: Floats) -> Floats:
    mean = np.where(forest.present[:, None], x, 0.0)
    for node in forest.order[::-1]:
        if (above := forest.parent[node]) >= 0:
            mean[above] += mean[node]
    return mean / np.maximum(forest.size, 1)[:, None]


def seriate(x: Floats) -> Ints:
    """An order in which neighbours are alike. x: (k, d) -> (k,)."""
    if len(x) < 3:
        return np.arange(len(x))
    if len(x) > MANY_SIBLINGS:
        axis = np.linalg.svd(x - x.mean(0), full_matrices=False)[2][0]
        return np.argsort(x @ axis * np.sign(axis[np.abs(axis).argmax()]), kind="stable")
    return leaves_list(linkage(x, "average", optimal_ordering=True)).astype(np.int64)


def main_branches(forest: Forest) -> tuple[Ints, Ints]:
    """The heads of the main branches, (k,), and the number of each node's branch, (n,), -1 for none.

    A tree with more than a fifth of all nodes is split into its subtrees, and these again; what has less than a
    hundredth of all nodes is no branch of its own.
    """
    total = int(forest.present.sum())
    least = max(total / 100, 1)
    heads, stack = [], forest.roots[forest.size[forest.roots] > least].tolist()
    while stack:
        node = stack.pop()
        parts = forest.children[node][forest.size[forest.children[node]] > least]
        if forest.size[node] > total / 5 and len(parts):
            stack.extend(parts.tolist())
        else:
            heads.append(node)
    branch = np.full(forest.n, -1)
    branch[heads] = np.arange(len(heads))
    for node in forest.order:
        if branch[node] < 0 and forest.parent[node] >= 0:
            branch[node] = branch[forest.parent[node]]
    return np.array(heads, np.int64), branch
