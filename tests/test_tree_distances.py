"""Trees and tree-Wasserstein distances, against POT's linear program, networkx and brute force."""

import functools
import math

import networkx as nx
import numpy as np
import ot
import pytest
import torch

from distance_contract import Case, DistanceContract, normal
from geoembed.distance import pairwise_blocks
from geoembed.distances import tree as tree_module
from geoembed.distances.cloud_trees import clustering_tree, partition_tree
from geoembed.distances.directions import iid
from geoembed.distances.lines import DbTreeSlicedWasserstein, TreeSlicedLines
from geoembed.distances.tree import TreeSlicedWasserstein, TreeWasserstein
from geoembed.distances.trees import Tree
from geoembed.errors import DomainError, ShapeError
from geoembed.pointsets import PointSets

BUILDERS = [partition_tree, clustering_tree]


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def cloud(*shape, seed=0):
    return normal(*shape, generator=seeded(seed))


def random_graph(n=30, seed=1):
    graph = nx.random_labeled_tree(n, seed=seed)
    rng = np.random.default_rng(seed)
    for u, v in graph.edges:
        graph.edges[u, v]["weight"] = rng.random()
    return graph


def metric(graph):
    lengths = dict(nx.all_pairs_dijkstra_path_length(graph))
    return np.array([[lengths[u][v] for v in graph] for u in graph])


GRAPH = random_graph()
METRIC = metric(GRAPH)
FITTED = {build: TreeSlicedWasserstein.fit(cloud(60, 3, seed=9), 3, build, 3, seeded(9)) for build in BUILDERS}


def masses(*shape, generator):
    return torch.rand(*shape, generator=generator, dtype=torch.float64) + 0.01


def on_graph(x, y):
    return ot.emd2(x / x.sum(), y / y.sum(), METRIC)


def on_trees(build, a=None, b=None):
    """The mean over the fitted trees of the linear program on the path metric between the points' nodes."""

    def oracle(x, y):
        mu, nu = (ot.unif(len(z)) if w is None else w for z, w in ((x, a), (y, b)))
        costs = [
            tree.distances(tree.assign(torch.from_numpy(x)), tree.assign(torch.from_numpy(y))).numpy()
            for tree in FITTED[build].trees
        ]
        return np.mean([ot.emd2(mu, nu, cost) for cost in costs])

    return oracle


def db_split(distance, x, root, theta):
    gap = x[:, None] - root
    off = np.linalg.norm(gap - (gap * theta).sum(-1, keepdims=True) * theta, axis=-1)
    e = np.exp(-distance.delta * off)
    return e / e.sum(-1, keepdims=True)


def linear_split(distance, x, root, theta):
    weight, bias, centre = (t.detach().numpy() for t in (distance.weight, distance.bias, distance.centre))
    e = np.exp((x - centre) @ weight.T + bias)
    return e / e.sum(-1, keepdims=True)


def on_stars(distance, split, a=None, b=None):
    """The mean over the systems of the linear program on the explicit star of lines."""

    def oracle(x, y):
        total = 0.0
        for theta, root in zip(distance.theta.numpy(), (distance.roots + distance.centre).numpy(), strict=True):
            line = np.arange(len(theta))
            coordinates, parts, lines = [], [], []
            for z, w in ((x, a), (y, b)):
                coordinates.append(((z - root) @ theta.T).ravel())
                parts.append((split(distance, z, root, theta) * (ot.unif(len(z)) if w is None else w)[:, None]).ravel())
                lines.append(np.tile(line, len(z)))
            t, s = coordinates[0][:, None], coordinates[1]
            cost = np.where(lines[0][:, None] == lines[1], abs(t - s), abs(t) + abs(s))
            total += ot.emd2(parts[0] / parts[0].sum(), parts[1] / parts[1].sum(), cost)
        return total / len(distance.theta)

    return oracle


