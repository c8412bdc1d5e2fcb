"""The detector as one graph, by onnxruntime: judging, taking in recordings and machines, all without torch.

The graph computes all that a folder's networks and back-ends do, see `detection.export`. What the back-ends learned are
inputs of it that have values, so a detector that knows more is the same graph with other values. They are read and
written by the package onnx, which judging does without.
"""

from collections.abc import Callable, Iterable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np
import onnxruntime

from audio.front_end import LogMelSettings
from detection import learned, onnx_file
from detection.description import Description, Recordings
from detection.detector import Detector, Item, Result
from detection.fitting import Arrays
from detection.learned import Standard
from detection.onnx_file import REPRESENTATION, About
from storage.threads import in_threads

if TYPE_CHECKING:
    from onnx import ModelProto

QUIET = 4  # of onnxruntime's levels: what goes wrong is an exception here


class OnnxDetector(Detector):
    """See `Detector`."""

    def __init__(self, graph: Path | bytes, about: About, recordings: Recordings, aside: Arrays):
        """`graph` is a file or its content; the others are what `onnx_file.read` gives."""
        super().__init__(about.description, LogMelSettings(**about.front_end), recordings)  # type: ignore[arg-type]
        self.about = about
        self._graph, self._aside, self._threads = graph, aside, 0  # 0: all cores

    @classmethod
    def read(cls, path: Path) -> Self:
        """The detector in a file. Raises ValueError, naming it, where it is damaged or was changed."""
        if not path.is_file():
            raise ValueError(f"{path}: {'a folder' if path.is_dir() else 'no such file'}: a detector is needed")
        onnx_file.check(path)
        try:
            session = _session(path)
            about, recordings, aside = onnx_file.read(path, session.get_modelmeta().custom_metadata_map)
            detector = cls(path, about, recordings, aside)
            detector._session = session
            detector.check()
            detector._check_graph()
        except KeyError as error:
            raise ValueError(f"{path}: {error} is missing") from None
        except ValueError as error:
            raise ValueError(f"{path}: {str(error).removeprefix(f'{path}: ')}") from None
        return detector

    def _check_graph(self) -> None:
        """Raises ValueError unless the graph has a score for each machine under each back-end."""
        outputs = {output.name for output in self._session.get_outputs()}
        if lacking := [name for name in self.backends if name not in outputs]:
            raise ValueError(f"the graph computes no {lacking[0]}")
        blank = np.zeros(self.front_end.samples(self.frames), np.float32)
        log_mel, scores = self.scores_of(blank, np.zeros(1, np.int64))
        if log_mel.shape != (self.frames, self.front_end.n_mels):
            raise ValueError("the graph's front end is not the one that it says")
        if any(of_all.shape != (1, len(self.identities)) for of_all in scores.values()):
            raise ValueError("the graph has no score for each machine")

    # ------------------------------------------------------------------------------------------- computing

    @cached_property
    def _session(self) -> onnxruntime.InferenceSession:
        return _session(self._graph, self._threads)

    @property
    def frames(self) -> int:
        return self.about.frames

    @property
    def backends(self) -> tuple[str, ...]:
        return tuple(self.about.backends)

    def mel_centres(self) -> np.ndarray:
        return np.array(self.about.mel_centres)

    def log_mel(self, waveform: np.ndarray) -> np.ndarray:
        return self._run(["log_mel"], waveform, np.zeros(1, np.int64))[0]

    def representations_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        names = self.about.representations
        log_mel, *found = self._run(["log_mel", *(REPRESENTATION + name for name in names)], waveform, starts)
        return log_mel, dict(zip(names, found, strict=True))

    def scores_of(self, waveform: np.ndarray, starts: np.ndarray) -> tuple[np.ndarray, Arrays]:
        log_mel, *found = self._run(["log_mel", *self.backends], waveform, starts)
        return log_mel, dict(zip(self.backends, found, strict=True))

    def _run(self, outputs: list[str], waveform: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
        options = onnxruntime.RunOptions()
        options.only_execute_path_to_fetches = True
        return _computed(self._session, outputs, {"waveform": waveform, "starts": starts}, options)

    def for_each(self, function: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
        self._threads = 1
        self.__dict__.pop("_session", None)
        return in_threads(function, items)

    # ------------------------------------------------------------------------------------------- what it knows

    def standard_of(self, backend: str) -> Standard:
        return learned.standard_of(self._aside, backend)

    def arrays(self) -> Arrays:
        from onnx import numpy_helper

        model = self._model
        in_graph = {each.name: each for each in model.graph.initializer}
        there = {each.name for each in model.graph.input} & in_graph.keys()
        return self._aside | {name: numpy_helper.to_array(in_graph[name]) for name in there if not _is_place(name)}

    def scored(self, arrays: Arrays, representations: Arrays) -> Arrays:
        feeds = learned.scoring(arrays) | {REPRESENTATION + name: x for name, x in representations.items()}
        count = len(next(iter(representations.values())))
        feeds["starts"] = np.zeros(count, np.int64)  # by which the graph knows how many windows there are
        found = _computed(self._scoring, list(self.backends), feeds)
        return dict(zip(self.backends, found, strict=True))

    def changed(self, description: Description, arrays: Arrays, recordings: Recordings) -> Self:
        from onnx import numpy_helper

        values = learned.scoring(arrays)
        model = _copied(self._model)
        kept = [each for each in model.graph.initializer if each.name not in values]
        del model.graph.initializer[:]
        model.graph.initializer.extend(kept)
        model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
        names = [f"{machine.type}/{machine.id}" for machine in description.machines]
        about = self.about.model_copy(
            update={"description": description, "recordings": list(recordings.rows), "machines": names}
        )
        return type(self)(model.SerializeToString(), about, recordings, learned.aside(arrays))

    def save(self, path: Path) -> None:
        deciding = {identity: self.deciding(identity) for identity in self.identities}
        thresholds = {identity: self.threshold(identity) for identity in self.identities}
        about = self.about.model_copy(update={"deciding": deciding, "thresholds": thresholds})
        onnx_file.write(path, _copied(self._model), about, self.recordings, self._aside)

    @cached_property
    def _model(self) -> "ModelProto":
        import onnx

        content = self._graph if isinstance(self._graph, bytes) else self._graph.read_bytes()
        model = onnx.load_model_from_string(content)
        del model.metadata_props[:]
        return model

    @cached_property
    def _scoring(self) -> onnxruntime.InferenceSession:
        """The part of the graph behind the representations, whose inputs are all that was learned, too."""
        from onnx.utils import Extractor

        model = self._model
        arrays = {each.name for each in model.graph.input} & {each.name for each in model.graph.initializer}
        inputs = ["starts", *sorted(arrays), *(REPRESENTATION + name for name in self.about.representations)]
        part = Extractor(model).extract_model(inputs, list(self.backends))
        kept = [each for each in part.graph.initializer if each.name not in arrays]
        del part.graph.initializer[:]
        part.graph.initializer.extend(kept)
        return _session(part.SerializeToString())


def _is_place(name: str) -> bool:
    """Whether an array says where others stand, see `fitting.places`."""
    return name.rpartition(".")[2].startswith(("members", "columns"))


def _copied(model: "ModelProto") -> "ModelProto":
    other = type(model)()
    other.CopyFrom(model)
    return other


def _session(graph: Path | bytes, threads: int = 0) -> onnxruntime.InferenceSession:
    """A graph that is ready to run. Raises ValueError where it is none."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    options.intra_op_num_threads = threads
    options.enable_cpu_mem_arena = False  # which keeps the most that was ever needed
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    try:
        return onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # onnxruntime has a class for each kind of mistake, which share no other
        raise ValueError(f"not a graph that can be run: {_one_line(error)}") from None


def _computed(
    session: onnxruntime.InferenceSession,
    outputs: list[str],
    inputs: Arrays,
    options: onnxruntime.RunOptions | None = None,
) -> list[np.ndarray]:
    try:
        return session.run(outputs, inputs, options)
    except Exception as error:
        raise ValueError(f"the graph fails: {_one_line(error)}") from None


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300]
