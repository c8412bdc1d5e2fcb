"""Speed of feature extraction: `python -m benchmarks.features` prints a table of ratios and keeps it as JSON.

The stage with 1 and 2 processes and an empty store, and with a full one, beside a plain librosa loop, a plain
torchaudio loop, and the floor of both: decoding the file, the Fourier transforms and the matrix product alone, with 1
and 2 processes too. The same FLAC files, front end and float16 everywhere; reading and decoding included; the stage
also writes its store and data/features. One thread per process, each measurement in a process of its own, everything
warm. Clips: those of `--clips`, a folder as the download stage writes it.
"""

import argparse
import multiprocessing
import os
import tempfile
from collections.abc import Callable
from functools import partial
from importlib.metadata import version
from pathlib import Path

import librosa
import numpy as np
import pandas as pd
import soundfile
import torch
from threadpoolctl import threadpool_limits
from torchaudio.functional import melscale_fbanks
from torchaudio.transforms import MelSpectrogram

from audio.manifest import read_manifest
from benchmarks.measuring import alternating, seconds_apart, show
from stages import logmel_feature
from stages.params import load
from storage.memory import keep_freed_memory

ROOT = Path(__file__).parents[1]
F_MAX = load("logmel-feature", ROOT).logmel.f_max  # Hz; the others are the paper's


def librosa_loop(paths: list[Path]) -> list[np.ndarray]:
    made = []
    for path in paths:
        waveform, rate = librosa.load(path, sr=None)
        mel = librosa.feature.melspectrogram(
            y=waveform, sr=rate, n_fft=1024, hop_length=512, pad_mode="reflect", n_mels=128, fmin=50, fmax=F_MAX
        )
        made.append(librosa.power_to_db(mel, top_db=None).astype(np.float16))
    return made


def torchaudio_loop(paths: list[Path]) -> list[np.ndarray]:
    made = []
    transform = MelSpectrogram(
        16000, 1024, hop_length=512, n_mels=128, f_min=50, f_max=F_MAX, norm="slaney", mel_scale="slaney"
    )
    for path in paths:
        waveform, _ = soundfile.read(path, dtype="float32")
        made.append((10 * transform(torch.from_numpy(waveform)).clamp(min=1e-10).log10()).half().numpy())
    return made


def decoding(paths: list[Path]) -> None:
    for path in paths:
        soundfile.read(path, dtype="float32")


def floor(paths: list[Path]) -> None:
    keep_freed_memory()  # as the stage does
    window = torch.hann_window(1024)
    filters = melscale_fbanks(513, 50, F_MAX, 128, 16000, "slaney", "slaney")
    for path in paths:
        waveform, _ = soundfile.read(path, dtype="float32")
        spectrum = torch.fft.rfft(torch.from_numpy(waveform).unfold(0, 1024, 512) * window)
        spectrum.abs() @ filters


def halved(way: Callable[[list[Path]], object], paths: list[Path]) -> None:
    """`way` on half of the paths in each of two processes at once."""
    processes = [multiprocessing.get_context("fork").Process(target=way, args=(paths[part::2],)) for part in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        if process.exitcode:
            raise RuntimeError("the measured process failed")


def stage(raw: Path, folder: Path, store: Path, processes: int) -> None:
    """The stage, from `raw` to `folder`/features."""
    os.environ["RCMAE_STORE"] = str(store)
    folder.mkdir(exist_ok=True)
    pd.DataFrame(columns=["clip", "view"]).to_csv(folder / "manifest.csv", index=False)
    logmel_feature.run(load("logmel-feature", ROOT), raw, folder, folder / "features", processes)


def measure(raw: Path, rounds: int) -> list[dict]:
    """A row for each way: clips per second, and the ratio to the librosa loop."""
    paths = [raw / f"{clip}.flac" for clip in read_manifest(raw / "manifest.csv")["clip"]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        full = partial(stage, raw, folder / "made", folder / "full", 2)
        ways: dict[str, Callable[[], object]] = {
            "librosa loop": partial(librosa_loop, paths),
            "torchaudio loop": partial(torchaudio_loop, paths),
            "decoding alone, 1 process": partial(decoding, paths),
            "decoding alone, 2 processes": partial(halved, decoding, paths),
            "decoding, FFT and product alone, 1 process": partial(floor, paths),
            "decoding, FFT and product alone, 2 processes": partial(halved, floor, paths),
            "stage, 1 process": lambda: stage(raw, folder / "made", folder / f"store-{os.getpid()}", 1),
            "stage, 2 processes": lambda: stage(raw, folder / "made", folder / f"store-{os.getpid()}", 2),
            "stage, 2 processes, all in the store": full,
        }
        librosa_loop(paths[:2])  # compiles and fills caches, before the measured processes are forked
        torchaudio_loop(paths[:2])
        seconds_apart(full)  # reads all files and fills the store
        times = alternating(ways, rounds, seconds_apart)
    slow = times["librosa loop"]
    return [{"way": way, "clips/s": len(paths) / taken, "x librosa": slow / taken} for way, taken in times.items()]


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clips", type=Path, default=Path("data/raw"), help="folder with manifest.csv")
    parser.add_argument("--rounds", type=int, default=5)
    chosen = parser.parse_args(arguments)
    torch.set_num_threads(1)
    threadpool_limits(1)  # NumPy's products, in librosa's loop
    rows = measure(chosen.clips, chosen.rounds)
    clips = len(read_manifest(chosen.clips / "manifest.csv"))
    show("features", rows, {"clips": clips, "rounds": chosen.rounds, "librosa": version("librosa")}, out)
    return rows


if __name__ == "__main__":
    main()
