"""Depth in a hierarchy, and whether an embedding found it: do roots lie near the origin and leaves far out?

In hyperbolic space the room at radius r grows as e^r, as the nodes of a tree do with their depth, so an embedding of a
hierarchy is expected to put general nodes near the origin. The rank correlation is Spearman's, ties at their mean rank.

Reference: Nickel, Kiela, "Poincare embeddings for learning hierarchical representations", NeurIPS 2017,
arXiv:1705.08039.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from scipy.sparse.csgraph import dijkstra
from torch import Tensor

from geoembed.analysis.paths import Ids, adjacency, simple_edges
from geoembed.errors import DomainError, ShapeError

__all__ = ["RadiusByDepth", "depths", "radius_by_depth"]


def depths(source: Ids, target: Ids, n: int) -> Tensor:
    """Steps from each node up to the nearest root, in a hierarchy whose edges go child -> parent: int64 (n,).

    A root has children but no parent, and depth 0. -1: no root above, as in a cycle, or no edge at all.
    source, target: integers (m,) below n. Self-loops and repeated edges change nothing. Errors: see `krackhardt`.

    >>> depths(torch.tensor([1, 2, 3, 4]), torch.tensor([0, 1, 4, 3]), 6)  # 2 -> 1 -> 0, 3 <-> 4
    tensor([ 0,  1,  2, -1, -1, -1])
    """
    child, parent, nodes = simple_edges(source, target, n)
    depth = np.full(n, -1)
    roots = np.setdiff1d(parent, child)
    if len(roots):
        steps = dijkstra(adjacency(parent, child, len(nodes)), indices=roots, unweighted=True, min_only=True)
        depth[nodes] = np.where(np.isfinite(steps), steps, -1)
    return torch.from_numpy(depth)


@dataclass(frozen=True, eq=False)
class RadiusByDepth:
    """spearman: rank correlation of radius and depth over the nodes that have a depth, NaN where one is constant.

    depth (k,): the depths that occur, ascending; radius (k,): float64, the mean distance from the origin of the nodes
    of each; count (k,): how many they are.
    """

    spearman: float
    depth: Tensor
    radius: Tensor
    count: Tensor


def radius_by_depth(points: Tensor, manifold: Any, depth: Tensor) -> RadiusByDepth:
    """Distances from the origin of the manifold against depths.

    points: (n, k) on the manifold, which has `origin` and `dist`. depth: integers (n,), nodes below 0 are left out.

    Raises `ShapeError` for a depth that does not fit, `DomainError` for points that are not at a finite distance.
    """
    from scipy.stats import spearmanr  # takes 0.3 s to import, and `geoembed.layout` needs only this package's paths

    if points.dim() != 2 or depth.shape != points.shape[:1] or depth.is_floating_point():
        raise ShapeError(
            f"expected points (n, k) and integer depths (n,), got {tuple(points.shape)} and "
            f"{depth.dtype} {tuple(depth.shape)}"
        )
    rows = (depth >= 0).to(points.device).nonzero().squeeze(1)
    with torch.no_grad():
        origin = manifold.origin(*points.shape[1:], dtype=points.dtype, device=points.device)
        radius = manifold.dist(points[rows], origin).cpu().double()
    bad = (~radius.isfinite()).nonzero().squeeze(1)
    if len(bad):
        raise DomainError(
            f"{len(bad)} of {len(rows)} points are not at a finite distance from the origin, the first is row "
            f"{int(rows[bad[0]])}; expected points of {manifold}"
        )
    known = depth[depth >= 0].cpu()
    levels, place, count = known.unique(return_inverse=True, return_counts=True)
    mean = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, place, radius) / count
    varied = len(levels) > 1 and bool((radius != radius[0]).any())
    correlation = float(spearmanr(known, radius).statistic) if varied else math.nan
    return RadiusByDepth(correlation, levels, mean, count)
