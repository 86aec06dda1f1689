"""The trials of a search, and what Optuna makes of them."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Trial", "best_of", "importances", "study"]

STARTUP = 5  # finished trials before any is pruned
ENOUGH = 30  # trials with a score before importance is computed: a tenth of them is compared with the rest


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


def study(optuna: Any, distributions: dict[str, Any], done: list[Trial]) -> Any:
    """An Optuna study in memory that knows these trials; failed ones are pruned ones without a score to it."""
    known = optuna.create_study(direction="maximize", pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP))
    states = optuna.trial.TrialState
    for trial in done:
        known.add_trial(
            optuna.trial.create_trial(
                state=states.COMPLETE if trial.state == "finished" else states.PRUNED,
                value=trial.score if trial.state == "finished" else None,
                params={name: trial.settings[name] for name in distributions},
                distributions=distributions,
                intermediate_values=dict(trial.scores) if trial.state != "failed" else {},
            )
        )
    return known


def importances(optuna: Any, distributions: dict[str, Any], done: list[Trial]) -> dict[str, float]:
    """Pruned trials count as finished, with the score they had: without them what is bad is not seen to matter."""
    scored = [dataclasses.replace(trial, state="finished") for trial in done if trial.score is not None]
    if len(scored) < ENOUGH:
        return {}
    evaluator = optuna.importance.PedAnovaImportanceEvaluator()
    return optuna.importance.get_param_importances(study(optuna, distributions, scored), evaluator=evaluator)


def best_of(done: Sequence[Trial]) -> Trial | None:
    finished = [trial for trial in done if trial.state == "finished"]
    return max(finished, key=lambda trial: trial.score or 0.0, default=None)
