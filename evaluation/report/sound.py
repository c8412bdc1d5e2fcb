"""Players and spectrogram pictures that live inside the page."""

import base64
import io
from dataclasses import dataclass

import numpy as np
import soundfile
from scipy import ndimage

from audio.clips import SAMPLE_RATE
from audio.front_end import LogMelSettings
from audio.mels import mel_centres, mel_edges
from evaluation.report.plots import spectrogram_png

PEAK = 0.8  # of what a player plays; recordings of machines are often too quiet for a telephone
MOST_GAIN = 40.0  # dB
WEAKEST = 0.3  # of the strongest place's excess; what is weaker does not stand out


@dataclass(frozen=True)
class Picture:
    """A spectrogram as a data URI, with ticks as (place in per cent from the left or the bottom, text)."""

    image: str
    hertz: list[tuple[float, str]]
    seconds: list[tuple[float, str]]
    boxes: list[tuple[float, float, float, float]]  # x, y from the top, width, height in per cent


def audible_gain(*waveforms: np.ndarray) -> float:
    """Gain in dB that brings the loudest of `waveforms` to the peak of a player; the same for all of them."""
    peak = max(float(np.abs(waveform).max(initial=0)) for waveform in waveforms)
    return 0.0 if peak == 0 else float(np.clip(20 * np.log10(PEAK / peak), 0, MOST_GAIN))


def player(waveform: np.ndarray, gain: float = 0.0) -> str:
    """A waveform (samples,) at 16 kHz as the address of an audio element, amplified by `gain` dB."""
    file = io.BytesIO()  # MP3: plays in every browser, a fifth of FLAC's size
    louder = np.clip(waveform * 10 ** (gain / 20), -1, 1)
    soundfile.write(file, louder, SAMPLE_RATE, format="MP3", subtype="MPEG_LAYER_III")
    return "data:audio/mpeg;base64," + base64.b64encode(file.getvalue()).decode()


def picture(
    values: np.ndarray,
    settings: LogMelSettings,
    low: float,
    high: float,
    colours: str = "magma",
    boxes: list[tuple[slice, slice]] | None = None,
) -> Picture:
    """Values (frames, mels) as a picture with its axes; `boxes` are (frames, mels) to outline."""
    frames, mels = values.shape
    centres = mel_centres(settings)
    shown = [hertz for hertz in (125, 250, 500, 1000, 2000, 4000, 8000, 16000) if centres[0] < hertz <= settings.f_max]
    hertz = [
        (float(np.interp(value, centres, np.arange(mels)) + 0.5) / mels * 100, f"{value / 1000:g}k")
        for value in shown
        if value >= 500
    ]
    length = frames * settings.hop_length / settings.sample_rate
    step = next((step for step in (1, 2, 5, 10, 30, 60, 300) if length / step <= 4), 600)
    seconds = [(second / length * 100, f"{second:g} s") for second in np.arange(0, length + 1e-9, step)]
    png = base64.b64encode(spectrogram_png(values, low, high, colours)).decode()
    outlined = [
        (
            time.start / frames * 100,
            (1 - band.stop / mels) * 100,
            (time.stop - time.start) / frames * 100,
            (band.stop - band.start) / mels * 100,
        )
        for time, band in boxes or []
    ]
    return Picture(f"data:image/png;base64,{png}", hertz, seconds, outlined)


def salient(excess: np.ndarray, block: tuple[int, int], most: int = 3) -> list[tuple[slice, slice]]:
    """The places of `excess` (frames, mels) that stand out: up to `most` boxes, the one with the most excess first.

    `block` (frames, mels) is the grain that places are made of, a patch of the network.
    """
    frames, mels = (-(-size // grain) for size, grain in zip(excess.shape, block, strict=True))
    padded = np.pad(excess, ((0, frames * block[0] - excess.shape[0]), (0, mels * block[1] - excess.shape[1])))
    grid = padded.reshape(frames, block[0], mels, block[1]).mean((1, 3))
    high = grid > max(np.quantile(grid, 0.95), grid.max() * WEAKEST)
    labels, count = ndimage.label(high)
    if not count:
        return []
    sums = ndimage.sum_labels(grid, labels, range(1, count + 1))
    found = ndimage.find_objects(labels)
    return [
        (
            slice(found[place][0].start * block[0], min(found[place][0].stop * block[0], excess.shape[0])),
            slice(found[place][1].start * block[1], min(found[place][1].stop * block[1], excess.shape[1])),
        )
        for place in np.argsort(-sums)[:most]
    ]


def in_words(box: tuple[slice, slice], settings: LogMelSettings) -> str:
    """A box of (frames, mels) as an engineer reads it, for example "2.1-3.4 s at 0.5-1.2 kHz"."""
    edges = mel_edges(settings)
    start, stop = (place * settings.hop_length / settings.sample_rate for place in (box[0].start, box[0].stop))
    low, high = edges[box[1].start] / 1000, edges[box[1].stop + 1] / 1000
    return f"{start:.1f}–{stop:.1f} s at {low:.2g}–{high:.2g} kHz"
