"""The detector as one ONNX graph, from a log-mel spectrogram to embedding and scores, for devices without torch.

    import json, onnxruntime
    session = onnxruntime.InferenceSession("model.onnx")
    about = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
    embedding, *scores = session.run(None, {"log_mel": windows})  # (B, F, M), dB
    column = about["identities"].index("pump/id_00")
    anomalous = scores[0][:, column].mean() > about["thresholds"]["negative_log_probability"]["pump/id_00"]

The input holds B windows of F <= `about["frames"]` frames; a longer recording is cut into windows of that length every
`about["window_hop"]` frames, the last one ending with it. Besides `embedding` (B, width) there is an output per
back-end, named after it: scores (B, identities), one column for each machine that the sound might come from.
"""

import json
from dataclasses import asdict
from pathlib import Path

import torch
from torch import Tensor, nn

from detection.backends import GaussianMixture, Mahalanobis, NearestNeighbour
from detection.detector import Detector
from model.network import IdentityClassifier
from storage.files import whole_file

OPSET = 18


class _MinusLogP(nn.Module):
    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        # log(1 + sum of the others' odds), as in the back-end: exact near certainty
        margins = logits[:, None, :] - logits[:, :, None]  # (B, own, other)
        own = torch.eye(logits.shape[1], dtype=torch.bool)
        others = torch.logsumexp(margins.masked_fill(own, -1e9), dim=2)
        return others.clamp(min=0) + torch.log1p(torch.exp(-others.abs()))


class _NearestNeighbour(nn.Module):
    def __init__(self, backend: NearestNeighbour, identities: int):
        super().__init__()
        arrays = backend.arrays()
        known = [torch.from_numpy(arrays[f"{one}.embeddings"]) for one in range(identities)]
        self.counts = [min(backend.neighbours, len(own)) for own in known]
        for one, own in enumerate(known):
            self.register_buffer(f"known_{one}", nn.functional.normalize(own, dim=1))

    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        directions = nn.functional.normalize(embedding, dim=1)
        nearest = [
            torch.topk(directions @ getattr(self, f"known_{one}").T, count, dim=1).values.mean(dim=1)
            for one, count in enumerate(self.counts)
        ]
        return 1 - torch.stack(nearest, dim=1)


class _Mahalanobis(nn.Module):
    def __init__(self, backend: Mahalanobis, identities: int):
        super().__init__()
        arrays = backend.arrays()
        for key in ("mean", "whitening"):
            stacked = torch.stack([torch.from_numpy(arrays[f"{one}.{key}"]) for one in range(identities)])
            self.register_buffer(key, stacked)

    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        centred = (embedding[:, None] - self.mean).unsqueeze(-1)  # (B, C, D, 1)
        return (self.whitening @ centred).square().sum((2, 3)).sqrt()  # (B, C)


class _GaussianMixture(nn.Module):
    def __init__(self, backend: GaussianMixture, identities: int):
        super().__init__()
        arrays = backend.arrays()
        most = max(len(arrays[f"{one}.weights"]) for one in range(identities))
        for key, filling in (("weights", 1e-30), ("means", 0.0), ("covariances", 1.0)):
            padded = []
            for one in range(identities):
                array = torch.from_numpy(arrays[f"{one}.{key}"])
                missing = torch.full((most - len(array), *array.shape[1:]), filling)
                padded.append(torch.cat([array, missing]))
            self.register_buffer(key, torch.stack(padded))  # (C, K) or (C, K, D)

    def forward(self, embedding: Tensor, logits: Tensor) -> Tensor:
        squares = (embedding[:, None, None] - self.means).square() / self.covariances  # (B, C, K, D)
        constants = torch.log(2 * torch.pi * self.covariances).sum(2)
        return -torch.logsumexp(torch.log(self.weights) - (squares.sum(3) + constants) / 2, dim=2)


class _Graph(nn.Module):
    """Log-mel (B, F, M) in dB -> embedding, and scores per back-end."""

    def __init__(self, classifier: IdentityClassifier, mean: float, std: float, backends: list[nn.Module]):
        super().__init__()
        self.classifier, self.mean, self.std = classifier, mean, std
        self.backends = nn.ModuleList(backends)

    def forward(self, log_mel: Tensor) -> tuple[Tensor, ...]:
        frames, mels = self.classifier.config.frames, self.classifier.config.mels
        standardised = (log_mel - self.mean) / self.std
        # padded by a whole window and cut, so that the graph takes any number of frames up to a window
        padding = torch.zeros(1, frames, mels).expand(log_mel.shape[0], -1, -1)
        embedding, _, logits = self.classifier(torch.cat([standardised, padding], dim=1)[:, :frames])
        return embedding, *(backend(embedding, logits) for backend in self.backends)


def export_onnx(detector: Detector, path: Path) -> None:
    """Write the graph to `path`, whole or not at all, with the detector's settings and thresholds as metadata."""
    import onnx

    count = len(detector.identities)
    kinds = {NearestNeighbour: _NearestNeighbour, Mahalanobis: _Mahalanobis, GaussianMixture: _GaussianMixture}
    modules = [
        kinds[type(backend)](backend, count) if type(backend) in kinds else _MinusLogP()
        for backend in detector.backends.values()
    ]
    frames, mels = detector.classifier.config.frames, detector.classifier.config.mels
    graph = _Graph(detector.classifier, detector.mean, detector.std, modules).eval()
    program = torch.onnx.export(
        graph,
        (torch.zeros(2, frames - 1, mels),),
        input_names=["log_mel"],
        output_names=["embedding", *detector.backends],
        dynamic_shapes={
            "log_mel": {0: torch.export.Dim("windows", min=1), 1: torch.export.Dim("frames", min=1, max=frames)}
        },
        opset_version=OPSET,
        dynamo=True,
        verbose=False,
    )
    model = program.model_proto
    about = {
        "identities": detector.identities,
        "backend": detector.settings.backend,
        "thresholds": detector.thresholds,
        "training_scores": detector.training_scores,
        "log_mel": asdict(detector.front_end),
        "frames": frames,
        "window_hop": detector.settings.window_hop,
    }
    onnx.helper.set_model_props(model, {"detector": json.dumps(about)})
    onnx.checker.check_model(model)
    with whole_file(path) as unfinished:
        onnx.save(model, unfinished)
