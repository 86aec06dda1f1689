"""MuRP against MuRE on WN18RR at several dimensions, each with its own learning rate by validation.

The other settings are those of the recipe `murp-wn18rr`, with 80 epochs. Seed 0 is trained with three rates, a factor
of 3 apart, and with further ones while the best lies at the edge; the best by validation trains the other seeds. A run
that diverges counts as 0. A run whose figures are in the folder is not run again.

    python tests/benchmarks/dimension_curve.py --out FOLDER            GEOEMBED_DATA names the folder of the data sets
"""

import argparse
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from common import DIVERGED, NOTHING_LEARNT, at_best_rates, kept, markdown
from recipes import one

FIRST = {"murp": 0.06, "mure": 0.2}


def measure(run: Path, model: str, dim: int, lr: float, seed: int) -> Mapping[str, float]:
    settings = [f"model={model}", f"dim={dim}", f"lr={lr}", "epochs=80", "validate_every=40"]
    try:
        return one("murp-wn18rr", run, seed, settings)
    except SystemExit:
        if DIVERGED not in run.with_name(f"{run.name}.log").read_text(encoding="utf-8"):
            raise
        return NOTHING_LEARNT


def row(folder: Path, dim: int, seeds: list[int]) -> list[object]:
    def measured(model: str, lr: float, seed: int) -> dict[str, float]:
        run = folder / f"{model}-{dim}-{lr}-{seed}"
        return kept(run.with_name(f"{run.name}.json"), partial(measure, run, model, dim, lr, seed))

    return [dim, *at_best_rates(measured, FIRST, seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=[5, 10, 15, 20, 40])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="the first one chooses the rate")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    heads = ("d", "MuRP", "rate", "MuRE", "rate", "difference")
    markdown(heads, (row(args.out, dim, args.seeds) for dim in args.dims))


if __name__ == "__main__":
    main()
