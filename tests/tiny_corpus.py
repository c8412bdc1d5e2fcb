"""A small corpus of real sound files, its features, and tiny networks: all that scoring and reporting start from."""

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
import torch

from audio.clips import digest, read_clip, write_clip
from audio.features import FeatureWriter
from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.manifest import write_manifest
from model.checkpoints import save_model
from model.network import RCMAE, IdentityClassifier, NetworkConfig
from stages import score
from stages.params import Declared, load
from tests.conftest import ROOT

SETTINGS = LogMelSettings(n_mels=32)
SIZES = NetworkConfig(
    mels=32, frames=40, patch_mels=8, patch_frames=5, width=24, depth=1, heads=2,
    decoder_width=16, decoder_depth=1, decoder_heads=2, projection=16, pooling="rows",
)  # fmt: skip
MACHINES = {"fan/id_00": 300.0, "fan/id_02": 900.0, "pump/id_00": 2500.0}  # identity: Hz


def sound(frequency: float, seconds: float, anomalous: bool, rng: np.random.Generator) -> np.ndarray:
    """A tone in noise; an anomalous one has a second tone."""
    t = np.arange(int(16000 * seconds)) / 16000
    tone = np.sin(2 * np.pi * frequency * t + rng.uniform(0, 6)) + anomalous * np.sin(2 * np.pi * 1.7 * frequency * t)
    return (0.1 * tone + 0.03 * rng.normal(size=len(t))).astype(np.float32)


def make(root: Path, training: int = 6, calibration: int = 5, test: int = 4) -> Path:
    """Write data/raw, data/features, data/pretrained and data/finetuned (untrained networks) below `root`.

    Clips are 1 and 2 s long, so that the networks' window of 1.28 s is both longer and shorter than a clip.
    """
    rng, apart = np.random.default_rng(0), np.random.default_rng(1)
    rows = []
    for identity, frequency in MACHINES.items():
        machine_type, machine_id = identity.split("/")
        for split, condition, count in (
            ("train", "normal", training),
            ("calibration", "normal", calibration),
            ("test", "normal", test),
            ("test", "anomaly", test),
        ):
            for number in range(count):
                clip = f"{machine_type}/{split}/{condition}_{machine_id}_{number:08d}"
                path = root / "data" / "raw" / f"{clip}.flac"
                path.parent.mkdir(parents=True, exist_ok=True)
                seconds = 1.0 + number % 2
                random = apart if split == "calibration" else rng
                write_clip(path, sound(frequency, seconds, condition == "anomaly", random))
                row = {"clip": clip, "machine_type": machine_type, "machine_id": machine_id, "split": split}
                row |= {"condition": condition, "subset": "dev", "seconds": seconds, "source": "", "offset": 0.0}
                rows.append(row | {"sha256": digest(read_clip(path))})
    table = write_manifest(root / "data" / "raw" / "manifest.csv", rows)
    with FeatureWriter(root / "data" / "features", SETTINGS) as writer:
        for row in table.to_dict("records"):
            waveform = torch.from_numpy(read_clip(root / "data" / "raw" / f"{row['clip']}.flac"))
            writer.add(row, "original", 0, log_mel(waveform, SETTINGS).numpy())
    torch.manual_seed(0)
    pretrained = RCMAE(SIZES)
    scale = {"level": "remove", "mean": 0.0, "std": 12.0}
    front_end = {"logmel": asdict(SETTINGS), "scale": scale, "norm_pix_loss": True}
    save_model(root / "data" / "pretrained", pretrained, front_end)
    classifier = IdentityClassifier.from_pretrained(pretrained, len(MACHINES))
    save_model(root / "data" / "finetuned", classifier, front_end | {"identities": list(MACHINES)})
    return root


def score_params(**changes) -> Declared:
    """The params of the score stage, small, with `changes` to its group."""
    small = {"bootstrap": 100, "autoencoder_epochs": 1, "autoencoder_vectors": 256, "window_hop": 20}
    return load("score", ROOT, {f"score.{key}": value for key, value in (small | changes).items()})


def make_scored(root: Path) -> Path:
    """The corpus of `make`, and what the score stage writes for it: data/scores, data/detector and metrics."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RCMAE_STORE", str(root / "store"))
        score.run(score_params(), make(root))
    return root
