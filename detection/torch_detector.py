"""The detector as training makes it and as it lies in a folder: networks and back-ends by torch.

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

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from audio.mels import mel_centres
from audio.scale import Scale, fill
from detection.description import Description, Recordings
from detection.detector import Detector, Item, Result
from detection.ensemble import Ensemble
from detection.fitting import Arrays
from detection.folder import read_folder, write_folder
from detection.learned import Standard, clip_means
from detection.representations import Representations
from detection.windows import window_starts
from model.network import RCMAE, IdentityClassifier
from model.threads import in_threads

TRAVELLING = ("logmel", "scale", "norm_pix_loss")  # what a network's config holds beside the network itself


class TorchDetector(Detector):
    """See `Detector`, and `fit` for what training does with it."""

    has_networks = True

    def __init__(
        self,
        pretrained: RCMAE,
        classifier: IdentityClassifier | None,
        config: dict,
        description: Description,
        device: str = "cpu",
    ):
        """A detector that knows no recording yet. `config` is what `load_model` gives with `pretrained`."""
        front_end = LogMelSettings(**config["logmel"])
        super().__init__(description, front_end, Recordings.none(front_end.n_mels))
        self.device = torch.device(device)
        self.config = {name: config[name] for name in TRAVELLING}
        self.representations = Representations(pretrained, classifier, Scale(**config["scale"])).eval().to(self.device)
        self.ensemble: Ensemble | None = None

    @property
    def frames(self) -> int:
        return self.representations.frames

    @property
    def backends(self) -> tuple[str, ...]:
        return self.fitted().names

    def fitted(self) -> Ensemble:
        """What the back-ends learned. Raises ValueError before `fit`."""
        if self.ensemble is None:
            raise ValueError("the detector was not fitted")
        return self.ensemble

    def mel_centres(self) -> np.ndarray:
        return mel_centres(self.front_end)

    # ------------------------------------------------------------------------------------------- computing

    @torch.inference_mode()
    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        # the features on disk are float16, and a recording must get the score that it gets there
        return log_mel(torch.from_numpy(waveform), self.front_end, centred=False).numpy().astype(np.float16)

    def representations_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        spectrogram = self.log_mel(waveform)
        return spectrogram, _numpy(self.representations.of(self.windows(spectrogram, starts)))

    def scores_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        spectrogram = self.log_mel(waveform)
        return spectrogram, self._scores(self.windows(spectrogram, starts))

    def window_scores(self, windows: Tensor, number: int) -> Arrays:
        """Scores (W,) by back-end of windows (W, F, M) in dB as ones of machine `number`."""
        return {name: of_all[:, number] for name, of_all in self._scores(windows).items()}

    @torch.inference_mode()
    def _scores(self, windows: Tensor) -> Arrays:
        return _numpy(self.fitted()(self.representations.of(windows)))

    @torch.inference_mode()
    def scored(self, arrays: Arrays, representations: Arrays) -> Arrays:
        x = {name: torch.from_numpy(of_windows) for name, of_windows in representations.items()}
        return _numpy(Ensemble.from_arrays(arrays)(x))

    def windows(self, spectrogram: np.ndarray, starts: np.ndarray | None = None) -> Tensor:
        """The windows (W, F, M) in dB of a spectrogram (frames, mels): those that begin at `starts`, or all it has."""
        starts = self.window_starts(len(spectrogram)) if starts is None else starts
        pieces = (torch.from_numpy(spectrogram[start : start + self.frames].astype(np.float16)) for start in starts)
        return torch.stack([fill(piece, self.frames) for piece in pieces])

    def represent(self, spectrogram: np.ndarray) -> Arrays:
        """Representations (W, d) by name of all windows of a spectrogram (frames, mels) in dB."""
        return _numpy(self.representations.of(self.windows(spectrogram)))

    def window_starts(self, length: int) -> np.ndarray:
        """First frames of the windows that cover a spectrogram of `length` frames."""
        return window_starts(length, self.frames, self.settings.window_hop)

    def for_each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        return in_threads(function, items)

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

    # ------------------------------------------------------------------------------------------- what it knows

    def arrays(self) -> Arrays:
        return self.fitted().arrays()

    def standard_of(self, backend: str) -> Standard:
        return self.fitted().standard_of(backend)

    def changed(self, description: Description, arrays: Arrays, recordings: Recordings) -> Self:
        networks = self.representations
        other = type(self)(networks.pretrained, networks.classifier, self.config, description, str(self.device))
        other.ensemble, other.recordings = Ensemble.from_arrays(arrays), recordings
        return other

    def save(self, path: Path) -> None:
        networks, known = self.representations, self.recordings
        write_folder(
            path,
            networks.pretrained,
            networks.classifier,
            self.config,
            self.arrays(),
            known,
            self.description,
        )

    @classmethod
    def read(cls, folder: Path, device: str = "cpu") -> Self:
        """The detector in `folder`. Raises ValueError naming the file that is missing, damaged or was changed."""
        found = read_folder(folder)
        detector = cls(found.pretrained, found.classifier, found.config, found.description, device)
        detector.recordings = found.recordings
        try:
            detector.ensemble = Ensemble.from_arrays(found.ensemble)
            blank = torch.zeros(1, detector.frames, detector.front_end.n_mels)
            scores = detector._scores(blank)
            if any(of_all.shape != (1, len(detector.identities)) for of_all in scores.values()):
                raise ValueError("there is no score for each machine")
        except (ValueError, RuntimeError, TypeError, KeyError, IndexError) as error:
            raise ValueError(f"{folder}/ensemble.safetensors does not fit: {' '.join(str(error).split())}") from None
        try:
            detector.check()
        except ValueError as error:
            raise ValueError(f"{folder}: {error}") from None
        return detector


def _numpy(tensors: dict[str, Tensor]) -> Arrays:
    return {name: x.numpy() for name, x in tensors.items()}
