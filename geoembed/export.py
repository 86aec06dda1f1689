"""Embeddings for other programs: TSV, NumPy archives, word2vec text, and graphs with coordinates.

Text has 9 significant digits for float32 and shorter, 17 for float64: reading it back gives the same bits. Every file
appears whole or not at all, and none is a pickle.

    .tsv              name<TAB>coordinates, one entity a line
    .npz              arrays `names`, `points`, ...; read with numpy.load
    .txt, .vec        word2vec text: "n k", then name and coordinates; read with
                      gensim.models.KeyedVectors.load_word2vec_format
    .graphml, .gexf   the triples, or the edges child - parent, and the coordinates as attributes of the nodes; read
                      with networkx, Gephi, Cytoscape

References: GraphML, http://graphml.graphdrawing.org; GEXF, https://gexf.net; the word2vec format is that of Mikolov,
Chen, Corrado, Dean, "Efficient estimation of word representations in vector space", 2013, arXiv:1301.3781.
"""

import os
import re
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import geoopt
import numpy as np
import torch
from torch import Tensor

from geoembed.checkpoint import writing
from geoembed.data.formats import check_names
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.files import atomic_write
from geoembed.hierarchy_runs import HierarchyRun
from geoembed.manifolds import HTiling, Hyperbolic, Lorentz, PoincareBall, Product
from geoembed.manifolds.ltiling import LTiling
from geoembed.runs import Run

__all__ = ["FORMATS", "SUFFIXES", "annotate", "export", "write_npz", "write_tsv", "write_word2vec"]

StrPath = str | os.PathLike[str]
SUFFIXES = {
    ".tsv": "tsv",
    ".npz": "npz",
    ".txt": "word2vec",
    ".vec": "word2vec",
    ".graphml": "graphml",
    ".gexf": "gexf",
}
BLOCK_VALUES = 2**20  # coordinates that are Python floats at one time
NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def export(run: Run | HierarchyRun, path: StrPath, format: str | None = None) -> None:
    """Writes the embedding of a trained run, of a graph or a hierarchy, for another program.

    format: one of `FORMATS`; None = by the suffix of path. A `.tsv` has no header. A `.npz` holds `names`, `points`,
    `manifold` (as text) and, where there is one curvature -c, `c`; then `relations` (names) and each table of the model
    with one row a relation as `relation.<table>`, the rows of the inverses last. A graph file needs the run's data; its
    nodes have the attributes of `annotate`, the coordinates as one text "0.1 0.2". Points of a tiling, whose rows
    only this library reads, are written in the coordinates of the hyperboloid, for `LTiling` of one in each plane.

    >>> export(Run.open("runs/wordnet-animals-murp-40"), "animals.vec")  # doctest: +SKIP

    Raises `UnknownNameError` for an unknown suffix or format, `CheckpointError` for a run that is not trained to its
    end or a file that cannot be written, `DataError` for names that the format cannot hold.
    """
    if format is None:
        suffix = Path(path).suffix.lower()
        if suffix not in SUFFIXES:
            raise UnknownNameError("suffix", suffix or Path(path).name, SUFFIXES)
        format = SUFFIXES[suffix]
    if format not in FORMATS:
        raise UnknownNameError("format", format, FORMATS)
    with writing(Path(path)):
        FORMATS[format](run, path)


def write_tsv(path: StrPath, names: Sequence[str], points: Tensor, *, header: bool = False) -> None:
    """Writes name<TAB>x0<TAB>x1 ... lines. names: n, points: (n, k). header: whether these words are the first line."""
    points = _checked(names, points)
    with atomic_write(path) as file:
        if header:
            file.write("\t".join(["name", *(f"x{i}" for i in range(points.shape[1]))]) + "\n")
        file.writelines(f"{name}\t{text}\n" for name, text in zip(names, _texts(points, "\t"), strict=True))


