"""Hyperparameter search: which settings give the best validation MRR, found by Optuna (the extra "hpo").

A space is a TOML file of fixed settings of `TrainConfig` and of searched ones, each a list of choices or a range:

    [settings]
    data = "wordnet-animals"
    dim = 20

    [search]
    negatives = [64, 128, 256]
    lr = {low = 1e-3, high = 0.1, log = true}
    epochs = {low = 20, high = 200, step = 20}

Settings are proposed by a tree-structured Parzen estimator (Bergstra, Bardenet, Bengio, Kegl, NeurIPS 2011;
multivariate: Falkner, Klein, Hutter, ICML 2018, 1807.01774). Half way through its epochs and later a trial is pruned
when its best validation MRR is below the median of what the finished trials had at that epoch (Golovin and others,
"Google Vizier", KDD 2017), once five have finished. Not earlier, as high learning rates, which win in the end, look
worse at first. What ranks trials is the validation MRR alone.

A trial is a function of the space, the seed, its number and the trials before it. So all that a killed search needs is
the list of its trials, and it goes on to the same trials as one that was never stopped. The folder:

    search.json       the space, the seed, and the fingerprint of the graph
    data/             the graph, where it was split by the seed or came from Python
    trials.jsonl      a line a trial: state, score, all validation scores, seconds, settings, reason
    best.toml         all settings of the best trial, for geoembed train --config
    importance.tsv    the share of each setting in what sets the best tenth of the trials apart from all of them, if
                      there are enough (PED-ANOVA; Watanabe, Bansal, Hutter, IJCAI 2023, 2304.10255)
    search.png        validation MRR against the trial and against each setting
"""

import contextlib
import dataclasses
import json
import os
import time
import warnings
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from geoembed.checkpoint import writing
from geoembed.config import TrainConfig, read_toml
from geoembed.data import Triples, load
from geoembed.errors import (
    CheckpointError,
    DataError,
    DomainError,
    GeoEmbedError,
    MissingDependencyError,
)
from geoembed.files import atomic_write
from geoembed.graph_training import train_model
from geoembed.runs import load_teachers, load_triples
from geoembed.search.chart import draw, short
from geoembed.search.space import Space, distribution
from geoembed.search.trials import Trial, best_of, importances, study

__all__ = ["SearchResult", "Space", "Trial", "search"]

FORMAT = 1


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search, and how much each setting matters: shares that add up to 1, empty below 30 trials."""

    folder: Path
    trials: list[Trial]
    importance: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest validation MRR, the first of equal ones; None where none finished."""
        return best_of(self.trials)

    @property
    def config(self) -> TrainConfig:
        """All settings of the best trial; DomainError where none finished."""
        if self.best is None:
            raise DomainError(f"no trial in {self.folder} finished; its trials.jsonl says why")
        return TrainConfig.from_mapping(self.best.settings)


