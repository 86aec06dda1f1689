"""Ranking evaluation of link prediction, with its protocol named in the result.

For a test triple (h, r, t) all entities are candidates for t given (h, r) and for h given (t, inverse of r). Those
that make another known triple are filtered out. With the target among the candidates,

    optimistic = 1 + #{score > target},   pessimistic = #{score >= target},   realistic = their mean,

and every metric uses the realistic rank. Entities that never occur in training are candidates and targets like the
others, and are counted. The query's own entity stays a candidate; `exclude_query_entity=True` removes it, as the code
of MuRP and its descendants does (worth about +.01 of MRR on WN18RR), and the protocol says so.

    MRR = mean 1/rank     H@k = share of rank <= k     MR = mean rank
    AMR = sum rank / sum (n + 1) / 2                   1 is random, lower is better
    AMRI = 1 - sum (rank - 1) / sum (n - 1) / 2        1 is best, 0 random           n = number of candidates

References: Bordes et al., NeurIPS 2013 (filtering); Berrendorf et al., arXiv:2002.06914 (AMR, AMRI, realistic rank).
"""

import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from tqdm import tqdm

from geoembed.data import Filter, Split, Triples
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DataError, DomainError, NumericalWarning

__all__ = ["Ranker", "RankingResult", "evaluate", "rank_block"]


class Ranker(Protocol):
    """What `evaluate` asks of a model: a module with these."""

    n_entities: int

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def tail_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """A function from heads (B,) to the scores of all entities as tails (B, n_entities); higher is better.

        Relations from n_relations on are the inverses, whose tails are the heads.
        """
        ...


@dataclass
class RankingResult:
    """One row for each query: the test triples first, then the same triples turned round.

    Attributes:
        optimistic, pessimistic: ranks, float64 (q,).
        candidates: number of candidates, the target included (q,).
        relation: relation index without regard to direction (q,).
        head_side: True where the head was asked for (q,).
        unseen: True where an entity of the triple does not occur in training (q,).
        relations: names of the relations.
        protocol: the evaluation in words.
    """

    optimistic: Tensor
    pessimistic: Tensor
    candidates: Tensor
    relation: Tensor
    head_side: Tensor
    unseen: Tensor
    relations: list[str]
    protocol: str

    @property
    def ranks(self) -> Tensor:
        """Realistic ranks: the mean of the optimistic and the pessimistic one. (q,)"""
        return (self.optimistic + self.pessimistic) / 2

    def metrics(self, where: Tensor | None = None) -> dict[str, float]:
        """MRR, H@1, H@3, H@10, MR, AMR and AMRI over all queries, or those of the boolean mask `where`: (q,)."""
        ranks, n = self.ranks, self.candidates.double()
        if where is not None:
            ranks, n = ranks[where], n[where]
        if len(ranks) == 0:
            raise DataError("no queries to average over: the split or the selection is empty")
        result = {"mrr": (1 / ranks).mean()}
        result |= {f"hits@{k}": (ranks <= k).double().mean() for k in (1, 3, 10)}
        result |= {"mr": ranks.mean(), "amr": ranks.sum() / ((n + 1) / 2).sum()}
        spread = ((n - 1) / 2).sum()
        result["amri"] = 1 - (ranks - 1).sum() / spread if spread > 0 else torch.tensor(float("nan"))
        return {name: value.item() for name, value in result.items()}

    def by_side(self) -> dict[str, dict[str, float]]:
        """Metrics of the queries for tails, for heads, and of both; a side without queries is left out."""
        sides = {"tail": ~self.head_side, "head": self.head_side, "both": torch.ones_like(self.head_side)}
        return {side: self.metrics(where) for side, where in sides.items() if bool(where.any())}

    def by_relation(self) -> dict[str, dict[str, float]]:
        """Metrics of each relation that occurs, with its number of queries."""
        table = {}
        for index in self.relation.unique().tolist():
            where = self.relation == index
            table[self.relations[index]] = {"queries": int(where.sum())} | self.metrics(where)
        return table


