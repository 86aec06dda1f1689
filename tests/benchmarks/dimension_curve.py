"""MuRP against MuRE on WN18RR at several dimensions, each with its own learning rate by validation.

The other settings are those of the recipe `murp-wn18rr`, with 80 epochs. Seed 0 is trained with three rates, a factor
of 3 apart, and with further ones while the best lies at the edge; the best by validation trains the other seeds. A run
that fails, as one that diverges, counts as 0. A run whose figures are in the folder is not run again.

    python tests/benchmarks/dimension_curve.py --out FOLDER            GEOEMBED_DATA names the folder of the data sets
"""

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from pathlib import Path

from recipes import one

FIRST = {"murp": 0.06, "mure": 0.2}


def measured(folder: Path, model: str, dim: int, lr: float, seed: int) -> dict[str, float]:
    run = folder / f"{model}-{dim}-{lr:.0e}-{seed}"
    kept = run.with_name(f"{run.name}.json")
    if not kept.exists():
        settings = [f"model={model}", f"dim={dim}", f"lr={lr:.2g}", "epochs=80", "validate_every=40"]
        try:
            figures = one("murp-wn18rr", run, seed, settings)
        except SystemExit as error:
            print(error, file=sys.stderr)
            figures = {"valid": 0.0, "mrr": 0.0}
        kept.write_text(json.dumps(figures), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def best_rate(score: Callable[[float], float], first: float) -> float:
    """The rate with the highest score of a series a factor of 3 apart, widened until its ends are no better."""
    found = {step: score(first * 3**step) for step in (-1, 0, 1)}
    while (best := max(found, key=found.__getitem__)) in (min(found), max(found)):
        step = best + (1 if best == max(found) else -1)
        found[step] = score(first * 3**step)
    return first * 3**best


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=[5, 10, 15, 20, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the first one chooses the rate")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    print("| d | MuRP | seeds | rate | MuRE | seeds | rate | MuRP - MuRE |\n|" + " --- |" * 8)
    for dim in args.dims:
        cells, means = [], []
        for model, first in FIRST.items():

            def valid(lr: float, model: str = model, dim: int = dim) -> float:
                return measured(args.out, model, dim, lr, args.seeds[0])["valid"]

            lr = best_rate(valid, first)
            mrr = [measured(args.out, model, dim, lr, seed)["mrr"] for seed in args.seeds]
            means.append(statistics.mean(mrr))
            cells += [f"{means[-1]:.4f}", ", ".join(f"{x:.4f}" for x in mrr), f"{lr:.2g}"]
        print(f"| {dim} | {' | '.join(cells)} | {means[0] - means[1]:.4f} |", flush=True)


if __name__ == "__main__":
    main()
