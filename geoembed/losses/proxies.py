"""Losses of items against proxies, learnable points of which each class has one or a few.

With d_y the distance of an item to the proxy of its class and d_z that to another, in units of the temperature:

    ProxyNCA               d_y + log sum_{z != y} e^{-d_z}
    NormalizedSoftmax      d_y + log sum_z e^{-d_z}                               cross-entropy of -d
    ProxyAnchor            mean over proxies with items of log(1 + sum_{x of it} e^{alpha (d - beta + m)})
                           + mean over all proxies of  log(1 + sum_{x of others} e^{-alpha (d - beta - m)})
    SoftTriple             cross-entropy of -lambda (S_z + m [z = y]),  S_z = sum_k softmax_k(-d_zk / gamma) d_zk
                           + tau mean distance of the proxies of one class
    RepMet                 -log max_k e^{-d_yk^2 / 2 sigma^2} / sum_{z, k} e^{-d_zk^2 / 2 sigma^2}
                           + [min_k d_yk - min_{z != y, k} d_zk + m]_+
    CentroidTripletBound   3 d_y - mean_{z != y} d_z + m            proxies fixed

Proxies are items like any other: on the manifold of the distance where it has one, as `geoopt.ManifoldParameter`s that
the Riemannian optimizers move, and point sets where items are point sets. Items are the anchors, so under a distance
that is not symmetric the proxies are references. With `Cosine`, d = 1 - cos, a loss differs from its paper's by the
constant 1 that a softmax does not see; `ProxyAnchor` has beta = 1, cos = 0, there.

References: Movshovitz-Attias et al., ICCV 2017, arXiv:1703.07464 (ProxyNCA); Zhai, Wu, BMVC 2019, arXiv:1811.12649
(normalised softmax); Kim et al., CVPR 2020, arXiv:2003.13911 (ProxyAnchor); Qian et al., ICCV 2019, arXiv:1909.05235
(SoftTriple); Karlinsky et al., CVPR 2019, arXiv:1806.04728 (RepMet); Do et al., CVPR 2019, arXiv:1904.08720 (bound).
"""

import math
from typing import Any

import geoopt
import torch
from torch import Tensor, nn

from geoembed.distance import Distance, Items
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.losses.logsums import log1pexp, masked_logsumexp
from geoembed.losses.metric import MetricLoss
from geoembed.losses.regularisers import sparse_centres
from geoembed.losses.terms import Terms, one_a_row

__all__ = [
    "CentroidTripletBound",
    "NormalizedSoftmax",
    "ProxyAnchor",
    "ProxyLoss",
    "ProxyNCA",
    "RepMet",
    "SoftTriple",
    "place_proxies",
]


def place_proxies(
    distance: Distance,
    shape: tuple[int, ...],
    *,
    initial: Tensor | None = None,
    generator: torch.Generator | None = None,
) -> nn.Parameter:
    """Learnable items on the space of a distance. shape: (n, *E) -> a parameter of that shape, float32 if drawn.

    Drawn items are normal with norms near 1: about zero, or about the origin of the manifold. Raises DomainError for
    `initial` points off the manifold.
    """
    space: Any = distance.space
    std = shape[-1] ** -0.5
    if initial is None:
        drawn = torch.randn(shape, generator=generator) if space is None else None
        points = std * drawn if drawn is not None else space.random(*shape, std=std, generator=generator)
    else:
        if tuple(initial.shape) != tuple(shape):
            raise ShapeError(f"proxies: expected {tuple(shape)}, got {tuple(initial.shape)}")
        points = initial.detach().clone()
        if not bool(points.isfinite().all()):
            raise DomainError("proxies hold NaN or infinite values")
        if space is not None:
            ok, why = space.check_point_on_manifold(points, explain=True)
            if not ok:
                raise DomainError(
                    f"proxies must lie on {space}: {why}. Put them there with {space.name}.projx(proxies)."
                )
    return nn.Parameter(points) if space is None else geoopt.ManifoldParameter(points, manifold=space)


