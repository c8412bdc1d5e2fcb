"""The detector as one ONNX graph, from a waveform to scores, for computers without torch.

`detect.py judge --model detector.onnx` and the other subcommands run it. By itself:

    import json, numpy, onnxruntime
    session = onnxruntime.InferenceSession("detector.onnx")
    detector = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
    margin = detector["front_end"]["n_fft"] // 2
    waveform = numpy.pad(waveform, margin, mode="reflect")      # (samples,), float32, at front_end["sample_rate"] Hz
    (scores,) = session.run([detector["deciding"]["pump/id_00"]], {"waveform": waveform, "starts": starts})
    column = detector["machines"].index("pump/id_00")
    anomalous = scores[:, column].mean() > detector["thresholds"]["pump/id_00"]

`starts` (B,), int64, are the first frames of the windows, each detector["frames"] long: every
detector["description"]["settings"]["window_hop"], the last one ending with the recording. A window that reaches beyond
the end goes on from the beginning: a short recording is repeated. There is an output per back-end, named after it:
scores (B, machines), one column for each machine that the sound might come from, NaN where there is none; and further
ones, `log_mel` (frames, mels), dB, and `representation.<name>` (B, d).

The inputs that have values, `backends.…`, `mean_…` and `std_…`, are what the back-ends learned (`detection.learned`).
"""

import warnings
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.export import Dim
from torch.func import functional_call

from audio.front_end import LogMelSettings
from audio.logmel import log_mel
from detection import learned, onnx_file
from detection.detector import Detector
from detection.ensemble import Ensemble
from detection.onnx_file import REPRESENTATION, About
from detection.representations import Representations
from detection.torch_detector import TorchDetector

OPSET = 18
# By an array's last name, which of its axes grow with what a detector knows. All of one name in brackets are one size.
GROWING = {
    "means": ("machines",),
    "weights": ("machines",),
    "variances": ("machines",),
    "columns": ("machines",),
    "members": ("machines", "[most]"),
    "known": ("[known]",),
    "spacing": ("[known]",),
}
EXAMPLE = {"machines": 5, "[most]": 3, "[known]": 7, "[members]": 4}  # sizes that it is traced with; none is 0 or 1


class _Graph(nn.Module):
    def __init__(self, front_end: LogMelSettings, representations: Representations, ensemble: Ensemble):
        super().__init__()
        self.front_end, self.representations, self.ensemble = front_end, representations, ensemble

    def forward(self, waveform: Tensor, starts: Tensor, arrays: Mapping[str, Tensor]) -> tuple[Tensor, ...]:
        spectrogram = log_mel(waveform, self.front_end, centred=False).half()  # as the features on disk are
        length = torch.ones_like(spectrogram[:, 0], dtype=torch.int64).sum()  # a tensor, unlike its shape
        places = (starts.unsqueeze(1) + torch.arange(self.representations.frames)) % length  # (B, F)
        representations = self.representations(spectrogram[places])
        scores = functional_call(self.ensemble, dict(arrays), (representations,))
        return spectrogram, *representations.values(), *scores.values()


def export_onnx(detector: Detector, path: Path, simplified: bool = True) -> None:
    """Write the detector to `path`, whole. Raises ValueError where it is a graph already.

    A graph that is `simplified` takes longer to write, and is ready in three quarters of the time when it is read.
    """
    import onnx
    from onnx import numpy_helper

    if not isinstance(detector, TorchDetector):
        raise ValueError("a graph cannot be exported: it is what export writes")
    ensemble, arrays = detector.fitted(), detector.arrays()
    values = learned.scoring(arrays)
    graph = _Graph(detector.front_end, detector.representations.cpu(), ensemble).eval()
    waveform = torch.zeros(detector.front_end.samples(detector.frames + 3))
    starts = torch.tensor([0, 3])
    representations = list(graph.representations(torch.zeros(1, detector.frames, detector.front_end.n_mels)))
    log_mel(waveform, detector.front_end, centred=False)  # what it keeps must not be made while it is traced
    example, shapes = _example(values)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            graph,
            (waveform, starts),
            kwargs={"arrays": example},
            input_names=["waveform", "starts", *example],
            output_names=["log_mel", *(REPRESENTATION + name for name in representations), *detector.backends],
            dynamic_shapes={
                "waveform": {0: Dim("samples", min=detector.front_end.samples(2))},
                "starts": {0: Dim("windows", min=1)},
                "arrays": shapes,
            },
            opset_version=OPSET,
            dynamo=True,
            optimize=simplified,
            verbose=False,
        )
    if program is None:  # which it is for another exporter than dynamo's
        raise ValueError("torch exported no program")
    model = onnx.ModelProto()
    model.CopyFrom(program.model_proto)
    del model.graph.value_info[:]
    model.graph.initializer.extend(numpy_helper.from_array(value, name) for name, value in values.items())
    about = About(
        description=detector.description,
        front_end=asdict(detector.front_end),
        frames=detector.frames,
        mel_centres=detector.mel_centres().tolist(),
        representations=representations,
        backends=list(detector.backends),
        recordings=list(detector.recordings.rows),
        machines=detector.identities,
        deciding={name: detector.deciding(name) for name in detector.identities},
        thresholds={name: detector.threshold(name) for name in detector.identities},
    )
    onnx_file.write(path, model, about, detector.recordings, learned.aside(arrays))


def _example(values: Mapping[str, np.ndarray]) -> tuple[dict[str, Tensor], dict[str, dict[int, Dim]]]:
    """Arrays like `values` to trace with, and which of their axes may have any length."""
    sizes: dict[str, Dim] = {}
    example: dict[str, Tensor] = {}
    shapes: dict[str, dict[int, Dim]] = {}
    for name, value in values.items():
        backend, _, last = name.rpartition(".")
        axes = GROWING.get(last, ("[members]",) if last.startswith("members_") else ())
        axes = ("machines",) if not backend else axes
        shape, growing = list(value.shape), {}
        for axis, what in enumerate(axes):
            of = f"{what.strip('[]')}_{name if what == '[members]' else backend}" if what != "machines" else what
            sizes.setdefault(of, Dim(of.replace(".", "_"), min=1))
            shape[axis], growing[axis] = EXAMPLE[what], sizes[of]
        example[name] = torch.zeros(shape, dtype=torch.from_numpy(value).dtype)
        shapes[name] = growing
    return example, shapes
