"""Answers against brute force over all triples; a placed entity against the definition of its loss and a solver."""

import json
import math
from pathlib import Path

import geoopt
import pytest
import scipy.optimize
import torch
import torch.nn.functional as F

from geoembed import placement, prediction
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import CheckpointError, DataError, DomainError, ShapeError, UnknownNameError
from geoembed.graph_training import train_model
from geoembed.manifolds import Lorentz, PoincareBall, Product
from geoembed.models import MODELS, BothDirections, MuRP
from geoembed.placement import Placed, extended, place
from geoembed.prediction import Predictor
from geoembed.runs import Run


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def graph(n=14, n_relations=3, sizes=(40, 8, 8)):
    """Random triples, some of an entity with itself, one of them in all three splits."""
    every = torch.cartesian_prod(torch.arange(n), torch.arange(n_relations), torch.arange(n))
    rows = every[torch.randperm(len(every), generator=generator(1))[: sum(sizes)]]
    loops = torch.tensor([[0, 0, 0], [1, 2, 1]])
    train, valid, test = rows.split(list(sizes))
    parts = torch.cat([train, loops]), torch.cat([valid, train[:1]]), torch.cat([test, train[:1]])
    return Triples([f"e{i:02}" for i in range(n)], [f"r{i}" for i in range(n_relations)], *parts)


DATA = graph()
TRIPLES = {tuple(row): split for split in ("test", "valid", "train") for row in DATA.names(DATA[split])}


def make(name, n=DATA.n_entities, dim=4, **options):
    return MODELS[name](
        n, 2 * DATA.n_relations, dim, **({"generator": generator(), "scale": 0.7, "dtype": torch.float64} | options)
    ).eval()


def predictor(name="murp", both=False, triples=DATA):
    model = make(name)
    return Predictor(BothDirections(model) if both else model, DATA.entities, DATA.relations, triples)


@torch.no_grad()
def brute(asked, h=None, r=None, t=None, exclude=False, inverse=False):
    """All answers to a triple with one place open, from the model's own `forward` of every triple there is."""
    n, m = len(DATA.entities), len(DATA.relations)
    every = torch.cartesian_prod(torch.arange(n), torch.arange(2 * m), torch.arange(n))
    if not hasattr(asked, "table"):
        asked.table = asked.ranker(*every.unbind(1)).view(n, 2 * m, n).sigmoid().tolist()
    answers = []
    for x in DATA.relations if r is None else DATA.entities:
        triple = (x if h is None else h, x if r is None else r, x if t is None else t)
        known = TRIPLES.get(triple)
        if (known and exclude) or (r is not None and triple[0] == triple[2] and not known):
            continue
        a, b, c = DATA.entity_ids[triple[0]], DATA.relation_ids[triple[1]], DATA.entity_ids[triple[2]]
        answers.append((x, asked.table[c][b + m][a] if inverse else asked.table[a][b][c], known))
    return sorted(answers, key=lambda answer: -answer[1])


def same(found, expected, k):
    assert [(answer.name, answer.known) for answer in found] == [(x, known) for x, _, known in expected[:k]]
    assert [answer.value for answer in found] == pytest.approx([p for _, p, _ in expected[:k]], rel=1e-6)


# --------------------------------------------------------------------------------------------------------- questions


@pytest.mark.parametrize("both", [False, True])
@pytest.mark.parametrize("name", ["murp", "complex", "rotate"])
@pytest.mark.parametrize("exclude", [False, True])
def test_answers_are_those_of_brute_force(name, both, exclude):
    asked = predictor(name, both)
    for entity in DATA.entities:
        for relation in DATA.relations:
            for k in (1, 5, 99):
                found = asked.tails(entity, relation, k, exclude_known=exclude)
                same(found, brute(asked, h=entity, r=relation, exclude=exclude), k)
                found = asked.heads(relation, entity, k, exclude_known=exclude)
                same(found, brute(asked, r=relation, t=entity, exclude=exclude, inverse=not both), k)
        for other in DATA.entities[:3]:
            found = asked.relations_between(entity, other, 2, exclude_known=exclude)
            same(found, brute(asked, h=entity, t=other, exclude=exclude), 2)


