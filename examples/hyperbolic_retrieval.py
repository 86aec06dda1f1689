"""Embed labels of two levels in hyperbolic space and search it: intents in domains, or characters in alphabets.

GEOEMBED_DATA=<folder> python examples/hyperbolic_retrieval.py --data clinc150       (or omniglot)

A loss of the fine and one of the coarse labels train an encoder into the Poincare ball, and one into as many Euclidean
dimensions; items of classes that neither saw are searched. A picture of such a disk: hyperbolic_disk.py.
"""

import argparse
import sys
from itertools import product

import torch

from geoembed.data import MPerClass, class_halves, load_labelled
from geoembed.distances import Euclidean, Geodesic
from geoembed.errors import DataError
from geoembed.losses import NTXent
from geoembed.manifolds import PoincareBall
from geoembed.models import MLP, ConvNet, HyperbolicHead
from geoembed.quality import compare, interval, retrieval_metrics

EPOCHS = {"clinc150": 5, "omniglot": 10}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", choices=EPOCHS, default="clinc150")
parser.add_argument("--quick", action="store_true", help="two seeds, an epoch each")
args = parser.parse_args()
try:
    data = load_labelled(args.data)
except DataError as error:
    print(f"skipped, for the data are not here: {error}")
    sys.exit()
data.items.div_(data.items.std())  # in place, for the features of clinc150 are small
seeds, epochs = (2, 1) if args.quick else (5, EPOCHS[args.data])


def split(part, seed):
    """Half of the classes, and the other half."""
    return [part[index] for index in class_halves(part.labels, generator=torch.Generator().manual_seed(seed))]


def clipped(radius):
    """What a hyperbolic head does to the length of a vector, so that the curvature alone is compared."""
    return lambda u: u * (radius / u.norm(dim=-1, keepdim=True).clamp(min=radius))


def scores(distance, dim, train, test, temperature, clip, seed=0):
    """MAP@R of the fine and of the coarse labels of test, after training on train."""
    generator = torch.Generator().manual_seed(seed)
    images = args.data == "omniglot"
    encode = ConvNet(dim, (16, 32, 32), generator=generator) if images else MLP(256, dim, generator=generator)
    head = clipped(clip) if distance.space is None else HyperbolicHead(distance.space, clip)
    loss, optimizer = NTXent(distance, temperature=temperature), torch.optim.Adam(encode.parameters(), lr=1e-3)
    batches = MPerClass(train.labels, m=4, batch_size=120, generator=generator)
    for batch in (batch for _ in range(epochs) for batch in batches):
        z = head(encode(train.items[batch]))
        optimizer.zero_grad()
        (loss(z, train.labels[batch]) + loss(z, train.coarse[batch])).backward()
        optimizer.step()
    with torch.no_grad():
        z = torch.cat([head(encode(items)) for items in test.items.split(500)])
    return [retrieval_metrics(distance, z, labels).map_at_r for labels in (test.labels, test.coarse)]


def runs(distance, dim):
    """Temperature and clip that are best on half of the training classes of one seed; scores of all seeds with them."""
    inner = split(splits[0][0], 0)
    best = max(product((0.1, 0.3, 1.0), (1.0, 2.0, 4.0)), key=lambda s: sum(scores(distance, dim, *inner, *s)))
    return best, zip(*[scores(distance, dim, *parts, *best, i) for i, parts in enumerate(splits)], strict=True)


splits = [split(data, seed) for seed in range(seeds)]
print(f"MAP@R of unseen classes, mean of {seeds} seeds and 95 % interval")
for dim in (2, 8):
    (one, curved), (two, plain) = runs(Geodesic(PoincareBall()), dim), runs(Euclidean(), dim)
    print(f"{dim} dimensions; temperature and clip {one}, Euclidean {two}")
    for level, a, b in zip(("fine", "coarse"), curved, plain, strict=True):
        found, means = compare(a, b, names=("hyperbolic", "Euclidean")), f"{interval(a)}, Euclidean {interval(b)}"
        print(f"  {level:6} labels: hyperbolic {means}: {found.verdict}, p = {found.p:.2g}", flush=True)
