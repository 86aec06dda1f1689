"""Settings of a training run: a flat dataclass, read from and written to TOML, one command line flag a field.

Imports nothing heavy, so that `--help` answers at once.
"""

import dataclasses
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from geoembed.errors import DataError, DomainError, UnknownNameError

__all__ = ["TrainConfig"]

MODELS = ("murp", "mure")
MANIFOLDS = ("poincare", "lorentz", "halfspace")


def _setting(default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "low": low})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of `geoembed train`; the defaults suit `wordnet-animals` and are a fair start elsewhere."""

    data: str = _setting("wordnet-animals", "a shipped set, a folder with train/valid/test files, or one TSV file")
    model: str = _setting("murp", "murp (hyperbolic) or mure (Euclidean)", MODELS)
    manifold: str = _setting("poincare", "the model of hyperbolic space that murp uses", MANIFOLDS)
    dim: int = _setting(40, "dimension of the space", low=1)
    curvature: float = _setting(1.0, "c > 0, for the sectional curvature -c", low=0)
    learn_curvature: bool = _setting(False, "train the curvature too")
    parameterisation: str = _setting(
        "tangent",
        "tangent coordinates at the origin with Euclidean steps, or points of the manifold with Riemannian steps",
        ("tangent", "manifold"),
    )
    optimizer: str = _setting("adam", "Riemannian Adam or SGD", ("adam", "sgd"))
    lr: float = _setting(0.015, "learning rate at the start", low=0)
    lr_final: float = _setting(0.05, "fraction of the learning rate left at the end of its linear decay", low=0)
    momentum: float = _setting(0.0, "momentum of sgd", low=0)
    epochs: int = _setting(120, "passes over the training triples", low=1)
    batch_size: int = _setting(512, "triples a step", low=1)
    negatives: int = _setting(128, "corrupted tails a triple is compared with", low=1)
    negative_mode: str = _setting(
        "shared", "one draw of negatives for the whole batch, or one for each triple", ("shared", "independent")
    )
    negative_weight: float = _setting(50.0, "weight of the mean loss of the negatives", low=0)
    penalty: float = _setting(0.025, "weight of d(0, head)^2 + d(0, tail)^2", low=0)
    validate_every: int = _setting(10, "epochs between validations", low=1)
    validate_queries: int = _setting(2000, "at most so many validation queries, the same ones each time", low=1)
    patience: int = _setting(0, "stop after so many validations without a better MRR; 0 never stops early", low=0)
    seed: int = _setting(0, "seed of initial values, batches and negatives", low=0)
    dtype: str = _setting("auto", "auto: float32 for tangent, float64 for points", ("auto", "float32", "float64"))
    compile: bool = _setting(False, "torch.compile the scores; the first steps take up to a minute longer")
    device: str = _setting("cpu", "a torch device")

    def __post_init__(self) -> None:
        for f in dataclasses.fields(self):
            default: Any = f.default
            value: Any = getattr(self, f.name)
            if isinstance(default, float) and isinstance(value, int) and not isinstance(value, bool):
                object.__setattr__(self, f.name, value := float(value))
            if type(value) is not type(default):
                raise DomainError(f"{f.name} must be {type(default).__name__}, got {value!r}")
            choices, low = f.metadata["choices"], f.metadata["low"]
            if choices and value not in choices:
                raise UnknownNameError(f.name, value, choices)
            if low is not None and not (value >= low and math.isfinite(value)):
                raise DomainError(f"{f.name} must be a finite number of at least {low:g}, got {value}")
        if self.curvature == 0:
            raise DomainError("curvature must be positive; for the flat space use --model mure")
        if self.lr_final > 1:
            raise DomainError(f"lr_final is a fraction of lr, at most 1; got {self.lr_final}")

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Settings from names and values; an unknown name lists the closest ones."""
        names = [f.name for f in dataclasses.fields(cls)]
        for name in values:
            if name not in names:
                raise UnknownNameError("setting", name, names)
        return cls(**values)

    @classmethod
    def load(cls, path: Path) -> "TrainConfig":
        """Settings from a TOML file; what it does not name keeps its default."""
        return cls.from_mapping(read_toml(path))

    def replace(self, **values: Any) -> "TrainConfig":
        return dataclasses.replace(self, **values)

    def to_toml(self) -> str:
        return "".join(
            f"{f.name} = {_toml(getattr(self, f.name))}  # {f.metadata['help']}\n" for f in dataclasses.fields(self)
        )


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
