"""Models whose score is an inner product of a query with the tail: DistMult, ComplEx, RESCAL, TuckER.

    DistMult   <x_h ⊙ y_r, x_t>                  y a vector: symmetric in head and tail
    ComplEx    Re <x_h ⊙ y_r, conj x_t>           x, y complex, dim / 2 coordinates
    RESCAL     x_h^T M_r x_t                      M a (d, d) matrix
    TuckER     x_h^T (sum_k y_rk W_k) x_t         W a (k, d, d) core shared by the relations, y a vector of k

They meet the library as a `NegativeInner` distance. None has biases.

References: Yang, Yih, He, Gao, Deng, ICLR 2015, arXiv:1412.6575 (DistMult); Trouillon, Welbl, Riedel, Gaussier,
Bouchard, ICML 2016, arXiv:1606.06357 (ComplEx); Nickel, Tresp, Kriegel, ICML 2011 (RESCAL); Balazevic, Allen,
Hospedales, EMNLP 2019, arXiv:1901.09590 (TuckER; its batch normalisation is left out).
"""

from typing import Any, ClassVar

import torch
from torch import Tensor

from geoembed.distances import NegativeInner
from geoembed.errors import DomainError
from geoembed.models.base import GraphModel
from geoembed.models.rotation import check_even, moduli, multiply

__all__ = ["RESCAL", "ComplEx", "DistMult", "TuckER"]


class Bilinear(GraphModel):
    """Base: the inner product of query and tail."""

    has_biases: ClassVar[bool] = False
    default_scale: ClassVar[float] = 0.1

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.distance = NegativeInner()
        self.entity = self._normal(n_entities, dim)


class DistMult(Bilinear):
    """<x_h ⊙ y_r, x_t>. With inverse relations y_r and y of the inverse differ, which lifts the symmetry."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.relation = self._normal(n_relations, dim)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return rows * self._take(self.relation, r)

    def relation_rows(self, r: Tensor) -> Tensor:
        return self.relation.index_select(0, r)


class ComplEx(Bilinear):
    """Re <x_h ⊙ y_r, conj x_t>, real parts first, then imaginary parts. dim is even."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        check_even(dim, "ComplEx")
        self.relation = self._normal(n_relations, dim)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return multiply(rows, self._take(self.relation, r))

    def relation_rows(self, r: Tensor) -> Tensor:
        return self.relation.index_select(0, r)

    def moduli(self, rows: Tensor) -> Tensor:
        return moduli(rows)


class RESCAL(Bilinear):
    """x_h^T M_r x_t."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.matrix = self._normal(n_relations, dim, dim)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        return torch.bmm(rows.unsqueeze(1), self._take(self.matrix, r)).squeeze(1)


class TuckER(Bilinear):
    """x_h^T (sum_k y_rk W_k) x_t. Options: `relation_dim` (k, default dim), and those of `GraphModel`."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, *, relation_dim: int | None = None, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.relation_dim = dim if relation_dim is None else relation_dim
        if self.relation_dim < 1:
            raise DomainError(f"relation_dim must be at least 1, got {relation_dim}")
        self.relation = self._normal(n_relations, self.relation_dim)
        self.core = self._uniform(-1, 1, self.relation_dim, dim, dim)

    def _query(self, rows: Tensor, r: Tensor) -> Tensor:
        relations, place = r.unique(return_inverse=True)  # a matrix for each relation of the batch, not for each triple
        matrices = torch.tensordot(self._take(self.relation, relations), self.core, dims=1)
        return torch.bmm(rows.unsqueeze(1), matrices[place]).squeeze(1)
