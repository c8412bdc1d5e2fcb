"""detect.py as a user runs it: verdicts, exit codes, bad input, the watcher as a process."""

import csv
import io
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import chdir
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import safetensors.numpy
import soundfile
from PIL import Image

import detect
from audio.clips import read_blocks, read_clip, write_clip
from audio.features import Features
from detection.detector import Detector
from stages import logmel_feature
from stages.params import load
from storage.files import sha256
from tests.conftest import ROOT
from tests.tiny_corpus import make_scored, sound


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_scored(tmp_path_factory.mktemp("detect"))


@pytest.fixture(scope="module")
def test_clips(root):
    return root / "data" / "raw" / "fan" / "test"


@pytest.fixture
def run(root, capsys, monkeypatch):
    """Runs detect.py on the trained detector, with RCMAE_DETECTOR: exit code, lines of stdout, stderr."""
    monkeypatch.setenv("RCMAE_DETECTOR", str(root / "data" / "detector"))

    def run(*values):
        code = detect.main([*map(str, values)])
        out, err = capsys.readouterr()
        return code, out.splitlines(), err

    return run


@pytest.mark.parametrize(
    "backend", ["negative_log_probability", "combined", "finetuned_nearest_neighbour", "pretrained_gaussian_mixture"]
)
def test_all_test_clips_score_as_in_the_table(root, run, backend):
    """Neither machine nor id is given: folders and names tell them."""
    code, lines, _ = run(root / "data" / "raw", "--json", "--backend", backend)
    table = pd.read_csv(root / "data" / "scores" / "scores.csv").set_index("clip")
    table = table[table["split"] == "test"]
    found = {
        Path(one["file"]).relative_to(root / "data" / "raw").with_suffix("").as_posix(): one
        for one in map(json.loads, lines)
    }
    assert code == 0 and set(table.index) < set(found)
    for clip, row in table.iterrows():
        assert found[clip]["score"] == pytest.approx(row[backend], rel=1e-4, abs=1e-4)
        assert (found[clip]["machine_type"], found[clip]["machine_id"]) == (row["machine_type"], row["machine_id"])


def test_a_recording_gets_the_features_that_training_got(root, tmp_path, monkeypatch):
    """Bit for bit: with the back-ends' steep scores, another last digit would be another verdict."""
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    raw = tmp_path / "raw"
    shutil.copytree(root / "data" / "raw", raw)
    long = np.concatenate([read_clip(path) for path in sorted(raw.glob("fan/test/*"))])[: 19 * 16000]
    write_clip(raw / "fan/test/normal_id_00_00000000.flac", long)  # read in two blocks
    pd.DataFrame(columns=["clip", "view"]).to_csv(tmp_path / "manifest.csv", index=False)
    detector = Detector.load(root / "data" / "detector")
    params = load("logmel-feature", ROOT, {"logmel.n_mels": 32, "logmel.f_max": 8000.0})
    logmel_feature.run(params, raw, tmp_path, tmp_path / "features", processes=1)
    features = Features.open(tmp_path / "features")
    assert features.settings == detector.front_end
    for row, clip in enumerate(features.index["clip"]):
        assert np.array_equal(
            features.read(row), np.concatenate(list(detector.spectrogram(read_blocks(raw / f"{clip}.flac"))))
        )


def test_the_line_says_it_all(run, test_clips):
    clip = test_clips / "normal_id_02_00000001.flac"
    code, (line,), _ = run(clip, "--machine", "fan", "--id", "2")
    told = json.loads(run(clip, "--machine", "fan", "--id", "id_02", "--json")[1][0])
    assert code == 0 and line.startswith(
        f"{clip}: fan id_02 is {told['verdict'].upper()}: of healthy recordings about "
    )
    assert f"(score {told['score']:.4g}, threshold {told['threshold']:.4g})" in line
    assert f"of {len(told['windows'])} windows above the threshold" in line
    assert set(told) == {
        "file", "verdict", "sentence", "machine_type", "machine_id", "backend", "score", "threshold", "anomalous",
        "p_value", "alpha", "n", "calibration", "warnings", "seconds", "windows", "detector",
    }  # fmt: skip


def recordings_of(run, test_clips, verdict):
    lines = run(test_clips, "--json")[1]
    return [one["file"] for one in map(json.loads, lines) if one["verdict"] == verdict]


