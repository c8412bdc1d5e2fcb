"""The benchmark of training: both loops run, train, and do the work that they are compared for."""

import math

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from benchmarks import pretrain
from model.network import NetworkConfig

SMALL = NetworkConfig(width=24, depth=2, heads=2, decoder_width=16, decoder_depth=1, decoder_heads=2, projection=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    pretrain.write_corpus(folder, 4)
    return folder


def test_both_loops_are_measured_side_by_side(folder):
    result = pretrain.against_reference(folder, SMALL, batch=4, repeats=1)
    assert result["ratio"] == pytest.approx(result["pairs_per_second"] / result["reference_pairs_per_second"])
    assert 0 < result["share_of_float32_rate"] < 1 and result["gflops"] > 0


def test_the_reference_does_what_ours_does_and_decodes_the_second_view_too(folder):
    counts = []
    for step in (
        pretrain.our_step(folder, SMALL, 4, "32-true"),
        pretrain.reference_step(folder, SMALL, 4),
    ):
        step()
        with FlopCounterMode(display=False) as counter:
            step()
        counts.append(counter.get_total_flops())
    ours, reference = counts
    assert 1.1 * ours < reference < 2 * ours, "the encoder's work is the same, the decoder's is double"


def test_every_size_and_memory_row(folder):
    rate = pretrain.matrix_rate(torch.float32)
    assert rate > 1e8
    step = pretrain.our_step(folder, SMALL, 4, "32-true", finetuning=True)
    assert math.isfinite(pretrain.seconds(step)) and pretrain.seconds(step) > 0
