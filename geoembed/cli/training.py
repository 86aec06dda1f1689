"""`geoembed train`: which task, which settings, and the way there. Heavy imports wait until it runs."""

import argparse
import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

from geoembed import config
from geoembed.config import TASKS, HierarchyConfig, TrainConfig
from geoembed.errors import DomainError, UnknownNameError
from geoembed.settings import Settings

__all__ = ["threads", "train"]

NAMES = {name for settings in TASKS.values() for name in settings.fields()}


def train(args: argparse.Namespace) -> None:
    if args.threads < 1:
        args.parser.error(f"--threads must be at least 1, got {args.threads}")
    settings: Settings
    if args.resume is not None:
        settings, folder, data = _resumed(args), args.resume, None
    else:
        settings, data = _settings(args)
        folder = args.output
    try:
        with threads(args.threads):
            if isinstance(settings, HierarchyConfig):
                from geoembed import hierarchy_jobs

                hierarchy_jobs.train(settings, folder, closure=data, picture=not args.no_picture)
            elif isinstance(settings, TrainConfig):
                from geoembed import jobs
                from geoembed.runs import load_triples

                triples = None if data is None else load_triples(settings, data)
                baseline, picture = not args.no_baseline, not args.no_picture
                jobs.train(settings, folder, triples=triples, baseline=baseline, picture=picture)
    except KeyboardInterrupt:
        where = folder or "the run folder above"
        print(f"\nstopped and saved. Go on with: geoembed train --resume {where}", file=sys.stderr)
        raise


@contextlib.contextmanager
def threads(n: int) -> Iterator[None]:
    """So many CPU threads within the block."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(n)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _settings(args: argparse.Namespace) -> tuple[Settings, Any]:
    """Those of the recipe or the file, with those of the flags over them, and the data if it was read.

    The task is that of --task, else that of the file, else that of the data.
    """
    values: dict[str, Any] = {}
    if args.recipe is not None:
        known = config.recipes()
        if args.recipe not in known:
            raise UnknownNameError("recipe", args.recipe, known)
        values = config.read_toml(known[args.recipe])
    elif args.config is not None:
        values = config.read_toml(args.config)
    written, given, data = values.pop("task", None), _given(args), None
    if written is not None and written not in TASKS:
        raise UnknownNameError("task", written, TASKS)
    if args.task and written and args.task != written:
        raise DomainError(f"--task {args.task} and settings of the task {written} do not go together")
    task = args.task or written
    if task is None:
        task, data = _task_of(given.get("data", values.get("data")))
    for name in given:
        if name not in TASKS[task].fields():
            raise UnknownNameError(f"option of the task {task}", _flag(name), map(_flag, TASKS[task].fields()))
    return TASKS[task].from_mapping(values | given), data


def _task_of(name: str | None) -> tuple[str, Any]:
    """The task that data is for, and the data; without a name, the graph that is the default."""
    if name is None:
        return TrainConfig.task, None
    from geoembed.data import Closure, load

    data = load(name)
    return (HierarchyConfig if isinstance(data, Closure) else TrainConfig).task, data


def _given(args: argparse.Namespace) -> dict[str, Any]:
    """The settings among the flags; a path to data that is there becomes absolute."""
    given = {name: value for name in NAMES if (value := getattr(args, name, None)) is not None}
    if "data" in given and os.path.exists(given["data"]) and os.sep in given["data"]:
        given["data"] = os.path.abspath(given["data"])
    return given


def _resumed(args: argparse.Namespace) -> Settings:
    """The settings of the run, if the flags do not contradict them."""
    from geoembed.hierarchy_runs import open_run

    settings = open_run(args.resume).config
    saved = {"task": settings.task, **vars(settings)}
    given = _given(args) | ({"task": args.task} if args.task else {}) | ({"output": args.output} if args.output else {})
    wrong = [name for name, value in given.items() if name not in saved or saved[name] != value]
    if wrong:
        there = ", ".join(f"{name} = {saved[name]!r}" for name in wrong if name in saved)
        args.parser.error(
            f"--resume takes its settings from the run{f', where {there}' if there else ''}; drop "
            f"{', '.join('DATA' if name == 'data' else _flag(name) for name in wrong)}"
        )
    return settings


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
