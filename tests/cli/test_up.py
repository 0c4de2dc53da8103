"""`holdfast up` with real node processes: one start of a cluster, and what a person does with it."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from holdfast_coordinator.local_cluster import free_ports

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

STALE_WRITER = Path(__file__).parents[2] / "docs" / "stale_writer.py"
WITHIN_SECONDS = 50
"""Three interpreters on a busy machine; only a broken test waits this long."""

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(120)]


class Up:
    """A running `holdfast up --json`."""

    def __init__(self, folder: Path) -> None:
        ports = free_ports(6)
        nodes = [
            f"  - {{name: n{i + 1}, http: '127.0.0.1:{ports[i]}', raft: '127.0.0.1:{ports[i + 3]}'}}"
            for i in range(3)
        ]
        self.config = folder / "cluster.yml"
        self.config.write_text("\n".join(["cluster: up", "data_dir: ./data", "nodes:", *nodes]))
        self.endpoints = ",".join(f"http://127.0.0.1:{port}" for port in ports[:3])
        self.pids: dict[str, int] = {}
        self._process: asyncio.subprocess.Process | None = None

    async def start(self) -> None:
        self._process = await holdfast("up", "--json", "--config", str(self.config))

    async def until(self, **wanted: str) -> dict[str, Any]:
        """The next event that has these values."""
        assert self._process is not None
        assert self._process.stdout is not None
        async with asyncio.timeout(WITHIN_SECONDS):
            while True:
                event: dict[str, Any] = json.loads(await self._process.stdout.readline())
                if event["event"] == "started":
                    self.pids[event["node"]] = event["pid"]
                if all(event.get(name) == value for name, value in wanted.items()):
                    return event

    async def stop(self) -> int:
        assert self._process is not None
        with contextlib.suppress(ProcessLookupError):  # it has ended: a failed test
            self._process.send_signal(signal.SIGINT)
        async with asyncio.timeout(WITHIN_SECONDS):
            await self._process.communicate()
        assert self._process.returncode is not None
        return self._process.returncode


async def holdfast(*arguments: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "holdfast",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.DEVNULL,
    )


async def output_of(*words: str) -> tuple[int, str]:
    process = await asyncio.create_subprocess_exec(*words, stdout=asyncio.subprocess.PIPE)
    out, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode()


@contextlib.asynccontextmanager
async def cluster_up(folder: Path) -> AsyncIterator[Up]:
    up = Up(folder)
    await up.start()
    try:
        yield up
    finally:
        await up.stop()


async def test_a_cluster_is_started_used_hurt_and_stopped(tmp_path: Path) -> None:
    """Ready, a stale writer is refused, a lock around a command, a second `up` refuses, a killed node comes back, Ctrl-C."""
    async with cluster_up(tmp_path) as up:
        await up.until(event="all_ready")

        code, told = await output_of(sys.executable, str(STALE_WRITER), up.endpoints)
        assert code == 0
        assert "wakes up, writes, and is refused: stale" in told

        script = "echo token $HOLDFAST_TOKEN; exit 3"
        command = (sys.executable, "-m", "holdfast", "lock", "--endpoints", up.endpoints)
        assert await output_of(*command, "-n", "k", "--", "sh", "-c", script) == (3, "token 3\n")

        second = await holdfast("up", "--config", str(up.config))
        await second.communicate()
        assert second.returncode == 1

        killed = up.pids["n2"]
        os.kill(killed, signal.SIGKILL)
        died = await up.until(event="died", node="n2")
        assert (died["pid"], died["how"]) == (killed, "signal 9 (SIGKILL)")
        await up.until(event="ready", node="n2")
        assert up.pids["n2"] != killed

        assert await up.stop() == 0
        for pid in up.pids.values():
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
