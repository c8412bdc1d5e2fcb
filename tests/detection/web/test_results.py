"""Recordings that are received, the last results, and the temporary folder that holds them."""

import signal
import subprocess
import sys

import pytest

from detection.web.results import KEPT, BusyError, Results, Uploads, temporary_folder
from tests.conftest import ROOT

KILLED = """
import os, signal
from detection.web.results import temporary_folder
with temporary_folder() as folder:
    (folder / "1.wav").touch()
    os.kill(os.getpid(), signal.SIGKILL)
"""


@pytest.fixture
def parent(tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    return tmp_path


def test_what_a_killed_process_left_is_removed_by_the_next(parent, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(parent))
    assert subprocess.run([sys.executable, "-c", KILLED], cwd=ROOT).returncode == -signal.SIGKILL
    (left,) = parent.rglob("*.wav")
    with temporary_folder() as folder:
        assert not left.parent.exists() and folder.is_dir()
    assert list(parent.iterdir()) == []


def test_folders_in_use_and_of_others_are_left_alone(parent, tmp_path_factory):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "lock").touch()
    (parent / "detect-page-link").symlink_to(elsewhere)
    (parent / "detect-page-mine").mkdir()
    with temporary_folder() as first, temporary_folder() as second:
        assert first.is_dir() and second.is_dir() and first != second
    assert elsewhere.is_dir() and sorted(path.name for path in parent.iterdir()) == [
        "detect-page-link",
        "detect-page-mine",
    ]


def test_only_the_last_results_are_kept(tmp_path):
    results = Results(tmp_path)
    for number in range(KEPT + 3):
        (tmp_path / f"{number}.wav").touch()
        results.add(str(number), {"number": str(number)})
    assert len(results.all()) == len(list(tmp_path.iterdir())) == KEPT
    assert results.file("2", ".wav") is None and results.file("3", ".wav") is not None


def test_places_and_bytes_are_given_back():
    uploads = Uploads(places=2, held=100)
    for _ in range(3):
        with uploads.place() as one, uploads.place() as other:
            one.grow(60)
            other.grow(40)
            with pytest.raises(BusyError):
                other.grow(1)
            with pytest.raises(BusyError), uploads.place():
                pass
