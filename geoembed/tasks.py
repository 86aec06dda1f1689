"""Link prediction: where a graph, a model, a loss and an optimizer meet.

A training step scores a batch of directed triples and as many corrupted tails as its sampler draws, and sums

    weight_r loss(score of the triple, scores of its negatives) + penalty regularizer(head, relation, tail).

Inverse relations make corrupted tails cover both sides. MuRP's code takes the mean of binary cross-entropies over
B (1 + N) terms with N = 50, here `bce` with w = 50 summed over the batch: its learning rate 50 at B = 128 is
50 / (128 * 51) = 0.00766 of ours with SGD.
"""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Protocol

import geoopt
import torch
from torch import Tensor

from geoembed.averaging import Averaged
from geoembed.config import ON_A_MANIFOLD, TrainConfig
from geoembed.data import (
    Frequency,
    GraphSharedEmbeddings,
    OwnNegatives,
    QueryGroups,
    SharedEmbeddings,
    SharedNegatives,
    Triples,
    TypedNegatives,
    Uniform,
    bernoulli_weights,
    hardest,
    known_mask,
)
from geoembed.distillation import Teacher
from geoembed.errors import DataError, DomainError, UnknownNameError
from geoembed.evaluation import Ranker, evaluate
from geoembed.losses.links import LEFT_OUT, LINK_LOSSES, bce, bce_k_vs_all, softmax_k_vs_all
from geoembed.manifolds import HYPERBOLIC, Euclidean, Product
from geoembed.models import MODELS, PENALTIES, BothDirections, GraphModel, calibrate_loops
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD
from geoembed.schedules import schedule
from geoembed.training import Fitted, fit

__all__ = [
    "LinkPrediction",
    "QueryPrediction",
    "build_model",
    "build_optimizer",
    "build_task",
    "generators",
    "ranker",
    "train_model",
]

_STREAMS = ("init", "batches", "negatives", "dropout", "shared embeddings")
_K_VS_ALL = {"bce": bce_k_vs_all, "softmax": softmax_k_vs_all}


class Replacing(Protocol):
    def to(self, device: torch.device | str) -> "Replacing": ...

    def replace(self, ids: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


class Sampler(Protocol):
    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor: ...


class AllEntities:
    """Every entity is a negative of every triple: 1-vs-all."""

    def __init__(self, n_entities: int):
        self.n_entities = n_entities

    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return torch.arange(self.n_entities, device=h.device)


class _Task:
    """What both tasks share: the directed training triples, the penalty, shared embeddings, the mode of the model."""

    n: int

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        *,
        penalty: float = 0.0,
        regularizer: str = "radius",
        sse: Replacing | None = None,
        sse_generator: torch.Generator | None = None,
    ):
        if len(triples.train) == 0:
            raise DataError(f"{triples.name} has no training triples")
        model.check_fits(triples)
        if regularizer not in PENALTIES:
            raise UnknownNameError("regularizer", regularizer, PENALTIES)
        if regularizer == "n3":
            model.relation_rows(torch.zeros(0, dtype=torch.int64, device=model.entity.device))  # raises if it has none
        self.model, self.triples, self.device = model, triples, model.entity.device
        self.penalty, self.regularizer = penalty, PENALTIES[regularizer]
        self.sse, self.sse_generator = sse, sse_generator

    def compile(self) -> None:
        """Run the scores through torch.compile from now on; reading rows stays outside, for its sparse gradients."""
        self.model.score_rows = torch.compile(self.model.score_rows, dynamic=True)  # type: ignore[method-assign]

    def step(self, batch: Tensor) -> Tensor:
        """Summed loss of the items with indices batch: (B,). Dropout is on within the step only."""
        self.model.train()
        try:
            return self._loss(batch.to(self.device))
        finally:
            self.model.eval()

    def _loss(self, batch: Tensor) -> Tensor:
        raise NotImplementedError

    def _replaced(self, ids: Tensor) -> Tensor:
        return ids if self.sse is None else self.sse.replace(ids, self.sse_generator)


