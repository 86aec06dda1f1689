"""Small encoders for metric learning: features to vectors, images to vectors, point sets to vectors or to point sets,
and a head that puts vectors into hyperbolic space.

    MLP               features (*B, d)        -> (*B, k)
    ConvNet           images (B, 28, 28)      -> (B, k)         three convolutions, about 93,000 parameters
    SetEncoder        point sets (*B, n, d)   -> (*B, k)        f(sum_i w_i g(x_i))
    PointEncoder      point sets (*B, n, d)   -> (*B, n, k)     y_i = f(g(x_i), sum_j w_j g(x_j)), for set distances
    HyperbolicHead    vectors (*B, d)         -> (*B, k)        exp_0 of the vector, its length clipped

Both set encoders see a set and not the order of its points; the weights w of a `PointSets` sum to one, so two copies
of each point count as one, and padding counts nothing. Weights are drawn from `generator` as torch's layers draw
theirs, without a step of torch's own generator.

References: Zaheer, Kottur, Ravanbakhsh, Poczos, Salakhutdinov, Smola, "Deep sets", NeurIPS 2017, arXiv:1703.06114;
Guo, Wang, Chen, Yu, "Clipped hyperbolic classifiers are super-hyperbolic classifiers", CVPR 2022, arXiv:2107.11472;
Wu, He, "Group normalization", ECCV 2018, arXiv:1803.08494.
"""

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.numerics import norm
from geoembed.pointsets import PointSets

__all__ = ["MLP", "ConvNet", "HyperbolicHead", "PointEncoder", "SetEncoder"]


class MLP(nn.Module):
    """Linear layers with ReLU between them. x: (*B, features) -> (*B, out).

    Args:
        features, out: numbers of features that come in and go out.
        hidden: widths of the hidden layers; none makes it linear.
        generator: draws the weights.
    """

    def __init__(
        self, features: int, out: int, hidden: Sequence[int] = (128,), *, generator: torch.Generator | None = None
    ):
        super().__init__()
        widths = (features, *hidden, out)
        _check_sizes("MLP", widths)
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise(widths):
            layers += [_drawn(nn.Linear(a, b, device="meta"), generator), nn.ReLU()]
        self.features, self.layers = features, nn.Sequential(*layers[:-1])

    def forward(self, x: Tensor) -> Tensor:
        _check_features("MLP", x, self.features)
        return self.layers(x)


class ConvNet(nn.Module):
    """Three 3x3 convolutions, each with group normalisation, ReLU and pooling, and a linear layer. -> (B, out).

    x: (B, 28, 28) or (B, 1, 28, 28), floating point, best from 0 to 1. Group normalisation does not mix the images of a
    batch, so training and evaluation agree, and batches may be small or of one class.

    Args:
        out: number of features.
        widths: channels of the three convolutions, multiples of 8; the default has 56,064 + 577 out parameters.
        generator: draws the weights.
    """

    def __init__(
        self, out: int = 64, widths: Sequence[int] = (32, 64, 64), *, generator: torch.Generator | None = None
    ):
        super().__init__()
        _check_sizes("ConvNet", (out, *widths))
        if len(widths) != 3 or any(width % 8 for width in widths):
            raise DomainError(f"ConvNet: widths must be three multiples of 8, got {tuple(widths)}")
        layers: list[nn.Module] = []
        for a, b in itertools.pairwise((1, *widths)):
            convolution = _drawn(nn.Conv2d(a, b, 3, padding=1, device="meta"), generator)
            layers += [convolution, nn.GroupNorm(8, b), nn.ReLU(), nn.MaxPool2d(2)]  # 28 -> 14 -> 7 -> 3
        head = _drawn(nn.Linear(9 * widths[-1], out, device="meta"), generator)
        self.layers = nn.Sequential(*layers, nn.Flatten(), head)

    def forward(self, x: Tensor) -> Tensor:
        if x.shape[1:] not in ((28, 28), (1, 28, 28)) or not x.is_floating_point():
            raise ShapeError(
                f"ConvNet: expected floating point images (B, 28, 28) or (B, 1, 28, 28), got {x.dtype} of shape "
                f"{tuple(x.shape)}. Bytes are made so with x.float() / 255."
            )
        return self.layers(x.reshape(-1, 1, 28, 28))


