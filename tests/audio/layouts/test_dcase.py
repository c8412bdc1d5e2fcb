"""The names of DCASE Challenge Task 2 from 2021 on."""

import os

import pytest

from audio.layouts.found import find_recordings
from tests.audio.layouts.test_found import touch

PLAIN = {  # file: section, split, condition, number, domain, attributes
    "fan/train/section_00_source_train_normal_0000_strength_1_ambient.wav": (
        "section_00", "train", "normal", 0, "source", "strength_1_ambient",
    ),
    "fan/source_test/section_01_source_test_anomaly_0012.wav": ("section_01", "test", "anomaly", 12, "source", ""),
    "fan/target_test/section_01_target_test_anomaly_0012.wav": (
        "section_01", "test", "anomaly", 10_000_012, "target", "",
    ),
    "ToyCar/test/section_00_target_test_normal_0003_car_A2_spd_28V.wav": (
        "section_00", "test", "normal", 10_000_003, "target", "car_A2_spd_28V",
    ),
    "dev_data/raw/slider/train/section_00_source_train_normal_0989_.wav": (
        "section_00", "train", "normal", 989, "source", "",
    ),
    "gearbox/train/section_02_target_train_normal_0001_noAttributes.wav": (
        "section_02", "train", "normal", 10_000_001, "target", "",
    ),
}  # fmt: skip


def test_names_tell_section_domain_split_condition_and_attributes(tmp_path):
    found = find_recordings(touch(tmp_path, *PLAIN))
    assert found.refusals == []
    for one in found.recordings:
        told = one.machine_id, one.split, one.condition, one.number, one.domain, one.attributes
        assert told == PLAIN[one.file], one.file
    assert {one.machine_type for one in found.recordings} == {"fan", "ToyCar", "slider", "gearbox"}


def test_evaluation_clips_get_their_labels_from_the_ground_truth_tables(tmp_path):
    folder = touch(
        tmp_path,
        "bandsaw/train/section_00_source_train_normal_0000_vel_1.wav",
        *(f"bandsaw/test/section_00_{number:04d}.wav" for number in (1, 2, 3)),
        "fan/source_test/section_03_source_test_0000.wav",
        "fan/test/section_00_test_0007.wav",
    )

    def table(name: str, *rows: str) -> None:
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text("".join(f"{row}\n" for row in rows))

    table(
        "ground_truth_data/ground_truth_bandsaw_section_00_test.csv", "section_00_0001.wav,1", "section_00_0002.wav,0"
    )
    table(
        "ground_truth_domain/ground_truth_bandsaw_section_00_test.csv", "section_00_0001.wav,1", "section_00_0002.wav,0"
    )
    name = "section_00_target_test_anomaly_0001_vel_7"
    table("ground_truth_attributes/ground_truth_bandsaw_section_00_test.csv", f"section_00_0001.wav,{name}")
    table("ground_truth_data/ground_truth_fan_section_03_source_test.csv", "section_03_source_test_0000.wav,1")
    table("ground_truth_attributes/ground_truth_fan_section_00_test.csv",
          "section_00_test_0007.wav,section_00_source_test_normal_0007_m-n_W")  # fmt: skip
    found = find_recordings(folder)
    told = {one.file: (one.split, one.condition, one.domain, one.attributes) for one in found.recordings}
    assert told == {
        "bandsaw/train/section_00_source_train_normal_0000_vel_1.wav": ("train", "normal", "source", "vel_1"),
        "bandsaw/test/section_00_0001.wav": ("test", "anomaly", "target", "vel_7"),
        "bandsaw/test/section_00_0002.wav": ("test", "normal", "source", ""),
        "fan/source_test/section_03_source_test_0000.wav": ("test", "anomaly", "source", ""),
        "fan/test/section_00_test_0007.wav": ("test", "normal", "source", "m-n_W"),
    }
    (refusal,) = found.refusals
    assert refusal.file == "bandsaw/test/section_00_0003.wav"
    assert "an evaluation clip without a label" in refusal.reason


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"section_00_0001.wav,1\nsection_00_0002.wav,maybe\n", "line 2: 'section_00_0002.wav,maybe' is not <file>,<0"),
        (b"section_00_0001.wav,1\0\n", "line 1: a NUL character"),
        (b'"section_00_0001.wav,1\n', "line 1: a quote that is not closed"),
        (b"section_00_0001.wav,\x81\n", "line 1: neither UTF-8 nor cp1252"),
        (None, "not a regular file"),  # a pipe, which would be waited for without end
    ],
)
def test_what_is_wrong_with_a_ground_truth_table_is_named(tmp_path, content, message):
    folder = touch(tmp_path, "fan/train/section_00_source_train_normal_0000_vel_1.wav")
    path = folder / "ground_truth_data/ground_truth_fan_section_00_test.csv"
    path.parent.mkdir()
    path.write_bytes(content) if content is not None else os.mkfifo(path)
    with pytest.raises(ValueError, match=message) as error:
        find_recordings(folder)
    assert str(path) in str(error.value) and "\n" not in str(error.value)


def test_supplemental_clips_and_strange_names_are_not_taken(tmp_path):
    found = find_recordings(
        touch(
            tmp_path,
            "ToyPet/train/section_00_source_train_normal_0000_.wav",
            "ToyPet/train/section_00_source_test_normal_0001_.wav",
            "ToyPet/train/some.wav",
            "ToyPet/supplemental/section_00_machine_0001_.wav",
            "ToyRCCar/supplemental/section_00_noise_0001_.wav",
        )
    )
    assert [one.number for one in found.recordings] == [0]
    assert dict(found.refusals) == {
        "ToyPet/train/section_00_source_test_normal_0001_.wav": "a clip of test by its name, of train by its folder",
        "ToyPet/train/some.wav": "name 'some' is not of the form of a DCASE task, as others in ToyPet are",
    }
    assert found.notes == ["2 supplemental clips are not taken: they hold noise, or clean machines"]
