"""Every example runs, and its lines stay few."""

import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = sorted((Path(__file__).parent.parent / "examples").glob("*.py"))
WITH_DATA = ("hyperbolic_disk", "hyperbolic_retrieval")


def run(path: Path, folder: Path, data: Path | None = None) -> str:
    """What the example prints, run quickly in `folder` with `data` for $GEOEMBED_DATA."""
    environment = {name: value for name, value in os.environ.items() if name != "GEOEMBED_DATA"}
    if data is not None:
        environment["GEOEMBED_DATA"] = str(data)
    done = subprocess.run(
        [sys.executable, str(path), "--quick"], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: path.stem)
def test_example_runs(path, tmp_path):
    printed = run(path, tmp_path)
    assert printed
    assert printed.startswith("skipped") == (path.stem in WITH_DATA)
    assert len(path.read_text(encoding="utf-8").splitlines()) < 80


@pytest.mark.parametrize("name", WITH_DATA)
def test_example_runs_with_its_data(name, tmp_path):
    folder = tmp_path / "metric"
    folder.mkdir()
    write_intents(folder)
    path = next(path for path in EXAMPLES if path.stem == name)
    assert "MAP@R" in run(path, tmp_path, data=tmp_path)
    assert (tmp_path / "hyperbolic-disk.png").exists() == (name == "hyperbolic_disk")


def write_intents(folder: Path) -> None:
    """Files as those of CLINC150, with 128 intents in 4 domains."""
    intents = range(128)
    questions = [[f"domain{i % 4} " + " ".join(f"w{i}x{(j + k) % 6}" for k in range(4)), f"intent_{i}"]
                 for i in intents for j in range(6)]  # fmt: skip
    table = {"train": questions, "val": questions[:1], "test": questions[:1]}
    with gzip.open(folder / "clinc150_data_small.json.gz", "wt") as file:
        json.dump(table, file)
    domains = {f"domain_{d}": [f"intent_{i}" for i in intents if i % 4 == d] for d in range(4)}
    (folder / "clinc150_domains.json").write_text(json.dumps(domains))


def test_there_are_examples():
    assert len(EXAMPLES) >= 4
