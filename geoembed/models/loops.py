"""How often a relation joins an entity to itself, learnt from the training triples.

A model that compares a query with an answer tends to like (h, r, h): where r is symmetric nothing is nearer to the
query than its own entity, and yet 7 of the 29,715 training triples of WN18RR's derivationally_related_form are such
loops. Negatives hardly teach it, a random entity being the head once in n_entities. So each directed relation gets a
bias of its own for loops,

    score(h, r, h) += b_r,    mean over the heads h of r of sigmoid(score(h, r, h) + b_r) = (L + 1/2) / (H + 1),

where H entities are heads of r in training, and L of them have a loop. Each head counts once, however many tails it
has: whether it has a loop is one observation, and the probability is that of this event. (A mean over triples would
weigh a head by the number of its other tails, and its right-hand side, loops among triples, could not be reached by
right probabilities: a head with a loop and 99 other tails has a loop with probability 1, not 1/100.) But for the 1/2
and the 1 this is the equation of maximum likelihood for the intercept of a logistic regression with the score as
offset; with them, the estimator of Krichevsky and Trofimov ("The performance of universal encoding", IEEE Trans. Inf.
Theory 27(2), 1981), b_r stays finite where no head, or every one, has a loop.
"""

import torch
from torch import Tensor

from geoembed.data import Triples
from geoembed.distance import DEFAULT_BUDGET
from geoembed.models.base import GraphModel

__all__ = ["calibrate_loops"]


@torch.no_grad()
def calibrate_loops(model: GraphModel, triples: Triples) -> None:
    """Set `model.loops` to the b_r of the training split of `triples`, both directions of it; nothing else changes.

    Calibrating again, after more training, starts anew. Heads whose score is NaN or infinite are left out of H and L; a
    relation without heads has b_r = 0.

    Raises:
        DomainError: the model has other numbers of entities and relations; of the latter it has the inverses too.
    """
    model.check_fits(triples)
    h, r, t = triples.with_inverses("train").to(model.entity.device).unbind(1)
    keys = r * model.n_entities + h
    asked = keys.unique()
    looped = torch.isin(asked, keys[h == t])
    r, h = asked // model.n_entities, asked % model.n_entities
    width = sum(p[0].numel() * p.element_size() for p in model.parameters() if p.dim() and len(p))
    size = max(1, DEFAULT_BUDGET // (4 * width))  # rows and what is made of them
    mode = model.training
    model.eval()
    try:
        blocks = zip(h.split(size), r.split(size), strict=True)
        scores = torch.cat([model.score_batch(h, r, h, h[:0]).positive for h, r in blocks])
    finally:
        model.train(mode)
    model.loops = _biases(scores.double(), looped, r, model.n_relations).to(model.entity.dtype)


def _biases(scores: Tensor, looped: Tensor, r: Tensor, n: int) -> Tensor:
    """The root b_r of each of n equations, whose left-hand sides grow with b_r. scores, looped, r: (m,) -> (n,)."""
    finite = scores.isfinite()
    scores, looped, r = scores[finite], looped[finite], r[finite]
    heads = r.bincount(minlength=n)
    share = (r[looped].bincount(minlength=n) + 0.5) / (heads.double() + 1)
    none = torch.zeros_like(share)
    # at these two all terms of the mean are at most, at least the share; 0 for a relation without heads
    low = share.logit() - none.scatter_reduce(0, r, scores, "amax", include_self=False)
    high = share.logit() - none.scatter_reduce(0, r, scores, "amin", include_self=False)
    middle = low / 2 + high / 2
    while bool(((low < middle) & (middle < high)).any()):  # until float64 has nothing between them
        over = none.index_add(0, r, (scores + middle[r]).sigmoid()) - share * heads
        low, high = torch.where(over <= 0, middle, low), torch.where(over >= 0, middle, high)
        middle = low / 2 + high / 2
    return middle
