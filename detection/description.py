"""What a detector knows beside its networks: settings, machines, and the healthy recordings that it compares with.

Each value is checked whole, wherever it comes from: a folder (`detection.folder`) or a graph (`detection.onnx_file`).
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from detection.familiarity import Known
from detection.fitting import Arrays
from detection.names import NAMES

FORMAT = 2
ROLES = ("training", "calibration")

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\x00-\x1f]+$")]


class Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Settings(Checked):
    """What scoring needs beside the networks; the names are those of the params group `score`."""

    backend: Literal[NAMES] = "combined"  # type: ignore[valid-type]  # the headline, which decides when none is named
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 1
    components: Annotated[int, Field(ge=1, le=100)] = 2
    window_hop: Annotated[int, Field(ge=1, le=1_000_000)] = 160  # frames between the windows of a longer recording
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of healthy recordings that may raise an alarm
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Machine(Checked):
    """A machine that can be judged."""

    type: Name
    id: Name
    trained: bool = True  # the networks have heard it; False: it was enrolled


class Entry(Checked):
    """What was taken into a detector after its training, and when."""

    when: str  # ISO 8601
    what: Literal["calibrated", "enrolled"]
    machine: str  # "fan/id_00"
    recordings: dict[str, str]  # file: SHA-256 of its samples


class Description(Checked):
    """detector.json."""

    format: Literal[FORMAT] = FORMAT  # type: ignore[valid-type]
    settings: Settings
    machines: Annotated[list[Machine], Field(min_length=1)]
    corpus: str = ""  # what it was trained on
    simulated: bool = False  # on simulated machines: it can judge no real one
    created: str = ""  # ISO 8601; filled when it is loaded
    journal: list[Entry] = []

    @property
    def alone(self) -> bool:
        """Whether the networks heard a single machine, so that none could be told from another: no fine-tuning."""
        return sum(machine.trained for machine in self.machines) == 1

    @model_validator(mode="after")
    def _machines_differ(self) -> "Description":
        names = [(machine.type, machine.id) for machine in self.machines]
        if len(set(names)) < len(names):
            raise ValueError("a machine stands in it twice")
        return self


class Recording(Checked):
    """A healthy recording that the detector knows."""

    machine: Annotated[int, Field(ge=0)]  # number of the machine
    role: Literal[ROLES]  # type: ignore[valid-type]
    file: str
    sha256: str  # of its samples


@dataclass(frozen=True)
class Recordings:
    """The healthy recordings that a detector knows, R of them.

    `by_backend`: their scores (R,); NaN is no score. `spectra` (R, M), dB, and `frames` (R,): see `familiarity.Facts`.
    """

    rows: Sequence[Recording]
    by_backend: Arrays
    spectra: np.ndarray
    frames: np.ndarray
    _places: dict[tuple[int, str], np.ndarray] = field(init=False, repr=False)

    def __post_init__(self):
        keys = [(row.machine, row.role) for row in self.rows]
        found: dict[tuple[int, str], list[int]] = {}
        for place, key in enumerate(keys):
            found.setdefault(key, []).append(place)
        object.__setattr__(self, "_places", {key: np.array(places) for key, places in found.items()})

    @classmethod
    def none(cls, mels: int) -> Self:
        """No recordings, of `mels` mel bins."""
        return cls([], {}, np.zeros((0, mels)), np.zeros(0))

    def of(self, machine: int) -> Known:
        """What is known of one machine's recordings beside their scores."""
        places = [place for role in ROLES for place in self._places.get((machine, role), ())]
        return Known(self.spectra[places].astype(float), self.frames[places])

    def chosen(self, places: np.ndarray) -> Self:
        """The recordings at `places`, numbers or a mask (R,)."""
        numbers = np.arange(len(self.rows))[places]
        by_backend = {name: scores[numbers] for name, scores in self.by_backend.items()}
        return type(self)([self.rows[n] for n in numbers], by_backend, self.spectra[numbers], self.frames[numbers])

    def joined(self, other: Self) -> Self:
        """These recordings and then the others. A back-end that has no score of one has NaN."""

        def scores(recordings: "Recordings", name: str) -> np.ndarray:
            return recordings.by_backend.get(name, np.full(len(recordings.rows), np.nan))

        names = dict.fromkeys([*self.by_backend, *other.by_backend])
        return type(self)(
            [*self.rows, *other.rows],
            {name: np.concatenate([scores(self, name), scores(other, name)]) for name in names},
            np.concatenate([self.spectra, other.spectra]),
            np.concatenate([self.frames, other.frames]),
        )

    def scores(self, machine: int, role: str, backend: str) -> np.ndarray:
        """The scores of one machine's recordings of a role that have one under `backend`."""
        places = self._places.get((machine, role))
        if places is None or backend not in self.by_backend:
            return np.zeros(0)
        scores = self.by_backend[backend][places].astype(float)
        return scores[np.isfinite(scores)]

    def arrays(self) -> Arrays:
        """What is known of the recordings in figures, by name; `read_recordings` reads it."""
        return self.by_backend | {"spectra": self.spectra, "frames": self.frames}


def read_description(text: bytes) -> Description:
    """A description from its JSON. Raises ValueError naming the entry that is wrong."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"damaged: {error}") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        number = found.get("format") if isinstance(found, dict) else None
        raise ValueError(f"format is {number!r}, this version reads {FORMAT}")
    try:
        return Description.model_validate_json(text)
    except ValidationError as error:
        raise ValueError(mistake(error)) from None


def mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, not {str(first['input'])[:60]!r}"


_ROWS = TypeAdapter(list[Recording])


def read_rows(text: bytes, machines: int) -> list[Recording]:
    """The recordings in a JSON list. Raises ValueError naming the entry that is wrong."""
    try:
        rows = _ROWS.validate_json(text)
    except ValidationError as error:
        raise ValueError(mistake(error)) from None
    if unknown := [row.machine for row in rows if row.machine >= machines]:
        raise ValueError(f"machine {unknown[0]} is not one of the {machines} of the detector")
    return rows


def read_recordings(rows: list[Recording], found: Mapping[str, np.ndarray], mels: int) -> Recordings:
    """The recordings from their rows and from what `Recordings.arrays` gave. Raises ValueError naming what is wrong."""
    arrays = dict(found)
    for name in ("spectra", "frames"):
        array = arrays.get(name, np.zeros(0))
        wanted = (len(rows), mels) if name == "spectra" else (len(rows),)
        if array.shape != wanted or not np.isfinite(array).all():
            raise ValueError(f"{name} does not hold {wanted} finite values")
    spectra, frames = arrays.pop("spectra"), arrays.pop("frames")
    for name, array in arrays.items():
        if name not in NAMES or array.shape != (len(rows),) or np.isinf(array).any():
            raise ValueError(f"{name} does not hold a score for each recording")
    return Recordings(rows, arrays, spectra, frames)
