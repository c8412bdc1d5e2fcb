"""Where the stages' artefacts lie, relative to the repository's root, and where the store lies outside it."""

import os
from pathlib import Path

import platformdirs

RAW = Path("data/raw")
PROMPTS = Path("data/prompts")
AUGMENTED = Path("data/augmented")
FEATURES = Path("data/features")
PRETRAINED = Path("data/pretrained")
FINETUNED = Path("data/finetuned")
SCORES = Path("data/scores")
DETECTOR = Path("data/detector")
METRICS = Path("metrics")
REPORT = Path("metrics/report")


def store(kind: str) -> Path:
    """Absolute folder of the store for `kind` (augmented, features, checkpoints, archives …), outside DVC's outputs.

    DVC deletes a stage's outputs before it runs, so what must survive a killed or repeated run lives here, under names
    that are hashes of all that determines the content. It is no parameter: `dvc exp run --temp` and queue workers run
    in another folder and must find the same store. `RCMAE_STORE` overrides the place.
    """
    root = os.environ.get("RCMAE_STORE") or platformdirs.user_cache_path("rc-mae")
    return Path(root).resolve() / kind
