"""Pretraining (sections 2.2-2.5.1): a clip and its second view, both masked, under equation (8)."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from audio.features import Features
from model.batches import (
    ORDER,
    RATIO,
    Share,
    TrainingClips,
    batch_sizes,
    mask_time_and_frequency,
    random_generator,
    visible_count,
)
from model.losses import (
    covariance_floor,
    covariance_loss,
    info_nce,
    reconstruction_loss,
    standardise_patches,
    variance_loss,
    vcr_loss,
)
from model.network import RCMAE, NetworkConfig, patchify
from model.training import gather, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class PretrainingSettings:
    """What equation (8) and its decisions depend on; the meaning of each is beside its value in params.yaml."""

    lambda_con: float
    lambda_vcr: float
    lambda_mae: float
    augmented: bool  # the second view is an augmented clip; False: the clip under time and frequency masks
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    temperature: float
    mask_ratio: tuple[float, float]
    norm_pix_loss: bool
    mae_views: str
    contrastive_symmetric: bool
    negatives: str
    time_mask: float
    frequency_mask: float
    seed: int
    level: str = "keep"  # of the spectrograms, see `audio.scale.Scale`

    def __post_init__(self):
        low, high = self.mask_ratio
        if not 0 < low <= high < 1:
            raise ValueError(f"mask_ratio {list(self.mask_ratio)} must be two ascending shares between 0 and 1")


class Pairs(NamedTuple):
    """One process's share of a batch of pairs, on the CPU or the device."""

    share: Share
    original: Tensor  # (m, F, M), standardised
    augmented: Tensor  # (m, F, M)
    visible: Tensor  # (m, V), numbers of the visible tokens of the original
    augmented_visible: Tensor  # (m, V)


class Pretraining:
    """The objective of pretraining, for `model.training.train`."""

    def __init__(self, clips: TrainingClips, settings: PretrainingSettings, fabric: "Fabric"):
        if settings.augmented:
            clips.require_views()
        self.clips, self.settings, self.fabric = clips, settings, fabric
        self.sizes = batch_sizes(len(clips), settings.batch_size, fabric.world_size)

    def batches(self, epoch: int) -> list[np.ndarray]:
        """Every clip once, in a random order."""
        order = random_generator(ORDER, self.settings.seed, epoch).permutation(len(self.clips))
        return np.split(order, np.cumsum(self.sizes)[:-1])

    def load(self, epoch: int, step: int, clips: np.ndarray) -> Pairs:
        share = Share.of(clips, self.fabric.global_rank, self.fabric.world_size)
        ratio = random_generator(RATIO, self.settings.seed, epoch, step).uniform(*self.settings.mask_ratio)
        tokens = self.clips.config.tokens
        visible = visible_count(tokens, ratio)
        pairs, kept = [], []
        for clip in share.clips:
            random = self.clips.random(clip, self.settings.seed, epoch)
            pairs.append(self._pair(clip, random))
            # the tokens with the smallest of N random numbers stay visible; both views independently
            kept.append(random.random((2, tokens), dtype=np.float32).argsort(axis=1)[:, :visible])
        original, augmented = (self.clips.network_input(list(view)) for view in zip(*pairs, strict=True))
        numbers = torch.from_numpy(np.stack(kept, axis=1))  # (2, m, V)
        return Pairs(share, original, augmented, numbers[0], numbers[1])

    def _pair(self, clip: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        start, original = self.clips.crop(clip, random)
        if self.settings.augmented:
            return original, self.clips.view(clip, start, random)
        settings = self.settings
        mean = self.clips.features.mean if settings.level == "keep" else float(original.mean())  # 0 when standardised
        return original, mask_time_and_frequency(original, settings.time_mask, settings.frequency_mask, mean, random)

    def losses(self, network: nn.Module, batch: Pairs) -> tuple[dict[str, Tensor], Tensor]:
        settings, share = self.settings, batch.share
        both = settings.mae_views == "both"
        patches = patchify(batch.original, self.clips.config)  # (m, N, P)
        augmented_patches = patchify(batch.augmented, self.clips.config)
        a, aug = network(patches, batch.visible, augmented_patches, batch.augmented_visible, both)

        l_mae = self._reconstruction(a.predicted, patches, batch.visible, share)  # (2)
        if both:
            l_mae = (l_mae + self._reconstruction(aug.predicted, augmented_patches, batch.augmented_visible, share)) / 2
        z_a, z_aug = gather(self.fabric, share, a.projection), gather(self.fabric, share, aug.projection)
        l_con = info_nce(z_a, z_aug, settings.temperature, settings.contrastive_symmetric, settings.negatives)  # (3)
        l_vcr = (vcr_loss(z_a) + vcr_loss(z_aug)) / 2  # (7), mean of the branches
        loss = settings.lambda_con * l_con + settings.lambda_vcr * l_vcr + settings.lambda_mae * l_mae  # (8)

        with torch.no_grad():
            variance = (variance_loss(z_a) + variance_loss(z_aug)) / 2
            excess = torch.stack([covariance_loss(z) - covariance_floor(z) for z in (z_a, z_aug)]).mean()
            embedding = gather(self.fabric, share, a.embedding)
        terms = {
            "loss": loss,
            "contrastive": l_con,
            "variance_covariance": l_vcr,
            "variance": variance,
            "covariance_above_floor": excess,
            "reconstruction": l_mae,
        }
        return terms, embedding

    def _reconstruction(self, predicted: Tensor, patches: Tensor, visible: Tensor, share: Share) -> Tensor:
        target = standardise_patches(patches) if self.settings.norm_pix_loss else patches
        mask = torch.ones(patches.shape[:2], device=patches.device).scatter(1, visible, 0.0)  # 1 is masked
        mask[share.own :] = 0  # a repeated clip does not count
        # scaled so that the mean over processes, of loss and gradient, is that of the global batch
        return reconstruction_loss(predicted, target, mask) * (self.fabric.world_size * share.own / share.total)

    def names(self, clips: np.ndarray) -> list[str]:
        return [self.clips.names[clip] for clip in clips]


def pretrain(
    features: Features,
    config: NetworkConfig,
    settings: PretrainingSettings,
    fabric: "Fabric",
    checkpoints: Path,
    on_epoch: Callable[[dict[str, float]], None],
) -> RCMAE:
    """The pretrained network; with 0 epochs, its seeded initial weights. See `model.training.train`."""
    torch.manual_seed(settings.seed)
    network = RCMAE(config)
    objective = Pretraining(TrainingClips(features, config, settings.level), settings, fabric)
    train(fabric, network, objective, settings.epochs, settings.learning_rate, settings.schedule, checkpoints, on_epoch)
    return network
