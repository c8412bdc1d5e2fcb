"""The watcher: each recording once, when it is complete, whatever happens in between."""

import csv
import json
import random
import subprocess
import sys
import threading
import time

import pytest
import soundfile

from audio.clips import read_clip
from audio.folders import recordings
from detection.judging import Judge
from detection.sinks.interface import Sinks
from detection.sinks.json_lines import JsonLines
from detection.sinks.table import COLUMNS, Table
from detection.watch import _is_truncated, watch
from tests.conftest import ROOT
from tests.detection.verdicts import judged

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")


class Watcher:
    """A watcher in a thread, which notes the files that it was given to judge."""

    def __init__(self, folder, settle=0.1):
        self.folder, self.settle, self.judged, self.stop = folder, settle, [], threading.Event()
        self.thread = threading.Thread(target=self._run)

    def _run(self):
        record = Table(self.folder.parent / "verdicts.csv").open()
        with Sinks([JsonLines(self.folder.parent / "verdicts.jsonl")], record) as sinks:
            watch(self.folder, self.judge, sinks, self.stop, interval=0.02, settle=self.settle, patience=1.0)

    def judge(self, path, name):
        self.judged.append((name, path.read_bytes()))
        return [judged(name)]

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.thread.join(30)
        assert not self.thread.is_alive()

    def wait_for(self, count):
        until = time.monotonic() + 30
        while len(self.judged) < count and time.monotonic() < until:
            time.sleep(0.01)
        time.sleep(0.2)  # and not one more
        assert len(self.judged) == count


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "incoming").mkdir()
    return tmp_path / "incoming"


def rows(folder):
    with (folder.parent / "verdicts.csv").open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_what_is_there_and_what_comes_is_judged_once(folder, caplog):
    (folder / "a.wav").write_bytes(b"one")
    (folder / "notes.txt").write_bytes(b"no sound")
    (folder / "more.txt").write_bytes(b"no sound")
    (folder / ".b.wav").write_bytes(b"hidden, as unfinished copies are")
    with Watcher(folder) as watcher:
        watcher.wait_for(1)
        (folder / "deep").mkdir()
        (folder / "deep" / "c.FLAC").write_bytes(b"two")
        watcher.wait_for(2)
    assert [row["file"] for row in rows(folder)] == ["a.wav", "deep/c.FLAC"]
    assert list(rows(folder)[0]) == COLUMNS and rows(folder)[0]["bytes"] == "3"
    lines = [json.loads(line) for line in (folder.parent / "verdicts.jsonl").read_text().splitlines()]
    assert [(line["file"], line["bytes"], line["outcome"]) for line in lines] == [
        ("a.wav", 3, "normal"),
        ("deep/c.FLAC", 3, "normal"),
    ]
    assert [record.message for record in caplog.records] == [
        f"{folder / 'more.txt'} is no recording that can be read, nor is any .txt file"
    ]


def test_a_file_is_judged_only_when_it_has_stopped_growing(folder):
    with Watcher(folder, settle=0.3) as watcher, (folder / "slow.wav").open("wb", buffering=0) as file:
        for _ in range(10):
            file.write(b"x" * 100)
            time.sleep(0.08)
        watcher.wait_for(1)
    assert watcher.judged == [("slow.wav", b"x" * 1000)]


def test_a_restart_judges_what_came_meanwhile_and_nothing_twice(folder):
    (folder / "a.wav").write_bytes(b"one")
    with Watcher(folder) as first:
        first.wait_for(1)
    (folder / "b.wav").write_bytes(b"two")
    with Watcher(folder) as second:
        second.wait_for(1)
    assert second.judged == [("b.wav", b"two")]
    (folder / "a.wav").write_bytes(b"written anew")
    with Watcher(folder) as third:
        third.wait_for(1)
    assert third.judged == [("a.wav", b"written anew")] and len(rows(folder)) == 3


@pytest.mark.parametrize(
    "name", ["line\nbreak.wav", 'quote",comma.wav', "Förderband Ω.wav", "bad\udcff.wav", "=1+1.wav", "'-a.wav"]
)
def test_strange_names_are_remembered(folder, name):
    (folder / name).write_bytes(b"one")
    for count in (1, 0):
        with Watcher(folder) as watcher:
            watcher.wait_for(count)


def test_a_row_that_a_power_cut_left_incomplete_is_judged_again(folder):
    for name in ("a.wav", "b.wav"):
        (folder / name).write_bytes(b"one")
    with Watcher(folder) as watcher:
        watcher.wait_for(2)
    path = folder.parent / "verdicts.csv"
    path.write_bytes(path.read_bytes()[:-5])
    with Watcher(folder) as watcher:
        watcher.wait_for(1)
    assert [row["file"] for row in rows(folder)] == ["a.wav", "b.wav", "b.wav"]


