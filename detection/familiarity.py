"""Is this recording like the ones the detector knows? Its loudness, length and bandwidth beside theirs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import numpy as np

LOUDER = 6.0  # dB beyond the loudest or softest known recording, from which it is said
MISSING = 20.0  # dB below the least that is known of a mel bin, from which nothing is there
SHORTER = 0.9  # of the shortest known recording, below which it is said
BINS = 3  # mel bins at least that are missing at the top


@dataclass
class Facts:
    """What a spectrogram says of the recording as a whole, gathered piece by piece."""

    frames: int = 0
    total: np.ndarray = field(default_factory=lambda: np.zeros(0))  # (M,), sum over the frames, dB

    def add(self, log_mel: np.ndarray) -> None:
        """Take in a piece (f, M), dB."""
        self.total = log_mel.sum(axis=0, dtype=float) + (self.total if self.frames else 0.0)
        self.frames += len(log_mel)

    @property
    def spectrum(self) -> np.ndarray:
        """Mean over time of each mel bin (M,), dB."""
        return self.total / max(self.frames, 1)


@dataclass(frozen=True)
class Known:
    """The recordings of a machine that a detector knows, R of them."""

    spectra: np.ndarray  # (R, M), dB, see `Facts`
    frames: np.ndarray  # (R,), their lengths

    def strange(self, facts: Facts, centres: Callable[[], np.ndarray], seconds_per_frame: float) -> Iterator[str]:
        """In what a recording differs from all of these, in sentences. `centres` gives those of the bins (M,), Hz."""
        if not len(self.spectra):
            return
        # the median bin: what a codec or a lower sample rate cut off at the top makes no recording softer
        levels, level = np.median(self.spectra, axis=1), float(np.median(facts.spectrum))
        if level > levels.max() + LOUDER:
            yield f"{level - levels.max():.0f} dB louder than any healthy recording known"
        if level < levels.min() - LOUDER:
            yield f"{levels.min() - level:.0f} dB softer than any healthy recording known"
        least = (self.spectra - levels[:, None]).min(axis=0)  # (M,), re the level
        there = np.flatnonzero(facts.spectrum - level > least - MISSING)
        top = there[-1] + 1 if len(there) else 0
        if len(least) - top >= BINS:
            yield f"nothing above {centres()[min(top, len(least) - 1)] / 1000:.1f} kHz, unlike the recordings known"
        if facts.frames < SHORTER * self.frames.min():
            seconds, known = facts.frames * seconds_per_frame, self.frames.min() * seconds_per_frame
            yield (
                f"{seconds:.1f} s long, the shortest recording known has {known:.1f} s: "
                "shorter ones raise more false alarms"
            )
