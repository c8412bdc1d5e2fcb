"""The detector as a graph says what the folder says, takes in what the folder takes in, and fails closed."""

import hashlib
import json

import numpy as np
import onnx
import pytest

from audio.clips import digest
from detection import onnx_file
from detection.detector import Detector
from detection.enrolment import Heard, calibrate, enrol
from detection.onnx_detector import OnnxDetector
from tests.tiny_corpus import sound

CLOSE = {"rel": 1e-2, "abs": 1e-2}


@pytest.fixture(scope="module")
def by_graph(graph):
    return Detector.load(graph)


def waveform(seconds, frequency=900.0, seed=0):
    return sound(frequency, seconds, False, np.random.default_rng(seed))


def heard(detector, frequency, count):
    waveforms = [waveform(2.0, frequency, seed) for seed in range(count)]
    return [Heard(digest(each), digest(each), *detector.represented([each])) for each in waveforms]


def agree(one, other, blocks, tolerance=1e-4):
    """Compares all scores of a waveform in blocks, and gives those of `other` (W, I) by back-end.

    Rounded to float16, a few values of the log-mels fall to the other side: windows with such a value agree less.
    """
    parts, differing, values = [], 0, 0
    for stretch in one._stretches(blocks):
        starts = stretch.starts - stretch.first
        (expected_sound, expected), (sound, found) = (each.scores_of(stretch.waveform, starts) for each in (one, other))
        np.testing.assert_allclose(sound.astype(float), expected_sound, atol=0.07)  # a step of float16 above 64
        differing, values = differing + (sound != expected_sound).sum(), values + sound.size
        assert expected.keys() == found.keys()
        for window, first in enumerate(starts):
            frames = np.arange(first, first + one.frames) % len(sound)
            allowed = tolerance if (sound[frames] == expected_sound[frames]).all() else 1e-2
            for name, scores in expected.items():
                wanted = pytest.approx(scores[window], rel=allowed, abs=allowed, nan_ok=True)
                assert found[name][window] == wanted, name
        parts.append(found)
    assert differing < 1e-3 * values
    return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}


@pytest.mark.parametrize(("seconds", "windows"), [(1.0, 1), (2.0, 3), (26.0, 40)])
def test_every_score_agrees_whatever_the_length(detector, by_graph, seconds, windows):
    sound = waveform(seconds, seed=2)
    scores = agree(detector, by_graph, np.split(sound, [16000, 30000]) if seconds > 1 else [sound])
    assert all(of_all.shape == (windows, 3) for of_all in scores.values())
    for name in ("fan", "id_02"), ("pump", "id_00"):
        one, other = (each.score(sound, 16000, *name) for each in (detector, by_graph))
        assert one.score == pytest.approx(other.score, **CLOSE)
        assert (one.p_value, one.threshold, one.n, one.warnings) == (
            other.p_value,
            other.threshold,
            other.n,
            other.warnings,
        )


@pytest.mark.parametrize("machine", [("fan", "Lüfter Nord"), ("gearbox", "1")])
def test_a_machine_is_enrolled_as_in_the_folder(detector, by_graph, machine, tmp_path):
    """One more of a type that is known, and one of a new type; -log p has no score for it."""
    other, of_graph = (enrol(each, *machine, heard(each, 600.0, 11)) for each in (detector, by_graph))
    of_graph.save(tmp_path / "other.onnx")
    again = Detector.load(tmp_path / "other.onnx")
    for each in (of_graph, again):
        scores = agree(other, each, [waveform(2.0, 600.0, 99)], 5e-3)
        assert np.isnan(scores["negative_log_probability"][:, 3]).all() and np.isfinite(scores["combined"]).all()
        assert each.threshold("/".join(machine)) == pytest.approx(other.threshold("/".join(machine)), **CLOSE)
        with pytest.raises(ValueError, match="not a number: it cannot be judged"):
            each.score(waveform(2.0), 16000, *machine, "negative_log_probability")
    assert again.description.journal[-1].machine == "/".join(machine)
    twice = enrol(again, "fan", "third", heard(again, 750.0, 3))  # what was written can be added to
    agree(enrol(other, "fan", "third", heard(other, 750.0, 3)), twice, [waveform(2.0)], 5e-3)


@pytest.mark.parametrize("replace", [False, True])
def test_recordings_are_taken_in_as_in_the_folder(detector, by_graph, replace):
    other, of_graph = (calibrate(each, "pump/id_00", heard(each, 2650.0, 11), replace) for each in (detector, by_graph))
    agree(other, of_graph, [waveform(2.0, 2650.0, 99)], 5e-3)
    expected, found = (each.calibration("pump/id_00", "combined") for each in (other, of_graph))
    assert found.source == expected.source and found.scores == pytest.approx(expected.scores, **CLOSE)
    assert {name: x.shape for name, x in other.arrays().items()} == {
        name: x.shape for name, x in of_graph.arrays().items()
    }


