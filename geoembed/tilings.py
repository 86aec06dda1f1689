"""The tilings of the hyperbolic plane that the tiling models stand on, as curves of the Poincare disk.

htiling    the cells 2^j ([k, k + 1) x [1, 2)) of the half-plane, taken to the disk by z = i (w - i) / (w + i)
ltiling    the {4,6} tiling: quadrilaterals with angles of 60 degrees, six around each corner. The one about the centre
           has the corners (sqrt 3, +-1, +-1) of the hyperboloid; the group L <a, b> L^-1, L = diag(sqrt 3, 1, 1), moves
           it over the plane, a and b being the integer matrices below, with a^6 = b^6 = (ab)^3 = 1

Points of the disk are complex numbers, curves are arrays of them.

Reference: T. Yu, C. De Sa, "Numerically accurate hyperbolic embeddings using tiling-based models", NeurIPS 2019.
"""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from geoembed.layout import arcs

__all__ = ["TILINGS", "half_plane_cells", "quadrilaterals"]

Curves = list[NDArray[np.complex128]]
RADIUS = 6.0  # farther out the cells are smaller than a pixel
STEPS = 9  # points of a side

A = np.array([[2, 1, 0], [0, 0, -1], [3, 2, 0]])
B = np.array([[2, -1, 0], [0, 0, -1], [-3, 2, 0]])


def half_plane_cells(radius: float = RADIUS) -> Curves:
    """The sides of the cells of the half-plane that lie within a distance from the centre."""
    curves = []
    for j in range(-int(radius / np.log(2)), int(radius / np.log(2)) + 1):
        y = 2.0**j
        reach = np.sqrt(max(2 * y * (np.cosh(radius) - 1) - (y - 1) ** 2, 0))  # |x| of the circle at this height
        last = int(reach / y)
        turn = np.arctan(reach / (1 + y))  # the line becomes a circle in the disk, this is half the angle it spans
        curves.append((1 + y) * np.tan(np.linspace(-turn, turn, 20 * STEPS)) + 1j * y)
        for k in range(-last, last + 1):
            curves.append(k * y + 1j * y * np.linspace(1, 2, STEPS))
    return [1j * (w - 1j) / (w + 1j) for w in curves]


def quadrilaterals(radius: float = RADIUS) -> Curves:
    """The sides of the quadrilaterals of the {4,6} tiling whose centres lie within a distance from the centre."""
    corners = np.array([(np.sqrt(3), x, y) for x, y in ((1, 1), (1, -1), (-1, -1), (-1, 1))]).T
    scale = np.array([[np.sqrt(3)], [1.0], [1.0]])
    sides: dict[tuple[float, ...], tuple[complex, complex]] = {}  # by their middle, as two cells share each
    for g in _elements(np.cosh(radius)):
        x = scale * (g @ (corners / scale))
        z = (x[1] + 1j * x[2]) / (1 + x[0])
        for start, end in zip(z, np.roll(z, -1), strict=True):
            middle = (start + end) / 2
            sides[round(middle.real, 7), round(middle.imag, 7)] = start, end
    start, end = np.array(list(sides.values())).T
    return list(arcs(start, end, STEPS))


def _elements(longest: float) -> list[NDArray[np.int64]]:
    """The elements of the group that move the centre by a distance of a cosh up to `longest`.

    A cell has a neighbour across one of its sides that is nearer to the centre, so the search misses none.
    """
    generators = [A, B, np.rint(np.linalg.inv(A)).astype(int), np.rint(np.linalg.inv(B)).astype(int)]
    found = {np.eye(3, dtype=int).tobytes(): np.eye(3, dtype=int)}
    queue = list(found.values())
    for g in queue:  # grows while it is walked
        for generator in generators:
            new = g @ generator
            if new[0, 0] <= longest and new.tobytes() not in found:
                found[new.tobytes()] = new
                queue.append(new)
    return queue


TILINGS: dict[str, Callable[[], Curves]] = {"htiling": half_plane_cells, "ltiling": quadrilaterals}
