"""Files and folders appear whole or not at all; what killed writers left goes; a full disk is one line."""

import errno
import os
import subprocess
import time

import numpy as np
import psutil
import pytest
import soundfile
import torch
from safetensors.torch import save_file

from audio.clips import write_clip
from audio.features import FeatureWriter
from audio.front_end import LogMelSettings
from model.checkpoints import load_state, save_state
from storage import files
from storage.files import DiskFullError, sweep, whole_file, whole_folder, write_json


def test_a_file_appears_whole_and_replaces_what_was_there(tmp_path):
    path = tmp_path / "a.json"
    write_json(path, {"a": 1})
    with pytest.raises(KeyError), whole_file(path) as unfinished:
        unfinished.write_text("half")
        raise KeyError
    assert path.read_text() == '{\n  "a": 1\n}\n'
    assert [each.name for each in tmp_path.iterdir()] == ["a.json"]


def test_a_folder_appears_whole_and_replaces_what_was_there(tmp_path):
    folder = tmp_path / "a"
    for text in ("old", "new"):
        with whole_folder(folder) as unfinished:
            (unfinished / text).write_text(text)
    with pytest.raises(KeyError), whole_folder(folder) as unfinished:
        (unfinished / "half").write_text("half")
        raise KeyError
    assert [each.name for each in tmp_path.rglob("*")] == ["a", "new"]


def dead_process() -> int:
    process = subprocess.Popen(["true"])
    process.wait()
    assert not psutil.pid_exists(process.pid)
    return process.pid


def test_only_what_dead_writers_left_is_swept(tmp_path):
    here, dead = files._here(), dead_process()
    old = time.time() - 2 * files.ABANDONED
    gone = [f".a.{here}-{dead}-1.unfinished", f".folder.{here}-{dead}-1.unfinished", ".b.0123abcd-1-1.unfinished"]
    stay = [f".a.{here}-{os.getpid()}-1.unfinished", ".c.0123abcd-1-1.unfinished", "a", ".a.unfinished", ".hidden"]
    for name in gone + stay:
        if "folder" in name:
            (tmp_path / name).mkdir()
            (tmp_path / name / "half").touch()
        else:
            (tmp_path / name).touch()
    os.utime(tmp_path / gone[2], (old, old))
    assert sorted(path.name for path in sweep(tmp_path)) == sorted(gone)
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(stay)


def test_a_folder_sweeps_what_killed_runs_left_beside_it(tmp_path):
    left = tmp_path / f".raw.{files._here()}-{dead_process()}-1.unfinished"
    left.mkdir()
    with whole_folder(tmp_path / "raw"):
        assert not left.exists()


NOISE = np.random.default_rng(0).uniform(-1, 1, 400_000)


def features(folder):
    with FeatureWriter(folder, LogMelSettings()) as writer:
        for _ in range(1000):
            clip = {"clip": "a", "split": "train", "condition": "normal"}
            writer.add(clip, "original", 0, np.zeros((100, 128), np.float16))


WRITERS = {
    "clip.flac": lambda path: write_clip(path, NOISE),
    "features": features,
    "a.json": lambda path: write_json(path, NOISE.tolist()),
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_line_that_names_the_path_whatever_library_writes(small_disk, name):
    with pytest.raises(DiskFullError) as caught:
        WRITERS[name](small_disk / name)
    message = str(caught.value)
    assert message.startswith(f"{small_disk / name} cannot be written: No space left on device: more than ")
    assert message.endswith(" are free") and "\n" not in message
    assert list(small_disk.iterdir()) == []


def test_a_checkpoint_that_finds_no_room_leaves_the_one_before_it(small_disk):
    save_state(small_disk, 1, {"x": torch.ones(10)}, {})
    with pytest.raises(DiskFullError, match=r"step_0000000002.*No space left on device: 400000 bytes are needed, \d+"):
        save_state(small_disk, 2, {"x": torch.ones(100_000)}, {})
    assert load_state(small_disk)[1]["step"] == 1
    assert len(list(small_disk.iterdir())) == 1


def test_what_is_no_full_disk_stays_what_it_is(tmp_path):
    for wrong in (RuntimeError("out of memory"), OSError(errno.EIO, "Input/output error"), ValueError("bad")):
        with pytest.raises(type(wrong)) as caught, whole_file(tmp_path / "a"):
            raise wrong
        assert caught.value is wrong
    with pytest.raises(Exception, match="No such file") as caught, whole_file(tmp_path / "a") as unfinished:
        save_file({"a": torch.ones(1)}, unfinished / "below")
    assert not isinstance(caught.value, DiskFullError)
    with pytest.raises(soundfile.LibsndfileError), whole_file(tmp_path / "a") as unfinished:
        soundfile.write(unfinished, NOISE, 0, format="FLAC")


def test_asking_why_a_write_failed_changes_nothing(tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"what came so far")
    with pytest.raises(OSError, match="broke off"), files.naming_full_disk(path, path):
        raise OSError("broke off")
    with pytest.raises(RuntimeError), files.naming_full_disk(tmp_path / "b", tmp_path / "b"):
        raise RuntimeError
    assert [each.name for each in tmp_path.iterdir()] == ["a"]
    assert path.read_bytes() == b"what came so far"
