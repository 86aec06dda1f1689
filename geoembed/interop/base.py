"""What the metric estimators share: curves fitted by full-batch L-BFGS, degree by degree, and metric-learn's methods.

A metric is m polynomial curves of degree c (`geoembed.distances.curvilinear`); degree 1 is a Mahalanobis metric. Data
are centred and divided by one scalar, their root mean square, so neither the place nor the unit of X matters. The
parameters are the linear coefficients u_i and the shapes w_ik of a_ik = w_ik |u_i|^k, k >= 2: stretching a curve keeps
its shape. To the loss comes alpha / m sum_ik |w_ik|^2, which draws curves towards straight lines.

The linear metric is fitted first and each degree starts where the one below ended, so the objective can only fall.
"""

import warnings
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import minimize
from torch import Tensor

from geoembed.distances.curvilinear import Curvilinear
from geoembed.distances.polynomial_curves import curve_features
from geoembed.errors import ConvergenceWarning, DataError, DomainError, MissingDependencyError, ShapeError
from geoembed.interop.objectives import NCA, Contrastive, ContrastivePairs, Objective, bounds_of
from geoembed.numerics import norm

try:
    from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
    from sklearn.utils import check_random_state
    from sklearn.utils.multiclass import check_classification_targets
    from sklearn.utils.validation import check_array, check_is_fitted, validate_data
except ImportError:
    raise MissingDependencyError('the estimators need scikit-learn >= 1.6; pip install "geoembed[interop]"') from None

__all__ = ["Metric", "MetricEstimator"]

Array = NDArray[Any]
SAMPLE = 1000  # points whose distances give the bounds


class Metric:
    """A learned metric as a function of two vectors; it does not change when the estimator is fitted again."""

    def __init__(self, distance: Curvilinear, mean: Array, scale: float):
        self.distance, self.mean, self.scale = distance, mean, scale

    def features(self, X: ArrayLike) -> Array:
        """Vectors whose Euclidean distance is the metric. X: (*B, d) -> (*B, m)."""
        with torch.no_grad():
            return self.distance.embed(torch.from_numpy((np.asarray(X, np.float64) - self.mean) / self.scale)).numpy()

    def __call__(self, u: ArrayLike, v: ArrayLike) -> float:
        return float(np.linalg.norm(self.features(u) - self.features(v)))


