"""Sliced distances: project the points on many lines, transport on each line, average.

    SD_p(mu, nu)^p = mean_l W_p^p(g_l # mu, g_l # nu)

A `Slices` object is the family of projections g_l: R^d -> R; `Sliced` does the rest, so a new sliced distance is a new
projection, not a new solver. Projections are held fixed (matrices and single distances agree); `resample` draws new.

Memory stays at O(n (d + block)) whatever the number of slices: blocks of slices are projected, sorted and summed in
turn, and where gradients are asked for each block's is added up on the way forward. Gradients of gradients are not
defined.
"""

from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.utils.checkpoint import checkpoint

from geoembed.distance import Distance, Items, Norm, pairwise_blocks
from geoembed.distances.transport1d import (
    argsort_rows,
    check_order,
    root,
    sort_rows,
    transport_1d,
    transport_sorted,
)
from geoembed.errors import ShapeError
from geoembed.pointsets import PointSets

__all__ = ["Sliced", "Slices", "moments"]

BLOCK = 1 << 21  # projected values held at a time: enough rows to share a matrix product, few enough to stay small
GRID = 1 << 27  # quantiles of all sets that `reduced` may hold: 512 MB in float32
CACHED = 1 << 19  # bytes sorted at a time, small enough for the cache with as many to compare them to
SHARED = 20  # slices projected together even where they hold more values: points are read once a block


