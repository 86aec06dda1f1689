"""Ranking against a random sample of the candidates, and what it says about the full ranking.

For graphs too large to score every entity for every query. A query has N other candidates, of which A score above its
target (ties count half), so its rank is 1 + A. Of m of them, drawn at random with replacement, K score above. There
are three different things, and they are kept apart.

The sampled protocol. Ranks 1 + K among m + 1, with their metrics. These are not the full metrics: K is about A m / N,
so MRR and H@k come out far too high, and may order two models the other way round (Krichene and Rendle).

The full mean rank. E K = A m / N, so 1 + N K / m is an unbiased estimate of each rank, and the mean of these is one of
MR; AMR and AMRI follow, being linear in the ranks. With v_1 .. v_m in {0, 1/2, 1} and s^2 their sample variance, the
error of a rank has variance N^2 s^2 / m, and draws of different queries are independent.

The full MRR and H@k. No function of K estimates 1 / (1 + A) without bias: E f(K) is a polynomial in A. So the queries
are put into strata by their K, and some queries drawn in each are ranked against all candidates:

    estimate = sum_h W_h mean_h,    variance = sum_h W_h^2 (1 - n_h / Q_h) s_h^2 / n_h,    W_h = Q_h / Q,

where the Q_h queries of stratum h have n_h drawn, with mean mean_h and sample variance s_h^2 of 1 / rank or of
[rank <= k]. Given the strata, whatever they are, the first is unbiased for the metric of the split and the second for
its variance. The strata only make the error small: where many of m random candidates score above the target, H@k is 0
and 1 / rank nearly so, and a few exact ranks will do. The others go where K is small.

References: Cochran, "Sampling techniques", 3rd ed., 1977, theorems 5.1, 5.3, 5.4 (stratified sampling); Krichene and
Rendle, "On sampled metrics for item recommendation", KDD 2020.
"""

import math
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn

from geoembed.data import Split, Triples
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DomainError, NumericalWarning
from geoembed.evaluation import HITS, Ranker, RankingResult, check_queries, evaluate, protocol

__all__ = ["SampledResult", "Scorer", "absent", "evaluate_sampled", "score_triples"]


