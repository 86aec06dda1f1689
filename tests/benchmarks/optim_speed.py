"""Speed of a row-sparse optimizer step: 1,100 rows of a 40,943 x 40 table, float32, as a training step on WN18RR makes.

Measured: CPU time of `RiemannianAdam.step`, and of the dense step of the whole table.
Peers: `torch.optim.SparseAdam` for Euclidean rows, `geoopt.optim.SparseRiemannianAdam` for points of the ball.

    python tests/benchmarks/optim_speed.py
"""

import geoopt
import torch
from common import arguments, interleaved, median, ratio, table
from torch.nn import Parameter

from geoembed.manifolds import PoincareBall
from geoembed.optim import RiemannianAdam

ENTITIES, D, ROWS = 40_943, 40, 1100


def main() -> None:
    args = arguments(__doc__).parse_args()
    g = torch.Generator().manual_seed(0)
    u = 0.5 * torch.randn(ENTITIES, D, generator=g) / D**0.5
    ids = torch.randperm(ENTITIES, generator=g)[:ROWS].sort().values
    rows = torch.randn(ROWS, D, generator=g)
    grad = torch.sparse_coo_tensor(ids.unsqueeze(0), rows, (ENTITIES, D), is_coalesced=True, check_invariants=True)
    ours, theirs = PoincareBall(), geoopt.PoincareBall()

    def stepping(optimizer, table, gradient):
        table.grad = gradient
        return optimizer.step

    def point(manifold):
        return geoopt.ManifoldParameter(ours.from_tangent(u), manifold=manifold)

    tables = {
        "RiemannianAdam, Euclidean": (RiemannianAdam, Parameter(u.clone()), grad),
        "torch SparseAdam": (torch.optim.SparseAdam, Parameter(u.clone()), grad),
        "RiemannianAdam, ball": (RiemannianAdam, point(ours), grad),
        "RiemannianAdam, geoopt's ball": (RiemannianAdam, point(theirs), grad),
        "geoopt SparseRiemannianAdam, its ball": (geoopt.optim.SparseRiemannianAdam, point(theirs), grad),
        "RiemannianAdam, ball, dense": (RiemannianAdam, point(ours), grad.to_dense()),
    }
    contenders = {
        name: stepping(optimizer([values], lr=1e-4), values, gradient)
        for name, (optimizer, values, gradient) in tables.items()
    }
    many = {name: 2 if "dense" in name else 20 for name in contenders}
    seconds = interleaved(contenders, max(args.rounds, 11), many)
    euclidean, ball = "RiemannianAdam, Euclidean", "RiemannianAdam, ball"
    lines = []
    for name, values in seconds.items():
        against = euclidean if name in (euclidean, "torch SparseAdam") else ball
        lines.append([name, f"{median(values) * 1e3:.2f}", f"{ratio(values, seconds[against]):.2f}x {against}"])
    table(["step", "CPU ms", "this / ours"], lines)


if __name__ == "__main__":
    main()
