"""The ONNX graph gives what the detector gives, without torch."""

import json
import subprocess
import sys

import numpy as np
import pytest

from detection.export import export_onnx


@pytest.fixture(scope="module")
def exported(detector, tmp_path_factory):
    path = tmp_path_factory.mktemp("onnx") / "model.onnx"
    export_onnx(detector, path)
    assert [file.name for file in path.parent.iterdir()] == ["model.onnx"]
    return path


@pytest.mark.parametrize(("windows", "frames"), [(1, 40), (3, 40), (2, 31), (1, 5)])
def test_onnxruntime_gives_the_detectors_embedding_and_scores(detector, exported, windows, frames):
    onnxruntime = pytest.importorskip("onnxruntime")
    session = onnxruntime.InferenceSession(exported)
    log_mel = np.random.default_rng(windows).normal(-40, 12, (windows, frames, 32)).astype(np.float16)
    embedding, *scores = session.run(None, {"log_mel": log_mel.astype(np.float32)})
    assert [output.name for output in session.get_outputs()] == ["embedding", *detector.backends]
    for one in range(windows):
        outputs = detector.outputs(log_mel[one])
        assert embedding[one] == pytest.approx(outputs.embeddings[0], abs=1e-4)
        for name, values in zip(detector.backends, scores, strict=True):
            for column, identity in enumerate(detector.identities):
                expected = detector.window_scores(outputs, identity, name)[0]
                assert values[one, column] == pytest.approx(expected, rel=1e-4, abs=1e-4), name


def test_a_process_without_torch_can_judge(detector, exported):
    pytest.importorskip("onnxruntime")
    code = """
import json, sys, numpy, onnxruntime
session = onnxruntime.InferenceSession(sys.argv[1])
about = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
session.run(None, {"log_mel": numpy.zeros((1, about["frames"], about["log_mel"]["n_mels"]), "float32")})
print(json.dumps(about))
assert "torch" not in sys.modules
"""
    run = subprocess.run([sys.executable, "-c", code, exported], capture_output=True, text=True, check=True)
    about = json.loads(run.stdout)
    assert about["identities"] == detector.identities and about["thresholds"] == detector.thresholds
