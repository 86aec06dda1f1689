"""`fit`, checkpoints and their files: schedules, averages, early stopping, resume to the same bits, kills, damage."""

import errno
import functools
import json
import os
import random
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from geoembed import checkpoint as checkpoints
from geoembed.averaging import Averaged
from geoembed.checkpoint import Checkpoint
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import CheckpointError, DomainError
from geoembed.graph_training import train_model
from geoembed.optim import OPTIMIZERS
from geoembed.schedules import schedule
from geoembed.training import fit

CONFIG = TrainConfig(
    dim=4, epochs=6, batch_size=16, negatives=8, validate_every=2, lr=0.05, penalty=0.001, dtype="float32"
)


def tree(n: int = 60) -> Triples:
    edges = [(f"n{i:03}", "parent", f"n{(i - 1) // 2:03}") for i in range(1, n)]
    edges += [(f"n{i:03}", "next", f"n{i + 1:03}") for i in range(1, n - 1)]
    return Triples.from_triples(edges, name="tree").split(0.1, 0.1, torch.Generator().manual_seed(0))


class Toy(torch.nn.Module):
    """w fitted to random targets, with a random draw each step, so that every generator matters."""

    def __init__(self):
        super().__init__()
        self.w = torch.nn.Parameter(torch.zeros(3))
        self.targets = torch.randn(20, 3, generator=torch.Generator().manual_seed(1))
        self.noise = torch.Generator().manual_seed(2)

    def step(self, batch):
        noise = 0.1 * torch.randn(len(batch), 3, generator=self.noise)
        return (self.targets[batch] + noise - self.w).square().sum()


def run_toy(toy, folder=None, *, epochs=4, optimizer="adam", average=None, **options):
    optimizer = OPTIMIZERS[optimizer](toy.parameters(), lr=0.1)
    return fit(
        options.pop("step", toy.step),
        20,
        toy,
        optimizer,
        epochs=epochs,
        batch_size=6,
        generator=torch.Generator().manual_seed(3),
        generators={"noise": toy.noise},
        averaging=None if average is None else Averaged(toy, *average),
        checkpoint=folder,
        checkpoint_seconds=options.pop("checkpoint_seconds", 1e9),
        progress=False,
        **options,
    )


def test_fit_minimises_and_visits_every_item_once_an_epoch():
    toy, seen = Toy(), []

    def step(batch):
        seen.append(batch)
        return toy.step(batch)

    fitted = run_toy(toy, step=step, epochs=100)
    assert [len(batch) for batch in seen[:4]] == [6, 6, 6, 2]
    assert sorted(torch.cat(seen[:4]).tolist()) == list(range(20))
    assert torch.cat(seen[:4]).tolist() != torch.cat(seen[4:8]).tolist()
    assert (toy.w - toy.targets.mean(0)).abs().max() < 0.1
    assert fitted.epochs == 100
    assert fitted.history[0]["loss"] > fitted.history[-1]["loss"]


@pytest.mark.parametrize("given", [None, schedule("linear", final=0.2), lambda step, total: 2.0**-step + total])
def test_learning_rates_follow_the_schedule_and_are_put_back(given):
    toy, rates = Toy(), []
    optimizer = torch.optim.SGD([{"params": [toy.w]}, {"params": [torch.zeros(1)], "lr": 0.25}], lr=0.5)

    def step(batch):
        rates.append([group["lr"] for group in optimizer.param_groups])
        return 0.001 * toy.step(batch)

    fit(step, 20, toy, optimizer, epochs=2, batch_size=5, generator=torch.Generator(), schedule=given, progress=False)
    factors = [1.0 if given is None else given(k, 8) for k in range(8)]
    assert rates == [[0.5 * factor, 0.25 * factor] for factor in factors]
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.25]


