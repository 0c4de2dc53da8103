"""Three real processes that speak TLS to each other."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from pathlib import Path
from signal import Signals

import aiohttp
import pytest
import trustme

from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

SETTINGS = "raft_tls:\n  ca: ca.pem\n  certificate: tls/{node}.pem\n  key: tls/{node}.key"


def issue(ca: trustme.CA, directory: Path, node: str, *, ends: datetime | None = None) -> None:
    begins = None if ends is None else datetime(2019, 1, 1, tzinfo=UTC)
    leaf = ca.issue_cert(node, not_before=begins, not_after=ends)
    leaf.cert_chain_pems[0].write_to_path(directory / "tls" / f"{node}.pem")
    leaf.private_key_pem.write_to_path(directory / "tls" / f"{node}.key")


async def acquire(http: aiohttp.ClientSession, url: str, key: str) -> int:
    """The token of a grant; asked for until there is one."""
    async with asyncio.timeout(20):
        while True:
            body = {"key": key, "ttl_ms": 20_000, "wait_ms": 1_000}
            async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
                answer = await response.json(content_type=None)
                if response.status == 200:
                    return int(answer["token"])


async def test_a_cluster_over_tls_grants_fails_over_and_refuses_an_expired_certificate(
    tmp_path: Path,
) -> None:
    """Every node grants; the leader is killed, and the others go on; it comes back with an expired certificate and does not start,
    and with a good one it does. No frame is ever rejected."""
    ca = trustme.CA()
    (tmp_path / "tls").mkdir()
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    for node in ("n1", "n2", "n3"):
        issue(ca, tmp_path, node)
    async with (
        LocalCluster(tmp_path, settings=SETTINGS) as cluster,
        aiohttp.ClientSession() as http,
    ):
        tokens = [await acquire(http, cluster.url(node), f"key {node}") for node in cluster.names]
        assert tokens == [1, 2, 3]
        async with http.get(f"{cluster.url('n1')}/v1/cluster") as response:
            leader = (await response.json())["leader"]
        await cluster.kill(leader, Signals.SIGKILL)
        other = cluster.running[0]
        assert await acquire(http, cluster.url(other), "after the leader") == 4
        issue(ca, tmp_path, leader, ends=datetime(2020, 1, 1, tzinfo=UTC))
        await cluster.start_unready(leader)
        assert await cluster.ended(leader) == 2
        assert f"$.raft_tls.certificate: '{tmp_path}/tls/{leader}.pem'" in cluster.log(leader)
        assert "certificate has expired" in cluster.log(leader)
        issue(ca, tmp_path, leader)
        await cluster.start(leader)
        assert await acquire(http, cluster.url(leader), "with a new certificate") == 5
        for node in cluster.running:
            async with http.get(f"{cluster.url(node)}/metrics") as response:
                text = await response.text()
            assert "holdfast_raft_frames_rejected" in text
            assert 'reason="TLS' not in text
            assert "with a new certificate" not in text
