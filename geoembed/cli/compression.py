"""`geoembed compress` and `geoembed restore`. Heavy imports wait until they run."""

import argparse
from typing import Any

from geoembed.errors import DataError, DomainError, UnknownNameError

__all__ = ["MODELS", "TARGETS", "compress", "restore"]

MODELS = ("htiling", "ltiling")
TARGETS = ("poincare", "lorentz", "halfspace", *MODELS)
FORMATS = (".tsv", ".npz")
FLOAT_RADIUS = 36.7  # where a rounding of a float64 coordinate of a ball or hyperboloid is a distance of 1


def compress(args: argparse.Namespace) -> None:
    from geoembed.codec import encode, report
    from geoembed.files import atomic_write
    from geoembed.hierarchy_runs import HierarchyRun, open_run
    from geoembed.manifolds import convert
    from geoembed.manifolds.hyperbolic import Hyperbolic

    run = open_run(args.folder)
    if isinstance(run, HierarchyRun):
        names, points, manifold = run.nodes, run.points, run.manifold
    else:
        names, points, manifold = run.entities, run.model.points(), run.model.manifold
    if not isinstance(manifold, Hyperbolic):
        raise DataError(
            f"{args.folder} holds points of {manifold!r}; tilings, and so this codec, are of hyperbolic space"
        )
    points = points.detach().double()
    tiling = _tiling(
        args.model or (manifold.name if manifold.name.lower() in MODELS else MODELS[0]).lower(), manifold, points
    )
    points = convert(points, manifold, tiling)
    path = args.output or args.folder / "points.geo"
    data = encode(points, tiling, args.bits, names)
    with atomic_write(path, "wb") as file:
        file.write(data)
    print(f"{report(points, tiling, args.bits, data)}\n{path}: {len(data):,} bytes, names included")


def restore(args: argparse.Namespace) -> None:
    from geoembed.codec import load_points
    from geoembed.export import write_npz, write_tsv
    from geoembed.manifolds import HYPERBOLIC, convert

    suffix = args.output.suffix.lower()
    if suffix not in FORMATS:
        raise UnknownNameError("suffix", suffix or args.output.name, FORMATS)
    points, tiling, names = load_points(args.file)
    radius = _radius(tiling, points)
    target = tiling
    if args.manifold in HYPERBOLIC:
        if radius > FLOAT_RADIUS:
            raise DomainError(
                f"{args.file}: points lie at radius {radius:.0f}, and float64 coordinates of {args.manifold} hold "
                f"{FLOAT_RADIUS:.0f}; restore them with --manifold {MODELS[0]}"
            )
        target = HYPERBOLIC[args.manifold](tiling.c)
    elif args.manifold is not None:
        target = _tiling(args.manifold, tiling, points)
    points = convert(points, tiling, target)
    names = [str(i) for i in range(len(points))] if names is None else names
    if suffix == ".npz":
        write_npz(args.output, names, points, manifold=repr(target))
    else:
        write_tsv(args.output, names, points)
    print(f"{len(points)} points of {target!r} -> {args.output}")


def _tiling(name: str, manifold: Any, points: Any) -> Any:
    """A tiling with room for the points."""
    from geoembed.manifolds import HTiling
    from geoembed.manifolds.ltiling import LTiling

    dim = manifold.dim_of(points.shape[-1])
    radius = max(1.0, _radius(manifold, points)) + 1
    if name == "htiling":
        return HTiling(dim, HTiling.limbs_for(radius), manifold.c)
    if dim != 2:
        raise DomainError(f"ltiling is a tiling of the plane, and the points have dimension {dim}; use htiling")
    return LTiling(1, LTiling.limbs_for(radius), c=manifold.c)


def _radius(manifold: Any, points: Any) -> float:
    if not len(points):
        return 0.0
    origin = manifold.origin(points.shape[-1], dtype=points.dtype)
    return float((manifold.dist(origin, points) * manifold.c.sqrt()).max())
