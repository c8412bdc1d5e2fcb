"""What the benchmarks share."""

import json
import os
import time

import pytest

from benchmarks.measuring import alternating, seconds, seconds_apart, show, table


def test_ways_take_turns_and_the_median_counts():
    order = []

    def sleep(way, times):
        order.append(way)
        time.sleep(times[order.count(way) - 1])

    ways = {"a": lambda: sleep("a", [0.2, 0.01, 0.01]), "b": lambda: sleep("b", [0.05] * 3)}
    taken = alternating(ways, 3)
    assert order == list("ababab")
    assert taken["a"] < 0.05 <= taken["b"] < 0.2


def test_a_measurement_apart_leaves_nothing_behind(monkeypatch):
    monkeypatch.delenv("LEFT_BEHIND", raising=False)
    assert seconds_apart(lambda: os.environ.update(LEFT_BEHIND="x") or time.sleep(0.1)) >= 0.1
    assert "LEFT_BEHIND" not in os.environ
    assert seconds(lambda: time.sleep(0.1)) >= 0.1


def test_a_failure_apart_is_one_here():
    with pytest.raises(RuntimeError, match="failed"):
        seconds_apart(lambda: 1 / 0)


def test_the_table_and_the_file_say_the_same(tmp_path, capsys):
    rows = [{"way": "plain", "clips/s": 123.456, "x": 1.0}, {"way": "ours", "clips/s": 1.5}]
    assert table(rows).splitlines() == [
        "| way | clips/s | x |",
        "| --- | --- | --- |",
        "| plain | 123 | 1 |",
        "| ours | 1.5 |  |",
    ]
    show("some", rows, {"clips": 3}, tmp_path / "results" / "some.json")
    written = json.loads((tmp_path / "results" / "some.json").read_text())
    assert written["rows"] == rows and written["clips"] == 3 and {"date", "machine"} <= set(written)
    assert table(rows) in capsys.readouterr().out
