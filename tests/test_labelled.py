"""Labelled data: the named sets against their files, own arrays and folders, and what a bad file says."""

import gzip
import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from geoembed.data.labelled import Labelled, load_labelled
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError
from geoembed.pointsets import PointSets

RNG = np.random.default_rng(0)


@pytest.fixture
def own(tmp_path, monkeypatch):
    """An empty $GEOEMBED_DATA/metric."""
    folder = tmp_path / "data" / "metric"
    folder.mkdir(parents=True)
    monkeypatch.setenv("GEOEMBED_DATA", str(tmp_path / "data"))
    return folder


def real(name):
    folder = os.environ.get("GEOEMBED_DATA")
    path = Path(folder or "", "metric", name)
    if not folder or not path.is_file():
        pytest.skip(f"GEOEMBED_DATA names no folder with metric/{name}")
    return path


# Named sets.


def test_digits():
    data = load_labelled()
    assert data.items.shape == (1797, 64)
    assert data.items.dtype == torch.float32
    assert (data.items.min(), data.items.max()) == (0, 1)
    assert data.labels.unique().tolist() == list(range(10))
    assert data.label_names == list("0123456789")
    assert (data.coarse, data.parts, data.left_out) == (None, None, 0)
    assert repr(data) == "Labelled('digits': 1,797 x items (64,), 10 classes)"


def test_omniglot():
    path = real("omniglot8_28x28.npz")
    data, raw = load_labelled("omniglot"), np.load(path)
    torch.testing.assert_close(data.items, torch.from_numpy(raw["X"] / 255).float())
    assert data.labels.tolist() == raw["y"].tolist()
    assert [data.coarse_names[i] for i in data.coarse] == raw["alphabet"].tolist()
    assert data.labels.bincount().tolist() == [20] * 242
    assert len(set(data.label_names)) == 242
    for label in (0, 100, 241):
        assert data.label_names[label].split("/")[0] == data.coarse_names[data.coarse[data.labels == label][0]]
    assert repr(data) == "Labelled('omniglot': 4,840 x items (1, 28, 28), 242 classes in 8)"


@pytest.fixture(scope="module")
def clinc150():
    return real("clinc150_data_small.json.gz"), load_labelled("clinc150")


def test_clinc150(clinc150):
    path, data = clinc150
    table = json.loads(gzip.decompress(path.read_bytes()))
    domains = json.loads((path.parent / "clinc150_domains.json").read_text())
    rows = [(intent, part) for part, key in enumerate(("train", "val", "test")) for _, intent in table[key]]
    assert [data.label_names[i] for i in data.labels] == [intent for intent, _ in rows]
    assert data.parts.tolist() == [part for _, part in rows]
    assert all(
        data.label_names[i] in domains[data.coarse_names[c]] for i, c in zip(data.labels, data.coarse, strict=True)
    )
    assert data.left_out == sum(len(table[key]) for key in ("oos_train", "oos_val", "oos_test")) == 1200
    assert data.items.shape == (15000, 256)
    length = data.items.norm(dim=1)
    assert int((length == 0).sum()) == 14  # questions of unknown words alone
    torch.testing.assert_close(length[length > 0], torch.ones(15000 - 14))
    # the nearest question is of the same intent far more often than chance, 1 in 150
    x, y = data.items[data.parts == 2], data.labels[data.parts == 2]
    nearest = (x @ x.T).fill_diagonal_(-1).argmax(1)
    assert 0.75 < (y[nearest] == y).float().mean() < 0.85


def test_features_of_clinc150_depend_on_the_train_part_alone(clinc150, own):
    path, data = clinc150
    table = json.loads(gzip.decompress(path.read_bytes()))
    table["val"], table["test"] = table["val"][:5], [["zyxwv qwrtp", "alarm"]]
    with gzip.open(own / path.name, "wt") as file:
        json.dump(table, file)
    shutil.copy(path.parent / "clinc150_domains.json", own)
    other = load_labelled("clinc150")
    assert len(other) == 7506
    torch.testing.assert_close(other.items[:7505], data.items[:7505], rtol=0, atol=0)
    assert (other.items[-1] == 0).all()  # no known word


# Own files.


