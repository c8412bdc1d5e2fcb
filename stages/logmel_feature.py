"""Compute the log-mel spectrograms of all clips and their augmentations, with several processes and from the store."""

import hashlib
import os
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd
import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import audio.logmel
from audio.clips import read_clip
from audio.features import FeatureWriter
from audio.logmel import LogMelSettings, log_mel
from audio.manifest import read_manifest
from stages.command import main
from stages.params import Declared
from stages.paths import AUGMENTED, FEATURES, RAW, store
from stages.store import Store, key_of


class Spectrograms(Dataset):
    """Log-mel spectrograms (dB, float16, shape (frames, mels)) of audio files, made once and then taken from `store`.

    An entry's key covers the audio, the settings, the code of the front end and the version of torchaudio.
    """

    def __init__(self, paths: list[Path], settings: LogMelSettings, entries: Store):
        self.paths, self.settings, self.entries = paths, settings, entries
        self.code = hashlib.sha256(Path(audio.logmel.__file__).read_bytes()).hexdigest()

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, item: int) -> np.ndarray:
        content = hashlib.sha256(self.paths[item].read_bytes()).hexdigest()
        versions = {"code": self.code, "torchaudio": torchaudio.__version__}
        key = key_of(audio=content, settings=asdict(self.settings), **versions)
        with self.entries.put(key, ".npy") as path:
            if path:
                waveform = torch.from_numpy(read_clip(self.paths[item], sample_rate=self.settings.sample_rate))
                np.save(path, log_mel(waveform, self.settings).numpy().astype(np.float16))
        return np.load(self.entries.path(key, ".npy"))


def run(
    params: Declared,
    raw: Path = RAW,
    augmented: Path = AUGMENTED,
    out: Path = FEATURES,
    processes: int = os.cpu_count() or 1,
) -> None:
    """Write the feature store `out` of the clips in `raw` and `augmented`."""
    settings = LogMelSettings(**params.logmel.model_dump())
    clips = read_manifest(raw / "manifest.csv").to_dict("records")
    by_name = {clip["clip"]: clip for clip in clips}
    views = pd.read_csv(augmented / "manifest.csv", usecols=["clip", "view"], dtype={"clip": str, "view": int})
    jobs = [(clip, "original", 0, raw / f"{clip['clip']}.flac") for clip in clips]
    jobs += [
        (by_name[clip], "augmented", view, augmented / f"{clip}_{view}.flac")
        for clip, view in views.itertuples(index=False)
    ]
    spectrograms = Spectrograms([path for *_, path in jobs], settings, Store(store("features")))
    workers = processes if processes > 1 else 0  # 0 is DataLoader's word for none beside this process
    loader = DataLoader(spectrograms, batch_size=None, num_workers=workers)  # in order, a few ahead
    with FeatureWriter(out, settings) as writer:
        for (clip, kind, view, _), spectrogram in zip(jobs, tqdm(loader, disable=None, unit="clip"), strict=True):
            writer.add(clip, kind, view, spectrogram)


if __name__ == "__main__":
    main(run, "logmel-feature")
