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
import io
import json
import math
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
from geoembed.config import TrainConfig, check_setting, read_toml, typed_setting
from geoembed.data import Triples, load
from geoembed.drawing import GREY, INK
from geoembed.errors import (
    CheckpointError,
    DataError,
    DomainError,
    GeoEmbedError,
    MissingDependencyError,
    UnknownNameError,
)
from geoembed.files import atomic_write
from geoembed.runs import load_triples
from geoembed.tasks import train_model

__all__ = ["SearchResult", "Trial", "search"]

FORMAT = 1
STARTUP = 5  # finished trials before any is pruned
ENOUGH = 30  # trials with a score before importance is computed: a tenth of them is compared with the rest
BEST, FINISHED = "#CC6677", "#332288"


@dataclass(frozen=True)
class Space:
    """Fixed settings, and searched ones: a list of choices or a range {low, high, step, log} each."""

    settings: dict[str, Any]
    search: dict[str, Any]

    @classmethod
    def from_tables(cls, tables: Mapping[str, Any]) -> "Space":
        """A space from the tables "settings" and "search", its values checked one by one.

        Raises `UnknownNameError` for names and choices that `TrainConfig` does not know, `DomainError` for values of
        the wrong type or out of bounds. Values that are wrong only together are found when a trial draws them.
        """
        for name, table in tables.items():
            if name not in ("settings", "search"):
                raise UnknownNameError("table", name, ("settings", "search"))
            if not isinstance(table, Mapping):
                raise DomainError(f"{name} must be a table, got {table!r}")
        settings, searched = tables.get("settings", {}), tables.get("search", {})
        if not searched:
            raise DomainError("nothing to search: the table [search] needs an entry such as dim = [10, 20, 40]")
        for name in searched:
            if name == "data" or name in settings:
                why = "all trials have the same graph" if name == "data" else "it is fixed in [settings]"
                raise DomainError(f"{name} cannot be searched: {why}")
        return cls(
            {name: check_setting(name, value) for name, value in settings.items()},
            {name: _checked_entry(name, entry) for name, entry in searched.items()},
        )


@dataclass(frozen=True)
class Trial:
    """One training. score: its best validation MRR, None before the first; scores: (epoch, MRR) of each validation.

    state: finished, pruned, or failed (settings that do not go together, or a loss that became NaN), with the reason.
    settings: what `TrainConfig.from_mapping` needs to train it again, to the same scores.
    """

    number: int
    state: str
    score: float | None
    settings: dict[str, Any]
    scores: list[tuple[int, float]]
    seconds: float
    reason: str = ""


@dataclass(frozen=True)
class SearchResult:
    """The trials of a search, and how much each setting matters: shares that add up to 1, empty below 30 trials."""

    folder: Path
    trials: list[Trial]
    importance: dict[str, float] = field(default_factory=dict)

    @property
    def best(self) -> Trial | None:
        """The finished trial with the highest validation MRR, the first of equal ones; None where none finished."""
        return _best(self.trials)

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
    distributions = {name: _distribution(optuna, name, entry) for name, entry in checked.search.items()}
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
            result = SearchResult(folder, done, _importance(optuna, distributions, done))
            if done:
                _save(folder, done)  # best.toml may be older than trials.jsonl after a kill
                _write(folder / "importance.tsv", "".join(f"{k}\t{v:.4f}\n" for k, v in result.importance.items()))
                _draw(result, checked.search, graph.name)
    say("\n" + _summary(result))
    return result


# ------------------------------------------------------------------------------------------------------- one trial


