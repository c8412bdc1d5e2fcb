"""Judging files: which machine a file is a recording of, and the verdict as a line, as JSON and as a row of a table."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from audio.clips import LONGEST, open_sound
from audio.folders import recordings
from detection.detector import Detector, Measured, Verdict
from detection.text import printable

NOTED = ("machine_type", "machine_id", "backend", "score", "threshold", "p_value", "n", "alpha", "calibration")


@dataclass(frozen=True)
class Judgement:
    """What became of one file: a verdict, or why there is none."""

    file: str
    verdict: Verdict | None = None
    error: str = ""
    measured: Measured | None = None  # what the verdict comes from
    drift: float | None = None  # see `detection.drift`, where verdicts of a machine follow each other
    called: bool | None = None  # as one of a batch: to be called anomalous, see `calibration.false_discoveries`

    @property
    def name(self) -> str:
        """The file's name to be read: line breaks, and bytes that are no characters, are escaped."""
        return printable(self.file)

    @property
    def anomalous(self) -> bool:
        """Whether it is to be called anomalous: in its batch, where it is one of a batch, else by itself."""
        return self.verdict is not None and (self.verdict.anomalous if self.called is None else self.called)

    def line(self) -> str:
        """The judgement in one readable line."""
        if self.verdict is None:
            return f"{self.name}: not judged: {printable(self.error)}"
        verdict = self.verdict
        call = "" if self.called is None else f"; in this batch called {'ANOMALOUS' if self.called else 'NORMAL'}"
        return f"{self.name}: {verdict.sentence}{call}{_times(verdict)}{_reservations(verdict)}"

    def as_json(self) -> dict:
        """The judgement as an object: `file` with `error`, or with `verdict`, its figures and the windows (s)."""
        if self.verdict is None:
            return {"file": self.file, "error": self.error}
        call = {} if self.called is None else {"called": "anomalous" if self.called else "normal"}
        return {
            "file": self.file,
            "verdict": self.verdict.word,
            **call,
            "sentence": self.verdict.sentence,
            **asdict(self.verdict),
            **({} if self.drift is None else {"drift": self.drift}),
        }

    def row(self) -> dict:
        """The judgement as the columns of the watcher's table, see `detection.watch`."""
        row: dict[str, Any] = {"judged": datetime.now().astimezone().isoformat(timespec="seconds"), "error": self.error}
        if self.verdict is not None:
            row |= {name: getattr(self.verdict, name) for name in NOTED} | {"verdict": self.verdict.word}
            row["drift"] = self.drift
            row["warnings"] = "; ".join(self.verdict.warnings)
            spans = (f"{one.start:.1f}-{one.end:.1f}" for one in self.verdict.windows if one.anomalous)
            row["anomalous_s"] = " ".join(spans)
        return row


