"""SW_2 and max-SW_2 of point sets of one size in the plane, exactly.

W_2^2 along (cos t, sin t) is (cos t, sin t) M (cos t, sin t)^T with a matrix M that is constant between the angles
where two projected points of a set change places.
"""

import itertools

import numpy as np


def quadratics(x: np.ndarray, y: np.ndarray) -> list[tuple[float, float, np.ndarray]]:
    """(start, end, M) over [0, pi]. x, y: (n, 2)."""
    angles = {0.0, np.pi}
    for points in (x, y):
        for p, q in itertools.combinations(points, 2):
            angles.add(float(np.arctan2(*(p - q)[::-1]) + np.pi / 2) % np.pi)
    pieces = []
    for start, end in itertools.pairwise(sorted(angles)):
        direction = np.array([np.cos((start + end) / 2), np.sin((start + end) / 2)])
        gaps = x[np.argsort(x @ direction)] - y[np.argsort(y @ direction)]
        pieces.append((start, end, gaps.T @ gaps / len(x)))
    return pieces


def sliced_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    total = 0.0
    for start, end, ((a, b), (_, c)) in quadratics(x, y):
        total += (a + c) / 2 * (end - start) + (a - c) / 4 * (np.sin(2 * end) - np.sin(2 * start))
        total -= b / 2 * (np.cos(2 * end) - np.cos(2 * start))
    return float(np.sqrt(total / np.pi))


def max_sliced_wasserstein(x: np.ndarray, y: np.ndarray) -> float:
    best = 0.0
    for start, end, ((a, b), (_, c)) in quadratics(x, y):
        top = (0.5 * np.arctan2(2 * b, a - c)) % np.pi
        for t in (start, end, *([top] if start < top < end else [])):
            best = max(best, (a + c) / 2 + (a - c) / 2 * np.cos(2 * t) + b * np.sin(2 * t))
    return float(np.sqrt(best))
