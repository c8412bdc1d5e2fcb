"""Where recordings lie: each layout is told by itself, and what is left out is named. Nothing is read of the files."""

import os
import unicodedata
from pathlib import Path

import pytest

from audio.layouts.found import find_recordings


def touch(folder: Path, *files: str) -> Path:
    for file in files:
        path = folder / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"not looked at")
    return folder


def machines(folder: Path) -> dict[str, tuple[str, str, str, str]]:
    """Type, id, split and condition by file; nothing may be refused."""
    found = find_recordings(folder)
    assert found.refusals == []
    return {one.file: (one.machine_type, one.machine_id, one.split, one.condition) for one in found.recordings}


LAYOUTS = {
    "one machine's folder": (("a.wav", "b.flac"), ("machine", "mine", "", "normal")),
    "one machine's folder, with a folder of the healthy": (("normal/a.wav",), ("machine", "mine", "", "normal")),
    "a machine": (("Pump 3A/a.wav",), ("machine", "Pump 3A", "", "normal")),
    "a machine and what is in it": (("Pump/a.wav", "Pump/old/b.wav"), ("machine", "Pump", "", "normal")),
    "a machine and its condition": (("Pump/Healthy/a.wav",), ("machine", "Pump", "", "normal")),
    "subfolders of a condition": (("Pump/ok/2024-05/a.wav",), ("machine", "Pump", "", "normal")),
    "a type above": (("press/line 2/GOOD/a.wav",), ("press", "line 2", "", "normal")),
    "a type above, without conditions": (("press/line 2/a.wav",), ("press", "line 2", "", "normal")),
    "MIMII": (("fan/id_00/normal/00000000.wav",), ("fan", "id_00", "", "normal")),
    "MIMII's folder of a type": (("id_00/normal/00000000.wav",), ("mine", "id_00", "", "normal")),
    "the condition on top": (("normal/fan/a.wav", "normal/fan/b.wav"), ("machine", "fan", "", "normal")),
    "the condition on top of a type": (("ok/fan/id_00/a.wav",), ("fan", "id_00", "", "normal")),
    "a folder of data": (("data/normal/a.wav",), ("machine", "mine", "", "normal")),
    "a split and the class in the name": (("train/normal_a.wav",), ("machine", "mine", "train", "normal")),
    "a split and a condition": (("train/normal/a.wav",), ("machine", "mine", "train", "normal")),
    "a split in a machine": (("Pump/train/a.wav",), ("machine", "Pump", "train", "normal")),
    "five folders deep": (("a/b/c/fan/Pump 1/x.wav",), ("fan", "Pump 1", "", "normal")),
    "DCASE 2020": (("fan/train/normal_id_00_00000000.wav",), ("fan", "id_00", "train", "normal")),
    "DCASE 2020's folder of a type": (("train/normal_id_00_00000000.wav",), ("mine", "id_00", "train", "normal")),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_healthy_recordings_are_found_in_any_layout(tmp_path, layout):
    files, expected = LAYOUTS[layout]
    assert machines(touch(tmp_path / "mine", *files)) == dict.fromkeys(files, expected)


@pytest.mark.parametrize("word", ["anomaly", "Abnormal", "FAULTY", "bad", "anomalous", "nok", "NG", "defect"])
def test_anomalies_are_told_by_a_folder_or_a_name(tmp_path, word):
    files = (f"fan/{word}/a.wav", f"{word}/fan/b.wav", f"fan/c_{word}-01.wav", f"fan/test/{word} 4.wav")
    found = machines(touch(tmp_path / "mine", *files))
    assert set(found.values()) == {("machine", "fan", "", "anomaly"), ("machine", "fan", "test", "anomaly")}


def test_a_word_within_a_word_says_nothing(tmp_path):
    assert set(machines(touch(tmp_path, "fan/badger_okra.wav")).values()) == {("machine", "fan", "", "normal")}


def test_names_are_composed_and_trimmed(tmp_path):
    decomposed = unicodedata.normalize("NFD", "Lüfter Nord")
    found = machines(touch(tmp_path, f"{decomposed}/a.wav", "Lüfter Nord /b.wav"))
    assert {identity[1] for identity in found.values()} == {"Lüfter Nord"}


REFUSED = {
    "fan/train/anomaly_a.wav": "an anomaly in the training split",
    "fan/test/a.wav": "neither folder nor name says whether it is normal",
    "fan/ok_bad.wav": "its name says normal and anomaly",
    "loose.wav": "lies beside the folders of machines",
    "fan/x/y/normal/a.wav": "lies deeper than <type>/<machine>",
    "fa\tn/a.wav": "has a '/' or a control character",
}


def test_what_cannot_be_told_is_refused_with_its_reason(tmp_path):
    found = find_recordings(touch(tmp_path, *REFUSED, "fan/a.wav"))
    assert [one.file for one in found.recordings] == ["fan/a.wav"]
    reasons = {one.file: one.reason for one in found.refusals}
    assert reasons.keys() == REFUSED.keys()
    for file, reason in REFUSED.items():
        assert reason in reasons[file], file


def test_nothing_that_fits_is_one_line_with_what_there_is_and_what_would_fit(tmp_path):
    with pytest.raises(ValueError, match=r"holds no sound files \(\.wav .*; it has notes \(2\)"):
        find_recordings(touch(tmp_path / "a", "notes/x.txt", "notes/y.txt"))
    with pytest.raises(ValueError) as error:
        find_recordings(touch(tmp_path / "b", "test/x.wav", "test/y.wav"))
    assert "sound files (2), in test (2), none that can be taken: test/x.wav a test recording" in str(error.value)
    assert "a layout that would fit: <machine>/normal/*.wav" in str(error.value)
    assert "\n" not in str(error.value)


# ---------------------------------------------------------------------------------------------------- what is no file


def test_only_regular_files_are_taken_and_the_others_named(tmp_path):
    touch(tmp_path, "fan/a.wav", "fan/notes.txt", "fan/.hidden.wav", "__MACOSX/fan/a.wav")
    os.mkfifo(tmp_path / "fan" / "pipe.wav")
    (tmp_path / "fan" / "dangling.wav").symlink_to("nowhere")
    (tmp_path / "fan" / os.fsdecode(b"L\xfcfter.wav")).write_bytes(b"")
    found = find_recordings(tmp_path)
    assert [one.file for one in found.recordings] == ["fan/a.wav"]
    assert dict(found.refusals) == {
        "fan/pipe.wav": "no regular file (a folder, a pipe, a socket or a device)",
        "fan/dangling.wav": "a link to a file that is not there",
        r"fan/L\udcfcfter.wav": "its name is not UTF-8: rename it",
    }
    assert found.notes == ["no sound files by their names: 1, fan/notes.txt"]


def test_links_are_followed_and_loops_are_not(tmp_path):
    touch(tmp_path / "elsewhere", "a.wav")
    folder = touch(tmp_path / "mine", "pump/b.wav")
    (folder / "fan").symlink_to(tmp_path / "elsewhere")
    (folder / "pump" / "loop").symlink_to(folder)
    found = find_recordings(folder)
    assert {one.file for one in found.recordings} == {"fan/a.wav", "pump/b.wav"}
    assert found.notes == ["pump/loop is the same folder as ., through a link: looked at once"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_what_may_not_be_read_is_named(tmp_path):
    touch(tmp_path, "fan/a.wav", "fan/b.wav", "pump/c.wav")
    (tmp_path / "pump").chmod(0)
    (tmp_path / "fan" / "b.wav").chmod(0)
    try:
        assert dict(find_recordings(tmp_path).refusals) == {
            "pump/": "the folder cannot be read (permission denied)",
            "fan/b.wav": "may not be read (permission denied)",
        }
    finally:
        (tmp_path / "pump").chmod(0o700)
