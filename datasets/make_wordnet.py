#!/usr/bin/env python3
"""Makes wordnet-animals and wordnet-mammals from the database files of WordNet 3.0.

    python make_wordnet.py [--wordnet FOLDER] [--out FOLDER]

FOLDER holds data.noun and index.noun, as Debian's package wordnet-base installs them in /usr/share/wordnet.
Standard library only. The same input gives the same bytes on any machine and any Python: no clock, no random
generator (the split is drawn by SHA-256), no compression.

Names. A synset is called LEMMA.n.NN: its first lemma in lower case, and the rank NN of the synset among the senses of
that lemma in index.noun. So dog.n.01 is the animal and dog.n.02 the frump.

wordnet-animals. Every pointer whose two ends lie in the lexicographer file noun.animal (05), as (head, relation,
tail) read "head's <relation> is tail": (dog.n.01, hypernym, canine.n.02), (canis.n.01, member_meronym, dog.n.01).
  * WordNet writes most pointers twice, once from each end. Only the direction in POINTERS is kept, and of a symmetric
    relation only head < tail, so that no held-out triple can be read off its own inverse.
  * A pointer from a synset to itself (between two of its words) is dropped, and one that several words repeat is
    written once. A synset with no pointer inside the file has no triple, and so does not occur.
  * The split. Triples are ordered by the SHA-256 of "SEED<TAB>head<TAB>relation<TAB>tail". In that order, a triple is
    held out when its head, its relation and its tail all keep another triple in train, and when no other triple links
    the same two synsets (eaglet's hypernym is eagle, and eagle's derived form is eaglet: both stay in train). The
    first 5 % go to test, the next 5 % to valid, the rest to train; each file is sorted by code point.

wordnet-mammals. Every (descendant, ancestor) pair in the transitive closure of hypernym and instance_hypernym whose
two ends are mammal.n.01 or descend from it: 6,542 pairs over 1,182 synsets. Then the synsets that have no relative but
the root are left out: female_mammal.n.01 and tusker.n.01, childless children of mammal.n.01, which say nothing about
a hierarchy. That leaves the 6,540 pairs over 1,180 synsets often used to compare embeddings of hierarchies.
"""

import argparse
import hashlib
import os
import sys
from collections import Counter
from pathlib import Path

SEED = 0
HELD_OUT = 0.05  # of all triples, once for test and once for valid
ANIMAL = "05"  # the number of noun.animal among WordNet's lexicographer files

POINTERS = {  # pointer symbol -> relation; the inverse pointers ~ ~i #m #p #s -c -r -u are not read
    "@": "hypernym",
    "@i": "instance_hypernym",
    "%m": "member_meronym",
    "%p": "part_meronym",
    "%s": "substance_meronym",
    ";c": "synset_domain_topic_of",
    ";r": "synset_domain_region_of",
    ";u": "synset_domain_usage_of",
    "!": "antonym",
    "+": "derivationally_related_form",
}
INVERSES = {"~", "~i", "#m", "#p", "#s", "-c", "-r", "-u"}
SYMMETRIC = {"antonym", "derivationally_related_form"}

ANIMALS_MANIFEST = """\
name = "wordnet-animals"
title = "The animals of WordNet 3.0"
description = "Every relation between two synsets of WordNet's file noun.animal, one direction of each inverse pair."
task = "triples"
source = "WordNet 3.0 (Princeton University), files data.noun and index.noun, by datasets/make_wordnet.py"
"""
MAMMALS_MANIFEST = """\
name = "wordnet-mammals"
title = "The mammals of WordNet 3.0, transitive closure"
description = "Every (descendant, ancestor) pair of synsets below mammal.n.01."
task = "closure"
source = "WordNet 3.0 (Princeton University), files data.noun and index.noun, by datasets/make_wordnet.py"
"""


def records(path):
    """The fields of each line of a database file; the licence at its head is indented by two spaces."""
    with open(path, encoding="utf-8") as file:
        for line in file:
            if not line.startswith("  "):
                yield line.rstrip()


def licence(path):
    """The licence text at the head of a database file, without its line numbers."""
    with open(path, encoding="utf-8") as file:
        head = [line for line in file if line.startswith("  ")]
    return "".join(line.split(maxsplit=1)[1].rstrip() + "\n" if len(line.split()) > 1 else "\n" for line in head)


def read_nouns(folder):
    """Maps each noun synset's name to (lexicographer file, lemmas, gloss, [(pointer symbol, target name), ...])."""
    senses = {}
    for line in records(folder / "index.noun"):
        fields = line.split()
        senses[fields[0]] = fields[-int(fields[2]) :]
    raw, names = {}, {}
    for line in records(folder / "data.noun"):
        data, _, gloss = line.partition(" | ")
        fields = data.split()
        offset, n_words = fields[0], int(fields[3], 16)
        lemmas = fields[4 : 4 + 2 * n_words : 2]
        rest = fields[5 + 2 * n_words :]  # four fields a pointer: symbol, offset, part of speech, word numbers
        pointers = [(rest[i], rest[i + 1]) for i in range(0, len(rest), 4) if rest[i + 2] == "n"]
        key = lemmas[0].lower()
        names[offset] = f"{key}.n.{senses[key].index(offset) + 1:02d}"
        raw[offset] = fields[1], lemmas, gloss, pointers
    if len(set(names.values())) != len(names):
        sys.exit("two synsets have the same name")
    return {
        names[offset]: (file, lemmas, gloss, [(symbol, names[target]) for symbol, target in pointers])
        for offset, (file, lemmas, gloss, pointers) in raw.items()
    }


