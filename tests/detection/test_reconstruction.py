"""Masked reconstructions and the map of their error."""

import numpy as np
import pytest
import torch

from detection.reconstruction import masked_reconstruction_error, reconstruct
from model.losses import standardise_patches
from model.network import RCMAE, NetworkConfig, patchify

CONFIG = NetworkConfig(
    mels=16, frames=20, patch_mels=4, patch_frames=5, width=8, depth=1, heads=2, decoder_width=8, decoder_depth=1,
    decoder_heads=2, projection=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def network() -> RCMAE:
    torch.manual_seed(0)
    return RCMAE(CONFIG).eval()


@pytest.fixture
def window() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(20, 16)).astype(np.float32)


def test_it_masks_whole_patches_and_predicts_the_scale_of_the_input(network, window):
    seen = reconstruct(network, window, repeats=3, seed=0, norm_pix=True, mask_ratio=0.75)
    assert seen.masked.shape == seen.output.shape == (3, 20, 16)
    masked = patchify(torch.from_numpy(seen.masked).float(), CONFIG)
    assert set(masked.mean(-1).unique().tolist()) == {0.0, 1.0}
    assert masked.mean(-1).mean().item() == pytest.approx(0.75)
    # what the network was trained to predict: each patch standardised, which its own mean and spread undo
    plain = reconstruct(network, window, repeats=3, seed=0, norm_pix=False)
    target = patchify(torch.from_numpy(window)[None], CONFIG)
    variance, mean = torch.var_mean(target, dim=-1, keepdim=True)
    predicted = patchify(torch.from_numpy(plain.output), CONFIG)
    restored = patchify(torch.from_numpy(seen.output), CONFIG)
    assert torch.allclose((restored - mean) / (variance + 1e-6).sqrt(), predicted, atol=1e-5)
    assert torch.allclose(standardise_patches(target) * (variance + 1e-6).sqrt() + mean, target, atol=1e-5)


def test_what_is_hidden_does_not_change_the_prediction(network, window):
    first = reconstruct(network, window, 1, 0, norm_pix=False)
    changed = np.where(first.masked[0], window + 5, window).astype(np.float32)
    assert np.allclose(reconstruct(network, changed, 1, 0, norm_pix=False).output, first.output, atol=1e-5)


def test_the_error_is_that_of_the_masks_under_which_a_place_was_hidden(network, window):
    error = masked_reconstruction_error(network, window, repeats=12, seed=3, norm_pix=True)
    seen = reconstruct(network, window, 12, 3, True)
    for frame, mel in ((0, 0), (7, 9), (19, 15)):
        hidden = [place for place in range(12) if seen.masked[place, frame, mel]]
        squares = [(seen.output[place, frame, mel] - window[frame, mel]) ** 2 for place in hidden]
        assert error[frame, mel] == pytest.approx(np.mean(squares) ** 0.5, rel=1e-4)
    assert np.array_equal(error, masked_reconstruction_error(network, window, 12, 3, True))
    assert not np.array_equal(error, masked_reconstruction_error(network, window, 12, 4, True))


@pytest.mark.parametrize("frames", [6, 20, 47])
def test_recordings_of_any_length(network, frames):
    long = np.random.default_rng(1).normal(size=(frames, 16)).astype(np.float32)
    error = masked_reconstruction_error(network, long, repeats=24, seed=0, norm_pix=True)
    assert error.shape == long.shape
    assert (error > 0).all()  # every place was hidden at least once


def test_a_window_of_another_size_is_refused(network, window):
    with pytest.raises(ValueError, match=r"\(19, 16\).*\(20, 16\)"):
        reconstruct(network, window[1:], 1, 0, True)