def test_marks_cover_all_splits():
    marks = {answer.known for e in DATA.entities for r in DATA.relations for answer in predictor().tails(e, r, 99)}
    assert marks == {"train", "valid", "test", None}


@pytest.mark.parametrize("budget", [1, 700, 1 << 27])
@pytest.mark.parametrize("k", [1, 7, 10**6])
def test_best_new_triples(monkeypatch, budget, k):
    monkeypatch.setattr(prediction, "DEFAULT_BUDGET", budget)
    asked = predictor()
    for relation in DATA.relations:
        expected = [
            (head, answer[0], answer[1])
            for head in DATA.entities
            for answer in brute(asked, h=head, r=relation, exclude=True)
        ]
        expected = sorted(expected, key=lambda triple: -triple[2])[:k]
        found = asked.best_new(relation, k)
        assert [(p.head, p.relation, p.tail) for p in found] == [(h, relation, t) for h, t, _ in expected]
        assert [p.probability for p in found] == pytest.approx([p for _, _, p in expected], rel=1e-6)


def test_scores_and_ranks_of_triples():
    asked = predictor("mure")
    asked.model.entity.data[5] = asked.model.entity.data[6]  # a tie
    asked.model.bias.data[5] = asked.model.bias.data[6]
    rows = [*list(TRIPLES)[:20], ("e05", "r1", "e06"), ("e03", "r0", "e05"), ("e05", "r1", "e06")]
    found = asked.score(rows, rank=True)
    assert [p[:3] for p in found] == rows
    for p in found:
        r = torch.tensor([DATA.relation_ids[p.relation]]).expand(14)
        scores = asked.model(torch.tensor([asked.entity(p.head)]).expand(14), r, torch.arange(14)).tolist()
        own = scores[asked.entity(p.tail)]
        assert p.probability == pytest.approx(1 / (1 + math.exp(-own)), rel=1e-9)
        above, equal = sum(s > own + 1e-9 for s in scores), sum(abs(s - own) <= 1e-9 for s in scores)
        assert p.rank == above + (1 + equal) / 2
    assert found[-2].rank % 1 == 0.5
    assert [p.rank for p in asked.score(rows)] == [None] * len(rows)
    assert asked.score([]) == asked.score([], rank=True) == []
    assert [p.tail for p in asked.score(iter([["e00", "r0", "e01"]]))] == ["e01"]


def test_neighbours():
    asked = predictor()
    points = asked.model.points()
    for name in DATA.entities[:4]:
        others = [
            (asked.model.manifold.dist(points[asked.entity(name)], points[i]).item(), other)
            for i, other in enumerate(DATA.entities)
            if other != name
        ]
        found = asked.neighbours(name, 6)
        assert [answer.name for answer in found] == [other for _, other in sorted(others)][:6]
        assert [answer.value for answer in found] == pytest.approx(sorted(d for d, _ in others)[:6], rel=1e-9)
    assert len(asked.neighbours("e00", 99)) == 13
    assert predictor(both=True).neighbours("e03", 5) == asked.neighbours("e03", 5)


# ------------------------------------------------------------------------------------------------- questions: bad input


def test_nan_comes_last_and_shows():
    asked = predictor("rotate")
    asked.model.entity.data[4] = torch.nan
    for found in (asked.tails("e02", "r0", 99), asked.heads("r0", "e02", 99)):
        assert found[-1].name == "e04"
        assert math.isnan(found[-1].value)
        assert not any(math.isnan(answer.value) for answer in found[:-1])
    assert "e04" not in {name for p in asked.best_new("r0", 10**6) for name in (p.head, p.tail)}
    assert asked.score([("e02", "r0", "e04")], rank=True)[0].rank == 14


def test_probabilities_of_one_keep_their_order():
    asked = predictor("distmult")
    asked.model.float()
    asked.model.entity.data.mul_(30)
    found = asked.tails("e02", "r0", 99)
    ids = torch.tensor([asked.entity(answer.name) for answer in found])
    scores = asked.model(torch.full_like(ids, 2), torch.zeros_like(ids), ids)
    assert (scores.sigmoid() == 1).sum() > 1
    assert (scores.diff() <= 0).all()


