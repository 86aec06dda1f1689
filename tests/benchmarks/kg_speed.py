"""Training and evaluation speed of MuRP and MuRE on WN18RR, against the pair by pair form of the same model.

Measured: CPU seconds an epoch (all 2 * 86,835 directed triples; extrapolated from the timed steps, at least 100 for
each of ours), and CPU seconds and peak memory of the filtered evaluation of all 2 * 3,134 test queries.

Peer: the way MuRP is usually written, built here from the formulas of Balazevic, Allen, Hospedales, NeurIPS 2019,
arXiv:1905.09791: 50 negatives of its own for each triple, broadcast Mobius sums for each pair, float64, dense gradients
and a dense Riemannian SGD step of the whole table; one query at a time in evaluation. Its loss is checked against ours.

    python tests/benchmarks/kg_speed.py --data FOLDER        FOLDER holds train, valid and test of WN18RR
"""

import math
import subprocess
import sys
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from common import Memory, arguments, interleaved, median, peak_rss, ratio, table

from geoembed.config import MODELS, TrainConfig
from geoembed.data import Triples
from geoembed.evaluation import evaluate
from geoembed.graph_training import build_model, build_optimizer, build_task, generators
from geoembed.models import MuRP


class Reference:
    """MuRP by its definition. Points of the ball x (E, d), y (R, d); R (R, d); biases (E, 2)."""

    lr, negatives, batch_size = 50 / (128 * 51), 50, 128

    def __init__(self, triples: Triples, d: int = 40):
        g = torch.Generator().manual_seed(0)
        entities, relations, f64 = triples.n_entities, 2 * triples.n_relations, torch.float64
        self.x = torch.randn(entities, d, generator=g, dtype=f64).mul_(1e-3).requires_grad_()
        self.y = torch.randn(relations, d, generator=g, dtype=f64).mul_(1e-3).requires_grad_()
        self.R = torch.empty(relations, d, dtype=f64).uniform_(-1, 1, generator=g).requires_grad_()
        self.b = torch.zeros(entities, 2, dtype=f64, requires_grad=True)
        self.directed, self.g = triples.with_inverses("train"), g

    @staticmethod
    def mobius_add(x, y):
        xy, x2, y2 = (x * y).sum(-1, keepdim=True), (x * x).sum(-1, keepdim=True), (y * y).sum(-1, keepdim=True)
        return ((1 + 2 * xy + y2) * x + (1 - x2) * y) / (1 + 2 * xy + x2 * y2)

    @staticmethod
    def exp0(v):
        length = v.norm(dim=-1, keepdim=True).clamp(min=1e-10)
        return length.tanh() * v / length

    @staticmethod
    def log0(x):
        length = x.norm(dim=-1, keepdim=True).clamp(1e-10, 1 - 1e-5)
        return length.atanh() * x / length

    def scores(self, h, r, t):
        """h, r: (B, 1), t: (B, N) -> (B, N)."""
        q = self.exp0(self.R[r] * self.log0(self.x[h]))
        w = self.mobius_add(self.x[t], self.y[r])
        distance = 2 * self.mobius_add(-q, w).norm(dim=-1).clamp(1e-10, 1 - 1e-5).atanh()
        return self.b[h, 0] + self.b[t, 1] - distance**2

    def loss(self, h, r, t, negatives):
        scores = self.scores(h.unsqueeze(1), r.unsqueeze(1), torch.cat([t.unsqueeze(1), negatives], 1))
        targets = torch.zeros_like(scores)
        targets[:, 0] = 1
        return F.binary_cross_entropy_with_logits(scores, targets, reduction="sum")

    def step(self):
        batch = torch.randint(len(self.directed), (self.batch_size,), generator=self.g)
        negatives = torch.randint(len(self.x), (self.batch_size, self.negatives), generator=self.g)
        self.loss(*self.directed[batch].unbind(1), negatives).backward()
        with torch.no_grad():
            for p in (self.x, self.y):  # x <- exp_x(-lr grad / lambda_x^2), all rows
                gap = 1 - p.square().sum(-1, keepdim=True)
                v = -self.lr * p.grad * gap.square() / 4
                length = v.norm(dim=-1, keepdim=True).clamp(min=1e-10)
                p.copy_(self.mobius_add(p, (length / gap).tanh() * v / length))
            for p in (self.R, self.b):
                p.sub_(p.grad, alpha=self.lr)
        for p in (self.x, self.y, self.R, self.b):
            p.grad = None

    @torch.no_grad()
    def query(self):
        """Scores of all entities for one query, and their order."""
        h, r, _ = self.directed[torch.randint(len(self.directed), (1,), generator=self.g)].unsqueeze(-1).unbind(1)
        return self.scores(h, r, torch.arange(len(self.x)).unsqueeze(0)).sort(descending=True)


def check(triples: Triples, reference: Reference) -> float:
    """Relative difference of the reference's loss from that of our model, both with the same random points."""
    reference.x, reference.y = (reference.exp0(torch.randn_like(p) / 10) for p in (reference.x, reference.y))
    ours = MuRP(triples.n_entities, 2 * triples.n_relations, 40, tangent=False)
    with torch.no_grad():
        for mine, theirs in zip((ours.entity, ours.translation), (reference.x, reference.y), strict=True):
            mine.copy_(theirs)
        ours.diagonal.copy_(reference.R)
    g = torch.Generator().manual_seed(1)
    h, r, t = reference.directed[torch.randint(len(reference.directed), (64,), generator=g)].unbind(1)
    negatives = torch.randint(triples.n_entities, (64, 50), generator=g)
    scored = ours.score_batch(h, r, t, negatives)
    loss = F.softplus(-scored.positive).sum() + F.softplus(scored.negative).sum()
    return abs(loss.item() / reference.loss(h, r, t, negatives).item() - 1)


