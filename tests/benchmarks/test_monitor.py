"""The benchmark of the monitor runs, and memory stays flat as verdicts add up."""

import json

from benchmarks import monitor
from model.network import NetworkConfig


def test_verdicts_add_up_and_memory_does_not(tmp_path, monkeypatch):
    tiny = NetworkConfig(width=24, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
    monkeypatch.setattr(monitor, "SIZES", {"tiny": tiny})
    rows = monitor.main(["--verdicts", "300", "--steps", "3", "--windows", "1"], tmp_path / "monitor.json")
    assert json.loads((tmp_path / "monitor.json").read_text())["rows"] == rows
    first, _, last, live = rows
    assert last["verdicts"] == 300 and last["memory, MB"] - first["memory, MB"] < 5
    assert 0 < live["share of a core, %"] < 100
