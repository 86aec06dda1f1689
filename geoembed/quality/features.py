"""What evaluation needs of a set of items besides their distances: vectors that stand for them, and their centres."""

from typing import Any

import torch
from torch import Tensor

from geoembed.blocks import BUDGET, distance_blocks, reduced
from geoembed.distance import Distance, Items, Norm
from geoembed.distances.pointwise import Cosine
from geoembed.errors import DomainError

__all__ = ["centres", "features", "simplified"]


def simplified(distance: Distance, x: Items) -> tuple[Distance, Any]:
    """A norm and the vectors of `embed` where the distance has one, else the distance and x, in float32 at least."""
    norm, u, _ = reduced(distance, x, x)
    if isinstance(norm, Norm):
        return norm, u
    return distance, x.detach().to(torch.promote_types(x.dtype, torch.float32))


@torch.no_grad()
def features(distance: Distance, x: Items, *, centred: bool = False) -> Tensor:
    """Vectors that stand for the items: (n, k).

    The embedding where the distance has one with p = 2; of points of a manifold the orthonormal tangent coordinates at
    the origin, in which a vector's length is the distance from it; other vectors as they are. centred: about the mean,
    of points of a manifold about their Frechet mean, which is first moved to the origin.

    Raises DomainError for sets without an embedding.
    """
    simple, u = simplified(distance, x)
    manifold: Any = getattr(simple, "manifold", None)
    if hasattr(manifold, "to_tangent"):
        if centred:
            back = manifold.from_tangent(-manifold.to_tangent(manifold.barycentre(u)))
            u = manifold.add(back.expand_as(u), u)
        return manifold.to_tangent(u)
    if not isinstance(u, Tensor) or u.dim() != 2:
        raise DomainError(
            f"{type(distance).__name__} gives no vectors for its items. Use a distance with an embedding, "
            "SlicedWasserstein for sets say."
        )
    return u - u.mean(0) if centred else u


@torch.no_grad()
def centres(distance: Distance, x: Items, classes: Tensor, n_classes: int, *, budget: int = BUDGET) -> Any:
    """The barycentre of each class, (n_classes, *E). distance, x as `simplified` gives them; classes: (n,), none empty.

    Vectors: the mean, of unit vectors under Cosine. Points of a manifold: the Frechet mean. What has no mean, such as
    point sets without an embedding: the member that is nearest to the others (medoid).
    """
    manifold: Any = getattr(distance, "manifold", None)
    if hasattr(manifold, "barycentre"):
        return torch.stack([manifold.barycentre(x[classes == c]) for c in range(n_classes)])
    if distance.event_dim == 1:
        points = torch.nn.functional.normalize(x, dim=1) if isinstance(distance, Cosine) else x
        total = points.new_zeros(n_classes, points.shape[1]).index_add_(0, classes, points)
        return total / classes.bincount(minlength=n_classes).unsqueeze(1)
    best = []
    for c in range(n_classes):
        members = (classes == c).nonzero().squeeze(1)
        total = torch.zeros(len(members), dtype=torch.float64, device=members.device)
        for _, block in distance_blocks(*reduced(distance, x[members], x[members]), budget=budget):
            total += block.double().sum(0)
        best.append(members[total.argmin()])
    return x[torch.stack(best)]
