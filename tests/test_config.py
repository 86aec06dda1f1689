"""Settings: bounds, names, combinations that do not go together, and the way to TOML and back."""

import dataclasses
import tomllib

import pytest

from geoembed.config import (
    MANIFOLDS,
    MODELS,
    NEGATIVE_MODES,
    ON_A_MANIFOLD,
    PAIRED,
    TASKS,
    HierarchyConfig,
    TrainConfig,
)
from geoembed.errors import DataError, DomainError, UnknownNameError

FIELDS = {field.name: field for field in dataclasses.fields(TrainConfig)}
NUMBERS = [name for name, field in FIELDS.items() if field.metadata["low"] is not None]
BELOW_1 = ["warmup", "averaging", "momentum", "dropout"]
AT_MOST_1 = ["lr_final", "label_smoothing", "sse_probability"]
NAN, INF = float("nan"), float("inf")


def refused(message, error=DomainError, **settings):
    with pytest.raises(error, match=message):
        TrainConfig(**settings)


# ---------------------------------------------------------------------------------------------------------- bounds


def test_every_number_has_a_lower_bound():
    assert [name for name, field in FIELDS.items() if type(field.default) in (int, float)] == NUMBERS


@pytest.mark.parametrize("name", NUMBERS)
def test_numbers_below_their_bound(name):
    low, kind = FIELDS[name].metadata["low"], type(FIELDS[name].default)
    refused(rf"{name} must be a finite number of at least {low}, got {kind(low - 1)}", **{name: kind(low - 1)})


@pytest.mark.parametrize("name", [name for name in NUMBERS if isinstance(FIELDS[name].default, float)])
def test_numbers_that_are_not_finite(name):
    for value in (NAN, INF, -INF):
        refused(f"{name} must be a finite number", **{name: value})


@pytest.mark.parametrize("name", NUMBERS)
def test_the_bound_itself_is_fine_but_where_zero_means_nothing(name):
    low = type(FIELDS[name].default)(FIELDS[name].metadata["low"])
    if name in ("curvature", "negative_weight"):
        refused(f"{name} must be positive", **{name: low})
    else:
        assert getattr(TrainConfig(**{name: low}), name) == low


@pytest.mark.parametrize("name", BELOW_1)
def test_fractions_below_1(name):
    needs = {"optimizer": "sgd"} if name == "momentum" else {}
    refused(rf"{name} is a fraction, below 1; got 1\.0", **{name: 1.0}, **needs)
    assert getattr(TrainConfig(**{name: 0.999}, **needs), name) == 0.999


@pytest.mark.parametrize("name", AT_MOST_1)
def test_fractions_up_to_1(name):
    refused(rf"{name} is a fraction, at most 1; got 1\.5", **{name: 1.5})
    assert getattr(TrainConfig(**{name: 1}), name) == 1.0


@pytest.mark.parametrize("name", FIELDS)
def test_wrong_types(name):
    default = FIELDS[name].default
    for value in (None, [default], "1" if not isinstance(default, str) else 1):
        refused(f"{name} must be {type(default).__name__}, got", **{name: value})
    if not isinstance(default, bool):
        refused(f"{name} must be {type(default).__name__}, got True", **{name: True})
    if isinstance(default, float):
        assert type(getattr(TrainConfig(**{name: 1 - (name in BELOW_1)}), name)) is float
    if isinstance(default, int):
        refused(f"{name} must be {type(default).__name__}, got 2.0", **{name: 2.0})


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().dim = 3


# ----------------------------------------------------------------------------------------------------------- names


@pytest.mark.parametrize("name", [name for name, field in FIELDS.items() if field.metadata["choices"]])
def test_choices(name):
    choices = FIELDS[name].metadata["choices"]
    assert FIELDS[name].default in choices
    close = choices[0] + "x"
    refused(f"unknown {name} '{close}'. Did you mean '{choices[0]}'", UnknownNameError, **{name: close})


@pytest.mark.parametrize("name", MODELS)
def test_every_model_is_a_choice(name):
    assert TrainConfig(model=name).model == name


def test_unknown_setting():
    with pytest.raises(UnknownNameError, match=r"unknown setting 'label_smoothin'\. Did you mean 'label_smoothing'"):
        TrainConfig.from_mapping({"label_smoothin": 0.1})


# -------------------------------------------------------------------------------------------------------- manifolds


@pytest.mark.parametrize("name", MANIFOLDS)
def test_one_factor(name):
    assert TrainConfig(manifold=name, dim=7).factors() == [(name, 7)]
    assert TrainConfig(manifold=f"{name}:7", dim=7).factors() == [(name, 7)]


