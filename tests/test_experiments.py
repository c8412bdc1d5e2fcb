"""The experiments' scripts: the `dvc` lines that they run, that their overrides are valid params, and their tables."""

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace

import pytest
import yaml

from evaluation.systems import NAMES, PEERS
from experiments import table
from stages.command import duration_key, durations
from stages.params import Params, Score
from storage.imports import PACKAGES
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "experiments").glob("*.sh"))
REVISION = "c0ffee" * 6 + "c0de"
RECORDER = """#!/bin/sh
case "$*" in
  "exp show"*) cat "$SHOWN" ;;
  "exp list"*) cat "$LISTED" ;;
  *) printf '%s\\n' "$*" >> "$LINES_RUN" ;;
esac
"""


GIT = """#!/bin/sh
cat "$KEPT/$2"
"""


def score(auc: float) -> dict:
    figures = {"auc": auc, "pauc": auc / 2}
    alarms = {"promised": 0.1, "measured": 0.1, "caught": 0.5}
    return {"average": figures, "fan": figures, "false_alarms": alarms, "beside": {}}


def comparison(**auc: float) -> dict:
    costs = {peer: {"seconds": 61.4, "parameters": 1234567} for peer in PEERS}
    rows = [
        {"system": name, "auc": auc.get(name, 0.1), "pauc": auc.get(name, 0.1) / 2} | costs.get(name, {})
        for name in NAMES
    ]
    return {"headline": "negative_log_probability", "systems": rows}


def shown(figures: dict[str, dict | None], changes: dict | None = None) -> str:
    """As `dvc exp show --json` prints it; the workspace comes first and has no experiments."""
    experiments = []
    for name, one in figures.items():
        metrics = {table.SCORE: {"data": one}}
        params = yaml.safe_load((ROOT / "params.yaml").read_text()) | (changes or {})
        data = {"metrics": metrics, "params": {"params.yaml": {"data": params}}} if one else None
        experiments.append({"name": name, "revs": [{"rev": name, "data": data}]})
    return json.dumps([{"rev": "workspace", "experiments": None}, {"rev": "abc", "experiments": experiments}])


def keep(folder: Path, figures: dict[str, dict | None]) -> None:
    """What the commits of the experiments have beside DVC's metrics, for the stand-in of `git show`."""
    for name, one in figures.items():
        auc = one["average"]["auc"] if one else 0
        others = comparison(negative_log_probability=auc, finetuned_mahalanobis=auc / 2, rms=0.3, autoencoder=0.4)
        path = folder / f"{name}:{table.COMPARISON}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(others))


