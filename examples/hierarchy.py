"""Embed a taxonomy so that every node is nearer to its ancestors than to anything else, and measure how well.

python examples/hierarchy.py
"""

import argparse

import geoembed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few epochs only")
args = parser.parse_args()

closure = geoembed.load("wordnet-mammals")  # yours: Closure.from_file("pairs.tsv") or Closure.from_networkx(graph)
settings = geoembed.HierarchyConfig(dim=5, epochs=10 if args.quick else 350)
run = geoembed.train_hierarchy(closure, settings)

result = geoembed.reconstruct(run.points, run.manifold, closure)
print({name: round(value, 4) for name, value in result.metrics().items()})
print(result.protocol)

whale = closure.nodes.index("whale.n.02")
nearest = run.manifold.dist(run.points[whale], run.points).argsort()[1:8]
print("nearest to whale.n.02:", ", ".join(closure.nodes[i] for i in nearest.tolist()))
