"""Factory sounds synthesised on the fly: one function per family, noise floors, and captioned mixtures.

Everything is drawn from a `numpy.random.Generator`, in numpy at 16 kHz. `pitch` and `pace` in [0, 1] place a sound in
its family's range from low to high and from slow to fast; the caption's words say so when they were drawn on purpose.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy import fft

from augmentation.nano_audioldm.captions import caption
from augmentation.nano_audioldm.families import FAMILIES

SAMPLE_RATE = 16000  # Hz
Waveform = np.ndarray  # (samples,)


def _between(position: float, low: float, high: float) -> float:
    """The value at `position` in [0, 1] between `low` and `high`, on a logarithmic scale."""
    return low * (high / low) ** position


def _log_uniform(rng: Generator, low: float, high: float, size: int | None = None):
    return np.exp(rng.uniform(np.log(low), np.log(high), size))


def _unit(waveform: Waveform) -> Waveform:
    return waveform / (np.sqrt(np.mean(waveform**2)) + 1e-12)


def _times(samples: int) -> np.ndarray:
    return np.arange(samples, dtype=np.float32) / SAMPLE_RATE  # s


_COARSE = np.geomspace(2, 8000, 300)  # Hz, where smooth spectra are evaluated


@lru_cache(maxsize=4096)
def _interpolation(samples: int) -> tuple[np.ndarray, np.ndarray]:
    """Index into `_COARSE` and weight of the next point, for each rfft bin of `samples` samples."""
    frequencies = np.clip(np.fft.rfftfreq(samples, 1 / SAMPLE_RATE), _COARSE[0], _COARSE[-1])
    index = np.clip(np.searchsorted(_COARSE, frequencies) - 1, 0, len(_COARSE) - 2)
    weight = (frequencies - _COARSE[index]) / (_COARSE[index + 1] - _COARSE[index])
    return index, weight.astype(np.float32)


def _shaped_noise(rng: Generator, samples: int, magnitude: Callable[[np.ndarray], np.ndarray]) -> Waveform:
    """Gaussian noise with the smooth spectrum `magnitude(frequencies in Hz)`, RMS 1."""
    index, weight = _interpolation(samples)
    coarse = magnitude(_COARSE).astype(np.float32)
    spectrum = rng.standard_normal((len(index), 2), dtype=np.float32).view(np.complex64)[:, 0]
    spectrum *= coarse[index] + weight * (coarse[index + 1] - coarse[index])
    return _unit(fft.irfft(spectrum, samples))


def _band(low: float, high: float, order: float = 2.0) -> Callable[[np.ndarray], np.ndarray]:
    """Band-pass magnitude with slopes of 6 dB per octave times `order`."""

    def magnitude(frequencies: np.ndarray) -> np.ndarray:
        frequencies = np.maximum(frequencies, 1.0)
        return 1 / np.sqrt((1 + (low / frequencies) ** (2 * order)) * (1 + (frequencies / high) ** (2 * order)))

    return magnitude


def _random_spectrum(rng: Generator) -> Callable[[np.ndarray], np.ndarray]:
    """A smooth random spectrum: a tilt of +2 to -10 dB per octave and random bumps."""
    tilt, bumps = rng.uniform(-10, 2), rng.uniform(1, 7)
    knots = np.linspace(np.log2(30), np.log2(8000), 14)
    decibels = tilt * (knots - knots[0]) + bumps * rng.standard_normal(len(knots))

    def magnitude(frequencies: np.ndarray) -> np.ndarray:
        return 10 ** (np.interp(np.log2(np.maximum(frequencies, 20.0)), knots, decibels) / 20)

    return magnitude


def _wander(rng: Generator, samples: int, rate: float) -> Waveform:
    """A smooth random curve of about unit variance that changes `rate` times a second."""
    knots = max(4, int(samples / SAMPLE_RATE * rate) + 3)
    places = np.linspace(-1, knots, knots + 2) / (knots - 1) * samples
    curve = np.interp(np.arange(samples), places, rng.standard_normal(knots + 2))
    return curve * 1.2


def _partials(rng: Generator, frequency: Waveform, amplitudes: np.ndarray, ratios: np.ndarray) -> Waveform:
    """Sum of sinusoids at `ratios` times the instantaneous `frequency` (Hz); those beyond 7.8 kHz are left out."""
    cycles = np.cumsum(frequency, dtype=np.float64) / SAMPLE_RATE
    keep = ratios * frequency.max() < 7800
    total = np.zeros(len(frequency), dtype=np.float32)
    for ratio, amplitude in zip(ratios[keep], amplitudes[keep], strict=True):
        angle = ratio * cycles + rng.uniform()
        angle -= np.floor(angle)  # single precision is enough within one turn
        total += np.float32(amplitude) * np.sin(np.float32(2 * np.pi) * angle.astype(np.float32))
    return _unit(total)


def _events(rng: Generator, samples: int, rate: float, jitter: float) -> np.ndarray:
    """Onsets in samples of events `rate` times a second: jitter 0 is regular, 1 is a Poisson process."""
    count = int(samples / SAMPLE_RATE * rate * 2) + 8
    gaps = (1 - jitter) * np.ones(count) + jitter * rng.exponential(1.0, count)
    onsets = (np.cumsum(gaps) - rng.uniform(0, 1)) / rate * SAMPLE_RATE
    return onsets[(onsets >= 0) & (onsets < samples)].astype(int)


def _place(samples: int, onsets: np.ndarray, amplitudes: np.ndarray, grains: list[Waveform], rng: Generator):
    """Sum of grains at their onsets, each drawn from `grains`."""
    total = np.zeros(samples + max(map(len, grains)))
    for onset, amplitude in zip(onsets, amplitudes, strict=True):
        grain = grains[rng.integers(len(grains))]
        total[onset : onset + len(grain)] += amplitude * grain
    return total[:samples]


def _modes(rng: Generator, low: float, high: float, count: int, decay: float, noise: float) -> Waveform:
    """One struck body: `count` decaying modes between `low` and `high` Hz, and a noise burst of relative level."""
    times = _times(int(np.ceil(min(6 * decay, 0.6) * SAMPLE_RATE / 256)) * 256)
    total = np.zeros(len(times))
    for frequency in _log_uniform(rng, low, min(high, 7500), count):
        time_constant = decay * rng.uniform(0.4, 1.2) * (low / frequency) ** 0.3
        total += rng.uniform(0.3, 1) * np.sin(2 * np.pi * frequency * times) * np.exp(-times / time_constant)
    burst = _shaped_noise(rng, len(times), _band(low * 0.6, high * 1.5)) * np.exp(-times / (decay * 0.25))
    return total / np.sqrt(count) + noise * burst


def _rumble(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    cutoff = _between(pitch, 60, 260)
    noise = _shaped_noise(rng, samples, _band(20, cutoff, rng.uniform(2, 3.5)))
    swell = np.exp(rng.uniform(0.2, 0.6) * _wander(rng, samples, rng.uniform(3, 12)))
    tone = _partials(rng, np.full(samples, cutoff * rng.uniform(0.3, 0.7)), np.array([1, 0.6, 0.3]), np.arange(1.0, 4))
    return noise * swell + rng.uniform(0, 0.5) * tone


def _screech(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    glide = np.exp(rng.uniform(0.02, 0.12) * _wander(rng, samples, rng.uniform(1, 6)))
    frequency = _between(pitch, 1700, 4200) * glide
    ratios = np.concatenate([[1.0], rng.uniform(1.05, 2.4, rng.integers(2, 6))])
    tone = _partials(rng, frequency, rng.uniform(0.4, 1, len(ratios)), ratios)
    rough = 1 + rng.uniform(0.2, 0.8) * np.sin(2 * np.pi * rng.uniform(30, 110) * _times(samples))
    noise = _shaped_noise(rng, samples, _band(frequency.mean(), 7500, 3))
    envelope = 1 / (1 + np.exp(-rng.uniform(2, 6) * (_wander(rng, samples, rng.uniform(1, 4)) + rng.uniform(0, 1.5))))
    return (tone * rough + rng.uniform(0.1, 0.4) * noise) * envelope


def _hammering(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    low = _between(pitch, 70, 420)
    decay = _between(rng.uniform(), 0.03, 0.14)
    grains = [_modes(rng, low, low * 8, int(rng.integers(4, 9)), decay, rng.uniform(0.5, 1.5)) for _ in range(2)]
    onsets = _events(rng, samples, _between(pace, 0.9, 6), rng.uniform(0, 0.15))
    return _place(samples, onsets, rng.uniform(0.7, 1, len(onsets)), grains, rng)


def _hiss(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    low = _between(pitch, 2000, 4800)
    noise = _shaped_noise(rng, samples, _band(low, rng.uniform(6500, 9000), rng.uniform(2, 4)))
    return noise * np.exp(rng.uniform(0, 0.3) * _wander(rng, samples, rng.uniform(0.5, 3)))


def _whirr(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    wobble = np.sin(2 * np.pi * rng.uniform(1, 6) * _times(samples) + rng.uniform(0, 6))
    frequency = _between(pitch, 220, 900) * (1 + rng.uniform(0.005, 0.04) * wobble)
    ratios = np.arange(1.0, rng.integers(6, 14))
    tone = _partials(rng, frequency, rng.uniform(0.3, 1, len(ratios)) * ratios ** -rng.uniform(0.3, 1.0), ratios)
    noise = _shaped_noise(rng, samples, _band(frequency[0], frequency[0] * 5, 1.5))
    return (tone + rng.uniform(0.15, 0.5) * noise) * (1 + rng.uniform(0.1, 0.4) * wobble)


def _clicking(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    low = _between(pitch, 1200, 3600)
    grains = [_modes(rng, low, low * 2.5, 4, rng.uniform(0.0015, 0.005), rng.uniform(0.5, 1.5)) for _ in range(2)]
    onsets = _events(rng, samples, _between(pace, 2, 13), rng.uniform(0, 0.12))
    return _place(samples, onsets, rng.uniform(0.7, 1, len(onsets)), grains, rng)


def _grinding(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    low = _between(pitch, 350, 1300)
    noise = _shaped_noise(rng, samples, _band(low, low * rng.uniform(2.5, 4), rng.uniform(1.5, 2.5)))
    turn = np.sin(2 * np.pi * _between(pace, 6, 28) * _times(samples) + rng.uniform(0, 6))
    grit = np.exp(rng.uniform(0.5, 0.9) * _wander(rng, samples, rng.uniform(40, 110)))
    return noise * grit * np.maximum(1 + rng.uniform(0.5, 1.0) * turn, 0.05)


def _bubbling(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    grains = []
    for start in _between(pitch, 180, 700) * _log_uniform(rng, 0.6, 1.8, 8):
        times = _times(int(rng.uniform(0.04, 0.12) * SAMPLE_RATE))
        rise = start * (1 + rng.uniform(2, 8) * times)
        decay = np.exp(-times / rng.uniform(0.01, 0.03)) * np.minimum(times / 0.002, 1)
        grains.append(np.sin(2 * np.pi * np.cumsum(rise) / SAMPLE_RATE) * decay)
    onsets = _events(rng, samples, _between(pace, 6, 32), 1.0)
    return _place(samples, onsets, rng.uniform(0.2, 1, len(onsets)), grains, rng)


def _beeping(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    base, rate, duty = _between(pitch, 600, 3200), _between(pace, 1, 6), rng.uniform(0.35, 0.65)
    cycle = _times(samples) * rate + rng.uniform()
    second = rng.choice([1.0, 1.0, 1.25, 1.5, 0.8])
    frequency = base * np.where(np.floor(cycle) % 2 == 0, 1.0, second)
    tone = _partials(rng, frequency, np.array([1, rng.uniform(0, 0.4), rng.uniform(0, 0.3)]), np.array([1.0, 2, 3]))
    position = cycle % 1
    gate = np.minimum(np.clip(position * 60, 0, 1), np.clip((duty - position) * 60, 0, 1))
    return tone * gate


def _rattle(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    low = _between(pitch, 700, 2400)
    grains = [_modes(rng, low, low * 3, 5, rng.uniform(0.006, 0.02), rng.uniform(0.3, 1.0)) for _ in range(4)]
    onsets = _events(rng, samples, _between(pace, 14, 34), rng.uniform(0.4, 0.8))
    shake = 0.55 + 0.45 * np.sin(2 * np.pi * rng.uniform(1.5, 5) * onsets / SAMPLE_RATE + rng.uniform(0, 6))
    return _place(samples, onsets, shake * rng.uniform(0.4, 1, len(onsets)), grains, rng)


def _crackle(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    onsets = _events(rng, samples, _between(pace, 25, 130), 1.0)
    impulses = np.zeros(samples)
    impulses[onsets] = rng.choice([-1, 1], len(onsets)) * rng.pareto(2.2, len(onsets)).clip(0.05, 8)
    response = np.zeros(samples)
    length = int(rng.uniform(0.0008, 0.003) * SAMPLE_RATE) + 4
    response[:length] = rng.standard_normal(length) * np.exp(-np.arange(length) / length * 4)
    colour = _band(_between(pitch, 300, 2500), _between(pitch, 2000, 9000), 1.0)(fft.rfftfreq(samples, 1 / SAMPLE_RATE))
    return fft.irfft(fft.rfft(impulses) * fft.rfft(response) * colour, samples)


def _ventilation(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    centre = _between(pitch, 220, 1100)
    low = _shaped_noise(rng, samples, _band(centre * 0.4, centre, rng.uniform(1, 1.6)))
    high = _shaped_noise(rng, samples, _band(centre, centre * 3, rng.uniform(1, 1.6)))
    gust = _wander(rng, samples, rng.uniform(0.6, 2.5))
    return low * np.exp(0.25 * gust) + rng.uniform(0.2, 0.6) * high * np.exp(rng.uniform(0.4, 0.9) * gust)


def _buzz(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    frequency = _between(pitch, 75, 210) * (1 + 0.003 * _wander(rng, samples, 5))
    ratios = np.arange(1.0, 60.0)
    formant = 10 ** (-rng.uniform(0.5, 1.2) * np.abs(np.log2(ratios * frequency[0] / rng.uniform(600, 2500))) / 2)
    tone = _partials(rng, frequency, formant * rng.uniform(0.6, 1, len(ratios)), ratios)
    return tone * (1 + rng.uniform(0, 0.5) * np.abs(np.sin(np.pi * frequency[0] * _times(samples))))


def _hum(rng: Generator, samples: int, pitch: float, pace: float) -> Waveform:
    frequency = np.full(samples, _between(pitch, 50, 260))
    ratios = np.arange(1.0, rng.integers(3, 6))
    tone = _partials(rng, frequency, ratios ** -rng.uniform(0.3, 1.5), ratios)
    beat = 1 + rng.uniform(0, 0.25) * np.sin(2 * np.pi * rng.uniform(0.3, 2) * _times(samples))
    return tone * beat + 0.05 * _shaped_noise(rng, samples, _band(30, 600))


_SOUNDS: dict[str, Callable[[Generator, int, float, float], Waveform]] = {
    "rumble": _rumble, "screech": _screech, "hammering": _hammering, "hiss": _hiss, "whirr": _whirr,
    "clicking": _clicking, "grinding": _grinding, "bubbling": _bubbling, "beeping": _beeping, "rattle": _rattle,
    "crackle": _crackle, "ventilation": _ventilation, "buzz": _buzz, "hum": _hum,
}  # fmt: skip


def family_sound(rng: Generator, family: str, samples: int, pitch: float, pace: float) -> Waveform:
    """`samples` samples of one family alone, RMS 1. `pitch` and `pace` are in [0, 1]."""
    return _unit(_SOUNDS[family](rng, samples, pitch, pace))


def noise_floor(rng: Generator, samples: int) -> Waveform:
    """A machine hall without a caption: coloured noise, often with steady tones, sometimes with a work cycle. RMS 1."""
    floor = _shaped_noise(rng, samples, _random_spectrum(rng))
    if rng.uniform() < 0.35:
        floor = floor * np.exp(rng.uniform(0.1, 0.5) * _wander(rng, samples, _log_uniform(rng, 0.5, 12)))
    if rng.uniform() < 0.55:  # a rotating machine
        ratios = np.arange(1.0, rng.integers(2, 24))
        amplitudes = rng.uniform(0, 1, len(ratios)) * ratios ** -rng.uniform(0, 1)
        base = np.full(samples, _log_uniform(rng, 20, 700))
        floor += _log_uniform(rng, 0.05, 1.2) * _partials(rng, base, amplitudes, ratios)
    if rng.uniform() < 0.3:  # a carriage that moves or a valve that opens, again and again
        cycle = (_times(samples) * _log_uniform(rng, 0.4, 4) + rng.uniform()) % 1
        gate = 1 / (1 + np.exp(-40 * (rng.uniform(0.1, 0.6) - cycle)))
        floor += rng.uniform(0.3, 2) * gate * _shaped_noise(rng, samples, _random_spectrum(rng))
    return _unit(floor)


@dataclass(frozen=True)
class Clip:
    """A synthesised clip, its caption ("" for a bare floor) and the family the caption names (None for a floor)."""

    waveform: np.ndarray  # (samples,), float32, mean 0, peak at most 0.5
    caption: str
    family: str | None
    pitch: str | None = None  # "low" or "high" where the caption says so
    pace: str | None = None  # "slow" or "fast" where the caption says so


def _position(rng: Generator, word: str | None) -> float:
    """Position in [0, 1] that a pitch or pace word stands for; anywhere without a word."""
    ranges = {None: (0.0, 1.0), "low": (0.0, 0.3), "slow": (0.0, 0.3), "high": (0.7, 1.0), "fast": (0.7, 1.0)}
    return rng.uniform(*ranges[word])


def _draw_words(rng: Generator) -> tuple[str | None, str | None]:
    """Pitch and pace words, or None, as often as captions have them."""
    pitch = rng.choice(np.array([None, "low", "high"], dtype=object), p=[0.4, 0.3, 0.3])
    pace = rng.choice(np.array([None, "slow", "fast"], dtype=object), p=[0.5, 0.25, 0.25])
    return pitch, pace


def _at_level(rng: Generator, waveform: Waveform) -> float:
    """Gain to AudioLDM's level: a peak of 0.5 less up to 10 dB, since a crop seldom holds its clip's peak."""
    return 0.5 * 10 ** (-rng.uniform(0, 10) / 20) / (np.abs(waveform).max() + 1e-9)


def draw_clip(rng: Generator, samples: int, family: str | None = None, floors: float = 1 / 12) -> Clip:
    """A captioned mixture: a random (or the given) family, 0 to 30 dB above a random floor. Mean 0, AudioLDM's level.

    Without a given family, a share `floors` of the clips are bare floors.
    """
    pitch = pace = None
    if family is None and rng.uniform() < floors:
        waveform, text = noise_floor(rng, samples), ""
    else:
        family = family or str(rng.choice(list(FAMILIES)))
        pitch, pace = _draw_words(rng)
        pace = pace if FAMILIES[family].paced else None
        sound = family_sound(rng, family, samples, _position(rng, pitch), _position(rng, pace))
        waveform = sound + 10 ** (-rng.uniform(0, 30) / 20) * noise_floor(rng, samples)
        text = caption(rng, family, pitch, pace)
    waveform = waveform - waveform.mean()
    waveform *= _at_level(rng, waveform)
    return Clip(waveform.astype(np.float32), text, family, pitch, pace)


def draw_addition(rng: Generator, samples: int) -> tuple[Waveform, Clip]:
    """A bare floor, at AudioLDM's level, and what it becomes when a captioned sound is added to it.

    The sound is 15 dB below to 3 dB above the floor.
    """
    floor = noise_floor(rng, samples)
    floor = floor - floor.mean()
    family = str(rng.choice(list(FAMILIES)))
    pitch, pace = _draw_words(rng)
    pace = pace if FAMILIES[family].paced else None
    sound = family_sound(rng, family, samples, _position(rng, pitch), _position(rng, pace))
    gain = _at_level(rng, floor)
    waveform = gain * (floor + 10 ** (rng.uniform(-15, 3) / 20) * floor.std() * sound)
    clip = Clip(waveform.astype(np.float32), caption(rng, family, pitch, pace), family, pitch, pace)
    return (gain * floor).astype(np.float32), clip
