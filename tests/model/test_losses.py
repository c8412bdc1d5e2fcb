"""Each loss against a slow loop from its equation in float64, and against libraries that compute the same thing."""

import math

import pytest
import torch
from lightning_fabric import Fabric
from pytorch_metric_learning.losses import NTXentLoss, SupConLoss, VICRegLoss
from torch.nn import functional as F

from model.losses import (
    covariance_floor,
    covariance_loss,
    info_nce,
    reconstruction_loss,
    standardise_patches,
    supervised_contrastive_loss,
    variance_loss,
    vcr_loss,
)
from model.network import RCMAE
from tests.model.tiny_training import CONFIG

TAU = 0.05
SHAPES = [(2, 3), (2, 512), (7, 5), (32, 64)]


def embeddings(shape: tuple[int, int], seed: int = 0, scale: float = 1.0) -> torch.Tensor:
    return scale * torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def unit(z: torch.Tensor) -> list[list[float]]:
    return [(row / row.square().sum().sqrt()).tolist() for row in z.double()]


def dot(a: list[float], b: list[float]) -> float:
    return sum(x * y for x, y in zip(a, b, strict=True))


def slow_info_nce(z_a, z_aug, both=False):
    a, aug = unit(z_a), unit(z_aug)
    total = 0.0
    for i in range(len(a)):
        positive = math.exp(dot(a[i], aug[i]) / TAU)
        negatives = sum(math.exp(dot(a[i], aug[k]) / TAU) for k in range(len(a)) if k != i)
        if both:
            negatives += sum(math.exp(dot(a[i], a[k]) / TAU) for k in range(len(a)) if k != i)
        total += math.log(positive / (negatives + positive))
    return -total / len(a)


def slow_supervised_contrastive(z, labels):
    z, labels, total = unit(z), labels.tolist(), 0.0
    for i in range(len(z)):
        positives = [p for p in range(len(z)) if p != i and labels[p] == labels[i]]
        candidates = sum(math.exp(dot(z[i], z[j]) / TAU) for j in range(len(z)) if j != i)
        for p in positives:
            total += math.log(math.exp(dot(z[i], z[p]) / TAU) / candidates) / len(positives)
    return -total / len(z)


def slow_variance(z):
    columns = z.double().T.tolist()
    total = 0.0
    for column in columns:
        mean = sum(column) / len(column)
        variance = sum((value - mean) ** 2 for value in column) / (len(column) - 1)
        total += max(0.0, 1 - math.sqrt(variance + 1e-4))
    return total / len(columns)


def slow_covariance(z):
    n, d = z.shape
    z = z.double()
    mean = sum(z) / n
    covariance = sum(torch.outer(row - mean, row - mean) for row in z) / (n - 1)
    return float(sum(covariance[i, j] ** 2 for i in range(d) for j in range(d) if i != j) / d)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("both", [False, True])
def test_info_nce_is_equation_3(shape, both):
    z_a, z_aug = embeddings(shape, 1, 3.0), embeddings(shape, 2, 0.1)
    negatives = "both" if both else "cross"
    expected = slow_info_nce(z_a, z_aug, both)
    assert float(info_nce(z_a, z_aug, TAU, negatives=negatives)) == pytest.approx(expected, rel=1e-5)
    symmetric = (expected + slow_info_nce(z_aug, z_a, both)) / 2
    assert float(info_nce(z_a, z_aug, TAU, True, negatives)) == pytest.approx(symmetric, rel=1e-5)


@pytest.mark.parametrize("shape", SHAPES)
def test_info_nce_agrees_with_ntxent(shape):
    z_a, z_aug = embeddings(shape, 1), embeddings(shape, 2)
    pairs = torch.arange(len(z_a)).repeat(2)
    oracle = NTXentLoss(TAU)(torch.cat([z_a, z_aug]), pairs)
    ours = info_nce(z_a, z_aug, TAU, symmetric=True, negatives="both")
    assert float(ours) == pytest.approx(float(oracle), rel=1e-5)
    oracle = NTXentLoss(TAU)(z_a, pairs[: len(z_a)], ref_emb=z_aug, ref_labels=pairs[: len(z_a)])
    assert float(info_nce(z_a, z_aug, TAU)) == pytest.approx(float(oracle), rel=1e-5)


def test_info_nce_of_identical_views_and_of_identical_clips():
    z = torch.eye(4)
    assert float(info_nce(z, z, TAU)) == pytest.approx(math.log(1 + 3 * math.exp(-1 / TAU)), abs=1e-7)
    same = torch.ones(4, 6)
    assert float(info_nce(same, same, TAU)) == pytest.approx(math.log(4), rel=1e-6)
    assert float(info_nce(same, same, TAU, negatives="both")) == pytest.approx(math.log(7), rel=1e-6)
    with pytest.raises(ValueError, match="negatives is 'all'"):
        info_nce(z, z, TAU, negatives="all")


LABELS = {
    "random": [0, 1, 2, 0, 1, 0, 2, 1, 0, 2],
    "one identity": [4] * 10,
    "one clip per identity": list(range(10)),
    "some without a positive": [0, 0, 0, 1, 2, 3, 3, 4, 5, 6],
    "batch of 2, together": [1, 1],
    "batch of 2, apart": [0, 1],
}


@pytest.mark.parametrize("labels", LABELS.values(), ids=LABELS.keys())
def test_supervised_contrastive_is_equation_9(labels):
    z, labels = embeddings((len(labels), 16), scale=2.0).requires_grad_(), torch.tensor(labels)
    loss = supervised_contrastive_loss(z, labels, TAU)
    assert loss.item() == pytest.approx(slow_supervised_contrastive(z.detach(), labels), rel=1e-5, abs=1e-7)
    loss.backward()
    assert z.grad.isfinite().all()


