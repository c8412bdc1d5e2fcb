"""Recordings become a corpus: selected, checked, cut, named, and without leaks."""

import os
import shutil
import stat
import unicodedata
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from audio.clips import digest, read_clip
from audio.importing import import_recordings

SETTINGS = {
    "types": [], "subsets": ["dev", "additional"], "channel": 0, "split_seed": 0, "calibration_share": 0.2,
    "on_bad_clip": "error",
}  # fmt: skip


def record(path: Path, seconds: float = 1.0, rate: int = 16000, channels: int = 1, subtype: str = "PCM_16") -> None:
    """Noise that no other path has."""
    path.parent.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(list(path.as_posix().encode()))
    soundfile.write(path, rng.uniform(-0.3, 0.3, (int(seconds * rate), channels)), rate, subtype=subtype)


@pytest.fixture
def dcase(tmp_path):
    """Folder in the DCASE layout: fan id_00, 3 training clips, 2 + 2 test clips."""
    for clip in ("train/normal", "train/normal", "train/normal", "test/normal", "test/normal", "test/anomaly"):
        folder = tmp_path / "corpus" / "fan"
        number = len(list(folder.glob(f"{clip}*")))
        record(folder / f"{clip}_id_00_{number:08d}.wav")
    record(folder / "test" / "anomaly_id_00_00000007.flac")
    return tmp_path / "corpus"


def take(folder, out, **settings):
    rows, refusals, _ = import_recordings(folder, out, **(SETTINGS | settings), workers=1)
    return pd.DataFrame(rows).set_index("source"), refusals


def refused(folder, out, **settings):
    with pytest.raises(ValueError) as error:
        take(folder, out, **settings)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------- layouts


def test_the_dcase_layout_keeps_its_names_and_samples(dcase, tmp_path):
    rows, refusals = take(dcase, tmp_path / "out")
    assert refusals == []
    assert len(rows) == 7
    row = rows.loc["fan/test/anomaly_id_00_00000007.flac"]
    assert row["clip"] == "fan/test/anomaly_id_00_00000007"
    assert row[["machine_type", "machine_id", "split", "condition", "subset"]].tolist() == [
        "fan", "id_00", "test", "anomaly", "dev",
    ]  # fmt: skip
    for source, row in rows.iterrows():
        written = tmp_path / "out" / f"{row['clip']}.flac"
        assert np.array_equal(read_clip(written), read_clip(dcase / source))
        assert row["sha256"] == digest(read_clip(written))
        assert (row["seconds"], row["offset"], soundfile.info(written).subtype) == (1.0, 0.0, "PCM_16")
    assert sorted(path.suffix for path in (tmp_path / "out").rglob("*") if path.is_file()) == [".flac"] * 7


def test_the_users_files_stay_as_they_were(dcase, tmp_path):
    before = {path: (path.stat().st_ino, path.stat().st_mode, path.read_bytes()) for path in dcase.rglob("*.*")}
    take(dcase, tmp_path / "out")
    assert {path: (path.stat().st_ino, path.stat().st_mode, path.read_bytes()) for path in dcase.rglob("*.*")} == before
    assert all(path.stat().st_nlink == 1 for path in dcase.rglob("*.*"))


def test_identities_without_test_clips_are_the_additional_subset(dcase, tmp_path):
    record(dcase / "fan" / "train" / "normal_id_01_00000000.wav")
    rows, _ = take(dcase, tmp_path / "out")
    assert rows.groupby("machine_id")["subset"].unique().map(list).to_dict() == {
        "id_00": ["dev"],
        "id_01": ["additional"],
    }
    rows, _ = take(dcase, tmp_path / "dev", subsets=["dev"])
    assert set(rows["machine_id"]) == {"id_00"}


def mimii(folder: Path, normals: int = 6, anomalies: int = 2, machine: str = "pump/id_02", **how) -> Path:
    for condition, count in (("normal", normals), ("abnormal", anomalies)):
        for number in range(count):
            record(folder / machine / condition / f"{number:08d}.wav", **how)
    return folder


def test_a_type_may_be_a_link_and_hidden_files_are_none_of_ours(dcase, tmp_path):
    (dcase / "fan").rename(tmp_path / "elsewhere")
    (dcase / "fan").symlink_to(tmp_path / "elsewhere")
    (dcase / "fan" / "train" / "._normal_id_00_00000000.wav").write_bytes(b"resource fork")
    rows, refusals = take(dcase, tmp_path / "out")
    assert (len(rows), refusals) == (7, [])


