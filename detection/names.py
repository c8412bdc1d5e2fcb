"""Names of the back-ends, and what each works on; apart from their classes, so that naming one needs no torch."""

BACKENDS: dict[str, str] = {  # name: the representation that it works on, see `detection.representations`
    "negative_log_probability": "logits",
    "finetuned_mahalanobis": "finetuned",
    "finetuned_nearest_neighbour": "finetuned",
    "finetuned_local_density": "finetuned",
    "finetuned_gaussian_mixture": "finetuned",
    "pretrained_mahalanobis": "pretrained",
    "pretrained_nearest_neighbour": "pretrained",
    "pretrained_local_density": "pretrained",
    "pretrained_gaussian_mixture": "pretrained",
    "logmel_mahalanobis": "moments",
    "modulation_mahalanobis": "modulation",
}
# name: the weights of its parts, chosen on the simulated machines over three seeds, see docs/results.md
COMBINATIONS: dict[str, dict[str, float]] = {
    "combined": {
        "pretrained_mahalanobis": 1,
        "finetuned_mahalanobis": 1,
        "logmel_mahalanobis": 1,
        "modulation_mahalanobis": 2,
    },
    "label_free": {"pretrained_mahalanobis": 1, "logmel_mahalanobis": 1, "modulation_mahalanobis": 2},
}
NAMES = (*COMBINATIONS, *BACKENDS)
# Those that have seen no label: their cross-fitted scores of the training recordings are like those of new recordings.
LABEL_FREE = ("label_free", *(name for name, works_on in BACKENDS.items() if works_on not in ("logits", "finetuned")))
