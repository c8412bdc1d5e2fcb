"""Verdicts over time, from the page and from a watcher's record that anybody may write to."""

import os

import pytest

from detection.judging import Judge, Judgement
from detection.watch import Record
from detection.web.history import TAIL, UNJUDGED, VERDICTS, History

MACHINES = {"fan": ["id_00", "id_02"], "pump": ["id_00"]}


@pytest.fixture
def judged(root, detector):
    return Judge(detector)(root / "data" / "raw" / "pump" / "test" / "anomaly_id_00_00000001.flac")


@pytest.fixture
def record(tmp_path, judged):
    path = tmp_path / "verdicts.csv"
    with Record(path) as table:
        table.add({"file": "first.wav", "bytes": 1, "changed_ns": 1} | judged.row())
    return path


def verdicts(history):
    found = history.as_json()
    return {f"{one['machine_type']}/{one['machine_id']}": one["verdicts"] for one in found["machines"]}


def test_page_and_record_in_the_order_of_time(record, judged):
    history = History(MACHINES, record)
    before = history.version()
    history.add(judged.as_json() | {"file": "second.wav"})
    assert history.version() != before
    found = verdicts(history)
    assert list(found) == ["fan/id_00", "fan/id_02", "pump/id_00"] and found["fan/id_00"] == []
    first, second = found["pump/id_00"]
    assert (first["file"], second["file"]) == ("first.wav", "second.wav")
    assert first["score"] == pytest.approx(judged.verdict.score) == second["score"]
    assert first["verdict"] == judged.as_json()["verdict"]


def test_what_is_added_to_the_record_is_seen(record, judged):
    history = History(MACHINES, record)
    assert len(verdicts(history)["pump/id_00"]) == 1
    before = history.version()
    with Record(record) as table:
        table.add({"file": "second.wav", "bytes": 1, "changed_ns": 1} | judged.row())
        table.add(
            {"file": "third.wav", "bytes": 1, "changed_ns": 1} | Judgement("third.wav", error="too \x1b[1m").row()
        )
    assert history.version() != before
    assert len(verdicts(history)["pump/id_00"]) == 2
    (unjudged,) = history.as_json()["unjudged"]
    assert unjudged["file"] == "third.wav" and unjudged["error"] == "too \\x1b[1m"


def test_much_is_bounded(record, judged):
    line = record.read_bytes().splitlines(keepends=True)[1]
    with record.open("ab") as file:
        file.write(line * (3 * TAIL // len(line)))
    history = History(MACHINES, record)
    for _ in range(3 * UNJUDGED):
        history.add(judged.as_json())
        history.add(Judgement("x.wav", error="no sound").as_json())
    found = history.as_json()
    assert len(found["machines"][2]["verdicts"]) == VERDICTS and len(found["unjudged"]) == UNJUDGED
    assert found["record_error"] == ""


@pytest.mark.parametrize(
    "row",
    [
        b"\xff\x00\x01",
        b'"open',
        b"a,b",
        b"yesterday,f.wav,1,1,pump,id_00,b,1,1,1,normal,,",
        b"2026-01-01T00:00:00,f.wav,1,1,pump,id_00,b,1,1,1,normal,,",
        b"2026-01-01T00:00:00+00:00,f.wav,1,1,pump,id_00,b,nan,1,1,normal,,",
        b"2026-01-01T00:00:00+00:00,f.wav,1,1,pump,id_00,b,1,1,1,fine,,",
        b"2026-01-01T00:00:00+00:00,f.wav,1,1,pump,id_00,b,1,1,1,,,",
    ],
)
def test_a_row_that_cannot_be_read_is_no_verdict(record, row):
    with record.open("ab") as file:
        file.write(row + b"\n" + b"2026-01-01T00:00:00+00:00,half a row")
    history = History(MACHINES, record)
    assert [one["file"] for one in verdicts(history)["pump/id_00"]] == ["first.wav"]
    assert history.as_json()["record_error"] == "1 of its last rows cannot be read"


def test_a_record_that_is_none_is_said(tmp_path, record):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "other.csv").write_text("a,b\n1,2\n")
    (tmp_path / "picture").write_bytes(bytes(range(256)) * 100)
    for name, reason in (
        ("missing.csv", "No such file"),
        ("fifo", "not a file"),
        (".", "not a file"),
        ("other.csv", "not the record of a watcher"),
        ("picture", "not the record of a watcher"),
    ):
        history = History(MACHINES, tmp_path / name)
        assert reason in history.as_json()["record_error"] and verdicts(history)["pump/id_00"] == []
    late = History(MACHINES, tmp_path / "late.csv")
    assert late.as_json()["record_error"]
    record.rename(tmp_path / "late.csv")
    assert late.as_json()["record_error"] == "" and len(verdicts(late)["pump/id_00"]) == 1
