"""Models of graphs: a query made of head and relation, compared with the tail (`base`); encoders of labelled items."""

from geoembed.models.base import GraphModel, Scored
from geoembed.models.bilinear import RESCAL, ComplEx, DistMult, TuckER
from geoembed.models.both import BothDirections
from geoembed.models.encoders import MLP, ConvNet, HyperbolicHead, PointEncoder, SetEncoder
from geoembed.models.ensemble import Ensemble
from geoembed.models.isometries import AttE, AttH, RefE, RefH, RotE, RotH
from geoembed.models.loops import calibrate_loops
from geoembed.models.lorentz_linear import HyboNet
from geoembed.models.multirelational import MultiRelational, MultiRelationalFull, MuRE, MuRP, MuRPFull
from geoembed.models.penalties import PENALTIES
from geoembed.models.rotation import RotatE
from geoembed.models.translation import TransE

__all__ = [
    "MLP",
    "MODELS",
    "PENALTIES",
    "RESCAL",
    "AttE",
    "AttH",
    "BothDirections",
    "ComplEx",
    "ConvNet",
    "DistMult",
    "Ensemble",
    "GraphModel",
    "HyboNet",
    "HyperbolicHead",
    "MuRE",
    "MuRP",
    "MuRPFull",
    "MultiRelational",
    "MultiRelationalFull",
    "PointEncoder",
    "RefE",
    "RefH",
    "RotE",
    "RotH",
    "RotatE",
    "Scored",
    "SetEncoder",
    "TransE",
    "TuckER",
    "calibrate_loops",
]

MODELS = {
    "atte": AttE,
    "atth": AttH,
    "complex": ComplEx,
    "distmult": DistMult,
    "hybonet": HyboNet,
    "mure": MuRE,
    "murp": MuRP,
    "murp-full": MuRPFull,
    "refe": RefE,
    "refh": RefH,
    "rescal": RESCAL,
    "rotate": RotatE,
    "rote": RotE,
    "roth": RotH,
    "transe": TransE,
    "tucker": TuckER,
}
