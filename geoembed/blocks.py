"""Rows of a matrix of distances, a block at a time: what evaluation and retrieval read, and never the whole matrix.

    for rows, block in distance_blocks(*reduced(distance, x, y)): ...      # block = distance.pairwise(x[rows], y)

What is done once an item is done once: `embed` where there is one, else `Distance.reduced`. Where that leaves a
Euclidean norm, a block is one matrix product into memory that is used again,

    |x - y|^2 = |x|^2 + |y|^2 - 2 <x, y>          about a rounded mean of y,

with the pairs that cancel in it, |x - y|^2 < NEAR (|x|^2 + |y|^2), computed again from their differences: as `sqdist`
does, but what concerns y alone is done once and not once a block. Half precision is widened to float32.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from geoembed.distance import Distance, Items, Norm, rows_within
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

__all__ = ["BUDGET", "check_items", "distance_blocks", "is_euclidean", "order_blocks", "pair_distances", "reduced"]

BUDGET = 32 << 20  # bytes: blocks that stay near the cache are as fast as large ones
CHUNK = 1 << 14  # pairs computed again at a time
NEAR = {torch.float32: 1e-2, torch.float64: 1e-4}  # errors of 2e-5 and 9e-12 of |x - y|^2 are left beyond it


def check_items(distance: Distance, x: Items, name: str = "x") -> None:
    """Raise unless x is one batch of finite items of `distance`: ShapeError, or DomainError with the first bad row."""
    if not isinstance(x, Tensor | PointSets):
        raise ShapeError(f"{name} must be a tensor or PointSets, got {type(x).__name__}. Use torch.as_tensor(...).")
    distance._checked(x, x, distance.event_dim + 1)
    if x.dim() != distance.event_dim + 1:
        raise ShapeError(
            f"{name} must hold items in one batch dimension, {distance.event_dim + 1} dimensions in all, got shape "
            f"{tuple(x.shape)}. Flatten the batch dimensions."
        )
    values = x.points if isinstance(x, PointSets) else x
    bad = (~values.isfinite().flatten(1).all(1)).nonzero().squeeze(1)
    if len(bad):
        raise DomainError(
            f"{name}: {len(bad)} of {len(x)} items hold NaN or infinite values, the first is row {int(bad[0])}. "
            "Leave them out, or find what made them (a diverged model, a division by zero)."
        )


@torch.no_grad()
def reduced(distance: Distance, x: Items, y: Items) -> tuple[Distance, Any, Any]:
    """(distance, u, v) with the same matrix, all done that is done once an item; half precision widened."""
    x, y = distance._checked(x, y, distance.event_dim + 1)
    wide = torch.promote_types(x.dtype, torch.float32)
    if distance.event_dim == 1 and distance.embed_p is not None:  # in the dtype that its parameters have
        return Norm(distance.embed_p), distance.embed(x).detach().to(wide), distance.embed(y).detach().to(wide)
    return distance.reduced(x.detach().to(wide), y.detach().to(wide))


def is_euclidean(distance: Distance) -> bool:
    """What `reduced` left is the Euclidean norm of vectors."""
    return isinstance(distance, Norm) and distance.embed_p == 2


def distance_blocks(
    distance: Distance, x: Items, y: Items, *, skip: Tensor | None = None, budget: int = BUDGET
) -> Iterator[tuple[slice, Tensor]]:
    """(rows, block) pairs in order, block = distance.pairwise(x[rows], y): (len(rows), m), float32 or float64.

    The consumer may overwrite a block; it is lost when the next one is asked for.

    Args:
        distance, x, y: what `reduced` left of a distance, n items and m items.
        skip: (n,) an item of y for each of x, itself say, whose distance is given as infinite.
        budget: bytes of a block with the temporaries it is made from. A block has at least one row.

    Raises:
        DomainError: a budget that is not positive, a distance that comes out NaN.
    """
    for rows, block in order_blocks(distance, x, y, skip=skip, budget=budget):
        yield rows, block.sqrt_() if is_euclidean(distance) else block


@torch.no_grad()
def order_blocks(
    distance: Distance, x: Items, y: Items, *, skip: Tensor | None = None, budget: int = BUDGET
) -> Iterator[tuple[slice, Tensor]]:
    """`distance_blocks` for who only asks what is nearer: Euclidean distances come squared, with fewer ties."""
    if budget <= 0:
        raise DomainError(f"budget must be a positive number of bytes, got {budget}")
    rows = rows_within(budget, distance, y)
    slices = [slice(start, min(start + rows, len(x))) for start in range(0, len(x), rows)]
    blocks = (_squares if is_euclidean(distance) and len(y) else _plain)(distance, x, y, slices, skip)
    for block, values in zip(slices, blocks, strict=True):
        if values.numel() and bool(values.amin(1).isnan().any()):  # amin keeps NaN
            i, j = values.isnan().nonzero()[0].tolist()
            raise DomainError(
                f"{type(distance).__name__}: the distance from item {block.start + i} of the rows to item {j} is NaN, "
                "although both are finite. Are they in its domain (inside the ball, not constant, not zero)?"
            )
        yield block, values


def _plain(distance: Distance, x: Items, y: Items, slices: list[slice], skip: Tensor | None) -> Iterator[Tensor]:
    for block in slices:
        values = distance.pairwise(x[block], y).contiguous()
        yield values if skip is None else values.scatter_(1, skip[block].unsqueeze(1), torch.inf)


def _squares(distance: Distance, x: Tensor, y: Tensor, slices: list[slice], skip: Tensor | None) -> Iterator[Tensor]:
    """Blocks of |x_i - y_j|^2. x: (n, d), y: (m, d)."""
    near = NEAR[y.dtype]
    centre = _round_centre(y)
    right = y - centre
    y2 = right.square().sum(1)
    right = torch.cat([right, torch.ones_like(y2).unsqueeze(1), y2.unsqueeze(1)], 1).mT
    buffer = y.new_empty(max((s.stop - s.start for s in slices), default=0), len(y))
    for block in slices:
        points = x[block]
        left = points - centre
        x2 = left.square().sum(1, keepdim=True)
        left = torch.cat([-2 * left, x2, torch.ones_like(x2)], 1)
        out = torch.mm(left, right, out=buffer[: len(points)])
        if skip is not None:
            out.scatter_(1, skip[block].unsqueeze(1), torch.inf)
        # one quick look at each row first: it spares most of them the comparison of every entry
        rows = (out.amin(1) < near * (x2.squeeze(1) + y2.max())).nonzero().squeeze(1)
        for part in rows.split(max(1, len(points) // 4)):
            i, j = (out[part] < near * (x2[part] + y2)).nonzero().unbind(1)
            for a, b in zip(part[i].split(CHUNK), j.split(CHUNK), strict=True):
                out[a, b] = (points[a] - y[b]).square_().sum(1)
        yield out


def _round_centre(y: Tensor) -> Tensor:
    """The mean of the points, as multiples of a power of two near their spread: (d,).

    Coordinates on a grid (codes, counts, pixels) stay on it, so that equal distances come out equal.
    """
    mean = y.mean(0)
    spread = (y - mean).abs().max() if y.numel() else y.new_ones(())
    step = torch.ldexp(torch.ones_like(spread), torch.frexp(spread).exponent - 1)
    centre = (mean / step).round() * step
    return torch.where(centre.isfinite(), centre, 0.0)


@torch.no_grad()
def pair_distances(distance: Distance, x: Items, y: Items, i: Tensor, j: Tensor, budget: int = BUDGET) -> Tensor:
    """distance(x_i, y_j) of listed pairs: (k,), a chunk of at most `budget` bytes at a time.

    Norms of differences are taken in float64 whatever the items are in, so the order of close pairs is right.
    """
    dtype = torch.float64 if isinstance(distance, Norm) else torch.promote_types(x.dtype, torch.float32)
    size = max(1, budget // (4 * 8 * max(1, math.prod(x.shape[1:]), math.prod(y.shape[1:]))))
    pairs = zip(i.split(size), j.split(size), strict=True)
    return torch.cat([distance(x[a].to(dtype), y[b].to(dtype)) for a, b in pairs])
