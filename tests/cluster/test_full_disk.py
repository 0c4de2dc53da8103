"""D24: a disk that is full ends one node, with a sentence, and nothing that was acknowledged is lost."""

from __future__ import annotations

import asyncio
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import aiohttp
import pytest

from holdfast_coordinator.local_cluster import LocalCluster

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(90)]

DISK_BYTES = 6 << 20
"""Room for one reservation of the journal (4 MiB) and a little more, but not for the next."""
KEYS, KEY_CHARS = 64, 500
"""About 32 kB an acquire, so that it takes some hundred of them."""


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own for node n3."""
    where = tmp_path / "data" / "n3"
    where.mkdir(parents=True)
    options = f"size={DISK_BYTES},mode=700"
    mounted = subprocess.run(  # noqa: S603 - a fixed command
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(where)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"no file system can be mounted here: {mounted.stderr.decode().strip()}")
    yield tmp_path
    subprocess.run(["umount", str(where)], check=True)  # noqa: S603, S607


async def acquire(http: aiohttp.ClientSession, url: str, number: int) -> int:
    """Take many long keys at once; the token."""
    keys = [f"{number}/{place}/".ljust(KEY_CHARS, "x") for place in range(KEYS)]
    body = {"keys": keys, "ttl_ms": 60_000}
    async with asyncio.timeout(20):
        while True:
            async with http.post(f"{url}/v1/locks/acquire", json=body) as response:
                answer = await response.json()
                if response.status == 200:
                    release = {"token": answer["token"], "session": answer["session"]}
                    async with http.post(f"{url}/v1/locks/release", json=release) as released:
                        await released.read()
                    return int(answer["token"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can mount a small file system")
async def test_the_node_stops_with_exit_code_1_and_the_others_go_on(small_disk: Path) -> None:
    """time 0: the journal of n3 needs more space than there is; time 1: n3 says so and ends, as an error and not by a signal;
    time 2: the others grant as before."""
    async with LocalCluster(small_disk) as cluster, aiohttp.ClientSession() as http:
        ending = asyncio.ensure_future(cluster.ended("n3"))
        number = token = 0
        while not ending.done():
            number += 1
            assert number < 400, "the disk should be full by now"
            newer = await acquire(http, cluster.url("n1"), number)
            assert newer > token
            token = newer
        assert await ending == 1
        assert "No space left on device" in cluster.log("n3")
        assert "Mend the disk" in cluster.log("n3")
        assert await acquire(http, cluster.url("n2"), number + 1) > token
