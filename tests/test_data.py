"""Readers, graphs, filter, catalogue: what is read, what is refused and with which words."""

import gzip
import hashlib
import os
import time
import warnings

import networkx as nx
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoembed.data import Closure, Filter, Manifest, Triples, available, formats, load
from geoembed.data.builders import triple_keys
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.files import atomic_write

GRAPH = [("oslo", "in", "norway"), ("bergen", "in", "norway"), ("norway", "borders", "sweden")]


@pytest.fixture
def file(tmp_path):
    def write(content, name="graph.tsv"):
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return path

    return write


def random_graph(n_entities=30, n_relations=4, n=300, seed=0):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randint(k, (n,), generator=draw) for k in (n_entities, n_relations, n_entities)], 1)
    return Triples.from_triples([(f"e{h:02}", f"r{r}", f"e{t:02}") for h, r, t in rows.unique(dim=0).tolist()])


# ---------------------------------------------------------------------------------------------------------- reading


@pytest.mark.parametrize(
    ("content", "name", "options"),
    [
        ("oslo\tin\tnorway\nbergen\tin\tnorway\nnorway\tborders\tsweden\n", "a.tsv", {}),
        ("oslo\tin\tnorway\nbergen\tin\tnorway\nnorway\tborders\tsweden", "a.txt", {}),  # no line end at the end
        ("oslo\tin\tnorway\r\nbergen\tin\tnorway\r\nnorway\tborders\tsweden\r\n\r\n\n", "a.tsv", {}),
        ("\ufeffoslo\tin\tnorway\nbergen\tin\tnorway\nnorway\tborders\tsweden\n", "a.tsv", {}),
        ("oslo\tin\tnorway\nbergen\tin\tnorway\nnorway\tborders\tsweden\n", "a.tsv.gz", {}),
        ('oslo,"in",norway\nbergen,in,norway\nnorway,borders,"sweden"\n', "a.csv", {}),
        ("oslo,in,norway\nbergen,in,norway\nnorway,borders,sweden\n", "a.csv.gz", {}),
        ("oslo\tnorway\tin\nbergen\tnorway\tin\nnorway\tsweden\tborders\n", "a.tsv", {"columns": "htr"}),
        ("in|norway|oslo\nin|norway|bergen\nborders|sweden|norway\n", "a", {"columns": "rth", "separator": "|"}),
        ("x\ty\tz\noslo\tin\tnorway\nbergen\tin\tnorway\nnorway\tborders\tsweden\n", "a.tsv", {"header": True}),
    ],
)
def test_read(file, content, name, options):
    graph = Triples.from_files(file(content, name), **options)
    assert graph.names(graph.train) == GRAPH
    assert graph.entities == ["bergen", "norway", "oslo", "sweden"]
    assert graph.relations == ["borders", "in"]
    assert graph.name == "a"
    assert graph.counts() == {"entities": 4, "relations": 2, "train": 3, "valid": 0, "test": 0}


