"""The charts of a report: the course of a training, relations side by side, radius against depth."""

import contextlib
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from geoembed.analysis import RadiusByDepth, RelationSummary
from geoembed.checkpoint import writing
from geoembed.drawing import DPI, GREY, INK, short_names
from geoembed.evaluation import RankingResult
from geoembed.files import atomic_write
from geoembed.plotting import PALETTE

__all__ = [
    "BARS",
    "LEVELS",
    "Epoch",
    "Hierarchy",
    "best",
    "draw_learning",
    "draw_radius",
    "draw_relations",
    "validations",
    "visible",
]

BARS = 30  # relations in the picture
LEVELS = 30  # depths in the picture and its table
TAILS, HEADS = PALETTE[4], PALETTE[1]
STYLE = {
    "font.size": 9,
    "axes.titlesize": 10,
    "axes.titlelocation": "left",
    "axes.labelcolor": INK,
    "axes.edgecolor": GREY,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#E4E2DC",
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": GREY,
    "ytick.color": GREY,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
}


class Epoch(NamedTuple):
    epoch: int
    loss: float
    seconds: float
    score: float | None


class Hierarchy(NamedTuple):
    """The main hierarchy of a graph. radius: float64 (n,), of all entities; depth: int64 (n,), -1 outside of it."""

    relation: str
    depth: Tensor
    radius: Tensor
    summary: RadiusByDepth


def validations(history: list[Epoch]) -> list[tuple[int, float]]:
    """The epochs after which there was a validation, and their MRR."""
    return [(record.epoch, record.score) for record in history if record.score is not None]


def best(scores: list[tuple[int, float]]) -> tuple[int, float]:
    """The first epoch with the best MRR, as training keeps its weights."""
    return max(scores, key=lambda pair: pair[1])


def visible(text: str) -> str:
    r"""Line ends, control characters and the like as escapes: "\n"."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


@contextlib.contextmanager
def _figure(path: Path, width: float, height: float) -> Iterator[Any]:
    """A figure in inches that becomes the file when the block ends without an error."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    buffer = io.BytesIO()
    with matplotlib.style.context(["default", STYLE]):
        figure = Figure(figsize=(width, height), dpi=DPI, layout="constrained")
        FigureCanvasAgg(figure)
        yield figure
        figure.savefig(buffer, format="png", dpi=DPI)
    with writing(path), atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


def draw_learning(history: list[Epoch], path: Path) -> None:
    from matplotlib.ticker import MaxNLocator

    scores = validations(history)
    with _figure(path, 6.4, 4.6 if scores else 2.6) as figure:
        axes = figure.subplots(2 if scores else 1, 1, sharex=True, squeeze=False)[:, 0]
        losses = [record.loss for record in history]
        mark = "o-" if len(history) <= 40 else "-"
        axes[0].plot([record.epoch for record in history], losses, mark, markersize=3.5, color=PALETTE[0])
        axes[0].set(title="Loss of a training item", ylim=(min(0, *losses), None))
        if scores:
            epoch, score = best(scores)
            axes[1].plot(*zip(*scores, strict=True), "o-", markersize=3.5, color=PALETTE[3])
            axes[1].plot(epoch, score, "o", markersize=7, color=PALETTE[3], markeredgecolor=INK)
            axes[1].set(title=f"Validation MRR, best {score:.4f} in epoch {epoch}", ylim=(0, 1.15 * score))
        axes[-1].set(xlabel="epoch")
        axes[-1].xaxis.set_major_locator(MaxNLocator(integer=True))


def draw_relations(table: list[RelationSummary], result: RankingResult, path: Path) -> None:
    """The relations with most queries, the most hierarchical one on top."""
    queries = result.relation.bincount(minlength=len(table))
    shown = [i for i in queries.argsort(descending=True, stable=True)[:BARS].tolist() if queries[i]]
    shown.sort(key=lambda i: (table[i].krackhardt, int(queries[i])))
    names = short_names([visible(table[i].relation) for i in shown], [visible(row.relation) for row in table])
    place = range(len(shown))
    with _figure(path, 8, 1.3 + 0.42 * len(shown)) as figure:
        figure.get_layout_engine().set(wspace=0.06)
        left, right = figure.subplots(1, 2, sharey=True, width_ratios=(1, 2.2))
        scores = [table[i].krackhardt for i in shown]
        left.hlines(place, 0, scores, color=GREY, linewidth=1.5)
        left.plot(scores, place, "o", color=GREY, markersize=6, clip_on=False)
        left.set(title="Krackhardt score", xlim=(0, 1), xticks=(0, 0.5, 1), ylim=(-0.6, len(shown) - 0.4))
        labels = [f"{name} ({queries[i]:,})" for name, i in zip(names, shown, strict=True)]
        left.set_yticks(place, labels, parse_math=False)
        left.set_ylabel("relation (queries)")
        for shift, head, colour, text in ((0.19, False, TAILS, "tail"), (-0.19, True, HEADS, "head")):
            where = [(result.relation == i) & (result.head_side == head) for i in shown]
            here = [k for k in place if bool(where[k].any())]
            errors = [result.standard_errors(where[k])["mrr"] for k in here]
            bars = right.barh(
                [k + shift for k in here],
                [result.metrics(where[k])["mrr"] for k in here],
                height=0.36,
                xerr=[0 if math.isnan(error) else error for error in errors],
                color=colour,
                error_kw={"ecolor": INK, "elinewidth": 0.9},
                label=f"{text} asked for",
            )
            right.bar_label(bars, fmt="%.3f", padding=3, fontsize=7, color=GREY)
        right.margins(x=0.12)
        right.set(title="MRR and its standard error", xlim=(0, None))
        for axes in (left, right):
            axes.grid(False, axis="y")
            axes.tick_params(axis="y", length=0, pad=8)
        figure.legend(*right.get_legend_handles_labels(), loc="outside lower right", ncols=2)


def draw_radius(found: Hierarchy, path: Path) -> None:
    """A box for each depth."""
    levels, counts = found.summary.depth[:LEVELS].tolist(), found.summary.count[:LEVELS].tolist()
    line = {"color": INK, "linewidth": 1}
    with _figure(path, max(5.5, 1.5 + 0.52 * len(levels)), 4.2) as figure:
        axes = figure.subplots()
        axes.boxplot(
            [found.radius[found.depth == level].numpy() for level in levels],
            positions=levels,
            widths=0.6,
            whis=(5, 95),
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": PALETTE[6], "edgecolor": INK, "linewidth": 1},
            medianprops=line | {"linewidth": 1.6},
            whiskerprops=line,
            capprops=line,
            meanprops={"marker": "D", "markersize": 5, "markerfacecolor": HEADS, "markeredgecolor": INK},
        )
        axes.set_xticks(levels, [f"{level}\n{count:,}" for level, count in zip(levels, counts, strict=True)])
        name = short_names([visible(found.relation)])[0]
        axes.set_xlabel(f"depth in {name}, and the number of nodes there", parse_math=False)
        axes.set_ylabel("distance from the origin")
        axes.grid(False, axis="x")
        axes.set_title("Box: quartiles and median, whiskers: 5 to 95 %, diamond: mean")
