"""The detector: recordings of any length, its folder, its errors, and that many threads may use it."""

import doctest
import json
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import chdir

import numpy as np
import pytest
import safetensors.numpy
import soundfile
import soxr
import torch

import detection.detector
from audio.clips import read_clip
from detection.detector import Detector
from detection.windows import window_starts
from storage.files import sha256
from tests.tiny_corpus import sound

FILES = (
    "detector.json",
    "ensemble.safetensors",
    "recordings.json",
    "recordings.safetensors",
    *(f"{name}/{file}" for name in ("finetuned", "pretrained") for file in ("config.json", "model.safetensors")),
)


@pytest.fixture(scope="module")
def pump(root):
    return read_clip(root / "data" / "raw" / "pump" / "test" / "normal_id_00_00000001.flac")


def test_the_documented_example(root):
    shutil.copy(root / "data" / "raw" / "pump" / "train" / "normal_id_00_00000001.flac", root / "pump.wav")
    with chdir(root):
        results = doctest.testmod(detection.detector)
    assert results.attempted > 5 and results.failed == 0


@pytest.mark.parametrize(("length", "hop"), [(10, 20), (40, 20), (41, 20), (100, 20), (101, 40), (500, 160)])
def test_windows_cover_every_frame_and_nothing_beyond(length, hop):
    starts = window_starts(length, 40, hop)
    covered = np.zeros(max(length, 40), bool)
    for start in starts:
        covered[start : start + 40] = True
    assert starts[0] == 0 and starts[-1] == max(length - 40, 0) and (np.diff(starts) > 0).all()
    assert covered.all() or hop > 40


def test_a_recording_is_judged_window_by_window(detector, pump):
    long = np.concatenate([pump, pump, pump])
    verdict = detector.score(long, 16000, "pump", "id_00", "finetuned_mahalanobis")
    assert verdict.seconds == pytest.approx(6.0, abs=0.02) and verdict.windows[-1].end == pytest.approx(verdict.seconds)
    assert verdict.score == pytest.approx(np.mean([window.score for window in verdict.windows]))
    log_mel = np.concatenate(list(detector.spectrogram([long])))
    for window in verdict.windows:
        first = round(window.start * 16000 / 512)
        alone = detector.window_scores(detector.windows(log_mel[first : first + 40]), 2)["finetuned_mahalanobis"]
        assert alone == pytest.approx([window.score], rel=1e-4)
        assert window.end - window.start == pytest.approx(40 * 512 / 16000, abs=0.033)


def test_a_recording_that_comes_in_blocks_is_measured_as_in_one_piece(detector, pump):
    long = np.concatenate([pump] * 9)
    whole = detector.measure([long], "pump/id_00")
    for size in (1000, 16000, 40000):
        parts = detector.measure([long[first : first + size] for first in range(0, len(long), size)], "pump/id_00")
        assert np.array_equal(parts.starts, whole.starts) and parts.facts.frames == whole.facts.frames
        np.testing.assert_allclose(parts.scores["combined"], whole.scores["combined"], rtol=2e-3, atol=2e-3)
        worst = whole.starts[whole.scores[detector.deciding("pump/id_00")].argmax()]
        expected = np.concatenate(list(detector.spectrogram([long])))[worst : worst + 40]
        np.testing.assert_allclose(parts.worst, expected, atol=0.1)


def test_an_anomaly_is_found_in_time(detector):
    rng = np.random.default_rng(3)
    parts = [sound(2500.0, 4.0, anomalous, rng) for anomalous in (False, True, False)]
    verdict = detector.score(np.concatenate(parts), 16000, "pump", "id_00", "finetuned_mahalanobis")
    scores = {window.start: window.score for window in verdict.windows}
    inside = [value for start, value in scores.items() if 4 <= start <= 6.7]
    outside = [value for start, value in scores.items() if start <= 2.7 or start >= 8]
    assert min(inside) > max(outside)


