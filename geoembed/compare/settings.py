"""Settings of `geoembed compare`. Imports nothing heavy, so that `--help` answers at once."""

from dataclasses import dataclass
from typing import ClassVar

from geoembed.errors import DomainError, UnknownNameError
from geoembed.settings import Settings, setting

__all__ = ["DISTANCES", "LOSSES", "CompareConfig"]

DISTANCES = (
    *("euclidean", "clipped-euclidean", "manhattan", "cosine", "snr", "curvilinear"),
    *("poincare", "lorentz", "halfspace"),
    *("sliced-wasserstein", "energy-sliced-wasserstein", "tree-sliced-lines"),
)
LOSSES = (
    *("contrastive", "margin", "binomial-deviance", "ranked-list", "triplet", "hard-triplet", "semi-hard-triplet"),
    *("soft-margin-triplet", "n-pair", "odd-one-out", "lifted", "generalised-lifted", "nca", "nt-xent", "sup-con"),
    *("instance-spreading", "multi-similarity", "circle", "fast-ap", "precision-at-k", "manifold-similarity"),
    *("proxy-nca", "normalized-softmax", "proxy-anchor", "soft-triple", "repmet"),
)


@dataclass(frozen=True)
class CompareConfig(Settings):
    """Settings of `geoembed compare`; the defaults take about a minute."""

    task: ClassVar[str] = "compare"

    data: str = setting("digits", "digits, omniglot, clinc150, an .npz file or a folder of point sets")
    losses: str = setting("contrastive,triplet,nt-xent", f"names with commas between, of {', '.join(LOSSES)}")
    distances: str = setting(
        "euclidean,cosine,snr,poincare",
        f"names with commas between, the first is what the others are compared with; of {', '.join(DISTANCES)}",
    )
    seeds: int = setting(3, "repetitions, each with other folds, weights and batches; 5 for a claim", low=1)
    held_out: str = setting(
        "classes",
        "what is tested on: classes that were not trained on, whole coarse labels (such as all characters of an "
        "alphabet), or other items of the same classes",
        ("classes", "coarse", "items"),
    )
    folds: int = setting(2, "parts of the data, each held out once a repetition", low=2)
    dim: int = setting(32, "numbers that an embedding has", low=2)
    set_size: int = setting(8, "points of an embedding under a distance between sets, if the data are vectors", low=1)
    hidden: int = setting(128, "width of the hidden layers of the encoder", low=1)
    clip: float = setting(
        2.0, "largest distance from the origin in hyperbolic space, and under clipped-euclidean, its control", low=0
    )
    steps: int = setting(200, "batches of a training", low=1)
    batch_size: int = setting(64, "items of a batch", low=4)
    per_class: int = setting(4, "items of a class in a batch", low=2)
    lr: float = setting(0.001, "learning rate of Adam, Riemannian for proxies", low=0)
    weight_decay: float = setting(0.0, "of the encoder", low=0)
    trials: int = setting(
        1, "settings tried for each loss and distance on a part held out of the training one, the same for all", low=1
    )
    seed: int = setting(0, "the first seed", low=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        for kind, names, known in (("loss", self.loss_names, LOSSES), ("distance", self.distance_names, DISTANCES)):
            for name in names:
                if name not in known:
                    raise UnknownNameError(kind, name, known)
            if len(set(names)) < len(names):
                raise DomainError(f"{kind}: a name is given twice in {', '.join(names)}")
        if self.clip == 0:
            raise DomainError("clip must be above 0")
        if self.dim % self.set_size:
            raise DomainError(f"set_size must divide dim = {self.dim}, got {self.set_size}")

    @property
    def loss_names(self) -> list[str]:
        return [name.strip() for name in self.losses.split(",")]

    @property
    def distance_names(self) -> list[str]:
        return [name.strip() for name in self.distances.split(",")]
