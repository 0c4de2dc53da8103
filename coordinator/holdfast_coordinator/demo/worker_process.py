"""A worker process from the director's side: started with its two socket pairs, spoken to, stopped, woken, ended.

The rule: a process that was started here is ended here, by its own id, whatever state it is in (SIGKILL also ends a stopped one).
It knows the words of the link and not what they mean for the queue.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final, Self

from holdfast_coordinator.demo import link

if TYPE_CHECKING:
    from pathlib import Path

END_WITHIN_SECONDS: Final = 5.0
"""A worker that was told that the queue has ended closes its session and goes; after this it is killed."""


class WorkerProcess:
    """One running worker."""

    def __init__(
        self,
        name: str,
        process: asyncio.subprocess.Process,
        tasks: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        gate: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self.name = name
        self._process = process
        self._tasks = tasks
        self._gate = gate

    @classmethod
    async def start(cls, settings: link.WorkerSettings, log: Path) -> Self:
        """Start a worker; what it prints goes to the end of `log`."""
        link_ours, link_theirs = socket.socketpair()
        gate_ours, gate_theirs = socket.socketpair()
        numbers = (link_theirs.fileno(), gate_theirs.fileno())
        with log.open("ab") as output, link_theirs, gate_theirs:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "holdfast_coordinator.demo.worker", *map(str, numbers)),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=numbers,
                start_new_session=True,  # Ctrl-C goes to the director, who then ends everything in order
            )
        try:
            tasks = await asyncio.open_connection(sock=link_ours, limit=link.LINE_BYTES_MAX)
            gate = await asyncio.open_connection(sock=gate_ours, limit=link.LINE_BYTES_MAX)
            worker = cls(settings.worker, process, tasks, gate)
            await worker.answer({"settings": asdict(settings)})
        except BaseException:  # a cancellation too: nobody else knows of this process yet
            process.kill()
            await process.wait()
            raise
        return worker

    @property
    def pid(self) -> int:
        return self._process.pid

    async def next_request(self) -> dict[str, Any]:
        """Return what the worker asks or reports next. Raises `link.LinkClosed` when it has gone."""
        return await link.receive(self._tasks[0])

    async def answer(self, body: dict[str, Any]) -> None:
        """Answer a request. Raises `link.LinkClosed`."""
        await link.send(self._tasks[1], body)

    async def next_at_gate(self) -> dict[str, Any]:
        """Return the write that waits at the gate next. Raises `link.LinkClosed` when the worker has gone."""
        return await link.receive(self._gate[0])

    async def open_gate(self) -> None:
        """Let the write go on (a stopped worker does so when it is woken). Raises `link.LinkClosed`."""
        await link.send(self._gate[1], {"go": True})

    def freeze(self) -> None:
        """SIGSTOP: not one instruction more until `wake`."""
        self._process.send_signal(signal.SIGSTOP)

    def wake(self) -> None:
        """SIGCONT."""
        self._process.send_signal(signal.SIGCONT)

    async def finish(self) -> None:
        """Wait a little for the process to go by itself, then kill it."""
        try:
            await asyncio.wait_for(self._process.wait(), END_WITHIN_SECONDS)
        except TimeoutError:
            await self.kill()
        self._close()

    async def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        with contextlib.suppress(ProcessLookupError):  # gone already: what was asked for
            self._process.kill()
        await self._process.wait()
        self._close()

    def _close(self) -> None:
        for _, writer in (self._tasks, self._gate):
            writer.close()
