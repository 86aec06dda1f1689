"""Trees in the plane against chains of isometries in high precision, networkx' paths, and loops over single pairs."""

import math

import mpmath
import networkx as nx
import numpy as np
import pytest
import torch
from sklearn.metrics import average_precision_score

from geoembed.combinatorial import embed_tree, smallest_scale
from geoembed.data import Closure, load
from geoembed.data.trees import root_tree, spanning_tree
from geoembed.errors import DataError, DataWarning, DomainError, NumericalWarning, ShapeError
from geoembed.manifolds import Euclidean, HalfSpace, HTiling, Lorentz, PoincareBall
from geoembed.neighbourhoods import rank_neighbours
from geoembed.reconstruction import distortion

FLOATS = [PoincareBall, Lorentz, HalfSpace]


def random_tree(n, seed=0):
    """Row 0 is the root, later rows hang below earlier ones; some nodes have many children."""
    rng = np.random.default_rng(seed)
    return np.array([-1, *(int(i * rng.random() ** 2) for i in range(1, n))])


def graph_of(parents):
    graph = nx.Graph()
    graph.add_nodes_from(range(len(parents)))
    graph.add_edges_from((i, int(p)) for i, p in enumerate(parents) if p >= 0)
    return graph


def paths_of(graph):
    """(lengths, numbers of edges) between all pairs of nodes 0 .. n - 1."""
    n = len(graph)
    return (np.array([[d[j] for j in range(n)] for _, d in sorted(found)]) for found in (
        nx.all_pairs_dijkstra_path_length(graph), nx.all_pairs_shortest_path_length(graph)
    ))  # fmt: skip


def edges_of(parents):
    parents = torch.as_tensor(parents)
    child = (parents >= 0).nonzero().squeeze(1)
    return torch.stack([child, parents[child]], 1)


def matrix(embedded):
    return embedded.manifold.cdist(embedded.points, embedded.points)


def radii(embedded):
    points = embedded.points
    return embedded.manifold.dist(points, embedded.manifold.origin(*points.shape, dtype=points.dtype))


# ------------------------------------------------------------------------------------ where the points are


def by_isometries(parents, scale, digits):
    """Distances of all pairs: each node's frame is that of its parent, turned, moved along and turned about."""
    with mpmath.workdps(digits):

        def turn(angle):
            return mpmath.matrix(
                [[1, 0, 0], [0, mpmath.cos(angle), -mpmath.sin(angle)], [0, mpmath.sin(angle), mpmath.cos(angle)]]
            )

        t = mpmath.mpf(scale)
        move = mpmath.matrix([[mpmath.cosh(t), mpmath.sinh(t), 0], [mpmath.sinh(t), mpmath.cosh(t), 0], [0, 0, 1]])
        frames = {}
        children = [[i for i, p in enumerate(parents) if p == node] for node in range(len(parents))]
        for node, parent in enumerate(parents):
            if parent < 0:
                frames[node] = mpmath.eye(3)
                continue
            inner = int(parents[parent] >= 0)
            slots = len(children[parent]) + inner
            angle = 2 * mpmath.pi * (children[parent].index(node) + inner) / slots
            frames[node] = frames[parent] * turn(angle) * move * turn(mpmath.pi)
        at = [frames[i][:, 0] for i in range(len(parents))]
        cosh = [[x[0] * y[0] - x[1] * y[1] - x[2] * y[2] for y in at] for x in at]
        distances = [[float(mpmath.acosh(max(value, 1))) for value in row] for row in cosh]
        return torch.tensor(distances, dtype=torch.float64)


@pytest.mark.parametrize(("n", "scale"), [(25, 0.5), (25, 6.0), (25, 25.0), (6, 400.0)])
def test_distances_in_high_precision(n, scale):
    parents = random_tree(n)
    expected = by_isometries(parents, scale, digits=60 + int(8 * scale))
    got = matrix(embed_tree(parents, scale=scale))
    torch.testing.assert_close(got, expected, rtol=1e-13, atol=2e-14)


@pytest.mark.parametrize("make", FLOATS)
@pytest.mark.parametrize("c", [1.0, 0.25])
def test_models_agree_where_floats_hold(make, c):
    parents = random_tree(60)
    exact = matrix(embed_tree(parents, scale=0.7))
    for manifold in (make(c), HTiling(2, 2, c)):
        embedded = embed_tree(parents, manifold, scale=0.7)
        torch.testing.assert_close(matrix(embedded), exact / c**0.5, rtol=1e-11, atol=1e-12)
        assert embedded.manifold is manifold


