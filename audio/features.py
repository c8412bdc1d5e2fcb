"""The feature store: the spectrograms of a corpus one after another in one memory-mapped file per kind.

float16 holds a log-mel value of -100 to 40 dB to 0.031 dB (half its spacing between 64 and 128), less nearer to 0.
"""

import json
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

from audio.front_end import LogMelSettings
from audio.manifest import COLUMNS
from audio.scale import Scale
from storage.files import whole_folder

KINDS = ("original", "augmented")
INDEX_COLUMNS = [*COLUMNS, "kind", "view", "start", "frames"]
ROWS = 1000  # of the index, written at once


class Features:
    """Spectrograms of clips of any length, read from a folder that `FeatureWriter` wrote.

    `index`: one row per spectrogram, the manifest's columns plus `kind` (original or augmented), `view` (number of the
    augmentation, 0 for an original), `start` and `frames` (rows of the kind's file). `settings`: the front end. `mean`
    and `std`: of the training normals' originals (dB); `within_std`: their standard deviation about each clip's mean.
    """

    def __init__(
        self, index: pd.DataFrame, settings: LogMelSettings, mean: float, std: float, within_std: float, folder: Path
    ):
        self.index, self.settings = index, settings
        self.mean, self.std, self.within_std = mean, std, within_std
        self._folder = folder
        self._kinds, self._starts, self._lengths = (index[name].to_numpy() for name in ("kind", "start", "frames"))
        self._files = {
            kind: np.load(folder / f"{kind}.npy", mmap_mode="r") for kind in KINDS if (index["kind"] == kind).any()
        }

    def __reduce__(self):  # a worker process maps the files itself: a pickled memory map would carry all its data
        return Features.open, (self._folder,)

    @classmethod
    def open(cls, folder: Path) -> "Features":
        """Open the feature store in `folder`."""
        types: dict[str, type] = dict.fromkeys(INDEX_COLUMNS, str)
        types |= {"seconds": float, "offset": float, "view": int, "start": int, "frames": int}
        numbers = {column: [""] for column in ("seconds", "offset")}
        index = pd.read_csv(folder / "index.csv", dtype=types, keep_default_na=False, na_values=numbers)
        stats = json.loads((folder / "stats.json").read_text(encoding="utf-8"))
        settings = LogMelSettings(**stats["settings"])
        return cls(index, settings, stats["mean"], stats["std"], stats["within_std"], folder)

    def __len__(self) -> int:
        return len(self._kinds)

    def scale(self, level: str) -> Scale:
        """How these spectrograms are standardised, with their level kept or removed."""
        return Scale("keep", self.mean, self.std) if level == "keep" else Scale(level, 0.0, self.within_std)

    def read(self, row: int, start: int = 0, frames: int | None = None) -> np.ndarray:
        """Log-mel (dB) of row number `row` of the index, float32 of shape (frames, mels).

        `start` and `frames` cut a piece; what would lie beyond the end of the spectrogram is left out.
        """
        first, length = self._starts[row], self._lengths[row]
        last = length if frames is None else min(start + frames, length)
        return self._files[self._kinds[row]][first + start : first + last].astype(np.float32)

    def read_originals(self, rows: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
        """Many pieces at once: log-mel (dB), float32 of shape (B, frames, mels), of originals.

        `rows` (B,) are their rows of the index and `starts` (B,) their first frames; all must lie within their
        spectrograms.
        """
        first = self._starts[rows] + starts
        return self._files["original"][first[:, None] + np.arange(frames)].astype(np.float32)


class FeatureWriter:
    """Write a feature store spectrogram by spectrogram, in memory that does not grow with the corpus.

    A context manager; `folder` appears when it ends without an exception, whole, and replaces what was there.
    """

    def __init__(self, folder: Path, settings: LogMelSettings):
        self._folder, self._settings = folder, settings
        self._whole = ExitStack()
        self._rows: list[dict] = []  # of the index, not yet written
        self._written = dict.fromkeys(KINDS, 0)
        self._count, self._sum, self._squares, self._within = 0, 0.0, 0.0, 0.0

    def __enter__(self) -> "FeatureWriter":
        self._partial = self._whole.enter_context(whole_folder(self._folder))
        self._files = {kind: self._whole.enter_context((self._partial / f"{kind}.npy").open("wb")) for kind in KINDS}
        for kind in KINDS:
            self._write_header(kind)
        self._write_rows(header=True)
        return self

    def add(self, clip: dict, kind: str, view: int, spectrogram: np.ndarray) -> None:
        """Append the log-mel (dB, shape (frames, mels)) of `clip`, a row of the manifest."""
        stored = np.ascontiguousarray(spectrogram, dtype=np.float16)
        if stored.ndim != 2 or stored.shape[1] != self._settings.n_mels:
            raise ValueError(f"{clip['clip']}: shape {stored.shape} is not (frames, {self._settings.n_mels})")
        self._files[kind].write(stored.data)
        place = {"kind": kind, "view": view, "start": self._written[kind], "frames": len(stored)}
        self._rows.append(clip | place)
        if len(self._rows) == ROWS:
            self._write_rows()
        self._written[kind] += len(stored)
        if kind == "original" and clip["split"] == "train" and clip["condition"] == "normal":
            values = stored.astype(np.float64)
            self._count += values.size
            self._sum += float(values.sum())
            self._squares += float(np.square(values).sum())
            self._within += float(np.square(values - values.mean()).sum())

    def __exit__(self, exception: type | None, *others) -> None:
        if exception:
            self._whole.__exit__(exception, *others)
            return
        with self._whole:
            for kind in KINDS:
                self._write_header(kind)
            self._write_rows()
            self._write_stats()

    def _write_header(self, kind: str) -> None:
        # NumPy pads the header so that the first axis can grow without moving the data.
        file = self._files[kind]
        end = file.tell()
        file.seek(0)
        shape = (self._written[kind], self._settings.n_mels)
        np.lib.format.write_array_header_1_0(file, {"descr": "<f2", "fortran_order": False, "shape": shape})
        file.seek(max(end, file.tell()))

    def _write_rows(self, header: bool = False) -> None:
        rows = pd.DataFrame(self._rows, columns=INDEX_COLUMNS)
        rows.to_csv(self._partial / "index.csv", mode="a", header=header, index=False, lineterminator="\n")
        self._rows = []

    def _write_stats(self) -> None:
        if not self._count:
            raise ValueError("no training normals among the spectrograms")
        mean = self._sum / self._count
        std = max(self._squares / self._count - mean**2, 0.0) ** 0.5
        within_std = (self._within / self._count) ** 0.5
        stats = {"mean": mean, "std": std, "within_std": within_std, "settings": asdict(self._settings)}
        (self._partial / "stats.json").write_text(json.dumps(stats, indent=2) + "\n", encoding="utf-8")
