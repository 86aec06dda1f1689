"""What a graph is like before it is embedded, and what an embedding made of it."""

from geoembed.analysis.depth import RadiusByDepth, depths, radius_by_depth
from geoembed.analysis.hyperbolicity import Hyperbolicity, delta_hyperbolicity, graph_delta
from geoembed.analysis.paths import PathLengths, krackhardt, path_lengths
from geoembed.analysis.relations import RelationSummary, relation_table

__all__ = [
    "Hyperbolicity",
    "PathLengths",
    "RadiusByDepth",
    "RelationSummary",
    "delta_hyperbolicity",
    "depths",
    "graph_delta",
    "krackhardt",
    "path_lengths",
    "radius_by_depth",
    "relation_table",
]
