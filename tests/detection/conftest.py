"""A detector of the tiny corpus, made once."""

import pytest

from detection.detector import Detector
from tests.tiny_corpus import make_scored


@pytest.fixture(scope="session")
def root(tmp_path_factory):
    """Where data/detector, data/raw … of the tiny corpus lie."""
    return make_scored(tmp_path_factory.mktemp("scored"))


@pytest.fixture(scope="session")
def detector(root):
    return Detector.load(root / "data" / "detector")
