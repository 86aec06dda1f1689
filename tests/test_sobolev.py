"""Sobolev transport against its definition on shortest paths, and on trees against the exact Wasserstein distance."""

import networkx as nx
import numpy as np
import ot
import pytest
import torch

from distance_contract import Case, DistanceContract
from geoembed.distances.sobolev import SobolevTransport
from geoembed.errors import DataError, DomainError, ShapeError, UnknownNameError


def random_graph(seed: int, nodes: int = 12, edges: int = 24) -> nx.Graph:
    """Connected, its nodes named and shuffled; real lengths, so the shortest paths are unique."""
    rng = np.random.default_rng(seed)
    graph = nx.gnm_random_graph(nodes, edges, seed=seed)
    graph.add_edges_from(nx.random_labeled_tree(nodes, seed=seed).edges)
    names = [f"n{i}" for i in rng.permutation(nodes)]
    named = nx.Graph()
    named.add_nodes_from(sorted(names))
    named.add_weighted_edges_from((names[u], names[v], rng.uniform(0.1, 3.0)) for u, v in graph.edges)
    return named


def random_tree(seed: int, nodes: int = 10) -> nx.Graph:
    rng = np.random.default_rng(seed)
    tree = nx.random_labeled_tree(nodes, seed=seed)
    nx.set_edge_attributes(tree, {edge: rng.uniform(0.1, 3.0) for edge in tree.edges}, "weight")
    return tree


def sobolev(graph, root, p, x, y):
    """The sum over the edges, from the paths that networkx finds."""
    paths = nx.single_source_dijkstra_path(graph, root)
    total = 0.0
    for u, v, length in graph.edges(data="weight"):
        beyond = [{u, v} in map(set, zip(paths[node], paths[node][1:], strict=False)) for node in graph]
        total += length * abs(sum(x[beyond]) - sum(y[beyond])) ** p
    return total ** (1 / p)


def masses(*shape, generator):
    return torch.randn(*shape, generator=generator, dtype=torch.float64).softmax(-1)


GRAPH = random_graph(0)
CASES = [
    Case(
        f"SobolevTransport(p={p})",
        lambda p=p: SobolevTransport.from_networkx(GRAPH, "n3", p),
        lambda x, y, p=p: sobolev(GRAPH, "n3", p, x, y),
        item=(12,),
        sample=masses,
    )
    for p in (1, 1.5, 2, 3)
]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSobolevTransport(DistanceContract):
    pass


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("p", [1, 1.7, 2])
def test_definition_on_random_graphs_from_every_root(seed, p):
    graph = random_graph(seed, nodes=9, edges=14)
    x, y = np.random.default_rng(seed).dirichlet(np.full(9, 0.3), size=2)
    x[0], y[1] = 0.0, 0.0
    for root in graph:
        found = SobolevTransport.from_networkx(graph, root, p)(torch.from_numpy(x), torch.from_numpy(y))
        assert found.item() == pytest.approx(sobolev(graph, root, p, x, y), rel=1e-11)


@pytest.mark.parametrize("seed", range(5))
def test_order_one_on_a_tree_is_the_wasserstein_distance(seed):
    tree = random_tree(seed)
    ground = nx.floyd_warshall_numpy(tree)
    x, y = np.random.default_rng(seed).dirichlet(np.full(10, 0.5), size=(2, 4))
    expected = torch.tensor([[ot.emd2(a, b, ground) for b in y] for a in x], dtype=torch.float64)
    for root in (0, 4, 9):
        distance = SobolevTransport.from_networkx(tree, root)
        found = distance.pairwise(torch.from_numpy(x), torch.from_numpy(y))
        torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_order_one_on_a_chain_is_the_wasserstein_distance_of_the_line():
    """A path of 20,000 nodes, in float32: the sums beyond an edge keep their digits."""
    n = 20_000
    rng = np.random.default_rng(0)
    x, y = rng.random((2, n)) ** 4
    x, y = x / x.sum(), y / y.sum()
    lengths = rng.random(n)
    distance = SobolevTransport([-1, *range(n - 1)], lengths.tolist())
    expected = float(np.abs(np.cumsum((x - y)[::-1])[::-1] * lengths)[1:].sum())
    single = torch.from_numpy(x).float(), torch.from_numpy(y).float()
    exact = float(np.abs(np.cumsum((single[0] - single[1]).double().numpy()[::-1])[::-1] * lengths)[1:].sum())
    assert distance(torch.from_numpy(x), torch.from_numpy(y)).item() == pytest.approx(expected, rel=1e-9)
    assert distance(*single).item() == pytest.approx(exact, rel=1e-4)