def test_factors_of_a_product():
    config = TrainConfig(manifold="poincare:3, euclidean:5 ,lorentz:1", dim=9)
    assert config.factors() == [("poincare", 3), ("euclidean", 5), ("lorentz", 1)]
    assert TrainConfig(manifold="poincare:2,poincare:2", dim=4).factors() == [("poincare", 2)] * 2


@pytest.mark.parametrize(
    "manifold", ["poincare:3,euclidean:4", "poincare:9", "poincare,euclidean", "poincare,lorentz:1"]
)
def test_factors_must_add_up(manifold):
    refused(f"factors of manifold '{manifold}' must add up to dim = 8", manifold=manifold, dim=8)


@pytest.mark.parametrize("size", ["", "0", "-8", "8.0", "x", " 8", "²", "8:8"])
def test_factors_with_a_bad_size(size):
    refused("expected NAME:DIMENSION with commas between, got", manifold=f"poincare:{size}", dim=8)


@pytest.mark.parametrize("manifold", ["sphere", "", "poincare:4,", "poincare:4,poincar:4", "Poincare", ":8"])
def test_unknown_factors(manifold):
    refused("unknown manifold", UnknownNameError, manifold=manifold, dim=8)


def test_the_manifold_is_checked_whatever_the_model():
    refused("unknown manifold", UnknownNameError, model="distmult", manifold="sphere")


# ----------------------------------------------------------------------------------------------------- combinations


@pytest.mark.parametrize("model", MODELS)
def test_odd_dimensions(model):
    assert TrainConfig(model=model, dim=6).dim == 6
    if model in PAIRED:
        refused(f"{model} pairs coordinates, so dim must be even, got 5", model=model, dim=5)
    else:
        assert TrainConfig(model=model, dim=5).dim == 5


@pytest.mark.parametrize("model", MODELS)
def test_n3_needs_a_model_that_has_it(model):
    if model in ("distmult", "complex"):
        assert TrainConfig(model=model, regularizer="n3").regularizer == "n3"
    else:
        refused(
            f"regularizer n3 goes with model distmult or complex, not with {model}",
            model=model,
            regularizer="n3",
            penalty=0.0,  # the scores of a batch come with their penalty, weighed or not
        )
    assert TrainConfig(model=model, regularizer="dura").regularizer == "dura"


@pytest.mark.parametrize("model", MODELS)
def test_learnt_curvature_and_points_need_a_manifold(model):
    if model in ON_A_MANIFOLD:
        assert TrainConfig(model=model, learn_curvature=True).learn_curvature
    else:
        refused("learn_curvature goes with model murp or murp-full, not", model=model, learn_curvature=True)
    if model in (*ON_A_MANIFOLD, "mure"):
        assert TrainConfig(model=model, parameterisation="manifold").model == model
    else:
        refused("parameterisation manifold goes with model murp or", model=model, parameterisation="manifold")
    assert TrainConfig(model=model, curvature=2.0, manifold="lorentz").model == model  # others ignore them


def test_learnt_curvature_of_flat_space():
    refused("learn_curvature needs a curved manifold, got euclidean", manifold="euclidean", learn_curvature=True)
    refused("needs a curved manifold", manifold="euclidean:20,euclidean:20", learn_curvature=True)
    assert TrainConfig(manifold="poincare:20,euclidean:20", learn_curvature=True).learn_curvature


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_momentum_is_for_sgd(optimizer):
    refused(f"momentum goes with optimizer sgd, not with {optimizer}", optimizer=optimizer, momentum=0.9)


@pytest.mark.parametrize("loss", ["bce", "softmax", "margin", "self-adversarial"])
def test_losses_with_smoothing_and_k_vs_all(loss):
    for what, settings in (
        ("label_smoothing", {"label_smoothing": 0.1}),
        ("negative_mode k-vs-all", {"negative_mode": "k-vs-all"}),
    ):
        if loss in ("bce", "softmax"):
            assert TrainConfig(loss=loss, **settings).loss == loss
        else:
            refused(f"{what} goes with loss bce or softmax, not with {loss}", loss=loss, **settings)


@pytest.mark.parametrize("mode", NEGATIVE_MODES)
def test_options_of_negatives(mode):
    for name, value in (("hardest", 4), ("filtered", True), ("bernoulli", True)):
        if mode == "k-vs-all":
            refused(f"{name} goes with negative_mode shared or independent or typed or all, not with k-vs-all",
                    negative_mode=mode, **{name: value})  # fmt: skip
        else:
            assert getattr(TrainConfig(negative_mode=mode, **{name: value}), name) == value
    if mode in ("shared", "independent"):
        assert TrainConfig(negative_mode=mode, negative_entities="frequency").negative_mode == mode
    else:
        refused(f"negative_entities frequency goes with negative_mode shared or independent, not with {mode}",
                negative_mode=mode, negative_entities="frequency")  # fmt: skip


