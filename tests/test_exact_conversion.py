"""Conversions between the two tilings of the plane, against points evaluated in mpmath from their integers.

A row of `LTiling` is moved by the paper's 3 x 3 integer matrices, letter by letter of its word, on the hyperboloid; a
row of `HTiling` is 2^j (x + k, m) in the half-plane. Digits suffice for distances of 1e-20 at each radius.
"""

import math
from functools import lru_cache

import mpmath
import pytest
import torch
from mpmath import mpf

from geoembed.codec import decode, encode
from geoembed.combinatorial import embed_tree
from geoembed.errors import DomainError, ShapeError
from geoembed.manifolds import HTiling, LTiling, convert
from geoembed.manifolds.limbs import BITS

RADII = [0.0, 1e-9, 1.0, 20.0, 40.0, 219.0, 700.0, 2000.0]
ANGLES = [0, 1, 2, 3, 1e-9, 2 + 1e-12, *(0.0123 + 0.37 * i for i in range(10))]  # in quarter turns: up is 1, down is 3
A = ((2, 1, 0), (0, 0, -1), (3, 2, 0))
B = ((2, -1, 0), (0, 0, -1), (-3, 2, 0))


def product(p, q):
    return tuple(tuple(sum(p[i][k] * q[k][j] for k in range(3)) for j in range(3)) for i in range(3))


@lru_cache
def power(letter, exponent):
    return {"a": A, "b": B}[letter] if exponent == 1 else product(power(letter, exponent - 1), power(letter, 1))


def on_hyperboloid(row, manifold):
    """(x_0, x_1, x_2) of one point, as mpf of the digits there are."""
    if manifold.name == "HTiling":
        x, m, j, *limbs = row.double().tolist()
        k = sum(int(digit) << (BITS[row.dtype] * place) for place, digit in enumerate(limbs))
        h, y = mpmath.ldexp(mpf(x) + k, int(j)), mpmath.ldexp(mpf(m), int(j))
        return (h * h + y * y + 1) / (2 * y), h / y, (h * h + y * y - 1) / (2 * y)
    (u, v), root3 = map(mpf, row[:2].double().tolist()), mpmath.sqrt(3)
    point = (mpmath.sqrt(1 + u * u + v * v) / root3, u, v)
    for letter, exponent in reversed(manifold.words(row)[0][0]):
        point = tuple(sum(n * value for n, value in zip(line, point, strict=True)) for line in power(letter, exponent))
    return point[0] * root3, point[1], point[2]


def errors(x, y, source, target, radius):
    """The distances between points of the two. x: (n, k), y: (n, k') -> (n) floats."""
    with mpmath.workdps(60 + int(radius)):
        found = []
        for pair in zip(x, y, strict=True):
            p, q = (on_hyperboloid(row, model) for row, model in zip(pair, (source, target), strict=True))
            d, e, f = (a - b for a, b in zip(p, q, strict=True))
            found.append(float(2 * mpmath.asinh(mpmath.sqrt(abs(e * e + f * f - d * d)) / 2)))
    return found


def far_points(manifold, radius, dtype=torch.float64, angles=ANGLES):
    """Points at a radius in many directions, in steps of at most 600 (60 in float32)."""
    turns = torch.tensor(angles, dtype=torch.float64) * (math.pi / 2)
    directions = torch.stack([turns.cos(), turns.sin()], -1)
    for row, angle in zip(directions, angles, strict=True):
        if angle in (0, 1, 2, 3):
            row.copy_(row.round())
    longest = 600.0 if dtype == torch.float64 else 60.0
    x = manifold.from_tangent((min(radius, longest) * directions).to(dtype))
    while radius > longest:
        radius -= longest
        back = manifold.logmap(x, manifold.origin(*x.shape, dtype=dtype))
        x = manifold.expmap(x, back * (-min(radius, longest) / manifold.norm(x, back, keepdim=True)))
    return x


def pair(radius, way, dtype=torch.float64, c=1.0):
    tilings = HTiling(2, HTiling.limbs_for(radius + 2, dtype), c), LTiling(1, LTiling.limbs_for(radius + 2), c=c)
    return tilings if way == "to squares" else tilings[::-1]


