"""Networks and training states on disk, as safetensors and JSON only.

A model folder holds `model.safetensors` and `config.json`: all that is needed to rebuild the network and its front
end. A training state is one safetensors file; see `save_state`.
"""

import dataclasses
import json
import logging
import zlib
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from model.network import RCMAE, IdentityClassifier, NetworkConfig
from storage.files import read_json, sweep, whole_file, write_json

FORMAT = 1  # of both kinds of file; raised whenever an old one can no longer be read
STATES_KEPT = 2
Network = TypeVar("Network", RCMAE, IdentityClassifier)
Settings = TypeVar("Settings", bound=Any)  # a dataclass

log = logging.getLogger(__name__)


def save_model(folder: Path | str, network: RCMAE | IdentityClassifier, config: dict) -> None:
    """Write `network` and what belongs to it into `folder`, each file whole or not at all.

    `config` is anything JSON that travels with the weights: the log-mel settings, mean and std (dB), identities.
    Raises DiskFullError on a full disk.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    described = {
        "format": FORMAT,
        "network": type(network).__name__,
        "sizes": dataclasses.asdict(network.config),
        **config,
    }
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    with whole_file(folder / "model.safetensors", _bytes(weights)) as path:
        save_file(weights, path)
    write_json(folder / "config.json", described)


def load_model(folder: Path | str, network_class: type[Network]) -> tuple[Network, dict]:
    """The network in `folder`, on the CPU and in evaluation mode, and its config as `save_model` got it.

    The config also has `network` (the class's name) and `sizes`. Raises ValueError when the folder is not a whole model
    of this format and class, OSError when a file cannot be read.
    """
    folder = Path(folder)
    config = read_json(folder / "config.json")
    if config.get("format") != FORMAT:
        raise ValueError(f"{folder}/config.json has format {config.get('format')!r}, this version reads {FORMAT}")
    try:
        sizes = rebuilt(NetworkConfig, config["sizes"])
        if config["network"] != network_class.__name__:
            raise ValueError(f"it holds the network {config['network']}, not {network_class.__name__}")
        classes = [len(config["identities"])] if network_class is IdentityClassifier else []
        with torch.device("meta"):  # no random weights, which would be overwritten
            network = network_class(sizes, *classes)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{folder}/config.json is not a model's config: {_one_line(error)}") from None
    try:
        weights = load_file(folder / "model.safetensors")
        # copied, as the file may be overwritten while the network is in use
        copies = {name: tensor.to(torch.float32, copy=True) for name, tensor in weights.items()}
        network.load_state_dict(copies, assign=True)
    except (safetensors.SafetensorError, RuntimeError) as error:
        raise ValueError(f"{folder}/model.safetensors is damaged or of another network: {_one_line(error)}") from None
    return network.eval(), config


def save_state(folder: Path, step: int, tensors: dict[str, Tensor], about: dict) -> None:
    """Keep the state of a training after `step` steps: tensors by name, and JSON in the file's header.

    The newest two states stay. Raises DiskFullError on a full disk; the states that were there stay.
    """
    folder.mkdir(parents=True, exist_ok=True)
    sweep(folder)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    text = json.dumps({"format": FORMAT, "step": step, **about})
    header = {"about": text, "checksum": str(_checksum(tensors, text))}
    with whole_file(folder / f"step_{step:010d}.safetensors", _bytes(tensors)) as path:
        save_file(tensors, path, header)
    for old in sorted(folder.glob("step_*.safetensors"))[:-STATES_KEPT]:
        old.unlink()


def load_state(folder: Path) -> tuple[dict[str, Tensor], dict] | None:
    """The newest whole state in `folder` as (tensors, about), None when there is none.

    A state that is damaged or of another format is named and removed.
    """
    for path in sorted(folder.glob("step_*.safetensors"), reverse=True):
        try:
            with safetensors.safe_open(path, framework="pt") as file:
                header = file.metadata()
                about = json.loads(header["about"])
                if about["format"] != FORMAT:
                    raise ValueError(f"format {about['format']!r}, this version reads {FORMAT}")
                tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118, not a dict
            if str(_checksum(tensors, header["about"])) != header["checksum"]:
                raise ValueError("its content does not match its checksum")
            return tensors, about
        except (safetensors.SafetensorError, ValueError, KeyError, TypeError, OSError) as error:
            log.warning("checkpoint %s cannot be used (%s): falling back to the one before it", path, _one_line(error))
            with suppress(OSError):
                path.unlink(missing_ok=True)
    return None


def _bytes(tensors: dict[str, Tensor]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _checksum(tensors: dict[str, Tensor], about: str) -> int:
    checksum = zlib.crc32(about.encode())
    for name in sorted(tensors):
        checksum = zlib.crc32(tensors[name].flatten().view(torch.uint8).numpy().data, checksum)
    return checksum


def training_state(network: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Weights and optimiser state as tensors by name: `network.<parameter>`, `optimizer.<parameter number>.<entry>`."""
    tensors = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    for number, entries in optimizer.state_dict()["state"].items():
        tensors.update({f"optimizer.{number}.{name}": entry for name, entry in entries.items()})
    return tensors


def restore(network: nn.Module, optimizer: torch.optim.Optimizer, tensors: dict[str, Tensor]) -> None:
    """Put what `training_state` took back into `network` and `optimizer`. Raises ValueError when it does not fit."""
    weights = {name.removeprefix("network."): t for name, t in tensors.items() if name.startswith("network.")}
    state: dict[int, dict[str, Tensor]] = {}
    for name, tensor in tensors.items():
        if name.startswith("optimizer."):
            _, number, entry = name.split(".")
            state.setdefault(int(number), {})[entry] = tensor
    try:
        network.load_state_dict(weights)
        optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})
    except (RuntimeError, ValueError) as error:
        raise ValueError(f"the checkpoint is of another network: {_one_line(error)}") from None


def rebuilt(kind: type[Settings], values: dict) -> Settings:
    """The dataclass `kind` of `values`, none left out: a default in place of one would be another network's.

    Raises ValueError naming the fields that are missing or unknown, and what `kind` raises.
    """
    names = {field.name for field in dataclasses.fields(kind)}
    if wrong := sorted(names ^ set(values)):
        raise ValueError(f"{', '.join(map(str, wrong))}: missing or unknown; needed are {', '.join(sorted(names))}")
    return kind(**values)


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
