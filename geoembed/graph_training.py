"""From a configuration to a trained graph model: the model, its task, its optimizer, and the training of all three."""

import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import geoopt
import torch

from geoembed.averaging import Averaged
from geoembed.config import ON_A_MANIFOLD, TrainConfig
from geoembed.data import (
    Frequency,
    GraphSharedEmbeddings,
    OwnNegatives,
    SharedEmbeddings,
    SharedNegatives,
    Triples,
    TypedNegatives,
    Uniform,
    bernoulli_weights,
)
from geoembed.distillation import Teacher
from geoembed.errors import DomainError
from geoembed.evaluation import Ranker, evaluate
from geoembed.losses.links import LINK_LOSSES, bce_k_vs_all, softmax_k_vs_all
from geoembed.manifolds import HYPERBOLIC, Euclidean, Product
from geoembed.models import MODELS, BothDirections, GraphModel, calibrate_loops
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD
from geoembed.schedules import schedule
from geoembed.tasks import AllEntities, LinkPrediction, QueryPrediction, Replacing, Sampler
from geoembed.training import Fitted, fit

__all__ = [
    "build_model",
    "build_optimizer",
    "build_task",
    "generators",
    "ranker",
    "train_model",
]

_STREAMS = ("init", "batches", "negatives", "dropout", "shared embeddings")
_K_VS_ALL = {"bce": bce_k_vs_all, "softmax": softmax_k_vs_all}


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
