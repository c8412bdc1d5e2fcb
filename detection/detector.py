"""The trained detector: from a recording of a machine to an anomaly score, a p-value and a verdict.

It is what `stages.score` scores the test clips with, and what travels in a folder to where recordings are judged:

    pretrained/, finetuned/   networks, as `model.checkpoints` writes them; with a single machine there is no finetuned/
    ensemble.safetensors      what the back-ends learned from the training normals
    recordings.json           the healthy recordings it knows: machine, role, file, SHA-256
    recordings.safetensors    their scores by back-end
    detector.json             settings, machines, and what it was trained on
    checksums.json            SHA-256 of all the above: a file that is missing, cut or changed is noticed
    signature                 where RCMAE_KEY is set: HMAC of checksums.json, so that a change on purpose is, too

Only safetensors and JSON are read; nothing in the folder is executed.
"""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import soxr
import torch
from torch import Tensor
from tqdm import tqdm

from audio.clips import LONGEST, RATES, SHORTEST_SECONDS, SILENCE, Sound, open_sound
from audio.logmel import LogMelSettings
from audio.mels import mel_centres
from audio.scale import Scale, fill
from audio.streaming import log_mel_blocks
from detection.calibration import Calibration, choose, needed
from detection.ensemble import Ensemble, clip_means
from detection.familiarity import Facts
from detection.fitting import Arrays
from detection.folder import Description, Recordings, Settings, read_folder, write_folder
from detection.names import LABEL_FREE
from detection.representations import BATCH, Representations
from detection.text import printable
from model.network import RCMAE, IdentityClassifier

LONG = 600  # s of a recording, from which reading it takes a while
TRAVELLING = ("logmel", "scale", "norm_pix_loss")  # what a network's config holds beside the network itself


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


def window_starts(length: int, frames: int, hop: int) -> np.ndarray:
    """First frames of the windows of `frames` frames, every `hop`, that cover `length`; the last ends with it.

    >>> window_starts(344, 320, 160).tolist(), window_starts(313, 320, 160).tolist()
    ([0, 24], [0])
    """
    last = max(length - frames, 0)
    return np.append(np.arange(0, last, hop), last)


def _with_progress(sound: Sound, sample_rate: int) -> Iterator[np.ndarray]:
    """The blocks of a recording; of a long one, a terminal is shown how far it has been read."""
    long = sound.seconds is None or sound.seconds > LONG
    total = sound.seconds and round(sound.seconds)
    with tqdm(total=total, unit="s", desc=printable(str(sound.path)), disable=None if long else True) as shown:
        for block in sound.blocks(sample_rate):
            yield block
            shown.update(round(len(block) / sample_rate))


