"""Stretches of a recording hold every frame once as fresh, and every window whole, in whatever blocks it comes."""

import itertools

import numpy as np
import pytest
import torch

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from detection.windows import AT_ONCE, stretches, window_starts

SETTINGS = LogMelSettings()


@pytest.mark.parametrize("samples", [16_000, 21_000, 300_000])
@pytest.mark.parametrize("hop", [7, 20, 90, 1000])
def test_stretches_cover_a_recording(samples, hop):
    waveform = np.arange(samples, dtype=np.float32)
    whole = np.pad(waveform, SETTINGS.n_fft // 2, mode="reflect")
    frames = SETTINGS.frames(samples)
    for length, block in itertools.product((40, 320), (1_600, 16_000, samples)):
        starts: list[int] = []
        covered: list[int] = []
        for stretch in stretches(np.split(waveform, range(block, samples, block)), SETTINGS, length, hop):
            end = stretch.first + SETTINGS.whole_frames(len(stretch.waveform))
            begin = stretch.first * SETTINGS.hop_length
            assert np.array_equal(stretch.waveform, whole[begin : begin + len(stretch.waveform)])
            assert all(stretch.first <= start and min(start + length, frames) <= end for start in stretch.starts)
            starts += stretch.starts.tolist()
            covered += range(stretch.first + stretch.fresh, end)
        assert starts == window_starts(frames, length, hop).tolist()
        assert covered == list(range(frames))


def test_no_more_is_held_than_the_windows_of_one_stretch_need():
    blocks = (np.ones(16_000, np.float32) for _ in range(1_000))
    longest = max(len(stretch.waveform) for stretch in stretches(blocks, SETTINGS, 320, 160))
    assert longest <= SETTINGS.samples(AT_ONCE * 160 + 320)


def test_the_frames_of_stretches_are_those_of_the_whole():
    waveform = np.random.default_rng(0).normal(0, 0.1, 100_000).astype(np.float32)
    found = [
        log_mel(torch.from_numpy(stretch.waveform), SETTINGS, centred=False)[stretch.fresh :]
        for stretch in stretches(np.split(waveform, 5), SETTINGS, 40, 20)
    ]
    np.testing.assert_allclose(torch.cat(found), log_mel(torch.from_numpy(waveform), SETTINGS), rtol=1e-5, atol=1e-4)
