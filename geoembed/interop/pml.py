"""A geoembed distance inside the losses and miners of pytorch-metric-learning.

    loss = pytorch_metric_learning.losses.TripletMarginLoss(distance=as_pml(Geodesic(PoincareBall())))

Its losses that ask for a distance matrix work so; those that assert a distance of their own say so themselves. Our
losses (`geoembed.losses`) need no adapter, and are those to take where proxies live on a manifold, where items are
point sets and in large batches.
"""

from typing import Any

from torch import Tensor

from geoembed.distance import Distance
from geoembed.errors import DomainError, MissingDependencyError

__all__ = ["as_pml"]


def as_pml(distance: Distance) -> Any:
    """The distance as a `pytorch_metric_learning.distances.BaseDistance`: smaller is closer, nothing is normalised.

    Items of any rank go through. Where the distance has a manifold, an item off it raises DomainError: such are the
    proxies of that library, which know of no manifold and would never learn.
    """
    try:
        from pytorch_metric_learning.distances import BaseDistance
    except ImportError as error:
        raise MissingDependencyError("as_pml needs pytorch-metric-learning: pip install 'geoembed[interop]'") from error

    class Adapter(BaseDistance):
        def __init__(self) -> None:
            super().__init__(normalize_embeddings=False)
            self.inner = distance

        def compute_mat(self, query_emb: Tensor, ref_emb: Tensor | None) -> Tensor:
            self._check(query_emb, ref_emb)
            return self.inner.pairwise(query_emb, ref_emb)

        def pairwise_distance(self, query_emb: Tensor, ref_emb: Tensor) -> Tensor:
            self._check(query_emb, ref_emb)
            return self.inner(query_emb, ref_emb)

        def check_shapes(self, query_emb: Tensor, ref_emb: Tensor) -> None:
            """Items may have any rank; the distance checks them."""

        def _check(self, *items: Tensor | None) -> None:
            space: Any = self.inner.space
            for x in items:
                if space is None or x is None:
                    continue
                ok, why = space.check_point_on_manifold(x.detach(), explain=True)
                if not ok:
                    raise DomainError(
                        f"as_pml: items are not on {space}: {why}. If they are proxies, which this library makes "
                        "without a manifold, use a loss of geoembed.losses.proxies."
                    )

    return Adapter()
