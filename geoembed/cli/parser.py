"""What the commands take."""

import argparse
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from geoembed.cli import commands, comparison, compression, distances, training
from geoembed.compare.settings import CompareConfig
from geoembed.config import TASKS

__all__ = ["build_parser", "named_task"]


def named_task(argv: Sequence[str] | None) -> str | None:
    """The task that --task names, wherever it stands among the words: the flags of `train` depend on it."""
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    parser.add_argument("--task", nargs="?")
    task = parser.parse_known_args(argv)[0].task
    return task if task in TASKS else None


def build_parser(task: str | None = None) -> argparse.ArgumentParser:
    """The parser of `geoembed`; the arguments that it returns hold the command as `run`.

    task: only its settings are flags of `train`. Without one those of all tasks are, as the data may decide on the
    task, but help shows those of a graph.
    """
    parser = argparse.ArgumentParser(
        prog="geoembed", description="Geometric embeddings: hyperbolic spaces, distances, graphs, metric learning."
    )
    group = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Callable[[argparse.Namespace], None], text: str) -> argparse.ArgumentParser:
        new = group.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
        new.set_defaults(run=run, parser=new)
        return new

    _train(command("train", training.train, "embed a graph of triples or a hierarchy, evaluate it, draw it"), task)
    _evaluate(command("evaluate", commands.evaluate, "rank a split with a trained run"))
    _classify(command("classify", commands.classify, "tell the triples of a split from false ones with a trained run"))
    _query(command("query", commands.query, "what is nearest, answers to a question, or the probability of a triple"))
    _score(command("score", commands.score, "probabilities of the triples in a file, and ranks of their tails"))
    _export(command("export", commands.export, "write the embedding of a run for another program"))
    _compress(command("compress", compression.compress, "a small file of the points of a run, and what it costs"))
    _restore(command("restore", compression.restore, "the points of such a file, as a table or arrays"))
    _plot(command("plot", commands.plot, "draw the Poincare disk of a run"))
    _report(command("report", commands.report, "write what a paper would say of a run: tables and pictures"))
    _search(command("search", commands.search, "look for the settings with the best validation MRR"))
    _distance(command("distance", distances.distance, "the distance between two point sets"))
    _pairwise(command("pairwise", distances.pairwise, "the matrix of distances between many point sets"))
    _compare(
        command(
            "compare", comparison.compare, "losses times distances on one recipe, to see whether another distance helps"
        )
    )
    command("recipes", commands.recipes, "list the settings that come with the package")
    command("data", commands.data, "list the data sets that can be found by name")
    return parser


def _train(parser: argparse.ArgumentParser, task: str | None) -> None:
    parser.add_argument(
        "data",
        nargs="?",
        help="a shipped set, a folder with train/valid/test files, or one file; of triples, or pairs child<TAB>parent",
    )
    parser.add_argument(
        "--task", choices=tuple(TASKS), help="by default that of the data: graph for triples, hierarchy for pairs"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="RUN", help="run folder; by default the next free in runs/"
    )
    start = parser.add_mutually_exclusive_group()
    start.add_argument("--recipe", metavar="NAME", help="settings that come with the package; flags override them")
    start.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file; flags override it")
    start.add_argument("--resume", type=Path, metavar="RUN", help="go on with a run that was stopped")
    if task != "hierarchy":
        parser.add_argument("--no-baseline", action="store_true", help="skip the Euclidean MuRE of the same size")
    parser.add_argument("--no-picture", action="store_true", help="skip the pictures")
    parser.add_argument(
        "--threads", type=int, default=1, metavar="N", help="CPU threads (default: 1; batches are too small to share)"
    )
    shown = TASKS[task or "graph"].fields()
    title = (
        f"settings of a {task}" if task else "settings of a graph (for those of a hierarchy: --task hierarchy --help)"
    )
    settings = parser.add_argument_group(title)
    for name, field in shown.items():
        if name != "data":
            _add_setting(settings, field, checked=task is not None)
    if task is None:
        for name, field in TASKS["hierarchy"].fields().items():
            if name not in shown:
                _add_setting(settings, field, hidden=True)


def _add_setting(
    group: argparse._ArgumentGroup, field: dataclasses.Field, hidden: bool = False, checked: bool = True
) -> None:
    """A flag for a setting. checked: the choices are known; else the settings of the task check the value later."""
    flag, default, choices = "--" + field.name.replace("_", "-"), field.default, field.metadata["choices"]
    text = argparse.SUPPRESS if hidden else f"{field.metadata['help']} (default: {default})"
    if isinstance(default, bool):
        group.add_argument(flag, action=argparse.BooleanOptionalAction, default=None, help=text)
    else:
        kind = type(default)
        shown = "{" + ",".join(choices) + "}" if choices else kind.__name__.upper()
        group.add_argument(flag, type=kind, metavar=shown, choices=choices if checked else None, help=text)


