"""Points of the Poincare disk flow down hyperbolic sliced Wasserstein distances, to one cluster and to two far ones.

    python examples/hyperbolic_flow.py          writes hyperbolic-flow.png

Horospherical slices leave some points on the way to two far clusters, geodesic ones bring all of them there. As in
Bonet, Chapel, Drumetz and Courty, Hyperbolic Sliced-Wasserstein via Geodesic and Horospherical Projections, 2023
(arXiv 2211.10066).
"""

import argparse
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import Circle

from geoembed.distances import Geodesic, GeodesicSlicedWasserstein, HorosphericalSlicedWasserstein, Wasserstein
from geoembed.flows import flow
from geoembed.manifolds import PoincareBall

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--picture", type=Path, default=Path("hyperbolic-flow.png"))
parser.add_argument("--quick", action="store_true", help="few points and steps")
args = parser.parse_args()

ball, generator = PoincareBall(), torch.Generator().manual_seed(0)
n, kept = (40, [0, 10, 20]) if args.quick else (300, [0, 25, 50, 100, 300])


def cluster(count, radius, degrees, std):
    """A wrapped normal about the point at this distance and angle from the origin."""
    angle = torch.tensor(degrees * torch.pi / 180, dtype=torch.float64)
    centre = ball.from_tangent(radius * torch.stack([angle.cos(), angle.sin()]))
    return ball.add(centre.expand(count, 2), ball.random(count, 2, std=std, generator=generator, dtype=torch.float64))


start = cluster(n, 0.0, 0, 0.4)
one, two = cluster(n, 1.5, -45, 0.6), torch.cat([cluster(n // 2, 3.0, 35, 0.4), cluster(n // 2, 3.0, 195, 0.4)])
exact = Wasserstein(Geodesic(ball), p=2)
figure = Figure(figsize=(1.9 * len(kept), 6.3), dpi=100, layout="constrained")
rows = figure.subplots(3, len(kept))
courses = [
    ("horospherical", HorosphericalSlicedWasserstein, one),
    ("horospherical", HorosphericalSlicedWasserstein, two),
    ("geodesic", GeodesicSlicedWasserstein, two),
]
for axes, (name, sliced, target) in zip(rows, courses, strict=True):
    distance = sliced(ball, 2, 50, generator=generator)
    moved = flow(distance, start, target, steps=kept[-1], lr=0.05, manifold=ball, keep=kept, generator=generator)
    for ax, points, step in zip(axes, moved.points, moved.steps, strict=True):
        left = exact(points, target)
        print(f"{name} slices, {step} steps: hyperbolic W_2 = {left:.3f}")
        ax.add_patch(Circle((0, 0), 1, facecolor="#F6F5F1", edgecolor="#BDB9AE"))
        ax.scatter(*target.T, s=6, color="#DDAA33", linewidths=0, alpha=0.7)
        ax.scatter(*points.T, s=6, color="#332288", linewidths=0)
        ax.set(xlim=(-1.02, 1.02), ylim=(-1.02, 1.02), xticks=[], yticks=[], aspect="equal")
        ax.set_xlabel(f"$W_2$ = {left:.2f}")
        ax.spines[:].set_visible(False)
    axes[0].set_ylabel(f"{name} slices")
for ax, step in zip(rows[0], kept, strict=True):
    ax.set_title(f"{step} steps", fontsize=10)
FigureCanvasAgg(figure).print_png(args.picture)
