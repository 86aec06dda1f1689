"""Embed a networkx graph and write the coordinates back as node attributes.

python examples/embed_networkx.py
"""

import argparse
import tempfile
from pathlib import Path

import networkx as nx

import geoembed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few epochs only")
args = parser.parse_args()

tree = nx.balanced_tree(3, 4, create_using=nx.DiGraph)  # edges from parent to child
graph = nx.relabel_nodes(tree, lambda node: f"node{node}")
nx.set_edge_attributes(graph, "parent_of", "relation")

triples = geoembed.Triples.from_networkx(graph)
config = geoembed.TrainConfig(dim=2, epochs=5 if args.quick else 200, batch_size=64, negatives=32, penalty=0.0)
run = geoembed.train(config, Path(tempfile.mkdtemp()) / "run", triples=triples)

points = run.model.points()
nx.set_node_attributes(graph, dict(zip(run.entities, points.tolist(), strict=True)), "poincare")
print("root at", graph.nodes["node0"]["poincare"])
