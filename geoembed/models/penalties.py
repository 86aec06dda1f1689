"""Regularisers of graph models: one number for each triple of a batch, to be weighted and added to its loss.

radius   d(0, x_h)^2 + d(0, x_t)^2, in flat models the squared Frobenius norm
dura     d(0, q)^2 + d(0, x_t)^2 with q the query made of head and relation; with inverse relations both sides of a
         triple count. Zhang, Cai, Wang, "Duality-induced regularizer for tensor factorization based knowledge graph
         completion", NeurIPS 2020, arXiv:2011.05816
n3       sum |x_h|^3 + |y_r|^3 + |x_t|^3 over the coordinates, complex moduli for ComplEx. Lacroix, Usunier, Obozinski,
         "Canonical tensor decomposition for knowledge base completion", ICML 2018, arXiv:1806.07297
"""

from collections.abc import Callable
from typing import Any

from torch import Tensor

__all__ = ["PENALTIES", "Penalty", "dura", "n3", "radius"]

Penalty = Callable[[Any, Tensor, Tensor, Any, Tensor], Tensor]  # model, head rows, r, query, tail rows -> (B,)


def radius(model: Any, head: Tensor, r: Tensor, query: Any, tail: Tensor) -> Tensor:
    """Squared distances of head and tail from the origin."""
    return model.coordinates(head).square().sum(-1) + model.coordinates(tail).square().sum(-1)


def dura(model: Any, head: Tensor, r: Tensor, query: Any, tail: Tensor) -> Tensor:
    """Squared distances of query and tail from the origin."""
    return model.query_sq_radius(query) + model.coordinates(tail).square().sum(-1)


def n3(model: Any, head: Tensor, r: Tensor, query: Any, tail: Tensor) -> Tensor:
    """Cubed moduli of head, relation and tail."""
    return sum(model.moduli(x).pow(3).sum(-1) for x in (head, model.relation_rows(r), tail))


PENALTIES: dict[str, Penalty] = {"dura": dura, "n3": n3, "radius": radius}
