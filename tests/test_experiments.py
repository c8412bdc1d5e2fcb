"""The experiments' scripts: the `dvc` lines that they run, that their overrides are valid params, and their tables."""

import json
import os
import shlex
import subprocess
import sys
from itertools import pairwise
from pathlib import Path

import pytest
import yaml

from experiments import table
from stages.params import Params
from tests.conftest import ROOT

SCRIPTS = sorted((ROOT / "experiments").glob("*.sh"))
REVISION = "c0ffee" * 6 + "c0de"
RECORDER = """#!/bin/sh
printf '%s\\n' "$*" >> "$LINES_RUN"
[ "$1 $2" = "exp show" ] && cat "$SHOWN"
exit 0
"""


def score(auc: float) -> dict:
    figures = {"auc": auc, "pauc": auc / 2, "pauc_eq12": auc / 4}
    return {"average": figures | {"mauc": auc}, "pooled": figures, "fan": figures | {"id_00": figures}}


def shown(figures: dict[str, dict | None]) -> str:
    """As `dvc exp show --json` prints it; the workspace comes first and has no experiments."""
    experiments = [
        {"name": name, "revs": [{"data": {"metrics": {table.SCORE: {"data": one}}} if one else None}]}
        for name, one in figures.items()
    ]
    return json.dumps([{"rev": "workspace", "experiments": None}, {"rev": "abc", "experiments": experiments}])


def run_script(name: str, folder: Path, figures: dict, *arguments: str, **environment: str) -> tuple[list[str], str]:
    """The lines that a script would have `dvc` run, in a copy of the experiments, and what it prints."""
    (folder / "experiments").mkdir()
    for file in (ROOT / "experiments").iterdir():
        if file.is_file():
            (folder / "experiments" / file.name).write_bytes(file.read_bytes())
    (folder / "metrics").mkdir()
    (folder / table.SCORE).write_text(json.dumps(score(0.9)))
    (folder / "bin").mkdir()
    (folder / "bin/dvc").write_text(RECORDER)
    (folder / "bin/dvc").chmod(0o755)
    (folder / "shown.json").write_text(shown(figures))
    python = Path(sys.executable).parent
    environment |= {
        "PATH": f"{folder / 'bin'}{os.pathsep}{python}{os.pathsep}{os.environ['PATH']}",
        "LINES_RUN": str(folder / "lines"),
        "SHOWN": str(folder / "shown.json"),
        "AUDIOLDM_REVISION": REVISION,
    }
    command = ["bash", str(folder / "experiments" / name), *arguments]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = (folder / "lines").read_text().splitlines() if (folder / "lines").exists() else []
    return [line for line in lines if not line.startswith("exp show")], done.stdout


def overrides(line: str) -> list[str]:
    words = shlex.split(line)
    return [after for before, after in pairwise(words) if before == "-S"]


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_bash_and_executable(script):
    subprocess.run(["bash", "-n", script], check=True)
    assert os.access(script, os.X_OK)


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
    lines, printed = run_script("table3.sh", tmp_path, figures, "-S", "pretrain.epochs=2", SEEDS="4 7")
    common = "exp run --temp --force -n table3-{0}-{1} -S pretrain.epochs=2 -S augment.method={0} -S seed={1} score"
    assert lines == [common.format(method, seed) for seed in (4, 7) for method in ("masking", "audioldm")]
    assert "pauc, %, seeds 4, 7 | fan | average" in printed
    assert "| table3-masking | 35.0 ± 7.1 | 35.0 ± 7.1 |" in printed
    assert "| table3-audioldm | 38.0 ± 5.7 | 38.0 ± 5.7 |" in printed
    assert "| difference | 3.0 ± 1.4 | 3.0 ± 1.4 |" in printed  # 2 and 4


def test_lambda_varies_one_weight_at_a_time(tmp_path):
    names = [
        "lambda-as-it-is",
        *(f"lambda_{name}-{value}" for name in ("con", "vcr", "mae") for value in ("0.0", "0.5")),
    ]
    figures = {f"{name}-0": score(0.5 + 0.01 * place) for place, name in enumerate(names)}
    lines, printed = run_script("lambda.sh", tmp_path, figures, VALUES="0.0 0.5")
    assert [line.split()[5] for line in lines] == [f"{name}-0" for name in names]
    assert overrides(lines[0]) == ["seed=0"]
    assert overrides(lines[3]) == ["lambda_vcr=0.0", "seed=0"]
    assert "| lambda_mae-0.5 | 56.0 | 56.0 |" in printed  # AUC
    assert "| lambda_mae-0.5 | 28.0 | 28.0 |" in printed  # pAUC


def test_a_missing_or_failed_experiment_is_named(tmp_path, monkeypatch):
    (tmp_path / "dvc").write_text(RECORDER)
    (tmp_path / "dvc").chmod(0o755)
    (tmp_path / "shown.json").write_text(shown({"a-0": score(0.5), "b-0": None}))
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
