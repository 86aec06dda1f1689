"""Pictures of embeddings on the Poincare disk: points, geodesics, and as many names as fit.

`plot_embedding` draws a model: its own points if it is two-dimensional, else a hyperbolic map made from it (see
`geoembed.layout`); the caption under the picture says which. `plot_disk` draws points that you have. Both make a
`Picture`, which `_draw` turns into a file. matplotlib is imported when something is drawn, and without pyplot: no
window, no state that outlives the call.
"""

import io
import os
import re
import textwrap
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import ArrayLike

from geoembed import layout
from geoembed.checkpoint import writing
from geoembed.data import Triples
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.files import atomic_write
from geoembed.manifolds import Euclidean
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.models import MultiRelational

__all__ = ["plot_disk", "plot_embedding"]

StrPath = str | os.PathLike[str]
MAX_EDGES = 20_000  # of a graph without hierarchy; more only blacken the disk

# Paul Tol's "muted" scheme, made to be told apart by colour-blind readers; neighbours in this order differ most
PALETTE = ("#332288", "#DDAA33", "#117733", "#CC6677", "#44AA99", "#882255", "#88CCEE", "#999933", "#AA4499")
REST = "#8C8C8C"
INK, GREY, DISK, RIM = "#2B2B2B", "#5A5A5A", "#FBFAF7", "#A8A49B"
WIDTH, HEIGHT, DPI = 10.0, 10.75, 200
LARGEST, SMALLEST = 13.0, 7.5  # points of the names
LONGEST = 32  # characters of a name
SPREAD = 300  # pixels around a name within which others are less wanted
PAD = 5  # pixels between names
DENSEST = 0.5  # a name is not put where more of its box is inked
SYNSET = re.compile(r"\.[nvars]\.\d+$")


class Picture(NamedTuple):
    """What is drawn. z: (n,) complex; edges: (m, 2); size, importance: (n,); opacity: (m,)."""

    z: np.ndarray
    names: list[str]
    edges: np.ndarray
    size: np.ndarray  # of the dots, relative
    importance: np.ndarray  # names are placed in this order
    colours: list[str]
    opacity: np.ndarray
    title: str | None = None
    caption: str | None = None
    context: Sequence[str] | None = None  # all names among which a short one must be unique
    flat: bool = False  # straight lines and no rim


