"""Simulated machines: their description, their determinism, their mechanisms, and that the task is no trick."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from scipy.signal import find_peaks
from sklearn.metrics import roc_auc_score

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.synthetic.clips import mix, synthesise
from audio.synthetic.description import ClipSpec, Machines, read_description
from audio.synthetic.factory import factory
from audio.synthetic.machines import MECHANISMS, Fault
from audio.synthetic.signals import SAMPLE_RATE, SAMPLES

DESCRIPTION = Path(__file__).resolve().parents[2] / "corpora" / "synthetic.yaml"
TYPES = ["fan", "pump", "slider", "valve", "ToyCar", "ToyConveyor"]


@pytest.fixture(scope="module")
def machines() -> Machines:
    return read_description(DESCRIPTION)


def faults_of_all_types() -> list[tuple[str, str]]:
    described = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))["machines"]
    return [(machine_type, fault) for machine_type in described for fault in described[machine_type]["faults"]]


def find(machines: Machines, clip: str) -> ClipSpec:
    return next(spec for spec in machines.clips() if spec.clip == clip)


def run(machines: Machines, machine_type: str, machine_id: str, fault: Fault | None = None) -> np.ndarray:
    """The machine alone, without the factory."""
    design = getattr(machines.machines, machine_type).ids[machine_id]
    return MECHANISMS[machine_type](design, fault or Fault(), np.random.default_rng(5))


def frames_db(signal: np.ndarray, seconds: float = 0.02) -> np.ndarray:
    frames = signal[: SAMPLES - SAMPLES % round(seconds * SAMPLE_RATE)].reshape(-1, round(seconds * SAMPLE_RATE))
    return 10 * np.log10(np.mean(frames.astype(float) ** 2, axis=1) + 1e-20)


def spectrum_db(signal: np.ndarray) -> np.ndarray:
    return 20 * np.log10(np.abs(np.fft.rfft(signal * np.hanning(SAMPLES))) + 1e-9)  # bins of 0.1 Hz


# ------------------------------------------------------------------------------------------------- the description


def test_clips_have_dcase_names_and_the_described_numbers(machines):
    specs = list(machines.clips())
    assert len({spec.clip for spec in specs}) == len(specs) == 6 * 3 * (14 + 39 + 8 + 8)
    assert Counter(spec.machine_type for spec in specs) == dict.fromkeys(TYPES, 3 * 69)
    for spec in specs:
        assert re.fullmatch(
            rf"{spec.machine_type}/{spec.split}/{spec.condition}_{spec.machine_id}_\d{{8}}", spec.clip
        ), spec
        assert spec.subset == "dev"
        assert (spec.fault is not None) == (spec.condition == "anomaly")
        assert spec.split == "test" or spec.condition == "normal"


def test_every_fault_occurs_at_every_machine(machines):
    for machine_type, fault in faults_of_all_types():
        hit = {s.machine_id for s in machines.clips() if s.machine_type == machine_type and s.fault == fault}
        assert hit == set(getattr(machines.machines, machine_type).ids)


def test_a_type_can_be_left_out(machines, tmp_path):
    described = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))
    described["machines"] = {"valve": described["machines"]["valve"]}
    path = tmp_path / "valves.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    assert [s for s in machines.clips() if s.machine_type == "valve"] == list(read_description(path).clips())


@pytest.mark.parametrize(
    ("keys", "value", "message"),
    [
        (("clips", "train_normals"), 3, "clips.train_normals is not a key of a description"),
        (("clips", "train_normal"), 0, "clips.train_normal is 0: input should be greater than or equal to 1"),
        (("clips", "test_normal"), 10**11, "clips.test_normal is 100000000000: input should be less than or equal to"),
        (("clips", "train_normal"), 99_999, "clips in all, at most 1000000 are allowed: lower those of `clips`"),
        (("machines", "fan", "ids", "id_00", "harmonics"), 10**9, "harmonics is 1000000000: input should be less than"),
        (("machines", "slider", "ids", "id_00", "stroke_s"), 1e-9, "input should be greater than or equal to 0.01"),
        (("seed",), "one", "seed is 'one': input should be a valid integer"),
        (("recording", "level_dbfs"), -3.0, "recording.level_dbfs is -3.0: input should be less than or equal to -30"),
        (("background", "event_db"), [0.0, -3.0], "background.event_db is [0.0, -3.0]: the first value must not be"),
        (("machines", "fan", "faults", "clogging"), [0.3, 1.5], "machines.fan.faults.clogging.1 is 1.5: input should"),
        (("machines", "fan", "faults", "rust"), [0.3, 1.0], "machines.fan.faults.rust"),
        (("machines", "fan", "ids", "id_00", "blades"), 2.5, "machines.fan.ids.id_00.blades is 2.5"),
        (("machines", "fan", "ids", "id_0"), {}, "machines.fan.ids.id_0"),
        (("machines", "valve", "ids", "id_00", "open_s"), 1.5, "id_00: open_s 1.5 must be below period_s 1.0"),
        (("machines", "train"), {}, "machines.train is not a key of a description"),
        (("machines",), {}, "no machine type is described"),
        (("background",), None, "background is None"),
    ],
)
def test_a_mistake_is_one_line_that_names_its_key(tmp_path, keys, value, message):
    described = yaml.safe_load(DESCRIPTION.read_text(encoding="utf-8"))
    group = described
    for key in keys[:-1]:
        group = group[key]
    group[keys[-1]] = value
    path = tmp_path / "wrong.yaml"
    path.write_text(yaml.safe_dump(described, sort_keys=False), encoding="utf-8")
    with pytest.raises(ValueError, match=re.escape(message)) as caught:
        read_description(path)
    assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_a_missing_key_and_a_broken_file_are_named(tmp_path):
    path = tmp_path / "wrong.yaml"
    path.write_text("seed: 0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="recording is missing"):
        read_description(path)
    path.write_text("seed: [0\n", encoding="utf-8")
    with pytest.raises(ValueError, match="is not YAML"):
        read_description(path)


# ------------------------------------------------------------------------------------------------------- the clips


@pytest.mark.parametrize("machine_type", TYPES)
def test_a_clip_depends_on_seed_and_name_alone(machines, machine_type):
    specs = [spec for spec in machines.clips() if spec.machine_type == machine_type][12:16]
    forwards = [synthesise(spec, machines) for spec in specs]
    more = machines.model_copy(update={"clips_per_id": machines.clips_per_id.model_copy(update={"train_normal": 20})})
    backwards = [synthesise(find(more, spec.clip), more) for spec in reversed(specs)]
    for one, other in zip(forwards, reversed(backwards), strict=True):
        np.testing.assert_array_equal(one, other)
    assert not np.array_equal(forwards[0], forwards[1])
    assert not np.array_equal(forwards[0], synthesise(specs[0], machines.model_copy(update={"seed": 1})))


SYNTHESISE = """
import sys
from pathlib import Path
from audio.clips import digest
from audio.synthetic.clips import synthesise
from audio.synthetic.description import read_description
machines = read_description(Path(sys.argv[1]))
for spec in {spec.machine_type: spec for spec in machines.clips()}.values():
    print(spec.clip, digest(synthesise(spec, machines)))
