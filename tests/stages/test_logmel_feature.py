"""The feature stage: what it computes, and that it computes nothing twice."""

import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pandas as pd
import pytest
import torch

from audio.clips import digest, read_clip, write_clip
from audio.features import Features
from audio.logmel import LogMelSettings, log_mel
from audio.manifest import write_manifest
from stages import logmel_feature
from stages.params import read
from tests.conftest import ROOT

SETTINGS = LogMelSettings()
AUGMENTED = ["clip", "view", "prompt_id", "ddim_steps", "t0", "guidance_scale", "seed", "checkpoint", "key"]


class Data:
    """data/raw and data/augmented of some clips of noise, and the stage run on them."""

    def __init__(self, root: Path):
        self.root, self.rows, self.views = root, [], []
        (root / "augmented").mkdir(parents=True)
        self.rng = np.random.default_rng(0)

    def add(self, clip: str, seconds: float = 1.0) -> None:
        waveform = self.write(self.root / "raw" / f"{clip}.flac", seconds)
        machine_type, split, name = clip.split("/")
        row = {"clip": clip, "machine_type": machine_type, "machine_id": "id_00", "split": split, "subset": "dev"}
        row |= {"condition": name.split("_")[0], "seconds": seconds, "sha256": digest(waveform)}
        self.rows.append(row | {"source": "", "offset": 0.0})

    def augment(self, clip: str, view: int) -> None:
        self.write(self.root / "augmented" / f"{clip}_{view}.flac", 1.0)
        self.views.append({"clip": clip, "view": view})

    def write(self, path: Path, seconds: float) -> np.ndarray:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, self.rng.uniform(-0.5, 0.5, int(16000 * seconds)))
        return read_clip(path)

    def run(self, **settings) -> Features:
        write_manifest(self.root / "raw" / "manifest.csv", self.rows)
        pd.DataFrame(self.views, columns=AUGMENTED).to_csv(self.root / "augmented" / "manifest.csv", index=False)
        params = SimpleNamespace(logmel=read(ROOT / "params.yaml").logmel.model_copy(update=settings))
        folders = [self.root / name for name in ("raw", "augmented", "features")]
        logmel_feature.run(params, *folders)
        return Features.open(folders[2])

    def entries(self) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (self.root / "store").rglob("*.npy")}


@pytest.fixture
def data(tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    data = Data(tmp_path)
    data.add("fan/train/normal_id_00_00000000", 11.0)
    data.add("fan/train/normal_id_00_00000001")
    data.add("fan/test/anomaly_id_00_00000000", 10.0)
    return data


def test_originals_and_augmentations_in_order(data):
    data.augment("fan/train/normal_id_00_00000001", 0)
    data.augment("fan/train/normal_id_00_00000001", 1)
    features = data.run()
    assert features.settings == SETTINGS
    rows = features.index
    assert rows["kind"].tolist() == ["original"] * 3 + ["augmented"] * 2
    assert rows["view"].tolist() == [0, 0, 0, 0, 1]
    assert rows["frames"].tolist() == [313, 344, 32, 32, 32]
    assert rows["split"].tolist() == ["test", "train", "train", "train", "train"]
    paths = [data.root / "raw" / f"{clip}.flac" for clip in rows["clip"][:3]]
    paths += [data.root / "augmented" / f"{clip}_{view}.flac" for clip, view in rows[["clip", "view"]].values[3:]]
    for row, path in enumerate(paths):
        expected = log_mel(torch.from_numpy(read_clip(path)), SETTINGS).numpy()
        assert np.abs(features.read(row) - expected).max() <= 2**-5  # dB, float16's rounding
    train = np.concatenate([features.read(1), features.read(2)]).astype(np.float64)
    assert (features.mean, features.std) == pytest.approx((train.mean(), train.std()), rel=1e-9)


def test_a_few_more_clips_are_all_that_is_computed(data):
    data.run()
    before = data.entries()
    assert len(before) == 3
    data.add("fan/train/normal_id_00_00000002")
    assert len(data.run()) == 4
    after = data.entries()
    assert len(after) == 4
    assert {path: after[path] for path in before} == before


def test_changed_audio_or_settings_are_computed_anew(data):
    first = data.run()
    old = first.read(2)
    data.write(data.root / "raw" / "fan/train/normal_id_00_00000001.flac", 1.0)
    assert not np.array_equal(data.run().read(2), old)
    assert len(data.entries()) == 4
    assert data.run(n_mels=64).read(2).shape == (32, 64)
    assert len(data.entries()) == 7


def test_the_same_features_without_the_store(data):
    files = ("original.npy", "index.csv", "stats.json")
    data.run()
    first = [(data.root / "features" / file).read_bytes() for file in files]
    data.run()
    assert [(data.root / "features" / file).read_bytes() for file in files] == first
    shutil.rmtree(data.root / "store")
    data.run()
    assert [(data.root / "features" / file).read_bytes() for file in files] == first


def test_a_missing_clip_fails_and_leaves_no_features(data):
    (data.root / "raw" / "fan/train/normal_id_00_00000001.flac").unlink()
    with pytest.raises((ValueError, OSError), match=r"normal_id_00_00000001\.flac"):
        data.run()
    assert not list(data.root.glob("features*"))
