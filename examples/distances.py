"""A first tour of distances between point sets: a pair, a batch, a matrix, weights, sets of different sizes.

python examples/distances.py
"""

import argparse

import torch

from geoembed import PointSets
from geoembed.distances import Chamfer, Euclidean, SlicedWasserstein, TreeSlicedWasserstein, Wasserstein

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="fewer sets")
args = parser.parse_args()
torch.manual_seed(0)

# One pair, under several distances. Each is a module that takes two sets (n, d) and (m, d).
x, y = torch.randn(200, 3), torch.randn(150, 3) + torch.tensor([1.0, 0.0, 0.0])
sliced = SlicedWasserstein(3, projections=100)
trees = TreeSlicedWasserstein.fit(torch.cat([x, y]))
for distance in (sliced, Wasserstein(Euclidean(), p=2), Chamfer(Euclidean()), trees):
    print(f"{type(distance).__name__:22} {distance(x, y):.3f}")

# Gradients reach the points, and weights where there are some.
x.requires_grad_()
sliced(x, y).backward()
way = torch.nn.functional.normalize(-x.grad.sum(0), dim=0)
print("x comes nearer to y in the direction", [round(v, 2) for v in way.tolist()])

# A batch, pair by pair, and all against all.
count = 20 if args.quick else 1000
sets = torch.randn(count, 64, 3) * torch.linspace(0.5, 1.5, count).reshape(-1, 1, 1)
print("batch", tuple(sliced(sets, sets.flip(0)).shape))
matrix = sliced.pairwise(sets)
print("matrix", tuple(matrix.shape), "nearest to set 10 are sets", matrix[10].argsort()[1:5].tolist())

# Sets of different sizes, with weights: a list goes into PointSets.
ragged = PointSets.from_list(
    [torch.randn(5, 3), torch.randn(40, 3), torch.randn(9, 3)],
    weights=[torch.ones(5), torch.rand(40), torch.arange(9.0)],  # each divided by its sum
)
print(ragged)
print(sliced.pairwise(ragged).numpy().round(2))

# Equal sets of equal weights have an embedding: vectors whose distance is that of the sets, for any vector index.
vectors = sliced.embed(sets)
print("embedded", tuple(vectors.shape), f"{torch.dist(vectors[0], vectors[1]):.6f} = {matrix[0, 1]:.6f}")