def plot_disk(
    points: ArrayLike,
    names: Sequence[str],
    edges: ArrayLike,
    path: StrPath,
    *,
    labels: int = 40,
    colours: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    opacity: ArrayLike | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Draw points of the Poincare disk (curvature -1), edges as geodesics, and names where there is room.

    Args:
        points: (n, 2), inside the unit disk.
        names: n of them. The suffix of a WordNet synset (".n.01") is left out where the rest is unique.
        edges: (m, 2) pairs of row numbers, m may be 0.
        path: the file; its ending says the format (.png, .svg, .pdf and whatever else matplotlib writes).
        labels: at most so many names.
        colours: of the points, n matplotlib colours; an edge has the colour of its second point.
        weights: (n,) >= 0, importance: the size of a dot and who is named first. By default the number of edges.
        opacity: (m,) in [0, 1], of the edges.
        title, caption: above and below the disk.

    Raises:
        ShapeError: shapes do not fit together. DomainError: NaN, points outside the disk, numbers of no point.
        DataError: a file ending that matplotlib does not write. CheckpointError: the file cannot be written.
    """
    _check_extension(path)
    xy = _numbers("points", points, (len(names), 2))
    bad = np.flatnonzero(~(np.hypot(xy[:, 0], xy[:, 1]) < 1))
    if len(bad):
        raise DomainError(
            f"points: {len(bad)} of {len(xy)} rows are not inside the unit disk, the first is row {bad[0]}: "
            f"{xy[bad[0]].tolist()}. Divide points of curvature -c by their radius: multiply them by sqrt(c)."
        )
    pairs = np.asarray(edges)
    pairs = pairs.reshape(-1, 2) if pairs.size == 0 else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and pairs.dtype.kind not in "iu"):
        raise ShapeError(f"edges: expected integers (m, 2), got {pairs.dtype} {pairs.shape}")
    pairs = pairs.astype(np.int64)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= len(xy)):
        raise DomainError(f"edges: expected row numbers 0 to {len(xy) - 1}, got {pairs.min()} to {pairs.max()}")
    if weights is None:
        weight = np.bincount(pairs.ravel(), minlength=len(xy)).astype(float) + 1
    else:
        weight = _numbers("weights", weights, (len(xy),), low=0)
    alpha = np.full(len(pairs), 0.6) if opacity is None else _numbers("opacity", opacity, (len(pairs),), 0, 1)
    if colours is not None and len(colours) != len(xy):
        raise ShapeError(f"colours: expected one for each of {len(xy)} points, got {len(colours)}")
    colours = [PALETTE[0]] * len(xy) if colours is None else list(colours)
    z = xy[:, 0] + 1j * xy[:, 1]
    _draw(Picture(z, list(names), pairs, weight, weight, colours, alpha, title, caption), path, labels)


def plot_embedding(model: MultiRelational, triples: Triples, path: StrPath, *, labels: int = 40) -> None:
    """Draw a model of a graph: its own points if they are two-dimensional, else a hyperbolic map made from it.

    The map is of the relation that is most of a hierarchy: of an entity's parents it keeps the one that the model
    finds most probable, siblings with like coordinates are neighbours, and edges that the model gives a lower
    probability are fainter and longer. A graph without hierarchy is projected to two dimensions instead.

    Args:
        model: trained on `triples`.
        path: the file; its ending says the format (.png, .svg, .pdf and whatever else matplotlib writes).
        labels: at most so many names.

    Raises:
        ShapeError: model and triples differ in size. DomainError: coordinates are NaN or infinite.
        DataError: a file ending that matplotlib does not write. CheckpointError: the file cannot be written.
    """
    _check_extension(path)
    sizes = (model.n_entities, triples.n_entities)
    if sizes[0] != sizes[1]:
        raise ShapeError(f"the model has {sizes[0]} entities, the triples have {sizes[1]}; they must be of one graph")
    u = _numbers("coordinates of the model", model.tangent_coordinates().cpu(), (sizes[0], model.dim))
    rows = torch.cat([triples.train, triples.valid, triples.test])
    tree = _tree(model, rows)
    if model.dim <= 2:
        z, about = _own_points(model, u)
    elif tree is not None:
        z, about = layout.lay_out(tree.forest, u, tree.stretch), ""
    else:
        z, about = _projection(u)
    picture = _of_tree(tree, z, triples) if tree is not None else _of_graph(model, rows, z, triples)
    if not about and tree is not None:
        about = (
            f"A hyperbolic map of the {triples.relations[tree.relation]} hierarchy: {len(picture.names):,} of "
            f"{len(u):,} entities, each below the parent that the model finds most probable, siblings with like "
            "embeddings side by side, and farther out the less probable the model finds the edge"
        )
    _draw(
        picture._replace(
            title=f"{triples.name}\n{_model_name(model)}",
            caption=f"{about}. {picture.caption}",
            flat=model.dim <= 2 and not isinstance(model.manifold, Hyperbolic),
        ),
        path,
        labels,
    )


class _Tree(NamedTuple):
    """The main hierarchy of a graph, and the model's probabilities of its edges."""

    relation: int
    forest: layout.Forest
    probability: np.ndarray  # (n,) of the edge from a node to its parent
    stretch: np.ndarray  # (n,) 0.75 for the most probable edge, 1.25 for the least


def _tree(model: MultiRelational, rows: torch.Tensor) -> _Tree | None:
    relation = layout.main_hierarchy(rows.numpy(), model.n_entities)
    if relation is None:
        return None
    edges = rows[rows[:, 1] == relation]
    child, parent = edges[:, 0].numpy(), edges[:, 2].numpy()
    if not layout.is_a_tree_of(child, parent):
        child, parent = parent, child
    probability = _probabilities(model, edges)
    forest = layout.Forest(child, parent, probability, model.n_entities)
    kept = np.flatnonzero(forest.parent[child] == parent)
    of_node, stretch = np.ones(model.n_entities), np.ones(model.n_entities)
    of_node[child[kept]] = probability[kept]
    nodes = child[kept]
    stretch[nodes[np.argsort(-of_node[nodes], kind="stable")]] = np.linspace(0.75, 1.25, len(nodes))
    return _Tree(relation, forest, of_node, stretch)


def _of_tree(tree: _Tree, z: np.ndarray, triples: Triples) -> Picture:
    """Dots by size of subtree, colours by branch; a node that is nearly all of its parent's tree is named late."""
    forest = tree.forest
    heads, branch = layout.main_branches(forest)
    place = np.empty(len(heads) + 1, np.int64)
    place[np.argsort(np.angle(z[heads]), kind="stable")] = np.arange(len(heads)) % len(PALETTE)  # neighbours differ
    palette = [PALETTE[i] for i in place[:-1]] + [REST]
    nodes, size = forest.order, forest.size
    above = forest.parent[nodes]
    news = np.where(above < 0, 1.0, 1 - size[nodes] / size[np.maximum(above, 0)])
    number = np.full(forest.n, -1)
    number[nodes] = np.arange(len(nodes))
    child, parent = forest.edges()
    return Picture(
        z[nodes],
        [triples.entities[i] for i in nodes],
        np.stack([number[parent], number[child]], 1),
        size[nodes].astype(float),
        size[nodes] * news,
        [palette[i] for i in branch[nodes]],
        0.1 + 0.8 * tree.probability[child],
        caption=f"Lines: {triples.relations[tree.relation]}, fainter where the model gives a lower probability. "
        "Dots: larger with more below. Colours: main branches.",
        context=triples.entities,
    )


def _of_graph(model: MultiRelational, rows: torch.Tensor, z: np.ndarray, triples: Triples) -> Picture:
    probability = _probabilities(model, rows)
    kept = np.sort(np.argsort(-probability, kind="stable")[:MAX_EDGES])
    which = "all" if len(kept) == len(rows) else f"the {len(kept):,} most probable of {len(rows):,}"
    degree = np.bincount(rows[:, [0, 2]].numpy().ravel(), minlength=len(z)).astype(float)
    return Picture(
        z,
        triples.entities,
        rows[kept][:, [0, 2]].numpy(),
        degree,
        degree,
        [PALETTE[0]] * len(z),
        0.05 + 0.5 * probability[kept],
        caption=f"Lines: {which} triples, fainter where the model gives a lower probability. Dots: larger with more "
        "triples.",
    )


def _own_points(model: MultiRelational, u: np.ndarray) -> tuple[np.ndarray, str]:
    """Coordinates in the disk or, scaled to fit, in the plane, and what was done."""
    u = np.pad(u, ((0, 0), (0, 2 - u.shape[1])))
    flat = u[:, 0] + 1j * u[:, 1]
    if not isinstance(model.manifold, Hyperbolic):
        space = "plane" if isinstance(model.manifold, Euclidean) else "tangent plane at the origin"
        return flat * 0.97 / max(np.abs(flat).max(), 1e-300), f"The trained points themselves, in the {space}"
    c = float(model.manifold.c)
    flat *= np.sqrt(c)
    about = f"The trained points themselves, on the disk of curvature {-c:.3g}; lines are geodesics"
    far = max(float(np.quantile(np.abs(flat), 0.98)), 1e-12)
    if far < 2:  # else most of the disk is empty
        flat *= 3 / far
        about += f". Distances from the centre are drawn {3 / far:.2g} times as long, directions as they are"
    return _from_tangent(flat), about


def _projection(u: np.ndarray) -> tuple[np.ndarray, str]:
    """The first two principal axes of the tangent coordinates, spread over the disk."""
    centred = u - u.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(1)].diagonal())[:, None]
    flat = np.pad(centred @ axes.T, ((0, 0), (0, 2 - len(axes)))) @ np.array([1, 1j])
    flat *= 3 / max(float(np.quantile(np.abs(flat), 0.98)), 1e-12)
    share = (s[:2] ** 2).sum() / max((s**2).sum(), 1e-300)
    return _from_tangent(flat), (
        f"A map: the two main axes ({share:.0%} of the variance) of the tangent coordinates, scaled to fill the disk, "
        "as no relation of this graph is a hierarchy"
    )


