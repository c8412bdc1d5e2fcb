"""The ONNX graph gives what the detector gives, without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch

from detection.export import export_onnx


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(detector, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    return path


@pytest.mark.parametrize("count", [1, 3])
def test_onnxruntime_gives_the_detectors_scores(detector, exported, count):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported)
    windows = np.random.default_rng(count).normal(-40, 12, (count, 40, 32)).astype(np.float16)
    scores = session.run(None, {"log_mel": windows.astype(np.float32)})
    assert [output.name for output in session.get_outputs()] == list(detector.backends)
    for name, of_machines in zip(detector.backends, scores, strict=True):
        for number in range(len(detector.identities)):
            expected = detector.window_scores(torch.from_numpy(windows), number)[name]
            assert of_machines[:, number] == pytest.approx(expected, rel=1e-4, abs=1e-4), name


def test_a_process_without_torch_can_judge(detector, exported):
    pytest.importorskip("onnxruntime")
    code = """
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
described = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
session.run(None, {"log_mel": numpy.zeros((1, described["frames"], described["log_mel"]["n_mels"]), "float32")})
print(json.dumps(described))
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True, check=True)
    described = json.loads(run.stdout)
    assert described["machines"] == detector.identities
    assert described["thresholds"] == {name: detector.threshold(name) for name in detector.identities}
