"""Hierarchies: quality of reconstruction against CPU time, and positives per CPU second.

Mammals (shipped) in five and two dimensions, on the hyperboloid and the ball; verbs and nouns with --data, a folder
with verbs.tsv.gz or nouns.tsv.gz, the transitive closures of WordNet 3.0. The seconds are those of training, without
reading and evaluation. A positive is a pair (node, ancestor) trained on once.

    python tests/benchmarks/hierarchy.py
    python tests/benchmarks/hierarchy.py --only "mammals d=2"
    python tests/benchmarks/hierarchy.py --only verbs --data FOLDER
"""

import time
from pathlib import Path

from common import arguments, table

from geoembed.data import Closure, load
from geoembed.hierarchy import HierarchyConfig, train_hierarchy
from geoembed.reconstruction import reconstruct

PLANE = {"dim": 2, "scale": 0.5, "lr": 0.08, "epochs": 800}
MANY = {"batch_size": 256, "negatives": 1000, "lr": 0.1}  # for more nodes; not tuned yet
RUNS = [
    ("mammals d=5", "MR <= 1.20, MAP >= .943, 100 s", {"dim": 5}),
    ("mammals d=2", "MR <= 1.55, MAP >= .911, 300 s", PLANE),
    ("verbs d=2", "MAP >= .579", PLANE | MANY | {"epochs": 200}),
    ("verbs d=5", "MAP >= .935", {"dim": 5, "epochs": 150} | MANY),
    ("verbs d=10", "MAP >= .933", {"dim": 10, "epochs": 150} | MANY),
    ("nouns d=10", "MAP >= .928", {"dim": 10, "epochs": 100} | MANY),
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with verbs.tsv.gz and nouns.tsv.gz")
    parser.add_argument("--only", default="mammals", help="runs whose name starts so")
    parser.add_argument("--manifold", nargs="+", default=["lorentz", "poincare"])
    parser.add_argument("--sample", type=int, help="nodes to evaluate; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    args = parser.parse_args()
    rows = []
    for name, goal, settings in RUNS:
        if not name.startswith(args.only):
            continue
        data = name.split()[0]
        closure = load("wordnet-mammals") if data == "mammals" else Closure.from_file(args.data / f"{data}.tsv.gz")
        for manifold in args.manifold:
            for seed in range(args.seeds):
                config = HierarchyConfig(manifold=manifold, seed=seed, **settings)
                start = time.process_time()
                result = train_hierarchy(closure, config)
                seconds = time.process_time() - start
                found = reconstruct(result.points, result.manifold, closure, sample=args.sample)
                metrics, errors = found.metrics(), found.standard_errors()
                rate = config.epochs * len(closure.pairs) / seconds
                rows.append(
                    [
                        name,
                        manifold,
                        seed,
                        *(f"{metrics[key]:.3f} ± {errors[key]:.3f}" for key in ("mr", "map")),
                        f"{seconds:.0f} s",
                        f"{rate / 1000:.0f}k",
                        goal,
                    ]
                )
                print(*rows[-1], flush=True)
    table(["data", "manifold", "seed", "MR", "MAP", "training", "positives / CPU s", "goal"], rows)


if __name__ == "__main__":
    main()
