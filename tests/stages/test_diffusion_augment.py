"""Stage diffusion-augment: each clip made once, whatever happens, and its audit."""

import json
import logging
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from audio.clips import digest, read_clip, write_clip
from audio.manifest import write_manifest
from augmentation import generation
from augmentation.audit import audit, spectrogram
from stages import diffusion_augment
from stages.params import load
from storage.files import DiskFullError
from storage.shards import Folder, pack
from tests.augmentation import tiny_audioldm
from tests.conftest import ROOT, largest_file

PROMPTS = [
    "add deep rolling rumble produced by crushers in a quarry as they break rocks",
    "add sharp hiss produced by valves in a plant as they open",
    "add shrill screeching produced by saws in a workshop as they cut steel",
    "add steady hum produced by transformers in a mill as they feed the drives",
]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return tiny_audioldm.save(tmp_path_factory.mktemp("checkpoint") / "tiny")


NOTING = """
import os, runpy, sys
from pathlib import Path
from augmentation.audioldm import AudioLDM
augment = AudioLDM.augment
def noting(self, waveforms, recipes, *rest):
    with (Path(os.environ["RCMAE_STORE"]).parent / "made").open("a") as file:
        file.writelines(f"{recipe.seed}\\n" for recipe in recipes)
    return augment(self, waveforms, recipes, *rest)
AudioLDM.augment = noting
sys.argv[0] = "diffusion_augment"
runpy.run_module("stages.diffusion_augment", run_name="__main__", alter_sys=False)
"""


class Project:
    """A project folder with four training clips, a test and a calibration clip, where the stage runs as DVC runs it."""

    def __init__(self, root, checkpoint):
        self.root, self.store = root, root / "store"
        self.clips = {}
        for number, (machine, seconds) in enumerate([("fan", 1.5), ("fan", 1.5), ("pump", 1.2), ("pump", 11.0)]):
            rng = np.random.default_rng(number)
            tone = np.sin(np.arange(round(seconds * 16000)) * (0.1 if machine == "fan" else 0.6))
            self.add(machine, number, (0.1 * tone + 0.02 * rng.standard_normal(len(tone))).astype(np.float32))
        self.add("fan", 9, 0.1 * np.random.default_rng(9).standard_normal(20000).astype(np.float32), split="test")
        self.add("fan", 8, 0.1 * np.random.default_rng(8).standard_normal(20000).astype(np.float32), "calibration")
        self.set_prompts(PROMPTS)
        self.values = yaml.safe_load((ROOT / "params.yaml").read_text())
        self.set(method="audioldm", checkpoint=str(checkpoint), ddim_steps=[2, 4], batch_size=3)
        shutil.copyfile(ROOT / "dvc.yaml", root / "dvc.yaml")

    def add(self, machine, number, waveform, split="train"):
        name = f"{machine}/{split}/normal_id_00_{number:08d}"
        path = self.root / "data" / "raw" / f"{name}.flac"
        path.parent.mkdir(parents=True, exist_ok=True)
        write_clip(path, waveform)
        self.clips[name] = {
            "clip": name, "machine_type": machine, "machine_id": "id_00", "split": split, "condition": "normal",
            "subset": "dev", "seconds": len(waveform) / 16000, "sha256": digest(read_clip(path)), "source": "",
            "offset": 0.0,
        }  # fmt: skip
        write_manifest(self.root / "data" / "raw" / "manifest.csv", self.clips.values())
        return name

    def remove(self, name):
        del self.clips[name]
        write_manifest(self.root / "data" / "raw" / "manifest.csv", self.clips.values())

    def set_prompts(self, texts):
        folder = self.root / "data" / "prompts"
        folder.mkdir(parents=True, exist_ok=True)
        table = pd.DataFrame({"id": [f"p{text[4:9]}" for text in texts], "factory": "x", "text": texts})
        table.to_csv(folder / "prompts.csv", index=False)

    def set(self, **augment):
        self.values["augment"] |= augment
        (self.root / "params.yaml").write_text(yaml.safe_dump(self.values))

    def run(self, function=diffusion_augment.run):
        function(load("diffusion-augment", self.root))
        if function is diffusion_augment.run:
            return pd.read_csv("data/augmented/manifest.csv").set_index("clip")

    def process(self, *arguments):
        """The stage as a process that notes, in the file `made` beside the store, each clip that AudioLDM makes."""
        return subprocess.Popen(
            [sys.executable, "-c", NOTING, *arguments],
            cwd=self.root,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            stderr=subprocess.PIPE,
            text=True,
        )

    def entries(self):
        return sorted(self.store.glob("augmented/??/*.flac"))


