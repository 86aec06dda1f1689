"""Models of graphs."""

from geoembed.models.multirelational import MultiRelational, MuRE, MuRP

__all__ = ["MODELS", "MuRE", "MuRP", "MultiRelational"]

MODELS = {"mure": MuRE, "murp": MuRP}
