"""Verdicts over time, from the page and from a watcher's record that anybody may write to."""

import os

import pytest

from detection.judging import Judgement
from detection.sinks.interface import note
from detection.sinks.table import COLUMNS, Table
from detection.web.history import TAIL, UNJUDGED, VERDICTS, History
from tests.detection.verdicts import judged

MACHINES = {"fan": ["id_00", "id_02"], "pump": ["id_00"]}
PUMP = judged("=first.wav", p_value=0.004)
CELLS = {"judged": "2026-01-01T00:00:00+00:00", "file": "f.wav", "machine_type": "pump", "machine_id": "id_00"}
CELLS |= {"score": "1", "threshold": "2", "p_value": "0.5", "n": "9", "alpha": "0.01", "verdict": "normal"}


def row(**cells):
    """A line of a record, without its end."""
    return ",".join((CELLS | cells).get(column, "") for column in COLUMNS).encode()


def put(path, judgement, channel=None):
    table = Table(path)
    table.put(note(judgement, channel, bytes=1, changed_ns=1))
    table.close()


@pytest.fixture
def record(tmp_path):
    path = tmp_path / "verdicts.csv"
    put(path, PUMP)
    return path


def verdicts(history):
    found = history.as_json()
    return {f"{one['machine_type']}/{one['machine_id']}": one["verdicts"] for one in found["machines"]}


def test_page_and_record_in_the_order_of_time(record):
    history = History(MACHINES, record)
    before = history.version()
    history.add(PUMP.as_json() | {"file": "second.wav"})
    assert history.version() != before
    found = verdicts(history)
    assert list(found) == ["fan/id_00", "fan/id_02", "pump/id_00"] and found["fan/id_00"] == []
    first, second = found["pump/id_00"]
    assert (first["file"], second["file"]) == ("=first.wav", "second.wav")
    assert first["score"] == pytest.approx(PUMP.verdict.score) == second["score"]
    assert (first["p_value"], first["n"], first["warnings"]) == (0.004, 19, "few calibration recordings")
    assert second | {"time": "", "file": ""} == first | {"time": "", "file": ""}
    assert first["verdict"] == PUMP.as_json()["verdict"]


def test_what_is_added_to_the_record_is_seen(record):
    history = History(MACHINES, record)
    assert len(verdicts(history)["pump/id_00"]) == 1
    before = history.version()
    put(record, judged("second.wav"), channel=1)
    put(record, Judgement("third.wav", error="too \x1b[1m"))
    assert history.version() != before
    assert [one["file"] for one in verdicts(history)["pump/id_00"]] == ["=first.wav", "second.wav, channel 1"]
    (unjudged,) = history.as_json()["unjudged"]
    assert unjudged["file"] == "third.wav" and unjudged["error"] == "too \\x1b[1m"


def test_much_is_bounded(record):
    line = record.read_bytes().splitlines(keepends=True)[1]
    with record.open("ab") as file:
        file.write(line * (3 * TAIL // len(line)))
    history = History(MACHINES, record)
    for _ in range(3 * UNJUDGED):
        history.add(PUMP.as_json())
        history.add(Judgement("x.wav", error="no sound").as_json())
    found = history.as_json()
    assert len(found["machines"][2]["verdicts"]) == VERDICTS and len(found["unjudged"]) == UNJUDGED
    assert found["record_error"] == ""


@pytest.mark.parametrize(
    "line",
    [
        b"\xff\x00\x01",
        b'"open',
        b"a,b",
        row() + b",more",
        row(judged="yesterday"),
        row(judged="2026-01-01T00:00:00"),
        row(p_value="nan"),
        row(score="high"),
        row(verdict="fine"),
        row(verdict=""),
    ],
)
def test_a_row_that_cannot_be_read_is_no_verdict(record, line):
    with record.open("ab") as file:
        file.write(line + b"\n" + row() + b"\n" + b"2026-01-01T00:00:00+00:00,half a row")
    history = History(MACHINES, record)
    assert [one["file"] for one in verdicts(history)["pump/id_00"]] == ["f.wav", "=first.wav"]
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
