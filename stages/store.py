"""What the store holds: `python -m stages.store` shows it, `--prune` removes what no lock file names.

A lock file names what its run took from the store: clips and reference scores by the keys that its outputs in DVC's
cache list, spectrograms and wall times by its params, archives by its corpus. The lock files are those of the working
tree and of all branches, tags and experiments, here and in the other clones given. Checkpoints of unfinished trainings
and clips of unfinished runs are in none: what is younger than `--days` stays.

`--sweep` removes only what killed runs left half-written, in the store and in .dvc/tmp.
"""

import argparse
import csv
import json
import logging
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil
import yaml
from pydantic import ValidationError

from audio.dcase2020 import read_archives
from stages.command import duration_key
from stages.params import Params, read
from stages.paths import AUGMENTED, SCORES
from storage.files import sweep
from storage.imports import ROOT
from storage.store import Store, store_folder

DAY = 24 * 3600.0  # seconds
STARTING = 60.0  # seconds in which `dvc exp run --temp` enters the folder that it made
SUFFIXES = {"augmented": ".flac", "features": ".safetensors", "peers": ".npz", "durations": ".json"}
KINDS = (*SUFFIXES, "archives", "checkpoints")

log = logging.getLogger(__name__)


@dataclass
class Named:
    """What the lock files name of each kind: names of entries, or of folders of them."""

    names: dict[str, set[str]] = field(default_factory=lambda: {kind: set() for kind in KINDS})
    unknown: dict[str, list[str]] = field(default_factory=dict)  # kind: lock files of which it cannot be told

    def holds(self, kind: str, file: Path) -> bool:
        """Whether a lock file names `file`, a path below the kind's folder."""
        if "unfinished" in file.parts:
            return False
        if kind == "archives":
            return any(file.name.startswith(name) for name in self.names[kind])
        if kind == "features":  # by settings and code, not by array; what lies elsewhere is of an earlier version
            return file.parts[0] in self.names[kind] and len(file.parts) == 3
        return file.name.split(".")[0] in self.names[kind]


def lock_files(clone: Path) -> dict[str, str]:
    """The different lock files of a clone: {the first place that has it: its text}."""
    places = {
        "working tree": (clone / "dvc.lock").read_text(encoding="utf-8") if (clone / "dvc.lock").is_file() else ""
    }
    listed = _git(clone, "for-each-ref", "--format=%(refname)", "refs/heads", "refs/tags", "refs/exps")
    for ref in ["HEAD", *listed.split()]:
        places[ref] = _git(clone, "show", f"{ref}:./dvc.lock")
    first = {text: place for place, text in reversed(places.items()) if text}
    return {f"{clone} {place}": text for text, place in first.items()}


def _git(clone: Path, *arguments: str) -> str:
    """What git prints; nothing where it fails, as in a folder that is no repository."""
    return subprocess.run(["git", "-C", str(clone), *arguments], capture_output=True, text=True).stdout


def named(clones: list[Path]) -> Named:
    """What the lock files of `clones` name."""
    found = Named()
    for clone in clones:
        locks = lock_files(clone)
        if not locks:
            raise ValueError(f"{clone} has no dvc.lock: nothing can be told to be needed, so nothing is removed")
        cache = _cache(clone)
        for place, text in locks.items():
            stages = yaml.safe_load(text)["stages"]
            _add_from_output(found, "augmented", stages, AUGMENTED, "audit.csv", _keys_of_audit, cache, place)
            _add_from_output(found, "peers", stages, SCORES, "peers.json", _keys_of_list, cache, place)
            _add_from_params(found, stages, clone)
    return found


def _cache(clone: Path) -> Path:
    from dvc.exceptions import NotDvcRepoError  # slow to import, and a sweep can do without
    from dvc.repo import Repo

    try:
        return Path(Repo(str(clone)).cache.local.path)
    except NotDvcRepoError:
        raise ValueError(f"{clone} is no DVC repository") from None


def _add_from_output(
    found: Named,
    kind: str,
    stages: dict,
    out: Path,
    name: str,
    read: Callable[[Path], set[str]],
    cache: Path,
    place: str,
) -> None:
    """Add the keys that `read` finds in the file `name` of a lock file's output `out`."""
    digests = [
        entry.get("md5") for stage in stages.values() for entry in stage.get("outs", []) if entry["path"] == str(out)
    ]
    for digest in filter(None, digests):
        try:
            listing = json.loads((cache / digest[:2] / digest[2:]).read_text(encoding="utf-8"))
            for entry in listing:
                if entry["relpath"] == name:
                    found.names[kind] |= read(cache / entry["md5"][:2] / entry["md5"][2:])
        except FileNotFoundError:
            found.unknown.setdefault(kind, []).append(place)


def _keys_of_audit(path: Path) -> set[str]:
    with path.open(encoding="utf-8", newline="") as file:
        return {row["key"] for row in csv.DictReader(file)}


def _keys_of_list(path: Path) -> set[str]:
    return set(json.loads(path.read_text(encoding="utf-8")))


