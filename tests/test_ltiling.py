"""The tiled hyperbolic plane against references of 700 digits, from the origin to radius 700, and its group."""

import copy
import itertools
import math
import random

import geoopt
import mpmath
import pytest
import torch
from mpmath import mp, mpf
from torch.func import grad, vmap

from geoembed.errors import DomainError, ShapeError, UnknownNameError
from geoembed.manifolds import Euclidean, HalfSpace, HTiling, Lorentz, PoincareBall, Product, convert
from geoembed.manifolds.frames import (
    GENERATORS,
    IDENTITY,
    are_frames,
    carried,
    compose,
    digits_of,
    frame_to_word,
    integers_of,
    inverse,
    is_frame,
    matrix_of,
    norms,
    signed,
    times,
    word_to_frame,
)
from geoembed.manifolds.ltiling import LTiling
from geoembed.optim import RiemannianAdagrad, RiemannianAdam, RiemannianSGD

F64, F32 = torch.float64, torch.float32
RADII = [0.0, 0.5, 10.0, 37.0, 150.0, 700.0]
MATRICES = {"a": [[2, 1, 0], [0, 0, -1], [3, 2, 0]], "b": [[2, -1, 0], [0, 0, -1], [-3, 2, 0]]}  # of the paper
ONE = [[1, 0, 0], [0, 1, 0], [0, 0, 1]]
FORM = [[3, 0, 0], [0, -1, 0], [0, 0, -1]]


@pytest.fixture(autouse=True)
def digits(request):
    """Enough of them to compare points 1400 apart at radius 700 and keep 80."""
    parameters = request.node.callspec.params if hasattr(request.node, "callspec") else {}
    with mp.workdps(90 + int(0.87 * parameters.get("radius", 700))):
        yield


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def directions(n, d, generator):
    return torch.nn.functional.normalize(torch.randn(n, d, dtype=F64, generator=generator), dim=-1)


