"""The parts of a step: which rows of which parameter move, and how they move on a manifold.

A step takes the Euclidean gradient e of the rows x to

    g = egrad2rgrad(x, e)              the Riemannian gradient, the tangent vector that represents e
    u = -lr * direction(g, state)      a tangent vector at x
    x, state <- retr_transp(x, u, state)      the new point, with the tangent part of the state carried along

(S. Bonnabel, "Stochastic gradient descent on Riemannian manifolds", IEEE TAC 58(9), 2013, arXiv 1111.5280). All of it
happens on the rows that have a gradient and on nothing else: a dense gradient has all rows (`ids` is None), a
sparse one those it names. The rows of a parameter are its first dimension. A row whose u is zero keeps its bits.

Rows on a tiling may grow: a manifold with the methods `limbs_of`, `limbs_wanted`, `resized` and `widened` of
`manifolds.tiling.Tiling` is asked after each step whether its table is to be wider.
"""

from typing import Any

import torch
from torch import Tensor

from geoembed.errors import ShapeError

__all__ = [
    "buffer",
    "check_rows",
    "count",
    "curved",
    "descent",
    "gradient_rows",
    "grow",
    "move",
    "put",
    "take",
    "widen",
]


def curved(manifold: Any) -> Any:
    """The manifold, or None for a Euclidean one, which needs none of its methods."""
    return None if getattr(manifold, "name", None) == "Euclidean" else manifold


def gradient_rows(param: Tensor, grad: Tensor) -> tuple[Tensor | None, Tensor]:
    """The gradient of a parameter as (ids, rows); ids is None when it is dense. Leaves `grad` as it is."""
    if grad.layout == torch.strided:
        return None, grad
    manifold = curved(getattr(param, "manifold", None))
    dims = 0 if manifold is None else manifold.ndim
    if grad.layout != torch.sparse_coo or grad.sparse_dim() != 1 or param.dim() <= dims:
        raise ShapeError(
            f"a sparse gradient must be torch.sparse_coo with one sparse dimension whose rows are whole points, got "
            f"{grad.layout} of shape {tuple(grad.shape)}, {grad.sparse_dim()} sparse dimension(s), points of "
            f"{dims} dimension(s); use `.to_dense()` or the gradient of F.embedding(sparse=True)"
        )
    if not grad.is_coalesced():
        grad = grad.coalesce()
    return grad._indices()[0], grad._values()


def check_rows(table: Tensor, ids: Tensor | None, grad: Tensor) -> None:
    """Raise unless the gradient has the shape of the rows it belongs to."""
    expected = table.shape if ids is None else (*ids.shape, *table.shape[1:])
    if grad.shape != expected or (ids is not None and ids.dim() != 1):
        rows = "no ids" if ids is None else f"ids of shape {tuple(ids.shape)}"
        raise ShapeError(
            f"ids must be None or (k,) and grad (k, *E), a row for each id, got {rows} and a gradient of shape "
            f"{tuple(grad.shape)} for a table of shape {tuple(table.shape)}"
        )


def take(table: Tensor, ids: Tensor | None) -> Tensor:
    """The rows `ids` of a table as a copy; the table itself, not a copy, when `ids` is None."""
    return table if ids is None else table.index_select(0, ids)


def put(table: Tensor, ids: Tensor | None, rows: Tensor) -> None:
    """Write rows back where `take` found them; nothing to do when they were changed in place."""
    if ids is not None:
        table.index_copy_(0, ids, rows.to(table.dtype))
    elif rows is not table:
        table.copy_(rows)


def buffer(state: dict[str, Any], name: str, table: Tensor, real: bool = False, initial: float = 0.0) -> Tensor:
    """The state tensor of this name, full of `initial` on first use; as pairs of reals when `real` and complex."""
    if state.get(name) is None:
        both = real and table.is_complex()
        state[name] = torch.full_like(table, complex(initial, initial) if both else initial)
    value: Tensor = state[name]
    return torch.view_as_real(value) if real and value.is_complex() else value


