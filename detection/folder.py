"""A detector on disk: what its folder holds, checked whole before anything of it is used."""

import hmac
import json
import math
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal, Self

import numpy as np
import safetensors
import safetensors.numpy
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from detection.familiarity import Known
from detection.fitting import Arrays
from detection.names import NAMES
from model.checkpoints import load_model, read_json, rebuilt, save_model
from model.network import RCMAE, IdentityClassifier
from storage.files import sha256, whole_file, whole_folder

FORMAT = 2
KEY_VARIABLE = "RCMAE_KEY"  # environment variable that holds the key of the signature
NETWORKS = ("pretrained", "finetuned")
ROLES = ("training", "calibration")

Name = Annotated[str, Field(min_length=1, max_length=200, pattern=r"^[^/\x00-\x1f]+$")]


class _Checked(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class Settings(_Checked):
    """What scoring needs beside the networks; the names are those of the params group `score`."""

    backend: Literal[NAMES] = "combined"  # type: ignore[valid-type]  # the headline, which decides when none is named
    neighbours: Annotated[int, Field(ge=1, le=1000)] = 1
    components: Annotated[int, Field(ge=1, le=100)] = 2
    window_hop: Annotated[int, Field(ge=1, le=1_000_000)] = 160  # frames between the windows of a longer recording
    false_alarms: Annotated[float, Field(gt=0, lt=1)] = 0.1  # share of healthy recordings that may raise an alarm
    seed: Annotated[int, Field(ge=0, lt=2**32)] = 0


class Machine(_Checked):
    """A machine that can be judged."""

    type: Name
    id: Name
    trained: bool = True  # the networks have heard it; False: it was enrolled


class Entry(_Checked):
    """What was taken into a detector after its training, and when."""

    when: str  # ISO 8601
    what: Literal["calibrated", "enrolled"]
    machine: str  # "fan/id_00"
    recordings: dict[str, str]  # file: SHA-256 of its samples


class Description(_Checked):
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


class Recording(_Checked):
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


@dataclass(frozen=True)
class Folder:
    """All that `read_folder` found."""

    pretrained: RCMAE
    classifier: IdentityClassifier | None
    config: dict
    description: Description
    ensemble: Arrays
    recordings: Recordings


def write_folder(
    folder: Path,
    pretrained: RCMAE,
    classifier: IdentityClassifier | None,
    config: dict,
    ensemble: Arrays,
    recordings: Recordings,
    description: Description,
) -> None:
    """Write a detector to `folder`, which appears whole and replaces what was there."""
    with whole_folder(folder) as partial:
        save_model(partial / "pretrained", pretrained, config)
        if classifier is not None:
            classes = [f"{machine.type}/{machine.id}" for machine in description.machines if machine.trained]
            save_model(partial / "finetuned", classifier, config | {"identities": classes})
        known = recordings.by_backend | {"spectra": recordings.spectra, "frames": recordings.frames}
        for name, arrays in (("ensemble", ensemble), ("recordings", known)):
            with whole_file(partial / f"{name}.safetensors") as unfinished:
                safetensors.numpy.save_file({key: a.copy(order="C") for key, a in arrays.items()}, unfinished)
        rows = [row.model_dump() for row in recordings.rows]
        (partial / "recordings.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
        (partial / "detector.json").write_text(description.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sums = {path.relative_to(partial).as_posix(): sha256(path) for path in sorted(partial.rglob("*.*"))}
        (partial / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        if key := os.environ.get(KEY_VARIABLE):
            (partial / "signature").write_text(_signature(partial, key) + "\n", encoding="utf-8")


def _signature(folder: Path, key: str) -> str:
    """HMAC-SHA256 of checksums.json, and so of all files, in hexadecimal digits."""
    return hmac.new(key.encode(), (folder / "checksums.json").read_bytes(), "sha256").hexdigest()


def _check_signature(folder: Path, key: str) -> None:
    if not (folder / "signature").is_file():
        raise ValueError(f"{folder}: signature is missing, and {KEY_VARIABLE} is set")
    found = (folder / "signature").read_bytes().strip()
    if not hmac.compare_digest(found, _signature(folder, key).encode()):
        raise ValueError(
            f"{folder}: signature is not that of {KEY_VARIABLE}: another key, or it was changed on purpose"
        )


def read_folder(folder: Path) -> Folder:
    """The detector in `folder`, every file checked. Raises ValueError naming the file and the entry that is wrong."""
    if not (folder / "checksums.json").is_file():
        raise ValueError(f"{folder} holds no detector (no checksums.json): train one with `dvc repro`")
    if key := os.environ.get(KEY_VARIABLE):
        _check_signature(folder, key)
    _check_sums(folder, read_json(folder / "checksums.json"))
    description = _description(folder / "detector.json")
    pretrained, config = load_model(folder / "pretrained", RCMAE)
    _check_config(folder / "pretrained/config.json", config)
    classifier = None
    if (folder / "finetuned").is_dir():
        classifier, finetuned_config = load_model(folder / "finetuned", IdentityClassifier)
        trained = [f"{machine.type}/{machine.id}" for machine in description.machines if machine.trained]
        if finetuned_config["identities"] != trained:
            raise ValueError(f"{folder}/finetuned is not a network of the machines in detector.json")
        shared = ("sizes", "logmel", "scale", "norm_pix_loss")
        if other := [name for name in shared if finetuned_config.get(name) != config[name]]:
            raise ValueError(f"{folder}/finetuned does not belong to {folder}/pretrained: {', '.join(other)} differ")
    ensemble = _arrays(folder / "ensemble.safetensors")
    for name, array in ensemble.items():
        if name.startswith("backends.") and not np.isfinite(array).all():
            raise ValueError(f"{folder}/ensemble.safetensors: {name} has values that are not finite")
        if name.startswith("std_") and not (np.isnan(array) | ((array > 0) & np.isfinite(array))).all():
            raise ValueError(f"{folder}/ensemble.safetensors: {name} has a standard deviation that is not positive")
    recordings = _recordings(folder, len(description.machines), config["logmel"]["n_mels"])
    return Folder(pretrained, classifier, config, description, ensemble, recordings)


def _check_sums(folder: Path, sums: dict) -> None:
    files = ["detector.json", "ensemble.safetensors", "recordings.json", "recordings.safetensors"]
    networks = [
        name for name in NETWORKS if name == "pretrained" or (folder / name).exists() or f"{name}/config.json" in sums
    ]
    for name in (
        *files,
        *(f"{network}/{file}" for network in networks for file in ("config.json", "model.safetensors")),
    ):
        if not (folder / name).is_file():
            raise ValueError(f"{folder}: {name} is missing")
        if sums.get(name) != sha256(folder / name):
            raise ValueError(f"{folder}: {name} is not the file that was saved (its SHA-256 differs)")


def _description(path: Path) -> Description:
    found = read_json(path)
    if found.get("format") != FORMAT:
        raise ValueError(f"{path} has format {found.get('format')!r}, this version reads {FORMAT}")
    try:
        description = Description.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise ValueError(f"{path}: {_mistake(error)}") from None
    # the score stage writes no date, for its output must depend on its inputs alone: it is that of the file
    written = datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    return description if description.created else description.model_copy(update={"created": written})


def _mistake(error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the whole file"
    return f"{where}: {first['msg'].removeprefix('Value error, ')}, not {str(first['input'])[:60]!r}"


def _check_config(path: Path, config: dict) -> None:
    """Raises ValueError when the front end or the scale of a network cannot be rebuilt."""
    from audio.logmel import LogMelSettings
    from audio.scale import Scale

    try:
        rebuilt(LogMelSettings, config["logmel"])
        scale = rebuilt(Scale, config["scale"])
        for name, value in (("mean", scale.mean), ("std", scale.std)):
            if type(value) not in (int, float) or not math.isfinite(value):
                raise ValueError(f"{name} is {value!r}, allowed are finite numbers")
        if not isinstance(config["norm_pix_loss"], bool):
            raise ValueError(f"norm_pix_loss is {config['norm_pix_loss']!r}, allowed are true and false")
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{path}: {' '.join(str(error).split())}") from None


def _arrays(path: Path) -> Arrays:
    try:
        return safetensors.numpy.load_file(path)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is damaged: {' '.join(str(error).split())}") from None


def _recordings(folder: Path, machines: int, mels: int) -> Recordings:
    path = folder / "recordings.json"
    try:
        rows = [Recording.model_validate(row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except ValidationError as error:
        raise ValueError(f"{path}: {_mistake(error)}") from None
    except (ValueError, RecursionError, TypeError) as error:
        raise ValueError(f"{path} is damaged: {error}") from None
    if unknown := [row.machine for row in rows if row.machine >= machines]:
        raise ValueError(f"{path}: machine {unknown[0]} is not one of the {machines} in detector.json")
    arrays = _arrays(folder / "recordings.safetensors")
    for name in ("spectra", "frames"):
        array = arrays.get(name, np.zeros(0))
        wanted = (len(rows), mels) if name == "spectra" else (len(rows),)
        if array.shape != wanted or not np.isfinite(array).all():
            raise ValueError(f"{folder}/recordings.safetensors: {name} does not hold {wanted} finite values")
    spectra, frames = arrays.pop("spectra"), arrays.pop("frames")
    for name, array in arrays.items():
        if name not in NAMES or array.shape != (len(rows),) or np.isinf(array).any():
            raise ValueError(f"{folder}/recordings.safetensors: {name} does not hold a score for each recording")
    return Recordings(rows, arrays, spectra, frames)
