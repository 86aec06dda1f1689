"""What a link-prediction trainer draws: corrupted tails, and which of them are no negatives.

Relations are reciprocal: a batch is directed triples (h, r, t) with r < 2 n_relations, and only tails are corrupted.
A sampler has one method, `draw(h, r, t, generator)`, with h, r, t: (B,) int64; it gives ids of entities, (n,) for the
whole batch or (B, n), a row for each triple. All draw with replacement, and none looks whether what it drew makes a
true triple: `known_mask` tells.

Random numbers are drawn on the device of the generator; all else happens where the batch is, and `to(device)` moves the
tables of a sampler there.

References:
    types: Krompass, Baier, Tresp, "Type-constrained representation learning in knowledge graphs", ISWC 2015,
        arXiv:1508.02593 (the local closed-world assumption: a relation's types are what it was seen with).
    frequency: Mikolov, Sutskever, Chen, Corrado, Dean, "Distributed representations of words and phrases and their
        compositionality", NeurIPS 2013, arXiv:1310.4546.
    Bernoulli: Wang, Zhang, Feng, Chen, "Knowledge graph embedding by translating on hyperplanes", AAAI 2014.
    hardest: Reddi, Kale, Yu, Holtmann-Rice, Chen, Kumar, "Stochastic negative mining for learning with large output
        spaces", AISTATS 2019, arXiv:1810.07076.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from geoembed.data.draws import Tables, below, check_probability, check_sizes, distinct, rand
from geoembed.data.filters import Filter, check_ids
from geoembed.data.triples import Triples
from geoembed.errors import DataError, DomainError, ShapeError

__all__ = [
    "Frequency",
    "OwnNegatives",
    "SharedNegatives",
    "TypedNegatives",
    "Uniform",
    "bernoulli_weights",
    "hardest",
    "known_mask",
]


class Uniform(Tables):
    """All entities are equally likely."""

    def __init__(self, n_entities: int):
        check_sizes(n_entities=n_entities)
        self.n_entities = n_entities

    def ids(self, shape: Sequence[int], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Independent ids, int64 of the shape."""
        where = device if generator is None else generator.device
        return torch.randint(self.n_entities, tuple(shape), generator=generator, device=where).to(device)


class Frequency(Tables):
    """P(entity) ∝ (number of directed training triples with it as tail)^alpha; unseen entities are never drawn.

    alpha = 1 draws as the training triples do, alpha = 0 any seen entity alike. Both directions of a triple are
    trained, so it counts for both its ends.
    """

    def __init__(self, triples: Triples, alpha: float = 0.75):
        if not 0 <= alpha < float("inf"):
            raise DomainError(f"alpha must be finite and at least 0, got {alpha}")
        if not len(triples.train):
            raise DataError(f"{triples.name} has no training triples to count entities in")
        counts = triples.train[:, [0, 2]].flatten().bincount(minlength=triples.n_entities).double()
        # relative to the largest, no power overflows
        self.cumulative = torch.where(counts > 0, (counts / counts.max()) ** alpha, 0).cumsum(0)

    def ids(self, shape: Sequence[int], device: torch.device, generator: torch.Generator | None = None) -> Tensor:
        """Independent ids, int64 of the shape."""
        # u < total, and the first place above u is one where the sum has grown: never an unseen entity
        u = rand(shape, device, generator) * self.cumulative[-1]
        return torch.searchsorted(self.cumulative, u, right=True)


class SharedNegatives(Tables):
    """n entities for the whole batch, from `Uniform` or `Frequency`. `draw` gives (n,)."""

    def __init__(self, entities: Uniform | Frequency, n: int):
        check_sizes(n=n)
        self.entities, self.n = entities, n

    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.entities.ids((self.n,), h.device, generator)


class OwnNegatives(Tables):
    """n entities for each triple, from `Uniform` or `Frequency`. `draw` gives (B, n)."""

    def __init__(self, entities: Uniform | Frequency, n: int):
        check_sizes(n=n)
        self.entities, self.n = entities, n

    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return self.entities.ids((len(h), self.n), h.device, generator)


class TypedNegatives(Tables):
    """n entities for each triple that its directed relation has as tails in training. `draw` gives (B, n).

    Each is with probability `uniform` any entity instead: the types alone never teach what a wrong type is. A relation
    with less than two tails in training has any entity always.
    """

    def __init__(self, triples: Triples, n: int, uniform: float = 0.5):
        check_sizes(n=n)
        check_probability("uniform", uniform)
        self.n, self.uniform = n, uniform
        relation, tail = distinct(triples.with_inverses("train")[:, 1:]).unbind(1)
        sizes = relation.bincount(minlength=2 * triples.n_relations)
        # after the tails of all relations come all entities, as the tails of one more
        rows = torch.arange(len(sizes), device=sizes.device)
        self.rows = torch.where(sizes > 1, rows, len(sizes))
        self.tails = torch.cat([tail, torch.arange(triples.n_entities, device=tail.device)])
        self.sizes = torch.cat([sizes, sizes.new_tensor([triples.n_entities])])
        self.starts = self.sizes.cumsum(0) - self.sizes

    def draw(self, h: Tensor, r: Tensor, t: Tensor, generator: torch.Generator | None = None) -> Tensor:
        check_ids(r, len(self.rows), "relation")
        shape = (len(r), self.n)
        any_entity = rand(shape, r.device, generator) < self.uniform
        rows = torch.where(any_entity, len(self.rows), self.rows[r].unsqueeze(1))
        return self.tails[self.starts[rows] + below(self.sizes[rows], generator)]


