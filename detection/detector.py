"""A trained detector: from a recording of a machine to an anomaly score, a p-value and a verdict.

What judges is here; what computes representations and scores of sound is a subclass:

- `detection.torch_detector`, by torch, from the folder that training wrote
- `detection.onnx_detector`, by onnxruntime and without torch, from the graph that `detect.py export` wrote
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from importlib import import_module
from itertools import chain
from pathlib import Path
from typing import Self, TypeVar

import numpy as np
import soxr

from audio.clips import LONGEST, RATES, SHORTEST_SECONDS, SILENCE, Sound, open_sound
from audio.front_end import LogMelSettings
from detection.calibration import Calibration, choose, needed
from detection.description import Description, Recordings, Settings
from detection.familiarity import Facts
from detection.fitting import Arrays
from detection.learned import Standard
from detection.names import LABEL_FREE
from detection.text import printable
from detection.windows import Stretch, stretches

LONG = 600  # s of a recording, from which reading it takes a while
GRAPH = ".onnx"  # how the name of a detector ends that is a graph
Item = TypeVar("Item")
Result = TypeVar("Result")


@dataclass(frozen=True)
class Window:
    """A stretch of a recording that is as long as the network's input, or the whole of a shorter recording."""

    start: float  # s
    end: float  # s
    score: float
    anomalous: bool  # the score is above the threshold


@dataclass(frozen=True)
class Verdict:
    """What the detector says of one recording."""

    machine_type: str
    machine_id: str
    backend: str  # that decided
    score: float  # mean over the windows; higher is more anomalous
    threshold: float
    anomalous: bool  # the score is above the threshold, which is where the p-value is at most alpha
    p_value: float  # share of healthy recordings that score at least this high
    alpha: float  # share of healthy recordings that raise an alarm
    n: int  # calibration recordings
    calibration: str  # where they come from, see `detection.calibration.Calibration`
    warnings: tuple[str, ...]  # what to know before believing it
    seconds: float
    windows: tuple[Window, ...]

    @property
    def word(self) -> str:
        return "anomalous" if self.anomalous else "normal"

    @property
    def sentence(self) -> str:
        """The verdict for people, in one line."""
        share = 100 * self.p_value
        often = f"{share:.0f} of 100" if share >= 1 else f"{10 * share:.0f} of 1000"
        return (
            f"{self.machine_type} {self.machine_id} is {self.word.upper()}: of healthy recordings about {often} would "
            f"score this high (score {self.score:.4g}, threshold {self.threshold:.4g})"
        )


@dataclass(frozen=True)
class Measured:
    """What the back-ends say of a recording as one of a machine: W windows."""

    starts: np.ndarray  # (W,), frames
    scores: dict[str, np.ndarray]  # (W,) by back-end
    facts: Facts  # of the recording as a whole
    worst: np.ndarray  # log-mel (f, M), dB, float16, of the window that scores highest under the deciding back-end
    warnings: tuple[str, ...] = ()


def _with_progress(sound: Sound, sample_rate: int) -> Iterator[np.ndarray]:
    """The blocks of a recording; of a long one, a terminal is shown how far it has been read."""
    if sound.seconds is not None and sound.seconds <= LONG:
        yield from sound.blocks(sample_rate)
        return
    from tqdm import tqdm  # a slow import

    total = sound.seconds and round(sound.seconds)
    with tqdm(total=total, unit="s", desc=printable(str(sound.path)), disable=None) as shown:
        for block in sound.blocks(sample_rate):
            yield block
            shown.update(round(len(block) / sample_rate))