class Detector:
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

    def __init__(
        self,
        pretrained: RCMAE,
        classifier: IdentityClassifier | None,
        config: dict,
        description: Description,
        device: str = "cpu",
    ):
        """A detector that knows no recording yet, see `fit`. `config` is what `load_model` gives with `pretrained`."""
        self.device = torch.device(device)
        self.config, self.description = {name: config[name] for name in TRAVELLING}, description
        self.front_end = LogMelSettings(**config["logmel"])
        self.representations = Representations(pretrained, classifier, Scale(**config["scale"])).eval().to(self.device)
        self.ensemble: Ensemble | None = None
        self.recordings = Recordings.none(self.front_end.n_mels)

    @property
    def recordings(self) -> Recordings:
        """The healthy recordings that scores are compared with."""
        return self._recordings

    @recordings.setter
    def recordings(self, recordings: Recordings) -> None:
        self._recordings = recordings
        self._calibrations: dict[tuple[str, str], Calibration] = {}

    # ------------------------------------------------------------------------------------------- what it knows

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

    @property
    def frames(self) -> int:
        """Length of a window."""
        return self.representations.frames

    @property
    def backends(self) -> tuple[str, ...]:
        """Names of the back-ends and combinations that the detector has."""
        return self.fitted().names

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

    def changed(self, description: Description, ensemble: Ensemble, recordings: Recordings) -> Self:
        """A detector of the same networks that knows something else."""
        networks = self.representations
        other = type(self)(networks.pretrained, networks.classifier, self.config, description, str(self.device))
        other.ensemble, other.recordings = ensemble, recordings
        return other

    def fitted(self) -> Ensemble:
        if self.ensemble is None:
            raise ValueError("the detector was not fitted")
        return self.ensemble

    # ------------------------------------------------------------------------------------------- sound to windows

    def windows(self, log_mel: np.ndarray) -> Tensor:
        """The windows (W, F, M) in dB that cover a spectrogram (frames, mels); a short one is repeated to fill one."""
        starts = self.window_starts(len(log_mel))
        # the features on disk are float16, and a recording must get the score that it gets there
        pieces = (torch.from_numpy(log_mel[start : start + self.frames].astype(np.float16)) for start in starts)
        return torch.stack([fill(piece, self.frames) for piece in pieces])

    def spectrogram(self, blocks: Iterable[np.ndarray]) -> Iterator[np.ndarray]:
        """Log-mel (f, mels), dB, float16, piece by piece, of the waveform whose pieces (samples,) `blocks` yields.

        Raises ValueError when there is less than a second of it, or only silence.
        """
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
        yield from log_mel_blocks(chain([np.concatenate(first)], waveforms), self.front_end)
        if high - low <= SILENCE:
            raise ValueError("the recording is silent")

    def _window_batches(
        self, pieces: Iterable[np.ndarray], facts: Facts
    ) -> Iterator[tuple[list[int], list[np.ndarray]]]:
        """Windows of a spectrogram that comes in pieces: their first frames and log-mels (f, M). Gathers `facts`.

        No more than a batch and a window are held, whatever the recording's length.
        """
        frames, hop = self.frames, self.settings.window_hop
        rest, first, start = np.zeros((0, self.front_end.n_mels), np.float16), 0, 0  # `rest` begins with frame `first`
        starts: list[int] = []
        windows: list[np.ndarray] = []
        total = 0
        for piece in pieces:
            facts.add(piece)
            rest = np.concatenate([rest, piece])
            total = first + len(rest)
            while start + frames < total:  # the last window is another: it ends with the recording
                starts.append(start)
                windows.append(rest[start - first : start - first + frames])
                start += hop
                if len(starts) == BATCH:
                    yield starts, windows
                    starts, windows = [], []
            kept = max(min(start, total - frames), first)
            rest, first = rest[kept - first :], kept
        last = max(total - frames, 0)
        yield [*starts, last], [*windows, rest[last - first :]]

    def represent(self, log_mel: np.ndarray) -> Arrays:
        """Representations (W, d) by name of the windows of a spectrogram (frames, mels) in dB."""
        return {name: x.numpy() for name, x in self.representations.of(self.windows(log_mel)).items()}

    def window_starts(self, length: int) -> np.ndarray:
        """First frames of the windows that cover a spectrogram of `length` frames."""
        return window_starts(length, self.frames, self.settings.window_hop)

    # ------------------------------------------------------------------------------------------- fitting

    def fit(
        self, representations: dict[str, np.ndarray], counts: np.ndarray, identities: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Fit the back-ends to the training normals; their cross-fitted scores (N,) by back-end.

        `representations` (W, d) are of all windows, clip after clip; `counts` (N,) and `identities` (N,), such as
        "fan/id_00", are the clips' numbers of windows and machines.
        """
        machines = self._numbers(identities)
        settings = self.settings
        fitted = Ensemble.fit(
            representations,
            np.repeat(np.arange(len(counts)), counts),
            machines,
            [machine.type for machine in self.description.machines],
            settings.neighbours,
            settings.components,
            settings.seed,
        )
        self.ensemble = fitted.ensemble
        return fitted.cross_fitted

    def clip_scores(
        self, representations: dict[str, np.ndarray], counts: np.ndarray, identities: Sequence[str]
    ) -> dict[str, np.ndarray]:
        """Scores (N,) by back-end of clips that nothing was fitted to, given as `fit` takes them."""
        clips = np.repeat(np.arange(len(counts)), counts)
        scores = self.fitted().of(representations, self._numbers(identities)[clips])
        return {name: clip_means(of_windows, clips) for name, of_windows in scores.items()}

    def _numbers(self, identities: Sequence[str]) -> np.ndarray:
        number = {name: place for place, name in enumerate(self.identities)}
        return np.array([number[identity] for identity in identities], int)

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
            machines, standard = self.description.machines, self.fitted().standard_of(backend)
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
        starts: list[int] = []
        scores: dict[str, list[np.ndarray]] = {name: [] for name in self.backends}
        worst, highest, facts = np.zeros((0, 0)), -math.inf, Facts()
        for batch, windows in self._window_batches(self.spectrogram(blocks), facts):
            filled = torch.stack([fill(torch.from_numpy(window), self.frames) for window in windows])
            for name, of_windows in self.window_scores(filled, number).items():
                scores[name].append(of_windows)
            decisive = scores[deciding][-1]
            place = int(decisive.argmax())
            if not len(worst) or decisive[place] > highest:
                worst, highest = windows[place].copy(), float(decisive[place])
            starts += batch
        return Measured(np.array(starts), {name: np.concatenate(parts) for name, parts in scores.items()}, facts, worst)

    @torch.inference_mode()
    def window_scores(self, windows: Tensor, number: int) -> dict[str, np.ndarray]:
        """Scores (W,) by back-end of windows (W, F, M) in dB as ones of machine `number`."""
        scores = self.fitted()(self.representations.of(windows))
        return {name: of_all[:, number].numpy() for name, of_all in scores.items()}

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
        centres = partial(mel_centres, front_end)
        yield from known.strange(measured.facts, centres, front_end.hop_length / front_end.sample_rate)
        wanted = self.settings.false_alarms
        if (lacking := needed(wanted) - calibration.n) > 0:
            yield (
                f"{calibration.n} healthy recordings allow a promise of {calibration.alpha(wanted):.0%} false alarms, "
                f"{lacking} more are needed for {wanted:.0%}"
            )
        if calibration.source.startswith("cross-fitted") and backend not in LABEL_FREE:
            yield "no promise about false alarms: the network was trained on the recordings it is compared with"

    # ------------------------------------------------------------------------------------------- the folder

    def save(self, folder: Path) -> None:
        """Write the detector to `folder`, which appears whole and replaces what was there."""
        write_folder(
            folder,
            self.representations.pretrained,
            self.representations.classifier,
            self.config,
            self.fitted().arrays(),
            self.recordings,
            self.description,
        )

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Self:
        """The detector in `folder`. Raises ValueError naming the file that is missing, damaged or was changed."""
        folder = Path(folder)
        found = read_folder(folder)
        detector = cls(found.pretrained, found.classifier, found.config, found.description, device)
        detector.recordings = found.recordings
        try:
            detector.ensemble = Ensemble.from_arrays(found.ensemble)
            for name in detector.backends:
                if any(len(values) != len(detector.identities) for values in detector.ensemble.standard_of(name)):
                    raise ValueError(f"mean and standard deviation of {name} are not those of the machines")
            blank = torch.zeros(1, detector.frames, detector.front_end.n_mels)
            scores = detector.window_scores(blank, len(detector.identities) - 1)
        except (ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{folder}/ensemble.safetensors does not fit: {' '.join(str(error).split())}") from None
        for identity in detector.identities:
            try:
                detector.threshold(identity)
            except ValueError as error:
                raise ValueError(f"{folder}: {identity.replace('/', ' ')}: {error}") from None
        if found.description.settings.backend not in scores:
            raise ValueError(f"{folder}/detector.json: back-end {found.description.settings.backend} was not fitted")
        return detector
