"""A recipe over several seeds: test metrics under both protocols, time and peak memory of training and evaluation.

One process a seed, one thread each; `--at-once 2` runs two side by side, as on two cores. The settings are those of
`geoembed/recipes/NAME.toml`, and `--set name=value` changes some.

    python tests/benchmarks/recipes.py murp-wn18rr --out FOLDER        GEOEMBED_DATA names the folder of the data sets
"""

import argparse
import json
import math
import os
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from common import markdown

METRICS = ("mrr", "hits@1", "hits@3", "hits@10")
CODE = "import sys; from geoembed.cli import main; sys.exit(main(sys.argv[1:]))"


def command(*words: str) -> list[str]:
    return [sys.executable, "-c", CODE, *words]


def one(recipe: str, folder: Path, seed: int, settings: list[str]) -> dict[str, float]:
    """Train and evaluate a seed through the command line; figures of the whole training process."""
    pairs = [setting.split("=", 1) for setting in settings]
    flags = [word for name, value in pairs for word in (f"--{name.replace('_', '-')}", value)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    train = command(
        "train", "--recipe", recipe, "-o", str(folder), "--seed", str(seed), "--no-baseline", "--no-picture"
    )
    start = time.monotonic()
    log_path = folder.with_name(f"{folder.name}.log")
    with open(log_path, "w", encoding="utf-8") as log:
        process = subprocess.Popen([*train, *flags], stdout=log, stderr=log, env=environment)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"seed {seed} failed: see {log_path}")
    figures = {
        "wall s": time.monotonic() - start,
        "CPU s": usage.ru_utime + usage.ru_stime,
        "peak MiB": usage.ru_maxrss / 1024,
    }
    history = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    figures["valid"] = max(record["score"] for record in history if "score" in record)
    evaluate = command("evaluate", str(folder), "--exclude-query-entity")
    subprocess.run(evaluate, check=True, stdout=subprocess.DEVNULL, env=environment)
    for name, key in (("results.json", ""), ("results-query-excluded.json", "papers' ")):
        both = json.loads((folder / name).read_text(encoding="utf-8"))["sides"]["both"]
        figures |= {f"{key}{metric}": both[metric] for metric in METRICS}
    return figures


def columns(title: str, rows: dict[str, dict[str, float]], *, summary: bool = False) -> None:
    """Print the figures of each row as a column of a Markdown table; `summary` adds their mean and spread."""
    lines = []
    for name in dict.fromkeys(name for row in rows.values() for name in row):
        values = [row.get(name, math.nan) for row in rows.values()]
        digits = 4 if name.endswith(("valid", *METRICS)) else 0
        cells = [*values, statistics.mean(values), max(values) - min(values)] if summary else values
        lines.append([name, *(f"{value:.{digits}f}" for value in cells)])
    print()
    markdown([title, *rows, *(("mean", "spread") if summary else ())], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--at-once", type=int, default=1, help="processes side by side")
    parser.add_argument("--set", nargs="*", default=[], metavar="NAME=VALUE", help="settings in place of the recipe's")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)

    def run(seed: int) -> dict[str, float]:
        return one(args.recipe, args.out / f"{args.recipe}-{seed}", seed, args.set)

    with ThreadPoolExecutor(args.at_once) as pool:
        rows = dict(zip(args.seeds, pool.map(run, args.seeds), strict=True))
    columns(args.recipe, {str(seed): row for seed, row in rows.items()}, summary=True)


if __name__ == "__main__":
    main()
