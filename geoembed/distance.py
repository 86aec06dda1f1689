"""The one interface of the library: a `Distance` between items.

    forward(x, y)      item by item     (*B, *E), (*B, *E) -> (*B)
    pairwise(x, y)     the matrix       (*B, n, *E), (*B, m, *E) -> (*B, n, m)

`event_dim` trailing dimensions form one item: 1 for a vector (d,), 2 for a point set (n, d). Smaller is closer,
always; a similarity enters as a distance. At coincident items the gradient is finite and, for a metric, zero.
Where items are point sets, x and y are tensors or `PointSets`, and `_forward` and `_pairwise` receive `PointSets`.

A distance that is the plain p-norm difference of some vectors says so by `embed` and `embed_p`; `pairwise` then
costs one embedding an item and one matrix product, and any vector index can search the embedded items.

Combinators replace options: `Power(d, 2)`, `Scaled(d, 0.1)`, `Symmetrised(d)`, `ProductDistance([(d1, 5), (d2, 3)])`.
"""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import norm, safe_sqrt, sqdist
from geoembed.pointsets import PointSets

__all__ = ["Distance", "Items", "Norm", "Power", "ProductDistance", "Scaled", "Symmetrised", "pairwise_blocks"]

DEFAULT_BUDGET = 128 << 20  # bytes

# Annotated loosely: a distance between vectors takes tensors, one between point sets tensors or `PointSets`.
Items = Any


class Distance(nn.Module):
    """Base of all distances. A subclass gives `_forward`, and `embed` or `_pairwise` where they are faster.

    Attributes:
        event_dim: number of trailing dimensions that form one item.
        symmetric: d(x, y) = d(y, x).
        is_metric: symmetric, zero only at coincident items, triangle inequality.
        upper_bound: no value exceeds it; `inf` where there is none.
        embed_p: the p of `embed`, None where the distance has no embedding.
        same_features: x and y must have the same number of features.
    """

    event_dim: int = 1
    symmetric: bool = True
    is_metric: bool = True
    upper_bound: float = math.inf
    embed_p: float | None = None
    same_features: bool = True

    def forward(self, x: Items, y: Items) -> Tensor:
        """Distance item by item, batch dimensions broadcast. x, y: (*B, *E) -> (*B)."""
        return self._forward(*self._checked(x, y, self.event_dim))

    def pairwise(self, x: Items, y: Items | None = None) -> Tensor:
        """Matrix of distances from the items of x (rows) to those of y (columns), or of x to itself.

        x: (*B, n, *E), y: (*B, m, *E) -> (*B, n, m). For a matrix that does not fit in memory see `pairwise_blocks`.
        """
        return self._pairwise(*self._checked(x, x if y is None else y, self.event_dim + 1))

    def embed(self, x: Items) -> Tensor:
        """Vectors whose p-norm difference, p = `embed_p`, is the distance. x: (*B, *E) -> (*B, k)."""
        raise NotImplementedError(f"{type(self).__name__} has no embedding; `embed_p` is None for such a distance")

    def _forward(self, x: Items, y: Items) -> Tensor:
        if self.embed_p is None:
            raise NotImplementedError(f"{type(self).__name__} defines neither _forward nor embed")
        return torch.linalg.vector_norm(self.embed(x) - self.embed(y), ord=self.embed_p, dim=-1)

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        if self.embed_p is not None:
            u = self.embed(x)
            return _norm_pairwise(u, u if y is x else self.embed(y), self.embed_p)
        e = 0 if self.event_dim == 2 else self.event_dim  # PointSets.unsqueeze counts batch dimensions only
        return self._forward(x.unsqueeze(-e - 1), y.unsqueeze(-e - 2))

    def reduced(self, x: Items, y: Items) -> "tuple[Distance, Items, Items]":
        """A cheaper problem with the same matrix: (distance, u, v) where distance.pairwise(u, v) is pairwise(x, y).

        What is done once an item and not once a pair, such as an embedding. x, y: items in one batch dimension.
        """
        if self.embed_p is None or self.event_dim == 1:
            return self, x, y
        u = self.embed(x)
        return Norm(self.embed_p), u, u if y is x else self.embed(y)

    @property
    def space(self) -> geoopt.Manifold | None:
        """The manifold that items must lie on, for proxies and centres to live there too; None is a flat space."""
        return None

    @property
    def broadcasts(self) -> bool:
        """`pairwise` has no form of its own: it makes every pair of items."""
        return self.embed_p is None and type(self)._pairwise is Distance._pairwise

    def __repr__(self) -> str:  # on one line, for messages and tables; that of nn.Module takes a line a part
        parts = [*map(repr, self.children()), self.extra_repr()]
        return f"{self._get_name()}({', '.join(part for part in parts if part)})"

    def _checked(self, x: Items, y: Items, item_dims: int) -> tuple[Any, Any]:
        """x and y, as `PointSets` where the items are sets.

        Raises ShapeError unless they hold items of one kind, `item_dims` trailing dimensions each.
        """
        name = type(self).__name__
        for label, t in (("x", x), ("y", y)):
            if isinstance(t, PointSets) and self.event_dim != 2:
                raise ShapeError(f"{name} is a distance between vectors, {label} is {t}")
            if t.dim() < item_dims:
                what = "items" if item_dims == self.event_dim else "a set of items"
                raise ShapeError(
                    f"{name}: {label} must hold {what} of {self.event_dim} dimension(s), so at least {item_dims} "
                    f"dimensions in all; got shape {tuple(t.shape)}. Add the missing dimension with unsqueeze."
                )
            if not t.dtype.is_floating_point:
                raise ShapeError(f"{name}: {label} must be floating point, got {t.dtype}. Convert it with .float().")
        if x.dtype != y.dtype or x.device != y.device:
            raise ShapeError(
                f"{name}: x and y must share dtype and device, got {x.dtype} on {x.device} and {y.dtype} on "
                f"{y.device}. Move one with y.to(x.device, x.dtype)."
            )
        if self.same_features and x.shape[-1] != y.shape[-1]:
            raise ShapeError(
                f"{name}: x and y must have the same number of features, got shapes {tuple(x.shape)} and "
                f"{tuple(y.shape)}."
            )
        skip = 0 if item_dims == self.event_dim else 1
        bx, by = x.shape[: x.dim() - self.event_dim - skip], y.shape[: y.dim() - self.event_dim - skip]
        if bx != by and any(a != b and 1 not in (a, b) for a, b in zip(reversed(bx), reversed(by), strict=False)):
            raise ShapeError(
                f"{name}: batch dimensions {tuple(bx)} and {tuple(by)} do not broadcast "
                f"(x {tuple(x.shape)}, y {tuple(y.shape)}). For all pairs call pairwise(x, y)."
            )
        if self.event_dim != 2:
            return x, y
        sets = PointSets.of(x)
        return sets, sets if y is x else PointSets.of(y)


