"""The experiment of `geoembed compare`: every loss with every distance, on the same folds, seeds, steps and tuning.

For each seed the classes are dealt to folds anew. A fold's classes are held out: the others train an encoder from fresh
weights, and MAP@R of the held-out items, each the query among the rest, is the result. No choice is ever made on them.
Items are divided by the standard deviation of the training ones: hyperbolic space is flat near its origin, and items of
length 0.1 would never leave it.
With `trials` above 1 the learning rate and the scale of the margins are chosen for each loss and distance from as many
settings, the same ones for all, by MAP@R on a half held out of the training part of the first fold. What the items give
as they are, without training, is measured too: with few classes to learn from it can be more.

    results.jsonl    a line a run: loss, distance, seed, fold, its figures and seconds
    config.toml      the settings

Runs are independent, and one that is in the file is not done again: a comparison that was stopped goes on, and one that
has ended takes in further losses, distances and seeds.

References: Musgrave, Belongie, Lim, "A metric learning reality check", ECCV 2020, arXiv:2003.08505 (the protocol);
Roth et al., ICML 2020, arXiv:2002.08473.
"""

import json
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from geoembed.compare.methods import Method, build
from geoembed.compare.settings import CompareConfig
from geoembed.data.batches import MPerClass
from geoembed.data.folds import class_folds
from geoembed.data.labelled import Labelled, load_labelled
from geoembed.distance import Items
from geoembed.distances import Euclidean
from geoembed.errors import CheckpointError, DataError, DomainError
from geoembed.files import atomic_write
from geoembed.optim import RiemannianAdam
from geoembed.pointsets import PointSets
from geoembed.quality.ranks import retrieval_metrics

__all__ = ["compare", "run_one", "untrained"]

TRIALS = [(1.0, 1.0), (3.0, 1.0), (0.3, 1.0), (1.0, 2.0), (1.0, 0.5), (3.0, 0.5), (3.0, 2.0), (0.3, 2.0), (0.3, 0.5)]
LIST_SETTINGS = ("losses", "distances", "seeds", "seed", "folds")  # what may grow in a folder that has results
Run = dict[str, Any]


def compare(
    config: CompareConfig, folder: Path | None = None, *, data: Labelled | None = None, workers: int = 2, progress=True
) -> list[Run]:
    """All runs of a comparison, those done before included.

    Args:
        config: the settings. data: the items, if not those that `config.data` names.
        folder: where results are kept; None keeps none.
        workers: processes, each of one thread; 1 is this process alone. 0 means as many as there are cores.

    Raises:
        CheckpointError: the folder holds results of another recipe, or a damaged line.
        DataError, DomainError: data without enough classes for the folds and batches.
    """
    items = load_labelled(config.data) if data is None else data
    _check(config, items)
    done = [] if folder is None else _opened(folder, config)
    found = {_key(run): run for run in done}
    wanted = list(_wanted(config))
    left = [run for run in wanted if _key(run) not in found]
    with tqdm(
        total=len(wanted), initial=len(wanted) - len(left), desc="runs", disable=None if progress else True
    ) as bar:
        for run in _computed(left, config, items if data is not None else None, workers):
            found[_key(run)] = run
            bar.update()
            if folder is not None:
                with open(folder / "results.jsonl", "a", encoding="utf-8") as file:
                    file.write(json.dumps(run) + "\n")
    return [found[_key(run)] for run in wanted]


def _wanted(config: CompareConfig) -> Iterator[Run]:
    for seed in range(config.seed, config.seed + config.seeds):
        for fold in range(config.folds):
            for loss in config.loss_names:
                for distance in config.distance_names:
                    yield {"loss": loss, "distance": distance, "seed": seed, "fold": fold, "folds": config.folds}


def _key(run: Run) -> tuple[Any, ...]:
    return tuple(run[name] for name in ("loss", "distance", "seed", "fold", "folds"))


def _split(data: Labelled, config: CompareConfig, folds: int, seed: int) -> list[tuple[Tensor, Tensor]]:
    """(train, held out) indices of each fold."""
    if config.held_out == "items":
        order = torch.randperm(len(data), generator=_seeded(seed))
        order = order[data.labels[order].argsort(stable=True)]  # class by class, so that each fold has its share
        return [(order[torch.arange(len(order)) % folds != i], order[i::folds]) for i in range(folds)]
    coarse = data.coarse if config.held_out == "coarse" else None
    return class_folds(data.labels, folds, coarse=coarse, generator=_seeded(seed))


def _check(config: CompareConfig, data: Labelled) -> None:
    if config.held_out == "coarse" and data.coarse is None:
        raise DataError(f"{data!r} has no coarse labels to hold out; leave out --held-out coarse")
    for train, _ in _split(data, config, config.folds, config.seed):
        classes, needed = len(data.labels[train].unique()), 2 if config.trials == 1 else 4
        if classes < needed:
            raise DomainError(
                f"{config.folds} folds of {data!r} leave {classes} class(es) to train on, and it takes {needed}: two, "
                "or four where trials hold out half of them"
            )


def _opened(folder: Path, config: CompareConfig) -> list[Run]:
    """The results in a folder, which is made if there is none."""
    path = folder / "config.toml"
    if path.exists():
        old = CompareConfig.load(path)
        for name in CompareConfig.fields():
            if name not in LIST_SETTINGS and getattr(old, name) != getattr(config, name):
                raise CheckpointError(
                    f"{folder} holds a comparison with {name} = {getattr(old, name)!r}, not {getattr(config, name)!r}: "
                    "their results do not belong in one table. Choose another folder with -o."
                )
    elif folder.exists() and any(folder.iterdir()):
        raise CheckpointError(f"{folder} is not empty and holds no comparison. Choose another folder with -o.")
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(path) as file:
        file.write(config.to_toml())
    results = folder / "results.jsonl"
    if not results.exists():
        return []
    lines = results.read_text(encoding="utf-8").split("\n")
    if lines[-1]:  # cut off in the middle of a line: that run is done again
        with atomic_write(results) as file:
            file.write("".join(line + "\n" for line in lines[:-1]))
    runs = []
    for number, line in enumerate(lines[:-1], 1):
        try:
            runs.append(json.loads(line))
            _key(runs[-1])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise CheckpointError(f"{results}:{number}: not a result: {line[:60]!r}. Delete the line.") from error
    return runs


