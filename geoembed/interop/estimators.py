"""Metric learning as scikit-learn estimators: a linear metric, and one along polynomial curves.

    MahalanobisMetric     |A (x - y)|
    CurvilinearMetric     the same along curves instead of the rows of A; degree 1 is MahalanobisMetric

    make_pipeline(StandardScaler(), CurvilinearMetric(degree=3), KNeighborsClassifier(5)).fit(X, y)

`transform` gives vectors whose Euclidean distance is the learned metric, so every estimator and vector index works with
it. Method names are those of metric-learn. Features are not brought to one scale: put a `StandardScaler` in front.

References: Goldberger et al., NeurIPS 2004 (NCA); Davis et al., ICML 2007 (bounds on pairs); Chen, Luo, Yang, Gong, Li
and Huang, Curvilinear Distance Metric Learning, NeurIPS 2019; de Vazelhes, Carey, Tang, Vauquier and Bellet,
metric-learn, JMLR 2020 (arXiv 1908.04710).
"""

from typing import Any

from geoembed.errors import DomainError
from geoembed.interop.base import Array, MetricEstimator, check_is_fitted

__all__ = ["CurvilinearMetric", "MahalanobisMetric"]


class MahalanobisMetric(MetricEstimator):
    """|A (x - y)| with A: (n_components, d), fitted to class labels or to pairs.

    Args:
        n_components: rows of A; None = as many as features. Fewer give a low-rank metric.
        loss: "nca" or "contrastive" (`geoembed.interop.objectives`).
        bounds: (u, v) of the contrastive loss, on squared distances of data of unit root mean square; None = quantiles.
        max_iter: iterations of L-BFGS at most; a ConvergenceWarning tells where they did not suffice.
        tol: largest entry of the gradient that counts as zero.
        random_state: draws the points whose distances give the bounds.

    Attributes:
        components_: A, (n_components, d). mean_: (d,), what `transform` subtracts first.
        objectives_: value reached. n_iter_: iterations. n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        n_components: int | None = None,
        loss: str = "nca",
        *,
        bounds: tuple[float, float] | None = None,
        max_iter: int = 100,
        tol: float = 1e-5,
        random_state: Any = None,
    ):
        self.n_components = n_components
        self.loss = loss
        self.bounds = bounds
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def get_mahalanobis_matrix(self) -> Array:
        """M = A^T A of the squared metric (x - y)^T M (x - y). -> (d, d)."""
        check_is_fitted(self, "components_")
        return self.components_.T @ self.components_

    def _plan(self) -> tuple[int | None, list[int]]:
        return self.n_components, [1]

    def _learned(self) -> None:
        self.components_ = self._metric.distance.coefficients.detach().squeeze(2).numpy() / self.scale_


class CurvilinearMetric(MetricEstimator):
    """The curvilinear distance, fitted to class labels or to pairs: a Mahalanobis metric whose axes may bend.

    Args:
        n_curves: None = as many as features.
        degree: of the polynomial curves; 1 is `MahalanobisMetric`.
        loss: "nca" or "contrastive" (`geoembed.interop.objectives`).
        alpha: weight of the penalty on bending (`geoembed.interop.base`).
        init: "linear" fits a linear metric first and then frees one degree after the other; "pca" frees all degrees at
            once from the principal directions, which is faster and may end in a worse minimum.
        bounds: (u, v) of the contrastive loss, on squared distances of data of unit root mean square; None = quantiles.
        max_iter: iterations of L-BFGS at most, for each degree; a ConvergenceWarning tells where they did not suffice.
        tol: largest entry of the gradient that counts as zero.
        random_state: draws the points whose distances give the bounds.

    Attributes:
        curves_: coefficients a, (n_curves, d, degree), of curves in the coordinates (x - mean_) / scale_.
        mean_: (d,). scale_: a number. objectives_: value reached by each degree, never rising. n_iter_: iterations of
        all. n_features_in_, feature_names_in_: as in scikit-learn.
    """

    def __init__(
        self,
        n_curves: int | None = None,
        degree: int = 3,
        loss: str = "nca",
        *,
        alpha: float = 0.01,
        init: str = "linear",
        bounds: tuple[float, float] | None = None,
        max_iter: int = 100,
        tol: float = 1e-5,
        random_state: Any = None,
    ):
        self.n_curves = n_curves
        self.degree = degree
        self.loss = loss
        self.alpha = alpha
        self.init = init
        self.bounds = bounds
        self.max_iter = max_iter
        self.tol = tol
        self.random_state = random_state

    def _plan(self) -> tuple[int | None, list[int]]:
        if self.degree < 1 or self.init not in ("linear", "pca"):
            raise DomainError(
                f'degree must be at least 1 and init "linear" or "pca", got {self.degree} and {self.init!r}'
            )
        return self.n_curves, list(range(1, self.degree + 1)) if self.init == "linear" else [self.degree]

    def _learned(self) -> None:
        self.curves_ = self._metric.distance.coefficients.detach().numpy()
