"""`geoembed compare`: runs, folders that go on, tables with verdicts, and every loss with every distance."""

import json

import numpy as np
import pytest
import torch

from geoembed.cli import main
from geoembed.compare.experiment import compare, run_one, untrained
from geoembed.compare.settings import DISTANCES, LOSSES, CompareConfig
from geoembed.compare.table import Table, write
from geoembed.data.labelled import Labelled
from geoembed.errors import CheckpointError, DataError, DomainError, UnknownNameError
from geoembed.pointsets import PointSets

SMALL = CompareConfig(
    losses="triplet,proxy-anchor", distances="euclidean,poincare", seeds=2, dim=8, hidden=16, steps=4, batch_size=8,
    per_class=2, set_size=2,
)  # fmt: skip


def labelled(items=None, classes: int = 6, each: int = 6) -> Labelled:
    generator = torch.Generator().manual_seed(0)
    labels = torch.arange(classes).repeat_interleave(each)
    if items is None:
        items = torch.randn(classes, 5, generator=generator)[labels] + 0.3 * torch.randn(
            len(labels), 5, generator=generator
        )
    names = [f"class {i}" for i in range(classes)]
    return Labelled(items, labels, names, "toy", coarse=labels // 2, coarse_names=list("abcdef"))


def figures(runs):
    return [{name: value for name, value in run.items() if name != "seconds"} for run in runs]


def test_runs_are_complete_and_repeat_to_the_bit():
    runs = compare(SMALL, data=labelled(), workers=1)
    assert len(runs) == 2 * 2 * 2 * 2
    assert {(r["loss"], r["distance"], r["seed"], r["fold"]) for r in runs} == {
        (loss, distance, seed, fold)
        for loss in ("triplet", "proxy-anchor")
        for distance in ("euclidean", "poincare")
        for seed in (0, 1)
        for fold in (0, 1)
    }
    assert figures(compare(SMALL, data=labelled(), workers=1)) == figures(runs)
    assert all(0 <= run["map@r"] <= run["r-precision"] <= 1 for run in runs)


def test_two_workers_find_the_same():
    small = SMALL.replace(seeds=1, losses="triplet")
    assert figures(compare(small, data=labelled(), workers=2)) == figures(compare(small, data=labelled(), workers=1))


def test_a_comparison_goes_on_where_it_stopped(tmp_path):
    folder = tmp_path / "c"
    whole = compare(SMALL, folder, data=labelled(), workers=1)
    path = folder / "results.jsonl"
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:5]) + lines[5][:20])  # killed while it wrote a line
    again = compare(SMALL, folder, data=labelled(), workers=1)
    assert figures(again) == figures(whole)
    assert [run["seconds"] for run in again[:1]] == [whole[0]["seconds"]]  # not done again
    assert len(path.read_text().splitlines()) == len(whole)
    more = compare(SMALL.replace(losses="triplet,nt-xent", seeds=3), folder, data=labelled(), workers=1)
    assert len(more) == 2 * 2 * 3 * 2
    assert len(path.read_text().splitlines()) == 16 + 8 + 8  # two seeds of nt-xent, a third of both; the rest stays


def test_a_folder_of_another_recipe_is_refused(tmp_path):
    folder = tmp_path / "c"
    small = SMALL.replace(seeds=1, losses="triplet", distances="euclidean")
    compare(small, folder, data=labelled(), workers=1)
    with pytest.raises(CheckpointError, match=r"holds a comparison with lr = 0.001, not 0.01"):
        compare(small.replace(lr=0.01), folder, data=labelled(), workers=1)
    with open(folder / "results.jsonl", "a") as file:
        file.write("not json\n")
    with pytest.raises(CheckpointError, match=r"results.jsonl:3: not a result"):
        compare(small, folder, data=labelled(), workers=1)
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "letter.txt").write_text("dear")
    with pytest.raises(CheckpointError, match="holds no comparison"):
        compare(small, tmp_path / "other", data=labelled(), workers=1)
    assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


