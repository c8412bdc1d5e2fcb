"""A recording of a machine, and the clips that it is cut into, each checked."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from audio.clips import SAMPLE_RATE, SHORTEST_SECONDS, SILENCE, digest, open_sound, read_clip, write_clip

CLIP_SECONDS = 10  # of the clips that long recordings are cut into
LONGEST_SECONDS = 20  # a recording up to this length is one clip (ToyCar's have 11 s)
ROUNDING = 16  # samples by which resampling may lengthen it


@dataclass(frozen=True)
class Recording:
    """A file of recordings of one machine in one condition."""

    file: str  # relative to the corpus folder
    machine_type: str  # as it is shown, see audio.names
    machine_id: str
    split: str  # train, test, or "" where the layout has none
    condition: str  # normal or anomaly
    number: int | None = None  # in the file's name, where it has one
    domain: str = ""  # source or target, where the layout says so
    attributes: str = ""  # of the machine's operation, where the layout says so

    @property
    def identity(self) -> str:
        """The machine, "fan/id_00"."""
        return f"{self.machine_type}/{self.machine_id}"

    def renamed(self, machine_type: str, machine_id: str) -> "Recording":
        return replace(self, machine_type=machine_type, machine_id=machine_id)

    def at(self, file: str) -> "Recording":
        return replace(self, file=file)


class Refusal(NamedTuple):
    """Why a recording, or a piece of it, is not taken."""

    file: str
    reason: str


class Piece(NamedTuple):
    """A clip that was written, with what the manifest says of it."""

    path: Path
    offset: float  # seconds
    seconds: float
    sha256: str
    warnings: str = ""  # of the recording: what was wrong with it and yet could be read


def piece_offsets(seconds: float) -> list[float]:
    """Where the clips of a recording of that length begin (s).

    >>> piece_offsets(11), piece_offsets(34), piece_offsets(20.5)
    ([0.0], [0.0, 10.0, 20.0, 30.0], [0.0, 10.0])
    """
    if seconds <= LONGEST_SECONDS:
        return [0.0]
    whole, rest = divmod(seconds + 1e-6, CLIP_SECONDS)  # 30.95 is a little less than it says
    return [float(CLIP_SECONDS * number) for number in range(int(whole) + (rest >= SHORTEST_SECONDS))]


def write_pieces(path: Path, channel: int, stem: Path) -> tuple[list[Piece], list[Refusal]]:
    """Check the recording at `path` and write it as clips `<stem>_0.flac` and so on, at 16 kHz.

    A recording longer than LONGEST_SECONDS is cut into clips of CLIP_SECONDS; a rest shorter than SHORTEST_SECONDS is
    dropped. 16 bit if the recording has no more and is not resampled, else 24. The `file` of a refusal is empty, or
    says where in the recording it is.
    """
    pieces: list[Piece] = []
    silent: list[int] = []  # which clips are
    try:
        with open_sound(path, channel) as sound:
            cut, waveforms = _cut(sound.blocks())
            bits = sound.bits if sound.sample_rate == SAMPLE_RATE else 24
            for number, waveform in enumerate(waveforms):
                if len(waveform) < SHORTEST_SECONDS * SAMPLE_RATE:
                    if not cut:
                        seconds = len(waveform) / SAMPLE_RATE
                        raise ValueError(f"{path}: {seconds:.3g} s, shorter than {SHORTEST_SECONDS} s")
                elif np.ptp(waveform) <= SILENCE:
                    silent.append(number)
                else:
                    pieces.append(_piece(stem.with_name(f"{stem.name}_{number}.flac"), number, waveform, bits))
        if not pieces:
            raise ValueError(f"{path}: {'digital silence' if silent else 'no samples'}")
    except ValueError as error:
        for piece in pieces:
            piece.path.unlink()
        return [], [Refusal("", str(error).removeprefix(f"{path}: "))]
    pieces = [piece._replace(warnings="; ".join(sound.warnings)) for piece in pieces]
    if silent:  # not a line for each: a night of silence is one fault
        where = f" at {silent[0] * CLIP_SECONDS} s"
        return pieces, [Refusal(where, f"digital silence in {len(silent)} of {number + 1} clips")]
    return pieces, []


def _piece(path: Path, number: int, waveform: np.ndarray, bits: int) -> Piece:
    write_clip(path, waveform, bits=bits)
    written = read_clip(path)
    return Piece(path, float(number * CLIP_SECONDS), len(written) / SAMPLE_RATE, digest(written))


def _cut(blocks: Iterator[np.ndarray]) -> tuple[bool, Iterator[np.ndarray]]:
    """Whether a recording is longer than a clip may be, and the clips that it is cut into, or all of it as the only."""
    head, samples = [], 0
    while samples <= LONGEST_SECONDS * SAMPLE_RATE + ROUNDING and (block := next(blocks, None)) is not None:
        head.append(block)
        samples += len(block)
    cut = samples > LONGEST_SECONDS * SAMPLE_RATE + ROUNDING
    return cut, _rechunk(itertools.chain(head, blocks), CLIP_SECONDS * SAMPLE_RATE if cut else samples)


def _rechunk(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        while len(rest) >= length > 0:
            yield rest[:length]
            rest = rest[length:]
    if len(rest):
        yield rest
