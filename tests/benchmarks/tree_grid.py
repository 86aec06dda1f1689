"""MuRP against MuRE where the answer is known: a tree with several relations, and a grid.

Trees have no room in flat space of few dimensions, grids fit it exactly. Held-out triples, filtered ranking. Each model
takes the learning rate, out of `RATES`, with the best validation MRR of seed 0; the rest is the same for both.

    python tests/benchmarks/tree_grid.py
"""

import argparse
import statistics

import torch

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.data.synthetic import grid, tree
from geoembed.evaluation import evaluate
from geoembed.graph_training import train_model

DIMS = (2, 5, 10)
RATES = (0.02, 0.06, 0.2)


def train(graph: Triples, model: str, dim: int, lr: float, seed: int, epochs: int) -> tuple[float, float]:
    """MRR of validation and test."""
    triples = graph.split(0.05, 0.1, torch.Generator().manual_seed(seed))
    config = TrainConfig(
        model=model, dim=dim, lr=lr, seed=seed, epochs=epochs, averaging=0.99, validate_every=20, penalty=0.0
    )
    trained, fitted = train_model(config, triples, progress=False)
    return fitted.best_score or 0.0, evaluate(trained, triples).metrics()["mrr"]


def scores(graph: Triples, model: str, dim: int, seeds: int, epochs: int) -> tuple[float, list[float]]:
    """The learning rate, and the test MRR of each seed."""
    found = {lr: train(graph, model, dim, lr, 0, epochs) for lr in RATES}
    lr = max(found, key=lambda rate: found[rate][0])
    return lr, [found[lr][1]] + [train(graph, model, dim, lr, seed, epochs)[1] for seed in range(1, seeds)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    print("| graph | d | MuRP | its lr | MuRE | its lr | difference | seeds with MuRP ahead |\n|" + " --- |" * 8)
    for name, graph in (("tree, branching 4, depth 5", tree(4, 5)), ("grid 35 x 35", grid(35, 35))):
        for dim in DIMS:
            (p_lr, p), (e_lr, e) = (scores(graph, m, dim, args.seeds, args.epochs) for m in ("murp", "mure"))
            ahead = sum(a > b for a, b in zip(p, e, strict=True))
            p_mean, e_mean = statistics.mean(p), statistics.mean(e)
            print(
                f"| {name} | {dim} | {p_mean:.4f} | {p_lr} | {e_mean:.4f} | {e_lr} | {p_mean - e_mean:+.4f} | "
                f"{ahead} of {len(p)} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