def _run(
    optuna: Any, distributions: dict[str, Any], fixed: dict[str, Any], triples: Triples, done: list[Trial], seed: int
) -> Trial:
    """The next trial; nothing but the arguments decides what it does."""
    number = done[-1].number + 1 if done else 0
    study = _study(optuna, distributions, done)
    study.sampler = optuna.samplers.TPESampler(seed=_derived(seed, number, 0), multivariate=True)
    asked = study.ask(distributions)
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
        train_model(config, triples, progress=False, on_epoch=on_epoch)
    except optuna.TrialPruned:
        state, reason = "pruned", f"below the median of the finished trials at epoch {scores[-1][0]}"
    except (GeoEmbedError, torch.OutOfMemoryError) as error:
        state, reason = "failed", str(error)
    best = max((score for _, score in scores), default=None)
    return Trial(number, state, best, settings, scores, round(time.monotonic() - clock, 2), reason)


def _derived(*numbers: int) -> int:
    """A seed of 32 bits that looks unrelated to those of other numbers."""
    return int(np.random.SeedSequence(numbers).generate_state(1)[0])


def _study(optuna: Any, distributions: dict[str, Any], done: list[Trial]) -> Any:
    """An Optuna study in memory that knows these trials; failed ones are pruned ones without a score to it."""
    study = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
    states = optuna.trial.TrialState
    for trial in done:
        study.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if trial.state == "finished" else states.PRUNED,
                value=trial.score if trial.state == "finished" else None,
                params={name: trial.settings[name] for name in distributions},
                distributions=distributions,
                intermediate_values=dict(trial.scores) if trial.state != "failed" else {},
            )
        )
    return study


def _importance(optuna: Any, distributions: dict[str, Any], done: list[Trial]) -> dict[str, float]:
    """Pruned trials count as finished, with the score they had: without them what is bad is not seen to matter."""
    scored = [dataclasses.replace(trial, state="finished") for trial in done if trial.score is not None]
    if len(scored) < ENOUGH:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(_study(optuna, distributions, scored), evaluator=evaluator)


def _best(done: list[Trial]) -> Trial | None:
    finished = [trial for trial in done if trial.state == "finished"]
    return max(finished, key=lambda trial: trial.score or 0.0, default=None)


# ------------------------------------------------------------------------------------------------------- the space


def _checked_entry(name: str, entry: Any) -> Any:
    """An entry of [search] with its values checked one by one."""
    if isinstance(entry, list | tuple):
        values = [check_setting(name, value) for value in entry]
        if not values or any(value in values[:i] for i, value in enumerate(values)):
            raise DomainError(f"{name}: expected a list of different values, got {entry!r}")
        return values
    if not isinstance(entry, Mapping):
        raise DomainError(f"{name}: expected a list of values or {{low = ..., high = ...}}, got {entry!r}")
    for key in entry:
        if key not in ("low", "high", "step", "log"):
            raise UnknownNameError(f"key of {name}", key, ("low", "high", "step", "log"))
    if not {"low", "high"} <= set(entry) or not isinstance(entry.get("log", False), bool):
        raise DomainError(f"{name}: a range has low and high, and perhaps step, or log = true; got {dict(entry)}")
    low, high = check_setting(name, entry["low"]), check_setting(name, entry["high"])
    if not isinstance(low, int | float) or isinstance(low, bool):
        raise DomainError(f"{name} has no range; list its values: {name} = [...]")
    step = {"step": typed_setting(name, entry["step"])} if "step" in entry else {}
    return {"low": low, "high": high, **step, "log": entry.get("log", False)}


def _distribution(optuna: Any, name: str, entry: Any) -> Any:
    kinds = optuna.distributions
    if isinstance(entry, list):
        return kinds.CategoricalDistribution(entry)
    kind = kinds.IntDistribution if isinstance(entry["low"], int) else kinds.FloatDistribution
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a step that misses high
            return kind(**entry)
    except (ValueError, UserWarning) as error:
        raise DomainError(f"{name}: {error}") from None


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
    if (best := _best(done)) is not None:
        title = f"# trial {best.number} of {folder.name}, validation MRR {best.score:.4f}\n"
        _write(folder / "best.toml", title + TrainConfig.from_mapping(best.settings).to_toml())


