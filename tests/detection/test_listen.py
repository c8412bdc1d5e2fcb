"""Live sound: from a pipe at real-time pace, from an address, from a microphone that is unplugged."""

import io
import os
import sys
import threading
import time
from contextlib import contextmanager
from datetime import datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import SimpleNamespace

import numpy as np
import pytest
import soundfile

from audio.clips import read_clip
from detection import listen as listening
from detection.judging import Judge, Judgement
from detection.listen import Address, LiveJudge, Microphone, Pipe, listen, microphones
from detection.sinks.interface import Sinks
from tests.detection.test_sinks import until
from tests.detection.verdicts import judged

pytestmark = pytest.mark.filterwarnings("error::pytest.PytestUnhandledThreadExceptionWarning")

RATE = 8000


class Notes:
    """A sink that keeps what it gets."""

    name = "notes"

    def __init__(self):
        self.notes = []

    def put(self, note):
        self.notes.append(note)

    def close(self):
        pass


class Listener:
    """Listens in a thread, and keeps the windows that it was given to judge."""

    def __init__(self, source, window=1.0, hop=0.5, channel=0, slow=0.0):
        self.windows, self.notes, self.stop, self._slow = [], Notes(), threading.Event(), slow
        arguments = (source, self.judge, Sinks([self.notes]), self.stop, window, hop, channel, (0.02, 0.1))
        self.thread = threading.Thread(target=listen, args=arguments)

    def judge(self, waveform, sample_rate, name):
        self.windows.append((waveform, sample_rate, name))
        time.sleep(self._slow)
        return judged(name) if np.ptp(waveform) else Judgement(name, error="the recording is silent")

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.stop.set()
        self.join()

    def join(self):
        self.thread.join(60)
        assert not self.thread.is_alive()


def sound(seconds, channels=1, seed=0):
    """Noise that 16 bit hold exactly, (samples, channels)."""
    samples = np.random.default_rng(seed).integers(-8000, 8000, (int(seconds * RATE), channels))
    return (samples / 32768).astype(np.float32)


def pcm(samples, dtype="<i2"):
    full_scale = 1 if dtype == "<f4" else -np.iinfo(dtype).min
    return (samples.astype(float) * full_scale).astype(dtype).tobytes()


def same(windows, samples, hop, channel=0):
    """Whether the windows are those of the sound, from its beginning."""
    step = int(hop * RATE)
    cut = [samples[number * step :][: len(each[0]), channel] for number, each in enumerate(windows)]
    return all(np.array_equal(window, part) for (window, _, _), part in zip(windows, cut, strict=True))


# --- pipes


def test_a_pipe_at_real_time_pace_is_judged_as_it_comes():
    reading, writing = os.pipe()
    samples = sound(2.5)
    begun = datetime.now().astimezone()
    with Listener(Pipe(reading, RATE), hop=0.25) as listener:
        for start in range(0, len(samples), 777):  # pieces that share no edge with samples' or windows'
            os.write(writing, pcm(samples[start : start + 777]))
            time.sleep(777 / RATE)
            if start > 1.7 * RATE:
                assert len(listener.windows) >= 2, "judged while it comes"
        os.close(writing)
        listener.join()
    os.close(reading)
    assert len(listener.windows) == 7 and same(listener.windows, samples, 0.25)
    begins = [datetime.fromisoformat(each.json["begin"]) for each in listener.notes.notes]
    assert begins == sorted(begins) and -0.2 < (begins[0] - begun).total_seconds() < 1
    first = listener.notes.notes[0]
    assert (first.json["file"], first.json["overruns"], first.row["verdict"]) == ("pipe", 0, "normal")


@pytest.mark.parametrize(("name", "dtype"), [("s16le", "<i2"), ("s32le", "<i4"), ("f32le", "<f4")])
def test_formats_and_channels(tmp_path, name, dtype):
    samples = sound(1.2, channels=3)
    (tmp_path / "pcm").write_bytes(pcm(samples, dtype) + b"x")  # and a byte that is no sample
    with (tmp_path / "pcm").open("rb") as file, Listener(Pipe(file.fileno(), RATE, name, 3), channel=2) as listener:
        listener.join()
    assert len(listener.windows) == 1 and same(listener.windows, samples, 0.5, channel=2)


