"""The pipeline as users run it, in a fresh clone with a tiny corpus: `dvc repro`, `dvc exp run`, `dvc metrics diff`."""

import json
import os
import re
import shutil
import subprocess
import sys
from copy import copy
from pathlib import Path

import numpy as np
import pytest
import yaml

from audio.clips import write_clip
from tests.conftest import ROOT
from tests.tiny_corpus import sound

TINY = {
    "model": {"width": 16, "depth": 1, "heads": 2, "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "pretrain": {"epochs": 1, "batch_size": 4},
    "finetune": {"epochs": 1, "batch_size": 4},
    "score": {"bootstrap": 100, "autoencoder_epochs": 1},
    "augment": {"method": "masking"},
    "report": {"gallery_clips": 1, "anomalous_clips": 1},
}

# Files that DVC itself reads, in whichever stage asks it for the repository.
DVC_READS = {"dvc.yaml", "dvc.lock", "params.yaml", ".dvcignore", ".gitignore", ".gitattributes"}

# Notes every file that a stage opens, by Python's own audit hook; DVC tells the stage's name in the environment.
WATCH = """
import os, sys
_stage, _log = os.environ.get("DVC_STAGE"), os.environ.get("OPENED_FILES")
if _stage and _log:
    def _note(event, args):
        if event == "open" and isinstance(args[0], str) and not _busy and not (args[1] or "r").strip("rbtU"):
            _busy.append(1)
            with open(_log, "a") as log:
                log.write(f"{_stage}\\t{os.path.abspath(args[0])}\\n")
            _busy.clear()
    _busy = []
    sys.addaudithook(_note)
"""


class Clone:
    """A clone of the project with a tiny corpus and tiny networks, its own store, and the commands users type."""

    def __init__(self, folder: Path):
        self.root, self.opened = folder / "rc-mae", folder / "opened.tsv"
        files = subprocess.check_output(
            ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, text=True
        ).splitlines()
        for file in files:
            if (ROOT / file).is_file():
                (self.root / file).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / file, self.root / file)
        (folder / "watch").mkdir()
        (folder / "watch" / "sitecustomize.py").write_text(WATCH)
        self.environment = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(folder / "watch"),
            "PYTHONDONTWRITEBYTECODE": "1",
            "RCMAE_STORE": str(folder / "store"),
            "OPENED_FILES": str(self.opened),
            "DVC_NO_ANALYTICS": "1",
            "GIT_AUTHOR_NAME": "test", "GIT_AUTHOR_EMAIL": "test@example.org",
            "GIT_COMMITTER_NAME": "test", "GIT_COMMITTER_EMAIL": "test@example.org",
        }  # fmt: skip
        self._shrink()
        self.run("git", "init", "-q", "-b", "main")
        self.commit("tiny")

    def _shrink(self) -> None:
        params = yaml.safe_load((self.root / "params.yaml").read_text())
        for group, values in TINY.items():
            params[group] |= values
        (self.root / "params.yaml").write_text(yaml.safe_dump(params, sort_keys=False))

        path = self.root / "corpora/synthetic.yaml"
        corpus = yaml.safe_load(path.read_text())
        corpus["clips"] = {"train_normal": 4, "test_normal": 2, "test_anomaly": 2}
        corpus["machines"] = dict(list(corpus["machines"].items())[:2])
        path.write_text(yaml.safe_dump(corpus, sort_keys=False))
        (self.root / "dvc.lock").unlink(missing_ok=True)

    def commit(self, message: str) -> None:
        self.run("git", "add", "-A")
        self.run("git", "commit", "-q", "-m", message)

    def run(self, *command: str, fails: bool = False) -> str:
        """What `command` prints; an AssertionError with it when the exit code is not the expected one."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=600)
        printed = done.stdout + done.stderr
        assert (done.returncode != 0) == fails, printed
        return printed

    def stages_run(self, printed: str) -> list[str]:
        return [line.split("'")[1] for line in printed.splitlines() if line.startswith("Running stage '")]


@pytest.fixture(scope="module")
def clone(tmp_path_factory) -> Clone:
    clone = Clone(tmp_path_factory.mktemp("clone"))
    clone.first_run = clone.run("dvc", "repro")
    clone.commit("first results")
    return clone


def test_repro_runs_every_stage_and_leaves_what_it_promises(clone):
    assert clone.stages_run(clone.first_run) == list(yaml.safe_load((clone.root / "dvc.yaml").read_text())["stages"])
    score = json.loads((clone.root / "metrics/score.json").read_text())
    assert 0 <= score["average"]["auc"] <= 1
    assert (clone.root / "metrics/report/index.html").stat().st_size > 10_000
    assert (clone.root / "data/detector").is_dir()


def test_nothing_to_do_the_second_time(clone):
    assert "up to date" in clone.run("dvc", "repro")
    assert not clone.stages_run(clone.run("dvc", "repro"))


def test_stages_read_only_what_dvc_yaml_declares(clone):
    """From the files that were opened, not from what the code says: a lazily read template or table counts too."""
    stages = yaml.safe_load((clone.root / "dvc.yaml").read_text())["stages"]
    params = yaml.safe_load((clone.root / "params.yaml").read_text())
    opened = {tuple(line.split("\t")) for line in clone.opened.read_text().splitlines()}
    assert {stage for stage, _ in opened} == set(stages)
    for stage, file in sorted(opened):
        path = Path(file)
        if clone.root not in path.parents or {".dvc", ".git"} & set(path.parts):
            continue
        path = path.relative_to(clone.root)
        if path.parent.name == "__pycache__":
            path = path.parent.with_name(path.name.split(".")[0] + ".py")
        if path.name in DVC_READS or path.name == "__init__.py":
            continue
        # an output is made beside its place, under a name that says so, and then moved there
        path = Path(*(re.sub(r"^\.(.+)\.\w+-\d+-\d+\.unfinished$", r"\1", part) for part in path.parts))
        listed = [entry for kind in ("deps", "outs", "metrics", "plots") for entry in stages[stage].get(kind, [])]
        entries = [entry if isinstance(entry, str) else next(iter(entry)) for entry in listed]
        known = {Path(entry.replace("${corpus.path}", params["corpus"]["path"])) for entry in entries}
        assert known & {path, *path.parents}, f"{stage} opens {path}, which dvc.yaml does not name"


def test_an_ablation_trains_and_scores_but_generates_and_extracts_nothing(clone):
    printed = clone.run("dvc", "exp", "run", "-S", "lambda_con=0.4")
    assert clone.stages_run(printed) == ["pretrain", "finetune", "score", "report"]
    difference = json.loads(clone.run("dvc", "metrics", "diff", "--all", "--json"))["metrics/score.json"]
    assert {"auc", "pauc"} <= {key.split(".")[-1] for key in difference}
    experiments = clone.run("dvc", "exp", "show", "--csv", "--no-pager")
    assert "auc" in experiments and "lambda_con" in experiments
    clone.run("git", "checkout", "-q", "-f", "HEAD")
    assert not clone.stages_run(clone.run("dvc", "repro")), "going back to a known setting must run nothing"


def test_an_ablation_in_a_temporary_folder_leaves_the_workspace_alone(clone):
    before = (clone.root / "metrics/score.json").read_text()
    printed = clone.run("dvc", "exp", "run", "--temp", "-S", "lambda_vcr=0.1", "-n", "less-regular")
    assert clone.stages_run(printed) == ["pretrain", "finetune", "score", "report"]
    assert (clone.root / "metrics/score.json").read_text() == before
    clone.run("dvc", "exp", "branch", "less-regular", "less-regular-branch")
    between = json.loads(clone.run("dvc", "metrics", "diff", "main", "less-regular-branch", "--all", "--json"))
    assert "metrics/score.json" in between


def test_a_script_of_experiments_runs_prints_its_table_and_runs_nothing_twice(clone):
    script = ("env", "SEEDS=0", "ARMS=as-it-is", "experiments/ablation.sh", "-S", "finetune.epochs=2")
    printed = clone.run(*script)
    assert clone.stages_run(printed) == ["finetune", "score"]
    assert "With -S finetune.epochs=2:" in printed
    assert re.search(r"(?m)^\| ablation-as-it-is( \| \d+\.\d){6} \|$", printed), printed
    assert not clone.stages_run(clone.run(*script))


def test_a_bad_value_is_one_line_before_anything_runs(clone):
    printed = clone.run("dvc", "exp", "run", "-S", "pretrain.epochs=-1", fails=True)
    assert "pretrain: params.yaml: pretrain.epochs is -1: " in printed
    assert "Traceback" not in printed
    clone.run("git", "checkout", "-q", "-f", "HEAD")


def test_another_clone_pulls_what_was_pushed_and_has_nothing_to_run(clone, s3, tmp_path):
    clone.environment |= {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    clone.run("dvc", "remote", "add", "--default", "bucket", f"{s3}/pipeline")
    clone.commit("a remote")
    clone.run("dvc", "push")
    clone.run("git", "clone", "-q", str(clone.root), str(tmp_path / "other"))
    other = copy(clone)
    other.root = tmp_path / "other"
    other.environment = clone.environment | {"RCMAE_STORE": str(tmp_path / "store")}
    assert not (other.root / "data/raw").exists()
    other.run("dvc", "pull")
    assert "up to date" in other.run("dvc", "status")
    printed = other.run("dvc", "repro")
    assert not other.stages_run(printed), printed
    for name in ("data/raw/manifest.csv", "data/detector", "metrics/report/index.html"):
        assert (other.root / name).exists()


def test_own_recordings_are_learned_aside_and_put_into_place(clone, tmp_path):
    """One machine, healthy recordings alone. What is refused leaves the workspace as it was."""
    before = (clone.root / "params.yaml").read_text(), clone.run("git", "status", "--short")
    (tmp_path / "empty").mkdir()
    printed = clone.run("python", "-m", "stages.learn", str(tmp_path / "empty"), fails=True)
    assert "learn: the recordings cannot be learned from" in printed and "Traceback" not in printed
    recordings = tmp_path / "recordings" / "Pump 3A"
    recordings.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for number in range(60):
        write_clip(recordings / f"{number:02d}.flac", sound(300.0 + number, 1.5, False, rng))
    printed = clone.run("python", "-m", "stages.learn", str(recordings), "-S", "pretrain.epochs=-1", fails=True)
    assert "pretrain.epochs is -1" in printed and "nothing was changed in params.yaml" in printed
    assert ((clone.root / "params.yaml").read_text(), clone.run("git", "status", "--short")) == before

    printed = clone.run("python", "-m", "stages.learn", str(recordings))
    assert f"params.yaml now has corpus.path={recordings}, also for later runs" in printed
    assert "Report: " in printed and "detect.py RECORDING --machine machine --id 'Pump 3A'" in printed
    judged = clone.run("python", "detect.py", str(recordings / "00.flac"), "--json")
    assert '"machine_id": "Pump 3A"' in judged and f"trained on {recordings}" in judged
    assert not clone.stages_run(clone.run("dvc", "repro"))
    clone.run("git", "checkout", "-q", "-f", "HEAD")
