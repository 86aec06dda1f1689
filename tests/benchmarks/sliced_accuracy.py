"""Time to the same error: sliced Wasserstein against POT, and the maximum over directions.

The error of a Monte Carlo mean falls as 1 / sqrt(directions), so POT needs L (RMSE of POT / RMSE of ours)^2 directions
for the error that we have with L. Measured: RMSE of SW_2^2 over 40 draws of L directions each, relative to the truth
(by 20,000 directions in the plane, where they converge as 1 / L^2, and 400,000 orthogonal ones elsewhere), and CPU time
of one distance at n points a set, float32. Then the maximum: pure translations, whose maximal distance is |t|, and a
covariance with one loud axis, whose maximum is compared with the best of 30 long ascents.

    python tests/benchmarks/sliced_accuracy.py
"""

import ot
import torch
from common import arguments, interleaved, median, ratio, table

from geoembed.distances import directions
from geoembed.distances.max_sliced import MaxSlicedWasserstein
from geoembed.distances.sliced import ControlVariateSlicedWasserstein, SlicedWasserstein

N, DRAWS = 1000, 40


def data(d: int, g: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """A normal cloud against one with other spreads, a shift and two clusters."""
    x = torch.randn(N, d, generator=g)
    y = torch.randn(N, d, generator=g) * torch.linspace(0.5, 1.5, d)
    y[: N // 2] += torch.randn(d, generator=g) / d**0.5
    return x, y


def truth(x: torch.Tensor, y: torch.Tensor, g: torch.Generator) -> float:
    d, x, y = x.shape[-1], x.double(), y.double()
    if d == 2:
        return SlicedWasserstein(2, 20000, generator=g)(x, y).square().item()
    parts = [SlicedWasserstein(d, 20000, generator=g)(x, y).square().item() for _ in range(20)]
    return sum(parts) / len(parts)


def error(build, x: torch.Tensor, y: torch.Tensor, exact: float) -> float:
    squares = [(build()(x, y).square().item() / exact - 1) ** 2 for _ in range(DRAWS)]
    return (sum(squares) / DRAWS) ** 0.5


def equal_error(rounds: int) -> None:
    rows, g = [], torch.Generator().manual_seed(0)
    for d in (2, 3, 16, 128):
        x, y = data(d, g)
        exact = truth(x, y, g)
        for count in (64, 256):
            builds = {
                "POT": lambda d=d, count=count: SlicedWasserstein(d, count, directions=directions.iid, generator=g),
                "ours": lambda d=d, count=count: SlicedWasserstein(d, count, generator=g),
                "control variates": lambda d=d, count=count: ControlVariateSlicedWasserstein(d, count, generator=g),
            }
            rmse = {name: error(build, x.double(), y.double(), exact) for name, build in builds.items()}
            distance, theta = builds["ours"](), builds["POT"]().slices.theta.float().mT
            contenders = {
                "ours": lambda distance=distance, x=x, y=y: distance(x, y),
                "POT": lambda theta=theta, x=x, y=y: ot.sliced_wasserstein_distance(x, y, projections=theta),
            }
            seconds = interleaved(contenders, rounds, {"ours": 10, "POT": 1})
            speed = ratio(seconds["POT"], seconds["ours"])
            gain = (rmse["POT"] / rmse["ours"]) ** 2
            rows.append(
                [
                    d,
                    count,
                    *(f"{rmse[name]:.1e}" for name in builds),
                    f"{median(seconds['ours']) * 1e3:.2f}",
                    f"{median(seconds['POT']) * 1e3:.1f}",
                    f"{speed:.0f}x",
                    f"{gain:.0f}x",
                    f"{speed * gain:.0f}x",
                ]
            )
    print(f"n = {N}. Required: 100 times as fast as POT at the same error")
    columns = ["d", "directions", "RMSE POT (iid)", "ours", "control variates", "ours ms", "POT ms"]
    table([*columns, "at equal L", "fewer directions", "at equal error"], rows)


def maximum() -> None:
    rows, g = [], torch.Generator().manual_seed(1)
    for name in ("translation |t| = 2", "one loud axis"):
        for d in (16, 128):
            x, y = torch.randn(N, d, generator=g), torch.randn(N, d, generator=g)
            if name.startswith("translation"):
                t = torch.randn(d, generator=g)
                y, top = x + 2 * t / t.norm(), 2.0
            else:
                y[:, 3] *= 4
                top = MaxSlicedWasserstein(restarts=30, steps=2000, generator=g)(x.double(), y.double()).item()
            ours = MaxSlicedWasserstein(generator=g)(x, y).item()
            pot = [ot.max_sliced_wasserstein_distance(x, y, n_projections=L, seed=0).item() for L in (50, 1000)]
            rows.append([name, d, f"{top:.3f}", *(f"{v:.3f} ({v / top:.1%})" for v in (ours, *pot))])
    print(f"Max-sliced, n = {N}. Required: within 1 % at d = 128")
    table(["", "d", "maximum", "ours", "POT, 50 directions", "POT, 1000"], rows)


def main() -> None:
    args = arguments(__doc__).parse_args()
    maximum()
    equal_error(args.rounds)


if __name__ == "__main__":
    main()