@pytest.mark.parametrize("loss", LOSSES)
def test_every_loss_runs_with_every_distance(loss):
    config = SMALL.replace(steps=2)
    for distance in DISTANCES:
        run = {"loss": loss, "distance": distance, "seed": 0, "fold": 0, "folds": 2}
        found = run_one(run, labelled(), config)
        assert np.isfinite(found["map@r"]), distance


@pytest.mark.parametrize("kind", ["images", "sets", "ragged sets"])
@pytest.mark.parametrize("distance", ["euclidean", "lorentz", "sliced-wasserstein"])
def test_other_items(kind, distance):
    generator = torch.Generator().manual_seed(1)
    if kind == "images":
        items = torch.rand(36, 1, 28, 28, generator=generator)
    elif kind == "sets":
        items = torch.rand(36, 7, 3, generator=generator)
    else:
        items = PointSets.from_list([torch.rand(3 + i % 4, 3, generator=generator) for i in range(36)])
    data = labelled(items)
    for loss in ("triplet", "normalized-softmax"):
        run = {"loss": loss, "distance": distance, "seed": 0, "fold": 1, "folds": 2}
        assert np.isfinite(run_one(run, data, SMALL.replace(steps=2))["map@r"])
    assert (untrained(data, SMALL) is None) == (kind == "ragged sets")


def test_items_of_no_known_shape_are_refused():
    with pytest.raises(DataError, match=r"\(3, 5, 5\): expected vectors"):
        compare(SMALL, data=labelled(torch.rand(36, 3, 5, 5)), workers=1)


@pytest.mark.parametrize("held_out", ["classes", "coarse", "items"])
def test_what_is_held_out(held_out):
    from geoembed.compare.experiment import _split

    data, folds = labelled(), 3
    parts = _split(data, SMALL.replace(held_out=held_out), folds, seed=4)
    assert torch.equal(torch.cat([held for _, held in parts]).sort()[0], torch.arange(36))
    for train, held in parts:
        assert not set(train.tolist()) & set(held.tolist())
        shared = set(data.labels[train].tolist()) & set(data.labels[held].tolist())
        above = set(data.coarse[train].tolist()) & set(data.coarse[held].tolist())
        assert (shared == set()) == (held_out != "items")
        if held_out == "coarse":
            assert not above
        if held_out == "items":
            assert data.labels[held].bincount().tolist() == [2] * 6


def test_training_learns_on_separable_items():
    config = SMALL.replace(held_out="items", steps=150, lr=0.02, losses="triplet", distances="euclidean", seeds=1)
    signal = (
        torch.randn(36, 1, generator=torch.Generator().manual_seed(2)) / 9
        + torch.arange(6.0).repeat_interleave(6)[:, None]
    )
    data = labelled(torch.cat([signal, 4 * torch.randn(36, 4, generator=torch.Generator().manual_seed(3))], 1))
    before = compare(config.replace(steps=1, lr=0.0), data=data, workers=1)
    after = compare(config, data=data, workers=1)
    assert min(run["map@r"] for run in after) > max(run["map@r"] for run in before)


def test_trials_choose_on_the_training_part_only():
    """The held-out items are spoilt, so that a choice that looked at them would change."""
    data, run = labelled(classes=12), {"loss": "triplet", "distance": "euclidean", "seed": 0, "fold": 0, "folds": 2}
    config = SMALL.replace(trials=4)
    found = run_one(run, data, config)
    from geoembed.compare.experiment import _split

    held = _split(data, config, 2, 0)[0][1]
    items = data.items.clone()
    items[held] = torch.randn(len(held), 5, generator=torch.Generator().manual_seed(5))
    again = run_one(run, labelled(items, classes=12), config)
    assert (found["lr"], found["margin_scale"]) == (again["lr"], again["margin_scale"])


