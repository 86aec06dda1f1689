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
) -> dict[str, HierarchyResult]:
    """Reconstruction of all pairs and, where some were held out, their prediction.

    sample: so many nodes, drawn by the seed; results of all nodes are also written to results.json.
    """
    closure, held_out = run.divided()

    def options() -> dict[str, Any]:
        return {"sample": sample, "generator": torch.Generator().manual_seed(seed), "progress": progress}

    results = {"reconstruction": reconstruct(run.points, run.manifold, run.closure, **options())}
    if held_out is not None:
        results["prediction"] = predict_pairs(run.points, run.manifold, closure, held_out, **options())
    if sample is None:
        report = {
            name: {
                "protocol": result.protocol,
                "nodes": len(result.sources),
                "pairs": int(result.pairs.sum()),
                **result.metrics(),
            }
            for name, result in results.items()
        }
        run.write_text("results.json", json.dumps(report, indent=1))
    return results


def summary(results: dict[str, HierarchyResult]) -> str:
    """The results as a table, and what its columns mean."""
    lines = [f"{'':<14}{'MR':>9}{'MAP':>9}{'nodes':>9}{'pairs':>9}"]
    for name, result in results.items():
        metrics, errors = result.metrics(), result.standard_errors()
        sizes = f"{len(result.sources):>9,}{int(result.pairs.sum()):>9,}"
        lines.append(f"{name:<14}{metrics['mr']:>9.3f}{metrics['map']:>9.4f}{sizes}")
        if len(result.sources) < result.population:
            lines.append(f"{'  +-':<14}{errors['mr']:>9.3f}{errors['map']:>9.4f}")
    mr = results["reconstruction"].metrics()["mr"]
    lines += [
        "",
        f"MR: mean rank of an ancestor by distance, 1 is best; here {mr - 1:.2f} other nodes are nearer on average.",
        "MAP: mean average precision of a node's ancestors, 1 is best.",
        *(result.protocol for result in results.values()),
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
    run.save_points(result.points)
    fitted = result.fitted
    last = fitted.history[-1]
    say(
        f"{fitted.epochs} epochs in {last['seconds']:.0f} s, loss {last['loss']:.3f}, "
        f"best MAP {fitted.best_score:.4f} in epoch {fitted.best_epoch}"
    )


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
