"""What the run folders of all tasks share: settings, names and a record of the data, written once and checked.

run.json       format version, fingerprint and counts of the data; written last, so it marks a folder as complete
config.toml    all settings, the task first
TABLE.tsv      names, one a line; the line number is the row of the weights
"""

import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from geoembed import checkpoint
from geoembed.config import TASKS
from geoembed.errors import CheckpointError, DataError
from geoembed.files import atomic_write
from geoembed.settings import Settings, read_toml

__all__ = ["RunFolder", "next_folder", "task_of"]

FORMAT = 1
Config = TypeVar("Config", bound=Settings)


class RunFolder(Generic[Config]):
    """Base of the runs of each task, which say what their settings, tables of names and weights are.

    folder: where it is; config: the settings; names: a list for each of `tables`.
    """

    task: ClassVar[str]
    tables: ClassVar[tuple[str, ...]]
    weights: ClassVar[str]  # the file that is there once training has ended

    def __init__(self, folder: Path, config: Config, *names: list[str]):
        self.folder, self.config = folder, config
        self.names = dict(zip(self.tables, names, strict=True))

    @classmethod
    def create(cls, folder: Path, config: Config, data: Any) -> Self:
        """A new run folder, or the one that is there if it holds the same settings and data."""
        run = cls(folder, config, *(getattr(data, table) for table in cls.tables))
        run.data = data  # at hand, wherever config.data says they are
        about = {"format": FORMAT, "fingerprint": data.fingerprint(), "counts": data.counts()}
        if (folder / "run.json").exists():
            old = cls.open(folder)
            if old.config != config or old._about != about:
                changed = [name for name, value in vars(config).items() if getattr(old.config, name) != value]
                what = f"other settings ({', '.join(changed)})" if changed else "other data"
                raise CheckpointError(f"{folder} holds a run with {what}. Choose another folder with -o.")
            old.data = data
            return old
        with checkpoint.writing(folder):
            folder.mkdir(parents=True, exist_ok=True)
            run.write_text("config.toml", config.to_toml())
            for table, names in run.names.items():
                run.write_text(f"{table}.tsv", "".join(f"{name}\n" for name in names))
            run.write_text("run.json", json.dumps(about, indent=1))
        return run

    @classmethod
    def open(cls, folder: Path | str) -> Self:
        """The run in a folder; CheckpointError says what is missing, damaged, of another task or an unknown version."""
        folder = Path(folder)
        task = task_of(folder)
        if task != cls.task:
            raise CheckpointError(f"{folder} holds a run of the task {task}; this is for runs of the task {cls.task}")
        config: Any = TASKS[task].load(folder / "config.toml")
        run = cls(folder, config, *([] for _ in cls.tables))
        version = run._about.get("format")
        if version != FORMAT:
            raise CheckpointError(f"{folder} has format {version}, this version of geoembed reads format {FORMAT}")
        for table, names in run.names.items():
            try:
                with open(folder / f"{table}.tsv", encoding="utf-8", newline="\n") as file:
                    names.extend(file.read().removesuffix("\n").split("\n"))  # splitlines parts more than lines
            except (OSError, UnicodeDecodeError) as error:
                raise CheckpointError(f"{folder / table}.tsv cannot be read: {error}") from error
            if len(names) != run._about["counts"][table]:
                raise CheckpointError(f"{folder / table}.tsv has {len(names)} lines, the run {run._about['counts']}")
        return run

    def write_text(self, name: str, text: str) -> None:
        """Write a file of the run folder, whole or not at all."""
        with checkpoint.writing(self.folder / name), atomic_write(self.folder / name) as file:
            file.write(text)

    def write_metrics(self, history: Sequence[dict[str, float]]) -> None:
        """Write metrics.jsonl: a line an epoch."""
        self.write_text("metrics.jsonl", "".join(json.dumps(record) + "\n" for record in history))

    @property
    def trained(self) -> bool:
        return (self.folder / self.weights).is_file()

    def check_trained(self) -> None:
        if not self.trained:
            raise CheckpointError(
                f"{self.folder} is not trained to its end. Go on with: geoembed train --resume {self.folder}"
            )

    def load_data(self) -> Any:
        """The data that the settings name."""
        raise NotImplementedError

    @cached_property
    def data(self) -> Any:
        """The data the run was trained on, found by its name or path; DataError if it is not the same any more."""
        data = self.load_data()
        if data.fingerprint() != self.fingerprint:
            raise DataError(f"{self.config.data} is not the data that {self.folder} was trained on")
        return data

    @property
    def fingerprint(self) -> str:
        """Of the data the run was trained on."""
        return self._about["fingerprint"]

    @cached_property
    def _about(self) -> dict[str, Any]:
        path = self.folder / "run.json"
        try:
            return json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{path} cannot be read: {error}") from error


def task_of(folder: Path) -> str:
    """The task of the run in a folder; CheckpointError if there is none."""
    if not (folder / "run.json").is_file():
        raise CheckpointError(f"{folder} is not a run folder: it has no run.json. Make one with geoembed train.")
    task = read_toml(folder / "config.toml").get("task", "graph")
    if task not in TASKS:
        raise CheckpointError(f"{folder} holds a run of the task {task!r}; this version knows {', '.join(TASKS)}")
    return task


def next_folder(name: str) -> Path:
    """runs/NAME, or with the first free number behind it."""
    base, number = Path("runs") / name, 1
    while (folder := base if number == 1 else base.with_name(f"{name}-{number}")).exists():
        number += 1
    return folder