class Scorer(Protocol):
    """What `score_triples` asks of a model."""

    def parameters(self) -> Iterator[nn.Parameter]: ...

    def __call__(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples, higher is better. h, r, t: (B,) -> (B,)."""
        ...


class SampledRanker(Ranker, Scorer, Protocol):
    """What `evaluate_sampled` asks of a model."""


@dataclass
class SampledResult:
    """Sampled ranks of all queries, exact ranks of some, and estimates of the full metrics with their errors.

    Attributes:
        sampled: the sampled protocol: ranks among m + 1, for all q queries.
        exact: the full ranking of the queries `rows`.
        rows: int64 (e,), sorted.
        stratum: of each query: int64 (q,).
        candidates: of each query in the full ranking, the target included: (q,).
    """

    sampled: RankingResult
    exact: RankingResult
    rows: Tensor
    stratum: Tensor
    candidates: Tensor

    def estimates(self) -> dict[str, float]:
        """Estimates of the full ranking's MRR, H@1, H@3, H@10, MR, AMR and AMRI on the split, without bias."""
        return {name: value for name, (value, _) in self._estimated().items()}

    def standard_errors(self) -> dict[str, float]:
        """Their standard errors: estimate +- 1.96 of them is a 95 % interval where the counts behind it are not tiny.

        For MR, AMR and AMRI that means some tens of sampled candidates above their targets in all, for H@k some
        tens of exact ranks within k and above it.
        """
        return {name: error for name, (_, error) in self._estimated().items()}

    def _estimated(self) -> dict[str, tuple[float, float]]:
        values, drawn = self.exact.values(), self.stratum[self.rows]
        total = len(self.stratum)
        mean, variance = (dict.fromkeys(values, 0.0) for _ in range(2))
        for h in drawn.unique().tolist():
            size, here = int((self.stratum == h).sum()), drawn == h
            for name, value in values.items():
                x = value[here]
                mean[name] += size / total * x.mean().item()
                if len(x) < size:
                    variance[name] += (size / total) ** 2 * (1 - len(x) / size) * x.var().item() / len(x)
        found = {name: (mean[name], math.sqrt(variance[name])) for name in values if name != "mr"}

        m, n = self.sampled.candidates.double() - 1, self.candidates.double()
        above, ties = self.sampled.ranks - 1, self.sampled.pessimistic - self.sampled.optimistic
        share = above / m
        spread = ((above - ties / 4) / m - share.square()) * m / (m - 1)  # the draws' squares sum to above - ties / 4
        rank = 1 + (n - 1) * share
        error = ((n - 1).square() * spread / m).sum().sqrt()
        found["mr"] = rank.mean().item(), error.item() / total
        half, other = ((n + 1) / 2).sum(), ((n - 1) / 2).sum()
        found["amr"] = (rank.sum() / half).item(), (error / half).item()
        found["amri"] = (1 - (rank - 1).sum() / other).item(), (error / other).item()
        return found


def evaluate_sampled(
    model: SampledRanker,
    triples: Triples,
    split: Split = "test",
    *,
    candidates: int = 1000,
    exact: int = 1000,
    generator: torch.Generator | None = None,
    budget: int = DEFAULT_BUDGET,
) -> SampledResult:
    """Ranks both sides of every triple of a split against random candidates, and some of them against all.

    Known answers, of all splits, are no candidates. A target whose score is NaN or infinite is below all candidates; a
    candidate that is NaN is below the target.

    Args:
        model: see `Ranker` and `Scorer`. It must know the inverse relations r + n_relations.
        candidates: m, drawn for each query with replacement; at least 2.
        exact: number of queries to rank against all candidates, or all where there are fewer; a stratum gets two at
            least, which may make a few more.
        generator: draws the candidates and the queries.
        budget: bytes that a block of scores and what it is made from may take.

    Raises:
        DataError: if the split is empty.
        DomainError: if the model and the data differ in the number of entities, or an argument is too small.
    """
    for name, value, least in (("candidates", candidates, 2), ("exact", exact, 2)):
        if value < least:
            raise DomainError(f"{name} must be at least {least}, got {value}")
    directed = check_queries(model, triples, split)
    known, n = triples.known(), triples.n_entities
    above, ties, others = (torch.empty(len(directed), dtype=torch.int64) for _ in range(3))
    broken = 0
    for block in torch.arange(len(directed)).split(max(1, budget // (_triple_bytes(model) * (candidates + 1)))):
        h, r, t = directed[block].unbind(1)
        rows, taken = known.tails(h, r)  # the target among them
        left = n - rows.bincount(minlength=len(h))
        uniform = torch.rand(len(h), candidates, dtype=torch.float64, generator=generator)
        drawn = absent((uniform * left.unsqueeze(1)).long(), rows, taken).clamp_(max=n - 1)  # none left: not counted
        tails = torch.cat([t.unsqueeze(1), drawn], 1)
        pairs = torch.stack(torch.broadcast_tensors(h.unsqueeze(1), r.unsqueeze(1), tails), -1)
        scores = score_triples(model, pairs.flatten(0, 1), budget=budget).view_as(tails)
        answer, score = scores[:, :1], scores[:, 1:]
        broken += int(scores.isnan().any(1).sum())
        worst, some = ~answer.isfinite().squeeze(1), (left > 0).long()
        above[block] = torch.where(worst, candidates, (score > answer).sum(1)) * some
        ties[block] = torch.where(worst, 0, (score == answer).sum(1)) * some
        others[block] = left
    if broken:
        warnings.warn(
            f"{broken} of {len(directed)} queries have NaN scores; NaN counts as the worst score", NumericalWarning, 2
        )
    stratum = torch.bucketize(above + ties / 2, torch.tensor(HITS), right=True)
    rows = _draw(stratum, exact, generator)
    full = evaluate(model, triples, split, queries=directed[rows], budget=budget)
    unseen = triples.unseen(split)
    sampled = RankingResult(
        optimistic=1 + above.double(),
        pessimistic=1 + (above + ties).double(),
        candidates=torch.full_like(above, candidates + 1),
        relation=directed[:, 1] % triples.n_relations,
        head_side=directed[:, 1] >= triples.n_relations,
        unseen=torch.isin(directed[:, 0], unseen) | torch.isin(directed[:, 2], unseen),
        relations=triples.relations,
        protocol=protocol(triples, f"SAMPLED: {candidates} of {n} entities, drawn for each query with replacement"),
    )
    full.protocol += f", {len(rows)} of {len(directed)} queries, stratified by sampled rank"
    return SampledResult(sampled, full, rows, stratum, 1 + others)


def _draw(stratum: Tensor, exact: int, generator: torch.Generator | None) -> Tensor:
    """The queries to rank exactly, sorted: each stratum in proportion to its size and to the largest 1 / rank in it."""
    sizes = stratum.bincount(minlength=len(HITS) + 1).tolist()
    weights = [size / (1 + least) for size, least in zip(sizes, (0, *HITS), strict=True)]
    rows = []
    for h, size in enumerate(sizes):
        wanted = round(exact * weights[h] / (sum(weights[h:]) or 1))
        chosen = torch.randperm(size, generator=generator)[: max(wanted, 2)]
        rows.append((stratum == h).nonzero().squeeze(1)[chosen])
        exact = max(0, exact - len(chosen))  # what a stratum has no queries for goes to the next ones
    return torch.cat(rows).sort()[0]


def absent(index: Tensor, rows: Tensor, taken: Tensor) -> Tensor:
    """The index-th of the numbers 0, 1, 2, ... that are not taken in a row: (B, m), counted from 0.

    index: int64 (B, m). rows, taken: (k,) pairs sorted by row, then by number, each once, as `Filter.tails` gives them.

    >>> absent(torch.tensor([[0, 1, 2]]), torch.tensor([0, 0]), torch.tensor([1, 2])).tolist()
    [[0, 3, 4]]
    """
    count = rows.bincount(minlength=len(index))
    first = count.cumsum(0) - count
    # j free numbers lie below the i-th taken one, e_i, where j = e_i - i: those with j <= index are jumped over
    free = taken - (torch.arange(len(taken), device=taken.device) - first[rows])
    size = int(torch.cat([index.flatten(), free]).max()) + 1 if len(free) else 0
    row = torch.arange(len(index), device=index.device).unsqueeze(1)
    jumped = torch.searchsorted(rows * size + free, row * size + index, right=True) - first.unsqueeze(1)
    return index + jumped


def score_triples(model: Scorer, triples: Tensor, *, budget: int = DEFAULT_BUDGET) -> Tensor:
    """Scores of triples on the CPU, without a graph, in blocks whose temporaries take about `budget` bytes.

    triples: int64 (n, 3) -> (n,).
    """
    device = next(model.parameters()).device
    with torch.no_grad():
        blocks = triples.split(max(1, budget // _triple_bytes(model)))
        return torch.cat([model(*block.to(device).unbind(1)).cpu() for block in blocks])


def _triple_bytes(model: Scorer) -> int:
    """Bytes to score a triple: a row of each table, four times over for what is made of it, and its ids and draws."""
    tables = [p for p in model.parameters() if p.dim() and len(p)]
    return 4 * sum(p[0].numel() * p.element_size() for p in tables) + 96
