"""The attacks run, small and short, and the page withstands them."""

import json

import pytest

from benchmarks import hostile_clients
from benchmarks.hostile_clients import Attack, measure


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setattr(
        hostile_clients, "ATTACKS", [Attack("idle connections", 100), Attack("half uploads", 3, hostile_clients.HALF)]
    )


def test_a_visitor_is_answered_while_the_page_is_attacked(few, tmp_path):
    rows = hostile_clients.main(["--seconds", "2", "--rest", "0.1"], tmp_path / "hostile.json")
    assert json.loads((tmp_path / "hostile.json").read_text())["rows"] == rows
    idle, half = rows
    for row in rows:
        answered, visits = row["visits answered"].split(" of ")
        assert int(answered) == int(visits) > 0 and row["median wait, s"] <= row["longest wait, s"]
        assert row["log, MB"] < 0.01
    assert 0 < idle["connections"] <= 66 and idle["uploads, MB"] < 0.1
    assert half["connections"] == 3 and half["uploads, MB"] > 1


def test_a_page_that_does_not_start_is_said(tmp_path):
    with pytest.raises(RuntimeError, match="does not start"):
        measure(Attack("none", 0), tmp_path, 1, 0)
