"""Biases of loops: their equation solved by another solver, the scores of every way to get them, whole runs."""

import copy
import itertools
import json
import math
import random

import pytest
import torch
from resuming import check_resumes_to_the_same_bits
from scipy.optimize import brentq
from scipy.special import expit
from test_cli import FAST, fails, write_tree

from geoembed import graph_training
from geoembed.cli import main
from geoembed.config import TrainConfig
from geoembed.data import Triples
from geoembed.errors import CheckpointError, DomainError, UnknownNameError
from geoembed.evaluation import evaluate
from geoembed.graph_training import build_model, ranker, train_model
from geoembed.models import MODELS, BothDirections, GraphModel, calibrate_loops
from geoembed.models.loops import _biases
from geoembed.placement import extended, place
from geoembed.prediction import Predictor
from geoembed.runs import Run
from geoembed.sampled_evaluation import score_triples

F64 = torch.float64
N = 12
NAMES = ("every", "hub", "none", "one", "one loop", "some", "unused")
EVERY, HUB, NONE, ONE, ONE_LOOP, SOME, UNUSED = range(7)
MODEL_NAMES = ("murp", "roth", "complex", "tucker", "murp-full")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def of(rows, **splits):
    parts = [torch.tensor(splits.get(name, []), dtype=torch.int64).view(-1, 3) for name in ("valid", "test")]
    train = torch.tensor(rows, dtype=torch.int64).view(-1, 3)
    return Triples([f"e{i:02}" for i in range(N)], list(NAMES), train, *parts)


def rows_of_every_kind():
    some = random.Random(0).sample([(h, SOME, t) for h in range(N) for t in range(N)], 40)
    rows = [*some, *((h, EVERY, h) for h in range(5)), *((h, NONE, h + 1) for h in range(6))]
    rows += [(2, ONE, 3), (4, ONE_LOOP, 4), *((0, HUB, t) for t in range(N)), (1, HUB, 1), (2, HUB, 3), (3, HUB, 4)]
    return [*rows, (2, HUB, 3), (1, HUB, 1), (0, HUB, 5)]  # some of them twice


GRAPH = of(rows_of_every_kind(), valid=[(5, NONE, 5)], test=[(3, ONE, 3)])  # loops that training knows nothing of


def make(name, n=N, **options):
    options = {"generator": generator(), "scale": 0.6, "dtype": F64} | options
    model = MODELS[name](n, 2 * len(NAMES), 4, **options).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim():
                parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator(1), dtype=F64))
    return model


@torch.no_grad()
def own_scores(model, triples=GRAPH):
    """{relation: [(score of (h, r, h), whether it is a training triple) for each head h of r]}, one by one."""
    known = {tuple(row) for row in triples.with_inverses("train").tolist()}
    found = {r: [] for r in range(model.n_relations)}
    for h, r in sorted({(h, r) for h, r, _ in known}):
        score = model(*(torch.tensor([i]) for i in (h, r, h))).item()
        found[r].append((score, (h, r, h) in known))
    return found


def root(pairs):
    """b with mean sigmoid(score + b) = (L + 1/2) / (H + 1); 0 without heads."""
    if not pairs:
        return 0.0
    scores, looped = zip(*pairs, strict=True)
    share = (sum(looped) + 0.5) / (len(looped) + 1)

    def gap(b):
        return math.fsum(float(expit(s + b)) for s in scores) / len(scores) - share

    return brentq(gap, -200 - max(scores), 200 - min(scores), xtol=1e-13, rtol=1e-14)


def without_loops(model):
    other = copy.deepcopy(model)
    other.loops = None
    return other


# ------------------------------------------------------------------------------------------------------- the equation


@pytest.mark.parametrize("name", MODEL_NAMES)
def test_biases_are_the_roots(name):
    model = make(name)
    pairs = own_scores(model)
    calibrate_loops(model, GRAPH)
    assert (model.loops.shape, model.loops.dtype) == ((2 * len(NAMES),), F64)
    expected = [root(pairs[r]) for r in range(model.n_relations)]
    torch.testing.assert_close(model.loops, torch.tensor(expected, dtype=F64), rtol=1e-10, atol=1e-10)
    for now in own_scores(model).values():  # and so the scores that a user gets are calibrated
        if now:
            mean = sum(float(expit(score)) for score, _ in now) / len(now)
            assert mean == pytest.approx((sum(looped for _, looped in now) + 0.5) / (len(now) + 1), abs=1e-14)
    assert {r for r, now in pairs.items() if not now} == {UNUSED, UNUSED + len(NAMES)}


