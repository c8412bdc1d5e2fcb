from collections import Counter
from itertools import combinations

import numpy as np
import pytest
import torch

from audio.features import Features
from model.batches import (
    Share,
    TrainingClips,
    balanced_order,
    batch_sizes,
    mask_time_and_frequency,
    prefetched,
    visible_count,
)
from tests.model.tiny_training import CONFIG, IDENTITIES, write_features


@pytest.fixture(scope="module")
def features(tmp_path_factory) -> Features:
    return Features.open(write_features(tmp_path_factory.mktemp("data") / "features"))


@pytest.mark.parametrize("clips", [2, 3, 7, 8, 9, 252, 257, 1000])
@pytest.mark.parametrize("batch_size", [2, 4, 32, 128])
def test_batch_sizes_cover_the_clips_evenly(clips, batch_size):
    sizes = batch_sizes(clips, batch_size)
    assert sum(sizes) == clips
    assert max(sizes) - min(sizes) <= 1
    assert min(sizes) >= 2
    assert max(sizes) <= max(batch_size, 3)
    assert len(sizes) <= -(-clips // batch_size)


def test_batch_sizes_keep_pairs_together():
    assert batch_sizes(252, 32, together=2) == [32] * 6 + [30] * 2
    assert batch_sizes(10, 5, together=2) == [4, 4, 2]
    assert batch_sizes(4, 2, together=2) == [2, 2]


def test_batch_sizes_that_cannot_be():
    with pytest.raises(ValueError, match="batch_size 6 does not divide among 4 processes"):
        batch_sizes(100, 6, 4)
    with pytest.raises(ValueError, match="1 training clips, at least 2"):
        batch_sizes(1, 2)
    with pytest.raises(ValueError, match="3 training clips, at least 4"):
        batch_sizes(3, 8, 4)


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("size", [4, 5, 8, 9])
def test_shares_hold_each_clip_once_and_come_back_in_order(processes, size):
    batch = np.arange(100, 100 + size)
    shares = [Share.of(batch, rank, processes) for rank in range(processes)]
    assert len({len(share.clips) for share in shares}) == 1
    assert sorted(clip for share in shares for clip in share.clips[: share.own]) == batch.tolist()
    gathered = torch.stack([torch.from_numpy(share.clips)[:, None] for share in shares])  # (w, m, 1)
    assert shares[0].rows_of(gathered)[:, 0].tolist() == batch.tolist()


def test_training_clips_are_the_training_normals(features):
    clips = TrainingClips(features, CONFIG)
    index = features.index
    expected = index[(index["split"] == "train") & (index["condition"] == "normal") & (index["kind"] == "original")]
    assert clips.names == expected["clip"].tolist()
    assert Counter(clips.identities) == dict.fromkeys(IDENTITIES, 7)
    clips.require_views()


def test_features_that_do_not_fit(features, tmp_path):
    from model.network import NetworkConfig

    with pytest.raises(ValueError, match="16 mel bins, the network 128"):
        TrainingClips(features, NetworkConfig())
    bare = Features.open(write_features(tmp_path / "bare", training=2, views=0))
    with pytest.raises(
        ValueError, match="6 training clips have no augmented view, the first is fan/train/normal_id_00"
    ):
        TrainingClips(bare, CONFIG).require_views()


def test_crops_of_both_views_are_the_same_and_at_random_places(features):
    clips = TrainingClips(features, CONFIG)
    longest = int(np.argmax(clips._frames))
    starts = set()
    for epoch in range(40):
        random = clips.random(longest, 0, epoch)
        start, original = clips.crop(longest, random)
        view = clips.view(longest, start, random)
        assert original.shape == view.shape == (CONFIG.frames, CONFIG.mels)
        assert np.abs(original - view).mean() < 1.5  # the views differ by noise of 1 dB, other crops by 3 dB
        starts.add(start)
    assert starts == set(range(clips._frames[longest] - CONFIG.frames + 1))


def test_both_views_of_a_clip_are_drawn(features):
    clips = TrainingClips(features, CONFIG)
    drawn = {clips.view(0, 0, clips.random(0, 0, epoch)).tobytes() for epoch in range(20)}
    assert len(drawn) == 2


def test_randomness_depends_on_seed_epoch_and_clip_alone(features):
    clips = TrainingClips(features, CONFIG)

    def draws(seed, epoch, clip):
        return clips.random(clip, seed, epoch).random(4).tolist()

    assert draws(0, 1, 2) == draws(0, 1, 2)
    assert len({tuple(draws(*key)) for key in [(0, 1, 2), (1, 1, 2), (0, 2, 2), (0, 1, 3), (1, 0, 2)]}) == 5


@pytest.mark.parametrize("level", ["keep", "remove"])
def test_short_clips_are_repeated_and_standardised(features, level):
    clips = TrainingClips(features, CONFIG, level)
    shortest = int(np.argmin(clips._frames))
    _, crop = clips.crop(shortest, clips.random(shortest, 0, 0))
    batch = clips.network_input([crop])
    assert batch.shape == (1, CONFIG.frames, CONFIG.mels) and batch.dtype == torch.float32
    filled = np.resize(crop, (CONFIG.frames, CONFIG.mels))
    expected = (filled - features.mean) / features.std
    if level == "remove":
        expected = (filled - filled.mean()) / features.within_std
    np.testing.assert_allclose(batch[0], expected, rtol=1e-3, atol=1e-4)


def test_masks_cover_one_band_of_time_and_one_of_frequency():
    random = np.random.default_rng(0)
    widths = []
    for _ in range(300):
        masked = mask_time_and_frequency(np.ones((50, 20), np.float32), 0.4, 0.25, -7.0, random) == -7.0
        times, mels = masked.all(axis=1), masked.all(axis=0)
        assert (masked == (times[:, None] | mels[None])).all()
        for band in (times, mels):
            places = np.flatnonzero(band)
            assert len(places) == 0 or places[-1] - places[0] + 1 == len(places)
        widths.append((times.sum(), mels.sum()))
    assert np.max(widths, axis=0).tolist() == [20, 5]
    assert np.min(widths, axis=0).tolist() == [0, 0]


def test_visible_tokens():
    assert visible_count(512, 0.75) == 128
    assert visible_count(512, 0.5) == 256
    assert visible_count(16, 0.999) == 1
    assert visible_count(16, 0.001) == 15


@pytest.mark.parametrize("counts", [(10, 10, 10), (30, 5, 2), (3, 3), (2, 50, 9, 7)])
def test_balanced_order_gives_each_identity_its_part_in_pairs(counts):
    labels = np.repeat(np.arange(len(counts)), counts)
    order = balanced_order(labels, np.random.default_rng(0))
    assert len(order) == len(labels) + len(labels) % 2
    pairs = order.reshape(-1, 2)
    assert (labels[pairs[:, 0]] == labels[pairs[:, 1]]).all()
    assert (pairs[:, 0] != pairs[:, 1]).all()
    identity = labels[pairs[:, 0]]
    for start, end in combinations(range(len(pairs) + 1), 2):  # every piece is balanced
        drawn = np.bincount(identity[start:end], minlength=len(counts))
        assert drawn.max() - drawn.min() <= 1
    for label in range(len(counts)):  # and no clip is drawn twice before all have been drawn
        times = np.bincount(order[labels[order] == label], minlength=len(labels))[labels == label]
        assert times.max() - times.min() <= 1


def test_balanced_order_of_a_balanced_corpus_is_every_clip_once():
    order = balanced_order(np.repeat(np.arange(6), 4), np.random.default_rng(1))
    assert sorted(order) == list(range(24))


def test_prefetching_keeps_order_and_passes_errors_on():
    assert list(prefetched(lambda x: x * x, range(7))) == [x * x for x in range(7)]
    with pytest.raises(ZeroDivisionError):
        list(prefetched(lambda x: 1 // x, [1, 0]))
