"""Readers of point sets: every layout gives the same sets, and one bad file costs only itself."""

import os
import warnings

import numpy as np
import pytest
import torch

from geoembed.data import read_point_sets
from geoembed.errors import DataError, DataWarning
from geoembed.pointsets import PointSets

RNG = np.random.default_rng(0)
CLOUDS = {name: RNG.normal(size=(n, 2)) for name, n in (("ant", 3), ("bee", 5), ("cat", 1))}
WEIGHTS = {name: RNG.uniform(0.1, 1, size=len(points)) for name, points in CLOUDS.items()}


def same(found, names=tuple(CLOUDS), weighted=False, dtype=torch.float64):
    assert found.names == list(names)
    assert len(found) == len(found.sets) == len(names)
    assert found.sets.dtype == dtype
    assert found.sets.uniform is not weighted
    for i, (points, expected) in enumerate(zip(found.sets.unpad(), CLOUDS.values(), strict=True)):
        np.testing.assert_array_equal(points, expected.astype(points.numpy().dtype))
        if weighted:
            w = list(WEIGHTS.values())[i]
            np.testing.assert_allclose(found.sets.weights[i, : len(w)], w / w.sum(), rtol=1e-12)


def write_folder(folder):
    """One set in each of three formats."""
    np.save(folder / "ant.npy", CLOUDS["ant"])
    np.savez_compressed(folder / "bee.npz", points=CLOUDS["bee"])
    write_text(folder / "cat.csv", CLOUDS["cat"])
    return folder


def write_text(path, points, weights=None, header=None, separator=","):
    columns = points if weights is None else np.column_stack([points[:, :1], weights, points[:, 1:]])
    lines = [separator.join(map(repr, row)) for row in columns.tolist()]
    path.write_text("\n".join([*([header] if header else []), *lines]) + "\n")


def flat():
    return {
        "points": np.concatenate(list(CLOUDS.values())),
        "ptr": np.cumsum([0, *map(len, CLOUDS.values())]),
        "weights": np.concatenate(list(WEIGHTS.values())),
    }


def test_a_folder_of_all_formats(tmp_path):
    write_folder(tmp_path)
    (tmp_path / "README.md").write_text("not a set")
    (tmp_path / ".hidden.csv").write_text("not a set")
    (tmp_path / "sub").mkdir()
    same(read_point_sets(tmp_path))
    same(read_point_sets(os.fspath(tmp_path)))


def test_one_file_of_many_sets(tmp_path):
    np.savez(tmp_path / "many.npz", **dict(reversed(CLOUDS.items())))
    same(read_point_sets(tmp_path / "many.npz"))
    np.savez(tmp_path / "flat.npz", **flat())
    same(read_point_sets(tmp_path / "flat.npz"), ("0", "1", "2"), weighted=True)
    np.savez(tmp_path / "named.npz", **flat() | {"names": np.array(["one", "two", "drei"])})
    same(read_point_sets(tmp_path / "named.npz"), ("one", "two", "drei"), weighted=True)
    sets = PointSets.from_list(*([torch.from_numpy(a) for a in each.values()] for each in (CLOUDS, WEIGHTS)))
    sets.save(tmp_path / "sets.safetensors")
    same(read_point_sets(tmp_path / "sets.safetensors"), ("0", "1", "2"), weighted=True)
    sets.to(torch.bfloat16).save(tmp_path / "sets.safetensors")
    assert read_point_sets(tmp_path / "sets.safetensors").sets.dtype == torch.float32


def test_weights_in_every_format(tmp_path):
    write_text(tmp_path / "ant.csv", CLOUDS["ant"], WEIGHTS["ant"], header='x,"Weight ",y')
    np.savez(tmp_path / "bee.npz", points=CLOUDS["bee"], weights=WEIGHTS["bee"])
    write_text(tmp_path / "cat.tsv", CLOUDS["cat"], WEIGHTS["cat"], header="x\tweights\ty", separator="\t")
    same(read_point_sets(tmp_path), weighted=True)
    np.save(tmp_path / "dog.npy", CLOUDS["ant"])  # without weights: equal ones
    assert read_point_sets(tmp_path).sets.weights[3, :3].tolist() == [1 / 3] * 3


@pytest.mark.parametrize("name", ["ant.npy", "ant.npz", "ant.csv", "ant.tsv", "ANT.CSV"])
def test_a_single_file_is_one_set(tmp_path, name):
    path = tmp_path / name
    if name.endswith("npy"):
        np.save(path, CLOUDS["ant"])
    elif name.endswith("npz"):
        np.savez(path, points=CLOUDS["ant"])
    else:
        write_text(path, CLOUDS["ant"], separator="\t" if name.endswith("tsv") else ",")
    found = read_point_sets(path)
    assert found.names == [path.stem]
    np.testing.assert_array_equal(found.sets.points[0], CLOUDS["ant"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1,2\n3,4", [[1, 2], [3, 4]]),
        ("x,y\n1,2\n", [[1, 2]]),
        ("\ufeff1,2\r\n\r\n3,4\r\n\n", [[1, 2], [3, 4]]),
        ('"1","2e0"\n', [[1, 2]]),
        ("5\n6\n", [[5], [6]]),
        ("height\n5\n", [[5]]),
    ],
)
def test_text(tmp_path, text, expected):
    path = tmp_path / "a.csv"
    path.write_bytes(text.encode())
    assert read_point_sets(path).sets.points[0].tolist() == expected


