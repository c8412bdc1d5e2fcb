"""Which recordings train, calibrate and test: no neighbours in time on two sides, no clip on more than one.

The split is measured in clips, as long recordings are cut into them (`audio.recordings.piece_offsets`). It is made per
machine, from recordings that stay whole. Where that is not possible, as one recording holds more than a quarter of the
clips, this one is divided in time: its first part trains, then comes calibration, then test. Files that look like
consecutive pieces of one recording are treated as that recording.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from statistics import median
from typing import NamedTuple

from audio.recordings import CLIP_SECONDS, LONGEST_SECONDS, Recording, piece_offsets

TEST_SHARE = 0.2  # of a machine's healthy clips, kept to be judged; more only where there are as many anomalies
LARGEST_TEST_SHARE = 1 / 3  # of the healthy clips: what trains is most of them
FEWEST_TO_TRAIN = 3  # healthy training clips of some machine of each type: two are as far from each other as back
FEWEST_TO_TEST = 5  # healthy clips of a machine, below which all train
FEWEST_TO_CALIBRATE = 20  # training clips of a machine, below which all train
LARGE = 1 / 4  # of a machine's clips: a recording that holds more is divided in time
SERIES = 3  # files, at least, that look like pieces of one recording
PIECE_SECONDS = (0.9, 11.0)  # of such pieces
EQUAL = 0.02  # relative difference of lengths that count as equal

Atom = tuple[str, float]  # a clip before it is cut: file, and where it begins (s)
Machine = tuple[str, str]  # type, id


class Division(NamedTuple):
    """The split of each clip, and what was assumed to make it."""

    split: dict[Atom, str]
    made: frozenset[str]  # files whose split was not given by the layout
    notes: list[str]

    def of(self, file: str, offset: float) -> str:
        """Split of the clip that begins there; that of the clip before where the file's header was wrong."""
        while offset > 0 and (file, offset) not in self.split:
            offset -= CLIP_SECONDS
        return self.split[file, max(offset, 0.0)]


def divide(recordings: list[Recording], seconds: Mapping[str, float], seed: int, calibration_share: float) -> Division:
    """Give each clip a split. `seconds`: lengths of the files.

    A split that the layout gives stays; but where nothing at all is in test, it is made as if none were given. All
    anomalies of a made split are in test, with a share of the normals: TEST_SHARE, or as many clips as the anomalies
    have, up to LARGEST_TEST_SHARE. `calibration_share` of the training clips are for calibration, given split or not.
    """
    given = any(one.split == "test" for one in recordings)
    machines: dict[Machine, list[Recording]] = defaultdict(list)
    for recording in recordings:
        machines[recording.machine_type, recording.machine_id].append(recording)
    split: dict[Atom, str] = {}
    made: set[str] = set()
    series, divided, few = [], [], []
    for machine, group in machines.items():
        own = not (given and any(one.split for one in group))
        made |= {one.file for one in group if own or not one.split}
        for one in group:
            for atom in _atoms(one.file, seconds):
                split[atom] = "test" if one.condition == "anomaly" else (own and "train") or one.split or "train"
        healthy = [one for one in group if one.condition == "normal" and (own or one.split != "test")]
        units = list(_units(healthy, seconds))
        clips = sum(map(len, units))
        if own and clips >= FEWEST_TO_TEST:
            anomalies = sum(len(_atoms(one.file, seconds)) for one in group if one.condition == "anomaly")
            wanted = max(round(TEST_SHARE * clips), min(anomalies, int(LARGEST_TEST_SHARE * clips)), 1)
            units = _move("test", wanted, units, split, seed)
            clips = sum(map(len, units))
        elif own:
            few.append(machine)
        if clips >= FEWEST_TO_CALIBRATE:
            _move("calibration", round(calibration_share * clips), units, split, seed)
        series += [machine] * any(len({file for file, _ in unit}) > 1 for unit in _units(healthy, seconds))
        divided += [machine] * any(len({split[atom] for atom in unit}) > 1 for unit in _units(healthy, seconds))
    notes = []
    if not given and any(one.split for one in recordings):
        notes.append("nothing is in test: the split is made as if none were given")
    if series:
        notes.append(f"files that look like consecutive pieces of one recording are kept together: {_listed(series)}")
    if divided:
        notes.append(f"a recording is divided in time, into training, calibration and test: {_listed(divided)}")
    if few:
        notes.append(f"fewer than {FEWEST_TO_TEST} healthy clips, all of them train: {_listed(few)}")
    return Division(split, frozenset(made), notes)


def _atoms(file: str, seconds: Mapping[str, float]) -> list[Atom]:
    return [(file, offset) for offset in piece_offsets(seconds[file])]


def _units(recordings: list[Recording], seconds: Mapping[str, float]) -> Iterator[list[Atom]]:
    """What stays together, in the order of time: the clips of a recording, or of a series of pieces of one."""
    series: dict[tuple[str, str, str], list[tuple[int, str]]] = defaultdict(list)
    for one in recordings:
        folder, _, base = one.file.rpartition("/")
        number = re.search(r"(\d+)(\D*)$", base.rsplit(".", 1)[0])
        # the recordings of a DCASE task are recordings of their own, whatever their numbers
        if number and not (one.split and one.number is not None):
            series[folder, base[: number.start(1)], number[2]].append((int(number[1]), one.file))
        else:
            yield _atoms(one.file, seconds)
    for files in series.values():
        files.sort()
        if _are_pieces([seconds[file] for _, file in files]):
            yield [atom for _, file in files for atom in _atoms(file, seconds)]
        else:
            yield from (_atoms(file, seconds) for _, file in files)


