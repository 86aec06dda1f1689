"""HyboNet's scorer: a relation is one Lorentz linear layer, and the squared Lorentz distance compares.

    score(h, r, t) = b_h + b'_t - |f_r(x_h) - x_t|_L^2,      |x - y|_L^2 = -2 - 2 <x, y>_L = 2 (cosh d(x, y) - 1)
    f_r(x) = ( t, sqrt(t^2 - 1) W_r x / |W_r x| ),      t = lambda_r sigmoid(<v_r, x> + beta_r) + 1.1

The layer gates the time coordinate t of the image; its space coordinates have the direction of W_r x, x with its time
coordinate in front, and the length that puts the image on the hyperboloid.

Entities are tangent coordinates at the origin, x = exp_0(u), curvature -1.

Reference: Chen, Han, Lin, Zhao, Liu, Li, Sun, Zhou, "Fully hyperbolic neural networks", ACL 2022, arXiv:2105.14686,
eq. 3 and section 4.1. The paper's constant margin is absorbed by the biases.
"""

import math
from typing import Any

import torch
from torch import Tensor, nn

from geoembed.manifolds import PoincareBall
from geoembed.models.base import GraphModel
from geoembed.models.translated import Points, squared_arcosh1p, unit_point

__all__ = ["HyboNet"]

LEAST_TIME = 1.1  # the layer's image keeps so far from the origin that its direction has a gradient


class HyboNet(GraphModel):
    """A Lorentz linear layer for each relation and the squared Lorentz distance."""

    def __init__(self, n_entities: int, n_relations: int, dim: int, **options: Any):
        super().__init__(n_entities, n_relations, dim, **options)
        self.manifold = PoincareBall()
        self.entity = self._normal(n_entities, dim)
        bound = 1 / math.sqrt(dim)
        self.matrix = self._uniform(-bound, bound, n_relations, dim, dim + 1)
        self.direction = self._uniform(-bound, bound, n_relations, dim + 1)
        self.offset = nn.Parameter(torch.zeros(n_relations, dtype=self.dtype))
        self.log_reach = nn.Parameter(torch.zeros(n_relations, dtype=self.dtype))

    def _query(self, rows: Tensor, r: Tensor) -> Points:
        x = torch.cat(unit_point(rows), dim=-1)
        space = torch.bmm(self._take(self.matrix, r), x.unsqueeze(-1)).squeeze(-1)
        gate = (self.direction.index_select(0, r) * x).sum(-1) + self.offset.index_select(0, r)
        time = (self.log_reach.index_select(0, r).exp() * gate.sigmoid() + LEAST_TIME).unsqueeze(-1)
        length = torch.linalg.vector_norm(space, dim=-1, keepdim=True).clamp(min=1e-8)
        return Points(time, space * ((time * time - 1).sqrt() / length))

    def _answer(self, rows: Tensor) -> Points:
        return unit_point(rows)

    def _compare(self, query: Points, answer: Points) -> Tensor:
        inner = query.time * answer.time - (query.space * answer.space).sum(-1, keepdim=True)
        return 2 * (inner.squeeze(-1) - 1)

    def _compare_matrix(self, query: Points, answer: Points) -> Tensor:
        left = torch.cat([2 * query.time, -2 * query.space], dim=-1)
        return left @ torch.cat([answer.time, answer.space], dim=-1).mT - 2

    def query_sq_radius(self, query: Points) -> Tensor:
        return squared_arcosh1p(query.time - 1).squeeze(-1)

    def tangent_tables(self) -> list[nn.Parameter]:
        return [self.entity]

    @torch.no_grad()
    def points(self) -> Tensor:
        return self.manifold.from_tangent(self.entity)

    @torch.no_grad()
    def curvatures(self) -> Tensor:
        return self.entity.new_full((self.n_relations,), -1.0)
