"""Settings of the tasks that `geoembed train` has: one command line flag a field.

Imports nothing heavy, so that `--help` answers at once.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from geoembed.errors import DomainError, UnknownNameError
from geoembed.schedules import schedule
from geoembed.settings import Settings, read_toml, setting

__all__ = ["TASKS", "HierarchyConfig", "TrainConfig", "check_setting", "read_toml", "recipes", "typed_setting"]

MODELS = (
    *("murp", "mure", "murp-full", "rote", "roth", "refe", "refh", "atte", "atth", "hybonet"),
    *("transe", "rotate", "distmult", "complex", "rescal", "tucker"),
)
MANIFOLDS = ("poincare", "lorentz", "halfspace", "euclidean")
ON_A_MANIFOLD = ("murp", "murp-full")  # the models that take a manifold and a curvature
PAIRED = ("rote", "roth", "refe", "refh", "atte", "atth", "rotate", "complex")  # those that pair coordinates
WITH_N3 = ("distmult", "complex")
NEGATIVE_MODES = ("shared", "independent", "typed", "all", "k-vs-all")
TAUGHT: dict[str, tuple[Any, ...]] = {  # what a model with teachers may have: their probabilities are all it learns
    "loss": ("bce",),
    "label_smoothing": (0,),
    "negative_mode": NEGATIVE_MODES[:3],
    "hardest": (0,),
    "filtered": (False,),
    "sse": ("none",),
}


@dataclass(frozen=True)
class TrainConfig(Settings):
    """Settings of graphs of triples; the defaults suit `wordnet-animals` and are a fair start elsewhere."""

    task: ClassVar[str] = "graph"

    data: str = setting("wordnet-animals", "a shipped set, a folder with train/valid/test files, or a TSV or RDF file")
    model: str = setting("murp", "murp (hyperbolic), mure (Euclidean), or another model of graphs", MODELS)
    manifold: str = setting(
        "poincare",
        "where murp and murp-full live: poincare, lorentz or halfspace, or a product such as poincare:20,euclidean:20",
    )
    dim: int = setting(40, "dimension of the space, the number of reals an entity has", low=1)
    curvature: float = setting(1.0, "c > 0, for the sectional curvature -c", low=0)
    learn_curvature: bool = setting(
        False, "train the curvature of murp or murp-full, that of each factor of a product; roth, refh, atth always do"
    )
    parameterisation: str = setting(
        "tangent",
        "tangent coordinates at the origin with Euclidean steps, or points of the manifold with Riemannian steps",
        ("tangent", "manifold"),
    )
    init_scale: float = setting(0.0, "standard deviation of the initial values; 0 is the model's own", low=0)
    optimizer: str = setting("adam", "Riemannian Adam, Adagrad or SGD", ("adam", "adagrad", "sgd"))
    lr: float = setting(0.015, "learning rate at the start", low=0)
    schedule: str = setting("linear", "how the learning rate falls", ("constant", "linear", "cosine"))
    lr_final: float = setting(0.05, "fraction of the learning rate left at the end", low=0)
    warmup: float = setting(0.0, "share of the training in which the learning rate rises from zero", low=0)
    averaging: float = setting(0.0, "decay of a moving average of the weights, such as 0.998; 0 is none", low=0)
    momentum: float = setting(0.0, "momentum of sgd", low=0)
    epochs: int = setting(120, "passes over the training triples", low=1)
    batch_size: int = setting(512, "triples a step, or queries in k-vs-all", low=1)
    loss: str = setting("bce", "see geoembed.losses.links", ("bce", "softmax", "margin", "self-adversarial"))
    margin: float = setting(1.0, "of the losses margin and self-adversarial", low=0)
    temperature: float = setting(1.0, "of the loss self-adversarial", low=0)
    label_smoothing: float = setting(0.0, "share of the targets that is spread out, for bce and softmax", low=0)
    negatives: int = setting(128, "corrupted tails a triple is compared with", low=1)
    negative_mode: str = setting(
        "shared",
        "one draw for the whole batch, one for each triple, half of them of the relation's type, all entities, or all "
        "entities for all tails of a query at once",
        NEGATIVE_MODES,
    )
    negative_entities: str = setting("uniform", "how they are drawn", ("uniform", "frequency"))
    negative_weight: float = setting(50.0, "weight of the mean loss of the negatives, above 0", low=0)
    teachers: str = setting(
        "", "folders of trained runs of the same data, with commas between: learn their mean scores, not the triples"
    )
    teacher_answers: int = setting(
        16, "answers that the teachers find likeliest are learnt with each training query; 0 is none", low=0
    )
    answer_weight: float = setting(0.2, "weight of each of the teachers' answers", low=0)
    start: str = setting(
        "random", "where training starts: at random, or at the weights of the first teacher", ("random", "teacher")
    )
    hardest: int = setting(0, "only so many of a triple's negatives count, the likeliest ones; 0 is all", low=0)
    filtered: bool = setting(False, "leave out negatives that make a training triple")
    bernoulli: bool = setting(False, "weigh the sides of a triple by how many answers they have")
    regularizer: str = setting("radius", "what penalty weighs: radius, dura or n3", ("radius", "dura", "n3"))
    penalty: float = setting(0.025, "weight of the regularizer; radius is d(0, head)^2 + d(0, tail)^2", low=0)
    dropout: float = setting(0.0, "probability that a coordinate of a relation is dropped", low=0)
    sse: str = setting("none", "stochastic shared embeddings", ("none", "se", "graph"))
    sse_probability: float = setting(0.01, "probability that an entity is replaced, with sse", low=0)
    both_directions: bool = setting(False, "rank by the mean of the scores of (h, r, t) and of (t, inverse r, h)")
    loops: str = setting(
        "free",
        "scores of an entity with itself: as the model has them, or calibrated by how often each relation loops in "
        "training",
        ("free", "calibrated"),
    )
    validate_every: int = setting(10, "epochs between validations", low=1)
    validate_queries: int = setting(2000, "at most so many validation queries, the same ones each time", low=1)
    patience: int = setting(0, "stop after so many validations without a better MRR; 0 never stops early", low=0)
    seed: int = setting(0, "seed of initial values, batches and negatives", low=0)
    dtype: str = setting("auto", "auto: float32 for tangent, float64 for points", ("auto", "float32", "float64"))
    compile: bool = setting(False, "torch.compile the scores; the first steps take up to a minute longer")
    device: str = setting("cpu", "a torch device")

    def __post_init__(self) -> None:
        super().__post_init__()
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
        if self.teachers:
            for name, allowed in TAUGHT.items():
                if getattr(self, name) not in allowed:
                    raise DomainError(f"teachers go with {name} {allowed[0]}, not with {getattr(self, name)}")
        elif self.start == "teacher":
            raise DomainError("start teacher needs teachers, folders of trained runs")
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


SPACES = (*MANIFOLDS, "htiling", "ltiling")  # where hierarchies live


@dataclass(frozen=True)
class HierarchyConfig(Settings):
    """Settings of hierarchies; the defaults suit `wordnet-mammals` in five dimensions."""

    task: ClassVar[str] = "hierarchy"

    data: str = setting(
        "wordnet-mammals", "a shipped closure, or a file of pairs child<TAB>parent, closed as it is read"
    )
    manifold: str = setting("lorentz", "where the points live; htiling and ltiling are exact at any radius", SPACES)
    dim: int = setting(5, "dimension of the space", low=1)
    limbs: int = setting(
        26,
        "most limbs of a tiling's integers, rows take what they need: 2 for radius 54 (ltiling: 62), 26 for 700",
        low=1,
    )
    curvature: float = setting(1.0, "c > 0, for the sectional curvature -c", low=0)
    loss: str = setting(
        "ranking", "each node nearest to its ancestors, or after that in their entailment cones", ("ranking", "cones")
    )
    cone_width: float = setting(0.1, "K of the cones, above 0", low=0)
    margin: float = setting(0.01, "angle by which a node is to lie outside the cones of others, in radians", low=0)
    cone_epochs: int = setting(50, "epochs of the cones, after those of the ranking", low=1)
    cone_lr: float = setting(0.01, "learning rate of the cones, of Riemannian Adam; it falls linearly", low=0)
    scale: float = setting(1.0, "s of the loss ranking, above 0: a factor of the distances", low=0)
    optimizer: str = setting("sgd", "of the ranking: Riemannian SGD, Adam or Adagrad", ("adam", "adagrad", "sgd"))
    lr: float = setting(0.04, "highest learning rate, of the loss summed over pairs", low=0)
    max_step: float = setting(
        1.0, "a point's gradient counts as max_step / learning rate at most; 0 is no limit", low=0
    )
    burn_in: int = setting(5, "epochs of the burn-in, after a start at the origin", low=0)
    burn_in_factor: float = setting(0.02, "of the learning rate in the burn-in", low=0)
    warmup: float = setting(0.7, "share of the steps after the burn-in in which the learning rate rises", low=0)
    schedule: str = setting("linear", "how the learning rate falls in the end", ("constant", "linear", "cosine"))
    lr_final: float = setting(0.2, "fraction of the learning rate left at the end", low=0)
    epochs: int = setting(
        350, "passes over the nodes that have ancestors, the burn-in included; 0 keeps the nested start", low=0
    )
    batch_size: int = setting(64, "nodes a step, each with all its ancestors", low=1)
    negatives: int = setting(200, "nodes drawn a step, for all nodes of the batch", low=1)
    start: str = setting(
        "origin",
        "where training starts: at random near the origin, or nested, each node nearer to its ancestors already",
        ("origin", "nested"),
    )
    init_scale: float = setting(
        1e-3, "standard deviation of points about the origin, or how far nested ones are shaken, above 0", low=0
    )
    hold_out: float = setting(
        0.0, "share of the pairs that is not trained on but predicted; they follow from others", low=0
    )
    validate_every: int = setting(25, "epochs between reconstructions of the pairs trained on", low=1)
    validate_nodes: int = setting(2000, "at most so many nodes are reconstructed, the same ones each time", low=1)
    patience: int = setting(0, "stop after so many validations without a better MAP; 0 never stops early", low=0)
    seed: int = setting(0, "of everything random", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("curvature", "scale", "init_scale", "cone_width"):
            if getattr(self, name) == 0:
                raise DomainError(f"{name} must be above 0")
        if self.manifold == "ltiling" and self.dim % 2:
            raise DomainError(f"ltiling is made of planes, so dim must be even, got {self.dim}; or take htiling")
        if self.loss == "cones" and (self.manifold == "euclidean" or (self.manifold == "ltiling" and self.dim > 2)):
            raise DomainError(
                f"loss cones needs a hyperbolic space, and {self.manifold} of dimension {self.dim} is "
                f"{'flat' if self.manifold == 'euclidean' else 'a product of planes'}; take lorentz"
            )
        if self.hold_out >= 1:
            raise DomainError(f"hold_out is a share of the pairs, below 1; got {self.hold_out}")
        schedule(self.schedule, warmup=self.warmup, final=self.lr_final)  # raises for shares that are none
        if self.start == "nested":
            if self.manifold == "euclidean" or self.dim < 2:
                raise DomainError(
                    f"a nested start takes a hyperbolic space of two dimensions or more, got {self.manifold} of "
                    f"dimension {self.dim}"
                )
        elif self.epochs == 0:
            raise DomainError('without epochs there is only a nested start; set start = "nested", or epochs')
        elif self.burn_in >= self.epochs:
            raise DomainError(
                f"burn_in must leave some of the {self.epochs} epochs, got {self.burn_in}; lower it or raise epochs"
            )


TASKS: dict[str, type[Settings]] = {config.task: config for config in (TrainConfig, HierarchyConfig)}


def typed_setting(name: str, value: Any) -> Any:
    """`Settings.typed` of a graph's settings."""
    return TrainConfig.typed(name, value)


def check_setting(name: str, value: Any) -> Any:
    """`Settings.check` of a graph's settings."""
    return TrainConfig.check(name, value)


def recipes() -> dict[str, Path]:
    """The settings files that come with the package, by name; each says in its first line what it gives."""
    return {path.stem: path for path in sorted((Path(__file__).parent / "recipes").glob("*.toml"))}
