"""Graphs whose shape is known: a balanced tree, which hyperbolic space has room for, a grid, which is flat, and
several such graphs over the same nodes.

`tree` and `grid` list all their triples as training ones; `Triples.split` holds some out:

    tree(3, 6).split(0.1, 0.1, generator)

No relation is the inverse of another, so that train does not list what is held out under another name.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from geoembed.data.triples import Triples
from geoembed.errors import DomainError, UnknownNameError

__all__ = ["GRID_RELATIONS", "TREE_RELATIONS", "grid", "multiplex", "tree"]

TREE_RELATIONS = ("grandparent_of", "next_sibling", "parent_of")
GRID_RELATIONS = {"above": (0, 1), "above_left_of": (-1, 1), "above_right_of": (1, 1), "right_of": (1, 0)}


def tree(branching: int, depth: int, relations: Sequence[str] = TREE_RELATIONS) -> Triples:
    """A balanced tree: every node down to `depth` has `branching` children, sum of branching^i over i <= depth nodes.

    parent_of: node -> each child. grandparent_of: node -> each child of a child. next_sibling: child -> the next one
    of the same parent, the last -> the first. With branching 2 this is symmetric, so that a split leaks its answers.

    Ids count breadth first from the root, 0: the parent of i is (i - 1) // branching.

    Raises `DomainError` for numbers below 1 or a relation without triples, `UnknownNameError` for an unknown one.

    >>> tree(3, 2)
    Triples('tree-3-2': 13 entities, 3 relations, train 33, valid 0, test 0)
    """
    _check_sizes(branching=branching, depth=depth)
    n = sum(branching**level for level in range(depth + 1))
    child = torch.arange(1, n)
    parent, rank = (child - 1) // branching, (child - 1) % branching
    following = child - rank + (rank + 1) % branching
    apart = following != child  # an only child is not its own sibling
    below = parent > 0  # the children of the root have no grandparent
    edges = {
        "grandparent_of": ((parent[below] - 1) // branching, child[below]),
        "next_sibling": (child[apart], following[apart]),
        "parent_of": (parent, child),
    }
    return _build(f"tree-{branching}-{depth}", n, edges, relations)


def grid(width: int, height: int, relations: Sequence[str] = tuple(GRID_RELATIONS)) -> Triples:
    """The points (x, y) of a grid, 0 <= x < width, 0 <= y < height, each linked to its neighbours.

    (h, right_of, t): h is one step to the right of t; above: one step up, y + 1; above_right_of, above_left_of: both.
    Translations of the plane by (1, 0), (0, 1), (1, 1), (-1, 1) model them without error.

    Ids count row by row: y width + x. Raises what `tree` raises.

    >>> grid(3, 2)
    Triples('grid-3-2': 6 entities, 4 relations, train 11, valid 0, test 0)
    """
    _check_sizes(width=width, height=height)
    ids = torch.arange(width * height)
    x, y = ids % width, ids // width
    edges = {}
    for relation, (dx, dy) in GRID_RELATIONS.items():
        tail = ids[(x + dx >= 0) & (x + dx < width) & (y + dy < height)]
        edges[relation] = (tail + dy * width + dx, tail)
    return _build(f"grid-{width}-{height}", width * height, edges, relations)


def multiplex(graph: Triples, layers: int, generator: torch.Generator | None = None) -> Triples:
    """`layers` copies of a graph over the same nodes, each with its own relations: a multiplex network.

    The first keeps the ids; in each further one the nodes have changed places at random. So an entity has a place in
    every layer, and what one layer tells of its neighbours says nothing of those in another. Relation r of layer i is
    named "i_r", and each split has the triples of its own copies.

    Raises `DomainError` for fewer than 1 layer.

    >>> multiplex(tree(3, 2, ["parent_of"]), 2).relations
    ['0_parent_of', '1_parent_of']
    """
    _check_sizes(layers=layers)
    places = [torch.arange(graph.n_entities)]
    places += [torch.randperm(graph.n_entities, generator=generator) for _ in range(layers - 1)]

    def copies(triples: Tensor) -> Tensor:
        head, relation, tail = triples.unbind(1)
        rows = [
            torch.stack([place[head], relation + i * graph.n_relations, place[tail]], 1)
            for i, place in enumerate(places)
        ]
        return torch.cat(rows)

    return replace(
        graph,
        relations=[f"{i:0{len(str(layers - 1))}}_{name}" for i in range(layers) for name in graph.relations],
        train=copies(graph.train),
        valid=copies(graph.valid),
        test=copies(graph.test),
        name=f"{graph.name}-x{layers}",
    )


def _check_sizes(**sizes: int) -> None:
    for what, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int) or size < 1:
            raise DomainError(f"{what}: expected a whole number, at least 1; got {size!r}")


def _build(name: str, n: int, edges: dict[str, tuple[Tensor, Tensor]], relations: Sequence[str]) -> Triples:
    names = sorted(set(relations))
    if not names:
        raise DomainError(f"{name}: expected at least one relation of {', '.join(edges)}")
    rows = []
    for i, relation in enumerate(names):
        if relation not in edges:
            raise UnknownNameError("relation", relation, edges)
        head, tail = edges[relation]
        if not len(head):
            raise DomainError(f"{name}: {relation} has no triples in a graph of this size; leave it out")
        rows.append(torch.stack([head, torch.full_like(head, i), tail], 1))
    none = torch.empty(0, 3, dtype=torch.int64)
    entities = [f"n{i:0{len(str(n - 1))}}" for i in range(n)]  # in the order of their ids
    return Triples(entities, names, torch.cat(rows), none, none, name)
