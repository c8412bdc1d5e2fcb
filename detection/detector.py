"""The trained detector: from a recording of a machine to an anomaly score, a threshold and a verdict.

It is what `stages.score` scores the test clips with, and what travels in a folder to where recordings are judged:

    finetuned/, pretrained/   networks, as `model.checkpoints` writes them
    backends.safetensors      what the back-ends learned from the training normals
    detector.json             settings, thresholds, and the training normals' scores per back-end and machine
    checksums.json            SHA-256 of all the above: a file that is missing, cut or changed is noticed

Only safetensors and JSON are read; nothing in the folder is executed.
"""

import json
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Self

import numpy as np
import safetensors
import safetensors.numpy
import soxr
import torch

from audio.clips import RATES, SHORTEST_SECONDS, SILENCE, read_blocks
from audio.logmel import LogMelSettings
from audio.streaming import log_mel_of_blocks
from detection.backends import Backend, all_backends, fit_and_score_held_out
from detection.thresholds import threshold
from model.checkpoints import load_model, read_json, save_model
from model.network import RCMAE, IdentityClassifier, network_input
from storage.files import sha256, whole_file, whole_folder

FORMAT = 1
FILES = (
    "detector.json",
    "backends.safetensors",
    *(f"{name}/{file}" for name in ("finetuned", "pretrained") for file in ("config.json", "model.safetensors")),
)
BATCH = 16  # windows that pass the network at once


@dataclass(frozen=True)
class Settings:
    """What scoring needs beside the networks; the names are those of the params group `score`."""

    backend: str = "negative_log_probability"  # the one that decides when none is named
    neighbours: int = 1
    components: int = 2
    window_hop: int = 160  # frames between the windows of a longer recording
    threshold_quantile: float = 0.9
    seed: int = 0


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
    backend: str
    score: float  # mean over the windows; higher is more anomalous
    threshold: float
    percentile: float  # share (%) of the machine's normal training clips that score at most this
    anomalous: bool  # the score is above the threshold
    seconds: float
    windows: tuple[Window, ...]


@dataclass(frozen=True)
class Outputs:
    """What the fine-tuned network says of the n windows of a recording."""

    starts: np.ndarray  # (n,), frames
    embeddings: np.ndarray  # (n, width), float32
    logits: np.ndarray  # (n, identities), float32


def window_starts(length: int, frames: int, hop: int) -> np.ndarray:
    """First frames of the windows of `frames` frames, every `hop`, that cover `length`; the last ends with it.

    >>> window_starts(344, 320, 160).tolist(), window_starts(313, 320, 160).tolist()
    ([0, 24], [0])
    """
    last = max(length - frames, 0)
    return np.append(np.arange(0, last, hop), last)


