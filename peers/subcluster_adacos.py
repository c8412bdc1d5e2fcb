"""A sub-cluster AdaCos classifier over several spectra of a clip, with a nearest neighbour by local density behind it.

What does best on the field's corpora without pretrained weights: Wilkinghoff, "Sub-cluster AdaCos: learning
representations for anomalous sound detection", IJCNN 2021, and "Design choices for learning embeddings from auxiliary
tasks", ICASSP 2023 (a spectrum beside a spectrogram, centres that stay where they were drawn, mixup); Fujimura et al.,
"Improvements of discriminative feature space training", ICASSP 2025, and their dcase-asd-toolkit (spectrograms of
several resolutions); Wilkinghoff et al., "Keeping the balance: anomaly score calculation for domain generalization",
ICASSP 2025 (distances relative to how dense the training clips lie).

One network for all machine types tells their identities apart. A branch for the magnitude spectrum and one for each of
three spectrograms give 128 numbers each. A clip's anomaly score is the least cosine distance, in proportion to the
neighbourhood's own, of its embedding to those of its identity's training normals.

Different here: windows of a length that is a param (theirs: whole clips), in training one at random of each clip and
epoch, in scoring as many as cover the clip, whose embeddings are averaged; branches without squeeze-and-excitation, and
for the spectrum fewer layers. Training normals are scored by a neighbourhood without them; the network saw them.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from peers.peer import Clips
from peers.training import cover, device, fit, held_out, parameters_of, random_windows, seeded, shuffled

RESOLUTIONS = (256, 1024, 4096)  # window of each spectrogram (samples); half of it from frame to frame
EMBEDDING = 128  # of each branch
SUBCLUSTERS = 16  # centres of an identity
NEIGHBOURS = 16  # that say how dense a training clip lies
BATCH_SIZE = 16
LEARNING_RATE = 1e-3  # of Adam


class Spectrum(nn.Sequential):
    """Waveforms (B, samples) to embeddings (B, 128), through the magnitudes of all their samples' Fourier transform."""

    def __init__(self, samples: int):
        convolutions, bins = [], samples // 2 + 1
        for before, size, stride in ((1, 256, 64), (EMBEDDING, 16, 4), (EMBEDDING, 16, 4)):
            convolutions += [nn.Conv1d(before, EMBEDDING, size, stride, size // 2, bias=False), nn.ReLU()]
            bins = bins // stride + 1
        super().__init__(
            *convolutions,
            nn.Flatten(),
            nn.Linear(bins * EMBEDDING, EMBEDDING, bias=False),
            nn.BatchNorm1d(EMBEDDING),
            nn.ReLU(),
            nn.Linear(EMBEDDING, EMBEDDING, bias=False),
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        return super().forward(torch.fft.rfft(waveforms).abs()[:, None])


class Block(nn.Module):
    """Two convolutions with a way past them, normalised before."""

    def __init__(self, before: int, after: int, stride: int):
        super().__init__()
        self.norm = nn.BatchNorm2d(before)
        self.layers = nn.Sequential(
            nn.ReLU(),
            nn.Conv2d(before, after, 3, stride, 1, bias=False),
            nn.BatchNorm2d(after),
            nn.ReLU(),
            nn.Conv2d(after, after, 3, 1, 1, bias=False),
        )
        past = [nn.MaxPool2d(3, stride, 1), nn.Conv2d(before, after, 1, bias=False)] if stride > 1 else []
        self.past = nn.Sequential(*past)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x)
        return self.layers(x) + self.past(x)


class Spectrogram(nn.Module):
    """Waveforms (B, samples) to embeddings (B, 128), through a spectrogram of windows of `size` samples."""

    window: Tensor

    def __init__(self, size: int):
        super().__init__()
        self.register_buffer("window", torch.hann_window(size))
        self.norm = nn.BatchNorm1d(size // 2 + 1)
        width = EMBEDDING // 8
        stem = [nn.Conv2d(1, width, 7, 2, 3, bias=False), nn.BatchNorm2d(width), nn.ReLU(), nn.MaxPool2d(3, 2, 1)]
        blocks, before, bins = [], width, size // 2 + 1
        for after, stride in ((width, 1), (2 * width, 2), (4 * width, 2), (8 * width, 2)):
            blocks += [Block(before, after, stride), Block(after, after, 1)]
            before = after
        for _ in range(5):  # strides of 2
            bins = (bins + 1) // 2
        self.layers = nn.Sequential(*stem, *blocks)
        self.embed = nn.Sequential(
            nn.Flatten(), nn.BatchNorm1d(bins * EMBEDDING), nn.Linear(bins * EMBEDDING, EMBEDDING, bias=False)
        )

    def forward(self, waveforms: Tensor) -> Tensor:
        size = len(self.window)
        x = torch.stft(waveforms, size, size // 2, window=self.window, return_complex=True).abs()  # (B, bins, frames)
        return self.embed(self.layers(self.norm(x)[:, None]).amax(dim=-1))


class SubclusterAdaCos(nn.Module):
    """The loss of embeddings whose identity is known, or mixed of two.

    Logits are cosines with fixed centres, SUBCLUSTERS of them for each identity, times a scale that follows the
    training (equations 6 and 7 of AdaCos, Zhang et al. 2019): the larger the angles to the own centres still are, the
    smaller it is.
    """

    centres: Tensor
    scale: Tensor

    def __init__(self, identities: int):
        super().__init__()
        centres = F.normalize(torch.randn(identities * SUBCLUSTERS, EMBEDDING * (1 + len(RESOLUTIONS))))
        self.register_buffer("centres", centres)
        self.register_buffer("scale", torch.tensor(math.sqrt(2) * math.log(identities * SUBCLUSTERS - 1)))

    def forward(self, embeddings: Tensor, shares: Tensor) -> Tensor:
        """`embeddings` (B, D); `shares` (B, identities) say which identities they are of, and sum to 1."""
        cosines = F.normalize(embeddings) @ self.centres.T  # (B, identities SUBCLUSTERS)
        if self.training:
            self._follow(cosines.detach(), shares)
        log_p = F.log_softmax(self.scale * cosines, dim=1)
        return -(shares * log_p.view(*shares.shape, SUBCLUSTERS).logsumexp(dim=2)).sum(dim=1).mean()

    @torch.no_grad()
    def _follow(self, cosines: Tensor, shares: Tensor) -> None:
        angles = cosines.clamp(-1 + 1e-7, 1 - 1e-7).acos().view(*shares.shape, SUBCLUSTERS).mean(dim=2)
        median = (shares * angles).sum(dim=1).median().clamp(max=math.pi / 4)
        total = torch.logsumexp(self.scale * cosines, dim=1)  # of exp(scale cosine), for each embedding
        self.scale.copy_((torch.logsumexp(total, dim=0) - math.log(len(total))) / median.cos())


class Classifier(nn.Module):
    """Waveforms (B, samples) to embeddings (B, 512), and their loss."""

    def __init__(self, samples: int, identities: int):
        super().__init__()
        self.branches = nn.ModuleList([Spectrum(samples), *map(Spectrogram, RESOLUTIONS)])
        self.loss = SubclusterAdaCos(identities)

    def forward(self, waveforms: Tensor) -> Tensor:
        return torch.cat([branch(waveforms) for branch in self.branches], dim=1)


def relative_distance(known: np.ndarray, asked: np.ndarray) -> np.ndarray:
    """Distances (N,) of `asked` (N, D) to `known` (M, D): the least of the cosine distances to a known clip, each over
    that clip's own mean distance to the NEIGHBOURS nearest of the others."""
    known, asked = (each / np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-12) for each in (known, asked))
    between = np.sort(1 - known @ known.T, axis=1)[:, 1 : NEIGHBOURS + 1]  # the first is the clip itself
    spread = np.maximum(between.mean(axis=1), 1e-4) if len(known) > 1 else np.ones(1)
    return (np.maximum(1 - asked @ known.T, 0) / spread).min(axis=1)


@dataclass
class MultiResolution:
    """See `peers.peer.Peer`."""

    epochs: int
    seconds: float  # of a window
    seed: int
    joint: ClassVar[bool] = True

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.identities, classes = np.unique(training.identities, return_inverse=True)
        self.samples = round(self.seconds * training.settings.sample_rate)
        self.network = seeded(self.seed, lambda: Classifier(self.samples, len(self.identities)))

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            for chosen in shuffled(len(training), BATCH_SIZE, rng):
                starts = random_windows(training.samples[chosen], self.samples, rng)
                waveforms = training.waveform_pieces(chosen, starts, self.samples)
                shares = np.eye(len(self.identities), dtype=np.float32)[classes[chosen]]
                # mixup: half of the windows with another of the batch
                partner, share = rng.permutation(len(chosen)), rng.uniform(size=(len(chosen), 1)).astype(np.float32)
                share[rng.random(len(chosen)) < 0.5] = 1.0
                mixed = [share * part + (1 - share) * part[partner] for part in (waveforms, shares)]
                yield torch.from_numpy(mixed[0]), torch.from_numpy(mixed[1])

        fit(
            self.network,
            lambda waveforms, shares: self.network.loss(self.network(waveforms), shares),
            batches,
            epochs=self.epochs,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            checkpoints=checkpoints,
        )
        self.known, self.known_identities = self._embeddings(training), training.identities
        return self._by_identity(training, lambda own, _: held_out(relative_distance, self.known[own]))

    def score(self, clips: Clips) -> np.ndarray:
        asked = self._embeddings(clips)
        return self._by_identity(
            clips,
            lambda own, identity: relative_distance(self.known[self.known_identities == identity], asked[own]),
        )

    @staticmethod
    def _by_identity(clips: Clips, scores_of: Callable[[np.ndarray, str], np.ndarray]) -> np.ndarray:
        scores = np.empty(len(clips))
        for identity in np.unique(clips.identities):
            own = clips.identities == identity
            scores[own] = scores_of(own, identity)
        return scores

    @torch.inference_mode()
    def _embeddings(self, clips: Clips) -> np.ndarray:
        """Embeddings (N, 512), each the mean over a clip's windows."""
        found = []
        for clip in range(len(clips)):
            starts = cover(clips.samples[clip], self.samples)
            waveforms = torch.from_numpy(clips.waveform_pieces(np.full(len(starts), clip), starts, self.samples))
            found.append(F.normalize(self.network(waveforms.to(device()))).mean(dim=0).cpu().numpy())
        return np.stack(found).astype(float)

    @property
    def parameters(self) -> int:
        return parameters_of(self.network)