def test_unknown_names_and_bad_arguments():
    asked = predictor()
    for call in (
        lambda: asked.tails("e0", "r0"),
        lambda: asked.heads("r0", "e0"),
        lambda: asked.neighbours("e0"),
        lambda: asked.relations_between("e01", "e0"),
        lambda: asked.score([("e01", "r0", "e02"), ("e01", "r0", "e0")]),
    ):
        with pytest.raises(UnknownNameError, match=r"unknown entity 'e0'\. Did you mean"):
            call()
    for call in (
        lambda: asked.tails("e01", "r"),
        lambda: asked.best_new("r"),
        lambda: asked.heads("", "e01"),
    ):
        with pytest.raises(UnknownNameError, match="unknown relation"):
            call()
    for call in (
        lambda: asked.tails("e01", "r0", 0),
        lambda: asked.neighbours("e01", -1),
        lambda: asked.best_new("r0", 0),
    ):
        with pytest.raises(DomainError, match="k must be at least 1"):
            call()
    with pytest.raises(DataError, match="expected triples"):
        asked.score([("e01", "r0")])
    with pytest.raises(ShapeError, match="got 13 and 3"):
        Predictor(asked.model, DATA.entities[1:], DATA.relations)
    with pytest.raises(DataError, match="not those of the model"):
        Predictor(asked.model, [f"x{i}" for i in range(14)], DATA.relations, DATA)


def test_without_data():
    asked = predictor(triples=None)
    found = asked.tails("e01", "r0", 99)
    assert len(found) == 13
    assert {answer.known for answer in found} == {None}
    for call in (lambda: asked.tails("e01", "r0", exclude_known=True), lambda: asked.best_new("r0")):
        with pytest.raises(DataError, match="without the data"):
            call()


def test_one_entity():
    data = Triples.from_triples([("a", "r", "a")])
    asked = Predictor(MuRP(1, 2, 2, generator=generator()), data.entities, data.relations, data)
    assert [(answer.name, answer.known) for answer in asked.tails("a", "r")] == [("a", "train")]
    assert asked.tails("a", "r", exclude_known=True) == asked.neighbours("a") == asked.best_new("r") == []
    assert asked.with_entity("b", [("b", "r", "a")]).tails("b", "r")[0].name == "a"


# ------------------------------------------------------------------------------------------------------- a new entity

GIVEN = torch.tensor([[14, 0, 3], [5, 1, 14], [14, 2, 14]])  # 14 is the new one
CURVED = {
    "ball": {"manifold": PoincareBall(c=0.7, learnable=True), "tangent": False},
    "hyperboloid": {"manifold": Lorentz(), "tangent": False},
    "product": {"manifold": Product([(PoincareBall(), 2), (Lorentz(), 2)]), "tangent": False},
}
KINDS = [(name, {}) for name in sorted(MODELS)] + [("murp", options) for options in CURVED.values()]
IDS = [*sorted(MODELS), *CURVED]


@torch.no_grad()
def exact_loss(model, triples, placed, weight=50.0, penalty=0.025):
    """The loss of the docstring with every entity as a negative, by the extended model."""
    n, half = model.n_entities, model.n_relations // 2
    other, total = extended(model, placed), []
    rows = [(h, r, t) for h, r, t in triples.tolist()] + [(t, r + half, h) for h, r, t in triples.tolist()]
    for h, r, t in rows:
        every = torch.arange(n)
        relation = torch.full_like(every, r)
        ends = (torch.full_like(every, h), relation, every) if h == n else (every, relation, torch.full_like(every, n))
        score = other(*(torch.tensor([i]) for i in (h, r, t)))
        total.append(F.softplus(-score) + weight * F.softplus(other(*ends)).mean())
    radius = other.tangent_coordinates()[n].square().sum()
    return (torch.cat(total).mean() + penalty * radius).item()


