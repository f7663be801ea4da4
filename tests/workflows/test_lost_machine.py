"""A machine of the cluster goes, and with it the room for another worker: what its worker was at is done by those that are left."""

import time
from pathlib import Path

import pytest

from polypforge.workflows.cluster import on_cluster

pytestmark = pytest.mark.slow
ray = pytest.importorskip("ray")
from ray.cluster_utils import Cluster  # noqa: E402


@pytest.fixture
def two_machines():
    cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 1, "include_dashboard": False})
    second = cluster.add_node(num_cpus=1)
    ray.init(address=cluster.address, log_to_driver=False, logging_level="ERROR")
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


class Slow:
    """On the second machine a shard never ends; on the first none ends before one has begun there."""

    def __init__(self, folder: Path, head: str, device: str) -> None:
        self.folder, self.here = folder, ray.get_runtime_context().get_node_id() == head

    def run(self, number: int) -> tuple[int, bool]:
        if not self.here:
            (self.folder / "begun").touch()
            time.sleep(600)
        until = time.monotonic() + 120
        while not (self.folder / "begun").exists() and time.monotonic() < until:
            time.sleep(0.05)
        return number, self.here


def test_a_shard_of_a_lost_machine_is_done_by_another(two_machines, tmp_path):
    cluster, second = two_machines
    head = ray.get_runtime_context().get_node_id()
    answers = []
    for answer in on_cluster(Slow, (tmp_path, head), range(12), 2):
        answers.append(answer)
        if second is not None and (tmp_path / "begun").exists():
            cluster.remove_node(second)
            second = None
    assert second is None, "the second machine was never at work"
    assert sorted(answers) == [(n, True) for n in range(12)]
