"""All peers over a tiny corpus: whole tables, training normals alone, the store, and a killed run."""

from typing import get_args

import numpy as np
import pandas as pd
import pytest

from audio.features import Features
from evaluation.scoring import scored_clips
from peers import peer
from peers.peer import Clips
from peers.run import PEERS, peer_scores
from stages.params import Score, read
from stages.score import settings_of
from storage.shards import Folder
from tests.conftest import ROOT
from tests.tiny_corpus import make

TINY: dict[str, dict] = {
    "autoencoder": {"epochs": 2, "vectors": 256},
    "mobilenetv2": {"epochs": 1, "learning_rate": 1e-3},
    "stgram_mfn": {"epochs": 1, "seconds": 0.5, "learning_rate": 1e-3},
    "aadcl": {"epochs": 1, "seconds": 0.5, "width": 4, "learning_rate": 1e-3},
    "gmade": {"epochs": 1, "vectors": 256},
    "glow_aff": {"epochs": 1, "pieces": 16},
    "subcluster_adacos": {"epochs": 1, "seconds": 0.5},
}
LEARNED: dict[str, dict] = {  # so that they tell machines apart
    "autoencoder": {"epochs": 30},
    "mobilenetv2": {"epochs": 100, "learning_rate": 3e-3},
    "stgram_mfn": {"epochs": 30},
    "aadcl": {"epochs": 10},
    "gmade": {"epochs": 20, "vectors": 512},
    "glow_aff": {"epochs": 20, "pieces": 64},
    "subcluster_adacos": {"epochs": 3},
}
UNKNOWING = ("autoencoder", "gmade")  # know no identities: a machine of another type is a stranger to them
DISTANCES = ("aadcl", "subcluster_adacos")  # to training clips in a space that training changes: no score falls


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
    return peer_scores(clips, features, Folder(corpus / "data/raw"), chosen, seed)[:2]


def test_every_peer_has_params():
    names = get_args(get_args(Score.model_fields["peers"].annotation)[0])
    assert set(names) == set(PEERS) == set(TINY) == set(LEARNED)
    group = read(ROOT / "params.yaml").score.model_copy(update={"peers": list(names)})
    for name, settings in settings_of(group).items():
        PEERS[name](**settings, seed=0)  # a setting that is missing or too many is an error


@pytest.mark.parametrize("name", TINY)
def test_it_learns_its_machines_and_hears_another_one(name, recorded, corpus, tmp_path):
    """Normal clips of another machine, which claim to be the first one's, score above the first one's own."""
    clips, raw = scored_clips(recorded), Folder(corpus / "data/raw")
    machine = clips["machine_type"] + "/" + clips["machine_id"]
    learned, normal = clips["split"] == "train", (clips["split"] == "test") & (clips["condition"] == "normal")
    if not PEERS[name].joint:
        learned &= clips["machine_type"] == "fan"
    own = clips[normal & (machine == "fan/id_00")]
    other = clips[normal & (machine == ("pump/id_00" if name in UNKNOWING else "fan/id_02"))].assign(
        machine_type="fan", machine_id="id_00"
    )
    means = []
    for epochs in (0, LEARNED[name]["epochs"]):
        system = PEERS[name](**TINY[name] | LEARNED[name] | {"epochs": epochs}, seed=0)
        system.fit(Clips(clips[learned], recorded, raw), tmp_path / str(epochs))
        means.append([system.score(Clips(table, recorded, raw)).mean() for table in (own, other)])
    assert means[1][1] > means[1][0], "the other machine goes unheard"
    if name not in DISTANCES:
        assert means[1][0] < means[0][0], "it learned nothing"


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
    monkeypatch.setattr("os.cpu_count", lambda: 1)  # one machine type after the other
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
    assert columns[name].shape == (57,) and np.isfinite(columns[name]).all()
    assert costs[name]["parameters"] > 0 and costs[name]["seconds"] >= 0
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
    with pytest.raises(ValueError, match=r"the autoencoder score of fan/calibration/normal_id_00_0+ is not a number"):
        scores(recorded, corpus, ["autoencoder"])