def search(
    space: Mapping[str, Any] | Path | str,
    folder: Path | str,
    triples: Triples | None = None,
    *,
    trials: int = 50,
    minutes: float | None = None,
    seed: int = 0,
    resume: bool = False,
    progress: bool = True,
    say: Callable[[str], None] = print,
) -> SearchResult:
    """Train with settings from a space and keep those with the best validation MRR; the test split is not ranked.

    Args:
        space: a TOML file that says what is fixed and what is searched, see the module, or its two tables.
        folder: where the results go, see the module.
        triples: the graph, if it is not the one that the setting `data` names. It needs validation triples.
        trials: how many trials there shall be in all, those of earlier calls included.
        minutes: start no trial later than so many minutes after this call.
        seed: of the proposals, of the trials (each has its own seed, unless the space names one) and of the split of a
            graph that has none.
        resume: go on with the search in the folder. Its finished trials are kept; one that was cut off starts again.
        progress: show a bar over the trials (where standard error is a terminal).
        say: receives the lines of the report, one a trial.

    Raises:
        MissingDependencyError: without Optuna.
        UnknownNameError, DomainError: the space has unknown names or impossible values.
        DataError: the file of the space or the graph cannot be read, or there are no validation triples.
        CheckpointError: the folder holds another search, or this one and `resume` is not asked for, or it is damaged.
    """
    optuna = _optuna()
    if trials < 1 or seed < 0 or not (minutes is None or minutes > 0):
        raise DomainError(
            f"expected trials >= 1, seed >= 0 and minutes > 0 or None, got trials = {trials}, seed = {seed}, "
            f"minutes = {minutes}"
        )
    checked = Space.from_tables(space if isinstance(space, Mapping) else read_toml(Path(space)))
    distributions = {name: distribution(optuna, name, entry) for name, entry in checked.search.items()}
    folder, clock = Path(folder), time.monotonic()
    graph, data = _graph(checked, triples, seed)
    done = _open(folder, checked, graph, data is None, seed, resume)
    fixed = checked.settings | {"data": data or str((folder / "data").absolute())}
    counts = graph.counts()
    say(f"{graph.name}: {counts['train']:,} training triples, {counts['valid']:,} of validation")
    say(f"search folder: {folder}" + (f", going on after {len(done)} trials" if done else ""))
    bar = tqdm(total=trials, initial=len(done), unit="trial", disable=None if progress else True, dynamic_ncols=True)
    with _quiet(optuna), bar:
        try:
            while len(done) < trials and (minutes is None or time.monotonic() - clock < 60 * minutes):
                done.append(_run(optuna, distributions, fixed, graph, done, seed))
                _save(folder, done)
                with tqdm.external_write_mode():
                    say(_line(done, list(distributions)))
                bar.update()
        finally:  # also where Ctrl-C ends it
            result = SearchResult(folder, done, importances(optuna, distributions, done))
            if done:
                _save(folder, done)  # best.toml may be older than trials.jsonl after a kill
                _write(folder / "importance.tsv", "".join(f"{k}\t{v:.4f}\n" for k, v in result.importance.items()))
                draw(done, result.importance, checked.search, graph.name, folder / "search.png")
    say("\n" + _summary(result))
    return result


# ------------------------------------------------------------------------------------------------------- one trial


def _run(
    optuna: Any, distributions: dict[str, Any], fixed: dict[str, Any], triples: Triples, done: list[Trial], seed: int
) -> Trial:
    """The next trial; nothing but the arguments decides what it does."""
    number = done[-1].number + 1 if done else 0
    asking = study(optuna, distributions, done)
    asking.sampler = optuna.samplers.TPESampler(seed=_derived(seed, number, 0), multivariate=True)
    asked = asking.ask(distributions)
    settings = {"seed": _derived(seed, number, 1)} | fixed | asked.params
    scores: list[tuple[int, float]] = []
    clock = time.monotonic()

    def on_epoch(history: list[dict[str, float]]) -> None:
        if "score" not in history[-1]:
            return
        epoch, score = int(history[-1]["epoch"]), history[-1]["score"]
        scores.append((epoch, score))
        asked.report(score, epoch)
        if config.epochs <= 2 * epoch < 2 * config.epochs and asked.should_prune():
            raise optuna.TrialPruned

    state, reason = "finished", ""
    try:
        config = TrainConfig.from_mapping(settings)
        train_model(config, triples, teachers=load_teachers(config, triples), progress=False, on_epoch=on_epoch)
    except optuna.TrialPruned:
        state, reason = "pruned", f"below the median of the finished trials at epoch {scores[-1][0]}"
    except (GeoEmbedError, torch.OutOfMemoryError) as error:
        state, reason = "failed", str(error)
    best = max((score for _, score in scores), default=None)
    return Trial(number, state, best, settings, scores, round(time.monotonic() - clock, 2), reason)


