"""Trees in the hyperbolic plane without optimisation: each node spreads its neighbours evenly around itself.

From the root, level by level, every child is put at distance tau times the length of its edge from its parent, in a
direction turned by a multiple of 2 pi / degree from that of the parent's own parent. With D the largest degree and

    tau_0 = 2 arcosh(1 / sin(pi / D)),      L - (k - 1) tau_0 <= d <= L

for the distance d of nodes that a path of k edges and length L joins, if no edge is shorter than tau_0. For let two
lines cross each edge at right angles, tau_0 / 2 from its ends. Those around a node do not meet: pi / D is the angle of
parallelism of tau_0 / 2. So each line on the path parts its ends, and the two of an edge of length l are l - tau_0
apart. Hence, where all edges have length tau > tau_0,

    every node is nearer to its neighbours than to any other node (precision 1),    L / d <= tau / (tau - tau_0) .

With tau < tau_0, deep trees of constant degree D close up on themselves. The radius, tau times the depth, soon is more
than floats hold in ball, hyperboloid and half-space (37 in float64): there points fall together or in wrong places, or
are NaN. `HTiling` holds any radius.

References: R. Sarkar, "Low distortion Delaunay embedding of trees in hyperbolic plane", Graph Drawing 2011 (the
construction); F. Sala, C. De Sa, A. Gu, C. Re, "Representation tradeoffs for hyperbolic embeddings", ICML 2018, arXiv
1804.03329 (the precision it takes, WordNet). The bounds are derived here.
"""

import math
import warnings
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import pad

from geoembed.data.trees import root_tree
from geoembed.errors import DomainError, NumericalWarning
from geoembed.manifolds import HTiling, Hyperbolic, Lorentz
from geoembed.numerics import norm

__all__ = ["TreeEmbedding", "embed_tree", "smallest_scale"]


@dataclass
class TreeEmbedding:
    """A tree in the plane.

    Attributes:
        nodes: n of them, in the order of the points: those of the graph or closure, else 0 .. n - 1.
        parents: int64 (n,), the row of each node's parent, -1 for a root.
        points: (n, k) on the manifold.
        manifold: where they live.
        scale: tau, the length of an edge of weight 1 at curvature -1.
        radius: the longest path down from the origin at curvature -1; no point lies farther out.
    """

    nodes: list[Any]
    parents: Tensor
    points: Tensor
    manifold: Hyperbolic
    scale: float
    radius: float


def smallest_scale(degree: int) -> float:
    """tau_0 of trees whose nodes have at most so many neighbours.

    >>> round(smallest_scale(3), 4)
    1.0986
    """
    return 2 * math.acosh(1 / math.sin(math.pi / degree)) if degree > 2 else 0.0


@torch.no_grad()
def embed_tree(
    tree: Any,
    manifold: Hyperbolic | None = None,
    *,
    scale: float | None = None,
    root: Any = None,
    dtype: torch.dtype = torch.float64,
) -> TreeEmbedding:
    """Place a tree in the hyperbolic plane.

    Args:
        tree: a networkx graph, a `Closure`, or the parent of each of n nodes, as `geoembed.data.trees.root_tree` takes
            them. A root added above several has no point.
        manifold: of dimension 2; None takes an `HTiling` with as many limbs as the radius needs.
        scale: tau, the length of an edge of weight 1 at curvature -1; None takes (tau_0 + 1) / the least weight.
        root: the node at the origin; None takes the root there is, or in a graph the middle of a longest path.
        dtype: of the points, float64 or float32.

    Raises what `root_tree` raises for what is no tree, DomainError for a scale that is not positive and for a radius
    beyond the limbs of the manifold. Edges that do not have their length, because floats cannot hold the radius, bring
    a NumericalWarning; so may points that are NaN.
    """
    rooted = root_tree(tree, root)
    up, depths, n = rooted.parents, rooted.depths, len(rooted.nodes)
    below = up >= 0
    children = up[below].bincount(minlength=len(up))
    degree = children + below
    if scale is None:
        shortest = float(rooted.lengths[below].min()) if len(up) > 1 else 1.0
        scale = (smallest_scale(int(degree.max())) + 1) / shortest
    if not (math.isfinite(scale) and scale > 0):
        raise DomainError(f"scale: expected the length of an edge of weight 1, positive and finite, got {scale}")
    radius = scale * float(rooted.paths.max())
    limbs = HTiling.limbs_for(radius, dtype)
    space = HTiling(2, limbs) if manifold is None else manifold
    if not isinstance(space, Hyperbolic):
        raise DomainError(f"manifold: expected a hyperbolic plane, such as HTiling(2, {limbs}), got {space!r}")
    lengths = (scale * rooted.lengths).to(dtype)
    by_parent = up.argsort(stable=True)[1:]  # the root is the first
    slot = torch.zeros_like(up)  # of a node among its siblings
    slot[by_parent] = torch.arange(len(by_parent)) - (children.cumsum(0) - children)[up[by_parent]]

    points = space.origin(len(up), space.point_dim(2), dtype=dtype)
    back = points.new_tensor([1.0, 0.0]).repeat(len(up), 1)  # the directions of the parents, in orthonormal frames
    levels = depths.argsort(stable=True).split(depths.bincount().tolist())
    try:
        for level in levels[1:]:
            p = up[level]
            angle = 2 * math.pi * (slot[level] + below[p]).to(dtype) / degree[p]
            points[level], back[level] = _walk(space, points[p], _turned(back[p], angle), lengths[level])
    except DomainError as error:
        hint = f". limbs={limbs} hold the whole tree" if isinstance(space, HTiling) else ""
        raise DomainError(f"the tree reaches radius {radius:.0f}. {error}{hint}") from error
    _warn_if_off(space, points[below], points[up[below]], lengths[below], radius)
    parents = torch.where(up < n, up, -1)[:n]  # without the added root
    return TreeEmbedding(rooted.nodes, parents, points[:n], space, scale, radius)


