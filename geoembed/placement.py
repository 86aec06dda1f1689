"""A row for an entity that a trained model has not seen, from a few triples about it; the model stays as it is.

With everything else fixed, the row x and the biases b of the new entity minimise the mean over the given triples,
each in both directions, of

    softplus(-s) + weight mean_j softplus(s_j) + penalty d(0, x)^2

s: the score of the triple, s_j: that of the triple with its other end replaced by an entity drawn uniformly; both as a
head and as a tail the new entity is held away from strangers.

The loss has local minima. Of three starts, gone through at once, the one that ends lowest is taken: the tangent mean of
the neighbours, the origin, and the known entity that would fit the triples best.
"""

import copy
from typing import NamedTuple

import geoopt
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from geoembed.data.filters import check_ids
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DomainError, ShapeError
from geoembed.losses.links import bce
from geoembed.models import GraphModel
from geoembed.optim import RiemannianAdam

__all__ = ["Placed", "extended", "place"]

MOST = 64  # directed triples of a step: a row has few coordinates to fit


class Placed(NamedTuple):
    """row: (width,) of the model's entity table; bias: (2,), None in a model without; loss: at the end."""

    row: Tensor
    bias: Tensor | None
    loss: float


def place(
    model: GraphModel,
    triples: Tensor,
    *,
    steps: int = 300,
    lr: float = 0.05,
    negatives: int = 64,
    weight: float = 50.0,
    penalty: float = 0.025,
    generator: torch.Generator | None = None,
) -> Placed:
    """Row and biases of a new entity. The same generator state gives the same row.

    Args:
        model: has the inverses of its relations; none of its parameters changes or gets a gradient.
        triples: int64 (m, 3), about the entity `model.n_entities`, which is the new one, as head or tail or both.
        steps, lr: of Riemannian Adam; the learning rate falls linearly to zero.
        negatives: drawn for each triple, direction and step.
        weight, penalty: see the module; the defaults are those of training.
        generator: draws the negatives and, from many triples, those of a step.

    Raises:
        ShapeError, DomainError: triples of another shape, about other entities, or out of range; a loss that is not
            finite.
    """
    directed = _directed(model, triples)
    mode, loops = model.training, model.loops
    model.eval()
    model.loops = None  # the new entity is another than any that it is compared with
    try:
        row, bias = _starts(model, directed)
        free = [row] if bias is None else [row, bias]
        size = sum(p[0].numel() * p.element_size() for p in model.parameters() if p.dim() and len(p))
        batch = max(1, min(MOST, DEFAULT_BUDGET // (4 * size * len(row) * (1 + negatives))))
        optimizer = RiemannianAdam(free, lr=lr)
        last = torch.zeros(len(row), dtype=torch.float64, device=row.device)
        for step in range(steps):
            some = directed
            if len(directed) > batch:
                some = directed[torch.randperm(len(directed), generator=generator)[:batch].to(directed.device)]
            drawn = torch.randint(model.n_entities, (len(some), negatives), generator=generator).to(directed.device)
            positive, negative = _scores(model, row, bias, some, drawn)
            radius = model.coordinates(row).square().sum(-1)
            losses = bce(positive, negative, weight=weight).mean(1) + penalty * radius
            for tensor, gradient in zip(free, torch.autograd.grad(losses.sum(), free), strict=True):
                tensor.grad = gradient
            for group in optimizer.param_groups:
                group["lr"] = lr * (1 - step / steps)
            optimizer.step()
            if step >= steps - max(1, steps // 5):  # by then the row hardly moves, and the draws average out
                last += losses.detach().double()
    finally:
        model.train(mode)
        model.loops = loops
    last /= max(1, steps // 5)
    best = int(last.nan_to_num(nan=torch.inf).argmin())
    if not last[best].isfinite():
        raise DomainError(f"the loss of the new entity became {last[best].item()}; lower lr, now {lr}")
    return Placed(row[best].detach().clone(), None if bias is None else bias[best].detach().clone(), last[best].item())


def extended(model: GraphModel, placed: Placed, position: int | None = None) -> GraphModel:
    """A copy of a model with one entity more, at row `position`, by default the last."""
    position = model.n_entities if position is None else position
    other = copy.deepcopy(model)

    def inserted(table: Tensor, row: Tensor) -> Tensor:
        table = table.detach()
        return torch.cat([table[:position], row.unsqueeze(0).to(table), table[position:]])

    entity = inserted(model.entity, placed.row)
    curved = isinstance(model.entity, geoopt.ManifoldParameter)
    other.entity = geoopt.ManifoldParameter(entity, manifold=other.manifold) if curved else nn.Parameter(entity)
    if model.bias is not None and placed.bias is not None:
        other.bias = nn.Parameter(inserted(model.bias, placed.bias))
    other.n_entities += 1
    return other


def _directed(model: GraphModel, triples: Tensor) -> Tensor:
    """The checked triples and their reversals, (2 m, 3)."""
    n = model.n_entities
    if triples.dim() != 2 or triples.shape[1] != 3 or triples.dtype != torch.int64 or not len(triples):
        raise ShapeError(f"expected triples int64 (m, 3), m > 0, got {triples.dtype} {tuple(triples.shape)}")
    if model.n_relations % 2:
        raise DomainError(f"the model must have the inverse of every relation, it has {model.n_relations} relations")
    h, r, t = triples.to(model.entity.device).unbind(1)
    check_ids(torch.stack([h, t], 1).flatten(), n + 1, "entity")
    check_ids(r, model.n_relations, "relation")
    foreign = ((h != n) & (t != n)).nonzero()
    if len(foreign):
        i = int(foreign[0])
        raise DomainError(f"triple {i}, {triples[i].tolist()}, is not about the new entity, which has the id {n}")
    inverse = (r + model.n_relations // 2) % model.n_relations
    return torch.cat([torch.stack([h, r, t], 1), torch.stack([t, inverse, h], 1)])


@torch.no_grad()
def _starts(model: GraphModel, directed: Tensor) -> tuple[nn.Parameter, nn.Parameter | None]:
    """Rows to start from, (3, width), and their biases, (3, 2)."""
    n, table = model.n_entities, model.entity.detach()
    asked = directed[(directed[:, 2] == n) & (directed[:, 0] != n)]  # (neighbour, r, the new entity)
    fit = torch.zeros(n, dtype=table.dtype, device=table.device)
    for relation in asked[:, 1].unique().tolist():
        score = model.tail_scorer(relation)
        for heads in asked[asked[:, 1] == relation, 0].split(max(1, 2**22 // n)):
            fit += F.logsigmoid(score(heads)).sum(0)
    like = int(fit.nan_to_num(nan=-torch.inf).argmax())
    near = asked[:, 0] if len(asked) else directed.new_tensor([like])  # a triple with itself has no neighbour
    mean = model.coordinates(table[near]).mean(0)
    u = torch.stack([mean, torch.zeros_like(mean), model.coordinates(table[like : like + 1])[0]])
    bias = None
    if model.bias is not None:
        usual = model.bias.detach().mean(0)
        bias = nn.Parameter(torch.stack([usual, usual, model.bias[like]]))
    if isinstance(model.entity, geoopt.ManifoldParameter):
        return geoopt.ManifoldParameter(model.manifold.from_tangent(u), manifold=model.manifold), bias
    return nn.Parameter(u), bias


def _scores(
    model: GraphModel, row: Tensor, bias: Tensor | None, directed: Tensor, drawn: Tensor
) -> tuple[Tensor, Tensor]:
    """Scores of triples (m, 3) and of the same with the ends drawn: (m, N), for each of S rows: (S, m), (S, m, N)."""
    n, starts = model.n_entities, len(row)
    h, r, t = (x.unsqueeze(1) for x in directed.unbind(1))
    asks = h == n
    heads = torch.cat([h, torch.where(asks, h, drawn)], 1)
    tails = torch.cat([t, torch.where(asks, drawn, t)], 1)
    heads, tails = (x + (x == n) * torch.arange(starts, device=x.device).view(-1, 1, 1) for x in (heads, tails))
    ids = torch.cat([heads.flatten(), tails.flatten()])
    new, fresh, old = (ids >= n).unsqueeze(1), (ids - n).clamp(min=0), ids.clamp(max=n - 1)

    def take(table: Tensor, own: Tensor) -> Tensor:
        return torch.where(new, own[fresh], table.detach()[old])

    relations = r.expand(starts, *heads.shape[1:]).flatten()
    biases = None if model.bias is None or bias is None else take(model.bias, bias)
    scores = model.score_rows(take(model.entity, row), biases, relations, torch.Size([0])).positive
    return scores.view(heads.shape)[..., 0], scores.view(heads.shape)[..., 1:]
