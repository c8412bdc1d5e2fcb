"""Two processes over gloo compute what one process computes."""

import json
import os
import subprocess
import sys
from collections import Counter

import pytest
import torch
from safetensors.torch import load_file

from audio.features import Features
from model.finetuning import finetune
from model.network import IdentityClassifier
from model.pretraining import pretrain
from model.training import make_fabric
from tests.conftest import ROOT
from tests.model.tiny_training import (
    CONFIG,
    FINETUNING,
    IDENTITIES,
    PRETRAINING,
    both_objectives,
    loss_and_gradients,
    write_features,
)

OBJECTIVES = ["pretraining", "all_options", "finetuning"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """The features, and what two processes wrote about them; batches of 7 clips, so that one share is filled up."""
    folder = tmp_path_factory.mktemp("two")
    write_features(folder / "features")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [*launcher, "-m", "tests.model.tiny_training", "two", str(folder)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return folder


@pytest.fixture(scope="module")
def fabric():
    return make_fabric("32-true")


@pytest.mark.parametrize("name", OBJECTIVES)
def test_losses_and_gradients_of_two_processes_are_those_of_one(folder, fabric, name):
    objectives = {name: rest for name, *rest in both_objectives(Features.open(folder / "features"), fabric)}
    rows, gradients = loss_and_gradients(*objectives[name], steps=3)
    distributed = json.loads((folder / f"{name}.json").read_text())
    for one, two in zip(rows, distributed, strict=True):
        for term in one:
            assert two[term] == pytest.approx(one[term], rel=1e-5, abs=1e-7), term
    largest = max(gradient.abs().max() for gradient in gradients.values())
    for parameter, gradient in load_file(folder / f"{name}.safetensors").items():
        error = (gradient - gradients[parameter]).norm() / max(gradients[parameter].norm(), 1e-3 * largest)
        assert error < 1e-5, parameter


@pytest.mark.parametrize("name", OBJECTIVES)
def test_two_processes_together_see_what_one_sees(folder, fabric, name):
    objectives = {name: rest for name, *rest in both_objectives(Features.open(folder / "features"), fabric)}
    seen = [json.loads((folder / f"seen_{rank}.json").read_text())[name] for rank in (0, 1)]
    expected = Counter(int(clip) for clips in objectives[name][0].batches(0) for clip in clips)
    assert Counter(seen[0]) + Counter(seen[1]) == expected
    if name != "finetuning":
        assert expected == dict.fromkeys(range(21), 1)


def test_both_processes_end_with_the_network_of_one(folder, tmp_path, fabric):
    first, second = (load_file(folder / f"weights_{rank}.safetensors") for rank in (0, 1))
    features = Features.open(folder / "features")
    network = pretrain(features, CONFIG, PRETRAINING, fabric, tmp_path / "1", lambda row: None)
    one, _ = finetune(features, network, FINETUNING, fabric, tmp_path / "2", lambda row: None)
    two = IdentityClassifier(CONFIG, len(IDENTITIES))
    two.load_state_dict(first)
    assert all(torch.equal(first[name], second[name]) for name in first)
    # of weights only what they say can be compared: the bias of the keys has no effect, and rounding moves it
    spectrogram = torch.randn(8, CONFIG.frames, CONFIG.mels)
    for ours, theirs in zip(one(spectrogram), two(spectrogram), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-3)


def test_checkpoints_that_are_not_in_one_folder_for_all_are_refused(folder):
    for rank in (0, 1):
        assert "the processes find different checkpoints" in (folder / f"refusal_{rank}.txt").read_text()
