"""A geoembed distance inside losses of pytorch-metric-learning, and the same losses of geoembed: values and gradients.

python examples/pml_loss.py          (needs the extra: pip install "geoembed[interop]")

`as_pml` brings any distance to code that is built on that library. Losses of geoembed need no adapter, make no list of
triplets, and take what that library does not: point sets, proxies on a manifold, asymmetric distances.
"""

import argparse

import torch

from geoembed.distances import SNR, Euclidean, Geodesic
from geoembed.errors import MissingDependencyError
from geoembed.interop.pml import as_pml
from geoembed.losses import NCA, Contrastive, Triplet
from geoembed.manifolds import PoincareBall

try:
    from pytorch_metric_learning import losses
except ImportError:
    raise MissingDependencyError('this needs pytorch-metric-learning; pip install "geoembed[interop]"') from None

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--quick", action="store_true", help="a small batch")
args = parser.parse_args()

generator = torch.Generator().manual_seed(0)
n, ball = 32 if args.quick else 256, PoincareBall()
labels = torch.arange(n) // 4
points = ball.random(n, 16, std=0.5, generator=generator, dtype=torch.float64).requires_grad_()

PAIRS = {
    "triplet": (lambda d: losses.TripletMarginLoss(0.2, distance=as_pml(d)), lambda d: Triplet(d, margin=0.2)),
    "contrastive": (lambda d: losses.ContrastiveLoss(0.5, 3.0, distance=as_pml(d)),
                    lambda d: Contrastive(d, positive_margin=0.5, margin=3.0)),
    "NCA": (lambda d: losses.NCALoss(distance=as_pml(d)), NCA),
}  # fmt: skip


def value_and_gradient(loss):
    value = loss(points, labels)
    return value.detach(), *torch.autograd.grad(value, points)


print(f"{'loss':12} {'distance':10} theirs       ours")
for name, (theirs, ours) in PAIRS.items():
    for distance in (Geodesic(ball), Euclidean(), SNR()):
        a, b = value_and_gradient(theirs(distance)), value_and_gradient(ours(distance))
        print(f"{name:12} {type(distance).__name__:10} {a[0]:.9f}  {b[0]:.9f}")
        torch.testing.assert_close(a, b)  # raises unless equal to the seventh digit
print("values and gradients are equal")