def _are_pieces(lengths: list[float]) -> bool:
    """Whether files of these lengths (s) may be one recording cut evenly: all are equal but, maybe, the last."""
    middle = median(lengths)
    even = all(abs(one - middle) <= EQUAL * middle for one in lengths[:-1]) and lengths[-1] <= (1 + EQUAL) * middle
    return len(lengths) >= SERIES and PIECE_SECONDS[0] <= middle <= PIECE_SECONDS[1] and even


def _move(split: str, wanted: int, units: list[list[Atom]], splits: dict[Atom, str], seed: int) -> list[list[Atom]]:
    """Put `wanted` clips of the units, or nearly so many, into `split`; what is left of the units.

    Small units go whole, in an order drawn from `seed` and their names, so that a recording that is added moves few
    others; of each large one the end goes.
    """
    total = sum(map(len, units))
    if not wanted:
        return units
    order = sorted(units, key=lambda unit: hashlib.sha256(f"{seed}/{unit[0][0]}".encode()).digest())
    large = [unit for unit in order if len(unit) > max(LARGE * total, 1)]
    small = [unit for unit in order if len(unit) <= max(LARGE * total, 1)]
    share = wanted / total
    taken, kept = 0, []
    for unit in small:
        if taken + len(unit) / 2 <= share * sum(map(len, small)):
            taken += len(unit)
            splits.update(dict.fromkeys(unit, split))
        else:
            kept.append(unit)
    due, gone = 0.0, 0
    for unit in large:
        due += (wanted - taken) * len(unit) / sum(map(len, large))
        count = min(max(round(due) - gone, 0), len(unit) - 1)
        gone += count
        splits.update(dict.fromkeys(unit[len(unit) - count :], split))
        kept.append(unit[: len(unit) - count])
    return kept


def _listed(machines: list[Machine], most: int = 5) -> str:
    names = [" ".join(machine) for machine in machines]
    return ", ".join(names[:most]) + f" and {len(names) - most} more" * (len(names) > most)


def subset_of(recordings: Iterable[Recording]) -> dict[Machine, str]:
    """dev or additional for each (type, id).

    Additional are, as in DCASE 2020, those whose layout gives a split but no test recordings.
    """
    subset: dict[Machine, str] = {}
    for one in recordings:
        machine = one.machine_type, one.machine_id
        subset[machine] = "additional" if one.split == "train" and subset.get(machine) != "dev" else "dev"
    return subset


def check_corpus(clips: Iterable[tuple[str, str, str, str]], where: Path) -> None:
    """Raise ValueError, naming all that is wrong, unless networks can be trained on the clips.

    `clips`: (machine_type, machine_id, split, condition) of each. Needed are healthy training clips of every machine;
    anomalies and test clips are not.
    """
    training = _training(clips)
    without = [machine for machine, count in sorted(training.items()) if not count]
    if len(without) == len(training):
        raise ValueError(f"{where} has no healthy recordings to train on")
    if without:
        raise ValueError(f"{where}: no healthy recordings to train on, but others, of {_listed(without)}")


def check_enough(clips: Iterable[tuple[str, str, str, str]], where: Path) -> None:
    """Raise ValueError unless the clips, which pass `check_corpus`, suffice to train on and to tell how they score.

    Needed are FEWEST_TO_TRAIN training clips of one machine of each type, with whose scores the others are compared,
    and two of every machine where there are several, as fine-tuning puts clips of one machine together.
    """
    training = _training(clips)
    if single := [machine for machine, count in sorted(training.items()) if count == 1 < len(training)]:
        raise ValueError(f"{where}: a single healthy clip to train on, at least 2 are needed, of {_listed(single)}")
    most: dict[str, int] = defaultdict(int)
    for (machine_type, _), count in training.items():
        most[machine_type] = max(most[machine_type], count)
    if few := [name for name, count in sorted(most.items()) if count < FEWEST_TO_TRAIN]:
        raise ValueError(
            f"{where}: fewer than {FEWEST_TO_TRAIN} healthy clips to train on, of each machine of type "
            f"{', '.join(few)}: record more (what is longer than {LONGEST_SECONDS} s is cut into clips of "
            f"{CLIP_SECONDS} s)"
        )


def _training(clips: Iterable[tuple[str, str, str, str]]) -> dict[Machine, int]:
    training: dict[Machine, int] = defaultdict(int)
    for machine_type, machine_id, split, _ in clips:
        training[machine_type, machine_id] += split == "train"
    return training


def check_types(wanted: list[str], known: Iterable[str], where: Path) -> None:
    """Raise ValueError if a wanted machine type is not among the known ones."""
    known = sorted(set(known))
    if unknown := [one for one in wanted if one not in known]:
        raise ValueError(f"corpus.types has {', '.join(unknown)}; {where} has {', '.join(known)}")
