"""The factory around a machine: its steady noise and its far events."""

import numpy as np
from numpy.random import Generator

from audio.synthetic import signals
from audio.synthetic.description import Background


def factory(background: Background, rng: Generator) -> np.ndarray:
    """The background at RMS 1: coloured noise in a room that favours one band, and far events."""
    slope = rng.uniform(*background.slope_db_per_octave)
    audible = signals.FREQUENCY**2 / (signals.FREQUENCY**2 + 60.0**2)  # nothing below the room and the microphone
    tilt = (signals.FREQUENCY / 1000) ** (slope / 6.02) * audible
    room = 1 + rng.uniform(0, 0.7) * signals.bell(rng.uniform(150, 1500), octaves=0.5)
    sound = signals.noise(rng, tilt * room) * (1 + 0.1 * signals.fluctuation(rng, 0.5))
    for _ in range(rng.poisson(background.events_per_clip)):
        event = EVENTS[rng.integers(len(EVENTS))](rng)
        onset, length = rng.uniform(0, signals.SECONDS - 1), rng.uniform(0.5, 5.0)
        heard = np.interp(
            signals.TIME, onset + np.array([0, 0.1, 0.9, 1]) * length, [0.0, 1.0, 1.0, 0.0], left=0, right=0
        )
        sound += signals.gain(rng.uniform(*background.event_db)) * event * heard
    return signals.unit(sound)


def _hammering(rng: Generator) -> np.ndarray:
    blows = np.arange(0, signals.SECONDS, rng.uniform(0.25, 0.9))
    blows = blows + 0.01 * rng.standard_normal(len(blows))
    modes = tuple(rng.uniform(200, 1800, 3))
    return signals.unit(signals.resonate(signals.impulses(blows, 1.0), signals.modes(modes, 15.0)))


def _hum(rng: Generator) -> np.ndarray:
    return signals.harmonics(
        rng, signals.phase(rng, rng.uniform(80, 500), drift=0.002), 6, falloff_db=rng.uniform(2, 6)
    )


def _hiss(rng: Generator) -> np.ndarray:
    return signals.noise(rng, signals.bell(rng.uniform(1500, 4500), octaves=0.5))


def _beeping(rng: Generator) -> np.ndarray:
    tone = np.sin(2 * np.pi * rng.uniform(900, 4000) * signals.TIME)
    return signals.unit(tone * ((signals.TIME * rng.uniform(1, 4)) % 1 < 0.4))


EVENTS = (_hammering, _hum, _hiss, _beeping)
