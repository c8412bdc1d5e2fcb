"""The benchmark of feature extraction runs, and its ways compute the same."""

import json
import os

import numpy as np
import pytest
import soundfile

from audio.features import Features
from benchmarks import features
from tests import tiny_corpus


def test_all_ways_are_measured_on_the_same_clips(tmp_path):
    raw = tiny_corpus.make(tmp_path, training=2, test=2) / "data/raw"
    rows = features.main(["--clips", str(raw), "--rounds", "1"], tmp_path / "features.json")
    written = json.loads((tmp_path / "features.json").read_text())
    assert written["rows"] == rows and written["clips"] == 33
    assert rows[0]["way"] == "librosa loop" and rows[0]["x librosa"] == 1
    assert [row["x librosa"] for row in rows] == [pytest.approx(row["clips/s"] / rows[0]["clips/s"]) for row in rows]
    assert [row["way"] for row in rows[-3:]] == [
        "stage, 1 process", "stage, 2 processes", "stage, 2 processes, all in the store",
    ]  # fmt: skip


def test_two_processes_share_the_clips(tmp_path):
    paths = [tmp_path / str(number) for number in range(5)]
    features.halved(lambda part: [path.write_text(str(os.getpid())) for path in part], paths)
    assert len({path.read_text() for path in paths}) == 2
    with pytest.raises(RuntimeError, match="failed"):
        features.halved(lambda part: [path.read_text() for path in part], [tmp_path / "none"])


def test_the_loops_compute_what_the_stage_computes(tmp_path):
    raw = tiny_corpus.make(tmp_path, training=2, test=2) / "data/raw"
    paths = sorted(raw.rglob("*.flac"))
    by_librosa, by_torchaudio = (loop(paths) for loop in (features.librosa_loop, features.torchaudio_loop))
    features.stage(raw, tmp_path / "made", tmp_path / "store", 1)
    made = Features.open(tmp_path / "made" / "features")
    for row, path in enumerate(raw / f"{clip}.flac" for clip in made.index["clip"]):
        number = paths.index(path)
        assert len(made.read(row)) == soundfile.info(path).frames // 512 + 1
        assert np.abs(by_librosa[number].T.astype(float) - made.read(row)).max() < 0.1
        assert np.abs(by_torchaudio[number].T.astype(float) - made.read(row)).max() < 0.1
