"""Listening: live sound is judged window by window as it comes, until it is stopped.

The sound comes from a microphone, from a pipe of raw samples or from an HTTP or RTSP address. A thread takes it in
while the last window is judged. A source that fails or stalls is said once and tried again until it comes back.
"""

import logging
import os
import queue
import select
import stat
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import urlsplit

import numpy as np

from audio.clips import RATES, SHORTEST_SECONDS
from detection.judging import Judge, Judgement
from detection.sinks.interface import Outage, Sinks, note

LONGEST = 3600  # s, of a window and a hop
BACKLOG = 30.0  # s of sound that may wait to be judged, beside a window
STALLED = 10.0  # s without sound after which a source counts as failed
DELAYS = (1.0, 30.0)  # s: first and longest time between two attempts to get sound
SAY_EVERY = 60.0  # s between two lines about overruns
SCHEMES = ("http", "https", "rtsp", "rtsps")
FORMATS = {"s16le": "<i2", "s32le": "<i4", "f32le": "<f4"}  # of raw samples, by FFmpeg's names

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Piece:
    """Some sound as it comes."""

    samples: np.ndarray  # (samples, channels), float32, full scale 1
    sample_rate: int  # Hz
    overrun: bool = False  # sound was lost before it


class Source(Protocol):
    """Where sound comes from."""

    name: str  # in the log and in verdicts
    live: bool  # it does not wait: sound that is not taken in time is lost
    ends: bool  # when its sound ends it will not come back

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        """Open the source anew and yield its sound until it ends or `stop` is set. Raises OSError if it fails."""


# --------------------------------------------------------------------------------------------------------- sources


class Microphone:
    """An input of the sound card, by PortAudio; `device` is a number or a part of a name, None the default."""

    live, ends = True, False

    def __init__(self, device: int | str | None = None, sample_rate: int | None = None, channels: int = 1):
        """`sample_rate` None is the device's own. Raises ValueError if there is no such input."""
        self._sounddevice = _portaudio()
        self._device, self._sample_rate, self._channels, self._opened = device, sample_rate, channels, False
        self.name = f"microphone {self._information()['name']}"

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        sounds: queue.SimpleQueue[tuple[np.ndarray, bool]] = queue.SimpleQueue()

        def heard(samples: np.ndarray, _frames: int, _time: Any, status: Any) -> None:
            sounds.put((samples.copy(), bool(status.input_overflow)))

        try:
            sample_rate = self._sample_rate or int(self._information()["default_samplerate"])
            stream = self._sounddevice.InputStream(
                device=self._device, channels=self._channels, samplerate=sample_rate, dtype="float32", callback=heard
            )
            with stream:
                for samples, overrun in _until_stalled(lambda: sounds.get(timeout=0.2), stop):
                    yield Piece(samples, sample_rate, overrun)
        except self._sounddevice.PortAudioError as error:
            raise OSError(f"cannot be listened to ({error})") from None

    def _information(self) -> dict[str, Any]:
        if self._opened:  # PortAudio lists the devices when it starts: without this a replugged one is never seen
            self._sounddevice._terminate()
            self._sounddevice._initialize()
        self._opened = True
        try:
            return self._sounddevice.query_devices(self._device, "input")
        except (ValueError, self._sounddevice.PortAudioError) as error:
            raise ValueError(f"no microphone {'' if self._device is None else self._device!r} ({error})") from None


def microphones() -> list[str]:
    """The inputs of this computer, a line each: number, name, channels and sample rate."""
    return [
        f"{number}: {device['name']}, {device['max_input_channels']} channels, {device['default_samplerate']:g} Hz"
        for number, device in enumerate(_portaudio().query_devices())
        if device["max_input_channels"] > 0
    ]


def _portaudio() -> Any:
    try:
        import sounddevice
    except (ModuleNotFoundError, OSError) as error:
        raise ValueError(f"a microphone needs sounddevice and PortAudio (libportaudio2): {error}") from None
    return sounddevice


