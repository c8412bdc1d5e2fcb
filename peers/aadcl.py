"""AADCL: contrastive learning over transformed clips of one machine identity, and a Mahalanobis distance behind it.

Hojjati and Armanfard, "Self-supervised acoustic anomaly detection via contrastive learning", ICASSP 2022, and the
authors' repository (AADCL). Per identity a ResNet-18 on the mel spectrogram in dB (window 2048, hop 512, 128 mels): two
transformations of a clip, each one of 8, are drawn together and those of other clips pushed apart (NT-Xent, through a
head 512-512-128), and which transformation it was is told from the network's output, with weight 0.1. The anomaly score
is the Mahalanobis distance of the untransformed clip's output to those of the identity's training normals.

Different here: the network hears windows of a length that is a param (theirs: the whole clip), in training one at
random of each clip and epoch, in scoring as many as cover the clip, whose outputs are averaged; its width is a param.
Stretched time and shifted pitch are made on the spectrogram, not on the waveform. The covariance is shrunk (Ledoit and
Wolf), as there are fewer clips than its 512 dimensions, and of the untransformed clips. Training normals are scored by
fits that did not see them; the network did.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from detection.backends import Mahalanobis
from peers.peer import Clips
from peers.training import cover, device, fit, held_out, parameters_of, random_windows, seeded, shuffled

PROJECTION = 128
TEMPERATURE = 0.07  # of NT-Xent; pytorch-metric-learning's, which theirs uses
CLASSIFICATION = 0.1  # weight of the transformations' cross-entropy
BATCH_SIZE = 32  # clips
TRANSFORMATIONS = ("noise", "fade", "frequency mask", "time mask", "time shift", "none", "stretch", "pitch shift")


class Block(nn.Module):
    """Two convolutions with a way past them, ResNet's basic block."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
            nn.BatchNorm2d(after),
        )
        past: list[nn.Module] = []
        if stride > 1 or before != after:
            past = [nn.Conv2d(before, after, 1, stride, bias=False), nn.BatchNorm2d(after)]
        self.past = nn.Sequential(*past)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.layers(x) + self.past(x))


