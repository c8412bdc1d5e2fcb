"""Simulated machines: six types by their mechanism, their faults, and the factory around them.

A description (`corpora/synthetic.yaml`) says which machines there are; a clip is drawn from its seed and the clip's own
name, never from the order of drawing. Signals are float32 arrays of shape (SAMPLES,).
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal, TypeVar

import numpy as np
import yaml
from numpy.random import Generator
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator
from scipy.fft import irfft, rfft

SAMPLE_RATE = 16000  # Hz
SECONDS = 10
SAMPLES = SAMPLE_RATE * SECONDS

TIME = np.arange(SAMPLES) / SAMPLE_RATE  # s
FREQUENCY = np.fft.rfftfreq(SAMPLES, 1 / SAMPLE_RATE).astype(np.float32)  # Hz
FREQUENCY[0] = FREQUENCY[1] / 2  # so that logarithms and ratios of it exist
OCTAVES = np.log2(FREQUENCY)  # above 1 Hz


# ---------------------------------------------------------------------------------------------- the description


def _ascending(pair: tuple[float, float]) -> tuple[float, float]:
    if pair[0] > pair[1]:
        raise ValueError("the first value must not be above the second")
    return pair


Number = Annotated[float, Field(allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-60, le=60)]
Spread = Annotated[float, Field(ge=0, le=20)]
Count = Annotated[int, Field(ge=1, strict=True)]
Seconds = Annotated[float, Field(gt=0, le=SECONDS)]
Hertz = Annotated[float, Field(gt=0, lt=SAMPLE_RATE / 2)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Modes = Annotated[tuple[Hertz, ...], Field(min_length=1)]
Range = Annotated[tuple[Number, Number], AfterValidator(_ascending)]
Severity = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(_ascending)
]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class FanDesign(_Strict):
    """A rotor of `blades` blades in a housing with `resonances_hz`; `turbulence_db` is re the blade-pass tones."""

    speed_hz: Hertz
    blades: Count
    harmonics: Count
    falloff_db: Decibels
    turbulence_hz: Hertz
    turbulence_db: Decibels
    resonances_hz: Modes


class PumpDesign(_Strict):
    """A rotor of `vanes` vanes in a fluid; `flow_db` is re the pulsation of the vanes."""

    speed_hz: Hertz
    vanes: Count
    harmonics: Count
    falloff_db: Decibels
    flow_hz: Hertz
    flow_db: Decibels
    cavitation_per_s: Rate
    resonances_hz: Modes


class SliderDesign(_Strict):
    """A carriage that strokes to and fro; `whine_db` (motor) and `stop_db` (end stops) are re the friction."""

    stroke_s: Seconds
    pause_s: Seconds
    friction_hz: Hertz
    whine_hz: Hertz
    whine_db: Decibels
    stop_db: Decibels
    resonances_hz: Modes


class ValveDesign(_Strict):
    """A solenoid that opens every `period_s` for `open_s`.

    `closing_db` is re the opening click, `puff_db` (air let through) too; `seat_hz` is the thud of the body.
    """

    period_s: Seconds
    open_s: Seconds
    closing_db: Decibels
    puff_db: Decibels
    click_hz: Modes
    seat_hz: Hertz

    @model_validator(mode="after")
    def _closes_before_it_opens(self) -> "ValveDesign":
        if self.open_s >= self.period_s:
            raise ValueError(f"open_s {self.open_s} must be below period_s {self.period_s}")
        return self


class ToyCarDesign(_Strict):
    """A motor of `speed_hz`, whose pinion of `teeth` teeth drives an axle `gear_ratio` times slower."""

    speed_hz: Hertz
    gear_ratio: Annotated[float, Field(ge=1)]
    teeth: Count
    harmonics: Count
    falloff_db: Decibels
    run_up_s: Seconds
    rolling_hz: Hertz
    rolling_db: Decibels
    resonances_hz: Modes


class ToyConveyorDesign(_Strict):
    """A belt that comes round `belt_hz` times a second over rollers and pulleys that turn with `roller_hz`."""

    motor_hz: Hertz
    harmonics: Count
    falloff_db: Decibels
    roller_hz: Hertz
    belt_hz: Hertz
    belt_noise_hz: Hertz
    belt_noise_db: Decibels
    resonances_hz: Modes


Design = TypeVar("Design", bound=_Strict)
FaultName = TypeVar("FaultName", bound=str)
Ids = Annotated[dict[Annotated[str, Field(pattern=r"^id_\d\d$")], Design], Field(min_length=1)]
Faults = Annotated[dict[FaultName, Severity], Field(min_length=1)]  # and the range that their severity is drawn from


class FanType(_Strict):
    """The fans by id ("id_00"), and their faults; the other types alike."""

    ids: Ids[FanDesign]
    faults: Faults[Literal["unbalance", "clogging", "damaged_blade", "voltage_drop"]]


class PumpType(_Strict):
    ids: Ids[PumpDesign]
    faults: Faults[Literal["leakage", "clogging", "contamination", "worn_bearing"]]


class SliderType(_Strict):
    ids: Ids[SliderDesign]
    faults: Faults[Literal["rail_damage", "lack_of_grease", "loose_belt"]]


class ValveType(_Strict):
    ids: Ids[ValveDesign]
    faults: Faults[Literal["contamination", "leakage", "weak_spring", "sticking"]]


class ToyCarType(_Strict):
    ids: Ids[ToyCarDesign]
    faults: Faults[Literal["bent_shaft", "damaged_gear", "tangled_wheel", "over_voltage"]]


class ToyConveyorType(_Strict):
    ids: Ids[ToyConveyorDesign]
    faults: Faults[Literal["slack_belt", "excess_tension", "damaged_pulley", "foreign_object"]]


class Types(_Strict):
    """The machine types of a corpus; a type that is left out has no clips."""

    fan: FanType | None = None
    pump: PumpType | None = None
    slider: SliderType | None = None
    valve: ValveType | None = None
    ToyCar: ToyCarType | None = None
    ToyConveyor: ToyConveyorType | None = None

    @model_validator(mode="after")
    def _at_least_one(self) -> "Types":
        if not any(kind for _, kind in self):
            raise ValueError(f"no machine type is described: at least one of {', '.join(type(self).model_fields)}")
        return self


class Clips(_Strict):
    """Number of clips per machine id."""

    train_normal: Count
    test_normal: Count
    test_anomaly: Count


class Recording(_Strict):
    """RMS level of the clips: evenly spread within `level_spread_db` of `level_dbfs`."""

    level_dbfs: Annotated[float, Field(ge=-60, le=-30)]
    level_spread_db: Annotated[float, Field(ge=0, le=6)]


class Background(_Strict):
    """The factory: its steady noise, its far events, and how much louder or softer the machine is."""

    snr_db: Decibels
    snr_spread_db: Spread
    slope_db_per_octave: Range
    events_per_clip: Annotated[float, Field(ge=0, le=100)]
    event_db: Range


@dataclass(frozen=True)
class ClipSpec:
    """One clip to synthesise: a manifest row without the length and the checksum, and the fault of an anomaly."""

    clip: str  # path without suffix, "fan/test/anomaly_id_00_00000003"
    machine_type: str
    machine_id: str  # "id_00"
    split: Literal["train", "test"]
    condition: Literal["normal", "anomaly"]
    fault: str | None  # of an anomaly
    subset: str = "dev"


class Machines(_Strict):
    """A corpus of simulated machines."""

    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    clips_per_id: Annotated[Clips, Field(alias="clips")]
    recording: Recording
    background: Background
    machines: Types

    def clips(self) -> Iterator[ClipSpec]:
        """All clips, by type and id: train normals, test normals, test anomalies."""
        count = self.clips_per_id
        groups = (
            ("train", "normal", count.train_normal),
            ("test", "normal", count.test_normal),
            ("test", "anomaly", count.test_anomaly),
        )
        for machine_type, kind in self.machines:
            if kind is None:
                continue
            faults = list(kind.faults)
            for machine_id in kind.ids:
                for split, condition, clips in groups:
                    for number in range(clips):
                        yield ClipSpec(
                            clip=f"{machine_type}/{split}/{condition}_{machine_id}_{number:08d}",
                            machine_type=machine_type,
                            machine_id=machine_id,
                            split=split,
                            condition=condition,
                            fault=faults[number % len(faults)] if condition == "anomaly" else None,
                        )


def read_description(path: Path) -> Machines:
    """The checked description. Raises ValueError, one line, naming each wrong key, its value and what is allowed."""
    try:
        return Machines.model_validate(yaml.safe_load(Path(path).read_text(encoding="utf-8")))
    except yaml.YAMLError as error:
        raise ValueError(f"{path} is not YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        raise ValueError("; ".join(_mistake(path, one) for one in error.errors())) from None


def _mistake(path: Path, error: dict) -> str:
    key = ".".join(str(part) for part in error["loc"]) or "the whole file"
    if error["type"] == "missing":
        return f"{path}: {key} is missing"
    if error["type"] == "extra_forbidden":
        return f"{path}: {key} is not a key of a description"
    message = error["msg"].removeprefix("Value error, ")
    if isinstance(error["input"], dict):  # a rule between several keys, whose message names them
        return f"{path}: {key}: {message}"
    return f"{path}: {key} is {error['input']!r}: {message[0].lower()}{message[1:]}"


# ------------------------------------------------------------------------------------------------ shared helpers


def _gain(decibels: float) -> float:
    return 10 ** (decibels / 20)


def _rms(signal: np.ndarray) -> float:
    return float(np.sqrt(np.mean(np.square(signal))))  # np.dot would sum as the machine's BLAS does, each in its order


def _unit(signal: np.ndarray) -> np.ndarray:
    """The signal at RMS 1 (silence stays silent)."""
    return np.asarray(signal, np.float32) / np.float32(_rms(signal) or 1.0)


def _fluctuation(rng: Generator, rate_hz: float) -> np.ndarray:
    """A slow random curve about 0, of about unit size, that changes `rate_hz` times a second."""
    knots = np.linspace(0, SECONDS, max(2, round(rate_hz * SECONDS) + 1))
    return np.interp(TIME, knots, rng.standard_normal(len(knots))).astype(np.float32)


def _phase(rng: Generator, speed_hz: float | np.ndarray, drift: float) -> np.ndarray:
    """Angle (rad) of a shaft that turns `speed_hz` times a second, give or take a relative `drift`."""
    speed = speed_hz * (1 + drift * _fluctuation(rng, 1.0))
    return rng.uniform(0, 2 * np.pi) + 2 * np.pi / SAMPLE_RATE * np.cumsum(speed, dtype=np.float64)


def _harmonics(rng: Generator, phase: np.ndarray, count: int, falloff_db: float) -> np.ndarray:
    """`count` harmonics of a turning phase, each `falloff_db` below the one before, at RMS 1.

    Those that would pass half the sample rate are left out.
    """
    count = min(count, int(np.pi / np.diff(phase[::100]).max() * 100))
    angle = (phase % (2 * np.pi)).astype(np.float32)
    turn = np.empty(SAMPLES, np.complex64)
    turn.real, turn.imag = np.cos(angle), np.sin(angle)
    amplitudes = _gain(-falloff_db) ** np.arange(count) * np.exp(1j * rng.uniform(0, 2 * np.pi, count))
    total = np.zeros_like(turn)
    for amplitude in amplitudes[::-1].astype(np.complex64):  # Horner: sum of amplitude_k turn^k
        total += amplitude
        total *= turn
    return _unit(total.real)


def _bell(centre_hz: float, octaves: float) -> np.ndarray:
    """A band in the spectrum: a bell curve over log-frequency."""
    return np.exp(-0.5 * ((OCTAVES - np.float32(np.log2(centre_hz))) / np.float32(octaves)) ** 2)


def _noise(rng: Generator, response: np.ndarray) -> np.ndarray:
    """Gaussian noise with the amplitude spectrum `response`, at RMS 1."""
    spectrum = rng.standard_normal(2 * len(FREQUENCY), dtype=np.float32).view(np.complex64)
    return _unit(irfft(spectrum * response, SAMPLES))


@lru_cache(maxsize=32)
def _modes(frequencies_hz: tuple[float, ...], quality: float) -> np.ndarray:
    """Complex response of parallel resonators, 1 at each resonance."""
    ratio = FREQUENCY / np.array(frequencies_hz, np.float32)[:, None]  # (modes, frequencies)
    return (1 / (1 + np.complex64(1j * quality) * (ratio - 1 / ratio))).sum(axis=0)


def _resonate(signal: np.ndarray, response: np.ndarray) -> np.ndarray:
    """The signal through a filter that is given by its response."""
    return irfft(rfft(signal) * response, SAMPLES)


def _housing(signal: np.ndarray, resonances_hz: tuple[float, ...]) -> np.ndarray:
    """The signal as the machine's housing radiates it, its resonances 8 dB above the rest."""
    return _resonate(signal, 1 + 1.5 * _modes(resonances_hz, 6.0))