class LinkPrediction(_Task):
    """Training of a graph model on triples and negatives: `step(batch) -> loss`, for `fit`.

    Args:
        model: has 2 * triples.n_relations relations, the second half inverse.
        triples: its training split, both directions of it, is what is learnt; n = 2 * len(triples.train).
        sampler: draws the negatives; see `geoembed.data.sampling`.
        loss: of (positive (B,), negative (B, N)), see `geoembed.losses.links`.
        top: only so many of the likeliest negatives of a triple count; 0 is all.
        filtered: leave out negatives that make a training triple; of `AllEntities` the triple's own tail always is.
        weights: of the losses by directed relation, (2 n_relations,).
        teacher: gives the loss in place of `loss`; all negatives count.
        penalty, regularizer: weight and name of a regulariser in `PENALTIES`.
        generator: draws the negatives. sse, sse_generator: stochastic shared embeddings of heads and tails.
    """

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        sampler: Sampler,
        *,
        loss: Callable[[Tensor, Tensor], Tensor] = bce,
        top: int = 0,
        filtered: bool = False,
        weights: Tensor | None = None,
        teacher: Teacher | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(model, triples, **options)
        self.directed = triples.with_inverses("train").to(self.device)
        self.n = len(self.directed)
        self.sampler, self.loss, self.top, self.generator = sampler, loss, top, generator
        self.known = triples.known("train").to(self.device) if filtered else None
        self.weights = None if weights is None else weights.to(model.entity)
        self.teacher = teacher

    def _loss(self, batch: Tensor) -> Tensor:
        h, r, t = self.directed[batch].unbind(1)
        negatives = self.sampler.draw(h, r, t, self.generator)
        scored = self.model.score_batch(self._replaced(h), r, self._replaced(t), negatives, self.regularizer)
        if self.teacher is None:
            losses = self.loss(scored.positive, self._counted(scored.negative, h, r, t, negatives))
        else:
            losses = self.teacher.loss(self.model, scored, h, r, t, negatives)
        if self.weights is not None:
            losses = losses * self.weights[r]
        total = losses.sum()
        return total + self.penalty * scored.penalty.sum() if self.penalty else total

    def _counted(self, negative: Tensor, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor) -> Tensor:
        """The scores of the negatives that count: (B, N) -> (B, N'), those that do not at LEFT_OUT or away."""
        if self.known is not None:
            negative = negative.masked_fill(known_mask(self.known, h, r, negatives, t), LEFT_OUT)
        elif isinstance(self.sampler, AllEntities):
            negative = negative.scatter(1, t.unsqueeze(1), LEFT_OUT)
        return hardest(negative, self.top) if self.top else negative


class QueryPrediction(_Task):
    """K-vs-all training: all tails of a (head, relation) query at once, against all entities. n = number of queries.

    loss: of (scores (B, n_entities), rows, columns), see `geoembed.losses.links`. generator: draws for each query the
    tail whose penalty, times the number of tails, stands for those of all. The rest as in `LinkPrediction`.
    """

    def __init__(
        self,
        model: GraphModel,
        triples: Triples,
        *,
        loss: Callable[[Tensor, Tensor, Tensor], Tensor] = softmax_k_vs_all,
        generator: torch.Generator | None = None,
        **options: Any,
    ):
        super().__init__(model, triples, **options)
        self.groups = QueryGroups.from_triples(triples.with_inverses("train")).to(self.device)
        self.n = len(self.groups)
        self.loss, self.generator = loss, generator
        self.entities = torch.arange(model.n_entities, device=self.device)

    def _loss(self, batch: Tensor) -> Tensor:
        groups, start = self.groups, self.groups.offsets[batch]
        counts = groups.offsets[batch + 1] - start
        uniform = torch.rand(len(batch), generator=self.generator, dtype=torch.float64).to(counts.device)
        h, r, t = groups.heads[batch], groups.relations[batch], groups.tails[start + (uniform * counts).long()]
        scored = self.model.score_batch(self._replaced(h), r, self._replaced(t), self.entities, self.regularizer)
        total = self.loss(scored.negative, *groups.positions(batch)).sum()
        return total + self.penalty * (counts * scored.penalty).sum() if self.penalty else total


