"""New recordings and machines taken in without training: what changes, what does not, and what is refused."""

import shutil

import numpy as np
import pytest
from scipy.stats import betabinom

from audio.clips import write_clip
from detection.detector import Detector
from detection.enrolment import calibrate, enrol, hear
from tests.tiny_corpus import sound


@pytest.fixture
def record(tmp_path):
    """Writes recordings of a machine of one frequency; gives their paths."""

    def record(frequency, count, seed, anomalous=False, name="new"):
        rng = np.random.default_rng(seed)
        paths = [tmp_path / f"{name}_{seed}_{number}.flac" for number in range(count)]
        for path in paths:
            write_clip(path, sound(frequency, 2.0, anomalous, rng))
        return paths

    return record


# The most of 20 healthy recordings that raise an alarm at 0.1, in 999 of 1000 calibrations with 20 recordings.
MOST = betabinom.ppf(0.999, 20, 2, 19)


def p_values(detector, paths, machine):
    return np.array([detector.score_file(path, *machine).p_value for path in paths])


def test_an_enrolled_machine_is_judged_and_the_others_as_before(detector, record, tmp_path):
    """A fan that the networks never heard, whose tone lies between those of the fans that they did."""
    other = enrol(detector, "fan", "Lüfter Nord", hear(detector, record(600.0, 20, seed=1)))
    machine = ("fan", "Lüfter Nord")
    healthy = p_values(other, record(600.0, 20, seed=2), machine)
    faulty = p_values(other, record(600.0, 10, seed=3, anomalous=True), machine)
    assert np.sum(healthy <= 0.1) <= MOST and np.mean(faulty <= 0.1) >= 0.8
    verdict = other.score_file(record(600.0, 1, seed=4)[0], *machine)
    assert verdict.n == 20 and verdict.calibration == "held-out"
    clip = record(900.0, 1, seed=5)[0]
    before, after = (each.score_file(clip, "fan", "id_02") for each in (detector, other))
    assert after.score == pytest.approx(before.score, rel=1e-5)  # rounded elsewhere in a product of another shape
    assert (after.p_value, after.threshold, after.n) == (before.p_value, before.threshold, before.n)
    with pytest.raises(ValueError, match="not a number"):
        other.score_file(clip, *machine, "negative_log_probability")
    other.save(tmp_path / "other")
    assert Detector.load(tmp_path / "other").score_file(clip, *machine) == other.score_file(clip, *machine)
    entry = Detector.load(tmp_path / "other").description.journal[-1]
    assert entry.what == "enrolled" and entry.machine == "fan/Lüfter Nord" and len(entry.recordings) == 20


def test_a_machine_of_a_new_type_shares_the_covariance_of_all(detector, record):
    other = enrol(detector, "gearbox", "1", hear(detector, record(1400.0, 20, seed=1)))
    assert other.machines["gearbox"] == ["1"]
    assert np.sum(p_values(other, record(1400.0, 20, seed=2), ("gearbox", "1")) <= 0.1) <= MOST
    assert np.mean(p_values(other, record(1400.0, 10, seed=3, anomalous=True), ("gearbox", "1")) <= 0.1) >= 0.8


def test_calibration_after_a_service_replaces_what_was_known(detector, record):
    """The pump now turns faster: every recording is an alarm, until it is calibrated anew."""
    fresh, machine = record(2650.0, 20, seed=2), ("pump", "id_00")
    before = p_values(detector, fresh, machine)
    other = calibrate(detector, "pump/id_00", hear(detector, record(2650.0, 20, seed=1)), replace=True)
    after = p_values(other, fresh, machine)
    assert np.mean(before) < np.mean(after) and np.sum(after <= 0.1) <= MOST
    assert other.recordings.scores(2, "calibration", "combined").size == 20
    assert p_values(other, fresh[:1], machine) != before[:1] and detector.description.journal == []


def test_more_recordings_join_the_calibration(detector, record):
    other = calibrate(detector, "pump/id_00", hear(detector, record(2500.0, 10, seed=1)), replace=False)
    verdict = other.score_file(record(2500.0, 1, seed=2)[0], "pump", "id_00")
    assert verdict.n == 15 and verdict.backend == "combined" and verdict.alpha == 0.1  # 5 were too few


def test_what_cannot_be_taken_in_is_named_and_changes_nothing(detector, record, root, tmp_path):
    good = record(2500.0, 3, seed=1)
    known = shutil.copy(root / "data/raw/pump/train/normal_id_00_00000000.flac", tmp_path / "copy.flac")
    silent, short, text = tmp_path / "silent.flac", tmp_path / "short.flac", tmp_path / "text.wav"
    write_clip(silent, np.zeros(32000))
    write_clip(short, sound(2500.0, 0.3, False, np.random.default_rng(0)))
    text.write_text("a letter")
    with pytest.raises(ValueError) as error:
        hear(detector, [*good, tmp_path / "copy.flac", silent, short, text, good[0]])
    message = str(error.value)
    assert f"{known}: is known already, as pump/train/normal_id_00_00000000" in message
    for path in (silent, short, text):
        assert str(path) in message
    assert f"{good[0]}: is known already" in message and message.count("\n") == 4
    with pytest.raises(ValueError, match="fan id_00 is known already"):
        enrol(detector, "fan", "id_00", hear(detector, good))
    with pytest.raises(ValueError, match="1 recording, at least 2 are needed"):
        enrol(detector, "fan", "new", hear(detector, good[:1]))
