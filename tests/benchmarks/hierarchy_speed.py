"""Throughput of hierarchy training against geoopt: pairs (node, ancestor) a CPU second, d = 5, 82,115 nodes, float64.

Ours: `HierarchyTask` on the nouns of WordNet (--data), so many nodes a step, each with all its ancestors, and 50
negatives drawn for the whole step. geoopt: 1,000 pairs a step, with 50 negatives for each pair, as the papers' codes
have it, or 50 for the whole step; its distances, its row-sparse Riemannian SGD, rows gathered once. A step is loss,
gradient and update. Tilings in two dimensions come last.

    python tests/benchmarks/hierarchy_speed.py --data FOLDER
"""

from pathlib import Path

import geoopt
import torch
from common import arguments, interleaved, median, table
from torch.nn.functional import embedding, log_softmax

from geoembed.data import Closure
from geoembed.hierarchy import HierarchyTask, check_and_shorten
from geoembed.manifolds import HTiling, Lorentz, LTiling, PoincareBall
from geoembed.optim import RiemannianSGD

D, NEGATIVES, LR = 5, 50, 0.01


def ours(closure, manifold, d, nodes):
    g = torch.Generator().manual_seed(0)
    points = manifold.random(closure.n_nodes, manifold.point_dim(d), std=1.0, generator=g, dtype=torch.float64)
    task = HierarchyTask(closure, manifold, points, negatives=NEGATIVES, generator=g)
    optimizer = RiemannianSGD([task.points], lr=LR)
    batch = torch.randperm(task.n, generator=g)[:nodes]

    def step():
        optimizer.zero_grad()
        task.step(batch).backward()
        check_and_shorten(task.points, LR, 1.0)
        optimizer.step()

    return len(task.groups.positions(batch)[0]), step


def theirs(closure, manifold, pairs, shared):
    g = torch.Generator().manual_seed(0)
    size = D + isinstance(manifold, geoopt.Lorentz)
    points = geoopt.ManifoldParameter(manifold.random_normal(closure.n_nodes, size, dtype=None).double(), manifold)
    optimizer = geoopt.optim.SparseRiemannianSGD([points], lr=LR)
    u, v = closure.pairs[torch.randperm(len(closure.pairs), generator=g)[:pairs]].unbind(1)
    negatives = torch.randint(closure.n_nodes, (1 if shared else pairs, NEGATIVES), generator=g)

    def step():
        optimizer.zero_grad()
        rows = embedding(torch.cat([u, v, negatives.flatten()]), points, sparse=True)
        x, y, z = rows.split([pairs, pairs, negatives.numel()])
        near = manifold.dist(x, y).unsqueeze(1)
        far = manifold.dist(x.unsqueeze(1), z.view(*negatives.shape, -1))
        (-log_softmax(-torch.cat([near, far], 1), dim=1)[:, 0].sum()).backward()
        optimizer.step()

    return pairs, step


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder with nouns.tsv.gz")
    args = parser.parse_args()
    closure = Closure.from_file(args.data / "nouns.tsv.gz")
    contenders = {
        "ours, Lorentz, 112 nodes": ours(closure, Lorentz(), D, 112),
        "ours, Lorentz, 1,024 nodes": ours(closure, Lorentz(), D, 1024),
        "ours, ball, 112 nodes": ours(closure, PoincareBall(), D, 112),
        "ours, ball, 1,024 nodes": ours(closure, PoincareBall(), D, 1024),
        "geoopt, Lorentz, 50 negatives a pair": theirs(closure, geoopt.Lorentz(), 1000, False),
        "geoopt, Lorentz, 50 a step": theirs(closure, geoopt.Lorentz(), 1000, True),
        "geoopt, ball, 50 negatives a pair": theirs(closure, geoopt.PoincareBall(), 1000, False),
        "geoopt, ball, 50 a step": theirs(closure, geoopt.PoincareBall(), 1000, True),
        "ours, HTiling d = 2, 112 nodes": ours(closure, HTiling(2, 1), 2, 112),
        "ours, HTiling d = 2, 1,024 nodes": ours(closure, HTiling(2, 1), 2, 1024),
        "ours, LTiling d = 2, 112 nodes": ours(closure, LTiling(1, 1), 2, 112),
        "ours, LTiling d = 2, 1,024 nodes": ours(closure, LTiling(1, 1), 2, 1024),
    }
    seconds = interleaved({name: step for name, (_, step) in contenders.items()}, args.rounds, 3)
    table(
        ["step", "pairs", "ms", "pairs / CPU s"],
        [
            [name, f"{pairs:,}", f"{median(seconds[name]) * 1e3:.1f}", f"{pairs / median(seconds[name]):,.0f}"]
            for name, (pairs, _) in contenders.items()
        ],
    )


if __name__ == "__main__":
    main()