def synthetic(values: dict[tuple[str, str], list[float]]) -> list[dict]:
    return [
        {"loss": loss, "distance": distance, "seed": seed, "fold": fold, "map@r": value + (0.01 if fold else -0.01)}
        for (loss, distance), by_seed in values.items()
        for seed, value in enumerate(by_seed)
        for fold in (0, 1)
    ]


def test_the_table_says_what_the_intervals_say(tmp_path):
    runs = synthetic(
        {
            ("triplet", "euclidean"): [0.50, 0.60, 0.55, 0.52],
            ("triplet", "snr"): [0.56, 0.52, 0.60, 0.50],
            ("triplet", "poincare"): [0.60, 0.701, 0.649, 0.622],
        }
    )
    table = Table(runs, untrained=[0.4, 0.5, 0.45, 0.45])
    text = table.markdown()
    assert "no difference for snr" in text
    assert "poincare is better by 0.100" in text
    assert "0.542 ± 0.069" in text  # scipy.stats.t.interval of the four means
    assert "0.450 ± 0.065, less than the best mean of the table, 0.643 (triplet with poincare)" in text
    assert "4 seeds" in text
    write(table, tmp_path)
    assert (tmp_path / "table.png").stat().st_size > 10_000
    rows = [line.split("\t") for line in (tmp_path / "table.tsv").read_text().splitlines()]
    assert rows[0][:3] == ["loss", "distance", "mean"]
    assert rows[3][1] == "poincare"
    assert rows[3][-1] == "poincare better"


def test_one_seed_gives_no_verdict():
    text = Table(synthetic({("triplet", "euclidean"): [0.1], ("triplet", "snr"): [0.9]})).markdown()
    assert "no difference for snr" in text
    assert "±" not in text
    with pytest.raises(DataError, match="no runs"):
        Table([])


def test_settings_are_checked():
    with pytest.raises(UnknownNameError, match="'triplet'"):
        CompareConfig(losses="tripet")
    with pytest.raises(UnknownNameError, match="poincare"):
        CompareConfig(distances="euclidean,poincar")
    with pytest.raises(DomainError, match="given twice"):
        CompareConfig(losses="triplet,triplet")
    with pytest.raises(DomainError, match="set_size must divide"):
        CompareConfig(set_size=5)
    with pytest.raises(DomainError, match="it takes 2"):
        compare(SMALL, data=labelled(torch.rand(12, 5), classes=2), workers=1)
    plain = Labelled(torch.rand(8, 2), torch.arange(8) // 2, list("abcd"), "plain")
    with pytest.raises(DataError, match="no coarse labels"):
        compare(SMALL.replace(held_out="coarse"), data=plain, workers=1)


def test_command_line(tmp_path, capsys):
    data = labelled()
    np.savez(tmp_path / "toy.npz", x=data.items.numpy(), y=data.labels.numpy())
    folder = tmp_path / "out"
    words = "--losses triplet --distances euclidean,snr --seeds 1 --steps 2 --dim 8 --batch-size 8 --per-class 2"
    assert main(["compare", str(tmp_path / "toy.npz"), "-o", str(folder), "--workers", "1", *words.split()]) == 0
    out = capsys.readouterr().out
    assert "| triplet" in out
    assert "Without training" in out
    assert sorted(path.name for path in folder.iterdir()) == [
        *("config.toml", "results.jsonl", "table.md", "table.png", "table.tsv")
    ]
    assert main(["compare", "--resume", str(folder), "--seeds", "2", "--metric", "p@1", "--workers", "1"]) == 0
    assert "P@1" in capsys.readouterr().out
    assert len([json.loads(line) for line in (folder / "results.jsonl").read_text().splitlines()]) == 8
    assert main(["compare", "--resume", str(folder), "--steps", "3"]) == 1
    assert "Choose another folder" in capsys.readouterr().err
    assert main(["compare", "--loses", "triplet"]) == 1
    assert "--losses" in capsys.readouterr().err
    assert main(["compare", str(tmp_path / "none.npz")]) == 1
    assert "none.npz" in capsys.readouterr().err
