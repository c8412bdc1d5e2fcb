"""Simple scores that stand beside the model's in every run, so that nobody is fooled: a model must beat them.

Rows are clips, training normals and test clips alike. `identities` (N,) numbers each clip's machine identity,
`training` (N,) marks the training normals. Scores have shape (N,), higher is more anomalous.
"""

import numpy as np

from detection.backends import Mahalanobis, NearestNeighbour, fit_and_score_held_out


def level(waveform: np.ndarray) -> float:
    """Root mean square of a waveform (samples,) in dB relative to full scale; -120 for digital silence."""
    return float(20 * np.log10(max(np.sqrt(np.mean(np.square(waveform, dtype=float))), 1e-6)))


def level_distance(levels: np.ndarray, identities: np.ndarray, training: np.ndarray) -> np.ndarray:
    """How far (dB) a clip's level lies from the mean level of its identity's training clips, up or down."""
    scores = np.empty(len(levels))
    for one in np.unique(identities):
        own = identities == one
        scores[own] = np.abs(levels[own] - levels[own & training].mean())
    return scores


def statistics(spectrogram: np.ndarray) -> np.ndarray:
    """Mean and standard deviation over time of each mel bin: log-mel (frames, mels) in dB -> (2 mels,)."""
    return np.concatenate([spectrogram.mean(axis=0), spectrogram.std(axis=0)])


def statistics_distances(statistics: np.ndarray, identities: np.ndarray, training: np.ndarray) -> dict[str, np.ndarray]:
    """Distances of a clip's statistics (N, 2 mels) to those of its identity's training clips; all of one machine type.

    Each value is divided by its standard deviation within the identities; then the nearest neighbour (Euclidean) and
    the Mahalanobis distance under a shrunk covariance. A training clip is scored by fits that did not see it.
    """
    within = [statistics[training & (identities == one)].var(axis=0) for one in np.unique(identities)]
    standardised = statistics / np.maximum(np.mean(within, axis=0), 1e-6) ** 0.5
    no_logits = np.zeros((len(statistics), 0))
    clips = np.arange(len(statistics))
    distances = {}
    for name, backend in (
        ("logmel_nearest_neighbour", NearestNeighbour(metric="euclidean")),
        ("logmel_mahalanobis", Mahalanobis()),
    ):
        scores = np.empty(len(statistics))
        scores[training] = fit_and_score_held_out(
            backend, standardised[training], no_logits[training], identities[training], clips[training]
        )
        scores[~training] = backend.score(standardised[~training], no_logits[~training], identities[~training])
        distances[name] = scores
    return distances