def _from_tangent(flat: np.ndarray) -> np.ndarray:
    length = np.abs(flat)
    return np.minimum(np.tanh(length / 2), 1 - 1e-9) * flat / np.maximum(length, 1e-300)


def _probabilities(model: MultiRelational, rows: torch.Tensor) -> np.ndarray:
    device = next(model.parameters()).device
    with torch.no_grad():
        blocks = [model(*block.to(device).unbind(1)).sigmoid().double().cpu() for block in rows.split(65536)]
    return torch.cat(blocks).numpy()


def _model_name(model: MultiRelational) -> str:
    if isinstance(model.manifold, Euclidean):
        return f"MuRE, {model.dim} dimensions, flat"
    hyperbolic = isinstance(model.manifold, Hyperbolic)
    space = f"curvature {-float(model.manifold.c):.3g}" if hyperbolic else repr(model.manifold)
    return f"MuRP, {model.dim} dimensions, {space}"


def _numbers(what: str, values: ArrayLike, shape: tuple[int, ...], low=-np.inf, high=np.inf) -> np.ndarray:
    """As float64 of the shape asked for, finite and within bounds."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if array.shape != shape:
        raise ShapeError(f"{what}: expected shape {shape}, got {array.shape}")
    bad = np.argwhere(~(np.isfinite(array) & (array >= low) & (array <= high)))
    if len(bad):
        where = tuple(bad[0].tolist())
        bounds = "" if low == -np.inf else f" from {low}" + ("" if high == np.inf else f" to {high}")
        raise DomainError(
            f"{what}: expected finite numbers{bounds}; {len(bad)} of {array.size} are not, the first is "
            f"{array[where]} at {where}"
        )
    return array


# ------------------------------------------------------------------------------------------------------------ drawing


def _check_extension(path: StrPath) -> str:
    """The format that the ending of a file name stands for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in known:
        raise DataError(f"{path}: expected a file name that ends in one of .{', .'.join(sorted(known))}")
    return ending


