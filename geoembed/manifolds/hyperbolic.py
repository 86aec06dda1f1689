"""What the models of hyperbolic space share: curvature, the origin, gyroaddition, barycentres, checks.

One c > 0 and K = -c in every model. Methods keep geoopt's names, so `geoopt.ManifoldParameter` and geoopt's optimizers
take these manifolds. Tangent vectors at the origin have two forms: `expmap0` and `logmap0` use the coordinates of the
model, as geoopt does; `from_tangent` and `to_tangent` use orthonormal coordinates u: (*B, d), the same in all models,
for which |u| is the distance from the origin.
"""

import math
import warnings

import geoopt
import torch
from torch import Tensor, nn

from geoembed.errors import ConvergenceWarning, DomainError, ShapeError
from geoembed.numerics import norm

__all__ = ["Hyperbolic"]


class Hyperbolic(geoopt.Manifold):
    """Base of `PoincareBall`, `Lorentz` and `HalfSpace`.

    Args:
        c: the sectional curvature is -c, c > 0. Kept in float64 whatever dtype the module is moved to.
        learnable: train log c.
    """

    ndim = 1
    reversible = False
    c_buffer: Tensor

    def __init__(self, c: float | Tensor = 1.0, learnable: bool = False):
        super().__init__()
        value = torch.as_tensor(c, dtype=torch.float64).detach()
        if value.dim() != 0 or not (math.isfinite(value.item()) and value.item() > 0):
            raise DomainError(f"{self.name}: c must be one positive finite number (the curvature is -c), got {c}")
        self.learnable = learnable
        if learnable:
            self.log_c = nn.Parameter(value.log())
        else:
            self.register_buffer("c_buffer", value.clone())

    @property
    def c(self) -> Tensor:
        """The curvature is -c. A float64 scalar tensor, with a graph if it is learnable."""
        return self.log_c.exp() if self.learnable else self.c_buffer

    def _apply(self, fn, recurse=True):
        """Keep the curvature in float64: a rounded one would move the boundary of the ball."""
        tensor = self.log_c if self.learnable else self.c_buffer
        exact = tensor.detach().clone()
        super()._apply(fn, recurse)
        tensor = self.log_c if self.learnable else self.c_buffer
        tensor.data = exact.to(tensor.device)
        return self

    # ------------------------------------------------------------------------------ given by each model

    def point_dim(self, d: int) -> int:
        """Number of coordinates of a point of the d-dimensional space."""
        return d

    def dim_of(self, coordinates: int) -> int:
        """Dimension of the space whose points have so many coordinates."""
        return coordinates

    def from_tangent(self, u: Tensor) -> Tensor:
        """The point at distance |u| from the origin in the direction u, u orthonormal: (*B, d) -> (*B, k)."""
        raise NotImplementedError

    def to_tangent(self, x: Tensor) -> Tensor:
        """Inverse of `from_tangent`. x: (*B, k) -> (*B, d)."""
        raise NotImplementedError

    def to_lorentz(self, x: Tensor) -> Tensor:
        """The point in the coordinates of `Lorentz(c)`. x: (*B, k) -> (*B, d + 1)."""
        raise NotImplementedError

    def from_lorentz(self, x: Tensor) -> Tensor:
        """Inverse of `to_lorentz`. x: (*B, d + 1) -> (*B, k)."""
        raise NotImplementedError

    # ------------------------------------------------------------------------------ shared

    def dist2(self, x: Tensor, y: Tensor, *, keepdim: bool = False) -> Tensor:
        """d(x, y)^2. x, y: (*B, k) -> (*B)."""
        return self.dist(x, y, keepdim=keepdim).square()

    def norm(self, x: Tensor, u: Tensor, *, keepdim: bool = False) -> Tensor:
        """Length of the tangent vector u at x. x, u: (*B, k) -> (*B)."""
        return self.inner(x, u, keepdim=keepdim).clamp(min=0).sqrt()

    def retr(self, x: Tensor, u: Tensor) -> Tensor:
        """The exponential map: these models need no cheaper retraction."""
        return self.expmap(x, u)

    def expmap0(self, u: Tensor) -> Tensor:
        """exp_0(u) for u in the coordinates of the model."""
        return self.expmap(self._origin_like(u), u)

    def logmap0(self, x: Tensor) -> Tensor:
        """log_0(x) in the coordinates of the model."""
        return self.logmap(self._origin_like(x), x)

    def add(self, x: Tensor, y: Tensor) -> Tensor:
        """Gyroaddition x ⊕ y = exp_x(PT_{0 -> x}(log_0 y)), Mobius addition on the ball. x, y: (*B, k)."""
        x, y = torch.broadcast_tensors(x, y)
        origin = self._origin_like(x)
        return self.expmap(x, self.transp(origin, x, self.logmap(origin, y)))

    def origin(self, *size, dtype=None, device=None, seed=None) -> Tensor:
        """The origin, repeated. size: (*B, k)."""
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        u = torch.zeros(*shape[:-1], self.dim_of(shape[-1]), dtype=dtype, device=device)
        return self.from_tangent(u)

    def random(self, *size, std: float = 1.0, generator=None, dtype=None, device=None) -> Tensor:
        """Points of the wrapped normal: from_tangent(u) with u ~ N(0, std^2). size: (*B, k)."""
        shape = torch.Size(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        u = torch.randn(*shape[:-1], self.dim_of(shape[-1]), generator=generator, dtype=dtype, device=device)
        return self.from_tangent(std * u)

    @torch.no_grad()
    def barycentre(
        self, x: Tensor, weights: Tensor | None = None, *, tolerance: float | None = None, max_iter: int = 2000
    ) -> Tensor:
        """The point that minimises sum_i w_i d(y, x_i)^2 (Frechet mean, Karcher flow from the Lorentzian centroid).

        x: (*B, n, k), weights: (*B, n) >= 0, uniform if None -> (*B, k). `tolerance`: length of the last step, by
        default a few roundings of the largest distance, times the cosh of the radius by which coordinates coarsen.
        ConvergenceWarning if it was not reached in max_iter steps.
        """
        w = torch.ones(x.shape[:-1], dtype=x.dtype, device=x.device) if weights is None else weights
        if x.shape[-2] == 0 or w.shape != x.shape[:-1]:
            raise ShapeError(f"barycentre: expected points (*B, n > 0, k) and weights (*B, n), got {tuple(x.shape)}")
        if bool((w < 0).any()) or bool((w.sum(-1) <= 0).any()):
            raise DomainError("barycentre: weights must be non-negative with a positive sum")
        w = (w / w.sum(-1, keepdim=True)).unsqueeze(-1)
        mean = (w * self.to_lorentz(x)).sum(-2)
        length = (mean[..., :1].square() - mean[..., 1:].square().sum(-1, keepdim=True)).clamp(min=1e-30).sqrt()
        y = self.from_lorentz(mean / (length * self.c.sqrt()))
        for _ in range(max_iter):
            d = self.c.sqrt() * self.dist(y.unsqueeze(-2), x)
            # the Hessian of d^2 / 2 is at most d coth d, so this step never overshoots
            bend = (w.squeeze(-1) * torch.where(d > 1e-4, d / d.clamp(min=1e-4).tanh(), 1.0)).sum(-1, keepdim=True)
            step = (w * self.logmap(y.unsqueeze(-2).expand_as(x), x)).sum(-2) / bend
            length = self.norm(y, step)
            y = self.expmap(y, step)
            limit = tolerance
            if limit is None:
                coarse = (self.c.sqrt() * norm(self.to_tangent(y))).cosh()
                limit = 8 * torch.finfo(x.dtype).eps * (1 + d.amax(-1)) * coarse
            if bool((length <= limit).all()):
                return y
        warnings.warn(
            f"barycentre: last step {length.max().item():.1e} after {max_iter} iterations", ConvergenceWarning, 2
        )
        return y

    def check(self, x: Tensor, atol: float = 1e-5) -> None:
        """Raise DomainError unless every row of x: (*B, k) is a finite point of the manifold."""
        bad = (~self._on_manifold(x, atol)).reshape(-1).nonzero().squeeze(-1)
        if len(bad):
            rows = x.reshape(-1, x.shape[-1])
            raise DomainError(
                f"{len(bad)} of {len(rows)} rows are not points of {self!r}, the first is row {bad[0].item()}: "
                f"{rows[bad[0]].tolist()[:4]}. Expected {self._meaning}; project finite points with projx."
            )

    _meaning = "a point"

    def _on_manifold(self, x: Tensor, atol: float) -> Tensor:
        raise NotImplementedError

    def _origin_like(self, x: Tensor) -> Tensor:
        return self.origin(*x.shape, dtype=x.dtype, device=x.device)

    def _check_point_on_manifold(self, x, *, atol=1e-5, rtol=1e-5):
        ok = bool(self._on_manifold(x, atol).all())
        return ok, None if ok else f"expected {self._meaning}"

    def _check_vector_on_tangent(self, x, u, *, atol=1e-5, rtol=1e-5):
        return True, None

    def __repr__(self) -> str:
        return f"{self.name}({float(self.c.detach()):g}{', learnable=True' if self.learnable else ''})"
