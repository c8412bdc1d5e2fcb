"""Fine-tune the pretrained network to tell the machines' identities apart (equation 10)."""

import shutil
from dataclasses import asdict
from pathlib import Path

from audio.features import Features
from model.checkpoints import load_model, save_model
from model.finetuning import FinetuningSettings, finetune
from model.network import RCMAE
from model.training import make_fabric
from stages.command import main
from stages.curves import curves
from stages.params import Declared
from stages.paths import FEATURES, FINETUNED, METRICS, PRETRAINED
from storage.files import write_json
from storage.store import checkpoint_folder

LOSSES = ("supervised_contrastive", "cross_entropy")


def run(
    params: Declared,
    data: Path = FEATURES,
    start: Path = PRETRAINED,
    out: Path = FINETUNED,
    metrics: Path = METRICS / "finetune",
) -> None:
    """Write the network fine-tuned from `start` into `out` and its curves into `metrics`, resuming a killed run."""
    features = Features.open(data)
    pretrained, front_end = load_model(start, RCMAE)
    settings = FinetuningSettings(
        lambda_scl=params.lambda_scl,
        lambda_ce=params.lambda_ce,
        seed=params.seed,
        level=front_end["scale"]["level"],
        **params.finetune.model_dump(exclude={"precision"}),
    )
    precision = params.finetune.precision
    checkpoints = checkpoint_folder("finetune", asdict(settings) | {"precision": precision}, [data, start], finetune)
    fabric = make_fabric(precision)
    with curves(metrics, LOSSES, fabric.is_global_zero) as on_epoch:
        network, identities = finetune(features, pretrained, settings, fabric, checkpoints, on_epoch)
    if fabric.is_global_zero:
        travelling = {key: front_end[key] for key in ("logmel", "scale")} | {"identities": identities}
        if network is None:
            write_json(out / "config.json", {"skipped": "a single machine"} | travelling)
        else:
            save_model(out, network, travelling)
        shutil.rmtree(checkpoints, ignore_errors=True)


if __name__ == "__main__":
    main(run, "finetune")
