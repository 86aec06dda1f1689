"""Export: what other programs read is, to the bit, what the model holds, and no file is half written."""

import struct

import networkx as nx
import numpy as np
import pytest
import torch

from geoembed import TrainConfig, Triples
from geoembed.errors import CheckpointError, DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.export import FORMATS, SUFFIXES, annotate, export, write_npz, write_tsv, write_word2vec
from geoembed.graph_training import build_model
from geoembed.manifolds import Euclidean, HalfSpace, Lorentz, PoincareBall, Product
from geoembed.runs import Run, load_triples

NAMES = ["Ås", "New York", '"q"', "a'b,c;d", "x\u00a0y", "数", "_:[0]", "0"]


def bits(dtype, n=600, k=3):
    """Finite numbers of random bits, so of all sizes, subnormal ones among them."""
    draw = torch.Generator().manual_seed(5)
    whole = {torch.float64: torch.int64, torch.float32: torch.int32}.get(dtype, torch.int16)
    info = torch.iinfo(whole)
    raw = torch.randint(info.min, info.max, (4 * n, k), generator=draw, dtype=torch.int64).to(whole).view(dtype)
    raw = raw[raw.isfinite().all(1)][:n].clone()
    raw[0] = torch.tensor([0.0, -0.0, torch.finfo(dtype).tiny])
    raw[1] = torch.tensor([torch.finfo(dtype).max, torch.finfo(dtype).smallest_normal / 8, 1 / 3], dtype=dtype)
    assert len(raw) == n
    return raw


def same(text, points):
    """Whether rows of texts read as the same bits; the reader is C's own float of each dtype by way of Python's."""
    found = torch.tensor([[float(x) for x in row] for row in text], dtype=torch.float64).to(points.dtype)
    whole = {8: torch.int64, 4: torch.int32, 2: torch.int16}[points.element_size()]
    return torch.equal(found.view(whole), points.view(whole))


DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@pytest.mark.parametrize("dtype", DTYPES)
def test_tsv(tmp_path, dtype):
    points = bits(dtype)
    names = [*NAMES, *(f"n{i}" for i in range(len(points) - len(NAMES)))]
    write_tsv(tmp_path / "a.tsv", names, points)
    write_tsv(tmp_path / "b.tsv", names, points.requires_grad_(), header=True)
    text = (tmp_path / "a.tsv").read_bytes().decode()
    assert text.endswith("\n")
    rows = [line.split("\t") for line in text[:-1].split("\n")]
    assert [row[0] for row in rows] == names
    assert same([row[1:] for row in rows], points.detach())
    assert (tmp_path / "b.tsv").read_bytes().decode() == "name\tx0\tx1\tx2\n" + text


def test_digits():
    """9 digits are the fewest that tell all float32 apart, so a cut of one digit must show in `same`."""
    points = bits(torch.float32)
    assert not same([[f"{x:.8g}" for x in row] for row in points.tolist()], points)
    assert struct.unpack("f", struct.pack("f", float(f"{points[1, 2].item():.9g}")))[0] == points[1, 2].item()


def read_word2vec(path):
    """The plain way: one line "n k", then words split at blanks."""
    with open(path, encoding="utf-8", newline="\n") as file:
        n, k = map(int, file.readline().split())
        rows = [line.split() for line in file]
    assert len(rows) == n
    assert {len(row) for row in rows} <= {k + 1}
    return {row[0]: row[1:] for row in rows}


@pytest.mark.parametrize("dtype", DTYPES)
def test_word2vec(tmp_path, dtype):
    points = bits(dtype)[: len(NAMES)]
    write_word2vec(tmp_path / "a.vec", NAMES, points)
    found = read_word2vec(tmp_path / "a.vec")
    assert list(found) == ["Ås", "New_York", '"q"', "a'b,c;d", "x_y", "数", "_:[0]", "0"]
    assert same(list(found.values()), points)
    with pytest.raises(DataError, match=r"'a b' and 'a_b' are both 'a_b' in word2vec's format"):
        write_word2vec(tmp_path / "b.vec", ["a b", "a_b"], torch.zeros(2, 3))
    write_word2vec(tmp_path / "c.vec", [], torch.zeros(0, 3))
    assert (tmp_path / "c.vec").read_text() == "0 3\n"


@pytest.mark.parametrize("dtype", DTYPES)
def test_npz(tmp_path, dtype):
    points = bits(dtype)[: len(NAMES)]
    table = torch.arange(6.0).view(2, 3).requires_grad_()
    write_npz(tmp_path / "a.npz", NAMES, points, relations=["r"], manifold="PoincareBall(1)", **{"relation.y": table})
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == NAMES
        assert found["names"].dtype.kind == "U"
        assert torch.equal(torch.from_numpy(found["points"]).to(dtype), points)
        assert found["points"].dtype.itemsize == (4 if dtype == torch.bfloat16 else points.element_size())
        assert found["relation.y"].tolist() == [[0, 1, 2], [3, 4, 5]]
        assert found["manifold"].item() == "PoincareBall(1)"
        assert found["relations"].tolist() == ["r"]
    write_npz(tmp_path / "none.npz", [], torch.zeros(0, 2))
    with np.load(tmp_path / "none.npz", allow_pickle=False) as found:
        assert found["names"].shape == (0,)
        assert found["points"].shape == (0, 2)


