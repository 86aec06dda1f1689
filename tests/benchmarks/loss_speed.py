"""Losses and miners against pytorch-metric-learning 2.9: CPU time and peak memory of a forward and backward pass.

float32, 128 features, 4 items of each label, Euclidean distance of items as they are. Times: both take turns in one
process. Memory: peak above what was resident before the call, each contender in a process of its own. "difference" is
the relative difference of the two values, where both have the same formula. A new case is one line of CASES.

    python tests/benchmarks/loss_speed.py
    python tests/benchmarks/loss_speed.py --only "triplet, all" lifted
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from common import Memory, arguments, interleaved, median, ratio, table
from pytorch_metric_learning import distances, losses, miners

from geoembed.distances import SNR, Euclidean
from geoembed.losses.lifted import GeneralisedLifted, Lifted
from geoembed.losses.pairs import Contrastive, Margin, RankedList
from geoembed.losses.triplets import SemiHardTriplet, SoftMarginTriplet, Triplet

Step = Callable[[torch.Tensor, torch.Tensor], Any]


@dataclass(frozen=True)
class Case:
    """Two losses, or miners, of n items: `ours` and `peer` make what is called with items and labels.

    time: what peer / ours has to be at least. memory: what ours / peer may be at most. same: both have the same value.
    repeats: calls of ours in a turn.
    """

    n: int
    ours: Callable[[], Step]
    peer: Callable[[], Step]
    time: float | None = None
    memory: float | None = None
    same: bool = True
    repeats: int = 3


def pml(make: Callable[..., Step], **options: Any) -> Callable[[], Step]:
    return lambda: make(distance=distances.LpDistance(normalize_embeddings=False), **options)


def our(make: Callable[..., Step], **options: Any) -> Callable[[], Step]:
    return lambda: make(Euclidean(), **options)


CASES = {
    "triplet, all": Case(1024, our(Triplet, margin=0.2), pml(losses.TripletMarginLoss, margin=0.2), 8, 1 / 6),
    "soft margin triplet, all": Case(
        1024, our(SoftMarginTriplet), pml(losses.TripletMarginLoss, margin=0.0, smooth_loss=True)
    ),
    "semi-hard: our loss, their miner": Case(
        1024, our(SemiHardTriplet), pml(miners.TripletMarginMiner, type_of_triplets="semihard"), 8, 1 / 10, same=False
    ),
    "contrastive, SNR": Case(
        1024,
        lambda: Contrastive(SNR()),
        lambda: losses.ContrastiveLoss(distance=distances.SNRDistance(normalize_embeddings=False)),
        15,
        1 / 8,
    ),
    "contrastive": Case(1024, our(Contrastive, margin=15.0), pml(losses.ContrastiveLoss, neg_margin=15.0), 1 / 1.1),
    "margin": Case(1024, our(Margin, beta=14.0), pml(losses.MarginLoss, beta=14.0)),
    "ranked list": Case(
        1024,
        our(RankedList, alpha=15.0, margin=2.0, temperature=4.0),
        pml(losses.RankedListLoss, alpha=15.0, margin=2.0, Tn=4.0),
        same=False,  # theirs adds 1e-5 for each item to its denominators
    ),
    "lifted": Case(256, our(Lifted), pml(losses.LiftedStructureLoss), 100),
    "generalised lifted": Case(1024, our(GeneralisedLifted), pml(losses.GeneralizedLiftedStructureLoss)),
}


def step(made: Step, x: torch.Tensor, labels: torch.Tensor) -> float | None:
    """A forward pass, and a backward pass if there is a value; a miner has none."""
    x.grad = None
    value = made(x, labels)
    if not isinstance(value, torch.Tensor):
        return None
    value.backward()
    return value.item()


def problem(n: int) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return torch.randn(n, 128, generator=g).requires_grad_(), torch.arange(n) // 4


def memory_of(name: str, who: str) -> int:
    """Peak bytes of one pass in a new process."""
    command = [sys.executable, __file__, "--only", name, "--measure", who]
    return int(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def measure(case: Case, who: str) -> int:
    made = getattr(case, who)()
    step(made, *problem(32))  # so that libraries are loaded
    x, labels = problem(case.n)
    with Memory() as memory:
        step(made, x, labels)
    return memory.above


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--only", nargs="+", choices=CASES, default=list(CASES), help="cases")
    parser.add_argument("--measure", choices=("ours", "peer"), help="print the peak memory of one contender, in bytes")
    args = parser.parse_args()
    if args.measure:
        print(measure(CASES[args.only[0]], args.measure))
        return
    rows = []
    for name in args.only:
        case = CASES[name]
        x, labels = problem(case.n)
        made = {"ours": case.ours(), "peer": case.peer()}
        contenders = {who: lambda made=one: step(made, x, labels) for who, one in made.items()}  # noqa: B023
        seconds = interleaved(contenders, args.rounds, {"ours": case.repeats, "peer": 1})
        values = [run() for run in contenders.values()]
        difference = f"{abs(values[0] - values[1]) / abs(values[1]):.0e}" if case.same else ""
        used = {who: memory_of(name, who) / 2**20 for who in made}
        rows.append(
            [name, case.n, difference]
            + [f"{1e3 * median(seconds[who]):.1f}" for who in made]
            + [f"{ratio(seconds['peer'], seconds['ours']):.1f}x", f"{case.time:.3g}x" if case.time else ""]
            + [f"{used[who]:.0f}" for who in made]
            + [f"{used['ours'] / used['peer']:.3f}", f"{case.memory:.2g}" if case.memory else ""]
        )
    table(
        ["loss", "items", "difference", "ours ms", "PML ms", "PML / ours", "required",
         "ours MiB", "PML MiB", "ours / PML", "required"],
        rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
