"""The same tree on ball, hyperboloid and tiling: what its distances are worth as the length of an edge grows.

python examples/tree_precision.py --picture tree-precision.png

The taxonomy of mammals is placed without optimisation: each child at the same distance tau from its parent, the edges
at a node evenly spread. Longer edges keep branches apart, but soon the floats of ball and hyperboloid run out.
"""

import argparse
import warnings
from pathlib import Path

import torch
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

import geoembed
from geoembed.combinatorial import embed_tree, smallest_scale
from geoembed.data.trees import spanning_tree
from geoembed.errors import NumericalWarning
from geoembed.manifolds import Lorentz, PoincareBall
from geoembed.neighbourhoods import rank_neighbours

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--picture", type=Path, default=Path("tree-precision.png"))
parser.add_argument("--quick", action="store_true", help="three scales only")
args = parser.parse_args()
warnings.simplefilter("ignore", NumericalWarning)  # that distances are lost is what this shows

closure = geoembed.load("wordnet-mammals")
parents = spanning_tree(closure)
child = (parents >= 0).nonzero().squeeze(1)
edges = torch.stack([child, parents[child]], 1)
enough = smallest_scale(int(edges.flatten().bincount().max()))
scales = torch.linspace(1, 9, 3 if args.quick else 25).tolist()
models = {"PoincareBall": (PoincareBall(), "#DDAA33", "s"), "Lorentz": (Lorentz(), "#CC6677", "^")}
models["HTiling"] = (None, "#332288", "o")

figure = Figure(figsize=(9, 4), dpi=150, layout="constrained")
left, right = figure.subplots(1, 2)
for name, (manifold, colour, marker) in models.items():
    errors, precisions = [], []
    for scale in scales:
        found = embed_tree(parents, manifold, scale=scale)
        bad = ~found.points.isfinite().all(1)
        lengths = found.manifold.dist(found.points[child], found.points[parents[child]])
        off = (lengths / scale - 1).abs()
        errors.append(off.nan_to_num(1.0).clamp(min=1e-17, max=1).max().item())
        points = torch.where(bad[:, None], found.points[parents < 0], found.points)  # NaN goes to the root
        precisions.append(rank_neighbours(points, found.manifold, edges).metrics()["map"])
        print(f"{name} tau = {scale:.2f}: error {errors[-1]:.1e}, precision {precisions[-1]:.4f}, {int(bad.sum())} NaN")
    style = {"color": colour, "marker": marker, "markersize": 4, "linewidth": 1.5, "label": name}
    left.plot(scales, errors, **style)
    right.plot(scales, precisions, **style)
left.set(yscale="log", ylim=(3e-17, 5), ylabel="largest relative error of an edge (1 at most)")
right.set(ylim=(0, 1.04), ylabel="mean average precision of neighbours")
right.axvline(enough, color="#8C8C8C", linewidth=1, linestyle=":")
right.text(enough + 0.1, 0.05, "beyond it all\nprecisions are 1,\nif exact", color="#666666", fontsize=9)
for ax in (left, right):
    ax.set_xlabel("length of an edge; the radius is 9 times that")
    ax.spines[["top", "right"]].set_visible(False)
left.legend(frameon=False, loc="center right")
FigureCanvasAgg(figure).print_png(args.picture)
