"""A node on a scripted log, for the tests of what it counts: `metrics_of_a_node`."""

from __future__ import annotations

from typing import Any

from holdfast_coordinator.http.metrics import Metrics
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import Node
from holdfast_coordinator.node_report import CertificateReport, Vitals
from holdfast_coordinator.raft.ports import StorageStatus
from holdfast_coordinator.raft.scripted import ScriptedEngine, ScriptedLog


class _Engine(ScriptedEngine):
    @property
    def rejected(self) -> dict[str, int]:
        return {"schema": 1}

    @property
    def storage(self) -> StorageStatus:
        return StorageStatus(snapshots={"taken": 1})


class _Log(ScriptedLog):
    def attach(self, name: str, host: Any) -> ScriptedEngine:
        self.engines[name] = _Engine(self, name, host)
        return self.engines[name]


def metrics_of_a_node() -> Metrics:
    """Everything that a node counts, each at least once: what has labels has no sample before."""
    log = _Log()
    node = Node(
        "n1",
        lambda node: log.attach("n1", node),
        clock_ns=lambda: 0,
        limits=Limits(),
        cluster="test",
        members={"n1": ("", "")},
        session_ref_key=b"test",
    )
    certificate = CertificateReport("raft_tls.ca", "ca.pem", 1_800_000_000_000)
    node.vitals = lambda: Vitals(certificates=(certificate,), disk_free_bytes=1)
    metrics = Metrics()
    metrics.watch(node)
    metrics.observe_request("/v1/locks", "GET", 200, 0.1)
    metrics.observe_acquire("granted", 0.1)
    metrics.count_rejected("limit_reached", "waiters_max")
    metrics.count_watch_ended("slow")
    metrics.count_connection_ended("head_seconds")
    metrics.observe_fsync(0.1)
    metrics.observe_apply(0.1)
    metrics.observe_snapshot(0.1)
    return metrics
