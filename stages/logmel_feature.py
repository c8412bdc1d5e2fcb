"""Compute the log-mel spectrograms of all clips and their augmentations, with several processes and from the store."""

import csv
import gc
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from itertools import islice, tee
from pathlib import Path

import torch
import torchaudio
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

import audio.logmel
from audio.clips import read_clip
from audio.features import FeatureWriter
from audio.logmel import LogMelSettings, log_mel
from audio.manifest import manifest_rows
from stages.command import main
from stages.params import Declared
from stages.paths import AUGMENTED, FEATURES, RAW
from storage.files import sha256
from storage.memory import keep_freed_memory
from storage.segments import Segments
from storage.store import key_of, store_folder

BATCH = 32  # clips that a process computes, and the store keeps, at once: all that a killed run loses


class Spectrograms(Dataset):
    """Where `segments` keeps the spectrograms of files, made if they were not there. A key is the hash of the file."""

    def __init__(self, settings: LogMelSettings, segments: Segments):
        self.settings, self.segments = settings, segments

    def __getitem__(self, paths: list[Path]) -> list[tuple[str, str]] | ValueError | OSError:
        """Segment and key of each. A bad file's error is given back: raised here, it would come as a page of text."""
        try:
            places, made = [], {}
            for path in paths:
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


@dataclass(frozen=True)
class File:
    """A clip or an augmented view of it."""

    path: Path
    kind: str  # original or augmented
    view: int
    clip: dict  # row of the manifest


def files(raw: Path, augmented: Path) -> Iterator[File]:
    """All files, originals first. The manifests, of the same order, are read as files are asked for, not kept."""
    for clip in manifest_rows(raw / "manifest.csv"):
        yield File(raw / f"{clip['clip']}.flac", "original", 0, clip)
    clips = manifest_rows(raw / "manifest.csv")
    clip = next(clips, None)
    with (augmented / "manifest.csv").open(encoding="utf-8", newline="") as manifest:
        for view in csv.DictReader(manifest):
            name, number = view["clip"], view["view"]
            while clip and clip["clip"] != name:
                clip = next(clips, None)
            if not clip:
                raise ValueError(f"{augmented}/manifest.csv: {name} is not in {raw}/manifest.csv, or not in its order")
            yield File(augmented / f"{name}_{number}.flac", "augmented", int(number), clip)


def _rows(manifest: Path) -> int:
    with manifest.open("rb") as file:
        return sum(1 for _ in file) - 1


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
    segments = Segments(store_folder("features") / front_end)
    keep_freed_memory()
    gc.freeze()  # a collection would touch, and so double, all memory that the workers share with this process
    workers = processes if processes > 1 else 0  # 0 is DataLoader's word for none beside this process
    rest = files(raw, augmented)
    # The sampler hands out the files, read while the workers are there already: so none of them carries the whole list.
    batches, asked = tee(iter(lambda: list(islice(rest, BATCH)), []))
    paths = ([file.path for file in batch] for batch in asked)
    made = DataLoader(Spectrograms(settings, segments), sampler=paths, batch_size=None, num_workers=workers)
    total = sum(_rows(folder / "manifest.csv") for folder in (raw, augmented))
    with FeatureWriter(out, settings) as writer, tqdm(total=total, disable=None, unit="clip") as progress:
        for places, batch in zip(made, batches, strict=True):
            if isinstance(places, Exception):
                raise places
            for file, spectrogram in zip(batch, segments.read(places), strict=True):
                writer.add(file.clip, file.kind, file.view, spectrogram)
            progress.update(len(batch))


if __name__ == "__main__":
    main(run, "logmel-feature")
