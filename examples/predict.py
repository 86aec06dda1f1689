"""Ask a trained graph: missing triples, relations between two entities, a new entity, a file for other programs.

python examples/predict.py
"""

import argparse
import tempfile
from pathlib import Path

import torch

import geoembed
from geoembed.data.synthetic import tree
from geoembed.export import export

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a few epochs only")
args = parser.parse_args()

torch.set_num_threads(1)
graph = tree(3, 4).split(0.05, 0.05, torch.Generator().manual_seed(0))
config = geoembed.TrainConfig(model="roth", dim=8, lr=0.05, batch_size=128, epochs=3 if args.quick else 60)

with tempfile.TemporaryDirectory() as folder:
    run = geoembed.train(config, Path(folder) / "run", triples=graph, baseline=False, picture=False, progress=False)

    print("\nchildren of n001, known ones marked:")
    for answer in run.tails("n001", "parent_of", k=4):
        print(f"  {answer.value:.3f}  {answer.name}  {answer.known or ''}")

    print("what n000 is to n005:")
    for answer in run.relations_between("n000", "n005", k=2):
        print(f"  {answer.value:.3f}  {answer.name}  {answer.known or ''}")

    print("likeliest siblings that the data does not state:")
    for found in run.best_new("next_sibling", k=3):
        print(f"  {found.probability:.3f}  {found.head} {found.relation} {found.tail}")

    grown = run.with_entity("newcomer", [("n001", "parent_of", "newcomer")], generator=torch.Generator().manual_seed(0))
    print("nearest to a new child of n001:", ", ".join(answer.name for answer in grown.neighbours("newcomer", k=4)))

    export(run, Path(folder) / "tree.npz")
    print("curvatures of the relations:", [round(c, 2) for c in run.model.curvatures().tolist()[:3]])
