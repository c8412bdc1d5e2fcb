"""The log-mel spectrogram of a recording of any length, block by block."""

from collections.abc import Iterable, Iterator

import numpy as np
import torch

from audio.front_end import LogMelSettings
from audio.logmel import log_mel


def log_mel_blocks(blocks: Iterable[np.ndarray], settings: LogMelSettings) -> Iterator[np.ndarray]:
    """Log-mel (dB) of the waveform whose pieces `blocks` yields, piece by piece: float16, shape (frames, mels).

    A recording of one block gets what `log_mel` gives it; at the seams of several, frames are computed with the
    neighbouring samples, so that they are the same as without seams. Memory does not grow with the recording.
    """
    hop, margin = settings.hop_length, -(-settings.n_fft // 2 // settings.hop_length)  # frames next to a cut
    waiting = np.zeros(0, np.float32)  # samples of the frames to come, and of `before` frames ahead of them
    before = 0
    blocks = iter(blocks)
    block = next(blocks, None)
    while block is not None:
        following = next(blocks, None)
        waiting = np.concatenate([waiting, block])
        frames = settings.frames(len(waiting))
        if following is None:
            yield _frames(waiting, settings, before, frames)
        elif frames > before + 2 * margin:
            # the last frames lack samples that the next block brings
            whole = frames - 1 - margin
            yield _frames(waiting, settings, before, whole)
            waiting, before = waiting[(whole - margin) * hop :], margin
        block = following


def _frames(waveform: np.ndarray, settings: LogMelSettings, first: int, last: int) -> np.ndarray:
    return log_mel(torch.from_numpy(waveform), settings)[first:last].numpy().astype(np.float16)
