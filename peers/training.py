"""The loop that trains a peer's network, from a seed alone, and on from where a killed run was."""

import logging
import math
import threading
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor, nn

from model.checkpoints import load_state, restore, save_state, training_state

CHECKPOINT_SECONDS = 60.0  # between two checkpoints, at the end of an epoch
LOG_SECONDS = 30.0  # between two lines of progress
FOLDS = 5  # of the training clips, where they are scored by others

Network = TypeVar("Network", bound=nn.Module)

log = logging.getLogger(__name__)
_drawing = threading.Lock()  # PyTorch initialises weights from one generator for all threads


def device() -> torch.device:
    """Where peers compute."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def seeded(seed: int, build: Callable[[], Network]) -> Network:
    """The network that `build` makes, with initial weights that depend on `seed` alone, whatever other threads do."""
    with _drawing, torch.random.fork_rng():
        torch.manual_seed(seed)
        return build().to(device())


def shuffled(count: int, batch: int, rng: np.random.Generator) -> list[np.ndarray]:
    """The numbers from 0 to `count` in random order, in batches of at least `batch`, or in a single one of fewer."""
    return np.array_split(rng.permutation(count), max(1, count // batch))


def cover(length: int, size: int) -> np.ndarray:
    """Where windows of `size` begin, evenly spread and as few as cover a clip of `length`; 0 for a shorter one."""
    last = max(length - size, 0)
    return np.linspace(0, last, math.ceil(last / size) + 1).round().astype(int)


def random_windows(lengths: np.ndarray, size: int, rng: np.random.Generator) -> np.ndarray:
    """Where a window of `size` begins in each of the clips of `lengths` (B,), drawn uniformly: (B,)."""
    return rng.integers(0, np.maximum(lengths - size, 0) + 1)


def parameters_of(network: nn.Module) -> int:
    """Number of a network's trained parameters."""
    return sum(weights.numel() for weights in network.parameters() if weights.requires_grad)


def held_out(distance: Callable[[np.ndarray, np.ndarray], np.ndarray], embeddings: np.ndarray) -> np.ndarray:
    """Distances (N,) of training clips to the others among them, each from others without its fifth.

    `distance(known, asked)` gives those of `asked` (N, D) to `known` (M, D). A clip alone is measured by itself.
    """
    fold, distances = np.arange(len(embeddings)) % FOLDS, np.empty(len(embeddings))
    for out in range(min(FOLDS, len(embeddings))):
        known = embeddings[fold != out] if len(embeddings) > 1 else embeddings
        distances[fold == out] = distance(known, embeddings[fold == out])
    return distances


def fit(
    network: nn.Module,
    loss: Callable[..., Tensor],
    batches: Callable[[np.random.Generator], Iterable[tuple[Tensor, ...]]],
    *,
    epochs: int,
    learning_rate: float,
    seed: int,
    checkpoints: Path,
    cosine: bool = False,
) -> None:
    """Trains `network` in place with Adam and leaves it in evaluation mode.

    `batches(rng)` gives those of an epoch, as tensors on the CPU; `loss(*batch)` is what to minimise. `cosine` lets the
    learning rate fall to 0 over the epochs. Raises ValueError when a loss is not finite, with the epoch.
    """
    optimizer = torch.optim.Adam([each for each in network.parameters() if each.requires_grad], lr=learning_rate)
    done = 0
    if state := load_state(checkpoints):
        restore(network, optimizer, state[0])
        done = state[1]["step"]
        log.info("resuming after epoch %d of %d", done, epochs)
    network.train()
    started = saved = told = time.monotonic()
    for epoch in range(done, epochs):
        if cosine:
            optimizer.param_groups[0]["lr"] = learning_rate * (1 + math.cos(math.pi * epoch / epochs)) / 2
        losses = []
        for batch in batches(np.random.default_rng([seed, epoch])):
            value = loss(*(part.to(device()) for part in batch))
            if not torch.isfinite(value):
                raise ValueError(f"epoch {epoch + 1}: the loss is {float(value.detach())}, not a finite number")
            optimizer.zero_grad()
            value.backward()
            optimizer.step()
            losses.append(float(value.detach()))
        now = time.monotonic()
        if now - told >= LOG_SECONDS:
            left = (now - started) / (epoch + 1 - done) * (epochs - epoch - 1)
            log.info("epoch %d/%d, loss %.4g, %.0f s left", epoch + 1, epochs, np.mean(losses), left)
            told = now
        if now - saved >= CHECKPOINT_SECONDS:
            save_state(checkpoints, epoch + 1, training_state(network, optimizer), {})
            saved = now
    network.eval()


def log_odds_against(logits: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """log((1 - p) / p) of the classes (N,) that clips claim, where p is the softmax of `logits` (N, C).

    It stays exact where p is so near to 1 that 1 - p would round to 0. With a single class there is nothing to tell:
    it is 0.
    """
    if logits.shape[1] == 1:
        return np.zeros(len(logits))
    others = logits.astype(float)
    own = np.take_along_axis(others, classes[:, None], 1)[:, 0]
    np.put_along_axis(others, classes[:, None], -np.inf, 1)
    return np.logaddexp.reduce(others, axis=1) - own