class SetEncoder(nn.Module):
    """DeepSets: f(sum_i w_i g(x_i)) with f and g an `MLP` of one hidden layer each. -> (*B, out).

    x: (*B, n, features) or `PointSets`.

    Args:
        features, out: numbers of features of a point and of a set.
        hidden: width of all hidden layers.
        generator: draws the weights.
    """

    def __init__(self, features: int, out: int, hidden: int = 64, *, generator: torch.Generator | None = None):
        super().__init__()
        self.point = MLP(features, hidden, (hidden,), generator=generator)
        self.set = MLP(hidden, out, (hidden,), generator=generator)

    def forward(self, x: Tensor | PointSets) -> Tensor:
        sets = PointSets.of(x)
        return self.set(_mean(self.point(sets.points), sets))


class PointEncoder(nn.Module):
    """y_i = f(g(x_i), sum_j w_j g(x_j)): a point set whose points know their set, for distances between sets.

    x: (*B, n, features) -> (*B, n, out); of `PointSets`, `PointSets` with the same weights.

    Args:
        features, out: numbers of features of a point, coming in and going out.
        hidden: width of all hidden layers.
        generator: draws the weights.
    """

    def __init__(self, features: int, out: int, hidden: int = 64, *, generator: torch.Generator | None = None):
        super().__init__()
        self.point = MLP(features, hidden, (hidden,), generator=generator)
        self.joint = MLP(2 * hidden, out, (hidden,), generator=generator)

    def forward(self, x: Tensor | PointSets) -> Tensor | PointSets:
        sets = PointSets.of(x)

        def encoded(points: Tensor) -> Tensor:
            inner = self.point(points)
            mean = _mean(inner, sets).unsqueeze(-2).expand_as(inner)
            return self.joint(torch.cat([inner, mean], dim=-1))

        out = sets.map(encoded)
        return out if isinstance(x, PointSets) else out.points


class HyperbolicHead(nn.Module):
    """exp_0(u min(1, clip / |u|)): the point in the direction of u at the distance min(|u|, clip) from the origin.

    u: (*B, d) -> (*B, k), k = manifold.point_dim(d). Without a bound features run to the boundary, where gradients
    vanish; the clipped ones are turned, and pulled back by no gradient along u. Half precision is computed in float32.

    Args:
        manifold: `PoincareBall`, `Lorentz` or `HalfSpace`.
        clip: largest distance from the origin. The default is that of the paper, whose r = 1 is taken in coordinates of
            the ball, half the distance where c = 1. `math.inf` does not clip.
    """

    def __init__(self, manifold: Hyperbolic, clip: float = 2.0):
        super().__init__()
        if not isinstance(manifold, Hyperbolic):
            raise DomainError(f"HyperbolicHead: expected PoincareBall, Lorentz or HalfSpace, got {manifold!r}")
        if not clip > 0:
            raise DomainError(f"HyperbolicHead: clip must be positive, got {clip}")
        self.manifold, self.clip = manifold, float(clip)

    def forward(self, u: Tensor) -> Tensor:
        if not u.is_floating_point() or not u.dim():
            raise ShapeError(f"HyperbolicHead: u must be floating point (*B, d), got {u.dtype} {tuple(u.shape)}")
        wide = u.to(torch.promote_types(u.dtype, torch.float32))
        if self.clip < math.inf:
            wide = wide * (self.clip / norm(wide, keepdim=True).clamp(min=self.clip))
        point = self.manifold.from_tangent(wide)
        return point if point.dtype == u.dtype else self.manifold.projx(point.to(u.dtype))

    def extra_repr(self) -> str:
        return f"clip={self.clip:g}"


def _mean(values: Tensor, sets: PointSets) -> Tensor:
    """sum_i w_i values_i of each set, (*B, n, k) -> (*B, k)."""
    return (sets.weights.unsqueeze(-2).to(values) @ values).squeeze(-2)


def _drawn(layer: nn.Linear | nn.Conv2d, generator: torch.Generator | None) -> nn.Module:
    """The layer, made without memory, with weights and biases uniform within 1 / sqrt(inputs of a unit)."""
    device = torch.get_default_device() if generator is None else generator.device
    layer.to_empty(device=device)
    bound = 1 / math.sqrt(layer.weight[0].numel())
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter.uniform_(-bound, bound, generator=generator)
    return layer


def _check_sizes(name: str, sizes: Sequence[int]) -> None:
    if min(sizes) < 1:
        raise DomainError(f"{name}: all widths must be at least 1, got {tuple(sizes)}")


def _check_features(name: str, x: Tensor, features: int) -> None:
    if not x.is_floating_point() or not x.dim() or x.shape[-1] != features:
        raise ShapeError(
            f"{name}: expected floating point (*B, {features}), got {x.dtype} of shape {tuple(x.shape)}. Convert with "
            f".float(), flatten images with .flatten(1)."
        )
