"""A Ray cluster on this machine, for all tests of this folder."""

import pytest

MEMORY = 80 * 2**20  # of a node's object store


class Nodes:
    """A cluster: a head that does no work, and nodes of a core each."""

    def __init__(self):
        from ray.cluster_utils import Cluster

        head = {"num_cpus": 0, "object_store_memory": MEMORY, "include_dashboard": False}
        self.cluster = Cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add() for _ in range(2)]

    def add(self):
        return self.cluster.add_node(num_cpus=1, object_store_memory=MEMORY)

    def kill(self):
        """End a node at once, as when its power fails; a new one takes its place."""
        self.nodes.pop(0).kill_raylet()
        self.nodes.append(self.add())


@pytest.fixture(scope="package")
def nodes(s3, tmp_path_factory):
    """Two nodes that work; the environment says where their cluster is. With copies of their own of an object store."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install -r requirements-cluster.txt")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_health_check_period_ms", "500")
        patch.setenv("RAY_worker_niceness", "0")  # else tests that run beside these starve the workers
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("nodes")))
        nodes = Nodes()
        patch.setenv("RAY_ADDRESS", nodes.cluster.address)
        patch.setenv("RCMAE_RAY", "auto")
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("here")))
        yield nodes
        ray.shutdown()
        nodes.cluster.shutdown()