def _draw(picture: Picture, path: StrPath, labels: int) -> None:
    """Render a picture and write it to a file, whole or not at all."""
    import matplotlib.style

    ending = _check_extension(path)
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", {"svg.hashsalt": "geoembed"}]):
        figure, _ = _render(picture, labels)
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=undated.get(ending))
    with writing(Path(path)), atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


def _render(picture: Picture, labels: int) -> tuple[Any, list[Any]]:
    """The matplotlib figure and the names that were placed on it."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.collections import LineCollection
    from matplotlib.colors import to_rgba_array
    from matplotlib.figure import Figure
    from matplotlib.patches import Circle

    figure = Figure(figsize=(WIDTH, HEIGHT), dpi=DPI, facecolor="white")
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.7 / HEIGHT, 0.98, 0.98 * WIDTH / HEIGHT))
    axes.set(xlim=(-1.012, 1.012), ylim=(-1.012, 1.012))
    axes.axis("off")
    if not picture.flat:
        axes.add_patch(Circle((0, 0), 1, facecolor=DISK, edgecolor=RIM, linewidth=1.2, zorder=0))
    start, end = picture.z[picture.edges].T
    curves = np.stack([start, end], 1) if picture.flat else layout.arcs(start, end)
    size = np.log1p(picture.size / max(picture.size.max(initial=0), 1e-300) * 1000)  # 0 to 6.9
    colour = to_rgba_array(picture.colours)
    stroke = colour[picture.edges[:, 1]]
    stroke[:, 3] = picture.opacity
    fan = np.bincount(picture.edges[:, 0], minlength=1)[picture.edges[:, 0]]
    thin = (1 + fan / 25) ** -0.75  # else a wide fan of lines becomes a solid wedge
    order = np.argsort(-size[picture.edges[:, 1]], kind="stable")  # thin lines over thick ones
    axes.add_collection(
        LineCollection(
            list(np.stack([curves.real, curves.imag], -1)[order]),
            colors=stroke[order],
            linewidths=(thin * (0.35 + 0.22 * size[picture.edges[:, 1]]))[order],
            capstyle="round",
            zorder=1,
        )
    )
    few = 1 + 8 / (1 + len(picture.z) / 20)  # a graph of a few nodes gets dots that can be seen
    dots = np.sqrt(few * (1.0 + 1.2 * size**1.7))  # diameters in points
    axes.scatter(picture.z.real, picture.z.imag, s=dots**2, c=colour, edgecolors="none", zorder=2)
    for row, line in enumerate((picture.title or "").split("\n")):
        style: dict[str, Any] = {"fontsize": 10, "color": GREY} if row else {"fontsize": 16, "color": INK}
        figure.text(0.02, 1 - (0.2 + 0.28 * row) / HEIGHT, line, va="top", parse_math=False, **style)
    if picture.caption:
        text = "\n".join(textwrap.wrap(picture.caption, 165))
        figure.text(0.02, 0.12 / HEIGHT, text, fontsize=8, color=GREY, va="bottom", parse_math=False)
    return figure, _place_names(axes, picture, curves, dots / 2 * DPI / 72, labels)


def _place_names(axes: Any, picture: Picture, curves: np.ndarray, radius: np.ndarray, labels: int) -> list[Any]:
    """Names in order of importance, each where it hides least; one that finds no free place is left out.

    radius: (n,) of the dots, in pixels; names keep clear of the dots of the most important points.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    names = _short_names(picture.names, picture.context)
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    at = to_pixels.transform(_xy(picture.z))
    ink = _Ink(to_pixels.transform(_xy(np.concatenate([curves.ravel(), np.repeat(picture.z, 4)]))), axes.bbox)
    main = np.argsort(-picture.importance, kind="stable")[: 2 * labels]
    around = radius[main, None]
    taken = np.concatenate([at[main] - around, at[main] + around], 1)
    prominence = np.log(np.maximum(picture.size / max(picture.size.max(initial=0), 1e-300), 1e-300))
    placed: list[Any] = []
    alone = np.full(len(at), np.inf)  # distance to the nearest dot with a name, in pixels
    tried = np.zeros(len(at), bool)
    for _ in range(min(20 * labels, len(at))):
        i = int(np.where(tried, -1.0, picture.importance * np.minimum(1, alone / SPREAD) ** 2).argmax())
        if len(placed) >= labels:
            break
        tried[i] = True
        points = LARGEST + (SMALLEST - LARGEST) * min(1.0, -prominence[i] / np.log(60))
        text = axes.text(
            *(0, 0, names[i]),
            fontsize=points,
            color=0.65 * np.array(to_rgb(picture.colours[i])),
            va="bottom",
            zorder=3,
            parse_math=False,
            path_effects=[withStroke(linewidth=2.8, foreground="white", alpha=0.85)],
        )
        box = text.get_window_extent()
        places = at[i] + _anchors(box.width, box.height, gap=radius[i] + PAD + 2)
        boxes = np.concatenate([places, places + np.array([box.width, box.height])], 1)
        free = ~_overlap(boxes + np.array([-PAD, -PAD, PAD, PAD]), taken).any(1) & _within(boxes, axes.bbox)
        hidden = ink.share(boxes)
        hidden[~free] = np.inf
        best = int(hidden.argmin())
        if hidden[best] > DENSEST:
            text.remove()
            continue
        text.set_position(to_data.transform(places[best]))
        taken = np.concatenate([taken, boxes[best : best + 1]])
        alone = np.minimum(alone, np.hypot(*(at - at[i]).T))
        placed.append(text)
    return placed


