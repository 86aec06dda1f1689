"""Draws a `Picture`: dots, geodesics, and as many names as fit, as a file of any format that matplotlib writes.

matplotlib is imported when something is drawn, and without pyplot: no window, no state that outlives the call.
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

from geoembed import layout
from geoembed.checkpoint import writing
from geoembed.errors import DataError
from geoembed.files import atomic_write

__all__ = ["Picture", "check_extension", "draw", "render", "short_names"]

StrPath = str | os.PathLike[str]

INK, GREY, DISK, RIM, GRID = "#2B2B2B", "#5A5A5A", "#FBFAF7", "#A8A49B", "#DCD0AE"
WIDTH, HEIGHT, DPI = 10.0, 10.75, 200
LARGEST, SMALLEST = 13.0, 7.5  # points of the names
LONGEST = 32  # characters of a name
SPREAD = 300  # pixels around a name within which others are less wanted
PAD = 5  # pixels between names
CLEAR = 25  # pixels between a name and a dot larger than its own
MARGIN = np.array([-1, -1, 1, 1])
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
    under: Sequence[np.ndarray] = ()  # curves of complex points, drawn thinly below everything


def check_extension(path: StrPath) -> str:
    """The format that the ending of a file name stands for."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg

    known = FigureCanvasAgg.get_supported_filetypes()
    ending = Path(path).suffix.lower().lstrip(".")
    if ending not in known:
        raise DataError(f"{path}: expected a file name that ends in one of .{', .'.join(sorted(known))}")
    return ending


def draw(picture: Picture, path: StrPath, labels: int) -> None:
    """Render a picture and write it to a file, whole or not at all."""
    import matplotlib.style

    ending = check_extension(path)
    undated: dict[str, dict[str, Any]] = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
    buffer = io.BytesIO()
    with matplotlib.style.context(["default", {"svg.hashsalt": "geoembed"}]):
        figure, _ = render(picture, labels)
        figure.savefig(buffer, format=ending, dpi=DPI, metadata=undated.get(ending))
    with writing(Path(path)), atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


def render(picture: Picture, labels: int) -> tuple[Any, list[Any]]:
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
    grid = [_xy(curve) for curve in picture.under]
    axes.add_collection(LineCollection(grid, colors=GRID, linewidths=0.7, zorder=0.5))
    start, end = picture.z[picture.edges].T
    curves = np.stack([start, end], 1) if picture.flat else layout.arcs(start, end, _steps(picture.z))
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


def _steps(z: np.ndarray) -> int:
    """Points of an arc: its longest ones are twice as long as the radius, and steps of 1/3 look smooth."""
    return int(np.clip(12 * np.arctanh(np.minimum(np.abs(z).max(initial=0), 1 - 1e-9)), 24, 120))


def _place_names(axes: Any, picture: Picture, curves: np.ndarray, radius: np.ndarray, labels: int) -> list[Any]:
    """Names in order of importance, each where it hides least; one that finds no free place is left out.

    radius: (n,) of the dots, in pixels. Names keep clear of the dots of the most important points, and of the
    surroundings of larger dots, whose names they would be taken for.
    """
    from matplotlib.colors import to_rgb
    from matplotlib.patheffects import withStroke

    names = short_names(picture.names, picture.context)
    to_pixels, to_data = axes.transData, axes.transData.inverted()
    at = to_pixels.transform(_xy(picture.z))
    ink = _Ink(to_pixels.transform(_xy(np.concatenate([curves.ravel(), np.repeat(picture.z, 4)]))), axes.bbox)
    main = np.argsort(-picture.importance, kind="stable")[: 2 * labels]
    dots = np.concatenate([at - radius[:, None], at + radius[:, None]], 1)
    taken = dots[main]
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
        larger = picture.size > picture.size[i]
        free = _within(boxes, axes.bbox) & ~_overlap(boxes + PAD * MARGIN, taken).any(1)
        free &= ~_overlap(boxes + CLEAR * MARGIN, dots[larger]).any(1)
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


def short_names(names: Sequence[str], context: Sequence[str] | None = None) -> list[str]:
    """Names as a reader wants them: blanks for underscores, no ".n.01" where the rest is unique in `context`.

    >>> short_names(["sea_lion.n.01", "canine.n.01", "canine.n.02"])
    ['sea lion', 'canine.n.01', 'canine.n.02']
    """
    uses = Counter(SYNSET.sub("", name) for name in (names if context is None else context))
    shown = []
    for name in names:
        base = SYNSET.sub("", name)
        text = " ".join((base if uses[base] <= 1 else name).replace("_", " ").split())
        shown.append(text if len(text) <= LONGEST else text[: LONGEST - 1] + "…")
    return shown
