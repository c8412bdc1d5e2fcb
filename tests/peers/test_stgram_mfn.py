"""STgram-MFN: its shapes, the margin of ArcFace by hand, and the windows that cover a clip."""

import math

import numpy as np
import pytest
import torch

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from peers.stgram_mfn import MARGIN, SCALE, SpectralTemporal, STgramMFN, Tgram, arcface, mobile_face_net

SETTINGS = LogMelSettings()


def test_the_tgram_has_the_frames_of_the_log_mel():
    waveforms = torch.randn(2, 32_000)
    assert log_mel(waveforms, SETTINGS).shape == (2, 63, 128)
    assert Tgram(SETTINGS, 63)(waveforms).shape == (2, 128, 63)


def test_ten_seconds_leave_8_by_20_for_the_last_depthwise_convolution():
    network = mobile_face_net(2, 128, 313).eval()
    depthwise = [layer for layer in network if isinstance(layer, torch.nn.Conv2d) and layer.groups == 512]
    assert depthwise[0].kernel_size == (8, 20)
    with torch.inference_mode():
        assert network(torch.randn(1, 2, 128, 313)).shape == (1, 128)


def test_cosines_and_a_gradient_step():
    torch.manual_seed(0)
    network = STgramMFN(SETTINGS, 16, classes=5)
    waveforms = torch.randn(3, 8_000)
    cosines = network(waveforms, log_mel(waveforms, SETTINGS))
    assert cosines.shape == (3, 5) and cosines.abs().max() <= 1 + 1e-6
    torch.nn.functional.cross_entropy(arcface(cosines, torch.tensor([0, 1, 2])), torch.tensor([0, 1, 2])).backward()
    assert all(weights.grad.isfinite().all() and weights.grad.any() for weights in network.parameters())


@pytest.mark.parametrize("angle", [0.3, 1.5, 2.3, 2.9])
def test_the_margin_is_added_to_the_own_angle_alone(angle):
    cosines = torch.tensor([[math.cos(angle), 0.25]], dtype=torch.float64)
    own, other = (arcface(cosines, torch.tensor([0]))[0] / SCALE).tolist()
    turned = math.cos(angle + MARGIN) if angle + MARGIN < math.pi else math.cos(angle) - MARGIN * math.sin(MARGIN)
    assert own == pytest.approx(turned) and other == 0.25
    assert own < math.cos(angle)


class Ramp:
    """A clip in memory of 10 frames, whose samples and frames say where they lie."""

    settings = LogMelSettings(n_fft=4, hop_length=2)
    identities, frames = np.array(["fan/id_00"]), np.array([10])

    def __len__(self):
        return 1

    def waveform_pieces(self, clips, starts, samples):
        return np.stack([np.arange(start, start + samples, dtype=np.float32) for start in starts])

    def log_mel_pieces(self, clips, starts, frames):
        return np.stack([np.arange(start, start + frames, dtype=np.float32)[:, None] for start in starts])


def test_windows_cover_the_clip_and_are_cut_alike():
    system, seen = SpectralTemporal(epochs=0, seconds=6 / 16_000, learning_rate=1e-3, seed=0), []

    def network(waveforms, pieces):
        seen.append((waveforms, pieces))
        return torch.zeros(len(waveforms), 2)

    system.frames, system.identities, system.network = 4, np.array(["fan/id_00", "fan/id_02"]), network
    assert system.score(Ramp())[0] == pytest.approx(math.log(2))
    ((waveforms, pieces),) = seen
    assert pieces[:, 0, 0].tolist() == [0, 3, 6] and pieces[-1, -1, 0] == 9  # the last frame of the clip
    assert waveforms[:, 0].tolist() == [0, 6, 12] and waveforms.shape == (3, 6)