def _add_from_params(found: Named, stages: dict, clone: Path) -> None:
    """Add what follows from a lock file's params. Those of today stand in for what an earlier version did not have."""
    from stages.logmel_feature import front_end_key, settings_of  # loads torch, which a sweep can do without

    values = read(ROOT / "params.yaml").model_dump()
    # The report's are those of all stages, but an experiment may not have drawn it: the others' own come after it.
    for stage in sorted(stages, reverse=True, key=lambda name: name == "report"):
        for key, value in stages[stage].get("params", {}).get("params.yaml", {}).items():
            group, _, name = key.partition(".")
            if isinstance(values.get(group), dict):
                of_group = {name: value} if name else value
                values[group] |= {name: value for name, value in of_group.items() if name in values[group]}
            elif group in values:
                values[group] = value
    try:
        params = Params.model_validate(values)
    except ValidationError:
        return  # values that are no longer allowed
    found.names["features"].add(front_end_key(settings_of(params.logmel)))
    known = yaml.safe_load((ROOT / "dvc.yaml").read_text(encoding="utf-8"))["stages"]
    found.names["durations"] |= {duration_key(stage, params, ROOT) for stage in known}
    table = clone / params.corpus.path
    if table.suffix == ".csv" and table.is_file():
        found.names["archives"] |= {archive.stored for archive in read_archives(table)}


@dataclass
class Content:
    """Files of a kind: (path below the kind's folder, bytes) of those that stay and those that may go."""

    kept: list[tuple[Path, int]]
    unnamed: list[tuple[Path, int]]


def content(kind: str, names: Named, days: float) -> Content:
    """What the store holds of `kind`; what is younger than `days` stays, and all where nothing can be told."""
    folder, found = store_folder(kind), Content([], [])
    for path in sorted(folder.rglob("*")):
        with suppress(FileNotFoundError):  # gone meanwhile
            state = path.stat()
            if path.is_file():
                stays = time.time() - state.st_mtime < days * DAY or kind in names.unknown
                stays = stays or names.holds(kind, path.relative_to(folder))
                (found.kept if stays else found.unnamed).append((path, state.st_size))
    return found


def remove(kind: str, files: list[tuple[Path, int]]) -> None:
    """Remove files of a kind, and the folders that are empty then."""
    folder = store_folder(kind)
    for path, _ in files:
        path.unlink(missing_ok=True)
    for parent in sorted(
        {above for path, _ in files for above in path.parents if folder in above.parents}, reverse=True
    ):
        with suppress(OSError):  # not empty
            parent.rmdir()


def sweep_store() -> list[Path]:
    """Remove what killed processes left half-written in the store."""
    removed = []
    for kind, suffix in SUFFIXES.items():
        folder = store_folder(kind)
        for place in folder.glob("*") if kind == "features" else [folder]:
            removed += Store(place, suffix).sweep()
    for folder in store_folder("checkpoints").glob("*"):
        removed += sweep(folder)
    return removed


def sweep_experiments(clone: Path) -> Iterator[Path]:
    """Remove the copies of the workspace that killed `dvc exp run --temp` left, which `dvc exp clean` does not.

    A run works in its copy: no process that has its working directory there means that the run is no more.
    """
    copies = [*(clone / ".dvc/tmp/exps/standalone").glob("tmp*"), *(clone / ".dvc/tmp/exps").glob("tmp*")]
    if not copies:
        return
    used = [Path(place) for process in psutil.process_iter(["cwd"]) if (place := process.info["cwd"])]
    for copy in copies:
        resolved = copy.resolve()
        if not any(resolved in (place, *place.parents) for place in used) and _idle(copy) > STARTING:
            shutil.rmtree(copy, ignore_errors=True)
            yield copy


def _idle(folder: Path) -> float:
    return time.time() - max(path.stat().st_mtime for path in (folder, *folder.iterdir()))


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("clones", nargs="*", type=Path, help="other clones whose lock files count, too")
    parser.add_argument("--prune", action="store_true", help="remove what no lock file names")
    parser.add_argument("--dry-run", action="store_true", help="list what --prune removes, and remove nothing")
    parser.add_argument("--sweep", action="store_true", help="remove what killed runs left half-written, nothing else")
    parser.add_argument("--days", type=float, default=7, help="what is younger stays (default: 7)")
    asked = parser.parse_args(arguments)
    logging.basicConfig(level="INFO", format="%(message)s", stream=sys.stderr)
    try:
        run(asked.clones, asked.prune, asked.dry_run, asked.sweep, asked.days)
    except (ValueError, OSError) as error:
        sys.exit(f"store: {error}")


def run(clones: list[Path], prune: bool, dry_run: bool, sweep_only: bool, days: float) -> None:
    """Print what the store holds, and remove what is asked for."""
    here = Path()
    if not dry_run and (prune or sweep_only):
        for path in [*sweep_store(), *(copy for clone in (here, *clones) for copy in sweep_experiments(clone))]:
            log.info("%s: left by a killed run, removed", path)
    if sweep_only:
        return
    names = named([here, *clones])
    for kind, places in names.unknown.items():
        where = ", ".join(places[:3]) + (" …" if len(places) > 3 else "")
        log.warning("what %s took of %s is not in DVC's cache (`dvc fetch`): nothing of it is removed", where, kind)
    print(f"{store_folder('')}\n{'':12} {'files':>8} {'MB':>10}   {'in no lock file':>8} {'MB':>10}")
    for kind in KINDS:
        held = content(kind, names, days)
        total, free = (sum(size for _, size in files) / 1e6 for files in (held.kept + held.unnamed, held.unnamed))
        count = len(held.kept) + len(held.unnamed)
        print(f"{kind:12} {count:8} {total:10.1f}   {len(held.unnamed):8} {free:10.1f}")
        if dry_run:
            for path, _ in held.unnamed:
                print(f"would remove {path}")
        elif prune:
            remove(kind, held.unnamed)
            log.info("removed %d files of %s", len(held.unnamed), kind)


if __name__ == "__main__":
    main()
