"""The feature store, and its agreement with librosa."""

import json
import pickle

import librosa
import numpy as np
import pytest
import torch

from audio.clips import read_clip
from audio.features import Features, FeatureWriter
from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.manifest import COLUMNS

SETTINGS = LogMelSettings(n_mels=8)


def clip(name, split="train", condition="normal"):
    return dict.fromkeys(COLUMNS, "x") | {
        "clip": name, "split": split, "condition": condition, "machine_id": "id_00", "seconds": 10.0, "offset": 0.0,
    }  # fmt: skip


@pytest.fixture
def spectrograms():
    rng = np.random.default_rng(0)
    return [rng.normal(-40, 10, (frames, 8)).astype(np.float16) for frames in (313, 344, 32, 313)]


@pytest.fixture
def folder(tmp_path, spectrograms):
    with FeatureWriter(tmp_path / "features", SETTINGS) as writer:
        writer.add(clip("a"), "original", 0, spectrograms[0])
        writer.add(clip("b", "test", "anomaly"), "original", 0, spectrograms[1])
        writer.add(clip("c"), "original", 0, spectrograms[2])
        writer.add(clip("a"), "augmented", 1, spectrograms[3])
        writer.add(clip("d", "calibration"), "original", 0, spectrograms[3])
    return tmp_path / "features"


def test_every_spectrogram_comes_back_whole_or_in_pieces(folder, spectrograms):
    features = Features.open(folder)
    assert len(features) == 5
    assert features.settings == SETTINGS
    assert features.index["clip"].tolist() == ["a", "b", "c", "a", "d"]
    assert features.index["kind"].tolist() == ["original"] * 3 + ["augmented", "original"]
    assert features.index["view"].tolist() == [0, 0, 0, 1, 0]
    assert features.index["frames"].tolist() == [313, 344, 32, 313, 313]
    for row, spectrogram in enumerate([*spectrograms, spectrograms[3]]):
        assert features.read(row).dtype == np.float32
        assert np.array_equal(features.read(row), spectrogram)
        assert np.array_equal(features.read(row, 10, 20), spectrogram[10:30])
        assert np.array_equal(features.read(row, 20, 10_000), spectrogram[20:]), "must not run into the next clip"


def test_pieces_of_originals_come_back_together(folder, spectrograms):
    pieces = Features.open(folder).read_originals(np.array([2, 0, 1, 0]), np.array([27, 308, 0, 3]), 5)
    assert pieces.dtype == np.float32
    expected = [spectrograms[2][27:], spectrograms[0][308:], spectrograms[1][:5], spectrograms[0][3:8]]
    assert np.array_equal(pieces, expected)


def test_the_files_are_plain_memory_mapped_arrays(folder, spectrograms):
    original = np.load(folder / "original.npy", mmap_mode="r")
    assert (original.shape, original.dtype) == ((313 + 344 + 32 + 313, 8), np.float16)
    assert np.array_equal(original[313 : 313 + 344], spectrograms[1])
    assert np.load(folder / "augmented.npy").shape == (313, 8)


def test_mean_and_std_are_of_the_training_normals_originals_and_of_no_calibration_clip(folder, spectrograms):
    values = np.concatenate([spectrograms[0], spectrograms[2]]).astype(np.float64)
    features = Features.open(folder)
    assert features.mean == pytest.approx(values.mean(), abs=1e-9)
    assert features.std == pytest.approx(values.std(), abs=1e-9)
    stats = json.loads((folder / "stats.json").read_text())
    assert stats["settings"]["n_mels"] == 8


def test_without_augmentations_the_store_still_opens(tmp_path, spectrograms):
    with FeatureWriter(tmp_path / "features", SETTINGS) as writer:
        writer.add(clip("a"), "original", 0, spectrograms[0])
    assert np.array_equal(Features.open(tmp_path / "features").read(0), spectrograms[0])
    assert np.load(tmp_path / "features" / "augmented.npy").shape == (0, 8)


def test_a_worker_process_maps_the_files_itself(folder, spectrograms):
    sent = pickle.dumps(Features.open(folder))
    assert len(sent) < 500
    assert np.array_equal(pickle.loads(sent).read(1), spectrograms[1])


def test_a_failure_leaves_the_old_store_and_nothing_else(folder, spectrograms):
    before = (folder / "original.npy").read_bytes()
    with pytest.raises(KeyboardInterrupt), FeatureWriter(folder, SETTINGS) as writer:
        writer.add(clip("z"), "original", 0, spectrograms[0])
        raise KeyboardInterrupt
    assert (folder / "original.npy").read_bytes() == before
    assert [path.name for path in folder.parent.iterdir()] == ["features"]


def test_what_does_not_fit_is_refused(tmp_path, spectrograms):
    out = tmp_path / "features"
    shape = r"a: shape \(313, 7\) is not \(frames, 8\)"
    with pytest.raises(ValueError, match=shape), FeatureWriter(out, SETTINGS) as writer:
        writer.add(clip("a"), "original", 0, spectrograms[0][:, :7])
    with pytest.raises(ValueError, match="no training normals"), FeatureWriter(out, SETTINGS) as writer:
        writer.add(clip("a", "test"), "original", 0, spectrograms[0])
        writer.add(clip("b", "calibration"), "original", 0, spectrograms[0])
    assert list(tmp_path.iterdir()) == []


def librosa_log_mel(waveform, settings):
    mel = librosa.feature.melspectrogram(
        y=waveform, sr=settings.sample_rate, n_fft=settings.n_fft, hop_length=settings.hop_length,
        n_mels=settings.n_mels, fmin=settings.f_min, fmax=settings.f_max, power=2.0, pad_mode="reflect",
    )  # fmt: skip
    return 10 * np.log10(np.maximum(mel, settings.amin)).T  # (frames, n_mels)


@pytest.mark.parametrize("seconds", [1.0, 10.0, 11.0, 3.21])
def test_log_mel_agrees_with_librosa_on_noise(seconds):
    waveform = np.random.default_rng(1).normal(0, 0.1, int(16000 * seconds)).astype(np.float32)
    settings = LogMelSettings()
    ours = log_mel(torch.from_numpy(waveform), settings).numpy()
    assert ours.shape == (settings.frames(len(waveform)), 128)
    assert np.abs(ours - librosa_log_mel(waveform, settings)).max() < 1e-3


def test_log_mel_agrees_with_librosa_on_real_clips_and_rounding_is_as_stated(real_corpus):
    settings = LogMelSettings()
    for machine_type in ("fan", "pump", "slider", "valve"):
        path = sorted((real_corpus / "mimii_dcase" / machine_type / "test").iterdir())[0]
        waveform = read_clip(path)
        ours = log_mel(torch.from_numpy(waveform), settings).numpy()
        assert np.abs(ours - librosa_log_mel(waveform, settings)).max() < 1e-3
        assert np.abs(ours.astype(np.float16) - ours).max() <= 2**-5  # dB, as the module says
