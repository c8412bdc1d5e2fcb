"""A spectrogram computed block by block is the one of the whole recording."""

import numpy as np
import pytest
import torch

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.streaming import log_mel_blocks

WAVEFORM = np.random.default_rng(0).uniform(-0.5, 0.5, 40_000).astype(np.float32)


def log_mel_of_blocks(blocks, settings):
    return np.concatenate([np.zeros((0, settings.n_mels), np.float16), *log_mel_blocks(blocks, settings)])


@pytest.mark.parametrize("settings", [LogMelSettings(), LogMelSettings(n_fft=2048, hop_length=300, n_mels=32)])
@pytest.mark.parametrize("size", [40_000, 39_999, 16_000, 9_000, 1_000])
def test_seams_do_not_show(settings, size):
    blocks = (WAVEFORM[start : start + size] for start in range(0, len(WAVEFORM), size))
    whole = log_mel(torch.from_numpy(WAVEFORM), settings).numpy()
    streamed = log_mel_of_blocks(blocks, settings)
    assert streamed.dtype == np.float16 and streamed.shape == whole.shape
    assert np.abs(streamed - whole).max() < 0.032  # float16's rounding at 64 to 128 dB
    if size == len(WAVEFORM):
        assert np.array_equal(streamed, whole.astype(np.float16))


def test_nothing_has_no_frames():
    assert log_mel_of_blocks([], LogMelSettings()).shape == (0, 128)
