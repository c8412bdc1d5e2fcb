"""One's own recordings: found in a folder of any known layout, checked, cut, split, and written as clips.

Three layouts, which may stand side by side for different machine types:

- DCASE 2020: `<type>/{train,test}/{normal,anomaly}_id_NN_NNNNNNNN.wav`
- MIMII: `<type>/id_NN/{normal,abnormal}/*.wav`, which has no split: one is made (`split_recordings`)
- a table `clips.csv` in the folder: file, machine_type, machine_id, condition, and split, which may be left out
"""

import hashlib
import itertools
import logging
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pandas as pd
from joblib import Parallel, delayed
from tqdm import tqdm

from audio.clips import (
    AUDIO_SUFFIXES,
    SAMPLE_RATE,
    SHORTEST_SECONDS,
    SILENCE,
    digest,
    open_sound,
    read_clip,
    write_clip,
)
from audio.decoding import stated_seconds
from audio.manifest import CONDITIONS, SPLITS, ClipName

CLIP_SECONDS = 10  # of the clips that long recordings are cut into
LONGEST_SECONDS = 20  # a recording up to this length is one clip (ToyCar's have 11 s)
ROUNDING = 16  # samples by which resampling may lengthen it
LAYOUTS = "<type>/{train,test}/{normal,anomaly}_id_NN_NNNNNNNN.wav, <type>/id_NN/{normal,abnormal}/*.wav or a clips.csv"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Recording:
    """A file of recordings of one machine in one condition."""

    file: str  # relative to the corpus folder
    machine_type: str
    machine_id: str
    split: str  # train, test, or "" where the layout has none
    condition: str
    number: int | None = None  # in the file's name, where it has one


class Fault(NamedTuple):
    """Why a recording, or a piece of it, is not taken."""

    file: str
    reason: str


class Piece(NamedTuple):
    """A clip that was written, with what the manifest says of it."""

    path: Path
    offset: float  # seconds
    seconds: float
    sha256: str
    warning: str = ""  # of the recording: what was wrong with it and yet could be read


# ------------------------------------------------------------------------------------------------ what there is


def find_recordings(folder: Path) -> tuple[list[Recording], list[Fault]]:
    """The recordings in `folder`, and what is wrong with the names of the others. Neither opens a sound file.

    Raises ValueError naming the folder if it does not exist or has nothing in a known layout.
    """
    if not folder.is_dir():
        hint = "" if folder.is_absolute() else "; runs elsewhere (dvc exp run --temp or --queue) need its absolute path"
        raise ValueError(f"{folder} does not exist{hint}")
    if (folder / "clips.csv").is_file():
        found = _in_table(folder)
    else:
        found = [_in_folders(file) for file in _sound_files(folder)]
    recordings = [one for one in found if isinstance(one, Recording)]
    faults = [one for one in found if isinstance(one, Fault)]
    if not recordings and not any(fault.reason != _NO_PLACE for fault in faults):
        if not faults:
            raise ValueError(f"{folder} holds no sound files ({', '.join(AUDIO_SUFFIXES)})")
        inside = any(Path(fault.file).parts[0] in (*SPLITS, "normal") or _ID.match(fault.file) for fault in faults)
        hint = "; it looks like the folder of one machine type: give the folder above it" if inside else ""
        raise ValueError(f"{folder} has no recordings in a known layout, {LAYOUTS}{hint}")
    return recordings, faults


_NO_PLACE = f"lies in no known place: {LAYOUTS}"
_ID = re.compile(r"id_\d{2}(?=/|$)")
_TYPE = re.compile(r"\w[\w.-]*")


def _sound_files(folder: Path) -> Iterator[str]:
    for depth in range(1, 5):  # by depth, not rglob: a type's folder may be a link, and no link can make a loop
        for path in sorted(folder.glob("/".join("*" * depth))):
            file = path.relative_to(folder)
            if path.suffix.lower() in AUDIO_SUFFIXES and not any(part.startswith(".") for part in file.parts):
                yield file.as_posix()


