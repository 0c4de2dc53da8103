"""Server processes: started with their output in a file, waited for, and ended by their id."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from holdfast_coordinator.local_cluster import free_ports as free_ports

READY_SECONDS_MAX = 60.0
"""Three Java machines that start at once on two cores."""
STOP_SECONDS_MAX = 15.0
POLL_SECONDS = 0.05


class ServerError(Exception):
    """A server did not start; the message ends with what it wrote last."""


class Processes:
    """The processes of one server."""

    def __init__(self) -> None:
        self._running: dict[str, tuple[asyncio.subprocess.Process, Path]] = {}

    @property
    def pids(self) -> list[int]:
        return [process.pid for process, _ in self._running.values()]

    async def spawn(
        self, name: str, command: Sequence[str | Path], directory: Path, **options: Any
    ) -> None:
        """Its output goes to `directory`/`name`.log."""
        log = directory / f"{name}.log"
        with log.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *map(str, command),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C goes to the benchmark, which then ends it
                **options,
            )
        self._running[name] = (process, log)

    def send(self, name: str, number: signal.Signals) -> None:
        self._running[name][0].send_signal(number)

    async def ended(self, name: str) -> None:
        """Wait until one has ended; it may be started again then."""
        await self._running[name][0].wait()
        del self._running[name]

    async def listening(self, ports: Sequence[int]) -> None:
        """Wait until somebody answers at each of these ports of loopback."""
        for port in ports:
            await self.until(lambda port=port: _connects(port), f"port {port} does not open")

    async def until(self, is_true: Any, why: str) -> None:
        """Wait until an asynchronous condition holds. Raises ServerError."""
        for _ in range(int(READY_SECONDS_MAX / POLL_SECONDS)):
            for process, log in self._running.values():
                if process.returncode is not None:
                    raise ServerError(f"{log.stem} ended: {_tail(log)}")
            if await is_true():
                return
            await asyncio.sleep(POLL_SECONDS)
        raise ServerError(f"{why}: {[_tail(log) for _, log in self._running.values()]}")

    async def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """Ask all to end, and end whoever does not."""
        running, self._running = list(self._running.values()), {}
        for process, _ in running:
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(how)
        for process, _ in running:
            try:
                await asyncio.wait_for(process.wait(), STOP_SECONDS_MAX)
            except TimeoutError:
                process.kill()
                await process.wait()


async def _connects(port: int) -> bool:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True


def _tail(log: Path) -> str:
    return log.read_text(errors="replace")[-600:]


def free_files() -> None:
    """Ten thousand sessions are as many connections: allow as many files as the system lets us."""
    import resource

    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def is_root() -> bool:
    return os.geteuid() == 0