@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        ("a\tr\tb\na\tb\n", "g.tsv", r"g\.tsv:2: expected 3 columns head<TAB>relation<TAB>tail, got 2 in 'a\\tb'"),
        ("a\tr\tb\tc\n", "g.tsv", r"g\.tsv:1: .* got 4"),
        ("a,r,b\n", "g.tsv", r"g\.tsv:1: .* got 1 .*pass separator=','"),
        ("a\tr\tb\n", "g.csv", r"g\.csv:1: expected 3 columns head,relation,tail, got 1 .*<TAB>"),
        ("a\tr\tb\n\nc\tr\td\n", "g.tsv", r"g\.tsv:2: blank line"),
        ("", "g.tsv", r"g\.tsv: empty file, expected"),
        ("\n\r\n\n", "g.tsv", r"g\.tsv: empty file"),
        ("", "g.tsv.gz", r"g\.tsv\.gz: empty file"),
        ("a\tr\tb\na\t\tb\n", "g.tsv", r"g\.tsv:2: empty relation in"),
        ("a\tr\t \n", "g.tsv", r"g\.tsv:1: empty tail in"),
        ("a\tr\tb\na\tr\0\tb\n", "g.tsv", r"g\.tsv:2: a NUL character"),
        (b"a\tr\tb\nc\tr\td\ncaf\xe9\tr\tb\n", "g.tsv", r"g\.tsv:3: byte 0xe9 is not UTF-8"),
        ("a\tr\tb\rc\tr\td\n", "g.tsv", r"g\.tsv:1: a carriage return inside a line"),
        ('a,r,b\n"a,r,b\n', "g.csv", r"g\.csv:2: .*must end on its line"),
        ('a,r,"b\tc"\n', "g.csv", r"g\.csv:1: a tab inside a field"),
    ],
)
def test_bad_file(file, content, name, message):
    with pytest.raises(DataError, match=message):
        Triples.from_files(file(content, name))


def test_lines_are_counted_across_blocks(file, monkeypatch):
    monkeypatch.setattr(formats, "BLOCK_BYTES", 64)
    lines = [f"entity{i}\tr\tentity{i + 1}" for i in range(200)]
    good = Triples.from_files(file("\r\n".join(lines) + "\r\n" * 90, "good.tsv"))
    assert good.counts() == {"entities": 201, "relations": 1, "train": 200, "valid": 0, "test": 0}
    for number in (0, 1, 77, 199):
        bad = [*lines[:number], "oops", *lines[number + 1 :]]
        with pytest.raises(DataError, match=rf"bad\.tsv:{number + 1}: expected 3"):
            Triples.from_files(file("\n".join(bad), "bad.tsv"))
    with pytest.raises(DataError, match=r"header\.tsv:3: expected 3"):
        Triples.from_files(file("x\n" + lines[0] + "\noops\n", "header.tsv"), header=True)
    with pytest.raises(DataError, match=r"only\.tsv: nothing but a header, expected lines of 3 columns"):
        Triples.from_files(file("head\trelation\ttail\n", "only.tsv"), header=True)


def test_hostile_file(file, monkeypatch):
    bomb = file("a\tr\tb\n" * 100_000, "bomb.tsv.gz")
    with pytest.raises(DataError, match=r"bomb\.tsv\.gz: unpacks to more than 10,000 bytes; raise max_bytes"):
        Triples.from_files(bomb, max_bytes=10_000)
    with pytest.raises(DataError, match=r"more than 100 bytes"):
        Triples.from_files(file("a\tr\tb\n" * 100, "long.tsv"), max_bytes=100)
    packed = file("".join(f"a{i}\tr\tb\n" for i in range(1000)), "cut.tsv.gz")
    packed.write_bytes(packed.read_bytes()[:-50])
    with pytest.raises(DataError, match=r"cut\.tsv\.gz: damaged or truncated gzip"):
        Triples.from_files(packed)
    plain = file("a\tr\tb\n")
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        Triples.from_files(plain.rename(plain.with_suffix(".gz")))
    monkeypatch.setattr(formats, "BLOCK_BYTES", 100)
    monkeypatch.setattr(formats, "MAX_LINE_BYTES", 1000)
    for content in ("x" * 2000, "a\tr\tb\n" + "\n" * 2000 + "a\tr\tb\n"):
        with pytest.raises(DataError, match="longer than 1,000 bytes"):
            Triples.from_files(file(content))


def test_missing_file_names_what_exists(file, tmp_path):
    file("a\tr\tb\n", "train.tsv")
    with pytest.raises(DataError, match=r"tran\.tsv: no such file; .* holds: train\.tsv"):
        Triples.from_files(tmp_path / "tran.tsv")
    with pytest.raises(DataError, match="a folder, expected a file"):
        Triples.from_files(tmp_path)
    with pytest.raises(DataError, match="there is no folder"):
        Triples.from_folder(tmp_path / "nowhere")
    with pytest.raises(DataError, match="columns must be"):
        Triples.from_files(tmp_path / "train.tsv", columns="hhr")
    with pytest.raises(DataError, match="separator must be"):
        Triples.from_files(tmp_path / "train.tsv", separator="::")


