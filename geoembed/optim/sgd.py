"""Riemannian stochastic gradient descent with momentum.

For the Riemannian gradient g at x, momentum m, dampening t (S. Bonnabel, IEEE TAC 58(9), 2013, arXiv 1111.5280):

    b <- m b + (1 - t) g,  in the first step b <- g
    u  = -lr g  (m = 0),   -lr b,   -lr (g + m b)  (nesterov)
    x, b <- retr_transp(x, u, b)

On Euclidean parameters these are the steps of `torch.optim.SGD`.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.optim.base import RowOptimizer, Shared, flag, nonnegative
from geoembed.optim.rows import buffer, check_rows, count, curved, descent, move, put, take

__all__ = ["RiemannianSGD"]


class RiemannianSGD(RowOptimizer):
    """Riemannian SGD for dense and row-sparse gradients; takes the arguments of geoopt's optimizer of this name.

    lr: learning rate; momentum: >= 0; dampening: of what a gradient adds to the momentum; weight_decay: w adds w x
    to the Euclidean gradient; nesterov: needs momentum > 0 and dampening 0; stabilize: project points and momentum
    every so many calls of `step`; maximize: ascend; burn_in: so many first calls use lr * burn_in_factor.
    Rows without a gradient neither move nor lose momentum. Raises DomainError for a value out of range.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.ones(2))
    >>> optimizer = RiemannianSGD([x], lr=0.5)
    >>> x.square().sum().backward()
    >>> optimizer.step()
    >>> x.tolist()
    [0.0, 0.0]
    """

    options = ("momentum", "dampening", "weight_decay", "nesterov", "maximize")
    tangent = ("momentum_buffer",)
    checks: ClassVar = {
        **RowOptimizer.checks,
        "momentum": (nonnegative, "a finite number >= 0"),
        "dampening": (lambda t: abs(float(t)) < float("inf"), "a finite number"),
        "nesterov": (flag, "True or False"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        **shared: Unpack[Shared],
    ):
        defaults = {
            "lr": lr,
            "momentum": momentum,
            "dampening": dampening,
            "weight_decay": weight_decay,
            "nesterov": nesterov,
        }
        super().__init__(params, defaults, **shared)

    def check(self, group: dict[str, Any]) -> None:
        """Raise DomainError for an option of a group that cannot be used."""
        super().check(group)
        if group["nesterov"] and (group["momentum"] == 0 or group["dampening"] != 0):
            got = f"momentum={group['momentum']!r}, dampening={group['dampening']!r}"
            raise DomainError(f"nesterov must be False unless momentum > 0 and dampening is 0, got {got}")

    @staticmethod
    @torch.no_grad()
    def step_rows(
        table: Tensor,
        state: dict[str, Any],
        ids: Tensor | None,
        grad: Tensor,
        *,
        lr: float,
        manifold: Any = None,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        maximize: bool = False,
    ) -> None:
        """Move the rows `ids` of a table in place; a static method that needs neither an optimizer nor `.grad`.

        table: (n, *E); state: a dict, at first empty, that belongs to this table and is filled in place with
        `momentum_buffer` (n, *E) and `step` where there is momentum; ids: (k,) int64, UNIQUE (not checked: of
        equal ids one would win), or None for all rows; grad: (k, *E), the Euclidean gradient, left as it is;
        manifold: that of the rows, None for Euclidean. Raises ShapeError when grad is not (k, *E).
        """
        manifold, table = curved(manifold), table.detach()
        check_rows(table, ids, grad)
        x = take(table, ids) if manifold is not None or weight_decay else table
        direction = descent(x, grad, weight_decay, maximize, manifold)
        if not momentum:
            move(table, ids, x, direction, -lr, manifold, None)
            return
        steps = count(state, table, ids, started=state.get("momentum_buffer") is not None)
        velocity = buffer(state, "momentum_buffer", table)
        b = take(velocity, ids).mul_(momentum)
        if isinstance(steps, Tensor) and dampening:
            b.add_(direction * (steps > 1).to(b.dtype).mul_(-dampening).add_(1))
        else:
            first = not isinstance(steps, Tensor) and steps == 1
            b.add_(direction, alpha=1.0 if first else 1 - dampening)
        direction = direction.add(b, alpha=momentum) if nesterov else b
        put(velocity, ids, move(table, ids, x, direction, -lr, manifold, b))
