"""RDF: each format gives the triples that a person reads in it, and a file that is not RDF is refused at its line."""

import gzip
import random
import sys
import warnings

import pytest

from geoembed.data import Triples, builders, load, rdf
from geoembed.errors import DataError, DataWarning, MissingDependencyError, UnknownNameError

needs_pyoxigraph = pytest.mark.usefixtures("pyoxigraph")

GEO = {"g": "http://geo.example/", "p": "http://geo.example/p/"}
EXPECTED = {("g:oslo", "p:in", "g:norway"), ("g:norway", "p:borders", "g:sverige/ä"), ("_:x", "p:in", "g:oslo")}
FILES = {
    "nt": """# a comment
<http://geo.example/oslo> <http://geo.example/p/in> <http://geo.example/norway> .

<http://geo.example/norway> <http://geo.example/p/borders> <http://geo.example/sverige/\\u00E4> .
_:x <http://geo.example/p/in> <http://geo.example/oslo> .
""",
    "nq": """<http://geo.example/oslo> <http://geo.example/p/in> <http://geo.example/norway> <http://g/1> .
<http://geo.example/norway> <http://geo.example/p/borders> <http://geo.example/sverige/ä> <http://g/2> .
_:x <http://geo.example/p/in> <http://geo.example/oslo> .
""",
    "ttl": """@prefix : <http://geo.example/> . @prefix q: <http://geo.example/p/> .
:oslo q:in :norway . :norway q:borders <http://geo.example/sverige/ä> .
_:x q:in :oslo .
""",
    "trig": """@prefix : <http://geo.example/> . @prefix q: <http://geo.example/p/> .
<http://g/1> { :oslo q:in :norway } <http://g/2> { :norway q:borders <http://geo.example/sverige/ä> }
_:x q:in :oslo .
""",
    "rdf": """<?xml version="1.0" encoding="utf-8"?>
<rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#" xmlns:q="http://geo.example/p/">
<rdf:Description rdf:about="http://geo.example/oslo"><q:in rdf:resource="http://geo.example/norway"/></rdf:Description>
<rdf:Description rdf:about="http://geo.example/norway"><q:borders rdf:resource="http://geo.example/sverige/ä"/>
</rdf:Description>
<rdf:Description rdf:nodeID="x"><q:in rdf:resource="http://geo.example/oslo"/></rdf:Description>
</rdf:RDF>
""",
}


@pytest.fixture(scope="session")
def pyoxigraph():
    return pytest.importorskip("pyoxigraph", reason='needs the extra: pip install "geoembed[rdf]"')


@pytest.fixture
def file(tmp_path):
    def write(content, name="graph.nt"):
        path = tmp_path / name
        content = content.encode() if isinstance(content, str) else content
        path.write_bytes(gzip.compress(content, mtime=0) if name.endswith(".gz") else content)
        return path

    return write


def nt(*rows):
    return "".join(" ".join(x if x[0] in '_"' else f"<{x}>" for x in row) + " .\n" for row in rows)


def named(graph, split="train"):
    return graph.names(graph[split])


# ---------------------------------------------------------------------------------------------------------- reading


@needs_pyoxigraph
@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("name", FILES)
def test_formats(file, name, packed):
    path = file(FILES[name], f"geo.{name}{packed}")
    graph = Triples.from_rdf(path, prefixes=GEO)
    assert set(named(graph)) == EXPECTED
    assert graph.name == "geo"
    assert load(path).counts() == graph.counts()
    full = {(h.replace("g:", GEO["g"]), r.replace("p:", GEO["p"]), t.replace("g:", GEO["g"])) for h, r, t in EXPECTED}
    assert set(named(load(path))) == full
    other = path.rename(path.with_name("other" + packed))
    assert Triples.from_rdf(other, format=name, prefixes=GEO).fingerprint() == graph.fingerprint()
    with pytest.raises(DataError, match=r"other.*: its name does not tell the format; pass format= \(nt, nq, ttl"):
        Triples.from_rdf(other)


@needs_pyoxigraph
@pytest.mark.parametrize("form", FILES)
def test_byte_order_mark_and_windows_lines(file, form):
    path = file("\ufeff" + FILES[form].replace("\n", "\r\n"), f"a.{form}")
    assert set(named(Triples.from_rdf(path, prefixes=GEO))) == EXPECTED


