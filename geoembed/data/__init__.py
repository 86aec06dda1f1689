"""Graphs and hierarchies: reading, checking, finding them by name; readers of point sets."""

from geoembed.data.catalogue import Manifest, available, load
from geoembed.data.closures import Closure
from geoembed.data.filters import Filter
from geoembed.data.pointclouds import NamedSets, read_point_sets
from geoembed.data.queries import QueryGroups
from geoembed.data.sampling import (
    Frequency,
    OwnNegatives,
    SharedNegatives,
    TypedNegatives,
    Uniform,
    bernoulli_weights,
    hardest,
    known_mask,
)
from geoembed.data.sharing import GraphSharedEmbeddings, SharedEmbeddings
from geoembed.data.triples import Split, Triples

__all__ = [
    "Closure",
    "Filter",
    "Frequency",
    "GraphSharedEmbeddings",
    "Manifest",
    "NamedSets",
    "OwnNegatives",
    "QueryGroups",
    "SharedEmbeddings",
    "SharedNegatives",
    "Split",
    "Triples",
    "TypedNegatives",
    "Uniform",
    "available",
    "bernoulli_weights",
    "hardest",
    "known_mask",
    "load",
    "read_point_sets",
]
