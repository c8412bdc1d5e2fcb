"""A detector as one file: an ONNX graph, with all that judging needs beside it in its metadata.

    detector    JSON, see `About`
    arrays      safetensors, in base64: the known recordings' figures, and what was learned and is not in the graph
    sha256      of all bytes of the file ahead of it: a file that is cut or changed is noticed
    signature   where RCMAE_KEY is set: HMAC of sha256, so that a change on purpose is, too

The last two are written behind the model, where a reader of ONNX takes them for metadata like the others. They are
looked at before anything in the file is read as a graph.
"""

import base64
import binascii
import hashlib
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import safetensors
import safetensors.numpy
from pydantic import Field, ValidationError, field_validator

from audio.front_end import LogMelSettings
from detection.description import Checked, Description, Recording, Recordings, mistake, read_recordings
from detection.fitting import Arrays
from detection.names import BACKENDS, NAMES
from detection.signing import check_signature, signature
from storage.files import whole_file

if TYPE_CHECKING:
    from onnx import ModelProto

FORMAT = 1
READ_AT_ONCE = 2**20  # bytes
DIGITS = 64  # of a SHA-256 in hexadecimal
REPRESENTATION = "representation."  # ahead of the name of an output that is no score

Figure = Annotated[float, Field(allow_inf_nan=False)]


class About(Checked):
    """What the graph's metadata say of the detector."""

    format: Literal[FORMAT] = FORMAT  # type: ignore[valid-type]
    description: Description
    front_end: dict[str, int | Figure]
    frames: Annotated[int, Field(ge=2, le=1_000_000)]  # of a window
    mel_centres: list[Figure]  # of the front end's bins (Hz)
    representations: list[Literal[tuple(dict.fromkeys(BACKENDS.values()))]]  # type: ignore[valid-type]
    backends: list[Literal[NAMES]]  # type: ignore[valid-type]
    recordings: list[Recording]
    # for those who run the graph themselves
    machines: list[str]  # names of the columns of every score
    deciding: dict[str, str]  # back-end by machine
    thresholds: dict[str, Figure]  # of that back-end, by machine

    @field_validator("front_end")
    @classmethod
    def _of_a_front_end(cls, values: dict[str, Any]) -> dict[str, Any]:
        wanted = [field.name for field in fields(LogMelSettings)]
        if values.keys() != set(wanted):
            raise ValueError(f"it has {', '.join(values)}, needed are {', '.join(wanted)}")
        LogMelSettings(**values)  # which checks them
        return values


# ------------------------------------------------------------------------------------------------------- writing


def write(path: Path, model: "ModelProto", about: About, recordings: Recordings, aside: Arrays) -> None:
    """Write a detector to `path`, whole. `aside` are the arrays that were learned and are not in the graph."""
    import onnx

    arrays = {f"recordings.{name}": array for name, array in recordings.arrays().items()}
    arrays |= {f"learned.{name}": array for name, array in aside.items()}
    packed = safetensors.numpy.save({name: array.copy(order="C") for name, array in arrays.items()})
    onnx.helper.set_model_props(
        model, {"detector": about.model_dump_json(), "arrays": base64.b64encode(packed).decode("ascii")}
    )
    body = model.SerializeToString()
    digest = hashlib.sha256(body).hexdigest()
    signed = signature(digest.encode())
    with whole_file(path, len(body)) as unfinished, unfinished.open("wb") as file:
        file.write(body)
        file.write(_property("sha256", digest))
        file.write(_property("signature", signed) if signed else b"")


def _property(key: str, value: str) -> bytes:
    """An entry of a model's metadata as it stands in an ONNX file (field 14 of ModelProto; all lengths below 128)."""
    entry = b"\x0a" + bytes([len(key)]) + key.encode() + b"\x12" + bytes([len(value)]) + value.encode()
    return b"\x72" + bytes([len(entry)]) + entry


# ------------------------------------------------------------------------------------------------------- reading


def check(path: Path) -> None:
    """Raises ValueError where the file is not as it was written, or not signed by the key that is set."""
    blank = "0" * DIGITS
    size, signed = path.stat().st_size, None
    with path.open("rb") as file:

        def ends(end: int, key: str) -> bytes | None:
            """The value of the entry `key`, if it stands ahead of the place `end`."""
            whole = _property(key, blank)
            file.seek(max(0, end - len(whole)))
            found = file.read(len(whole))
            return found[-DIGITS:] if found[:-DIGITS] == whole[:-DIGITS] else None

        if (signed := ends(size, "signature")) is not None:
            size -= len(_property("signature", blank))
        if (digest := ends(size, "sha256")) is None:
            raise ValueError(f"{path} is cut, or is no detector that `detect.py export` wrote")
        left = size - len(_property("sha256", blank))
        file.seek(0)
        found = hashlib.sha256()
        while left and (block := file.read(min(left, READ_AT_ONCE))):
            found.update(block)
            left -= len(block)
    if found.hexdigest().encode() != digest:
        raise ValueError(f"{path} is not the file that was saved (its SHA-256 differs)")
    check_signature(path, digest, signed)


def read(path: Path, metadata: Mapping[str, str]) -> tuple[About, Recordings, Arrays]:
    """What `write` was given, from the metadata of a graph. Raises ValueError, naming `path` and what is wrong."""
    try:
        about = About.model_validate_json(metadata["detector"])
        arrays = safetensors.numpy.load(base64.b64decode(metadata["arrays"], validate=True))
        if unknown := [row.machine for row in about.recordings if row.machine >= len(about.machines)]:
            raise ValueError(f"machine {unknown[0]} is not one of the {len(about.machines)} of the detector")
        names = [f"{machine.type}/{machine.id}" for machine in about.description.machines]
        if about.machines != names or len(about.mel_centres) != about.front_end["n_mels"]:
            raise ValueError("machines or mel_centres are not those of the detector")
        if len(set(about.backends)) < len(about.backends):
            raise ValueError("one of the backends stands in it twice")
        known = _named(arrays, "recordings.")
        recordings = read_recordings(about.recordings, known, int(about.front_end["n_mels"]))
    except KeyError as error:
        raise ValueError(f"{path} has no {error}: `detect.py export` did not write it") from None
    except ValidationError as error:
        raise ValueError(f"{path}: {mistake(error)}") from None
    except (safetensors.SafetensorError, binascii.Error) as error:
        raise ValueError(f"{path}: arrays is damaged: {' '.join(str(error).split())}") from None
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None
    return about, recordings, _named(arrays, "learned.")


def _named(arrays: Arrays, prefix: str) -> Arrays:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