def _ring(impulses: np.ndarray, modes_hz: tuple[float, ...], quality: float) -> np.ndarray:
    """Impulses as the modes of what they strike ring from them."""
    return _resonate(impulses, _modes(modes_hz, quality))


def _impulses(times_s: np.ndarray, strengths: np.ndarray | float) -> np.ndarray:
    """Impulses of the given strengths and times; those beyond the clip are left out."""
    signal = np.zeros(SAMPLES, np.float32)
    index = np.round(np.asarray(times_s) * SAMPLE_RATE).astype(int)
    inside = (index >= 0) & (index < SAMPLES)
    np.add.at(signal, index[inside], np.broadcast_to(strengths, index.shape)[inside])
    return signal


def _random_times(rng: Generator, rate_per_s: float) -> np.ndarray:
    """Times (s) of events that come independently of each other."""
    return rng.uniform(0, SECONDS, rng.poisson(rate_per_s * SECONDS))


def _turns(phase: np.ndarray) -> np.ndarray:
    """Times (s) at which the phase completes a turn."""
    return np.flatnonzero(np.diff(np.floor(phase / (2 * np.pi)))) / SAMPLE_RATE


def _decays(times_s: np.ndarray, decay_s: float) -> np.ndarray:
    """An envelope that jumps to 1 at each time and decays."""
    return _resonate(_impulses(times_s, 1.0), _decay_response(decay_s)).clip(0, 1)


