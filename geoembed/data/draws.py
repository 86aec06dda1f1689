"""What the samplers share: tables that move between devices, draws on the generator's device, distinct rows."""

import copy
from collections.abc import Sequence
from typing import Self

import torch
from torch import Tensor

from geoembed.errors import DomainError

__all__ = ["Tables", "below", "check_probability", "check_sizes", "distinct", "fresh", "rand"]


class Tables:
    """What holds tensors, and moves them all at once."""

    def to(self, device: torch.device | str) -> Self:
        """A copy with its tensors on the device."""
        moved = copy.copy(self)
        for name, value in vars(self).items():
            if isinstance(value, (Tensor, Tables)):
                setattr(moved, name, value.to(device))
        return moved


def rand(shape: Sequence[int], device: torch.device, generator: torch.Generator | None) -> Tensor:
    """Float64 in [0, 1), on the device."""
    where = device if generator is None else generator.device
    return torch.rand(tuple(shape), dtype=torch.float64, generator=generator, device=where).to(device)


def below(sizes: Tensor, generator: torch.Generator | None) -> Tensor:
    """A uniform integer in [0, size) for each of the sizes. u < 1 in float64 keeps u * size < size."""
    return (rand(sizes.shape, sizes.device, generator) * sizes).long()


def distinct(rows: Tensor) -> Tensor:
    """The distinct rows (n, k), sorted by the first column, then the second, ...: unique(dim=0), ten times as fast."""
    for column in reversed(range(rows.shape[1])):
        rows = rows[rows[:, column].argsort(stable=True)]
    return rows[fresh(rows)]


def fresh(rows: Tensor) -> Tensor:
    """Whether a row differs from the one before it: bool (n,)."""
    fresh = torch.ones(len(rows), dtype=torch.bool, device=rows.device)
    fresh[1:] = (rows[1:] != rows[:-1]).any(1)
    return fresh


def check_sizes(**sizes: int) -> None:
    for name, value in sizes.items():
        if value < 1:
            raise DomainError(f"{name} must be at least 1, got {value}")


def check_probability(name: str, value: float) -> None:
    if not 0 <= value <= 1:  # NaN too
        raise DomainError(f"{name} must be a probability, between 0 and 1; got {value}")
