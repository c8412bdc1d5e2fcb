"""A detector on disk: what its folder holds, checked whole before anything of it is used."""

import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import safetensors
import safetensors.numpy

from audio.front_end import LogMelSettings
from audio.scale import Scale
from detection import learned
from detection.description import Description, Recordings, read_description, read_recordings, read_rows
from detection.fitting import Arrays
from detection.signing import check_signature, signature
from model.checkpoints import load_model, rebuilt, save_model
from model.network import RCMAE, IdentityClassifier
from storage.files import read_json, sha256, whole_file, whole_folder

NETWORKS = ("pretrained", "finetuned")


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
        for name, arrays in (("ensemble", ensemble), ("recordings", recordings.arrays())):
            with whole_file(partial / f"{name}.safetensors") as unfinished:
                safetensors.numpy.save_file({key: a.copy(order="C") for key, a in arrays.items()}, unfinished)
        rows = [row.model_dump() for row in recordings.rows]
        (partial / "recordings.json").write_text(json.dumps(rows, indent=0) + "\n", encoding="utf-8")
        (partial / "detector.json").write_text(description.model_dump_json(indent=1) + "\n", encoding="utf-8")
        sums = {path.relative_to(partial).as_posix(): sha256(path) for path in sorted(partial.rglob("*.*"))}
        (partial / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")
        if signed := signature((partial / "checksums.json").read_bytes()):
            (partial / "signature").write_text(signed + "\n", encoding="utf-8")


def read_folder(folder: Path) -> Folder:
    """The detector in `folder`, every file checked. Raises ValueError naming the file and the entry that is wrong."""
    if not (folder / "checksums.json").is_file():
        raise ValueError(f"{folder} holds no detector (no checksums.json): train one with `dvc repro`")
    signed = (folder / "signature").read_bytes() if (folder / "signature").is_file() else None
    check_signature(folder, (folder / "checksums.json").read_bytes(), signed)
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
    with _naming(folder / "ensemble.safetensors"):
        ensemble = _arrays(folder / "ensemble.safetensors")
        learned.check(ensemble, len(description.machines))
    with _naming(folder / "recordings.json"):
        rows = read_rows((folder / "recordings.json").read_bytes(), len(description.machines))
    with _naming(folder / "recordings.safetensors"):
        found = _arrays(folder / "recordings.safetensors")
        recordings = read_recordings(rows, found, config["logmel"]["n_mels"])
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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """A ValueError from here on begins with `path`."""
    try:
        yield
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def _description(path: Path) -> Description:
    with _naming(path):
        description = read_description(path.read_bytes())
    # the score stage writes no date, for its output must depend on its inputs alone: it is that of the file
    written = datetime.fromtimestamp(path.stat().st_mtime).astimezone().isoformat(timespec="seconds")
    return description if description.created else description.model_copy(update={"created": written})


def _check_config(path: Path, config: dict) -> None:
    """Raises ValueError when the front end or the scale of a network cannot be rebuilt."""
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
        raise ValueError(f"damaged: {' '.join(str(error).split())}") from None
