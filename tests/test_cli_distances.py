"""`geoembed distance` and `geoembed pairwise` end to end, and the picture of a matrix of distances."""

import math
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from geoembed import pairwise
from geoembed.cli import main
from geoembed.cli.distances import METRICS
from geoembed.data import read_point_sets
from geoembed.distances import Euclidean
from geoembed.distances.setwise import Hausdorff
from geoembed.errors import CheckpointError, DataError, ShapeError
from geoembed.heatmap import classical_scaling, draw_distances, leaf_order
from geoembed.pointsets import PointSets

RNG = np.random.default_rng(0)
A, B = RNG.normal(size=(9, 2)), RNG.normal(size=(9, 2)) + 1
SHIFT = np.array([0.6, -0.8])  # of length one


@pytest.fixture
def files(tmp_path):
    """a.npy, b.csv, and a moved by SHIFT as moved.npz."""
    np.save(tmp_path / "a.npy", A)
    np.savetxt(tmp_path / "b.csv", B, delimiter=",", header="x,y", comments="")
    np.savez(tmp_path / "moved.npz", points=A + SHIFT)
    return tmp_path


@pytest.fixture
def folder(tmp_path):
    """Five sets of different sizes, two of them alike."""
    folder = tmp_path / "sets"
    folder.mkdir()
    for i, (name, n) in enumerate([("ant", 4), ("bee", 6), ("cat", 3), ("dog", 5)]):
        np.save(folder / f"{name}.npy", RNG.normal(size=(n, 2)) + i)
    np.save(folder / "elk.npy", np.load(folder / "ant.npy"))
    return folder


def fails(capsys, *argv) -> str:
    """The message of a command that must end with exit status 1."""
    assert main(list(map(str, argv))) == 1
    message = capsys.readouterr().err
    assert "geoembed: error: " in message
    assert "Traceback" not in message
    return message


def refused(capsys, *argv) -> str:
    """The message of a command that argparse refuses."""
    with pytest.raises(SystemExit) as error:
        main(list(map(str, argv)))
    assert error.value.code == 2
    return capsys.readouterr().err


def printed(capsys, *argv) -> tuple[float, str, str]:
    """Value, name and settings that `distance` prints."""
    assert main(["distance", *map(str, argv)]) == 0
    first, settings = capsys.readouterr().out.splitlines()
    name, value = first.split(" = ")
    return float(value), name, settings


# ---------------------------------------------------------------------------------------------------------- distance


def cost(p):
    c = cdist(A, B) ** p
    return c[linear_sum_assignment(c)].mean() ** (1 / p)


CHAMFER = cdist(A, B).min(0).mean() + cdist(A, B).min(1).mean()
HAUSDORFF = max(cdist(A, B).min(0).max(), cdist(A, B).min(1).max())
ENERGY = math.sqrt(2 * cdist(A, B).mean() - cdist(A, A).mean() - cdist(B, B).mean())


@pytest.mark.parametrize(
    ("other", "metric", "flags", "expected", "settings"),
    [
        ("b.csv", "wasserstein", [], cost(2), "euclidean ground distance, p = 2"),
        ("b.csv", "wasserstein", ["--p", "1"], cost(1), "euclidean ground distance, p = 1"),
        ("b.csv", "chamfer", [], CHAMFER, "euclidean ground distance"),
        ("b.csv", "hausdorff", [], HAUSDORFF, "euclidean ground distance"),
        ("b.csv", "energy", [], ENERGY, "euclidean ground distance"),
        ("moved.npz", "chamfer", ["--ground", "manhattan"], None, "manhattan ground distance"),
        # translations by t: |t| / sqrt(d), |t|, |t|^2 / 2, nothing
        ("moved.npz", "sliced-wasserstein", [], math.sqrt(0.5), "p = 2, 100 directions, seed 0"),
        ("moved.npz", "max-sliced-wasserstein", ["--seed", "3"], 1.0, "p = 2, seed 3"),
        ("moved.npz", "sinkhorn", [], 0.5, "euclidean ground distance, p = 2, blur 0.05"),
        ("moved.npz", "gromov", ["--ground", "manhattan"], 0.0, "manhattan ground distance, seed 0"),
        ("moved.npz", "sliced-gromov", ["--projections", "7"], 0.0, "7 directions, seed 0"),
        ("a.npy", "tree-sliced", ["--trees", "3"], 0.0, "3 trees, seed 0"),
    ],
)
def test_distance(files, capsys, other, metric, flags, expected, settings):
    value, name, stated = printed(capsys, files / "a.npy", files / other, "--metric", metric, *flags)
    assert name == f"{metric}(a, {other.split('.')[0]})"
    assert stated == settings
    if expected is None:
        c = cdist(A, A + SHIFT, "cityblock")
        expected = c.min(0).mean() + c.min(1).mean()
    assert value == pytest.approx(expected, rel=2e-6, abs=1e-7)