def _norm_pairwise(u: Tensor, v: Tensor, p: float) -> Tensor:
    """Matrix of |u_i - v_j|_p. u: (*B, n, k), v: (*B, m, k) -> (*B, n, m)."""
    if p == 2:
        return safe_sqrt(sqdist(u, v))
    if p < math.inf:
        wide = torch.promote_types(u.dtype, torch.float32)  # cdist has no half precision
        return torch.cdist(u.to(wide), v.to(wide), p=p).to(u.dtype)
    return torch.linalg.vector_norm(u.unsqueeze(-2) - v.unsqueeze(-3), ord=p, dim=-1)  # cdist with p = inf loses NaN


class Norm(Distance):
    """|x - y|_p, what a distance with an embedding reduces to."""

    def __init__(self, p: float):
        super().__init__()
        self.embed_p = p

    def embed(self, x: Tensor) -> Tensor:
        return x


def pairwise_blocks(
    distance: Distance, x: Items, y: Items | None = None, *, budget: int = DEFAULT_BUDGET
) -> Iterator[tuple[slice, Tensor]]:
    """Rows of `distance.pairwise(x, y)` in blocks of at most `budget` bytes, as (row slice, block) pairs.

    x: (n, *E), y: (m, *E), or `PointSets`; each block is (rows, m). The budget counts the block and, for a distance
    without a matrix form, the broadcast items it is made from. What can be done once an item (`Distance.reduced`) is
    done first, outside the budget.
    """
    if budget <= 0:
        raise DomainError(f"budget must be a positive number of bytes, got {budget}")
    x, y = distance._checked(x, x if y is None else y, distance.event_dim + 1)
    distance, x, y = distance.reduced(x, y)
    rows = rows_within(budget, distance, y)
    for start in range(0, len(x), rows):
        block = slice(start, min(start + rows, len(x)))
        yield block, distance.pairwise(x[block], y)


