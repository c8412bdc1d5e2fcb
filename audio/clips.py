"""Reading and writing clips: any sound file in, 16 kHz mono FLAC out."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import soundfile
import soxr

from audio.decoding import Stream, decode
from storage.files import whole_file
from storage.shards import File

SAMPLE_RATE = 16000  # Hz, of everything below data/
# Names by which recordings are looked for in folders; a file that is named singly may be called anything.
AUDIO_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".aif", ".aiff", ".aifc", ".caf", ".au", ".snd"),
    *(".flac", ".ogg", ".oga", ".opus", ".mp3"),
    *(".m4a", ".m4b", ".aac", ".mp4", ".mov", ".3gp", ".webm", ".mka", ".mkv", ".wma", ".asf", ".amr"),
)
RATES = (1_000, 1_000_000)  # Hz, of a recording; what is beyond comes from a damaged header and would fill the memory
LONGEST = 24 * 3600  # s, of a recording unless another limit is given
SHORTEST_SECONDS = 0.95  # of a recording: a second, and what a recorder may leave off it
SILENCE = 2.0**-22  # range of the samples of digital silence, or of a constant: one step of 24 bit up or down
LOUDEST = 100  # peak re full scale of a float file; what is beyond was not scaled to 1
FULL_SCALE = 0.99  # from here on, a value that is repeated is clipped
CLIPPED_RUN = 3  # equal samples at full scale that are no coincidence
CLIPPED_SHARE = 0.001  # of the samples, from which a recording gets a warning


class Sound:
    """One channel of an open sound file, and what is to be said of it once its blocks have been read.

    >>> with open_sound(path) as sound:
    ...     seconds = sum(map(len, sound.blocks())) / SAMPLE_RATE
    >>> sound.warnings
    ['0.4 % of the samples are clipped']
    """

    def __init__(self, path: File, stream: Stream, channel: int, longest: float):
        if channel >= stream.channels:
            raise ValueError(f"{path}: no channel {channel}, it has {stream.channels} (counted from 0)")
        if not RATES[0] <= stream.sample_rate <= RATES[1]:
            raise ValueError(f"{path}: sample rate of {stream.sample_rate} Hz, allowed are {RATES[0]} to {RATES[1]}")
        self.path, self.channel, self.longest = path, channel, longest
        self.sample_rate = stream.sample_rate  # Hz, of the file
        self.channels = stream.channels
        self.bits = stream.bits  # 16 if no sample has more, else 24
        self.seconds = stream.seconds  # that the header states, None if it does not
        self.peak = 0.0  # re full scale
        self._stream = stream
        self._samples = self._clipped = 0
        self._low = np.full(stream.channels, np.inf)
        self._high = np.full(stream.channels, -np.inf)
        self._last = np.zeros(0, np.float32)  # samples before the block, for runs that go across
        self._check_length(stream.seconds or 0)

    @property
    def clipped(self) -> float:
        """Share of the samples read so far that stand in a run of CLIPPED_RUN or more equal ones at full scale."""
        return self._clipped / self._samples if self._samples else 0.0

    @property
    def warnings(self) -> list[str]:
        """What a user should know of the recording; complete when all blocks have been read."""
        found = list(self._stream.warnings)
        if self._stream.truncated:
            found.append(f"truncated, {self._stream.truncated}: read as far as it goes")
        if self.peak > 1:
            found.append(f"peak of {self.peak:.3g} beyond full scale, 1")
        if self.clipped >= CLIPPED_SHARE:
            found.append(f"{100 * self.clipped:.3g} % of the samples are clipped")
        return found

    def blocks(self, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
        """The waveform at `sample_rate` Hz, block by block: float32 of shape (samples,), full scale 1.

        Raises ValueError naming the file if it cannot be decoded, is truncated to less than SHORTEST_SECONDS, is
        longer than allowed, has values that are not finite or above LOUDEST, or silence in this channel alone.
        """
        resample = soxr.ResampleStream(self.sample_rate, sample_rate, 1) if self.sample_rate != sample_rate else None
        for block in self._stream.blocks:
            self._measure(block)
            waveform = np.ascontiguousarray(block[:, self.channel])  # (samples,)
            yield resample.resample_chunk(waveform) if resample else waveform
        self._check_end()
        if resample:
            yield resample.resample_chunk(np.zeros(0, np.float32), last=True)

    def _measure(self, block: np.ndarray) -> None:
        waveform = block[:, self.channel]
        if not np.isfinite(waveform).all():
            raise ValueError(f"{self.path}: samples that are not finite")
        self.peak = max(self.peak, float(np.abs(waveform).max(initial=0.0)))
        if self.peak > LOUDEST:
            raise ValueError(
                f"{self.path}: peak of {self.peak:g}, not scaled to 1: beyond full scale by more than 40 dB"
            )
        self._low = np.minimum(self._low, block.min(axis=0, initial=np.inf))
        self._high = np.maximum(self._high, block.max(axis=0, initial=-np.inf))
        self._samples += len(waveform)
        self._check_length(self._samples / self.sample_rate)
        joined = np.concatenate([self._last, waveform])
        self._clipped += _clipped(joined) - _clipped(self._last)
        self._last = joined[-CLIPPED_RUN:]

    def _check_length(self, seconds: float) -> None:
        if seconds > self.longest:
            most = f"{self.longest / 3600:.4g} h" if self.longest >= 3600 else f"{self.longest:.4g} s"
            raise ValueError(f"{self.path}: longer than {most}, the most that is allowed")

    def _check_end(self) -> None:
        seconds = self._samples / self.sample_rate
        if self._stream.truncated and seconds < SHORTEST_SECONDS:
            raise ValueError(f"{self.path}: truncated, {self._stream.truncated}: {seconds:.3g} s of sound")
        heard = np.flatnonzero(self._high - self._low > SILENCE)
        if len(heard) and self.channel not in heard:
            others = ", ".join(map(str, heard))
            raise ValueError(f"{self.path}: channel {self.channel} is silent, there is sound in channel {others}")


def _clipped(waveform: np.ndarray) -> int:
    """Number of samples in runs of CLIPPED_RUN or more equal ones at full scale."""
    repeats = (np.abs(waveform[1:]) >= FULL_SCALE) & (waveform[1:] == waveform[:-1])
    edges = np.flatnonzero(np.diff(np.concatenate([[False], repeats, [False]]).astype(np.int8)))
    lengths = np.diff(edges)[::2] + 1  # of all runs
    return int(lengths[lengths >= CLIPPED_RUN].sum())


@contextmanager
def open_sound(path: File, channel: int = 0, longest: float = LONGEST) -> Iterator[Sound]:
    """Open a recording of at most `longest` seconds to read one of its channels.

    Raises ValueError naming the file if it is no sound file, has no such channel, a sample rate beyond RATES, or states
    that it is longer.
    """
    with decode(path) as stream:
        yield Sound(path, stream, channel, longest)


def read_blocks(
    path: File, channel: int = 0, sample_rate: int = SAMPLE_RATE, longest: float = LONGEST
) -> Iterator[np.ndarray]:
    """One channel of a recording at `sample_rate` Hz, block by block: float32 of shape (samples,), full scale 1.

    The blocks together are what `read_clip` gives. Raises ValueError as `open_sound` and `Sound.blocks` do.
    """
    with open_sound(path, channel, longest) as sound:
        yield from sound.blocks(sample_rate)


def read_clip(path: File, channel: int = 0, sample_rate: int = SAMPLE_RATE) -> np.ndarray:
    """One channel of a clip, resampled to `sample_rate` Hz: float32 of shape (samples,), full scale 1.

    Raises ValueError as `read_blocks` does.
    """
    return np.concatenate([np.zeros(0, np.float32), *read_blocks(path, channel, sample_rate)])


def write_clip(path: Path, waveform: np.ndarray, sample_rate: int = SAMPLE_RATE, bits: int = 16) -> None:
    """Write a waveform of shape (samples,), full scale 1, as FLAC of 16 or 24 bit; beyond full scale it is clipped.

    The file appears whole or not at all.
    """
    if bits not in (16, 24):
        raise ValueError(f"bits is {bits}, allowed are 16 and 24")
    with whole_file(path) as unfinished:
        soundfile.write(unfinished, waveform, sample_rate, subtype=f"PCM_{bits}", format="FLAC")


def digest(waveform: np.ndarray) -> str:
    """SHA-256 of the samples, whatever file they came in: two clips with the same digest sound the same."""
    return hashlib.sha256(np.ascontiguousarray(waveform, dtype="<f4").tobytes()).hexdigest()