def known_mask(known: Filter, h: Tensor, r: Tensor, negatives: Tensor, t: Tensor) -> Tensor:
    """Which negatives are no negatives: (h, r, negative) is a known triple, or the negative is t itself.

    The trainer leaves them out of its loss; none is drawn in their place, so a triple may have fewer negatives than
    others. With scores.masked_fill(mask, -inf) they count for nothing in softplus, in a softmax that has the positive
    too, and in `hardest`.

    Args:
        known: the training triples, `triples.known("train")`: other splits would tell the model their answers.
        h, r, t: int64 (B,). negatives: int64 (N,) or (B, N), with or without duplicates.

    Returns bool (B, N).
    """
    if t.shape != h.shape or negatives.dim() not in (1, 2) or (negatives.dim() == 2 and len(negatives) != len(h)):
        raise ShapeError(
            f"expected h, r, t (B,) and negatives (N,) or (B, N), got h {tuple(h.shape)}, t {tuple(t.shape)}, "
            f"negatives {tuple(negatives.shape)}"
        )
    rows, answers = known.tails(h, r)
    mask = negatives == t.unsqueeze(1)
    return mask | (_hits_shared if negatives.dim() == 1 else _hits_own)(rows, answers, negatives, len(h))


def _hits_shared(rows: Tensor, answers: Tensor, negatives: Tensor, n_rows: int) -> Tensor:
    """Whether (row, negatives[column]) is one of the pairs (row, answer): bool (n_rows, N)."""
    values, place = negatives.unique(return_inverse=True)
    hit = torch.isin(answers, values)
    mask = torch.zeros(n_rows, len(values), dtype=torch.bool, device=negatives.device)
    mask[rows[hit], torch.searchsorted(values, answers[hit])] = True
    return mask.index_select(1, place)


def _hits_own(rows: Tensor, answers: Tensor, negatives: Tensor, n_rows: int) -> Tensor:
    """Whether (row, negatives[row, column]) is one of the pairs (row, answer), which are sorted: bool (n_rows, N).

    A small table, in which the pairs are marked under a hash, rules nearly all out; only the rest is searched for. That
    is five times as fast as searching for all, and unlike a (n_rows, n_entities) table it stays in the cache.
    """
    size = 1 << (16 * len(rows)).bit_length()
    stride = 283_521  # odd: the rows of a batch begin at different places

    def slot(row: Tensor, entity: Tensor) -> Tensor:
        return (entity + row * stride).bitwise_and_(size - 1)

    def key(row: Tensor, entity: Tensor) -> Tensor:
        return (row << 32) + entity  # sorted as the pairs are; ids lie far below 2^32

    table = torch.zeros(size, dtype=torch.bool, device=negatives.device)
    table[slot(rows, answers)] = True
    row = torch.arange(n_rows, device=negatives.device).unsqueeze(1)
    mask = table.take(slot(row, negatives))
    row, column = mask.nonzero(as_tuple=True)
    found, wanted = key(rows, answers), key(row, negatives[row, column])
    mask[row, column] = found[torch.searchsorted(found, wanted).clamp_(max=len(found) - 1)] == wanted
    return mask


def bernoulli_weights(triples: Triples) -> Tensor:
    """Weights of the losses of directed triples, (2 n_relations,), that stand for TransH's choice of a side.

    TransH corrupts the head of a triple with probability p = tph / (tph + hpt), else the tail, where tph is the mean
    number of tails of a (head, relation) and hpt that of heads of a (relation, tail): of a one-to-many relation mostly
    the head, since a random tail is likelier to be true. A relation of m triples with H heads and T tails has
    tph = m / H and hpt = m / T, so p = T / (H + T).

    Here both sides of each triple are trained, the head's as the tail of the inverse. With the weights 2 (1 - p) on
    relation r and 2p on its inverse, the loss of a triple is exactly twice the expected one of the choice, and the two
    weights of a relation add up to those of the plain loss, 1 + 1. A relation without training triples has 1.
    """
    heads = distinct(triples.with_inverses("train")[:, :2])
    heads_of = heads[:, 1].bincount(minlength=2 * triples.n_relations)
    tails_of = heads_of.roll(triples.n_relations)  # the heads of the inverse
    return (2 * heads_of / (heads_of + tails_of)).nan_to_num_(nan=1.0)


def hardest(scores: Tensor, k: int) -> Tensor:
    """The k highest scores of each row, in falling order, with their gradients: (B, N) -> (B, k).

    Stochastic negative mining: the loss of a triple is that of the k hardest of its sampled negatives. Raises
    `DomainError` unless 1 <= k <= N.
    """
    if scores.dim() != 2:
        raise ShapeError(f"expected scores (B, N), got {tuple(scores.shape)}")
    if not 1 <= k <= scores.shape[1]:
        raise DomainError(f"k must lie between 1 and the number of negatives, {scores.shape[1]}; got {k}")
    return scores.topk(k, dim=1).values
