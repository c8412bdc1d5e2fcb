"""A small feature store and small settings for the training tests, and the runs that need processes of their own.

`torchrun … -m tests.model.tiny_training two <folder>` writes what two processes computed of `<folder>/features`;
`python -m tests.model.tiny_training slow <folder>` pretrains with a checkpoint after every step, to be killed.
"""

import json
import logging
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file

import model.training
from audio.features import Features, FeatureWriter
from audio.front_end import LogMelSettings
from model.batches import TrainingClips
from model.finetuning import Finetuning, FinetuningSettings, finetune
from model.network import RCMAE, IdentityClassifier, NetworkConfig
from model.pretraining import Pretraining, PretrainingSettings, pretrain
from model.training import make_fabric

CONFIG = NetworkConfig(
    mels=16,
    frames=20,
    patch_mels=4,
    patch_frames=5,
    width=16,
    depth=2,
    heads=2,
    decoder_width=12,
    decoder_depth=1,
    decoder_heads=3,
    projection=24,
)
PRETRAINING = PretrainingSettings(
    lambda_con=0.3,
    lambda_vcr=0.3,
    lambda_mae=0.4,
    augmented=True,
    epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    schedule="constant",
    temperature=0.05,
    mask_ratio=(0.5, 0.75),
    norm_pix_loss=True,
    mae_views="original",
    contrastive_symmetric=False,
    negatives="cross",
    time_mask=0.2,
    frequency_mask=0.2,
    seed=3,
)
FINETUNING = FinetuningSettings(
    lambda_scl=0.5,
    lambda_ce=0.5,
    epochs=3,
    batch_size=8,
    learning_rate=1e-3,
    schedule="constant",
    temperature=0.05,
    seed=3,
)
IDENTITIES = ["fan/id_00", "fan/id_02", "pump/id_00"]


def write_features(folder: Path, training: int = 7, views: int = 2) -> Path:
    """Spectrograms of 3 identities: `training` normals each with `views` augmentations, 2 normal and 2 anomalous tests,
    and 3 calibration clips.

    Lengths differ between 17 and 26 frames.
    """
    random, apart = np.random.default_rng(0), np.random.default_rng(1)
    with FeatureWriter(folder, LogMelSettings(n_mels=CONFIG.mels)) as writer:
        for identity in IDENTITIES:
            machine_type, machine_id = identity.split("/")
            profile = random.normal(-30, 8, CONFIG.mels)
            for number in range(training + 7):
                split = "train" if number < training else "test" if number < training + 4 else "calibration"
                condition = "anomaly" if training + 2 <= number < training + 4 else "normal"
                draw = apart if split == "calibration" else random
                clip = {
                    "clip": f"{machine_type}/{split}/{condition}_{machine_id}_{number:08d}",
                    "machine_type": machine_type,
                    "machine_id": machine_id,
                    "split": split,
                    "condition": condition,
                    "subset": "dev",
                    "seconds": 1.0,
                    "sha256": "",
                }
                spectrogram = profile + draw.normal(0, 3, (17 + number % 10, CONFIG.mels))
                writer.add(clip, "original", 0, spectrogram)
                for view in range(views if split == "train" else 0):
                    writer.add(clip, "augmented", view, spectrogram + random.normal(0, 1, spectrogram.shape))
    return folder


def loss_and_gradients(objective, network, steps: int) -> tuple[list[dict[str, float]], dict[str, torch.Tensor]]:
    """Loss terms of the first epoch's first `steps` batches, and the gradients they sum up to."""
    wrapped = objective.fabric.setup_module(network)
    rows = []
    for step, clips in enumerate(objective.batches(0)[:steps]):
        terms, _ = objective.losses(wrapped, objective.load(0, step, clips))
        rows.append({name: float(objective.fabric.all_reduce(term.detach())) for name, term in terms.items()})
        objective.fabric.backward(terms["loss"])
    return rows, {name: parameter.grad for name, parameter in network.named_parameters()}


def both_objectives(features: Features, fabric) -> list[tuple]:
    clips = TrainingClips(features, CONFIG)
    torch.manual_seed(0)
    pretraining = replace(PRETRAINING, mae_views="both", contrastive_symmetric=True, negatives="both")
    return [
        ("pretraining", Pretraining(clips, PRETRAINING, fabric), RCMAE(CONFIG)),
        ("all_options", Pretraining(clips, pretraining, fabric), RCMAE(CONFIG)),
        ("finetuning", Finetuning(clips, FINETUNING, fabric), IdentityClassifier(CONFIG, len(IDENTITIES))),
    ]


def two(folder: Path) -> None:
    """Losses, gradients, clips seen and trained weights of every process, into `folder`."""
    fabric = make_fabric("32-true")
    assert fabric.world_size == 2
    features = Features.open(folder / "features")
    seen = {}
    for name, objective, network in both_objectives(features, fabric):
        rows, gradients = loss_and_gradients(objective, network, steps=3)
        shares = [objective.load(0, step, clips).share for step, clips in enumerate(objective.batches(0))]
        seen[name] = [int(clip) for share in shares for clip in share.clips[: share.own]]
        if fabric.is_global_zero:
            save_file(gradients, folder / f"{name}.safetensors")
            (folder / f"{name}.json").write_text(json.dumps(rows))
    (folder / f"seen_{fabric.global_rank}.json").write_text(json.dumps(seen))
    network = pretrain(features, CONFIG, PRETRAINING, fabric, folder / "checkpoints", lambda row: None)
    classifier, _ = finetune(features, network, FINETUNING, fabric, folder / "checkpoints2", lambda row: None)
    weights = {name: parameter.detach().clone() for name, parameter in classifier.named_parameters()}
    save_file(weights, folder / f"weights_{fabric.global_rank}.safetensors")

    own = folder / f"own_checkpoints_{fabric.global_rank}"  # of which the first process alone writes one
    model.training.CHECKPOINT_SECONDS = 0.0
    pretrain(features, CONFIG, PRETRAINING, fabric, own, lambda row: None)
    try:
        pretrain(features, CONFIG, PRETRAINING, fabric, own, lambda row: None)
    except ValueError as error:
        (folder / f"refusal_{fabric.global_rank}.txt").write_text(str(error))


def slow(folder: Path) -> None:
    """Pretrain with a checkpoint after every step, waiting in every epoch for the end that comes from outside."""
    model.training.CHECKPOINT_SECONDS = 0.0
    features = Features.open(folder / "features")
    pretrain(features, CONFIG, PRETRAINING, make_fabric("32-true"), folder / "checkpoints", lambda row: time.sleep(1))


if __name__ == "__main__":
    logging.basicConfig(level="INFO")
    {"two": two, "slow": slow}[sys.argv[1]](Path(sys.argv[2]))
