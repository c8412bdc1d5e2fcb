"""The losses, equations (2)-(7) and (9) of the paper, as plain functions on tensors.

Each returns a scalar, computed in the precision of its input. That is float32 in bf16-mixed training too: what Fabric's
networks return is float32, and their autocast ends with their forward pass. B is the batch, N the tokens of a clip, P
the pixels of a patch, D the dimensions of an embedding.
"""

import torch
from torch import Tensor
from torch.nn import functional as F


def reconstruction_loss(predicted: Tensor, target: Tensor, mask: Tensor) -> Tensor:
    """Eq. (2): squared error, mean over the pixels of a patch, then mean over the masked patches.

    `predicted` and `target` are patches (B, N, P), `mask` is (B, N): 1 is masked (counts), 0 is visible (does not).
    """
    error = (predicted - target).square().mean(dim=-1)  # (B, N)
    return (error * mask).sum() / mask.sum()


def standardise_patches(patches: Tensor, eps: float = 1e-6) -> Tensor:
    """Patches (B, N, P), each with zero mean and unit variance: the reconstruction's targets with norm_pix_loss."""
    variance, mean = torch.var_mean(patches, dim=-1, keepdim=True)
    return (patches - mean) / (variance + eps).sqrt()


def info_nce(
    z_a: Tensor, z_aug: Tensor, temperature: float, symmetric: bool = False, negatives: str = "cross"
) -> Tensor:
    """Eq. (3): tells a clip's augmentation (B, D) from those of the other clips; L2-normalises both inputs.

    The anchor is the original, row i of `z_a`, its positive row i of `z_aug`; negatives are the other rows of `z_aug`
    ("cross"), with "both" also the other rows of `z_a`. `symmetric` averages both directions; with negatives "both"
    that is NT-Xent.
    """
    if negatives not in ("cross", "both"):
        raise ValueError(f"negatives is {negatives!r}, allowed are 'cross' and 'both'")
    a, aug = F.normalize(z_a, dim=-1), F.normalize(z_aug, dim=-1)
    positive = torch.arange(len(a), device=a.device)

    def one_direction(anchor: Tensor, other: Tensor) -> Tensor:
        similarity = anchor @ other.T / temperature  # (B, B), positives on the diagonal
        if negatives == "both":
            within = (anchor @ anchor.T / temperature).fill_diagonal_(-torch.inf)
            similarity = torch.cat([similarity, within], dim=1)  # (B, 2 B)
        return F.cross_entropy(similarity, positive)  # -log softmax at the positive, mean over anchors

    if symmetric:
        return (one_direction(a, aug) + one_direction(aug, a)) / 2
    return one_direction(a, aug)


def variance_loss(z: Tensor) -> Tensor:
    """Eq. (4): how far each dimension's standard deviation over the batch (B, D) stays below 1, mean over dimensions.

    The variance is the unbiased one, epsilon is 1e-4. Meant for un-normalised embeddings: unit vectors in R^512 cannot
    reach a standard deviation of 1.
    """
    _needs_two(z)
    return F.relu(1 - (z.var(dim=0) + 1e-4).sqrt()).mean()


def covariance_loss(z: Tensor) -> Tensor:
    """Eqs. (5)-(6): squared off-diagonal entries of the covariance of z (B, D), summed and divided by D."""
    _needs_two(z)
    centred = z - z.mean(dim=0)
    covariance = centred.T @ centred / (len(z) - 1)  # (5), (D, D)
    off_diagonal = covariance - covariance.diagonal().diag()
    return off_diagonal.square().sum() / z.shape[1]  # (6)


def covariance_floor(z: Tensor) -> Tensor:
    """What `covariance_loss` is expected to show of independent dimensions with the variances of z (B, D).

    Sampling alone makes an entry of the covariance of B clips about var_i var_j / (B - 1) when squared; with unit
    variances the floor is (D - 1) / (B - 1).
    """
    variance = z.var(dim=0)
    return (variance.sum().square() - variance.square().sum()) / ((len(z) - 1) * z.shape[1])


def vcr_loss(z: Tensor) -> Tensor:
    """Eq. (7), one branch: the mean of variance and covariance loss of the embeddings z (B, D)."""
    return (variance_loss(z) + covariance_loss(z)) / 2


def supervised_contrastive_loss(z: Tensor, labels: Tensor, temperature: float) -> Tensor:
    """Eq. (9): draws clips of one identity together; L2-normalises z (B, D), labels are (B,).

    The anchor itself is no candidate. An anchor without a positive adds 0 to the mean over the batch.
    """
    z = F.normalize(z, dim=-1)
    itself = torch.eye(len(z), dtype=torch.bool, device=z.device)
    similarity = (z @ z.T / temperature).masked_fill(itself, -torch.inf)  # (B, B)
    log_p = similarity.log_softmax(dim=1).masked_fill(itself, 0.0)
    positive = (labels[:, None] == labels[None, :]) & ~itself
    per_anchor = (log_p * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return -per_anchor.mean()


def _needs_two(z: Tensor) -> None:
    if len(z) < 2:
        raise ValueError(f"variance and covariance need at least 2 clips in a batch, not {len(z)}")
