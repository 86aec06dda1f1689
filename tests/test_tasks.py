"""Training tasks against slow loops over single triples; models, optimizers and whole runs of every configuration."""

import dataclasses
import itertools
import math
import random

import pytest
import torch
from resuming import check_resumes_to_the_same_bits
from scipy.stats import chisquare
from test_losses import ORACLES

from geoembed import config as settings
from geoembed import graph_training
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.data.sampling import Frequency, OwnNegatives, SharedNegatives, TypedNegatives, Uniform
from geoembed.errors import DataError, DomainError, UnknownNameError
from geoembed.evaluation import evaluate
from geoembed.graph_training import build_model, build_optimizer, build_task, generators, ranker, train_model
from geoembed.losses.links import LEFT_OUT
from geoembed.manifolds import HYPERBOLIC, Euclidean, Product
from geoembed.models import MODELS, BothDirections, MuRP
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD
from geoembed.tasks import AllEntities, LinkPrediction, QueryPrediction

CONFIG = TrainConfig(dim=4, negatives=6, negative_weight=5.0, penalty=0.0, init_scale=0.5, dtype="float64")


def graph(n=8, n_relations=2, edges=14, seed=1):
    """Random triples; some queries have several tails, and entity 7 is in none."""
    every = list(itertools.product(range(n - 1), range(n_relations), range(n - 1)))
    rows = torch.tensor(sorted(random.Random(seed).sample(every, edges)))
    none = torch.zeros(0, 3, dtype=torch.int64)
    return Triples([f"e{i}" for i in range(n)], [f"r{i}" for i in range(n_relations)], rows, none, none, "graph")


TRIPLES = graph()
DIRECTED = TRIPLES.with_inverses("train").tolist()
KNOWN = {tuple(row) for row in DIRECTED}
ENTITIES = range(TRIPLES.n_entities)


def model_of(config, triples=TRIPLES):
    """A model whose parameters are all away from zero, so that none can be forgotten unnoticed."""
    model = build_model(config, triples.n_entities, triples.n_relations)
    g = torch.Generator().manual_seed(7)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "manifold" not in name and not hasattr(parameter, "manifold"):
                parameter.add_(0.3 * torch.randn(parameter.shape, generator=g, dtype=parameter.dtype))
    return model


class Scores(dict):
    """Scores of single triples, each asked for by itself."""

    def __init__(self, model):
        self.model = model

    def __missing__(self, triple):
        with torch.no_grad():
            self[triple] = self.model(*(torch.tensor([i]) for i in triple)).item()
        return self[triple]


def options_of(config):
    options = {"weight": config.negative_weight}
    if config.loss in ("bce", "softmax"):
        return options | {"smoothing": config.label_smoothing}
    options |= {"margin": config.margin}
    return options | ({"temperature": config.temperature} if config.loss == "self-adversarial" else {})


def drawn(config, triples, batch, seed_stream):
    """The negatives of each triple of the batch, from a sampler of our own."""
    h, r, t = triples.with_inverses("train")[batch].unbind(1)
    if config.negative_mode == "all":
        return [list(range(triples.n_entities))] * len(batch)
    entities = Frequency(triples) if config.negative_entities == "frequency" else Uniform(triples.n_entities)
    sampler = {
        "shared": SharedNegatives(entities, config.negatives),
        "independent": OwnNegatives(entities, config.negatives),
        "typed": TypedNegatives(triples, config.negatives),
    }[config.negative_mode]
    ids = sampler.draw(h, r, t, seed_stream)
    return (ids.expand(len(batch), -1) if ids.dim() == 1 else ids).tolist()


def side_weight(r, triples=TRIPLES):
    """2 (1 - p) and 2 p with p = T / (H + T): H heads and T tails of the relation."""
    n = triples.n_relations
    rows = [row for row in triples.train.tolist() if row[1] == r % n]
    heads, tails = len({row[0] for row in rows}), len({row[2] for row in rows})
    return 2 * (heads if r < n else tails) / (heads + tails)


