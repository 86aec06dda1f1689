"""What the benchmarks share: CPU time of functions that take turns, peak memory, tables."""

import argparse
import json
import resource
import statistics
import sys
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

import torch

DIVERGED = "the loss became"  # so begins what a training that diverged says
NOTHING_LEARNT = {"valid": 0.0, "mrr": 0.0}  # and so it counts


def arguments(description: str | None, data: bool = False) -> argparse.ArgumentParser:
    """A parser with --data and --rounds; one thread from here on."""
    torch.set_num_threads(1)
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )  # fmt: skip
    if data:
        parser.add_argument("--data", type=Path, required=True, help="folder with train, valid and test triples")
    parser.add_argument("--rounds", type=int, default=5, help="turns that each contender takes")
    return parser


def interleaved(
    contenders: Mapping[str, Callable[[], object]], rounds: int, repeats: Mapping[str, int] | int = 1
) -> dict[str, list[float]]:
    """CPU seconds of one call of each function, one figure a round. All take a turn in each round, after a warm-up.

    repeats: calls in a turn, whose mean is the figure.
    """
    many = dict.fromkeys(contenders, repeats) if isinstance(repeats, int) else repeats
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for run in contenders.values():
        run()
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.process_time()
            for _ in range(many[name]):
                run()
            seconds[name].append((time.process_time() - start) / many[name])
    return seconds


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


def ratio(slow: Sequence[float], fast: Sequence[float]) -> float:
    """Median over the rounds of slow / fast, each measured back to back."""
    return statistics.median(a / b for a, b in zip(slow, fast, strict=True))


def rss() -> int:
    """Bytes of resident memory now; where /proc is missing, the peak so far."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
        return pages * resource.getpagesize()
    except OSError:
        return peak_rss()


def peak_rss() -> int:
    """Bytes of resident memory at its peak since the process started."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


class Memory:
    """Samples the resident memory every millisecond; `above` is the peak less what was there before."""

    def __enter__(self) -> "Memory":
        self.before = self.peak = rss()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.peak = max(self.peak, rss())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    @property
    def above(self) -> int:
        return self.peak - self.before


def table(columns: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """Print a Markdown table, and what all its times are."""
    markdown(columns, rows)
    print(f"\n{machine()}\n", flush=True)


def markdown(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print a Markdown table, each row as it comes."""
    print(f"| {' | '.join(columns)} |\n|{' --- |' * len(columns)}", flush=True)
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |", flush=True)


def over_seeds(values: Sequence[float]) -> str:
    """The mean, and the value of each seed."""
    return f"{statistics.mean(values):.4f} ({' '.join(f'{value:.4f}' for value in values)})"


def best_rate(score: Callable[[float], float], first: float) -> float:
    """The rate with the highest score of a series a factor of 3 apart, widened until its ends are no better."""

    def rate(step: int) -> float:
        return float(f"{first * 3**step:.2g}")

    found = {step: score(rate(step)) for step in (-1, 0, 1)}
    while (best := max(found, key=found.__getitem__)) in (min(found), max(found)):
        step = best + (1 if best == max(found) else -1)
        found[step] = score(rate(step))
    return rate(best)


def at_best_rates(
    measured: Callable[[str, float, int], Mapping[str, float]], first: Mapping[str, float], seeds: Sequence[int]
) -> list[object]:
    """Cells of a table: of each of two models the test MRR over the seeds and its rate, and the difference.

    measured(model, rate, seed): "valid" and "mrr". first: where the rates of each model start; the first seed chooses.
    """
    cells: list[object] = []
    means = []
    for model, start in first.items():
        lr = best_rate(lambda lr, model=model: measured(model, lr, seeds[0])["valid"], start)
        mrr = [measured(model, lr, seed)["mrr"] for seed in seeds]
        means.append(statistics.mean(mrr))
        cells += [over_seeds(mrr), lr]
    return [*cells, f"{means[0] - means[1]:+.4f}"]


def kept(path: Path, measure: Callable[[], Mapping[str, float]]) -> dict[str, float]:
    """The figures in a JSON file; where there is none they are measured and kept."""
    if not path.exists():
        path.write_text(json.dumps(measure()), encoding="utf-8")
    return json.loads(path.read_text(encoding="utf-8"))


def machine() -> str:
    return f"torch {torch.__version__}, Python {sys.version.split()[0]}, one thread, CPU time, medians."