class MetricEstimator(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Base. A subclass gives `_plan`, and `_learned` to name what it learned."""

    loss: str
    bounds: tuple[float, float] | None
    alpha: float = 0.0
    max_iter: int
    tol: float
    random_state: Any

    def _plan(self) -> tuple[int | None, list[int]]:
        """How many curves, and the degrees fitted one after the other."""
        raise NotImplementedError

    def _learned(self) -> None:
        """Set the attributes of the subclass from `self._metric`."""
        raise NotImplementedError

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.target_tags.required = True
        return tags

    def fit(self, X: ArrayLike, y: ArrayLike) -> "MetricEstimator":
        """Fit to labelled points. X: (n, d), y: (n,) class labels."""
        points, y = validate_data(self, X, y, dtype=np.float64, ensure_min_samples=2)
        check_classification_targets(y)
        classes, inverse = np.unique(y, return_inverse=True)
        if len(classes) < 2:
            raise DataError(f"{type(self).__name__} needs at least two classes in y, got one class: {classes[0]!r}")
        if self.loss not in ("nca", "contrastive"):
            raise DomainError(f'loss must be "nca" or "contrastive", got {self.loss!r}')
        (Z, mean, scale), labels = _standardised(points), torch.from_numpy(inverse)
        objective: Objective = NCA(labels)
        if self.loss == "contrastive":
            chosen = torch.from_numpy(check_random_state(self.random_state).permutation(len(Z))[:SAMPLE])
            objective = Contrastive(labels, bounds_of(torch.pdist(Z[chosen]).square(), self.bounds))
        return self._fit(Z, mean, scale, objective)

    def fit_pairs(self, pairs: ArrayLike, y: ArrayLike) -> "MetricEstimator":
        """Fit to pairs of points with the contrastive loss, whatever `loss` is: NCA needs labels of points.

        pairs: (n, 2, d), y: (n,), 1 for a pair that belongs together and -1 for one that does not.
        """
        pairs = _pairs(pairs)
        flat = np.concatenate([pairs[:, 0], pairs[:, 1]])
        flat = validate_data(self, flat, dtype=np.float64)
        y = np.asarray(y)
        if y.shape != (len(pairs),) or not np.isin(y, (-1, 1)).all() or len(np.unique(y)) < 2:
            raise DataError(
                f"fit_pairs: y must hold 1 (together) or -1 (apart) for each of the {len(pairs)} pairs, both of them "
                f"at least once; got shape {y.shape} with values {np.unique(y)[:5].tolist()}"
            )
        Z, mean, scale = _standardised(flat)
        squares = (Z[: len(y)] - Z[len(y) :]).square().sum(1)
        objective = ContrastivePairs(torch.from_numpy(y > 0), bounds_of(squares, self.bounds))
        return self._fit(Z, mean, scale, objective)

    def transform(self, X: ArrayLike) -> Array:
        """Vectors whose Euclidean distance is the learned metric. X: (n, d) -> (n, m)."""
        check_is_fitted(self)
        return self._metric.features(validate_data(self, X, dtype=np.float64, reset=False))

    def pair_distance(self, pairs: ArrayLike) -> Array:
        """Distance of the two points of each pair. pairs: (n, 2, d) -> (n,)."""
        check_is_fitted(self)
        pairs = _pairs(pairs)
        first, second = self.transform(pairs[:, 0]), self.transform(pairs[:, 1])
        return np.linalg.norm(first - second, axis=1)

    def pair_score(self, pairs: ArrayLike) -> Array:
        """Similarity of the two points of each pair, minus their distance. pairs: (n, 2, d) -> (n,)."""
        return -self.pair_distance(pairs)

    def get_metric(self) -> Metric:
        """The metric as a function of two vectors (d,), for scikit-learn's `metric=` and scipy."""
        check_is_fitted(self)
        return self._metric

    @property
    def _n_features_out(self) -> int:
        return len(self._metric.distance.coefficients)

    def _fit(self, Z: Tensor, mean: Array, scale: float, objective: Objective) -> "MetricEstimator":
        d, (count, degrees) = Z.shape[1], self._plan()
        count = d if count is None else count
        if not 1 <= count <= d:
            raise DomainError(
                f"{type(self).__name__}: between 1 and {d}, the features of X, can be learned, got {count}. "
                f"None learns as many as possible."
            )
        if not self.alpha >= 0 or not self.max_iter >= 1:
            raise DomainError(f"alpha must not be negative and max_iter at least 1, got {self.alpha}, {self.max_iter}")
        u, w = _principal(Z)[:count], Z.new_zeros(count, d, 0)
        self.objectives_: list[float] = []
        self.n_iter_ = 0
        for degree in degrees:
            w = torch.cat([w, Z.new_zeros(count, d, degree - 1 - w.shape[2])], 2)
            u, w = self._stage(Z, objective, u, w)
        self.mean_, self.scale_ = mean, scale
        self._metric = Metric(Curvilinear(_coefficients(u, w)), mean, scale)
        self._learned()
        return self

    def _stage(self, Z: Tensor, objective: Objective, u: Tensor, w: Tensor) -> tuple[Tensor, Tensor]:
        """Minimise over the linear coefficients u: (m, d) and the shapes w: (m, d, c - 1) from those given."""

        def split(vector: Tensor) -> tuple[Tensor, Tensor]:
            return vector[: u.numel()].reshape(u.shape), vector[u.numel() :].reshape(w.shape)

        def value_and_gradient(flat: Array) -> tuple[float, Array]:
            vector = torch.from_numpy(flat).requires_grad_()
            linear, shapes = split(vector)
            features = curve_features(_coefficients(linear, shapes), Z)
            loss, slope = objective(features)
            penalty = self.alpha / len(u) * shapes.square().sum()
            (gradient,) = torch.autograd.grad((features, penalty), vector, (slope, torch.ones_like(penalty)))
            return loss + penalty.item(), gradient.numpy()

        start = torch.cat([u.flatten(), w.flatten()]).numpy()
        options = {"maxiter": self.max_iter, "gtol": self.tol, "ftol": 1e-9}
        found = minimize(value_and_gradient, start, jac=True, method="L-BFGS-B", options=options)
        if found.nit >= self.max_iter:
            warnings.warn(
                f"{type(self).__name__}: degree {w.shape[2] + 1} stopped after max_iter = {self.max_iter} iterations; "
                f"more may improve the metric, a larger tol accepts this one",
                ConvergenceWarning,
                stacklevel=4,
            )
        self.n_iter_ += found.nit
        self.objectives_.append(found.fun)
        return split(torch.from_numpy(found.x))


def _standardised(X: Array) -> tuple[Tensor, Array, float]:
    """(X - mean) / scale, mean, scale."""
    mean = X.mean(0)
    scale = float(np.sqrt(np.square(X - mean).mean())) or 1.0
    return torch.from_numpy((X - mean) / scale), mean, scale


def _coefficients(u: Tensor, w: Tensor) -> Tensor:
    """a_i1 = u_i, a_ik = w_ik |u_i|^k. u: (m, d), w: (m, d, c - 1) -> (m, d, c)."""
    k = torch.arange(2, w.shape[2] + 2, dtype=u.dtype)
    return torch.cat([u.unsqueeze(2), w * norm(u)[:, None, None] ** k], 2)


def _principal(Z: Tensor) -> Tensor:
    """Principal directions, by falling variance, (d, d); the largest entry of each is positive."""
    _, vectors = torch.linalg.eigh(Z.mT @ Z)
    rows = vectors.mT.flip(0)
    return rows * rows.gather(1, rows.abs().argmax(1, keepdim=True)).sign()


def _pairs(pairs: ArrayLike) -> Array:
    found = check_array(pairs, dtype=np.float64, allow_nd=True)
    if found.ndim != 3 or found.shape[1] != 2:
        raise ShapeError(f"pairs must be an array of shape (n, 2, features), got {found.shape}")
    return found
