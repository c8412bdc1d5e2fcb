"""The benchmark of training: both loops run, train, and do the work that they are compared for."""

import os
from itertools import product

import pytest
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
    step = pretrain.our_step(folder, SMALL, 4, "auto")
    step()
    with FlopCounterMode(display=False) as counter:
        step()
    # the tokens that are masked differ from step to step
    work = result["gflops"] * 1e9 * 4 / result["pairs_per_second"]
    assert work == pytest.approx(counter.get_total_flops(), rel=0.3)
    assert result["share_of_float32_rate"] < 1, "no network is faster than a matrix product"


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


def test_batches_of_other_shapes_do_not_pile_up_in_memory(folder, monkeypatch):
    monkeypatch.setattr(pretrain, "EMBEDDED", SMALL)
    monkeypatch.setattr(pretrain, "STEPS", 2)
    assert 0.2 < pretrain.peak_of_this(folder, "embedded", 2) < 4
    assert int(os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"]) < 1024, "it keeps what it compiled for every shape"
    assert int(os.environ["LRU_CACHE_CAPACITY"]) < 1024


def test_both_trainings_are_measured_at_both_sizes_and_precisions(folder, monkeypatch):
    def two_seconds(step) -> float:
        step()
        return 2.0

    monkeypatch.setattr(pretrain, "PAPER", SMALL)
    monkeypatch.setattr(pretrain, "EMBEDDED", SMALL)
    monkeypatch.setattr(pretrain, "seconds", two_seconds)
    rows = pretrain.by_size(folder, 4, 1)
    measured = {(row["size"], row["training"], row["precision"]) for row in rows}
    sizes, trainings, precisions = ("paper", "embedded"), ("pretraining", "finetuning"), ("bf16-mixed", "32-true")
    assert measured == set(product(sizes, trainings, precisions)) and len(rows) == len(measured)
    assert {row["clips_per_second"] for row in rows} == {4 / 2.0}
