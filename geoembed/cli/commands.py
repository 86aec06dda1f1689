"""What the commands do. Heavy imports wait until a command runs."""

import argparse
import sys
from collections.abc import Iterable, Mapping
from typing import Any

from geoembed import config
from geoembed.cli.training import threads

__all__ = ["classify", "data", "evaluate", "export", "plot", "query", "recipes", "report", "score", "search"]


def search(args: argparse.Namespace) -> None:
    space = config.read_toml(args.space)
    if args.data is not None:
        space["settings"] = {**space.get("settings", {}), "data": args.data}
    from geoembed import search

    options = {"trials": args.trials, "minutes": args.minutes, "seed": args.seed, "resume": args.resume}
    try:
        with threads(1):
            search.search(space, args.output, **options)
    except KeyboardInterrupt:
        print("\nstopped; finished trials are kept. Go on with the same command and --resume", file=sys.stderr)
        raise


def _graph_only(args: argparse.Namespace, **defaults: Any) -> None:
    """Refuse what a run of a hierarchy has not."""
    for name, default in defaults.items():
        if getattr(args, name) != default:
            shown = name.upper() if name in ("relation", "tail") else "--" + name.replace("_", "-")
            args.parser.error(f"{shown} is for runs of a graph; {args.folder} holds a hierarchy")


def evaluate(args: argparse.Namespace) -> None:
    from geoembed.hierarchy_runs import HierarchyRun, open_run

    run = open_run(args.folder)
    if isinstance(run, HierarchyRun):
        from geoembed import hierarchy_jobs

        _graph_only(args, split="test", per_relation=False, exclude_query_entity=False)
        print(hierarchy_jobs.summary(hierarchy_jobs.evaluate_run(run, sample=args.sample, seed=args.seed)))
        return
    from geoembed import jobs

    options = {"exclude_query_entity": args.exclude_query_entity, "progress": True}
    if args.sample is None:
        result = jobs.evaluate_run(run, args.split, **options)
        print(jobs.table(result.by_side()))
    else:
        from geoembed import evaluation

        drawn = {"sample": args.sample, "generator": _generator(args.seed)}
        result = evaluation.evaluate(run.ranker, run.triples, args.split, **options, **drawn)
        metrics = result.metrics()
        for name, error in result.standard_errors().items():
            print(f"{jobs.COLUMNS[name]:>4} {metrics[name]:9.4f} +- {error:.4f}")
    if args.per_relation:
        print("\n" + jobs.table(result.by_relation()))
    print(f"\n{args.split} split, {result.protocol}; {int(result.unseen.sum())} queries with unseen entities")


def classify(args: argparse.Namespace) -> None:
    from geoembed import classification
    from geoembed.runs import Run

    run = Run.open(args.folder)
    result = classification.classify(run.ranker, run.triples, split=args.split, generator=_generator(args.seed))
    for name, value in result.metrics().items():
        print(f"{name.replace('_', ' '):>17} {value:9.4f}")
    if args.per_relation:
        print("\n" + _table(result.by_relation()))
    print(f"\n{result.protocol}")


def _generator(seed: int) -> Any:
    import torch

    return torch.Generator().manual_seed(seed)


def _table(rows: Mapping[str, Mapping[str, float]]) -> str:
    """Numbers under their names, a row for each name."""
    titles = {title: max(9, len(title)) for title in next(iter(rows.values()))}
    first = max(map(len, rows))
    lines = [" " * first + "".join(f"  {title.replace('_', ' '):>{width}}" for title, width in titles.items())]
    for name, row in rows.items():
        form = {title: "d" if isinstance(row[title], int) else ".4f" for title in titles}
        cells = (f"  {row[title]:{width}{form[title]}}" for title, width in titles.items())
        lines.append(name.ljust(first) + "".join(cells))
    return "\n".join(lines)


