"""RDF as triples of names: N-Triples, N-Quads, Turtle, TriG and RDF/XML, through pyoxigraph.

An IRI is an entity or a relation, under its own text or as prefix:rest. A literal is left out, or becomes an entity
under its N-Triples form. A blank node with a label keeps it, in all files of a graph: they are taken as parts of one
whole, as files cut by lines are, though each file by itself could give the label another meaning. A blank node without
a label ([] in Turtle, a nested element in RDF/XML) is numbered as it is met, since the parser's own name for it is
random and would change the ids from run to run.

Statements are read one by one: memory grows with the vocabulary and three ids a triple.

References: RDF 1.1 Concepts and Abstract Syntax, W3C 2014; https://pyoxigraph.readthedocs.io.
"""

import re
import warnings
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

from geoembed.data.builders import Builder
from geoembed.data.formats import StrPath, Vocabulary, opened
from geoembed.data.splits import SPLITS, is_rdf
from geoembed.errors import DataError, DataWarning, MissingDependencyError, UnknownNameError

__all__ = ["FORMATS", "Literals", "read_rdf"]

Literals = Literal["skip", "keep"]
FORMATS = {"nt": "N_TRIPLES", "nq": "N_QUADS", "ttl": "TURTLE", "trig": "TRIG", "rdf": "RDF_XML"}
BLOCK_ROWS = 100_000
# how pyoxigraph names a blank node without a label: a random 128-bit number in hexadecimal that starts with a letter
UNLABELLED = re.compile("[a-f][0-9a-f]{23,31}")


def read_rdf(
    paths: Sequence[StrPath | None],
    format: str | None,
    prefixes: Mapping[str, str] | None,
    literals: Literals,
    graph: str | None,
    base: str | None,
    max_bytes: int,
) -> Builder:
    """For `Triples.from_rdf`, which explains the options. paths: of train, valid and test."""
    reader, builder = _Reader(prefixes or {}, literals, graph, base, max_bytes), Builder()
    for split, path in zip(SPLITS, paths, strict=True):
        if path is None:
            continue
        reader.skipped = 0
        rows = reader.rows(Path(path), format)
        while block := list(islice(rows, BLOCK_ROWS)):
            builder.add(split, *zip(*block, strict=True))
        skipped = f"{reader.skipped:,} triples with a literal as object; literals='keep' keeps them"
        if not builder.blocks[split]:
            place = "no triples" if graph is None else f"no triples in the graph {graph}"
            raise DataError(f"{path}: {place}" + (f" but {skipped}" if reader.skipped else ""))
        if reader.skipped:
            warnings.warn(f"{split}: left out {skipped}", DataWarning, stacklevel=3)
    return builder


class _Reader:
    """Turns statements into names; `skipped` counts the literals left out."""

    def __init__(self, prefixes: Mapping[str, str], literals: Literals, graph: str | None, base: str | None, most: int):
        try:
            import pyoxigraph
        except ImportError:
            raise MissingDependencyError('RDF is read by pyoxigraph; pip install "geoembed[rdf]"') from None
        self.rdf: Any = pyoxigraph
        if literals not in ("skip", "keep"):
            raise UnknownNameError("value of literals", literals, ("skip", "keep"))
        for prefix, namespace in prefixes.items():
            if not re.fullmatch(r"[\w.-]*", prefix) or prefix == "_" or not namespace:
                raise DataError(
                    f"prefixes: expected letters, digits, '.', '-' or '_' (alone it is for blank nodes) and the start "
                    f"of an IRI, got {prefix!r}: {namespace!r}"
                )
        for what, iri in (("graph", graph), ("base", base)):
            if iri is not None:
                try:
                    pyoxigraph.NamedNode(iri)
                except ValueError as error:
                    raise DataError(f"{what}: expected an IRI in full, got {iri!r} ({error})") from None
        self.graph, self.base, self.keep, self.max_bytes = graph, base, literals == "keep", most
        self.prefixes = {namespace: prefix for prefix, namespace in prefixes.items()}
        longest_first = sorted(self.prefixes, key=len, reverse=True)
        self.namespace = re.compile("|".join(map(re.escape, longest_first)) or "(?!)")  # (?!) fits nothing
        self.unlabelled = Vocabulary()
        self.skipped = 0

    def rows(self, path: Path, format: str | None) -> Iterator[tuple[str, str, str]]:
        """The triples of a file, as names."""
        if format is None:
            if not is_rdf(path):
                raise DataError(f"{path}: its name does not tell the format; pass format= ({', '.join(FORMATS)})")
            format = Path(path.name.removesuffix(".gz")).suffix[1:]
        if format not in FORMATS:
            raise UnknownNameError("RDF format", format, FORMATS)
        resource = self.rdf.NamedNode, self.rdf.BlankNode
        labelled = format in ("nt", "nq")
        with opened(path, self.max_bytes) as file:
            try:
                for quad in self.rdf.parse(file, getattr(self.rdf.RdfFormat, FORMATS[format]), base_iri=self.base):
                    if self.graph is not None and getattr(quad.graph_name, "value", None) != self.graph:
                        continue
                    if not self.keep and not isinstance(quad.object, resource):
                        self.skipped += 1
                        continue
                    subject, predicate, object = quad.triple
                    yield self._name(subject, labelled), self._iri(predicate.value), self._name(object, labelled)
            except SyntaxError as error:  # of XML, which is read a kilobyte at a time, it does not tell the line
                place = f"{path}:{error.lineno}" if error.lineno else f"{path}: at or before line {file.lines + 1}"
                raise DataError(f"{place}: {error.msg}") from None

    def _name(self, term: Any, labelled: bool) -> str:
        if isinstance(term, self.rdf.NamedNode):
            return self._iri(term.value)
        if isinstance(term, self.rdf.BlankNode):
            if labelled or not UNLABELLED.fullmatch(term.value):
                return f"_:{term.value}"
            return f"_:[{self.unlabelled[term.value]}]"
        return str(term)

    def _iri(self, iri: str) -> str:
        if found := self.namespace.match(iri):
            return f"{self.prefixes[found[0]]}:{iri[found.end() :]}"
        if (scheme := iri.partition(":")[0]) in self.prefixes.values():
            raise DataError(f"prefixes: {scheme!r} is also how {iri} starts, which it does not shorten; rename it")
        return iri
