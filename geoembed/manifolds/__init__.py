"""Where points live: flat space, models of hyperbolic space of curvature -c, and products of them."""

from geoembed.manifolds.convert import convert
from geoembed.manifolds.euclidean import Euclidean
from geoembed.manifolds.halfspace import HalfSpace
from geoembed.manifolds.htiling import HTiling
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.manifolds.lorentz import Lorentz
from geoembed.manifolds.ltiling import LTiling
from geoembed.manifolds.poincare import PoincareBall
from geoembed.manifolds.product import Product

__all__ = [
    "HYPERBOLIC",
    "MANIFOLDS",
    "Euclidean",
    "HTiling",
    "HalfSpace",
    "Hyperbolic",
    "LTiling",
    "Lorentz",
    "PoincareBall",
    "Product",
    "convert",
]

HYPERBOLIC = {"halfspace": HalfSpace, "lorentz": Lorentz, "poincare": PoincareBall}
MANIFOLDS = {"euclidean": Euclidean, **HYPERBOLIC}
