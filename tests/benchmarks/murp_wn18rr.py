"""MuRP on WN18RR, three seeds: test metrics under both protocols, time and peak memory of training and evaluation.

One process a seed; the settings are those of `murp_wn18rr.toml` beside this file. Paper: Balazevic, Allen,
Hospedales, NeurIPS 2019: MRR .477, H@10 .555 at d = 40 under the protocol that excludes the query's entity.

    python tests/benchmarks/murp_wn18rr.py --data FOLDER --out FOLDER        --data holds train, valid, test of WN18RR
"""

import argparse
import json
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

SETTINGS = Path(__file__).with_suffix(".toml")


def one(data: Path, folder: Path, seed: int, threads: int) -> dict[str, float]:
    """Train and evaluate a seed through the command line; figures of the whole process."""
    train = ["train", str(data.resolve()), "-o", str(folder), "--config", str(SETTINGS), "--seed", str(seed)]
    code = "import sys; from geoembed.cli import main; sys.exit(main(sys.argv[1:]))"
    start, before = time.monotonic(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", code, *train, "--no-baseline", "--no-picture", "--threads", str(threads)], check=True
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures = {
        "wall s": time.monotonic() - start,
        "CPU s": after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime,
        "peak MiB": after.ru_maxrss / 1024,
    }
    subprocess.run([sys.executable, "-c", code, "evaluate", str(folder), "--exclude-query-entity"], check=True)
    for name, key in (("results.json", ""), ("results-query-excluded.json", "papers' ")):
        both = json.loads((folder / name).read_text(encoding="utf-8"))["sides"]["both"]
        figures |= {f"{key}{metric}": both[metric] for metric in ("mrr", "hits@1", "hits@3", "hits@10")}
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    rows = {seed: one(args.data, args.out / f"seed{seed}", seed, args.threads) for seed in args.seeds}
    names = list(next(iter(rows.values())))
    print(f"| seed | {' | '.join(names)} |\n|{' --- |' * (len(names) + 1)}")
    rows_and_mean = [(str(seed), row) for seed, row in rows.items()]
    rows_and_mean.append(("mean", {name: statistics.mean(row[name] for row in rows.values()) for name in names}))
    for title, row in rows_and_mean:
        cells = (
            f"{row[name]:.0f}" if name in ("wall s", "CPU s", "peak MiB") else f"{row[name]:.4f}" for name in names
        )
        print(f"| {title} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
