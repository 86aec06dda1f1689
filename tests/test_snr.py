"""The signal-to-noise ratio distance, through the contract, against NumPy's variances and pytorch-metric-learning."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.distances import SNRDistance

from distance_contract import Case, DistanceContract
from geoembed.distances.snr import SNR
from geoembed.errors import DomainError

CASES = [Case("SNR", SNR, lambda x, y: np.var(y - x) / np.var(x), item=(6,))]


@pytest.mark.parametrize("case", CASES, ids=str)
class TestSNR(DistanceContract):
    pass


def vectors(n: int, d: int = 8, seed: int = 0) -> torch.Tensor:
    return torch.randn(n, d, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_value_and_gradient_equal_pytorch_metric_learning():
    x, y = vectors(7).requires_grad_(), vectors(5, seed=1).requires_grad_()
    weights = vectors(7, 5, seed=2)
    theirs = SNRDistance(normalize_embeddings=False)(x, y)
    ours = SNR().pairwise(x, y)
    torch.testing.assert_close(ours, theirs, rtol=1e-13, atol=1e-13)
    for a, b in zip(
        torch.autograd.grad((ours * weights).sum(), (x, y)),
        torch.autograd.grad((theirs * weights).sum(), (x, y)),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


def test_asymmetry_is_the_ratio_of_the_variances():
    x, y = vectors(20), 3 * vectors(20, seed=1)
    d, back = SNR()(x, y), SNR()(y, x)
    torch.testing.assert_close(d / back, y.var(-1) / x.var(-1))
    torch.testing.assert_close(SNR().pairwise(x, y).diagonal(), d)  # rows are the anchors


def test_common_scale_and_added_constants_do_not_matter():
    x, y = vectors(6), vectors(6, seed=1)
    shift = torch.arange(6.0, dtype=torch.float64).unsqueeze(1)
    torch.testing.assert_close(SNR()(1e-3 * x + shift, 1e-3 * y - shift), SNR()(x, y), rtol=1e-10, atol=0)


def test_close_pairs_far_from_the_origin_keep_their_digits():
    x = 1000 + vectors(5).float()
    y = x + 1e-2 * vectors(5, seed=1).float()
    expected = (y.double() - x.double()).var(-1) / x.double().var(-1)
    for d in (SNR()(x, y), SNR().pairwise(x, y).diagonal()):
        torch.testing.assert_close(d.double(), expected, rtol=2e-2, atol=0)  # x - mean is right to 6e-5 of 1e-2


def test_correlation_of_independent_noise():
    """corr(x, x + n) = 1 / sqrt(1 + d) for noise that does not correlate with x."""
    x, noise = vectors(2, 50)
    x = x - x.mean()
    noise = noise - noise.mean()
    noise = noise - (noise @ x) / (x @ x) * x
    d = SNR()(x, x + noise)
    assert np.corrcoef(x.numpy(), (x + noise).numpy())[0, 1] == pytest.approx(float((1 + d) ** -0.5), rel=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision(dtype):
    x, y = vectors(6, 32).to(dtype).requires_grad_(), vectors(4, 32, seed=1).to(dtype)
    d = SNR().pairwise(x, y)
    assert d.dtype == dtype
    exact = SNR().pairwise(x.detach().double(), y.double())
    torch.testing.assert_close(d.double(), exact, rtol=2 * torch.finfo(dtype).eps, atol=0)
    (gradient,) = torch.autograd.grad(d.sum(), x)
    assert gradient.dtype == dtype
    assert gradient.isfinite().all()


@pytest.mark.parametrize("constant", [0.0, 0.1, 1 / 3, -6e4])
@pytest.mark.parametrize("dtype", [torch.float16, torch.float32, torch.float64])
def test_constant_anchors_are_an_error(constant, dtype):
    x = vectors(4, 7).to(dtype)
    y = x.clone()
    x[2] = constant
    with pytest.raises(DomainError, match=r"1 of 4 anchors are constant, the first at index \(2,\)"):
        SNR().pairwise(x, y)
    with pytest.raises(DomainError, match="index"):
        SNR()(x, y)
    assert SNR()(y, x).isfinite().all()  # a constant vector may be compared to an anchor: all of the signal is lost
    torch.testing.assert_close(SNR()(y, x)[2], torch.ones((), dtype=dtype))


def test_one_feature_has_no_variance():
    with pytest.raises(DomainError, match="5 of 5"):
        SNR()(vectors(5, 1), vectors(5, 1, seed=1))


def test_small_variance_is_no_constant():
    x = 1 + 1e-6 * vectors(3, 16)
    torch.testing.assert_close(SNR()(x, 1 - 1e-6 * vectors(3, 16)), torch.full((3,), 4.0, dtype=torch.float64))


def test_no_tensor_of_all_differences():
    """512 x 512 pairs of 256 features: their differences would take 512 MiB."""
    x = vectors(512, 256).requires_grad_()
    largest = 0

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):
            nonlocal largest
            out = function(*args, **(kwargs or {}))
            for t in out if isinstance(out, tuple | list) else (out,):
                largest = max(largest, t.numel() if isinstance(t, torch.Tensor) else 0)
            return out

    with Watch():
        SNR().pairwise(x).sum().backward()
    assert largest <= 512 * 512
