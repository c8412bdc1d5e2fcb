"""Sound files of every format: read as what they are, as far as they go, and with a word about what is wrong."""

import os
import stat
import struct
import tracemalloc
from pathlib import Path

import av
import numpy as np
import pytest
import soundfile

from audio.clips import AUDIO_SUFFIXES, open_sound, read_clip
from audio.headers import read_header

SECONDS = 3


def tone(rate: int = 16000, peak: float = 0.3) -> np.ndarray:
    return (peak * np.sin(2 * np.pi * 440 * np.arange(SECONDS * rate) / rate)).astype(np.float32)


def encode(path: Path, codec: str, rate: int = 16000, bit_rate: int = 64000) -> None:
    """Write three seconds of a tone with FFmpeg's encoder `codec` in the container that the suffix names."""
    with av.open(str(path), "w") as container:
        track = container.add_stream(codec, rate=rate, layout="mono")
        track.bit_rate = bit_rate
        frame = av.AudioFrame.from_ndarray(tone(rate)[None], format="flt", layout="mono")
        frame.sample_rate = rate
        queue = av.AudioFifo()
        for part in av.AudioResampler(format=track.format, layout="mono", rate=rate).resample(frame):
            part.pts = None
            queue.write(part)
        while part := queue.read(track.codec_context.frame_size or 1024, partial=True):
            container.mux(track.encode(part))
        container.mux(track.encode(None))


def pitch(waveform: np.ndarray) -> float:
    return float(np.argmax(np.abs(np.fft.rfft(waveform[8000:24000]))))  # Hz, of a second at 16 kHz


def heard(path: Path, channel: int = 0) -> tuple[np.ndarray, list[str]]:
    with open_sound(path, channel) as sound:
        waveform = np.concatenate(list(sound.blocks()))
    return waveform, sound.warnings


# ------------------------------------------------------------------------------------------------- what can be read


@pytest.mark.parametrize(
    ("suffix", "format_", "subtype"),
    [
        (".wav", "WAV", "PCM_U8"),
        (".wav", "WAVEX", "DOUBLE"),
        (".rf64", "RF64", "PCM_24"),
        (".w64", "W64", "PCM_32"),
        (".aiff", "AIFF", "FLOAT"),
        (".caf", "CAF", "PCM_16"),
        (".au", "AU", "ULAW"),
        (".flac", "FLAC", "PCM_16"),
        (".ogg", "OGG", "VORBIS"),
        (".opus", "OGG", "OPUS"),
        (".mp3", "MP3", "MPEG_LAYER_III"),
    ],
)
def test_what_libsndfile_reads(tmp_path, suffix, format_, subtype):
    assert suffix in AUDIO_SUFFIXES
    path = tmp_path / f"a{suffix}"
    soundfile.write(path, tone(), 16000, format=format_, subtype=subtype)
    waveform, warnings = heard(path)
    assert (len(waveform), warnings) == (SECONDS * 16000, [])
    assert pitch(waveform) == 440
    assert np.abs(waveform).max() == pytest.approx(0.3, abs=0.1)
    assert read_header(path).seconds == SECONDS


@pytest.mark.parametrize(
    ("suffix", "codec", "rate", "bit_rate"),
    [
        (".m4a", "aac", 16000, 64000),
        (".aac", "aac", 44100, 64000),
        (".mp4", "aac", 48000, 64000),
        (".webm", "libopus", 48000, 64000),
        (".wma", "wmav2", 16000, 64000),
        (".amr", "libopencore_amrnb", 8000, 12200),
        (".3gp", "libopencore_amrnb", 8000, 12200),
        (".mka", "flac", 16000, 64000),
    ],
)
def test_what_ffmpeg_reads(tmp_path, suffix, codec, rate, bit_rate):
    assert suffix in AUDIO_SUFFIXES
    path = tmp_path / f"a{suffix}"
    encode(path, codec, rate, bit_rate)
    waveform, warnings = heard(path)
    assert len(waveform) == pytest.approx(SECONDS * 16000, abs=400)
    ends = [np.square(part).mean() for part in (waveform[:160], waveform[-160:])]
    assert min(ends) > 0.01 * np.square(waveform).mean(), "the codec's padding is no part of the sound"
    assert warnings == []
    assert pitch(waveform) == 440
    assert read_header(path).seconds == pytest.approx(SECONDS, abs=0.2)


def test_the_samples_are_the_same_by_either_library(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000, subtype="PCM_24")
    encode(tmp_path / "a.mka", "flac")  # 16 bit
    assert read_clip(tmp_path / "a.mka") == pytest.approx(read_clip(tmp_path / "a.wav"), abs=2**-15)


def test_a_file_is_known_by_its_content_not_by_its_name(tmp_path):
    encode(tmp_path / "a.m4a", "aac")
    (tmp_path / "a.m4a").rename(tmp_path / "upload")
    assert pitch(read_clip(tmp_path / "upload")) == 440


