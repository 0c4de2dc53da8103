"""Callers that go away, faults of ours, too much at once, and stopping."""

from __future__ import annotations

import asyncio
import json
import re

import pytest
import structlog.testing
import yaml

from holdfast_coordinator.config import HttpLimits
from holdfast_coordinator.http import Metrics, openapi_document, start_http


def _post(path: str, body: object) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {len(data)}\r\n\r\n"
    return head.encode() + data


async def test_a_caller_that_disconnects_while_waiting_is_withdrawn(caller, node):
    """The node sees the cancellation, and the next caller is not behind somebody who will never answer."""
    grant = (await caller.acquire("k")).body
    _, writer = await asyncio.open_connection("127.0.0.1", caller.port)
    writer.write(_post("/v1/locks/acquire", {"key": "k", "ttl_ms": 10_000, "wait_ms": 30_000}))
    await node.queued.wait()
    assert (await caller.get("/v1/locks", key="k")).body["queue_length"] == 1
    writer.transport.abort()
    await asyncio.wait_for(node.withdrew.wait(), 5)
    assert len(node.withdrawn) == 1
    assert (await caller.get("/v1/locks", key="k")).body["queue_length"] == 0
    await caller.post("/v1/locks/release", {"token": 1, "session": grant["session"]})
    assert (await caller.acquire("k")).body["token"] == 2


async def test_a_half_closed_connection_counts_as_gone(caller, node):
    """It sent its request and closed its side: nobody reads the answer of a minute later."""
    await caller.acquire("k")
    _, writer = await asyncio.open_connection("127.0.0.1", caller.port)
    writer.write(_post("/v1/locks/acquire", {"key": "k", "ttl_ms": 10_000, "wait_ms": 30_000}))
    await node.queued.wait()
    writer.close()
    await asyncio.wait_for(node.withdrew.wait(), 5)
    await writer.wait_closed()


async def test_a_fault_of_ours_is_a_500_problem_and_logged_without_what_was_sent(caller, node):
    """The log names the place; a key, even one in the exception's text, is in neither."""
    node.answers = [
        KeyError("customers/4711"),
        RuntimeError("customers/4711"),
        ConnectionResetError("customers/4711"),
    ]
    with structlog.testing.capture_logs() as logs:
        for _ in range(3):
            fault = await caller.acquire("customers/4711")
            assert (fault.status, fault.code) == (500, "internal")
            assert b"4711" not in fault.raw
    assert [log["error"] for log in logs] == ["KeyError", "RuntimeError", "ConnectionResetError"]
    assert logs[0]["route"] == "/v1/locks/acquire"
    assert "in acquire" in logs[0]["traceback"]
    assert "4711" not in repr(logs)
    assert (await caller.acquire("k")).status == 200


async def test_nothing_is_logged_of_an_ordinary_request(caller, capsys, caplog):
    """No access log: a query holds keys."""
    caplog.set_level("DEBUG")
    with structlog.testing.capture_logs() as logs:
        await caller.acquire("customers/4711")
        await caller.get("/v1/locks", key="customers/4711")
    captured = capsys.readouterr()
    ours = [r for r in caplog.records if r.name.startswith(("aiohttp", "holdfast"))]
    assert "4711" not in captured.out + captured.err + repr(logs) + repr(ours)


async def test_more_requests_at_once_than_the_bound_are_overloaded(serve, node):
    """A definite refusal: it was never given to the node. Room comes back when a request ends."""
    caller = await serve(node, http_limits=HttpLimits(requests_in_flight_max=1))
    grant = (await caller.acquire("k")).body
    waiting = asyncio.create_task(caller.acquire("k", wait_ms=30_000))
    await node.queued.wait()
    before = len(node.submitted)
    refused = await caller.acquire("other")
    assert (refused.status, refused.code) == (503, "overloaded")
    assert len(node.submitted) == before
    node.advance(grant["remaining_ms"])
    assert (await waiting).body["previous"] == {"token": 1, "ended": "expired"}
    assert (await caller.acquire("other")).status == 200


async def test_stopping_cancels_who_waits(node):
    """A node that stops keeps nobody, and the machine keeps no waiter of it."""
    server = await start_http(node, "127.0.0.1", 0, shutdown_grace_seconds=0.01)
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    for n in range(2):
        writer.write(
            _post("/v1/locks/acquire", {"key": "k", "ttl_ms": 1000, "wait_ms": 30_000 * n})
        )
    await node.queued.wait()
    await server.close()
    assert len(node.withdrawn) == 1
    await reader.read()
    writer.close()
    await server.close()


