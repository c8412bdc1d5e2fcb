"""Score the test clips with every back-end and reference, and pack the detector that judges new recordings."""

import logging
from pathlib import Path

import numpy as np
import torch

from audio.clips import read_clip
from audio.features import Features
from detection.detector import Detector, Settings
from evaluation import metrics
from evaluation.scoring import (
    COLUMNS,
    check,
    compare,
    score_with,
    scored_clips,
    simple_references,
    summarise,
    write_scores,
)
from model.checkpoints import load_model
from model.network import RCMAE, IdentityClassifier
from peers.references import level
from peers.run import peer_scores
from stages.command import main
from stages.params import Declared, Score
from stages.paths import DETECTOR, FEATURES, FINETUNED, METRICS, PRETRAINED, RAW, SCORES
from storage.files import write_json
from storage.shards import Folder

log = logging.getLogger(__name__)


def run(params: Declared, root: Path = Path()) -> None:
    """Write data/scores, data/detector, the metrics and the plots below `root`, from what lies there."""
    score = params.score
    features = Features.open(root / FEATURES)
    classifier, config = load_model(root / FINETUNED, IdentityClassifier)
    pretrained, pretrained_config = load_model(root / PRETRAINED, RCMAE)
    settings = Settings(
        score.backend, score.neighbours, score.components, score.window_hop, score.threshold_quantile, params.seed
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = Detector(classifier, pretrained, config, settings, pretrained_config, device)
    clips = scored_clips(features)
    check(detector, features, clips)

    columns, embeddings = score_with(detector, features, clips)
    raw = Folder(root / RAW)
    levels = np.array([level(read_clip(raw / f"{clip}.flac")) for clip in clips["clip"]])
    columns |= simple_references(features, clips, levels)
    peers, costs, keys = peer_scores(clips, features, raw, settings_of(score), params.seed)
    columns |= peers
    table = clips[COLUMNS].assign(**columns)
    summary = summarise(table, score.threshold_quantile, score.bootstrap, params.seed)

    write_scores(root / SCORES, table, score.backend, embeddings, summary)
    write_json(root / SCORES / "peers.json", keys)  # so that the store knows what this run needs
    detector.save(root / DETECTOR)
    write_json(root / METRICS / "score.json", _rounded(summary[score.backend]["figures"]))
    write_json(root / METRICS / "peers.json", costs)
    comparison = compare(summary)
    write_json(root / METRICS / "comparison.json", {"headline": score.backend} | _rounded(comparison))
    curves = metrics.roc(table[table["split"] == "test"], score.backend)
    write_json(root / METRICS / "plots" / "roc.json", {"roc": curves.to_dict("records")})
    for name, row in comparison.items():
        log.info("%-26s AUC %.3f (%.3f to %.3f)  pAUC %.3f", name, *list(row.values())[:4])


def settings_of(score: Score) -> dict[str, dict]:
    """Of each chosen peer the params that carry its name: autoencoder_epochs is the autoencoder's `epochs`."""
    return {
        name: {key.removeprefix(f"{name}_"): value for key, value in score if key.startswith(f"{name}_")}
        for name in score.peers
    }


def _rounded(values: dict) -> dict:
    return {key: _rounded(value) if isinstance(value, dict) else round(value, 5) for key, value in values.items()}


if __name__ == "__main__":
    main(run, "score")
