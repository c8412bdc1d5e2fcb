"""Clip names and the manifest."""

import tracemalloc

import pytest

from audio.manifest import COLUMNS, ClipName, manifest_rows, read_manifest, write_manifest


def test_a_name_says_condition_identity_and_number():
    name = ClipName.parse("anomaly_id_04_00000012")
    assert (name.condition, name.machine_id, name.number) == ("anomaly", "id_04", 12)
    assert str(name) == "anomaly_id_04_00000012"


@pytest.mark.parametrize(
    "stem",
    [
        "id_01_00000000",  # the unlabelled evaluation set
        "normal_id_1_00000000",
        "normal_id_01_0000000",
        "normal_id_01_000000000",
        "Normal_id_01_00000000",
        "abnormal_id_01_00000000",
        "not_normal_id_01_00000000",
        "normal_id_01_00000000_copy",
        "normal_id_01_00000000\n",
        "",
    ],
)
def test_the_whole_name_must_match(stem):
    with pytest.raises(ValueError, match="is not of the form"):
        ClipName.parse(stem)


def test_the_manifest_is_sorted_and_keeps_its_types(tmp_path):
    row = dict.fromkeys(COLUMNS, "") | {"machine_type": "NA", "machine_id": "id_00", "sha256": "0012"}
    rows = [row | {"clip": clip, "seconds": seconds, "offset": 0.0} for clip, seconds in (("b", 10.0), ("a", 11.5))]
    written = write_manifest(tmp_path / "manifest.csv", rows)
    read = read_manifest(tmp_path / "manifest.csv")
    assert list(read.columns) == COLUMNS
    assert read["clip"].tolist() == written["clip"].tolist() == ["a", "b"]
    assert read["seconds"].tolist() == [11.5, 10.0]
    assert read.iloc[0][["machine_type", "sha256", "source"]].tolist() == ["NA", "0012", ""]


def test_the_rows_are_read_as_they_are_asked_for(tmp_path):
    """Their memory does not grow with the manifest."""
    path = tmp_path / "manifest.csv"
    row = dict.fromkeys(COLUMNS, "") | {"seconds": 10.0, "offset": 0.0}
    peaks = []
    for clips in (2_500, 20_000):
        write_manifest(path, (row | {"clip": f"fan/train/normal_id_00_{number:08d}"} for number in range(clips)))
        assert list(manifest_rows(path)) == read_manifest(path).to_dict("records")
        tracemalloc.start()
        assert sum(1 for _ in manifest_rows(path)) == clips
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
