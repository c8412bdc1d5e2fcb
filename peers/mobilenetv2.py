"""MobileNetV2 that tells the identities of a machine type apart; an anomaly is what it does not take for its own.

Giri et al., "Self-supervised classification for detecting anomalous sounds", DCASE 2020 Workshop, in the form of the
DCASE 2021 Task 2 baseline: windows of 64 frames of the log-mel, every 8 frames, as three equal channels of an image;
the anomaly score is the mean over a clip's windows of log((1 - p) / p), p the probability of its own identity.

Different here: the log-mel is the pipeline's, standardised; PyTorch's network (torchvision's, width 0.5) has no dropout
before its last layer, as the baseline's Keras one has none; no clips are held out to choose an epoch. The learning rate
is a param: the baseline's 1e-5 needs thousands of clips.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.peer import Clips
from peers.training import device, fit, log_odds_against, parameters_of, seeded, shuffled

FRAMES = 64  # of a window
HOP = 8  # frames between windows
WIDTH = 0.5  # of the network, relative to MobileNetV2's own
BATCH_SIZE = 32


def network(classes: int) -> nn.Module:
    """Images (B, 3, mels, frames) to logits (B, classes)."""
    from torchvision.models import MobileNetV2

    return MobileNetV2(num_classes=classes, width_mult=WIDTH, dropout=0.0).to(memory_format=torch.channels_last)


def image(pieces: np.ndarray) -> Tensor:
    """Pieces (B, frames, mels) as three equal channels (B, 3, mels, frames)."""
    return torch.from_numpy(pieces).transpose(1, 2)[:, None].expand(-1, 3, -1, -1)


def windows(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Clip (W,) and first frame (W,) of every window of clips with `frames` (N,): at least one of each clip."""
    counts = np.maximum(frames - FRAMES, 0) // HOP + 1
    clips = np.repeat(np.arange(len(frames)), counts)
    return clips, (np.arange(len(clips)) - np.repeat(counts.cumsum() - counts, counts)) * HOP


@dataclass
class MobileNet:
    """See `peers.peer.Peer`."""

    epochs: int
    learning_rate: float  # of Adam
    seed: int
    joint: ClassVar[bool] = False

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.identities, classes = np.unique(training.identities, return_inverse=True)
        self.network = seeded(self.seed, lambda: network(len(self.identities)))
        clips, starts = windows(training.frames)

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in shuffled(len(clips), BATCH_SIZE, rng):
                pieces = training.log_mel_pieces(clips[chosen], starts[chosen], FRAMES)
                yield image(pieces), torch.from_numpy(classes[clips[chosen]])

        def loss(images: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(self.network(images), labels)

        fit(
            self.network,
            loss,
            batches,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            checkpoints=checkpoints,
        )
        return self.score(training)

    @torch.inference_mode()
    def score(self, clips: Clips) -> np.ndarray:
        claimed = np.searchsorted(self.identities, clips.identities)
        scores = np.empty(len(clips))
        for clip in range(len(clips)):
            _, starts = windows(clips.frames[[clip]])
            pieces = clips.log_mel_pieces(np.full(len(starts), clip), starts, FRAMES)
            logits = self.network(image(pieces).to(device())).cpu().numpy()
            scores[clip] = log_odds_against(logits, np.full(len(starts), claimed[clip])).mean()
        return scores

    @property
    def parameters(self) -> int:
        return parameters_of(self.network)