def test_types_select_and_unknown_ones_are_named(dcase, tmp_path):
    mimii(dcase)
    (dcase / "pump" / "id_02" / "normal" / "00000000.wav").write_bytes(b"broken, but not asked for")
    rows, refusals = take(dcase, tmp_path / "out", types=["fan"])
    assert (set(rows["machine_type"]), refusals) == ({"fan"}, [])
    assert refused(dcase, tmp_path, types=["gear", "fan"]) == f"corpus.types has gear; {dcase} has fan, pump"


# -------------------------------------------------------------------------------------------------------- lengths


@pytest.mark.parametrize(
    ("rate", "channels", "subtype", "bits"),
    [(16000, 1, "PCM_16", 16), (16000, 2, "PCM_24", 24), (44100, 1, "PCM_16", 24), (8000, 1, "PCM_U8", 24)],
)
def test_any_rate_and_depth_becomes_16_khz_mono(dcase, tmp_path, rate, channels, subtype, bits):
    record(dcase / "fan/train/normal_id_00_00000009.wav", 1.5, rate, channels, subtype)
    rows, _ = take(dcase, tmp_path / "out")
    clip = rows.loc["fan/train/normal_id_00_00000009.wav", "clip"]
    info = soundfile.info(tmp_path / "out" / f"{clip}.flac")
    assert (info.samplerate, info.channels, info.subtype) == (16000, 1, f"PCM_{bits}")
    assert info.frames == pytest.approx(24000, abs=1)


@pytest.mark.parametrize(
    ("seconds", "rate", "lengths"),
    [
        (11.0, 16000, [11]),
        (20.0, 16000, [20]),
        (20.5, 16000, [10, 10]),
        (34.0, 16000, [10, 10, 10, 4]),
        (65.5, 44100, [10] * 6 + [5.5]),
    ],
)
def test_long_recordings_are_cut_into_clips_of_one_split(dcase, tmp_path, seconds, rate, lengths):
    file = "fan/train/normal_id_00_00000009.wav"
    record(dcase / file, seconds, rate)
    rows, refusals = take(dcase, tmp_path / "out")
    pieces = rows.loc[[file]].sort_values("offset")
    assert refusals == []
    assert pieces["seconds"].tolist() == pytest.approx(lengths, abs=1e-3)
    assert pieces["offset"].tolist() == [10.0 * number for number in range(len(lengths))]
    assert set(pieces["split"]) == {"train"}
    assert pieces["clip"].is_unique
    whole = read_clip(dcase / file)
    joined = np.concatenate([read_clip(tmp_path / "out" / f"{clip}.flac") for clip in pieces["clip"]])
    assert np.abs(joined - whole[: len(joined)]).max() <= 2**-15


def test_adding_a_recording_renames_no_clip(tmp_path):
    folder = mimii(tmp_path / "corpus", normals=3, anomalies=1, seconds=25)
    rows, _ = take(folder, tmp_path / "a")
    record(folder / "pump/id_02/normal/0000000.wav", 25)  # sorts first
    more, _ = take(folder, tmp_path / "b")
    names = [dict(zip(zip(one.index, one["offset"], strict=True), one["clip"], strict=True)) for one in (rows, more)]
    moved = [key for key, name in names[0].items() if names[1][key].split("/")[2] != name.split("/")[2]]
    assert moved == []


def test_names_are_shown_as_written_and_files_are_named_safely(tmp_path):
    folder = tmp_path / "corpus"
    for machine in ("Pump 3A", "Pump #3A", unicodedata.normalize("NFD", "Lüfter Nord"), "pump 3a"):
        record(folder / "Halle" / machine / "x.wav")
    rows, _ = take(folder, tmp_path / "out")
    assert set(rows["machine_id"]) == {"Pump 3A", "Pump #3A", "Lüfter Nord", "pump 3a"}
    assert rows["clip"].str.fullmatch(r"Halle/train/normal_[A-Za-z0-9-]+_\d{8}").all()
    assert rows["clip"].str.rsplit("_", n=1).str[0].str.lower().nunique() == 4, "no two machines share a name"


# --------------------------------------------------------------------------------------------------------- checks


@pytest.fixture
def bad(dcase):
    """The DCASE folder with one clip of each refusal."""
    train = dcase / "fan" / "train"
    soundfile.write(train / "normal_id_00_00000020.wav", np.zeros(16000), 16000)
    soundfile.write(train / "normal_id_00_00000021.wav", np.full(16000, 0.1), 16000)
    record(train / "normal_id_00_00000022.wav", 0.94)
    soundfile.write(train / "normal_id_00_00000023.wav", np.array([np.nan] * 16000), 16000, subtype="FLOAT")
    record(train / "normal_id_00_00000024.wav")
    content = (train / "normal_id_00_00000024.wav").read_bytes()
    (train / "normal_id_00_00000024.wav").write_bytes(content[:10000])  # less than a second
    (train / "normal_id_00_00000025.flac").write_bytes(b"fLaC")
    record(train / "anomaly_id_00_00000026.wav")
    record(train / "normal" / "anomaly_id_00.wav")
    record(train / "recording of normal_id_00_00000027.wav")
    record(train / "normal_id_00_00000028.wav", 22)
    samples, _ = soundfile.read(train / "normal_id_00_00000028.wav")
    samples[160000:] = 0
    soundfile.write(train / "normal_id_00_00000028.wav", samples, 16000)
    return dcase


