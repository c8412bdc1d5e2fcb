"""MobileNetV2: its windows, its input, and the mean over windows that is its score."""

import numpy as np
import torch

from peers.mobilenetv2 import MobileNet, image, network, windows


def test_windows_are_64_frames_every_8():
    clips, starts = windows(np.array([313, 64, 20, 72]))
    assert np.bincount(clips).tolist() == [32, 1, 1, 2]
    assert starts[:3].tolist() == [0, 8, 16] and starts[31] == 248
    assert starts[32:].tolist() == [0, 0, 0, 8]


def test_three_equal_channels_of_mels_by_frames():
    pieces = np.random.default_rng(0).normal(size=(2, 64, 32)).astype(np.float32)
    images = image(pieces)
    assert images.shape == (2, 3, 32, 64)
    assert all(np.array_equal(images[1, channel], pieces[1].T) for channel in range(3))


def test_the_network_is_half_as_wide_and_takes_a_gradient_step():
    net = network(4)
    assert net.classifier[1].in_features == 1280 and net.features[0][0].out_channels == 16
    logits = net(torch.randn(2, 3, 128, 64))
    assert logits.shape == (2, 4)
    logits.square().sum().backward()
    assert all(weights.grad is not None and weights.grad.isfinite().all() for weights in net.parameters())


class Tone:
    """Two clips in memory, of 72 and 64 frames."""

    identities = np.array(["fan/id_00", "fan/id_02"])
    frames = np.array([72, 64])
    values = np.random.default_rng(0).normal(size=(72, 8)).astype(np.float32)

    def __len__(self):
        return 2

    def log_mel_pieces(self, clips, starts, frames):
        return np.stack([self.values[start : start + frames] for start in starts])


def test_the_score_is_the_mean_over_windows_of_the_log_odds():
    system = MobileNet(epochs=0, learning_rate=1e-3, seed=0)
    system.identities = np.array(["fan/id_00", "fan/id_02", "fan/id_04"])
    system.network = network(3).eval()
    with torch.inference_mode():
        pieces = torch.stack([torch.from_numpy(Tone.values[start : start + 64]) for start in (0, 8)])
        p = system.network(pieces.transpose(1, 2)[:, None].repeat(1, 3, 1, 1)).softmax(1).double()
    expected = [torch.log((1 - p[:, 0]) / p[:, 0]).mean(), torch.log((1 - p[0, 1]) / p[0, 1])]
    np.testing.assert_allclose(system.score(Tone()), expected, rtol=1e-4)
