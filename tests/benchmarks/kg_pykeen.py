"""Training speed against PyKEEN's, and equality of the metrics with its `RankBasedEvaluator`, on WN18RR.

Measured: CPU seconds of whole training epochs of MuRE, d = 40, 50 negatives of its own for each triple (PyKEEN's sLCWA
with inverse triples; it corrupts tails only, as we do), SGD, float32, in one process and in turns; and of ours with
shared negatives, which PyKEEN does not have. Then the same scores go through both evaluators: realistic ranks, both
sides, all entities, filtered by all three splits. PyKEEN averages ranks in float32, where they are exact and their
means are not: its own formulas run again on its ranks in float64, and have to equal ours to 1e-9.

PyKEEN is no dependency of this project: install it (tried: 1.11.1), then this project, in an environment of its own:

    python -m pip install pykeen && python -m pip install -e .
    python tests/benchmarks/kg_pykeen.py --data FOLDER        FOLDER holds train, valid and test of WN18RR
"""

import logging
import time
from collections.abc import Callable

import torch
from common import arguments, interleaved, median, ratio, table
from pykeen.evaluation import RankBasedEvaluator
from pykeen.models import Model, MuRE
from pykeen.training import SLCWATrainingLoop
from pykeen.triples import CoreTriplesFactory

from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.evaluation import evaluate
from geoembed.graph_training import build_model, build_optimizer, build_task, generators
from geoembed.models import MuRP

D, NEGATIVES = 40, 50
TOLERANCE = 1e-9
METRICS = {
    "mrr": "inverse_harmonic_mean_rank",
    "hits@1": "hits_at_1",
    "hits@3": "hits_at_3",
    "hits@10": "hits_at_10",
    "mr": "arithmetic_mean_rank",
    "amr": "adjusted_arithmetic_mean_rank",
    "amri": "adjusted_arithmetic_mean_rank_index",
}


def factory(triples: Triples, split: str, inverse: bool = False) -> CoreTriplesFactory:
    return CoreTriplesFactory(
        triples[split], triples.n_entities, triples.n_relations, create_inverse_triples=inverse
    )  # fmt: skip


def their_epoch(triples: Triples, batch_size: int) -> Callable[[], object]:
    data = factory(triples, "train", inverse=True)
    model = MuRE(triples_factory=data, embedding_dim=D, loss="bcewithlogits", random_seed=0)
    loop = SLCWATrainingLoop(
        model=model,
        triples_factory=data,
        optimizer=torch.optim.SGD(model.parameters(), lr=0.01),
        negative_sampler="basic",
        negative_sampler_kwargs={"num_negs_per_pos": NEGATIVES, "corruption_scheme": ["tail"]},
    )
    done = 0

    def epoch() -> None:
        nonlocal done
        done += 1
        loop.train(data, num_epochs=done, batch_size=batch_size, use_tqdm=False, only_size_probing=False)

    return epoch


def our_epoch(triples: Triples, batch_size: int, **settings) -> Callable[[], None]:
    options = {"model": "mure", "negatives": NEGATIVES, "negative_mode": "independent", "optimizer": "sgd"}
    config = TrainConfig(dim=D, batch_size=batch_size, lr=0.00766, penalty=0.0, **(options | settings))
    model = build_model(config, triples.n_entities, triples.n_relations)
    g, task = torch.Generator().manual_seed(0), build_task(config, model, triples, generators(0))
    optimizer = build_optimizer(config, model)

    def epoch() -> None:
        for batch in torch.randperm(task.n, generator=g).split(batch_size):
            optimizer.zero_grad(set_to_none=True)
            loss = task.step(batch)
            loss.item()
            loss.backward()
            optimizer.step()

    return epoch


def train(triples: Triples, batch_size: int, rounds: int) -> None:
    theirs = "PyKEEN MuRE, SGD"
    contenders = {
        theirs: their_epoch(triples, batch_size),
        "MuRE, SGD, same work": our_epoch(triples, batch_size),
        "MuRP, SGD, same work": our_epoch(triples, batch_size, model="murp"),
        "MuRE, 128 shared, Adam": our_epoch(
            triples, batch_size, negatives=128, negative_mode="shared", optimizer="adam"
        ),
        "MuRP, 128 shared, Adam": our_epoch(
            triples, batch_size, model="murp", negatives=128, negative_mode="shared", optimizer="adam"
        ),
    }  # fmt: skip
    seconds = interleaved(contenders, rounds)
    print(f"## Training, batch {batch_size}, {rounds} epochs each after one to warm up\n")
    table(
        ["contender", "CPU s an epoch", "least .. most", "PyKEEN / this"],
        [
            [name, f"{median(values):.2f}", f"{min(values):.2f} .. {max(values):.2f}",
             f"{ratio(seconds[theirs], values):.1f}x"]
            for name, values in seconds.items()
        ],
    )  # fmt: skip


