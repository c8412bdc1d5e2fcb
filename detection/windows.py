"""A recording of any length as stretches of sound, each with the windows that lie in it.

Frames are those of `audio.front_end`, counted from the beginning of the recording.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from audio.front_end import LogMelSettings

AT_ONCE = 2  # windows, at most, in a stretch: more are no faster on CPUs, and each takes memory


def window_starts(length: int, frames: int, hop: int) -> np.ndarray:
    """First frames of the windows of `frames` frames, every `hop`, that cover `length`; the last ends with it.

    >>> window_starts(344, 320, 160).tolist(), window_starts(313, 320, 160).tolist()
    ([0, 24], [0])
    """
    last = max(length - frames, 0)
    return np.append(np.arange(0, last, hop), last)


@dataclass(frozen=True)
class Stretch:
    """A stretch of a recording, from which its frames can be computed without anything around it."""

    waveform: np.ndarray  # (samples,); at the ends of the recording lengthened by half a frame
    first: int  # its first frame
    fresh: int  # the first of its frames that was in no stretch before
    starts: np.ndarray  # (W,), first frames of its windows; there may be none


def lengthened(blocks: Iterable[np.ndarray], margin: int) -> Iterator[np.ndarray]:
    """The blocks (samples,) of a waveform with `margin` samples, mirrored, ahead of it and behind it.

    The first block must be longer than `margin`.
    """
    end = np.zeros(0, np.float32)
    for block in blocks:
        if not len(end) and len(block):
            yield block[margin:0:-1]
        end = np.concatenate([end, block])[-margin - 1 :]
        yield block
    yield end[-2::-1]


def stretches(blocks: Iterable[np.ndarray], settings: LogMelSettings, frames: int, hop: int) -> Iterator[Stretch]:
    """Stretches that hold all windows of `frames` frames, every `hop`, of the waveform that comes in `blocks`.

    See `window_starts`. A recording shorter than a window is one stretch with one window. No more than a block, and
    what AT_ONCE windows reach over, is held.
    """
    most = max(1, min(AT_ONCE, AT_ONCE * frames // hop))
    rest, first, fresh, start = np.zeros(0, np.float32), 0, 0, 0  # `rest` begins with frame `first`

    def stretch(begin: int, end: int, starts: list[int]) -> Stretch:
        nonlocal fresh
        seen, fresh = max(fresh, begin), max(fresh, end)
        samples = rest[(begin - first) * settings.hop_length :][: settings.samples(end - begin)]
        return Stretch(samples, begin, seen - begin, np.array(starts, np.int64))

    def whole(total: int, at_least: int) -> Iterator[Stretch]:
        """Stretches of the windows that end before `total`, while there are `at_least` so many."""
        nonlocal start
        while len(starts := [*range(start, min(total - frames, start + most * hop), hop)]) >= at_least:
            yield stretch(min(starts[0], fresh), starts[-1] + frames, starts)
            start = starts[-1] + hop

    for block in lengthened(blocks, settings.n_fft // 2):
        rest = np.concatenate([rest, block])
        total = first + settings.whole_frames(len(rest))
        yield from whole(total, most)
        kept = max(min(start, total - frames), first)  # the last window is another: it ends with the recording
        if kept > fresh:  # between windows that lie far apart
            yield stretch(fresh, kept, [])
        rest, first = rest[(kept - first) * settings.hop_length :], kept
    total = first + settings.whole_frames(len(rest))
    last = max(total - frames, 0)
    yield from whole(total, 1)
    yield stretch(min(last, fresh), total, [last])
