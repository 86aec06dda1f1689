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

Each of MRR, H@k and MR is a mean over queries. With values x_1 .. x_q its standard error is sqrt((1 - f) s^2 / q),
s^2 = sum (x_i - mean)^2 / (q - 1). For a sample of q out of the Q queries of a split f = q / Q, and the error is that
of the split's own metric. For a whole split f = 0: the split itself is then seen as a sample of the queries that could
have been asked. Both take the queries as drawn one by one, so the two sides of a triple as unrelated.

References: Bordes et al., NeurIPS 2013 (filtering); Berrendorf et al., arXiv:2002.06914 (AMR, AMRI, realistic rank);
Cochran, "Sampling techniques", 3rd ed., 1977, section 2.6 (finite population).
"""

import math
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

__all__ = ["HITS", "Ranker", "RankingResult", "evaluate", "rank_block"]

HITS = (1, 3, 10)


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
        population: number of queries that these were drawn from at random; None where they are no sample.
    """

    optimistic: Tensor
    pessimistic: Tensor
    candidates: Tensor
    relation: Tensor
    head_side: Tensor
    unseen: Tensor
    relations: list[str]
    protocol: str
    population: int | None = None

    @property
    def ranks(self) -> Tensor:
        """Realistic ranks: the mean of the optimistic and the pessimistic one. (q,)"""
        return (self.optimistic + self.pessimistic) / 2

    def metrics(self, where: Tensor | None = None) -> dict[str, float]:
        """MRR, H@1, H@3, H@10, MR, AMR and AMRI over all queries, or those of the boolean mask `where`: (q,)."""
        values, ranks, n = self.values(where), self.ranks, self.candidates.double()
        if where is not None:
            ranks, n = ranks[where], n[where]
        result = {name: value.mean() for name, value in values.items()}
        result["amr"] = ranks.sum() / ((n + 1) / 2).sum()
        spread = ((n - 1) / 2).sum()
        result["amri"] = 1 - (ranks - 1).sum() / spread if spread > 0 else torch.tensor(float("nan"))
        return {name: value.item() for name, value in result.items()}

    def values(self, where: Tensor | None = None) -> dict[str, Tensor]:
        """What MRR, H@k and MR are the means of: float64 (q,), or of the queries of the boolean mask `where`: (q,)."""
        ranks = self.ranks if where is None else self.ranks[where]
        if len(ranks) == 0:
            raise DataError("no queries to average over: the split or the selection is empty")
        return {"mrr": 1 / ranks, **{f"hits@{k}": (ranks <= k).double() for k in HITS}, "mr": ranks}

    def standard_errors(self, where: Tensor | None = None) -> dict[str, float]:
        """Standard errors of MRR, H@1, H@3, H@10 and MR, as the module says; NaN for one query of many.

        A sample's error is that of the split's metric, and 0 where the sample is the whole split; a whole split's is
        that of a population behind it. The mean +- 1.96 errors is a 95 % interval where some tens of queries have a
        rank within k, and some tens have not. AMR and AMRI are ratios and have none here.
        """
        left = 1.0 if self.population is None else 1 - len(self.ranks) / self.population
        return {name: _standard_error(value, left) for name, value in self.values(where).items()}

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


def _standard_error(values: Tensor, left: float) -> float:
    """Of the mean of a random sample, without replacement, that leaves this share of the population out. (q,)"""
    if left == 0:
        return 0.0
    square = (values - values.mean()).square().sum() / (len(values) - 1)
    return math.sqrt(left * square.item() / len(values))


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
    sample: int | None = None,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
    progress: bool = False,
) -> RankingResult:
    """Filtered ranking of both sides of every triple of a split, filtered by all splits that `triples` has.

    Args:
        model: see `Ranker`. It must know the inverse relations r + n_relations.
        split: "train", "valid" or "test".
        exclude_query_entity: drop the query's own entity from the candidates (the protocol of MuRP's code).
        queries: (q, 3) directed triples to rank instead of the whole split, as `triples.with_inverses` gives them.
        sample: rank so many queries, drawn at random without replacement, or all where there are fewer. Ranks are
            exact; see `RankingResult.standard_errors`.
        generator: draws the sample.
        budget: bytes that the blocks of scores may take.
        progress: show a progress bar, where standard error is a terminal.

    Raises:
        DataError: if the split is empty.
        DomainError: if the model and the data differ in the number of entities, or sample is below 1.
    """
    directed = check_queries(model, triples, split, queries)
    population = None
    if sample is not None:
        if sample < 1:
            raise DomainError(f"sample must be at least 1 query, got {sample}; leave it out to rank them all")
        population = len(directed)
        directed = directed[torch.randperm(population, generator=generator)[:sample].sort()[0]]
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
        protocol=protocol(triples, f"all {triples.n_entities} entities", exclude_query_entity)
        + ("" if population is None else f", a sample of {len(directed)} of {population} queries"),
        population=population,
    )


def check_queries(model: Ranker, triples: Triples, split: Split, queries: Tensor | None = None) -> Tensor:
    """The directed queries of a split, or those given, after the checks that `evaluate` promises: (q, 3)."""
    if model.n_entities != triples.n_entities:
        raise DomainError(
            f"the model has {model.n_entities} entities, the data {triples.n_entities}; evaluate on the data it was "
            f"trained on"
        )
    directed = triples.with_inverses(split) if queries is None else queries
    if len(directed) == 0:
        raise DataError(f"the {split} split of {triples.name} is empty; there is nothing to evaluate")
    return directed


def _filtered(known: Filter, heads: Tensor, relation: int, exclude_query_entity: bool) -> tuple[Tensor, Tensor]:
    rows, columns = known.tails(heads, torch.full_like(heads, relation))
    if exclude_query_entity:
        rows, columns = torch.cat([rows, torch.arange(len(heads))]), torch.cat([columns, heads])
    return rows, columns


def protocol(triples: Triples, candidates: str, exclude_query_entity: bool = False) -> str:
    """The evaluation in words."""
    splits = "+".join(name for name in ("train", "valid", "test") if len(getattr(triples, name)))
    own = "query entity excluded (papers' protocol)" if exclude_query_entity else "query entity kept"
    return f"filtered by {splits}, both sides, realistic ranks, {candidates}, {own}"