class Detector(ABC):
    """Judges recordings of the machines it was trained on. Any number of threads may use one detector at once.

    >>> import soundfile
    >>> detector = Detector.load("data/detector")
    >>> waveform, sample_rate = soundfile.read("pump.wav")
    >>> verdict = detector.score(waveform, sample_rate, "pump", "id_00")
    >>> verdict.anomalous == (verdict.score > verdict.threshold) == (verdict.p_value <= verdict.alpha)
    True
    >>> round(verdict.seconds), verdict.windows[0].start
    (2, 0.0)
    """

    has_networks = False  # which torch computes with, and which can be asked why

    def __init__(self, description: Description, front_end: LogMelSettings, recordings: Recordings):
        self.description, self.front_end, self.recordings = description, front_end, recordings

    @staticmethod
    def load(path: Path | str) -> "Detector":
        """The detector in a folder, or in a graph, whose name ends with .onnx.

        Raises ValueError naming the file that is missing, damaged or was changed.
        """
        kind, name = ("onnx", "OnnxDetector") if Path(path).suffix == GRAPH else ("torch", "TorchDetector")
        try:
            # by its name, so that a stage which needs one of the two does not depend on the other
            detector = getattr(import_module(f"detection.{kind}_detector"), name)
        except ModuleNotFoundError as error:
            if kind == "onnx":
                raise ValueError(f"{path}: a graph needs {error.name}, which is not installed") from None
            raise ValueError(
                f"{path}: a detector that is a folder needs {error.name}, which is not installed: export it where it "
                f"is (`detect.py export detector.onnx`), and give --model detector.onnx"
            ) from None
        return detector.read(Path(path))

    # ------------------------------------------------------------------------------------------- what computes

    @property
    @abstractmethod
    def frames(self) -> int:
        """Length of a window."""

    @property
    @abstractmethod
    def backends(self) -> tuple[str, ...]:
        """Names of the back-ends and combinations that the detector has."""

    @abstractmethod
    def mel_centres(self) -> np.ndarray:
        """Centre of each mel bin of the front end: (M,), Hz, ascending."""

    @abstractmethod
    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        """Log-mel (f, M), dB, float16, of the frames that lie within a waveform (samples,)."""

    @abstractmethod
    def representations_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """The same, and the representations (W, d) by name of the windows that begin with the frames `starts` (W,).

        What is shorter than a window is repeated to fill one.
        """

    @abstractmethod
    def scores_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        """The same with the scores (W, I) by back-end, one for each machine; NaN where it has none."""

    @abstractmethod
    def arrays(self) -> Arrays:
        """What the back-ends learned, see `detection.learned`."""

    @abstractmethod
    def standard_of(self, backend: str) -> Standard:
        """What the z-scores of a back-end or combination refer to."""

    @abstractmethod
    def scored(self, arrays: Arrays, representations: Arrays) -> Arrays:
        """Scores (W, I) by back-end of representations (W, d) under `arrays`, as `changed` takes them."""

    @abstractmethod
    def changed(self, description: Description, arrays: Arrays, recordings: Recordings) -> Self:
        """A detector of the same networks that knows something else."""

    @abstractmethod
    def save(self, path: Path) -> None:
        """Write the detector to `path`, which appears whole and replaces what was there."""

    @abstractmethod
    def for_each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        """`map(function, items)`, where `function` uses this detector: many small computations at once."""

    # ------------------------------------------------------------------------------------------- what it knows

    @property
    def recordings(self) -> Recordings:
        """The healthy recordings that scores are compared with."""
        return self._recordings

    @recordings.setter
    def recordings(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._calibrations: dict[tuple[str, str], Calibration] = {}

    @property
    def settings(self) -> Settings:
        return self.description.settings

    @property
    def identities(self) -> list[str]:
        """Names of all machines, "fan/id_00", by their number."""
        return [f"{machine.type}/{machine.id}" for machine in self.description.machines]

    @property
    def machines(self) -> dict[str, list[str]]:
        """Machine ids by machine type, all that the detector can judge."""
        types: dict[str, list[str]] = {}
        for machine in self.description.machines:
            types.setdefault(machine.type, []).append(machine.id)
        return types

    def identity(self, machine_type: str, machine_id: str) -> str:
        """The name of a machine, "fan/id_00". Raises ValueError, with the known ones, when it is unknown."""
        identity = f"{machine_type}/{machine_id}"
        if identity not in self.identities:
            known = "; ".join(f"{name} {' '.join(ids)}" for name, ids in self.machines.items())
            raise ValueError(f"machine {machine_type} {machine_id} is unknown. Known: {known}")
        return identity

    def check_backend(self, backend: str) -> None:
        """Raises ValueError, with the known ones, when there is no such back-end."""
        if backend not in self.backends:
            raise ValueError(f"back-end {backend!r} is unknown: {', '.join(self.backends)}")

    # ------------------------------------------------------------------------------------------- sound to windows

    def spectrogram(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Log-mel (f, mels), dB, float16, piece by piece, of the waveform whose pieces (samples,) `blocks` yields.

        Raises ValueError when there is less than a second of it, or only silence.
        """
        for stretch in self._stretches(blocks):
            yield self.log_mel(stretch.waveform)[stretch.fresh :]

    def represented(self, blocks: Iterable[np.ndarray]) -> tuple[Arrays, Facts]:
        """Representations (W, d) by name of the windows of a waveform that is given as to `spectrogram`."""
        facts = Facts()
        parts = [found for _, _, found in self._computed(blocks, self.representations_of, facts)]
        return {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}, facts

    def _computed(
        self,
        blocks: Iterable[np.ndarray],
        compute: Callable[[np.ndarray, np.ndarray], tuple[np.ndarray, Arrays]],
        facts: Facts,
    ) -> Iterator[tuple[Stretch, np.ndarray, Arrays]]:
        """The stretches of a waveform that have windows, their log-mel, and what is computed of the windows.

        Gathers `facts`. No more than a stretch is held, whatever the recording's length.
        """
        for stretch in self._stretches(blocks):
            if len(stretch.starts):
                log_mel, found = compute(stretch.waveform, stretch.starts - stretch.first)
                facts.add(log_mel[stretch.fresh :])
                yield stretch, log_mel, found
            else:
                facts.add(self.log_mel(stretch.waveform)[stretch.fresh :])

    def _stretches(self, blocks: Iterable[np.ndarray]) -> Iterator[Stretch]:
        """The stretches of a waveform. Raises ValueError as `spectrogram` does."""
        samples, low, high = 0, np.inf, -np.inf

        def measured() -> Iterator[np.ndarray]:
            nonlocal samples, low, high
            for block in blocks:
                samples += len(block)
                low, high = min(low, block.min(initial=np.inf)), max(high, block.max(initial=-np.inf))
                yield block

        waveforms = measured()
        first: list[np.ndarray] = []
        while samples < SHORTEST_SECONDS * self.front_end.sample_rate:
            block = next(waveforms, None)
            if block is None:
                seconds = samples / self.front_end.sample_rate
                raise ValueError(f"{seconds:.3g} s of sound, at least {SHORTEST_SECONDS} s are needed")
            first.append(block)
        sound = chain([np.concatenate(first)], waveforms)
        yield from stretches(sound, self.front_end, self.frames, self.settings.window_hop)
        if high - low <= SILENCE:
            raise ValueError("the recording is silent")

    # ------------------------------------------------------------------------------------------- judging

    def deciding(self, identity: str, backend: str | None = None) -> str:
        """The back-end that decides of a machine: the one asked for, or the settings'.

        Where too few recordings were held out for the promise about false alarms, the label-free combination decides:
        what learned labels from a recording takes it for more normal than new ones, and no promise could be made by it.
        """
        if backend is not None:
            self.check_backend(backend)
            return backend
        if self.settings.backend in LABEL_FREE:
            return self.settings.backend
        calibration = self.calibration(identity, self.settings.backend)
        enough = calibration.source.startswith("held-out") and calibration.n >= needed(self.settings.false_alarms)
        return self.settings.backend if enough else "label_free"

    def calibration(self, identity: str, backend: str) -> Calibration:
        """The healthy recordings that a machine's scores are compared with, see `detection.calibration.choose`."""
        key = identity, backend
        if key not in self._calibrations:
            machines, standard = self.description.machines, self.standard_of(backend)
            types = [machine.type for machine in machines]
            number = self.identities.index(identity)
            # the others of its type lend their recordings, but for those that the networks never heard
            lenders = {other for other, machine in enumerate(machines) if machine.trained} | {number}
            scores = {
                source: [
                    self.recordings.scores(other, role, backend) if other in lenders else np.zeros(0)
                    for other in range(len(machines))
                ]
                for role, source in (("calibration", "held-out"), ("training", "cross-fitted"))
            }
            of_type = [scores["held-out"][other] for other, name in enumerate(types) if name == types[number]]
            if backend not in LABEL_FREE and any(map(len, of_type)):
                del scores["cross-fitted"]
            self._calibrations[key] = choose(number, types, scores, *standard, self.settings.false_alarms)
        return self._calibrations[key]

    def threshold(self, identity: str, backend: str | None = None) -> float:
        """The score above which a recording of a machine is anomalous."""
        return self.calibration(identity, self.deciding(identity, backend)).threshold(self.settings.false_alarms)

    def score(
        self, waveform: np.ndarray, sample_rate: int, machine_type: str, machine_id: str, backend: str | None = None
    ) -> Verdict:
        """Judge a recording of one machine.

        `waveform` has shape (samples,), one channel, floats of full scale 1, `sample_rate` is in Hz. Raises ValueError
        for a machine that the detector does not know, and for a waveform that is silent, not finite, of integers or
        shorter than a second.
        """
        waveform = np.asarray(waveform)
        if not np.issubdtype(waveform.dtype, np.floating):
            raise ValueError(f"the waveform has {waveform.dtype} values: floats of full scale 1 are needed")
        if not RATES[0] <= sample_rate <= RATES[1]:
            raise ValueError(f"sample rate of {sample_rate} Hz, allowed are {RATES[0]} to {RATES[1]}")
        waveform = waveform.astype(np.float32)
        if waveform.ndim != 1:
            raise ValueError(f"the waveform has shape {waveform.shape}: one channel, (samples,), is needed")
        if not np.isfinite(waveform).all():
            raise ValueError("the waveform has samples that are not finite")
        if sample_rate != self.front_end.sample_rate:
            waveform = soxr.resample(waveform, sample_rate, self.front_end.sample_rate)
        identity = self.identity(machine_type, machine_id)
        return self.judge(self.measure([waveform], identity, backend), identity, backend)

    def score_file(
        self, path: Path, machine_type: str, machine_id: str, backend: str | None = None, channel: int = 0
    ) -> Verdict:
        """Judge a sound file of any length and sample rate by one of its channels; see `score`."""
        identity = self.identity(machine_type, machine_id)
        return self.judge(self.measure_file(path, identity, backend, channel), identity, backend)

    def measure_file(
        self, path: Path, identity: str, backend: str | None = None, channel: int = 0, longest: float = LONGEST
    ) -> Measured:
        """What the back-ends say of a sound file of at most `longest` seconds; see `measure`."""
        with open_sound(path, channel, longest) as sound:
            blocks = _with_progress(sound, self.front_end.sample_rate)
            measured = self.measure(blocks, identity, backend)
        return replace(measured, warnings=tuple(sound.warnings))

    def measure(self, blocks: Iterable[np.ndarray], identity: str, backend: str | None = None) -> Measured:
        """What the back-ends say of the waveform whose pieces (samples,) `blocks` yields, as one of `identity`.

        `backend` says which window counts as the worst. Memory does not grow with the recording, but for the scores.
        """
        deciding, number = self.deciding(identity, backend), self.identities.index(identity)
        starts: list[np.ndarray] = []
        scores: dict[str, list[np.ndarray]] = {name: [] for name in self.backends}
        worst, highest, facts = np.zeros((0, 0)), -math.inf, Facts()
        for stretch, log_mel, of_all in self._computed(blocks, self.scores_of, facts):
            for name, of_windows in of_all.items():
                scores[name].append(of_windows[:, number])
            decisive = scores[deciding][-1]
            place = int(decisive.argmax())
            if not len(worst) or decisive[place] > highest:
                first = stretch.starts[place] - stretch.first
                worst, highest = log_mel[first : first + self.frames].copy(), float(decisive[place])
            starts.append(stretch.starts)
        of_recording = {name: np.concatenate(parts) for name, parts in scores.items()}
        return Measured(np.concatenate(starts), of_recording, facts, worst)

    def judge(self, measured: Measured, identity: str, backend: str | None = None) -> Verdict:
        """The verdict on what was measured. Raises ValueError when a score is not a number."""
        deciding = self.deciding(identity, backend)
        scores = measured.scores[deciding].astype(float)
        if not np.isfinite(scores).all():
            raise ValueError(f"what {deciding} says of it is not a number: it cannot be judged")
        calibration, wanted = self.calibration(identity, deciding), self.settings.false_alarms
        score, threshold = float(scores.mean()), calibration.threshold(wanted)
        second = self.front_end.hop_length / self.front_end.sample_rate
        seconds = (measured.facts.frames - 1) * second
        windows = tuple(
            Window(
                start=float(start * second),
                end=min(float((start + self.frames) * second), seconds),
                score=float(of_window),
                anomalous=bool(of_window > threshold),
            )
            for start, of_window in zip(measured.starts, scores, strict=True)
        )
        machine_type, machine_id = identity.split("/")
        return Verdict(
            machine_type,
            machine_id,
            backend=deciding,
            score=score,
            threshold=threshold,
            anomalous=score > threshold,
            p_value=calibration.p_value(score),
            alpha=calibration.alpha(wanted),
            n=calibration.n,
            calibration=calibration.source,
            warnings=(*self._reservations(identity, deciding, calibration, measured), *measured.warnings),
            seconds=seconds,
            windows=windows,
        )

    def _reservations(self, identity: str, backend: str, calibration: Calibration, measured: Measured) -> Iterator[str]:
        """What keeps the promise about false alarms from holding, in sentences."""
        front_end, known = self.front_end, self.recordings.of(self.identities.index(identity))
        yield from known.strange(measured.facts, self.mel_centres, front_end.hop_length / front_end.sample_rate)
        wanted = self.settings.false_alarms
        if (lacking := needed(wanted) - calibration.n) > 0:
            yield (
                f"{calibration.n} healthy recordings allow a promise of {calibration.alpha(wanted):.0%} false alarms, "
                f"{lacking} more are needed for {wanted:.0%}"
            )
        if calibration.source.startswith("cross-fitted") and backend not in LABEL_FREE:
            yield "no promise about false alarms: the network was trained on the recordings it is compared with"

    def check(self) -> None:
        """Raises ValueError when a machine cannot be judged. Called when a detector has been read."""
        if self.settings.backend not in self.backends:
            raise ValueError(f"back-end {self.settings.backend} was not fitted")
        for identity in self.identities:
            try:
                self.threshold(identity)
            except ValueError as error:
                raise ValueError(f"{identity.replace('/', ' ')}: {error}") from None
