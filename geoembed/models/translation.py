"""TransE: a relation is a translation.

    score(h, r, t) = -|x_h + y_r - x_t|_p,   p = 1 or 2

Reference: Bordes, Usunier, Garcia-Duran, Weston, Yakhnenko, "Translating embeddings for modeling multi-relational
data", NeurIPS 2013.
"""

from typing import Any, ClassVar

from torch import Tensor

from geoembed.distances import Lp
from geoembed.models.base import GraphModel

__all__ = ["TransE"]


class TransE(GraphModel):
    """-|x_h + y_r - x_t|_p. Options: `p` (1 or 2, default 2), and those of `GraphModel`."""

    has_biases: ClassVar[bool] = False
    default_scale: ClassVar[float] = 0.1

    def __init__(self, n_entities: int, n_relations: int, dim: int, *, p: float = 2, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.distance = Lp(p)
        self.entity = self._normal(n_entities, dim)
        self.relation = self._normal(n_relations, dim)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return rows + self._take(self.relation, r)