def test_ties_go_to_the_first_node():
    """Both ways around a square are as long; the far corner hangs from the neighbour named first in the graph."""
    rings = [["ra", "rb", "ac", "bc"], ["cb", "ca", "br", "ar"]]
    for nodes, to_a in (("rabc", 1), ("rbac", 3)):
        graph = nx.Graph()
        graph.add_nodes_from(nodes)
        for edges in rings:
            graph.clear_edges()
            graph.add_edges_from(edges)
            distance = SobolevTransport.from_networkx(graph, "r")
            assert distance.nodes == list(nodes)
            at = {node: torch.eye(4)[i] for i, node in enumerate(nodes)}
            assert distance(at["c"], at["r"]) == 2
            assert distance(at["c"], at["a"]) == to_a


def test_edges_without_length():
    """They merge their ends, whichever way round they are met; the distance is no metric then."""
    graph = nx.Graph()
    graph.add_weighted_edges_from([("r", "a", 1.0), ("a", "b", 0.0), ("r", "b", 1.0), ("b", "c", 0.0), ("c", "r", 2.0)])
    distance = SobolevTransport.from_networkx(graph, "r")
    eye = torch.eye(4, dtype=torch.float64)
    expected = torch.ones(4, dtype=torch.float64)
    expected[0] = 0
    torch.testing.assert_close(distance.pairwise(eye)[0], expected)
    assert not distance.is_metric
    assert CASES[0].build().is_metric


def test_lengths_default_to_one_and_parallel_edges_count_once():
    graph = nx.MultiGraph([(0, 1), (1, 2)])
    graph.add_edge(1, 2, weight=0.25)
    eye = torch.eye(3, dtype=torch.float64)
    assert SobolevTransport.from_networkx(graph, 0)(eye[0], eye[2]) == 1.25
    assert SobolevTransport.from_networkx(graph, 0, weight=None)(eye[0], eye[2]) == 2
    assert SobolevTransport.from_networkx(graph, 0, weight="km")(eye[0], eye[2]) == 2


def test_one_node():
    distance = SobolevTransport.from_networkx(nx.path_graph(1), 0)
    assert distance.pairwise(torch.ones(2, 1)).tolist() == [[0, 0], [0, 0]]


def test_nan_in_one_mass():
    x = masses(3, 12, generator=torch.Generator().manual_seed(0))
    x[1, 4] = float("nan")
    matrix = CASES[0].build().pairwise(x)
    assert matrix[1].isnan().all()
    assert matrix[[0, 2]][:, [0, 2]].isfinite().all()


def test_a_graph_that_does_not_fit():
    graph = nx.Graph([(0, 1), (2, 3), (3, 4)])
    with pytest.raises(DataError, match="3 of its 5 nodes cannot be reached from the root 0, the first of them 2"):
        SobolevTransport.from_networkx(graph, 0)
    with pytest.raises(UnknownNameError, match="unknown root node"):
        SobolevTransport.from_networkx(graph, 9)
    with pytest.raises(DataError, match="undirected"):
        SobolevTransport.from_networkx(nx.DiGraph([(0, 1)]), 0)
    with pytest.raises(UnknownNameError, match="unknown root node"):
        SobolevTransport.from_networkx(nx.Graph(), 0)
    for length in (-1.0, float("nan"), float("inf"), "3", None):
        graph = nx.path_graph(3)
        graph.edges[1, 2]["weight"] = length
        with pytest.raises(DomainError, match=r"edge \(1, 2\) has weight="):
            SobolevTransport.from_networkx(graph, 0)
    for p in (0.5, 0, -1, float("nan"), float("inf")):
        with pytest.raises(DomainError, match="p must be finite and at least 1"):
            SobolevTransport.from_networkx(nx.path_graph(3), 0, p)


def test_parents_that_form_no_tree():
    for parents, message in (
        ([-1, -1], "2 such nodes"),
        ([1, 0], "0 such nodes"),
        ([-1, 2, 1], "2 of 3 nodes do not lead to the root"),
        ([-1, 5], "must be a node or -1, got 5"),
    ):
        with pytest.raises(DataError, match=message):
            SobolevTransport(parents, [1.0] * len(parents))
    with pytest.raises(ShapeError, match="equally many, got 2, 1 and 2"):
        SobolevTransport([-1, 0], [1.0])
    with pytest.raises(DomainError, match="not negative, got -1"):
        SobolevTransport([-1, 0], [0.0, -1.0])


def test_masses_of_another_graph():
    with pytest.raises(ShapeError, match="one entry for each of the 12 nodes"):
        CASES[0].build()(torch.ones(5), torch.ones(5))


def test_repr():
    assert repr(CASES[1].build()) == "SobolevTransport(12 nodes, p=1.5)"
