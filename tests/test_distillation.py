"""Teachers and ensembles against slow loops over single triples; students of run folders."""

import pytest
import torch
from test_losses import cross_entropy
from test_tasks import BATCH, CONFIG, DIRECTED, TRIPLES, graph, model_of

from geoembed import jobs
from geoembed.config import TrainConfig
from geoembed.data.sampling import OwnNegatives, SharedNegatives, Uniform
from geoembed.distillation import Teacher
from geoembed.errors import CheckpointError, DomainError
from geoembed.evaluation import evaluate
from geoembed.graph_training import _start_at, build_model, build_task, generators, train_model
from geoembed.models import Ensemble, GraphModel
from geoembed.runs import Run, load_teachers
from geoembed.tasks import LinkPrediction

KINDS = [CONFIG, CONFIG.replace(model="roth", dim=6, seed=1), CONFIG.replace(model="distmult", dim=3)]
TAUGHT = CONFIG.replace(teachers="somewhere", teacher_answers=3, answer_weight=0.7)


def teachers():
    return [model_of(config) for config in KINDS]


def mean_score(models, h, r, t):
    """Mean of the scores of one triple, each model asked on its own."""
    one = [torch.tensor([i]) for i in (h, r, t)]
    return sum(model(*one).item() for model in models) / len(models)


def sigmoid(x):
    return torch.tensor(x, dtype=torch.float64).sigmoid().item()


@torch.no_grad()
def test_an_ensemble_is_the_mean_of_its_models():
    models = teachers()
    ensemble = Ensemble(models)
    h, r, t = torch.tensor(DIRECTED).unbind(1)
    expected = torch.tensor([mean_score(models, *row) for row in DIRECTED], dtype=torch.float64)
    assert torch.allclose(ensemble(h, r, t), expected)
    rows = torch.stack([ensemble.tail_scorer(relation)(torch.arange(8)) for relation in range(4)])
    assert torch.allclose(rows[r, h, t], expected)
    positive, negative = ensemble.score_negatives(h, r, t, torch.tensor([4, 7]))
    assert torch.allclose(positive, expected)
    assert torch.allclose(negative, rows[r, h][:, [4, 7]])
    metrics = evaluate(Ensemble(models[:1]), TRIPLES, "train").metrics()
    assert metrics == evaluate(models[0], TRIPLES, "train").metrics()


def test_the_loops_of_its_models_count_in_ranking():
    models = teachers()
    models[0].loops = torch.tensor([3.0, 0.0, 0.0, 0.0], dtype=torch.float64)
    with torch.no_grad():
        raised = Ensemble(models).tail_scorer(0)(torch.arange(8)) - Ensemble(teachers()).tail_scorer(0)(torch.arange(8))
    assert torch.allclose(raised, torch.eye(8, dtype=torch.float64))


@pytest.mark.parametrize("models", [[], [model_of(CONFIG), model_of(CONFIG, graph(n=9))]])
def test_models_of_no_one_graph_are_refused(models):
    with pytest.raises(DomainError, match="one graph"):
        Ensemble(models)


@pytest.mark.parametrize("kind", [SharedNegatives, OwnNegatives])
@pytest.mark.parametrize("answers", [0, 1, 3, 8])
def test_a_step_is_the_loss_of_its_triples(kind, answers):
    models, student = teachers(), model_of(CONFIG.replace(seed=5, init_scale=0.3))
    teacher = Teacher(models, TRIPLES, weight=5.0, answers=answers, answer_weight=0.7)
    sampler = kind(Uniform(TRIPLES.n_entities), 6)
    task = LinkPrediction(student, TRIPLES, sampler, teacher=teacher, generator=torch.Generator().manual_seed(3))
    h, r, t = torch.tensor(DIRECTED)[BATCH].unbind(1)
    drawn = sampler.draw(h, r, t, torch.Generator().manual_seed(3)).expand(len(BATCH), -1)
    expected = 0.0
    for (a, b, c), row in zip(torch.tensor(DIRECTED)[BATCH].tolist(), drawn.tolist(), strict=True):
        taught = {e: mean_score(models, a, b, e) for e in range(8)}
        terms = {e: cross_entropy(mean_score([student], a, b, e), sigmoid(taught[e])) for e in range(8)}
        candidates = sorted(taught, key=lambda e: -mean_score(models[:1], a, b, e))[: 4 * answers]
        best = sorted(candidates, key=lambda e: -taught[e])[:answers]
        expected += terms[c] + 5 * sum(terms[e] for e in row) / 6 + 0.7 * sum(terms[e] for e in best)
    loss = task.step(BATCH)
    assert loss.item() == pytest.approx(expected)
    loss.backward()
    assert student.entity.grad is not None
    assert all(p.grad is None for model in models for p in model.parameters())


def test_a_student_with_its_teachers_scores_has_no_gradient():
    model = model_of(CONFIG)
    task = LinkPrediction(
        model,
        TRIPLES,
        SharedNegatives(Uniform(8), 6),
        teacher=Teacher([model_of(CONFIG)], TRIPLES, answers=4),
        generator=torch.Generator(),
    )
    task.step(BATCH).backward()
    for name, parameter in model.named_parameters():
        gradient = parameter.grad.to_dense() if parameter.grad.is_sparse else parameter.grad
        assert gradient.abs().max() < 1e-12, name


def test_teachers_of_another_graph_and_too_many_answers_are_refused():
    with pytest.raises(DomainError, match="has"):
        Teacher([model_of(CONFIG, graph(n=9))], TRIPLES)
    for answers in (-1, 9):
        with pytest.raises(DomainError, match=f"8 entities, got {answers}"):
            Teacher(teachers(), TRIPLES, answers=answers)


