"""Stage prompt-generation: prompts.csv of the provider that params name, and what was refused."""

import csv
import json

import pytest
import yaml

from stages.params import load
from stages.prompt_generation import run
from tests.augmentation.test_prompts import Server, chat, good, ten
from tests.conftest import ROOT


@pytest.fixture
def params(tmp_path):
    def make(**prompts):
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["prompts"] |= prompts
        (tmp_path / "params.yaml").write_text(yaml.safe_dump(values))
        (tmp_path / "dvc.yaml").write_text((ROOT / "dvc.yaml").read_text())
        return load("prompt-generation", tmp_path)

    return make


def read(path):
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def bank_run(params, out):
    run(params, ROOT / "corpora" / "prompts.csv", out)


def test_the_bank_is_the_default(params, tmp_path):
    bank_run(params(), tmp_path / "out")
    rows = read(tmp_path / "out" / "prompts.csv")
    assert list(rows[0]) == ["id", "factory", "text", "provider", "model", "seed"]
    assert len(rows) == 120
    assert len({row["id"] for row in rows}) == len({row["text"] for row in rows}) == 120
    assert len({row["factory"] for row in rows}) == 20
    assert {row["provider"] for row in rows} == {"bank"}
    assert read(tmp_path / "out" / "refused.csv") == []
    again = (tmp_path / "out" / "prompts.csv").read_bytes()
    bank_run(params(), tmp_path / "out")
    assert (tmp_path / "out" / "prompts.csv").read_bytes() == again


def test_more_than_the_bank_has(params, tmp_path):
    with pytest.raises(ValueError, match=r"prompts\.count is 1000, the bank has \d+"):
        bank_run(params(count=1000), tmp_path / "out")


def test_an_endpoints_prompts(params, tmp_path):
    with Server(ten) as server:
        bank_run(params(provider="openai", base_url=server.url, model="some-model", count=12, seed=3), tmp_path / "out")
    rows = read(tmp_path / "out" / "prompts.csv")
    assert len(rows) == 12
    assert rows[0]["id"] == "openai-001"
    assert {(row["provider"], row["model"], row["seed"]) for row in rows} == {("openai", "some-model", "3")}


def test_too_few_good_prompts_are_an_error_and_the_refused_are_listed(params, tmp_path):
    with (
        Server(chat(json.dumps({"prompts": [good(1), "make some noise"]}))) as server,
        pytest.raises(ValueError, match=r"^1 of 5 prompts passed the checks \(refused: .*refused\.csv"),
    ):
        bank_run(params(provider="openai", base_url=server.url, model="some-model", count=5), tmp_path / "out")
    refused = read(tmp_path / "out" / "refused.csv")
    assert {"text": "make some noise", "reason": "too short: 3 words, at least 8"} in refused
    assert not (tmp_path / "out" / "prompts.csv").exists()