WAYS = ["to squares", "to half-plane"]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("radius", RADII)
def test_the_same_point_at_any_radius(radius, way):
    source, target = pair(radius, way)
    x = far_points(source, radius)
    torch.testing.assert_close(source.dist(source.origin(*x.shape, dtype=x.dtype), x), torch.full_like(x[:, 0], radius))
    y = convert(x, source, target)
    target.check(y)
    assert y.shape == (len(x), target.width)
    few = slice(None) if radius < 1000 else slice(0, 4)
    assert max(errors(x[few], y[few], source, target, radius)) < 2e-15
    torch.testing.assert_close(target.cdist(y, y), source.cdist(x, x), rtol=1e-13, atol=5e-15)
    assert source.dist(convert(y, target, source), x).max() < 2e-15


def test_the_axes():
    """Dyadic heights are points without a rounding, straight up and down."""
    source, target = pair(2000, "to squares")
    x = torch.zeros(5, source.width, dtype=torch.float64)
    x[:, 1], x[:, 2] = 1, torch.tensor([-2885.0, -1, 0, 1, 2885])
    y = convert(x, source, target)
    torch.testing.assert_close(target.dist(y[2], y), math.log(2) * x[:, 2].abs(), rtol=1e-14, atol=1e-15)
    assert y[2].tolist() == target.origin(target.width, dtype=x.dtype).tolist()
    up = target.to_tangent(y[[1, 3]])
    torch.testing.assert_close(up, math.log(2) * torch.tensor([[0.0, -1], [0, 1]], dtype=torch.float64))
    back = convert(y, target, source)
    assert source.dist(back, x).max() < 1e-15


def test_rows_anywhere_in_the_group():
    """Random integers and letters, not points that a manifold made."""
    generator = torch.Generator().manual_seed(0)
    source, target = pair(400, "to squares")
    x = source.origin(12, source.width, dtype=torch.float64)
    x[:, :2] += torch.rand(12, 2, generator=generator, dtype=torch.float64)
    x[:, 2] = torch.randint(-200, 200, (12,), generator=generator)
    x[:, 3:8] = torch.randint(-(2**39), 2**39, (12, 5), generator=generator)
    assert max(errors(x, convert(x, source, target), source, target, 400)) < 2e-15
    exponents = torch.randint(1, 6, (12, 90), generator=generator).tolist()
    words = [[[("ab"[i % 2], e) for i, e in enumerate(row)]] for row in exponents]
    y = target.from_words(words, 0.8 * torch.rand(12, 2, generator=generator, dtype=torch.float64) - 0.4)
    assert max(errors(y, convert(y, target, source), target, source, 400)) < 2e-15


def test_corners_and_sides_of_the_squares():
    """Points that belong to several squares or cells, to a rounding."""
    source, target = pair(30, "to half-plane")
    corners = torch.tensor([[1.0, 1], [1, -1], [-1, 1], [0.5**0.5, 0], [0, -(0.5**0.5)], [0, 0]], dtype=torch.float64)
    words = [("a", 2), ("b", 3), ("a", 1), ("b", 4), ("a", 3), ("b", 1), ("a", 5)]
    x = torch.cat([source.from_words([[words[:n]]] * 6, corners) for n in range(8)])
    y = convert(x, source, target)
    assert max(errors(x, y, source, target, 30)) < 2e-15
    assert source.dist(convert(y, target, source), x).max() < 3e-15


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("radius", [0.0, 1.0, 40.0, 219.0])
def test_float32(radius, way):
    source, target = pair(radius, way, torch.float32)
    x = far_points(source, radius, torch.float32)
    y = convert(x, source, target)
    assert y.dtype == torch.float32
    target.check(y)
    assert max(errors(x, y, source, target, radius)) < 5e-7


