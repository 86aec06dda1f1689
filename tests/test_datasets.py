"""The shipped data sets: they load, they are what they say, and the script rebuilds them."""

import filecmp
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import torch

from geoembed.data import Closure, Triples, available, load

DATASETS = Path(__file__).resolve().parent.parent / "datasets"
WORDNET = Path("/usr/share/wordnet")
SHIPPED = ("wordnet-animals", "wordnet-mammals")


@pytest.fixture(autouse=True)
def only_shipped(monkeypatch, request):
    if "own_data" not in request.fixturenames:
        monkeypatch.delenv("GEOEMBED_DATA", raising=False)


@pytest.fixture
def own_data():
    if not os.environ.get("GEOEMBED_DATA"):
        pytest.skip("GEOEMBED_DATA names no folder with WN18RR and FB15k-237")


@pytest.fixture(scope="module")
def animals():
    graph = load("wordnet-animals")
    assert isinstance(graph, Triples)
    return graph


def test_available():
    found = available()
    assert set(found) == set(SHIPPED)
    for name, manifest in found.items():
        assert manifest.name == name
        manifest.verify()
        assert load(name).counts() == manifest.counts
        assert {path.name for path in manifest.folder.iterdir()} == {*manifest.files, "manifest.toml", "README.md"}
        assert "Princeton" in (manifest.folder / manifest.licence[1]).read_text()


def test_animals(animals):
    assert animals.counts() == {"entities": 7410, "relations": 7, "train": 11675, "valid": 649, "test": 649}
    rows = torch.cat([animals.train, animals.valid, animals.test])
    assert Counter(animals.relations[r] for r in rows[:, 1].tolist()) == {
        "hypernym": 7100,
        "member_meronym": 5674,
        "part_meronym": 156,
        "instance_hypernym": 18,
        "antonym": 11,
        "derivationally_related_form": 9,
        "synset_domain_topic_of": 5,
    }
    assert ("dog.n.01", "hypernym", "canine.n.02") in animals.names(rows)
    assert ("canis.n.01", "member_meronym", "dog.n.01") in animals.names(rows)


def test_animals_split_leaks_nothing(animals):
    assert len(torch.cat([animals.train, animals.valid, animals.test]).unique(dim=0)) == 12973
    for split in ("valid", "test"):
        assert len(animals.unseen(split)) == 0
        assert set(animals[split][:, 1].tolist()) <= set(animals.train[:, 1].tolist())
    # no two synsets are linked in two splits, in either direction, under any relation
    links = [{frozenset((h, t)) for h, _, t in animals[split].tolist()} for split in ("train", "valid", "test")]
    assert not links[0] & links[1]
    assert not links[0] & links[2]
    assert not links[1] & links[2]
    assert all(h != t for h, _, t in animals.train.tolist())


def test_animals_entities(animals):
    lines = (DATASETS / "wordnet-animals" / "entities.tsv").read_text(encoding="utf-8").splitlines()
    table = [line.split("\t") for line in lines]
    assert [row[0] for row in table] == animals.entities
    assert {len(row) for row in table} == {3}
    assert dict((row[0], row[1]) for row in table)["dog.n.01"] == "dog, domestic_dog, Canis_familiaris"


def test_mammals():
    mammals = load("wordnet-mammals")
    assert isinstance(mammals, Closure)
    assert mammals.counts() == {"nodes": 1180, "pairs": 6540}
    root = mammals.nodes.index("mammal.n.01")
    above = Counter(mammals.pairs[:, 0].tolist())
    assert len(above) == 1179
    assert max(above.values()) == 9
    assert root not in above
    pairs = set(map(tuple, mammals.pairs.tolist()))
    assert all((node, root) in pairs for node in above)


def test_mammals_are_transitive():
    above = {}
    for child, ancestor in load("wordnet-mammals").pairs.tolist():
        above.setdefault(child, set()).add(ancestor)
    assert all(above.get(parent, set()) <= parents for parents in above.values() for parent in parents)


@pytest.mark.skipif(not (WORDNET / "data.noun").is_file(), reason="WordNet 3.0 is not in /usr/share/wordnet")
def test_script_rebuilds_the_sets(tmp_path):
    command = [sys.executable, "-S", str(DATASETS / "make_wordnet.py"), "--wordnet", str(WORDNET)]
    subprocess.run([*command, "--out", str(tmp_path)], check=True, capture_output=True, timeout=60)
    for name in SHIPPED:
        files = [*available()[name].files, "manifest.toml"]
        same = filecmp.cmpfiles(DATASETS / name, tmp_path / name, files, shallow=False)
        assert same == (files, [], [])
        assert sorted(os.listdir(tmp_path / name)) == sorted(files)


@pytest.mark.parametrize(
    ("name", "counts", "unseen"),
    [("WN18RR", (40943, 11, 86835, 3034, 3134), 210), ("FB15k-237", (14541, 237, 272115, 17535, 20466), 28)],
)
def test_benchmarks(own_data, name, counts, unseen):
    graph = load(name)
    assert tuple(graph.counts().values()) == counts
    assert int(graph.has_unseen("test").sum()) == unseen


def test_mammals_of_the_users_folder(own_data):
    if not (Path(os.environ["GEOEMBED_DATA"]) / "wordnet" / "mammals.tsv.gz").is_file():
        pytest.skip("GEOEMBED_DATA has no wordnet/mammals.tsv.gz")
    assert load("mammals").fingerprint() == load("wordnet-mammals").fingerprint()
