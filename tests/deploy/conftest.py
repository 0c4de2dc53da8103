"""Lets the tests of the kit share `kit`, and know every metric that a node really exports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))

from holdfast_coordinator.http.metrics import Metrics
from holdfast_coordinator.machine import Limits
from holdfast_coordinator.node import Node
from holdfast_coordinator.node_report import CertificateReport, Vitals
from holdfast_coordinator.raft.scripted import ScriptedLog


@pytest.fixture(scope="session")
def exported() -> frozenset[str]:
    """The names of all samples that a scrape of a node can have, counted or not yet."""
    metrics = Metrics()
    log = ScriptedLog()
    node = Node(
        "n1",
        lambda node: log.attach("n1", node),
        clock_ns=lambda: 0,
        limits=Limits(),
        cluster="c",
        members={"n1": ("h", "r")},
        session_ref_key=b"",
    )
    certificate = CertificateReport("raft_tls.ca", "ca.pem", 1_800_000_000_000)
    node.vitals = lambda: Vitals(certificates=(certificate,), disk_free_bytes=1)
    metrics.watch(node)
    # One of each that has labels, or it has no sample yet.
    metrics.observe_request("/v1/locks/acquire", "POST", 200, 0.001)
    metrics.observe_acquire("granted", 0.001)
    metrics.count_rejected("limit_reached", "sessions_max")
    metrics.count_watch_ended("slow")
    metrics.count_connection_ended("head_seconds")
    text = metrics.render("text/plain")[0].decode()
    names = {
        sample.name
        for family in text_string_to_metric_families(text)
        for sample in family.samples
        if not sample.name.endswith("_created")
    }
    names |= {"holdfast_snapshots_total", "holdfast_raft_frames_rejected_total"}
    for name in ("holdfast_snapshots", "holdfast_raft_frames_rejected"):
        assert f"# TYPE {name} counter" in text or f"# TYPE {name}_total counter" in text
    return frozenset(names)
