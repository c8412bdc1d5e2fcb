"""The reference scores against their definitions."""

import numpy as np
import pytest

from peers.references import level, level_distance, nearest_neighbour, statistics


def test_level_is_the_rms_in_db():
    t = np.arange(16000) / 16000
    assert level(np.sin(2 * np.pi * 100 * t)) == pytest.approx(-3.0103, abs=1e-3)
    assert level(np.zeros(10)) == pytest.approx(-120)


def test_level_distance_is_to_the_identitys_training_mean_in_both_directions():
    levels = np.array([-30.0, -28.0, -20.0, -29.0, -35.0, -21.0])
    identities = np.array([0, 0, 1, 0, 0, 1])
    training = np.array([True, True, True, False, False, False])
    assert level_distance(levels, identities, training) == pytest.approx([1, 1, 0, 0, 6, 1])


def test_the_nearest_neighbour_finds_the_changed_clip_and_ignores_other_identities():
    rng = np.random.default_rng(0)
    spectrograms = rng.normal(-40, 5, size=(40, 50, 8))
    spectrograms[20:] += 25  # the second identity is louder
    spectrograms[39, :, 3] += 20  # its last clip has a tone besides
    values = np.stack([statistics(spectrogram) for spectrogram in spectrograms])
    assert values.shape == (40, 16) and values[0, 8:] == pytest.approx(spectrograms[0].std(0))
    training = np.arange(40) % 20 < 15
    scores = nearest_neighbour(values, np.repeat([0, 1], 20), training)
    assert scores[training].min() > 0, "a training clip was scored against itself"
    assert scores[39] > 2 * np.delete(scores, 39).max()


def test_the_only_training_clip_of_an_identity_has_no_other():
    values, training = np.random.default_rng(0).normal(size=(5, 4)), np.array([True, False, True, True, False])
    scores = nearest_neighbour(values, np.array([0, 0, 1, 1, 1]), training)
    assert np.isnan(scores[0]) and np.isfinite(scores[1:]).all()
