"""MuRP against MuRE where the answer is known: a tree with several relations, and a grid.

Trees have no room in flat space of few dimensions, grids fit it exactly. Held-out triples, filtered ranking, the same
settings for both, three seeds.

    python tests/benchmarks/tree_grid.py
"""

import argparse
import statistics

import torch

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.data.synthetic import grid, tree
from geoembed.evaluation import evaluate
from geoembed.tasks import train_model

DIMS = (2, 5, 10)


def mrr(graph: Triples, model: str, dim: int, seed: int, epochs: int) -> float:
    triples = graph.split(0.05, 0.1, torch.Generator().manual_seed(seed))
    config = TrainConfig(
        model=model, dim=dim, seed=seed, epochs=epochs, averaging=0.99, validate_every=20, penalty=0.0, lr=0.02
    )
    trained, _ = train_model(config, triples, progress=False)
    return evaluate(trained, triples).metrics()["mrr"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| graph | d | MuRP | MuRE | difference of the means | seeds in which MuRP is ahead |\n|" + " --- |" * 6)
    for name, graph in (("tree, branching 4, depth 5", tree(4, 5)), ("grid 35 x 35", grid(35, 35))):
        for dim in DIMS:
            rows = [[mrr(graph, m, dim, seed, args.epochs) for m in ("murp", "mure")] for seed in range(args.seeds)]
            means = [statistics.mean(column) for column in zip(*rows, strict=True)]
            ahead = sum(a > b for a, b in rows)
            print(
                f"| {name} | {dim} | {means[0]:.4f} | {means[1]:.4f} | {means[0] - means[1]:+.4f} | "
                f"{ahead} of {len(rows)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