# ------------------------------------------------------------------------------------ moving


def _walk(space: Hyperbolic, x: Tensor, direction: Tensor, length: Tensor) -> tuple[Tensor, Tensor]:
    """The points so far from x: (m, k) in directions (m, 2), and the directions (m, 2) from there back to x."""
    longest = math.log(torch.finfo(x.dtype).max) / 2  # what exponential maps take in one go, and more
    parts = max(1, math.ceil(float(length.max()) / longest))
    for _ in range(parts):
        u = _vector(space, x, direction)
        step = length / parts / space.c.sqrt().to(x.dtype)
        end = space.expmap(x, u * (step / space.norm(x, u)).unsqueeze(-1))
        back = _components(space, end, space.logmap(end, x))
        size = norm(back, keepdim=True)
        back = torch.where(size > 0, back / size, direction)  # there is none where points fell together
        x, direction = end, -back
    return x, back


def _turned(v: Tensor, angle: Tensor) -> Tensor:
    cos, sin = angle.cos(), angle.sin()
    a, b = v.unbind(-1)
    return torch.stack([cos * a - sin * b, sin * a + cos * b], -1)


def _vector(space: Hyperbolic, x: Tensor, v: Tensor) -> Tensor:
    """A tangent vector at x: (m, k) with the direction v: (m, 2) in an orthonormal frame."""
    if not isinstance(space, Lorentz):  # the others are conformal: coordinates are such a frame, but for their unit
        return pad(v, (0, x.shape[-1] - 2))
    h = space.c.sqrt().to(x.dtype) * x[..., 1:]
    along = (h * v).sum(-1, keepdim=True)
    return torch.cat([along, v + h * along / (1 + (1 + h.square().sum(-1, keepdim=True)).sqrt())], -1)


def _components(space: Hyperbolic, x: Tensor, u: Tensor) -> Tensor:
    """Inverse of `_vector`, up to a positive factor. x, u: (m, k) -> (m, 2)."""
    if not isinstance(space, Lorentz):
        return u[..., :2]
    h, u = space.c.sqrt().to(x.dtype) * x[..., 1:], u[..., 1:]
    t = (1 + h.square().sum(-1, keepdim=True)).sqrt()
    return u - h * (h * u).sum(-1, keepdim=True) / (t * (1 + t))


def _warn_if_off(space: Hyperbolic, x: Tensor, y: Tensor, lengths: Tensor, radius: float) -> None:
    off = space.dist(x, y) * space.c.sqrt().to(x.dtype) / lengths - 1
    bad = ~(off.abs() <= torch.finfo(x.dtype).eps ** 0.5)  # also NaN
    if bad.any():
        warnings.warn(
            f"{int(bad.sum()):,} of {len(off):,} edges do not have their length, by up to "
            f"{float(off.abs().max()):.0%}: {space!r} in {x.dtype} cannot hold radius {radius:.0f}. "
            f"Use HTiling(2, limbs={HTiling.limbs_for(radius, x.dtype)}), or a smaller scale",
            NumericalWarning,
            stacklevel=4,
        )
