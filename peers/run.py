"""Every chosen peer's scores of all clips; what has been trained once is kept in the store and not trained again."""

import logging
import os
import shutil
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from audio.features import Features
from peers import peer, training
from peers.autoencoder import Baseline
from peers.gmade import Gmade
from peers.mobilenetv2 import MobileNet
from peers.peer import Clips, Peer
from peers.stgram_mfn import SpectralTemporal
from storage.files import sha256
from storage.memory import return_freed_memory
from storage.shards import Folder
from storage.store import Store, key_of, store_folder

PEERS: dict[str, type[Peer]] = {
    "autoencoder": Baseline,
    "mobilenetv2": MobileNet,
    "stgram_mfn": SpectralTemporal,
    "gmade": Gmade,
}
SHARED = (peer, training)  # modules that all peers are made of

log = logging.getLogger(__name__)


def peer_scores(
    clips: pd.DataFrame, features: Features, raw: Folder, settings: dict[str, dict], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]]]:
    """Scores (N,) by peer, and what each cost: seconds of training and number of parameters, over all machine types.

    `clips` has a row per training normal and test clip: clip, machine_type, machine_id, split, sha256 and `row`, its
    number for `Features.read`. `raw` is the folder of the recordings. `settings` holds those of each chosen peer. They
    depend on no loss weight, so an ablation finds them in the store. Raises ValueError naming a peer's clip whose score
    is not a number.
    """
    parts = {
        (name, part): own
        for name in settings
        for part, own in ([("all machine types", clips)] if PEERS[name].joint else clips.groupby("machine_type"))
    }

    def done(key: tuple[str, str]) -> dict[str, np.ndarray]:
        name, part = key
        return _trained(name, part, parts[key], features, raw, settings[name], seed)

    # A thread computes on one core: faster than all cores on one small network after another.
    apart = [key for key in parts if not PEERS[key[0]].joint]
    return_freed_memory()  # a thread has a heap of its own, which makes no use of what others freed
    with ThreadPoolExecutor(os.cpu_count(), initializer=torch.set_num_threads, initargs=(1,)) as pool:
        results = dict(zip(apart, pool.map(done, apart), strict=True))
    return_freed_memory()
    results |= {key: done(key) for key in parts if key not in results}

    columns, costs = {}, {}
    for name in settings:
        own = {key: result for key, result in results.items() if key[0] == name}
        scores = pd.concat([pd.Series(result["scores"], parts[key].index) for key, result in own.items()])
        columns[name] = scores.loc[clips.index].to_numpy()
        costs[name] = {
            "seconds": round(float(sum(result["seconds"] for result in own.values())), 1),
            "parameters": int(sum(result["parameters"] for result in own.values())),
        }
    return columns, costs


def _trained(
    name: str, part: str, clips: pd.DataFrame, features: Features, raw: Folder, settings: dict, seed: int
) -> dict[str, np.ndarray]:
    """Scores, seconds and parameters of one training, from the store if they are there."""
    key = key_of(
        peer=name,
        clips=clips[["clip", "split", "sha256"]].values.tolist(),
        scale=[features.mean, features.std],
        front_end=vars(features.settings),
        code=_code(name),
        torch=torch.__version__,
        seed=seed,
        **settings,
    )
    entries, checkpoints = Store(store_folder("peers")), store_folder("checkpoints") / f"{name}-{key[:16]}"
    with entries.put(key, ".npz") as path:
        if path:
            log.info("training the %s of %s", name, part)
            learned, started = (clips["split"] == "train").to_numpy(), time.monotonic()
            system = PEERS[name](**settings, seed=seed)
            scores = np.empty(len(clips))
            scores[learned] = system.fit(Clips(clips[learned], features, raw), checkpoints)
            seconds = time.monotonic() - started
            scores[~learned] = system.score(Clips(clips[~learned], features, raw))
            if not np.isfinite(scores).all():
                clip = clips["clip"].iloc[np.isfinite(scores).argmin()]
                raise ValueError(f"the {name} score of {clip} is not a number")
            np.savez(path, scores=scores, seconds=seconds, parameters=system.parameters)
            shutil.rmtree(checkpoints, ignore_errors=True)
    return dict(np.load(entries.path(key, ".npz")))


def _code(name: str) -> list[str]:
    """Digests of the modules that determine a peer's scores."""
    modules = (sys.modules[PEERS[name].__module__], *SHARED)
    return [sha256(Path(str(module.__file__))) for module in modules]