def test_a_playlist_opens_no_other_file(tmp_path):
    soundfile.write(tmp_path / "secret.wav", tone(), 16000)
    (tmp_path / "a.m4a").write_text("#EXTM3U\n#EXT-X-TARGETDURATION:3\n#EXTINF:3,\nsecret.wav\n#EXT-X-ENDLIST\n")
    (tmp_path / "b.m4a").write_text(f"ffconcat version 1.0\nfile '{tmp_path / 'secret.wav'}'\n")
    for name in ("a.m4a", "b.m4a"):
        with pytest.raises(ValueError, match=rf"{name}: cannot be decoded"):
            read_clip(tmp_path / name)


# ------------------------------------------------------------------------------- headers that are wrong, files cut off


@pytest.mark.parametrize("stated", [0, 8000, 48000 - 2])
@pytest.mark.parametrize("format_", ["WAV", "WAVEX"])
def test_a_wav_whose_header_states_less_than_there_is_is_read_to_its_end(tmp_path, format_, stated):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16000, format=format_, subtype="PCM_16")
    content = bytearray(path.read_bytes())
    place = content.index(b"data") + 4
    content[place : place + 4] = struct.pack("<I", stated)
    path.write_bytes(content)
    waveform, warnings = heard(path)
    assert len(waveform) == SECONDS * 16000
    assert warnings == ["the header states a wrong length: read to the end of the file"]
    assert read_header(path).seconds == pytest.approx(SECONDS, abs=0.1)


def test_chunks_behind_the_samples_are_no_sound(tmp_path):
    path = tmp_path / "a.wav"
    soundfile.write(path, tone(), 16000, subtype="PCM_16")
    path.write_bytes(path.read_bytes() + b"LIST" + struct.pack("<I", 40000) + bytes(40000))
    waveform, warnings = heard(path)
    assert (len(waveform), warnings) == (SECONDS * 16000, [])


