"""Size and error of compressed tree embeddings in the hyperbolic plane, without optimisation (see `tree_embedding.py`).

The size is that of the points alone, without names, as a share of the same points in the Poincare ball at the precision
that the farthest needs, in decimal text and in packed binary. Scales are distances between parent and child.

    python tests/benchmarks/codec.py                            # wordnet-mammals, shipped
    python tests/benchmarks/codec.py --data nouns.tsv.gz --scales 12.55 177.77
"""

import time
from pathlib import Path

import torch
from common import arguments, table

from geoembed.codec import decode, encode, report
from geoembed.combinatorial import embed_tree
from geoembed.data import Closure, load
from geoembed.data.trees import spanning_tree
from geoembed.manifolds import LTiling


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--data", type=Path, help="a closure; wordnet-mammals by default")
    parser.add_argument(
        "--scales", type=float, nargs="+", help="by default the smallest that ranks every neighbour first"
    )
    parser.add_argument("--bits", type=int, nargs="+", default=[8, 16])
    parser.add_argument("--words", action="store_true", help="also as words of the square tiling, which takes minutes")
    args = parser.parse_args()
    closure = load("wordnet-mammals") if args.data is None else Closure.from_file(args.data)
    rows, tree = [], spanning_tree(closure)
    for scale in args.scales or [None]:
        found = embed_tree(tree, scale=scale)
        models = [(found.manifold, found.points)]
        if args.words:
            squares = LTiling(1, LTiling.limbs_for(found.radius + 1))
            models.append((squares, embed_tree(tree, squares, scale=found.scale).points))
        for manifold, points in models:
            for bits in args.bits:
                start = time.process_time()
                data = encode(points, manifold, bits)
                coding = time.process_time() - start
                again = decode(data)
                exact = encode(again.points, manifold, bits) == data and torch.equal(
                    decode(encode(again.points, manifold, bits)).points, again.points
                )
                r = report(points, manifold, bits, data)
                rows.append(
                    [
                        type(manifold).__name__,
                        f"{found.scale:.2f}",
                        f"{r.radius:.0f}",
                        bits,
                        f"{r.size:,}",
                        f"{r.bits_per_point:.1f}",
                        f"{r.size / r.text:.2%}",
                        f"{r.size / r.packed:.2%}",
                        f"{r.error:.1e}",
                        f"{r.cell_bits_per_unit:.2f}",
                        "yes" if exact else "NO",
                        f"{coding:.0f} s",
                    ]
                )
                print(*rows[-1], flush=True)
    table(
        ["tiling", "scale", "radius", "bits", "bytes", "bits / point", "of text", "of binary", "rms error",
         "bits / unit", "exact", "coding"], rows,
    )  # fmt: skip


if __name__ == "__main__":
    main()
