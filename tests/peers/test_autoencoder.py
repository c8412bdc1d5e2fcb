"""The DCASE 2020 baseline autoencoder: its shape, its vectors, its seed, and that it learns."""

import numpy as np
import pytest
import torch
from torch import nn

from peers.autoencoder import Autoencoder, reconstruction_error, stack, train


def test_layers_are_the_baselines():
    linear = [layer for layer in Autoencoder(128) if isinstance(layer, nn.Linear)]
    widths = [linear[0].in_features, *(layer.out_features for layer in linear)]
    assert widths == [640, 128, 128, 128, 128, 8, 128, 128, 128, 128, 640]
    assert sum(isinstance(layer, nn.BatchNorm1d) for layer in Autoencoder(128)) == 9
    assert isinstance(Autoencoder(128)[-1], nn.Linear)


def test_a_vector_is_five_frames_after_each_other():
    frames = torch.arange(7 * 3.0).reshape(7, 3)
    vectors = stack(frames)
    assert vectors.shape == (3, 15)
    for begin in range(3):
        assert torch.equal(vectors[begin], frames[begin : begin + 5].flatten())
    with pytest.raises(ValueError, match="4 frames are too few"):
        stack(frames[:4])


def reader(clips):
    """What `train` is given of clips in memory."""
    lengths = np.array([len(clip) for clip in clips])

    def read(chosen, starts):
        return torch.stack([torch.from_numpy(clips[i][s : s + 5]) for i, s in zip(chosen, starts, strict=True)])

    return lengths, read


def test_every_vector_of_every_clip_is_drawn_once_an_epoch():
    lengths, drawn = np.array([5, 9, 6]), []

    def read(clips, starts):
        drawn.extend(zip(clips.tolist(), starts.tolist(), strict=True))
        return torch.zeros(len(clips), 5, 4)

    train(lengths, read, epochs=1, vectors_per_epoch=100, seed=0)
    assert sorted(drawn[1:]) == [
        (0, 0),
        *((1, start) for start in range(5)),
        (2, 0),
        (2, 1),
    ]  # the first is for its shape


def test_it_learns_the_training_clips_and_is_seeded():
    rng = np.random.default_rng(0)
    pattern = rng.normal(size=(5, 16)).astype(np.float32)
    clips = [np.tile(pattern, (12, 1)) + 0.1 * rng.normal(size=(60, 16)).astype(np.float32) for _ in range(8)]
    networks = [train(*reader(clips), epochs=25, vectors_per_epoch=1024, seed=seed) for seed in (0, 0, 1)]
    errors = [reconstruction_error(network, torch.from_numpy(clips[0])) for network in networks]
    assert errors[0] == errors[1] != errors[2]
    strange = rng.normal(size=(60, 16)).astype(np.float32)
    assert errors[0] < 0.5 < 0.8 < reconstruction_error(networks[0], torch.from_numpy(strange))


def test_clips_as_short_as_one_vector_can_be_learned_from():
    train(*reader([np.zeros((5, 16), np.float32)] * 3), epochs=1, vectors_per_epoch=100, seed=0)