@needs_pyoxigraph
def test_random_graph_in_blocks(file, monkeypatch):
    """The same rows as names, and as files that are read block by block."""
    monkeypatch.setattr(rdf, "BLOCK_ROWS", 7)
    draw = random.Random(0)
    rows = list({(f"e:{draw.randrange(40)}", f"r:{draw.randrange(5)}", f"e:{draw.randrange(40)}") for _ in range(300)})
    parts = {"train": rows[:200], "valid": rows[200:230], "test": rows[230:]}
    files = [file(nt(*part), f"{split}.nt") for split, part in parts.items()]
    expected = Triples.from_triples(*parts.values())
    assert Triples.from_rdf(*files).fingerprint() == expected.fingerprint()
    assert load(str(files[0].parent)).fingerprint() == expected.fingerprint()
    folder = Triples.from_folder(files[0].parent, prefixes={"x": "e:1"})
    assert sorted(folder.entities) == sorted(e.replace("e:1", "x:") for e in expected.entities)


@needs_pyoxigraph
def test_duplicates_and_splits(file):
    one, two = ("http://a", "http://r", "http://b"), ("http://b", "http://r", "http://c")
    train = file(nt(one, two, one), "train.nt")
    with pytest.warns(DataWarning, match="train: 1 of 3 duplicate triples dropped") as record:
        graph = Triples.from_rdf(train)
    assert record[0].filename == __file__
    assert named(graph) == [one, two]
    train = file(nt(one, two), "train.nt")
    test = file(nt(("http://c", "http://r", "http://new")), "test.ttl.gz")
    graph = Triples.from_rdf(train, test=test, name="mine")
    assert repr(graph) == "Triples('mine': 4 entities, 1 relations, train 2, valid 0, test 1)"
    assert load(train.parent).fingerprint() == graph.fingerprint()


# ------------------------------------------------------------------------------------------------------------- names


@needs_pyoxigraph
def test_literals(file):
    rows = nt(
        ("http://a/oslo", "http://a/name", '"Os\\"lo\\t\\n"@no'),
        ("http://a/oslo", "http://a/people", '"7"^^<http://www.w3.org/2001/XMLSchema#integer>'),
        ("http://a/oslo", "http://a/in", "http://a/norway"),
    )
    with pytest.warns(
        DataWarning, match="train: left out 2 triples with a literal as object; literals='keep' keeps them"
    ) as record:
        graph = Triples.from_rdf(file(rows), prefixes={"": "http://a/"})
    assert record[0].filename == __file__
    assert named(graph) == [(":oslo", ":in", ":norway")]
    assert graph.relations == [":in"]
    graph = Triples.from_rdf(file(rows), prefixes={"": "http://a/"}, literals="keep")
    assert named(graph) == [
        (":oslo", ":name", '"Os\\"lo\\t\\n"@no'),
        (":oslo", ":people", '"7"^^<http://www.w3.org/2001/XMLSchema#integer>'),
        (":oslo", ":in", ":norway"),
    ]
    graph.write(file("").parent / "again")  # such names fit into a table
    assert Triples.from_folder(file("").parent / "again").fingerprint() == graph.fingerprint()
    only = nt(("http://a/oslo", "http://a/name", '"Oslo"'))
    with pytest.raises(DataError, match=r"only\.nt: no triples but 1 triples with a literal as object"):
        Triples.from_rdf(file(only, "only.nt"))
    with pytest.raises(UnknownNameError, match=r"unknown value of literals 'drop'.*Known: keep, skip"):
        Triples.from_rdf(file(rows), literals="drop")


@needs_pyoxigraph
@pytest.mark.parametrize(
    ("iri", "prefixes", "name"),
    [
        ("http://a/b/c", None, "http://a/b/c"),
        ("http://a/b/c", {}, "http://a/b/c"),
        ("http://a/b/c", {"x": "http://a/", "y": "http://a/b/"}, "y:c"),
        ("http://a/b/c", {"y": "http://a/b/", "x": "http://a/"}, "y:c"),
        ("http://a/b/c", {"": "http://a/b/c"}, ":"),
        ("http://a/b/c", {"x": "http://aab"}, "http://a/b/c"),
        ("http://a.b/c", {"x": "http://a.b/"}, "x:c"),
        ("http://aXb/c", {"x": "http://a.b/"}, "http://aXb/c"),  # a dot is a dot
        ("http://a/http://a/b", {"x": "http://a/"}, "x:http://a/b"),
        ("urn:isbn:1", {"urn": "urn:"}, "urn:isbn:1"),
    ],
)
def test_prefixes(file, iri, prefixes, name):
    graph = Triples.from_rdf(file(nt((iri, "http://r", "other:x"))), prefixes=prefixes)
    assert named(graph)[0][0] == name


