"""Every chosen peer's scores of all clips; what has been trained once is kept in the store and not trained again."""

import logging
import shutil
import time
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from audio.features import Features
from model.threads import in_threads
from peers.aadcl import Aadcl
from peers.autoencoder import Baseline
from peers.glow_aff import GlowAff
from peers.gmade import Gmade
from peers.mobilenetv2 import MobileNet
from peers.peer import Clips, Peer
from peers.stgram_mfn import SpectralTemporal
from peers.subcluster_adacos import MultiResolution
from storage.shards import Folder
from storage.store import Store, code_of, key_of, store_folder, store_place

PEERS: dict[str, type[Peer]] = {
    "autoencoder": Baseline,
    "mobilenetv2": MobileNet,
    "stgram_mfn": SpectralTemporal,
    "aadcl": Aadcl,
    "gmade": Gmade,
    "glow_aff": GlowAff,
    "subcluster_adacos": MultiResolution,
}

log = logging.getLogger(__name__)


def peer_scores(
    clips: pd.DataFrame, features: Features, raw: Folder, settings: dict[str, dict], seed: int
) -> tuple[dict[str, np.ndarray], dict[str, dict[str, float]], list[str]]:
    """Scores (N,) by peer, what each cost (seconds of training and number of parameters, over all machine types), and
    the keys of all trainings in the store.

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

    keys = {key: _key(key[0], own, features, settings[key[0]], seed) for key, own in parts.items()}
    store = Store(store_place("peers"), ".npz")
    store.sweep()

    def done(key: tuple[str, str]) -> dict[str, np.ndarray]:
        name, part = key
        clips, checkpoints = parts[key], store_folder("checkpoints") / f"{name}-{keys[key][:16]}"

        def make(path: Path) -> None:
            log.info("training the %s of %s", name, part)
            _train(name, clips, features, raw, settings[name], seed, checkpoints, path)

        result = store.get(keys[key], make, lambda path: dict(np.load(path)))
        shutil.rmtree(checkpoints, ignore_errors=True)
        return result

    apart = [key for key in parts if not PEERS[key[0]].joint]
    results = dict(zip(apart, in_threads(done, apart), strict=True))
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
    return columns, costs, sorted(keys.values())


def _key(name: str, clips: pd.DataFrame, features: Features, settings: dict, seed: int) -> str:
    """What one training's scores depend on, see `storage.store`."""
    return key_of(
        peer=name,
        clips=clips[["clip", "split", "sha256"]].values.tolist(),
        scale=[features.mean, features.std],
        front_end=vars(features.settings),
        code=code_of(PEERS[name]),
        torch=torch.__version__,
        seed=seed,
        **settings,
    )


def _train(
    name: str,
    clips: pd.DataFrame,
    features: Features,
    raw: Folder,
    settings: dict,
    seed: int,
    checkpoints: Path,
    out: Path,
) -> None:
    """Train one peer and write its scores of all `clips`, seconds and parameters to `out`."""
    learned, started = (clips["split"] == "train").to_numpy(), time.monotonic()
    system = PEERS[name](**settings, seed=seed)
    scores = np.empty(len(clips))
    scores[learned] = system.fit(Clips(clips[learned], features, raw), checkpoints)
    seconds = time.monotonic() - started
    scores[~learned] = system.score(Clips(clips[~learned], features, raw))
    if not np.isfinite(scores).all():
        clip = clips["clip"].iloc[np.isfinite(scores).argmin()]
        raise ValueError(f"the {name} score of {clip} is not a number")
    np.savez(out, scores=scores, seconds=seconds, parameters=system.parameters)