def build_task(
    config: TrainConfig,
    model: GraphModel,
    triples: Triples,
    streams: dict[str, torch.Generator],
    teachers: Sequence[GraphModel] = (),
    *,
    progress: bool = False,
) -> LinkPrediction | QueryPrediction:
    """The training task of a configuration; `streams` as `generators` gives them, `teachers` as in `train_model`."""
    if bool(config.teachers) != bool(teachers):
        raise DomainError(
            f"the setting teachers is {config.teachers!r} and {len(teachers)} models were given; "
            f"`geoembed.runs.load_teachers` reads those of the setting"
        )
    sse: Replacing | None = None
    if config.sse == "se":
        sse = SharedEmbeddings(triples.n_entities, config.sse_probability)
    elif config.sse == "graph":
        sse = GraphSharedEmbeddings(triples.train[:, [0, 2]], triples.n_entities, config.sse_probability)
    shared: dict[str, Any] = {
        "penalty": config.penalty,
        "regularizer": config.regularizer,
        "sse": None if sse is None else sse.to(model.entity.device),
        "sse_generator": streams["shared embeddings"],
        "generator": streams["negatives"],
    }
    model.generator = streams["dropout"]
    smoothing, margin = {"smoothing": config.label_smoothing}, {"margin": config.margin}
    of_loss = {"bce": smoothing, "softmax": smoothing, "margin": margin}
    of_loss["self-adversarial"] = margin | {"temperature": config.temperature}
    options: dict[str, Any] = {"weight": config.negative_weight} | of_loss[config.loss]
    if config.negative_mode == "k-vs-all":
        return QueryPrediction(model, triples, loss=functools.partial(_K_VS_ALL[config.loss], **options), **shared)
    teacher = None
    if teachers:
        teacher = Teacher(
            [each.to(model.entity.device) for each in teachers],
            triples,
            weight=config.negative_weight,
            answers=config.teacher_answers,
            answer_weight=config.answer_weight,
            progress=progress,
        )
    return LinkPrediction(
        model,
        triples,
        _sampler(config, triples, model.entity.device),
        loss=functools.partial(LINK_LOSSES[config.loss], **options),
        teacher=teacher,
        top=config.hardest,
        filtered=config.filtered,
        weights=bernoulli_weights(triples) if config.bernoulli else None,
        **shared,
    )


def _sampler(config: TrainConfig, triples: Triples, device: torch.device) -> Sampler:
    if config.negative_mode == "all":
        return AllEntities(triples.n_entities)
    if config.negative_mode == "typed":
        return TypedNegatives(triples, config.negatives).to(device)
    entities = Uniform(triples.n_entities) if config.negative_entities == "uniform" else Frequency(triples)
    kind = SharedNegatives if config.negative_mode == "shared" else OwnNegatives
    return kind(entities, config.negatives).to(device)


def build_model(config: TrainConfig, n_entities: int, n_relations: int) -> GraphModel:
    """The model of a configuration, with 2 * n_relations relations and initial values of its seed."""
    options: dict[str, Any] = {"generator": generators(config.seed)["init"], "dropout": config.dropout}
    if config.model in ON_A_MANIFOLD:
        options |= {"manifold": _manifold(config)}
    if config.model in (*ON_A_MANIFOLD, "mure"):
        options |= {"tangent": config.parameterisation == "tangent"}
    if config.dtype != "auto":
        options |= {"dtype": getattr(torch, config.dtype)}
    if config.init_scale:
        options |= {"scale": config.init_scale}
    model = MODELS[config.model](n_entities, 2 * n_relations, config.dim, **options)
    model.loops = torch.zeros(model.n_relations, dtype=model.entity.dtype) if config.loops == "calibrated" else None
    try:
        return model.to(config.device).eval()
    except (AssertionError, RuntimeError) as error:  # torch built without CUDA asserts
        raise DomainError(f"device {config.device!r} cannot be used: {str(error).splitlines()[0]}") from error


def _manifold(config: TrainConfig) -> geoopt.Manifold:
    def one(name: str) -> geoopt.Manifold:
        if name == "euclidean":
            return Euclidean()
        return HYPERBOLIC[name](config.curvature, learnable=config.learn_curvature)

    factors = [(one(name), size) for name, size in config.factors()]
    return factors[0][0] if len(factors) == 1 else Product(factors)