@needs_pyoxigraph
def test_bad_prefixes(file):
    """Two IRIs never get one name."""
    path = file(nt(("http://a/b", "urn:r", "x:b")))
    with pytest.raises(DataError, match="prefixes: 'x' is also how x:b starts, which it does not shorten; rename it"):
        Triples.from_rdf(path, prefixes={"x": "http://a/"})
    for prefixes in ({"_": "http://a/"}, {"a:b": "http://a/"}, {"a b": "http://a/"}, {"a": ""}, {'"': "http://a/"}):
        with pytest.raises(DataError, match="prefixes: expected letters, digits"):
            Triples.from_rdf(path, prefixes=prefixes)


@needs_pyoxigraph
def test_blank_nodes(file):
    one = file("@prefix : <http://a/> . :a :r [ :s [ :s :b ] ] . _:x :r :a . :l :r (:b) .", "one.ttl")
    two = file("@prefix : <http://a/> . :a :r [ :s :b ] . _:x :s :b .", "two.ttl")
    graphs = [Triples.from_rdf(one, two, prefixes={"": "http://a/"}) for _ in range(3)]
    assert len({graph.fingerprint() for graph in graphs}) == 1  # the parser draws names at random
    assert graphs[0].entities == [
        ":a",
        ":b",
        ":l",
        "_:[0]",
        "_:[1]",
        "_:[2]",
        "_:[3]",
        "_:x",
        "http://www.w3.org/1999/02/22-rdf-syntax-ns#nil",
    ]
    assert {tail for head, relation, tail in named(graphs[0]) if (head, relation) == ("_:x", ":r")} == {":a"}
    assert {row for row in named(graphs[0], "valid") if row[0] == "_:x"} == {("_:x", ":s", ":b")}
    ends = [{e for h, _, t in named(graphs[0], s) for e in (h, t) if e.startswith("_:[")} for s in ("train", "valid")]
    assert len(ends[0]) == 3
    assert len(ends[1]) == 1
    assert not ends[0] & ends[1]
    written = "_:" + "fade" * 8  # in N-Triples each blank node has a label, this one too
    assert named(Triples.from_rdf(file(nt((written, "http://r", "_:y"))))) == [(written, "http://r", "_:y")]
    xml = FILES["rdf"].replace('rdf:nodeID="x"', "")
    graphs = [Triples.from_rdf(file(xml, "a.rdf"), prefixes=GEO) for _ in range(2)]
    assert graphs[0].fingerprint() == graphs[1].fingerprint()
    assert set(named(graphs[0])) == EXPECTED - {("_:x", "p:in", "g:oslo")} | {("_:[0]", "p:in", "g:oslo")}


@needs_pyoxigraph
@pytest.mark.parametrize("form", ["nq", "trig"])
def test_named_graphs(file, form):
    path = file(FILES[form], f"a.{form}")
    graph = Triples.from_rdf(path, prefixes=GEO, graph="http://g/2")
    assert named(graph) == [("g:norway", "p:borders", "g:sverige/ä")]
    with pytest.raises(DataError, match=r"a\.\w+: no triples in the graph http://g/3$"):
        Triples.from_rdf(path, graph="http://g/3")
    with pytest.raises(DataError, match="graph: expected an IRI in full, got 'g3'"):
        Triples.from_rdf(path, graph="g3")


@needs_pyoxigraph
def test_base(file):
    path = file("<a> <r> <#b> .", "a.ttl")
    assert named(Triples.from_rdf(path, base="http://x/y")) == [("http://x/a", "http://x/r", "http://x/y#b")]
    with pytest.raises(DataError, match=r"a\.ttl:1: .*No scheme found"):
        Triples.from_rdf(path)
    with pytest.raises(DataError, match="base: expected an IRI in full, got 'y'"):
        Triples.from_rdf(path, base="y")


@needs_pyoxigraph
def test_quoted_triples_count_as_literals(file):
    path = file(
        "<http://a> <http://r> <<( <http://a> <http://r> <http://b> )>> .\n" + nt(("http://a", "http://r", "_:b"))
    )
    with pytest.warns(DataWarning, match="left out 1 triples"):
        assert named(Triples.from_rdf(path)) == [("http://a", "http://r", "_:b")]


# -------------------------------------------------------------------------------------------------------- bad files

GOOD = nt(("http://a", "http://r", "http://b"))