def _computed(left: list[Run], config: CompareConfig, data: Labelled | None, workers: int) -> Iterator[Run]:
    workers = min(workers or os.cpu_count() or 1, len(left))
    if workers <= 1:
        _start(config, data)
        yield from map(_work, left)
        return
    context = multiprocessing.get_context("spawn")  # a fork would copy the threads of torch without their state
    with ProcessPoolExecutor(workers, context, _start, (config, data)) as pool:
        for future in as_completed([pool.submit(_work, run) for run in left]):
            yield future.result()


_STATE: dict[str, Any] = {}  # of a worker: reading the data for each run would take longer than the run


def _start(config: CompareConfig, data: Labelled | None) -> None:
    torch.set_num_threads(1)
    _STATE.update(config=config, data=load_labelled(config.data) if data is None else data)


def _work(run: Run) -> Run:
    return run_one(run, _STATE["data"], _STATE["config"])


def run_one(run: Run, data: Labelled, config: CompareConfig) -> Run:
    """Train and evaluate a loss with a distance on a fold of a seed; the run with its figures."""
    start = time.perf_counter()
    folds = _split(data, config, run["folds"], run["seed"])
    lr, scale = _tuned(run, data, folds[0][0], config) if config.trials > 1 else TRIALS[0]
    train, held_out = folds[run["fold"]]
    seed = 1000 * run["seed"] + run["fold"]
    method, size = _trained(run, data[train], config, seed, lr, scale)
    figures = _evaluated(method, data[held_out], size)
    return run | {"lr": config.lr * lr, "margin_scale": scale} | figures | {"seconds": time.perf_counter() - start}


def untrained(data: Labelled, config: CompareConfig) -> list[float] | None:
    """MAP@R of the held-out items as they are, under the Euclidean distance: one value a seed. None for point sets."""
    if isinstance(data.items, PointSets):
        return None
    x, values = _floats(data.items).flatten(1), []
    for seed in range(config.seed, config.seed + config.seeds):
        folds = [held_out for _, held_out in _split(data, config, config.folds, seed)]
        scores = [retrieval_metrics(Euclidean(), x[part], data.labels[part]).map_at_r for part in folds]
        values.append(sum(scores) / len(scores))
    return values


def _tuned(run: Run, data: Labelled, train: Tensor, config: CompareConfig) -> tuple[float, float]:
    """(factor of the learning rate, factor of the unit) of the best trial, on classes held out of the training ones."""
    inner = data[train]
    fit, valid = _split(inner, config, 2, run["seed"])[0]
    scored = []
    for lr, scale in TRIALS[: config.trials]:
        method, size = _trained(run, inner[fit], config, 1000 * run["seed"] + 999, lr, scale)
        scored.append((_evaluated(method, inner[valid], size)["map@r"], (lr, scale)))
    return max(scored, key=lambda pair: pair[0])[1]


def _trained(
    run: Run, data: Labelled, config: CompareConfig, seed: int, lr: float, scale: float
) -> tuple[Method, float]:
    """The trained method, and what items are divided by."""
    generator = _seeded(seed)
    classes, labels = data.labels.unique(return_inverse=True)
    method = build(run["loss"], run["distance"], data, len(classes), config, generator)
    groups = [
        {"params": list(method.encoder.parameters()), "weight_decay": config.weight_decay},
        {"params": list(method.loss.parameters()), "weight_decay": 0.0},
    ]
    optimizer = RiemannianAdam([group for group in groups if group["params"]], lr=config.lr * lr)
    most = min(config.batch_size, config.per_class * len(classes))
    batches = MPerClass(labels, config.per_class, most - most % config.per_class, generator)
    size = _spread(data.items)
    step = 0
    while step < config.steps:
        for batch in batches:
            if step == config.steps:
                break
            x = method.encoder(_floats(data.items[batch], size))
            if step == 0:  # measure the unit, then widen it
                with torch.no_grad():
                    method.loss(x, labels[batch])
                method.loss.unit.mul_(scale)
            loss = method.loss(x, labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            step += 1
    return method, size


@torch.no_grad()
def _evaluated(method: Method, data: Labelled, size: float) -> Run:
    parts = [method.encoder(_floats(data.items[i : i + 512], size)) for i in range(0, len(data), 512)]
    x = torch.cat(parts) if isinstance(parts[0], Tensor) else _joined(parts)
    found = retrieval_metrics(method.loss.distance, x, data.labels, ks=(1,))
    return {"map@r": found.map_at_r, "r-precision": found.r_precision, "p@1": found.precision_at_1}


def _joined(parts: list[Any]) -> Items:
    sets = [points for part in parts for points in part.unpad()]
    return PointSets.from_list(sets)


def _spread(items: Items) -> float:
    """Standard deviation of all numbers of the items, 1 if they are all alike."""
    numbers = torch.cat(items.unpad()) if isinstance(items, PointSets) else items
    return float(numbers.std()) or 1.0


def _floats(items: Items, size: float = 1.0) -> Any:
    items = items.to(torch.float32)
    return items.map(lambda points: points / size) if isinstance(items, PointSets) else items / size


def _seeded(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed % 2**63)