def test_folder(file, tmp_path):
    file("a\tr\tb\n", "train.txt")
    file("b,r,a\n", "valid.csv")
    file("a\tr\ta\n", "test.tsv.gz")
    graph = Triples.from_folder(tmp_path)
    assert [graph.names(graph[split]) for split in ("train", "valid", "test")] == [
        [("a", "r", "b")],
        [("b", "r", "a")],
        [("a", "r", "a")],
    ]
    assert graph.name == tmp_path.name
    file("a\tr\tb\n", "train.tsv")
    with pytest.raises(DataError, match=r"train\.tsv and train\.txt both claim to be train"):
        Triples.from_folder(tmp_path)


def test_duplicates_and_leaks_are_counted(file):
    train = file("a\tr\tb\na\tr\tb\nb\tr\tc\na\tr\tb\n", "train.tsv")
    with pytest.warns(
        DataWarning, match=r"train: 2 of 4 duplicate triples dropped, such as \('a', 'r', 'b'\)"
    ) as record:
        graph = Triples.from_files(train)
    assert record[0].filename == __file__  # the warning points at the caller
    assert graph.names(graph.train) == [("a", "r", "b"), ("b", "r", "c")]
    with pytest.warns(DataWarning, match="test: 1 of 2 triples also stand in an earlier split"):
        graph = Triples.from_triples(GRAPH, test=[GRAPH[0], ("sweden", "in", "europe")])
    assert len(graph.test) == 2
    assert [graph.entities[i] for i in graph.unseen("test")] == ["europe"]
    assert graph.has_unseen("test").tolist() == [False, True]
    assert graph.unseen("train").tolist() == graph.unseen("valid").tolist() == []


def test_large_vocabularies_do_not_overflow():
    rows = torch.tensor([[2**40, 2**20, 5], [2**40, 2**20, 6], [2**40, 2**20, 5], [2**40 - 1, 2**20, 5]])
    keys = triple_keys(rows, 2**41, 2**21).tolist()
    assert keys[0] == keys[2]
    assert len(set(keys)) == 3


# ----------------------------------------------------------------------------------------------------------- graphs


def test_file_order_changes_no_id(file):
    lines = [f"e{i * 7 % 31}\tr{i % 3}\te{i * 5 % 29}" for i in range(60)]
    one = Triples.from_files(file("\n".join(lines), "a.tsv"), name="g")
    other = Triples.from_files(file("\n".join(reversed(lines)), "b.tsv"), name="g")
    assert one.entities == other.entities == sorted(one.entities)
    assert set(map(tuple, one.train.tolist())) == set(map(tuple, other.train.tolist()))
    assert one.fingerprint() != other.fingerprint()  # training batches differ


def test_fingerprint():
    graph = Triples.from_triples(GRAPH)
    assert graph.fingerprint() == Triples.from_triples(GRAPH, name="another name").fingerprint()
    pinned = "baf0ff3af739f94c5d481237543f599d1b6e948367c4d6b4a4757dd391b6bb28"
    assert graph.fingerprint() == pinned  # checkpoints hold it: a change of format needs a new version
    others = [Triples.from_triples(GRAPH[:2]), Triples.from_triples(GRAPH[:2], test=GRAPH[2:])]
    others.append(Triples.from_triples([("oslo!", "in", "norway"), *GRAPH[1:]]))
    assert len({graph.fingerprint(), *(other.fingerprint() for other in others)}) == 4


