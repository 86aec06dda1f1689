"""Distances between vectors and between point sets; each is a `geoembed.Distance`."""

from geoembed.distances.cloud_trees import clustering_tree, partition_tree
from geoembed.distances.cones import EntailmentCone
from geoembed.distances.curvilinear import Curvilinear
from geoembed.distances.generalized import Circular, DefiningFunction, GeneralizedSlicedWasserstein, Network
from geoembed.distances.geodesic import Geodesic
from geoembed.distances.gromov import GromovWasserstein, RotationInvariantSlicedGromovWasserstein
from geoembed.distances.hyperbolic import (
    Geodesics,
    GeodesicSlicedWasserstein,
    Horospheres,
    HorosphericalSlicedWasserstein,
    HyperbolicSlicedWasserstein,
)
from geoembed.distances.lines import DbTreeSlicedWasserstein, TreeSlicedLines
from geoembed.distances.max_generalized import MaxGeneralizedSlicedWasserstein
from geoembed.distances.max_sliced import MaxSlicedWasserstein
from geoembed.distances.pointwise import Cosine, Euclidean, Lp, Mahalanobis, NegativeInner
from geoembed.distances.polynomial import Polynomial
from geoembed.distances.setwise import MMD, Chamfer, EnergyDistance, Hausdorff, SetMin
from geoembed.distances.sinkhorn import SinkhornDivergence, UnbalancedSinkhornDivergence
from geoembed.distances.sliced import (
    ControlVariateSlicedWasserstein,
    EnergySlicedWasserstein,
    Linear,
    SlicedWasserstein,
)
from geoembed.distances.sliced_gromov import (
    CyclicSlicedGromovWasserstein,
    InnerSlicedGromovWasserstein,
    SlicedGromovWasserstein,
)
from geoembed.distances.slices import SlicedEmbedding
from geoembed.distances.slicing import Sliced, Slices
from geoembed.distances.snr import SNR
from geoembed.distances.sobolev import SobolevTransport
from geoembed.distances.transport import Wasserstein
from geoembed.distances.transport1d import transport_1d
from geoembed.distances.tree import TreeSlicedWasserstein, TreeWasserstein
from geoembed.distances.trees import Tree

DISTANCES = {
    "chamfer": Chamfer,
    "control-variate-sliced-wasserstein": ControlVariateSlicedWasserstein,
    "cosine": Cosine,
    "curvilinear": Curvilinear,
    "cyclic-sliced-gromov-wasserstein": CyclicSlicedGromovWasserstein,
    "db-tree-sliced-wasserstein": DbTreeSlicedWasserstein,
    "energy": EnergyDistance,
    "energy-sliced-wasserstein": EnergySlicedWasserstein,
    "entailment-cone": EntailmentCone,
    "euclidean": Euclidean,
    "generalized-sliced-wasserstein": GeneralizedSlicedWasserstein,
    "geodesic": Geodesic,
    "geodesic-sliced-wasserstein": GeodesicSlicedWasserstein,
    "gromov-wasserstein": GromovWasserstein,
    "hausdorff": Hausdorff,
    "hyperbolic-sliced-wasserstein": HyperbolicSlicedWasserstein,
    "inner-sliced-gromov-wasserstein": InnerSlicedGromovWasserstein,
    "lp": Lp,
    "mahalanobis": Mahalanobis,
    "max-generalized-sliced-wasserstein": MaxGeneralizedSlicedWasserstein,
    "max-sliced-wasserstein": MaxSlicedWasserstein,
    "mmd": MMD,
    "negative-inner": NegativeInner,
    "rotation-invariant-sliced-gromov-wasserstein": RotationInvariantSlicedGromovWasserstein,
    "set-min": SetMin,
    "sinkhorn": SinkhornDivergence,
    "sliced-gromov-wasserstein": SlicedGromovWasserstein,
    "sliced-wasserstein": SlicedWasserstein,
    "snr": SNR,
    "sobolev": SobolevTransport,
    "tree-sliced-lines": TreeSlicedLines,
    "tree-sliced-wasserstein": TreeSlicedWasserstein,
    "tree-wasserstein": TreeWasserstein,
    "unbalanced-sinkhorn": UnbalancedSinkhornDivergence,
    "wasserstein": Wasserstein,
}

__all__ = [
    "DISTANCES",
    "MMD",
    "SNR",
    "Chamfer",
    "Circular",
    "ControlVariateSlicedWasserstein",
    "Cosine",
    "Curvilinear",
    "CyclicSlicedGromovWasserstein",
    "DbTreeSlicedWasserstein",
    "DefiningFunction",
    "EnergyDistance",
    "EnergySlicedWasserstein",
    "EntailmentCone",
    "Euclidean",
    "GeneralizedSlicedWasserstein",
    "Geodesic",
    "GeodesicSlicedWasserstein",
    "Geodesics",
    "GromovWasserstein",
    "Hausdorff",
    "Horospheres",
    "HorosphericalSlicedWasserstein",
    "HyperbolicSlicedWasserstein",
    "InnerSlicedGromovWasserstein",
    "Linear",
    "Lp",
    "Mahalanobis",
    "MaxGeneralizedSlicedWasserstein",
    "MaxSlicedWasserstein",
    "NegativeInner",
    "Network",
    "Polynomial",
    "RotationInvariantSlicedGromovWasserstein",
    "SetMin",
    "SinkhornDivergence",
    "Sliced",
    "SlicedEmbedding",
    "SlicedGromovWasserstein",
    "SlicedWasserstein",
    "Slices",
    "SobolevTransport",
    "Tree",
    "TreeSlicedLines",
    "TreeSlicedWasserstein",
    "TreeWasserstein",
    "UnbalancedSinkhornDivergence",
    "Wasserstein",
    "clustering_tree",
    "partition_tree",
    "transport_1d",
]
