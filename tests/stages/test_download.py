"""The download stage: every kind of corpus ends as the same data/raw, whole or not at all."""

import hashlib
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile
import yaml

from audio.clips import digest, read_clip
from audio.manifest import read_manifest
from audio.synthetic.description import read_description
from stages import download
from stages.params import load
from storage import files
from storage.shards import Folder
from tests.conftest import ROOT


@pytest.fixture(autouse=True)
def own_store(tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))


@pytest.fixture
def run(tmp_path):
    """Run the stage on a corpus; the folder it wrote."""

    def run(path, shards="auto", **settings) -> Path:
        changes = {f"corpus.{key}": value for key, value in ({"path": str(path)} | settings).items()}
        params = load("download", ROOT, changes | {"storage.shards": shards})
        download.run(params, tmp_path / "data" / "raw")
        return tmp_path / "data" / "raw"

    return run


@pytest.fixture
def recordings(tmp_path):
    """A folder of a machine's recordings in the DCASE layout."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "recordings"
    for clip in ("train/normal_id_00_00000000", "test/normal_id_00_00000000", "test/anomaly_id_00_00000000"):
        path = folder / "fan" / f"{clip}.wav"
        path.parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(path, rng.integers(-9000, 9000, 16000, dtype=np.int16), 16000)
    return folder


def check(raw: Path) -> pd.DataFrame:
    """data/raw holds what its manifest says and nothing else."""
    manifest = read_manifest(raw / "manifest.csv")
    files = {path.relative_to(raw).as_posix() for path in raw.rglob("*") if path.is_file()}
    assert files == {f"{clip}.flac" for clip in manifest["clip"]} | {"manifest.csv", "skipped.csv", "notes.txt"}
    for row in manifest.itertuples():
        waveform = read_clip(raw / f"{row.clip}.flac")
        assert (row.sha256, row.seconds) == (digest(waveform), len(waveform) / 16000)
        assert row.clip.startswith(f"{row.machine_type}/{row.split}/{row.condition}_{row.machine_id}_")
    assert [path.name for path in raw.parent.iterdir()] == ["raw"]
    return manifest


def test_a_folder_of_recordings(run, recordings):
    raw = run(recordings)
    assert len(check(raw)) == 3
    assert (raw / "skipped.csv").read_text() == "file,reason\n"


def test_what_is_skipped_is_listed(run, recordings):
    (recordings / "fan" / "train" / "normal_id_00_00000009.wav").write_bytes(b"")
    raw = run(recordings, on_bad_clip="skip")
    assert len(check(raw)) == 3
    skipped = pd.read_csv(raw / "skipped.csv")
    assert skipped["file"].tolist() == ["fan/train/normal_id_00_00000009.wav"]
    assert skipped["reason"].tolist() == ["the file is empty"]


def test_a_bad_clip_leaves_the_old_data_and_no_half_of_new(run, recordings):
    raw = run(recordings)
    before = (raw / "manifest.csv").read_bytes()
    (recordings / "fan" / "train" / "normal_id_00_00000009.wav").write_bytes(b"")
    with pytest.raises(ValueError, match=r"1 bad clips.*\n.*normal_id_00_00000009\.wav"):
        run(recordings)
    assert (raw / "manifest.csv").read_bytes() == before
    check(raw)


def test_synthetic_machines(run, tmp_path):
    description = yaml.safe_load((ROOT / "corpora" / "synthetic.yaml").read_text())
    description["clips"] = {"train_normal": 2, "calibration_normal": 1, "test_normal": 1, "test_anomaly": 1}
    (tmp_path / "small.yaml").write_text(yaml.safe_dump(description))
    manifest = check(run(tmp_path / "small.yaml", types=["fan", "valve"]))
    assert set(manifest["machine_type"]) == {"fan", "valve"}
    assert set(manifest["seconds"]) == {10.0}
    per_machine = manifest.groupby(["machine_type", "machine_id"]).size()
    assert (per_machine == 5).all()
    assert (manifest.loc[manifest["split"] == "calibration", "condition"] == "normal").all()
    assert len(per_machine) >= 4
    with pytest.raises(ValueError, match=r"corpus\.types has gear; .*small\.yaml has ToyCar, .*fan"):
        run(tmp_path / "small.yaml", types=["gear"])


def archive_of(files: dict[str, Path]) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, path in files.items():
            archive.write(path, name)
    return content.getvalue()


@pytest.fixture
def table(recordings, tmp_path):
    """A table of archives as DCASE 2020's, and a folder that holds them."""
    files = {path.relative_to(recordings).as_posix(): path for path in recordings.rglob("*.wav")}
    extra = tmp_path / "extra.wav"
    soundfile.write(extra, np.random.default_rng(1).uniform(-0.1, 0.1, 16000), 16000)
    contents = {
        "dev_data_fan.zip": archive_of(files),
        "eval_data_train_fan.zip": archive_of({"fan/train/normal_id_01_00000000.wav": extra}),
        "eval_data_test_fan.zip": archive_of({"fan/test/id_01_00000000.wav": extra}),
    }
    (tmp_path / "archives").mkdir()
    rows = ["subset,machine_type,zenodo_record,file,md5"]
    for subset, (name, content) in zip(("dev", "additional", "eval"), contents.items(), strict=True):
        (tmp_path / "archives" / name).write_bytes(content)
        rows.append(f"{subset},fan,1,{name},{hashlib.md5(content).hexdigest()}")
    (tmp_path / "dcase.csv").write_text("\n".join(rows) + "\n")
    return tmp_path / "dcase.csv"