REASONS = {
    "fan/train/normal_id_00_00000020.wav": "digital silence",
    "fan/train/normal_id_00_00000021.wav": "digital silence",
    "fan/train/normal_id_00_00000022.wav": "0.94 s, shorter than 0.95 s",
    "fan/train/normal_id_00_00000023.wav": "samples that are not finite",
    "fan/train/normal_id_00_00000024.wav": "truncated",
    "fan/train/normal_id_00_00000025.flac": "cannot be decoded",
    "fan/train/anomaly_id_00_00000026.wav": "an anomaly in the training split",
    "fan/train/normal/anomaly_id_00.wav": "lies beside clips of a DCASE task",
    "fan/train/recording of normal_id_00_00000027.wav": "is not of the form of a DCASE task",
    "fan/train/normal_id_00_00000028.wav at 10 s": "digital silence in 2 of 3 clips",
}


def test_all_bad_clips_are_listed_at_once(bad, tmp_path):
    lines = refused(bad, tmp_path / "out").splitlines()
    assert lines[0].startswith(f"{bad}: 10 bad clips")
    for file, reason in REASONS.items():
        assert any(line.strip().startswith(f"{file} ") and reason in line for line in lines), file


def test_skipped_clips_are_left_out_and_listed(bad, tmp_path):
    rows, refusals = take(bad, tmp_path / "out", on_bad_clip="skip")
    assert {refusal.file for refusal in refusals} == set(REASONS)
    assert all(REASONS[refusal.file] in refusal.reason for refusal in refusals)
    assert len(rows) == 8  # the seven good ones, and what is sound of the long one
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 8


def test_a_damaged_long_recording_leaves_no_piece(dcase, tmp_path):
    path = dcase / "fan" / "train" / "normal_id_00_00000030.flac"
    record(path, 60)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 : len(content) * 3 // 4 + 100] = bytes(100)
    path.write_bytes(content)
    rows, refusals = take(dcase, tmp_path / "out", on_bad_clip="skip")
    assert len(rows) == 7
    assert [refusal.file for refusal in refusals] == ["fan/train/normal_id_00_00000030.flac"]
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 7


