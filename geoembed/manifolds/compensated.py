"""Products and sums of products in twice the digits of float64, by what each rounding takes off.

References: T. Dekker, "A floating-point technique for extending the available precision", Numerische Mathematik 18,
1971; T. Ogita, S. Rump, S. Oishi, "Accurate sum and dot product", SIAM J. Sci. Comput. 26(6), 2005.
"""

from collections.abc import Sequence

from torch import Tensor

__all__ = ["compensated_dot", "twofold_product"]


def twofold_product(a: Tensor, b: Tensor | float) -> tuple[Tensor, Tensor]:
    """a b rounded and what was rounded off."""
    product = a * b
    (a1, a2), (b1, b2) = _halves(a), _halves(b)
    return product, ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2


def _halves(a):
    shifted = 134217729.0 * a
    high = shifted - (shifted - a)
    return high, a - high


def compensated_dot(terms: Sequence[tuple[Tensor, Tensor]]) -> Tensor:
    """The sum of a b as if in twice the digits; terms: pairs (a, b)."""
    total, rest = twofold_product(*terms[0])
    for a, b in terms[1:]:
        product, more = twofold_product(a, b)
        new = total + product
        back = new - total
        rest = rest + (more + ((total - (new - back)) + (product - back)))
        total = new
    return total + rest