@pytest.fixture
def project(tmp_path, checkpoint, monkeypatch, caplog):
    caplog.set_level(logging.INFO)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    monkeypatch.setattr(generation, "COMPARED", 1)
    return Project(tmp_path, checkpoint)


def test_each_training_clip_gets_its_view(project, caplog, checkpoint):
    manifest = project.run().reset_index()
    assert list(manifest.columns) == diffusion_augment.COLUMNS
    assert set(manifest["clip"]) == {name for name in project.clips if "/train/" in name}
    assert set(manifest["prompt_id"]) <= {f"p{text[4:9]}" for text in PROMPTS}
    assert manifest["ddim_steps"].between(2, 4).all()
    assert caplog.messages[-1].startswith("4 clips are new, 0 from the store")
    for clip, view in zip(manifest["clip"], manifest["view"], strict=True):
        source = read_clip(project.root / "data" / "raw" / f"{clip}.flac")
        made = read_clip(project.root / "data" / "augmented" / f"{clip}_{view}.flac")
        assert soundfile.info(project.root / "data" / "augmented" / f"{clip}_{view}.flac").subtype == "PCM_16"
        assert len(made) == len(source)
        assert abs(20 * np.log10(made.std() / source.std())) < 0.5
        assert np.abs(made).max() < 1

    audits = pd.read_csv("data/augmented/audit.csv")
    assert len(audits) == 8  # all four with both output stages, here
    assert all((project.root / "data" / "augmented" / file).is_file() for file in audits["file"])
    metrics = json.loads((project.root / "metrics" / "augment.json").read_text())
    by_output = audits.groupby("output")
    assert by_output.size().to_dict() == {"vocoder": 4, "source_phase": 4}
    correlations = by_output["correlation"].mean()
    assert correlations["source_phase"] > correlations["vocoder"]
    assert metrics == {
        "clips": 4,
        "correlation": pytest.approx(correlations["vocoder"], abs=1e-4),
        "lost": by_output["lost"].mean()["vocoder"],
    }

    before = {path: path.read_bytes() for path in (project.root / "data" / "augmented").rglob("*.*")}
    project.run()
    assert caplog.messages[-1].startswith("0 clips are new, 4 from the store")
    assert before == {path: path.read_bytes() for path in (project.root / "data" / "augmented").rglob("*.*")}


def test_only_what_is_new_is_made(project, caplog):
    project.set(views_per_clip=2)
    first = project.run()
    entries = {path: path.stat().st_mtime_ns for path in project.entries()}
    assert len(first) == 8

    name = project.add("fan", 5, 0.05 * np.random.default_rng(5).standard_normal(20000).astype(np.float32))
    project.run()
    assert caplog.messages[-1].startswith("2 clips are new, 8 from the store")
    assert {path: path.stat().st_mtime_ns for path in entries} == entries

    project.remove(name)
    removed = project.run()
    assert caplog.messages[-1].startswith("0 clips are new, 8 from the store")
    assert removed.equals(first)
    assert not list((project.root / "data" / "augmented").rglob("*00000005*"))

    project.set_prompts(PROMPTS[1:])
    without = project.run()
    affected = (first["prompt_id"] == f"p{PROMPTS[0][4:9]}").sum()
    assert (without["key"] != first["key"]).sum() == affected > 0
    assert caplog.messages[-1].startswith(f"{affected} clips are new, {8 - affected} from the store")