def test_a_file_that_changes_while_it_is_judged_waits_for_its_next_turn(folder):
    class Appending(Watcher):
        def judge(self, path, name):
            judgements = super().judge(path, name)
            if len(self.judged) == 1:
                path.write_bytes(b"longer now")
            return judgements

    (folder / "a.wav").write_bytes(b"one")
    with Appending(folder) as watcher:
        watcher.wait_for(2)
    assert len(rows(folder)) == 1 and rows(folder)[0]["bytes"] == "10"


def test_a_truncated_file_gets_more_time(folder):
    class Cut(Watcher):
        def judge(self, path, name):
            super().judge(path, name)
            return [judged(name, warnings=("truncated, 3 of 9 bytes are there: read as far as it goes",))]

    (folder / "a.wav").write_bytes(b"one")
    with Cut(folder) as watcher:
        watcher.wait_for(1)
        assert rows(folder) == []
        (folder / "a.wav").write_bytes(b"one more")
        watcher.wait_for(2)
        watcher.wait_for(3)
    assert [row["bytes"] for row in rows(folder)] == ["8"]


def test_a_cut_recording_is_called_truncated(root, detector, tmp_path):
    clip = read_clip(root / "data" / "raw" / "fan" / "test" / "anomaly_id_00_00000000.flac")
    soundfile.write(tmp_path / "a.wav", clip, 16000)
    content = (tmp_path / "a.wav").read_bytes()
    judge = Judge(detector, "fan", "id_00")
    for share, expected in ((1.0, False), (0.7, True), (0.1, True)):
        (tmp_path / "a.wav").write_bytes(content[: int(share * len(content))])
        assert _is_truncated(judge(tmp_path / "a.wav")) is expected


def test_each_channel_gets_a_row(folder):
    class Stereo(Watcher):
        def judge(self, path, name):
            return [*super().judge(path, name), judged(name, anomalous=True)]

    (folder / "a.wav").write_bytes(b"one")
    for count in (1, 0):
        with Stereo(folder) as watcher:
            watcher.wait_for(count)
    assert [(row["channel"], row["channels"], row["verdict"]) for row in rows(folder)] == [
        ("0", "2", "normal"),
        ("1", "2", "anomalous"),
    ]


def test_a_folder_that_goes_away_is_waited_for(folder, caplog):
    (folder / "a.wav").write_bytes(b"one")
    with Watcher(folder) as watcher:
        watcher.wait_for(1)
        away = folder.rename(folder.with_name("away"))
        time.sleep(0.2)
        (away / "b.wav").write_bytes(b"two")
        away.rename(folder)
        watcher.wait_for(2)
    assert [record.message for record in caplog.records] == [
        f"{folder}: no such folder (any more); it is waited for",
        f"{folder}: works again",
    ]


MONITOR = """
import sys, threading
from pathlib import Path
from types import SimpleNamespace
from detection.sinks.settings import open_sinks, read_settings
from detection.sinks.table import Table
from detection.watch import watch

def judge(path, name):
    verdict = {"verdict": "normal", "score": 0.5, "machine_type": "pump", "machine_id": "id_00"}
    found = SimpleNamespace(name=name, file=name, error="", verdict=SimpleNamespace(anomalous=False, warnings=()))
    found.as_json, found.row = lambda: verdict | {"file": name}, lambda: verdict | {"judged": "now"}
    return [found]

folder = Path(sys.argv[1])
with open_sinks(read_settings(folder / "monitor.yaml"), Table(folder / "verdicts.csv")) as sinks:
    watch(folder / "incoming", judge, sinks, threading.Event(), interval=0.01, settle=0.02)
"""


def test_no_verdict_is_lost_when_the_monitor_is_killed(folder):
    """Killed five times at random moments: table, JSON lines and the webhook's receiver have all recordings."""
    from tests.detection.test_sinks import Receiver, until

    with Receiver() as receiver:
        (folder.parent / "monitor.yaml").write_text(
            "sinks: [{type: json_lines, path: verdicts.jsonl}, {type: webhook, url: '" + receiver.url + "'}]"
        )
        names, draw = [], random.Random(1)

        def start():
            return subprocess.Popen([sys.executable, "-c", MONITOR, folder.parent], cwd=ROOT)

        def have(found):
            return set(names) <= set(found)

        for _ in range(5):
            with start() as process:
                until(lambda: process.poll() is None and (not names or names[-1] in receiver.files()), 60)
                for _ in range(10):
                    names.append(f"{len(names)}.wav")
                    (folder / names[-1]).write_bytes(b"one")
                time.sleep(draw.uniform(0.05, 0.3))
                process.kill()
        with start() as process:
            until(lambda: have(receiver.files()) and have(row["file"] for row in rows(folder)), 60)
            process.kill()
    lines = [json.loads(line) for line in (folder.parent / "verdicts.jsonl").read_text().splitlines()]
    assert len(names) == 50 and have(line["file"] for line in lines)
    assert len({line["id"] for line in lines}) == 50  # what was judged twice has the same id


def test_recordings_are_found_in_order(tmp_path):
    for name in ("b.wav", "a.flac", "c.csv", ".hidden/d.wav"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert [path.name for path in recordings(tmp_path)] == ["a.flac", "b.wav"]