def test_a_file_with_any_byte_changed_or_cut_is_refused(graph, tmp_path):
    content = graph.read_bytes()
    path = tmp_path / "detector.onnx"
    for place in np.random.default_rng(0).integers(len(content), size=20):
        path.write_bytes(content[:place] + bytes([content[place] ^ 1]) + content[place + 1 :])
        with pytest.raises(ValueError, match=str(path)):
            Detector.load(path)
    for length in (0, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(ValueError, match=r"is cut, or is no detector"):
            Detector.load(path)


def reseal(path, change=lambda about: None, change_model=lambda model: None):
    """Change a detector as someone would who makes its checksum anew."""
    model = onnx.load(path)
    props = {each.key: each.value for each in model.metadata_props}
    about = json.loads(props["detector"])
    change(about)
    del model.metadata_props[:]
    change_model(model)
    onnx.helper.set_model_props(model, {"detector": json.dumps(about), "arrays": props["arrays"]})
    body = model.SerializeToString()
    path.write_bytes(body + onnx_file._property("sha256", hashlib.sha256(body).hexdigest()))


def filled(name, value):
    def change(model):
        (array,) = [each for each in model.graph.initializer if each.name == name]
        array.CopyFrom(onnx.numpy_helper.from_array(np.full_like(onnx.numpy_helper.to_array(array), value), name))

    return change


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: d["description"]["settings"].update(window_hop=-1), "window_hop"),
        (lambda d: d["description"]["settings"].update(false_alarms=0), "false_alarms"),
        (lambda d: d["description"].update(format=1), "format"),
        (lambda d: d["description"]["machines"].pop(), "machine"),
        (lambda d: d["front_end"].update(n_fft=512), "graph's front end|the graph fails"),
        (lambda d: d["front_end"].update(hop_length=0), "whole number"),
        (lambda d: d["front_end"].pop("amin"), "front_end"),
        (lambda d: d.update(frames=1), "frames"),
        (lambda d: d["recordings"].pop(), "spectra does not hold"),
        (lambda d: d["recordings"][0].update(machine=99), "machine 99"),
        (lambda d: d["backends"].append("label_free"), "backends"),
        (lambda d: d["thresholds"].update({"pump/id_00": float("nan")}), "thresholds"),
        (lambda d: d.update(surprise=1), "surprise"),
        (lambda d: d.clear(), "missing|required"),
    ],
)
def test_metadata_that_cannot_be_are_named(graph, tmp_path, change, message):
    path = tmp_path / "detector.onnx"
    path.write_bytes(graph.read_bytes())
    reseal(path, change)
    with pytest.raises(ValueError, match=message) as error:
        Detector.load(path)
    assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)


def test_a_graph_that_gives_no_numbers_gives_no_verdict(graph, tmp_path):
    path = tmp_path / "detector.onnx"
    path.write_bytes(graph.read_bytes())
    reseal(path, change_model=filled("backends.logmel_mahalanobis.means", np.nan))
    with pytest.raises(ValueError, match=r"not a number|not finite"):
        Detector.load(path).score(waveform(2.0), 16000, "fan", "id_02")


def test_a_key_signs_and_is_asked_for(by_graph, graph, tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_KEY", "a" * 40)
    with pytest.raises(ValueError, match="signature is missing"):
        Detector.load(graph)
    by_graph.save(tmp_path / "signed.onnx")
    assert isinstance(Detector.load(tmp_path / "signed.onnx"), OnnxDetector)
    monkeypatch.setenv("RCMAE_KEY", "b" * 40)
    with pytest.raises(ValueError, match="signature is not that of RCMAE_KEY"):
        Detector.load(tmp_path / "signed.onnx")
    monkeypatch.delenv("RCMAE_KEY")
    assert Detector.load(tmp_path / "signed.onnx").backends == by_graph.backends


def test_a_saved_detector_is_the_same_file_again(by_graph, graph, tmp_path):
    by_graph.save(tmp_path / "one.onnx")
    Detector.load(tmp_path / "one.onnx").save(tmp_path / "two.onnx")
    assert (tmp_path / "one.onnx").read_bytes() == (tmp_path / "two.onnx").read_bytes()
    agree(by_graph, Detector.load(tmp_path / "two.onnx"), [waveform(2.0)])
