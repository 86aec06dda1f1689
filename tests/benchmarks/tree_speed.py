"""All pairs of 1,000 point sets under the tree-sliced distance, against a loop of exact transport problems.

1,000 sets of 50 points in the plane, float64, 10 trees of depth 6. Ours: building the trees, embedding the sets, all
pairs. Peer: `ot.emd2` with its cost matrix for each of the 499,500 pairs, extrapolated from some of them. Also how well
the distances of the tree follow the exact ones (Pearson correlation over those pairs).

    python tests/benchmarks/tree_speed.py
"""

import time

import numpy as np
import ot
import torch
from common import arguments, interleaved, median, ratio, table

from geoembed.distances import TreeSlicedWasserstein, clustering_tree, partition_tree

SETS, POINTS, TREES = 1000, 50, 10
PAIRS = SETS * (SETS - 1) // 2


def main() -> None:
    args = arguments(__doc__).parse_args()
    g = torch.Generator().manual_seed(0)
    centres = torch.randn(SETS, 1, 2, generator=g, dtype=torch.float64)
    sets = centres + 0.5 * torch.randn(SETS, POINTS, 2, generator=g, dtype=torch.float64)
    few = [tuple(torch.randint(SETS, (2,), generator=g).tolist()) for _ in range(500)]
    points = sets.numpy()
    rows = []
    for build in (clustering_tree, partition_tree):
        building: list[float] = []

        def ours(build=build, building=building):
            start = time.process_time()
            distance = TreeSlicedWasserstein.fit(sets, TREES, build, depth=6, generator=g)
            building.append(time.process_time() - start)
            return distance.pairwise(sets)

        exact = lambda: [ot.emd2([], [], ot.dist(points[i], points[j], "euclidean")) for i, j in few]  # noqa: E731
        seconds = interleaved({"ours": ours, "emd2": exact}, args.rounds)
        matrix = ours().numpy()
        near = np.corrcoef([matrix[i, j] for i, j in few], exact())[0, 1]
        share = PAIRS / len(few)
        rows.append(
            [
                build.__name__,
                f"{median(building):.2f} s",
                f"{median(seconds['ours']):.2f} s",
                f"{median(seconds['emd2']) * share:.0f} s",
                f"{ratio(seconds['emd2'], seconds['ours']) * share:.0f}x",
                f"{near:.3f}",
            ]
        )
    print(f"All pairs of {SETS} sets of {POINTS} points, {TREES} trees. Required: 50x")
    table(["trees", "building them", "in all", f"emd2, {PAIRS} pairs", "emd2 / ours", "correlation"], rows)


if __name__ == "__main__":
    main()
