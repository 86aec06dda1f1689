"""Pictures of embeddings on the Poincare disk: points, geodesics, and as many names as fit.

`plot_embedding` draws a model: its own points if it is two-dimensional, else a hyperbolic map made from it (see
`geoembed.layout`); the caption under the picture says which. `plot_disk` draws points that you have. Both make a
`Picture` for `geoembed.drawing`.
"""

import os
from collections.abc import Sequence
from typing import NamedTuple

import geoopt
import numpy as np
import torch
from numpy.typing import ArrayLike

from geoembed import layout
from geoembed.data import Triples
from geoembed.drawing import Picture, check_extension, draw
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import Euclidean
from geoembed.manifolds.hyperbolic import Hyperbolic
from geoembed.models import GraphModel

__all__ = ["plot_disk", "plot_embedding"]

StrPath = str | os.PathLike[str]
MAX_EDGES = 20_000  # of a graph without hierarchy; more only blacken the disk

# Paul Tol's "muted" scheme, made to be told apart by colour-blind readers; neighbours in this order differ most
PALETTE = ("#332288", "#DDAA33", "#117733", "#CC6677", "#44AA99", "#882255", "#88CCEE", "#999933", "#AA4499")
REST = "#8C8C8C"


def plot_disk(
    points: ArrayLike,
    names: Sequence[str],
    edges: ArrayLike,
    path: StrPath,
    *,
    labels: int = 40,
    colours: Sequence[str] | None = None,
    weights: ArrayLike | None = None,
    opacity: ArrayLike | None = None,
    title: str | None = None,
    caption: str | None = None,
) -> None:
    """Draw points of the Poincare disk (curvature -1), edges as geodesics, and names where there is room.

    Args:
        points: (n, 2), inside the unit disk.
        names: n of them. The suffix of a WordNet synset (".n.01") is left out where the rest is unique.
        edges: (m, 2) pairs of row numbers, m may be 0.
        path: the file; its ending says the format (.png, .svg, .pdf and whatever else matplotlib writes).
        labels: at most so many names.
        colours: of the points, n matplotlib colours; an edge has the colour of its second point.
        weights: (n,) >= 0, importance: the size of a dot and who is named first. By default the number of edges.
        opacity: (m,) in [0, 1], of the edges.
        title, caption: above and below the disk.

    Raises:
        ShapeError: shapes do not fit together. DomainError: NaN, points outside the disk, numbers of no point.
        DataError: a file ending that matplotlib does not write. CheckpointError: the file cannot be written.
    """
    check_extension(path)
    xy = _numbers("points", points, (len(names), 2))
    bad = np.flatnonzero(~(np.hypot(xy[:, 0], xy[:, 1]) < 1))
    if len(bad):
        raise DomainError(
            f"points: {len(bad)} of {len(xy)} rows are not inside the unit disk, the first is row {bad[0]}: "
            f"{xy[bad[0]].tolist()}. Divide points of curvature -c by their radius: multiply them by sqrt(c)."
        )
    pairs = np.asarray(edges)
    pairs = pairs.reshape(-1, 2) if pairs.size == 0 else pairs
    if pairs.ndim != 2 or pairs.shape[1] != 2 or (pairs.size and pairs.dtype.kind not in "iu"):
        raise ShapeError(f"edges: expected integers (m, 2), got {pairs.dtype} {pairs.shape}")
    pairs = pairs.astype(np.int64)
    if pairs.size and (pairs.min() < 0 or pairs.max() >= len(xy)):
        raise DomainError(f"edges: expected row numbers 0 to {len(xy) - 1}, got {pairs.min()} to {pairs.max()}")
    if weights is None:
        weight = np.bincount(pairs.ravel(), minlength=len(xy)).astype(float) + 1
    else:
        weight = _numbers("weights", weights, (len(xy),), low=0)
    alpha = np.full(len(pairs), 0.6) if opacity is None else _numbers("opacity", opacity, (len(pairs),), 0, 1)
    if colours is not None and len(colours) != len(xy):
        raise ShapeError(f"colours: expected one for each of {len(xy)} points, got {len(colours)}")
    colours = [PALETTE[0]] * len(xy) if colours is None else list(colours)
    z = xy[:, 0] + 1j * xy[:, 1]
    draw(Picture(z, list(names), pairs, weight, weight, colours, alpha, title, caption), path, labels)


