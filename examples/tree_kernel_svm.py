"""Classify point clouds by their shape: a support vector machine on the tree-sliced kernel exp(-t TSW).

python examples/tree_kernel_svm.py          (needs the extra: pip install "geoembed[interop]")

The clouds are circles, squares, triangles and discs: noisy, turned at random, of 60 to 139 points, all of the same mean
and spread. Le, Yamada, Fukumizu and Cuturi, Tree-Sliced Variants of Wasserstein Distances, NeurIPS 2019.
"""

import argparse
import math

import numpy as np
import torch

from geoembed import PointSets
from geoembed.distances import TreeSlicedWasserstein, clustering_tree, partition_tree
from geoembed.errors import MissingDependencyError

try:
    from sklearn.model_selection import GridSearchCV, train_test_split
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler
    from sklearn.svm import SVC
except ImportError:
    raise MissingDependencyError('this example needs scikit-learn; pip install "geoembed[interop]"') from None

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="few clouds")
args = parser.parse_args()
generator = torch.Generator().manual_seed(0)

CORNERS = {"circle": 100, "square": 4, "triangle": 3, "disc": 100}


def cloud(shape):
    """60 to 139 points of the plane, as complex numbers: on the sides of a polygon, those of the disc inside of it."""
    n = int(torch.randint(60, 140, (), generator=generator))
    place, inwards, turn = torch.rand(3, n, generator=generator)
    side = CORNERS[shape] * place
    start, end = (torch.exp(2j * math.pi / CORNERS[shape] * (side.floor() + k)) for k in (0, 1))
    z = start + side.frac() * (end - start)
    if shape == "disc":
        z = z * inwards.sqrt()
    z = torch.exp(2j * math.pi * turn[0]) * z + 0.17 * torch.randn(n, generator=generator, dtype=z.dtype)
    z = z - z.mean()
    return torch.view_as_real(z / z.abs().square().mean().sqrt())


y = np.resize(list(CORNERS), 60 if args.quick else 400)
sets = PointSets.from_list([cloud(shape) for shape in y])
train, test = train_test_split(range(len(y)), test_size=0.5, stratify=y, random_state=0)


def accuracy(distances):
    """Of the kernel exp(-t D) on the test half, with t, in units of 1 / median, and C chosen within the other half."""
    median, searches = distances[train][:, train].median(), []
    for t in (0.3, 1.0, 3.0, 10.0):
        kernel = (-t / median * distances).exp().numpy()
        search = GridSearchCV(SVC(kernel="precomputed"), {"C": [1, 10, 100, 1000]}, cv=5)
        searches.append((search.fit(kernel[train][:, train], y[train]), kernel[test][:, train]))
    search, rows = max(searches, key=lambda pair: pair[0].best_score_)
    return search.score(rows, y[test])


moments = torch.stack([torch.cat([points.mean(0), points.T.cov().flatten()]) for points in sets.unpad()]).numpy()
baseline = GridSearchCV(make_pipeline(StandardScaler(), SVC()), {"svc__C": [1, 10, 100, 1000]}, cv=5)
baseline.fit(moments[train], y[train])
print(f"{', '.join(CORNERS)}: {len(train)} clouds to learn from, {len(test)} to tell apart")
print(f"means and covariances         {baseline.score(moments[test], y[test]):.0%}")
for build in (clustering_tree, partition_tree):
    distance = TreeSlicedWasserstein.fit(sets[train], trees=10, build=build, generator=generator)
    print(f"tree-sliced, {build.__name__:16} {accuracy(distance.pairwise(sets)):.0%}")
