"""Three real coordinator processes on loopback, asked as curl would ask: the promises that a user tries first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

KEY = "1234collectPayment"
FAILOVER_SECONDS_MAX = 3.0


class Caller:
    """One HTTP caller; `ask` answers (status, body)."""

    def __init__(self, cluster: LocalCluster, http: aiohttp.ClientSession) -> None:
        self.cluster = cluster
        self.http = http

    async def ask(self, node: str, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        async with self.http.post(f"{self.cluster.url(node)}{path}", json=body) as response:
            return response.status, await response.json(content_type=None)

    async def acquire(self, node: str, **body: Any) -> tuple[int, dict[str, Any]]:
        return await self.ask(node, "/v1/locks/acquire", {"key": KEY, **body})

    async def release(self, node: str, grant: dict[str, Any]) -> int:
        body = {"token": grant["token"], "session": grant["session"]}
        return (await self.ask(node, "/v1/locks/release", body))[0]

    async def get(self, node: str, path: str) -> dict[str, Any]:
        async with self.http.get(f"{self.cluster.url(node)}{path}") as response:
            body: dict[str, Any] = await response.json(content_type=None)
            return body

    async def leader(self) -> str:
        """The leader that a majority of the running nodes names."""
        names = self.cluster.running
        while True:
            seen = [(await self.get(name, "/v1/cluster"))["leader"] for name in names]
            for name in names:
                if seen.count(name) * 2 > len(self.cluster.names):
                    return name

    async def holders(self, node: str) -> list[dict[str, Any]]:
        holders: list[dict[str, Any]] = (await self.get(node, f"/v1/locks?key={KEY}"))["holders"]
        return holders

    async def waiters(self, node: str) -> list[dict[str, Any]]:
        waiters: list[dict[str, Any]] = (await self.get(node, f"/v1/locks?key={KEY}"))["waiters"]
        return waiters

    async def until_waiting(self, node: str) -> None:
        while not await self.waiters(node):
            pass  # each round is a linearizable read over the network


@pytest.fixture
async def caller(tmp_path: Path) -> AsyncIterator[Caller]:
    async with LocalCluster(tmp_path) as cluster, aiohttp.ClientSession() as http:
        yield Caller(cluster, http)


async def granted_within(caller: Caller, node: str, seconds: float) -> dict[str, Any]:
    """Ask until granted, as a client does that is told `no_leader` or `held`."""
    async with asyncio.timeout(seconds):
        while True:
            status, body = await caller.acquire(node, ttl_ms=20_000, wait_ms=1_000)
            if status == 200:
                return body


async def test_one_caller_gets_token_1_and_the_next_is_told_that_it_is_held(caller: Caller) -> None:
    status, grant = await caller.acquire("n1", ttl_ms=10_000)
    assert (status, grant["token"], grant["fence"]) == (200, 1, 1)
    status, problem = await caller.acquire("n2", ttl_ms=10_000)
    assert (status, problem["code"]) == (409, "held")
    assert problem["holders"][0]["token"] == 1
    assert grant["session"] not in str(problem)


async def test_a_waiting_acquire_is_granted_at_the_release_and_a_dead_holder_frees_the_key(
    caller: Caller,
) -> None:
    """The second grant follows the release; the third follows the end of a lease that nobody renewed."""
    _, first = await caller.acquire("n1", ttl_ms=20_000)
    waiting = asyncio.ensure_future(caller.acquire("n2", ttl_ms=1_000, wait_ms=20_000))
    await caller.until_waiting("n3")
    assert await caller.release("n3", first) == 200
    status, second = await waiting
    assert (status, second["token"]) == (200, 2)
    assert second["previous"] == {"token": 1, "ended": "released"}
    status, third = await caller.acquire("n3", ttl_ms=1_000, wait_ms=20_000)
    assert (status, third["token"]) == (200, 3)
    assert third["previous"] == {"token": 2, "ended": "expired"}


async def test_kill_minus_9_of_the_leader_costs_one_election(caller: Caller) -> None:
    """The next grant comes within three seconds through either surviving node, with a higher token; the dead node comes back."""
    leader = await caller.leader()
    _, before = await caller.acquire(leader, ttl_ms=20_000)
    assert await caller.release(leader, before) == 200
    await caller.cluster.kill(leader)
    token = before["token"]
    for survivor in caller.cluster.running:
        grant = await granted_within(caller, survivor, FAILOVER_SECONDS_MAX)
        assert grant["token"] > token
        token = grant["token"]
        assert await caller.release(survivor, grant) == 200
    await caller.cluster.start(leader)
    grant = await granted_within(caller, leader, FAILOVER_SECONDS_MAX)
    assert grant["token"] > token


async def test_held_locks_survive_the_death_of_all_nodes(caller: Caller) -> None:
    """All three are killed and started again: the lock is still held, and tokens go on rising."""
    _, grant = await caller.acquire("n1", ttl_ms=60_000)
    for name in caller.cluster.names:
        await caller.cluster.kill(name)
    await caller.cluster.start(*caller.cluster.names)
    holders = await caller.holders("n2")
    assert [holder["token"] for holder in holders] == [grant["token"]]
    assert holders[0]["remaining_ms"] > 50_000
    status, _ = await caller.acquire("n3", ttl_ms=10_000)
    assert status == 409
    assert await caller.release("n3", grant) == 200
    status, second = await caller.acquire("n1", ttl_ms=10_000)
    assert status == 200
    assert second["token"] > grant["token"]


async def test_a_caller_that_disconnects_while_waiting_never_gets_the_lock(caller: Caller) -> None:
    _, grant = await caller.acquire("n1", ttl_ms=20_000)
    waiting = asyncio.ensure_future(caller.acquire("n2", ttl_ms=20_000, wait_ms=20_000))
    await caller.until_waiting("n1")
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    async with asyncio.timeout(5):
        while await caller.waiters("n1"):
            pass  # each round is a linearizable read over the network
    assert await caller.release("n1", grant) == 200
    assert await caller.holders("n3") == []


async def test_a_node_that_is_killed_while_a_caller_waits_leaves_no_unknown_lock(
    caller: Caller,
) -> None:
    """time 0: a caller waits at a follower; time 1: the follower is killed; time 2: the holder releases; time 3: whatever the
    waiter was granted ends with its lease, or is withdrawn when its node is back."""
    leader = await caller.leader()
    follower = next(name for name in caller.cluster.names if name != leader)
    _, grant = await caller.acquire(leader, ttl_ms=20_000)
    waiting = asyncio.ensure_future(caller.acquire(follower, ttl_ms=1_000, wait_ms=20_000))
    await caller.until_waiting(leader)
    await caller.cluster.kill(follower)
    await asyncio.gather(waiting, return_exceptions=True)
    assert await caller.release(leader, grant) == 200
    async with asyncio.timeout(5):
        while await caller.holders(leader):
            pass  # each round is a linearizable read over the network
