"""Hierarchies: closures against networkx, the loss against loops over pairs, training on every manifold, resuming."""

import dataclasses
import math

import geoopt
import networkx as nx
import pytest
import torch

from geoembed.data import Closure, load
from geoembed.errors import (
    CheckpointError,
    DataError,
    DataWarning,
    DomainError,
    NumericalWarning,
    ShapeError,
    UnknownNameError,
)
from geoembed.hierarchy import SPACES, HierarchyConfig, HierarchyTask, train_hierarchy
from geoembed.losses.hierarchy import ranking
from geoembed.manifolds import MANIFOLDS, Euclidean, HTiling, Lorentz, LTiling, Product
from geoembed.nested import embed_closure
from geoembed.reconstruction import reconstruct


def binary(levels=5):
    """The closure of a binary tree, nodes "1", "10", "11", ..."""
    names = [f"{i:b}" for i in range(1, 1 << levels)]
    return Closure.from_networkx(nx.DiGraph([(name, name[:-1]) for name in names if len(name) > 1]))


def dag(n=60, edges=90, seed=0):
    """A random graph of several parts, edges from later to earlier names."""
    g = torch.Generator().manual_seed(seed)
    pairs = {tuple(sorted(torch.randperm(n, generator=g)[:2].tolist(), reverse=True)) for _ in range(edges)}
    return nx.DiGraph([(f"{child:02}", f"{parent:02}") for child, parent in sorted(pairs)])


# --------------------------------------------------------------------------------------------------------- closures


@pytest.mark.parametrize("seed", range(3))
def test_closure_of_a_graph(seed):
    graph = dag(seed=seed)
    closure = Closure.from_networkx(graph, name="random")
    assert closure.name == "random"
    assert closure.nodes == sorted(graph)
    expected = sorted((u, v) for u in graph for v in nx.descendants(graph, u))
    assert [(closure.nodes[u], closure.nodes[v]) for u, v in closure.pairs.tolist()] == expected
    reduced = sorted(nx.transitive_reduction(graph).edges)
    assert [(closure.nodes[u], closure.nodes[v]) for u, v in closure.parents().tolist()] == reduced
    longest = {u: max((len(p) - 1 for p in _chains(graph, u)), default=0) for u in graph}
    assert closure.depths().tolist() == [longest[u] for u in closure.nodes]


def _chains(graph, node):
    """All chains from a node up to a root."""
    return [[node, *rest] for p in graph.successors(node) for rest in _chains(graph, p)] or [[node]]


def test_ancestors():
    closure = Closure.from_networkx(dag())
    groups = closure.ancestors()
    for i, node in enumerate(groups.heads.tolist()):
        above = groups.tails[groups.offsets[i] : groups.offsets[i + 1]].tolist()
        assert above == [v for u, v in closure.pairs.tolist() if u == node]
    assert groups.heads.tolist() == sorted(set(closure.pairs[:, 0].tolist()))


def test_mammals_from_their_edges():
    mammals = load("wordnet-mammals")
    edges = [(mammals.nodes[u], mammals.nodes[v]) for u, v in mammals.parents().tolist()]
    assert len(edges) == 1180
    again = Closure.from_networkx(nx.DiGraph(edges))
    assert again.nodes == mammals.nodes
    assert sorted(again.pairs.tolist()) == sorted(mammals.pairs.tolist())
    assert mammals.depths().bincount().tolist() == [1, 4, 32, 91, 198, 267, 219, 222, 120, 26]


def test_hold_out():
    closure = Closure.from_networkx(dag())
    rest, held = closure.hold_out(0.3, torch.Generator().manual_seed(1))
    assert len(held) == round(0.3 * len(closure.pairs)) == len(closure.pairs) - len(rest.pairs)
    assert sorted(rest.pairs.tolist() + held.tolist()) == sorted(closure.pairs.tolist())
    graph = nx.DiGraph(rest.pairs.tolist())
    assert all(nx.has_path(graph, *pair) for pair in held.tolist())  # what is left says all
    for share in (0.0, 1.0, math.nan):
        with pytest.raises((DomainError, ValueError)):
            closure.hold_out(share)


