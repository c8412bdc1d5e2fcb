"""The loop that both trainings share: devices, steps, checkpoints, curves and progress.

A run is exact: with the same seed, resumed or not, it ends with bit-identical weights on the same machine.
"""

import logging
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from model.batches import Share, prefetched
from model.checkpoints import load_state, restore, save_state, training_state
from model.devices import Precision, launch
from storage.memory import keep_freed_memory

if TYPE_CHECKING:
    from lightning_fabric import Fabric

CHECKPOINT_SECONDS = 60.0  # between two checkpoints: what a killed run loses at most, and one epoch's last step
LOG_SECONDS = 30.0  # between two lines of progress where there is no terminal

log = logging.getLogger(__name__)


class Objective(Protocol):
    """What is trained: which clips make up an epoch, how they become a batch, and what its losses are."""

    def batches(self, epoch: int) -> list[np.ndarray]:
        """The global batches of an epoch, as numbers of clips."""

    def load(self, epoch: int, step: int, clips: np.ndarray) -> Any:
        """This process's share of a global batch, on the CPU; called by a thread ahead of time."""

    def losses(self, network: nn.Module, batch: Any) -> tuple[dict[str, Tensor], Tensor]:
        """Loss terms, and the global batch's embeddings (B, D); "loss" is the one to minimise.

        The mean of a term over the processes is its value on the global batch.
        """

    def names(self, clips: np.ndarray) -> list[str]:
        """The clips' names."""


def make_fabric(precision: Precision | Literal["auto"]) -> "Fabric":
    """Launch on all devices, see `model.devices.launch`, for exact training.

    `precision` is bf16-mixed, 32-true, or auto: bf16 where the device multiplies it natively.
    """
    if precision == "auto":
        precision = "bf16-mixed" if native_bf16() else "32-true"
    fabric = launch(precision)
    if fabric.device.type == "cpu":
        keep_freed_memory()
        forget_old_shapes()
    if fabric.device.type == "cuda":
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    if fabric.is_global_zero:
        log.info("training on %d x %s, %s", fabric.world_size, fabric.device.type, precision)
    return fabric