def slow_step(config, model, batch, moved=lambda ids: ids):
    """Loss of a batch, triple by triple; `moved` replaces heads and tails as shared embeddings do."""
    scores, total = Scores(model), 0.0
    negatives = drawn(config, TRIPLES, batch, generators(config.seed)["negatives"])
    for i, row in zip(batch.tolist(), negatives, strict=True):
        h, r, t = DIRECTED[i]
        own = [t] if config.negative_mode == "all" else []
        out = [e for e in ENTITIES if e == t or (h, r, e) in KNOWN] if config.filtered else own
        values = [LEFT_OUT if e in out else scores[moved(h), r, e] for e in row]
        if config.hardest:
            values = sorted(values, reverse=True)[: config.hardest]
        loss = ORACLES[config.loss](scores[moved(h), r, moved(t)], values, **options_of(config))
        total += loss * (side_weight(r) if config.bernoulli else 1.0)
    return total


BATCH = torch.tensor([3, 0, 19, 27, 3, 12])  # both directions, and one triple twice
LOSSES = {
    "bce": {"label_smoothing": 0.2},
    "softmax": {"label_smoothing": 0.2},
    "margin": {"margin": 0.7},
    "self-adversarial": {"margin": 2.0, "temperature": 0.5},
}

# ------------------------------------------------------------------------------------------------- link prediction


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("mode", ["shared", "independent", "typed", "all"])
@pytest.mark.parametrize("filtered", [False, True])
@pytest.mark.parametrize("hardest", [0, 3])
def test_a_step_is_the_loss_of_its_triples(loss, mode, filtered, hardest):
    for bernoulli in (False, True):
        config = CONFIG.replace(
            loss=loss, negative_mode=mode, filtered=filtered, hardest=hardest, bernoulli=bernoulli, **LOSSES[loss]
        )
        model = model_of(config)
        task = build_task(config, model, TRIPLES, generators(config.seed))
        assert isinstance(task, LinkPrediction)
        assert task.n == len(DIRECTED)
        assert task.step(BATCH).item() == pytest.approx(slow_step(config, model, BATCH))


@pytest.mark.parametrize("mode", ["shared", "independent"])
def test_entities_drawn_by_frequency(mode):
    config = CONFIG.replace(negative_mode=mode, negative_entities="frequency")
    model = model_of(config)
    found = build_task(config, model, TRIPLES, generators(0)).step(BATCH).item()
    assert found == pytest.approx(slow_step(config, model, BATCH))
    assert found != pytest.approx(slow_step(config.replace(negative_entities="uniform"), model, BATCH))


def test_the_samplers_are_those_of_the_modes():
    kinds = {"shared": SharedNegatives, "independent": OwnNegatives, "typed": TypedNegatives, "all": AllEntities}
    for mode, kind in kinds.items():
        task = build_task(CONFIG.replace(negative_mode=mode), model_of(CONFIG), TRIPLES, generators(0))
        assert type(task.sampler) is kind


def test_all_is_shared_with_every_entity_but_the_own_tail():
    class Everything:
        def draw(self, h, r, t, generator=None):
            assert generator is None
            return torch.arange(TRIPLES.n_entities)

    model = model_of(CONFIG)
    seen = []

    def loss(positive, negative):
        seen.append(negative.detach())
        return positive

    for sampler in (Everything(), AllEntities(TRIPLES.n_entities)):
        LinkPrediction(model, TRIPLES, sampler, loss=loss).step(BATCH)
    plain, without = seen
    tails = torch.tensor(DIRECTED)[BATCH, 2]
    own = torch.arange(TRIPLES.n_entities) == tails.unsqueeze(1)
    assert (without[own] == LEFT_OUT).all()
    assert torch.equal(without[~own], plain[~own])


@pytest.mark.parametrize("mode", ["shared", "independent", "typed", "all"])
def test_filtered_leaves_out_exactly_the_known_training_triples(mode):
    config = CONFIG.replace(negative_mode=mode, filtered=True, negatives=40)
    task, seen = build_task(config, model_of(config), TRIPLES, generators(0)), []

    def loss(positive, negative):
        seen.append(negative == LEFT_OUT)
        return positive

    task.loss = loss
    batch = torch.arange(task.n)
    task.step(batch)
    negatives = drawn(config, TRIPLES, batch, generators(0)["negatives"])
    expected = [[(h, r, e) in KNOWN for e in row] for (h, r, _), row in zip(DIRECTED, negatives, strict=True)]
    assert seen[0].tolist() == expected
    assert 0 < seen[0].sum() < seen[0].numel()


