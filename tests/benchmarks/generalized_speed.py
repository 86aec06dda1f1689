"""Speed of generalized and hyperbolic sliced distances: 1,000 against 1,000 points, 50 slices, p = 2, float32.

Measured: CPU time of the distance, forward alone, and forward with the gradients of both sets.
Peers: plain torch. The values of all slices, then `torch.sort`; for the polynomials of degree 5 in R^10, the matrix of
their 2,002 monomials times theta. "powers" raises all variables to all exponents, "gather" multiplies the five factors
of each monomial. Either way ours has to be at least 5 times as fast, which is checked at the end. "rows" does
that with the points of a variable in a row, without sharing products. The plain hyperbolic coordinates lose digits far
from the origin, which ours keep. Contenders take turns; a ratio is the median over the turns. Peak memory is measured
at 100,000 points.

    python tests/benchmarks/generalized_speed.py
"""

from collections.abc import Callable

import torch
from common import Memory, arguments, interleaved, median, ratio, table
from torch import Tensor

from geoembed.distance import Distance
from geoembed.distances.generalized import Circular, GeneralizedSlicedWasserstein
from geoembed.distances.hyperbolic import GeodesicSlicedWasserstein, HorosphericalSlicedWasserstein
from geoembed.distances.polynomial import Polynomial
from geoembed.manifolds import PoincareBall

N, L = 1000, 50
REQUIRED = 5


def sliced(project: Callable[[Tensor], Tensor]) -> Callable[[Tensor, Tensor], Tensor]:
    """project: (n, d) -> (L, n)."""
    return lambda x, y: (project(x).sort(-1).values - project(y).sort(-1).values).square().mean().sqrt()


def polynomials(slices: Polynomial) -> dict[str, Callable[[Tensor], Tensor]]:
    theta, variables = slices.theta.float(), torch.tensor(slices.monomials)
    exponents = torch.nn.functional.one_hot(variables, slices.dim).sum(1)

    def rows(x: Tensor) -> Tensor:
        coordinates = x.mT.contiguous()
        features = coordinates[variables[:, 0]]
        for k in range(1, slices.degree):
            features = features * coordinates[variables[:, k]]
        return theta @ features

    return {
        "powers": lambda x: ((x.unsqueeze(1) ** exponents).prod(-1) @ theta.mT).mT,
        "gather": lambda x: (x[:, variables].prod(-1) @ theta.mT).mT,
        "rows": rows,
    }


def circles(theta: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (x - theta.unsqueeze(1)).norm(dim=-1)


def horospheres(theta: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: ((theta.unsqueeze(1) - x).square().sum(-1) / (1 - x.square().sum(-1))).log()


def geodesics(theta: Tensor) -> Callable[[Tensor], Tensor]:
    return lambda x: (2 * theta @ x.mT / (1 + x.square().sum(-1))).atanh()


def with_gradients(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], object]:
    x, y = x.clone().requires_grad_(), y.clone().requires_grad_()
    return lambda: torch.autograd.grad(distance(x, y), (x, y))


def forward(distance: Callable[[Tensor, Tensor], Tensor], x: Tensor, y: Tensor) -> Callable[[], object]:
    return lambda: distance(x, y)


def main() -> None:
    args = arguments(__doc__).parse_args()
    g = torch.Generator().manual_seed(0)
    ball = PoincareBall()
    x, y = (torch.randn(N, 10, generator=g) for _ in range(2))
    u, v = (ball.from_tangent(torch.randn(N, 2, generator=g)) for _ in range(2))
    quintic = GeneralizedSlicedWasserstein(Polynomial(10, L, degree=5, generator=g))
    many = torch.randn(100_000, 10, generator=g).requires_grad_()
    with Memory() as memory:
        torch.autograd.grad(quintic(many, many.detach() + 1), many)
    del many
    print(f"polynomial, 100,000 points, forward and backward: peak memory {memory.above / 2**20:.0f} MiB\n")

    circular = GeneralizedSlicedWasserstein(Circular(10, L, generator=g))
    horospherical = HorosphericalSlicedWasserstein(ball, 2, L, generator=g)
    geodesic = GeodesicSlicedWasserstein(ball, 2, L, generator=g)
    contests: list[tuple[str, Distance, Tensor, Tensor, dict[str, Callable[[Tensor], Tensor]]]] = [
        ("polynomial, degree 5, d=10", quintic, x, y, polynomials(quintic.slices)),
        ("circular, d=10", circular, x, y, {"plain": circles(circular.slices.theta.float())}),
        ("horospherical, d=2", horospherical, u, v, {"plain": horospheres(horospherical.slices.theta.float())}),
        ("geodesic, d=2", geodesic, u, v, {"plain": geodesics(geodesic.slices.theta.float())}),
    ]
    rows, ratios = [], {}
    for name, distance, a, b, peers in contests:
        for kind, build in (("forward", forward), ("forward and backward", with_gradients)):
            contenders = {"ours": build(distance, a, b)}
            contenders |= {peer: build(sliced(project), a, b) for peer, project in peers.items()}
            seconds = interleaved(contenders, args.rounds, {"ours": 5, **dict.fromkeys(peers, 1)})
            for peer, project in peers.items():
                value = distance(a, b).item()
                off = abs(sliced(project)(a, b).item() / value - 1)
                ratios[name, kind, peer] = ratio(seconds[peer], seconds["ours"])
                times = [f"{median(seconds[who]) * 1e3:.1f}" for who in ("ours", peer)]
                rows.append([name, kind, times[0], peer, times[1], f"{ratios[name, kind, peer]:.1f}x", f"{off:.0e}"])
    table(["slices", "what", "ms", "peer", "ms", "peer / ours", "relative difference"], rows)
    for kind in ("forward", "forward and backward"):
        least = min(ratios["polynomial, degree 5, d=10", kind, peer] for peer in ("powers", "gather"))
        print(f"polynomial, degree 5, {kind}: at least {REQUIRED}x required, {least:.1f}x, "
              f"{'met' if least >= REQUIRED else 'NOT met'}")  # fmt: skip


if __name__ == "__main__":
    main()
