"""Knowledge distillation: a model learns how likely its teachers, models trained before, find triples.

With s the score of a triple, s_1 .. s_N those of its negatives, a_1 .. a_K those of the K answers that the teachers
find likeliest for its head and relation, and p the teachers' probabilities, sigmoids of the mean of their scores, a
step minimises

    c(s, p) + w mean_j c(s_j, p_j) + v sum_k c(a_k, p_k),        c(s, p) = softplus(s) - p s,

over its batch: binary cross-entropy with what the teachers think in place of 1 and 0. The mean of several models is
better than each of them, and most of it fits into a single one: what only their random starts made differ cancels, and
a triple that none of them can explain pulls at nothing. The answers are where it matters, and random negatives hardly
ever meet them. They are taken from the 4 K that the first teacher finds likeliest, as scoring all entities by all
teachers would take as long as many epochs.

References: Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", 2015, arXiv:1503.02531; for graphs
Wang, Liu, Ma, Sheng, "MulDE: multi-teacher knowledge distillation for low-dimensional knowledge graph embeddings",
WWW 2021, arXiv:2010.07152, where the answers come from.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor
from tqdm import tqdm

from geoembed.data import Triples
from geoembed.data.queries import QueryGroups
from geoembed.distance import DEFAULT_BUDGET
from geoembed.errors import DomainError
from geoembed.models import Ensemble, GraphModel, Scored

__all__ = ["Teacher"]

CANDIDATES = 4  # that the first teacher names for each answer


class Teacher:
    """The mean of trained models, what they answer to every training query, and the loss of a model that learns it.

    Args:
        models: the teachers, each of the entities and directed relations of `triples`, in their order.
        triples: their training queries, both directions of them, are asked.
        weight: w, of the mean over the negatives.
        answers: K, at most the number of entities; 0 asks nothing beforehand.
        answer_weight: v, of each of the answers.
        progress: show a bar while they are asked (where standard error is a terminal).

    Raises DomainError for no teacher, one of another graph, or more answers than entities.
    """

    def __init__(
        self,
        models: Sequence[GraphModel],
        triples: Triples,
        *,
        weight: float = 1.0,
        answers: int = 0,
        answer_weight: float = 1.0,
        progress: bool = False,
    ):
        self.ensemble = Ensemble(models).eval()
        for model in models:
            model.check_fits(triples)
        if not 0 <= answers <= triples.n_entities:
            raise DomainError(f"answers must be between 0 and the {triples.n_entities} entities, got {answers}")
        self.weight, self.answers, self.answer_weight = weight, answers, answer_weight
        self.n_entities = triples.n_entities
        if answers:
            self._ask(triples, progress)

    def loss(self, model: GraphModel, scored: Scored, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor) -> Tensor:
        """Loss of triples h, r, t: (B,) with these scores of the model and negatives (N,) or (B, N) -> (B,)."""
        taught, taught_negative = self.ensemble.score_negatives(h, r, t, negatives)
        losses = _cross_entropy(scored.positive, taught)
        losses = losses + self.weight * _cross_entropy(scored.negative, taught_negative).mean(-1)
        if not self.answers:
            return losses
        place = torch.searchsorted(self.keys, self._key(h, r))
        answers = model.score_batch(h, r, t, self.ids[place].long()).negative
        return losses + self.answer_weight * _cross_entropy(answers, self.scores[place]).sum(-1)

    def _key(self, h: Tensor, r: Tensor) -> Tensor:
        return r * self.n_entities + h

    def _ask(self, triples: Triples, progress: bool) -> None:
        """keys: (q,) sorted, of the training queries; ids, scores: (q, K), their likeliest answers, in no order."""
        groups = QueryGroups.from_triples(triples.with_inverses("train"))
        table = next(self.ensemble.parameters())
        self.keys, _ = self._key(groups.heads, groups.relations).to(table.device).sort()
        self.ids = torch.empty(len(self.keys), self.answers, dtype=torch.int32, device=table.device)
        self.scores = table.new_empty(len(self.keys), self.answers)
        relations = self.keys // self.n_entities
        size = max(1, DEFAULT_BUDGET // (16 * self.n_entities))
        first, n_candidates = self.ensemble.models[0], min(CANDIDATES * self.answers, self.n_entities)
        with tqdm(total=len(self.keys), unit="query", disable=None if progress else True, dynamic_ncols=True) as bar:
            bar.set_description("asking the teachers")
            for relation in relations.unique().tolist():
                score = first.tail_scorer(relation)
                for rows in (relations == relation).nonzero().squeeze(1).split(size):
                    heads, same = self.keys[rows] % self.n_entities, relations[rows]
                    candidates = score(heads).topk(n_candidates, sorted=False).indices
                    _, taught = self.ensemble.score_negatives(heads, same, heads, candidates)
                    best = taught.topk(self.answers, sorted=False)
                    self.ids[rows], self.scores[rows] = candidates.gather(1, best.indices).int(), best.values.to(table)
                    bar.update(len(rows))


def _cross_entropy(scores: Tensor, taught: Tensor) -> Tensor:
    """c(s, p), elementwise, p the sigmoid of what is taught."""
    return F.softplus(scores) - taught.sigmoid() * scores
