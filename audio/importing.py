"""Recordings become a corpus: found, checked, split, cut, and written as clips of 16 kHz under safe names."""

import hashlib
import itertools
import logging
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from joblib import Parallel, delayed
from tqdm import tqdm

from audio.headers import Header, read_headers
from audio.layouts.found import find_recordings
from audio.manifest import clip_name
from audio.names import shown, slugs
from audio.recordings import Piece, Recording, Refusal, write_pieces
from audio.splitting import Division, check_corpus, check_types, divide, subset_of

REFUSALS_SHOWN = 40  # lines of a message about them

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Plan:
    """What would be imported from a corpus folder, and how it would be split."""

    recordings: list[Recording]
    refusals: list[Refusal]
    notes: list[str]  # what was assumed, and what is left out
    headers: dict[str, Header]  # of the recordings' files
    subset: dict[tuple[str, str], str]
    slugs: dict[tuple[str, str], tuple[str, str]]  # of each (type, id)
    division: Division


class Imported(NamedTuple):
    """What was imported: rows of the manifest, what was left out, and what was assumed."""

    rows: list[dict]
    refusals: list[Refusal]
    notes: list[str]


def plan_import(
    folder: Path, *, types: list[str], subsets: Sequence[str], split_seed: int, calibration_share: float
) -> Plan:
    """Look through `folder`, at names and headers alone. `types` (all if empty) and `subsets` select.

    Raises ValueError for a folder without recordings, and for a type that it does not have.
    """
    found = find_recordings(folder)
    check_types(types, {one.machine_type for one in found.recordings}, folder)
    subset, names = subset_of(found.recordings), _slugs(found.recordings)
    recordings = [
        one
        for one in found.recordings
        if one.machine_type in (types or [one.machine_type]) and subset[one.machine_type, one.machine_id] in subsets
    ]
    if not recordings:
        raise ValueError(f"{folder} has no recordings of the subset {' or '.join(subsets)}")
    others = {one.machine_type for one in found.recordings} - set(types) if types else set()
    refusals = [one for one in found.refusals if one.file.split("/")[0] not in others]
    headers = read_headers(folder, (one.file for one in recordings))
    seconds = {file: header.seconds for file, header in headers.items()}
    division = divide(recordings, seconds, split_seed, calibration_share)
    return Plan(recordings, refusals, found.notes + division.notes, headers, subset, names, division)


def _slugs(recordings: Iterable[Recording]) -> dict[tuple[str, str], tuple[str, str]]:
    machines = defaultdict(set)
    for one in recordings:
        machines[one.machine_type].add(one.machine_id)
    of_type = slugs(machines)
    return {
        (machine_type, machine_id): (of_type[machine_type], of_id)
        for machine_type, ids in machines.items()
        for machine_id, of_id in slugs(ids).items()
    }


def import_recordings(
    folder: Path,
    out: Path,
    *,
    types: list[str],
    subsets: Sequence[str],
    channel: int,
    split_seed: int,
    calibration_share: float,
    on_bad_clip: str,
    workers: int = -1,
) -> Imported:
    """Write the recordings in `folder` as clips below `out`.

    `channel` is counted from 0; `on_bad_clip` is error or skip; `workers` processes, -1 for one per core; the others
    see `plan_import` and `audio.splitting.divide`. Raises ValueError with the table of all refusals (file, reason)
    unless they are to be skipped, and for a corpus that is not fit for training, or whose own split has the same
    samples on both sides.
    """
    plan = plan_import(folder, types=types, subsets=subsets, split_seed=split_seed, calibration_share=calibration_share)
    for note in plan.notes:
        log.info("%s", note)
    refusals = list(plan.refusals)
    if not refusals or on_bad_clip == "skip":  # early; a name that is refused may be the cause of what would be missing
        check_corpus(_clips(plan, ((one, offset) for one in plan.recordings for offset in (0.0,))), folder)
    pieces_of, more = _convert(plan.recordings, folder, channel, out, workers)
    refusals += more
    if refusals and on_bad_clip == "error":
        head = f"{folder}: {len(refusals)} bad clips (corpus.on_bad_clip: skip leaves them out)"
        raise ValueError(f"{head}\n{refusals_text(refusals)}")
    pieces_of, repeated = _without_repeated(plan.division, pieces_of)
    check_corpus(_clips(plan, ((one, piece.offset) for one, pieces in pieces_of for piece in pieces)), folder)
    return Imported(_place(plan, pieces_of, out), refusals + repeated, plan.notes)


def refusals_text(refusals: list[Refusal]) -> str:
    """A line per refusal, REFUSALS_SHOWN at most: file, reason."""
    width = max(len(shown(one.file)) for one in refusals[:REFUSALS_SHOWN])
    lines = [f"{shown(one.file):{width}}  {one.reason}" for one in refusals[:REFUSALS_SHOWN]]
    return "\n".join(lines + [f"and {len(refusals) - REFUSALS_SHOWN} more"] * (len(refusals) > REFUSALS_SHOWN))


