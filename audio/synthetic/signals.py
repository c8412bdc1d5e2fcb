"""What simulated sounds are made of. Signals are float32 arrays of shape (SAMPLES,)."""

from functools import lru_cache

import numpy as np
from numpy.random import Generator
from scipy.fft import irfft, rfft

SAMPLE_RATE = 16000  # Hz
SECONDS = 10
SAMPLES = SAMPLE_RATE * SECONDS

TIME = np.arange(SAMPLES) / SAMPLE_RATE  # s
FREQUENCY = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE).astype(np.float32)  # Hz
FREQUENCY[0] = FREQUENCY[1] / 2  # so that logarithms and ratios of it exist
OCTAVES = np.log2(FREQUENCY)  # above 1 Hz


def gain(decibels: float) -> float:
    return 10 ** (decibels / 20)


def rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))  # np.dot would sum as the machine's BLAS does, each in its order


def unit(signal: np.ndarray) -> np.ndarray:
    """The signal at RMS 1 (silence stays silent)."""
    return np.asarray(signal, np.float32) / np.float32(rms(signal) or 1.0)


def fluctuation(rng: Generator, rate_hz: float) -> np.ndarray:
    """A slow random curve about 0, of about unit size, that changes `rate_hz` times a second."""
    knots = np.linspace(0, SECONDS, max(2, round(rate_hz * SECONDS) + 1))
    return np.interp(TIME, knots, rng.standard_normal(len(knots))).astype(np.float32)


def phase(rng: Generator, speed_hz: float | np.ndarray, drift: float) -> np.ndarray:
    """Angle (rad) of a shaft that turns `speed_hz` times a second, give or take a relative `drift`."""
    speed = speed_hz * (1 + drift * fluctuation(rng, 1.0))
    return rng.uniform(0, 2 * np.pi) + 2 * np.pi / SAMPLE_RATE * np.cumsum(speed, dtype=np.float64)


def harmonics(rng: Generator, phase: np.ndarray, count: int, falloff_db: float) -> np.ndarray:
    """`count` harmonics of a turning phase, each `falloff_db` below the one before, at RMS 1.

    Those that would pass half the sample rate are left out.
    """
    count = min(count, int(np.pi / np.diff(phase[::100]).max() * 100))
    angle = (phase % (2 * np.pi)).astype(np.float32)
    turn = np.empty(SAMPLES, np.complex64)
    turn.real, turn.imag = np.cos(angle), np.sin(angle)
    amplitudes = gain(-falloff_db) ** np.arange(count) * np.exp(1j * rng.uniform(0, 2 * np.pi, count))
    total = np.zeros_like(turn)
    for amplitude in amplitudes[::-1].astype(np.complex64):  # Horner: sum of amplitude_k turn^k
        total += amplitude
        total *= turn
    return unit(total.real)


def bell(centre_hz: float, octaves: float) -> np.ndarray:
    """A band in the spectrum: a bell curve over log-frequency."""
    return np.exp(-0.5 * ((OCTAVES - np.float32(np.log2(centre_hz))) / np.float32(octaves)) ** 2)


def noise(rng: Generator, response: np.ndarray) -> np.ndarray:
    """Gaussian noise with the amplitude spectrum `response`, at RMS 1."""
    spectrum = rng.standard_normal(2 * len(FREQUENCY), dtype=np.float32).view(np.complex64)
    return unit(irfft(spectrum * response, SAMPLES))


@lru_cache(maxsize=32)
def modes(frequencies_hz: tuple[float, ...], quality: float) -> np.ndarray:
    """Complex response of parallel resonators, 1 at each resonance."""
    ratio = FREQUENCY / np.array(frequencies_hz, np.float32)[:, None]  # (modes, frequencies)
    return (1 / (1 + np.complex64(1j * quality) * (ratio - 1 / ratio))).sum(axis=0)


def resonate(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The signal through a filter that is given by its response."""
    return irfft(rfft(signal) * response, SAMPLES)


def housing(signal: np.ndarray, resonances_hz: tuple[float, ...]) -> np.ndarray:
    """The signal as the machine's housing radiates it, its resonances 8 dB above the rest."""
    return resonate(signal, 1 + 1.5 * modes(resonances_hz, 6.0))


def ring(impulses: np.ndarray, modes_hz: tuple[float, ...], quality: float) -> np.ndarray:
    """Impulses as the modes of what they strike ring from them."""
    return resonate(impulses, modes(modes_hz, quality))


def impulses(times_s: np.ndarray, strengths: np.ndarray | float) -> np.ndarray:
    """Impulses of the given strengths and times; those beyond the clip are left out."""
    signal = np.zeros(SAMPLES, np.float32)
    index = np.round(np.asarray(times_s) * SAMPLE_RATE).astype(int)
    inside = (index >= 0) & (index < SAMPLES)
    np.add.at(signal, index[inside], np.broadcast_to(strengths, index.shape)[inside])
    return signal


def random_times(rng: Generator, rate_per_s: float) -> np.ndarray:
    """Times (s) of events that come independently of each other."""
    return rng.uniform(0, SECONDS, rng.poisson(rate_per_s * SECONDS))


def turns(phase: np.ndarray) -> np.ndarray:
    """Times (s) at which the phase completes a turn."""
    return np.flatnonzero(np.diff(np.floor(phase / (2 * np.pi)))) / SAMPLE_RATE


def decays(times_s: np.ndarray, decay_s: float) -> np.ndarray:
    """An envelope that jumps to 1 at each time and decays."""
    return resonate(impulses(times_s, 1.0), _decay_response(decay_s)).clip(0, 1)


@lru_cache(maxsize=16)
def _decay_response(decay_s: float) -> np.ndarray:
    return (SAMPLE_RATE * decay_s / (1 + 2j * np.pi * FREQUENCY * decay_s)).astype(np.complex64)
