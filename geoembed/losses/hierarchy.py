"""The loss of hierarchies: of each node's ancestors against nodes that are none.

For a pair (u, v) of a node and an ancestor, negatives N(u) that are not above u, and a distance scale s > 0,

    ranking    -log( e^{-s d(u, v)} / (e^{-s d(u, v)} + sum_{v' in N(u)} e^{-s d(u, v')}) )
               = softplus( s d(u, v) + log sum_{v'} e^{-s d(u, v')} )

All ancestors of a node share its sum over the negatives, which is taken once. A small s lets far negatives push still,
so that points find their places; it is an inverse temperature, and the radius an embedding needs grows as 1 / s.

Reference: Nickel, Kiela, "Poincare embeddings for learning hierarchical representations", NeurIPS 2017,
arXiv:1705.08039, equation 6 (s = 1).
"""

import torch.nn.functional as F
from torch import Tensor

from geoembed.losses.links import LEFT_OUT

__all__ = ["ranking"]


def ranking(positive: Tensor, negative: Tensor, rows: Tensor, left_out: Tensor, *, scale: float = 1.0) -> Tensor:
    """Softmax ranking loss of pairs. Distances in, a loss for each pair out: (k,).

    positive: (k,) distances of the pairs. negative: (B, N) distances of B nodes to the negatives. rows: int64 (k,), the
    row of each pair's node. left_out: bool (B, N), negatives that count for nothing. A node without any has loss 0.
    """
    total = (negative * -scale).masked_fill(left_out, LEFT_OUT).logsumexp(-1)
    return F.softplus(scale * positive + total[rows])