@pytest.mark.parametrize("format_", ["WAV", "WAVEX", "RF64", "W64", "AIFF", "AU", "FLAC", "OGG", "MP3"])
def test_a_truncated_file_is_read_as_far_as_it_goes(tmp_path, format_):
    path = tmp_path / "a"
    noise = np.random.default_rng(0).uniform(-0.3, 0.3, 20 * 16000)  # longer than a block
    soundfile.write(path, noise, 16000, format=format_)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])
    waveform, [warning] = heard(path)
    assert 17 < len(waveform) / 16000 < 19
    assert warning.startswith("truncated, ") and warning.endswith(": read as far as it goes")
    path.write_bytes(content[: len(content) // 50])
    with pytest.raises(ValueError, match=r"/a: (truncated, .+: 0.*\d s of sound|cannot be decoded)"):
        heard(path)


@pytest.mark.parametrize(("suffix", "codec", "rate"), [(".webm", "libopus", 48000), (".aac", "aac", 16000)])
def test_a_truncated_file_that_ffmpeg_reads(tmp_path, suffix, codec, rate):
    path = tmp_path / f"a{suffix}"
    encode(path, codec, rate)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    waveform, [warning] = heard(path)
    assert 1 < len(waveform) / 16000 < 2
    assert warning.startswith("truncated, it breaks off after 1.")


def test_an_mp4_without_its_index_is_refused(tmp_path):
    encode(tmp_path / "a.m4a", "aac")
    content = (tmp_path / "a.m4a").read_bytes()
    (tmp_path / "a.m4a").write_bytes(content[: len(content) // 2])
    with pytest.raises(ValueError, match=r"a\.m4a: cannot be decoded"):
        read_clip(tmp_path / "a.m4a")


# ------------------------------------------------------------------------------------------- what is said of a sound


def test_a_float_file_may_go_beyond_full_scale(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(peak=1.3), 16000, subtype="FLOAT")
    waveform, warnings = heard(tmp_path / "a.wav")
    assert np.abs(waveform).max() == pytest.approx(1.3, abs=0.01)
    assert warnings == ["peak of 1.3 beyond full scale, 1"]


@pytest.mark.parametrize("block", [2**20, 1000, 7])
def test_the_share_of_clipped_samples_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr("audio.decoding.BLOCK_SAMPLES", block)
    clean, clipped = tone()[:9999], np.clip(tone(peak=3.0), -1, 1)[:6001]
    soundfile.write(tmp_path / "clean.wav", tone(peak=1.0), 16000, subtype="PCM_16")
    soundfile.write(tmp_path / "clipped.wav", np.concatenate([clean, clipped]), 16000, subtype="PCM_16")
    assert heard(tmp_path / "clean.wav")[1] == []  # a peak at full scale is not clipped
    with open_sound(tmp_path / "clipped.wav") as sound:
        list(sound.blocks())
    assert sound.clipped == pytest.approx((np.abs(clipped) >= 1).sum() / 16000, abs=2e-4)
    assert sound.warnings == [f"{100 * sound.clipped:.3g} % of the samples are clipped"]


def test_a_silent_channel_beside_one_with_sound(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.stack([0 * tone(), tone(), tone()], axis=1), 16000)
    with pytest.raises(ValueError, match=r"a\.wav: channel 0 is silent, there is sound in channel 1, 2$"):
        read_clip(tmp_path / "a.wav")
    assert pitch(read_clip(tmp_path / "a.wav", 1)) == 440
    soundfile.write(tmp_path / "silence.wav", np.zeros((16000, 2)), 16000)
    assert not read_clip(tmp_path / "silence.wav").any()  # for the caller to refuse


# --------------------------------------------------------------------------------------------- what is never opened


def test_only_regular_files_are_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe.wav")
    (tmp_path / "folder.wav").mkdir()
    for name, reason in (("pipe.wav", "a pipe"), ("folder.wav", "a folder")):
        with pytest.raises(ValueError, match=rf"{name}: {reason}, not a file of sound"):
            read_clip(tmp_path / name)
    with pytest.raises(ValueError, match="/dev/zero: a device or socket"):
        read_clip(Path("/dev/zero"))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_that_may_not_be_read(tmp_path):
    soundfile.write(tmp_path / "a.wav", tone(), 16000)
    (tmp_path / "a.wav").chmod(stat.S_IWUSR)
    with pytest.raises(ValueError, match=r"a\.wav: may not be read \(permission denied\)"):
        read_clip(tmp_path / "a.wav")


# ----------------------------------------------------------------------------------------------------------- limits


def test_a_recording_longer_than_allowed_is_refused_by_its_header_and_while_it_is_read(tmp_path):
    path = tmp_path / "a.flac"
    soundfile.write(path, tone(), 16000)
    with (
        pytest.raises(ValueError, match=r"a\.flac: longer than 2 s, the most that is allowed"),
        open_sound(path, longest=2),
    ):
        pass
    content = bytearray(path.read_bytes())
    content[21] &= 0xF0  # the number of samples, 36 bits: unknown, as a stream's
    content[22:26] = bytes(4)
    path.write_bytes(content)
    with open_sound(path, longest=2) as sound, pytest.raises(ValueError, match="longer than"):
        assert sound.seconds is None
        list(sound.blocks())
    assert len(read_clip(path)) == SECONDS * 16000


def test_hours_in_a_small_file_take_little_memory(tmp_path):
    path = tmp_path / "a.flac"
    with soundfile.SoundFile(path, "w", 1000, 1, subtype="PCM_16") as file:
        for _ in range(10):
            file.write(np.zeros(360_000, np.int16))  # six minutes of silence
    assert path.stat().st_size < 20_000
    tracemalloc.start()
    with open_sound(path) as sound:
        samples = sum(map(len, sound.blocks()))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert samples == 3600 * 16000  # 230 MB at once
    assert peak < 10_000_000


# ------------------------------------------------------------------------------------------------- from the field


@pytest.mark.parametrize("suffix", ["m4a", "aac", "webm", "mp3", "ogg", "opus"])
def test_field_recordings_in_other_wrappings(field_files, suffix):
    assert_alike(field_files / f"healthy.{suffix}", field_files / "UPPER.WAV")


def test_the_sound_of_a_field_video(field_files):
    assert_alike(field_files / "healthy_video.mp4", field_files / "UPPER.WAV")


def assert_alike(path: Path, reference: Path) -> None:
    """The same sound, but for what a codec does to it: the levels of its octaves differ by less than 2 dB."""
    levels = []
    for each in (path, reference):
        power = np.abs(np.fft.rfft(read_clip(each)[:160000])) ** 2
        levels.append([10 * np.log10(power[low : 2 * low].sum()) for low in (2500, 5000, 10000, 20000)])
    assert levels[0] == pytest.approx(levels[1], abs=2)


@pytest.mark.parametrize(
    ("name", "seconds", "warning"),
    [
        ("header_says_zero.wav", 10, "the header states a wrong length: read to the end of the file"),
        ("cut_half.wav", 5, "truncated, 159961 of 320000 bytes are there: read as far as it goes"),
        ("float_beyond_full_scale.wav", 10, "peak of 1.3 beyond full scale, 1"),
    ],
)
def test_field_recordings_with_a_word_about_them(field_files, name, seconds, warning):
    waveform, warnings = heard(field_files / name)
    assert len(waveform) / 16000 == pytest.approx(seconds, abs=0.01)
    assert warnings == [warning]


def test_the_field_recording_whose_left_channel_is_silent(field_files):
    with pytest.raises(ValueError, match="channel 0 is silent, there is sound in channel 1"):
        read_clip(field_files / "left_channel_silent.wav")
    right, _ = heard(field_files / "left_channel_silent.wav", 1)
    assert len(right) == 160000
