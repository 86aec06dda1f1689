"""`MetricLoss`: masks, units, reductions and refusals, the same for every loss over a distance."""

import warnings

import pytest
import torch

from geoembed.distances import Cosine, Euclidean, Geodesic, NegativeInner
from geoembed.errors import DataError, DataWarning, DomainError, ShapeError, UnknownNameError
from geoembed.losses.pairs import Contrastive
from geoembed.losses.terms import Terms, pair_masks, reduced
from geoembed.losses.triplets import Triplet, triplet
from geoembed.manifolds import PoincareBall


def batch(n: int = 12, classes: int = 3, d: int = 4, dtype: torch.dtype = torch.float64) -> tuple:
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(n, d, generator=generator, dtype=dtype)
    return x, torch.arange(n) % classes


def loop_contrastive(D: torch.Tensor, labels, margin: float) -> float:
    n = len(D)
    near = [D[i, j] for i in range(n) for j in range(n) if i != j and labels[i] == labels[j]]
    far = [max(0.0, margin - D[i, j]) for i in range(n) for j in range(n) if labels[i] != labels[j]]
    return sum(near) / len(near) + sum(far) / max(1, sum(f > 0 for f in far))


def test_value_is_that_of_the_loops():
    x, labels = batch()
    D = torch.cdist(x, x)
    assert Contrastive(Euclidean(), margin=2.5)(x, labels).item() == pytest.approx(
        float(loop_contrastive(D, labels, 2.5)), rel=1e-12
    )


def test_a_matrix_in_place_of_items_gives_the_same_loss():
    x, labels = batch()
    loss = Triplet(Geodesic(PoincareBall()))
    x = x / 10
    assert torch.equal(loss(None, labels, dist=loss.distance.pairwise(x)), loss(x, labels))


def test_reference_items_are_columns():
    x, labels = batch()
    loss = Triplet(Euclidean(), margin=1.0, reduction="sum")
    value = loss(x[:5], labels[:5], x[5:], labels[5:])
    D = torch.cdist(x[:5], x[5:])
    want = sum(
        max(0.0, float(D[a, p] - D[a, n]) + 1)
        for a in range(5)
        for p in range(7)
        for n in range(7)
        if labels[5 + p] == labels[a] != labels[5 + n]
    )
    assert value.item() == pytest.approx(want, rel=1e-12)


def test_an_item_and_its_copy_are_no_pair():
    x, labels = batch()
    loss = Contrastive(Euclidean(), margin=2.0, reduction="mean")
    ids = torch.arange(len(x))
    assert loss(x, labels, x, labels, ids=ids, ref_ids=ids).item() == pytest.approx(loss(x, labels).item(), rel=1e-12)
    assert loss(x, labels, x, labels).item() < loss(x, labels).item()  # zeros of the copies are counted


def test_masks_take_the_place_of_labels():
    x, labels = batch()
    positive, negative = pair_masks(labels)
    loss = Triplet(Euclidean(), margin=1.0)
    assert torch.equal(loss(x, labels, mask=(positive, negative)), loss(x, labels))
    assert loss(x, labels, mask=(positive, negative & (torch.arange(12) > 5))) != loss(x, labels)


def test_a_miner_sees_the_matrix_and_thins_the_masks():
    x, labels = batch()
    seen = []

    def nearest(D, positive, negative):
        seen.append(D.requires_grad)
        return positive, negative & (D.masked_fill(~negative, float("inf")).amin(1, keepdim=True) >= D)

    x.requires_grad_()
    mined = Triplet(Euclidean(), margin=9.0, reduction="none", miner=nearest)(x, labels)
    D, (positive, negative) = torch.cdist(x, x), pair_masks(labels)
    hardest = D.masked_fill(~negative, float("inf")).amin(1)
    want = ((D + 9 - hardest.unsqueeze(1)) * positive).sum(1) / positive.sum(1)
    torch.testing.assert_close(mined, want)
    assert seen == [False]


@pytest.mark.parametrize("reduction", ["mean", "mean_nonzero", "sum", "none"])
def test_reductions(reduction):
    terms = Terms(torch.tensor([3.0, 0.0, 5.0]), torch.tensor([2, 0, 4]), torch.tensor([1, 0, 3]))
    want = {"mean": 8 / 6, "mean_nonzero": 8 / 4, "sum": 8.0, "none": [1.5, 0.0, 1.25]}[reduction]
    torch.testing.assert_close(reduced(terms, reduction), torch.tensor(want))


def test_unit_is_the_median_distance_of_negatives_of_the_first_batch_and_saved():
    x, labels = batch()
    loss = Triplet(Euclidean(), margin="auto")
    value = loss(x, labels)
    D, (_, negative) = torch.cdist(x, x), pair_masks(labels)
    assert loss.unit.item() == pytest.approx(D[negative].median().item())
    assert value.item() == pytest.approx(Triplet(Euclidean(), margin=0.2, unit=loss.unit.item())(x, labels).item())
    loss(3 * x, labels)
    assert loss.unit.item() == pytest.approx(D[negative].median().item())  # of the first batch
    again = Triplet(Euclidean(), margin="auto")
    again.load_state_dict(loss.state_dict())
    assert torch.equal(again(2 * x, labels), loss(2 * x, labels))