def test_exit_codes(run, test_clips, tmp_path):
    normal, anomalous = (recordings_of(run, test_clips, verdict)[0] for verdict in ("normal", "anomalous"))
    assert run(normal, "--fail-on-anomaly")[0] == 0
    assert run(normal, anomalous, "--fail-on-anomaly")[0] == 1
    assert run(normal, anomalous)[0] == 0
    (tmp_path / "fan").mkdir()
    bad = tmp_path / "fan" / "normal_id_00_00000000.wav"
    bad.write_bytes(b"no sound")
    code, lines, err = run(bad, anomalous, "--fail-on-anomaly")
    assert code == 2 and len(lines) == 1 and err == f"{bad}: not judged: cannot be decoded (Format not recognised)\n"
    code, lines, _ = run(bad, anomalous, "--json")
    assert code == 2 and json.loads(lines[0]) == {
        "file": str(bad),
        "error": "cannot be decoded (Format not recognised)",
        "detector": json.loads(lines[1])["detector"],
    }


def tone(seconds, peak=0.1):
    return peak * np.sin(np.arange(int(16000 * seconds)))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("short.wav", tone(0.5), "0.5 s of sound, at least 0.95 s are needed"),
        ("silence.wav", tone(2, 0.0), "silent"),
        ("empty.wav", np.zeros(0), "0 s of sound"),
        ("missing.wav", None, "no such file"),
        ("text.wav", "a letter", "cannot be decoded"),
        ("headless.raw", "a letter", "does not say its sample rate"),
        ("loud.wav", tone(2, 30000.0), "beyond full scale"),
        ("broken.wav", np.full(32000, np.nan), "not finite"),
    ],
)
def test_bad_recordings_are_one_clear_line(run, tmp_path, name, content, message):
    path = tmp_path / name
    if isinstance(content, str):
        path.write_text(content)
    elif content is not None:
        soundfile.write(path, content, 16000, subtype="FLOAT")
    code, lines, err = run(path, "--machine", "fan", "--id", "00")
    assert code == 2 and lines == [] and err.count("\n") == 1
    assert err.startswith(f"{path}: not judged: ") and message in err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--machine", "fan", "--id", "09"], "machine fan 09 is unknown. Known: fan id_00 id_02; pump id_00"),
        (["--machine", "tractor"], "tractor"),
        (["--machine", "fan"], "which fan is it? Say --id, one of: id_00, id_02"),
        ([], "which machine is it? Say --machine, one of: fan, pump"),
    ],
)
def test_an_unknown_machine_is_answered_with_the_known_ones(run, tmp_path, options, message):
    soundfile.write(tmp_path / "a.wav", tone(2), 16000)
    code, _, err = run(tmp_path / "a.wav", *options)
    assert code == 2 and message in err
    assert run(tmp_path / "a.wav", "--machine", "pump")[0] == 0  # there is just one pump


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--backend", "knn", "a.wav"], "'knn' is unknown: combined, label_free"),
        (["--model", "nowhere", "a.wav"], "nowhere holds no detector"),
        (["watch", "nowhere"], "nowhere: no such folder"),
        (["watch", ".", "--record", "nowhere/verdicts.csv"], "nowhere/verdicts.csv: no such folder"),
        (["watch", ".", "--sinks", "nowhere.yaml"], "nowhere.yaml"),
        (["export", "nowhere/model.onnx"], "nowhere/model.onnx: no such folder"),
        (["explain", "a.wav", "--output", "nowhere/why.png"], "nowhere/why.png: no such folder"),
        (["enrol", ".", "--machine", "fan", "--id", "new", "--output", "nowhere/new"], "nowhere/new: no such folder"),
        (["enrol", ".", "--machine", "fan", "--id", "id_00", "--output", "new"], "fan id_00 is known already"),
        (["enrol", ".", "--machine", "fan", "--id", "a/b", "--output", "new"], "'a/b' has a '/'"),
        (["enrol", ".", "--machine", "fan", "--id", "new", "--output", "."], ". exists: give the name of a new"),
        (["calibrate", ".", "--machine", "fan", "--id", "9", "--output", "new"], "machine fan 9 is unknown"),
        (["calibrate", ".", "--machine", "fan", "--id", "0", "--output", "new"], ".: a folder, not a file of sound"),
        (
            ["calibrate", "--adopt", "a.wav", "--replace", "--machine", "fan", "--id", "0", "--output", "new"],
            "--adopt joins what is known",
        ),
        (["listen", "-", "--machine", "fan", "--id", "0"], "--rate is needed"),
        (["listen", "nowhere", "--rate", "16000", "--machine", "fan", "--id", "0"], "nowhere is not a named pipe"),
        (["listen", "-"], "which machine is it? Say --machine"),
        (["serve", "--host", "0.0.0.0"], "0.0.0.0 is reached from other computers: give a token"),
    ],
)
def test_what_cannot_begin_is_one_line_and_leaves_nothing(run, tmp_path, options, message):
    with chdir(tmp_path):
        code, _, err = run(*options)
    assert code == 2 and message in err and err.startswith("detect.py: ") and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options",
    [
        [],
        [""],
        ["--json"],
        ["a.wav", "--record", "b.csv"],
        ["judge", "a.wav", "--port", "80"],
        ["judge", "a.wav", "--output", "why.png"],
        ["explain", "a.wav"],
        ["explain", "a.wav", "b.wav", "--output", "c.png"],
        ["watch", "a", "--fail-on-anomaly"],
        ["explain", "a.wav", "--channel", "all", "--output", "c.png"],
        ["listen", "a", "b"],
        ["serve", "--machine", "fan"],
        ["serve", "--port", "65536"],
        ["export"],
        ["export", "a.onnx", "--channel", "0"],
        ["calibrate", "--machine", "fan", "--id", "id_00", "--output", "new"],
        ["calibrate", "a", "--adopt", "b", "--machine", "fan", "--id", "id_00", "--output", "new"],
        ["enrol", "a", "--machine", "fan", "--id", "new"],
        ["enrol", "a", "--machine", "fan", "--id", "new", "--output", "new", "--replace"],
        ["a.wav", "--channel", "-1"],
        ["a.wav", "--longest", "0"],
        ["a.wav", "--false-discoveries", "1"],
    ],
)
def test_an_option_that_does_not_apply_is_an_error(run, options):
    with pytest.raises(SystemExit) as error:
        run(*options)
    assert error.value.code == 2


