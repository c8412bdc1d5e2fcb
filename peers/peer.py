"""What a system that the project's own scores are compared with is given, and what it must do."""

from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np
import pandas as pd

from audio.clips import read_clip
from audio.features import Features
from storage.shards import Folder


class Clips:
    """Clips that a peer learns from or scores. It reads them one by one, so that memory does not grow with them.

    A clip is meant by its number, from 0. `identities` (N,) are their machine identities ("fan/id_00"), `frames` (N,)
    and `samples` (N,) their lengths.
    """

    def __init__(self, table: pd.DataFrame, features: Features, raw: Folder):
        """`table` has the columns clip, machine_type, machine_id and `row`, the clip's number for `Features.read`."""
        self.names = table["clip"].tolist()
        self.identities = (table["machine_type"] + "/" + table["machine_id"]).to_numpy(str)
        self.frames = features.index["frames"].to_numpy()[table["row"]]
        self.settings = features.settings  # of the log-mel
        self.samples = (self.frames - 1) * self.settings.hop_length  # a clip may be up to a hop longer
        self._rows, self._features, self._raw = table["row"].to_numpy(), features, raw

    def __len__(self) -> int:
        return len(self.names)

    def log_mel(self, clip: int) -> np.ndarray:
        """The log-mel of the pipeline, standardised by the training normals: float32 of shape (frames, mels)."""
        return self.standardised(self._features.read(self._rows[clip]))

    def log_mel_pieces(self, clips: np.ndarray, starts: np.ndarray, frames: int) -> np.ndarray:
        """Pieces of `frames` frames of `clips` (B,) from their frames `starts` (B,) on: (B, frames, mels).

        A clip that is shorter than a piece is repeated.
        """
        if (starts + frames <= self.frames[clips]).all():
            return self.standardised(self._features.read_originals(self._rows[clips], starts, frames))
        places = [(start + np.arange(frames)) % self.frames[clip] for clip, start in zip(clips, starts, strict=True)]
        return np.stack([self.log_mel(clip)[place] for clip, place in zip(clips, places, strict=True)])

    def waveform(self, clip: int) -> np.ndarray:
        """The clip at 16 kHz, full scale 1: float32 of shape (samples,)."""
        return read_clip(self._raw / f"{self.names[clip]}.flac")

    def waveform_pieces(self, clips: np.ndarray, starts: np.ndarray, samples: int) -> np.ndarray:
        """Pieces of `samples` samples of `clips` (B,) from their samples `starts` (B,) on: (B, samples).

        A clip that is shorter than a piece is repeated.
        """
        heard = {clip: self.waveform(clip) for clip in set(clips.tolist())}
        places = starts[:, None] + np.arange(samples)
        return np.stack(
            [heard[clip].take(place, mode="wrap") for clip, place in zip(clips.tolist(), places, strict=True)]
        )

    def standardised(self, log_mel: np.ndarray) -> np.ndarray:
        """`log_mel` (dB) by the mean and the standard deviation of the training normals' log-mel."""
        return (log_mel - self._features.mean) / self._features.std


class Peer(Protocol):
    """A system of Table 4, or another that stands beside it. Made with its settings and `seed`, it is deterministic."""

    joint: ClassVar[bool]  # one network for all machine types, not one for each

    def __init__(self, **settings: Any) -> None: ...

    def fit(self, training: Clips, checkpoints: Path) -> np.ndarray:
        """Learns from training normals, and goes on from what a killed run left in the folder `checkpoints`.

        Returns their scores (N,), from a fit that did not see the clip where a fit would know the clips it saw.
        """

    def score(self, clips: Clips) -> np.ndarray:
        """Anomaly scores (N,), higher is more anomalous; each clip's machine identity is one that was trained."""

    @property
    def parameters(self) -> int:
        """Number of trained parameters."""
