"""STgram-MFN: a log-mel beside features learned from the waveform, in a MobileFaceNet that tells all identities apart.

Liu et al., "Anomalous sound detection using spectral-temporal information fusion", ICASSP 2022, and the authors'
repository (STgram-MFN). One network for all machine types: the Tgram, which convolutions make of the waveform at the
frames of the log-mel, is the second channel of the image. ArcFace with margin 0.7 and scale 30. The anomaly score is
-log p of the own identity.

Different here: the network hears windows of a length that is a param (theirs: whole clips of 10 s), in training one at
random of each clip and epoch, in scoring as many as cover the clip, whose scores are averaged; so clips may have any
length. The margin is for training alone. The log-mel is the pipeline's, standardised. The last epoch is used; theirs
picks the best on the test clips.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from audio.front_end import LogMelSettings
from peers.peer import Clips
from peers.training import cover, device, fit, log_odds_against, parameters_of, random_windows, seeded, shuffled

BOTTLENECKS = ((2, 128, 2, 2), (4, 128, 2, 2), (4, 128, 2, 2))  # expansion, channels, repeats, stride of the first
EMBEDDING = 128
MARGIN, SCALE = 0.7, 30.0  # of ArcFace
BATCH_SIZE = 16  # theirs: 128, of more clips


class Tgram(nn.Module):
    """Waveforms (B, samples) to features at the frames of the log-mel (B, mels, frames)."""

    def __init__(self, settings: LogMelSettings, frames: int):
        super().__init__()
        mels, window, hop = settings.n_mels, settings.n_fft, settings.hop_length
        self.front = nn.Conv1d(1, mels, window, hop, window // 2, bias=False)
        layers: list[nn.Module] = []
        for _ in range(3):
            layers += [nn.LayerNorm(frames), nn.LeakyReLU(0.2), nn.Conv1d(mels, mels, 3, padding=1, bias=False)]
        self.encoder = nn.Sequential(*layers)

    def forward(self, waveforms: Tensor) -> Tensor:
        return self.encoder(self.front(waveforms[:, None]))


def convolution(before: int, after: int, size: int | tuple[int, int], stride: int = 1, groups: int = 1) -> list:
    """A convolution with batch norm, padded by half its size where that is one number, not at all where it is two."""
    padding = size // 2 if isinstance(size, int) else 0
    return [nn.Conv2d(before, after, size, stride, padding, groups=groups, bias=False), nn.BatchNorm2d(after)]


class Bottleneck(nn.Module):
    """Widened, filtered channel by channel, narrowed; added to its input where both have one shape."""

    def __init__(self, before: int, after: int, stride: int, expansion: int):
        super().__init__()
        inner = before * expansion
        self.added = stride == 1 and before == after
        self.layers = nn.Sequential(
            *convolution(before, inner, 1),
            nn.PReLU(inner),
            *convolution(inner, inner, 3, stride, groups=inner),
            nn.PReLU(inner),
            *convolution(inner, after, 1),
        )

    def forward(self, x: Tensor) -> Tensor:
        return x + self.layers(x) if self.added else self.layers(x)


def mobile_face_net(channels: int, height: int, width: int) -> nn.Sequential:
    """Images (B, channels, height, width) to embeddings (B, 128)."""
    layers = [*convolution(channels, 64, 3, 2), nn.PReLU(64), *convolution(64, 64, 3, groups=64), nn.PReLU(64)]
    before = 64
    for expansion, after, repeats, stride in BOTTLENECKS:
        for place in range(repeats):
            layers.append(Bottleneck(before, after, stride if place == 0 else 1, expansion))
            before = after
    left = math.ceil(height / 16), math.ceil(width / 16)  # of the image, after four strides of 2
    layers += [*convolution(before, 512, 1), nn.PReLU(512), *convolution(512, 512, left, groups=512)]
    return nn.Sequential(*layers, *convolution(512, EMBEDDING, 1), nn.Flatten())


class STgramMFN(nn.Module):
    """Waveforms (B, samples) and their log-mel (B, frames, mels) to cosines with the identities (B, classes)."""

    def __init__(self, settings: LogMelSettings, frames: int, classes: int):
        super().__init__()
        self.tgram = Tgram(settings, frames)
        self.face = mobile_face_net(2, settings.n_mels, frames)
        self.centres = nn.Parameter(nn.init.xavier_uniform_(torch.empty(classes, EMBEDDING)))

    def forward(self, waveforms: Tensor, log_mel: Tensor) -> Tensor:
        embedding = self.face(torch.stack([log_mel.transpose(1, 2), self.tgram(waveforms)], dim=1))
        return F.normalize(embedding) @ F.normalize(self.centres).T


def arcface(cosines: Tensor, classes: Tensor) -> Tensor:
    """Logits (B, classes) of ArcFace: the angle to the own centre counts as larger by the margin.

    Beyond pi - margin, where a larger angle would count as a smaller one, the cosine falls on in a straight line.
    """
    own = cosines.gather(1, classes[:, None])
    sine = (1 - own.square()).clamp(min=1e-12).sqrt()
    turned = own * math.cos(MARGIN) - sine * math.sin(MARGIN)  # cos(angle + margin)
    straight = own - math.sin(math.pi - MARGIN) * MARGIN
    return SCALE * cosines.scatter(1, classes[:, None], torch.where(own > math.cos(math.pi - MARGIN), turned, straight))


@dataclass
class SpectralTemporal:
    """See `peers.peer.Peer`."""

    epochs: int
    seconds: float  # of a window
    learning_rate: float  # of Adam, at first; it falls to 0 by half a cosine
    seed: int
    joint: ClassVar[bool] = True

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.identities, classes = np.unique(training.identities, return_inverse=True)
        samples = round(self.seconds * training.settings.sample_rate)
        self.frames = training.settings.frames(samples)
        self.network = seeded(self.seed, lambda: STgramMFN(training.settings, self.frames, len(self.identities)))

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
            for chosen in shuffled(len(training), BATCH_SIZE, rng):
                starts = random_windows(training.frames[chosen], self.frames, rng)
                yield *self._windows(training, chosen, starts), torch.from_numpy(classes[chosen])

        def loss(waveforms: Tensor, log_mel: Tensor, labels: Tensor) -> Tensor:
            return F.cross_entropy(arcface(self.network(waveforms, log_mel), labels), labels)

        fit(
            self.network,
            loss,
            batches,
            epochs=self.epochs,
            learning_rate=self.learning_rate,
            seed=self.seed,
            checkpoints=checkpoints,
            cosine=True,
        )
        return self.score(training)

    @torch.inference_mode()
    def score(self, clips: Clips) -> np.ndarray:
        claimed = np.searchsorted(self.identities, clips.identities)
        scores = np.empty(len(clips))
        for clip in range(len(clips)):
            starts = cover(clips.frames[clip], self.frames)
            windows = self._windows(clips, np.full(len(starts), clip), starts)
            logits = SCALE * self.network(*(part.to(device()) for part in windows)).cpu().numpy()
            odds = log_odds_against(logits, np.full(len(starts), claimed[clip]))
            scores[clip] = np.logaddexp(0.0, odds).mean() if len(self.identities) > 1 else 0.0  # -log p
        return scores

    def _windows(self, clips: Clips, chosen: np.ndarray, starts: np.ndarray) -> tuple[Tensor, Tensor]:
        """Waveforms (B, samples) and log-mel (B, frames, mels) of `chosen` (B,) from their frames `starts` (B,) on."""
        samples = round(self.seconds * clips.settings.sample_rate)
        waveforms = clips.waveform_pieces(chosen, starts * clips.settings.hop_length, samples)
        return torch.from_numpy(waveforms), torch.from_numpy(clips.log_mel_pieces(chosen, starts, self.frames))

    @property
    def parameters(self) -> int:
        return parameters_of(self.network)