@pytest.mark.parametrize("rate", [1, 4_000_000])
def test_a_rate_that_would_fill_the_memory_is_refused(run, tmp_path, rate):
    soundfile.write(tmp_path / "a.wav", tone(2), rate)
    code, _, err = run(tmp_path / "a.wav", "--machine", "pump")
    assert code == 2 and err.endswith(f"sample rate of {rate} Hz, allowed are 1000 to 1000000\n")


def test_an_empty_folder_is_an_error_and_the_others_are_judged(run, test_clips, tmp_path):
    code, lines, err = run(tmp_path, test_clips / "normal_id_00_00000000.flac")
    assert code == 2 and len(lines) == 1
    assert err == f"{tmp_path}: not judged: no sound file in this folder\n"


def test_a_strange_name_stays_one_line(run, test_clips, tmp_path):
    (tmp_path / "fan").mkdir()
    strange = shutil.copy(test_clips / "normal_id_00_00000000.flac", tmp_path / "fan" / "Lüfter\n\udcff.flac")
    code, lines, _ = run("explain", strange, "--id", "00", "--output", tmp_path / "why.png")
    assert code == 0 and len(lines) == 1 and lines[0].startswith(f"{tmp_path}/fan/Lüfter\\n\\udcff.flac: fan id_00 is")


def test_a_recording_from_stdin(run, test_clips, monkeypatch):
    clip = test_clips / "anomaly_id_00_00000000.flac"
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(clip.read_bytes())))
    code, lines, _ = run("-", "--machine", "fan", "--id", "00", "--json")
    again = json.loads(run(clip, "--json")[1][0])
    assert code == 0 and json.loads(lines[0]) == again | {"file": "-"}


def test_another_rate_and_channel(run, test_clips, tmp_path):
    clip = read_clip(test_clips / "anomaly_id_00_00000000.flac")
    soundfile.write(tmp_path / "two.wav", np.stack([0.5 * clip, clip], 1), 16000, subtype="PCM_24")
    one, two = (
        json.loads(run(path, "--machine", "fan", "--id", "00", "--channel", channel, "--json")[1][0])["score"]
        for path, channel in ((test_clips / "anomaly_id_00_00000000.flac", 0), (tmp_path / "two.wav", 1))
    )
    assert one == pytest.approx(two, abs=1e-6)
    assert "no channel 2" in run(tmp_path / "two.wav", "--machine", "fan", "--id", "00", "--channel", 2)[2]


