"""A Ray cluster on this machine, for all tests of this folder."""

import pytest

from benchmarks.cluster import Nodes


@pytest.fixture(scope="package")
def nodes(s3, tmp_path_factory):
    """Two nodes that work; the environment says where their cluster is. With copies of their own of an object store."""
    pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("nodes")))
        nodes = Nodes(2)
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("here")))
        yield nodes
        nodes.close()
