"""A moving average of the weights of a model: less noise than the last ones, at the price of one pass over the tables.

After call number t of `update`, for each parameter x and its average a, which begins as the first x:

    d = min(decay, (1 + t) / (10 + t))^every,     a <- d a + (1 - d) x      in every `every`-th call, nothing in others

(B. Polyak and A. Juditsky, "Acceleration of Stochastic Approximation by Averaging", SIAM J. Control Optim. 30(4), 1992;
P. Izmailov et al., "Averaging Weights Leads to Wider Optima and Better Generalization", UAI 2018, arXiv 1803.05407).
The bound on d lets the first weights, which are bad, fade at once.

Points of a manifold are averaged in the coordinates they are stored in, and `projx` moves the average onto the manifold
where it is used: in flat space, on the ball and in the half-space it is there already, on the sphere it is normalised,
on the hyperboloid its time coordinate is made to fit. The Lorentzian centroid (M. Law et al., ICML 2019) scales the
mean instead, by a root of -<a, a>, which has no correct digit at half the range of the coordinates; the two differ by
the square of the distance that a point moved during the average. A learnt curvature is a parameter and is averaged (its
logarithm is); buffers stay the model's own.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from geoembed.errors import CheckpointError, DomainError

__all__ = ["Averaged"]


class Averaged:
    """The moving average of a model's parameters; call `update` after each step of the optimizer.

    model: on the device where it stays; decay: in [0, 1), 0.999 averages over about a thousand steps; every: calls of
    `update` between two passes over the tables, the decay being that of so many steps. Averages have the types of
    their parameters. Raises DomainError for a value out of range.

    >>> from torch import nn
    >>> model = nn.Linear(2, 1)
    >>> averaged = Averaged(model, decay=0.99)
    >>> _ = nn.init.ones_(model.weight)
    >>> averaged.update()
    >>> with averaged.applied():
    ...     bool((model.weight < 1).all())
    True
    >>> model.weight.tolist()
    [[1.0, 1.0]]
    """

    def __init__(self, model: nn.Module, decay: float = 0.999, every: int = 1):
        if not 0 <= decay < 1:
            raise DomainError(f"decay must be in [0, 1), got {decay}")
        if every < 1:
            raise DomainError(f"every must be at least 1, got {every}")
        self.model, self.decay, self.every = model, decay, every
        self.calls = 0
        self.averages = {name: p.detach().clone() for name, p in model.named_parameters()}

    @torch.no_grad()
    def update(self) -> None:
        """Take in the present weights of the model."""
        self.calls += 1
        if self.calls % self.every == 0:
            decay = min(self.decay, (1 + self.calls) / (10 + self.calls)) ** self.every
            for name, parameter in self.model.named_parameters():
                self.averages[name].lerp_(parameter.detach(), 1 - decay)

    @contextlib.contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters of the model are the averages; after it they are what they were, to the bit.

        They share memory with the averages there: read them, copy what is to be kept, train outside.
        """
        parameters: dict[str, Any] = dict(self.model.named_parameters())
        own = {name: parameter.data for name, parameter in parameters.items()}
        try:
            for name, parameter in parameters.items():
                parameter.data = self.averages[name]
            for parameter in parameters.values():  # after the loop above: a manifold's curvature may be averaged too
                if hasattr(parameter, "manifold"):
                    with torch.no_grad():
                        parameter.data = parameter.manifold.projx(parameter.data)
            yield
        finally:
            for name, parameter in parameters.items():
                parameter.data = own[name]

    def state_dict(self) -> dict[str, Any]:
        """The number of calls and the averages by name; the tensors are the averages themselves, not copies."""
        return {"calls": self.calls, "averages": dict(self.averages)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from a saved state; CheckpointError when its tensors are not those of the model."""
        found: dict[str, Tensor] = state["averages"]
        shapes, expected = ({name: tuple(t.shape) for name, t in d.items()} for d in (found, self.averages))
        if shapes != expected:
            raise CheckpointError(f"expected averages of the shapes {expected}, got {shapes}")
        self.calls = state["calls"]
        for name, average in self.averages.items():
            average.copy_(found[name])