@pytest.mark.parametrize("validated", [False, True])
def test_averages_are_validated_and_kept_and_do_not_touch_the_training(validated):
    """16 steps; the average by its definition from the weights of a run without it."""
    plain, path = Toy(), []

    def recorded(batch):
        path.append(plain.w.detach().clone())
        return plain.step(batch)

    run_toy(plain, step=recorded)
    path.append(plain.w.detach().clone())
    average, averages = path[0].double(), []
    for t, w in enumerate(path[1:], 1):
        if t % 2 == 0:
            d = min(0.8, (1 + t) / (10 + t)) ** 2
            average = d * average + (1 - d) * w
        averages.append(average)

    toy, seen, trained, scores = Toy(), [], [], iter([1.0, 7.0, 5.0, 6.0])

    def step(batch):
        trained.append(toy.w.detach().clone())
        return toy.step(batch)

    def validate():
        seen.append(toy.w.detach().clone())
        return next(scores)

    run_toy(toy, step=step, average=(0.8, 2), validate=validate if validated else None, validate_every=1)
    assert all(torch.equal(mine, expected) for mine, expected in zip(trained, path, strict=False))
    close = functools.partial(torch.testing.assert_close, rtol=1e-5, atol=1e-6, check_dtype=False)
    if validated:
        for mine, expected in zip(seen, averages[3::4], strict=True):
            close(mine, expected)
    close(toy.w.detach(), averages[7 if validated else 15])
    assert (toy.w - path[-1]).abs().max() > 0.01


def test_early_stopping_keeps_the_best_weights():
    toy, scores, weights = Toy(), iter([1.0, 3.0, 2.0, 2.5, 9.0]), []

    def validate():
        weights.append(toy.w.detach().clone())
        return next(scores)

    fitted = run_toy(toy, epochs=10, validate=validate, validate_every=1, patience=2)
    assert (fitted.epochs, fitted.best_score, fitted.best_epoch) == (4, 3.0, 2)
    assert torch.equal(toy.w.detach(), weights[1])


def test_a_loss_that_is_not_finite_stops_with_an_error():
    toy = Toy()
    with pytest.raises(DomainError, match=r"loss became nan in epoch 1, step 1\. Lower the learning rate"):
        run_toy(toy, step=lambda batch: toy.w.sum() * float("nan"))
    assert torch.equal(toy.w.detach(), torch.zeros(3))


@pytest.mark.parametrize("name", ["epochs", "batch_size", "n", "validate_every"])
def test_sizes_must_be_positive(name):
    values = {"n": 20, "epochs": 2, "batch_size": 5, "validate_every": 1} | {name: 0}
    toy = Toy()
    with pytest.raises(DomainError, match=f"{name} must be at least 1"):
        fit(
            toy.step,
            values.pop("n"),
            toy,
            torch.optim.SGD(toy.parameters(), lr=1),
            generator=torch.Generator(),
            progress=False,
            **values,
        )


RUNS = [
    {},
    {"validate_every": None},
    {"average": (0.9,)},
    {"average": (0.9, 3), "schedule": schedule("cosine", warmup=0.3, final=0.1), "optimizer": "adagrad"},
    {"average": (0.5, 2), "validate_every": None, "optimizer": "sgd", "schedule": schedule("linear")},
    {"average": (0.9, 5), "patience": 1},
]


@pytest.mark.parametrize("signal_number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 8, 15, 16])
@pytest.mark.parametrize("options", RUNS, ids=range(len(RUNS)))
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path, signal_number, stop_at, options):
    every = options.get("validate_every", 2)

    def run(toy, folder=None, **more):
        score = None if every is None else lambda: -toy.w.norm().item()
        return run_toy(toy, folder, **options | {"validate": score, "validate_every": every or 1} | more)

    whole = Toy()
    reference = run(whole)
    toy, calls = Toy(), []

    def step(batch):
        calls.append(batch)
        if len(calls) == stop_at:
            signal.raise_signal(signal_number)
        return toy.step(batch)

    if stop_at < 4 * reference.epochs:
        with pytest.raises(KeyboardInterrupt):
            run(toy, tmp_path, step=step)
    else:  # it was the last step, or none: the run is over, and is not run again
        run(toy, tmp_path, step=step)
    again = Toy()
    fitted = run(again, tmp_path)
    assert torch.equal(again.w, whole.w)
    strip = [{k: v for k, v in record.items() if k != "seconds"} for record in fitted.history]
    assert strip == [{k: v for k, v in record.items() if k != "seconds"} for record in reference.history]
    assert (fitted.best_score, fitted.best_epoch) == (reference.best_score, reference.best_epoch)


def test_signal_handlers_are_put_back(tmp_path):
    before = signal.getsignal(signal.SIGINT)
    run_toy(Toy(), tmp_path)
    assert signal.getsignal(signal.SIGINT) is before


