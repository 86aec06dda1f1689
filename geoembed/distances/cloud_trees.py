"""Random trees over a cloud of points, for tree-sliced distances.

    partition_tree    a randomly shifted cube of twice the data's width, halved along every axis again and again; nodes
                      sit at the centres of the occupied cells. For low dimension.
    clustering_tree   every cluster is split by farthest-point clustering from a random first centre; nodes sit at the
                      means of the clusters. For any dimension.

An edge is as long as the straight line between the positions of its ends. `assign` sends any point, seen or not, to a
node. All levels are worked on as a whole: no loop over points or clusters.

References: Le, Yamada, Fukumizu and Cuturi, Tree-Sliced Variants of Wasserstein Distances, NeurIPS 2019 (arXiv
1902.00342); Indyk and Thaper, Fast Image Retrieval via Embeddings, 2003; Gonzalez, Clustering to Minimize the Maximum
Intercluster Distance, TCS 1985.
"""

import math

import torch
from torch import Tensor

from geoembed.distances.trees import Tree, located
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

__all__ = ["clustering_tree", "partition_tree"]


def partition_tree(points: Tensor | PointSets, depth: int = 6, generator: torch.Generator | None = None) -> Tree:
    """A tree of cells: a randomly shifted cube around the points, halved along every axis `depth` times.

    An edge above a cell of side s is sqrt(d) s / 2 long. A new point goes to the cell it lies in, or to the smallest
    occupied one around it; a point outside the cube counts as the nearest one inside.

    Args:
        points: (*S, d) or `PointSets`, whose weights do not matter.
        depth: from 1 to 30.

    Raises:
        DomainError: no points, points that are not finite, more than 31 dimensions, a depth out of range.
    """
    flat = _cloud(points, "partition_tree")
    d = flat.shape[1]
    if not 1 <= depth <= 30:
        raise DomainError(f"partition_tree: depth must be from 1 to 30, got {depth}")
    if d > 31:
        raise DomainError(
            f"partition_tree: a cell has 2^d parts, so at most 31 dimensions; got {d}. Use clustering_tree"
        )
    low, width = flat.amin(0), (flat.amax(0) - flat.amin(0)).max()
    width = torch.where(width > 0, width, 1.0)  # all points equal: one cell of any size
    shift = torch.rand(d, generator=generator, dtype=torch.float64).to(flat.device)
    return _PartitionTree(flat, low - shift * width, 2 * width, depth)


class _PartitionTree(Tree):
    """Nodes are numbered level by level, and by the code of their cell within a level.

    `_codes[h]` holds the sorted codes of level h + 1: the place of the parent in its level, then one bit an axis.
    """

    def __init__(self, points: Tensor, low: Tensor, side: Tensor, depth: int):
        d = points.shape[1]
        self._low, self._side, self._codes = low, side, list[Tensor]()
        cells = self._cells(points, depth)
        place = torch.zeros(len(points), dtype=torch.int64, device=points.device)
        parents, lengths, positions = [place.new_tensor([-1])], [side.new_zeros(1)], [(low + side / 2).unsqueeze(0)]
        above, count = 0, 1  # first node of the level above, nodes so far
        for level in range(1, depth + 1):
            codes, place = torch.unique(_code(place, cells, depth - level), return_inverse=True)
            corner = cells.new_empty(len(codes), d)
            corner[place] = cells >> (depth - level)
            step = side / 2**level
            parents.append(above + (codes >> d))
            lengths.append((math.sqrt(d) / 2 * step).expand(len(codes)))
            positions.append(low + (corner.double() + 0.5) * step)
            self._codes.append(codes)
            above, count = count, count + len(codes)
        super().__init__(torch.cat(parents), torch.cat(lengths), torch.cat(positions))

    def _cells(self, points: Tensor, depth: int) -> Tensor:
        """Whole coordinates from 0 to 2^depth - 1 of the smallest cells. points: (n, d) -> (n, d)."""
        return ((points - self._low) / self._side * 2**depth).floor().clamp(0, 2**depth - 1).long()

    def assign(self, points: Tensor) -> Tensor:
        depth = len(self._codes)
        cells = self._cells(located(points, len(self._low)), depth)
        node = torch.zeros(len(cells), dtype=torch.int64, device=cells.device)
        place, inside, start = node, torch.ones_like(node, dtype=torch.bool), 1
        for level, codes in enumerate(self._codes, 1):
            code = _code(place, cells, depth - level)
            place = torch.searchsorted(codes, code).clamp(max=len(codes) - 1)
            inside = inside & (codes[place] == code)
            node = torch.where(inside, start + place, node)
            start += len(codes)
        return node.reshape(points.shape[:-1])


def _code(place: Tensor, cells: Tensor, shift: int) -> Tensor:
    """Place of the parent cell and, in the last d bits, which of its parts. place: (n,), cells: (n, d) -> (n,)."""
    for axis in cells.unbind(-1):
        place = (place << 1) | ((axis >> shift) & 1)
    return place


def clustering_tree(
    points: Tensor | PointSets, depth: int = 6, branching: int = 4, generator: torch.Generator | None = None
) -> Tree:
    """A tree of clusters: each is split into at most `branching` by farthest-point clustering, down to `depth`.

    The first centre of a split is a random point of the cluster, each further one the point farthest from those before;
    points go to the nearest. Clusters of one point, or of equal ones, are not split. A new point goes down the same
    way, to the nearest centre at every split.

    Args:
        points: (*S, d) or `PointSets`, whose weights do not matter.
        depth: at least 1; branching: at least 2.

    Raises:
        DomainError: no points, points that are not finite, a depth or branching out of range.
    """
    flat = _cloud(points, "clustering_tree")
    if depth < 1 or branching < 2:
        raise DomainError(f"clustering_tree: depth >= 1 and branching >= 2 are needed, got {depth} and {branching}")
    order = torch.randperm(len(flat), generator=generator).to(flat.device)
    return _ClusteringTree(flat[order], depth, branching)


