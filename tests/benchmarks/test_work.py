"""The guard against getting slower: work is counted, not timed. (U-Net evaluations: test_augment.py.)"""

from dataclasses import replace
from functools import partial

import pandas as pd
import pytest
import torch

from audio import extraction
from audio.features import Features
from model.batches import TrainingClips
from model.network import RCMAE
from model.pretraining import Pretraining, pretrain
from model.training import make_fabric
from stages import logmel_feature
from stages.params import load
from tests import tiny_corpus
from tests.conftest import ROOT
from tests.model.tiny_training import CONFIG, PRETRAINING, write_features


class Counting(Features):
    """Features that note how many frames were read of each row, in each call."""

    def read(self, row, start=0, frames=None):
        spectrogram = super().read(row, start, frames)
        self.__dict__.setdefault("reads", []).append(len(spectrogram))
        return spectrogram


def counted(function, log, *arguments, **keywords):
    log.append(1)
    return function(*arguments, **keywords)


@pytest.mark.parametrize("augmented", [True, False])
def test_an_epoch_reads_one_crop_of_each_view_of_each_clip(tmp_path, augmented):
    features = Counting.open(write_features(tmp_path / "features"))
    settings = replace(PRETRAINING, epochs=2, augmented=augmented)
    pretrain(features, CONFIG, settings, make_fabric("32-true"), tmp_path / "checkpoints", lambda row: None)
    training = features.index[(features.index["split"] == "train") & (features.index["kind"] == "original")]
    crops = training["frames"].clip(upper=CONFIG.frames)
    assert len(features.reads) == 2 * len(training) * (1 + augmented)
    assert sum(features.reads) == 2 * crops.sum() * (1 + augmented), "nothing beyond the crop"


@pytest.mark.parametrize("both", [False, True])
def test_a_step_encodes_visible_tokens_once_and_decodes_what_is_reconstructed(tmp_path, both):
    clips = TrainingClips(Features.open(write_features(tmp_path / "features")), CONFIG)
    settings = replace(PRETRAINING, mae_views="both" if both else "original")
    objective, network = Pretraining(clips, settings, make_fabric("32-true")), RCMAE(CONFIG)
    encoded, decoded = [], []
    for blocks, log in ((network.encoder.blocks, encoded), (network.decoder.blocks, decoded)):
        for block in blocks:
            block.register_forward_pre_hook(lambda _, inputs, log=log: log.append(inputs[0][..., 0].numel()))
    batch = objective.load(0, 0, objective.batches(0)[0])
    objective.losses(network, batch)
    pairs, visible = batch.visible.shape
    assert visible < CONFIG.tokens
    assert sum(encoded) == CONFIG.depth * 2 * pairs * visible
    assert sum(decoded) == CONFIG.decoder_depth * (1 + both) * pairs * CONFIG.tokens


def test_each_clip_is_decoded_and_transformed_once_and_then_never_again(tmp_path, monkeypatch):
    raw = tiny_corpus.make(tmp_path, training=2, test=2) / "data/raw"
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    pd.DataFrame(columns=["clip", "view"]).to_csv(tmp_path / "manifest.csv", index=False)
    params = load("logmel-feature", ROOT)
    decodes, transforms, stfts = [], [], []
    monkeypatch.setattr(extraction, "read_clip", partial(counted, extraction.read_clip, decodes))
    monkeypatch.setattr(extraction, "log_mel", partial(counted, extraction.log_mel, transforms))
    monkeypatch.setattr(torch, "stft", partial(counted, torch.stft, stfts))
    for _ in range(2):
        logmel_feature.run(params, raw, tmp_path, tmp_path / "features", 1)
        assert len(decodes) == len(transforms) == len(stfts) == len(list(raw.rglob("*.flac")))
