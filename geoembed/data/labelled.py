"""Items with labels, for metric learning: by name, or from the user's own files; nothing is ever downloaded.

`load_labelled(name)` knows

    digits      scikit-learn's 1,797 handwritten digits, 8x8 pixels as 64 features from 0 to 1
    omniglot    4,840 images (1, 28, 28), ink 1 on 0, of 242 characters of 8 alphabets (alphabet > character) by 20
                drawers each; in $GEOEMBED_DATA/metric/omniglot8_28x28.npz
    clinc150    15,000 questions of 150 intents in 10 domains (domain > intent); in clinc150_data_small.json.gz and
                clinc150_domains.json there. Features: TF-IDF and truncated SVD to 256, fitted to the train part alone,
                of unit length. The 1,200 out-of-scope questions are left out

and reads the user's own data, by path or as $GEOEMBED_DATA/metric/<name>, with or without .npz:

    own.npz     `x` (n, ...) and `y` (n,), numbers or names, perhaps `coarse` (n,), the parent of each y;
                point sets of different sizes: `x` (N, d), all points one after another, `ptr` (n + 1,) where set i is
                x[ptr[i]:ptr[i + 1]], perhaps `weights` (N,)
    folder      point sets: folder/<label>/<files> or folder/<coarse>/<label>/<files>, files as in
                `geoembed.data.pointclouds`

Numbers become float32 unless they are float64. Arrays of Python objects are never read.

References: Lake, Salakhutdinov, Tenenbaum, "Human-level concept learning through probabilistic program induction",
Science 350, 2015 (Omniglot, MIT licence); Larson et al., "An evaluation dataset for intent classification and
out-of-scope prediction", EMNLP 2019, arXiv:1909.02027 (CLINC150, CC BY 3.0).
"""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from geoembed.data.catalogue import own_folder
from geoembed.data.classes import check_labels, check_nested
from geoembed.data.formats import StrPath, listing
from geoembed.data.labelled_files import read_clinc150, read_folder, read_npz, read_omniglot
from geoembed.errors import DataError, DomainError, GeoEmbedError, MissingDependencyError, UnknownNameError
from geoembed.pointsets import PointSets

__all__ = ["Labelled", "load_labelled"]

NAMED = ("clinc150", "digits", "omniglot")


@dataclass(frozen=True, eq=False)
class Labelled:
    """Items with a label each, perhaps with a coarse one above it.

    Attributes:
        items: (n, *E) floating point, or `PointSets` of n sets.
        labels: (n,) int64; label i is named label_names[i].
        coarse: (n,) int64 or None, the parent of each label; named by coarse_names.
        parts: (n,) int64 or None: 0 train, 1 valid, 2 test, where the data come with such parts.
        left_out: items of the source that are not here, such as CLINC150's out-of-scope questions.
    """

    items: Tensor | PointSets
    labels: Tensor
    label_names: list[str]
    name: str
    licence: str = ""
    coarse: Tensor | None = None
    coarse_names: list[str] | None = None
    parts: Tensor | None = None
    left_out: int = 0

    def __post_init__(self) -> None:
        for kind, labels, names in (
            ("label", self.labels, self.label_names),
            ("coarse label", self.coarse, self.coarse_names or []),
        ):
            if labels is None:
                continue
            check_labels(labels, len(self.items))
            if int(labels.min()) < 0 or int(labels.max()) >= len(names):
                raise DomainError(
                    f"{self.name}: {kind}s go from {int(labels.min())} to {int(labels.max())}, there are "
                    f"{len(names)} names for them"
                )
        if self.coarse is not None:
            check_nested(self.labels, self.coarse)

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: Any) -> "Labelled":
        """Some of the items, by slice, index tensor (k,) or mask (n,); labels keep their numbers."""
        coarse = None if self.coarse is None else self.coarse[index]
        parts = None if self.parts is None else self.parts[index]
        return replace(self, items=self.items[index], labels=self.labels[index], coarse=coarse, parts=parts)

    def __repr__(self) -> str:
        used = f"{len(self.labels.unique())} classes"
        above = "" if self.coarse is None else f" in {len(self.coarse.unique())}"
        what = self.items if isinstance(self.items, PointSets) else f"items {tuple(self.items.shape[1:])}"
        return f"Labelled({self.name!r}: {len(self):,} x {what}, {used}{above})"


def load_labelled(name: StrPath = "digits") -> Labelled:
    """Labelled items by name or path (see the module's first lines).

    Raises:
        UnknownNameError: no such name.
        DataError: a file that is missing, damaged or not as expected; the message names it.
        MissingDependencyError: digits or clinc150 without scikit-learn.
    """
    text = os.fspath(name)
    own = own_folder()
    folder = None if own is None else own / "metric"
    if text == "digits":
        return _digits()
    if text in ("omniglot", "clinc150"):
        if folder is None:
            raise DataError(f"{text}: set GEOEMBED_DATA to the folder that holds the folder metric with its files")
        if text == "omniglot":
            return _made(folder, name=text, licence="MIT", **read_omniglot(folder / "omniglot8_28x28.npz"))
        questions, domains = folder / "clinc150_data_small.json.gz", folder / "clinc150_domains.json"
        return _made(folder, name=text, licence="CC BY 3.0", **read_clinc150(questions, domains))
    candidates = [Path(text)]
    if folder is not None and isinstance(name, str) and Path(text).name == text:
        candidates += [folder / text, folder / f"{text}.npz"]
    for path in candidates:
        if path.is_dir():
            return _made(path, name=path.name, **read_folder(path))
        if path.is_file():
            return _made(path, name=path.stem, **read_npz(path))
    if Path(text).name != text or Path(text).suffix:
        raise DataError(f"{text}: no such file or folder; {listing(Path(text).parent)}")
    found = [] if folder is None else folder.glob("*")
    own_names = {path.stem for path in found if path.is_dir() or path.suffix == ".npz"} - {"omniglot8_28x28"}
    raise UnknownNameError("labelled data set", text, {*NAMED, *own_names})


def _digits() -> Labelled:
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise MissingDependencyError("digits come with scikit-learn: pip install 'geoembed[interop]'") from error
    x, y = load_digits(return_X_y=True)
    items = torch.from_numpy(x).float() / 16
    return Labelled(items, torch.from_numpy(y).long(), [str(i) for i in range(10)], "digits", "CC BY 4.0")


def _made(path: Path, **parts: Any) -> Labelled:
    try:
        return Labelled(**parts)
    except GeoEmbedError as error:
        raise DataError(f"{path}: {error}") from error
