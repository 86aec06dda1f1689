"""Isometries between the ball, the hyperboloid and the half-space of one curvature -c.

With s = sqrt(c), ball points b, half-space points (h, y), hyperboloid points (x0, x), x0 = sqrt(1 / c + |x|^2):

    ball -> hyperboloid        x = 2 b / (1 - c |b|^2)
    ball -> half-space         (2 s b_h, 1 - c |b|^2) / (c |b_h|^2 + (1 - s b_n)^2)
    half-space -> hyperboloid  s x_h = h / y,  s x_n = (|h|^2 + (y - 1)(y + 1)) / (2 y)
    and their inverses.

The origin goes to the origin ((0, .., 0, 1) in the half-space), orthonormal tangent coordinates there to themselves,
and the last axis of the ball points to infinity of the half-space. No formula subtracts nearly equal numbers except
where the target itself cannot hold the difference.

Reference: Cannon, Floyd, Kenyon, Parry, "Hyperbolic geometry", MSRI 31, 1997, section 7.
"""

import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.manifolds.exact import between_tilings
from geoembed.numerics import less_square

__all__ = [
    "convert",
    "halfspace_to_lorentz",
    "halfspace_to_poincare",
    "lorentz_to_halfspace",
    "lorentz_to_poincare",
    "poincare_to_halfspace",
    "poincare_to_lorentz",
    "with_time",
]


def convert(x: Tensor, source, target) -> Tensor:
    """The point of `target` that is the point x of `source`; both hyperbolic and of equal curvature.

    x: (*B, k) in the coordinates of `source` -> (*B, k') in those of `target`. DomainError where no isometry exists.
    From a tiling to another model digits are lost where that model cannot hold them; between the two kinds of tiling
    none are, but no gradient flows: see `exact.between_tilings`. An `LTiling` converts if it has one plane.
    """
    names = (source.name, target.name)
    known = all(model.name in (*_METHOD, *_TILINGS) and getattr(model, "planes", 1) == 1 for model in (source, target))
    if not known and names[0] != names[1]:
        raise DomainError(f"no isometry from {source!r} to {target!r}; only models of hyperbolic space convert")
    curvatures = [float(model.c.detach()) if hasattr(model, "c") else 0.0 for model in (source, target)]
    if curvatures[0] != curvatures[1]:
        raise DomainError(f"{source!r} and {target!r} differ in curvature, so no conversion keeps distances")
    tiled = [model for model in (source, target) if model.name in _TILINGS]
    if len(tiled) == 2 and source.dim != target.dim:
        raise DomainError(f"{source!r} and {target!r} differ in dimension, so no conversion keeps distances")
    if names[0] == names[1]:
        if getattr(source, "limbs", 0) == getattr(target, "limbs", 0):
            return x
        return target.resized(x)
    if names in _CONVERSIONS:
        return _CONVERSIONS[names](x, source.c)
    if len(tiled) == 2:
        return between_tilings(x, source, target)
    way = f"to_{_METHOD[names[1]]}" if tiled[0] is source else f"from_{_METHOD[names[0]]}"
    return getattr(tiled[0], way)(x)


def with_time(x: Tensor, c: Tensor) -> Tensor:
    """Put the time coordinate sqrt(1 / c + |x|^2) before the space-like coordinates. x: (*B, d) -> (*B, d + 1)."""
    return torch.cat([(1 / c + x.square().sum(-1, keepdim=True)).sqrt(), x], dim=-1)


def poincare_to_lorentz(b: Tensor, c: Tensor) -> Tensor:
    """b: (*B, d) -> (*B, d + 1)."""
    gap = (c * less_square(1 / c, b)).clamp(min=torch.finfo(b.dtype).eps)
    return with_time(2 * b / gap, c)


def lorentz_to_poincare(x: Tensor, c: Tensor) -> Tensor:
    """x: (*B, d + 1) -> (*B, d). The time coordinate is taken from the space-like ones."""
    space = x[..., 1:]
    return space / (1 + (1 + c * space.square().sum(-1, keepdim=True)).sqrt())


def poincare_to_halfspace(b: Tensor, c: Tensor) -> Tensor:
    """b: (*B, d) -> (*B, d)."""
    b = c.sqrt() * b
    across, along = b[..., :-1], b[..., -1:]
    gap = less_square(torch.ones_like(c), b).clamp(min=torch.finfo(b.dtype).eps)
    below = across.square().sum(-1, keepdim=True) + (1 - along).square()
    return torch.cat([2 * across, gap], dim=-1) / below.clamp(min=torch.finfo(b.dtype).tiny)


def halfspace_to_poincare(p: Tensor, c: Tensor) -> Tensor:
    """p: (*B, d) -> (*B, d)."""
    across, y = p[..., :-1], p[..., -1:]
    width = across.square().sum(-1, keepdim=True)
    return torch.cat([2 * across, width + (y - 1) * (y + 1)], dim=-1) / (width + (1 + y).square()) / c.sqrt()


def halfspace_to_lorentz(p: Tensor, c: Tensor) -> Tensor:
    """p: (*B, d) -> (*B, d + 1)."""
    across, y = p[..., :-1], p[..., -1:]
    along = (across.square().sum(-1, keepdim=True) + (y - 1) * (y + 1)) / 2
    return with_time(torch.cat([across, along], dim=-1) / (y * c.sqrt()), c)


def lorentz_to_halfspace(x: Tensor, c: Tensor) -> Tensor:
    """x: (*B, d + 1) -> (*B, d). Uses x0 - x_n = (1 + |x_h|^2) / (x0 + x_n) where x_n > 0, at c = 1."""
    x = c.sqrt() * x
    across, along = x[..., 1:-1], x[..., -1:]
    width = 1 + across.square().sum(-1, keepdim=True)
    time = (width + along.square()).sqrt()
    inverse_y = torch.where(along > 0, width / (time + along.clamp(min=0)), time - along)
    return torch.cat([across, torch.ones_like(along)], dim=-1) / inverse_y


_TILINGS = ("HTiling", "LTiling")
_METHOD = {"HalfSpace": "halfspace", "Lorentz": "lorentz", "PoincareBall": "poincare"}  # of tilings, to_ and from_
_CONVERSIONS = {
    ("PoincareBall", "Lorentz"): poincare_to_lorentz,
    ("Lorentz", "PoincareBall"): lorentz_to_poincare,
    ("PoincareBall", "HalfSpace"): poincare_to_halfspace,
    ("HalfSpace", "PoincareBall"): halfspace_to_poincare,
    ("HalfSpace", "Lorentz"): halfspace_to_lorentz,
    ("Lorentz", "HalfSpace"): lorentz_to_halfspace,
}