def _add_run(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", type=Path, metavar="RUN")


def _add_split(parser: argparse.ArgumentParser, drawn: str) -> None:
    parser.add_argument("--split", default="test", choices=("train", "valid", "test"))
    parser.add_argument("--per-relation", action="store_true", help="also a table of the relations")
    parser.add_argument("--seed", type=int, default=0, help=f"of {drawn} (default: 0)")


def _evaluate(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_split(parser, "the sample")
    parser.add_argument(
        "--exclude-query-entity", action="store_true", help="the papers' protocol: drop the query's entity"
    )
    parser.add_argument("--sample", type=int, metavar="N", help="rank N random queries only, and give standard errors")


def _classify(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    _add_split(parser, "the false triples")


def _query(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("entity", help="an entity, or a node of a hierarchy: what is nearest, and what is above it")
    parser.add_argument("relation", nargs="?", help="answer (ENTITY, RELATION, ?)")
    parser.add_argument("tail", nargs="?", help="probability and rank of (ENTITY, RELATION, TAIL)")
    parser.add_argument("--inverse", action="store_true", help="answer (?, RELATION, ENTITY)")
    parser.add_argument("--to", metavar="TAIL", help="answer (ENTITY, ?, TAIL): the relations between two entities")
    parser.add_argument("--new", action="store_true", help="leave out what the data states already")
    parser.add_argument("-k", type=int, default=10, help="number of answers (default: 10)")


def _score(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("file", type=Path, metavar="FILE", help="a table head, relation, tail: TSV, or .csv, or .gz")
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default standard output")


def _export(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", required=True)
    parser.add_argument("--format", metavar="F", help="tsv, npz, word2vec, graphml or gexf; by default by the suffix")


def _plot(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="PNG, SVG or PDF; by default RUN/disk.png")
    parser.add_argument("--labels", type=int, default=40, help="at most so many names")
    parser.add_argument(
        "--tiling", choices=("htiling", "ltiling"), help="draw the cells of a tiling under a hierarchy in the plane"
    )


def _report(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="by default RUN/report")


def _search(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", nargs="?", help="as for train; by default the data of the space")
    parser.add_argument("--space", type=Path, required=True, metavar="FILE", help="TOML with [settings] and [search]")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument("--trials", type=int, default=50, metavar="N", help="trials in all (default: 50)")
    parser.add_argument("--minutes", type=float, metavar="M", help="start no trial after so many minutes")
    parser.add_argument("--seed", type=int, default=0, help="of the proposals and the trials (default: 0)")
    parser.add_argument("--resume", action="store_true", help="go on with the search in the folder")


def _add_metric(parser: argparse.ArgumentParser) -> None:
    names = ", ".join(distances.METRICS)
    parser.add_argument("--metric", default="sliced-wasserstein", metavar="NAME", help=f"one of {names}")
    for name, option in distances.OPTIONS.items():
        having = ", ".join(metric for metric, entry in distances.METRICS.items() if name in entry.options)
        text = f"{option.help} (default: {option.default}; for {having})"
        kind = type(option.default)
        parser.add_argument(f"--{name}", type=kind, metavar=kind.__name__.upper(), help=text)


def _distance(parser: argparse.ArgumentParser) -> None:
    text = "file with one set: .npy, .npz, .csv, .tsv or .safetensors"
    parser.add_argument("a", type=Path, metavar="A", help=text)
    parser.add_argument("b", type=Path, metavar="B", help=text)
    _add_metric(parser)


def _pairwise(parser: argparse.ArgumentParser) -> None:
    text = "folder with a file a set, or a .npz or .safetensors file with many"
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=text)
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the matrix, .npy")
    parser.add_argument("--names", type=Path, metavar="FILE", help="names of the rows; by default beside the matrix")
    parser.add_argument("--plot", type=Path, metavar="FILE", help="a heat map and a map: PNG, SVG or PDF")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes (default: this one alone)")
    parser.add_argument("--resume", action="store_true", help="go on with a run that was stopped")
    _add_metric(parser)


def _compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "data", nargs="?", help="digits (default), omniglot, clinc150, an .npz file or a folder of sets"
    )
    parser.add_argument(
        "-o", "--output", type=Path, metavar="FOLDER", help="results and tables; by default the next free in runs/"
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings from a TOML file; flags override it")
    parser.add_argument("--resume", type=Path, metavar="FOLDER", help="go on with a comparison, or add to it")
    parser.add_argument("--metric", default="map@r", choices=("map@r", "r-precision", "p@1"), help="of the table")
    parser.add_argument("--workers", type=int, default=0, metavar="N", help="processes; 0, the default: one a core")
    settings = parser.add_argument_group("settings")
    for name, field in CompareConfig.fields().items():
        if name != "data":
            _add_setting(settings, field)


def _compress(parser: argparse.ArgumentParser) -> None:
    _add_run(parser)
    parser.add_argument("-o", "--output", type=Path, metavar="FILE", help="by default RUN/points.geo")
    parser.add_argument("--bits", type=int, default=16, help="binary digits of a coordinate in its cell (default: 16)")
    parser.add_argument(
        "--model", default="htiling", choices=compression.MODELS, help="of the cells (default: htiling)"
    )


def _restore(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="written by `geoembed compress`")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="the points, .tsv or .npz")
    parser.add_argument(
        "--manifold", choices=compression.TARGETS, help="model of the coordinates; by default the file's"
    )
