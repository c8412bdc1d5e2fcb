"""Where a score comes from: the stretch and the band that differ are the ones that are shown."""

from xml.etree import ElementTree

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from detection.detector import Detector
from detection.why import draw, why
from model.network import network_input, patchify
from tests.tiny_corpus import MACHINES, sound

WINDOW = 39 * 512  # samples of the tiny network's 40 frames


def pump(rng):
    return sound(2500.0, 1.28, False, rng)[:WINDOW]


@pytest.fixture(scope="module")
def trained(root):
    """The tiny detector after a second of training on parts of windows: a network that can judge with some left out."""
    detector, rng = Detector.load(root / "data" / "detector"), np.random.default_rng(0)
    network, config = detector.classifier, detector.classifier.config
    torch.manual_seed(0)
    labels = torch.arange(len(MACHINES)).repeat_interleave(8)
    tones = [list(MACHINES.values())[label] for label in labels]
    log_mels = [detector.log_mel([sound(tone, 1.28, False, rng)[:WINDOW]]) for tone in tones]
    x = torch.stack([network_input(torch.from_numpy(one), detector.mean, detector.std, 40) for one in log_mels])
    optimizer = torch.optim.Adam(network.parameters(), 3e-3)
    for _ in range(100):
        visible = torch.rand(len(x), config.tokens).argsort(1)[:, : config.tokens // 2]
        logits = network.classifier(network.encoder(patchify(x, config), visible).mean(1))
        optimizer.zero_grad()
        cross_entropy(logits, labels).backward()
        optimizer.step()
    outputs = [detector.outputs(one) for one in log_mels]
    detector.fit(
        np.concatenate([one.embeddings for one in outputs]),
        np.concatenate([one.logits for one in outputs]),
        np.array([len(one.starts) for one in outputs]),
        [list(MACHINES)[label] for label in labels],
    )
    return detector


@pytest.fixture(scope="module")
def interrupted(detector):
    """A pump of one window that whistles from 0.5 to 0.75 s, above 4 kHz."""
    waveform = pump(np.random.default_rng(0))
    t = np.arange(4000) / 16000
    waveform[8000:12000] += 0.3 * np.sin(2 * np.pi * (5000 + 2000 * t) * t).astype(np.float32)
    return detector.log_mel([waveform])


@pytest.mark.parametrize("backend", ["mahalanobis", "gaussian_mixture", "nearest_neighbour"])
def test_the_interruption_is_where_the_score_comes_from(trained, interrupted, backend):
    usual = trained.judge(trained.log_mel([pump(np.random.default_rng(0))]), "pump", "id_00", backend)
    verdict = trained.judge(interrupted, "pump", "id_00", backend)
    assert verdict.score > usual.score
    reason = why(trained, interrupted, verdict)
    assert reason.window == verdict.windows[0]
    frames, mels = interrupted.shape
    assert reason.spectrogram.shape == reason.error.shape == (frames, mels)
    assert reason.over_time.shape == (frames,) and reason.over_frequency.shape == (mels,)
    adding = np.flatnonzero(reason.over_time > 0) * 512 / 16000
    assert 0.45 <= adding.min() <= 0.5 and 0.72 <= adding.max() <= 0.8  # two stretches of 0.16 s
    assert reason.over_frequency.argmax() >= mels * 3 // 4  # above 4 kHz: the highest band of 4


def test_what_the_reconstruction_misses_is_the_interruption(detector, interrupted):
    error = why(detector, interrupted, detector.judge(interrupted, "pump", "id_00")).error
    assert error[17:22, -8:].mean() > 2 * error[:12].mean()


def test_a_long_recording_is_explained_by_its_worst_window(detector, tmp_path):
    rng = np.random.default_rng(1)
    waveform = np.concatenate([sound(2500.0, 3.0, anomalous, rng) for anomalous in (False, True, False)])
    log_mel = detector.log_mel([waveform])
    verdict = detector.judge(log_mel, "pump", "id_00", "mahalanobis")
    reason = why(detector, log_mel, verdict)
    assert reason.window.score == max(window.score for window in verdict.windows) and 1.5 < reason.window.start < 6.5
    first = round(reason.window.start * 16000 / 512)
    assert np.array_equal(reason.spectrogram, log_mel[first : first + 40].astype(np.float32))
    draw(detector, log_mel, verdict, tmp_path / "why.svg", "a $name$ <with> signs")
    assert ElementTree.parse(tmp_path / "why.svg").getroot().tag.endswith("svg")
