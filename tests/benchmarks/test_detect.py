"""The benchmark of detection runs, on the smallest detector, and compares like with like."""

import json

import pytest

from benchmarks import detect
from model.network import NetworkConfig

WAYS = ["detect.py, file to verdict", "torch, log-mel to score", "onnxruntime, log-mel to scores"]


def test_each_way_is_measured_at_each_size(tmp_path, monkeypatch):
    tiny = NetworkConfig(width=24, depth=1, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2)
    monkeypatch.setattr(detect, "SIZES", {"tiny": tiny})
    monkeypatch.setattr(detect, "IDENTITIES", 2)
    rows = detect.main(["--clips", "20", "--rounds", "1"], tmp_path / "detect.json")
    assert [(row["size"], row["way"]) for row in rows] == [("tiny", way) for way in WAYS]
    assert json.loads((tmp_path / "detect.json").read_text())["rows"] == rows
    whole, network, _ = rows
    assert network["x torch"] == 1 and network["first verdict, s"] is None, "it has no process of its own"
    assert whole["x torch"] < 1, "reading the file and its log-mel come on top of the network"
    assert whole["first verdict, s"] > whole["then per clip, ms"] / 1000
    assert all(row["x real time"] == pytest.approx(10_000 / row["then per clip, ms"]) for row in rows)