def test_the_picture_of_why(run, test_clips, tmp_path):
    clip = test_clips / "anomaly_id_00_00000001.flac"
    assert run("explain", clip, "--output", tmp_path / "why.png")[0] == 0
    pixels = np.asarray(Image.open(tmp_path / "why.png").convert("L"))
    assert pixels.shape[0] > 500 and pixels.std() > 20


def test_a_moved_detector_needs_nothing_of_the_repository(root, test_clips, tmp_path):
    moved = shutil.copytree(root / "data" / "detector", tmp_path / "elsewhere")
    command = [
        sys.executable,
        ROOT / "detect.py",
        test_clips / "normal_id_00_00000000.flac",
        "--model",
        moved,
        "--json",
    ]
    run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert run.returncode == 0 and "score" in json.loads(run.stdout)


def test_the_watcher_survives_a_stop_and_judges_each_recording_once(root, test_clips, tmp_path):
    incoming = tmp_path / "fan"
    incoming.mkdir()
    command = [sys.executable, "detect.py", "watch", incoming, "--model", root / "data" / "detector"]

    def watch_until(count):
        with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process:
            until = time.monotonic() + 180
            while time.monotonic() < until and len(rows()) < count:
                time.sleep(0.1)
            process.send_signal(signal.SIGTERM)
            assert process.wait(60) == 0

    def rows():
        path = incoming / "verdicts.csv"
        return list(csv.DictReader(path.open(encoding="utf-8"))) if path.is_file() else []

    shutil.copy(test_clips / "normal_id_00_00000000.flac", incoming)
    (incoming / "normal_id_00_00000009.wav").write_bytes(b"no sound")
    watch_until(2)
    shutil.copy(test_clips / "anomaly_id_02_00000000.flac", incoming)
    watch_until(3)
    first, second, third = rows()
    assert first["verdict"] in ("normal", "anomalous") and 0 < float(first["p_value"]) <= 1 and first["error"] == ""
    assert second["verdict"] == "" and "cannot be decoded" in second["error"]
    assert third["file"] == "anomaly_id_02_00000000.flac" and third["machine_id"] == "id_02"


def test_many_recordings_are_called_together(run, test_clips):
    lines = [json.loads(line) for line in run(test_clips, "--json", "--false-discoveries", "0.3")[1]]
    assert [line["file"] for line in lines] == [str(path) for path in sorted(test_clips.iterdir())]  # in their order
    ranked = sorted(line["p_value"] for line in lines)
    most = max([p for rank, p in enumerate(ranked, 1) if p <= 0.3 * rank / len(ranked)], default=0.0)
    assert [line["called"] for line in lines] == [
        "anomalous" if line["p_value"] <= most else "normal" for line in lines
    ]
    assert run(test_clips, "--false-discoveries", "0.000001", "--fail-on-anomaly")[0] == 0


def test_a_pipe_and_a_closed_standard_input(run, test_clips, tmp_path, monkeypatch):
    clip, pipe = test_clips / "anomaly_id_00_00000000.flac", tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_bytes, args=(clip.read_bytes(),))
    writer.start()
    code, lines, _ = run(pipe, "--machine", "fan", "--id", "00", "--json")
    writer.join()
    assert code == 0 and json.loads(lines[0]) == json.loads(run(clip, "--json")[1][0]) | {"file": str(pipe)}
    monkeypatch.setattr(sys, "stdin", None)
    assert run("-", "--machine", "fan", "--id", "00")[::2] == (2, "-: not judged: the standard input is closed\n")


def test_a_name_that_is_too_long_ends_nothing(run, test_clips):
    code, lines, err = run("x" * 300, test_clips / "normal_id_00_00000000.flac")
    assert code == 2 and len(lines) == 1 and err == f"{'x' * 300}: not judged: File name too long\n"


def test_a_recording_longer_than_allowed(run, test_clips):
    code, _, err = run(test_clips / "normal_id_00_00000001.flac", "--longest", "1.5")
    assert code == 2 and "longer than" in err


