"""Why a recording got its score: the stretches of time and frequency that the score hangs on, drawn with the sound.

Two views of the most anomalous window of a recording: what the pretrained network cannot predict from the rest
(`detection.reconstruction`), and how the score changes when a part is made unremarkable. A stretch of time is cut out,
and the rest repeated to fill the window, as a short recording is. A band of frequencies is made as loud, and as lively,
as it is in the machine's training recordings on average.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter

from audio.mels import mel_centres
from audio.scale import fill
from detection.backends import Mahalanobis
from detection.detector import Detector, Measured, Verdict, Window
from detection.reconstruction import masked_reconstruction_error
from detection.torch_detector import TorchDetector

STRETCHES = 16  # of time, at most
BANDS = 8  # of frequency
REPEATS = 24  # random masks
OUTLINED = 0.96  # quantile of the reconstruction error above which a region is outlined
SMOOTHED = 5  # frames and mels over which the error is averaged for the outline
RED, BLUE = "#b93a0c", "#1f6fb2"  # what makes a recording anomalous, and what does not


@dataclass(frozen=True)
class Why:
    """Where in a window the score comes from. F frames and M mels are those of the sound, not repeated."""

    window: Window
    spectrogram: np.ndarray  # (F, M), dB
    error: np.ndarray  # (F, M), dB: how far the masked reconstruction is off
    over_time: np.ndarray  # (F,), how much lower the score is without this stretch; negative where it is higher
    over_frequency: np.ndarray  # (M,), the same for bands of frequency


def why(detector: TorchDetector, measured: Measured, verdict: Verdict, seed: int = 0) -> Why:
    """Explain `verdict`, what the detector made of `measured`, by the most anomalous window."""
    number = detector.identities.index(f"{verdict.machine_type}/{verdict.machine_id}")
    window = max(verdict.windows, key=lambda window: window.score)
    sound = torch.from_numpy(measured.worst.astype(np.float32))  # (F, M)
    length, mels = sound.shape
    scale = detector.representations.scale
    standardised = scale(fill(sound, detector.frames)).numpy()
    error = (
        masked_reconstruction_error(
            detector.representations.pretrained, standardised, REPEATS, seed, detector.config["norm_pix_loss"]
        )[:length]
        * scale.std
    )

    stretch = np.arange(length) * min(STRETCHES, length) // length  # (F,), number of each frame's stretch
    band = np.arange(mels) * BANDS // mels  # (M,)
    usual = _as_usual(detector, sound, number)
    changed = [sound[torch.from_numpy(stretch != part)] for part in range(stretch[-1] + 1) if stretch[-1]]
    changed += [torch.where(torch.from_numpy(band == part), usual, sound) for part in range(BANDS)]
    windows = torch.stack([fill(part, detector.frames).half() for part in [sound, *changed]])
    scores = detector.window_scores(windows, number)[verdict.backend]
    drop = scores[0] - scores[1:]
    over_time = drop[:-BANDS][stretch] if stretch[-1] else np.zeros(length)
    return Why(window, sound.numpy(), error, over_time, drop[-BANDS:][band])


def _as_usual(detector: TorchDetector, sound: torch.Tensor, number: int) -> torch.Tensor:
    """`sound` (F, M) with each mel bin's mean and deviation over time those of the machine's training recordings."""
    backend = detector.ensemble.backends["logmel_mahalanobis"] if detector.ensemble else None
    if not isinstance(backend, Mahalanobis):
        raise ValueError("the detector was not fitted")
    mean, deviation, _ = backend.means[number].reshape(3, -1)  # (3 M,), see `MomentStatistics`
    level = 0.0 if detector.representations.scale.level == "keep" else sound.mean()
    centred = sound - sound.mean(dim=0)
    return centred / sound.std(dim=0, correction=0).clamp(min=1e-3) * deviation + mean + level


def draw(detector: Detector, measured: Measured, verdict: Verdict, path: Path, title: str) -> None:
    """Write a picture (PNG, PDF or SVG, by `path`'s suffix) of a recording, its verdict, and where that comes from."""
    if not isinstance(detector, TorchDetector):
        raise ValueError("a graph has no networks that could be asked why")
    reason = why(detector, measured, verdict)
    front_end = detector.front_end
    second = front_end.hop_length / front_end.sample_rate
    begin, end = reason.window.start, reason.window.start + len(reason.spectrogram) * second
    times = begin + np.arange(len(reason.spectrogram)) * second
    mels = np.arange(front_end.n_mels)
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(9, 7.2), layout="constrained")
        figure.suptitle(f"{title}\n{verdict.sentence}", fontsize=10, x=0.01, ha="left")
        grid = figure.add_gridspec(4, 2, width_ratios=(6, 1), height_ratios=(3, 3, 1.3, 1.3))
        extent = (begin, end, -0.5, front_end.n_mels - 0.5)
        ticks = _hertz_ticks(detector)

        sound = figure.add_subplot(grid[0, 0], title="sound, dB; outlined: what the model could account for least")
        image = sound.imshow(reason.spectrogram.T, origin="lower", aspect="auto", extent=extent, cmap="magma")
        smooth = uniform_filter(reason.error, SMOOTHED)  # outlines regions, not single specks
        sound.contour(times, mels, smooth.T, levels=[np.quantile(smooth, OUTLINED)], colors="#7fe3ff", linewidths=0.9)
        figure.colorbar(image, ax=sound, pad=0.01)

        error = figure.add_subplot(grid[1, 0], sharex=sound, title="masked reconstruction: how far it is off, dB")
        image = error.imshow(reason.error.T, origin="lower", aspect="auto", extent=extent, cmap="viridis", vmin=0)
        figure.colorbar(image, ax=error, pad=0.01)
        for axes in (sound, error):
            axes.set_yticks(*ticks)
            axes.set_ylabel("Hz")

        over_time = figure.add_subplot(grid[2, 0], sharex=sound, title="how much this moment adds to the score")
        side = figure.add_subplot(grid[0, 1], title="… this band")
        for colour, sign in ((RED, 1), (BLUE, -1)):
            over_time.fill_between(times, sign * np.maximum(sign * reason.over_time, 0), color=colour, linewidth=0)
            side.fill_betweenx(mels, sign * np.maximum(sign * reason.over_frequency, 0), color=colour, linewidth=0)
        over_time.axhline(0, color="black", linewidth=0.6)
        over_time.set_xlabel("s")
        side.axvline(0, color="black", linewidth=0.6)
        side.set_ylim(extent[2:])
        side.set_yticks(*ticks)

        windows = figure.add_subplot(grid[3, :], title="score of each window of the recording; dashed: threshold")
        for window in verdict.windows:
            colour = RED if window.anomalous else BLUE
            windows.plot([window.start, window.end], [window.score] * 2, color=colour, linewidth=3)
        windows.axhline(verdict.threshold, color="black", linewidth=0.9, linestyle="--")
        windows.margins(x=0.01, y=0.3)
        windows.set_xlabel("s")
        figure.savefig(path, dpi=110)


def _hertz_ticks(detector: TorchDetector) -> tuple[np.ndarray, list[str]]:
    """Mel bins, and their labels in Hz, for round frequencies within the front end's band."""
    front_end = detector.front_end
    wanted = np.array([hertz for hertz in (100, 500, 1000, 2000, 4000, 8000) if hertz <= front_end.f_max])
    wanted = wanted[wanted >= front_end.f_min]
    centres = mel_centres(front_end)
    return np.interp(wanted, centres, np.arange(front_end.n_mels)), [f"{hertz:g}" for hertz in wanted]
