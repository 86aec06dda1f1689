"""`pairwise_matrix` gives the matrix of `Distance.pairwise`, however it is cut, shared, written and resumed."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from geoembed import pairwise
from geoembed.distance import DEFAULT_BUDGET, Distance, Power, Scaled
from geoembed.distances import Cosine, Euclidean, Lp
from geoembed.errors import CheckpointError, DataError, DomainError, ShapeError
from geoembed.pairwise import WorkerError, pairwise_matrix
from geoembed.pointsets import PointSets

NAN = float("nan")


class Centroids(Distance):
    """Distance of the centroids of two point sets: embedded."""

    event_dim, embed_p = 2, 2.0

    def embed(self, x):
        x = PointSets.of(x)
        return (x.weights.unsqueeze(-1) * x.points).sum(-2)


class Corners(Distance):
    """L1 distance of the largest coordinates: embedded too."""

    event_dim, embed_p = 2, 1.0

    def embed(self, x):
        x = PointSets.of(x)
        return x.points.where(x.mask.unsqueeze(-1), -torch.inf).amax(-2)


class Spreads(Distance):
    """|log ratio of the mean square norms|: nothing to embed, so every pair is computed from its points."""

    event_dim = 2

    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = scale

    def _forward(self, x, y):
        a, b = ((sets.weights * sets.points.square().sum(-1)).sum(-1) for sets in (x, y))
        return self.scale * (a.log() - b.log()).abs()


class Drift(Distance):
    """Not symmetric, and not zero at coincident items."""

    symmetric = is_metric = False

    def _forward(self, x, y):
        return (x - y).abs().sum(-1) + (x - y).mean(-1).exp()


class Noisy(Distance):
    """Draws a direction with each embedding, and rounds so that the matrix is not symmetric of itself."""

    event_dim = 2

    def __init__(self, generator=None):
        super().__init__()
        self.generator = generator

    def reduced(self, x, y):
        theta = torch.randn(x.shape[-1], generator=self.generator, dtype=x.dtype)
        return Drift(), (x.points @ theta).mean(-1, keepdim=True), (y.points @ theta).mean(-1, keepdim=True)


class Stops(Spreads):
    """Fails once it has computed so many blocks."""

    def __init__(self, blocks):
        super().__init__()
        self.left = [blocks]

    def _forward(self, x, y):
        if self.left[0] == 0:
            raise RuntimeError("out of luck")
        self.left[0] -= 1
        return super()._forward(x, y)

    def _get_name(self):
        return "Spreads"


class Dies(Distance):
    def _forward(self, x, y):
        os._exit(3)


def sets(n, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    sizes = torch.randint(1, 6, (n,), generator=generator).tolist()
    points = [torch.randn(size, 3, generator=generator, dtype=dtype) for size in sizes]
    return PointSets.from_list(points, [torch.rand(size, generator=generator, dtype=dtype) + 0.1 for size in sizes])


def vectors(n, seed=0, dtype=torch.float64):
    return torch.randn(n, 4, generator=torch.Generator().manual_seed(seed), dtype=dtype)


CASES = [
    (Euclidean(), vectors),
    (Lp(1), vectors),
    (Cosine(), vectors),
    (Drift(), vectors),
    (Power(Euclidean(), 2), vectors),
    (Centroids(), sets),
    (Corners(), sets),
    (Spreads(), sets),
    (Scaled(Centroids(), 3), sets),
]


@pytest.mark.parametrize(("distance", "draw"), CASES, ids=lambda value: getattr(value, "__name__", repr(value)))
@pytest.mark.parametrize("budget", [1, 5000, DEFAULT_BUDGET])
@pytest.mark.parametrize("to_file", [False, True])
def test_equals_pairwise(tmp_path, distance, draw, budget, to_file):
    out = tmp_path / "D.npy" if to_file else None
    x, y = draw(150), draw(70, seed=1)
    d = pairwise_matrix(distance, x, y, out=out, budget=budget)
    assert d.dtype == np.float64
    np.testing.assert_allclose(d, distance.pairwise(x, y), rtol=1e-12, atol=1e-13)
    d = pairwise_matrix(distance, x, out=out, budget=budget)
    np.testing.assert_allclose(d, distance.pairwise(x), rtol=1e-12, atol=1e-13)
    if distance.symmetric:
        assert (d == d.T).all()
    if distance.is_metric:
        assert (np.diagonal(d) == 0).all()
    if to_file:
        assert isinstance(d, np.memmap)
        assert not d.flags.writeable
        np.testing.assert_array_equal(np.load(out, allow_pickle=False), d)
        assert [path.name for path in tmp_path.iterdir()] == ["D.npy"]


def test_symmetry_is_exact_across_tiles(monkeypatch):
    monkeypatch.setattr(pairwise, "TILE", 16)
    x = vectors(77, dtype=torch.float32)
    d = pairwise_matrix(Lp(3), x)
    assert d.dtype == np.float32
    assert (d == d.T).all()
    np.testing.assert_allclose(d, Lp(3).pairwise(x), rtol=1e-6)


def test_only_half_of_a_symmetric_matrix_is_computed():
    class Counting(Spreads):
        pairs = 0

        def _forward(self, x, y):
            Counting.pairs += torch.broadcast_shapes(x.batch_shape, y.batch_shape).numel()
            return super()._forward(x, y)

    n = 256
    pairwise_matrix(Counting(), sets(n))
    assert n * n / 2 < Counting.pairs < 0.52 * n * n


def test_items_are_reduced_once_and_draw_once():
    x = sets(9)
    for given in (x, torch.zeros(9, 4, 3, dtype=torch.float64) + torch.arange(9.0).double()[:, None, None]):
        d = pairwise_matrix(Noisy(torch.Generator().manual_seed(0)), given)
        assert (d == d.T).all()
        assert (np.diagonal(d) == 0).all()
        other = pairwise_matrix(Noisy(torch.Generator().manual_seed(1)), given)
        assert not np.allclose(d, other)


def test_nan_stays_where_it_is():
    x = sets(6)
    points = [p.clone() for p in x.unpad()]
    points[2][0, 0] = NAN
    bad = PointSets.from_list(points, [w[: len(p)] for w, p in zip(x.weights, points, strict=True)])
    for distance in (Corners(), Spreads()):
        d, clean = pairwise_matrix(distance, bad), pairwise_matrix(distance, x)
        assert np.isnan(d[2]).all()
        assert np.isnan(d[:, 2]).all()
        others = [0, 1, 3, 4, 5]
        np.testing.assert_allclose(d[np.ix_(others, others)], clean[np.ix_(others, others)], rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("to_file", [False, True])
def test_empty_and_single(tmp_path, to_file):
    out = tmp_path / "D.npy" if to_file else None
    x = vectors(3)
    for a, b, shape in ((x[:0], None, (0, 0)), (x[:0], x, (0, 3)), (x, x[:0], (3, 0))):
        assert pairwise_matrix(Drift(), a, b, out=out).shape == shape
    assert pairwise_matrix(Euclidean(), x[:1], out=out).tolist() == [[0.0]]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_gives_float32(dtype):
    x = vectors(5).to(dtype)
    d = pairwise_matrix(Drift(), x)
    assert d.dtype == np.float32
    np.testing.assert_array_equal(d, Drift().pairwise(x).float())


def test_progress_counts_rows(capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    pairwise_matrix(Euclidean(), vectors(30), progress=True)
    assert "30/30" in capsys.readouterr().err
    pairwise_matrix(Euclidean(), vectors(30))
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------------- processes


def test_workers_give_the_same_numbers(tmp_path):
    x = sets(40)
    shared = pairwise_matrix(Spreads(), x, workers=2, out=tmp_path / "D.npy")
    np.testing.assert_array_equal(shared, pairwise_matrix(Spreads(), x))


def test_failures_in_workers_are_clear():
    with pytest.raises(WorkerError, match=r"rows \d to \d failed in a worker: RuntimeError: out of luck"):
        pairwise_matrix(Stops(0), sets(4), workers=1)
    with pytest.raises(WorkerError, match="worker process died"):
        pairwise_matrix(Dies(), vectors(4), workers=1)

    class Local(Euclidean):
        pass

    with pytest.raises(WorkerError, match=r"Local cannot be sent to another process.*workers=0"):
        pairwise_matrix(Local(), vectors(4), workers=1)


# ---------------------------------------------------------------------------------------------------------- resume


def stopped(out, x, y=None, blocks=5):
    with pytest.raises(RuntimeError, match="out of luck"):
        pairwise_matrix(Stops(blocks), x, y, out=out)
    assert not out.exists()
    assert (out.parent / "D.npy.partial").exists()
    return json.loads((out.parent / "D.npy.partial.json").read_text())


@pytest.mark.parametrize("columns", [None, 7])
def test_a_stopped_run_goes_on_to_the_same_numbers(tmp_path, columns):
    out, x = tmp_path / "D.npy", sets(40)
    y = None if columns is None else sets(columns, seed=1)
    assert stopped(out, x, y)["finished"] == [0, 1, 2, 3, 4]
    rest = Stops(35)  # another block than the 35 that are left would be one too many
    d = pairwise_matrix(rest, x, y, out=out, resume=True)
    assert rest.left == [0]
    np.testing.assert_array_equal(d, pairwise_matrix(Spreads(), x, y))
    assert [path.name for path in tmp_path.iterdir()] == ["D.npy"]


def test_a_killed_run_goes_on_to_the_same_numbers(tmp_path):
    out = tmp_path / "D.npy"
    code = (
        "import os\nfrom geoembed import matrix_file\nfrom test_pairwise import *\n"
        "class Spreads(Stops):\n"
        "    def _forward(self, x, y):\n"
        "        if self.left[0] == 0:\n            os._exit(9)\n"
        "        return super()._forward(x, y)\n"
        f"matrix_file.SAVE_EVERY = 0\npairwise_matrix(Spreads(5), sets(40), out={str(out)!r})\n"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, cwd=tmp_path).returncode == 9
    rest = Stops(35)
    d = pairwise_matrix(rest, sets(40), out=out, resume=True)
    assert rest.left == [0]
    np.testing.assert_array_equal(d, pairwise_matrix(Spreads(), sets(40)))


def test_without_resume_a_stopped_run_starts_anew(tmp_path):
    out, x = tmp_path / "D.npy", sets(20)
    stopped(out, x)
    fresh = Stops(20)
    pairwise_matrix(fresh, x, out=out)
    assert fresh.left == [0]
    again = Stops(20)
    pairwise_matrix(again, x, out=out, resume=True)  # nothing stopped: computed from the start
    assert again.left == [0]


def test_the_finished_file_stays_until_the_new_one_is_whole(tmp_path):
    out, x = tmp_path / "D.npy", sets(20)
    pairwise_matrix(Spreads(), x, out=out)
    before = out.read_bytes()
    with pytest.raises(RuntimeError, match="out of luck"):
        pairwise_matrix(Stops(3), sets(20, seed=1), out=out)
    assert out.read_bytes() == before


def test_another_problem_is_not_mixed_in(tmp_path):
    out, x, y = tmp_path / "D.npy", sets(20), sets(20, seed=1)
    stopped(out, x)
    moved = PointSets.from_list([p + 1e-15 for p in x.unpad()])
    for distance, a, b, budget, message in (
        (Spreads(2.0), x, None, DEFAULT_BUDGET, r"settings of the distance \(then sha256"),
        (Centroids(), x, None, DEFAULT_BUDGET, r"distance \(then Spreads\(\), now Centroids\(\)\)"),
        (Spreads(), moved, None, DEFAULT_BUDGET, "differs: values of x "),
        (Spreads(), x[:19], None, DEFAULT_BUDGET, r"shape of x \(then \[20, 5, 3\], now \[19"),
        (Spreads(), x, y, DEFAULT_BUDGET, "differs: values of y "),
        (Spreads(), x.to(torch.float32), None, DEFAULT_BUDGET, "values of x"),
        (Spreads(), x, None, 1000, r"differs: budget \(then 134217728, now 1000\)"),
    ):
        with pytest.raises(CheckpointError, match=message):
            pairwise_matrix(distance, a, b, out=out, budget=budget, resume=True)
    np.testing.assert_array_equal(
        pairwise_matrix(Spreads(), x, out=out, resume=True), pairwise_matrix(Spreads(), x)
    )  # and the stopped run is still there to go on


def test_random_directions_of_another_seed_are_noticed(tmp_path, monkeypatch):
    out, x = tmp_path / "D.npy", sets(20)

    def interrupted(self, rows):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(pairwise._Problem, "block", interrupted)
        with pytest.raises(KeyboardInterrupt):
            pairwise_matrix(Noisy(torch.Generator().manual_seed(0)), x, out=out)
    with pytest.raises(CheckpointError, match="differs: what the distance makes of x"):
        pairwise_matrix(Noisy(torch.Generator().manual_seed(1)), x, out=out, resume=True)
    pairwise_matrix(Noisy(torch.Generator().manual_seed(0)), x, out=out, resume=True)


def test_damaged_records(tmp_path):
    out, x = tmp_path / "D.npy", sets(20)
    record, partial = tmp_path / "D.npy.partial.json", tmp_path / "D.npy.partial"
    stopped(out, x)
    good, numbers = record.read_text(), partial.read_bytes()
    for text in ("", "{", "[]", '{"format": 1}'):
        record.write_text(text)
        with pytest.raises(CheckpointError, match="damaged"):
            pairwise_matrix(Spreads(), x, out=out, resume=True)
    record.write_text(good.replace('"format": 1', '"format": 99'))
    with pytest.raises(CheckpointError, match="format 99"):
        pairwise_matrix(Spreads(), x, out=out, resume=True)
    record.write_text(good)
    partial.write_bytes(numbers[:300])
    with pytest.raises(CheckpointError, match="damaged"):
        pairwise_matrix(Spreads(), x, out=out, resume=True)


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("options", "error", "message"),
    [
        ({"budget": 0}, DomainError, "budget must be positive"),
        ({"workers": -1}, DomainError, "workers not negative"),
        ({"resume": True}, DomainError, "resume needs out"),
        ({"out": "D.txt"}, DataError, r"ends in \.npy"),
        ({"out": "absent/D.npy"}, CheckpointError, "cannot write"),
        ({"y": torch.zeros(3, 5)}, ShapeError, "share dtype"),
        ({"y": torch.zeros(3, 5, dtype=torch.float64)}, ShapeError, "same number of features"),
        ({"y": torch.zeros(1, 3, 4, dtype=torch.float64)}, ShapeError, "one batch dimension"),
    ],
)
def test_bad_input(tmp_path, monkeypatch, options, error, message):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(error, match=message):
        pairwise_matrix(Euclidean(), vectors(3), **options)
    assert list(tmp_path.iterdir()) == []
