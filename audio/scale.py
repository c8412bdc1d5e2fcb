"""From a log-mel spectrogram in dB to what networks and statistics see: filled to their length, and standardised."""

from dataclasses import dataclass

import torch
from torch import Tensor

LEVELS = ("keep", "remove")


def fill(spectrogram: Tensor, frames: int) -> Tensor:
    """A spectrogram (f, M) with f <= frames, repeated from its start until it has `frames`: (frames, M).

    A machine's sound goes on; padding would be a silence that it never makes.
    """
    length = spectrogram.shape[0]
    if not 0 < length <= frames:
        raise ValueError(f"{length} frames do not fit into {frames}: take a crop or windows of them")
    return spectrogram if length == frames else spectrogram[torch.arange(frames) % length]


@dataclass(frozen=True)
class Scale:
    """How spectrograms are standardised; the three values travel with a network.

    `level`: remove takes each spectrogram's own mean (dB) away, since the level of a recording is the microphone's as
    much as the machine's; keep, the paper's reading, leaves it. `mean` and `std` (dB) are of the training normals; with
    remove, `mean` is 0 and `std` that of the values within a clip.

    A change of gain shifts every value by the same number of dB, and so is taken out whole. Not so where bins fall to
    the front end's floor, or samples are clipped. Digital silence is that floor: a clip that is silent in part has a
    lower mean, and its sound stands further above it.
    """

    level: str
    mean: float
    std: float

    def __post_init__(self):
        if self.level not in LEVELS:
            raise ValueError(f"level is {self.level!r}, allowed are {' and '.join(LEVELS)}")
        if not self.std > 0:
            raise ValueError(f"the standard deviation of the training normals is {self.std} dB: it must be positive")

    def without_level(self, spectrogram: Tensor) -> Tensor:
        """Spectrograms (..., F, M) in dB -> float32, each without its mean where the level is removed."""
        spectrogram = spectrogram.float()
        if self.level == "keep":
            return spectrogram
        return spectrogram - spectrogram.mean(dim=(-2, -1), keepdim=True)

    def __call__(self, spectrogram: Tensor) -> Tensor:
        """Spectrograms (..., F, M) in dB -> standardised, float32."""
        return (self.without_level(spectrogram) - self.mean) / self.std
