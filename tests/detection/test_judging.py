"""Which machine a file is a recording of: told by what is given, by folders and names, and never guessed."""

import os
import unicodedata
from pathlib import Path

import pytest

from detection.description import Machine
from detection.detector import Detector
from detection.judging import Judge, expand


@pytest.fixture
def knowing(root):
    """A detector that knows these machines, "type/id", to judge by."""

    def knowing(*machines, **given):
        detector = Detector.load(root / "data/detector")
        known = [Machine(**dict(zip(("type", "id"), name.split("/"), strict=True))) for name in machines]
        detector.description = detector.description.model_copy(update={"machines": known})
        return Judge(detector, **given)

    return knowing


FANS, OWN = ("fan/id_00", "fan/id_02"), ("machine/Pump 3A", "machine/Lüfter Nord", "press/1")


@pytest.mark.parametrize(
    ("machines", "path", "given", "wanted"),
    [
        (FANS, "/x/fan/test/normal_id_02_00000001.wav", {}, "fan/id_02"),
        (FANS, "/x/fan/id_02/abnormal/00000001.wav", {}, "fan/id_02"),
        (FANS, "/x/a.wav", {"machine_type": "fan", "machine_id": "2"}, "fan/id_02"),
        (("fan/2", "fan/id_02"), "/x/a.wav", {"machine_type": "fan", "machine_id": "2"}, "fan/2"),
        (("fan/section_00", "fan/section_01"), "/fan/section_01_source_test_normal_0000.wav", {}, "fan/section_01"),
        (("fan/id_00",), "/x/fan/a.wav", {}, "fan/id_00"),
        (OWN, "/x/Pump 3A/a.wav", {}, "machine/Pump 3A"),
        (OWN, f"/x/{unicodedata.normalize('NFD', 'Lüfter Nord')}/ok/a.wav", {}, "machine/Lüfter Nord"),
        (OWN, "/x/a.wav", {"machine_id": "Pump 3A"}, "machine/Pump 3A"),
        (OWN, "/x/press/a.wav", {}, "press/1"),
    ],
)
def test_a_machine_is_told(knowing, machines, path, given, wanted):
    assert "/".join(knowing(*machines, **given).machine(Path(path))) == wanted


@pytest.mark.parametrize(
    ("machines", "path", "given", "message"),
    [
        (FANS, "/x/slider/test/normal_id_00_00000001.wav", {}, "which machine is it"),
        (("fan/id_00",), "/x/slider/id_00/x.wav", {}, "which machine is it"),
        (("fan/id_00",), "/x/a.wav", {"machine_id": "id_00"}, "which machine is it"),
        (("fan/id_00",), "/x/fan/id_04/normal/a.wav", {}, "fan id_04 is unknown"),
        (("machine/Pump 3A",), "/x/Pump 3B/a.wav", {}, "which machine is it"),
        (FANS, "/x/fan/a.wav", {}, "which fan is it"),
        (FANS, "/x/a.wav", {"machine_type": "fan", "machine_id": "7"}, "fan 7 is unknown"),
    ],
)
def test_a_machine_is_not_guessed(knowing, machines, path, given, message):
    with pytest.raises(ValueError, match=message):
        knowing(*machines, **given).machine(Path(path))


def test_a_folder_stands_for_its_recordings_and_what_cannot_be_opened_is_told(tmp_path):
    for name in ("b.wav", "a.flac", "c.csv", ".hidden/d.wav", "deep/0.mp3"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    os.mkfifo(tmp_path / "pipe.wav")  # reading it would wait for ever
    (tmp_path / "gone.wav").symlink_to(tmp_path / "nothing")
    found, refused = expand([str(tmp_path), "x.wav"])
    assert found == [*(tmp_path / name for name in ("a.flac", "b.wav", "deep/0.mp3")), Path("x.wav")]
    assert [judgement.line() for judgement in refused] == [
        f"{tmp_path}/gone.wav: not judged: a link to a file that is not there",
        f"{tmp_path}/pipe.wav: not judged: no regular file (a folder, a pipe, a socket or a device)",
    ]