def test_archives_of_the_subsets_that_are_asked_for(run, table, tmp_path):
    raw = run(table, source=str(tmp_path / "archives"))
    manifest = check(raw)
    assert manifest.groupby("machine_id")["subset"].unique().map(list).to_dict() == {
        "id_00": ["dev"],
        "id_01": ["additional"],
    }
    assert len(manifest) == 4, "the unlabelled evaluation clips are not taken"
    (tmp_path / "archives" / "eval_data_train_fan.zip").unlink()  # not needed for the development set
    assert set(check(run(table, source=str(tmp_path / "archives"), subsets=["dev"]))["machine_id"]) == {"id_00"}


def test_an_archive_that_reaches_outside_leaves_nothing(run, table, tmp_path):
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("../../evil.wav", b"")
    (tmp_path / "archives" / "dev_data_fan.zip").write_bytes(content.getvalue())
    lines = table.read_text().splitlines()
    lines[1] = lines[1].rsplit(",", 1)[0] + "," + hashlib.md5(content.getvalue()).hexdigest()
    table.write_text("\n".join(lines) + "\n")
    with pytest.raises(ValueError, match=r"'\.\./\.\./evil\.wav' would be written outside"):
        run(table, source=str(tmp_path / "archives"))
    assert list((tmp_path / "data").iterdir()) == []
    assert list(tmp_path.rglob("evil.wav")) == []


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda folder: [path.unlink() for path in folder.rglob("*.wav")], "download: {} holds no sound files"),
        (
            lambda folder: [path.unlink() for path in folder.glob("fan/train/*")],
            "download: {} has no healthy recordings",
        ),
        (
            lambda folder: (folder / "fan/test/anomaly_id_00_00000000.wav").write_bytes(b"x"),
            "download: {}: 1 bad clips",
        ),
        (lambda folder: folder.rename(folder.with_name("moved")), "download: {} does not exist"),
    ],
)
def test_bad_input_is_one_clear_error_and_exit_code_1(recordings, tmp_path, break_it, message):
    break_it(recordings)
    params = yaml.safe_load((ROOT / "params.yaml").read_text())
    params["corpus"]["path"] = str(recordings)
    (tmp_path / "params.yaml").write_text(yaml.safe_dump(params))
    (tmp_path / "dvc.yaml").write_bytes((ROOT / "dvc.yaml").read_bytes())
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "stages.download"]
    ended = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert ended.returncode == 1
    assert message.format(recordings) in ended.stderr
    assert "Traceback" not in ended.stderr
    assert not (tmp_path / "data" / "raw").exists()
    assert list((tmp_path / "data").iterdir()) == []


def test_what_a_killed_run_leaves_is_not_taken_for_complete(run, recordings, tmp_path):
    with subprocess.Popen(["true"]) as process:
        killed = process.pid
    left = tmp_path / "data" / f".raw.{files._here()}-{killed}-1.unfinished" / "fan" / "train"
    left.mkdir(parents=True)
    (left / "normal_id_00_00000077.flac").write_bytes(b"half")
    assert len(check(run(recordings))) == 3
    assert [path.name for path in (tmp_path / "data").iterdir()] == ["raw"]