LINES = {
    "Db-TSW": (lambda: DbTreeSlicedWasserstein(3, 4, 3, generator=seeded(2)), db_split),
    "Db-TSW, more lines than dimensions": (
        lambda: DbTreeSlicedWasserstein(
            2, 3, 5, 0.7, torch.tensor([0.5, -1.0]).double(), 0.5, directions=iid, generator=seeded(3)
        ),
        db_split,
    ),
    "TSW-SL": (lambda: TreeSlicedLines(3, 4, 3, generator=seeded(4)), linear_split),
}
CASES = [
    Case("TreeWasserstein", lambda: TreeWasserstein(Tree.from_networkx(GRAPH, 3)), on_graph, (30,), masses),
    *(
        Case(f"TreeSlicedWasserstein, {build.__name__}", functools.partial(FITTED.get, build), on_trees(build), (5, 3))
        for build in BUILDERS
    ),
    *(
        Case(name, build, on_stars(build(), split), (5, build().dim), float32_tolerance=1e-3)
        for name, (build, split) in LINES.items()
    ),
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestTreeDistances(DistanceContract):
    pass


# Trees.


@pytest.mark.parametrize(
    "graph", [GRAPH, nx.path_graph(37), nx.star_graph(20), nx.balanced_tree(3, 3), nx.path_graph(1)], ids=str
)
def test_path_metric(graph):
    for root in list(graph)[:: max(1, len(graph) // 3)]:
        tree = Tree.from_networkx(graph, root)
        distances = tree.distances(range(len(graph))).numpy()
        np.testing.assert_allclose(distances, metric(graph), rtol=1e-12, atol=1e-13)
        assert (distances.diagonal() == 0).all()
        assert tree.depth.tolist() == [nx.shortest_path_length(graph, root, node) for node in graph]
    assert tree.distances([], [0]).shape == (0, 1)


def test_directed_trees_either_way_and_node_names():
    graph = nx.DiGraph([("root", "a"), ("root", "b"), ("b", "c")])
    for g in (graph, graph.reverse()):
        tree = Tree.from_networkx(g, "root")
        index = {name: i for i, name in enumerate(g)}
        assert tree.distances([index["a"]], [index["c"]]).item() == 3
        assert tree.root == index["root"]


def test_subtree_masses_against_brute_force():
    tree = Tree.from_networkx(GRAPH, 7)
    mass = cloud(2, 30)
    expected = torch.zeros_like(mass)
    for node in range(30):
        up = node
        while up >= 0:
            expected[:, up] += mass[:, node]
            up = int(tree.parents[up])
    torch.testing.assert_close(tree.subtree_masses(mass), expected, rtol=1e-13, atol=1e-14)


def test_chain_is_transport_on_the_line():
    place = cloud(300).sort()[0]
    order = torch.randperm(300, generator=seeded())  # nodes in any order
    parents, lengths = torch.empty(300, dtype=torch.long), torch.empty(300, dtype=torch.float64)
    parents[order] = torch.cat([torch.tensor([-1]), order[:-1]])
    lengths[order] = torch.cat([torch.zeros(1).double(), place.diff()])
    x, y = masses(2, 300, generator=seeded(3))
    along = place[order.argsort()].numpy()
    expected = ot.wasserstein_1d(along, along, (x / x.sum()).numpy(), (y / y.sum()).numpy(), p=1)
    distance = TreeWasserstein(Tree.from_parents(parents, lengths))(x, y)
    assert distance.item() == pytest.approx(expected, rel=1e-11)


def test_masses_from_lists_of_nodes():
    tree = Tree.from_networkx(GRAPH, 0)
    weights = [torch.tensor([1.0, 2.0, 0.5], dtype=torch.float64, requires_grad=True), [4.0]]
    mass = tree.masses([[3, 5, 3], [7]], weights)
    assert mass.shape == (2, 30)
    assert mass[0, [3, 5]].tolist() == [1.5, 2.0]
    assert mass[1, 7] == 4
    assert mass.sum() == 7.5
    mass[0, 3].backward()
    assert weights[0].grad.tolist() == [1, 0, 1]
    assert tree.masses([[1, 1, 2]])[0, :3].tolist() == [0, 2, 1]
    assert tree.masses([]).shape == (0, 30)
    assert tree.masses([[], [1]]).sum() == 1
    value = TreeWasserstein(tree)(*tree.masses([[3, 3, 5], [7, 9]]))
    expected = ot.emd2([2 / 3, 1 / 3], [0.5, 0.5], METRIC[np.ix_([3, 5], [7, 9])])
    assert value.item() == pytest.approx(expected, rel=1e-12)


def test_scale_of_the_masses_does_not_count():
    distance = TreeWasserstein(Tree.from_networkx(GRAPH, 0))
    x, y = masses(2, 30, generator=seeded(5))
    torch.testing.assert_close(distance(7 * x, y / 3), distance(x, y), rtol=1e-13, atol=0)


def test_zero_edges_make_a_pseudo_metric():
    assert TreeWasserstein(Tree.from_parents([-1, 0, 1], [0, 1.0, 2.0])).is_metric
    assert not TreeWasserstein(Tree.from_parents([-1, 0, 1], [0, 1.0, 0.0])).is_metric


def test_small_masses_keep_their_digits_in_float32():
    """100,000 leaves of a star in float32: every leaf's mass is exact, not the difference of two sums."""
    n = 100_000
    tree = Tree.from_parents([-1, *[0] * n], [0.0, *[1.0] * n])
    x = torch.rand(2, n + 1, generator=seeded(6))
    exact = TreeWasserstein(tree)(x[0].double(), x[1].double())
    assert TreeWasserstein(tree)(x[0], x[1]).item() == pytest.approx(exact.item(), rel=1e-5)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: Tree.from_parents([-1, 2, 3, 1], [0, 1, 1, 1]), DomainError, "circle"),
        (lambda: Tree.from_parents([-1, 1], [0, 1]), DomainError, "circle"),
        (lambda: Tree.from_parents([-1, 0, -1], [0, 1, 1]), DomainError, r"got 2: \[0, 2\]"),
        (lambda: Tree.from_parents([1, 0], [1, 1]), DomainError, "got 0"),
        (lambda: Tree.from_parents([-1, 5], [0, 1]), DomainError, "node 1 is 5"),
        (lambda: Tree.from_parents([-1, 0], [0, -1]), DomainError, "node 1 is -1"),
        (lambda: Tree.from_parents([-1, 0], [0, math.nan]), DomainError, "nan"),
        (lambda: Tree.from_parents([-1, 0], [0, math.inf]), DomainError, "inf"),
        (lambda: Tree.from_parents([], []), ShapeError, "whole numbers"),
        (lambda: Tree.from_parents([-1, 0], [0, 1, 2]), ShapeError, "lengths"),
        (lambda: Tree.from_parents([-1.0, 0.0], [0, 1]), ShapeError, "whole numbers"),
        (lambda: Tree.from_parents([-1, 0], [0, 1], [[1.0]]), ShapeError, "positions"),
        (lambda: Tree.from_networkx(nx.cycle_graph(4), 0), DomainError, "must be a tree"),
        (lambda: Tree.from_networkx(nx.empty_graph(4), 0), DomainError, r"4 component\(s\)"),
        (lambda: Tree.from_networkx(GRAPH, "x"), DomainError, "not a node"),
        (lambda: Tree.from_networkx(GRAPH, 0).distances([30]), DomainError, "from 0 to 29"),
        (lambda: Tree.from_networkx(GRAPH, 0).masses([[0.5]]), DomainError, "whole numbers"),
        (lambda: Tree.from_networkx(GRAPH, 0).masses([[1]], [[1.0, 2.0]]), ShapeError, "as many"),
        (lambda: Tree.from_networkx(GRAPH, 0).assign(torch.zeros(2, 3)), DomainError, "positions"),
        (lambda: TreeWasserstein(Tree.from_networkx(GRAPH, 0)).embed(torch.ones(4)), ShapeError, "30 nodes"),
        (lambda: TreeWasserstein(Tree.from_networkx(GRAPH, 0)).embed(torch.zeros(30)), DomainError, "all zero"),
        (lambda: TreeWasserstein(Tree.from_networkx(GRAPH, 0)).embed(-torch.eye(30)), DomainError, r"item \[0\]"),
        (lambda: TreeSlicedWasserstein([]), DomainError, "at least one tree"),
        (lambda: TreeSlicedWasserstein.fit(torch.zeros(0, 2)), DomainError, "at least one point"),
        (lambda: TreeSlicedWasserstein.fit(torch.tensor([[math.nan], [1.0]])), DomainError, "1 are not finite"),
        (lambda: TreeSlicedWasserstein.fit(torch.ones(4, 2, dtype=torch.int64)), ShapeError, "floating point"),
        (lambda: FITTED[partition_tree].embed(torch.zeros(2, 7)), ShapeError, r"in R\^3"),
        (lambda: FITTED[partition_tree].sparse_embed(torch.zeros(2, 3)), ShapeError, "B, n, d"),
        (lambda: FITTED[partition_tree].kernel(torch.zeros(1, 2, 3), t=0), DomainError, "positive"),
        (lambda: partition_tree(torch.zeros(3, 2), depth=0), DomainError, "from 1 to 30"),
        (lambda: partition_tree(torch.zeros(3, 32)), DomainError, "clustering_tree"),
        (lambda: clustering_tree(torch.zeros(3, 2), depth=0), DomainError, "depth >= 1"),
        (lambda: clustering_tree(torch.zeros(3, 2), branching=1), DomainError, "branching >= 2"),
        (lambda: DbTreeSlicedWasserstein(0), DomainError, "at least 1"),
        (lambda: DbTreeSlicedWasserstein(2, systems=0), DomainError, "at least 1"),
        (lambda: DbTreeSlicedWasserstein(2, delta=math.nan), DomainError, "delta"),
        (lambda: TreeSlicedLines(2, spread=-1), DomainError, "spread"),
        (lambda: TreeSlicedLines(2, centre=torch.zeros(3)), ShapeError, "centre"),
        (lambda: TreeSlicedLines(2)(torch.zeros(4, 3), torch.zeros(4, 3)), ShapeError, r"lines are in R\^2"),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()


def test_trees_move_as_a_whole():
    for tree in (Tree.from_networkx(GRAPH, 0), *(FITTED[build].trees[0] for build in BUILDERS)):
        tree.subtree_masses(torch.ones(len(tree)))  # fills what is computed once
        assert tree.to(torch.device("cpu")) is tree
        moved, kinds = tree.to(torch.device("meta")), set()

        def look(value, kinds=kinds):
            if isinstance(value, list | tuple):
                for part in value:
                    look(part)
            elif isinstance(value, torch.Tensor):
                kinds.add(value.device.type)

        look(list(vars(moved).values()))
        assert kinds == {"meta"}
        assert tree.parents.device.type == "cpu"


# Trees over clouds.


@pytest.mark.parametrize("build", BUILDERS)
def test_edges_are_straight_and_the_metric_dominates(build):
    x = cloud(300, 3)
    tree = build(x, 5, generator=seeded())
    up = tree.parents.clamp(min=0)
    torch.testing.assert_close(tree.lengths, (tree.positions - tree.positions[up]).norm(dim=-1), rtol=1e-12, atol=1e-12)
    nodes = tree.assign(x).unique()
    straight = (tree.positions[nodes].unsqueeze(1) - tree.positions[nodes]).norm(dim=-1)
    assert (tree.distances(nodes) >= straight - 1e-12).all()
    assert int(tree.depth.max()) == 5
    assert repr(tree).endswith(f"({len(tree)} nodes, depth 5)")


def test_partition_tree_against_cells():
    x, depth = cloud(400, 2), 4
    tree = partition_tree(x, depth, seeded())
    side = float(2 * (x.amax(0) - x.amin(0)).max())
    low = tree.positions[0] - side / 2
    assert (low <= x.amin(0)).all()
    assert (x.amax(0) <= low + side).all()
    sides = side / 2.0 ** tree.depth.double()
    node = tree.assign(x)
    assert (tree.depth[node] == depth).all()
    for level in range(depth, -1, -1):
        cell = ((x - low) / (side / 2**level)).floor()
        same_cell = (cell.unsqueeze(1) == cell).all(-1)
        assert torch.equal(node.unsqueeze(1) == node, same_cell)
        torch.testing.assert_close(tree.positions[node], low + (cell + 0.5) * side / 2**level)
        assert set(node.tolist()) == set((tree.depth == level).nonzero().flatten().tolist())  # occupied cells only
        node = tree.parents[node].clamp(min=0)
    new = cloud(300, 2, seed=4) * 1.5
    new = new[((new >= low) & (new < low + side)).all(-1)]
    around = ((new.unsqueeze(1) - tree.positions).abs() <= sides.unsqueeze(-1) / 2).all(-1)
    deepest = torch.where(around, tree.depth, -1).argmax(-1)
    assert len(deepest.unique()) > 30
    assert torch.equal(tree.assign(new), deepest)
    far = torch.tensor([[1e9, 1e9], [-math.inf, math.inf], [math.nan, 0.0]], dtype=torch.float64)
    assert tree.assign(far).shape == (3,)


def test_clustering_tree_against_a_plain_loop():
    x, branching = cloud(500, 4), 3
    tree = clustering_tree(x, 4, branching, seeded())
    leaf = tree.assign(x)
    members = {node: [] for node in range(len(tree))}
    for i, node in enumerate(leaf.tolist()):
        while node >= 0:
            members[node].append(i)
            node = int(tree.parents[node])
    children = {node: (tree.parents == node).nonzero().flatten().tolist() for node in range(len(tree))}
    for node, inside in members.items():
        points = x[inside]
        torch.testing.assert_close(tree.positions[node], points.mean(0))
        kids = children[node]
        if not kids:
            assert tree.depth[node] == 4 or len(points) == 1
            continue
        assert 2 <= len(kids) <= branching
        centres = tree._centres[kids]
        assert (points == centres[0]).all(-1).any()  # the first one is some point
        for j in range(1, len(kids)):
            gaps = torch.cdist(points, centres[:j]).amin(-1)
            assert torch.equal(centres[j], points[gaps.argmax()])
        nearest = torch.cdist(points, centres).argmin(-1)
        for j, kid in enumerate(kids):
            assert members[kid] == [i for i, label in zip(inside, nearest.tolist(), strict=True) if label == j]


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize(
    "points",
    [
        torch.zeros(1, 2),
        torch.full((9, 2), 1e6),
        cloud(10, 2).repeat(4, 1),
        1e6 + cloud(40, 2),
        1e-200 * cloud(40, 2),
        cloud(40, 1),
        cloud(5, 8, 2),
        cloud(40, 2).half(),
        PointSets(torch.cat([cloud(2, 20, 2), torch.full((2, 3, 2), math.nan)], 1), lengths=torch.tensor([20, 18])),
    ],
    ids=["one", "equal", "repeated", "offset", "tiny", "line", "batch", "half", "padded"],
)
def test_nasty_clouds(build, points):
    distance = TreeSlicedWasserstein.fit(points, 3, build, 6, seeded(1))
    sets = points if isinstance(points, PointSets) else points.reshape(-1, 1, points.shape[-1])
    matrix = distance.pairwise(sets)
    assert matrix.isfinite().all()
    assert (matrix.diagonal() == 0).all()
    assert torch.equal(matrix, matrix.mT)
    if not isinstance(points, PointSets):
        flat = points.reshape(-1, points.shape[-1])
        assert (matrix[(flat.unsqueeze(1) == flat).all(-1)] == 0).all()


@pytest.mark.parametrize("build", BUILDERS)
def test_a_cloud_far_away_gives_the_same_distances(build):
    x = (cloud(30, 6, 2) * 1024).round() / 1024  # so that the offset loses nothing
    near = TreeSlicedWasserstein.fit(x, 3, build, generator=seeded(2)).pairwise(x)
    far = TreeSlicedWasserstein.fit(x + 2**20, 3, build, generator=seeded(2)).pairwise(x + 2**20)
    torch.testing.assert_close(near, far, rtol=1e-8, atol=1e-9)


def test_generator_decides():
    x = cloud(100, 2)
    for build in BUILDERS:
        trees = [build(x, generator=seeded(s)) for s in (0, 0, 1)]
        assert torch.equal(trees[0].positions, trees[1].positions)
        assert trees[0].positions.shape != trees[2].positions.shape or not trees[0].positions.equal(trees[2].positions)


# Tree-sliced distances.


def ragged(seed=0, dtype=torch.float64):
    generator = seeded(seed)
    sets = [normal(n, 3, generator=generator).to(dtype) for n in (1, 4, 7, 2, 5)]
    weights = [torch.rand(len(s), generator=generator, dtype=torch.float64).to(dtype) for s in sets]
    weights[2][3] = 0
    return sets, weights


@pytest.mark.parametrize("name", [*LINES, *BUILDERS], ids=str)
def test_weights_sizes_and_padding(name):
    """A ragged weighted batch is the loop over its sets, and padding, NaN included, changes nothing."""
    if name in LINES:
        build, split = LINES[name]
        distance = build()
        oracle = functools.partial(on_stars, distance, split)
    else:
        distance, oracle = FITTED[name], functools.partial(on_trees, name)
    d = distance.dim if name in LINES else 3
    sets, weights = ragged()
    sets = [s[:, :d] for s in sets]
    batch = PointSets.from_list(sets, weights)
    matrix = distance.pairwise(batch)
    for i in range(5):
        for j in range(5):
            a, b = ((w / w.sum()).numpy() for w in (weights[i], weights[j]))
            expected = oracle(a, b)(sets[i].numpy(), sets[j].numpy())
            assert matrix[i, j].item() == pytest.approx(expected, rel=1e-10, abs=1e-11)
    torch.testing.assert_close(distance(batch[:4], batch[1:]), matrix.diagonal(1), rtol=1e-10, atol=1e-12)
    padded = torch.full((5, 9, d), math.nan, dtype=torch.float64)
    padded_weights = torch.full((5, 9), math.nan, dtype=torch.float64)
    for i, (s, w) in enumerate(zip(sets, weights, strict=True)):
        padded[i, : len(s)], padded_weights[i, : len(s)] = s, w
    padded.requires_grad_()
    again = distance.pairwise(PointSets(padded, padded_weights, batch.lengths), batch)
    torch.testing.assert_close(again, matrix, rtol=1e-10, atol=1e-11)
    again.sum().backward()
    assert padded.grad.isfinite().all()
    assert (padded.grad[padded.isnan().any(-1)] == 0).all()


@pytest.mark.parametrize("name", [*LINES, *BUILDERS], ids=str)
def test_gradient_for_weights(name):
    distance = LINES[name][0]() if name in LINES else FITTED[name]
    d = distance.dim if name in LINES else 3
    x, y = cloud(2, 3, d), cloud(2, 4, d, seed=1)
    a, b = masses(2, 3, generator=seeded(2)), masses(2, 4, generator=seeded(3))

    def of_weights(a, b):
        return distance(PointSets(x, a), PointSets(y, b)), distance.pairwise(PointSets(x, a), PointSets(y, b))

    assert torch.autograd.gradcheck(of_weights, (a.requires_grad_(), b.requires_grad_()))
    same = masses(2, 3, generator=seeded(4)).requires_grad_()
    value = distance(PointSets(x, same), PointSets(x, same.detach()))
    assert (value == 0).all()
    assert torch.autograd.grad(value.sum(), same)[0].abs().max() < 1e-15


@pytest.mark.parametrize("build", BUILDERS)
@pytest.mark.parametrize("dense", [0.0, 1 / 40, 1.0])
@pytest.mark.parametrize("pairs", [1, 50, 1 << 17])
def test_sparse_way_is_the_dense_way(build, dense, pairs, monkeypatch):
    monkeypatch.setattr(tree_module, "DENSE", dense)
    monkeypatch.setattr(tree_module, "PAIRS", pairs)
    distance = FITTED[build]
    x, y = PointSets.from_list(*ragged(1)), PointSets.from_list(*ragged(2))
    u, v = distance.embed(x), distance.embed(y)
    np.testing.assert_allclose(distance.sparse_embed(x).toarray(), u, rtol=1e-12, atol=1e-15)
    for a, b, sets in ((u, v, y), (u, u, x)):
        exact = (a.unsqueeze(1) - b).abs().sum(-1)
        torch.testing.assert_close(distance.pairwise(x, sets), exact, rtol=1e-11, atol=1e-13)
        blocks = torch.cat([block for _, block in pairwise_blocks(distance, x, sets, budget=100)])
        torch.testing.assert_close(blocks, exact, rtol=1e-11, atol=1e-13)
        assert (distance.pairwise(x, x[torch.arange(5)]).diagonal() == 0).all()


def test_equal_sets_in_another_order():
    """Weights of a power of two sum up exactly, so the distance is exactly zero."""
    x = cloud(20, 16, 3, seed=5)
    for distance in FITTED.values():
        y = x[:, torch.randperm(16, generator=seeded())]
        assert (distance.pairwise(x, y).diagonal() == 0).all()


def test_same_points_with_other_weights_are_another_set():
    distance = FITTED[clustering_tree]
    x = cloud(3, 4, 3)
    sets = PointSets(x), PointSets(x, masses(3, 4, generator=seeded(1)))
    assert (distance.pairwise(*sets).diagonal() > 0).all()
    torch.testing.assert_close(distance.pairwise(*sets).diagonal(), distance(*sets))


@pytest.mark.parametrize("build", BUILDERS)
def test_kernel_is_positive_definite_and_the_triangle_holds(build):
    x = cloud(60, 8, 3, seed=3)
    distance = FITTED[build]
    matrix = distance.pairwise(x)
    assert (matrix.unsqueeze(-1) + matrix >= matrix.unsqueeze(1) - 1e-12).all()
    for t in (0.01, 1.0, 30.0):
        kernel = distance.kernel(x, t=t)
        torch.testing.assert_close(kernel, (-t * matrix).exp())
        assert torch.linalg.eigvalsh(kernel)[0] > -1e-13 * len(x)
    assert distance.kernel(x[:2], x[:5]).shape == (2, 5)


def test_one_bad_point_spoils_its_set_only():
    x = cloud(4, 5, 3)
    for distance in (*FITTED.values(), LINES["Db-TSW"][0](), LINES["TSW-SL"][0]().requires_grad_(False)):
        clean = distance.pairwise(x)
        for bad in (math.nan, math.inf):
            y = x.clone()
            y[2, 3, 1] = bad
            for matrix in (
                distance.pairwise(y),
                distance.pairwise(y, y.clone()),
                distance.pairwise(y[None], y[None])[0],
            ):
                assert matrix[2].isnan().all()
                assert matrix[:, 2].isnan().all()
                torch.testing.assert_close(matrix[[0, 1, 3]][:, [0, 1, 3]], clean[[0, 1, 3]][:, [0, 1, 3]])


def test_trees_of_ones_own():
    """Any tree with positions takes points at its nearest leaf."""
    tree = Tree.from_parents([-1, 0, 0, 2], [0, 1.0, 2.0, 3.0], [[0.0], [-1.0], [2.0], [5.0]])
    x = torch.tensor([[[-7.0], [1.9]], [[2.1], [4.0]]])
    assert tree.assign(x).tolist() == [[1, 1], [3, 3]]
    assert TreeSlicedWasserstein([tree])(x[0], x[1]).item() == 6
    many = cloud(40, 1)
    leaves = tree.positions[[1, 3]]
    assert torch.equal(tree.assign(many), torch.tensor([1, 3])[torch.cdist(many, leaves).argmin(-1)])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x = cloud(4, 6, 3).to(dtype)
    for distance in (*FITTED.values(), *(LINES[name][0]() for name in ("Db-TSW", "TSW-SL"))):
        exact = distance.pairwise(x.double())
        for matrix in (distance.pairwise(x), distance(x.unsqueeze(1), x)):
            assert matrix.dtype == dtype
            torch.testing.assert_close(matrix.double(), exact, rtol=2e-2, atol=2e-2 * exact.max().item())
    mass = masses(2, 30, generator=seeded()).to(dtype)
    distance = TreeWasserstein(Tree.from_networkx(GRAPH, 0))
    assert distance(mass[0], mass[1]).dtype == dtype
    assert distance(mass[0], mass[1]).item() == pytest.approx(distance(*mass.double()).item(), rel=3e-2)


# Systems of lines.


@pytest.mark.parametrize("name", ["Db-TSW", "Db-TSW, more lines than dimensions"])
def test_db_tsw_moves_with_its_lines(name):
    distance = LINES[name][0]()
    x, y = cloud(2, 3, 6, distance.dim)
    value = distance(x, y)
    turn = torch.linalg.qr(cloud(distance.dim, distance.dim, seed=8))[0]
    shift = cloud(distance.dim, seed=9)
    distance.theta, distance.roots = distance.theta @ turn, distance.roots @ turn
    distance.centre = distance.centre @ turn + shift
    torch.testing.assert_close(distance(x @ turn + shift, y @ turn + shift), value, rtol=1e-11, atol=1e-12)
    assert not torch.allclose(distance(x, y), value)


def test_constant_split_is_sliced_wasserstein():
    x, y = cloud(7, 3), cloud(5, 3, seed=1)
    lines, flat = LINES["TSW-SL"][0](), LINES["Db-TSW"][0]()
    flat.delta = 0.0
    with torch.no_grad():
        lines.weight.zero_()
        lines.bias.copy_(torch.tensor([0.3, -1.0, 0.2]))
    for distance, alpha in ((lines, lines.bias.softmax(0).detach()), (flat, torch.ones(3).double() / 3)):
        expected = 0.0
        for theta in distance.theta:
            for weight, direction in zip(alpha.tolist(), theta, strict=True):
                expected += weight * ot.wasserstein_1d((x @ direction).numpy(), (y @ direction).numpy(), p=1)
        assert distance(x, y).item() == pytest.approx(expected / len(distance.theta), rel=1e-11)


def test_learnable_split():
    distance = LINES["TSW-SL"][0]()
    x, y = cloud(2, 5, 3), cloud(2, 6, 3, seed=1)

    def of_parameters(weight, bias):
        return torch.func.functional_call(distance, {"weight": weight, "bias": bias}, (x, y))

    assert torch.autograd.gradcheck(of_parameters, (distance.weight, distance.bias))


@pytest.mark.parametrize("name", LINES)
def test_coincidence_in_another_order_and_with_repetitions(name):
    distance = LINES[name][0]()
    for x in (cloud(8, distance.dim), cloud(4, distance.dim).repeat(2, 1), torch.ones(8, distance.dim).double()):
        x = x.clone().requires_grad_()
        y = x.detach()[torch.randperm(8, generator=seeded(1))]
        value = distance(x, y)
        assert value == 0
        (gradient,) = torch.autograd.grad(value, x)
        assert (gradient == 0).all()


def test_gradient_where_points_meet():
    """Ties between the sets where the distance has a slope nevertheless: the slope is found."""
    distance = TreeSlicedLines(1, 1, 1, spread=0.0)
    x = torch.tensor([[0.0], [1.0], [2.0]], dtype=torch.float64, requires_grad=True)
    y = torch.tensor([[1.0], [5.0], [6.0]], dtype=torch.float64)
    value = distance(x, y)
    assert value.item() == pytest.approx(3)
    torch.testing.assert_close(torch.autograd.grad(value, x)[0], torch.full((3, 1), -1 / 3).double())


def test_points_on_the_lines():
    """One dimension: every point lies on every line; and points at the roots."""
    distance = DbTreeSlicedWasserstein(1, 3, 2, spread=0.5, generator=seeded())
    x, y = cloud(6, 1), cloud(4, 1, seed=1)
    x.requires_grad_()
    value = distance(x, y)
    assert value.item() == pytest.approx(ot.wasserstein_1d(x.detach().numpy()[:, 0], y.numpy()[:, 0], p=1), rel=1e-12)
    assert torch.autograd.grad(value, x)[0].isfinite().all()
    other = LINES["Db-TSW"][0]()
    at_roots = other.roots.clone().requires_grad_()
    value = other(at_roots, torch.zeros(1, 3).double())
    assert torch.autograd.grad(value, at_roots)[0].isfinite().all()


def test_blocks_of_the_matrix(monkeypatch):
    distance = LINES["Db-TSW"][0]()
    x, y = cloud(7, 5, 3), cloud(6, 4, 3, seed=1)
    whole = distance.pairwise(x, y)
    monkeypatch.setattr("geoembed.distances.lines.BLOCK", 700)
    torch.testing.assert_close(distance.pairwise(x, y), whole, rtol=1e-14, atol=1e-15)


def test_resample_and_state():
    distance = DbTreeSlicedWasserstein(3, 5, 2, generator=seeded(0))
    x, y = cloud(2, 4, 3)
    first = distance(x, y)
    distance.resample(seeded(1))
    second = distance(x, y)
    assert first != second
    other = DbTreeSlicedWasserstein(3, 5, 2, generator=seeded(1))
    assert other(x, y) == second
    other.resample()
    other.load_state_dict(distance.state_dict())
    assert other(x, y) == second
    assert "delta=2" in repr(other)
    frames = distance.theta @ distance.theta.mT
    torch.testing.assert_close(frames, torch.eye(2).double().expand(5, 2, 2), rtol=0, atol=1e-14)


def test_flow_moves_a_set_onto_another():
    generator = seeded(0)
    x = torch.randn(20, 2, generator=generator).requires_grad_()
    y = torch.randn(20, 2, generator=generator) + 2
    distance = DbTreeSlicedWasserstein(2, 20, 2, centre=y.mean(0), generator=generator)
    start = distance(x, y).item()
    optimiser = torch.optim.Adam([x], lr=0.1)
    for _ in range(80):
        optimiser.zero_grad()
        distance(x, y).backward()
        optimiser.step()
    assert distance(x, y).item() < 0.05 * start
