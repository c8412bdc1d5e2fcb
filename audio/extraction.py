"""The log-mel spectrograms of many clips: read from files or shards, each computed once and kept in segments."""

import csv
import gc
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice, tee
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from audio.clips import read_clip
from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.manifest import manifest_rows
from cluster.units import Unit, in_order, spread
from storage.files import sha256
from storage.memory import keep_freed_memory
from storage.remote import Place
from storage.segments import Segments
from storage.shards import Content, File, Folder

BATCH = 32  # clips that a process computes, and the store keeps, at once: all that a killed run loses

Kept = tuple[str, str]  # where a spectrogram is kept: a segment's name and a key


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
    for row in manifest_rows(raw / "manifest.csv"):
        yield Source(folder / f"{row['clip']}.flac", "original", 0, row)
    folder = Folder(augmented)
    clips = manifest_rows(raw / "manifest.csv")
    clip: dict | None = next(clips, None)
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

    def __getitem__(self, files: list[File]) -> list[Kept] | ValueError | OSError:
        """As `places`. A bad file's error is given back: raised here, it would come as a page of text."""
        try:
            return self.places(files)
        except (ValueError, OSError) as error:
            return error

    def places(self, files: Sequence[File | Kept]) -> list[Kept]:
        """The place of each; one that is given stays."""
        places: list[tuple[str | None, str]] = []
        made: dict[str, Any] = {}  # float16 arrays (frames, mels) by key
        for file in files:
            if isinstance(file, tuple):
                places.append(file)
                continue
            key = sha256(file)
            segment = self.segments.find(key)
            if segment is None and key not in made:
                waveform = torch.from_numpy(read_clip(file, sample_rate=self.settings.sample_rate))
                made[key] = log_mel(waveform, self.settings).half().numpy()
            places.append((segment, key))
        new = self.segments.add(made) if made else ""
        return [(segment or new, key) for segment, key in places]


def extract(
    clips: Iterator[Source], spectrograms: Spectrograms, processes: int, total: int
) -> Iterator[tuple[list[Source], list[Kept]]]:
    """The clips batch by batch, each with the place of its spectrogram, made by `processes` processes.

    `total` is the number of clips, for the progress bar. Raises ValueError or OSError for a clip that cannot be read.
    """
    gc.freeze()  # a collection would touch, and so double, all memory that the workers share with this process
    workers = processes if processes > 1 else 0  # 0 is DataLoader's word for none beside this process
    # The sampler hands out the files, read while the workers are there already: so none of them carries the whole list.
    batches, asked = tee(_batches(clips))
    files = ([source.file for source in batch] for batch in asked)
    made = DataLoader(spectrograms, sampler=files, batch_size=None, num_workers=workers)
    with tqdm(total=total, disable=None, unit="clip") as progress:
        for places, batch in zip(made, batches, strict=True):
            if isinstance(places, Exception):
                raise places
            yield batch, places
            progress.update(len(batch))


def extract_on_cluster(
    clips: Iterator[Source], settings: LogMelSettings, segments: Segments, total: int
) -> Iterator[tuple[list[Source], list[Kept]]]:
    """As `extract`, but made on the nodes of the cluster, which all must see the place of `segments`.

    Files travel to them with their content. `total` is the number of clips. Raises ValueError, see
    `cluster.units.spread`.
    """
    batches, read = tee(_batches(clips))
    asked, given = tee(_unit(batch, segments) for batch in read)
    finished = spread(asked, partial(_worker, settings, segments.place), total, cores=1)
    for batch, (_, places) in zip(batches, in_order(given, finished), strict=True):
        yield batch, places


def _batches(clips: Iterator[Source]) -> Iterator[list[Source]]:
    return iter(lambda: list(islice(clips, BATCH)), [])


def _unit(batch: list[Source], segments: Segments) -> Unit:
    files: list[Content | Kept] = []
    for source in batch:
        content = Content.of(source.file)
        key = sha256(content)
        segment = segments.find(key)
        files.append((segment, key) if segment else content)
    return Unit([source.clip["clip"] for source in batch], files)


def _worker(settings: LogMelSettings, place: Place) -> Callable[[list[Content | Kept]], list[Kept]]:
    keep_freed_memory()
    return Spectrograms(settings, Segments(place, to_add=True)).places