"""


def test_a_clip_is_the_same_whatever_the_processor_multiplies_matrices_with():
    """Else dvc.lock's data/raw would be that of one kind of machine."""
    made = {
        kernel: subprocess.run(
            [sys.executable, "-c", SYNTHESISE, DESCRIPTION],
            env=os.environ | {"OPENBLAS_CORETYPE": kernel},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for kernel in ("Prescott", "Haswell")
    }
    assert made["Prescott"] == made["Haswell"] and len(made["Haswell"].splitlines()) == 6


def test_machine_and_background_stand_at_the_stated_ratio():
    rng = np.random.default_rng(0)
    machine, background = 3.0 * rng.standard_normal(SAMPLES), 0.1 * rng.standard_normal(SAMPLES)
    mixed = mix(machine, background, snr_db=-6.0)
    noise = background / np.sqrt(np.mean(background**2))
    assert 10 * np.log10(np.mean((mixed - noise) ** 2) / np.mean(noise**2)) == pytest.approx(-6.0, abs=1e-3)


def test_the_background_changes_from_clip_to_clip_and_has_unit_power(machines):
    one, other = (factory(machines.background, np.random.default_rng(seed)) for seed in (0, 1))
    assert np.mean(one**2) == pytest.approx(1, rel=1e-3)
    assert abs(np.corrcoef(one, other)[0, 1]) < 0.1


# -------------------------------------------------------------------------------------------------- the mechanisms


def test_a_fan_has_lines_at_its_blade_pass_harmonics(machines):
    design = machines.machines.fan.ids["id_02"]
    spectrum = spectrum_db(run(machines, "fan", "id_02"))
    for harmonic in (1, 2, 3):
        centre = round(10 * harmonic * design.speed_hz * design.blades)
        near = spectrum[round(0.98 * centre) : round(1.02 * centre)].max()
        assert near > np.median(spectrum[round(0.85 * centre) : round(1.15 * centre)]) + 15


def test_a_clogged_pump_cavitates_more(machines):
    def brightness(fault):
        sound = torch.tensor(run(machines, "pump", "id_02", fault))
        return log_mel(sound, LogMelSettings())[:, 100:].mean()  # above 4.5 kHz

    assert brightness(Fault("clogging", 1.0)) > brightness(Fault()) + 3


def test_a_slider_strokes_and_stops(machines):
    design = machines.machines.slider.ids["id_02"]
    level = np.convolve(frames_db(run(machines, "slider", "id_02")), np.ones(5) / 5, mode="same")
    moving = level > level.max() - 25
    strokes = np.count_nonzero(np.diff(moving.astype(int)) == 1)
    assert strokes == pytest.approx(10 / (design.stroke_s + design.pause_s), abs=1.5)
    assert 0.5 < moving.mean() < 0.95


def test_a_valve_is_silent_between_its_clicks(machines):
    design = machines.machines.valve.ids["id_04"]
    level = frames_db(run(machines, "valve", "id_04"))
    clicks, _ = find_peaks(level, height=level.max() - 20, distance=5)
    assert len(clicks) == pytest.approx(2 * 10 / design.period_s, abs=2)  # it opens and closes
    assert np.mean(level < level.max() - 50) > 0.5
    leaking = frames_db(run(machines, "valve", "id_04", Fault("leakage", 1.0)))
    assert np.mean(leaking < leaking.max() - 50) < 0.1


def test_a_toy_car_runs_up_to_its_gear_whine(machines):
    design = machines.machines.ToyCar.ids["id_01"]
    sound = run(machines, "ToyCar", "id_01")
    whine_hz = design.speed_hz * design.teeth
    strongest = [np.abs(np.fft.rfft(part)) for part in sound.reshape(10, -1)]  # bins of 1 Hz
    peaks = np.array([600 + part[600:1100].argmax() for part in strongest])
    assert np.all(abs(peaks[3:8] - whine_hz) < 0.04 * whine_hz)
    assert frames_db(sound)[:2].mean() < frames_db(sound)[200:300].mean() - 10


def test_a_damaged_pulley_knocks_once_per_turn(machines):
    design = machines.machines.ToyConveyor.ids["id_01"]

    def knocking(fault):
        level = frames_db(run(machines, "ToyConveyor", "id_01", fault), seconds=0.005)
        beats = np.abs(np.fft.rfft(level - level.mean()))  # bins of 0.1 Hz
        second = round(2 * 10 * design.roller_hz)
        return beats[second - 4 : second + 5].max() / np.median(beats)

    assert knocking(Fault("damaged_pulley", 1.0)) > 2 * knocking(Fault())


@pytest.mark.parametrize(("machine_type", "fault"), faults_of_all_types())
def test_a_fault_changes_its_machine_the_more_the_worse(machines, machine_type, fault):
    machine_id = next(iter(getattr(machines.machines, machine_type).ids))
    sound, slight, bad = (
        log_mel(torch.tensor(run(machines, machine_type, machine_id, Fault(fault, severity))), LogMelSettings())
        for severity in (0.0, 0.05, 1.0)
    )
    slight, bad = ((changed - sound).abs().clamp(max=40).flatten() for changed in (slight, bad))
    assert bad.quantile(0.995) > 5  # dB: some faults are a knock now and then
    assert bad.mean() > 1.05 * slight.mean() > 0


# ---------------------------------------------------------------------------------------------------- not a trick


@pytest.fixture(scope="module")
def heard(machines) -> dict[tuple[str, str], list[tuple[ClipSpec, np.ndarray, float, float]]]:
    """Per machine (spec, mean and deviation of the log-mel, RMS in dB, peak) of every training and test clip."""
    rows = {}
    for spec in machines.clips():
        if spec.split == "calibration":
            continue
        waveform = synthesise(spec, machines)
        assert waveform.dtype == np.float32 and waveform.shape == (SAMPLES,)
        mel = log_mel(torch.from_numpy(waveform), LogMelSettings()).numpy()
        summary = np.concatenate([mel.mean(axis=0), mel.std(axis=0)])
        level = 10 * np.log10(np.mean(waveform.astype(float) ** 2))
        rows.setdefault((spec.machine_type, spec.machine_id), []).append((spec, summary, level, np.abs(waveform).max()))
    return rows


def auc_per_type(heard, distance) -> dict[str, float]:
    """Mean over the ids of a type of the AUC of distance(test values, training values)."""
    aucs = {}
    for (machine_type, _), rows in heard.items():
        train = [row for row in rows if row[0].split == "train"]
        test = [row for row in rows if row[0].split == "test"]
        anomalous = [row[0].condition == "anomaly" for row in test]
        aucs.setdefault(machine_type, []).append(roc_auc_score(anomalous, distance(test, train)))
    return {machine_type: float(np.mean(values)) for machine_type, values in aucs.items()}


def level_distance(test, train):
    return abs(np.array([row[2] for row in test]) - np.mean([row[2] for row in train]))


def nearest_neighbour(test, train):
    test, train = (np.array([row[1] for row in rows]) for rows in (test, train))
    test, train = ((values - train.mean(axis=0)) / train.std(axis=0) for values in (test, train))
    return np.linalg.norm(test[:, None] - train[None], axis=-1).min(axis=1)


@pytest.mark.slow
def test_clips_keep_their_level_and_never_reach_full_scale(machines, heard):
    recording = machines.recording
    for rows in heard.values():
        assert max(row[3] for row in rows) < 1
        assert all(abs(row[2] - recording.level_dbfs) <= recording.level_spread_db + 0.01 for row in rows)


@pytest.mark.slow
def test_level_alone_tells_nothing(heard):
    aucs = auc_per_type(heard, level_distance)
    assert all(0.35 < auc < 0.65 for auc in aucs.values()), aucs


@pytest.mark.slow
def test_the_task_is_neither_trivial_nor_hopeless(heard):
    aucs = auc_per_type(heard, nearest_neighbour)
    assert 0.7 < np.mean(list(aucs.values())) < 0.95, aucs
    assert all(auc > 0.6 for auc in aucs.values()), aucs