class Detector:
    """Judges recordings of the machines it was trained on. Any number of threads may use one detector at once.

    >>> import soundfile
    >>> detector = Detector.load("data/detector")
    >>> waveform, sample_rate = soundfile.read("pump.wav")
    >>> verdict = detector.score(waveform, sample_rate, "pump", "id_00")
    >>> verdict.anomalous == (verdict.score > verdict.threshold)
    True
    >>> round(verdict.seconds), verdict.windows[0].start
    (2, 0.0)
    """

    def __init__(
        self,
        classifier: IdentityClassifier,
        pretrained: RCMAE,
        config: dict,
        settings: Settings,
        pretrained_config: dict | None = None,
        device: str = "cpu",
    ):
        """A detector without thresholds yet, see `fit`. `config` is what `load_model` gives with the classifier."""
        self.device = torch.device(device)
        self.classifier, self.pretrained = classifier.eval().to(self.device), pretrained.eval().to(self.device)
        self.config, self.pretrained_config, self.settings = config, pretrained_config or config, settings
        self.front_end = LogMelSettings(**config["logmel"])
        self.mean, self.std = config["mean"], config["std"]  # dB, of the training normals
        self.identities: list[str] = config["identities"]
        self.backends: dict[str, Backend] = all_backends(settings.neighbours, settings.components, settings.seed)
        self.training_scores: dict[str, dict[str, list[float]]] = {}  # back-end -> identity -> sorted scores
        self.thresholds: dict[str, dict[str, float]] = {}  # back-end -> identity -> value

    @property
    def machines(self) -> dict[str, list[str]]:
        """Machine ids by machine type, all that the detector can judge."""
        types: dict[str, list[str]] = {}
        for machine_type, machine_id in (identity.split("/") for identity in self.identities):
            types.setdefault(machine_type, []).append(machine_id)
        return types

    @torch.inference_mode()
    def outputs(self, log_mel: np.ndarray) -> Outputs:
        """The fine-tuned network's outputs for the windows of a log-mel spectrogram (frames, mels) in dB."""
        starts = self.window_starts(len(log_mel))
        embeddings, logits = [], []
        for first in range(0, len(starts), BATCH):
            said = self.classifier(self._input(log_mel, starts[first : first + BATCH]))
            embeddings.append(said.embedding.cpu().numpy())
            logits.append(said.logits.cpu().numpy())
        return Outputs(starts, np.concatenate(embeddings), np.concatenate(logits))

    @torch.inference_mode()
    def pretrained_embedding(self, log_mel: np.ndarray) -> np.ndarray:
        """Embedding (width,) of a spectrogram before fine-tuning, the mean over its windows."""
        starts = self.window_starts(len(log_mel))
        batches = (starts[first : first + BATCH] for first in range(0, len(starts), BATCH))
        embeddings = [self.pretrained.embed(self._input(log_mel, batch)).cpu().numpy() for batch in batches]
        return np.concatenate(embeddings).mean(axis=0)

    def fit(
        self, embeddings: np.ndarray, logits: np.ndarray, counts: np.ndarray, identities: list[str]
    ) -> dict[str, np.ndarray]:
        """Fit back-ends and thresholds to the training normals; their scores (N,) by back-end.

        `embeddings` (W, width) and `logits` (W, identities) are of all windows, clip after clip; `counts` (N,) and
        `identities` (N,), such as "fan/id_00", are the clips' numbers of windows and machines. The scores come from
        fits that did not see the clip, see `fit_and_score_held_out`.
        """
        clips, machines = self._of_windows(counts, identities)
        scores = {}
        for name, backend in self.backends.items():
            of_windows = fit_and_score_held_out(backend, embeddings, logits, machines, clips)
            scores[name] = np.bincount(clips, of_windows) / counts
            own = {each: scores[name][np.array(identities) == each] for each in self.identities}
            self.training_scores[name] = {each: sorted(values.tolist()) for each, values in own.items()}
            self.thresholds[name] = {
                each: threshold(values, self.settings.threshold_quantile) for each, values in own.items()
            }
        return scores

    def clip_scores(
        self, embeddings: np.ndarray, logits: np.ndarray, counts: np.ndarray, identities: list[str]
    ) -> dict[str, np.ndarray]:
        """Scores (N,) by back-end of clips that the back-ends were not fitted to, given as `fit` takes them."""
        clips, machines = self._of_windows(counts, identities)
        of_windows = {name: backend.score(embeddings, logits, machines) for name, backend in self.backends.items()}
        return {name: np.bincount(clips, scores) / counts for name, scores in of_windows.items()}

    def _of_windows(self, counts: np.ndarray, identities: list[str]) -> tuple[np.ndarray, np.ndarray]:
        """Number of each window's clip (W,), and of its machine (W,), a column of the logits."""
        machines = [self.identities.index(one) for one in identities]
        return np.repeat(np.arange(len(counts)), counts), np.repeat(machines, counts)

    def score(
        self,
        waveform: np.ndarray,
        sample_rate: int,
        machine_type: str,
        machine_id: str,
        backend: str | None = None,
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
        return self.judge(self.log_mel([waveform]), machine_type, machine_id, backend)

    def score_file(
        self, path: Path, machine_type: str, machine_id: str, backend: str | None = None, channel: int = 0
    ) -> Verdict:
        """Judge a WAV or FLAC file of any length and sample rate by one of its channels; see `score`."""
        self.identity(machine_type, machine_id)  # before an hour of sound is read
        return self.judge(self.log_mel_of_file(path, channel), machine_type, machine_id, backend)

    def log_mel_of_file(self, path: Path, channel: int = 0) -> np.ndarray:
        """The spectrogram of a WAV or FLAC file, as `log_mel` gives it."""
        return self.log_mel(read_blocks(path, channel, self.front_end.sample_rate))

    def log_mel(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Log-mel (frames, mels), dB, float16, of the waveform whose pieces (samples,) `blocks` yields.

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
        spectrogram = log_mel_of_blocks(chain([np.concatenate(first)], waveforms), self.front_end)
        if high - low <= SILENCE:
            raise ValueError("the recording is silent")
        return spectrogram

    def window_scores(self, outputs: Outputs, identity: str, backend: str) -> np.ndarray:
        """Scores (n,) of a recording's windows as ones of `identity` ("fan/id_00"); the recording's is their mean."""
        return self.score_outputs(outputs.embeddings, outputs.logits, identity, backend)

    def score_outputs(self, embeddings: np.ndarray, logits: np.ndarray, identity: str, backend: str) -> np.ndarray:
        self.check_backend(backend)
        return self.backends[backend].score(embeddings, logits, np.full(len(logits), self.identities.index(identity)))

    def check_backend(self, backend: str) -> None:
        """Raises ValueError, with the known ones, when there is no such back-end."""
        if backend not in self.backends:
            raise ValueError(f"back-end {backend!r} is unknown: {', '.join(self.backends)}")

    def judge(self, log_mel: np.ndarray, machine_type: str, machine_id: str, backend: str | None = None) -> Verdict:
        """Judge a log-mel spectrogram (frames, mels) in dB, made by the detector's front end."""
        identity = self.identity(machine_type, machine_id)
        outputs = self.outputs(log_mel)
        name = backend or self.settings.backend
        scores = self.window_scores(outputs, identity, name)
        limit, known = self.thresholds[name][identity], self.training_scores[name][identity]
        score, second = float(scores.mean()), self.front_end.hop_length / self.front_end.sample_rate
        seconds = (len(log_mel) - 1) * second
        windows = tuple(
            Window(
                start=float(start * second),
                end=min(float((start + self.classifier.config.frames) * second), seconds),
                score=float(one),
                anomalous=bool(one > limit),
            )
            for start, one in zip(outputs.starts, scores, strict=True)
        )
        return Verdict(
            *identity.split("/"),
            backend=name,
            score=score,
            threshold=limit,
            percentile=100 * bisect_right(known, score) / len(known),
            anomalous=score > limit,
            seconds=seconds,
            windows=windows,
        )

    def save(self, folder: Path) -> None:
        """Write the detector to `folder`, which appears whole and replaces what was there."""
        with whole_folder(folder) as partial:
            save_model(partial / "finetuned", self.classifier, self.config)
            save_model(partial / "pretrained", self.pretrained, self.pretrained_config)
            arrays = {
                f"{name}.{key}": np.ascontiguousarray(array)
                for name, backend in self.backends.items()
                for key, array in backend.arrays().items()
            }
            with whole_file(partial / "backends.safetensors") as unfinished:
                safetensors.numpy.save_file(arrays, unfinished)
            about = {
                "format": FORMAT,
                "settings": asdict(self.settings),
                "thresholds": self.thresholds,
                "training_scores": self.training_scores,
            }
            (partial / "detector.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")
            sums = {path.relative_to(partial).as_posix(): sha256(path) for path in sorted(partial.rglob("*.*"))}
            (partial / "checksums.json").write_text(json.dumps(sums, indent=1) + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path | str, device: str = "cpu") -> Self:
        """The detector in `folder`. Raises ValueError naming the file that is missing, damaged or was changed."""
        folder = Path(folder)
        if not (folder / "checksums.json").is_file():
            raise ValueError(f"{folder} holds no detector (no checksums.json): train one with `dvc repro`")
        sums = read_json(folder / "checksums.json")
        for name in FILES:
            if not (folder / name).is_file():
                raise ValueError(f"{folder}: {name} is missing")
            if sums.get(name) != sha256(folder / name):
                raise ValueError(f"{folder}: {name} is not the file that was saved (its SHA-256 differs)")
        about = read_json(folder / "detector.json")
        if about.get("format") != FORMAT:
            raise ValueError(f"{folder}/detector.json has format {about.get('format')!r}, this version reads {FORMAT}")
        try:
            classifier, config = load_model(folder / "finetuned", IdentityClassifier)
            pretrained, pretrained_config = load_model(folder / "pretrained", RCMAE)
            detector = cls(classifier, pretrained, config, Settings(**about["settings"]), pretrained_config, device)
            arrays = safetensors.numpy.load_file(folder / "backends.safetensors")
            for name, backend in detector.backends.items():
                own = {key: array for key, array in arrays.items() if key.startswith(f"{name}.")}
                backend.restore({key.removeprefix(f"{name}."): array for key, array in own.items()})
            detector.thresholds, detector.training_scores = about["thresholds"], about["training_scores"]
        except (KeyError, TypeError, AttributeError, safetensors.SafetensorError) as error:
            raise ValueError(f"{folder} is not a detector: {' '.join(str(error).split())}") from None
        return detector

    def identity(self, machine_type: str, machine_id: str) -> str:
        """The name of a machine, "fan/id_00". Raises ValueError, with the known ones, when it is unknown."""
        identity = f"{machine_type}/{machine_id}"
        if identity not in self.identities:
            known = "; ".join(f"{name} {' '.join(ids)}" for name, ids in self.machines.items())
            raise ValueError(f"machine {machine_type} {machine_id} is unknown. Known: {known}")
        return identity

    def window_starts(self, length: int) -> np.ndarray:
        """First frames of the windows that cover a spectrogram of `length` frames."""
        return window_starts(length, self.classifier.config.frames, self.settings.window_hop)

    def _input(self, log_mel: np.ndarray, starts: np.ndarray) -> torch.Tensor:
        frames = self.classifier.config.frames
        # the features on disk are float16, and a recording must get the score that it gets there
        pieces = (torch.from_numpy(log_mel[start : start + frames].astype(np.float16)) for start in starts)
        return torch.stack([network_input(piece, self.mean, self.std, frames) for piece in pieces]).to(self.device)
