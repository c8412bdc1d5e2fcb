"""Clip names, which are those of DCASE 2020 Task 2 where machines have its ids, and the table of a corpus's clips."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

COLUMNS = [
    "clip",  # path below the corpus folder, without suffix, in ASCII: fan/train/normal_id_00_00000000
    "machine_type",  # as it is shown, any text without '/'
    "machine_id",  # likewise: id_00, Pump 3A
    "split",  # train, calibration (healthy, read by no training and no fit) or test
    "condition",  # normal or anomaly
    "subset",  # dev, or additional: identities of the DCASE 2020 additional training data, which have no test clips
    "seconds",
    "sha256",  # of the decoded samples at 16 kHz
    "source",  # file that the clip comes from, relative to the corpus; empty for synthetic clips
    "offset",  # where the clip begins in it (seconds); above 0 in long recordings, which are cut
    "domain",  # source or target, of DCASE tasks since 2021; else empty
    "attributes",  # of the machine's operation, as those tasks write them: vel_6_noise_1; else empty
    "warnings",  # what is to be said of the recording that was read: clipped, truncated …; mostly empty
]
ROWS = 1000  # read at once
CONDITIONS = ("normal", "anomaly")
_READING = {
    "dtype": dict.fromkeys(COLUMNS, str) | {"seconds": float, "offset": float},
    "keep_default_na": False,
    "na_values": {"seconds": [""], "offset": [""]},
}
_NAME = re.compile(r"(normal|anomaly)_(id_\d{2})_(\d{8})")


@dataclass(frozen=True)
class ClipName:
    """What the DCASE 2020 base name of a clip says.

    >>> ClipName.parse("anomaly_id_04_00000012")
    ClipName(condition='anomaly', machine_id='id_04', number=12)
    """

    condition: str
    machine_id: str
    number: int

    @classmethod
    def parse(cls, stem: str) -> "ClipName":
        """Parse a base name without suffix. The whole of it must match: folder names say nothing about a clip."""
        match = _NAME.fullmatch(stem)
        if not match:
            raise ValueError(f"name {stem!r} is not of the form {{normal,anomaly}}_id_NN_NNNNNNNN")
        return cls(match[1], match[2], int(match[3]))

    def __str__(self) -> str:
        return f"{self.condition}_{self.machine_id}_{self.number:08d}"


def clip_name(type_slug: str, split: str, condition: str, id_slug: str, number: int) -> str:
    """A clip's path below the corpus folder, without suffix; the slugs see `audio.names`.

    >>> clip_name("fan", "train", "normal", "id_00", 7)
    'fan/train/normal_id_00_00000007'
    """
    return f"{type_slug}/{split}/{condition}_{id_slug}_{number:08d}"


def read_manifest(path: Path) -> pd.DataFrame:
    """The manifest at `path`, one row per clip; all columns are text but seconds and offset."""
    return pd.read_csv(path, **_READING)


def manifest_rows(path: Path) -> Iterator[dict]:
    """The rows of the manifest at `path` one after another, in memory that does not grow with it."""
    with pd.read_csv(path, chunksize=ROWS, **_READING) as parts:
        for part in parts:
            yield from part.to_dict("records")


def write_manifest(path: Path, clips: Iterable[dict]) -> pd.DataFrame:
    """Write the manifest of `clips` (dicts with the keys of COLUMNS), sorted by clip, and return it."""
    table = pd.DataFrame(clips, columns=COLUMNS).sort_values("clip", ignore_index=True)
    table.to_csv(path, index=False, lineterminator="\n")
    return table
