"""What the commands do. Heavy imports wait until a command runs."""

import argparse
import contextlib
import dataclasses
import os
import sys
from collections.abc import Iterator, Mapping
from typing import Any

from geoembed import config
from geoembed.config import TrainConfig
from geoembed.errors import UnknownNameError

__all__ = ["classify", "data", "evaluate", "export", "plot", "query", "recipes", "report", "score", "search", "train"]


def train(args: argparse.Namespace) -> None:
    if args.threads < 1:
        args.parser.error(f"--threads must be at least 1, got {args.threads}")
    if args.resume is not None:
        from geoembed.runs import Run

        _refuse_settings(args)
        settings, folder = Run.open(args.resume).config, args.resume
    else:
        settings, folder = _settings(args), args.output
    from geoembed import jobs

    try:
        with _threads(args.threads):
            jobs.train(settings, folder, baseline=not args.no_baseline, picture=not args.no_picture)
    except KeyboardInterrupt:
        where = folder or "the run folder above"
        print(f"\nstopped and saved. Go on with: geoembed train --resume {where}", file=sys.stderr)
        raise


def search(args: argparse.Namespace) -> None:
    space = config.read_toml(args.space)
    if args.data is not None:
        space["settings"] = {**space.get("settings", {}), "data": args.data}
    from geoembed import search

    options = {"trials": args.trials, "minutes": args.minutes, "seed": args.seed, "resume": args.resume}
    try:
        with _threads(1):
            search.search(space, args.output, **options)
    except KeyboardInterrupt:
        print("\nstopped; finished trials are kept. Go on with the same command and --resume", file=sys.stderr)
        raise


@contextlib.contextmanager
def _threads(n: int) -> Iterator[None]:
    """So many CPU threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(args: argparse.Namespace) -> TrainConfig:
    """Those of the recipe or the file, with those of the flags over them."""
    values: dict[str, Any] = {}
    if args.recipe is not None:
        known = config.recipes()
        if args.recipe not in known:
            raise UnknownNameError("recipe", args.recipe, known)
        values = config.read_toml(known[args.recipe])
    elif args.config is not None:
        values = config.read_toml(args.config)
    settings = TrainConfig.from_mapping(values | _given(args))
    if os.path.exists(settings.data) and os.sep in settings.data:
        return settings.replace(data=os.path.abspath(settings.data))
    return settings


def _given(args: argparse.Namespace) -> dict[str, Any]:
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    return {name: getattr(args, name) for name in names if getattr(args, name) is not None}


def _refuse_settings(args: argparse.Namespace) -> None:
    given = _given(args)
    if given or args.output:
        args.parser.error(f"--resume takes its settings from the run; drop {', '.join(given) or '-o'}")


def evaluate(args: argparse.Namespace) -> None:
    from geoembed import jobs
    from geoembed.runs import Run

    run, options = Run.open(args.folder), {"exclude_query_entity": args.exclude_query_entity, "progress": True}
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
    from geoembed.runs import Run

    if args.k < 1:
        args.parser.error(f"-k must be at least 1, got {args.k}")
    if args.to is not None and (args.relation is not None or args.inverse):
        args.parser.error("--to TAIL asks for the relations; drop RELATION and --inverse")
    if args.new and (args.tail is not None or (args.to is None and args.relation is None)):
        args.parser.error("--new goes with a question: ENTITY RELATION or ENTITY --to TAIL")
    run, name, relation = Run.open(args.folder), args.entity, args.relation
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
    from geoembed.runs import Run

    export.export(Run.open(args.folder), args.output, args.format)
    print(args.output)


def plot(args: argparse.Namespace) -> None:
    from geoembed import jobs
    from geoembed.runs import Run

    print(jobs.plot_run(Run.open(args.folder), path=args.output, labels=args.labels))


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
