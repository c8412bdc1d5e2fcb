"""The augmentation's benchmark on the smallest AudioLDM: it counts the work that the method needs, and none more."""

import json

import pandas as pd
import pytest

from benchmarks import augment
from tests import tiny_corpus
from tests.augmentation import tiny_audioldm


@pytest.fixture
def measured(tmp_path):
    tiny_corpus.make(tmp_path)
    prompts = pd.DataFrame({"id": ["p0"], "text": tiny_audioldm.SENTENCES[:1]})
    (tmp_path / "prompts").mkdir()
    prompts.to_csv(tmp_path / "prompts" / "prompts.csv", index=False)
    checkpoint = tiny_audioldm.save(tmp_path / "checkpoint")
    folders = ["--raw", str(tmp_path / "data/raw"), "--prompts", str(tmp_path / "prompts")]
    sizes = ["--checkpoint", str(checkpoint), "--clips", "2", "--rounds", "1", "--steps", "4", "5"]
    rows = augment.main([*folders, *sizes], tmp_path / "augment.json")
    assert json.loads((tmp_path / "augment.json").read_text())["rows"] == rows
    return {row["way"]: row for row in rows}


def test_every_evaluation_that_the_method_needs_and_none_more(measured):
    pipeline, alone, batched, stage, stored = measured.values()
    assert 4 <= pipeline["evaluations/clip"] <= 5
    for way in (alone, batched, stage):
        # t0 is 0.5: half of each clip's steps, rounded down
        assert pipeline["evaluations/clip"] / 2 - 0.5 <= way["evaluations/clip"] <= pipeline["evaluations/clip"] / 2
        assert way["evaluations/clip"] == alone["evaluations/clip"]
        assert way["texts/clip"] == pytest.approx(1), "one prompt and the empty one, each once"
    assert pipeline["texts/clip"] == 2
    assert stored["evaluations/clip"] == stored["texts/clip"] == 0
    assert stored["s/clip"] < stage["s/clip"]
