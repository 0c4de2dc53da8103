"""`GET /v1/cluster/node`: what one node tells of itself."""

from __future__ import annotations

from typing import Any

import holdfast


async def test_a_node_tells_of_itself(caller: Any) -> None:
    """Versions, clock, peers, disk, certificates, settings, and how much there is; no key, no owner."""
    await caller.acquire("secret/key", owner="somebody")
    reply = await caller.get("/v1/cluster/node")
    assert reply.status == 200
    body = reply.body
    assert (body["cluster"], body["node"], body["version"]) == ("test", "n1", "0.1")
    assert body["format_levels"] == {"current": 1, "min": 1, "max": 2}
    assert (body["clock_us"], body["boot"], body["stalls"]) == (5_000_000, 3, 4)
    assert body["peers"] == [
        {"name": "n2", "connected": False, "version": None, "format_level_max": None},
        {"name": "n3", "connected": True, "version": "0.2", "format_level_max": 3},
    ]
    assert body["syncs"] == {
        "count": 1_000,
        "median_us": 700,
        "p99_us": 2_000,
        "longest_us": 9_000,
    }
    assert body["storage"] == {
        "journal_bytes": 4096,
        "log_entries": 4,
        "snapshot_index": 3,
        "free_bytes": 1 << 30,
    }
    assert body["settings"] == {"limits": "af82"}
    assert body["locks"]["holds"] == body["locks"]["grants_total"] == 1
    assert "secret/key" not in str(body)
    assert "somebody" not in str(body)


async def test_the_client_reads_it_from_each_endpoint(caller: Any) -> None:
    """With the time before and after; or says why not."""
    nobody = "http://127.0.0.1:9"
    async with holdfast.connect(f"{caller.url},{nobody}") as client:
        reports = await client.reports()
    report = reports[caller.url]
    assert isinstance(report, holdfast.NodeReport)
    assert (report.node, report.version, report.clock, report.ready) == ("n1", "0.1", 5.0, True)
    assert report.answered_at > report.asked_at
    assert isinstance(reports[nobody], holdfast.Unreachable)
