"""A report of a run: what a paper or a lab notebook would say of it, as Markdown with pictures.

report/
    report.md       settings, results by side and by relation, geometry; says in a sentence what does not apply
    learning.png    loss and validation MRR against epochs
    relations.png   MRR of each relation beside its Krackhardt score
    radius.png      distance from the origin against depth in the main hierarchy
    disk.png        see `geoembed.plotting`

Every number is that of `evaluate`, `relation_table`, `graph_delta` or `radius_by_depth`, on all entities and paths
where the graph is of ordinary size, and on a seeded sample of a larger one, which the report then says. The same run
gives the same report.
"""

import dataclasses
import json
import math
import platform
import re
from collections.abc import Iterable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from geoembed import layout
from geoembed.analysis import (
    RelationSummary,
    depths,
    graph_delta,
    radius_by_depth,
    relation_table,
)
from geoembed.charts import (
    BARS,
    LEVELS,
    Epoch,
    Hierarchy,
    best,
    draw_learning,
    draw_radius,
    draw_relations,
    validations,
    visible,
)
from geoembed.checkpoint import writing
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.data.splits import SPLITS
from geoembed.errors import CheckpointError
from geoembed.evaluation import RankingResult, evaluate
from geoembed.files import atomic_write
from geoembed.jobs import COLUMNS
from geoembed.manifolds import Euclidean
from geoembed.models import GraphModel
from geoembed.plotting import plot_embedding
from geoembed.runs import Run

__all__ = ["report"]

SEED = 0  # of all samples
MOST_SCORES = 2 * 10**9  # an evaluation that takes more ranks a sample of the queries; WN18RR takes 2.6 * 10^8
FEWEST_QUERIES = 1000  # in that sample
MOST_ENTITIES = 50_000  # of a graph whose paths are counted from every entity
SOURCES = 1000  # where the paths of a larger graph start
NODES = 200  # among which delta is taken
MISSING = "-"
PICTURES = ("learning.png", "relations.png", "radius.png", "disk.png")
PACKAGES = ("geoembed", "torch", "geoopt", "numpy", "scipy", "matplotlib")


def report(run: Run, folder: Path | None = None, *, progress: bool = True) -> Path:
    """Write report.md and its pictures, and return the path of report.md. What an earlier report left is replaced.

    Args:
        run: a run that is trained to its end, with its data at hand.
        folder: where to; by default `report` in the folder of the run.
        progress: show the progress of the ranking, where standard error is a terminal.

    Raises:
        CheckpointError: the run is not trained to its end, metrics.jsonl is damaged, or a file cannot be written.
        DataError, UnknownNameError: the data is not found, or is not what the run was trained on.
    """
    folder = run.folder / "report" if folder is None else Path(folder)
    model, triples, history = run.model, run.triples, _read_history(run)
    sources = SOURCES if triples.n_entities > MOST_ENTITIES else None
    table = relation_table(triples, sources=sources, generator=_seeded())
    standard, papers = (_evaluate(run, triples, own, progress) for own in (False, True))
    found = _main_hierarchy(model, triples)
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    drawn = {"disk.png"}
    plot_embedding(model, triples, folder / "disk.png")
    if history:
        drawn.add("learning.png")
        draw_learning(history, folder / "learning.png")
    if standard is not None:
        drawn.add("relations.png")
        draw_relations(table, standard, folder / "relations.png")
    if found is not None:
        drawn.add("radius.png")
        draw_radius(found, folder / "radius.png")
    lines = [
        f"# {_escaped(triples.name)}: {_escaped(model.describe())}",
        *_about(run, triples, history),
        *_results(standard, papers),
        *_relations(table, standard, model.curvatures(), sources),
        *_geometry(run, triples, found),
    ]
    path = folder / "report.md"
    with writing(path), atomic_write(path) as file:
        file.write("\n\n".join(lines) + "\n")
    for name in set(PICTURES) - drawn:
        (folder / name).unlink(missing_ok=True)
    return path


# -------------------------------------------------------------------------------------------------------- what is found


def _seeded() -> torch.Generator:
    return torch.Generator().manual_seed(SEED)


def _read_history(run: Run) -> list[Epoch]:
    """The epochs that metrics.jsonl records; none where it is missing."""
    path = run.folder / "metrics.jsonl"
    if not path.exists():
        return []
    try:
        records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return [
            Epoch(int(r["epoch"]), float(r["loss"]), float(r["seconds"]), float(r["score"]) if "score" in r else None)
            for r in records
        ]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CheckpointError(
            f"{path} is damaged: {error!r}. Delete it to report without the course of the training."
        ) from error