def forget_old_shapes() -> None:
    """Let oneDNN keep what it compiled for the last few batches alone. Has an effect before its first use only.

    It compiles each product anew for other shapes and keeps 1024 of them. The number of visible tokens differs from
    batch to batch, so that hundreds of MB collect, scattered over the memory that the next batch needs in one piece. A
    step at the default size takes some 30.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "64")
    os.environ.setdefault("LRU_CACHE_CAPACITY", "16")  # of the layer between torch and oneDNN


def native_bf16() -> bool:
    """Whether the device that Fabric chooses by itself has bfloat16 matrix products of its own."""
    if torch.cuda.is_available():
        return torch.cuda.is_bf16_supported(including_emulation=False)
    if torch.backends.mps.is_available():
        return False
    return torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()


def gather(fabric: "Fabric", share: Share, x: Tensor) -> Tensor:
    """Rows (m, D) of all processes as the global batch (total, D), in float32 and with gradients.

    Every process computes the same loss of the gathered rows. The gather's backward sums over processes and DDP
    averages: together the gradient of the one global loss.
    """
    if fabric.world_size == 1:
        return x.float()
    return share.rows_of(cast(Tensor, fabric.all_gather(x.float(), sync_grads=True)))


def effective_rank(embedding: Tensor) -> float:
    """exp(entropy) of the normalised singular values of centred embeddings (B, D): 1 is collapse, at most B - 1."""
    values = torch.linalg.svdvals(embedding.detach().float() - embedding.detach().float().mean(dim=0))
    share = values / values.sum().clamp(min=1e-12)
    return float(torch.exp(-torch.xlogy(share, share).sum()))


def rate_at(step: int, steps: int, learning_rate: float, schedule: str) -> float:
    """The learning rate of a step (from 0) of `steps`.

    constant is `learning_rate` throughout. cosine rises to it over the first twentieth of the steps,
    and falls to 0 along half a cosine.
    """
    if schedule == "constant":
        return learning_rate
    if schedule != "cosine":
        raise ValueError(f"schedule is {schedule!r}, allowed are constant and cosine")
    warm_up = max(steps // 20, 1)
    if step < warm_up:
        return learning_rate * (step + 1) / warm_up
    return learning_rate * (1 + math.cos(math.pi * (step - warm_up) / max(steps - warm_up, 1))) / 2


def train(
    fabric: "Fabric",
    network: nn.Module,
    objective: Objective,
    epochs: int,
    learning_rate: float,
    schedule: str,
    checkpoints: Path,
    on_epoch: Callable[[dict[str, float]], None],
) -> None:
    """Train `network` in place, with Adam, from the newest whole state in the folder `checkpoints` if there is one.

    `on_epoch` gets one row of the curves per epoch, also those of the epochs before a resumption: `epoch` (from 1), the
    mean of each loss term over its steps, `effective_rank` of the last batch's embeddings and `learning_rate`. It is
    called by the first process alone. Raises ValueError when a loss is NaN or infinite, with epoch, step and clips.
    """
    if epochs == 0:
        return
    optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate, fused=True)
    network.train()
    network, optimizer = fabric.setup(network, optimizer)
    steps = len(objective.batches(0))
    clips_per_epoch = sum(map(len, objective.batches(0)))
    done, sums, history = _resume(network, optimizer, checkpoints)
    if (cast(Tensor, fabric.all_gather(torch.tensor(done))) != done).any():
        raise ValueError(f"the processes find different checkpoints in {checkpoints}: it must be one folder for all")
    if fabric.is_global_zero:
        for row in history:
            on_epoch(row)
    progress = Progress(epochs, clips_per_epoch, done / steps, fabric.is_global_zero)
    saved = time.monotonic()

    def remaining() -> Iterator[tuple[int, int, np.ndarray]]:
        for epoch in range(done // steps, epochs):
            for step, clips in enumerate(objective.batches(epoch)):
                if epoch * steps + step >= done:
                    yield epoch, step, clips

    def load(position: tuple[int, int, np.ndarray]) -> tuple[tuple[int, int, np.ndarray], Any]:
        return position, objective.load(*position)

    for (epoch, step, clips), batch in prefetched(load, remaining()):
        terms, embedding = objective.losses(network, fabric.to_device(batch))
        detached = torch.stack([term.detach() for term in terms.values()])
        means = cast(Tensor, fabric.all_reduce(detached, reduce_op="mean")).tolist()
        values = dict(zip(terms, means, strict=True))
        if not all(map(math.isfinite, means)):
            named = ", ".join(f"{name} {value:g}" for name, value in values.items())
            raise ValueError(
                f"epoch {epoch + 1}, step {step + 1}: a loss is not finite ({named}); clips of the batch: "
                + ", ".join(objective.names(clips))
            )
        fabric.backward(terms["loss"])
        for group in optimizer.param_groups:
            group["lr"] = rate_at(epoch * steps + step, epochs * steps, learning_rate, schedule)
        optimizer.step()
        optimizer.zero_grad()
        sums = {name: sums.get(name, 0.0) + value for name, value in values.items()}
        progress.update(len(clips), epoch, values["loss"])
        done = epoch * steps + step + 1
        if step + 1 == steps:
            row = {"epoch": epoch + 1} | {name: value / steps for name, value in sums.items()}
            row |= {"effective_rank": effective_rank(embedding), "learning_rate": optimizer.param_groups[0]["lr"]}
            history, sums = [*history, row], {}
            if fabric.is_global_zero:
                on_epoch(row)
        if fabric.is_global_zero and time.monotonic() - saved >= CHECKPOINT_SECONDS:
            save_state(checkpoints, done, training_state(network, optimizer), {"sums": sums, "history": history})
            saved = time.monotonic()
    progress.close()
    fabric.barrier()


def _resume(
    network: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Path
) -> tuple[int, dict[str, float], list[dict[str, float]]]:
    """Restore the newest state: steps done, sums of the terms in the unfinished epoch, rows of the finished ones."""
    state = load_state(checkpoints)
    if state is None:
        return 0, {}, []
    tensors, about = state
    restore(network, optimizer, tensors)
    log.info("resuming after step %d, %d epochs are done", about["step"], len(about["history"]))
    return about["step"], about["sums"], about["history"]


class Progress:
    """A bar with loss, clips/s and time left where there is a terminal, else a line with the same now and then."""

    def __init__(self, epochs: int, clips_per_epoch: int, epochs_done: float, shown: bool):
        self.epochs, self.shown = epochs, shown
        self.total, self.first = epochs * clips_per_epoch, round(epochs_done * clips_per_epoch)
        self.seen, self.started = self.first, time.monotonic()
        self.logged = self.started
        self.bar = tqdm(total=self.total, initial=self.first, unit="clip", disable=None if shown else True)

    def update(self, clips: int, epoch: int, loss: float) -> None:
        self.seen += clips
        if not self.bar.disable:
            self.bar.set_postfix(epoch=f"{epoch + 1}/{self.epochs}", loss=f"{loss:.4g}", refresh=False)
            self.bar.update(clips)
        now = time.monotonic()
        if self.shown and self.bar.disable and (now - self.logged >= LOG_SECONDS or self.seen >= self.total):
            rate = (self.seen - self.first) / (now - self.started)
            left = tqdm.format_interval((self.total - self.seen) / rate)
            line = "epoch %d/%d, loss %.4g, %.1f clips/s, %s left"
            log.info(line, epoch + 1, self.epochs, loss, rate, left)
            self.logged = now

    def close(self) -> None:
        self.bar.close()