def _in_folders(file: str) -> Recording | Fault:
    *folders, base = file.split("/")
    stem = base.rsplit(".", 1)[0]
    match folders:
        case [machine_type, "train" | "test" as split]:
            try:
                name = ClipName.parse(stem)
            except ValueError as error:
                return Fault(file, str(error))
            return _checked(Recording(file, machine_type, name.machine_id, split, name.condition, name.number))
        case [machine_type, machine_id, "normal" | "abnormal" as condition] if _ID.fullmatch(machine_id):
            number = int(stem) if re.fullmatch(r"\d{8}", stem) else None
            condition = "anomaly" if condition == "abnormal" else "normal"
            return _checked(Recording(file, machine_type, machine_id, "", condition, number))
    return Fault(file, _NO_PLACE)


def _checked(recording: Recording) -> Recording | Fault:
    if not _TYPE.fullmatch(recording.machine_type):
        allowed = "letters, digits and . - _ are allowed"
        return Fault(recording.file, f"machine type {recording.machine_type!r}: {allowed}")
    if recording.condition == "anomaly" and recording.split == "train":
        return Fault(recording.file, "an anomaly in the training split, which holds normal sounds alone")
    return recording


def _in_table(folder: Path) -> list[Recording | Fault]:
    path = folder / "clips.csv"
    first_line = path.open(encoding="utf-8-sig").readline()
    separator = ";" if ";" in first_line and "," not in first_line else ","
    table = pd.read_csv(path, sep=separator, dtype=str, keep_default_na=False, encoding="utf-8-sig")
    missing = {"file", "machine_type", "machine_id", "condition"} - set(table.columns)
    if missing:
        raise ValueError(f"{path} has no column {', '.join(sorted(missing))}; it has {', '.join(table.columns)}")
    if table.empty:
        raise ValueError(f"{path} lists no recordings")
    if "split" not in table.columns:
        table["split"] = ""
    table = table.apply(lambda column: column.str.strip())
    given = table.groupby("machine_type")["split"].agg(lambda split: (split != "").mean())
    if mixed := sorted(given.index[(given > 0) & (given < 1)]):
        raise ValueError(
            f"{path}: {', '.join(mixed)}: split is given for some clips; give it for all of a type or none"
        )
    seen = table["file"].duplicated()
    return [_row(folder, row, twice) for row, twice in zip(table.to_dict("records"), seen, strict=True)]


def _row(folder: Path, row: dict[str, str], twice: bool) -> Recording | Fault:
    file, machine_id = row["file"], re.fullmatch(r"(?:id_)?(\d{1,2})", row["machine_id"])
    if twice:
        return Fault(file, "listed twice")
    if not (folder / file).resolve().is_relative_to(folder.resolve()):
        return Fault(file, "lies outside the corpus folder")
    if not machine_id:
        return Fault(file, f"machine_id {row['machine_id']!r} is not a number of two digits (00 or id_00)")
    if row["split"] not in ("", *SPLITS):
        return Fault(file, f"split {row['split']!r} is not {' or '.join(SPLITS)}")
    if row["condition"] not in CONDITIONS:
        return Fault(file, f"condition {row['condition']!r} is not {' or '.join(CONDITIONS)}")
    recording = Recording(file, row["machine_type"], f"id_{int(machine_id[1]):02d}", row["split"], row["condition"])
    return _checked(recording)


def check_types(wanted: list[str], known: Iterable[str], where: Path) -> None:
    """Raise ValueError if a wanted machine type is not among the known ones."""
    known = sorted(set(known))
    if unknown := [one for one in wanted if one not in known]:
        raise ValueError(f"corpus.types has {', '.join(unknown)}; {where} has {', '.join(known)}")


# ------------------------------------------------------------------------------------------------------- the split