def _clips(plan: Plan, clips: Iterable[tuple[Recording, float]]) -> Iterator[tuple[str, str, str, str]]:
    for one, offset in clips:
        yield one.machine_type, one.machine_id, plan.division.of(one.file, offset), one.condition


def _convert(
    recordings: list[Recording], folder: Path, channel: int, out: Path, workers: int
) -> tuple[list[tuple[Recording, list[Piece]]], list[Refusal]]:
    aside = out / ".pieces"
    aside.mkdir(parents=True)
    jobs = (delayed(write_pieces)(folder / one.file, channel, aside / str(n)) for n, one in enumerate(recordings))
    results = Parallel(n_jobs=workers, return_as="generator", batch_size=8)(jobs)
    progress = tqdm(zip(recordings, results, strict=True), total=len(recordings), disable=None, unit="recording")
    pieces_of, refusals = [], []
    for recording, (pieces, wrong) in progress:
        pieces_of.append((recording, pieces))
        refusals += [Refusal(recording.file + one.file, one.reason) for one in wrong]
    return pieces_of, refusals


def _without_repeated(
    division: Division, pieces_of: list[tuple[Recording, list[Piece]]]
) -> tuple[list[tuple[Recording, list[Piece]]], list[Refusal]]:
    """The pieces without those that repeat the samples of another, where the split was made here; and what was dropped.

    Of several the first is kept, but an anomaly before a normal: the same samples cannot be both. Where the layout gave
    the split, repetitions within training or test are left, and those in both or in both conditions are a leak:
    ValueError.
    """
    first: dict[str, tuple[Recording, str, str]] = {}
    dropped: list[Refusal] = []
    leaks, twice = [], 0
    gone: set[Path] = set()
    order = sorted(pieces_of, key=lambda entry: (entry[0].file in division.made, entry[0].condition))
    for recording, pieces in order:
        for piece in pieces:
            name = recording.file + (f" at {piece.offset:g} s" if piece.offset else "")
            split = division.of(recording.file, piece.offset)
            other, other_name, other_split = first.setdefault(piece.sha256, (recording, name, split))
            if other_name == name:
                continue
            given = other.file not in division.made and recording.file not in division.made
            if given and (other.split, other.condition) != (recording.split, recording.condition):
                both = (other_name, other), (name, recording)
                leaks.append(" and ".join(f"{file} ({one.split}, {one.condition})" for file, one in both))
            elif given and other_split == split:
                twice += 1
            else:
                dropped.append(Refusal(name, f"has the same samples as {other_name}, which is kept"))
                gone.add(piece.path)
    if leaks:
        raise ValueError(f"the same samples stand twice, which is a leak: {'; '.join(leaks)}")
    if twice:
        log.warning("%d clips repeat the samples of another clip of their split", twice)
    for path in gone:
        path.unlink()
    return [(one, [piece for piece in pieces if piece.path not in gone]) for one, pieces in pieces_of], dropped


def _place(plan: Plan, pieces_of: list[tuple[Recording, list[Piece]]], out: Path) -> list[dict]:
    """Move the pieces to their names; return the rows of the manifest."""
    named = [(one, piece, len(pieces) == 1) for one, pieces in pieces_of for piece in pieces]
    named.sort(key=lambda entry: (entry[0].number is None, not entry[2], entry[0].file, entry[1].offset))
    rows, taken = [], set()
    for one, piece, whole in named:
        machine = one.machine_type, one.machine_id
        split = plan.division.of(one.file, piece.offset)
        clip = next(name for name in _names(one, piece, whole, split, *plan.slugs[machine]) if name not in taken)
        taken.add(clip)
        target = out / f"{clip}.flac"
        target.parent.mkdir(parents=True, exist_ok=True)
        piece.path.rename(target)
        row = {"clip": clip, "split": split, "subset": plan.subset[machine], "source": one.file}
        row |= {key: getattr(one, key) for key in ("machine_type", "machine_id", "condition", "domain", "attributes")}
        row |= {key: getattr(piece, key) for key in ("seconds", "offset", "sha256", "warnings")}
        rows.append(row)
    (out / ".pieces").rmdir()
    return rows


def _names(recording: Recording, piece: Piece, whole: bool, split: str, type_slug: str, id_slug: str) -> Iterator[str]:
    """Names for a clip, best first: with the number in the file's name, then with hashes of file and offset.

    Not numbered in turn, so that adding recordings renames no clip and what is made from the others stays valid.
    """
    if whole and recording.number is not None:
        yield clip_name(type_slug, split, recording.condition, id_slug, recording.number)
    for attempt in itertools.count():
        digits = hashlib.sha256(f"{recording.file}/{piece.offset:g}/{attempt}".encode()).hexdigest()
        yield clip_name(type_slug, split, recording.condition, id_slug, int(digits, 16) % 10**8)