@dataclass(frozen=True)
class Judge:
    """Judges files by one detector; what is not said of the machine is taken from each file's path.

    `machine_type` and `machine_id` may be None. A folder in the path that is called like a machine type tells it, and
    so does a folder, or an id given, that only one machine has (but not id_00 or section_00, which every type
    has). The id is told by a DCASE file name (normal_id_00_00000003, section_00_…) or a folder called like it;
    where the type has only one, it is that. A type is never guessed: another machine's recording would get a verdict.
    """

    detector: Detector
    machine_type: str | None = None
    machine_id: str | None = None
    backend: str | None = None
    channel: int = 0
    longest: float = LONGEST  # s, of a recording

    def __call__(self, path: Path, name: str | None = None) -> Judgement:
        """Judge the file at `path`; `name` is what it is called in the judgement. Never raises for a bad file."""
        name = name or str(path)
        try:
            if path.is_dir():
                raise ValueError("no sound file in this folder")
            if not path.exists():
                raise ValueError("no such file")
            identity = "/".join(self.machine(path))
            measured = self.detector.measure_file(path, identity, self.backend, self.channel, self.longest)
            return Judgement(name, self.detector.judge(measured, identity, self.backend), measured=measured)
        except OSError as error:
            return Judgement(name, error=error.strerror or str(error))
        except ValueError as error:
            return Judgement(name, error=str(error).removeprefix(f"{path}: "))

    def each_channel(self, path: Path, name: str | None = None) -> list[Judgement]:
        """A judgement for each channel of a recording, as of a sensor of its own; the name says which channel."""
        name = name or str(path)
        try:
            with open_sound(path, longest=self.longest) as sound:
                channels = sound.channels
        except (ValueError, OSError):
            channels = 1
        if channels == 1:
            return [replace(self, channel=0)(path, name)]
        return [replace(self, channel=each)(path, f"{name}, channel {each}") for each in range(channels)]

    def machine(self, path: Path) -> tuple[str, str]:
        """Type and id of the machine that `path` is a recording of. Raises ValueError when that cannot be told."""
        types = self.detector.machines
        folders = [unicodedata.normalize("NFC", part) for part in reversed(path.absolute().parts[:-1])]
        machine_type = self.machine_type or next((folder for folder in folders if folder in types), None)
        machine_type = machine_type or _type_of([self.machine_id] if self.machine_id else folders, types)
        if machine_type is None:
            raise ValueError(f"which machine is it? Say --machine, one of: {', '.join(types)}")
        ids = types.get(machine_type, [])
        machine_id = self.machine_id or _named_id(path.stem, folders, ids)
        if machine_id is None:
            raise ValueError(f"which {machine_type} is it? Say --id, one of: {', '.join(ids)}")
        return as_trained(self.detector, machine_type, machine_id)


def as_trained(detector: Detector, machine_type: str, machine_id: str) -> tuple[str, str]:
    """Type and id of a machine as they were trained; the id may be given as "0" or "00" for id_00.

    Raises ValueError, with the known ones, when it is unknown.
    """
    machine_type, machine_id = (unicodedata.normalize("NFC", name) for name in (machine_type, machine_id))
    ids = detector.machines.get(machine_type, [])
    if machine_id not in ids and re.fullmatch(r"[0-9]{1,2}", machine_id) and f"id_{int(machine_id):02d}" in ids:
        machine_id = f"id_{int(machine_id):02d}"
    detector.identity(machine_type, machine_id)
    return machine_type, machine_id


_COMMON_ID = r"(?:id|section)_[0-9]{2}"  # as DCASE numbers the machines of every type


def _type_of(names: Sequence[str], types: dict[str, list[str]]) -> str | None:
    """The type of the only machine that has the first of these `names` which is any machine's."""
    for name in names:
        having = [machine_type for machine_type, ids in types.items() if name in ids]
        if len(having) == 1 and not re.fullmatch(_COMMON_ID, name):
            return having[0]
    return None


def _named_id(stem: str, folders: Sequence[str], ids: Sequence[str]) -> str | None:
    """The id that a file's name, or the nearest folder that has one, tells; else the only one of `ids`."""
    if match := re.match(rf"(?:(?:normal|anomaly)_)?({_COMMON_ID})(?:_|$)", stem):
        return match[1]
    for folder in folders:
        if folder in ids or re.fullmatch(_COMMON_ID, folder):
            return folder
    return ids[0] if len(ids) == 1 else None


def expand(paths: list[str]) -> Iterator[Path]:
    """The files that are meant by files and folders; a folder stands for all recordings in it, or itself if none is."""
    for path in map(Path, paths):
        try:
            found = list(recordings(path)) if path.is_dir() else []
        except OSError:  # such as a name that is too long, of which judging it will say so
            found = []
        yield from found or [path]


def _times(verdict: Verdict) -> str:
    if len(verdict.windows) == 1:
        return ""
    spans = [f"{_clock(one.start)}-{_clock(one.end)}" for one in verdict.windows if one.anomalous]
    among = f"{len(spans)} of {len(verdict.windows)} windows above the threshold"
    return f"; {among}{': ' if spans else ''}{', '.join(spans)}"


def _reservations(verdict: Verdict) -> str:
    return "".join(f"; {warning}" for warning in verdict.warnings)


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds, 1), 60)
    return f"{int(minutes)}:{rest:04.1f}"
