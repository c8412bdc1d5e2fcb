"""The baseline autoencoder of DCASE 2020 Task 2, a reference to beat: one per machine type, trained on normals only.

Its input is 5 stacked frames of 128 mels; the anomaly score of a clip is the mean squared error of its reconstruction.
Koizumi et al., "Description and discussion on DCASE2020 Challenge Task2", section 4. Theirs reads log-mel in dB as it
is; here it is standardised with the training normals' mean and standard deviation, so that few epochs suffice.
"""

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.peer import Clips

STACKED = 5  # frames of one input vector
HIDDEN = 128  # width of the four layers on either side
BOTTLENECK = 8
BATCH_SIZE = 512  # vectors
LEARNING_RATE = 1e-3  # of Adam


class Autoencoder(nn.Sequential):
    """640-128-128-128-128-8-128-128-128-128-640 for 128 mels: linear, batch norm, ReLU; the last layer linear alone."""

    def __init__(self, mels: int):
        widths = [STACKED * mels, *[HIDDEN] * 4, BOTTLENECK, *[HIDDEN] * 4]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Linear(before, after), nn.BatchNorm1d(after), nn.ReLU()]
        super().__init__(*layers, nn.Linear(HIDDEN, STACKED * mels))


def stack(spectrogram: Tensor) -> Tensor:
    """Spectrogram (F, M) -> all its runs of 5 frames as vectors (F - 4, 5 M). Needs at least 5 frames."""
    if len(spectrogram) < STACKED:
        raise ValueError(f"{len(spectrogram)} frames are too few for the autoencoder: at least {STACKED}")
    return spectrogram.unfold(0, STACKED, 1).transpose(1, 2).flatten(1)  # (F - 4, M, 5) -> (F - 4, 5, M) -> vectors


def train(
    lengths: np.ndarray,
    read: Callable[[np.ndarray, np.ndarray], Tensor],
    epochs: int,
    vectors_per_epoch: int,
    seed: int,
) -> Autoencoder:
    """An autoencoder of the training normals of one machine type, of which no more than a batch is held at once.

    `lengths` (clips,) are their frames, each at least 5. `read(clips, starts)`, both (B,), gives runs of 5 frames of
    the standardised log-mel: (B, 5, mels). An epoch passes `vectors_per_epoch` of them, drawn without replacement, or
    all if there are fewer.
    """
    generator = torch.Generator().manual_seed(seed)
    ends = np.cumsum(lengths - STACKED + 1)  # vectors of the clips so far, when all are numbered clip by clip
    network = Autoencoder(read(np.array([0]), np.array([0])).shape[2])
    for layer in network:
        if isinstance(layer, nn.Linear):  # as in Keras, the baseline's framework
            nn.init.xavier_uniform_(layer.weight, generator=generator)
            nn.init.zeros_(layer.bias)
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    for _ in range(epochs):
        drawn = torch.randperm(int(ends[-1]), generator=generator)[:vectors_per_epoch]
        for batch in drawn.split(BATCH_SIZE):
            if len(batch) < 2:  # batch norm needs two
                continue
            clips = np.searchsorted(ends, batch.numpy(), side="right")
            starts = batch.numpy() - (ends - lengths + STACKED - 1)[clips]
            vectors = read(clips, starts).flatten(1)  # (B, 5, M) -> (B, 5 M)
            loss = F.mse_loss(network(vectors), vectors)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    return network.eval()


@torch.inference_mode()
def reconstruction_error(network: Autoencoder, spectrogram: Tensor) -> float:
    """Mean squared error over all vectors of a standardised spectrogram (frames, mels): the clip's anomaly score."""
    vectors = stack(spectrogram)
    return float(F.mse_loss(network(vectors), vectors))


@dataclass
class Baseline:
    """The autoencoder as a peer, see `peers.peer.Peer`. It saw the training clips that it scores."""

    epochs: int
    vectors: int  # drawn per epoch
    seed: int
    joint: ClassVar[bool] = False

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.network = train(
            training.frames,
            lambda clips, starts: torch.from_numpy(training.log_mel_pieces(clips, starts, STACKED)),
            self.epochs,
            self.vectors,
            self.seed,
        )
        return self.score(training)

    def score(self, clips: Clips) -> np.ndarray:
        spectrograms = (torch.from_numpy(clips.log_mel(clip)) for clip in range(len(clips)))
        return np.array([reconstruction_error(self.network, spectrogram) for spectrogram in spectrograms])

    @property
    def parameters(self) -> int:
        return sum(weights.numel() for weights in self.network.parameters())