def test_float32():
    parents = random_tree(60)
    embedded = embed_tree(parents, scale=9.0, dtype=torch.float32)
    assert embedded.points.dtype == torch.float32
    torch.testing.assert_close(matrix(embedded).double(), matrix(embed_tree(parents, scale=9.0)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("weighted", [False, True])
def test_bounds(seed, weighted):
    """L - (k - 1) tau_0 <= d <= L, with equality at an edge; every pair of neighbours is nearest."""
    graph = graph_of(random_tree(120, seed))
    rng = np.random.default_rng(seed)
    if weighted:
        nx.set_edge_attributes(graph, {edge: rng.uniform(0.3, 3) for edge in graph.edges}, "weight")
    lengths, steps = paths_of(graph)
    least = smallest_scale(max(degree for _, degree in graph.degree))
    embedded = embed_tree(graph)
    shortest = min(w for *_, w in graph.edges(data="weight", default=1.0))
    assert embedded.scale == pytest.approx((least + 1) / shortest)
    assert embedded.nodes == list(graph)
    order = np.argsort(embedded.nodes)
    got = matrix(embedded).numpy()[order][:, order]
    path = embedded.scale * lengths
    assert (got <= path * (1 + 1e-14)).all()
    assert (got >= path - np.maximum(steps - 1, 0) * least - 1e-10).all()
    np.testing.assert_allclose(got[steps == 1], path[steps == 1], rtol=1e-13)
    assert radii(embedded).max() <= embedded.radius * (1 + 1e-14)


def test_distortion_falls_to_one():
    parents = random_tree(80)
    closure = Closure.from_pairs(
        (f"{i:03}", f"{p:03}") for i in range(80) for p in nx.descendants(nx.DiGraph(edges_of(parents).tolist()), i)
    )
    assert spanning_tree(closure).tolist() == parents.tolist()
    least = smallest_scale(int(edges_of(parents).flatten().bincount().max()))
    found = []
    for scale in (least + 1, 2 * least, 10 * least, 100 * least):
        embedded = embed_tree(closure, scale=scale)
        found.append(distortion(embedded.points, embedded.manifold, closure))
        assert 1 <= found[-1].worst <= scale / (scale - least) + 1e-12
    for better, worse in zip(found[1:], found, strict=False):
        assert better.worst < worse.worst
        assert better.mean < worse.mean
    assert found[-1].worst < 1.02


def test_smallest_scale_is_the_smallest():
    """In a deep tree of constant degree, just above it all precisions are 1, and somewhat below they are not."""
    graph = nx.balanced_tree(2, 9)
    graph.add_edge(0, len(graph))  # 3 neighbours at the root, too
    edges = torch.tensor(list(graph.edges))
    for factor, exact in ((1.001, True), (0.8, False)):
        embedded = embed_tree(graph, scale=factor * smallest_scale(3))
        precisions = rank_neighbours(embedded.points, embedded.manifold, edges).precisions
        assert bool((precisions == 1).all()) is exact


# ------------------------------------------------------------------------------------ shapes of trees


@pytest.mark.parametrize(("n", "scale"), [(500, 1.0), (4, 1500.0)])  # long edges are walked in several steps
def test_a_path(n, scale):
    """A straight line."""
    embedded = embed_tree(nx.path_graph(n), scale=scale)
    steps = torch.arange(n, dtype=torch.float64)
    torch.testing.assert_close(matrix(embedded), scale * (steps - steps[:, None]).abs(), rtol=1e-12, atol=0)
    assert embedded.radius == n // 2 * scale
    assert embed_tree(nx.path_graph(n)).scale == 1.0


@pytest.mark.parametrize("make", FLOATS)
def test_floats_fail_and_say_so(make):
    tree = nx.balanced_tree(2, 8)
    edges = torch.tensor(list(tree.edges))
    with pytest.warns(
        NumericalWarning, match=r"of 510 edges do not have their length.*HTiling\(2, limbs=3\)"
    ) as caught:
        failed = embed_tree(tree, make(), scale=8.0)
    assert caught[0].filename == __file__
    assert failed.radius == 64
    finite = failed.points.isfinite().all(1, keepdim=True)  # on the hyperboloid some are not
    points = torch.where(finite, failed.points, failed.points[0])
    assert rank_neighbours(points, failed.manifold, edges).metrics()["map"] < 0.8
    exact = embed_tree(tree, scale=8.0)
    assert rank_neighbours(exact.points, exact.manifold, edges).metrics()["map"] == 1


def test_a_star():
    embedded = embed_tree(nx.star_graph(3000))
    assert embedded.radius == embedded.scale == smallest_scale(3000) + 1
    from_leaf = embedded.manifold.dist(embedded.points[1], embedded.points[1:])
    j = torch.arange(3000, dtype=torch.float64)
    expected = 2 * torch.asinh(math.sinh(embedded.scale) * (math.pi * j / 3000).sin())
    torch.testing.assert_close(from_leaf, expected, rtol=1e-12, atol=0)
    edges = torch.tensor(list(nx.star_graph(3000).edges))
    assert bool((rank_neighbours(embedded.points, embedded.manifold, edges, sample=20).precisions == 1).all())


def test_one_node_and_one_edge():
    for tree in ([-1], nx.empty_graph(1)):
        embedded = embed_tree(tree)
        assert radii(embedded).item() == 0
        assert (embedded.radius, embedded.parents.tolist()) == (0, [-1])
    assert matrix(embed_tree([-1, 0]))[0, 1].item() == pytest.approx(1)


def test_a_forest():
    """Its roots are spread around an added one, which has no point."""
    parents = torch.tensor([-1, 0, 0, -1, 3, -1])
    with pytest.warns(DataWarning, match="3 roots were joined below an added one") as caught:
        embedded = embed_tree(parents, scale=5.0)
    assert caught[0].filename == __file__
    assert embedded.parents.tolist() == parents.tolist()
    assert embedded.nodes == list(range(6))
    assert len(embedded.points) == 6
    apart = 2 * math.asinh(math.sinh(5) * math.sin(math.pi / 3))
    got = matrix(embedded)
    torch.testing.assert_close(got[[0, 0, 3], [3, 5, 5]], torch.full((3,), apart, dtype=torch.float64))
    assert got[0, 1].item() == pytest.approx(5)


def test_roots():
    graph = nx.random_labeled_tree(80, seed=3)
    farthest = [root_tree(graph, root).paths.max().item() for root in graph]
    assert root_tree(graph).paths.max().item() == min(farthest)
    embedded = embed_tree(graph, root=7)
    row = embedded.nodes.index(7)
    assert embedded.parents[row] == -1
    assert radii(embedded)[row] == 0
    parents = random_tree(80)
    assert root_tree(parents).parents.tolist() == parents.tolist()
    assert root_tree(parents, 9).parents.tolist()[9] == -1


def test_spanning_tree():
    """Of several direct parents, the one with the fewest direct neighbours."""
    rng = np.random.default_rng(0)
    graph = nx.DiGraph((f"{i:02}", f"{int(rng.integers(i)):02}") for i in range(1, 60) for _ in range(2))
    direct = nx.transitive_reduction(graph)
    closure = Closure.from_networkx(graph)
    several = 0
    for node, parent in zip(closure.nodes, spanning_tree(closure).tolist(), strict=True):
        above = list(direct.successors(node))
        several += len(above) > 1
        if above:
            assert closure.nodes[parent] in above
            assert direct.degree(closure.nodes[parent]) == min(map(direct.degree, above))
        else:
            assert parent == -1
    assert several > 5


def test_mammals():
    closure = load("wordnet-mammals")
    embedded = embed_tree(closure)
    assert embedded.nodes == closure.nodes
    tree = rank_neighbours(embedded.points, embedded.manifold, edges_of(embedded.parents))
    assert tree.metrics() == {"mr": 1.0, "map": 1.0}
    graph = rank_neighbours(embedded.points, embedded.manifold, closure.parents())
    assert 0.999 < graph.metrics()["map"] < 1  # one node has two parents


# ------------------------------------------------------------------------------------ precision


def brute(points, manifold, edges):
    """{node: average precision}, by scikit-learn."""
    graph = nx.Graph(edges.tolist())
    result = {}
    for node in sorted(graph):
        others = [i for i in range(len(points)) if i != node]
        near = [-manifold.dist(points[node], points[i]).item() for i in others]
        result[node] = average_precision_score([graph.has_edge(node, i) for i in others], near)
    return result


@pytest.mark.parametrize("budget", [1, 1 << 20])
def test_precision(budget):
    """Of random points, and of points of a grid, where many distances are equal and many points coincide."""
    g = torch.Generator().manual_seed(0)
    edges = torch.cat([edges_of(random_tree(30)), torch.tensor([[3, 20], [20, 3], [7, 25], [8, 25], [7, 25]])])
    grid, tiled = torch.randint(3, (30, 2), generator=g).double(), HTiling(2, 2)
    random = tiled.random(30, 5, std=9.0, generator=g, dtype=torch.float64)
    for points, manifold in ((random, tiled), (grid, Euclidean())):
        expected = brute(points, manifold, edges)
        got = rank_neighbours(points, manifold, edges, budget=budget)
        assert got.sources.tolist() == list(expected)
        assert got.precisions.tolist() == pytest.approx(list(expected.values()), rel=1e-12)
        some = torch.tensor([20, 3, 9])
        part = rank_neighbours(points, manifold, edges, sources=some)
        assert dict(zip(part.sources.tolist(), part.precisions.tolist(), strict=True)) == pytest.approx(
            {node: expected[node] for node in (3, 9, 20)}, rel=1e-12
        )
    sampled = rank_neighbours(grid, Euclidean(), edges, sample=10, generator=g)
    assert len(sampled.sources) == 10
    assert sampled.protocol.startswith("neighbours among all 30 nodes, the node itself and other neighbours removed")


def test_bad_neighbours():
    points = torch.zeros(4, 2, dtype=torch.float64)
    for edges, error, message in (
        (torch.zeros(0, 2, dtype=torch.int64), DataError, "no neighbours to rank"),
        (torch.tensor([[0, 1, 2]]), ShapeError, r"expected int64 \(m, 2\)"),
        (torch.tensor([[0.0, 1.0]]), ShapeError, "got torch.float32"),
        (torch.tensor([[0, 4]]), DataError, r"ids must lie in \[0, 4\)"),
        (torch.tensor([[2, 2]]), DataError, "own ancestor"),
    ):
        with pytest.raises(error, match=message):
            rank_neighbours(points, Euclidean(), edges)
    with pytest.raises(DataError, match="no neighbours to rank"):
        rank_neighbours(points, Euclidean(), torch.tensor([[0, 1]]), sources=torch.tensor([2]))
    with pytest.raises(DomainError, match="NaN"):
        rank_neighbours(points * math.nan, Euclidean(), torch.tensor([[0, 1]]))


# ------------------------------------------------------------------------------------ bad input


def with_edge(graph, *edge, **data):
    graph.add_edge(*edge, **data)
    return graph


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (nx.Graph(), "at least one node"),
        ([], "at least one node"),
        (with_edge(nx.path_graph(3), 1, 1), "no self-loops, here 1 is joined to itself"),
        (nx.cycle_graph(["a", "b", "c"]), "no cycles, here 'a' - 'b' - 'c' - 'a' is one"),
        (with_edge(nx.MultiGraph([(0, 1)]), 0, 1), "no cycles, here 0 - 1 - 0"),
        (nx.DiGraph([(0, 1), (1, 0)]), "no cycles, here 0 - 1 - 0"),
        (nx.Graph([(0, 1), (2, 3)]), "has 2 parts: nothing joins 0 and 2"),
        (nx.disjoint_union(nx.path_graph(2), nx.cycle_graph(3)), "no cycles, here 2 - 3 - 4 - 2"),
        ([1, 2, 0], "no cycles, here 0 - 1 - 2 - 0"),
        ([-1, 2, 1], "no cycles, here 1 - 2 - 1"),
        ([-1, 1], "no self-loops, here 1"),
        ([-1, 2], "expected rows 0 to 1, or -1 for a root, got -1 to 2"),
        ([-2, 0], "got -2 to 0"),
        (with_edge(nx.Graph(), "a", "b", weight=0.0), "weights must be positive and finite; 1 are not, the first is 0"),
        (with_edge(nx.Graph(), 0, 1, weight=math.nan), "the first is nan, 0 - 1"),
        (with_edge(nx.Graph(), 0, 1, weight=-1), "the first is -1.0"),
    ],
)
def test_no_tree(tree, message):
    with pytest.raises(DataError, match=message):
        embed_tree(tree)


