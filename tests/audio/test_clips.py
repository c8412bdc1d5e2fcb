"""Reading any recording, writing clips, and what is refused."""

import numpy as np
import pytest
import soundfile

from audio import decoding
from audio.clips import digest, read_blocks, read_clip, write_clip


@pytest.fixture
def rng():
    return np.random.default_rng(0)


def noise(rng, samples=16000, peak=0.5):
    return rng.uniform(-peak, peak, samples).astype(np.float32)


@pytest.mark.parametrize("bits", [16, 24])
def test_what_is_written_is_read_back_to_the_last_bit(tmp_path, rng, bits):
    full = 2 ** (bits - 1)
    waveform = (rng.integers(-full, full, 16000) / full).astype(np.float32)
    write_clip(tmp_path / "clip.flac", waveform, bits=bits)
    assert np.array_equal(read_clip(tmp_path / "clip.flac"), waveform)
    info = soundfile.info(tmp_path / "clip.flac")
    assert (info.format, info.subtype, info.samplerate, info.channels) == ("FLAC", f"PCM_{bits}", 16000, 1)


def test_beyond_full_scale_is_clipped_and_does_not_wrap(tmp_path):
    write_clip(tmp_path / "clip.flac", np.array([1.5, -1.5, 1.0] * 100, np.float32))
    assert read_clip(tmp_path / "clip.flac")[:3] == pytest.approx([1, -1, 1], abs=1e-4)


def test_a_failed_write_leaves_the_old_clip_and_no_other_file(tmp_path, rng):
    old = noise(rng)
    write_clip(tmp_path / "clip.flac", old, bits=24)
    before = read_clip(tmp_path / "clip.flac")
    with pytest.raises(soundfile.LibsndfileError):
        write_clip(tmp_path / "clip.flac", old, sample_rate=10**9)
    assert np.array_equal(read_clip(tmp_path / "clip.flac"), before)
    assert [path.name for path in tmp_path.iterdir()] == ["clip.flac"]
    with pytest.raises(ValueError, match="bits is 20, allowed are 16 and 24"):
        write_clip(tmp_path / "clip.flac", old, bits=20)


@pytest.mark.parametrize(
    ("format_", "subtype", "step"),
    [
        ("WAV", "PCM_U8", 2**-7),
        ("WAV", "PCM_16", 2**-15),
        ("WAV", "PCM_24", 2**-23),
        ("WAV", "PCM_32", 2**-23),
        ("WAV", "FLOAT", 2**-24),
        ("WAV", "DOUBLE", 2**-24),
        ("WAVEX", "PCM_16", 2**-15),
        ("FLAC", "PCM_S8", 2**-7),
        ("FLAC", "PCM_16", 2**-15),
        ("FLAC", "PCM_24", 2**-23),
    ],
)
def test_any_bit_depth_has_the_same_full_scale(tmp_path, rng, format_, subtype, step):
    waveform = noise(rng)
    soundfile.write(tmp_path / "clip", waveform, 16000, format=format_, subtype=subtype)
    assert read_clip(tmp_path / "clip") == pytest.approx(waveform, abs=step)


def test_one_channel_is_taken_not_their_mean(tmp_path, rng):
    channels = np.stack([noise(rng) for _ in range(8)], axis=1)  # (samples, 8)
    soundfile.write(tmp_path / "clip.wav", channels, 16000, format="WAVEX", subtype="FLOAT")
    for channel in range(8):
        assert np.array_equal(read_clip(tmp_path / "clip.wav", channel), channels[:, channel])
    with pytest.raises(ValueError, match=r"clip\.wav: no channel 8, it has 8 \(counted from 0\)"):
        read_clip(tmp_path / "clip.wav", 8)


