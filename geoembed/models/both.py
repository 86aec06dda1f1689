"""A triple scored in both of its directions: as (h, r, t) and as (t, inverse of r, h).

    score(h, r, t) = ( s(h, r, t) + s(t, r^-1, h) ) / 2

Training with inverse relations makes two scores for each triple, of the same entities but other parameters of the
relation. Ranking usually asks only the one whose tail is missing; their mean is an ensemble of the two at no cost in
parameters. Kazemi, Poole, "SimplE embedding for link prediction in knowledge graphs", NeurIPS 2018, arXiv:1802.04868,
trains such a mean.
"""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from geoembed.errors import DomainError
from geoembed.models.base import GraphModel

__all__ = ["BothDirections"]


class BothDirections(nn.Module):
    """A trained model that answers with the mean of its two directions; the rest is that of `model`."""

    def __init__(self, model: GraphModel):
        super().__init__()
        if model.n_relations % 2:
            raise DomainError(
                f"BothDirections needs the inverse of every relation in the model, r + n_relations / 2 for relation r; "
                f"n_relations is odd: {model.n_relations}"
            )
        self.model = model
        self.n_entities, self.n_relations, self.dim = model.n_entities, model.n_relations, model.dim

    def _inverse(self, relation):
        return (relation + self.n_relations // 2) % self.n_relations

    def forward(self, h: Tensor, r: Tensor, t: Tensor) -> Tensor:
        """Scores of triples. h, r, t: (B,) int64 -> (B,)."""
        return (self.model(h, r, t) + self.model(t, self._inverse(r), h)) / 2

    def tail_scorer(self, relation: int) -> Callable[[Tensor], Tensor]:
        """As in `GraphModel`."""
        forth, back = self.model.tail_scorer(relation), self.model.head_scorer(self._inverse(relation))

        @torch.no_grad()
        def score(heads: Tensor) -> Tensor:
            return forth(heads).add_(back(heads)).div_(2)

        return score
