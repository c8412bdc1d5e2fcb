"""One's own recordings: layouts, checks, cutting, split, leaks."""

import os
import shutil
import stat
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import soundfile

from audio.clips import digest, read_clip
from audio.recordings import import_recordings

SETTINGS = {"types": [], "subsets": ["dev", "additional"], "channel": 0, "split_seed": 0, "on_bad_clip": "error"}


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
    rows, faults = import_recordings(folder, out, **(SETTINGS | settings), workers=1)
    return pd.DataFrame(rows).set_index("source"), faults


def refused(folder, out, **settings):
    with pytest.raises(ValueError) as error:
        take(folder, out, **settings)
    return str(error.value)


# ------------------------------------------------------------------------------------------------------- layouts


def test_the_dcase_layout_keeps_its_names_and_samples(dcase, tmp_path):
    rows, faults = take(dcase, tmp_path / "out")
    assert faults == []
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


def test_mimii_is_split_by_recording_all_anomalies_and_as_many_normals_to_test(tmp_path):
    folder = mimii(tmp_path / "corpus", normals=7, anomalies=2, channels=8)
    mimii(folder, normals=3, anomalies=5, machine="pump/id_04", channels=8)
    mimii(folder, normals=2, anomalies=0, machine="pump/id_06", channels=8)
    rows, _ = take(folder, tmp_path / "out", channel=5)
    counts = rows.groupby(["machine_id", "split", "condition"]).size().to_dict()
    assert counts == {
        ("id_02", "test", "anomaly"): 2,
        ("id_02", "test", "normal"): 2,
        ("id_02", "train", "normal"): 5,
        ("id_04", "test", "anomaly"): 5,
        ("id_04", "test", "normal"): 1,  # never more than half of them
        ("id_04", "train", "normal"): 2,
        ("id_06", "train", "normal"): 2,
    }
    row = rows.loc["pump/id_02/abnormal/00000001.wav"]
    assert row["clip"] == "pump/test/anomaly_id_02_00000001"
    written = read_clip(tmp_path / "out" / f"{row['clip']}.flac")
    assert np.array_equal(written, read_clip(folder / "pump/id_02/abnormal/00000001.wav", channel=5))


def test_the_split_is_drawn_from_the_seed_and_moves_no_more_than_it_must(tmp_path):
    folder = mimii(tmp_path / "corpus", normals=12, anomalies=4)

    def test_normals(out, **settings):
        rows, _ = take(folder, tmp_path / out, **settings)
        return set(rows.index[(rows["split"] == "test") & (rows["condition"] == "normal")])

    first = test_normals("a")
    assert test_normals("b") == first
    assert any(test_normals(f"seed{seed}", split_seed=seed) != first for seed in (1, 2))
    record(folder / "pump/id_02/normal/00000099.wav")
    assert len(test_normals("c") & first) >= 3


def write_table(
    folder: Path, rows: list[tuple], header="file,machine_type,machine_id,split,condition", sep=","
) -> Path:
    lines = [header, *(sep.join(row) for row in rows)]
    (folder / "clips.csv").write_text("\n".join(lines) + "\n", encoding="utf-8-sig")
    return folder


TABLE = [
    ("a/quiet.wav", "press", "1", "train", "normal"),
    ("a/shift 2.wav", "press", "id_01", "test", "normal"),
    ("b/Ölverlust.flac", "press", "01", "test", "anomaly"),
]


@pytest.mark.parametrize("sep", [",", ";"])
def test_a_table_names_recordings_of_any_name(tmp_path, sep):
    folder = tmp_path / "corpus"
    for row in [*TABLE, ("c/not listed.wav",)]:
        record(folder / row[0])
    write_table(folder, TABLE, sep.join(["file", "machine_type", "machine_id", "split", "condition"]), sep)
    rows, faults = take(folder, tmp_path / "out")
    assert (set(rows.index), faults) == ({row[0] for row in TABLE}, [])
    assert set(rows["machine_id"]) == {"id_01"}
    assert rows["clip"].str.fullmatch(r"press/(train|test)/(normal|anomaly)_id_01_\d{8}").all()


def test_a_table_without_split_is_split(tmp_path):
    folder = mimii(tmp_path / "corpus")
    rows = [
        (path.relative_to(folder).as_posix(), "press", "7", "anomaly" if "abnormal" in path.parts else "normal")
        for path in sorted(folder.rglob("*.wav"))
    ]
    write_table(folder, rows, "file,machine_type,machine_id,condition")
    taken, _ = take(folder, tmp_path / "out")
    assert taken.groupby(["split", "condition"]).size().to_dict() == {
        ("test", "anomaly"): 2,
        ("test", "normal"): 2,
        ("train", "normal"): 4,
    }