def test_smallest_graph():
    graph = Triples.from_triples([("a", "r", "a")])
    assert graph.counts() == {"entities": 1, "relations": 1, "train": 1, "valid": 0, "test": 0}
    assert graph.with_inverses().tolist() == [[0, 0, 0], [0, 1, 0]]
    assert repr(graph) == "Triples('triples': 1 entities, 1 relations, train 1, valid 0, test 0)"


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "train has no triples"),
        ([("a", "r")], r"train triple 0: expected three strings .* got \('a', 'r'\)"),
        ([("a", "r", "b"), "arb"], "train triple 1"),
        ([("a", "r", 3)], "train triple 0"),
        ([("a", "r", "")], "cannot be blank"),
        ([("a", "r\tr", "b")], "cannot hold a tab"),
        ([("a", "r", "b\ud800")], "lone surrogate"),
    ],
)
def test_bad_triples(rows, message):
    with pytest.raises(DataError, match=message):
        Triples.from_triples(rows)


def test_bad_tensors():
    none = torch.empty(0, 3, dtype=torch.int64)
    with pytest.raises(DataError, match="sorted"):
        Triples(["b", "a"], ["r"], none, none, none)
    with pytest.raises(DataError, match="differ"):
        Triples(["a", "a"], ["r"], none, none, none)
    with pytest.raises(ShapeError, match=r"valid: expected int64 \(n, 3\), got torch.float32"):
        Triples(["a"], ["r"], none, none.float(), none)
    for row, what in (([1, 0, 0], "head"), ([0, 1, 0], "relation"), ([0, 0, -1], "tail")):
        with pytest.raises(DomainError, match=f"test {what} ids must lie in"):
            Triples(["a"], ["r"], none, none, torch.tensor([row]))


def test_names_and_ids():
    graph = Triples.from_triples(GRAPH)
    assert graph.entity_ids["norway"] == 1
    assert graph.relation_ids["in"] == 1
    with pytest.raises(UnknownNameError, match=r"unknown entity 'norwei'. Did you mean 'norway'"):
        graph.entity_ids["norwei"]
    with pytest.raises(UnknownNameError, match="unknown split"):
        graph["dev"]


NAMES = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n\r"), min_size=1, max_size=6).filter(
    lambda name: name.strip()
)
ROWS = st.lists(st.tuples(NAMES, NAMES, NAMES), max_size=8, unique=True)


@settings(max_examples=60, deadline=None)
@given(train=ROWS.filter(len), valid=ROWS, test=ROWS, suffix=st.sampled_from([".tsv", ".csv", ".txt.gz", ".csv.gz"]))
def test_write_then_read(tmp_path_factory, train, valid, test, suffix):
    folder = tmp_path_factory.mktemp("graph")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)  # the same triple in two splits
        graph = Triples.from_triples(train, valid, test)
        graph.write(folder, suffix)
        again = Triples.from_folder(folder)
    assert again.entities == graph.entities
    assert again.relations == graph.relations
    assert again.fingerprint() == graph.fingerprint()
    assert graph.names(graph.train) == train
    assert graph.entities == sorted({name for h, _, t in [*train, *valid, *test] for name in (h, t)})
    counted = graph.with_inverses("valid")
    assert counted.shape == (2 * len(valid), 3)


def test_write_is_the_same_each_time_and_keeps_other_splits(tmp_path):
    graph = Triples.from_triples(GRAPH[:2], test=GRAPH[2:])
    graph.write(tmp_path, ".tsv.gz")
    first = (tmp_path / "train.tsv.gz").read_bytes()
    graph.write(tmp_path, ".tsv.gz")
    assert (tmp_path / "train.tsv.gz").read_bytes() == first
    with pytest.raises(DataError, match=r"holds splits of another graph: test\.tsv\.gz"):
        Triples.from_triples(GRAPH).write(tmp_path, ".tsv.gz")
    with pytest.raises(DataError, match="suffix must be one of"):
        graph.write(tmp_path, ".parquet")


