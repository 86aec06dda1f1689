"""How well nearest items share the label of a query: MAP@R, R-precision, precision at 1, recall at k.

With R the number of items of a query's label (the query itself left out) and rank_1 < rank_2 < ... < rank_R their
places in the order of growing distance,

    MAP@R       = (1 / R) sum_{i : rank_i <= R} i / rank_i
    R-precision = #{i : rank_i <= R} / R                        >= MAP@R
    P@1         = [rank_1 = 1]                                   recall@k = [rank_1 <= k]

averaged over the queries with R > 0; the others are counted. MAP@R is the one to select models by: P@1 and recall@k
look at the nearest items only and saturate.

Ties. Items at the same distance have no order. Each figure is the mean of the best order, in which relevant items come
first, and the worst, in which they come last (not the mean over all orders). Both are closed forms of two counts, the
other items nearer than the i-th relevant one, and those nearer or as near:

    rank_i = i + #{others < d_i}  (best)           rank_i = i + #{others <= d_i}  (worst)

Only the smallest R + max(R, k) distances of a row are looked at: a count that reaches beyond them only happens at ranks
that no figure counts.

Reference: Musgrave, Belongie, Lim, "A Metric Learning Reality Check", ECCV 2020, arXiv:2003.08505.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from geoembed.blocks import BUDGET, check_items, order_blocks, reduced
from geoembed.distance import Distance, Items
from geoembed.distances.pointwise import Cosine, Euclidean
from geoembed.distances.snr import SNR
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import norm

__all__ = ["RetrievalResult", "retrieval_metrics", "retrieval_metrics_of"]


@dataclass(frozen=True)
class RetrievalResult:
    """Means over the queries that have something to find; NaN where none has.

    Attributes:
        map_at_r, r_precision, precision_at_1: in [0, 1].
        recall: {k: recall@k}.
        n_queries: all queries; n_skipped: those without another item of their label, which count for nothing.
        n_tied: queries whose figures depend on the order of items at the same distance.
        per_query: name -> (n_queries,) float64 in the order of the queries, NaN for skipped ones.
    """

    map_at_r: float
    r_precision: float
    precision_at_1: float
    recall: dict[int, float]
    n_queries: int
    n_skipped: int
    n_tied: int
    per_query: dict[str, Tensor] = field(repr=False, compare=False)

    def as_dict(self) -> dict[str, float]:
        """All figures by name, for a log or a table."""
        return {
            "map@r": self.map_at_r,
            "r-precision": self.r_precision,
            "p@1": self.precision_at_1,
            **{f"recall@{k}": value for k, value in self.recall.items()},
            "n_queries": self.n_queries,
            "n_skipped": self.n_skipped,
            "n_tied": self.n_tied,
        }

    def __str__(self) -> str:
        rows = [
            f"{name:<12} {value:>8}" if name.startswith("n_") else f"{name:<12} {value:8.4f}"
            for name, value in self.as_dict().items()
        ]
        return "\n".join([*rows, "ties: mean of the best and the worst order; the query itself is left out"])


def retrieval_metrics(
    distance: Distance,
    x: Items,
    labels: Any,
    ref: Items | None = None,
    ref_labels: Any = None,
    *,
    ids: Any = None,
    ref_ids: Any = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    budget: int = BUDGET,
) -> RetrievalResult:
    """MAP@R, R-precision, P@1 and recall@k of the queries x among the items ref, or among the other items of x.

    Args:
        distance: any distance; of an asymmetric one the queries are the first argument.
        x: (n, *E) or `PointSets`; labels: (n,) whole numbers.
        ref: (m, *E), ref_labels: (m,): the items to search, if not x itself.
        ids, ref_ids: (n,), (m,) whole numbers. A pair of equal ids is left out: the query itself where it is in ref
            too, and items that say nothing new, such as other frames of one video. Without ids an item of x is left
            out of its own results, and nothing of ref is.
        ks: which recall@k.
        budget: bytes of the blocks of the distance matrix, which is never held whole.

    Raises:
        ShapeError: items, labels or ids that do not fit together.
        DomainError: NaN or infinite items (the first bad row is named), NaN distances, k < 1.

    >>> from geoembed.distances import Euclidean
    >>> result = retrieval_metrics(Euclidean(), torch.tensor([[0.0], [1.0], [5.0], [6.5]]), [0, 0, 1, 1])
    >>> result.map_at_r, result.recall[1]
    (1.0, 1.0)
    """
    itself = ref is None
    check_items(distance, x, "x")
    if ref is None:
        if ref_labels is not None or ref_ids is not None:
            raise ShapeError("ref_labels and ref_ids describe the items of ref, but no ref was given")
        ref = x
    else:
        check_items(distance, ref, "ref")
    task = _Task(len(x), len(ref), labels, ref_labels, ids, ref_ids, ks, itself, x.device)
    problem = _same_order(distance, x[task.order], ref)
    blocks = order_blocks(*problem, skip=task.order if task.skips else None, budget=budget)
    return task.result(blocks, budget)


def retrieval_metrics_of(
    matrix: Any,
    labels: Any,
    ref_labels: Any = None,
    *,
    ids: Any = None,
    ref_ids: Any = None,
    ks: Sequence[int] = (1, 2, 4, 8),
    budget: int = BUDGET,
) -> RetrievalResult:
    """`retrieval_metrics` from a matrix of distances, queries as rows.

    matrix: (n, m); a tensor, an array (one mapped from a file is read row by row), or a SciPy sparse array, whose
    missing entries are zero: give similarities negated. Without ref_labels it is (n, n), the items to themselves, and
    the diagonal is left out. Other arguments and errors as there.
    """
    if len(getattr(matrix, "shape", ())) != 2:
        raise ShapeError(f"matrix must be a tensor or array (n, m), got shape {getattr(matrix, 'shape', None)}")
    n, m = matrix.shape
    itself = ref_labels is None
    if itself and n != m:
        raise ShapeError(f"a matrix of a set to itself is square, got ({n}, {m}). Give ref_labels for other columns.")
    device = matrix.device if isinstance(matrix, Tensor) else torch.device("cpu")
    task = _Task(n, m, labels, ref_labels, ids, ref_ids, ks, itself, device)
    rows = max(1, budget // (16 * max(1, m)))

    def blocks() -> Iterator[tuple[slice, Tensor]]:
        for start in range(0, n, rows):
            block = slice(start, min(start + rows, n))
            index = task.order[block]
            part = matrix[index if isinstance(matrix, Tensor) else index.numpy()]
            values = torch.as_tensor(part.toarray() if hasattr(part, "toarray") else part)
            values = values.to(torch.promote_types(values.dtype, torch.float32)).contiguous()
            bad = values.isnan().any(1).nonzero()
            if len(bad):
                raise DomainError(f"matrix holds NaN in row {int(index[bad[0, 0]])}")
            if task.skips:
                values.scatter_(1, index.unsqueeze(1), torch.inf)
            yield block, values

    return task.result(blocks(), budget)


class _Task:
    """Which items are relevant to which query, and which are left out."""

    def __init__(
        self,
        n: int,
        m: int,
        labels: Any,
        ref_labels: Any,
        ids: Any,
        ref_ids: Any,
        ks: Sequence[int],
        itself: bool,
        device: torch.device,
    ):
        if any(k < 1 for k in ks):
            raise DomainError(f"recall@k needs k >= 1, got ks={tuple(ks)}")
        self.ks, self.m = tuple(int(k) for k in ks), m
        labels = whole_numbers(labels, n, "labels", device)
        if not itself and ref_labels is None:
            raise ShapeError("ref_labels is missing: the labels of the items of ref, (m,)")
        ref_labels = labels if itself else whole_numbers(ref_labels, m, "ref_labels", device)
        known, columns = ref_labels.unique(return_inverse=True)
        self.members = columns.argsort(stable=True)  # the items of ref, label by label
        counts = columns.bincount(minlength=len(known) + 1)  # the last: labels that ref does not have
        place = torch.searchsorted(known, labels)
        place = torch.where(torch.isin(labels, known), place, len(known))
        self.size, self.start = counts[place], (counts.cumsum(0) - counts)[place]
        self.order = self.size.argsort()  # queries with equally many relevant items go together
        if ids is None:
            if ref_ids is not None:
                raise ShapeError("ref_ids is given without ids: both are needed to tell which pairs to leave out")
            self.ids = self.ref_ids = None
        else:
            if not itself and ref_ids is None:
                raise ShapeError("ids is given without ref_ids: both are needed to tell which pairs to leave out")
            ids = whole_numbers(ids, n, "ids", device)
            self.ids, self.ref_ids = ids, ids if itself else whole_numbers(ref_ids, m, "ref_ids", device)
        self.skips = itself and ids is None  # the blocks have an infinite distance from an item to itself

    def result(self, blocks: Iterable[tuple[slice, Tensor]], budget: int) -> RetrievalResult:
        names = ["map@r", "r-precision", "p@1", *(f"recall@{k}" for k in self.ks)]
        n = len(self.order)
        scores = torch.full((n, 2, len(names)), torch.nan, dtype=torch.float64)
        for rows, block in blocks:
            query = self.order[rows]
            width = int(self.size[query[-1]])
            if not width:
                continue
            pieces = max(1, budget // (64 * width))  # what is made for each relevant item
            for q, part in zip(query.split(pieces), block.split(pieces), strict=True):
                scores[q.cpu()] = self._score(q, part).cpu()
        mean = scores.mean(1)
        kept = ~mean[:, 0].isnan()
        values = mean[kept].mean(0).tolist()
        return RetrievalResult(
            map_at_r=values[0],
            r_precision=values[1],
            precision_at_1=values[2],
            recall=dict(zip(self.ks, values[3:], strict=True)),
            n_queries=n,
            n_skipped=n - int(kept.sum()),
            n_tied=int((scores[kept, 0] != scores[kept, 1]).any(1).sum()),
            per_query=dict(zip(names, mean.unbind(1), strict=True)),
        )

    def _score(self, query: Tensor, d: Tensor) -> Tensor:
        """Figures in the best and the worst order, (b, 2, 3 + len(ks)), NaN where R = 0. Overwrites d: (b, m)."""
        size = self.size[query]
        width = int(size.max())
        step = torch.arange(width, device=d.device)
        column = self.members[(self.start[query].unsqueeze(1) + step).clamp_(max=self.m - 1)]
        relevant = step < size.unsqueeze(1)
        present = torch.full_like(size, self.m)
        if self.ids is not None and self.ref_ids is not None:
            out = self.ids[query].unsqueeze(1) == self.ref_ids
            d.masked_fill_(out, torch.inf)
            present -= out.sum(1)
            size = size - (out.gather(1, column) & relevant).sum(1)
        elif self.skips:
            present, size = present - 1, size - 1
        near = _smallest(d.gather(1, column).masked_fill_(~relevant, torch.inf), width)  # what is left out comes last
        row = _smallest(d, min(self.m, width + max(width, *self.ks, 1)))

        i, present, size = step + 1, present.unsqueeze(1), size.unsqueeze(1)
        scores = []
        for right in (False, True):
            nearer = torch.searchsorted(row, near, right=right).minimum(present)
            own = torch.searchsorted(near, near, right=right).minimum(size)
            rank = i + nearer - own
            hit = (rank <= size) & (i <= size)
            precision = torch.where(hit, i / rank.double(), 0.0).sum(1, keepdim=True) / size
            share = hit.double().sum(1, keepdim=True) / size
            first = torch.where(size > 0, rank[:, :1], torch.nan)
            recall = [(first <= k).double() for k in (1, *self.ks)]
            scores.append(torch.cat([precision, share, *recall], 1))
        return torch.where(size.unsqueeze(2) > 0, torch.stack(scores, 1), torch.nan)


@torch.no_grad()
def _same_order(distance: Distance, x: Items, y: Items) -> tuple[Distance, Any, Any]:
    """Two sets of items and a distance that orders those of y as the given one does, for each of x; or `reduced`.

    What concerns one item only is done once, and the rows become those of one matrix product: SNR is
    |x - y|^2 / |x|^2 of centred vectors, Cosine |x - y|^2 / 2 of unit vectors.
    """
    x, y = distance._checked(x, y, distance.event_dim + 1)
    if type(distance) is SNR and len(x):
        distance(x, x)  # raises for anchors without a signal
        wide = torch.promote_types(x.dtype, torch.float32)
        u, v = (t.to(wide) - t.to(wide).mean(1, keepdim=True) for t in (x, y))
        return reduced(Euclidean(), u, v)
    if type(distance) is Cosine and bool(x.any(1).all()) and bool(y.any(1).all()):
        wide = torch.promote_types(x.dtype, torch.float32)
        u, v = (t.to(wide) / norm(t.to(wide), keepdim=True) for t in (x, y))
        return reduced(Euclidean(), u, v)
    return reduced(distance, x, y)


def _smallest(d: Tensor, k: int) -> Tensor:
    """The k smallest of each row, ascending. May reorder the rows of d: (b, m) -> (b, k)."""
    if d.device.type != "cpu":
        return d.topk(k, largest=False).values
    values = d.numpy()  # NumPy selects and sorts several times faster
    if k < d.shape[1]:
        values.partition(k - 1, axis=1)
    return torch.from_numpy(np.sort(values[:, :k], axis=1))


def whole_numbers(values: Any, n: int, name: str, device: torch.device) -> Tensor:
    """values as an int64 tensor (n,); ShapeError for anything else."""
    t = torch.as_tensor(values, device=device)
    if t.numel() == 0 and t.dim() == 1:
        t = t.long()
    if t.dim() != 1 or t.is_floating_point() or t.is_complex():
        raise ShapeError(
            f"{name} must be whole numbers of shape ({n},), got {t.dtype} of shape {tuple(t.shape)}. Number what they "
            "name with torch.unique(..., return_inverse=True)."
        )
    if len(t) != n:
        raise ShapeError(f"{name} must hold one number an item: {n} items, {len(t)} {name}")
    return t.long().contiguous()
