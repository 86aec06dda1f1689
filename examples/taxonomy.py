"""Embed a taxonomy of your own in the hyperbolic plane, ask what is above a node, and draw it.

python examples/taxonomy.py

The same from a file of lines child<TAB>parent: geoembed train FILE --dim 2, then geoembed query RUN oboe.
"""

import argparse
import tempfile
from pathlib import Path

import networkx as nx

import geoembed
from geoembed.hierarchy_jobs import plot_run, train

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few epochs only")
args = parser.parse_args()

TAXONOMY = {
    "instrument": ["string instrument", "wind instrument", "percussion", "keyboard instrument"],
    "string instrument": ["bowed string", "plucked string"],
    "bowed string": ["violin", "viola", "cello", "double bass"],
    "plucked string": ["guitar", "harp", "lute", "banjo", "mandolin"],
    "wind instrument": ["woodwind", "brass"],
    "woodwind": ["flute", "reed instrument"],
    "reed instrument": ["oboe", "bassoon", "clarinet", "saxophone"],
    "brass": ["trumpet", "trombone", "horn", "tuba"],
    "percussion": ["drum", "cymbal", "xylophone"],
    "drum": ["snare drum", "timpani", "bongo"],
    "keyboard instrument": ["piano", "organ", "harpsichord"],
}
edges = [(child, parent) for parent, children in TAXONOMY.items() for child in children]
closure = geoembed.Closure.from_networkx(nx.DiGraph(edges), name="instruments")

settings = geoembed.HierarchyConfig(dim=2, epochs=10 if args.quick else 200, batch_size=8, lr=0.1)
run = train(settings, Path(tempfile.mkdtemp()) / "run", closure=closure)

print("\nabove oboe, as the points tell it, and as the taxonomy does:")
for answer in run.ancestors("oboe", k=5):
    print(f"{answer.value:7.3f}  {answer.name}  {answer.known or ''}")

placed = geoembed.embed_closure(closure, run.manifold)
found = geoembed.reconstruct(placed, run.manifold, closure, progress=False).metrics()
print(f"\nplaced without training, as it is a tree: MAP {found['map']:.4f}")

for path in plot_run(run, path=Path("taxonomy.png"), tiling="ltiling"):
    print("drawn:", path)