def tangent(manifold, v):
    """Tangent vectors with components v: (*B, 2 planes)."""
    pairs = v.unflatten(-1, (manifold.planes, 2))
    return torch.nn.functional.pad(pairs, (0, manifold.width // manifold.planes - 2)).flatten(-2)


def random_word(letters, seed):
    """Alternating powers of a and b, of so many letters a, b or their inverses."""
    choose, word = random.Random(seed), []
    while letters > 0:
        exponent = choose.randint(1, 5)
        letters -= min(exponent, 6 - exponent)
        word.append(("ab"[len(word) % 2], exponent))
    return word


# ------------------------------------------------------------------------------ the oracle, points (x0, x1, x2) of mpf


def product(p, q):
    return [[sum(a * b for a, b in zip(row, column, strict=True)) for column in zip(*q, strict=True)] for row in p]


def transposed(p):
    return [list(row) for row in zip(*p, strict=True)]


def spelt(word):
    """The matrix of a word."""
    matrix = ONE
    for letter, exponent in word:
        for _ in range(exponent):
            matrix = product(matrix, MATRICES[letter])
    return matrix


def moved_by(matrix, point):
    """L g L^-1 x."""
    root = mpmath.sqrt(3)
    scaled = [point[0] / root, *point[1:]]
    out = [mpmath.fsum(a * b for a, b in zip(row, scaled, strict=True)) for row in matrix]
    return [out[0] * root, *out[1:]]


def back(matrix):
    """The inverse of a matrix that keeps M: M^-1 g^T M."""
    return [[FORM[j][j] * matrix[j][i] // FORM[i][i] for j in range(3)] for i in range(3)]


def on_hyperboloid(cell):
    cell = [mpf(float(v)) for v in cell]
    return [mpmath.sqrt(1 + cell[0] ** 2 + cell[1] ** 2), *cell]


def decoded(row):
    """Of the row of one plane the matrix of its frame, the point of its square and the point it stands for."""
    values = row.detach().double().tolist()
    limbs = values[2:]
    q = tuple(sum(int(v) << (24 * i) for i, v in enumerate(limbs[axis::4])) for axis in range(4))
    assert is_frame(q)
    matrix, cell = matrix_of(q), on_hyperboloid(values[:2])
    return matrix, cell, moved_by(matrix, cell)


def encoded(point, limbs, dtype=F64):
    """The row nearest to a point, brought to the square letter by letter as in the paper."""
    word, (time, x, y), root = [], point, mpmath.sqrt(3)
    while root * max(abs(x), abs(y)) > time * (1 + mpf(10) ** -40):
        letter, exponent = ("a", 1) if x <= -abs(y) else ("b", 1) if x >= abs(y) else ("b", 5) if y < 0 else ("a", 5)
        east = exponent == 1
        near, other = (x, y) if east else (y, x)
        new = 2 * near + root * time * (-1 if near > 0 else 1)
        time, x, y = (2 * time - root * abs(near), -other, new) if east else (2 * time - root * abs(near), new, -other)
        word.append((letter, 6 - exponent))
    p = [time, x, y]
    return LTiling(1, limbs).pack(torch.tensor([float(v) for v in p[1:]], dtype=dtype), [[word_to_frame(word)]])


def boosted(point, v):
    """The tangent vector with components v in the frame that the shortest way from the centre takes along."""
    along = mpmath.fsum(a * b for a, b in zip(point[1:], v, strict=True))
    return [along, *[c + x * along / (1 + point[0]) for c, x in zip(v, point[1:], strict=True)]]


def components(point, tangent):
    """Inverse of `boosted`."""
    return [t - x * tangent[0] / (1 + point[0]) for t, x in zip(tangent[1:], point[1:], strict=True)]


def moved(point, v):
    """exp_point(v), v in that frame."""
    v = [mpf(float(value)) for value in v]
    r = mpmath.sqrt(mpmath.fsum(value**2 for value in v))
    ratio = mpmath.sinh(r) / r if r else mpf(1)
    return [mpmath.cosh(r) * x + ratio * t for x, t in zip(point, boosted(point, v), strict=True)]


def form(x, y):
    return x[0] * y[0] - x[1] * y[1] - x[2] * y[2]


def distance(x, y):
    q = max(form(x, y) - 1, mpf(0))
    return mpmath.log1p(q + mpmath.sqrt(q * (q + 2)))


def at(radius, direction):
    return moved([mpf(1), mpf(0), mpf(0)], [radius * float(v) for v in direction])


def slope(one, other):
    """Gradient of the distance at the first of two decoded rows, of length 1, in the frame of its square."""
    matrix, cell, x = one
    y = other[2]
    cosh = form(x, y)
    sinh = mpmath.sqrt((cosh - 1) * (cosh + 1))
    tangent = [(cosh * a - b) / sinh for a, b in zip(x, y, strict=True)]
    return [float(v) for v in components(cell, moved_by(back(matrix), tangent))]


def rgrad(manifold, x, y):
    """Riemannian gradient of the distance, (n, planes, 2); those of integers are zero."""
    x = x.detach().clone().requires_grad_()
    (egrad,) = torch.autograd.grad(manifold.dist(x, y).sum(), x)
    assert (egrad.unflatten(-1, (manifold.planes, -1))[..., 2:] == 0).all()
    return manifold.egrad2rgrad(x.detach(), egrad).unflatten(-1, (manifold.planes, -1))[..., :2]


def compare(manifold, x, y, tolerance=1e-14, slopes=1e-12):
    """Distances and gradients of pairs of rows against the oracle, in both metrics."""

    def planes(rows):
        return [[decoded(row) for row in plane] for plane in rows.unflatten(-1, (manifold.planes, -1)).unbind(-2)]

    first, second = planes(x), planes(y)
    each = [[distance(p[2], q[2]) for p, q in zip(*pair, strict=True)] for pair in zip(first, second, strict=True)]
    for metric in ("riemannian", "l1"):
        tiling = LTiling(manifold.planes, manifold.limbs, metric)
        if metric == "l1":
            true = [mpmath.fsum(ds) for ds in zip(*each, strict=True)]
        else:
            true = [mpmath.sqrt(mpmath.fsum(d * d for d in ds)) for ds in zip(*each, strict=True)]
        for got in (tiling.dist(x, y), tiling.dist(y, x), tiling.cdist(x, y).diagonal()):
            assert got.dtype == x.dtype
            for computed, known in zip(got.tolist(), true, strict=True):
                assert abs(computed - known) <= tolerance * known
        for one, other, p, q in ((x, y, first, second), (y, x, second, first)):
            known = [[slope(*pair) for pair in zip(*plane, strict=True)] for plane in zip(p, q, strict=True)]
            known = torch.tensor(known, dtype=F64).movedim(0, 1)
            if metric == "riemannian":
                share = [[float(d / t) for d in ds] for ds, t in zip(zip(*each, strict=True), true, strict=True)]
                known = known * torch.tensor(share, dtype=F64).unsqueeze(-1)
            assert (rgrad(tiling, one, other) - known).flatten(1).norm(dim=-1).max() <= slopes


# ------------------------------------------------------------------------------ the group


def test_relations_and_counts():
    """a^6 = b^6 = (ab)^3 = 1; so many elements of each word length."""
    for word in ([("a", 6)], [("b", 6)], [("a", 1), ("b", 1)] * 3, [("a", 7), ("a", -1)], []):
        assert word_to_frame(word) == IDENTITY
    letters = [*GENERATORS.values(), *map(inverse, GENERATORS.values())]
    seen, front, counts = {IDENTITY}, {IDENTITY}, []
    for _ in range(8):
        front = {compose(q, letter) for q in front for letter in letters} - seen
        seen |= front
        counts.append(len(front))
    assert counts == [4, 12, 32, 84, 220, 576, 1508, 3948]
    assert len({str(matrix_of(q)) for q in seen}) == len(seen)
    assert all(word_to_frame(frame_to_word(q)) == q for q in seen)
    assert bool(are_frames(digits_of(sorted(seen))).all())
    assert all(map(is_frame, seen))
    turned = [(-x, w, -z, y) for w, x, y, z in seen]  # by half a turn about the centre, which is not in the group
    assert not are_frames(digits_of(turned)).any()
    assert not any(map(is_frame, turned))


@pytest.mark.parametrize("letters", [0, 1, 2, 5, 40, 800])
def test_quaternions_are_the_matrices_of_the_paper(letters):
    for seed in range(3 if letters == 800 else 40):
        word = random_word(letters, seed)
        q, matrix = word_to_frame(word), spelt(word)
        assert matrix_of(q) == matrix
        assert product(product(transposed(matrix), FORM), matrix) == FORM
        assert product(matrix, matrix_of(inverse(q))) == ONE
        normal = frame_to_word(q)
        assert word_to_frame(normal) == q
        assert spelt(normal) == matrix
        assert all(1 <= k <= 5 and name in "ab" for name, k in normal)
        assert all(one != two for (one, _), (two, _) in itertools.pairwise(normal))
        assert frame_to_word(word_to_frame(normal)) == normal


@pytest.mark.parametrize("letters", [(1, 1), (3, 200), (200, 3), (90, 90), (800, 801)])
def test_products_in_limbs(letters):
    p, q = ([word_to_frame(random_word(n + seed % 2, seed)) for seed in range(20)] for n in letters)
    computed = times(digits_of(p), digits_of(q))
    computed = computed * signed(computed)
    assert integers_of(computed) == [compose(*pair) for pair in zip(p, q, strict=True)]
    assert are_frames(computed).all()
    assert torch.equal(carried(computed), computed)
    assert norms(computed).tolist() == [
        float(w * w + x * x - 3 * (y * y + z * z)) for w, x, y, z in integers_of(computed)
    ]
    assert integers_of(digits_of(p, 30)) == p


def test_products_of_the_largest_digits():
    """The sums of limb products stay exact however the digits fall."""
    for limbs in (1, 16, 40):
        extreme = -(sum(1 << (24 * i + 23) for i in range(limbs)))
        p = [(extreme, extreme, extreme, extreme), (extreme, -extreme - 1, extreme + 1, extreme)]
        computed = times(digits_of(p), digits_of(p[::-1]))
        (a, b, c, d), (w, x, y, z) = p
        out = [a * w - b * x + 3 * (c * y + d * z), a * x + b * w + 3 * (d * y - c * z)]
        found = integers_of(computed)[0][:2]
        assert all(abs(2 * got - known) <= 2 for got, known in zip(found, out, strict=True))


def test_wrong_elements():
    good = digits_of([word_to_frame(random_word(200, 1))])
    assert are_frames(good).all()
    for place, part, change in [(0, 0, 2), (3, 1, 1), (0, 0, 0.5), (1, 0, 2.0**24), (2, 1, float("nan"))]:
        bad = good.clone()
        bad[place, part] += change
        assert not are_frames(bad).any()
    for q in [(1, 0, 0, 0), (0, 2, 0, 0), (2, 2, 0, 0), (3, 3, 1, -1), (0, 0, 0, 0)]:
        assert not is_frame(q)
        with pytest.raises(DomainError, match="expected four integers"):
            frame_to_word(q)
    with pytest.raises(DomainError, match="powers of 'a' and 'b'"):
        word_to_frame([("c", 1)])
    with pytest.raises(DomainError, match="frames take 5 limbs"):
        digits_of([word_to_frame(random_word(150, 0))], 2)


# ------------------------------------------------------------------------------ distances


@pytest.mark.parametrize(("planes", "radius"), [*[(1, r) for r in RADII], (2, 700.0), (3, 10.0), (4, 150.0), (5, 37.0)])
def test_distances_and_gradients(planes, radius, generator):
    """Pairs 1e-12 to 30 apart in any direction, pairs far apart, and the origin; in each plane another."""
    manifold = LTiling(planes, LTiling.limbs_for(radius + 30))
    rows = []
    for plane in range(planes):
        points = [at(radius, u) for u in directions(7, 2, generator)]
        gaps = [1e-12, 1e-6, 8.7e-4, 0.3, 2.0, 30.0]
        gaps = gaps[plane:] + gaps[:plane]
        others = [moved(p, gap * w) for p, gap, w in zip(points[:6], gaps, directions(6, 2, generator), strict=True)]
        others.append(at(0.9 * radius + 0.1, directions(1, 2, generator)[0]))
        rows.append([torch.stack([encoded(p, manifold.limbs) for p in row]) for row in (points, others)])
    x, y = (torch.cat(parts, dim=-1) for parts in zip(*rows, strict=True))
    manifold.check(x)
    origin = manifold.origin(1, manifold.width, dtype=F64)
    compare(manifold, torch.cat([x, origin]), torch.cat([y, y[3:4]]))


def test_example_at_radius_700():
    manifold = LTiling(1, LTiling.limbs_for(701))
    assert manifold.limbs == 22
    u = torch.tensor([[0.6, 0.8], [-0.6, 0.8]], dtype=F64)
    x = manifold.from_tangent(700 * u)
    near = manifold.expmap(x[:1], tangent(manifold, torch.tensor([[8.7e-4, 0.0]], dtype=F64)))
    pairs = torch.cat([x[:1], x[:1]]), torch.cat([near, x[1:]])
    compare(manifold, *pairs)
    d = manifold.dist(*pairs)
    assert d[0].item() == pytest.approx(8.7e-4, rel=1e-12)
    assert d[1].item() == pytest.approx(1400 + 2 * math.log(0.6), rel=1e-14)  # sine of half the angle between them
    narrow = 2 * math.asin(math.exp((1392.5 - 1400) / 2))
    turned = manifold.from_tangent(700 * torch.tensor([[math.cos(narrow), math.sin(narrow)]], dtype=F64))
    one = manifold.from_tangent(700 * torch.tensor([[1.0, 0.0]], dtype=F64))
    compare(manifold, one, turned)
    assert manifold.dist(one, turned).item() == pytest.approx(1392.5, rel=1e-13)


@pytest.mark.parametrize("gap", [1e-12, 1e-3])
@pytest.mark.parametrize("radius", [0.0, 100.0])
def test_pairs_on_either_side_of_an_edge(gap, radius, generator):
    """And about the corners, where six squares meet."""
    limbs, rows = LTiling.limbs_for(radius + 5), []
    word = frame_to_word(word_to_frame(random_word(int(radius), 5)))
    edge, corner = mpmath.sqrt(mpf(1) / 2), mpf(1)
    for turn in range(4):
        for along in (mpf("0.3"), mpf(0), -corner):
            across = mpmath.sqrt((1 + along**2) / 2) if along else edge
            p = (across, along)
            for _ in range(turn):
                p = (-p[1], p[0])
            middle = [mpmath.sqrt(1 + p[0] ** 2 + p[1] ** 2), *p]
            for v in directions(2, 2, generator):
                ends = [moved(middle, side * gap / 2 * v) for side in (1, -1)]
                rows.append([encoded(moved_by(spelt(word), end), limbs) for end in ends])
    x, y = (torch.stack(side) for side in zip(*rows, strict=True))
    assert (x[:, 2:] != y[:, 2:]).any(-1).sum() > 12
    compare(LTiling(1, limbs), x, y)


def test_one_point_of_two_squares():
    """A point of an edge, as one of either square: 0 apart but for the rounding of the coordinates."""
    manifold = LTiling(1, 1)
    p = moved([mpmath.sqrt(mpf(3) / 2), mpmath.sqrt(mpf(1) / 2), mpf(0)], [0.0, 0.3])
    x = encoded(p, 1)
    side = torch.tensor([float(v) for v in moved_by(MATRICES["b"], p)[1:]], dtype=F64)
    y = manifold.pack(side, [[inverse(GENERATORS["b"])]])
    assert (x != y).any()
    assert 0 < manifold.dist(x, y) < 1e-15
    compare(manifold, x.unsqueeze(0), y.unsqueeze(0))


@pytest.mark.parametrize("radius", [0.0, 1.0, 100.0, 700.0])
@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("metric", ["riemannian", "l1"])
def test_coincident(radius, dtype, metric, generator):
    manifold = LTiling(2, LTiling.limbs_for(700), metric)
    x = manifold.from_tangent((radius * directions(5, 4, generator)).to(dtype) * (1 if dtype == F64 else 0.1))
    x, y = x.requires_grad_(), x.detach().clone().requires_grad_()
    for d in (manifold.dist(x, y), manifold.dist2(x, y), manifold.cdist(x, y).diagonal()):
        assert (d == 0).all()
        for gradient in torch.autograd.grad(d.sum(), (x, y)):
            assert (gradient == 0).all()
    assert (manifold.logmap(x, y) == 0).all()


def test_nan_stays_in_its_row(generator):
    manifold = LTiling(2, 3)
    x, y = manifold.random(2, 6, manifold.width, generator=generator, dtype=F64)
    x = manifold.act(random_word(60, 2), x)
    clean = manifold.dist(x, y), manifold.cdist(x, y), manifold.expmap(x, manifold.logmap(x, y) / 9)
    for channel in range(manifold.width):
        z = x.clone()
        z[2, channel] = float("nan")
        for value, known in zip((manifold.dist(z, y), manifold.cdist(z, y)), clean, strict=False):
            assert value[2].isnan().all()
            torch.testing.assert_close(
                torch.cat([value[:2], value[3:]]), torch.cat([known[:2], known[3:]]), rtol=0, atol=0
            )
        assert manifold.projx(z)[2].isnan().any()
        assert torch.equal(manifold.projx(z)[3:], x[3:])
        stepped = manifold.expmap(z, manifold.logmap(x, y) / 9)
        assert stepped[2].isnan().any()
        assert torch.equal(stepped[3:], clean[2][3:])
        with pytest.raises(DomainError, match=r"1 of 6 rows .* row 2"):
            manifold.check(z)
        z = z.requires_grad_()
        (gradient,) = torch.autograd.grad(manifold.dist(z, y).sum(), z)
        assert gradient[[0, 1, 3, 4, 5]].isfinite().all()


def test_group_elements_change_no_distance(generator):
    """Both points moved by a random word of length 800."""
    manifold = LTiling(2, 30, "l1")
    x, y = (manifold.from_tangent(r * directions(6, 4, generator)) for r in (2.0, 3.0))
    near = manifold.expmap(x, manifold.proju(x, 1e-4 * torch.ones_like(x)))
    for seed, letters in ((1, 1), (2, 90), (3, 800)):
        word = random_word(letters, seed)
        p, q, r = (manifold.act(word, z) for z in (x, y, near))
        manifold.check(p)
        assert torch.equal(manifold.cells(p), manifold.cells(x))
        torch.testing.assert_close(manifold.dist(p, q), manifold.dist(x, y), rtol=1e-15, atol=0)
        torch.testing.assert_close(manifold.dist(p, r), manifold.dist(x, near), rtol=1e-15, atol=0)
        known = [[compose(word_to_frame(word), frame) for frame in row] for row in manifold.frames(x)]
        assert manifold.frames(p) == known
        inverted = [(name, -k) for name, k in reversed(word)]
        assert torch.equal(manifold.act(inverted, p), x)
    with pytest.raises(DomainError, match=r"12 point.s. lie"):
        LTiling(2, 2).act(random_word(800, 3), LTiling(2, 2).origin(6, 20, dtype=F64))


def test_words_and_frames(generator):
    manifold = LTiling(2, 22)
    x = manifold.from_tangent(torch.linspace(0, 900, 9).double().unsqueeze(-1) * directions(9, 4, generator) / 1.5)
    words = manifold.words(x)
    assert torch.equal(manifold.from_words(words, manifold.cells(x)), x)
    assert torch.equal(manifold.pack(manifold.cells(x), manifold.frames(x)), x)
    assert words[0] == [[], []]
    radii = manifold.to_tangent(x)[-1].view(2, 2).norm(dim=-1)
    assert all(
        0.7 * r < sum(min(k, 6 - k) for _, k in word) < 1.2 * r for word, r in zip(words[-1], radii, strict=True)
    )
    assert torch.equal(manifold.pack(torch.zeros(3, 4).double()), manifold.origin(3, manifold.width, dtype=F64))
    assert manifold.pack(x[:0, :4]).shape == (0, manifold.width)
    opposite = [[tuple(-value for value in frame) for frame in row] for row in manifold.frames(x)]
    assert torch.equal(manifold.pack(manifold.cells(x), opposite), x)
    with pytest.raises(DomainError, match="expected four integers"):
        manifold.pack(x[:1, :4], [[IDENTITY, (1, 0, 0, 0)]])


# ------------------------------------------------------------------------------ moving


@pytest.mark.parametrize("radius", [0.0, 0.5, 37.0, 700.0])
def test_expmap_and_logmap(radius, generator):
    manifold = LTiling(1, LTiling.limbs_for(radius + 31))
    for length in (0.0, 1e-9, 0.1, 1.0, 5.0, 30.0):
        x = torch.stack([encoded(at(radius, u), manifold.limbs) for u in directions(3, 2, generator)])
        v = tangent(manifold, length * directions(3, 2, generator))
        y = manifold.expmap(x, v)
        manifold.check(y)
        known = []
        for row, u in zip(x, v, strict=True):
            matrix, cell, _ = decoded(row)
            known.append(moved_by(matrix, moved(cell, u[:2].tolist())))
        far = 1e-15 * (1 + length) * math.exp(length)  # a rounding of the direction of v
        assert all(distance(decoded(row)[2], p) <= 8 * far for row, p in zip(y, known, strict=True))
        if length <= 5:
            torch.testing.assert_close(manifold.logmap(x, y), v, rtol=1e-12, atol=8 * far)
        torch.testing.assert_close(manifold.norm(x, manifold.logmap(x, y)), manifold.dist(x, y), rtol=1e-13, atol=0)
        assert torch.equal(manifold.retr(x, v), y)
        if length == 0:
            assert torch.equal(y, x)


@pytest.mark.parametrize("radius", [1.0, 350.0, 700.0])
def test_tangent_coordinates_of_the_centre(radius, generator):
    """Also along axes and diagonals, where corners and middles of edges are met."""
    manifold = LTiling(1, 22)
    u = torch.cat([torch.eye(2), -torch.eye(2), torch.tensor([[1.0, 1], [1, -1], [-1, 1], [-1, -1]]) / math.sqrt(2)])
    u = radius * torch.cat([u.double(), directions(20, 2, generator)])
    x = manifold.from_tangent(u)
    manifold.check(x)
    torch.testing.assert_close(manifold.to_tangent(x), u, rtol=1e-12, atol=1e-12 * radius)


def test_riemannian_gradient_points_away(generator):
    manifold = LTiling(2, 4, c=0.5)
    x, y = manifold.random(2, 20, manifold.width, std=20.0, generator=generator, dtype=F64)
    gradient = rgrad(manifold, x, y).flatten(1)
    expected = -manifold.logmap(x, y) / manifold.dist(x, y).unsqueeze(-1)
    torch.testing.assert_close(gradient, manifold.cells(expected), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(manifold.norm(x, expected), torch.ones(20, dtype=F64), rtol=1e-13, atol=0)
    l1 = LTiling(2, 4, "l1", c=0.5)
    each = rgrad(l1, x, y).norm(dim=-1) / l1.c.sqrt()
    torch.testing.assert_close(each, torch.ones(20, 2, dtype=F64), rtol=1e-13, atol=0)


@pytest.mark.parametrize("radius", [0.0, 100.0])
def test_derivatives(radius, generator):
    """By cells and tangent vectors; those of expmap include the carry and the turn."""
    manifold = LTiling(2, LTiling.limbs_for(radius + 10))
    x = manifold.from_tangent(radius * directions(2, 4, generator))
    y = manifold.expmap(x, tangent(manifold, 1.3 * directions(2, 4, generator)))
    near = manifold.expmap(x, tangent(manifold, 0.05 * directions(2, 4, generator)))
    v, w = 0.7 * directions(2, 4, generator), directions(2, 4, generator)

    def joined(cells, point):
        parts = cells.unflatten(-1, (2, 2)), point.unflatten(-1, (2, -1))[..., 2:]
        return torch.cat(parts, dim=-1).flatten(-2)

    def inputs(*tensors):
        return tuple(t.detach().clone().requires_grad_() for t in tensors)

    for other in (y, near):
        for method in (manifold.dist, manifold.cdist, manifold.logmap):
            run = lambda a, b, f=method, p=other: f(joined(a, x), joined(b, p))  # noqa: E731
            assert torch.autograd.gradcheck(run, inputs(manifold.cells(x), manifold.cells(other)))
        run = lambda a, b, p=other: manifold.transp(joined(a, x), joined(b, p), tangent(manifold, w))  # noqa: E731
        assert torch.autograd.gradcheck(run, inputs(manifold.cells(x), manifold.cells(other)))
        run = lambda a, p=other: manifold.dist(joined(a, x), p)  # noqa: E731
        assert torch.autograd.gradgradcheck(run, inputs(manifold.cells(x)))
    run = lambda a, u: manifold.cells(manifold.expmap(joined(a, x), tangent(manifold, u)))  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs(manifold.cells(x), v))
    assert torch.autograd.gradcheck(run, inputs(manifold.cells(x), 0 * v))
    assert torch.autograd.gradgradcheck(run, inputs(manifold.cells(x), v))
    run = lambda a, u, t: manifold.retr_transp(joined(a, x), tangent(manifold, u), tangent(manifold, t))[1]  # noqa: E731
    assert torch.autograd.gradcheck(run, inputs(manifold.cells(x), v, w))


@pytest.mark.parametrize("radius", [0.0, 10.0, 500.0])
def test_transport_against_the_oracle(radius, generator):
    """V + <Y, V> / (1 + cosh d) (X + Y), across frames; it is what retr_transp carries along."""
    manifold = LTiling(1, LTiling.limbs_for(radius + 10))
    x = torch.stack([encoded(at(radius, u), manifold.limbs) for u in directions(6, 2, generator)])
    u, v = (tangent(manifold, r * directions(6, 2, generator)) for r in (2.0, 1.0))
    y, carried_v = manifold.retr_transp(x, u, v)
    for p, q, one, two in zip(x, y, v, carried_v, strict=True):
        (matrix, cell, point), (other, square, end) = decoded(p), decoded(q)
        vector = moved_by(matrix, boosted(cell, [mpf(c) for c in one[:2].tolist()]))
        factor = -form(end, vector) / (1 + form(point, end))
        vector = [t + factor * (a + b) for t, a, b in zip(vector, point, end, strict=True)]
        local = moved_by(back(other), vector)
        assert abs(form(square, local)) < 1e-12
        known = torch.tensor([float(c) for c in components(square, local)], dtype=F64)
        assert (two[:2] - known).norm() < 1e-13
    torch.testing.assert_close(manifold.transp(x, y, v), carried_v, rtol=0, atol=2e-14)
    torch.testing.assert_close(manifold.transp(y, x, carried_v), v, rtol=0, atol=2e-14)


def test_transport_and_inner_product(generator):
    manifold = LTiling(2, 2, c=0.3)
    x, y, z = manifold.random(3, 5, manifold.width, generator=generator, dtype=F64)
    u, v = manifold.logmap(x, y), manifold.logmap(x, z)
    inner = manifold.inner(x, u, v)
    torch.testing.assert_close(inner, manifold.inner(y, manifold.transp(x, y, u), manifold.transp(x, y, v)))
    torch.testing.assert_close(manifold.transp(x, y, u), -manifold.logmap(y, x), rtol=1e-12, atol=1e-13)
    torch.testing.assert_close(manifold.inner(x, u), manifold.dist2(x, y))
    torch.testing.assert_close(manifold.component_inner(x, u, v)[:, [0, 10]].sum(-1), inner)
    assert manifold.component_inner(x, u).shape == x.shape
    torch.testing.assert_close(manifold.norm(x, u), manifold.dist(x, y))
    assert torch.equal(manifold.proju(x, u + 1).view(5, 2, -1)[..., 2:], torch.zeros(5, 2, 8, dtype=F64))
    lorentz = Lorentz(0.3)
    points = [manifold.to_lorentz(p).view(5, 2, 3) for p in (x, y)]
    added = manifold.to_lorentz(manifold.add(x, y)).view(5, 2, 3)
    torch.testing.assert_close(added, lorentz.add(*points), rtol=1e-11, atol=1e-11)


def test_carrying_is_exact_and_idempotent(generator):
    """Points spread far out of their square stand for the same ones, to the rounding of where they were."""
    manifold = LTiling(1, 5)
    x = manifold.from_tangent(torch.linspace(0, 30, 12).double().unsqueeze(-1) * directions(12, 2, generator))
    sizes = 10.0 ** torch.linspace(-3, 6, 12, dtype=F64)
    x[:, :2] = sizes.unsqueeze(-1) * directions(12, 2, generator)
    y = manifold.projx(x)
    manifold.check(y)
    assert torch.equal(manifold.projx(y), y)
    for before, after, size in zip(x, y, sizes.tolist(), strict=True):
        assert distance(decoded(before)[2], decoded(after)[2]) <= 1e-15 * (1 + size)
    for row, whole in zip(x, y, strict=True):  # one point alone
        assert torch.equal(manifold.projx(row), whole)
        assert manifold.dist(row, whole).shape == ()


# ------------------------------------------------------------------------------ trajectories and optimizers


def test_when_to_carry_does_not_matter(generator):
    """Small steps, carried after each or after 50; directions taken along, so that both walk the same way."""
    manifold = LTiling(2, LTiling.limbs_for(70))
    start = manifold.from_tangent(50 * directions(4, 4, generator))
    goal = manifold.expmap(start, tangent(manifold, directions(8, 2, generator).view(4, 4)))
    often = rarely = start
    b_often = b_rarely = torch.zeros_like(start)
    for step in range(1, 101):  # twice 50
        b_often = 0.97 * b_often + 0.02 * manifold.logmap(often, goal)
        b_rarely = 0.97 * b_rarely + 0.02 * manifold.logmap(rarely, goal)
        often, b_often = manifold.retr_transp(often, 0.3 * b_often, b_often)
        moved_on = manifold.geodesic_step(rarely, 0.3 * b_rarely)
        b_rarely, rarely = manifold.transp(rarely, moved_on, b_rarely), moved_on
        if step % 50 == 0:
            carried_point = manifold.projx(rarely)
            b_rarely, rarely = manifold.transp(rarely, carried_point, b_rarely), carried_point
    assert manifold.dist(often, start).min() > 0.1
    assert (often.view(4, 2, -1)[..., 2:] != start.view(4, 2, -1)[..., 2:]).any()
    assert manifold.dist(often, rarely).max() < 1e-10
    torch.testing.assert_close(b_often, b_rarely, rtol=0, atol=1e-10)


@pytest.mark.parametrize(
    ("optimizer", "dtype", "tolerance"),
    [(geoopt.optim.RiemannianSGD, F64, 1e-9), (RiemannianSGD, F64, 1e-9), (RiemannianSGD, F32, 1e-3)],
)
def test_walk_to_radius_699(optimizer, dtype, tolerance, generator):
    """Steps of 5: the distance falls by 5 at each."""
    manifold = LTiling(1, LTiling.limbs_for(701))
    target = torch.stack([encoded(at(699.0, u), manifold.limbs, dtype) for u in directions(3, 2, generator)])
    x = geoopt.ManifoldParameter(manifold.origin(3, manifold.width, dtype=dtype), manifold=manifold)
    steps = optimizer([x], lr=5.0)
    for step in range(139):
        steps.zero_grad()
        d = manifold.dist(x, target)
        assert (d - (699 - 5 * step)).abs().max() < tolerance
        d.sum().backward()
        steps.step()
    manifold.check(x.detach())
    assert (manifold.dist(x, target) - 4).abs().max() < tolerance


@pytest.mark.parametrize("nesterov", [False, True])
def test_momentum_is_taken_along(nesterov, generator):
    """Against the same steps on the hyperboloid, where nothing is carried."""
    manifold, plain = LTiling(1, 1), Lorentz()
    p, goal = plain.random(2, 6, 3, std=1.5, generator=generator, dtype=F64)
    target = manifold.from_lorentz(goal)
    x = geoopt.ManifoldParameter(manifold.from_lorentz(p), manifold=manifold)
    start = x.detach().clone()
    steps = RiemannianSGD([x], lr=0.2, momentum=0.8, nesterov=nesterov)
    b = torch.zeros_like(p)
    for _ in range(25):
        steps.zero_grad()
        manifold.dist2(x, target).sum().backward()
        steps.step()
        g = -2 * plain.logmap(p, goal)
        b = 0.8 * b + g
        moved_on = plain.expmap(p, -0.2 * (g + 0.8 * b if nesterov else b))
        b, p = plain.transp(p, moved_on, b), moved_on
        assert manifold.dist(x.detach(), manifold.from_lorentz(p)).max() < 1e-10
        velocity = steps.state[x]["momentum_buffer"]
        for row, v, known in zip(x.detach(), velocity, b, strict=True):
            matrix, cell, where = decoded(row)
            ambient = moved_by(matrix, boosted(cell, [mpf(c) for c in v[:2].tolist()]))
            assert abs(form(where, ambient)) < 1e-12  # tangent
            torch.testing.assert_close(
                torch.tensor([float(c) for c in ambient], dtype=F64), known, rtol=1e-9, atol=1e-9
            )
    assert (x.detach()[:, 2:] != start[:, 2:]).any(-1).sum() >= 4  # carried


CASES = [
    (RiemannianSGD, {"lr": 0.2, "momentum": 0.5}),
    (RiemannianSGD, {"lr": 0.2, "momentum": 0.5, "nesterov": True}),
    (RiemannianAdam, {"lr": 0.3}),
    (RiemannianAdam, {"lr": 0.3, "amsgrad": True, "weight_decay": 1e-4, "decoupled_weight_decay": True}),
    (RiemannianAdagrad, {"lr": 1.0}),
    (geoopt.optim.RiemannianSGD, {"lr": 0.2, "momentum": 0.3}),
    (geoopt.optim.RiemannianAdam, {"lr": 0.3}),
]


@pytest.mark.parametrize(("optimizer", "options"), CASES)
def test_optimizers_converge(optimizer, options, generator):
    manifold = LTiling(2, 1)
    target = manifold.random(4, manifold.width, std=1.5, generator=generator, dtype=F64)
    x = geoopt.ManifoldParameter(manifold.origin(4, manifold.width, dtype=F64), manifold=manifold)
    steps = optimizer([x], stabilize=10, **options)
    schedule = torch.optim.lr_scheduler.ExponentialLR(steps, 0.97)
    for _ in range(150):
        steps.zero_grad()
        manifold.dist2(x, target).sum().backward()
        steps.step()
        schedule.step()
    manifold.check(x.detach())
    assert manifold.dist(x.detach(), target).max() < 1e-2


@pytest.mark.parametrize(
    ("optimizer", "options"),
    [
        *CASES[:5],
        (geoopt.optim.SparseRiemannianSGD, {"lr": 0.2}),
        (geoopt.optim.SparseRiemannianAdam, {"lr": 0.1}),
    ],
)
def test_sparse_rows_step_as_a_table_of_their_own(optimizer, options, generator):
    manifold, ids = LTiling(2, 1), torch.tensor([7, 2, 5])
    points, target = manifold.random(2, 10, manifold.width, std=3.0, generator=generator, dtype=F64)
    table = torch.nn.Embedding(10, manifold.width, sparse=True, dtype=F64)
    table.weight = geoopt.ManifoldParameter(points.clone(), manifold=manifold)
    own = geoopt.ManifoldParameter(points[ids].clone(), manifold=manifold)
    dense = {"SparseRiemannianSGD": "RiemannianSGD", "SparseRiemannianAdam": "RiemannianAdam"}
    other = getattr(geoopt.optim, dense[optimizer.__name__]) if optimizer.__name__ in dense else optimizer
    steps = optimizer(table.parameters(), **options), other([own], **options)
    for _ in range(5):
        for optimiser, rows in zip(steps, (lambda: table(ids), lambda: own), strict=True):
            optimiser.zero_grad()
            manifold.dist2(rows(), target[ids]).sum().backward()
            optimiser.step()
    torch.testing.assert_close(table.weight[ids].detach(), own.detach(), rtol=1e-12, atol=1e-12)
    rest = torch.ones(10, dtype=torch.bool).index_fill_(0, ids, False)
    assert torch.equal(table.weight[rest].detach(), points[rest])
    assert (table.weight[ids].detach() != points[ids]).any()


# ------------------------------------------------------------------------------ conversions, storage, errors


@pytest.mark.parametrize("c", [1.0, 0.3])
@pytest.mark.parametrize("planes", [1, 3])
def test_conversions(c, planes, generator):
    manifold = LTiling(planes, 1, c=c)
    radii = torch.linspace(0, 10, 30).double().unsqueeze(-1) / c**0.5
    u = torch.cat([radii * directions(30, 2, generator) for _ in range(planes)], dim=-1)
    x, y = manifold.from_tangent(u), manifold.from_tangent(u.roll(7, 0))
    torch.testing.assert_close(manifold.to_tangent(x), u, rtol=1e-12, atol=1e-13)
    for other, to, back_again in [
        (HalfSpace(c), manifold.to_halfspace, manifold.from_halfspace),
        (Lorentz(c), manifold.to_lorentz, manifold.from_lorentz),
        (PoincareBall(c), manifold.to_poincare, manifold.from_poincare),
    ]:
        product_manifold = Product([(other, 2)] * planes)
        p = to(x)
        product_manifold.check(p)
        torch.testing.assert_close(p, product_manifold.from_tangent(u), rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(product_manifold.dist(p, to(y)), manifold.dist(x, y), rtol=1e-10, atol=1e-10)
        assert (manifold.dist(back_again(p), x) < 1e-15 * (10 * c**0.5 * radii[:, 0]).exp().clamp(max=1e4) + 1e-8).all()


@pytest.mark.parametrize("model", [HalfSpace, Lorentz, PoincareBall, HTiling])
def test_convert_knows_the_tiling(model):
    tiling = LTiling(1, 1, c=0.7)
    other = HTiling(2, 2, c=0.7) if model is HTiling else model(0.7)
    g = torch.Generator().manual_seed(5)
    x = other.random(20, other.point_dim(2), std=1.5, generator=g, dtype=torch.float64)
    rows = convert(x, other, tiling)
    tiling.check(rows)
    torch.testing.assert_close(convert(rows, tiling, other), x, rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(tiling.cdist(rows, rows), other.cdist(x, x), rtol=1e-7, atol=1e-7)
    assert convert(rows, tiling, tiling) is rows
    wide = LTiling(1, 3, c=0.7)
    padded = convert(rows, tiling, wide)
    wide.check(padded)
    assert torch.equal(padded[:, :6], rows)
    assert torch.equal(convert(padded, wide, tiling), rows)
    with pytest.raises(DomainError, match="curvature"):
        convert(x, other, LTiling(1, 1))
    for target in (Euclidean(), LTiling(2, 1, c=0.7)):
        with pytest.raises(DomainError, match="no isometry"):
            convert(x, other, target)


def test_far_coordinates_of_the_hyperboloid(generator):
    """Right to a rounding up to radius 700, and back to the same direction."""
    manifold = LTiling(1, 22)
    x = torch.stack([encoded(at(700.0, u), 22) for u in directions(8, 2, generator)])
    points = manifold.to_lorentz(x)
    for row, got in zip(x, points, strict=True):
        known = decoded(row)[2]
        assert all(abs(a - b) <= 1e-14 * known[0] for a, b in zip(got.tolist(), known, strict=True))
    again = manifold.from_lorentz(points)
    manifold.check(again)
    torch.testing.assert_close(manifold.to_tangent(again), manifold.to_tangent(x), rtol=1e-13, atol=1e-12)


def test_state_survives(tmp_path, generator):
    manifold = LTiling(2, 22)
    table = torch.nn.Embedding(5, manifold.width, dtype=F64)
    table.weight = geoopt.ManifoldParameter(manifold.from_tangent(700 * directions(5, 4, generator)), manifold=manifold)
    torch.save(table.state_dict(), tmp_path / "state.pt")
    other = torch.nn.Embedding(5, manifold.width, dtype=F64)
    other.weight = geoopt.ManifoldParameter(manifold.origin(5, manifold.width, dtype=F64), manifold=LTiling(2, 22))
    other.load_state_dict(torch.load(tmp_path / "state.pt", weights_only=True))
    assert torch.equal(other.weight.data, table.weight.data)
    assert (manifold.dist(other.weight, table.weight) == 0).all()
    copied = copy.deepcopy(manifold)
    assert torch.equal(copied.dist(table.weight[:1], table.weight), manifold.dist(table.weight[:1], table.weight))
    for shown in ("LTiling(3, 2)", "LTiling(3, 2, metric='l1', c=0.5)", "LTiling(1, 1, learnable=True)"):
        assert repr(eval(shown)) == shown


@pytest.mark.parametrize("dtype", [F64, F32])
@pytest.mark.parametrize("limbs", [1, 2, 5])
def test_radius_beyond_the_limbs(dtype, limbs, generator):
    manifold = LTiling(2, limbs)
    end = 2 * ((24 * limbs - 1) * math.log(2) - math.log(math.sqrt(3)))
    u = torch.cat([directions(100, 2, generator), torch.eye(2).double(), -torch.eye(2).double()]).repeat(1, 2).to(dtype)
    assert LTiling.limbs_for(end - 1.2) == limbs < LTiling.limbs_for(end + 1.2)
    if dtype == F64 or limbs < 3:
        manifold.check(manifold.from_tangent((end - 1.2) * u))
        far = 2.5 * end if dtype == F64 else end + 3
        with pytest.raises(DomainError, match=r"1 point.s. lie beyond radius .* needs limbs=\d+") as caught:
            manifold.from_tangent(torch.stack([torch.cat([far * u[0, :2], 0 * u[0, :2]]), u[0]]))
        needed = int(str(caught.value).split("limbs=")[1].split()[0])
        enough, few = LTiling(1, needed), LTiling(1, needed - 1)
        enough.check(enough.from_tangent(far * u[0, :2]))
        with pytest.raises(DomainError, match="beyond"):
            few.from_tangent(far * u[0, :2])


def test_walking_beyond_the_limbs():
    manifold = LTiling(1, 1)
    x = manifold.origin(1, manifold.width, dtype=F64)
    v = tangent(manifold, torch.tensor([[0.5, -0.4]], dtype=F64))

    def walk():
        nonlocal x, v
        for _ in range(200):
            x, v = manifold.retr_transp(x, v, v)

    with pytest.raises(DomainError, match="needs limbs=2"):
        walk()
    assert 27 < manifold.to_tangent(x).norm() < 33


def test_errors():
    for bad in ((0, 1), (2, 0), (2.0, 1), (2, True)):
        with pytest.raises(ShapeError, match="must be an integer >= 1"):
            LTiling(*bad)
    with pytest.raises(UnknownNameError, match="Did you mean 'riemannian'"):
        LTiling(2, 1, metric="rieman")
    manifold = LTiling(2, 2)
    x = manifold.origin(2, manifold.width, dtype=F64)
    for wrong in (
        lambda: manifold.dist(x[:, :5], x[:, :5]),
        lambda: manifold.dist(x, x.float()),
        lambda: manifold.dist(x.half(), x.half()),
        lambda: manifold.projx(x[:, :3]),
        lambda: manifold.pack(x),
        lambda: manifold.pack(x[:, :4], [[IDENTITY] * 2]),
        lambda: manifold.pack(x[:, :4], [[IDENTITY]] * 2),
        lambda: manifold.point_dim(2),
        lambda: manifold.origin(2, 3),
        lambda: manifold.projx(x.long()),
        lambda: manifold.from_lorentz(x[:, :4]),
    ):
        with pytest.raises(ShapeError):
            wrong()
    for value in (float("inf"), -float("inf")):
        z = x.clone()
        z[1, 1] = value
        with pytest.raises(DomainError, match="1 of 4 points left the plane"):
            manifold.projx(z)
    with pytest.raises(DomainError, match="No step is longer than 709"):
        LTiling(1, 60).from_tangent(torch.tensor([900.0, 0.0], dtype=F64))
    for channel, value in [(0, 1.0), (1, -0.9), (2, 0.0), (2, 2.5), (3, 2.0), (7, 2.0**24), (14, 1.0)]:
        z = x.clone()
        z[0, channel] = value
        with pytest.raises(DomainError, match="1 of 2 rows"):
            manifold.check(z)


# ------------------------------------------------------------------------------ float32 and PyTorch


@pytest.mark.parametrize("radius", [0.5, 30.0, 80.0])
def test_float32_cells(radius, generator):
    manifold = LTiling(1, LTiling.limbs_for(radius + 31))
    gaps = [1e-4, 0.1, 1.0, 5.0, 30.0]
    points = [at(radius, u) for u in directions(6, 2, generator)]
    others = [moved(p, gap * w) for p, gap, w in zip(points[:5], gaps, directions(5, 2, generator), strict=True)]
    others.append(at(radius, directions(1, 2, generator)[0]))
    x, y = (torch.stack([encoded(p, manifold.limbs, F32) for p in row]) for row in (points, others))
    manifold.check(x, atol=1e-6)
    compare(manifold, x, y, tolerance=1e-7, slopes=1e-6)
    torch.testing.assert_close(manifold.dist(x.double(), y.double()), manifold.dist(x, y).double(), rtol=1e-7, atol=0)
    assert torch.equal(manifold.projx(x), x)
    v = tangent(manifold, directions(6, 2, generator).float())
    moved_points = manifold.expmap(x, v)
    manifold.check(moved_points)
    assert torch.equal(manifold.projx(moved_points), moved_points)
    torch.testing.assert_close(manifold.dist(x, moved_points), torch.ones(6), rtol=1e-5, atol=0)
    assert manifold.random(2, manifold.width).dtype == F32
    assert manifold.frames(x) == manifold.frames(x.double())


@pytest.mark.parametrize("limbs", [1, 2, 22])
def test_broadcasting_vmap_and_products(limbs, generator):
    manifold = LTiling(2, limbs)
    x = manifold.random(4, 1, manifold.width, generator=generator, dtype=F64)
    y = manifold.random(6, manifold.width, generator=generator, dtype=F64)
    d = manifold.dist(x, y)
    assert d.shape == (4, 6)
    torch.testing.assert_close(manifold.cdist(x[:, 0], y), d, rtol=0, atol=0)
    for empty in (
        manifold.dist(x[:0], y),
        manifold.dist(x, y[:0]),
        manifold.cdist(x[:0, 0], y),
        manifold.cdist(x[:, 0], y[:0]),
    ):
        assert empty.numel() == 0
    assert manifold.expmap(y[:0], y[:0]).shape == (0, manifold.width)
    a, b = x.clone().requires_grad_(), y.clone().requires_grad_()
    wide = x.expand(4, 6, -1).clone().requires_grad_()
    torch.testing.assert_close(
        torch.autograd.grad(manifold.dist(a, b).sum(), a)[0],
        torch.autograd.grad(manifold.dist(wide, y).sum(), wide)[0].sum(1, keepdim=True),
    )
    computed = vmap(vmap(grad(manifold.dist), (None, 0)), (0, None))(x[:, 0], y).sum(1)
    torch.testing.assert_close(computed, torch.autograd.grad(manifold.dist(a, b).sum(), a)[0][:, 0])
    steps = vmap(lambda p, q: manifold.expmap(p, manifold.logmap(p, q)))(y, y.flip(0))
    assert manifold.dist(steps, y.flip(0)).max() < 1e-12
    mixed = Product([(Lorentz(), 2), (manifold, 4)])
    p, q = mixed.random(2, 5, mixed.point_dim(6), generator=generator, dtype=F64)
    parts = Lorentz().dist(p[:, :3], q[:, :3]).square() + manifold.dist(p[:, 3:], q[:, 3:]).square()
    torch.testing.assert_close(mixed.dist2(p, q), parts)


def test_long_batches_are_cut(generator):
    """Blocks, limbs of which some are zero, and near, same and far pairs among each other."""
    manifold = LTiling(2, 4)
    x = manifold.random(150, manifold.width, std=4.0, generator=generator, dtype=F64)
    x[:40] = manifold.random(40, manifold.width, std=0.1, generator=generator, dtype=F64)
    d = manifold.cdist(x, x)
    assert (d.diagonal() == 0).all()
    torch.testing.assert_close(d, d.mT, rtol=1e-14, atol=0)
    rows = torch.stack([torch.stack([manifold.dist(p, q) for q in x[::30]]) for p in x[::7]])
    torch.testing.assert_close(rows, d[::7, ::30], rtol=1e-15, atol=0)


def test_curvature(generator):
    manifold, unit = LTiling(2, 1, c=0.25, learnable=True), LTiling(2, 1)
    u = 4 * directions(5, 4, generator)
    x, y = unit.from_tangent(u), unit.from_tangent(u.roll(1, 0))
    torch.testing.assert_close(manifold.dist(x, y), 2 * unit.dist(x, y))
    torch.testing.assert_close(manifold.from_tangent(2 * u).detach(), x, rtol=1e-9, atol=1e-9)
    (slope_of_c,) = torch.autograd.grad(manifold.dist(x, y).sum(), manifold.log_c)
    torch.testing.assert_close(slope_of_c, -manifold.dist(x, y).sum().detach() / 2)


def test_barycentre(generator):
    manifold = LTiling(2, 2, c=0.5)
    x = manifold.random(3, 8, manifold.width, generator=generator, dtype=F64)
    weights = torch.rand(3, 8, dtype=F64, generator=generator)
    mean = manifold.barycentre(x, weights)
    manifold.check(mean)
    pull = (weights.unsqueeze(-1) * manifold.logmap(mean.unsqueeze(1), x)).sum(1)
    assert manifold.norm(mean, pull).max() < 1e-12


def test_compile(generator):
    manifold = LTiling(2, 2)
    x, y = manifold.random(2, 4, manifold.width, generator=generator, dtype=F64)
    x.requires_grad_()

    def function(x, y):
        middle, v = manifold.retr_transp(x, 0.1 * y, y)
        return manifold.dist(middle, y).sum() + (v * middle).square().sum()

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    torch.testing.assert_close(compiled(x, y), function(x, y))
    expected = torch.autograd.grad(function(x, y), x)
    torch.testing.assert_close(torch.autograd.grad(compiled(x, y), x), expected)


@pytest.mark.parametrize("offset", [1, 2, 3])
def test_memory_that_is_not_aligned(offset):
    """As that of a tensor read from a file."""
    manifold = LTiling(1, 2)
    x = manifold.from_tangent(torch.randn(6, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64))
    held = torch.zeros(offset + x.numel(), dtype=torch.float64)
    held[offset:] = x.flatten()
    y = held[offset:].view(x.shape)
    assert torch.equal(manifold.cdist(y, y), manifold.cdist(x, x))
    assert torch.equal(manifold.projx(y), manifold.projx(x))
    raw = torch.frombuffer(bytearray(b"\0" * 8 + x.numpy().tobytes()), dtype=torch.float64, offset=8).view(x.shape)
    assert torch.equal(manifold.dist(raw[:3], raw[3:]), manifold.dist(x[:3], x[3:]))
