"""Distances of NumPy arrays, for libraries that take matrices, functions or vectors.

    cdist(distance, X, Y)          a matrix, shaped as SciPy's; for `metric="precomputed"` of scikit-learn
    metric_function(distance)      f(u, v) -> float for `metric=f`; slow, a pair at a time
    index_vectors(distance, X)     float32 vectors whose Euclidean distance is the distance, for faiss, usearch, Annoy

Any distance goes through `cdist`, also one between point sets and one that is not symmetric: rows are X.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from geoembed.distance import Distance, pairwise_blocks
from geoembed.errors import DomainError
from geoembed.pointsets import PointSets

__all__ = ["cdist", "index_vectors", "metric_function"]


@torch.no_grad()
def cdist(distance: Distance, X: Any, Y: Any = None) -> NDArray:
    """Matrix of distances. X: (n, *E), Y: (m, *E) or None for X, arrays or `PointSets` -> (n, m), the dtype of X.

    Integers are taken as float64. The work goes in blocks of rows, so that besides the result little memory is used.
    """
    x = _items(X)
    y = x if Y is None else _items(Y)
    out = np.empty((len(x), len(y)), dtype=np.float32 if x.dtype == torch.float32 else np.float64)
    for rows, block in pairwise_blocks(distance, x, y):
        out[rows] = block.numpy()
    return out


def metric_function(distance: Distance) -> Callable[[ArrayLike, ArrayLike], float]:
    """f(u, v) -> float of two vectors.

    Raises DomainError for a distance that is not symmetric: scikit-learn computes half of a matrix with such a function
    and mirrors it (its issue 13403); pass `cdist` with `metric="precomputed"`.
    """
    if not distance.symmetric:
        raise DomainError(
            f"metric_function: {distance} is not symmetric, and callers assume that it is. Pass cdist(distance, X, Y) "
            'with metric="precomputed".'
        )

    @torch.no_grad()
    def metric(u: ArrayLike, v: ArrayLike) -> float:
        return float(distance(_items(u), _items(v)))

    return metric


@torch.no_grad()
def index_vectors(distance: Distance, X: Any) -> NDArray[np.float32]:
    """Vectors whose Euclidean distance is `distance`: (n, k), float32, C order. X: (n, *E), an array or `PointSets`.

    Raises DomainError where the distance has no such vectors. faiss answers with squared distances.
    """
    if distance.embed_p != 2:
        raise DomainError(
            f"index_vectors: {distance} is no Euclidean distance of vectors (embed_p is {distance.embed_p}); search it "
            "with geoembed.retrieval.Neighbors"
        )
    return np.ascontiguousarray(distance.embed(_items(X)).numpy(), dtype=np.float32)


def _items(X: Any) -> Any:
    if isinstance(X, PointSets):
        return X
    x = torch.as_tensor(np.asarray(X))
    return x if x.is_floating_point() else x.double()
