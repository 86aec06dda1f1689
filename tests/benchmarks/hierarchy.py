"""Hierarchies: quality of reconstruction against CPU time, and positives per CPU second.

Mammals (shipped) in five and two dimensions, on the hyperboloid and the ball; verbs and nouns with --data, a folder
with verbs.tsv.gz or nouns.tsv.gz, the transitive closures of WordNet 3.0. The seconds are those of training, without
reading and evaluation. A positive is a pair (node, ancestor) trained on once. With --cones entailment cones follow, and
pairs held out are told from corrupted ones by them, and by distances and radii of the ranking before.

    python tests/benchmarks/hierarchy.py
    python tests/benchmarks/hierarchy.py --only "mammals d=2" --manifold lorentz halfspace htiling ltiling --seeds 3
    python tests/benchmarks/hierarchy.py --cones
    python tests/benchmarks/hierarchy.py --only verbs --data FOLDER
    python tests/benchmarks/hierarchy.py --only "nouns nested" --data FOLDER --manifold lorentz htiling --sample 5000
"""

import time
from pathlib import Path

import torch
from common import arguments, table

from geoembed.data import Closure, load
from geoembed.entailment import classify_pairs, train_cones
from geoembed.hierarchy import HierarchyConfig, train_hierarchy
from geoembed.reconstruction import reconstruct

NESTED = {"dim": 2, "start": "nested", "epochs": 0}  # no training
PLANE = {"dim": 2, "scale": 0.5, "lr": 0.08, "epochs": 800}
MANY = {"batch_size": 128, "negatives": 1000, "lr": 0.2}  # for more nodes
RUNS = [
    ("mammals d=5", "MR <= 1.20, MAP >= .943, 100 s", {"dim": 5}),
    ("mammals d=2", "MR <= 1.55, MAP >= .911, 300 s", PLANE),
    ("verbs d=2", "MAP >= .579", PLANE | MANY | {"lr": 0.4, "epochs": 300}),
    ("verbs d=5", "MAP >= .935", {"dim": 5, "epochs": 300} | MANY),
    ("verbs d=10", "MAP >= .933", {"dim": 10, "epochs": 240} | MANY),
    ("mammals nested d=2", "MAP >= .911", NESTED),
    ("verbs nested d=2", "MAP >= .579", NESTED),
    ("nouns nested d=2", "MAP >= .305", NESTED),
    ("nouns d=10", "MAP >= .928", {"dim": 10, "epochs": 60, "burn_in": 3} | MANY | {"batch_size": 256}),
]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with verbs.tsv.gz and nouns.tsv.gz")
    parser.add_argument("--only", default="mammals", help="runs whose name starts so")
    parser.add_argument("--manifold", nargs="+", default=["lorentz", "poincare"])
    parser.add_argument("--sample", type=int, help="nodes to evaluate; all by default")
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--cones", action="store_true", help="entailment cones on mammals")
    args = parser.parse_args()
    if args.cones:
        return cones(args.seeds)
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


def cones(seeds: int) -> None:
    closure, rows = load("wordnet-mammals"), []
    for settings in ({"dim": 5}, PLANE):
        for share in (0.1, 0.5):
            rest, held_out = closure.hold_out(share, torch.Generator().manual_seed(3))
            for seed in range(seeds):
                config = HierarchyConfig(hold_out=share, seed=seed, **settings)
                times = [time.process_time()]
                ranked = train_hierarchy(rest, config)
                times.append(time.process_time())
                inside = train_cones(ranked, config)
                times.append(time.process_time())
                for name, found, width in (("distances", ranked, None), ("cones", inside, config.cone_width)):
                    drawn = torch.Generator().manual_seed(0)
                    told = classify_pairs(found.points, found.manifold, closure, held_out, width=width, generator=drawn)
                    metrics = told.metrics()
                    numbers = [f"{metrics[key]:.3f}" for key in ("f1", "precision", "recall")]
                    seconds = times[1 if width is None else 2] - times[0]
                    rows.append([config.dim, share, seed, name, *numbers, f"{seconds:.0f} s"])
                    print(*rows[-1], flush=True)
    table(["d", "held out", "seed", "told by", "F1", "precision", "recall", "training in all"], rows)


if __name__ == "__main__":
    main()
