"""Simple scores that stand beside the model's in every run, so that nobody is fooled: a model must beat them.

Rows are clips, training normals and test clips alike. `identities` (N,) numbers each clip's machine identity,
`training` (N,) marks the training normals. Scores have shape (N,), higher is more anomalous.
"""

import numpy as np
from scipy.spatial.distance import cdist


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


def nearest_neighbour(statistics: np.ndarray, identities: np.ndarray, training: np.ndarray) -> np.ndarray:
    """Euclidean distance of a clip's statistics (N, d) to the nearest training clip of its identity, itself left out.

    All clips are of one machine type; each value is divided by its standard deviation within the identities. The only
    training clip of an identity has no other: NaN.
    """
    numbers = np.unique(identities)
    within = [statistics[training & (identities == number)].var(axis=0) for number in numbers]
    standardised = statistics / np.maximum(np.mean(within, axis=0), 1e-6) ** 0.5
    scores = np.empty(len(statistics))
    for number in numbers:
        rows, known = np.flatnonzero(identities == number), np.flatnonzero(training & (identities == number))
        distances = cdist(standardised[rows], standardised[known])
        distances[rows[:, None] == known] = np.inf
        scores[rows] = distances.min(axis=1)
    return np.where(np.isfinite(scores), scores, np.nan)
