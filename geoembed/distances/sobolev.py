"""Sobolev transport: a closed-form distance between masses on the nodes of a graph.

On the tree of the shortest paths from a root, an edge e of length w_e carries gamma_e, the nodes whose path to the root
runs over e. For masses mu and nu on the nodes

    S_p(mu, nu) = ( sum_e w_e |mu(gamma_e) - nu(gamma_e)|^p )^(1/p),        p >= 1

which is the p-norm difference of the vectors (w_e^(1/p) mu(gamma_e))_e: N masses cost N embeddings and one matrix of
p-norms. On a tree S_1 is the Wasserstein distance W_1 of the tree metric, whatever the root; on other graphs it depends
on the root and leaves the edges off the shortest paths out of account.

Conventions: a mass is a vector with one entry a node, in the order of `nodes`. The masses compared should have the same
total, as probabilities do: what differs at the root alone is not seen. Nothing is normalised.

Reference: Le, Nguyen, Phung, Nguyen, "Sobolev transport: a scalable metric for probability measures with graph
metrics", AISTATS 2022, arXiv:2202.10723.
"""

import math
from collections.abc import Hashable, Sequence

import networkx as nx
import numpy as np
import torch
from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError

__all__ = ["SobolevTransport"]


class SobolevTransport(Distance):
    """S_p between masses on the nodes of a graph. x, y: (*B, k) masses of the k nodes -> (*B).

    Args:
        parents: of each node the position of the next node on its shortest path to the root; of the root itself -1.
        lengths: of each node the length of the edge to its parent, not negative; that of the root is not used.
        p: order, at least 1.
        nodes: names of the nodes in the order of the masses; their positions if None.

    Raises:
        DataError: parents that do not form one tree.
        DomainError: a negative, infinite or NaN length, or p < 1.
    """

    def __init__(
        self,
        parents: Sequence[int],
        lengths: Sequence[float],
        p: float = 1.0,
        nodes: Sequence[Hashable] | None = None,
    ):
        super().__init__()
        if not 1 <= p < math.inf:
            raise DomainError(f"SobolevTransport: p must be finite and at least 1, got {p}")
        self.p = self.embed_p = float(p)
        self.nodes = list(range(len(parents)) if nodes is None else nodes)
        if not len(parents) == len(lengths) == len(self.nodes):
            raise ShapeError(
                f"SobolevTransport: parents, lengths and nodes must be equally many, got {len(parents)}, "
                f"{len(lengths)} and {len(self.nodes)}"
            )
        order, ends = _depth_first(parents)
        edges = torch.tensor(lengths, dtype=torch.float64)[order[1:]]
        bad = ~((edges >= 0) & edges.isfinite())
        if bool(bad.any()):
            raise DomainError(f"SobolevTransport: lengths must be finite and not negative, got {edges[bad][0].item()}")
        self.is_metric = bool((edges > 0).all())  # between masses of the same total
        self.order: Tensor
        self.ends: Tensor
        self.scale: Tensor
        self.register_buffer("order", torch.tensor(order))
        self.register_buffer("ends", torch.tensor(ends[1:], dtype=torch.long))
        self.register_buffer("scale", edges ** (1 / self.p))

    @classmethod
    def from_networkx(
        cls, graph: nx.Graph, root: Hashable, p: float = 1.0, weight: str | None = "weight"
    ) -> "SobolevTransport":
        """On an undirected networkx graph, the masses in the order of `graph.nodes`.

        Where shortest paths tie, a node hangs from that neighbour on one of them that comes first in `graph.nodes`.

        Args:
            graph: connected; multigraphs count the shortest of parallel edges.
            root: the node where all paths start.
            p: order, at least 1.
            weight: edge attribute with the length, 1 where it is missing; None for lengths of 1.

        Raises:
            UnknownNameError: the root is not a node of the graph.
            DataError: the graph is directed or not connected.
            DomainError: an edge length that is no finite number or negative, or p < 1.
        """
        if graph.is_directed():
            raise DataError("SobolevTransport: the graph must be undirected; convert it with graph.to_undirected()")
        if root not in graph:
            raise UnknownNameError("root node", root, graph.nodes)
        for u, v, length in graph.edges(data=weight, default=1):
            if not isinstance(length, int | float | np.number) or not 0 <= length < math.inf:
                raise DomainError(
                    f"SobolevTransport: the length of every edge must be a finite number, not negative; edge "
                    f"({u!r}, {v!r}) has {weight}={length!r}"
                )
        predecessors, distances = nx.dijkstra_predecessor_and_distance(graph, root, weight=weight)
        if len(distances) < len(graph):
            lost = [node for node in graph if node not in distances]
            raise DataError(
                f"SobolevTransport: the graph must be connected; {len(lost)} of its {len(graph)} nodes cannot be "
                f"reached from the root {root!r}, the first of them {lost[0]!r}. Keep one component: "
                f"graph.subgraph(networkx.node_connected_component(graph, root))"
            )
        position = {node: i for i, node in enumerate(graph)}
        reached = {node: i for i, node in enumerate(distances)}  # in the order of their distance
        parents, lengths = [-1] * len(graph), [0.0] * len(graph)
        for node in list(reached)[1:]:
            # Across an edge of length 0 each end precedes the other: the parent is the one reached first.
            parent = min((u for u in predecessors[node] if reached[u] < reached[node]), key=position.__getitem__)
            data = graph.get_edge_data(parent, node)
            parallel = data.values() if graph.is_multigraph() else [data]
            parents[position[node]] = position[parent]
            lengths[position[node]] = float(min(edge.get(weight, 1) for edge in parallel))
        return cls(parents, lengths, p, list(graph))

    def embed(self, x: Tensor) -> Tensor:
        """The vector (w_e^(1/p) x(gamma_e))_e, edges in the order of a depth-first walk. x: (*B, k) -> (*B, k - 1)."""
        k = len(self.nodes)
        if x.shape[-1] != k:
            raise ShapeError(
                f"SobolevTransport: a mass has one entry for each of the {k} nodes of the graph, got shape "
                f"{tuple(x.shape)}"
            )
        # gamma_e stands in one piece in the walk. In float64, for a difference of long sums loses digits.
        upto = x[..., self.order].cumsum(-1, dtype=torch.float64)
        beyond = upto[..., self.ends] - upto[..., :-1]
        return (self.scale * beyond).to(x.dtype)

    def extra_repr(self) -> str:
        return f"{len(self.nodes)} nodes, p={self.p:g}"


def _depth_first(parents: Sequence[int]) -> tuple[list[int], list[int]]:
    """The nodes of a tree in the order of a depth-first walk, and of each the place in it of its last descendant."""
    children: list[list[int]] = [[] for _ in parents]
    roots: list[int] = []
    for node, parent in enumerate(parents):
        if not -1 <= parent < len(parents):
            raise DataError(f"SobolevTransport: the parent of node {node} must be a node or -1, got {parent}")
        (roots if parent == -1 else children[parent]).append(node)
    if len(roots) != 1:
        raise DataError(f"SobolevTransport: a tree has one root, the node of parent -1; got {len(roots)} such nodes")
    order, waiting = [], roots
    while waiting:
        order.append(waiting.pop())
        waiting.extend(children[order[-1]])
    if len(order) < len(parents):
        raise DataError(
            f"SobolevTransport: {len(parents) - len(order)} of {len(parents)} nodes do not lead to the root; the "
            f"parents of some form a circle"
        )
    size = [1] * len(parents)
    for node in order[:0:-1]:
        size[parents[node]] += size[node]
    return order, [place + size[node] - 1 for place, node in enumerate(order)]