@needs_pyoxigraph
@pytest.mark.parametrize(
    ("content", "name", "message"),
    [
        (GOOD * 2 + "oops\n", "g.nt", r"g\.nt:3: "),
        (GOOD * 5000 + "<http://a> <http://r> .\n" + GOOD, "g.nt", r"g\.nt:5001: "),
        (GOOD * 2 + "oops\n", "g.nt.gz", r"g\.nt\.gz:3: "),
        (GOOD + "<http://a> <http://r> <http://b c> .\n", "g.nq", r"g\.nq:2: .*Invalid IRI"),
        ("a\tr\tb\n", "g.nt", r"g\.nt:1: "),
        (GOOD.encode() + b"<http://a> <http://r> <http://caf\xe9> .\n", "g.nt", r"g\.nt:2: .*UTF-8"),
        ("@prefix a: <http://a/> .\na:b a:r b:c .\n", "g.ttl", r"g\.ttl:2: .*b:"),
        ("@prefix a: <http://a/> .\na:b a:r a:c", "g.trig", r"g\.trig:2: "),
        (FILES["rdf"].replace("</rdf:RDF>", "</rdf:RFD>"), "g.rdf", r"g\.rdf: at or before line [78]: "),
        ("\n" * 40 + "<a></b>", "g.rdf", r"g\.rdf: at or before line 41: "),
        ("", "g.nt", r"g\.nt: no triples$"),
        ("# nothing\n", "g.ttl.gz", r"g\.ttl\.gz: no triples$"),
    ],
)
def test_bad_file(file, content, name, message):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DataWarning)
        with pytest.raises(DataError, match=message):
            Triples.from_rdf(file(content, name))


@needs_pyoxigraph
def test_hostile_file(file, tmp_path):
    bomb = file(nt(("http://a", "http://r", "http://b")) * 50_000, "bomb.nt.gz")
    with pytest.raises(DataError, match=r"bomb\.nt\.gz: unpacks to more than 10,000 bytes; raise max_bytes"):
        Triples.from_rdf(bomb, max_bytes=10_000)
    bomb.write_bytes(bomb.read_bytes()[:-30])
    with pytest.raises(DataError, match=r"bomb\.nt\.gz: damaged or truncated gzip"):
        Triples.from_rdf(bomb)
    with pytest.raises(DataError, match="damaged or truncated gzip"):
        Triples.from_rdf(file(GOOD).rename(tmp_path / "plain.nt.gz"))
    with pytest.raises(DataError, match=r"gone\.ttl: no such file; .* holds: .*bomb\.nt\.gz"):
        Triples.from_rdf(tmp_path / "gone.ttl")
    with pytest.raises(DataError, match=r"gone\.ttl: no such file or folder"):
        load(tmp_path / "gone.ttl")
    with pytest.raises(DataError, match=r"gone\.nt: no such file or folder"):
        load("gone.nt")
    (tmp_path / "folder.nt").mkdir()
    with pytest.raises(DataError, match="a folder, expected a file"):
        Triples.from_rdf(tmp_path / "folder.nt")
    with pytest.raises(UnknownNameError, match=r"unknown RDF format 'n3'\. Known: nq, nt, rdf, trig, ttl"):
        Triples.from_rdf(bomb, format="n3")


@needs_pyoxigraph
def test_folder_of_two_kinds(file, tmp_path):
    file(GOOD, "train.nt")
    file("a\tr\tb\n", "test.tsv")
    with pytest.raises(DataError, match=r"test\.tsv: its name does not tell the format"):
        load(tmp_path)
    file("a\tr\tb\n", "train.tsv")
    with pytest.raises(DataError, match=r"train\.tsv and train\.nt both claim to be train; keep one"):
        load(tmp_path)


@needs_pyoxigraph
def test_memory_does_not_hold_the_statements(file, monkeypatch):
    """Rows reach the vocabulary block by block, and the parser is never further ahead than the block it fills."""
    monkeypatch.setattr(rdf, "BLOCK_ROWS", 10)
    sizes = []
    add = builders.Builder.add
    monkeypatch.setattr(builders.Builder, "add", lambda self, *row: (sizes.append(len(row[1])), add(self, *row))[1])
    rows = nt(*((f"http://e/{i}", "http://r", f"http://e/{i + 1}") for i in range(95))) + "oops"
    with pytest.raises(DataError, match=r"graph\.nt:96"):
        Triples.from_rdf(file(rows))
    assert sizes == [10] * 9


def test_without_pyoxigraph(file, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyoxigraph", None)
    for read in (Triples.from_rdf, load):
        with pytest.raises(MissingDependencyError, match=r'pip install "geoembed\[rdf\]"') as error:
            read(file(GOOD))
        assert isinstance(error.value, ImportError)
    assert load(file("a\tr\tb\n", "graph.tsv")).n_entities == 2  # tables need nothing
