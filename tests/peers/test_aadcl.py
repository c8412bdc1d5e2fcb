"""AADCL: its network, the contrastive loss by hand, and its eight transformations."""

import numpy as np
import pytest
import torch
from pytorch_metric_learning.losses import NTXentLoss

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from peers.aadcl import TEMPERATURE, TRANSFORMATIONS, Contrastive, mahalanobis, nt_xent, transformed

FRONT_END = LogMelSettings(n_fft=2048)


def test_at_full_width_it_is_a_resnet_18_with_heads_512_512_128():
    network = Contrastive(64)
    convolutions = [layer for layer in network.modules() if isinstance(layer, torch.nn.Conv2d)]
    assert len(convolutions) == 17 + 3  # and those past the blocks
    sizes = [(layer.in_features, layer.out_features) for layer in network.projection if hasattr(layer, "in_features")]
    assert sizes == [(512, 512), (512, 128)] and network.transformation.out_features == 8
    # torchvision's resnet18 has 11.18 million below its last layer; one channel for three takes 6272 of them away
    assert sum(weights.numel() for weights in network.encoder.parameters()) == 11_176_512 - 6272


def test_a_gradient_step_reaches_all_weights():
    torch.manual_seed(0)
    network = Contrastive(8)
    hidden = network(torch.randn(6, 40, 32))
    assert hidden.shape == (6, 64)
    loss = nt_xent(*network.projection(hidden).chunk(2)) + network.transformation(hidden).square().sum()
    loss.backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in network.parameters())


def test_the_loss_is_that_of_pytorch_metric_learning():
    torch.manual_seed(0)
    first, second = torch.randn(5, 8), torch.randn(5, 8)
    expected = NTXentLoss(TEMPERATURE)(torch.cat([first, second]), torch.arange(5).repeat(2))
    assert nt_xent(first, second).item() == pytest.approx(expected.item(), rel=1e-5)
    assert nt_xent(first, first) < nt_xent(first, second)


@pytest.mark.parametrize("which", TRANSFORMATIONS)
def test_transformations_change_the_spectrogram_but_for_none(which):
    t = np.arange(16_000) / 16_000
    noise = np.random.default_rng(1).standard_normal(16_000)
    waveform = (0.1 * np.sin(2 * np.pi * 440 * t) * (1 + t) + 0.01 * noise).astype(np.float32)
    plain = log_mel(torch.from_numpy(waveform), FRONT_END).numpy()
    changed = transformed(waveform, which, FRONT_END, np.random.default_rng(0))
    again = transformed(waveform, which, FRONT_END, np.random.default_rng(0))
    assert changed.shape == plain.shape and np.isfinite(changed).all() and np.array_equal(changed, again)
    assert (np.abs(changed - plain).max() > 1) == (which != "none")
    if which == "pitch shift":
        assert abs(int(changed.mean(0).argmax()) - int(plain.mean(0).argmax())) in range(2, 9)


def test_the_distance_is_mahalanobis_where_there_are_clips_enough():
    random = np.random.default_rng(0)
    known = random.normal(size=(20_000, 3)) @ np.array([[2.0, 0.5, 0.0], [0.0, 1.0, 0.3], [0.0, 0.0, 0.5]])
    asked = random.normal(size=(5, 3))
    centred = asked - known.mean(0)
    expected = np.sqrt((centred @ np.linalg.inv(np.cov(known.T)) * centred).sum(1))
    np.testing.assert_allclose(mahalanobis(known, asked.astype(np.float32)), expected, rtol=0.02)