def plot_embedding(model: GraphModel, triples: Triples, path: StrPath, *, labels: int = 40) -> None:
    """Draw a model of a graph: its own points if they are two-dimensional, else a hyperbolic map made from it.

    The map is of the relation that is most of a hierarchy: of an entity's parents it keeps the one that the model
    finds most probable, siblings with like coordinates are neighbours, and edges that the model gives a lower
    probability are fainter and longer. A graph without hierarchy is projected to two dimensions instead.

    Args:
        model: trained on `triples`.
        path: the file; its ending says the format (.png, .svg, .pdf and whatever else matplotlib writes).
        labels: at most so many names.

    Raises:
        ShapeError: model and triples differ in size. DomainError: coordinates are NaN or infinite.
        DataError: a file ending that matplotlib does not write. CheckpointError: the file cannot be written.
    """
    check_extension(path)
    sizes = (model.n_entities, triples.n_entities)
    if sizes[0] != sizes[1]:
        raise ShapeError(f"the model has {sizes[0]} entities, the triples have {sizes[1]}; they must be of one graph")
    u = _numbers("coordinates of the model", model.tangent_coordinates().cpu(), (sizes[0], model.dim))
    rows = torch.cat([triples.train, triples.valid, triples.test])
    tree = _tree(model, rows)
    if model.dim <= 2:
        z, about = own_points(model.manifold, u)
    elif tree is not None:
        z, about = layout.lay_out(tree.forest, u, tree.stretch), ""
    else:
        z, about = _projection(u)
    if tree is None:
        picture = _of_graph(model, rows, z, triples)
    else:
        child, _ = tree.forest.edges()
        about_lines = f"{triples.relations[tree.relation]}, fainter where the model gives a lower probability"
        picture = of_forest(tree.forest, z, triples.entities, 0.1 + 0.8 * tree.probability[child], about_lines)
    if not about and tree is not None:
        about = (
            f"A hyperbolic map of the {triples.relations[tree.relation]} hierarchy: {len(picture.names):,} of "
            f"{len(u):,} entities, each below the parent that the model finds most probable, siblings with like "
            "embeddings side by side, and farther out the less probable the model finds the edge"
        )
    draw(
        picture._replace(
            title=f"{triples.name}\n{model.describe()}",
            caption=f"{about}. {picture.caption}",
            flat=model.dim <= 2 and not isinstance(model.manifold, Hyperbolic),
        ),
        path,
        labels,
    )


class _Tree(NamedTuple):
    """The main hierarchy of a graph, and the model's probabilities of its edges."""

    relation: int
    forest: layout.Forest
    probability: np.ndarray  # (n,) of the edge from a node to its parent
    stretch: np.ndarray  # (n,) 0.75 for the most probable edge, 1.25 for the least


def _tree(model: GraphModel, rows: torch.Tensor) -> _Tree | None:
    relation = layout.main_hierarchy(rows.numpy(), model.n_entities)
    if relation is None:
        return None
    edges = rows[rows[:, 1] == relation]
    child, parent = edges[:, 0].numpy(), edges[:, 2].numpy()
    if not layout.is_a_tree_of(child, parent):
        child, parent = parent, child
    probability = _probabilities(model, edges)
    forest = layout.Forest(child, parent, probability, model.n_entities)
    kept = np.flatnonzero(forest.parent[child] == parent)
    of_node, stretch = np.ones(model.n_entities), np.ones(model.n_entities)
    of_node[child[kept]] = probability[kept]
    nodes = child[kept]
    stretch[nodes[np.argsort(-of_node[nodes], kind="stable")]] = np.linspace(0.75, 1.25, len(nodes))
    return _Tree(relation, forest, of_node, stretch)


def of_forest(
    forest: layout.Forest, z: layout.Points, names: Sequence[str], opacity: np.ndarray, about_lines: str
) -> Picture:
    """Dots by size of subtree, colours by branch; a node that is nearly all of its parent's tree is named late.

    z, names: of all nodes. opacity: of the edges, as `forest.edges` has them.
    """
    heads, branch = layout.main_branches(forest)
    place = np.empty(len(heads) + 1, np.int64)
    place[np.argsort(np.angle(z[heads]), kind="stable")] = np.arange(len(heads)) % len(PALETTE)  # neighbours differ
    palette = [PALETTE[i] for i in place[:-1]] + [REST]
    nodes, size = forest.order, forest.size
    above = forest.parent[nodes]
    news = np.where(above < 0, 1.0, 1 - size[nodes] / size[np.maximum(above, 0)])
    number = np.full(forest.n, -1)
    number[nodes] = np.arange(len(nodes))
    child, parent = forest.edges()
    return Picture(
        z[nodes],
        [names[i] for i in nodes],
        np.stack([number[parent], number[child]], 1),
        size[nodes].astype(float),
        size[nodes] * news,
        [palette[i] for i in branch[nodes]],
        opacity,
        caption=f"Lines: {about_lines}. Dots: larger with more below. Colours: main branches.",
        context=names,
    )


