"""Reading and writing clips: any WAV or FLAC in, 16 kHz mono FLAC out."""

import hashlib
import os
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import soundfile
import soxr

from storage.files import whole_file
from storage.shards import File

SAMPLE_RATE = 16000  # Hz, of everything below data/
AUDIO_SUFFIXES = (".wav", ".flac")
RATES = (1_000, 1_000_000)  # Hz, of a recording; what is beyond comes from a damaged header and would fill the memory
BLOCK_FRAMES = 2**18  # read at once, so that an hour-long recording needs no more memory than a clip

UNKNOWN_LENGTH = 0x7FFF_0000  # a length in a header from here on says that the recorder could not know it
# libsndfile reads what there is of a truncated WAV without complaint, but notes it.
_TRUNCATED = re.compile(r"(?:data|Riff size) : (\d+) \(should be (\d+)\)")


def read_blocks(path: File, channel: int = 0, sample_rate: int = SAMPLE_RATE) -> Iterator[np.ndarray]:
    """One channel of a recording at `sample_rate` Hz, block by block: float32 of shape (samples,), full scale 1.

    The blocks together are what `read_clip` gives. Raises ValueError naming the file if it cannot be decoded to its
    end, has no such channel or a sample rate beyond RATES, or has a value that is not finite or, in a float file, lies
    beyond full scale.
    """
    if path.suffix.lower() == ".raw":
        raise ValueError(f"{path}: a .raw file does not say its sample rate: WAV or FLAC is needed")
    try:
        # a name need not be UTF-8
        with soundfile.SoundFile(os.fsencode(path) if isinstance(path, Path) else path.open()) as file:
            if channel >= file.channels:
                raise ValueError(f"{path}: no channel {channel}, it has {file.channels} (counted from 0)")
            if not RATES[0] <= file.samplerate <= RATES[1]:
                raise ValueError(f"{path}: sample rate of {file.samplerate} Hz, allowed are {RATES[0]} to {RATES[1]}")
            if (sizes := _TRUNCATED.search(file.extra_info)) and int(sizes[2]) < int(sizes[1]) < UNKNOWN_LENGTH:
                raise ValueError(f"{path}: truncated, {sizes[2]} of {sizes[1]} bytes are there")
            resample = soxr.ResampleStream(file.samplerate, sample_rate, 1) if file.samplerate != sample_rate else None
            for block in file.blocks(BLOCK_FRAMES, dtype="float32", always_2d=True):
                waveform = np.ascontiguousarray(block[:, channel])  # (samples,)
                if not np.isfinite(waveform).all():
                    raise ValueError(f"{path}: samples that are not finite")
                if (peak := np.abs(waveform).max(initial=0.0)) > 1:
                    raise ValueError(f"{path}: peak of {peak:g} beyond full scale, 1")
                yield resample.resample_chunk(waveform) if resample else waveform
            if resample:
                yield resample.resample_chunk(np.zeros(0, np.float32), last=True)
    except soundfile.LibsndfileError as error:
        missing = isinstance(path, Path) and not path.is_file()
        reason = "no such file" if missing else f"cannot be decoded ({error.error_string.strip().rstrip('.')})"
        raise ValueError(f"{path}: {reason}") from None


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
