"""`geoembed compress` and `geoembed restore` on the command line."""

import numpy as np
import pytest
import torch

from geoembed.cli import main
from geoembed.codec import load_points, save_points
from geoembed.hierarchy_runs import HierarchyRun
from geoembed.manifolds import HTiling, Lorentz, LTiling, convert


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    (folder / "tree.tsv").write_text("".join(f"n{i}\tn{(i - 1) // 2}\n" for i in range(1, 15)))
    words = "--epochs 6 --burn-in 1 --dim 2 --no-picture -o"
    assert main(["train", str(folder / "tree.tsv"), "--task", "hierarchy", *words.split(), str(folder / "run")]) == 0
    return folder / "run"


@pytest.mark.parametrize("model", ["htiling", "ltiling"])
def test_a_run_is_compressed_and_restored(run, model, tmp_path, capsys):
    path = tmp_path / "points.geo"
    assert main(["compress", str(run), "-o", str(path), "--model", model, "--bits", "30"]) == 0
    out = capsys.readouterr().out
    assert "15 points in" in out
    assert "bits a point" in out
    assert main(["restore", str(path), "-o", str(tmp_path / "p.npz"), "--manifold", "lorentz"]) == 0
    found = np.load(tmp_path / "p.npz")
    opened = HierarchyRun.open(run)
    assert found["names"].tolist() == opened.nodes
    error = Lorentz().dist(torch.from_numpy(found["points"]), opened.points)
    assert error.max() < 1e-8
    assert main(["restore", str(path), "-o", str(tmp_path / "p.tsv"), "--manifold", "poincare"]) == 0
    assert (tmp_path / "p.tsv").read_text().split("\t")[0] == opened.nodes[0]


def test_the_default_file_is_in_the_run(run, capsys):
    assert main(["compress", str(run)]) == 0
    assert (run / "points.geo").exists()
    assert "points.geo" in capsys.readouterr().out


def test_floats_cannot_hold_far_points(tmp_path, capsys):
    tiling = HTiling(2, HTiling.limbs_for(100))
    points = tiling.from_tangent(torch.tensor([[90.0, 1.0], [0.0, 1.0]], dtype=torch.float64))
    save_points(tmp_path / "far.geo", points, tiling)
    words = ["restore", str(tmp_path / "far.geo"), "-o", str(tmp_path / "far.npz")]
    assert main([*words, "--manifold", "poincare"]) == 1
    assert "radius 90" in capsys.readouterr().err
    assert not (tmp_path / "far.npz").exists()
    assert main(words) == 0
    rows = torch.from_numpy(np.load(tmp_path / "far.npz")["points"])
    assert torch.equal(rows, load_points(tmp_path / "far.geo").points)


def test_far_points_go_from_one_tiling_to_the_other(tmp_path):
    tiling = HTiling(2, HTiling.limbs_for(100))
    points = tiling.from_tangent(torch.tensor([[90.0, 1.0], [0.0, 1.0], [-30.0, -40.0]], dtype=torch.float64))
    save_points(tmp_path / "far.geo", points, tiling)
    kept = load_points(tmp_path / "far.geo").points
    words = ["restore", str(tmp_path / "far.geo"), "-o", str(tmp_path / "far.npz"), "--manifold", "ltiling"]
    assert main(words) == 0
    rows = torch.from_numpy(np.load(tmp_path / "far.npz")["points"])
    squares = LTiling(1, (rows.shape[1] - 2) // 4)
    squares.check(rows)
    assert tiling.dist(convert(rows, squares, tiling), kept).max() < 1e-14


def test_a_far_run_is_compressed_as_the_other_tiling(run, tmp_path, capsys):
    words = f"--task hierarchy --manifold htiling --limbs 8 --epochs 1 --burn-in 0 --dim 2 --no-picture -o {tmp_path}/h"
    assert main(["train", str(run.parent / "tree.tsv"), *words.split()]) == 0
    opened = HierarchyRun.open(tmp_path / "h")
    far = opened.manifold.from_tangent(13 * torch.arange(30, dtype=torch.float64).view(15, 2).sin().cumsum(0))
    opened.save_points(far)
    capsys.readouterr()
    assert main(["compress", str(tmp_path / "h"), "--model", "ltiling", "--bits", "40"]) == 0
    assert "15 points in" in capsys.readouterr().out
    found = load_points(tmp_path / "h" / "points.geo")
    assert isinstance(found.manifold, LTiling)
    assert opened.manifold.dist(convert(found.points, found.manifold, opened.manifold), far).max() < 1e-11


def test_bad_files_and_names(run, tmp_path, capsys):
    (tmp_path / "bad.geo").write_bytes(b"nothing")
    assert main(["restore", str(tmp_path / "bad.geo"), "-o", str(tmp_path / "x.tsv")]) == 1
    assert "bad.geo: not a file of points" in capsys.readouterr().err
    assert main(["restore", str(tmp_path / "bad.geo"), "-o", str(tmp_path / "x.doc")]) == 1
    assert "'.doc'" in capsys.readouterr().err
    assert main(["compress", str(run), "--bits", "0"]) == 1
    assert "bits must lie in 1 .. 48" in capsys.readouterr().err
