"""What all optimizers share: the loop over groups and parameters, checked options, projection, saved state.

Burn-in multiplies the learning rate of the first calls by a factor, as in M. Nickel and D. Kiela, "Poincaré
Embeddings for Learning Hierarchical Representations", NeurIPS 2017, arXiv 1705.08039, section 3.
"""

import math
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, TypedDict

import torch

from geoembed.errors import DomainError
from geoembed.optim.rows import curved, gradient_rows, grow, widen

__all__ = ["RowOptimizer", "Shared", "flag", "nonnegative"]


class Shared(TypedDict, total=False):
    """Keywords of every optimizer's constructor; their defaults are those of `RowOptimizer`."""

    stabilize: int | None
    maximize: bool
    burn_in: int
    burn_in_factor: float


def require(group: dict[str, Any], checks: dict[str, tuple[Callable[[Any], bool], str]]) -> None:
    """Raise DomainError for the first option of a group that is not what it has to be."""
    for name, (valid, expected) in checks.items():
        try:
            ok = bool(valid(group[name]))
        except (TypeError, ValueError, RuntimeError):  # not a number at all, or a tensor of several
            ok = False
        if not ok:
            raise DomainError(f"{name} must be {expected}, got {group[name]!r}")


def _whole(value: Any, least: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least


def nonnegative(value: Any) -> bool:
    """A finite number >= 0, a string not being one."""
    return not isinstance(value, str) and 0 <= float(value) < math.inf


def flag(value: Any) -> bool:
    """True or False."""
    return isinstance(value, bool)


class RowOptimizer(torch.optim.Optimizer):
    """The loop over groups and parameters; a child says how rows step, in `step_rows`, and what its options are.

    A call of `step` counts in `group["step"]`; `burn_in` and `stabilize` go by this count. Rows on a tiling that have
    fewer limbs than their manifold allows get more as they need them; `param.shape` changes then.
    """

    options: ClassVar[tuple[str, ...]]  # keywords of `step_rows` besides lr and manifold
    tangent: ClassVar[tuple[str, ...]]  # names of the state tensors that are tangent vectors
    checks: ClassVar[dict[str, tuple[Callable[[Any], bool], str]]] = {
        "lr": (nonnegative, "a finite number >= 0"),
        "weight_decay": (nonnegative, "a finite number >= 0"),
        "maximize": (flag, "True or False"),
        "stabilize": (lambda n: n is None or _whole(n, 1), "None or an integer >= 1, the calls between projections"),
        "burn_in": (lambda n: _whole(n, 0), "an integer >= 0, the calls of step with a smaller learning rate"),
        "burn_in_factor": (nonnegative, "a finite number >= 0"),
    }
    step_rows: ClassVar[Callable[..., None]]

    def __init__(
        self,
        params: Iterable[Any],
        defaults: dict[str, Any],
        *,
        stabilize: int | None = None,
        maximize: bool = False,
        burn_in: int = 0,
        burn_in_factor: float = 0.1,
    ):
        shared = {"stabilize": stabilize, "maximize": maximize, "burn_in": burn_in, "burn_in_factor": burn_in_factor}
        self.check({**defaults, **shared})
        super().__init__(params, {**defaults, **shared, "step": 0})

    def check(self, group: dict[str, Any]) -> None:
        """Raise DomainError for an option of a group that cannot be used."""
        require(group, self.checks)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """As in `torch.optim.Optimizer`; options the group lacks are the optimizer's. Raises DomainError."""
        self.check({**self.defaults, **param_group})
        super().add_param_group(param_group)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Move every parameter that has a gradient; returns what `closure`, called first with gradients on, returns."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            group["step"] += 1
            options = {name: group[name] for name in self.options}
            lr = float(group["lr"]) * (group["burn_in_factor"] if group["step"] <= group["burn_in"] else 1.0)
            for param in group["params"]:
                if param.grad is not None:
                    ids, grad = gradient_rows(param, param.grad)
                    manifold = getattr(param, "manifold", None)
                    self.step_rows(param, self.state[param], ids, grad, manifold=manifold, lr=lr, **options)
                    grow(param, self.state[param], ids, manifold)
            if group["stabilize"] is not None and group["step"] % group["stabilize"] == 0:
                self.stabilize_group(group)
        return loss

    def stabilize(self) -> None:
        """Project all points onto their manifolds, and their tangent state onto the tangent spaces there."""
        for group in self.param_groups:
            self.stabilize_group(group)

    @torch.no_grad()
    def stabilize_group(self, group: dict[str, Any]) -> None:
        """`stabilize` for one group."""
        for param in group["params"]:
            manifold = curved(getattr(param, "manifold", None))
            if manifold is None:
                continue
            point = param.detach()
            point.copy_(manifold.projx(point))
            for name in self.tangent:
                if param in self.state and self.state[param].get(name) is not None:
                    vector = self.state[param][name]
                    vector.copy_(manifold.proju(point, vector))
            grow(param, self.state.get(param, {}), None, manifold)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Take a saved state, also one of torch's or geoopt's optimizer of the same kind."""
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in self.defaults.items():
                group.setdefault(name, value)
        for param, values in self.state.items():
            if "step" in values:  # one count stays on the CPU, counts by row lie beside the rows
                step = torch.as_tensor(values["step"], dtype=torch.float32)
                values["step"] = step.to(param.device if step.dim() else "cpu")
            manifold = getattr(param, "manifold", None)
            if hasattr(manifold, "limbs_wanted"):  # rows of a run whose table had grown
                widen(param, values, manifold)
