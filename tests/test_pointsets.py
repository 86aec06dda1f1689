"""`PointSets`: every way to build one gives the same sets, and padding touches neither a value nor a gradient."""

import math

import pytest
import torch
from safetensors.torch import save_file

from geoembed.errors import DataError, DomainError, ShapeError
from geoembed.pointsets import PointSets

SIZES = (3, 5, 1, 4)
NAN = float("nan")


def drawn(seed=0, sizes=SIZES, d=2, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    points = [torch.randn(n, d, generator=generator, dtype=dtype) for n in sizes]
    weights = [torch.rand(n, generator=generator, dtype=dtype) + 0.1 for n in sizes]
    return points, weights


def padded(tensors, fill=0.0, n=7):
    """Stacked, with `fill` after the end of each."""
    out = tensors[0].new_full((len(tensors), n, *tensors[0].shape[1:]), fill)
    for row, t in zip(out, tensors, strict=True):
        row[: len(t)] = t
    return out


def same(a: PointSets, b: PointSets) -> None:
    assert torch.equal(a.lengths, b.lengths)
    for p, q in zip(a.unpad(), b.unpad(), strict=True):
        assert torch.equal(p, q)
    n = min(a.shape[-2], b.shape[-2])
    torch.testing.assert_close(a.weights[..., :n], b.weights[..., :n], rtol=1e-15, atol=0)
    assert a.uniform == b.uniform


# ---------------------------------------------------------------------------------------------------- construction


@pytest.mark.parametrize("weighted", [False, True])
def test_all_constructors_agree(weighted):
    points, weights = drawn()
    lengths, ptr = torch.tensor(SIZES), torch.tensor([0, 3, 8, 9, 13])
    sets = PointSets.from_list(points, weights if weighted else None)
    flat = PointSets.from_flat(torch.cat(points), ptr, torch.cat(weights) if weighted else None)
    direct = PointSets(padded(points, NAN), padded(weights, NAN) if weighted else None, lengths)
    mask = torch.arange(7) < lengths.unsqueeze(-1)
    shuffle = torch.tensor([6, 0, 5, 1, 4, 2, 3])  # the points stand anywhere, in their order
    masked = PointSets.from_mask(
        padded(points, NAN)[:, shuffle.argsort()],
        mask[:, shuffle.argsort()],
        padded(weights, NAN)[:, shuffle.argsort()] if weighted else None,
    )
    for other in (flat, direct):
        same(sets, other)
    for i, (p, q) in enumerate(zip(masked.unpad(), points, strict=True)):
        order = [k for k in shuffle.argsort().tolist() if k < SIZES[i]]
        assert torch.equal(p, q[order])
        if weighted:
            torch.testing.assert_close(masked.weights[i, : SIZES[i]], (weights[i] / weights[i].sum())[order])
    for got, expected in zip(sets.unpad(), points, strict=True):
        assert torch.equal(got, expected)
    assert sets.lengths.tolist() == list(SIZES)
    assert (sets.batch_shape, sets.shape, len(sets), sets.dim()) == ((4,), (4, 5, 2), 4, 3)
    assert sets.uniform is not weighted
    assert sets.ragged


def test_weights_are_normalised():
    points, weights = drawn()
    sets = PointSets.from_list(points, weights)
    for row, w in zip(sets.weights, weights, strict=True):
        torch.testing.assert_close(row[: len(w)], w / w.sum(), rtol=1e-15, atol=0)
        assert (row[len(w) :] == 0).all()
    uniform = PointSets.from_list(points)
    for row, n in zip(uniform.weights, SIZES, strict=True):
        assert row.tolist() == [1 / n] * n + [0.0] * (5 - n)
    assert torch.equal(PointSets(points[0]).weights, torch.full((3,), 1 / 3, dtype=torch.float64))


def test_a_tensor_is_a_batch_of_uniform_sets():
    x = torch.randn(2, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    sets = PointSets.of(x)
    assert sets.points is x
    assert PointSets.of(sets) is sets
    assert (sets.batch_shape, sets.uniform, sets.ragged) == ((2, 3), True, False)
    assert sets.lengths.tolist() == [[4] * 3] * 2
    assert sets.mask.all()
    assert not PointSets(x, lengths=torch.full((2, 3), 4)).ragged


@pytest.mark.parametrize("fill", [0.0, NAN, math.inf])
def test_padding_touches_neither_value_nor_gradient(fill):
    points, weights = drawn()
    leaves = [padded(points, fill).requires_grad_(), padded(weights, fill).requires_grad_()]
    clean = [padded(points).requires_grad_(), padded(weights).requires_grad_()]
    gradients = []
    for p, w in (leaves, clean):
        sets = PointSets(p, w, torch.tensor(SIZES))
        assert not sets.points.isnan().any()
        value = (sets.weights.unsqueeze(-1) * sets.points.exp()).sum((-1, -2)).square().sum()
        gradients.append(torch.autograd.grad(value, (p, w)))
    outside = torch.arange(7) >= torch.tensor(SIZES).unsqueeze(-1)
    for got, expected in zip(*gradients, strict=True):
        assert torch.equal(got, expected)
        assert (got[outside] == 0).all()
        assert (got[~outside] != 0).any()


def test_gradients_reach_points_and_weights():
    points, weights = drawn(sizes=(2, 3))

    def value(*leaves):
        sets = PointSets.from_list(leaves[:2], leaves[2:])
        return (sets.weights.unsqueeze(-1) * sets.points**3).sum((-1, -2))

    leaves = [t.requires_grad_() for t in points + weights]
    assert torch.autograd.gradcheck(value, leaves)


def test_nan_within_a_set_is_kept():
    points, _ = drawn()
    points[1][2, 0] = NAN
    sets = PointSets.from_list(points)
    assert sets.points.isnan().any((-1, -2)).tolist() == [False, True, False, False]


def test_whole_numbers_of_any_width_count_as_lengths():
    points = torch.zeros(2, 4, 3)
    for dtype in (torch.uint8, torch.int32, torch.int64):
        sets = PointSets(points, lengths=torch.tensor([2, 4], dtype=dtype))
        assert sets.lengths.dtype == torch.int64
        assert sets.mask.sum(-1).tolist() == [2, 4]


# ---------------------------------------------------------------------------------------------------------- moves


@pytest.mark.parametrize("weighted", [False, True])
def test_indexing_picks_sets_and_trims(weighted):
    points, weights = drawn()
    sets = PointSets.from_list(points, weights if weighted else None)

    def expected(rows):
        return PointSets.from_list([points[i] for i in rows], [weights[i] for i in rows] if weighted else None)

    for index, rows, n in (
        (slice(2, 4), [2, 3], 4),
        (slice(None, None, 2), [0, 2], 3),
        (torch.tensor([3, 0, 3]), [3, 0, 3], 4),
        ([2, 2], [2, 2], 1),
        (torch.tensor([False, True, False, True]), [1, 3], 5),
    ):
        got = sets[index]
        same(got, expected(rows))
        assert got.shape[-2] == n
    assert not sets[[2, 2]].ragged
    one = sets[2]
    assert (one.batch_shape, one.shape, one.ragged) == ((), (1, 2), False)
    same(one.unsqueeze(0), expected([2]))
    assert [tuple(each.shape) for each in sets] == [(n, 2) for n in SIZES]
    assert sets[1:1].shape[0] == 0
    assert sets[None].batch_shape == (1, 4)
    with pytest.raises(IndexError):
        sets[4]
    with pytest.raises(IndexError):
        sets[0, 0]  # a point is not a set
    with pytest.raises(IndexError, match="single set"):
        one[0]
    with pytest.raises(TypeError, match="single set"):
        len(one)


def test_indexing_several_batch_dimensions():
    x = torch.randn(3, 4, 5, 2, generator=torch.Generator().manual_seed(0))
    lengths = torch.tensor([[1, 2, 3, 4], [5, 1, 1, 1], [2, 2, 2, 2]])
    sets = PointSets(x, lengths=lengths)
    assert sets[0].lengths.tolist() == [1, 2, 3, 4]
    assert sets[0].shape == (4, 4, 2)
    assert sets[2].shape == (4, 2, 2)
    assert torch.equal(sets[1, 0].points, x[1, 0])
    assert torch.equal(sets[..., 1].lengths, lengths[:, 1])
    assert torch.equal(sets[:, 1:3].lengths, lengths[:, 1:3])
    assert len(sets.unpad()) == 12


def test_indexing_passes_gradients():
    points, weights = drawn()
    p, w = padded(points, NAN).requires_grad_(), padded(weights, NAN).requires_grad_()
    picked = PointSets(p, w, torch.tensor(SIZES))[[1, 1, 2]]
    gp, gw = torch.autograd.grad((picked.points.sum(-1) * picked.weights.detach() + picked.weights**2).sum(), (p, w))
    assert (gp[1, :5] == 2 * (weights[1] / weights[1].sum()).unsqueeze(-1)).all()
    assert (gp[[0, 3]] == 0).all()
    assert gw.isfinite().all()


def test_unsqueeze_and_expand_broadcast():
    points, weights = drawn()
    sets = PointSets.from_list(points, weights)
    rows, columns = sets.unsqueeze(-1), sets.unsqueeze(-2)
    assert (rows.batch_shape, columns.batch_shape) == ((4, 1), (1, 4))
    assert sets.unsqueeze(0).batch_shape == (1, 4)
    wide = rows.expand(4, 3)
    assert wide.batch_shape == (4, 3)
    for j in range(3):
        same(wide[:, j], sets)
    assert PointSets(points[0]).unsqueeze(0).batch_shape == (1,)
    for dim in (2, -3):  # would cut a set in pieces
        with pytest.raises(IndexError):
            sets.unsqueeze(dim)


def test_to_other_dtypes_and_detach():
    points, weights = drawn()
    sets = PointSets.from_list([p.requires_grad_() for p in points], weights)
    half = sets.to(torch.float16)
    assert (half.dtype, half.weights.dtype, half.lengths.dtype) == (torch.float16, torch.float16, torch.int64)
    assert torch.equal(half.points, sets.points.half())
    assert sets.to("cpu").device.type == "cpu"
    assert sets.points.requires_grad
    assert not sets.detach().points.requires_grad
    with pytest.raises(ShapeError, match="floating point"):
        sets.to(torch.int64)


def test_split_features():
    points, weights = drawn(d=5)
    sets = PointSets.from_list(points, weights)
    first, second = sets.split([2, 3])
    assert torch.equal(torch.cat([first.points, second.points], -1), sets.points)
    assert torch.equal(second.weights, sets.weights)
    assert second.lengths.tolist() == list(SIZES)
    with pytest.raises(ShapeError, match="add up to 5"):
        sets.split([2, 2])
    with pytest.raises(ShapeError, match="dim=-1"):
        sets.split([2, 3], dim=0)


def test_map():
    points, weights = drawn()
    scale = torch.tensor(2.0, dtype=torch.float64, requires_grad=True)
    sets = PointSets.from_list([p.abs() for p in points], weights)
    mapped = sets.map(lambda p: (scale * p).log())
    for got, p in zip(mapped.unpad(), points, strict=True):
        torch.testing.assert_close(got, (2 * p.abs()).log())
    assert (mapped.points[~mapped.mask] == 0).all()
    assert torch.equal(mapped.weights, sets.weights)
    # d/ds sum log(s p) = (number of coordinates) / s, whatever log does at the zeros of the padding
    assert torch.autograd.grad(mapped.points.sum(), scale)[0] == 2 * sum(SIZES) / 2
    assert sets.map(lambda p: p.sum(-1, keepdim=True)).shape == (4, 5, 1)
    wider = sets.map(lambda p: p.float())
    assert wider.weights.dtype == torch.float32
    with pytest.raises(ShapeError, match="keep the number of points"):
        sets.map(lambda p: p[..., :2, :])
    with pytest.raises(ShapeError, match="floating point"):
        sets.map(lambda p: p > 0)


def test_repr():
    points, weights = drawn()
    assert repr(PointSets.from_list(points, weights)) == (
        "PointSets((4,), at most 5 points in R^2, weighted, torch.float64)"
    )
    assert repr(PointSets(points[0])) == "PointSets((), 3 points in R^2, uniform, torch.float64)"


# ---------------------------------------------------------------------------------------------------------- empty


def test_empty_batches(tmp_path):
    for x in (torch.zeros(0, 3, 2), torch.zeros(0, 0, 2), torch.zeros(4, 0, 3, 2)):
        sets = PointSets(x)
        assert sets.weights.shape == x.shape[:-1]
        assert sets.lengths.shape == x.shape[:-2]
        assert sets.unpad() == []
        assert sets[:0].points.numel() == 0
        assert PointSets(x, torch.ones(x.shape[:-1])).weights.numel() == 0
    none = PointSets.from_flat(torch.zeros(0, 2), torch.tensor([0]), torch.zeros(0))
    assert (none.batch_shape, none.shape[-1], none.uniform) == ((0,), 2, False)
    drawn_sets = PointSets.from_list(*drawn())[:0]
    drawn_sets.save(tmp_path / "none.safetensors")
    loaded = PointSets.load(tmp_path / "none.safetensors")
    assert (len(loaded), loaded.shape[-1]) == (0, 2)


# ---------------------------------------------------------------------------------------------------------- files


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("weighted", [False, True])
def test_save_and_load(tmp_path, dtype, weighted):
    points, weights = drawn(dtype=dtype)
    sets = PointSets.from_list([p.requires_grad_() for p in points], weights if weighted else None)
    sets.save(tmp_path / "sets.safetensors")
    loaded = PointSets.load(tmp_path / "sets.safetensors")
    assert loaded.dtype == dtype
    assert loaded.uniform is not weighted
    for got, expected in zip(loaded.unpad(), points, strict=True):
        assert torch.equal(got, expected)
    torch.testing.assert_close(loaded.weights, sets.weights)
    sets[1].save(tmp_path / "one.safetensors")
    assert torch.equal(PointSets.load(tmp_path / "one.safetensors").points[0], points[1])
    with pytest.raises(ShapeError, match="one batch dimension"):
        sets.unsqueeze(0).save(tmp_path / "two.safetensors")


def test_damaged_files(tmp_path):
    path = tmp_path / "sets.safetensors"
    PointSets.from_list(*drawn()).save(path)
    whole = path.read_bytes()
    for content in (whole[:-9], whole[:20], b"", b"something else"):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"sets\.safetensors does not hold"):
            PointSets.load(path)
    good = {"points": torch.zeros(5, 2), "ptr": torch.tensor([0, 2, 5])}
    for change, message in (
        ({"ptr": torch.tensor([0, 2, 4])}, "rise from 0"),
        ({"ptr": torch.tensor([0, 6, 5])}, "rise from 0"),
        ({"ptr": torch.tensor([0, 0, 5])}, "1 to 5 points"),
        ({"points": torch.zeros(5, 2, dtype=torch.int64)}, "floating point"),
        ({"weights": -torch.ones(5)}, "not negative"),
        ({"weights": torch.ones(4)}, "must have shape"),
    ):
        save_file(good | change, path)
        with pytest.raises(DataError, match=message):
            PointSets.load(path)
    save_file({"points": torch.zeros(5, 2)}, path)
    with pytest.raises(DataError, match="ptr"):
        PointSets.load(path)
    with pytest.raises(DataError, match="absent"):
        PointSets.load(tmp_path / "absent.safetensors")


# ------------------------------------------------------------------------------------------------------- bad input


X = torch.zeros(2, 3, 4)


@pytest.mark.parametrize(
    ("build", "error", "message"),
    [
        (lambda: PointSets(torch.zeros(3)), ShapeError, "floating point of shape"),
        (lambda: PointSets(torch.zeros(3, 2, dtype=torch.int64)), ShapeError, "floating point"),
        (lambda: PointSets(torch.zeros(2, 0, 3)), DomainError, "at least one point"),
        (lambda: PointSets(X, torch.ones(2, 4)), ShapeError, r"weights must have shape \(2, 3\)"),
        (lambda: PointSets(X, torch.ones(2, 3, dtype=torch.float64)), ShapeError, "float64"),
        (lambda: PointSets(X, torch.tensor([[1.0, 1, 1], [1, -1, 3]])), DomainError, r"those of set \[1\]"),
        (lambda: PointSets(X, torch.tensor([[0.0, 0, 0], [1, 1, 1]])), DomainError, r"those of set \[0\]"),
        (lambda: PointSets(X, torch.tensor([[1.0, NAN, 1], [1, 1, 1]])), DomainError, "finite"),
        (lambda: PointSets(X, torch.tensor([[1.0, math.inf, 1], [1, 1, 1]])), DomainError, "finite"),
        (lambda: PointSets(X[0], torch.zeros(3)), DomainError, "all zero"),
        (lambda: PointSets(X, torch.eye(3)[:2], torch.tensor([1, 1])), DomainError, r"those of set \[1\]"),
        (lambda: PointSets(X, lengths=torch.tensor([1, 0])), DomainError, r"set \[1\] has 0"),
        (lambda: PointSets(X, lengths=torch.tensor([4, 1])), DomainError, r"set \[0\] has 4"),
        (lambda: PointSets(X, lengths=torch.tensor([1.0, 2.0])), ShapeError, "whole numbers"),
        (lambda: PointSets(X, lengths=torch.tensor([True, True])), ShapeError, "whole numbers"),
        (lambda: PointSets(X, lengths=torch.tensor([1])), ShapeError, r"of shape \(2,\)"),
        (lambda: PointSets.from_list([]), ShapeError, "at least one set"),
        (lambda: PointSets.from_list([X]), ShapeError, "set 0"),
        (lambda: PointSets.from_list([X[0], torch.zeros(3, 5)]), ShapeError, "set 1"),
        (lambda: PointSets.from_list([X[0], torch.zeros(0, 4)]), DomainError, "1 to 3 points"),
        (lambda: PointSets.from_list([torch.zeros(0, 4)]), DomainError, "at least one point"),
        (lambda: PointSets.from_list([X[0], X[0].double()]), ShapeError, "set 1 is torch.float64"),
        (lambda: PointSets.from_list([X[0]], []), ShapeError, "as many weights"),
        (lambda: PointSets.from_list([X[0]], [torch.ones(2)]), ShapeError, "weights of set 0"),
        (lambda: PointSets.from_flat(torch.zeros(()), torch.tensor([0])), ShapeError, "of shape"),
        (lambda: PointSets.from_flat(X, torch.tensor([0, 2])), ShapeError, "set 0"),
        (lambda: PointSets.from_flat(X[0], torch.tensor([0, 2])), DomainError, "rise from 0"),
        (lambda: PointSets.from_flat(X[0], torch.tensor([0.0, 3.0])), ShapeError, "whole numbers"),
        (lambda: PointSets.from_flat(X[0], torch.tensor([], dtype=torch.int64)), ShapeError, "whole numbers"),
        (lambda: PointSets.from_flat(X[0], torch.tensor([0, 3]), torch.ones(2)), ShapeError, "weights"),
        (lambda: PointSets.from_mask(X, torch.ones(2, 3)), ShapeError, "boolean"),
        (lambda: PointSets.from_mask(X, torch.ones(3, 2, dtype=torch.bool)), ShapeError, "boolean"),
        (lambda: PointSets.from_mask(X, torch.eye(3)[:2] > 1), DomainError, "has 0"),
        (lambda: PointSets.from_mask(X, torch.eye(3)[:2] > 0, torch.ones(2, 2)), ShapeError, "weights"),
    ],
)
def test_bad_input(build, error, message):
    with pytest.raises(error, match=message):
        build()