def test_p_value_and_verdict_follow_the_calibration_scores(detector, pump):
    verdict = detector.score(pump, 16000, "pump", "id_00")
    known = detector.recordings.scores(2, "calibration", "label_free")
    assert verdict.backend == "label_free"  # 5 held-out recordings do not allow 10 % false alarms
    assert verdict.n == len(known) == 5 and verdict.calibration == "held-out"
    assert verdict.p_value == pytest.approx((1 + np.sum(known >= verdict.score)) / 6)
    assert verdict.threshold == known.max() and verdict.alpha == pytest.approx(1 / 6)
    assert verdict.anomalous == (verdict.score > verdict.threshold) == (verdict.p_value <= verdict.alpha)
    assert verdict.warnings == ("5 healthy recordings allow a promise of 17% false alarms, 4 more are needed for 10%",)


def test_what_is_wrong_with_a_file_that_is_read_all_the_same_stands_with_the_verdict(detector, pump, tmp_path):
    soundfile.write(tmp_path / "a.wav", pump, 16000, subtype="PCM_16")
    content = (tmp_path / "a.wav").read_bytes()
    (tmp_path / "a.wav").write_bytes(content[:-10000])
    verdict = detector.score_file(tmp_path / "a.wav", "pump", "id_00")
    assert verdict.warnings[-1].startswith("truncated, ") and verdict.seconds < len(pump) / 16000
    soundfile.write(tmp_path / "a.wav", pump * (1.5 / np.abs(pump).max()), 16000, subtype="FLOAT")
    assert detector.score_file(tmp_path / "a.wav", "pump", "id_00").warnings[-1] == "peak of 1.5 beyond full scale, 1"


def test_machines_of_a_type_lend_each_other_their_calibration(detector):
    found = detector.calibration("fan/id_02", "combined")
    assert found.source == "held-out, pooled" and found.n == 10 and detector.deciding("fan/id_02") == "combined"


def test_a_machine_without_calibration_is_judged_by_what_saw_no_labels(root, pump):
    detector = Detector.load(root / "data" / "detector")
    rows = detector.recordings.rows
    kept = np.array([row.role == "training" for row in rows])
    detector.recordings = detector.recordings.chosen(kept)
    verdict = detector.score(pump, 16000, "pump", "id_00")
    assert verdict.backend == "label_free" and verdict.calibration == "cross-fitted" and verdict.n == 6
    asked = detector.score(pump, 16000, "pump", "id_00", "negative_log_probability")
    assert any("no promise about false alarms" in warning for warning in asked.warnings)


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_a_score_that_is_no_number_is_no_verdict(root, pump, bad):
    detector = Detector.load(root / "data" / "detector")
    with torch.no_grad():
        detector.representations.pretrained.encoder.norm.weight.fill_(bad)
    with pytest.raises(ValueError, match="not a number: it cannot be judged"):
        detector.score(pump, 16000, "pump", "id_00")


def test_the_level_of_a_recording_says_nothing(detector, pump):
    loud = detector.score(pump, 16000, "pump", "id_00")
    for gain in (0.25, 0.5, 2.0):
        assert detector.score(gain * pump, 16000, "pump", "id_00").score == pytest.approx(loud.score, abs=0.15)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda sound: 10 * sound, "dB louder than any healthy recording known"),
        (lambda sound: 0.02 * sound, "dB softer than any healthy recording known"),
        (lambda sound: soxr.resample(soxr.resample(sound, 16000, 6000), 6000, 16000), "nothing above 3."),
        (lambda sound: 3.3 * sound, None),
    ],
)
def test_a_recording_unlike_those_known_is_said_to_be(detector, pump, change, words):
    warnings = detector.score(change(0.3 * pump).astype(np.float32), 16000, "pump", "id_00").warnings[:-1]
    assert not warnings if words is None else any(words in warning for warning in warnings), warnings


def test_a_short_recording_is_repeated_to_fill_a_window(detector, pump):
    log_mel = np.concatenate(list(detector.spectrogram([pump])))[:25]
    windows = detector.windows(log_mel)
    assert windows.shape == (1, 40, 32)
    np.testing.assert_array_equal(windows[0, 25:], windows[0, :15])