def test_split_covers_everything():
    graph = random_graph()
    total = len(graph.train)
    parts = graph.split(valid=0.2, test=25, generator=torch.Generator().manual_seed(3))
    assert parts.counts() == graph.counts() | {
        "train": total - 25 - round(0.2 * total),
        "valid": round(0.2 * total),
        "test": 25,
    }
    assert len(parts.train[:, [0, 2]].unique()) == graph.n_entities
    assert len(parts.train[:, 1].unique()) == graph.n_relations
    together = torch.cat([parts.train, parts.valid, parts.test])
    assert sorted(together.tolist()) == sorted(graph.train.tolist())
    again = graph.split(valid=0.2, test=25, generator=torch.Generator().manual_seed(3))
    assert parts.fingerprint() == again.fingerprint()
    assert parts.fingerprint() != graph.split(0.2, 25, torch.Generator().manual_seed(4)).fingerprint()
    with pytest.raises(DataError, match="split already"):
        parts.split()


def test_split_that_cannot_be():
    star = Triples.from_triples([("hub", "r", f"leaf{i}") for i in range(10)] + [("leaf1", "r", "leaf2")])
    with pytest.raises(DataError, match=r"asked for 2 valid and 1 test triples, but only [12] of 11 can be held out"):
        star.split(2, 1)
    loop = Triples.from_triples([("a", "r", "a"), ("b", "r", "b"), ("b", "r", "c")])
    assert loop.split(valid=1, test=0).names(loop.split(valid=1, test=0).valid) == [("b", "r", "b")]
    for bad in (-0.1, 1.0, float("nan"), True, -1, "1"):
        with pytest.raises(DomainError, match="valid must be a share"):
            star.split(valid=bad)


def test_networkx_both_ways():
    graph = random_graph().split(generator=torch.Generator().manual_seed(0))
    there = graph.to_networkx()
    assert there.number_of_edges() == sum(len(graph[split]) for split in ("train", "valid", "test"))
    back = Triples.from_networkx(there, split="split")
    assert back.entities == graph.entities
    assert back.relations == graph.relations
    for split in ("train", "valid", "test"):
        assert sorted(back[split].tolist()) == sorted(graph[split].tolist())


def test_networkx_inputs():
    plain = nx.DiGraph()
    plain.add_edge(1, 2, kind="x")
    assert Triples.from_networkx(plain, relation="kind").names(torch.tensor([[0, 0, 1]])) == [("1", "x", "2")]
    assert Triples.from_networkx(plain, default="edge").relations == ["edge"]
    with pytest.raises(
        DataError, match=r"edge 1 -> 2: expected a string in the attribute 'relation', got None; set it"
    ):
        Triples.from_networkx(plain)
    multi = nx.MultiDiGraph()
    multi.add_edge("a", "b", key="likes")
    multi.add_edge("a", "b", relation="knows")
    assert Triples.from_networkx(multi).relations == ["knows", "likes"]
    multi.add_edge("a", "b")  # its key is a number
    with pytest.raises(DataError, match="got None"):
        Triples.from_networkx(multi)
    with pytest.raises(DataError, match=r"undirected graph have no head and tail; pass graph\.to_directed\(\)"):
        Triples.from_networkx(nx.path_graph(3))
    with pytest.raises(DataError, match="must be one of train, valid, test; got None"):
        Triples.from_networkx(plain, relation="kind", split="part")
    plain.add_node(9)
    with pytest.warns(DataWarning, match="1 nodes without an edge"):
        Triples.from_networkx(plain, relation="kind")
    plain.add_edge("1", 2, kind="x")
    with pytest.raises(DataError, match="same str"):
        Triples.from_networkx(plain, relation="kind")


# ----------------------------------------------------------------------------------------------------------- filter


