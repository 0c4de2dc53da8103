"""The data directories of an earlier version, taken over by real processes, upgraded node by node under load."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from pathlib import Path
from signal import Signals
from typing import Any

import aiohttp
import kept
import pytest

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster
from holdfast_coordinator.machine.levels import HIGHEST

pytestmark = [pytest.mark.cluster, pytest.mark.slow, pytest.mark.timeout(240)]

WITHIN_SECONDS = 60.0


class Kept(LocalCluster):
    """The cluster of the kept directories: its name is in its files."""

    def _config(self) -> str:
        return "\n".join(["cluster: kept", *super()._config().splitlines()[1:]]) + "\n"

    def hold_at(self, level: int | None) -> None:
        """For the processes that are started from now on."""
        self._settings = "" if level is None else f"format_level_max: {level}"
        self.config_path.write_text(self._config())


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while not condition():  # noqa: ASYNC110 - other processes decide
            await asyncio.sleep(0.05)


class Work:
    """Takes and releases one lock after the other, and notes each token."""

    def __init__(self, client: holdfast.AsyncClient) -> None:
        self._client = client
        self.tokens: list[int] = []

    async def go_on(self) -> None:
        while True:
            try:
                async with self._client.lock("worked", wait=5) as grant:
                    self.tokens.append(grant.token)
            except (holdfast.NotAcquired, holdfast.Unreachable, holdfast.UnknownOutcome):
                continue  # definite, or withdrawn by the client


async def leader_of(cluster: Kept, http: aiohttp.ClientSession) -> str:
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            names = []
            for node in cluster.running:
                async with http.get(f"{cluster.url(node)}/v1/cluster") as response:
                    names.append((await response.json())["leader"])
            if names[0] is not None and len(set(names)) == 1:
                return str(names[0])
            await asyncio.sleep(0.05)


async def step_down(cluster: Kept, http: aiohttp.ClientSession, work: Work) -> None:
    """`holdfast step-down` names another leader when it returns, and work goes on."""
    before, done = await leader_of(cluster, http), len(work.tokens)
    command = ("-m", "holdfast", "step-down", "--endpoints", cluster.endpoints)
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, stdout=asyncio.subprocess.PIPE
    )
    said = (await process.communicate())[0].decode().split()
    assert process.returncode == 0
    assert said[1:] == ["leads", "now"]
    assert said[0] in set(cluster.names) - {before}
    await until(lambda: len(work.tokens) > done)


async def restart_each(cluster: Kept, http: aiohttp.ClientSession, work: Work) -> None:
    """SIGTERM to one after the other, the leader last. Work goes on in between."""
    leader = await leader_of(cluster, http)
    for name in (*(each for each in cluster.names if each != leader), leader):
        before = len(work.tokens)
        await cluster.kill(name, Signals.SIGTERM)
        await cluster.start(name)
        await until(lambda before=before: len(work.tokens) > before)
    assert '"leads_no_more": true' in cluster.log(leader)
    assert '"leads_no_more": false' not in cluster.log(leader)


async def test_the_directories_of_level_1_are_upgraded_node_by_node_under_load(
    tmp_path: Path,
) -> None:
    """time 0: three nodes that know level 1 only go on where the first version stopped: its locks are held;
    time 1: each is restarted with SIGTERM, to know the next level too; a leader hands over before it stops;
    time 2: the level rises on all; the locks of the first version are still held, and its session can release them;
    time 3: a node that goes back is refused, with a sentence, and the others go on."""
    told = kept.read_json(1, "cluster.json")
    kept.unpack_directories(1, tmp_path)
    cluster = Kept(tmp_path, settings="format_level_max: 1")
    lost: list[object] = []
    async with (
        cluster,
        aiohttp.ClientSession() as http,
        holdfast.connect(cluster.endpoints, ttl=30.0, on_lost=lost.append) as client,
    ):
        await check_held(cluster, http, told)
        async with client.lock("held through it all") as grant:
            work = Work(client)
            working = asyncio.ensure_future(work.go_on())
            await until(lambda: bool(work.tokens))
            assert min(work.tokens) > max(told["held"].values()), "tokens go on where they were"
            await step_down(cluster, http, work)
            cluster.hold_at(None)
            await restart_each(cluster, http, work)
            raised = f'"format_level": {HIGHEST}'
            await until(lambda: all(raised in cluster.log(name) for name in cluster.names))
            before = len(work.tokens)
            await until(lambda: len(work.tokens) > before)
            await check_refused(cluster, "n3")
            assert grant.remaining() > 0
            working.cancel()
            await asyncio.gather(working, return_exceptions=True)
        assert lost == []
        assert work.tokens == sorted(set(work.tokens))
        await check_held(cluster, http, told)
        await release(cluster, http, told)


async def check_held(cluster: Kept, http: aiohttp.ClientSession, told: dict[str, Any]) -> None:
    """What the first version granted, to the token."""
    url = f"{cluster.url('n1')}/v1/locks?prefix=kept/&limit=1000"
    async with http.get(url) as response:
        locks = (await response.json())["locks"]
    held = {lock["key"]: lock["holders"][0]["token"] for lock in locks}
    assert held == told["held"]
    notes = {lock["key"]: lock["checkpoint"]["value"] for lock in locks if lock["checkpoint"]}
    assert notes == told["checkpoint"]


async def check_refused(cluster: Kept, name: str) -> None:
    """On the data of a level that it is not to know, a node does not start."""
    cluster.hold_at(1)
    await cluster.kill(name, Signals.SIGTERM)
    await cluster.start_unready(name)
    assert await cluster.ended(name) == 2
    last = cluster.log(name).strip().splitlines()[-1]
    assert "cannot start" in last
    assert "remove format_level_max" in last
    cluster.hold_at(None)
    await cluster.start(name)


async def release(cluster: Kept, http: aiohttp.ClientSession, told: dict[str, Any]) -> None:
    """By the session that took it, before the upgrade."""
    key, token = next(iter(told["held"].items()))
    body = {"session": told["session"], "token": token}
    async with http.post(f"{cluster.url('n2')}/v1/locks/release", json=body) as response:
        assert response.status == 200, key
