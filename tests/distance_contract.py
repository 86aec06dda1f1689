"""What every `Distance` must satisfy. A new distance adds one `Case` to the table of its family's test file.

@pytest.mark.parametrize("case", CASES, ids=str)
class TestMyDistances(DistanceContract): ...
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from geoembed.distance import Distance, pairwise_blocks
from geoembed.errors import ShapeError


def normal(*shape: int, generator: torch.Generator) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


@dataclass
class Case:
    """A distance, a sampler of its items, and a brute-force oracle.

    sample(*batch_and_item_shape, generator=) gives float64 items; oracle(x, y) takes two items as NumPy arrays.
    """

    name: str
    build: Callable[[], Distance]
    oracle: Callable[[np.ndarray, np.ndarray], float]
    item: tuple[int, ...] = (5,)
    sample: Callable[..., Tensor] = normal
    coincident_zero: bool = True
    float32_tolerance: float = 2e-4

    def __str__(self) -> str:
        return self.name


class DistanceContract:
    @pytest.fixture
    def distance(self, case: Case) -> Distance:
        return case.build().double()

    @pytest.fixture
    def items(self, case: Case) -> Callable[..., Tensor]:
        generator = torch.Generator().manual_seed(7)
        return lambda *batch: case.sample(*batch, *case.item, generator=generator)

    def test_oracle(self, case, distance, items):
        x, y = items(12), items(12)
        expected = torch.tensor(
            [case.oracle(a.numpy(), b.numpy()) for a, b in zip(x, y, strict=True)], dtype=torch.float64
        )
        torch.testing.assert_close(distance(x, y).detach(), expected, rtol=1e-10, atol=1e-12)

    def test_pairwise_equals_forward(self, case, distance, items):
        x, y = items(2, 4), items(2, 3)
        expected = torch.stack([torch.stack([distance(x[:, i], y[:, j]) for j in range(3)], -1) for i in range(4)], 1)
        torch.testing.assert_close(distance.pairwise(x, y), expected, rtol=1e-10, atol=1e-11)
        torch.testing.assert_close(distance.pairwise(x), distance.pairwise(x, x))

    def test_batch_broadcasts(self, case, distance, items):
        x, y = items(3, 1), items(4)
        assert distance(x, y).shape == (3, 4)
        expected = distance(x.expand(3, 4, *case.item), y.expand(3, 4, *case.item))
        torch.testing.assert_close(distance(x, y), expected)
        assert distance.pairwise(items(3, 1, 2), items(4, 5)).shape == (3, 4, 2, 5)

    def test_symmetry(self, case, distance, items):
        x, y = items(20), items(20)
        same = torch.allclose(distance(x, y), distance(y, x), rtol=1e-12, atol=1e-13)
        assert same == distance.symmetric

    def test_metric(self, case, distance, items):
        d = distance.pairwise(items(12)).detach()
        if distance.is_metric:
            assert distance.symmetric
            assert (d + 1e-9 * d.max() >= 0).all()
            for i, j, k in itertools.permutations(range(12), 3):
                assert d[i, j] <= d[i, k] + d[k, j] + 1e-9 * d.max()
        assert (d <= distance.upper_bound * (1 + 1e-12)).all()

    def test_embedding_is_the_distance(self, case, distance, items):
        if distance.embed_p is None:
            with pytest.raises(NotImplementedError, match="no embedding"):
                distance.embed(items(2))
            return
        x, y = items(6), items(6)
        embedded = torch.linalg.vector_norm(distance.embed(x) - distance.embed(y), ord=distance.embed_p, dim=-1)
        torch.testing.assert_close(embedded, distance(x, y))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_dtype_kept(self, case, items, dtype):
        distance = case.build().to(dtype)
        x, y = items(5).to(dtype), items(4).to(dtype)
        assert distance.pairwise(x, y).dtype == dtype
        assert distance(x[:4], y).dtype == dtype
        exact = case.build().double().pairwise(x.double(), y.double())
        tolerance = case.float32_tolerance if dtype == torch.float32 else 1e-10
        torch.testing.assert_close(distance.pairwise(x, y).double(), exact, rtol=tolerance, atol=tolerance)

    @pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
    def test_coincident_items(self, case, items, dtype):
        distance = case.build().to(dtype)
        x = items(4).to(dtype).requires_grad_()
        y = x.detach().clone().requires_grad_()
        for d in (distance(x, y), distance.pairwise(x, y).diagonal()):
            gx, gy = torch.autograd.grad(d.sum(), (x, y))
            assert torch.isfinite(gx).all()
            assert torch.isfinite(gy).all()
            if case.coincident_zero:
                assert (d == 0).all()
                assert (gx == 0).all()
                assert (gy == 0).all()

    def test_gradcheck(self, case, distance, items):
        x, y = items(3).requires_grad_(), items(3).requires_grad_()
        assert torch.autograd.gradcheck(lambda a, b: distance(a, b), (x, y))
        assert torch.autograd.gradcheck(lambda a, b: distance.pairwise(a, b), (x, y[:2].detach().requires_grad_()))

    def test_blocks_equal_the_matrix(self, case, distance, items):
        x, y = items(11), items(7)
        whole = distance.pairwise(x, y)
        for budget in (1, 2000, 1 << 20):
            blocks = list(pairwise_blocks(distance, x, y, budget=budget))
            assert [i for rows, _ in blocks for i in range(rows.start, rows.stop)] == list(range(11))
            torch.testing.assert_close(torch.cat([block for _, block in blocks]), whole, rtol=1e-10, atol=1e-11)

    def test_empty_sets(self, case, distance, items):
        assert distance.pairwise(items(0), items(3)).shape == (0, 3)
        assert distance.pairwise(items(3), items(0)).shape == (3, 0)
        assert distance(items(0), items(0)).shape == (0,)

    def test_nan_stays_where_it_is(self, case, distance, items):
        x, y = items(3), items(4)
        clean = distance.pairwise(x, y)
        x[1] = float("nan")
        d = distance.pairwise(x, y)
        assert d[1].isnan().all()
        torch.testing.assert_close(d[[0, 2]], clean[[0, 2]])
        own = distance.pairwise(x)
        assert own[1].isnan().all()
        assert own[:, 1].isnan().all()
        x = x[[0, 2]]
        torch.testing.assert_close(own[[0, 2]][:, [0, 2]], distance.pairwise(x))

    def test_bad_input(self, case, distance, items):
        x = items(3)
        with pytest.raises(ShapeError, match="dimension"):
            distance(torch.zeros((), dtype=torch.float64), x)
        with pytest.raises(ShapeError, match="floating point"):
            distance(torch.ones(3, *case.item, dtype=torch.int64), x)
        with pytest.raises(ShapeError, match="share dtype"):
            distance(x.float(), x)
        with pytest.raises(ShapeError, match="same number of features"):
            distance(torch.cat([x, x], -1), x)
        with pytest.raises(ShapeError, match="pairwise"):
            distance(x, x[:2])
        with pytest.raises(ShapeError, match="set of items"):
            distance.pairwise(x[0], x)
        with pytest.raises(ShapeError, match="do not broadcast"):
            distance.pairwise(items(2, 3), items(3, 3))
