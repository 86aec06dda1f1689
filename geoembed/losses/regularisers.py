"""Regularisers of embeddings and proxies, to be added to a loss.

    zero_mean            mean_i |sum_m x_im|                              features of each item sum to zero
    sparse_centres       mean distance of two proxies of one class        merges those that are not needed
    glas                 |V V^T - (A Z^-1 + Z^-1 A) / 2|_F^2 / K^2        labels that occur together may be near
    diversity            |off-diagonal of X X^T|_F / k^2                  the k embeddings of an item differ
    mmd                  squared maximum mean discrepancy of two samples, Gaussian kernel
    Decorrelation        -mean( (n(x) * n(f(y)))^2 ), gradients into x and y reversed
                         f learns to find x in y, x and y learn that it cannot

References: Yuan et al., CVPR 2019, arXiv:1904.02616 (zero mean); Qian et al., ICCV 2019, arXiv:1909.05235 (sparse
centres); Guo et al., "Breaking the glass ceiling for embedding-based classifiers", NeurIPS 2019 (GLaS); Song,
Soleymani, CVPR 2019, arXiv:1906.04402 (diversity, MMD); Gretton et al., JMLR 2012 (MMD); Roth, Brattoli, Ommer, ICCV
2019, arXiv:1909.11574 (decorrelation); Ganin, Lempitsky, ICML 2015, arXiv:1409.7495 (gradient reversal).
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from geoembed.distance import Distance
from geoembed.errors import DomainError, ShapeError
from geoembed.numerics import norm, sqdist

__all__ = ["Decorrelation", "diversity", "glas", "mmd", "sparse_centres", "zero_mean"]


def zero_mean(x: Tensor) -> Tensor:
    """mean_i |sum_m x_im|, with which `SNR` is a ratio of plain norms. x: (n, d) -> scalar."""
    return x.sum(-1).abs().mean()


def sparse_centres(distance: Distance, proxies: Tensor, per_class: int) -> Tensor:
    """Mean distance between two proxies of one class. proxies: (classes * per_class, *E), those of a class in a row."""
    if per_class < 2 or len(proxies) % per_class:
        raise ShapeError(f"sparse_centres: {len(proxies)} proxies are not classes of per_class >= 2, got {per_class}")
    between = distance.pairwise(proxies.unflatten(0, (-1, per_class)))
    return between.sum() / (len(proxies) * (per_class - 1))


def glas(proxies: Tensor, cooccurrence: Tensor) -> Tensor:
    """Inner products of proxies as large as the conditional chances of their labels.

    proxies: (K, d) unit rows. cooccurrence: (K, K) how often two labels come together, on the diagonal how often each
    comes at all, above 0. The identity gives the spread-out regulariser |V V^T - 1|^2 / K^2. For many labels pass
    the rows and the counts of a sample.
    """
    if cooccurrence.shape != (len(proxies), len(proxies)):
        raise ShapeError(f"glas: cooccurrence must be {(len(proxies),) * 2}, got {tuple(cooccurrence.shape)}")
    counts = cooccurrence.to(proxies.dtype)
    own = counts.diagonal()
    if not bool((own > 0).all()):
        raise DomainError("glas: each label must occur, the diagonal of cooccurrence holds a count below 1")
    chances = (counts / own + counts / own.unsqueeze(1)) / 2
    return (proxies @ proxies.mT - chances).square().mean()


def diversity(x: Tensor) -> Tensor:
    """|off-diagonal of X X^T|_F / k^2, a mean over items. x: (n, k, d), k unit embeddings of each item -> scalar."""
    gram = x @ x.mT
    off = gram - torch.diag_embed(gram.diagonal(dim1=-2, dim2=-1))
    return norm(off.flatten(-2)).mean() / x.shape[-2] ** 2


def mmd(x: Tensor, y: Tensor, gamma: float = 0.5) -> Tensor:
    """Squared maximum mean discrepancy, kernel e^{-gamma |x - y|^2}. x: (n, d), y: (m, d) -> scalar, at least 0."""
    xx, yy, xy = ((-gamma * sqdist(a, b)).exp().mean() for a, b in ((x, x), (y, y), (x, y)))
    return xx + yy - 2 * xy


class _Reverse(torch.autograd.Function):
    """The identity, whose gradient is reversed."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x.view_as(x)

    @staticmethod
    def setup_context(ctx, inputs, output):
        pass

    @staticmethod
    def backward(ctx, grad):
        return -grad


class Decorrelation(nn.Module):
    """-mean( (n(x) * n(f(y)))^2 ), n to unit length, f a small network that is trained to raise the correlation.

    Minimised together with the loss, f follows its gradient, and x and y the reverse of theirs: they come to share
    nothing that f can find.

    Args:
        d_x, d_y: features of x and y. hidden: width of f, 512 in the paper, where the weight of the term is 2500.
    """

    def __init__(self, d_x: int, d_y: int, hidden: int = 512):
        super().__init__()
        self.f = nn.Sequential(nn.Linear(d_y, hidden), nn.ReLU(), nn.Linear(hidden, d_x))

    def forward(self, x: Tensor, y: Tensor) -> Tensor:
        """x: (n, d_x), y: (n, d_y), two embeddings of the same items -> scalar."""
        u, v = normalize(_Reverse.apply(x), dim=-1), normalize(self.f(_Reverse.apply(y)), dim=-1)
        return -(u * v).square().mean()