def run_script(
    name: str, folder: Path, figures: dict, *arguments: str, listed: Sequence[str] = (), **environment: str
) -> tuple[list[str], str]:
    """The lines that a script would have `dvc` run, in a copy of the experiments, and what it prints."""
    (folder / "experiments").mkdir()
    for file in (ROOT / "experiments").iterdir():
        if file.is_file():
            (folder / "experiments" / file.name).write_bytes(file.read_bytes())
    for part in (*PACKAGES, "corpora", "dvc.yaml"):
        (folder / part).symlink_to(ROOT / part)
    (folder / "metrics").mkdir()
    (folder / table.SCORE).write_text(json.dumps(score(0.9)))
    (folder / "bin").mkdir()
    (folder / "bin/dvc").write_text(RECORDER)
    (folder / "bin/dvc").chmod(0o755)
    (folder / "bin/git").write_text(GIT)
    (folder / "bin/git").chmod(0o755)
    (folder / "shown.json").write_text(shown(figures))
    keep(folder / "kept", figures)
    (folder / "listed").write_text("".join(f"{name}\n" for name in listed))
    python = Path(sys.executable).parent
    environment |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}",
        "LINES_RUN": str(folder / "lines"),
        "SHOWN": str(folder / "shown.json"),
        "KEPT": str(folder / "kept"),
        "LISTED": str(folder / "listed"),
        "AUDIOLDM_REVISION": REVISION,
        "RCMAE_STORE": str(folder / "store"),
    }
    command = ["bash", str(folder / "experiments" / name), *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (folder / "lines").read_text().splitlines() if (folder / "lines").exists() else []
    return [line.removeprefix("--wait-for-lock ") for line in lines], done.stdout


def overrides(line: str) -> list[str]:
    words = shlex.split(line)
    return [after for before, after in pairwise(words) if before == "-S"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_executable(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK) == (script.name != "aside.sh")  # which the others source


def test_the_full_size_run_is_valid_and_the_papers(tmp_path):
    (line,), printed = run_script("paper.sh", tmp_path, {}, "-S", "lambda_con=0.4")
    assert line.startswith("exp run -S ")
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    for override in overrides(line):
        key, _, value = override.partition("=")
        group, _, name = key.partition(".")
        place, name = (params[group], name) if name else (params, key)
        assert name in place, f"{key} is no parameter"
        place[name] = yaml.safe_load(value)
    full = Params.model_validate(params)
    assert (full.model.width, full.model.depth, full.model.heads, full.model.decoder_depth) == (384, 12, 6, 12)
    assert (full.pretrain.epochs, full.pretrain.batch_size, full.pretrain.learning_rate) == (400, 128, 1e-4)
    assert (full.augment.method, full.augment.ddim_steps, full.augment.guidance_scale) == ("audioldm", (10, 50), 2.5)
    assert full.augment.revision == REVISION
    assert full.lambda_con == 0.4  # from the command line, the last one wins
    assert "| this run | 90.0 | 90.0 |" in printed
    assert "| this run | 45.0 | 45.0 |" in printed


def test_the_full_size_overrides_serve_the_other_scripts(tmp_path):
    lines, printed = run_script("paper.sh", tmp_path, {}, "--overrides")
    assert lines == []
    assert "pretrain.epochs=400" in overrides(printed)


def test_table_3_pairs_the_arms_seed_by_seed(tmp_path):
    figures = {
        "table3-masking-4": score(0.80),
        "table3-audioldm-4": score(0.84),
        "table3-masking-7": score(0.60),
        "table3-audioldm-7": score(0.68),
        "table3-masking-0": score(0.1),  # of another time
    }
    lines, printed = run_script("table3.sh", tmp_path, figures, SEEDS="4 7")
    common = "exp run --temp -n table3-{0}-{1} -S augment.method={0} -S seed={1} score"
    assert lines == [common.format(method, seed) for seed in (4, 7) for method in ("masking", "audioldm")]
    assert "pauc, %, seeds 4, 7 | fan | average" in printed
    assert "| table3-masking | 35.0 ± 7.1 | 35.0 ± 7.1 |" in printed
    assert "| table3-audioldm | 38.0 ± 5.7 | 38.0 ± 5.7 |" in printed
    assert "| difference | 3.0 ± 1.4 | 3.0 ± 1.4 |" in printed  # 2 and 4


def test_table_4_runs_all_systems_at_once_and_pairs_them_with_the_model(tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    figures = {f"table4-{seed}": score(0.6 + seed / 10) for seed in (0, 1)}
    lines, printed = run_script("table4.sh", tmp_path, figures, SEEDS="0 1")
    assert lines == [
        f"exp run --temp -n table4-{seed} -S score.peers=[{','.join(PEERS)}] -S seed={seed} score" for seed in (0, 1)
    ]
    Score.model_validate(yaml.safe_load((ROOT / "params.yaml").read_text())["score"] | {"peers": PEERS})
    against = "minus RC-MAE, −log p (the paper's) | minus RC-MAE, combined"
    header = f"| auc, %, seeds 0, 1 | average | {against} | training, s | parameters |"
    assert header in printed and header.replace("auc", "pauc") in printed
    assert "| RC-MAE, −log p (the paper's) | 65.0 ± 7.1 | – | 55.0 ± 7.1 | – | " in printed
    assert "| DCASE 2020 autoencoder | 40.0 ± 0.0 | -25.0 ± 7.1 | 30.0 ± 0.0 | 61 | 1,234,567 |" in printed
    assert "| STgram-MFN | 5.0 ± 0.0 | -27.5 ± 3.5 | 0.0 ± 0.0 | 61 | 1,234,567 |" in printed  # pAUC
    assert "92.36" not in printed and "published" not in printed


def test_table_4_shows_what_was_published_on_dcase_2020_alone(tmp_path, monkeypatch):
    corpus = yaml.safe_load((ROOT / "params.yaml").read_text())["corpus"]
    corpus |= {"path": "/somewhere/corpora/dcase2020.csv", "types": []}
    found = json.loads(shown({"table4-0": score(0.6)}, {"corpus": corpus}))
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path))
    monkeypatch.chdir(ROOT)
    keep(tmp_path / "kept", {"table4-0": score(0.6)})

    def answer(command, **_):
        text = json.dumps(found) if command[0] == "dvc" else (tmp_path / "kept" / command[2]).read_text()
        return SimpleNamespace(stdout=text)

    monkeypatch.setattr(table.subprocess, "run", answer)
    params = found[1]["experiments"][0]["revs"][0]["data"]["params"]["params.yaml"]["data"]
    with durations().put(duration_key("pretrain", Params.model_validate(params), ROOT)) as path:
        path.write_text('{"seconds": 100.4}')
    with durations().put(duration_key("finetune", Params.model_validate(params), ROOT)) as path:
        path.write_text('{"seconds": 20.0}')
    printed = table.systems(table.finished(), "table4", ["0"], "", "auc")
    assert "| STgram-MFN | 10.0 | -50.0 | 0.0 | 61 | 1,234,567 | 92.36 |" in printed
    assert "| RC-MAE, −log p (the paper's) | 60.0 | – | 50.0 | 120 | " in printed and "| 94.39 |" in printed
    assert "| sub-cluster AdaCos | 10.0 | -50.0 | 0.0 | 61 | 1,234,567 | – |" in printed


def test_lambda_varies_one_weight_at_a_time(tmp_path):
    names = [
        "lambda-as-it-is",
        *(f"lambda_{name}-{value}" for name in ("con", "vcr", "mae") for value in ("0.0", "0.5")),
    ]
    figures = {f"{name}-0": score(0.5 + 0.01 * place) for place, name in enumerate(names)}
    lines, printed = run_script("lambda.sh", tmp_path, figures, VALUES="0.0 0.5")
    assert [line.split()[4] for line in lines] == [f"{name}-0" for name in names]
    assert overrides(lines[0]) == ["seed=0"]
    assert overrides(lines[3]) == ["lambda_vcr=0.0", "seed=0"]
    assert "| lambda_mae-0.5 | 56.0 | 56.0 |" in printed  # AUC
    assert "| lambda_mae-0.5 | 28.0 | 28.0 |" in printed  # pAUC


def test_the_ablation_leaves_out_a_part_at_a_time(tmp_path):
    arms = ("as-it-is", "no-pretraining", "source-phase")
    figures = {f"ablation-{arm}-{seed}": score(0.7 + seed / 10) for arm in arms for seed in (0, 1)}
    figures["ablation-no-pretraining-1"] = score(0.9)
    lines, printed = run_script("ablation.sh", tmp_path, figures, SEEDS="0 1", ARMS=" ".join(arms))
    assert [overrides(line) for line in lines[:3]] == [
        ["seed=0"],
        ["pretrain.epochs=0", "seed=0"],
        ["augment.method=audioldm", "augment.output=source_phase", "seed=0"],
    ]
    assert [line.split()[4] for line in lines] == [f"ablation-{arm}-{seed}" for seed in (0, 1) for arm in arms]
    systems = ("−log p (the paper's)", "best other: fine-tuned, Mahalanobis", "best reference: DCASE 2020 autoencoder")
    columns = " | ".join(f"{figure}, {system}" for system in systems for figure in ("AUC", "pAUC"))
    assert f"| %, seeds 0, 1 | {columns} |" in printed
    row = "80.0 ± 14.1 | 40.0 ± 7.1 | 40.0 ± 7.1 | 20.0 ± 3.5 | 40.0 ± 0.0 | 20.0 ± 0.0"
    assert f"| ablation-no-pretraining | {row} |" in printed


def test_every_arm_of_the_ablation_changes_a_param_that_exists(tmp_path):
    arms = ("as-it-is", "no-pretraining", "no-contrastive", "no-regularisation", "no-reconstruction", "masking")
    arms += ("vocoder", "source-phase")
    lines, _ = run_script("ablation.sh", tmp_path, {f"ablation-{arm}-0": score(0.5) for arm in arms}, SEEDS="0")
    assert len(lines) == len(arms)
    for line in lines:
        params = yaml.safe_load((ROOT / "params.yaml").read_text())
        for override in overrides(line):
            key, _, value = override.partition("=")
            group, _, name = key.partition(".")
            place, name = (params[group], name) if name else (params, key)
            assert name in place
            place[name] = yaml.safe_load(value)
        Params.model_validate(params)


def test_what_has_been_run_is_not_run_again(tmp_path):
    figures = {f"lambda-as-it-is-{seed}": score(0.5) for seed in (0, 1)}
    figures |= {f"lambda_{name}-0.5-{seed}": score(0.5) for name in ("con", "vcr", "mae") for seed in (0, 1)}
    listed = sorted(figures)[:-1]
    lines, printed = run_script("lambda.sh", tmp_path, figures, listed=listed, SEEDS="0 1", VALUES="0.5", JOBS="2")
    assert [line.split()[4] for line in lines] == [sorted(figures)[-1]]
    assert "| lambda_mae-0.5 | 50.0 ± 0.0 | 50.0 ± 0.0 |" in printed


def test_overrides_belong_to_the_name_and_paths_out_of_the_repository_hold_elsewhere(tmp_path):
    given = ("-S", "corpus.path=../recordings", "-S", "corpus.types=[fan]")
    tag = subprocess.run(
        ["bash", "-c", f"printf '%s\n' -S corpus.path={tmp_path.parent}/recordings {given[2]} {given[3]} | cksum"],
        capture_output=True, text=True, check=True,
    ).stdout.split()[0]  # fmt: skip
    figures = {f"table3-{method}-0-{tag}": score(0.5) for method in ("masking", "audioldm")}
    lines, printed = run_script("table3.sh", tmp_path, figures, *given, SEEDS="0")
    assert [line.split()[4] for line in lines] == list(figures)
    assert overrides(lines[0]) == [
        f"corpus.path={tmp_path.parent}/recordings", "corpus.types=[fan]", "augment.method=masking", "seed=0",
    ]  # fmt: skip
    assert printed.startswith(f"With -S corpus.path={tmp_path.parent}/recordings")
    assert "| table3-masking | 25.0 | 25.0 |" in printed


def test_a_missing_or_failed_experiment_is_named(tmp_path, monkeypatch):
    (tmp_path / "dvc").write_text(RECORDER)
    (tmp_path / "git").write_text(GIT)
    for name in ("dvc", "git"):
        (tmp_path / name).chmod(0o755)
    (tmp_path / "shown.json").write_text(shown({"a-0": score(0.5), "b-0": None}))
    keep(tmp_path / "kept", {"a-0": score(0.5)})
    monkeypatch.setenv("KEPT", str(tmp_path / "kept"))
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    monkeypatch.setenv("LINES_RUN", str(tmp_path / "lines"))
    monkeypatch.setenv("SHOWN", str(tmp_path / "shown.json"))
    table.main(["--experiments", "a"])
    with pytest.raises(SystemExit, match=r"no experiment b-0 with metrics/score\.json"):
        table.main(["--experiments", "a", "b"])


@pytest.mark.parametrize("arguments", [[], ["--paired", "--experiments", "a"], ["workspace", "--experiments", "a"]])
def test_a_call_without_sense_is_refused(arguments, capsys):
    with pytest.raises(SystemExit):
        table.main(arguments)
    assert "usage" in capsys.readouterr().err
