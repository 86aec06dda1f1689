"""Speed of distance matrices: 1,000 x 5,000 points in 32 dimensions, float32.

Measured: CPU time of `cdist`, forward alone, and forward with the gradients of both sides.
Peers: `geoopt.PoincareBall().dist` and `geoopt.Lorentz().dist` broadcast over the pairs (geoopt has no matrix form),
and `torch.cdist`. Each pair of contenders takes turns; a ratio is the median over the turns. The ball has to be at
least 20 times as fast as geoopt, which is checked at the end.

    python tests/benchmarks/distance_speed.py
"""

from collections.abc import Callable

import geoopt
import torch
from common import arguments, interleaved, median, ratio, table
from torch import Tensor

from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall

N, M, D = 1000, 5000, 32
REQUIRED = 20


def broadcast(dist: Callable[[Tensor, Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    return lambda x, y: dist(x.unsqueeze(1), y.unsqueeze(0))


def with_gradients(cdist: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], object]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    grad = torch.ones(N, M)
    return lambda: torch.autograd.grad(cdist(x, y), (x, y), grad)


def forward(cdist: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], object]:
    return lambda: cdist(x, y)


def main() -> None:
    args = arguments(__doc__).parse_args()
    g = torch.Generator().manual_seed(0)
    u, v = (torch.randn(n, D, generator=g) / D**0.5 for n in (N, M))  # about 1 from the origin
    ball, hyperboloid = PoincareBall(), Lorentz()
    pairs = {
        "PoincareBall": (ball, "geoopt.PoincareBall.dist, broadcast", broadcast(geoopt.PoincareBall().dist)),
        "Lorentz": (hyperboloid, "geoopt.Lorentz.dist, broadcast", broadcast(geoopt.Lorentz().dist)),
        "HalfSpace": (HalfSpace(), "torch.cdist", torch.cdist),
        "Euclidean": (Euclidean(), "torch.cdist", torch.cdist),
    }
    rows, ratios = [], {}
    for name, (manifold, peer_name, peer) in pairs.items():
        x, y = manifold.from_tangent(u), manifold.from_tangent(v)
        if name != "HalfSpace":
            worst = (manifold.cdist(x, y) - peer(x, y)).abs().max().item()
        for kind, build in (("forward", forward), ("forward and backward", with_gradients)):
            contenders = {"ours": build(manifold.cdist, x, y), "peer": build(peer, x, y)}
            seconds = interleaved(contenders, args.rounds, {"ours": 3, "peer": 1})
            ratios[name, kind] = ratio(seconds["peer"], seconds["ours"])
            agree = "other distance" if name == "HalfSpace" else f"{worst:.0e}"
            times = [f"{median(seconds[who]) * 1e3:.0f}" for who in ("ours", "peer")]
            rows.append([f"{name}.cdist", kind, times[0], peer_name, times[1], f"{ratios[name, kind]:.1f}x", agree])
    table(["ours", "what", "ms", "peer", "ms", "peer / ours", "largest difference"], rows)
    for kind in ("forward", "forward and backward"):
        met = "met" if ratios["PoincareBall", kind] >= REQUIRED else "NOT met"
        print(f"PoincareBall {kind}: at least {REQUIRED}x required, {met}")


if __name__ == "__main__":
    main()
