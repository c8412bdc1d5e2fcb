"""The benchmark of detection runs, on the smallest detector, and compares like with like."""

import json
import sys

import pytest

from benchmarks import detect
from model.network import NetworkConfig

WAYS = [f"{by}, {way}" for by in ("torch", "graph") for way in ("file to verdict", "waveform to scores")]


def test_each_way_is_measured_at_each_size(tmp_path, monkeypatch):
    tiny = NetworkConfig(width=24, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
    monkeypatch.setattr(detect, "SIZES", {"tiny": tiny})
    monkeypatch.setattr(detect, "IDENTITIES", 2)
    options = ["--clips", "5", "--rounds", "1", "--python", sys.executable, "--long", "20"]
    rows = detect.main(options, tmp_path / "detect.json")
    assert [(row["size"], row["way"]) for row in rows] == [("tiny", way) for way in WAYS]
    assert json.loads((tmp_path / "detect.json").read_text())["rows"] == rows
    by_torch, alone, by_graph, _ = rows
    assert alone["first verdict, s"] is None, "it has no process of its own"
    assert by_torch["first verdict, s"] > by_torch["then per clip, ms"] / 1000
    assert all(row["x real time"] == pytest.approx(10_000 / row["then per clip, ms"]) for row in rows)
    assert by_graph["memory, MB"] < by_torch["memory, MB"], "torch is not loaded"
    assert by_graph["difference"] < 1e-3