def rows_within(budget: int, distance: Distance, y: Items) -> int:
    """How many rows of a matrix of distances to y: (m, *E) fit in `budget` bytes, at least 1."""
    item = math.prod(y.shape[1:]) if distance.broadcasts else 1
    return max(1, budget // max(1, len(y) * item * 4 * y.dtype.itemsize))  # a few temporaries of the block's size


class Power(Distance):
    """d(x, y)^p for p > 0; a metric for p <= 1. The gradient at distance zero is zero for every p."""

    def __init__(self, distance: Distance, p: float):
        super().__init__()
        if not p > 0:
            raise DomainError(f"Power: p must be positive, got {p}")
        self.distance, self.p = distance, float(p)
        self.event_dim, self.symmetric = distance.event_dim, distance.symmetric
        self.is_metric = distance.is_metric and p <= 1
        self.upper_bound = distance.upper_bound**p

    @property
    def space(self) -> geoopt.Manifold | None:
        return self.distance.space

    def _power(self, d: Tensor) -> Tensor:
        if self.p == 2:
            return d * d
        nonzero = d != 0
        return torch.where(nonzero, torch.where(nonzero, d, 1.0) ** self.p, d * 0.0)

    def _forward(self, x: Items, y: Items) -> Tensor:
        return self._power(self.distance._forward(x, y))

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        return self._power(self.distance._pairwise(x, y))

    def extra_repr(self) -> str:
        return f"p={self.p:g}"


class Scaled(Distance):
    """scale * d(x, y), scale > 0."""

    def __init__(self, distance: Distance, scale: float):
        super().__init__()
        if not 0 < scale < math.inf:
            raise DomainError(f"Scaled: scale must be positive and finite, got {scale}")
        self.distance, self.scale = distance, float(scale)
        self.event_dim, self.symmetric, self.is_metric = distance.event_dim, distance.symmetric, distance.is_metric
        self.upper_bound, self.embed_p = distance.upper_bound * scale, distance.embed_p

    @property
    def space(self) -> geoopt.Manifold | None:
        return self.distance.space

    def embed(self, x: Items) -> Tensor:
        return self.scale * self.distance.embed(x)

    def _forward(self, x: Items, y: Items) -> Tensor:
        return self.scale * self.distance._forward(x, y)

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        return self.scale * self.distance._pairwise(x, y)

    def extra_repr(self) -> str:
        return f"scale={self.scale:g}"


class Symmetrised(Distance):
    """(d(x, y) + d(y, x)) / 2, for a distance that is not symmetric."""

    def __init__(self, distance: Distance):
        super().__init__()
        self.distance = distance
        self.event_dim, self.is_metric = distance.event_dim, distance.is_metric
        self.upper_bound = distance.upper_bound

    @property
    def space(self) -> geoopt.Manifold | None:
        return self.distance.space

    def _forward(self, x: Items, y: Items) -> Tensor:
        return (self.distance._forward(x, y) + self.distance._forward(y, x)) / 2

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        return (self.distance._pairwise(x, y) + self.distance._pairwise(y, x).mT) / 2


class ProductDistance(Distance):
    """sqrt(sum_i d_i(x_i, y_i)^2) where x = [x_1, ..., x_k] is split along its features.

    Args:
        parts: (distance, number of features) pairs in the order of the features.
    """

    def __init__(self, parts: Sequence[tuple[Distance, int]]):
        super().__init__()
        if not parts:
            raise ShapeError("ProductDistance: at least one (distance, features) pair is needed, got none")
        self.distances = nn.ModuleList(distance for distance, _ in parts)
        self.sizes = [size for _, size in parts]
        dims = {distance.event_dim for distance, _ in parts}
        if len(dims) > 1:
            raise ShapeError(f"ProductDistance: all parts must have the same event_dim, got {sorted(dims)}")
        self.event_dim = dims.pop()
        self.symmetric = all(distance.symmetric for distance, _ in parts)
        self.is_metric = all(distance.is_metric for distance, _ in parts)
        self.upper_bound = math.hypot(*(distance.upper_bound for distance, _ in parts))

    @property
    def space(self) -> geoopt.Manifold | None:
        if any(distance.space is not None for distance in self.distances):
            raise DomainError("ProductDistance: items of several spaces live on a Product; use Geodesic(Product(...))")
        return None

    def _parts(self, x: Items, y: Items) -> Iterator[tuple[Any, Any, Any]]:
        return zip(self.distances, self._split(x), self._split(y), strict=True)

    def _split(self, x: Items) -> Sequence[Any]:
        if x.shape[-1] != sum(self.sizes):
            raise ShapeError(
                f"ProductDistance: expected {' + '.join(map(str, self.sizes))} = {sum(self.sizes)} features, got "
                f"{x.shape[-1]} (shape {tuple(x.shape)})"
            )
        return x.split(self.sizes, dim=-1)

    def _forward(self, x: Items, y: Items) -> Tensor:
        return norm(torch.stack([d._forward(a, b) for d, a, b in self._parts(x, y)], dim=-1))

    def _pairwise(self, x: Items, y: Items) -> Tensor:
        return norm(torch.stack([d._pairwise(a, b) for d, a, b in self._parts(x, y)], dim=-1))

    def extra_repr(self) -> str:
        return f"sizes={self.sizes}"
