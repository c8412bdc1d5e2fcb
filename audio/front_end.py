"""The choices of the detector's front end; what computes it is `audio.logmel`, or a graph that was traced from it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class LogMelSettings:
    """The detector's front end. The defaults are the paper's where it names them, ours elsewhere."""

    sample_rate: int = 16000  # Hz
    n_fft: int = 1024  # samples, also the window's length
    hop_length: int = 512  # samples
    n_mels: int = 128
    f_min: float = 50.0  # Hz
    f_max: float = 8000.0  # Hz
    amin: float = 1e-10  # floor of the mel power before the logarithm: -100 dB

    def frames(self, samples: int) -> int:
        """Number of frames of a waveform of `samples` samples (frames are centred)."""
        return samples // self.hop_length + 1

    def whole_frames(self, samples: int) -> int:
        """Number of frames that lie within a waveform of `samples` samples."""
        return max(0, (samples - self.n_fft) // self.hop_length + 1)

    def samples(self, frames: int) -> int:
        """Number of samples that `frames` frames reach over."""
        return (frames - 1) * self.hop_length + self.n_fft
