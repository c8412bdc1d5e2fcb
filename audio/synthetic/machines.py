"""The mechanisms: how each type of machine sounds, healthy and with each of its faults."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.random import Generator

from audio.synthetic import signals
from audio.synthetic.description import (
    FanDesign,
    PumpDesign,
    SliderDesign,
    ToyCarDesign,
    ToyConveyorDesign,
    ValveDesign,
)


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
    turn = signals.phase(rng, speed, drift=0.003)
    beat = 1 + (0.05 + 0.6 * fault.of("unbalance")) * np.cos(turn)
    blades = signals.harmonics(rng, design.blades * turn, design.harmonics, design.falloff_db)
    uneven = signals.harmonics(rng, turn, 4 * design.blades, falloff_db=0.1)
    shaking = signals.harmonics(rng, turn, design.blades, falloff_db=2.0)
    rotor = (1 - 0.5 * clogging) * blades + (0.05 + 2.0 * fault.of("damaged_blade")) * uneven
    rotor += (0.05 + 3.0 * fault.of("unbalance")) * shaking
    gusts = 1 + (0.1 + 0.3 * clogging) * signals.fluctuation(rng, 3.0)
    turbulence = signals.noise(rng, signals.bell(design.turbulence_hz * (1 - 0.4 * clogging), octaves=1.6)) * gusts
    turbulence *= signals.gain(design.turbulence_db + 1.5 * load + 3 * clogging)
    return signals.housing(beat * (rotor + turbulence), design.resonances_hz)


def pump(design: PumpDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Rotation, pulsation of the vanes, flow, and the pops of cavitation bubbles."""
    load = rng.uniform(-1, 1)
    clogging, leakage, bearing = fault.of("clogging"), fault.of("leakage"), fault.of("worn_bearing")
    turn = signals.phase(rng, design.speed_hz * (1 - 0.01 * load) * (1 - 0.05 * clogging), drift=0.002)
    pulsation = signals.harmonics(rng, design.vanes * turn, design.harmonics, design.falloff_db) * (1 - 0.5 * leakage)
    rotation = signals.harmonics(rng, turn, 40, falloff_db=0.5 * (1 - bearing)) * (0.25 + 1.2 * bearing)
    flow = signals.noise(rng, signals.bell(design.flow_hz, octaves=1.2)) * signals.gain(design.flow_db + 1.5 * load)
    bubbles = signals.random_times(rng, design.cavitation_per_s * (1 + 0.2 * load) * (1 + 5 * clogging))
    pops = signals.ring(signals.impulses(bubbles, rng.exponential(15.0, len(bubbles))), (1800.0, 3300.0, 5200.0), 3.0)
    grit = signals.random_times(rng, 15 * fault.of("contamination"))
    knocks = signals.ring(signals.impulses(grit, rng.exponential(60.0, len(grit))), (900.0, 2600.0), 6.0)
    sound = signals.housing(pulsation + rotation + flow, design.resonances_hz) + pops + knocks
    if leakage:
        sound += 0.6 * leakage * signals.noise(rng, signals.bell(4500, octaves=0.5))  # the jet
    return sound


