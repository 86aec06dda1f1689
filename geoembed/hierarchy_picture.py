"""Pictures of a hierarchy: its points on the Poincare disk, and their distances from the origin against depth.

Two-dimensional points are drawn in their own directions. Others are drawn at their distance from the origin and in a
direction that the hierarchy decides: every node has a wedge within that of its parent, and siblings with like points
are neighbours (see `geoembed.layout`).
"""

import os

import geoopt
import numpy as np
import torch
from torch import Tensor

from geoembed import layout
from geoembed.analysis import radius_by_depth
from geoembed.charts import Hierarchy
from geoembed.data import Closure
from geoembed.drawing import check_extension, draw
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.plotting import of_forest, own_points
from geoembed.tilings import TILINGS

__all__ = ["TILINGS", "plot_hierarchy", "radii"]

StrPath = str | os.PathLike[str]
OUTERMOST = 4.0  # distance from the centre of a map that 98 % of the points stay below


def plot_hierarchy(
    points: Tensor,
    manifold: geoopt.Manifold,
    closure: Closure,
    path: StrPath,
    *,
    labels: int = 40,
    tiling: str | None = None,
) -> None:
    """Draw a hierarchy on the disk, a node joined to the nearest of its parents by a geodesic.

    Args:
        points: (n_nodes, k) on the manifold.
        path: the file; its ending says the format (.png, .svg, .pdf and whatever else matplotlib writes).
        labels: at most so many names.
        tiling: draw under points of the hyperbolic plane the cells of "htiling" or of "ltiling", all at true distances.
            Otherwise distances from the centre are scaled where the dots would crowd at the centre or on the rim.

    Raises:
        ShapeError: points and closure differ in size. DomainError: points are NaN or infinite, or not of the plane
        that a tiling divides. DataError: a closure without pairs, or a file ending that matplotlib does not write.
        CheckpointError: the file cannot be written.
    """
    check_extension(path)
    if tiling is not None and tiling not in TILINGS:
        raise UnknownNameError("tiling", tiling, TILINGS)
    u = _tangent(points, manifold, closure)
    d = u.shape[1]
    if tiling is not None and (d != 2 or not isinstance(manifold, Hyperbolic)):
        raise DomainError(f"a tiling is drawn under points of the hyperbolic plane, not under those of {manifold!r}")
    child, parent = closure.parents().unbind(1)
    with torch.no_grad():
        length = manifold.dist(points[child], points[parent]).double().cpu().numpy()
    forest = layout.Forest(child.numpy(), parent.numpy(), -length, closure.n_nodes)
    z, about = own_points(manifold, u, true=tiling is not None) if d <= 2 else _map(forest, u)
    picture = of_forest(
        forest, z, closure.nodes, np.full(int((forest.parent >= 0).sum()), 0.55), "from a node to its nearest parent"
    )
    if tiling is not None:
        about += f"; under them the cells of {tiling}"
    draw(
        picture._replace(
            title=f"{closure.name}\n{manifold!r}, {d} dimensions",
            caption=f"{about}. {picture.caption}",
            flat=d <= 2 and not isinstance(manifold, Hyperbolic),
            under=[] if tiling is None else TILINGS[tiling](),
        ),
        path,
        labels,
    )


def radii(points: Tensor, manifold: geoopt.Manifold, closure: Closure) -> Hierarchy:
    """Distances from the origin and depths of all nodes, for `geoembed.charts.draw_radius`."""
    depth = closure.depths()
    summary = radius_by_depth(points, manifold, depth)
    with torch.no_grad():
        origin = manifold.origin(*points.shape[1:], dtype=points.dtype, device=points.device)
        radius = manifold.dist(points, origin).cpu().double()
    return Hierarchy(closure.name, depth, radius, summary)


def _map(forest: layout.Forest, u: np.ndarray) -> tuple[np.ndarray, str]:
    """Points at their distances from the origin, scaled to fill the disk, in the directions of the layout."""
    radius = np.linalg.norm(u, axis=1)
    factor = OUTERMOST / max(float(np.quantile(radius, 0.98)), 1e-12)
    return np.tanh(factor * radius / 2) * np.exp(1j * np.angle(layout.lay_out(forest, u))), (
        f"A map of points of {u.shape[1]} dimensions: distances from the centre are those from the origin, drawn "
        f"{factor:.2g} times as long; directions keep branches apart, and siblings with like points are side by side"
    )


def _tangent(points: Tensor, manifold: geoopt.Manifold, closure: Closure) -> np.ndarray:
    """Tangent coordinates at the origin, (n, d), float64."""
    if points.dim() != 2 or len(points) != closure.n_nodes:
        raise ShapeError(f"points: expected ({closure.n_nodes}, k), one a node, got {tuple(points.shape)}")
    if not len(closure.pairs):
        raise DataError(f"{closure!r} has no pairs (child, ancestor): there is no hierarchy to draw")
    with torch.no_grad():
        u = (manifold.to_tangent(points) if hasattr(manifold, "to_tangent") else points).double().cpu()
    bad = (~u.isfinite().all(1)).nonzero()
    if len(bad):
        raise DomainError(f"{len(bad)} of {len(u)} points are NaN or infinite, the first is row {int(bad[0])}")
    return u.numpy()