def test_all_that_is_wrong_in_a_table_is_listed_at_once(tmp_path):
    folder = tmp_path / "corpus"
    for row in TABLE:
        record(folder / row[0])
    record(tmp_path / "outside.wav")
    bad = [
        ("../outside.wav", "press", "1", "train", "normal"),
        ("missing.wav", "press", "1", "train", "normal"),
        ("a/quiet.wav", "press", "1", "test", "normal"),
        ("x.wav", "press", "left", "train", "normal"),
        ("y.wav", "press", "1", "validation", "normal"),
        ("z.wav", "press", "1", "test", "broken"),
        ("v.wav", "press", "1", "train", "anomaly"),
        ("w.wav", "a/b", "1", "train", "normal"),
    ]
    message = refused(write_table(folder, TABLE + bad), tmp_path / "out")
    for reason in (
        r"../outside.wav +lies outside the corpus folder",
        r"missing.wav +no such file",
        r"a/quiet.wav +listed twice",
        r"x.wav +machine_id 'left' is not a number",
        r"y.wav +split 'validation' is not train or test",
        r"z.wav +condition 'broken' is not normal or anomaly",
        r"v.wav +an anomaly in the training split",
        r"w.wav +machine type 'a/b'",
    ):
        assert pd.Series(message.splitlines()).str.strip().str.match(reason).any(), reason
    assert "8 bad clips" in message


def test_a_table_that_is_no_table_is_refused(tmp_path):
    folder = tmp_path / "corpus"
    record(folder / "a.wav")
    write_table(folder, [("a.wav", "fan")], "file,type")
    assert "clips.csv has no column condition, machine_id, machine_type; it has file, type" in refused(folder, tmp_path)
    write_table(folder, [("a.wav", "press", "1", "", "normal"), *TABLE])
    assert "press: split is given for some clips" in refused(folder, tmp_path)
    write_table(folder, [])
    assert "lists no recordings" in refused(folder, tmp_path)


def test_a_type_may_be_a_link_and_hidden_files_are_none_of_ours(dcase, tmp_path):
    (dcase / "fan").rename(tmp_path / "elsewhere")
    (dcase / "fan").symlink_to(tmp_path / "elsewhere")
    (dcase / "fan" / "train" / "._normal_id_00_00000000.wav").write_bytes(b"resource fork")
    rows, faults = take(dcase, tmp_path / "out")
    assert (len(rows), faults) == (7, [])


def test_types_select_and_unknown_ones_are_named(dcase, tmp_path):
    mimii(dcase)
    (dcase / "pump" / "id_02" / "normal" / "00000000.wav").write_bytes(b"broken, but not asked for")
    rows, faults = take(dcase, tmp_path / "out", types=["fan"])
    assert (set(rows["machine_type"]), faults) == ({"fan"}, [])
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
    rows, faults = take(dcase, tmp_path / "out")
    pieces = rows.loc[[file]].sort_values("offset")
    assert faults == []
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


# --------------------------------------------------------------------------------------------------------- checks


@pytest.fixture
def bad(dcase):
    """The DCASE folder with one clip of each fault."""
    train = dcase / "fan" / "train"
    soundfile.write(train / "normal_id_00_00000020.wav", np.zeros(16000), 16000)
    soundfile.write(train / "normal_id_00_00000021.wav", np.full(16000, 0.1), 16000)
    record(train / "normal_id_00_00000022.wav", 0.99)
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
    "fan/train/normal_id_00_00000022.wav": "0.99 s, shorter than 1 s",
    "fan/train/normal_id_00_00000023.wav": "samples that are not finite",
    "fan/train/normal_id_00_00000024.wav": "truncated",
    "fan/train/normal_id_00_00000025.flac": "cannot be decoded",
    "fan/train/anomaly_id_00_00000026.wav": "an anomaly in the training split",
    "fan/train/normal/anomaly_id_00.wav": "lies in no known place",
    "fan/train/recording of normal_id_00_00000027.wav": "is not of the form",
    "fan/train/normal_id_00_00000028.wav at 10 s": "digital silence in 2 of 3 clips",
}


def test_all_bad_clips_are_listed_at_once(bad, tmp_path):
    lines = refused(bad, tmp_path / "out").splitlines()
    assert lines[0].startswith(f"{bad}: 10 bad clips")
    for file, reason in REASONS.items():
        assert any(line.strip().startswith(f"{file} ") and reason in line for line in lines), file


def test_skipped_clips_are_left_out_and_listed(bad, tmp_path):
    rows, faults = take(bad, tmp_path / "out", on_bad_clip="skip")
    assert {fault.file for fault in faults} == set(REASONS)
    assert all(REASONS[fault.file] in fault.reason for fault in faults)
    assert len(rows) == 8  # the seven good ones, and what is sound of the long one
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 8