@settings(max_examples=40, deadline=None)
@given(
    n_entities=st.integers(1, 6),
    n_relations=st.integers(1, 3),
    n=st.integers(0, 40),
    n_queries=st.integers(0, 30),
    seed=st.integers(0, 1000),
)
def test_filter_is_the_brute_force_one(n_entities, n_relations, n, n_queries, seed):
    draw = torch.Generator().manual_seed(seed)
    rows = torch.stack([torch.randint(k, (n,), generator=draw) for k in (n_entities, n_relations, n_entities)], 1)
    known = {}
    for h, r, t in rows.tolist():
        known.setdefault((h, r), set()).add(t)
        known.setdefault((t, r + n_relations), set()).add(h)
    heads = torch.randint(n_entities, (n_queries,), generator=draw)
    relations = torch.randint(2 * n_relations, (n_queries,), generator=draw)
    found = Filter.from_triples(rows, n_relations).tails(heads, relations)
    expected = [
        (i, t)
        for i, query in enumerate(zip(heads.tolist(), relations.tolist(), strict=True))
        for t in sorted(known.get(query, ()))
    ]
    assert list(zip(found[0].tolist(), found[1].tolist(), strict=True)) == expected
    assert found[0].dtype == found[1].dtype == torch.int64


def test_filter_of_a_graph():
    graph = Triples.from_triples(GRAPH, test=[("oslo", "borders", "bergen")])
    oslo, bergen = graph.entity_ids["oslo"], graph.entity_ids["bergen"]
    query = torch.tensor([oslo]), torch.tensor([graph.relation_ids["borders"]])
    assert graph.known().tails(*query)[1].tolist() == [bergen]
    assert graph.known("train", "valid").tails(*query)[1].tolist() == []
    heads = graph.known().tails(torch.tensor([graph.entity_ids["norway"]]), torch.tensor([1 + graph.n_relations]))
    assert heads[1].tolist() == [bergen, oslo]
    with pytest.raises(DomainError, match="relation ids must lie in"):
        graph.known().tails(torch.tensor([0]), torch.tensor([4]))
    with pytest.raises(ShapeError, match="expected heads and relations"):
        graph.known().tails(torch.tensor([0, 1]), torch.tensor([0]))
    assert repr(graph.known()) == "Filter(7 queries, 8 answers)"


def test_filter_is_fast():
    draw = torch.Generator().manual_seed(0)
    rows = torch.stack([torch.randint(k, (90_000,), generator=draw) for k in (40_000, 11, 40_000)], 1)
    known = Filter.from_triples(rows, 11)
    heads, relations = rows[:6268, 0], rows[:6268, 1]
    known.tails(heads, relations)
    took = []
    for _ in range(5):
        start = time.process_time()
        known.tails(heads, relations)
        took.append(time.process_time() - start)
    assert min(took) < 0.1  # measured: 3 ms on one core


# --------------------------------------------------------------------------------------------------------- closures


def test_closure(file, tmp_path):
    closure = Closure.from_file(file("dog\tanimal\ndog\tcanine\ncanine\tanimal\n", "dogs.tsv"))
    assert closure.nodes == ["animal", "canine", "dog"]
    assert closure.pairs.tolist() == [[2, 0], [2, 1], [1, 0]]
    assert repr(closure) == "Closure('dogs': 3 nodes, 3 pairs)"
    closure.write(tmp_path / "again.csv.gz")
    assert Closure.from_file(tmp_path / "again.csv.gz").fingerprint() == closure.fingerprint()
    with pytest.warns(DataWarning, match="1 of 3 pairs are duplicates"):
        assert Closure.from_pairs([("a", "b"), ("a", "b"), ("b", "c")]).counts() == {"nodes": 3, "pairs": 2}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a\tb\tc\n", r"h\.tsv:1: expected 2 columns child<TAB>ancestor, got 3"),
        ("a\tb\nc\tc\n", "1 pairs make a node its own ancestor, the first: 'c'"),
        ("", "empty file"),
    ],
)
def test_bad_closure(file, content, message):
    with pytest.raises(DataError, match=message):
        Closure.from_file(file(content, "h.tsv"))


