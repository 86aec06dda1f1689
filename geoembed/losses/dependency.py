"""Dependency between two variables: the Wasserstein dependency measure, contrastive bounds and Lipschitz critics.

    I(x; y)   = KL( p(x, y) | p(x) p(y) )  >=  cpc = log B + mean_i [ f(x_i, y_i) - log sum_j exp f(x_i, y_j) ]
    I_W(x; y) = W_1( p(x, y), p(x) p(y) )  >=  wasserstein_dual = mean_i f(x_i, y_i) - mean_{i != j} f(x_i, y_j)

in expectation over batches of B pairs (x_i, y_i), the first for any critic f, the second for one with Lipschitz
constant 1. The ground metric of W_1 is d((x, y), (x', y')) = d_X(x, x') + d_Y(y, y'): f is 1-Lipschitz if it is so in x
alone and in y alone. `wpc` is cpc with such a critic.

cpc never exceeds log B, however large I(x; y) is, and a critic may come close to that by telling a few details apart. A
Lipschitz critic cannot: its scores differ as much as the data do in the ground metric.

All objectives are to be maximised: train on their negative. They take the scores of all pairs of a batch, (B, B) with
f(x_i, y_j) in row i and column j, see `pair_scores`. Two ways to a Lipschitz critic: subtract `gradient_penalty`, or
`one_sided_gradient_penalty`, times a weight (10 in the paper on Wasserstein GANs; the larger, the closer to the
constraint); or build it from `spectral_normalised` layers.

References: van den Oord, Li, Vinyals, 2018, arXiv:1807.03748 (CPC); Ozair, Lynch, Bengio, van den Oord, Levine,
Sermanet, "Wasserstein dependency measure for representation learning", NeurIPS 2019, arXiv:1903.11780 (I_W, WPC);
Gulrajani, Ahmed, Arjovsky, Dumoulin, Courville, NeurIPS 2017, arXiv:1704.00028 (gradient penalty); Petzka, Fischer,
Lukovnikov, ICLR 2018, arXiv:1709.08894 (one-sided); Miyato, Kataoka, Koyama, Yoshida, ICLR 2018, arXiv:1802.05957
(spectral normalisation).
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrizations, parametrize

from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import norm

__all__ = [
    "cpc",
    "gradient_penalty",
    "one_sided_gradient_penalty",
    "pair_scores",
    "spectral_normalised",
    "wasserstein_dependency",
    "wasserstein_dual",
    "wpc",
]

Critic = Callable[[Tensor, Tensor], Tensor]  # f of pairs: (B, ...), (B, ...) -> (B,)


def wasserstein_dependency(joint: Tensor, ground_x: Tensor, ground_y: Tensor) -> float:
    """I_W of two variables with finitely many values: W_1 from the joint table to the product of its margins.

    Exact, by linear programming over all pairs of cells: for tables of up to a few thousand cells.

    Args:
        joint: (n, m) probabilities; divided by their sum.
        ground_x: (n, n) distances d_X between the values of x.
        ground_y: (m, m) distances d_Y between those of y.

    Raises:
        ShapeError: shapes that do not fit together.
        DomainError: probabilities or distances that are negative or not finite; probabilities all zero.
    """
    import ot

    if joint.dim() != 2 or ground_x.shape != (joint.shape[0],) * 2 or ground_y.shape != (joint.shape[1],) * 2:
        raise ShapeError(
            f"wasserstein_dependency: joint (n, m) needs ground distances (n, n) and (m, m), got {tuple(joint.shape)}, "
            f"{tuple(ground_x.shape)} and {tuple(ground_y.shape)}"
        )
    p, d_x, d_y = (t.detach().to("cpu", torch.float64) for t in (joint, ground_x, ground_y))
    for name, t in (("joint", p), ("ground_x", d_x), ("ground_y", d_y)):
        bad = ~(t.isfinite() & (t >= 0))
        if bool(bad.any()):
            where = tuple(bad.nonzero()[0].tolist())
            raise DomainError(
                f"wasserstein_dependency: {name} must be finite and not negative, got {t[where].item()} at {where} "
                f"({int(bad.sum())} such entries)"
            )
    if not p.sum() > 0:
        raise DomainError("wasserstein_dependency: joint must have a positive probability, all are zero")
    p = p / p.sum()
    product = p.sum(1, keepdim=True) * p.sum(0)
    rows, columns = (t.flatten().nonzero().squeeze(-1) for t in (p, product))
    m = p.shape[1]
    cost = d_x[rows // m][:, columns // m] + d_y[rows % m][:, columns % m]
    return float(ot.emd2(p.flatten()[rows].numpy(), product.flatten()[columns].numpy(), cost.numpy(), numItermax=10**7))


def pair_scores(critic: Critic, x: Tensor, y: Tensor) -> Tensor:
    """Scores of all pairs of a batch, for a critic of pairs: f(x_i, y_j) in row i, column j.

    x: (B, ...), y: (C, ...) -> (B, C). A critic <u(x), v(y)> is cheaper as the matrix product u(x) @ v(y).T.
    """
    scores = critic(x.repeat_interleave(len(y), 0), y.repeat(len(x), *[1] * (y.dim() - 1)))
    return _one_score_each(scores, len(x) * len(y)).reshape(len(x), len(y))


def cpc(scores: Tensor) -> Tensor:
    """log B + mean_i [ s_ii - log sum_j exp s_ij ], a lower bound on the mutual information, in nats; at most log B.

    Contrastive predictive coding (InfoNCE). scores: (*, B, B), the pairs of the joint distribution on the diagonal
    -> (*).
    """
    _check_square(scores, "cpc", 1)
    return (scores.diagonal(dim1=-2, dim2=-1) - scores.logsumexp(-1)).mean(-1) + math.log(scores.shape[-1])


def wpc(
    critic: Critic, x: Tensor, y: Tensor, *, weight: float = 10.0, generator: torch.Generator | None = None
) -> Tensor:
    """cpc of all pairs of the batch, less `weight` times the gradient penalty: Wasserstein predictive coding.

    With a critic of `spectral_normalised` layers, cpc(pair_scores(critic, x, y)) alone is the same objective.
    critic: (B, ...), (B, ...) -> (B,); x, y: (B, ...), x_i and y_i drawn together -> ().
    """
    return cpc(pair_scores(critic, x, y)) - weight * gradient_penalty(critic, x, y, generator)


def wasserstein_dual(scores: Tensor) -> Tensor:
    """mean_i s_ii - mean_{i != j} s_ij, without bias for E f under the joint less E f under the product distribution.

    A lower bound on I_W for a 1-Lipschitz critic. scores: (*, B, B), B >= 2 -> (*).
    """
    _check_square(scores, "wasserstein_dual", 2)
    size = scores.shape[-1]
    joint = scores.diagonal(dim1=-2, dim2=-1).sum(-1)
    return joint / size - (scores.sum((-2, -1)) - joint) / (size * (size - 1))


def gradient_penalty(critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """mean (g - 1)^2 with g = max( |grad_x f|, |grad_y f| ), the Lipschitz constant of f at points between the samples.

    Two-sided: an optimal critic has slope 1 all the way between coupled points. The points lie at random between pairs
    (x_i, y_i) of the joint and (x_j, y_k) of the product distribution. No gradient reaches x and y.
    critic: (B, ...), (B, ...) -> (B,); x, y: (B, ...) -> ().
    """
    return (_slopes(critic, x, y, generator) - 1).square().mean()


def one_sided_gradient_penalty(
    critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator | None = None
) -> Tensor:
    """mean max(0, g - 1)^2, the `gradient_penalty` that lets a critic be flat. x, y: (B, ...) -> ()."""
    return (_slopes(critic, x, y, generator) - 1).relu().square().mean()


def _slopes(critic: Critic, x: Tensor, y: Tensor, generator: torch.Generator | None) -> Tensor:
    """max( |grad_x f|, |grad_y f| ) at points between joint and product samples: (B,)."""
    if len(x) != len(y) or not (x.is_floating_point() and y.is_floating_point()):
        raise ShapeError(
            f"gradient penalty: x and y must be floating point batches of the same size, got {x.dtype} of shape "
            f"{tuple(x.shape)} and {y.dtype} of shape {tuple(y.shape)}"
        )
    device = None if generator is None else generator.device
    share = torch.rand(len(x), generator=generator, device=device)
    between = []
    for t in (x.detach(), y.detach()):
        other = t[torch.randperm(len(t), generator=generator, device=device).to(t.device)]
        between.append(torch.lerp(t, other, share.to(t).reshape(-1, *[1] * (t.dim() - 1))).requires_grad_())
    with torch.enable_grad():
        scores = _one_score_each(critic(*between), len(x))
        gradients = torch.autograd.grad(scores.sum(), between, create_graph=True, materialize_grads=True)
    u, v = (norm(g.reshape(len(g), -1)) for g in gradients)
    return torch.maximum(u, v)


def spectral_normalised(module: nn.Module, n_power_iterations: int = 1) -> nn.Module:
    """The module with every linear and convolutional layer held at a norm of at most 1, in place.

    With activations that are 1-Lipschitz, such as ReLU or tanh, a chain of such layers is 1-Lipschitz. The norm is
    estimated by power iteration, `n_power_iterations` steps at each forward pass in training mode, from below: it may
    exceed 1 a little. That of a convolution is at most the norm of its kernel as a matrix, (channels out, all the
    rest), times the root of how many windows a pixel lies in.

    Raises:
        DomainError: a layer with parameters that is neither linear nor a convolution padded with zeros, as its
            Lipschitz constant is not known; or one that is parametrised already.
    """
    layers = [(name, layer) for name, layer in module.named_modules() if list(layer.parameters(recurse=False))]
    for name, layer in layers:
        convolution = isinstance(layer, nn.Conv1d | nn.Conv2d | nn.Conv3d) and layer.padding_mode == "zeros"
        if not (convolution or isinstance(layer, nn.Linear)) or parametrize.is_parametrized(layer):
            raise DomainError(
                f"spectral_normalised: only Linear and Conv layers, padded with zeros and not parametrised yet, can be "
                f"made 1-Lipschitz; layer {name!r} is {layer}"
            )
    for _, layer in layers:
        parametrizations.spectral_norm(layer, n_power_iterations=n_power_iterations)
        if not isinstance(layer, nn.Linear):
            parametrize.register_parametrization(layer, "weight", _Shrunk(_windows(layer) ** -0.5))
    return module


class _Shrunk(nn.Module):
    def __init__(self, factor: float):
        super().__init__()
        self.factor = factor

    def forward(self, weight: Tensor) -> Tensor:
        return self.factor * weight


def _windows(layer: Any) -> int:
    """How many windows of a convolution a pixel lies in, at most."""
    sizes = zip(layer.kernel_size, layer.stride, layer.dilation, strict=True)
    return math.prod(math.ceil(k / stride) if dilation == 1 else k for k, stride, dilation in sizes)


def _one_score_each(scores: Tensor, pairs: int) -> Tensor:
    if scores.shape != (pairs,):
        raise ShapeError(
            f"critic: expected one score for each of the {pairs} pairs, shape ({pairs},), got {tuple(scores.shape)}. "
            f"Drop a last dimension of size one with squeeze(-1)."
        )
    return scores


def _check_square(scores: Tensor, name: str, least: int) -> None:
    if scores.dim() < 2 or scores.shape[-1] != scores.shape[-2] or scores.shape[-1] < least:
        raise ShapeError(
            f"{name}: scores must be square, (*, B, B) with B >= {least} and the true pairs on the diagonal, got shape "
            f"{tuple(scores.shape)}"
        )
