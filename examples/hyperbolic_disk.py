"""Draw labels of two levels on the Poincare disk: intents in domains, or characters in alphabets.

GEOEMBED_DATA=<folder> python examples/hyperbolic_disk.py --data clinc150       writes hyperbolic-disk.png

A loss of the fine and one of the coarse labels train an encoder into two hyperbolic dimensions. Drawn are items that it
did not see, and the Frechet means of classes, joined to those of their group. What it is worth: hyperbolic_retrieval.py
"""

import argparse
import sys
from pathlib import Path

import torch
from matplotlib.patches import Patch
from torch import nn

from geoembed.data import MPerClass, load_labelled
from geoembed.distances import Geodesic
from geoembed.drawing import Picture, render, short_names
from geoembed.errors import DataError
from geoembed.losses import NTXent
from geoembed.manifolds import PoincareBall
from geoembed.models import MLP, ConvNet, HyperbolicHead
from geoembed.plotting import PALETTE, REST
from geoembed.quality import retrieval_metrics

EPOCHS = {"clinc150": 20, "omniglot": 30}
parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("--data", choices=EPOCHS, default="clinc150")
parser.add_argument("--picture", type=Path, default=Path("hyperbolic-disk.png"))
parser.add_argument("--quick", action="store_true", help="one epoch")
args = parser.parse_args()
try:
    data = load_labelled(args.data)
except DataError as error:
    print(f"skipped, for the data are not here: {error}")
    sys.exit()
data.items.div_(data.items.std())  # in place, for the features of clinc150 are small
new = torch.arange(len(data)) % 4 == 0
train, items = data[~new], data[new]

ball, generator = PoincareBall(), torch.Generator().manual_seed(0)
encode = ConvNet(2, generator=generator) if args.data == "omniglot" else MLP(256, 2, generator=generator)
encode = nn.Sequential(encode, HyperbolicHead(ball, clip=5.0))
loss, optimizer = NTXent(Geodesic(ball), temperature=0.3), torch.optim.Adam(encode.parameters(), lr=1e-3)
batches = MPerClass(train.labels, m=4, batch_size=120, generator=generator)
for _ in range(1 if args.quick else EPOCHS[args.data]):
    for batch in batches:
        z = encode(train.items[batch])
        optimizer.zero_grad()
        (loss(z, train.labels[batch]) + 0.5 * loss(z, train.coarse[batch])).backward()
        optimizer.step()
with torch.no_grad():
    z = torch.cat([encode(part) for part in items.items.split(500)])
found = [retrieval_metrics(loss.distance, z, labels).map_at_r for labels in (items.labels, items.coarse)]
print(f"MAP@R of new items of known classes: fine labels {found[0]:.3f}, coarse labels {found[1]:.3f}")

groups = [labels == c for labels in (items.coarse, items.labels) for c in labels.unique()]
means = torch.stack([ball.barycentre(z[group]) for group in groups])
above = torch.stack([items.coarse[group][0] for group in groups])
top, classes = len(data.coarse_names), len(data.label_names)
sizes = torch.tensor([1.0] * top + [0.06] * classes + [0.001] * len(z)).numpy()
palette = (*PALETTE, REST)
picture = Picture(
    z=torch.view_as_complex(torch.cat([means, z]).double()).numpy(),
    names=[""] * top + [name.split("/")[-1] for name in data.label_names] + [""] * len(z),
    edges=torch.stack([above[top:], torch.arange(top, top + classes)], 1).numpy(),
    size=sizes,
    importance=sizes,
    colours=[palette[i] for i in torch.cat([above, items.coarse])],
    opacity=torch.full((classes,), 0.5).numpy(),
    title=f"{classes} classes in {top} groups\n{args.data}; small dots: new items",
)
figure, _ = render(picture, labels=classes)
legend = [Patch(color=palette[c], label=name) for c, name in enumerate(short_names(data.coarse_names))]
figure.legend(handles=legend, loc="lower center", ncols=5, frameon=False, handlelength=1)
figure.savefig(args.picture)