def test_own_arrays(tmp_path):
    x, y = RNG.normal(size=(6, 3)), np.array(["b", "a", "b", "c", "a", "a"])
    coarse = np.array([7, 5, 7, 5, 5, 5])
    np.savez(tmp_path / "mine.npz", x=x, y=y, coarse=coarse, other=np.array([object()], dtype=object))
    data = load_labelled(tmp_path / "mine.npz")
    assert data.items.dtype == torch.float64
    np.testing.assert_array_equal(data.items, x)
    assert data.labels.tolist() == [1, 0, 1, 2, 0, 0]
    assert data.label_names == ["a", "b", "c"]
    assert data.coarse.tolist() == [1, 0, 1, 0, 0, 0]
    assert data.coarse_names == ["5", "7"]
    assert data.name == "mine"


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int64, np.uint8, bool])
def test_numbers_of_other_types_become_float32(tmp_path, dtype):
    np.savez(tmp_path / "mine.npz", x=np.eye(4, dtype=dtype), y=np.array([3, 1, 3, 1], dtype=np.uint8))
    data = load_labelled(os.fspath(tmp_path / "mine.npz"))
    assert torch.equal(data.items, torch.eye(4))
    assert data.labels.dtype == torch.int64
    assert data.label_names == ["1", "3"]


def test_by_name(own):
    np.savez(own / "mine.npz", x=np.eye(4), y=np.arange(4))
    for name in ("mine", "mine.npz"):
        assert len(load_labelled(name)) == 4
    with pytest.raises(UnknownNameError, match=r"'minne'.*'mine'.*clinc150, digits, mine, omniglot"):
        load_labelled("minne")


def test_ragged_point_sets(tmp_path):
    sets = [RNG.normal(size=(n, 2)).astype(np.float32) for n in (3, 1, 4)]
    flat = {"x": np.concatenate(sets), "ptr": np.cumsum([0, 3, 1, 4]), "y": np.array([1, 0, 1])}
    np.savez(tmp_path / "a.npz", **flat)
    data = load_labelled(tmp_path / "a.npz")
    assert isinstance(data.items, PointSets)
    for a, b in zip(data.items.unpad(), sets, strict=True):
        np.testing.assert_array_equal(a, b)
    np.savez(tmp_path / "b.npz", **flat, weights=np.arange(1.0, 9))
    weights = load_labelled(tmp_path / "b.npz").items.weights
    torch.testing.assert_close(weights[0, :3], torch.tensor([1.0, 2, 3]) / 6)
    some = data[torch.tensor([0, 2])]
    assert some.items.lengths.tolist() == [3, 4]
    assert some.labels.tolist() == [1, 1]
    assert "2 x PointSets" in repr(some)
    assert "1 classes" in repr(some)


def write_sets(folder, count, d=2, dtype=np.float32):
    folder.mkdir(parents=True)
    sets = [RNG.normal(size=(2 + i, d)).astype(dtype) for i in range(count)]
    for i, points in enumerate(sets):
        np.save(folder / f"{i}.npy", points)
    return sets


def test_a_folder_of_point_sets(tmp_path):
    sets = write_sets(tmp_path / "cat", 2) + write_sets(tmp_path / "dog", 3, dtype=np.float64)
    (tmp_path / ".cache").mkdir()
    (tmp_path / "README.md").write_text("not a label")
    data = load_labelled(tmp_path)
    assert data.labels.tolist() == [0, 0, 1, 1, 1]
    assert data.label_names == ["cat", "dog"]
    assert data.coarse is None
    assert data.items.dtype == torch.float64
    for a, b in zip(data.items.unpad(), sets, strict=True):
        np.testing.assert_array_equal(a, b)
    np.savez(tmp_path / "cat" / "9.npz", points=np.ones((2, 2)), weights=np.array([1.0, 3.0]))
    data = load_labelled(tmp_path)
    torch.testing.assert_close(data.items.weights[2, :2], torch.tensor([0.25, 0.75], dtype=torch.float64))
    torch.testing.assert_close(data.items.weights[0, :2], torch.tensor([0.5, 0.5], dtype=torch.float64))


