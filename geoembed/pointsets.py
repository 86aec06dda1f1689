"""`PointSets`: a batch of weighted point sets of different sizes, the items of distances with `event_dim` 2.

A batch (*B) of sets in R^d is held padded: `points` (*B, n, d), `lengths` (*B) of the sets, `weights` (*B, n) that sum
to one in each set. Points and weights beyond a set's length are zero whatever came in, NaN included, so padding
touches neither a value nor a gradient. A plain tensor (*B, n, d) counts as sets of n points of equal weight.

Weights need not sum to one: they are divided by their sum. Negative, NaN or infinite weights, and sets whose weights
are all zero, are errors.
"""

import itertools
import os
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.files import atomic_write

__all__ = ["PointSets"]


class PointSets:
    """Weighted point sets, padded. Indexing, `len` and `unsqueeze` act on the batch dimensions.

    Args:
        points: (*B, n, d), floating point.
        weights: (*B, n), non-negative; None for equal weights. Divided by their sum in each set.
        lengths: (*B) whole numbers from 1 to n; the first `lengths` points of each set count. None where all n do.

    Raises:
        ShapeError: shapes, dtypes or devices that do not fit together.
        DomainError: an empty set, or weights that are negative, not finite or all zero.
    """

    def __init__(self, points: Tensor, weights: Tensor | None = None, lengths: Tensor | None = None):
        _check_points(points, "points")
        n = points.shape[-2]
        if n == 0 and points.shape[:-2].numel():
            raise DomainError(f"PointSets: a set needs at least one point, got points of shape {tuple(points.shape)}")
        if lengths is not None:
            lengths = _check_lengths(lengths, points)
            if bool((lengths == n).all()):
                lengths = None
        self._lengths = lengths
        self.points = points if lengths is None else torch.where(_mask(lengths, n).unsqueeze(-1), points, 0.0)
        self._weights: Tensor | None = None
        if weights is not None:
            _check_like(weights, points, "weights", points.shape[:-1])
            self._weights = _normalised(weights if lengths is None else torch.where(_mask(lengths, n), weights, 0.0))

    # Constructors.

    @classmethod
    def of(cls, x: "Tensor | PointSets") -> "PointSets":
        """x itself if it is a `PointSets`; of a tensor (*B, n, d), its sets of equal weights."""
        return x if isinstance(x, PointSets) else cls(x)

    @classmethod
    def from_list(cls, sets: Sequence[Tensor], weights: Sequence[Tensor] | None = None) -> "PointSets":
        """From k tensors (n_i, d), and k tensors (n_i,) of weights."""
        if not sets:
            raise ShapeError("PointSets.from_list: at least one set is needed, got an empty list")
        for i, points in enumerate(sets):
            _check_points(points, f"set {i}")
            _check_like(points, sets[0], f"set {i}", (points.shape[0], sets[0].shape[-1]))
        if weights is not None:
            if len(weights) != len(sets):
                raise ShapeError(f"PointSets.from_list: {len(sets)} sets need as many weights, got {len(weights)}")
            for i, (w, points) in enumerate(zip(weights, sets, strict=True)):
                _check_like(w, points, f"weights of set {i}", points.shape[:1])
        lengths = torch.tensor([len(points) for points in sets], device=sets[0].device)
        padded = pad_sequence(list(sets), batch_first=True)
        return cls(padded, None if weights is None else pad_sequence(list(weights), batch_first=True), lengths)

    @classmethod
    def from_flat(cls, points: Tensor, ptr: Tensor, weights: Tensor | None = None) -> "PointSets":
        """From all points one after another, (N, d), where set i is points[ptr[i]:ptr[i + 1]]; ptr: (k + 1,)."""
        _check_points(points, "points")
        if ptr.dim() != 1 or not _whole(ptr) or not len(ptr):
            raise ShapeError(
                f"PointSets.from_flat: ptr must hold k + 1 whole numbers, got {ptr.dtype} {tuple(ptr.shape)}"
            )
        bounds = ptr.tolist()
        if bounds[0] != 0 or bounds[-1] != len(points) or sorted(bounds) != bounds:
            raise DomainError(
                f"PointSets.from_flat: ptr must rise from 0 to the number of points, {len(points)}; it goes from "
                f"{bounds[0]} to {bounds[-1]}"
            )
        sizes = [b - a for a, b in itertools.pairwise(bounds)]
        if weights is not None:
            _check_like(weights, points, "weights", points.shape[:1])
        if not sizes:  # a list of no sets would not say how many features they have
            return cls(points.unsqueeze(0)[:0], None if weights is None else weights.unsqueeze(0)[:0])
        return cls.from_list(points.split(sizes), None if weights is None else weights.split(sizes))

    @classmethod
    def from_mask(cls, points: Tensor, mask: Tensor, weights: Tensor | None = None) -> "PointSets":
        """From (*B, n, d) points of which those with `mask` (*B, n) true count, wherever they stand."""
        _check_points(points, "points")
        if mask.dtype != torch.bool or mask.shape != points.shape[:-1]:
            raise ShapeError(
                f"PointSets.from_mask: mask must be boolean of shape {tuple(points.shape[:-1])}, got {mask.dtype} "
                f"{tuple(mask.shape)}"
            )
        if weights is not None:
            _check_like(weights, points, "weights", mask.shape)
        order = mask.to(torch.uint8).argsort(dim=-1, descending=True, stable=True)
        moved = points.gather(-2, order.unsqueeze(-1).expand_as(points))
        return cls(moved, None if weights is None else weights.gather(-1, order), mask.sum(-1))

    @classmethod
    def _made(cls, points: Tensor, weights: Tensor | None, lengths: Tensor | None) -> "PointSets":
        """From parts that have been checked."""
        new = cls.__new__(cls)
        new.points, new._weights, new._lengths = points, weights, lengths
        return new

    # What they hold.

    @property
    def uniform(self) -> bool:
        """All points of a set weigh the same."""
        return self._weights is None

    @property
    def ragged(self) -> bool:
        """The sets differ in size, or are padded."""
        return self._lengths is not None

    @property
    def plain(self) -> bool:
        """All points of all sets weigh the same and none is padding: a plain tensor says it all."""
        return self._weights is None and self._lengths is None

    @property
    def lengths(self) -> Tensor:
        """Number of points in each set, (*B)."""
        if self._lengths is not None:
            return self._lengths
        return torch.full(self.batch_shape, self.points.shape[-2], device=self.device)

    @property
    def mask(self) -> Tensor:
        """Which points count, (*B, n)."""
        return _mask(self.lengths, self.points.shape[-2])

    @property
    def weights(self) -> Tensor:
        """Weights that sum to one in each set and are zero in the padding, (*B, n)."""
        if self._weights is not None:
            return self._weights
        return self.mask.to(self.dtype) / self.lengths.to(self.dtype).unsqueeze(-1)

    @property
    def batch_shape(self) -> torch.Size:
        return self.points.shape[:-2]

    @property
    def shape(self) -> torch.Size:
        """(*B, n, d), padding included."""
        return self.points.shape

    @property
    def dtype(self) -> torch.dtype:
        return self.points.dtype

    @property
    def device(self) -> torch.device:
        return self.points.device

    def dim(self) -> int:
        return self.points.dim()

    def __len__(self) -> int:
        if not self.batch_shape:
            raise TypeError("a single set has no len(); its points are counted by .lengths")
        return self.batch_shape[0]

    def __getitem__(self, index: Any) -> "PointSets":
        """Sets of the batch; padding that none of them needs is dropped."""
        if not self.batch_shape:
            raise IndexError("a single set cannot be indexed; its points are in .points")
        marked = torch.arange(self.batch_shape.numel(), device=self.device).reshape(self.batch_shape)[index]

        def pick(t: Tensor) -> Tensor:
            return t.flatten(0, len(self.batch_shape) - 1)[marked]

        points = pick(self.points)
        weights = None if self._weights is None else pick(self._weights)
        lengths = None if self._lengths is None else pick(self._lengths)
        if lengths is not None and lengths.numel():
            n = int(lengths.max())
            points = points[..., :n, :]
            weights = None if weights is None else weights[..., :n]
            lengths = None if bool((lengths == n).all()) else lengths
        return PointSets._made(points, weights, lengths)

    def unpad(self) -> list[Tensor]:
        """The points of each set without padding, a list of (n_i, d); of a single set, a list of one."""
        points = self.points.reshape(self.batch_shape.numel(), *self.shape[-2:])
        return [p[:n] for p, n in zip(points, self.lengths.flatten().tolist(), strict=True)]

    # Moves.

    def to(self, *args: Any, **kwargs: Any) -> "PointSets":
        """On another device or in another floating dtype, as `Tensor.to`."""
        points = self.points.to(*args, **kwargs)
        _check_points(points, "points")
        lengths = None if self._lengths is None else self._lengths.to(points.device)
        return PointSets._made(points, None if self._weights is None else self._weights.to(points), lengths)

    def widened(self) -> "PointSets":
        """Half precision as float32; others as they are."""
        return self if self.points.itemsize >= 4 else self.to(torch.float32)

    def detach(self) -> "PointSets":
        weights = None if self._weights is None else self._weights.detach()
        return PointSets._made(self.points.detach(), weights, self._lengths)

    def map(self, function: Callable[[Tensor], Tensor]) -> "PointSets":
        """The sets of function(points), (*B, n, d) -> (*B, n, k), with the same weights.

        function treats the points one by one, and copies of a set's first point in place of padding.
        """
        points = function(self.filled())
        _check_points(points, "what function returns")
        if points.shape[:-1] != self.shape[:-1]:
            raise ShapeError(f"PointSets.map: function must keep the number of points, it gave {tuple(points.shape)}")
        points = torch.where(self.mask.unsqueeze(-1), points, 0.0) if self.ragged else points
        return PointSets._made(points, None if self._weights is None else self._weights.to(points), self._lengths)

    def filled(self) -> Tensor:
        """The points, with a set's first point for padding: zero may lie off a manifold or out of a domain."""
        points = self.points
        return torch.where(self.mask.unsqueeze(-1), points, points[..., :1, :]) if self.ragged else points

    def split(self, sizes: Sequence[int], dim: int = -1) -> "list[PointSets]":
        """The sets of some features each, as `Tensor.split` along the last dimension."""
        if dim != -1:
            raise ShapeError(f"PointSets.split: sets are split along their features, dim=-1, got dim={dim}")
        if sum(sizes) != self.shape[-1]:
            raise ShapeError(f"PointSets.split: sizes {list(sizes)} must add up to {self.shape[-1]} features")
        return [PointSets._made(p, self._weights, self._lengths) for p in self.points.split(list(sizes), dim=-1)]

    def unsqueeze(self, dim: int) -> "PointSets":
        """A new batch dimension of size one; dim counts the batch dimensions only."""
        dim = range(len(self.batch_shape) + 1)[dim]  # IndexError beyond the batch dimensions
        return PointSets._made(
            self.points.unsqueeze(dim),
            None if self._weights is None else self._weights.unsqueeze(dim),
            None if self._lengths is None else self._lengths.unsqueeze(dim),
        )

    def expand(self, *batch: int) -> "PointSets":
        """The batch dimensions broadcast to `batch`."""
        if self.batch_shape == batch:
            return self
        n, d = self.shape[-2:]
        return PointSets._made(
            self.points.expand(*batch, n, d),
            None if self._weights is None else self._weights.expand(*batch, n),
            None if self._lengths is None else self._lengths.expand(batch),
        )

    # Files.

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write to a safetensors file, without padding: `points` (N, d), `ptr` (k + 1), and `weights` (N)."""
        from safetensors.torch import save

        sets = self if self.batch_shape else self.unsqueeze(0)
        if len(sets.batch_shape) != 1:
            raise ShapeError(f"PointSets.save: one batch dimension is expected, got {tuple(sets.batch_shape)}")
        tensors = {
            "points": sets.points[sets.mask].contiguous(),
            "ptr": torch.cat([sets.lengths.new_zeros(1), sets.lengths.cumsum(0)]),
        }
        if not sets.uniform:
            tensors["weights"] = sets.weights[sets.mask].contiguous()
        with atomic_write(path, "wb") as file:
            file.write(save({name: tensor.detach().cpu() for name, tensor in tensors.items()}))

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "PointSets":
        """Read what `save` wrote; DataError names a file that is missing, damaged or holds something else."""
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        try:
            tensors = load_file(path)
            return cls.from_flat(tensors["points"], tensors["ptr"], tensors.get("weights"))
        except (OSError, SafetensorError, KeyError, DomainError, ShapeError) as error:
            raise DataError(f"{os.fspath(path)} does not hold point sets written by PointSets.save: {error}") from error

    def __repr__(self) -> str:
        kind = "uniform" if self.uniform else "weighted"
        size = f"at most {self.shape[-2]}" if self.ragged else f"{self.shape[-2]}"
        return f"PointSets({tuple(self.batch_shape)}, {size} points in R^{self.shape[-1]}, {kind}, {self.dtype})"


def _mask(lengths: Tensor, n: int) -> Tensor:
    return torch.arange(n, device=lengths.device) < lengths.unsqueeze(-1)


def _whole(t: Tensor) -> bool:
    return not (t.is_floating_point() or t.is_complex() or t.dtype == torch.bool)


def _check_points(points: Tensor, name: str) -> None:
    if points.dim() < 2 or not points.is_floating_point():
        raise ShapeError(
            f"PointSets: {name} must be floating point of shape (*B, n, d), got {points.dtype} of shape "
            f"{tuple(points.shape)}. Convert with .float(), add a dimension with unsqueeze."
        )


def _check_like(t: Tensor, points: Tensor, name: str, shape: Sequence[int]) -> None:
    if tuple(t.shape) != tuple(shape):
        raise ShapeError(f"PointSets: {name} must have shape {tuple(shape)}, got {tuple(t.shape)}")
    if t.dtype != points.dtype or t.device != points.device:
        raise ShapeError(
            f"PointSets: {name} is {t.dtype} on {t.device}, the points are {points.dtype} on {points.device}. Move it "
            f"with .to(points)."
        )


def _check_lengths(lengths: Tensor, points: Tensor) -> Tensor:
    batch, n = points.shape[:-2], points.shape[-2]
    if lengths.shape != batch or not _whole(lengths) or lengths.device != points.device:
        raise ShapeError(
            f"PointSets: lengths must be whole numbers of shape {tuple(batch)} on {points.device}, got {lengths.dtype} "
            f"{tuple(lengths.shape)} on {lengths.device}"
        )
    bad = (lengths < 1) | (lengths > n)
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        raise DomainError(
            f"PointSets: each set needs 1 to {n} points, set {where} has {int(lengths[tuple(where)])} "
            f"({int(bad.sum())} such sets). Leave empty sets out."
        )
    return lengths.long()


def _normalised(weights: Tensor) -> Tensor:
    total = weights.sum(-1, keepdim=True)
    bad = ((weights < 0) | ~weights.isfinite()).any(-1) | ~(total.squeeze(-1) > 0) | ~total.squeeze(-1).isfinite()
    if bool(bad.any()):
        where = bad.nonzero()[0].tolist()
        raise DomainError(
            f"PointSets: weights must be finite, not negative, and not all zero; those of set {where} are "
            f"{weights[tuple(where)].tolist()[:5]} ... ({int(bad.sum())} such sets)"
        )
    return weights / total