def _av() -> Any:
    try:
        import av  # a slow import
    except ModuleNotFoundError as error:
        raise ValueError(f"an address needs PyAV: {error}") from None
    return av


def _until_stalled(take: Callable[[], Any], stop: threading.Event) -> Iterator[Any]:
    """What `take` gives, again and again; it raises queue.Empty after a moment in which nothing came."""
    last = time.monotonic()
    while not stop.is_set():
        try:
            found = take()
        except queue.Empty:
            if time.monotonic() - last > STALLED:
                raise OSError(f"no sound for {STALLED:g} s") from None
        else:
            last = time.monotonic()
            yield found


class Pipe:
    """Raw samples, channels interleaved, from a named pipe, or from a file descriptor such as 0, the standard input."""

    live = False

    def __init__(self, path: Path | int, sample_rate: int, sample_format: str = "s16le", channels: int = 1):
        """Raises ValueError for a rate, a format or a number of channels that cannot be."""
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise ValueError(f"sample rate of {sample_rate} Hz, allowed are {RATES[0]} to {RATES[1]}")
        if sample_format not in FORMATS:
            raise ValueError(f"format {sample_format!r} is unknown: {', '.join(FORMATS)}")
        if channels < 1:
            raise ValueError(f"{channels} channels: at least one is needed")
        if isinstance(path, Path) and not (path.exists() and stat.S_ISFIFO(path.stat().st_mode)):
            raise ValueError(f"{path} is not a named pipe")
        self.name = f"pipe {path}" if isinstance(path, Path) else "pipe"
        self.ends = not isinstance(path, Path)
        self._path, self._sample_rate, self._channels = path, sample_rate, channels
        self._dtype = np.dtype(FORMATS[sample_format])

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        if not isinstance(self._path, Path):
            yield from self._read(self._path, stop)
            return
        descriptor = os.open(self._path, os.O_RDONLY | os.O_NONBLOCK)
        try:
            yield from self._read(descriptor, stop)
        finally:
            os.close(descriptor)

    def _read(self, descriptor: int, stop: threading.Event) -> Iterator[Piece]:
        def take() -> bytes:
            if not select.select([descriptor], [], [], 0.2)[0]:
                raise queue.Empty
            return os.read(descriptor, 2**16)

        rest = b""
        for data in _until_stalled(take, stop):
            if not data:
                return
            data = rest + data
            whole = len(data) - len(data) % (self._dtype.itemsize * self._channels)
            rest = data[whole:]
            yield Piece(self._samples(data[:whole]), self._sample_rate)

    def _samples(self, data: bytes) -> np.ndarray:
        samples = np.frombuffer(data, self._dtype).reshape(-1, self._channels)
        full_scale = 1 if self._dtype.kind == "f" else -np.iinfo(self._dtype).min
        return samples.astype(np.float32) / np.float32(full_scale)


class Address:
    """The sound at an HTTP or RTSP address, in any format that FFmpeg's libraries know."""

    live, ends = False, False

    def __init__(self, url: str):
        """Raises ValueError for another kind of address."""
        parts = urlsplit(url)
        if parts.scheme not in SCHEMES or not parts.hostname:
            raise ValueError(
                f"an address that begins with one of {', '.join(f'{each}://' for each in SCHEMES)} is needed"
            )
        _av()
        self.name = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"  # without a password
        self._url = url

    def pieces(self, stop: threading.Event) -> Iterator[Piece]:
        av = _av()
        # a playlist may name other addresses, but no file of this computer
        options = {"protocol_whitelist": "http,https,rtsp,rtsps,rtp,udp,tcp,tls", "rtsp_transport": "tcp"}
        try:
            with av.open(self._url, options=options, timeout=(STALLED, STALLED)) as container:
                track = container.streams.best("audio")
                if track is None:
                    raise OSError("there is no sound in it")
                to_float = av.AudioResampler(format="flt", layout=track.layout, rate=track.rate)
                for frame in container.decode(track):
                    if stop.is_set():
                        return
                    for part in to_float.resample(frame):
                        yield Piece(part.to_ndarray().reshape(-1, track.channels), track.rate)
        except av.FFmpegError as error:
            raise OSError(error.strerror or str(error)) from None