def _evaluate(run: Run, triples: Triples, exclude_query_entity: bool, progress: bool) -> RankingResult | None:
    queries, most = 2 * len(triples.test), max(FEWEST_QUERIES, MOST_SCORES // triples.n_entities)
    if not queries:
        return None
    return evaluate(
        run.ranker,
        triples,
        exclude_query_entity=exclude_query_entity,
        sample=most if queries > most else None,
        generator=_seeded(),
        progress=progress,
    )


def _main_hierarchy(model: GraphModel, triples: Triples) -> Hierarchy | None:
    rows = torch.cat([triples[split] for split in SPLITS])
    relation = layout.main_hierarchy(rows.numpy(), triples.n_entities)
    if relation is None:
        return None
    child, _, parent = rows[rows[:, 1] == relation].unbind(1)
    if not layout.is_a_tree_of(child.numpy(), parent.numpy()):
        child, parent = parent, child
    depth, points = depths(child, parent, triples.n_entities), model.points()
    if not bool((depth >= 0).any()):
        return None  # below a cycle there may be a hierarchy, but no root
    summary = radius_by_depth(points, model.manifold, depth)
    with torch.no_grad():
        origin = model.manifold.origin(*points.shape[1:], dtype=points.dtype, device=points.device)
        radius = model.manifold.dist(points, origin).cpu().double()
    return Hierarchy(triples.relations[relation], depth, radius, summary)


def _sides(result: RankingResult) -> dict[str, Tensor]:
    """Which queries ask for what; a side without queries is left out."""
    sides = {"both": torch.ones_like(result.head_side), "tail": ~result.head_side, "head": result.head_side}
    return {side: where for side, where in sides.items() if bool(where.any())}


# ------------------------------------------------------------------------------------------------------------- the text


def _about(run: Run, triples: Triples, history: list[Epoch]) -> Iterator[str]:
    counts, config = triples.counts(), run.config
    yield "## Run"
    rows = [
        ("model", _escaped(run.model.describe())),
        ("parameters", f"{sum(p.numel() for p in run.model.parameters()):,}"),
        ("data", f"{_escaped(triples.name)}, fingerprint {triples.fingerprint()[:12]}"),
        ("entities", f"{counts['entities']:,}"),
        ("relations", f"{counts['relations']:,}"),
        ("triples", ", ".join(f"{counts[split]:,} {split}" for split in SPLITS)),
        ("seed", str(config.seed)),
    ]
    if history:
        last = history[-1]
        rows.append(("epochs", f"{last.epoch} of at most {config.epochs}"))
        rows.append(("training time", f"{last.seconds:,.0f} s, {last.seconds / last.epoch:.3g} s an epoch"))
        rows.append(("loss at the end", f"{last.loss:.4f}"))
        if scores := validations(history):
            epoch, score = best(scores)
            rows.append(("best validation MRR", f"{score:.4f}, in epoch {epoch}; its weights are kept"))
    packages = [f"{name} {version(name)}" for name in PACKAGES]
    rows.append(("report made with", ", ".join([*packages, f"Python {platform.python_version()}"])))
    yield _table(["", ""], rows)
    changed = [
        (f.name, _escaped(str(getattr(config, f.name))), _escaped(str(f.default)))
        for f in dataclasses.fields(TrainConfig)
        if getattr(config, f.name) != f.default
    ]
    if changed:
        yield "Settings that differ from the defaults:"
        yield _table(["setting", "value", "default"], changed)
    else:
        yield "All settings have their default."
    if history:
        yield f"![Loss{' and validation MRR' if scores else ''} against epochs](learning.png)"
        if not scores:
            yield "There was no validation."
    else:
        yield "No epoch is recorded in metrics.jsonl, so the course and the time of the training are not known."


def _results(standard: RankingResult | None, papers: RankingResult | None) -> Iterator[str]:
    yield "## Results"
    if standard is None or papers is None:
        yield "No triples are held out for a test, so nothing is evaluated."
        return
    for title, result in (("Standard protocol", standard), ("The papers' protocol", papers)):
        yield f"{title}: {_escaped(result.protocol)}."
        rows = []
        for side, where in _sides(result).items():
            metrics, errors = result.metrics(where), result.standard_errors(where)
            cells = (_with_error(key, metrics[key], errors.get(key)) for key in COLUMNS)
            rows.append([side, f"{int(where.sum()):,}", *cells])
        yield _table(["asked for", "queries", *COLUMNS.values()], rows)
    yield "± is one standard error of a mean over queries; AMRI is a ratio and has none."
    yield (
        f"{int(standard.unseen.sum()):,} of {len(standard.unseen):,} queries are about an entity that occurs in no "
        "training triple; they count like the others."
    )


def _relations(
    table: list[RelationSummary], result: RankingResult | None, curvatures: Tensor | None, sources: int | None
) -> Iterator[str]:
    yield "## Relations"
    columns = ["relation", "triples", "Krackhardt", "longest path", "mean path"]
    columns += ["heads per tail", "tails per head", "symmetric"]
    rows = [
        [
            _escaped(row.relation),
            f"{row.triples:,}",
            f"{row.krackhardt:.4f}",
            str(row.paths.longest),
            f"{row.paths.mean:.3f}",
            f"{row.heads_per_tail:.3f}",
            f"{row.tails_per_head:.3f}",
            f"{row.symmetric:.4f}",
        ]
        for row in table
    ]
    if result is not None:
        columns += ["queries", "MRR tail", "MRR head", "H@10 tail", "H@10 head"]
        for i, row in enumerate(rows):
            here = result.relation == i
            row.append(f"{int(here.sum()):,}")
            sides = [here & ~result.head_side, here & result.head_side]
            for key in ("mrr", "hits@10"):
                row += [f"{result.metrics(side)[key]:.4f}" if bool(side.any()) else MISSING for side in sides]
    if curvatures is not None and bool((curvatures != curvatures[0]).any()):
        columns += ["curvature tail", "curvature head"]
        for i, row in enumerate(rows):
            row += [f"{float(curvatures[j]):.4f}" for j in (i, i + len(table))]
    yield _table(columns, rows)
    yield (
        "Triples of all splits. Krackhardt: of the pairs that a path joins, the share without a path back; 1 is a "
        "hierarchy. Paths: shortest ones, directed. Symmetric: share of the triples whose reverse is there too. "
        "Tail, head: what is asked for."
    )
    if sources is not None:
        yield (
            f"Krackhardt scores and paths are estimated from {sources:,} entities of each relation, so the longest "
            "path is a lower bound."
        )
    if result is not None:
        yield "![MRR of each relation beside its Krackhardt score](relations.png)"
        if len(table) > BARS:
            yield f"The picture shows the {BARS} relations with most queries, or all that have any."


def _geometry(run: Run, triples: Triples, found: Hierarchy | None) -> Iterator[str]:
    yield "## Geometry"
    yield _curvature(run)
    delta = graph_delta(triples, NODES, generator=_seeded())
    yield (
        f"Gromov's delta of the graph, all relations taken both ways, is {delta.delta:g} with diameter "
        f"{delta.diameter:g}: 2 delta / diameter = {delta.relative:.4f}, where 0 is a tree. Both are of at most "
        f"{NODES} entities drawn from the largest component, so lower bounds where it has more."
    )
    if found is None:
        yield "No relation is most of a hierarchy with a root, so there is no depth to compare distances with."
    else:
        name, summary = _escaped(found.relation), found.summary
        yield (
            f"The main hierarchy is {name}. Spearman's correlation of the distance from the origin and the depth is "
            f"{_number(summary.spearman)} over {int(summary.count.sum()):,} entities; depth 0 is a root."
        )
        levels = zip(summary.depth.tolist(), summary.count.tolist(), summary.radius.tolist(), strict=True)
        rows = [[str(depth), f"{count:,}", f"{radius:.4f}"] for depth, count, radius in levels]
        yield _table(["depth", "entities", "mean distance"], rows[:LEVELS])
        if len(rows) > LEVELS:
            yield f"{len(rows) - LEVELS:,} further depths, up to {rows[-1][0]}, are left out."
        yield f"![Distance from the origin against depth in {name}](radius.png)"
    yield "![The entities on the Poincare disk](disk.png)"


def _curvature(run: Run) -> str:
    curvatures = run.model.curvatures()
    if curvatures is None:
        if isinstance(run.model.manifold, Euclidean):
            return "The model is flat, so it has no curvature."
        return f"The space is {_escaped(repr(run.model.manifold))}."
    low, high = float(curvatures.min()), float(curvatures.max())
    if low < high:
        return f"Each relation compares in a space of its own curvature, from {low:.4f} to {high:.4f}; see above."
    learnt = ", learnt" if run.config.learn_curvature else ""
    return f"The space has the curvature {low:.4f}{learnt}."


def _number(value: float, digits: int = 4) -> str:
    return MISSING if math.isnan(value) else f"{value:.{digits}f}"


def _with_error(metric: str, value: float, error: float | None) -> str:
    digits = 1 if metric == "mr" else 4
    return _number(value, digits) + ("" if error is None else f" ± {_number(error, digits)}")


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A Markdown table, the first column to the left and the rest, where there are many, to the right."""
    rules = ["---", *("---:" if len(columns) > 2 else "---" for _ in columns[1:])]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (columns, rules, *rows))


def _escaped(text: str) -> str:
    """Text that Markdown shows as it is, in a table too; an underscore within a word needs nothing."""
    return re.sub(r"[\\`*\[\]<>|&~$#]|(?<![^\W_])_|_(?![^\W_])", r"\\\g<0>", visible(text))
