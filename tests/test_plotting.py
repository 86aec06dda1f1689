"""The disk picture: geodesics, forests, names without overlap, every fallback, bad input."""

import numpy as np
import pytest
import torch

from geoembed import layout
from geoembed.data import Triples
from geoembed.drawing import Picture, render, short_names
from geoembed.errors import CheckpointError, DataError, DomainError, ShapeError
from geoembed.manifolds import Lorentz, PoincareBall
from geoembed.models import MuRE, MuRP
from geoembed.plotting import plot_disk, plot_embedding


def disk(n, seed=0, radius=0.95):
    generator = np.random.default_rng(seed)
    return radius * np.sqrt(generator.random(n)) * np.exp(2j * np.pi * generator.random(n))


def test_arcs_are_geodesics():
    start, end = disk(50, 1), disk(50, 2)
    curves = layout.arcs(start, end, steps=33)
    np.testing.assert_allclose(curves[:, 0], start, atol=1e-12)
    np.testing.assert_allclose(curves[:, -1], end, atol=1e-12)
    a, b, c = curves[:, 3], curves[:, 16], curves[:, 29]  # the circle through three of the points
    w = (c - a) / (b - a)
    centre = a + (b - a) * (w - np.abs(w) ** 2) / (2j * w.imag)
    radius = np.abs(a - centre)
    np.testing.assert_allclose(np.abs(centre) ** 2, 1 + radius**2, rtol=1e-6)  # it meets the rim at right angles
    np.testing.assert_allclose(np.abs(curves - centre[:, None]), radius[:, None] * np.ones((1, 33)), rtol=1e-6)
    points = torch.view_as_real(torch.from_numpy(curves))
    steps = PoincareBall().dist(points[:, 1:], points[:, :-1])
    torch.testing.assert_close(steps, steps[:, :1].expand_as(steps), rtol=1e-7, atol=1e-10)  # equally spaced


def test_arcs_through_the_centre_and_of_one_point():
    np.testing.assert_allclose(layout.arcs(np.array([-0.5 + 0j]), np.array([0.5 + 0j]))[0].imag, 0, atol=1e-15)
    assert np.all(layout.arcs(np.array([0.3 + 0.1j]), np.array([0.3 + 0.1j])) == 0.3 + 0.1j)