class Contrastive(nn.Module):
    """ResNet-18 of `width` channels (64 is its own), and the two heads on its output of 8 times the width."""

    def __init__(self, width: int):
        super().__init__()
        stem = [nn.Conv2d(1, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        blocks, before = [], width
        for level, after in enumerate((width, 2 * width, 4 * width, 8 * width)):
            blocks += [Block(before, after, 1 if level == 0 else 2), Block(after, after, 1)]
            before = after
        self.encoder = nn.Sequential(*stem, *blocks, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.projection = nn.Sequential(nn.Linear(before, before), nn.ReLU(), nn.Linear(before, PROJECTION))
        self.transformation = nn.Linear(before, len(TRANSFORMATIONS))

    def forward(self, spectrograms: Tensor) -> Tensor:
        """(B, frames, mels) to (B, 8 width)."""
        return self.encoder(spectrograms.transpose(1, 2)[:, None])


def nt_xent(first: Tensor, second: Tensor) -> Tensor:
    """Normalised temperature-scaled cross-entropy of pairs (B, D): each finds its partner among the 2 B."""
    z = F.normalize(torch.cat([first, second]), dim=1)
    similarities = (z @ z.T / TEMPERATURE).fill_diagonal_(-torch.inf)
    return F.cross_entropy(similarities, torch.arange(len(z), device=z.device).roll(len(first)))


def transformed(waveform: np.ndarray, which: str, front_end: LogMelSettings, rng: np.random.Generator) -> np.ndarray:
    """The log-mel (frames, mels) in dB of a waveform (samples,) under one of TRANSFORMATIONS, its strength drawn."""
    samples = len(waveform)
    if which == "noise":  # 10 to 30 dB below the clip
        level = np.sqrt(np.mean(waveform**2)) * 10 ** (rng.uniform(-30, -10) / 20)
        waveform = waveform + level * rng.standard_normal(samples, dtype=np.float32)
    elif which == "fade":  # in and out, over up to half of it each
        ends = rng.integers(1, samples // 2, 2)
        ramp = np.minimum(np.arange(samples) / ends[0], np.arange(samples)[::-1] / ends[1])
        waveform = waveform * np.minimum(ramp, 1)
    elif which == "time shift":
        waveform = np.roll(waveform, rng.integers(samples))
    values = log_mel(torch.from_numpy(waveform.astype(np.float32)), front_end).numpy()
    frames, mels = values.shape
    if which == "frequency mask":
        first, wide = rng.integers(mels), rng.integers(1, mels // 4 + 1)
        values[:, first : first + wide] = values.mean()
    elif which == "time mask":
        first, wide = rng.integers(frames), rng.integers(1, frames // 4 + 1)
        values[first : first + wide] = values.mean()
    elif which == "stretch":  # by up to a fifth, then cut or repeated
        places = np.round(np.arange(frames) * rng.choice([rng.uniform(0.8, 0.95), rng.uniform(1.05, 1.2)]))
        values = values[places.astype(int) % frames]
    elif which == "pitch shift":  # by 2 to 8 mel bins up or down
        by = int(rng.choice([-1, 1]) * rng.integers(2, 9))
        values = values[:, np.clip(np.arange(mels) - by, 0, mels - 1)]
    return values


def mahalanobis(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Distances (N,) of `asked` (N, D) to the mean of `known` (M, D), under their shrunk covariance."""
    backend = Mahalanobis.fit(known, np.zeros(len(known), int), ["known"])
    return backend(torch.from_numpy(asked))[:, 0].double().numpy()


@dataclass
class Aadcl:
    """See `peers.peer.Peer`."""

    epochs: int
    seconds: float  # of a window
    width: int
    learning_rate: float  # of Adam
    seed: int
    joint: ClassVar[bool] = False

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.front_end = replace(training.settings, n_fft=2048, hop_length=512)
        self.samples = round(self.seconds * training.settings.sample_rate)
        self.networks, self.known, scores = {}, {}, np.empty(len(training))
        for number, identity in enumerate(np.unique(training.identities)):
            own = np.flatnonzero(training.identities == identity)
            self.networks[identity] = self._network(training, own, checkpoints / identity, self.seed + number)
            self.known[identity] = self._embeddings(training, own)
            scores[own] = held_out(mahalanobis, self.known[identity])
        return scores

    def score(self, clips: Clips) -> np.ndarray:
        scores = np.empty(len(clips))
        for identity in np.unique(clips.identities):
            own = np.flatnonzero(clips.identities == identity)
            scores[own] = mahalanobis(self.known[identity], self._embeddings(clips, own))
        return scores

    def _network(self, training: Clips, own: np.ndarray, checkpoints: Path, seed: int) -> Contrastive:
        network = seeded(seed, lambda: Contrastive(self.width))

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in shuffled(len(own), BATCH_SIZE, rng):
                starts = random_windows(training.samples[own[chosen]], self.samples, rng)
                waveforms = training.waveform_pieces(own[chosen], starts, self.samples)
                classes = rng.integers(0, len(TRANSFORMATIONS), 2 * len(chosen))
                spectrograms = [
                    transformed(waveform, TRANSFORMATIONS[which], self.front_end, rng)
                    for waveform, which in zip([*waveforms, *waveforms], classes, strict=True)
                ]
                views = training.standardised(np.stack(spectrograms)).astype(np.float32)
                yield torch.from_numpy(views), torch.from_numpy(classes)

        def loss(views: Tensor, classes: Tensor) -> Tensor:
            hidden = network(views)
            apart = nt_xent(*network.projection(hidden).chunk(2))
            return apart + CLASSIFICATION * F.cross_entropy(network.transformation(hidden), classes)

        fit(
            network,
            loss,
            batches,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=seed,
            checkpoints=checkpoints,
        )
        return network

    @torch.inference_mode()
    def _embeddings(self, clips: Clips, chosen: np.ndarray) -> np.ndarray:
        """The networks' outputs for `chosen`, clips of one identity, each the mean over its windows: (N, 8 width)."""
        network, found = self.networks[clips.identities[chosen[0]]], []
        for clip in chosen:
            starts = cover(clips.samples[clip], self.samples)
            waveforms = torch.from_numpy(clips.waveform_pieces(np.full(len(starts), clip), starts, self.samples))
            spectrograms = clips.standardised(log_mel(waveforms, self.front_end).numpy())
            found.append(network(torch.from_numpy(spectrograms).to(device())).mean(dim=0).cpu().numpy())
        return np.stack(found)

    @property
    def parameters(self) -> int:
        return sum(parameters_of(network) for network in self.networks.values())
