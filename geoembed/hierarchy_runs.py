"""A run folder of a hierarchy: what `geoembed train --task hierarchy` leaves behind.

run.json             format version, fingerprint and counts of the closure
config.toml          all settings
nodes.tsv            one name a line; the line number is the row of the points
points.safetensors   the trained points, in the coordinates of the manifold; of cones also those of the ranking before
metrics.jsonl        one line an epoch: loss, seconds, in the ranking learning rate, MR and MAP where they were measured
results.json         reconstruction, with hold_out prediction, with hold_out or cones how well pairs are told, each with
                     its protocol
disk.png, radius-depth.png   the pictures
checkpoints/         see `geoembed.checkpoint`
"""

from functools import cached_property
from pathlib import Path

import geoopt
import numpy as np
import torch
from torch import Tensor

from geoembed import checkpoint
from geoembed.config import HierarchyConfig
from geoembed.data import Closure, load
from geoembed.errors import CheckpointError, DataError, DomainError, ShapeError, UnknownNameError
from geoembed.hierarchy import SPACES
from geoembed.prediction import Answer
from geoembed.run_folder import RunFolder, task_of
from geoembed.runs import Run

__all__ = ["HierarchyRun", "closed", "load_closure", "open_run"]


class HierarchyRun(RunFolder[HierarchyConfig]):
    """A run folder and the points in it.

    >>> run = HierarchyRun.open("runs/wordnet-mammals-lorentz-5")  # doctest: +SKIP
    >>> run.ancestors("dog.n.01", k=3)  # doctest: +SKIP
    """

    task, tables, weights = "hierarchy", ("nodes",), "points.safetensors"

    @property
    def nodes(self) -> list[str]:
        return self.names["nodes"]

    @property
    def closure(self) -> Closure:
        """All pairs, those held out too; DataError if the data is not what the run was trained on any more."""
        return self.data

    def load_data(self) -> Closure:
        return load_closure(self.config)

    def divided(self) -> tuple[Closure, Tensor | None]:
        """The pairs that are trained on, and those held out, (m, 2), if there are any."""
        if not self.config.hold_out:
            return self.closure, None
        generator = torch.Generator().manual_seed((1000 * self.config.seed + 3) % 2**63)  # training has 0, 1, 2
        return self.closure.hold_out(self.config.hold_out, generator)

    @cached_property
    def manifold(self) -> geoopt.Manifold:
        return SPACES[self.config.manifold](self.config)

    @cached_property
    def points(self) -> Tensor:
        """The trained points, float64 (n_nodes, k)."""
        return self._load_points("points")

    @cached_property
    def ranked(self) -> Tensor:
        """The points as the ranking left them: other than `points` where cones were trained after it."""
        return self._load_points("ranked") if self.config.loss == "cones" else self.points

    def _load_points(self, name: str) -> Tensor:
        self.check_trained()
        points = checkpoint.load_weights(self.folder / self.weights).get(name)
        try:
            if points is None or points.dim() != 2 or len(points) != len(self.nodes):
                raise ShapeError(f"expected {len(self.nodes)} points")
            if self.manifold.dim_of(points.shape[1]) != self.config.dim:
                raise ShapeError(f"expected points of dimension {self.config.dim}")
        except ShapeError as error:
            raise CheckpointError(
                f"the points in {self.folder} do not fit its config.toml and nodes.tsv: {error}"
            ) from error
        return points.clone()  # a file is no place that complex numbers can be read from: they need 16-byte boundaries

    def save_points(self, points: Tensor, **more: Tensor) -> None:
        checkpoint.save_weights(self.folder / self.weights, {"points": points, **more})

    # ------------------------------------------------------------------------------------------------ queries

    def node(self, name: str) -> int:
        """Row of a node; UnknownNameError lists the closest names."""
        try:
            return self.nodes.index(name)
        except ValueError:
            raise UnknownNameError("node", name, self.nodes) from None

    @cached_property
    def radius(self) -> Tensor:
        """Distances of all points from the origin: (n_nodes,)."""
        origin = self.manifold.origin(*self.points.shape[1:], dtype=self.points.dtype)
        return self.manifold.dist(self.points, origin)

    def neighbours(self, name: str, k: int = 10) -> list[Answer]:
        """The k nodes nearest to a node, with their distances; `known` says which are above and which below it."""
        row = self.node(name)
        return self._nearest(row, torch.arange(len(self.nodes)) != row, k)

    def ancestors(self, name: str, k: int = 10) -> list[Answer]:
        """The nodes above a node as the points tell them: the k nearest ones among those closer to the origin."""
        row = self.node(name)
        return self._nearest(row, self.radius < self.radius[row], k)

    def _nearest(self, row: int, wanted: Tensor, k: int) -> list[Answer]:
        if k < 1:
            raise DomainError(f"k must be at least 1, got {k}")
        candidates = wanted.nonzero().squeeze(1)
        distances = self.manifold.dist(self.points[row], self.points[candidates])
        values, order = distances.sort(stable=True)
        known = self._relatives(row)
        rows = candidates[order[:k]].tolist()
        return [Answer(self.nodes[i], d, known.get(i)) for i, d in zip(rows, values.tolist(), strict=False)]

    def _relatives(self, row: int) -> dict[int, str]:
        """What the data says of other nodes: above or below; nothing where the data has moved."""
        try:
            child, ancestor = self.closure.pairs.unbind(1)
        except (DataError, UnknownNameError):
            return {}
        above, below = ancestor[child == row].tolist(), child[ancestor == row].tolist()
        return dict.fromkeys(above, "above") | dict.fromkeys(below, "below")


def open_run(folder: Path) -> Run | HierarchyRun:
    """The run in a folder, whatever its task."""
    return HierarchyRun.open(folder) if task_of(folder) == "hierarchy" else Run.open(folder)


def load_closure(config: HierarchyConfig) -> Closure:
    """The closure that a configuration names; pairs child, parent become the closure of all generations."""
    data = load(config.data)
    if not isinstance(data, Closure):
        raise DataError(
            f"{config.data} holds triples (head, relation, tail), not pairs child<TAB>parent; a graph is trained with "
            "--task graph"
        )
    return closed(data)


def closed(closure: Closure) -> Closure:
    """The transitive closure of the pairs, themselves where they are transitive. DataError for a cycle."""
    from scipy.sparse import csr_array

    closure.depths()  # raises for a cycle
    child, ancestor = closure.pairs.numpy().T
    above = csr_array((np.ones(len(child), bool), (child, ancestor)), shape=(closure.n_nodes, closure.n_nodes))
    while (more := above + above @ above).nnz > above.nnz:  # paths of twice the length each time
        above = more
    if above.nnz == len(child):
        return closure
    above.sort_indices()
    rows, columns = above.tocoo().coords
    pairs = torch.from_numpy(np.stack([rows, columns], 1).astype(np.int64))
    return Closure(closure.nodes, pairs, closure.name)