def test_hierarchy_score():
    tree = np.array([(i, (i - 1) // 2) for i in range(1, 31)]).T
    assert layout.hierarchy(*tree, 31) == 1
    ring = np.array([(i, (i + 1) % 6) for i in range(6)]).T
    assert layout.hierarchy(*ring, 6) == 0
    # 0 <-> 1 -> 2: of the paths 0-1, 1-0, 0-2, 1-2 the last two are one way
    assert layout.hierarchy(np.array([0, 1, 1]), np.array([1, 0, 2]), 3) == 0.5
    assert layout.hierarchy(np.array([], int), np.array([], int), 3) == 0


def test_forest_keeps_the_best_parent_and_cuts_cycles():
    child = np.array([1, 2, 2, 3, 4, 5, 6, 6])
    parent = np.array([0, 0, 1, 1, 5, 4, 6, 4])  # 4 and 5 are each other's parent, 6 its own
    score = np.array([0.9, 0.2, 0.8, 0.5, 0.9, 0.3, 1.0, 0.1])
    forest = layout.Forest(child, parent, score, 8)
    assert forest.parent.tolist() == [-1, 0, 1, 1, 5, -1, 4, -1]
    assert forest.size.tolist() == [4, 3, 1, 1, 2, 3, 1, 0]
    assert forest.roots.tolist() == [0, 5]
    assert not forest.present[7]
    position = {node: i for i, node in enumerate(forest.order)}
    assert all(position[p] < position[c] for c, p in zip(*forest.edges(), strict=True))


def test_layout_puts_parents_inside_and_children_in_their_wedge():
    n = 200
    child = np.arange(1, n)
    forest = layout.Forest(child, (child - 1) // 3, np.ones(n - 1), n)
    z = layout.lay_out(forest, np.random.default_rng(0).normal(size=(n, 4)))
    assert (np.abs(z) < 1).all()
    assert z[0] == 0
    inner = np.abs(z[forest.parent[1:]])
    assert (np.abs(z[1:]) > inner).all()


def test_siblings_with_like_coordinates_are_neighbours():
    x = np.concatenate([np.zeros((5, 2)), np.ones((5, 2))])[[0, 5, 1, 6, 2, 7, 3, 8, 4, 9]]
    x += 0.01 * np.random.default_rng(0).normal(size=x.shape)
    groups = [int(i % 2) for i in layout.seriate(x)]
    assert groups in ([0] * 5 + [1] * 5, [1] * 5 + [0] * 5)


def test_names_do_not_overlap_and_lie_inside():
    z = disk(400, 3)
    weight = np.arange(400.0)
    edges = np.stack([np.arange(399), np.arange(1, 400)], 1)
    picture = Picture(
        z, [f"a_long_name_{i}.n.01" for i in range(400)], edges, weight, weight, ["#332288"] * 400, np.full(399, 0.5)
    )
    figure, texts = render(picture, 40)
    assert 20 <= len(texts) <= 40
    boxes = [text.get_window_extent() for text in texts]
    bounds = figure.axes[0].bbox
    for i, a in enumerate(boxes):
        assert a.x0 >= bounds.x0 - 1
        assert a.x1 <= bounds.x1 + 1
        assert not any(a.overlaps(b) for b in boxes[:i])


def test_short_names():
    names = ["sea_lion.n.01", "canine.n.01", "canine.n.02", "plain", "x" * 50]
    assert short_names(names)[:4] == ["sea lion", "canine.n.01", "canine.n.02", "plain"]
    assert len(short_names(names)[4]) < 50


def graph(edges, **more):
    return Triples.from_triples([(f"e{a:02}", r, f"e{b:02}") for a, r, b in edges], **more)


GRAPHS = {
    "one triple": graph([(0, "r", 1)]),
    "one entity": graph([(0, "r", 0)]),
    "tree": graph([(i, "is_a", (i - 1) // 2) for i in range(1, 60)]),
    "tree the other way": graph([((i - 1) // 2, "has", i) for i in range(1, 60)]),
    "ring": graph([(i, "next", (i + 1) % 12) for i in range(12)]),
    "symmetric": graph([(i, "like", j) for i in range(8) for j in range(8) if i != j]),
    "two trees": graph([(i, "is_a", (i - 1) // 2 if i < 30 else 30 + (i - 31) // 2) for i in range(1, 60) if i != 30]),
}


@pytest.mark.parametrize("dim", [1, 2, 5])
@pytest.mark.parametrize("name", GRAPHS)
def test_every_graph_gets_a_picture(tmp_path, name, dim):
    triples = GRAPHS[name]
    model = MuRP(
        triples.n_entities, 2 * triples.n_relations, dim, scale=1.0, generator=torch.Generator().manual_seed(0)
    )
    plot_embedding(model, triples, tmp_path / "disk.png", labels=8)
    data = (tmp_path / "disk.png").read_bytes()
    assert data.startswith(b"\x89PNG")
    plot_embedding(model, triples, tmp_path / "again.png", labels=8)
    assert (tmp_path / "again.png").read_bytes() == data


@pytest.mark.parametrize(
    "build", [MuRE, lambda *n: MuRP(*n, manifold=Lorentz(0.5)), lambda *n: MuRP(*n, tangent=False)]
)
def test_every_model_gets_a_picture(tmp_path, build):
    triples = GRAPHS["tree"]
    plot_embedding(build(triples.n_entities, 2, 2), triples, tmp_path / "disk.svg")
    assert "<svg" in (tmp_path / "disk.svg").read_text()


def test_own_points(tmp_path):
    plot_disk([[0.0, 0.0], [0.5, 0.5]], ["a", "b"], [[0, 1]], tmp_path / "disk.pdf", title="two\npoints")
    assert (tmp_path / "disk.pdf").read_bytes().startswith(b"%PDF")
    plot_disk(torch.zeros(1, 2), ["a"], [], tmp_path / "one.png")


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (([[0, 0, 0]], ["a"], []), ShapeError, r"expected shape \(1, 2\)"),
        (([[0, 2.0]], ["a"], []), DomainError, "not inside the unit disk, the first is row 0"),
        (([[0, np.nan]], ["a"], []), DomainError, "finite"),
        (([[0, 0]], ["a"], [[0, 1]]), DomainError, "row numbers 0 to 0"),
        (([[0, 0]], ["a"], [[0.5, 1]]), ShapeError, "integers"),
    ],
)
def test_bad_points(tmp_path, arguments, error, message):
    with pytest.raises(error, match=message):
        plot_disk(*arguments, tmp_path / "disk.png")
    assert list(tmp_path.iterdir()) == []


def test_bad_files(tmp_path):
    with pytest.raises(DataError, match="expected a file name that ends in one of"):
        plot_disk([[0, 0]], ["a"], [], tmp_path / "disk.xyz")
    with pytest.raises(CheckpointError, match="cannot write"):
        plot_disk([[0, 0]], ["a"], [], tmp_path / "none" / "disk.png")
    with pytest.raises(ShapeError, match="must be of one graph"):
        plot_embedding(MuRP(3, 2, 2), GRAPHS["tree"], tmp_path / "disk.png")