def test_other_splits_are_not_filtered():
    rows = TRIPLES.train
    split = dataclasses.replace(TRIPLES, train=rows[:8], valid=rows[8:11], test=rows[11:])
    alone = dataclasses.replace(TRIPLES, train=rows[:8])
    config = CONFIG.replace(negative_mode="all", filtered=True)
    batch = torch.arange(16)
    first, second = (build_task(config, model_of(config), t, generators(0)).step(batch).item() for t in (split, alone))
    assert first == second


def test_the_gradient_is_that_of_the_loop():
    """Through every row that the batch reads; finite differences of the slow loss along one direction."""
    config = CONFIG.replace(loss="softmax", negative_mode="independent", filtered=True)
    model = model_of(config)
    loss = build_task(config, model, TRIPLES, generators(0)).step(BATCH)
    loss.backward()
    g = torch.Generator().manual_seed(3)
    along = {name: torch.randn(p.shape, generator=g, dtype=p.dtype) for name, p in model.named_parameters()}
    slope = sum((p.grad.to_dense() * along[name]).sum().item() for name, p in model.named_parameters())
    values = []
    for step in (1e-6, -2e-6):
        with torch.no_grad():
            for name, p in model.named_parameters():
                p.add_(along[name], alpha=step)
        values.append(slow_step(config, model, BATCH))
    assert slope == pytest.approx((values[0] - values[1]) / 2e-6, rel=1e-7)