@lru_cache(maxsize=16)
def _decay_response(decay_s: float) -> np.ndarray:
    return (SAMPLE_RATE * decay_s / (1 + 2j * np.pi * FREQUENCY * decay_s)).astype(np.complex64)


# ---------------------------------------------------------------------------------------------------- mechanisms


@dataclass(frozen=True)
class Fault:
    """What is wrong with a machine: nothing, or one fault of a severity in (0, 1]."""

    name: str | None = None
    severity: float = 0.0

    def of(self, name: str) -> float:
        """Severity of the fault `name`, 0 if the machine does not have it."""
        return self.severity if name == self.name else 0.0


def fan(design: FanDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Blade-pass harmonics over turbulence that gusts."""
    load = rng.uniform(-1, 1)
    clogging = fault.of("clogging")
    speed = design.speed_hz * (1 - 0.01 * load) * (1 + 0.06 * clogging) * (1 - 0.2 * fault.of("voltage_drop"))
    turn = _phase(rng, speed, drift=0.003)
    beat = 1 + (0.05 + 0.6 * fault.of("unbalance")) * np.cos(turn)
    blades = _harmonics(rng, design.blades * turn, design.harmonics, design.falloff_db)
    uneven = _harmonics(rng, turn, 4 * design.blades, falloff_db=0.1)
    shaking = _harmonics(rng, turn, design.blades, falloff_db=2.0)
    rotor = (1 - 0.5 * clogging) * blades + (0.05 + 2.0 * fault.of("damaged_blade")) * uneven
    rotor += (0.05 + 3.0 * fault.of("unbalance")) * shaking
    gusts = 1 + (0.1 + 0.3 * clogging) * _fluctuation(rng, 3.0)
    turbulence = _noise(rng, _bell(design.turbulence_hz * (1 - 0.4 * clogging), octaves=1.6)) * gusts
    turbulence *= _gain(design.turbulence_db + 1.5 * load + 3 * clogging)
    return _housing(beat * (rotor + turbulence), design.resonances_hz)


def pump(design: PumpDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Rotation, pulsation of the vanes, flow, and the pops of cavitation bubbles."""
    load = rng.uniform(-1, 1)
    clogging, leakage, bearing = fault.of("clogging"), fault.of("leakage"), fault.of("worn_bearing")
    turn = _phase(rng, design.speed_hz * (1 - 0.01 * load) * (1 - 0.05 * clogging), drift=0.002)
    pulsation = _harmonics(rng, design.vanes * turn, design.harmonics, design.falloff_db) * (1 - 0.5 * leakage)
    rotation = _harmonics(rng, turn, 40, falloff_db=0.5 * (1 - bearing)) * (0.25 + 1.2 * bearing)
    flow = _noise(rng, _bell(design.flow_hz, octaves=1.2)) * _gain(design.flow_db + 1.5 * load)
    bubbles = _random_times(rng, design.cavitation_per_s * (1 + 0.2 * load) * (1 + 5 * clogging))
    pops = _ring(_impulses(bubbles, rng.exponential(15.0, len(bubbles))), (1800.0, 3300.0, 5200.0), 3.0)
    grit = _random_times(rng, 15 * fault.of("contamination"))
    knocks = _ring(_impulses(grit, rng.exponential(60.0, len(grit))), (900.0, 2600.0), 6.0)
    sound = _housing(pulsation + rotation + flow, design.resonances_hz) + pops + knocks
    if leakage:
        sound += 0.6 * leakage * _noise(rng, _bell(4500, octaves=0.5))  # the jet
    return sound


def slider(design: SliderDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Strokes to and fro: friction and motor whine while the carriage moves, a thump at each stop."""
    grease, loose = fault.of("lack_of_grease"), fault.of("loose_belt")
    period = (design.stroke_s + design.pause_s) * rng.uniform(0.95, 1.05)
    starts = np.arange(-rng.uniform(0, 2 * period), SECONDS, period)
    starts = starts + (0.01 + 0.12 * loose) * rng.standard_normal(len(starts)).clip(-2, 2) * period
    strokes = design.stroke_s * (1 + (0.02 + 0.08 * loose) * rng.uniform(-1, 1, len(starts)))
    ends, ramp = starts + strokes, 0.15 * strokes
    corners = np.stack([starts, starts + ramp, ends - ramp, ends], axis=1)  # (strokes, 4) s
    velocity = np.interp(TIME, np.sort(corners.ravel()), np.tile([0.0, 1.0, 1.0, 0.0], len(starts)))
    returning = np.floor((TIME - starts[0]) / period) % 2  # 0 to, 1 fro
    friction = _noise(rng, _bell(design.friction_hz * (1 + 0.5 * grease), octaves=0.8))
    friction *= velocity * (1 - 0.2 * returning) * (1 + (0.15 + 0.5 * grease) * _fluctuation(rng, 12.0))
    whine = _harmonics(rng, _phase(rng, design.whine_hz * velocity, drift=0.003), 3, falloff_db=6.0) * velocity
    thumps = _impulses(ends, rng.uniform(0.7, 1.3, len(ends)))
    thumps += _impulses(ends + 0.06 + 0.05 * loose, loose * rng.uniform(0.5, 1.0, len(ends)))
    dents = _impulses(starts + 0.4 * strokes, 6 * fault.of("rail_damage") * rng.uniform(0.5, 1.0, len(starts)))
    ringing = _ring(thumps, design.resonances_hz, 12.0) + _ring(dents, (2600.0, 5200.0), 12.0)
    body = friction + _gain(design.whine_db) * whine
    if grease:
        squeal = np.sin(_phase(rng, 1.7 * design.friction_hz * (0.9 + 0.1 * velocity), drift=0.01))
        body += 0.6 * grease * squeal * velocity**4
    if loose:
        body += 0.6 * loose * _noise(rng, _bell(300, octaves=0.6)) * velocity  # the belt rattles
    return _housing(body, design.resonances_hz) + 60 * _gain(design.stop_db) * ringing


def valve(design: ValveDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Clicks of a solenoid that opens and closes, a puff of air while it is open, silence between."""
    dirt, spring, stuck = fault.of("contamination"), fault.of("weak_spring"), fault.of("sticking")
    period = design.period_s * rng.uniform(0.97, 1.03)
    opens = np.arange(-rng.uniform(0, period), SECONDS, period)
    opens = opens + (0.003 + 0.1 * stuck) * rng.uniform(0, 1, len(opens)) * period
    opens = opens[rng.uniform(size=len(opens)) >= 0.4 * stuck]
    open_s = design.open_s * rng.uniform(0.97, 1.03) * (1 + 0.4 * spring)
    closes = opens + open_s
    clicks = _impulses(opens, rng.uniform(0.85, 1.15, len(opens)))
    closing = _gain(design.closing_db) * rng.uniform(0.85, 1.15, len(opens))
    clicks += _impulses(closes, closing)
    for bounce in (1, 2, 3):
        clicks += _impulses(closes + 0.04 * bounce, 1.5 * spring * closing * 0.8**bounce)
    metal = _modes(design.click_hz, 20.0) * (1 - 0.6 * dirt * (FREQUENCY > 2000)) + 2 * _modes((design.seat_hz,), 5.0)
    sound = _resonate(clicks, metal.astype(np.complex64))
    air = _noise(rng, _bell(3800, octaves=0.7))
    opened = _decays(opens, 0.05) * _gain(design.puff_db)
    scrape = 0.4 * dirt * _decays(closes - 0.12, 0.05)
    leak = 0.02 * fault.of("leakage")
    sound += 0.2 * air * (opened + scrape + leak)
    if stuck:
        buzz = _harmonics(rng, _phase(rng, 100, drift=0.0), 20, falloff_db=0.5)  # a stuck armature hums with the mains
        sound += 0.015 * stuck * buzz * _decays(opens, design.open_s)
    return sound


def toy_car(design: ToyCarDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """A motor runs up, its gears mesh and whine, its wheels roll; at the end it coasts down."""
    load = rng.uniform(-1, 1)
    tangled, bent = fault.of("tangled_wheel"), fault.of("bent_shaft")
    top = design.speed_hz * (1 - 0.015 * load) * (1 - 0.06 * tangled) * (1 + 0.07 * fault.of("over_voltage"))
    start, stop = rng.uniform(0, 0.8), SECONDS - rng.uniform(0, 0.8)
    run = (1 - np.exp(-(TIME - start).clip(0) / (0.5 * design.run_up_s))) * np.exp(-(TIME - stop).clip(0) / 0.3)
    motor = _phase(rng, top * run, drift=0.006)
    axle = motor / design.gear_ratio
    rub = 1 + (0.05 + 0.7 * bent) * np.cos(axle)
    mesh = _harmonics(rng, design.teeth * motor, design.harmonics, design.falloff_db) * run
    brushes = _harmonics(rng, motor, 12, falloff_db=1.5) * run
    rolling = _noise(rng, _bell(design.rolling_hz, octaves=1.2)) * run**2
    rolling *= _gain(design.rolling_db + 1.5 * load)
    knocks = _turns(axle)
    knocks = _impulses(knocks, 80 * fault.of("damaged_gear") * rng.uniform(0.5, 1.0, len(knocks)))
    body = rub * (mesh + 0.4 * brushes + rolling)
    contact = run * (1 + np.cos(axle)) / 2  # of a wheel, once per turn
    if bent:
        body += 1.5 * bent * contact * _noise(rng, _bell(1800, octaves=0.4))
    if tangled:
        body += 0.6 * tangled * contact * _noise(rng, _bell(3500, octaves=0.7))
    return _housing(body, design.resonances_hz) + _ring(knocks, design.resonances_hz, 4.0)


def toy_conveyor(design: ToyConveyorDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """A motor drives a belt over rollers; the belt's seam ticks when it comes round."""
    load = rng.uniform(-1, 1)
    slack, tension = fault.of("slack_belt"), fault.of("excess_tension")
    pace = (1 - 0.01 * load) * (1 - 0.1 * tension) * (1 + 0.02 * slack * _fluctuation(rng, 4.0))
    motor = _phase(rng, design.motor_hz * pace, drift=0.003)
    roller = motor * design.roller_hz / design.motor_hz
    belt = motor * design.belt_hz / design.motor_hz
    drive = _harmonics(rng, motor, design.harmonics, design.falloff_db)
    rolling = _noise(rng, _bell(design.belt_noise_hz, octaves=1.3)) * (1 + 0.25 * np.cos(roller))
    rolling *= _gain(design.belt_noise_db + 1.5 * load)
    seams, turns = _turns(belt), _turns(roller)
    knocks = _impulses(seams, rng.uniform(15, 25, len(seams)))
    knocks += _impulses(turns, 300 * fault.of("damaged_pulley") * rng.uniform(0.5, 1.0, len(turns)))
    passes = np.concatenate([seams + place for place in (0.1, 0.35, 0.6)])
    jingle = _impulses(passes, 250 * fault.of("foreign_object") * rng.uniform(0.5, 1.0, len(passes)))
    body = drive + rolling
    if tension:
        squeak = np.sin(_phase(rng, 2300 * pace, drift=0.01)) * np.cos(roller / 2).clip(0) ** 8
        body += 2 * tension * squeak
    sound = _housing(body, design.resonances_hz) + _ring(knocks, design.resonances_hz, 12.0)
    if slack:
        flaps = _random_times(rng, 5.0)
        sound += _ring(_impulses(flaps, slack * rng.uniform(400, 800, len(flaps))), (140.0, 310.0), 5.0)
    return sound + _ring(jingle, (3100.0, 4700.0, 6300.0), 40.0)


MECHANISMS: dict[str, Callable[[BaseModel, Fault, Generator], np.ndarray]] = {
    "fan": fan,
    "pump": pump,
    "slider": slider,
    "valve": valve,
    "ToyCar": toy_car,
    "ToyConveyor": toy_conveyor,
}


# --------------------------------------------------------------------------------------------------- the factory


def factory(background: Background, rng: Generator) -> np.ndarray:
    """The background at RMS 1: coloured noise in a room that favours one band, and far events."""
    slope = rng.uniform(*background.slope_db_per_octave)
    audible = FREQUENCY**2 / (FREQUENCY**2 + 60.0**2)  # nothing below the room and the microphone
    tilt = (FREQUENCY / 1000) ** (slope / 6.02) * audible
    room = 1 + rng.uniform(0, 0.7) * _bell(rng.uniform(150, 1500), octaves=0.5)
    sound = _noise(rng, tilt * room) * (1 + 0.1 * _fluctuation(rng, 0.5))
    for _ in range(rng.poisson(background.events_per_clip)):
        event = EVENTS[rng.integers(len(EVENTS))](rng)
        onset, length = rng.uniform(0, SECONDS - 1), rng.uniform(0.5, 5.0)
        heard = np.interp(TIME, onset + np.array([0, 0.1, 0.9, 1]) * length, [0.0, 1.0, 1.0, 0.0], left=0, right=0)
        sound += _gain(rng.uniform(*background.event_db)) * event * heard
    return _unit(sound)


def _hammering(rng: Generator) -> np.ndarray:
    blows = np.arange(0, SECONDS, rng.uniform(0.25, 0.9))
    blows = blows + 0.01 * rng.standard_normal(len(blows))
    modes = tuple(rng.uniform(200, 1800, 3))
    return _unit(_resonate(_impulses(blows, 1.0), _modes(modes, 15.0)))


def _hum(rng: Generator) -> np.ndarray:
    return _harmonics(rng, _phase(rng, rng.uniform(80, 500), drift=0.002), 6, falloff_db=rng.uniform(2, 6))


def _hiss(rng: Generator) -> np.ndarray:
    return _noise(rng, _bell(rng.uniform(1500, 4500), octaves=0.5))


def _beeping(rng: Generator) -> np.ndarray:
    tone = np.sin(2 * np.pi * rng.uniform(900, 4000) * TIME)
    return _unit(tone * ((TIME * rng.uniform(1, 4)) % 1 < 0.4))


EVENTS = (_hammering, _hum, _hiss, _beeping)


# -------------------------------------------------------------------------------------------------------- clips


def mix(machine: np.ndarray, background: np.ndarray, snr_db: float) -> np.ndarray:
    """Machine and background, the machine's power over the whole clip `snr_db` above the background's."""
    return _unit(machine) * _gain(snr_db) + _unit(background)


def synthesise(spec: ClipSpec, machines: Machines) -> np.ndarray:
    """The clip's waveform: float32, shape (SAMPLES,), full scale 1, never beyond it.

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
    return np.clip(_unit(sound) * _gain(_level_dbfs(spec, machines, around)), -1, 1).astype(np.float32)


def _level_dbfs(spec: ClipSpec, machines: Machines, rng: Generator) -> float:
    """RMS level: clip numbers step evenly through the spread, normals and anomalies alike.

    Independent draws would leave chance differences of level between the few clips of an id.
    """
    golden_ratio = 0.6180339887
    place = (int(spec.clip[-8:]) * golden_ratio + rng.uniform(0, 0.1)) % 1  # in [0, 1), evenly for any count
    return machines.recording.level_dbfs + machines.recording.level_spread_db * (2 * place - 1)
