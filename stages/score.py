"""Score the test clips with every back-end and reference, and pack the detector that judges new recordings."""

import logging
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import peers.autoencoder
from audio.clips import read_clip
from audio.features import Features
from detection.detector import Detector, Settings
from evaluation import metrics
from evaluation.scoring import (
    COLUMNS,
    autoencoder_scores,
    check,
    compare,
    in_threads,
    score_with,
    scored_clips,
    simple_references,
    summarise,
    write_scores,
)
from model.checkpoints import load_model
from peers.references import level
from stages.command import main
from stages.params import Declared
from stages.paths import DETECTOR, FEATURES, FINETUNED, METRICS, PRETRAINED, RAW, SCORES
from storage.files import sha256, write_json
from storage.store import Store, key_of, store_folder

log = logging.getLogger(__name__)


def run(params: Declared, root: Path = Path()) -> None:
    """Write data/scores, data/detector, the metrics and the plots below `root`, from what lies there."""
    score = params.score
    features = Features.open(root / FEATURES)
    classifier, config = load_model(root / FINETUNED)
    pretrained, pretrained_config = load_model(root / PRETRAINED)
    settings = Settings(
        score.backend, score.neighbours, score.components, score.window_hop, score.threshold_quantile, params.seed
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    detector = Detector(classifier, pretrained, config, settings, pretrained_config, device)
    clips = scored_clips(features)
    check(detector, features, clips)

    columns, embeddings = score_with(detector, features, clips)
    levels = np.array([level(read_clip(root / RAW / f"{clip}.flac")) for clip in clips["clip"]])
    columns |= simple_references(features, clips, levels)
    columns["autoencoder"] = _autoencoders(params, features, clips)
    table = clips[COLUMNS].assign(**columns)
    summary = summarise(table, score.threshold_quantile, score.bootstrap, params.seed)

    write_scores(root / SCORES, table, score.backend, embeddings, summary)
    detector.save(root / DETECTOR)
    write_json(root / METRICS / "score.json", _rounded(summary[score.backend]["figures"]))
    comparison = compare(summary)
    write_json(root / METRICS / "comparison.json", _rounded(comparison))
    curves = metrics.roc(table[table["split"] == "test"], score.backend)
    write_json(root / METRICS / "plots" / "roc.json", {"roc": curves.to_dict("records")})
    for name, row in comparison.items():
        log.info("%-26s AUC %.3f (%.3f to %.3f)  pAUC %.3f", name, *list(row.values())[:4])


def _autoencoders(params: Declared, features: Features, clips: pd.DataFrame) -> np.ndarray:
    """The autoencoder's scores of all clips, type by type; they depend on no loss weight, so the store keeps them."""
    score, entries = params.score, Store(store_folder("autoencoder"))
    how = {"epochs": score.autoencoder_epochs, "vectors_per_epoch": score.autoencoder_vectors, "seed": params.seed}
    code = sha256(Path(peers.autoencoder.__file__))

    def of_type(own: pd.DataFrame) -> pd.Series:
        key = key_of(
            clips=own[["clip", "split", "sha256"]].values.tolist(),
            scale=[features.mean, features.std],
            front_end=vars(features.settings),
            code=code,
            torch=torch.__version__,
            **how,
        )
        with entries.put(key, ".npy") as path:
            if path:
                log.info("training the reference autoencoder of %s", own["machine_type"].iloc[0])
                np.save(path, autoencoder_scores(features, own, **how))
        return pd.Series(np.load(entries.path(key, ".npy")), own.index)

    scores = list(in_threads(of_type, (own for _, own in clips.groupby("machine_type"))))
    return pd.concat(scores).sort_index().to_numpy()


def _rounded(values: dict) -> dict:
    return {key: _rounded(value) if isinstance(value, dict) else round(value, 5) for key, value in values.items()}


if __name__ == "__main__":
    main(run, "score")
