"""Fine-tuning (section 2.5.2): supervised contrastive loss and cross-entropy over machine identities, equation (10)."""

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.features import Features
from model.batches import ORDER, Share, TrainingClips, balanced_order, batch_sizes, random_generator
from model.losses import supervised_contrastive_loss
from model.network import RCMAE, IdentityClassifier
from model.training import gather, train

if TYPE_CHECKING:
    from lightning_fabric import Fabric

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class FinetuningSettings:
    """What equation (10) and its decisions depend on; the meaning of each is beside its value in params.yaml."""

    lambda_scl: float
    lambda_ce: float
    epochs: int
    batch_size: int
    learning_rate: float
    schedule: str
    temperature: float
    seed: int
    level: str = "keep"  # of the spectrograms, see `audio.scale.Scale`


class LabelledClips(NamedTuple):
    """One process's share of a batch of clips, on the CPU or the device."""

    share: Share
    spectrograms: Tensor  # (m, F, M), standardised
    labels: Tensor  # (total,), of the global batch


class Finetuning:
    """The objective of fine-tuning, for `model.training.train`. `identities` are the labels' names."""

    def __init__(self, clips: TrainingClips, settings: FinetuningSettings, fabric: "Fabric"):
        self.clips, self.settings, self.fabric = clips, settings, fabric
        identities, labels = np.unique(clips.identities, return_inverse=True)
        self.identities, self.labels = identities.tolist(), labels
        self._require_pairs()
        pairs = math.ceil(len(clips) / 2)
        self.sizes = batch_sizes(2 * pairs, settings.batch_size, fabric.world_size, together=2)

    def _require_pairs(self) -> None:
        single = np.flatnonzero(np.bincount(self.labels) == 1)
        if len(single):
            named = ", ".join(self.identities[label] for label in single)
            raise ValueError(f"a single training clip, at least 2 are needed: {named}")

    def batches(self, epoch: int) -> list[np.ndarray]:
        """As many clips as there are (one more if odd), in pairs of one identity, identities alike in number."""
        order = balanced_order(self.labels, random_generator(ORDER, self.settings.seed, epoch))
        return np.split(order, np.cumsum(self.sizes)[:-1])

    def load(self, epoch: int, step: int, clips: np.ndarray) -> LabelledClips:
        share = Share.of(clips, self.fabric.global_rank, self.fabric.world_size)
        crops = [self.clips.crop(clip, self.clips.random(clip, self.settings.seed, epoch))[1] for clip in share.clips]
        return LabelledClips(share, self.clips.network_input(crops), torch.from_numpy(self.labels[clips]))

    def losses(self, network: nn.Module, batch: LabelledClips) -> tuple[dict[str, Tensor], Tensor]:
        embedding, projection, logits = (gather(self.fabric, batch.share, x) for x in network(batch.spectrograms))
        l_scl = supervised_contrastive_loss(projection, batch.labels, self.settings.temperature)  # (9)
        l_ce = F.cross_entropy(logits, batch.labels)
        loss = self.settings.lambda_scl * l_scl + self.settings.lambda_ce * l_ce  # (10)
        accuracy = (logits.argmax(dim=1) == batch.labels).float().mean()
        terms = {
            "loss": loss,
            "supervised_contrastive": l_scl,
            "cross_entropy": l_ce,
            "accuracy": accuracy,
        }
        return terms, embedding

    def names(self, clips: np.ndarray) -> list[str]:
        return [self.clips.names[clip] for clip in clips]


def finetune(
    features: Features,
    pretrained: RCMAE,
    settings: FinetuningSettings,
    fabric: "Fabric",
    checkpoints: Path,
    on_epoch: Callable[[dict[str, float]], None],
) -> tuple[IdentityClassifier | None, list[str]]:
    """The fine-tuned network and the names of its classes, "fan/id_00", in their order. See `model.training.train`.

    A single identity has nothing to be told from: there is no network then.
    """
    torch.manual_seed(settings.seed)
    if len(identities := sorted(set(TrainingClips(features, pretrained.config).identities))) == 1:
        log.warning("%s is the only machine: fine-tuning, which tells machines apart, is skipped", identities[0])
        return None, identities
    objective = Finetuning(TrainingClips(features, pretrained.config, settings.level), settings, fabric)
    network = IdentityClassifier.from_pretrained(pretrained, len(objective.identities))
    train(fabric, network, objective, settings.epochs, settings.learning_rate, settings.schedule, checkpoints, on_epoch)
    return network, objective.identities
