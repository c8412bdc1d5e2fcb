"""Clips as a peer reads them: standardised, cut, and repeated where they are too short."""

import numpy as np
import pytest

from audio.clips import read_clip
from audio.features import Features
from evaluation.scoring import scored_clips
from peers.peer import Clips
from storage.shards import Folder
from tests.tiny_corpus import make


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("clips"))


def test_pieces_are_cut_from_the_clips_that_are_asked_for(corpus):
    features = Features.open(corpus / "data/features")
    table = scored_clips(features).iloc[::-1]  # any order, and of 1 and 2 s
    clips = Clips(table, features, Folder(corpus / "data/raw"))
    assert len(clips) == len(table) and clips.identities[0] == "pump/id_00"
    assert set(clips.frames) == {32, 63} and set(clips.samples) == {31 * 512, 62 * 512}
    for clip in (0, 5):
        row = table.iloc[clip]
        whole = (features.read(row["row"]) - features.mean) / features.std
        np.testing.assert_array_equal(clips.log_mel(clip), whole)
        cut = clips.log_mel_pieces(np.array([clip, clip]), np.array([0, 12]), 20)
        np.testing.assert_array_equal(cut, np.stack([whole[:20], whole[12:32]]))
        repeated = clips.log_mel_pieces(np.array([clip]), np.array([0]), len(whole) + 7)
        np.testing.assert_array_equal(repeated[0], np.concatenate([whole, whole[:7]]))

        waveform = read_clip(corpus / "data/raw" / f"{row['clip']}.flac")
        np.testing.assert_array_equal(clips.waveform(clip), waveform)
        cut = clips.waveform_pieces(np.array([clip, clip]), np.array([0, 300]), 400)
        np.testing.assert_array_equal(cut, np.stack([waveform[:400], waveform[300:700]]))
        repeated = clips.waveform_pieces(np.array([clip]), np.array([0]), len(waveform) + 9)
        np.testing.assert_array_equal(repeated[0], np.concatenate([waveform, waveform[:9]]))
