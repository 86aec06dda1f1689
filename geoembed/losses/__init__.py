"""Losses: functions of distances or scores, never of what was compared."""

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
    "margin",
    "self_adversarial",
    "softmax",
    "softmax_k_vs_all",
]