def write_word2vec(path: StrPath, names: Sequence[str], points: Tensor) -> None:
    """Writes the text format of word2vec: "n k", then name and coordinates, parted by blanks.

    names: n, points: (n, k). The format has no way to write a blank in a name: each becomes "_", as word2vec's own
    phrases have it. Raises `DataError` where that makes two names the same.
    """
    points = _checked(names, points)
    origin: dict[str, str] = {}
    for name in names:
        word = re.sub(r"\s", "_", name)
        if word in origin:
            raise DataError(f"{origin[word]!r} and {name!r} are both {word!r} in word2vec's format; rename one of them")
        origin[word] = name
    with atomic_write(path) as file:
        file.write(f"{len(points)} {points.shape[1]}\n")
        file.writelines(f"{word} {text}\n" for word, text in zip(origin, _texts(points, " "), strict=True))


def write_npz(path: StrPath, names: Sequence[str], points: Tensor, **more: Tensor | Sequence[str] | str) -> None:
    """Writes the arrays `names` (unicode) and `points`, and `more` under their own names, compressed.

    names: n, points: (n, k). All names take the room of the longest when they are read. bfloat16, which NumPy does not
    have, becomes float32.
    """
    arrays: dict[str, Any] = {name: _array(value) for name, value in more.items()}
    arrays |= {"names": _array(names), "points": _array(_checked(names, points))}
    with atomic_write(path, "wb") as file:
        np.savez_compressed(file, **arrays)


def annotate(
    graph: Any,
    names: Sequence[str],
    points: Tensor,
    manifold: geoopt.Manifold | None = None,
    attribute: str = "embedding",
) -> None:
    """Gives the nodes of a networkx graph their points, in place.

    graph: a node has the point of the name str(node), as in `Triples.from_networkx`. names: n, points: (n, k).
    attribute: gets the k coordinates as a list of floats. With a manifold, `radius` gets the distance from its origin,
    and on the Poincare disk `x` and `y` get the coordinates, under which Gephi and others place the nodes.

    A `DataWarning` counts nodes without a point; `DataError` if no node has one. Other names are passed over.
    """
    points = _checked(names, points)
    rows = {name: i for i, name in enumerate(names)}
    nodes = [(node, rows[str(node)]) for node in graph if str(node) in rows]
    if not nodes:
        raise DataError(f"none of the {len(graph):,} nodes of the graph is among the {len(names):,} names")
    if len(nodes) < len(graph):
        missing = next(node for node in graph if str(node) not in rows)
        count = len(graph) - len(nodes)
        warnings.warn(
            f"{count:,} of {len(graph):,} nodes have no point, such as {missing!r}", DataWarning, stacklevel=2
        )
    values = points[[row for _, row in nodes]].double()
    columns: dict[str, list[Any]] = {attribute: values.tolist()}
    if manifold is not None:
        with torch.no_grad():
            origin = manifold.origin(*values.shape, dtype=values.dtype, device=values.device)
            columns["radius"] = manifold.dist(origin, values).tolist()
        if isinstance(manifold, PoincareBall) and values.shape[1] == 2:
            columns["x"], columns["y"] = values.T.tolist()
    for column, entries in columns.items():
        for (node, _), entry in zip(nodes, entries, strict=True):
            graph.nodes[node][column] = entry


# ------------------------------------------------------------------------------------------------------------- of a run


def _embedding(run: Run | HierarchyRun) -> tuple[list[str], Tensor, geoopt.Manifold]:
    """Names, points and their manifold."""
    if isinstance(run, Run):
        return run.entities, run.model.points(), run.model.manifold
    manifold = run.manifold
    if isinstance(manifold, HTiling):
        return run.nodes, manifold.to_lorentz(run.points), Lorentz(manifold.c)
    if isinstance(manifold, LTiling):
        planes: Any = [(Lorentz(manifold.c), 2)] * manifold.planes
        return run.nodes, manifold.to_lorentz(run.points), planes[0][0] if len(planes) == 1 else Product(planes)
    return run.nodes, run.points, manifold


