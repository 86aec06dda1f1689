"""Riemannian SGD, Adam and Adagrad, for dense and for row-sparse gradients alike.

A parameter with a `.manifold` (a `geoopt.ManifoldParameter`) steps on that manifold, any other tensor is
Euclidean. The `step_rows` of each class is the same step without `.grad`: a table, its state, the ids of some rows
and their Euclidean gradients.
"""

from geoembed.optim.adagrad import RiemannianAdagrad
from geoembed.optim.adam import RiemannianAdam
from geoembed.optim.sgd import RiemannianSGD

__all__ = ["OPTIMIZERS", "RiemannianAdagrad", "RiemannianAdam", "RiemannianSGD"]

OPTIMIZERS = {"adagrad": RiemannianAdagrad, "adam": RiemannianAdam, "sgd": RiemannianSGD}
