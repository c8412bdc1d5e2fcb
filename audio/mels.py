"""Which frequencies the mel bins of a front end stand for."""

import numpy as np

from audio.front_end import LogMelSettings


def mel_edges(settings: LogMelSettings) -> np.ndarray:
    """Lower edge of the lowest mel bin, centres of all, upper edge of the highest: (n_mels + 2,), Hz, ascending."""
    from librosa import mel_frequencies  # a slow import

    return mel_frequencies(settings.n_mels + 2, fmin=settings.f_min, fmax=settings.f_max)


def mel_centres(settings: LogMelSettings) -> np.ndarray:
    """Centre of each mel bin: (n_mels,), Hz, ascending."""
    return mel_edges(settings)[1:-1]
