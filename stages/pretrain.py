"""Pretrain the contrastive masked autoencoder on the training normals and their second views (equation 8)."""

import shutil
from dataclasses import asdict
from pathlib import Path

from audio.features import Features
from model.checkpoints import save_model
from model.network import NetworkConfig
from model.pretraining import PretrainingSettings, pretrain
from model.training import make_fabric
from stages.command import main
from stages.curves import curves
from stages.params import Declared
from stages.paths import FEATURES, METRICS, PRETRAINED
from storage.store import checkpoint_folder

LOSSES = ("contrastive", "variance_covariance", "reconstruction")


def run(params: Declared, data: Path = FEATURES, out: Path = PRETRAINED, metrics: Path = METRICS / "pretrain") -> None:
    """Write the pretrained network into `out` and its curves into `metrics`, resuming a killed run."""
    features = Features.open(data)
    config = NetworkConfig(mels=features.settings.n_mels, **params.model.model_dump())
    settings = PretrainingSettings(
        lambda_con=params.lambda_con,
        lambda_vcr=params.lambda_vcr,
        lambda_mae=params.lambda_mae,
        augmented=params.augment.method == "audioldm",
        seed=params.seed,
        level=params.logmel.level,
        **params.pretrain.model_dump(exclude={"precision"}),
    )
    precision = params.pretrain.precision
    chosen = asdict(config) | asdict(settings) | {"precision": precision}
    checkpoints = checkpoint_folder("pretrain", chosen, [data], pretrain)
    fabric = make_fabric(precision)
    with curves(metrics, LOSSES, fabric.is_global_zero) as on_epoch:
        network = pretrain(features, config, settings, fabric, checkpoints, on_epoch)
    if fabric.is_global_zero:
        travelling = {
            "logmel": asdict(features.settings),
            "scale": asdict(features.scale(settings.level)),
            "norm_pix_loss": settings.norm_pix_loss,
        }
        save_model(out, network, travelling)
        shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    main(run, "pretrain")