@pytest.mark.parametrize("mode", ["shared", "k-vs-all"])
def test_sparse_and_dense_gradients_agree(mode):
    config = CONFIG.replace(negative_mode=mode, penalty=0.1)
    gradients = []
    for sparse in (True, False):
        model = model_of(config)
        model.sparse = sparse
        build_task(config, model, TRIPLES, generators(0)).step(BATCH[:2]).backward()
        assert model.entity.grad.is_sparse == model.bias.grad.is_sparse == sparse
        gradients.append({name: p.grad.to_dense() for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradient, gradients[1][name])


# -------------------------------------------------------------------------------------------------------- penalties


def slow_penalty(model, name, h, r, t):
    """Of one triple, from points and distances, or from complex numbers."""
    manifold, points = model.manifold, model.points()
    if name == "n3":
        tables = [model.entity[h], model.relation[r], model.entity[t]]
        if type(model).__name__ == "ComplEx":
            tables = [torch.complex(*row.chunk(2)) for row in tables]
        return sum(row.abs().pow(3).sum().item() for row in tables)
    first = model.query(torch.tensor([h]), torch.tensor([r]))[0] if name == "dura" else points[h]
    ends = torch.stack([first, points[t]])
    return manifold.dist(ends, manifold.origin(*ends.shape, dtype=ends.dtype)).square().sum().item()


PENALISED = [
    ("radius", {}),
    ("radius", {"model": "mure"}),
    ("radius", {"manifold": "lorentz", "parameterisation": "manifold"}),
    ("radius", {"manifold": "halfspace:2,euclidean:2", "curvature": 2.0}),
    ("dura", {}),
    ("dura", {"model": "murp-full", "manifold": "poincare:2,lorentz:2"}),
    ("n3", {"model": "distmult"}),
    ("n3", {"model": "complex"}),
]


@pytest.mark.parametrize(("name", "changes"), PENALISED, ids=str)
def test_penalties_of_triples(name, changes):
    config = CONFIG.replace(regularizer=name, bernoulli=True, **changes)
    model = model_of(config)
    plain, penalised = (
        build_task(config.replace(penalty=weight), model, TRIPLES, generators(0)).step(BATCH).item()
        for weight in (0.0, 0.3)
    )
    rows = [DIRECTED[i] for i in BATCH.tolist()]
    assert penalised - plain == pytest.approx(0.3 * sum(slow_penalty(model, name, *row) for row in rows))


def queries():
    """(head, relation) -> tails of the directed training triples, as K-vs-all numbers them."""
    groups = {}
    for h, r, t in sorted(DIRECTED):
        groups.setdefault((h, r), []).append(t)
    return groups


@pytest.mark.parametrize(("name", "changes"), [PENALISED[0], PENALISED[4], PENALISED[7]], ids=str)
def test_the_penalty_of_a_query_is_unbiased(name, changes):
    """K times the penalty of one of its K tails, all equally likely."""
    config = CONFIG.replace(regularizer=name, negative_mode="k-vs-all", **changes)
    model = model_of(config)
    place, ((h, r), tails) = max(enumerate(queries().items()), key=lambda item: len(item[1][1]))
    assert len(tails) > 2
    batch = torch.tensor([place])
    plain = build_task(config, model, TRIPLES, generators(0)).step(batch).item()
    task = build_task(config.replace(penalty=1.0), model, TRIPLES, generators(0))
    found = torch.tensor([task.step(batch).item() - plain for _ in range(300)])
    expected = torch.tensor([len(tails) * slow_penalty(model, name, h, r, t) for t in tails])
    distance, choice = (found.unsqueeze(1) - expected).abs().min(1)
    assert distance.max() < 1e-5
    assert chisquare(choice.bincount(minlength=len(tails)).numpy()).pvalue > 1e-3


# --------------------------------------------------------------------------------------------------------- k-vs-all


@pytest.mark.parametrize("loss", ["bce", "softmax"])
@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_a_k_vs_all_step_is_the_loss_of_all_tails(loss, smoothing):
    config = CONFIG.replace(loss=loss, label_smoothing=smoothing, negative_mode="k-vs-all")
    model = model_of(config)
    task, scores = build_task(config, model, TRIPLES, generators(0)), Scores(model)
    assert isinstance(task, QueryPrediction)
    assert task.n == len(queries())
    batch = torch.tensor([4, 0, 9, 4])
    expected = 0.0
    for i in batch.tolist():
        (h, r), tails = list(queries().items())[i]
        for t in tails:
            out = tails if loss == "bce" else [t]
            values = [LEFT_OUT if e in out else scores[h, r, e] for e in ENTITIES]
            weight = config.negative_weight if loss == "bce" else TRIPLES.n_entities
            expected += ORACLES[loss](scores[h, r, t], values, weight=weight, smoothing=smoothing)
    assert task.step(batch).item() == pytest.approx(expected)


@pytest.mark.parametrize("loss", ["bce", "softmax"])
def test_an_epoch_of_k_vs_all_is_one_of_filtered_1_vs_all(loss):
    """The softmax of K-vs-all lets known tails compete, that of unfiltered 1-vs-all too."""
    model = model_of(CONFIG)
    config = CONFIG.replace(loss=loss, negative_weight=float(TRIPLES.n_entities), label_smoothing=0.1)
    losses = []
    for changes in ({"negative_mode": "k-vs-all"}, {"negative_mode": "all", "filtered": loss == "bce"}):
        task = build_task(config.replace(**changes), model, TRIPLES, generators(0))
        losses.append(task.step(torch.arange(task.n)).item())
    assert losses[0] == pytest.approx(losses[1])


# ------------------------------------------------------------------------------------- shared embeddings and dropout


class Next:
    """Replaces every id by the next one, and keeps what it was asked."""

    def __init__(self):
        self.asked = []

    def replace(self, ids, generator=None):
        self.asked.append((ids.tolist(), generator))
        return (ids + 1) % TRIPLES.n_entities


def test_shared_embeddings_replace_heads_and_tails_only():
    """Not the negatives, nor the ids by which known triples are looked up."""
    config, own = CONFIG.replace(filtered=True, negatives=12, bernoulli=True), torch.Generator()
    model, sse = model_of(config), Next()
    plain = build_task(config, model, TRIPLES, generators(0))
    plain.sse, plain.sse_generator = sse, own
    rows = [DIRECTED[i] for i in BATCH.tolist()]
    expected = slow_step(config, model, BATCH, lambda i: (i + 1) % TRIPLES.n_entities)
    assert plain.step(BATCH).item() == pytest.approx(expected)
    assert sse.asked == [([row[0] for row in rows], own), ([row[2] for row in rows], own)]


def test_shared_embeddings_of_queries():
    config = CONFIG.replace(negative_mode="k-vs-all", loss="softmax")
    model = model_of(config)
    task = build_task(config, model, TRIPLES, generators(0))
    task.sse = Next()
    (h, r), tails = list(queries().items())[2]
    scores = Scores(model)
    values = [scores[(h + 1) % TRIPLES.n_entities, r, e] for e in ENTITIES]
    expected = sum(math.log(sum(map(math.exp, values))) - values[t] for t in tails)
    assert task.step(torch.tensor([2])).item() == pytest.approx(expected)


@pytest.mark.parametrize("mode", ["shared", "k-vs-all"])
@pytest.mark.parametrize("sse", ["none", "se", "graph"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_each_random_part_draws_from_its_own_stream(mode, sse, dropout):
    """So that one more of them changes nothing in the others."""
    config = CONFIG.replace(negative_mode=mode, sse=sse, sse_probability=0.5, dropout=dropout)
    streams, fresh = generators(3), generators(3)
    task = build_task(config, model_of(config), TRIPLES, streams)
    for _ in range(2):
        task.step(BATCH[:2])
    moved = {name for name, g in streams.items() if not torch.equal(g.get_state(), fresh[name].get_state())}
    expected = {"negatives"} | ({"shared embeddings"} if sse != "none" else set()) | ({"dropout"} if dropout else set())
    assert moved == expected
    reference = generators(3)
    task = build_task(CONFIG.replace(negative_mode=mode), model_of(CONFIG), TRIPLES, reference)
    for _ in range(2):
        task.step(BATCH[:2])
    assert torch.equal(reference["negatives"].get_state(), streams["negatives"].get_state())


@pytest.mark.parametrize("sse", ["se", "graph"])
def test_the_probability_of_shared_embeddings(sse):
    config = CONFIG.replace(sse=sse, sse_probability=0.25)
    task = build_task(config, model_of(config), TRIPLES, generators(0))
    ids = torch.full((4000,), DIRECTED[0][0])
    moved = task.sse.replace(ids, torch.Generator().manual_seed(0))
    assert (moved != ids).double().mean() == pytest.approx(0.25, abs=0.03)
    joined = {row[2] for row in DIRECTED if row[0] == DIRECTED[0][0]} - {DIRECTED[0][0]}
    every = set(ENTITIES) - {DIRECTED[0][0]}
    assert set(moved[moved != ids].tolist()) == (joined if sse == "graph" else every)


@pytest.mark.parametrize("name", ["murp", "atth", "rotate", "tucker", "hybonet"])
@pytest.mark.parametrize("mode", ["shared", "k-vs-all"])
def test_dropout_is_on_within_a_step_only(name, mode):
    config = CONFIG.replace(model=name, negative_mode=mode, dropout=0.5)
    model = model_of(config)
    plain = build_task(config.replace(dropout=0.0), model_of(config.replace(dropout=0.0)), TRIPLES, generators(0))
    streams = generators(0)
    task = build_task(config, model, TRIPLES, streams)
    h, r, t = torch.tensor(DIRECTED[:5]).unbind(1)
    before = model(h, r, t)
    assert not model.training
    assert task.step(BATCH[:2]).item() != pytest.approx(plain.step(BATCH[:2]).item())
    assert not model.training
    state = streams["dropout"].get_state()
    assert torch.equal(model(h, r, t), before)
    model.tail_scorer(0)(h)
    assert torch.equal(streams["dropout"].get_state(), state)


def test_dropout_is_off_after_a_step_that_fails():
    config = CONFIG.replace(dropout=0.5)
    model = model_of(config)
    task = build_task(config, model, TRIPLES, generators(0))
    with pytest.raises(IndexError):
        task.step(torch.tensor([task.n]))
    assert not model.training


# ------------------------------------------------------------------------------------------------------- bad input


def test_tasks_that_cannot_be():
    def task(kind=LinkPrediction, model=None, triples=TRIPLES, **options):
        sampler = (AllEntities(8),) if kind is LinkPrediction else ()
        return kind(MuRP(8, 4, 3) if model is None else model, triples, *sampler, **options)

    for kind in (LinkPrediction, QueryPrediction):
        assert task(kind).n
        none = dataclasses.replace(TRIPLES, train=TRIPLES.train[:0])
        with pytest.raises(DataError, match="graph has no training triples"):
            task(kind, triples=none)
        with pytest.raises(UnknownNameError, match=r"unknown regularizer 'n4'\. Known: dura, n3, radius"):
            task(kind, regularizer="n4")
        with pytest.raises(DomainError, match="n3 penalty is defined for DistMult and ComplEx, not for MultiRel"):
            task(kind, regularizer="n3")
        for sizes in ((8, 2), (7, 4)):
            with pytest.raises(DomainError, match=rf"relations\) \({sizes[0]}, {sizes[1]}\), graph has \(8, 4\)"):
                task(kind, model=MuRP(*sizes, 3))


def test_more_hardest_than_entities():
    config = CONFIG.replace(negative_mode="all", hardest=9)
    with pytest.raises(DomainError, match="k must lie between 1 and the number of negatives, 8; got 9"):
        build_task(config, model_of(config), TRIPLES, generators(0)).step(BATCH)


@pytest.mark.parametrize("device", ["nowhere", "cuda:99", ""])
def test_devices_that_are_not_there(device):
    with pytest.raises(DomainError, match=f"device '{device}' cannot be used: "):
        build_model(CONFIG.replace(device=device), 8, 2)


# ----------------------------------------------------------------------------------------- models and optimizers


def test_the_names_of_the_models():
    assert set(settings.MODELS) == set(MODELS)
    assert len(settings.MODELS) == len(MODELS)


@pytest.mark.parametrize("name", settings.MODELS)
def test_every_model_is_built_as_configured(name):
    config = TrainConfig(model=name, dim=6, dropout=0.25)
    model = build_model(config, 9, 2)
    assert (model.n_entities, model.n_relations, model.dim, model.dropout, model.training) == (9, 4, 6, 0.25, False)
    assert type(model) is type(MODELS[name](9, 4, 6))
    assert model.entity.dtype == torch.float32
    assert model.tail_scorer(3)(torch.tensor([0, 8])).shape == (2, 9)
    again, other = (build_model(config.replace(seed=seed), 9, 2) for seed in (0, 1))
    assert torch.equal(again.entity, model.entity)
    assert not torch.equal(other.entity, model.entity)
    changed = build_model(config.replace(dtype="float64", init_scale=3.0), 1000, 2)
    assert changed.entity.dtype == torch.float64
    assert changed.tangent_coordinates().std().item() == pytest.approx(3.0, rel=0.05)


@pytest.mark.parametrize("name", settings.MODELS)
def test_the_model_facts_that_the_settings_know(name):
    """Which models pair coordinates, and which have an N3 penalty, is a table there: it must be true."""
    model = build_model(TrainConfig(model=name, dim=4), 5, 1)
    none = torch.zeros(0, dtype=torch.int64)
    if name in settings.WITH_N3:
        assert model.relation_rows(none).shape == (0, 4)
    else:
        with pytest.raises(DomainError, match="n3"):
            model.relation_rows(none)
    if name in settings.PAIRED:
        with pytest.raises(DomainError, match="even"):
            MODELS[name](5, 2, 3)
    else:
        assert MODELS[name](5, 2, 3).dim == 3


@pytest.mark.parametrize("name", ["murp", "murp-full"])
@pytest.mark.parametrize("manifold", settings.MANIFOLDS)
def test_models_on_one_manifold(name, manifold):
    for parameterisation, dtype in (("tangent", torch.float32), ("manifold", torch.float64)):
        config = TrainConfig(model=name, manifold=manifold, dim=3, curvature=2.5, parameterisation=parameterisation)
        model = build_model(config, 5, 1)
        assert type(model.manifold) is ({"euclidean": Euclidean} | HYPERBOLIC)[manifold]
        assert (model.tangent, model.entity.dtype) == (parameterisation == "tangent", dtype)
        if manifold != "euclidean":
            assert model.manifold.c.item() == 2.5
            assert not model.manifold.learnable
            assert build_model(config.replace(learn_curvature=True), 5, 1).manifold.learnable


def test_models_on_a_product():
    config = TrainConfig(manifold="poincare:3,euclidean:5", dim=8, curvature=0.5, learn_curvature=True)
    model = build_model(config, 6, 1)
    assert isinstance(model.manifold, Product)
    assert [type(factor).__name__ for factor in model.manifold.factors] == ["PoincareBall", "Euclidean"]
    assert model.manifold.dims == [3, 5]
    assert model.manifold.factors[0].c.item() == pytest.approx(0.5)
    assert model.manifold.factors[0].learnable
    two = build_model(config.replace(manifold="poincare:4,lorentz:4"), 6, 1)
    assert len([name for name, _ in two.named_parameters() if name.endswith("log_c")]) == 2


@pytest.mark.parametrize("manifold", ["poincare", "lorentz:2,halfspace:2", "poincare:2,euclidean:2"])
def test_learnt_curvatures_move(manifold):
    config = CONFIG.replace(manifold=manifold, learn_curvature=True, epochs=2)
    model, _ = train_model(config, TRIPLES, progress=False)
    curvatures = [p for name, p in model.named_parameters() if name.endswith("log_c")]
    assert len(curvatures) == 1 + manifold.count(",") - manifold.count("euclidean")
    assert all(p.item() != 0 for p in curvatures)


@pytest.mark.parametrize("name", settings.MODELS)
@pytest.mark.parametrize("optimizer", ["adam", "adagrad", "sgd"])
def test_optimizers_take_every_parameter_once(name, optimizer):
    config = TrainConfig(model=name, dim=4, optimizer=optimizer, lr=0.25, momentum=0.5 * (optimizer == "sgd"))
    model = build_model(config, 6, 1)
    built = build_optimizer(config, model)
    assert type(built) is {"adam": RiemannianAdam, "adagrad": RiemannianAdagrad, "sgd": RiemannianSGD}[optimizer]
    taken = [p for group in built.param_groups for p in group["params"]]
    assert sorted(map(id, taken)) == sorted(map(id, model.parameters()))
    twice = {id(p) for group in built.param_groups for p in group["params"] if group["lr"] == 0.5}
    hyperbolic = name in ("murp", "murp-full", "roth", "refh", "atth", "hybonet")
    tables = {id(p) for n, p in model.named_parameters() if n in ("entity", "translation")}
    assert twice == (tables if hyperbolic and optimizer != "sgd" else set())
    assert all(group["lr"] in (0.25, 0.5) for group in built.param_groups)
    if optimizer == "sgd":
        assert [group["momentum"] for group in built.param_groups] == [0.5]


def test_streams_of_a_seed():
    first = [torch.rand(4, generator=g).tolist() for seed in (0, 1) for g in generators(seed).values()]
    assert len({tuple(row) for row in first}) == 10
    assert generators(2**62).keys() == generators(0).keys()


# ---------------------------------------------------------------------------------------------------- whole runs


def tree(n=31):
    """child, and parent, its inverse: a third of the latter are held out, and follow from the former."""
    rows = [(f"e{i:02}", "child", f"e{(i - 1) // 2:02}") for i in range(1, n)]
    rows += [(t, "parent", h) for h, _, t in rows]
    whole = Triples.from_triples(rows, name="tree")
    held = (whole.train[:, 1] == whole.relation_ids["parent"]) & (whole.train[:, 2] % 3 == 0)
    return dataclasses.replace(whole, train=whole.train[~held], valid=whole.train[held])


RUN = TrainConfig(
    dim=8, epochs=40, batch_size=32, negatives=16, lr=0.08, penalty=0.001, validate_every=40, negative_weight=8.0
)


@pytest.mark.parametrize("name", settings.MODELS)
def test_training_teaches_every_model(name):
    config, triples = RUN.replace(model=name), tree()
    before = evaluate(build_model(config, triples.n_entities, 2), triples, "valid").metrics()["mrr"]
    model, fitted = train_model(config, triples, progress=False)
    after = evaluate(model, triples, "valid").metrics()["mrr"]
    assert fitted.best_score == pytest.approx(after)
    assert after > before + 0.4
    assert fitted.history[-1]["loss"] < 0.5 * fitted.history[0]["loss"]


@pytest.mark.parametrize(
    "changes",
    [
        {"negative_mode": "all", "loss": "softmax", "negative_weight": 31.0, "filtered": True},
        {"negative_mode": "k-vs-all", "loss": "softmax", "dropout": 0.1},
        {"negative_mode": "k-vs-all", "penalty": 0.01, "regularizer": "dura"},
        {"negative_mode": "typed", "loss": "self-adversarial", "margin": 3.0},
        {"negative_mode": "independent", "loss": "margin", "hardest": 4, "bernoulli": True, "negative_weight": 1.0},
        {"optimizer": "adagrad", "lr": 0.2, "schedule": "cosine", "warmup": 0.1, "sse": "se"},
        {"manifold": "poincare:3,euclidean:5", "learn_curvature": True, "averaging": 0.9, "both_directions": True},
    ],
    ids=str,
)
def test_training_teaches_with_every_option(changes):
    config, triples = RUN.replace(**changes), tree()
    before = evaluate(build_model(config, triples.n_entities, 2), triples, "valid").metrics()["mrr"]
    _, fitted = train_model(config, triples, progress=False)
    assert fitted.best_score > before + 0.4


def test_both_directions_are_what_is_validated():
    config, triples = RUN.replace(epochs=2, validate_every=2, both_directions=True, init_scale=0.5), tree()
    model, fitted = train_model(config, triples, progress=False)
    assert isinstance(ranker(config, model), BothDirections)
    both, one = (evaluate(r, triples, "valid").metrics()["mrr"] for r in (BothDirections(model), model))
    assert fitted.best_score == both != one
    plain = config.replace(both_directions=False)
    assert ranker(plain, model) is model
    assert train_model(plain, triples, progress=False)[1].best_score == one


def test_at_most_so_many_validation_queries(monkeypatch):
    asked, original = [], graph_training.evaluate

    def spy(model, triples, split, *, queries):
        asked.append(queries)
        return original(model, triples, split, queries=queries)

    monkeypatch.setattr(graph_training, "evaluate", spy)
    train_model(RUN.replace(epochs=2, validate_every=1, validate_queries=5), tree(), progress=False)
    every = tree().with_inverses("valid").tolist()
    assert torch.equal(asked[0], asked[1])
    assert len(asked[0]) == 5
    places = [every.index(row) for row in asked[0].tolist()]
    assert (places[0], places[-1]) == (0, len(every) - 1)
    assert places == sorted(set(places))


def test_a_graph_without_valid_triples_is_trained_to_the_end():
    model, fitted = train_model(RUN.replace(epochs=2, averaging=0.5), TRIPLES, progress=False)
    assert (fitted.epochs, fitted.best_score) == (2, None)
    assert model.entity.isfinite().all()


@pytest.mark.parametrize(
    "changes",
    [
        {"sse": "se", "negative_mode": "independent", "schedule": "cosine", "warmup": 0.2},
        {"sse": "graph", "negative_mode": "k-vs-all", "loss": "softmax", "optimizer": "adagrad"},
        {"sse": "se", "model": "complex", "regularizer": "n3", "negative_mode": "all", "both_directions": True},
        {"sse": "graph", "manifold": "lorentz:4,euclidean:4", "learn_curvature": True, "parameterisation": "manifold"},
    ],
    ids=str,
)
@pytest.mark.parametrize("stop", [2, 7, 12])
def test_resumed_to_the_same_bits(tmp_path, monkeypatch, changes, stop):
    config, triples = (
        RUN.replace(
            epochs=6, batch_size=16, validate_every=2, dropout=0.3, sse_probability=0.3, averaging=0.9, **changes
        ),
        tree(),
    )
    check_resumes_to_the_same_bits(config, triples, tmp_path, monkeypatch, stop)


@pytest.mark.parametrize(
    "changes",
    [
        {"sse": "se", "sse_probability": 0.5},
        {"averaging": 0.9},
        {"schedule": "constant"},
        {"warmup": 0.5},
        {"lr_final": 1.0},
        {"optimizer": "adagrad"},
        {"optimizer": "sgd", "momentum": 0.5},
        {"penalty": 0.1},
        {"dropout": 0.5},
        {"negative_weight": 1.0},
        {"curvature": 2.0},
    ],
    ids=str,
)
def test_options_reach_the_training(changes):
    config = RUN.replace(epochs=2, lr=0.01)
    if "momentum" in changes:
        config = config.replace(optimizer="sgd")
    plain, changed = (train_model(c, TRIPLES, progress=False)[0].entity for c in (config, config.replace(**changes)))
    assert not torch.equal(plain, changed)


def test_patience():
    config = RUN.replace(lr=0.0, patience=2, validate_every=1)  # at this rate nothing gets better
    assert train_model(config, tree(), progress=False)[1].epochs == 3
