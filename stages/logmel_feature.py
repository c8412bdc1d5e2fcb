"""Compute the log-mel spectrograms of all clips and their augmentations, with several processes and from the store."""

import os
from dataclasses import asdict, fields
from pathlib import Path

import torchaudio

from audio.extraction import Spectrograms, extract, extract_on_cluster, sources
from audio.features import FeatureWriter
from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from cluster.units import address
from stages.command import main
from stages.params import Declared, LogMel
from stages.paths import AUGMENTED, FEATURES, RAW
from storage.memory import keep_freed_memory
from storage.segments import Segments
from storage.store import code_of, key_of, store_place


def run(
    params: Declared,
    raw: Path = RAW,
    augmented: Path = AUGMENTED,
    out: Path = FEATURES,
    processes: int = os.cpu_count() or 1,
) -> None:
    """Write the feature store `out` of the clips in `raw` and `augmented`."""
    settings = settings_of(params.logmel)
    segments = Segments(store_place("features") / front_end_key(settings))
    keep_freed_memory()
    clips = sources(raw, augmented)
    total = sum(_rows(folder / "manifest.csv") for folder in (raw, augmented))
    if address():
        made = extract_on_cluster(clips, settings, segments, total)
    else:
        made = extract(clips, Spectrograms(settings, segments), processes, total)
    with FeatureWriter(out, settings) as writer:
        for batch, places in made:
            for source, spectrogram in zip(batch, segments.read(places), strict=True):
                writer.add(source.clip, source.kind, source.view, spectrogram)


def settings_of(logmel: Declared | LogMel) -> LogMelSettings:
    """Those of the params group `logmel` that decide on a spectrogram."""
    return LogMelSettings(**{field.name: getattr(logmel, field.name) for field in fields(LogMelSettings)})


def front_end_key(settings: LogMelSettings) -> str:
    """Name of the store's folder for spectrograms with these settings, of this code. Decoding FLAC has no say in it."""
    return key_of(settings=asdict(settings), code=code_of(log_mel), torchaudio=torchaudio.__version__)


def _rows(manifest: Path) -> int:
    with manifest.open("rb") as file:
        return sum(1 for _ in file) - 1


if __name__ == "__main__":
    main(run, "logmel-feature")
