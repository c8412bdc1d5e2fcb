"""The feature stage: what it computes, and that it computes nothing twice."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors import safe_open

from audio import extraction
from audio.clips import digest, read_clip, write_clip
from audio.features import Features
from audio.logmel import log_mel
from audio.manifest import write_manifest
from stages import logmel_feature
from stages.params import load
from storage.files import DiskFullError
from storage.shards import pack
from tests.conftest import ROOT, largest_file

SETTINGS = logmel_feature.settings_of(load("logmel-feature", ROOT).logmel)
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

    def run(self, processes: int = 2, **settings) -> Features:
        write_manifest(self.root / "raw" / "manifest.csv", self.rows)
        pd.DataFrame(self.views, columns=AUGMENTED).to_csv(self.root / "augmented" / "manifest.csv", index=False)
        params = load("logmel-feature", ROOT, {f"logmel.{key}": value for key, value in settings.items()})
        folders = [self.root / name for name in ("raw", "augmented", "features")]
        logmel_feature.run(params, *folders, processes)
        return Features.open(folders[2])

    def entries(self) -> list[str]:
        """Keys of all spectrograms that were ever computed, one that was computed twice stands twice."""
        keys = []
        for path in (self.root / "store").rglob("*.safetensors"):
            with safe_open(path, framework="np") as file:
                keys += file.keys()
        return sorted(keys)


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
    assert len(after) == len(set(after)) == 4
    assert set(after) > set(before)


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


def test_the_same_features_with_any_number_of_processes_and_whatever_was_there(data, monkeypatch):
    monkeypatch.setattr(extraction, "BATCH", 2)
    for number in range(2, 7):
        data.add(f"fan/train/normal_id_00_{number:08d}", 1.0 + number / 10)
    made = []
    for processes, before in ((1, 0), (2, 0), (3, 0), (2, 3)):
        shutil.rmtree(data.root / "store", ignore_errors=True)
        if before:  # some are in the store already, in other company
            rows, data.rows = data.rows, data.rows[:before]
            data.run()
            data.rows = rows
        features = data.root / "features"
        shutil.rmtree(features, ignore_errors=True)
        data.run(processes=processes)
        made.append({path.name: path.read_bytes() for path in features.iterdir()})
    assert made[1:] == made[:1] * 3


def test_one_content_is_computed_once_and_stands_for_every_clip(data):
    first, second = data.rows[0]["clip"], "fan/train/normal_id_00_00000005"
    data.add(second)
    shutil.copy(data.root / "raw" / f"{first}.flac", data.root / "raw" / f"{second}.flac")
    features = data.run()
    rows = features.index.index[features.index["clip"].isin([first, second])]
    assert np.array_equal(*[features.read(row) for row in rows])
    assert len(data.entries()) == 3


def test_a_failure_costs_its_batch_alone(data, monkeypatch):
    monkeypatch.setattr(extraction, "BATCH", 1)
    data.run()
    shutil.rmtree(data.root / "store")
    path = data.root / "raw" / "fan/train/normal_id_00_00000001.flac"
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"^[^\n]*normal_id_00_00000001\.flac: [^\n]*$"):
        data.run(processes=2)
    kept = data.entries()
    assert len(kept) == 2
    path.write_bytes(whole)
    data.run()
    assert len(data.entries()) == 3 and set(data.entries()) > set(kept)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_full_disk_is_one_line_and_what_was_kept_stays(data, processes):
    data.run(processes=processes)
    before = data.entries()
    data.add("fan/train/normal_id_00_00000002")
    with (
        largest_file(2000),
        pytest.raises(DiskFullError, match=r"\.safetensors cannot be written: .*8192 bytes are needed"),
    ):
        data.run(processes=processes)
    assert data.entries() == before
    data.run(processes=processes)
    assert len(data.entries()) == 4


@pytest.mark.parametrize("damage", ["cut", "flipped"])
def test_a_damaged_segment_is_made_again(data, damage, caplog):
    features = data.run()
    expected = [features.read(row) for row in range(3)]
    segment = next((data.root / "store").rglob("*.safetensors"))
    whole = segment.read_bytes()
    segment.write_bytes(whole[:1000] if damage == "cut" else whole[:-1] + bytes([whole[-1] ^ 1]))
    features = data.run(processes=1)
    assert f"{segment} of the store is damaged and will be made again" in caplog.text
    assert segment.read_bytes() == whole
    assert all(np.array_equal(features.read(row), one) for row, one in enumerate(expected))
    assert len(data.entries()) == 3


def test_a_view_of_an_unknown_clip_is_named(data):
    data.augment("fan/train/normal_id_00_00000009", 0)
    with pytest.raises(ValueError, match=r"augmented/manifest\.csv: fan/train/normal_id_00_00000009 is not in .*raw"):
        data.run()


@pytest.mark.parametrize("processes", [1, 2])
def test_a_missing_clip_fails_and_leaves_no_features(data, processes):
    (data.root / "raw" / "fan/train/normal_id_00_00000001.flac").unlink()
    with pytest.raises((ValueError, OSError), match=r"^[^\n]*normal_id_00_00000001\.flac[^\n]*$"):
        data.run(processes=processes)
    assert not list(data.root.glob("features*"))


def test_the_same_features_from_shards(data):
    data.augment("fan/train/normal_id_00_00000001", 0)
    data.augment("fan/train/normal_id_00_00000001", 1)
    data.run()
    features = data.root / "features"
    expected = {path.name: path.read_bytes() for path in features.iterdir()}
    shutil.rmtree(data.root / "store")
    for folder in ("raw", "augmented"):
        files = sorted((data.root / folder).rglob("*.flac"))
        pack(data.root / folder, [path.relative_to(data.root / folder).as_posix() for path in files])
        assert not list((data.root / folder).rglob("*.flac"))
    data.run()
    assert {path.name: path.read_bytes() for path in features.iterdir()} == expected
    assert len(data.entries()) == 5
