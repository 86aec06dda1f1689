"""Geometric embeddings in PyTorch. The table of contents; names are imported when they are first used."""

from importlib import import_module
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from geoembed.classification import classify
    from geoembed.codec import load_points, save_points
    from geoembed.combinatorial import embed_tree
    from geoembed.config import HierarchyConfig, TrainConfig
    from geoembed.data import Closure, Triples, load, load_labelled
    from geoembed.distance import Distance, Power, ProductDistance, Scaled, Symmetrised, pairwise_blocks
    from geoembed.errors import GeoEmbedError
    from geoembed.evaluation import evaluate
    from geoembed.hierarchy import train_hierarchy
    from geoembed.hierarchy_picture import plot_hierarchy
    from geoembed.hierarchy_runs import HierarchyRun
    from geoembed.jobs import train
    from geoembed.neighbourhoods import rank_neighbours
    from geoembed.nested import embed_closure
    from geoembed.pairwise import pairwise_matrix
    from geoembed.pointsets import PointSets
    from geoembed.quality.ranks import retrieval_metrics
    from geoembed.reconstruction import reconstruct
    from geoembed.retrieval import Neighbors
    from geoembed.runs import Run
    from geoembed.sampled_evaluation import evaluate_sampled
    from geoembed.training import fit

_HOME = {
    "Closure": "data",
    "Distance": "distance",
    "GeoEmbedError": "errors",
    "HierarchyConfig": "config",
    "HierarchyRun": "hierarchy_runs",
    "Neighbors": "retrieval",
    "PointSets": "pointsets",
    "Power": "distance",
    "ProductDistance": "distance",
    "Run": "runs",
    "Scaled": "distance",
    "Symmetrised": "distance",
    "TrainConfig": "config",
    "Triples": "data",
    "classify": "classification",
    "embed_closure": "nested",
    "embed_tree": "combinatorial",
    "evaluate": "evaluation",
    "evaluate_sampled": "sampled_evaluation",
    "fit": "training",
    "load": "data",
    "load_labelled": "data",
    "load_points": "codec",
    "pairwise_blocks": "distance",
    "pairwise_matrix": "pairwise",
    "plot_hierarchy": "hierarchy_picture",
    "rank_neighbours": "neighbourhoods",
    "reconstruct": "reconstruction",
    "retrieval_metrics": "quality.ranks",
    "save_points": "codec",
    "train": "jobs",
    "train_hierarchy": "hierarchy",
}
_PACKAGES = (
    "analysis",
    "data",
    "distances",
    "errors",
    "evaluation",
    "export",
    "flows",
    "interop",
    "losses",
    "manifolds",
    "models",
    "numerics",
    "optim",
    "plotting",
    "quality",
    "search",
)

__all__ = [*_HOME, *_PACKAGES, "__version__"]
__version__ = version("geoembed")


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"geoembed.{_HOME[name]}"), name)
    if name in _PACKAGES:
        return import_module(f"geoembed.{name}")
    raise AttributeError(f"module 'geoembed' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
