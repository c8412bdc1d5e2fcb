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

    Neighbouring mel bins are averaged into a band. Its Fourier transform is taken over segments of SEGMENT frames that
    overlap by half, under a Hann window (Welch 1967); the magnitudes are averaged over the segments and within each
    group of neighbouring rates, and their logarithm is taken. The mean and the standard deviation of the bands over
    time stand beside them.
    """

    BANDS, RATES, SEGMENT = 16, 16, 64
    cosine: Tensor
    sine: Tensor

    def __init__(self, frames: int):
        super().__init__()
        self.segment = min(self.SEGMENT, frames)
        time = torch.arange(self.segment, dtype=torch.float64)[:, None]
        rates = torch.arange(1, self.segment // 2 + 1, dtype=torch.float64)  # cycles in a segment
        angle = 2 * math.pi / self.segment * time * rates  # (segment, rates)
        hann = torch.hann_window(self.segment, dtype=torch.float64)[:, None]
        self.register_buffer("cosine", (hann * angle.cos()).float(), persistent=False)
        self.register_buffer("sine", (hann * angle.sin()).float(), persistent=False)

    def forward(self, spectrogram: Tensor) -> Tensor:
        """(B, F, M) in dB -> (B, BANDS (RATES + 2)), fewer for few mel bins or frames."""
        bands = _averaged(spectrogram, self.BANDS)  # (B, F, BANDS)
        starts = range(0, spectrogram.shape[1] - self.segment + 1, max(self.segment // 2, 1))
        segments = torch.stack([bands[:, start : start + self.segment] for start in starts], dim=1)
        centred = (segments - segments.mean(dim=2, keepdim=True)).transpose(2, 3)  # (B, segments, BANDS, segment)
        magnitude = ((centred @ self.cosine).square() + (centred @ self.sine).square() + 1e-6).sqrt().mean(dim=1)
        rates = _averaged(magnitude, self.RATES).log().flatten(1)  # (B, BANDS, rates) -> (B, BANDS RATES)
        return torch.cat([rates, bands.mean(dim=1), _deviation(bands)], dim=1)


def _averaged(x: Tensor, groups: int) -> Tensor:
    """The last axis (n) in `groups` groups of neighbours, or n if that is fewer, each its mean: (..., groups)."""
    n = x.shape[-1]
    groups = min(groups, n)
    edges = [round(group * n / groups) for group in range(groups + 1)]
    return torch.stack([x[..., a:b].mean(dim=-1) for a, b in pairwise(edges)], dim=-1)


def _deviation(x: Tensor) -> Tensor:
    """Standard deviation over time: (B, F, C) -> (B, C)."""
    return (x - x.mean(dim=1, keepdim=True)).square().mean(dim=1).sqrt()
