"""A detector of the tiny corpus, made once."""

import pytest

from detection.detector import Detector
from detection.export import export_onnx
from tests.tiny_corpus import make_scored


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where data/detector, data/raw … of the tiny corpus lie."""
    return make_scored(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="session")
def detector(root):
    return Detector.load(root / "data" / "detector")


@pytest.fixture(scope="session")
def graph(detector, tmp_path_factory):
    """The same detector as a graph: the path of its file."""
    path = tmp_path_factory.mktemp("graph") / "detector.onnx"
    export_onnx(detector, path, simplified=False)
    assert [file.name for file in path.parent.iterdir()] == ["detector.onnx"]
    return path
