"""The flow of Kolouri et al. (NeurIPS 2019, arXiv 1902.00434, section 5): from a normal cloud to a swiss roll.

1,000 points from N(0, 0.25^2) flow for 250 steps of Adam, lr 1e-2, down a sliced Wasserstein distance of 50 slices that
are drawn anew before each step. Measured: W_2^2 between the points and the target, exactly (`ot.emd2`), the median over
the seeds and the worst. Linear slices, in independent directions as in the paper or in equispaced ones, and circular
ones have to reach 1e-5 in the median, which is checked at the end. Cubic slices alone are flat near the origin; the
paper's code adds linear ones to them, as the row before the last does here.

    python tests/benchmarks/flow.py
"""

import argparse
import math
import sys
import time
from collections.abc import Callable

import ot
import torch
from common import median, table
from torch import Tensor

from geoembed.distances import Circular, GeneralizedSlicedWasserstein, Linear, Polynomial, Slices
from geoembed.distances.directions import iid
from geoembed.flows import flow

KEPT = (50, 100, 150, 250)
REQUIRED = 1e-5


class Both(Slices):
    """The slices of two families, one after the other."""

    def __init__(self, first: Slices, second: Slices):
        super().__init__()
        self.first, self.second, self.count = first, second, first.count + second.count

    def project(self, points: Tensor, block: slice) -> Tensor:
        return torch.cat([self.first(points), self.second(points)], dim=-2)[..., block, :]

    def resample(self, generator: torch.Generator | None = None) -> None:
        self.first.resample(generator)
        self.second.resample(generator)


SLICES: dict[str, Callable[[int, torch.Generator], Slices]] = {
    "linear, independent": lambda count, g: Linear(2, count, iid, generator=g),
    "linear, equispaced": lambda count, g: Linear(2, count, generator=g),
    "circular, radius 1": lambda count, g: Circular(2, count, generator=g),
    "linear and cubic, half each": lambda count, g: Both(
        Linear(2, count // 2, generator=g), Polynomial(2, count - count // 2, generator=g)
    ),
    "cubic": lambda count, g: Polynomial(2, count, generator=g),
}
CHECKED = ("linear, independent", "linear, equispaced", "circular, radius 1")


def swiss_roll(n: int, generator: torch.Generator) -> Tensor:
    t = 1.5 * math.pi * (1 + 2 * torch.rand(n, generator=generator))
    x = torch.stack([t * t.cos(), t * t.sin()], dim=-1)
    x = x - x.mean(0)
    return x / x.abs().max()


def exact(x: Tensor, y: Tensor) -> float:
    """W_2^2."""
    return ot.emd2([], [], ot.dist(x.double().numpy(), y.double().numpy()), numItermax=10**7)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--points", type=int, default=1000)
    parser.add_argument("--slices", type=int, default=50)
    parser.add_argument("--seeds", type=int, default=5)
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows, reached = [], {}
    for name, build in SLICES.items():
        costs, seconds = [], []
        for seed in range(args.seeds):
            g = torch.Generator().manual_seed(seed)
            target = swiss_roll(args.points, g)
            start = 0.25 * torch.randn(args.points, 2, generator=g)
            distance = GeneralizedSlicedWasserstein(build(args.slices, g))
            begin = time.process_time()
            moved = flow(distance, start, target, steps=max(KEPT), lr=1e-2, keep=KEPT, generator=g)
            seconds.append(time.process_time() - begin)
            costs.append([exact(points, target) for points in moved.points])
        courses = list(zip(*costs, strict=True))
        reached[name] = median(courses[-1])
        rows.append((name, *(f"{median(c):.1e}" for c in courses), f"{max(courses[-1]):.1e}", f"{median(seconds):.1f}"))
    table(("slices", "start", *map(str, KEPT), f"{max(KEPT)}, worst seed", "CPU s"), rows)
    late = [f"{name}: {reached[name]:.1e}" for name in CHECKED if reached[name] > REQUIRED]
    if late:
        sys.exit(f"W_2^2 above {REQUIRED:g} after {max(KEPT)} steps: {'; '.join(late)}")


if __name__ == "__main__":
    main()
