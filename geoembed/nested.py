"""Hierarchies without optimisation: each node nearer to all its ancestors than to any other node.

A point x of the hyperbolic plane and the origin o have a bisector; H_x is the half-plane of the points that are nearer
to x than to o. Let the H_x nest as the tree does: that of a node lies in that of its parent, those of siblings are
disjoint, and x itself is in none of those below it. Then for nodes u, a and v, a above u and v not,

    u in H_a, so d(u, a) < d(u, o),      u not in H_v, so d(u, o) <= d(u, v):

all ancestors come first; a root at o is as near as o. H_x cuts an arc off the circle at infinity. If theta is its
middle and phi half its width, x lies in direction theta at

    r = -2 log tan(phi / 2),    in the Poincare disk at cos(phi) e^(i theta).

So all it takes is arcs within arcs. Those of children lie left and right of the middle of their parent's, where the
parent is, and are as wide as their numbers of nodes have it. Of n nodes one of depth k lies at r <= 2 log n + 1.7 k:
floats hold that, while edges of equal length (`combinatorial.embed_tree`) soon need more.

A hierarchy is no tree where nodes have several parents. Any tree has at most a chain of a node's ancestors above it,
and the one in which a node's parent is the direct one of the longest chain has the longest chain of every node at once.
With it, the precision of the ancestors A(u) is at least (longest chain of u) / |A(u)|; for the nouns of WordNet that is
.961 on average, in two dimensions.

The statements are derived here; circles shared out among subtrees are older: J. Lamping, R. Rao, P. Pirolli, "A
focus+context technique based on hyperbolic geometry for visualizing large hierarchies", CHI 1995.
"""

import math
import warnings

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.data import Closure
from geoembed.data.trees import chain_tree
from geoembed.errors import DomainError, NumericalWarning
from geoembed.manifolds import Hyperbolic, Lorentz

__all__ = ["embed_closure", "nested_arcs"]

_OWN = 0.1  # share of a half arc, at the middle, that is left to the node itself
_APART = 0.05  # share of an arc left empty around it
_WIDEST = 0.95 * math.pi / 2  # of half an arc: H_x does not hold the origin


@torch.no_grad()
def embed_closure(
    closure: Closure, manifold: Hyperbolic | None = None, *, dim: int = 2, dtype: torch.dtype = torch.float64
) -> Tensor:
    """Points (n_nodes, k), row i for closure.nodes[i], without training.

    Args:
        closure: transitive and without cycles; it may have several roots.
        manifold: a hyperbolic space of any model and curvature; None is `Lorentz()`.
        dim: its dimension, at least 2; the points lie in a plane of it.
        dtype: of the points.

    Every ancestor in the `chain_tree` is nearer than all nodes that are no ancestors, if floats can tell the arcs
    apart: each generation at least halves them, so in float64 40 generations or more are too many, in which case deep
    nodes are out of order and a NumericalWarning comes. Raises DataError for a cycle, DomainError for another manifold,
    a dim below 2, and for points beyond the limbs of a tiling.

    >>> closure = Closure.from_pairs([("b", "a"), ("c", "a"), ("c", "b")])
    >>> embed_closure(closure).shape
    torch.Size([3, 3])
    """
    space = Lorentz() if manifold is None else manifold
    if not isinstance(space, Hyperbolic):
        raise DomainError(f"manifold: expected a hyperbolic space, such as Lorentz(), got {space!r}")
    if dim < 2:
        raise DomainError(f"dim: half-planes nest in two dimensions or more, got {dim}")
    parents = chain_tree(closure)
    theta, phi = nested_arcs(parents)
    r = torch.where(phi < math.pi / 2, -2 * (phi / 2).tan().log(), 0.0) / space.c.sqrt()
    u = torch.stack([r * theta.cos(), r * theta.sin()], 1)
    points = space.from_tangent(pad(u, (0, dim - 2)).to(dtype))
    below = (parents >= 0).nonzero().squeeze(1)
    up = parents[below]
    near = space.dist(points[below], points[up]) < r[below]
    wrong = int((~near & (phi[up] < math.pi / 2)).sum())  # a root at the origin is as near as the origin
    if wrong:
        warnings.warn(
            f"{wrong:,} of {len(below):,} nodes are as near to the origin as to their parents: the hierarchy is deeper "
            f"than {dtype} can tell arcs apart; its upper generations are in order",
            NumericalWarning,
            stacklevel=2,
        )
    return points


def nested_arcs(parents: Tensor) -> tuple[Tensor, Tensor]:
    """Middles and half widths of arcs of a circle that nest as a tree does, in radians: float64 (n,) each.

    parents: int64 (n,), the row of each node's parent, -1 for a root. A single root has half the circle, about angle
    0, its children lie anywhere; so its point is the origin.
    """
    n = len(parents)
    up = torch.where(parents < 0, n, parents)  # below an added node, which has the circle
    levels = _levels(up)
    size = torch.ones(n + 1, dtype=torch.float64)
    for level in reversed(levels):
        size.index_add_(0, up[level], size[level])
    theta, phi = torch.zeros_like(size), torch.full_like(size, math.pi)
    for level in levels[n > 0 and len(levels[0]) == 1 :]:
        nodes = level[size[level].argsort(descending=True, stable=True)]
        nodes = nodes[up[nodes].argsort(stable=True)]
        p, s = up[nodes], size[nodes]
        before, total = _among(p, s)
        right = (before + s / 2 > total / 2) & (phi[p] < math.pi)
        before, total = _among(2 * p + right, s)
        own = torch.where(phi[p] < math.pi, _OWN * phi[p], -math.pi)  # none on the circle, where all lie left
        start = theta[p] + torch.where(right, own, -phi[p])
        width = torch.where(phi[p] < math.pi, phi[p] - own, 2 * math.pi) / total  # of one node
        theta[nodes] = start + (before + s / 2) * width
        phi[nodes] = (s * width / 2 * (1 - _APART)).clamp(max=_WIDEST)
    phi = torch.where(phi < math.pi, phi, math.pi / 2)
    return theta[:n], phi[:n]


def _levels(up: Tensor) -> list[Tensor]:
    """The nodes of each depth, from the children of the added root len(up) on. up: int64 (n,)."""
    jump = torch.cat([up, torch.tensor([len(up)])])
    depth = (jump != torch.arange(len(jump))).long()
    while bool((depth[jump] > 0).any()):
        depth, jump = depth + depth[jump], jump[jump]
    depth = depth[:-1] - 1
    return list(depth.argsort(stable=True).split(depth.bincount().tolist()))


def _among(group: Tensor, size: Tensor) -> tuple[Tensor, Tensor]:
    """For items sorted by group, the sizes that come before in the group and those of the whole group: (k,) each."""
    _, group, counts = group.unique_consecutive(return_inverse=True, return_counts=True)
    before = size.cumsum(0) - size
    first = counts.cumsum(0) - counts
    total = torch.zeros(len(counts), dtype=size.dtype).index_add_(0, group, size)
    return before - before[first][group], total[group]