def test_each_channel_is_a_sensor(run, test_clips, tmp_path):
    clip = read_clip(test_clips / "anomaly_id_00_00000000.flac")
    soundfile.write(tmp_path / "two.wav", np.stack([clip, 0.5 * clip], 1), 16000, subtype="PCM_24")
    _, lines, _ = run(tmp_path / "two.wav", "--machine", "fan", "--id", "00", "--channel", "all", "--json")
    assert [json.loads(line)["file"] for line in lines] == [f"{tmp_path}/two.wav, channel {each}" for each in (0, 1)]


def test_recordings_and_machines_are_taken_in_from_the_command_line(run, root, tmp_path):
    before = {path: path.read_bytes() for path in (root / "data/detector").rglob("*.*")}
    machine = ["--machine", "fan", "--id", "Lüfter Nord"]
    rng = np.random.default_rng(7)
    (tmp_path / "other").mkdir()
    for number in range(12):
        write_clip(tmp_path / "other" / f"{number:02d}.flac", sound(600.0, 2.0, False, rng))
    write_clip(tmp_path / "alarm.flac", sound(600.0, 2.0, False, rng))
    write_clip(tmp_path / "silent.flac", np.zeros(32000))
    alarm = tmp_path / "alarm.flac"
    code, _, err = run("enrol", tmp_path, *machine, "--output", tmp_path / "bad")
    assert code == 2 and err == f"detect.py: {tmp_path}/silent.flac: the recording is silent\n"
    assert run("enrol", alarm, *machine, "--output", tmp_path / "bad")[2].endswith("at least 2 are needed\n")
    assert not (tmp_path / "bad").exists()
    assert run("enrol", tmp_path / "other", *machine, "--output", tmp_path / "first")[0] == 0
    second = ["--output", tmp_path / "second", "--model", tmp_path / "first"]
    assert run("calibrate", "--adopt", alarm, *machine, *second)[0] == 0
    told = json.loads(run(alarm, *machine, "--model", tmp_path / "second", "--json")[1][0])
    assert told["n"] == 13 and told["detector"]["machines"]["fan"][-1] == "Lüfter Nord"
    journal = json.loads((tmp_path / "second/detector.json").read_text())["journal"]
    assert [entry["what"] for entry in journal] == ["enrolled", "calibrated"]
    assert {path: path.read_bytes() for path in before} == before


@pytest.mark.parametrize("wrong", ["nan in a back-end", "std of 0", "constant scores"])
@pytest.mark.parametrize("command", ["judge", "explain", "watch", "serve", "export", "calibrate", "enrol"])
def test_a_wrong_detector_judges_nothing(run, root, test_clips, tmp_path, command, wrong):
    """With checksums made anew: every subcommand ends with exit code 2 and a line, and writes nothing."""
    model = Path(shutil.copytree(root / "data/detector", tmp_path / "detector"))
    name = "recordings" if wrong == "constant scores" else "ensemble"
    arrays = safetensors.numpy.load_file(model / f"{name}.safetensors")
    for key in arrays:
        if wrong == "nan in a back-end" and key.endswith("pretrained_mahalanobis.means"):
            arrays[key][0, 0] = np.nan
        if wrong == "std of 0" and key == "std_combined":
            arrays[key][0] = 0
        if wrong == "constant scores" and key not in ("spectra", "frames"):
            arrays[key][:] = 1.5
    safetensors.numpy.save_file(arrays, model / f"{name}.safetensors")
    sums = json.loads((model / "checksums.json").read_text())
    sums |= {f"{name}.safetensors": sha256(model / f"{name}.safetensors")}
    (model / "checksums.json").write_text(json.dumps(sums))
    machine, new = ["--machine", "fan", "--id", "id_00"], tmp_path / "new.png"
    options = {
        "judge": [test_clips / "normal_id_00_00000000.flac"],
        "explain": [test_clips / "normal_id_00_00000000.flac", "--output", new],
        "watch": [test_clips],
        "serve": [],
        "export": [new],
        "calibrate": [test_clips, *machine, "--output", new],
        "enrol": [test_clips, "--machine", "fan", "--id", "new", "--output", new],
    }
    code, lines, err = run(command, *options[command], "--model", model)
    assert code == 2 and lines == [] and err.count("\n") == 1
    assert not new.exists() and not (test_clips / "verdicts.csv").exists()
