"""Losses of hierarchies: of each node's ancestors against nodes that are none.

For a pair (u, v) of a node and an ancestor, negatives N(u) that are not above u, and a distance scale s > 0,

    ranking    -log( e^{-s d(u, v)} / (e^{-s d(u, v)} + sum_{v' in N(u)} e^{-s d(u, v')}) )
               = softplus( s d(u, v) + log sum_{v'} e^{-s d(u, v')} )

All ancestors of a node share its sum over the negatives, which is taken once. A small s lets far negatives push still,
so that points find their places; it is an inverse temperature, and the radius an embedding needs grows as 1 / s.

With e(v, u) = Xi - psi the angle by which u lies outside the cone of v, below 0 inside (`EntailmentCone` is [e]_+),

    cones      [e(v, u)]_+ + 10 mean_{v' in N(u)} [margin - e(v', u)]_+

The paper has ten negatives for each pair, half of them children, and [e]_+ there too, which has no gradient in a cone
that a node is to leave.

References: Nickel, Kiela, "Poincare embeddings for learning hierarchical representations", NeurIPS 2017,
arXiv:1705.08039, equation 6 (s = 1); Ganea, Becigneul, Hofmann, "Hyperbolic entailment cones for learning hierarchical
embeddings", ICML 2018, arXiv:1804.01882, equation 32.
"""

import torch.nn.functional as F
from torch import Tensor

from geoembed.losses.links import LEFT_OUT

__all__ = ["cones", "ranking"]


def ranking(positive: Tensor, negative: Tensor, rows: Tensor, left_out: Tensor, *, scale: float = 1.0) -> Tensor:
    """Softmax ranking loss of pairs. Distances in, a loss for each pair out: (k,).

    positive: (k,) distances of the pairs. negative: (B, N) distances of B nodes to the negatives. rows: int64 (k,), the
    row of each pair's node. left_out: bool (B, N), negatives that count for nothing. A node without any has loss 0.
    """
    total = (negative * -scale).masked_fill(left_out, LEFT_OUT).logsumexp(-1)
    return F.softplus(scale * positive + total[rows])


def cones(positive: Tensor, negative: Tensor, rows: Tensor, left_out: Tensor, *, margin: float = 0.01) -> Tensor:
    """Max-margin loss of entailment cones. Angles e in, radians; shapes and what comes out as in `ranking`."""
    inside = (margin - negative).relu().masked_fill(left_out, 0.0).sum(-1)
    return positive.relu() + (10 * inside / (~left_out).sum(-1).clamp(min=1))[rows]
