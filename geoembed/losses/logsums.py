"""Logarithms of sums of exponentials over parts of the rows of a matrix."""

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = ["log1pexp", "masked_logsumexp"]


def log1pexp(x: Tensor) -> Tensor:
    """log(1 + e^x), to all digits of float64: `softplus` becomes x at 20 already, where e^{-20} is not yet lost."""
    return F.softplus(x, threshold=40)


class _MaskedLogSumExp(torch.autograd.Function):
    """Made from `softmax`: its exp stays fast where it underflows, where that of `logsumexp` is ten times slower."""

    @staticmethod
    def forward(ctx, values, mask):
        lowest = torch.finfo(values.dtype).min
        held = torch.where(mask, values, lowest)
        top, shares = held.amax(1), held.softmax(1)
        ctx.save_for_backward(values, mask, shares, top > lowest)
        return top - shares.amax(1).log()

    @staticmethod
    def backward(ctx, grad):
        values, mask, shares, found = ctx.saved_tensors
        if torch.is_grad_enabled():  # a second derivative is wanted, the shares kept have none
            shares = torch.where(mask, values, torch.finfo(values.dtype).min).softmax(1)
        return (grad * found).unsqueeze(1) * shares, None


def masked_logsumexp(values: Tensor, mask: Tensor) -> Tensor:
    """log sum e^v over the entries of each row where mask; where there is none, the lowest finite number, a constant.

    values: (n, m), mask: bool (n, m) -> (n,).
    """
    if not values.shape[1]:
        return values.new_full((len(values),), torch.finfo(values.dtype).min)
    return _MaskedLogSumExp.apply(values, mask)
