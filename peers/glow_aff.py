"""Glow_Aff: a normalising flow per machine type, whose likelihood is high for the own identity and low for the others.

Dohi et al., "Flow-based self-supervised density estimation for anomalous sound detection", ICASSP 2021: Glow (Kingma
and Dhariwal 2018) with affine couplings on pieces of 32 frames of the log-mel; clips of the other machines of the type
are outliers in training, whose likelihood is lowered. The anomaly score is the mean negative log-likelihood of a clip's
pieces, in nats per value.

Different here: theirs is a flow for each identity; here the type's identities share one, and an identity is a Gaussian
of its own, scaled and shifted channel by channel, in the space that the flow maps to. An outlier costs as much as its
likelihood under the claimed identity comes near to that under its own, up to a margin. Three levels of four steps with
couplings of 32 channels are this project's sizes.
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
from peers.training import cover, device, fit, parameters_of, random_windows, seeded

FRAMES = 32  # of a piece
LEVELS, STEPS = 3, 4  # each level halves height and width and, but for the last, sets half of the values apart
HIDDEN = 32  # channels in a coupling
MARGIN = 0.5  # nats per value between the likelihoods of own and claimed identity
BATCH_SIZE = 32
LEARNING_RATE = 1e-3  # of Adam


class Step(nn.Module):
    """A step of Glow on (B, C, H, W): channels scaled and shifted, mixed, and half of them changed given the others."""

    def __init__(self, channels: int):
        super().__init__()
        self.shift = nn.Parameter(torch.zeros(channels, 1, 1))
        self.log_scale = nn.Parameter(torch.zeros(channels, 1, 1))
        self.mixing = nn.Parameter(nn.init.orthogonal_(torch.empty(channels, channels)))
        last = nn.Conv2d(HIDDEN, channels, 3, padding=1)
        for weights in last.parameters():  # at first a coupling changes nothing
            nn.init.zeros_(weights)
        self.coupling = nn.Sequential(
            nn.Conv2d(channels // 2, HIDDEN, 3, padding=1), nn.ReLU(), nn.Conv2d(HIDDEN, HIDDEN, 1), nn.ReLU(), last
        )

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What x becomes, and the logarithm of the volume's change (B,)."""
        places = x.shape[2] * x.shape[3]
        x = (x + self.shift) * self.log_scale.exp()
        x = F.conv2d(x, self.mixing[:, :, None, None])
        given, changed = x.chunk(2, dim=1)
        shift, scale = self.coupling(given).chunk(2, dim=1)
        scale = torch.tanh(scale)  # between 1/e and e
        volume = places * (self.log_scale.sum() + torch.linalg.slogdet(self.mixing).logabsdet)
        return torch.cat([given, (changed + shift) * scale.exp()], dim=1), volume + scale.sum(dim=(1, 2, 3))


class Glow(nn.Module):
    """Pieces (B, frames, mels) to their log-likelihood under each identity (B, identities), in nats per value."""

    def __init__(self, identities: int):
        super().__init__()
        self.steps, self.affine = nn.ModuleList(), nn.ParameterList()
        channels = 1
        for level in range(LEVELS):
            channels *= 4
            self.steps.extend(Step(channels) for _ in range(STEPS))
            apart = channels if level == LEVELS - 1 else channels // 2
            self.affine.append(nn.Parameter(0.01 * torch.randn(identities, 2, apart)))  # means and log scales
            channels = apart

    def latents(self, pieces: Tensor) -> tuple[list[Tensor], Tensor]:
        """The parts (B, C, H, W) of what the flow maps pieces to, and the logarithm of the volume's change (B,)."""
        x, parts, volume = pieces[:, None], [], pieces.new_zeros(len(pieces))
        for level in range(LEVELS):
            x = F.pixel_unshuffle(x, 2)
            for step in self.steps[level * STEPS : (level + 1) * STEPS]:
                x, change = step(x)
                volume = volume + change
            if level < LEVELS - 1:
                x, part = x.chunk(2, dim=1)
                parts.append(part)
        return [*parts, x], volume

    def forward(self, pieces: Tensor) -> Tensor:
        parts, volume = self.latents(pieces)
        total = volume[:, None]
        for part, affine in zip(parts, self.affine, strict=True):
            mean, log_scale = affine[None, :, :, :, None, None].unbind(2)  # (1, identities, C, 1, 1)
            squares = ((part[:, None] - mean) * torch.exp(-log_scale)).square()  # (B, identities, C, H, W)
            total = total - (squares / 2 + log_scale + math.log(2 * math.pi) / 2).sum(dim=(2, 3, 4))
        return total / pieces[0].numel()


@dataclass
class GlowAff:
    """See `peers.peer.Peer`."""

    epochs: int
    pieces: int  # drawn per epoch
    seed: int
    joint: ClassVar[bool] = False

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        self.identities, classes = np.unique(training.identities, return_inverse=True)
        self.network = seeded(self.seed, lambda: Glow(len(self.identities)))

        def batches(rng: np.random.Generator) -> Iterator[tuple[Tensor, Tensor]]:
            # clips take turns, long and short ones alike
            drawn = np.concatenate(
                [rng.permutation(len(training)) for _ in range(math.ceil(self.pieces / len(training)))]
            )
            for chosen in np.array_split(drawn[: self.pieces], max(1, self.pieces // BATCH_SIZE)):
                starts = random_windows(training.frames[chosen], FRAMES, rng)
                yield self._pieces(training, chosen, starts), torch.from_numpy(classes[chosen])

        def loss(pieces: Tensor, labels: Tensor) -> Tensor:
            likelihoods = self.network(pieces)
            own = likelihoods.gather(1, labels[:, None])
            others = torch.ones_like(likelihoods).scatter(1, labels[:, None], 0.0)
            outliers = F.relu(likelihoods - own + MARGIN) * others
            return outliers.sum() / others.sum().clamp(min=1) - own.mean()

        fit(
            self.network,
            loss,
            batches,
            epochs=self.epochs,
            learning_rate=LEARNING_RATE,
            seed=self.seed,
            checkpoints=checkpoints,
        )
        return self.score(training)

    @torch.inference_mode()
    def score(self, clips: Clips) -> np.ndarray:
        claimed = np.searchsorted(self.identities, clips.identities)
        scores = np.empty(len(clips))
        for clip in range(len(clips)):
            starts = cover(clips.frames[clip], FRAMES)
            pieces = self._pieces(clips, np.full(len(starts), clip), starts)
            scores[clip] = -self.network(pieces.to(device()))[:, claimed[clip]].double().mean().item()
        return scores

    @staticmethod
    def _pieces(clips: Clips, chosen: np.ndarray, starts: np.ndarray) -> Tensor:
        mels = clips.settings.n_mels // 2**LEVELS * 2**LEVELS  # as many as can be halved at every level
        return torch.from_numpy(clips.log_mel_pieces(chosen, starts, FRAMES)[:, :, :mels])

    @property
    def parameters(self) -> int:
        return parameters_of(self.network)