def stop_after(steps: int, monkeypatch) -> None:
    """Raise SIGINT within the given step of the next training."""
    from geoembed.tasks import LinkPrediction

    original, calls = LinkPrediction.step, []

    def step(self, batch):
        calls.append(1)
        if len(calls) == steps:
            signal.raise_signal(signal.SIGINT)
        return original(self, batch)

    monkeypatch.setattr(LinkPrediction, "step", step)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"optimizer": "sgd", "lr": 0.01, "momentum": 0.5},
        {"parameterisation": "manifold", "manifold": "lorentz", "dtype": "float64"},
        {"negative_mode": "independent", "learn_curvature": True},
        {"model": "mure", "patience": 1},
        {"optimizer": "adagrad", "averaging": 0.9, "schedule": "cosine", "warmup": 0.1},
        {"parameterisation": "manifold", "dtype": "float64", "learn_curvature": True, "averaging": 0.9},
    ],
    ids=str,
)
def test_link_prediction_resumes_to_the_same_bits(tmp_path, monkeypatch, changes):
    config, triples = CONFIG.replace(**changes), tree()
    reference, _ = train_model(config, triples, progress=False)
    with monkeypatch.context() as patch:
        stop_after(random.Random(str(changes)).randrange(2, 35), patch)
        with pytest.raises(KeyboardInterrupt):
            train_model(config, triples, checkpoint=tmp_path, progress=False)
    model, _ = train_model(config, triples, checkpoint=tmp_path, progress=False)
    for name, tensor in reference.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name]), name


def test_the_same_seed_gives_the_same_model_and_another_seed_another():
    a, b, c = (train_model(CONFIG.replace(seed=seed), tree(), progress=False)[0] for seed in (0, 0, 1))
    assert torch.equal(a.entity, b.entity)
    assert not torch.equal(a.entity, c.entity)


@pytest.mark.filterwarnings("ignore")  # raised inside torch.compile
def test_compiled_scores_train_to_the_same_weights(monkeypatch):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    config = CONFIG.replace(epochs=1, dtype="float64")
    plain, _ = train_model(config, tree(), progress=False)
    compiled, _ = train_model(config.replace(compile=True), tree(), progress=False)
    torch.testing.assert_close(compiled.entity, plain.entity, rtol=1e-9, atol=1e-12)


KILLS = """
import itertools, os, random, signal, sys, time
from pathlib import Path
import torch, torch._dynamo  # the second is loaded by the first optimizer, which takes seconds
from test_training import Toy, run_toy
from geoembed.checkpoint import load_latest

torch.set_num_threads(1)
folder, moments = Path(sys.argv[1]), random.Random(0)
options = dict(epochs=10**6, average=(0.99, 3), checkpoint_seconds=0.0, validate=lambda: 1.0, validate_every=1)
for _ in range(100):
    child = os.fork()
    if child == 0:
        toy = Toy()
        run_toy(toy, folder, **options)
        os._exit(1)
    time.sleep(moments.uniform(0.0, 0.25))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    found = load_latest(folder)
    print(0 if found is None else found.step)

toy, calls = Toy(), itertools.count(1)

def step(batch):
    if next(calls) == found.step:
        signal.raise_signal(signal.SIGINT)
    return toy.step(batch)

try:
    run_toy(toy, folder / "whole", step=step, **options | {"checkpoint_seconds": 1e9})
except KeyboardInterrupt:
    whole = load_latest(folder / "whole")
for mine, other in (
    (found.weights, whole.weights),
    (found.best, whole.best),
    (found.state["averaging"]["averages"], whole.state["averaging"]["averages"]),
    (found.state["optimizer"]["state"][0], whole.state["optimizer"]["state"][0]),
    (found.state["generators"], whole.state["generators"]),
):
    assert mine.keys() == other.keys()
    assert all(torch.equal(value, other[name]) for name, value in mine.items())
assert found.state["progress"]["loss"] == whole.state["progress"]["loss"]
"""


