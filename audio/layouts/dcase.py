"""Names of the DCASE Challenge's Task 2: of 2020, and of 2021 to 2026.

2020: `<type>/{train,test}/{normal,anomaly}_id_NN_NNNNNNNN.wav`.

Since 2021: `<type>/{train,test,source_test,target_test}/section_NN_{source,target}_{train,test}_{normal,anomaly}_NNNN_
<attributes>.wav`. Evaluation clips do not say their labels (`section_NN_[{source,target}_][test_]NNNN.wav`); these are
taken from the tables that the evaluators of the tasks ship, if they lie somewhere in the corpus folder: in
`ground_truth_*/ground_truth_<type>_section_NN_*test.csv` the rows `file,0` (normal) and `file,1`, in
`ground_truth_domain` 0 for source and 1 for target, in `ground_truth_attributes` the whole name.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from audio.layouts.folders import checked
from audio.layouts.words import condition_of, split_of
from audio.manifest import ClipName
from audio.recordings import Recording, Refusal
from storage.tables import read_rows

_SECTION = re.compile(r"(section_\d{2})_(source|target)_(train|test)_(normal|anomaly)_(\d{4,8})(?:_(.*))?")
_UNLABELLED = re.compile(r"(section_\d{2})_(?:(source|target)_)?(?:test_)?(\d{4,8})")
_TRUTH = re.compile(r"ground_truth_(.+)_section_\d{2}_(?:source_|target_)?test\.csv")
SUPPLEMENTAL = "supplemental"  # folder of clips of noise, or of clean machines, since 2025
_NO_ATTRIBUTES = ("", "noattribute", "noattributes")
TARGET_NUMBERS = 10_000_000  # added to a target clip's number: both domains count from 0


@dataclass
class Truth:
    """What ground truth tables say of the test clips (type, stem)."""

    conditions: dict[tuple[str, str], str] = field(default_factory=dict)
    domains: dict[tuple[str, str], str] = field(default_factory=dict)
    names: dict[tuple[str, str], str] = field(default_factory=dict)  # whole names, with domain, condition, attributes


def read_truth(folder: Path, files: list[str]) -> Truth:
    """The ground truth tables among `files`. Raises ValueError naming file and line of what is no row of one."""
    truth = Truth()
    for file in files:
        if not (match := _TRUTH.fullmatch(file.rsplit("/", 1)[-1])):
            continue
        for number, row in read_rows(folder / file):
            value = row[1] if len(row) == 2 else ""
            clip = match[1], row[0].rsplit(".", 1)[0]
            if "ground_truth_attributes" in file.split("/") and value:
                truth.names[clip] = value.removesuffix(".wav")
            elif "ground_truth_domain" in file.split("/") and value in ("0", "1"):
                truth.domains[clip] = ("source", "target")[int(value)]
            elif condition := {"0": "normal", "1": "anomaly"}.get(value, condition_of(value)):
                truth.conditions[clip] = condition
            else:
                raise ValueError(f"{folder / file}, line {number}: {','.join(row)!r} is not <file>,<0 or 1>")
    return truth


def in_dcase(files: list[str], root: str, truth: Truth) -> tuple[list[Recording | Refusal], list[str], list[str]]:
    """What the DCASE names among `files` say, the files that lie in no folder of such a task, and notes.

    A folder of a type is one in which some clip has a DCASE name; whatever else lies in it is refused. `root` is the
    name of the folder that `files` are relative to, the type where there is no folder of one.
    """
    of_type = {}  # of each folder: the folders of its type
    for file in files:
        *parents, base = file.split("/")
        if parents and _is_dcase(parents[-1], base.rsplit(".", 1)[0]):
            of_type[tuple(parents[:-1])] = parents[-2] if len(parents) > 1 else root
    found: list[Recording | Refusal] = []
    rest, supplemental = [], 0
    for file in files:
        folders = tuple(file.split("/")[:-1])
        above = next((folders[:end] for end in range(len(folders), -1, -1) if folders[:end] in of_type), None)
        if above is None:
            rest.append(file)
        elif SUPPLEMENTAL in folders:
            supplemental += 1
        else:
            found.append(_clip(file, of_type[above], folders[len(above) :], truth))
    notes = [f"{supplemental} supplemental clips are not taken: they hold noise, or clean machines"] * bool(
        supplemental
    )
    return found, rest, notes


def _is_dcase(folder: str, stem: str) -> bool:
    if folder == SUPPLEMENTAL:
        return stem.startswith("section_")
    return bool(split_of(folder) and (_SECTION.fullmatch(stem) or _UNLABELLED.fullmatch(stem) or _is_2020(stem)))


def _is_2020(stem: str) -> bool:
    try:
        return bool(ClipName.parse(stem))
    except ValueError:
        return False


def _clip(file: str, machine_type: str, folders: tuple[str, ...], truth: Truth) -> Recording | Refusal:
    stem = file.rsplit("/", 1)[-1].rsplit(".", 1)[0]
    if len(folders) != 1 or not split_of(folders[0]):
        return Refusal(file, f"lies beside clips of a DCASE task, but not in train or test of {machine_type}")
    if _is_2020(stem):
        name = ClipName.parse(stem)
        return checked(
            Recording(file, machine_type, name.machine_id, split_of(folders[0]), name.condition, name.number)
        )
    if unlabelled := _UNLABELLED.fullmatch(stem):
        return _evaluation_clip(file, machine_type, stem, unlabelled, truth)
    if not (section_clip := _SECTION.fullmatch(stem)):
        return Refusal(file, f"name {stem!r} is not of the form of a DCASE task, as others in {machine_type} are")
    section, domain, split, condition, number, attributes = section_clip.groups()
    if split != split_of(folders[0]):
        return Refusal(file, f"a clip of {split} by its name, of {split_of(folders[0])} by its folder")
    return _section_clip(file, machine_type, section, split, condition, number, domain, attributes or "")


def _evaluation_clip(file: str, machine_type: str, stem: str, name: re.Match, truth: Truth) -> Recording | Refusal:
    section, domain, number = name.groups()
    clip = machine_type, stem
    whole = _SECTION.fullmatch(truth.names.get(clip, ""))
    condition = truth.conditions.get(clip, whole[4] if whole else "")
    if not condition:
        return Refusal(file, "an evaluation clip without a label: no ground_truth table in the folder has it")
    domain = domain or truth.domains.get(clip, whole[2] if whole else "")
    return _section_clip(
        file, machine_type, section, "test", condition, number, domain, (whole[6] or "") if whole else ""
    )


def _section_clip(
    file: str, machine_type: str, section: str, split: str, condition: str, number: str, domain: str, attributes: str
) -> Recording | Refusal:
    attributes = attributes.strip("_")
    if attributes.casefold() in _NO_ATTRIBUTES:
        attributes = ""
    place = int(number) + TARGET_NUMBERS * (domain == "target")
    return checked(Recording(file, machine_type, section, split, condition, place, domain, attributes))
