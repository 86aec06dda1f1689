"""Products of manifolds: a point is the concatenation of the points of the factors, d^2 = sum_i d_i^2.

Reference: Gu, Sala, Gunel, Re, "Learning mixed-curvature representations in product spaces", ICLR 2019.
"""

from collections.abc import Iterable, Sequence
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from geoembed.errors import ShapeError
from geoembed.numerics import norm, safe_sqrt

__all__ = ["Product"]


class Product(geoopt.Manifold):
    """The Riemannian product of manifolds.

    Args:
        factors: (manifold, dimension) pairs; points have the coordinates of the first factor first. A factor
            `(Lorentz(), 3)` takes four coordinates.
    """

    name = "Product"
    ndim = 1
    reversible = False

    def __init__(self, factors: Sequence[tuple[geoopt.Manifold, int]]):
        super().__init__()
        if not factors:
            raise ShapeError("Product: at least one (manifold, dimension) pair is needed, got none")
        self.factors = nn.ModuleList(manifold for manifold, _ in factors)
        self.dims = [dim for _, dim in factors]
        self.sizes = [manifold.point_dim(dim) for manifold, dim in factors]

    def point_dim(self, d: int) -> int:
        """Number of coordinates of a point; d must be the dimension of the product."""
        if d != sum(self.dims):
            raise ShapeError(f"{self!r} has dimension {sum(self.dims)}, not {d}")
        return sum(self.sizes)

    def dim_of(self, coordinates: int) -> int:
        """Dimension of the product; `coordinates` must be the number its points have."""
        if coordinates != sum(self.sizes):
            raise ShapeError(f"points of {self!r} have {sum(self.sizes)} coordinates, not {coordinates}")
        return sum(self.dims)

    def split(self, x: Tensor) -> tuple[Tensor, ...]:
        """The points of the factors. x: (*B, k) -> one (*B, k_i) for each factor."""
        if x.shape[-1] != sum(self.sizes):
            raise ShapeError(f"points of {self!r} have {sum(self.sizes)} coordinates, got shape {tuple(x.shape)}")
        return x.split(self.sizes, dim=-1)

    def _each(self, method: str, *tensors: Tensor, **options) -> list[Tensor]:
        parts = zip(self.factors, *map(self.split, tensors), strict=True)
        return [getattr(manifold, method)(*part, **options) for manifold, *part in parts]

    def _joined(self, method: str, *tensors: Tensor) -> Tensor:
        return torch.cat(self._each(method, *tensors), dim=-1)

    def dist(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """sqrt(sum_i d_i^2). x, y: (*B, k) -> (*B)."""
        return norm(torch.stack(self._each("dist", x, y), dim=-1), keepdim=keepdim)

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """sum_i d_i^2. x, y: (*B, k) -> (*B)."""
        return torch.stack(self._each("dist", x, y), dim=-1).square().sum(-1, keepdim=keepdim)

    def cdist(self, x: Tensor, y: Tensor) -> Tensor:
        """Matrix of distances. x: (*B, n, k), y: (*B, m, k) -> (*B, n, m)."""
        return safe_sqrt(torch.stack(self._each("cdist", x, y)).square().sum(0))

    def inner(self, x: Tensor, u: Tensor, v: Tensor | None = None, *, keepdim: bool = False) -> Tensor:
        """Sum of the inner products of the factors. x, u, v: (*B, k) -> (*B)."""
        return torch.stack(self._each("inner", x, u, u if v is None else v), dim=-1).sum(-1, keepdim=keepdim)

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Length of the tangent vector u at x. x, u: (*B, k) -> (*B)."""
        return norm(torch.stack(self._each("norm", x, u), dim=-1), keepdim=keepdim)

    def component_inner(self, x: Tensor, u: Tensor, v: Tensor | None = None) -> Tensor:
        """The inner product of each factor, at all of its coordinates, for adaptive optimizers."""
        parts = self._each("component_inner", x, u, u if v is None else v)
        shapes = self.split(x)
        return torch.cat([part.expand_as(shape) for part, shape in zip(parts, shapes, strict=True)], dim=-1)

    def expmap(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("expmap", x, u)

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("retr", x, u)

    def logmap(self, x: Tensor, y: Tensor) -> Tensor:
        return self._joined("logmap", x, y)

    def transp(self, x: Tensor, y: Tensor, v: Tensor) -> Tensor:
        return self._joined("transp", x, y, v)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        return self._joined("add", x, y)

    def expmap0(self, u: Tensor) -> Tensor:
        return self._joined("expmap0", u)

    def logmap0(self, x: Tensor) -> Tensor:
        return self._joined("logmap0", x)

    def proju(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("proju", x, u)

    def projx(self, x: Tensor) -> Tensor:
        return self._joined("projx", x)

    def egrad2rgrad(self, x: Tensor, u: Tensor) -> Tensor:
        return self._joined("egrad2rgrad", x, u)

    def to_tangent(self, x: Tensor) -> Tensor:
        """Orthonormal tangent coordinates at the origin. x: (*B, k) -> (*B, d)."""
        return self._joined("to_tangent", x)

    def from_tangent(self, u: Tensor) -> Tensor:
        """Inverse of `to_tangent`. u: (*B, d) -> (*B, k)."""
        factors: Iterable[Any] = self.factors
        parts = zip(factors, u.split(self.dims, dim=-1), strict=True)
        return torch.cat([manifold.from_tangent(part) for manifold, part in parts], dim=-1)

    def origin(self, *size, dtype=None, device=None, seed=None) -> Tensor:
        """The origin, repeated. size: (*B, k)."""
        return self._sized("origin", size, dtype=dtype, device=device)

    def random(self, *size, std: float = 1.0, generator=None, dtype=None, device=None) -> Tensor:
        """Random points of the factors. size: (*B, k)."""
        return self._sized("random", size, std=std, generator=generator, dtype=dtype, device=device)

    def _sized(self, method: str, size: Sequence[int], **options) -> Tensor:
        if size[-1] != sum(self.sizes):
            raise ShapeError(f"points of {self!r} have {sum(self.sizes)} coordinates, got size {tuple(size)}")
        parts = zip(self.factors, self.sizes, strict=True)
        return torch.cat([getattr(m, method)(*size[:-1], k, **options) for m, k in parts], dim=-1)

    def barycentre(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Weighted Frechet mean, factor by factor. x: (*B, n, k), weights: (*B, n) -> (*B, k)."""
        return torch.cat(self._each("barycentre", x, weights=weights), dim=-1)

    def check(self, x: Tensor, atol: float = 1e-5) -> None:
        """Raise DomainError unless every row of x: (*B, k) is a point of the product."""
        self._each("check", x, atol=atol)

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        for ok, why in self._each("_check_point_on_manifold", x, atol=atol, rtol=rtol):
            if not ok:
                return ok, why
        return True, None

    def _check_vector_on_tangent(self, x, u, *, atol=1e-5, rtol=1e-5):
        for ok, why in self._each("_check_vector_on_tangent", x, u, atol=atol, rtol=rtol):
            if not ok:
                return ok, why
        return True, None

    def __repr__(self) -> str:
        return f"Product([{', '.join(f'({m!r}, {d})' for m, d in zip(self.factors, self.dims, strict=True))}])"
