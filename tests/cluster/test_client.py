"""The client library against three real coordinator processes, in both of its faces."""

from __future__ import annotations

import asyncio
from pathlib import Path

import aiohttp
import pytest

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

KEY = "1234collectPayment"


async def test_a_hold_survives_the_death_of_the_leader_and_the_next_token_is_higher(
    tmp_path: Path,
) -> None:
    """time 0: a client holds the lock and another waits; time 1: the leader is killed; time 2: the first releases, the other is
    granted, and neither has noticed more than a delay."""
    async with (
        LocalCluster(tmp_path) as cluster,
        holdfast.connect(cluster.endpoints, ttl=5.0) as first,
        holdfast.connect(cluster.endpoints, ttl=5.0) as second,
    ):
        async with first.lock(KEY) as grant:
            waiting = asyncio.ensure_future(second.acquire_lock(KEY, wait=30.0))
            while not (await first.read_lock(KEY)).waiters:
                pass  # each round is a linearizable read over the network
            leader = (await first.status()).leader
            assert leader is not None
            await cluster.kill(leader)
            assert not grant.is_lost
        assert await waiting
        holders = (await first.read_lock(KEY)).holders
        assert [holder.token for holder in holders] == [grant.token + 1]
        with pytest.raises(holdfast.NotAcquired):
            async with first.lock(KEY):
                pass
        # The lock belongs to the task that made the call, though another one waited for it.
        assert await asyncio.create_task(_release(second)) is False
        assert await second.release_lock(KEY)


async def test_a_worker_that_hangs_is_recorded_as_one_that_died(tmp_path: Path) -> None:
    """`max_hold` passes: the body is cancelled, nothing is renewed any more, and the next holder is told `expired`."""
    async with (
        LocalCluster(tmp_path) as cluster,
        holdfast.connect(cluster.endpoints, ttl=1.0) as hung,
        holdfast.connect(cluster.endpoints) as other,
    ):
        with pytest.raises(holdfast.LockLost) as lost:
            async with hung.lock(KEY, max_hold=1.5):
                await asyncio.Event().wait()
        assert lost.value.code is holdfast.LossCode.MAX_HOLD
        async with other.lock(KEY, wait=10.0) as grant:
            assert grant.previous == holdfast.Previous(lost.value.token, "expired")


async def _release(client: holdfast.AsyncClient) -> bool:
    return await client.release_lock(KEY)


async def test_the_blocking_face_is_the_same_thing(tmp_path: Path) -> None:
    async with LocalCluster(tmp_path) as cluster:
        tokens = await asyncio.to_thread(_two_blocking_clients, cluster.endpoints)
        assert tokens == [1, 2]
        async with (
            aiohttp.ClientSession() as http,
            http.get(f"{cluster.url('n1')}/metrics") as seen,
        ):
            assert "holdfast_locks_held 0.0" in await seen.text()


def _two_blocking_clients(endpoints: str) -> list[int]:
    tokens: list[int] = []
    with holdfast.connect_sync(endpoints) as one, holdfast.connect_sync(endpoints) as other:
        for client, rival in ((one, other), (other, one)):
            assert client.acquire_lock(KEY)
            assert not rival.acquire_lock(KEY)
            assert not rival.release_lock(KEY)
            grant = client.grant_of(KEY)
            assert grant is not None
            tokens.append(grant.token)
            assert client.release_lock(KEY)
    return tokens
