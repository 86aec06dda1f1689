"""Speed and memory of the sliced Wasserstein distance against POT and against the time of sorting.

Measured, float32, d = 16, the same directions for both: the distance of two sets, forward and with the gradient of one
set; sets of different sizes with weights; peak memory above what was there before; a million points; all pairs of 1,000
sets. "sort": `np.sort` of both arrays of projected values, which any exact method has to do. POT gets the tensors of
torch that we get. Contenders take turns; a ratio is the median over the turns.

    python tests/benchmarks/sliced_speed.py [--large]        --large: also n = 1e5 with 200 directions and 1e6 points
"""

import gc

import numpy as np
import ot
import torch
from common import Memory, arguments, interleaved, median, ratio, table

from geoembed.distances.sliced import SlicedWasserstein
from geoembed.pointsets import PointSets

D = 16


def sets(n: int, m: int, d: int = D) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(n)
    return torch.randn(n, d, generator=g), torch.randn(m, d, generator=g) * 1.1 + 0.2


def pot(x, y, distance, a=None, b=None):
    return ot.sliced_wasserstein_distance(x, y, a, b, projections=distance.slices.theta.to(x).mT, p=2)


def sorting(x, y, distance):
    theta = distance.slices.theta.to(x)
    u, v = (theta @ x.mT).numpy(), (theta @ y.mT).numpy()
    return lambda: (np.sort(u, axis=-1), np.sort(v, axis=-1))


def with_gradient(function, x):
    leaf = x.clone().requires_grad_()
    return lambda: torch.autograd.grad(function(leaf), leaf)