@pytest.mark.parametrize(
    ("graph", "message"),
    [
        (
            nx.DiGraph([("a", "b"), ("b", "c"), ("c", "a"), ("d", "a")]),
            "no cycles, this one has '.' -> '.' -> '.' -> '",
        ),
        (nx.DiGraph([("a", "b"), ("b", "b")]), "'b' is its own parent"),
        (nx.Graph([("a", "b")]), "undirected"),
        (nx.DiGraph([(1, "1")]), "same str"),
        (nx.empty_graph(1, nx.DiGraph), "at least one edge child -> parent, got 1 nodes"),
        (nx.DiGraph(), "at least one edge child -> parent, got 0 nodes"),
        (nx.DiGraph([("a", "b\tc")]), "cannot hold a tab"),
    ],
)
def test_bad_graphs(graph, message):
    with pytest.raises(DataError, match=message):
        Closure.from_networkx(graph)


def test_the_cycle_named_is_one():
    graph = nx.DiGraph([("a", "b"), ("b", "c"), ("c", "b"), ("d", "a")])
    with pytest.raises(DataError, match=r"'b' -> 'c' -> 'b'|'c' -> 'b' -> 'c'"):
        Closure.from_networkx(graph)
    with pytest.raises(DataError, match=r"no cycles, here '[bc]' is above itself"):
        Closure.from_pairs([("d", "b"), ("b", "c"), ("c", "b"), ("a", "b")]).depths()


def test_lone_nodes_and_parts():
    graph = nx.MultiDiGraph([("a", "b"), ("a", "b"), ("c", "d")])
    graph.add_node("e")
    with pytest.warns(DataWarning, match="1 nodes without an edge"):
        closure = Closure.from_networkx(graph)
    assert closure.nodes == ["a", "b", "c", "d"]
    assert closure.pairs.tolist() == [[0, 1], [2, 3]]
    assert Closure(["a"], torch.zeros(0, 2, dtype=torch.int64)).depths().tolist() == [0]


# ------------------------------------------------------------------------------------------------------------- loss


def test_ranking():
    g = torch.Generator().manual_seed(0)
    positive, negative = (torch.rand(*s, generator=g, dtype=torch.float64) for s in ((5,), (3, 4)))
    rows, left_out = torch.tensor([0, 0, 1, 2, 2]), torch.rand(3, 4, generator=g) < 0.3
    left_out[2] = True
    losses = ranking(positive, negative, rows, left_out, scale=2.0)
    for k, row in enumerate(rows.tolist()):
        own = math.exp(-2 * positive[k])
        others = sum(math.exp(-2 * negative[row, j]) for j in range(4) if not left_out[row, j])
        assert losses[k].item() == pytest.approx(-math.log(own / (own + others)), abs=1e-15)
    assert losses[3:].tolist() == [0.0, 0.0]
    assert ranking(positive * 1e4, negative, rows, left_out).isfinite().all()
    inputs = positive.requires_grad_(), negative.requires_grad_()
    assert torch.autograd.gradcheck(lambda p, n: ranking(p, n, rows, left_out, scale=0.5), inputs)


def task_of(closure, manifold, **options):
    points = manifold.random(
        closure.n_nodes, manifold.point_dim(3), generator=torch.Generator().manual_seed(3), dtype=torch.float64
    )
    return HierarchyTask(closure, manifold, points, **options)


@pytest.mark.parametrize("burning", [False, True])
@pytest.mark.parametrize("name", MANIFOLDS)
def test_step(name, burning):
    """The loss of a batch, one pair at a time."""
    closure, manifold = Closure.from_networkx(dag()), MANIFOLDS[name]()
    task = task_of(closure, manifold, scale=0.7, negatives=9, generator=torch.Generator().manual_seed(4))
    task.burning = burning
    batch = torch.tensor([0, 5, 11, 30])
    state = task.generator.get_state()
    loss = task.step(batch)
    task.generator.set_state(state)
    drawn, x = task.draw().tolist(), task.points.detach()
    known, expected = set(map(tuple, closure.pairs.tolist())), 0.0
    for u in task.sources[batch].tolist():
        for child, v in closure.pairs.tolist():
            if child == u:
                others = [w for w in drawn if w != u and (u, w) not in known]
                near = math.exp(-0.7 * manifold.dist(x[u], x[v]))
                expected -= math.log(near / (near + sum(math.exp(-0.7 * manifold.dist(x[u], x[w])) for w in others)))
    assert loss.item() == pytest.approx(expected, rel=1e-12)
    loss.backward()
    touched = task.points.grad.coalesce().indices()[0].tolist()
    sources = task.sources[batch].tolist()
    assert set(touched) == {*sources, *drawn, *(v for u, v in closure.pairs.tolist() if u in sources)}