def rank_block(scores: Tensor, target: Tensor, rows: Tensor, known: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Ranks of the targets in a block of scores.

    A target with a NaN or infinite score gets the worst rank; other candidates that are NaN count as worse.

    Args:
        scores: (B, n), higher is better.
        target: (B,) column of each row's answer.
        rows, known: (k,) row and column of the candidates to filter out; targets among them stay.

    Returns:
        (optimistic rank, pessimistic rank, number of candidates), each (B,).
    """
    size, n = scores.shape
    answer = scores[torch.arange(size, device=scores.device), target]
    taken = (rows * n + known)[known != target[rows]].unique()  # each once
    rows, known = taken // n, taken % n
    value, bar = scores[rows, known], answer[rows]

    def count(whole: Tensor, left_out: Tensor) -> Tensor:
        # an int32 sum of a mask is ten times faster than the default one
        return whole.sum(-1, dtype=torch.int32) - rows[left_out].bincount(minlength=size)

    candidates = n - rows.bincount(minlength=size)
    better = count(scores > answer.unsqueeze(-1), value > bar)
    equal = count(scores == answer.unsqueeze(-1), value == bar)
    worst = ~answer.isfinite()
    optimistic = torch.where(worst, candidates, better + 1)
    pessimistic = torch.where(worst, candidates, better + equal)
    return optimistic, pessimistic, candidates


def evaluate(
    model: Ranker,
    triples: Triples,
    split: Split = "test",
    *,
    exclude_query_entity: bool = False,
    queries: Tensor | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> RankingResult:
    """Filtered ranking of both sides of every triple of a split, filtered by all splits that `triples` has.

    Args:
        model: see `Ranker`. It must know the inverse relations r + n_relations.
        split: "train", "valid" or "test".
        exclude_query_entity: drop the query's own entity from the candidates (the protocol of MuRP's code).
        queries: (q, 3) directed triples to rank instead of the whole split, as `triples.with_inverses` gives them.
        budget: bytes that the blocks of scores may take.
        progress: show a progress bar, where standard error is a terminal.

    Raises:
        DataError: if the split is empty.
        DomainError: if the model and the data differ in the number of entities.
    """
    if model.n_entities != triples.n_entities:
        raise DomainError(
            f"the model has {model.n_entities} entities, the data {triples.n_entities}; evaluate on the data it was "
            f"trained on"
        )
    directed = triples.with_inverses(split) if queries is None else queries
    if len(directed) == 0:
        raise DataError(f"the {split} split of {triples.name} is empty; there is nothing to evaluate")
    known = triples.known()
    n_rel = triples.n_relations
    optimistic, pessimistic, candidates = (torch.empty(len(directed), dtype=torch.float64) for _ in range(3))
    broken, device, width = 0, next(model.parameters()).device, max(p.element_size() for p in model.parameters())
    bar = tqdm(total=len(directed), desc=f"rank {split}", unit="query", leave=False, disable=None if progress else True)
    with torch.no_grad(), bar:
        for relation in directed[:, 1].unique().tolist():
            score = model.tail_scorer(relation)
            rows = max(1, budget // (4 * width * triples.n_entities))  # scores, a temporary of the model, masks, sums
            for block in (directed[:, 1] == relation).nonzero().squeeze(-1).split(rows):
                heads, targets = directed[block, 0], directed[block, 2]
                scores = score(heads.to(device)).cpu()
                broken += int(scores.amax(-1).isnan().sum())  # amax passes NaN on
                taken = _filtered(known, heads, relation, exclude_query_entity)
                optimistic[block], pessimistic[block], candidates[block] = (
                    part.double() for part in rank_block(scores, targets, *taken)
                )
                bar.update(len(block))
    if broken:
        warnings.warn(
            f"{broken} of {len(directed)} queries have NaN scores; NaN counts as the worst score", NumericalWarning, 2
        )
    unseen = triples.unseen(split)
    return RankingResult(
        optimistic=optimistic,
        pessimistic=pessimistic,
        candidates=candidates.long(),
        relation=directed[:, 1] % n_rel,
        head_side=directed[:, 1] >= n_rel,
        unseen=torch.isin(directed[:, 0], unseen) | torch.isin(directed[:, 2], unseen),
        relations=triples.relations,
        protocol=_protocol(triples, exclude_query_entity),
    )


def _filtered(known: Filter, heads: Tensor, relation: int, exclude_query_entity: bool) -> tuple[Tensor, Tensor]:
    rows, columns = known.tails(heads, torch.full_like(heads, relation))
    if exclude_query_entity:
        rows, columns = torch.cat([rows, torch.arange(len(heads))]), torch.cat([columns, heads])
    return rows, columns


def _protocol(triples: Triples, exclude_query_entity: bool) -> str:
    splits = "+".join(name for name in ("train", "valid", "test") if len(getattr(triples, name)))
    own = "query entity excluded (papers' protocol)" if exclude_query_entity else "query entity kept"
    return f"filtered by {splits}, both sides, realistic ranks, all {triples.n_entities} entities, {own}"
