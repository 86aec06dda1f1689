"""Stop a training at any moment and go on with it: the result is the same, bit for bit.

python examples/resume.py
"""

import argparse
import signal
import tempfile
from pathlib import Path

import torch

import geoembed
from geoembed.graph_training import train_model

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a small graph only")
args = parser.parse_args()

triples = geoembed.load("wordnet-animals")
if args.quick:
    edges = [(f"n{i}", "parent", f"n{i // 2}") for i in range(1, 200)]
    triples = geoembed.Triples.from_triples(edges, name="tree")
config = geoembed.TrainConfig(dim=10, epochs=4, negatives=32, validate_every=4)


def press_ctrl_c(history):
    if len(history) == 2:
        signal.raise_signal(signal.SIGINT)


whole, _ = train_model(config, triples)
checkpoints = Path(tempfile.mkdtemp()) / "checkpoints"
try:
    train_model(config, triples, checkpoint=checkpoints, on_epoch=press_ctrl_c)
except KeyboardInterrupt:
    print("stopped after two epochs; on disk:", sorted(path.name for path in checkpoints.iterdir()))
resumed, fitted = train_model(config, triples, checkpoint=checkpoints)

print("epochs in all:", fitted.epochs)
print("same weights:", torch.equal(whole.entity, resumed.entity))
