"""Compress an embedding to a small file and restore it: a tree in the hyperbolic plane, far beyond what floats hold.

python examples/compress.py
"""

import argparse
import tempfile
from pathlib import Path

import networkx as nx

from geoembed import load_points, save_points
from geoembed.codec import report
from geoembed.combinatorial import embed_tree

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a smaller tree")
args = parser.parse_args()

tree = nx.balanced_tree(3, 5 if args.quick else 8)
found = embed_tree(tree, scale=40.0)  # each edge is 40 long
print(f"{len(found.nodes)} nodes at radius up to {found.radius:.0f}, in {found.manifold!r}\n")

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "tree.geo"
    save_points(path, found.points, found.manifold, bits=16, names=[str(node) for node in found.nodes])
    restored = load_points(path)

print(report(found.points, found.manifold, bits=16))
edges = [(found.nodes.index(a), found.nodes.index(b)) for a, b in list(tree.edges)[:200]]
lengths = restored.manifold.dist(*(restored.points[list(side)] for side in zip(*edges, strict=True)))
print(f"\nEdges of the restored tree: {lengths.min():.4f} to {lengths.max():.4f} long")
