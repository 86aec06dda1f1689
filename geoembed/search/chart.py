"""The picture of a search: validation MRR against the trials and against each setting."""

import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from geoembed.checkpoint import writing
from geoembed.drawing import GREY, INK
from geoembed.files import atomic_write
from geoembed.search.trials import Trial, best_of

__all__ = ["draw", "short"]

BEST, FINISHED = "#CC6677", "#332288"


def short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def draw(
    trials: Sequence[Trial], importance: Mapping[str, float], searched: Mapping[str, Any], name: str, path: Path
) -> None:
    """A panel for the trials and one for each setting, all with the same axis of validation MRR."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = 1 + len(searched)
    columns = min(count, 3 if count in (3, 5, 6, 9) else 4)
    rows = math.ceil(count / columns)
    buffer = io.BytesIO()
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(4 * columns, 3.2 * rows + 0.9), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        order = sorted(searched, key=lambda key: -importance.get(key, 0.0))
        _panel(panels[0], trials, [float(trial.number) for trial in trials], "trial")
        for axes, key in zip(panels[1:], order, strict=False):
            share = f"  (importance {importance[key]:.0%})" if key in importance else ""
            entry, values = searched[key], [trial.settings[key] for trial in trials]
            if isinstance(entry, list):
                spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))  # so that equal ones are seen
                _panel(axes, trials, [entry.index(v) + s for v, s in zip(values, spread, strict=True)], key + share)
                axes.set_xticks(range(len(entry)), [short(value) for value in entry])
                axes.set_xlim(-0.5, len(entry) - 0.5)
            else:
                _panel(axes, trials, values, key + share)
                axes.set_xscale("log" if entry["log"] else "linear")
        for axes in panels[1 + len(order) :]:
            axes.remove()
        for axes in panels[::columns]:
            axes.set_ylabel("validation MRR")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(f"{name}: {len(trials)} trials, ranked by validation MRR alone")
        figure.savefig(buffer, format="png", dpi=150)
    with writing(path), atomic_write(path, "wb") as file:
        file.write(buffer.getvalue())


def _panel(axes: Any, trials: Sequence[Trial], x: list[float], title: str) -> None:
    """All trials against x; failed ones stand on the lower edge."""
    state = np.array([trial.state for trial in trials])
    score = np.array([np.nan if trial.score is None else trial.score for trial in trials])
    where = np.array(x, dtype=float)
    if title == "trial":
        so_far = np.maximum.accumulate(np.where(state == "finished", score, -np.inf))
        axes.step(
            where, np.where(so_far > -np.inf, so_far, np.nan), where="post", color=BEST, lw=1, label="best so far"
        )
    axes.scatter(
        where[state == "pruned"], score[state == "pruned"], 22, facecolors="none", edgecolors=GREY, label="pruned"
    )
    axes.scatter(
        where[state == "finished"], score[state == "finished"], 26, FINISHED, alpha=0.8, lw=0, label="finished"
    )
    if (state == "failed").any():
        failed = where[state == "failed"]
        edge = axes.get_xaxis_transform()
        axes.scatter(failed, np.full(len(failed), 0.02), 28, INK, marker="x", transform=edge, label="failed")
    if (best := best_of(trials)) is not None:
        at = trials.index(best)
        axes.scatter(where[at], score[at], 150, BEST, marker="*", edgecolors="white", lw=0.6, zorder=3, label="best")
    axes.set_title(title, fontsize=11, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