def one_pair(sizes, rounds: int) -> None:
    rows = []
    for n, count in sizes:
        x, y = sets(n, n)
        distance = SlicedWasserstein(D, count, generator=torch.Generator().manual_seed(0))
        contenders = {
            "sort": sorting(x, y, distance),
            "ours": lambda x=x, y=y, distance=distance: distance(x, y),
            "ours, gradient": with_gradient(lambda t, y=y, distance=distance: distance(t, y), x),
        }
        ours = interleaved(contenders, rounds if n > 1e4 else 20 * rounds, {k: max(1, 10**4 // n) for k in contenders})
        peers = {
            "POT": lambda x=x, y=y, distance=distance: pot(x, y, distance),
            "POT, gradient": with_gradient(lambda t, y=y, distance=distance: pot(t, y, distance), x),
        }
        theirs = interleaved(peers, 1 if n > 1e4 else rounds)
        ms = {name: median(values) * 1e3 for name, values in {**ours, **theirs}.items()}
        error = abs(distance(x, y).item() / pot(x.double(), y.double(), distance).item() - 1)
        rows.append(
            [
                f"{n:.0e}",
                count,
                *(f"{ms[name]:.2f}" for name in ("sort", "ours", "ours, gradient", "POT", "POT, gradient")),
                f"{ratio(ours['ours'], ours['sort']):.2f}",
                f"{ms['POT'] / ms['ours']:.0f}x",
                f"{ms['POT, gradient'] / ms['ours, gradient']:.0f}x",
                f"{error:.0e}",
            ]
        )
    print("One pair, equal sizes and weights, ms. Required: ours / sort <= 1.5, POT / ours >= 15, with gradient >= 10")
    columns = ["n", "directions", "sort", "ours", "with gradient", "POT", "with gradient"]
    table([*columns, "ours / sort", "POT / ours", "with gradient", "error"], rows)


def weighted(rounds: int) -> None:
    rows = []
    for n, m in ((1000, 900), (10000, 9000), (100000, 90000)):
        x, y = sets(n, m)
        g = torch.Generator().manual_seed(1)
        a, b = torch.rand(n, generator=g), torch.rand(m, generator=g)
        a, b = a / a.sum(), b / b.sum()
        for p in (2, 1):
            distance = SlicedWasserstein(D, 50, p, generator=g)
            theta = distance.slices.theta.to(x).mT
            forms = {
                "equal weights": ((x, y), (None, None)),
                "weights": ((PointSets(x, a), PointSets(y, b)), (a, b)),
            }
            for name, (ours, w) in forms.items():
                contenders = {
                    "ours": lambda ours=ours, distance=distance: distance(*ours),
                    "POT": lambda w=w, p=p, theta=theta, x=x, y=y: ot.sliced_wasserstein_distance(
                        x, y, *w, projections=theta, p=p
                    ),
                }
                seconds = interleaved(contenders, rounds if n < 1e5 else 1, {"ours": max(1, 10**4 // n), "POT": 1})
                times = [f"{median(seconds[who]) * 1e3:.1f}" for who in ("ours", "POT")]
                rows.append([f"{n}, {m}", name, p, *times, f"{ratio(seconds['POT'], seconds['ours']):.1f}x"])
    print("Different sizes, 50 directions, milliseconds. Required with weights: 4x")
    table(["n, m", "weights", "p", "ours", "POT", "POT / ours"], rows)


def memory() -> None:
    x, y = sets(100_000, 100_000)
    distance = SlicedWasserstein(D, 200, generator=torch.Generator().manual_seed(0))
    runs = {
        "forward": lambda: distance(x, y),
        "with gradient": with_gradient(lambda t: distance(t, y), x),
    }
    rows = []
    with_gradient(lambda t: distance(t, y[:100]), x[:100])()  # libraries load on first use
    for name, run in runs.items():
        gc.collect()
        with Memory() as ours:
            run()
        rows.append([name, f"{ours.above / 1e6:.0f} MB"])
    print("Peak memory above the inputs, n = 1e5, 200 directions. Required: 64 MB")
    table(["", "ours"], rows)
    gc.collect()
    with Memory() as theirs:
        pot(x, y, distance)
    print(f"POT, forward: {theirs.above / 1e6:.0f} MB\n")


def million() -> None:
    x, y = sets(10**6, 10**6)
    distance = SlicedWasserstein(D, 50, generator=torch.Generator().manual_seed(0))
    seconds = interleaved({"ours": lambda: distance(x, y), "sort": sorting(x, y, distance)}, 3)
    print("A million points against a million, 50 directions, seconds. Required: ours / sort <= 1.5")
    times = [f"{median(seconds[who]):.2f}" for who in ("ours", "sort")]
    table(["ours", "sort", "ours / sort"], [[*times, f"{ratio(seconds['ours'], seconds['sort']):.2f}"]])


def all_pairs(rounds: int) -> None:
    g = torch.Generator().manual_seed(2)
    x = torch.randn(1000, 64, 3, generator=g)
    distance = SlicedWasserstein(3, 50, generator=g)
    few = [(i, j) for i in range(15) for j in range(15)]
    contenders = {
        "ours": lambda: distance.pairwise(x),
        "POT": lambda: [pot(x[i], x[j], distance) for i, j in few],
    }
    seconds = interleaved(contenders, rounds)
    share = 1000 * 999 / 2 / len(few)
    worst = max(
        abs(distance.pairwise(x[:15])[i, j].item() - pot(x[i], x[j], distance).item()) for i, j in few if i != j
    )
    print(f"All pairs of 1,000 sets of 64 points, d = 3, 50 directions; POT from {len(few)} pairs. Required: 1000x")
    table(
        ["ours", "POT, 499,500 pairs", "POT / ours", "largest difference"],
        [
            [
                f"{median(seconds['ours']):.3f} s",
                f"{median(seconds['POT']) * share:.0f} s",
                f"{ratio(seconds['POT'], seconds['ours']) * share:.0f}x",
                f"{worst:.0e}",
            ]
        ],
    )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--large", action="store_true")
    args = parser.parse_args()
    sizes = [(n, count) for n in (1000, 10000, 100000) for count in (50, 200)]
    memory()
    all_pairs(args.rounds)
    one_pair(sizes if args.large else sizes[:5], args.rounds)
    weighted(args.rounds)
    if args.large:
        million()


if __name__ == "__main__":
    main()
