"""The commands on point sets, and the distances that they know by name. Heavy imports wait until a command runs."""

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

from geoembed.errors import DataError, UnknownNameError

__all__ = ["METRICS", "OPTIONS", "Metric", "Option", "distance", "pairwise"]


class Option(NamedTuple):
    """An option that some distances have. shown: how a result states it."""

    default: Any
    shown: str
    help: str


MODELS = ("halfspace", "lorentz", "poincare")
GROUNDS = ("chebyshev", "cosine", "euclidean", "manhattan", *MODELS)

OPTIONS = {
    "p": Option(2.0, "p = {:g}", "order of the transport, at least 1"),
    "projections": Option(100, "{} directions", "number of directions"),
    "trees": Option(10, "{} trees", "number of trees"),
    "seed": Option(0, "seed {}", "of the random directions, trees or starts"),
    "ground": Option("euclidean", "{} ground distance", f"distance between points: {', '.join(GROUNDS)}"),
    "blur": Option(0.05, "blur {:g}", "length below which points are not told apart"),
    "manifold": Option("poincare", "{} model", f"model of hyperbolic space: {', '.join(MODELS)}"),
}

# Builders: a distance from the point sets it is for and the options it has. Imports wait, so that help stays fast.


def _sliced(sets: list[Any], p: float, projections: int, generator: Any) -> Any:
    from geoembed.distances.sliced import SlicedWasserstein

    return SlicedWasserstein(_dim(sets), projections, p, generator=generator)


def _max_sliced(sets: list[Any], p: float, generator: Any) -> Any:
    from geoembed.distances.max_sliced import MaxSlicedWasserstein

    return MaxSlicedWasserstein(p, generator=generator)


def _tree_sliced(sets: list[Any], trees: int, generator: Any) -> Any:
    from geoembed.distances.tree import TreeSlicedWasserstein
    from geoembed.pointsets import PointSets

    points = PointSets.from_list([points for each in sets for points in each.unpad()])
    return TreeSlicedWasserstein.fit(points, trees, generator=generator)


def _wasserstein(sets: list[Any], ground: Any, p: float) -> Any:
    from geoembed.distances.transport import Wasserstein

    return Wasserstein(ground, p)


def _sinkhorn(sets: list[Any], ground: Any, p: float, blur: float) -> Any:
    from geoembed.distances.sinkhorn import SinkhornDivergence

    return SinkhornDivergence(ground, p, blur)


def _setwise(name: str) -> Callable[..., Any]:
    def build(sets: list[Any], ground: Any) -> Any:
        from geoembed.distances import setwise

        return getattr(setwise, name)(ground)

    return build


def _sliced_gromov(sets: list[Any], projections: int, generator: Any) -> Any:
    from geoembed.distances.sliced_gromov import SlicedGromovWasserstein

    return SlicedGromovWasserstein(_dim(sets), projections, generator=generator)


def _gromov(sets: list[Any], ground: Any, generator: Any) -> Any:
    from geoembed.distances.gromov import GromovWasserstein

    return GromovWasserstein(ground, generator=generator)


def _hyperbolic_sliced(sets: list[Any], manifold: Any, p: float, projections: int, generator: Any) -> Any:
    from geoembed.distances.hyperbolic import HorosphericalSlicedWasserstein

    dim = _dim(sets) - (manifold.point_dim(1) - 1)  # points have more coordinates in some models
    return HorosphericalSlicedWasserstein(manifold, dim, projections, p, generator=generator)


def _dim(sets: list[Any]) -> int:
    return max(each.shape[-1] for each in sets)


class Metric(NamedTuple):
    build: Callable[..., Any]
    options: tuple[str, ...]


METRICS = {
    "chamfer": Metric(_setwise("Chamfer"), ("ground",)),
    "energy": Metric(_setwise("EnergyDistance"), ("ground",)),
    "gromov": Metric(_gromov, ("ground", "seed")),
    "hausdorff": Metric(_setwise("Hausdorff"), ("ground",)),
    "hyperbolic-sliced": Metric(_hyperbolic_sliced, ("manifold", "p", "projections", "seed")),
    "max-sliced-wasserstein": Metric(_max_sliced, ("p", "seed")),
    "sinkhorn": Metric(_sinkhorn, ("ground", "p", "blur")),
    "sliced-gromov": Metric(_sliced_gromov, ("projections", "seed")),
    "sliced-wasserstein": Metric(_sliced, ("p", "projections", "seed")),
    "tree-sliced": Metric(_tree_sliced, ("trees", "seed")),
    "wasserstein": Metric(_wasserstein, ("ground", "p")),
}


