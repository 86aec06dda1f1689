"""The command line: train, evaluate, query, plot, data. Heavy imports wait until a command runs."""

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

from geoembed.config import TrainConfig, read_toml
from geoembed.errors import GeoEmbedError, UnknownNameError

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; 0 is success, 1 an error that the user can mend, 130 an interruption."""
    parser = _parser()
    args, rest = parser.parse_known_args(argv)
    try:
        if rest:
            _unknown(args, rest)
        with warnings.catch_warnings():
            warnings.showwarning = _show_warning
            args.run(args)
    except GeoEmbedError as error:
        print(f"geoembed: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ngeoembed: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:  # the reader of a pipe has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="geoembed", description="Geometric embeddings: hyperbolic spaces, distances, graph embedding."
    )
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    train = _command(commands, "train", _train, "embed a graph of triples, evaluate it, draw it")
    train.add_argument("data", nargs="?", help="a shipped set, a folder with train/valid/test files, or one TSV file")
    train.add_argument("-o", "--output", type=Path, metavar="RUN", help="run folder; by default the next free in runs/")
    train.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file; flags override it")
    train.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped")
    train.add_argument("--no-baseline", action="store_true", help="skip the Euclidean MuRE of the same size")
    train.add_argument("--no-picture", action="store_true", help="skip disk.png")
    train.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1; batches are too small to share)"
    )
    settings = train.add_argument_group("settings")
    for field in dataclasses.fields(TrainConfig):
        if field.name != "data":
            _add_setting(settings, field)

    evaluate = _command(commands, "evaluate", _evaluate, "rank a split with a trained run")
    evaluate.add_argument("folder", type=Path, metavar="RUN")
    evaluate.add_argument("--split", default="test", choices=("train", "valid", "test"))
    evaluate.add_argument("--per-relation", action="store_true", help="also a table of the relations")
    evaluate.add_argument(
        "--exclude-query-entity", action="store_true", help="the papers' protocol: drop the query's entity"
    )

    query = _command(commands, "query", _query, "nearest entities, answers to a triple, or the probability of one")
    query.add_argument("folder", type=Path, metavar="RUN")
    query.add_argument("entity")
    query.add_argument("relation", nargs="?", help="answer (ENTITY, RELATION, ?)")
    query.add_argument("tail", nargs="?", help="probability and rank of (ENTITY, RELATION, TAIL)")
    query.add_argument("--inverse", action="store_true", help="answer (?, RELATION, ENTITY)")
    query.add_argument("-k", type=int, default=10, help="number of answers")

    plot = _command(commands, "plot", _plot, "draw the Poincare disk of a run")
    plot.add_argument("folder", type=Path, metavar="RUN")
    plot.add_argument("-o", "--output", type=Path, metavar="FILE", help="PNG, SVG or PDF; by default RUN/disk.png")
    plot.add_argument("--labels", type=int, default=40, help="at most so many names")

    _command(commands, "data", _data, "list the data sets that can be found by name")
    return parser


def _command(commands, name: str, run, text: str) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    parser.set_defaults(run=run, parser=parser)
    return parser


def _add_setting(group, field: dataclasses.Field) -> None:
    flag, default, choices = "--" + field.name.replace("_", "-"), field.default, field.metadata["choices"]
    text = f"{field.metadata['help']} (default: {default})"
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        kind = type(default)
        group.add_argument(
            flag, type=kind, metavar=kind.__name__.upper() if not choices else None, choices=choices, help=text
        )


def _unknown(args: argparse.Namespace, rest: list[str]) -> None:
    """Report a flag that the command does not have, with the closest one it has."""
    flags = [flag for action in args.parser._actions for flag in action.option_strings if flag.startswith("--")]
    bad = next((word for word in rest if word.startswith("-")), rest[0])
    if bad.startswith("--"):
        raise UnknownNameError("option", bad.split("=")[0], flags)
    raise UnknownNameError("argument", bad, flags)


def _train(args: argparse.Namespace) -> None:
    if args.resume is not None:
        from geoembed.runs import Run

        config, folder = Run.open(args.resume).config, args.resume
        _refuse_settings(args)
    else:
        values = read_toml(args.config) if args.config else {}
        names = [field.name for field in dataclasses.fields(TrainConfig)]
        values |= {name: getattr(args, name) for name in names if getattr(args, name) is not None}
        config, folder = TrainConfig.from_mapping(values), args.output
        if os.path.exists(config.data) and os.sep in config.data:
            config = config.replace(data=os.path.abspath(config.data))
    from geoembed import jobs

    if args.threads < 1:
        args.parser.error(f"--threads must be at least 1, got {args.threads}")
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(args.threads)
    try:
        jobs.train(config, folder, baseline=not args.no_baseline, picture=not args.no_picture)
    except KeyboardInterrupt:
        where = folder or "the run folder above"
        print(f"\nstopped and saved. Go on with: geoembed train --resume {where}", file=sys.stderr)
        raise
    finally:
        torch.set_num_threads(before)


def _refuse_settings(args: argparse.Namespace) -> None:
    given = [f.name for f in dataclasses.fields(TrainConfig) if getattr(args, f.name) is not None]
    if given or args.config or args.output:
        args.parser.error(f"--resume takes its settings from the run; drop {', '.join(given) or '--config and -o'}")


def _evaluate(args: argparse.Namespace) -> None:
    from geoembed import jobs
    from geoembed.runs import Run

    result = jobs.evaluate_run(
        Run.open(args.folder), args.split, exclude_query_entity=args.exclude_query_entity, progress=True
    )
    print(jobs.table(result.by_side()))
    if args.per_relation:
        print("\n" + jobs.table(result.by_relation()))
    print(f"\n{args.split} split, {result.protocol}; {int(result.unseen.sum())} queries with unseen entities")


def _query(args: argparse.Namespace) -> None:
    from geoembed.runs import Run

    if args.k < 1:
        args.parser.error(f"-k must be at least 1, got {args.k}")
    run = Run.open(args.folder)
    if args.relation is None:
        answers = run.neighbours(args.entity, args.k)
        print(f"{'distance':>9}  nearest to {args.entity}")
        for answer in answers:
            print(f"{answer.value:9.4f}  {answer.name}")
    elif args.tail is None:
        asked = f"? {args.relation} {args.entity}" if args.inverse else f"{args.entity} {args.relation} ?"
        answers = run.tails(args.entity, args.relation, args.k, inverse=args.inverse)
        print(f"{'P(true)':>9}  {asked}")
        for answer in answers:
            print(f"{answer.value:9.4f}  {answer.name}{f'  ({answer.known})' if answer.known else ''}")
    else:
        probability, rank = run.probability(args.entity, args.relation, args.tail)
        print(f"P({args.entity} {args.relation} {args.tail}) = {probability:.4f}, rank {rank} of {len(run.entities)}")


def _plot(args: argparse.Namespace) -> None:
    from geoembed import jobs
    from geoembed.runs import Run

    print(jobs.plot_run(Run.open(args.folder), path=args.output, labels=args.labels))


def _data(args: argparse.Namespace) -> None:
    from geoembed.data import available

    for name, manifest in available().items():
        counts = ", ".join(f"{value:,} {key}" for key, value in manifest.counts.items())
        print(f"{name}\n    {manifest.title}\n    {counts}\n    licence: {manifest.licence[0]}")


def _show_warning(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"geoembed: {category.__name__}: {message}", file=sys.stderr)