def test_a_folder_with_coarse_labels(tmp_path):
    write_sets(tmp_path / "Greek" / "alpha", 2)
    write_sets(tmp_path / "Greek" / "beta", 1)
    write_sets(tmp_path / "Latin" / "alpha", 2)  # of the same name, another class
    data = load_labelled(tmp_path)
    assert data.label_names == ["Greek/alpha", "Greek/beta", "Latin/alpha"]
    assert data.labels.tolist() == [0, 0, 1, 2, 2]
    assert data.coarse.tolist() == [0, 0, 0, 1, 1]
    assert data.coarse_names == ["Greek", "Latin"]


# Parts of a set.


def test_a_part_keeps_the_numbers_of_labels():
    data = Labelled(
        torch.arange(12.0).reshape(6, 2), torch.tensor([0, 1, 2, 0, 1, 2]), ["a", "b", "c"], "toy",
        coarse=torch.tensor([0, 0, 1, 0, 0, 1]), coarse_names=["x", "y"], parts=torch.tensor([0, 0, 0, 1, 1, 2]),
    )  # fmt: skip
    for index in (slice(2, 6, 3), torch.tensor([2, 5]), torch.tensor([0, 0, 1, 0, 0, 1]).bool()):
        part = data[index]
        assert part.items.tolist() == [[4, 5], [10, 11]]
        assert part.labels.tolist() == [2, 2]
        assert part.coarse.tolist() == [1, 1]
        assert part.parts.tolist() == [0, 2]
        assert part.label_names == ["a", "b", "c"]
    assert "1 classes in 1" in repr(part)


def test_labels_that_do_not_fit():
    x = torch.ones(3, 2)
    with pytest.raises(ShapeError, match="3 items and 2 labels"):
        Labelled(x, torch.tensor([0, 1]), ["a", "b"], "toy")
    with pytest.raises(ShapeError, match="whole numbers"):
        Labelled(x, torch.tensor([0.0, 1, 1]), ["a", "b"], "toy")
    with pytest.raises(DomainError, match="labels go from 0 to 2, there are 2 names"):
        Labelled(x, torch.tensor([0, 1, 2]), ["a", "b"], "toy")
    with pytest.raises(DomainError, match="coarse labels go from 0 to 1, there are 0 names"):
        Labelled(x, torch.tensor([0, 1, 1]), ["a", "b"], "toy", coarse=torch.tensor([0, 1, 1]))
    with pytest.raises(DomainError, match="class 1 has the coarse labels 0 and 1"):
        Labelled(x, torch.tensor([0, 1, 1]), ["a", "b"], "toy", coarse=torch.tensor([0, 0, 1]), coarse_names=["x", "y"])


# Bad files.

GOOD = {"x": np.eye(3), "y": np.arange(3)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"x": None}, "expected an array 'x', the file holds y"),
        ({"y": None}, "expected an array 'y', the file holds x"),
        ({"x": np.array([np.eye(2), np.eye(3), None], dtype=object)}, "ptr"),
        ({"x": np.array([[1.0, 2], [np.nan, 0], [np.inf, 0]])}, "2 of 3 rows of x, the first is row 1"),
        ({"x": np.array(["a", "b", "c"])}, "expected x of numbers"),
        ({"x": np.empty((0, 3)), "y": np.empty(0, int)}, r"\(0, 3\)"),
        ({"x": np.arange(3.0)}, r"\(n, \.\.\.\), a row for each item, got float64 \(3,\)"),
        ({"y": np.arange(4)}, "3 items and 4 labels"),
        ({"y": np.arange(3.0)}, "expected y of whole numbers or names"),
        ({"y": np.eye(3, dtype=int)}, r"int64 \(3, 3\)"),
        ({"coarse": np.arange(2)}, "3 items and 2 labels"),
        ({"y": np.array([0, 1, 1]), "coarse": np.arange(3)}, "class 1 has the coarse labels 1 and 2"),
        ({"ptr": np.array([0, 2])}, "do not make point sets: .*number of points, 3"),
        ({"ptr": np.array([0, 0, 1, 3])}, "do not make point sets: .*set .* has 0"),
        ({"ptr": np.array([0.0, 3])}, "do not make point sets"),
        ({"ptr": np.array([0, 1, 2, 3]), "weights": np.ones(2)}, "do not make point sets"),
        ({"ptr": np.array([0, 1, 2, 3]), "weights": np.array(["a"] * 3)}, "do not make point sets"),
        ({"ptr": np.array([0, 1, 3])}, "2 items and 3 labels"),
    ],
)
def test_bad_arrays(tmp_path, change, message):
    np.savez(tmp_path / "bad.npz", **{key: value for key, value in (GOOD | change).items() if value is not None})
    with pytest.raises(DataError, match=message) as caught:
        load_labelled(tmp_path / "bad.npz")
    assert "bad.npz" in str(caught.value)