def test_bad_pairs():
    for rows, message in (([], "at least one"), ([("a",)], "pair 0: expected two"), ([("a", " ")], "blank")):
        with pytest.raises(DataError, match=message):
            Closure.from_pairs(rows)
    with pytest.raises(DataError, match="sorted"):
        Closure(["b", "a"], torch.tensor([[0, 1]]))
    with pytest.raises(DataError, match=r"ids must lie in \[0, 2\)"):
        Closure(["a", "b"], torch.tensor([[0, 2]]))
    with pytest.raises(ShapeError, match="pairs: expected int64"):
        Closure(["a", "b"], torch.tensor([0, 1]))


# -------------------------------------------------------------------------------------------------------- catalogue


def make_set(folder, name="tiny", task="triples", replace=()):
    """A data set with a manifest, in which each (old, new) text of `replace` is replaced."""
    folder = folder / name
    folder.mkdir(parents=True)
    files = {"LICENSE": b"free\n"} | (
        {"train.tsv": b"a\tr\tb\n", "test.tsv": b"b\tr\ta\n"} if task == "triples" else {"pairs.tsv": b"a\tb\n"}
    )
    counts = {"triples": "entities=2\nrelations=1\ntrain=1\nvalid=0\ntest=1", "closure": "nodes=2\npairs=1"}[task]
    text = f'name="{name}"\ntitle="t"\ndescription="d"\ntask="{task}"\nsource="s"\n[counts]\n{counts}\n'
    text += '[licence]\nname="none"\nfile="LICENSE"\n'
    for file, data in files.items():
        (folder / file).write_bytes(data)
        text += f'[files."{file}"]\nsize={len(data)}\nsha256="{hashlib.sha256(data).hexdigest()}"\n'
    for old, new in replace:
        assert old in text
        text = text.replace(old, new)
    (folder / "manifest.toml").write_text(text)
    return folder


@pytest.fixture
def own(tmp_path, monkeypatch):
    monkeypatch.setenv("GEOEMBED_DATA", str(tmp_path / "own"))
    (tmp_path / "own").mkdir()
    return tmp_path / "own"


def test_load_by_manifest(own):
    make_set(own)
    make_set(own, "hierarchy", "closure")
    assert load("tiny").counts() == {"entities": 2, "relations": 1, "train": 1, "valid": 0, "test": 1}
    assert load("tiny").name == "tiny"
    assert repr(load("hierarchy")) == "Closure('hierarchy': 2 nodes, 1 pairs)"
    assert {"tiny", "hierarchy"} < set(available())
    assert available()["tiny"].licence == ("none", "LICENSE")


def test_load_without_manifest(own, file, tmp_path, monkeypatch):
    for folder in (own / "plain", own / "kg" / "deep"):
        Triples.from_triples(GRAPH).write(folder, ".txt.gz")
        assert load(folder.name).counts()["train"] == load(folder).counts()["train"] == 3
    (own / "wordnet").mkdir()
    Closure.from_pairs([("a", "b")]).write(own / "wordnet" / "tree.tsv.gz")
    assert repr(load("tree")) == "Closure('tree': 2 nodes, 1 pairs)"
    assert isinstance(load(file("a\tr\tb\n", "graph.txt")), Triples)
    assert isinstance(load(str(file("a,b\n", "pairs.csv"))), Closure)
    with pytest.raises(
        UnknownNameError, match=r"unknown data set 'plan'. Did you mean 'plain'\? Known: deep, plain, tree"
    ):
        load("plan")
    monkeypatch.delenv("GEOEMBED_DATA")
    with pytest.raises(UnknownNameError):
        load("plain")
    monkeypatch.chdir(own)
    assert load("plain").counts()["train"] == 3  # a folder here
    with pytest.raises(DataError, match=r"holds: deep/"):
        load("kg/other")
    with pytest.raises(DataError, match=r"no such file or folder"):
        load("graph2.tsv")


