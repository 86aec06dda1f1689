"""Teachers and the models they teach, several seeds: test metrics, and the time of all of it on two cores.

Each seed has teachers of its own. They are trained two at a time, one thread each, then the students two at a time; the
time of a student includes that of all its teachers and of every evaluation.

    python tests/benchmarks/distilled.py WN18RR --out FOLDER            GEOEMBED_DATA names the folder of the data sets
"""

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from recipes import columns, one

PLANS = {  # name: recipe, settings in place of the recipe's; the longest teachers first
    "WN18RR": (
        {
            "roth": ("roth-wn18rr", ["epochs=160", "validate_every=40"]),
            "murp-full": ("murp-full-wn18rr", ["epochs=80", "validate_every=40"]),
            "murp": ("murp-wn18rr", ["epochs=100", "validate_every=50"]),
        },
        {"murp": "murp-wn18rr-distilled", "roth": "roth-wn18rr-distilled"},
    ),
    "FB15k-237": (
        {
            "murp": ("murp-fb15k-237", ["validate_every=40"]),
            "atth": ("atth-fb15k-237", ["epochs=50", "validate_every=25"]),
            "atth-2": ("atth-fb15k-237", ["epochs=50", "validate_every=25"]),
        },
        {"murp": "murp-fb15k-237-distilled", "atth": "atth-fb15k-237-distilled"},
    ),
}


def train(data: str, folder: Path, seed: int) -> dict[str, dict[str, float]]:
    """The figures of the teachers and students of a seed, in folders of their own."""
    teachers, students = PLANS[data]
    start = time.monotonic()
    with ThreadPoolExecutor(2) as pool:
        taught = {
            name: pool.submit(one, recipe, folder / f"teacher-{name}", 10 * seed + place, settings)
            for place, (name, (recipe, settings)) in enumerate(teachers.items())
        }
        rows = {f"teacher {name}": figures.result() for name, figures in taught.items()}
        before = time.monotonic() - start

        def teach(name: str) -> dict[str, float]:
            first = [name, *(other for other in teachers if other != name)]  # where the student starts
            paths = ",".join(str(folder / f"teacher-{other}") for other in first)
            figures = one(students[name], folder / f"student-{name}", seed, [f"teachers={paths}"])
            return figures | {"wall s with teachers": before + figures["wall s"]}

        rows |= zip((f"student {name}" for name in students), pool.map(teach, students), strict=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=PLANS)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    args = parser.parse_args()
    runs = {}
    for seed in args.seeds:
        folder = args.out / str(seed)
        folder.mkdir(parents=True, exist_ok=True)
        runs[seed] = train(args.data, folder, seed)
        columns(f"seed {seed}", runs[seed])
    for name in next(iter(runs.values())):
        columns(name, {str(seed): rows[name] for seed, rows in runs.items()}, summary=True)


if __name__ == "__main__":
    main()
