"""Pictures of embeddings on the Poincare disk: points, geodesics, and as many names as fit.

`plot_embedding` draws a model: its own points if it is two-dimensional, else a hyperbolic map made from it (see
`geoembed.layout`); a caption under the picture says which. `plot_disk` draws points that you have. matplotlib is
imported when something is drawn, without pyplot: no window, no state that outlives the call.
"""

import io
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray

from geoembed import layout
from geoembed.checkpoint import writing
from geoembed.data import Triples
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.files import atomic_write

__all__ = ["plot_disk", "plot_embedding"]

# Paul Tol's "muted" scheme, made for colour-blind readers, https://personal.sron.nl/~pault/
PALETTE = ("#332288", "#117733", "#CC6677", "#44AA99", "#882255", "#88CCEE", "#DDCC77", "#AA4499", "#999933")
REST = "#8A8A8A"
INK, PAPER, DISK = "#262626", "#FFFFFF", "#FBFAF7"
SIZE, DPI = 10.0, 200
