"""Models of graphs."""

from geoembed.models.multirelational import MuRE, MuRP, MultiRelational

__all__ = ["MODELS", "MuRE", "MuRP", "MultiRelational"]

MODELS = {"mure": MuRE, "murp": MuRP}
