"""What a report is made of."""

from dataclasses import dataclass

import numpy as np
import pandas as pd

from audio.features import Features
from detection.torch_detector import TorchDetector
from storage.shards import Folder


@dataclass(frozen=True)
class Run:
    """All that a report tells about one run of the pipeline."""

    manifest: pd.DataFrame  # of the corpus, see audio.manifest
    skipped: pd.DataFrame  # clips of the corpus that were left out: file, reason
    raw: Folder  # of the clips' audio
    augmented: Folder  # of the augmented clips' audio
    augmentations: pd.DataFrame  # a row per augmented clip, empty if the second view is masked
    audit: pd.DataFrame  # of the augmented clips, a row per file, see augmentation.audit; empty as well
    prompts: pd.DataFrame  # id, factory, text
    features: Features
    scores: pd.DataFrame  # a row per clip, a column per back-end and reference
    detector: TorchDetector  # the networks and thresholds
    summary: dict  # of the scores, as evaluation.scoring.write_scores keeps it
    embeddings: dict[str, np.ndarray]  # clip (N,), pretrained (N, width), finetuned (N, width), logits (N, identities)
    masks: tuple[float, float]  # longest time and frequency mask of a masked view, shares
    curves: dict[str, pd.DataFrame]  # of training, by stage: a row per epoch, a column epoch, and one per curve
    published: pd.DataFrame
    settings: list[dict]  # of params: key, value, meaning, paper (what it says), full (of the full-size run), differs
    facts: dict[str, str]  # seed, versions, machine
    durations: list[tuple[str, float, str]]  # stage, seconds, when it finished
    resamples: int  # of the bootstrap
    seed: int
    gallery_clips: int
    anomalous_clips: int

    @property
    def backend(self) -> str:
        """The score that the report is about."""
        return self.summary["backend"]