# -------------------------------------------------------------------------------------------------------- windows


@dataclass(frozen=True)
class _Heard:
    """A window of sound."""

    samples: np.ndarray  # (samples, channels)
    sample_rate: int
    begin: datetime


class _Buffer:
    """The sound that waits to be judged: filled by the source's thread, emptied window by window."""

    def __init__(self, source: Source, window: float, hop: float):
        self._source, self._window, self._hop = source, window, hop
        self._changed = threading.Condition()
        self._pieces: list[np.ndarray] = []
        self._length = self._sample_rate = self._skip = 0  # samples; Hz; samples to leave out before the next window
        self._latest = datetime.now()  # when the last piece came
        self.ended = False
        self.overruns, self._lost, self._said = 0, 0.0, -float("inf")

    def add(self, piece: Piece, stop: threading.Event) -> None:
        """Take a piece in. If there is no room, sound of a live source is dropped, and any other source waits."""
        with self._changed:
            rate, channels = piece.sample_rate, piece.samples.shape[1]
            if rate != self._sample_rate or (self._pieces and self._pieces[0].shape[1] != channels):
                self._clear()
                self._sample_rate = rate
            room = int((self._window + BACKLOG) * rate)
            while not self._source.live and self._length > room and not stop.is_set():
                self._changed.wait(0.2)
            self._pieces.append(piece.samples)
            self._length += len(piece.samples)
            self._latest = datetime.now()
            if piece.overrun:
                self._overrun(0.0)
            if self._source.live and self._length > room:
                excess = self._length - int(self._window * rate)
                self._drop(excess)
                self._overrun(excess / rate)
            self._changed.notify_all()

    def take(self, seconds: float) -> _Heard | None:
        """The next window; None if none is whole within `seconds`."""
        with self._changed:
            self._changed.wait_for(lambda: self.ended or self._whole(), seconds)
            if not self._whole():
                return None
            self._drop(self._skip)
            size, step = (round(length * self._sample_rate) for length in (self._window, self._hop))
            sound = np.concatenate(self._pieces)
            begin = self._latest - timedelta(seconds=self._length / self._sample_rate)
            self._pieces, self._skip = [sound], max(1, step)
            self._changed.notify_all()
            return _Heard(sound[:size], self._sample_rate, begin)

    def gap(self, stop: threading.Event) -> None:
        """The sound breaks off: no window goes across. Waits until the whole windows before it have been taken."""
        with self._changed:
            while self._whole() and not stop.is_set():
                self._changed.wait(0.2)
            self._clear()

    def end(self) -> None:
        with self._changed:
            self.ended = True
            self._changed.notify_all()

    def _whole(self) -> bool:
        return self._sample_rate > 0 and self._length - self._skip >= round(self._window * self._sample_rate)

    def _clear(self) -> None:
        self._pieces, self._length, self._skip = [], 0, 0

    def _drop(self, samples: int) -> None:
        sound = np.concatenate(self._pieces)[samples:]
        self._pieces, self._length, self._skip = [sound], len(sound), 0

    def _overrun(self, lost: float) -> None:
        self.overruns += 1
        self._lost += lost
        if time.monotonic() - self._said >= SAY_EVERY:
            self._said = time.monotonic()
            behind = f"; judging is too slow, {self._lost:.0f} s of sound were left out" if self._lost else ""
            log.warning("%s: %d overruns, sound was lost%s", self._source.name, self.overruns, behind)