def test_a_hundred_kills_leave_every_run_readable(tmp_path):
    """SIGKILL at random moments of a run that saves at every step; each run goes on where the last one fell.

    After all of them, weights, averages and the rest are what they are in a run of so many steps without a kill.
    """
    tests = str(Path(__file__).parent)
    done = subprocess.run(
        [sys.executable, "-c", KILLS, str(tmp_path)], cwd=tests, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    steps = [int(line) for line in done.stdout.split()]
    assert len(steps) == 100
    assert steps == sorted(steps)
    assert steps[-1] > 100
    assert len([path for path in tmp_path.iterdir() if path.name.isdecimal()]) <= 2


# ------------------------------------------------------------------------------------------------- checkpoint files


def saved(folder: Path, step: int = 7) -> Checkpoint:
    checkpoint = Checkpoint(
        step, {"w": torch.arange(6.0).view(2, 3).T}, {"lr": 0.1, "rng": torch.Generator().get_state()}
    )
    checkpoints.save(folder, checkpoint)
    return checkpoint


def test_round_trip_and_only_the_latest_is_kept(tmp_path):
    assert checkpoints.load_latest(tmp_path / "none") is None
    saved(tmp_path, 7)
    original = saved(tmp_path, 9)
    found = checkpoints.load_latest(tmp_path)
    assert found.step == 9
    assert torch.equal(found.weights["w"], original.weights["w"])
    assert torch.equal(found.state["rng"], original.state["rng"])
    assert found.best is None
    assert sorted(path.name for path in tmp_path.iterdir()) == ["000000009", "latest"]
    saved(tmp_path, 9)  # the same step again
    assert checkpoints.load_latest(tmp_path).step == 9


@pytest.mark.parametrize("name", ["model.safetensors", "state.pt"])
def test_a_truncated_file_is_named(tmp_path, name):
    saved(tmp_path)
    path = tmp_path / "000000007" / name
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(CheckpointError, match=rf"{name} is damaged"):
        checkpoints.load_latest(tmp_path)
    path.unlink()
    with pytest.raises(CheckpointError, match=rf"{name} is damaged \(missing"):
        checkpoints.load_latest(tmp_path)


def test_damaged_manifest_pointer_and_unknown_version(tmp_path):
    saved(tmp_path)
    manifest = tmp_path / "000000007" / "manifest.json"
    content = json.loads(manifest.read_text())
    manifest.write_text(json.dumps(content | {"format": 99}))
    with pytest.raises(CheckpointError, match=r"format 99, this version of geoembed reads format 1"):
        checkpoints.load_latest(tmp_path)
    manifest.write_text("{")
    with pytest.raises(CheckpointError, match="manifest"):
        checkpoints.load_latest(tmp_path)
    for name in ("000000123", "../../etc", ""):
        (tmp_path / "latest").write_text(name)
        with pytest.raises(CheckpointError, match="not there"):
            checkpoints.load_latest(tmp_path)


def test_weights_files(tmp_path):
    path = tmp_path / "w.safetensors"
    checkpoints.save_weights(path, {"a": torch.tensor([1.0, float("nan"), float("inf")])})
    with pytest.raises(CheckpointError, match="2 of 3 values of 'a' are NaN or infinite"):
        checkpoints.load_weights(path)
    path.write_bytes(path.read_bytes()[:20])
    with pytest.raises(CheckpointError, match="cannot be read as safetensors"):
        checkpoints.load_weights(path)
    with pytest.raises(CheckpointError, match="none"):
        checkpoints.load_weights(tmp_path / "none")


def test_full_disk_leaves_the_previous_checkpoint(tmp_path, monkeypatch):
    saved(tmp_path, 7)

    def full(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(checkpoints.torch, "save", full)
        with pytest.raises(CheckpointError, match=r"No space left on device.*is unchanged"):
            saved(tmp_path, 8)
        patch.undo()
        patch.setattr(os, "fsync", full)
        with pytest.raises(CheckpointError, match="No space left on device"):
            saved(tmp_path, 8)
        with pytest.raises(CheckpointError, match="No space left on device"):
            checkpoints.save_weights(tmp_path / "w.safetensors", {"a": torch.ones(1)})
    assert checkpoints.load_latest(tmp_path).step == 7
    assert not (tmp_path / "w.safetensors").exists()
    assert [path for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(CheckpointError, match="cannot write"):
        saved(tmp_path / "file" / "checkpoints")


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    run_toy(Toy(), tmp_path)
    with pytest.raises(CheckpointError, match="Use the same settings, or another folder"):
        run_toy(Toy(), tmp_path, epochs=9)
    with pytest.raises(CheckpointError, match=r"this one has .*'decay': 0\.9"):
        run_toy(Toy(), tmp_path, average=(0.9,))
    other = Toy()
    other.w = torch.nn.Parameter(torch.zeros(5))
    with pytest.raises(CheckpointError, match="does not fit this model"):
        run_toy(other, tmp_path)