def test_draw():
    """Distinct nodes: uniform ones, and in the burn-in by how often they are ancestors, never those that are none."""
    task = task_of(binary(4), Lorentz(), negatives=2, generator=torch.Generator().manual_seed(0))
    counts = torch.zeros(15)
    for _ in range(3000):
        counts[drawn := task.draw()] += 1
        assert len(set(drawn.tolist())) == len(drawn) == 2
    assert (counts / 3000 - 2 / 15).abs().max() < 0.025  # four standard deviations
    task.burning, task.negatives = True, 1
    counts = torch.zeros(15)
    for _ in range(6000):
        counts[task.draw()] += 1
    weight = task.groups.tails.bincount(minlength=15).double() ** 0.75
    assert (counts / 6000 - weight / weight.sum()).abs().max() < 0.026
    assert (counts[weight == 0] == 0).all()
    task.burning, task.negatives = False, 99
    assert task.draw().tolist() == list(range(15))


# --------------------------------------------------------------------------------------------------------- training

QUICK = HierarchyConfig(dim=3, epochs=60, batch_size=10, negatives=20, lr=0.1, burn_in=2)


@pytest.mark.parametrize("name", SPACES)
def test_every_manifold_learns(name):
    closure = binary()
    result = train_hierarchy(closure, dataclasses.replace(QUICK, manifold=name, dim=4), progress=False)
    result.manifold.check(result.points)
    assert reconstruct(result.points, result.manifold, closure).metrics()["map"] > (
        0.5 if name == "euclidean" else 0.85
    )
    losses = [record["loss"] for record in result.fitted.history]
    assert losses[-1] < 0.65 * losses[QUICK.burn_in]  # those of the burn-in have other negatives


@pytest.mark.parametrize("optimizer", ["adam", "adagrad"])
def test_other_optimizers(optimizer):
    config = dataclasses.replace(QUICK, optimizer=optimizer, lr=0.1 if optimizer == "adam" else 0.5)
    result = train_hierarchy(closure := binary(), config, progress=False)
    assert reconstruct(result.points, result.manifold, closure).metrics()["map"] > 0.7


def test_other_manifolds():
    """Any manifold object: a product, and geoopt's own, which has no `cdist` and no `point_dim`."""
    foreign = geoopt.PoincareBall()
    foreign.random = lambda n, k, std, generator, dtype: std * torch.randn(n, k, generator=generator, dtype=dtype)
    for manifold in (Product([(Lorentz(), 2), (Euclidean(), 1)]), foreign):
        result = train_hierarchy(closure := binary(), QUICK, manifold=manifold, progress=False)
        assert result.manifold is manifold
        assert reconstruct(result.points, manifold, closure).metrics()["map"] > 0.85


def test_the_seed_decides():
    closure, quick = binary(), dataclasses.replace(QUICK, epochs=4)
    first, again = (train_hierarchy(closure, quick, progress=False).points for _ in range(2))
    assert torch.equal(first, again)
    other = train_hierarchy(closure, dataclasses.replace(quick, seed=1), progress=False).points
    assert not torch.equal(first, other)


def test_resume(tmp_path):
    """Stopped in the burn-in and after it, a run ends with the points of one that was not."""
    closure, config = binary(), dataclasses.replace(QUICK, epochs=8, burn_in=4, optimizer="adam")
    whole = train_hierarchy(closure, config, progress=False).points

    def stop_at(epoch):
        def on_epoch(history):
            if len(history) == epoch:
                raise InterruptedError

        return on_epoch

    import geoembed.hierarchy as module

    fit = module.fit
    module.fit = lambda *a, **k: fit(*a, **k, checkpoint_seconds=0.0)
    try:
        for epoch in (3, 7):
            with pytest.raises(InterruptedError):
                train_hierarchy(closure, config, tmp_path, progress=False, on_epoch=stop_at(epoch))
        resumed = train_hierarchy(closure, config, tmp_path, progress=False)
    finally:
        module.fit = fit
    assert torch.equal(resumed.points, whole)
    assert [record["epoch"] for record in resumed.fitted.history] == list(range(1, 9))
    assert [record["lr"] for record in resumed.fitted.history[:4]] == [QUICK.lr * QUICK.burn_in_factor] * 4
    assert resumed.fitted.history[6]["lr"] > resumed.fitted.history[4]["lr"] > 0
    with pytest.raises(CheckpointError, match="settings"):
        train_hierarchy(closure, dataclasses.replace(config, batch_size=5), tmp_path, progress=False)


