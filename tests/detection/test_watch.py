"""The watcher: each recording once, when it is complete, whatever happens in between."""

import csv
import threading
import time

import pytest

from detection.watch import COLUMNS, Record, recordings, watch

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class Watcher:
    """A watcher in a thread, which notes the files that it was given to judge."""

    def __init__(self, folder, settle=0.1):
        self.folder, self.settle, self.judged, self.stop = folder, settle, [], threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        with Record(self.folder / "verdicts.csv") as record:
            watch(self.folder, record, self.judge, self.stop, interval=0.02, settle=self.settle)

    def judge(self, path):
        self.judged.append((path.name, path.read_bytes()))
        return {"verdict": "normal", "score": 0.5}

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(5)
        assert not self.thread.is_alive()

    def wait_for(self, count):
        until = time.monotonic() + 5
        while len(self.judged) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # and not one more
        assert len(self.judged) == count


def rows(folder):
    with (folder / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_there_and_what_comes_is_judged_once(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"one")
    (tmp_path / "notes.txt").write_bytes(b"no sound")
    (tmp_path / ".b.wav").write_bytes(b"hidden, as unfinished copies are")
    with Watcher(tmp_path) as watcher:
        watcher.wait_for(1)
        (tmp_path / "deep").mkdir()
        (tmp_path / "deep" / "c.FLAC").write_bytes(b"two")
        watcher.wait_for(2)
    assert [row["file"] for row in rows(tmp_path)] == ["a.wav", "deep/c.FLAC"]
    assert list(rows(tmp_path)[0]) == COLUMNS and rows(tmp_path)[0]["bytes"] == "3"


def test_a_file_is_judged_only_when_it_has_stopped_growing(tmp_path):
    with Watcher(tmp_path, settle=0.3) as watcher, (tmp_path / "slow.wav").open("wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"x" * 100)
            time.sleep(0.08)
        watcher.wait_for(1)
    assert watcher.judged == [("slow.wav", b"x" * 1000)]


def test_a_restart_judges_what_came_meanwhile_and_nothing_twice(tmp_path):
    (tmp_path / "a.wav").write_bytes(b"one")
    with Watcher(tmp_path) as first:
        first.wait_for(1)
    (tmp_path / "b.wav").write_bytes(b"two")
    with Watcher(tmp_path) as second:
        second.wait_for(1)
    assert second.judged == [("b.wav", b"two")]
    (tmp_path / "a.wav").write_bytes(b"written anew")
    with Watcher(tmp_path) as third:
        third.wait_for(1)
    assert third.judged == [("a.wav", b"written anew")] and len(rows(tmp_path)) == 3


@pytest.mark.parametrize(
    "name", ["line\nbreak.wav", 'quote",comma.wav', "Förderband Ω.wav", "bad\udcff.wav", "=1+1.wav"]
)
def test_strange_names_are_remembered(tmp_path, name):
    (tmp_path / name).write_bytes(b"one")
    for count in (1, 0):
        with Watcher(tmp_path) as watcher:
            watcher.wait_for(count)


def test_a_row_that_a_power_cut_left_incomplete_is_judged_again(tmp_path):
    for name in ("a.wav", "b.wav"):
        (tmp_path / name).write_bytes(b"one")
    with Watcher(tmp_path) as watcher:
        watcher.wait_for(2)
    path = tmp_path / "verdicts.csv"
    path.write_bytes(path.read_bytes()[:-5])
    with Watcher(tmp_path) as watcher:
        watcher.wait_for(1)
    assert [row["file"] for row in rows(tmp_path)] == ["a.wav", "b.wav"]


def test_a_file_that_changes_while_it_is_judged_waits_for_its_next_turn(tmp_path):
    class Appending(Watcher):
        def judge(self, path):
            row = super().judge(path)
            if len(self.judged) == 1:
                path.write_bytes(b"longer now")
            return row

    (tmp_path / "a.wav").write_bytes(b"one")
    with Appending(tmp_path) as watcher:
        watcher.wait_for(2)
    assert len(rows(tmp_path)) == 1 and rows(tmp_path)[0]["bytes"] == "10"


def test_two_watchers_do_not_share_a_record(tmp_path):
    with Record(tmp_path / "verdicts.csv"), pytest.raises(ValueError, match="in use by another watcher"):
        Record(tmp_path / "verdicts.csv").__enter__()
    with Record(tmp_path / "verdicts.csv"):
        pass


def test_another_csv_is_not_appended_to(tmp_path):
    (tmp_path / "verdicts.csv").write_text("someone's,other,table\n")
    with pytest.raises(OSError, match="not a watcher's record"):
        Record(tmp_path / "verdicts.csv").__enter__()
    assert (tmp_path / "verdicts.csv").read_text() == "someone's,other,table\n"


def test_recordings_are_found_in_order(tmp_path):
    for name in ("b.wav", "a.flac", "c.csv", ".hidden/d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in recordings(tmp_path)] == ["a.flac", "b.wav"]
