"""Why a recording got its score: the stretches of time and frequency that the score hangs on, drawn with the sound.

Two views of the most anomalous window of a recording: what the pretrained network cannot predict from the rest
(`detection.reconstruction`), and how the score changes when the fine-tuned network does not see a part. The encoder
drops the tokens of masked patches in pretraining, so it can judge a window with a stretch of time or a band of
frequencies left out.
"""

from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.ndimage import uniform_filter
from torchaudio.functional import melscale_fbanks

from detection.detector import Detector, Verdict, Window
from detection.reconstruction import reconstruction_error
from model.network import network_input, patchify

STRETCHES = 16  # of time, at most
REPEATS = 24  # random masks
OUTLINED = 0.96  # quantile of the reconstruction error above which a region is outlined
SMOOTHED = 5  # frames and mels over which the error is averaged for the outline
RED, BLUE = "#b93a0c", "#1f6fb2"  # what makes a recording anomalous, and what does not


@dataclass(frozen=True)
class Why:
    """Where in a window the score comes from. F frames and M mels are those of the sound, without padding."""

    window: Window
    spectrogram: np.ndarray  # (F, M), dB
    error: np.ndarray  # (F, M), dB: how far the masked reconstruction is off
    over_time: np.ndarray  # (F,), how much lower the score is without this stretch; negative where it is higher
    over_frequency: np.ndarray  # (M,), the same for bands of frequency


def why(detector: Detector, log_mel: np.ndarray, verdict: Verdict, seed: int = 0) -> Why:
    """Explain `verdict`, what the detector said of `log_mel` (frames, mels) in dB, by its most anomalous window."""
    worst = int(np.argmax([window.score for window in verdict.windows]))
    start = detector.window_starts(len(log_mel))[worst]
    frames, mels = detector.classifier.config.frames, log_mel.shape[1]
    piece = log_mel[start : start + frames].astype(np.float32)
    length = len(piece)
    standardised = (piece - detector.mean) / detector.std
    error = reconstruction_error(detector.pretrained, standardised, REPEATS, seed) * detector.std

    config = detector.classifier.config
    rows, columns = config.grid
    # as many whole columns to a stretch as the stretches allow; columns of nothing but padding belong to the last one
    used = -(-length // config.patch_frames)
    per_stretch = -(-used // STRETCHES)
    number = np.minimum(np.arange(columns), used - 1) // per_stretch
    row, column = np.divmod(np.arange(config.tokens), columns)
    identity = f"{verdict.machine_type}/{verdict.machine_id}"

    def score_without(left_out: np.ndarray) -> float:
        visible = torch.from_numpy(np.flatnonzero(~left_out))[None].to(detector.device)  # (1, V)
        x = network_input(torch.from_numpy(piece)[None], detector.mean, detector.std, frames).to(detector.device)
        with torch.inference_mode():
            embedding = detector.classifier.encoder(patchify(x, config), visible).mean(dim=1)
            logits = detector.classifier.classifier(embedding)
        return detector.score_outputs(embedding.cpu().numpy(), logits.cpu().numpy(), identity, verdict.backend)[0]

    score = verdict.windows[worst].score
    without_stretch = np.array([score_without(number[column] == one) for one in range(number.max() + 1)])
    without_band = np.array([score_without(row == one) for one in range(rows)])
    return Why(
        window=verdict.windows[worst],
        spectrogram=piece,
        error=error,
        over_time=(score - without_stretch)[number].repeat(config.patch_frames)[:length],
        over_frequency=(score - without_band).repeat(mels // rows),
    )


def draw(detector: Detector, log_mel: np.ndarray, verdict: Verdict, path: Path, title: str) -> None:
    """Write a picture (PNG, PDF or SVG, by `path`'s suffix) of a recording, its verdict, and where that comes from."""
    reason = why(detector, log_mel, verdict)
    front_end = detector.front_end
    second = front_end.hop_length / front_end.sample_rate
    begin, end = reason.window.start, reason.window.start + len(reason.spectrogram) * second
    times = begin + np.arange(len(reason.spectrogram)) * second
    mels = np.arange(front_end.n_mels)
    with matplotlib.rc_context({"font.size": 9, "text.parse_math": False, "axes.titlelocation": "left"}):
        figure = Figure(figsize=(9, 7.2), layout="constrained")
        figure.suptitle(f"{title}\n{_sentence(verdict)}", fontsize=10, x=0.01, ha="left")
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


def _sentence(verdict: Verdict) -> str:
    what = "ANOMALOUS" if verdict.anomalous else "normal"
    return (
        f"{verdict.machine_type} {verdict.machine_id}: {what}, score {verdict.score:.4g} (threshold "
        f"{verdict.threshold:.4g}), at or above {verdict.percentile:.0f} % of its normal training clips"
    )


def _hertz_ticks(detector: Detector) -> tuple[np.ndarray, list[str]]:
    """Mel bins, and their labels in Hz, for round frequencies within the front end's band."""
    front_end = detector.front_end
    wanted = np.array([hertz for hertz in (100, 500, 1000, 2000, 4000, 8000) if hertz <= front_end.f_max])
    wanted = wanted[wanted >= front_end.f_min]
    filters = melscale_fbanks(
        front_end.n_fft // 2 + 1,
        front_end.f_min,
        front_end.f_max,
        front_end.n_mels,
        front_end.sample_rate,
        "slaney",
        "slaney",
    ).numpy()  # (bins of the spectrum, mels)
    spectrum = np.linspace(0, front_end.sample_rate / 2, len(filters))
    centres = (filters * spectrum[:, None]).sum(0) / np.maximum(filters.sum(0), 1e-12)
    return np.interp(wanted, centres, np.arange(front_end.n_mels)), [f"{hertz:g}" for hertz in wanted]
