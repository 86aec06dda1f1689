"""The picture of a matrix of distances: a heat map with like items side by side, and a map of the items in the plane.

The heat map has the order of the leaves of a hierarchical clustering (average linkage), in which neighbours are as
close as the tree allows (Bar-Joseph, Gifford and Jaakkola, "Fast optimal leaf ordering for hierarchical clustering",
2001). The map is classical scaling (Torgerson, "Multidimensional scaling: I. Theory and method", Psychometrika 1952):

    B = -J D^2 J / 2,  J = I - 1/n,    coordinates = eigenvectors of its two largest eigenvalues, times their roots
"""

import io
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.cluster.hierarchy import leaves_list, linkage
from scipy.spatial.distance import squareform

from geoembed.checkpoint import writing
from geoembed.drawing import DPI, GREY, INK, check_extension, short_names
from geoembed.errors import DataError, ShapeError
from geoembed.files import atomic_write
from geoembed.plotting import PALETTE

__all__ = ["classical_scaling", "draw_distances", "leaf_order"]

Floats = NDArray[np.float64]

NAMED = 40  # so many items are named at most
OPTIMAL = 300  # more are not ordered to the optimum, which takes cubic time
MOST = 2000  # of more items every k-th is drawn: eigenvalues take cubic time, and no screen shows them


def leaf_order(matrix: Floats) -> NDArray[np.int64]:
    """The items in the order of the leaves of a clustering. matrix: (n, n), symmetric -> (n,)."""
    if len(matrix) < 3:
        return np.arange(len(matrix))
    condensed = squareform(matrix, checks=False)
    return leaves_list(linkage(condensed, "average", optimal_ordering=len(matrix) <= OPTIMAL)).astype(np.int64)


def classical_scaling(matrix: Floats) -> tuple[Floats, float]:
    """Points of the plane at about these distances, and the share of the variance that the plane holds.

    matrix: (n, n), symmetric -> (n, 2). The share is of the positive eigenvalues; 1 where all items coincide.
    """
    squares = matrix**2
    inner = -(squares - squares.mean(0) - squares.mean(1, keepdims=True) + squares.mean()) / 2
    values, vectors = np.linalg.eigh(inner)
    values = np.maximum(values[::-1], 0)
    points = np.zeros((len(matrix), 2))
    kept = min(2, len(matrix))
    points[:, :kept] = vectors[:, ::-1][:, :kept] * np.sqrt(values[:kept])
    points *= np.sign(points[np.abs(points).argmax(0), [0, 1]])  # the sign of an eigenvector is free
    return points, float(values[:2].sum() / values.sum()) if values.sum() > 0 else 1.0


def draw_distances(
    matrix: ArrayLike, names: Sequence[str], path: str | os.PathLike[str], *, title: str | None = None
) -> None:
    """Write the picture of a matrix of distances to a file of any format that matplotlib writes.

    Args:
        matrix: (n, n), n >= 1; where it is not symmetric, the mean of both directions is drawn.
        names: n of them, shown where there are few.

    Raises:
        ShapeError: a matrix that is not square, or another number of names.
        DataError: NaN or infinite distances, or an unknown ending of the file name.
        CheckpointError: the file cannot be written.
    """
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    ending, values = check_extension(path), np.asarray(matrix)
    if values.ndim != 2 or values.shape[0] != values.shape[1] or not 0 < len(values) == len(names):
        raise ShapeError(f"expected a matrix (n, n) and n >= 1 names, got {values.shape} and {len(names)} names")
    shown = range(0, len(values), -(-len(values) // MOST))
    values = values[np.ix_(shown, shown)].astype(np.float64)
    if not np.isfinite(values).all():
        bad = [names[i] for i, row in zip(shown, values, strict=True) if not np.isfinite(row).any()]
        what = f"no distance of {bad[0]!r} is" if bad else "not all distances are"
        raise DataError(f"{what} a finite number, so there is no picture of them")
    values = (values + values.T) / 2
    buffer = io.BytesIO()
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    with matplotlib.style.context(["default", {"svg.hashsalt": "geoembed", "text.color": INK, "font.size": 9}]):
        figure = Figure(figsize=(13, 6.2), dpi=DPI, layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        figure.get_layout_engine().set(w_pad=0.12, h_pad=0.1)  # type: ignore[union-attr, call-arg]
        left, right = figure.subplots(1, 2)
        texts = short_names([names[i] for i in shown], names) if len(shown) <= NAMED else None
        _draw_heat(left, values, texts)
        _draw_map(right, values, texts)
        part = f"{len(shown):,} of {len(names):,} items" if len(shown) < len(names) else f"{len(names):,} items"
        figure.suptitle(f"{title}, {part}" if title else part, fontsize=12, parse_math=False)
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=undated.get(ending))
    with writing(Path(path)), atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


def _draw_heat(axes: Any, values: Floats, names: list[str] | None) -> None:
    order = leaf_order(values)
    image = axes.imshow(values[np.ix_(order, order)], cmap="viridis", interpolation="nearest")
    axes.figure.colorbar(image, ax=axes, shrink=0.8, label="distance")
    axes.set_title("Order of a hierarchical clustering", fontsize=10)
    axes.set_xticks([])
    if names is None:
        axes.set_yticks([])
    else:
        axes.set_yticks(range(len(order)), [names[i] for i in order], parse_math=False)
    axes.tick_params(length=0, labelsize=8, labelcolor=INK)
    axes.spines[:].set_visible(False)


def _draw_map(axes: Any, values: Floats, names: list[str] | None) -> None:
    points, share = classical_scaling(values)
    size = 40 if names is not None else max(2.0, 40 / (1 + len(points) / 100))
    axes.scatter(*points.T, s=size, color=PALETTE[0], alpha=0.8, edgecolors="none")
    axes.set_aspect("equal", adjustable="datalim")
    axes.margins(0.12)
    axes.set_title(f"Classical scaling, {share:.0%} of the variance", fontsize=10)
    axes.grid(color="#E4E2DC", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.tick_params(length=0, labelcolor=GREY)
    axes.spines[:].set_visible(False)
    if names is not None:
        _write_names(axes, points, names)


def _write_names(axes: Any, points: Floats, names: list[str]) -> None:
    """Each name on the first side of its dot that is free; one without a free side is left out."""
    axes.figure.canvas.draw()  # the layout is now what it will be
    gap = 5 * DPI / 72
    dots = axes.transData.transform(points)
    taken = [np.concatenate([dot - gap / 2, dot + gap / 2]) for dot in dots]
    for dot, point, name in zip(dots, points, names, strict=True):
        text = axes.text(*point, name, fontsize=8, color=INK, parse_math=False, in_layout=False)
        box = text.get_window_extent()
        size = np.array([box.width, box.height])
        for corner in ((0, -0.5), (-1, -0.5), (-0.5, 0), (-0.5, -1), (0, 0), (-1, 0), (0, -1), (-1, -1)):
            low = dot + size * corner + gap * (np.array(corner) * 2 + 1)
            place = np.concatenate([low, low + size])
            inside = axes.bbox.contains(*place[:2]) and axes.bbox.contains(*place[2:])
            if inside and not any((place[:2] < other[2:]).all() and (place[2:] > other[:2]).all() for other in taken):
                text.set_position(axes.transData.inverted().transform(low))
                text.set(va="bottom", ha="left")
                taken.append(place)
                break
        else:
            text.remove()