def _ground(name: str, sets: list[Any]) -> Any:
    if name not in GROUNDS:
        raise UnknownNameError("ground distance", name, GROUNDS)
    from geoembed.distances import Cosine, Euclidean, Geodesic, Lp

    if name in MODELS:
        return Geodesic(_manifold(name, sets))
    return {"chebyshev": Lp(float("inf")), "cosine": Cosine(), "euclidean": Euclidean(), "manhattan": Lp(1)}[name]


def _manifold(name: str, sets: list[Any]) -> Any:
    """The model of hyperbolic space, of curvature -1, that all points must lie in."""
    from geoembed.manifolds import HYPERBOLIC

    if name not in HYPERBOLIC:
        raise UnknownNameError("model of hyperbolic space", name, HYPERBOLIC)
    manifold = HYPERBOLIC[name]()
    for each in sets:
        manifold.check(each.points[each.mask])
    return manifold


def _settings(args: argparse.Namespace) -> dict[str, Any]:
    """The options of the metric, as given or by default; one that the metric does not have is an error."""
    if args.metric not in METRICS:
        raise UnknownNameError("metric", args.metric, METRICS)
    known = METRICS[args.metric].options
    for name in OPTIONS:
        if getattr(args, name) is not None and name not in known:
            args.parser.error(f"{args.metric} has no --{name}; its options are --{', --'.join(known)}")
    return {name: OPTIONS[name].default if getattr(args, name) is None else getattr(args, name) for name in known}


def _built(metric: str, settings: dict[str, Any], sets: list[Any]) -> Any:
    import torch

    options = dict(settings)
    if "seed" in options:
        options["generator"] = torch.Generator().manual_seed(options.pop("seed"))
    if "ground" in options:
        options["ground"] = _ground(options["ground"], sets)
    if "manifold" in options:
        options["manifold"] = _manifold(options["manifold"], sets)
    return METRICS[metric].build(sets, **options)


def _stated(settings: dict[str, Any]) -> str:
    return ", ".join(OPTIONS[name].shown.format(value) for name, value in settings.items())


def distance(args: argparse.Namespace) -> None:
    settings = _settings(args)
    import torch

    from geoembed.data import read_point_sets

    found = [read_point_sets(path) for path in (args.a, args.b)]
    for path, each in zip((args.a, args.b), found, strict=True):
        if len(each) != 1:
            raise DataError(f"{path} holds {len(each)} sets, expected one. For many call: geoembed pairwise {path}")
    x, y = (each.sets.to(torch.float64) for each in found)
    with torch.no_grad():
        value = _built(args.metric, settings, [x, y])(x, y).item()
    print(f"{args.metric}({found[0].names[0]}, {found[1].names[0]}) = {value:.9g}")
    print(_stated(settings))


def pairwise(args: argparse.Namespace) -> None:
    settings = _settings(args)
    from geoembed.checkpoint import writing
    from geoembed.data import read_point_sets
    from geoembed.data.formats import check_names, write_rows
    from geoembed.drawing import check_extension
    from geoembed.pairwise import pairwise_matrix

    if args.plot is not None:
        check_extension(args.plot)
    found = read_point_sets(args.folder)
    check_names(found.names, "set name")
    try:
        matrix = pairwise_matrix(
            _built(args.metric, settings, [found.sets]),
            found.sets,
            out=args.output,
            workers=args.workers,
            resume=args.resume,
            progress=True,
        )
    except KeyboardInterrupt:
        print("\nstopped; finished blocks are kept. Go on with the same command and --resume", file=sys.stderr)
        raise
    names = args.names or args.output.with_suffix(".names.txt")
    with writing(names):
        write_rows(names, ([name] for name in found.names))
    written: Iterable[Any] = [args.output, names]
    if args.plot is not None:
        from geoembed.heatmap import draw_distances

        draw_distances(matrix, found.names, args.plot, title=f"{args.metric} ({_stated(settings)})")
        written = [*written, args.plot]
    print(f"{args.metric} of {len(found)} sets, {_stated(settings)}")
    for path in written:
        print(path)
