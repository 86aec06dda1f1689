"""`fit`: a training loop that knows neither graphs nor labels, only `step(batch) -> loss`.

It shuffles indices, steps the optimizer, schedules the learning rate, averages the weights, validates, stops early, and
saves checkpoints from which a run goes on as if it had never stopped, bit for bit on one machine's CPU: weights, their
averages, optimizer state, the states of all generators, the place in the epoch and the best weights so far are in them.
Ctrl-C (SIGINT) or SIGTERM ends the step under way, saves, and raises KeyboardInterrupt.
"""

import contextlib
import math
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from tqdm import tqdm

from geoembed import checkpoint as checkpoints
from geoembed.averaging import Averaged
from geoembed.errors import CheckpointError, DomainError
from geoembed.schedules import Schedule

__all__ = ["Fitted", "fit"]


@dataclass
class Fitted:
    """The outcome of `fit`: the epochs that ran, the best validation score and its epoch, one record an epoch."""

    epochs: int
    best_score: float | None
    best_epoch: int | None
    history: list[dict[str, float]] = field(default_factory=list)


@dataclass
class _Progress:
    """The counters of a run; all of it is in the checkpoint."""

    step: int = 0  # steps taken
    epoch: int = 0  # epochs finished
    loss: float = 0.0  # sum over the epoch under way
    best_score: float | None = None
    best_epoch: int | None = None
    seconds: float = 0.0  # training time before the last checkpoint


