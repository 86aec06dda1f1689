"""Softmax-like and ranking losses against pytorch-metric-learning 2.9: CPU time and peak memory, as in `loss_speed`.

Each loss of theirs has its default distance: cosines, or squared distances of unit vectors, which for NCA and FastAP
are `Cosine` as well, twice. Their NT-Xent at 1024 items would need more than 10 GiB; their SupCon stands in for it.

    python tests/benchmarks/contrast_speed.py
    python tests/benchmarks/contrast_speed.py --only NCA Circle --rounds 15
"""

import loss_speed
from loss_speed import Case
from pytorch_metric_learning import losses
from torch.nn.functional import normalize

from geoembed.distances import Cosine, NegativeInner
from geoembed.losses.contrast import NCA, InstanceSpreading, MultiSimilarity, NTXent, SupCon
from geoembed.losses.manifold_similarity import ManifoldSimilarity
from geoembed.losses.ranks import Circle, FastAP, PrecisionAtK


def inner_products() -> loss_speed.Step:
    """NCA of unit vectors without the distance that keeps the digits of close pairs: constants cancel in its shares."""
    loss = NCA(NegativeInner(), temperature=0.5)
    return lambda x, labels: loss(normalize(x), labels)


CASES = {
    "NT-Xent": Case(256, lambda: NTXent(Cosine()), losses.NTXentLoss, 100, 1 / 20, repeats=20),
    "NT-Xent, their SupCon": Case(1024, lambda: NTXent(Cosine()), losses.SupConLoss, same=False),
    "SupCon": Case(1024, lambda: SupCon(Cosine()), losses.SupConLoss, 1 / 1.1),
    "NCA": Case(1024, lambda: NCA(Cosine(), temperature=0.5), losses.NCALoss, 1 / 1.1),
    "NCA, inner products of unit vectors": Case(1024, inner_products, losses.NCALoss, 1 / 1.1),
    "multi-similarity": Case(1024, lambda: MultiSimilarity(Cosine()), losses.MultiSimilarityLoss, 1 / 1.1),
    "circle": Case(1024, lambda: Circle(Cosine()), losses.CircleLoss, 1 / 1.1),
    "FastAP": Case(1024, lambda: FastAP(Cosine()), losses.FastAPLoss, 3, 0.6),
    "precision at k, their FastAP": Case(1024, lambda: PrecisionAtK(Cosine()), losses.FastAPLoss, same=False),
    "instance spreading, their SupCon": Case(1024, lambda: InstanceSpreading(Cosine()), losses.SupConLoss, same=False),
    "manifold similarity, their SupCon": Case(
        1024, lambda: ManifoldSimilarity(Cosine()), losses.SupConLoss, same=False
    ),
}

if __name__ == "__main__":
    # Its command line, on the cases above; it starts the file anew to measure memory.
    loss_speed.CASES, loss_speed.__doc__, loss_speed.__file__ = CASES, __doc__, __file__
    loss_speed.main()