@pytest.mark.parametrize(
    ("kinds", "dtype"),
    [
        (["f4", "f4"], torch.float32),
        (["f2", ">f4"], torch.float32),
        (["f4", "f8"], torch.float64),
        (["i8", "f4"], torch.float64),
        (["u1", "i2"], torch.float32),
        (["f16" if np.dtype(np.longdouble).itemsize == 16 else "f8"], torch.float64),
    ],
)
def test_numbers_become_floats_of_one_kind(tmp_path, kinds, dtype):
    for i, kind in enumerate(kinds):
        np.save(tmp_path / f"{i}.npy", np.array([[1, 2], [3, 4]], dtype=kind))
    found = read_point_sets(tmp_path)
    assert found.sets.dtype == dtype
    assert found.sets.points.tolist() == [[[1, 2], [3, 4]]] * len(kinds)


def test_files_of_one_stem_keep_their_endings(tmp_path):
    for name in ("a.npy", "b.npy"):
        np.save(tmp_path / name, CLOUDS["ant"])
    write_text(tmp_path / "a.csv", CLOUDS["bee"])
    assert read_point_sets(tmp_path).names == ["a.csv", "a.npy", "b"]


def test_tiny_weights_survive_float32(tmp_path):
    np.savez(tmp_path / "a.npz", points=CLOUDS["ant"].astype("f4"), weights=np.array([1e-60, 3e-60, 0]))
    assert read_point_sets(tmp_path).sets.weights.tolist() == [[0.25, 0.75, 0]]


# ------------------------------------------------------------------------------------------------------- bad input

NAN = np.array([[1.0, 2], [3, np.nan]])


def save(array, **kwargs):
    return lambda path: np.save(path, array, **kwargs)


def savez(**arrays):
    return lambda path: np.savez(path, **arrays)


def text(content):
    return lambda path: path.write_bytes(content if isinstance(content, bytes) else content.encode())


BAD = [
    ("zoo.npy", text(b""), "magic string"),
    ("zoo.npy", text(b"hello"), "magic string"),
    ("zoo.npy", lambda path: (save(CLOUDS["bee"])(path), os.truncate(path, 150)), "to read"),
    ("zoo.npy", save(np.array([[{}]]), allow_pickle=True), "allow_pickle"),
    ("zoo.npy", save(np.array([["a", "b"]])), r"expected numbers \(n, d\).*<U1"),
    ("zoo.npy", save(np.array([[1j, 2]])), "complex128"),
    ("zoo.npy", save(np.array([[True, False]])), "bool"),
    ("zoo.npy", save(np.zeros(4)), r"shape \(4,\)"),
    ("zoo.npy", save(np.zeros((2, 2, 2))), r"shape \(2, 2, 2\)"),
    ("zoo.npy", save(np.zeros((0, 2))), "no points"),
    ("zoo.npy", save(np.zeros((2, 0))), "no points"),
    ("zoo.npy", save(NAN), "NaN or infinite numbers in 1 of 2 points, first in row 1"),
    ("zoo.npy", save(NAN * np.inf), "NaN or infinite numbers in 2 of 2"),
    ("zoo.npy", save(np.zeros((2, 3))), "3 features, expected 2"),
    ("zoo.npz", text(b"PK\x03\x04 no archive"), "zip"),
    ("zoo.npz", savez(a=CLOUDS["ant"], b=CLOUDS["ant"]), "expected an array `points`, got a, b"),
    ("zoo.npz", savez(), "got nothing"),
    ("zoo.npz", savez(points=CLOUDS["ant"], weights=np.ones(2)), r"expected 3 weights, got float64 of shape \(2,\)"),
    ("zoo.npz", savez(points=CLOUDS["ant"], weights=np.array([1, -1, 1])), "not negative"),
    ("zoo.npz", savez(points=CLOUDS["ant"], weights=np.zeros(3)), "not all zero"),
    ("zoo.npz", savez(points=CLOUDS["ant"], weights=np.array([1, np.nan, 1])), "finite"),
    ("zoo.csv", text(""), "no points"),
    ("zoo.csv", text("x,y\n"), "no points"),
    ("zoo.csv", text("x,y\n1,2\n3\n"), "line 3: expected 2 columns as before, got 1"),
    ("zoo.csv", text("1,2\n3,four\n"), "line 2: 'four' is not a number"),
    ("zoo.csv", text("1,b\n3,4\n"), "line 1: 'b' is not a number"),  # a typing error, and no header
    ("zoo.csv", text("x,y,z\n1,2\n"), "header names 3 columns, the rows have 2"),
    ("zoo.csv", text("x,weight,weights\n1,2,3\n"), "two columns of weights"),
    ("zoo.csv", text("weight\n1\n"), "no points"),
    ("zoo.csv", text("1,nan\n"), "NaN"),
    ("zoo.csv", text(b"1,\xff\n"), "utf-8"),
    ("zoo.tsv", text("1,2\n3,4\n"), "line 2: .3,4. is not a number"),
]


