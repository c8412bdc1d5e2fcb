"""Score the test clips with every back-end and reference, and pack the detector that judges new recordings."""

import logging
from pathlib import Path

import numpy as np
import torch

from audio.clips import read_clip
from audio.features import Features
from detection.description import Description, Machine, Settings
from detection.names import BACKENDS
from detection.torch_detector import TorchDetector
from evaluation import domains, metrics
from evaluation.scoring import (
    COLUMNS,
    check,
    compare,
    headline_metrics,
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
from storage.files import read_json, write_json
from storage.shards import Folder

LOGGED = ("auc", "pauc", "promised", "measured", "caught")

log = logging.getLogger(__name__)


def run(params: Declared, root: Path = Path()) -> None:
    """Write data/scores, data/detector, the metrics and the plots below `root`, from what lies there."""
    score = params.score
    features = Features.open(root / FEATURES)
    detector = _detector(params, root)
    clips = scored_clips(features)
    check(detector, features, clips)

    columns, embeddings = score_with(detector, features, clips)
    raw = Folder(root / RAW)
    levels = np.array([level(read_clip(raw / f"{clip}.flac")) for clip in clips["clip"]])
    columns |= simple_references(features, clips, levels)
    peers, costs, keys = peer_scores(clips, features, raw, settings_of(score), params.seed)
    columns |= peers
    table = clips[COLUMNS].assign(**columns)
    summary = summarise(table, detector, score.bootstrap, params.seed)

    headline = detector.settings.backend
    write_scores(root / SCORES, table, headline, embeddings, summary)
    write_json(root / SCORES / "peers.json", keys)  # so that the store knows what this run needs
    detector.save(root / DETECTOR)
    comparison = compare(summary)
    of_domains = domains.evaluate(table.assign(domain=clips["domain"])[table["split"] == "test"], headline)
    figures = headline_metrics(summary, comparison, headline, of_domains)
    write_json(root / METRICS / "score.json", _rounded(figures))
    systems = [{"system": name} | _rounded(row | costs.get(name, {})) for name, row in comparison.items()]
    write_json(root / METRICS / "comparison.json", {"headline": headline, "systems": systems})
    curves = metrics.roc(table[table["split"] == "test"], headline)
    write_json(root / METRICS / "plots" / "roc.json", {"roc": curves.to_dict("records")})
    for name, row in comparison.items():
        log.info("%-28s %s", name, "  ".join(f"{figure} {row[figure]:.3f}" for figure in LOGGED if figure in row))


def _detector(params: Declared, root: Path) -> TorchDetector:
    """The detector of the trained networks, not fitted yet."""
    score = params.score
    pretrained, config = load_model(root / PRETRAINED, RCMAE)
    identities = read_json(root / FINETUNED / "config.json")["identities"]
    classifier = load_model(root / FINETUNED, IdentityClassifier)[0] if len(identities) > 1 else None
    backend = score.backend
    if classifier is None and BACKENDS.get(backend) in ("finetuned", "logits"):
        log.warning("a single machine has no %s: the headline is label_free", backend)
        backend = "label_free"
    description = Description(
        settings=Settings(
            backend=backend,
            neighbours=score.neighbours,
            components=score.components,
            window_hop=score.window_hop,
            false_alarms=score.false_alarms,
            seed=params.seed,
        ),
        machines=[Machine(**dict(zip(("type", "id"), name.split("/"), strict=True))) for name in identities],
        corpus=params.corpus.path,
        simulated=params.corpus.path.endswith((".yaml", ".yml")),
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    return TorchDetector(pretrained, classifier, config, description, device)


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
