"""Statistics of a spectrogram against NumPy, and that they see what they are made for."""

from itertools import pairwise

import numpy as np
import pytest
import torch

from detection.statistics import ModulationStatistics, MomentStatistics


def test_moments_are_mean_deviation_and_deviation_of_the_differences():
    x = torch.randn(2, 30, 8)
    found = MomentStatistics()(x).numpy()
    for window, of_window in zip(x.numpy(), found, strict=True):
        expected = np.concatenate([window.mean(0), window.std(0), np.diff(window, axis=0).std(0)])
        np.testing.assert_allclose(of_window, expected, rtol=1e-5, atol=1e-6)


def test_modulation_finds_the_rate_at_which_a_band_goes_up_and_down():
    statistics = ModulationStatistics(96)
    time = torch.arange(96) / 64
    x = torch.zeros(1, 96, 32)
    x[0, :, 10:12] = 6 * torch.sin(2 * torch.pi * 9 * time)[:, None]  # 9 cycles in a segment of 64, band 5 of 16
    rates = statistics(x)[0, : 16 * 16].reshape(16, 16)  # (bands, rates)
    band, rate = divmod(int(rates.argmax()), 16)
    assert (band, rate) == (5, 4)  # rates 9 and 10 of 32 are the fifth of 16 groups
    assert statistics(x).shape == (1, 16 * 18)


@pytest.mark.parametrize(("frames", "starts"), [(40, [0]), (130, [0, 32, 64])])
def test_modulation_is_the_mean_magnitude_of_the_segments_fourier_transforms(frames, starts):
    x = torch.randn(1, frames, 16)  # a band is one mel bin
    found = ModulationStatistics(frames)(x)[0, : 16 * 16].reshape(16, 16).numpy()
    length = min(frames, 64)
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(length) / length)
    segments = [x[0, start : start + length].numpy() for start in starts]
    spectra = [np.fft.rfft(hann[:, None] * (segment - segment.mean(0)), axis=0)[1:] for segment in segments]
    magnitude = np.mean(np.abs(spectra), axis=0).T  # (bands, rates)
    edges = [round(group * magnitude.shape[1] / 16) for group in range(17)]
    expected = np.log([[band[a:b].mean() for a, b in pairwise(edges)] for band in magnitude])
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-3)