def test_validation_keeps_the_best_points():
    closure, quick = binary(), dataclasses.replace(QUICK, epochs=20, validate_every=4)
    scores = []

    def score(points, manifold):
        scores.append((reconstruct(points, manifold, closure).metrics()["map"], points.clone()))
        return -abs(len(scores) - 3)  # the third is the best

    result = train_hierarchy(closure, quick, validate=score, progress=False)
    assert len(scores) == 5
    assert result.fitted.best_epoch == 12
    assert torch.equal(result.points, scores[2][1])


@pytest.mark.parametrize("name", ["lorentz", "htiling"])
def test_nested_start(name):
    """Without epochs the points are those of `embed_closure`; training leaves their plane, and keeps the better."""
    closure, config = binary(), HierarchyConfig(dim=4, manifold=name, start="nested", epochs=0, init_scale=1e-9)
    start = train_hierarchy(closure, config, progress=False)
    placed = embed_closure(closure, start.manifold, dim=4)
    assert start.manifold.dist(start.points, placed).max() < 1e-6
    assert (start.fitted.epochs, start.fitted.history) == (0, [])
    assert reconstruct(start.points, start.manifold, closure).metrics()["map"] == 1

    quick = dataclasses.replace(config, epochs=20, batch_size=8, negatives=20, init_scale=1e-2, lr=0.005)
    moved = train_hierarchy(closure, quick, progress=False)
    assert moved.manifold.to_tangent(moved.points)[:, 2:].abs().max() > 1e-3
    assert moved.manifold.dist(moved.points, placed).max() > 2e-2
    assert moved.fitted.history[0]["lr"] > quick.burn_in_factor * quick.lr / 10  # no burn-in

    def score(points, manifold):
        return -manifold.dist(points, placed).max().item()  # the start is the best

    kept = train_hierarchy(closure, quick, validate=score, progress=False)
    assert (kept.fitted.best_epoch, kept.fitted.epochs) == (0, 20)
    assert kept.manifold.dist(kept.points, placed).max() < 2e-2
    better = train_hierarchy(closure, quick, validate=lambda points, manifold: -score(points, manifold), progress=False)
    assert better.fitted.best_epoch > 0
    assert not torch.equal(better.points, kept.points)


@pytest.mark.parametrize("space", [HTiling(2, 6), LTiling(1, 6)], ids=repr)
def test_weights_of_tilings_load_at_any_width(space):
    """A checkpoint may be from before the rows grew, or from after it."""
    closure = binary()
    g = torch.Generator().manual_seed(0)
    wide = space.random(closure.n_nodes, space.width, generator=g, dtype=torch.float64)
    for mine, saved in ((space.narrow(wide), wide), (wide, space.narrow(wide))):
        task = HierarchyTask(closure, space, space.origin(*mine.shape, dtype=mine.dtype))
        task.load_state_dict(HierarchyTask(closure, space, saved).state_dict())
        assert torch.equal(task.points.detach(), wide)
    assert task.points.shape != space.narrow(wide).shape


def test_points_beyond_floats_bring_a_warning():
    config = dataclasses.replace(QUICK, init_scale=40.0, epochs=3, lr=1e-6, manifold="halfspace")
    with pytest.warns(NumericalWarning, match="beyond radius 72.*train on htiling"):
        train_hierarchy(binary(), config, progress=False)


def test_steps_are_held():
    """No point moves further than max_step, however large the gradient."""
    closure, manifold = Closure.from_pairs([(f"{i:03}", "root") for i in range(300)]), Lorentz()
    config = HierarchyConfig(dim=2, epochs=1, burn_in=0, warmup=0.0, lr=50.0, batch_size=300, max_step=0.25)
    moves = []

    class Watched(Lorentz):
        def retr(self, x, u):
            moves.append(manifold.norm(x, u).max().item())
            return super().retr(x, u)

    train_hierarchy(closure, config, manifold=Watched(), progress=False)
    assert max(moves) == pytest.approx(0.25)