def test_damaged_and_missing_files(tmp_path, monkeypatch):
    np.savez(tmp_path / "good.npz", **GOOD)
    whole = (tmp_path / "good.npz").read_bytes()
    for name, content in (("half.npz", whole[: len(whole) // 2]), ("text.npz", b"not an archive"), ("empty.npz", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=name):
            load_labelled(tmp_path / name)
    np.save(tmp_path / "one.npy", np.eye(3))
    with pytest.raises(DataError, match=r"one.npy: expected a file .npz"):
        load_labelled(tmp_path / "one.npy")
    with pytest.raises(DataError, match=r"none.npz: no such file or folder; .* holds: .*good.npz"):
        load_labelled(tmp_path / "none.npz")
    monkeypatch.delenv("GEOEMBED_DATA", raising=False)
    for name in ("omniglot", "clinc150"):
        with pytest.raises(DataError, match="set GEOEMBED_DATA"):
            load_labelled(name)
    with pytest.raises(UnknownNameError, match=r"'digit'.*'digits'"):
        load_labelled("digit")


def test_bad_named_files(own):
    with pytest.raises(DataError, match=r"omniglot8_28x28.npz: no such file; .* holds: nothing"):
        load_labelled("omniglot")
    with pytest.raises(DataError, match=r"clinc150_data_small.json.gz: no such file"):
        load_labelled("clinc150")
    np.savez(own / "omniglot8_28x28.npz", X=np.ones((2, 28, 28)), y=np.arange(2), alphabet=np.array(["a", "b"]))
    with pytest.raises(DataError, match=r"omniglot8_28x28.npz: expected X of bytes"):
        load_labelled("omniglot")
    questions, domains = own / "clinc150_data_small.json.gz", own / "clinc150_domains.json"

    def write(table, by_domain):
        questions.write_bytes(gzip.compress(json.dumps(table).encode()))
        domains.write_text(json.dumps(by_domain))

    row = [["wake me", "alarm"]]
    write({"train": row, "val": row, "test": row}, {"home": ["lights"]})
    with pytest.raises(DataError, match=r"clinc150_domains.json: not as published: .*"):
        load_labelled("clinc150")
    for table, by_domain in (
        ({"train": row}, {"home": ["alarm"]}),
        ([1], {"home": ["alarm"]}),
        ({}, []),
        ({"train": [], "val": [], "test": []}, {"home": ["alarm"]}),
        ({"train": row, "val": row, "test": row}, {"home": ["alarm"]}),  # too few words
    ):
        write(table, by_domain)
        with pytest.raises(DataError, match="not as published"):
            load_labelled("clinc150")
    questions.write_bytes(gzip.compress(b"{"))
    with pytest.raises(DataError, match=r"clinc150_data_small.json.gz: not JSON"):
        load_labelled("clinc150")
    questions.write_bytes(b"plain")
    with pytest.raises(DataError, match=r"clinc150_data_small.json.gz"):
        load_labelled("clinc150")


def test_bad_folders(tmp_path):
    with pytest.raises(DataError, match="expected a folder for each label"):
        load_labelled(tmp_path)
    write_sets(tmp_path / "cat", 2)
    write_sets(tmp_path / "dog", 2, d=3)
    with pytest.raises(DataError, match="dog: points of 3 features, expected 2"):
        load_labelled(tmp_path)
    shutil.rmtree(tmp_path / "dog")
    write_sets(tmp_path / "dog" / "small", 2)
    with pytest.raises(DataError, match=r"cat: expected folders in it"):
        load_labelled(tmp_path)
    shutil.rmtree(tmp_path / "dog")
    (tmp_path / "dog").mkdir()
    with pytest.raises(DataError, match="dog: no files that end in"):
        load_labelled(tmp_path)
