"""Params: every key is typed and ranged, and a stage gets only what dvc.yaml declares for it."""

import re
from itertools import pairwise
from pathlib import Path

import dvc.api
import pytest
import yaml

from stages.params import declared_keys, load, read
from tests.conftest import ROOT


def changed(tmp_path: Path, key: str, value: object) -> Path:
    """params.yaml of the repository with one key changed."""
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    *groups, last = key.split(".")
    group = values
    for name in groups:
        group = group[name]
    group[last] = value
    path = tmp_path / "params.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.mark.parametrize(
    ("key", "value", "limit"),  # the words are pydantic's, and may change
    [
        ("lambda_con", -0.1, "0"),
        ("lambda_con", "much", ""),
        ("lambda_con", float("nan"), ""),
        ("seed", 1.5, ""),
        ("seed", True, ""),
        ("seed", "3", ""),
        ("pretrain.epochs", -1, "0"),
        ("pretrain.mask_ratio", [0.0, 0.75], "0"),
        ("pretrain.mask_ratio", [0.5, 1.0], "1"),
        ("pretrain.mask_ratio", [0.75, 0.5], "must not be above"),
        ("pretrain.norm_pix_loss", "yes please", ""),
        ("pretrain.precision", "fp8", "'bf16-mixed'"),
        ("augment.guidance_scale", 1e30, "100"),
        ("augment.guidance_scale", float("inf"), "100"),
        ("augment.views_per_clip", 10**9, "100"),
        ("logmel.n_fft", 2**40, "65536"),
        ("logmel.n_mels", 10**6, "4096"),
        ("model.frames", 10**9, "65536"),
        ("model.width", 10**6, "4096"),
        ("score.bootstrap", 10**9, "100000"),
        ("score.neighbours", 1001, "1000"),  # what a detector may have
        ("score.aadcl_seconds", 1e-9, "0.5"),
        ("report.gallery_clips", 10**6, "100"),
        ("finetune.batch_size", 1, "2"),
        ("augment.t0", 0, "0"),
        ("augment.ddim_steps", [50, 10], "must not be above"),
        ("augment.method", "gan", "'masking'"),
        ("corpus.subsets", [], "1"),
        ("score.backend", "svm", "'negative_log_probability'"),
        ("storage.shards", "always", "auto, never or a number"),
        ("storage.shards", 0, "auto, never or a number"),
        ("storage.shards", True, "auto, never or a number"),
    ],
)
def test_bad_value_is_one_line_that_names_key_value_and_the_limit(tmp_path, key, value, limit):
    with pytest.raises(ValueError, match=re.escape(key)) as error:
        read(changed(tmp_path, key, value))
    message = str(error.value)
    assert limit in message
    shown = value[0] if key.startswith("pretrain.mask_ratio") and value[0] == 0.0 else value
    shown = 1.0 if value == [0.5, 1.0] else shown
    assert repr(shown) in message or repr(tuple(shown)) in message
    assert "\n" not in message


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("lambda_kon", 0.3, "lambda_kon is not a parameter"),
        ("pretrain.epoch", 3, "pretrain.epoch is not a parameter"),
        ("augment.t0", 0.05, r"floor\(S \* t0\) is 0 for S = 10 and t0 = 0.05"),
        ("model.frames", 321, "frames 321 must be a multiple of patch_frames 5"),
        ("model.frames", 65_000, "make 104000 tokens of an input, at most 8192 are allowed"),
        ("model.heads", 5, r"width \d+ must be a multiple of heads 5"),
        ("logmel.n_mels", 100, "n_mels 100 must be a multiple of model.patch_mels 16"),
        ("logmel.f_max", 9000.0, "half the sample rate"),
        ("prompts.provider", "openai", "prompts.model"),
    ],
)
def test_rules_between_keys(tmp_path, key, value, message):
    with pytest.raises(ValueError, match=message):
        read(changed(tmp_path, key, value))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (10_000 * "[", "params.yaml is not YAML that can be read: its values are nested too deeply"),
        (5_000 * "{a: " + "1" + 5_000 * "}", "nested too deeply"),
        ("seed: " + 5_000 * "9", "params.yaml is not YAML: Exceeds the limit"),
        ("seed: 2026-99-99", "params.yaml is not YAML: month must be in 1..12"),
        ("seed: \udcff", "params.yaml is not YAML: 'utf-8' codec can't decode byte 0xff"),
        ("a: [1, 2", "params.yaml is not YAML: while parsing a flow sequence"),
    ],
)
def test_what_no_parser_takes_is_one_line(tmp_path, text, message):
    (tmp_path / "params.yaml").write_text(text, encoding="utf-8", errors="surrogateescape")
    with pytest.raises(ValueError, match=re.escape(message)) as error:
        read(tmp_path / "params.yaml")
    assert "\n" not in str(error.value)


def test_a_value_of_any_size_is_shown_in_short(tmp_path):
    doubling = ", ".join(f"&{b} [*{a}, *{a}, *{a}]" for a, b in pairwise("abcdefghijklmnopqrstuvw"))
    text = (ROOT / "params.yaml").read_text().replace("\nseed: 0", f"\nseed: [&a [x], {doubling}]")
    (tmp_path / "params.yaml").write_text(text)
    with pytest.raises(ValueError, match=r"seed is \[\['x'\]") as error:
        read(tmp_path / "params.yaml")
    assert len(str(error.value)) < 5000


def test_missing_key_is_named(tmp_path):
    path = tmp_path / "params.yaml"
    values = yaml.safe_load((ROOT / "params.yaml").read_text())
    del values["pretrain"]["epochs"]
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(ValueError, match=r"pretrain\.epochs is missing"):
        read(path)


def test_yaml_1_1_reads_small_numbers_as_strings_and_we_do_not(tmp_path):
    path = tmp_path / "params.yaml"
    text = (ROOT / "params.yaml").read_text()
    path.write_text(re.sub(r"(pretrain:(?:.|\n)*?learning_rate: )\S+", r"\g<1>1e-4", text, count=1))
    assert yaml.safe_load(path.read_text())["pretrain"]["learning_rate"] == "1e-4"
    assert read(path).pretrain.learning_rate == 1e-4


def test_every_key_has_a_comment():
    for line in (ROOT / "params.yaml").read_text().splitlines():
        if re.match(r"\s*\w+: *[^ #]", line):
            assert "#" in line, f"no comment: {line}"


def test_a_stage_reads_only_declared_keys():
    params = load("diffusion-augment", ROOT)
    assert params.augment.t0 == read(ROOT / "params.yaml").augment.t0
    with pytest.raises(AttributeError, match=r"diffusion-augment reads lambda_con, which dvc\.yaml does not declare"):
        _ = params.lambda_con
    with pytest.raises(AttributeError, match=r"pretrain reads augment\.t0"):
        _ = load("pretrain", ROOT).augment.t0


def test_stage_gets_the_values_that_dvc_records():
    """DVC's own reading of params.yaml (YAML 1.2) and ours agree on every declared key."""
    recorded = dvc.api.params_show(repo=str(ROOT))
    for stage in yaml.safe_load((ROOT / "dvc.yaml").read_text())["stages"]:
        params = load(stage, ROOT)
        for key in declared_keys(stage, ROOT):
            ours, theirs = params, recorded
            for name in key.split("."):
                ours, theirs = getattr(ours, name), theirs[name]
            if isinstance(theirs, dict):
                ours = {name: _plain(getattr(ours, name)) for name in theirs}
            assert _plain(ours) == theirs, f"{stage}: {key}"


def _plain(value: object) -> object:
    return list(value) if isinstance(value, tuple) else value
