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

__all__ = ["TrainConfig", "check_setting", "recipes", "typed_setting"]

MODELS = (
    *("murp", "mure", "murp-full", "rote", "roth", "refe", "refh", "atte", "atth", "hybonet"),
    *("transe", "rotate", "distmult", "complex", "rescal", "tucker"),
)
MANIFOLDS = ("poincare", "lorentz", "halfspace", "euclidean")
ON_A_MANIFOLD = ("murp", "murp-full")  # the models that take a manifold and a curvature
PAIRED = ("rote", "roth", "refe", "refh", "atte", "atth", "rotate", "complex")  # those that pair coordinates
WITH_N3 = ("distmult", "complex")
NEGATIVE_MODES = ("shared", "independent", "typed", "all", "k-vs-all")


def _setting(default: Any, text: str, choices: tuple[str, ...] | None = None, low: float | None = None) -> Any:
    return field(default=default, metadata={"help": text, "choices": choices, "low": low})


@dataclass(frozen=True)
class TrainConfig:
    """All settings of `geoembed train`; the defaults suit `wordnet-animals` and are a fair start elsewhere."""

    data: str = _setting("wordnet-animals", "a shipped set, a folder with train/valid/test files, or a TSV or RDF file")
    model: str = _setting("murp", "murp (hyperbolic), mure (Euclidean), or another model of graphs", MODELS)
    manifold: str = _setting(
        "poincare",
        "where murp and murp-full live: poincare, lorentz or halfspace, or a product such as poincare:20,euclidean:20",
    )
    dim: int = _setting(40, "dimension of the space, the number of reals an entity has", low=1)
    curvature: float = _setting(1.0, "c > 0, for the sectional curvature -c", low=0)
    learn_curvature: bool = _setting(
        False, "train the curvature of murp or murp-full, that of each factor of a product; roth, refh, atth always do"
    )
    parameterisation: str = _setting(
        "tangent",
        "tangent coordinates at the origin with Euclidean steps, or points of the manifold with Riemannian steps",
        ("tangent", "manifold"),
    )
    init_scale: float = _setting(0.0, "standard deviation of the initial values; 0 is the model's own", low=0)
    optimizer: str = _setting("adam", "Riemannian Adam, Adagrad or SGD", ("adam", "adagrad", "sgd"))
    lr: float = _setting(0.015, "learning rate at the start", low=0)
    schedule: str = _setting("linear", "how the learning rate falls", ("constant", "linear", "cosine"))
    lr_final: float = _setting(0.05, "fraction of the learning rate left at the end", low=0)
    warmup: float = _setting(0.0, "share of the training in which the learning rate rises from zero", low=0)
    averaging: float = _setting(0.0, "decay of a moving average of the weights, such as 0.998; 0 is none", low=0)
    momentum: float = _setting(0.0, "momentum of sgd", low=0)
    epochs: int = _setting(120, "passes over the training triples", low=1)
    batch_size: int = _setting(512, "triples a step, or queries in k-vs-all", low=1)
    loss: str = _setting("bce", "see geoembed.losses.links", ("bce", "softmax", "margin", "self-adversarial"))
    margin: float = _setting(1.0, "of the losses margin and self-adversarial", low=0)
    temperature: float = _setting(1.0, "of the loss self-adversarial", low=0)
    label_smoothing: float = _setting(0.0, "share of the targets that is spread out, for bce and softmax", low=0)
    negatives: int = _setting(128, "corrupted tails a triple is compared with", low=1)
    negative_mode: str = _setting(
        "shared",
        "one draw for the whole batch, one for each triple, half of them of the relation's type, all entities, or all "
        "entities for all tails of a query at once",
        NEGATIVE_MODES,
    )
    negative_entities: str = _setting("uniform", "how they are drawn", ("uniform", "frequency"))
    negative_weight: float = _setting(50.0, "weight of the mean loss of the negatives, above 0", low=0)
    hardest: int = _setting(0, "only so many of a triple's negatives count, the likeliest ones; 0 is all", low=0)
    filtered: bool = _setting(False, "leave out negatives that make a training triple")
    bernoulli: bool = _setting(False, "weigh the sides of a triple by how many answers they have")
    regularizer: str = _setting("radius", "what penalty weighs: radius, dura or n3", ("radius", "dura", "n3"))
    penalty: float = _setting(0.025, "weight of the regularizer; radius is d(0, head)^2 + d(0, tail)^2", low=0)
    dropout: float = _setting(0.0, "probability that a coordinate of a relation is dropped", low=0)
    sse: str = _setting("none", "stochastic shared embeddings", ("none", "se", "graph"))
    sse_probability: float = _setting(0.01, "probability that an entity is replaced, with sse", low=0)
    both_directions: bool = _setting(False, "rank by the mean of the scores of (h, r, t) and of (t, inverse r, h)")
    validate_every: int = _setting(10, "epochs between validations", low=1)
    validate_queries: int = _setting(2000, "at most so many validation queries, the same ones each time", low=1)
    patience: int = _setting(0, "stop after so many validations without a better MRR; 0 never stops early", low=0)
    seed: int = _setting(0, "seed of initial values, batches and negatives", low=0)
    dtype: str = _setting("auto", "auto: float32 for tangent, float64 for points", ("auto", "float32", "float64"))
    compile: bool = _setting(False, "torch.compile the scores; the first steps take up to a minute longer")
    device: str = _setting("cpu", "a torch device")

    def __post_init__(self) -> None:
        for name in FIELDS:
            object.__setattr__(self, name, check_setting(name, getattr(self, name)))
        if self.curvature == 0:
            raise DomainError("curvature must be positive; for the flat space use --model mure")
        if self.negative_weight == 0:
            raise DomainError("negative_weight must be positive: without negatives there is nothing to learn")
        for name in ("lr_final", "label_smoothing", "sse_probability"):
            if getattr(self, name) > 1:
                raise DomainError(f"{name} is a fraction, at most 1; got {getattr(self, name)}")
        for name in ("warmup", "averaging", "momentum", "dropout"):
            if getattr(self, name) >= 1:
                raise DomainError(f"{name} is a fraction, below 1; got {getattr(self, name)}")
        self.factors()
        self._check_combinations()

    def _check_combinations(self) -> None:
        """Refuse settings that would fail once the run has begun, or have no effect on it."""
        smoothed, drawn = ("bce", "softmax"), NEGATIVE_MODES[:-1]
        for what, given, name, allowed in (
            ("regularizer n3", self.regularizer == "n3", "model", WITH_N3),
            ("learn_curvature", self.learn_curvature, "model", ON_A_MANIFOLD),
            ("parameterisation manifold", self.parameterisation == "manifold", "model", (*ON_A_MANIFOLD, "mure")),
            ("momentum", self.momentum, "optimizer", ("sgd",)),
            ("label_smoothing", self.label_smoothing, "loss", smoothed),
            ("negative_mode k-vs-all", self.negative_mode == "k-vs-all", "loss", smoothed),
            ("negative_entities frequency", self.negative_entities == "frequency", "negative_mode", drawn[:2]),
            *((name, getattr(self, name), "negative_mode", drawn) for name in ("hardest", "filtered", "bernoulli")),
        ):
            if given and getattr(self, name) not in allowed:
                raise DomainError(f"{what} goes with {name} {' or '.join(allowed)}, not with {getattr(self, name)}")
        if self.learn_curvature and all(name == "euclidean" for name, _ in self.factors()):
            raise DomainError(f"learn_curvature needs a curved manifold, got {self.manifold}")
        if self.dim % 2 and self.model in PAIRED:
            raise DomainError(f"{self.model} pairs coordinates, so dim must be even, got {self.dim}")
        if self.hardest > self.negatives and self.negative_mode != "all":
            raise DomainError(f"hardest is at most negatives = {self.negatives}, got {self.hardest}")

    def factors(self) -> list[tuple[str, int]]:
        """(name, dimension) of the factors that `manifold` names; one of all dimensions for a plain name."""
        parts = []
        for part in self.manifold.split(","):
            name, colon, size = part.strip().partition(":")
            if name not in MANIFOLDS:
                raise UnknownNameError("manifold", name, MANIFOLDS)
            if colon and not (size.isdecimal() and int(size) > 0):
                raise DomainError(f"manifold: expected NAME:DIMENSION with commas between, got {self.manifold!r}")
            parts.append((name, int(size) if colon else self.dim))
        if sum(size for _, size in parts) != self.dim:
            raise DomainError(f"the factors of manifold {self.manifold!r} must add up to dim = {self.dim}")
        return parts

    @classmethod
    def from_mapping(cls, values: Mapping[str, Any]) -> "TrainConfig":
        """Settings from names and values; an unknown name lists the closest ones."""
        for name in values:
            if name not in FIELDS:
                raise UnknownNameError("setting", name, FIELDS)
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


FIELDS: dict[str, dataclasses.Field] = {f.name: f for f in dataclasses.fields(TrainConfig)}


def typed_setting(name: str, value: Any) -> Any:
    """The value of a setting if it has the type of the default, an int as a float where that is one."""
    if name not in FIELDS:
        raise UnknownNameError("setting", name, FIELDS)
    kind = type(FIELDS[name].default)
    value = float(value) if kind is float and type(value) is int else value
    if type(value) is not kind:
        raise DomainError(f"{name} must be {kind.__name__}, got {value!r}")
    return value


def check_setting(name: str, value: Any) -> Any:
    """The value of a setting, with its type, if it is possible by itself."""
    value = typed_setting(name, value)
    choices, low = FIELDS[name].metadata["choices"], FIELDS[name].metadata["low"]
    if choices and value not in choices:
        raise UnknownNameError(name, value, choices)
    if low is not None and not (value >= low and math.isfinite(value)):
        raise DomainError(f"{name} must be a finite number of at least {low:g}, got {value}")
    return value


def recipes() -> dict[str, Path]:
    """The settings files that come with the package, by name; each says in its first line what it gives."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}


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
