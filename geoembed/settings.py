"""What all configurations share: a flat dataclass of checked settings, read from and written to TOML.

Each field is made by `setting`: its default gives the type, and with it come a line of help, the choices and the lowest
value. Imports nothing heavy, so that `--help` answers at once.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self

from geoembed.errors import DataError, DomainError, UnknownNameError

__all__ = ["Settings", "read_toml", "setting"]


def setting(default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None) -> Any:
    """A field of `Settings`."""
    return field(default=default, metadata={"help": text, "choices": choices, "low": low})


@dataclass(frozen=True)
class Settings:
    """Base of the configurations. task: what they are for, the first line of their TOML; a file need not have it."""

    task: ClassVar[str]

    data: str = setting("", "what is trained on")

    def __post_init__(self) -> None:
        for name in self.fields():
            object.__setattr__(self, name, self.check(name, getattr(self, name)))

    @classmethod
    def fields(cls) -> dict[str, dataclasses.Field]:
        return {f.name: f for f in dataclasses.fields(cls)}

    @classmethod
    def typed(cls, name: str, value: Any) -> Any:
        """The value of a setting if it has the type of the default, an int as a float where that is one."""
        fields = cls.fields()
        if name not in fields:
            raise UnknownNameError("setting", name, fields)
        kind = type(fields[name].default)
        value = float(value) if kind is float and type(value) is int else value
        if type(value) is not kind:
            raise DomainError(f"{name} must be {kind.__name__}, got {value!r}")
        return value

    @classmethod
    def check(cls, name: str, value: Any) -> Any:
        """The value of a setting, with its type, if it is possible by itself."""
        value = cls.typed(name, value)
        facts = cls.fields()[name].metadata
        choices, low = facts["choices"], facts["low"]
        if choices and value not in choices:
            raise UnknownNameError(name, value, choices)
        if low is not None and not (value >= low and math.isfinite(value)):
            raise DomainError(f"{name} must be a finite number of at least {low:g}, got {value}")
        return value

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> Self:
        """Settings from names and values; an unknown name lists the closest ones."""
        given = dict(values)
        task = given.pop("task", cls.task)
        if task != cls.task:
            raise DomainError(f"expected settings of the task {cls.task}, got some of the task {task!r}")
        for name in given:
            if name not in cls.fields():
                raise UnknownNameError("setting", name, cls.fields())
        return cls(**given)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Settings from a TOML file; what it does not name keeps its default."""
        return cls.from_mapping(read_toml(path))

    def replace(self, **values: Any) -> Self:
        return dataclasses.replace(self, **values)

    def to_toml(self) -> str:
        lines = (f"{name} = {_toml(getattr(self, name))}  # {f.metadata['help']}" for name, f in self.fields().items())
        return "\n".join([f"task = {_toml(self.task)}", *lines]) + "\n"


def read_toml(path: Path) -> dict[str, Any]:
    """A TOML file as a dictionary; DataError names the file and what is wrong with it."""
    try:
        with open(path, "rb") as file:
            return tomllib.load(file)
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: not valid TOML: {error}") from error


def _toml(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else json.dumps(value, ensure_ascii=False)
