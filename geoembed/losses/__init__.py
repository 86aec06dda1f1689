"""Losses: functions of distances or scores, never of what was compared.

Those of `LOSSES` are over labelled items and any `Distance` (`losses.metric`), the proxy losses among them with points
of their own; `LINK_LOSSES` are of the scores of graphs.
"""

from geoembed.losses.affinity import Affinity, ExpNeg, Heat, OneMinus, affinity_for
from geoembed.losses.augment import HardnessInterpolation
from geoembed.losses.contrast import NCA, InstanceSpreading, MultiSimilarity, NTXent, SupCon
from geoembed.losses.dependency import (
    cpc,
    gradient_penalty,
    one_sided_gradient_penalty,
    pair_scores,
    spectral_normalised,
    wasserstein_dependency,
    wasserstein_dual,
    wpc,
)
from geoembed.losses.hierarchy import cones, ranking
from geoembed.losses.lifted import GeneralisedLifted, Lifted
from geoembed.losses.links import (
    LINK_LOSSES,
    bce,
    bce_k_vs_all,
    margin,
    self_adversarial,
    softmax,
    softmax_k_vs_all,
)
from geoembed.losses.manifold_similarity import ManifoldSimilarity
from geoembed.losses.memory import CrossBatchMemory
from geoembed.losses.metric import MetricLoss
from geoembed.losses.miners import DistanceWeighted, Hard, Rho, SemiHard, SpanningTree, TopKOfSampled
from geoembed.losses.pairs import BinomialDeviance, Contrastive, Margin, RankedList
from geoembed.losses.proxies import (
    CentroidTripletBound,
    NormalizedSoftmax,
    ProxyAnchor,
    ProxyLoss,
    ProxyNCA,
    RepMet,
    SoftTriple,
)
from geoembed.losses.ranks import Circle, FastAP, PrecisionAtK
from geoembed.losses.regularisers import Decorrelation, diversity, glas, mmd, sparse_centres, zero_mean
from geoembed.losses.relations import EdgeContrast, LogRatio
from geoembed.losses.triplets import (
    HardTriplet,
    NPair,
    OddOneOut,
    SemiHardTriplet,
    SoftMarginTriplet,
    Triplet,
)

LOSSES: dict[str, type[MetricLoss]] = {
    "binomial-deviance": BinomialDeviance,
    "centroid-triplet-bound": CentroidTripletBound,
    "circle": Circle,
    "contrastive": Contrastive,
    "fast-ap": FastAP,
    "generalised-lifted": GeneralisedLifted,
    "hard-triplet": HardTriplet,
    "instance-spreading": InstanceSpreading,
    "lifted": Lifted,
    "manifold-similarity": ManifoldSimilarity,
    "margin": Margin,
    "multi-similarity": MultiSimilarity,
    "n-pair": NPair,
    "nca": NCA,
    "normalized-softmax": NormalizedSoftmax,
    "nt-xent": NTXent,
    "odd-one-out": OddOneOut,
    "precision-at-k": PrecisionAtK,
    "proxy-anchor": ProxyAnchor,
    "proxy-nca": ProxyNCA,
    "ranked-list": RankedList,
    "repmet": RepMet,
    "semi-hard-triplet": SemiHardTriplet,
    "soft-margin-triplet": SoftMarginTriplet,
    "soft-triple": SoftTriple,
    "sup-con": SupCon,
    "triplet": Triplet,
}

__all__ = [
    "LINK_LOSSES",
    "LOSSES",
    "NCA",
    "Affinity",
    "BinomialDeviance",
    "CentroidTripletBound",
    "Circle",
    "Contrastive",
    "CrossBatchMemory",
    "Decorrelation",
    "DistanceWeighted",
    "EdgeContrast",
    "ExpNeg",
    "FastAP",
    "GeneralisedLifted",
    "Hard",
    "HardTriplet",
    "HardnessInterpolation",
    "Heat",
    "InstanceSpreading",
    "Lifted",
    "LogRatio",
    "ManifoldSimilarity",
    "Margin",
    "MetricLoss",
    "MultiSimilarity",
    "NPair",
    "NTXent",
    "NormalizedSoftmax",
    "OddOneOut",
    "OneMinus",
    "PrecisionAtK",
    "ProxyAnchor",
    "ProxyLoss",
    "ProxyNCA",
    "RankedList",
    "RepMet",
    "Rho",
    "SemiHard",
    "SemiHardTriplet",
    "SoftMarginTriplet",
    "SoftTriple",
    "SpanningTree",
    "SupCon",
    "TopKOfSampled",
    "Triplet",
    "affinity_for",
    "bce",
    "bce_k_vs_all",
    "cones",
    "cpc",
    "diversity",
    "glas",
    "gradient_penalty",
    "margin",
    "mmd",
    "one_sided_gradient_penalty",
    "pair_scores",
    "ranking",
    "self_adversarial",
    "softmax",
    "softmax_k_vs_all",
    "sparse_centres",
    "spectral_normalised",
    "wasserstein_dependency",
    "wasserstein_dual",
    "wpc",
    "zero_mean",
]
