"""Speed of a training step on tilings against the hyperboloid: 1000 positives with 50 negatives each, float64.

Measured: CPU time of the distances of a batch, their gradient and a row-sparse step of `RiemannianSGD`, on tables of
as many nodes as the nouns (82,115) and the mammals (1,180) of WordNet have, points up to radius 10. The tilings allow
the limbs of radius 700; their rows start as narrow as the points allow, or with all limbs.

    python tests/benchmarks/tiling_speed.py
"""

import geoopt
import torch
from common import arguments, interleaved, median, ratio, table
from torch.nn.functional import embedding, log_softmax

from geoembed.manifolds import Lorentz
from geoembed.manifolds.htiling import HTiling
from geoembed.manifolds.ltiling import LTiling
from geoembed.optim import RiemannianSGD

BATCH, NEGATIVES, RADIUS = 1000, 50, 10.0


def training(manifold, u, ids, narrow=False):
    """One step of the softmax ranking loss of hierarchies."""
    points = manifold.from_tangent(u)
    if narrow:
        points = manifold.narrow(points)
    points = geoopt.ManifoldParameter(points, manifold=manifold)
    optimizer = RiemannianSGD([points], lr=0.1)

    def step():
        optimizer.zero_grad()
        rows = embedding(ids, points, sparse=True)
        d = manifold.dist(rows[:, :1], rows[:, 1:])
        (-log_softmax(-d, dim=-1)[:, 0].sum()).backward()
        optimizer.step()

    return step


def main() -> None:
    args = arguments(__doc__).parse_args()
    lines = []
    for nodes in (82_115, 1_180):
        for d in (2, 5, 10):
            g = torch.Generator().manual_seed(0)
            u = torch.randn(nodes, d, dtype=torch.float64, generator=g)
            u = RADIUS * torch.rand(nodes, 1, dtype=u.dtype, generator=g) * u / u.norm(dim=-1, keepdim=True)
            ids = torch.randint(nodes, (BATCH, NEGATIVES + 2), generator=g)
            contenders = {"Lorentz": training(Lorentz(), u, ids)}
            for tiling in [HTiling(d, 27), LTiling(d // 2, 22)][: 2 - d % 2]:
                contenders[f"{tiling.name}, narrow"] = training(tiling, u, ids, narrow=True)
                contenders[f"{tiling.name}, {tiling.limbs} limbs"] = training(tiling, u, ids)
            seconds = interleaved(contenders, args.rounds)
            for name, values in seconds.items():
                against = f"{ratio(values, seconds['Lorentz']):.2f}x"
                lines.append([nodes, d, name, f"{median(values) * 1e3:.1f}", f"{BATCH / median(values):,.0f}", against])
    table(["nodes", "d", "manifold", "CPU ms", "positives a second", "this / Lorentz"], lines)


if __name__ == "__main__":
    main()