def test_a_damaged_entry_is_noticed_and_made_again(project, caplog):
    project.run()
    one, other = project.entries()[:2]
    content, samples = one.read_bytes(), read_clip(one)
    one.write_bytes(content[:2000] + bytes([content[2000] ^ 1]) + content[2001:])
    other.write_bytes(b"")
    project.run()
    assert caplog.text.count("is damaged and will be made again") == 2
    # made again in other company: to one step of 16-bit audio
    assert np.abs(read_clip(one) - samples).max() <= 1.01 / 2**15
    assert other.stat().st_size > 0


def test_a_full_disk_is_one_line_and_what_was_finished_stays(project):
    project.set(batch_size=1)
    with largest_file(60_000), pytest.raises(DiskFullError, match=r"\.flac cannot be written: .* are free$"):
        project.run()  # the clip of 11 s does not fit
    kept = {path: path.stat().st_mtime_ns for path in project.entries()}
    assert len(kept) < 8
    assert len(project.run()) == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_a_killed_run_loses_the_batch_in_flight_at_most(project):
    project.set(batch_size=1)
    process = project.process()
    while len(project.entries()) < 2:
        assert process.poll() is None
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    kept = {path: path.stat().st_mtime_ns for path in project.entries()}
    assert len(kept) < 8
    assert not (project.root / "data" / "augmented" / "manifest.csv").exists()
    assert len(project.run()) == 4
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def test_two_processes_never_make_the_same_clip(project, checkpoint, tmp_path):
    """Two projects with the same clips and one store: each waits for what the other is making."""
    (tmp_path / "other").mkdir()
    other = Project(tmp_path / "other", checkpoint)
    for one in (project, other):
        one.set(batch_size=2)
    processes = [one.process() for one in (project, other)]
    results = [process.communicate()[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], results
    made = (project.root / "made").read_text().split()
    assert len(made) == len(set(made)) == 4
    manifests = [(one.root / "data/augmented/manifest.csv").read_text() for one in (project, other)]
    assert manifests[0] == manifests[1]

    before = {path: soundfile.read(path, dtype="int16")[0].astype(int) for path in project.entries()}
    shutil.rmtree(project.store)
    project.set(batch_size=3)
    project.run()
    for path, two in before.items():  # what two made is what one makes, in other batches: to one step of 16-bit audio
        assert np.abs(soundfile.read(path, dtype="int16")[0].astype(int) - two).max() <= 1


def test_a_pulled_folder_seeds_the_store(project, caplog):
    project.run()
    shutil.rmtree(project.store)
    project.run(diffusion_augment.seed_store)
    assert caplog.messages[-1].startswith("8 clips are new in the store")
    project.run()
    assert caplog.messages[-1].startswith("0 clips are new, 4 from the store")


def test_many_clips_are_audited_by_several_processes(project, monkeypatch):
    project.run()
    augmented = project.root / "data/augmented"
    made = {path.relative_to(augmented): path.read_bytes() for path in augmented.rglob("*.*")}
    monkeypatch.setattr(generation, "ALONE", 0)
    project.run()
    assert {path.relative_to(augmented): path.read_bytes() for path in augmented.rglob("*.*")} == made


def test_shards_hold_what_files_held(project, caplog):
    project.run()
    augmented, raw = project.root / "data/augmented", project.root / "data/raw"
    audit = (augmented / "audit.csv").read_text()
    files = {path.relative_to(augmented).as_posix(): path.read_bytes() for path in augmented.rglob("*.flac")}
    assert len(files) == 8
    pack(raw, [f"{clip}.flac" for clip in project.clips])
    project.values["storage"]["shards"] = 7
    project.set()
    project.run()
    assert caplog.messages[-1].startswith("0 clips are new, 4 from the store")
    assert not list(augmented.rglob("*.flac")) and (augmented / "audit.csv").read_text() == audit
    assert {name: (Folder(augmented) / name).open("rb").read() for name in files} == files

    kept = {path.name: path.read_bytes() for path in project.entries()}
    shutil.rmtree(project.store)
    project.run(diffusion_augment.seed_store)
    assert {path.name: path.read_bytes() for path in project.entries()} == kept
    shutil.rmtree(project.store)
    project.run()
    assert {path.name: path.read_bytes() for path in project.entries()} == kept, "made from clips in shards"


def test_seeding_from_nothing(project):
    process = project.process("--seed-store")
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "diffusion-augment: data/augmented has no audit.csv: pull it first, `dvc pull diffusion-augment`"
    )


