"""The choices of the detector's front end; what computes it is `audio.logmel`, or a graph that was traced from it."""

import math
from dataclasses import dataclass

WHOLE = {  # the settings that are whole numbers, with their least and greatest values
    "sample_rate": (8000, 192_000),
    "n_fft": (2, 65_536),
    "hop_length": (1, 65_536),
    "n_mels": (1, 4096),
}


@dataclass(frozen=True)
class LogMelSettings:
    """The detector's front end. The defaults are the paper's where it names them, ours elsewhere.

    Raises ValueError naming a value that is beyond what is allowed.
    """

    sample_rate: int = 16000  # Hz
    n_fft: int = 1024  # samples, also the window's length
    hop_length: int = 512  # samples
    n_mels: int = 128
    f_min: float = 50.0  # Hz
    f_max: float = 8000.0  # Hz
    amin: float = 1e-10  # floor of the mel power before the logarithm: -100 dB

    def __post_init__(self):
        for name, (low, high) in WHOLE.items():
            value = getattr(self, name)
            if type(value) is not int or not low <= value <= high:
                raise ValueError(f"{name} is {value!r}, allowed are whole numbers from {low} to {high}")
        for name in ("f_min", "f_max", "amin"):
            if type(getattr(self, name)) not in (int, float):
                raise ValueError(f"{name} is {getattr(self, name)!r}, allowed are numbers")
        if not 0 <= self.f_min < self.f_max <= self.sample_rate / 2:
            raise ValueError(
                f"f_min {self.f_min} and f_max {self.f_max} must ascend from 0 and stay below "
                f"half the sample rate, {self.sample_rate / 2:g}"
            )
        if not 0 < self.amin < math.inf:
            raise ValueError(f"amin is {self.amin}, it must be positive")

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform of `samples` samples (frames are centred)."""
        return samples // self.hop_length + 1

    def whole_frames(self, samples: int) -> int:
        """Number of frames that lie within a waveform of `samples` samples."""
        return max(0, (samples - self.n_fft) // self.hop_length + 1)

    def samples(self, frames: int) -> int:
        """Number of samples that `frames` frames reach over."""
        return (frames - 1) * self.hop_length + self.n_fft
