"""Graphs and hierarchies: reading, checking, finding them by name."""

from geoembed.data.catalogue import Manifest, available, load
from geoembed.data.closures import Closure
from geoembed.data.filters import Filter
from geoembed.data.triples import Split, Triples

__all__ = ["Closure", "Filter", "Manifest", "Split", "Triples", "available", "load"]