def test_relations_with_one_head():
    model = make("murp")
    pairs = own_scores(model)
    calibrate_loops(model, GRAPH)
    for r in (ONE, ONE + len(NAMES), ONE_LOOP, ONE_LOOP + len(NAMES)):
        [(score, looped)] = pairs[r]
        assert model.loops[r].item() == pytest.approx(math.log(3 if looped else 1 / 3) - score, abs=1e-14)
    assert model.loops[UNUSED] == model.loops[UNUSED + len(NAMES)] == 0


def test_each_head_counts_once():
    """More tails of a head, and triples that are stated twice, change nothing; another head, or loop, does."""
    before, after = (make("complex") for _ in range(2))
    calibrate_loops(before, GRAPH)
    calibrate_loops(after, of([*rows_of_every_kind(), (2, HUB, 7), (2, HUB, 3), (4, ONE_LOOP, 4)]))
    assert torch.equal(after.loops, before.loops)
    calibrate_loops(after, of([*rows_of_every_kind(), (2, HUB, 2)]))
    assert after.loops[HUB] > before.loops[HUB]
    calibrate_loops(after, of([*rows_of_every_kind(), (9, NONE, 0)]))
    assert after.loops[NONE] != before.loops[NONE]


def test_valid_and_test_triples_are_not_looked_at():
    seen, unseen = (make("roth") for _ in range(2))
    calibrate_loops(seen, GRAPH)
    calibrate_loops(unseen, of(rows_of_every_kind()))
    assert torch.equal(seen.loops, unseen.loops)


def test_float32():
    model, exact = make("murp", dtype=torch.float32), make("murp")
    exact.load_state_dict(model.state_dict())
    for m in (model, exact):
        calibrate_loops(m, GRAPH)
    assert model.loops.dtype == torch.float32
    torch.testing.assert_close(model.loops.double(), exact.loops, rtol=1e-4, atol=1e-4)


def test_scores_that_are_not_finite_are_left_out():
    model, bad = make("distmult"), [1, 3]
    with torch.no_grad():
        model.entity[1] = math.nan
        model.entity[3] = 1e200  # its score with itself overflows
    calibrate_loops(model, GRAPH)
    pairs = own_scores(without_loops(model))
    kept = {r: [pair for pair in found if math.isfinite(pair[0])] for r, found in pairs.items()}
    assert sum(map(len, pairs.values())) - sum(map(len, kept.values())) == sum(
        (h, r) in {(a, b) for a, b, _ in GRAPH.with_inverses("train").tolist()}
        for h in bad
        for r in range(2 * len(NAMES))
    )
    expected = torch.tensor([root(kept[r]) for r in range(model.n_relations)], dtype=F64)
    torch.testing.assert_close(model.loops, expected, rtol=1e-10, atol=1e-10)
    with torch.no_grad():
        model.entity.fill_(math.nan)
    calibrate_loops(model, GRAPH)
    assert model.loops.tolist() == [0.0] * (2 * len(NAMES))


@pytest.mark.parametrize("size", [1e3, 1e8, 1e30, 1e300])
def test_scores_far_apart(size):
    """sigmoid is 0 or 1 nearly everywhere: the equation holds all the same."""
    scores = torch.tensor([0.0, size, 0.0, size], dtype=F64)
    relation = torch.tensor([0, 0, 1, 1])
    b = _biases(scores, torch.tensor([True, True, False, True]), relation, 2)
    for r, share in ((0, 2.5 / 3), (1, 1.5 / 3)):
        assert (scores[relation == r] + b[r]).sigmoid().mean().item() == pytest.approx(share, abs=1e-15)


