"""Speed of the sliced Gromov-Wasserstein distance: forward, and with gradients, d = 16, float32.

Measured: CPU time of `SlicedGromovWasserstein` between two sets of n points, and memory above what was there before.
Peer: the sorting limit, `np.sort` of the projected arrays (projections, n) of both sets. Contenders take turns; a ratio
is the median over the turns. The forward pass has to take at most 1.5 times its limit, which is checked at the end.
`--large` adds a million points. Also checked: float32 sets 1000 from the origin against float64, to 1e-5.

    python tests/benchmarks/gromov_speed.py [--large]
"""

import numpy as np
import torch
from common import Memory, arguments, interleaved, median, ratio, table

from geoembed.distances.sliced_gromov import CyclicSlicedGromovWasserstein, SlicedGromovWasserstein

SIZES = [(1000, 50), (1000, 200), (10_000, 50), (10_000, 200), (100_000, 50), (100_000, 200)]
LARGE = (1_000_000, 50)
D, ALLOWED, OFFSET = 16, 1.5, 1000.0


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--large", action="store_true", help="also a million points")
    args = parser.parse_args()
    g = torch.Generator().manual_seed(0)
    rows, missed, errors = [], [], []
    for n, count in [*SIZES, LARGE] if args.large else SIZES:
        x, y = torch.randn(n, D, generator=g), 1.1 * torch.randn(n, D, generator=g)
        distance = SlicedGromovWasserstein(D, count, generator=g)
        cyclic = CyclicSlicedGromovWasserstein(D, directions=distance.slices.get_buffer("theta"))
        leaf = x.clone().requires_grad_()
        with Memory() as memory:  # before the projections of the limit are held
            distance(x, y)
        u, v = (distance.slices(points).numpy() for points in (x, y))
        contenders = {
            "limit": lambda u=u, v=v: (np.sort(u), np.sort(v)),
            "forward": lambda distance=distance, x=x, y=y: distance(x, y),
            "gradient": lambda distance=distance, x=leaf, y=y: torch.autograd.grad(distance(x, y), x),
            "cyclic": lambda cyclic=cyclic, x=x, y=y: cyclic(x, y),
        }
        seconds = interleaved(contenders, args.rounds, max(1, 10**6 // (n * count)))
        ratios = {name: ratio(values, seconds["limit"]) for name, values in seconds.items()}
        if ratios["forward"] > ALLOWED:
            missed.append(f"n = {n}, L = {count}")
        exact = distance((x + OFFSET).double(), (y + OFFSET).double()).item()
        errors.append(abs(distance(x + OFFSET, y + OFFSET).item() / exact - 1))
        rows.append(
            [n, count, f"{median(seconds['limit']) * 1e3:.2f}", f"{median(seconds['forward']) * 1e3:.2f}"]
            + [f"{ratios[name]:.2f}x" for name in ("forward", "gradient", "cyclic")]
            + [f"{memory.above / 2**20:.0f}", f"{errors[-1]:.0e}"]
        )
    columns = [
        "n",
        "L",
        "limit, ms",
        "forward, ms",
        "forward / limit",
        "with gradient",
        "cyclic",
        "MiB",
        "error at 1000",
    ]
    table(columns, rows)
    print(f"forward: at most {ALLOWED}x its limit, {'met' if not missed else 'NOT met at ' + '; '.join(missed)}")
    print(f"1000 from the origin: at most 1e-5, {'met' if max(errors) <= 1e-5 else 'NOT met'}")


if __name__ == "__main__":
    main()
