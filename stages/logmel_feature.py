"""Compute the log-mel spectrograms of all clips and their augmentations, with several processes and from the store."""

import os
from dataclasses import asdict
from pathlib import Path

import pandas as pd
import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import audio.logmel
from audio.clips import read_clip
from audio.features import FeatureWriter
from audio.files import sha256
from audio.logmel import LogMelSettings, log_mel
from audio.manifest import read_manifest
from audio.memory import keep_freed_memory
from stages.command import main
from stages.params import Declared
from stages.paths import AUGMENTED, FEATURES, RAW, store
from stages.segments import Segments
from stages.store import key_of

BATCH = 32  # clips that a process computes, and the store keeps, at once: all that a killed run loses


class Batches(Dataset):
    """Batches of the files at `paths`: where `segments` keeps the spectrogram of each, made if it was not there.

    A key is the hash of the file.
    """

    def __init__(self, paths: list[str], settings: LogMelSettings, segments: Segments):
        self.paths, self.settings, self.segments = paths, settings, segments

    def __len__(self) -> int:
        return -(-len(self.paths) // BATCH)

    def __getitem__(self, batch: int) -> list[tuple[str, str]] | ValueError | OSError:
        """Segment and key of each. A bad file's error is given back: raised here, it would come as a page of text."""
        try:
            places, made = [], {}
            for path in map(Path, self.paths[batch * BATCH : (batch + 1) * BATCH]):
                key = sha256(path)
                segment = self.segments.find(key)
                if segment is None and key not in made:
                    waveform = torch.from_numpy(read_clip(path, sample_rate=self.settings.sample_rate))
                    made[key] = log_mel(waveform, self.settings).half().numpy()
                places.append((segment, key))
            new = self.segments.add(made) if made else ""
            return [(segment or new, key) for segment, key in places]
        except (ValueError, OSError) as error:
            return error


def listed(raw: Path, augmented: Path) -> pd.DataFrame:
    """All files: the manifest's columns, kind, view, and the file's path."""
    clips = read_manifest(raw / "manifest.csv")
    views = pd.read_csv(augmented / "manifest.csv", usecols=["clip", "view"], dtype={"clip": str, "view": int})
    sources = clips.set_index("clip", drop=False).loc[views["clip"]].reset_index(drop=True)
    original = clips.assign(kind="original", view=0, path=f"{raw}/" + clips["clip"] + ".flac")
    names = f"{augmented}/" + views["clip"] + "_" + views["view"].astype(str) + ".flac"
    made = sources.assign(kind="augmented", view=views["view"], path=names)
    return pd.concat([original, made] if len(made) else [original], ignore_index=True)


def run(
    params: Declared,
    raw: Path = RAW,
    augmented: Path = AUGMENTED,
    out: Path = FEATURES,
    processes: int = os.cpu_count() or 1,
) -> None:
    """Write the feature store `out` of the clips in `raw` and `augmented`."""
    settings = LogMelSettings(**params.logmel.model_dump())
    code = sha256(Path(audio.logmel.__file__))
    front_end = key_of(settings=asdict(settings), code=code, torchaudio=torchaudio.__version__)
    segments = Segments(store("features") / front_end)
    files = listed(raw, augmented)
    keep_freed_memory()
    workers = processes if processes > 1 else 0  # 0 is DataLoader's word for none beside this process
    batches = DataLoader(Batches(files.pop("path").tolist(), settings, segments), batch_size=None, num_workers=workers)
    with FeatureWriter(out, settings) as writer, tqdm(total=len(files), disable=None, unit="clip") as progress:
        for number, places in enumerate(batches):
            if isinstance(places, Exception):
                raise places
            rows = files[number * BATCH : (number + 1) * BATCH].to_dict("records")
            for row, spectrogram in zip(rows, segments.read(places), strict=True):
                writer.add(row, row.pop("kind"), row.pop("view"), spectrogram)
            progress.update(len(rows))


if __name__ == "__main__":
    main(run, "logmel-feature")
