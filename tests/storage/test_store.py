"""The store: entries are whole, checked when read, and are made once however many processes want them."""

import hashlib
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from audio.logmel import log_mel
from augmentation.audioldm import FRONT_END
from augmentation.recipes import Recipe
from storage.files import DiskFullError
from storage.imports import ROOT
from storage.store import Store, code_of, key_of
from tests.conftest import largest_file


def test_a_key_covers_every_determinant_and_not_their_order():
    assert key_of(a=1, b=[2.0, "x"]) == key_of(b=[2.0, "x"], a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1)}) == 4


def files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*") if path.is_file())


def test_an_entry_is_made_once(tmp_path):
    store, key = Store(tmp_path, ".txt"), key_of(a=1)
    assert store.find(key) is None
    with store.put(key) as path:
        path.write_text("made")
        assert store.find(key) is None, "nobody may see it before it is whole"
    assert store.find(key).read_text() == "made"
    with store.put(key) as path:
        assert path is None
    assert files(tmp_path) == [f"{key}.sha256", f"{key}.txt"]
    assert list(store.keys()) == [key]


def test_a_failure_leaves_no_entry_and_the_next_try_makes_it(tmp_path):
    store, key = Store(tmp_path, ".txt"), key_of(a=1)
    with pytest.raises(RuntimeError), store.put(key) as path:
        path.write_text("half")
        raise RuntimeError
    assert store.find(key) is None
    with store.put(key) as path:
        path.write_text("whole")
    assert store.find(key).read_text() == "whole"


@pytest.mark.parametrize("damage", ["flipped", "cut", "empty", "no checksum", "other checksum"])
def test_a_damaged_entry_is_named_removed_and_made_again(tmp_path, caplog, damage):
    store, key = Store(tmp_path, ".txt"), key_of(a=1)

    def make(path: Path) -> None:
        path.write_text("what was made")

    assert store.get(key, make, Path.read_text) == "what was made"
    path, digest = store.path(key), store.path(key).with_suffix(".sha256")
    if damage == "no checksum":
        digest.unlink()
    elif damage == "other checksum":
        digest.write_text("0" * 64)
    else:
        path.write_text({"flipped": "what was nade", "cut": "what was", "empty": ""}[damage])
    assert store.find(key) is None
    assert caplog.messages == [
        f"entry {path} of the store is damaged and will be made again: its content does not match its checksum"
    ]
    assert files(tmp_path) == []
    assert store.get(key, make, Path.read_text) == "what was made"


def test_a_pickle_is_made_again_though_its_checksum_is_right(tmp_path, caplog):
    store, key = Store(tmp_path, ".npy"), key_of(a=1)
    with store.put(key) as path:
        np.save(path, np.array([{"a": 1}]), allow_pickle=True)
    assert store.get(key, lambda path: np.save(path, np.arange(3)), np.load).tolist() == [0, 1, 2]
    assert f"{key}.npy of the store is damaged and will be made again" in caplog.text
    with pytest.raises(ValueError, match="pickle"):
        store.get(key_of(a=2), lambda path: np.save(path, np.array([None]), allow_pickle=True), np.load)


def _make(folder, key, log):
    with Store(folder, ".txt").put(key) as path:
        if path:
            time.sleep(0.2)
            path.write_text("made")
            with log.open("a") as file:
                file.write("x")
    assert Store(folder, ".txt").find(key).read_text() == "made"


def test_processes_that_want_the_same_entry_wait_for_the_one_that_makes_it(tmp_path):
    context = multiprocessing.get_context("fork")
    arguments = (tmp_path / "store", key_of(a=1), tmp_path / "log")
    processes = [context.Process(target=_make, args=arguments) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0] * 4
    assert (tmp_path / "log").read_text() == "x"


WRITE = """
import sys, time
from pathlib import Path
from audio.clips import write_clip
from storage.files import whole_file
from storage.store import Store
with Store(Path(sys.argv[1]), ".flac").put("key") as path, whole_file(path) as unfinished:
    unfinished.write_text("half")
    print("writing", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_writer_left_is_swept_and_what_a_living_one_writes_is_not(tmp_path):
    store = Store(tmp_path, ".flac")
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", WRITE, str(tmp_path)]
    with subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout.readline() == "writing\n"
        (tmp_path / "unfinished" / "other.lock").touch()
        assert store.sweep() == []
        assert any(name.startswith(".key-") for name in files(tmp_path)) and "other.lock" not in files(tmp_path)
        process.send_signal(signal.SIGKILL)
    assert len(store.sweep()) == 1
    assert files(tmp_path) == []


def test_a_full_disk_is_one_line_with_the_entry_and_what_was_there_stays(tmp_path):
    store = Store(tmp_path, ".npy")
    store.get("small", lambda path: np.save(path, np.arange(10)), np.load)
    with largest_file(10_000):
        with pytest.raises(DiskFullError) as caught:
            store.get("large", lambda path: np.save(path, np.zeros(10_000)), np.load)
        needed = r"large\.npy cannot be written: .*: 80000 bytes are needed, \d+ are free"
        with pytest.raises(DiskFullError, match=needed), store.put("large", 80_000) as path:
            np.save(path, np.zeros(10_000))
    place = tmp_path / "la" / "large.npy"
    assert str(caught.value).startswith(f"{place} cannot be written: File too large: more than ")
    assert store.find("small") and store.find("large") is None
    store.sweep()
    assert files(tmp_path) == ["small.npy", "small.sha256"]


def test_code_is_that_of_the_functions_module_and_of_all_that_it_imports(tmp_path):
    shutil.copytree(ROOT / "storage", tmp_path / "storage")
    (tmp_path / "audio").mkdir()
    for name, imports in (("a", "from audio.b import x"), ("b", "from storage.files import sha256; x = 1"), ("c", "")):
        (tmp_path / "audio" / f"{name}.py").write_text(f"{imports}\ndef f(): pass\n")
    command = "import audio.a, storage.store; print(storage.store.code_of(audio.a.f))"
    environment = os.environ | {"PYTHONPATH": str(tmp_path), "PYTHONDONTWRITEBYTECODE": "1"}

    def code() -> str:
        python = [sys.executable, "-c", command]
        return subprocess.run(python, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, check=True).stdout.decode()

    def edit(module: str) -> None:
        with (tmp_path / module).open("a") as file:
            file.write("# another version\n")

    first = code()
    edit("storage/files.py")
    assert code() == first, "what only keeps has no say"
    edit("audio/c.py")
    assert code() == first, "it does not import this"
    edit("audio/b.py")
    second = code()
    edit("audio/a.py")
    assert len({first, second, code()}) == 3


def test_the_keys_of_spectrograms_and_clips_are_those_of_before():
    """What determines them has not changed: stores of earlier versions serve."""
    files = ("audio/front_end.py", "audio/logmel.py")
    assert code_of(log_mel) == hashlib.sha256(b"".join((ROOT / file).read_bytes() for file in files)).hexdigest()
    recipe = Recipe("add steady hum", 20, 0.5, 2.5, 0.0, 7)
    key = "5724ed"
    assert recipe.key("a" * 64, "b" * 64, "vocoder", FRONT_END)[:6] == key
