"""Shards: files come back byte for byte, tar and WebDataset read them, and a file more changes one shard."""

import pickle
import tarfile
from pathlib import Path

import numpy as np
import pytest

from storage import shards
from storage.files import sha256
from storage.shards import Content, Folder, Loaded, Member, pack, wanted


def write(folder: Path, names: list[str]) -> dict[str, bytes]:
    """Files of random content, one of them empty and one of just a block."""
    made = {}
    for number, name in enumerate(names):
        size = {0: 0, 1: 512}.get(number, 100 * number)
        made[name] = np.random.default_rng(len(name) + number).bytes(size)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(made[name])
    return made


NAMES = [f"fan/train/normal_id_{number % 3:02d}_{number:08d}.flac" for number in range(40)]
NAMES += ["Lüfter/test/anomaly_id_00_00000000.flac", "compared/" + "long/" * 40 + "a.flac"]


@pytest.fixture
def packed(tmp_path, monkeypatch):
    monkeypatch.setattr(shards, "FILES", 8)
    made = write(tmp_path, NAMES)
    (tmp_path / "manifest.csv").write_text("clip\n")
    pack(tmp_path, reversed(NAMES))
    return tmp_path, made


def test_what_is_packed_comes_back(packed):
    folder, made = packed
    assert not list(folder.rglob("*.flac"))
    assert 2 < len(list(folder.iterdir())) < 20, "the folders of the files are gone"
    files = Folder(folder)
    for name, content in made.items():
        file = files / name
        assert isinstance(file, Member) and file.suffix == ".flac" and str(file).endswith(f".tar/{name}")
        assert file.open("rb").read() == content
    assert files / "manifest.csv" == folder / "manifest.csv"
    assert files / "fan/train/normal_id_09_00000000.flac" == folder / "fan/train/normal_id_09_00000000.flac"
    assert files / "zzz" == folder / "zzz"


def test_a_folder_that_is_not_packed_reads_the_same(tmp_path):
    made = write(tmp_path, NAMES)
    assert all((Folder(tmp_path) / name).open("rb").read() == content for name, content in made.items())


def test_tar_reads_the_shards_with_names_in_order(packed):
    folder, made = packed
    found = []
    for path in sorted(folder.glob("*.tar")):
        with tarfile.open(path) as tar:
            for entry in tar:
                assert tar.extractfile(entry).read() == made[entry.name]
                assert (entry.mtime, entry.uid, entry.uname) == (0, 0, "")
                found.append(entry.name)
    assert found == sorted(NAMES, key=str.encode)


def test_the_same_files_give_the_same_bytes_and_one_more_changes_one_shard(packed, tmp_path):
    folder, _ = packed
    before = {path.name: sha256(path) for path in folder.glob("clips-*")}
    for number, names in enumerate((NAMES, [*NAMES[:20], "fan/train/normal_id_01_00000119.flac", *NAMES[20:]])):
        again = tmp_path / str(number)
        for name in names:
            content = (Folder(folder) / name).open("rb").read() if name in NAMES else b"new"
            (again / name).parent.mkdir(parents=True, exist_ok=True)
            (again / name).write_bytes(content)
        pack(again, names)
        after = {path.name: sha256(path) for path in again.glob("clips-*")}
        assert len(set(after.values()) - set(before.values())) == number
    assert sha256(tmp_path / "0" / shards.INDEX) == sha256(folder / shards.INDEX)


def test_files_travel_with_their_content(packed):
    folder, made = packed
    loaded = pickle.loads(pickle.dumps(Loaded(pickle.loads(pickle.dumps(Folder(folder))), NAMES[:3])))
    for name in NAMES[:3]:
        file = loaded / name
        assert isinstance(file, Content) and file.suffix == ".flac" and str(file).endswith(name)
        assert file.open().read() == made[name]


def test_a_truncated_shard_is_named(packed):
    folder, _ = packed
    last = Folder(folder) / max(NAMES, key=str.encode)
    last.shard.write_bytes(last.shard.read_bytes()[: last.offset + 10])
    with pytest.raises(OSError, match=r"clips-\d+\.tar/.*: the shard is truncated"):
        last.open()


@pytest.mark.parametrize(
    ("value", "files", "expected"),
    [("auto", 20_000, False), ("auto", 20_001, True), ("never", 10**7, False), (5, 5, False), (5, 6, True)],
)
def test_when_files_are_packed(value, files, expected):
    assert wanted(value, files) == expected