@pytest.mark.parametrize("metric", METRICS)
def test_every_metric(files, capsys, metric):
    if "manifold" in METRICS[metric].options:  # the sets must lie in the disk
        np.save(files / "a.npy", 0.1 * A)
        np.save(files / "c.npy", 0.1 * B)
    else:
        np.save(files / "c.npy", B)
    arguments = [files / "a.npy", files / "c.npy", "--metric", metric]
    value, _, stated = printed(capsys, *arguments)
    assert 0 < value < math.inf
    assert (value, _, stated) == printed(capsys, *arguments)
    assert ("seed 0" in stated) == ("seed" in METRICS[metric].options)
    same, *_ = printed(capsys, files / "a.npy", files / "a.npy", "--metric", metric)
    assert abs(same) < 1e-6


def test_the_seed_decides_the_directions(files, capsys):
    np.save(files / "c.npy", RNG.normal(size=(5, 6)))
    np.save(files / "d.npy", RNG.normal(size=(5, 6)))
    values = [
        printed(capsys, files / "c.npy", files / "d.npy", "--projections", "9", "--seed", seed)[0] for seed in "001"
    ]
    assert values[0] == values[1] != values[2]


def test_hyperbolic_ground(files, capsys):
    np.save(files / "o.npy", np.zeros((1, 2)))
    np.save(files / "r.npy", np.array([[math.tanh(0.75), 0.0]]))  # at hyperbolic distance 1.5 of the origin
    arguments = ["--metric", "wasserstein", "--ground", "poincare"]
    assert printed(capsys, files / "o.npy", files / "r.npy", *arguments)[0] == pytest.approx(1.5)
    slices = ["--metric", "hyperbolic-sliced", "--manifold"]
    value, _, stated = printed(capsys, files / "o.npy", files / "r.npy", *slices, "poincare")
    assert 0 < value < 1.5
    assert stated == "poincare model, p = 2, 100 directions, seed 0"
    np.save(files / "lo.npy", np.array([[1.0, 0.0, 0.0]]))
    np.save(files / "lr.npy", np.array([[math.cosh(1.5), math.sinh(1.5), 0.0]]))
    assert printed(capsys, files / "lo.npy", files / "lr.npy", *slices, "lorentz")[0] == pytest.approx(value, rel=1e-6)
    assert "unknown model of hyperbolic space 'ball'" in fails(
        capsys, "distance", files / "o.npy", files / "r.npy", *slices, "ball"
    )
    np.save(files / "out.npy", np.array([[0.9, 0.9]]))
    assert "not points of PoincareBall" in fails(capsys, "distance", files / "o.npy", files / "out.npy", *arguments)


def test_sets_of_different_dimensions(files, capsys):
    np.save(files / "c.npy", RNG.normal(size=(5, 3)))
    assert printed(capsys, files / "a.npy", files / "c.npy", "--metric", "sliced-gromov")[0] > 0
    for metric in ("sliced-wasserstein", "tree-sliced", "chamfer"):
        fails(capsys, "distance", files / "a.npy", files / "c.npy", "--metric", metric)


