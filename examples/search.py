"""Search for the settings with the best validation MRR, go on with the search, then test the winner once.

python examples/search.py          (needs the extra: pip install "geoembed[hpo]")
"""

import argparse
import tempfile
from pathlib import Path

import torch

import geoembed
from geoembed.data.synthetic import tree
from geoembed.search import search

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few trials of a few epochs only")
args = parser.parse_args()

SPACE = """
[settings]
dim = 5
validate_every = 5
epochs = 40

[search]
model = ["murp", "mure"]
lr = {low = 1e-3, high = 0.3, log = true}
negatives = {low = 16, high = 64, step = 16}
batch_size = [64, 128, 256]
"""

triples = tree(3, 3 if args.quick else 5).split(0.1, 0.1, torch.Generator().manual_seed(0))
folder = Path(tempfile.mkdtemp())
space = folder / "space.toml"
space.write_text(SPACE.replace("40", "5") if args.quick else SPACE)

trials = 2 if args.quick else 20
search(space, folder / "search", triples, trials=trials)
print("\nand as many again, in the same folder:\n")
result = search(space, folder / "search", triples, trials=2 * trials, resume=True)

print("\nvalidation MRR against each setting:", result.folder / "search.png")
geoembed.train(result.config, folder / "run", triples=triples, baseline=False)
