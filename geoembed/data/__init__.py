"""Graphs, hierarchies and labelled items: reading, checking, finding them by name, splits and batches; point sets."""

from geoembed.data.batches import ClusterBatches, HardClassBatches, MPerClass
from geoembed.data.catalogue import Manifest, available, load
from geoembed.data.closures import Closure
from geoembed.data.filters import Filter
from geoembed.data.folds import class_folds, class_halves
from geoembed.data.kmeans import cluster, kmeans, kmedoids
from geoembed.data.labelled import Labelled, load_labelled
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
from geoembed.data.surrogates import SurrogateClusters, class_standardised
from geoembed.data.trees import spanning_tree
from geoembed.data.triples import Split, Triples

__all__ = [
    "Closure",
    "ClusterBatches",
    "Filter",
    "Frequency",
    "GraphSharedEmbeddings",
    "HardClassBatches",
    "Labelled",
    "MPerClass",
    "Manifest",
    "NamedSets",
    "OwnNegatives",
    "QueryGroups",
    "SharedEmbeddings",
    "SharedNegatives",
    "Split",
    "SurrogateClusters",
    "Triples",
    "TypedNegatives",
    "Uniform",
    "available",
    "bernoulli_weights",
    "class_folds",
    "class_halves",
    "class_standardised",
    "cluster",
    "hardest",
    "kmeans",
    "kmedoids",
    "known_mask",
    "load",
    "load_labelled",
    "read_point_sets",
    "spanning_tree",
]