def test_bad_arguments():
    with pytest.raises(ShapeError, match=r"parents: expected int64 \(n,\), got float64 \(2,\)"):
        embed_tree([-1.0, 0.0])
    with pytest.raises(ShapeError, match=r"got int64 \(1, 2\)"):
        embed_tree(torch.tensor([[-1, 0]]))
    with pytest.raises(DataError, match="'z' is not among the 3 nodes"):
        embed_tree(nx.path_graph(3), root="z")
    for scale in (0.0, -1.0, math.inf, math.nan):
        with pytest.raises(DomainError, match="scale: expected the length"):
            embed_tree([-1, 0], scale=scale)
    with pytest.raises(DomainError, match="expected a hyperbolic plane, such as HTiling"):
        embed_tree([-1, 0], Euclidean())
    with pytest.raises(ShapeError, match="has dimension 3, not 2"):
        embed_tree([-1, 0], HTiling(3, 2))
    with pytest.raises(DomainError, match=r"the tree reaches radius 250\..*limbs=10 hold the whole tree"):
        embed_tree(nx.path_graph(500), HTiling(2, 4))
    cyclic = Closure(["a", "b"], torch.tensor([[0, 1], [1, 0]]))
    with pytest.raises(DataError, match="a hierarchy has no cycles"):
        embed_tree(cyclic)