class _Ink:
    """How much is drawn where, as sums over the corners of a grid, so that any box costs four look-ups."""

    CELL = 4  # pixels

    def __init__(self, pixels: np.ndarray, bounds: Any):
        self.origin = np.array([bounds.x0, bounds.y0])
        self.shape = (int(bounds.width / self.CELL) + 2, int(bounds.height / self.CELL) + 2)
        filled = np.zeros(self.shape)
        x, y = self._cell(pixels)
        filled[x, y] = 1
        self.sums = np.pad(filled.cumsum(0).cumsum(1), ((1, 0), (1, 0)))

    def _cell(self, pixels: np.ndarray) -> np.ndarray:
        cell = np.floor((pixels - self.origin) / self.CELL).astype(np.int64)
        return np.clip(cell, 0, np.array(self.shape) - 1).T

    def share(self, boxes: np.ndarray) -> np.ndarray:
        """The share of inked cells in each box (k, 4) of x0, y0, x1, y1."""
        (x0, y0), (x1, y1) = self._cell(boxes[:, :2]), self._cell(boxes[:, 2:]) + 1
        inked = self.sums[x1, y1] - self.sums[x0, y1] - self.sums[x1, y0] + self.sums[x0, y0]
        return inked / ((x1 - x0) * (y1 - y0))