def origin(model):
    u = torch.zeros(model.dim, dtype=torch.float64)
    row = model.manifold.from_tangent(u) if isinstance(model.entity, geoopt.ManifoldParameter) else u
    return Placed(row, None if model.bias is None else model.bias.detach().mean(0), math.nan)


@pytest.mark.parametrize(("name", "options"), KINDS, ids=IDS)
def test_place_in_every_model(name, options):
    model = make(name, **options).train()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    settings = {"steps": 60, "lr": 0.1, "negatives": 16, "weight": 5.0}
    placed = place(model, GIVEN, **settings, generator=generator(4))
    again = place(model, GIVEN, **settings, generator=generator(4))
    assert torch.equal(placed.row, again.row)
    assert model.training
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    assert all(p.grad is None and p.requires_grad for p in model.parameters())
    assert placed.row.shape == model.entity.shape[1:]
    assert (placed.bias is None) == (model.bias is None)

    found, start = (exact_loss(model, GIVEN, p, weight=5.0) for p in (placed, origin(model)))
    assert found < (1.005 if model.bias is None else 0.9) * start  # inner products of few triples gain little
    assert found == pytest.approx(placed.loss, rel=0.1)
    worse = [placed._replace(row=model.entity.detach()[i]) for i in range(14)]
    assert found <= min(exact_loss(model, GIVEN, other, weight=5.0) for other in worse)

    other = extended(model, placed, 3).eval()
    model.eval()
    kept = [i for i in range(15) if i != 3]
    assert torch.equal(other.points()[kept], model.points())
    for r in (0, 5):
        torch.testing.assert_close(
            other.tail_scorer(r)(torch.tensor(kept))[:, kept],
            model.tail_scorer(r)(torch.arange(14)),
            rtol=1e-12,
            atol=0,
        )
    assert type(other.entity) is type(model.entity)
    assert other.points().shape == (15, model.points().shape[1])


def test_place_finds_the_optimum_of_a_convex_loss():
    """DistMult's scores are linear in the new row, so the loss has one minimum; scipy's L-BFGS finds it."""
    model = make("distmult", scale=1.0)
    triples = torch.tensor([[14, 0, 3], [14, 0, 4], [5, 1, 14]])
    options = {"weight": 3.0, "penalty": 0.1}
    placed = place(model, triples, steps=500, negatives=200, **options, generator=generator())

    def loss(x):
        return exact_loss(model, triples, Placed(torch.tensor(x), None, 0.0), **options)

    best = scipy.optimize.minimize(loss, torch.zeros(4).double().numpy())
    assert loss(placed.row.numpy()) < best.fun * 1.002
    assert placed.row.tolist() == pytest.approx(best.x.tolist(), abs=0.03)
    assert placed.loss == pytest.approx(best.fun, rel=0.02)


def test_many_triples_are_taken_in_parts(monkeypatch):
    model = make("mure")
    triples = torch.tensor([[14, r, t] for r in range(3) for t in range(14)])
    monkeypatch.setattr(placement, "DEFAULT_BUDGET", 1)  # one directed triple a step
    placed = place(model, triples, weight=5.0, generator=generator())
    assert exact_loss(model, triples, placed, weight=5.0) < 0.93 * exact_loss(model, triples, origin(model), weight=5.0)


@pytest.mark.parametrize(
    ("triples", "message"),
    [
        (torch.empty(0, 3, dtype=torch.int64), "m > 0"),
        (torch.tensor([14, 0, 3]), "expected triples"),
        (GIVEN.double(), "float64"),
        (torch.tensor([[1, 0, 3]]), "not about the new entity, which has the id 14"),
        (torch.tensor([[15, 0, 14]]), "entity ids"),
        (torch.tensor([[14, 6, 1]]), "relation ids"),
    ],
)
def test_place_refuses(triples, message):
    with pytest.raises((ShapeError, DomainError), match=message):
        place(make("murp"), triples)


def test_place_says_when_it_cannot():
    model = make("mure")
    model.translation.data.fill_(torch.nan)
    with pytest.raises(DomainError, match="the loss of the new entity became nan"):
        place(model, GIVEN, steps=3)
    with pytest.raises(DomainError, match="inverse of every relation, it has 3 relations"):
        place(MODELS["murp"](14, 3, 2), GIVEN)