@pytest.mark.parametrize("rate", [8000, 22050, 44100, 48000, 96000])
def test_resampling_keeps_length_level_and_frequency(tmp_path, rate):
    seconds = 2.0
    time = np.arange(int(seconds * rate)) / rate
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 1000 * time), rate, subtype="PCM_24")
    waveform = read_clip(tmp_path / "tone.wav")
    assert waveform.dtype == np.float32
    assert len(waveform) == pytest.approx(32000, abs=1)
    expected = 0.5 * np.sin(2 * np.pi * 1000 * np.arange(len(waveform)) / 16000)
    assert waveform[800:-800] == pytest.approx(expected[800:-800], abs=1e-3)


def test_nothing_above_the_new_nyquist_folds_back(tmp_path):
    time = np.arange(96000) / 48000
    soundfile.write(tmp_path / "tone.wav", 0.5 * np.sin(2 * np.pi * 11000 * time), 48000, subtype="PCM_24")
    assert np.abs(read_clip(tmp_path / "tone.wav")[800:-800]).max() < 1e-4


@pytest.mark.parametrize("rate", [16000, 44100])
def test_blocks_are_the_clip_whatever_their_size(tmp_path, rng, rate, monkeypatch):
    soundfile.write(tmp_path / "clip.wav", noise(rng, 3 * rate), rate, subtype="PCM_24")
    whole = read_clip(tmp_path / "clip.wav")
    monkeypatch.setattr(decoding, "BLOCK_SAMPLES", 1000)
    blocks = list(read_blocks(tmp_path / "clip.wav"))
    assert len(blocks) >= 3 * rate // 1000
    assert np.concatenate(blocks) == pytest.approx(whole, abs=1e-6)


def test_what_cannot_be_decoded_is_refused(tmp_path, rng):
    path = tmp_path / "clip.flac"
    soundfile.write(path, noise(rng), 16000)
    damaged = bytearray(path.read_bytes())
    damaged[len(damaged) // 2 : len(damaged) // 2 + 100] = bytes(100)
    for content in (damaged, b"not sound"):
        path.write_bytes(content)
        with pytest.raises(ValueError, match=r"clip\.flac: cannot be decoded \(.+\)"):
            read_clip(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match=r"clip\.flac: the file is empty"):
        read_clip(path)
    with pytest.raises(ValueError, match=r"nothing\.wav: no such file"):
        read_clip(tmp_path / "nothing.wav")
    with pytest.raises(ValueError, match=r"headless\.raw: a \.raw file does not say its sample rate"):
        (tmp_path / "headless.raw").write_bytes(bytes(1000))
        read_clip(tmp_path / "headless.raw")


@pytest.mark.parametrize("length", [0x7FFFF024, 0xFFFFFFFF])
def test_a_wav_whose_recorder_could_not_know_its_length_is_whole(tmp_path, rng, length):
    path = tmp_path / "stream.wav"
    soundfile.write(path, noise(rng), 16000, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = length.to_bytes(4, "little")
    path.write_bytes(content)
    assert len(read_clip(path)) == 16000


def test_samples_that_are_no_sound_are_refused(tmp_path, rng):
    for value, reason in ((np.nan, "not finite"), (np.inf, "not finite"), (300, "peak of 300, not scaled to 1")):
        waveform = noise(rng)
        waveform[12345] = value
        soundfile.write(tmp_path / "clip.wav", waveform, 16000, subtype="FLOAT")
        with pytest.raises(ValueError, match=f"clip.wav: .*{reason}"):
            read_clip(tmp_path / "clip.wav")


def test_the_digest_is_of_the_samples_not_of_the_file(tmp_path, rng):
    samples = rng.integers(-(2**15), 2**15, 16000, dtype=np.int16)
    soundfile.write(tmp_path / "clip.wav", samples, 16000)
    soundfile.write(tmp_path / "clip.flac", samples, 16000)
    one = digest(read_clip(tmp_path / "clip.wav"))
    assert digest(read_clip(tmp_path / "clip.flac")) == one
    assert digest(read_clip(tmp_path / "clip.wav") + np.float32(2**-15)) != one
