"""The two map stages on a cluster: the same bytes as without, and what is wrong is named."""

from pathlib import Path

import pytest
import torch

from stages.logmel_feature import front_end_key
from storage.store import Store, store_place
from tests.augmentation import tiny_audioldm
from tests.stages.test_diffusion_augment import Project
from tests.stages.test_logmel_feature import SETTINGS, Data

pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def one_thread():
    """As a worker with one core has it: sums are added in another order with more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def content(folder: Path) -> dict[str, bytes]:
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_augmented_clips(nodes, s3, tmp_path, monkeypatch):
    checkpoint = tiny_audioldm.save(tmp_path / "checkpoint")
    made = []
    for name, ray in (("alone", ""), ("cluster", "auto")):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        monkeypatch.setenv("RCMAE_STORE", f"{s3}/clips" if ray else str(tmp_path / "store"))
        monkeypatch.setenv("RCMAE_RAY", ray)
        project = Project(tmp_path / name, checkpoint)
        project.set(batch_size=2)
        project.run()
        made.append(content(tmp_path / name / "data/augmented"))
    assert len([name for name in made[0] if name.endswith(".flac")]) >= 4
    assert made[0] == made[1]


@pytest.mark.parametrize("place", ["folder", "object store"])
def test_features(nodes, s3, tmp_path, monkeypatch, place):
    data = Data(tmp_path)
    for number in range(70):
        data.add(f"fan/train/normal_id_00_{number:08d}", 1.0 + number % 3)
    data.augment("fan/train/normal_id_00_00000001", 0)
    made = []
    for name, ray in (("alone", ""), ("cluster", "auto"), ("cluster", "auto")):
        store = tmp_path / name if place == "folder" else f"{s3}/{name}"
        monkeypatch.setenv("RCMAE_STORE", str(store))
        monkeypatch.setenv("RCMAE_RAY", ray)
        data.run(processes=1)  # forked beside Ray's threads, others would hang
        made.append(content(tmp_path / "features"))
        segments = Store(store_place("features") / front_end_key(SETTINGS), ".safetensors")
        assert len(list(segments.keys())) == 3, "71 clips, 32 at once"
    assert made[1:] == made[:1] * 2


def test_a_clip_that_cannot_be_read_is_named(nodes, tmp_path, monkeypatch):
    monkeypatch.setenv("RCMAE_STORE", str(tmp_path / "store"))
    data = Data(tmp_path)
    for number in range(40):
        data.add(f"fan/train/normal_id_00_{number:08d}")
    path = tmp_path / "raw/fan/train/normal_id_00_00000003.flac"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"^1 units failed 3 times .*normal_id_00_00000003\.flac: "):
        data.run()
    assert len(data.entries()) == 8, "the other batch is kept"
    assert not (tmp_path / "features").exists()
