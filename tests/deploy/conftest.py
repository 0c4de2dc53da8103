"""Lets the tests of the kit share `kit`, and know every metric that a node really exports."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

sys.path.insert(0, str(Path(__file__).parent))

from servers.scripted_node import metrics_of_a_node


@pytest.fixture(scope="session")
def exported() -> frozenset[str]:
    """The names of all samples that a scrape of a node can have, counted or not yet."""
    text = metrics_of_a_node().render("text/plain")[0].decode()
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