def query(args: argparse.Namespace) -> None:
    from geoembed.hierarchy_runs import HierarchyRun, open_run

    if args.k < 1:
        args.parser.error(f"-k must be at least 1, got {args.k}")
    if args.to is not None and (args.relation is not None or args.inverse):
        args.parser.error("--to TAIL asks for the relations; drop RELATION and --inverse")
    if args.new and (args.tail is not None or (args.to is None and args.relation is None)):
        args.parser.error("--new goes with a question: ENTITY RELATION or ENTITY --to TAIL")
    run, name, relation = open_run(args.folder), args.entity, args.relation
    if isinstance(run, HierarchyRun):
        _graph_only(args, relation=None, tail=None, inverse=False, to=None, new=False)
        _print_answers(f" distance  nearest to {name}", run.neighbours(name, args.k))
        _print_answers(f"\n distance  nearest of those closer to the origin than {name}", run.ancestors(name, args.k))
        return
    if args.to is not None:
        answers = run.relations_between(name, args.to, args.k, exclude_known=args.new)
        title = f"  P(true)  {name} ? {args.to}"
    elif relation is None:
        answers = run.neighbours(name, args.k)
        title = f" distance  nearest to {name}"
    elif args.tail is None:
        answers = run.tails(name, relation, args.k, inverse=args.inverse, exclude_known=args.new)
        title = "  P(true)  " + (f"? {relation} {name}" if args.inverse else f"{name} {relation} ?")
    else:
        probability, rank = run.probability(name, relation, args.tail)
        print(f"P({name} {relation} {args.tail}) = {probability:.4f}, rank {rank:.10g} of {len(run.entities)}")
        return
    _print_answers(title, answers)


def _print_answers(title: str, answers: Iterable[Any]) -> None:
    print(title)
    for answer in answers:
        print(f"{answer.value:9.4f}  {answer.name}{f'  ({answer.known})' if answer.known else ''}")


def score(args: argparse.Namespace) -> None:
    from geoembed.data.formats import read_columns, write_rows
    from geoembed.runs import Run

    run = Run.open(args.folder)
    blocks = read_columns(args.file, ("head", "relation", "tail"))
    triples = [triple for block in blocks for triple in zip(*block, strict=True)]
    scored = run.score(triples, rank=True)
    rows = ([*found[:3], f"{found.probability:.9g}", f"{found.rank:.10g}"] for found in scored)
    if args.output is not None:
        write_rows(args.output, rows)
    else:
        for row in rows:
            print("\t".join(row))


def export(args: argparse.Namespace) -> None:
    from geoembed import export
    from geoembed.hierarchy_runs import open_run

    export.export(open_run(args.folder), args.output, args.format)
    print(args.output)


def plot(args: argparse.Namespace) -> None:
    from geoembed.hierarchy_runs import HierarchyRun, open_run

    run = open_run(args.folder)
    if isinstance(run, HierarchyRun):
        from geoembed import hierarchy_jobs

        for path in hierarchy_jobs.plot_run(run, path=args.output, labels=args.labels, tiling=args.tiling):
            print(path)
        return
    from geoembed import jobs

    if args.tiling is not None:
        args.parser.error(f"--tiling is for runs of a hierarchy; {args.folder} holds a graph")
    print(jobs.plot_run(run, path=args.output, labels=args.labels))


def report(args: argparse.Namespace) -> None:
    from geoembed import report
    from geoembed.runs import Run

    print(report.report(Run.open(args.folder), args.output))


def recipes(args: argparse.Namespace) -> None:
    for name, path in config.recipes().items():
        with open(path, encoding="utf-8") as file:
            print(f"{name}\n    {file.readline().lstrip('#').strip()}")


def data(args: argparse.Namespace) -> None:
    from geoembed.data import available

    for name, manifest in available().items():
        counts = ", ".join(f"{value:,} {key}" for key, value in manifest.counts.items())
        print(f"{name}\n    {manifest.title}\n    {counts}\n    licence: {manifest.licence[0]}")
