"""Riemannian SGD and Adam, for dense and for row-sparse gradients alike.

A parameter with a `.manifold` (a `geoopt.ManifoldParameter`) steps on that manifold, any other tensor is
Euclidean. `RiemannianSGD.step_rows` and `RiemannianAdam.step_rows` are the same steps without `.grad`: a table,
its state, the ids of some rows and their Euclidean gradients.
"""

from geoembed.optim.adam import RiemannianAdam
from geoembed.optim.sgd import RiemannianSGD

__all__ = ["OPTIMIZERS", "RiemannianAdam", "RiemannianSGD"]

OPTIMIZERS = {"adam": RiemannianAdam, "sgd": RiemannianSGD}
