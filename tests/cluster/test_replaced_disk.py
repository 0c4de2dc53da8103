"""A node loses its data directory: it is refused until an operator admits it, catches up, and counts again."""

from __future__ import annotations

import asyncio
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]


async def holdfast(*arguments: str) -> tuple[int, str]:
    """Run the command; exit code and everything it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


async def until_logged(cluster: LocalCluster, name: str, words: str) -> None:
    async with asyncio.timeout(20):
        while words not in cluster.log(name):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


async def acquire(http: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    body = {"key": key, "ttl_ms": 60_000}
    async with asyncio.timeout(10):
        while True:
            async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
                if response.status == 200:
                    grant: dict[str, Any] = await response.json()
                    return grant


async def test_an_empty_directory_is_refused_until_it_is_admitted(tmp_path: Path) -> None:
    """time 0: n3's disk is lost; time 1: it comes back empty, all refuse it, and it says why; time 2: replace-node; time 3: it has
    caught up; time 4: another node dies, and the two that are left go on granting, with higher tokens."""
    async with LocalCluster(tmp_path) as cluster, aiohttp.ClientSession() as http:
        before = await acquire(http, cluster.url("n1"), "a")
        status, said = await holdfast("replace-node", "n3", "--endpoints", cluster.endpoints)
        assert status == 1
        assert "nothing to replace" in said
        await cluster.kill("n3")
        shutil.rmtree(cluster.data_dir("n3"))
        await cluster.start_unready("n3")
        await until_logged(cluster, "n3", "refuses this node")
        assert "holdfast replace-node n3" in cluster.log("n3")
        await until_logged(cluster, "n1", "n1 refuses n3")
        async with http.get(f"{cluster.url('n3')}/readyz") as response:
            assert response.status == 503
        status, said = await holdfast("replace-node", "n9", "--endpoints", cluster.endpoints)
        assert status == 2
        assert "n1, n2, n3" in said
        others = f"{cluster.url('n1')},{cluster.url('n2')}"
        status, said = await holdfast("replace-node", "n3", "--endpoints", others)
        assert (status, said) == (
            0,
            "n3 is admitted; it catches up and becomes a voter by itself\n",
        )
        await cluster.wait_ready("n3")
        await cluster.kill("n1")
        after = await acquire(http, cluster.url("n3"), "b")
        assert after["token"] > before["token"]
        await cluster.start("n1")
        await cluster.kill("n2")
        assert (await acquire(http, cluster.url("n3"), "c"))["token"] > after["token"]


async def test_step_down_moves_the_leadership_and_sigterm_does_too(tmp_path: Path) -> None:
    """By the command, and by stopping the leader in an orderly way."""
    async with LocalCluster(tmp_path) as cluster, aiohttp.ClientSession() as http:

        async def leader() -> str:
            async with http.get(f"{cluster.url(cluster.running[0])}/v1/cluster") as response:
                return str((await response.json())["leader"])

        first = await leader()
        status, said = await holdfast("step-down", "--endpoints", cluster.endpoints)
        second = await leader()
        assert status == 0
        assert second != first
        assert said == f"{second} leads now\n"
        await cluster.kill(second, signal.SIGTERM)
        assert '"leads_no_more": true' in cluster.log(second)
        assert await leader() != second
        await acquire(http, cluster.url(cluster.running[0]), "x")