def test_bad_words(files, capsys):
    a, b = files / "a.npy", files / "b.csv"
    assert "unknown metric 'sliced-waserstein'. Did you mean 'sliced-wasserstein'" in fails(
        capsys, "distance", a, b, "--metric", "sliced-waserstein"
    )
    assert "unknown ground distance 'euclid'. Did you mean 'euclidean'" in fails(
        capsys, "distance", a, b, "--metric", "chamfer", "--ground", "euclid"
    )
    message = refused(capsys, "distance", a, b, "--metric", "chamfer", "--p", "2")
    assert "chamfer has no --p; its options are --ground" in message
    assert "p" in fails(capsys, "distance", a, b, "--p", "0.5")
    assert "direction" in fails(capsys, "distance", a, b, "--projections", "0")
    assert "unknown option '--metrics'" in fails(capsys, "distance", a, b, "--metrics", "chamfer")


def test_bad_files(files, capsys):
    a = files / "a.npy"
    assert "owl.npy: no such file" in fails(capsys, "distance", a, files / "owl.npy")
    np.save(files / "bad.npy", np.array([[1.0, np.nan]]))
    assert "bad.npy: NaN" in fails(capsys, "distance", a, files / "bad.npy")
    np.savez(files / "many.npz", a=A, b=B)
    message = fails(capsys, "distance", a, files / "many.npz")
    assert "many.npz holds 2 sets, expected one" in message
    assert "geoembed pairwise" in message


# ---------------------------------------------------------------------------------------------------------- pairwise


def test_pairwise(folder, tmp_path, capsys):
    out = tmp_path / "D.npy"
    assert main(["pairwise", str(folder), "--metric", "hausdorff", "-o", str(out)]) == 0
    first, *written = capsys.readouterr().out.splitlines()
    assert first == "hausdorff of 5 sets, euclidean ground distance"
    assert written == [str(out), str(tmp_path / "D.names.txt")]
    assert (tmp_path / "D.names.txt").read_text() == "ant\nbee\ncat\ndog\nelk\n"
    matrix = np.load(out, allow_pickle=False)
    sets = [np.load(folder / f"{name}.npy") for name in ("ant", "bee", "cat", "dog", "elk")]
    for i, x in enumerate(sets):
        for j, y in enumerate(sets):
            c = cdist(x, y)
            assert matrix[i, j] == pytest.approx(max(c.min(0).max(), c.min(1).max()), abs=1e-12)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["D.names.txt", "D.npy", "sets"]


@pytest.mark.parametrize("metric", METRICS)
def test_pairwise_of_every_metric(folder, tmp_path, capsys, metric):
    if "manifold" in METRICS[metric].options:
        for path in folder.iterdir():
            np.save(path, np.load(path) / 20)
    out = tmp_path / "D.npy"
    assert main(["pairwise", str(folder), "--metric", metric, "-o", str(out)]) == 0
    matrix = np.load(out)
    assert matrix.shape == (5, 5)
    assert (matrix == matrix.T).all()
    np.testing.assert_allclose(matrix[[0, 0, 1, 2, 3, 4], [0, 4, 1, 2, 3, 4]], 0, atol=1e-6)  # ant and elk are alike
    assert (matrix[:4, :4] + np.eye(4) > 1e-3).all()
    if metric != "tree-sliced":  # its trees are of all sets
        for i, j in ((0, 1), (2, 3)):
            paths = [folder / f"{('ant', 'bee', 'cat', 'dog')[k]}.npy" for k in (i, j)]
            capsys.readouterr()
            assert printed(capsys, *paths, "--metric", metric)[0] == pytest.approx(matrix[i, j], rel=1e-6, abs=1e-9)


def test_names_and_picture(folder, tmp_path, capsys):
    out, names, picture = tmp_path / "D.npy", tmp_path / "names.tsv", tmp_path / "D.png"
    arguments = ["--metric", "tree-sliced", "--names", str(names), "--plot", str(picture)]
    assert main(["pairwise", str(folder), "-o", str(out), *arguments]) == 0
    assert capsys.readouterr().out.splitlines()[1:] == [str(out), str(names), str(picture)]
    assert names.read_text().split() == ["ant", "bee", "cat", "dog", "elk"]
    assert picture.read_bytes().startswith(b"\x89PNG")


