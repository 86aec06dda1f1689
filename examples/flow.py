"""A cloud of points flows to a target down sliced Wasserstein distances, along straight, circular and cubic slices.

    python examples/flow.py --data "swiss roll"          writes flow.png

As in Kolouri et al., Generalized Sliced Wasserstein Distances, NeurIPS 2019 (arXiv 1902.00434).
"""

import argparse
import math
from pathlib import Path

import ot
import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from geoembed.distances import Circular, GeneralizedSlicedWasserstein, Linear, Polynomial
from geoembed.flows import flow


def swiss_roll(n, generator):
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    return (t * torch.stack([t.cos(), t.sin()])).T / 14


def half_moons(n, generator):
    t, side = math.pi * torch.rand(n, generator=generator), torch.where(torch.arange(n) % 2 == 0, 1.0, -1.0)
    return torch.stack([t.cos() - 0.5 * side, t.sin() * side - 0.25 * side], dim=-1) / 1.6


def eight_gaussians(n, generator):
    return circle(8, None)[torch.arange(n) % 8] + 0.05 * torch.randn(n, 2, generator=generator)


def circle(n, generator):
    t = torch.arange(n) * (2 * math.pi / n)
    return 0.8 * torch.stack([t.cos(), t.sin()], dim=-1)


DATA = {"swiss roll": swiss_roll, "half moons": half_moons, "8 gaussians": eight_gaussians, "circle": circle}

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", choices=DATA, default="swiss roll")
parser.add_argument("--picture", type=Path, default=Path("flow.png"))
parser.add_argument("--quick", action="store_true", help="few points and steps")
args = parser.parse_args()

n, kept = (100, [0, 10, 20]) if args.quick else (1000, [0, 25, 50, 100, 250])
slices = {"straight": Linear(2, 50), "circular": Circular(2, 50), "cubic": Polynomial(2, 50)}
figure = Figure(figsize=(1.9 * len(kept), 2.1 * len(slices)), dpi=100, layout="constrained")
rows = figure.subplots(len(slices), len(kept), squeeze=False)
for axes, (name, family) in zip(rows, slices.items(), strict=True):
    g = torch.Generator().manual_seed(1)
    target, start = DATA[args.data](n, g), 0.25 * torch.randn(n, 2, generator=g)
    distance = GeneralizedSlicedWasserstein(family)
    moved = flow(distance, start, target, steps=kept[-1], lr=1e-2, keep=kept, generator=g)
    for ax, points, step in zip(axes, moved.points, moved.steps, strict=True):
        exact = ot.emd2([], [], ot.dist(points.double().numpy(), target.double().numpy()))
        ax.scatter(*target.T, s=2.5, color="#CFCCC4", linewidths=0)
        ax.scatter(*points.T, s=2.5, color="#332288", linewidths=0)
        ax.set(xlim=(-1.1, 1.1), ylim=(-1.1, 1.1), xticks=[], yticks=[], aspect="equal")
        ax.set_xlabel(f"$W_2^2$ = {exact:.1e}")
        ax.spines[:].set_color("#E4E2DC")
        print(f"{name} slices, {step} steps: W_2^2 = {exact:.1e}")
    axes[0].set_ylabel(f"{name} slices")
for ax, step in zip(rows[0], kept, strict=True):
    ax.set_title(f"{step} steps", fontsize=10)
FigureCanvasAgg(figure).print_png(args.picture)
