"""What a changed detector says: `python -m benchmarks.tampering DETECTOR RECORDING… --machine … --id …`.

Each mutation changes a copy of the detector: flips a bit, cuts a file, or changes a value in its JSON. Half of them
leave the checksums as they were, which is damage; half make them anew, which is intent. Counted are the copies that are
refused, those that judge all recordings as the detector does, and those that give another verdict without an error.
With RCMAE_KEY set, copies whose checksums were made anew are refused by the signature.
"""

import argparse
import json
import random
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.measuring import show
from detection.detector import Detector
from storage.files import sha256

VALUES: tuple[Any, ...] = (None, True, -1, 0, 1e30, "", "x", [], {}, "../x")  # that a value of JSON is changed to


def flip_bit(file: Path, rng: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file: Path, rng: random.Random) -> None:
    file.write_bytes(file.read_bytes()[: rng.randrange(file.stat().st_size)])


def edit(file: Path, rng: random.Random) -> None:
    """Change or remove a value somewhere in a JSON file."""
    found = json.loads(file.read_text(encoding="utf-8"))
    place: Any = found
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))
        key = rng.choice(keys)
        if isinstance(place[key], dict | list) and place[key] and rng.random() < 0.8:
            place = place[key]
            continue
        if rng.random() < 0.2:
            del place[key]
        else:
            place[key] = rng.choice(VALUES)
        break
    file.write_text(json.dumps(found), encoding="utf-8")


WAYS: dict[str, Callable[[Path, random.Random], None]] = {"bit flipped": flip_bit, "file cut": cut, "JSON edited": edit}


def mutate(folder: Path, way: str, anew: bool, rng: random.Random) -> str:
    """Change one file of the detector in `folder`, and its checksum where `anew`; gives its name."""
    files = sorted(path for path in folder.rglob("*.*") if path.name != "checksums.json")
    file = rng.choice([path for path in files if way != "JSON edited" or path.suffix == ".json"])
    WAYS[way](file, rng)
    name = file.relative_to(folder).as_posix()
    if anew:
        sums = json.loads((folder / "checksums.json").read_text())
        (folder / "checksums.json").write_text(json.dumps(sums | {name: sha256(file)}))
    return name


def measure(detector: Path, recordings: list[Path], machine: tuple[str, str], count: int, seed: int) -> list[dict]:
    """A row per way: how many of its copies were refused, gave the same verdicts, and gave others."""
    rng = random.Random(seed)
    rows: dict[tuple[str, bool], Counter] = {}
    with tempfile.TemporaryDirectory() as folder:

        def verdicts(model: Path) -> list[tuple]:
            loaded = Detector.load(model)
            found = [loaded.score_file(path, *machine) for path in recordings]
            return [(verdict.word, verdict.p_value, verdict.threshold) for verdict in found]

        true = verdicts(detector)
        for number in range(count):
            way, anew = list(WAYS)[number % len(WAYS)], number // len(WAYS) % 2 == 1
            copy = Path(shutil.copytree(detector, Path(folder) / "copy", dirs_exist_ok=False))
            name = mutate(copy, way, anew, rng)
            try:
                found = verdicts(copy)
                outcome = "as before" if found == true else f"other figures ({name})"
                if [word for word, *_ in found] != [word for word, *_ in true]:
                    outcome = f"another verdict ({name})"
            except (ValueError, OSError):
                outcome = "refused"
            except Exception as error:  # a bug, which the table shows
                outcome = f"traceback: {type(error).__name__} ({name})"
            rows.setdefault((way, anew), Counter())[outcome] += 1
            shutil.rmtree(copy)
    return [{"change": way, "checksums": "made anew" if anew else "kept"} | dict(rows[way, anew]) for way, anew in rows]


def main(arguments: list[str] | None = None, out: Path | None = None) -> list[dict]:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("detector", type=Path)
    parser.add_argument("recordings", type=Path, nargs="+")
    parser.add_argument("--machine", required=True)
    parser.add_argument("--id", required=True)
    parser.add_argument("--count", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    chosen = parser.parse_args(arguments)
    rows = measure(chosen.detector, chosen.recordings, (chosen.machine, chosen.id), chosen.count, chosen.seed)
    show("tampering", rows, {"count": chosen.count, "seed": chosen.seed}, out)
    return rows


if __name__ == "__main__":
    main()
