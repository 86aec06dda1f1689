"""Memory on a random graph of 500,000 entities: training steps, and exact ranks of 1,000 queries.

python tests/benchmarks/large_graph.py
"""

import time

import torch
from common import Memory, table

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.evaluation import evaluate
from geoembed.graph_training import build_model, build_optimizer, build_task, generators

ENTITIES, RELATIONS, TRIPLES, DIM = 500_000, 10, 2_000_000, 32


def main() -> None:
    torch.set_num_threads(1)
    g = torch.Generator().manual_seed(0)
    columns = [torch.randint(size, (TRIPLES,), generator=g) for size in (ENTITIES, RELATIONS, ENTITIES)]
    rows = torch.stack(columns, 1)
    names = [f"e{i:06}" for i in range(ENTITIES)]
    graph = Triples(names, [f"r{i}" for i in range(RELATIONS)], rows[:-2000], rows[-2000:-1000], rows[-1000:], "random")
    lines = []
    for name in ("murp", "roth", "complex"):
        config = TrainConfig(model=name, dim=DIM, batch_size=1024, negatives=256)
        model = build_model(config, graph.n_entities, graph.n_relations)
        task, optimizer = build_task(config, model, graph, generators(0)), build_optimizer(config, model)
        tables = sum(p.numel() * p.element_size() for p in model.parameters())

        def steps(task=task, optimizer=optimizer) -> None:
            for _ in range(20):
                optimizer.zero_grad(set_to_none=True)
                task.step(torch.randint(task.n, (1024,), generator=g)).backward()
                optimizer.step()

        def ranking(model=model) -> None:
            evaluate(model, graph, sample=1000, generator=torch.Generator().manual_seed(0))

        figures = []
        for run in (steps, ranking):
            start = time.process_time()
            with Memory() as memory:
                run()
            figures += [f"{time.process_time() - start:.1f}", f"{memory.above / 2**20:.0f}"]
        lines.append([name, f"{tables / 2**20:.0f}", *figures])
    table(["model", "tables MiB", "20 steps CPU s", "MiB above", "1,000 queries CPU s", "MiB above"], lines)


if __name__ == "__main__":
    main()
