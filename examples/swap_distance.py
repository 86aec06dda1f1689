"""Swap the distance under one loss: everything else, margin included, stays as it is.

python examples/swap_distance.py          (needs the extra: pip install "geoembed[interop]")

Images of the digits 0 to 4 train an encoder, which then searches other images of them, and the digits 5 to 9, of which
it saw none. Five digits teach little about five others: there the pixels, untrained, do better. Whole tables of losses
and distances, with a tuning budget and verdicts: geoembed compare.
"""

import argparse

import torch
from torch import nn

from geoembed.data import MPerClass, class_halves, load_labelled
from geoembed.distances import SNR, Cosine, Euclidean, Geodesic, Lp
from geoembed.losses import Triplet
from geoembed.manifolds import PoincareBall
from geoembed.models import MLP, HyperbolicHead
from geoembed.quality import interval, retrieval_metrics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="two seeds, a few batches")
args = parser.parse_args()

digits = load_labelled("digits")
known, unseen = (digits[index] for index in class_halves(digits.labels))
held_out = torch.arange(len(known)) % 4 == 0
train, parts = known[~held_out], (known[held_out], unseen)


def trained(distance, seed):
    generator = torch.Generator().manual_seed(seed)
    model = MLP(64, 32, generator=generator)
    if distance.space is not None:
        model = nn.Sequential(model, HyperbolicHead(distance.space))
    loss = Triplet(distance, margin="auto")  # 0.2 of the median distance of negatives in the first batch
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-3)
    for _ in range(1 if args.quick else 5):
        for batch in MPerClass(train.labels, m=8, batch_size=40, generator=generator):
            optimizer.zero_grad()
            loss(model(train.items[batch]), train.labels[batch]).backward()
            optimizer.step()
    return model


def figures(model, distance):
    with torch.no_grad():
        return [retrieval_metrics(distance, model(part.items), part.labels).map_at_r for part in parts]


DISTANCES = {"Euclidean": Euclidean(), "Manhattan": Lp(1), "cosine": Cosine(), "SNR": SNR()}
DISTANCES["Poincare"] = Geodesic(PoincareBall())

print(f"{'MAP@R, mean of seeds and 95 % interval':42} {'new images of 0 to 4':25} the digits 5 to 9")
for name, distance in DISTANCES.items():
    values = [figures(trained(distance, seed), distance) for seed in range(2 if args.quick else 5)]
    print(f"{name:42}", *(f"{interval(column)!s:25}" for column in zip(*values, strict=True)))
print(f"{'pixels, Euclidean':42}", *(f"{value:<25.4f}" for value in figures(nn.Identity(), Euclidean())))