def slider(design: SliderDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Strokes to and fro: friction and motor whine while the carriage moves, a thump at each stop."""
    grease, loose = fault.of("lack_of_grease"), fault.of("loose_belt")
    period = (design.stroke_s + design.pause_s) * rng.uniform(0.95, 1.05)
    starts = np.arange(-rng.uniform(0, 2 * period), signals.SECONDS, period)
    starts = starts + (0.01 + 0.12 * loose) * rng.standard_normal(len(starts)).clip(-2, 2) * period
    strokes = design.stroke_s * (1 + (0.02 + 0.08 * loose) * rng.uniform(-1, 1, len(starts)))
    ends, ramp = starts + strokes, 0.15 * strokes
    corners = np.stack([starts, starts + ramp, ends - ramp, ends], axis=1)  # (strokes, 4) s
    velocity = np.interp(signals.TIME, np.sort(corners.ravel()), np.tile([0.0, 1.0, 1.0, 0.0], len(starts)))
    returning = np.floor((signals.TIME - starts[0]) / period) % 2  # 0 to, 1 fro
    friction = signals.noise(rng, signals.bell(design.friction_hz * (1 + 0.5 * grease), octaves=0.8))
    friction *= velocity * (1 - 0.2 * returning) * (1 + (0.15 + 0.5 * grease) * signals.fluctuation(rng, 12.0))
    whine = (
        signals.harmonics(rng, signals.phase(rng, design.whine_hz * velocity, drift=0.003), 3, falloff_db=6.0)
        * velocity
    )
    thumps = signals.impulses(ends, rng.uniform(0.7, 1.3, len(ends)))
    thumps += signals.impulses(ends + 0.06 + 0.05 * loose, loose * rng.uniform(0.5, 1.0, len(ends)))
    dents = signals.impulses(starts + 0.4 * strokes, 6 * fault.of("rail_damage") * rng.uniform(0.5, 1.0, len(starts)))
    ringing = signals.ring(thumps, design.resonances_hz, 12.0) + signals.ring(dents, (2600.0, 5200.0), 12.0)
    body = friction + signals.gain(design.whine_db) * whine
    if grease:
        squeal = np.sin(signals.phase(rng, 1.7 * design.friction_hz * (0.9 + 0.1 * velocity), drift=0.01))
        body += 0.6 * grease * squeal * velocity**4
    if loose:
        body += 0.6 * loose * signals.noise(rng, signals.bell(300, octaves=0.6)) * velocity  # the belt rattles
    return signals.housing(body, design.resonances_hz) + 60 * signals.gain(design.stop_db) * ringing


def valve(design: ValveDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """Clicks of a solenoid that opens and closes, a puff of air while it is open, silence between."""
    dirt, spring, stuck = fault.of("contamination"), fault.of("weak_spring"), fault.of("sticking")
    period = design.period_s * rng.uniform(0.97, 1.03)
    opens = np.arange(-rng.uniform(0, period), signals.SECONDS, period)
    opens = opens + (0.003 + 0.1 * stuck) * rng.uniform(0, 1, len(opens)) * period
    opens = opens[rng.uniform(size=len(opens)) >= 0.4 * stuck]
    open_s = design.open_s * rng.uniform(0.97, 1.03) * (1 + 0.4 * spring)
    closes = opens + open_s
    clicks = signals.impulses(opens, rng.uniform(0.85, 1.15, len(opens)))
    closing = signals.gain(design.closing_db) * rng.uniform(0.85, 1.15, len(opens))
    clicks += signals.impulses(closes, closing)
    for bounce in (1, 2, 3):
        clicks += signals.impulses(closes + 0.04 * bounce, 1.5 * spring * closing * 0.8**bounce)
    metal = signals.modes(design.click_hz, 20.0) * (1 - 0.6 * dirt * (signals.FREQUENCY > 2000)) + 2 * signals.modes(
        (design.seat_hz,), 5.0
    )
    sound = signals.resonate(clicks, metal.astype(np.complex64))
    air = signals.noise(rng, signals.bell(3800, octaves=0.7))
    opened = signals.decays(opens, 0.05) * signals.gain(design.puff_db)
    scrape = 0.4 * dirt * signals.decays(closes - 0.12, 0.05)
    leak = 0.02 * fault.of("leakage")
    sound += 0.2 * air * (opened + scrape + leak)
    if stuck:
        buzz = signals.harmonics(
            rng, signals.phase(rng, 100, drift=0.0), 20, falloff_db=0.5
        )  # a stuck armature hums with the mains
        sound += 0.015 * stuck * buzz * signals.decays(opens, design.open_s)
    return sound


def toy_car(design: ToyCarDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """A motor runs up, its gears mesh and whine, its wheels roll; at the end it coasts down."""
    load = rng.uniform(-1, 1)
    tangled, bent = fault.of("tangled_wheel"), fault.of("bent_shaft")
    top = design.speed_hz * (1 - 0.015 * load) * (1 - 0.06 * tangled) * (1 + 0.07 * fault.of("over_voltage"))
    start, stop = rng.uniform(0, 0.8), signals.SECONDS - rng.uniform(0, 0.8)
    run = (1 - np.exp(-(signals.TIME - start).clip(0) / (0.5 * design.run_up_s))) * np.exp(
        -(signals.TIME - stop).clip(0) / 0.3
    )
    motor = signals.phase(rng, top * run, drift=0.006)
    axle = motor / design.gear_ratio
    rub = 1 + (0.05 + 0.7 * bent) * np.cos(axle)
    mesh = signals.harmonics(rng, design.teeth * motor, design.harmonics, design.falloff_db) * run
    brushes = signals.harmonics(rng, motor, 12, falloff_db=1.5) * run
    rolling = signals.noise(rng, signals.bell(design.rolling_hz, octaves=1.2)) * run**2
    rolling *= signals.gain(design.rolling_db + 1.5 * load)
    knocks = signals.turns(axle)
    knocks = signals.impulses(knocks, 80 * fault.of("damaged_gear") * rng.uniform(0.5, 1.0, len(knocks)))
    body = rub * (mesh + 0.4 * brushes + rolling)
    contact = run * (1 + np.cos(axle)) / 2  # of a wheel, once per turn
    if bent:
        body += 1.5 * bent * contact * signals.noise(rng, signals.bell(1800, octaves=0.4))
    if tangled:
        body += 0.6 * tangled * contact * signals.noise(rng, signals.bell(3500, octaves=0.7))
    return signals.housing(body, design.resonances_hz) + signals.ring(knocks, design.resonances_hz, 4.0)


def toy_conveyor(design: ToyConveyorDesign, fault: Fault, rng: Generator) -> np.ndarray:
    """A motor drives a belt over rollers; the belt's seam ticks when it comes round."""
    load = rng.uniform(-1, 1)
    slack, tension = fault.of("slack_belt"), fault.of("excess_tension")
    pace = (1 - 0.01 * load) * (1 - 0.1 * tension) * (1 + 0.02 * slack * signals.fluctuation(rng, 4.0))
    motor = signals.phase(rng, design.motor_hz * pace, drift=0.003)
    roller = motor * design.roller_hz / design.motor_hz
    belt = motor * design.belt_hz / design.motor_hz
    drive = signals.harmonics(rng, motor, design.harmonics, design.falloff_db)
    rolling = signals.noise(rng, signals.bell(design.belt_noise_hz, octaves=1.3)) * (1 + 0.25 * np.cos(roller))
    rolling *= signals.gain(design.belt_noise_db + 1.5 * load)
    seams, turns = signals.turns(belt), signals.turns(roller)
    knocks = signals.impulses(seams, rng.uniform(15, 25, len(seams)))
    knocks += signals.impulses(turns, 300 * fault.of("damaged_pulley") * rng.uniform(0.5, 1.0, len(turns)))
    passes = np.concatenate([seams + place for place in (0.1, 0.35, 0.6)])
    jingle = signals.impulses(passes, 250 * fault.of("foreign_object") * rng.uniform(0.5, 1.0, len(passes)))
    body = drive + rolling
    if tension:
        squeak = np.sin(signals.phase(rng, 2300 * pace, drift=0.01)) * np.cos(roller / 2).clip(0) ** 8
        body += 2 * tension * squeak
    sound = signals.housing(body, design.resonances_hz) + signals.ring(knocks, design.resonances_hz, 12.0)
    if slack:
        flaps = signals.random_times(rng, 5.0)
        sound += signals.ring(signals.impulses(flaps, slack * rng.uniform(400, 800, len(flaps))), (140.0, 310.0), 5.0)
    return sound + signals.ring(jingle, (3100.0, 4700.0, 6300.0), 40.0)


MECHANISMS: dict[str, Callable[[Any, Fault, Generator], np.ndarray]] = {
    "fan": fan,
    "pump": pump,
    "slider": slider,
    "valve": valve,
    "ToyCar": toy_car,
    "ToyConveyor": toy_conveyor,
}