def test_many_sets_in_one_file(tmp_path, capsys):
    sets = PointSets.from_list([torch.randn(3, 4), torch.randn(5, 4), torch.randn(1, 4)])
    sets.save(tmp_path / "sets.safetensors")
    assert main(["pairwise", str(tmp_path / "sets.safetensors"), "-o", str(tmp_path / "D.npy")]) == 0
    assert np.load(tmp_path / "D.npy").shape == (3, 3)
    assert (tmp_path / "D.names.txt").read_text() == "0\n1\n2\n"


def test_a_bad_file_is_named_and_left_out(folder, tmp_path, capsys):
    (folder / "bad.npy").write_bytes(b"nothing")
    with warnings.catch_warnings():
        warnings.simplefilter("default")
        assert main(["pairwise", str(folder), "-o", str(tmp_path / "D.npy")]) == 0
    captured = capsys.readouterr()
    assert f"geoembed: DataWarning: {folder / 'bad.npy'} is left out: " in captured.err
    assert "of 5 sets" in captured.out


def test_an_interrupted_run_goes_on(folder, tmp_path, capsys, monkeypatch):
    out, arguments = tmp_path / "D.npy", ["pairwise", str(folder), "--metric", "hausdorff"]
    whole, block, calls = pairwise.pairwise_matrix(Hausdorff(Euclidean()), read_point_sets(folder).sets), [], []
    block = pairwise._Problem.block

    def counting(self, rows):
        calls.append(rows)
        if len(calls) == 4:
            raise KeyboardInterrupt
        return block(self, rows)

    monkeypatch.setattr(pairwise._Problem, "block", counting)
    assert main([*arguments, "-o", str(out)]) == 130
    assert "finished blocks are kept. Go on with the same command and --resume" in capsys.readouterr().err
    assert not out.exists()
    assert "What differs" in fails(capsys, *arguments, "-o", out, "--resume", "--ground", "manhattan")
    assert main([*arguments, "-o", str(out), "--resume"]) == 0
    assert len(calls) == 4 + 2
    np.testing.assert_array_equal(np.load(out), whole)


def test_workers(folder, tmp_path, monkeypatch):
    asked, alone = [], pairwise._computed

    def computed(problem, blocks, workers):
        asked.append(workers)
        return alone(problem, blocks, 0)

    monkeypatch.setattr(pairwise, "_computed", computed)  # test_pairwise has the processes
    assert main(["pairwise", str(folder), "-o", str(tmp_path / "D.npy"), "--workers", "3"]) == 0
    assert asked == [3]


def test_bad_pairwise(folder, tmp_path, capsys):
    assert "required: -o" in refused(capsys, "pairwise", folder)
    assert "ends in .npy" in fails(capsys, "pairwise", folder, "-o", tmp_path / "D.csv")
    assert "workers not negative" in fails(capsys, "pairwise", folder, "-o", tmp_path / "D.npy", "--workers", "-1")
    assert "no such file or folder" in fails(capsys, "pairwise", tmp_path / "nowhere", "-o", tmp_path / "D.npy")
    assert "unknown metric" in fails(capsys, "pairwise", folder, "-o", tmp_path / "D.npy", "--metric", "emd")
    message = fails(capsys, "pairwise", folder, "-o", tmp_path / "D.npy", "--plot", tmp_path / "D.doc")
    assert "ends in one of" in message
    assert "cannot write" in fails(capsys, "pairwise", folder, "-o", tmp_path / "absent" / "D.npy")
    assert [path.name for path in tmp_path.iterdir()] == ["sets"]


