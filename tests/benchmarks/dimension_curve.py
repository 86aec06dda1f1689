"""MuRP against MuRE on WN18RR at several dimensions, each with its own learning rate by validation.

The other settings are those of the recipe `murp-wn18rr`, with 80 epochs. Seed 0 is trained with three rates, a factor
of 3 apart, and with further ones while the best lies at the edge; the best by validation trains the other seeds. A run
that diverges counts as 0. A run whose figures are in the folder is not run again.

    python tests/benchmarks/dimension_curve.py --out FOLDER            GEOEMBED_DATA names the folder of the data sets
"""

import argparse
import json
import statistics
from pathlib import Path

from common import best_rate, markdown, over_seeds
from recipes import one

FIRST = {"murp": 0.06, "mure": 0.2}


def measured(folder: Path, model: str, dim: int, lr: float, seed: int) -> dict[str, float]:
    run = folder / f"{model}-{dim}-{lr}-{seed}"
    kept, log = (run.with_name(f"{run.name}.{suffix}") for suffix in ("json", "log"))
    if not kept.exists():
        settings = [f"model={model}", f"dim={dim}", f"lr={lr}", "epochs=80", "validate_every=40"]
        try:
            figures = one("murp-wn18rr", run, seed, settings)
        except SystemExit:
            if "the loss became" not in log.read_text(encoding="utf-8"):
                raise
            figures = {"valid": 0.0, "mrr": 0.0}
        kept.write_text(json.dumps(figures), encoding="utf-8")
    return json.loads(kept.read_text(encoding="utf-8"))


def row(folder: Path, dim: int, seeds: list[int]) -> list[object]:
    cells, means = [], []
    for model, first in FIRST.items():
        lr = best_rate(lambda lr, model=model: measured(folder, model, dim, lr, seeds[0])["valid"], first)
        mrr = [measured(folder, model, dim, lr, seed)["mrr"] for seed in seeds]
        means.append(statistics.mean(mrr))
        cells += [over_seeds(mrr), lr]
    return [dim, *cells, f"{means[0] - means[1]:+.4f}"]


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
