"""The store in an object store: an S3 server on this machine, and two machines that have it in common."""

import pickle
from pathlib import Path

import numpy as np
import platformdirs
import pytest

from storage import store as module
from storage.remote import Place, fetch, names, remove, send
from storage.segments import Segments
from storage.store import Store, store_folder, store_place

KEY, OTHER = "ab" * 32, "cd" * 32


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """Go to another machine: it has no copies, or those of its name."""

    def go(name: str) -> None:
        monkeypatch.setattr(platformdirs, "user_cache_path", lambda app: tmp_path / name / app)

    go("one")
    return go


@pytest.fixture
def address(s3, request):
    return f"{s3}/{request.node.name}"


def make(store: Store, key: str, text: str) -> bool:
    """Whether there was something to make."""
    with store.put(key) as path:
        if path:
            path.write_text(text)
        return path is not None


def test_files_come_and_go(address, tmp_path):
    (tmp_path / "here").write_text("content")
    assert names(address) == [] and not fetch(f"{address}/a/b.txt", tmp_path / "there")
    send(tmp_path / "here", f"{address}/a/b.txt")
    assert names(address) == ["b.txt"]
    assert fetch(f"{address}/a/b.txt", tmp_path / "new" / "there")
    assert (tmp_path / "new" / "there").read_text() == "content"
    remove(f"{address}/a/b.txt")
    remove(f"{address}/a/b.txt")
    assert names(address) == []


def test_what_one_machine_makes_another_finds(address, machine):
    assert make(Store(Place(address), ".txt"), KEY, "made")
    machine("two")
    store = Store(Place(address), ".txt")
    assert not store.path(KEY).exists() and list(store.keys()) == [KEY]
    assert store.lacking([KEY, OTHER]) == {OTHER}
    assert store.find(KEY).read_text() == "made"
    assert not make(store, KEY, "made again") and make(store, OTHER, "other")
    machine("one")
    store = Store(Place(address), ".txt")
    store.bring([KEY, OTHER])
    assert store.path(OTHER).read_text() == "other"
    store.remove(OTHER)
    machine("three")
    assert list(Store(Place(address), ".txt").keys()) == [KEY]


def test_many_keys_are_looked_up_in_one_list(address, machine, monkeypatch):
    monkeypatch.setattr(module, "LISTED", 2)
    make(Store(Place(address), ".txt"), KEY, "made")
    machine("two")
    store = Store(Place(address), ".txt")
    assert store.lacking([KEY, OTHER, "ef" * 32]) == {OTHER, "ef" * 32}
    assert not store.path(KEY).exists(), "nothing was copied"


def test_a_failure_sends_nothing(address, machine):
    store = Store(Place(address), ".txt")
    with pytest.raises(RuntimeError), store.put(KEY) as path:
        path.write_text("half")
        raise RuntimeError
    assert names(address) == [] and store.find(KEY) is None


def test_a_damaged_copy_is_copied_again(address, machine, caplog):
    store = Store(Place(address), ".txt")
    make(store, KEY, "made")
    store.path(KEY).write_text("dama")
    assert store.find(KEY).read_text() == "made"
    assert "is damaged" in caplog.text


def test_segments(address, machine):
    arrays = {key: np.full((2, 3), number, np.float16) for number, key in enumerate("abc")}
    segment = Segments(Place(address)).add(arrays)
    machine("two")
    assert np.array_equal(Segments(Place(address), to_add=True).read([(segment, "c")])[0], arrays["c"])
    machine("three")
    segments = Segments(Place(address))
    assert [segments.find(key) for key in "abcd"] == [segment] * 3 + [None]
    assert np.array_equal(segments.read([(segment, "b")])[0], arrays["b"])


def test_a_store_travels_as_its_address(address, machine, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", f"{address}/")
    place = store_place("augmented") / "part"
    assert str(place) == f"{address}/augmented/part"
    packed = pickle.dumps(Store(place, ".txt"))
    assert "one/rc-mae" in str(place.folder)
    assert store_folder("checkpoints").is_absolute() and "one/rc-mae" in str(store_folder("checkpoints"))
    machine("two")
    store = pickle.loads(packed)
    assert "two/rc-mae" in str(store.folder) and str(store.place) == str(place)
    monkeypatch.setenv("RCMAE_STORE", "a/folder")
    assert store_folder("augmented") == Path("a/folder/augmented").resolve()


@pytest.mark.parametrize(("place", "reason"), [("s3://no-such-bucket", "bucket"), ("nowhere://x", "nowhere")])
def test_what_cannot_be_reached_is_one_line(s3, machine, place, reason):
    with pytest.raises(OSError, match=rf"^{place}/ab/abab[^\n]*{reason}[^\n]*$"):
        make(Store(Place(place), ".txt"), KEY, "made")