def count(state: dict[str, Any], table: Tensor, ids: Tensor | None, started: bool = False) -> float | Tensor:
    """Add one to the step count of the rows and return it.

    The count is a 0-dim tensor on the CPU while all rows share it (returned as a float), and a float32 tensor
    (n, 1, ...) from the first sparse gradient on (returned as (k, 1, ...)). `started`: a state that another
    optimizer began without counting has made a step.
    """
    step = state.get("step")
    if step is None:
        step = state["step"] = torch.tensor(float(started), dtype=torch.float32)
    if ids is None:
        step += 1
        return step.item() if step.dim() == 0 else step
    if step.dim() == 0:
        shape = (table.shape[0],) + (1,) * (table.dim() - 1)
        step = state["step"] = torch.full(shape, step.item(), dtype=torch.float32, device=table.device)
    rows = step.index_select(0, ids).add_(1)
    step.index_copy_(0, ids, rows)
    return rows


def descent(x: Tensor, grad: Tensor, weight_decay: float, maximize: bool, manifold: Any) -> Tensor:
    """The gradient to descend along, Riemannian on a manifold. May be `grad` itself, which is never written to."""
    if maximize:
        grad = -grad
    if weight_decay:
        grad = grad.add(x, alpha=weight_decay)
    if manifold is not None:
        grad = manifold.egrad2rgrad(x, grad.clone())  # a clone: geoopt.Lorentz writes into its argument
    return grad


def move(
    table: Tensor, ids: Tensor | None, x: Tensor, direction: Tensor, scale: float, manifold: Any, vector: Any
) -> Any:
    """Step the rows x of the table by u = scale * direction; returns `vector`, if any, carried to the new points."""
    if manifold is None:
        if ids is None:
            table.add_(direction, alpha=scale)
        else:  # not with alpha=scale, which takes a path three times slower
            u = direction if scale == 1 else direction * scale
            table.index_add_(0, ids, u.to(table.dtype))
        return vector
    u = direction if scale == 1 else direction * scale
    if vector is None:
        y = manifold.retr(x, u)
    else:
        y, vector = manifold.retr_transp(x, u, vector)
    moves = u != 0  # a retraction by zero may still round x
    if manifold.ndim:
        moves = moves.any(dim=tuple(range(-manifold.ndim, 0)), keepdim=True)
    put(table, ids, torch.where(moves, y, x))
    return vector


def grow(param: Tensor, state: dict[str, Any], ids: Tensor | None, manifold: Any) -> None:
    """Widen a table whose rows `ids` have moved, and what belongs to it, if its manifold says so."""
    if hasattr(manifold, "limbs_wanted"):
        widen(param, state, manifold, manifold.limbs_wanted(param.detach(), ids))


def widen(param: Tensor, state: dict[str, Any], manifold: Any, least: int = 1) -> None:
    """Give the rows of a parameter, of its gradient and of its state as many limbs as the widest of them has."""
    rows = {n: v for n, v in state.items() if isinstance(v, Tensor) and v.dim() == param.dim() and v.shape[-1] > 1}
    limbs = max(least, *(manifold.limbs_of(value.shape[-1]) for value in (param, *rows.values())))
    state.update((name, manifold.widened(value, limbs)) for name, value in rows.items())
    if manifold.limbs_of(param.shape[-1]) == limbs:
        return
    grad, param.grad = param.grad, None
    wide = manifold.resized(param.detach(), limbs)
    param.data = wide.new_empty(0, dtype=torch.float16)  # of another type, so that torch forgets the shape of gradients
    param.data = wide  # that a graph from before, if it is still there, has made it expect
    if grad is not None and grad.layout == torch.strided:
        param.grad = manifold.widened(grad, limbs)
    elif grad is not None:
        grad = grad.coalesce()
        values = manifold.widened(grad.values(), limbs)
        param.grad = torch.sparse_coo_tensor(
            grad.indices(), values, wide.shape, is_coalesced=True, check_invariants=False
        )
