"""The job from a hierarchy to a run folder with results and pictures, as the command line runs it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import geoopt
import torch
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components
from torch import Tensor

from geoembed.config import HierarchyConfig
from geoembed.data import Closure
from geoembed.entailment import Entailment, classify_pairs, train_cones
from geoembed.hierarchy import train_hierarchy
from geoembed.hierarchy_runs import HierarchyRun, closed, load_closure
from geoembed.reconstruction import HierarchyResult, predict_pairs, reconstruct
from geoembed.run_folder import next_folder

__all__ = ["evaluate_run", "plot_run", "summary", "train"]


def train(
    config: HierarchyConfig,
    folder: Path | str | None = None,
    *,
    closure: Closure | None = None,
    picture: bool = True,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> HierarchyRun:
    """Embed, evaluate and draw a hierarchy into a run folder; a folder with an unfinished run is gone on with.

    Args:
        config: the settings.
        folder: where to; by default the next free runs/DATA-MANIFOLD-DIM.
        closure: the hierarchy, if it is not the one that config.data names.
        picture: draw disk.png and radius-depth.png.
        progress: show progress bars.
        say: receives the lines of the report.
    """
    closure = load_closure(config) if closure is None else closed(closure)
    folder = next_folder(f"{closure.name}-{config.manifold}-{config.dim}") if folder is None else Path(folder)
    run = HierarchyRun.create(folder, config, closure)
    say(_about(closure))
    say(f"run folder: {run.folder}")
    if not run.trained:
        _train_into(run, progress, say)
    say("\n" + summary(evaluate_run(run, progress=progress)))
    if picture:
        say("\npictures:   " + ", ".join(map(str, plot_run(run))))
    say(f"neighbours: geoembed query {run.folder} {run.nodes[0]!r} -k 10")
    return run


def evaluate_run(
    run: HierarchyRun, *, sample: int | None = None, seed: int = 0, progress: bool = True
) -> dict[str, HierarchyResult | Entailment]:
    """How well the ranking tells ancestors, and how well pairs are told by `distances` and, if trained, by `cones`.

    Reconstruction of all pairs and, where some were held out, their prediction. Those held out are told from corrupted
    ones; without any, cones are measured on the pairs that they were trained on.

    sample: so many nodes, drawn by the seed; results of all nodes are also written to results.json.
    """
    closure, held_out = run.divided()

    def options() -> dict[str, Any]:
        return {"sample": sample, "generator": torch.Generator().manual_seed(seed), "progress": progress}

    results: dict[str, HierarchyResult | Entailment] = {
        "reconstruction": reconstruct(run.ranked, run.manifold, run.closure, **options())
    }
    if held_out is not None:
        results["prediction"] = predict_pairs(run.ranked, run.manifold, closure, held_out, **options())
    has_cones = run.config.loss == "cones"
    told = closure.pairs if held_out is None else held_out
    if len(told) > 1 and (has_cones or held_out is not None):
        widths = {"cones": run.config.cone_width, "distances": None} if has_cones else {"distances": None}
        for name, width in widths.items():
            points, drawn = run.points if name == "cones" else run.ranked, torch.Generator().manual_seed(seed)
            results[name] = classify_pairs(points, run.manifold, run.closure, told, width=width, generator=drawn)
            results[name].protocol += ", trained on" if held_out is None else ", held out"
    if sample is None:
        report = {
            name: {"protocol": result.protocol, **result.counts(), **result.metrics()}
            for name, result in results.items()
        }
        run.write_text("results.json", json.dumps(report, indent=1))
    return results


def summary(results: dict[str, HierarchyResult | Entailment]) -> str:
    """The results as tables, and what their columns mean."""
    lines = [f"{'':<14}{'MR':>9}{'MAP':>9}{'nodes':>9}{'pairs':>9}"]
    ranked = {name: result for name, result in results.items() if isinstance(result, HierarchyResult)}
    for name, result in ranked.items():
        metrics, errors = result.metrics(), result.standard_errors()
        lines.append(
            f"{name:<14}{metrics['mr']:>9.3f}{metrics['map']:>9.4f}"
            + "".join(f"{n:>9,}" for n in result.counts().values())
        )
        if len(result.sources) < result.population:
            lines.append(f"{'  +-':<14}{errors['mr']:>9.3f}{errors['map']:>9.4f}")
    mr = ranked["reconstruction"].metrics()["mr"]
    lines += [
        "",
        f"MR: mean rank of an ancestor by distance, 1 is best; here {mr - 1:.2f} other nodes are nearer on average.",
        "MAP: mean average precision of a node's ancestors, 1 is best.",
        *(result.protocol for result in ranked.values()),
    ]
    told = {name: result for name, result in results.items() if isinstance(result, Entailment)}
    if told:
        lines += ["", f"{'told by':<14}{'F1':>9}{'precision':>11}{'recall':>9}{'pairs':>9}{'of them true':>14}"]
        for name, pairs in told.items():
            metrics, counts = pairs.metrics(), pairs.counts()
            text = f"{name:<14}{metrics['f1']:>9.4f}{metrics['precision']:>11.4f}{metrics['recall']:>9.4f}"
            lines.append(text + f"{counts['pairs']:>9,}{counts['true']:>14,}")
        lines += [
            "",
            "Precision: share of the pairs held for true that are; recall: share of the true pairs held for true; F1: "
            "their harmonic mean.",
            *(result.protocol for result in told.values()),
        ]
    return "\n".join(lines)


def plot_run(run: HierarchyRun, *, path: Path | None = None, labels: int = 40, tiling: str | None = None) -> list[Path]:
    """Draw the disk of a run into `path`; without one disk.png and radius-depth.png in its folder. Returns the paths.

    labels, tiling: see `plot_hierarchy`.
    """
    from geoembed.charts import draw_radius
    from geoembed.hierarchy_picture import plot_hierarchy, radii

    disk = run.folder / "disk.png" if path is None else path
    plot_hierarchy(run.points, run.manifold, run.closure, disk, labels=labels, tiling=tiling)
    if path is not None:
        return [disk]
    chart = run.folder / "radius-depth.png"
    draw_radius(radii(run.points, run.manifold, run.closure), chart)
    return [disk, chart]


def _train_into(run: HierarchyRun, progress: bool, say: Callable[[str], None]) -> None:
    closure, held_out = run.divided()
    config = run.config
    text = f"\n{run.manifold!r} d={config.dim}, {config.epochs} epochs of {len(closure.pairs):,} pairs"
    say(text + (f", {len(held_out):,} held out" if held_out is not None else ""))
    measured: dict[str, float] = {}

    def validate(points: Tensor, manifold: geoopt.Manifold) -> float:
        drawn = torch.Generator().manual_seed(0)  # the same nodes each time
        found = reconstruct(points, manifold, closure, sample=config.validate_nodes, generator=drawn)
        measured.update(found.metrics())
        return measured["map"]

    def on_epoch(history: list[dict[str, float]]) -> None:
        if "score" in (record := history[-1]):
            del record["score"]
            record |= measured
            run.write_metrics(history)  # not each time: epochs are short, and it waits for the disk

    result = train_hierarchy(
        closure, config, run.folder / "checkpoints", validate=validate, progress=progress, on_epoch=on_epoch
    )
    fitted = result.fitted
    if fitted.epochs:
        last = fitted.history[-1]
        say(
            f"{fitted.epochs} epochs in {last['seconds']:.0f} s, loss {last['loss']:.3f}, "
            f"best MAP {fitted.best_score:.4f} in epoch {fitted.best_epoch}"
        )
    if config.loss == "ranking":
        run.save_points(result.points)
        return
    # A folder of its own: one holds the checkpoints of one training
    inside = train_cones(result, config, run.folder / "checkpoints-cones", progress=progress)
    more = [record | {"epoch": fitted.epochs + record["epoch"]} for record in inside.fitted.history]
    run.write_metrics([*fitted.history, *more])
    run.save_points(inside.points, ranked=result.points)
    say(f"{len(more)} epochs of cones in {more[-1]['seconds']:.0f} s, loss {more[-1]['loss']:.3f}")


def _about(closure: Closure) -> str:
    """What the hierarchy is like, its parts included."""
    child, ancestor = closure.pairs.numpy().T
    n = closure.n_nodes
    pairs = csr_array((child >= 0, (child, ancestor)), shape=(n, n))
    parts = connected_components(pairs, directed=False, return_labels=False)
    roots = [i for i, depth in enumerate(closure.depths().tolist()) if not depth]
    shown = ", ".join(closure.nodes[i] for i in roots[:5]) + (", ..." if len(roots) > 5 else "")
    text = f"{closure.name}: {n:,} nodes, {len(child):,} pairs (node, ancestor), "
    text += f"{len(roots):,} {'root' if len(roots) == 1 else 'roots'} ({shown})"
    if parts > 1:
        text += f"\n{parts} parts with nothing in common; the distances between them mean nothing"
    return text
