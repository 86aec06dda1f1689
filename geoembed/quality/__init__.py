"""Is an embedding good? Retrieval, clusters, spread, class overlap, triplets, re-ranking, and intervals over seeds.

All of it takes any `Distance`, works in blocks within a budget of bytes, and leaves an item out of its own results.
"""

from geoembed.quality.clusters import ClusterAgreement, PiRatio, cluster_agreement, k_means, pi_ratio, spectral_decay
from geoembed.quality.complexity import SpectralComplexity, spectral_complexity
from geoembed.quality.intervals import Comparison, Interval, compare, compare_all, holm, interval
from geoembed.quality.ranks import RetrievalResult, retrieval_metrics, retrieval_metrics_of
from geoembed.quality.rerank import FusedDiffusion
from geoembed.quality.triplets import odd_one_out_accuracy, triplet_accuracy

__all__ = [
    "ClusterAgreement",
    "Comparison",
    "FusedDiffusion",
    "Interval",
    "PiRatio",
    "RetrievalResult",
    "SpectralComplexity",
    "cluster_agreement",
    "compare",
    "compare_all",
    "holm",
    "interval",
    "k_means",
    "odd_one_out_accuracy",
    "pi_ratio",
    "retrieval_metrics",
    "retrieval_metrics_of",
    "spectral_complexity",
    "spectral_decay",
    "triplet_accuracy",
]