def test_nothing_else_changes():
    model = make("murp", dropout=0.5).train()
    model.generator = generator(5)
    before, drawn = copy.deepcopy(model.state_dict()), model.generator.get_state()
    calibrate_loops(model, GRAPH)
    first = model.loops.clone()
    assert model.training
    assert torch.equal(model.generator.get_state(), drawn)  # no dropout
    assert all(torch.equal(model.state_dict()[name], value) for name, value in before.items())
    assert set(model.state_dict()) - set(before) == {"loops"}
    assert not model.loops.requires_grad
    calibrate_loops(model, GRAPH)  # from the scores without the biases
    assert torch.equal(model.loops, first)
    model.eval()
    calibrate_loops(model, GRAPH)
    assert torch.equal(model.loops, first)
    assert not model.training


def test_models_of_other_data():
    for model in (MODELS["murp"](N + 1, 14, 4), MODELS["murp"](N, 7, 4)):
        with pytest.raises(DomainError, match=r"the model has \(entities, directed relations\)"):
            calibrate_loops(model, GRAPH)


def test_no_training_triples_at_all():
    model = make("tucker")
    calibrate_loops(model, of([], valid=[(0, 0, 0)]))
    assert model.loops.tolist() == [0.0] * 14


# --------------------------------------------------------------------------------------------------------- the scores


@pytest.mark.parametrize("name", MODEL_NAMES)
@pytest.mark.parametrize("both", [False, True])
def test_every_way_to_a_score_has_the_biases(name, both):
    model, every = make(name), torch.arange(N)
    other = copy.deepcopy(model)
    calibrate_loops(model, GRAPH)
    with torch.no_grad():
        model.loops += torch.linspace(-1, 1, 14, dtype=F64)  # no relation has that of another
    asked, plain = (BothDirections(m) if both else m for m in (model, other))
    h, t = torch.cartesian_prod(every, every).unbind(1)
    for relation in range(14):
        r = torch.full_like(h, relation)
        b = model.loops[relation]
        b = (b + model.loops[(relation + 7) % 14]) / 2 if both else b
        expected = plain(h, r, t).detach().view(N, N) + b * torch.eye(N, dtype=F64)
        rows = torch.stack([h, r, t], 1)
        ways = [asked(h, r, t).detach(), score_triples(asked, rows), asked.tail_scorer(relation)(every)]
        if not both:
            ways.append(asked.head_scorer(relation)(every).mT)
            assert torch.equal(*(m.score_batch(h, r, t, every).positive for m in (model, other)))
            assert torch.equal(*(m.score_batch(h, r, t, every).negative for m in (model, other)))
        for found in ways:
            torch.testing.assert_close(found.view(N, N), expected, rtol=1e-12, atol=1e-12)
        some = torch.tensor([3, 3, 7])  # an entity may be asked twice
        torch.testing.assert_close(asked.tail_scorer(relation)(some), expected[some], rtol=1e-12, atol=1e-12)


def test_gradients_of_scores_are_those_without():
    model, h = make("murp"), torch.tensor([1, 2, 3])
    plain = torch.autograd.grad(model(h, h, h).sum(), model.bias)[0].to_dense()
    calibrate_loops(model, GRAPH)
    assert torch.equal(torch.autograd.grad(model(h, h, h).sum(), model.bias)[0].to_dense(), plain)


def test_a_new_entity_is_placed_by_the_scores_without():
    """Its neighbour is another entity, so that no bias of loops belongs to their triple; later it has the biases."""
    plain, model = make("murp"), make("murp")
    calibrate_loops(model, GRAPH)
    model.loops.sub_(5)
    loops, given = model.loops.clone(), torch.tensor([[N, SOME, 0], [3, NONE, N], [N, HUB, N]])
    placed, expected = (place(m, given, steps=20, generator=generator()) for m in (model, plain))
    assert torch.equal(placed.row, expected.row)
    assert placed.loss == expected.loss
    assert torch.equal(model.loops, loops)
    more = extended(model, placed, position=4)
    new = torch.tensor([4])
    score = more.tail_scorer(4)(new)[0, 4].item()
    assert score == pytest.approx((without_loops(more)(new, new, new) + loops[4]).item())
    with torch.no_grad():
        model.entity.fill_(math.nan)
    with pytest.raises(DomainError):
        place(model, given, steps=2)
    assert torch.equal(model.loops, loops)


