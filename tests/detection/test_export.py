"""The graph by itself, as export's docstring tells to run it."""

import json

import numpy as np
import onnxruntime
import pytest

from audio.clips import read_clip


def test_the_graph_can_be_run_by_what_its_metadata_say(detector, graph, root):
    session = onnxruntime.InferenceSession(graph)
    described = json.loads(session.get_modelmeta().custom_metadata_map["detector"])
    assert [each.name for each in session.get_inputs()] == ["waveform", "starts"]
    assert {each.name for each in session.get_outputs()} >= {"log_mel", *detector.backends}
    clip = read_clip(root / "data/raw/pump/test/anomaly_id_00_00000001.flac")
    margin = described["front_end"]["n_fft"] // 2
    waveform = np.pad(clip, margin, mode="reflect")
    starts = np.array([0, 20, 23])  # every 20 frames, the last ends with the recording
    (scores,) = session.run([described["deciding"]["pump/id_00"]], {"waveform": waveform, "starts": starts})
    column = described["machines"].index("pump/id_00")
    verdict = detector.score(clip, 16000, "pump", "id_00")
    assert scores[:, column].mean() == pytest.approx(verdict.score, rel=1e-4)
    assert described["thresholds"]["pump/id_00"] == pytest.approx(verdict.threshold)
