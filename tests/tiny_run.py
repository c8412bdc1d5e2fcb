"""A whole run of the pipeline in a minute: the real stages on a few synthetic clips, with tiny networks."""

import os
import shutil
from contextlib import chdir
from pathlib import Path
from unittest import mock

import yaml

from stages import diffusion_augment, download, finetune, logmel_feature, pretrain, prompt_generation, score
from stages.params import load
from stages.paths import RAW
from tests.augmentation import tiny_audioldm
from tests.conftest import ROOT

STAGES = {
    "prompt-generation": prompt_generation,
    "diffusion-augment": diffusion_augment,
    "logmel-feature": logmel_feature,
    "pretrain": pretrain,
    "finetune": finetune,
    "score": score,
}
NETWORK = {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2}
PARAMS = {
    "model": NETWORK,
    "pretrain": {"epochs": 2, "batch_size": 4, "precision": "32-true"},
    "finetune": {"epochs": 2, "batch_size": 4, "precision": "32-true"},
    "score": {
        "bootstrap": 100,
        "autoencoder_epochs": 1,
        "autoencoder_vectors": 500,
        "peers": ["autoencoder", "glow_aff"],
        "glow_aff_epochs": 1,
        "glow_aff_pieces": 16,
    },
    "report": {"gallery_clips": 2, "anomalous_clips": 2},
}


def make(folder: Path, method: str) -> Path:
    """Run all stages before the report in `folder`, with `augment.method`; return it.

    It then is what a stage finds as its working directory: params.yaml, dvc.yaml, corpora, data, metrics.
    """
    for name in ("corpora", "experiments"):
        shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "dvc.yaml", folder)
    corpus = yaml.safe_load((ROOT / "corpora/synthetic.yaml").read_text())
    corpus["clips"] = {"train_normal": 3, "test_normal": 2, "test_anomaly": 2}
    for machine in corpus["machines"].values():
        machine["ids"] = dict(list(machine["ids"].items())[:2])
    (folder / "corpora/synthetic.yaml").write_text(yaml.safe_dump(corpus))
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for group, values in PARAMS.items():
        params[group] |= values
    params["corpus"] |= {"path": "corpora/synthetic.yaml", "types": ["fan", "valve"]}
    params["storage"]["shards"] = 20 if method == "audioldm" else "never"  # of 28 clips
    params["augment"] |= {"method": method, "checkpoint": "checkpoint", "revision": "", "ddim_steps": [2, 3]}
    (folder / "params.yaml").write_text(yaml.safe_dump(params))
    tiny_audioldm.save(folder / "checkpoint")
    with chdir(folder), mock.patch.dict(os.environ, {"RCMAE_STORE": str(folder / "store")}):
        # an absolute path: its worker processes outlive a run, and with it the folder that they were started in
        download.run(load("download", Path()), raw=folder / RAW)
        for name, stage in STAGES.items():
            stage.run(load(name, Path()))
    return folder
