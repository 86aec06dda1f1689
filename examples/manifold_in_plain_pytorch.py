"""Use a manifold and its optimizer in plain PyTorch: place the leaves of a star as far apart as their hub allows.

    python examples/manifold_in_plain_pytorch.py

Minimises sum (d(x_i, x_j) - target_ij)^2 over points of a hyperbolic plane, with Riemannian Adam.
"""

import argparse

import geoopt
import torch

from geoembed.distances import Geodesic
from geoembed.manifolds import Lorentz, PoincareBall, convert
from geoembed.optim import RiemannianAdam

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few steps only")
args = parser.parse_args()

leaves, length = 12, 3.0
target = torch.full((leaves + 1, leaves + 1), 2 * length, dtype=torch.float64)  # leaf to leaf, through the hub
target[0, :] = target[:, 0] = length  # hub to leaf
target.fill_diagonal_(0)

for manifold in (PoincareBall(), Lorentz()):
    start = manifold.random(leaves + 1, manifold.point_dim(2), std=0.1, generator=torch.Generator().manual_seed(0),
                            dtype=torch.float64)  # fmt: skip
    points = geoopt.ManifoldParameter(start, manifold=manifold)
    optimizer = RiemannianAdam([points], lr=0.05)
    distance = Geodesic(manifold)
    for _ in range(20 if args.quick else 500):
        optimizer.zero_grad()
        stress = (distance.pairwise(points) - target).square().mean()
        stress.backward()
        optimizer.step()
    ball = convert(points.detach(), manifold, PoincareBall())
    worst = (distance.pairwise(points.detach()) - target).abs().max()
    print(f"{manifold}: mean squared error {stress.item():.4f}, largest error {worst:.3f}, hub at {ball[0].tolist()}")