def _of_graph(model: GraphModel, rows: torch.Tensor, z: np.ndarray, triples: Triples) -> Picture:
    probability = _probabilities(model, rows)
    kept = np.sort(np.argsort(-probability, kind="stable")[:MAX_EDGES])
    which = "all" if len(kept) == len(rows) else f"the {len(kept):,} most probable of {len(rows):,}"
    degree = np.bincount(rows[:, [0, 2]].numpy().ravel(), minlength=len(z)).astype(float)
    return Picture(
        z,
        triples.entities,
        rows[kept][:, [0, 2]].numpy(),
        degree,
        degree,
        [PALETTE[0]] * len(z),
        0.05 + 0.5 * probability[kept],
        caption=f"Lines: {which} triples, fainter where the model gives a lower probability. Dots: larger with more "
        "triples.",
    )


def own_points(manifold: geoopt.Manifold, u: np.ndarray, true: bool = False) -> tuple[np.ndarray, str]:
    """Coordinates in the disk or, scaled to fit, in the plane, and what was done.

    u: (n, d <= 2) tangent coordinates. true: leave distances as they are, however many dots are on the rim.
    """
    u = np.pad(u, ((0, 0), (0, 2 - u.shape[1])))
    flat = u[:, 0] + 1j * u[:, 1]
    if not isinstance(manifold, Hyperbolic):
        space = "plane" if isinstance(manifold, Euclidean) else "tangent plane at the origin"
        low, high = (f(flat.real) + 1j * f(flat.imag) for f in (np.min, np.max))
        flat = flat - (low + high) / 2
        return flat * 0.97 / max(np.abs(flat).max(), 1e-300), f"The points themselves, in the {space}"
    c = float(manifold.c)
    flat *= np.sqrt(c)
    about = f"The points themselves, on the disk of curvature {-c:.3g}"
    far = max(float(np.quantile(np.abs(flat), 0.98)), 1e-12)
    if not (2 <= far <= 5 or true):  # else most of the disk is empty, or all dots are on its rim
        factor = (3 if far < 2 else 4) / far
        flat *= factor
        about += f", distances from the centre drawn {factor:.2g} times as long, directions as they are"
    return _from_tangent(flat), f"{about}; lines are geodesics between the points as drawn"


def _projection(u: np.ndarray) -> tuple[np.ndarray, str]:
    """The first two principal axes of the tangent coordinates, spread over the disk."""
    centred = u - u.mean(0)
    _, s, axes = np.linalg.svd(centred, full_matrices=False)
    axes = axes[:2] * np.sign(axes[:2, np.abs(axes[:2]).argmax(1)].diagonal())[:, None]
    flat = np.pad(centred @ axes.T, ((0, 0), (0, 2 - len(axes)))) @ np.array([1, 1j])
    flat *= 3 / max(float(np.quantile(np.abs(flat), 0.98)), 1e-12)
    share = (s[:2] ** 2).sum() / max((s**2).sum(), 1e-300)
    return _from_tangent(flat), (
        f"A map: the two main axes ({share:.0%} of the variance) of the tangent coordinates, scaled to fill the disk, "
        "as no relation of this graph is a hierarchy"
    )


def _from_tangent(flat: np.ndarray) -> np.ndarray:
    length = np.abs(flat)
    return np.minimum(np.tanh(length / 2), 1 - 1e-9) * flat / np.maximum(length, 1e-300)


def _probabilities(model: GraphModel, rows: torch.Tensor) -> np.ndarray:
    device = next(model.parameters()).device
    with torch.no_grad():
        blocks = [model(*block.to(device).unbind(1)).sigmoid().double().cpu() for block in rows.split(65536)]
    return torch.cat(blocks).numpy()


def _numbers(what: str, values: ArrayLike, shape: tuple[int, ...], low=-np.inf, high=np.inf) -> np.ndarray:
    """As float64 of the shape asked for, finite and within bounds."""
    array = np.asarray(values.detach().cpu() if isinstance(values, torch.Tensor) else values, dtype=np.float64)
    if array.shape != shape:
        raise ShapeError(f"{what}: expected shape {shape}, got {array.shape}")
    bad = np.argwhere(~(np.isfinite(array) & (array >= low) & (array <= high)))
    if len(bad):
        where = tuple(bad[0].tolist())
        bounds = "" if low == -np.inf else f" from {low}" + ("" if high == np.inf else f" to {high}")
        raise DomainError(
            f"{what}: expected finite numbers{bounds}; {len(bad)} of {array.size} are not, the first is "
            f"{array[where]} at {where}"
        )
    return array
