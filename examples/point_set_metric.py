"""Learn a metric between point sets: encode points and compare sets by sliced Wasserstein, or pool a set to a vector.

python examples/point_set_metric.py

A class is a random closed curve, an item 30 to 59 noisy points of it, turned and scaled a little. The encoders learn
from half of the curves; MAP@R among items of the other half shows which way of comparing sets serves better.
"""

import argparse

import torch

from geoembed import PointSets
from geoembed.data import MPerClass, class_halves
from geoembed.distances import Euclidean, SlicedWasserstein
from geoembed.losses import Triplet
from geoembed.models import PointEncoder, SetEncoder
from geoembed.quality import compare_all, interval, retrieval_metrics

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="few curves, seeds and batches")
args = parser.parse_args()
classes, each, seeds, epochs = (8, 8, 2, 1) if args.quick else (40, 20, 5, 10)
labels = torch.arange(classes).repeat_interleave(each)
train, test = class_halves(labels)
frequencies = torch.tensor([-4, -3, -2, -1, 1, 2, 3, 4])


class Pooled(PointEncoder):
    """The mean of the encoded points."""

    def forward(self, x):
        sets = super().forward(x)
        return (sets.weights.unsqueeze(-2) @ sets.points).squeeze(-2)


sliced = SlicedWasserstein(4, 32, generator=torch.Generator().manual_seed(0))
METHODS = {
    "DeepSets, Euclidean": (lambda g: SetEncoder(2, 32, generator=g), Euclidean()),
    "points pooled, Euclidean": (lambda g: Pooled(2, 32, generator=g), Euclidean()),
    "points, sliced Wasserstein": (lambda g: PointEncoder(2, 4, generator=g), sliced),
}


def drawn(generator):
    """Point sets: z(t) = sum_k c_k e^{ikt} / |k| at random t, c the random coefficients of the curve."""
    curves = torch.randn(classes, len(frequencies), generator=generator, dtype=torch.complex64) / frequencies.abs()
    sets = []
    for label in labels:
        n = int(torch.randint(30, 60, (), generator=generator))
        t = 2 * torch.pi * torch.rand(n, 1, generator=generator)
        turn, *noise = torch.randn(n + 1, generator=generator, dtype=torch.complex64)
        z = torch.exp(1j * t * frequencies) @ curves[label]
        sets.append(torch.view_as_real((1 + 0.2 * turn) * z + 0.15 * torch.stack(noise)))
    return PointSets.from_list(sets)


def trained(build, distance, sets, generator):
    model, loss = build(generator), Triplet(distance, margin="auto")
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3)
    for _ in range(epochs):
        for batch in MPerClass(labels[train], m=4, batch_size=min(40, 2 * classes), generator=generator):
            optimizer.zero_grad()
            loss(model(sets[train[batch]]), labels[train[batch]]).backward()
            optimizer.step()
    with torch.no_grad():
        return retrieval_metrics(distance, model(sets[test]), labels[test]).map_at_r


values = {name: [] for name in METHODS}
for seed in range(seeds):
    sets = drawn(torch.Generator().manual_seed(seed))
    for name, (build, distance) in METHODS.items():
        values[name].append(trained(build, distance, sets, torch.Generator().manual_seed(seed)))
print(f"MAP@R of {classes // 2} unseen curves, mean of {seeds} seeds and 95 % interval")
for name, scores in values.items():
    print(f"{name:28} {interval(scores)}")
print("differences:", *compare_all(values), sep="\n")
