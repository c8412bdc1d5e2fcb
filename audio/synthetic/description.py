"""The description of simulated machines, checked: which there are, how they sound, what may be wrong with them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal, TypeVar

from pydantic import AfterValidator, Field, ValidationError, model_validator

from audio.manifest import clip_name
from audio.synthetic.signals import SAMPLE_RATE, SECONDS
from storage.files import read_yaml
from storage.settings import Group, ascending, mistake

Split = Literal["train", "calibration", "test"]
Condition = Literal["normal", "anomaly"]
MOST_CLIPS = 1_000_000  # of a corpus: 2,800 hours


Number = Annotated[float, Field(allow_inf_nan=False)]
Decibels = Annotated[float, Field(ge=-60, le=60)]
Spread = Annotated[float, Field(ge=0, le=20)]
Count = Annotated[int, Field(ge=1, le=1000, strict=True)]
ClipCount = Annotated[int, Field(ge=0, le=100_000, strict=True)]
Seconds = Annotated[float, Field(ge=0.01, le=SECONDS)]
Hertz = Annotated[float, Field(gt=0, lt=SAMPLE_RATE / 2)]
Rate = Annotated[float, Field(ge=0, le=1000)]
Modes = Annotated[tuple[Hertz, ...], Field(min_length=1, max_length=100)]
Range = Annotated[tuple[Number, Number], AfterValidator(ascending)]
Severity = Annotated[
    tuple[Annotated[float, Field(gt=0, le=1)], Annotated[float, Field(gt=0, le=1)]], AfterValidator(ascending)
]


class FanDesign(Group):
    """A rotor of `blades` blades in a housing with `resonances_hz`; `turbulence_db` is re the blade-pass tones."""

    speed_hz: Hertz
    blades: Count
    harmonics: Count
    falloff_db: Decibels
    turbulence_hz: Hertz
    turbulence_db: Decibels
    resonances_hz: Modes


class PumpDesign(Group):
    """A rotor of `vanes` vanes in a fluid; `flow_db` is re the pulsation of the vanes."""

    speed_hz: Hertz
    vanes: Count
    harmonics: Count
    falloff_db: Decibels
    flow_hz: Hertz
    flow_db: Decibels
    cavitation_per_s: Rate
    resonances_hz: Modes


class SliderDesign(Group):
    """A carriage that strokes to and fro; `whine_db` (motor) and `stop_db` (end stops) are re the friction."""

    stroke_s: Seconds
    pause_s: Seconds
    friction_hz: Hertz
    whine_hz: Hertz
    whine_db: Decibels
    stop_db: Decibels
    resonances_hz: Modes


class ValveDesign(Group):
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


class ToyCarDesign(Group):
    """A motor of `speed_hz`, whose pinion of `teeth` teeth drives an axle `gear_ratio` times slower."""

    speed_hz: Hertz
    gear_ratio: Annotated[float, Field(ge=1, le=1000)]
    teeth: Count
    harmonics: Count
    falloff_db: Decibels
    run_up_s: Seconds
    rolling_hz: Hertz
    rolling_db: Decibels
    resonances_hz: Modes


class ToyConveyorDesign(Group):
    """A belt that comes round `belt_hz` times a second over rollers and pulleys that turn with `roller_hz`."""

    motor_hz: Hertz
    harmonics: Count
    falloff_db: Decibels
    roller_hz: Hertz
    belt_hz: Hertz
    belt_noise_hz: Hertz
    belt_noise_db: Decibels
    resonances_hz: Modes


Design = TypeVar("Design", bound=Group)
FaultName = TypeVar("FaultName", bound=str)
Ids = Annotated[dict[Annotated[str, Field(pattern=r"^id_\d\d$")], Design], Field(min_length=1)]
Faults = Annotated[dict[FaultName, Severity], Field(min_length=1)]  # and the range that their severity is drawn from


class FanType(Group):
    """The fans by id ("id_00"), and their faults; the other types alike."""

    ids: Ids[FanDesign]
    faults: Faults[Literal["unbalance", "clogging", "damaged_blade", "voltage_drop"]]


class PumpType(Group):
    ids: Ids[PumpDesign]
    faults: Faults[Literal["leakage", "clogging", "contamination", "worn_bearing"]]


class SliderType(Group):
    ids: Ids[SliderDesign]
    faults: Faults[Literal["rail_damage", "lack_of_grease", "loose_belt"]]


class ValveType(Group):
    ids: Ids[ValveDesign]
    faults: Faults[Literal["contamination", "leakage", "weak_spring", "sticking"]]


class ToyCarType(Group):
    ids: Ids[ToyCarDesign]
    faults: Faults[Literal["bent_shaft", "damaged_gear", "tangled_wheel", "over_voltage"]]


class ToyConveyorType(Group):
    ids: Ids[ToyConveyorDesign]
    faults: Faults[Literal["slack_belt", "excess_tension", "damaged_pulley", "foreign_object"]]


class Types(Group):
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


class Clips(Group):
    """Number of clips per machine id."""

    train_normal: Annotated[ClipCount, Field(ge=1)]
    calibration_normal: ClipCount = 0
    test_normal: ClipCount
    test_anomaly: ClipCount


class RecordingLevel(Group):
    """RMS level of the clips: evenly spread within `level_spread_db` of `level_dbfs`."""

    level_dbfs: Annotated[float, Field(ge=-60, le=-30)]
    level_spread_db: Annotated[float, Field(ge=0, le=6)]


class Background(Group):
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
    split: Split
    condition: Condition
    fault: str | None  # of an anomaly
    subset: str = "dev"


class Machines(Group):
    """A corpus of simulated machines."""

    seed: Annotated[int, Field(ge=0, lt=2**32, strict=True)]
    clips_per_id: Annotated[Clips, Field(alias="clips")]
    recording: RecordingLevel
    background: Background
    machines: Types

    @model_validator(mode="after")
    def _not_too_many_clips(self) -> "Machines":
        each = sum(self.clips_per_id.model_dump().values())
        total = each * sum(len(described.ids) for _, described in self.machines if described)
        if total > MOST_CLIPS:
            raise ValueError(f"{total} clips in all, at most {MOST_CLIPS} are allowed: lower those of `clips`")
        return self

    def clips(self) -> Iterator[ClipSpec]:
        """All clips, by type and id: train normals, calibration normals, test normals, test anomalies."""
        count = self.clips_per_id
        groups: tuple[tuple[Split, Condition, int], ...] = (
            ("train", "normal", count.train_normal),
            ("calibration", "normal", count.calibration_normal),
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
                            clip=clip_name(machine_type, split, condition, machine_id, number),
                            machine_type=machine_type,
                            machine_id=machine_id,
                            split=split,
                            condition=condition,
                            fault=faults[number % len(faults)] if condition == "anomaly" else None,
                        )


def read_description(path: Path) -> Machines:
    """The checked description. Raises ValueError, one line, naming each wrong key, its value and what is allowed."""
    try:
        return Machines.model_validate(read_yaml(path))
    except ValidationError as error:
        named = ((".".join(map(str, one["loc"])) or "the whole file", one) for one in error.errors())
        raise ValueError("; ".join(mistake(path, key, one, "a key of a description") for key, one in named)) from None