class _ClusteringTree(Tree):
    """Nodes are numbered level by level, children of a node one after another: from `_first`, `_count` of them.

    The points come in random order, so the first one of a cluster is a random one.
    """

    def __init__(self, points: Tensor, depth: int, branching: int):
        mean = points.mean(0, keepdim=True)
        cluster = torch.zeros(len(points), dtype=torch.int64, device=points.device)  # of each point, within the level
        nodes = cluster.new_zeros(1)  # of each cluster
        parents, positions, centres = [cluster.new_tensor([-1])], [mean], [mean]
        first, count, total = list[Tensor](), list[Tensor](), 1
        for _ in range(depth):
            label, found, split = _farthest(points, cluster, len(nodes), branching)
            split = split & (split.sum(-1, keepdim=True) > 1)
            number = split.flatten().cumsum(0) - 1  # of each child, within its level
            count.append(split.sum(-1))
            first.append(total + count[-1].cumsum(0) - count[-1])
            stays = split.any(-1)[cluster]
            points, cluster = points[stays], number[cluster * split.shape[1] + label][stays]
            parents.append(nodes.unsqueeze(-1).expand_as(split)[split])
            nodes = total + torch.arange(int(split.sum()), device=nodes.device)
            sums = points.new_zeros(len(nodes), points.shape[1]).index_add(0, cluster, points)
            positions.append(sums / cluster.bincount(minlength=len(nodes)).unsqueeze(-1))
            centres.append(found[split])
            total += len(nodes)
            if not len(nodes):
                break
        self._first, self._count = (torch.cat([*part, torch.zeros_like(nodes)]) for part in (first, count))
        self._centres, self._branching = torch.cat(centres), branching
        up, where = torch.cat(parents), torch.cat(positions)
        super().__init__(up, torch.linalg.vector_norm(where - where[up.clamp(min=0)], dim=-1), where)

    def assign(self, points: Tensor) -> Tensor:
        flat = located(points, self._centres.shape[1])
        node = torch.zeros(len(flat), dtype=torch.int64, device=flat.device)
        going = torch.arange(len(flat), device=flat.device)[self._count[node] > 0]
        while len(going):
            x, at = flat[going], node[going]
            best, least = at, torch.full((len(at),), math.inf, dtype=flat.dtype, device=flat.device)
            for child in range(self._branching):
                candidate = self._first[at] + torch.minimum(self._count[at] - 1, at.new_tensor(child))
                square = _square(x, self._centres, candidate)
                closer = square < least
                best, least = torch.where(closer, candidate, best), torch.where(closer, square, least)
            stuck = best == at  # where every square overflows
            node[going] = best
            going = going[(self._count[best] > 0) & ~stuck]
        return node.reshape(points.shape[:-1])


def _farthest(points: Tensor, cluster: Tensor, clusters: int, branching: int) -> tuple[Tensor, Tensor, Tensor]:
    """Farthest-point clustering of all clusters at once: label of each point, centres, which centres have points.

    points: (n, d), cluster: (n,) -> (n,), (clusters, branching, d), (clusters, branching).
    """
    n = len(points)
    index = torch.arange(n, device=points.device)
    label, least = torch.zeros_like(cluster), points.new_full((n,), math.inf)
    found = points.new_zeros(clusters, branching, points.shape[1])
    used = torch.zeros(clusters, branching, dtype=torch.bool, device=points.device)
    for child in range(branching):
        far = points.new_zeros(clusters).scatter_reduce(0, cluster, least, "amax")
        farthest = torch.where(least == far[cluster], index, n)
        chosen = index.new_full((clusters,), n).scatter_reduce(0, cluster, farthest, "amin")
        centre = points[chosen]
        square = _square(points, centre, cluster)
        closer = square < least
        label, least = torch.where(closer, child, label), torch.where(closer, square, least)
        found[:, child], used[:, child] = centre, far > 0
    return label, found, used


def _square(points: Tensor, centres: Tensor, which: Tensor) -> Tensor:
    """|x_i - c_which(i)|^2, in blocks that stay in the cache. points: (n, d), centres: (k, d), which: (n,) -> (n,)."""
    rows = max(1, (1 << 15) // points.shape[1])
    blocks = zip(points.split(rows), which.split(rows), strict=True)
    return torch.cat([centres[at].sub_(block).square_().sum(-1) for block, at in blocks])


def _cloud(points: Tensor | PointSets, name: str) -> Tensor:
    """All points in one float64 table (n, d), checked."""
    if isinstance(points, PointSets):
        points = points.points[points.mask]
    if points.dim() < 2 or not points.is_floating_point():
        raise ShapeError(
            f"{name}: points must be floating point of shape (*S, d), got {points.dtype} {tuple(points.shape)}"
        )
    flat = points.detach().reshape(-1, points.shape[-1]).double()
    bad = ~flat.isfinite().all(-1)
    if not flat.numel() or bool(bad.any()):
        raise DomainError(
            f"{name}: a tree needs at least one point and finite coordinates, got {len(flat)} points of which "
            f"{int(bad.sum())} are not finite. Leave those out."
        )
    return flat