@pytest.mark.parametrize(
    ("values", "error", "message"),
    [
        ({"manifold": "poincar"}, UnknownNameError, "poincare"),
        ({"dim": 0}, DomainError, "dim must be a finite number of at least 1"),
        ({"dim": 2.0}, DomainError, "dim must be int"),
        ({"lr": math.nan}, DomainError, "lr must be a finite"),
        ({"scale": 0}, DomainError, "scale must be above 0"),
        ({"curvature": 0.0}, DomainError, "curvature must be above 0"),
        ({"warmup": 1.0}, DomainError, "warmup"),
        ({"lr_final": 1.5}, DomainError, "final"),
        ({"burn_in": 7, "epochs": 7}, DomainError, "burn_in must leave some of the 7 epochs"),
        ({"negatives": 0}, DomainError, "negatives"),
        ({"epochs": 0}, DomainError, "without epochs there is only a nested start"),
        ({"start": "nested", "manifold": "euclidean"}, DomainError, "hyperbolic space of two dimensions or more"),
        ({"start": "nested", "dim": 1}, DomainError, "got lorentz of dimension 1"),
        ({"hold_out": 1.0}, DomainError, "hold_out is a share of the pairs, below 1"),
        ({"limbs": 0}, DomainError, "limbs must be a finite number of at least 1"),
        ({"manifold": "ltiling", "dim": 5}, DomainError, "made of planes, so dim must be even, got 5"),
        ({"loss": "cone"}, UnknownNameError, "Did you mean 'cones'"),
        ({"loss": "cones", "manifold": "euclidean"}, DomainError, "euclidean of dimension 5 is flat; take lorentz"),
        ({"loss": "cones", "manifold": "ltiling", "dim": 4}, DomainError, "is a product of planes; take lorentz"),
        ({"cone_width": 0}, DomainError, "cone_width must be above 0"),
        ({"cone_epochs": 0}, DomainError, "cone_epochs must be a finite number of at least 1"),
    ],
)
def test_bad_settings(values, error, message):
    with pytest.raises(error, match=message):
        HierarchyConfig(**values)


def test_bad_input():
    one = Closure(["a"], torch.zeros(0, 2, dtype=torch.int64))
    with pytest.raises(DataError, match=r"1 nodes, 0 pairs.* has no pairs"):
        train_hierarchy(one, progress=False)
    with pytest.raises(DataError, match="no cycles"):
        train_hierarchy(Closure.from_pairs([("a", "b"), ("b", "a")]), progress=False)
    with pytest.raises(ShapeError, match=r"points: expected \(31, k\)"):
        HierarchyTask(binary(), Lorentz(), torch.zeros(3, 3))
    config = dataclasses.replace(QUICK, lr=1e200, max_step=0.0, epochs=9)
    with pytest.raises(DomainError, match="the loss became nan"):
        train_hierarchy(binary(), config, progress=False)


def test_a_gradient_of_nan_moves_no_point():
    closure, seen = binary(), []

    class Broken(Lorentz):
        """Distances that are right, with gradients that are not."""

        def cdist(self, x, y):
            d = super().cdist(x, y)
            if len(seen) == 9:
                d.register_hook(lambda grad: grad * math.nan)
            return d

    class Watched(HierarchyTask):
        def step(self, batch):
            seen.append(self.points.detach().clone())
            return super().step(batch)

    import geoembed.hierarchy as module

    module.HierarchyTask = Watched
    try:
        with pytest.raises(DomainError, match=r"the gradient of \d+ of \d+ points is NaN or infinite, the first is"):
            train_hierarchy(closure, dataclasses.replace(QUICK, max_step=0.0), manifold=Broken(), progress=False)
    finally:
        module.HierarchyTask = HierarchyTask
    assert len(seen) == 9
    assert seen[-1].isfinite().all()


def test_two_nodes():
    result = train_hierarchy(Closure.from_pairs([("b", "a")]), dataclasses.replace(QUICK, epochs=3), progress=False)
    assert result.points.isfinite().all()  # no node is a negative: nothing moves
    assert reconstruct(result.points, result.manifold, result.closure).metrics() == {"mr": 1.0, "map": 1.0}