def _derived(*numbers: int) -> int:
    """A seed of 32 bits that looks unrelated to those of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


# ------------------------------------------------------------------------------------------------------ the folder


def _graph(space: Space, triples: Triples | None, seed: int) -> tuple[Triples, str | None]:
    """The graph of all trials, and the setting `data` that leads to it, None if nothing does yet."""
    data = None
    if triples is None:
        name = space.settings.get("data", TrainConfig.data)
        if os.path.exists(name) and os.sep in name:
            name = os.path.abspath(name)
        whole = load(name)
        triples = load_triples(TrainConfig(data=name, seed=space.settings.get("seed", seed)))
        if triples.fingerprint() == whole.fingerprint():  # else split by a seed, while each trial has its own
            data = name
    if len(triples.valid) == 0:
        raise DataError(f"{triples.name} has no validation triples to compare settings by; see Triples.split")
    return triples, data


def _open(folder: Path, space: Space, triples: Triples, keep: bool, seed: int, resume: bool) -> list[Trial]:
    """Make the folder of a new search, or read the trials of the same search as far as it went."""
    about = {"format": FORMAT, "seed": seed, **vars(space), "fingerprint": triples.fingerprint()}
    path = folder / "search.json"
    if not path.exists():
        with writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            if keep:
                triples.write(folder / "data")
        _write(path, json.dumps(about, indent=1))  # last: it marks the folder as complete
        return []
    try:
        old = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path} cannot be read: {error}") from error
    if changed := [key for key in about if old.get(key) != about[key]]:
        raise CheckpointError(f"{folder} holds a search with another {', '.join(changed)}. Choose another folder.")
    if not resume:
        raise CheckpointError(f"{folder} holds this search already. Ask to resume it, or choose another folder.")
    return _read_trials(folder / "trials.jsonl", set(space.search))


def _read_trials(path: Path, searched: set[str]) -> list[Trial]:
    done: list[Trial] = []
    if not path.exists():
        return done
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            trial = Trial(**json.loads(line))
            done.append(dataclasses.replace(trial, scores=[(epoch, score) for epoch, score in trial.scores]))
            if missing := searched - set(trial.settings):
                raise ValueError(f"{missing} is not in its settings")
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{path}:{number} is not a trial of this search: {error}. Delete the line."
            ) from error
    return done


def _save(folder: Path, done: list[Trial]) -> None:
    _write(folder / "trials.jsonl", "".join(json.dumps(dataclasses.asdict(trial)) + "\n" for trial in done))
    if (best := best_of(done)) is not None:
        title = f"# trial {best.number} of {folder.name}, validation MRR {best.score:.4f}\n"
        _write(folder / "best.toml", title + TrainConfig.from_mapping(best.settings).to_toml())


def _write(path: Path, text: str) -> None:
    with writing(path), atomic_write(path) as file:
        file.write(text)


# ------------------------------------------------------------------------------------------------------ the report


def _line(done: list[Trial], searched: list[str]) -> str:
    trial = done[-1]
    drawn = ", ".join(f"{name} {short(trial.settings[name])}" for name in searched)
    score = "" if trial.score is None else f" {trial.score:.4f}"
    mark = " (best so far)" if trial is best_of(done) else ""
    reason = f"; {trial.reason}" if trial.state == "failed" else ""
    return f"trial {trial.number}: {trial.state}{score}{mark}, {trial.seconds:.0f} s; {drawn}{reason}"


def _summary(result: SearchResult) -> str:
    counts = {state: sum(t.state == state for t in result.trials) for state in ("finished", "pruned", "failed")}
    lines = [", ".join(f"{count} {state}" for state, count in counts.items() if count) or "no trial was run"]
    if result.importance:
        lines.append("importance: " + ", ".join(f"{name} {share:.0%}" for name, share in result.importance.items()))
    if (best := result.best) is None:
        return "\n".join(
            [*lines, f"no trial finished, so there is no best.toml; {result.folder}/trials.jsonl says why"]
        )
    lines += [
        f"best: trial {best.number}, validation MRR {best.score:.4f}",
        "chosen by validation MRR alone; the test split was not ranked. Of many trials the best is partly luck, so",
        "report the test result of:",
        f"    geoembed train --config {result.folder}/best.toml",
    ]
    return "\n".join(lines)


# -------------------------------------------------------------------------------------------------------- Optuna


def _optuna() -> Any:
    try:
        import optuna
    except ImportError:
        raise MissingDependencyError('settings are searched with Optuna; pip install "geoembed[hpo]"') from None
    return optuna


@contextlib.contextmanager
def _quiet(optuna: Any) -> Iterator[None]:
    """Without Optuna's log lines and its warnings of what is experimental; what was set before is set again."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            yield
    finally:
        optuna.logging.set_verbosity(before)