def test_a_file_of_another_rate_and_more_channels_is_read_as_the_corpus_is(detector, pump, tmp_path):
    other = soxr.resample(pump, 16000, 44100)
    soundfile.write(tmp_path / "a.wav", np.stack([np.zeros_like(other), other], 1), 44100, subtype="FLOAT")
    verdict = detector.score_file(tmp_path / "a.wav", "pump", "id_00", channel=1)
    assert verdict.score == pytest.approx(detector.score(other, 44100, "pump", "id_00").score, abs=1e-3)
    expected = detector.score(read_clip(tmp_path / "a.wav", 1), 16000, "pump", "id_00").score
    assert verdict.score == pytest.approx(expected, abs=1e-6)
    with pytest.raises(ValueError, match="silent"):
        detector.score_file(tmp_path / "a.wav", "pump", "id_00", channel=0)


def test_many_threads_at_once_get_what_one_gets(detector, root):
    clips = sorted((root / "data" / "raw" / "fan" / "test").glob("*id_00*"))
    alone = [detector.score_file(clip, "fan", "id_00") for clip in clips]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda clip: detector.score_file(clip, "fan", "id_00"), clips * 4))
    for one, many in zip(alone * 4, together, strict=True):
        assert one == many


@pytest.mark.parametrize(
    ("waveform", "message"),
    [
        (np.zeros(32000), "silent"),
        (np.full(32000, 0.25), "silent"),
        (np.ones(15000), "0.938 s of sound, at least 0.95 s"),
        (np.zeros(0), "0 s of sound"),
        (np.full(32000, np.nan), "not finite"),
        (np.zeros((32000, 2)), r"shape \(32000, 2\)"),
        (np.arange(32000, dtype=np.int16), "int16 values: floats"),
    ],
)
def test_sound_that_cannot_be_judged(detector, waveform, message):
    with pytest.raises(ValueError, match=message):
        detector.score(waveform, 16000, "pump", "id_00")


@pytest.mark.parametrize("rate", [0, 1, 10**7])
def test_a_sample_rate_that_cannot_be(detector, pump, rate):
    with pytest.raises(ValueError, match=f"sample rate of {rate} Hz"):
        detector.score(pump, rate, "pump", "id_00")


def test_unknown_machines_and_back_ends_are_answered_with_the_known_ones(detector, pump):
    with pytest.raises(ValueError, match=r"pump id_09 is unknown\. Known: fan id_00 id_02; pump id_00"):
        detector.score(pump, 16000, "pump", "id_09")
    with pytest.raises(ValueError, match="'knn' is unknown: combined, label_free, negative_log_probability"):
        detector.score(pump, 16000, "pump", "id_00", "knn")


@pytest.fixture
def folder(root, tmp_path):
    return shutil.copytree(root / "data" / "detector", tmp_path / "detector")


def test_a_moved_detector_saves_the_same_again(folder, detector, pump, tmp_path):
    moved = Detector.load(folder)
    assert moved.score(pump, 16000, "pump", "id_00") == detector.score(pump, 16000, "pump", "id_00")
    moved.save(tmp_path / "again")
    for name in FILES:
        again, before = ((place / name).read_text("latin-1") for place in (tmp_path / "again", folder))
        if name == "detector.json":  # a detector that does not say its date has that of its file once it is loaded
            again = again.replace(f'"created": "{moved.description.created}"', '"created": ""')
        assert again == before


@pytest.mark.parametrize("name", FILES)
def test_a_missing_or_changed_file_is_named(folder, name):
    data = bytearray((folder / name).read_bytes())
    data[len(data) // 2] ^= 1
    (folder / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name} is not the file that was saved"):
        Detector.load(folder)
    (folder / name).unlink()
    with pytest.raises(ValueError, match=rf"{name} is missing"):
        Detector.load(folder)


def seal(folder):
    """Make checksums.json agree with the files, as someone who tampers with them would."""
    sums = {name: sha256(folder / name) for name in FILES}
    (folder / "checksums.json").write_text(json.dumps(sums))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("detector.json", b"[]"),
        ("detector.json", b"{}"),
        ("detector.json", b'{"format": 2, "settings": {"surprise": 1}}'),
        ("detector.json", b'{"format": 1}'),
        ("detector.json", b"[" * 100_000),
        ("finetuned/config.json", b'{"format": 1}'),
        ("finetuned/model.safetensors", b"\x80\x04."),
        ("ensemble.safetensors", b"\x80\x04."),
        ("recordings.safetensors", b"\x80\x04."),
        ("recordings.json", b"[1]"),
        ("recordings.json", b"[" * 100_000),
        ("checksums.json", b"not JSON"),
    ],
)
def test_a_sealed_forgery_is_one_clear_error(folder, name, content):
    (folder / name).write_bytes(content)
    if name != "checksums.json":
        seal(folder)
    with pytest.raises(ValueError) as error:
        Detector.load(folder)
    assert str(folder) in str(error.value) and "\n" not in str(error.value)


