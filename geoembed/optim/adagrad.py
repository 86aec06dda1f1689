"""Riemannian Adagrad.

For the Riemannian gradient g at x and the count t of the table's steps (J. Duchi, E. Hazan, Y. Singer, "Adaptive
Subgradient Methods for Online Learning and Stochastic Optimization", JMLR 12, 2011; G. Becigneul and O.-E. Ganea,
"Riemannian Adaptive Optimization Methods", ICLR 2019, arXiv 1810.00760):

    s <- s + <g, g>_x        one number a point, or a factor of a product; a coordinate if Euclidean
    u  = -lr / (1 + (t - 1) lr_decay) g / (sqrt(s) + eps)
    x <- retr(x, u)

The sum is a scalar at each point, so nothing is carried along. On Euclidean parameters these are the steps of
`torch.optim.Adagrad`, for dense and for sparse gradients; t counts every step of a table, whichever rows it touched.
"""

from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from geoembed.optim.base import RowOptimizer, Shared, nonnegative
from geoembed.optim.rows import buffer, check_rows, count, curved, descent, move, put, take

__all__ = ["RiemannianAdagrad"]


class RiemannianAdagrad(RowOptimizer):
    """Riemannian Adagrad for dense and row-sparse gradients; the first arguments are those of `torch.optim.Adagrad`.

    lr: learning rate; lr_decay: falls as 1 / (1 + (t - 1) lr_decay); weight_decay: w adds w x to the Euclidean
    gradient; initial_accumulator_value: of the sum of squares; eps: added to its root; stabilize: project points every
    so many calls of `step`; maximize: ascend; burn_in: so many first calls use lr * burn_in_factor. Rows without a
    gradient keep still. Raises DomainError for a value out of range.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    >>> optimizer = RiemannianAdagrad([x], lr=0.25)
    >>> x.square().sum().backward()
    >>> optimizer.step()
    >>> [round(value, 6) for value in x.tolist()]
    [0.75, 0.75]
    """

    options = ("lr_decay", "weight_decay", "initial_accumulator_value", "eps", "maximize")
    tangent = ()
    checks: ClassVar = {
        **RowOptimizer.checks,
        "lr_decay": (nonnegative, "a finite number >= 0"),
        "initial_accumulator_value": (nonnegative, "a finite number >= 0"),
        "eps": (nonnegative, "a finite number >= 0"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-2,
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        **shared: Unpack[Shared],
    ):
        defaults = {
            "lr": lr,
            "lr_decay": lr_decay,
            "weight_decay": weight_decay,
            "initial_accumulator_value": initial_accumulator_value,
            "eps": eps,
        }
        super().__init__(params, defaults, **shared)

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
        lr_decay: float = 0.0,
        weight_decay: float = 0.0,
        initial_accumulator_value: float = 0.0,
        eps: float = 1e-10,
        maximize: bool = False,
    ) -> None:
        """Move the rows `ids` of a table in place; a static method that needs neither an optimizer nor `.grad`.

        table: (n, *E); state: a dict, at first empty, that belongs to this table and is filled in place with `sum`
        (n, *E) and `step`; ids: (k,) int64, UNIQUE (not checked: of equal ids one would win), or None for all rows;
        grad: (k, *E), the Euclidean gradient, left as it is; manifold: that of the rows, None for Euclidean. Raises
        ShapeError when grad is not (k, *E).
        """
        manifold, table = curved(manifold), table.detach()
        check_rows(table, ids, grad)
        real = manifold is None  # then the parts of a complex number are coordinates of their own, as in torch
        total = buffer(state, "sum", table, real, initial_accumulator_value)
        if real and table.is_complex():
            table, grad = torch.view_as_real(table), torch.view_as_real(grad)
        steps = count(state, table, None)  # not row by row, as in torch
        x = take(table, ids) if manifold is not None or weight_decay else table
        g = descent(x, grad, weight_decay, maximize, manifold)

        s = take(total, ids)
        if manifold is None:
            s.addcmul_(g, g)
        else:
            s.add_(manifold.component_inner(x, g))
        put(total, ids, s)
        u = torch.div(g, s.sqrt().add_(eps)).mul_(-lr / (1 + (steps - 1) * lr_decay))
        move(table, ids, x, u, 1.0, manifold, None)
