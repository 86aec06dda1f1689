"""The mean of the scores of several models of one graph: mostly better than each, and a teacher for one of them.

    score(h, r, t) = mean over models of score_m(h, r, t)

What only the random starts of the models made differ cancels in the mean. See `geoembed.distillation` for how a single
model learns from it.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from geoembed.errors import DomainError
from geoembed.models.base import GraphModel

__all__ = ["Ensemble"]


class Ensemble(nn.Module):
    """Trained models that answer with the mean of their scores; of any kinds and dimensions.

    Raises DomainError without models, or where they have other numbers of entities and relations.
    """

    def __init__(self, models: Sequence[GraphModel]):
        super().__init__()
        sizes = [(model.n_entities, model.n_relations) for model in models]
        if len(set(sizes)) != 1:
            raise DomainError(
                f"an ensemble takes models of one graph, at least one; got models with (entities, directed relations) "
                f"{sizes}"
            )
        self.models: Sequence[GraphModel] = nn.ModuleList(models)  # type: ignore[assignment]
        self.n_entities, self.n_relations = sizes[0]

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples. h, r, t: (B,) int64 -> (B,)."""
        return torch.stack([model(h, r, t) for model in self.models]).mean(0)

    @torch.no_grad()
    def score_negatives(self, h: Tensor, r: Tensor, t: Tensor, negatives: Tensor) -> tuple[Tensor, Tensor]:
        """Scores of triples (B,) and of their negatives (B, N), as in `GraphModel.score_batch`, without a graph."""
        scored = [model.score_batch(h, r, t, negatives) for model in self.models]
        return (
            torch.stack([s.positive for s in scored]).mean(0),
            torch.stack([s.negative for s in scored]).mean(0),
        )

    def tail_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """As in `GraphModel`."""
        scorers = [model.tail_scorer(relation) for model in self.models]

        @torch.no_grad()
        def score(heads: Tensor) -> Tensor:
            total = scorers[0](heads)
            for scorer in scorers[1:]:
                total.add_(scorer(heads))
            return total.div_(len(scorers))

        return score
