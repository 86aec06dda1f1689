"""What came of a comparison: a table with intervals, the verdicts in words, a picture.

A cell is the mean over the seeds, of which each is the mean over its folds, with a 95 % t-interval. A distance is
compared with the first one under the same loss by the paired differences of the seeds; p-values of all such comparisons
of the table are corrected by Holm's procedure, and where that leaves doubt the verdict is "no difference".
"""

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

from geoembed.errors import DataError
from geoembed.files import atomic_write
from geoembed.quality.intervals import Comparison, Interval, holm, interval
from geoembed.quality.intervals import compare as paired

__all__ = ["Table", "draw", "write"]


class Table:
    """Rows are losses and columns distances, in the order of the runs.

    Attributes:
        losses, distances: the names. cells: (loss, distance) -> `Interval`. seeds: how many, in words.
        comparisons: (loss, distance) -> `Comparison` of the distance with the first one, corrected.
        untrained: what the items give as they are, if that is known.
    """

    def __init__(self, runs: list[dict[str, Any]], metric: str = "map@r", untrained: list[float] | None = None):
        if not runs:
            raise DataError("there are no runs to make a table of")
        self.metric = metric
        self.untrained = None if untrained is None else interval(untrained)
        self.losses = list(dict.fromkeys(run["loss"] for run in runs))
        self.distances = list(dict.fromkeys(run["distance"] for run in runs))
        seeds = list(dict.fromkeys(run["seed"] for run in runs))
        self.seeds = f"{len(seeds)} seed{'s' * (len(seeds) > 1)}"
        values: dict[tuple[str, str], list[float]] = {}
        for loss in self.losses:
            for distance in self.distances:
                by_seed = []
                for seed in seeds:
                    found = [r[metric] for r in runs if (r["loss"], r["distance"], r["seed"]) == (loss, distance, seed)]
                    by_seed.append(sum(found) / len(found))
                values[loss, distance] = by_seed
        self.cells: dict[tuple[str, str], Interval] = {key: interval(by_seed) for key, by_seed in values.items()}
        self.comparisons: dict[tuple[str, str], Comparison] = {
            (loss, distance): paired(
                values[loss, distance], values[loss, self.distances[0]], names=(distance, self.distances[0])
            )
            for loss in self.losses
            for distance in self.distances[1:]
        }
        corrected = holm([comparison.p for comparison in self.comparisons.values()])
        for (key, comparison), p in zip(list(self.comparisons.items()), corrected, strict=True):
            self.comparisons[key] = replace(comparison, p=p)

    def markdown(self) -> str:
        """The table and the verdicts."""
        head = ["loss", *self.distances]
        rows = [[loss, *(self._cell(loss, distance) for distance in self.distances)] for loss in self.losses]
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines = [
            " | ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)) for row in [head, *rows]
        ]
        lines.insert(1, "-|-".join("-" * width for width in widths))
        table = "\n".join(f"| {line} |" for line in lines)
        parts = [table, self.explanation(), self.verdicts(), self.without_training()]
        return "\n\n".join(part for part in parts if part) + "\n"

    def explanation(self) -> str:
        return (
            f"{self.metric.upper()} of what was held out; mean of {self.seeds} and 95 % interval. "
            f"Compared with {self.distances[0]}, seed by seed, p-values corrected by Holm:"
        )

    def verdicts(self) -> str:
        """A line a loss: which distances differ from the first, and which do not."""
        lines = []
        for loss in self.losses:
            same, other = [], []
            for distance in self.distances[1:]:
                found = self.comparisons[loss, distance]
                if found.verdict == "no difference":
                    same.append(distance)
                else:
                    word = "better" if found.difference.mean > 0 else "worse"
                    other.append(f"{distance} is {word} by {abs(found.difference.mean):.3f} (p = {found.p:.2g})")
            if same:
                other.append(f"no difference for {', '.join(same)}")
            lines.append(f"- {loss}: {'; '.join(other) or 'nothing to compare'}.")
        return "\n".join(lines)

    def without_training(self) -> str:
        """How the items as they are compare with the best of the table."""
        if self.untrained is None:
            return ""
        best = max(self.cells, key=lambda key: self.cells[key].mean)
        word = "more" if self.untrained.mean > self.cells[best].mean else "less"
        return (
            f"Without training, the items themselves under the Euclidean distance: {_shown(self.untrained)}, {word} "
            f"than the best mean of the table, {self.cells[best].mean:.3f} ({best[0]} with {best[1]})."
        )

    def tsv(self) -> str:
        lines = ["loss\tdistance\tmean\thalf_width\tseeds\tdifference\tp\tverdict"]
        for (loss, distance), cell in self.cells.items():
            found = self.comparisons.get((loss, distance))
            rest = ["", "", ""] if found is None else [f"{found.difference.mean:.6f}", f"{found.p:.4g}", found.verdict]
            values = [loss, distance, f"{cell.mean:.6f}", f"{cell.half_width:.6f}", str(cell.n), *rest]
            lines.append("\t".join(values))
        return "\n".join(lines) + "\n"

    def _cell(self, loss: str, distance: str) -> str:
        return _shown(self.cells[loss, distance])


def _shown(cell: Interval) -> str:
    return f"{cell.mean:.3f} ± {cell.half_width:.3f}" if cell.n > 1 else f"{cell.mean:.3f}"


def write(table: Table, folder: Path) -> None:
    """table.md, table.tsv and table.png."""
    for name, text in (("table.md", table.markdown()), ("table.tsv", table.tsv())):
        with atomic_write(folder / name) as file:
            file.write(text)
    draw(table, folder / "table.png")


def draw(table: Table, path: Path) -> None:
    """Means with their intervals, losses from top to bottom, a colour a distance."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    from geoembed.drawing import DPI, GREY, INK
    from geoembed.plotting import PALETTE

    rows = len(table.losses)
    figure = Figure(figsize=(7.5, 1.2 + rows * (0.3 + 0.16 * len(table.distances))), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    spread = 0.7 / max(1, len(table.distances) - 1)
    for j, distance in enumerate(table.distances):
        heights = [i + (j * spread - 0.35 if len(table.distances) > 1 else 0) for i in range(rows)]
        cells = [table.cells[loss, distance] for loss in table.losses]
        errors = [cell.half_width if cell.n > 1 else 0.0 for cell in cells]
        axes.errorbar(
            [cell.mean for cell in cells], heights, xerr=errors, fmt="o", markersize=5, capsize=2.5, linewidth=1.4,
            color=PALETTE[j % len(PALETTE)], label=distance,
        )  # fmt: skip
    if table.untrained is not None:
        axes.axvline(table.untrained.mean, color=INK, linewidth=1, linestyle=":", label="without training")
    for i in range(rows - 1):
        axes.axhline(i + 0.5, color=GREY, linewidth=0.5, alpha=0.5)
    axes.set_yticks(range(rows), table.losses, color=INK)
    axes.set_ylim(rows - 0.5, -0.5)
    axes.set_xlabel(f"{table.metric.upper()} of what was held out, mean and 95 % interval of {table.seeds}", color=INK)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.legend(frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=DPI, format="png")
    with atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())