def test_the_task_of_a_configuration_has_its_teachers():
    task = build_task(TAUGHT, model_of(TAUGHT), TRIPLES, generators(0), teachers())
    assert isinstance(task, LinkPrediction)
    assert task.teacher is not None
    assert (task.teacher.weight, task.teacher.answers, task.teacher.answer_weight) == (5.0, 3, 0.7)
    for config, given in ((TAUGHT, []), (CONFIG, teachers())):
        with pytest.raises(DomainError, match="load_teachers"):
            build_task(config, model_of(config), TRIPLES, generators(0), given)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("loss", "softmax"),
        ("label_smoothing", 0.1),
        ("negative_mode", "all"),
        ("negative_mode", "k-vs-all"),
        ("hardest", 2),
        ("filtered", True),
        ("sse", "se"),
    ],
)
def test_settings_without_effect_beside_teachers_are_refused(name, value):
    with pytest.raises(DomainError, match=f"teachers go with {name}"):
        TAUGHT.replace(**{name: value})


def test_a_start_at_the_first_teacher():
    model, other = model_of(CONFIG), model_of(CONFIG.replace(seed=9))
    assert not torch.equal(model.entity, other.entity)
    _start_at(model, other)
    assert all(torch.equal(p, other.get_parameter(name)) for name, p in model.named_parameters())
    learnt = CONFIG.replace(model="roth")
    model, other = model_of(learnt), model_of(learnt.replace(seed=9))
    with torch.no_grad():
        other.kappa.add_(1.0)
    _start_at(model, other)
    assert torch.equal(model.curvatures(), other.curvatures())
    model = model_of(CONFIG)
    for config in (CONFIG.replace(model="mure"), CONFIG.replace(dim=6), CONFIG.replace(curvature=2.0)):
        with pytest.raises(DomainError, match="the same kind"):
            _start_at(model, model_of(config))
    with pytest.raises(DomainError, match="needs teachers"):
        CONFIG.replace(start="teacher")


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Two trained runs on a graph with all its splits, and its settings."""
    folder = tmp_path_factory.mktemp("runs")
    triples = graph(n=10, edges=60)
    held = triples.train[:6]
    triples = type(triples)(triples.entities, triples.relations, triples.train[6:], held[:3], held[3:], "graph")
    config = TrainConfig(dim=4, epochs=15, batch_size=32, negatives=6, negative_weight=5.0, lr=0.1, penalty=0.0)
    options = {"triples": triples, "baseline": False, "picture": False, "progress": False, "say": str}
    for seed in range(2):
        jobs.train(config.replace(seed=seed), folder / str(seed), **options)
    return folder, config, options


def test_a_run_learns_from_runs(runs):
    folder, config, options = runs
    both = config.replace(teachers=f"{folder / '0'}, {folder / '1'}", start="teacher", teacher_answers=5, lr=0.02)
    run = jobs.train(both, folder / "student", **options | {"baseline": True})
    assert not (run.folder / "baseline").exists()
    reopened = Run.open(run.folder)
    assert reopened.config.teachers == both.teachers
    triples = options["triples"]
    models = load_teachers(both, triples)
    assert all(isinstance(model, GraphModel) for model in models)
    h, r, t = triples.with_inverses("train").unbind(1)
    with torch.no_grad():
        taught = Ensemble(models)(h, r, t).sigmoid()
        errors = [(model(h, r, t).sigmoid() - taught).abs().mean() for model in (reopened.model, *models)]
    assert errors[0] < min(errors[1:])


def test_teachers_of_other_data_or_without_weights_are_refused(runs):
    folder, config, options = runs
    named = config.replace(teachers=str(folder / "0"))
    other = graph(n=10, edges=59)
    with pytest.raises(CheckpointError, match="other data"):
        load_teachers(named, other)
    with pytest.raises(CheckpointError):
        load_teachers(config.replace(teachers=str(folder / "nowhere")), other)
    Run.create(folder / "untrained", config, options["triples"])
    with pytest.raises(CheckpointError, match="not trained to its end"):
        load_teachers(config.replace(teachers=str(folder / "untrained")), options["triples"])
    assert load_teachers(config, other) == []
    missing = config.replace(teachers=str(folder / "nowhere"))
    with pytest.raises(CheckpointError, match="nowhere"):
        jobs.train(missing, folder / "pupil", **options)
    assert not (folder / "pupil").exists()


def test_a_stopped_run_goes_on_to_the_same_weights(tmp_path):
    config = TAUGHT.replace(epochs=3, batch_size=8)
    whole, _ = train_model(config, TRIPLES, teachers=teachers(), progress=False)
    for _ in range(2):  # the second finds the first one's checkpoint of the last step
        again, _ = train_model(config, TRIPLES, teachers=teachers(), checkpoint=tmp_path, progress=False)
    assert all(torch.equal(a, b) for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True))


def test_a_student_may_have_another_kind_than_its_teachers():
    config = TAUGHT.replace(model="roth", epochs=60, lr=0.1, batch_size=8, teacher_answers=8)
    student = build_model(config, 8, 2)
    start = evaluate(student, TRIPLES, "train").metrics()["mrr"]
    good = [train_model(CONFIG.replace(epochs=60, lr=0.1, batch_size=8), TRIPLES, progress=False)[0]]
    student, _ = train_model(config, TRIPLES, teachers=good, progress=False)
    assert evaluate(student, TRIPLES, "train").metrics()["mrr"] > start + 0.1