class Scores(Model):
    """A PyKEEN model that passes on the scores of one of ours, the same bits for the same query."""

    def __init__(self, ours, data: CoreTriplesFactory, n_relations: int):
        super().__init__(triples_factory=data)
        self.ours, self.n, self.scorers = ours, n_relations, {}

    def _get_entity_len(self, *, mode):
        return self.ours.n_entities

    def _reset_parameters_(self):
        pass

    def collect_regularization_term(self):
        return torch.zeros(())

    def score_hrt(self, hrt_batch, *, mode=None):
        raise NotImplementedError

    def score_r(self, ht_batch, **kwargs):
        raise NotImplementedError

    def score_t(self, hr_batch, **kwargs):
        return self._tails(hr_batch[:, 0], hr_batch[:, 1])

    def score_h(self, rt_batch, **kwargs):
        return self._tails(rt_batch[:, 1], rt_batch[:, 0] + self.n)

    def _tails(self, heads, relations):
        scores = torch.empty(len(heads), self.ours.n_entities, dtype=self.ours.dtype)
        for relation in relations.unique().tolist():
            if relation not in self.scorers:
                self.scorers = dict(list(self.scorers.items())[-3:])  # each holds a moved table
                self.scorers[relation] = self.ours.tail_scorer(relation)
            here = relations == relation
            scores[here] = self.scorers[relation](heads[here])
        return scores


class Tied(torch.nn.Module):
    """Scores in 20 steps, so that almost every rank is a tie."""

    dtype = torch.float32

    def __init__(self, n_entities: int):
        super().__init__()
        self.n_entities = n_entities
        value = torch.randint(20, (n_entities,), generator=torch.Generator().manual_seed(0)).float()
        self.value = torch.nn.Parameter(value, requires_grad=False)

    def tail_scorer(self, relation):
        return lambda heads: (self.value + 7 * (heads.unsqueeze(1) + relation)).remainder(20)


def metrics(triples: Triples, queries: int) -> None:
    g = torch.Generator().manual_seed(0)
    trained = MuRP(triples.n_entities, 2 * triples.n_relations, D, dtype=torch.float64, generator=g)
    trained.dtype = torch.float64
    config = TrainConfig(lr=0.02, penalty=0.0)
    task, optimizer = build_task(config, trained, triples, generators(0)), build_optimizer(config, trained)
    for batch in torch.randperm(task.n, generator=g).split(512):
        optimizer.zero_grad()
        task.step(batch).backward()
        optimizer.step()
    some = Triples(triples.entities, triples.relations, triples.train, triples.valid, triples.test[:queries])
    rest = triples.test[queries:]
    some = triples if not len(rest) else some
    data = factory(triples, "train")
    rows, worst = [], 0.0
    for name, model in (("MuRP after one epoch, float64", trained), ("scores with ties", Tied(triples.n_entities))):
        start = time.process_time()
        ours = evaluate(model, some).metrics()
        middle = time.process_time()
        evaluator = RankBasedEvaluator(filtered=True, clear_on_finalize=False)
        stock = evaluator.evaluate(
            Scores(model, data, triples.n_relations),
            some.test[some.test[:, 1].argsort(stable=True)],
            additional_filter_triples=[some.train, some.valid, some.test],
            batch_size=32,
            use_tqdm=False,
        )
        end = time.process_time()
        # its ranks are exact in float32, the means of them are not: its own formulas again, on float64
        for key, ranks in evaluator.ranks.items():
            evaluator.ranks[key] = [part.astype("float64") for part in ranks]
        exact = evaluator.finalize()
        for mine, key in METRICS.items():
            as_is, theirs = (found.get_metric(f"both.realistic.{key}") for found in (stock, exact))
            worst = max(worst, abs(ours[mine] - theirs))
            figures = [f"{value:.12g}" for value in (ours[mine], theirs, as_is)]
            rows.append([name, mine, *figures, f"{abs(ours[mine] - theirs):.1e}"])
        rows.append([name, "CPU s", f"{middle - start:.1f}", "-", f"{end - middle:.1f}", "-"])
    print(f"## Metrics of {2 * len(some.test)} queries\n")
    table(["scores", "metric", "ours", "PyKEEN, float64", "PyKEEN as it is, float32", "difference in float64"], rows)
    print(f"equal to {TOLERANCE:g}: {'yes' if worst <= TOLERANCE else 'NO'}, {worst:.1e}")


def main() -> None:
    parser = arguments(__doc__, data=True)
    parser.add_argument("--part", choices=["all", "training", "metrics"], default="all")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[128, 1024])
    parser.add_argument("--queries", type=int, default=10**9, help="test triples for the metrics, all by default")
    args = parser.parse_args()
    logging.disable(logging.WARNING)
    triples = Triples.from_folder(args.data)
    print(repr(triples), "\n", flush=True)
    if args.part != "metrics":
        for batch_size in args.batch_sizes:
            train(triples, batch_size, args.rounds)
    if args.part != "training":
        metrics(triples, args.queries)


if __name__ == "__main__":
    main()
