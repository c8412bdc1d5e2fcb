"""The benchmark of detectors that were tampered with, at a small size: nothing ends in a traceback."""

import pytest

from benchmarks.tampering import main
from detection.detector import Detector
from tests.tiny_corpus import make_scored


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    return make_scored(tmp_path_factory.mktemp("tampered"))


def count(rows, outcome):
    return sum(number for row in rows for key, number in row.items() if key.startswith(outcome))


def test_damage_is_refused_and_intent_is_where_there_is_a_key(root, tmp_path, monkeypatch):
    clip = root / "data/raw/pump/test/anomaly_id_00_00000001.flac"
    arguments = [str(root / "data/detector"), str(clip), "--machine", "pump", "--id", "id_00", "--count", "24"]
    rows = main(arguments, tmp_path / "a.json")
    assert all(row.get("refused", 0) == 4 for row in rows if row["checksums"] == "kept")
    assert count(rows, "traceback") == 0 and count(rows, "refused") + count(rows, "as before") > 12

    monkeypatch.setenv("RCMAE_KEY", "a secret")
    with pytest.raises(ValueError, match="signature is missing"):
        Detector.load(root / "data/detector")
    monkeypatch.delenv("RCMAE_KEY")
    detector = Detector.load(root / "data/detector")
    monkeypatch.setenv("RCMAE_KEY", "a secret")
    detector.save(tmp_path / "signed")
    rows = main([str(tmp_path / "signed"), *arguments[1:]], tmp_path / "b.json")
    assert count(rows, "refused") == 24
    monkeypatch.setenv("RCMAE_KEY", "another")
    with pytest.raises(ValueError, match="signature is not that of RCMAE_KEY"):
        Detector.load(tmp_path / "signed")