def test_with_entity_names_and_data():
    asked = predictor(both=True)
    given = [("e05x", "r0", "e03"), ("e09", "r1", "e05x"), ("e05x", "r0", "e03")]  # one of them twice
    found = asked.with_entity("e05x", given, steps=40, generator=generator())
    assert found.entities == sorted([*DATA.entities, "e05x"])
    assert isinstance(found.ranker, BothDirections)
    assert len(found.triples.train) == len(DATA.train) + 2
    for split in ("train", "valid", "test"):
        assert found.triples.names(found.triples[split])[: len(DATA[split])] == DATA.names(DATA[split])
    assert set(found.triples.names(found.triples.train)) >= set(given)
    assert {answer.name for answer in found.tails("e05x", "r0", 99) if answer.known == "train"} == {"e03"}
    assert {answer.name for answer in found.heads("r1", "e05x", 99) if answer.known == "train"} == {"e09"}
    old, new = (p.score(TRIPLES) for p in (asked, found))
    assert [p[:4] for p in new] == [(*p[:3], pytest.approx(p[3], rel=1e-12)) for p in old]
    assert len(asked.entities) == len(DATA.entities)
    twice = found.with_entity("a", [("a", "r0", "e05x")], steps=5, generator=generator())
    assert twice.entities[0] == "a"
    assert twice.tails("a", "r0", 99, exclude_known=True)[0].name not in ("a", "e05x")
    assert predictor(triples=None).with_entity("z", [("z", "r0", "e01")], steps=5).triples is None


@pytest.mark.parametrize(
    ("name", "given", "error", "message"),
    [
        ("e01", [("e01", "r0", "e02")], DataError, "is an entity of the model already"),
        ("new", [], DataError, "there are none"),
        ("new", [("new", "r0", "e01"), ("e02", "r0", "e01")], DataError, "neither as head nor as tail"),
        ("new", [("new", "r0", "e99")], UnknownNameError, "unknown entity 'e99'"),
        ("new", [("new", "r9", "e01")], UnknownNameError, "unknown relation 'r9'"),
        ("new", [("new", "r0")], DataError, "expected triples"),
        (" ", [(" ", "r0", "e01")], DataError, "cannot be blank"),
        ("a\tb", [("a\tb", "r0", "e01")], DataError, "cannot hold a tab"),
    ],
)
def test_with_entity_refuses(name, given, error, message):
    with pytest.raises(error, match=message):
        predictor().with_entity(name, given)


@pytest.mark.parametrize("name", ["murp", "complex"])
def test_an_entity_left_out_of_training_finds_its_place(name):
    """Leaves and inner nodes of a tree, each placed in a model that was trained without them."""
    edges = [(f"n{i:03}", "parent", f"n{(i - 1) // 3:03}") for i in range(1, 121)]
    left_out = ("n050", "n007", "n115", "n010")
    data = Triples.from_triples([edge for edge in edges if not set(left_out) & set(edge)])
    settings = {"negatives": 32, "negative_mode": "independent", "penalty": 0.003}
    config = TrainConfig(model=name, dim=8, epochs=50, batch_size=64, lr=0.03, **settings)
    model, _ = train_model(config, data, progress=False)
    asked, ranks = Predictor(model, data.entities, data.relations, data), []
    for gone in left_out:
        given = [edge for edge in edges if gone in edge]
        found = asked.with_entity(gone, given, penalty=0.003, generator=generator())
        for head, relation, tail in given:
            other = tail if head == gone else head
            answers = found.tails(gone, relation, 200) if head == gone else found.heads(relation, gone, 200)
            names = [answer.name for answer in answers if not answer.known or answer.name == other]
            ranks.append(names.index(other) + 1)
    assert len(ranks) == 10
    assert sum(ranks) / len(ranks) < 25  # 58 by chance
    assert sorted(ranks)[5] <= 8


# ------------------------------------------------------------------------------------------------------- run folders


