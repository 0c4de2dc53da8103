"""A cluster is backed up while it serves, goes on, is lost, and begins again from the backup."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from holdfast.fencing import Stale
from holdfast_coordinator.local_cluster import LocalCluster
from holdfast_ledger import Duplicate, Ledger

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

SAMPLE = 10
"""Of the first grants, which the backup has, and of the last, which it has not, so many are asked for again."""

WITHIN_SECONDS = 40
"""For what another process has to do on a busy machine."""


async def holdfast(*arguments: object) -> tuple[int, str]:
    """Run the command; exit code and everything it said."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast",
        *map(str, arguments),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    return process.returncode or 0, output.decode()


class Worker:
    """Collects payments, each under a lock of its own, for as long as it is told to. What it was granted is in `grants`."""

    def __init__(self, http: aiohttp.ClientSession, url: str, ledger: Ledger) -> None:
        self.grants: list[tuple[str, int]] = []
        self._http, self._url, self._ledger = http, url, ledger

    async def collect(self, number: int) -> None:
        key = f"payments/{number}"
        granted = await acquire(self._http, self._url, key)
        self._ledger.raise_floor(key, granted["fence"])
        self._capture(number, granted["fence"])
        self.grants.append((key, granted["fence"]))

    def _capture(self, number: int, fence: int) -> None:
        with contextlib.suppress(Duplicate):
            self._ledger.capture(
                f"payments/{number}",
                payment=f"p-{number}",
                customer="c",
                amount=100,
                currency="EUR",
                fence=fence,
            )


async def acquire(http: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    body = {"key": key, "ttl_ms": 2_000, "wait_ms": 10_000}
    async with asyncio.timeout(WITHIN_SECONDS):
        while True:
            async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
                answer: dict[str, Any] = await response.json()
                if response.status == 200:
                    return answer


async def until_logged(cluster: LocalCluster, name: str, words: str) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while words not in cluster.log(name):  # noqa: ASYNC110 - another process writes it
            await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def working(worker: Worker, first: int) -> AsyncIterator[None]:
    """Load, from payment `first` on; at least twenty payments were collected when the block is left."""

    async def work() -> None:
        number = first
        while True:
            await worker.collect(number)
            number += 1

    began = len(worker.grants)
    task = asyncio.ensure_future(work())
    try:
        yield
        async with asyncio.timeout(WITHIN_SECONDS):
            while len(worker.grants) < began + 20:  # noqa: ASYNC110 - nodes and a ledger decide when
                await asyncio.sleep(0.02)
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def test_a_restored_cluster_serves_and_only_what_is_new_is_accepted(tmp_path: Path) -> None:
    """time 0: a backup under load; time 1: the cluster goes on; time 2: it is lost; time 3: the backup is restored, and the cluster
    serves; time 4: the ledger takes what is new and refuses what is old; time 5: a node of the old cluster comes back: in vain."""
    file = tmp_path / "the.backup"
    async with (
        LocalCluster(tmp_path / "cluster") as cluster,
        aiohttp.ClientSession() as http,
    ):
        with Ledger(f"sqlite:///{tmp_path / 'ledger.db'}") as ledger:
            worker = Worker(http, cluster.url("n2"), ledger)
            held = await acquire_for_long(http, cluster.url("n1"), "held")
            async with working(worker, 0):
                status, said = await holdfast("backup", "--endpoints", cluster.endpoints, file)
            assert (status, "is whole" in said) == (0, True), said
            assert file.stat().st_mode & 0o077 == 0
            async with working(worker, 1_000):
                status, said = await holdfast(
                    "restore", file, "--holds", "keep", "--config", cluster.config_path
                )
            assert (status, "somebody answers at" in said) == (1, True), said
            old, paid = worker.grants[:SAMPLE] + worker.grants[-SAMPLE:], len(ledger.orders())

            await begin_again(cluster, file)

            kept = await holders(http, cluster.url("n1"), "held")
            assert [each["token"] for each in kept] == [held["token"]]
            worker.grants.clear()
            for key, _ in old:
                await worker.collect(int(key.split("/")[1]))
            await worker.collect(5_000)
            assert min(fence for _, fence in worker.grants) > max(fence for _, fence in old)
            assert len(ledger.orders()) == paid + 1, (
                "what was paid after the backup is not paid again"
            )
            for key, fence in old:
                with pytest.raises(Stale):
                    ledger.raise_floor(key, fence)
            ledger.check_balanced()

            # A snapshot of what began with one: the restored cluster can be backed up, and restored, like any other.
            again = tmp_path / "again.backup"
            status, said = await holdfast(
                "backup", "--endpoints", cluster.endpoints, "--json", again
            )
            assert status == 0, said
            assert json.loads(said)["incarnation"] == 1

            await cluster.kill("n3")
            config = cluster.config_path.read_text()
            cluster.config_path.write_text(config.replace("incarnation: 1\n", ""))
            shutil.rmtree(cluster.data_dir("n3"))
            shutil.copytree(tmp_path / "old" / "n3", cluster.data_dir("n3"))
            await cluster.start_unready("n3")
            await until_logged(cluster, "n3", "another cluster")
            async with http.get(f"{cluster.url('n3')}/readyz") as response:
                assert response.status == 503
            await worker.collect(6_000)


async def acquire_for_long(http: aiohttp.ClientSession, url: str, key: str) -> dict[str, Any]:
    body = {"key": key, "ttl_ms": 3_600_000}
    async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
        assert response.status == 200
        answer: dict[str, Any] = await response.json()
        return answer


async def holders(http: aiohttp.ClientSession, url: str, key: str) -> list[dict[str, Any]]:
    async with http.get(f"{url}/v1/locks", params={"key": key}) as response:
        found: list[dict[str, Any]] = (await response.json())["holders"]
        return found


async def begin_again(cluster: LocalCluster, file: Path) -> None:
    """What an operator does: stop all, put the old directories away, raise the incarnation, restore node by node, start."""
    for name in cluster.names:
        await cluster.kill(name, signal.SIGKILL)
    data = cluster.data_dir("n1").parent
    data.rename(cluster.directory.parent / "old")
    config = cluster.config_path
    config.write_text(config.read_text() + "incarnation: 1\n")
    hashes = set()
    for name in cluster.names:
        options = ("--holds", "keep", "--config", config, "--node", name, "--json")
        status, said = await holdfast("restore", file, *options)
        assert status == 0, said
        hashes.add(json.loads(said)["sha256"])
    assert len(hashes) == 1
    await cluster.start(*cluster.names)