def test_each_channel_is_a_sensor_of_its_own(tmp_path):
    samples = sound(1.2, channels=2)
    samples[:, 1] = 0
    (tmp_path / "pcm").write_bytes(pcm(samples))
    with (
        (tmp_path / "pcm").open("rb") as file,
        Listener(Pipe(file.fileno(), RATE, channels=2), channel=None) as listener,
    ):
        listener.join()
    near, far = listener.notes.notes
    assert (near.outcome, near.sensor, far.outcome, far.sensor) == ("normal", "channel_0", "error", "channel_1")
    assert near.json["file"] == "pipe" and (near.row["channel"], far.json["channel"]) == (0, 1)
    assert [name for _, _, name in listener.windows] == ["pipe, channel 0", "pipe, channel 1"]


def test_a_channel_that_is_not_there_is_said_once(tmp_path, caplog):
    (tmp_path / "pcm").write_bytes(pcm(sound(3)))
    with (tmp_path / "pcm").open("rb") as file, Listener(Pipe(file.fileno(), RATE), channel=1) as listener:
        listener.join()
    assert [each.outcome for each in listener.notes.notes] == ["error"] * 5
    assert [record.message for record in caplog.records] == [
        "pipe: not judged: no channel 1, it has 1 (counted from 0)"
    ]


def test_a_named_pipe_is_taken_up_again_and_no_window_goes_across(tmp_path, caplog):
    os.mkfifo(tmp_path / "pipe")
    first, second = sound(1.7), sound(1.2, seed=1)
    with Listener(Pipe(tmp_path / "pipe", RATE)) as listener:
        (tmp_path / "pipe").write_bytes(pcm(first))
        until(lambda: "has ended" in caplog.text)
        assert len(listener.windows) == 2
        (tmp_path / "pipe").write_bytes(pcm(second))
        until(lambda: len(listener.windows) == 3)
    assert np.array_equal(listener.windows[2][0], second[:RATE, 0])
    assert [record.message for record in caplog.records][:2] == [
        f"pipe {tmp_path / 'pipe'}: the sound has ended; it is waited for",
        f"pipe {tmp_path / 'pipe'}: works again",
    ]


def test_a_pipe_that_stalls_is_said_once_and_goes_on(monkeypatch, caplog):
    monkeypatch.setattr(listening, "STALLED", 0.5)
    reading, writing = os.pipe()
    with Listener(Pipe(reading, RATE)) as listener:
        os.write(writing, pcm(sound(0.3)))
        until(lambda: "pipe: no sound for 0.5 s; it is waited for" in caplog.text)
        time.sleep(0.7)
        os.write(writing, pcm(sound(1.1)))
        until(lambda: listener.windows)
        os.close(writing)
        listener.join()
    os.close(reading)
    assert caplog.text.count("no sound") == 1 and "pipe: works again" in caplog.text


def test_a_pipe_that_is_faster_than_judging_waits_and_loses_nothing(tmp_path, monkeypatch):
    monkeypatch.setattr(listening, "BACKLOG", 1.0)
    samples = sound(12)
    (tmp_path / "pcm").write_bytes(pcm(samples))
    with (tmp_path / "pcm").open("rb") as file, Listener(Pipe(file.fileno(), RATE), slow=0.03) as listener:
        until(lambda: listener.windows)
        assert os.lseek(file.fileno(), 0, os.SEEK_CUR) < 2 * len(samples), "it is not all in memory"
        listener.join()
    assert len(listener.windows) == 23 and same(listener.windows, samples, 0.5)
    assert listener.notes.notes[-1].json["overruns"] == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 10), "sample rate of 10 Hz, allowed are 1000 to 1000000"),
        ((0, RATE, "mp3"), "format 'mp3' is unknown: s16le, s32le, f32le"),
        ((0, RATE, "s16le", 0), "0 channels: at least one is needed"),
    ],
)
def test_what_cannot_be_a_pipe_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        Pipe(*arguments)


def test_a_file_is_no_named_pipe(tmp_path):
    (tmp_path / "a.raw").touch()
    with pytest.raises(ValueError, match="is not a named pipe"):
        Pipe(tmp_path / "a.raw", RATE)


