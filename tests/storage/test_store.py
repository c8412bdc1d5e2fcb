"""The store: entries are whole, and are made once however many processes want them."""

import multiprocessing
import time

import pytest

from storage.store import Store, key_of


def test_a_key_covers_every_determinant_and_not_their_order():
    assert key_of(a=1, b=[2.0, "x"]) == key_of(b=[2.0, "x"], a=1)
    assert len({key_of(a=1), key_of(a=2), key_of(a="1"), key_of(b=1)}) == 4


def test_an_entry_is_made_once(tmp_path):
    store, key = Store(tmp_path), key_of(a=1)
    assert not store.has(key, ".txt")
    with store.put(key, ".txt") as path:
        path.write_text("made")
        assert not store.has(key, ".txt"), "nobody may see it before it is whole"
    assert store.path(key, ".txt").read_text() == "made"
    with store.put(key, ".txt") as path:
        assert path is None
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == [f"{key}.txt"]


def test_a_failure_leaves_no_entry_and_the_next_try_makes_it(tmp_path):
    store, key = Store(tmp_path), key_of(a=1)
    with pytest.raises(RuntimeError), store.put(key, ".txt") as path:
        path.write_text("half")
        raise RuntimeError
    assert not store.has(key, ".txt")
    with store.put(key, ".txt") as path:
        path.write_text("whole")
    assert store.path(key, ".txt").read_text() == "whole"


def _make(folder, key, log):
    with Store(folder).put(key, ".txt") as path:
        if path:
            time.sleep(0.2)
            path.write_text("made")
            with log.open("a") as file:
                file.write("x")
    assert Store(folder).path(key, ".txt").read_text() == "made"


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
