"""All peers over a tiny corpus: whole tables, training normals alone, the store, and a killed run."""

import numpy as np
import pandas as pd
import pytest

from audio.features import Features
from evaluation.scoring import scored_clips
from peers import peer, run
from peers.run import PEERS, peer_scores
from storage.shards import Folder
from tests.tiny_corpus import make

TINY: dict[str, dict] = {
    "autoencoder": {"epochs": 2, "vectors": 256},
}


class Recorded(Features):
    """Features that note the rows which are read."""

    def read(self, row, start=0, frames=None):
        self.seen.add(int(row))
        return super().read(row, start, frames)

    def read_originals(self, rows, starts, frames):
        self.seen.update(map(int, rows))
        return super().read_originals(rows, starts, frames)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return make(tmp_path_factory.mktemp("peers"))


@pytest.fixture
def recorded(corpus, tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    features = Recorded.open(corpus / "data/features")
    features.seen = set()
    return features


def scores(features, corpus, names, seed=0, clips=None, **settings):
    clips = scored_clips(features) if clips is None else clips
    chosen = {name: TINY[name] | settings for name in names}
    return peer_scores(clips, features, Folder(corpus / "data/raw"), chosen, seed)


def test_every_peer_has_params(recorded):
    assert set(TINY) == set(PEERS)


@pytest.mark.parametrize("name", TINY)
def test_only_training_normals_are_read_until_all_is_learned(name, recorded, corpus, monkeypatch):
    clips, heard, learned = scored_clips(recorded), [], []
    read_clip, fit = peer.read_clip, PEERS[name].fit
    monkeypatch.setattr(peer, "read_clip", lambda path: (heard.append(path.stem), read_clip(path))[1])

    def noted(self, training, checkpoints):
        own = fit(self, training, checkpoints)
        own_rows = set(clips.loc[clips["clip"].isin(training.names), "row"])
        learned.append((set(training.names), own_rows, set(recorded.seen), list(heard)))
        recorded.seen.clear()
        heard.clear()
        return own

    monkeypatch.setattr(PEERS[name], "fit", noted)
    monkeypatch.setattr(run.os, "cpu_count", lambda: 1)  # one machine type after the other
    of_type = clips if PEERS[name].joint else clips[clips["machine_type"] == "fan"]
    scores(recorded, corpus, [name], clips=of_type)
    ((names, rows, seen, heard_names),) = learned
    training = of_type[of_type["split"] == "train"]
    assert names == set(training["clip"]) and (training["condition"] == "normal").all()
    assert rows == set(training["row"]) and seen | set(heard_names)
    assert seen <= rows and set(heard_names) <= {clip.split("/")[-1] for clip in names}


@pytest.mark.parametrize("name", TINY)
def test_the_same_seed_gives_the_same_scores_and_the_store_keeps_them(name, recorded, corpus, monkeypatch, tmp_path):
    columns, costs = scores(recorded, corpus, [name])
    assert columns[name].shape == (42,) and np.isfinite(columns[name]).all()
    assert costs[name]["parameters"] > 0 and costs[name]["seconds"] > 0
    recorded.seen.clear()
    again, kept = scores(recorded, corpus, [name])
    assert np.array_equal(again[name], columns[name]) and kept == costs and not recorded.seen
    assert not list((tmp_path / "store/checkpoints").glob("*"))
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "other"))
    assert np.array_equal(scores(recorded, corpus, [name])[0][name], columns[name])
    assert not np.array_equal(scores(recorded, corpus, [name], seed=1)[0][name], columns[name])


def test_scores_belong_to_their_clips_whatever_their_order(recorded, corpus, monkeypatch, tmp_path):
    clips = scored_clips(recorded)
    columns, _ = scores(recorded, corpus, ["autoencoder"], clips=clips)
    mixed = pd.concat([part for _, part in clips.groupby("machine_type")][::-1])
    others, _ = scores(recorded, corpus, ["autoencoder"], clips=mixed)
    assert np.array_equal(pd.Series(others["autoencoder"], mixed.index).sort_index(), columns["autoencoder"])


def test_a_score_that_is_not_a_number_names_peer_and_clip(recorded, corpus, monkeypatch):
    monkeypatch.setattr(PEERS["autoencoder"], "score", lambda self, clips: np.full(len(clips), np.nan))
    with pytest.raises(ValueError, match="the autoencoder score of fan/test/anomaly_id_00_00000000 is not a number"):
        scores(recorded, corpus, ["autoencoder"])