class ProxyLoss(MetricLoss):
    """Base of the losses of items against proxies: `loss(x, labels)` with labels from 0 to n_classes - 1.

    Args:
        n_classes, per_class: there are n_classes * per_class proxies, those of a class in a row.
        shape: of an item: its number of features, or (points, features) for a point set. On a manifold the number of
            coordinates, d + 1 for `Lorentz`.
        initial: (n_classes * per_class, *shape) the proxies to start from; by default they are drawn.
        learn: False keeps the proxies where they are.
        common: unit, reduction, miner of `MetricLoss`; a miner sees a column a proxy.

    Raises DataError for labels out of range.
    """

    proxy_labels: Tensor

    def __init__(
        self,
        distance: Distance,
        n_classes: int,
        shape: int | tuple[int, ...],
        *,
        per_class: int = 1,
        initial: Tensor | None = None,
        learn: bool = True,
        generator: torch.Generator | None = None,
        **common: Any,
    ):
        super().__init__(distance, **common)
        item = (shape,) if isinstance(shape, int) else tuple(shape)
        if n_classes < 2 or per_class < 1 or len(item) != distance.event_dim or min(item) < 1:
            raise ShapeError(
                f"{type(self).__name__}: expected n_classes >= 2, per_class >= 1 and a shape of {distance.event_dim} "
                f"number(s) for {distance}, got {n_classes}, {per_class} and {shape}"
            )
        size = (n_classes * per_class, *item)
        self.proxies = place_proxies(distance, size, initial=initial, generator=generator)
        self.proxies.requires_grad_(learn)
        self.n_classes, self.per_class = n_classes, per_class
        owners = torch.arange(n_classes).repeat_interleave(per_class)
        self.register_buffer("proxy_labels", owners, persistent=False)

    def forward(  # type: ignore[override]
        self,
        x: Items | None,
        labels: Tensor,
        *,
        dist: Tensor | None = None,
        mask: tuple[Tensor, Tensor] | None = None,
    ) -> Tensor:
        """The loss of items x: (n, *E), in the dtype of the proxies, or of their matrix dist: (n, proxies)."""
        if len(labels) and (int(labels.min()) < 0 or int(labels.max()) >= self.n_classes):
            bad = labels[(labels < 0) | (labels >= self.n_classes)][0].item()
            raise DataError(f"{type(self).__name__}: labels must lie in 0 .. {self.n_classes - 1}, got {bad}")
        if x is not None:
            x = x.to(self.proxies.dtype)
        ref = None if x is None else self.proxies
        return super().forward(x, labels, ref, self.proxy_labels, dist=dist, mask=mask)


class ProxyNCA(ProxyLoss):
    """d_y + log sum_{z != y} e^{-d_z}: the proxy of the own class near, the others far.

    Args:
        scale: factor of the distances, an inverse temperature; Movshovitz-Attias et al. have squared distances of
            unit vectors, `Power(Euclidean(), 2)`, and 3 to 10 times as much.
    """

    def __init__(self, distance: Distance, n_classes: int, shape: int | tuple[int, ...], *, scale=8.0, **common: Any):
        super().__init__(distance, n_classes, shape, **common)
        self.scale = scale

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        logits = -self.scale * D
        return one_a_row(
            masked_logsumexp(logits, negative) - masked_logsumexp(logits, positive), positive.any(1) & negative.any(1)
        )


class NormalizedSoftmax(ProxyLoss):
    """d_y + log sum_z e^{-d_z}, distances over the temperature: the cross-entropy of a classifier with logits -d.

    Args:
        temperature: in units of the distance; 0.05 with `Cosine` in the paper.
    """

    def __init__(
        self, distance: Distance, n_classes: int, shape: int | tuple[int, ...], *, temperature=0.1, **common: Any
    ):
        super().__init__(distance, n_classes, shape, **common)
        self.temperature = temperature

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        logits = -D / self.temperature
        return one_a_row(
            masked_logsumexp(logits, positive | negative) - masked_logsumexp(logits, positive), positive.any(1)
        )


class ProxyAnchor(ProxyLoss):
    """Each proxy is the anchor of all items of the batch; hard items weigh more.

    Args:
        margin: m. base: beta, the distance between near and far; None is 1 under `Cosine`, where the paper's similarity
            is zero, and otherwise 1 unit, so give `unit="auto"`. alpha: the sharpness.
    """

    def __init__(
        self,
        distance: Distance,
        n_classes: int,
        shape: int | tuple[int, ...],
        *,
        margin: float = 0.1,
        alpha: float = 32.0,
        base: float = 1.0,
        **common: Any,
    ):
        super().__init__(distance, n_classes, shape, **common)
        self.margin, self.alpha, self.base = margin, alpha, base

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> tuple[Terms, Terms]:
        pull = self.alpha * (D - self.base + self.margin)
        push = -self.alpha * (D - self.base - self.margin)
        each = [log1pexp(masked_logsumexp(logits.T, mask.T)) for logits, mask in ((pull, positive), (push, negative))]
        return one_a_row(each[0], positive.any(0)), one_a_row(each[1], torch.ones_like(negative[0]))


