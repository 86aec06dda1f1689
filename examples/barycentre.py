"""Sliced Wasserstein barycentres of four shapes of different sizes, from corner to corner.

python examples/barycentre.py          writes barycentre.png
"""

import argparse
import math
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_rgb
from matplotlib.figure import Figure

from geoembed.distances import SlicedWasserstein
from geoembed.flows import barycentre

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--picture", type=Path, default=Path("barycentre.png"))
parser.add_argument("--quick", action="store_true", help="few points, steps and panels")
args = parser.parse_args()

generator = torch.Generator().manual_seed(0)


def inside(shape, n):
    """n points of the square, evenly spread over where shape(x, y) < 0."""
    points = 2 * torch.quasirandom.SobolEngine(2, scramble=True, seed=n).draw(20 * n) - 1
    return points[shape(*points.T) < 0][:n]


def ring(x, y):
    return ((x.square() + y.square()).sqrt() - 0.75).abs() - 0.12


def heart(x, y):
    x, y = 1.25 * x, 1.25 * y + 0.15
    return (x.square() + y.square() - 1) ** 3 - x.square() * y**3


def star(x, y):
    angle = torch.remainder(torch.atan2(x, y), 2 * math.pi / 5) - math.pi / 5
    return (x.square() + y.square()).sqrt() - 0.4 / (0.44 + 0.56 * (1 - angle.abs() / (math.pi / 5)))


def cross(x, y):
    return torch.minimum(x.abs(), y.abs()) - 0.22 + 9 * (torch.maximum(x.abs(), y.abs()) > 0.85)


size, steps, side = (100, 20, 2) if args.quick else (500, 100, 5)
shapes = [inside(ring, size), inside(heart, size + 100), inside(star, size - 50), inside(cross, size + 50)]
colours = torch.tensor([to_rgb(name) for name in ("#332288", "#AA4499", "#DDAA33", "#117733")])
distance = SlicedWasserstein(2, 50)

figure = Figure(figsize=(1.5 * side, 1.5 * side), dpi=100, layout="constrained")
for i, row in enumerate(figure.subplots(side, side)):
    for j, ax in enumerate(row):
        a, b = i / (side - 1), j / (side - 1)
        weights = [(1 - a) * (1 - b), (1 - a) * b, a * (1 - b), a * b]
        moved = barycentre(distance, shapes, weights, size=size, steps=steps, lr=0.03, generator=generator)
        shown = ", ".join(f"{w:.2f}" for w in weights)
        print(f"weights {shown}: mean square {moved.values[0]:.4f} at the start, {moved.values[-1]:.4f} at the end")
        ax.scatter(*moved.points[-1].T, s=4, color=(torch.tensor(weights) @ colours).tolist(), linewidths=0)
        ax.set(xlim=(-1.05, 1.05), ylim=(-1.05, 1.05), aspect="equal")
        ax.axis("off")
FigureCanvasAgg(figure).print_png(args.picture)