def change_json(folder, name, change):
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


@pytest.mark.parametrize(
    ("name", "change", "message"),
    [
        ("detector.json", lambda d: d["settings"].update(window_hop=-1), "window_hop"),
        ("detector.json", lambda d: d["settings"].update(false_alarms=0), "false_alarms"),
        ("detector.json", lambda d: d["settings"].update(backend="knn"), "backend"),
        ("detector.json", lambda d: d["machines"].append(d["machines"][0]), "stands in it twice"),
        ("detector.json", lambda d: d["machines"].pop(), "not a network of the machines"),
        ("pretrained/config.json", lambda d: d["scale"].update(std=0.0), "must be positive"),
        ("pretrained/config.json", lambda d: d["scale"].update(mean=float("nan")), "mean is nan"),
        ("pretrained/config.json", lambda d: d["sizes"].update(heads=True), "heads is True"),
        ("pretrained/config.json", lambda d: d["sizes"].update(patch_mels=0), "patch_mels is 0"),
        ("pretrained/config.json", lambda d: d["sizes"].update(frames=65_500, patch_frames=1), "tokens, at most 8192"),
        ("pretrained/config.json", lambda d: d["sizes"].pop("heads"), "heads: missing"),
        ("pretrained/config.json", lambda d: d["logmel"].clear(), "amin, f_max, .*: missing"),
        ("pretrained/config.json", lambda d: d["logmel"].update(hop_length=0), "hop_length is 0"),
        ("pretrained/config.json", lambda d: d["logmel"].update(f_min=60.0), "logmel differ"),
        ("pretrained/config.json", lambda d: d.pop("norm_pix_loss"), "norm_pix_loss"),
        ("finetuned/config.json", lambda d: d["identities"].reverse(), "not a network of the machines"),
        ("recordings.json", lambda d: d[0].update(machine=99), "machine 99"),
        ("recordings.json", lambda d: d.pop(), "spectra does not hold"),
    ],
)
def test_a_sealed_change_is_named(folder, name, change, message):
    change_json(folder, name, change)
    seal(folder)
    with pytest.raises(ValueError, match=message) as error:
        Detector.load(folder)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("backends.finetuned_mahalanobis.means", lambda a: np.full_like(a, np.nan)),
        ("backends.finetuned_mahalanobis.means", lambda a: a[:, :-1]),
        ("backends.finetuned_mahalanobis.type_of", lambda a: a[:-1]),
        ("std_combined", lambda a: np.zeros_like(a)),
        ("mean_combined", lambda a: a[:-1]),
        ("backends.pretrained_nearest_neighbour.known", lambda a: a[:-1]),
    ],
)
def test_arrays_that_cannot_be_are_refused(folder, key, value):
    path = folder / "ensemble.safetensors"
    arrays = safetensors.numpy.load_file(path)
    arrays[key] = np.ascontiguousarray(value(arrays[key]))
    safetensors.numpy.save_file(arrays, path)
    seal(folder)
    with pytest.raises(ValueError, match=r"ensemble\.safetensors") as error:
        Detector.load(folder)
    assert "\n" not in str(error.value)


def test_nothing_pickled_is_ever_loaded(folder):
    torch.save({"classifier.weight": torch.zeros(1)}, folder / "finetuned" / "model.safetensors")
    seal(folder)
    with pytest.raises(ValueError, match=r"model\.safetensors is damaged"):
        Detector.load(folder)


def test_no_detector_says_how_to_get_one(tmp_path):
    with pytest.raises(ValueError, match=r"holds no detector .* `dvc repro`"):
        Detector.load(tmp_path)
