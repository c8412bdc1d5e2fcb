"""GMADE: the density of five frames as a product over frames, each given those before it, by a masked autoencoder.

Giri et al., "Group masked autoencoder based density estimator for audio anomaly detection", DCASE 2020 Workshop, in
which a frame is a group: the masks of MADE (Germain et al. 2015) hold between frames and not between single values. The
middle frame comes last, given the four others, as in an interpolation network. Each value of a frame has a mixture of
10 Gaussians given the frames before its own. The anomaly score is the mean negative log-likelihood, in nats per value.

The paper's code and sizes are not public: order of the frames, hidden layers and training are this project's. One
network per machine type, which knows no identities; theirs was one part of an ensemble with a classifier.
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

from peers.peer import Clips
from peers.training import device, fit, seeded

FRAMES = 5
ORDER = (0, 1, 3, 4, 2)  # each frame is given those before it
COMPONENTS = 10  # of the mixture
HIDDEN = 256  # units of both layers
BATCH_SIZE = 256  # vectors
LEARNING_RATE = 1e-3  # of Adam
NARROWEST = 0.02  # standard deviation of a component, in those of the training normals' log-mel


class MaskedLinear(nn.Linear):
    """A linear layer in which `mask` (out, in) says what may be connected."""

    mask: Tensor

    def __init__(self, mask: Tensor):
        super().__init__(mask.shape[1], mask.shape[0])
        self.register_buffer("mask", mask.float())

    def forward(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight * self.mask, self.bias)


class GroupMade(nn.Module):
    """Five frames (B, 5, mels) to the negative log-likelihood of each value (B, 5, mels), given the frames before."""

    def __init__(self, mels: int):
        super().__init__()
        place = torch.tensor([ORDER.index(frame) + 1 for frame in range(FRAMES)])  # 1 to 5
        of_input, of_hidden = place.repeat_interleave(mels), torch.arange(HIDDEN) % (FRAMES - 1) + 1
        of_output = place.repeat_interleave(mels * COMPONENTS * 3)
        last = MaskedLinear(of_output[:, None] > of_hidden)
        self.layers = nn.Sequential(
            MaskedLinear(of_hidden[:, None] >= of_input),
            nn.ReLU(),
            MaskedLinear(of_hidden[:, None] >= of_hidden),
            nn.ReLU(),
            last,
        )
        with torch.no_grad():  # components that start at one place stay together
            bias = last.bias.view(-1, COMPONENTS, 3)
            bias[..., 0], bias[..., 1:] = torch.linspace(-2, 2, COMPONENTS), 0.0

    def mixtures(self, frames: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means, logarithms of standard deviations and of weights of the components: (B, 5, mels, COMPONENTS) each."""
        means, scales, weights = self.layers(frames.flatten(1)).view(*frames.shape, COMPONENTS, 3).unbind(-1)
        return means, scales.clamp(min=math.log(NARROWEST)), weights.log_softmax(dim=-1)

    def forward(self, frames: Tensor) -> Tensor:
        means, scales, weights = self.mixtures(frames)
        distances = (frames[..., None] - means) * torch.exp(-scales)
        return -torch.logsumexp(weights - scales - distances.square() / 2, dim=-1) + math.log(2 * math.pi) / 2


@dataclass
class Gmade:
    """See `peers.peer.Peer`."""

    epochs: int
    vectors: int  # drawn per epoch
    seed: int
    joint: ClassVar[bool] = False

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.network = seeded(self.seed, lambda: GroupMade(training.settings.n_mels))
        vectors = np.maximum(training.frames - FRAMES + 1, 1)  # of each clip
        ends = vectors.cumsum()

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor]]:
            drawn = rng.permutation(ends[-1])[: self.vectors]
            for chosen in np.array_split(drawn, max(1, len(drawn) // BATCH_SIZE)):
                clips = np.searchsorted(ends, chosen, side="right")
                yield (torch.from_numpy(training.log_mel_pieces(clips, chosen - (ends - vectors)[clips], FRAMES)),)

        fit(
            self.network,
            lambda frames: self.network(frames).mean(),
            batches,
            epochs=self.epochs,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            checkpoints=checkpoints,
        )
        return self.score(training)

    @torch.inference_mode()
    def score(self, clips: Clips) -> np.ndarray:
        scores = np.empty(len(clips))
        for clip in range(len(clips)):
            starts = np.arange(max(clips.frames[clip] - FRAMES + 1, 1))
            parts = [
                self.network(
                    torch.from_numpy(clips.log_mel_pieces(np.full(len(part), clip), part, FRAMES)).to(device())
                ).double()
                for part in np.array_split(starts, math.ceil(len(starts) / BATCH_SIZE))
            ]
            scores[clip] = torch.cat(parts).mean().item()
        return scores

    @property
    def parameters(self) -> int:
        layers = [layer for layer in self.network.modules() if isinstance(layer, MaskedLinear)]
        return sum(int(layer.mask.sum()) + len(layer.bias) for layer in layers)
