"""Learn a metric along one curve where one along a line fails: two classes on two lines that cross.

python examples/curvilinear.py          writes curvilinear.png (needs the extra: pip install "geoembed[interop]")

A line fails because the contrastive loss wants all pairs of a class close together. Neighbourhood components analysis,
loss="nca", is content with some near neighbours: it collapses one class on a point of a line, and that nearly suffices.
Chen, Luo, Yang, Gong, Li and Huang, Curvilinear Distance Metric Learning, NeurIPS 2019.
"""

import argparse
import warnings
from pathlib import Path

import numpy as np
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from sklearn.neighbors import KNeighborsClassifier

from geoembed.distances.curvilinear import Curvilinear
from geoembed.errors import ConvergenceWarning
from geoembed.interop.estimators import CurvilinearMetric

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--picture", type=Path, default=Path("curvilinear.png"))
parser.add_argument("--quick", action="store_true", help="few points and iterations")
args = parser.parse_args()
warnings.simplefilter("ignore", ConvergenceWarning)  # the limit of iterations is meant
rng = np.random.default_rng(0)


def crossed_lines(n):
    y = np.arange(n) % 2
    along, angle = rng.uniform(-1, 1, n), np.where(y, -1, 1) * np.pi / 4
    X = np.stack([along * np.cos(angle), along * np.sin(angle)], 1)
    return X + rng.normal(0, 0.05, X.shape), y


(X, y), (X_test, y_test) = (crossed_lines(60 if args.quick else 400) for _ in range(2))
colours = np.array(["#0077BB", "#EE7733"])
figure = Figure(figsize=(9, 5.2), dpi=100, layout="constrained")
rows = figure.subplots(2, 2, height_ratios=[5, 1])
for degree, (plane, strip) in zip((1, 5), rows.T, strict=True):
    metric = CurvilinearMetric(1, degree, "contrastive", max_iter=5 if args.quick else 100, random_state=0).fit(X, y)
    features = metric.transform(X)
    error = 1 - KNeighborsClassifier(5).fit(features, y).score(metric.transform(X_test), y_test)
    name = "Mahalanobis (degree 1)" if degree == 1 else f"curvilinear (degree {degree})"
    print(f"{name:24} error of 5 nearest neighbours in one learned feature: {error:.1%}")

    distance = Curvilinear(torch.from_numpy(metric.curves_))
    t = distance.parameter(torch.from_numpy((X - metric.mean_) / metric.scale_)).detach()
    curve = distance.curve(torch.linspace(t.min(), t.max(), 1000, dtype=t.dtype)).detach().numpy()[0]
    feet = distance.curve(t[:, 0]).detach().numpy()[0] * metric.scale_ + metric.mean_
    plane.plot(*np.stack([X, feet]).transpose(2, 0, 1), color="#BBBBBB", linewidth=0.5, zorder=0)
    plane.plot(*(curve * metric.scale_ + metric.mean_).T, color="black", linewidth=1.5)
    plane.scatter(*X.T, s=6, c=colours[y])
    plane.set(xlim=(-1, 1), ylim=(-1, 1), aspect="equal", title=f"{name}: error {error:.1%}")
    plane.axis("off")
    strip.scatter(features[:, 0], y + rng.uniform(-0.3, 0.3, len(y)), s=4, c=colours[y])
    strip.set(yticks=[], xlabel="learned feature: length along the curve")
    strip.spines[["left", "right", "top"]].set_visible(False)
FigureCanvasAgg(figure).print_png(args.picture)