def test_a_far_tree_through_the_codec():
    tree = embed_tree([-1, *((i - 1) // 3 for i in range(1, 40))], scale=30.0)
    source, target = tree.manifold, LTiling(1, LTiling.limbs_for(tree.radius))
    assert tree.radius > 89
    squares = decode(encode(convert(tree.points, source, target), target, 40))
    boxes = decode(encode(convert(squares.points, squares.manifold, source), source, 40))
    d = source.cdist(tree.points, tree.points)
    torch.testing.assert_close(squares.manifold.cdist(squares.points, squares.points), d, rtol=0, atol=1e-11)
    assert source.dist(boxes.points, tree.points).max() < 1e-11
    edges = d[torch.arange(1, 40), tree.parents[1:]]
    torch.testing.assert_close(edges, torch.full_like(edges, 30.0))


@pytest.mark.parametrize("way", WAYS)
def test_curvature_shapes_and_widths(way):
    source, target = pair(60, way, c=0.3)
    x = far_points(source, 60.0)
    y = convert(x, source, target)
    torch.testing.assert_close(target.cdist(y, y), source.cdist(x, x), rtol=1e-13, atol=5e-15)
    with pytest.raises(DomainError, match="curvature"):
        convert(x, source, pair(60, way)[1])
    assert torch.equal(convert(x.view(2, 2, 4, -1), source, target), y.view(2, 2, 4, -1))
    assert torch.equal(convert(x[3], source, target), y[3])
    for shape in ((0,), (3, 0), (0, 3)):
        assert convert(x.new_zeros(*shape, source.width), source, target).shape == (*shape, target.width)
    near = source.from_tangent(x.new_tensor([[1.0, 2.0], [-3.0, 0.1]]))
    narrow = source.narrow(near)
    assert narrow.shape[-1] < source.width
    assert torch.equal(convert(narrow, source, target), convert(near, source, target))
    with pytest.raises(ShapeError, match="expected points of"):
        convert(x[:, :2], source, target)


@pytest.mark.parametrize("way", WAYS)
def test_rows_that_are_not_finite_spoil_only_themselves(way):
    source, target = pair(60, way)
    x = far_points(source, 60.0)
    y = convert(x, source, target)
    for column, value in ((0, math.nan), (1, math.inf), (2, math.nan), (3, -math.inf)):
        bad = x.clone()
        bad[5, column] = value
        found = convert(bad, source, target)
        assert found[5, :2].isnan().all()
        found[5] = y[5]
        assert torch.equal(found, y)
    assert convert(x[:1] * math.nan, source, target)[:, :2].isnan().all()


@pytest.mark.parametrize("way", WAYS)
def test_bad_rows(way):
    source, target = pair(60, way)
    x = far_points(source, 60.0)
    with pytest.raises(DomainError, match=r"no gradient flows from .* convert x\.detach"):
        convert(x.clone().requires_grad_(), source, target)
    with torch.no_grad():
        assert not convert(x.clone().requires_grad_(), source, target).requires_grad
    x[2, 2] += 0.5
    with pytest.raises(DomainError, match="not points of"):
        convert(x, source, target)
    with pytest.raises(DomainError, match=r"not points of|left the half-space"):
        convert(torch.zeros_like(x), source, target)


@pytest.mark.parametrize("radius", [60.0, 219.0])
def test_too_few_limbs(radius):
    """What the messages ask for is enough in the end."""
    for way, factory in (("to squares", lambda n: LTiling(1, n)), ("to half-plane", lambda n: HTiling(2, n))):
        source, _ = pair(radius, way)
        x, limbs, asked = far_points(source, radius), 1, []
        while True:
            try:
                convert(x, source, factory(limbs))
                break
            except DomainError as error:
                asked.append(str(error))
                limbs += 1
        assert limbs > 1
        assert all("limbs" in message for message in asked)
        assert limbs <= (LTiling.limbs_for(radius) if way == "to squares" else HTiling.limbs_for(radius))


def test_a_learnable_curvature_and_other_dimensions():
    h, squares = HTiling(2, 3, c=0.5, learnable=True), LTiling(1, 3, c=0.5, learnable=True)
    x = h.from_tangent(torch.tensor([[1.0, 2.0]], dtype=torch.float64)).detach()
    y = convert(x, h, squares)
    assert not y.requires_grad
    assert h.dist(convert(y, squares, h), x).max() < 1e-15
    with pytest.raises(DomainError, match="differ in dimension"):
        convert(x, HTiling(3, 3), LTiling(1, 3))
    with pytest.raises(DomainError, match="differ in dimension"):
        convert(x, LTiling(3, 1), LTiling(1, 4))
