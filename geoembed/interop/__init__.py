"""Ways in and out: SciPy, scikit-learn, vector indices, pytorch-metric-learning.

The estimators need scikit-learn and `as_pml` pytorch-metric-learning: pip install "geoembed[interop]".
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from geoembed.interop.arrays import cdist, index_vectors, metric_function
from geoembed.interop.pml import as_pml

if TYPE_CHECKING:
    from geoembed.interop.estimators import CurvilinearMetric, MahalanobisMetric

__all__ = ["CurvilinearMetric", "MahalanobisMetric", "as_pml", "cdist", "index_vectors", "metric_function"]


def __getattr__(name: str) -> Any:
    if name in ("CurvilinearMetric", "MahalanobisMetric"):  # scikit-learn is imported when it is needed
        return getattr(import_module("geoembed.interop.estimators"), name)
    raise AttributeError(f"module 'geoembed.interop' has no attribute {name!r}")
