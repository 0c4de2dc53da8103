"""A machine dies under load, and its node comes back on another one, at another address, while the cluster serves."""

from __future__ import annotations

import asyncio
import contextlib
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import holdfast
from holdfast_coordinator.local_cluster import LocalCluster

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(300)]

WITHIN_SECONDS = 60
"""For what another process has to do on a busy machine."""


async def holdfast_command(*arguments: object) -> tuple[int, str]:
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


@contextlib.asynccontextmanager
async def load(client: holdfast.AsyncClient) -> AsyncIterator[list[int]]:
    """Somebody who takes and gives back locks all the time; the tokens, in the order of the grants."""
    tokens: list[int] = []

    async def work() -> None:
        while True:
            async with client.lock(f"load/{len(tokens) % 7}", wait=WITHIN_SECONDS) as grant:
                tokens.append(grant.token)

    task = asyncio.ensure_future(work())
    try:
        yield tokens
        assert not task.done(), "nothing was ever refused"
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def more_than(tokens: list[int], count: int) -> None:
    async with asyncio.timeout(WITHIN_SECONDS):
        while len(tokens) <= count:  # noqa: ASYNC110 - nodes decide when
            await asyncio.sleep(0.02)


async def test_a_node_moves_to_another_machine_and_no_lock_is_lost(tmp_path: Path) -> None:
    """time 0: n3's machine dies; time 1: every machine gets the new file, and the command begins; time 2: n3 starts at its new
    address, with an empty directory; time 3: it has caught up; time 4: n1 dies, and n2 and n3 are a majority."""
    lost: list[str] = []
    async with (
        LocalCluster(tmp_path) as cluster,
        holdfast.connect(cluster.endpoints, ttl=20, owner="operator") as client,
        client.lock("held", on_lost=lambda _: lost.append("held")) as held,
        load(client) as tokens,
    ):
        command = ("replace-node", "n3", "--config", cluster.config_path, "--wait", WITHIN_SECONDS)
        cluster.move("n3", epoch=1)
        status, said = await holdfast_command(*command)
        assert (status, "is connected with n3" in said) == (1, True), said
        # The address that was written is not used yet: n3 runs at the old one, and dies there.
        await cluster.kill("n3")
        shutil.rmtree(cluster.data_dir("n3"))

        replacing = asyncio.ensure_future(holdfast_command(*command))
        before = len(tokens)
        await more_than(tokens, before + 20)
        await cluster.start_unready("n3")
        status, said = await replacing
        assert (status, "n3 has caught up" in said) == (0, True), said
        status, said = await holdfast_command(*command)
        assert (status, "nothing to do" in said) == (0, True), said

        await cluster.kill("n1")
        before = len(tokens)
        await more_than(tokens, before + 20)
        assert tokens == sorted(set(tokens)), "tokens rise, across all of it"
        assert lost == []
        assert (await client.read_lock("held")).holders[0].token == held.token
