"""MuRP against MuRE on several trees, and on several grids, over the same nodes, one or two relations each.

Expected is MuRP ahead on trees of few dimensions, for want of room in flat space, and not on grids. The question is
what a space has room for, not what a model guesses: all triples are trained, validation and test are samples of them.

Seed 0 is trained with three rates, a factor of 3 apart, and with further ones while the best by validation lies at the
edge; the best trains the other seeds. One that diverges counts as 0. A run whose figures are in the folder is not run
again. The rest is the same for both.

    python tests/benchmarks/tree_grid.py trees grid two-grids --out FOLDER
"""

import argparse
import itertools
import time
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from common import DIVERGED, NOTHING_LEARNT, at_best_rates, kept, markdown

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.data.synthetic import grid, multiplex, tree
from geoembed.errors import DomainError
from geoembed.evaluation import evaluate
from geoembed.graph_training import train_model

TREE = tree(4, 5, ["parent_of"])
GRID = grid(37, 37, ["above", "right_of"])  # as many nodes as the tree, up to 4
GRAPHS = {
    "tree": (TREE, 1),
    "trees": (TREE, 3),
    "grid": (GRID, 1),
    "two-grids": (GRID, 2),
    "grids": (GRID, 3),
}
FIRST = {"murp": 0.06, "mure": 0.2}


def graph_of(key: str) -> Triples:
    generator = torch.Generator().manual_seed(0)
    graph = multiplex(*GRAPHS[key], generator)
    order = torch.randperm(len(graph.train), generator=generator)
    return replace(graph, valid=graph.train[order[:500]], test=graph.train[order[500:2500]])


def measure(key: str, model: str, dim: int, lr: float, seed: int) -> dict[str, float]:
    triples, start = graph_of(key), time.process_time()
    config = TrainConfig(
        model=model, dim=dim, lr=lr, seed=seed, penalty=0.0, epochs=800, averaging=0.99, validate_every=40
    )
    try:
        trained, fitted = train_model(config, triples, progress=False)
        result = evaluate(trained, triples)
        figures = {"valid": fitted.best_score or 0.0, "mrr": result.metrics()["mrr"]}
        figures |= {relation: metrics["mrr"] for relation, metrics in result.by_relation().items()}
    except DomainError as error:
        if DIVERGED not in str(error):
            raise
        figures = NOTHING_LEARNT
    return figures | {"CPU s": time.process_time() - start}


def row(folder: Path, key: str, dim: int, seeds: int) -> list[object]:
    def measured(model: str, lr: float, seed: int) -> dict[str, float]:
        return kept(folder / f"{key}-{model}-{dim}-{lr}-{seed}.json", partial(measure, key, model, dim, lr, seed))

    graph, copies = GRAPHS[key]
    return [f"{copies} x {graph.name}", dim, *at_best_rates(measured, FIRST, range(seeds))]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("graphs", nargs="+", choices=GRAPHS, metavar="GRAPH", help=", ".join(GRAPHS))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--dims", type=int, nargs="+", default=[5, 10])
    parser.add_argument("--seeds", type=int, default=3)
    args = parser.parse_args()
    torch.set_num_threads(1)
    args.out.mkdir(parents=True, exist_ok=True)
    heads = ("graph", "d", "MuRP", "rate", "MuRE", "rate", "difference")
    rows = (row(args.out, key, dim, args.seeds) for key, dim in itertools.product(args.graphs, args.dims))
    markdown(heads, rows)


if __name__ == "__main__":
    main()