@pytest.mark.parametrize(("window", "hop"), [(0.5, 1), (1, 0), (float("nan"), 1), (1, float("inf"))])
def test_windows_that_cannot_be_are_refused(window, hop):
    with pytest.raises(ValueError, match="the hop is above 0"):
        listen(Pipe(0, RATE), None, Sinks(), threading.Event(), window, hop)


# --- addresses


@contextmanager
def server(*bodies):
    """An HTTP server that answers with these bodies one after the other, then with 404; it may cut the last bytes."""
    waiting = list(bodies)

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if not waiting:
                self.send_error(404)
                return
            body = waiting.pop(0)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as found:
        threading.Thread(target=found.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{found.server_port}/sound?token=geheim"
        found.shutdown()


def encoded(samples, form):
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format=form)
    return file.getvalue()


def test_a_stream_is_judged_and_connected_to_again(caplog):
    first, second = sound(1.7, channels=2), sound(1.2, channels=2, seed=1)
    with (
        server(encoded(first, "WAV"), encoded(second, "WAV")) as url,
        Listener(Address(url), channel=1) as listener,
    ):
        until(lambda: len(listener.windows) == 3, 15)
    assert same(listener.windows[:2], first, 0.5, channel=1)
    assert np.array_equal(listener.windows[2][0], second[:RATE, 1])
    assert {rate for _, rate, _ in listener.windows} == {RATE}
    name = url.partition("?")[0]
    assert [record.message for record in caplog.records][:2] == [
        f"{name}: the sound has ended; it is waited for",
        f"{name}: works again",
    ]
    assert "geheim" not in caplog.text and "geheim" not in listener.notes.notes[0].text()


def test_a_stream_in_ogg(caplog):
    with server(encoded(sound(2), "OGG")) as url, Listener(Address(url)) as listener:
        until(lambda: len(listener.windows) == 3)
        until(lambda: "has ended" in caplog.text)
    assert np.corrcoef(listener.windows[0][0], sound(2)[:RATE, 0])[0, 1] > 0.8


@pytest.mark.parametrize("url", ["file:///etc/passwd", "/dev/null", "ftp://a/b", "http://", "concat:a|b"])
def test_other_addresses_are_refused(url):
    with pytest.raises(ValueError, match="begins with one of http://, https://, rtsp://"):
        Address(url)


# --- microphones: the sound card is played at the edge of the library


class PortAudio:
    """What of the module sounddevice is used, with one microphone that can be unplugged."""

    class PortAudioError(Exception):
        pass

    def __init__(self):
        self.plugged, self.streams, self.listed = True, [], 0
        self.devices = [
            {"name": "HDMI", "max_input_channels": 0, "default_samplerate": 48000.0},
            {"name": "USB", "max_input_channels": 2, "default_samplerate": float(RATE)},
        ]

    def _terminate(self):
        pass

    def _initialize(self):
        self.listed += 1

    def query_devices(self, device=None, kind=None):
        if kind is None:
            return self.devices
        if not self.plugged or device not in (None, "USB", 1):
            raise ValueError(f"No input device matching {device!r}")
        return self.devices[1]

    @contextmanager
    def _open(self, callback, channels, **_):
        self.streams.append(SimpleNamespace(hear=callback, channels=channels))
        try:
            yield
        finally:
            self.streams.pop()

    def InputStream(self, device, channels, samplerate, dtype, callback):  # noqa: N802
        if not self.plugged:
            raise self.PortAudioError("Device unavailable [PaErrorCode -9985]")
        assert (samplerate, dtype) == (RATE, "float32")
        return self._open(callback, channels)

    def hear(self, samples, overflow=False):
        until(lambda: self.streams)[-1].hear(samples, len(samples), None, SimpleNamespace(input_overflow=overflow))


@pytest.fixture
def card(monkeypatch):
    found = PortAudio()
    monkeypatch.setitem(sys.modules, "sounddevice", found)
    return found


def test_a_microphone_is_listened_to(card):
    samples = sound(2, channels=2)
    with Listener(Microphone("USB", channels=2), channel=1) as listener:
        for start in range(0, len(samples), 512):
            card.hear(samples[start : start + 512])
        until(lambda: len(listener.windows) == 3)
    assert same(listener.windows, samples, 0.5, channel=1)
    assert listener.notes.notes[0].json["file"] == "microphone USB"
    assert microphones() == [f"1: USB, 2 channels, {RATE} Hz"]