@pytest.mark.parametrize("name", ["../secret", "kg/../../secret", "..", "", "secret/"])
def test_names_do_not_leave_the_data_folder(own, name, monkeypatch, tmp_path):
    make_set(own.parent, "secret")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "here" / "empty")  # such a name is a path from here, never one from the data folder
    with pytest.raises(DataError):
        load(name)


@pytest.mark.parametrize(
    "name", ["../secret.tsv", "/etc/passwd", "a/b.tsv", "..", "sub\\\\train.tsv", ".hidden", "", "train.tsv\\u0000"]
)
def test_a_manifest_does_not_leave_its_folder(own, name):
    make_set(own, replace=[('[files."train.tsv"]', f'[files."{name}"]')])
    with pytest.raises(
        DataError,
        match=r"is not the plain name of a file in this folder|manifest\.toml: .*escape|manifest\.toml: Illegal",
    ):
        load("tiny")


@pytest.mark.parametrize(
    ("replace", "message"),
    [
        (("entities=2", "entities=3"), r"counts are {'entities': 2, .*its manifest says {'entities': 3"),
        (("size=6", "size=7"), r"train\.tsv: has 6 bytes, its manifest says 7"),
        (('task="triples"', 'task="images"'), "task must be one of triples, closure; got 'images'"),
        (('title="t"', "title=3"), "expected title = str, got 3"),
        (('title="t"\n', ""), "expected title = str, got nothing"),
        (("train=1", "train=true"), "expected train = int, got True"),
        (('file="LICENSE"', 'file="COPYING"'), "licence file 'COPYING' is not among the files"),
        (('[files."LICENSE"]', '[files."LICENSES"]'), "licence file 'LICENSE' is not among"),
        (('[files."test.tsv"]', '[files."best.tsv"]'), r"best\.tsv: cannot be read .*holds: LICENSE, manifest.toml"),
        (("[counts]", "[counts"), r"manifest\.toml: .*line"),
    ],
)
def test_bad_manifest(own, replace, message):
    make_set(own, replace=[replace])
    with pytest.raises(DataError, match=message):
        load("tiny")


def test_changed_file(own):
    folder = make_set(own)
    (folder / "test.tsv").write_bytes(b"a\tr\ta\n")
    with pytest.raises(DataError, match=r"test\.tsv: its SHA-256 is .*restore the file"):
        load("tiny")
    make_set(own, "other")
    (own / "other" / "valid.tsv").write_text("a\tr\ta\n")
    with pytest.raises(DataError, match="must list the files of all splits"):
        load("other")
    with pytest.raises(DataError, match=r"manifest\.toml: no such file"):
        Manifest.read(own)


# ------------------------------------------------------------------------------------------------------------ files


def test_atomic_write(tmp_path):
    path = tmp_path / "out.txt"
    with atomic_write(path) as file:
        file.write("one\n")
        assert not path.exists()
    assert path.read_bytes() == b"one\n"
    path.chmod(0o600)
    with atomic_write(path, "wb") as file:
        file.write(b"two")
    assert path.read_bytes() == b"two"
    assert path.stat().st_mode & 0o777 == 0o600
    with pytest.raises(TypeError), atomic_write(path) as file:
        file.writelines(["three", 4])
    assert path.read_bytes() == b"two"
    assert os.listdir(tmp_path) == ["out.txt"]
    link = tmp_path / "link"
    link.symlink_to(path)
    with atomic_write(link) as file:
        file.write("four")
    assert link.is_symlink()
    assert path.read_text() == "four"
    with pytest.raises(ValueError, match="mode must be"), atomic_write(path, "a"):
        pass


def test_a_failed_write_leaves_nothing(tmp_path):
    with pytest.raises(DataError, match="it holds the separator"):
        formats.write_rows(tmp_path / "a.txt", [("x y", "r", "z")], separator=" ")
    assert os.listdir(tmp_path) == []
