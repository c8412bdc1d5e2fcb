"""What training sees of the features: the training normals' rows only, cropped, paired, masked and put into batches.

Every random choice is derived from (seed, epoch) or (seed, epoch, clip), never carried from the one before, and made
for the global batch before it is divided among processes. So a resumed run, or one on more devices, sees the same
batches.
"""

import hashlib
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from audio.features import Features
from audio.scale import fill
from model.network import NetworkConfig

ORDER, RATIO, CLIP = range(3)  # what a random generator is for: no two purposes share a stream


def random_generator(purpose: int, seed: int, *position: int) -> np.random.Generator:
    """The generator for one purpose at one position (epoch, step or clip) of a run."""
    return np.random.default_rng([purpose, seed, *position])


class Share(NamedTuple):
    """One process's part of a global batch of `total` clips, `clips` of which the first `own` count.

    Process r of w takes clips r, r + w, r + 2 w … of the batch; the shorter shares are filled up with a repeated clip,
    so that all processes hold equally many, and `rows_of` takes the repetitions out again.
    """

    clips: np.ndarray
    own: int
    total: int

    @classmethod
    def of(cls, batch: np.ndarray, rank: int, processes: int) -> "Share":
        own = batch[rank::processes]
        return cls(np.resize(own, math.ceil(len(batch) / processes)), len(own), len(batch))

    def rows_of(self, gathered: Tensor) -> Tensor:
        """Tensors of all processes (w, m, ...) -> those of the global batch (total, ...), in its order."""
        return gathered.transpose(0, 1).flatten(0, 1)[: self.total]


def batch_sizes(clips: int, batch_size: int, processes: int = 1, together: int = 1) -> list[int]:
    """Sizes of an epoch's global batches: nearly equal, at most `batch_size`, all clips in one of them.

    A short last batch would have few negatives and a covariance that is mostly sampling noise. Runs of `together` clips
    are never divided; `clips` is a multiple of it. Below 2 clips, or below one clip per process, there is no batch:
    ValueError.
    """
    if batch_size % processes:
        raise ValueError(f"batch_size {batch_size} does not divide among {processes} processes: make it a multiple")
    least = math.ceil(max(2, processes) / together)
    runs, longest = clips // together, max(batch_size // together, least)
    if runs < least:
        raise ValueError(f"{clips} training clips, at least {least * together} are needed")
    steps = min(math.ceil(runs / longest), runs // least)
    return [together * len(part) for part in np.array_split(np.arange(runs), steps)]


class TrainingClips:
    """The training normals of a feature store, by their number among the training normals.

    `names`: the clips' names. `identities`: their identities, as "fan/id_00".
    """

    def __init__(self, features: Features, config: NetworkConfig, level: str = "keep"):
        if features.settings.n_mels != config.mels:
            raise ValueError(f"the features have {features.settings.n_mels} mel bins, the network {config.mels}")
        index = features.index.reset_index(drop=True)
        training = index[(index["split"] == "train") & (index["condition"] == "normal")]
        originals = training[training["kind"] == "original"]
        self.features, self.config, self.scale = features, config, features.scale(level)
        self.names = originals["clip"].tolist()
        self.identities = (originals["machine_type"] + "/" + originals["machine_id"]).tolist()
        self._rows = originals.index.to_numpy()
        self._frames = originals["frames"].to_numpy()
        self._keys = [int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") for name in self.names]
        augmented = training[training["kind"] == "augmented"].sort_values("view")
        views = augmented.groupby("clip").groups
        self._view_rows = [views.get(name, ()) for name in self.names]

    def __len__(self) -> int:
        return len(self.names)

    def require_views(self) -> None:
        """Raise ValueError unless every clip has an augmented view."""
        without = [name for name, rows in zip(self.names, self._view_rows, strict=True) if len(rows) == 0]
        if without:
            raise ValueError(f"{len(without)} training clips have no augmented view, the first is {without[0]}")

    def random(self, clip: int, seed: int, epoch: int) -> np.random.Generator:
        """The generator of all that is random about a clip in an epoch."""
        return random_generator(CLIP, seed, epoch, self._keys[clip])

    def crop(self, clip: int, random: np.random.Generator) -> tuple[int, np.ndarray]:
        """A random crop of a clip, at most the network's frames long: its start and the spectrogram (f, M) in dB."""
        start = int(random.integers(max(self._frames[clip] - self.config.frames, 0) + 1))
        return start, self.features.read(self._rows[clip], start, self.config.frames)

    def view(self, clip: int, start: int, random: np.random.Generator) -> np.ndarray:
        """The same crop of one of the clip's augmented views, drawn at random: (f, M) in dB."""
        return self.features.read(random.choice(self._view_rows[clip]), start, self.config.frames)

    def network_input(self, spectrograms: list[np.ndarray]) -> Tensor:
        """Crops (f, M) in dB -> filled and standardised (B, F, M)."""
        return self.scale(torch.stack([fill(torch.from_numpy(crop), self.config.frames) for crop in spectrograms]))


def mask_time_and_frequency(
    spectrogram: np.ndarray, time_mask: float, frequency_mask: float, value: float, random: np.random.Generator
) -> np.ndarray:
    """A copy of a spectrogram (f, M) with `value` in one band of time and one of frequency (SpecAugment's masks).

    Widths are uniform between 0 and the shares `time_mask` and `frequency_mask` of their axis, places are uniform.
    """
    masked = spectrogram.copy()
    for axis, longest in ((0, time_mask), (1, frequency_mask)):
        length = masked.shape[axis]
        width = random.integers(int(longest * length) + 1)
        first = random.integers(length - width + 1)
        masked[(slice(None),) * axis + (slice(first, first + width),)] = value
    return masked


def visible_count(tokens: int, mask_ratio: float) -> int:
    """Tokens that stay visible, at least one, when `mask_ratio` of them is masked, at least one. Section 2.2."""
    return min(max(tokens - round(mask_ratio * tokens), 1), tokens - 1)


def balanced_order(labels: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """As many clips as there are labels (one more if odd), in pairs of one identity; identities take turns.

    So each identity has equally many pairs, give or take one, in every piece that is cut out between pairs, and every
    anchor of eq. (9) has a positive. Within an identity the clips take turns too; one with fewer clips repeats them.

    """
    identities = np.unique(labels)
    pairs = math.ceil(len(labels) / 2)
    rounds = math.ceil(pairs / len(identities))
    turns = np.resize(random.permutation(len(identities)), pairs)
    streams = [_in_turn(np.flatnonzero(labels == identity), 2 * rounds, random) for identity in identities]
    used = [0] * len(identities)
    order = []
    for identity in turns:
        order.extend(streams[identity][used[identity] : used[identity] + 2])
        used[identity] += 2
    return np.array(order)


def _in_turn(clips: np.ndarray, count: int, random: np.random.Generator) -> list[int]:
    """`count` clips: random permutations one after another, never the same clip twice running."""
    stream: list[int] = []
    while len(stream) < count:
        turn = random.permutation(clips)
        if stream and turn[0] == stream[-1]:
            turn = np.roll(turn, 1)
        stream.extend(turn.tolist())
    return stream[:count]


def prefetched(make: Callable[[Any], Any], items: Iterable[Any], ahead: int = 2) -> Iterator[Any]:
    """`map(make, items)`, made by a thread up to `ahead` items before they are needed."""
    with ThreadPoolExecutor(1) as pool:
        waiting: deque = deque()
        for item in items:
            waiting.append(pool.submit(make, item))
            if len(waiting) > ahead:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
