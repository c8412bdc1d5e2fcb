"""Statistics of a log-mel spectrogram that need no training: what a network must add to.

Modules of matrix products and means, so that they travel into an ONNX graph; they see spectrograms in dB, filled to the
networks' length, with their level kept or removed (`audio.scale.Scale`). B windows, F frames, M mel bins.
"""

import math
from itertools import pairwise

import torch
from torch import Tensor, nn


class MomentStatistics(nn.Module):
    """Mean, standard deviation, and standard deviation of the frame-to-frame differences of each mel bin over time."""

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, F, M) in dB -> (B, 3 M), dB."""
        steps = spectrogram[:, 1:] - spectrogram[:, :-1]
        return torch.cat([spectrogram.mean(dim=1), _deviation(spectrogram), _deviation(steps)], dim=1)


class ModulationStatistics(nn.Module):
    """How fast the level of each of BANDS bands goes up and down: their modulation spectrum in RATES groups of rates.

    Neighbouring mel bins are averaged into a band; the magnitudes of its Fourier transform over time are averaged
    within each group of neighbouring rates, and their logarithm is taken. The mean and the standard deviation of the
    bands over time stand beside them.
    """

    BANDS, RATES = 16, 16
    cosine: Tensor
    sine: Tensor

    def __init__(self, frames: int):
        super().__init__()
        rates = torch.arange(1, frames // 2 + 1, dtype=torch.float64)  # cycles in the window
        angle = 2 * math.pi / frames * torch.arange(frames, dtype=torch.float64)[:, None] * rates  # (F, rates)
        self.register_buffer("cosine", angle.cos().float(), persistent=False)
        self.register_buffer("sine", angle.sin().float(), persistent=False)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, F, M) in dB -> (B, BANDS (RATES + 2))."""
        bands = _averaged(spectrogram, self.BANDS)  # (B, F, BANDS)
        centred = (bands - bands.mean(dim=1, keepdim=True)).transpose(1, 2)  # (B, BANDS, F)
        magnitude = ((centred @ self.cosine).square() + (centred @ self.sine).square() + 1e-6).sqrt()
        rates = _averaged(magnitude, self.RATES).log().flatten(1)  # (B, BANDS, RATES) -> (B, BANDS RATES)
        return torch.cat([rates, bands.mean(dim=1), _deviation(bands)], dim=1)


def _averaged(x: Tensor, groups: int) -> Tensor:
    """The last axis (n) in `groups` groups of neighbours, each its mean: (..., groups)."""
    n = x.shape[-1]
    edges = [round(group * n / groups) for group in range(groups + 1)]
    return torch.stack([x[..., a:b].mean(dim=-1) for a, b in pairwise(edges)], dim=-1)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation over time: (B, F, C) -> (B, C)."""
    return (x - x.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
