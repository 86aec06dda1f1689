"""The codec of tilings: what comes back, how exact it is, how small the file is, and files that are damaged."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from geoembed.codec import decode, encode, load_points, report, save_points
from geoembed.codec_cells import packed, unpacked, varint, varints, zigzag
from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.manifolds import HTiling, Lorentz
from geoembed.manifolds.ltiling import LTiling


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def spread(manifold, n: int, radius: float, dtype=torch.float64):
    """Points at radii from 0 to `radius` in all directions."""
    u = torch.randn(n, manifold.dim, generator=seeded(), dtype=torch.float64)
    u = u / u.norm(dim=1, keepdim=True) * radius * torch.linspace(0, 1, n, dtype=torch.float64).unsqueeze(1)
    return manifold.from_tangent(u.to(dtype))


CASES = [
    (HTiling(2, 2), 40.0, 16),
    (HTiling(2, 26), 700.0, 30),
    (HTiling(1, 1), 20.0, 8),
    (HTiling(5, 3, c=0.5), 60.0, 12),
    (HTiling(10, 1), 4.0, 1),
    (LTiling(1, 2), 20.0, 16),
    (LTiling(1, 8), 200.0, 40),
    (LTiling(3, 2, metric="l1"), 20.0, 10),
]


@pytest.mark.parametrize(("manifold", "radius", "bits"), CASES, ids=lambda value: str(value))
def test_a_file_comes_back_to_the_bit_and_within_its_precision(manifold, radius, bits):
    points = spread(manifold, 40, radius)
    data = encode(points, manifold, bits)
    again, same, names = decode(data)
    assert names is None
    assert repr(same) == repr(manifold)
    assert again.dtype == points.dtype
    manifold.check(again)
    assert encode(again, manifold, bits) == data  # nothing is lost a second time
    assert torch.equal(decode(encode(again, manifold, bits))[0], again)
    error = manifold.dist(points, again) * manifold.c.sqrt()
    assert error.max() <= 2.0**-bits * 2 * math.sqrt(manifold.dim)
    if 2 < bits < 40:
        assert error.max() > 2.0**-bits / 8


@pytest.mark.parametrize("manifold", [HTiling(3, 2), LTiling(1, 2)], ids=str)
def test_single_precision(manifold):
    points = spread(manifold, 30, 8.0, torch.float32)
    again, _, _ = decode(encode(points, manifold, 12))
    assert again.dtype == torch.float32
    assert manifold.dist(points, again).max() < 1e-3


@pytest.mark.parametrize("manifold", [HTiling(2, 1), HTiling(4, 2), LTiling(2, 1)], ids=str)
@pytest.mark.parametrize("n", [0, 1, 2])
def test_few_points(manifold, n):
    points = spread(manifold, n, 3.0)
    again, _, _ = decode(encode(points, manifold))
    assert again.shape == points.shape


def test_neighbours_cost_little():
    """1,000 points in a ball of radius 1 at radius 300: each is its row before and a few digits."""
    manifold = HTiling(2, HTiling.limbs_for(310))
    centre = manifold.from_tangent(torch.tensor([-200.0, -220.0], dtype=torch.float64))
    v = torch.zeros(1000, manifold.width, dtype=torch.float64)
    v[:, :2] = torch.randn(1000, 2, generator=seeded(), dtype=torch.float64) / 2
    points = manifold.expmap(centre.expand(1000, -1), v)
    assert report(points, manifold, 10).bits_per_point < 60  # the cell alone has a name of 430 bits


@pytest.mark.parametrize("manifold", [HTiling(2, 26), LTiling(1, 22)], ids=str)
def test_cells_have_short_names_at_radius_700(manifold):
    u = torch.randn(12, 2, generator=seeded(), dtype=torch.float64)
    points = manifold.from_tangent(700 * u / u.norm(dim=1, keepdim=True))
    found = report(points, manifold)
    assert 1 < found.cell_bits_per_unit <= 1.75  # the area within radius r grows as e^r: 1.44 bits are needed
    assert found.radius == pytest.approx(700)
    assert 2.4 < found.text / found.packed < 2.5  # 8 bits for a decimal digit, of 3.3
    assert "bits a point" in str(found)


def test_names_come_back(tmp_path):
    manifold, names = HTiling(2, 1), ["dog.n.01", "two words", "naïve\ttab", ""]
    save_points(tmp_path / "p.geo", spread(manifold, 4, 3.0), manifold, names=names)
    assert load_points(tmp_path / "p.geo").names == names
    with pytest.raises(ShapeError, match="4 points need as many names, got 3"):
        encode(spread(manifold, 4, 3.0), manifold, names=names[:3])


def test_the_report_measures():
    manifold = HTiling(2, 2)
    points = spread(manifold, 50, 20.0)
    data = encode(points, manifold, 12)
    found = report(points, manifold, 12, data)
    assert found.size == len(data)
    assert found.bits_per_point == 8 * len(data) / 50
    want = manifold.dist(points, decode(data)[0]).square().mean().sqrt().item()
    assert found.error == pytest.approx(want)
    assert found.raw == points.numel() * 8


def test_files(tmp_path):
    manifold = HTiling(2, 2)
    points = spread(manifold, 20, 9.0)
    save_points(tmp_path / "points.geo", points, manifold)
    assert torch.equal(load_points(tmp_path / "points.geo")[0], decode(encode(points, manifold))[0])
    assert [path.name for path in tmp_path.iterdir()] == ["points.geo"]
    with pytest.raises(DataError, match=r"none.geo: cannot be read"):
        load_points(tmp_path / "none.geo")
    (tmp_path / "text.geo").write_text("no points")
    with pytest.raises(DataError, match=r"text.geo: not a file of points"):
        load_points(tmp_path / "text.geo")


@pytest.mark.parametrize("manifold", [HTiling(2, 2), LTiling(1, 2)], ids=str)
def test_every_damaged_byte_is_noticed(manifold):
    data = encode(spread(manifold, 5, 9.0), manifold)
    for place in range(len(data)):
        broken = bytearray(data)
        broken[place] ^= 16
        with pytest.raises(DataError, match=r"damaged|not a file"):
            decode(bytes(broken))
    for length in (0, 10, 40, len(data) - 1):
        with pytest.raises(DataError, match=r"damaged|not a file"):
            decode(data[:length])


def test_refusals():
    manifold = HTiling(2, 2)
    points = spread(manifold, 5, 3.0)
    for bits in (0, 49):
        with pytest.raises(DomainError, match=r"bits must lie in 1 .. 48"):
            encode(points, manifold, bits)
    with pytest.raises(DomainError, match=r"1 .. 20 for torch.float32"):
        encode(points.float(), manifold, 21)
    with pytest.raises(ShapeError, match=r"points of HTiling or LTiling.*convert"):
        encode(points, Lorentz())
    with pytest.raises(ShapeError, match=re.escape("(n, k)")):
        encode(points[0], manifold)
    points[2, 0] = float("nan")
    with pytest.raises(DomainError, match=r"row 2|1 row"):
        encode(points, manifold)


@given(st.lists(st.tuples(st.integers(0, 2**70), st.integers(0, 20))))
@settings(max_examples=60, deadline=None)
def test_bits(values):
    wide = [(value, value.bit_length() + extra) for value, extra in values]
    text = unpacked(packed(wide))
    at = 0
    for value, width in wide:
        assert (int(text[at : at + width], 2) if width else 0) == value
        at += width
    assert set(text[at:]) <= {"0"}


@given(st.lists(st.integers(-(2**70), 2**70)))
@settings(max_examples=60, deadline=None)
def test_varints(values):
    data = b"".join(varint(zigzag(value)) for value in values)
    assert [(code >> 1) ^ -(code & 1) for code in varints(data)] == values