def _export_npz(run: Run | HierarchyRun, path: StrPath) -> None:
    names, points, manifold = _embedding(run)
    more: dict[str, Any] = {"manifold": repr(manifold)}
    if isinstance(manifold, Hyperbolic):
        more["c"] = manifold.c
    if isinstance(run, Run):
        more["relations"] = run.relations
        for name, table in run.model.named_parameters():
            if table.dim() and len(table) == run.model.n_relations:
                more[f"relation.{name}"] = table
    write_npz(path, names, points, **more)


def _graph(run: Run | HierarchyRun) -> Any:
    """What the run was trained on, with the points; the edges of triples have numbers for keys, as ids in a file."""
    import networkx as nx

    names, points, manifold = _embedding(run)
    for name in (run.data.name, *names, *(run.relations if isinstance(run, Run) else ())):
        if found := NOT_XML.search(name):
            raise DataError(f"{name!r} holds {found[0]!r}, which XML cannot; choose another format or rename it")
    if isinstance(run, Run):
        graph = nx.MultiDiGraph(name=run.triples.name)
        graph.add_nodes_from(names)
        for number, (head, tail, data) in enumerate(run.triples.to_networkx().edges(data=True)):
            graph.add_edge(head, tail, key=number, **data)
    else:
        graph = nx.DiGraph(name=run.closure.name)
        graph.add_nodes_from(names)
        graph.add_edges_from((names[child], names[parent]) for child, parent in run.closure.parents().tolist())
    annotate(graph, names, points, manifold)
    for name, text in zip(names, _texts(points, " "), strict=True):
        graph.nodes[name]["embedding"] = text
    return graph


def _export_graph(run: Run | HierarchyRun, path: StrPath, writer: str) -> None:
    import networkx as nx

    graph = _graph(run)
    with atomic_write(path, "wb") as file:
        getattr(nx, writer)(graph, file)


FORMATS: Mapping[str, Callable[[Run | HierarchyRun, StrPath], None]] = {
    "tsv": lambda run, path: write_tsv(path, *_embedding(run)[:2]),
    "npz": _export_npz,
    "word2vec": lambda run, path: write_word2vec(path, *_embedding(run)[:2]),
    "graphml": lambda run, path: _export_graph(run, path, "write_graphml_xml"),  # the same bytes with and without lxml
    "gexf": lambda run, path: _export_graph(run, path, "write_gexf"),
}


def _checked(names: Sequence[str], points: Tensor) -> Tensor:
    """The points without their graph, if each is finite and has a name of its own."""
    if points.dim() != 2 or not points.is_floating_point() or len(points) != len(names) or not points.shape[1]:
        raise ShapeError(
            f"expected floating-point points (n, k), k > 0, for n = {len(names)} names, got {points.dtype} "
            f"{tuple(points.shape)}"
        )
    check_names(names, "name")
    if len(set(names)) < len(names):
        name, count = Counter(names).most_common(1)[0]
        raise DataError(f"{count} points have the name {name!r}; names must differ")
    bad = (~points.isfinite()).any(1).nonzero()
    if len(bad):
        row = int(bad[0])
        raise DomainError(
            f"{len(bad)} of {len(points)} points hold NaN or infinity, the first is {names[row]!r}, row {row}"
        )
    return points.detach()


def _texts(points: Tensor, separator: str) -> Iterator[str]:
    """The coordinates of each point as text, in digits that give back the same bits."""
    width = points.shape[1]
    form = separator.join(["%.17g" if points.dtype == torch.float64 else "%.9g"] * width)
    for block in points.split(max(1, BLOCK_VALUES // width)):
        for point in block.tolist():
            yield form % tuple(point)


def _array(value: Tensor | Sequence[str] | str) -> np.ndarray:
    if isinstance(value, Tensor):
        value = value.detach().cpu()
        return (value.float() if value.dtype == torch.bfloat16 else value).numpy()
    return np.array(value, dtype=str)