class SoftTriple(ProxyLoss):
    """A softmax over classes, the distance to a class being a soft minimum over its several proxies.

    Args:
        per_class: proxies of a class. scale: lambda. gamma: softness of the minimum. margin: of the own class.
        merge: tau, the weight of the distances between proxies of one class, which merges those not needed.
    """

    def __init__(
        self,
        distance: Distance,
        n_classes: int,
        shape: int | tuple[int, ...],
        *,
        per_class: int = 5,
        scale: float = 20.0,
        gamma: float = 0.1,
        margin: float = 0.01,
        merge: float = 0.2,
        **common: Any,
    ):
        super().__init__(distance, n_classes, shape, per_class=per_class, **common)
        self.scale, self.gamma, self.margin, self.merge = scale, gamma, margin, merge

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        by_class = D.unflatten(1, (self.n_classes, self.per_class))
        soft = ((-by_class / self.gamma).softmax(-1) * by_class).sum(-1)
        own = positive.unflatten(1, (self.n_classes, self.per_class)).any(-1)
        logits = -self.scale * torch.where(own, soft + self.margin, soft)
        value = logits.logsumexp(1) - torch.where(own, logits, 0.0).sum(1)
        if self.merge and self.per_class > 1:
            unit = self.unit.to(D.dtype)
            value = value + self.merge * sparse_centres(self.distance, self.proxies, self.per_class) / unit
        return one_a_row(value, own.any(1))


class RepMet(ProxyLoss):
    """A mixture of modes: each class is as near as the nearest of its modes; a hinge keeps the modes of others away.

    Args:
        per_class: modes of a class. sigma: width of a mode. margin: alpha of the hinge. All in units of the distance.
    """

    def __init__(
        self,
        distance: Distance,
        n_classes: int,
        shape: int | tuple[int, ...],
        *,
        per_class: int = 3,
        sigma: float = 0.5,
        margin: float = 1.0,
        **common: Any,
    ):
        super().__init__(distance, n_classes, shape, per_class=per_class, **common)
        self.sigma, self.margin = sigma, margin

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> tuple[Terms, Terms]:
        valid = positive.any(1) & negative.any(1)
        nearest = D.masked_fill(~positive, math.inf).amin(1).masked_fill(~valid, 0.0)
        other = D.masked_fill(~negative, math.inf).amin(1).masked_fill(~valid, 0.0)
        logits = -D.square() / (2 * self.sigma**2)
        entropy = masked_logsumexp(logits, positive | negative) + nearest.square() / (2 * self.sigma**2)
        return one_a_row(entropy, valid), one_a_row((nearest - other + self.margin).relu(), valid)

    def probabilities(self, x: Items) -> Tensor:
        """e^{-d^2 / 2 sigma^2} of the nearest mode of each class, and in the last column the rest to 1, the background.

        x: (n, *E) -> (n, n_classes + 1).
        """
        D = self.distance.pairwise(x.to(self.proxies.dtype), self.proxies) / self.unit.to(self.proxies.dtype)
        likely = (-D.square() / (2 * self.sigma**2)).exp().unflatten(1, (self.n_classes, self.per_class)).amax(-1)
        return torch.cat([likely, 1 - likely.amax(1, keepdim=True)], 1)


class CentroidTripletBound(ProxyLoss):
    """An upper bound of the mean triplet d_ap - d_an + m that costs one distance an item and class.

    By the triangle inequality d_ap <= d_ac + d_pc and d_an >= d_nc - d_ac, c the centroid of the anchor's class; summed
    over the triplets of a batch with as many items of each class, that is 3 d_y - mean_{z != y} d_z a mean item. The
    centroids are fixed, far from each other: `initial`, or random points.
    """

    needs_metric = True

    def __init__(
        self, distance: Distance, n_classes: int, shape: int | tuple[int, ...], *, margin: float = 0.2, **common: Any
    ):
        super().__init__(distance, n_classes, shape, **({"learn": False} | common))
        self.margin = margin

    def terms(self, D: Tensor, positive: Tensor, negative: Tensor) -> Terms:
        own = torch.where(positive, D, 0.0).sum(1)
        others = torch.where(negative, D, 0.0).sum(1) / negative.sum(1).clamp(min=1)
        return one_a_row(3 * own - others + self.margin, positive.any(1) & negative.any(1))