def animal_triples(nouns):
    """The sorted triples between synsets of noun.animal."""
    triples = set()
    for head, (file, _, _, pointers) in nouns.items():
        for symbol, tail in pointers:
            if file != ANIMAL or nouns[tail][0] != ANIMAL or symbol in INVERSES or head == tail:
                continue
            relation = POINTERS[symbol]  # a KeyError here: a pointer this script does not know
            ends = sorted((head, tail)) if relation in SYMMETRIC else (head, tail)
            triples.add((ends[0], relation, ends[1]))
    return sorted(triples)


def split(triples):
    """(train, valid, test) as described above."""
    size = round(HELD_OUT * len(triples))
    left = Counter(name for triple in triples for name in triple)  # no relation has the name of a synset
    links = Counter(frozenset((head, tail)) for head, _, tail in triples)
    order = sorted(triples, key=lambda t: hashlib.sha256("\t".join((str(SEED), *t)).encode()).digest())
    held_out = []
    for triple in order:
        if len(held_out) == 2 * size:
            break
        if links[frozenset((triple[0], triple[2]))] == 1 and all(left[name] > 1 for name in triple):
            left.subtract(triple)
            held_out.append(triple)
    test, valid = held_out[:size], held_out[size:]
    return sorted(set(triples) - set(held_out)), sorted(valid), sorted(test)


def mammal_pairs(nouns, root="mammal.n.01"):
    """The sorted (descendant, ancestor) pairs below `root`."""
    above = {}

    def ancestors(name):
        if name not in above:
            parents = {target for symbol, target in nouns[name][3] if symbol in ("@", "@i")}
            above[name] = parents.union(*map(ancestors, parents))
        return above[name]

    inside = {name for name in nouns if root in ancestors(name)} | {root}
    pairs = {(name, ancestor) for name in inside for ancestor in ancestors(name) & inside}
    relatives = Counter(name for pair in pairs for name in pair)
    return sorted(pair for pair in pairs if not (pair[1] == root and relatives[pair[0]] == 1))


def table(rows):
    return "".join("\t".join(row) + "\n" for row in rows)


def write(folder, manifest, counts, files):
    """Writes the files, and manifest.toml with their sizes and SHA-256."""
    folder.mkdir(parents=True, exist_ok=True)
    lines = [manifest, "[counts]"]
    lines += [f"{key} = {value}" for key, value in counts.items()]
    lines += ["", "[licence]", 'name = "WordNet 3.0 licence"', 'file = "LICENSE.wordnet"']
    for name, text in files.items():
        data = text.encode()
        lines += ["", f'[files."{name}"]', f"size = {len(data)}", f'sha256 = "{hashlib.sha256(data).hexdigest()}"']
    for name, text in {**files, "manifest.toml": "\n".join(lines) + "\n"}.items():
        temporary = folder / f".{name}.tmp"
        temporary.write_bytes(text.encode())
        os.replace(temporary, folder / name)


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--wordnet", type=Path, default=Path("/usr/share/wordnet"), metavar="FOLDER")
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent, metavar="FOLDER")
    arguments = parser.parse_args()

    nouns = read_nouns(arguments.wordnet)
    text = licence(arguments.wordnet / "data.noun")

    triples = animal_triples(nouns)
    train, valid, test = split(triples)
    synsets = sorted({name for head, _, tail in triples for name in (head, tail)})
    relations = Counter(relation for _, relation, _ in triples)
    counts = {
        "entities": len(synsets),
        "relations": len(relations),
        "train": len(train),
        "valid": len(valid),
        "test": len(test),
    }
    write(
        arguments.out / "wordnet-animals",
        ANIMALS_MANIFEST,
        counts,
        {
            "train.tsv": table(train),
            "valid.tsv": table(valid),
            "test.tsv": table(test),
            "entities.tsv": table((name, ", ".join(nouns[name][1]), nouns[name][2]) for name in synsets),
            "LICENSE.wordnet": text,
        },
    )
    print("wordnet-animals", counts)
    for relation, count in relations.most_common():
        parts = [sum(r == relation for _, r, _ in part) for part in (train, valid, test)]
        print(f"  {relation:28}{count:6}  train/valid/test {parts}")

    pairs = mammal_pairs(nouns)
    counts = {"nodes": len({name for pair in pairs for name in pair}), "pairs": len(pairs)}
    files = {"pairs.tsv": table(pairs), "LICENSE.wordnet": text}
    write(arguments.out / "wordnet-mammals", MAMMALS_MANIFEST, counts, files)
    print("wordnet-mammals", counts)


if __name__ == "__main__":
    main()