def _anchors(width: float, height: float, gap: float) -> np.ndarray:
    """Lower left corners, relative to a dot, of boxes around it: right, left, above, below, then the corners."""
    # the corners of a box may come nearer to a round dot than its sides
    across = {"right": gap, "left": -gap - width, "middle": -width / 2}
    along = {"above": 0.6 * gap, "below": -0.6 * gap - height, "level": -height / 2}
    beside = [("right", "level"), ("left", "level"), ("middle", "above"), ("middle", "below")]
    corners = [(x, y) for x in ("right", "left") for y in ("above", "below")]
    return np.array([(across[x], along[y]) for x, y in beside + corners])


def _overlap(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Which boxes of a: (k, 4) overlap which of b: (l, 4) -> bool (k, l)."""
    return np.all((a[:, None, :2] < b[None, :, 2:]) & (a[:, None, 2:] > b[None, :, :2]), axis=-1)


def _within(boxes: np.ndarray, bounds: Any) -> np.ndarray:
    lowest, highest = np.array([bounds.x0, bounds.y0]), np.array([bounds.x1, bounds.y1])
    return np.all((boxes[:, :2] >= lowest) & (boxes[:, 2:] <= highest), axis=1)


def _xy(z: np.ndarray) -> np.ndarray:
    return np.stack([z.real, z.imag], -1)


def _short_names(names: Sequence[str], context: Sequence[str] | None = None) -> list[str]:
    """Names as a reader wants them: blanks for underscores, no ".n.01" where the rest is unique in `context`.

    >>> _short_names(["sea_lion.n.01", "canine.n.01", "canine.n.02"])
    ['sea lion', 'canine.n.01', 'canine.n.02']
    """
    uses = Counter(SYNSET.sub("", name) for name in (names if context is None else context))
    shown = []
    for name in names:
        base = SYNSET.sub("", name)
        text = " ".join((base if uses[base] <= 1 else name).replace("_", " ").split())
        shown.append(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
    return shown
