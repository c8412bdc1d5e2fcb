"""The log-mel spectrograms of many clips: read from files or shards, each computed once and kept in segments."""

import csv
import gc
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice, tee
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from audio.clips import read_clip
from audio.logmel import LogMelSettings, log_mel
from audio.manifest import manifest_rows
from storage.files import sha256
from storage.segments import Segments
from storage.shards import File, Folder

BATCH = 32  # clips that a process computes, and the store keeps, at once: all that a killed run loses

Place = tuple[str, str]  # where a spectrogram is kept: a segment's name and a key


@dataclass(frozen=True)
class Source:
    """A clip or an augmented view of it."""

    file: File
    kind: str  # original or augmented
    view: int
    clip: dict  # row of the manifest


def sources(raw: Path, augmented: Path) -> Iterator[Source]:
    """All clips, originals first. The manifests, of the same order, are read as clips are asked for, not kept."""
    folder = Folder(raw)
    for clip in manifest_rows(raw / "manifest.csv"):
        yield Source(folder / f"{clip['clip']}.flac", "original", 0, clip)
    folder = Folder(augmented)
    clips = manifest_rows(raw / "manifest.csv")
    clip = next(clips, None)
    with (augmented / "manifest.csv").open(encoding="utf-8", newline="") as manifest:
        for view in csv.DictReader(manifest):
            name, number = view["clip"], view["view"]
            while clip and clip["clip"] != name:
                clip = next(clips, None)
            if not clip:
                raise ValueError(f"{augmented}/manifest.csv: {name} is not in {raw}/manifest.csv, or not in its order")
            yield Source(folder / f"{name}_{number}.flac", "augmented", int(number), clip)


class Spectrograms(Dataset):
    """Where `segments` keeps the spectrograms of files, made if they were not there. A key is the hash of the file."""

    def __init__(self, settings: LogMelSettings, segments: Segments):
        self.settings, self.segments = settings, segments

    def __getitem__(self, files: list[File]) -> list[Place] | ValueError | OSError:
        """The place of each. A bad file's error is given back: raised here, it would come as a page of text."""
        try:
            places, made = [], {}
            for file in files:
                key = sha256(file)
                segment = self.segments.find(key)
                if segment is None and key not in made:
                    waveform = torch.from_numpy(read_clip(file, sample_rate=self.settings.sample_rate))
                    made[key] = log_mel(waveform, self.settings).half().numpy()
                places.append((segment, key))
            new = self.segments.add(made) if made else ""
            return [(segment or new, key) for segment, key in places]
        except (ValueError, OSError) as error:
            return error


def extract(
    clips: Iterator[Source], spectrograms: Spectrograms, processes: int
) -> Iterator[tuple[list[Source], list[Place]]]:
    """The clips batch by batch, each with the place of its spectrogram, made by `processes` processes.

    Raises ValueError or OSError for a clip that cannot be read.
    """
    gc.freeze()  # a collection would touch, and so double, all memory that the workers share with this process
    workers = processes if processes > 1 else 0  # 0 is DataLoader's word for none beside this process
    # The sampler hands out the files, read while the workers are there already: so none of them carries the whole list.
    batches, asked = tee(iter(lambda: list(islice(clips, BATCH)), []))
    files = ([source.file for source in batch] for batch in asked)
    made = DataLoader(spectrograms, sampler=files, batch_size=None, num_workers=workers)
    for places, batch in zip(made, batches, strict=True):
        if isinstance(places, Exception):
            raise places
        yield batch, places
