"""Link prediction: where a graph, a model, a loss and an optimizer meet.

The loss of a triple with score s and negatives with scores s_1 .. s_N is the binary cross-entropy of MuRP,

    softplus(-s) + w mean_j softplus(s_j) + penalty (d(0, x_h)^2 + d(0, x_t)^2),

summed over the batch. Negatives replace the tail, uniformly over all entities and unfiltered; reciprocal relations make
that cover both sides. MuRP's code takes the mean over B (1 + N) terms with N = 50 and w = 50 instead: its learning rate
50 at B = 128 is 50 / (128 * 51) = 0.00766 of ours with SGD.
"""

from collections.abc import Callable
from pathlib import Path

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import DataError
from geoembed.evaluation import evaluate
from geoembed.manifolds import HYPERBOLIC, Euclidean, Hyperbolic
from geoembed.models import MultiRelational
from geoembed.optim import RiemannianAdam, RiemannianSGD
from geoembed.training import Fitted, fit

__all__ = ["LinkPrediction", "build_model", "build_optimizer", "generators", "train_model"]

_STREAMS = ("init", "batches", "negatives")


class LinkPrediction:
    """The training step of a multi-relational model: `step(batch) -> loss`, for `fit`.

    Args:
        model: has 2 * triples.n_relations relations, the second half inverse.
        triples: its training split, both directions of it, is what is learnt; n = 2 * len(triples.train).
        negatives: corrupted tails a triple is compared with.
        shared: one draw of negatives for the whole batch, or one for each triple.
        negative_weight, penalty: w and penalty of the loss above.
        generator: draws the negatives.
    """

    def __init__(
        self,
        model: MultiRelational,
        triples: Triples,
        *,
        negatives: int = 128,
        shared: bool = True,
        negative_weight: float = 50.0,
        penalty: float = 0.0,
        generator: torch.Generator | None = None,
    ):
        if len(triples.train) == 0:
            raise DataError(f"{triples.name} has no training triples")
        self.model, self.triples = model, triples
        self.device = model.entity.device
        self.directed = triples.with_inverses("train").to(self.device)
        self.negatives, self.shared, self.generator = negatives, shared, generator
        self.negative_weight, self.penalty = negative_weight, penalty

    @property
    def n(self) -> int:
        return len(self.directed)

    def compile(self) -> None:
        """Run the scores through torch.compile from now on; reading rows stays outside, for its sparse gradients."""
        self.model.score_rows = torch.compile(self.model.score_rows, dynamic=True)  # type: ignore[method-assign]

    def step(self, batch: Tensor) -> Tensor:
        """Summed loss of the directed triples with indices batch: (B,)."""
        h, r, t = self.directed[batch.to(self.device)].unbind(1)
        shape = (self.negatives,) if self.shared else (len(batch), self.negatives)
        negatives = torch.randint(self.model.n_entities, shape, generator=self.generator).to(self.device)
        scored = self.model.score_batch(h, r, t, negatives)
        loss = F.softplus(-scored.positive).sum()
        loss = loss + self.negative_weight / self.negatives * F.softplus(scored.negative).sum()
        if self.penalty:
            loss = loss + self.penalty * scored.sq_radius.sum()
        return loss


def build_model(config: TrainConfig, n_entities: int, n_relations: int) -> MultiRelational:
    """The model of a configuration, with 2 * n_relations relations and initial values of its seed."""
    manifold: geoopt.Manifold = Euclidean()
    if config.model == "murp":
        manifold = HYPERBOLIC[config.manifold](config.curvature, learnable=config.learn_curvature)
    return MultiRelational(
        n_entities,
        2 * n_relations,
        config.dim,
        manifold,
        tangent=config.parameterisation == "tangent",
        dtype=None if config.dtype == "auto" else getattr(torch, config.dtype),
        generator=generators(config.seed)["init"],
    ).to(config.device)


def build_optimizer(config: TrainConfig, model: MultiRelational) -> torch.optim.Optimizer:
    """Riemannian Adam or SGD; on tangent coordinates both are their Euclidean namesakes.

    The papers state learning rates for ball coordinates, in which tangent vectors at the origin are half as long as in
    our orthonormal ones. Adam's steps do not scale with the gradient, so the points take twice its learning rate.
    """
    if config.optimizer == "sgd":
        return RiemannianSGD(model.parameters(), lr=config.lr, momentum=config.momentum)
    halved = isinstance(model.manifold, Hyperbolic) and model.tangent
    points = [model.entity, model.translation]
    others = [p for p in model.parameters() if all(p is not q for q in points)]
    return RiemannianAdam(
        [{"params": points, "lr": config.lr * (2 if halved else 1)}, {"params": others}], lr=config.lr
    )


def generators(seed: int) -> dict[str, torch.Generator]:
    """Independent named generators of one seed."""
    return {name: torch.Generator().manual_seed(1000 * seed + i) for i, name in enumerate(_STREAMS)}


def train_model(
    config: TrainConfig,
    triples: Triples,
    *,
    checkpoint: Path | None = None,
    progress: bool = True,
    on_epoch: Callable[[list[dict[str, float]]], None] | None = None,
) -> tuple[MultiRelational, Fitted]:
    """Train the model of a configuration; with valid triples, the weights of the best validation MRR are kept.

    checkpoint: folder of the checkpoints; a run that was stopped goes on from there. The rest as in `fit`.
    """
    streams = generators(config.seed)
    model = build_model(config, triples.n_entities, triples.n_relations)
    task = LinkPrediction(
        model,
        triples,
        negatives=config.negatives,
        shared=config.negative_mode == "shared",
        negative_weight=config.negative_weight,
        penalty=config.penalty,
        generator=streams["negatives"],
    )
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
        generators={"negatives": streams["negatives"]},
        lr_final=config.lr_final,
        validate=_validator(model, triples, config.validate_queries),
        validate_every=config.validate_every,
        patience=config.patience or None,
        checkpoint=checkpoint,
        progress=progress,
        on_epoch=on_epoch,
    )
    return model, fitted


def _validator(model: MultiRelational, triples: Triples, most: int) -> Callable[[], float] | None:
    """MRR on at most so many validation queries, the same evenly spread ones each time."""
    if len(triples.valid) == 0:
        return None
    queries = triples.with_inverses("valid")
    queries = queries[torch.linspace(0, len(queries) - 1, min(most, len(queries))).long()]
    return lambda: evaluate(model, triples, "valid", queries=queries).metrics()["mrr"]