@pytest.mark.parametrize("write", [write_tsv, write_word2vec, write_npz])
def test_bad_input(tmp_path, write):
    good = torch.zeros(2, 3)
    for names, points, error, message in (
        (["a"], good, ShapeError, r"\(n, k\), k > 0, for n = 1 names, got torch.float32 \(2, 3\)"),
        (["a", "b"], good[0], ShapeError, r"got torch.float32 \(3,\)"),
        (["a", "b"], good.long(), ShapeError, "got torch.int64"),
        (["a", "b"], good[:, :0], ShapeError, r"\(2, 0\)"),
        (["a", "a"], good, DataError, "2 points have the name 'a'"),
        (["a", "b\tc"], good, DataError, "cannot hold a tab"),
        (["a", " "], good, DataError, "cannot be blank"),
        (["a", 3], good, DataError, "expected a string, got int"),
        (
            ["a", "b"],
            good + torch.tensor([[0.0], [torch.nan]]),
            DomainError,
            "1 of 2 points .* the first is 'b', row 1",
        ),
        (["a", "b"], good + torch.inf, DomainError, "2 of 2 points"),
    ):
        with pytest.raises(error, match=message):
            write(tmp_path / "a", names, points)
    assert list(tmp_path.iterdir()) == []


def test_nothing_half_written(tmp_path, monkeypatch):
    path = tmp_path / "a.tsv"
    write_tsv(path, ["a"], torch.zeros(1, 2))
    before = path.read_bytes()

    def full_disk(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("geoembed.files.os.fsync", full_disk)
    for write in (write_tsv, write_word2vec, write_npz):
        with pytest.raises(OSError, match="No space"):
            write(path, ["b"], torch.ones(1, 2))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


# ----------------------------------------------------------------------------------------------------------- networkx


@pytest.mark.parametrize(
    ("manifold", "k"),
    [
        (PoincareBall(2.0), 2),
        (PoincareBall(), 3),
        (Lorentz(0.5), 3),
        (HalfSpace(), 2),
        (Euclidean(), 2),
        (Product([(PoincareBall(), 2), (Euclidean(), 1)]), 3),
    ],
    ids=repr,
)
def test_annotate(manifold, k):
    points = manifold.random(5, k, generator=torch.Generator().manual_seed(1), dtype=torch.float64).float()
    if isinstance(manifold, Lorentz):
        points = manifold.projx(points)
    graph = nx.path_graph(5, create_using=nx.DiGraph)  # nodes are numbers, their names are texts
    order = [3, 1, 4, 0, 2]
    annotate(graph, [str(i) for i in order], points, manifold, attribute="where")
    for row, node in enumerate(order):
        data = graph.nodes[node]
        assert data["where"] == points[row].tolist()
        # in orthonormal tangent coordinates the length is the distance from the origin
        assert data["radius"] == pytest.approx(manifold.to_tangent(points[row].double()).norm().item(), rel=1e-6)
        flat = isinstance(manifold, PoincareBall) and k == 2
        assert set(data) == {"where", "radius"} | ({"x", "y"} if flat else set())
        if flat:
            assert [data["x"], data["y"]] == points[row].tolist()
            assert type(data["x"]) is type(data["radius"]) is float


def test_annotate_some():
    points = torch.arange(6.0).view(3, 2)
    graph = nx.Graph([("a", "b"), ("c", "d")])
    with pytest.warns(DataWarning, match=r"2 of 4 nodes have no point, such as 'c'") as record:
        annotate(graph, ["b", "a", "z"], points)
    assert record[0].filename == __file__
    assert dict(graph.nodes(data=True)) == {"a": {"embedding": [2, 3]}, "b": {"embedding": [0, 1]}, "c": {}, "d": {}}
    with pytest.raises(DataError, match="none of the 4 nodes of the graph is among the 3 names"):
        annotate(graph, ["x", "y", "z"], points)
    with pytest.raises(ShapeError):
        annotate(graph, ["a"], points)


# --------------------------------------------------------------------------------------------------------- of a run


TRAIN = [
    ("Ås", "in", "Norway"),
    ("Oslo", "in", "Norway"),
    ("Oslo", "capital of", "Norway"),
    ("Norway", "borders", "<Sweden> & 'co'"),
    ("Oslo", "in", "Oslo"),
]
TEST = [("<Sweden> & 'co'", "borders", "Norway")]


def make_run(folder, train=TRAIN, test=TEST, **settings):
    Triples.from_triples(train, test=test).write(folder / "data")
    config = TrainConfig(data=str(folder / "data"), dim=2, **settings)
    triples = load_triples(config)
    run = Run.create(folder / "run", config, triples)
    run.save_model(build_model(config, triples.n_entities, triples.n_relations))
    return Run.open(folder / "run")


@pytest.fixture(scope="module", params=["float32", "float64"])
def run(request, tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("export"), dtype=request.param, curvature=1 / 3)


def test_export_text(run, tmp_path):
    points = run.model.points()
    assert run.config.dtype in str(points.dtype)
    export(run, tmp_path / "a.tsv")
    rows = [line.split("\t") for line in (tmp_path / "a.tsv").read_text(encoding="utf-8").splitlines()]
    assert [row[0] for row in rows] == run.entities
    assert same([row[1:] for row in rows], points)
    for name in ("a.vec", "a.TXT"):
        export(run, tmp_path / name)
        found = read_word2vec(tmp_path / name)
        assert list(found) == [name.replace(" ", "_") for name in run.entities]
        assert same(list(found.values()), points)
    export(run, tmp_path / "any.name", format="word2vec")
    assert (tmp_path / "any.name").read_bytes() == (tmp_path / "a.vec").read_bytes()


def test_export_npz(run, tmp_path):
    export(run, str(tmp_path / "a.npz"))
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["names"].tolist() == run.entities
        assert torch.equal(torch.from_numpy(found["points"]), run.model.points())
        assert found["relations"].tolist() == run.relations
        assert found["c"].item() == run.model.manifold.c.item()
        assert found["manifold"].item() == repr(run.model.manifold)
        tables = {name: found[name] for name in found.files if name.startswith("relation.")}
    assert set(tables) == {"relation.diagonal", "relation.translation"}
    for name, table in tables.items():
        assert len(table) == 2 * len(run.relations)
        assert torch.equal(torch.from_numpy(table), getattr(run.model, name.removeprefix("relation.")).detach())


@pytest.mark.parametrize(("suffix", "read"), [(".graphml", nx.read_graphml), (".gexf", nx.read_gexf)])
def test_export_graph(run, tmp_path, suffix, read):
    path = tmp_path / f"a{suffix}"
    export(run, path)
    graph = read(path)
    assert graph.is_directed()
    points = run.model.points()
    assert set(graph) == set(run.entities)
    assert same([graph.nodes[name]["embedding"].split(" ") for name in run.entities], points)
    assert [[graph.nodes[name][axis] for axis in "xy"] for name in run.entities] == points.tolist()
    radius = torch.tensor([graph.nodes[name]["radius"] for name in run.entities])
    assert torch.allclose(radius, run.model.manifold.to_tangent(points.double()).norm(dim=1).float(), rtol=1e-5)
    again = Triples.from_networkx(graph, split="split")
    for split in ("train", "valid", "test"):
        found, expected = again.names(again[split]), run.triples.names(run.triples[split])
        assert sorted(found) == sorted(expected)
    if suffix == ".graphml":
        ids = [key for *_, key in graph.edges(keys=True)]
        assert len(set(ids)) == len(ids) == len(TRAIN) + len(TEST)  # programs that know an edge by its id keep them all


def test_export_errors(run, tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown suffix '.tvs'. Did you mean '.tsv'\?") as error:
        export(run, tmp_path / "a.tvs")
    assert all(suffix in str(error.value) for suffix in SUFFIXES)
    with pytest.raises(UnknownNameError, match="unknown suffix 'plain'"):
        export(run, tmp_path / "plain")
    with pytest.raises(UnknownNameError, match="unknown format 'csv'") as error:
        export(run, tmp_path / "a.tsv", format="csv")
    assert all(name in str(error.value) for name in FORMATS)
    assert set(SUFFIXES.values()) == set(FORMATS)
    for suffix in SUFFIXES:
        with pytest.raises(CheckpointError, match=r"cannot write .*nowhere"):
            export(run, tmp_path / "nowhere" / f"a{suffix}")
    assert list(tmp_path.iterdir()) == []


def test_names_that_xml_cannot_hold(tmp_path):
    run = make_run(tmp_path, [("bell\a", "r", "b"), ("b", "r", "c")], [])
    for name in ("a.graphml", "a.gexf"):
        with pytest.raises(DataError, match=r"'bell\\x07' holds '\\x07', which XML cannot"):
            export(run, tmp_path / name)
        assert not (tmp_path / name).exists()
    export(run, tmp_path / "a.vec")
    assert list(read_word2vec(tmp_path / "a.vec"))[1] == "bell\a"


def test_flat_run(tmp_path):
    run = make_run(tmp_path, model="mure")
    export(run, tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz", allow_pickle=False) as found:
        assert found["manifold"].item() == "Euclidean()"
        assert "c" not in found.files


def test_untrained_run(run, tmp_path):
    folder = tmp_path / "run"
    Run.create(folder, run.config, run.triples)
    with pytest.raises(CheckpointError, match="is not trained to its end"):
        export(Run.open(folder), tmp_path / "a.tsv")
    assert not (tmp_path / "a.tsv").exists()
