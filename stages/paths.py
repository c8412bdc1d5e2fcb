"""Where the stages' artefacts lie, relative to the repository's root."""

from pathlib import Path

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
