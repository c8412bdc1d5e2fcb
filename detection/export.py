"""The detector as one ONNX graph, from log-mel windows to scores, for devices without torch.

    import json, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    detector = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
    scores = dict(zip((output.name for output in session.get_outputs()), session.run(None, {"log_mel": windows})))
    column = detector["machines"].index("pump/id_00")
    anomalous = scores[detector["backend"]][:, column].mean() > detector["thresholds"]["pump/id_00"]

The input holds B windows of `detector["frames"]` frames, (B, F, M) in dB; a longer recording is cut into windows every
`detector["window_hop"]` frames, the last one ending with it, and a shorter one is repeated to fill one. There is an
output per back-end, named after it: scores (B, machines), one column for each machine that the sound might come from.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from detection.detector import Detector
from detection.ensemble import Ensemble
from detection.representations import Representations
from storage.files import whole_file

OPSET = 18


class _Graph(nn.Module):
    def __init__(self, representations: Representations, ensemble: Ensemble):
        super().__init__()
        self.representations, self.ensemble = representations, ensemble

    def forward(self, log_mel: Tensor) -> tuple[Tensor, ...]:
        return tuple(self.ensemble(self.representations(log_mel)).values())


def export_onnx(detector: Detector, path: Path) -> None:
    """Write the detector to `path`, whole; what a reader needs beside the graph is JSON in its metadata."""
    import onnx

    if detector.ensemble is None:
        raise ValueError("the detector was not fitted")
    graph = _Graph(detector.representations, detector.ensemble).eval()
    example = torch.zeros(2, detector.frames, detector.front_end.n_mels)
    program = torch.onnx.export(
        graph,
        (example,),
        input_names=["log_mel"],
        output_names=list(detector.backends),
        dynamic_shapes={"log_mel": {0: torch.export.Dim("windows", min=1)}},
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    if program is None:  # which it is for another exporter than dynamo's
        raise ValueError("torch exported no program")
    model = program.model_proto
    thresholds = {name: detector.threshold(name) for name in detector.identities}
    described = {
        "backend": detector.settings.backend,
        "deciding": {name: detector.deciding(name) for name in detector.identities},
        "machines": detector.identities,
        "frames": detector.frames,
        "window_hop": detector.settings.window_hop,
        "thresholds": thresholds,
        "log_mel": asdict(detector.front_end),
    }
    onnx.helper.set_model_props(model, {"detector": json.dumps(described)})
    with whole_file(path) as unfinished:
        unfinished.write_bytes(model.SerializeToString())