@pytest.mark.parametrize(("name", "write", "message"), BAD)
def test_a_bad_file_is_named_and_the_rest_kept(tmp_path, name, write, message):
    write_folder(tmp_path)
    write(tmp_path / name)
    with pytest.warns(DataWarning, match=rf"{name} is left out: .*{message}") as caught:
        same(read_point_sets(tmp_path))
    assert len(caught) == 1
    with warnings.catch_warnings():
        warnings.simplefilter("error", DataWarning)
        with pytest.raises(DataWarning, match=name):
            read_point_sets(tmp_path)


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() == 0, reason="the superuser reads everything")
def test_a_file_without_permission(tmp_path):
    write_folder(tmp_path)
    np.save(tmp_path / "zoo.npy", CLOUDS["ant"])
    (tmp_path / "zoo.npy").chmod(0)
    with pytest.warns(DataWarning, match=r"zoo\.npy is left out: .*Permission"):
        same(read_point_sets(tmp_path))


def test_the_only_file_is_bad(tmp_path):
    np.save(tmp_path / "zoo.npy", NAN)
    for path in (tmp_path, tmp_path / "zoo.npy"):
        with pytest.raises(DataError, match=r"no readable point set \(1 tried\).*zoo\.npy: NaN"):
            read_point_sets(path)


def test_bad_sets_within_a_file(tmp_path):
    np.savez(tmp_path / "many.npz", **CLOUDS, zoo=NAN)
    with pytest.warns(DataWarning, match="array 'zoo' is left out: NaN"):
        same(read_point_sets(tmp_path / "many.npz"))
    arrays = flat()
    points = np.concatenate([arrays["points"], NAN])
    np.savez(tmp_path / "flat.npz", points=points, ptr=np.append(arrays["ptr"], [len(points), len(points)]))
    with pytest.warns(DataWarning, match="left out") as caught:
        same(read_point_sets(tmp_path / "flat.npz"), ("0", "1", "2"))
    assert ["set 3" in str(caught[0].message), "set 4 is left out: no points" in str(caught[1].message)] == [True, True]
    sets = PointSets.from_list([torch.from_numpy(cloud) for cloud in (*CLOUDS.values(), NAN)])
    sets.save(tmp_path / "sets.safetensors")
    with pytest.warns(DataWarning, match="set 3 is left out: NaN"):
        same(read_point_sets(tmp_path / "sets.safetensors"), ("0", "1", "2"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"ptr": np.array([0, 3, 8])}, r"ptr ends at 8, points has shape \(9, 2\)"),
        ({"ptr": np.array([0, 8, 3, 9])}, "rise from 0"),
        ({"ptr": np.array([1, 9])}, "rise from 0"),
        ({"ptr": np.array([0.0, 9.0])}, "whole numbers"),
        ({"ptr": np.array(9)}, "whole numbers"),
        ({"weights": np.ones(8)}, r"weights has shape \(8,\)"),
        ({"points": np.array(1.0)}, r"points has shape \(\)"),
        ({"names": np.array(["a", "b"])}, "names must be 3 different ones, got 2"),
        ({"names": np.array(["a", "b", "a"])}, "names must be 3 different ones, got 2"),
    ],
)
def test_bad_flat_files(tmp_path, change, message):
    np.savez(tmp_path / "flat.npz", **flat() | change)
    with pytest.raises(DataError, match=rf"flat\.npz: .*{message}"):
        read_point_sets(tmp_path / "flat.npz")


def test_a_flat_file_with_objects(tmp_path):
    np.savez(tmp_path / "flat.npz", **flat() | {"names": np.array([{}, 1, 2])})
    with pytest.raises(DataError, match=r"flat\.npz cannot be read as \.npz: .*allow_pickle"):
        read_point_sets(tmp_path / "flat.npz")


def test_nothing_to_read(tmp_path):
    with pytest.raises(DataError, match=r"no files that end in \.npy, \.npz, \.csv, \.tsv; .* holds: nothing"):
        read_point_sets(tmp_path)
    write_folder(tmp_path)
    with pytest.raises(DataError, match=r"owl\.npy: no such file or folder; .*ant\.npy"):
        read_point_sets(tmp_path / "owl.npy")
    (tmp_path / "a.txt").write_text("1 2\n")
    with pytest.raises(DataError, match=r"a\.txt: expected a folder or a file that ends in \.npy"):
        read_point_sets(tmp_path / "a.txt")
    for name in ("bad.npz", "bad.safetensors"):
        (tmp_path / name).write_bytes(b"nothing of the kind")
        with pytest.raises(DataError, match=name):
            read_point_sets(tmp_path / name)