def _write(path: Path, text: str) -> None:
    with writing(path), atomic_write(path) as file:
        file.write(text)


# ------------------------------------------------------------------------------------------------------ the report


def _line(done: list[Trial], searched: list[str]) -> str:
    trial = done[-1]
    drawn = ", ".join(f"{name} {_short(trial.settings[name])}" for name in searched)
    score = "" if trial.score is None else f" {trial.score:.4f}"
    mark = " (best so far)" if trial is _best(done) else ""
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


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _draw(result: SearchResult, searched: dict[str, Any], name: str) -> None:
    """search.png: a panel for the trials and one for each setting, all with the same axis of validation MRR."""
    import matplotlib.style
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    count = 1 + len(searched)
    columns = min(count, 3 if count in (3, 5, 6, 9) else 4)
    rows = math.ceil(count / columns)
    buffer = io.BytesIO()
    with matplotlib.style.context("default"):
        figure = Figure(figsize=(4 * columns, 3.2 * rows + 0.9), layout="constrained", facecolor="white")
        FigureCanvasAgg(figure)
        panels = figure.subplots(rows, columns, sharey=True, squeeze=False).ravel()
        order = sorted(searched, key=lambda key: -result.importance.get(key, 0.0))
        _panel(panels[0], result, [float(trial.number) for trial in result.trials], "trial")
        for axes, key in zip(panels[1:], order, strict=False):
            share = f"  (importance {result.importance[key]:.0%})" if key in result.importance else ""
            entry, values = searched[key], [trial.settings[key] for trial in result.trials]
            if isinstance(entry, list):
                spread = np.random.default_rng(0).uniform(-0.15, 0.15, len(values))  # so that equal ones are seen
                _panel(axes, result, [entry.index(v) + s for v, s in zip(values, spread, strict=True)], key + share)
                axes.set_xticks(range(len(entry)), [_short(value) for value in entry])
                axes.set_xlim(-0.5, len(entry) - 0.5)
            else:
                _panel(axes, result, values, key + share)
                axes.set_xscale("log" if entry["log"] else "linear")
        for axes in panels[1 + len(order) :]:
            axes.remove()
        for axes in panels[::columns]:
            axes.set_ylabel("validation MRR")
        handles, labels = panels[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), frameon=False)
        figure.suptitle(f"{name}: {len(result.trials)} trials, ranked by validation MRR alone")
        figure.savefig(buffer, format="png", dpi=150)
    with writing(result.folder), atomic_write(result.folder / "search.png", "wb") as file:
        file.write(buffer.getvalue())


def _panel(axes: Any, result: SearchResult, x: list[float], title: str) -> None:
    """All trials against x; failed ones stand on the lower edge."""
    state = np.array([trial.state for trial in result.trials])
    score = np.array([np.nan if trial.score is None else trial.score for trial in result.trials])
    where = np.array(x, dtype=float)
    if title == "trial":
        so_far = np.maximum.accumulate(np.where(state == "finished", score, -np.inf))
        axes.step(
            where, np.where(so_far > -np.inf, so_far, np.nan), where="post", color=BEST, lw=1, label="best so far"
        )
    axes.scatter(
        where[state == "pruned"], score[state == "pruned"], 22, facecolors="none", edgecolors=GREY, label="pruned"
    )
    axes.scatter(
        where[state == "finished"], score[state == "finished"], 26, FINISHED, alpha=0.8, lw=0, label="finished"
    )
    if (state == "failed").any():
        failed = where[state == "failed"]
        edge = axes.get_xaxis_transform()
        axes.scatter(failed, np.full(len(failed), 0.02), 28, INK, marker="x", transform=edge, label="failed")
    if (best := result.best) is not None:
        at = result.trials.index(best)
        axes.scatter(where[at], score[at], 150, BEST, marker="*", edgecolors="white", lw=0.6, zorder=3, label="best")
    axes.set_title(title, fontsize=11, color=INK)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


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