def split_recordings(recordings: list[Recording], seconds: Callable[[str], float], seed: int) -> list[Recording]:
    """Give a split to the recordings that have none: all anomalies to test, with as much of the normals.

    Per machine, whole recordings of normals in an order drawn from `seed` and their names go to test until they last
    as long as the anomalies (`seconds` tells a file's length), but never more than half of them. A machine without
    anomalies is all training.
    """
    machines = defaultdict(list)
    for recording in recordings:
        if not recording.split:
            machines[recording.machine_type, recording.machine_id].append(recording)
    test = set()
    for group in machines.values():
        anomalies = {one.file for one in group if one.condition == "anomaly"}
        wanted = sum(map(seconds, anomalies))
        normals = [one.file for one in group if one.condition == "normal"]
        normals.sort(key=lambda file: hashlib.sha256(f"{seed}/{file}".encode()).digest())
        test |= anomalies
        for file in normals[: len(normals) // 2]:
            if wanted <= 0:
                break
            test.add(file)
            wanted -= seconds(file)
    return [one if one.split else replace(one, split="test" if one.file in test else "train") for one in recordings]


def header_seconds(path: Path) -> float:
    """Length that a sound file's header states (seconds); 0 if it cannot be read, which the checks report."""
    return stated_seconds(path)


def subset_of(recordings: Iterable[Recording]) -> dict[tuple[str, str], str]:
    """dev or additional for each (type, id): additional are, as in DCASE 2020, those that have no test recordings."""
    subset = {}
    for one in recordings:
        machine = one.machine_type, one.machine_id
        subset[machine] = "dev" if one.split == "test" or subset.get(machine) == "dev" else "additional"
    return subset


def check_corpus(clips: Iterable[tuple[str, str, str, str]], where: Path) -> None:
    """Raise ValueError, naming all that is wrong, unless a detector can be trained and tested on the clips.

    `clips`: (machine_type, machine_id, split, condition) of each. Needed are training clips of every identity that is
    tested, and both conditions among the test clips of it, since AUC does not exist for one.
    """
    found = defaultdict(lambda: defaultdict(set))
    for machine_type, machine_id, split, condition in clips:
        found[machine_type, machine_id][split].add(condition)
    if not any(splits["train"] for splits in found.values()):
        raise ValueError(f"{where} has no training clips")
    wrong = []
    for machine_type in sorted({machine_type for machine_type, _ in found}):
        ids = {machine_id: splits for (kind, machine_id), splits in sorted(found.items()) if kind == machine_type}
        if not any(splits["test"] for splits in ids.values()):
            wrong.append(f"{machine_type} has no test clips: some anomalies, and normals beside them, are needed")
        for machine_id, splits in ids.items():
            if splits["test"] and not splits["train"]:
                wrong.append(f"{machine_type} {machine_id} has test clips but no training clips")
            if len(splits["test"]) == 1:
                only = "normals" if "normal" in splits["test"] else "anomalies"
                wrong.append(
                    f"{machine_type} {machine_id} has only {only} in its test split, AUC needs both conditions"
                )
    if wrong:
        raise ValueError(f"{where}: {'; '.join(wrong)}")


# ------------------------------------------------------------------------------------------------- checks and clips


def write_pieces(path: Path, channel: int, stem: Path) -> tuple[list[Piece], list[Fault]]:
    """Check the recording at `path` and write it as clips `<stem>_0.flac` and so on, at 16 kHz.

    A recording longer than LONGEST_SECONDS is cut into clips of CLIP_SECONDS; a rest shorter than SHORTEST_SECONDS is
    dropped. 16 bit if the recording has no more and is not resampled, else 24. A fault's `file` is empty, or says where
    in the recording it is.
    """
    pieces: list[Piece] = []
    silent: list[int] = []  # which clips are
    try:
        with open_sound(path, channel) as sound:
            cut, waveforms = _cut(sound.blocks())
            bits = sound.bits if sound.sample_rate == SAMPLE_RATE else 24
            for number, waveform in enumerate(waveforms):
                if len(waveform) < SHORTEST_SECONDS * SAMPLE_RATE:
                    if not cut:
                        seconds = len(waveform) / SAMPLE_RATE
                        raise ValueError(f"{path}: {seconds:.3g} s, shorter than {SHORTEST_SECONDS} s")
                elif np.ptp(waveform) <= SILENCE:
                    silent.append(number)
                else:
                    pieces.append(_piece(stem.with_name(f"{stem.name}_{number}.flac"), number, waveform, bits))
        if not pieces:
            raise ValueError(f"{path}: {'digital silence' if silent else 'no samples'}")
    except ValueError as error:
        for piece in pieces:
            piece.path.unlink()
        return [], [Fault("", str(error).removeprefix(f"{path}: "))]
    pieces = [piece._replace(warning="; ".join(sound.warnings)) for piece in pieces]
    if silent:  # not a line for each: a night of silence is one fault
        where = f" at {silent[0] * CLIP_SECONDS} s"
        return pieces, [Fault(where, f"digital silence in {len(silent)} of {number + 1} clips")]
    return pieces, []


def _piece(path: Path, number: int, waveform: np.ndarray, bits: int) -> Piece:
    write_clip(path, waveform, bits=bits)
    written = read_clip(path)
    return Piece(path, float(number * CLIP_SECONDS), len(written) / SAMPLE_RATE, digest(written))


def _cut(blocks: Iterator[np.ndarray]) -> tuple[bool, Iterator[np.ndarray]]:
    """Whether a recording is longer than a clip may be, and the clips that it is cut into, or all of it as the only."""
    head, samples = [], 0
    while samples <= LONGEST_SECONDS * SAMPLE_RATE + ROUNDING and (block := next(blocks, None)) is not None:
        head.append(block)
        samples += len(block)
    cut = samples > LONGEST_SECONDS * SAMPLE_RATE + ROUNDING
    return cut, _rechunk(itertools.chain(head, blocks), CLIP_SECONDS * SAMPLE_RATE if cut else samples)


def _rechunk(blocks: Iterable[np.ndarray], length: int) -> Iterator[np.ndarray]:
    rest = np.zeros(0, np.float32)
    for block in blocks:
        rest = np.concatenate([rest, block])
        while len(rest) >= length > 0:
            yield rest[:length]
            rest = rest[length:]
    if len(rest):
        yield rest


def import_recordings(
    folder: Path,
    out: Path,
    *,
    types: list[str],
    subsets: list[str],
    channel: int,
    split_seed: int,
    on_bad_clip: str,
    workers: int = -1,
) -> tuple[list[dict], list[Fault]]:
    """Write the recordings in `folder` as clips below `out`, in the DCASE layout; return manifest rows and faults.

    `types` (all if empty) and `subsets` select; `on_bad_clip` is error or skip; `workers` processes, -1 for one per
    core. Raises ValueError with the table of all faults (file, reason) unless they are to be skipped, and for a corpus
    that is not fit for training and testing or has the same samples in both splits.
    """
    recordings, faults = find_recordings(folder)
    known = {one.machine_type for one in recordings}
    check_types(types, known, folder)
    others = known - set(types) if types else set()
    recordings = [one for one in recordings if one.machine_type not in others]
    faults = [one for one in faults if one.file.split("/")[0] not in others]
    recordings = split_recordings(recordings, lambda file: header_seconds(folder / file), split_seed)
    subset = subset_of(recordings)
    recordings = [one for one in recordings if subset[one.machine_type, one.machine_id] in subsets]
    if not faults or on_bad_clip == "skip":  # early; a name that is at fault may be the cause of what would be missing
        _check_recordings(recordings, folder)
    pieces_of, more = _convert(recordings, folder, channel, out, workers)
    faults += more
    if faults and on_bad_clip == "error":
        table = pd.DataFrame(faults).to_string(index=False, justify="left")
        raise ValueError(f"{folder}: {len(faults)} bad clips (corpus.on_bad_clip: skip leaves them out)\n{table}")
    _check_recordings([recording for recording, pieces in pieces_of if pieces], folder)
    _check_leaks(pieces_of)
    return _place(pieces_of, subset, out), faults


def _check_recordings(recordings: list[Recording], folder: Path) -> None:
    check_corpus(((one.machine_type, one.machine_id, one.split, one.condition) for one in recordings), folder)


def _convert(
    recordings: list[Recording], folder: Path, channel: int, out: Path, workers: int
) -> tuple[list[tuple[Recording, list[Piece]]], list[Fault]]:
    aside = out / ".pieces"
    aside.mkdir(parents=True)
    jobs = (delayed(write_pieces)(folder / one.file, channel, aside / str(n)) for n, one in enumerate(recordings))
    results = Parallel(n_jobs=workers, return_as="generator", batch_size=8)(jobs)
    progress = tqdm(zip(recordings, results, strict=True), total=len(recordings), disable=None, unit="recording")
    pieces_of, faults = [], []
    for recording, (pieces, wrong) in progress:
        pieces_of.append((recording, pieces))
        faults += [Fault(recording.file + fault.file, fault.reason) for fault in wrong]
    return pieces_of, faults


def _check_leaks(pieces_of: list[tuple[Recording, list[Piece]]]) -> None:
    first: dict[str, tuple[Recording, str]] = {}
    leaks, twice = [], 0
    for recording, pieces in pieces_of:
        for piece in pieces:
            name = recording.file + (f" at {piece.offset:g} s" if piece.offset else "")
            other, other_name = first.setdefault(piece.sha256, (recording, name))
            if (other.split, other.condition) != (recording.split, recording.condition):
                where = [
                    f"{file} ({one.split}, {one.condition})" for file, one in ((other_name, other), (name, recording))
                ]
                leaks.append(" and ".join(where))
            twice += other_name != name
    if leaks:
        raise ValueError(f"the same samples stand twice, which is a leak: {'; '.join(leaks)}")
    if twice:
        log.warning("%d clips repeat the samples of another clip of their split", twice)


def _place(pieces_of: list[tuple[Recording, list[Piece]]], subset: dict[tuple[str, str], str], out: Path) -> list[dict]:
    """Move the pieces to their names in the DCASE layout; return the rows of the manifest."""
    named = [(one, piece, len(pieces) == 1) for one, pieces in pieces_of for piece in pieces]
    named.sort(key=lambda entry: (entry[0].number is None, not entry[2], entry[0].file, entry[1].offset))
    rows, taken = [], set()
    for one, piece, whole in named:
        clip = next(clip for clip in _names(one, piece, whole) if clip not in taken)
        taken.add(clip)
        target = out / f"{clip}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        piece.path.rename(target)
        row = {"clip": clip, "subset": subset[one.machine_type, one.machine_id], "source": one.file}
        row |= {key: getattr(one, key) for key in ("machine_type", "machine_id", "split", "condition")}
        rows.append(
            row | {"seconds": piece.seconds, "offset": piece.offset, "sha256": piece.sha256, "warning": piece.warning}
        )
    (out / ".pieces").rmdir()
    return rows


def _names(recording: Recording, piece: Piece, whole: bool) -> Iterator[str]:
    """Names for a clip, best first: with the number in the file's name, then with hashes of file and offset.

    Not numbered in turn, so that adding recordings renames no clip and what is made from the others stays valid.
    """
    folder = f"{recording.machine_type}/{recording.split}"
    if whole and recording.number is not None:
        yield f"{folder}/{ClipName(recording.condition, recording.machine_id, recording.number)}"
    for attempt in itertools.count():
        digits = hashlib.sha256(f"{recording.file}/{piece.offset:g}/{attempt}".encode()).hexdigest()
        yield f"{folder}/{ClipName(recording.condition, recording.machine_id, int(digits, 16) % 10**8)}"
