"""Generalized sliced Wasserstein distances: slices along level sets of nonlinear functions.

    GSW_p(mu, nu)^p = E_theta W_p^p(g_theta # mu, g_theta # nu),   g_theta(x) = g(x, theta)

    linear        g = <x, theta>, which is SW; see `Linear`
    circular      g = |x - r theta|, theta on the unit sphere, r > 0
    polynomial    g = sum_{|alpha| = m} theta_alpha x^alpha, m odd, theta on a unit sphere; see `Polynomial`
    network       g = a leaky-ReLU perceptron with random weights

For any g, GSW_p is a pseudo-metric: symmetric, with the triangle inequality, zero for equal sets. It is a metric if the
generalized Radon transform of g is injective, which is known of the first three and of no network; it then holds of the
mean over all theta, while a mean over finitely many can be zero for sets that differ.

Your own slices: a subclass of `Slices` with `project`, or, for the maximum over theta too, one of `DefiningFunction`
with `evaluate`.

Reference: Kolouri, Nadjahi, Simsekli, Badeau and Rohde, Generalized Sliced Wasserstein Distances, NeurIPS 2019
(arXiv 1902.00434).
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, normalize

from geoembed.distances.directions import Directions, best, iid
from geoembed.distances.slicing import Sliced, Slices
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import safe_sqrt, sqdist
from geoembed.pointsets import PointSets

__all__ = [
    "Circular",
    "DefiningFunction",
    "GeneralizedSlicedWasserstein",
    "Network",
    "inhabited",
    "signed",
]


def signed(count: int, dim: int, generator: torch.Generator | None = None) -> Tensor:
    """The `best` directions, every other one reversed: over the whole sphere, for slices that tell theta from -theta.

    (count, dim), float64; unbiased, as the directions they are made of.
    """
    theta = best(count, dim, generator)
    first = torch.randint(2, (), generator=generator)
    theta[first::2] *= -1
    return theta


class DefiningFunction(Slices):
    """Slices g(x, theta_1), ..., g(x, theta_count) of one function g; a subclass gives `evaluate`.

    Args:
        dim: d, number of features of the points.
        parameters: length of theta.
        count: number of slices.
        directions: how the theta are drawn on the unit sphere, a function of `geoembed.distances.directions`; or the
            (count, parameters) theta themselves.
    """

    theta: Tensor

    def __init__(
        self,
        dim: int,
        parameters: int,
        count: int = 50,
        directions: Directions | Tensor = iid,
        generator: torch.Generator | None = None,
    ):
        super().__init__()
        self.dim = dim
        self._draw = None if isinstance(directions, Tensor) else directions
        theta = directions if isinstance(directions, Tensor) else directions(count, parameters, generator)
        if theta.dim() != 2 or theta.shape[1] != parameters or not theta.is_floating_point() or not len(theta):
            raise ShapeError(
                f"{type(self).__name__}: theta must be floating point of shape (count, {parameters}), got "
                f"{theta.dtype} {tuple(theta.shape)}"
            )
        self.count = len(theta)
        self.register_buffer("theta", theta)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        """g(x, theta). theta: (*B, k, parameters), points: (*B, n, d), broadcasting -> (*B, k, n)."""
        raise NotImplementedError

    def project(self, points: Tensor, block: slice) -> Tensor:
        return self.evaluate(self.theta[block].to(points), self._checked(points))

    def resample(self, generator: torch.Generator | None = None) -> None:
        if self._draw is None:
            raise DomainError(f"{type(self).__name__}: theta was given; there is nothing to draw")
        self.theta = self._draw(self.count, self.theta.shape[1], generator).to(self.theta)

    def _checked(self, points: Tensor) -> Tensor:
        if points.shape[-1] != self.dim:
            raise ShapeError(
                f"{type(self).__name__}: these slices take points of {self.dim} coordinates, got {points.shape[-1]}"
            )
        return points

    def extra_repr(self) -> str:
        return f"dim={self.dim}, count={self.count}"


class Circular(DefiningFunction):
    """g(x, theta) = |x - r theta|: the slices are spheres about points at distance r from the origin.

    Args:
        radius: r > 0. Spheres about far points are nearly planes; with a radius about that of the data they bend.
    """

    def __init__(
        self,
        dim: int,
        count: int = 50,
        radius: float = 1.0,
        directions: Directions | Tensor = signed,
        generator: torch.Generator | None = None,
    ):
        if not 0 < radius < math.inf:
            raise DomainError(f"Circular: radius must be positive and finite, got {radius}")
        super().__init__(dim, dim, count, directions, generator)
        self.radius = float(radius)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        return safe_sqrt(sqdist(self.radius * normalize(theta, dim=-1), points))

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, radius={self.radius:g}"


class Network(DefiningFunction):
    """g(x, theta) = a perceptron with leaky-ReLU layers: random features of the points, a random direction of these.

    The slices share the hidden layers; theta holds the weights and biases of all layers. Weights are drawn as Xavier's,
    biases are zero. g depends on each layer's weights and biases only up to their scale, which is held at Xavier's
    expected norm, so the maximum over theta is finite. Whether sets at distance zero are equal is not known.

    Args:
        hidden: width of each hidden layer.
        slope: of the leaky ReLU, on the negative side.
    """

    def __init__(
        self,
        dim: int,
        count: int = 50,
        hidden: Sequence[int] = (32, 32),
        slope: float = 0.01,
        generator: torch.Generator | None = None,
    ):
        if not hidden or min(hidden) < 1:
            raise DomainError(f"Network: at least one hidden layer of at least one unit is needed, got {hidden}")
        self.hidden, self.slope = tuple(hidden), float(slope)
        self.layers = list(itertools.pairwise((dim, *hidden, 1)))  # (inputs, outputs)
        parameters = sum(inputs * outputs + outputs for inputs, outputs in self.layers)
        super().__init__(dim, parameters, count, self._weights, generator)

    def _weights(self, count: int, parameters: int, generator: torch.Generator | None) -> Tensor:
        """Equal hidden layers, an output layer for each slice; biases zero. (count, parameters), float64."""
        parts = []
        for (inputs, outputs), rows in zip(self.layers, [*(1 for _ in self.hidden), count], strict=True):
            drawn = torch.randn(rows, inputs * outputs, generator=generator, dtype=torch.float64)
            parts += [normalize(drawn, dim=-1), drawn.new_zeros(rows, outputs)]
        return torch.cat([part.expand(count, -1) for part in parts], dim=-1)

    def evaluate(self, theta: Tensor, points: Tensor) -> Tensor:
        *hidden, head = self._split(theta)
        return self._layer(self._features(hidden, points.unsqueeze(-3)), *head).squeeze(-1)

    def project(self, points: Tensor, block: slice) -> Tensor:
        *hidden, _ = self._split(self.theta[:1].to(points))
        *_, (weight, bias) = self._split(self.theta[block].to(points))
        features = self._features(hidden, self._checked(points).unsqueeze(-3)).squeeze(-3)
        return weight.squeeze(-2) @ features.mT + bias

    def _features(self, hidden: list[tuple[Tensor, Tensor]], points: Tensor) -> Tensor:
        for layer in hidden:
            points = leaky_relu(self._layer(points, *layer), self.slope)
        return points

    @staticmethod
    def _layer(points: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return points @ weight.mT + bias.unsqueeze(-2)

    def _split(self, theta: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Weights (*B, k, outputs, inputs) and biases (*B, k, outputs) of each layer, rescaled."""
        layers = []
        parts = theta.split([inputs * outputs + outputs for inputs, outputs in self.layers], dim=-1)
        for (inputs, outputs), part in zip(self.layers, parts, strict=True):
            xavier = math.sqrt(2 * inputs * outputs / (inputs + outputs))
            weight, bias = (xavier * normalize(part, dim=-1)).split([inputs * outputs, outputs], dim=-1)
            layers.append((weight.unflatten(-1, (outputs, inputs)), bias))
        return layers

    def extra_repr(self) -> str:
        return f"{super().extra_repr()}, hidden={self.hidden}"


class GeneralizedSlicedWasserstein(Sliced):
    """GSW_p along the given slices; with `Linear` slices SW_p.

    x, y: (*B, n, d) and (*B, m, d), or `PointSets` -> (*B).

    Args:
        slices: `Circular`, `Polynomial`, `Network`, `Linear`, or your own.
        p: order, at least 1.
    """

    def _prepared(self, x: PointSets, y: PointSets) -> tuple[PointSets, PointSets]:
        x, y = super()._prepared(x, y)
        return inhabited(x), inhabited(y)


def inhabited(x: PointSets) -> PointSets:
    """The sets with copies of their first point as padding, where a function may be undefined at zero."""
    if not x.ragged:
        return x
    return PointSets._made(x.filled(), x.weights, x.lengths)
