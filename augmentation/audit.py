"""What the augmentation did to each clip: is it still the machine, did it change at all, and which way."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass

import numpy as np
import pandas as pd
import torch
from scipy.signal import welch

from audio.front_end import LogMelSettings
from audio.logmel import log_mel

COPY_DISTANCE = 0.5  # dB; below this mean log-mel distance nothing was augmented
LOST_CORRELATION = 0.2  # below this log-mel correlation nothing of the source is left
SILENT_LEVEL = -80.0  # dB below full scale
CLIPPED_AT = 0.999  # of full scale


@dataclass(frozen=True)
class Audit:
    """One augmented clip against its source."""

    correlation: float  # Pearson's, of the two log-mel spectrograms
    distance_db: float  # mean absolute difference of the log-mel spectrograms (dB)
    level_change_db: float  # of the RMS (dB)
    centroid_shift_hz: float  # of the centroid of the long-term magnitude spectrum (Hz), positive is brighter
    silent: bool
    clipped: bool
    copy: bool  # hardly differs from its source
    lost: bool  # nearer to a clip of another machine than to its source, or unlike anything


def audit(source: np.ndarray, augmented: np.ndarray, others: Iterable[torch.Tensor] = ()) -> Audit:
    """Compare `augmented` with `source`, both (samples,) at 16 kHz; `others` are log-mels of other machines' clips."""
    old, new = spectrogram(source), spectrogram(augmented)  # (frames, mels)
    distance = _distance(old, new)
    correlation = float(torch.corrcoef(torch.stack([old.flatten(), new.flatten()]))[0, 1].nan_to_num(0.0))
    level = _level(augmented)
    return Audit(
        correlation=correlation,
        distance_db=distance,
        level_change_db=level - _level(source),
        centroid_shift_hz=_centroid(augmented) - _centroid(source),
        silent=level < SILENT_LEVEL,
        clipped=bool(np.abs(augmented).max() >= CLIPPED_AT),
        copy=distance < COPY_DISTANCE,
        lost=correlation < LOST_CORRELATION or any(_distance(other, new) < distance for other in others),
    )


def spectrogram(waveform: np.ndarray) -> torch.Tensor:
    """The detector's log-mel (frames, 128), dB, with the paper's settings whatever those of the run."""
    return log_mel(torch.from_numpy(np.ascontiguousarray(waveform, dtype=np.float32)), LogMelSettings())


def metrics(table: pd.DataFrame, output: str) -> dict[str, float | int]:
    """What decides between two augmentations, over the clips of the output stage that is used: how many they are,
    their mean correlation with the sources, and the share that is lost.

    `table` has the columns of `Audit` and `output`. The report shows the rest of the audit.
    """
    used = table[table["output"] == output]
    return {
        "clips": len(used),
        "correlation": round(float(used["correlation"].mean()), 4),
        "lost": round(float(used["lost"].mean()), 4),
    }


def row(result: Audit) -> dict[str, float | bool]:
    """An audit as a row of a table, rounded to what is audible."""
    return {name: round(value, 4) if isinstance(value, float) else value for name, value in asdict(result).items()}


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    frames = min(len(first), len(second))
    return float((first[:frames] - second[:frames]).abs().mean())


def _level(waveform: np.ndarray) -> float:
    return float(10 * np.log10(max(float(np.mean(np.square(waveform, dtype=np.float64))), 1e-12)))


def _centroid(waveform: np.ndarray) -> float:
    frequencies, power = welch(waveform, fs=16000, nperseg=1024)
    magnitude = np.sqrt(power)
    return float((frequencies * magnitude).sum() / max(float(magnitude.sum()), 1e-12))