def test_overruns_are_counted_and_said(card, caplog):
    with Listener(Microphone()) as listener:
        for number in range(10):
            card.hear(sound(0.2), overflow=number in (3, 4))
        until(lambda: len(listener.windows) == 3)
    assert listener.notes.notes[-1].json["overruns"] == 2
    assert [record.message for record in caplog.records] == ["microphone USB: 1 overruns, sound was lost"]


def test_sound_that_a_slow_judge_cannot_take_is_left_out_counted_and_said(card, caplog, monkeypatch):
    monkeypatch.setattr(listening, "BACKLOG", 1.0)
    with Listener(Microphone(), slow=0.5) as listener:
        for number in range(40):
            card.hear(sound(0.2, seed=number))
        until(lambda: len(listener.windows) == 3)
    assert "judging is too slow" in caplog.text and caplog.text.count("too slow") == 1
    assert listener.notes.notes[-1].json["overruns"] >= 1
    whole = np.concatenate([sound(0.2, seed=number) for number in range(40)])[:, 0]
    heard = listener.windows[-1][0]
    starts = np.flatnonzero(whole[: len(whole) - RATE + 1] == heard[0])
    assert any(np.array_equal(heard, whole[start : start + RATE]) for start in starts), "it is in one piece"


def test_a_microphone_that_is_unplugged_is_said_once_and_found_again(card, caplog, monkeypatch):
    monkeypatch.setattr(listening, "STALLED", 0.3)
    with Listener(Microphone("USB")) as listener:
        card.hear(sound(1.2))
        until(lambda: len(listener.windows) == 1)
        card.plugged = False
        until(lambda: "no sound for 0.3 s" in caplog.text)
        before = card.listed
        time.sleep(0.4)
        assert card.listed > before, "PortAudio is asked anew for its devices"
        card.plugged = True
        until(lambda: card.streams)
        card.hear(sound(1.2))
        until(lambda: len(listener.windows) == 2)
    messages = [record.message for record in caplog.records]
    assert messages[:2] == [
        "microphone USB: no sound for 0.3 s; it is waited for",
        "microphone USB: works again",
    ]


def test_no_microphone_and_no_portaudio_are_one_line(card, monkeypatch):
    with pytest.raises(ValueError, match="no microphone 'Bluetooth'"):
        Microphone("Bluetooth")
    monkeypatch.setitem(sys.modules, "sounddevice", None)
    with pytest.raises(ValueError, match="needs sounddevice and PortAudio"):
        Microphone()


# --- with a detector


def test_a_window_gets_the_verdict_that_its_sound_gets(root, detector):
    clip = read_clip(root / "data" / "raw" / "fan" / "test" / "anomaly_id_00_00000000.flac")
    live = LiveJudge(Judge(detector, "fan", "id_00"))
    assert live(clip, 16000, "hall").verdict == detector.score(clip, 16000, "fan", "id_00")
    assert "silent" in live(np.zeros(16000, np.float32), 16000, "hall").error
    window = np.resize(clip, round(live.window * 16000))
    assert len(live(window, 16000, "hall").verdict.windows) == 1
    with pytest.raises(ValueError, match="which machine is it"):
        LiveJudge(Judge(detector))


def test_each_channel_of_a_recording_is_judged(root, detector, tmp_path):
    clip = read_clip(root / "data" / "raw" / "fan" / "test" / "anomaly_id_00_00000000.flac")
    soundfile.write(tmp_path / "two.wav", np.stack([clip, 0 * clip], 1), 16000, subtype="PCM_16")
    judge = Judge(detector, "fan", "id_00")
    near, far = judge.each_channel(tmp_path / "two.wav")
    assert near.verdict.score == pytest.approx(detector.score(clip, 16000, "fan", "id_00").score, abs=1e-4)
    assert far.verdict is None and far.file == f"{tmp_path / 'two.wav'}, channel 1" and "silent" in far.error
    (bad,) = judge.each_channel(tmp_path / "nowhere.wav")
    assert bad.error == "no such file"