def saved(folder, data=DATA, **settings):
    config = TrainConfig(**({"data": "gone.tsv", "dim": 4, "init_scale": 0.7} | settings))
    run = Run.create(Path(folder), config, data)
    run.save_model(MODELS[config.model](data.n_entities, 2 * data.n_relations, 4, generator=generator(), scale=0.7))
    return run


ODD = ["a\u2028b", "a\x0bb", "a\x0cb", "a\x1cb", "a\x1db", "a\x1eb", "a\x85b", "\u2029x", " x ", "\ufeffy"]


def test_names_with_odd_line_ends(tmp_path):
    data = Triples.from_triples([(name, f"r{name}", "hub") for name in ODD[:-3]] + [(name, "r", "hub") for name in ODD])
    saved(tmp_path / "run", data)
    run = Run.open(tmp_path / "run")
    assert (run.entities, run.relations) == (data.entities, data.relations)
    assert {answer.name for answer in run.tails("hub", "r", 99)} == set(ODD)


def test_run_asks_its_predictor(tmp_path):
    run = saved(tmp_path / "run", both_directions=True)
    asked = Predictor(BothDirections(run.model), DATA.entities, DATA.relations, DATA)
    assert isinstance(run.ranker, BothDirections)
    for exclude in (False, True):
        assert run.tails("e01", "r0", 5, exclude_known=exclude) == asked.tails("e01", "r0", 5, exclude_known=exclude)
        expected = asked.heads("r0", "e01", 5, exclude_known=exclude)
        assert run.heads("r0", "e01", 5, exclude_known=exclude) == expected
        assert run.tails("e01", "r0", 5, inverse=True, exclude_known=exclude) == expected
        found = run.relations_between("e01", "e02", 5, exclude_known=exclude)
        assert found == asked.relations_between("e01", "e02", 5, exclude_known=exclude)
    assert run.neighbours("e01", 3) == asked.neighbours("e01", 3)
    assert run.best_new("r1", 4) == asked.best_new("r1", 4)
    assert run.score([("e01", "r0", "e02")], rank=True) == asked.score([("e01", "r0", "e02")], rank=True)
    assert run.probability("e01", "r0", "e02") == asked.score([("e01", "r0", "e02")], rank=True)[0][3:]
    placed = run.with_entity("new", [("new", "r0", "e01")], generator=generator())
    options = {"weight": run.config.negative_weight, "penalty": run.config.penalty}
    expected = asked.with_entity("new", [("new", "r0", "e01")], generator=generator(), **options)
    assert placed.tails("new", "r0", 5) == expected.tails("new", "r0", 5)
    assert "new" not in run.entities


def test_a_run_whose_data_has_gone(tmp_path):
    saved(tmp_path / "run")
    run = Run.open(tmp_path / "run")
    assert {answer.known for answer in run.tails("e01", "r0", 99)} == {None}
    for call in (lambda: run.tails("e01", "r0", exclude_known=True), lambda: run.best_new("r0")):
        with pytest.raises((DataError, UnknownNameError), match=r"gone\.tsv"):
            call()


def test_embedding_in_digits_that_read_back_the_same(tmp_path):
    for dtype in ("float32", "float64"):
        config = TrainConfig(data="x", dim=4, dtype=dtype)
        run = Run.create(tmp_path / dtype, config, DATA)
        model = make("murp", dtype=getattr(torch, dtype))
        run.save_model(model)
        text = (tmp_path / dtype / "embedding.tsv").read_text(encoding="utf-8").removesuffix("\n").split("\n")
        points = torch.tensor([[float(x) for x in line.split("\t")[1:]] for line in text], dtype=torch.float64)
        assert torch.equal(points.to(model.points().dtype), model.points())


def test_run_json_is_read_once(tmp_path, monkeypatch):
    saved(tmp_path / "run")
    reads, loads = [], json.loads
    monkeypatch.setattr(json, "loads", lambda text: reads.append(text) or loads(text))
    Run.open(tmp_path / "run")
    assert len(reads) == 1
    (tmp_path / "run" / "run.json").write_text("[")
    with pytest.raises(CheckpointError, match=r"run\.json cannot be read"):
        Run.open(tmp_path / "run")
