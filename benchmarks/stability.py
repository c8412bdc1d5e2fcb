"""Verdicts that should not change: test recordings judged again at other gains, through codecs and rates, and shorter.

    python -m benchmarks.stability [--data data]

Of the test clips of a run: the share of verdicts that flip, the false alarms and the AUC, beside those of the
recordings as they are.
"""

import argparse
import io
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd
import soundfile
import soxr
from tqdm import tqdm

from audio.clips import SAMPLE_RATE, read_clip
from benchmarks.measuring import show
from detection.detector import Detector
from evaluation import metrics

Change = Callable[[np.ndarray], np.ndarray]


def gain(waveform: np.ndarray, decibels: float) -> np.ndarray:
    """Louder or softer, written with 16 bit; what passes full scale is clipped."""
    return np.round((waveform * 10 ** (decibels / 20)).clip(-1, 1 - 2**-15) * 2**15).astype(np.float32) / 2**15


def coded(waveform: np.ndarray, container: str, subtype: str, compression: float) -> np.ndarray:
    """Through a lossy codec; `compression` from 0, the best, to 1."""
    file = io.BytesIO()
    soundfile.write(file, waveform, SAMPLE_RATE, format=container, subtype=subtype, compression_level=compression)
    file.seek(0)
    return soundfile.read(file, dtype="float32")[0][: len(waveform)]


def resampled(waveform: np.ndarray, rate: int) -> np.ndarray:
    """To another sample rate and back."""
    return soxr.resample(soxr.resample(waveform, SAMPLE_RATE, rate), rate, SAMPLE_RATE)


def shortened(waveform: np.ndarray, seconds: float) -> np.ndarray:
    return waveform[: round(seconds * SAMPLE_RATE)]


# 128 kbit/s for 16 kHz, one channel, is libmpg123's best; 0.1 of the range is what it is at in practice.
CHANGES: dict[str, Change] = {
    "as it is": lambda waveform: waveform,
    **{f"{decibels:+d} dB": partial(gain, decibels=decibels) for decibels in (-12, -6, -3, 3, 6, 12)},
    "mp3": partial(coded, container="MP3", subtype="MPEG_LAYER_III", compression=0.0),
    "ogg": partial(coded, container="OGG", subtype="VORBIS", compression=0.5),
    "through 8 kHz": partial(resampled, rate=8000),
    "through 48 kHz": partial(resampled, rate=48000),
    "first 5 s": partial(shortened, seconds=5),
}


def measure(data: Path) -> list[dict]:
    """A row per change."""
    detector = Detector.load(data / "detector")
    manifest = pd.read_csv(data / "raw/manifest.csv").query("split == 'test'").reset_index(drop=True)
    rows, before = [], None
    for name, change in tqdm(CHANGES.items(), disable=None):
        verdicts = [
            detector.score(
                change(read_clip(data / f"raw/{row.clip}.flac")), SAMPLE_RATE, row.machine_type, row.machine_id
            )
            for row in manifest.itertuples()
        ]
        alarms = np.array([verdict.anomalous for verdict in verdicts])
        before = alarms if before is None else before
        healthy = (manifest["condition"] == "normal").to_numpy()
        figures = metrics.evaluate(manifest.assign(score=[verdict.score for verdict in verdicts]), "score")
        rows.append(
            {
                "recordings": name,
                "flipped": float(np.mean(alarms != before)),
                "false alarms": float(alarms[healthy].mean()),
                "caught": float(alarms[~healthy].mean()),
                "AUC": figures["average"]["auc"],
            }
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("data"), help="folder of a run: raw and detector")
    show("stability", measure(parser.parse_args().data))


if __name__ == "__main__":
    main()
