"""What happened, as three real processes tell it: a watcher that outlives the node it watched, and one trail on all of them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

SECONDS_MAX = 20.0
"""For one election and what follows it, with room for a busy machine."""


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[LocalCluster]:
    async with LocalCluster(tmp_path) as cluster:
        yield cluster


@pytest.fixture
async def http() -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession() as http:
        yield http


async def _acquired(http: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    """Granted, after as many calls as it takes while there is no leader."""
    while True:
        body = {"key": key, "ttl_ms": 60_000}
        async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
            if response.status == 200:
                grant: dict[str, Any] = await response.json()
                return grant


async def _follow(
    http: aiohttp.ClientSession, url: str, after: int, seen: asyncio.Queue[str]
) -> None:
    """Put the ids of the events that follow into `seen`, first that of `at`, until the connection ends."""
    headers = {"Last-Event-ID": str(after)}
    async with http.get(f"{url}/v1/events", headers=headers) as response:
        assert response.status == 200
        event = ""
        while line := (await response.content.readline()).decode():
            if line != "\n":
                event += line
                continue
            seen.put_nowait(event.split("\n", 1)[0].removeprefix("id: "))
            event = ""


async def test_a_watcher_goes_on_with_another_node_when_its_own_is_killed(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    """Every revision once and in order, across kill -9 of the node that it watched: the leader."""
    urls = {name: cluster.url(name) for name in cluster.names}
    await _acquired(http, urls["n2"], "k/0")
    async with http.get(f"{urls['n2']}/v1/cluster") as response:
        leader = (await response.json())["leader"]
    other = next(name for name in cluster.names if name != leader)
    seen: asyncio.Queue[str] = asyncio.Queue()
    watching = asyncio.ensure_future(_follow(http, urls[leader], 0, seen))
    async with asyncio.timeout(SECONDS_MAX):
        await _acquired(http, urls[other], "k/1")
        assert [await seen.get() for _ in range(3)] == ["0", "1", "2"]
        await cluster.kill(leader)
        with pytest.raises(aiohttp.ClientError):
            await watching
        for number in range(2, 9):
            await _acquired(http, urls[other], f"k/{number}")
        watching = asyncio.ensure_future(_follow(http, urls[other], 2, seen))
        assert [await seen.get() for _ in range(8)] == [str(id) for id in range(2, 10)]
    watching.cancel()
    await asyncio.wait([watching])


async def test_the_trail_is_the_same_on_every_node_and_outlives_all_of_them(
    cluster: LocalCluster, http: aiohttp.ClientSession
) -> None:
    """The export of each node, byte for byte; and what was done stays done when all of them have been killed at once."""
    urls = [cluster.url(name) for name in cluster.names]
    async with asyncio.timeout(SECONDS_MAX):
        grant = await _acquired(http, urls[0], "payments/77")
    done = {"session": grant["session"], "token": 1, "result": "c-9", "retain_ms": 3_600_000}
    async with http.post(f"{urls[1]}/v1/locks/complete", json=done) as response:
        assert response.status == 200
    exports = []
    for url in urls:
        async with http.get(f"{url}/v1/history/export") as response:
            exports.append(await response.read())
    assert exports[0] == exports[1] == exports[2]
    assert exports[0].endswith(b'{"line":"end","records":2}\n')
    for name in cluster.names:
        await cluster.kill(name)
    await cluster.start(*cluster.names)
    async with asyncio.timeout(SECONDS_MAX):
        while True:
            body = {"key": "payments/77", "ttl_ms": 60_000}
            async with http.post(f"{urls[2]}/v1/locks/acquire", json=body) as response:
                problem = await response.json(content_type=None)
            if problem["code"] != "no_leader":
                break
    assert (problem["code"], problem["closed"]["result"]) == ("already_done", "c-9")
    async with http.get(f"{urls[2]}/v1/history/export") as response:
        assert await response.read() == exports[0]