class Slices(nn.Module):
    """Projections g_1, ..., g_count from R^d to the line. A subclass gives `project` and `resample`.

    Attributes:
        count: number of slices.
        held: bytes of projected values held at a time where no gradient is asked for; fewer, down to what the cache
            holds, where blocks of slices have no work in common.
        learnable: gradients are to reach the parameters of the slices too.
    """

    count: int
    held: int = 4 * BLOCK

    def project(self, points: Tensor, block: slice) -> Tensor:
        """Values of the slices in `block`: a new tensor, differentiable in the points. (*B, n, d) -> (*B, k, n)."""
        raise NotImplementedError

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw new projections."""
        raise NotImplementedError

    def forward(self, points: Tensor) -> Tensor:
        """Values of all slices. points: (*B, n, d) -> (*B, count, n)."""
        return self.project(points, slice(0, self.count))

    @property
    def learnable(self) -> bool:
        return torch.is_grad_enabled() and any(p.requires_grad for p in self.parameters())


class Sliced(Distance):
    """(mean_l W_p^p(g_l # mu, g_l # nu))^(1/p) over the slices g_l.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B). Gradients reach points, weights and learnable slices; they
    are zero at coincident sets.

    Args:
        slices: the projections.
        p: order, at least 1.
    """

    event_dim = 2

    def __init__(self, slices: Slices, p: float = 2.0):
        super().__init__()
        self.p = self.embed_p = check_order(p, type(self).__name__)
        self.slices = slices

    def resample(self, generator: torch.Generator | None = None) -> None:
        """Draw new projections, as stochastic training does before each step."""
        self.slices.resample(generator)

    def costs(self, x: Items, y: Items) -> Tensor:
        """Cost W_p^p of each slice, item by item. x, y: sets of the same batch dimensions (*B) -> (*B, count)."""
        return self._costs(*self._prepared(PointSets.of(x), PointSets.of(y)))

    def _costs(self, x: PointSets, y: PointSets) -> Tensor:
        parts = [
            checkpoint(self._block_costs, *_tensors(x), *_tensors(y), block, use_reentrant=False)
            for block in self._blocks(x.points, y.points)
        ]
        return torch.cat(parts, dim=-1)

    def embed(self, x: Items) -> Tensor:
        """Sorted projections, scaled so that their p-norm difference is the distance. x: (*B, n, d) -> (*B, count n).

        Sets of one size and of equal weights have this embedding; those of another size have another.
        """
        x = PointSets.of(x)
        if not x.plain:
            raise ShapeError(
                f"{type(self).__name__}.embed: only sets of one size and of equal weights have an embedding, got {x}. "
                f"`pairwise` takes all sets."
            )
        values = sort_rows(self.slices(x.widened().points))
        return (values * (values.shape[-1] * self.slices.count) ** (-1 / self.p)).flatten(-2).to(x.dtype)

    def reduced(self, x: PointSets, y: PointSets) -> tuple[Distance, Tensor, Tensor]:
        """Sorted projections of each set: scaled to be compared by a norm, or with their cumulative weights."""
        same = y is x
        x, y = self._prepared(x, y)
        if x.uniform and y.uniform:
            middle, mass = _pieces(x, y)
            values = self.slices.count * len(mass) * (x.batch_shape.numel() + y.batch_shape.numel())
            if values <= GRID or len(mass) == x.shape[-2] == y.shape[-2]:
                scale = (mass / self.slices.count) ** (1 / self.p)
                u = self._quantiles(x, middle, scale)
                return Norm(self.p), u, u if same else self._quantiles(y, middle, scale)
        u = _sorted_with_weights(self.slices(x.points), x.weights)
        return _Presorted(self.p), u, u if same else _sorted_with_weights(self.slices(y.points), y.weights)

    def _quantiles(self, x: PointSets, levels: Tensor, scale: Tensor) -> Tensor:
        """Quantiles of all slices, times scale. x: (*B, n, d), levels in (0, 1) and scale: (k,) -> (*B, count k)."""
        values = self.slices(x.points)
        if x.ragged:  # padding moves to the end, beyond all levels; one NaN makes all of it NaN
            mask = x.mask.unsqueeze(-2)
            values = torch.where(mask, values, values.masked_fill(~mask, -torch.inf).amax(-1, keepdim=True))
        values = sort_rows(values)
        if x.ragged or x.shape[-2] != len(levels):
            place = (levels * x.lengths.unsqueeze(-1)).long().unsqueeze(-2)
            values = values.gather(-1, place.expand(*values.shape[:-1], -1))
        return (values * scale.to(values)).flatten(-2)

    def _pairwise(self, x: PointSets, y: PointSets) -> Tensor:
        distance, u, v = self.reduced(x, y)
        if len(x.batch_shape) > 1 or not len(x):
            return distance.pairwise(u, v).to(x.dtype)
        return torch.cat([block for _, block in pairwise_blocks(distance, u, v)]).to(x.dtype)

    def _forward(self, x: PointSets, y: PointSets) -> Tensor:
        u, v = self._prepared(x, y)
        if u.batch_shape != v.batch_shape:  # broadcast_shapes alone costs as much as a small sort
            batch = torch.broadcast_shapes(u.batch_shape, v.batch_shape)
            u, v = u.expand(*batch), v.expand(*batch)
        distance = self._embedded(u, v)
        if distance is None:
            distance = root(self._mean(u, v), self.p)
        return distance.to(x.dtype)

    def _embedded(self, x: PointSets, y: PointSets) -> Tensor | None:
        """The p-norm difference of the embeddings, block by block and in place, with few calls: they cost as much as
        small sets do.

        x, y: (*B) -> (*B); None where it does not apply: other sizes, weights, gradients, no embedding.
        """
        points, others, slices = x.points, y.points, self.slices
        values = points.shape[:-1].numel()
        if self.embed_p is None or not (x.plain and y.plain and points.shape == others.shape and values):
            return None
        if points.requires_grad or others.requires_grad or not points.is_cpu:
            return None
        rows = max(slices.held // (values * points.itemsize), min(SHARED, BLOCK // values), 1)
        norms = []
        for start in range(0, slices.count, rows):
            block = slice(start, min(start + rows, slices.count))
            u, v = slices.project(points, block), slices.project(others, block)
            if u.requires_grad or v.requires_grad:  # the slices learn
                return None
            norms.append(_sorted_norms(_own(u, points), _own(v, others), self.p))
            del u, v  # the next block takes their place in the cache
        whole = norms[0] if len(norms) == 1 else torch.cat(norms, -1)
        return torch.linalg.vector_norm(whole, self.p, -1) * (points.shape[-2] * slices.count) ** (-1 / self.p)

    def _mean(self, x: PointSets, y: PointSets) -> Tensor:
        """Mean cost over the slices, item by item. x, y: the same batch dimensions (*B) -> (*B)."""
        if self.slices.learnable:
            return self._costs(x, y).mean(-1)
        tensors = (*_tensors(x), *_tensors(y))
        if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
            return _MeanCost.apply(*tensors, self)
        blocks = [self._block_costs(*tensors, block).sum(-1) for block in self._blocks(x.points, y.points)]
        return sum(blocks[1:], start=blocks[0]) / self.slices.count

    def _block_costs(self, x: Tensor, a: Tensor | None, y: Tensor, b: Tensor | None, block: slice) -> Tensor:
        """W_p^p of the slices in `block`. x: (*B, n, d), a: (*B, n) or None, the same of y -> (*B, k)."""
        u, v = self.slices.project(x, block), self.slices.project(y, block)
        if a is None and b is None and u.shape == v.shape and u.numel() and not (u.requires_grad or v.requires_grad):
            return _sorted_norms(_own(u, x), _own(v, y), self.p) ** self.p / u.shape[-1]
        a, b = (None if weights is None else weights.unsqueeze(-2) for weights in (a, b))
        return transport_1d(u, v, a, b, p=self.p)

    def _blocks(self, x: Tensor, y: Tensor, held: int = BLOCK) -> Iterator[slice]:
        """Blocks of slices for points (*B, n, d) and (*B, m, d), `held` values at a time."""
        values = x.shape[:-2].numel() * max(x.shape[-2], y.shape[-2])
        size = max(1, held // max(1, values))
        for start in range(0, self.slices.count, size):
            yield slice(start, min(start + size, self.slices.count))

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        """What both sets may be replaced by together without a change of the distance."""
        return x.widened(), y.widened()

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


def _pieces(x: PointSets, y: PointSets) -> tuple[Tensor, Tensor]:
    """Middles and lengths of the pieces of [0, 1] on which the quantile functions of all sets are constant, float64.

    The breaks are the multiples of 1 / n for all sizes n; equal fractions are equal as rounded quotients.
    """
    if not (x.ragged or y.ragged):
        sizes = {x.shape[-2], y.shape[-2]}
    else:
        sizes = {*x.lengths.flatten().tolist(), *y.lengths.flatten().tolist()}
    ends = np.unique(np.concatenate([np.arange(1, n + 1) / n for n in sorted(sizes)]))
    starts = np.append(0, ends[:-1])
    middle, mass = (torch.from_numpy(t).to(x.device) for t in ((starts + ends) / 2, ends - starts))
    return middle, mass


class _MeanCost(torch.autograd.Function):
    """Mean over the slices of W_p^p, with the gradient summed up block by block on the way forward."""

    @staticmethod
    def forward(ctx, x, a, y, b, distance):
        inputs = (x, a, y, b)
        wanted = [i for i, needed in enumerate(ctx.needs_input_grad[:4]) if needed]
        count = distance.slices.count
        total = x.new_zeros(x.shape[:-2])
        sums = [torch.zeros_like(inputs[i]) for i in wanted]
        for block in distance._blocks(x, y, BLOCK // 8 if wanted else BLOCK):  # the graph holds several times as much
            leaves: list[Any] = [None if t is None else t.detach() for t in inputs]
            for i in wanted:
                leaves[i].requires_grad_()
            with torch.set_grad_enabled(bool(wanted)):
                costs = distance._block_costs(*leaves, block).sum(-1)
                parts = torch.autograd.grad(costs.sum(), [leaves[i] for i in wanted]) if wanted else []
            total += costs.detach()
            for whole, part in zip(sums, parts, strict=True):
                whole += part
        ctx.wanted = wanted
        ctx.save_for_backward(*(whole / count for whole in sums))
        return total / count

    @staticmethod
    @once_differentiable
    def backward(ctx, grad):
        gradients: list[Tensor | None] = [None] * 5
        for i, whole in zip(ctx.wanted, ctx.saved_tensors, strict=True):
            outer = grad.reshape(grad.shape + (1,) * (whole.dim() - grad.dim()))
            gradients[i] = torch.where(outer == 0, 0.0, whole * outer)  # 0 * NaN: a pair that does not count
        return tuple(gradients)


class _Presorted(Distance):
    """Sliced distance of items (count, 2, n): the sorted values of each slice, and their cumulative weights."""

    event_dim = 3
    same_features = False

    def __init__(self, p: float):
        super().__init__()
        self.p = p

    def _forward(self, x: Tensor, y: Tensor) -> Tensor:
        cost = transport_sorted(x[..., 0, :], x[..., 1, :], y[..., 0, :], y[..., 1, :], self.p)
        return root(cost.mean(-1), self.p)


def _sorted_with_weights(values: Tensor, weights: Tensor) -> Tensor:
    """values: (*B, count, n), weights: (*B, n) -> (*B, count, 2, n)."""
    order = argsort_rows(values)
    weights = weights.unsqueeze(-2).expand_as(values)
    return torch.stack([values.gather(-1, order), weights.gather(-1, order).cumsum(-1)], dim=-2)


def _tensors(x: PointSets) -> tuple[Tensor, Tensor | None]:
    """Points, and weights where they are not equal; padding is points of weight zero."""
    return x.points, None if x.plain else x.weights


def _sorted_norms(u: Tensor, v: Tensor, p: float) -> Tensor:
    """p-norms of the differences of sorted rows, which it overwrites. u, v: (*B, n) -> (*B).

    Everything happens in place, in pieces that stay in the cache.
    """
    n = u.shape[-1]
    rows = max(1, CACHED // (n * u.itemsize))
    if u.numel() > rows * n:
        pieces = zip(u.view(-1, n).split(rows), v.view(-1, n).split(rows), strict=True)
        return torch.cat([_sorted_norms(*piece, p) for piece in pieces]).view(u.shape[:-1])
    if u.is_cpu:
        left, right = u.numpy(), v.numpy()
        left.sort(-1)
        right.sort(-1)
        left -= right
    else:
        u = u.sort(-1).values - v.sort(-1).values
    if p in (1, 2):
        return torch.linalg.vector_norm(u, p, -1)
    return u.abs_().pow_(p).sum(-1) ** (1 / p)  # what vector_norm gives, and faster


def _own(values: Tensor, points: Tensor) -> Tensor:
    """values, copied if they share memory with the points."""
    shared = values.untyped_storage().data_ptr() == points.untyped_storage().data_ptr()
    return values.clone(memory_format=torch.contiguous_format) if shared else values.contiguous()


def moments(x: PointSets) -> tuple[Tensor, Tensor]:
    """Mean (*B, d) and covariance (*B, d, d)."""
    weights = x.weights.unsqueeze(-1)
    mean = (weights * x.points).sum(-2, keepdim=True)
    centred = x.points - mean
    return mean.squeeze(-2), (weights * centred).mT @ centred