def test_it_starts_without_loading_torch():
    code = "import sys, stages.download; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_many_clips_are_packed_into_shards(run, recordings):
    clips = {path: path.read_bytes() for path in run(recordings).rglob("*.flac")}
    assert len(clips) == 3
    raw = run(recordings, shards=3)
    assert {path: path.read_bytes() for path in raw.rglob("*.flac")} == clips, "three clips are not above three"
    raw = run(recordings, shards=2)
    files = {path.relative_to(raw).as_posix() for path in raw.rglob("*")}
    assert files == {"clips-000000.tar", "shards.npy", "manifest.csv", "skipped.csv", "notes.txt"}
    for path, content in clips.items():
        assert (Folder(raw) / path.relative_to(raw).as_posix()).open("rb").read() == content


def check_command(folder: Path, path: Path) -> subprocess.CompletedProcess:
    """`--check` on a corpus, as a user runs it, in a folder that has just params.yaml and dvc.yaml."""
    for name in ("params.yaml", "dvc.yaml"):
        (folder / name).write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "stages.download", "--check", str(path)]
    return subprocess.run(
        command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True
    )


def test_check_tells_all_and_writes_nothing(tmp_path):
    corpus, here = tmp_path / "corpus", tmp_path / "here"
    here.mkdir()
    for machine, count in (("Pump 3A", 30), ("Lüfter", 6)):
        (corpus / machine).mkdir(parents=True)
        for number in range(count):
            soundfile.write(corpus / machine / f"rec {number}.wav", np.full((48000, 2), [0.0, 1.0]), 48000)
    soundfile.write(corpus / "Lüfter" / "loud.wav", np.repeat([-1.0, 1.0], 500).repeat(24), 24000)
    (corpus / "Lüfter" / "bad").mkdir()
    soundfile.write(corpus / "Lüfter" / "bad" / "x.wav", np.zeros(32), 16000)
    (corpus / "Lüfter" / "bad" / "y.wav").write_bytes(b"no sound")
    (corpus / "readme.txt").write_text("…")
    ended = check_command(here, corpus)
    said = ended.stdout
    assert (ended.returncode, ended.stderr) == (1, "")
    assert "1 machine type, 2 machines, 39 recordings, 0.01 h, 37 clips" in said
    assert "channels: 2 (36 files), 1 (2 files)" in said
    rows = [" ".join(line.split()) for line in said.splitlines() if line.startswith("machine ")]
    assert rows == ["machine Lüfter 0.00 5 0 2 0", "machine Pump 3A 0.01 19 5 6 0"]
    assert "kept together: machine Lüfter, machine Pump 3A" in said
    assert "no sound files by their names: 1, readme.txt" in said
    assert (
        "a false-alarm rate of 0.1 promised by a machine's own calibration clips, which takes 9: all machines" in said
    )
    assert "AUC, and the share of faults that is found, which need anomalies: all machines" in said
    assert "Lüfter/bad/x.wav  0.002 s, shorter than 0.95 s" in said
    assert "Lüfter/bad/y.wav  cannot be decoded" in said
    assert "read with a warning, 1 of the 37 that were listened to:\nLüfter/loud.wav  100 % of the samples" in said
    assert "the faults stop the run; the first seconds of 37 recordings were read, the run checks all" in said
    assert {path.name for path in here.iterdir()} == {"params.yaml", "dvc.yaml"}


def test_check_knows_descriptions_archives_and_what_cannot_be(tmp_path):
    ended = check_command(tmp_path, ROOT / "corpora" / "synthetic.yaml")
    assert (ended.returncode, ended.stderr) == (0, "")
    clips = len(list(read_description(ROOT / "corpora" / "synthetic.yaml").clips()))
    assert f"6 machine types, 18 machines, {clips} recordings" in ended.stdout
    assert "it can be trained on" in ended.stdout
    assert "12 archives: dev_data_fan.zip, " in check_command(tmp_path, ROOT / "corpora" / "dcase2020.csv").stdout
    ended = check_command(tmp_path, tmp_path / "nothing")
    assert (ended.returncode, ended.stdout) == (1, "")
    assert ended.stderr == f"download: {tmp_path}/nothing does not exist\n"
