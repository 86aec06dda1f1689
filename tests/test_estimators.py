"""The metric estimators: scikit-learn's own checks, its NCA, metric-learn's conventions, bad input."""

import numpy as np
import pytest
import torch
from sklearn.base import clone
from sklearn.datasets import load_iris, load_wine
from sklearn.exceptions import NotFittedError
from sklearn.model_selection import GridSearchCV, cross_val_score
from sklearn.neighbors import KNeighborsClassifier, NeighborhoodComponentsAnalysis
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from geoembed.distances.curvilinear import Curvilinear
from geoembed.errors import ConvergenceWarning, DataError, DomainError, ShapeError
from geoembed.interop.estimators import CurvilinearMetric, MahalanobisMetric
from geoembed.interop.objectives import NCA, Contrastive, ContrastivePairs


@pytest.mark.filterwarnings("ignore::geoembed.errors.ConvergenceWarning")  # the checks allow for 5 iterations
@pytest.mark.filterwarnings("ignore::sklearn.exceptions.SkipTestWarning")
@parametrize_with_checks([MahalanobisMetric(), CurvilinearMetric(degree=2, max_iter=2)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)


def crossed(n: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two lines that cross at right angles, one class each."""
    rng = np.random.default_rng(seed)
    y = np.arange(n) % 2
    along, angle = rng.uniform(-1, 1, n), np.where(y, -1, 1) * np.pi / 4
    return np.stack([along * np.cos(angle), along * np.sin(angle)], 1) + rng.normal(0, 0.05, (n, 2)), y


@pytest.fixture
def iris():
    X, y = load_iris(return_X_y=True)
    return X[::2], y[::2]


def quick(**options) -> CurvilinearMetric:
    return CurvilinearMetric(**{"max_iter": 15, "tol": 1e-3, **options})


# What is minimised.


def test_nca_is_the_expected_accuracy():
    rng = np.random.default_rng(0)
    f, y = rng.normal(size=(9, 3)), rng.integers(3, size=9)
    expected = 0.0
    for i in range(9):
        e = [np.exp(-np.sum((f[i] - f[j]) ** 2)) if j != i else 0 for j in range(9)]
        expected -= sum(e[j] for j in range(9) if y[j] == y[i]) / sum(e) / 9
    value, _ = NCA(torch.from_numpy(y))(torch.from_numpy(f))
    assert value == pytest.approx(expected, rel=1e-12)


def test_contrastive_is_two_squared_hinges():
    rng = np.random.default_rng(0)
    f, y, (u, v) = rng.normal(size=(9, 3)), rng.integers(3, size=9), (1.0, 6.0)
    together, apart = [], []
    for i in range(9):
        for j in range(9):
            d = np.sum((f[i] - f[j]) ** 2)
            if i != j and y[i] == y[j]:
                together.append((max(d - u, 0) / v) ** 2)
            elif i != j:
                apart.append((max(v - d, 0) / v) ** 2)
    value, _ = Contrastive(torch.from_numpy(y), (u, v))(torch.from_numpy(f))
    assert value == pytest.approx(np.mean(together) + np.mean(apart), rel=1e-12)
    i, j = np.triu_indices(9, 1)
    pairs = ContrastivePairs(torch.from_numpy(y[i] == y[j]), (u, v))
    assert pairs(torch.from_numpy(np.concatenate([f[i], f[j]])))[0] == pytest.approx(value, rel=1e-12)


@pytest.mark.parametrize(
    "kind", [NCA, lambda y: Contrastive(y, (1.0, 6.0)), lambda y: ContrastivePairs(y[:10] > 0, (1, 6))]
)
def test_gradients_and_blocks(kind, monkeypatch):
    rng = np.random.default_rng(1)
    f, y = torch.from_numpy(rng.normal(size=(20, 3))), torch.from_numpy(rng.integers(3, size=20))
    objective, step = kind(y), torch.from_numpy(rng.normal(size=(20, 3)))
    value, gradient = objective(f)
    numeric = (objective(f + 1e-6 * step)[0] - objective(f - 1e-6 * step)[0]) / 2e-6
    assert (gradient * step).sum().item() == pytest.approx(numeric, rel=1e-6)
    monkeypatch.setattr("geoembed.interop.objectives.BLOCK", 70)
    in_blocks = objective(f)
    assert in_blocks[0] == pytest.approx(value, rel=1e-12)
    torch.testing.assert_close(in_blocks[1], gradient)


# The linear metric.


def test_mahalanobis_finds_what_scikit_learn_finds(iris):
    """The same objective: as high an expected accuracy as NCA there, from the same start."""
    X, y = iris
    ours = MahalanobisMetric(max_iter=200).fit(X, y)
    theirs = NeighborhoodComponentsAnalysis(init="pca", max_iter=200, tol=1e-5).fit(X, y)
    labels = torch.from_numpy(y)
    reached = [-NCA(labels)(torch.from_numpy(e.transform(X)))[0] for e in (ours, theirs)]
    assert reached[0] >= reached[1] - 0.005
    assert -ours.objectives_[-1] == pytest.approx(reached[0], rel=1e-9)


@pytest.mark.parametrize("loss", ["nca", "contrastive"])
def test_degree_one_is_mahalanobis(loss, iris):
    X, y = iris
    linear = MahalanobisMetric(3, loss, max_iter=20, tol=1e-3, random_state=0).fit(X, y)
    curved = quick(n_curves=3, degree=1, loss=loss, max_iter=20, random_state=0).fit(X, y)
    np.testing.assert_allclose(curved.transform(X), linear.transform(X), rtol=1e-6, atol=1e-9)
    np.testing.assert_allclose(linear.transform(X), (X - linear.mean_) @ linear.components_.T, atol=1e-10)


def test_mahalanobis_matrix(iris):
    X, y = iris
    metric = MahalanobisMetric(2, max_iter=20, tol=1e-3).fit(X, y)
    assert metric.components_.shape == (2, 4)
    M, pairs = metric.get_mahalanobis_matrix(), np.stack([X[:-1], X[1:]], 1)
    difference = pairs[:, 0] - pairs[:, 1]
    squares = np.einsum("nd,de,ne->n", difference, M, difference)
    np.testing.assert_allclose(metric.pair_distance(pairs) ** 2, squares, rtol=1e-8, atol=1e-12)


def test_neither_place_nor_unit_matters(iris):
    X, y = iris
    for metric in (MahalanobisMetric(tol=0.02), quick(degree=2, tol=0.02)):
        found = metric.fit(X, y).transform(X)
        moved = clone(metric).fit(1e5 * X - 7e4, y).transform(1e5 * X - 7e4)
        np.testing.assert_allclose(moved, found, rtol=1e-4, atol=1e-4)


# The curves.


def test_objective_never_rises_with_the_degree(iris):
    X, y = iris
    with pytest.warns(ConvergenceWarning):
        metric = quick(n_curves=2, degree=4, max_iter=10).fit(X, y)
    assert len(metric.objectives_) == 4
    assert (np.diff(metric.objectives_) <= 1e-12).all()
    assert metric.curves_.shape == (2, 4, 4)


def test_transform_is_the_distance(iris):
    X, y = iris
    metric = quick(n_curves=2, degree=2, max_iter=50, tol=0.02).fit(X, y)
    Z = torch.from_numpy((X - metric.mean_) / metric.scale_)
    expected = Curvilinear(torch.from_numpy(metric.curves_)).pairwise(Z).detach().numpy()
    pairs = np.stack([np.repeat(X[:5], len(X), 0), np.tile(X, (5, 1))], 1)
    np.testing.assert_allclose(metric.pair_distance(pairs).reshape(5, -1), expected[:5], atol=1e-7)
    np.testing.assert_array_equal(metric.pair_score(pairs), -metric.pair_distance(pairs))
    f = metric.get_metric()
    assert f(X[3], X[40]) == pytest.approx(expected[3, 40], abs=1e-7)
    neighbours = KNeighborsClassifier(3, metric=f, algorithm="brute").fit(X[:20], y[:20]).kneighbors(X[20:25])[0]
    in_features = (
        KNeighborsClassifier(3).fit(metric.transform(X[:20]), y[:20]).kneighbors(metric.transform(X[20:25]))[0]
    )
    np.testing.assert_allclose(neighbours, in_features, rtol=1e-10)


def test_get_metric_outlives_the_estimator(iris):
    X, y = iris
    metric = quick(n_curves=1, degree=1, max_iter=50).fit(X, y)
    f, before = metric.get_metric(), metric.pair_distance([[X[0], X[60]]])[0]
    metric.fit(X[:, ::-1] ** 2, y)
    assert f(X[0], X[60]) == pytest.approx(before, rel=1e-12)


@pytest.mark.filterwarnings("ignore::geoembed.errors.ConvergenceWarning")
def test_crossed_lines_need_curves():
    """One feature, the contrastive loss: a line cannot, a curve can."""
    (X, y), (X_test, y_test) = crossed(120, 0), crossed(200, 1)

    def error(degree):
        model = make_pipeline(
            CurvilinearMetric(1, degree, "contrastive", max_iter=25, random_state=0), KNeighborsClassifier(5)
        )
        return 1 - model.fit(X, y).score(X_test, y_test)

    assert error(1) > error(3) + 0.3


def test_pipeline_and_search():
    X, y = load_wine(return_X_y=True)
    model = make_pipeline(StandardScaler(), MahalanobisMetric(2, tol=1e-2), KNeighborsClassifier(5))
    assert cross_val_score(model, X, y, cv=3).mean() > 0.9
    search = GridSearchCV(model, {"mahalanobismetric__n_components": [1, 2]}, cv=2).fit(X, y)
    assert search.best_score_ > 0.85


def test_feature_names(iris):
    X, y = iris
    metric = quick(n_curves=2, degree=1, max_iter=50).fit(X, y)
    assert metric.n_features_in_ == 4
    assert metric.get_feature_names_out().tolist() == ["curvilinearmetric0", "curvilinearmetric1"]


# Pairs.


@pytest.mark.parametrize(
    "estimator", [MahalanobisMetric(1, tol=1e-3), quick(n_curves=1, degree=2, max_iter=40, tol=1e-2)], ids=str
)
def test_pairs(estimator, iris):
    X, labels = iris
    rng = np.random.default_rng(0)
    index = rng.integers(len(X), size=(200, 2))
    pairs, y = X[index], np.where(labels[index[:, 0]] == labels[index[:, 1]], 1, -1)
    metric = clone(estimator).fit_pairs(pairs, y)
    d = metric.pair_distance(pairs)
    assert np.mean(d[y == 1][:, None] < d[y == -1]) > 0.9
    assert metric.n_features_in_ == 4
    assert metric.transform(X).shape == (len(X), 1)


# Bad input.


def test_bad_input(iris):
    X, y = iris
    with pytest.raises(NotFittedError):
        MahalanobisMetric().transform(X)
    with pytest.raises(NotFittedError):
        CurvilinearMetric().get_metric()
    with pytest.raises(DataError, match="at least two classes"):
        MahalanobisMetric().fit(X, np.zeros(len(X)))
    with pytest.raises(ValueError, match="inconsistent numbers"):
        MahalanobisMetric().fit(X, y[:-1])
    with pytest.raises(ValueError, match="NaN"):
        MahalanobisMetric().fit(np.where(X > 6, np.nan, X), y)
    with pytest.raises(DomainError, match=r"between 1 and 4, .*got 5"):
        MahalanobisMetric(5).fit(X, y)
    for option in ({"loss": "triplet"}, {"init": "random"}, {"degree": 0}, {"alpha": -1.0}, {"max_iter": 0}):
        with pytest.raises(DomainError):
            CurvilinearMetric(**option).fit(X, y)
    with pytest.raises(DomainError, match="0 <= u <= v"):
        MahalanobisMetric(loss="contrastive", bounds=(2.0, 1.0)).fit(X, y)
    with pytest.raises(DomainError, match="coincide"):
        MahalanobisMetric(loss="contrastive").fit(np.ones((6, 2)), [0, 1] * 3)


def test_bad_pairs(iris):
    X, _ = iris
    pairs = np.stack([X[:10], X[10:20]], 1)
    metric = MahalanobisMetric(1, max_iter=50, tol=1e-2)
    for y in (np.ones(10), np.zeros(10), np.ones(9), [0, 1] * 5):
        with pytest.raises(DataError, match="1 \\(together\\) or -1 \\(apart\\)"):
            metric.fit_pairs(pairs, y)
    with pytest.raises(ShapeError, match="n, 2, features"):
        metric.fit_pairs(X, np.ones(len(X)))
    metric.fit_pairs(pairs, [1, -1] * 5)
    with pytest.raises(ValueError, match="3 features"):
        metric.pair_distance(pairs[:, :, :3])


def test_stopping_early_warns(iris):
    with pytest.warns(ConvergenceWarning, match="degree 1 stopped after max_iter = 2"):
        MahalanobisMetric(max_iter=2).fit(*iris)