def test_out_of_memory_halves_the_batch_once(project, caplog, monkeypatch):
    import torch

    from augmentation.audioldm import AudioLDM

    sizes, augment = [], AudioLDM.augment

    def limited(self, waveforms, *arguments):
        sizes.append(len(waveforms))
        if len(waveforms) > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return augment(self, waveforms, *arguments)

    monkeypatch.setattr(AudioLDM, "augment", limited)
    project.set(batch_size=4)
    limit = 1
    with pytest.raises(ValueError, match=r"out of memory with batches of 2: lower augment\.batch_size"):
        project.run()
    assert sizes == [4, 2]
    limit = 2
    assert len(project.run()) == 4
    assert sizes[2:] == [4, 2, 2]
    assert "going on with batches of 2 instead of 4" in caplog.text
    assert not list((project.store / "augmented" / "unfinished").iterdir())


def test_unusable_clips_are_named_after_the_others_are_made(project, caplog):
    silent = project.add("fan", 6, np.zeros(20000, np.float32))
    short = project.add("fan", 7, np.full(8000, 0.1, np.float32))
    with pytest.raises(ValueError, match=f"^2 training clips are too short or silent .*{silent}, {short}"):
        project.run()
    assert f"{silent}: clip is silent" in caplog.text
    assert f"{short}: clip of 0.50 s is shorter than 0.95 s" in caplog.text
    project.remove(silent)
    project.remove(short)
    project.run()
    assert caplog.messages[-1].startswith("0 clips are new, 4 from the store")


def test_a_bad_checkpoint_is_one_line(project):
    project.set(checkpoint="nowhere/at/all")
    process = project.process()
    _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.splitlines()[-1] == (
        "diffusion-augment: checkpoint folder nowhere/at/all does not exist: set augment.checkpoint to one that does"
    )


def test_masking_makes_nothing_and_needs_no_torch(project):
    project.set(method="masking")
    code = (
        "import sys; from pathlib import Path; from stages.diffusion_augment import run; from stages.params import load"
        "; run(load('diffusion-augment', Path('.'))); sys.exit('torch' in sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    assert subprocess.run([sys.executable, "-c", code], env=environment, check=False).returncode == 0
    assert (project.root / "data/augmented/manifest.csv").read_text() == ",".join(diffusion_augment.COLUMNS) + "\n"
    metrics = json.loads((project.root / "metrics" / "augment.json").read_text())
    assert metrics == {"clips": 0}


class TestAudit:
    rng = np.random.default_rng(0)
    noise = (0.1 * rng.standard_normal(32000)).astype(np.float32)
    tone = (0.1 * np.sin(np.arange(32000) * 0.3)).astype(np.float32)

    def test_a_copy(self):
        result = audit(self.noise, self.noise)
        assert result.copy
        assert not result.lost
        assert (result.distance_db, result.level_change_db, result.centroid_shift_hz) == (0, 0, 0)
        assert result.correlation == pytest.approx(1)

    def test_level_and_brightness(self):
        result = audit(self.noise, 2 * self.noise)
        assert result.level_change_db == pytest.approx(6.02, abs=0.01)
        assert result.distance_db == pytest.approx(6.02, abs=0.01)
        bright = np.diff(self.noise, prepend=0).astype(np.float32)
        assert audit(self.noise, bright).centroid_shift_hz == pytest.approx(1100, abs=300)
        assert audit(bright, self.noise).centroid_shift_hz < 0

    def test_a_lost_one(self):
        assert audit(self.tone, self.noise).lost
        assert not audit(self.noise, 1.3 * self.noise).lost
        assert audit(self.noise, 1.3 * self.noise, [spectrogram(1.3 * self.noise)]).lost

    def test_silence_and_clipping(self):
        silent = audit(self.noise, np.zeros_like(self.noise))
        assert silent.silent
        assert np.isfinite(silent.correlation)
        assert audit(self.noise, np.clip(20 * self.noise, -1, 1)).clipped