def build_optimizer(config: TrainConfig, model: GraphModel) -> torch.optim.Optimizer:
    """Riemannian Adam, Adagrad or SGD; on tangent coordinates they are their Euclidean namesakes.

    The papers state learning rates for ball coordinates, in which tangent vectors at the origin are half as long as in
    our orthonormal ones. The steps of Adam and Adagrad do not scale with the gradient, so such tables take twice the
    learning rate.
    """
    if config.optimizer == "sgd":
        return RiemannianSGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    points = model.tangent_tables()
    others: dict[str, Any] = {"params": [p for p in model.parameters() if all(p is not q for q in points)]}
    groups = [{"params": points, "lr": 2 * config.lr}, others] if points else [others]
    return (RiemannianAdam if config.optimizer == "adam" else RiemannianAdagrad)(groups, lr=config.lr)


def ranker(config: TrainConfig, model: GraphModel) -> Ranker:
    """What answers queries: the model, or the mean of its two directions."""
    return BothDirections(model) if config.both_directions else model


def generators(seed: int) -> dict[str, torch.Generator]:
    """Independent named generators of one seed."""
    return {name: torch.Generator().manual_seed((1000 * seed + i) % 2**63) for i, name in enumerate(_STREAMS)}


def train_model(
    config: TrainConfig,
    triples: Triples,
    *,
    teachers: Sequence[GraphModel] = (),
    checkpoint: Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> tuple[GraphModel, Fitted]:
    """Train the model of a configuration; with valid triples, the weights of the best validation MRR are kept.

    teachers: the models that config.teachers names, see `geoembed.runs.load_teachers`.
    checkpoint: folder of the checkpoints; a run that was stopped goes on from there. The rest as in `fit`.
    """
    streams = generators(config.seed)
    model = build_model(config, triples.n_entities, triples.n_relations)
    if config.start == "teacher" and teachers:
        _start_at(model, teachers[0])
    task = build_task(config, model, triples, streams, teachers, progress=progress)
    if config.compile:
        task.compile()
    fitted = fit(
        task.step,
        task.n,
        model,
        build_optimizer(config, model),
        epochs=config.epochs,
        batch_size=config.batch_size,
        generator=streams["batches"],
        generators={name: streams[name] for name in ("negatives", "dropout", "shared embeddings")},
        schedule=schedule(config.schedule, warmup=config.warmup, final=config.lr_final),
        averaging=Averaged(model, config.averaging, every=4) if config.averaging else None,
        validate=_validator(config, model, triples),
        validate_every=config.validate_every,
        patience=config.patience or None,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    if config.loops == "calibrated":
        calibrate_loops(model, triples)  # the weights that were kept
    return model, fitted


@torch.no_grad()
def _start_at(model: GraphModel, other: GraphModel) -> None:
    """Give the model the parameters of another one of its kind."""
    if _kind(other) != _kind(model):
        raise DomainError(
            f"start teacher needs a first teacher of the same kind: {model.describe()}; got {other.describe()}"
        )
    for name, parameter in model.named_parameters():
        parameter.copy_(other.get_parameter(name))


def _kind(model: GraphModel) -> tuple[Any, ...]:
    """Equal for models whose parameters mean the same."""
    tables = [(name, type(p), p.shape) for name, p in model.named_parameters()]
    fixed = [(name, b.tolist()) for name, b in model.named_buffers() if name != "loops"]  # curvatures not learnt
    return type(model), type(model.manifold), tables, fixed


def _validator(config: TrainConfig, model: GraphModel, triples: Triples) -> Callable[[], float] | None:
    """MRR on at most so many validation queries, the same evenly spread ones each time."""
    if len(triples.valid) == 0:
        return None
    queries = triples.with_inverses("valid")
    queries = queries[torch.linspace(0, len(queries) - 1, min(config.validate_queries, len(queries))).long()]

    def validate() -> float:
        if config.loops == "calibrated":
            calibrate_loops(model, triples)
        return evaluate(ranker(config, model), triples, "valid", queries=queries).metrics()["mrr"]

    return validate
