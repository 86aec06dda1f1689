"""Distances between vectors and between point sets; each is a `geoembed.Distance`."""

from geoembed.distances.geodesic import Geodesic
from geoembed.distances.pointwise import Cosine, Euclidean, Lp, Mahalanobis, NegativeInner

__all__ = ["DISTANCES", "Cosine", "Euclidean", "Geodesic", "Lp", "Mahalanobis", "NegativeInner"]

DISTANCES = {
    "cosine": Cosine,
    "euclidean": Euclidean,
    "geodesic": Geodesic,
    "lp": Lp,
    "mahalanobis": Mahalanobis,
    "negative-inner": NegativeInner,
}
