"""Embed your own triples: a text file of HEAD<TAB>RELATION<TAB>TAIL lines, one triple a line.

    python examples/embed_tsv.py my_graph.tsv

Without a file a small family tree is made. The run folder can then be used from the command line as well:
geoembed query RUN NAME, geoembed plot RUN.
"""

import argparse
import tempfile
from pathlib import Path

import geoembed

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("file", nargs="?", type=Path)
parser.add_argument("--quick", action="store_true", help="a few epochs only")
args = parser.parse_args()

folder = Path(tempfile.mkdtemp())
path = args.file
if path is None:
    path = folder / "family.tsv"
    lines = [f"person{child}\tchild_of\tperson{(child - 1) // 2}" for child in range(1, 127)]
    lines += [f"person{child}\tsibling_of\tperson{child + 1}" for child in range(1, 126, 2)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")

config = geoembed.TrainConfig(data=str(path), dim=10, epochs=5 if args.quick else 100, batch_size=128, negatives=32)
run = geoembed.train(config, folder / "run")

name = run.entities[0]
for answer in run.neighbours(name, k=5):
    print(f"{name} is at distance {answer.value:.3f} of {answer.name}")
for answer in run.tails(name, run.relations[0], k=3):
    print(f"{name} {run.relations[0]} {answer.name}: P = {answer.value:.3f} {answer.known or ''}")
