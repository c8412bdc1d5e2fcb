"""Speed of feature extraction: `python -m benchmarks.features` prints a ratio table and keeps it as JSON.

The stage with 1 and 2 processes and an empty store, and with a full one, beside a plain librosa loop and a plain
torchaudio loop on the same clips in the same run. Reading the FLAC files is included everywhere; the stage also writes
its store and data/features. One thread per process. Clips: those of `--clips`, a folder as the download stage writes
it; each round measures every way once, the table gives the median.
"""

import argparse
import json
import os
import platform
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from types import SimpleNamespace

import librosa
import numpy as np
import pandas as pd
import soundfile
import torch
from torchaudio.transforms import MelSpectrogram

from audio.manifest import read_manifest
from stages import logmel_feature
from stages.params import read

RESULT = Path(__file__).parent / "results" / "features.json"


def librosa_loop(paths: list[Path]) -> None:
    for path in paths:
        waveform, rate = soundfile.read(path, dtype="float32")
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=rate, n_fft=1024, hop_length=512, n_mels=128, fmin=50, fmax=8000
        )
        librosa.power_to_db(mel, top_db=None).astype(np.float16)


def torchaudio_loop(paths: list[Path]) -> None:
    transform = MelSpectrogram(
        16000, 1024, hop_length=512, n_mels=128, f_min=50, f_max=8000, norm="slaney", mel_scale="slaney"
    )
    for path in paths:
        waveform, _ = soundfile.read(path, dtype="float32")
        (10 * transform(torch.from_numpy(waveform)).clamp(min=1e-10).log10()).half().numpy()


def measure(raw: Path, rounds: int) -> dict[str, float]:
    """Median clips per second of each way."""
    paths = [raw / f"{clip}.flac" for clip in read_manifest(raw / "manifest.csv")["clip"]]
    params = SimpleNamespace(logmel=read(Path("params.yaml")).logmel)
    seconds: dict[str, list[float]] = {}

    def take(way: str, run: Callable[[], None]) -> None:
        start = time.perf_counter()
        run()
        seconds.setdefault(way, []).append(time.perf_counter() - start)

    librosa_loop(paths[:2])  # compiles, and loads the transforms
    torchaudio_loop(paths[:2])
    for _ in range(rounds):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            pd.DataFrame(columns=["clip", "view"]).to_csv(folder / "manifest.csv", index=False)

            def stage(store: str, processes: int, folder: Path = folder) -> None:
                os.environ["RCMAE_STORE"] = str(folder / store)
                logmel_feature.run(params, raw, folder, folder / "features", processes)

            take("librosa loop", lambda: librosa_loop(paths))
            take("torchaudio loop", lambda: torchaudio_loop(paths))
            take("stage, 1 process", lambda: stage("one", 1))
            take("stage, 2 processes", lambda: stage("two", 2))
            take("stage, 2 processes, from the store", lambda: stage("two", 2))
    return {way: len(paths) / median(times) for way, times in seconds.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("data/raw"), help="folder with manifest.csv")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    rates = measure(arguments.clips, arguments.rounds)
    for way, rate in rates.items():
        print(f"{way:36} {rate:8.1f} clips/s {rate / rates['librosa loop']:6.2f} x librosa")
    RESULT.parent.mkdir(exist_ok=True)
    machine = f"{platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}, librosa {librosa.__version__}"
    clips = len(read_manifest(arguments.clips / "manifest.csv"))
    result = {"machine": machine, "clips": clips, "rounds": arguments.rounds, "clips_per_second": rates}
    RESULT.write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
