"""Trees placed in the plane without optimisation: exact on `HTiling`, lost in floats on ball, hyperboloid, half-space.

For each manifold and scale: the largest radius, CPU seconds, edges whose length is off by more than 1e-6, NaN points,
and the mean average precision of neighbours, in the spanning tree and in the graph of all direct edges, over a random
sample of nodes. Mammals (shipped); nouns or verbs with --data, a folder with nouns.tsv.gz, the closure of WordNet 3.0.

    python tests/benchmarks/tree_embedding.py
    python tests/benchmarks/tree_embedding.py --only nouns --data FOLDER --sources 3000
    python tests/benchmarks/tree_embedding.py --only nouns --data FOLDER --manifold HTiling --outside
    python tests/benchmarks/tree_embedding.py --edges FILE --manifold HTiling --outside

--outside ranks the neighbours of the nodes that have an edge outside the tree, and counts 1 for all others: the exact
figure for the graph, wherever that for the tree is 1. --edges: direct edges child, parent (tab-separated), of which the
largest part is taken; the graph of Sala et al. has the pointers "@" of WordNet's data.noun, without those of instances.
"""

import argparse
import time
import warnings
from pathlib import Path

import networkx as nx
import torch
from common import arguments, table

from geoembed.combinatorial import TreeEmbedding, embed_tree
from geoembed.data import Closure, load
from geoembed.data.trees import spanning_tree
from geoembed.errors import DataWarning, NumericalWarning
from geoembed.manifolds import HalfSpace, Lorentz, PoincareBall
from geoembed.neighbourhoods import rank_neighbours

FLOATS = {model.__name__: model for model in (PoincareBall, Lorentz, HalfSpace)}
HELD = 34.0  # a radius that float64 holds in every model


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="folder with nouns.tsv.gz or verbs.tsv.gz")
    parser.add_argument("--edges", type=Path, help="file of direct edges child, parent, instead")
    parser.add_argument("--only", default="mammals", help="mammals, verbs or nouns")
    parser.add_argument("--scale", type=float, nargs="+", help="lengths of an edge, instead of the default")
    parser.add_argument("--manifold", nargs="+", default=["HTiling", *FLOATS])
    parser.add_argument("--sources", type=int, default=3000, help="nodes whose neighbours are ranked; 0: all")
    parser.add_argument("--outside", action="store_true", help="rank those with edges outside the tree, instead")
    args = parser.parse_args()
    warnings.simplefilter("ignore", NumericalWarning)
    warnings.simplefilter("ignore", DataWarning)
    closure, graph = hierarchy(args)
    start = time.process_time()
    parents = spanning_tree(closure)
    print(f"{closure}, spanning tree in {time.process_time() - start:.1f} s", flush=True)
    child = (parents >= 0).nonzero().squeeze(1)
    tree = torch.stack([child, parents[child]], 1)
    sources = torch.randperm(closure.n_nodes, generator=torch.Generator().manual_seed(0))
    sources = sources[: args.sources or None]
    if args.outside:
        sources = graph[parents[graph[:, 0]] != graph[:, 1]].unique()
    rows = []
    for name in args.manifold:
        scales = args.scale or ([None] if name == "HTiling" else [None, 4.0, HELD / int(closure.depths().max())])
        for scale in scales:
            start = time.process_time()
            embedded = embed_tree(parents, None if name == "HTiling" else FLOATS[name](), scale=scale)
            seconds = time.process_time() - start
            broken, off, radius = faults(embedded, tree)
            start = time.process_time()
            found = [
                rank_neighbours(embedded.points, embedded.manifold, edges, sources=sources) for edges in (tree, graph)
            ]
            ranking = time.process_time() - start
            rows.append([repr(embedded.manifold), f"{embedded.scale:.2f}", f"{embedded.radius:.0f}", f"{radius:.1f}"])
            rows[-1] += [f"{seconds:.1f} s", f"{off:.1%}", broken]
            share = len(sources) / closure.n_nodes if args.outside else 1.0
            rows[-1] += [f"{1 - share * (1 - part.metrics()['map']):.4f}" for part in found]
            rows[-1] += [f"{ranking:.0f} s"]
            print(*rows[-1], flush=True)
    print(f"{closure.name}, {len(graph):,} direct edges, {len(tree):,} in the tree, {len(sources):,} nodes ranked\n")
    columns = ["manifold", "scale", "radius meant", "reached", "embedding", "edges off", "NaN points"]
    table([*columns, "MAP, tree", "MAP, graph", "ranking"], rows)


def hierarchy(args: argparse.Namespace) -> tuple[Closure, torch.Tensor]:
    """The closure, and its direct edges (m, 2)."""
    if args.edges:
        graph = nx.read_edgelist(args.edges, create_using=nx.DiGraph, delimiter="\t")
        graph = graph.subgraph(max(nx.weakly_connected_components(graph), key=len))
        closure = Closure.from_networkx(graph, name=args.edges.stem)
        place = {node: i for i, node in enumerate(closure.nodes)}
        return closure, torch.tensor([(place[child], place[parent]) for child, parent in graph.edges])
    shipped = args.only == "mammals"
    closure = load("wordnet-mammals") if shipped else Closure.from_file(args.data / f"{args.only}.tsv.gz")
    return closure, closure.parents()


def faults(embedded: TreeEmbedding, tree: torch.Tensor) -> tuple[int, float, float]:
    """Points that are NaN (put at the origin), the share of edges that are off, and the largest radius."""
    points, manifold = embedded.points, embedded.manifold
    edges = manifold.dist(*(points[column] for column in tree.unbind(1)))
    off = ~((edges / embedded.scale - 1).abs() <= 1e-6)
    origin = manifold.origin(1, points.shape[1], dtype=points.dtype)
    bad = ~points.isfinite().all(1)
    points[bad] = origin
    return int(bad.sum()), off.double().mean().item(), manifold.dist(points, origin).max().item()


if __name__ == "__main__":
    main()