def test_predictions_leave_the_entity_out_as_before():
    model = make("complex")
    names = [f"e{i:02}" for i in range(N)], list(NAMES)
    before = Predictor(without_loops(model), *names, GRAPH)
    calibrate_loops(model, GRAPH)
    after = Predictor(model, *names, GRAPH)
    assert after.tails("e00", "none", 20) == before.tails("e00", "none", 20)
    assert after.best_new("none", 20) == before.best_new("none", 20)
    [now], [then] = (p.score([("e00", "none", "e00")]) for p in (after, before))
    b = model.loops[NONE].item()
    assert now.probability == pytest.approx(float(expit(math.log(then.probability / (1 - then.probability)) + b)))


# --------------------------------------------------------------------------------------------------------- whole runs


def friends(n=40, seed=3):
    """A symmetric relation between the members of groups of four, without a loop; what is held out follows."""
    pairs = [(a, b) for a, b in itertools.combinations(range(n), 2) if a // 4 == b // 4]
    random.Random(seed).shuffle(pairs)
    held = pairs[:12]
    rows = [(a, "friend", b) for a, b in pairs[12:]] + [(b, "friend", a) for a, b in pairs[12:]]
    named = [(f"p{a:02}", r, f"p{b:02}") for a, r, b in rows]
    train = Triples.from_triples(named, name="friends")
    ids = train.entity_ids
    valid = torch.tensor([[ids[f"p{a:02}"], 0, ids[f"p{b:02}"]] for a, b in held])
    return Triples(train.entities, train.relations, train.train, valid, torch.empty(0, 3, dtype=torch.int64), "friends")


CONFIG = TrainConfig(
    dim=8, epochs=20, batch_size=32, negatives=16, lr=0.08, penalty=0.001, validate_every=20, negative_weight=8.0
)
CALIBRATED = CONFIG.replace(loops="calibrated")


@pytest.mark.parametrize("both", [False, True])
def test_calibrated_loops_rank_better(both):
    triples = friends()
    found = {}
    for config in (CONFIG.replace(both_directions=both), CALIBRATED.replace(both_directions=both)):
        model, fitted = train_model(config, triples, progress=False)
        ranks = [evaluate(ranker(config, model), triples, "valid", exclude_query_entity=x).ranks for x in (False, True)]
        found[config.loops] = *ranks, fitted, model
    free, calibrated = found["free"], found["calibrated"]
    assert torch.equal(calibrated[1], free[1])  # only the query's own entity has another score
    assert torch.equal(calibrated[0], calibrated[1])  # and it is above no answer any more
    assert (1 / calibrated[0]).mean() > (1 / free[0]).mean() + 0.15
    assert calibrated[2].best_score == (1 / calibrated[0]).mean()  # what is validated is what is found later
    assert [r["loss"] for r in calibrated[2].history] == [r["loss"] for r in free[2].history]
    weights, expected = calibrated[3].state_dict(), free[3].state_dict()
    assert set(weights) - set(expected) == {"loops"}
    assert all(torch.equal(weights[name], value) for name, value in expected.items())


@pytest.mark.parametrize("averaging", [0.0, 0.9])
@pytest.mark.parametrize("held_out", [False, True])
def test_the_biases_belong_to_the_weights_that_are_kept(averaging, held_out):
    triples = friends() if held_out else of(rows_of_every_kind())
    config = CALIBRATED.replace(averaging=averaging, epochs=6, validate_every=1, lr=0.3, schedule="constant")
    model, fitted = train_model(config, triples, progress=False)
    loops = model.loops.clone()
    assert loops.abs().min() > 0 or not held_out
    calibrate_loops(model, triples)
    assert torch.equal(model.loops, loops)
    if held_out:
        assert fitted.best_score == evaluate(model, triples, "valid").metrics()["mrr"]


def test_the_best_weights_have_their_biases():
    """Where the score only falls, the first ones are kept."""
    triples, scores = friends(), itertools.count(0, -1)
    config = CALIBRATED.replace(epochs=3, validate_every=1)
    with pytest.MonkeyPatch.context() as patch:
        real = evaluate

        def falling(*args, **options):
            result = real(*args, **options)
            result.metrics = lambda: {"mrr": float(next(scores))}
            return result

        patch.setattr(graph_training, "evaluate", falling)
        model, fitted = train_model(config, triples, progress=False)
    assert fitted.best_epoch == 1
    loops = model.loops.clone()
    calibrate_loops(model, triples)
    assert torch.equal(model.loops, loops)


@pytest.mark.parametrize("stop", [3, 9])
@pytest.mark.parametrize("held_out", [False, True])
def test_resumed_to_the_same_bits(tmp_path, monkeypatch, stop, held_out):
    triples = friends() if held_out else of(rows_of_every_kind())
    config = CALIBRATED.replace(epochs=6, validate_every=2, averaging=0.9, dropout=0.2)
    check_resumes_to_the_same_bits(config, triples, tmp_path, monkeypatch, stop)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        train_model(config.replace(loops="free"), triples, checkpoint=tmp_path, progress=False)


def test_models_are_built_with_a_place_for_the_biases():
    free, calibrated = (build_model(config, N, 7) for config in (CONFIG, CALIBRATED.replace(dtype="float64")))
    assert free.loops is None
    assert "loops" not in free.state_dict()
    assert torch.equal(calibrated.loops, torch.zeros(14, dtype=F64))
    assert isinstance(calibrated, GraphModel)
    assert not any(parameter is calibrated.loops for parameter in calibrated.parameters())


def test_command_line_and_run_folder(tmp_path, capsys):
    data, folder = write_tree(tmp_path / "tree.tsv"), tmp_path / "run"
    options = [str(data), "-o", str(folder), *FAST, "--no-baseline", "--no-picture"]
    assert main(["train", *options, "--loops", "calibrated"]) == 0
    run = Run.open(folder)
    assert run.config.loops == "calibrated"
    written = run.model.loops.clone()
    assert written.abs().min() > 0
    calibrate_loops(run.model, run.triples)
    assert torch.equal(run.model.loops, written)
    results = json.loads((folder / "results.json").read_text(encoding="utf-8"))
    expected = evaluate(run.ranker, run.triples, "test").metrics()
    assert results["sides"]["both"]["mrr"] == pytest.approx(expected["mrr"])
    score = run.model.tail_scorer(0)(torch.tensor([5]))[0, 5]
    node = run.entities[5]
    assert run.probability(node, run.relations[0], node)[0] == pytest.approx(score.double().sigmoid().item(), rel=1e-5)
    asked = tmp_path / "asked.tsv"
    asked.write_text("\t".join([node, run.relations[0], node]) + "\n", encoding="utf-8")
    capsys.readouterr()
    assert main(["score", str(folder), str(asked)]) == 0
    assert f"\t{score.double().sigmoid().item():.6g}" in capsys.readouterr().out
    assert main(["classify", str(folder)]) == 0
    assert "calibrate" in fails(capsys, "train", str(data), "--loops", "sometimes")


def test_run_folders_from_before_the_setting(tmp_path):
    data, folder = write_tree(tmp_path / "tree.tsv"), tmp_path / "run"
    assert main(["train", str(data), "-o", str(folder), *FAST, "--no-baseline", "--no-picture"]) == 0
    settings = folder / "config.toml"
    lines = settings.read_text(encoding="utf-8").splitlines(keepends=True)
    assert sum(line.startswith("loops = ") for line in lines) == 1
    old = "".join(line for line in lines if not line.startswith("loops = "))
    settings.write_text(old, encoding="utf-8")
    run = Run.open(folder)
    assert run.config.loops == "free"
    assert run.model.loops is None
    assert main(["train", "--resume", str(folder), "--no-baseline", "--no-picture"]) == 0
    settings.write_text(old + 'loops = "calibrated"\n', encoding="utf-8")
    with pytest.raises(CheckpointError, match="do not fit its config"):
        _ = Run.open(folder).model


def test_bad_value():
    with pytest.raises(UnknownNameError, match="calibrated"):
        TrainConfig(loops="calibrate")
