"""Riemannian Adam, with AMSGrad and decoupled weight decay.

For the Riemannian gradient g at x and the step count t (G. Becigneul and O.-E. Ganea, "Riemannian Adaptive
Optimization Methods", ICLR 2019, arXiv 1810.00760):

    m <- b1 m + (1 - b1) g
    v <- b2 v + (1 - b2) <g, g>_x          one number a point, or a factor of a product; a coordinate if Euclidean
    w  = v,  or the largest v so far       (amsgrad: S. Reddi et al., ICLR 2018, arXiv 1904.09237)
    u  = -lr (m / (1 - b1^t)) / (sqrt(w / (1 - b2^t)) + eps)
    x, m <- retr_transp(x, u, m)

The largest v is kept as it is, before its bias correction: the corrected one starts near g^2 and would never fall.
In a table with row-sparse gradients t counts the steps of each row. On Euclidean parameters these are the steps of
`torch.optim.Adam` (D. Kingma and J. Ba, ICLR 2015, arXiv 1412.6980).

Decoupled weight decay w (I. Loshchilov and F. Hutter, ICLR 2019, arXiv 1711.05101) leaves g alone and draws x along
its geodesic to the origin, x <- exp_0((1 - lr w) log_0 x), between the gradient and the step.
"""

import math
from collections.abc import Iterable
from typing import Any, ClassVar, Unpack

import torch
from torch import Tensor

from geoembed.errors import DomainError
from geoembed.optim.base import RowOptimizer, Shared, flag, nonnegative
from geoembed.optim.rows import buffer, check_rows, count, curved, descent, move, put, take

__all__ = ["RiemannianAdam"]


def _fractions(betas: Any) -> bool:
    first, second = betas
    return 0 <= float(first) < 1 and 0 <= float(second) < 1


def _correction(beta: float, steps: float | Tensor, table: Tensor) -> Any:
    """1 - beta^t without cancellation, a float or a tensor of at least float32."""
    log = math.log(beta) if beta > 0 else -math.inf
    if not isinstance(steps, Tensor):
        return -math.expm1(steps * log)
    return torch.expm1(steps.to(torch.promote_types(torch.float32, table.dtype.to_real())) * log).neg_()


def _check_shrinks(manifold: Any) -> None:
    if manifold is not None and not (hasattr(manifold, "expmap0") and hasattr(manifold, "logmap0")):
        raise DomainError(
            f"decoupled weight decay shrinks points towards an origin and needs a manifold with expmap0 and logmap0, "
            f"got {manifold}; use weight_decay=0 or decoupled_weight_decay=False there"
        )


class RiemannianAdam(RowOptimizer):
    """Riemannian Adam for dense and row-sparse gradients; takes the arguments of geoopt's optimizer of this name.

    lr: learning rate; betas: decay of the two moments, in [0, 1); eps: added to the root of the second; weight_decay:
    w adds w x to the Euclidean gradient, or shrinks points when decoupled_weight_decay; amsgrad: divide by the
    largest second moment; stabilize: project points and first moments every so many calls of `step`; maximize:
    ascend; burn_in: so many first calls use lr * burn_in_factor. Rows without a gradient keep still, moments and
    all. Raises DomainError for a value out of range.

    >>> import torch
    >>> x = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
    >>> optimizer = RiemannianAdam([x], lr=0.25)
    >>> x.square().sum().backward()
    >>> optimizer.step()
    >>> [round(value, 6) for value in x.tolist()]
    [0.75, 0.75]
    """

    options = ("betas", "eps", "weight_decay", "amsgrad", "maximize", "decoupled_weight_decay")
    tangent = ("exp_avg",)
    checks: ClassVar = {
        **RowOptimizer.checks,
        "betas": (_fractions, "two numbers in [0, 1)"),
        "eps": (nonnegative, "a finite number >= 0"),
        "amsgrad": (flag, "True or False"),
        "decoupled_weight_decay": (flag, "True or False"),
    }

    def __init__(
        self,
        params: Iterable[Any],
        lr: float | Tensor = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        *,
        decoupled_weight_decay: bool = False,
        **shared: Unpack[Shared],
    ):
        defaults = {
            "lr": lr,
            "betas": betas,
            "eps": eps,
            "weight_decay": weight_decay,
            "amsgrad": amsgrad,
            "decoupled_weight_decay": decoupled_weight_decay,
        }
        super().__init__(params, defaults, **shared)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`; options the group lacks are the optimizer's. Raises DomainError."""
        super().add_param_group(param_group)
        group = self.param_groups[-1]
        if group["weight_decay"] and group["decoupled_weight_decay"]:
            for param in group["params"]:
                _check_shrinks(curved(getattr(param, "manifold", None)))

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
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        decoupled_weight_decay: bool = False,
    ) -> None:
        """Move the rows `ids` of a table in place; a static method that needs neither an optimizer nor `.grad`.

        table: (n, *E); state: a dict, at first empty, that belongs to this table and is filled in place with
        `exp_avg`, `exp_avg_sq`, with amsgrad `max_exp_avg_sq` (n, *E), and `step`; ids: (k,) int64, UNIQUE (not
        checked: of equal ids one would win), or None for all rows; grad: (k, *E), the Euclidean gradient, left as
        it is; manifold: that of the rows, None for Euclidean. Raises ShapeError when grad is not (k, *E), and
        DomainError for decoupled weight decay on a manifold without expmap0 and logmap0.
        """
        manifold, table = curved(manifold), table.detach()
        check_rows(table, ids, grad)
        decay = weight_decay if decoupled_weight_decay else 0.0
        if decay:
            _check_shrinks(manifold)
        real = manifold is None  # then the parts of a complex number are coordinates of their own, as in torch
        first, second = (buffer(state, name, table, real) for name in ("exp_avg", "exp_avg_sq"))
        largest = buffer(state, "max_exp_avg_sq", table, real) if amsgrad else None
        if real and table.is_complex():
            table, grad = torch.view_as_real(table), torch.view_as_real(grad)
        steps = count(state, table, ids)
        x = take(table, ids) if manifold is not None or weight_decay else table
        g = descent(x, grad, weight_decay - decay, maximize, manifold)

        m = take(first, ids).lerp_(g, 1 - betas[0])
        v = take(second, ids).mul_(betas[1])
        if manifold is None:
            v.addcmul_(g, g, value=1 - betas[1])
        else:
            v.add_(manifold.component_inner(x, g), alpha=1 - betas[1])
        put(second, ids, v)
        if largest is not None:
            v = torch.maximum(take(largest, ids), v)
            put(largest, ids, v)

        c1, c2 = (_correction(beta, steps, table) for beta in betas)
        denominator = v.sqrt().mul_(c2**-0.5).add_(eps)
        if decay and manifold is not None:  # m is tangent at the old x: carry it along
            shrunk = manifold.expmap0(manifold.logmap0(x) * (1 - lr * decay))
            m, x = manifold.transp(x, shrunk, m), shrunk
        u = torch.div(m, denominator, out=denominator).mul_(-lr / c1)
        if decay and manifold is None:
            u.add_(x, alpha=-lr * decay)
        put(first, ids, move(table, ids, x, u, 1.0, manifold, m))
