"""Where a score comes from: the stretch and the band that differ are the ones that are shown."""

import json
import shutil
from xml.etree import ElementTree

import numpy as np
import pytest

from detection.detector import Detector
from detection.why import BANDS, draw, why
from storage.files import sha256
from tests.tiny_corpus import sound

WINDOW = 39 * 512  # samples of the tiny network's 40 frames
MACHINE = "pump/id_00"


def pump(rng):
    return sound(2500.0, 1.28, False, rng)[:WINDOW]


@pytest.fixture(scope="module")
def interrupted():
    """A pump of one window that whistles from 0.5 to 0.75 s, above 4 kHz."""
    waveform = pump(np.random.default_rng(0))
    t = np.arange(4000) / 16000
    waveform[8000:12000] += 0.3 * np.sin(2 * np.pi * (5000 + 2000 * t) * t).astype(np.float32)
    return waveform


def explained(detector, waveform, backend):
    measured = detector.measure([waveform], MACHINE, backend)
    verdict = detector.judge(measured, MACHINE, backend)
    return why(detector, measured, verdict), measured, verdict


@pytest.mark.parametrize("backend", ["logmel_mahalanobis", "label_free", "combined"])
def test_the_interruption_is_where_the_score_comes_from(detector, interrupted, backend):
    reason, measured, verdict = explained(detector, interrupted, backend)
    assert reason.window == verdict.windows[0]
    frames, mels = measured.worst.shape
    assert reason.spectrogram.shape == reason.error.shape == (frames, mels)
    assert reason.over_time.shape == (frames,) and reason.over_frequency.shape == (mels,)
    assert 0.4 <= reason.over_time.argmax() * 512 / 16000 <= 0.8
    assert reason.over_frequency.argmax() >= mels * (BANDS - 3) // BANDS  # above 3 kHz: the highest three bands


def test_what_the_reconstruction_misses_is_the_interruption(detector, interrupted):
    error = explained(detector, interrupted, None)[0].error
    assert error[17:22, -8:].mean() > 2 * error[:12].mean()


def test_the_reconstruction_is_of_plain_pixels_where_the_network_was_trained_on_them(root, interrupted, tmp_path):
    folder = shutil.copytree(root / "data" / "detector", tmp_path / "detector")
    sums = json.loads((folder / "checksums.json").read_text())
    for name in ("pretrained/config.json", "finetuned/config.json"):
        path = folder / name
        path.write_text(path.read_text().replace('"norm_pix_loss": true', '"norm_pix_loss": false'))
        sums[name] = sha256(path)
    (folder / "checksums.json").write_text(json.dumps(sums))
    plain, standardised = (
        explained(Detector.load(place), interrupted, "label_free")[0].error
        for place in (folder, root / "data" / "detector")
    )
    assert not np.allclose(plain, standardised)


def test_a_long_recording_is_explained_by_its_worst_window(detector, tmp_path):
    rng = np.random.default_rng(1)
    waveform = np.concatenate([sound(2500.0, 3.0, anomalous, rng) for anomalous in (False, True, False)])
    reason, measured, verdict = explained(detector, waveform, "logmel_mahalanobis")
    assert reason.window.score == max(window.score for window in verdict.windows) and 1.5 < reason.window.start < 6.5
    first = round(reason.window.start * 16000 / 512)
    log_mel = np.concatenate(list(detector.spectrogram([waveform])))
    assert np.array_equal(reason.spectrogram, log_mel[first : first + 40].astype(np.float32))
    draw(detector, measured, verdict, tmp_path / "why.svg", "a $name$ <with> signs")
    assert ElementTree.parse(tmp_path / "why.svg").getroot().tag.endswith("svg")