# the library returns 0 where there are no negatives, and leaves anchors without a positive out of its mean
@pytest.mark.parametrize("name", ["random", "one clip per identity", "batch of 2, apart"])
def test_supervised_contrastive_agrees_with_supcon(name):
    labels = torch.tensor(LABELS[name])
    z = embeddings((len(labels), 16), 5)
    ours = float(supervised_contrastive_loss(z, labels, TAU))
    assert ours == pytest.approx(float(SupConLoss(TAU)(z, labels)), rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("scale", [0.01, 0.7, 3.0])
def test_variance_and_covariance_are_equations_4_to_7(shape, scale):
    z = embeddings(shape, 3, scale) + 5
    variance, covariance = slow_variance(z), slow_covariance(z) if shape[1] < 100 else None
    assert float(variance_loss(z)) == pytest.approx(variance, rel=1e-5, abs=1e-6)
    # of two equal branches the library takes the mean of the variances, and the sum of the covariances
    oracle_variance = VICRegLoss(invariance_lambda=0, variance_mu=1, covariance_v=0)(z, ref_emb=z)
    oracle_covariance = VICRegLoss(invariance_lambda=0, variance_mu=0, covariance_v=0.5)(z, ref_emb=z)
    assert float(variance_loss(z)) == pytest.approx(float(oracle_variance), rel=1e-5, abs=1e-6)
    assert float(covariance_loss(z)) == pytest.approx(float(oracle_covariance), rel=1e-4)
    if covariance is not None:
        assert float(covariance_loss(z)) == pytest.approx(covariance, rel=1e-4)
        assert float(vcr_loss(z)) == pytest.approx((variance + covariance) / 2, rel=1e-4)


def test_identical_embeddings_have_full_variance_loss_and_no_covariance():
    z = torch.ones(6, 4, requires_grad=True)
    assert variance_loss(z).item() == pytest.approx(1 - math.sqrt(1e-4), rel=1e-6)
    assert covariance_loss(z).item() == 0
    vcr_loss(z).backward()
    assert z.grad.isfinite().all()


@pytest.mark.parametrize("loss", [variance_loss, covariance_loss, vcr_loss])
def test_one_clip_has_no_variance(loss):
    with pytest.raises(ValueError, match="at least 2 clips in a batch, not 1"):
        loss(torch.randn(1, 4))


def test_covariance_floor_is_what_independent_dimensions_show():
    z = embeddings((128, 512), 7)
    assert float(covariance_floor(z)) == pytest.approx(511 / 127, rel=0.02)
    assert float(covariance_loss(z)) == pytest.approx(float(covariance_floor(z)), rel=0.05)
    assert float(covariance_loss(3 * z)) == pytest.approx(float(covariance_floor(3 * z)), rel=0.05)


def test_reconstruction_counts_masked_patches_only():
    predicted, target = embeddings((4 * 6, 5), 1).reshape(4, 6, 5), embeddings((4 * 6, 5), 2).reshape(4, 6, 5)
    mask = torch.tensor([[1, 1, 1, 0, 0, 0], [0, 1, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1], [1, 0, 1, 0, 1, 0]])
    total = 0.0
    for b in range(4):
        for n in range(6):
            if mask[b, n] == 1:
                pixels = zip(predicted[b, n].tolist(), target[b, n].tolist(), strict=True)
                total += sum((p - t) ** 2 for p, t in pixels) / 5
    for kind in (torch.long, torch.float, torch.bool):
        assert float(reconstruction_loss(predicted, target, mask.to(kind))) == pytest.approx(total / 12, rel=1e-6)
    visible_changed = torch.where(mask[..., None] == 0, torch.tensor(99.0), predicted)
    assert reconstruction_loss(visible_changed, target, mask) == reconstruction_loss(predicted, target, mask)
    assert float(reconstruction_loss(predicted, target, mask)) == pytest.approx(
        float(F.mse_loss(predicted[mask == 1], target[mask == 1])), rel=1e-6
    )


def test_standardised_patches_have_mean_0_and_variance_1():
    patches = 7 + 3 * embeddings((6, 80)).reshape(2, 3, 80)
    out = standardise_patches(patches)
    torch.testing.assert_close(out.mean(-1), torch.zeros(2, 3), atol=1e-5, rtol=0)
    torch.testing.assert_close(out.var(-1), torch.ones(2, 3), atol=1e-5, rtol=0)
    assert (standardise_patches(torch.full((1, 1, 80), 3.0)) == 0).all()


def test_in_bf16_training_the_losses_get_float32_and_no_autocast():
    network = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed").setup_module(RCMAE(CONFIG))
    projected = []
    network.module.projection.register_forward_hook(lambda module, inputs, output: projected.append(output.dtype))
    patches = torch.randn(2, CONFIG.tokens, CONFIG.patch_mels * CONFIG.patch_frames)
    visible = torch.arange(6).expand(2, -1)
    original, augmented = network(patches, visible, patches, visible, True)
    assert projected == [torch.bfloat16]
    assert {output.dtype for output in (*original, *augmented)} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")
    assert info_nce(original.projection, augmented.projection, TAU).dtype == torch.float32


def test_gradients_agree_with_finite_differences():
    z = embeddings((5, 4), 1).double().requires_grad_()
    other = embeddings((5, 4), 2).double().requires_grad_()
    labels = torch.tensor([0, 0, 1, 1, 2])
    assert torch.autograd.gradcheck(lambda a, b: info_nce(a, b, 0.5, True, "both"), (z, other))
    assert torch.autograd.gradcheck(lambda a: supervised_contrastive_loss(a, labels, 0.5), (z,))
    assert torch.autograd.gradcheck(lambda a: vcr_loss(0.5 * a), (z,))
