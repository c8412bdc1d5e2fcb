"""Draw the report: how well each machine is watched, the paper's tables and figures, and what was run."""

import json
from pathlib import Path

import numpy as np
import pandas as pd

from audio.features import Features
from audio.manifest import read_manifest
from detection.torch_detector import TorchDetector
from evaluation.report.facts import facts
from evaluation.report.page import write_report
from evaluation.report.published import read_published
from evaluation.report.run import Run
from evaluation.report.settings import settings
from stages.command import duration_key, durations, main
from stages.curves import read_curves
from stages.params import Declared, declared_keys, read
from stages.paths import AUGMENTED, DETECTOR, FEATURES, METRICS, PROMPTS, RAW, REPORT, SCORES
from storage.shards import Folder

STAGES = ("download", "prompt-generation", "diffusion-augment", "logmel-feature", "pretrain", "finetune", "score")
PUBLISHED = Path("corpora/published_dev.csv")
FULL_SIZE = Path("experiments/paper.yaml")


def run(params: Declared, data: Path = Path(), metrics: Path = METRICS, out: Path = REPORT) -> None:
    """Write `out`/index.html from the artefacts of all stages below `data` and their `metrics`."""
    curves = {
        name: read_curves(metrics / folder)
        for name, folder in (("Pretraining", "pretrain"), ("Fine-tuning", "finetune"))
    }
    text = {"dtype": str, "keep_default_na": False}
    write_report(
        Run(
            manifest=read_manifest(data / RAW / "manifest.csv"),
            skipped=pd.read_csv(data / RAW / "skipped.csv", **text),
            raw=Folder(data / RAW),
            augmented=Folder(data / AUGMENTED),
            augmentations=pd.read_csv(data / AUGMENTED / "manifest.csv", dtype={"clip": str, "prompt_id": str}),
            audit=_audit(data / AUGMENTED / "audit.csv"),
            prompts=pd.read_csv(data / PROMPTS / "prompts.csv", **text),
            features=Features.open(data / FEATURES),
            scores=pd.read_csv(data / SCORES / "scores.csv"),
            summary=_summary(data / SCORES / "summary.json", metrics / "score.json"),
            embeddings=dict(np.load(data / SCORES / "embeddings.npz")),
            detector=TorchDetector.read(data / DETECTOR),
            masks=(params.pretrain.time_mask, params.pretrain.frequency_mask),
            curves={name: table.reset_index() for name, table in curves.items()},
            published=read_published(PUBLISHED),
            settings=settings(params, declared_keys("report", Path()), Path("params.yaml"), FULL_SIZE),
            facts=facts(params.seed),
            durations=_durations(),
            resamples=params.score.bootstrap,
            seed=params.seed,
            gallery_clips=params.report.gallery_clips,
            anomalous_clips=params.report.anomalous_clips,
        ),
        out / "index.html",
    )


def _audit(path: Path) -> pd.DataFrame:
    # masked views are made in training: there are no files to audit
    return pd.read_csv(path, dtype={"clip": str, "file": str}) if path.is_file() else pd.DataFrame(columns=["file"])


def _summary(path: Path, score: Path) -> dict:
    """The summary of the scores. Raises ValueError if the metrics in `score` are not of it."""
    summary = json.loads(path.read_text(encoding="utf-8"))
    told = json.loads(score.read_text(encoding="utf-8")).get("average", {})
    figures = summary["systems"][summary["backend"]]["figures"].get("average", {})
    for name, value in told.items():
        if abs(figures[name] - value) > 1e-4:
            raise ValueError(
                f"{score} says {name} {value}, {path} says {figures[name]:.5f}: they are of different runs"
            )
    return summary


def _durations() -> list[tuple[str, float, str]]:
    params = read(Path("params.yaml"))
    paths = [durations().find(duration_key(stage, params, Path())) for stage in STAGES]
    kept = [json.loads(path.read_text(encoding="utf-8")) for path in paths if path]
    return [(wall["stage"], wall["seconds"], wall["finished"][:16].replace("T", " ")) for wall in kept]


if __name__ == "__main__":
    main(run, "report")