def test_a_truncated_recording_is_taken_as_far_as_it_goes_and_the_manifest_says_so(dcase, tmp_path):
    file = "fan/train/normal_id_00_00000030.flac"
    record(dcase / file, 60)
    content = (dcase / file).read_bytes()
    (dcase / file).write_bytes(content[: len(content) * 3 // 4])
    rows, refusals = take(dcase, tmp_path / "out")
    assert refusals == []
    assert rows.loc[[file], "seconds"].sum() == pytest.approx(45, abs=1)
    assert rows.loc[[file], "warnings"].str.match(r"truncated, it breaks off after 4\d\.\d+ s: read as far").all()
    assert (rows["warnings"] != "").sum() == 5


def test_a_recording_of_any_format_becomes_a_clip(dcase, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(dcase / "fan/train/normal_id_00_00000040.mp3", rng.uniform(-0.3, 0.3, 48000), 16000)
    soundfile.write(dcase / "fan/test/normal_id_00_00000041.AIFF", rng.uniform(-0.3, 0.3, 48000), 16000)
    rows, refusals = take(dcase, tmp_path / "out")
    assert (len(rows), refusals) == (9, [])
    assert soundfile.info(tmp_path / "out" / "fan/train/normal_id_00_00000040.flac").frames == 48000


def test_a_clip_in_both_splits_is_a_leak_whatever_its_file(dcase, tmp_path):
    samples, _ = soundfile.read(dcase / "fan/train/normal_id_00_00000001.wav", dtype="int16")
    soundfile.write(dcase / "fan/test/normal_id_00_00000044.flac", samples, 16000)
    message = refused(dcase, tmp_path / "out", on_bad_clip="skip")
    assert "fan/train/normal_id_00_00000001.wav (train, normal)" in message
    assert "fan/test/normal_id_00_00000044.flac (test, normal)" in message


def test_a_clip_that_is_normal_and_anomalous_is_refused(dcase, tmp_path):
    shutil.copy(dcase / "fan/test/normal_id_00_00000001.wav", dcase / "fan/test/anomaly_id_00_00000044.wav")
    assert "anomaly_id_00_00000044.wav (test, anomaly)" in refused(dcase, tmp_path / "out")


def test_copies_within_a_split_are_told_of(dcase, tmp_path, caplog):
    shutil.copy(dcase / "fan/train/normal_id_00_00000001.wav", dcase / "fan/train/normal_id_00_00000044.wav")
    rows, _ = take(dcase, tmp_path / "out")
    assert len(rows) == 8
    assert "1 clips repeat the samples of another" in caplog.text


def test_in_a_split_made_here_copies_go_to_one_side_and_are_listed(tmp_path):
    folder = mimii(tmp_path / "corpus", normals=12, anomalies=2)
    for number in range(12):
        shutil.copy(folder / f"pump/id_02/normal/{number:08d}.wav", folder / f"pump/id_02/normal/copy {number}.wav")
    shutil.copy(folder / "pump/id_02/abnormal/00000001.wav", folder / "pump/id_02/normal/wrong.wav")
    rows, refusals = take(folder, tmp_path / "out")
    assert rows["sha256"].is_unique
    assert len(rows) == 14
    assert {refusal.file for refusal in refusals} == {f"pump/id_02/normal/copy {n}.wav" for n in range(12)} | {
        "pump/id_02/normal/wrong.wav"
    }
    assert all("has the same samples as" in refusal.reason for refusal in refusals)
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 14


# ------------------------------------------------------------------------------------------------ what is fit to train


def remove(folder: Path, pattern: str) -> None:
    for path in list(folder.glob(pattern)):
        path.unlink()


@pytest.mark.parametrize("pattern", ["fan/test/anomaly*", "fan/test/normal*", "fan/test/*"])
def test_anomalies_and_test_clips_are_not_needed(dcase, tmp_path, pattern):
    remove(dcase, pattern)
    rows, refusals = take(dcase, tmp_path / "out")
    assert (rows["split"] == "train").sum() == 3
    assert refusals == []


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("fan/train/*", "{folder} has no healthy recordings to train on"),
        ("fan/*/*", "{folder} holds no sound files"),
    ],
)
def test_a_corpus_that_cannot_train_is_refused_before_any_sound_is_read(dcase, tmp_path, pattern, message):
    remove(dcase, pattern)
    for path in dcase.rglob("*.*"):
        path.write_bytes(b"not read")
    assert message.format(folder=dcase) in refused(dcase, tmp_path / "out")


def test_a_machine_that_is_tested_needs_training_clips(dcase, tmp_path):
    record(dcase / "fan/test/normal_id_02_00000000.wav")
    record(dcase / "pump/test/anomaly_id_00_00000000.wav")
    message = "no healthy recordings to train on, but others, of fan id_02, pump id_00"
    assert message in refused(dcase, tmp_path / "out")


def test_what_is_skipped_must_not_be_all_that_trains(dcase, tmp_path):
    for path in (dcase / "fan/train").glob("*"):
        path.write_bytes(b"broken")
    assert "no healthy recordings to train on" in refused(dcase, tmp_path / "out", on_bad_clip="skip")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recording_that_may_not_be_read_is_a_bad_clip(dcase, tmp_path):
    path = dcase / "fan/train/normal_id_00_00000000.wav"
    path.chmod(stat.S_IWUSR)
    assert "normal_id_00_00000000.wav" in refused(dcase, tmp_path / "out")


# ------------------------------------------------------------------------------------------------- real recordings


def test_real_mimii_clips_in_both_layouts(real_corpus, tmp_path):
    rows, refusals, _ = import_recordings(real_corpus / "mimii_dcase", tmp_path / "a", **SETTINGS)
    assert (len(rows), refusals) == (400, [])
    table = pd.DataFrame(rows)
    assert table.groupby(["split", "condition"]).size().to_dict() == {
        ("calibration", "normal"): 13,  # of slider id_00, which has 65; the others have 6
        ("test", "anomaly"): 119,
        ("test", "normal"): 126,
        ("train", "normal"): 142,
    }
    assert set(table["clip"].str.replace("/calibration/", "/train/") + ".flac") == set(table["source"])
    rows, refusals = take(real_corpus / "mimii_original", tmp_path / "b", channel=7)
    assert (len(rows), refusals) == (3, [])
    source = "fan/id_00/abnormal/00000000.wav"
    written = read_clip(tmp_path / "b" / f"{rows.loc[source, 'clip']}.flac")
    expected, _ = soundfile.read(real_corpus / "mimii_original" / source, dtype="float32")
    assert np.array_equal(written, expected[:, 7])
