"""docs/metrics.md lists every metric that there is, with its type and its labels, and no other."""

from __future__ import annotations

from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from holdfast.contrib.prometheus import ClientMetrics
from holdfast.errors import LossCode
from servers.scripted_node import metrics_of_a_node

PAGE = Path(__file__).parents[2] / "docs" / "metrics.md"
LABELS = {"version", "reason", "use", "outcome", "by", "route", "method", "status", "limit", "code"}
"""All of them have few values, which are known before anybody asks for a lock."""
OF_EVERY_PROCESS = "process_"


class LostGrant:
    lost_code = LossCode.NOT_RENEWED


def of_a_client() -> CollectorRegistry:
    registry = CollectorRegistry()
    metrics = ClientMetrics(registry)
    hooks = metrics.hooks()
    hooks["on_renewed"](6.5)
    hooks["on_lost"](LostGrant())  # type: ignore[arg-type]
    metrics.fence_refused(None)  # type: ignore[arg-type]
    return registry


def exposed(*registries: CollectorRegistry) -> dict[str, tuple[str, tuple[str, ...]]]:
    """Name as it is scraped: type, labels."""
    found = {}
    for registry in registries:
        for family in registry.collect():
            if family.name.startswith(OF_EVERY_PROCESS):
                continue
            assert family.samples, f"{family.name}: not counted above"
            labels = {name: None for sample in family.samples for name in sample.labels}
            labels.pop("le", None)
            name = f"{family.name}_total" if family.type == "counter" else family.name
            found[name] = (family.type, tuple(labels))
    return found


def described() -> dict[str, tuple[str, tuple[str, ...]]]:
    rows = [line.split("|")[1:-1] for line in PAGE.read_text().splitlines() if line[:3] == "| `"]
    return {
        name.strip(" `"): (
            kind.strip(),
            tuple(each.strip() for each in labels.split(",") if each.strip()),
        )
        for name, kind, labels, _ in rows
    }


def test_every_metric_is_described_and_every_description_is_a_metric() -> None:
    """With its type, and its labels in their order."""
    assert described() == exposed(metrics_of_a_node().registry, of_a_client())


def test_no_label_has_values_without_number() -> None:
    """No key, no owner, no session."""
    for name, (_, labels) in exposed(metrics_of_a_node().registry, of_a_client()).items():
        assert set(labels) <= LABELS, name


def test_a_losing_client_is_counted_by_why() -> None:
    assert (
        of_a_client().get_sample_value("holdfast_client_lost_total", {"code": "not_renewed"}) == 1
    )


@pytest.mark.parametrize(
    "name",
    [
        *("build_info", "raft_leader", "raft_term", "raft_commit_lag_entries"),
        *("raft_leader_changes_total", "journal_fsync_duration_seconds", "apply_duration_seconds"),
        *("http_request_duration_seconds", "locks_held", "waiters", "acquire_wait_seconds"),
        *("lease_expired_total", "token_last", "rejected_total", "client_lease_margin_seconds"),
        *("client_lost_total", "fence_refused_total"),
    ],
)
def test_what_dashboards_are_built_on_keeps_its_name(name: str) -> None:
    """Whoever has an alert on one of these must not lose it by an upgrade."""
    assert f"holdfast_{name}" in described()