def fit(
    step: Callable[[Tensor], Tensor],
    n: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    epochs: int,
    batch_size: int,
    generator: torch.Generator,
    generators: Mapping[str, torch.Generator] | None = None,
    schedule: Schedule | None = None,
    averaging: Averaged | None = None,
    validate: Callable[[], float] | None = None,
    validate_every: int = 10,
    patience: int | None = None,
    checkpoint: Path | None = None,
    checkpoint_seconds: float = 30.0,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> Fitted:
    """Minimise the sum of `step(batch)` over batches of the indices 0 .. n - 1.

    Args:
        step: takes an int64 tensor of indices, returns their summed loss as a scalar with a graph.
        n: number of training items.
        model: its weights are what is saved; with `validate`, the best ones are in it at the end.
        optimizer: stepped after each batch; its learning rates are scaled by the schedule.
        epochs, batch_size: passes over the items, items a step.
        generator: shuffles the items. Named ones that `step` draws from go into `generators`.
        schedule: (step, total) -> factor of the learning rates, see `geoembed.schedules`; None keeps them as they are.
        averaging: averages of the weights of `model`, updated after each step. They are what is validated and what is
            in the model at the end: the best ones with `validate`, otherwise the last ones.
        validate: gives a score, higher is better; called every `validate_every` epochs and after the last.
        patience: stop after so many validations without a better score.
        checkpoint: folder of the checkpoints; a run goes on from the latest one it finds there.
        checkpoint_seconds: time between checkpoints; one is also saved at the end and on interruption.
        progress: show a bar with loss, validation score and time left (where standard error is a terminal).
        on_epoch: called after each epoch with the records of all epochs so far.

    Raises:
        DomainError: the loss became NaN or infinite; nothing is saved after that.
        CheckpointError: the checkpoint cannot be read, or does not fit the model.
        KeyboardInterrupt: after saving, when the run was interrupted.
    """
    _check_positive(n=n, epochs=epochs, batch_size=batch_size, validate_every=validate_every)
    steps_per_epoch = math.ceil(n / batch_size)
    total = epochs * steps_per_epoch
    base_lrs = [group["lr"] for group in optimizer.param_groups]
    named = {"batches": generator, **(generators or {})}
    shape: dict[str, Any] = {"n": n, "batch_size": batch_size, "epochs": epochs}
    if averaging is not None:
        shape |= {"averaging": {"decay": averaging.decay, "every": averaging.every}}
    state, history, best = _Progress(), [], None
    epoch_start = generator.get_state()
    if checkpoint is not None and (found := checkpoints.load_latest(checkpoint)) is not None:
        _restore(found, model, optimizer, averaging, named, shape)
        state, history, best = _Progress(**found.state["progress"]), found.state["history"], found.best
        epoch_start = found.state["epoch_start"]
        generator.set_state(epoch_start)
        del found  # its weights are in the model now
    clock = saved_at = time.monotonic()

    def save() -> None:
        if checkpoint is None:
            return
        states = {name: g.get_state() for name, g in named.items()}
        counters = vars(state) | {"seconds": state.seconds + time.monotonic() - clock}
        payload = {
            "progress": counters,
            "history": history,
            "epoch_start": epoch_start,
            "generators": states,
            "optimizer": optimizer.state_dict(),
            "base_lrs": base_lrs,
            "shape": shape,
            "averaging": None if averaging is None else averaging.state_dict(),
        }
        checkpoints.save(checkpoint, checkpoints.Checkpoint(state.step, model.state_dict(), payload, best))

    applied = contextlib.nullcontext if averaging is None else averaging.applied

    def stopped() -> bool:
        waited = 0 if state.best_epoch is None else (state.epoch - state.best_epoch) // validate_every
        return state.epoch >= epochs or (patience is not None and waited >= patience)

    bar = tqdm(total=total, initial=state.step, unit="step", disable=None if progress else True, dynamic_ncols=True)
    with bar, _interruptible() as interrupted:
        while not stopped():
            epoch_start = generator.get_state()
            order = torch.randperm(n, generator=generator)
            first = state.step - state.epoch * steps_per_epoch
            for batch in list(order.split(batch_size))[first:]:
                factor = 1.0 if schedule is None else schedule(state.step, total)
                for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
                    group["lr"] = lr * factor
                optimizer.zero_grad(set_to_none=True)
                loss = step(batch)
                value = loss.item()
                if not math.isfinite(value):
                    raise DomainError(
                        f"the loss became {value} in epoch {state.epoch + 1}, step {state.step + 1}. Lower the "
                        f"learning rate or use float64; checkpoints saved before are intact."
                    )
                loss.backward()
                optimizer.step()
                if averaging is not None:
                    averaging.update()
                state.step += 1
                state.loss += value
                bar.update()
                due = checkpoint is not None and time.monotonic() - saved_at > checkpoint_seconds
                if state.step % steps_per_epoch == 0:
                    break  # the end of an epoch is saved below, with its record
                if due or interrupted():
                    save()
                    saved_at = time.monotonic()
                if interrupted():
                    raise KeyboardInterrupt
            state.epoch += 1
            record: dict[str, float] = {"epoch": state.epoch, "loss": state.loss / n}
            state.loss = 0.0
            if validate is not None and (state.epoch % validate_every == 0 or state.epoch == epochs):
                with applied():
                    record["score"] = validate()
                    if state.best_score is None or record["score"] > state.best_score:
                        state.best_score, state.best_epoch = record["score"], state.epoch
                        best = _copied(model, best)
            record["seconds"] = round(state.seconds + time.monotonic() - clock, 2)
            history.append(record)
            score = "" if state.best_score is None else f", best score {state.best_score:.4f}"
            bar.set_description(f"epoch {state.epoch}/{epochs}, loss {record['loss']:.3f}{score}", refresh=False)
            if on_epoch is not None:
                on_epoch(history)
            epoch_start = generator.get_state()
            if stopped() or interrupted() or time.monotonic() - saved_at > checkpoint_seconds:
                save()
                saved_at = time.monotonic()
            if interrupted() and not stopped():
                raise KeyboardInterrupt
    for group, lr in zip(optimizer.param_groups, base_lrs, strict=True):
        group["lr"] = lr
    if best is None and averaging is not None:
        with applied():
            best = _copied(model)
    if best is not None:
        model.load_state_dict(best)
    return Fitted(state.epoch, state.best_score, state.best_epoch, history)


def _restore(
    found: checkpoints.Checkpoint,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    averaging: Averaged | None,
    generators: Mapping[str, torch.Generator],
    shape: dict[str, Any],
) -> None:
    if found.state.get("shape") != shape:
        raise CheckpointError(
            f"the checkpoint is of a run with {found.state.get('shape')}, this one has {shape}. Use the same settings, "
            f"or another folder."
        )
    try:
        model.load_state_dict(found.weights)
        optimizer.load_state_dict(found.state["optimizer"])
        if averaging is not None:
            averaging.load_state_dict(found.state["averaging"])
        for name, g in generators.items():
            g.set_state(found.state["generators"][name])
    except (RuntimeError, ValueError, KeyError) as error:
        raise CheckpointError(f"the checkpoint does not fit this model: {error}. Use another folder.") from error


def _copied(model: nn.Module, into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """A copy of the weights, in the memory of an older copy where there is one."""
    weights = model.state_dict()
    if into is None:
        return {name: t.detach().clone() for name, t in weights.items()}
    for name, t in weights.items():
        into[name].copy_(t)
    return into


@contextlib.contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within the block the first SIGINT or SIGTERM only sets a flag; a second one acts at once."""
    caught: list[int] = []
    if threading.current_thread() is not threading.main_thread():  # only the main thread may set handlers
        yield lambda: False
        return

    def handler(number: int, frame: Any) -> None:
        caught.append(number)
        if len(caught) > 1:
            raise KeyboardInterrupt

    previous = {number: signal.signal(number, handler) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(caught)
    finally:
        for number, old in previous.items():
            signal.signal(number, old)


def _check_positive(**values: int) -> None:
    for name, value in values.items():
        if value < 1:
            raise DomainError(f"{name} must be at least 1, got {value}")
