"""Rooted trees with edge lengths: the path metric, mass vectors over the nodes, masses of subtrees.

Node i hangs from its parent by edge i, so edges are numbered by their lower ends; the root has no edge. The tree metric
d(u, v) is the length of the path from u to v. Trees over clouds of points are built in `cloud_trees`.

A tree is float64, lives on the device of its parents, and is not to be changed once made.
"""

import copy
from collections.abc import Hashable, Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import sqdist

__all__ = ["Tree", "located"]


class Tree:
    """A rooted tree with edge lengths, from tensors that `from_parents` describes.

    Attributes:
        parents: (k,) int64, -1 at the root.
        lengths: (k,) float64, of the edge from node i to its parent; 0 at the root.
        positions: (k, d) float64, None where the nodes are not points.
        root: index of the root.
        depth: (k,) int64, number of edges up to the root.
    """

    def __init__(self, parents: Tensor, lengths: Tensor, positions: Tensor | None = None):
        if parents.dim() != 1 or parents.is_floating_point() or lengths.shape != parents.shape or not len(parents):
            raise ShapeError(
                f"Tree: parents must be k >= 1 whole numbers and lengths k numbers, got {parents.dtype} "
                f"{tuple(parents.shape)} and {tuple(lengths.shape)}"
            )
        if positions is not None and (positions.dim() != 2 or len(positions) != len(parents)):
            raise ShapeError(f"Tree: positions must be ({len(parents)}, d), got {tuple(positions.shape)}")
        roots = (parents == -1).nonzero().squeeze(-1)
        if len(roots) != 1:
            raise DomainError(
                f"Tree: exactly one parent must be -1, the root's; got {len(roots)}: {roots[:5].tolist()}"
            )
        outside = (parents < -1) | (parents >= len(parents))
        if bool(outside.any()):
            i = int(outside.nonzero()[0])
            raise DomainError(f"Tree: parents go from 0 to {len(parents) - 1}, that of node {i} is {int(parents[i])}")
        self.root = int(roots)
        self.parents = parents.long()
        self.lengths = lengths.detach().double().index_fill(0, roots, 0.0)
        self.positions = None if positions is None else positions.detach().double()
        bad = ~((self.lengths >= 0) & self.lengths.isfinite())
        if bool(bad.any()):
            i = int(bad.nonzero()[0])
            raise DomainError(
                f"Tree: edge lengths must be finite and not negative, that of node {i} is {self.lengths[i].item()} "
                f"({int(bad.sum())} such edges)"
            )
        up = torch.where(self.parents < 0, self.root, self.parents)
        self._jumps = [up]  # to the ancestors 1, 2, 4, ... steps up
        self.depth, self._height = (up != torch.arange(len(up), device=up.device)).long(), self.lengths
        while bool((up != self.root).any()):
            if 1 << len(self._jumps) > 2 * len(up):
                i = int((up != self.root).nonzero()[0])
                raise DomainError(f"Tree: the parents of node {i} run in a circle and never reach root {self.root}")
            self.depth, self._height = self.depth + self.depth[up], self._height + self._height[up]
            up = up[up]
            self._jumps.append(up)

    @classmethod
    def from_parents(cls, parents: Any, lengths: Any, positions: Any = None) -> "Tree":
        """From the parent of each node, -1 for the root's, and the length of the edge to it, in any order.

        Args:
            parents: (k,) whole numbers, a sequence or tensor.
            lengths: (k,) finite numbers >= 0; that of the root is not read.
            positions: (k, d), for `assign`.

        Raises:
            ShapeError: shapes that do not fit together.
            DomainError: no root or several, a circle, a parent that is no node, a length negative or not finite.

        >>> Tree.from_parents([-1, 0, 0, 1], [0, 1.0, 2.0, 0.5]).distances([3], [2, 3]).tolist()
        [[3.5, 0.0]]
        """
        positions = None if positions is None else torch.as_tensor(positions, dtype=torch.float64)
        return cls(torch.as_tensor(parents), torch.as_tensor(lengths, dtype=torch.float64), positions)

    @classmethod
    def from_networkx(cls, graph: Any, root: Hashable, weight: str = "weight") -> "Tree":
        """From a networkx tree, undirected or directed either way round. Node i is the i-th of `list(graph)`.

        Args:
            graph: a `networkx.Graph` or `DiGraph`; root: one of its nodes.
            weight: name of the edges' lengths; an edge without one has length 1, as in networkx.

        Raises:
            DomainError: a graph that is not a tree, a root that is no node, a length negative or not finite.
        """
        import networkx as nx

        if root not in graph:
            raise DomainError(f"Tree.from_networkx: root {root!r} is not a node of the graph")
        flat = graph.to_undirected(as_view=True)
        if not nx.is_tree(flat):
            raise DomainError(
                f"Tree.from_networkx: the graph must be a tree, connected with one edge less than nodes; it has "
                f"{len(graph)} nodes, {graph.number_of_edges()} edges and {nx.number_connected_components(flat)} "
                f"component(s). A spanning tree is networkx.minimum_spanning_tree(graph)."
            )
        index = {node: i for i, node in enumerate(graph)}
        parents, lengths = [-1] * len(index), [0.0] * len(index)
        for parent, child in nx.bfs_edges(flat, root):
            parents[index[child]] = index[parent]
            lengths[index[child]] = flat.edges[parent, child].get(weight, 1.0)
        return cls.from_parents(parents, lengths)

    def __len__(self) -> int:
        return len(self.parents)

    def distances(self, u: Any, v: Any = None) -> Tensor:
        """Path lengths between nodes. u: (n,), v: (m,) node indices, v = u if left out -> (n, m) float64."""
        u = torch.as_tensor(u, device=self.parents.device)
        v = u if v is None else torch.as_tensor(v, device=u.device)
        a, b = (self._checked(t, "distances") for t in torch.broadcast_tensors(u.unsqueeze(-1), v.unsqueeze(-2)))
        ends = self._height[a] + self._height[b]
        rise = self.depth[a] - self.depth[b]
        for step, jump in enumerate(self._jumps):  # the deeper end up to the level of the other
            a = torch.where(rise.clamp(min=0) >> step & 1 == 1, jump[a], a)
            b = torch.where((-rise).clamp(min=0) >> step & 1 == 1, jump[b], b)
        for jump in reversed(self._jumps):  # both up, to just below where they meet
            apart = jump[a] != jump[b]
            a, b = torch.where(apart, jump[a], a), torch.where(apart, jump[b], b)
        meet = torch.where(a == b, a, self._jumps[0][a])
        return ends - 2 * self._height[meet]

    def masses(self, nodes: Sequence[Any], weights: Sequence[Any] | None = None) -> Tensor:
        """Mass vectors over the nodes of B distributions, each given by the nodes it sits on.

        nodes: B sequences of node indices, of any lengths, repetitions allowed; weights: B sequences as long, 1 each if
        left out -> (B, k), float64 or of the weights' dtype. `TreeWasserstein` divides each by its sum.
        """
        index = [self._checked(torch.as_tensor(row, device=self.parents.device), "masses") for row in nodes]
        if weights is None:
            values = [torch.ones(len(row), dtype=torch.float64, device=row.device) for row in index]
        else:
            values = [w if isinstance(w, Tensor) else torch.tensor(w, dtype=torch.float64) for w in weights]
        if [v.shape for v in values] != [row.shape for row in index]:
            raise ShapeError("Tree.masses: weights must be as many as nodes, distribution by distribution")
        if not index:
            return self.lengths.new_zeros(0, len(self))
        return torch.stack([v.new_zeros(len(self)).index_add(0, row, v) for row, v in zip(index, values, strict=True)])

    def _checked(self, nodes: Tensor, name: str) -> Tensor:
        if nodes.numel() and (
            nodes.is_floating_point() or int(nodes.min()) < 0 or int(nodes.max()) >= len(self.parents)
        ):
            raise DomainError(
                f"Tree.{name}: nodes are whole numbers from 0 to {len(self) - 1}, got {nodes.dtype} from "
                f"{nodes.min().item()} to {nodes.max().item()}"
            )
        return nodes.long()

    def assign(self, points: Tensor) -> Tensor:
        """Node of each point, here the nearest leaf. points: (*S, d) -> (*S) int64. NaN goes to some node."""
        if self.positions is None:
            raise DomainError("Tree.assign: the nodes of this tree have no positions. Give them to Tree.from_parents.")
        inner = torch.zeros(len(self), dtype=torch.bool, device=self.parents.device)
        inner[self.parents[self.parents >= 0]] = True
        leaves = (~inner).nonzero().squeeze(-1)
        flat = located(points, self.positions.shape[1])
        blocks = flat.split(max(1, (1 << 24) // len(leaves)))  # 128 MB of distances at a time
        nearest = [sqdist(block, self.positions[leaves]).argmin(-1) for block in blocks]
        return leaves[torch.cat(nearest)].reshape(points.shape[:-1])

    @cached_property
    def _levels(self) -> tuple[Tensor, Tensor, list[int], list[Tensor]]:
        """Nodes by depth, the place of each in that order, sizes of the levels, and where in the level above each
        node's parent stands."""
        order = self.depth.argsort(stable=True)
        place = torch.empty_like(order)
        place[order] = torch.arange(len(order), device=order.device)
        sizes = self.depth.bincount().tolist()
        above, start = [order.new_empty(0)], 0  # start: of the level above
        for size, nodes in zip(sizes, order[1:].split(sizes[1:]), strict=False):
            above.append(place[self.parents[nodes]] - start)
            start += size
        return order, place, sizes, above

    def subtree_masses(self, masses: Tensor) -> Tensor:
        """Mass in the subtree under each node, differentiable. masses: (*B, k) -> (*B, k).

        Level by level from the deepest, so no mass is the difference of two larger ones.
        """
        order, place, sizes, above = self._levels
        levels = list(masses[..., order].split(sizes, dim=-1))
        for level in range(len(sizes) - 1, 0, -1):
            raised = torch.zeros_like(levels[level - 1]).index_add(-1, above[level], levels[level])
            levels[level - 1] = levels[level - 1] + raised
        return torch.cat(levels, dim=-1)[..., place]

    def to(self, device: torch.device) -> "Tree":
        """The tree on another device; itself where it is there already."""
        if device == self.parents.device:
            return self
        moved = copy.copy(self)
        vars(moved).update({name: _moved(value, device) for name, value in vars(self).items()})
        return moved

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} nodes, depth {int(self.depth.max())})"


def _moved(value: Any, device: torch.device) -> Any:
    if isinstance(value, list | tuple):
        return type(value)(_moved(part, device) for part in value)
    return value.to(device) if isinstance(value, Tensor) else value


def located(points: Tensor, d: int) -> Tensor:
    """Points to be assigned as a float64 table (n, d); what is not finite becomes finite."""
    if points.shape[-1] != d:
        raise ShapeError(f"Tree.assign: points must be in R^{d}, as those of the tree; got shape {tuple(points.shape)}")
    return points.detach().reshape(-1, d).double().nan_to_num()