@pytest.mark.parametrize("mode", ["shared", "independent", "typed"])
def test_no_more_hardest_than_negatives(mode):
    assert TrainConfig(negative_mode=mode, negatives=8, hardest=8).hardest == 8
    refused("hardest is at most negatives = 8, got 9", negative_mode=mode, negatives=8, hardest=9)


def test_hardest_of_all_entities_is_not_bound_by_the_number_drawn():
    assert TrainConfig(negative_mode="all", negatives=8, hardest=9).hardest == 9


def test_the_checks_hold_for_replace_too():
    with pytest.raises(DomainError, match="must be even"):
        TrainConfig(dim=5).replace(model="rotate")


# ------------------------------------------------------------------------------------------------------------- TOML


def other(field):
    """A valid value that is not the default."""
    default, choices = field.default, field.metadata["choices"]
    if isinstance(default, bool):
        return not default
    if choices:
        return next(name for name in choices if name != default)
    if isinstance(default, str):
        return {"manifold": "lorentz"}.get(field.name, 'a "quoted" \\ path/Käfer\t\n🐞')
    return default + 0.125 if isinstance(default, float) else default + 3


@pytest.mark.parametrize("name", FIELDS)
def test_toml_round_trip_of_each_setting(tmp_path, name):
    needs = {
        "momentum": {"optimizer": "sgd"},
        "regularizer": {"model": "complex"},
        "negative_mode": {"loss": "softmax"},
        "start": {"teachers": "runs/one"},
    }
    config = TrainConfig(**{name: other(FIELDS[name])}, **needs.get(name, {}))
    assert config != TrainConfig()
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert TrainConfig.load(path) == config
    assert tomllib.loads(config.to_toml()) == {"task": "graph"} | vars(config)


def test_toml_of_small_and_large_numbers():
    config = TrainConfig(lr=1e-30, penalty=1.7e308, curvature=0.1 + 0.2, seed=2**62)
    assert TrainConfig.from_mapping(tomllib.loads(config.to_toml())) == config


def test_a_file_need_not_name_all_settings(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("lr = 1\n")
    assert TrainConfig.load(path) == TrainConfig(lr=1.0)
    path.write_text("")
    assert TrainConfig.load(path) == TrainConfig()


def test_bad_files(tmp_path):
    path = tmp_path / "config.toml"
    with pytest.raises(DataError, match=r"config.toml: cannot be read: No such file"):
        TrainConfig.load(path)
    path.write_bytes(b"lr = \xff")
    with pytest.raises(DataError, match="not valid TOML"):
        TrainConfig.load(path)
    path.write_text("lr = 1\nlr = 2\n")
    with pytest.raises(DataError, match="not valid TOML"):
        TrainConfig.load(path)
    path.write_text("[lr]\nx = 1\n")
    with pytest.raises(DomainError, match="lr must be float"):
        TrainConfig.load(path)
    path.write_text("optimiser = 'sgd'\n")
    with pytest.raises(UnknownNameError, match=r"unknown setting 'optimiser'\. Did you mean 'optimizer'"):
        TrainConfig.load(path)


# ------------------------------------------------------------------------------------------------------ hierarchies


def test_hierarchies_to_toml_and_back(tmp_path):
    config = HierarchyConfig(data="käfer.tsv", manifold="htiling", dim=2, limbs=3, lr=1e-30, hold_out=0.25, patience=4)
    path = tmp_path / "config.toml"
    path.write_text(config.to_toml(), encoding="utf-8")
    assert HierarchyConfig.load(path) == config
    assert tomllib.loads(config.to_toml()) == {"task": "hierarchy"} | vars(config)


def test_settings_of_another_task():
    with pytest.raises(DomainError, match="expected settings of the task graph, got some of the task 'hierarchy'"):
        TrainConfig.from_mapping({"task": "hierarchy", "dim": 3})
    with pytest.raises(UnknownNameError, match=r"unknown setting 'hold_ou'\. Did you mean 'hold_out'"):
        HierarchyConfig.from_mapping({"hold_ou": 0.1})
    assert TrainConfig.from_mapping({"task": "graph"}) == TrainConfig()


def test_settings_of_one_name_have_one_type():
    """The command line takes a flag before it knows the task."""
    graph, hierarchy = (config.fields() for config in TASKS.values())
    for name in graph.keys() & hierarchy.keys():
        assert type(graph[name].default) is type(hierarchy[name].default), name


def test_choices_of_hierarchies_are_those_of_the_library():
    from geoembed.hierarchy import SPACES
    from geoembed.optim import OPTIMIZERS
    from geoembed.schedules import SCHEDULES

    fields = HierarchyConfig.fields()
    for name, table in (("manifold", SPACES), ("optimizer", OPTIMIZERS), ("schedule", SCHEDULES)):
        assert set(fields[name].metadata["choices"]) == set(table)
