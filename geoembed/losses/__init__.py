"""Losses: functions of distances or scores, never of what was compared."""

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
from geoembed.losses.hierarchy import ranking
from geoembed.losses.links import (
    LINK_LOSSES,
    bce,
    bce_k_vs_all,
    margin,
    self_adversarial,
    softmax,
    softmax_k_vs_all,
)

__all__ = [
    "LINK_LOSSES",
    "bce",
    "bce_k_vs_all",
    "cpc",
    "gradient_penalty",
    "margin",
    "one_sided_gradient_penalty",
    "pair_scores",
    "ranking",
    "self_adversarial",
    "softmax",
    "softmax_k_vs_all",
    "spectral_normalised",
    "wasserstein_dependency",
    "wasserstein_dual",
    "wpc",
]
