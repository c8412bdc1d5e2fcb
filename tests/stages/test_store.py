"""The store's command: what it shows, removes and leaves, and the leftovers of killed runs that it sweeps."""

import io
import json
import os
import subprocess
import time
from contextlib import chdir, redirect_stdout
from pathlib import Path

import pytest
import yaml
from dvc.repo import Repo

from stages import store as command
from stages.command import duration_key
from stages.logmel_feature import front_end_key, settings_of
from stages.params import read
from storage.store import Store, store_folder
from tests.conftest import ROOT

PARAMS = read(ROOT / "params.yaml")
FRONT_END = front_end_key(settings_of(PARAMS.logmel))
OLD = time.time() - 30 * command.DAY


class Clone:
    """A repository with lock files, DVC's cache and a store, in which all entries are a month old."""

    def __init__(self, root: Path):
        self.root, self.cache = root, root / ".dvc" / "cache" / "files" / "md5"
        self.git("init", "-q", "-b", "main")
        Repo.init(str(root))

    def git(self, *arguments: str) -> None:
        who = ["-c", "user.name=test", "-c", "user.email=test@example.org"]
        subprocess.run(["git", *who, *arguments], cwd=self.root, check=True, capture_output=True)

    def cached(self, digest: str, text: str) -> Path:
        path = self.cache / digest[:2] / digest[2:]
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def lock(self, clips: list[str], peers: list[str], mark: str = "a") -> None:
        """Write dvc.lock as of a run that used these entries, and what it put into DVC's cache."""
        listing = [{"relpath": "manifest.csv", "md5": "x"}, {"relpath": "audit.csv", "md5": f"{mark}2"}]
        self.cached(f"{mark}1.dir", json.dumps(listing))
        self.cached(f"{mark}2", "clip,key\n" + "".join(f"c,{key}\n" for key in clips))
        self.cached(f"{mark}3.dir", json.dumps([{"relpath": "peers.json", "md5": f"{mark}4"}]))
        self.cached(f"{mark}4", json.dumps(peers))
        values = yaml.safe_load((ROOT / "params.yaml").read_text())
        values["logmel"] |= {"of_an_earlier_version": 1}
        stages = {
            "diffusion-augment": {
                "params": {"params.yaml": {"augment.t0": values["augment"]["t0"]}},
                "outs": [{"path": "data/augmented", "md5": f"{mark}1.dir"}],
            },
            "score": {"outs": [{"path": "data/scores", "md5": f"{mark}3.dir"}]},
            "report": {"params": {"params.yaml": values | {"augment": values["augment"] | {"t0": 0.9}}}},
        }
        (self.root / "dvc.lock").write_text(yaml.safe_dump({"schema": "2.0", "stages": stages}))

    def run(self, *arguments: object) -> str:
        """What the command prints or ends with, run in the clone."""
        printed = io.StringIO()
        with chdir(self.root), redirect_stdout(printed):
            try:
                command.main(list(map(str, arguments)))
            except SystemExit as error:
                return str(error)
        return printed.getvalue()


def keep(kind: str, suffix: str, key: str, folder: str = "", age: float = OLD) -> Path:
    store = Store(store_folder(kind) / folder, suffix)
    with store.put(key) as path:
        path.write_text(key)
    for path in (store.path(key), store.path(key).with_suffix(".sha256")):
        os.utime(path, (age, age))
    return store.path(key)


@pytest.fixture
def clone(tmp_path, monkeypatch) -> Clone:
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    (tmp_path / "clone").mkdir()
    return Clone(tmp_path / "clone")


def test_what_no_lock_file_names_is_pruned_and_nothing_else(clone):
    clone.lock(clips=["other"], peers=["other"], mark="b")
    clone.git("add", "dvc.lock")
    clone.git("commit", "-q", "-m", "a run on a branch")
    clone.git("branch", "other")
    clone.lock(clips=["clip"], peers=["peer"])
    clone.git("commit", "-q", "-a", "-m", "another")

    stay = [keep("augmented", ".flac", key) for key in ("clip", "other")] + [keep("peers", ".npz", "peer")]
    stay += [keep("features", ".safetensors", "segment", FRONT_END)]
    stay += [keep("durations", ".json", duration_key("score", PARAMS, ROOT))]
    stay += [keep("augmented", ".flac", "young", age=time.time())]
    go = [keep("augmented", ".flac", "gone"), keep("peers", ".npz", "gone"), keep("durations", ".json", "gone")]
    go += [keep("features", ".safetensors", "segment", "of another version")]
    go += [store_folder("features") / FRONT_END / "of_an_earlier_layout.safetensors"]
    go += [store_folder("archives") / "0123-dev_data_fan.zip"]
    go += [store_folder("checkpoints") / "pretrain-1" / "step_1.safetensors"]
    for path in go[-3:]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (OLD, OLD))

    shown = clone.run()
    assert "augmented           8        0.0          2        0.0" in shown
    listed = clone.run("--dry-run")
    assert all(f"would remove {path}\n" in listed for path in go)
    assert not any(f"would remove {path}\n" in listed for path in stay)
    assert all(path.is_file() for path in stay + go)
    clone.run("--prune")
    assert [path for path in stay + go if path.is_file()] == stay
    assert not (store_folder("checkpoints") / "pretrain-1").exists()
    clone.run("--prune", "--days", "0")
    assert [path for path in stay if path.is_file()] == stay[:-1]


def test_another_clones_lock_files_count_when_they_are_given(clone, tmp_path):
    clone.lock(clips=[], peers=[])
    (tmp_path / "second").mkdir()
    second = Clone(tmp_path / "second")
    second.lock(clips=["clip"], peers=[])
    entry = keep("augmented", ".flac", "clip")
    clone.run(second.root, "--prune")
    assert entry.is_file()
    clone.run("--prune")
    assert not entry.exists()


def test_nothing_is_removed_where_it_cannot_be_told_what_is_needed(clone, caplog):
    entry = keep("augmented", ".flac", "clip")
    assert "has no dvc.lock: nothing can be told to be needed" in clone.run("--prune")
    clone.lock(clips=["clip"], peers=[])
    (clone.cache / "a1" / ".dir").unlink()
    clone.run("--prune")
    assert "took of augmented is not in DVC's cache (`dvc fetch`): nothing of it is removed" in caplog.text
    assert entry.is_file()


def test_only_experiments_that_nobody_works_in_are_swept(clone, caplog):
    caplog.set_level("INFO")
    copies = clone.root / ".dvc" / "tmp" / "exps" / "standalone"
    for name in ("tmp_dead", "tmp_alive", "tmp_young", "run"):
        (copies / name / "data").mkdir(parents=True)
    for name in ("tmp_dead", "tmp_alive", "run"):
        for path in (copies / name / "data", copies / name):
            os.utime(path, (OLD, OLD))
    with subprocess.Popen(["sleep", "60"], cwd=copies / "tmp_alive" / "data") as process:
        clone.run("--sweep")
        process.kill()
    assert sorted(path.name for path in copies.iterdir()) == ["run", "tmp_alive", "tmp_young"]
    assert "tmp_dead: left by a killed run, removed" in caplog.text


def test_half_written_entries_are_swept(clone):
    unfinished = store_folder("augmented") / "unfinished"
    unfinished.mkdir(parents=True)
    for name in ("key.lock", "key-1234.flac", ".key-1234.flac.a-1-1.unfinished"):
        (unfinished / name).touch()
    clone.run("--sweep")
    assert list(unfinished.iterdir()) == []
