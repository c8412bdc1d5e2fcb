"""Filling and standardising: what a gain, a short clip and a silent one become."""

import pytest
import torch

from audio.scale import Scale, fill


def test_a_short_spectrogram_is_repeated_from_its_start():
    spectrogram = torch.arange(6.0).reshape(3, 2)
    assert fill(spectrogram, 7).tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3], [4, 5], [0, 1]]
    assert fill(spectrogram, 3) is spectrogram
    for frames in (2, 0):
        with pytest.raises(ValueError, match=f"3 frames do not fit into {frames}"):
            fill(spectrogram, frames)
    with pytest.raises(ValueError, match="0 frames do not fit"):
        fill(torch.zeros(0, 2), 3)


def test_level_is_taken_from_each_spectrogram_by_itself_or_kept():
    spectrograms = torch.randn(3, 5, 4) - 40
    removed, kept = Scale("remove", 0.0, 2.0)(spectrograms), Scale("keep", -40.0, 2.0)(spectrograms)
    torch.testing.assert_close(removed.mean(dim=(1, 2)), torch.zeros(3), atol=1e-5, rtol=0)
    torch.testing.assert_close(Scale("remove", 0.0, 2.0)(spectrograms + 12), removed, atol=1e-4, rtol=0)
    torch.testing.assert_close(kept, (spectrograms + 40) / 2)


@pytest.mark.parametrize(
    ("level", "std", "message"),
    [("loud", 1.0, "keep and remove"), ("keep", 0.0, "positive"), ("keep", float("nan"), "positive")],
)
def test_a_scale_that_cannot_be(level, std, message):
    with pytest.raises(ValueError, match=message):
        Scale(level, 0.0, std)