def test_help_names_the_metrics_and_imports_nothing_heavy():
    code = (
        "import sys\nfrom geoembed.cli import main\n"
        "try:\n    main(['pairwise', '--help'])\nexcept SystemExit:\n    pass\n"
        "print([m for m in ('torch', 'numpy', 'scipy', 'ot', 'matplotlib', 'geoopt') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert out.splitlines()[-1] == "[]"
    for metric in METRICS:
        assert metric in out.replace("\n", "").replace(" ", "")


# ----------------------------------------------------------------------------------------------------------- picture


def test_classical_scaling_finds_the_plane():
    points = RNG.normal(size=(20, 2)) * (3, 1)
    d = cdist(points, points)
    found, share = classical_scaling(d)
    np.testing.assert_allclose(cdist(found, found), d, atol=1e-10)
    np.testing.assert_allclose(found.mean(0), 0, atol=1e-10)
    assert share == pytest.approx(1)
    space = RNG.normal(size=(400, 4))
    covariance = np.linalg.eigvalsh(np.cov(space.T))
    assert classical_scaling(cdist(space, space))[1] == pytest.approx(covariance[-2:].sum() / covariance.sum())


@pytest.mark.parametrize("n", [1, 2, 3])
def test_classical_scaling_of_few(n):
    points, share = classical_scaling(np.zeros((n, n)))
    assert (points == 0).all()
    assert points.shape == (n, 2)
    assert share == 1
    apart, _ = classical_scaling(3 * (1 - np.eye(n)))
    np.testing.assert_allclose(cdist(apart, apart), 3 * (1 - np.eye(n)), atol=1e-12)


def test_leaf_order_brings_like_items_together():
    label = RNG.permutation(np.repeat(np.arange(3), 8))
    points = RNG.normal(size=(24, 2)) + 50 * label[:, None]
    order = leaf_order(cdist(points, points))
    assert sorted(order) == list(range(24))
    assert np.count_nonzero(np.diff(label[order])) == 2
    assert leaf_order(np.zeros((1, 1))).tolist() == [0]


def test_picture_names_few_items_and_draws_many(tmp_path):
    points = RNG.normal(size=(60, 3))
    d = cdist(points, points)
    names = [f"set_{i:02}_$x$" for i in range(60)]
    draw_distances(d[:40, :40], names[:40], tmp_path / "few.svg", title="a & b")
    few = (tmp_path / "few.svg").read_text()
    assert all(f"set {i:02} $x$" in few for i in range(40))
    assert "40 items" in few
    draw_distances(d, names, tmp_path / "many.svg")
    many = (tmp_path / "many.svg").read_text()
    assert "60 items" in many
    assert "set 00" not in many


def test_picture_of_a_part(tmp_path, monkeypatch):
    from geoembed import heatmap

    monkeypatch.setattr(heatmap, "MOST", 10)
    points = RNG.normal(size=(25, 3))
    draw_distances(cdist(points, points), list(map(str, range(25))), tmp_path / "part.svg")
    assert "9 of 25 items" in (tmp_path / "part.svg").read_text()


@pytest.mark.parametrize("n", [1, 2])
def test_picture_of_hardly_anything(tmp_path, n):
    for name in ("few.pdf", "again.pdf"):
        draw_distances(np.zeros((n, n)), ["a"] * n, tmp_path / name)
    assert (tmp_path / "few.pdf").read_bytes().startswith(b"%PDF")
    assert (tmp_path / "few.pdf").read_bytes() == (tmp_path / "again.pdf").read_bytes()


def test_bad_pictures(tmp_path):
    path, d = tmp_path / "D.png", 1 - np.eye(3)
    for matrix, names in ((d, ["a", "b"]), (d[:2], ["a", "b"]), (d[0], ["a"] * 3), (d[:0, :0], [])):
        with pytest.raises(ShapeError, match="expected a matrix"):
            draw_distances(matrix, names, path)
    d[1] = d[:, 1] = np.nan
    with pytest.raises(DataError, match="no distance of 'b' is a finite number"):
        draw_distances(d, ["a", "b", "c"], path)
    with pytest.raises(DataError, match="ends in one of"):
        draw_distances(np.eye(2), ["a", "b"], tmp_path / "D.doc")
    with pytest.raises(CheckpointError, match="cannot write"):
        draw_distances(np.eye(2), ["a", "b"], tmp_path / "absent" / "D.png")
    assert list(tmp_path.iterdir()) == []