def training(triples: Triples, **settings) -> Callable[[], None]:
    """One step of training as `train_model` makes it."""
    config = TrainConfig(**({"dim": 40} | settings))
    model = build_model(config, triples.n_entities, triples.n_relations)
    task = build_task(config, model, triples, generators(0))
    g = torch.Generator().manual_seed(0)
    optimizer, order = build_optimizer(config, model), iter(())

    def step():
        nonlocal order
        batch = next(order, None)
        if batch is None:
            order = iter(torch.randperm(task.n, generator=g).split(config.batch_size)[:-1])
            batch = next(order)
        optimizer.zero_grad(set_to_none=True)
        loss = task.step(batch)
        loss.item()
        loss.backward()
        optimizer.step()

    return step


def own(batch_size: int, **settings) -> dict:
    return {"batch_size": batch_size, "negatives": 50, "negative_mode": "independent"} | settings


def train(triples: Triples, rounds: int) -> None:
    print("## Training\n")
    settings = {
        f"MuRP, {negatives} shared, batch {batch}": {"negatives": negatives, "batch_size": batch}
        for negatives in (64, 128)
        for batch in (512, 1024)
    } | {
        "MuRP, 50 own, batch 128": own(128),
        "MuRP, 50 own, batch 1024": own(1024),
        "MuRP, 50 own, batch 128, float64, points, SGD": own(
            128, dtype="float64", parameterisation="manifold", optimizer="sgd", lr=Reference.lr
        ),
        "MuRE, 128 shared, batch 512": {"model": "mure", "batch_size": 512},
        "MuRE, 50 own, batch 128": own(128, model="mure"),
    }
    slow = "MuRP pair by pair, 50 own, batch 128, float64, dense SGD"
    reference = Reference(triples)
    print(
        f"loss of the reference against ours with the same points: {check(triples, Reference(triples)):.1e} relative\n"
    )
    contenders: dict = {name: training(triples, **options) for name, options in settings.items()} | {
        slow: reference.step
    }
    many = {name: math.ceil(100 / rounds) for name in settings} | {slow: 5}
    seconds = interleaved(contenders, rounds, many)
    n, rows = 2 * len(triples.train), []
    for name, values in seconds.items():
        steps = math.ceil(n / settings.get(name, {"batch_size": Reference.batch_size})["batch_size"])
        epochs = [value * steps for value in values]
        low, high = min(epochs), max(epochs)
        slower = ratio([v * math.ceil(n / 128) for v in seconds[slow]], epochs)
        rows.append(
            [name, rounds * many[name], f"{median(values) * 1e3:.2f}", f"{median(epochs):.2f}",
             f"{low:.2f} .. {high:.2f}", f"{slower:.1f}x"]
        )  # fmt: skip
    columns = ["contender", "timed steps", "CPU ms a step", "CPU s an epoch", "least .. most", "pair by pair / this"]
    table(columns, rows)


def scorers(triples: Triples, rounds: int) -> None:
    """An epoch of every model at d = 32 against MuRP's, with the same batches and negatives."""
    print("## Every scorer, d = 32, 128 shared negatives, batch 1024\n")
    contenders = {name: training(triples, model=name, dim=32, batch_size=1024, penalty=0.0) for name in MODELS}
    seconds = interleaved(contenders, rounds, 10)
    steps = math.ceil(2 * len(triples.train) / 1024)
    rows = [
        [name, f"{median(values) * steps:.2f}", f"{ratio(values, seconds['murp']):.2f}x"]
        for name, values in sorted(seconds.items(), key=lambda item: median(item[1]))
    ]
    table(["model", "CPU s an epoch", "this / MuRP"], rows)


def evaluation(triples: Triples, rounds: int) -> None:
    """Run in a process of its own, so that no other memory is reused."""
    model = MuRP(triples.n_entities, 2 * triples.n_relations, 40, generator=torch.Generator().manual_seed(0), scale=0.3)
    evaluate(model, triples, "test", queries=triples.with_inverses("test")[:1])  # what the first call loads
    times, above = [], []
    for _ in range(rounds):
        start = time.process_time()
        with Memory() as memory:
            result = evaluate(model, triples, "test")
        times.append(time.process_time() - start)
        above.append(memory.above)
    reference = Reference(triples)
    single = median(interleaved({"query": reference.query}, 5, 4)["query"])
    n = len(result.ranks)
    table(
        ["evaluation", "queries", "CPU s", "peak above the model"],
        [
            ["MuRP, default budget", n, f"{median(times):.2f}", f"{max(above) / 2**20:.0f} MiB"],
            ["MuRP pair by pair, float64 (from 20 queries)", n, f"{single * n:.0f}", "-"],
        ],
    )
    print(f"peak of the process: {peak_rss() / 2**20:.0f} MiB")


def main() -> None:
    parser = arguments(__doc__, data=True)
    parser.add_argument("--part", choices=["all", "training", "evaluation", "scorers"], default="all")
    args = parser.parse_args()
    triples = Triples.from_folder(args.data)
    if args.part == "evaluation":
        evaluation(triples, args.rounds)
        return
    print(repr(triples), "\n")
    if args.part == "scorers":
        scorers(triples, args.rounds)
        return
    train(triples, args.rounds)
    if args.part == "all":
        print("## Evaluation\n", flush=True)
        command = [sys.executable, __file__, "--data", str(args.data), "--part", "evaluation", "--rounds", "3"]
        subprocess.run(command, check=True)


if __name__ == "__main__":
    main()
