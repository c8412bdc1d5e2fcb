"""A clip of a simulated machine in its factory, drawn from the description's seed and the clip's own name."""

import hashlib

import numpy as np
from numpy.random import Generator

from audio.synthetic import signals
from audio.synthetic.description import ClipSpec, Machines
from audio.synthetic.factory import factory
from audio.synthetic.machines import MECHANISMS, Fault


def mix(machine: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    """Machine and background, the machine's power over the whole clip `snr_db` above the background's."""
    return signals.unit(machine) * signals.gain(snr_db) + signals.unit(background)


def synthesise(spec: ClipSpec, machines: Machines) -> np.ndarray:
    """The clip's waveform: float32, shape (signals.SAMPLES,), full scale 1, never beyond it.

    It depends on the description's seed and the clip's own name alone, not on which clips were made before.
    """
    digest = hashlib.sha256(f"{machines.seed}/{spec.clip}".encode()).digest()
    rng, around = np.random.default_rng(int.from_bytes(digest[:16], "little")).spawn(2)
    kind = getattr(machines.machines, spec.machine_type)
    fault = Fault(spec.fault, rng.uniform(*kind.faults[spec.fault])) if spec.fault else Fault()
    machine = MECHANISMS[spec.machine_type](kind.ids[spec.machine_id], fault, rng)
    background = factory(machines.background, around)
    snr_db = machines.background.snr_db + machines.background.snr_spread_db * around.uniform(-1, 1)
    sound = mix(machine, background, snr_db)
    return np.clip(signals.unit(sound) * signals.gain(_level_dbfs(spec, machines, around)), -1, 1).astype(np.float32)


def _level_dbfs(spec: ClipSpec, machines: Machines, rng: Generator) -> float:
    """RMS level: clip numbers step evenly through the spread, normals and anomalies alike.

    Independent draws would leave chance differences of level between the few clips of an id.
    """
    golden_ratio = 0.6180339887
    place = (int(spec.clip[-8:]) * golden_ratio + rng.uniform(0, 0.1)) % 1  # in [0, 1), evenly for any count
    return machines.recording.level_dbfs + machines.recording.level_spread_db * (2 * place - 1)
