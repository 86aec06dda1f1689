"""The main job from data to a run folder with results and a picture, as the command line runs it."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path

from geoembed.config import ON_A_MANIFOLD, TrainConfig
from geoembed.data import Split, Triples
from geoembed.evaluation import RankingResult, evaluate
from geoembed.graph_training import train_model
from geoembed.manifolds import Hyperbolic
from geoembed.models import MODELS, GraphModel
from geoembed.run_folder import next_folder
from geoembed.runs import Run, load_teachers, load_triples
from geoembed.training import Fitted

__all__ = ["evaluate_run", "plot_run", "table", "train"]

HYPERBOLIC_MODELS = ("roth", "refh", "atth", "hybonet")
COLUMNS = {"mrr": "MRR", "hits@1": "H@1", "hits@3": "H@3", "hits@10": "H@10", "mr": "MR", "amri": "AMRI"}


def train(
    config: TrainConfig,
    folder: Path | str | None = None,
    *,
    triples: Triples | None = None,
    baseline: bool = True,
    picture: bool = True,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> Run:
    """Train, evaluate and draw a model into a run folder; a folder with an unfinished run is gone on with.

    Args:
        config: the settings.
        folder: where to; by default the next free runs/DATA-MODEL-DIM.
        triples: the graph, if it is not the one that config.data names.
        baseline: beside MuRP, also train a Euclidean MuRE of the same size and settings for comparison.
        picture: draw disk.png.
        progress: show progress bars.
        say: receives the lines of the report.
    """
    triples = load_triples(config) if triples is None else triples
    trained = folder is not None and (Path(folder) / Run.weights).is_file()
    teachers = [] if trained else load_teachers(config, triples)  # before a folder is made that might bear their name
    folder = next_folder(f"{triples.name}-{config.model}-{config.dim}") if folder is None else Path(folder)
    run = Run.create(folder, config, triples)
    counts = triples.counts()
    say(
        f"{triples.name}: {counts['entities']:,} entities, {counts['relations']} relations, "
        f"{counts['train']:,} + {counts['valid']:,} + {counts['test']:,} triples (train, valid, test)"
    )
    say(f"run folder: {run.folder}")
    _train_into(run, triples, teachers, progress, say)
    rows = {_title(run): run}
    if baseline and config.model in ON_A_MANIFOLD and not config.teachers:
        other = Run.create(
            run.folder / "baseline", config.replace(model="mure", manifold="poincare", learn_curvature=False), triples
        )
        _train_into(other, triples, [], progress, say)
        rows[_title(other)] = other
    if len(triples.test):
        results = {name: evaluate_run(r, triples=triples, progress=progress) for name, r in rows.items()}
        say("\n" + table({name: result.metrics() for name, result in results.items()}))
        say(f"test split, {next(iter(results.values())).protocol}")
    else:
        say("\nno triples are held out for a test, so nothing is evaluated")
    if picture:
        say(f"\npicture:   {plot_run(run, triples=triples)}")
    say(f"neighbours: geoembed query {run.folder} {triples.entities[0]!r} -k 10")
    return run


def evaluate_run(
    run: Run,
    split: Split = "test",
    *,
    triples: Triples | None = None,
    exclude_query_entity: bool = False,
    progress: bool = True,
) -> RankingResult:
    """Rank a split with the model of a run; a test result is also written to results.json."""
    result = evaluate(
        run.ranker,
        run.triples if triples is None else triples,
        split,
        exclude_query_entity=exclude_query_entity,
        progress=progress,
    )
    report = {
        "split": split,
        "protocol": result.protocol,
        "queries": len(result.ranks),
        "queries_with_unseen_entities": int(result.unseen.sum()),
        "sides": result.by_side(),
        "relations": result.by_relation(),
    }
    suffix = ("" if split == "test" else f"-{split}") + ("-query-excluded" if exclude_query_entity else "")
    run.write_text(f"results{suffix}.json", json.dumps(report, indent=1))
    return result


def plot_run(run: Run, *, triples: Triples | None = None, path: Path | None = None, labels: int = 40) -> Path:
    """Draw the Poincare disk of a run into `path`, by default disk.png in its folder."""
    from geoembed.plotting import plot_embedding

    path = run.folder / "disk.png" if path is None else path
    plot_embedding(run.model, run.triples if triples is None else triples, path, labels=labels)
    return path


def table(rows: dict[str, dict[str, float]]) -> str:
    """Metrics as an aligned table, a row for each name."""
    width = max(map(len, rows))
    lines = [" " * width + "".join(f"{title:>9}" for title in COLUMNS.values())]
    for name, metrics in rows.items():
        cells = (f"{metrics[key]:9.1f}" if key == "mr" else f"{metrics[key]:9.4f}" for key in COLUMNS)
        lines.append(name.ljust(width) + "".join(cells))
    return "\n".join(lines)


def _train_into(
    run: Run, triples: Triples, teachers: Sequence[GraphModel], progress: bool, say: Callable[[str], None]
) -> None:
    if run.trained:
        return
    say(f"\n{_title(run)}, {run.config.epochs} epochs of {2 * len(triples.train):,} directed triples")
    model, fitted = train_model(
        run.config,
        triples,
        teachers=teachers,
        checkpoint=run.folder / "checkpoints",
        progress=progress,
        on_epoch=run.write_metrics,
    )
    run.save_model(model)
    say(_summary(fitted))


def _summary(fitted: Fitted) -> str:
    last = fitted.history[-1]
    text = f"{fitted.epochs} epochs in {last['seconds']:.0f} s, loss {last['loss']:.3f}"
    if fitted.best_score is not None:
        text += f", best validation MRR {fitted.best_score:.4f} in epoch {fitted.best_epoch}"
    return text


def _title(run: Run) -> str:
    config = run.config
    name = f"{MODELS[config.model].__name__} d={config.dim}"
    if config.model not in ON_A_MANIFOLD:
        return f"{name} ({'hyperbolic' if config.model in HYPERBOLIC_MODELS else 'Euclidean'})"
    if len(config.factors()) > 1:
        return f"{name} ({config.manifold})"
    curved = run.trained and config.learn_curvature and isinstance(run.model.manifold, Hyperbolic)
    c = run.model.manifold.c.item() if curved else config.curvature
    return f"{name} ({config.manifold}, c={c:.4g}{' learned' if config.learn_curvature else ''})"