async def test_the_description_names_the_metrics_and_no_others(serve, node):
    caller = await serve(node, metrics=Metrics())
    text = (await caller.get("/metrics")).raw.decode()
    shown = set(re.findall(r"^# TYPE holdfast_(\w+) (?!unknown)", text, re.MULTILINE))
    shown = {name for name in shown if not name.endswith("_created")}
    described = yaml.safe_load(openapi_document())["paths"]["/metrics"]["get"]["description"]
    labels = {"holdfast_", "taken", "failed", "superseded", "delay", "in_doubt", "done"}
    assert set(re.findall(r"`(\w+)`", described)) - labels == shown


async def test_the_metrics_count_and_never_name_a_key(serve, node):
    """Every name that the dashboards use is there; a caller cannot invent a label."""
    metrics = Metrics()
    metrics.observe_fsync(0.001)
    metrics.observe_apply(0.0001)
    metrics.observe_snapshot(3)
    caller = await serve(node, metrics=metrics)
    await caller.acquire("customers/4711", owner="me-4711")
    await caller.acquire("customers/4711")
    await caller.send("PROPFIND", "/no/such/4711")
    reply = await caller.get("/metrics")
    assert reply.headers["Content-Type"].startswith("text/plain")
    text = reply.raw.decode()
    assert "4711" not in text
    for line in (
        'holdfast_http_request_duration_seconds_count{method="POST",route="/v1/locks/acquire",status="200"} 1.0',
        'holdfast_http_request_duration_seconds_count{method="POST",route="/v1/locks/acquire",status="409"} 1.0',
        'holdfast_http_request_duration_seconds_count{method="other",route="(none)",status="404"} 1.0',
        'holdfast_acquire_wait_seconds_count{outcome="granted"} 1.0',
        'holdfast_acquire_wait_seconds_count{outcome="held"} 1.0',
        'holdfast_rejected_total{reason="held"} 1.0',
        'holdfast_rejected_total{reason="not_found"} 1.0',
        'holdfast_raft_frames_rejected_total{reason="schema"} 2.0',
        "holdfast_journal_fsync_duration_seconds_count 1.0",
        "holdfast_apply_duration_seconds_count 1.0",
        "holdfast_raft_leader 1.0",
        "holdfast_raft_term 2.0",
        "holdfast_raft_commit_lag_entries 1.0",
        "holdfast_raft_leader_changes_total 1.0",
        "holdfast_locks_held 1.0",
        "holdfast_waiters 0.0",
        "holdfast_lease_expired_total 0.0",
        "holdfast_grants_total 1.0",
        "holdfast_token_last 1.0",
        "holdfast_log_entries 4.0",
        "holdfast_journal_bytes 4096.0",
        "holdfast_journal_segments 2.0",
        "holdfast_snapshot_index 3.0",
        "holdfast_snapshot_bytes 512.0",
        'holdfast_snapshots_total{outcome="taken"} 5.0',
        'holdfast_snapshots_total{outcome="failed"} 1.0',
        'holdfast_snapshots_total{outcome="superseded"} 0.0',
        "holdfast_snapshots_sent_total 6.0",
        "holdfast_snapshots_installed_total 7.0",
        'holdfast_snapshot_duration_seconds_bucket{le="5.0"} 1.0',
        'holdfast_closed_keys{by="delay"} 0.0',
        'holdfast_closed_keys{by="in_doubt"} 0.0',
        'holdfast_closed_keys{by="done"} 0.0',
        "holdfast_checkpoints 0.0",
        "holdfast_watchers 0.0",
        "holdfast_trail_revision 1.0",
        "holdfast_trail_first_revision 1.0",
        "holdfast_forced_total 0.0",
        "holdfast_deadlocks_total 0.0",
    ):
        assert line in text.splitlines()
    assert "holdfast_build_info{version=" in text
    openmetrics = await caller.send(
        "GET", "/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert openmetrics.headers["Content-Type"].startswith("application/openmetrics-text")
    assert openmetrics.raw.endswith(b"# EOF\n")


@pytest.mark.parametrize("accept", ["*/*", "application/msgpack"])
async def test_an_answer_is_never_kept_by_a_cache(caller, accept):
    """A lock's state of a second ago is wrong."""
    for path in ("/v1/locks", "/v1/cluster", "/no/such"):
        reply = await caller.send("GET", path, headers={"Accept": accept})
        assert reply.headers["Cache-Control"] == "no-store"