def _read(source: Source, buffer: _Buffer, stop: threading.Event, delays: tuple[float, float]) -> None:
    """Fill `buffer` from `source`, whatever becomes of it, until `stop` is set or the sound has ended for good."""
    outage, delay = Outage(source.name), delays[0]
    while not stop.is_set():
        try:
            for piece in source.pieces(stop):
                outage.end()
                delay = delays[0]
                buffer.add(piece, stop)
            if source.ends:
                break
            reason: object = "the sound has ended"
        except Exception as error:  # whatever goes wrong in a source, it is tried again
            reason = error
        if not stop.is_set():
            outage.begin(reason, "; it is waited for")
            buffer.gap(stop)
            stop.wait(delay)
            delay = min(2 * delay, delays[1])
    buffer.end()


# -------------------------------------------------------------------------------------------------------- judging


class LiveJudge:
    """Judges windows of sound by a `Judge` that says which machine it is. Raises ValueError if it does not."""

    def __init__(self, judge: Judge):
        self._judge = judge
        self._machine = judge.machine(Path("/live"))  # which tells nothing of the machine

    @property
    def window(self) -> float:
        """Length (s) of sound that the network sees at once."""
        detector = self._judge.detector
        return (detector.frames - 1) * detector.front_end.hop_length / detector.front_end.sample_rate

    def __call__(self, waveform: np.ndarray, sample_rate: int, name: str) -> Judgement:
        """Judge sound of shape (samples,). Never raises for bad sound."""
        try:
            return Judgement(
                name, self._judge.detector.score(waveform, sample_rate, *self._machine, self._judge.backend)
            )
        except ValueError as error:
            return Judgement(name, error=str(error))


def listen(
    source: Source,
    judge: Callable[[np.ndarray, int, str], Judgement],
    sinks: Sinks,
    stop: threading.Event,
    window: float,
    hop: float,
    channel: int | None = 0,
    delays: tuple[float, float] = DELAYS,
) -> None:
    """Judge a window of `window` s every `hop` s of what `source` brings, until `stop` is set or it has ended for good.

    `judge` gets the waveform (samples,) of a channel, its sample rate (Hz) and a name, and raises nothing. `channel`
    is counted from 0; None judges each, and the verdict's name says which. Judging takes place in this thread.
    """
    if not (SHORTEST_SECONDS <= window <= LONGEST and 0 < hop <= LONGEST):
        limits = f"a window has {SHORTEST_SECONDS} to {LONGEST} s, and the hop is above 0"
        raise ValueError(f"window of {window:g} s every {hop:g} s: {limits}")
    buffer, bad = _Buffer(source, window, hop), Outage(source.name)
    reader = threading.Thread(target=_read, args=(source, buffer, stop, delays), name=source.name, daemon=True)
    reader.start()
    while not stop.is_set():
        heard = buffer.take(1.0)
        if heard is None and buffer.ended:
            break
        if heard:
            begin = heard.begin.astimezone().isoformat(timespec="milliseconds")
            for number, judgement in _judged(heard, judge, source.name, channel):
                if judgement.verdict is None:
                    bad.begin(f"not judged: {judgement.error}")
                else:
                    bad.end()
                sinks.put(note(judgement, number, file=source.name, begin=begin, overruns=buffer.overruns))
        sinks.flush()
    reader.join(2)


def _judged(
    heard: _Heard, judge: Callable[[np.ndarray, int, str], Judgement], name: str, channel: int | None
) -> Sequence[tuple[int | None, Judgement]]:
    """Judgements of the channels that are wanted, each with the channel's number where all are."""
    channels = heard.samples.shape[1]
    if channel is None:
        names = [f"{name}, channel {number}" for number in range(channels)]
        waveforms = (np.ascontiguousarray(heard.samples[:, number]) for number in range(channels))
        return [(number, judge(wave, heard.sample_rate, names[number])) for number, wave in enumerate(waveforms)]
    if channel >= channels:
        return [(None, Judgement(name, error=f"no channel {channel}, it has {channels} (counted from 0)"))]
    return [(None, judge(np.ascontiguousarray(heard.samples[:, channel]), heard.sample_rate, name))]
