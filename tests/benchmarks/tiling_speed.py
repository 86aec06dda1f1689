"""Speed of a training step on tilings against the hyperboloid: 1000 positives with 50 negatives each, float64.

Measured: CPU time of the distances of a batch, their gradient and a row-sparse step of `RiemannianSGD`, on tables of
as many nodes as the nouns (82,115) and the mammals (1,180) of WordNet have, points at radius 10.

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


def training(manifold, u, ids):
    """One step of the softmax ranking loss of hierarchies."""
    points = geoopt.ManifoldParameter(manifold.from_tangent(u), manifold=manifold)
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
            manifolds = {"Lorentz": Lorentz(), **{f"HTiling, {n} limbs": HTiling(d, n) for n in (1, 2, 4, 27)}}
            if d % 2 == 0:
                manifolds |= {f"LTiling, {n} limbs": LTiling(d // 2, n) for n in (1, 2, 22)}
            seconds = interleaved({name: training(m, u, ids) for name, m in manifolds.items()}, args.rounds)
            for name, values in seconds.items():
                against = f"{ratio(values, seconds['Lorentz']):.2f}x"
                lines.append([nodes, d, name, f"{median(values) * 1e3:.1f}", f"{BATCH / median(values):,.0f}", against])
    table(["nodes", "d", "manifold", "CPU ms", "positives a second", "this / Lorentz"], lines)


if __name__ == "__main__":
    main()