def test_a_damaged_long_recording_leaves_no_piece(dcase, tmp_path):
    path = dcase / "fan" / "train" / "normal_id_00_00000030.flac"
    record(path, 60)
    content = bytearray(path.read_bytes())
    content[len(content) * 3 // 4 : len(content) * 3 // 4 + 100] = bytes(100)
    path.write_bytes(content)
    rows, faults = take(dcase, tmp_path / "out", on_bad_clip="skip")
    assert len(rows) == 7
    assert [fault.file for fault in faults] == ["fan/train/normal_id_00_00000030.flac"]
    assert len(list((tmp_path / "out").rglob("*.flac"))) == 7


def test_a_truncated_recording_is_taken_as_far_as_it_goes_and_the_manifest_says_so(dcase, tmp_path):
    file = "fan/train/normal_id_00_00000030.flac"
    record(dcase / file, 60)
    content = (dcase / file).read_bytes()
    (dcase / file).write_bytes(content[: len(content) * 3 // 4])
    rows, faults = take(dcase, tmp_path / "out")
    assert faults == []
    assert rows.loc[[file], "seconds"].sum() == pytest.approx(45, abs=1)
    assert rows.loc[[file], "warning"].str.match(r"truncated, it breaks off after 4\d\.\d+ s: read as far").all()
    assert (rows["warning"] != "").sum() == 5


def test_a_recording_of_any_format_becomes_a_clip(dcase, tmp_path):
    rng = np.random.default_rng(0)
    soundfile.write(dcase / "fan/train/normal_id_00_00000040.mp3", rng.uniform(-0.3, 0.3, 48000), 16000)
    soundfile.write(dcase / "fan/test/normal_id_00_00000041.AIFF", rng.uniform(-0.3, 0.3, 48000), 16000)
    rows, faults = take(dcase, tmp_path / "out")
    assert (len(rows), faults) == (9, [])
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


# ------------------------------------------------------------------------------------- what is fit to train and test


def remove(folder: Path, pattern: str) -> None:
    for path in list(folder.glob(pattern)):
        path.unlink()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("fan/train/*", "{folder} has no training clips"),
        ("fan/test/anomaly*", "fan id_00 has only normals in its test split, AUC needs both conditions"),
        ("fan/test/normal*", "fan id_00 has only anomalies in its test split"),
        ("fan/test/*", "{folder}: fan has no test clips: some anomalies, and normals beside them, are needed"),
        ("fan/*/*", "{folder} holds no sound files"),
    ],
)
def test_a_corpus_that_cannot_train_or_test_is_refused_before_any_sound_is_read(dcase, tmp_path, pattern, message):
    remove(dcase, pattern)
    for path in dcase.rglob("*.*"):
        path.write_bytes(b"not read")
    assert message.format(folder=dcase) in refused(dcase, tmp_path / "out")


def test_a_tested_machine_needs_training_clips_and_all_faults_are_named(dcase, tmp_path):
    record(dcase / "fan/test/normal_id_02_00000000.wav")
    record(dcase / "pump/train/normal_id_00_00000000.wav")
    message = refused(dcase, tmp_path / "out")
    assert "fan id_02 has test clips but no training clips" in message
    assert "fan id_02 has only normals" in message
    assert "pump has no test clips" in message


def test_skipping_must_not_leave_a_single_class(dcase, tmp_path):
    for path in (dcase / "fan/test").glob("anomaly*"):
        path.write_bytes(b"broken")
    assert "only normals" in refused(dcase, tmp_path / "out", on_bad_clip="skip")


def test_a_folder_that_is_not_there_or_not_a_corpus(dcase, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert "need its absolute path" in refused(Path("missing"), tmp_path / "out")
    assert refused(tmp_path / "missing", tmp_path / "out").endswith("missing does not exist")
    assert "give the folder above it" in refused(dcase / "fan", tmp_path / "out")
    record(tmp_path / "heap" / "a.wav")
    assert "no recordings in a known layout" in refused(tmp_path / "heap", tmp_path / "out")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_recording_that_may_not_be_read_is_a_bad_clip(dcase, tmp_path):
    path = dcase / "fan/train/normal_id_00_00000000.wav"
    path.chmod(stat.S_IWUSR)
    assert "normal_id_00_00000000.wav" in refused(dcase, tmp_path / "out")


# ------------------------------------------------------------------------------------------------- real recordings


def test_real_mimii_clips_in_both_layouts(real_corpus, tmp_path):
    rows, faults = import_recordings(real_corpus / "mimii_dcase", tmp_path / "a", **SETTINGS)
    assert (len(rows), faults) == (400, [])
    table = pd.DataFrame(rows)
    assert table.groupby(["split", "condition"]).size().tolist() == [119, 126, 155]
    assert set(table["clip"] + ".flac") == set(table["source"])
    rows, faults = take(real_corpus / "mimii_original", tmp_path / "b", channel=7)
    assert (len(rows), faults) == (3, [])
    source = "fan/id_00/abnormal/00000000.wav"
    written = read_clip(tmp_path / "b" / f"{rows.loc[source, 'clip']}.flac")
    expected, _ = soundfile.read(real_corpus / "mimii_original" / source, dtype="float32")
    assert np.array_equal(written, expected[:, 7])
