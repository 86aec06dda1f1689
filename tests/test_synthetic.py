"""Synthetic graphs against their definitions, written out as loops, and against networkx."""

import networkx as nx
import pytest
import torch

from geoembed.data.synthetic import GRID_RELATIONS, TREE_RELATIONS, grid, multiplex, tree
from geoembed.errors import DomainError, UnknownNameError


def edges(graph, relation):
    rows = graph.train[graph.train[:, 1] == graph.relation_ids[relation]]
    pairs = list(map(tuple, rows[:, [0, 2]].tolist()))
    assert len(pairs) == len(set(pairs))
    return set(pairs)


@pytest.mark.parametrize(("branching", "depth"), [(2, 2), (2, 5), (3, 3), (5, 2), (11, 2)])
def test_tree(branching, depth):
    graph = tree(branching, depth)
    expected = nx.balanced_tree(branching, depth, create_using=nx.DiGraph)  # numbered breadth first too
    assert graph.n_entities == len(expected)
    assert graph.relations == list(TREE_RELATIONS)
    assert edges(graph, "parent_of") == set(expected.edges)
    assert edges(graph, "grandparent_of") == {(a, c) for a, b in expected.edges for c in expected[b]}
    following = set()
    for node in expected:
        children = sorted(expected[node])
        following |= {(child, children[(i + 1) % branching]) for i, child in enumerate(children)}
    assert edges(graph, "next_sibling") == following
    assert len(graph.valid) == len(graph.test) == 0
    assert repr(graph).startswith(f"Triples('tree-{branching}-{depth}'")


def test_a_tree_without_branches_is_a_path():
    graph = tree(1, 3, ["parent_of", "grandparent_of"])
    assert edges(graph, "parent_of") == {(0, 1), (1, 2), (2, 3)}
    assert edges(graph, "grandparent_of") == {(0, 2), (1, 3)}


@pytest.mark.parametrize(("width", "height"), [(2, 2), (3, 2), (4, 7), (12, 9)])
def test_grid(width, height):
    graph = grid(width, height)
    assert graph.n_entities == width * height
    assert graph.relations == list(GRID_RELATIONS)
    points = [(x, y) for y in range(height) for x in range(width)]
    for relation, step in {
        "right_of": (1, 0),
        "above": (0, 1),
        "above_right_of": (1, 1),
        "above_left_of": (-1, 1),
    }.items():
        expected = {
            (head, tail)
            for head, (hx, hy) in enumerate(points)
            for tail, (tx, ty) in enumerate(points)
            if (hx - tx, hy - ty) == step
        }
        assert edges(graph, relation) == expected


@pytest.mark.parametrize(("graph", "layers"), [(tree(3, 3), 1), (tree(3, 3), 2), (grid(4, 3), 12)])
def test_multiplex_layers_are_the_graph_with_its_nodes_in_other_places(graph, layers):
    several = multiplex(graph, layers, torch.Generator().manual_seed(0))
    assert several.entities == graph.entities
    assert several.n_relations == layers * graph.n_relations
    assert several.name == f"{graph.name}-x{layers}"

    def layer(i):
        digraph = nx.MultiDiGraph()
        digraph.add_nodes_from(range(graph.n_entities))
        for relation in graph.relations:
            pairs = edges(several, f"{i:0{len(str(layers - 1))}}_{relation}")
            digraph.add_edges_from(pairs, relation=relation)
        return digraph

    first = layer(0)
    assert {relation: edges(graph, relation) for relation in graph.relations} == {
        relation: {(h, t) for h, t, r in first.edges(data="relation") if r == relation} for relation in graph.relations
    }
    same_relation = nx.algorithms.isomorphism.categorical_multiedge_match("relation", None)
    for i in range(1, layers):
        assert set(layer(i).edges) != set(first.edges)
        assert nx.is_isomorphic(layer(i), first, edge_match=same_relation)


def test_multiplex_keeps_the_splits_and_repeats_with_its_generator():
    graph = tree(3, 4).split(0.1, 0.2, torch.Generator().manual_seed(0))
    a, b, c = (multiplex(graph, 3, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    for split in ("train", "valid", "test"):
        assert len(a[split]) == 3 * len(graph[split])
        assert torch.equal(a[split], b[split])
        assert not torch.equal(a[split], c[split])
        assert torch.equal(a[split][: len(graph[split])], graph[split])
    held_out = set(map(tuple, a.test.tolist()))
    assert len(held_out) == len(a.test)
    assert not held_out & set(map(tuple, a.train.tolist()))
    with pytest.raises(DomainError, match="layers: expected a whole number, at least 1; got 0"):
        multiplex(graph, 0)


def test_grid_of_one_row():
    graph = grid(4, 1, ["right_of"])
    assert edges(graph, "right_of") == {(1, 0), (2, 1), (3, 2)}


@pytest.mark.parametrize("graph", [tree(3, 4), grid(8, 6), tree(3, 4, ["parent_of", "next_sibling"])], ids=repr)
def test_splits_hold_out_what_train_does_not_list(graph):
    held_out = graph.split(0.1, 0.1, torch.Generator().manual_seed(0))
    n = len(graph.train)
    assert [len(held_out[split]) for split in ("train", "valid", "test")] == [n - 2 * round(n / 10)] + 2 * [
        round(n / 10)
    ]
    links = {frozenset((h, t)) for h, _, t in held_out.train.tolist()}
    assert not any(frozenset((h, t)) in links for h, _, t in held_out.test.tolist())
    assert len(held_out.unseen("test")) == 0


def test_relations_are_sorted_and_each_once():
    graph = tree(2, 2, ("parent_of", "grandparent_of", "parent_of"))
    assert graph.relations == ["grandparent_of", "parent_of"]
    assert len(graph.train) == 6 + 4


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: tree(0, 2), DomainError, "branching: expected a whole number, at least 1; got 0"),
        (lambda: tree(2, 0), DomainError, "depth"),
        (lambda: tree(2.0, 2), DomainError, "got 2.0"),
        (lambda: grid(True, 2), DomainError, "width.*got True"),
        (lambda: grid(2, -1), DomainError, "height"),
        (lambda: tree(2, 1), DomainError, "grandparent_of has no triples"),
        (lambda: tree(1, 3), DomainError, "next_sibling has no triples"),
        (lambda: grid(5, 1), DomainError, "above has no triples"),
        (lambda: tree(2, 2, []), DomainError, "at least one relation of grandparent_of"),
        (lambda: tree(2, 2, ["parent"]), UnknownNameError, "Did you mean 'parent_of'"),
        (lambda: grid(2, 2, ["left_of"]), UnknownNameError, "unknown relation 'left_of'"),
    ],
)
def test_bad_arguments(build, error, message):
    with pytest.raises(error, match=message):
        build()