@pytest.mark.parametrize("factor", [1e-3, 1.0, 1e3])
def test_with_unit_auto_a_distance_of_another_scale_has_the_same_loss(factor):
    x, labels = batch()
    want = Contrastive(Euclidean(), margin="auto")(x, labels)
    torch.testing.assert_close(Contrastive(Euclidean(), margin="auto")(factor * x, labels), want)


def test_a_batch_without_terms_warns_counts_and_has_a_gradient_of_zero():
    x, _ = batch()
    x.requires_grad_()
    loss = Triplet(Euclidean())
    with pytest.warns(DataWarning, match=r"none of the 12 anchors.*1 label"):
        value = loss(x, torch.zeros(12, dtype=torch.int64))
    value.backward()
    assert value.item() == 0
    assert loss.skipped.item() == 12
    assert torch.equal(x.grad, torch.zeros_like(x))


def test_anchors_without_terms_are_counted():
    x, labels = batch()
    labels[0] = 7  # alone
    loss = Triplet(Euclidean())
    loss(x, labels)
    assert loss.skipped.item() == 1


def test_one_item_and_none():
    x, labels = batch()
    for n in (0, 1):
        with pytest.warns(DataWarning):
            assert Contrastive(Euclidean())(x[:n], labels[:n]).item() == 0


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_half_precision_is_computed_in_float32(dtype):
    x, labels = batch(dtype=torch.float32)
    x = x.to(dtype).requires_grad_()
    value = Triplet(Euclidean())(x, labels)
    value.backward()
    assert value.dtype == torch.float32
    assert x.grad.dtype == dtype
    assert bool(x.grad.isfinite().all())


def test_nan_is_named():
    x, labels = batch()
    x[3] = float("nan")
    with pytest.raises(DomainError, match=r"distances are not finite, the first is nan between items 0 and 3"):
        Triplet(Euclidean())(x, labels)


def test_a_similarity_is_refused():
    x, labels = batch()
    u = x / x.norm(dim=1, keepdim=True)
    with pytest.raises(DomainError, match="looks like a similarity"):
        Triplet(Cosine())(None, labels, dist=u @ u.T)
    Triplet(Cosine())(None, labels, dist=1 - u @ u.T)
    Triplet(NegativeInner())(u, labels)


def test_refusals():
    x, labels = batch()
    loss = Triplet(Euclidean())
    with pytest.raises(DataError, match="x holds 12 items and its labels are 5"):
        loss(x, labels[:5])
    with pytest.raises(ShapeError, match="vector of integers"):
        loss(x, labels.double())
    with pytest.raises(ShapeError, match="floating point"):
        loss(torch.ones(12, 4, dtype=torch.int64), labels)
    with pytest.raises(ShapeError, match="either items x or a matrix"):
        loss(x, labels, dist=torch.cdist(x, x))
    with pytest.raises(ShapeError, match="belong together"):
        loss(x, labels, x)
    with pytest.raises(ShapeError, match=r"dist must be \(12, 12\)"):
        loss(None, labels, dist=torch.ones(12, 3))
    with pytest.raises(ShapeError, match="must be a geoembed Distance"):
        Triplet(torch.cdist)
    with pytest.raises(UnknownNameError, match="mean_nonzero"):
        Triplet(Euclidean(), reduction="nonzero")
    with pytest.raises(DomainError, match="unit must be a positive number"):
        Triplet(Euclidean(), unit=0)
    with pytest.raises(DomainError, match="margin must be a finite number"):
        Triplet(Euclidean(), margin="big")
    with pytest.raises(DomainError, match="first batch that is not collapsed"):
        Triplet(Euclidean(), margin="auto")(torch.zeros(12, 4), labels)


def test_gradient_of_all_triplets():
    x, labels = batch(8, 2, 3)
    loss = Triplet(Euclidean(), margin=0.5)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.autograd.gradcheck(lambda t: loss(t, labels), x.requires_grad_())


def test_all_triplets_of_a_large_batch_take_the_memory_of_a_matrix():
    """n^3 triplets of 2,000 items would take 32 GB."""
    n = 2000
    D = torch.rand(n, n, generator=torch.Generator().manual_seed(1))
    positive, negative = pair_masks(torch.arange(n) % 2)
    total = triplet(D, positive, negative, margin=0.2).total
    a = 17
    want = (D[a, positive[a]].unsqueeze(1) - D[a, negative[a]] + 0.2).relu().sum()
    assert total[a].item() == pytest.approx(want.item(), rel=1e-5)
